//! The kinds with little to say: Namespace, ConfigMap, Secret, ServiceAccount, ControllerRevision.
//!
//! Source: kubernetes v1.36, `pkg/apis/core/validation/validation.go`, `pkg/apis/core/v1/defaults.go` and
//! `pkg/apis/apps/validation/validation.go`.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, ServiceAccount};
use serde_json::Value;

use super::field::{FieldError, Path};
use super::metadata::{self, Scope, immutable, invalid_each, nonnegative};
use super::names;

/// The values of a ConfigMap or a Secret together have at most so many bytes.
const MAX_DATA_BYTES: usize = 1024 * 1024;

const NAME_LABEL: &str = "kubernetes.io/metadata.name";
const SERVICE_ACCOUNT_ANNOTATION: &str = "kubernetes.io/service-account.name";
const IMMUTABLE: &str = "field is immutable when `immutable` is set";

// === Namespace ===

/// Completes a namespace: the label that carries its name, the finalizer that ends what lives in it, its phase.
pub fn default_namespace(namespace: &mut Namespace) {
    if let Some(name) = namespace.metadata.name.clone() {
        namespace.metadata.labels.get_or_insert_default().insert(NAME_LABEL.to_owned(), name);
    }
    let finalizers = namespace.spec.get_or_insert_default().finalizers.get_or_insert_default();
    if finalizers.is_empty() && namespace.metadata.deletion_timestamp.is_none() {
        finalizers.push("kubernetes".to_owned());
    }
    namespace.status.get_or_insert_default().phase.get_or_insert_with(|| "Active".to_owned());
}

/// Everything wrong with a new namespace.
pub fn validate_namespace(namespace: &Namespace) -> Vec<FieldError> {
    let mut errors = Vec::new();
    metadata::validate(&namespace.metadata, Scope::Cluster, names::dns_label, &mut errors);
    errors
}

/// Everything wrong with a change of a namespace.
pub fn validate_namespace_update(new: &Namespace, old: &Namespace) -> Vec<FieldError> {
    let mut errors = Vec::new();
    metadata::validate_update(&new.metadata, &old.metadata, &mut errors);
    errors
}

// === ConfigMap ===

/// Everything wrong with a ConfigMap.
pub fn validate_config_map(config_map: &ConfigMap) -> Vec<FieldError> {
    let mut errors = Vec::new();
    metadata::validate(&config_map.metadata, Scope::Namespaced, names::dns_subdomain, &mut errors);
    let mut bytes = 0;
    for (key, value) in config_map.data.iter().flatten() {
        let path = Path::new("data").key(key);
        invalid_each(&path, key, names::config_key(key), &mut errors);
        if config_map.binary_data.as_ref().is_some_and(|binary| binary.contains_key(key)) {
            errors.push(FieldError::invalid(&path, key.as_str(), "duplicate of key present in binaryData"));
        }
        bytes += value.len();
    }
    for (key, value) in config_map.binary_data.iter().flatten() {
        invalid_each(&Path::new("binaryData").key(key), key, names::config_key(key), &mut errors);
        bytes += value.0.len();
    }
    if bytes > MAX_DATA_BYTES {
        // The empty path is the whole object.
        errors.push(FieldError::too_long(&Path::default(), MAX_DATA_BYTES));
    }
    errors
}

/// Everything wrong with a change of a ConfigMap.
pub fn validate_config_map_update(new: &ConfigMap, old: &ConfigMap) -> Vec<FieldError> {
    let mut errors = Vec::new();
    metadata::validate_update(&new.metadata, &old.metadata, &mut errors);
    if old.immutable == Some(true) {
        let unset = new.immutable != Some(true);
        let changed =
            [("immutable", unset), ("data", new.data != old.data), ("binaryData", new.binary_data != old.binary_data)];
        forbid_changes(&changed, &mut errors);
    }
    errors.extend(validate_config_map(new));
    errors
}

fn forbid_changes(changed: &[(&str, bool)], errors: &mut Vec<FieldError>) {
    for (field, changed) in changed {
        if *changed {
            errors.push(FieldError::forbidden(&Path::new(field), IMMUTABLE));
        }
    }
}

// === Secret ===

/// Completes a Secret: its type, and `stringData`, which is only a way to write `data`.
pub fn default_secret(secret: &mut Secret) {
    if secret.type_.as_ref().is_none_or(String::is_empty) {
        secret.type_ = Some("Opaque".to_owned());
    }
    for (key, value) in secret.string_data.take().into_iter().flatten() {
        secret.data.get_or_insert_default().insert(key, ByteString(value.into_bytes()));
    }
}

