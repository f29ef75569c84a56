//! One container: image, process, mounts, and what it may do.

use std::path::{Path, PathBuf};

use super::pod::{LinuxResources, PortMapping};
use super::text::Text;

/// One container of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// `containers[].name`.
    pub name: String,
    /// The image as written, for status and events.
    pub image: String,
    /// The image as the runtime is asked for it: `image` with `:latest` where it has neither tag nor digest. `Err` holds
    /// why `image` is no reference at all.
    pub image_reference: Result<String, String>,
    /// When to pull.
    pub pull_policy: PullPolicy,
    /// Empty: the image's entrypoint.
    pub command: Vec<Text>,
    /// Empty: the image's command.
    pub args: Vec<Text>,
    /// Empty: the image's.
    pub working_dir: String,
    /// In the order of the template; each name once.
    pub env: Vec<EnvVar>,
    /// In the order they are made, `/etc/hosts` last. The termination log is not among them: its file is a new one for
    /// each instance ([`super::Pod::termination_log`]).
    pub mounts: Vec<Mount>,
    /// `ports[]`, for the annotation that keeps them.
    pub ports: Vec<ContainerPort>,
    /// Limits and weights.
    pub resources: LinuxResources,
    /// User, capabilities and what else it may do.
    pub security: Security,
    /// Where it leaves its last words, inside the container.
    pub termination_message_path: String,
    /// What stands in for missing last words.
    pub termination_message_policy: TerminationMessagePolicy,
    /// `tty`.
    pub tty: bool,
    /// What a change of makes a new instance ([`super::hash::spec_hash`]).
    pub spec_hash: String,
}

/// `imagePullPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// Before each start.
    Always,
    /// When the image is not on the host.
    IfNotPresent,
    /// Not at all.
    Never,
}

/// `terminationMessagePolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TerminationMessagePolicy {
    /// The file's content and nothing else.
    File,
    /// The end of the log, if the container failed and left no file.
    FallbackToLogsOnError,
}

/// One environment variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvVar {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Text,
}

/// One mount of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// On the host.
    pub host_path: PathBuf,
    /// In the container; absolute.
    pub container_path: String,
    /// No writes through this mount.
    pub read_only: bool,
    /// Whether later mounts below are seen on the other side.
    pub propagation: Propagation,
    /// Ask the runtime to label the content for the container; only the first mount of a volume of our own asks.
    pub selinux_relabel: bool,
    /// The volume it comes from; none for `/etc/hosts`.
    pub volume: Option<String>,
}

/// `mountPropagation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// `None`.
    Private,
    /// `HostToContainer`.
    HostToContainer,
    /// `Bidirectional`.
    Bidirectional,
}

/// `ports[]` of one container as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerPort {
    /// May be empty.
    pub name: String,
    /// Where it leads.
    pub mapping: PortMapping,
}

/// What a container's processes may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Security {
    /// `privileged`.
    pub privileged: bool,
    /// `capabilities.add`, as written.
    pub add_capabilities: Vec<String>,
    /// `capabilities.drop`, as written.
    pub drop_capabilities: Vec<String>,
    /// None: the image's user.
    pub run_as_user: Option<i64>,
    /// None: the group of the image's user.
    pub run_as_group: Option<i64>,
    /// `supplementalGroups` of the pod.
    pub supplemental_groups: Vec<i64>,
    /// `readOnlyRootFilesystem`.
    pub read_only_root_filesystem: bool,
    /// `allowPrivilegeEscalation: false`.
    pub no_new_privs: bool,
    /// System calls it may make.
    pub seccomp: Seccomp,
}

/// `seccompProfile.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seccomp {
    /// The runtime's default profile.
    RuntimeDefault,
    /// No filter.
    Unconfined,
}

impl Container {
    /// The log of one instance, relative to [`super::Pod::log_dir`].
    pub fn log_path(&self, attempt: u32) -> PathBuf {
        Path::new(&self.name).join(format!("{attempt}.log"))
    }
}
