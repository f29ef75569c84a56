//! Ending: one container, all containers of a pod in their order, a pod.
//!
//! ```text
//! container:  preStop hook, if there is one and time for it ─▶ its turn ─▶ stop signal ─▶ kill signal at the deadline
//! ```
//!
//! Source: kubernetes v1.36 `pkg/kubelet/kuberuntime/kuberuntime_container.go` (`killContainer`),
//! `kuberuntime_termination_order.go`, `kuberuntime_manager.go` (`killPodWithSyncResult`) and `pkg/kubelet/kubelet.go`
//! (`SyncTerminatingPod`, `SyncTerminatedPod`).

use super::{Draft, Step, StopReason, is_live};
use crate::model::{ContainerPhase, Moment, ObservedContainer, SandboxId};
use crate::podspec::Role;

/// Plans to stop a container: its hook first, which takes its time from the grace period. What was begun keeps its reason
/// and its deadline, unless this one is earlier.
pub(super) fn container(draft: &mut Draft<'_>, instance: &ObservedContainer, deadline: Moment, why: StopReason) {
    stop(draft, instance, deadline, why, true);
}

fn stop(draft: &mut Draft<'_>, instance: &ObservedContainer, deadline: Moment, why: StopReason, is_turn: bool) {
    let farewell = draft.memory.farewells.get(&instance.id);
    let deadline = farewell.map_or(deadline, |farewell| farewell.deadline.min(deadline));
    let why = farewell.map_or(why, |farewell| farewell.why);
    let is_time_left = deadline > draft.now;
    if is_time_left && let Some(container) = hook_due(draft, instance, why) {
        draft.wake(deadline);
        draft.offer(Step::PreStop { container, id: instance.id.clone(), deadline, why });
    } else if is_time_left && !is_turn {
        draft.wake(deadline);
    } else {
        let (name, id, announced) = (instance.name.clone(), instance.id.clone(), farewell.is_some());
        draft.offer(Step::StopContainer { name, id, deadline, why, announced });
    }
}

/// The container whose `preStop` hook is still to be carried out, or is being.
fn hook_due(draft: &Draft<'_>, instance: &ObservedContainer, why: StopReason) -> Option<usize> {
    let index = draft.pod.containers.iter().position(|container| container.name == instance.name)?;
    let is_over = draft.memory.farewells.get(&instance.id).is_some_and(|farewell| farewell.hook_is_over);
    let runs = matches!(instance.phase, ContainerPhase::Running { .. });
    let has_hook = draft.pod.containers[index].hooks.pre_stop.is_some();
    (has_hook && runs && !is_over && why != StopReason::RestartAllContainers).then_some(index)
}

/// Plans to stop all containers; true once none lives and nothing is under way that could make one.
///
/// All at once, but for sidecars: each waits until the regular containers and the sidecars after it have ended, or the
/// deadline comes. Their hooks do not wait.
pub(super) fn containers(draft: &mut Draft<'_>, deadline: Moment) -> bool {
    let live: Vec<_> = draft.observed.containers.iter().filter(|instance| is_live(instance)).collect();
    for instance in &live {
        let is_turn = is_turn(draft, &live, instance);
        stop(draft, instance, deadline, StopReason::Ending, is_turn);
    }
    live.is_empty() && draft.memory.is_quiet()
}

fn is_turn(draft: &Draft<'_>, live: &[&ObservedContainer], instance: &ObservedContainer) -> bool {
    let place = |name: &str| draft.pod.containers.iter().position(|container| container.name == name);
    let role = |index: usize| draft.pod.containers[index].role;
    let Some(own) = place(&instance.name).filter(|own| role(*own) == Role::Sidecar) else { return true };
    let holds_back = |other: usize| role(other) == Role::Regular || role(other) == Role::Sidecar && other > own;
    !live.iter().filter_map(|other| place(&other.name)).any(holds_back)
}

/// A pod that has come to its end, or is to: containers, network, volumes and cgroup go, all else stays.
pub(super) fn finish(draft: &mut Draft<'_>, deadline: Moment) {
    if containers(draft, deadline)
        && draft.stop_sandboxes(draft.observed.sandboxes.iter().map(|sandbox| &sandbox.id))
        && !draft.memory.released
    {
        draft.offer(Step::Release);
    }
}

/// A pod of which nothing is to be left: containers and their network, then what the runtime has of them and what is on disk, at
/// once. Nothing of it begins before the last container has ended and all other steps are done, so that what a step still
/// under way has made is not overlooked.
pub(super) fn remove(draft: &mut Draft<'_>, deadline: Moment) {
    let observed = draft.observed;
    if !containers(draft, deadline) || !draft.stop_sandboxes(observed.sandboxes.iter().map(|sandbox| &sandbox.id)) {
        return;
    }
    for sandbox in &observed.sandboxes {
        draft.offer(Step::RemoveSandbox { id: sandbox.id.clone() });
    }
    let has_sandbox = |id: &SandboxId| observed.sandboxes.iter().any(|sandbox| sandbox.id == *id);
    for instance in observed.containers.iter().filter(|instance| !has_sandbox(&instance.sandbox)) {
        draft.offer(Step::RemoveContainer { id: instance.id.clone() });
    }
    if !draft.memory.cleaned {
        draft.offer(Step::CleanUp);
    }
    draft.plan.gone = draft.memory.cleaned && observed.sandboxes.is_empty() && observed.containers.is_empty();
}
