//! One container: image, process, mounts, and what it may do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::downward::Field;
use super::objects::Reference;
use super::pod::{LinuxResources, PortMapping};

/// One container of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// `containers[].name`.
    pub name: String,
    /// Its part in the pod's life.
    pub role: Role,
    /// `targetContainerName` of an ephemeral container: the one whose processes it sees; none for its pod's rule.
    pub target: Option<String>,
    /// Whether it runs again after an end that no rule speaks of: its own policy, or the pod's.
    pub restart_policy: RestartPolicy,
    /// `restartPolicyRules`: the first that matches the exit code decides.
    pub restart_rules: Vec<RestartRule>,
    /// The image as written, for status and events.
    pub image: String,
    /// The image as the runtime is asked for it: `image` with `:latest` where it has neither tag nor digest. `Err` holds
    /// why `image` is no reference at all.
    pub image_reference: Result<String, String>,
    /// When to pull.
    pub pull_policy: PullPolicy,
    /// As written, `$(NAME)` included. Empty: the image's entrypoint.
    pub command: Vec<String>,
    /// As written, `$(NAME)` included. Empty: the image's command.
    pub args: Vec<String>,
    /// Empty: the image's.
    pub working_dir: String,
    /// `envFrom`, in the order of the template.
    pub env_from: Vec<EnvFrom>,
    /// `env`, in the order of the template; a later variable of the same name replaces an earlier one.
    pub env: Vec<EnvVar>,
    /// In the order they are made, `/etc/hosts` last. The termination log is not among them: its file is a new one for
    /// each instance ([`super::Pod::termination_log`]).
    pub mounts: Vec<Mount>,
    /// `ports[]`, for the annotation that keeps them.
    pub ports: Vec<ContainerPort>,
    /// Limits and weights.
    pub resources: LinuxResources,
    /// How many devices it gets of resources that plugins have, more than none of each.
    pub devices: BTreeMap<String, u64>,
    /// User, capabilities and what else it may do.
    pub security: Security,
    /// Where it leaves its last words, inside the container.
    pub termination_message_path: String,
    /// What stands in for missing last words.
    pub termination_message_policy: TerminationMessagePolicy,
    /// What is asked of it from outside while it runs.
    pub probes: Probes,
    /// What is done right after its start and before its stop.
    pub hooks: Hooks,
    /// `stdin`.
    pub stdin: bool,
    /// `stdinOnce`.
    pub stdin_once: bool,
    /// `tty`.
    pub tty: bool,
    /// What a change of makes a new instance ([`super::hash::spec_hash`]).
    pub spec_hash: String,
}

/// A container's part in its pod's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs to its end before what follows it.
    Init,
    /// An init container with `restartPolicy: Always`: started before what follows it, stopped after it.
    Sidecar,
    /// What the pod is for.
    Regular,
    /// Added to a pod that runs (`kubectl debug`); started once, never again.
    Ephemeral,
}

/// `restartPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Whatever the exit code.
    Always,
    /// Unless the exit code is 0.
    OnFailure,
    /// Not at all.
    Never,
}

/// One of `restartPolicyRules`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestartRule {
    /// What to do when the exit code matches.
    pub action: RestartAction,
    /// The exit codes it is about.
    pub exit_codes: ExitCodes,
}

/// `restartPolicyRules[].action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartAction {
    /// Run this container again.
    Restart,
    /// Begin the whole pod again, from its first init container, in the same sandbox.
    RestartAllContainers,
}

/// `restartPolicyRules[].exitCodes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitCodes {
    /// One of these.
    In(Vec<i32>),
    /// None of these.
    NotIn(Vec<i32>),
}

/// The probes of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Probes {
    /// Until it succeeds the others wait; a failure restarts the container.
    pub startup: Option<Probe>,
    /// A failure restarts the container.
    pub liveness: Option<Probe>,
    /// Decides whether the container is ready.
    pub readiness: Option<Probe>,
}

/// One probe, defaulted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What is asked.
    pub handler: Handler,
    /// From the container's start to the first attempt.
    pub initial_delay: Duration,
    /// From one attempt to the next.
    pub period: Duration,
    /// How long an attempt may take.
    pub timeout: Duration,
    /// So many successes in a row make a success.
    pub success_threshold: u32,
    /// So many failures in a row make a failure.
    pub failure_threshold: u32,
    /// The grace period of a restart it causes; none for the pod's.
    pub grace_period: Option<Duration>,
}

/// `lifecycle`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hooks {
    /// Done right after the start; a failure ends the container.
    pub post_start: Option<Handler>,
    /// Done before the stop signal, within the grace period.
    pub pre_stop: Option<Handler>,
    /// `stopSignal`, such as `SIGUSR1`; none for the image's.
    pub stop_signal: Option<String>,
}

/// What a probe or a hook does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Handler {
    /// Runs a command in the container.
    Exec(Vec<String>),
    /// Sends a GET request.
    Http(HttpGet),
    /// Opens a connection and closes it.
    Tcp {
        /// None for the pod's address.
        host: Option<String>,
        /// `Err` says which named port there is not.
        port: Result<u16, String>,
    },
    /// Calls `grpc.health.v1.Health/Check` at the pod's address.
    Grpc {
        /// The port.
        port: u16,
        /// The service asked for; may be empty.
        service: String,
    },
    /// Waits.
    Sleep(Duration),
}

