//! The node's roster: the one task that owns what this node has to have.
//!
//! It owns the ledger's contents and the workers. Everything that changes them comes in as an [`Input`]; a pass then brings
//! contents, disk, workers and control into line:
//!
//! ```text
//! inputs ─▶ intake ─▶ judge, place (pure) ─▶ commit to disk ─▶ workers, reports, acknowledgements
//! ```
//!
//! Nothing is done, said or acknowledged before it is on disk. A pass never fails: a disk that refuses is tried again, and
//! until then no pod is made or ended; those on disk are cared for.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::Shared;
use super::blocking::blocking;
use super::desired::{Desired, Folder};
use super::eviction::Eviction;
use super::measure::Measures;
use super::node;
use super::objects::{self, Book};
use super::posted::PostedPods;
use super::session::Session;
use super::status::Status;
use super::tokens::Tokens;
use super::watchdog::Watchdog;
use super::worker::{self, Assignment, Charge, FromPod, PodView, WorkerHandle};
use crate::cri::RuntimeFeatures;
use crate::error::Chain;
use crate::fit::{self, Abilities, Holder, Rejection, Room};
use crate::host::ledger::{Contents, Identity, Ledger, LedgerError, PodRecord};
use crate::link::client::{Lost, Tunnels};
use crate::link::tls::Credentials;
use crate::link::{Down, EventReport, Hello, NodeReport, Reason, Up};
use crate::model::{Finished, Measure, Moment, ObjectKey, RevisionHash, SandboxId, Source, Uid, Usage};
use crate::placement::Failures;
use crate::plan::events;
use crate::plan::pressure::Conditions;
use crate::podspec::{CgroupDriver, HostFacts, Pod, QosClass};

mod intake;
mod judge;
mod report;
mod status;

/// The next pass, for what this one has made possible.
const SOON: Duration = Duration::from_millis(1);
/// The pause before a commit that failed is tried again.
const COMMIT_RETRY: Duration = Duration::from_secs(5);
/// How long a disk may take a commit before users are told. The loop waits for it all the same; workers go on.
const COMMIT_SLOW: Duration = Duration::from_secs(10);
/// How many inputs one pass takes in before it looks at them.
const INPUTS_PER_PASS: usize = 64;

/// Everything that can change what this node has to have.
#[derive(Debug)]
pub(super) enum Input {
    /// The folder of manifests was read.
    Folder(Result<Folder, String>),
    /// Control said something.
    Down(Box<Down>),
    /// The link is about to dial and wants to know what to say first.
    Hello(oneshot::Sender<Hello>),
    /// The session ended, or none could be begun.
    Disconnected(Lost),
    /// A worker said something.
    Pod(FromPod),
    /// The runtime was looked at as a whole.
    Listed {
        /// The pods of ours that are in it.
        found: HashSet<Uid>,
        /// The sandboxes of those among them of which nothing lives any more.
        over: HashMap<Uid, Vec<SandboxId>>,
    },
    /// A revision was prepared, or cannot be.
    Prepared {
        /// The DaemonSet.
        daemonset: Uid,
        /// The revision.
        revision: RevisionHash,
        /// What came of it.
        outcome: Result<(), Reason>,
    },
    /// The node's own state changed.
    Node(NodeState),
    /// A pod has to go.
    Evict(Eviction),
    /// Which images are needed here? The answer is references as the runtime is asked for them.
    NeededImages(oneshot::Sender<BTreeSet<String>>),
    /// What was to be measured, or why that cannot be told.
    Measured(Measure, Result<Usage, String>),
    /// Something to tell the users.
    Event(EventReport),
    /// Somebody set the host's wall clock.
    ClockSet,
    /// Somebody at the host asks how this node is.
    Status(oneshot::Sender<Status>),
}

/// The node as its agent sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodeState {
    /// For control.
    pub(super) report: NodeReport,
    /// Condition `Ready` is true.
    pub(super) ready: bool,
    /// What the runtime can do.
    pub(super) features: RuntimeFeatures,
    /// What it runs out of.
    pub(super) pressure: Conditions,
}

/// How far this node has come with a revision it does not run yet. Dropping it ends the task.
#[derive(Debug)]
struct Preparation {
    revision: RevisionHash,
    /// `None` while it goes on.
    outcome: Option<Result<(), Reason>>,
    /// When one that failed is tried again.
    retry_at: Option<Moment>,
    task: JoinHandle<()>,
}

