//! Rules for environment variables, and for references to fields of the pod, which volumes have too.

use k8s_openapi::api::core::v1::{
    EnvFromSource, EnvVar, EnvVarSource, FileKeySelector, ObjectFieldSelector, ResourceFieldSelector,
};

use super::text;
use super::volumes::{Volumes, descending_path};
use crate::api::field::{FieldError, Path};
use crate::api::metadata::invalid_each;
use crate::api::names;
use crate::api::quantity::Quantity;

/// Where a reference to a field stands: what it may name differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In an environment variable.
    Env,
    /// In a downward API volume.
    Volume,
}

const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const VOLUME_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const SIZE_DIVISORS: [&str; 13] = ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

pub(super) fn validate(variables: &[EnvVar], volumes: &Volumes<'_>, path: &Path, errors: &mut Vec<FieldError>) {
    for (index, variable) in variables.iter().enumerate() {
        let path = path.index(index);
        if variable.name.is_empty() {
            errors.push(FieldError::required(&path.child("name"), ""));
        } else {
            invalid_each(&path.child("name"), &variable.name, names::env_name(&variable.name), errors);
        }
        if let Some(source) = &variable.value_from {
            let has_value = !text(variable.value.as_ref()).is_empty();
            validate_source(source, has_value, volumes, &path.child("valueFrom"), errors);
        }
    }
}

fn validate_source(
    source: &EnvVarSource,
    has_value: bool,
    volumes: &Volumes<'_>,
    path: &Path,
    errors: &mut Vec<FieldError>,
) {
    let mut given = 0;
    if let Some(field_ref) = &source.field_ref {
        given += 1;
        validate_field_ref(field_ref, Place::Env, &path.child("fieldRef"), errors);
    }
    if let Some(resource) = &source.resource_field_ref {
        given += 1;
        validate_resource_ref(resource, Place::Env, &path.child("resourceFieldRef"), errors);
    }
    if let Some(reference) = &source.config_map_key_ref {
        given += 1;
        validate_key_ref(&reference.name, &reference.key, &path.child("configMapKeyRef"), errors);
    }
    if let Some(reference) = &source.secret_key_ref {
        given += 1;
        validate_key_ref(&reference.name, &reference.key, &path.child("secretKeyRef"), errors);
    }
    if let Some(reference) = &source.file_key_ref {
        given += 1;
        validate_file_ref(reference, volumes, &path.child("fileKeyRef"), errors);
    }
    let detail = match given {
        0 => "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        _ if has_value => "may not be specified when `value` is not empty",
        1 => return,
        _ => "may not have more than one field specified at a time",
    };
    errors.push(FieldError::invalid(path, "", detail));
}

fn validate_key_ref(name: &str, key: &str, path: &Path, errors: &mut Vec<FieldError>) {
    invalid_each(&path.child("name"), name, names::dns_subdomain(name), errors);
    if key.is_empty() {
        errors.push(FieldError::required(&path.child("key"), ""));
    } else {
        invalid_each(&path.child("key"), key, names::config_key(key), errors);
    }
}

/// Source: KEP-3721, environment from files of an `emptyDir`.
fn validate_file_ref(reference: &FileKeySelector, volumes: &Volumes<'_>, path: &Path, errors: &mut Vec<FieldError>) {
    if reference.key.is_empty() {
        errors.push(FieldError::required(&path.child("key"), ""));
    } else {
        invalid_each(&path.child("key"), &reference.key, names::env_name(&reference.key), errors);
    }
    match volumes.get(reference.volume_name.as_str()) {
        _ if reference.volume_name.is_empty() => errors.push(FieldError::required(&path.child("volumeName"), "")),
        None => errors.push(FieldError::not_found(&path.child("volumeName"), reference.volume_name.as_str())),
        Some(volume) if volume.empty_dir.is_none() => {
            let detail = "referenced volume must be of type emptyDir";
            errors.push(FieldError::invalid(&path.child("volumeName"), reference.volume_name.as_str(), detail));
        }
        Some(_) => {}
    }
    if reference.path.is_empty() {
        errors.push(FieldError::required(&path.child("path"), ""));
    } else {
        descending_path(&reference.path, &path.child("path"), errors);
    }
}

