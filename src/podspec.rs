//! From a pod template and this node's facts to our own [`Pod`], in which nothing is left to interpret.
//!
//! Pure. The agent resolves each pod of its ledger, `cri` turns the result into requests, `plan` and `fit` decide on it.
//! The same inputs always give the same `Pod`, so a restarted agent sees what its predecessor saw.
//!
//! It must not read files, ask the runtime or know what exists only later: the sandbox's addresses, ConfigMaps, Secrets.
//! What depends on those stays open in the `Pod` until a container is made or a volume is written; [`bind`] closes it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::model::{FleetId, NodeName, Uid};

pub use self::budget::{Budget, ContainerBudget, Limit};
pub use self::container::{
    Container, ContainerPort, EnvFile, EnvFrom, EnvSource, EnvVar, ExitCodes, Handler, Hooks, HttpGet, ImageUser,
    Mount, Probe, Probes, Profile, Propagation, PullPolicy, RecursiveReadOnly, RestartAction, RestartPolicy,
    RestartRule, Role, Security, SelinuxOptions, SubPath, SubPathText, TerminationMessagePolicy,
};
pub use self::credentials::{BadCredentials, Credentials, Keyring, PullSecrets, pull_secrets};
pub use self::devices::{DeviceNode, Granted, GrantedMount};
pub use self::downward::Field;
pub use self::image::full_reference;
pub use self::network::kernel_hostname;
pub use self::objects::{ObjectKind, Reference, references};
pub use self::pod::{
    CgroupLimits, Dns, FileSource, HostAlias, HostPathKind, IdRange, ImageUse, Item, LinuxResources, NamedImage,
    Namespaces, Origin, PidNamespace, Pod, PodSecurity, PortMapping, Protocol, QosClass, Requests, Volume,
    VolumeSource,
};
pub use self::resolve::resolve;
pub use self::security::verify_non_root;
pub use self::unsupported::{unsupported, unsupported_ephemeral};

pub mod bind;
mod budget;
mod container;
mod credentials;
mod devices;
mod downward;
pub mod env;
pub mod hash;
pub mod hosts;
mod image;
mod lifecycle;
mod network;
pub mod objects;
mod pod;
mod probes;
mod resolve;
mod resources;
mod security;
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
    /// The cluster's name servers, where there are any.
    pub cluster_dns: Vec<IpAddr>,
    /// The domain below which the cluster's names are; empty for none.
    pub cluster_domain: String,
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
    /// Files of this host's kernel that are hidden from containers, beside those that are hidden everywhere.
    pub masked_paths: Vec<String>,
    /// The host's memory.
    pub memory_capacity_bytes: u64,
    /// `status.allocatable` by resource name: cpu in millicores, others in their base unit.
    pub allocatable: BTreeMap<String, u64>,
    /// How many devices there are of each resource that a plugin has registered; the healthy ones are allocatable.
    pub devices: BTreeMap<String, u64>,
    /// Where pods reach the API; none if they cannot.
    pub api: Option<ApiAddress>,
    /// Where pods have their directories: `/var/lib/kubelet`, as daemons expect it.
    pub root_dir: PathBuf,
    /// Where pods have their logs: `/var/log/pods`.
    pub log_root: PathBuf,
}

impl HostFacts {
    /// Takes in how many devices there are of each resource, and how many of them are healthy.
    pub fn count_devices(&mut self, counted: &BTreeMap<String, (u64, u64)>) {
        self.allocatable.retain(|name, _| !self.devices.contains_key(name));
        self.devices = counted.iter().map(|(name, (all, _))| (name.clone(), *all)).collect();
        self.allocatable.extend(counted.iter().map(|(name, (_, healthy))| (name.clone(), *healthy)));
    }
}

/// Where the API answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiAddress {
    /// An address or a name.
    pub host: String,
    /// The port of HTTPS.
    pub port: u16,
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
