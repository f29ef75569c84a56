//! Whose the single pods are: a DaemonSet adopts those that it selects, and lets those go that it does not select any more.
//!
//! Settled before nodes hear of what made it so, or they would make another pod for a DaemonSet that has one by now. Only pods that
//! there is a record of have to be looked at: all others are as their DaemonSet's template made them.
//!
//! Source: kubernetes v1.36, `pkg/controller/controller_ref_manager.go`, `ClaimObject`.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::DaemonSet;
use serde::Deserialize;
use serde_json::Value;

use crate::api::daemonset;
use crate::control::kinds::POD;
use crate::control::meta;
use crate::control::objects::{ObjectError, Objects, PodIntent, WriteOptions};
use crate::control::registry::Part;
use crate::model::{ObjectKey, Uid};

/// What has to become of a pod.
#[derive(Debug, PartialEq)]
enum Claim {
    /// A DaemonSet becomes its controller.
    Adopt(ObjectKey),
    /// Its DaemonSet lets it go.
    Release(Uid),
}

/// The pods that there is something to tell of, once each has the controller it should have. `sets` are all DaemonSets.
///
/// # Errors
/// [`ObjectError::Store`] and [`ObjectError::Corrupt`].
pub(super) async fn settled(objects: &Objects, sets: &[DaemonSet]) -> Result<Vec<(PodIntent, Value)>, ObjectError> {
    let pods = objects.pod_intents().await?;
    let claims: Vec<_> = pods.iter().filter_map(|(intent, pod)| Some((&intent.key, claim(pod, sets)?))).collect();
    if claims.is_empty() {
        return Ok(pods);
    }
    for (pod, claim) in claims {
        tracing::info!(%pod, ?claim, "a pod changes hands");
        match claim {
            Claim::Adopt(set) => objects.adopt(&set, pod, is_to_adopt).await?,
            Claim::Release(uid) => release(objects, pod, &uid, sets).await?,
        }
    }
    objects.pod_intents().await
}

async fn release(objects: &Objects, pod: &ObjectKey, set: &Uid, sets: &[DaemonSet]) -> Result<(), ObjectError> {
    let release = |pod: &Value| {
        let mut released = pod.clone();
        if claim(pod, sets) == Some(Claim::Release(set.clone())) {
            meta::disown(&mut released, std::slice::from_ref(set));
        }
        Ok(released)
    };
    match objects.update(&POD, &pod.namespace, &pod.name, Part::Main, WriteOptions::default(), release).await {
        Ok(_) | Err(ObjectError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Of several DaemonSets that select a pod the oldest has it.
fn claim(pod: &Value, sets: &[DaemonSet]) -> Option<Claim> {
    if let Some(controller) = meta::controller(pod) {
        let set = sets.iter().find(|set| set.metadata.uid.as_deref() == Some(controller.as_str()))?;
        return (!is_deleting(set) && !selects(set, pod)).then_some(Claim::Release(controller));
    }
    let age = |set: &&DaemonSet| (set.metadata.creation_timestamp.clone(), set.metadata.name.clone());
    let set = sets.iter().filter(|set| may_adopt(set, pod)).min_by_key(age)?;
    Some(Claim::Adopt(ObjectKey::new(meta::namespace(pod), set.metadata.name.as_deref().unwrap_or_default())))
}

fn is_to_adopt(set: &Value, pod: &Value) -> bool {
    DaemonSet::deserialize(set).is_ok_and(|set| may_adopt(&set, pod))
}

fn may_adopt(set: &DaemonSet, pod: &Value) -> bool {
    !meta::is_controlled(pod) && !meta::is_deleting(pod) && !is_deleting(set) && selects(set, pod)
}

fn is_deleting(set: &DaemonSet) -> bool {
    set.metadata.deletion_timestamp.is_some()
}

fn selects(set: &DaemonSet, pod: &Value) -> bool {
    let labels = BTreeMap::deserialize(&pod["metadata"]["labels"]).unwrap_or_default();
    set.metadata.namespace.as_deref() == Some(meta::namespace(pod)) && daemonset::selects(set, &labels)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(name: &str, label: &str, more: &Value) -> DaemonSet {
        let selector = json!({"matchLabels": {"app": label}});
        let metadata =
            json!({"name": name, "namespace": "n", "uid": name, "creationTimestamp": "2026-01-02T00:00:00Z"});
        let mut set = json!({"metadata": metadata, "spec": {"selector": selector, "template": {}}});
        json_patch::merge(&mut set, more);
        serde_json::from_value(set).unwrap()
    }

    fn pod(label: &str, owner: Option<&str>) -> Value {
        let mut pod = json!({"metadata": {"name": "p", "namespace": "n", "labels": {"app": label}}});
        if let Some(owner) = owner {
            pod["metadata"]["ownerReferences"] = json!([{"kind": "DaemonSet", "uid": owner, "controller": true}]);
        }
        pod
    }

    #[test]
    fn a_pod_belongs_to_the_daemonset_that_selects_it() {
        let metadata = |field: &str, value: &str| json!({"metadata": {field: value}});
        let going = metadata("deletionTimestamp", "2026-01-03T00:00:00Z");
        let (old, elsewhere) = (metadata("creationTimestamp", "2026-01-01T00:00:00Z"), metadata("namespace", "m"));
        let plain = json!({});
        let mut ending = pod("web", None);
        json_patch::merge(&mut ending, &going);
        let mut others = pod("web", Some("x"));
        others["metadata"]["ownerReferences"][0]["kind"] = "Job".into();
        let adopt = |set: &str| Some(Claim::Adopt(ObjectKey::new("n", set)));
        let release = Some(Claim::Release("a".into()));
        let cases = [
            ("nobody's, and selected", pod("web", None), vec![set("a", "web", &plain)], adopt("a")),
            ("not selected", pod("log", None), vec![set("a", "web", &plain)], None),
            ("in another namespace", pod("web", None), vec![set("a", "web", &elsewhere)], None),
            ("the oldest has it", pod("web", None), vec![set("a", "web", &plain), set("b", "web", &old)], adopt("b")),
            (
                "by name if they are alike",
                pod("web", None),
                vec![set("b", "web", &plain), set("a", "web", &plain)],
                adopt("a"),
            ),
            ("the DaemonSet goes", pod("web", None), vec![set("a", "web", &going)], None),
            ("the pod goes", ending, vec![set("a", "web", &plain)], None),
            ("somebody else's", others, vec![set("a", "web", &plain)], None),
            ("as it should be", pod("web", Some("a")), vec![set("a", "web", &plain), set("b", "web", &old)], None),
            ("selected no more", pod("log", Some("a")), vec![set("a", "web", &plain), set("b", "log", &old)], release),
            ("its DaemonSet goes", pod("log", Some("a")), vec![set("a", "web", &going)], None),
            ("its DaemonSet is gone", pod("log", Some("a")), vec![], None),
        ];
        for (case, pod, sets, expected) in cases {
            assert_eq!(claim(&pod, &sets), expected, "{case}");
        }
    }
}
