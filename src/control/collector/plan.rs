//! What to clear up next. Pure.
//!
//! Sources: kubernetes v1.36, `pkg/controller/garbagecollector/garbagecollector.go` (`attemptToDeleteItem`),
//! `pkg/controller/namespace/deletion`, `pkg/controller/podgc`.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use crate::control::kinds::{self, DAEMON_SET, Kind, NAMESPACE, NODE, POD};
use crate::control::meta;
use crate::control::removal::{FOREGROUND, ORPHAN};
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
    /// Those of them that wait for it if they wait at all (`blockOwnerDeletion`).
    pub blocked: Vec<Uid>,
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
    /// It waits until what it owned does not name it any more.
    pub orphaning: bool,
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
    /// Let an owner go that waited for what it owns, by the finalizer that kept it.
    Release { kind: &'static Kind, namespace: String, name: String, finalizer: &'static str },
    /// Take owners off an object that lives on without them.
    Disown { kind: &'static Kind, namespace: String, name: String, owners: Vec<Uid> },
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
            blocked: owners
                .clone()
                .filter(|owner| owner["blockOwnerDeletion"] == true)
                .filter_map(|owner| owner["uid"].as_str().map(Uid::from))
                .collect(),
            node: object["spec"]["nodeName"].as_str().map(str::to_owned),
            deleting: meta::is_deleting(object),
            foreground: meta::finalizers(object).any(|finalizer| finalizer == FOREGROUND),
            orphaning: meta::finalizers(object).any(|finalizer| finalizer == ORPHAN),
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
    let world = World::of(all);
    all.iter().filter_map(|fact| world.step(fact)).collect()
}

/// All objects, as the next step of one depends on them.
struct World<'a> {
    by_uid: HashMap<&'a Uid, &'a Facts>,
    nodes: HashSet<&'a str>,
    /// Namespaces on their way out.
    ending: HashSet<&'a str>,
    /// Namespaces with something in them.
    used: HashSet<&'a str>,
    /// Owners of something.
    owning: HashSet<&'a Uid>,
    /// Owners that wait for something if they wait at all.
    blocked: HashSet<&'a Uid>,
}

/// What an owner is to what it owns.
#[derive(PartialEq, Eq)]
enum Owner {
    /// There, and to stay.
    Stays,
    /// On its way out, with all it owns.
    Ends,
    /// On its way out, and leaves behind what it owned.
    LetsGo,
    /// Not there.
    Gone,
}

impl<'a> World<'a> {
    fn of(all: &'a [Facts]) -> Self {
        let names =
            |of: fn(&Facts) -> bool| all.iter().filter(|fact| of(fact)).map(|fact| fact.name.as_str()).collect();
        Self {
            by_uid: all.iter().map(|fact| (&fact.uid, fact)).collect(),
            nodes: names(|fact| *fact.kind == NODE),
            ending: names(Facts::is_ending_namespace),
            used: all.iter().map(|fact| fact.namespace.as_str()).collect(),
            owning: all.iter().flat_map(|fact| &fact.owners).collect(),
            blocked: all.iter().flat_map(|fact| &fact.blocked).collect(),
        }
    }

    fn step(&self, fact: &Facts) -> Option<Step> {
        let remove = || Step::Remove {
            kind: fact.kind,
            namespace: fact.namespace.clone(),
            name: fact.name.clone(),
            uid: fact.uid.clone(),
        };
        if fact.node.as_deref().is_some_and(|node| *fact.kind == POD && !self.nodes.contains(node)) {
            return Some(remove());
        }
        if fact.is_ending_namespace() {
            return (!self.used.contains(fact.name.as_str())).then(remove);
        }
        self.release(fact).or_else(|| self.follow_owners(fact)).or_else(|| self.follow_namespace(fact))
    }

    /// Lets an owner go that has waited long enough.
    fn release(&self, fact: &Facts) -> Option<Step> {
        let release = |finalizer| Step::Release {
            kind: fact.kind,
            namespace: fact.namespace.clone(),
            name: fact.name.clone(),
            finalizer,
        };
        let waits = match (fact.deleting, fact.orphaning, fact.foreground) {
            (true, true, _) => self.owning.contains(&fact.uid),
            // A DaemonSet's pods end on their nodes; whatever their references say, it stays until they have.
            (true, _, true) if *fact.kind == DAEMON_SET => self.owning.contains(&fact.uid),
            (true, _, true) => self.blocked.contains(&fact.uid),
            _ => return None,
        };
        (!waits).then(|| release(if fact.orphaning { ORPHAN } else { FOREGROUND }))
    }

