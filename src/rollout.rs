//! Which nodes may replace their running pod by the newest revision now.
//!
//! Pure. Control calls it with every node of one DaemonSet after each report; what it grants becomes a permit, a record
//! in the store, before a node hears of it (design.md §6). [`causes`] says of every node why it is where it is.
//!
//! Source: kubernetes v1.36 `pkg/controller/daemon/update.go` (`rollingUpdate`, `updatedDesiredNodeCounts`). We differ on
//! purpose: nodes that are not connected spend no budget and block nothing, a slot is freed by the node's word alone,
//! and an unproven revision may not replace more pods at once than the budget, not even pods that are not available.

pub mod causes;

use crate::model::Incumbent;

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

/// One node the user wants the DaemonSet on, as its reports and permits tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// Its session is open. A node without one was lost before, unless it holds a permit.
    pub connected: bool,
    /// The DaemonSet is desired here now, as its status counts it: nothing is against it, not even the node's conditions.
    pub desired: bool,
    /// It holds a permit for the newest revision, taken or not.
    pub permitted: bool,
    /// It asks for a permit for the newest revision, in the session that is open, and says what would make way.
    pub asks: Option<Incumbent>,
    /// It has no pod, of whatever revision.
    pub vacant: bool,
    /// It had its time: long after its permit the pod is not available, or it is in trouble. First pods elsewhere do not
    /// wait for it.
    pub stuck: bool,
    /// It runs a pod of the newest revision.
    pub newest: bool,
    /// Its pod, of whatever revision, is available.
    pub available: bool,
}

impl Node {
    /// A pod is available there, by what it reported or by what it said as it asked: either may be what is so by now.
    pub fn is_up(&self) -> bool {
        self.available || self.asks == Some(Incumbent::Available)
    }

    /// It is without an available pod, and no permit explains that. A surge takes no available pod away.
    fn is_down(&self, budget: Budget) -> bool {
        let is_surge = matches!(budget, Budget::Surge(_));
        !is_surge && self.desired && self.connected && !self.permitted && !self.is_up()
    }
}

/// How much of a budget is used, in nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// So many may be used.
    pub budget: usize,
    /// Nodes that hold a permit and have not said that the new pod is available, however long they are silent.
    pub slots: usize,
    /// Connected nodes whose pod is not available for another reason; none while a surge takes no available pod away.
    pub down: usize,
    /// The newest revision is available on so many nodes that it may replace every pod that is not available.
    pub proven: bool,
}

impl Usage {
    /// What the nodes use of a budget. A node that is not desired any more uses its slot, but does not count towards a share.
    pub fn of(budget: Budget, nodes: &[Node]) -> Self {
        let count = |is: &dyn Fn(&Node) -> bool| nodes.iter().filter(|node| is(node)).count();
        let (Budget::Unavailable(share) | Budget::Surge(share)) = budget;
        let down = count(&|node| node.is_down(budget));
        let budget = share.of(count(&|node| node.desired));
        Self {
            budget,
            slots: count(&|node| node.permitted && !(node.newest && node.available)),
            down,
            proven: count(&|node| node.newest && node.available) >= budget,
        }
    }

    /// All that is used.
    pub fn used(&self) -> usize {
        self.slots + self.down
    }
}

