//! Who is connected, and what control remembers of each node between its sessions. In memory; nothing here is asked of
//! a disk or awaited.
//!
//! Guarded by one lock that is held for a few map operations at a time, since every session and every call needs it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::PodSpec;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::admit::Other;
use super::desired::named;
use super::holds::Ahead;
use crate::control::meta;
use crate::control::nodes::Vouched;
use crate::link::{Digest, Down, HeldDaemonSet, ObjectRef, SILENCE};
use crate::model::{NodeName, ObjectKey, Position, Uid};

/// How many orders may wait for a session. One that does not get round to them is cut off.
const ORDERS: usize = 64;

/// Nodes that fall silent within this time may have been lost together: they are heard of every thirty seconds, and missed after
/// fifty.
const TOGETHER: Duration = Duration::from_secs(120);

/// What a session is told to do.
#[derive(Debug)]
pub(super) enum Order {
    /// Say this to the node.
    Say(Down),
    /// Look again at what it is told of objects: what it may have, or what they hold, changed.
    Look,
    /// End. The node connects again and is received anew.
    End,
}

/// How a session was received, as far as others have to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Footing {
    /// Accepted: it may be told what is new, and be granted permits.
    InStep,
    /// It reports, and takes nothing.
    Apart,
    /// Held, because there are two of it. It does not report.
    Clone,
}

/// Why something was not said to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unheard {
    /// It has no session.
    NotConnected,
    /// It has too much to take already.
    Busy,
}

/// One node's last words, and its sessions.
#[derive(Debug)]
struct Entry {
    name: NodeName,
    /// When something was heard of it last; when control started, if never.
    heard: Instant,
    /// What was written of its silence: nothing, or whether its Node was tainted, too.
    marked: Option<bool>,
    /// It was written off before this process began.
    off: bool,
    /// How far it has confirmed to have taken intent over.
    confirmed: Position,
    /// The DaemonSets that it held at its last hello and that control has no record of.
    unknown: Vec<HeldDaemonSet>,
    /// What can be relied upon of its Node; nothing before that was read.
    vouched: Arc<Vouched>,
    /// Its pods in the API.
    pods: HashMap<Uid, KnownPod>,
    /// Pods that it is ending, or has ended, while what is told of single pods may be from before.
    leaving: HashSet<Uid>,
    /// More than one only for a moment, or if two hosts use one identity.
    sessions: Vec<Open>,
}

/// A pod in the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KnownPod {
    pub(super) key: ObjectKey,
    /// Of the report that was written last; none if that was another process, or something was changed since.
    pub(super) digest: Option<Digest>,
    /// Its DaemonSet.
    pub(super) daemonset: Option<Uid>,
    /// The objects it names.
    pub(super) objects: Arc<[ObjectRef]>,
}

#[derive(Debug)]
struct Open {
    serial: u64,
    footing: Footing,
    orders_tx: mpsc::Sender<Order>,
    /// What it holds beyond what control knows, if it is held for that.
    ahead: Option<Arc<Ahead>>,
}

/// A node that is not heard of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) uid: Uid,
    pub(super) name: NodeName,
    /// What was written of its silence: nothing, or whether its Node was tainted, too.
    pub(super) marked: Option<bool>,
    /// It was written off a while ago: its silence says nothing new.
    pub(super) off: bool,
}

#[derive(Debug, Default)]
pub(super) struct Roster {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    nodes: HashMap<Uid, Entry>,
    by_name: HashMap<NodeName, Uid>,
    last_serial: u64,
    /// Control suspects itself of being cut off.
    doubt: bool,
}

impl KnownPod {
    /// A pod in the API of which no report is known.
    pub(super) fn of(pod: &Value) -> Self {
        let namespace = meta::namespace(pod);
        let spec = PodSpec::deserialize(&pod["spec"]).ok();
        let added = spec.as_ref().and_then(|spec| spec.ephemeral_containers.as_deref()).unwrap_or_default();
        Self {
            key: ObjectKey::new(namespace, meta::name(pod)),
            digest: None,
            daemonset: meta::controller(pod),
            objects: named(namespace, spec.as_ref(), added).into(),
        }
    }
}

