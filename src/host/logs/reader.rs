//! Reading a container's log for `kubectl logs`, to its end or for as long as the container runs.
//!
//! Pure inside, [`Filter`] says what is shown of the bytes of a file; around it a task reads the file, waits for more and
//! goes on in the next file when the log is rotated.

use std::io::{self, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::pin;

use bytes::Bytes;
use jiff::Timestamp;
use nix::fcntl::OFlag;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::fs::{File, OpenOptions};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncSeekExt, Interest};
use tokio::sync::mpsc;

use super::Line;

/// How much is read, and sent on, at once.
const CHUNK_BYTES: usize = 32 * 1024;
/// How many chunks may wait for a slow reader.
const QUEUE: usize = 4;
/// A line longer than this is no line of a log: runtimes cut at 16 KiB.
const LINE_BYTES_MAX: usize = 1024 * 1024;

/// What to show of a log: `PodLogOptions` of the API.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Start so many lines before the end of the live file. Counted before `since`, so fewer lines may be shown.
    pub tail_lines: Option<u64>,
    /// Leave out what was written before.
    pub since: Option<Timestamp>,
    /// Put its time before each line.
    pub timestamps: bool,
    /// Stop after so many bytes, in the middle of a line if need be.
    pub limit_bytes: Option<u64>,
}

/// Why a log cannot be read (on).
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file cannot be opened or read.
    #[error("cannot read log {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The directory cannot be watched.
    #[error("cannot follow log {path}; with \"too many open files\" raise the sysctl fs.inotify.max_user_instances")]
    Watch {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// What is in the log at `path`, in pieces of no particular size; empty if there is no file yet.
///
/// With `follow`, also what is added, across rotations, until that future is ready (the container has ended) and all it
/// wrote has been sent. Dropping the receiver stops the reading. After an error nothing more comes.
pub fn stream(
    path: PathBuf,
    options: &LogOptions,
    follow: Option<impl Future<Output = ()> + Send + 'static>,
) -> mpsc::Receiver<Result<Bytes, LogError>> {
    let (chunks_tx, chunks_rx) = mpsc::channel(QUEUE);
    let tail_lines = options.tail_lines;
    let reader = Reader { filter: Filter::new(options), chunks_tx, path };
    tokio::spawn(async move {
        let chunks_tx = reader.chunks_tx.clone();
        // Either may be dropped at any point: reading has no effect, and without a receiver nobody wants the rest.
        let end = tokio::select! {
            end = reader.run(tail_lines, follow) => end,
            () = chunks_tx.closed() => return,
        };
        if let Err(error) = end {
            let _ = chunks_tx.send(Err(error)).await;
        }
    });
    chunks_rx
}

struct Reader {
    path: PathBuf,
    filter: Filter,
    chunks_tx: mpsc::Sender<Result<Bytes, LogError>>,
}

impl Reader {
    async fn run(mut self, tail_lines: Option<u64>, follow: Option<impl Future<Output = ()>>) -> Result<(), LogError> {
        let Some(ended) = follow else {
            if let Some(mut file) = self.open().await? {
                self.seek_tail(&mut file, tail_lines).await?;
                self.read_to_end(&mut file).await?;
            }
            return self.finish().await;
        };
        // Watched before the first look, so that nothing is written unseen in between.
        let changes = Changes::watch(&self.path)?;
        let mut ended = pin!(ended);
        let mut running = true;
        let mut file = self.open().await?;
        if let Some(file) = &mut file {
            self.seek_tail(file, tail_lines).await?;
        }
        loop {
            if let Some(open) = &mut file {
                self.read_to_end(open).await?;
            }
            if self.filter.is_full() {
                return Ok(());
            }
            if let Some(next) = self.rotated(file.as_ref()).await? {
                // The runtime may have written to the old file until it opened the new one.
                if let Some(open) = &mut file {
                    self.read_to_end(open).await?;
                }
                file = Some(next);
                continue;
            }
            if !running {
                return self.finish().await;
            }
            // Both arms only wait; a change that is missed in one round is still to be read in the next.
            tokio::select! {
                () = &mut ended => running = false,
                changed = changes.wait() => changed.map_err(|source| self.watch_error(source))?,
            }
        }
    }

    /// Follows no link: a daemon that mounts the logs' directory could place one to lead its reader anywhere.
    async fn open(&self) -> Result<Option<File>, LogError> {
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
        match OpenOptions::new().read(true).custom_flags(flags).open(&self.path).await {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.read_error(error)),
        }
    }

    /// The file now at the path, if it is another one than `open`.
    async fn rotated(&self, open: Option<&File>) -> Result<Option<File>, LogError> {
        let Some(next) = self.open().await? else { return Ok(None) };
        let Some(open) = open else { return Ok(Some(next)) };
        let inode = async |file: &File| file.metadata().await.map(|metadata| (metadata.dev(), metadata.ino()));
        let same = async { Ok(inode(open).await? == inode(&next).await?) }.await;
        Ok((!same.map_err(|error| self.read_error(error))?).then_some(next))
    }

    async fn seek_tail(&self, file: &mut File, tail_lines: Option<u64>) -> Result<(), LogError> {
        let Some(lines) = tail_lines else { return Ok(()) };
        let sought = async {
            let start = tail_start(file, lines).await?;
            file.seek(SeekFrom::Start(start)).await
        };
        sought.await.map(drop).map_err(|error| self.read_error(error))
    }

    /// Sends on what is left of the file, as far as the limit allows.
    async fn read_to_end(&mut self, file: &mut File) -> Result<(), LogError> {
        let mut chunk = vec![0; CHUNK_BYTES];
        while !self.filter.is_full() {
            let count = file.read(&mut chunk).await.map_err(|error| self.read_error(error))?;
            if count == 0 {
                break;
            }
            let shown = self.filter.push(&chunk[..count]);
            self.send(shown).await;
        }
        Ok(())
    }

    /// Sends on a last line that lacks its newline.
    async fn finish(&mut self) -> Result<(), LogError> {
        let shown = self.filter.finish();
        self.send(shown).await;
        Ok(())
    }

    /// Without a receiver the task ends anyway.
    async fn send(&self, shown: Vec<u8>) {
        if !shown.is_empty() {
            let _ = self.chunks_tx.send(Ok(shown.into())).await;
        }
    }

    fn read_error(&self, source: io::Error) -> LogError {
        LogError::Read { path: self.path.clone(), source }
    }

    fn watch_error(&self, source: io::Error) -> LogError {
        LogError::Watch { path: self.path.clone(), source }
    }
}

