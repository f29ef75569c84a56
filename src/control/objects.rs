//! API objects over the store: the one way in which REST handlers and control's own loops read and write them.
//!
//! In: JSON objects of a [`Kind`], and what is asked of them. Out: JSON objects with their resourceVersion, or an
//! [`ObjectError`]. What a write means for a kind is asked of the pure [`registry`], what a delete means of the pure
//! [`removal`](super::removal); this module reads, asks, and commits with the condition that nothing changed meanwhile,
//! again and again until that holds. Users write through `writes`, control itself and the nodes through `reports`.
//!
//! Three rules hold for every commit made here:
//! - It changes at most one object of each kind, so that a watch may resume at any revision it has seen.
//! - If users' intent for nodes changes (see [`Kind::intent`]), the fleet's [`Position`] moves in the same commit.
//! - If a deletion must reach nodes, its [`Tombstone`] is in the same commit.

mod admission;
mod buried;
mod collisions;
mod error;
mod fleet;
mod keys;
mod members;
mod paging;
mod permits;
mod pods;
mod records;
mod recovery;
mod reports;
mod tokens;
mod watcher;
mod writes;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;

use super::kinds::{Kind, NAMESPACE, PRIORITY_CLASS};
use super::registry;
use crate::api::classes::system_priority_classes;
use crate::model::Position;
use crate::store::{Condition, Entry, Revision, Store, StoreError, Write};
pub use admission::AdmittedRecord;
pub use error::ObjectError;
use fleet::follow_position;
pub use fleet::{EraRecord, FleetRecord};
pub use members::{Member, MemberRecord, Token};
pub use paging::{List, ListOptions};
pub use permits::PermitRecord;
pub use pods::{PodIntent, PostedPod};
pub use records::Tombstone;
use records::{parse, render, unchanged};
use watcher::Recent;
pub use watcher::{Event, Expired, Watcher};
pub use writes::{Deleted, WriteOptions, Writer};

/// How often a write is tried again because somebody else wrote first. Every failed try means that another write of
/// this process succeeded, so this is also how many writers may race for the fleet's position.
const ATTEMPTS: usize = 1000;

/// How long a list waits for a revision that is yet to come. As upstream.
const FUTURE_WAIT: Duration = Duration::from_secs(3);

/// Why a write was refused that somebody else came before.
const MODIFIED: &str = "the object has been modified; please apply your changes to the latest version and try again";

/// A handle to all API objects. Clones share everything.
#[derive(Clone)]
pub struct Objects {
    inner: Arc<Inner>,
    /// The session in whose name it writes: the node's record, as it noted that.
    session: Option<Arc<Entry>>,
}