/// An HTTP request of a probe or a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpGet {
    /// `scheme: HTTPS`; no certificate is verified.
    pub https: bool,
    /// None for the pod's address.
    pub host: Option<String>,
    /// `Err` says which named port there is not.
    pub port: Result<u16, String>,
    /// With a leading `/`, the query included.
    pub path: String,
    /// As written; a name may be there more than once.
    pub headers: Vec<(String, String)>,
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

/// Variables from all keys of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvFrom {
    /// Comes before each key.
    pub prefix: String,
    /// Whose keys.
    pub object: Reference,
    /// There need be no such object.
    pub optional: bool,
}

/// One environment variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvVar {
    /// Its name.
    pub name: String,
    /// What its value is made of.
    pub source: EnvSource,
}

/// What the value of a variable is made of when its container is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvSource {
    /// `value`, as written, `$(NAME)` included.
    Text(String),
    /// `fieldRef` or `resourceFieldRef`.
    Field(Field),
    /// `configMapKeyRef` or `secretKeyRef`.
    Key {
        /// The object.
        object: Reference,
        /// One of its keys.
        key: String,
        /// Without the object or the key there is no such variable.
        optional: bool,
    },
    /// `fileKeyRef`.
    FileKey {
        /// The file.
        file: EnvFile,
        /// One of its keys.
        key: String,
        /// Without the file or the key there is no such variable.
        optional: bool,
    },
}

/// A file of variables in a volume of the pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct EnvFile {
    /// `volumes[].name`.
    pub volume: String,
    /// Below the volume.
    pub path: String,
}

/// One mount of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The whole volume on the host, or a file of the agent; none for an image, which the runtime mounts by itself.
    pub host_path: Option<PathBuf>,
    /// The part of the volume that is mounted; none for the whole.
    pub sub_path: Option<SubPath>,
    /// In the container; absolute.
    pub container_path: String,
    /// No writes through this mount.
    pub read_only: bool,
    /// Nor through anything mounted below.
    pub recursive_read_only: RecursiveReadOnly,
    /// Whether later mounts below are seen on the other side.
    pub propagation: Propagation,
    /// Ask the runtime to label the content for the container; only the first mount of a volume of our own asks.
    pub selinux_relabel: bool,
    /// The volume it comes from; none for `/etc/hosts`.
    pub volume: Option<String>,
}

/// A part of a volume. It is bound to a path of its own before the container is made, so that nobody who can write to
/// the volume can lead the mount astray.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubPath {
    /// `subPath` or `subPathExpr`.
    pub text: SubPathText,
    /// Where it is bound: `<pod>/volume-subpaths/<volume>/<container>/<index of the mount>`.
    pub target: PathBuf,
}

/// Which part of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubPathText {
    /// `subPath`.
    Plain(String),
    /// `subPathExpr`: with variables of the container.
    Expression(String),
}

/// `recursiveReadOnly`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecursiveReadOnly {
    /// What is mounted below has its own say.
    Disabled,
    /// Where the runtime can.
    IfPossible,
    /// Not without it.
    Enabled,
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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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
    /// It must not run as root ([`super::verify_non_root`]).
    pub run_as_non_root: bool,
    /// The pod's: `fsGroup`, then `supplementalGroups`.
    pub supplemental_groups: Vec<i64>,
    /// `readOnlyRootFilesystem`.
    pub read_only_root_filesystem: bool,
    /// `allowPrivilegeEscalation: false`.
    pub no_new_privs: bool,
    /// System calls it may make.
    pub seccomp: Profile,
    /// What AppArmor lets it do; none for the runtime's choice.
    pub apparmor: Option<Profile>,
    /// What SELinux knows it as; none for the runtime's choice.
    pub selinux: Option<SelinuxOptions>,
    /// Hidden from it; empty with `procMount: Unmasked`.
    pub masked_paths: Vec<String>,
    /// Shown to it, but not for writing; empty with `procMount: Unmasked`.
    pub readonly_paths: Vec<String>,
}

/// `seccompProfile` or `appArmorProfile`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Profile {
    /// The runtime's default profile.
    RuntimeDefault,
    /// No confinement.
    #[default]
    Unconfined,
    /// One of the host's: of seccomp the path of its file, of AppArmor the name under which it is loaded.
    Localhost(String),
}

/// `seLinuxOptions`; what is empty is the runtime's choice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SelinuxOptions {
    /// `user`.
    pub user: String,
    /// `role`.
    pub role: String,
    /// `type`.
    pub type_: String,
    /// `level`.
    pub level: String,
}

/// `USER` of an image's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageUser {
    /// A number; 0 also where the image names nobody.
    Uid(i64),
    /// A name, to be looked up in the image's own `/etc/passwd`.
    Name(String),
}

impl Container {
    /// The log of one instance, relative to [`super::Pod::log_dir`].
    pub fn log_path(&self, attempt: u32) -> PathBuf {
        Path::new(&self.name).join(format!("{attempt}.log"))
    }
}
