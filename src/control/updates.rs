//! What becomes of DaemonSets across the fleet: revisions, status, permits. Kubernetes' DaemonSet controller, without the
//! part that places pods: nodes do that.
//!
//! One task follows nodes, pods and DaemonSets, keeps what it needs of them in memory ([`view`]), and after each change
//! works out for the DaemonSets concerned: their history, their status, and which nodes may move to the newest revision.
//! Each of these is a pure function; what they answer is written through [`Objects`]. Sessions tell it which nodes are
//! connected and what they ask ([`FromNode`]), and pass on the permits it grants.
//!
//! Nothing here is remembered that the store and the nodes do not know: it may be dropped and begun anew at any time.

mod history;
mod status;
mod view;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;
use tokio::sync::mpsc;

use super::kinds::{CONTROLLER_REVISION, DAEMON_SET, Kind, NODE, POD};
use super::meta;
use super::objects::{Event, Expired, ListOptions, ObjectError, Objects, PermitRecord, Watcher};
use crate::api::daemonset::leading_number;
use crate::api::revision;
use crate::error::Chain;
use crate::link::Permit;
use crate::model::{PermitNumber, RevisionHash, Uid};
use crate::rollout::{self, Budget, Share};
use crate::store::Revision;
use view::View;

/// How long changes are gathered before they are worked out: a fleet's reports come in flocks.
const GATHER: Duration = Duration::from_millis(20);
/// The pause before everything is begun anew after the store failed.
const RETRY: Duration = Duration::from_secs(1);

/// What sessions tell.
#[derive(Debug)]
pub enum FromNode {
    /// A session began that is in step. Permits that were granted and are not among `taken` are void.
    Opened {
        /// `metadata.uid` of the Node.
        node: Uid,
        /// What its ledger says it acted upon.
        taken: Vec<PermitNumber>,
    },
    /// The session ended.
    Closed {
        /// `metadata.uid` of the Node.
        node: Uid,
    },
    /// The node prepared a revision and asks for a permit.
    Asked {
        /// `metadata.uid` of the Node.
        node: Uid,
        /// `metadata.uid` of the DaemonSet.
        daemonset: Uid,
        /// What it prepared.
        revision: RevisionHash,
    },
}

/// A permit for one node, to be passed on in its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// `metadata.uid` of the Node.
    pub node: Uid,
    /// What it may do.
    pub permit: Permit,
}

