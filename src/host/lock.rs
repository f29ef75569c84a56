//! The state directory's lock: one agent at a time writes a ledger.

use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::{FileError, failed};

/// The file that is locked, below the state directory.
const FILE_NAME: &str = "agent.lock";

/// Held until it is dropped, or the process ends in any way.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<std::fs::File>,
}

/// Takes the lock of a state directory, making the directory if it is not there. None if another process has it.
///
/// # Errors
/// [`FileError`] if there can be no such file.
pub fn take(state_dir: &Path) -> Result<Option<Lock>, FileError> {
    let path = state_dir.join(FILE_NAME);
    DirBuilder::new().recursive(true).mode(0o700).create(state_dir).map_err(failed("make directory", state_dir))?;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(&path).map_err(failed("open", &path))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(file) => Ok(Some(Lock { _file: file })),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(failed("lock", &path)(errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_it_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = dir.path().join("new");
        let lock = take(&state_dir).unwrap();
        assert!(lock.is_some());
        assert!(take(&state_dir).unwrap().is_none());
        drop(lock);
        assert!(take(&state_dir).unwrap().is_some());
    }
}