impl Drop for Preparation {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The roster's end of the link.
pub(super) struct LinkEnd {
    pub(super) up_tx: mpsc::Sender<Up>,
    pub(super) tunnels: Tunnels,
}

pub(super) struct Roster {
    shared: Arc<Shared>,
    identity: Identity,
    /// Away while a thread writes it.
    ledger: Option<Ledger>,
    contents: Contents,
    /// The contents differ from what is on disk.
    dirty: bool,
    /// The pods on disk, but for those that are gone since: what workers are told of.
    saved: BTreeMap<Uid, PodRecord>,
    new_blobs: Vec<Bytes>,
    /// Said once the contents are on disk.
    after_commit: Vec<Up>,
    /// Answered once the contents are on disk.
    hello_tx: Option<oneshot::Sender<Hello>>,
    /// When a commit that failed is tried again.
    commit_retry_at: Option<Moment>,
    desired: Desired,
    posted: PostedPods,
    objects: Book,
    tokens: Tokens,
    /// The DaemonSets that are to have a pod here, by the last verdicts: what their pods need is asked for.
    staying: BTreeSet<Uid>,
    /// What pods may see of objects and tokens may have changed.
    unpublished: bool,
    session: Session,
    /// Since when control cannot be reached; the start of this agent counts. None in a session.
    cut_off_since: Option<Moment>,
    /// Why there is no session, as long as there is none.
    link_lost: Option<String>,
    tunnels: Option<Tunnels>,
    measures: Measures,
    /// This node was removed from its fleet.
    removed: bool,
    node: Option<NodeState>,
    /// Pods of ours that were in the runtime when it was first looked at; none before.
    found: Option<HashSet<Uid>>,
    /// What pods were resolved by.
    host: Arc<HostFacts>,
    /// Pods came or went, or what they may use changed.
    restaff: bool,
    /// What Burstable pods asked for when the cgroups were last weighed, in millicores.
    burstable_millis: Option<u64>,
    workers: HashMap<Uid, WorkerHandle>,
    /// Those that hold something of the node, and are not to be removed.
    admitted: watch::Sender<Vec<Arc<Pod>>>,
    /// Pods that were sent away, until they have come to their end, and how long that may take.
    evicted: HashMap<Uid, (Finished, Duration)>,
    views: HashMap<Uid, PodView>,
    /// Pods of the agent before this one that were not looked at yet: what control knows of them stands.
    unseen: HashSet<Uid>,
    preparations: HashMap<Uid, Preparation>,
    /// Pods that tolerate a taint for a while: since when they are under it, and until when they stay.
    tainted: HashMap<Uid, (Moment, Moment)>,
    /// By DaemonSet: pods of it that failed here.
    failures: HashMap<Uid, Failures>,
    watchdog: Watchdog,
    /// Leads back here, for workers and preparations.
    inputs_tx: mpsc::Sender<Input>,
}

impl Roster {
    /// A roster of what the ledger holds. `link` leads to control, if there is one; `inputs_tx` leads back here.
    pub(super) fn new(
        shared: Arc<Shared>,
        identity: Identity,
        (ledger, contents): (Ledger, Contents),
        link: Option<LinkEnd>,
        inputs_tx: mpsc::Sender<Input>,
    ) -> Self {
        let now = shared.clock.now();
        let (up_tx, tunnels) = link.map(|link| (link.up_tx, link.tunnels)).unzip();
        let mut roster = Self {
            tunnels,
            host: shared.host(),
            measures: Measures::default(),
            shared,
            identity,
            ledger: Some(ledger),
            saved: contents.pods.clone(),
            unseen: contents.pods.keys().cloned().collect(),
            removed: contents.removed,
            contents,
            dirty: true,
            new_blobs: Vec::new(),
            after_commit: Vec::new(),
            hello_tx: None,
            commit_retry_at: None,
            desired: Desired::default(),
            posted: PostedPods::default(),
            objects: Book::default(),
            tokens: Tokens::default(),
            staying: BTreeSet::new(),
            unpublished: true,
            session: Session::new(up_tx),
            cut_off_since: Some(now),
            link_lost: None,
            node: None,
            found: None,
            restaff: true,
            burstable_millis: None,
            workers: HashMap::new(),
            admitted: watch::Sender::default(),
            evicted: HashMap::new(),
            views: HashMap::new(),
            preparations: HashMap::new(),
            tainted: HashMap::new(),
            failures: HashMap::new(),
            watchdog: Watchdog::new(),
            inputs_tx,
        };
        roster.load_bundles();
        roster.load_objects();
        roster.shared.devices.retain(|pod| roster.contents.pods.contains_key(pod));
        roster.publish();
        roster
    }