/// The nodes, by their place in `nodes`, that are granted a permit now: first pods, then pods that are not available,
/// otherwise in the order given.
///
/// First pods take nothing down, and the budget does not matter to them: so many begin at once as are available by then, and
/// one more, which makes 1, 2, 4, … while all goes well, and one after the other while none becomes available. Upstream
/// makes all at once. While some node runs an older revision, a node without a pod is like one whose pod is not available.
pub fn grant(budget: Budget, nodes: &[Node]) -> Vec<usize> {
    let mut usage = Usage::of(budget, nodes);
    let asking = |is_such: fn(&Node) -> bool| {
        let asks = |node: &Node| node.connected && node.desired && node.asks.is_some() && !node.permitted;
        let is_one = move |(_, node): &(usize, &Node)| asks(node) && is_such(node);
        nodes.iter().enumerate().filter(is_one).map(|(index, _)| index)
    };
    let is_done = |node: &Node| node.newest && node.available;
    let at_once = nodes.iter().filter(|node| is_done(node)).count() + 1;
    let mut begun = nodes.iter().filter(|node| node.permitted && !node.stuck && !is_done(node)).count();
    let is_first = nodes.iter().all(|node| node.vacant || node.newest);
    let mut granted = Vec::new();
    let mut give = |index: usize, usage: &mut Usage| {
        // It has a slot now, whatever it counted as before.
        usage.slots += 1;
        usage.down -= usize::from(nodes[index].is_down(budget));
        granted.push(index);
    };
    for index in asking(|node| node.vacant && !node.is_up()) {
        let has_room = if is_first { begun < at_once } else { usage.proven || usage.slots < usage.budget };
        if has_room {
            begun += 1;
            give(index, &mut usage);
        }
    }
    for index in asking(|node| !node.vacant && !node.is_up()) {
        if usage.proven || usage.slots < usage.budget {
            give(index, &mut usage);
        }
    }
    for index in asking(Node::is_up) {
        if usage.used() < usage.budget {
            give(index, &mut usage);
        }
    }
    granted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A connected node that runs the old revision, available, and asks.
    const ASKS: Node = Node {
        connected: true,
        desired: true,
        permitted: false,
        asks: Some(Incumbent::Available),
        vacant: false,
        stuck: false,
        newest: false,
        available: true,
    };
    const DOWN: Node = Node { asks: Some(Incumbent::Unavailable), available: false, ..ASKS };
    const LOST_BEFORE: Node = Node { connected: false, asks: None, ..ASKS };
    const LOST_AFTER: Node = Node { connected: false, permitted: true, asks: None, ..ASKS };
    /// It says that its pod is available, which has not been reported yet.
    const JUST_UP: Node = Node { available: false, ..ASKS };
    const UNREACHABLE: Node = Node { desired: false, available: false, ..LOST_AFTER };
    const MOVING: Node = Node { permitted: true, asks: None, available: false, ..ASKS };
    const DONE: Node = Node { permitted: true, newest: true, asks: None, ..ASKS };

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
        let cases: [(&str, u32, &[Node], &[usize]); 16] = [
            ("one at a time", 1, &[ASKS, ASKS], &[0]),
            ("two at a time", 2, &[ASKS, ASKS, ASKS], &[0, 1]),
            ("a moving node holds its slot", 1, &[ASKS, MOVING], &[]),
            ("an available new pod frees it", 1, &[ASKS, DONE], &[0]),
            ("nodes lost before spend nothing", 1, &[LOST_BEFORE, LOST_BEFORE, ASKS], &[2]),
            ("nodes lost after do", 1, &[LOST_AFTER, ASKS], &[]),
            ("also when their taints say that they are not there", 1, &[UNREACHABLE, ASKS], &[]),
            ("a node that is not ready is not granted to", 1, &[Node { desired: false, ..ASKS }, ASKS], &[1]),
            ("pods that are not available go first", 1, &[ASKS, DOWN], &[1]),
            ("an unproven revision replaces them within the budget", 1, &[DOWN, DOWN, DOWN], &[0]),
            ("a proven one replaces them all", 1, &[DOWN, DOWN, DONE], &[0, 1]),
            ("a pod that has come up is replaced within the budget", 1, &[JUST_UP], &[0]),
            ("it is not down any more", 1, &[JUST_UP, JUST_UP], &[0]),
            ("and not beside another", 1, &[JUST_UP, MOVING], &[]),
            ("also by a proven one", 1, &[JUST_UP, MOVING, DONE], &[]),
            ("an old pod that is down spends budget", 1, &[ASKS, Node { asks: None, ..DOWN }], &[]),
        ];
        for (rule, budget, nodes, granted) in cases {
            assert_eq!(grant(Budget::Unavailable(Share::Nodes(budget)), nodes), granted, "{rule}");
        }
    }

    #[test]
    fn a_surge_counts_the_nodes_with_two_pods_and_no_others() {
        let surge = |nodes: &[Node]| grant(Budget::Surge(Share::Nodes(1)), nodes);
        let idle_down = Node { asks: None, ..DOWN };
        assert_eq!(surge(&[ASKS, idle_down]), [0], "an old pod that is down spends nothing");
        assert_eq!(
            surge(&[ASKS, Node { available: true, ..MOVING }]),
            [0; 0],
            "a second pod beside an available one does"
        );
        assert_eq!(surge(&[ASKS, DOWN]), [1]);
        assert_eq!(surge(&[DOWN, DOWN, DONE]), [0, 1]);
    }

    #[test]
    fn first_pods_begin_on_ever_more_nodes_while_all_goes_well() {
        const FIRST: Node = Node { asks: Some(Incumbent::None), vacant: true, available: false, ..ASKS };
        const BEGINS: Node = Node { newest: true, ..MOVING };
        let first = |nodes: &[Node]| grant(Budget::Unavailable(Share::Nodes(1)), nodes).len();
        // So many nodes are available, so many begin; so many more may.
        for (available, beginning, expected) in
            [(0, 0, 1), (0, 1, 0), (1, 0, 2), (1, 1, 1), (1, 2, 0), (3, 0, 4), (3, 3, 1), (7, 0, 8), (30, 0, 20)]
        {
            let nodes = [vec![DONE; available], vec![BEGINS; beginning], vec![FIRST; 20]].concat();
            assert_eq!(first(&nodes), expected, "{available} available, {beginning} begin");
        }
        assert_eq!(first(&[Node { stuck: true, ..BEGINS }, BEGINS, FIRST]), 0);
        assert_eq!(first(&[Node { stuck: true, ..BEGINS }, FIRST, FIRST]), 1, "one that is stuck keeps nobody waiting");
        assert_eq!(first(&[Node { permitted: false, ..DONE }, FIRST]), 1, "pods that were made without a permit count");
        assert_eq!(first(&[MOVING, FIRST]), 0, "in a rollout the budget holds");
        assert_eq!(first(&[ASKS, FIRST, FIRST]), 1, "and it is unproven");
    }

    fn any_node() -> impl Strategy<Value = Node> {
        let incumbents = [Incumbent::None, Incumbent::Unavailable, Incumbent::Available].map(Some);
        let asks = proptest::sample::select([&[None], &incumbents[..]].concat());
        (any::<[bool; 6]>(), asks).prop_map(|([connected, desired, permitted, newest, available, vacant], asks)| Node {
            connected,
            desired,
            permitted,
            asks,
            vacant: vacant && !newest && !available,
            stuck: false,
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
                let node = nodes[index];
                prop_assert!(node.connected && node.desired && node.asks.is_some() && !node.permitted);
            }
            if granted.iter().any(|&index| nodes[index].is_up()) {
                let moving = |index: usize| {
                    let node = nodes[index];
                    granted.contains(&index) || node.permitted && !(node.newest && node.available)
                };
                let is_down = |node: Node| node.desired && node.connected && !node.is_up() && !node.permitted;
                let down = (0..nodes.len()).filter(|&index| moving(index) || is_down(nodes[index])).count();
                prop_assert!(down <= budget as usize, "{down} nodes down");
            }
        }
    }
}
