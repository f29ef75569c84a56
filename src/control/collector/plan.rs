//! What to clear up next. Pure.
//!
//! Sources: kubernetes v1.36, `pkg/controller/garbagecollector/garbagecollector.go` (`attemptToDeleteItem`),
//! `pkg/controller/namespace/deletion`, `pkg/controller/podgc`.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use crate::control::kinds::{self, DAEMON_SET, Kind, NAMESPACE, NODE, POD};
use crate::control::meta;
use crate::control::removal::FOREGROUND;
use crate::model::Uid;

/// What matters of one object.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub kind: &'static Kind,
    pub namespace: String,
    pub name: String,
    pub uid: Uid,
    /// Its owners' uids.
    pub owners: Vec<Uid>,
    /// An owner is of a kind that is not served: nobody here knows whether it exists.
    pub foreign_owner: bool,
    /// `spec.nodeName` of a pod.
    pub node: Option<String>,
    /// It is controlled by a DaemonSet.
    pub is_daemon: bool,
    /// It is marked for deletion.
    pub deleting: bool,
    /// It waits for what it owns to go first.
    pub foreground: bool,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// As if a user deleted it.
    Delete { kind: &'static Kind, namespace: String, name: String },
    /// Mark a pod as ending; its node knows why.
    End { namespace: String, name: String },
    /// Take away what nobody keeps any more.
    Remove { kind: &'static Kind, namespace: String, name: String, uid: Uid },
    /// Let a DaemonSet go that waited for its pods.
    Release { namespace: String, name: String },
}

impl Facts {
    /// Of an object of a kind.
    pub fn of(kind: &'static Kind, object: &Value) -> Self {
        let owners = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
        let served = |owner: &Value| {
            let text = |field: &str| owner[field].as_str().unwrap_or_default();
            kinds::by_name(text("apiVersion"), text("kind")).is_some()
        };
        Self {
            kind,
            namespace: meta::namespace(object).to_owned(),
            name: meta::name(object).to_owned(),
            uid: meta::uid(object).into(),
            foreign_owner: owners.clone().any(|owner| !served(owner)),
            owners: meta::owner_uids(object).map(Uid::from).collect(),
            is_daemon: meta::controller(object).is_some(),
            node: object["spec"]["nodeName"].as_str().map(str::to_owned),
            deleting: meta::is_deleting(object),
            foreground: meta::finalizers(object).any(|finalizer| finalizer == FOREGROUND),
        }
    }

    fn is_ending_namespace(&self) -> bool {
        *self.kind == NAMESPACE && self.deleting
    }
}

impl Step {
    /// The removal of an object.
    pub fn remove(kind: &'static Kind, object: &Value) -> Self {
        Self::Remove {
            kind,
            namespace: meta::namespace(object).to_owned(),
            name: meta::name(object).to_owned(),
            uid: meta::uid(object).into(),
        }
    }
}

/// The next steps, given all objects; none when everything is done or waits for nodes.
pub(super) fn plan(all: &[Facts]) -> Vec<Step> {
    let by_uid: HashMap<&Uid, &Facts> = all.iter().map(|fact| (&fact.uid, fact)).collect();
    let nodes: HashSet<&str> = all.iter().filter(|fact| *fact.kind == NODE).map(|fact| fact.name.as_str()).collect();
    let ending: HashSet<&str> =
        all.iter().filter(|fact| fact.is_ending_namespace()).map(|fact| fact.name.as_str()).collect();
    let used: HashSet<&str> = all.iter().map(|fact| fact.namespace.as_str()).collect();
    let owning: HashSet<&Uid> = all.iter().flat_map(|fact| &fact.owners).collect();

    let orphaned = |fact: &Facts| {
        let gone = |owner: &Uid| by_uid.get(owner).is_none_or(|owner| owner.deleting && owner.foreground);
        !fact.owners.is_empty() && !fact.foreign_owner && fact.owners.iter().all(gone)
    };
    let step = |fact: &Facts| {
        let (kind, namespace, name) = (fact.kind, fact.namespace.clone(), fact.name.clone());
        let remove = Step::Remove { kind, namespace: namespace.clone(), name: name.clone(), uid: fact.uid.clone() };
        if fact.node.as_deref().is_some_and(|node| *kind == POD && !nodes.contains(node)) {
            return Some(remove);
        }
        if fact.is_ending_namespace() {
            return (!used.contains(name.as_str())).then_some(remove);
        }
        if *kind == DAEMON_SET && fact.deleting && fact.foreground {
            return (!owning.contains(&fact.uid)).then_some(Step::Release { namespace, name });
        }
        if fact.deleting {
            return None;
        }
        if orphaned(fact) {
            // The node of a DaemonSet's pod learns of it from the deletion of the DaemonSet.
            let end = *kind == POD && fact.is_daemon && fact.node.is_some();
            return Some(if end { Step::End { namespace, name } } else { Step::Delete { kind, namespace, name } });
        }
        // What is owned goes with its owner, if that goes.
        let beside = |owner: &Uid| by_uid.get(owner).is_some_and(|owner| owner.namespace == namespace);
        let alone = !fact.owners.iter().any(beside);
        (ending.contains(namespace.as_str()) && alone).then_some(Step::Delete { kind, namespace, name })
    };
    all.iter().filter_map(step).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::control::kinds::{CONFIG_MAP, CONTROLLER_REVISION, SERVICE_ACCOUNT};

    fn object(kind: &'static Kind, name: &str, more: &Value) -> Facts {
        let mut object = json!({"metadata": {"name": name, "uid": name}});
        if kind.namespaced {
            object["metadata"]["namespace"] = "n".into();
        }
        json_patch::merge(&mut object, more);
        Facts::of(kind, &object)
    }

    fn owned(kind: &'static Kind, name: &str, api_version: &str, owner: &str) -> Facts {
        let owner = json!({
            "apiVersion": api_version, "kind": "DaemonSet", "name": owner, "uid": owner, "controller": true,
        });
        let owners = json!([owner]);
        object(kind, name, &json!({"metadata": {"ownerReferences": owners}, "spec": {"nodeName": "one"}}))
    }

    fn deleting(kind: &'static Kind, name: &str, finalizers: &[&str]) -> Facts {
        let metadata = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": finalizers});
        object(kind, name, &json!({"metadata": metadata}))
    }

    fn delete(kind: &'static Kind, name: &str) -> Step {
        Step::Delete { kind, namespace: "n".into(), name: name.into() }
    }

    #[test]
    fn what_a_deletion_left_is_cleared_up_in_order() {
        let node = || object(&NODE, "one", &json!({}));
        let set = || object(&DAEMON_SET, "set", &json!({}));
        let waiting = || deleting(&DAEMON_SET, "set", &[FOREGROUND]);
        let held = || deleting(&DAEMON_SET, "set", &["example.com/hold"]);
        let pod = || owned(&POD, "pod", "apps/v1", "set");
        let revision = || owned(&CONTROLLER_REVISION, "revision", "apps/v1", "set");
        let end = || Step::End { namespace: "n".into(), name: "pod".into() };
        let release = || Step::Release { namespace: "n".into(), name: "set".into() };
        let remove = |kind: &'static Kind, namespace: &str, name: &str| Step::Remove {
            kind,
            namespace: namespace.into(),
            name: name.into(),
            uid: name.into(),
        };
        let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "map", "uid": "map", "controller": true});
        let metadata = json!({"ownerReferences": [owner]});
        let posted = object(&POD, "posted", &json!({"metadata": metadata, "spec": {"nodeName": "one"}}));
        let mut ending_pod = pod();
        ending_pod.deleting = true;
        let cases = [
            ("nothing was deleted", vec![node(), set(), pod(), revision()], vec![]),
            (
                "the owner is gone",
                vec![node(), pod(), revision()],
                vec![end(), delete(&CONTROLLER_REVISION, "revision")],
            ),
            ("the owner of a posted pod is gone", vec![node(), posted], vec![delete(&POD, "posted")]),
            ("the owner waits", vec![node(), waiting(), pod()], vec![end()]),
            ("the owner waits for an ending pod", vec![node(), waiting(), ending_pod.clone()], vec![]),
            ("the owner has waited", vec![node(), waiting()], vec![release()]),
            ("a finalizer of a user keeps the owner", vec![node(), held(), pod()], vec![]),
            ("the owner is of an unknown kind", vec![node(), owned(&POD, "pod", "example.com/v1", "set")], vec![]),
            ("the node is gone", vec![set(), pod()], vec![remove(&POD, "n", "pod")]),
            (
                "the namespace is ending",
                vec![node(), deleting(&NAMESPACE, "n", &[]), set(), pod(), object(&CONFIG_MAP, "map", &json!({}))],
                vec![delete(&DAEMON_SET, "set"), delete(&CONFIG_MAP, "map")],
            ),
            ("the namespace is not yet empty", vec![node(), deleting(&NAMESPACE, "n", &[]), ending_pod], vec![]),
            ("the namespace is empty", vec![deleting(&NAMESPACE, "n", &[])], vec![remove(&NAMESPACE, "", "n")]),
            (
                "another namespace is ending",
                vec![deleting(&NAMESPACE, "m", &[]), object(&SERVICE_ACCOUNT, "a", &json!({}))],
                vec![remove(&NAMESPACE, "", "m")],
            ),
        ];
        for (case, all, expected) in cases {
            assert_eq!(plan(&all), expected, "{case}");
        }
    }
}