    /// What is owned goes when no owner stays, and forgets those that are gone otherwise.
    fn follow_owners(&self, fact: &Facts) -> Option<Step> {
        if fact.owners.is_empty() || fact.foreign_owner {
            return None;
        }
        let (kind, namespace, name) = (fact.kind, fact.namespace.clone(), fact.name.clone());
        let owners = |state: Owner| fact.owners.iter().filter(move |owner| self.owner(owner) == state);
        let (staying, letting_go) = (owners(Owner::Stays).count(), owners(Owner::LetsGo).count());
        let lost: Vec<Uid> = owners(Owner::LetsGo).chain(owners(Owner::Gone)).cloned().collect();
        if staying + letting_go > 0 {
            return (!lost.is_empty()).then_some(Step::Disown { kind, namespace, name, owners: lost });
        }
        if fact.deleting {
            return None;
        }
        // The node of a DaemonSet's pod learns of it from the deletion of the DaemonSet.
        let end = *kind == POD && fact.is_daemon && fact.node.is_some();
        Some(if end { Step::End { namespace, name } } else { Step::Delete { kind, namespace, name } })
    }

    fn owner(&self, uid: &Uid) -> Owner {
        match self.by_uid.get(uid) {
            None => Owner::Gone,
            Some(owner) if owner.deleting && owner.orphaning => Owner::LetsGo,
            Some(owner) if owner.deleting && owner.foreground => Owner::Ends,
            Some(_) => Owner::Stays,
        }
    }

    /// What is in a namespace goes with it; what is owned there goes with its owner.
    fn follow_namespace(&self, fact: &Facts) -> Option<Step> {
        let beside = |owner: &Uid| self.by_uid.get(owner).is_some_and(|owner| owner.namespace == fact.namespace);
        let alone = !fact.owners.iter().any(beside);
        let (kind, namespace, name) = (fact.kind, fact.namespace.clone(), fact.name.clone());
        let goes = !fact.deleting && alone && self.ending.contains(namespace.as_str());
        goes.then_some(Step::Delete { kind, namespace, name })
    }
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
        let release =
            || Step::Release { kind: &DAEMON_SET, namespace: "n".into(), name: "set".into(), finalizer: FOREGROUND };
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

    #[test]
    fn what_lives_on_forgets_owners_that_do_not() {
        let map = |name: &str, owners: &[(&str, bool)]| {
            let owners: Vec<Value> = owners
                .iter()
                .map(|(owner, blocks)| {
                    json!({"apiVersion": "v1", "kind": "ConfigMap", "name": owner, "uid": owner, "blockOwnerDeletion": blocks})
                })
                .collect();
            object(&CONFIG_MAP, name, &json!({"metadata": {"ownerReferences": owners}}))
        };
        let disown = |owners: &[&str]| Step::Disown {
            kind: &CONFIG_MAP,
            namespace: "n".into(),
            name: "owned".into(),
            owners: owners.iter().map(|owner| Uid::from(*owner)).collect(),
        };
        let release =
            |finalizer| Step::Release { kind: &CONFIG_MAP, namespace: "n".into(), name: "a".into(), finalizer };
        let owner = || object(&CONFIG_MAP, "a", &json!({}));
        let orphaning = || deleting(&CONFIG_MAP, "a", &[ORPHAN]);
        let waiting = || deleting(&CONFIG_MAP, "a", &[FOREGROUND]);
        let delete = || delete(&CONFIG_MAP, "owned");
        let cases = [
            ("all owners are there", vec![owner(), map("owned", &[("a", true)])], vec![]),
            ("one of two is gone", vec![owner(), map("owned", &[("a", true), ("b", true)])], vec![disown(&["b"])]),
            ("both are gone", vec![map("owned", &[("a", true), ("b", true)])], vec![delete()]),
            ("it is let go", vec![orphaning(), map("owned", &[("a", true)])], vec![disown(&["a"])]),
            ("it was let go", vec![orphaning(), map("owned", &[])], vec![release(ORPHAN)]),
            ("its owner waits for it", vec![waiting(), map("owned", &[("a", true)])], vec![delete()]),
            (
                "its owner does not wait for it",
                vec![waiting(), map("owned", &[("a", false)])],
                vec![release(FOREGROUND), delete()],
            ),
        ];
        for (case, all, expected) in cases {
            assert_eq!(plan(&all), expected, "{case}");
        }
    }
}
