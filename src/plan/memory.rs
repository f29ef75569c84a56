//! What a pod's worker remembers between plans: how its steps went.
//!
//! The worker tells it what it saw ([`PodMemory::observe`]) and how each step ended ([`PodMemory::end`]); `plan` reads it.
//! In memory only. A restarted agent begins with an empty one: it prepares the volumes again (that is repeatable), tries at
//! once what was backing off, and leaves alone what runs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::run::usable_sandbox;
use super::{StopReason, instances, is_live};
use crate::backoff::{Backoff, Limits};
use crate::model::{ContainerId, ContainerPhase, Moment, ObservedPod, SandboxId};
use crate::plan::{Step, Waiting};
use crate::podspec::{ImageUse, Pod};

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

/// For so long control's answer about ConfigMaps, Secrets and tokens is waited for. What still lacks then fails by its name.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// For so long at most what is left of earlier instances stays because other pods of the node are on their way to run.
const YIELD_MAX: Duration = Duration::from_secs(10);

/// The reason of a container whose configuration cannot be had.
const MISCONFIGURED: &str = "CreateContainerConfigError";

/// The reason of a container whose devices cannot be had.
pub(super) const REFUSED: &str = "UnexpectedAdmissionError";

/// What is remembered of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodMemory {
    /// Volumes are in place.
    pub(super) prepared: bool,
    /// Volumes and cgroup of a pod that has come to its end are given back.
    pub(super) released: bool,
    /// What volumes hold may have changed since they were prepared. It holds up nothing.
    pub(super) stale: bool,
    /// Until then nothing is done for want of an answer about what the pod asks of objects; none once all has come.
    answer_by: Option<Moment>,
    /// Until then others go before clearing up; none while none is on its way.
    pub(super) yields_until: Option<Moment>,
    /// Everything on disk is removed.
    pub(super) cleaned: bool,
    /// When the newest sandbox was first seen unusable, while it is.
    pub(super) sandbox_lost: Option<Moment>,
    /// Sandboxes that were stopped: their network is gone.
    pub(super) stopped: BTreeSet<SandboxId>,
    /// By position in `Pod::containers`.
    pub(super) containers: Vec<ContainerMemory>,
    /// The instances that are being ended.
    pub(super) farewells: BTreeMap<ContainerId, Farewell>,
    attempts: BTreeMap<Subject, Attempts>,
    under_way: Vec<Step>,
}

/// What is remembered of one container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ContainerMemory {
    /// What is known of its images by [`ImageUse::volume`]; forgotten when an instance has been made of them.
    images: BTreeMap<Option<usize>, Image>,
    /// Restarts after an end.
    pub(super) crash: Option<Backoff>,
    /// The newest instance if it has ended, and when that was first seen; also after it was removed.
    pub(super) ended: Option<(ContainerId, Moment)>,
    /// The number of the next instance: one more than any before it had.
    pub(super) next_attempt: u32,
    /// The instance that was started last, while its `postStart` hook is not over.
    greeting: Option<(ContainerId, Greeting)>,
}

/// How far the `postStart` hook of an instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Greeting {
    /// To be carried out, if there is one.
    Due,
    /// It failed, and with it the instance.
    Failed,
}

/// An instance that is being ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Farewell {
    /// When it is killed.
    pub(super) deadline: Moment,
    /// Why.
    pub(super) why: StopReason,
    /// Its `preStop` hook was carried out, well or not.
    pub(super) hook_is_over: bool,
}

/// What is known of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Image {
    /// Nothing.
    Unknown,
    /// It is not on the host.
    Absent,
    /// Its registry does not answer: what was pulled before will do.
    Unreached,
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
    InspectImage(ImageUse),
    PullImage(ImageUse),
    /// To have a new instance of a container running.
    Start(usize),
    PostStart(ContainerId),
    PreStop(ContainerId),
    StopContainer(ContainerId),
    RemoveContainer(ContainerId),
    Release,
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
    /// `CreateContainer`: the devices it asks for cannot be had as things are, in upstream's words.
    Refused(String),
}

