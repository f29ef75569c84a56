//! The store's contract: keys to values under one revision counter, conditional commits, watches, leases.
//!
//! Everything control knows lives in a [`Store`]. Three things implement the contract: [`Memory`] (for tests and as the
//! model), [`Embedded`] (redb, one control process) and, later, etcd. The cases in `contract` run on each.
//!
//! What every implementation holds to:
//! - Commits are totally ordered. A commit that writes gets a revision of its own, higher than every one before,
//!   shared by all its writes. A revision is never seen twice for different content, also not after a crash
//!   (design.md §9, 6). Revisions may have gaps.
//! - What a reader or a watch has seen has happened: a durable write is on disk before anybody sees it.
//! - A range at a revision, and a watch after it, together miss nothing and repeat nothing.
//!
//! An election needs nothing of its own from a store: [`election`] is made of a lease, a conditional commit and a
//! watch.
//!
//! The contract knows nothing of what the values mean. Sources: etcd's API (`etcdserverpb/rpc.proto`: KV, Watch, Lease)
//! for the semantics, so that etcd can stand behind it; Kubernetes' API concepts page for what `resourceVersion` needs.

mod history;
mod lease;
mod local;
mod watcher;

pub mod election;
pub mod embedded;
pub mod memory;

#[cfg(test)]
mod contract;

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

pub use embedded::Embedded;
pub use memory::Memory;

/// One point in a store's history. The first commit of a new store is 1; 0 is "before everything".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

/// Names one unbroken history of a store: revisions of two histories cannot be compared.
///
/// Drawn at random when a store is made and whenever it cannot prove that nothing it acknowledged is missing, such as
/// when an older copy was put back; for etcd it will be the cluster's id. Control appends an era when it finds
/// another history than that of its last era (design.md §5); the number itself can serve as the era.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HistoryId(pub u64);

/// One lease of one store; see [`Store::grant`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

/// How much a write must survive (design.md §7, "persistence per kind").
///
/// A key written as `Durable`, `Ending` or `Checkpointed` is on disk until it is deleted or put under a lease: a later
/// `Volatile` write to it is check-pointed. Taking such a key off the disk is durable, so that what was deleted does
/// not come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    /// On disk, fsynced, before the commit is acknowledged or seen: user intent, permits, tombstones.
    Durable,
    /// As `Durable`; and it says that something is to go, so that it may use the room which a store keeps for deletions.
    Ending,
    /// On disk within seconds or with the next durable commit: status.
    Checkpointed,
    /// Never on disk: events, lease renewals.
    Volatile,
    /// Deleted when the lease ends. In a store of one process never on disk, as its leases end with the process.
    Leased(LeaseId),
}

/// One key's value at some revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key; any text, ordered by its bytes.
    pub key: String,
    /// The value, shared with the store: a clone copies nothing.
    pub value: Bytes,
    /// Revision of the commit that made the key.
    pub created: Revision,
    /// Revision of the commit that wrote this value.
    pub modified: Revision,
}

/// What must hold for a commit to happen at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The key does not exist.
    Absent {
        /// The key.
        key: String,
    },
    /// The key exists and was last written at this revision.
    ModifiedAt {
        /// The key.
        key: String,
        /// [`Entry::modified`] as the caller knows it.
        revision: Revision,
    },
}

/// One change within a commit. Where a commit names a key twice, the last write counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Makes the key or gives it a new value.
    Put {
        /// The key.
        key: String,
        /// The whole new value.
        value: Bytes,
        /// What the write must survive.
        persistence: Persistence,
    },
    /// Removes the key; nothing happens if there is none.
    Delete {
        /// The key.
        key: String,
    },
}

/// A stretch of keys in key order, as of one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// The entries, ascending by key.
    pub entries: Vec<Entry>,
    /// The revision the whole answer is true at: the one asked for, else the store's last.
    pub revision: Revision,
    /// More keys follow the last entry.
    pub more: bool,
}

/// One change seen by a watch, in commit order; within a commit in key order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The key has this value now.
    Put {
        /// The key's value as of `entry.modified`.
        entry: Entry,
        /// The value before; none if the key did not exist.
        previous: Option<Bytes>,
    },
    /// The key is gone.
    Delete {
        /// The key.
        key: String,
        /// Revision of the commit that deleted it.
        revision: Revision,
        /// What it held last.
        previous: Bytes,
    },
    /// Nothing up to and including this revision is still to come. Sent once when a watch has caught up with the
    /// store, and from time to time while other keys change.
    Progress {
        /// The revision the watch has come to.
        revision: Revision,
    },
}

/// Changes from one revision on. Ends with one `Err` item when the watch cannot go on, and never otherwise.
pub type Watch = BoxStream<'static, Result<Change, StoreError>>;