/// Everything wrong with a Secret. No value is ever printed.
pub fn validate_secret(secret: &Secret) -> Vec<FieldError> {
    let mut errors = Vec::new();
    metadata::validate(&secret.metadata, Scope::Namespaced, names::dns_subdomain, &mut errors);
    let (path, nothing) = (Path::new("data"), BTreeMap::new());
    let data = secret.data.as_ref().unwrap_or(&nothing);
    for key in data.keys() {
        invalid_each(&path.key(key), key, names::config_key(key), &mut errors);
    }
    if data.values().map(|value| value.0.len()).sum::<usize>() > MAX_DATA_BYTES {
        errors.push(FieldError::too_long(&path, MAX_DATA_BYTES));
    }
    validate_secret_type(secret, data, &path, &mut errors);
    errors
}

fn validate_secret_type(
    secret: &Secret,
    data: &BTreeMap<String, ByteString>,
    path: &Path,
    errors: &mut Vec<FieldError>,
) {
    let mut require = |keys: &[&str]| {
        for key in keys.iter().filter(|key| !data.contains_key(**key)) {
            errors.push(FieldError::required(&path.key(key), ""));
        }
    };
    match secret.type_.as_deref().unwrap_or_default() {
        "kubernetes.io/service-account-token" => {
            let annotations = secret.metadata.annotations.as_ref();
            let account = annotations.and_then(|annotations| annotations.get(SERVICE_ACCOUNT_ANNOTATION));
            if account.is_none_or(String::is_empty) {
                let path = Path::new("metadata.annotations").key(SERVICE_ACCOUNT_ANNOTATION);
                errors.push(FieldError::required(&path, ""));
            }
        }
        "kubernetes.io/dockercfg" => validate_json(".dockercfg", data, path, errors),
        "kubernetes.io/dockerconfigjson" => validate_json(".dockerconfigjson", data, path, errors),
        "kubernetes.io/basic-auth" if data.contains_key("username") || data.contains_key("password") => {}
        "kubernetes.io/basic-auth" => require(&["username", "password"]),
        "kubernetes.io/ssh-auth" if data.get("ssh-privatekey").is_none_or(|key| key.0.is_empty()) => {
            errors.push(FieldError::required(&path.key("ssh-privatekey"), ""));
        }
        "kubernetes.io/tls" => require(&["tls.crt", "tls.key"]),
        _ => {}
    }
}

fn validate_json(key: &str, data: &BTreeMap<String, ByteString>, path: &Path, errors: &mut Vec<FieldError>) {
    let path = path.key(key);
    let Some(value) = data.get(key) else {
        errors.push(FieldError::required(&path, ""));
        return;
    };
    if let Err(error) = serde_json::from_slice::<BTreeMap<String, serde::de::IgnoredAny>>(&value.0) {
        // Only the place of the error is told: its text may quote the value.
        let detail = format!("invalid JSON at line {} column {}", error.line(), error.column());
        errors.push(FieldError::invalid(&path, "<secret contents redacted>", detail));
    }
}

/// Everything wrong with a change of a Secret.
pub fn validate_secret_update(new: &Secret, old: &Secret) -> Vec<FieldError> {
    let mut errors = Vec::new();
    metadata::validate_update(&new.metadata, &old.metadata, &mut errors);
    immutable(&Path::new("type"), &new.type_, &old.type_, &mut errors);
    if old.immutable == Some(true) {
        let unset = new.immutable != Some(true);
        forbid_changes(&[("immutable", unset), ("data", new.data != old.data)], &mut errors);
    }
    errors.extend(validate_secret(new));
    errors
}

// === ServiceAccount ===

/// Everything wrong with a ServiceAccount.
pub fn validate_service_account(account: &ServiceAccount) -> Vec<FieldError> {
    let mut errors = Vec::new();
    metadata::validate(&account.metadata, Scope::Namespaced, names::dns_subdomain, &mut errors);
    errors
}

/// Everything wrong with a change of a ServiceAccount.
pub fn validate_service_account_update(new: &ServiceAccount, old: &ServiceAccount) -> Vec<FieldError> {
    let mut errors = Vec::new();
    metadata::validate_update(&new.metadata, &old.metadata, &mut errors);
    errors.extend(validate_service_account(new));
    errors
}

// === ControllerRevision ===

/// Everything wrong with a ControllerRevision.
pub fn validate_controller_revision(revision: &ControllerRevision) -> Vec<FieldError> {
    let mut errors = Vec::new();
    metadata::validate(&revision.metadata, Scope::Namespaced, names::dns_subdomain, &mut errors);
    let path = Path::new("data");
    match revision.data.as_ref().map(|data| &data.0) {
        None | Some(Value::Null) => errors.push(FieldError::required(&path, "data is mandatory")),
        Some(Value::Object(_)) => {}
        Some(other) => {
            errors.push(FieldError::invalid(&path, other.clone(), "data must be a valid JSON object"));
        }
    }
    nonnegative(&Path::new("revision"), revision.revision, &mut errors);
    errors
}

