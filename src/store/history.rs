//! The versions of every key: decides commits, answers reads at a revision, remembers changes.
//!
//! A plain value without lock, task or disk; whoever shares it adds those. A commit goes through two moments:
//! [`History::stage`] checks it against everything staged before and gives it a revision, [`History::publish`] shows
//! all staged commits to readers. In between the caller makes them durable, or takes them back with
//! [`History::roll_back`].
//!
//! What is kept beyond the current values is bounded by [`HISTORY_CHANGES`] and [`HISTORY_BYTES`], and ends at
//! `oldest`: ranges at `oldest` and watches after it can still be answered, earlier ones cannot. A commit costs the
//! logarithm of the number of keys; forgetting costs a constant per change forgotten.

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::{Change, Condition, Entry, LeaseId, Persistence, Range, Revision, StoreError, Write};

/// How many changes are remembered for watches. 10,000 nodes that each report once a second fill it in ten seconds.
pub const HISTORY_CHANGES: usize = 100_000;

/// How many bytes of superseded keys and values are remembered. Current values do not count.
pub const HISTORY_BYTES: usize = 32 << 20;

/// How many remembered changes a watch looks through in one go, so that it holds up commits only briefly.
const CHANGES_PER_LOOK: usize = 1024;

/// All keys at all remembered revisions.
#[derive(Debug)]
pub struct History {
    keys: BTreeMap<Arc<str>, Versions>,
    /// Which key changed when, ascending by revision, then key: from after `oldest` to `staged`.
    log: VecDeque<(Revision, Arc<str>)>,
    /// Bytes in superseded versions.
    superseded_bytes: usize,
    oldest: Revision,
    visible: Revision,
    /// The last revision handed out. Never goes back, also not when commits are rolled back.
    staged: Revision,
}

/// One key's remembered versions.
#[derive(Debug)]
struct Versions {
    newest: Version,
    /// Superseded ones, ascending.
    older: VecDeque<Version>,
}

#[derive(Debug, Clone)]
struct Version {
    modified: Revision,
    created: Revision,
    /// None for a deletion.
    value: Option<Bytes>,
    /// The key has a row on disk, or is to have one.
    stored: bool,
    lease: Option<LeaseId>,
}

/// What a staged commit asks of whoever makes it durable.
#[derive(Debug, PartialEq, Eq)]
pub struct Staged {
    /// The commit's revision; the last one handed out if it writes nothing.
    pub revision: Revision,
    /// Keys whose [`History::row`] differs from what is on disk.
    pub unwritten: Vec<Arc<str>>,
    /// They must be on disk before the commit is published.
    pub durable: bool,
}

/// What is on disk for one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// As [`Entry::created`].
    pub created: Revision,
    /// As [`Entry::modified`].
    pub modified: Revision,
    /// As [`Entry::value`].
    pub value: Bytes,
}

// === impl History ===

impl History {
    /// The history of a store whose last commit was at or before `start`, with what was on disk then.
    /// Nothing before `start` is remembered.
    pub fn new(start: Revision, rows: impl IntoIterator<Item = (String, Row)>) -> Self {
        let keys = rows.into_iter().map(|(key, row)| (Arc::from(key), Versions::stored(row))).collect();
        Self { keys, log: VecDeque::new(), superseded_bytes: 0, oldest: start, visible: start, staged: start }
    }

    /// The last revision readers see.
    pub fn visible(&self) -> Revision {
        self.visible
    }

    /// The last revision handed out.
    pub fn staged(&self) -> Revision {
        self.staged
    }

    /// Checks the conditions against everything staged so far; if they hold, gives the commit the next revision.
    /// Readers do not see it yet.
    ///
    /// # Errors
    /// [`StoreError::Conflict`]; nothing is changed then.
    pub fn stage(&mut self, conditions: &[Condition], writes: Vec<Write>) -> Result<Staged, StoreError> {
        for condition in conditions {
            if !self.holds(condition) {
                return Err(StoreError::Conflict { key: condition.key().to_owned() });
            }
        }
        let revision = Revision(self.staged.0 + 1);
        let mut staged = Staged { revision: self.staged, unwritten: Vec::new(), durable: false };
        for write in in_key_order(writes) {
            self.write(revision, &write, &mut staged);
        }
        Ok(staged)
    }

    /// Shows all staged commits to readers, and forgets what is beyond the bounds.
    pub fn publish(&mut self) {
        self.visible = self.staged;
        while self.log.len() > HISTORY_CHANGES || self.superseded_bytes > HISTORY_BYTES {
            let Some((first, _)) = self.log.front() else { break };
            self.forget_through(*first);
        }
    }

