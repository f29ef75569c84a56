//! The plan of a pod that runs: volumes and sandbox, then each container, then what is left over.
//!
//! Source: kubernetes v1.36 `pkg/kubelet/kuberuntime/kuberuntime_manager.go` (`computePodActions`), `util/util.go`
//! (`PodSandboxChanged`), `kuberuntime_gc.go`. We differ on purpose: of several ready sandboxes the newest is kept, where
//! upstream ends them all, and an instance that was made but not started is started, where upstream makes another.

use super::memory::Subject;
use super::restart::{self, Start};
use super::{Draft, Step, StopReason, is_live};
use crate::model::{ContainerPhase, Moment, ObservedContainer, ObservedPod, ObservedSandbox};
use crate::podspec::Pod;

pub(super) fn plan(draft: &mut Draft<'_>, pod: &Pod, observed: &ObservedPod) {
    if !draft.memory.prepared {
        draft.offer(Step::PrepareVolumes);
    }
    let sandbox = usable_sandbox(pod, observed);
    if sandbox.is_none() {
        replace_sandbox(draft, pod, observed);
    }
    let mut kept: Vec<&ObservedContainer> = Vec::new();
    for index in 0..pod.containers.len() {
        kept.extend(container(draft, pod, index, observed, sandbox));
    }
    if let Some(sandbox) = sandbox {
        collect(draft, pod, observed, sandbox, &kept);
    }
}

/// The newest sandbox, if containers can run in it.
pub(super) fn usable_sandbox<'a>(pod: &Pod, observed: &'a ObservedPod) -> Option<&'a ObservedSandbox> {
    let newest = observed.sandboxes.first()?;
    let has_network = pod.namespaces.host_network || !newest.ips.is_empty();
    (newest.ready && has_network).then_some(newest)
}

/// Ends what is left of the old sandboxes and makes a new one. Also makes the first.
fn replace_sandbox(draft: &mut Draft<'_>, pod: &Pod, observed: &ObservedPod) {
    let live: Vec<_> = observed.containers.iter().filter(|instance| is_live(instance)).collect();
    for instance in &live {
        draft.stop(instance, full_grace(draft, pod), StopReason::Ending);
    }
    if !live.is_empty() || !draft.memory.is_quiet() {
        return;
    }
    let all_stopped = draft.stop_sandboxes(observed.sandboxes.iter().map(|sandbox| &sandbox.id));
    if all_stopped && draft.memory.prepared {
        let attempt = observed.sandboxes.first().map_or(0, |newest| newest.attempt + 1);
        draft.offer(Step::CreateSandbox { attempt });
    }
}

fn full_grace(draft: &Draft<'_>, pod: &Pod) -> Moment {
    draft.now + pod.grace_period
}

/// Plans for one container; gives back the instance it rests on, if there is one.
fn container<'a>(
    draft: &mut Draft<'_>,
    pod: &Pod,
    index: usize,
    observed: &'a ObservedPod,
    sandbox: Option<&ObservedSandbox>,
) -> Option<&'a ObservedContainer> {
    let container = &pod.containers[index];
    let instances = observed.containers.iter().filter(|instance| instance.name == container.name);
    let newest = instances.clone().next();
    let current = newest.filter(|newest| sandbox.is_some_and(|sandbox| newest.sandbox == sandbox.id));
    let as_defined = |instance: &ObservedContainer| instance.spec_hash == container.spec_hash;
    if let Some(instance) = current.filter(|instance| is_live(instance)) {
        if instance.phase == ContainerPhase::Unknown {
            draft.stop(instance, full_grace(draft, pod), StopReason::Unknown);
        } else if !as_defined(instance) {
            draft.stop(instance, full_grace(draft, pod), StopReason::DefinitionChanged);
        }
        return Some(instance);
    }
    // What lives elsewhere is being stopped; until it has ended nothing takes its place.
    let may_run = draft.memory.prepared && !instances.clone().any(is_live);
    if let Some(instance) = current.filter(|instance| instance.phase == ContainerPhase::Created && as_defined(instance))
    {
        draft.plan.waiting[index] = draft.memory.failure(&Subject::Start(index)).map(|(failure, _)| failure.clone());
        if may_run {
            draft.offer(Step::StartContainer { container: index, id: instance.id.clone() });
        }
        return Some(instance);
    }
    if let (Start::Now { image_ref }, Some(sandbox)) = (restart::start(draft, pod, index), sandbox.filter(|_| may_run))
    {
        let attempt = draft.memory.containers[index].next_attempt;
        let sandbox = sandbox.id.clone();
        draft.offer(Step::CreateContainer { container: index, attempt, sandbox, image_ref });
    }
    None
}

/// Removes what nobody needs any more beside a usable sandbox. Of each container the last ended instance stays, for its
/// log and its last state.
fn collect(
    draft: &mut Draft<'_>,
    pod: &Pod,
    observed: &ObservedPod,
    sandbox: &ObservedSandbox,
    kept: &[&ObservedContainer],
) {
    let has_ended = |instance: &&ObservedContainer| matches!(instance.phase, ContainerPhase::Exited { .. });
    let last_ended = |name: &str| observed.containers.iter().filter(|other| other.name == name).find(has_ended);
    for instance in &observed.containers {
        let stays = kept.contains(&instance) || last_ended(&instance.name) == Some(instance);
        if is_live(instance) && !stays {
            draft.stop(instance, full_grace(draft, pod), StopReason::Ending);
        } else if !stays {
            draft.offer(Step::RemoveContainer { id: instance.id.clone() });
        }
    }
    for old in observed.sandboxes.iter().filter(|other| other.id != sandbox.id) {
        let mut inside = observed.containers.iter().filter(|instance| instance.sandbox == old.id).peekable();
        let is_empty = inside.peek().is_none();
        if !inside.any(is_live) && draft.stop_sandboxes(std::iter::once(&old.id)) && is_empty {
            draft.offer(Step::RemoveSandbox { id: old.id.clone() });
        }
    }
}
