//! Event objects: from what a node saw, and from what control learns of nodes.
//!
//! Pure but for [`write()`]. One event that happens again is one object whose count rises: its name follows from what it says.

use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::control::kinds::EVENT;
use crate::control::meta;
use crate::control::objects::{ObjectError, Objects};
use crate::link::{EventReport, Reason};
use crate::model::{NodeName, ObjectKey, Uid};

/// `source.component` of events by agents.
const AGENT: &str = "garrison-agent";
/// `source.component` of events by control.
const CONTROL: &str = "garrison-control";

/// The event a node reports. Events of objects without a namespace are in `default`.
///
/// Source: kubernetes v1.36 `staging/src/k8s.io/client-go/tools/record/event.go`, `makeEvent`.
pub(super) fn reported(report: &EventReport, node: &NodeName) -> Value {
    event(report, &json!({"component": AGENT, "host": node.as_str()}), node)
}

/// `Node <name> status is now: NodeNotReady`.
///
/// Source: kubernetes v1.36 `pkg/controller/util/node/controller_utils.go`, `RecordNodeStatusChange`.
pub(super) fn node_not_ready(name: &NodeName, uid: &Uid, now: Timestamp) -> Value {
    let report = EventReport {
        kind: "Node".to_owned(),
        name: name.0.clone(),
        uid: uid.clone(),
        reason: "NodeNotReady".to_owned(),
        message: format!("Node {name} status is now: NodeNotReady"),
        ..empty(now)
    };
    event(&report, &json!({"component": CONTROL}), name)
}

/// What a node runs that control has no record of, in these words.
pub(super) fn runs_unknown(name: &NodeName, uid: &Uid, words: &str, now: Timestamp) -> Value {
    let report = EventReport {
        kind: "Node".to_owned(),
        name: name.0.clone(),
        uid: uid.clone(),
        warning: true,
        reason: "RunsUnknown".to_owned(),
        message: words.to_owned(),
        ..empty(now)
    };
    event(&report, &json!({"component": CONTROL}), name)
}

/// Why a DaemonSet does not come about on one node, said on the DaemonSet.
pub(super) fn daemonset_refused(
    daemonset: &ObjectKey,
    uid: &Uid,
    node: &NodeName,
    reason: &Reason,
    now: Timestamp,
) -> Value {
    let field = if reason.field.is_empty() { String::new() } else { format!("{}: ", reason.field) };
    let report = EventReport {
        warning: true,
        reason: reason.reason.clone(),
        message: format!("node {node}: {field}{}", reason.message),
        ..of_daemonset(daemonset, uid, now)
    };
    event(&report, &json!({"component": AGENT, "host": node.as_str()}), node)
}

/// Why no pods are made of a DaemonSet.
///
/// Source: kubernetes v1.36 `pkg/controller/controller_utils.go`, `createPods`.
pub(super) fn failed_create(daemonset: &ObjectKey, uid: &Uid, refusal: &str, now: Timestamp) -> Value {
    let report = EventReport {
        warning: true,
        reason: "FailedCreate".to_owned(),
        message: format!("Error creating: pods \"{}-\" is forbidden: {refusal}", daemonset.name),
        ..of_daemonset(daemonset, uid, now)
    };
    event(&report, &json!({"component": CONTROL}), &NodeName(String::new()))
}

/// What has become of a DaemonSet's rollout, said on it: whether that is a warning, the reason, and in words.
pub(super) fn rollout(
    daemonset: &ObjectKey,
    uid: &Uid,
    (warning, reason): (bool, &str),
    message: &str,
    now: Timestamp,
) -> Value {
    let report = EventReport {
        warning,
        reason: reason.to_owned(),
        message: message.to_owned(),
        ..of_daemonset(daemonset, uid, now)
    };
    event(&report, &json!({"component": CONTROL}), &NodeName(String::new()))
}

/// Writes an event, over an earlier one that says the same.
pub(super) async fn write(objects: &Objects, event: &Value) -> Result<(), ObjectError> {
    let change = |current: Option<&Value>| match current {
        // What the server set stays.
        Some(current) => {
            let mut event = event.clone();
            event["metadata"] = current["metadata"].clone();
            event["apiVersion"] = current["apiVersion"].clone();
            event["kind"] = current["kind"].clone();
            Some(event)
        }
        None => Some(event.clone()),
    };
    objects.report(&EVENT, meta::namespace(event), meta::name(event), change).await.map(drop)
}

