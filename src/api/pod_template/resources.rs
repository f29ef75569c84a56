//! Rules for requests and limits.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceClaim, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as QuantityText;

use super::{Spec, choice};
use crate::api::field::{FieldError, Path};
use crate::api::metadata::invalid_each;
use crate::api::names;
use crate::api::quantity::Quantity;

const HUGE_PAGES: &str = "hugepages-";

/// Names without a domain that mean something somewhere in Kubernetes.
const STANDARD: [&str; 28] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "storage",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
    "count/pods",
    "bindings",
    "events",
    "endpoints",
    "limitranges",
    "namespaces",
    "nodes",
    "serviceaccounts",
];

pub(super) fn validate_container(
    requirements: &ResourceRequirements,
    spec: &Spec<'_>,
    path: &Path,
    errors: &mut Vec<FieldError>,
) {
    validate(requirements, validate_container_name, path, errors);
    validate_claims(requirements.claims.as_deref().unwrap_or_default(), spec.spec, &path.child("claims"), errors);
}

/// Checks `spec.overhead`, which is limits only.
pub(in crate::api) fn validate_overhead(
    overhead: &BTreeMap<String, QuantityText>,
    path: &Path,
    errors: &mut Vec<FieldError>,
) {
    let requirements = ResourceRequirements { limits: Some(overhead.clone()), ..Default::default() };
    validate(&requirements, validate_container_name, path, errors);
}

/// Checks `spec.resources`, by itself and beside what the containers ask for.
pub(super) fn validate_pod(spec: &PodSpec, path: &Path, errors: &mut Vec<FieldError>) {
    let Some(resources) = &spec.resources else { return };
    if resources.claims.is_some() {
        let detail = "claims cannot be set for Resources at pod-level";
        errors.push(FieldError::forbidden(&path.child("claims"), detail));
    }
    validate(resources, validate_pod_name, path, errors);
    for (name, asked) in aggregate_requests(spec) {
        let request =
            resources.requests.as_ref().and_then(|requests| amount(requests, &name)).unwrap_or(Quantity::ZERO);
        if is_pod_level(&name) && asked > request {
            let detail = format!("must be greater than or equal to aggregate container requests of {asked}");
            errors.push(FieldError::invalid(&path.child("requests").key(&name), request.to_string(), detail));
        }
    }
    for (index, container) in spec.containers.iter().enumerate() {
        let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
        for name in limits.into_iter().flat_map(BTreeMap::keys) {
            let pod_limit = resources.limits.as_ref().and_then(|limits| amount(limits, name));
            let (Some(limit), Some(pod_limit)) = (limits.and_then(|limits| amount(limits, name)), pod_limit) else {
                continue;
            };
            if limit > pod_limit {
                // The path is upstream's.
                let path = path.child("containers").index(index).key(name).child("limits");
                let detail = format!("must be less than or equal to pod limits of {pod_limit}");
                errors.push(FieldError::invalid(&path, limit.to_string(), detail));
            }
        }
    }
}

/// What all containers ask for together, at the worst moment of starting or running.
///
/// Source: kubernetes v1.36, `k8s.io/component-helpers/resource/helpers.go`, `AggregateContainerRequests`.
pub(crate) fn aggregate_requests(spec: &PodSpec) -> BTreeMap<String, Quantity> {
    let mut running = BTreeMap::new();
    spec.containers.iter().for_each(|container| add_requests(&mut running, container));
    let (mut sidecars, mut starting) = (BTreeMap::new(), BTreeMap::new());
    for container in spec.init_containers.iter().flatten() {
        let mut now = sidecars.clone();
        add_requests(&mut now, container);
        if container.restart_policy.as_deref() == Some("Always") {
            add_requests(&mut running, container);
            sidecars.clone_from(&now);
        }
        raise(&mut starting, now);
    }
    raise(&mut running, starting);
    running
}

fn add_requests(sums: &mut BTreeMap<String, Quantity>, container: &Container) {
    let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    for (name, text) in requests.into_iter().flatten() {
        if let Ok(quantity) = text.0.parse::<Quantity>() {
            let sum = sums.entry(name.clone()).or_insert(Quantity::ZERO);
            *sum = *sum + quantity;
        }
    }
}

fn raise(amounts: &mut BTreeMap<String, Quantity>, others: BTreeMap<String, Quantity>) {
    for (name, other) in others {
        let amount = amounts.entry(name).or_insert(other);
        *amount = (*amount).max(other);
    }
}

fn amount(quantities: &BTreeMap<String, QuantityText>, name: &str) -> Option<Quantity> {
    quantities.get(name)?.0.parse().ok()
}

fn validate(
    requirements: &ResourceRequirements,
    validate_name: fn(&str, &Path, &mut Vec<FieldError>),
    path: &Path,
    errors: &mut Vec<FieldError>,
) {
    let nothing = BTreeMap::new();
    let limits = requirements.limits.as_ref().unwrap_or(&nothing);
    let requests = requirements.requests.as_ref().unwrap_or(&nothing);
    for (list, quantities) in [("limits", limits), ("requests", requests)] {
        for (name, text) in quantities {
            let item = path.child(list).key(name);
            validate_name(name, &item, errors);
            validate_quantity(name, &text.0, &item, errors);
            if list == "requests" {
                validate_against_limit(name, amount(requests, name), amount(limits, name), path, errors);
            }
            validate_huge_pages(name, &text.0, &item, errors);
        }
    }
    let any = |wanted: fn(&str) -> bool| limits.keys().chain(requests.keys()).any(|name| wanted(name));
    if any(is_huge_pages) && !any(|name| matches!(name, "cpu" | "memory")) {
        errors.push(FieldError::forbidden(path, "HugePages require cpu or memory"));
    }
}