/// Where the last `lines` lines of a file begin. Counts newlines backwards; a last line without one counts as a line.
async fn tail_start(file: &mut File, lines: u64) -> io::Result<u64> {
    let length = file.seek(SeekFrom::End(0)).await?;
    if lines == 0 {
        return Ok(length);
    }
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut position = length;
    let mut ends = 0;
    while position > 0 {
        let count = position.min(CHUNK_BYTES as u64);
        position -= count;
        let part = &mut chunk[..usize::try_from(count).expect("no more than a chunk")];
        file.seek(SeekFrom::Start(position)).await?;
        file.read_exact(part).await?;
        for (index, _) in part.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            let line_start = position + index as u64 + 1;
            // The newline at the very end closes the last line; every other one closes the line before.
            ends += u64::from(line_start < length);
            if ends == lines {
                return Ok(line_start);
            }
        }
    }
    Ok(0)
}

/// Tells of changes in a log's directory: of lines written, and of a new file at the path.
struct Changes(AsyncFd<Watcher>);

/// Lets tokio wait on it.
struct Watcher(Inotify);

impl AsRawFd for Watcher {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Changes {
    fn watch(path: &Path) -> Result<Self, LogError> {
        let fail = |source: io::Error| LogError::Watch { path: path.to_owned(), source };
        let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).map_err(|e| fail(e.into()))?;
        let dir = path.parent().unwrap_or(Path::new("/"));
        inotify.add_watch(dir, flags | AddWatchFlags::IN_ONLYDIR).map_err(|errno| fail(errno.into()))?;
        // SAFETY: the descriptor is owned by the `Inotify` that moves into the `AsyncFd`, which neither closes nor exchanges
        // it until it is dropped; nothing here takes it out again; `as_raw_fd` of `Watcher` always gives that descriptor.
        let registered = unsafe { AsyncFd::register_with_interest(Watcher(inotify), Interest::READABLE) };
        Ok(Self(registered.map_err(|error| fail(error.into()))?))
    }

    /// Waits for a change and takes all that have queued up: which ones they were does not matter.
    async fn wait(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|watcher| Ok(watcher.get_ref().0.read_events()?)) {
                Ok(events) => return events.map(drop),
                Err(_would_block) => {}
            }
        }
    }
}

/// From the bytes of a log file to what is shown of them.
#[derive(Debug)]
pub(crate) struct Filter {
    since: Option<Timestamp>,
    timestamps: bool,
    /// How many bytes may still be shown.
    left: u64,
    /// The beginning of a line whose end has not been read yet.
    pending: Vec<u8>,
    /// The line before was a partial one: this one goes on with it.
    continues: bool,
}

impl Filter {
    pub(crate) fn new(options: &LogOptions) -> Self {
        Self {
            since: options.since,
            timestamps: options.timestamps,
            left: options.limit_bytes.unwrap_or(u64::MAX),
            pending: Vec::new(),
            continues: false,
        }
    }

    fn is_full(&self) -> bool {
        self.left == 0
    }

    /// Takes more of the file and gives what is to be shown of it.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut shown = Vec::new();
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line = [std::mem::take(&mut self.pending).as_slice(), &rest[..end]].concat();
            self.show(&line, &mut shown);
            rest = &rest[end + 1..];
        }
        self.pending.extend_from_slice(rest);
        if self.pending.len() > LINE_BYTES_MAX {
            self.pending.clear();
        }
        shown
    }

    /// The file ends here.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        let mut shown = Vec::new();
        let line = std::mem::take(&mut self.pending);
        self.show(&line, &mut shown);
        shown
    }

    /// What is no line of a log is left out, as by the kubelet.
    fn show(&mut self, line: &[u8], shown: &mut Vec<u8>) {
        let Some(line) = Line::parse(line) else { return };
        let old = self.since.is_some_and(|since| line.timestamp().is_none_or(|written| written < since));
        let starts = !std::mem::replace(&mut self.continues, line.partial);
        if old {
            return;
        }
        if self.timestamps && starts {
            self.append(shown, line.fixed_time().as_bytes());
            self.append(shown, b" ");
        }
        self.append(shown, line.text);
        if !line.partial {
            self.append(shown, b"\n");
        }
    }

    fn append(&mut self, shown: &mut Vec<u8>, bytes: &[u8]) {
        let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        shown.extend_from_slice(&bytes[..count]);
        self.left -= count as u64;
    }
}

#[cfg(test)]
mod tests;
