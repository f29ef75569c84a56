//! The labels and annotations on sandboxes and containers: how a pod is found again in the runtime.
//!
//! They are a frozen surface: what runs was labelled by whatever version started it, and an agent finds its pods by
//! nothing else. Names and meanings never change; new ones may be added. The `io.kubernetes.*` ones are those the
//! kubelet sets, because log collectors, `crictl` and cAdvisor read them.

use std::collections::HashMap;

use crate::model::{FleetId, PodKey, Uid};
use crate::podspec::{Container, ContainerPort, Origin, Pod, PortMapping, Protocol, TerminationMessagePolicy};

/// Label on both: `metadata.name` of the pod.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// Label on both: `metadata.namespace` of the pod.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Label on both: `metadata.uid` of the pod.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// Label on containers: `spec.containers[].name`.
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";

/// Label on both: the fleet the node belongs to.
pub const FLEET: &str = "io.garrison.fleet";
/// Label on both: `metadata.uid` of the Node whose agent made it.
pub const NODE_UID: &str = "io.garrison.node.uid";
/// Label on both: `metadata.uid` of the pod's DaemonSet; absent on pods without one.
pub const DAEMONSET_UID: &str = "io.garrison.daemonset.uid";
/// Label on both: the revision the pod was made from.
pub const REVISION: &str = "io.garrison.revision";

/// Annotation on containers: hash of what the container was made from.
pub const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
/// Annotation on containers: the attempt, decimal.
pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// Annotation on containers: `terminationMessagePath`.
pub const TERMINATION_MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
/// Annotation on containers: `terminationMessagePolicy`.
pub const TERMINATION_MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// Annotation on containers: `terminationGracePeriodSeconds`.
pub const TERMINATION_GRACE_PERIOD: &str = "io.kubernetes.pod.terminationGracePeriod";
/// Annotation on containers: the container's ports as JSON, as in the spec.
pub const CONTAINER_PORTS: &str = "io.kubernetes.container.ports";

/// Whose pods these are. Two agents on one runtime never have the same owner.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The fleet.
    pub fleet: FleetId,
    /// `metadata.uid` of the Node.
    pub node: Uid,
}

/// What the labels of one pod say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodLabels {
    /// Namespace, name and uid of the pod.
    pub key: PodKey,
    /// Whose pod it is.
    pub origin: Origin,
}

impl Owner {
    /// The label selector that finds everything of this owner and nothing else.
    pub(super) fn selector(&self) -> HashMap<String, String> {
        own([(FLEET, self.fleet.as_str()), (NODE_UID, self.node.as_str())])
    }
}

impl PodLabels {
    /// Reads the labels of a sandbox or container; `None` if they are not an agent's.
    pub(super) fn from_map(labels: &HashMap<String, String>) -> Option<Self> {
        let get = |label: &str| labels.get(label).cloned();
        Some(Self {
            key: PodKey { namespace: get(POD_NAMESPACE)?, name: get(POD_NAME)?, uid: get(POD_UID)?.into() },
            origin: Origin {
                fleet: get(FLEET)?.into(),
                node: get(NODE_UID)?.into(),
                daemonset: get(DAEMONSET_UID).map(Uid),
                revision: get(REVISION)?.into(),
            },
        })
    }
}

/// The labels that say whose pod something is, on sandboxes and containers alike.
pub(super) fn pod_labels(key: &PodKey, origin: &Origin) -> HashMap<String, String> {
    let mut labels = own([
        (POD_NAME, key.name.as_str()),
        (POD_NAMESPACE, key.namespace.as_str()),
        (POD_UID, key.uid.as_str()),
        (FLEET, origin.fleet.as_str()),
        (NODE_UID, origin.node.as_str()),
        (REVISION, origin.revision.as_str()),
    ]);
    labels.extend(origin.daemonset.iter().map(|uid| (DAEMONSET_UID.to_owned(), uid.0.clone())));
    labels
}

/// What a container of the pod carries, whatever the template says.
pub(super) fn container_annotations(pod: &Pod, container: &Container, attempt: u32) -> HashMap<String, String> {
    let policy = match container.termination_message_policy {
        TerminationMessagePolicy::File => "File",
        TerminationMessagePolicy::FallbackToLogsOnError => "FallbackToLogsOnError",
    };
    let mut annotations = own([
        (CONTAINER_HASH, container.spec_hash.as_str()),
        (RESTART_COUNT, &attempt.to_string()),
        (TERMINATION_MESSAGE_PATH, container.termination_message_path.as_str()),
        (TERMINATION_MESSAGE_POLICY, policy),
        (TERMINATION_GRACE_PERIOD, &pod.grace_period.as_secs().to_string()),
    ]);
    if !container.ports.is_empty() {
        let ports = serde_json::Value::from_iter(container.ports.iter().map(port));
        annotations.insert(CONTAINER_PORTS.to_owned(), ports.to_string());
    }
    annotations
}

/// A port as the API writes it; what is not set is left out.
fn port(port: &ContainerPort) -> serde_json::Value {
    let PortMapping { protocol, container_port, host_port, host_ip } = &port.mapping;
    let protocol = match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    };
    let mut value = serde_json::json!({ "containerPort": container_port, "protocol": protocol });
    if !port.name.is_empty() {
        value["name"] = port.name.as_str().into();
    }
    if *host_port != 0 {
        value["hostPort"] = (*host_port).into();
    }
    if let Some(ip) = host_ip {
        value["hostIP"] = ip.to_string().into();
    }
    value
}

fn own<const N: usize>(pairs: [(&str, &str); N]) -> HashMap<String, String> {
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Changing any of these orphans every running pod of every node that is upgraded.
    #[test]
    fn the_labels_of_a_pod_never_change() {
        let pod = PodLabels {
            key: PodKey { namespace: "kube-system".into(), name: "fluentd-abcdefghij".into(), uid: "pod-1".into() },
            origin: Origin {
                fleet: "fleet-1".into(),
                node: "node-1".into(),
                daemonset: Some("ds-1".into()),
                revision: "5f7c9".into(),
            },
        };
        let labels = pod_labels(&pod.key, &pod.origin);
        let expected = own([
            ("io.garrison.daemonset.uid", "ds-1"),
            ("io.garrison.fleet", "fleet-1"),
            ("io.garrison.node.uid", "node-1"),
            ("io.garrison.revision", "5f7c9"),
            ("io.kubernetes.pod.name", "fluentd-abcdefghij"),
            ("io.kubernetes.pod.namespace", "kube-system"),
            ("io.kubernetes.pod.uid", "pod-1"),
        ]);
        assert_eq!(labels, expected);
        let selector = Owner { fleet: "fleet-1".into(), node: "node-1".into() }.selector();
        assert!(selector.iter().all(|label| labels.iter().any(|other| other == label)), "{selector:?}");
        assert_eq!(PodLabels::from_map(&labels), Some(pod));
        assert_eq!(PodLabels::from_map(&selector), None);
    }
}
