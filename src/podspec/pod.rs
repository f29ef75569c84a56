//! A pod as a whole: sandbox, volumes, and what it asks of its node.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::budget::Budget;
use super::container::{Container, PullPolicy, RestartPolicy, SelinuxOptions};
use super::downward::Field;
use super::objects::{Reference, TokenSpec};
use crate::model::{FleetId, PodKey, RevisionHash, Uid};

/// One pod, ready to be realized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Namespace, name and uid.
    pub key: PodKey,
    /// Whose pod it is; written into the sandbox's labels so that it is found again.
    pub origin: Origin,
    /// The pod's labels, the DaemonSet's own (`controller-revision-hash` …) included.
    pub labels: BTreeMap<String, String>,
    /// The pod's annotations.
    pub annotations: BTreeMap<String, String>,
    /// Which of the host's namespaces it shares.
    pub namespaces: Namespaces,
    /// Empty with the host's network: the host's name holds there.
    pub hostname: String,
    /// The host name's domain; empty for none.
    pub domain: String,
    /// The kernel is told the host name with its domain ([`super::kernel_hostname`]).
    pub hostname_as_fqdn: bool,
    /// What becomes the containers' `/etc/resolv.conf`.
    pub dns: Dns,
    /// What had to be left out of `dns`, in upstream's words.
    pub dns_omitted: Vec<String>,
    /// Ports of the regular containers, those without a host port included, each container's without duplicates.
    pub ports: Vec<PortMapping>,
    /// The runtime's `cgroup_parent`: a path, or a slice path with the systemd driver.
    pub cgroup_parent: String,
    /// Quality of service, which chose `cgroup_parent` and each `oom_score_adj`.
    pub qos: QosClass,
    /// Of the containers together, for the sandbox; `oom_score_adj` plays no part here.
    pub resources: LinuxResources,
    /// What the runtime takes beside the containers (`overhead`); nothing at all without.
    pub overhead: LinuxResources,
    /// What the cgroup at `cgroup_parent` is told.
    pub cgroup: CgroupLimits,
    /// What it asks of the node.
    pub requests: Requests,
    /// What it asked for and may take of what the node can run out of.
    pub budget: Budget,
    /// Who goes before whom when the node runs out of something, or has no room: the least first.
    pub priority: i32,
    /// Others may have to make way for it (`preemptionPolicy`).
    pub preempts: bool,
    /// It may begin on a node that is short of memory though it asked for nothing, as every DaemonSet's pod may.
    pub tolerates_memory_pressure: bool,
    /// Who the sandbox's own process is.
    pub security: PodSecurity,
    /// From the stop signal to the kill signal.
    pub grace_period: Duration,
    /// `restartPolicy`: `Always` but for pods posted with a node name.
    pub restart_policy: RestartPolicy,
    /// `activeDeadlineSeconds`: a pod that runs for longer is failed.
    pub active_deadline: Option<Duration>,
    /// Condition types that have to be true beside the containers' own readiness.
    pub readiness_gates: Vec<String>,
    /// `serviceAccountName`.
    pub service_account: String,
    /// `imagePullSecrets[].name`.
    pub pull_secrets: Vec<String>,
    /// Every ConfigMap and Secret it asks for.
    pub references: BTreeSet<Reference>,
    /// Every token of its service account it asks for.
    pub tokens: BTreeSet<TokenSpec>,
    /// `securityContext.fsGroup`: whose files its own volumes are.
    pub fs_group: Option<i64>,
    /// Variables that tell every container where the API is; those of the container itself come first.
    pub service_env: Vec<(String, String)>,
    /// CRI's runtime handler; empty for the runtime's default.
    pub runtime_handler: String,
    /// Lines added to `/etc/hosts`.
    pub host_aliases: Vec<HostAlias>,
    /// Kernel settings by name.
    pub sysctls: BTreeMap<String, String>,
    /// Everything on disk that belongs to this pod alone: `<root>/pods/<uid>`.
    pub dir: PathBuf,
    /// `/var/log/pods/<namespace>_<name>_<uid>`.
    pub log_dir: PathBuf,
    /// In the order of the template, also those no container mounts.
    pub volumes: Vec<Volume>,
    /// Init containers and sidecars in the order of the template, then the regular ones, then the ephemeral ones.
    pub containers: Vec<Container>,
}