impl Entry {
    fn new(name: &NodeName) -> Self {
        Self {
            name: name.clone(),
            heard: Instant::now(),
            marked: None,
            off: false,
            confirmed: Position::default(),
            unknown: Vec::new(),
            vouched: Arc::default(),
            pods: HashMap::new(),
            leaving: HashSet::new(),
            sessions: Vec::new(),
        }
    }
}

impl Inner {
    /// The nodes that have not been removed.
    fn present(&self) -> impl Iterator<Item = (&Uid, &Entry)> {
        self.nodes.iter().filter(|(uid, entry)| self.by_name.get(&entry.name) == Some(*uid))
    }
}

impl Roster {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // === nodes ===

    /// Makes sure that a node is known.
    pub(super) fn meet(&self, uid: &Uid, name: &NodeName) {
        let mut inner = self.lock();
        inner.by_name.insert(name.clone(), uid.clone());
        inner.nodes.entry(uid.clone()).or_insert_with(|| Entry::new(name));
    }

    /// Forgets a node whose Node was removed. Its sessions go on until they end.
    pub(super) fn part(&self, uid: &Uid) {
        let mut inner = self.lock();
        inner.by_name.retain(|_, known| known != uid);
        if inner.nodes.get(uid).is_some_and(|entry| entry.sessions.is_empty()) {
            inner.nodes.remove(uid);
        }
    }

    /// Takes in what can be relied upon of a Node. Its sessions look again if that changed.
    pub(super) fn vouch(&self, uid: &Uid, vouched: Vouched) {
        let mut inner = self.lock();
        let Some(entry) = inner.nodes.get_mut(uid).filter(|entry| *entry.vouched != vouched) else { return };
        entry.vouched = Arc::new(vouched);
        // Without the sender, one that does not keep up ends. It looks at everything when it is back.
        entry.sessions.retain(|open| open.orders_tx.try_send(Order::Look).is_ok());
    }

    /// What can be relied upon of a Node.
    pub(super) fn vouched(&self, uid: &Uid) -> Arc<Vouched> {
        self.lock().nodes.get(uid).map(|entry| entry.vouched.clone()).unwrap_or_default()
    }

    /// Whether a Node with this uid exists.
    pub(super) fn knows(&self, uid: &Uid) -> bool {
        let inner = self.lock();
        inner.nodes.get(uid).is_some_and(|entry| inner.by_name.get(&entry.name) == Some(uid))
    }

    /// The uid of a node by its name.
    pub(super) fn uid_of(&self, name: &NodeName) -> Option<Uid> {
        self.lock().by_name.get(name).cloned()
    }

    // === sessions ===

    /// A session of the node that was heard of just now.
    pub(super) fn other(&self, uid: &Uid) -> Option<Other> {
        let inner = self.lock();
        let sessions = &inner.nodes.get(uid)?.sessions;
        let is_clone = sessions.iter().any(|open| open.footing == Footing::Clone);
        (!sessions.is_empty()).then_some(Other { is_clone })
    }

    /// Enters a session; gives its number and what it is told to do. One in step takes the place of those before; one
    /// that is held as a clone makes the others be received anew, to be held as well. The node may be one that was
    /// removed.
    pub(super) fn enter(&self, uid: &Uid, name: &NodeName, footing: Footing) -> (u64, mpsc::Receiver<Order>) {
        let (orders_tx, orders_rx) = mpsc::channel(ORDERS);
        let mut inner = self.lock();
        inner.last_serial += 1;
        let serial = inner.last_serial;
        let entry = inner.nodes.entry(uid.clone()).or_insert_with(|| Entry::new(name));
        entry.heard = Instant::now();
        let stays = |open: &Open| footing == Footing::Clone && open.footing == Footing::Clone;
        entry.sessions.iter().filter(|open| !stays(open)).for_each(|open| drop(open.orders_tx.try_send(Order::End)));
        entry.sessions.retain(stays);
        entry.sessions.push(Open { serial, footing, orders_tx, ahead: None });
        (serial, orders_rx)
    }

