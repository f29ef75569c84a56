//! Node objects: what registration, the node's own reports and its silence make of them.
//!
//! Pure: JSON objects in, JSON objects out. Users own labels, taints and `spec.unschedulable`; the node owns its status
//! and the labels that follow from the host; control owns what it says of nodes it does not hear, and the taints that
//! follow from conditions.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde::Deserialize;
use serde_json::{Value, json};

use super::meta;
use crate::eligibility::{self, BadSelector, NodeFacts, Verdict};
use crate::link::NodeReport;
use crate::model::{NodeName, Taint, Uid};

/// The condition that says why a node takes nothing new from control.
pub(super) const HELD: &str = "Held";
/// The condition that says what a node runs that control has no record of.
pub(super) const UNKNOWN: &str = "RunsUnknown";

/// Conditions that are unknown once a node is not heard of any more. The order is that of a new Node's.
///
/// Source: kubernetes v1.36 `pkg/controller/nodelifecycle/node_lifecycle_controller.go`, `updateNodeHealth`.
const HEARTBEATS: [&str; 4] = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"];

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Taints that follow from a condition, the condition's status, and the effect.
///
/// Source: as [`HEARTBEATS`], `nodeConditionToTaintKeyStatusMap`; the `NoExecute` ones are `NotReadyTaintTemplate` and
/// `UnreachableTaintTemplate`.
const BY_CONDITION: [(&str, &str, &str, &str); 8] = [
    ("Ready", "False", NOT_READY, "NoSchedule"),
    ("Ready", "Unknown", UNREACHABLE, "NoSchedule"),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable", "NoSchedule"),
    ("Ready", "False", NOT_READY, "NoExecute"),
    ("Ready", "Unknown", UNREACHABLE, "NoExecute"),
];

/// Labels that follow from the machine. All others are for users, and for the token a host joins with, to say.
///
/// Source: kubernetes v1.36 `pkg/kubelet/kubelet_node_status.go`, `initialNode`.
pub(super) const HOST_LABELS: [&str; 5] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

/// Annotation of a Node: the labels its host gave itself when it joined, and its token did not bound, as
/// `key=value,…`. They are labels like others, but buy no ConfigMap, Secret or token. Whoever vouches for one takes it off
/// this list, or gives the label another value.
const CLAIMED: &str = "node.garrison.io/claimed-labels";

/// What users say about a node, as its agent is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Intent {
    pub(super) labels: BTreeMap<String, String>,
    /// Without those that follow from conditions: the node judges by its live ones.
    pub(super) taints: Vec<Taint>,
    pub(super) unschedulable: bool,
}

/// What of a Node can be relied upon: nothing its host could have made up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Vouched {
    pub(super) labels: BTreeMap<String, String>,
    pub(super) taints: Vec<Taint>,
}

impl Vouched {
    /// The verdict about pods of a template on the node of this name.
    pub(super) fn judge(&self, name: &NodeName, template: &PodTemplateSpec) -> Result<Verdict, BadSelector> {
        eligibility::judge(&NodeFacts { name, labels: &self.labels, taints: &self.taints }, template)
    }
}

/// A new Node, as a host asks for it. It is not ready until its agent says so.
pub(super) fn registered(
    name: &NodeName,
    uid: &Uid,
    labels: &BTreeMap<String, String>,
    claimed: &[&String],
    taints: &[Taint],
    now: Timestamp,
) -> Value {
    let mut node = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name.as_str(),
            "uid": uid.as_str(),
            "creationTimestamp": meta::time(now),
            "labels": labels,
        },
        "spec": {"taints": taints},
        "status": {},
    });
    let taints = node["spec"]["taints"].as_array_mut().expect("just written as a list");
    taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
    if !claimed.is_empty() {
        let pairs: Vec<_> = claimed.iter().map(|key| format!("{key}={}", labels[*key])).collect();
        node["metadata"]["annotations"] = json!({CLAIMED: pairs.join(",")});
    }
    node
}

/// The Node after a report; `status` is the report's, as JSON. A condition keeps its transition time as long as its
/// status stays what the API says, whatever the node's own clock and memory are.
pub(super) fn reported(node: &Value, report: &NodeReport, mut status: Value, now: Timestamp) -> Value {
    let mut node = node.clone();
    meta::metadata_mut(&mut node);
    let labels = meta::map_mut(&mut node["metadata"], "labels");
    let of_host = report.labels.iter().filter(|(key, _)| HOST_LABELS.contains(&key.as_str()));
    labels.extend(of_host.map(|(key, value)| (key.clone(), value.as_str().into())));
    let mut conditions: Vec<Value> = status["conditions"].as_array().cloned().unwrap_or_default();
    for new in &mut conditions {
        let before = new["type"].as_str().and_then(|kind| condition(&node, kind));
        let same = before.filter(|before| before["status"] == new["status"]);
        new["lastTransitionTime"] =
            same.map_or_else(|| meta::time(now).into(), |before| before["lastTransitionTime"].clone());
    }
    conditions.extend([HELD, UNKNOWN].into_iter().filter_map(|kind| condition(&node, kind).cloned()));
    status["conditions"] = conditions.into();
    node["status"] = status;
    with_condition_taints(node, true, now)
}

