//! What the status of DaemonSets depends on, kept in memory as small as it can be: nodes, pods, DaemonSets.
//!
//! Objects go in as they change; nothing is decided here. A change answers with the DaemonSets it concerns.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;

use super::clock::Now;
use crate::api::revision::REVISION_LABEL;
use crate::control::meta;
use crate::eligibility::{self, BadSelector, NodeFacts, Verdict};
use crate::model::{NodeName, RevisionHash, Taint, Uid};

/// The condition of a Node whose agent holds.
const HELD: &str = "Held";
/// Reasons of containers that wait for nothing but their turn.
const STARTING: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// All nodes, DaemonSets and their pods.
#[derive(Debug, Default)]
pub(super) struct View {
    nodes: BTreeMap<String, Node>,
    sets: HashMap<Uid, Set>,
    /// The pods of each DaemonSet, by node.
    pods: HashMap<Uid, BTreeMap<String, Vec<Pod>>>,
    /// Where a pod is in `pods`, by its key in the store.
    places: HashMap<String, (Uid, String)>,
}

/// What a verdict about a node depends on.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) name: NodeName,
    pub(super) uid: Uid,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) taints: Vec<Taint>,
    /// Why its agent takes nothing from control, as its condition says.
    pub(super) held: Option<String>,
}

/// One DaemonSet and the name of its newest revision.
#[derive(Debug, Clone)]
pub(super) struct Set {
    pub(super) object: DaemonSet,
    pub(super) revision: RevisionHash,
}

impl Set {
    /// Whether the DaemonSet is desired on a node, and why not.
    pub(super) fn judge(&self, node: &Node) -> Result<Verdict, BadSelector> {
        let facts = NodeFacts { name: &node.name, labels: &node.labels, taints: &node.taints };
        let template = self.object.spec.as_ref().map(|spec| &spec.template);
        eligibility::judge(&facts, template.unwrap_or(&PodTemplateSpec::default()))
    }

    /// How long a pod must be ready before it counts as available.
    pub(super) fn min_ready(&self) -> Duration {
        let seconds = self.object.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
        Duration::from_secs(seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0))
    }
}

/// One pod of a DaemonSet.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pod {
    key: String,
    created_at: String,
    /// When it was looked at last, by the steady clock.
    seen_at: Timestamp,
    pub(super) revision: RevisionHash,
    /// Condition `Ready` is true since then, by the steady clock.
    pub(super) ready_since: Option<Timestamp>,
    /// Since when its node says that.
    ready_told: Option<Timestamp>,
    /// Since when it is not, as far as this process has seen, by the steady clock.
    pub(super) unready_since: Option<Timestamp>,
    /// Phase `Succeeded` or `Failed`, and being deleted.
    pub(super) over: bool,
    /// What is wrong with it; none while it only takes its time.
    pub(super) trouble: Option<String>,
}

impl View {
    pub(super) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    pub(super) fn sets(&self) -> impl Iterator<Item = &Uid> {
        self.sets.keys()
    }

    pub(super) fn set(&self, uid: &Uid) -> Option<&Set> {
        self.sets.get(uid)
    }

