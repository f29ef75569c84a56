//! Values of the pod itself, in variables and in volumes: `fieldRef` and `resourceFieldRef`.
//!
//! Source: kubernetes v1.36 `pkg/kubelet/kubelet_pods.go` (`podFieldSelectorRuntimeValue`), `pkg/fieldpath/fieldpath.go`,
//! `pkg/api/v1/resource/helpers.go`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as k8s;

use super::resources::{Amounts, CPU, MEMORY};
use super::{HostFacts, Pod};
use crate::api::field::{FieldError, Path, go_quoted};
use crate::api::quantity::Quantity;
use crate::model::PodKey;

/// Limits that stand for what the node has, where a container has none.
const BOUNDED_BY_NODE: [&str; 3] = [CPU, MEMORY, "ephemeral-storage"];

/// A value of the pod. Labels, annotations and addresses are looked up when it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    /// One that never changes.
    Fixed(String),
    /// `status.podIP`: the first address.
    PodIp,
    /// `status.podIPs`: all addresses, joined by commas.
    PodIps,
    /// `metadata.labels`: a line for each.
    Labels,
    /// `metadata.annotations`: a line for each.
    Annotations,
    /// `metadata.labels['…']`; empty if there is none.
    Label(String),
    /// `metadata.annotations['…']`; empty if there is none.
    Annotation(String),
}

impl Field {
    /// The value now. `pod_ips` are the sandbox's addresses (of a pod with the host's network: the host's), first one first.
    pub fn text(&self, pod: &Pod, pod_ips: &[IpAddr]) -> String {
        let one = |map: &BTreeMap<String, String>, key: &str| map.get(key).cloned().unwrap_or_default();
        match self {
            Self::Fixed(text) => text.clone(),
            Self::PodIp => pod_ips.first().map(ToString::to_string).unwrap_or_default(),
            Self::PodIps => joined(pod_ips),
            Self::Labels => lines(&pod.labels),
            Self::Annotations => lines(&pod.annotations),
            Self::Label(key) => one(&pod.labels, key),
            Self::Annotation(key) => one(&pod.annotations, key),
        }
    }
}

fn joined(ips: &[IpAddr]) -> String {
    ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// `key="value"`, sorted, without a newline at the end.
fn lines(map: &BTreeMap<String, String>) -> String {
    map.iter().map(|(key, value)| format!("{key}={}", go_quoted(value))).collect::<Vec<_>>().join("\n")
}

/// What values can be taken from when the pod is resolved.
pub(super) struct Sources<'a> {
    pub(super) key: &'a PodKey,
    pub(super) service_account: &'a str,
    /// Name and amounts of every container of the pod.
    pub(super) containers: Vec<(&'a str, &'a Amounts)>,
    pub(super) host: &'a HostFacts,
}

impl Sources<'_> {
    /// What a `fieldRef` names.
    pub(super) fn field(&self, reference: &k8s::ObjectFieldSelector, at: &Path) -> Result<Field, FieldError> {
        let Self { key, host, .. } = self;
        let fixed = |text: &str| Field::Fixed(text.to_owned());
        Ok(match reference.field_path.as_str() {
            "metadata.name" => fixed(&key.name),
            "metadata.namespace" => fixed(&key.namespace),
            "metadata.uid" => fixed(key.uid.as_str()),
            "metadata.labels" => Field::Labels,
            "metadata.annotations" => Field::Annotations,
            "spec.nodeName" => fixed(host.node_name.as_str()),
            "spec.serviceAccountName" => fixed(self.service_account),
            "status.hostIP" => Field::Fixed(host.ips.first().map(ToString::to_string).unwrap_or_default()),
            "status.hostIPs" => Field::Fixed(joined(&host.ips)),
            "status.podIP" => Field::PodIp,
            "status.podIPs" => Field::PodIps,
            path => match path.strip_suffix("']").and_then(|path| path.split_once("['")) {
                Some(("metadata.labels", key)) => Field::Label(key.to_owned()),
                Some(("metadata.annotations", key)) => Field::Annotation(key.to_owned()),
                _ => {
                    let detail = "error converting fieldPath: field label not supported";
                    return Err(FieldError::invalid(&at.child("fieldPath"), path, detail));
                }
            },
        })
    }

    /// A request or limit, divided and rounded up. A limit that is not set is what the node has for pods. `container` is
    /// meant where the reference names none.
    pub(super) fn resource(
        &self,
        reference: &k8s::ResourceFieldSelector,
        container: &str,
        at: &Path,
    ) -> Result<Field, FieldError> {
        let container = reference.container_name.as_deref().filter(|name| !name.is_empty()).unwrap_or(container);
        let found = self.containers.iter().find(|(name, _)| *name == container);
        let (_, amounts) = found.ok_or_else(|| FieldError::not_found(&at.child("containerName"), container))?;
        let (kind, resource) = reference.resource.split_once('.').unwrap_or_default();
        let amount = match kind {
            "requests" => amounts.request(resource),
            "limits" => match amounts.limit(resource) {
                0 if BOUNDED_BY_NODE.contains(&resource) => self.host.allocatable.get(resource).copied().unwrap_or(0),
                limit => limit,
            },
            _ => {
                let detail = "unsupported container resource";
                return Err(FieldError::invalid(&at.child("resource"), reference.resource.as_str(), detail));
            }
        };
        let divisor = divisor(reference, resource == CPU, &at.child("divisor"))?;
        Ok(Field::Fixed(amount.div_ceil(divisor).to_string()))
    }
}

/// The divisor in the unit of the amount it divides; one whole unit if none is given.
fn divisor(reference: &k8s::ResourceFieldSelector, is_cpu: bool, at: &Path) -> Result<u64, FieldError> {
    let text = reference.divisor.as_ref().map_or("", |divisor| divisor.0.as_str());
    let quantity: Quantity = match text {
        "" | "0" => Quantity::from_units(1),
        text => text.parse().map_err(|error| FieldError::invalid(at, text, format!("{error}")))?,
    };
    let value = if is_cpu { quantity.milli_value() } else { quantity.value() };
    u64::try_from(value)
        .ok()
        .filter(|value| *value > 0)
        .ok_or_else(|| FieldError::invalid(at, text, "must be greater than 0"))
}
