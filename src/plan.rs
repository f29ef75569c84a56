//! What to do next for one pod: (pod, wanted, observed, memory, healths, now) to steps.
//!
//! Pure and level-triggered: nothing is remembered of earlier plans but what [`memory::PodMemory`] says, and the same
//! inputs give the same plan. The pod's worker carries the steps out:
//!
//! ```text
//!            ┌──────────────────────────── observe (CRI) ◀────────────────────────┐
//!            ▼                                                                    │
//!   memory.observe ─▶ plan ─▶ steps ─▶ memory.begin(step) ─▶ execute ─▶ memory.end(step, outcome)
//!             ▲        └─▶ wake_at, waiting reasons ─▶ status
//!          healths (probes)
//! ```
//!
//! - The steps of one plan do not depend on each other: they may be carried out at once or one by one, in their order. A
//!   step that is under way is not planned again, so a plan may be asked for while others still run.
//! - After a step has ended, the pod is observed anew before the next plan; an older observation would not show what the
//!   step did.
//! - A failed step is no error of the plan: `memory` keeps the failure, the plan says when to try again.
//!
//! A pod that runs goes this way, from the left to the right; what has ended goes back as its restart policy says:
//!
//! ```text
//! volumes, sandbox ─▶ init containers, one after the other ─▶ regular containers, each after the one before has started
//!                     sidecars stay, once started                └─▶ all final: sidecars, sandbox and volumes go
//! ```
//!
//! - `run` has the whole way, `init` its middle, `container` one container; `policy` says what follows an end, `restart`
//!   when the next start may be, `reset` begins everything again; `stop` ends containers, and pods.
//! - `memory` is what is remembered, `status` what users see, `events` what they are told.
//!
//! It must not name CRI's or Kubernetes' types (but for `status`, `availability` and `finish`, which speak of the API's
//! `PodStatus`), and must not read a clock.
//!
//! Source: kubernetes v1.36 `pkg/kubelet/kuberuntime/kuberuntime_manager.go` (`computePodActions`, `SyncPod`, `doBackOff`),
//! `pkg/kubelet/images/image_manager.go` and `pkg/kubelet/kuberuntime/kuberuntime_gc.go`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::{ContainerId, ContainerPhase, Moment, ObservedContainer, ObservedPod, ObservedSandbox, SandboxId};
use crate::plan::memory::PodMemory;
use crate::plan::probe::Healths;
use crate::podspec::{Container, ImageUse, Pod, RestartPolicy, Role};

pub mod availability;
mod container;
pub mod events;
pub mod finish;
pub mod images;
mod init;
pub mod last_words;
pub mod load;
pub mod memory;
mod policy;
pub mod pressure;
pub mod probe;
mod reset;
mod restart;
mod run;
pub mod status;
mod stop;
pub mod storage;

/// What is to become of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// It lives as its containers' restart policies say.
    Run,
    /// Its containers end; what they leave behind stays, to be looked at. It never goes back to `Run`.
    Finish {
        /// When the last container is killed at the latest.
        deadline: Moment,
    },
    /// Nothing is left of it. It never goes back to one of the others.
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
    /// `Wanted::Stop` has come to its end: nothing is left in the runtime or on disk.
    pub gone: bool,
}

/// One thing to do for a pod. `container` is a position in `Pod::containers`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make the pod's directories, check and make its volumes, and bring their files up to date. Repeatable.
    PrepareVolumes,
    /// Make the pod's cgroup and directories, then CRI `RunPodSandbox`.
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
        /// Which image.
        image: ImageUse,
    },
    /// CRI `PullImage`.
    PullImage {
        /// Which image.
        image: ImageUse,
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
        /// The same of the images it mounts, by the volumes' names.
        volume_images: BTreeMap<String, String>,
    },
    /// CRI `StartContainer`.
    StartContainer {
        /// Which one.
        container: usize,
        /// The instance made before.
        id: ContainerId,
    },
    /// Carry out the `postStart` hook.
    PostStart {
        /// Whose hook.
        container: usize,
        /// The instance that was just started.
        id: ContainerId,
    },
    /// Carry out the `preStop` hook. It is given up at the deadline.
    PreStop {
        /// Whose hook.
        container: usize,
        /// The instance.
        id: ContainerId,
        /// When it is killed, hook or not.
        deadline: Moment,
        /// For the event.
        why: StopReason,
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
        /// An earlier step has told of its end.
        announced: bool,
    },
    /// CRI `RemoveContainer`; with it goes its log, but for the newest, by which restarts are counted over a reboot.
    RemoveContainer {
        /// The instance.
        id: ContainerId,
    },
    /// Give back what a pod that has come to its end holds: its cgroup and its volumes. Logs and last words stay. Repeatable.
    Release,
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
    /// Its `livenessProbe` failed.
    Liveness,
    /// Its `startupProbe` failed.
    Startup,
    /// Its `postStart` hook failed.
    PostStartHook,
    /// All containers begin again (`restartPolicyRules`).
    RestartAllContainers,
    /// The runtime lost track of it.
    Unknown,
}

