//! The kinds that charts bring and that are kept without effect, and Leases: defaults and rules.
//!
//! What nobody acts on is checked for what would make it unreadable for others, not for every rule there is.
//!
//! Source: kubernetes v1.36, `pkg/apis/core/{v1/defaults,validation/validation}.go`,
//! `pkg/apis/{coordination,discovery,policy}/validation/validation.go`.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Endpoints, Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::field::{FieldError, Path};
use super::metadata::{self, NameRule, Scope, immutable, invalid_each, nonnegative, validate_label_selector};
use super::names;

const SERVICE_TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const ADDRESS_TYPES: [&str; 3] = ["FQDN", "IPv4", "IPv6"];

fn named(metadata: &ObjectMeta, rule: NameRule) -> Vec<FieldError> {
    let mut errors = Vec::new();
    metadata::validate(metadata, Scope::Namespaced, rule, &mut errors);
    errors
}

fn changed(new: &ObjectMeta, old: &ObjectMeta) -> Vec<FieldError> {
    let mut errors = Vec::new();
    metadata::validate_update(new, old, &mut errors);
    errors
}

// === Service ===

/// Completes a Service. No address is given to it: there is nobody to answer there.
pub fn default_service(service: &mut Service) {
    let spec = service.spec.get_or_insert_default();
    let or = |field: &mut Option<String>, default: &str| {
        if field.as_ref().is_none_or(String::is_empty) {
            *field = Some(default.to_owned());
        }
    };
    or(&mut spec.type_, "ClusterIP");
    or(&mut spec.session_affinity, "None");
    or(&mut spec.internal_traffic_policy, "Cluster");
    for port in spec.ports.iter_mut().flatten() {
        or(&mut port.protocol, "TCP");
        port.target_port.get_or_insert(IntOrString::Int(port.port));
    }
    service.status.get_or_insert_default().load_balancer.get_or_insert_default();
}

/// Everything wrong with a new Service.
pub fn validate_service(service: &Service) -> Vec<FieldError> {
    let mut errors = named(&service.metadata, names::dns_label);
    validate_service_spec(service, &mut errors);
    errors
}

/// Everything wrong with a change of a Service.
pub fn validate_service_update(new: &Service, old: &Service) -> Vec<FieldError> {
    let mut errors = changed(&new.metadata, &old.metadata);
    validate_service_spec(new, &mut errors);
    errors
}

fn validate_service_spec(service: &Service, errors: &mut Vec<FieldError>) {
    let (path, spec) = (Path::new("spec"), service.spec.clone().unwrap_or_default());
    let service_type = spec.type_.unwrap_or_default();
    if !SERVICE_TYPES.contains(&service_type.as_str()) {
        errors.push(FieldError::not_supported(&path.child("type"), service_type.as_str(), &SERVICE_TYPES));
    }
    let ports = spec.ports.unwrap_or_default();
    let headless = spec.cluster_ip.as_deref() == Some("None");
    if ports.is_empty() && !headless && service_type != "ExternalName" {
        errors.push(FieldError::required(&path.child("ports"), ""));
    }
    for (index, port) in ports.iter().enumerate() {
        validate_service_port(port, ports.len() > 1, &path.child("ports").index(index), errors);
    }
}

fn validate_service_port(port: &ServicePort, needs_name: bool, path: &Path, errors: &mut Vec<FieldError>) {
    match port.name.as_deref().unwrap_or_default() {
        "" if needs_name => errors.push(FieldError::required(&path.child("name"), "")),
        "" => {}
        name => invalid_each(&path.child("name"), name, names::dns_label(name), errors),
    }
    for message in names::port_number(port.port) {
        errors.push(FieldError::invalid(&path.child("port"), port.port, message));
    }
}

// === what stands behind Services ===

/// Everything wrong with new Endpoints.
pub fn validate_endpoints(endpoints: &Endpoints) -> Vec<FieldError> {
    named(&endpoints.metadata, names::dns_subdomain)
}

/// Everything wrong with a change of Endpoints.
pub fn validate_endpoints_update(new: &Endpoints, old: &Endpoints) -> Vec<FieldError> {
    changed(&new.metadata, &old.metadata)
}

/// Everything wrong with a new EndpointSlice.
pub fn validate_endpoint_slice(slice: &EndpointSlice) -> Vec<FieldError> {
    let mut errors = named(&slice.metadata, names::dns_subdomain);
    let (path, address_type) = (Path::new("addressType"), slice.address_type.as_str());
    if address_type.is_empty() {
        errors.push(FieldError::required(&path, ""));
    } else if !ADDRESS_TYPES.contains(&address_type) {
        errors.push(FieldError::not_supported(&path, address_type, &ADDRESS_TYPES));
    }
    errors
}