impl Outcome {
    /// Why it failed, if it did.
    pub fn failure(&self) -> Option<&str> {
        match self {
            Self::Failed(error) | Self::Misconfigured(error) | Self::Refused(error) => Some(error),
            Self::Done | Self::Image(_) | Self::Pulled { .. } | Self::NoImage => None,
        }
    }
}

impl PodMemory {
    /// The memory of a worker that has done nothing yet.
    ///
    /// `next_attempts` has one number per container of the pod, in its order: one more than the highest instance that left
    /// a log file, or 0. It lets the restart count go on after the runtime lost its containers in a reboot.
    pub fn new(next_attempts: &[u32]) -> Self {
        let mut memory = Self {
            prepared: false,
            released: false,
            stale: false,
            answer_by: None,
            yields_until: None,
            cleaned: false,
            sandbox_lost: None,
            stopped: BTreeSet::new(),
            containers: Vec::new(),
            farewells: BTreeMap::new(),
            attempts: BTreeMap::new(),
            under_way: Vec::new(),
        };
        memory.extend(next_attempts);
        memory
    }

    /// Makes room for containers that were added to the pod. `next_attempts` is as for [`PodMemory::new`], for all of them.
    pub fn extend(&mut self, next_attempts: &[u32]) {
        let container = |next_attempt: &u32| ContainerMemory { next_attempt: *next_attempt, ..Default::default() };
        self.containers.extend(next_attempts.iter().skip(self.containers.len()).map(container));
    }

    /// Takes in what the runtime has now. To be called with each observation, before it is planned on.
    pub fn observe(&mut self, pod: &Pod, observed: &ObservedPod, now: Moment) {
        for (container, memory) in pod.containers.iter().zip(&mut self.containers) {
            let newest = instances(observed, container).next();
            let used = newest.map_or(0, |newest| newest.attempt + 1);
            memory.next_attempt = memory.next_attempt.max(used);
            let has_ended = newest.map(|newest| matches!(newest.phase, ContainerPhase::Exited { .. }));
            memory.ended = match (newest.zip(has_ended), memory.ended.take()) {
                (Some((instance, true)), Some((id, at))) if id == instance.id => Some((id, at)),
                (Some((instance, true)), _) => Some((instance.id.clone(), now)),
                (Some((_, false)), _) => None,
                // One that was ended on purpose does not count against the next.
                (None, ended) => ended.filter(|(id, _)| !self.farewells.contains_key(id)),
            };
            let is_greeted = |id: &ContainerId| !newest.is_some_and(|newest| newest.id == *id && is_live(newest));
            memory.greeting.take_if(|(id, _)| is_greeted(id));
        }
        let is_lost = !observed.sandboxes.is_empty() && usable_sandbox(pod, observed).is_none();
        self.sandbox_lost = is_lost.then(|| self.sandbox_lost.unwrap_or(now));
        let has_sandbox = |id: &SandboxId| observed.sandboxes.iter().any(|sandbox| sandbox.id == *id);
        let has_container = |id: &ContainerId| observed.containers.iter().any(|instance| instance.id == *id);
        self.stopped.retain(|id| has_sandbox(id));
        self.farewells.retain(|id, _| has_container(id));
        self.attempts.retain(|subject, _| match subject {
            Subject::StopSandbox(id) | Subject::RemoveSandbox(id) => has_sandbox(id),
            Subject::StopContainer(id) | Subject::RemoveContainer(id) => has_container(id),
            _ => true,
        });
    }

    /// Takes in that a ConfigMap, a Secret or a token of the pod is another one now: its volumes are to be looked after, and
    /// what failed for want of it is tried at once.
    pub fn configuration_changed(&mut self) {
        self.stale = true;
        self.attempts.retain(|subject, _| !matches!(subject, Subject::Volumes | Subject::PullImage(_)));
        self.forget_failed_starts(&[MISCONFIGURED]);
    }

    /// Takes in that there are other devices or plugins now, or others free: what failed for want of them is tried at once.
    pub fn devices_changed(&mut self) {
        // A plugin that cannot be told of a start makes a container misconfigured.
        self.forget_failed_starts(&[REFUSED, MISCONFIGURED]);
    }

