//! What a write means for a kind: what the server sets, keeps and refuses.
//!
//! Pure: JSON objects in, completed JSON objects or field errors out. [`objects`](super::objects) asks here before
//! every write of a user. The rules of the objects themselves (defaults, validation) are [`api`](crate::api)'s; here is
//! what needs the object as it was, and who owns which field.
//!
//! Sources: kubernetes v1.36, `k8s.io/apiserver/pkg/registry/rest/{create,update}.go` and
//! `pkg/registry/*/*/strategy.go`.

mod rules;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::kinds::{CERTIFICATE_SIGNING_REQUEST, DAEMON_SET, Kind, NAMESPACE, POD, STATUS};
use super::meta;
use crate::api::daemonset::TEMPLATE_GENERATION_ANNOTATION;
use crate::api::field::{FieldError, Path};

/// Namespaces that exist from the start and stay.
pub const BUILT_IN_NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// The characters of generated name suffixes: no vowels, nothing that reads like another.
const SUFFIX_CHARACTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// How many of them make a suffix.
pub const SUFFIX_LENGTH: usize = 5;
/// What is left of `generateName`, so that the name fits a label's value.
const MAX_GENERATED_BASE: usize = 63 - SUFFIX_LENGTH;

const NO_SCHEDULER: &str = "there is no scheduler: spec.nodeName must say which node is to run it; for a pod on every node, \
                            use a DaemonSet";
const MADE_BY_NODES: &str = "the pods of a DaemonSet are made by the nodes themselves";

/// Which half of an object a request writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The object itself: everything but its status.
    Main,
    /// The `status` subresource: the status, and labels and annotations.
    Status,
    /// The subresource of a pod that adds containers to it while it runs.
    EphemeralContainers,
    /// The subresource of a CertificateSigningRequest that says whether it is to be signed: the conditions, and nothing else.
    Approval,
}

// === creating ===

/// Sets what only the server sets on a new object, whatever the request said. Who owns its fields is
/// [`ownership`](super::ownership)'s.
pub fn stamp(kind: &Kind, namespace: &str, object: &mut Value, uid: &str, now: Timestamp) {
    type_of(kind, object);
    let metadata = meta::metadata_mut(object);
    for field in ["resourceVersion", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        metadata.remove(field);
    }
    metadata.remove("generation");
    metadata.insert("uid".into(), uid.into());
    metadata.insert("creationTimestamp".into(), meta::time(now).into());
    if kind.namespaced {
        metadata.insert("namespace".into(), namespace.into());
    } else {
        metadata.remove("namespace");
    }
}

/// A name for an object that gave only the beginning of one. `random` needs some 24 random bits.
pub fn generated_name(base: &str, random: u128) -> String {
    let base: String = base.chars().take(MAX_GENERATED_BASE).collect();
    base + &name_suffix(random)
}

/// What makes a generated name differ from others with the same beginning.
pub fn name_suffix(mut random: u128) -> String {
    let count = SUFFIX_CHARACTERS.len() as u128;
    let character = |_| {
        let index = usize::try_from(random % count).expect("smaller than the table");
        random /= count;
        char::from(SUFFIX_CHARACTERS[index])
    };
    (0..SUFFIX_LENGTH).map(character).collect()
}