/// The Node that was not heard of for the grace period; nothing if it says so already. `taint` is false while control
/// suspects itself of being cut off.
pub(super) fn lost(node: &Value, taint: bool, now: Timestamp) -> Option<Value> {
    let mut lost = node.clone();
    for kind in HEARTBEATS {
        let (reason, message) = match condition(node, kind) {
            Some(before) if before["status"] == "Unknown" => continue,
            Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
            None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
        };
        let heartbeat = condition(node, kind).map_or(&Value::Null, |before| &before["lastHeartbeatTime"]).clone();
        let created = || node["metadata"]["creationTimestamp"].clone();
        set_condition(
            &mut lost,
            json!({
                "type": kind,
                "status": "Unknown",
                "reason": reason,
                "message": message,
                "lastHeartbeatTime": if heartbeat.is_null() { created() } else { heartbeat },
                "lastTransitionTime": meta::time(now),
            }),
        );
    }
    let lost = with_condition_taints(lost, taint, now);
    (lost != *node).then_some(lost)
}

/// The Node with a condition of control's own, true for this reason and with these words, or without it.
pub(super) fn with_condition(mut node: Value, kind: &str, said: Option<&(String, String)>, now: Timestamp) -> Value {
    match said {
        Some((reason, message)) => {
            let before = condition(&node, kind).map(|before| before["lastTransitionTime"].clone());
            let since = before.unwrap_or_else(|| meta::time(now).into());
            set_condition(
                &mut node,
                json!({
                    "type": kind,
                    "status": "True",
                    "reason": reason,
                    "message": message,
                    "lastHeartbeatTime": meta::time(now),
                    "lastTransitionTime": since,
                }),
            );
        }
        None => {
            // Indexing would put a null where there is nothing.
            if let Some(conditions) = node.pointer_mut("/status/conditions").and_then(Value::as_array_mut) {
                conditions.retain(|one| one["type"] != kind);
            }
        }
    }
    node
}

/// What the node's agent is told of it.
pub(super) fn intent(node: &Value) -> Intent {
    let taints = node["spec"]["taints"].as_array().into_iter().flatten();
    Intent {
        labels: BTreeMap::deserialize(&node["metadata"]["labels"]).unwrap_or_default(),
        taints: taints.filter(|taint| !is_derived(taint)).filter_map(|taint| Taint::deserialize(taint).ok()).collect(),
        unschedulable: node["spec"]["unschedulable"] == true,
    }
}

/// What of a Node its host could not have made up.
///
/// What follows from the machine is believed, with one exception: the label `kubernetes.io/hostname` counts only while it
/// is the Node's name, which was bounded when the host joined.
pub(super) fn vouched(node: &Value) -> Vouched {
    let Intent { mut labels, taints, .. } = intent(node);
    let claimed = node["metadata"]["annotations"][CLAIMED].as_str().unwrap_or_default();
    for (key, value) in claimed.split(',').filter_map(|pair| pair.split_once('=')) {
        if labels.get(key).is_some_and(|label| label == value) {
            labels.remove(key);
        }
    }
    labels.retain(|key, value| key != HOST_LABELS[0] || value == meta::name(node));
    Vouched { labels, taints }
}

/// Whether a Node is one for pods of a template, by what can be relied upon.
pub(super) fn has_place(node: &Value, template: &PodTemplateSpec) -> bool {
    vouched(node).judge(&meta::name(node).into(), template).is_ok_and(|verdict| has_pods(&verdict))
}

/// A pod is made there, or stays.
pub(super) fn has_pods(verdict: &Verdict) -> bool {
    verdict.runs || verdict.stays
}

/// Whether control has to suspect itself rather than the nodes, of which so many are not heard of any more. Neither number
/// counts the nodes that were written off a while ago: those are off, and say nothing about control.
///
/// Source: as [`HEARTBEATS`], `ComputeZoneState`, with `--unhealthy-zone-threshold=0.55`.
pub(super) fn suspects_itself(lost: usize, all: usize) -> bool {
    lost > 2 && lost * 100 >= all * 55
}

