//! Recovering a lost store: nodes that control has no record of are asked what they hold, while a person has it open.
//!
//! ```text
//! stranger dials ─▶ on hold ─▶ Recount ─▶ Holdings ─▶ Recall … ─▶ account ─┐
//!                                                                         ├─▶ plan (pure) ─▶ shown ─▶ confirmed ─▶ written
//!                                                     what is here already ┘
//! ```
//!
//! In memory; a restart of control closes it. Nodes are taken on last, when all that they hold is on record.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::desired::Desired;
use super::session::{SessionEnd, say};
use super::{DOWN_QUEUE, Shared, UP_QUEUE, desired};
use crate::control::kinds::{
    CONFIG_MAP, CONTROLLER_REVISION, DAEMON_SET, Kind, NAMESPACE, NODE, POD, PRIORITY_CLASS, RUNTIME_CLASS, SECRET,
    SERVICE_ACCOUNT,
};
use crate::control::meta;
use crate::control::objects::{ListOptions, ObjectError, WriteOptions};
use crate::control::recovery::{Choice, Recovery, RecoveryError};
use crate::control::updates::FromNode;
use crate::error::Chain;
use crate::link::server::{Denied, SessionEnds};
use crate::link::tls::NodeIdentity;
use crate::link::{self, BLOB_BYTES_MAX, Down, Frame, Hello, HoldReason, Holdings, ObjectRef, RECOUNT, Reception, Up};
use crate::model::{BlobHash, ObjectKey, Uid};

mod plan;

use plan::{Account, Here, Plan, Told};

/// What one node may tell, all blobs together. No ledger holds nearly as much.
const ACCOUNT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The recovery, if it is open.
#[derive(Debug, Default)]
pub(super) struct Recoveries(Mutex<Option<Open>>);

#[derive(Debug)]
struct Open {
    accounts: HashMap<Uid, Account>,
    blobs: HashMap<BlobHash, Bytes>,
    /// What was shown last, under its number.
    shown: Option<Arc<Plan>>,
    last_number: u64,
    /// Its end ends the sessions of strangers.
    closed_tx: watch::Sender<()>,
}

impl Recoveries {
    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, change: impl FnOnce(&mut Open) -> T) -> Option<T> {
        self.lock().as_mut().map(change)
    }

    /// Takes in what a node has told so far.
    fn note(&self, node: &NodeIdentity, hello: &Hello, told: Told) {
        let account = Account { node: node.clone(), hello: hello.clone(), told };
        self.with(|open| open.accounts.insert(node.uid.clone(), account));
    }

    /// How many nodes have told everything.
    #[cfg(test)]
    pub(super) fn told(&self) -> usize {
        let is_told = |account: &&Account| matches!(account.told, Told::All(_));
        self.with(|open| open.accounts.values().filter(is_told).count()).unwrap_or(0)
    }

    fn lacks(&self, hash: &BlobHash) -> bool {
        self.with(|open| !open.blobs.contains_key(hash)).unwrap_or(false)
    }
}

impl Shared {
    /// Receives a node that control has no record of, if the recovery is open and nothing is against it.
    pub(super) async fn stranger(
        self: &Arc<Self>,
        node: &NodeIdentity,
        hello: &Hello,
    ) -> Result<Option<SessionEnds>, Denied> {
        let Some(closed_rx) = self.recoveries.with(|open| open.closed_tx.subscribe()) else { return Ok(None) };
        if self.objects.member(&node.uid).await?.is_some() || self.desired().removal(&node.uid).is_some() {
            return Ok(None);
        }
        tracing::info!(node = %node.name, "a node that control has no record of is asked what it holds");
        let (up_tx, up_rx) = mpsc::channel(UP_QUEUE);
        let (down_tx, down_rx) = mpsc::channel(DOWN_QUEUE);
        let asking = Asking { shared: self.clone(), node: node.clone(), hello: hello.clone(), up_rx, down_tx };
        tokio::spawn(asking.run(closed_rx));
        Ok(Some(SessionEnds { up_tx, down_rx }))
    }