    fn forget_failed_starts(&mut self, reasons: &[&str]) {
        self.attempts.retain(|subject, attempts| {
            let failed = attempts.failure.as_ref().is_some_and(|failure| reasons.contains(&failure.reason));
            !(failed && matches!(subject, Subject::Start(_)))
        });
    }

    /// Takes in that the pod itself is another one now: what its containers read of it follows, and their images may be
    /// others. What is being done about an image that was replaced is of no account. `next_attempts` is as in [`Self::extend`].
    pub fn pod_changed(&mut self, (before, pod): (&Pod, &Pod), next_attempts: &[u32]) {
        self.extend(next_attempts);
        self.under_way.retain(|step| !step.is_outdated(before, pod));
        self.containers.iter_mut().for_each(|container| container.images.clear());
        self.configuration_changed();
    }

    /// Takes in whether it is known of all ConfigMaps, Secrets and tokens of the pod what there is. What needs them is put off
    /// until it is, so that nothing fails which only comes too soon.
    pub fn hear(&mut self, all: bool, now: Moment) {
        self.answer_by = if all { None } else { self.answer_by.or(Some(now + ANSWER_TIMEOUT)) };
    }

    /// Takes in whether other pods of the node are on their way to run. Clearing up after this one can wait for a while: it
    /// would take the processors from them.
    pub fn yield_to(&mut self, others: bool, now: Moment) {
        self.yields_until = if others { self.yields_until.or(Some(now + YIELD_MAX)) } else { None };
    }

    /// Notes that a step is being carried out.
    pub fn begin(&mut self, step: &Step) {
        if let Step::PreStop { id, deadline, why, .. } | Step::StopContainer { id, deadline, why, .. } = step {
            let begun = Farewell { deadline: *deadline, why: *why, hook_is_over: false };
            let farewell = self.farewells.entry(id.clone()).or_insert(begun);
            farewell.deadline = farewell.deadline.min(*deadline);
        }
        if *step == Step::PrepareVolumes {
            self.stale = false;
        }
        self.under_way.push(step.clone());
    }

    /// Notes how a step ended that was begun.
    pub fn end(&mut self, step: &Step, outcome: &Outcome, now: Moment) {
        if let Some(index) = self.under_way.iter().position(|begun| begun == step) {
            self.under_way.swap_remove(index);
        }
        match (step, outcome) {
            (Step::PrepareVolumes, Outcome::Done) => self.prepared = true,
            (Step::Release, Outcome::Done) => self.released = true,
            (Step::PrepareVolumes, _) => self.stale = true,
            (Step::CleanUp, Outcome::Done) => self.cleaned = true,
            (Step::StopSandbox { id }, Outcome::Done) => drop(self.stopped.insert(id.clone())),
            (Step::InspectImage { image }, Outcome::Image(id))
            | (Step::PullImage { image }, Outcome::Pulled { id, .. }) => {
                self.know_image(*image, Image::Present(id.clone()));
                self.attempts.remove(&Subject::InspectImage(*image));
                self.attempts.remove(&Subject::PullImage(*image));
                return;
            }
            (Step::InspectImage { image }, Outcome::NoImage) => self.know_image(*image, Image::Absent),
            (Step::PullImage { image }, Outcome::Failed(error)) if is_silence(error) => {
                self.know_image(*image, Image::Unreached);
            }
            // Before the next pull it is looked for again: somebody may have brought it.
            (Step::PullImage { image }, _) => self.know_image(*image, Image::Unknown),
            (Step::CreateContainer { container, .. }, outcome) => {
                let memory = &mut self.containers[*container];
                memory.images.clear();
                if let (Outcome::Done, Some((_, ended_at))) = (outcome, &memory.ended) {
                    memory.crash = Some(Backoff::next(memory.crash, *ended_at, now, CRASH));
                }
            }
            (Step::StartContainer { container, id }, Outcome::Done) => {
                self.containers[*container].greeting = Some((id.clone(), Greeting::Due));
            }
            (Step::PostStart { container, id }, outcome) => {
                let greeting = &mut self.containers[*container].greeting;
                if greeting.as_ref().is_some_and(|(due, _)| due == id) {
                    *greeting = outcome.failure().map(|_| (id.clone(), Greeting::Failed));
                }
            }
            (Step::PreStop { id, .. }, _) => {
                if let Some(farewell) = self.farewells.get_mut(id) {
                    farewell.hook_is_over = true;
                }
            }
            _ => {}
        }
        self.count(step, outcome, now);
    }