fn of_daemonset(daemonset: &ObjectKey, uid: &Uid, now: Timestamp) -> EventReport {
    EventReport {
        kind: "DaemonSet".to_owned(),
        namespace: daemonset.namespace.clone(),
        name: daemonset.name.clone(),
        uid: uid.clone(),
        ..empty(now)
    }
}

fn empty(now: Timestamp) -> EventReport {
    EventReport {
        kind: String::new(),
        namespace: String::new(),
        name: String::new(),
        uid: Uid(String::new()),
        field_path: String::new(),
        warning: false,
        reason: String::new(),
        message: String::new(),
        first_at: now,
        last_at: now,
        count: 1,
    }
}

fn event(report: &EventReport, source: &Value, node: &NodeName) -> Value {
    let namespace = if report.namespace.is_empty() { "default" } else { &report.namespace };
    let api_version = if report.kind == "DaemonSet" { "apps/v1" } else { "v1" };
    let mut involved = json!({
        "apiVersion": api_version,
        "kind": report.kind,
        "name": report.name,
        "uid": report.uid.as_str(),
    });
    for (field, value) in [("namespace", &report.namespace), ("fieldPath", &report.field_path)] {
        if !value.is_empty() {
            involved[field] = value.as_str().into();
        }
    }
    json!({
        "metadata": {"name": format!("{}.{}", report.name, identity(report, node)), "namespace": namespace},
        "involvedObject": involved,
        "type": if report.warning { "Warning" } else { "Normal" },
        "reason": report.reason,
        "message": report.message,
        "source": source,
        "reportingComponent": source["component"],
        "reportingInstance": node.as_str(),
        "firstTimestamp": meta::time(report.first_at),
        "lastTimestamp": meta::time(report.last_at),
        "count": report.count,
    })
}

/// What makes two reports the same event: everything but when it happened and how often.
fn identity(report: &EventReport, node: &NodeName) -> String {
    let parts = [node.as_str(), report.uid.as_str(), &report.field_path, &report.reason, &report.message];
    let digest = Sha256::digest(parts.join("\0").as_bytes());
    digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> EventReport {
        EventReport {
            kind: "Pod".into(),
            namespace: "kube-system".into(),
            name: "web-abcde".into(),
            uid: "pod".into(),
            field_path: "spec.containers{web}".into(),
            reason: "Started".into(),
            message: "Started container web".into(),
            ..empty("2026-01-01T00:00:00Z".parse().unwrap())
        }
    }

    #[test]
    fn an_event_has_the_fields_that_kubectl_describes() {
        let event = reported(&report(), &"edge-1".into());
        assert_eq!(
            event["involvedObject"],
            json!({
                "apiVersion": "v1", "kind": "Pod", "namespace": "kube-system", "name": "web-abcde", "uid": "pod",
                "fieldPath": "spec.containers{web}",
            })
        );
        assert_eq!(event["source"], json!({"component": "garrison-agent", "host": "edge-1"}));
        assert_eq!((&event["type"], &event["count"]), (&json!("Normal"), &json!(1)));
        assert_eq!(event["firstTimestamp"], "2026-01-01T00:00:00Z");
    }

    #[test]
    fn what_happens_again_is_the_same_event() {
        let node = "edge-1".into();
        let again = EventReport { count: 2, last_at: "2026-01-01T00:05:00Z".parse().unwrap(), ..report() };
        let other = EventReport { message: "Started container db".into(), ..report() };
        let name = |report: &EventReport| reported(report, &node)["metadata"]["name"].clone();
        assert_eq!(name(&again), name(&report()));
        assert_ne!(name(&other), name(&report()));
    }

    #[test]
    fn an_event_of_a_node_is_in_the_default_namespace() {
        let event = node_not_ready(&"edge-1".into(), &"u".into(), "2026-01-01T00:00:00Z".parse().unwrap());
        assert_eq!(event["metadata"]["namespace"], "default");
        assert_eq!(event["involvedObject"]["namespace"], Value::Null);
    }
}