    /// Whether a session is one that counts: no other has taken its place, and it keeps up.
    pub(super) fn is_open(&self, uid: &Uid, serial: u64) -> bool {
        self.lock().nodes.get(uid).is_some_and(|entry| entry.sessions.iter().any(|open| open.serial == serial))
    }

    /// Whether the node has one session only.
    pub(super) fn is_alone(&self, uid: &Uid) -> bool {
        self.lock().nodes.get(uid).is_some_and(|entry| entry.sessions.len() == 1)
    }

    /// A session is held for what its node has taken over.
    pub(super) fn ahead(&self, uid: &Uid, serial: u64, ahead: Ahead) {
        let mut inner = self.lock();
        let sessions = inner.nodes.get_mut(uid).into_iter().flat_map(|entry| &mut entry.sessions);
        if let Some(open) = sessions.into_iter().find(|open| open.serial == serial) {
            open.ahead = Some(Arc::new(ahead));
        }
    }

    /// The nodes that are held for what they have taken over, by name.
    pub(super) fn all_ahead(&self) -> Vec<(NodeName, Arc<Ahead>)> {
        let inner = self.lock();
        let of = |(_, entry): (_, &Entry)| {
            let ahead = entry.sessions.iter().find_map(|open| open.ahead.clone())?;
            Some((entry.name.clone(), ahead))
        };
        let mut all: Vec<_> = inner.present().filter_map(of).collect();
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        all
    }

    /// A node holds DaemonSets that control has no record of, or none any more.
    pub(super) fn holds_unknown(&self, uid: &Uid, unknown: Vec<HeldDaemonSet>) {
        if let Some(entry) = self.lock().nodes.get_mut(uid) {
            entry.unknown = unknown;
        }
    }

    /// The nodes that hold DaemonSets which control has no record of, and which those are.
    pub(super) fn all_unknown(&self) -> Vec<(Uid, NodeName, Vec<HeldDaemonSet>)> {
        let inner = self.lock();
        let holding = inner.present().filter(|(_, entry)| !entry.unknown.is_empty());
        holding.map(|(uid, entry)| (uid.clone(), entry.name.clone(), entry.unknown.clone())).collect()
    }

    /// Ends the sessions of these nodes: they connect again and are received anew.
    pub(super) fn receive_ahead_anew(&self) {
        for entry in self.lock().nodes.values_mut() {
            // Without the sender, one that does not keep up ends, too.
            entry.sessions.retain(|open| open.ahead.is_none() || open.orders_tx.try_send(Order::End).is_ok());
        }
    }

    /// A session has ended. Says whether the node has another one in step.
    pub(super) fn leave(&self, uid: &Uid, serial: u64) -> bool {
        let mut inner = self.lock();
        let Inner { nodes, by_name, .. } = &mut *inner;
        let Some(entry) = nodes.get_mut(uid) else { return false };
        entry.sessions.retain(|open| open.serial != serial);
        let in_step = entry.sessions.iter().any(|open| open.footing == Footing::InStep);
        if entry.sessions.is_empty() && by_name.get(&entry.name) != Some(uid) {
            nodes.remove(uid);
        }
        in_step
    }

    /// Says something to a node in step. False if it has no such session; one that does not keep up loses its session.
    pub(super) fn say(&self, uid: &Uid, down: Down) -> bool {
        self.say_in(uid, |_| true, down)
    }

    /// The same, if the session is the one of this number.
    pub(super) fn say_within(&self, uid: &Uid, serial: u64, down: Down) -> bool {
        self.say_in(uid, |open| open.serial == serial, down)
    }

    fn say_in(&self, uid: &Uid, is_meant: impl Fn(&Open) -> bool, down: Down) -> bool {
        let mut inner = self.lock();
        let Some(entry) = inner.nodes.get_mut(uid) else { return false };
        let is_meant = |open: &&Open| open.footing == Footing::InStep && is_meant(open);
        let Some(open) = entry.sessions.iter().find(is_meant) else { return false };
        let said = open.orders_tx.try_send(Order::Say(down)).is_ok();
        if !said {
            let serial = open.serial;
            // Without the sender the session ends.
            entry.sessions.retain(|open| open.serial != serial);
        }
        said
    }