    /// What is known of an image.
    pub(super) fn image(&self, of: ImageUse) -> &Image {
        self.containers[of.container].images.get(&of.volume).unwrap_or(&Image::Unknown)
    }

    fn know_image(&mut self, of: ImageUse, image: Image) {
        self.containers[of.container].images.insert(of.volume, image);
    }

    /// How far the `postStart` hook of this instance is; none if it is over, or another process started the instance.
    pub(super) fn greeting(&self, container: usize, id: &ContainerId) -> Option<Greeting> {
        let greeting = self.containers[container].greeting.as_ref();
        greeting.filter(|(greeted, _)| greeted == id).map(|(_, greeting)| *greeting)
    }

    /// Whether nothing is being done that changes what the runtime has for the pod.
    pub(super) fn is_quiet(&self) -> bool {
        let changes_nothing = |step: &Step| {
            let is_image = matches!(step, Step::InspectImage { .. } | Step::PullImage { .. });
            is_image || matches!(step, Step::PostStart { .. } | Step::PreStop { .. })
        };
        self.under_way.iter().all(changes_nothing)
    }

    /// Whether something is being done to have containers running.
    pub(super) fn is_bringing_up(&self) -> bool {
        self.under_way.iter().any(Step::brings_up)
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

    /// The earliest moment for the next attempt; none for a first one that need not wait.
    pub(super) fn due(&self, step: &Step) -> Option<Moment> {
        let attempts = self.attempts.get(&step.subject());
        let retry = attempts.map(|attempts| attempts.backoff.since + attempts.backoff.delay);
        retry.max(self.answer_by.filter(|_| step.uses_objects()))
    }

    /// Whether this worker has made an attempt at it that counts.
    pub(super) fn has_tried(&self, subject: &Subject) -> bool {
        self.attempts.contains_key(subject)
    }

    /// How the last attempt failed, and when; none if there was none or it went well.
    pub(super) fn failure(&self, subject: &Subject) -> Option<(&Waiting, Moment)> {
        let Attempts { backoff, failure } = self.attempts.get(subject)?;
        failure.as_ref().map(|failure| (failure, backoff.since))
    }

    /// Counts an attempt. What the runtime may go back on by itself (a sandbox that dies at once, a container that is
    /// still there) is counted even when it went well, so that no fault of the runtime becomes a busy loop here.
    fn count(&mut self, step: &Step, outcome: &Outcome, now: Moment) {
        let failed = outcome.failure().is_some();
        let subject = match step {
            // An instance that was made has yet to be started. A hook is carried out once.
            Step::CreateContainer { .. } | Step::PostStart { .. } if !failed => return,
            Step::PreStop { .. } => return,
            Step::PrepareVolumes | Step::StartContainer { .. } | Step::Release | Step::CleanUp if !failed => {
                self.attempts.remove(&step.subject());
                return;
            }
            // To be greeted is part of being started.
            Step::PostStart { container, .. } => Subject::Start(*container),
            _ => step.subject(),
        };
        let limits = if matches!(step, Step::InspectImage { .. } | Step::PullImage { .. }) { PULL } else { RETRY };
        let before = self.attempts.get(&subject).map(|attempts| attempts.backoff);
        let backoff = Backoff::next(before, now, now, limits);
        self.attempts.insert(subject, Attempts { backoff, failure: failure(step, outcome) });
    }
}

impl Step {
    /// Whether it may need ConfigMaps, Secrets or tokens: in a volume, to show a registry, or in the environment.
    fn uses_objects(&self) -> bool {
        matches!(self, Self::PrepareVolumes | Self::PullImage { .. } | Self::CreateContainer { .. })
    }

