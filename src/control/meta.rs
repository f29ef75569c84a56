//! Reads and writes `metadata` of API objects held as JSON.
//!
//! Objects travel through control as `serde_json::Value`, because patches, representations and the store work on JSON
//! and because no field may be lost on the way. These are the few fields control itself looks at. Pure.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::kinds::Kind;
use crate::model::Uid;

/// A text field of `metadata`; empty if it is absent.
pub fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// `metadata.name`; empty if it is absent.
pub fn name(object: &Value) -> &str {
    text(object, "name")
}

/// `metadata.namespace`; empty for cluster-scoped objects.
pub fn namespace(object: &Value) -> &str {
    text(object, "namespace")
}

/// `metadata.uid`; empty if it is absent.
pub fn uid(object: &Value) -> &str {
    text(object, "uid")
}

/// Somebody asked for the object's deletion and it is still there.
pub fn is_deleting(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

/// `metadata.finalizers`.
pub fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    object["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// The uids in `metadata.ownerReferences`.
pub fn owner_uids(object: &Value) -> impl Iterator<Item = &str> {
    let owners = object["metadata"]["ownerReferences"].as_array();
    owners.into_iter().flatten().filter_map(|owner| owner["uid"].as_str())
}

/// The uid of the DaemonSet that controls an object.
pub fn controller(object: &Value) -> Option<Uid> {
    let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    let controller = owners?.iter().find(|owner| owner["controller"] == true && owner["kind"] == "DaemonSet")?;
    controller["uid"].as_str().map(Uid::from)
}

/// Some object controls this one, of whatever kind.
pub fn is_controlled(object: &Value) -> bool {
    let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    owners.into_iter().flatten().any(|owner| owner["controller"] == true)
}

/// Makes `owner`, an object of a kind, the controller of an object that has none.
pub fn own(object: &mut Value, kind: &Kind, owner: &Value) {
    let reference = json!({
        "apiVersion": kind.api_version(), "kind": kind.kind, "name": name(owner), "uid": uid(owner),
        "controller": true, "blockOwnerDeletion": true,
    });
    let others = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    let others = others.filter(|other| other["uid"] != reference["uid"]).cloned();
    let owners: Vec<Value> = others.chain([reference.clone()]).collect();
    metadata_mut(object).insert("ownerReferences".to_owned(), owners.into());
}

/// Takes an object's references to some owners away.
pub fn disown(object: &mut Value, owners: &[Uid]) {
    let metadata = metadata_mut(object);
    let Some(Value::Array(references)) = metadata.get_mut("ownerReferences") else { return };
    references.retain(|reference| !owners.iter().any(|owner| reference["uid"] == owner.as_str()));
    if references.is_empty() {
        metadata.remove("ownerReferences");
    }
}

/// `metadata` to write into; made if the object has none or something else in its place.
pub fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    map_mut(object, "metadata")
}

/// A field to write into that holds a map; made if the object has none or something else in its place.
pub fn map_mut<'a>(object: &'a mut Value, field: &str) -> &'a mut Map<String, Value> {
    if !object.is_object() {
        *object = json!({});
    }
    let slot = &mut object[field];
    if !slot.is_object() {
        *slot = json!({});
    }
    slot.as_object_mut().expect("was just made an object")
}

/// Makes `field` of `target` what it is in `source`, also if that is nothing.
pub fn copy_field(target: &mut Map<String, Value>, source: &Value, field: &str) {
    match source.get(field) {
        Some(value) if !value.is_null() => {
            target.insert(field.to_owned(), value.clone());
        }
        _ => {
            target.remove(field);
        }
    }
}

/// A moment as `metadata` writes it: RFC 3339, whole seconds, UTC.
pub fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