/// Why a store did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// A condition of the commit did not hold; nothing was written.
    #[error("key {key} was changed by someone else")]
    Conflict {
        /// The key of the first condition that did not hold.
        key: String,
    },
    /// The revision asked for is older than what the store still keeps; list again.
    #[error("revision {asked} is compacted, the oldest kept is {oldest}")]
    Compacted {
        /// The revision in the request.
        asked: Revision,
        /// The oldest revision a range can be asked at and a watch can start after.
        oldest: Revision,
    },
    /// The revision asked for has not happened: it comes from another store or another history.
    #[error("revision {asked} has not happened yet, the last is {last}")]
    Future {
        /// The revision in the request.
        asked: Revision,
        /// The revision of the last commit.
        last: Revision,
    },
    /// The watcher did not keep up with what the store remembers for it; it has to list again.
    #[error("the watcher fell behind")]
    Lagged,
    /// The lease has ended or never was.
    #[error("lease {lease} has ended")]
    LeaseEnded {
        /// The lease.
        lease: LeaseId,
    },
    /// The store was closed, or the process is ending.
    #[error("the store is closed")]
    Closed,
    /// The disk or the remote store failed. Nothing was acknowledged and nobody sees it; after a crash the writes may
    /// turn out to have reached the disk.
    #[error("{action} failed")]
    Backend {
        /// What was tried, with the path.
        action: String,
        /// The cause.
        #[source]
        source: Arc<dyn Error + Send + Sync>,
    },
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for HistoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl HistoryId {
    /// A new one.
    fn random() -> Self {
        Self(uuid::Uuid::new_v4().as_u64_pair().1)
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The contract. All methods are safe to call from many tasks; a handle is shared as `Arc<dyn Store>`.
pub trait Store: Send + Sync + 'static {
    /// Writes all or nothing, if every condition holds. Answers with the revision of the commit, once it is as
    /// persistent as its most persistent write asks and readers see it.
    ///
    /// An empty `writes`, or deletes of absent keys only, checks the conditions and answers with the current revision.
    /// Dropping the future does not take back a commit that is under way.
    ///
    /// # Errors
    /// [`Conflict`](StoreError::Conflict), [`LeaseEnded`](StoreError::LeaseEnded) for a write under such a lease,
    /// [`Closed`](StoreError::Closed), [`Backend`](StoreError::Backend).
    fn commit(&self, conditions: Vec<Condition>, writes: Vec<Write>) -> BoxFuture<'_, Result<Revision, StoreError>>;

    /// The keys with `prefix`, in order, after `after` if given, `limit` at most (0 is no limit).
    /// `at` asks for the state at an older revision, `None` for the current one.
    ///
    /// To page, ask again with the last key as `after` and the first answer's revision as `at`.
    ///
    /// # Errors
    /// [`Compacted`](StoreError::Compacted) or [`Future`](StoreError::Future) when there is no answer at `at`;
    /// [`Backend`](StoreError::Backend).
    fn range<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
        at: Option<Revision>,
    ) -> BoxFuture<'a, Result<Range, StoreError>>;

    /// One key's current value.
    ///
    /// # Errors
    /// [`Backend`](StoreError::Backend).
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, StoreError>>;

    /// All changes to keys with `prefix` made after `after`, without gaps or repetition.
    ///
    /// # Errors
    /// [`Compacted`](StoreError::Compacted) or [`Future`](StoreError::Future) when the watch cannot start there,
    /// [`Backend`](StoreError::Backend). Later, as the last item, [`Lagged`](StoreError::Lagged) or `Backend`.
    fn watch(&self, prefix: &str, after: Revision) -> BoxFuture<'_, Result<Watch, StoreError>>;

    /// Forgets history before `revision`. Current values stay. A revision already compacted is fine.
    ///
    /// # Errors
    /// [`Future`](StoreError::Future), [`Backend`](StoreError::Backend).
    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StoreError>>;

    /// The revision of the last commit anybody can see.
    fn revision(&self) -> Revision;

    /// The history the revisions belong to; the same for the life of the handle.
    fn history(&self) -> HistoryId;

    /// Makes a lease that ends `ttl` after the grant or the last [`keep_alive`](Store::keep_alive). When it ends, keys
    /// written under it ([`Persistence::Leased`]) and not rewritten since otherwise are deleted, in one commit.
    ///
    /// Whoever holds a lease should keep it alive each third of `ttl`, and must guard what it does in its name by a
    /// condition on a leased key: a clock alone proves nothing.
    ///
    /// # Errors
    /// [`Closed`](StoreError::Closed), [`Backend`](StoreError::Backend).
    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, StoreError>>;

    /// Begins the lease's `ttl` anew.
    ///
    /// # Errors
    /// [`LeaseEnded`](StoreError::LeaseEnded), [`Backend`](StoreError::Backend).
    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Ends the lease now; its keys are gone when this answers. An ended lease is fine.
    ///
    /// # Errors
    /// [`Closed`](StoreError::Closed), [`Backend`](StoreError::Backend).
    fn revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), StoreError>>;
}