struct Inner {
    store: Arc<dyn Store>,
    recent: Arc<Recent>,
    position_rx: watch::Receiver<Position>,
    fleet_tx: watch::Sender<Arc<FleetRecord>>,
    /// Follows the position; ends with the last handle.
    follower: tokio::task::JoinHandle<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

// === opening ===

impl Objects {
    /// Takes a store into use: makes what must exist from the start and begins to follow changes.
    ///
    /// A store whose history is not the one it had when last opened begins a new era.
    ///
    /// # Errors
    /// [`ObjectError::Store`] and [`ObjectError::Corrupt`].
    pub async fn open(store: Arc<dyn Store>) -> Result<Self, ObjectError> {
        let (fleet, position) = FleetRecord::open(&*store).await?;
        let (position_tx, position_rx) = watch::channel(position);
        let follower = tokio::spawn(follow_position(store.clone(), position_tx));
        let fleet_tx = watch::Sender::new(Arc::new(fleet));
        let inner = Inner { store, recent: Arc::default(), position_rx, fleet_tx, follower };
        let objects = Self { inner: Arc::new(inner), session: None };
        for name in registry::BUILT_IN_NAMESPACES {
            match objects.create(&NAMESPACE, "", json!({"metadata": {"name": name}}), WriteOptions::default()).await {
                Ok(_) | Err(ObjectError::AlreadyExists { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        for class in system_priority_classes() {
            let name = class.metadata.name.clone().unwrap_or_default();
            let class = serde_json::to_value(class).expect("Kubernetes' types have string keys only");
            let make = |current: Option<&Value>| current.is_none().then(|| class.clone());
            objects.report(&PRIORITY_CLASS, "", &name, make).await?;
        }
        Ok(objects)
    }

    /// Where the fleet's intent stands, and every later move.
    pub fn position(&self) -> watch::Receiver<Position> {
        self.inner.position_rx.clone()
    }

    /// The fleet's id and eras.
    pub fn fleet(&self) -> Arc<FleetRecord> {
        self.inner.fleet_tx.borrow().clone()
    }

    /// Whether the store can be read.
    ///
    /// # Errors
    /// [`ObjectError::Store`].
    pub async fn check(&self) -> Result<(), ObjectError> {
        self.inner.store.get(keys::FLEET).await.map(drop).map_err(ObjectError::Store)
    }

    /// The revision of the last commit.
    pub fn revision(&self) -> Revision {
        self.inner.store.revision()
    }

    /// What every write here comes down to.
    async fn write(&self, conditions: Vec<Condition>, writes: Vec<Write>) -> Result<Revision, ObjectError> {
        let conditions = self.session.as_deref().map(unchanged).into_iter().chain(conditions).collect();
        let is_of_session = |key: &str| self.session.as_ref().is_some_and(|session| session.key == key);
        self.inner.store.commit(conditions, writes).await.map_err(|error| match error {
            StoreError::Conflict { key } if is_of_session(&key) => ObjectError::Superseded,
            error => ObjectError::Store(error),
        })
    }
}

// === reading ===

impl Objects {
    /// One object.
    ///
    /// # Errors
    /// [`ObjectError::NotFound`].
    pub async fn get(&self, kind: &'static Kind, namespace: &str, name: &str) -> Result<Value, ObjectError> {
        Ok(self.read(kind, namespace, name).await?.1)
    }

    /// The revision at which an object was last changed; none if there is no such object.
    ///
    /// # Errors
    /// [`ObjectError::Store`].
    pub async fn changed_at(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Revision>, ObjectError> {
        let entry = self.inner.store.get(&keys::object(kind, namespace, name)).await.map_err(ObjectError::Store)?;
        Ok(entry.map(|entry| entry.modified))
    }

    /// Objects of a kind, all or one page, ordered by namespace and name, as of one revision.
    ///
    /// # Errors
    /// [`ObjectError::Expired`], [`ObjectError::Future`], [`ObjectError::BadRequest`] for a token that is none.
    pub async fn list(&self, kind: &'static Kind, options: ListOptions<'_>) -> Result<List, ObjectError> {
        self.wait_for(options.not_before).await?;
        paging::list(&*self.inner.store, kind, options).await
    }

    /// The changes after a revision, of a kind or of a kind in one namespace.
    pub fn watch(&self, kind: &'static Kind, namespace: Option<&str>, after: Revision) -> Watcher {
        let (store, recent) = (self.inner.store.clone(), self.inner.recent.clone());
        Watcher::new(store, recent, keys::prefix(kind, namespace), after)
    }

    /// All deletions that nodes have yet to act on, as of the revision given with them.
    ///
    /// # Errors
    /// [`ObjectError::Store`] and [`ObjectError::Corrupt`].
    pub async fn tombstones(&self) -> Result<(Vec<Tombstone>, Revision), ObjectError> {
        let range = self.inner.store.range(keys::TOMBSTONES, None, 0, None).await.map_err(ObjectError::Store)?;
        let tombstones = range.entries.iter().map(|entry| parse(&entry.key, &entry.value)).collect::<Result<_, _>>()?;
        Ok((tombstones, range.revision))
    }

    /// Waits a little for a revision that a client has seen on another replica or before a restart.
    async fn wait_for(&self, revision: Revision) -> Result<(), ObjectError> {
        let deadline = tokio::time::Instant::now() + FUTURE_WAIT;
        while self.revision() < revision {
            if tokio::time::Instant::now() >= deadline {
                return Err(ObjectError::Future { asked: revision, current: self.revision() });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    async fn read(&self, kind: &'static Kind, namespace: &str, name: &str) -> Result<(Entry, Value), ObjectError> {
        let found = self.find(&keys::object(kind, namespace, name)).await?;
        found.ok_or_else(|| ObjectError::NotFound { kind, name: name.to_owned() })
    }

    async fn find(&self, key: &str) -> Result<Option<(Entry, Value)>, ObjectError> {
        let Some(entry) = self.inner.store.get(key).await.map_err(ObjectError::Store)? else { return Ok(None) };
        let value = render(&entry)?;
        Ok(Some((entry, value)))
    }
}

fn contended(kind: &'static Kind, name: &str) -> ObjectError {
    ObjectError::Conflict { kind, name: name.to_owned(), reason: MODIFIED.to_owned() }
}
