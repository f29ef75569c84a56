//! The rules of [`api`](crate::api) for objects held as JSON: which of them a kind has.
//!
//! Pure. Objects were decoded as their kind's type before they come here; what nevertheless is none is told as such.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Part;
use crate::api::field::{FieldError, Path};
use crate::api::metadata::{self, Scope};
use crate::api::revision::same_template;
use crate::api::{certificates, charts, classes, core, daemonset, names, node, pod, rbac};
use crate::control::kinds::Kind;
use crate::error::Chain;
use crate::link::tls::{self, CertificateRequest};
use crate::podspec::{unsupported, unsupported_ephemeral};

/// Adds what the kind's objects have if nothing is said.
pub(super) fn complete(kind: &Kind, object: &mut Value) {
    match kind.kind {
        "ClusterRoleBinding" => as_type(object, rbac::default_cluster_role_binding),
        "DaemonSet" => as_type(object, daemonset::default),
        "Namespace" => as_type(object, core::default_namespace),
        "Pod" => as_type(object, pod::default),
        "PriorityClass" => as_type(object, classes::default_priority_class),
        "RoleBinding" => as_type(object, rbac::default_role_binding),
        "Secret" => as_type(object, core::default_secret),
        "Service" => as_type(object, charts::default_service),
        _ => {}
    }
}

/// Everything wrong with a new object.
pub(super) fn validate(kind: &Kind, object: &Value) -> Vec<FieldError> {
    match kind.kind {
        "CertificateSigningRequest" => check(object, new_certificate_request),
        "ClusterRole" => check(object, rbac::validate_cluster_role),
        "ClusterRoleBinding" => check(object, rbac::validate_cluster_role_binding),
        "ConfigMap" => check(object, core::validate_config_map),
        "ControllerRevision" => check(object, core::validate_controller_revision),
        "DaemonSet" => check(object, new_daemon_set),
        "EndpointSlice" => check(object, charts::validate_endpoint_slice),
        "Endpoints" => check(object, charts::validate_endpoints),
        "Lease" => check(object, charts::validate_lease),
        "Namespace" => check(object, core::validate_namespace),
        "NetworkPolicy" => check(object, charts::validate_network_policy),
        "Node" => check(object, node::validate),
        "Pod" => check(object, new_pod),
        "PodDisruptionBudget" => check(object, charts::validate_budget),
        "PriorityClass" => check(object, classes::validate_priority_class),
        "RuntimeClass" => check(object, classes::validate_runtime_class),
        "Role" => check(object, rbac::validate_role),
        "RoleBinding" => check(object, rbac::validate_role_binding),
        "Secret" => check(object, core::validate_secret),
        "Service" => check(object, charts::validate_service),
        "ServiceAccount" => check(object, core::validate_service_account),
        _ => check(&object["metadata"], |metadata| {
            let mut errors = Vec::new();
            metadata::validate(metadata, Scope::Namespaced, names::dns_subdomain, &mut errors);
            errors
        }),
    }
}

/// Everything wrong with a change.
pub(super) fn validate_update(kind: &Kind, part: Part, new: &Value, old: &Value) -> Vec<FieldError> {
    match (kind.kind, part) {
        ("CertificateSigningRequest", Part::Approval) => compare(new, old, certificates::validate_approval_update),
        ("CertificateSigningRequest", Part::Status) => compare(new, old, signed_certificate_request),
        ("ClusterRole", _) => compare(new, old, rbac::validate_cluster_role_update),
        ("ClusterRoleBinding", _) => compare(new, old, rbac::validate_cluster_role_binding_update),
        ("ConfigMap", _) => compare(new, old, core::validate_config_map_update),
        ("ControllerRevision", _) => compare(new, old, core::validate_controller_revision_update),
        ("DaemonSet", Part::Main) => compare(new, old, changed_daemon_set),
        ("DaemonSet", Part::Status) => compare(new, old, daemonset::validate_status_update),
        ("EndpointSlice", _) => compare(new, old, charts::validate_endpoint_slice_update),
        ("Endpoints", _) => compare(new, old, charts::validate_endpoints_update),
        ("Lease", _) => compare(new, old, charts::validate_lease_update),
        ("Namespace", _) => compare(new, old, core::validate_namespace_update),
        ("NetworkPolicy", _) => compare(new, old, charts::validate_network_policy_update),
        ("Node", _) => compare(new, old, node::validate_update),
        ("Pod", Part::EphemeralContainers) => compare(new, old, debugged_pod),
        ("Pod", Part::Main) if new["spec"] != old["spec"] => compare(new, old, changed_pod),
        ("PodDisruptionBudget", Part::Main) => compare(new, old, charts::validate_budget_update),
        ("PriorityClass", _) => compare(new, old, classes::validate_priority_class_update),
        ("RuntimeClass", _) => compare(new, old, classes::validate_runtime_class_update),
        ("Role", _) => compare(new, old, rbac::validate_role_update),
        ("RoleBinding", _) => compare(new, old, rbac::validate_role_binding_update),
        ("Secret", _) => compare(new, old, core::validate_secret_update),
        ("Service", Part::Main) => compare(new, old, charts::validate_service_update),
        ("ServiceAccount", _) => compare(new, old, core::validate_service_account_update),
        _ => compare(&new["metadata"], &old["metadata"], |new: &ObjectMeta, old| {
            let mut errors = Vec::new();
            metadata::validate_update(new, old, &mut errors);
            errors
        }),
    }
}

