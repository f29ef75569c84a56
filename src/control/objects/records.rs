//! Objects and records as the store holds them: JSON under a key. Pure.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ObjectError, PodIntent};
use crate::control::kinds::{Kind, POD};
use crate::control::meta;
use crate::control::registry::Part;
use crate::model::Uid;
use crate::store::{Condition, Entry, Persistence, Revision, Write};

/// A deletion that nodes have yet to act on or to confirm.
///
/// Written with the request that makes the deletion final: a pod's DELETE, a DaemonSet's removal, its foreground deletion or the
/// end of its orphaning, a Node's removal. Dropped when every node concerned has acknowledged it; a DaemonSet's is moved to where
/// it is found by who asks for it. Part of the store's format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tombstone {
    /// `kind` of the deleted object.
    pub kind: String,
    /// Its `metadata.namespace`; empty for Nodes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Its `metadata.name`.
    pub name: String,
    /// Its `metadata.uid`.
    pub uid: Uid,
    /// The position's `seq` that the deletion brought about.
    pub seq: u64,
    /// `spec.nodeName` of a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// How long a pod may take to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_period_seconds: Option<i64>,
}

/// What a commit means to nodes.
#[derive(Debug)]
pub(super) enum Intent {
    /// Nothing.
    None,
    /// The position moves.
    Moves,
    /// It moves, and a deletion is on record.
    Deletes(Tombstone),
    /// It moves, and there is something to tell of one pod.
    Tells(PodIntent),
}

impl Intent {
    /// Of a write of a kind.
    pub(super) fn of(kind: &Kind) -> Self {
        if kind.intent { Self::Moves } else { Self::None }
    }
}

/// An entry's object, with its resourceVersion.
pub(super) fn render(entry: &Entry) -> Result<Value, ObjectError> {
    Ok(with_revision(parse(&entry.key, &entry.value)?, entry.modified))
}

pub(super) fn with_revision(mut object: Value, revision: Revision) -> Value {
    meta::metadata_mut(&mut object).insert("resourceVersion".into(), revision.to_string().into());
    object
}

/// The write of an object, or of its status only, which need not survive as much.
pub(super) fn put(kind: &Kind, part: Part, key: &str, object: &Value) -> Write {
    let mut object = object.clone();
    meta::metadata_mut(&mut object).remove("resourceVersion");
    let persistence = match (part, kind.persistence) {
        (Part::Status, Persistence::Durable) => Persistence::Checkpointed,
        (_, persistence) => persistence,
    };
    Write::Put { key: key.to_owned(), value: Bytes::from(object.to_string()), persistence }
}

/// The same write of something that is to go: it gets through where the disk is full.
pub(super) fn ending(write: Write) -> Write {
    match write {
        Write::Put { key, value, persistence: Persistence::Durable } => {
            Write::Put { key, value, persistence: Persistence::Ending }
        }
        write => write,
    }
}

pub(super) fn record(key: String, value: &impl Serialize) -> Write {
    let value = serde_json::to_vec(value).expect("records have string keys only");
    Write::Put { key, value: value.into(), persistence: Persistence::Durable }
}

pub(super) fn parse<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, ObjectError> {
    serde_json::from_slice(value).map_err(|source| ObjectError::Corrupt { key: key.to_owned(), source })
}

pub(super) fn unchanged(entry: &Entry) -> Condition {
    Condition::ModifiedAt { key: entry.key.clone(), revision: entry.modified }
}

/// The record of a deletion; its `seq` is set by the commit.
pub(super) fn tombstone(kind: &Kind, object: &Value, grace_period_seconds: i64) -> Tombstone {
    Tombstone {
        kind: kind.kind.to_owned(),
        namespace: meta::namespace(object).to_owned(),
        name: meta::name(object).to_owned(),
        uid: meta::uid(object).into(),
        seq: 0,
        node: object["spec"]["nodeName"].as_str().map(str::to_owned),
        grace_period_seconds: (*kind == POD).then_some(grace_period_seconds),
    }
}
