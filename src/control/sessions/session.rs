//! One session with one node, from its welcome to its end.
//!
//! Two loops that do not wait for each other: one tells the node what is due, most urgent first and blobs last; the
//! other takes what it says, in [`reports`](super::reports). What is due is worked out anew from the latest [`Desired`]
//! whenever something changed, so a slow line skips what is outdated.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

use super::Shared;
use super::assigned::Assignment;
use super::desired::{Blob, Desired};
use super::holds;
use super::reports::write_conditions;
use super::roster::{Footing, KnownPod, Order};
use super::user_pods::Amended;
use crate::control::events;
use crate::control::kinds::NODE;
use crate::control::nodes;
use crate::control::objects::{ObjectError, Objects, Tombstone};
use crate::control::updates::FromNode;
use crate::error::Chain;
use crate::link::{
    Answer, Answers, BlobChunk, CommandId, Down, Frame, HeldDaemonSet, Hello, HoldReason, KEEP_ALIVE, Needs,
    NodeChange, PROTOCOL, PodAction, PodCommand, Reception, SILENCE, Up, Welcome,
};
use crate::model::{BlobHash, NodeName, Position, Uid};

/// Answers of one session that wait to be told; the node is not listened to while there are more.
const REPLIES: usize = 16;
/// How soon a node is received anew whose trouble may be over by itself.
const REVIEW_SOON: Duration = Duration::from_secs(60);
/// How soon a node is received anew whose trouble only a person can end.
const REVIEW_LATE: Duration = Duration::from_secs(600);

/// What a session is about.
pub(super) struct Session {
    pub(super) shared: Arc<Shared>,
    /// What it writes is written only as long as the node has begun no other session.
    pub(super) objects: Objects,
    /// Its number in the roster.
    pub(super) serial: u64,
    pub(super) node: Uid,
    pub(super) name: NodeName,
    pub(super) reception: Reception,
}

/// The link's and the roster's ends of it.
pub(super) struct Ends {
    pub(super) orders_rx: mpsc::Receiver<Order>,
    pub(super) up_rx: mpsc::Receiver<Up>,
    pub(super) down_tx: mpsc::Sender<Frame>,
}

/// What a session is to tell, and where it is asked for.
struct Asked {
    orders_rx: mpsc::Receiver<Order>,
    needs_rx: watch::Receiver<Needs>,
    replies_rx: mpsc::Receiver<Down>,
}

/// Why a session ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionEnd {
    #[error("the connection was lost")]
    Lost,
    #[error("the node is received anew")]
    Review,
    #[error("the node is removed")]
    Removed,
    #[error("what it is about cannot be read or written")]
    Objects(#[from] ObjectError),
}

/// How far a node with this reception may go.
pub(super) fn footing(reception: &Reception) -> Footing {
    match reception {
        Reception::Accepted => Footing::InStep,
        Reception::Hold { reason: HoldReason::Clone, .. } => Footing::Clone,
        Reception::AdoptOnly(_) | Reception::Hold { .. } => Footing::Apart,
    }
}

impl Session {
    /// The session, from the welcome on.
    pub(super) async fn run(self, hello: Hello, ends: Ends) {
        let Ends { orders_rx, up_rx, down_tx } = ends;
        // Those that the hello can tell of. It may be told of others before all of them are looked through.
        let known = self.shared.roster.pods(&self.node);
        let in_step = footing(&self.reception) == Footing::InStep;
        let (needs_tx, needs_rx) = watch::channel(Needs::default());
        let (replies_tx, replies_rx) = mpsc::channel(REPLIES);
        let asked = Asked { orders_rx, needs_rx, replies_rx };
        let end = tokio::select! {
            end = self.tell(&hello, known, asked, &down_tx) => end,
            end = self.listen(up_rx, &needs_tx, &replies_tx) => end,
            () = self.review(), if !in_step => Err(SessionEnd::Review),
        };
        if let Err(end) = end {
            tracing::info!(node = %self.name, reason = %Chain(&end), "a session ended");
        }
        let still_in_step = self.shared.roster.leave(&self.node, self.serial);
        self.shared.measures.broke(&self.node);
        if in_step && !still_in_step {
            let (node, session) = (self.node.clone(), self.serial);
            self.shared.tell_updates(FromNode::Closed { node, session }).await;
        }
    }

