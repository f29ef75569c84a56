//! `status.phase`: what the statuses of all containers add up to.

use k8s_openapi::api::core::v1 as k8s;

use super::containers::RESTARTING_ALL;
use super::{Situation, ended, has_begun, has_failed, has_initialized, is_running, last_end, with_statuses};
use crate::model::ContainerPhase;
use crate::plan::policy::{self, Next};
use crate::plan::{instances, is_as_defined};
use crate::podspec::{Container, Role};

/// The phase. A final one is given only once no container lives: until then others may still need what the pod holds.
pub(super) fn phase(situation: &Situation<'_>, statuses: &[k8s::ContainerStatus]) -> &'static str {
    if !situation.lives() {
        if let Some(finished) = situation.finished {
            return finished.phase();
        }
        if situation.ending {
            return if have_all_succeeded(situation, statuses) { "Succeeded" } else { "Failed" };
        }
        return Tally::of(situation, statuses).phase();
    }
    match Tally::of(situation, statuses).phase() {
        "Succeeded" | "Failed" => {
            let mut regular = with_statuses(situation.pod, statuses).filter(|(one, _)| one.role == Role::Regular);
            if regular.any(|(_, status)| status.is_some_and(has_begun)) { "Running" } else { "Pending" }
        }
        phase => phase,
    }
}

/// Whether all regular containers have ended well. Those that never ran have not.
fn have_all_succeeded(situation: &Situation<'_>, statuses: &[k8s::ContainerStatus]) -> bool {
    let mut regular = with_statuses(situation.pod, statuses).filter(|(one, _)| one.role == Role::Regular);
    regular.all(|(_, status)| {
        let ended = status.and_then(|status| ended(status.state.as_ref()));
        ended.is_some_and(|ended| ended.exit_code == 0)
    })
}

/// How many containers are in which state.
///
/// Source: kubernetes v1.36 `pkg/kubelet/kubelet_pods.go`, `getPhase`.
#[derive(Debug, Default)]
struct Tally {
    /// Init containers that have not done their work.
    pending_init: usize,
    /// Init containers that failed for good.
    failed_init: usize,
    /// Sidecars that have not started, in a pod none of whose regular containers has.
    pending_sidecars: usize,
    running: usize,
    /// Not begun, ever.
    waiting: usize,
    /// Ended; perhaps about to run again.
    stopped: usize,
    /// Of these: ended for good.
    last: usize,
    /// Of these: ended well.
    succeeded: usize,
}

impl Tally {
    fn of(situation: &Situation<'_>, statuses: &[k8s::ContainerStatus]) -> Self {
        let initialized = has_initialized(situation);
        let mut tally = Self::default();
        for (container, status) in with_statuses(situation.pod, statuses) {
            // One of another definition is followed by one of this, whatever the policy.
            let is_followed = (instances(situation.observed, container).next())
                .is_some_and(|newest| newest.phase == ContainerPhase::Created || !is_as_defined(newest, container));
            let is_last = |end: &k8s::ContainerStateTerminated| !is_followed && is_last(container, end);
            match (container.role, status) {
                (Role::Init, Some(status)) => tally.init(status, is_last),
                (Role::Init, None) => tally.pending_init += 1,
                (Role::Sidecar, Some(status)) => tally.sidecar(status, initialized),
                (Role::Regular, Some(status)) => tally.regular(status, is_last),
                (Role::Sidecar | Role::Regular, None) => tally.waiting += 1,
                (Role::Ephemeral, _) => {}
            }
        }
        tally
    }

    fn init(&mut self, status: &k8s::ContainerStatus, is_last: impl Fn(&k8s::ContainerStateTerminated) -> bool) {
        match last_end(status) {
            Some(end) if !has_failed(end) => {}
            Some(end) => self.failed_init += usize::from(is_last(end)),
            None => self.pending_init += 1,
        }
    }

    /// One that has ended plays no part: it is on its way back, or the pod has ended.
    fn sidecar(&mut self, status: &k8s::ContainerStatus, initialized: bool) {
        let is_begun = has_begun(status);
        let is_running = is_running(status.state.as_ref());
        self.running += usize::from(is_running);
        self.waiting += usize::from(!is_begun);
        let is_started = status.started == Some(true) || is_begun && !is_running;
        self.pending_sidecars += usize::from(!initialized && !is_started);
    }

    fn regular(&mut self, status: &k8s::ContainerStatus, is_last: impl Fn(&k8s::ContainerStateTerminated) -> bool) {
        if is_running(status.state.as_ref()) {
            self.running += 1;
        } else if let Some(end) = last_end(status) {
            self.stopped += 1;
            self.last += usize::from(is_last(end));
            self.succeeded += usize::from(end.exit_code == 0);
        } else {
            self.waiting += 1;
        }
    }

    fn phase(&self) -> &'static str {
        if self.failed_init > 0 {
            "Failed"
        } else if self.pending_init + self.pending_sidecars + self.waiting > 0 {
            "Pending"
        } else if self.running > 0 || self.stopped != self.last {
            "Running"
        } else if self.stopped == self.succeeded {
            "Succeeded"
        } else {
            "Failed"
        }
    }
}

/// Whether nothing follows this end.
fn is_last(container: &Container, end: &k8s::ContainerStateTerminated) -> bool {
    let reason = end.reason.as_deref().unwrap_or_default();
    reason != RESTARTING_ALL && policy::next(container, end.exit_code, reason) == Next::Final
}
