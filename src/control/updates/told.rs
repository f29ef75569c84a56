//! What sessions tell of their nodes that is in no object: who is connected, what each prepared and asks for, what it took.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

use crate::control::objects::PermitRecord;
use crate::link::Reason;
use crate::model::{Incumbent, PermitNumber, RevisionHash, Uid};

/// Told by all sessions.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The nodes with a session in step, and what they said in it of DaemonSets.
    connected: HashMap<Uid, Connected>,
    /// So many nodes vanished together that nothing is granted.
    pub(super) doubt: bool,
    /// Permits that do not hold any more, and of which there may be records.
    pub(super) void: Vec<PermitRecord>,
    /// Permits that are in the ledgers of their nodes.
    taken: HashSet<PermitNumber>,
    /// When permits were granted, in the term of this process.
    granted: HashMap<PermitNumber, Timestamp>,
}

/// A session, by its number, and what was said in it of DaemonSets.
#[derive(Debug)]
struct Connected {
    session: u64,
    said: HashMap<Uid, Said>,
}

/// What one node said of one DaemonSet in this session.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// The revision it asks for, and what would make way for it.
    asks: Option<(RevisionHash, Incumbent)>,
    /// The revision that would not work here, and why.
    pub(super) unable: Option<(RevisionHash, String)>,
    /// Revisions it went back from.
    pub(super) rejected: Vec<RevisionHash>,
}

impl Told {
    /// A session began; what was said in those before is void.
    pub(super) fn opened(&mut self, node: Uid, session: u64, taken: &[PermitNumber]) {
        self.connected.insert(node, Connected { session, said: HashMap::new() });
        self.taken.extend(taken);
    }

    /// A session ended. Gives the DaemonSets that something was said of.
    pub(super) fn closed(&mut self, node: &Uid, session: u64) -> impl Iterator<Item = Uid> + use<> {
        let is_it = self.session(node) == Some(session);
        let closed = if is_it { self.connected.remove(node) } else { None };
        closed.into_iter().flat_map(|closed| closed.said.into_keys())
    }

    /// What a node says of a DaemonSet, to be changed; none without a session.
    pub(super) fn of_mut(&mut self, node: &Uid, daemonset: &Uid) -> Option<&mut Said> {
        Some(self.connected.get_mut(node)?.said.entry(daemonset.clone()).or_default())
    }

    /// The number of a node's session, if it has one.
    pub(super) fn session(&self, node: &Uid) -> Option<u64> {
        self.connected.get(node).map(|connected| connected.session)
    }

    /// Whether a node has a session.
    pub(super) fn is_connected(&self, node: &Uid) -> bool {
        self.connected.contains_key(node)
    }

    /// What a node says of a DaemonSet.
    pub(super) fn of(&self, node: &Uid, daemonset: &Uid) -> Option<&Said> {
        self.connected.get(node)?.said.get(daemonset)
    }

    /// A permit is in the ledger of its node.
    pub(super) fn took(&mut self, permit: PermitNumber) {
        self.taken.insert(permit);
    }

    /// Whether a permit is in the ledger of its node.
    pub(super) fn has_taken(&self, permit: PermitNumber) -> bool {
        self.taken.contains(&permit)
    }

    /// A permit was granted.
    pub(super) fn granted(&mut self, permit: PermitNumber, now: Timestamp) {
        self.granted.insert(permit, now);
    }

    /// When a permit was granted; none if that was before this process began.
    pub(super) fn granted_at(&self, permit: PermitNumber) -> Option<Timestamp> {
        self.granted.get(&permit).copied()
    }

    /// There is no record of a permit any more.
    pub(super) fn forget(&mut self, permit: PermitNumber) {
        self.taken.remove(&permit);
        self.granted.remove(&permit);
    }
}

impl Said {
    /// It asks for a revision.
    pub(super) fn asks(&mut self, revision: RevisionHash, incumbent: Incumbent) {
        self.unable = None;
        self.asks = Some((revision, incumbent));
    }

    /// It declined what it was granted, and is about to ask anew.
    pub(super) fn declines(&mut self) {
        self.asks = None;
    }

    /// What would make way for a revision, if it asks for that.
    pub(super) fn asks_for(&self, revision: &RevisionHash) -> Option<Incumbent> {
        self.asks.as_ref().filter(|(asked, _)| asked == revision).map(|(_, incumbent)| *incumbent)
    }

    /// A revision would not work there.
    pub(super) fn unable(&mut self, revision: RevisionHash, why: &Reason) {
        let field = if why.field.is_empty() { String::new() } else { format!("{}: ", why.field) };
        self.unable = Some((revision, format!("{}: {field}{}", why.reason, why.message)));
    }
}
