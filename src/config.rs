//! From a configuration file and flags to checked settings. Pure: the caller reads the file.
//!
//! A flag wins over the files, a drop-in over the file it lies beside, that over the files of `labels.d`, those over the
//! default. Each default is a constant here.
//!
//! ```text
//! /etc/garrison/agent.yaml      --config
//!               agent.d/*.yaml  drop-ins, by name: each key replaces the same key before it, nodeLabels are added up
//!               labels.d/*      labels and taints, a line each
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::cli::{ControlFlags, NodeFlags, RegistrationFlags};
use crate::fit::sysctls;
use crate::model::{BadTaint, NodeName, Taint};
use crate::plan::images::{BadImageLimits, ImageLimits};
use crate::plan::pressure::{BadThreshold, Thresholds};

mod joining;
mod labels;

pub use joining::{JOIN_DROP_IN, join_drop_in};
pub use labels::{BadLine, HostLabels};

/// Default of `stateDir`.
pub const STATE_DIR: &str = "/var/lib/garrison";
/// Default of `containerRuntimeEndpoint`; containerd's own default.
pub const RUNTIME_ENDPOINT: &str = "unix:///run/containerd/containerd.sock";
/// Default of `rootDir`: kubelet's, since daemons mount paths below it.
pub const ROOT_DIR: &str = "/var/lib/kubelet";
/// Default of `podLogsDir`: kubelet's, since log collectors read it.
pub const POD_LOGS_DIR: &str = "/var/log/pods";
/// Default of `cgroupRoot`: pods' cgroups are where a kubelet makes them.
pub const CGROUP_ROOT: &str = "/";
/// Where packages put the agent's configuration; the small commands for a host read it unless told otherwise.
pub const AGENT_CONFIG: &str = "/etc/garrison/agent.yaml";
/// The same of the control endpoint.
pub const CONTROL_CONFIG: &str = "/etc/garrison/control.yaml";
/// Default of `clusterDomain`, as most clusters have it; the kubelet itself has none.
pub const CLUSTER_DOMAIN: &str = "cluster.local";
/// Default of `auditVerbs`: what changes something.
pub const AUDIT_VERBS: [&str; 5] = ["create", "delete", "deletecollection", "patch", "update"];
/// Port of the control endpoint, as kube-apiserver's.
pub const PORT: u16 = 6443;

/// The configuration file: what it may say, nothing checked yet. Keys are kubelet's where it has them.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct File {
    /// Folder for everything garrison keeps.
    pub state_dir: Option<PathBuf>,
    /// The runtime's CRI socket.
    pub container_runtime_endpoint: Option<String>,
    /// Name of this host's Node.
    pub node_name: Option<String>,
    /// Labels the Node is registered with.
    pub node_labels: BTreeMap<String, String>,
    /// Taints the Node is registered with, each `key=value:Effect`.
    pub register_with_taints: Vec<String>,
    /// Address the Node reports.
    pub node_ip: Option<IpAddr>,
    /// Folder with DaemonSet manifests.
    pub manifests: Option<PathBuf>,
    /// Folder for pods' files.
    pub root_dir: Option<PathBuf>,
    /// Folder for pods' logs.
    pub pod_logs_dir: Option<PathBuf>,
    /// Cgroup below which pods' cgroups are made.
    pub cgroup_root: Option<String>,
    /// Name servers of a cluster.
    pub cluster_dns: Vec<IpAddr>,
    /// Domain below which a cluster's names are.
    pub cluster_domain: Option<String>,
    /// Kernel settings pods may change beside the safe ones.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// What has to be left of memory, disks and PIDs, by signal; takes the place of all defaults.
    pub eviction_hard: Option<BTreeMap<String, String>>,
    /// How full the disk of images may be, in percent.
    pub image_gc_high_threshold: Option<u8>,
    /// How full it may stay when images are removed.
    pub image_gc_low_threshold: Option<u8>,
    /// Folder where the runtime looks for CNI configuration.
    pub cni_conf_dir: Option<PathBuf>,
    /// Give the runtime a bridge network when it has none.
    pub install_cni: Option<bool>,
    /// The control endpoint an agent dials.
    pub control: Option<String>,
    /// Address the control endpoint serves on.
    pub listen: Option<String>,
    /// Further names of the control endpoint.
    pub names: Vec<String>,
    /// File to which requests are written down.
    pub audit_log: Option<PathBuf>,
    /// Verbs of the requests that are; `*` for all.
    pub audit_verbs: Vec<String>,
    /// What `labels.d` says; no key of a file.
    #[serde(skip)]
    pub host_labels: HostLabels,
}