/// Replaces the taints that follow from conditions and from `unschedulable`. Others stay, in their order. Without
/// `unreachable`, that a node is not heard of adds none.
fn with_condition_taints(mut node: Value, unreachable: bool, now: Timestamp) -> Value {
    let status = |kind: &str| condition(&node, kind).map(|one| one["status"].clone()).unwrap_or_default();
    let before: Vec<Value> = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    let mut taints: Vec<Value> = before.iter().filter(|taint| !is_derived(taint)).cloned().collect();
    if node["spec"]["unschedulable"] == true {
        taints.push(json!({"key": UNSCHEDULABLE, "effect": "NoSchedule"}));
    }
    for (kind, wanted, key, effect) in BY_CONDITION {
        if status(kind) != wanted || key == UNREACHABLE && !unreachable {
            continue;
        }
        let known = before.iter().find(|taint| taint["key"] == key && taint["effect"] == effect);
        taints.push(known.cloned().unwrap_or_else(|| match effect {
            "NoExecute" => json!({"key": key, "effect": effect, "timeAdded": meta::time(now)}),
            _ => json!({"key": key, "effect": effect}),
        }));
    }
    let spec = meta::map_mut(&mut node, "spec");
    if taints.is_empty() {
        spec.remove("taints");
    } else {
        spec.insert("taints".to_owned(), taints.into());
    }
    node
}

fn is_derived(taint: &Value) -> bool {
    let key = &taint["key"];
    *key == UNSCHEDULABLE || BY_CONDITION.iter().any(|(_, _, derived, _)| key == derived)
}

fn condition<'a>(node: &'a Value, kind: &str) -> Option<&'a Value> {
    node["status"]["conditions"].as_array()?.iter().find(|one| one["type"] == kind)
}