/// One line of `/etc/hosts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostAlias {
    /// An address.
    pub ip: String,
    /// Its names.
    pub hostnames: Vec<String>,
}

/// Whose pod it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The fleet of the node.
    pub fleet: FleetId,
    /// `metadata.uid` of the Node.
    pub node: Uid,
    /// `metadata.uid` of the DaemonSet; none for a pod posted with a node name.
    pub daemonset: Option<Uid>,
    /// The revision of the DaemonSet.
    pub revision: RevisionHash,
}

/// `NamespaceOption` of CRI: true where the host's namespace is shared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// `hostNetwork`.
    pub host_network: bool,
    /// `hostIPC`.
    pub host_ipc: bool,
    /// `hostPID` or `shareProcessNamespace`.
    pub pid: PidNamespace,
    /// `hostUsers: false`: root in the pod is nobody on the host.
    pub own_users: bool,
}

/// The users and groups of a pod with users of its own: 0 and those after it are these of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// What 0 in the pod is on the host.
    pub first_host_id: u32,
    /// How many there are.
    pub length: u32,
}

/// Which processes a container sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PidNamespace {
    /// Its own.
    #[default]
    Container,
    /// Those of its pod: `shareProcessNamespace`.
    Pod,
    /// Those of the host: `hostPID`.
    Host,
}

/// A resolver's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    /// Addresses of name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// `name` or `name:value`.
    pub options: Vec<String>,
}

/// One port of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortMapping {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Inside the pod.
    pub container_port: u16,
    /// On the host; 0 for none.
    pub host_port: u16,
    /// The host's address it is bound to; none for all.
    pub host_ip: Option<IpAddr>,
}

/// Transport protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// `TCP`.
    Tcp,
    /// `UDP`.
    Udp,
    /// `SCTP`.
    Sctp,
}

impl Protocol {
    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `status.qosClass`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QosClass {
    /// Every container has cpu and memory limits equal to its requests.
    Guaranteed,
    /// Neither of the others.
    Burstable,
    /// No request and no limit anywhere.
    BestEffort,
}

impl QosClass {
    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// What the cgroup of a pod as a whole is told. `None` leaves a file as it is, 0 is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CgroupLimits {
    /// cgroup v1 weight, 2 to 262144.
    pub cpu_shares: i64,
    /// Quota and period in microseconds.
    pub cpu_quota: Option<(i64, i64)>,
    /// Bytes.
    pub memory_bytes: Option<i64>,
    /// Bytes by page size (`2MB`, `1GB`): every size of the host; here 0 is none at all.
    pub hugepage_bytes: Vec<(String, u64)>,
}

/// What a pod asks of its node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requests {
    /// By resource name: cpu in millicores, all others in their base unit (bytes, pieces). Zero is left out.
    pub resources: BTreeMap<String, u64>,
    /// The ports with a host port.
    pub host_ports: Vec<PortMapping>,
}

/// Limits and weights as the kernel takes them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinuxResources {
    /// cgroup v1 weight, 2 to 262144.
    pub cpu_shares: i64,
    /// Microseconds of cpu per period; 0 for no limit.
    pub cpu_quota: i64,
    /// Length of a period in microseconds.
    pub cpu_period: i64,
    /// 0 for no limit.
    pub memory_limit_bytes: i64,
    /// cgroup v1 only: memory plus swap; 0 for no limit.
    pub memory_swap_limit_bytes: i64,
    /// Who is killed first when memory runs out.
    pub oom_score_adj: i64,
    /// Bytes by page size as CRI names it (`2MB`, `1GB`): every size of the host, 0 without a limit.
    pub hugepage_limits: Vec<(String, u64)>,
    /// cgroup v2 files and their content.
    pub unified: BTreeMap<String, String>,
}