impl File {
    /// This file with `over` laid on it: a key that `over` has replaces the one here, labels are added up.
    #[must_use]
    pub fn with(self, over: Self) -> Self {
        let list = |over: Vec<String>, under| if over.is_empty() { under } else { over };
        let cluster_dns = if over.cluster_dns.is_empty() { self.cluster_dns } else { over.cluster_dns };
        Self {
            state_dir: over.state_dir.or(self.state_dir),
            container_runtime_endpoint: over.container_runtime_endpoint.or(self.container_runtime_endpoint),
            node_name: over.node_name.or(self.node_name),
            node_labels: self.node_labels.into_iter().chain(over.node_labels).collect(),
            register_with_taints: list(over.register_with_taints, self.register_with_taints),
            node_ip: over.node_ip.or(self.node_ip),
            manifests: over.manifests.or(self.manifests),
            root_dir: over.root_dir.or(self.root_dir),
            pod_logs_dir: over.pod_logs_dir.or(self.pod_logs_dir),
            cgroup_root: over.cgroup_root.or(self.cgroup_root),
            cluster_dns,
            cluster_domain: over.cluster_domain.or(self.cluster_domain),
            allowed_unsafe_sysctls: list(over.allowed_unsafe_sysctls, self.allowed_unsafe_sysctls),
            eviction_hard: over.eviction_hard.or(self.eviction_hard),
            image_gc_high_threshold: over.image_gc_high_threshold.or(self.image_gc_high_threshold),
            image_gc_low_threshold: over.image_gc_low_threshold.or(self.image_gc_low_threshold),
            cni_conf_dir: over.cni_conf_dir.or(self.cni_conf_dir),
            install_cni: over.install_cni.or(self.install_cni),
            control: over.control.or(self.control),
            listen: over.listen.or(self.listen),
            names: list(over.names, self.names),
            audit_log: over.audit_log.or(self.audit_log),
            audit_verbs: list(over.audit_verbs, self.audit_verbs),
            host_labels: self.host_labels,
        }
    }
}

/// What an agent runs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentSettings {
    /// Folder for ledger and credentials.
    pub state_dir: PathBuf,
    /// `unix://` and an absolute path.
    pub runtime_endpoint: String,
    /// Name to register under. A node that has one keeps it.
    pub node_name: NodeName,
    /// Somebody chose `node_name`; otherwise it is the hostname of now.
    pub name_is_chosen: bool,
    /// Labels the host gives itself.
    pub node_labels: BTreeMap<String, String>,
    /// Taints the host gives itself.
    pub register_with_taints: Vec<Taint>,
    /// Address to report; none is that of the default route.
    pub node_ip: Option<IpAddr>,
    /// Folder with manifests; none means that all come from control.
    pub manifests: Option<PathBuf>,
    /// kubelet's root directory.
    pub root_dir: PathBuf,
    /// `/var/log/pods`.
    pub pod_logs_dir: PathBuf,
    /// Absolute cgroup path, `/` for the root.
    pub cgroup_root: String,
    /// Name servers of a cluster; empty where there is none.
    pub cluster_dns: Vec<IpAddr>,
    /// Domain below which a cluster's names are.
    pub cluster_domain: String,
    /// Kernel settings pods may change beside the safe ones; a trailing `*` stands for all that begin so.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// When the node is under pressure, and pods have to go.
    pub eviction_hard: Thresholds,
    /// When images that nothing needs are removed.
    pub image_limits: ImageLimits,
    /// The runtime's CNI configuration; none is where the runtime says it looks.
    pub cni_conf_dir: Option<PathBuf>,
    /// Whether to install a bridge network where there is none.
    pub install_cni: bool,
    /// `host:port` of control; none for an agent that works alone.
    pub control: Option<String>,
    /// Join token for a host that is not enrolled yet.
    pub token: Option<String>,
}

