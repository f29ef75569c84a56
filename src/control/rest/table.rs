//! Tables: objects as `kubectl get` prints them.
//!
//! In come objects of one kind and the time; out comes a `meta.k8s.io/v1` Table. All columns are always sent; clients leave
//! out those with a priority unless asked for wide output.
//!
//! Source: kubernetes v1.36, `pkg/printers/internalversion/printers.go` and `k8s.io/apiserver`,
//! `pkg/endpoints/handlers/response.go`.

mod age;
mod charts;
mod kinds;
mod metrics;
mod pod;
#[cfg(test)]
mod tests;

use std::str::FromStr;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use crate::control::kinds::Kind;

/// One column of a Table (`TableColumnDefinition`).
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Column {
    /// The heading, before the client changes it to upper case.
    pub name: &'static str,
    /// OpenAPI type of the cells.
    #[serde(rename = "type")]
    pub cell_type: &'static str,
    /// OpenAPI format of the cells; `name` marks the object's name.
    pub format: &'static str,
    /// What the cells tell.
    pub description: &'static str,
    /// 0 for what is always shown, 1 for wide output.
    pub priority: u8,
}

/// How objects of one kind are shown.
struct Layout {
    columns: &'static [Column],
    /// As many cells as there are columns.
    cells: fn(&Value, Timestamp) -> Vec<Value>,
}

/// How much of an object goes with its row (`includeObject` of the query).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// Its metadata, as a PartialObjectMetadata.
    #[default]
    Metadata,
    /// All of it.
    Object,
}

/// The query asks for something else than `None`, `Metadata` or `Object`. 400.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unrecognized includeObject value: {0:?}")]
pub struct BadIncludeObject(String);

impl FromStr for IncludeObject {
    type Err = BadIncludeObject;

    fn from_str(text: &str) -> Result<Self, BadIncludeObject> {
        match text {
            "" | "Metadata" => Ok(Self::Metadata),
            "None" => Ok(Self::None),
            "Object" => Ok(Self::Object),
            other => Err(BadIncludeObject(other.to_owned())),
        }
    }
}

impl Column {
    const fn new(name: &'static str, cell_type: &'static str, description: &'static str) -> Self {
        Self { name, cell_type, format: "", description, priority: 0 }
    }

    /// A column of strings.
    pub const fn text(name: &'static str, description: &'static str) -> Self {
        Self::new(name, "string", description)
    }

    /// The column that names the object.
    const fn name() -> Self {
        Self { format: "name", ..Self::text("Name", "Name of the object, unique within its namespace.") }
    }

    /// The column that every kind's layout has for `metadata.creationTimestamp`.
    const fn age() -> Self {
        Self::text("Age", "Time since the object was created.")
    }

    /// The same column, shown in wide output only.
    const fn wide(self) -> Self {
        Self { priority: 1, ..self }
    }
}

/// The columns of a kind.
pub fn columns(kind: &Kind) -> &'static [Column] {
    layout(kind).columns
}

/// The cells of one object, in the order of [`columns`]. Ages are counted up to `now`.
///
/// What an object lacks is shown as kubernetes does (`<none>`, `<unknown>`, 0), so nothing can fail.
pub fn row(kind: &Kind, object: &Value, now: Timestamp) -> Vec<Value> {
    (layout(kind).cells)(object, now)
}

/// A Table of objects.
///
/// `list_meta` becomes the Table's `metadata`: `resourceVersion`, and `continue` and `remainingItemCount` of a page. The
/// columns are left out (`with_columns` false) from all but the first event of a watch.
pub fn table<'a>(
    kind: &Kind,
    items: impl IntoIterator<Item = &'a Value>,
    list_meta: &Value,
    include: IncludeObject,
    with_columns: bool,
    now: Timestamp,
) -> Value {
    let rows: Vec<Value> = items
        .into_iter()
        .map(|item| {
            let mut row = json!({"cells": row(kind, item, now), "object": row_object(kind, item, include)});
            if let Some(condition) = row_condition(kind, item) {
                row["conditions"] = json!([condition]);
            }
            row
        })
        .collect();
    let columns = if with_columns { columns(kind) } else { &[] };
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": list_meta,
        "columnDefinitions": columns,
        "rows": rows,
    })
}