    /// The pods of a DaemonSet on a node, oldest first.
    pub(super) fn pods<'a>(&'a self, set: &Uid, node: &str) -> &'a [Pod] {
        self.pods.get(set).and_then(|nodes| nodes.get(node)).map_or(&[], Vec::as_slice)
    }

    /// Takes a node in; every DaemonSet is concerned if labels, taints or a hold changed.
    pub(super) fn put_node(&mut self, object: &Value) -> Vec<Uid> {
        let node = Node {
            name: meta::name(object).into(),
            uid: meta::uid(object).into(),
            labels: from_field(object, &["metadata", "labels"]),
            taints: from_field(object, &["spec", "taints"]),
            held: held(object),
        };
        if self.nodes.get(node.name.as_str()) == Some(&node) {
            return Vec::new();
        }
        self.nodes.insert(node.name.0.clone(), node);
        self.sets.keys().cloned().collect()
    }

    pub(super) fn remove_node(&mut self, name: &str) -> Vec<Uid> {
        self.nodes.remove(name);
        self.sets.keys().cloned().collect()
    }

    pub(super) fn put_set(&mut self, object: DaemonSet, revision: RevisionHash) -> Vec<Uid> {
        let uid = Uid(object.metadata.uid.clone().unwrap_or_default());
        self.sets.insert(uid.clone(), Set { object, revision });
        vec![uid]
    }

    pub(super) fn remove_set(&mut self, uid: &Uid) {
        self.sets.remove(uid);
    }

    /// Takes a pod in under its key in the store, as it is now.
    pub(super) fn put_pod(&mut self, key: &str, object: &Value, now: Now) -> Vec<Uid> {
        let pod = pod(key, object, self.pod(key), now);
        let mut concerned = self.remove_pod(key);
        let Some(set) = meta::controller(object) else { return concerned };
        let node = object.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default().to_owned();
        let pods = self.pods.entry(set.clone()).or_default().entry(node.clone()).or_default();
        pods.push(pod);
        pods.sort_by(|a, b| (&a.created_at, &a.key).cmp(&(&b.created_at, &b.key)));
        self.places.insert(key.to_owned(), (set.clone(), node));
        concerned.push(set);
        concerned
    }

    fn pod(&self, key: &str) -> Option<&Pod> {
        let (set, node) = self.places.get(key)?;
        self.pods(set, node).iter().find(|pod| pod.key == key)
    }

    pub(super) fn remove_pod(&mut self, key: &str) -> Vec<Uid> {
        let Some((set, node)) = self.places.remove(key) else { return Vec::new() };
        if let Some(nodes) = self.pods.get_mut(&set) {
            if let Some(pods) = nodes.get_mut(&node) {
                pods.retain(|pod| pod.key != key);
                if pods.is_empty() {
                    nodes.remove(&node);
                }
            }
            if nodes.is_empty() {
                self.pods.remove(&set);
            }
        }
        vec![set]
    }

    /// The revisions that pods of a DaemonSet are of.
    pub(super) fn revisions_in_use(&self, set: &Uid) -> HashSet<&RevisionHash> {
        self.pods.get(set).into_iter().flat_map(BTreeMap::values).flatten().map(|pod| &pod.revision).collect()
    }
}

/// A pod as it is now, and was `before`.
fn pod(key: &str, object: &Value, before: Option<&Pod>, now: Now) -> Pod {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let ready = conditions.into_iter().flatten().find(|one| one["type"] == "Ready" && one["status"] == "True");
    let time = |ready: &Value| ready["lastTransitionTime"].as_str().and_then(|time| time.parse().ok());
    let ready_told = ready.map(|ready| time(ready).unwrap_or(Timestamp::UNIX_EPOCH));
    // What was worked out holds, whatever clocks are set to since. Where it was not ready it has not been so since before that.
    let known = before.filter(|before| before.ready_told == ready_told).and_then(|before| before.ready_since);
    let not_before = before.filter(|before| before.ready_told.is_none()).map(|before| before.seen_at);
    let unready_since = before.and_then(|before| before.unready_since).unwrap_or(now.steady);
    let phase = object.pointer("/status/phase").and_then(Value::as_str);
    let label =
        object.pointer("/metadata/labels").and_then(|labels| labels.get(REVISION_LABEL)).and_then(Value::as_str);
    Pod {
        key: key.to_owned(),
        created_at: meta::text(object, "creationTimestamp").to_owned(),
        seen_at: now.steady,
        revision: label.unwrap_or_default().into(),
        unready_since: ready_told.is_none().then_some(unready_since),
        ready_since: known.or_else(|| ready_told.map(|told| now.since(told).max(not_before.unwrap_or(Timestamp::MIN)))),
        ready_told,
        over: meta::is_deleting(object) && matches!(phase, Some("Succeeded" | "Failed")),
        trouble: trouble(&object["status"]),
    }
}

fn held(node: &Value) -> Option<String> {
    let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
    let held = conditions.into_iter().flatten().find(|one| one["type"] == HELD && one["status"] == "True")?;
    Some(held["message"].as_str().unwrap_or_default().to_owned())
}