/// Everything wrong with a change of a ControllerRevision.
pub fn validate_controller_revision_update(new: &ControllerRevision, old: &ControllerRevision) -> Vec<FieldError> {
    let mut errors = Vec::new();
    metadata::validate_update(&new.metadata, &old.metadata, &mut errors);
    errors.extend(validate_controller_revision(new));
    immutable(&Path::new("data"), &new.data, &old.data, &mut errors);
    errors
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::json;

    use super::*;

    fn object<T: DeserializeOwned>(fields: &Value) -> T {
        let mut object = json!({"metadata": {"name": "a", "namespace": "default"}});
        object.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
        serde_json::from_value(object).expect("the kind")
    }

    fn texts(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_config_map_keeps_its_rules() {
        assert_eq!(validate_config_map(&object(&json!({"data": {"a.b": "c"}}))), []);
        let clash: ConfigMap = object(&json!({"data": {"a": "b"}, "binaryData": {"a": "", "..": ""}}));
        assert_eq!(
            texts(&validate_config_map(&clash)),
            [
                "data[a]: Invalid value: \"a\": duplicate of key present in binaryData",
                "binaryData[..]: Invalid value: \"..\": must not be '..'",
            ]
        );
        let large: ConfigMap = object(&json!({"data": {"a": "x".repeat(MAX_DATA_BYTES + 1)}}));
        assert_eq!(texts(&validate_config_map(&large)), [": Too long: may not be more than 1048576 bytes"]);
        let fixed: ConfigMap = object(&json!({"data": {"a": "b"}, "immutable": true}));
        assert_eq!(
            texts(&validate_config_map_update(&object(&json!({"data": {"a": "c"}})), &fixed)),
            [
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set",
            ]
        );
    }

    #[test]
    fn a_secret_is_completed_and_keeps_the_rules_of_its_type() {
        let mut plain: Secret = object(&json!({"data": {"a": "eA=="}, "stringData": {"b": "y"}}));
        default_secret(&mut plain);
        let expected: Secret = object(&json!({"type": "Opaque", "data": {"a": "eA==", "b": "eQ=="}}));
        assert_eq!(plain, expected);
        for (fields, expected) in [
            (json!({"type": "Opaque"}), vec![]),
            (json!({"type": "example.com/mine"}), vec![]),
            (json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}}), vec!["data[tls.key]: Required value"]),
            (
                json!({"type": "kubernetes.io/basic-auth"}),
                vec!["data[username]: Required value", "data[password]: Required value"],
            ),
            (json!({"type": "kubernetes.io/ssh-auth"}), vec!["data[ssh-privatekey]: Required value"]),
            (
                json!({"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "c2VjcmV0"}}),
                vec![
                    "data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": invalid JSON at line 1 column 1",
                ],
            ),
            (
                json!({"type": "kubernetes.io/service-account-token"}),
                vec!["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
            ),
        ] {
            assert_eq!(texts(&validate_secret(&object(&fields))), expected, "{fields}");
        }
        let tls: Secret = object(&json!({"type": "kubernetes.io/tls", "data": {"tls.crt": "", "tls.key": ""}}));
        assert_eq!(
            texts(&validate_secret_update(&plain, &tls)),
            ["type: Invalid value: \"Opaque\": field is immutable"]
        );
    }

    #[test]
    fn a_namespace_carries_its_name_as_a_label() {
        let mut namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": "a"}})).expect("a namespace");
        default_namespace(&mut namespace);
        let expected = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": "a", "labels": {"kubernetes.io/metadata.name": "a"}},
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
        });
        assert_eq!(json!(namespace), expected);
        assert_eq!(validate_namespace(&namespace), []);
    }

    #[test]
    fn a_controller_revision_holds_an_object_for_ever() {
        let revision = |data: Value| object::<ControllerRevision>(&json!({"revision": 1, "data": data}));
        let good = revision(json!({"a": 1}));
        assert_eq!(validate_controller_revision(&good), []);
        assert_eq!(
            texts(&validate_controller_revision(&revision(Value::Null))),
            ["data: Required value: data is mandatory"]
        );
        assert_eq!(
            texts(&validate_controller_revision(&revision(json!([])))),
            ["data: Invalid value: []: data must be a valid JSON object"]
        );
        assert_eq!(
            texts(&validate_controller_revision_update(&revision(json!({})), &good)),
            ["data: Invalid value: {}: field is immutable"]
        );
    }
}
