//! The plan of a pod that ends: containers, then sandboxes, then what is on disk.
//!
//! Source: kubernetes v1.36 `pkg/kubelet/kuberuntime/kuberuntime_manager.go` (`killPodWithSyncResult`) and
//! `pkg/kubelet/kubelet.go` (`SyncTerminatingPod`, `SyncTerminatedPod`).

use super::{Draft, Step, StopReason, is_live};
use crate::model::{Moment, ObservedPod, SandboxId};

/// All containers are stopped at once; nothing else begins before the last of them has ended and all other steps are done,
/// so that what a step still under way has made is not overlooked.
pub(super) fn plan(draft: &mut Draft<'_>, observed: &ObservedPod, deadline: Moment) {
    let live: Vec<_> = observed.containers.iter().filter(|instance| is_live(instance)).collect();
    for instance in &live {
        draft.stop(instance, deadline, StopReason::Ending);
    }
    if !live.is_empty() || !draft.memory.is_quiet() {
        return;
    }
    if !draft.stop_sandboxes(observed.sandboxes.iter().map(|sandbox| &sandbox.id)) {
        return;
    }
    for sandbox in &observed.sandboxes {
        draft.offer(Step::RemoveSandbox { id: sandbox.id.clone() });
    }
    let has_sandbox = |id: &SandboxId| observed.sandboxes.iter().any(|sandbox| sandbox.id == *id);
    for instance in observed.containers.iter().filter(|instance| !has_sandbox(&instance.sandbox)) {
        draft.offer(Step::RemoveContainer { id: instance.id.clone() });
    }
    if observed.sandboxes.is_empty() && observed.containers.is_empty() {
        if draft.memory.cleaned {
            draft.plan.gone = true;
        } else {
            draft.offer(Step::CleanUp);
        }
    }
}
