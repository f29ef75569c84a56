//! `metadata.managedFields`: who set which fields, when, and by which request.
//!
//! Source: kubernetes v1.36, `k8s.io/apimachinery/pkg/util/managedfields/internal/{managedfields,capmanagers}.go`.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::set::FieldSet;
use crate::control::meta;

/// So many managers that updated are told apart; the oldest beyond them become one.
pub(super) const MAX_UPDATERS: usize = 10;
/// What those are called together.
pub(super) const ANCIENT: &str = "ancient-changes";

/// By which kind of request fields came to be a manager's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Server-side apply.
    Apply,
    /// Anything else.
    Update,
}

/// Who owns fields. One name counts as several managers: by operation, and by the part of the object it writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manager {
    /// `manager`.
    pub name: String,
    /// `operation`.
    pub operation: Operation,
    /// `subresource`; empty for the object itself.
    pub subresource: String,
}

/// One entry of `managedFields`.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Who.
    pub manager: Manager,
    /// `apiVersion` the fields are of.
    pub api_version: String,
    /// When it last took or changed a field; none if that is not known.
    pub time: Option<Timestamp>,
    /// What it owns; never empty.
    pub fields: FieldSet,
}

/// All entries of an object.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Managed(pub Vec<Entry>);

impl Managed {
    /// What an object says. None if it says nothing, or something that makes no sense.
    pub fn of(object: &Value) -> Option<Self> {
        let entries = object["metadata"]["managedFields"].as_array().filter(|entries| !entries.is_empty())?;
        entries.iter().map(Entry::read).collect::<Option<_>>().map(Self)
    }

    /// Whether a request wants nobody to own anything: an empty list, or a list of one empty entry.
    pub fn is_reset_by(object: &Value) -> bool {
        object["metadata"]["managedFields"].as_array().is_some_and(|entries| match entries.as_slice() {
            [] => true,
            [only] => only.as_object().is_some_and(serde_json::Map::is_empty),
            _ => false,
        })
    }

    /// Writes the entries into an object, in upstream's order; no field for none.
    pub fn put(mut self, object: &mut Value) {
        self.0.retain(|entry| !entry.fields.is_empty());
        self.0.sort_by(|one, other| one.order().cmp(&other.order()));
        let metadata = meta::metadata_mut(object);
        if self.0.is_empty() {
            metadata.remove("managedFields");
        } else {
            metadata.insert("managedFields".to_owned(), self.0.iter().map(Entry::write).collect());
        }
    }

    /// A manager's entry. Of updates, versions are told apart as well; here all objects have one.
    pub fn find(&self, manager: &Manager) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.manager == *manager)
    }

    /// A manager's entry to write into.
    pub fn find_mut(&mut self, manager: &Manager) -> Option<&mut Entry> {
        self.0.iter_mut().find(|entry| entry.manager == *manager)
    }

    /// Everything that somebody owns.
    pub fn owned(&self) -> FieldSet {
        self.0.iter().fold(FieldSet::default(), |owned, entry| owned.union(&entry.fields))
    }

    /// Takes fields away from everybody.
    pub fn give_up(&mut self, fields: &FieldSet) {
        for entry in &mut self.0 {
            entry.fields = entry.fields.difference(fields);
        }
        self.0.retain(|entry| !entry.fields.is_empty());
    }

    /// Makes one manager of the oldest updaters if there are too many.
    pub fn cap(&mut self) {
        let (mut updaters, mut kept): (Vec<Entry>, Vec<Entry>) =
            std::mem::take(&mut self.0).into_iter().partition(|entry| entry.manager.operation == Operation::Update);
        if updaters.len() > MAX_UPDATERS {
            updaters.sort_by(|one, other| one.order().cmp(&other.order()));
            let mut ancient = updaters.remove(0);
            ancient.manager.name = ANCIENT.to_owned();
            ancient.manager.subresource = String::new();
            while updaters.len() >= MAX_UPDATERS {
                let next = updaters.remove(0);
                ancient.fields = ancient.fields.union(&next.fields);
                ancient.time = next.time;
            }
            kept.push(ancient);
        }
        kept.append(&mut updaters);
        self.0 = kept;
    }
}

impl Manager {
    /// As messages about conflicts name it.
    pub fn printed(&self, api_version: &str) -> String {
        let mut text = format!("{:?}", self.name);
        if !self.subresource.is_empty() {
            text += &format!(" with subresource {:?}", self.subresource);
        }
        if self.operation == Operation::Update {
            text += &format!(" using {api_version}");
        }
        text
    }
}

impl Entry {
    fn order(&self) -> (Operation, i64, &str, &str, &str) {
        let Manager { name, operation, subresource } = &self.manager;
        (*operation, self.time.map_or(0, Timestamp::as_second), name, &self.api_version, subresource)
    }

    fn read(entry: &Value) -> Option<Self> {
        let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
        let operation = match entry["operation"].as_str()? {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        let (api_version, known) = (text("apiVersion"), entry["fieldsType"] == "FieldsV1");
        if api_version.is_empty() || !known {
            return None;
        }
        Some(Self {
            manager: Manager { name: text("manager"), operation, subresource: text("subresource") },
            api_version,
            time: entry["time"].as_str().and_then(|time| time.parse().ok()),
            fields: FieldSet::from_json(&entry["fieldsV1"])?,
        })
    }

    fn write(&self) -> Value {
        let operation = match self.manager.operation {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        };
        let mut entry = json!({
            "manager": self.manager.name,
            "operation": operation,
            "apiVersion": self.api_version,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.fields.to_json(),
        });
        if let Some(time) = self.time {
            entry["time"] = meta::time(time).into();
        }
        if !self.manager.subresource.is_empty() {
            entry["subresource"] = self.manager.subresource.as_str().into();
        }
        entry
    }
}
