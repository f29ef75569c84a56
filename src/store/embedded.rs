//! The store of one control process: memory for reads, one redb file for what must last.
//!
//! A task, the writer, owns the order of commits. It takes all that wait as one batch, stages them in memory, writes
//! one transaction if any of them is durable, and only then publishes and acknowledges the batch: so commits that
//! wait together share one fsync, and nobody sees what is not on disk. If the transaction fails, the whole batch is
//! taken back and every commit in it fails; the next write tries anew. A batch without a durable write goes to disk
//! later, with the next transaction or after [`CHECKPOINT_INTERVAL`].
//!
//! ```text
//! commit ─▶ queue ─▶ stage in memory ─▶ any durable? ─yes─▶ write, fsync ─ok─▶ publish ─▶ acknowledge
//!                                           │                   └─failed─▶ roll back ─▶ refuse
//!                                           └─no───────────────────────────▶ publish ─▶ acknowledge
//! ```
//!
//! Revisions are reserved on disk in blocks before any of them is published, and a start begins above the last block:
//! also the revisions of writes that were never on disk are not used twice. Watches and ranges from before the start
//! are `Compacted`. Whether the file holds everything it ever acknowledged is judged at the start: [`continuity`].
//!
//! Leases, and the keys under them, end with the process.

mod ballast;
pub mod continuity;
mod disk;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};

use super::history::History;
use super::local::{Commit, Content, Local, Shared};
use super::{Condition, Revision, StoreError, Write};
use crate::error::Chain;
use continuity::Continuity;
use disk::{Disk, Job, Opened, REVISION_BLOCK};

pub use disk::{FORMAT, OpenError};

/// How long a check-pointed write may wait for the disk.
pub const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(2);

/// How many commits go into one batch, and how many may wait for the next.
const BATCH_COMMITS: usize = 1024;

/// A store in one file, for one process.
pub type Embedded = Local<Queue>;

/// Commits by handing them to the writer.
pub struct Queue {
    /// None once closed.
    requests_tx: Mutex<Option<mpsc::Sender<Request>>>,
    writer: Mutex<Option<JoinHandle<Result<(), StoreError>>>>,
    continuity: Continuity,
}

/// A commit that waits.
struct Request {
    conditions: Vec<Condition>,
    writes: Vec<Write>,
    answer_tx: oneshot::Sender<Result<Revision, StoreError>>,
}

/// The task that commits.
struct Writer {
    shared: Arc<Shared>,
    requests_rx: mpsc::Receiver<Request>,
    disk: Arc<Mutex<Disk>>,
    path: PathBuf,
    reserved: Revision,
    /// Keys whose row on disk may differ from memory.
    unwritten: BTreeSet<Arc<str>>,
    /// When they are written at the latest; none if there are none.
    checkpoint_due: Option<Instant>,
}

// === impl Embedded ===

impl Embedded {
    /// Opens the store in the folder `dir`, or makes one if there is neither store nor mark. Locks it against other
    /// processes. The folder is the store's own: mode 0700, its files 0600.
    ///
    /// # Errors
    /// As [`OpenError`] says; a file that is damaged or missing is never replaced by a new one.
    pub async fn open(dir: &Path) -> Result<Arc<Self>, OpenError> {
        let owned = dir.to_owned();
        let opened = spawn_blocking(move || disk::open(&owned)).await.map_err(|panic| OpenError::Io {
            action: "open the store in",
            path: dir.to_owned(),
            source: panic.into(),
        })??;
        Ok(Self::run(opened))
    }

    /// Whether the store holds everything it ever acknowledged, as judged when it was opened. If unproven, its
    /// [`history`](super::Store::history) is a new one.
    pub fn continuity(&self) -> Continuity {
        self.committer.continuity
    }

    /// Takes no more commits, finishes those under way, writes what is check-pointed and closes the file. Reads and
    /// watches stay possible. A store that is dropped does the same with nobody to wait for it.
    ///
    /// # Errors
    /// [`StoreError::Backend`] if the last writes failed; closing again does nothing.
    pub async fn close(&self) -> Result<(), StoreError> {
        drop(lock(&self.committer.requests_tx).take());
        let writer = lock(&self.committer.writer).take();
        match writer {
            Some(writer) => writer.await.unwrap_or(Err(StoreError::Closed)),
            None => Ok(()),
        }
    }

    fn run(opened: Opened) -> Arc<Self> {
        let Opened { disk, rows, start, reserved, history, continuity } = opened;
        let path = disk.path().to_owned();
        match continuity {
            Continuity::New => info!(path = %path.display(), %history, "made a store"),
            Continuity::Proven => info!(path = %path.display(), %history, revision = %start, "opened the store"),
            Continuity::Unproven(doubt) => {
                warn!(path = %path.display(), %history, revision = %start, %doubt, "the store began a new history");
            }
        }
        let shared = Arc::new(Shared::new(History::new(start, rows)));
        let (requests_tx, requests_rx) = mpsc::channel(BATCH_COMMITS);
        let writer = Writer {
            shared: shared.clone(),
            requests_rx,
            disk: Arc::new(Mutex::new(disk)),
            path,
            reserved,
            unwritten: BTreeSet::new(),
            checkpoint_due: None,
        };
        let queue = Queue {
            requests_tx: Mutex::new(Some(requests_tx)),
            writer: Mutex::new(Some(tokio::spawn(writer.run()))),
            continuity,
        };
        Self::assemble(shared, history, queue)
    }
}

