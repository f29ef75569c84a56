//! A store that one control process has in hand, and that does nothing for it any more once that process is dead.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, future};

use crate::store::{Condition, Entry, HistoryId, LeaseId, Memory, Range, Revision, Store, StoreError, Watch, Write};

/// Commits go through until it is blown.
pub(super) struct Fuse {
    store: Arc<Memory>,
    blown: AtomicBool,
    /// How many commits fail next.
    failing: std::sync::atomic::AtomicUsize,
}

impl Fuse {
    pub(super) fn new(store: Arc<Memory>) -> Arc<Self> {
        Arc::new(Self { store, blown: AtomicBool::new(false), failing: Default::default() })
    }

    /// Whatever is under way never comes to anything.
    pub(super) fn blow(&self) {
        self.blown.store(true, Ordering::Relaxed);
    }

    /// Lets the next commits fail, as on a full disk.
    pub(super) fn fail_next(&self, commits: usize) {
        self.failing.store(commits, Ordering::Relaxed);
    }

    fn fails(&self) -> bool {
        self.failing.try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

impl Store for Fuse {
    fn commit(&self, conditions: Vec<Condition>, writes: Vec<Write>) -> BoxFuture<'_, Result<Revision, StoreError>> {
        if self.blown.load(Ordering::Relaxed) {
            return future::pending().boxed();
        }
        if self.fails() {
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            let error = StoreError::Backend { action: "writing the store".to_owned(), source: Arc::new(full) };
            return future::ready(Err(error)).boxed();
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
