//! Nodes while nothing comes from them: what users change on them, their silence, their removal; and deletions that
//! every node has confirmed.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::reports::change_node;
use super::roster::{KnownPod, Lost};
use super::session::change;
use super::{Shared, pods};
use crate::control::events;
use crate::control::kinds::{DAEMON_SET, NODE, POD};
use crate::control::meta;
use crate::control::nodes;
use crate::control::objects::{Event, ListOptions, ObjectError, Watcher};
use crate::control::updates::{FromNode, Grant};
use crate::error::Chain;
use crate::link::Down;
use crate::model::Uid;

/// How often silence is looked at. As upstream's `--node-monitor-period`.
const MONITOR_PERIOD: Duration = Duration::from_secs(5);
/// The pause before everything is read again after the store failed.
const RETRY: Duration = Duration::from_secs(1);

impl Shared {
    /// Takes every Node and every pod into the roster. Gives the changes of Nodes from there on.
    ///
    /// # Errors
    /// [`ObjectError::Store`] and [`ObjectError::Corrupt`].
    pub(super) async fn load(&self) -> Result<Watcher, ObjectError> {
        let list = self.objects.list(&NODE, ListOptions::default()).await?;
        for node in &list.items {
            let uid = meta::uid(node).into();
            self.roster.meet(&uid, &meta::name(node).into());
            self.roster.vouch(&uid, nodes::vouched(node));
            if nodes::lost(node, true, Timestamp::now()).is_none() {
                self.roster.was_lost(&uid);
            }
        }
        let watcher = self.objects.watch(&NODE, None, list.revision);
        for pod in self.objects.list(&POD, ListOptions::default()).await?.items {
            let node = pod["spec"]["nodeName"].as_str().and_then(|name| self.roster.uid_of(&name.into()));
            if let Some(node) = node {
                self.roster.put_pod(&node, &meta::uid(&pod).into(), KnownPod::of(&pod));
            }
        }
        Ok(watcher)
    }

    /// Follows the Nodes until the process ends.
    pub(super) async fn follow_nodes(self: Arc<Self>, mut watcher: Watcher) {
        loop {
            match watcher.next().await {
                Ok(events) => events.iter().for_each(|event| self.node_changed(event)),
                Err(_) => watcher = self.reload().await,
            }
        }
    }

    /// Changes were missed: every connected node is told its whole intent again.
    async fn reload(&self) -> Watcher {
        loop {
            let again = async {
                let watcher = self.load().await?;
                let list = self.objects.list(&NODE, ListOptions::default()).await?;
                list.items.iter().for_each(|node| self.say_intent(node));
                Ok::<_, ObjectError>(watcher)
            };
            match again.await {
                Ok(watcher) => return watcher,
                Err(error) => tracing::error!(error = %Chain(&error), "the nodes cannot be read"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    fn node_changed(&self, event: &Event) {
        let Some(node) = parsed(&event.object) else { return };
        let uid = Uid::from(meta::uid(&node));
        if event.deleted {
            // Its agent is told by the tombstone, whenever it connects; its pods are cleared up behind it.
            self.roster.part(&uid);
            return;
        }
        let before = event.previous.as_ref().and_then(|previous| parsed(previous));
        self.roster.meet(&uid, &meta::name(&node).into());
        self.roster.vouch(&uid, nodes::vouched(&node));
        if before.is_some_and(|before| nodes::intent(&before) != nodes::intent(&node)) {
            self.say_intent(&node);
        }
    }

    fn say_intent(&self, node: &Value) {
        let position = *self.objects.position().borrow();
        self.roster.say(&meta::uid(node).into(), Down::Node(change(position, nodes::intent(node))));
    }

    /// Looks at silent nodes and at confirmed deletions, from time to time, until the process ends.
    pub(super) async fn monitor(self: Arc<Self>) {
        let mut ticks = tokio::time::interval_at(Instant::now() + MONITOR_PERIOD, MONITOR_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let done = async {
                self.mark_lost_nodes().await?;
                self.drop_confirmed_deletions().await
            };
            if let Err(error) = done.await {
                tracing::error!(error = %Chain(&error), "the nodes are not looked after");
            }
        }
    }

    pub(super) async fn mark_lost_nodes(&self) -> Result<(), ObjectError> {
        let (lost, all) = self.roster.lost();
        let off = lost.iter().filter(|lost| lost.off).count();
        let doubt = nodes::suspects_itself(lost.len() - off, all - off);
        if self.roster.doubts(doubt) {
            self.tell_updates(FromNode::Doubt(doubt)).await;
        }
        if doubt && lost.iter().any(|lost| lost.marked.is_none()) {
            tracing::warn!(lost = lost.len(), all, "most nodes are silent; control may be the one that is cut off");
        }
        for node in &lost {
            // What was written off a while ago stays so.
            let taint = !doubt || node.off;
            if node.marked != Some(taint) {
                self.mark_lost(node, taint).await?;
            }
        }
        Ok(())
    }

    /// Source: kubernetes v1.36 `pkg/controller/nodelifecycle/node_lifecycle_controller.go`, `monitorNodeHealth`.
    async fn mark_lost(&self, node: &Lost, taint: bool) -> Result<(), ObjectError> {
        let now = Timestamp::now();
        change_node(&self.objects, &node.uid, &node.name, |object| nodes::lost(object, taint, now)).await?;
        let pods = self.roster.mark(&node.uid, taint);
        if node.marked.is_some() {
            return Ok(());
        }
        tracing::warn!(node = %node.name, "a node is not heard of any more");
        for (uid, pod) in pods {
            let of_this = |object: &&Value| meta::uid(object) == uid.as_str();
            let change = |object: Option<&Value>| pods::not_ready(object.filter(of_this)?, now);
            self.objects.report(&POD, &pod.key.namespace, &pod.key.name, change).await?;
        }
        events::write(&self.objects, &events::node_not_ready(&node.name, &node.uid, now)).await
    }

    pub(super) async fn drop_confirmed_deletions(&self) -> Result<(), ObjectError> {
        let desired = self.desired();
        let sets = desired.tombstones.values().filter(|one| one.kind == DAEMON_SET.kind);
        let seq = self.roster.confirmed_by_all(desired.position.era);
        let confirmed: Vec<_> = sets.filter(|one| one.seq <= seq).collect();
        self.objects.bury(&confirmed).await
    }

    /// Passes permits on. One for a session that is over is void; the next hello does not name it.
    pub(super) async fn pass_on(self: Arc<Self>, mut grants_rx: mpsc::Receiver<Grant>) {
        while let Some(Grant { node, session, permit }) = grants_rx.recv().await {
            let number = permit.number.0;
            if !self.roster.say_within(&node, session, Down::Permit(permit)) {
                tracing::info!(%node, number, "a permit did not reach its node");
            }
        }
    }
}

fn parsed(json: &[u8]) -> Option<Value> {
    serde_json::from_slice(json).inspect_err(|error| tracing::error!(%error, "a Node in the store cannot be read")).ok()
}