fn layout(kind: &Kind) -> &'static Layout {
    match kind.kind {
        "CertificateSigningRequest" => &charts::CERTIFICATE_SIGNING_REQUEST,
        "ClusterRole" | "Role" => &kinds::ROLE,
        "ClusterRoleBinding" | "RoleBinding" => &kinds::BINDING,
        "ConfigMap" => &kinds::CONFIG_MAP,
        "ControllerRevision" => &kinds::CONTROLLER_REVISION,
        "DaemonSet" => &kinds::DAEMON_SET,
        "EndpointSlice" => &charts::ENDPOINT_SLICE,
        "Endpoints" => &charts::ENDPOINTS,
        "Event" => &kinds::EVENT,
        "Lease" => &charts::LEASE,
        "Namespace" => &kinds::NAMESPACE,
        "NetworkPolicy" => &charts::NETWORK_POLICY,
        "Node" => &kinds::NODE,
        "NodeMetrics" => &metrics::NODE_METRICS,
        "Pod" => &pod::POD,
        "PodMetrics" => &metrics::POD_METRICS,
        "PodDisruptionBudget" => &charts::POD_DISRUPTION_BUDGET,
        "PriorityClass" => &kinds::PRIORITY_CLASS,
        "RuntimeClass" => &kinds::RUNTIME_CLASS,
        "Secret" => &kinds::SECRET,
        "Service" => &charts::SERVICE,
        "ServiceAccount" => &kinds::SERVICE_ACCOUNT,
        _ => &kinds::OTHER,
    }
}

fn row_object(kind: &Kind, item: &Value, include: IncludeObject) -> Value {
    match include {
        IncludeObject::None => Value::Null,
        IncludeObject::Metadata => json!({
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": item["metadata"],
        }),
        IncludeObject::Object => {
            let mut object = item.clone();
            object["kind"] = kind.kind.into();
            object["apiVersion"] = kind.api_version().into();
            object
        }
    }
}

/// Marks pods that have ended.
fn row_condition(kind: &Kind, item: &Value) -> Option<Value> {
    let (reason, message) = match text(item, "/status/phase") {
        "Succeeded" if kind.kind == "Pod" => ("Succeeded", "The pod has completed successfully."),
        "Failed" if kind.kind == "Pod" => ("Failed", "The pod failed."),
        _ => return None,
    };
    Some(json!({"type": "Completed", "status": "True", "reason": reason, "message": message}))
}

// === reading objects ===

/// The string at a JSON pointer; empty if there is none.
fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The integer at a JSON pointer; 0 if there is none.
fn integer(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
}

/// The boolean at a JSON pointer; false if there is none.
fn flag(object: &Value, pointer: &str) -> bool {
    object.pointer(pointer).and_then(Value::as_bool).unwrap_or_default()
}

/// The elements of the list at a JSON pointer; none if there is no list.
fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The fields of the object at a JSON pointer, by name; none if there is no object.
fn fields<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = (&'a str, &'a Value)> {
    let fields = object.pointer(pointer).and_then(Value::as_object);
    fields.into_iter().flatten().map(|(name, value)| (name.as_str(), value))
}

/// The condition of a type in `status.conditions`.
fn condition<'a>(object: &'a Value, condition_type: &str) -> Option<&'a Value> {
    list(object, "/status/conditions").iter().find(|condition| condition["type"] == condition_type)
}

/// The text, or `<none>` in the place of an empty one.
fn or_none(text: &str) -> &str {
    or(text, "<none>")
}

fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}
