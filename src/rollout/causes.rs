//! Why every node of a fleet is where it is with the newest revision of one DaemonSet, and what comes of that for the whole.
//!
//! Pure. Control calls it with what permits, sessions and reports tell of each node; every node has exactly one [`Cause`], so
//! that counted by it they add up to the number of nodes. `kubectl` shows what it says, in words.

use std::collections::BTreeMap;

use super::{Node, Usage};

/// How many nodes are named in one line.
const NAMED: usize = 3;

/// Where a node is with the newest revision. The order is that of a table: what is done comes last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// It took the revision, and the pod is in trouble.
    Unhealthy,
    /// It is not heard of since it was granted the revision, or took it.
    LostAfter,
    /// It went back to the revision before by itself.
    Rejected,
    /// It found while preparing that the revision would not work here.
    Unable,
    /// It took the revision, and its pod is not available yet.
    Taken,
    /// It was granted a permit and has not taken it yet.
    Granted,
    /// It is prepared, and waits for room in the budget.
    Asked,
    /// It is yet to prepare, or waits for its user.
    Pending,
    /// It takes nothing from control.
    Held,
    /// It was not heard of before it was granted anything; it catches up.
    LostBefore,
    /// The pod does not belong here.
    NotEligible,
    /// It moved to the revision under a permit, and the pod is available.
    Available,
    /// Its pod is available, and was made of the revision from the start.
    UpToDate,
}

/// What is known of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known<'a> {
    /// As the budget counts it.
    pub node: Node,
    /// The user wants the DaemonSet here; the node's conditions do not matter.
    pub belongs: bool,
    /// Everything that is against the pod here now; empty where it is desired.
    pub against: &'a str,
    /// Why the node holds, if it does.
    pub held: Option<&'a str>,
    /// Its permit for the newest revision is in its ledger.
    pub taken: bool,
    /// It went back from the newest revision.
    pub rejected: bool,
    /// What preparing the newest revision failed for.
    pub unable: Option<&'a str>,
    /// What is wrong with its pod of the newest revision, if it has one.
    pub trouble: Option<&'a str>,
    /// It has a pod of an older revision, which only the user replaces (`OnDelete`).
    pub waits_for_user: bool,
}

impl Cause {
    /// Where a node is. Records come before what a node says, and that before what is only likely.
    pub fn of(known: &Known<'_>) -> Self {
        let Known { node, .. } = known;
        match known {
            _ if !known.belongs => Self::NotEligible,
            _ if node.newest && node.available && node.permitted => Self::Available,
            _ if node.newest && node.available => Self::UpToDate,
            _ if known.held.is_some() => Self::Held,
            _ if !node.connected && (node.permitted || node.newest) => Self::LostAfter,
            _ if !node.connected => Self::LostBefore,
            _ if known.rejected => Self::Rejected,
            _ if known.trouble.is_some() => Self::Unhealthy,
            _ if node.newest || node.permitted && known.taken => Self::Taken,
            _ if node.permitted => Self::Granted,
            _ if !node.desired => Self::NotEligible,
            _ if known.unable.is_some() => Self::Unable,
            _ if node.asks.is_some() => Self::Asked,
            _ => Self::Pending,
        }
    }

    /// Why, for people; empty where there is nothing to explain.
    pub fn explain(self, known: &Known<'_>) -> String {
        let said = match self {
            Self::NotEligible => known.against,
            Self::Held => known.held.unwrap_or_default(),
            Self::Unhealthy => known.trouble.unwrap_or_default(),
            Self::Unable => known.unable.unwrap_or_default(),
            Self::LostBefore => "the node is not connected; it catches up when it is back",
            Self::LostAfter if known.taken || known.node.newest => {
                "the node is not connected since it took the revision"
            }
            Self::LostAfter => "the node is not connected since it was granted a permit",
            Self::Rejected => "the node went back to the revision before, for this one was never available there",
            Self::Taken if known.node.newest => "the new pod is not available yet",
            Self::Taken => "the pod is being replaced",
            Self::Granted => "a permit is on its way to the node",
            Self::Asked if known.node.vacant => "the first pods of a DaemonSet begin on a few nodes, then on ever more",
            Self::Asked => "the node is prepared and waits for room in the budget",
            Self::Pending if known.waits_for_user => "the pod is replaced when it is deleted (OnDelete)",
            Self::Pending => "the node is getting ready for the revision",
            Self::Available | Self::UpToDate => "",
        };
        said.to_owned()
    }