    /// Ends when it is time to receive a node anew that is not in step.
    async fn review(&self) {
        let period = match &self.reception {
            Reception::AdoptOnly(_) | Reception::Hold { reason: HoldReason::Clone, .. } => REVIEW_SOON,
            Reception::Accepted | Reception::Hold { .. } => REVIEW_LATE,
        };
        let mut was_alone = footing(&self.reception) != Footing::Clone;
        loop {
            tokio::time::sleep(period).await;
            // Of two hosts, one must have been away for a whole period: it may only be reconnecting.
            let is_alone = self.shared.roster.is_alone(&self.node);
            if is_alone && was_alone {
                return;
            }
            was_alone = is_alone;
        }
    }

    // === telling ===

    async fn tell(
        &self,
        hello: &Hello,
        known: HashMap<Uid, KnownPod>,
        Asked { mut orders_rx, mut needs_rx, mut replies_rx }: Asked,
        down_tx: &mpsc::Sender<Frame>,
    ) -> Result<(), SessionEnd> {
        let mut desired_rx = self.shared.desired_rx.clone();
        let desired = desired_rx.borrow_and_update().clone();
        let welcome = self.shared.welcome(&self.node, hello, self.reception.clone());
        say(down_tx, Frame::new(Down::Welcome(welcome))).await?;
        let takes_intent = matches!(self.reception, Reception::Accepted | Reception::AdoptOnly(_));
        let answers = if takes_intent { self.shared.answers(&self.name, hello, &desired).await? } else { Vec::new() };
        self.begin(hello, known, &answers).await?;
        let (mut told, mut assigned) = (Told::default(), Assignment::default());
        if takes_intent && desired.removal(&self.node).is_none() {
            for frame in self.opening(hello, answers, &desired).await? {
                say(down_tx, frame).await?;
            }
            told.deletion = desired.last_deletion;
        }
        let mut blobs = VecDeque::new();
        // What woke the session: something may be due, the node may need something else.
        let (mut look, mut needs_more) = (true, false);
        loop {
            // One pass: what is due by now, then what was ordered, then one piece of a blob.
            let desired = desired_rx.borrow_and_update().clone();
            if takes_intent {
                for frame in told.due(&desired, &self.node, &self.name) {
                    say(down_tx, frame).await?;
                }
            }
            while let Ok(order) = orders_rx.try_recv() {
                look |= obey(order, down_tx).await?;
            }
            needs_more |= needs_rx.has_changed().unwrap_or(false);
            if look || needs_more {
                let needs = needs_rx.borrow_and_update().clone();
                let frame = if takes_intent { self.assigned(&needs, &desired, &mut assigned).await? } else { None };
                if let Some(frame) = frame {
                    say(down_tx, frame).await?;
                }
                if needs_more {
                    let blob = |hash: &_| {
                        let own = assigned.blob(hash).or_else(|| desired.pods.blob(&self.name, hash));
                        own.or_else(|| Some(desired.blob(hash)?.as_ref()))
                    };
                    blobs = answered(&needs, blob);
                }
                (look, needs_more) = (false, false);
            }
            while let Ok(reply) = replies_rx.try_recv() {
                say(down_tx, Frame::new(reply)).await?;
            }
            if let Some(frame) = blobs.pop_front() {
                say(down_tx, frame).await?;
                look = desired_rx.has_changed().unwrap_or(false);
                continue;
            }
            // All only wait, or take one whole item; what they announce is seen to in the next pass.
            tokio::select! {
                changed = desired_rx.changed() => {
                    changed.map_err(|_| SessionEnd::Lost)?;
                    look = true;
                }
                changed = needs_rx.changed() => {
                    changed.map_err(|_| SessionEnd::Lost)?;
                    needs_more = true;
                }
                order = orders_rx.recv() => look |= obey(order.ok_or(SessionEnd::Review)?, down_tx).await?,
                Some(reply) = replies_rx.recv() => say(down_tx, Frame::new(reply)).await?,
            }
        }
    }