    /// Whether it is on the way of a container to run, and nobody but this host is waited for.
    pub fn brings_up(&self) -> bool {
        let is_first = matches!(self, Self::PrepareVolumes | Self::InspectImage { .. } | Self::CreateSandbox { .. });
        is_first || matches!(self, Self::CreateContainer { .. } | Self::StartContainer { .. })
    }

    /// Whether the step, begun for the pod as it was before, is about an image that the pod does not name any more.
    pub fn is_outdated(&self, before: &Pod, pod: &Pod) -> bool {
        match self {
            Self::InspectImage { image } | Self::PullImage { image } => {
                before.image(*image).reference != pod.image(*image).reference
            }
            _ => false,
        }
    }

    /// What the step is about.
    fn subject(&self) -> Subject {
        match self {
            Self::PrepareVolumes => Subject::Volumes,
            Self::CreateSandbox { .. } => Subject::NewSandbox,
            Self::StopSandbox { id } => Subject::StopSandbox(id.clone()),
            Self::RemoveSandbox { id } => Subject::RemoveSandbox(id.clone()),
            Self::InspectImage { image } => Subject::InspectImage(*image),
            Self::PullImage { image } => Subject::PullImage(*image),
            Self::CreateContainer { container, .. } | Self::StartContainer { container, .. } => {
                Subject::Start(*container)
            }
            Self::PostStart { id, .. } => Subject::PostStart(id.clone()),
            Self::PreStop { id, .. } => Subject::PreStop(id.clone()),
            Self::StopContainer { id, .. } => Subject::StopContainer(id.clone()),
            Self::RemoveContainer { id } => Subject::RemoveContainer(id.clone()),
            Self::Release => Subject::Release,
            Self::CleanUp => Subject::CleanUp,
        }
    }
}

/// What a container's status says of a step that failed; none for steps that are not about one container's start.
///
/// Source: kubernetes v1.36 `pkg/kubelet/images/types.go`, `pkg/kubelet/container/sync_result.go`.
fn failure(step: &Step, outcome: &Outcome) -> Option<Waiting> {
    let message = outcome.failure()?;
    let reason = match (step, outcome) {
        (Step::InspectImage { .. }, _) => "ImageInspectError",
        (Step::PullImage { .. }, _) => pull_reason(message),
        (Step::CreateContainer { .. }, Outcome::Misconfigured(_)) => MISCONFIGURED,
        (Step::CreateContainer { .. }, Outcome::Refused(_)) => REFUSED,
        (Step::CreateContainer { .. }, _) => "CreateContainerError",
        (Step::StartContainer { .. }, _) => "RunContainerError",
        (Step::PostStart { .. }, _) => "PostStartHookError",
        _ => return None,
    };
    Some(Waiting { reason, message: message.to_owned() })
}

/// Whether the runtime failed to pull because nobody answered, as after a reboot without network; an answer that refuses is
/// no silence. There are no codes for this in CRI: the words are those of Go's network code, on which the runtimes are built.
fn is_silence(error: &str) -> bool {
    const SILENCE: [&str; 9] = [
        "dial tcp",
        "no such host",
        "connection reset",
        "i/o timeout",
        "TLS handshake timeout",
        "deadline exceeded",
        "502 Bad Gateway",
        "503 Service Unavailable",
        "504 Gateway Timeout",
    ];
    const REFUSALS: [&str; 3] = ["401 Unauthorized", "403 Forbidden", "denied"];
    let has_any = |words: &[&str]| words.iter().any(|word| error.contains(word));
    has_any(&SILENCE) && !has_any(&REFUSALS)
}

/// The runtime tells a more exact reason by beginning its message with it.
fn pull_reason(message: &str) -> &'static str {
    const EXACT: [&str; 2] = ["RegistryUnavailable", "SignatureValidationFailed"];
    EXACT.into_iter().find(|reason| message.starts_with(reason)).unwrap_or("ErrImagePull")
}
