//! Ends of containers that containerd told of and that CRI does not show yet.
//!
//! containerd 1.6 clears up after a container for 40 to 70 ms before its CRI shows that it has ended. Nothing of that has to be waited
//! for: the word of containerd counts until CRI shows the same. What CRI makes of the end, its reason, is not known before.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_cri::v1;

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) exit_code: i32,
    /// In nanoseconds since the epoch, as CRI counts.
    pub(crate) finished_at: i64,
}

/// By container.
#[derive(Debug, Default)]
pub(super) struct Ends(Mutex<HashMap<String, End>>);

impl Ends {
    pub(super) fn note(&self, container: &str, end: End) {
        self.ends().insert(container.to_owned(), end);
    }

    pub(super) fn forget(&self, container: &str) {
        self.ends().remove(container);
    }

    /// A container as it is: what CRI shows, none if there is no such container, with what is known beyond that.
    pub(super) fn over(&self, container: &str, shown: Option<v1::ContainerStatus>) -> Option<v1::ContainerStatus> {
        let mut ends = self.ends();
        let state = shown.as_ref().map(v1::ContainerStatus::state);
        if matches!(state, None | Some(v1::ContainerState::ContainerExited)) {
            ends.remove(container);
        }
        let end = ends.get(container).filter(|_| state == Some(v1::ContainerState::ContainerRunning)).copied();
        match (shown, end) {
            (Some(shown), Some(End { exit_code, finished_at })) => {
                let state = v1::ContainerState::ContainerExited.into();
                Some(v1::ContainerStatus { state, exit_code, finished_at, ..shown })
            }
            (shown, _) => shown,
        }
    }

    fn ends(&self) -> MutexGuard<'_, HashMap<String, End>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(state: v1::ContainerState, exit_code: i32, finished_at: i64) -> Option<v1::ContainerStatus> {
        let reason = if exit_code == 0 { "" } else { "OOMKilled" }.to_owned();
        Some(v1::ContainerStatus { state: state.into(), exit_code, finished_at, reason, ..Default::default() })
    }

    #[test]
    fn an_end_counts_until_cri_shows_it() {
        use v1::ContainerState::{ContainerCreated, ContainerExited, ContainerRunning};
        let running = || shown(ContainerRunning, 0, 0);
        let ends = Ends::default();
        let end = End { exit_code: 0, finished_at: 9 };
        for last in [shown(ContainerExited, 137, 9), None] {
            assert_eq!(ends.over("c", running()), running());
            ends.note("c", end);
            assert_eq!(ends.over("other", running()), running());
            let starting = shown(ContainerCreated, 0, 0);
            assert_eq!(ends.over("c", starting.clone()), starting, "of one that is being started CRI will say so next");
            assert_eq!(ends.over("c", running()), shown(ContainerExited, 0, 9));
            assert_eq!(ends.over("c", last.clone()), last);
        }
        assert_eq!(ends.over("c", running()), running());
        ends.note("c", end);
        ends.forget("c");
        assert_eq!(ends.over("c", running()), running());
    }
}
