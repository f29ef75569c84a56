//! A store that one control process has in hand, and that does nothing for it any more once that process is dead; or that keeps it
//! waiting.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, future};
use tokio::sync::oneshot;

use crate::store::{Condition, Entry, HistoryId, LeaseId, Memory, Range, Revision, Store, StoreError, Watch, Write};

/// Commits go through until it is blown.
pub(crate) struct Fuse {
    store: Arc<Memory>,
    blown: AtomicBool,
    /// How many commits fail next.
    failing: AtomicUsize,
    /// At which commit it blows by itself.
    end: Mutex<Option<End>>,
    /// What the answer to the next commit waits for.
    held: Mutex<Option<oneshot::Receiver<()>>>,
}

/// The commit at which a process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    /// How many go through before.
    pub(super) after: usize,
    /// It is done, and nobody hears of it.
    pub(super) done: bool,
}

impl Fuse {
    pub(crate) fn new(store: Arc<Memory>) -> Arc<Self> {
        let (blown, failing, end) = (AtomicBool::new(false), AtomicUsize::new(0), Mutex::new(None));
        Arc::new(Self { store, blown, failing, end, held: Mutex::default() })
    }

    /// The next commit is done, and answered when what this gives is let go.
    pub(crate) fn hold_next_answer(&self) -> oneshot::Sender<()> {
        let (release_tx, released_rx) = oneshot::channel();
        *self.held.lock().unwrap() = Some(released_rx);
        release_tx
    }

    /// Whatever is under way never comes to anything.
    pub(super) fn blow(&self) {
        self.blown.store(true, Ordering::Relaxed);
    }

    /// It blows at a commit to come.
    pub(super) fn blow_at(&self, end: End) {
        *self.end.lock().unwrap() = Some(end);
    }

    pub(super) fn is_blown(&self) -> bool {
        self.blown.load(Ordering::Relaxed)
    }

    /// Whether the process dies at this commit, and whether that is done all the same.
    fn blows(&self) -> Option<bool> {
        let mut end = self.end.lock().unwrap();
        match end.as_mut()? {
            End { after: 0, done } => {
                let done = *done;
                *end = None;
                self.blow();
                Some(done)
            }
            End { after, .. } => {
                *after -= 1;
                None
            }
        }
    }

    /// Lets the next commits fail, as on a full disk.
    pub(crate) fn fail_next(&self, commits: usize) {
        self.failing.store(commits, Ordering::Relaxed);
    }

    fn fails(&self) -> bool {
        self.failing.try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

impl Store for Fuse {
    fn commit(&self, conditions: Vec<Condition>, writes: Vec<Write>) -> BoxFuture<'_, Result<Revision, StoreError>> {
        if self.is_blown() {
            return future::pending().boxed();
        }
        if let Some(done) = self.blows() {
            return async move {
                if done {
                    drop(self.store.commit(conditions, writes).await);
                }
                future::pending().await
            }
            .boxed();
        }
        if self.fails() {
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            let error = StoreError::Backend { action: "writing the store".to_owned(), source: Arc::new(full) };
            return future::ready(Err(error)).boxed();
        }
        let held = self.held.lock().unwrap().take();
        if let Some(released_rx) = held {
            return async move {
                let answer = self.store.commit(conditions, writes).await;
                drop(released_rx.await);
                answer
            }
            .boxed();
        }
        self.store.commit(conditions, writes)
    }

    fn range<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
        at: Option<Revision>,
    ) -> BoxFuture<'a, Result<Range, StoreError>> {
        self.store.range(prefix, after, limit, at)
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        self.store.get(key)
    }

    fn watch(&self, prefix: &str, after: Revision) -> BoxFuture<'_, Result<Watch, StoreError>> {
        self.store.watch(prefix, after)
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        self.store.compact(revision)
    }

    fn revision(&self) -> Revision {
        self.store.revision()
    }

    fn history(&self) -> HistoryId {
        self.store.history()
    }

    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, StoreError>> {
        self.store.grant(ttl)
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), StoreError>> {
        self.store.keep_alive(lease)
    }

    fn revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), StoreError>> {
        self.store.revoke(lease)
    }
}