/// Who the sandbox's own process is. A container's own settings are in [`super::Security`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodSecurity {
    /// Some container is privileged.
    pub privileged: bool,
    /// `securityContext.runAsUser` of the pod.
    pub run_as_user: Option<i64>,
    /// `securityContext.runAsGroup` of the pod.
    pub run_as_group: Option<i64>,
    /// `fsGroup`, then `supplementalGroups`.
    pub supplemental_groups: Vec<i64>,
    /// `supplementalGroupsPolicy: Strict`: groups that images give their users do not count.
    pub strict_groups: bool,
    /// None: the runtime's choice.
    pub selinux: Option<SelinuxOptions>,
}

/// A directory or file that has to be there before a container is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// `volumes[].name`.
    pub name: String,
    /// Where on the host it is, and what has to be done for it.
    pub source: VolumeSource,
}

/// What a volume is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeSource {
    /// A path of the host; nothing is removed with the pod.
    HostPath {
        /// Absolute.
        path: PathBuf,
        /// What must be there or be made.
        kind: HostPathKind,
    },
    /// A directory made with the pod (mode 0777) and removed with it.
    EmptyDir {
        /// Below [`Pod::dir`].
        path: PathBuf,
    },
    /// A tmpfs mounted with the pod and unmounted with it.
    Memory {
        /// Below [`Pod::dir`].
        path: PathBuf,
        /// Its size.
        size_bytes: u64,
    },
    /// Huge pages, mounted with the pod and unmounted with it.
    HugePages {
        /// Below [`Pod::dir`].
        path: PathBuf,
        /// The size of a page in bytes. `Err` says why there is none to choose.
        page_size: Result<u64, String>,
    },
    /// Files made of objects, tokens and the pod itself, written again when those change; never written by containers.
    Files {
        /// Below [`Pod::dir`].
        path: PathBuf,
        /// Not on disk but in a tmpfs of this size.
        memory_bytes: Option<u64>,
        /// A later file replaces an earlier one at the same path.
        sources: Vec<FileSource>,
    },
    /// The content of an image; the runtime mounts it.
    Image {
        /// As written, for events.
        image: String,
        /// As the runtime is asked for it. `Err` holds why `image` is no reference at all.
        image_reference: Result<String, String>,
        /// When to pull.
        pull_policy: PullPolicy,
    },
}

/// An image that has to be on the host before a container is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageUse {
    /// Position in [`Pod::containers`].
    pub container: usize,
    /// Position in [`Pod::volumes`] of the one it is the content of; none for what the container runs from.
    pub volume: Option<usize>,
}

/// An image as the pod names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamedImage<'a> {
    /// As written, for events.
    pub written: &'a str,
    /// As the runtime is asked for it. `Err` holds why `written` is no reference at all.
    pub reference: Result<&'a str, &'a str>,
    /// When to pull.
    pub pull_policy: PullPolicy,
}

/// Where files of a volume come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileSource {
    /// Keys of a ConfigMap or Secret.
    Object {
        /// Which.
        object: Reference,
        /// The keys; empty for all, each under its own name.
        items: Vec<Item>,
        /// Mode of what has no mode of its own.
        mode: u32,
        /// Neither the object nor the keys need be there.
        optional: bool,
    },
    /// A value of the pod itself.
    Field {
        /// Below the volume.
        path: String,
        /// What.
        field: Field,
        /// Its mode.
        mode: u32,
    },
    /// A token of the pod's service account.
    Token {
        /// Below the volume.
        path: String,
        /// Which.
        spec: TokenSpec,
        /// Its mode.
        mode: u32,
        /// Whose file it is, if all containers run as one user; root's otherwise.
        owner: Option<i64>,
    },
}

/// `items[]` of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The object's key.
    pub key: String,
    /// Below the volume.
    pub path: String,
    /// Its mode; none for the source's.
    pub mode: Option<u32>,
}

