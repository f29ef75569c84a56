//! Rules for `metadata`, labels and label selectors, the same for every kind.
//!
//! Source: kubernetes v1.36, `k8s.io/apimachinery/pkg/api/validation/objectmeta.go` and
//! `k8s.io/apimachinery/pkg/apis/meta/v1/validation/validation.go`. What depends on the store (`resourceVersion`) or is
//! the server's own (`managedFields`) is not checked here.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    LabelSelector, LabelSelectorRequirement, ObjectMeta, OwnerReference,
};
use serde::Serialize;
use serde_json::Value;

use super::field::{FieldError, Path};
use super::names;

/// Keys and values of all annotations of an object together have at most so many bytes.
const MAX_ANNOTATION_BYTES: usize = 256 * 1024;

/// The finalizers that have no domain before their name.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", ORPHAN_FINALIZER, FOREGROUND_FINALIZER];
const ORPHAN_FINALIZER: &str = "orphan";
const FOREGROUND_FINALIZER: &str = "foregroundDeletion";

/// Whether objects of a kind live in a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// They do, and `metadata.namespace` must be given.
    Namespaced,
    /// They do not, and it may not.
    Cluster,
}

/// The messages against a name; one of those in [`names`].
pub type NameRule = fn(&str) -> Vec<String>;

/// Reports every message of a rule against a value.
pub(super) fn invalid_each(path: &Path, value: &str, messages: Vec<String>, errors: &mut Vec<FieldError>) {
    errors.extend(messages.into_iter().map(|message| FieldError::invalid(path, value, message)));
}

/// A number that may not be below zero.
pub(super) fn nonnegative(path: &Path, value: i64, errors: &mut Vec<FieldError>) {
    if value < 0 {
        errors.push(FieldError::invalid(path, value, "must be greater than or equal to 0"));
    }
}

/// A field that may not change.
pub(super) fn immutable<T: PartialEq + Serialize>(path: &Path, new: &T, old: &T, errors: &mut Vec<FieldError>) {
    if new != old {
        errors.push(FieldError::invalid(path, json(new), "field is immutable"));
    }
}

/// A value as errors print it.
pub(super) fn json<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).expect("Kubernetes' types are JSON: their map keys are strings")
}

/// Checks `metadata` of a new object whose name, if generated, was generated already.
pub fn validate(metadata: &ObjectMeta, scope: Scope, name_rule: NameRule, errors: &mut Vec<FieldError>) {
    let path = Path::new("metadata");
    if let Some(prefix) = metadata.generate_name.as_deref().filter(|prefix| !prefix.is_empty()) {
        // The name continues after the prefix, so it may end with a dash.
        let as_name = prefix.strip_suffix('-').map_or_else(|| prefix.to_owned(), |start| format!("{start}a"));
        invalid_each(&path.child("generateName"), prefix, name_rule(&as_name), errors);
    }
    match metadata.name.as_deref() {
        None | Some("") => errors.push(FieldError::required(&path.child("name"), "name or generateName is required")),
        Some(name) => invalid_each(&path.child("name"), name, name_rule(name), errors),
    }
    let namespace_path = path.child("namespace");
    match (scope, metadata.namespace.as_deref().unwrap_or_default()) {
        (Scope::Namespaced, "") => errors.push(FieldError::required(&namespace_path, "")),
        (Scope::Namespaced, namespace) => invalid_each(&namespace_path, namespace, names::dns_label(namespace), errors),
        (Scope::Cluster, "") => {}
        (Scope::Cluster, _) => errors.push(FieldError::forbidden(&namespace_path, "not allowed on this type")),
    }
    nonnegative(&path.child("generation"), metadata.generation.unwrap_or(0), errors);
    validate_changeable(metadata, &path, errors);
    let finalizers = metadata.finalizers.as_deref().unwrap_or_default();
    validate_finalizers(finalizers, &path.child("finalizers"), errors);
    validate_finalizer_domains(finalizers, &path.child("finalizers"), errors);
}