    /// The pods that hold something of the node and are not to be removed, as they come and go. One that was sent away is
    /// there until its containers have ended.
    pub(super) fn admitted(&self) -> watch::Receiver<Vec<Arc<Pod>>> {
        self.admitted.subscribe()
    }

    /// Decodes what is on disk. What was lost costs its pods' next incarnation, nothing that runs.
    fn load_bundles(&mut self) {
        let Some(ledger) = &self.ledger else { return };
        for hash in self.contents.bundles() {
            let error = match ledger.blob(&hash) {
                Ok(content) => self.desired.loaded(hash.clone(), &content).err().map(|reasons| join(&reasons)),
                Err(error) => Some(Chain(&error).to_string()),
            };
            if let Some(error) = error {
                tracing::error!(%hash, error, "a revision in the ledger cannot be used");
            }
        }
    }

    /// Reads objects and tokens from disk. A pod whose objects were lost waits until they have come again, if it is not
    /// running already.
    fn load_objects(&mut self) {
        let Some(ledger) = &self.ledger else { return };
        for record in &self.contents.objects {
            let content = ledger.blob(&record.blob).map_err(|error| Chain(&error).to_string());
            if let Err(error) = content.and_then(|content| self.objects.loaded(record, &content)) {
                tracing::error!(kind = %record.kind, key = %record.key, error, "an object in the ledger cannot be used");
            }
        }
        let (now, wall) = (self.shared.clock.now(), self.shared.clock.wall());
        for record in &self.contents.tokens {
            match ledger.blob(&record.blob) {
                Ok(text) => self.tokens.loaded(record, &text, now, wall),
                Err(error) => {
                    tracing::error!(pod = %record.pod, error = %Chain(&error), "a token in the ledger is lost");
                }
            }
        }
    }

    /// Runs until `inputs` is closed. The workers stop with it; their pods run on.
    pub(super) async fn run(mut self, mut inputs: mpsc::Receiver<Input>) {
        loop {
            self.pass().await;
            let wake_at = self.wake_at();
            // Every arm is cancel-safe: `recv` takes one whole item, the others only wait.
            tokio::select! {
                input = inputs.recv() => {
                    let Some(input) = input else { return };
                    self.take(input);
                    for _ in 1..INPUTS_PER_PASS {
                        let Ok(input) = inputs.try_recv() else { break };
                        self.take(input);
                    }
                }
                () = self.session.writable() => {}
                () = self.shared.clock.sleep_until(wake_at) => {}
            }
        }
    }

    /// Brings everything into line with what was taken in.
    async fn pass(&mut self) {
        self.judge_and_place();
        self.look_after_objects();
        if !self.dirty || self.commit().await {
            self.tell();
            self.publish();
            self.leave().await;
        }
        // Pods that have to make way are told so at once; each is sent away but once.
        while std::mem::take(&mut self.restaff) {
            self.staff();
        }
        self.session.flush();
        self.watchdog.beat(self.shared.clock.now());
    }

    /// Removes the credentials of a fleet that has removed this node. Not before the last daemon has ended: an agent without
    /// them has to join before it does anything, and one that is started again meanwhile has to end the rest.
    async fn leave(&mut self) {
        let is_left = || {
            self.contents.daemonsets.values().any(|set| set.source == Source::Link)
                || self.contents.pods.values().any(|record| record.ending.is_some())
        };
        if !self.contents.removed || is_left() {
            return;
        }
        let state_dir = self.shared.settings.state_dir.clone();
        match blocking(move || Credentials::remove(&state_dir)).await {
            Ok(()) => {
                self.contents.removed = false;
                self.dirty = true;
                self.commit().await;
            }
            Err(error) => tracing::error!(error = %Chain(&error), "the credentials of the fleet stay here"),
        }
    }

    /// Lets go of the link of a fleet that has removed this node and knows of it: the link ends.
    fn part(&mut self) {
        tracing::warn!("control is not dialled any more; to join again, start the agent with a join token");
        self.session = Session::new(None);
        self.tunnels = None;
        self.link_lost =
            Some("this node was removed from its fleet; to join again, start the agent with a join token".to_owned());
    }