/// Runs until `from_nodes` is closed.
pub async fn run(objects: Objects, mut from_nodes: mpsc::Receiver<FromNode>, grants_tx: mpsc::Sender<Grant>) {
    let mut connected = HashMap::new();
    loop {
        match Updates::begin(&objects, &grants_tx, std::mem::take(&mut connected)).await {
            Ok(mut updates) => {
                let Err(error) = updates.follow(&mut from_nodes).await else { return };
                connected = updates.connected;
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

/// What a connected node asks for: a revision of each DaemonSet it has prepared.
type Asks = HashMap<Uid, RevisionHash>;

struct Updates<'a> {
    objects: &'a Objects,
    grants_tx: &'a mpsc::Sender<Grant>,
    view: View,
    watchers: [Watcher; 3],
    /// The nodes with a session, and what they ask for.
    connected: HashMap<Uid, Asks>,
    permits: HashMap<(Uid, Uid), PermitRecord>,
    /// DaemonSets that something has changed for.
    concerned: HashSet<Uid>,
    /// DaemonSets whose status changes by itself.
    due: BTreeSet<(Timestamp, Uid)>,
}

impl<'a> Updates<'a> {
    /// Reads everything there is and follows it from there.
    async fn begin(
        objects: &'a Objects,
        grants_tx: &'a mpsc::Sender<Grant>,
        connected: HashMap<Uid, Asks>,
    ) -> Result<Self, UpdateError> {
        let mut view = View::default();
        let (nodes, nodes_at) = read(objects, &NODE).await?;
        nodes.iter().for_each(|node| drop(view.put_node(node)));
        let (sets, sets_at) = read(objects, &DAEMON_SET).await?;
        let concerned = sets.into_iter().flat_map(|set| put_set(&mut view, set)).collect();
        let (pods, pods_at) = read(objects, &POD).await?;
        pods.iter().for_each(|pod| drop(view.put_pod(&pod_key(pod), pod)));
        let permits = objects.permits().await?;
        Ok(Self {
            objects,
            grants_tx,
            view,
            watchers: [
                objects.watch(&NODE, None, nodes_at),
                objects.watch(&DAEMON_SET, None, sets_at),
                objects.watch(&POD, None, pods_at),
            ],
            connected,
            permits: permits
                .into_iter()
                .map(|permit| ((permit.daemonset.clone(), permit.node.clone()), permit))
                .collect(),
            concerned,
            due: BTreeSet::new(),
        })
    }

    /// Works changes out as they come, until `from_nodes` is closed.
    async fn follow(&mut self, from_nodes: &mut mpsc::Receiver<FromNode>) -> Result<(), UpdateError> {
        loop {
            for uid in std::mem::take(&mut self.concerned) {
                self.work_out(&uid).await?;
            }
            let due = self.due.first().map(|(at, _)| wait_until(*at));
            let [nodes, sets, pods] = &mut self.watchers;
            // Every arm is cancel-safe: watchers and receivers give whole items, the timer only waits.
            tokio::select! {
                events = nodes.next() => self.nodes_changed(&events?),
                events = sets.next() => self.sets_changed(&events?),
                events = pods.next() => self.pods_changed(&events?),
                told = from_nodes.recv() => {
                    let Some(told) = told else { return Ok(()) };
                    self.told(told).await?;
                    continue;
                }
                () = maybe(due) => self.time_passed(),
            }
            tokio::time::sleep(GATHER).await;
            let [nodes, sets, pods] = &mut self.watchers;
            let (nodes, sets, pods) = (nodes.ready()?, sets.ready()?, pods.ready()?);
            self.nodes_changed(&nodes);
            self.sets_changed(&sets);
            self.pods_changed(&pods);
        }
    }

    fn nodes_changed(&mut self, events: &[std::sync::Arc<Event>]) {
        for event in events {
            let Some(object) = parsed(event) else { continue };
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
            let concerned = if event.deleted { self.view.remove_pod(&key) } else { self.view.put_pod(&key, &object) };
            self.concerned.extend(concerned);
        }
    }

    fn time_passed(&mut self) {
        let now = Timestamp::now();
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
            FromNode::Opened { node, taken } => {
                let void: Vec<_> = self
                    .permits
                    .values()
                    .filter(|permit| permit.node == node && !taken.contains(&permit.number))
                    .cloned()
                    .collect();
                self.objects.drop_permits(&void).await?;
                self.permits.retain(|_, permit| !void.contains(permit));
                self.concerned.extend(void.into_iter().map(|permit| permit.daemonset));
                self.connected.insert(node, Asks::new());
            }
            FromNode::Closed { node } => {
                let asks = self.connected.remove(&node).unwrap_or_default();
                self.concerned.extend(asks.into_keys());
            }
            FromNode::Asked { node, daemonset, revision } => {
                if let Some(asks) = self.connected.get_mut(&node) {
                    asks.insert(daemonset.clone(), revision);
                    self.concerned.insert(daemonset);
                }
            }
        }
        Ok(())
    }

    /// Brings one DaemonSet's history, status and permits up to date.
    async fn work_out(&mut self, uid: &Uid) -> Result<(), UpdateError> {
        self.due.retain(|(_, due)| due != uid);
        let Some(set) = self.view.set(uid).cloned() else {
            let dropped: Vec<_> = self.permits.values().filter(|permit| permit.daemonset == *uid).cloned().collect();
            self.objects.drop_permits(&dropped).await?;
            self.permits.retain(|_, permit| permit.daemonset != *uid);
            return Ok(());
        };
        self.keep_history(uid, &set).await?;
        let set = as_admitted(self.objects, uid, set).await?;
        let outlook = status::outlook(&self.view, uid, &set, Timestamp::now());
        self.due.extend(outlook.next.map(|at| (at, uid.clone())));
        self.write_status(&set.object, &outlook.status).await?;
        self.grant(uid, &set).await
    }

    async fn keep_history(&mut self, uid: &Uid, set: &view::Set) -> Result<(), UpdateError> {
        let namespace = set.object.metadata.namespace.as_deref().unwrap_or_default();
        let own = |record: &Value| meta::controller(record).as_ref() == Some(uid);
        let options = ListOptions {
            namespace: Some(namespace),
            matches: &own,
            limit: 0,
            next: None,
            at: None,
            not_before: Revision(0),
        };
        let records = self.objects.list(&CONTROLLER_REVISION, options).await?.items;
        let changes = history::changes(&set.object, &set.revision, &records, &self.view.revisions_in_use(uid));
        if let Some(record) = changes.create {
            let name = meta::name(&record).to_owned();
            self.objects.report(&CONTROLLER_REVISION, namespace, &name, |_| Some(record.clone())).await?;
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

    /// Grants what the budget allows now.
    async fn grant(&mut self, uid: &Uid, set: &view::Set) -> Result<(), UpdateError> {
        let spec = set.object.spec.as_ref();
        let min_ready = spec.and_then(|spec| spec.min_ready_seconds).and_then(|seconds| u64::try_from(seconds).ok());
        let min_ready = Duration::from_secs(min_ready.unwrap_or(0));
        let (nodes, states): (Vec<_>, Vec<_>) = self
            .view
            .nodes()
            .filter(|node| status::runs(node, set))
            .map(|node| (node.uid.clone(), self.rollout_node(uid, set, node, min_ready)))
            .unzip();
        for index in rollout::grant(budget(&set.object), &states) {
            let node = &nodes[index];
            let permit = self.objects.grant(uid, node, &set.revision).await?;
            let (number, revision) = (permit.number, permit.revision.clone());
            self.permits.insert((uid.clone(), node.clone()), permit);
            let permit = Permit { number, daemonset: uid.clone(), revision, void: false };
            // A session that is gone by now voids the permit when the node comes back.
            drop(self.grants_tx.send(Grant { node: node.clone(), permit }).await);
        }
        Ok(())
    }

    fn rollout_node(&self, uid: &Uid, set: &view::Set, node: &view::Node, min_ready: Duration) -> rollout::Node {
        let asks = self.connected.get(&node.uid);
        let permit = self.permits.get(&(uid.clone(), node.uid.clone()));
        let pod = self.view.pods(uid, node.name.as_str()).iter().find(|pod| !pod.over);
        let now = Timestamp::now();
        let available = pod.and_then(|pod| status::available_at(pod, min_ready)).is_some_and(|at| at <= now);
        rollout::Node {
            connected: asks.is_some(),
            permitted: permit.is_some_and(|permit| permit.revision == set.revision),
            asks: asks.and_then(|asks| asks.get(uid)).is_some_and(|asked| *asked == set.revision),
            newest: pod.is_some_and(|pod| pod.revision == set.revision),
            available,
        }
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
            let template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
            let collisions = set.status.as_ref().and_then(|status| status.collision_count);
            let hash = revision::hash(&template, collisions);
            view.put_set(set, hash)
        }
        Err(error) => {
            tracing::error!(%error, "a DaemonSet in the store cannot be read");
            Vec::new()
        }
    }
}

fn pod_key(pod: &Value) -> String {
    format!("{}/{}", meta::namespace(pod), meta::name(pod))
}

/// The budget the user set: `maxSurge` if it is more than nothing, or else `maxUnavailable`.
fn budget(set: &DaemonSet) -> Budget {
    let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    let update = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    match update.and_then(|update| update.max_surge.as_ref()).filter(|surge| leading_number(surge) != 0) {
        Some(surge) => Budget::Surge(share(surge)),
        None => Budget::Unavailable(
            update.and_then(|update| update.max_unavailable.as_ref()).map_or(Share::Nodes(1), share),
        ),
    }
}

/// A value that was validated is a share; anything else counts as the default, one node.
fn share(written: &IntOrString) -> Share {
    match written {
        IntOrString::Int(nodes) => Share::Nodes(u32::try_from(*nodes).unwrap_or(1)),
        IntOrString::String(percent) => percent.trim_end_matches('%').parse().map_or(Share::Nodes(1), Share::Percent),
    }
}

/// Waits until a moment of the wall clock, looked at again after a while in case somebody sets it.
async fn wait_until(at: Timestamp) {
    let left = Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default();
    tokio::time::sleep(left.min(Duration::from_secs(60))).await;
}

async fn maybe(future: Option<impl Future<Output = ()>>) {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
