//! This machine: the only place that touches files, mounts, cgroups and devices of the host.
//!
//! One module for each thing the host has. They carry out what others decided and report what they find; they keep nothing
//! in memory. Functions here block, for as long as a disk takes: async callers put them into `agent::blocking`. Only
//! [`logs::stream`] is async, since following a log may last for days, and so are [`check`], [`slices`] and [`cni::release`],
//! which wait for others, and [`netns::connect`], which has to have a thread of its own.
//!
//! The module must not speak to the runtime or to control, and must not decide what a pod needs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub mod cgroups;
pub mod check;
pub mod clock;
pub mod cni;
pub mod credentials;
pub mod devices;
pub mod dirs;
pub mod facts;
pub mod footprint;
pub mod ledger;
pub mod load;
pub mod lock;
pub mod logs;
pub mod loopback;
mod mounts;
pub mod netns;
pub mod preflight;
pub mod pressure;
pub mod resolv;
pub mod service;
pub mod slices;
pub mod socket;
pub mod strays;
mod tree;
pub mod units;
pub mod usage;
pub mod userns;
pub mod volumes;
pub mod watch;

/// Something could not be done to a file, a directory or a mount.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}")]
pub struct FileError {
    /// What was tried, as a verb.
    pub action: &'static str,
    /// What it was tried on.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// Removes a file, or a directory with everything below it. Nothing there is success.
///
/// # Errors
/// [`FileError`] naming what could not be removed.
pub fn remove(path: &Path) -> Result<(), FileError> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => tree::remove_tree(path),
        Ok(_) => fs::remove_file(path).map_err(failed("remove", path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("look at", path)(error)),
    }
}

/// Makes a [`FileError`] of what the system said, for `map_err`.
fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    move |source| FileError { action, path: path.to_owned(), source }
}
