//! What follows the end of a container, and when nothing follows any more.
//!
//! Source: kubernetes v1.36 `pkg/api/v1/pod/util.go` (`ContainerShouldRestart`), `pkg/kubelet/container/helpers.go`
//! (`ShouldContainerBeRestarted`), `pkg/kubelet/kuberuntime/kuberuntime_manager.go` (`computePodActions`).

use super::{Draft, is_as_defined};
use crate::model::{ContainerPhase, Moment, ObservedContainer};
use crate::podspec::{Container, ExitCodes, RestartAction, RestartPolicy, Role};

/// What follows an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing: it was the last.
    Final,
    /// The container runs again.
    Restart,
    /// All containers of the pod begin again.
    RestartAllContainers,
}

/// As of a process killed by SIGKILL.
pub(super) const KILLED: i32 = 137;

/// Whether an init container that ended this way has not done its work. One that ran out of memory has not, whatever its
/// exit code. `reason` is the runtime's.
pub(super) fn has_failed(exit_code: i32, reason: &str) -> bool {
    exit_code != 0 || reason == "OOMKilled"
}

/// What follows an end: the first rule that is about the exit code, otherwise the policy.
pub(super) fn next(container: &Container, exit_code: i32, reason: &str) -> Next {
    let is_hidden = container.role == Role::Init && exit_code == 0 && has_failed(exit_code, reason);
    let exit_code = if is_hidden { KILLED } else { exit_code };
    let is_about = |codes: &ExitCodes| match codes {
        ExitCodes::In(codes) => codes.contains(&exit_code),
        ExitCodes::NotIn(codes) => !codes.contains(&exit_code),
    };
    if let Some(rule) = container.restart_rules.iter().find(|rule| is_about(&rule.exit_codes)) {
        return match rule.action {
            RestartAction::Restart => Next::Restart,
            RestartAction::RestartAllContainers => Next::RestartAllContainers,
        };
    }
    match container.restart_policy {
        RestartPolicy::Always => Next::Restart,
        RestartPolicy::OnFailure if exit_code != 0 => Next::Restart,
        RestartPolicy::OnFailure | RestartPolicy::Never => Next::Final,
    }
}

/// What follows the end of this instance; none if it has not ended.
pub(super) fn after(container: &Container, instance: &ObservedContainer) -> Option<Next> {
    let ContainerPhase::Exited { exit_code, reason, .. } = &instance.phase else { return None };
    Some(next(container, *exit_code, reason))
}

/// Whether the instance has ended and nothing follows. One made of another definition is followed by one of this.
pub(super) fn is_final(container: &Container, instance: &ObservedContainer) -> bool {
    is_as_defined(instance, container) && after(container, instance) == Some(Next::Final)
}

/// Whether an init container's instance has done its work.
pub(super) fn is_done(instance: &ObservedContainer) -> bool {
    matches!(&instance.phase, ContainerPhase::Exited { exit_code, reason, .. } if !has_failed(*exit_code, reason))
}

/// Since when the pod has come to its end by itself; none while something of it runs on or may run again.
///
/// That is when all regular containers are final, or when an init container has failed for good. What is final stays so in
/// a new sandbox: upstream runs it once more there if its policy is not OnFailure. A pod under `Never` whose sandbox is lost
/// goes on with the containers that had not begun; upstream leaves it hanging.
pub(super) fn over(draft: &Draft<'_>) -> Option<Moment> {
    let newest_sandbox = draft.observed.sandboxes.first();
    let containers = || draft.pod.containers.iter().enumerate();
    let ended_at = |index: usize| draft.memory.containers[index].ended.as_ref().map_or(draft.now, |(_, at)| *at);
    for (index, container) in containers().filter(|(_, container)| container.role == Role::Init) {
        let failed = |instance: &ObservedContainer| is_final(container, instance) && !is_done(instance);
        if draft.current(index, newest_sandbox).is_some_and(failed) {
            return Some(ended_at(index));
        }
    }
    let mut since = None;
    for (index, container) in containers().filter(|(_, container)| container.role == Role::Regular) {
        if !draft.instances(index).next().is_some_and(|newest| is_final(container, newest)) {
            return None;
        }
        since = since.max(Some(ended_at(index)));
    }
    since
}