    /// What others have to know of the session: the API why the node holds, updates that it may be granted permits.
    async fn begin(
        &self,
        hello: &Hello,
        known: HashMap<Uid, KnownPod>,
        answers: &[(Uid, Answer)],
    ) -> Result<(), SessionEnd> {
        let hold = match &self.reception {
            Reception::Hold { reason, message } => Some((format!("{reason:?}"), message.clone())),
            Reception::Accepted | Reception::AdoptOnly(_) => None,
        };
        let is_unknown = |held: &&HeldDaemonSet| answers.contains(&(held.uid.clone(), Answer::Unknown));
        let unknown: Vec<_> = hello.daemonsets.iter().filter(is_unknown).cloned().collect();
        let conditions = [(nodes::HELD, hold), (nodes::UNKNOWN, holds::explain(&unknown))];
        write_conditions(&self.objects, &self.node, &self.name, &conditions).await?;
        if let [_, (_, Some((_, words)))] = &conditions {
            let event = events::runs_unknown(&self.name, &self.node, words, Timestamp::now());
            events::write(&self.objects, &event).await?;
        }
        self.shared.roster.holds_unknown(&self.node, unknown);
        if self.reception == Reception::Accepted {
            self.drop_pods_not_held(hello, known).await?;
            let taken = hello.permits.iter().map(|permit| permit.number).collect();
            let (node, session) = (self.node.clone(), self.serial);
            self.shared.tell_updates(FromNode::Opened { node, session, taken }).await;
        }
        Ok(())
    }

