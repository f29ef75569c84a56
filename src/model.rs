//! The nouns every other module shares: ids, keys and what is seen of the runtime.
//!
//! Plain data. Nothing here decides, speaks or stores; nothing here names Kubernetes' or CRI's own types.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Makes a string newtype that serializes as the bare string.
macro_rules! string_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl $name {
            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text)
            }
        }
    };
}

string_id! {
    /// The name of a Node object: fixed at enrolment, not the hostname.
    NodeName
}
string_id! {
    /// `metadata.uid` of any API object: a lower-case UUID.
    Uid
}
string_id! {
    /// Names one revision of a DaemonSet's template: the value of the label `controller-revision-hash`.
    RevisionHash
}
string_id! {
    /// The identity of a fleet: a UUID made with control's store, or by an agent without control for itself.
    FleetId
}
string_id! {
    /// The runtime's id of a sandbox (CRI `PodSandbox.id`).
    SandboxId
}
string_id! {
    /// The runtime's id of a container (CRI `Container.id`), without the `containerd://` of the API.
    ContainerId
}

string_id! {
    /// Names a blob of the link or the ledger by its content: SHA-256, lower-case hex.
    BlobHash
}

/// One grant of the rollout, unique in its fleet for ever (design.md §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PermitNumber(pub u64);

/// A DaemonSet's pod that would make way for another revision's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Incumbent {
    /// There is none.
    None,
    /// It is not available.
    Unavailable,
    /// It is available.
    Available,
}

/// Namespace and name of an API object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectKey {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl ObjectKey {
    /// A key from its two parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A pod's identity. Records are keyed by `uid`; the names are for people and paths.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PodKey {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`: the DaemonSet's name, `-` and 10 random characters, new for each incarnation.
    pub name: String,
    /// `metadata.uid`, minted by the node.
    pub uid: Uid,
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A place in a fleet's history of user intent (design.md §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Position {
    /// One history of a store; a store that cannot prove continuity begins a new one.
    pub era: u64,
    /// Moves with every user write, never with status.
    pub seq: u64,
}

/// Where a DaemonSet was learnt from; part of its identity on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// A file below `--manifests`.
    Files,
    /// The control endpoint.
    Link,
}

/// A node taint (`spec.taints[]` of a Node).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Taint {
    /// Qualified name.
    pub key: String,
    /// May be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// What the taint does.
    pub effect: TaintEffect,
}

/// `Taint.effect` of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TaintEffect {
    /// New pods that do not tolerate the taint do not start; running ones stay.
    NoSchedule,
    /// A preference; plays no part for DaemonSets.
    PreferNoSchedule,
    /// Running pods that do not tolerate the taint leave.
    NoExecute,
}

impl fmt::Display for Taint {
    /// As `kubectl` writes it: `key=value:Effect`, or `key:Effect` without a value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if !self.value.is_empty() {
            write!(f, "={}", self.value)?;
        }
        write!(f, ":{:?}", self.effect)
    }
}

/// The text is not `key=value:Effect` or `key:Effect`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a taint; write key=value:Effect or key:Effect with Effect one of NoSchedule, PreferNoSchedule, NoExecute"
)]
pub struct BadTaint(pub String);

impl FromStr for Taint {
    type Err = BadTaint;

    /// Parses what `--register-with-taints` and `kubectl taint` take.
    fn from_str(text: &str) -> Result<Self, BadTaint> {
        let bad = || BadTaint(text.to_owned());
        let (pair, effect) = text.rsplit_once(':').ok_or_else(bad)?;
        let effect = match effect {
            "NoSchedule" => TaintEffect::NoSchedule,
            "PreferNoSchedule" => TaintEffect::PreferNoSchedule,
            "NoExecute" => TaintEffect::NoExecute,
            _ => return Err(bad()),
        };
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if key.is_empty() {
            return Err(bad());
        }
        Ok(Self { key: key.to_owned(), value: value.to_owned(), effect })
    }
}

// === processes in containers ===

/// What a user holds of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stdio {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error. A terminal has none.
    pub stderr: bool,
    /// All of them are a terminal.
    pub tty: bool,
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

// === time ===

/// A point on a clock that only moves forward: the time since the agent started.
///
/// All delays are reckoned on it, so that setting the host's clock neither hurries nor holds back anything. It means
/// nothing to another process; what is shown or stored is a [`Timestamp`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub Duration);

impl Moment {
    /// The time from `earlier` until this moment; zero if `earlier` is in truth later.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl std::ops::Add<Duration> for Moment {
    type Output = Self;