impl VolumeSource {
    /// Where on the host the volume's content is; none for an image.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::HostPath { path, .. }
            | Self::EmptyDir { path }
            | Self::Memory { path, .. }
            | Self::HugePages { path, .. }
            | Self::Files { path, .. } => Some(path),
            Self::Image { .. } => None,
        }
    }

    /// Whether containers cannot write to it, whatever their mounts say.
    pub fn is_read_only(&self) -> bool {
        matches!(self, Self::Files { .. } | Self::Image { .. })
    }
}

/// `hostPath.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostPathKind {
    /// No check; the runtime makes a missing path a directory.
    Unchecked,
    /// Made with mode 0755 if it is missing.
    DirectoryOrCreate,
    /// Must be there.
    Directory,
    /// Made empty with mode 0644 if it is missing; its parent must be there.
    FileOrCreate,
    /// Must be there.
    File,
    /// Must be there.
    Socket,
    /// Must be there.
    CharDevice,
    /// Must be there.
    BlockDevice,
}

impl Pod {
    /// Whether the node cannot do without it: it stays whatever runs short, and is taken on then, too.
    ///
    /// Source: kubernetes v1.36 `pkg/apis/scheduling/types.go`, `SystemCriticalPriority`.
    pub fn is_critical(&self) -> bool {
        self.priority >= 2_000_000_000
    }

    /// The file one instance of a container finds at its `terminationMessagePath`; empty and mode 0666 before it starts.
    pub fn termination_log(&self, container: &Container, attempt: u32) -> PathBuf {
        self.dir.join("containers").join(&container.name).join(format!("{attempt:08x}"))
    }

    /// The pod's `/etc/hosts`, written before a container is made.
    pub fn etc_hosts(&self) -> PathBuf {
        self.dir.join("etc-hosts")
    }

    /// Where containers mount something else within a volume, as paths below it. Each needs a place there, which no runtime
    /// can make in a volume that is mounted for reading only. A path with `..` has none.
    ///
    /// Source: kubernetes v1.36 `pkg/volume/util/nested_volumes.go`.
    pub fn nested_mounts(&self, volume: &str) -> BTreeSet<PathBuf> {
        let mut nested = BTreeSet::new();
        for container in &self.containers {
            let roots = container.mounts.iter().filter(|mount| mount.volume.as_deref() == Some(volume));
            for root in roots {
                let paths = container.mounts.iter().map(|mount| Path::new(&mount.container_path));
                nested
                    .extend(paths.filter_map(|path| path.strip_prefix(&root.container_path).ok()).map(Path::to_owned));
            }
        }
        let is_below = |path: &PathBuf| path.components().all(|part| matches!(part, Component::Normal(_)));
        nested.into_iter().filter(|path| !path.as_os_str().is_empty() && is_below(path)).collect()
    }

    /// The images that a container needs: its own, then those of the volumes it mounts.
    pub fn images(&self, container: usize) -> impl Iterator<Item = ImageUse> + '_ {
        let mounts = &self.containers[container].mounts;
        let is_mounted = |volume: &Volume| mounts.iter().any(|mount| mount.volume.as_ref() == Some(&volume.name));
        let is_used = move |volume: &Volume| matches!(volume.source, VolumeSource::Image { .. }) && is_mounted(volume);
        let volumes = self.volumes.iter().enumerate().filter(move |(_, volume)| is_used(volume));
        let own = ImageUse { container, volume: None };
        std::iter::once(own).chain(volumes.map(move |(volume, _)| ImageUse { container, volume: Some(volume) }))
    }

    /// The image behind a use.
    pub fn image(&self, of: ImageUse) -> NamedImage<'_> {
        let own = &self.containers[of.container];
        let (written, reference, pull_policy) = match of.volume.map(|volume| &self.volumes[volume].source) {
            Some(VolumeSource::Image { image, image_reference, pull_policy }) => (image, image_reference, *pull_policy),
            _ => (&own.image, &own.image_reference, own.pull_policy),
        };
        let reference = reference.as_deref().map_err(String::as_str);
        NamedImage { written, reference, pull_policy }
    }
}
