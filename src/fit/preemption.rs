//! Whether there is room for a pod, and who makes way for one of a higher priority if there is none.
//!
//! Source: kubernetes v1.36 `pkg/scheduler/framework/plugins/defaultpreemption/default_preemption.go`
//! (`SelectVictimsOnNode`, `PodEligibleToPreemptOthers`) and `pkg/scheduler/util/utils.go` (`MoreImportantPod`). Upstream a
//! DaemonSet's pods are placed by the scheduler, which has one node to choose from: its rule holds here, for host ports as for
//! resources. Pods that were posted with a node's name never met it; of those the critical ones alone find others making way,
//! as they do on a kubelet (`pkg/kubelet/preemption/preemption.go`). We differ on purpose: those are chosen by the same rule, by
//! priority first, and both mind `preemptionPolicy`; a DaemonSet's pods never make way for one another, which is for a permit to
//! say; budgets of disruption have no effect here.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{Admitted, Rejection, admit};
use crate::podspec::Pod;

/// A pod that has its place.
#[derive(Debug, Clone, Copy)]
pub struct Holder<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// When it was made: of equals the newest makes way first.
    pub created_at: Timestamp,
    /// It is on its way out.
    pub leaves: bool,
}

/// Whether there is room for a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Room<'a> {
    /// There is.
    There,
    /// There will be, once these and those that leave already have left; why not yet.
    Expected(Vec<&'a Pod>, Rejection),
    /// It is taken; what is short.
    Taken(Rejection),
}

/// Says whether there is room for a pod beside `holders`, and who has to make some. `allocatable` is as for [`admit`].
pub fn room<'a>(pod: &Pod, holders: &[Holder<'a>], allocatable: &BTreeMap<String, u64>) -> Room<'a> {
    let fits = |beside: &[Holder<'_>]| {
        let beside: Vec<_> =
            beside.iter().map(|holder| Admitted { key: &holder.pod.key, requests: &holder.pod.requests }).collect();
        admit(&pod.requests, &beside, allocatable)
    };
    let Err(rejection) = fits(holders) else { return Room::There };
    let staying: Vec<_> = holders.iter().filter(|holder| !holder.leaves).copied().collect();
    if fits(&staying).is_ok() {
        return Room::Expected(Vec::new(), rejection);
    }
    let is_of_same_set = |other: &Pod| pod.origin.daemonset.is_some() && pod.origin.daemonset == other.origin.daemonset;
    let yields = |holder: &Holder<'_>| holder.pod.priority < pod.priority && !is_of_same_set(holder.pod);
    let (mut lesser, mut kept): (Vec<_>, Vec<_>) = staying.into_iter().partition(yields);
    if !may_preempt(pod) || fits(&kept).is_err() {
        return Room::Taken(rejection);
    }
    // Whoever matters more is kept before others are, if there is room for it.
    lesser.sort_by_key(|holder| (Reverse(holder.pod.priority), holder.created_at));
    let mut victims = Vec::new();
    for holder in lesser {
        kept.push(holder);
        if fits(&kept).is_err() {
            kept.pop();
            victims.push(holder.pod);
        }
    }
    Room::Expected(victims, rejection)
}

