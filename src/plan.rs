//! What to do next for one pod: (pod, wanted, observed, memory, now) to steps.
//!
//! Pure and level-triggered: nothing is remembered of earlier plans but what [`memory::PodMemory`] says, and the same
//! inputs give the same plan. The pod's worker carries the steps out:
//!
//! ```text
//!            ┌──────────────────────────── observe (CRI) ◀────────────────────────┐
//!            ▼                                                                    │
//!   memory.observe ─▶ plan ─▶ steps ─▶ memory.begin(step) ─▶ execute ─▶ memory.end(step, outcome)
//!                      └─▶ wake_at, waiting reasons ─▶ status
//! ```
//!
//! - The steps of one plan do not depend on each other: they may be carried out at once or one by one, in their order. A
//!   step that is under way is not planned again, so a plan may be asked for while others still run.
//! - After a step has ended, the pod is observed anew before the next plan; an older observation would not show what the
//!   step did.
//! - A failed step is no error of the plan: `memory` keeps the failure, the plan says when to try again.
//!
//! It must not name CRI's or Kubernetes' types (but for `status` and `availability`, which speak of the API's `PodStatus`),
//! and must not read a clock.
//!
//! Source: kubernetes v1.36 `pkg/kubelet/kuberuntime/kuberuntime_manager.go` (`computePodActions`, `SyncPod`, `doBackOff`),
//! `pkg/kubelet/images/image_manager.go` and `pkg/kubelet/kuberuntime/kuberuntime_gc.go`.

use std::time::Duration;

use crate::model::{ContainerId, ContainerPhase, Moment, ObservedContainer, ObservedPod, SandboxId};
use crate::plan::memory::PodMemory;
use crate::podspec::Pod;

pub mod availability;
pub mod events;
pub mod last_words;
pub mod memory;
pub mod probe;
mod restart;
mod run;
pub mod status;
mod stop;

/// What is to become of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// All its containers run.
    Run,
    /// Nothing is left of it. It never goes back to `Run`.
    Stop {
        /// When the last container is killed at the latest; may be moved to an earlier moment.
        deadline: Moment,
    },
}

/// What to do for one pod, and when to ask again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be carried out now; independent of each other.
    pub steps: Vec<Step>,
    /// Plan again at this moment even if nothing has happened until then; none: nothing is due.
    pub wake_at: Option<Moment>,
    /// By position in `Pod::containers`: why a container that should run is not being started, or was not.
    pub waiting: Vec<Option<Waiting>>,
    /// Stopping has come to its end: nothing is left in the runtime or on disk.
    pub gone: bool,
}

/// One thing to do for a pod. `container` is a position in `Pod::containers`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make the pod's directories, check and make its volumes. Repeatable.
    PrepareVolumes,
    /// CRI `RunPodSandbox`.
    CreateSandbox {
        /// 0 for the first sandbox of the pod.
        attempt: u32,
    },
    /// CRI `StopPodSandbox`.
    StopSandbox {
        /// Which one.
        id: SandboxId,
    },
    /// CRI `RemovePodSandbox`, with the containers in it.
    RemoveSandbox {
        /// Which one.
        id: SandboxId,
    },
    /// CRI `ImageStatus`: is the image on the host, and under which id?
    InspectImage {
        /// Whose image.
        container: usize,
    },
    /// CRI `PullImage`.
    PullImage {
        /// Whose image.
        container: usize,
    },
    /// Write `/etc/hosts`, make an empty termination log, then CRI `CreateContainer`.
    CreateContainer {
        /// Which one.
        container: usize,
        /// Its restart count.
        attempt: u32,
        /// The sandbox it goes into.
        sandbox: SandboxId,
        /// The image's id, from inspecting or pulling it.
        image_ref: String,
    },
    /// CRI `StartContainer`.
    StartContainer {
        /// Which one.
        container: usize,
        /// The instance made before.
        id: ContainerId,
    },
    /// CRI `StopContainer`, with what is left of the grace period ([`grace_left`]).
    StopContainer {
        /// Its name.
        name: String,
        /// The instance.
        id: ContainerId,
        /// When it is killed.
        deadline: Moment,
        /// For the event.
        why: StopReason,
    },
    /// CRI `RemoveContainer`; its log file stays.
    RemoveContainer {
        /// The instance.
        id: ContainerId,
    },
    /// Unmount and remove what the pod has on disk: its directory and its logs.
    CleanUp,
}