    pub(super) async fn show_recovery(&self, choice: Choice) -> Result<Recovery, RecoveryError> {
        let here = self.here().await?;
        let mut recovery = self.recoveries.lock();
        let open = recovery.get_or_insert_with(|| {
            tracing::warn!(
                "a person opened the recovery: nodes that control has no record of are asked what they hold"
            );
            let (accounts, blobs, closed_tx) = (HashMap::new(), HashMap::new(), watch::Sender::new(()));
            Open { accounts, blobs, shown: None, last_number: 0, closed_tx }
        });
        open.last_number += 1;
        let accounts: Vec<_> = open.accounts.values().cloned().collect();
        let plan = plan::plan(open.last_number, &accounts, &open.blobs, &here, &choice, Timestamp::now());
        let shown = plan.shown.clone();
        open.shown = Some(Arc::new(plan));
        Ok(shown)
    }

    pub(super) async fn recover(&self, number: u64) -> Result<Recovery, RecoveryError> {
        let shown = self.recoveries.with(|open| open.shown.clone()).flatten();
        let plan = shown.filter(|plan| plan.shown.number == number);
        let plan = plan.ok_or(RecoveryError::NotShown { asked: number })?;
        self.rebuild(&plan).await?;
        // A node that is told otherwise would take a DaemonSet it holds for unknown.
        let is_here = |desired: &Arc<Desired>| {
            plan.sets.iter().all(|set| desired.newest(&meta::uid(&set.object).into()).is_some())
        };
        // It ends only with control.
        let _ = self.desired_rx.clone().wait_for(is_here).await;
        tracing::warn!(number, nodes = plan.members.len(), "a person confirmed what was rebuilt from what nodes hold");
        // Strangers dial again, and find themselves on record.
        self.recoveries.lock().take();
        Ok(plan.shown.clone())
    }

