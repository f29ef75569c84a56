//! Whether a node that says hello may go on: copied disks, older disks, other fleets.
//!
//! Pure. Who says hello has proved to hold the key of the member record.

use crate::control::objects::{FleetRecord, MemberRecord};
use crate::link::{Hello, HoldReason, Reception};
use crate::model::Position;

/// What control knows when a node says hello.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) fleet: &'a FleetRecord,
    pub(super) position: Position,
    pub(super) member: &'a MemberRecord,
    /// Another session of the same node that was heard of just now.
    pub(super) other: Option<Other>,
}

/// A session beside the one that begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Other {
    /// It is held because there are two hosts.
    pub(super) is_clone: bool,
}

/// Decides how a node is received.
///
/// A session number is on disk before the host dials, so of two holders of one number at least one is a copy. A number
/// higher than the last is a reconnect, also while the old session seems to be alive. A lower one is an older disk,
/// unless the newer one is connected too.
pub(super) fn receive(known: &Known<'_>, hello: &Hello) -> Reception {
    let Known { fleet, position, member, other } = *known;
    let name = &member.name;
    if hello.fleet != fleet.id {
        return hold(
            HoldReason::OtherFleet,
            format!(
                "the ledger of node {name} belongs to fleet {}, this is fleet {}; to move the node here, end what it \
                 runs and remove its state directory, then enrol it again",
                hello.fleet, fleet.id
            ),
        );
    }
    if hello.machine_id != member.machine_id {
        return hold(
            HoldReason::OtherMachine,
            format!(
                "the credentials of node {name} were made for machine {}, they are used on machine {}; delete the node \
                 and enrol the host that is to stay",
                member.machine_id, hello.machine_id
            ),
        );
    }
    if is_clone(member, hello, other) {
        return hold(
            HoldReason::Clone,
            format!(
                "two hosts use the identity of node {name}, or its disk was copied; on the copy, stop the agent, remove \
                 its state directory and enrol it under a name of its own"
            ),
        );
    }
    if !fleet.accounts_for(hello.position, position.seq) {
        let held = hello.position;
        return hold(
            HoldReason::Ahead,
            format!(
                "node {name} has taken over intent that control does not know (seq {} of era {}, control is at seq {} of \
                 era {}); control was restored from an older copy",
                held.seq, held.era, position.seq, position.era
            ),
        );
    }
    if is_older_disk(member, hello) {
        return Reception::AdoptOnly(format!(
            "the disk of node {name} is older than its last session ({} before, {} now)",
            member.session, hello.session
        ));
    }
    Reception::Accepted
}

/// What the member record says after this hello; none if it stays as it is.
pub(super) fn note(member: &MemberRecord, hello: &Hello, reception: &Reception) -> Option<MemberRecord> {
    let identity_is_sound = match reception {
        Reception::Accepted | Reception::AdoptOnly(_) => true,
        Reception::Hold { reason: HoldReason::Ahead, .. } => hello.session >= member.session,
        Reception::Hold { .. } => false,
    };
    let noted = MemberRecord { session: hello.session, session_nonce: hello.nonce.clone(), ..member.clone() };
    (identity_is_sound && noted != *member).then_some(noted)
}

fn is_clone(member: &MemberRecord, hello: &Hello, other: Option<Other>) -> bool {
    let same_number = hello.session == member.session;
    let same_session = same_number && hello.nonce == member.session_nonce;
    match other {
        Some(other) => other.is_clone || hello.session <= member.session,
        None => same_number && !same_session,
    }
}

fn is_older_disk(member: &MemberRecord, hello: &Hello) -> bool {
    hello.session < member.session
}

fn hold(reason: HoldReason, message: String) -> Reception {
    Reception::Hold { reason, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::objects::EraRecord;

    fn member() -> MemberRecord {
        MemberRecord {
            uid: "u".into(),
            name: "edge-1".into(),
            key: "k".into(),
            machine_id: "m".into(),
            session: 5,
            session_nonce: "five".into(),
        }
    }

    fn hello(session: u64, nonce: &str) -> Hello {
        Hello {
            protocol: 1,
            agent_version: String::new(),
            features: vec![],
            boot_id: String::new(),
            machine_id: "m".into(),
            fleet: "f".into(),
            position: Position { era: 1, seq: 3 },
            session,
            nonce: nonce.into(),
            daemonsets: vec![],
            pods: vec![],
            permits: vec![],
        }
    }

    fn case(hello: &Hello, other: Option<Other>) -> (&'static str, u64) {
        let fleet = FleetRecord { id: "f".into(), eras: vec![EraRecord { era: 1, begins_at: 0, succeeds: [].into() }] };
        let position = Position { era: 1, seq: 3 };
        let known = Known { fleet: &fleet, position, member: &member(), other };
        let reception = receive(&known, hello);
        let noted = note(&member(), hello, &reception).map_or(member().session, |noted| noted.session);
        let name = match reception {
            Reception::Accepted => "accepted",
            Reception::AdoptOnly(_) => "adopt only",
            Reception::Hold { reason: HoldReason::OtherFleet, .. } => "other fleet",
            Reception::Hold { reason: HoldReason::OtherMachine, .. } => "other machine",
            Reception::Hold { reason: HoldReason::Clone, .. } => "clone",
            Reception::Hold { reason: HoldReason::Ahead, .. } => "ahead",
            Reception::Hold { reason: HoldReason::Recovery | HoldReason::Other, .. } => "other",
        };
        (name, noted)
    }

    #[test]
    fn each_way_to_be_received() {
        let sound = Some(Other { is_clone: false });
        let held = Some(Other { is_clone: true });
        let ahead = |session| Hello { position: Position { era: 1, seq: 4 }, ..hello(session, "new") };
        let cases = [
            ("the next session", hello(6, "six"), None, ("accepted", 6)),
            ("a reconnect before the loss was noticed", hello(6, "six"), sound, ("accepted", 6)),
            ("the same hello again", hello(5, "five"), None, ("accepted", 5)),
            ("one number, two nonces", hello(5, "other"), None, ("clone", 5)),
            ("one number, the other connected", hello(5, "five"), sound, ("clone", 5)),
            ("an older disk", hello(3, "three"), None, ("adopt only", 3)),
            ("an older disk, the newer one connected", hello(3, "three"), sound, ("clone", 5)),
            ("the other of two hosts that are held", hello(9, "nine"), held, ("clone", 5)),
            ("beyond what control knows", ahead(6), None, ("ahead", 6)),
            ("beyond what control knows, on an older disk", ahead(3), None, ("ahead", 5)),
            ("another fleet's ledger", Hello { fleet: "g".into(), ..hello(6, "six") }, None, ("other fleet", 5)),
            ("another machine", Hello { machine_id: "n".into(), ..hello(6, "six") }, None, ("other machine", 5)),
        ];
        for (name, hello, other, expected) in cases {
            assert_eq!(case(&hello, other), expected, "{name}");
        }
    }
}