    /// Says something of no consequence to any node with a session, in step or not: what is on hold may be looked into.
    /// One that does not keep up keeps its session.
    ///
    /// # Errors
    /// [`Unheard`].
    pub(super) fn offer(&self, uid: &Uid, down: Down) -> Result<(), Unheard> {
        let inner = self.lock();
        let sessions = inner.nodes.get(uid).map(|entry| entry.sessions.as_slice()).unwrap_or_default();
        // Which of two hosts would answer is not known.
        let open = sessions.iter().find(|open| open.footing != Footing::Clone).ok_or(Unheard::NotConnected)?;
        open.orders_tx.try_send(Order::Say(down)).map_err(|_| Unheard::Busy)
    }

    // === what is heard ===

    /// Something came from the node.
    pub(super) fn heard(&self, uid: &Uid) {
        if let Some(entry) = self.lock().nodes.get_mut(uid) {
            entry.heard = Instant::now();
        }
    }

    /// The node reported its status: nothing is left of what was written of its silence.
    pub(super) fn reported(&self, uid: &Uid) {
        if let Some(entry) = self.lock().nodes.get_mut(uid) {
            (entry.marked, entry.off) = (None, false);
        }
    }

    /// The node holds all intent up to a position.
    pub(super) fn confirmed(&self, uid: &Uid, position: Position) {
        if let Some(entry) = self.lock().nodes.get_mut(uid) {
            entry.confirmed = position;
        }
    }

    /// The `seq` in `era` that every node has confirmed.
    pub(super) fn confirmed_by_all(&self, era: u64) -> u64 {
        let of = |(_, entry): (_, &Entry)| if entry.confirmed.era == era { entry.confirmed.seq } else { 0 };
        self.lock().present().map(of).min().unwrap_or(u64::MAX)
    }

    /// The nodes without a session that were silent for the grace period, and how many nodes there are.
    pub(super) fn lost(&self) -> (Vec<Lost>, usize) {
        let inner = self.lock();
        let is_lost = |entry: &Entry| entry.sessions.is_empty() && entry.heard.elapsed() >= SILENCE;
        let lost = inner.present().filter(|(_, entry)| is_lost(entry));
        let of = |(uid, entry): (&Uid, &Entry)| Lost {
            uid: uid.clone(),
            name: entry.name.clone(),
            marked: entry.marked,
            off: entry.off || entry.marked == Some(true) && entry.heard.elapsed() >= TOGETHER,
        };
        (lost.map(of).collect(), inner.present().count())
    }

    /// Whether that is news: control suspects itself of being cut off, or does not.
    pub(super) fn doubts(&self, doubt: bool) -> bool {
        std::mem::replace(&mut self.lock().doubt, doubt) != doubt
    }

    /// A node was written off before this process began.
    pub(super) fn was_lost(&self, uid: &Uid) {
        if let Some(entry) = self.lock().nodes.get_mut(uid).filter(|entry| entry.sessions.is_empty()) {
            entry.off = true;
        }
    }

    /// The node's silence is written down. Its pods' reports are not what the API says any more; gives the pods.
    pub(super) fn mark(&self, uid: &Uid, tainted: bool) -> HashMap<Uid, KnownPod> {
        let mut inner = self.lock();
        let Some(entry) = inner.nodes.get_mut(uid) else { return HashMap::new() };
        entry.marked = Some(tainted);
        entry.pods.values_mut().for_each(|pod| pod.digest = None);
        entry.pods.clone()
    }

    // === pods ===

    /// A pod is in the API as its report says.
    pub(super) fn put_pod(&self, node: &Uid, pod: &Uid, known: KnownPod) {
        if let Some(entry) = self.lock().nodes.get_mut(node) {
            entry.pods.insert(pod.clone(), known);
        }
    }