    /// Whether the node has nothing to do with a rollout that goes on: it has the revision, is no place for it, or
    /// catches up by itself.
    fn is_over(self) -> bool {
        matches!(self, Self::Available | Self::UpToDate | Self::NotEligible | Self::LostBefore | Self::Held)
    }

    /// Whether the node keeps a rollout from going on.
    fn is_against(self) -> bool {
        matches!(self, Self::Unhealthy | Self::LostAfter | Self::Rejected | Self::Unable)
    }

    fn is_done(self) -> bool {
        matches!(self, Self::Available | Self::UpToDate)
    }
}

/// What a rollout has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Some node goes on.
    RollingOut,
    /// No node goes on, and not all are done.
    Stalled,
    /// Every node that can be had is done.
    Complete,
}

impl Phase {
    /// What the nodes' causes come to. Whatever happens to nodes after a revision was complete is not its rollout's.
    pub fn of(causes: &[Cause], usage: &Usage, was_complete: bool) -> Self {
        let goes_on = |cause: &Cause| match cause {
            Cause::Taken | Cause::Granted | Cause::Pending => true,
            Cause::Asked => usage.used() < usage.budget,
            _ => false,
        };
        if was_complete || causes.iter().all(|cause| cause.is_over()) {
            Self::Complete
        } else if causes.iter().any(goes_on) {
            Self::RollingOut
        } else {
            Self::Stalled
        }
    }
}

/// The nodes by their causes. Causes that no node has are left out.
pub fn counted(causes: &[Cause]) -> BTreeMap<Cause, usize> {
    let mut counts = BTreeMap::new();
    causes.iter().for_each(|cause| *counts.entry(*cause).or_insert(0) += 1);
    counts
}