fn new_certificate_request(request: &CertificateSigningRequest) -> Vec<FieldError> {
    let mut errors = certificates::validate(request);
    if let Err(error) = CertificateRequest::of_pem(&request.spec.request.0) {
        let detail = Chain(&error).to_string();
        errors.push(FieldError::invalid(&Path::new("spec.request"), "<certificate request>", detail));
    }
    errors
}

fn signed_certificate_request(new: &CertificateSigningRequest, old: &CertificateSigningRequest) -> Vec<FieldError> {
    let mut errors = certificates::validate_status_update(new, old);
    if certificates::certificate(new).is_some_and(|pem| !tls::are_certificates(pem)) {
        let detail = "must be PEM of one certificate or more, and of nothing else";
        errors.push(FieldError::invalid(&Path::new("status.certificate"), "<certificate data>", detail));
    }
    errors
}

/// A DaemonSet that nodes could not realize is refused when it is written, not when it is run.
fn new_daemon_set(set: &DaemonSet) -> Vec<FieldError> {
    let mut errors = daemonset::validate(set);
    errors.extend(unrealizable(set));
    errors
}

/// A template that was taken stays: another version may have known how to realize it.
fn changed_daemon_set(new: &DaemonSet, old: &DaemonSet) -> Vec<FieldError> {
    let mut errors = daemonset::validate_update(new, old);
    let template = |set: &DaemonSet| set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    if !same_template(&template(new), &template(old)) {
        errors.extend(unrealizable(new));
    }
    errors
}

fn unrealizable(set: &DaemonSet) -> Vec<FieldError> {
    set.spec.iter().flat_map(|spec| unsupported(&spec.template, &Path::new("spec.template"))).collect()
}

/// A pod that is posted has to be realized by its node as it is.
fn new_pod(pod: &Pod) -> Vec<FieldError> {
    let mut errors = pod::validate(pod);
    errors.extend(unrealizable_pod(pod));
    errors
}

fn changed_pod(new: &Pod, old: &Pod) -> Vec<FieldError> {
    let mut errors = pod::validate_update(new, old);
    errors.extend(unrealizable_pod(new));
    errors
}

fn debugged_pod(new: &Pod, old: &Pod) -> Vec<FieldError> {
    let mut errors = pod::validate_ephemeral_update(new, old);
    let at = Path::new("spec.ephemeralContainers");
    let added = new.spec.iter().flat_map(|spec| spec.ephemeral_containers.iter().flatten()).enumerate();
    errors.extend(added.flat_map(|(index, container)| unsupported_ephemeral(container, &at.index(index))));
    errors
}

fn unrealizable_pod(pod: &Pod) -> Vec<FieldError> {
    let spec = pod.spec.clone().map(|spec| PodSpec { ephemeral_containers: None, ..spec });
    unsupported(&PodTemplateSpec { metadata: None, spec }, &Path::default())
}

fn as_type<T: Serialize + DeserializeOwned>(object: &mut Value, complete: impl FnOnce(&mut T)) {
    // What is not of the type is left as it is, for validation to tell.
    if let Ok(mut typed) = T::deserialize(&*object) {
        complete(&mut typed);
        *object = serde_json::to_value(typed).expect("Kubernetes' types have string keys only");
    }
}

fn check<T: DeserializeOwned>(object: &Value, rules: impl FnOnce(&T) -> Vec<FieldError>) -> Vec<FieldError> {
    T::deserialize(object).map_or_else(|error| not_its_type(&error), |object| rules(&object))
}

fn compare<T: DeserializeOwned>(
    new: &Value,
    old: &Value,
    rules: impl FnOnce(&T, &T) -> Vec<FieldError>,
) -> Vec<FieldError> {
    match (T::deserialize(new), T::deserialize(old)) {
        (Ok(new), Ok(old)) => rules(&new, &old),
        (Err(error), _) | (_, Err(error)) => not_its_type(&error),
    }
}

fn not_its_type(error: &serde_json::Error) -> Vec<FieldError> {
    vec![FieldError::invalid(&Path::default(), Value::Null, error.to_string())]
}