impl StopReason {
    /// The message of the `Killing` event about this container.
    ///
    /// Source: kubernetes v1.36 `kuberuntime_manager.go` (`computePodActions`), `kuberuntime_container.go`
    /// (`computeInitContainerActions`, `killContainer`).
    pub fn message(self, container: &Container) -> String {
        let name = &container.name;
        let kind = if matches!(container.role, Role::Init | Role::Sidecar) { "Init container" } else { "Container" };
        let restarts = container.role == Role::Regular && container.restart_policy != RestartPolicy::Never;
        let intent = if restarts { ", will be restarted" } else { "" };
        match self {
            Self::Ending | Self::RestartAllContainers => format!("Stopping container {name}"),
            // It runs again whatever its policy.
            Self::DefinitionChanged if container.role == Role::Regular => {
                format!("{kind} {name} definition changed, will be restarted")
            }
            Self::DefinitionChanged => format!("{kind} {name} definition changed"),
            Self::Liveness => format!("{kind} {name} failed liveness probe{intent}"),
            Self::Startup => format!("{kind} {name} failed startup probe{intent}"),
            Self::PostStartHook => "FailedPostStartHook".to_owned(),
            Self::Unknown => format!("{kind} is in \"unknown\" state, try killing it before restart"),
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
/// `observed` is read after the last step that ended, and `memory` has taken it in ([`PodMemory::observe`]); `healths` may
/// lack instances, or have some that are gone. The answer is empty when all is as wanted; once [`Plan::gone`] is set it
/// stays so.
pub fn plan(
    pod: &Pod,
    wanted: Wanted,
    observed: &ObservedPod,
    memory: &PodMemory,
    healths: &Healths,
    now: Moment,
) -> Plan {
    let plan = Plan { waiting: vec![None; memory.containers.len()], ..Plan::default() };
    let mut draft = Draft { pod, observed, memory, healths, now, plan };
    match wanted {
        Wanted::Run => run::plan(&mut draft),
        Wanted::Finish { deadline } => stop::finish(&mut draft, deadline),
        Wanted::Stop { deadline } => stop::remove(&mut draft, deadline),
    }
    draft.plan
}

/// A plan being made, and what it is made from.
struct Draft<'a> {
    pod: &'a Pod,
    observed: &'a ObservedPod,
    memory: &'a PodMemory,
    healths: &'a Healths,
    now: Moment,
    plan: Plan,
}

/// What became of a step that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Offer {
    /// It is planned, or under way.
    Taken,
    /// Its last attempt is too recent.
    Later,
}

impl<'a> Draft<'a> {
    /// Plans a step, unless it is under way or its last attempt is too recent.
    fn offer(&mut self, step: Step) -> Offer {
        if self.memory.is_under_way(&step) {
            return Offer::Taken;
        }
        match self.memory.due(&step) {
            Some(due) if due > self.now => {
                self.wake(due);
                Offer::Later
            }
            _ => {
                self.plan.steps.push(step);
                Offer::Taken
            }
        }
    }

    /// Asks for another plan at `moment`.
    fn wake(&mut self, moment: Moment) {
        self.plan.wake_at = Some(self.plan.wake_at.map_or(moment, |other| other.min(moment)));
    }

    /// The instances of a container, newest first.
    fn instances(&self, index: usize) -> impl Iterator<Item = &'a ObservedContainer> + use<'a> {
        instances(self.observed, &self.pod.containers[index])
    }

    /// The newest instance of a container, if it is in this sandbox.
    fn current(&self, index: usize, sandbox: Option<&ObservedSandbox>) -> Option<&'a ObservedContainer> {
        self.instances(index).next().filter(|newest| sandbox.is_some_and(|sandbox| newest.sandbox == sandbox.id))
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

/// The instances of a container, newest first.
fn instances<'a>(
    observed: &'a ObservedPod,
    container: &'a Container,
) -> impl Iterator<Item = &'a ObservedContainer> + use<'a> {
    observed.containers.iter().filter(|instance| instance.name == container.name)
}

/// Whether the instance has processes, or may have.
fn is_live(instance: &ObservedContainer) -> bool {
    matches!(instance.phase, ContainerPhase::Running { .. } | ContainerPhase::Unknown)
}

/// Whether the instance was made of what the pod defines now.
fn is_as_defined(instance: &ObservedContainer, container: &Container) -> bool {
    instance.spec_hash == container.spec_hash
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