fn may_preempt(pod: &Pod) -> bool {
    pod.preempts && (pod.origin.daemonset.is_some() || pod.is_critical())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::podspec::{PortMapping, Protocol};
    use crate::testing::pods;

    /// Name, priority, millicores and when it was made.
    type Row = (&'static str, i32, u64, i64);

    /// A pod of a DaemonSet of its own.
    fn pod((name, priority, cpu, _): Row) -> Pod {
        let mut pod = Pod { priority, ..pods::pod(name, Path::new("/")) };
        pod.origin.daemonset = Some(name.into());
        pod.requests.resources = [("cpu".to_owned(), cpu)].into();
        pod
    }

    /// Who makes way for a pod of priority 100 on a node of 1000 millicores and 5 pods; each is changed first.
    fn victims(newcomer: impl FnOnce(&mut Pod), rows: &[Row], change: impl Fn(&mut Pod)) -> Option<Vec<String>> {
        let mut wanted = pod(("new", 100, 500, 0));
        newcomer(&mut wanted);
        let mut pods: Vec<_> = rows.iter().map(|row| pod(*row)).collect();
        pods.iter_mut().for_each(change);
        let holders: Vec<_> = std::iter::zip(rows, &pods)
            .map(|(row, pod)| Holder {
                pod,
                created_at: Timestamp::from_second(row.3).unwrap(),
                leaves: pod.key.name.starts_with("leaves"),
            })
            .collect();
        let allocatable = [("cpu".to_owned(), 1000), ("pods".to_owned(), 5)].into();
        match room(&wanted, &holders, &allocatable) {
            Room::Expected(victims, _) => Some(victims.into_iter().map(|pod| pod.key.name.clone()).collect()),
            Room::Taken(_) => None,
            Room::There => panic!("there is room"),
        }
    }

    /// The same for pods as they are.
    fn of(rows: &[Row]) -> Option<Vec<String>> {
        victims(|_| {}, rows, |_| {})
    }

    fn names(names: &[&str]) -> Option<Vec<String>> {
        Some(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn those_of_the_lowest_priority_make_way_and_no_more_than_are_needed() {
        assert_eq!(of(&[("low", 0, 600, 1), ("mid", 50, 400, 2)]), names(&["low"]));
        assert_eq!(of(&[("low", 0, 100, 1), ("mid", 50, 900, 2)]), names(&["mid"]), "the low one would not be enough");
        let all = |pod: &mut Pod| pod.requests.resources = [("cpu".to_owned(), 1000)].into();
        assert_eq!(victims(all, &[("low", 0, 400, 1), ("mid", 50, 600, 2)], |_| {}), names(&["mid", "low"]));
        assert_eq!(of(&[("old", 0, 500, 1), ("young", 0, 500, 2)]), names(&["young"]));
        assert_eq!(of(&[("peer", 100, 600, 1), ("low", 0, 300, 1)]), None, "equals do not make way");
        assert_eq!(of(&[("peer", 100, 500, 1), ("low", 0, 300, 1)]), names(&["low"]));
        let crowd = [("a", 1, 1, 1), ("b", 2, 1, 1), ("c", 3, 1, 1), ("d", 4, 1, 1), ("e", 5, 1, 1)];
        assert_eq!(of(&crowd), names(&["a"]), "their number counts, too");
    }

    #[test]
    fn those_that_leave_already_are_waited_for_first() {
        assert_eq!(of(&[("leaves", 0, 600, 1), ("low", 0, 400, 1)]), names(&[]));
        assert_eq!(of(&[("leaves", 900, 600, 1), ("low", 0, 400, 1)]), names(&[]));
        assert_eq!(of(&[("leaves", 0, 300, 1), ("low", 0, 700, 1)]), names(&["low"]));
    }

    #[test]
    fn a_port_is_won_from_who_holds_it_and_nobody_else_goes() {
        let port = PortMapping { protocol: Protocol::Tcp, container_port: 1, host_port: 80, host_ip: None };
        let takes = |pod: &mut Pod| pod.requests.host_ports = vec![port.clone()];
        let holds = |pod: &mut Pod| {
            if pod.key.name == "web" {
                takes(pod);
            }
        };
        let rows = [("other", 0, 100, 1), ("web", 50, 100, 1)];
        assert_eq!(victims(takes, &rows, holds), names(&["web"]));
        assert_eq!(victims(takes, &[("web", 100, 100, 1)], holds), None);
    }

    #[test]
    fn who_may_not_preempt_waits() {
        let rows = [("low", 0, 1000, 1)];
        assert_eq!(victims(|pod| pod.preempts = false, &rows, |_| {}), None);
        assert_eq!(victims(|pod| pod.preempts = false, &[("leaves", 0, 1000, 1)], |_| {}), names(&[]));
        let posted = |priority| victims(|pod| (pod.origin.daemonset, pod.priority) = (None, priority), &rows, |_| {});
        assert_eq!(posted(1_000_000_000), None, "on a kubelet it would have failed");
        assert_eq!(posted(2_000_000_000), names(&["low"]));
        // One's own predecessor stays, whatever it is worth.
        let same = |pod: &mut Pod| pod.origin.daemonset = Some("new".into());
        assert_eq!(victims(|_| {}, &rows, same), None);
        // Posted pods are of no set.
        assert_eq!(victims(|_| {}, &rows, |pod| pod.origin.daemonset = None), names(&["low"]));
    }
}