impl Commit for Queue {
    fn commit<'a>(
        &'a self,
        _shared: &'a Shared,
        conditions: Vec<Condition>,
        writes: Vec<Write>,
    ) -> BoxFuture<'a, Result<Revision, StoreError>> {
        Box::pin(async move {
            let requests_tx = lock(&self.requests_tx).clone().ok_or(StoreError::Closed)?;
            let (answer_tx, answer_rx) = oneshot::channel();
            let request = Request { conditions, writes, answer_tx };
            requests_tx.send(request).await.map_err(|_| StoreError::Closed)?;
            drop(requests_tx);
            answer_rx.await.unwrap_or(Err(StoreError::Closed))
        })
    }
}

// === impl Writer ===

impl Writer {
    /// Commits batches until every sender is gone, then closes the file.
    async fn run(mut self) -> Result<(), StoreError> {
        loop {
            if self.checkpoint_due.is_some_and(|due| due <= Instant::now()) {
                self.checkpoint().await;
            }
            let mut batch = Vec::new();
            // Cancel safe: a batch that is not received stays in the queue.
            let receive = self.requests_rx.recv_many(&mut batch, BATCH_COMMITS);
            let received = match self.checkpoint_due {
                Some(due) => timeout_at(due, receive).await,
                None => Ok(receive.await),
            };
            match received {
                Ok(0) => return self.close().await,
                Ok(_) => self.commit(batch).await,
                Err(_elapsed) => {}
            }
        }
    }

    async fn commit(&mut self, batch: Vec<Request>) {
        let mut answers = Vec::with_capacity(batch.len());
        let job = {
            let mut content = self.shared.write();
            let mut durable = false;
            let deletes = batch.iter().flat_map(|request| &request.writes).any(Write::ends);
            for Request { conditions, writes, answer_tx } in batch {
                let staged = content.stage(&conditions, writes).map(|staged| {
                    durable |= staged.durable;
                    self.unwritten.extend(staged.unwritten);
                    staged.revision
                });
                answers.push((answer_tx, staged));
            }
            let reserved = self.reserve(content.history.staged());
            (durable || reserved > self.reserved).then(|| Job { deletes, ..self.job(&content, reserved) })
        };
        let written = match job {
            Some(job) => self.write(job).await,
            None => Ok(()),
        };
        match written {
            Ok(()) => self.shared.publish(),
            Err(_) => self.shared.write().history.roll_back(),
        }
        if !self.unwritten.is_empty() && self.checkpoint_due.is_none() {
            self.checkpoint_due = Some(Instant::now() + CHECKPOINT_INTERVAL);
        }
        // Also a refusal is told only now: it may be due to a commit of this batch that failed with it.
        for (answer_tx, staged) in answers {
            let answer = written.clone().and(staged);
            // Whoever asked may have gone; the commit stands.
            let _ = answer_tx.send(answer);
        }
    }

    /// What must be reserved before revisions up to `staged` are published: one more block when this one ends soon.
    fn reserve(&self, staged: Revision) -> Revision {
        let left = self.reserved.0.saturating_sub(staged.0);
        if left < REVISION_BLOCK / 10 { Revision(staged.0 + REVISION_BLOCK) } else { self.reserved }
    }

    fn job(&self, content: &Content, reserved: Revision) -> Job {
        let rows = self.unwritten.iter().map(|key| (key.clone(), content.history.row(key))).collect();
        Job { rows, revision: content.history.staged(), reserved, deletes: false }
    }

    /// Writes a job. What is unwritten stays so unless it succeeds.
    async fn write(&mut self, job: Job) -> Result<(), StoreError> {
        let disk = self.disk.clone();
        let reserved = job.reserved;
        let written = spawn_blocking(move || lock(&disk).write(&job)).await;
        self.checkpoint_due = None;
        match written {
            Ok(Ok(())) => {
                self.unwritten.clear();
                self.reserved = reserved;
                Ok(())
            }
            Ok(Err(error)) => Err(self.failed(error)),
            Err(panic) => Err(self.failed(panic)),
        }
    }

    async fn checkpoint(&mut self) {
        let job = self.job(&self.shared.read(), self.reserved);
        if let Err(error) = self.write(job).await {
            warn!(error = %Chain(&error), "check-pointed writes not yet on disk");
            self.checkpoint_due = Some(Instant::now() + CHECKPOINT_INTERVAL);
        }
    }

    async fn close(mut self) -> Result<(), StoreError> {
        if !self.unwritten.is_empty() {
            let job = self.job(&self.shared.read(), self.reserved);
            self.write(job).await?;
        }
        let disk = self.disk.clone();
        match spawn_blocking(move || lock(&disk).close()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.failed(error)),
            Err(panic) => Err(self.failed(panic)),
        }
    }

    fn failed(&self, source: impl std::error::Error + Send + Sync + 'static) -> StoreError {
        StoreError::Backend {
            action: format!("writing the store file {}", self.path.display()),
            source: Arc::new(source),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