fn set_condition(node: &mut Value, new: Value) {
    let status = meta::map_mut(node, "status");
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let conditions = conditions.as_array_mut().expect("was just made a list");
    match conditions.iter_mut().find(|one| one["type"] == new["type"]) {
        Some(slot) => *slot = new,
        None => conditions.push(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "2026-01-01T00:00:00Z";
    const NOW: &str = "2026-01-01T01:00:00Z";

    fn now() -> Timestamp {
        NOW.parse().unwrap()
    }

    fn status(ready: &str) -> Value {
        let one = |kind: &str, status: &str| {
            json!({
                "type": kind, "status": status, "lastHeartbeatTime": BEFORE, "lastTransitionTime": BEFORE,
                "reason": "r", "message": "m",
            })
        };
        json!({"conditions": [one("MemoryPressure", "False"), one("Ready", ready)], "nodeInfo": {"bootID": "b"}})
    }

    fn node(ready: &str, taints: &Value) -> Value {
        json!({
            "metadata": {"name": "n", "creationTimestamp": BEFORE, "labels": {"site": "north"}},
            "spec": {"taints": taints},
            "status": status(ready),
        })
    }

    fn report() -> NodeReport {
        let labels = [("kubernetes.io/os", "linux"), ("site", "mine"), ("gpu", "true")];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        NodeReport { labels: labels.into(), status: Default::default() }
    }

    fn taints(node: &Value) -> Vec<String> {
        let taints = node["spec"]["taints"].as_array().into_iter().flatten();
        taints
            .map(|taint| format!("{}:{}", taint["key"].as_str().unwrap(), taint["effect"].as_str().unwrap()))
            .collect()
    }

    fn transition<'a>(node: &'a Value, kind: &str) -> &'a str {
        condition(node, kind).unwrap()["lastTransitionTime"].as_str().unwrap()
    }

    #[test]
    fn a_new_node_is_not_ready_until_its_agent_says_so() {
        let taint: Taint = "dedicated=db:NoExecute".parse().unwrap();
        let new = registered(&"n".into(), &"u".into(), &BTreeMap::new(), &[], std::slice::from_ref(&taint), now());
        assert_eq!(taints(&new), ["dedicated:NoExecute", "node.kubernetes.io/not-ready:NoSchedule"]);
        assert_eq!(intent(&new).taints, [taint]);
        let ready = reported(&new, &report(), status("True"), now());
        assert_eq!(taints(&ready), ["dedicated:NoExecute"]);
        assert_eq!(ready["metadata"]["labels"], json!({"kubernetes.io/os": "linux"}));
    }

    #[test]
    fn a_condition_keeps_its_transition_time_while_its_status_stays() {
        let after = reported(&node("False", &json!([])), &report(), status("True"), now());
        assert_eq!((transition(&after, "MemoryPressure"), transition(&after, "Ready")), (BEFORE, NOW));
        assert_eq!(after["metadata"]["labels"], json!({"site": "north", "kubernetes.io/os": "linux"}));
        let bad = reported(&after, &report(), status("False"), now());
        assert_eq!(taints(&bad), ["node.kubernetes.io/not-ready:NoSchedule", "node.kubernetes.io/not-ready:NoExecute"]);
    }

    #[test]
    fn a_lost_node_is_unknown_in_upstreams_words_until_it_reports_again() {
        let user = json!([{"key": "a", "effect": "NoSchedule"}]);
        let gone = lost(&node("True", &user), true, now()).unwrap();
        let ready = condition(&gone, "Ready").unwrap();
        assert_eq!(
            *ready,
            json!({
                "type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown",
                "message": "Kubelet stopped posting node status.",
                "lastHeartbeatTime": BEFORE, "lastTransitionTime": NOW,
            })
        );
        assert_eq!(condition(&gone, "PIDPressure").unwrap()["reason"], "NodeStatusNeverUpdated");
        assert_eq!(
            taints(&gone),
            ["a:NoSchedule", "node.kubernetes.io/unreachable:NoSchedule", "node.kubernetes.io/unreachable:NoExecute"]
        );
        assert_eq!(gone["spec"]["taints"][2]["timeAdded"], NOW);
        assert_eq!(lost(&gone, true, now() + std::time::Duration::from_secs(60)), None);
        let back = reported(&gone, &report(), status("True"), now());
        assert_eq!(back["spec"]["taints"], user);
    }

    #[test]
    fn control_that_suspects_itself_adds_no_taint_until_it_does_not() {
        let gone = lost(&node("True", &json!([])), false, now()).unwrap();
        assert_eq!(taints(&gone), [""; 0]);
        let tainted = lost(&gone, true, now()).unwrap();
        assert_eq!(taints(&tainted).len(), 2);
        let cases = [((1, 1), false), ((2, 2), false), ((3, 3), true), ((54, 100), false), ((55, 100), true)];
        for ((lost, all), suspects) in cases {
            assert_eq!(suspects_itself(lost, all), suspects, "{lost} of {all}");
        }
    }

    #[test]
    fn what_control_says_of_a_node_survives_its_reports() {
        let new = registered(&"n".into(), &"u".into(), &BTreeMap::new(), &[], &[], now());
        for kind in [HELD, UNKNOWN] {
            assert_eq!(with_condition(new.clone(), kind, None, now()), new);
            let said = ("Clone".to_owned(), "two hosts".to_owned());
            let held = with_condition(node("True", &json!([])), kind, Some(&said), now());
            let after = reported(&held, &report(), status("True"), now());
            let condition = condition(&after, kind).unwrap();
            assert_eq!((&condition["reason"], &condition["message"]), (&json!("Clone"), &json!("two hosts")));
            assert_eq!(with_condition(after, kind, None, now())["status"], node("True", &json!([]))["status"]);
        }
    }

    #[test]
    fn a_label_that_a_host_gave_itself_is_not_vouched_for() {
        let labels = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let given = labels(&[("site", "north"), ("role", "db"), ("kubernetes.io/hostname", "other")]);
        let claimed = ["role", "site"].map(str::to_owned);
        let claimed: Vec<_> = claimed.iter().collect();
        let mut node =
            registered(&"n".into(), &"u".into(), &given, &claimed, &["a:NoSchedule".parse().unwrap()], now());
        assert_eq!(node["metadata"]["annotations"][CLAIMED], "role=db,site=north");
        let taints = vec!["a:NoSchedule".parse().unwrap()];
        assert_eq!(vouched(&node), Vouched { labels: labels(&[]), taints });
        // What a user says afterwards counts, and so does what follows from the machine.
        node["metadata"]["labels"] = json!({
            "site": "south", "role": "db", "rack": "4", "kubernetes.io/hostname": "n", "kubernetes.io/arch": "arm64",
        });
        let host = [("kubernetes.io/hostname", "n"), ("kubernetes.io/arch", "arm64")];
        let users = labels(&[("site", "south"), ("rack", "4")]);
        assert_eq!(vouched(&node).labels, users.into_iter().chain(labels(&host)).collect());
        node["metadata"]["annotations"] = json!({});
        assert_eq!(vouched(&node).labels["role"], "db");
    }

    #[test]
    fn cordoned_is_told_as_such_and_not_as_a_taint() {
        let mut cordoned = node("True", &json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}]));
        cordoned["spec"]["unschedulable"] = json!(true);
        let after = reported(&cordoned, &report(), status("True"), now());
        assert_eq!(taints(&after), ["node.kubernetes.io/unschedulable:NoSchedule"]);
        let intent = intent(&after);
        assert_eq!((intent.taints, intent.unschedulable), (vec![], true));
    }
}
