//! Beginning again: all containers end and are removed, sandbox and volumes stay, and the pod starts over.
//!
//! The runtime alone tells that it is under way: the instance whose end asked for it is removed last, so an agent that was
//! restarted in between goes on.
//!
//! Source: kubernetes v1.36 `pkg/kubelet/kuberuntime/kuberuntime_manager.go` (`computePodActions`, `getContainersToReset`),
//! KEP-5532. We differ on purpose: a container that asks for it again and again rests as any that ends again and again.

use super::{Draft, Step, StopReason, instances, is_live, policy, stop};
use crate::model::{ObservedContainer, ObservedPod, ObservedSandbox};
use crate::podspec::{Pod, Role};

/// The instances in the newest sandbox whose end asks for all containers to begin again.
pub(super) fn sources<'a>(pod: &'a Pod, observed: &'a ObservedPod) -> Vec<&'a ObservedContainer> {
    let Some(sandbox) = observed.sandboxes.first() else { return Vec::new() };
    let asks = |container| {
        let newest = instances(observed, container).next().filter(|newest| newest.sandbox == sandbox.id)?;
        (policy::after(container, newest) == Some(policy::Next::RestartAllContainers)).then_some(newest)
    };
    pod.containers.iter().filter(|container| container.role != Role::Ephemeral).filter_map(asks).collect()
}

/// Brings the pod back to where it has a sandbox and nothing else; false if nobody asked for it. Containers get no time to
/// end and no hook. Those that were added to the running pod stay.
pub(super) fn plan(draft: &mut Draft<'_>, sandbox: &ObservedSandbox) -> bool {
    let sources = sources(draft.pod, draft.observed);
    if sources.is_empty() {
        return false;
    }
    let concerned = |instance: &&ObservedContainer| {
        let mut containers = draft.pod.containers.iter();
        let container = containers.find(|container| container.name == instance.name);
        instance.sandbox == sandbox.id && container.is_some_and(|container| container.role != Role::Ephemeral)
    };
    let targets: Vec<_> =
        draft.observed.containers.iter().filter(concerned).filter(|instance| !sources.contains(instance)).collect();
    for target in &targets {
        if is_live(target) {
            stop::container(draft, target, draft.now, StopReason::RestartAllContainers);
        } else {
            draft.offer(Step::RemoveContainer { id: target.id.clone() });
        }
    }
    // What is still being made would be taken for what begins anew.
    if targets.is_empty() && draft.memory.is_quiet() {
        for source in sources {
            draft.offer(Step::RemoveContainer { id: source.id.clone() });
        }
    }
    true
}