pub(super) fn validate_from(sources: &[EnvFromSource], path: &Path, errors: &mut Vec<FieldError>) {
    for (index, source) in sources.iter().enumerate() {
        let item = path.index(index);
        let prefix = text(source.prefix.as_ref());
        if !prefix.is_empty() {
            invalid_each(&item.child("prefix"), prefix, names::env_name(prefix), errors);
        }
        let config_map = source.config_map_ref.as_ref().map(|reference| ("configMapRef", &reference.name));
        let secret = source.secret_ref.as_ref().map(|reference| ("secretRef", &reference.name));
        for (field, name) in [config_map, secret].into_iter().flatten() {
            let name_path = item.child(field).child("name");
            if name.is_empty() {
                errors.push(FieldError::required(&name_path, ""));
            } else {
                invalid_each(&name_path, name, names::dns_subdomain(name), errors);
            }
        }
        // Upstream reports these two at the list.
        match (config_map, secret) {
            (None, None) => {
                errors.push(FieldError::invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"));
            }
            (Some(_), Some(_)) => {
                errors.push(FieldError::invalid(path, "", "may not have more than one field specified at a time"));
            }
            _ => {}
        }
    }
}

// === references to fields of the pod ===

pub(super) fn validate_field_ref(
    reference: &ObjectFieldSelector,
    place: Place,
    path: &Path,
    errors: &mut Vec<FieldError>,
) {
    let version = text(reference.api_version.as_ref());
    if version.is_empty() {
        errors.push(FieldError::required(&path.child("apiVersion"), ""));
        return;
    }
    let field = reference.field_path.as_str();
    let field_path = path.child("fieldPath");
    if field.is_empty() {
        errors.push(FieldError::required(&field_path, ""));
        return;
    }
    if version != "v1" {
        let detail = format!("error converting fieldPath: unsupported pod version: {version}");
        errors.push(FieldError::invalid(&field_path, field, detail));
        return;
    }
    if let Some((map, key)) = split_subscript(field) {
        match map {
            "metadata.annotations" => invalid_each(path, key, names::qualified_name(&key.to_lowercase()), errors),
            "metadata.labels" => invalid_each(path, key, names::qualified_name(key), errors),
            _ => {
                let detail = format!("error converting fieldPath: field label does not support subscript: {map}");
                errors.push(FieldError::invalid(&field_path, field, detail));
            }
        }
        return;
    }
    let supported: &[&str] = if place == Place::Env { &ENV_FIELDS } else { &VOLUME_FIELDS };
    if supported.contains(&field) {
        return;
    }
    // A field that exists elsewhere is "unsupported" here, one that exists nowhere does not convert.
    if ENV_FIELDS.contains(&field) || VOLUME_FIELDS.contains(&field) {
        errors.push(FieldError::not_supported(&field_path, field, supported));
    } else {
        let detail = format!("error converting fieldPath: field label not supported: {field}");
        errors.push(FieldError::invalid(&field_path, field, detail));
    }
}

/// `metadata.labels['key']` to map and key.
fn split_subscript(field: &str) -> Option<(&str, &str)> {
    field.strip_suffix("']")?.split_once("['").filter(|(map, _)| !map.is_empty())
}

pub(super) fn validate_resource_ref(
    reference: &ResourceFieldSelector,
    place: Place,
    path: &Path,
    errors: &mut Vec<FieldError>,
) {
    let resource = reference.resource.as_str();
    let huge_pages = resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    if place == Place::Volume && text(reference.container_name.as_ref()).is_empty() {
        errors.push(FieldError::required(&path.child("containerName"), ""));
    } else if resource.is_empty() {
        errors.push(FieldError::required(&path.child("resource"), ""));
    } else if !RESOURCES.contains(&resource) && !huge_pages {
        errors.push(FieldError::not_supported(&path.child("resource"), resource, &RESOURCES));
    }
    let Some(divisor) = reference.divisor.as_ref().and_then(|divisor| divisor.0.parse::<Quantity>().ok()) else {
        return;
    };
    if divisor.is_zero() {
        return;
    }
    let sizes = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei";
    let divisor = divisor.to_string();
    let (allowed, detail) = match resource.split_once('.') {
        Some((_, "cpu")) => (
            ["1m", "1"].contains(&divisor.as_str()),
            "only divisor's values 1m and 1 are supported with the cpu resource".to_owned(),
        ),
        Some((_, name)) => {
            let name = match name {
                "ephemeral-storage" => "local ephemeral storage",
                _ if huge_pages => "hugepages",
                other => other,
            };
            let detail = format!("only divisor's values {sizes} are supported with the {name} resource");
            (SIZE_DIVISORS.contains(&divisor.as_str()), detail)
        }
        None => return,
    };
    if !allowed {
        errors.push(FieldError::invalid(&path.child("divisor"), resource, detail));
    }
}