/// Why a container is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// The pod ends, or its sandbox has to be made anew.
    Ending,
    /// It was made from another definition than the pod has now.
    DefinitionChanged,
    /// The runtime lost track of it.
    Unknown,
}

impl StopReason {
    /// The message of the `Killing` event about the container of this name.
    ///
    /// Source: kubernetes v1.36 `kuberuntime_manager.go`, `computePodActions`.
    pub fn message(self, name: &str) -> String {
        match self {
            Self::Ending => format!("Stopping container {name}"),
            Self::DefinitionChanged => format!("Container {name} definition changed, will be restarted"),
            Self::Unknown => format!("Container {name} is in unknown state, try killing it before restart"),
        }
    }
}

/// `state.waiting` of a container's status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// `CrashLoopBackOff`, `ErrImagePull`, `CreateContainerError` …
    pub reason: &'static str,
    /// In words; may be empty.
    pub message: String,
}

/// Says what to do next.
///
/// `observed` is read after the last step that ended, and `memory` has taken it in ([`PodMemory::observe`]). The answer is
/// empty when all is as wanted; once [`Plan::gone`] is set it stays so.
pub fn plan(pod: &Pod, wanted: Wanted, observed: &ObservedPod, memory: &PodMemory, now: Moment) -> Plan {
    let mut draft = Draft::new(memory, now);
    match wanted {
        Wanted::Run => run::plan(&mut draft, pod, observed),
        Wanted::Stop { deadline } => stop::plan(&mut draft, observed, deadline),
    }
    draft.plan
}

/// A plan being made.
struct Draft<'a> {
    memory: &'a PodMemory,
    now: Moment,
    plan: Plan,
}

impl<'a> Draft<'a> {
    fn new(memory: &'a PodMemory, now: Moment) -> Self {
        let waiting = vec![None; memory.containers.len()];
        Self { memory, now, plan: Plan { waiting, ..Plan::default() } }
    }

    /// Plans a step, unless it is under way or its last attempt is too recent.
    fn offer(&mut self, step: Step) {
        if self.memory.is_under_way(&step) {
            return;
        }
        match self.memory.due(&step) {
            Some(due) if due > self.now => self.wake(due),
            _ => self.plan.steps.push(step),
        }
    }

    /// Asks for another plan at `moment`.
    fn wake(&mut self, moment: Moment) {
        self.plan.wake_at = Some(self.plan.wake_at.map_or(moment, |other| other.min(moment)));
    }

    /// Plans to stop a container.
    fn stop(&mut self, instance: &ObservedContainer, deadline: Moment, why: StopReason) {
        let (name, id) = (instance.name.clone(), instance.id.clone());
        self.offer(Step::StopContainer { name, id, deadline, why });
    }

    /// Plans to stop those of the pod's sandboxes that were not stopped yet; true if there are none.
    fn stop_sandboxes<'b>(&mut self, ids: impl Iterator<Item = &'b SandboxId>) -> bool {
        let mut all_stopped = true;
        for id in ids.filter(|id| !self.memory.stopped.contains(id)) {
            all_stopped = false;
            self.offer(Step::StopSandbox { id: id.clone() });
        }
        all_stopped
    }
}

/// Whether the instance has processes, or may have.
fn is_live(instance: &ObservedContainer) -> bool {
    matches!(instance.phase, ContainerPhase::Running { .. } | ContainerPhase::Unknown)
}

/// No container gets less time than this between the stop signal and the kill signal.
pub const GRACE_MIN: Duration = Duration::from_secs(2);

/// What a container still gets between the stop signal and the kill signal.
///
/// Source: kubernetes v1.36 `kuberuntime_container.go`, `killContainer`.
pub fn grace_left(deadline: Moment, now: Moment) -> Duration {
    deadline.since(now).max(GRACE_MIN)
}

/// A duration as Go prints it, cut to milliseconds: `200ms`, `1.5s`, `1m20s`, `1h0m2.25s`.
fn go_duration(duration: Duration) -> String {
    let (secs, millis) = (duration.as_secs(), duration.subsec_millis());
    if secs == 0 {
        return if millis == 0 { "0s".to_owned() } else { format!("{millis}ms") };
    }
    let fraction = format!("{millis:03}");
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    let rest = format!("{}{point}{fraction}s", secs % 60);
    match (secs / 3600, secs / 60 % 60) {
        (0, 0) => rest,
        (0, minutes) => format!("{minutes}m{rest}"),
        (hours, minutes) => format!("{hours}h{minutes}m{rest}"),
    }
}

#[cfg(test)]
mod tests;