    /// Drops objects and tokens that are not needed any more, and asks for the objects that are.
    fn look_after_objects(&mut self) {
        let needed = objects::needed(&self.contents, &self.desired, &self.staying);
        self.dirty |= self.objects.tidy(&mut self.contents, &self.desired, &needed);
        self.dirty |= self.tokens.tidy(&mut self.contents);
        if !self.session.has_asked_for(&needed.iter().map(objects::reference).collect()) {
            self.say_needs();
        }
    }

    /// Lets pods see the objects and tokens that are on disk now.
    fn publish(&mut self) {
        if !std::mem::take(&mut self.unpublished) {
            return;
        }
        let mut objects = self.objects.published(&self.contents);
        self.tokens.publish(&self.contents, &self.desired, &mut objects);
        let changed = self.shared.objects.send_if_modified(|known| {
            let changes = **known != objects;
            if changes {
                *known = Arc::new(objects);
            }
            changes
        });
        if changed {
            // What could not be prepared may have lacked one of them.
            let soon = self.shared.clock.now() + SOON;
            let failed = self.preparations.values_mut().filter(|preparation| preparation.retry_at.is_some());
            failed.for_each(|preparation| preparation.retry_at = Some(soon));
        }
    }

    /// Says what waited for the disk.
    fn tell(&mut self) {
        for up in std::mem::take(&mut self.after_commit) {
            self.session.say(up);
        }
        if let Some(hello_tx) = self.hello_tx.take() {
            self.session.greeted();
            // The link may have given up waiting; it asks again.
            drop(hello_tx.send(self.hello()));
        }
        self.report();
        self.ask_for_tokens();
    }

    /// Asks for the tokens that are due. Control gives none for a pod it has not heard of.
    fn ask_for_tokens(&mut self) {
        if self.session.is_open() {
            let (is_reported, now) = (|pod: &Uid| self.session.has_reported(pod), self.shared.clock.now());
            for request in self.tokens.due(&self.contents, &self.desired, is_reported, now) {
                self.session.say(Up::TokenRequest(request));
            }
        }
    }

    /// When the next pass is due if nothing comes in. What is due already was seen to, or there is no need for it any more.
    fn wake_at(&self) -> Option<Moment> {
        let now = self.shared.clock.now();
        let retries = self.preparations.values().filter_map(|preparation| preparation.retry_at);
        let failed = |pod: &&PodRecord| pod.ending.is_none() && pod.finished.as_ref().is_some_and(|end| !end.succeeded);
        let failed = self.contents.pods.values().filter(failed).filter_map(|pod| pod.daemonset.as_ref());
        let retries = retries.chain(failed.filter_map(|set| self.rests_until(set)));
        let tokens = self.session.is_open().then(|| self.tokens.next_due(&self.contents, &self.desired)).flatten();
        let fallbacks = self.contents.daemonsets.values().filter_map(|set| self.goes_back_at(set));
        retries
            .chain(fallbacks)
            .chain(self.tainted.values().map(|(_, until)| *until))
            .chain(self.commit_retry_at)
            .chain(tokens)
            .filter(|due| *due > now)
            .chain(self.watchdog.due())
            .min()
    }

    /// Writes the contents to disk; says whether they are there.
    async fn commit(&mut self) -> bool {
        let now = self.shared.clock.now();
        if self.commit_retry_at.is_some_and(|due| due > now) {
            return false;
        }
        self.contents.last_seen = self.contents.last_seen.max(Some(self.shared.clock.wall()));
        match self.write().await {
            Ok(()) => {
                self.commit_retry_at = None;
                self.note_writable(None);
                self.dirty = false;
                self.saved.clone_from(&self.contents.pods);
                self.restaff = true;
                self.unpublished = true;
                self.new_blobs.clear();
                self.desired.forget(&self.contents);
                true
            }
            Err(error) => {
                let error = Chain(&error).to_string();
                tracing::error!(error, "the ledger cannot be written; no pod is made or ended until it can");
                self.commit_retry_at = Some(now + COMMIT_RETRY);
                self.note_writable(Some(error));
                false
            }
        }
    }

    /// Says on the Node that the ledger cannot be written, or that it can again.
    fn note_writable(&mut self, why: Option<String>) {
        let turned = self.shared.unwritable.borrow().is_some() != why.is_some();
        if turned {
            let node = ObjectKey::new("", self.identity.name.as_str());
            let event = events::ledger_unwritable(why.as_deref());
            self.session.event(self.shared.event_report("Node", &node, &self.identity.uid, event));
        }
        self.shared.unwritable.send_if_modified(|known| {
            let changes = *known != why;
            *known = why;
            changes
        });
    }

