//! `metrics.k8s.io/v1beta1`: how much nodes and pods take. k8s-openapi does not have these types.
//!
//! Source: kubernetes v1.36, `k8s.io/metrics/pkg/apis/metrics/v1beta1/types.go`.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::{ClusterResourceScope, ListableResource, NamespaceResourceScope, Resource};
use schemars::JsonSchema;
use serde::Serialize;

use super::quantity::Quantity;
use crate::model::Load;

/// NodeMetrics is how much is taken of a node as a whole.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "io.k8s.metrics.pkg.apis.metrics.v1beta1.NodeMetrics")]
pub struct NodeMetrics {
    /// Name and labels are the node's.
    pub metadata: ObjectMeta,
    /// When it was measured.
    pub timestamp: Time,
    /// How long before that the measuring began, such as `1.002s`.
    pub window: String,
    /// The processors (cpu) and the working set (memory) that were taken.
    pub usage: BTreeMap<String, Amount>,
}

/// PodMetrics is how much the containers of a pod take.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "io.k8s.metrics.pkg.apis.metrics.v1beta1.PodMetrics")]
pub struct PodMetrics {
    /// Name, namespace and labels are the pod's.
    pub metadata: ObjectMeta,
    /// When it was measured.
    pub timestamp: Time,
    /// How long before that the measuring began, such as `1.002s`.
    pub window: String,
    /// The containers that ran all the time.
    pub containers: Vec<ContainerMetrics>,
}

/// ContainerMetrics is how much a container takes.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "io.k8s.metrics.pkg.apis.metrics.v1beta1.ContainerMetrics")]
pub struct ContainerMetrics {
    /// As in the pod's spec.
    pub name: String,
    /// The processors (cpu) and the working set (memory) that were taken.
    pub usage: BTreeMap<String, Amount>,
}

impl Resource for NodeMetrics {
    const API_VERSION: &'static str = "metrics.k8s.io/v1beta1";
    const GROUP: &'static str = "metrics.k8s.io";
    const KIND: &'static str = "NodeMetrics";
    const VERSION: &'static str = "v1beta1";
    const URL_PATH_SEGMENT: &'static str = "nodes";
    type Scope = ClusterResourceScope;
}

impl ListableResource for NodeMetrics {
    const LIST_KIND: &'static str = "NodeMetricsList";
}

impl Resource for PodMetrics {
    const API_VERSION: &'static str = NodeMetrics::API_VERSION;
    const GROUP: &'static str = NodeMetrics::GROUP;
    const KIND: &'static str = "PodMetrics";
    const VERSION: &'static str = NodeMetrics::VERSION;
    const URL_PATH_SEGMENT: &'static str = "pods";
    type Scope = NamespaceResourceScope;
}

impl ListableResource for PodMetrics {
    const LIST_KIND: &'static str = "PodMetricsList";
}

/// A load as a list of resources: `{"cpu": "1500u", "memory": "20Ki"}`.
pub fn resources(load: &Load) -> BTreeMap<String, Amount> {
    let memory = Quantity::from_bytes(i64::try_from(load.memory_bytes).unwrap_or(i64::MAX));
    let amounts = [("cpu", Quantity::from_nanos(load.cpu_nano_cores)), ("memory", memory)];
    amounts.map(|(name, amount)| (name.to_owned(), Amount(amount.to_string()))).into()
}

/// A duration as Go reads it, to the thousandth of a second: `1.002s`.
pub fn window(window: Duration) -> String {
    format!("{:.3}s", window.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_written_as_kubernetes_reads_them() {
        let load = Load { cpu_nano_cores: 1_500_000, memory_bytes: 20 << 10 };
        let told: Vec<_> = resources(&load).into_iter().map(|(name, Amount(amount))| (name, amount)).collect();
        assert_eq!(told, [("cpu".to_owned(), "1500u".to_owned()), ("memory".to_owned(), "20Ki".to_owned())]);
        assert_eq!(window(Duration::from_micros(1_002_400)), "1.002s");
    }
}
