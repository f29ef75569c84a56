//! Revisions of a DaemonSet: when two templates are the same, the hash that names one, and its history record.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::{Value, json};

use crate::model::RevisionHash;

/// The label of a DaemonSet's pods and of its history that names their revision.
pub const REVISION_LABEL: &str = "controller-revision-hash";

/// The letters of hashes and of generated names: no vowels, so that no words arise.
const SAFE_LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

const FNV_OFFSET: u32 = 0x811c_9dc5;
const FNV_PRIME: u32 = 0x0100_0193;

/// The template as JSON with sorted keys, without what means the same as its absence (nulls, empty lists).
fn canonical(template: &PodTemplateSpec) -> Value {
    let mut value = serde_json::to_value(template).expect("a template is JSON: its map keys are strings");
    prune(&mut value);
    value
}

fn prune(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(prune);
            fields.retain(|_, value| !value.is_null() && value.as_array().is_none_or(|items| !items.is_empty()));
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}

/// The templates are the same as a user sees them. Both must have been defaulted.
pub fn same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    canonical(a) == canonical(b)
}

/// The newest revision of a DaemonSet, which must have been defaulted.
pub fn of(daemonset: &DaemonSet) -> RevisionHash {
    let template = daemonset.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    hash(&template, daemonset.status.as_ref().and_then(|status| status.collision_count))
}

/// The hash that names a revision.
///
/// `template` must have been defaulted. `collision_count` is the DaemonSet's `status.collisionCount`; raising it gives
/// another hash. The function must stay as it is for ever: with another one, every running pod would look outdated.
///
/// It is FNV-1a, 32 bits, over the canonical JSON, in letters as upstream writes them. Upstream hashes a dump of its
/// own structs, so the hashes differ from a cluster's.
///
/// Source: kubernetes v1.36, `pkg/controller/controller_utils.go`, `ComputeHash`.
pub fn hash(template: &PodTemplateSpec, collision_count: Option<i32>) -> RevisionHash {
    let mut sum = fnv1a(FNV_OFFSET, canonical(template).to_string().as_bytes());
    if let Some(count) = collision_count {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&count.to_le_bytes());
        sum = fnv1a(sum, &bytes);
    }
    let letters = sum
        .to_string()
        .bytes()
        .map(|digit| char::from(SAFE_LETTERS[usize::from(digit) % SAFE_LETTERS.len()]))
        .collect();
    RevisionHash(letters)
}

fn fnv1a(sum: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(sum, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(FNV_PRIME))
}

/// `data` of the ControllerRevision of a template: a patch that `kubectl rollout undo` sends as it is.
///
/// Two records are of the same revision when their data are equal.
///
/// Source: kubernetes v1.36, `pkg/controller/daemon/update.go`, `getPatch`.
pub fn history_data(template: &PodTemplateSpec) -> Value {
    let mut template = canonical(template);
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(value: Value) -> PodTemplateSpec {
        serde_json::from_value(value).expect("a template")
    }

    /// A changed value here means that every pod of every fleet is replaced at the next upgrade.
    #[test]
    fn the_hash_of_a_template_never_changes() {
        let nginx = template(json!({
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": "nginx:1.27"}]},
        }));
        assert_eq!(hash(&nginx, None).as_str(), "6c8d7489d5");
        assert_eq!(hash(&nginx, Some(1)).as_str(), "d898ff9b");
    }

    #[test]
    fn an_empty_list_is_as_if_not_written() {
        let bare = template(json!({"spec": {"containers": [{"name": "a"}]}}));
        let empty = template(json!({"spec": {"containers": [{"name": "a", "env": []}], "volumes": []}}));
        let other = template(json!({"spec": {"containers": [{"name": "b"}]}}));
        assert!(same_template(&bare, &empty) && !same_template(&bare, &other));
        assert_eq!(hash(&bare, None), hash(&empty, None));
    }

    #[test]
    fn history_holds_the_template_as_a_patch() {
        let data = history_data(&template(json!({"spec": {"containers": [{"name": "a"}]}})));
        assert_eq!(data, json!({"spec": {"template": {"$patch": "replace", "spec": {"containers": [{"name": "a"}]}}}}));
    }
}
