//! How soon a pod that failed is replaced: a DaemonSet whose pods keep failing makes fewer and fewer of them.

use std::time::Duration;

use crate::backoff::{Backoff, Limits};
use crate::model::{Moment, RevisionHash};

/// Delays between pods that failed.
///
/// Source: kubernetes v1.36 `cmd/kube-controller-manager/app/apps.go`, `startDaemonSetController`.
const FAILED: Limits = Limits { first: Duration::from_secs(1), max: Duration::from_secs(15 * 60) };

/// The pods of one DaemonSet that failed on this node. In memory only, as upstream.
///
/// Source: kubernetes v1.36 `pkg/controller/daemon/daemon_controller.go` (`podsShouldBeOnNode`), which begins afresh with
/// every change of the DaemonSet; here that is every change of its template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failures {
    revision: RevisionHash,
    backoff: Backoff,
}

impl Failures {
    /// One more, after `before`, is replaced now. `revision` is the DaemonSet's newest.
    pub fn after(before: Option<&Self>, revision: &RevisionHash, now: Moment) -> Self {
        let before = before.filter(|before| before.revision == *revision).map(|before| before.backoff);
        Self { revision: revision.clone(), backoff: Backoff::next(before, now, now, FAILED) }
    }

    /// When the next one may be replaced; none if at once.
    pub fn due(&self, revision: &RevisionHash, now: Moment) -> Option<Moment> {
        let due = self.backoff.since + self.backoff.delay;
        let counts = self.revision == *revision && !self.backoff.is_stale(now, FAILED);
        Some(due).filter(|due| counts && *due > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_that_keep_failing_are_replaced_ever_later_until_something_changes() {
        let at = |second| Moment(Duration::from_secs(second));
        let (one, two) = (RevisionHash::from("one"), RevisionHash::from("two"));
        let mut now = at(100);
        let mut failures = None;
        let delays: Vec<_> = (0..12)
            .map(|_| {
                let failed_at = now;
                now = failures.as_ref().and_then(|failures: &Failures| failures.due(&one, now)).unwrap_or(now);
                failures = Some(Failures::after(failures.as_ref(), &one, now));
                now.since(failed_at).as_secs()
            })
            .collect();
        assert_eq!(delays, [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900]);
        let failures = failures.unwrap();
        assert_eq!(failures.due(&two, now), None, "another revision begins afresh");
        assert_eq!(failures.due(&one, now + Duration::from_secs(1801)), None, "so does one that ran for long");
        let after = Failures::after(Some(&failures), &two, now);
        assert_eq!(after.due(&two, now), Some(now + Duration::from_secs(1)));
    }
}
