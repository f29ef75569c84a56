//! Init containers: one after the other, and sidecars among them that stay.
//!
//! How far a pod has come is read from its newest sandbox alone: in a new one everything begins again. What was made last
//! there tells that all before it were done, so that removed instances are not missed.
//!
//! Source: kubernetes v1.36 `pkg/kubelet/kuberuntime/kuberuntime_container.go`, `computeInitContainerActions`.

use super::container::{Progress, begin, tend, tend_running};
use super::{Draft, is_live, policy};
use crate::model::ObservedSandbox;
use crate::podspec::Role;

/// Cares for the init containers; true once the regular ones may run.
///
/// An init container is done when it has exited well, a sidecar when it has started. Of sidecars that have been passed
/// nothing more is waited for; they are kept running.
pub(super) fn walk(draft: &mut Draft<'_>, sandbox: Option<&ObservedSandbox>) -> bool {
    for index in 0..draft.pod.containers.len() {
        let is_passed = is_passed(draft, index, sandbox);
        let is_done = match draft.pod.containers[index].role {
            Role::Init => is_passed || init(draft, index, sandbox),
            Role::Sidecar => sidecar(draft, index, sandbox) || is_passed,
            Role::Regular | Role::Ephemeral => return true,
        };
        if !is_done {
            return false;
        }
    }
    true
}

/// Whether a container that follows it was made in the sandbox.
fn is_passed(draft: &Draft<'_>, index: usize, sandbox: Option<&ObservedSandbox>) -> bool {
    let following = (index + 1..draft.pod.containers.len())
        .filter(|following| draft.pod.containers[*following].role != Role::Ephemeral);
    let mut made = following.filter_map(|following| draft.current(following, sandbox));
    made.next().is_some()
}

/// Runs an init container until it has exited well.
fn init(draft: &mut Draft<'_>, index: usize, sandbox: Option<&ObservedSandbox>) -> bool {
    match draft.current(index, sandbox) {
        Some(instance) if is_live(instance) => {
            tend_running(draft, index, instance);
            false
        }
        Some(instance) if policy::is_done(instance) => true,
        // One that failed for good has ended the pod.
        _ => {
            begin(draft, index, sandbox, true);
            false
        }
    }
}

/// Keeps a sidecar running; true while it has started.
fn sidecar(draft: &mut Draft<'_>, index: usize, sandbox: Option<&ObservedSandbox>) -> bool {
    let progress = tend(draft, index, sandbox, true);
    let instance = draft.current(index, sandbox);
    progress == Progress::Running && instance.is_some_and(|instance| draft.health(index, &instance.id).is_started())
}
