//! Pod templates: defaults and rules; pods share both.
//!
//! Rules, texts, paths and their order are upstream's, also the few paths that are not quite those of the field, so that
//! a manifest is refused here in the words of any other cluster. Not checked: Windows, the annotations that came
//! before the seccomp and AppArmor fields, and sources of volumes that no agent realizes. Where Go prints a value under
//! the names of its internal types, the field names users write are printed.
//!
//! Source: kubernetes v1.36, `pkg/apis/core/validation/validation.go`, `ValidatePodTemplateSpec` and `ValidatePodSpec`.

mod containers;
mod defaults;
mod env;
mod network;
mod probes;
pub(super) mod resources;
pub(crate) mod scheduling;
mod security;
#[cfg(test)]
mod tests;
mod volumes;

use k8s_openapi::api::core::v1::{PodResourceClaim, PodSecurityContext, PodSpec, PodTemplateSpec};

pub use self::defaults::{default_spec, default_template};
pub(crate) use self::resources::{aggregate_requests, is_extended};
use self::volumes::Volumes;
use super::field::{FieldError, Path};
use super::metadata::{invalid_each, json, validate_annotations, validate_labels};
use super::names;

/// What a spec is part of; a few rules hold for pods only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// A template may still be completed when a pod is made of it.
    Template,
    /// A pod is complete.
    Pod,
}

/// A spec under validation, with what its parts need to know of it.
struct Spec<'a> {
    spec: &'a PodSpec,
    volumes: Volumes<'a>,
    owner: Owner,
}

/// Checks a defaulted template at `path`.
pub fn validate(template: &PodTemplateSpec, path: &Path, errors: &mut Vec<FieldError>) {
    let metadata = template.metadata.as_ref();
    validate_labels(metadata.and_then(|metadata| metadata.labels.as_ref()), &path.child("labels"), errors);
    let annotations = metadata.and_then(|metadata| metadata.annotations.as_ref());
    validate_annotations(annotations, &path.child("annotations"), errors);
    let nothing = PodSpec::default();
    let spec = template.spec.as_ref().unwrap_or(&nothing);
    validate_spec(spec, Owner::Template, &path.child("spec"), errors);
    if spec.ephemeral_containers.as_ref().is_some_and(|containers| !containers.is_empty()) {
        let detail = "ephemeral containers not allowed in pod template";
        errors.push(FieldError::forbidden(&path.child("spec.ephemeralContainers"), detail));
    }
}

/// Checks the defaulted ephemeral containers of a pod's spec. `path` is where they are.
///
/// Source: kubernetes v1.36, `validateEphemeralContainers`.
pub(super) fn validate_ephemeral(spec: &PodSpec, path: &Path, errors: &mut Vec<FieldError>) {
    let written = spec.volumes.as_deref().unwrap_or_default();
    // What is wrong with volumes was said when the pod was made.
    let volumes = volumes::validate(written, Owner::Pod, &Path::default(), &mut Vec::new());
    containers::validate_ephemeral(&Spec { spec, volumes, owner: Owner::Pod }, path, errors);
}

/// Checks a defaulted spec at `path`.
pub(super) fn validate_spec(spec: &PodSpec, owner: Owner, path: &Path, errors: &mut Vec<FieldError>) {
    let volumes = volumes::validate(spec.volumes.as_deref().unwrap_or_default(), owner, &path.child("volumes"), errors);
    let scope = Spec { spec, volumes, owner };
    let claims = spec.resource_claims.as_deref().unwrap_or_default();
    validate_resource_claims(claims, &path.child("resourceClaims"), errors);
    containers::validate(&scope, &path.child("containers"), errors);
    containers::validate_init(&scope, &path.child("initContainers"), errors);
    resources::validate_pod(spec, &path.child("resources"), errors);
    containers::validate_host_network_ports(&scope, &path.child("containers"), errors);
    let restart_policy = text(spec.restart_policy.as_ref());
    choice(restart_policy, &["Always", "OnFailure", "Never"], &path.child("restartPolicy"), errors);
    network::validate_dns_policy(spec, &path.child("dnsPolicy"), errors);
    validate_labels(spec.node_selector.as_ref(), &path.child("nodeSelector"), errors);
    let no_context = PodSecurityContext::default();
    let context = spec.security_context.as_ref().unwrap_or(&no_context);
    security::validate_pod(context, spec, &path.child("securityContext"), errors);
    if let Some(affinity) = &spec.affinity {
        scheduling::validate_affinity(affinity, &path.child("affinity"), errors);
    }
    network::validate_dns_config(spec, &path.child("dnsConfig"), errors);
    for (index, gate) in spec.readiness_gates.iter().flatten().enumerate() {
        let path = path.child("readinessGates").index(index).child("conditionType");
        invalid_each(&path, &gate.condition_type, names::qualified_name(&gate.condition_type), errors);
    }
    let gates = spec.scheduling_gates.as_deref().unwrap_or_default();
    scheduling::validate_gates(gates, &path.child("schedulingGates"), errors);
    let constraints = spec.topology_spread_constraints.as_deref().unwrap_or_default();
    scheduling::validate_spread(constraints, &path.child("topologySpreadConstraints"), errors);
    security::validate_host_users(spec, path, errors);
    validate_references(spec, path, errors);
    network::validate_hostname(spec, path, errors);
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    scheduling::validate_tolerations(tolerations, &path.child("tolerations"), errors);
    let aliases = spec.host_aliases.as_deref().unwrap_or_default();
    network::validate_host_aliases(aliases, &path.child("hostAliases"), errors);
    validate_class(spec, path, errors);
}