    /// Takes back all staged commits. Their revisions are not used again.
    pub fn roll_back(&mut self) {
        while let Some((_, key)) = self.log.pop_back_if(|(revision, _)| *revision > self.visible) {
            let versions = self.keys.get_mut(&key).expect("a logged key has versions");
            match versions.older.pop_back() {
                Some(before) => {
                    self.superseded_bytes -= before.bytes(&key);
                    versions.newest = before;
                }
                None => drop(self.keys.remove(&key)),
            }
        }
    }

    /// As [`Store::range`](super::Store::range).
    ///
    /// # Errors
    /// [`StoreError::Compacted`], [`StoreError::Future`].
    pub fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Range, StoreError> {
        let revision = at.unwrap_or(self.visible);
        self.check(revision)?;
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut found = self
            .keys
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .filter_map(|(key, versions)| versions.at(revision)?.entry(key));
        let limit = if limit == 0 { usize::MAX } else { limit };
        let entries = found.by_ref().take(limit).collect();
        Ok(Range { entries, revision, more: found.next().is_some() })
    }

    /// One key's current value.
    pub fn get(&self, key: &str) -> Option<Entry> {
        self.keys.get(key)?.at(self.visible)?.entry(key)
    }

    /// Changes to keys with `prefix` after `cursor`, with the revision they reach to: the new cursor.
    ///
    /// Looks through a bounded stretch of the history, always whole commits; the caller is up to date when the new
    /// cursor is [`visible`](Self::visible).
    ///
    /// # Errors
    /// [`StoreError::Lagged`] when changes after `cursor` are forgotten.
    pub fn changes(&self, prefix: &str, cursor: Revision) -> Result<(Vec<Change>, Revision), StoreError> {
        if cursor < self.oldest {
            return Err(StoreError::Lagged);
        }
        let first = self.log.partition_point(|(revision, _)| *revision <= cursor);
        let mut reached = cursor;
        let mut changes = Vec::new();
        for (looked, (revision, key)) in self.log.range(first..).enumerate() {
            if *revision > self.visible {
                break;
            }
            if looked >= CHANGES_PER_LOOK && *revision > reached {
                return Ok((changes, reached));
            }
            if key.starts_with(prefix) {
                let versions = self.keys.get(key).expect("a logged key has versions");
                changes.push(versions.change(key, *revision));
            }
            reached = *revision;
        }
        Ok((changes, self.visible))
    }

    /// Says whether a watch can start after `revision` and a range can be asked at it.
    ///
    /// # Errors
    /// [`StoreError::Compacted`], [`StoreError::Future`].
    pub fn check(&self, revision: Revision) -> Result<(), StoreError> {
        if revision < self.oldest {
            Err(StoreError::Compacted { asked: revision, oldest: self.oldest })
        } else if revision > self.visible {
            Err(StoreError::Future { asked: revision, last: self.visible })
        } else {
            Ok(())
        }
    }

    /// Forgets history before `revision`.
    ///
    /// # Errors
    /// [`StoreError::Future`].
    pub fn compact(&mut self, revision: Revision) -> Result<(), StoreError> {
        if revision >= self.oldest {
            self.check(revision)?;
            self.forget_through(revision);
        }
        Ok(())
    }

    /// What belongs on disk for a key, staged commits included; none if nothing does.
    pub fn row(&self, key: &str) -> Option<Row> {
        let newest = &self.keys.get(key)?.newest;
        let value = newest.value.clone().filter(|_| newest.stored)?;
        Some(Row { created: newest.created, modified: newest.modified, value })
    }

    /// The keys attached to a lease, staged commits included, each with the revision it was last written at.
    /// Looks at every key: leases end rarely.
    pub fn leased(&self, lease: LeaseId) -> Vec<(String, Revision)> {
        self.keys
            .iter()
            .filter(|(_, versions)| versions.newest.lease == Some(lease))
            .map(|(key, versions)| (key.to_string(), versions.newest.modified))
            .collect()
    }

    fn holds(&self, condition: &Condition) -> bool {
        let newest = self.keys.get(condition.key()).map(|versions| &versions.newest).filter(|it| it.value.is_some());
        match condition {
            Condition::Absent { .. } => newest.is_none(),
            Condition::ModifiedAt { revision, .. } => newest.is_some_and(|it| it.modified == *revision),
        }
    }