/// Why this object cannot be created through the API; nothing if it can.
pub fn refuse_create(kind: &Kind, object: &Value) -> Option<String> {
    if *kind != POD {
        return None;
    }
    let is_bound = object["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty());
    let refusals = [(!is_bound, NO_SCHEDULER), (meta::controller(object).is_some(), MADE_BY_NODES)];
    refusals.into_iter().find(|(applies, _)| *applies).map(|(_, why)| why.to_owned())
}

/// Completes a new object that was stamped and named.
pub fn prepare_create(kind: &Kind, object: &mut Value) {
    if *kind == DAEMON_SET {
        object["status"] = status_of_new_daemon_set();
        let given = template_generation(object).unwrap_or_default().max(1);
        set_template_generation(object, given);
        meta::metadata_mut(object).insert("generation".into(), 1.into());
    } else if *kind == NAMESPACE {
        object["spec"] = json!({});
        object["status"] = json!({});
    } else if *kind == POD {
        object["status"] = json!({"phase": "Pending"});
        meta::metadata_mut(object).insert("generation".into(), 1.into());
    } else if *kind == CERTIFICATE_SIGNING_REQUEST {
        object["status"] = json!({});
    }
    rules::complete(kind, object);
}

/// `status` of a DaemonSet of which nothing was seen.
pub fn status_of_new_daemon_set() -> Value {
    json!({"currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0})
}

/// What is wrong with a completed new object.
pub fn validate_create(kind: &Kind, object: &Value) -> Vec<FieldError> {
    rules::validate(kind, object)
}

// === updating ===

/// Puts back what the request may not touch, and moves what the server counts.
pub fn prepare_update(kind: &Kind, part: Part, object: &mut Value, current: &Value, now: Timestamp) {
    type_of(kind, object);
    let keep: &[&str] = match part {
        Part::Main if [&NAMESPACE, &CERTIFICATE_SIGNING_REQUEST].contains(&kind) => &["spec", "status"],
        Part::Main => &["status"],
        Part::Status => &["spec"],
        Part::EphemeralContainers => {
            *object = with_ephemeral_containers(object, current);
            &[]
        }
        Part::Approval => {
            let mut approved = current.clone();
            meta::copy_field(meta::map_mut(&mut approved, "status"), &object["status"], "conditions");
            *object = approved;
            &[]
        }
    };
    keep_metadata(object, current);
    if kind.subresource(STATUS).is_some() {
        let fields = object.as_object_mut().expect("has metadata");
        for field in keep {
            meta::copy_field(fields, current, field);
        }
    }
    // A pod of a DaemonSet is as the version made it that was there then.
    if *kind != POD || object["spec"] != current["spec"] {
        rules::complete(kind, object);
    }
    if *kind == DAEMON_SET {
        count_daemon_set(object, current);
    } else if *kind == POD {
        count_spec(object, current);
    } else if *kind == CERTIFICATE_SIGNING_REQUEST {
        date_conditions(object, current, now);
    }
}

/// Gives conditions the times that whoever wrote them left out.
///
/// Source: kubernetes v1.36, `pkg/registry/certificates/certificates/strategy.go`, `populateConditionTimestamps`.
fn date_conditions(object: &mut Value, current: &Value, now: Timestamp) {
    let now = Value::from(meta::time(now));
    let before = current["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let conditions = object.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten().filter_map(Value::as_object_mut) {
        let same = |old: &&Value| ["type", "status"].iter().all(|field| condition.get(*field) == old.get(*field));
        let since = before.iter().find(same).map(|old| &old["lastTransitionTime"]).filter(|since| since.is_string());
        let since = since.unwrap_or(&now).clone();
        condition.entry("lastTransitionTime").or_insert(since);
        condition.entry("lastUpdateTime").or_insert_with(|| now.clone());
    }
}

/// The pod as it is, but for the containers that are added to it, behind those that are there.
fn with_ephemeral_containers(object: &Value, current: &Value) -> Value {
    let mut changed = current.clone();
    let spec = meta::map_mut(&mut changed, "spec");
    meta::copy_field(spec, &object["spec"], "ephemeralContainers");
    let old = current["spec"]["ephemeralContainers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let position = |one: &Value| old.iter().position(|old| old["name"] == one["name"]).unwrap_or(usize::MAX);
    if let Some(Value::Array(all)) = spec.get_mut("ephemeralContainers") {
        all.sort_by_key(position);
    }
    changed
}

/// What is wrong with a change that was prepared.
pub fn validate_update(kind: &Kind, part: Part, object: &Value, current: &Value) -> Vec<FieldError> {
    let mut errors = rules::validate_update(kind, part, object, current);
    if *kind == POD && meta::controller(current).is_none() && meta::controller(object).is_some() {
        errors.push(FieldError::forbidden(&Path::new("metadata.ownerReferences"), MADE_BY_NODES));
    }
    errors
}

/// Metadata a client may leave out, and what it cannot set.
fn keep_metadata(object: &mut Value, current: &Value) {
    let metadata = meta::metadata_mut(object);
    for field in ["generation", "resourceVersion", "selfLink"] {
        meta::copy_field(metadata, &current["metadata"], field);
    }
    for field in IMMUTABLE_METADATA {
        if metadata.get(field).is_none_or(Value::is_null) {
            meta::copy_field(metadata, &current["metadata"], field);
        }
    }
}

const IMMUTABLE_METADATA: [&str; 7] = [
    "name",
    "generateName",
    "namespace",
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
];

/// `generation` moves with the spec, `templateGeneration` with the template.
fn count_daemon_set(object: &mut Value, current: &Value) {
    let template = template_generation(current).unwrap_or(1);
    let template_changed = object["spec"]["template"] != current["spec"]["template"];
    set_template_generation(object, template + i64::from(template_changed));
    count_spec(object, current);
}

fn count_spec(object: &mut Value, current: &Value) {
    if object["spec"] != current["spec"] {
        let generation = current["metadata"]["generation"].as_i64().unwrap_or(1);
        meta::metadata_mut(object).insert("generation".into(), (generation + 1).into());
    }
}

fn template_generation(object: &Value) -> Option<i64> {
    object["metadata"]["annotations"][TEMPLATE_GENERATION_ANNOTATION].as_str()?.parse().ok()
}

fn set_template_generation(object: &mut Value, generation: i64) {
    let annotations = meta::map_mut(&mut object["metadata"], "annotations");
    annotations.insert(TEMPLATE_GENERATION_ANNOTATION.into(), generation.to_string().into());
}

/// Says on the object what it is: list items and bodies of some clients do not.
fn type_of(kind: &Kind, object: &mut Value) {
    meta::metadata_mut(object);
    object["apiVersion"] = kind.api_version().into();
    object["kind"] = kind.kind.into();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::kinds::{CONFIG_MAP, NODE};

    #[test]
    fn what_only_the_server_sets_is_set_whatever_a_body_says() {
        let mut object = json!({
            "metadata": {
                "name": "a", "namespace": "other", "uid": "mine", "generation": 7, "resourceVersion": "5",
                "creationTimestamp": "2000-01-01T00:00:00Z", "deletionTimestamp": "2000-01-01T00:00:00Z",
                "labels": {"a": "b"},
            },
            "data": {},
        });
        stamp(&CONFIG_MAP, "n", &mut object, "uid", "2026-01-01T00:00:00.5Z".parse().unwrap());
        let expected = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {
                "name": "a", "namespace": "n", "uid": "uid", "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": {"a": "b"},
            },
            "data": {},
        });
        assert_eq!(object, expected);
    }

    #[test]
    fn a_generated_name_fits_a_label_and_spells_no_words() {
        assert_eq!(generated_name("a-", 0), "a-bbbbb");
        let name = generated_name(&"x".repeat(100), u128::MAX);
        assert_eq!(name.len(), 63);
        assert!(name[MAX_GENERATED_BASE..].bytes().all(|byte| SUFFIX_CHARACTERS.contains(&byte)), "{name}");
    }

    #[test]
    fn each_part_of_an_object_is_written_by_its_own_requests() {
        let current = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "a", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z", "resourceVersion": "3"},
            "spec": {"unschedulable": true}, "status": {"phase": "Running"},
        });
        let request = json!({"metadata": {"name": "a", "labels": {"x": "y"}}, "spec": {"taints": []}, "status": {}});
        let mut labelled = current.clone();
        labelled["metadata"]["labels"] = json!({"x": "y"});
        for (part, field, value) in [(Part::Main, "spec", json!({"taints": []})), (Part::Status, "status", json!({}))] {
            let mut object = request.clone();
            prepare_update(&NODE, part, &mut object, &current, Timestamp::UNIX_EPOCH);
            let mut expected = labelled.clone();
            expected[field] = value;
            assert_eq!(object, expected, "{part:?}");
        }
    }
}