/// What a pod's status says is wrong, without what changes from one look to the next.
fn trouble(status: &Value) -> Option<String> {
    if status["phase"] == "Failed" {
        let said = ["reason", "message"].iter().filter_map(|field| status[*field].as_str());
        let said: Vec<_> = said.filter(|text| !text.is_empty()).collect();
        return Some(if said.is_empty() { "the pod failed".to_owned() } else { said.join(": ") });
    }
    let containers = ["initContainerStatuses", "containerStatuses"];
    let containers = containers.iter().filter_map(|list| status[*list].as_array()).flatten();
    containers.filter(|one| one["ready"] != true).find_map(|one| {
        let what = container_trouble(one)?;
        Some(format!("container {}: {what}", one["name"].as_str().unwrap_or_default()))
    })
}

/// One that has ended before is in trouble until it is ready, or its trouble would come and go with each attempt.
fn container_trouble(status: &Value) -> Option<String> {
    let ended =
        [&status["state"], &status["lastState"]].into_iter().find_map(|state| state["terminated"]["exitCode"].as_i64());
    let waits = status["state"]["waiting"]["reason"].as_str();
    match (waits.filter(|reason| !STARTING.contains(reason)), ended.filter(|code| *code != 0)) {
        (Some(reason), Some(code)) => Some(format!("{reason}, exit code {code}")),
        (Some(reason), None) => Some(reason.to_owned()),
        (None, Some(code)) => Some(format!("exit code {code}")),
        (None, None) => None,
    }
}

/// A field that came through the API's own checks; the default if it is absent.
fn from_field<T: serde::de::DeserializeOwned + Default>(object: &Value, path: &[&str]) -> T {
    let field = path.iter().try_fold(object, |value, name| value.get(name));
    field.and_then(|value| T::deserialize(value).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_unready_since_it_was_first_seen_so() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut view = View::default();
        let mut put = |ready: &str, second| {
            let owners = json!([{"kind": "DaemonSet", "controller": true, "uid": "set"}]);
            let conditions = json!([{"type": "Ready", "status": ready}]);
            let pod = json!({
                "metadata": {"name": "p", "ownerReferences": owners}, "spec": {"nodeName": "a"},
                "status": {"phase": "Running", "conditions": conditions},
            });
            view.put_pod("p", &pod, Now { steady: at(second), wall: at(second) });
            view.pods(&"set".into(), "a")[0].unready_since
        };
        assert_eq!(put("False", 1), Some(at(1)));
        assert_eq!(put("False", 2), Some(at(1)));
        assert_eq!(put("True", 3), None);
        assert_eq!(put("False", 4), Some(at(4)));
    }

    #[test]
    fn whatever_clocks_are_set_to_a_pod_is_ready_for_as_long_as_was_seen() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut view = View::default();
        let mut put = |told: Option<i64>, steady, wall| {
            let owners = json!([{"kind": "DaemonSet", "controller": true, "uid": "set"}]);
            let ready = |told| json!({"type": "Ready", "status": "True", "lastTransitionTime": at(told).to_string()});
            let conditions: Vec<_> = told.map(ready).into_iter().collect();
            let pod = json!({
                "metadata": {"name": "p", "ownerReferences": owners}, "spec": {"nodeName": "a"},
                "status": {"phase": "Running", "conditions": conditions},
            });
            view.put_pod("p", &pod, Now { steady: at(steady), wall: at(wall) });
            view.pods(&"set".into(), "a")[0].ready_since.map(Timestamp::as_second)
        };
        assert_eq!(put(Some(1000), 1005, 1005), Some(1000), "as its node says");
        assert_eq!(put(Some(1000), 1006, 500), Some(1000), "this host's clock is set back");
        assert_eq!(put(Some(900), 1010, 910), Some(1000), "it became ready anew ten seconds ago");
        assert_eq!(put(Some(90_000), 1020, 1020), Some(1020), "its node's clock is a day ahead");
        assert_eq!(put(Some(90_000), 1030, 200_000), Some(1020));
        assert_eq!(put(None, 1040, 1040), None);
        assert_eq!(put(Some(7), 1050, 1050), Some(1040), "its node's clock is at 1970");
    }
}
