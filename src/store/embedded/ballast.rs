//! Room on the disk that is kept for deletions: a file that is given up when the disk is full and somebody deletes.
//!
//! A deletion is a write like others, and on a full disk it would fail like others, although it is what makes room. So would the
//! mark on what has to end first. The file is made again as soon as there is room for it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::posix_fallocate;
use nix::sys::statvfs::statvfs;
use tracing::{info, warn};

const FILE: &str = "store.ballast";
/// What is kept free, unless that were more than a [`SHARE`] of the disk.
const BYTES: u64 = 16 << 20;
const SHARE: u64 = 16;
/// How often it is tried to make the file again.
const RETRY: Duration = Duration::from_secs(30);

/// The room that is kept.
#[derive(Debug)]
pub struct Ballast {
    path: PathBuf,
    bytes: u64,
    is_there: bool,
    /// When it was tried last to make it.
    tried: Instant,
}

impl Ballast {
    /// For the store in `dir`. On a disk that is full already there is none.
    pub fn of(dir: &Path) -> Self {
        let size = statvfs(dir).map_or(0, |stat| stat.fragment_size() * stat.blocks());
        let (path, bytes) = (dir.join(FILE), BYTES.min(size / SHARE));
        let mut ballast = Self { path, bytes, is_there: false, tried: Instant::now() };
        ballast.make();
        ballast
    }

    /// Makes the file if it is not there, now and then.
    pub fn restore(&mut self) {
        if !self.is_there && self.tried.elapsed() >= RETRY {
            self.make();
        }
    }

    /// Gives the room up. False if there is none to give.
    pub fn release(&mut self) -> bool {
        if !std::mem::take(&mut self.is_there) {
            return false;
        }
        self.tried = Instant::now();
        let removed = fs::remove_file(&self.path);
        match &removed {
            Ok(()) => warn!(path = %self.path.display(), "the disk is full: what was kept for deletions is used"),
            Err(error) => warn!(path = %self.path.display(), %error, "what is kept for deletions cannot be given up"),
        }
        removed.is_ok()
    }

    fn make(&mut self) {
        self.tried = Instant::now();
        match allocate(&self.path, self.bytes) {
            Ok(()) => self.is_there = true,
            Err(error) => {
                info!(path = %self.path.display(), %error, "nothing can be kept for deletions");
                // What there is of it would only take room.
                let _ = fs::remove_file(&self.path);
            }
        }
    }
}

fn allocate(path: &Path, bytes: u64) -> io::Result<()> {
    let file: File = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let bytes = i64::try_from(bytes.max(1)).expect("it is some megabytes");
    Ok(posix_fallocate(&file, 0, bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_given_up_once_and_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut ballast = Ballast::of(dir.path());
        let bytes = || fs::metadata(dir.path().join(FILE)).ok().map(|file| file.len());
        assert_eq!(bytes(), Some(ballast.bytes));
        assert!(ballast.release());
        assert_eq!((bytes(), ballast.release()), (None, false));
        ballast.restore();
        assert_eq!(bytes(), None, "not at once");
        ballast.tried -= RETRY;
        ballast.restore();
        assert_eq!(bytes(), Some(ballast.bytes));
    }
}
