//! A watch on a store of this process: a cursor into its history.
//!
//! A watcher has no queue of its own. It reads from the shared history when it is polled, so a slow one holds up nobody
//! and costs nothing; it falls behind when the history forgets changes it has not read yet.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::local::Shared;
use super::{Change, Revision, StoreError, Watch};

/// How long other keys may change before a watch says how far it has come.
pub const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

struct Watcher {
    shared: Arc<Shared>,
    visible_rx: watch::Receiver<Revision>,
    prefix: String,
    /// Everything up to here has been read from the history.
    cursor: Revision,
    /// Read and not yet given out.
    ready: VecDeque<Change>,
    /// The last progress given out; none before the watch has caught up for the first time.
    told: Option<Revision>,
    progress_due: Instant,
    ended: bool,
}

/// The changes to keys with `prefix` after `after`, which the caller has checked to be remembered.
pub fn follow(shared: Arc<Shared>, prefix: &str, after: Revision) -> Watch {
    let watcher = Watcher {
        visible_rx: shared.subscribe(),
        shared,
        prefix: prefix.to_owned(),
        cursor: after,
        ready: VecDeque::new(),
        told: None,
        progress_due: Instant::now() + PROGRESS_INTERVAL,
        ended: false,
    };
    stream::unfold(watcher, async |mut watcher| {
        let item = watcher.next().await?;
        Some((item, watcher))
    })
    .boxed()
}

impl Watcher {
    async fn next(&mut self) -> Option<Result<Change, StoreError>> {
        loop {
            if self.ended {
                return None;
            }
            if let Some(change) = self.ready.pop_front() {
                return Some(Ok(change));
            }
            match self.read() {
                Err(lagged) => {
                    self.ended = true;
                    return Some(Err(lagged));
                }
                Ok(true) => {}
                Ok(false) => {
                    if let Some(progress) = self.progress() {
                        return Some(Ok(progress));
                    }
                    self.wait().await;
                }
            }
        }
    }

    /// Reads on. False: nothing was left to read.
    fn read(&mut self) -> Result<bool, StoreError> {
        self.visible_rx.mark_unchanged();
        let (changes, cursor) = self.shared.read().history.changes(&self.prefix, self.cursor)?;
        let moved = cursor > self.cursor;
        self.cursor = cursor;
        self.ready.extend(changes);
        Ok(moved)
    }

    /// The progress to tell when everything read is given out.
    fn progress(&mut self) -> Option<Change> {
        let due = match self.told {
            None => true,
            Some(told) => told < self.cursor && Instant::now() >= self.progress_due,
        };
        if !due {
            return None;
        }
        self.told = Some(self.cursor);
        self.progress_due = Instant::now() + PROGRESS_INTERVAL;
        Some(Change::Progress { revision: self.cursor })
    }

    /// Until there is more to read, or progress to tell. The sender lives in `shared`, so waiting never fails.
    async fn wait(&mut self) {
        if self.told == Some(self.cursor) {
            let _ = self.visible_rx.changed().await;
        } else {
            let _ = timeout_at(self.progress_due, self.visible_rx.changed()).await;
        }
    }
}