/// A rollout in one line. `why` gives the name of the node at a place in `causes`, and what [`Cause::explain`] says of it.
pub fn summary(
    phase: Phase,
    revision: &str,
    causes: &[Cause],
    usage: &Usage,
    why: &dyn Fn(usize) -> (String, String),
) -> String {
    let number = |is: fn(Cause) -> bool| causes.iter().filter(|cause| is(**cause)).count();
    let done = number(Cause::is_done);
    let later = number(|cause| matches!(cause, Cause::LostBefore | Cause::Held));
    let all = causes.len() - number(|cause| cause == Cause::NotEligible);
    let on = format!("revision {revision} is on {done} of {all} nodes");
    let used = format!("{} of {} nodes of the budget are used", usage.used(), usage.budget);
    match phase {
        Phase::Complete if later == 0 => on,
        Phase::Complete => format!("{on}; {later} that could not be had catch up"),
        Phase::RollingOut => format!("{on}; {used}"),
        Phase::Stalled => {
            let against: Vec<_> = (0..causes.len()).filter(|index| causes[*index].is_against()).collect();
            let named = against.iter().take(NAMED).map(|index| {
                let (name, why) = why(*index);
                format!("{name} {:?}: {why}", causes[*index])
            });
            let mut text = format!("{on} and goes no further; {used}");
            named.for_each(|one| text.extend(["; ", &one]));
            if against.len() > NAMED {
                text.push_str(&format!("; and {} more", against.len() - NAMED));
            }
            text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Budget, Share};
    use super::*;
    use crate::model::Incumbent;

    /// A connected node whose pod of an older revision is available.
    const OLD: Node = Node {
        connected: true,
        desired: true,
        permitted: false,
        asks: None,
        vacant: false,
        stuck: false,
        newest: false,
        available: true,
    };
    const BASE: Known<'static> = Known {
        node: OLD,
        belongs: true,
        against: "",
        held: None,
        taken: false,
        rejected: false,
        unable: None,
        trouble: None,
        waits_for_user: false,
    };
    const DOWN: Node = Node { available: false, ..OLD };
    const PERMITTED: Node = Node { permitted: true, ..OLD };
    const AWAY: Node = Node { connected: false, desired: false, ..DOWN };
    const NEW: Node = Node { newest: true, ..OLD };

    fn cause(known: Known<'_>) -> (Cause, String) {
        let cause = Cause::of(&known);
        (cause, cause.explain(&known))
    }

    #[test]
    fn every_node_has_the_cause_that_its_records_tell() {
        let tainted = "the node has taint a:NoSchedule";
        let prepared = "ErrImagePull: no such image";
        let trouble = Some("container web: CrashLoopBackOff");
        let rows: [(&str, Known<'_>, Cause); 20] = [
            ("nothing was said yet", BASE, Cause::Pending),
            ("it asks", Known { node: Node { asks: Some(Incumbent::Available), ..OLD }, ..BASE }, Cause::Asked),
            ("it cannot", Known { unable: Some(prepared), ..BASE }, Cause::Unable),
            ("a permit is out", Known { node: PERMITTED, ..BASE }, Cause::Granted),
            ("it was taken", Known { node: PERMITTED, taken: true, ..BASE }, Cause::Taken),
            ("the new pod starts", Known { node: Node { newest: true, ..DOWN }, ..BASE }, Cause::Taken),
            ("it fails", Known { node: Node { newest: true, ..DOWN }, trouble, ..BASE }, Cause::Unhealthy),
            ("it fails beside the old one", Known { node: PERMITTED, taken: true, trouble, ..BASE }, Cause::Unhealthy),
            ("it moved", Known { node: Node { permitted: true, ..NEW }, taken: true, ..BASE }, Cause::Available),
            ("it began there", Known { node: NEW, ..BASE }, Cause::UpToDate),
            ("it was away", Known { node: AWAY, against: tainted, ..BASE }, Cause::LostBefore),
            ("it left with a permit", Known { node: Node { permitted: true, ..AWAY }, ..BASE }, Cause::LostAfter),
            ("it left with the revision", Known { node: Node { newest: true, ..AWAY }, ..BASE }, Cause::LostAfter),
            ("a blip is no loss", Known { node: Node { connected: false, ..NEW }, ..BASE }, Cause::UpToDate),
            ("it went back", Known { node: PERMITTED, taken: true, rejected: true, ..BASE }, Cause::Rejected),
            ("it holds", Known { node: AWAY, held: Some("two hosts"), ..BASE }, Cause::Held),
            ("no place for it", Known { belongs: false, against: tainted, ..BASE }, Cause::NotEligible),
            ("nor where it was", Known { node: NEW, belongs: false, against: tainted, ..BASE }, Cause::NotEligible),
            (
                "not while it is not ready",
                Known { node: Node { desired: false, ..OLD }, against: tainted, ..BASE },
                Cause::NotEligible,
            ),
            (
                "but a permit counts whatever its conditions are",
                Known { node: Node { desired: false, ..PERMITTED }, taken: true, ..BASE },
                Cause::Taken,
            ),
        ];
        for (row, known, expected) in rows {
            assert_eq!(Cause::of(&known), expected, "{row}");
        }
        assert_eq!(cause(Known { unable: Some(prepared), ..BASE }).1, prepared);
        assert_eq!(cause(Known { belongs: false, against: tainted, ..BASE }).1, tainted);
        assert_eq!(
            cause(Known { waits_for_user: true, ..BASE }).1,
            "the pod is replaced when it is deleted (OnDelete)"
        );
    }

    #[test]
    fn a_rollout_goes_on_is_stopped_or_is_over() {
        let usage = |slots| Usage { budget: 1, slots, down: 0, proven: false };
        let rows: [(&str, &[Cause], usize, bool, Phase); 10] = [
            ("no nodes", &[], 0, false, Phase::Complete),
            ("all done", &[Cause::UpToDate, Cause::Available, Cause::NotEligible], 0, false, Phase::Complete),
            (
                "those that are away catch up",
                &[Cause::Available, Cause::LostBefore, Cause::Held],
                0,
                false,
                Phase::Complete,
            ),
            ("one begins", &[Cause::Pending, Cause::UpToDate], 0, false, Phase::RollingOut),
            ("one goes on", &[Cause::Taken, Cause::Asked], 1, false, Phase::RollingOut),
            ("there is room", &[Cause::Unable, Cause::Asked], 0, false, Phase::RollingOut),
            ("there is none", &[Cause::Unhealthy, Cause::Asked], 1, false, Phase::Stalled),
            ("nobody can", &[Cause::Unable, Cause::Unable], 0, false, Phase::Stalled),
            ("the last one was lost", &[Cause::Available, Cause::LostAfter], 1, false, Phase::Stalled),
            ("it was lost later", &[Cause::Available, Cause::LostAfter], 1, true, Phase::Complete),
        ];
        for (row, causes, slots, was_complete, expected) in rows {
            assert_eq!(Phase::of(causes, &usage(slots), was_complete), expected, "{row}");
        }
    }

    #[test]
    fn one_line_says_how_far_it_is_and_who_stops_it() {
        let usage = Usage { budget: 2, slots: 2, down: 0, proven: false };
        let causes = [Cause::Unhealthy, Cause::LostAfter, Cause::Available, Cause::Asked, Cause::NotEligible];
        let line = |phase, causes: &[Cause]| {
            summary(phase, "abc", causes, &usage, &|index| (format!("edge-{index}"), "why".to_owned()))
        };
        assert_eq!(
            line(Phase::Stalled, &causes),
            "revision abc is on 1 of 4 nodes and goes no further; 2 of 2 nodes of the budget are used; edge-0 Unhealthy: \
             why; edge-1 LostAfter: why"
        );
        assert_eq!(
            line(Phase::RollingOut, &causes),
            "revision abc is on 1 of 4 nodes; 2 of 2 nodes of the budget are used"
        );
        assert_eq!(line(Phase::Complete, &[Cause::UpToDate, Cause::NotEligible]), "revision abc is on 1 of 1 nodes");
        assert_eq!(
            line(Phase::Complete, &[Cause::UpToDate, Cause::LostBefore]),
            "revision abc is on 1 of 2 nodes; 1 that could not be had catch up"
        );
        assert!(line(Phase::Stalled, &[Cause::Unable; 5]).ends_with("edge-2 Unable: why; and 2 more"));
    }

    #[test]
    fn the_counts_add_up_to_the_nodes() {
        let causes = [Cause::Asked, Cause::UpToDate, Cause::Asked];
        assert_eq!(counted(&causes), BTreeMap::from([(Cause::Asked, 2), (Cause::UpToDate, 1)]));
    }

    #[test]
    fn a_node_that_uses_the_budget_is_not_taken_for_one_that_is_over() {
        // Whatever else is known of it, a slot in use is explained by a cause that shows in the rollout.
        let bools = |bits: u32, bit: u32| bits & (1 << bit) != 0;
        for bits in 0..64 {
            let node = Node {
                connected: bools(bits, 0),
                desired: bools(bits, 1),
                permitted: true,
                asks: bools(bits, 2).then_some(Incumbent::Available),
                vacant: false,
                stuck: false,
                newest: bools(bits, 3),
                available: bools(bits, 4),
            };
            let slots = Usage::of(Budget::Unavailable(Share::Nodes(1)), &[node]).slots;
            let cause = Cause::of(&Known { node, taken: bools(bits, 5), ..BASE });
            assert_eq!(slots == 0, cause.is_over(), "{node:?}");
        }
    }
}
