//! The agent's clock: one that only moves forward for all delays, the wall clock for what is shown.

use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::roster::Input;
use crate::host::clock::ClockAlarm;
use crate::host::ledger::Ending;
use crate::model::Moment;

/// Counts from the agent's start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    start: Instant,
    wall: fn() -> Timestamp,
}

impl Clock {
    /// `wall` tells the host's time of day.
    pub(super) fn new(wall: fn() -> Timestamp) -> Self {
        Self { start: Instant::now(), wall }
    }

    /// What the host's wall clock shows; somebody may set it at any time, both ways.
    pub(super) fn wall(self) -> Timestamp {
        (self.wall)()
    }

    pub(super) fn now(self) -> Moment {
        Moment(self.start.elapsed())
    }

    /// Waits until `moment`; for ever if there is none. Cancel-safe.
    pub(super) async fn sleep_until(self, moment: Option<Moment>) {
        match moment {
            Some(moment) => tokio::time::sleep_until(self.start + moment.0).await,
            None => std::future::pending().await,
        }
    }

    /// When a pod's last container is killed at the latest.
    ///
    /// A wall clock that was set back, or far forward, since the end began does not stretch the grace period, and leaves
    /// none at worst.
    pub(super) fn deadline(self, ending: &Ending) -> Moment {
        let grace = Duration::from_secs(ending.grace_period_secs.into());
        let passed = Duration::try_from(self.wall().duration_since(ending.since)).unwrap_or_default();
        self.now() + grace.saturating_sub(passed)
    }
}

/// Tells the roster whenever somebody sets the wall clock.
pub(super) async fn listen(inputs_tx: mpsc::Sender<Input>) {
    let listening = async {
        let alarm = ClockAlarm::new()?;
        loop {
            alarm.rings().await?;
            if inputs_tx.send(Input::ClockSet).await.is_err() {
                return Ok::<_, std::io::Error>(());
            }
        }
    };
    if let Err(error) = listening.await {
        tracing::warn!(%error, "tokens that are over once this host's clock is set will be renewed in their time only");
    }
}
