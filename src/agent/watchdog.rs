//! Signs of life for the service manager, given by the roster's own loop: when it hangs, nothing else would notice.

use std::time::Duration;

use crate::host::service;
use crate::model::Moment;

/// When the next sign is due.
#[derive(Debug)]
pub(super) struct Watchdog {
    /// None if nobody waits for signs.
    interval: Option<Duration>,
    due: Moment,
}

impl Watchdog {
    /// Gives signs as often as the service manager asks for: at half the time it waits, as sd_watchdog_enabled(3) advises.
    pub(super) fn new() -> Self {
        Self::every(service::watchdog().map(|limit| limit / 2))
    }

    fn every(interval: Option<Duration>) -> Self {
        Self { interval, due: Moment::default() }
    }

    /// When the loop has to come round again at the latest.
    pub(super) fn due(&self) -> Option<Moment> {
        self.interval.map(|_| self.due)
    }

    /// The loop came round.
    pub(super) fn beat(&mut self, now: Moment) {
        if self.is_due(now) {
            service::alive();
        }
    }

    /// Whether a sign is due, which then counts as given.
    fn is_due(&mut self, now: Moment) -> bool {
        let Some(interval) = self.interval.filter(|_| now >= self.due) else { return false };
        self.due = now + interval;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_are_given_at_the_interval_and_not_with_every_pass() {
        let at = |seconds| Moment(Duration::from_secs(seconds));
        let mut watchdog = Watchdog::every(Some(Duration::from_secs(90)));
        let given: Vec<_> = [0, 1, 89, 90, 95, 200].into_iter().filter(|now| watchdog.is_due(at(*now))).collect();
        assert_eq!((given, watchdog.due()), (vec![0, 90, 200], Some(at(290))));

        let mut nobody_waits = Watchdog::every(None);
        assert_eq!((nobody_waits.is_due(at(500)), nobody_waits.due()), (false, None));
    }
}