    /// What a node is told first: of what it holds, and of itself; and what it is asked for.
    async fn opening(
        &self,
        hello: &Hello,
        answers: Vec<(Uid, Answer)>,
        desired: &Desired,
    ) -> Result<Vec<Frame>, SessionEnd> {
        let answers = Answers { position: desired.position, answers };
        let mut frames = vec![Frame::new(Down::Answers(answers))];
        let known = self.shared.roster.pods(&self.node);
        for held in hello.pods.iter().filter(|held| !known.contains_key(&held.uid)) {
            // Its node had carried that out, and its disk was put back since.
            frames.extend(self.objects.buried_pod(&held.uid).await?.as_ref().map(deletion));
        }
        // Read before the Node, so that what the node confirms is not more than it was told.
        let position = *self.objects.position().borrow();
        match self.objects.get(&NODE, "", self.name.as_str()).await {
            Ok(node) => frames.push(Frame::new(Down::Node(change(position, nodes::intent(&node))))),
            // It was removed just now; that is told next.
            Err(ObjectError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let wanted = wanted(hello, &known);
        if !wanted.is_empty() {
            frames.push(Frame::new(Down::Wanted(wanted)));
        }
        Ok(frames)
    }

    // === listening ===

    async fn listen(
        &self,
        mut up_rx: mpsc::Receiver<Up>,
        needs_tx: &watch::Sender<Needs>,
        replies_tx: &mpsc::Sender<Down>,
    ) -> Result<(), SessionEnd> {
        while let Some(up) = up_rx.recv().await {
            // What was on its way when the node began another session is old news.
            if !self.shared.roster.is_open(&self.node, self.serial) {
                return Err(SessionEnd::Review);
            }
            self.shared.roster.heard(&self.node);
            match up {
                Up::Needs(needs) => drop(needs_tx.send_replace(needs)),
                Up::TokenRequest(request) => {
                    let reply = self.token(request).await?;
                    replies_tx.send(reply).await.map_err(|_| SessionEnd::Lost)?;
                }
                up => self.take(up).await?,
            }
        }
        Err(SessionEnd::Lost)
    }
}

impl Shared {
    /// The first words to a node.
    pub(super) fn welcome(&self, node: &Uid, hello: &Hello, reception: Reception) -> Welcome {
        let secs = |duration: Duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
        Welcome {
            protocol: PROTOCOL.min(hello.protocol),
            fleet: self.objects.fleet().id.clone(),
            era: self.objects.position().borrow().era,
            ca_bundle: self.authority.bundle(),
            node_uid: node.clone(),
            reception,
            keep_alive_secs: secs(KEEP_ALIVE),
            silence_secs: secs(SILENCE),
        }
    }
}

/// What the user says of a node, as a message.
pub(super) fn change(position: Position, intent: nodes::Intent) -> NodeChange {
    let nodes::Intent { labels, taints, unschedulable } = intent;
    NodeChange { position, labels, taints, unschedulable }
}

pub(super) async fn say(down_tx: &mpsc::Sender<Frame>, frame: Frame) -> Result<(), SessionEnd> {
    down_tx.send(frame).await.map_err(|_| SessionEnd::Lost)
}

/// Does what was ordered. True if there may be something to tell of the objects the node needs.
async fn obey(order: Order, down_tx: &mpsc::Sender<Frame>) -> Result<bool, SessionEnd> {
    match order {
        Order::Say(down) => say(down_tx, Frame::new(down)).await.map(|()| false),
        Order::Look => Ok(true),
        Order::End => Err(SessionEnd::Review),
    }
}

/// The command to end a pod that was deleted.
fn deletion(pod: &Tombstone) -> Frame {
    let grace_period_secs = pod.grace_period_seconds.and_then(|grace| u32::try_from(grace).ok());
    let action = PodAction::Delete { grace_period_secs: grace_period_secs.unwrap_or(0), permit: None };
    let command = PodCommand { uid: pod.uid.clone(), needs_seq: 0, action };
    Frame::new(Down::Pod { id: CommandId(pod.seq), command })
}

/// The pods whose report is not what control has.
fn wanted(hello: &Hello, known: &HashMap<Uid, KnownPod>) -> Vec<Uid> {
    let differs = |uid: &Uid, digest| known.get(uid).and_then(|pod| pod.digest) != Some(digest);
    hello.pods.iter().filter(|held| differs(&held.uid, held.digest)).map(|held| held.uid.clone()).collect()
}

/// The frames with the blobs a node needs. `find` looks one up.
fn answered<'a>(needs: &Needs, find: impl Fn(&BlobHash) -> Option<&'a Blob>) -> VecDeque<Frame> {
    let mut frames = VecDeque::new();
    for needed in &needs.blobs {
        match find(&needed.hash) {
            Some(blob) => frames.extend(blob.from(needed.offset)),
            None => frames.push_back(Frame::new(Down::Blob(BlobChunk {
                hash: needed.hash.clone(),
                offset: 0,
                total: 0,
                data: bytes::Bytes::new(),
            }))),
        }
    }
    frames
}

/// What a node was told in this session.
#[derive(Debug, Default)]
struct Told {
    content: Option<u64>,
    deletion: u64,
    commands: HashSet<u64>,
    removed: bool,
}

impl Told {
    /// The frames that are due, in order: what ends, then what is.
    fn due(&mut self, desired: &Desired, node: &Uid, name: &NodeName) -> Vec<Frame> {
        let mut frames = Vec::new();
        if let Some(removal) = desired.removal(node) {
            if !std::mem::replace(&mut self.removed, true) {
                let position = Position { seq: removal.seq, ..desired.position };
                frames.push(Frame::new(Down::Removed { id: CommandId(removal.seq), position }));
            }
            return frames;
        }
        if desired.last_deletion > self.deletion {
            self.deletion = desired.last_deletion;
            frames.push(desired.deletions(name));
        }
        for pod in desired.ending.get(name).into_iter().flatten() {
            // A shorter grace period is a deletion of its own.
            if self.commands.insert(pod.seq) {
                frames.push(deletion(pod));
            }
        }
        for Amended { uid, seq, amendment, .. } in desired.pods.amended(name) {
            if self.commands.insert(*seq) {
                let action = PodAction::Amend(amendment.clone());
                let command = PodCommand { uid: uid.clone(), needs_seq: 0, action };
                frames.push(Frame::new(Down::Pod { id: CommandId(*seq), command }));
            }
        }
        if self.content != Some(desired.content) {
            self.content = Some(desired.content);
            frames.push(desired.manifest.clone());
        }
        frames
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::control::sessions::desired::Read;
    use crate::link::{Digest, HeldPod, NeededBlob};

    fn deletion(kind: &str, uid: &str, seq: u64) -> Tombstone {
        Tombstone {
            kind: kind.into(),
            namespace: String::new(),
            name: String::new(),
            uid: uid.into(),
            seq,
            node: (kind == "Pod").then(|| "edge-1".into()),
            grace_period_seconds: Some(3),
        }
    }

    fn desired(seq: u64, tombstones: &[Tombstone]) -> Desired {
        let position = Position { era: 1, seq };
        Desired::build(Read { position, tombstones: tombstones.to_vec(), ..Read::default() }, None)
    }

    fn due(told: &mut Told, desired: &Desired) -> Vec<Frame> {
        told.due(desired, &"node".into(), &"edge-1".into())
    }

    fn delete(seq: u64, uid: &str) -> Frame {
        let action = PodAction::Delete { grace_period_secs: 3, permit: None };
        Frame::new(Down::Pod { id: CommandId(seq), command: PodCommand { uid: uid.into(), needs_seq: 0, action } })
    }

    #[test]
    fn everything_is_told_once_and_ends_come_first() {
        let mut told = Told::default();
        let first = desired(4, &[deletion("DaemonSet", "a", 2), deletion("Pod", "p", 3)]);
        assert_eq!(due(&mut told, &first), [first.deleted.clone(), delete(3, "p"), first.manifest.clone()]);
        assert_eq!(due(&mut told, &first), []);
        let second = desired(6, &[deletion("DaemonSet", "b", 5), deletion("Pod", "p", 6)]);
        assert_eq!(due(&mut told, &second), [second.deleted.clone(), delete(6, "p"), second.manifest.clone()]);
    }

    #[test]
    fn a_removed_node_is_told_nothing_else() {
        let mut told = Told::default();
        let desired = desired(9, &[deletion("DaemonSet", "a", 2), deletion("Node", "node", 8)]);
        let removed = Down::Removed { id: CommandId(8), position: Position { era: 1, seq: 8 } };
        assert_eq!(due(&mut told, &desired), [Frame::new(removed)]);
        assert_eq!(due(&mut told, &desired), []);
    }

    #[test]
    fn only_reports_that_control_does_not_have_are_wanted() {
        let hello = Hello {
            pods: ["same", "changed", "new", "unsure"]
                .map(|uid| HeldPod { uid: uid.into(), digest: Digest([1; 32]) })
                .to_vec(),
            ..crate::control::sessions::tests::hello()
        };
        let known = [("same", Some(1)), ("changed", Some(2)), ("unsure", None)].map(|(uid, byte)| {
            let digest = byte.map(|byte| Digest([byte; 32]));
            (Uid::from(uid), KnownPod { digest, ..KnownPod::of(&json!({"metadata": {"name": uid}})) })
        });
        assert_eq!(wanted(&hello, &HashMap::from(known)), ["changed".into(), "new".into(), "unsure".into()]);
    }

    #[test]
    fn what_control_does_not_have_is_said() {
        let hash = BlobHash("ab".repeat(32));
        let needs = Needs { blobs: vec![NeededBlob { hash: hash.clone(), offset: 7 }], objects: vec![] };
        let absent = Down::Blob(BlobChunk { hash, offset: 0, total: 0, data: bytes::Bytes::new() });
        assert_eq!(answered(&needs, |_| None), [Frame::new(absent)]);
    }
}
