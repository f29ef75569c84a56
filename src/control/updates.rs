//! What becomes of DaemonSets across the fleet: revisions, status, permits. Kubernetes' DaemonSet controller, without the
//! part that places pods: nodes do that.
//!
//! One task follows nodes, pods and DaemonSets, keeps what it needs of them in memory ([`view`]), and after each change
//! works out for the DaemonSets concerned: their history, their status, and which nodes may move to the newest revision.
//! Each of these is a pure function; what they answer is written through [`Objects`]. Sessions tell it which nodes are
//! connected and what they ask ([`FromNode`]), and pass on the permits it grants. REST asks it how a rollout is
//! ([`Question`]).
//!
//! Nothing here is remembered that the store and the nodes do not know: it may be dropped and begun anew at any time.

mod clock;
mod history;
mod progress;
mod status;
mod text;
mod told;
mod view;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

pub(super) use self::history::record as history_record;
pub use self::progress::{Rollout, Row};
pub use self::text::render;

use self::clock::{Clock, Now};
use self::progress::{Granted, Progress};
use self::told::{Said, Told};
use self::view::View;
use super::events;
use super::kinds::{CONTROLLER_REVISION, DAEMON_SET, Kind, NODE, POD};
use super::meta;
use super::objects::{Event, Expired, ListOptions, ObjectError, Objects, PermitRecord, Watcher};
use crate::api::revision;
use crate::error::Chain;
use crate::link::{Permit, Reason};
use crate::model::{Incumbent, ObjectKey, PermitNumber, RevisionHash, Uid};
use crate::rollout::causes::Phase;
use crate::store::Revision;

/// How long changes are gathered before they are worked out: a fleet's reports come in flocks.
const GATHER: Duration = Duration::from_millis(20);
/// How many permits are written at once.
const GRANTED_AT_ONCE: usize = 100;
/// How much that sessions have told is taken in before it is worked out.
const TOLD_AT_ONCE: usize = 4096;
/// The pause before everything is begun anew after the store failed.
const RETRY: Duration = Duration::from_secs(1);

/// What sessions tell.
#[derive(Debug)]
pub enum FromNode {
    /// A session began that is in step. Permits that were granted and are not among `taken` are void.
    Opened {
        /// `metadata.uid` of the Node.
        node: Uid,
        /// The session's number in this process.
        session: u64,
        /// What its ledger says it acted upon.
        taken: Vec<PermitNumber>,
    },
    /// The session ended.
    Closed {
        /// `metadata.uid` of the Node.
        node: Uid,
        /// The session's number in this process.
        session: u64,
    },
    /// The node prepared a revision and asks for a permit.
    Asked {
        /// `metadata.uid` of the Node.
        node: Uid,
        /// `metadata.uid` of the DaemonSet.
        daemonset: Uid,
        /// What it prepared.
        revision: RevisionHash,
        /// What would make way for it.
        incumbent: Incumbent,
    },
    /// A permit is in the ledger of its node.
    Took {
        /// Which one.
        permit: PermitNumber,
    },
    /// The node does not take a permit, as what would make way for it is available by now. It asks again.
    Declined {
        /// `metadata.uid` of the Node.
        node: Uid,
        /// Which one.
        permit: PermitNumber,
    },
    /// A revision would not work on the node.
    Unable {
        /// `metadata.uid` of the Node.
        node: Uid,
        /// `metadata.uid` of the DaemonSet.
        daemonset: Uid,
        /// Which one.
        revision: RevisionHash,
        /// Why not.
        reason: Reason,
    },
    /// So many nodes vanished together that control may be the one that is cut off, or is not any more.
    Doubt(bool),
    /// There are records of permits that were not granted here.
    Recovered,
    /// The node went back from revisions that were never available there.
    Rejected {
        /// `metadata.uid` of the Node.
        node: Uid,
        /// `metadata.uid` of the DaemonSet.
        daemonset: Uid,
        /// All of them.
        revisions: Vec<RevisionHash>,
    },
}

/// Somebody wants to know how the rollout of a DaemonSet is.
#[derive(Debug)]
pub struct Question {
    /// `metadata.uid` of the DaemonSet.
    pub daemonset: Uid,
    /// Nothing if the DaemonSet is not known here, or not yet.
    pub answer_tx: oneshot::Sender<Option<Rollout>>,
}

