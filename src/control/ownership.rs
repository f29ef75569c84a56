//! Who owns which fields of an object (`metadata.managedFields`), and what server-side apply makes of that.
//!
//! Pure. In come the object as it is, the object or configuration of a request, and who sends it; out comes the object
//! with its managers written into it, or the conflicts. Every write of a user passes through [`note_update`] once it is
//! completed; server-side apply passes through [`apply`] before that. What nodes report belongs to nobody.
//!
//! | a manager … | becomes the owner of |
//! |---|---|
//! | that creates, updates or patches | the fields that it adds or changes |
//! | that applies | the fields of its configuration; those it had applied before and left out go, unless somebody else owns them |
//!
//! Whoever owned a field that another changes loses it. Apply asks first: that is a conflict, unless it is forced.
//!
//! Sources: kubernetes v1.36, `k8s.io/apimachinery/pkg/util/managedfields/internal`; structured-merge-diff v6,
//! `merge/update.go`. Differences: an object has one version here; fields the server itself fills in on creation (the
//! status of a DaemonSet) are nobody's.

mod managers;
mod set;
mod walk;

#[cfg(test)]
mod tests;

use jiff::Timestamp;
use serde_json::{Value, json};

use self::managers::{Entry, Managed, Manager, Operation};
use self::set::FieldSet;
use super::kinds::{APPROVAL, EPHEMERAL_CONTAINERS, Kind, STATUS};
use super::meta;
use super::registry::Part;
use super::shape::{Shape, shape_of};

/// `kubectl apply` keeps here what it applied last, without server-side apply.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The manager that takes over from client-side apply.
const KUBECTL: &str = "kubectl";
/// Who owns what an object had when it was first applied.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// Who writes without a name.
const UNKNOWN: &str = "unknown";

/// Which write of an object this is.
#[derive(Debug, Clone, Copy)]
pub struct Write<'a> {
    /// Of what.
    pub kind: &'static Kind,
    /// Of which half.
    pub part: Part,
    /// `fieldManager`.
    pub manager: &'a str,
    /// When.
    pub now: Timestamp,
}

/// Fields that a configuration would take from other managers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Apply failed with {}", printed(.0))]
pub struct Conflicts(pub Vec<Conflict>);

/// One field that belongs to another manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The manager, as messages name it.
    pub manager: String,
    /// The field's path.
    pub field: String,
}

/// Source: kubernetes v1.36, `managedfields/internal/conflict.go`, `getConflictMessage`.
fn printed(conflicts: &[Conflict]) -> String {
    if let [Conflict { manager, field }] = conflicts {
        return format!("1 conflict: conflict with {manager}: {field}");
    }
    let mut lines = Vec::new();
    let mut last = None;
    for Conflict { manager, field } in conflicts {
        if last != Some(manager) {
            lines.push(format!("conflicts with {manager}:"));
        }
        lines.push(format!("- {field}"));
        last = Some(manager);
    }
    format!("{} conflicts: {}", conflicts.len(), lines.join("\n"))
}

/// Why a configuration was not applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Others own what it would change.
    #[error(transparent)]
    Conflicts(#[from] Conflicts),
    /// It cannot be told which elements of a list are meant.
    #[error("failed to create typed patch object ({namespace}/{name}; {api_version}, Kind={kind}): {problem}")]
    Untyped {
        /// Of the configuration.
        namespace: String,
        /// Of the configuration.
        name: String,
        /// Of the configuration.
        api_version: String,
        /// Of the configuration.
        kind: &'static str,
        /// A path and what is wrong there.
        problem: String,
    },
}

impl Write<'_> {
    fn shape(&self) -> &'static Shape {
        shape_of(self.kind)
    }

    fn manager(&self, operation: Operation) -> Manager {
        let name = if self.manager.is_empty() { UNKNOWN } else { self.manager };
        let subresource = match self.part {
            Part::Main => String::new(),
            Part::Status => STATUS.to_owned(),
            Part::EphemeralContainers => EPHEMERAL_CONTAINERS.to_owned(),
            Part::Approval => APPROVAL.to_owned(),
        };
        Manager { name: name.to_owned(), operation, subresource }
    }

    fn entry(&self, operation: Operation, fields: FieldSet) -> Entry {
        let api_version = self.kind.api_version();
        Entry { manager: self.manager(operation), api_version, time: Some(self.now), fields }
    }

    /// Without the fields of the half that such a write does not touch.
    fn within(&self, fields: FieldSet) -> FieldSet {
        match self.part {
            _ if self.kind.subresource(STATUS).is_none() => fields,
            Part::Main | Part::EphemeralContainers => fields.without("status"),
            Part::Status | Part::Approval => fields.without("spec"),
        }
    }

    fn compare(&self, before: &Value, after: &Value) -> walk::Comparison {
        let walk::Comparison { added, modified, removed } = walk::compare(self.shape(), before, after);
        walk::Comparison { added: self.within(added), modified: self.within(modified), removed: self.within(removed) }
    }
}

