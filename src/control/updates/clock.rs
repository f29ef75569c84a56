//! What time it is: by the wall clock, which is set now and then, and by one that begins with it and that nobody sets.

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// Goes on whatever becomes of the wall clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    begun: Timestamp,
    at: Instant,
}

/// One moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Now {
    /// By the clock that nobody sets: for how long something takes.
    pub(super) steady: Timestamp,
    /// By the wall clock: for what is shown, and to compare with what is told.
    pub(super) wall: Timestamp,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { begun: Timestamp::now(), at: Instant::now() }
    }

    pub(super) fn now(self) -> Now {
        let passed = SignedDuration::try_from(self.at.elapsed()).unwrap_or(SignedDuration::MAX);
        Now { steady: self.begun.saturating_add(passed).unwrap_or(Timestamp::MAX), wall: Timestamp::now() }
    }
}

impl Now {
    /// When that was by the steady clock which a node says was then. Nothing is yet to come: a clock that is ahead is another one.
    pub(super) fn since(self, told: Timestamp) -> Timestamp {
        let age = self.wall.duration_since(told).max(SignedDuration::ZERO);
        self.steady.saturating_sub(age).unwrap_or(Timestamp::MIN)
    }
}
