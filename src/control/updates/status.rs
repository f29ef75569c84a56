//! The status of one DaemonSet from everything known of its nodes and pods.
//!
//! Source: kubernetes v1.36 `pkg/controller/daemon/daemon_controller.go`, `updateDaemonSetStatus`.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSetStatus;

use super::view::{Pod, Set, View};
use crate::model::Uid;

/// A status, and when it changes by itself because a pod has been ready for long enough.
#[derive(Debug, PartialEq)]
pub(super) struct Outlook {
    pub(super) status: DaemonSetStatus,
    pub(super) next: Option<Timestamp>,
}

/// Counts the nodes of one DaemonSet at `now`.
pub(super) fn outlook(view: &View, uid: &Uid, set: &Set, now: Timestamp) -> Outlook {
    let min_ready = set.min_ready();
    let mut status = DaemonSetStatus {
        observed_generation: set.object.metadata.generation,
        collision_count: set.object.status.as_ref().and_then(|status| status.collision_count),
        ..DaemonSetStatus::default()
    };
    let (mut updated, mut available) = (0, 0);
    let mut next: Option<Timestamp> = None;
    for node in view.nodes() {
        let runs = set.judge(node).is_ok_and(|verdict| verdict.runs);
        let first = view.pods(uid, node.name.as_str()).iter().find(|pod| !pod.over);
        status.desired_number_scheduled += i32::from(runs);
        let Some(first) = first else { continue };
        if !runs {
            status.number_misscheduled += 1;
            continue;
        }
        status.current_number_scheduled += 1;
        status.number_ready += i32::from(first.ready_since.is_some());
        updated += i32::from(first.revision == set.revision);
        match available_at(first, min_ready) {
            Some(at) if at <= now => available += 1,
            at => next = next.into_iter().chain(at).min(),
        }
    }
    let some = |count: i32| (count != 0).then_some(count);
    status.updated_number_scheduled = some(updated);
    status.number_available = some(available);
    status.number_unavailable = some(status.desired_number_scheduled - available);
    Outlook { status, next }
}

/// When a pod counts as available; none while it is not ready.
pub(super) fn available_at(pod: &Pod, min_ready: Duration) -> Option<Timestamp> {
    // Without minReadySeconds readiness is enough, whatever the node's clock says.
    let since = pod.ready_since?;
    if min_ready.is_zero() { Some(Timestamp::MIN) } else { since.checked_add(min_ready).ok() }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::control::updates::clock::Now;

    fn node(name: &str, change: &Value) -> Value {
        let mut node = json!({"metadata": {"name": name, "uid": name, "labels": {"disk": "ssd"}}, "spec": {}});
        json_patch::merge(&mut node, change);
        node
    }

    fn pod(node: &str, created: &str, revision: &str, ready_since: Option<&str>) -> Value {
        let ready = ready_since.map(|since| json!([{"type": "Ready", "status": "True", "lastTransitionTime": since}]));
        json!({
            "metadata": {
                "creationTimestamp": created, "labels": {"controller-revision-hash": revision},
                "ownerReferences": [{"kind": "DaemonSet", "controller": true, "uid": "set"}],
            },
            "spec": {"nodeName": node},
            "status": {"phase": "Running", "conditions": ready},
        })
    }

    fn view(nodes: &[Value], pods: &[Value]) -> View {
        let mut view = View::default();
        let set = json!({
            "metadata": {"uid": "set", "generation": 7},
            "spec": {
                "selector": {}, "minReadySeconds": 10,
                "template": {"spec": {"nodeSelector": {"disk": "ssd"}, "containers": []}},
            },
        });
        view.put_set(serde_json::from_value(set).unwrap(), "new".into());
        nodes.iter().for_each(|node| drop(view.put_node(node)));
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        let now = Now { steady: now, wall: now };
        pods.iter().enumerate().for_each(|(key, pod)| drop(view.put_pod(&key.to_string(), pod, now)));
        view
    }

    fn count(view: &View) -> (Value, Option<Timestamp>) {
        let set = view.set(&"set".into()).unwrap();
        let outlook = outlook(view, &"set".into(), set, "2026-01-01T00:01:00Z".parse().unwrap());
        (serde_json::to_value(outlook.status).unwrap(), outlook.next)
    }

    #[test]
    fn every_counter_follows_its_formula() {
        let taint = json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}});
        let nodes = [
            node("ready-new", &json!({})),
            node("ready-old", &json!({})),
            node("fresh", &json!({})),
            node("empty", &json!({})),
            node("tainted", &taint),
            node("other", &json!({"metadata": {"labels": {"disk": "hdd"}}})),
        ];
        let at = "2026-01-01T00:00:00Z";
        let pods = [
            pod("ready-new", at, "new", Some(at)),
            pod("ready-old", at, "old", Some(at)),
            pod("fresh", at, "new", Some("2026-01-01T00:00:55Z")),
            pod("tainted", at, "new", Some(at)),
        ];
        let (status, next) = count(&view(&nodes, &pods));
        let expected = json!({
            "observedGeneration": 7, "desiredNumberScheduled": 4, "currentNumberScheduled": 3, "numberMisscheduled": 1,
            "numberReady": 3, "updatedNumberScheduled": 2, "numberAvailable": 2, "numberUnavailable": 2,
        });
        assert_eq!(status, expected);
        assert_eq!(next, Some("2026-01-01T00:01:05Z".parse().unwrap()));
    }

    #[test]
    fn the_oldest_pod_of_a_node_speaks_for_it() {
        let at = "2026-01-01T00:00:00Z";
        let pods = [pod("a", "2026-01-01T00:00:30Z", "new", Some(at)), pod("a", at, "old", None)];
        let (status, _) = count(&view(&[node("a", &json!({}))], &pods));
        assert_eq!((&status["numberReady"], &status["updatedNumberScheduled"]), (&json!(0), &Value::Null));
    }

    #[test]
    fn what_is_removed_counts_no_more() {
        let at = "2026-01-01T00:00:00Z";
        let mut view = view(&[node("a", &json!({}))], &[pod("a", at, "new", Some(at))]);
        assert_eq!(view.remove_pod("0"), [Uid::from("set")]);
        assert_eq!(count(&view).0["currentNumberScheduled"], 0);
        assert_eq!(view.remove_node("a"), [Uid::from("set")]);
        assert_eq!(count(&view).0["desiredNumberScheduled"], 0);
    }
}
