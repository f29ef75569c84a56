//! From a pod template and this node's facts to our own [`Pod`], in which nothing is left to interpret.
//!
//! Pure. The agent resolves each pod of its ledger, `cri` turns the result into requests, `plan` and `fit` decide on it.
//! The same inputs always give the same `Pod`, so a restarted agent sees what its predecessor saw.
//!
//! It must not read files, ask the runtime or know addresses that exist only once the sandbox is up: texts that need them
//! stay open ([`text::Text`]) until a container is made.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::model::{FleetId, NodeName, Uid};

pub use self::container::{
    Container, ContainerPort, EnvVar, ExitCodes, Handler, Hooks, HttpGet, Mount, Probe, Probes, Propagation,
    PullPolicy, RestartAction, RestartPolicy, RestartRule, Role, Seccomp, Security, TerminationMessagePolicy,
};
pub use self::pod::{
    Dns, HostAlias, HostPathKind, LinuxResources, Namespaces, Origin, PidNamespace, Pod, PodSecurity, PortMapping,
    Protocol, QosClass, Requests, Volume, VolumeSource,
};
pub use self::resolve::resolve;
pub use self::unsupported::{PRIORITY_CLASSES, unsupported};

mod container;
mod env;
pub mod hash;
pub mod hosts;
mod image;
mod network;
mod pod;
mod probes;
mod resolve;
mod resources;
mod security;
pub mod text;
mod unsupported;
mod volumes;

/// What a pod's realization depends on beside its DaemonSet: the node and its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// The fleet of the node.
    pub fleet: FleetId,
    /// `metadata.name` of the Node.
    pub node_name: NodeName,
    /// `metadata.uid` of the Node.
    pub node_uid: Uid,
    /// The node's addresses as in its status, the first one first; at most one of each family.
    pub ips: Vec<IpAddr>,
    /// The host's own resolver configuration.
    pub resolver: Dns,
    /// What the runtime says of itself (CRI `RuntimeConfig`).
    pub cgroup_driver: CgroupDriver,
    /// The cgroup below which pods' cgroups are made, `/` for the root. Of no account with the systemd driver.
    pub cgroup_root: String,
    /// The host mounts cgroups in version 2.
    pub cgroup_v2: bool,
    /// The kernel limits swap by cgroup.
    pub swap_limits: bool,
    /// The sizes of huge pages the host knows, in bytes.
    pub hugepage_sizes: Vec<u64>,
    /// The host's memory.
    pub memory_capacity_bytes: u64,
    /// `status.allocatable` by resource name: cpu in millicores, others in their base unit.
    pub allocatable: BTreeMap<String, u64>,
    /// Where pods have their directories: `/var/lib/kubelet`, as daemons expect it.
    pub root_dir: PathBuf,
    /// Where pods have their logs: `/var/log/pods`.
    pub log_root: PathBuf,
}

/// Who makes cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupDriver {
    /// The runtime itself.
    Cgroupfs,
    /// systemd, asked by the runtime.
    Systemd,
}

#[cfg(test)]
pub(crate) mod tests;