    async fn rebuild(&self, plan: &Plan) -> Result<(), ObjectError> {
        let objects = &self.objects;
        while !objects.recover_fleet(&plan.fleet, &plan.ahead, plan.last_permit).await? {}
        for namespace in &plan.namespaces {
            let object = json!({"metadata": {"name": namespace}});
            match objects.create(&NAMESPACE, "", object, WriteOptions::default()).await {
                Ok(_) | Err(ObjectError::AlreadyExists { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        for (kind, object) in &plan.objects {
            objects.recover(kind, object).await?;
        }
        for set in &plan.sets {
            let mut older = &set.revisions[..];
            if let Some((newest, rest)) = set.revisions.split_first().filter(|_| set.is_new) {
                objects.recover_daemon_set(&set.object, newest).await?;
                older = rest;
            }
            for (revision, admitted) in older {
                objects.admit(admitted.clone()).await?;
                let (namespace, name) = (meta::namespace(&set.object), meta::name(revision));
                let make = |current: Option<&Value>| current.is_none().then(|| revision.clone());
                objects.report(&CONTROLLER_REVISION, namespace, name, make).await?;
            }
        }
        for (intent, pod) in &plan.pods {
            objects.recover_pod(intent, pod).await?;
        }
        for permit in &plan.permits {
            objects.recover_permit(permit).await?;
        }
        self.tell_updates(FromNode::Recovered).await;
        for (member, node) in &plan.members {
            objects.recover_node(member, node).await?;
            self.roster.meet(&member.uid, &member.name);
        }
        Ok(())
    }

    /// What control has already, as far as a recovery has to know.
    async fn here(&self) -> Result<Here, ObjectError> {
        let objects = &self.objects;
        let all = async |kind: &'static Kind| objects.list(kind, ListOptions::default()).await.map(|list| list.items);
        let key = |object: &Value| ObjectKey::new(meta::namespace(object), meta::name(object));
        let by_key = |items: Vec<Value>| -> HashMap<ObjectKey, Uid> {
            items.iter().map(|object| (key(object), meta::uid(object).into())).collect()
        };
        let mut configuration = HashSet::new();
        for (kind, named) in [(&CONFIG_MAP, link::Kind::ConfigMap), (&SECRET, link::Kind::Secret)] {
            let objects = all(kind).await?;
            configuration.extend(objects.iter().map(|object| ObjectRef { kind: named, key: key(object) }));
        }
        let mut named = HashSet::new();
        for kind in [&SERVICE_ACCOUNT, &PRIORITY_CLASS, &RUNTIME_CLASS] {
            let name = |object: &Value| match meta::namespace(object) {
                "" => format!("{} {}", kind.kind, meta::name(object)),
                namespace => format!("{} {namespace}/{}", kind.kind, meta::name(object)),
            };
            named.extend(all(kind).await?.iter().map(name));
        }
        let nodes = all(&NODE).await?;
        Ok(Here {
            fleet: objects.fleet().id.clone(),
            has_members: objects.has_members().await?,
            nodes: nodes.iter().map(|node| (meta::name(node).to_owned(), meta::uid(node).into())).collect(),
            sets: by_key(all(&DAEMON_SET).await?),
            pods: by_key(all(&POD).await?),
            deleted: objects.tombstones().await?.0.into_iter().map(|tombstone| tombstone.uid).collect(),
            objects: configuration,
            named,
        })
    }
}

/// The session of a node that control has no record of.
struct Asking {
    shared: Arc<Shared>,
    node: NodeIdentity,
    hello: Hello,
    up_rx: mpsc::Receiver<Up>,
    down_tx: mpsc::Sender<Frame>,
}

impl Asking {
    async fn run(mut self, mut closed_rx: watch::Receiver<()>) {
        let name = self.node.name.clone();
        // Nothing is lost with the one that ends first: what was told is in the recovery.
        let end = tokio::select! {
            end = self.ask() => end,
            _ = closed_rx.changed() => Err(SessionEnd::Review),
        };
        if let Err(end) = end {
            tracing::info!(node = %name, reason = %Chain(&end), "a session with a node that is not on record ended");
        }
    }

    async fn ask(&mut self) -> Result<(), SessionEnd> {
        let message = "control has no record of this node and is about to recover what it lost; what runs goes on";
        let reception = Reception::Hold { reason: HoldReason::Recovery, message: message.to_owned() };
        let welcome = self.shared.welcome(&self.node.uid, &self.hello, reception);
        say(&self.down_tx, Frame::new(Down::Welcome(welcome))).await?;
        if self.hello.features.iter().any(|feature| feature == RECOUNT) {
            self.note(Told::Telling);
            say(&self.down_tx, Frame::new(Down::Recount)).await?;
            let holdings = self.holdings().await?;
            self.recall(&holdings).await?;
            self.note(Told::All(holdings));
        } else {
            self.note(Told::Cannot);
        }
        while self.up_rx.recv().await.is_some() {}
        Err(SessionEnd::Lost)
    }

    fn note(&self, told: Told) {
        self.shared.recoveries.note(&self.node, &self.hello, told);
    }

    async fn holdings(&mut self) -> Result<Holdings, SessionEnd> {
        loop {
            if let Up::Holdings(holdings) = self.up_rx.recv().await.ok_or(SessionEnd::Lost)? {
                return Ok(*holdings);
            }
        }
    }

    /// Asks for every blob that nobody else has given. One after the other, so that no agent has to hold many at once.
    async fn recall(&mut self, holdings: &Holdings) -> Result<(), SessionEnd> {
        let of_sets = holdings.revisions.iter().flat_map(|held| std::iter::once(&held.bundle).chain(&held.written));
        let objects = holdings.objects.iter().map(|held| &held.blob);
        let pods = holdings.pods.iter().map(|held| &held.bundle);
        let hashes: Vec<BlobHash> = of_sets.chain(objects).chain(pods).cloned().collect();
        let mut bytes = 0;
        for hash in &hashes {
            if bytes > ACCOUNT_BYTES_MAX || !self.shared.recoveries.lacks(hash) {
                continue;
            }
            say(&self.down_tx, Frame::new(Down::Recall(hash.clone()))).await?;
            let content = self.blob(hash).await?;
            bytes += content.len();
            if desired::hash(&content) == *hash {
                self.shared.recoveries.with(|open| open.blobs.insert(hash.clone(), content));
            } else {
                tracing::warn!(node = %self.node.name, %hash, "what a node holds is lost on its disk");
            }
        }
        Ok(())
    }

    async fn blob(&mut self, hash: &BlobHash) -> Result<Bytes, SessionEnd> {
        let mut content = Vec::new();
        loop {
            let Up::Blob(chunk) = self.up_rx.recv().await.ok_or(SessionEnd::Lost)? else { continue };
            if chunk.hash != *hash || chunk.offset != content.len() as u64 || chunk.total > BLOB_BYTES_MAX {
                continue;
            }
            content.extend_from_slice(&chunk.data);
            if content.len() as u64 >= chunk.total {
                return Ok(content.into());
            }
        }
    }
}