    /// A pod is gone.
    pub(super) fn remove_pod(&self, node: &Uid, pod: &Uid) {
        if let Some(entry) = self.lock().nodes.get_mut(node) {
            entry.pods.remove(pod);
        }
    }

    /// A node ends a pod, or has ended it: it is not to be told that there is one.
    pub(super) fn leaves(&self, node: &Uid, pod: &Uid) {
        if let Some(entry) = self.lock().nodes.get_mut(node) {
            entry.leaving.insert(pod.clone());
        }
    }

    /// Those of the single pods that a node ends or has ended. Others need not be remembered.
    pub(super) fn leaving(&self, node: &Uid, is_single: impl Fn(&Uid) -> bool) -> HashSet<Uid> {
        let mut inner = self.lock();
        let Some(entry) = inner.nodes.get_mut(node) else { return HashSet::new() };
        entry.leaving.retain(is_single);
        entry.leaving.clone()
    }

    /// One of the node's pods in the API.
    pub(super) fn pod(&self, node: &Uid, pod: &Uid) -> Option<KnownPod> {
        self.lock().nodes.get(node)?.pods.get(pod).cloned()
    }

    /// The DaemonSets of those of the node's pods that name an object.
    pub(super) fn naming(&self, node: &Uid, object: &ObjectRef) -> Vec<Uid> {
        let inner = self.lock();
        let pods = inner.nodes.get(node).into_iter().flat_map(|entry| entry.pods.values());
        pods.filter(|pod| pod.objects.contains(object)).filter_map(|pod| pod.daemonset.clone()).collect()
    }

