//! Telling that a folder changed, without looking at it again and again (inotify(7)).

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

/// What counts as a change: files that were written to the end, came or went, and the folder itself going.
const CHANGES: AddWatchFlags = AddWatchFlags::IN_CLOSE_WRITE
    .union(AddWatchFlags::IN_MOVE)
    .union(AddWatchFlags::IN_CREATE)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_UNMOUNT);

/// Watches one folder and the one above it, so that a folder that is missing is noticed when it comes.
///
/// Needs a runtime with I/O enabled. A mount on top of the folder is not seen: the kernel tells nobody of it.
#[derive(Debug)]
pub struct FolderWatch {
    inotify: AsyncFd<Descriptor>,
    path: PathBuf,
}

impl FolderWatch {
    /// Begins to watch. Neither the folder nor its parent has to exist, but nothing is told before there is one of them.
    ///
    /// # Errors
    /// When the kernel has no inotify instance left (`fs.inotify.max_user_instances`).
    pub fn new(path: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        // SAFETY: `Descriptor` owns inotify's descriptor and gives no way to close or replace it, so it stays open and the
        // same for as long as the `AsyncFd` that owns `Descriptor` in turn.
        let inotify = unsafe { AsyncFd::register(Descriptor(inotify)) }?;
        let watch = Self { inotify, path: path.to_owned() };
        watch.add()?;
        Ok(watch)
    }

    /// Waits until something changed since the last call, or since `new`. Cancel-safe: nothing is read before it answers.
    ///
    /// # Errors
    /// When the descriptor fails; the watch is then of no more use.
    pub async fn changed(&mut self) -> io::Result<()> {
        let mut ready = self.inotify.readable().await?;
        // One answer for however many events there are.
        while ready.get_inner().0.read_events().is_ok() {}
        ready.clear_ready();
        drop(ready);
        // The folder may be another one by now. Watching the same one again changes nothing.
        self.add()
    }

    fn add(&self) -> io::Result<()> {
        for path in [Some(self.path.as_path()), self.path.parent()].into_iter().flatten() {
            match self.inotify.get_ref().0.add_watch(path, CHANGES) {
                Ok(_) | Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

/// Lends inotify's descriptor to the reactor.
#[derive(Debug)]
struct Descriptor(Inotify);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;

    async fn changed(watch: &mut FolderWatch) {
        tokio::time::timeout(Duration::from_secs(10), watch.changed()).await.expect("a change is told").unwrap();
    }

    #[tokio::test]
    async fn files_and_the_folder_itself_are_watched() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("manifests");
        let mut watch = FolderWatch::new(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        changed(&mut watch).await;
        fs::write(folder.join("a"), "1").unwrap();
        changed(&mut watch).await;
        fs::remove_file(folder.join("a")).unwrap();
        changed(&mut watch).await;
        fs::rename(&folder, dir.path().join("away")).unwrap();
        changed(&mut watch).await;
        fs::create_dir(&folder).unwrap();
        changed(&mut watch).await;
        fs::write(folder.join("b"), "1").unwrap();
        changed(&mut watch).await;
    }
}