/// Checks `metadata` of a changed object against what it was. Fields the server sets are expected to be filled in from
/// `old` where `new` left them out.
pub fn validate_update(new: &ObjectMeta, old: &ObjectMeta, errors: &mut Vec<FieldError>) {
    let path = Path::new("metadata");
    if old.deletion_timestamp.is_some() {
        let known = old.finalizers.as_deref().unwrap_or_default();
        let mut extra: Vec<&String> = new.finalizers.iter().flatten().filter(|name| !known.contains(name)).collect();
        extra.sort();
        if !extra.is_empty() {
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                extra.iter().map(|name| super::field::go_quoted(name)).collect::<Vec<_>>().join(", ")
            );
            errors.push(FieldError::forbidden(&path.child("finalizers"), detail));
        }
    }
    if new.generation < old.generation {
        let generation = new.generation.unwrap_or(0);
        errors.push(FieldError::invalid(&path.child("generation"), generation, "must not be decremented"));
    }
    immutable(&path.child("name"), &new.name, &old.name, errors);
    immutable(&path.child("namespace"), &new.namespace, &old.namespace, errors);
    immutable(&path.child("uid"), &new.uid, &old.uid, errors);
    immutable(&path.child("creationTimestamp"), &new.creation_timestamp, &old.creation_timestamp, errors);
    immutable(&path.child("deletionTimestamp"), &new.deletion_timestamp, &old.deletion_timestamp, errors);
    let seconds = [new.deletion_grace_period_seconds, old.deletion_grace_period_seconds];
    immutable(&path.child("deletionGracePeriodSeconds"), &seconds[0], &seconds[1], errors);
    validate_changeable(new, &path, errors);
    let finalizers = new.finalizers.as_deref().unwrap_or_default();
    validate_finalizer_domains(finalizers, &path.child("finalizers"), errors);
}

fn validate_changeable(metadata: &ObjectMeta, path: &Path, errors: &mut Vec<FieldError>) {
    validate_labels(metadata.labels.as_ref(), &path.child("labels"), errors);
    validate_annotations(metadata.annotations.as_ref(), &path.child("annotations"), errors);
    let owners = metadata.owner_references.as_deref().unwrap_or_default();
    validate_owner_references(owners, &path.child("ownerReferences"), errors);
}

/// Checks keys and values of labels, or of anything written like them.
pub(super) fn validate_labels(labels: Option<&BTreeMap<String, String>>, path: &Path, errors: &mut Vec<FieldError>) {
    for (key, value) in labels.into_iter().flatten() {
        invalid_each(path, key, names::qualified_name(key), errors);
        invalid_each(path, value, names::label_value(value), errors);
    }
}

pub(super) fn validate_annotations(
    annotations: Option<&BTreeMap<String, String>>,
    path: &Path,
    errors: &mut Vec<FieldError>,
) {
    let mut bytes = 0;
    for (key, value) in annotations.into_iter().flatten() {
        // Case does not matter here, upstream compares in lower case and prints the key as given.
        invalid_each(path, key, names::qualified_name(&key.to_lowercase()), errors);
        bytes += key.len() + value.len();
    }
    if bytes > MAX_ANNOTATION_BYTES {
        errors.push(FieldError::too_long(path, MAX_ANNOTATION_BYTES));
    }
}

fn validate_owner_references(owners: &[OwnerReference], path: &Path, errors: &mut Vec<FieldError>) {
    let mut controller: Option<String> = None;
    for owner in owners {
        let version = owner.api_version.rsplit('/').next().unwrap_or_default();
        if version.is_empty() {
            let detail = "version must not be empty";
            errors.push(FieldError::invalid(&path.child("apiVersion"), owner.api_version.as_str(), detail));
        }
        for (name, value) in [("kind", &owner.kind), ("name", &owner.name), ("uid", &owner.uid)] {
            if value.is_empty() {
                errors.push(FieldError::invalid(&path.child(name), "", "must not be empty"));
            }
        }
        if (owner.api_version.as_str(), owner.kind.as_str()) == ("v1", "Event") {
            let detail = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(FieldError::invalid(path, json(owner), detail));
        }
        if owner.controller == Some(true) {
            let this = format!("{}/{}", owner.kind, owner.name);
            match &controller {
                Some(first) => errors.push(FieldError::invalid(
                    path,
                    json(&owners),
                    format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                    ),
                )),
                None => controller = Some(this),
            }
        }
    }
}

fn validate_finalizers(finalizers: &[String], path: &Path, errors: &mut Vec<FieldError>) {
    for finalizer in finalizers {
        invalid_each(path, finalizer, names::qualified_name(finalizer), errors);
    }
    let has = |name: &str| finalizers.iter().any(|finalizer| finalizer == name);
    if has(ORPHAN_FINALIZER) && has(FOREGROUND_FINALIZER) {
        let detail = format!("finalizer {ORPHAN_FINALIZER} and {FOREGROUND_FINALIZER} cannot be both set");
        errors.push(FieldError::invalid(path, json(&finalizers), detail));
    }
}

fn validate_finalizer_domains(finalizers: &[String], path: &Path, errors: &mut Vec<FieldError>) {
    for (index, finalizer) in finalizers.iter().enumerate() {
        if !finalizer.contains('/') && !STANDARD_FINALIZERS.contains(&finalizer.as_str()) {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(&path.index(index), finalizer.as_str(), detail));
        }
    }
}

/// Checks the requirements of a label selector.
pub(super) fn validate_label_selector(selector: &LabelSelector, path: &Path, errors: &mut Vec<FieldError>) {
    validate_labels(selector.match_labels.as_ref(), &path.child("matchLabels"), errors);
    for (index, requirement) in selector.match_expressions.iter().flatten().enumerate() {
        validate_requirement(requirement, &path.child("matchExpressions").index(index), errors);
    }
}

