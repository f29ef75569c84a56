//! What a pod's worker remembers between plans: how its steps went.
//!
//! The worker tells it what it saw ([`PodMemory::observe`]) and how each step ended ([`PodMemory::end`]); `plan` reads it.
//! In memory only. A restarted agent begins with an empty one: it prepares the volumes again (that is repeatable), tries at
//! once what was backing off, and leaves alone what runs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::backoff::{Backoff, Limits};
use crate::model::{ContainerId, ContainerPhase, Moment, ObservedPod, SandboxId};
use crate::plan::{Step, Waiting};
use crate::podspec::Pod;

/// Delays of the crash back-off.
///
/// Source: kubernetes v1.36 `pkg/kubelet/kubelet.go`, `backOffPeriod` and `MaxCrashLoopBackOff`.
pub(super) const CRASH: Limits = Limits { first: Duration::from_secs(10), max: Duration::from_secs(300) };

/// Delays after a pull that failed.
///
/// Source: kubernetes v1.36 `pkg/kubelet/kubelet.go`, `imageBackOffPeriod` and `MaxImageBackOff`.
const PULL: Limits = Limits { first: Duration::from_secs(10), max: Duration::from_secs(300) };

/// Delays after any other step that failed.
///
/// Source: kubernetes v1.36 `pkg/util/goroutinemap/exponentialbackoff`, as volumes are retried there. Upstream tries a
/// failed sandbox or container again with the pod's next sync, after 10 to 15 s; we start sooner and end later.
const RETRY: Limits = Limits { first: Duration::from_millis(500), max: Duration::from_secs(122) };

/// What is remembered of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodMemory {
    /// Volumes are in place.
    pub(super) prepared: bool,
    /// Everything on disk is removed.
    pub(super) cleaned: bool,
    /// Sandboxes that were stopped: their network is gone.
    pub(super) stopped: BTreeSet<SandboxId>,
    /// By position in `Pod::containers`.
    pub(super) containers: Vec<ContainerMemory>,
    attempts: BTreeMap<Subject, Attempts>,
    under_way: Vec<Step>,
}

/// What is remembered of one container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ContainerMemory {
    /// What is known of its image; forgotten when an instance has been made of it.
    pub(super) image: Image,
    /// Restarts after an end.
    pub(super) crash: Option<Backoff>,
    /// The newest instance if it has ended, and when that was first seen.
    pub(super) ended: Option<(ContainerId, Moment)>,
    /// The number of the next instance: one more than any before it had.
    pub(super) next_attempt: u32,
}

/// What is known of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Image {
    /// Nothing.
    #[default]
    Unknown,
    /// It is not on the host.
    Absent,
    /// It is on the host under this id.
    Present(String),
}

/// What attempts are counted by: steps about the same thing wait for each other's delay.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    Volumes,
    NewSandbox,
    StopSandbox(SandboxId),
    RemoveSandbox(SandboxId),
    InspectImage(usize),
    PullImage(usize),
    /// To have a new instance of a container running.
    Start(usize),
    StopContainer(ContainerId),
    RemoveContainer(ContainerId),
    CleanUp,
}

/// Attempts at one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Attempts {
    backoff: Backoff,
    /// How the last one failed, if it did.
    failure: Option<Waiting>,
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Done,
    /// `InspectImage`: the image is on the host under this id.
    Image(String),
    /// `PullImage`: the image is on the host now.
    Pulled {
        /// Under this id.
        id: String,
        /// Compressed, in bytes.
        size_bytes: u64,
        /// How long the pull itself took, without waiting for its turn.
        took: Duration,
    },
    /// `InspectImage`: the image is not on the host.
    NoImage,
    /// It failed, in the words of the runtime or the system.
    Failed(String),
    /// `CreateContainer`: what the container asks for cannot be had here as things are, in upstream's words.
    Misconfigured(String),
}