    async fn write(&mut self) -> Result<(), LedgerError> {
        let mut ledger = self.ledger.take().expect("it is only away within this function");
        let (snapshot, blobs) = (self.contents.snapshot(), self.new_blobs.clone());
        let mut writing = pin!(blocking(move || {
            let result = ledger.commit(&snapshot, &blobs);
            (ledger, result)
        }));
        let (ledger, result) = match tokio::time::timeout(COMMIT_SLOW, &mut writing).await {
            Ok(written) => written,
            Err(_) => {
                let why = format!("the disk has not taken it for {COMMIT_SLOW:?}");
                // The node's own next report waits with everything else that comes in.
                let now = self.shared.clock.wall();
                let report = self.node.as_ref().and_then(|node| node::with_unwritable(&node.report, &why, now));
                report.into_iter().for_each(|report| self.session.say(Up::Node(report)));
                self.note_writable(Some(why));
                self.session.flush();
                writing.await
            }
        };
        self.ledger = Some(ledger);
        result
    }

    /// Gives every pod of the ledger its worker and tells each what is wanted.
    fn staff(&mut self) {
        // Before the runtime was looked at, nobody knows which pods hold resources already.
        let Some(found) = &self.found else { return };
        let host = self.shared.host();
        let is_another = !Arc::ptr_eq(&host, &self.host);
        let holds = |record: &PodRecord| {
            let uid = &record.key.uid;
            self.workers.get(uid).map_or_else(|| found.contains(uid), WorkerHandle::was_admitted)
        };
        // Pods that hold what they use keep it; the others are admitted by priority, and of equals in the order they were made.
        let records = self.saved.values().map(|record| (holds(record), record.clone()));
        let mut records: Vec<_> =
            records.filter_map(|(holds, record)| Some((holds, self.pod(&record, is_another)?, record))).collect();
        records
            .sort_by_key(|(holds, pod, record)| (!holds, (!holds).then_some(Reverse(pod.priority)), record.created_at));
        if is_another {
            (self.host, self.burstable_millis) = (host.clone(), None);
        }
        let mut admitted: Vec<Arc<Pod>> = Vec::new();
        // They get what others leave.
        let mut expected: Vec<Arc<Pod>> = Vec::new();
        for (holds, pod, record) in records {
            let evicted = self.evicted.get(&record.key.uid).filter(|_| record.finished.is_none());
            let assignment = if let Some(ending) = &record.ending {
                Assignment::Stop(ending.clone())
            } else if let Some((finished, grace)) = evicted {
                Assignment::Finish(finished.clone(), *grace)
            } else if holds || record.finished.is_some() {
                Assignment::Run
            } else if let Err(rejection) = self.can_take_on(&pod) {
                Assignment::Wait(rejection)
            } else {
                let beside: Vec<_> = admitted.iter().chain(&expected).cloned().collect();
                match fit::room(&pod, &self.holders(&beside), &host.allocatable) {
                    Room::There => Assignment::Run,
                    Room::Taken(rejection) => Assignment::Wait(rejection),
                    Room::Expected(victims, rejection) => {
                        let victims: Vec<_> = victims.into_iter().map(|victim| victim.key.uid.clone()).collect();
                        victims.iter().for_each(|victim| self.preempt(victim, &pod));
                        expected.push(pod.clone());
                        Assignment::Wait(rejection)
                    }
                }
            };
            // One that has come to its end holds nothing any more.
            if !matches!(assignment, Assignment::Wait(_)) && record.finished.is_none() {
                admitted.push(pod.clone());
            }
            self.assign(record, pod, assignment);
        }
        self.weigh(&admitted);
        admitted.retain(|pod| self.saved.get(&pod.key.uid).is_some_and(|record| record.ending.is_none()));
        self.admitted.send_if_modified(|known| {
            let changes = *known != admitted;
            *known = admitted;
            changes
        });
    }

    /// Whether the node can do what a pod asks for, and is not itself short of what it would take. A node that has run out of
    /// something takes on nothing that may wait.
    ///
    /// Source: kubernetes v1.36 `pkg/kubelet/eviction/eviction_manager.go`, `Admit`.
    fn can_take_on(&self, pod: &Pod) -> Result<(), Rejection> {
        fit::supports(pod, self.abilities())?;
        let pressure = self.node.as_ref().map(|node| node.pressure).unwrap_or_default();
        pressure.admit(pod).map_err(|message| Rejection { reason: "Evicted".to_owned(), message })
    }