fn validate_requirement(requirement: &LabelSelectorRequirement, path: &Path, errors: &mut Vec<FieldError>) {
    let values = requirement.values.as_deref().unwrap_or_default();
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => {
            let detail = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.push(FieldError::required(&path.child("values"), detail));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(FieldError::forbidden(&path.child("values"), detail));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => errors.push(FieldError::invalid(&path.child("operator"), other, "not a valid selector operator")),
    }
    invalid_each(&path.child("key"), &requirement.key, names::qualified_name(&requirement.key), errors);
    for (index, value) in values.iter().enumerate() {
        invalid_each(&path.child("values").index(index), value, names::label_value(value), errors);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn metadata(changes: Value) -> ObjectMeta {
        let mut base = json!({"name": "web", "namespace": "default", "uid": "u", "generation": 2});
        let (Some(base_fields), Value::Object(changes)) = (base.as_object_mut(), changes) else { panic!("objects") };
        base_fields.extend(changes);
        serde_json::from_value(base).expect("metadata")
    }

    fn texts(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn metadata_of_a_new_object_keeps_the_rules() {
        let owner = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "a", "uid": "u", "controller": true});
        for (changes, expected) in [
            (json!({}), vec![]),
            (json!({"name": ""}), vec!["metadata.name: Required value: name or generateName is required"]),
            (json!({"namespace": null}), vec!["metadata.namespace: Required value"]),
            (json!({"generateName": "web-"}), vec![]),
            (
                json!({"generation": -1}),
                vec!["metadata.generation: Invalid value: -1: must be greater than or equal to 0"],
            ),
            (
                json!({"finalizers": ["orphan", "foregroundDeletion"]}),
                vec![
                    "metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\"]: finalizer orphan and \
                     foregroundDeletion cannot be both set",
                ],
            ),
            (
                json!({"finalizers": ["mine"]}),
                vec![
                    "metadata.finalizers[0]: Invalid value: \"mine\": name is neither a standard finalizer name nor is it \
                     fully qualified",
                ],
            ),
            (
                json!({"ownerReferences": [{"apiVersion": "v1", "kind": "Event", "name": "", "uid": "u"}]}),
                vec![
                    "metadata.ownerReferences.name: Invalid value: \"\": must not be empty",
                    "metadata.ownerReferences: Invalid value: {\"apiVersion\":\"v1\",\"kind\":\"Event\",\"name\":\"\",\
                     \"uid\":\"u\"}: /v1, Kind=Event is disallowed from being an owner",
                ],
            ),
            (json!({"ownerReferences": [owner]}), vec![]),
            (json!({"annotations": {"A/b": "x"}}), vec![]),
            (
                json!({"annotations": {"a": "x".repeat(MAX_ANNOTATION_BYTES)}}),
                vec!["metadata.annotations: Too long: may not be more than 262144 bytes"],
            ),
        ] {
            let mut errors = Vec::new();
            validate(&metadata(changes), Scope::Namespaced, names::dns_subdomain, &mut errors);
            assert_eq!(texts(&errors), expected);
        }
        let mut errors = Vec::new();
        let two = metadata(json!({"ownerReferences": [owner, owner], "labels": {"-a": "b/c"}, "name": "A"}));
        validate(&two, Scope::Cluster, names::dns_subdomain, &mut errors);
        let fields: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
        let expected =
            ["metadata.name", "metadata.namespace", "metadata.labels", "metadata.labels", "metadata.ownerReferences"];
        assert_eq!(fields, expected);
    }

    #[test]
    fn metadata_of_a_changed_object_keeps_what_is_fixed() {
        let old = metadata(json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["a.b/c"]}));
        for (changes, expected) in [
            (json!({"finalizers": []}), vec![]),
            (
                json!({"finalizers": ["a.b/c", "a.b/d"]}),
                vec![
                    "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found \
                     new finalizers []string{\"a.b/d\"}",
                ],
            ),
            (json!({"generation": 1}), vec!["metadata.generation: Invalid value: 1: must not be decremented"]),
            (json!({"uid": "v"}), vec!["metadata.uid: Invalid value: \"v\": field is immutable"]),
            (
                json!({"deletionTimestamp": null}),
                vec!["metadata.deletionTimestamp: Invalid value: null: field is immutable"],
            ),
        ] {
            let mut changed = json!(old);
            changed.as_object_mut().expect("an object").extend(changes.as_object().expect("an object").clone());
            let mut errors = Vec::new();
            validate_update(&serde_json::from_value(changed).expect("metadata"), &old, &mut errors);
            assert_eq!(texts(&errors), expected);
        }
    }
}