fn validate_references(spec: &PodSpec, path: &Path, errors: &mut Vec<FieldError>) {
    for (field, name) in [("serviceAccountName", &spec.service_account_name), ("nodeName", &spec.node_name)] {
        let name = text(name.as_ref());
        if !name.is_empty() {
            invalid_each(&path.child(field), name, names::dns_subdomain(name), errors);
        }
    }
    if let Some(seconds) = spec.active_deadline_seconds {
        let range = 1..=i64::from(i32::MAX);
        if !range.contains(&seconds) {
            let detail = names::range_message(*range.start(), *range.end());
            errors.push(FieldError::invalid(&path.child("activeDeadlineSeconds"), seconds, detail));
        }
    }
}

fn validate_class(spec: &PodSpec, path: &Path, errors: &mut Vec<FieldError>) {
    let priority_class = text(spec.priority_class_name.as_ref());
    if !priority_class.is_empty() {
        let messages = names::dns_subdomain(priority_class);
        invalid_each(&path.child("priorityClassName"), priority_class, messages, errors);
    }
    if let Some(name) = &spec.runtime_class_name {
        invalid_each(&path.child("runtimeClassName"), name, names::dns_subdomain(name), errors);
    }
    if let Some(policy) = &spec.preemption_policy {
        choice(policy, &["PreemptLowerPriority", "Never"], &path.child("preemptionPolicy"), errors);
    }
    if let Some(overhead) = &spec.overhead {
        resources::validate_overhead(overhead, &path.child("overhead"), errors);
    }
    if let Some(os) = &spec.os {
        let path = path.child("os");
        if os.name.is_empty() {
            errors.push(FieldError::required(&path.child("name"), "cannot be empty"));
        } else {
            choice(&os.name, &["linux", "windows"], &path, errors);
        }
    }
}

fn validate_resource_claims(claims: &[PodResourceClaim], path: &Path, errors: &mut Vec<FieldError>) {
    for (index, claim) in claims.iter().enumerate() {
        let path = path.index(index);
        let name_path = path.child("name");
        if claim.name.is_empty() {
            errors.push(FieldError::required(&name_path, ""));
        } else if claims[..index].iter().any(|earlier| earlier.name == claim.name) {
            errors.push(FieldError::duplicate(&name_path, claim.name.as_str()));
        } else {
            invalid_each(&name_path, &claim.name, names::dns_label(&claim.name), errors);
        }
        let detail = match (&claim.resource_claim_name, &claim.resource_claim_template_name) {
            (Some(_), Some(_)) => "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            (None, None) => "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            _ => continue,
        };
        errors.push(FieldError::invalid(&path, json(claim), detail));
    }
}

// === what the parts share ===

/// The text of a field that means the same when empty as when absent.
fn text(field: Option<&String>) -> &str {
    field.map_or("", String::as_str)
}

/// A field that must be one of `supported`, listed in that order.
fn choice(value: &str, supported: &[&str], path: &Path, errors: &mut Vec<FieldError>) {
    if value.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else if !supported.contains(&value) {
        errors.push(FieldError::not_supported(path, value, supported));
    }
}