impl PodMemory {
    /// The memory of a worker that has done nothing yet.
    ///
    /// `next_attempts` has one number per container of the pod, in its order: one more than the highest instance that left
    /// a log file, or 0. It lets the restart count go on after the runtime lost its containers in a reboot.
    pub fn new(next_attempts: &[u32]) -> Self {
        let container = |next_attempt: &u32| ContainerMemory { next_attempt: *next_attempt, ..Default::default() };
        Self {
            prepared: false,
            cleaned: false,
            stopped: BTreeSet::new(),
            containers: next_attempts.iter().map(container).collect(),
            attempts: BTreeMap::new(),
            under_way: Vec::new(),
        }
    }

    /// Takes in what the runtime has now. To be called with each observation, before it is planned on.
    pub fn observe(&mut self, pod: &Pod, observed: &ObservedPod, now: Moment) {
        for (container, memory) in pod.containers.iter().zip(&mut self.containers) {
            let newest = observed.containers.iter().find(|instance| instance.name == container.name);
            let used = newest.map_or(0, |newest| newest.attempt + 1);
            memory.next_attempt = memory.next_attempt.max(used);
            let ended = newest.filter(|instance| matches!(instance.phase, ContainerPhase::Exited { .. }));
            memory.ended = match (ended, memory.ended.take()) {
                (Some(instance), Some((id, at))) if id == instance.id => Some((id, at)),
                (Some(instance), _) => Some((instance.id.clone(), now)),
                (None, _) => None,
            };
        }
        let has_sandbox = |id: &SandboxId| observed.sandboxes.iter().any(|sandbox| sandbox.id == *id);
        let has_container = |id: &ContainerId| observed.containers.iter().any(|instance| instance.id == *id);
        self.stopped.retain(|id| has_sandbox(id));
        self.attempts.retain(|subject, _| match subject {
            Subject::StopSandbox(id) | Subject::RemoveSandbox(id) => has_sandbox(id),
            Subject::StopContainer(id) | Subject::RemoveContainer(id) => has_container(id),
            _ => true,
        });
    }

    /// Notes that a step is being carried out.
    pub fn begin(&mut self, step: &Step) {
        self.under_way.push(step.clone());
    }

    /// Notes how a step ended that was begun.
    pub fn end(&mut self, step: &Step, outcome: &Outcome, now: Moment) {
        if let Some(index) = self.under_way.iter().position(|begun| begun == step) {
            self.under_way.swap_remove(index);
        }
        match (step, outcome) {
            (Step::PrepareVolumes, Outcome::Done) => self.prepared = true,
            (Step::CleanUp, Outcome::Done) => self.cleaned = true,
            (Step::StopSandbox { id }, Outcome::Done) => drop(self.stopped.insert(id.clone())),
            (Step::InspectImage { container }, Outcome::Image(id))
            | (Step::PullImage { container }, Outcome::Pulled { id, .. }) => {
                self.containers[*container].image = Image::Present(id.clone());
                self.attempts.remove(&Subject::InspectImage(*container));
                self.attempts.remove(&Subject::PullImage(*container));
                return;
            }
            (Step::InspectImage { container }, Outcome::NoImage) => self.containers[*container].image = Image::Absent,
            // Before the next pull it is looked for again: somebody may have brought it.
            (Step::PullImage { container }, _) => self.containers[*container].image = Image::Unknown,
            (Step::CreateContainer { container, .. }, outcome) => {
                let memory = &mut self.containers[*container];
                memory.image = Image::Unknown;
                if let (Outcome::Done, Some((_, ended_at))) = (outcome, &memory.ended) {
                    memory.crash = Some(Backoff::next(memory.crash, *ended_at, now, CRASH));
                }
            }
            _ => {}
        }
        self.count(step, outcome, now);
    }

    /// Whether nothing is being done that changes what the runtime has for the pod.
    pub(super) fn is_quiet(&self) -> bool {
        self.under_way.iter().all(|step| matches!(step, Step::InspectImage { .. } | Step::PullImage { .. }))
    }

