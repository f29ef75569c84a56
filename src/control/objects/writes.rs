//! Users' writes: completed and checked by the registry, committed if nothing changed meanwhile.

use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::fleet::read_position;
use super::pods::{self, PodIntent, PostedPod};
use super::records::{Intent, ending, put, record, tombstone, unchanged, with_revision};
use super::{ATTEMPTS, ObjectError, Objects, Tombstone, contended, keys};
use crate::api::field::FieldError;
use crate::control::kinds::{DAEMON_SET, Kind, NAMESPACE, POD, SERVICE_ACCOUNT};
use crate::control::meta;
use crate::control::ownership;
use crate::control::registry::{self, Part};
use crate::control::removal::{self, DeleteOptions, Removal};
use crate::model::Position;
use crate::store::{Condition, Entry, Revision, StoreError, Write};

/// How often a generated name is drawn again because it is taken. As upstream.
const NAME_ATTEMPTS: usize = 8;

/// Options of every write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WriteOptions<'a> {
    /// Do everything but write (`dryRun=All`).
    pub dry_run: bool,
    /// Who is to own the fields that the write changes.
    pub writer: Writer<'a>,
}

/// Who writes, as far as `metadata.managedFields` is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer<'a> {
    /// A field manager: it owns from now on what it changes.
    Manager(&'a str),
    /// The object says itself who owns its fields, as server-side apply worked it out.
    Applied,
}

impl Default for Writer<'_> {
    /// Control itself.
    fn default() -> Self {
        Self::Manager("garrison")
    }
}

/// What became of an object that was to be deleted.
#[derive(Debug, Clone, PartialEq)]
pub enum Deleted {
    /// It is gone; this is what it was last.
    Removed(Value),
    /// It stays until a node, or whoever set a finalizer, lets it go.
    Marked(Value),
}

impl Objects {
    /// Creates an object as a user asks for it: completed, checked, with a uid of its own.
    ///
    /// `namespace` is the one of the request; it is written into the object. A namespace comes with its `default`
    /// ServiceAccount.
    ///
    /// # Errors
    /// [`ObjectError::AlreadyExists`], [`ObjectError::Invalid`], [`ObjectError::Forbidden`], and
    /// [`ObjectError::NotFound`] or [`ObjectError::NamespaceTerminating`] about the namespace.
    pub async fn create(
        &self,
        kind: &'static Kind,
        namespace: &str,
        mut object: Value,
        options: WriteOptions<'_>,
    ) -> Result<Value, ObjectError> {
        registry::stamp(kind, namespace, &mut object, &Uuid::new_v4().to_string(), Timestamp::now());
        let generate = meta::name(&object).is_empty() && !meta::text(&object, "generateName").is_empty();
        for _ in 0..NAME_ATTEMPTS {
            let mut object = object.clone();
            if generate {
                let name = registry::generated_name(meta::text(&object, "generateName"), Uuid::new_v4().as_u128());
                meta::metadata_mut(&mut object).insert("name".into(), name.into());
            }
            registry::prepare_create(kind, &mut object);
            // What admission adds is nobody's.
            note_owners(kind, Part::Main, None, &mut object, options);
            let posted = self.admit_pod(kind, namespace, &mut object).await?;
            match self.insert(kind, namespace, object, posted, options).await {
                Err(ObjectError::AlreadyExists { .. }) if generate => {}
                result => return result,
            }
        }
        Err(ObjectError::AlreadyExists { kind, name: meta::text(&object, "generateName").to_owned() })
    }

    /// Changes an object as a user asks for it. `part` says which half of it the request is about.
    ///
    /// `change` makes the new object out of the current one, again for each try. If it sets `metadata.resourceVersion`
    /// or `metadata.uid`, they must be the current ones. What `part` may not touch, and what only the
    /// server sets, is put back. A change of nothing is not written. The last finalizer taken from an object that is
    /// being deleted removes it.
    ///
    /// # Errors
    /// Those of `change`; [`ObjectError::NotFound`], [`ObjectError::Conflict`], [`ObjectError::Invalid`].
    pub async fn update<E: From<ObjectError>>(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        part: Part,
        options: WriteOptions<'_>,
        mut change: impl FnMut(&Value) -> Result<Value, E>,
    ) -> Result<Value, E> {
        for _ in 0..ATTEMPTS {
            let (entry, current) = self.read(kind, namespace, name).await?;
            let mut object = change(&current)?;
            check_preconditions(kind, &object, &current)?;
            registry::prepare_update(kind, part, &mut object, &current, Timestamp::now());
            note_owners(kind, part, Some(&current), &mut object, options);
            if object == current {
                return Ok(object);
            }
            valid(kind, name, registry::validate_update(kind, part, &object, &current))?;
            if part == Part::Main {
                self.check_references(kind, &object, Some(&current)).await?;
                if *kind == DAEMON_SET {
                    self.avoid_collision(&mut object).await?;
                }
            }
            let intent = self.intent_of(kind, part, &object, &current).await?;
            if options.dry_run {
                return Ok(object);
            }
            let outcome = if removal::is_released(kind, &object) {
                self.erase(kind, &entry, &current).await
            } else {
                self.commit(vec![unchanged(&entry)], vec![put(kind, part, &entry.key, &object)], intent).await
            };
            if let Some(revision) = outcome? {
                return Ok(with_revision(object, revision));
            }
        }
        Err(contended(kind, name).into())
    }