impl AgentSettings {
    /// Whether it shares none of a kubelet's default folders, cgroups and runtime.
    pub fn is_apart_from_kubelet(&self) -> bool {
        self.root_dir != Path::new(ROOT_DIR)
            && self.cgroup_root != CGROUP_ROOT
            && self.runtime_endpoint != RUNTIME_ENDPOINT
    }
}

/// What a control endpoint runs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlSettings {
    /// Folder for store, certificates and `admin.kubeconfig`.
    pub state_dir: PathBuf,
    /// Where to serve; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Names and addresses for the server's certificate, beside `localhost`, the hostname and the listening address.
    pub names: Vec<String>,
    /// File to which requests are written down, if any.
    pub audit_log: Option<PathBuf>,
    /// Verbs of the requests that are; `*` for all. What is refused is written down whatever the verb.
    pub audit_verbs: Vec<String>,
}

/// What is wrong with the settings, by the name the user gave it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is no YAML of this shape.
    #[error("configuration file {path} is not usable")]
    File {
        /// As given with `--config`.
        path: PathBuf,
        /// What is wrong, and where.
        #[source]
        source: Box<serde_saphyr::Error>,
    },
    /// A label is not `key=value`.
    #[error("--node-labels: {text:?} is not a label; write key=value")]
    Label {
        /// As typed.
        text: String,
    },
    /// A taint does not parse.
    #[error("--register-with-taints")]
    Taint(#[source] BadTaint),
    /// A threshold means nothing.
    #[error("--eviction-hard")]
    Eviction(#[source] BadThreshold),
    /// Limits on the disk of images mean nothing.
    #[error("--image-gc-high-threshold and --image-gc-low-threshold")]
    Images(#[source] BadImageLimits),
    /// The runtime endpoint is no unix socket.
    #[error("--container-runtime-endpoint: {text:?} is not a socket; write unix:///run/containerd/containerd.sock")]
    Endpoint {
        /// As typed.
        text: String,
    },
    /// The address to listen on does not parse.
    #[error("--listen: {text:?} is not an address; write IP:PORT, such as 127.0.0.1:6443")]
    Listen {
        /// As typed.
        text: String,
    },
    /// The node name is not usable as an object's name.
    #[error("--node-name: {name:?} is not a node name; use lower-case letters, digits, '-' and '.', 253 at most")]
    NodeName {
        /// As typed, or the hostname.
        name: String,
    },
    /// A kernel setting is not one that pods can have of their own.
    #[error("--allowed-unsafe-sysctls: {text:?} is not known to be a setting that a pod has of its own")]
    Sysctl {
        /// As typed.
        text: String,
    },
    /// A path that has to be absolute is not.
    #[error("{flag}: {path} is relative; give an absolute path")]
    Relative {
        /// The flag's name.
        flag: &'static str,
        /// As typed.
        path: PathBuf,
    },
    /// A host that is to join, nobody knows what.
    #[error("say which control endpoint this host is to join: --control HOST:PORT")]
    NoControl,
    /// An agent with nothing to run from.
    #[error("the agent has no source of DaemonSets; give --control HOST:PORT, --manifests DIR, or both")]
    NoSource,
}

/// Reads the text of a configuration file; an empty file is one that says nothing.
///
/// # Errors
/// [`ConfigError::File`] for anything but known keys with values of the right type.
pub fn parse_file(path: &Path, text: &str) -> Result<File, ConfigError> {
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(File::default());
    }
    serde_saphyr::from_str(text).map_err(|source| ConfigError::File { path: path.to_owned(), source: Box::new(source) })
}

/// The state directory that flags and file ask for.
pub fn state_dir(flag: Option<PathBuf>, file: &File) -> PathBuf {
    flag.or_else(|| file.state_dir.clone()).unwrap_or_else(|| STATE_DIR.into())
}

/// An agent's settings when nobody says anything, for a host of this name.
pub fn defaults(hostname: &str) -> AgentSettings {
    AgentSettings {
        state_dir: STATE_DIR.into(),
        runtime_endpoint: RUNTIME_ENDPOINT.to_owned(),
        node_name: hostname.into(),
        name_is_chosen: false,
        node_labels: BTreeMap::new(),
        register_with_taints: Vec::new(),
        node_ip: None,
        manifests: None,
        root_dir: ROOT_DIR.into(),
        pod_logs_dir: POD_LOGS_DIR.into(),
        cgroup_root: CGROUP_ROOT.to_owned(),
        cluster_dns: Vec::new(),
        cluster_domain: CLUSTER_DOMAIN.to_owned(),
        allowed_unsafe_sysctls: Vec::new(),
        eviction_hard: Thresholds::default(),
        image_limits: ImageLimits::default(),
        cni_conf_dir: None,
        install_cni: false,
        control: None,
        token: None,
    }
}

/// A label as users type it, `key=value`.
fn label(text: &str) -> Result<(String, String), ConfigError> {
    let (key, value) = text.split_once('=').ok_or_else(|| ConfigError::Label { text: text.to_owned() })?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Settles what an agent runs with. `hostname` is the default of the node's name.
///
/// # Errors
/// [`ConfigError`] naming the first flag that cannot be used.
pub fn agent(
    flags: NodeFlags,
    state_dir: PathBuf,
    install_cni: Option<bool>,
    control: Option<String>,
    file: File,
    hostname: &str,
) -> Result<AgentSettings, ConfigError> {
    let RegistrationFlags { node_name, node_labels: labels, register_with_taints } = flags.registration;
    let chosen = node_name.or(file.node_name);
    let name_is_chosen = chosen.is_some();
    let node_name = chosen.unwrap_or_else(|| hostname.to_lowercase());
    if !is_subdomain(&node_name) {
        return Err(ConfigError::NodeName { name: node_name });
    }
    let text = flags.container_runtime_endpoint.or(file.container_runtime_endpoint);
    let runtime_endpoint = text.unwrap_or_else(|| RUNTIME_ENDPOINT.to_owned());
    if !runtime_endpoint.strip_prefix("unix://").is_some_and(|path| path.starts_with('/')) {
        return Err(ConfigError::Endpoint { text: runtime_endpoint });
    }
    let HostLabels { labels: mut node_labels, taints: host_taints } = file.host_labels;
    node_labels.extend(file.node_labels);
    for text in labels {
        node_labels.extend([label(&text)?]);
    }
    let taints = if register_with_taints.is_empty() { file.register_with_taints } else { register_with_taints };
    let cluster_dns = if flags.cluster_dns.is_empty() { file.cluster_dns } else { flags.cluster_dns };
    let allowed = flags.allowed_unsafe_sysctls;
    let allowed_unsafe_sysctls = if allowed.is_empty() { file.allowed_unsafe_sysctls } else { allowed };
    if let Some(text) = allowed_unsafe_sysctls.iter().find(|pattern| sysctls::namespace(pattern).is_none()) {
        return Err(ConfigError::Sysctl { text: text.clone() });
    }
    let cni_conf_dir = flags.cni_conf_dir.or(file.cni_conf_dir);
    let eviction_hard = eviction_hard(flags.eviction_hard, file.eviction_hard).map_err(ConfigError::Eviction)?;
    let high = flags.image_gc_high_threshold.or(file.image_gc_high_threshold);
    let low = flags.image_gc_low_threshold.or(file.image_gc_low_threshold);
    let image_limits = ImageLimits::new(high, low).map_err(ConfigError::Images)?;
    let asked =
        taints.iter().map(|text| text.parse()).collect::<Result<Vec<Taint>, _>>().map_err(ConfigError::Taint)?;
    // A node has one taint of a key and effect, as the API has it.
    let is_new = |taint: &Taint| !asked.iter().any(|one| (&one.key, one.effect) == (&taint.key, taint.effect));
    let host_taints: Vec<_> = host_taints.into_iter().filter(is_new).collect();
    let or_default =
        |flag: Option<PathBuf>, file: Option<PathBuf>, default: &str| flag.or(file).unwrap_or(default.into());
    Ok(AgentSettings {
        state_dir: absolute("--state-dir", state_dir)?,
        runtime_endpoint,
        node_name: node_name.into(),
        name_is_chosen,
        node_labels,
        register_with_taints: asked.into_iter().chain(host_taints).collect(),
        node_ip: flags.node_ip.or(file.node_ip),
        manifests: flags.manifests.or(file.manifests),
        root_dir: absolute("--root-dir", or_default(flags.root_dir, file.root_dir, ROOT_DIR))?,
        pod_logs_dir: absolute("--pod-logs-dir", or_default(flags.pod_logs_dir, file.pod_logs_dir, POD_LOGS_DIR))?,
        cgroup_root: flags.cgroup_root.or(file.cgroup_root).unwrap_or_else(|| CGROUP_ROOT.to_owned()),
        cluster_dns,
        cluster_domain: flags.cluster_domain.or(file.cluster_domain).unwrap_or_else(|| CLUSTER_DOMAIN.to_owned()),
        allowed_unsafe_sysctls,
        eviction_hard,
        image_limits,
        cni_conf_dir: cni_conf_dir.map(|dir| absolute("--cni-conf-dir", dir)).transpose()?,
        install_cni: install_cni.or(file.install_cni).unwrap_or(false),
        control: control.or(file.control),
        token: None,
    })
}

fn eviction_hard(flag: Option<String>, file: Option<BTreeMap<String, String>>) -> Result<Thresholds, BadThreshold> {
    match (flag, file) {
        (Some(text), _) => text.parse(),
        (None, Some(pairs)) => Thresholds::from_pairs(pairs.iter().map(|(signal, amount)| (&**signal, &**amount))),
        (None, None) => Ok(Thresholds::default()),
    }
}

/// Settles what a control endpoint runs with. `default_ip` is where it listens if nothing is said.
///
/// # Errors
/// [`ConfigError`] naming the first flag that cannot be used.
pub fn control(flags: ControlFlags, file: &File, default_ip: Ipv4Addr) -> Result<ControlSettings, ConfigError> {
    let listen = match flags.listen.or_else(|| file.listen.clone()) {
        None => SocketAddr::from((default_ip, PORT)),
        Some(text) => text.parse().map_err(|_| ConfigError::Listen { text })?,
    };
    let names = if flags.names.is_empty() { file.names.clone() } else { flags.names };
    let state_dir = absolute("--state-dir", state_dir(flags.common.state_dir, file))?;
    let audit_log = flags.audit_log.or_else(|| file.audit_log.clone());
    let audit_log = audit_log.map(|path| absolute("--audit-log", path)).transpose()?;
    let said = if flags.audit_verbs.is_empty() { file.audit_verbs.clone() } else { flags.audit_verbs };
    let audit_verbs = if said.is_empty() { AUDIT_VERBS.map(str::to_owned).to_vec() } else { said };
    Ok(ControlSettings { state_dir, listen, names, audit_log, audit_verbs })
}

fn absolute(flag: &'static str, path: PathBuf) -> Result<PathBuf, ConfigError> {
    if path.is_absolute() { Ok(path) } else { Err(ConfigError::Relative { flag, path }) }
}

/// Whether a name is a DNS-1123 subdomain, as the API asks of a Node's name.
fn is_subdomain(name: &str) -> bool {
    let label = |label: &str| {
        label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

#[cfg(test)]
mod tests;