    fn write(&mut self, revision: Revision, write: &Write, staged: &mut Staged) {
        let key = write.key();
        let known = self.keys.get_key_value(key);
        let before = known.map(|(_, versions)| &versions.newest).filter(|it| it.value.is_some());
        let was_stored = before.is_some_and(|it| it.stored);
        let (version, durable) = match write {
            Write::Put { value, persistence, .. } => {
                let (stored, durable) = match persistence {
                    Persistence::Durable | Persistence::Ending => (true, true),
                    Persistence::Checkpointed => (true, false),
                    Persistence::Volatile => (was_stored, false),
                    Persistence::Leased(_) => (false, was_stored),
                };
                let created = before.map_or(revision, |it| it.created);
                let (value, lease) = (Some(value.clone()), persistence.lease());
                (Version { modified: revision, created, value, stored, lease }, durable)
            }
            Write::Delete { .. } if before.is_none() => return,
            Write::Delete { .. } => (Version::deletion(revision), was_stored),
        };
        let key = known.map_or_else(|| Arc::from(key), |(key, _)| key.clone());
        if version.stored || was_stored {
            staged.unwritten.push(key.clone());
        }
        staged.durable |= durable;
        staged.revision = revision;
        self.staged = revision;
        self.log.push_back((revision, key.clone()));
        self.supersede(key, version);
    }

    fn supersede(&mut self, key: Arc<str>, version: Version) {
        match self.keys.get_mut(&key) {
            Some(versions) => {
                let before = mem::replace(&mut versions.newest, version);
                self.superseded_bytes += before.bytes(&key);
                versions.older.push_back(before);
            }
            None => drop(self.keys.insert(key, Versions { newest: version, older: VecDeque::new() })),
        }
    }

    /// Forgets the changes up to `revision`, and with them the versions they superseded.
    fn forget_through(&mut self, revision: Revision) {
        while let Some((changed, key)) = self.log.pop_front_if(|(changed, _)| *changed <= revision) {
            let versions = self.keys.get_mut(&key).expect("a logged key has versions");
            while let Some(old) = versions.older.pop_front_if(|old| old.modified < changed) {
                self.superseded_bytes -= old.bytes(&key);
            }
            if versions.older.is_empty() && versions.newest.value.is_none() && versions.newest.modified <= revision {
                self.keys.remove(&key);
            }
        }
        self.oldest = revision;
    }
}

/// Ascending by key, each key once, the last write of a key kept.
fn in_key_order(mut writes: Vec<Write>) -> Vec<Write> {
    writes.reverse();
    writes.sort_by(|a, b| a.key().cmp(b.key()));
    writes.dedup_by(|later, kept| later.key() == kept.key());
    writes
}

// === impl Versions ===

impl Versions {
    fn stored(row: Row) -> Self {
        let Row { created, modified, value } = row;
        let newest = Version { modified, created, value: Some(value), stored: true, lease: None };
        Self { newest, older: VecDeque::new() }
    }

    /// The version that was the newest at `revision`.
    fn at(&self, revision: Revision) -> Option<&Version> {
        if self.newest.modified <= revision {
            return Some(&self.newest);
        }
        self.older.range(..self.older.partition_point(|it| it.modified <= revision)).next_back()
    }

    fn change(&self, key: &str, revision: Revision) -> Change {
        let version = self.at(revision).expect("a logged version is remembered");
        let index = self.older.partition_point(|it| it.modified < revision);
        let previous = index.checked_sub(1).and_then(|before| self.older[before].value.clone());
        match version.entry(key) {
            Some(entry) => Change::Put { entry, previous },
            None => Change::Delete {
                key: key.to_owned(),
                revision,
                previous: previous.expect("only a key with a value is deleted"),
            },
        }
    }
}

// === impl Version ===

impl Version {
    fn deletion(revision: Revision) -> Self {
        Self { modified: revision, created: revision, value: None, stored: false, lease: None }
    }

    fn entry(&self, key: &str) -> Option<Entry> {
        let value = self.value.clone()?;
        Some(Entry { key: key.to_owned(), value, created: self.created, modified: self.modified })
    }

    fn bytes(&self, key: &str) -> usize {
        key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }
}

// === impl Condition, Write, Persistence ===

impl Condition {
    fn key(&self) -> &str {
        match self {
            Self::Absent { key } | Self::ModifiedAt { key, .. } => key,
        }
    }
}

impl Write {
    fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }

    /// Whether it makes room, or says that something is to.
    pub(super) fn ends(&self) -> bool {
        matches!(self, Self::Delete { .. } | Self::Put { persistence: Persistence::Ending, .. })
    }
}

impl Persistence {
    /// The lease a write is made under, if any.
    pub(super) fn lease(self) -> Option<LeaseId> {
        match self {
            Self::Leased(lease) => Some(lease),
            Self::Durable | Self::Ending | Self::Checkpointed | Self::Volatile => None,
        }
    }
}