    /// Deletes an object as a user asks for it, or marks it for deletion; see [`removal`].
    ///
    /// # Errors
    /// [`ObjectError::NotFound`], [`ObjectError::Conflict`], [`ObjectError::Forbidden`], [`ObjectError::Invalid`].
    pub async fn delete(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, ObjectError> {
        for _ in 0..ATTEMPTS {
            let (entry, current) = self.read(kind, namespace, name).await?;
            let outcome = match removal::plan(kind, &current, options, Timestamp::now())? {
                Removal::Nothing => return Ok(Deleted::Marked(current)),
                Removal::Remove if options.dry_run => return Ok(Deleted::Removed(current)),
                Removal::Remove => self.erase(kind, &entry, &current).await?.map(|_| Deleted::Removed(current)),
                Removal::Mark { object, .. } if options.dry_run => return Ok(Deleted::Marked(object)),
                Removal::Mark { object, for_nodes } => {
                    let write = ending(put(kind, Part::Main, &entry.key, &object));
                    let grace = object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
                    let intent =
                        if for_nodes { Intent::Deletes(tombstone(kind, &object, grace)) } else { Intent::None };
                    let revision = self.commit(vec![unchanged(&entry)], vec![write], intent).await?;
                    revision.map(|revision| Deleted::Marked(with_revision(object, revision)))
                }
            };
            if let Some(deleted) = outcome {
                return Ok(deleted);
            }
        }
        Err(contended(kind, name))
    }

    /// Checks and writes a prepared new object.
    async fn insert(
        &self,
        kind: &'static Kind,
        namespace: &str,
        mut object: Value,
        posted: Option<PostedPod>,
        options: WriteOptions<'_>,
    ) -> Result<Value, ObjectError> {
        let name = meta::name(&object).to_owned();
        let key = keys::object(kind, namespace, &name);
        for _ in 0..ATTEMPTS {
            let mut conditions = vec![Condition::Absent { key: key.clone() }];
            if kind.namespaced {
                conditions.push(self.open_namespace(kind, namespace, &name).await?);
            }
            if let Some(reason) = registry::refuse_create(kind, &object) {
                return Err(ObjectError::Forbidden { kind, name, reason });
            }
            valid(kind, &name, registry::validate_create(kind, &object))?;
            self.check_references(kind, &object, None).await?;
            if *kind == DAEMON_SET {
                self.avoid_collision(&mut object).await?;
            }
            if self.find(&key).await?.is_some() {
                return Err(ObjectError::AlreadyExists { kind, name });
            }
            if options.dry_run {
                return Ok(object);
            }
            let mut writes = vec![put(kind, Part::Main, &key, &object)];
            if *kind == NAMESPACE {
                writes.push(default_service_account(&name));
            }
            let intent = pods::intent(&object, posted.clone()).filter(|_| *kind == POD);
            let intent = intent.map_or_else(|| Intent::of(kind), Intent::Tells);
            let committed = self.commit(conditions, writes, intent).await?;
            if let Some(revision) = committed {
                return Ok(with_revision(object, revision));
            }
        }
        Err(contended(kind, &name))
    }

    /// The condition that the namespace exists and takes new content.
    pub(super) async fn open_namespace(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Condition, ObjectError> {
        let (entry, value) = self.read(&NAMESPACE, "", namespace).await?;
        if meta::is_deleting(&value) {
            let (name, namespace) = (name.to_owned(), namespace.to_owned());
            return Err(ObjectError::NamespaceTerminating { kind, name, namespace });
        }
        Ok(Condition::ModifiedAt { key: entry.key, revision: entry.modified })
    }
}

// === commits ===

impl Objects {
    /// Removes an object for a user, with the record nodes need. Nothing if it changed meanwhile.
    async fn erase(&self, kind: &Kind, entry: &Entry, current: &Value) -> Result<Option<Revision>, ObjectError> {
        let mut writes = vec![Write::Delete { key: entry.key.clone() }];
        if *kind == POD {
            writes.push(Write::Delete { key: keys::pod(meta::uid(current)) });
        }
        let concerned = removal::concerns_nodes(kind, current).then(|| tombstone(kind, current, 0));
        let intent = concerned.map_or_else(|| Intent::of(kind), Intent::Deletes);
        self.commit(vec![unchanged(entry)], writes, intent).await
    }

    /// What an update means to nodes.
    async fn intent_of(
        &self,
        kind: &'static Kind,
        part: Part,
        object: &Value,
        current: &Value,
    ) -> Result<Intent, ObjectError> {
        if part == Part::Status {
            return Ok(Intent::None);
        }
        // From here on a DaemonSet that is deleted has no pods, whoever else keeps it.
        if *kind == DAEMON_SET && removal::is_orphaning(current) && !removal::is_orphaning(object) {
            return Ok(Intent::Deletes(tombstone(kind, current, 0)));
        }
        Ok(self.touched(kind, part, object, current).await?.map_or_else(|| Intent::of(kind), Intent::Tells))
    }

    /// Commits, and moves the position along if the commit means something to nodes. Nothing if a condition did not hold
    /// and the caller must look again.
    pub(super) async fn commit(
        &self,
        mut conditions: Vec<Condition>,
        mut writes: Vec<Write>,
        intent: Intent,
    ) -> Result<Option<Revision>, ObjectError> {
        if !matches!(intent, Intent::None) {
            let (entry, position) = read_position(&*self.inner.store).await?.expect("made when the store was opened");
            let position = Position { seq: position.seq + 1, ..position };
            conditions.push(unchanged(&entry));
            writes.push(record(keys::POSITION.into(), &position));
            writes.extend(numbered(intent, position.seq));
        }
        match self.write(conditions, writes).await {
            Ok(revision) => Ok(Some(revision)),
            Err(ObjectError::Store(StoreError::Conflict { .. })) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The record of what a commit means to nodes, if it has one, with the `seq` of that commit.
fn numbered(intent: Intent, seq: u64) -> Option<Write> {
    match intent {
        Intent::None | Intent::Moves => None,
        Intent::Deletes(tombstone) => {
            Some(ending(record(keys::tombstone(tombstone.uid.as_str()), &Tombstone { seq, ..tombstone })))
        }
        Intent::Tells(pod) => Some(record(keys::pod(pod.uid.as_str()), &PodIntent { seq, ..pod })),
    }
}

// === preconditions ===

/// A new object may name the version and the uid of the object it was made from; they must be the current ones.
fn check_preconditions(kind: &'static Kind, object: &Value, current: &Value) -> Result<(), ObjectError> {
    let (asked, present) = (meta::text(object, "resourceVersion"), meta::text(current, "resourceVersion"));
    if !asked.is_empty() && asked != present {
        return Err(contended(kind, meta::name(current)));
    }
    if meta::uid(object).is_empty() { Ok(()) } else { check_same(kind, object, current) }
}

/// Nothing takes the place of another object by its name.
pub(super) fn check_same(kind: &'static Kind, object: &Value, current: &Value) -> Result<(), ObjectError> {
    let (asked, present) = (meta::uid(object), meta::uid(current));
    if asked == present {
        return Ok(());
    }
    let reason = format!("Precondition failed: UID in precondition: {asked}, UID in object meta: {present}");
    Err(ObjectError::Conflict { kind, name: meta::name(current).to_owned(), reason })
}

/// Writes into a completed object who owns its fields now.
fn note_owners(kind: &'static Kind, part: Part, before: Option<&Value>, object: &mut Value, options: WriteOptions<'_>) {
    match options.writer {
        Writer::Manager(manager) => {
            let write = ownership::Write { kind, part, manager, now: Timestamp::now() };
            ownership::note_update(&write, before, object);
        }
        Writer::Applied => ownership::keep_times(before, object),
    }
}

fn valid(kind: &'static Kind, name: &str, errors: Vec<FieldError>) -> Result<(), ObjectError> {
    if errors.is_empty() { Ok(()) } else { Err(ObjectError::Invalid { kind, name: name.to_owned(), errors }) }
}

fn default_service_account(namespace: &str) -> Write {
    let mut account = json!({"metadata": {"name": "default"}});
    registry::stamp(&SERVICE_ACCOUNT, namespace, &mut account, &Uuid::new_v4().to_string(), Timestamp::now());
    put(&SERVICE_ACCOUNT, Part::Main, &keys::object(&SERVICE_ACCOUNT, namespace, "default"), &account)
}
