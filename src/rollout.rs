//! Which nodes may replace their running pod by the newest revision now.
//!
//! Pure. Control calls it with every node of one DaemonSet after each report; what it grants becomes a permit, a record
//! in the store, before a node hears of it (design.md §6).
//!
//! Source: kubernetes v1.36 `pkg/controller/daemon/update.go` (`rollingUpdate`, `updatedDesiredNodeCounts`). We differ on
//! purpose: nodes that are not connected spend no budget and block nothing, a slot is freed by the node's word alone,
//! and an unproven revision may not replace more pods at once than the budget, not even pods that are not available.

/// `updateStrategy.rollingUpdate` of one DaemonSet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Budget {
    /// `maxUnavailable`: so many nodes may be without an available pod, whatever the cause.
    Unavailable(Share),
    /// `maxSurge`: so many nodes may have two pods.
    Surge(Share),
}

/// A number of nodes as users write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// So many nodes.
    Nodes(u32),
    /// So many per cent of the nodes the DaemonSet is desired on, rounded up.
    Percent(u32),
}

impl Share {
    /// The number of nodes it means for `desired` nodes: never 0, or nothing would ever move.
    pub fn of(self, desired: usize) -> usize {
        let nodes = match self {
            Self::Nodes(nodes) => nodes as usize,
            Self::Percent(percent) => (desired * percent as usize).div_ceil(100),
        };
        nodes.max(1)
    }
}

/// One node on which the DaemonSet is desired, as its reports and permits tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// Its session is open. A node without one was lost before, unless it holds a permit.
    pub connected: bool,
    /// It holds a permit for the newest revision, taken or not.
    pub permitted: bool,
    /// It prepared the newest revision and asks for a permit, in the session that is open.
    pub asks: bool,
    /// It runs a pod of the newest revision.
    pub newest: bool,
    /// Its pod, of whatever revision, is available.
    pub available: bool,
}

/// The nodes, by their place in `nodes`, that are granted a permit now: pods that are not available first, otherwise in
/// the order given.
pub fn grant(budget: Budget, nodes: &[Node]) -> Vec<usize> {
    let (Budget::Unavailable(share) | Budget::Surge(share)) = budget;
    let is_surge = matches!(budget, Budget::Surge(_));
    let budget = share.of(nodes.len());
    let proven = nodes.iter().filter(|node| node.newest && node.available).count() >= budget;
    // A permit holds its slot until the node says that the new pod is available, however long it is silent.
    let mut slots = nodes.iter().filter(|node| node.permitted && !(node.newest && node.available)).count();
    // A surge takes no available pod away, so those that are down besides do not count against it.
    let is_down = |node: &&Node| !is_surge && node.connected && !node.permitted && !node.available;
    let mut down = nodes.iter().filter(is_down).count();

    let asking = |available| {
        let asks = move |node: &Node| node.connected && node.asks && !node.permitted && node.available == available;
        nodes.iter().enumerate().filter(move |(_, node)| asks(node)).map(|(index, _)| index)
    };
    let mut granted = Vec::new();
    for index in asking(false) {
        if proven || slots < budget {
            slots += 1;
            down -= usize::from(!is_surge);
            granted.push(index);
        }
    }
    for index in asking(true) {
        if slots + down < budget {
            slots += 1;
            granted.push(index);
        }
    }
    granted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A connected node that runs the old revision, available, and asks.
    const ASKS: Node = Node { connected: true, permitted: false, asks: true, newest: false, available: true };
    const DOWN: Node = Node { available: false, ..ASKS };
    const LOST_BEFORE: Node = Node { connected: false, asks: false, ..ASKS };
    const LOST_AFTER: Node = Node { connected: false, permitted: true, asks: false, ..ASKS };
    const MOVING: Node = Node { permitted: true, asks: false, available: false, ..ASKS };
    const DONE: Node = Node { permitted: true, newest: true, asks: false, ..ASKS };

    #[test]
    fn the_budget_is_rounded_up_and_never_nothing() {
        let cases = [
            (Share::Nodes(3), 10, 3),
            (Share::Nodes(0), 10, 1),
            (Share::Percent(10), 11, 2),
            (Share::Percent(0), 5, 1),
            (Share::Percent(100), 5, 5),
        ];
        for (share, desired, nodes) in cases {
            assert_eq!(share.of(desired), nodes, "{share:?} of {desired}");
        }
    }

    #[test]
    fn each_rule_of_the_grant() {
        let cases: [(&str, u32, &[Node], &[usize]); 10] = [
            ("one at a time", 1, &[ASKS, ASKS], &[0]),
            ("two at a time", 2, &[ASKS, ASKS, ASKS], &[0, 1]),
            ("a moving node holds its slot", 1, &[ASKS, MOVING], &[]),
            ("an available new pod frees it", 1, &[ASKS, DONE], &[0]),
            ("nodes lost before spend nothing", 1, &[LOST_BEFORE, LOST_BEFORE, ASKS], &[2]),
            ("nodes lost after do", 1, &[LOST_AFTER, ASKS], &[]),
            ("pods that are not available go first", 1, &[ASKS, DOWN], &[1]),
            ("an unproven revision replaces them within the budget", 1, &[DOWN, DOWN, DOWN], &[0]),
            ("a proven one replaces them all", 1, &[DOWN, DOWN, DONE], &[0, 1]),
            ("an old pod that is down spends budget", 1, &[ASKS, Node { asks: false, ..DOWN }], &[]),
        ];
        for (rule, budget, nodes, granted) in cases {
            assert_eq!(grant(Budget::Unavailable(Share::Nodes(budget)), nodes), granted, "{rule}");
        }
    }

    #[test]
    fn a_surge_counts_the_nodes_with_two_pods_and_no_others() {
        let surge = |nodes: &[Node]| grant(Budget::Surge(Share::Nodes(1)), nodes);
        let idle_down = Node { asks: false, ..DOWN };
        assert_eq!(surge(&[ASKS, idle_down]), [0], "an old pod that is down spends nothing");
        assert_eq!(
            surge(&[ASKS, Node { available: true, ..MOVING }]),
            [0; 0],
            "a second pod beside an available one does"
        );
        assert_eq!(surge(&[ASKS, DOWN]), [1]);
        assert_eq!(surge(&[DOWN, DOWN, DONE]), [0, 1]);
    }

    fn any_node() -> impl Strategy<Value = Node> {
        any::<[bool; 5]>().prop_map(|[connected, permitted, asks, newest, available]| Node {
            connected,
            permitted,
            asks,
            newest,
            available,
        })
    }

    proptest! {
        #[test]
        fn a_grant_never_takes_more_available_pods_down_than_the_budget(
            nodes in proptest::collection::vec(any_node(), 0..40),
            budget in 1u32..6,
        ) {
            let granted = grant(Budget::Unavailable(Share::Nodes(budget)), &nodes);
            for &index in &granted {
                prop_assert!(nodes[index].connected && nodes[index].asks && !nodes[index].permitted);
            }
            if granted.iter().any(|&index| nodes[index].available) {
                let moving = |index: usize| {
                    let node = nodes[index];
                    granted.contains(&index) || node.permitted && !(node.newest && node.available)
                };
                let down = (0..nodes.len())
                    .filter(|&index| moving(index) || nodes[index].connected && !nodes[index].available && !nodes[index].permitted)
                    .count();
                prop_assert!(down <= budget as usize, "{down} nodes down");
            }
        }
    }
}
