//! A unit of this host's systemd, enabled and started as a person would: with systemctl(1).
//!
//! Unlike [`slices`](super::slices) this waits until the unit is up, and says in systemd's words why it is not.

use std::io;
use std::process::{Command, Output};

use super::preflight;

/// What did not work.
#[derive(Debug, thiserror::Error)]
pub enum UnitError {
    /// There is no such program, or it cannot be run.
    #[error("cannot run systemctl {verb} {unit}")]
    Run {
        /// `enable` and the like.
        verb: &'static str,
        /// With its ending.
        unit: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// systemd says no, or the unit does not come up.
    #[error("systemctl {verb} {unit}: {said}")]
    Failed {
        /// `enable` and the like.
        verb: &'static str,
        /// With its ending.
        unit: String,
        /// Its words, on one line.
        said: String,
    },
}

/// Whether this host has the unit, and a systemd that runs it.
pub fn has(unit: &str) -> bool {
    preflight::has_systemd() && systemctl("cat", unit).is_ok()
}

/// Has the unit start at every boot, and start now; anew if it runs and `restart` is asked for. Repeatable.
///
/// # Errors
/// [`UnitError`]; a unit that does not come up stays enabled.
pub fn enable_and_start(unit: &str, restart: bool) -> Result<(), UnitError> {
    systemctl("enable", unit)?;
    systemctl(if restart { "restart" } else { "start" }, unit)
}

fn systemctl(verb: &'static str, unit: &str) -> Result<(), UnitError> {
    let run = Command::new("systemctl").args(["--no-pager", verb, unit]).output();
    let output = run.map_err(|source| UnitError::Run { verb, unit: unit.to_owned(), source })?;
    if output.status.success() {
        return Ok(());
    }
    Err(UnitError::Failed { verb, unit: unit.to_owned(), said: said(&output) })
}

/// What a program complained of, on one line.
pub(super) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).split_whitespace().collect::<Vec<_>>().join(" ")
}
