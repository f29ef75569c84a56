//! Following objects: the store's watch, with each change encoded once for all who follow.
//!
//! How far back a watch may start is the store's to say: it remembers changes, not this module. What is kept here is
//! only the JSON of the last few changes, as watchers of one kind come for it at about the same time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use serde_json::Value;

use super::records::with_revision;
use crate::error::Chain;
use crate::store::{Change, Revision, Store, StoreError, Watch};

/// How much JSON is kept for the next watcher that asks for it. Some hundred pods.
const RECENT_BYTES: usize = 1 << 20;

/// How many changes are given at once, so that no watcher holds up the others.
const AT_ONCE: usize = 256;
/// How much JSON is given at once, but for one change: what a watcher holds whose client does not read.
const BYTES_AT_ONCE: usize = 256 * 1024;

/// How often to look whether a revision of the future has come.
const FUTURE_PERIOD: Duration = Duration::from_millis(200);

/// One change to one object.
#[derive(Debug)]
pub struct Event {
    /// The commit that made the change.
    pub revision: Revision,
    /// The object's key in the store.
    pub key: String,
    /// The object is gone.
    pub deleted: bool,
    /// The object's JSON with its resourceVersion; after a deletion the last one, with the deletion's.
    pub object: Bytes,
    /// The object's JSON before the change, without a resourceVersion; none if it did not exist.
    pub previous: Option<Bytes>,
}

/// Changes after the revision a watch asked for are forgotten, or cannot be read; the client lists again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too old resource version: {asked} ({oldest})")]
pub struct Expired {
    /// The last revision the watcher has seen.
    pub asked: Revision,
    /// A revision a watch may start from.
    pub oldest: Revision,
}

/// Follows the objects below one prefix.
pub struct Watcher {
    store: Arc<dyn Store>,
    recent: Arc<Recent>,
    prefix: String,
    after: Revision,
    /// Begun with the first wait.
    changes: Option<Watch>,
}

/// The last changes that were encoded, oldest first.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<VecDeque<Arc<Event>>>);

// === impl Watcher ===

impl Watcher {
    pub(super) fn new(store: Arc<dyn Store>, recent: Arc<Recent>, prefix: String, after: Revision) -> Self {
        Self { store, recent, prefix, after, changes: None }
    }

    /// Waits for the next changes and gives them in order.
    ///
    /// An empty answer says that only other objects changed. Cancel safe.
    ///
    /// # Errors
    /// [`Expired`], also if the store failed: a list will tell how.
    pub async fn next(&mut self) -> Result<Vec<Arc<Event>>, Expired> {
        let bytes = |change: &Option<Arc<Event>>| change.as_ref().map_or(0, |event| event.object.len());
        let first = self.change().await?;
        let (mut taken, mut changes) = (bytes(&first), vec![first]);
        while changes.len() < AT_ONCE
            && taken < BYTES_AT_ONCE
            && let Some(change) = self.change().now_or_never()
        {
            let change = change?;
            taken += bytes(&change);
            changes.push(change);
        }
        Ok(changes.into_iter().flatten().collect())
    }

    /// The changes that are there already, as [`next`](Self::next) gives them.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn ready(&mut self) -> Result<Vec<Arc<Event>>, Expired> {
        self.next().now_or_never().unwrap_or(Ok(Vec::new()))
    }

    /// The revision the watcher has seen everything up to.
    pub fn seen(&self) -> Revision {
        self.after
    }

    /// The next change of an object; none if the store only told how far it is.
    async fn change(&mut self) -> Result<Option<Arc<Event>>, Expired> {
        let changes = match &mut self.changes {
            Some(changes) => changes,
            None => {
                let begun = begin(&*self.store, &self.prefix, self.after).await;
                self.changes.insert(begun.map_err(|error| self.expired(&error))?)
            }
        };
        match changes.next().await.unwrap_or(Err(StoreError::Lagged)) {
            Ok(Change::Progress { revision }) => {
                self.after = self.after.max(revision);
                Ok(None)
            }
            Ok(change) => {
                let event = self.recent.encode(change);
                self.after = event.as_ref().map_or(self.after, |event| event.revision);
                Ok(event)
            }
            Err(error) => Err(self.expired(&error)),
        }
    }

    fn expired(&self, error: &StoreError) -> Expired {
        if !matches!(error, StoreError::Compacted { .. } | StoreError::Lagged) {
            tracing::warn!(error = %Chain(error), "the store cannot be watched");
        }
        Expired { asked: self.after, oldest: self.store.revision() }
    }
}

/// Watches the store, once the revision to watch after has come.
async fn begin(store: &dyn Store, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
    while store.revision() < after {
        tokio::time::sleep(FUTURE_PERIOD).await;
    }
    store.watch(prefix, after).await
}

// === impl Recent ===

impl Recent {
    /// The event for a change of an object: encoded now, or by whoever came first. None for what is no object.
    fn encode(&self, change: Change) -> Option<Arc<Event>> {
        let (key, revision, current, previous) = match change {
            Change::Put { entry, previous } => (entry.key, entry.modified, Some(entry.value), previous),
            Change::Delete { key, revision, previous } => (key, revision, None, Some(previous)),
            Change::Progress { .. } => return None,
        };
        if let Some(event) = self.find(&key, revision) {
            return Some(event);
        }
        let deleted = current.is_none();
        let last = current.as_ref().or(previous.as_ref());
        let Some(value) = last.and_then(|json| serde_json::from_slice::<Value>(json).ok()) else {
            tracing::error!(%key, "the store holds something that is not JSON");
            return None;
        };
        let object = Bytes::from(with_revision(value, revision).to_string());
        let event = Arc::new(Event { revision, key, deleted, object, previous });
        self.keep(event.clone());
        Some(event)
    }

    fn find(&self, key: &str, revision: Revision) -> Option<Arc<Event>> {
        let recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        recent.iter().rev().find(|event| event.revision == revision && event.key == key).cloned()
    }

    fn keep(&self, event: Arc<Event>) {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        recent.push_back(event);
        let mut bytes: usize = recent.iter().map(|event| event.object.len()).sum();
        while bytes > RECENT_BYTES {
            bytes -= recent.pop_front().map_or(bytes, |event| event.object.len());
        }
    }
}