/// The fields that say what an object is; nobody owns them.
fn unowned() -> FieldSet {
    FieldSet::of([
        &["apiVersion"],
        &["kind"],
        &["metadata"],
        &["metadata", "name"],
        &["metadata", "namespace"],
        &["metadata", "creationTimestamp"],
        &["metadata", "selfLink"],
        &["metadata", "uid"],
        &["metadata", "generation"],
        &["metadata", "managedFields"],
        &["metadata", "resourceVersion"],
    ])
}

/// An object without what is said about its owners.
fn bare(object: &Value) -> Value {
    let mut bare = object.clone();
    meta::metadata_mut(&mut bare).remove("managedFields");
    bare
}

// === create, update, patch ===

/// Writes into a completed object who owns its fields, given what it was before; nothing before a creation.
///
/// The request may set `managedFields` itself. Objects that nobody ever owned stay so when they are updated.
pub fn note_update(write: &Write<'_>, before: Option<&Value>, object: &mut Value) {
    let current = before.and_then(Managed::of);
    let asked = (write.part == Part::Main).then(|| Managed::of(object)).flatten();
    let reset = write.part == Part::Main && Managed::is_reset_by(object);
    let managed = if reset { None } else { asked.or(current) };
    let tracked = managed.is_some() || before.is_none();
    let mut managed = managed.unwrap_or_default();
    if tracked {
        let after = bare(object);
        // The parts every object consists of are there before anybody creates it.
        let nothing = || json!({"metadata": {}, "spec": {}, "status": {}});
        update(write, &before.map_or_else(nothing, bare), &after, &mut managed);
        managed.cap();
    }
    managed.put(object);
    keep_times(before, object);
}

fn update(write: &Write<'_>, before: &Value, after: &Value, managed: &mut Managed) {
    let changes = write.compare(before, after);
    let taken = changes.added.union(&changes.modified);
    managed.give_up(&taken.union(&changes.removed));
    let taken = taken.difference(&unowned());
    if taken.is_empty() {
        return;
    }
    let entry = write.entry(Operation::Update, taken);
    match managed.find_mut(&entry.manager) {
        Some(present) => {
            present.fields = present.fields.union(&entry.fields);
            present.time = entry.time;
        }
        None => managed.0.push(entry),
    }
}

/// A write that changes nothing but when somebody last wrote changes nothing.
pub fn keep_times(before: Option<&Value>, object: &mut Value) {
    let Some(before) = before else { return };
    let timeless = |object: &Value| {
        let mut object = object.clone();
        for entry in object["metadata"]["managedFields"].as_array_mut().into_iter().flatten() {
            entry["time"] = Value::Null;
        }
        object
    };
    if bare(before) == bare(object) && timeless(before) == timeless(object) {
        meta::copy_field(meta::metadata_mut(object), &before["metadata"], "managedFields");
    }
}

// === server-side apply ===

/// The object that comes of applying `config` to `live`, or to nothing, with its managers.
///
/// `config` has only what was written. `kubectl` takes over what it applied client-side: where its annotation says what
/// the object has, there is no conflict.
///
/// # Errors
/// [`ApplyError::Conflicts`] unless `force`.
pub fn apply(write: &Write<'_>, live: Option<&Value>, config: &Value, force: bool) -> Result<Value, ApplyError> {
    walk::check(write.shape(), config).map_err(|problem| ApplyError::Untyped {
        namespace: meta::namespace(config).to_owned(),
        name: meta::name(config).to_owned(),
        api_version: write.kind.api_version(),
        kind: write.kind.kind,
        problem,
    })?;
    let applied = match apply_as(write, live, config, force) {
        Err(conflicts) if write.manager == KUBECTL => {
            let allowed = live.map(|live| of_client_side_apply(write, live)).unwrap_or_default();
            let left: Vec<Conflict> =
                conflicts.0.into_iter().filter(|conflict| !allowed.contains(&conflict.field)).collect();
            if !left.is_empty() {
                return Err(Conflicts(left).into());
            }
            apply_as(write, live, config, true)
        }
        applied => applied,
    };
    let mut object = applied?;
    if write.manager == KUBECTL && object["metadata"]["annotations"][LAST_APPLIED].is_string() {
        object["metadata"]["annotations"][LAST_APPLIED] = last_applied(config).into();
    }
    Ok(object)
}