/// Everything wrong with a change of an EndpointSlice.
pub fn validate_endpoint_slice_update(new: &EndpointSlice, old: &EndpointSlice) -> Vec<FieldError> {
    let mut errors = changed(&new.metadata, &old.metadata);
    immutable(&Path::new("addressType"), &new.address_type, &old.address_type, &mut errors);
    errors
}

// === NetworkPolicy, PodDisruptionBudget ===

/// Everything wrong with a new NetworkPolicy.
pub fn validate_network_policy(policy: &NetworkPolicy) -> Vec<FieldError> {
    let mut errors = named(&policy.metadata, names::dns_subdomain);
    let selector = policy.spec.as_ref().and_then(|spec| spec.pod_selector.as_ref());
    if let Some(selector) = selector {
        validate_label_selector(selector, &Path::new("spec.podSelector"), &mut errors);
    }
    errors
}

/// Everything wrong with a change of a NetworkPolicy.
pub fn validate_network_policy_update(new: &NetworkPolicy, old: &NetworkPolicy) -> Vec<FieldError> {
    changed(&new.metadata, &old.metadata)
}

/// Everything wrong with a new PodDisruptionBudget.
pub fn validate_budget(budget: &PodDisruptionBudget) -> Vec<FieldError> {
    let mut errors = named(&budget.metadata, names::dns_subdomain);
    validate_budget_spec(budget, &mut errors);
    errors
}

/// Everything wrong with a change of a PodDisruptionBudget.
pub fn validate_budget_update(new: &PodDisruptionBudget, old: &PodDisruptionBudget) -> Vec<FieldError> {
    let mut errors = changed(&new.metadata, &old.metadata);
    validate_budget_spec(new, &mut errors);
    errors
}

fn validate_budget_spec(budget: &PodDisruptionBudget, errors: &mut Vec<FieldError>) {
    let Some(spec) = &budget.spec else { return };
    let path = Path::new("spec");
    if spec.min_available.is_some() && spec.max_unavailable.is_some() {
        let detail = "minAvailable and maxUnavailable cannot be both set";
        errors.push(FieldError::invalid(&path, metadata::json(spec), detail));
    }
    if let Some(selector) = &spec.selector {
        validate_label_selector(selector, &path.child("selector"), errors);
    }
}

// === Lease ===

/// Everything wrong with a new Lease.
pub fn validate_lease(lease: &Lease) -> Vec<FieldError> {
    let mut errors = named(&lease.metadata, names::dns_subdomain);
    validate_lease_spec(lease, &mut errors);
    errors
}

/// Everything wrong with a change of a Lease.
pub fn validate_lease_update(new: &Lease, old: &Lease) -> Vec<FieldError> {
    let mut errors = changed(&new.metadata, &old.metadata);
    validate_lease_spec(new, &mut errors);
    errors
}

fn validate_lease_spec(lease: &Lease, errors: &mut Vec<FieldError>) {
    let Some(spec) = &lease.spec else { return };
    let path = Path::new("spec");
    if let Some(seconds) = spec.lease_duration_seconds.filter(|seconds| *seconds <= 0) {
        errors.push(FieldError::invalid(&path.child("leaseDurationSeconds"), seconds, "must be greater than 0"));
    }
    nonnegative(&path.child("leaseTransitions"), spec.lease_transitions.unwrap_or(0).into(), errors);
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;

    fn object<T: DeserializeOwned>(spec: &Value) -> T {
        serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "n"}, "spec": spec})).expect("the kind")
    }

    fn texts(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_service_is_completed_without_an_address() {
        let mut service: Service = object(&json!({"ports": [{"port": 80}], "selector": {"app": "x"}}));
        default_service(&mut service);
        let expected = json!({
            "type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster", "selector": {"app": "x"},
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
        });
        assert_eq!(metadata::json(&service.spec), expected);
        assert_eq!(validate_service(&service), []);
        for (spec, expected) in [
            (json!({"type": "ClusterIP"}), vec!["spec.ports: Required value"]),
            (json!({"type": "ClusterIP", "clusterIP": "None"}), vec![]),
            (
                json!({"type": "ClusterIP", "ports": [{"port": 0, "name": "a"}, {"port": 1}]}),
                vec![
                    "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                    "spec.ports[1].name: Required value",
                ],
            ),
        ] {
            assert_eq!(texts(&validate_service(&object(&spec))), expected);
        }
    }

    #[test]
    fn budgets_and_leases_say_what_can_be() {
        let both: PodDisruptionBudget = object(&json!({"minAvailable": 1, "maxUnavailable": "50%"}));
        assert!(texts(&validate_budget(&both))[0].ends_with("minAvailable and maxUnavailable cannot be both set"));
        let lease: Lease = object(&json!({"leaseDurationSeconds": 0, "leaseTransitions": -1}));
        assert_eq!(
            texts(&validate_lease(&lease)),
            [
                "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
                "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
            ]
        );
    }
}