    fn add(self, delay: Duration) -> Self {
        Self(self.0.saturating_add(delay))
    }
}

/// How a pod came to its end by itself: its final `status.phase`, which it never leaves again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finished {
    /// `Succeeded`, otherwise `Failed`.
    pub succeeded: bool,
    /// `status.reason`: one word in CamelCase, where it was more than its containers' ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `status.message`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// It was ended for its node's sake (condition `DisruptionTarget`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disrupted: bool,
}

impl Finished {
    /// `status.phase`.
    pub fn phase(&self) -> &'static str {
        if self.succeeded { "Succeeded" } else { "Failed" }
    }
}

// === what is seen of the runtime ===

/// Everything the runtime has for one pod uid, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedPod {
    /// Sandboxes by descending attempt.
    pub sandboxes: Vec<ObservedSandbox>,
    /// Containers of all those sandboxes, by name, then descending attempt.
    pub containers: Vec<ObservedContainer>,
}

/// One sandbox as CRI's `PodSandboxStatus` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedSandbox {
    /// The runtime's id.
    pub id: SandboxId,
    /// 0 for the first sandbox of a pod.
    pub attempt: u32,
    /// `SANDBOX_READY`.
    pub ready: bool,
    /// Addresses inside the pod's network namespace; empty with host network.
    pub ips: Vec<IpAddr>,
    /// When the runtime made it.
    pub created_at: Timestamp,
}

/// One container as CRI's `ContainerStatus` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedContainer {
    /// The runtime's id.
    pub id: ContainerId,
    /// The sandbox it belongs to.
    pub sandbox: SandboxId,
    /// `spec.containers[].name`.
    pub name: String,
    /// Restart count of the container when this instance was made.
    pub attempt: u32,
    /// Where it is in its life.
    pub phase: ContainerPhase,
    /// The reference in the spec, as the runtime gives it back.
    pub image: String,
    /// What the runtime resolved it to: the API's `imageID`.
    pub image_ref: String,
    /// Hash of what the container was made from (label or annotation `io.kubernetes.container.hash`).
    pub spec_hash: String,
    /// Who its first process runs as; none where the runtime does not tell.
    pub user: Option<ObservedUser>,
}

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedUser {
    /// User id.
    pub uid: i64,
    /// Group id.
    pub gid: i64,
    /// Further groups.
    pub supplemental_groups: Vec<i64>,
}

/// A container's life as the runtime sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerPhase {
    /// Made, not started.
    Created,
    /// Started and not ended.
    Running {
        /// When it was started.
        started_at: Timestamp,
    },
    /// Ended.
    Exited {
        /// When it was started; the epoch if it never was.
        started_at: Timestamp,
        /// When it ended.
        finished_at: Timestamp,
        /// As from `wait(2)`: 128 + signal for a killed process.
        exit_code: i32,
        /// `Completed`, `Error`, `OOMKilled`, `StartError` …; empty as long as only the runtime's events tell of the end.
        reason: String,
        /// The runtime's own words and the container's termination message, joined with `: `; often empty.
        message: String,
    },
    /// The runtime lost track of it.
    Unknown,
}

/// How much something takes of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Thousand millionths of a processor.
    pub cpu_nano_cores: u64,
    /// The working set: what cannot be taken back without writing it elsewhere first.
    pub memory_bytes: u64,
}

/// What is to be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Measure {
    /// The node as a whole.
    Node,
    /// Each container of its pods.
    Containers,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// When it ended.
    pub at: Timestamp,
    /// How long before that it began: what processors did is of that time, memory as of its end.
    pub window: Duration,
    /// Who took how much.
    pub loads: Loads,
}

/// Who took how much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loads {
    /// The node as a whole.
    Node(Load),
    /// The containers that ran all the time, in no order.
    Containers(Vec<ContainerLoad>),
}

/// How much a container takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerLoad {
    /// Its pod.
    pub pod: Uid,
    /// Its name.
    pub name: String,
    /// How much.
    pub load: Load,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taint_reads_back_as_it_was_written() {
        for text in ["a:NoSchedule", "example.com/b=c:NoExecute", "k=v:PreferNoSchedule"] {
            assert_eq!(text.parse::<Taint>().map(|taint| taint.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "a", "a:Never", ":NoSchedule", "=v:NoSchedule"] {
            assert_eq!(text.parse::<Taint>(), Err(BadTaint(text.to_owned())));
        }
    }
}