fn apply_as(write: &Write<'_>, live: Option<&Value>, config: &Value, force: bool) -> Result<Value, Conflicts> {
    let shape = write.shape();
    let before = live.map_or_else(|| json!({}), bare);
    let mut managed = live.map(|live| managed_before(write, live)).unwrap_or_default();
    let merged = walk::merge(shape, &before, config);
    let fields = write.within(walk::fields_of(shape, config)).difference(&unowned());
    let entry = write.entry(Operation::Apply, fields);
    let last = managed.find(&entry.manager).cloned();
    managed.0.retain(|other| other.manager != entry.manager);
    let after = match &last {
        Some(last) => prune(shape, &merged, &managed.owned().union(&entry.fields), &last.fields),
        None => merged,
    };

    let changes = write.compare(&before, &after);
    let taken = changes.added.union(&changes.modified);
    if !force {
        check_conflicts(&managed, &taken)?;
    }
    managed.give_up(&taken.union(&changes.removed));
    let unchanged = after == before;
    let time = last.as_ref().filter(|_| unchanged).map_or(entry.time, |last| last.time);
    managed.0.push(Entry { time, ..entry });
    let mut object = after;
    managed.put(&mut object);
    Ok(object)
}

/// The managers of an object that is applied to. What nobody owned until now is of those before.
fn managed_before(write: &Write<'_>, live: &Value) -> Managed {
    Managed::of(live).unwrap_or_else(|| {
        let mut managed = Managed::default();
        let earlier = Write { manager: BEFORE_FIRST_APPLY, ..*write };
        update(&earlier, &json!({"metadata": {}, "spec": {}, "status": {}}), &bare(live), &mut managed);
        managed
    })
}

fn check_conflicts(managed: &Managed, taken: &FieldSet) -> Result<(), Conflicts> {
    let mut conflicts: Vec<Conflict> = Vec::new();
    for entry in &managed.0 {
        let manager = entry.manager.printed(&entry.api_version);
        let fields = entry.fields.intersection(taken).paths();
        conflicts.extend(fields.into_iter().map(|field| Conflict { manager: manager.clone(), field }));
    }
    conflicts.sort_by(|one, other| one.manager.cmp(&other.manager));
    if conflicts.is_empty() { Ok(()) } else { Err(Conflicts(conflicts)) }
}

/// Takes away what the manager applied `last` and applies no more, unless it is among what anybody has now.
///
/// Source: structured-merge-diff v6, `merge/update.go`, `prune`.
fn prune(shape: &'static Shape, merged: &Value, owned: &FieldSet, last: &FieldSet) -> Value {
    let (last, owned) = (last.named(), owned.named());
    let all = walk::fields_of(shape, merged).named();
    let left = |pruned: &Value| walk::fields_of(shape, pruned).named();
    // Without all that it had; then with what has an owner; then with what it never had.
    let pruned = walk::remove(shape, merged, &last);
    let pruned = walk::remove(shape, merged, &all.difference(&left(&pruned).union(&owned)));
    walk::remove(shape, merged, &all.difference(&left(&pruned)).intersection(&last))
}

/// The paths of the fields that are as client-side apply left them.
fn of_client_side_apply(write: &Write<'_>, live: &Value) -> Vec<String> {
    let text = live["metadata"]["annotations"][LAST_APPLIED].as_str().unwrap_or_default();
    let Ok(applied) = serde_json::from_str::<Value>(text) else { return Vec::new() };
    if applied["apiVersion"] != write.kind.api_version().as_str() {
        return Vec::new();
    }
    let changes = walk::compare(write.shape(), &applied, &bare(live));
    let others = changes.modified.union(&changes.added).union(&changes.removed);
    walk::fields_of(write.shape(), &applied).difference(&others).paths()
}

/// A configuration as `kubectl apply` writes it into its annotation.
fn last_applied(config: &Value) -> String {
    let mut config = bare(config);
    if let Some(Value::Object(annotations)) = config.pointer_mut("/metadata/annotations") {
        annotations.remove(LAST_APPLIED);
    }
    format!("{config}\n")
}
