//! The plan of a pod that runs: volumes and sandbox, then its containers, then what is left over.
//!
//! Source: kubernetes v1.36 `pkg/kubelet/kuberuntime/kuberuntime_manager.go` (`computePodActions`), `util/util.go`
//! (`PodSandboxChanged`), `kuberuntime_gc.go`. We differ on purpose: of several ready sandboxes the newest is kept, where
//! upstream ends them all, those found dead after a reboot do not hold up the next, and an instance that was made but not
//! started is started, where upstream makes another. What stopping a container for one reason or a hanging hook delays is
//! that container and those that wait for it, not the pod.

use std::time::Duration;

use super::container::{Progress, tend, tend_ephemeral};
use super::memory::Subject;
use super::{Draft, Step, StopReason, init, is_as_defined, is_live, policy, reset, stop};
use crate::model::{ContainerPhase, ObservedContainer, ObservedPod, ObservedSandbox};
use crate::podspec::{Pod, Role};

/// How soon it is looked again whether other pods are still on their way.
const TIDY_RETRY: Duration = Duration::from_secs(1);

pub(super) fn plan(draft: &mut Draft<'_>) {
    let sandbox = usable_sandbox(draft.pod, draft.observed);
    if sandbox.is_some_and(|sandbox| reset::plan(draft, sandbox)) {
        return;
    }
    if let Some(since) = policy::over(draft) {
        stop::finish(draft, since + draft.pod.grace_period);
        return;
    }
    if !draft.memory.prepared || draft.memory.stale {
        draft.offer(Step::PrepareVolumes);
    }
    if sandbox.is_none() {
        replace_sandbox(draft);
    }
    containers(draft, sandbox);
    if let Some(sandbox) = sandbox {
        collect(draft, sandbox);
    }
}

/// The newest sandbox, if containers can run in it.
pub(super) fn usable_sandbox<'a>(pod: &Pod, observed: &'a ObservedPod) -> Option<&'a ObservedSandbox> {
    let newest = observed.sandboxes.first()?;
    let has_network = pod.namespaces.host_network || !newest.ips.is_empty();
    (newest.ready && has_network).then_some(newest)
}

/// Ends all that lives in the old sandboxes and makes a new one. Also makes the first. It waits for no volume: those are of
/// containers, and may wait for control or a disk.
///
/// The sandboxes that a new agent finds dead, as all are after a reboot, hold nothing but their networks: those are taken down
/// once the pod runs again. After the first attempt all go first: the network may have run out of addresses.
fn replace_sandbox(draft: &mut Draft<'_>) {
    let since = draft.memory.sandbox_lost.unwrap_or(draft.now);
    if !stop::containers(draft, since + draft.pod.grace_period) {
        return;
    }
    let is_first = !draft.memory.has_tried(&Subject::NewSandbox);
    let in_the_way = draft.observed.sandboxes.iter().filter(|old| old.ready || !is_first);
    let all_stopped = draft.stop_sandboxes(in_the_way.map(|old| &old.id));
    if all_stopped {
        let attempt = draft.observed.sandboxes.first().map_or(0, |newest| newest.attempt + 1);
        draft.offer(Step::CreateSandbox { attempt });
    }
}

/// The init containers first; then each regular one once those before it have been started, or cannot be now. Those that
/// were added to the running pod wait for nothing but the sandbox.
fn containers(draft: &mut Draft<'_>, sandbox: Option<&ObservedSandbox>) {
    let mut is_turn = true;
    let initialized = init::walk(draft, sandbox);
    for index in 0..draft.pod.containers.len() {
        match draft.pod.containers[index].role {
            Role::Regular if initialized => {
                is_turn &= tend(draft, index, sandbox, is_turn) != Progress::Starting;
            }
            Role::Init | Role::Sidecar | Role::Regular => {}
            Role::Ephemeral => tend_ephemeral(draft, index, sandbox),
        }
    }
}

/// Removes what nobody needs any more beside a usable sandbox. Of each container the last ended instance stays, for its
/// log and its last state.
fn collect(draft: &mut Draft<'_>, sandbox: &ObservedSandbox) {
    let observed = draft.observed;
    let has_ended = |instance: &&ObservedContainer| matches!(instance.phase, ContainerPhase::Exited { .. });
    let last_ended = |name: &str| observed.containers.iter().filter(|other| other.name == name).find(has_ended);
    let mut left = Vec::new();
    for instance in &observed.containers {
        let stays = is_in_use(draft, sandbox, instance) || last_ended(&instance.name) == Some(instance);
        if is_live(instance) && !stays {
            stop::container(draft, instance, draft.now + draft.pod.grace_period, StopReason::Ending);
        } else if !stays {
            left.push(Step::RemoveContainer { id: instance.id.clone() });
        }
    }
    for old in observed.sandboxes.iter().filter(|other| other.id != sandbox.id) {
        let mut inside = observed.containers.iter().filter(|instance| instance.sandbox == old.id).peekable();
        let is_empty = inside.peek().is_none();
        let (is_over, id) = (!inside.any(is_live), old.id.clone());
        match draft.memory.stopped.contains(&old.id) {
            false if is_over => left.push(Step::StopSandbox { id }),
            true if is_over && is_empty => left.push(Step::RemoveSandbox { id }),
            _ => {}
        }
    }
    tidy(draft, left);
}

/// Removes what is left of what has ended, when there is time: it would take the processors from what is on its way to run,
/// first of all while a host boots.
fn tidy(draft: &mut Draft<'_>, left: Vec<Step>) {
    if left.is_empty() || draft.plan.steps.iter().any(Step::brings_up) || draft.memory.is_bringing_up() {
        return;
    }
    match draft.memory.yields_until.filter(|until| *until > draft.now) {
        Some(until) => draft.wake(until.min(draft.now + TIDY_RETRY)),
        None => {
            for step in left {
                draft.offer(step);
            }
        }
    }
}

/// Whether a container of the pod rests on this instance: it lives in the sandbox, or is about to.
fn is_in_use(draft: &Draft<'_>, sandbox: &ObservedSandbox, instance: &ObservedContainer) -> bool {
    let index = draft.pod.containers.iter().position(|container| container.name == instance.name);
    index.is_some_and(|index| {
        let is_made = instance.phase == ContainerPhase::Created;
        let lasts = is_live(instance) || is_made && is_as_defined(instance, &draft.pod.containers[index]);
        lasts && draft.current(index, Some(sandbox)) == Some(instance)
    })
}
