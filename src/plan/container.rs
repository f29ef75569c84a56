//! One container: to be left alone, stopped or started.
//!
//! Source: kubernetes v1.36 `pkg/kubelet/kuberuntime/kuberuntime_manager.go` (`computePodActions`),
//! `kuberuntime_container.go` (`startContainer`).

use super::memory::{Greeting, Subject};
use super::probe::{Finding, Health};
use super::restart::{self, Start};
use super::{Draft, Offer, Step, StopReason, is_as_defined, is_live, policy, stop};
use crate::model::{ContainerId, ContainerPhase, Moment, ObservedContainer, ObservedSandbox};

/// How far a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Something is being done, or about to be, to have it running.
    Starting,
    /// It runs, and its `postStart` hook is over.
    Running,
    /// It is being stopped, waits for a later moment, or has run for the last time.
    Resting,
}

/// Plans for a container that is to run in the sandbox as long as its policy says. It is not begun before `is_turn`.
pub(super) fn tend(draft: &mut Draft<'_>, index: usize, sandbox: Option<&ObservedSandbox>, is_turn: bool) -> Progress {
    if let Some(instance) = draft.current(index, sandbox).filter(|current| is_live(current)) {
        return tend_running(draft, index, instance);
    }
    let container = &draft.pod.containers[index];
    if draft.instances(index).next().is_some_and(|newest| policy::is_final(container, newest)) {
        return Progress::Resting;
    }
    begin(draft, index, sandbox, is_turn)
}

/// Plans for a container that was added to the running pod: it is started once. Where the runtime has none of it, its log
/// tells whether there was one.
pub(super) fn tend_ephemeral(draft: &mut Draft<'_>, index: usize, sandbox: Option<&ObservedSandbox>) {
    match draft.instances(index).next() {
        Some(instance) if is_live(instance) => drop(tend_running(draft, index, instance)),
        Some(ObservedContainer { phase: ContainerPhase::Created, .. }) => drop(begin(draft, index, sandbox, true)),
        None if draft.memory.containers[index].next_attempt == 0 => drop(begin(draft, index, sandbox, true)),
        _ => {}
    }
}

/// Plans for a live instance in the sandbox.
pub(super) fn tend_running(draft: &mut Draft<'_>, index: usize, instance: &ObservedContainer) -> Progress {
    if let Some(why) = fault(draft, index, instance) {
        stop::container(draft, instance, deadline(draft, index, why), why);
        return Progress::Resting;
    }
    if draft.memory.greeting(index, &instance.id) == Some(Greeting::Due)
        && draft.pod.containers[index].hooks.post_start.is_some()
    {
        draft.offer(Step::PostStart { container: index, id: instance.id.clone() });
        return Progress::Starting;
    }
    Progress::Running
}

/// Why a live instance cannot stay. What has begun to be stopped is stopped, even if its fault has gone away.
fn fault(draft: &Draft<'_>, index: usize, instance: &ObservedContainer) -> Option<StopReason> {
    let health = draft.health(index, &instance.id);
    if let Some(farewell) = draft.memory.farewells.get(&instance.id) {
        return Some(farewell.why);
    }
    let faults = [
        (instance.phase == ContainerPhase::Unknown, StopReason::Unknown),
        (!is_as_defined(instance, &draft.pod.containers[index]), StopReason::DefinitionChanged),
        (draft.memory.greeting(index, &instance.id) == Some(Greeting::Failed), StopReason::PostStartHook),
        (health.liveness == Finding::Failure, StopReason::Liveness),
        (health.startup == Finding::Failure, StopReason::Startup),
    ];
    faults.into_iter().find(|(holds, _)| *holds).map(|(_, why)| why)
}

/// When a container that is stopped now is killed: a probe may have a grace period of its own.
fn deadline(draft: &Draft<'_>, index: usize, why: StopReason) -> Moment {
    let probes = &draft.pod.containers[index].probes;
    let probe = match why {
        StopReason::Liveness => probes.liveness.as_ref(),
        StopReason::Startup => probes.startup.as_ref(),
        _ => None,
    };
    draft.now + probe.and_then(|probe| probe.grace_period).unwrap_or(draft.pod.grace_period)
}

/// Plans for a container that does not live: its image is looked for, an instance made and started. Until `is_turn` only
/// the image is.
pub(super) fn begin(draft: &mut Draft<'_>, index: usize, sandbox: Option<&ObservedSandbox>, is_turn: bool) -> Progress {
    let container = &draft.pod.containers[index];
    let current = draft.current(index, sandbox);
    // What lives elsewhere is being stopped; until it has ended nothing takes its place.
    let may_run = is_turn && draft.memory.prepared && !draft.instances(index).any(is_live);
    let is_made = |instance: &&ObservedContainer| instance.phase == ContainerPhase::Created;
    let offer = if let Some(instance) = current.filter(is_made).filter(|made| is_as_defined(made, container)) {
        draft.plan.waiting[index] = draft.memory.failure(&Subject::Start(index)).map(|(failure, _)| failure.clone());
        let step = Step::StartContainer { container: index, id: instance.id.clone() };
        if may_run { draft.offer(step) } else { Offer::Taken }
    } else {
        match (restart::start(draft, index), sandbox.filter(|_| may_run)) {
            (Start::Now { image_ref, volume_images }, Some(sandbox)) => {
                let attempt = draft.memory.containers[index].next_attempt;
                let sandbox = sandbox.id.clone();
                draft.offer(Step::CreateContainer { container: index, attempt, sandbox, image_ref, volume_images })
            }
            (Start::Now { .. } | Start::Soon, _) => Offer::Taken,
            (Start::Later, _) => Offer::Later,
        }
    };
    if offer == Offer::Taken { Progress::Starting } else { Progress::Resting }
}

impl Draft<'_> {
    /// What the probes of an instance have found so far.
    pub(super) fn health(&self, index: usize, id: &ContainerId) -> Health {
        let initial = || Health::initial(&self.pod.containers[index].probes);
        self.healths.get(id).copied().unwrap_or_else(initial)
    }
}