    /// Whether the step, or another one for the same end, is being carried out.
    pub(super) fn is_under_way(&self, step: &Step) -> bool {
        self.under_way.iter().any(|begun| match (begun, step) {
            (Step::StopContainer { deadline: begun_deadline, .. }, Step::StopContainer { deadline, .. }) => {
                begun.subject() == step.subject() && begun_deadline <= deadline
            }
            _ => begun.subject() == step.subject(),
        })
    }

    /// The earliest moment for the next attempt; none for a first one.
    pub(super) fn due(&self, step: &Step) -> Option<Moment> {
        self.attempts.get(&step.subject()).map(|attempts| attempts.backoff.since + attempts.backoff.delay)
    }

    /// How the last attempt failed, and when; none if there was none or it went well.
    pub(super) fn failure(&self, subject: &Subject) -> Option<(&Waiting, Moment)> {
        let Attempts { backoff, failure } = self.attempts.get(subject)?;
        failure.as_ref().map(|failure| (failure, backoff.since))
    }

    /// Counts an attempt. What the runtime may go back on by itself (a sandbox that dies at once, a container that is
    /// still there) is counted even when it went well, so that no fault of the runtime becomes a busy loop here.
    fn count(&mut self, step: &Step, outcome: &Outcome, now: Moment) {
        let failed = matches!(outcome, Outcome::Failed(_) | Outcome::Misconfigured(_));
        match step {
            // An instance that was made has yet to be started.
            Step::CreateContainer { .. } if !failed => return,
            Step::PrepareVolumes | Step::StartContainer { .. } | Step::CleanUp if !failed => {
                self.attempts.remove(&step.subject());
                return;
            }
            _ => {}
        }
        let limits = if matches!(step, Step::InspectImage { .. } | Step::PullImage { .. }) { PULL } else { RETRY };
        let before = self.attempts.get(&step.subject()).map(|attempts| attempts.backoff);
        let backoff = Backoff::next(before, now, now, limits);
        self.attempts.insert(step.subject(), Attempts { backoff, failure: failure(step, outcome) });
    }
}

impl Step {
    /// What the step is about.
    fn subject(&self) -> Subject {
        match self {
            Self::PrepareVolumes => Subject::Volumes,
            Self::CreateSandbox { .. } => Subject::NewSandbox,
            Self::StopSandbox { id } => Subject::StopSandbox(id.clone()),
            Self::RemoveSandbox { id } => Subject::RemoveSandbox(id.clone()),
            Self::InspectImage { container } => Subject::InspectImage(*container),
            Self::PullImage { container } => Subject::PullImage(*container),
            Self::CreateContainer { container, .. } | Self::StartContainer { container, .. } => {
                Subject::Start(*container)
            }
            Self::StopContainer { id, .. } => Subject::StopContainer(id.clone()),
            Self::RemoveContainer { id } => Subject::RemoveContainer(id.clone()),
            Self::CleanUp => Subject::CleanUp,
        }
    }
}

/// What a container's status says of a step that failed; none for steps that are not about one container's start.
///
/// Source: kubernetes v1.36 `pkg/kubelet/images/types.go`, `pkg/kubelet/container/sync_result.go`.
fn failure(step: &Step, outcome: &Outcome) -> Option<Waiting> {
    let (Outcome::Failed(message) | Outcome::Misconfigured(message)) = outcome else { return None };
    let reason = match step {
        _ if matches!(outcome, Outcome::Misconfigured(_)) => "CreateContainerConfigError",
        Step::InspectImage { .. } => "ImageInspectError",
        Step::PullImage { .. } => pull_reason(message),
        Step::CreateContainer { .. } => "CreateContainerError",
        Step::StartContainer { .. } => "RunContainerError",
        _ => return None,
    };
    Some(Waiting { reason, message: message.clone() })
}

/// The runtime tells a more exact reason by beginning its message with it.
fn pull_reason(message: &str) -> &'static str {
    const EXACT: [&str; 2] = ["RegistryUnavailable", "SignatureValidationFailed"];
    EXACT.into_iter().find(|reason| message.starts_with(reason)).unwrap_or("ErrImagePull")
}