/// A permit for one node, to be passed on in its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// `metadata.uid` of the Node.
    pub node: Uid,
    /// The session in which the node asked: in any other it is void.
    pub session: u64,
    /// What it may do.
    pub permit: Permit,
}

/// Runs until `from_nodes` is closed. Questions are answered as long as there are any.
pub async fn run(
    objects: Objects,
    mut from_nodes: mpsc::Receiver<FromNode>,
    mut questions_rx: mpsc::Receiver<Question>,
    grants_tx: mpsc::Sender<Grant>,
) {
    let (mut told, clock) = (Told::default(), Clock::start());
    loop {
        match Updates::begin(&objects, &grants_tx, std::mem::take(&mut told), clock).await {
            Ok(mut updates) => {
                let Err(error) = updates.follow(&mut from_nodes, &mut questions_rx).await else { return };
                told = updates.told;
                tracing::warn!(error = %Chain(&error), "updates begin anew");
            }
            Err(error) => tracing::error!(error = %Chain(&error), "updates cannot begin"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Why the task has to begin anew.
#[derive(Debug, thiserror::Error)]
enum UpdateError {
    #[error("the objects cannot be read or written")]
    Objects(#[from] ObjectError),
    #[error("changes were missed")]
    Expired(#[from] Expired),
}

/// The permits there are a record of, by DaemonSet and node.
type Permits = HashMap<(Uid, Uid), PermitRecord>;

async fn permits(objects: &Objects) -> Result<Permits, ObjectError> {
    let all = objects.permits().await?.into_iter();
    Ok(all.map(|permit| ((permit.daemonset.clone(), permit.node.clone()), permit)).collect())
}

/// What the records of a DaemonSet's history follow from: its newest revision, how many are kept, which have pods.
type Recorded = (RevisionHash, Option<i32>, BTreeSet<RevisionHash>);

struct Updates<'a> {
    objects: &'a Objects,
    grants_tx: &'a mpsc::Sender<Grant>,
    clock: Clock,
    view: View,
    watchers: [Watcher; 4],
    told: Told,
    /// What each DaemonSet's history was right for: nothing of it need be read again until that changes.
    histories: HashMap<Uid, Recorded>,
    permits: Permits,
    /// There may be permits of nodes that were removed.
    nodes_removed: bool,
    /// What became of each DaemonSet's rollout when it was looked at last, and of which revision.
    phases: HashMap<Uid, (RevisionHash, Phase)>,
    /// DaemonSets that something has changed for.
    concerned: HashSet<Uid>,
    /// DaemonSets whose status changes by itself, and when, by the steady clock.
    due: BTreeSet<(Timestamp, Uid)>,
}

impl<'a> Updates<'a> {
    /// Reads everything there is and follows it from there.
    async fn begin(
        objects: &'a Objects,
        grants_tx: &'a mpsc::Sender<Grant>,
        told: Told,
        clock: Clock,
    ) -> Result<Self, UpdateError> {
        let mut view = View::default();
        let (nodes, nodes_at) = read(objects, &NODE).await?;
        nodes.iter().for_each(|node| drop(view.put_node(node)));
        let (sets, sets_at) = read(objects, &DAEMON_SET).await?;
        let concerned = sets.into_iter().flat_map(|set| put_set(&mut view, set)).collect();
        let histories_at = objects.revision();
        let (pods, pods_at) = read(objects, &POD).await?;
        let now = clock.now();
        pods.iter().for_each(|pod| drop(view.put_pod(&pod_key(pod), pod, now)));
        Ok(Self {
            objects,
            grants_tx,
            clock,
            view,
            watchers: [
                objects.watch(&NODE, None, nodes_at),
                objects.watch(&DAEMON_SET, None, sets_at),
                objects.watch(&POD, None, pods_at),
                objects.watch(&CONTROLLER_REVISION, None, histories_at),
            ],
            told,
            histories: HashMap::new(),
            phases: HashMap::new(),
            nodes_removed: true,
            permits: permits(objects).await?,
            concerned,
            due: BTreeSet::new(),
        })
    }

    /// Works changes out as they come, until `from_nodes` is closed.
    async fn follow(
        &mut self,
        from_nodes: &mut mpsc::Receiver<FromNode>,
        questions_rx: &mut mpsc::Receiver<Question>,
    ) -> Result<(), UpdateError> {
        loop {
            self.drop_permits_of_removed().await?;
            // What is void stays so until there is no record of it any more, also if the store fails.
            self.drop_permits(self.told.void.clone()).await?;
            self.told.void.clear();
            for uid in std::mem::take(&mut self.concerned) {
                self.work_out(&uid).await?;
            }
            let due = self.due.first().map(|(at, _)| wait_until(self.clock, *at));
            let [nodes, sets, pods, histories] = &mut self.watchers;
            // Every arm is cancel-safe: watchers and receivers give whole items, the timer only waits.
            tokio::select! {
                events = nodes.next() => self.nodes_changed(&events?),
                events = sets.next() => self.sets_changed(&events?),
                events = pods.next() => self.pods_changed(&events?),
                events = histories.next() => self.histories_changed(&events?),
                told = from_nodes.recv() => {
                    let Some(told) = told else { return Ok(()) };
                    self.told(told).await?;
                    // What has gathered while the last was worked out: every round looks at the whole fleet.
                    for _ in 0..TOLD_AT_ONCE {
                        let Ok(told) = from_nodes.try_recv() else { break };
                        self.told(told).await?;
                    }
                    continue;
                }
                Some(question) = questions_rx.recv() => {
                    self.answer(question).await?;
                    continue;
                }
                () = maybe(due) => self.time_passed(),
            }
            tokio::time::sleep(GATHER).await;
            let [nodes, sets, pods, histories] = &mut self.watchers;
            let (nodes, sets, pods, histories) = (nodes.ready()?, sets.ready()?, pods.ready()?, histories.ready()?);
            self.nodes_changed(&nodes);
            self.sets_changed(&sets);
            self.pods_changed(&pods);
            self.histories_changed(&histories);
        }
    }

    fn nodes_changed(&mut self, events: &[std::sync::Arc<Event>]) {
        for event in events {
            let Some(object) = parsed(event) else { continue };
            self.nodes_removed |= event.deleted;
            let concerned =
                if event.deleted { self.view.remove_node(meta::name(&object)) } else { self.view.put_node(&object) };
            self.concerned.extend(concerned);
        }
    }

    fn sets_changed(&mut self, events: &[std::sync::Arc<Event>]) {
        for event in events {
            let Some(object) = parsed(event) else { continue };
            if event.deleted {
                self.view.remove_set(&meta::uid(&object).into());
            } else {
                // Our own writes of the status come back here; they change nothing that counts.
                self.concerned.extend(put_set(&mut self.view, object));
            }
        }
    }

    fn pods_changed(&mut self, events: &[std::sync::Arc<Event>]) {
        for event in events {
            let Some(object) = parsed(event) else { continue };
            let key = pod_key(&object);
            let now = self.clock.now();
            let concerned =
                if event.deleted { self.view.remove_pod(&key) } else { self.view.put_pod(&key, &object, now) };
            self.concerned.extend(concerned);
        }
    }

    fn histories_changed(&mut self, events: &[std::sync::Arc<Event>]) {
        let owners = events.iter().filter_map(|event| meta::controller(&parsed(event)?));
        for owner in owners {
            self.histories.remove(&owner);
            self.concerned.insert(owner);
        }
    }

    fn time_passed(&mut self) {
        let now = self.clock.now().steady;
        while let Some((at, uid)) = self.due.pop_first() {
            if at > now {
                self.due.insert((at, uid));
                return;
            }
            self.concerned.insert(uid);
        }
    }

    async fn told(&mut self, told: FromNode) -> Result<(), UpdateError> {
        match told {
            FromNode::Opened { node, session, taken } => {
                let void: Vec<_> = self.permits_of(&node).filter(|permit| !taken.contains(&permit.number)).collect();
                self.told.void.extend(void);
                self.told.opened(node, session, &taken);
            }
            FromNode::Closed { node, session } => self.concerned.extend(self.told.closed(&node, session)),
            FromNode::Asked { node, daemonset, revision, incumbent } => {
                self.take_back(&node, &daemonset, &revision);
                self.said(&node, daemonset, |said| said.asks(revision, incumbent));
            }
            FromNode::Doubt(doubt) => {
                self.told.doubt = doubt;
                self.concerned.extend(self.view.sets().cloned());
            }
            FromNode::Recovered => self.permits = permits(self.objects).await?,
            FromNode::Took { permit } => self.told.took(permit),
            FromNode::Declined { node, permit } => {
                let declined = self.permits_of(&node).find(|record| record.number == permit);
                if let Some(declined) = declined {
                    self.said(&node, declined.daemonset.clone(), Said::declines);
                    self.told.void.push(declined);
                }
            }
            FromNode::Unable { node, daemonset, revision, reason } => {
                self.said(&node, daemonset, |said| said.unable(revision, &reason));
            }
            FromNode::Rejected { node, daemonset, revisions } => {
                self.said(&node, daemonset, |said| said.rejected = revisions);
            }
        }
        Ok(())
    }

    /// A node that asks for what it took already went back from it, and a user has written it anew: it needs another permit.
    fn take_back(&mut self, node: &Uid, daemonset: &Uid, revision: &RevisionHash) {
        let place = (daemonset.clone(), node.clone());
        let is_over = |permit: &&PermitRecord| permit.revision == *revision && self.told.has_taken(permit.number);
        let over = self.permits.get(&place).filter(is_over).cloned();
        self.told.void.extend(over);
    }

    /// The permits of a node; by place, not by looking at those of all nodes: after an outage all of them open.
    fn permits_of(&self, node: &Uid) -> impl Iterator<Item = PermitRecord> {
        self.view.sets().filter_map(|set| self.permits.get(&(set.clone(), node.clone())).cloned())
    }

    /// The permits of a node go with its Node.
    async fn drop_permits_of_removed(&mut self) -> Result<(), UpdateError> {
        if !std::mem::take(&mut self.nodes_removed) {
            return Ok(());
        }
        let there: HashSet<_> = self.view.nodes().map(|node| node.uid.clone()).collect();
        let left = self.permits.values().filter(|permit| !there.contains(&permit.node)).cloned().collect();
        self.drop_permits(left).await
    }

    /// Forgets permits; their DaemonSets are concerned.
    async fn drop_permits(&mut self, void: Vec<PermitRecord>) -> Result<(), UpdateError> {
        self.objects.drop_permits(&void).await?;
        for permit in void {
            self.told.forget(permit.number);
            self.concerned.insert(permit.daemonset.clone());
            let place = (permit.daemonset, permit.node);
            if self.permits.get(&place).is_some_and(|record| record.number == permit.number) {
                self.permits.remove(&place);
            }
        }
        Ok(())
    }

    /// Takes in what a connected node says of a DaemonSet.
    fn said(&mut self, node: &Uid, daemonset: Uid, change: impl FnOnce(&mut Said)) {
        if let Some(said) = self.told.of_mut(node, &daemonset) {
            change(said);
            self.concerned.insert(daemonset);
        }
    }

    /// Brings one DaemonSet's history, status and permits up to date.
    async fn work_out(&mut self, uid: &Uid) -> Result<(), UpdateError> {
        self.due.retain(|(_, due)| due != uid);
        let Some(set) = self.view.set(uid).cloned() else {
            let left = self.permits.values().filter(|permit| permit.daemonset == *uid).cloned().collect();
            self.drop_permits(left).await?;
            self.phases.remove(uid);
            self.histories.remove(uid);
            return Ok(());
        };
        // As upstream: what it leaves is not its to look after.
        if set.object.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        self.keep_history(uid, &set).await?;
        let set = as_admitted(self.objects, uid, set).await?;
        let Now { steady: now, wall } = self.clock.now();
        if let (None, Some(phase)) = (self.phases.get(uid), progress::written(&set)) {
            self.phases.insert(uid.clone(), (set.revision.clone(), phase));
        }
        let (progress, granted) = self.look(uid, &set, now);
        let mut outlook = status::outlook(&self.view, uid, &set, now);
        let before = set.object.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        outlook.status.conditions = Some(vec![progress.condition(before, wall)]);
        self.due.extend(outlook.next.map(|at| (at, uid.clone())));
        self.write_status(&set.object, &outlook.status).await?;
        self.say(uid, &set, &progress, wall).await?;
        self.grant(uid, &set, &granted, now).await
    }

    async fn keep_history(&mut self, uid: &Uid, set: &view::Set) -> Result<(), UpdateError> {
        let limit = set.object.spec.as_ref().and_then(|spec| spec.revision_history_limit);
        let in_use = self.view.revisions_in_use(uid).into_iter().cloned().collect();
        let recorded = (set.revision.clone(), limit, in_use);
        if self.histories.get(uid) == Some(&recorded) {
            return Ok(());
        }
        let namespace = set.object.metadata.namespace.as_deref().unwrap_or_default();
        let own = |record: &Value| history::is_of(&set.object, record);
        let options = ListOptions {
            namespace: Some(namespace),
            matches: &own,
            limit: 0,
            next: None,
            at: None,
            not_before: Revision(0),
        };
        let records = self.objects.list(&CONTROLLER_REVISION, options).await?.items;
        let object = json!({"metadata": set.object.metadata});
        let adopt = |record: Option<&Value>| {
            let mut adopted = record.filter(|record| history::is_of(&set.object, record))?.clone();
            if meta::controller(&adopted).is_none() {
                meta::own(&mut adopted, &DAEMON_SET, &object);
            }
            Some(adopted)
        };
        for record in records.iter().filter(|record| meta::controller(record).is_none()) {
            self.objects.report(&CONTROLLER_REVISION, namespace, meta::name(record), adopt).await?;
        }
        let changes = history::changes(&set.object, &set.revision, &records, &self.view.revisions_in_use(uid));
        if let Some(record) = changes.create {
            let name = meta::name(&record).to_owned();
            // A DaemonSet of this name was deleted, and its records are not collected yet.
            match self.objects.get(&CONTROLLER_REVISION, namespace, &name).await {
                Ok(former) => {
                    self.objects.remove(&CONTROLLER_REVISION, namespace, &name, &meta::uid(&former).into()).await?;
                }
                Err(ObjectError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            let create = |there: Option<&Value>| there.is_none().then(|| record.clone());
            self.objects.report(&CONTROLLER_REVISION, namespace, &name, create).await?;
        }
        if let Some((name, number)) = changes.raise {
            let raise = |record: Option<&Value>| {
                let mut record = record?.clone();
                record["revision"] = number.into();
                Some(record)
            };
            self.objects.report(&CONTROLLER_REVISION, namespace, &name, raise).await?;
        }
        for (name, record, revision) in changes.remove {
            self.objects.remove(&CONTROLLER_REVISION, namespace, &name, &record).await?;
            self.objects.forget_admitted(uid, &revision).await?;
        }
        self.histories.insert(uid.clone(), recorded);
        Ok(())
    }

    async fn write_status(&mut self, set: &DaemonSet, status: &DaemonSetStatus) -> Result<(), UpdateError> {
        if set.status.as_ref() == Some(status) {
            return Ok(());
        }
        let status = serde_json::to_value(status).expect("a status is JSON: its map keys are strings");
        let metadata = &set.metadata;
        let uid = metadata.uid.as_deref().unwrap_or_default();
        let write = |object: Option<&Value>| {
            let mut object = object.filter(|object| meta::uid(object) == uid)?.clone();
            object["status"] = status.clone();
            Some(object)
        };
        let (namespace, name) =
            (metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default());
        self.objects.report(&DAEMON_SET, namespace, name, write).await?;
        Ok(())
    }

    /// Works out how the rollout is, and whom the budget allows to go on.
    fn look(&mut self, uid: &Uid, set: &view::Set, now: Timestamp) -> (Progress, Vec<Granted>) {
        let mut seats = progress::survey(&self.view, uid, set, &self.told, &self.permits, now);
        let budget = progress::budget(&set.object);
        // First, or those who only wait to be looked at would seem to be stopped.
        let granted = if self.told.doubt { Vec::new() } else { progress::granted(&mut seats, budget) };
        let progress = progress::progress(set, &seats, budget, self.was_complete(uid, set));
        let again = seats.iter().any(progress::Seat::waits_to_begin).then(|| now.checked_add(progress::PATIENCE));
        let late = seats.iter().filter_map(|seat| seat.late_at).filter(|late| *late > now).min();
        self.due.extend(again.and_then(Result::ok).into_iter().chain(late).map(|at| (at, uid.clone())));
        (progress, granted)
    }

    /// Whether the newest revision of a DaemonSet was complete at some time.
    fn was_complete(&self, uid: &Uid, set: &view::Set) -> bool {
        self.phases.get(uid).is_some_and(|(revision, phase)| *revision == set.revision && *phase == Phase::Complete)
    }

    /// Says on the DaemonSet what has become of its rollout, if that changed.
    async fn say(
        &mut self,
        uid: &Uid,
        set: &view::Set,
        progress: &Progress,
        now: Timestamp,
    ) -> Result<(), UpdateError> {
        let before = self.phases.insert(uid.clone(), (set.revision.clone(), progress.phase));
        let before = before.filter(|(revision, _)| *revision == set.revision).map(|(_, phase)| phase);
        let Some((warning, reason)) = progress.event(before) else { return Ok(()) };
        let event = events::rollout(&key(&set.object), uid, (warning, reason), &progress.message, now);
        Ok(events::write(self.objects, &event).await?)
    }

    /// Writes permits down, and passes them on.
    async fn grant(
        &mut self,
        uid: &Uid,
        set: &view::Set,
        granted: &[Granted],
        now: Timestamp,
    ) -> Result<(), UpdateError> {
        for granted in granted.chunks(GRANTED_AT_ONCE) {
            let nodes: Vec<_> = granted.iter().map(|granted| granted.node.clone()).collect();
            let records = self.objects.grant(uid, &nodes, &set.revision).await?;
            for (permit, Granted { if_unavailable, .. }) in records.into_iter().zip(granted) {
                let (number, node, revision) = (permit.number, permit.node.clone(), permit.revision.clone());
                if let Some(before) = self.permits.insert((uid.clone(), node.clone()), permit) {
                    self.told.forget(before.number);
                }
                self.told.granted(number, now);
                let (daemonset, if_unavailable) = (uid.clone(), *if_unavailable);
                let permit = Permit { number, daemonset, revision, void: false, if_unavailable };
                // The next session voids the permit of one that is gone by now.
                if let Some(session) = self.told.session(&node) {
                    drop(self.grants_tx.send(Grant { node, session, permit }).await);
                }
            }
        }
        Ok(())
    }

    /// Tells how the rollout of a DaemonSet is; nothing if it is not there, or not any more.
    async fn answer(&mut self, Question { daemonset, answer_tx }: Question) -> Result<(), UpdateError> {
        let rollout = match self.view.set(&daemonset).cloned() {
            Some(set) => {
                let set = as_admitted(self.objects, &daemonset, set).await?;
                let (told, permits) = (&self.told, &self.permits);
                let now = self.clock.now().steady;
                let seats = progress::survey(&self.view, &daemonset, &set, told, permits, now);
                let was_complete = self.was_complete(&daemonset, &set);
                Some(progress::rollout(&set, &seats, progress::budget(&set.object), was_complete))
            }
            None => None,
        };
        // Whoever asked may have gone.
        drop(answer_tx.send(rollout));
        Ok(())
    }
}

/// The DaemonSet with the template that nodes judge by, once that was admitted.
async fn as_admitted(objects: &Objects, uid: &Uid, mut set: view::Set) -> Result<view::Set, UpdateError> {
    let admitted = objects.admitted_revision(uid, &set.revision).await?;
    if let (Some(spec), Some(admitted)) = (&mut set.object.spec, admitted) {
        spec.template = admitted.template;
    }
    Ok(set)
}

/// All objects of a kind, and the revision to go on from.
async fn read(objects: &Objects, kind: &'static Kind) -> Result<(Vec<Value>, Revision), UpdateError> {
    let options =
        ListOptions { namespace: None, matches: &|_| true, limit: 0, next: None, at: None, not_before: Revision(0) };
    let list = objects.list(kind, options).await?;
    Ok((list.items, list.revision))
}

fn parsed(event: &Event) -> Option<Value> {
    serde_json::from_slice(&event.object)
        .inspect_err(|error| tracing::error!(key = event.key, %error, "an object in the store cannot be read"))
        .ok()
}

fn put_set(view: &mut View, object: Value) -> Vec<Uid> {
    match serde_json::from_value::<DaemonSet>(object) {
        Ok(set) => {
            let hash = revision::of(&set);
            view.put_set(set, hash)
        }
        Err(error) => {
            tracing::error!(%error, "a DaemonSet in the store cannot be read");
            Vec::new()
        }
    }
}

fn key(set: &DaemonSet) -> ObjectKey {
    let metadata = &set.metadata;
    ObjectKey::new(metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
}

fn pod_key(pod: &Value) -> String {
    format!("{}/{}", meta::namespace(pod), meta::name(pod))
}

/// Waits until a moment of the steady clock.
async fn wait_until(clock: Clock, at: Timestamp) {
    tokio::time::sleep(Duration::try_from(at.duration_since(clock.now().steady)).unwrap_or_default()).await;
}

async fn maybe(future: Option<impl Future<Output = ()>>) {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