fn validate_quantity(name: &str, text: &str, path: &Path, errors: &mut Vec<FieldError>) {
    match text.parse::<Quantity>() {
        Err(error) => errors.push(FieldError::invalid(path, text, error.to_string())),
        Ok(quantity) => {
            if quantity.is_negative() {
                errors.push(FieldError::invalid(path, text, "must be greater than or equal to 0"));
            }
            if (is_extended(name) || name == "pods") && !quantity.is_integer() {
                errors.push(FieldError::invalid(path, text, "must be an integer"));
            }
        }
    }
}

fn validate_against_limit(
    name: &str,
    request: Option<Quantity>,
    limit: Option<Quantity>,
    path: &Path,
    errors: &mut Vec<FieldError>,
) {
    let overcommit = is_native(name) && !is_huge_pages(name);
    match (request, limit) {
        (Some(request), Some(limit)) if !overcommit && request != limit => {
            let detail = format!("must be equal to {name} limit of {limit}");
            errors.push(FieldError::invalid(&path.child("requests"), request.to_string(), detail));
        }
        (Some(request), Some(limit)) if request > limit => {
            let detail = format!("must be less than or equal to {name} limit of {limit}");
            errors.push(FieldError::invalid(&path.child("requests"), request.to_string(), detail));
        }
        (_, None) if !overcommit => {
            let detail = "Limit must be set for non overcommitable resources";
            errors.push(FieldError::required(&path.child("limits"), detail));
        }
        _ => {}
    }
}

fn validate_huge_pages(name: &str, text: &str, path: &Path, errors: &mut Vec<FieldError>) {
    let Some(size) = name.strip_prefix(HUGE_PAGES) else { return };
    let (Ok(size), Ok(quantity)) = (size.parse::<Quantity>(), text.parse::<Quantity>()) else {
        errors.push(FieldError::invalid(path, text, format!("{text} is not positive integer multiple of {name}")));
        return;
    };
    if size <= Quantity::ZERO || !size.is_integer() || quantity.value() % size.value() != 0 {
        errors.push(FieldError::invalid(path, text, format!("{text} is not positive integer multiple of {name}")));
    }
}

// === names ===

fn is_huge_pages(name: &str) -> bool {
    name.starts_with(HUGE_PAGES)
}

/// Kubernetes' own: without a domain, or with one of its own.
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// One of those that vendors name: `vendor.example/thing`.
pub(crate) fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && names::qualified_name(&format!("requests.{name}")).is_empty()
}

fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || is_huge_pages(name)
}

fn validate_name(name: &str, path: &Path, errors: &mut Vec<FieldError>) {
    let messages = names::qualified_name(name);
    let qualified = messages.is_empty();
    invalid_each(path, name, messages, errors);
    if qualified && !name.contains('/') && !STANDARD.contains(&name) && !is_huge_pages(name) {
        errors.push(FieldError::invalid(path, name, "must be a standard resource type or fully qualified"));
    }
}

fn validate_container_name(name: &str, path: &Path, errors: &mut Vec<FieldError>) {
    validate_name(name, path, errors);
    if !name.contains('/') {
        if !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !is_huge_pages(name) {
            errors.push(FieldError::invalid(path, name, "must be a standard resource for containers"));
        }
    } else if !is_native(name) && !is_extended(name) {
        errors.push(FieldError::invalid(path, name, "doesn't follow extended resource name standard"));
    }
}

fn validate_pod_name(name: &str, path: &Path, errors: &mut Vec<FieldError>) {
    let before = errors.len();
    validate_name(name, path, errors);
    if errors.len() == before && !is_pod_level(name) {
        errors.push(FieldError::not_supported(path, name, &["cpu", "hugepages-", "memory"]));
    }
}

// === claims and resizing ===

fn validate_claims(claims: &[ResourceClaim], spec: &PodSpec, path: &Path, errors: &mut Vec<FieldError>) {
    let known: BTreeSet<&str> = spec.resource_claims.iter().flatten().map(|claim| claim.name.as_str()).collect();
    let mut seen = BTreeSet::new();
    for (index, claim) in claims.iter().enumerate() {
        let path = path.index(index);
        if claim.name.is_empty() {
            errors.push(FieldError::required(&path, ""));
            continue;
        }
        if !seen.insert((&claim.name, &claim.request)) {
            errors.push(FieldError::duplicate(&path, claim.name.as_str()));
        }
        if !known.contains(claim.name.as_str()) {
            let mut error = FieldError::not_found(&path, claim.name.as_str());
            let names: Vec<&str> = known.iter().copied().collect();
            let list = if names.is_empty() { " which is empty".to_owned() } else { format!(": {}", names.join(", ")) };
            error.detail = format!("must be one of the names in pod.spec.resourceClaims{list}");
            errors.push(error);
        }
    }
}

pub(super) fn validate_resize_policy(container: &Container, spec: &PodSpec, path: &Path, errors: &mut Vec<FieldError>) {
    let mut seen = BTreeSet::new();
    for (index, policy) in container.resize_policy.iter().flatten().enumerate() {
        if !seen.insert(policy.resource_name.as_str()) {
            errors.push(FieldError::duplicate(&path.index(index), policy.resource_name.as_str()));
        }
        choice(&policy.resource_name, &["cpu", "memory"], path, errors);
        choice(&policy.restart_policy, &["NotRequired", "RestartContainer"], path, errors);
        if spec.restart_policy.as_deref() == Some("Never") && policy.restart_policy != "NotRequired" {
            let detail = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            errors.push(FieldError::invalid(path, policy.restart_policy.as_str(), detail));
        }
    }
}