    /// The node's pods in the API.
    pub(super) fn pods(&self, node: &Uid) -> HashMap<Uid, KnownPod> {
        self.lock().nodes.get(node).map(|entry| entry.pods.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    const NAME: &str = "edge-1";

    fn roster() -> (Roster, Uid) {
        let (roster, uid) = (Roster::default(), Uid::from("u"));
        roster.meet(&uid, &NAME.into());
        (roster, uid)
    }

    fn is_ended(orders_rx: &mut mpsc::Receiver<Order>) -> bool {
        matches!(orders_rx.try_recv(), Ok(Order::End))
    }

    #[test]
    fn a_reconnect_takes_the_place_of_the_session_before() {
        let (roster, uid) = roster();
        let (first, mut first_rx) = roster.enter(&uid, &NAME.into(), Footing::InStep);
        let (second, mut second_rx) = roster.enter(&uid, &NAME.into(), Footing::InStep);
        assert!(is_ended(&mut first_rx));
        assert!(roster.leave(&uid, first), "the node is still connected");
        assert!(roster.say(&uid, Down::KeepAlive));
        assert!(matches!(second_rx.try_recv(), Ok(Order::Say(Down::KeepAlive))));
        assert!(!roster.leave(&uid, second));
        assert!(!roster.say(&uid, Down::KeepAlive));
    }

    #[test]
    fn two_hosts_with_one_identity_are_both_held() {
        let (roster, uid) = roster();
        let (_, mut original_rx) = roster.enter(&uid, &NAME.into(), Footing::InStep);
        let (copy, mut copy_rx) = roster.enter(&uid, &NAME.into(), Footing::Clone);
        assert!(is_ended(&mut original_rx), "the original is received anew");
        assert_eq!(roster.other(&uid), Some(Other { is_clone: true }));
        let (_, mut original_rx) = roster.enter(&uid, &NAME.into(), Footing::Clone);
        assert!(!is_ended(&mut copy_rx));
        assert!(!roster.say(&uid, Down::KeepAlive), "no permit for either");
        assert!(!roster.is_alone(&uid));
        roster.leave(&uid, copy);
        assert!(roster.is_alone(&uid) && !is_ended(&mut original_rx), "the other may only be reconnecting");
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_is_lost_when_it_was_silent_for_the_grace_period_without_a_session() {
        let (roster, uid) = roster();
        let (serial, _orders_rx) = roster.enter(&uid, &NAME.into(), Footing::InStep);
        tokio::time::advance(2 * SILENCE).await;
        assert_eq!(roster.lost(), (vec![], 1));
        roster.heard(&uid);
        roster.leave(&uid, serial);
        tokio::time::advance(SILENCE - Duration::from_secs(1)).await;
        assert_eq!(roster.lost(), (vec![], 1));
        tokio::time::advance(Duration::from_secs(1)).await;
        let lost = Lost { uid: uid.clone(), name: NAME.into(), marked: None, off: false };
        assert_eq!(roster.lost(), (vec![lost.clone()], 1));
        roster.mark(&uid, false);
        assert_eq!(roster.lost().0, [Lost { marked: Some(false), ..lost.clone() }]);
        roster.mark(&uid, true);
        assert_eq!(roster.lost().0, [Lost { marked: Some(true), ..lost.clone() }], "others may follow");
        tokio::time::advance(TOGETHER - SILENCE).await;
        assert_eq!(roster.lost().0, [Lost { marked: Some(true), off: true, ..lost }]);
        roster.reported(&uid);
        assert!(!roster.lost().0[0].off, "it came back in the meantime");
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_was_written_off_before_is_not_written_off_again() {
        let (roster, uid) = roster();
        roster.was_lost(&uid);
        tokio::time::advance(SILENCE).await;
        assert!(roster.lost().0[0].off);
        roster.reported(&uid);
        let (serial, _orders_rx) = roster.enter(&uid, &NAME.into(), Footing::InStep);
        roster.was_lost(&uid);
        roster.leave(&uid, serial);
        tokio::time::advance(SILENCE).await;
        assert!(!roster.lost().0[0].off, "it was there");
        assert!(roster.doubts(true) && !roster.doubts(true) && roster.doubts(false));
    }

    #[test]
    fn a_session_that_does_not_take_its_orders_is_cut_off() {
        let (roster, uid) = roster();
        let (_, mut orders_rx) = roster.enter(&uid, &NAME.into(), Footing::InStep);
        while roster.say(&uid, Down::KeepAlive) {}
        assert_eq!(roster.other(&uid), None);
        while let Ok(order) = orders_rx.try_recv() {
            assert!(matches!(order, Order::Say(_)));
        }
        assert!(orders_rx.is_closed());
    }

    #[test]
    fn what_is_offered_costs_no_session() {
        let (roster, uid) = roster();
        assert_eq!(roster.offer(&uid, Down::KeepAlive), Err(Unheard::NotConnected));
        let (_, _orders_rx) = roster.enter(&uid, &NAME.into(), Footing::Apart);
        while roster.offer(&uid, Down::KeepAlive) == Ok(()) {}
        assert_eq!(roster.offer(&uid, Down::KeepAlive), Err(Unheard::Busy));
        assert!(roster.is_alone(&uid));
        let (_, _orders_rx) = roster.enter(&uid, &NAME.into(), Footing::Clone);
        assert_eq!(roster.offer(&uid, Down::KeepAlive), Err(Unheard::NotConnected));
    }

    #[test]
    fn what_all_have_confirmed_is_what_the_last_of_them_has() {
        let (roster, uid) = roster();
        roster.meet(&"v".into(), &"edge-2".into());
        roster.confirmed(&uid, Position { era: 2, seq: 7 });
        assert_eq!(roster.confirmed_by_all(2), 0);
        roster.confirmed(&"v".into(), Position { era: 2, seq: 5 });
        assert_eq!(roster.confirmed_by_all(2), 5);
        roster.confirmed(&"v".into(), Position { era: 1, seq: 9 });
        assert_eq!(roster.confirmed_by_all(2), 0);
    }

    #[test]
    fn a_removed_node_is_known_no_more_but_may_say_goodbye() {
        let (roster, uid) = roster();
        let (serial, mut orders_rx) = roster.enter(&uid, &NAME.into(), Footing::InStep);
        roster.part(&uid);
        assert!(!roster.knows(&uid));
        assert!(roster.say(&uid, Down::KeepAlive));
        assert!(orders_rx.try_recv().is_ok());
        roster.leave(&uid, serial);
        assert_eq!(roster.lost().1, 0);
    }
}
