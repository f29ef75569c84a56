//! Delays between attempts at one thing that fails.
//!
//! Pure: the moment and any random number are given. It must not wait.

use std::time::Duration;

use crate::model::Moment;

/// How delays grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The delay after the first attempt.
    pub first: Duration,
    /// Each delay is twice the one before, up to this.
    pub max: Duration,
}

/// How long the next attempt has to wait for the last one.
///
/// Source: kubernetes v1.36 `staging/src/k8s.io/client-go/util/flowcontrol/backoff.go`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// From the last attempt (or its end, as the caller reckons) to the next.
    pub delay: Duration,
    /// When the delay was set.
    pub since: Moment,
}

impl Backoff {
    /// After this many times the longest delay without an attempt the past is forgotten.
    const FORGET_AFTER_MAX: u32 = 2;

    /// Whether `at` lies so long after the last attempt that it starts afresh.
    pub fn is_stale(&self, at: Moment, limits: Limits) -> bool {
        at.since(self.since) > limits.max * Self::FORGET_AFTER_MAX
    }

    /// The delay that an attempt now leaves behind: `first`, or twice that of `before` unless `reference` (the end of what
    /// the attempt before began) is long after it.
    pub fn next(before: Option<Self>, reference: Moment, now: Moment, limits: Limits) -> Self {
        let delay = match before {
            Some(before) if !before.is_stale(reference, limits) => (before.delay * 2).min(limits.max),
            _ => limits.first,
        };
        Self { delay, since: now }
    }
}

/// Full jitter: a delay between zero and `first` doubled `attempt` times (0 for the first retry), at most `max`.
///
/// `random` is drawn anew for each call, evenly from all values of its type. Spreads the reconnects of a fleet.
///
/// Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
pub fn full_jitter(attempt: u32, random: u32, limits: Limits) -> Duration {
    let doubled = 1_u32.checked_shl(attempt).and_then(|factor| limits.first.checked_mul(factor));
    let ceiling = doubled.unwrap_or(limits.max).min(limits.max);
    ceiling.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { first: Duration::from_secs(10), max: Duration::from_secs(300) };

    fn at(second: u64) -> Moment {
        Moment(Duration::from_secs(second))
    }

    #[test]
    fn delays_double_to_the_limit_and_start_afresh_after_a_long_rest() {
        let after = |delay, reference| {
            let before = Backoff { delay: Duration::from_secs(delay), since: at(0) };
            Backoff::next(Some(before), at(reference), at(1000), LIMITS).delay.as_secs()
        };
        assert_eq!(Backoff::next(None, at(0), at(7), LIMITS), Backoff { delay: LIMITS.first, since: at(7) });
        assert_eq!([after(10, 1), after(80, 1), after(160, 1), after(300, 1)], [20, 160, 300, 300]);
        assert_eq!([after(300, 600), after(300, 601)], [300, 10]);
    }

    #[test]
    fn jitter_reaches_from_nothing_to_the_full_delay() {
        let seconds = |attempt, random| full_jitter(attempt, random, LIMITS).as_secs();
        assert_eq!(
            [0, 1, 4, 5, 31, 32, u32::MAX].map(|attempt| seconds(attempt, u32::MAX)),
            [10, 20, 160, 300, 300, 300, 300]
        );
        assert_eq!([seconds(0, 0), seconds(9, 0), seconds(0, u32::MAX / 2)], [0, 0, 4]);
    }
}
