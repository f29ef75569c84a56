//! Telling that somebody set the host's wall clock, as opposed to its going faster or slower (timerfd_create(2),
//! `TFD_TIMER_CANCEL_ON_SET`).

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Wakes when the wall clock is set, and at no other time.
#[derive(Debug)]
pub struct ClockAlarm(AsyncFd<File>);

impl ClockAlarm {
    /// Begins to listen. Needs a runtime with I/O enabled.
    ///
    /// # Errors
    /// The system's, where it makes no timer.
    pub fn new() -> io::Result<Self> {
        let timer = TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        let never = Expiration::OneShot(TimeSpec::new(i64::MAX, 0));
        timer.set(never, TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET)?;
        let timer = File::from(OwnedFd::from(timer));
        // SAFETY: the descriptor is the `File`'s, which nothing here takes out of the `AsyncFd` or replaces.
        Ok(Self(unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) }?))
    }

    /// Waits until it was set since the last call, or since `new`. Cancel-safe.
    ///
    /// # Errors
    /// When the descriptor fails; it is then of no more use.
    pub async fn rings(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|timer| timer.get_ref().read(&mut [0; 8])) {
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::ECANCELED as i32) => return Ok(()),
                Ok(read) => drop(read?),
                Err(_would_block) => {}
            }
        }
    }
}
