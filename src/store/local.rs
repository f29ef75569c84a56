//! A store whose whole content is in this process: everything of the contract but the commit itself.
//!
//! [`Memory`](super::Memory) and [`Embedded`](super::Embedded) are this with their own [`Commit`]. Reads and watches
//! are answered from the shared [`History`]; leases are timed here and end by ordinary commits.

use std::future::ready;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::warn;

use super::history::{History, Staged};
use super::lease::Leases;
use super::watcher;
use super::{Condition, Entry, HistoryId, LeaseId, Range, Revision, Store, StoreError, Watch, Write};
use crate::error::Chain;

/// How long to wait before trying again to delete the keys of an ended lease when the commit failed.
const LEASE_RETRY_DELAY: Duration = Duration::from_secs(1);

/// How a store of this process takes a commit from checked to published.
pub trait Commit: Send + Sync + 'static {
    /// As [`Store::commit`], on the store's own content.
    fn commit<'a>(
        &'a self,
        shared: &'a Shared,
        conditions: Vec<Condition>,
        writes: Vec<Write>,
    ) -> BoxFuture<'a, Result<Revision, StoreError>>;
}

/// A store in this process.
pub struct Local<C> {
    /// For the task of each lease, which must not keep the store alive.
    this: Weak<Self>,
    shared: Arc<Shared>,
    history: HistoryId,
    pub(super) committer: C,
}

/// What commits, reads, watches and leases share. The lock is held for computation only.
pub struct Shared {
    content: RwLock<Content>,
    visible_tx: watch::Sender<Revision>,
}

/// Everything behind the lock.
pub struct Content {
    /// The keys.
    pub history: History,
    /// The leases.
    pub leases: Leases,
}

// === impl Content ===

impl Content {
    /// As [`History::stage`], and no write may be under an ended lease.
    ///
    /// # Errors
    /// [`StoreError::LeaseEnded`], [`StoreError::Conflict`].
    pub fn stage(&mut self, conditions: &[Condition], writes: Vec<Write>) -> Result<Staged, StoreError> {
        let now = Instant::now();
        for write in &writes {
            if let Write::Put { persistence, .. } = write
                && let Some(lease) = persistence.lease()
            {
                self.leases.check(lease, now)?;
            }
        }
        self.history.stage(conditions, writes)
    }
}

// === impl Shared ===

impl Shared {
    /// Shares a history.
    pub fn new(history: History) -> Self {
        let visible_tx = watch::Sender::new(history.visible());
        Self { content: RwLock::new(Content { history, leases: Leases::default() }), visible_tx }
    }

    /// The content, to look at.
    pub fn read(&self) -> RwLockReadGuard<'_, Content> {
        self.content.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The content, to change.
    pub fn write(&self) -> RwLockWriteGuard<'_, Content> {
        self.content.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows what is staged to readers, and wakes the watches.
    pub fn publish(&self) {
        let visible = {
            let mut content = self.write();
            content.history.publish();
            content.history.visible()
        };
        self.visible_tx.send_if_modified(|told| visible > std::mem::replace(told, visible.max(*told)));
    }

    /// Told of each publication.
    pub fn subscribe(&self) -> watch::Receiver<Revision> {
        self.visible_tx.subscribe()
    }
}

// === impl Local ===

impl<C: Commit> Local<C> {
    pub(super) fn assemble(shared: Arc<Shared>, history: HistoryId, committer: C) -> Arc<Self> {
        Arc::new_cyclic(|this| Self { this: this.clone(), shared, history, committer })
    }

    /// Deletes the keys of a lease that has ended. Nothing new can be attached to it meanwhile, but a key may be
    /// detached.
    async fn delete_leased(&self, lease: LeaseId) -> Result<(), StoreError> {
        loop {
            let keys = self.shared.read().history.leased(lease);
            let writes = keys.iter().map(|(key, _)| Write::Delete { key: key.clone() }).collect();
            let conditions = keys.into_iter().map(|(key, revision)| Condition::ModifiedAt { key, revision }).collect();
            match self.committer.commit(&self.shared, conditions, writes).await {
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error),
                Ok(_) => return Ok(()),
            }
        }
    }
}

/// A lease's task: waits until it is due, then ends it and deletes its keys. Does not keep the store alive.
async fn end_when_due<C: Commit>(store: Weak<Local<C>>, lease: LeaseId) {
    while let Some(due) =
        store.upgrade().and_then(|store| store.shared.write().leases.end_if_due(lease, Instant::now()))
    {
        sleep_until(due).await;
    }
    while let Some(store) = store.upgrade() {
        match store.delete_leased(lease).await {
            Ok(()) | Err(StoreError::Closed) => return,
            Err(error) => warn!(%lease, error = %Chain(&error), "keys of an ended lease not yet deleted"),
        }
        drop(store);
        sleep(LEASE_RETRY_DELAY).await;
    }
}

impl<C: Commit> Store for Local<C> {
    fn commit(&self, conditions: Vec<Condition>, writes: Vec<Write>) -> BoxFuture<'_, Result<Revision, StoreError>> {
        self.committer.commit(&self.shared, conditions, writes)
    }

    fn range<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
        at: Option<Revision>,
    ) -> BoxFuture<'a, Result<Range, StoreError>> {
        Box::pin(async move { self.shared.read().history.range(prefix, after, limit, at) })
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        Box::pin(async move { Ok(self.shared.read().history.get(key)) })
    }

    fn watch(&self, prefix: &str, after: Revision) -> BoxFuture<'_, Result<Watch, StoreError>> {
        let checked = self.shared.read().history.check(after);
        Box::pin(ready(checked.map(|()| watcher::follow(self.shared.clone(), prefix, after))))
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.shared.write().history.compact(revision) })
    }

    fn revision(&self) -> Revision {
        self.shared.read().history.visible()
    }

    fn history(&self) -> HistoryId {
        self.history
    }

    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, StoreError>> {
        Box::pin(async move {
            let lease = self.shared.write().leases.grant(ttl, Instant::now());
            tokio::spawn(end_when_due(self.this.clone(), lease));
            Ok(lease)
        })
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.shared.write().leases.keep_alive(lease, Instant::now()) })
    }

    fn revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            self.shared.write().leases.end(lease);
            self.delete_leased(lease).await
        })
    }
}