    /// Pods that have their place.
    fn holders<'a>(&self, pods: &'a [Arc<Pod>]) -> Vec<Holder<'a>> {
        let holder = |pod: &'a Arc<Pod>| {
            let record = self.contents.pods.get(&pod.key.uid)?;
            let leaves = record.ending.is_some() || self.evicted.contains_key(&pod.key.uid);
            Some(Holder { pod, created_at: record.created_at, leaves })
        };
        pods.iter().filter_map(holder).collect()
    }

    /// What this node can do for pods, as far as it knows by now.
    fn abilities(&self) -> Abilities<'_> {
        let features = self.node.as_ref().map(|node| &node.features);
        Abilities {
            allowed_unsafe_sysctls: &self.shared.settings.allowed_unsafe_sysctls,
            kernel: self.shared.facts.kernel(),
            apparmor: self.shared.facts.apparmor,
            supplemental_groups_policy: features.is_some_and(|features| features.supplemental_groups_policy),
        }
    }

    /// Gives the classes of pods their share of the processors, when what Burstable pods ask for has changed.
    fn weigh(&mut self, admitted: &[Arc<Pod>]) {
        let host = &self.host;
        let cpu = |amounts: &BTreeMap<String, u64>| amounts.get("cpu").copied().unwrap_or(0);
        let burstable = admitted.iter().filter(|pod| pod.qos == QosClass::Burstable);
        let asked = burstable.map(|pod| cpu(&pod.requests.resources)).sum();
        if self.burstable_millis.replace(asked) == Some(asked) {
            return;
        }
        let all = cpu(&host.allocatable);
        if host.cgroup_driver == CgroupDriver::Systemd {
            let shared = self.shared.clone();
            tokio::spawn(async move { shared.slices.weigh_classes(all, asked).await });
            return;
        }
        let (cgroups, root) = (self.shared.cgroups.clone(), host.cgroup_root.clone());
        tokio::spawn(blocking(move || {
            if let Err(error) = cgroups.weigh_classes(&root, all, asked) {
                tracing::warn!(error = %Chain(&error), "the cgroups of the pods' classes cannot be weighed");
            }
        }));
    }

    /// The pod of a record, with what was added to it since; none if its revision was lost and it has to be left as it is.
    /// `anew` has it resolved again though nothing of it changed.
    fn pod(&self, record: &PodRecord, anew: bool) -> Option<Arc<Pod>> {
        let worker = self.workers.get(&record.key.uid);
        let known = worker.map(|worker| worker.pod.clone());
        if !anew && worker.is_some_and(|worker| is_made_alike(&worker.record, record)) {
            return known;
        }
        let Some(bundle) = self.desired.bundle(&record.revision.bundle) else { return known };
        match self.shared.resolve(record, bundle) {
            Ok(pod) => known.filter(|known| **known == pod).or_else(|| Some(Arc::new(pod))),
            Err(error) => {
                tracing::error!(pod = %record.key, error, "the pod cannot be resolved");
                known
            }
        }
    }

    fn assign(&mut self, record: PodRecord, pod: Arc<Pod>, assignment: Assignment) {
        let uid = pod.key.uid.clone();
        let charge = Charge { pod, min_ready: self.min_ready(&record), record };
        if let Some(worker) = self.workers.get_mut(&uid) {
            worker.assign(charge, assignment);
            return;
        }
        tracing::info!(pod = %charge.pod.key, uid = %uid, ?assignment, "pod taken on");
        let worker = worker::spawn(self.shared.clone(), charge, assignment, self.inputs_tx.clone());
        self.workers.insert(uid, worker);
    }

    /// How long a pod has to be ready: as its DaemonSet says now, whatever it was made from.
    fn min_ready(&self, record: &PodRecord) -> Duration {
        let set = record.daemonset.as_ref().and_then(|set| self.contents.daemonsets.get(set));
        let revision = set.map_or(&record.revision, |set| &set.newest);
        self.desired.bundle(&revision.bundle).map(|bundle| bundle.min_ready()).unwrap_or_default()
    }
}

/// Whether both records stand for the same pod, containers that were added and metadata included.
fn is_made_alike(a: &PodRecord, b: &PodRecord) -> bool {
    a.revision.bundle == b.revision.bundle && a.amended == b.amended && a.ephemeral_containers == b.ephemeral_containers
}

/// All that was against something, in one line.
fn join(reasons: &[Reason]) -> String {
    reasons.iter().map(|reason| reason.message.as_str()).collect::<Vec<_>>().join("; ")
}
