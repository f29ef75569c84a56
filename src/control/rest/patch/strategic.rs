//! Strategic merge patch: a patch that merges lists by the identity of their elements.
//!
//! In come a live object, a patch and the [`Shape`] of the kind; out comes the patched object or the place in the
//! patch that makes no sense. Knows nothing of requests, versions or validation.
//!
//! A patch may contain, besides fields, these directives:
//!
//! | directive | where | meaning |
//! |---|---|---|
//! | `$patch: replace` | in an object | the rest of this object replaces the live one |
//! | `$patch: delete` | in an object | the live object is emptied |
//! | `$patch: merge` | in an object | what happens anyway |
//! | `$patch: delete` | in an element of a keyed list | the element with this key goes |
//! | `$patch: replace` | in an element of a keyed list | the other elements replace the live list |
//! | `$retainKeys: [field…]` | in an object | fields of the live object that are not named go |
//! | `$setElementOrder/<list>: [key…]` | beside `<list>` | the order of the elements named |
//! | `$deleteFromPrimitiveList/<list>: […]` | beside `<list>` | these scalars go |
//!
//! and `null` for "remove this field".
//!
//! Source: kubernetes v1.36, `k8s.io/apimachinery/pkg/util/strategicpatch/patch.go`, `StrategicMergeMapPatch`. Stated
//! differences: an object added with `$patch: replace` is added (upstream drops it), `$patch: merge` in an object is
//! accepted, and directives within something new are not left in the result.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::list::MergedList;
use crate::control::shape::{PLAIN, Rule, Shape};

pub(super) type Object = Map<String, Value>;

pub(super) const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ELEMENT_ORDER: &str = "$setElementOrder/";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";

/// A place in a strategic merge patch that cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct StrategicError {
    /// Field names from the root of the patch, joined by dots; elements of lists are not told apart.
    pub path: String,
    /// What is wrong there.
    pub problem: String,
}

impl StrategicError {
    pub(super) fn at(path: &str, problem: impl Into<String>) -> Self {
        Self { path: path.to_owned(), problem: problem.into() }
    }

    /// The same error seen from the object that has it below `field`.
    pub(super) fn below(self, field: &str) -> Self {
        Self { path: format!("{field}.{}", self.path), problem: self.problem }
    }
}

/// Merges `patch` into `live`, whose fields have the rules of `shape`.
///
/// # Errors
/// The first misuse of a directive, and elements without the key of their list. `live` is then half patched.
pub(super) fn merge(live: &mut Object, mut patch: Object, shape: &Shape) -> Result<(), StrategicError> {
    match patch.remove(PATCH) {
        None => {}
        Some(directive) if directive == "merge" => {}
        Some(directive) if directive == "replace" => {
            *live = fresh_fields(patch);
            return Ok(());
        }
        Some(directive) if directive == "delete" => {
            live.clear();
            return Ok(());
        }
        Some(other) => {
            return Err(StrategicError::at(PATCH, format!("{other} is not one of replace, delete and merge")));
        }
    }
    retain_keys(live, &mut patch)?;
    delete_from_lists(live, &mut patch)?;
    order_lists(live, &mut patch, shape)?;
    for (field, value) in patch {
        merge_field(live, &field, value, shape.rule(&field))?;
    }
    Ok(())
}

fn merge_field(
    live: &mut Object,
    field: &str,
    patch: Value,
    rule: Option<&'static Rule>,
) -> Result<(), StrategicError> {
    match (live.get_mut(field), patch) {
        (Some(Value::Object(live)), Value::Object(patch)) => {
            let shape = if let Some(Rule::Object(shape)) = rule { shape } else { &PLAIN };
            merge(live, patch, shape).map_err(|error| error.below(field))?;
        }
        (Some(Value::Array(live)), Value::Array(patch)) if let Some(list) = MergedList::of(field, rule) => {
            *live = list.merge(std::mem::take(live), patch, None)?;
        }
        (_, patch) => match fresh(patch) {
            Some(value) => {
                live.insert(field.to_owned(), value);
            }
            None => {
                live.remove(field);
            }
        },
    }
    Ok(())
}

// === directives of objects ===

fn retain_keys(live: &mut Object, patch: &mut Object) -> Result<(), StrategicError> {
    let Some(names) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let names: HashSet<&str> = names
        .as_array()
        .and_then(|names| names.iter().map(Value::as_str).collect())
        .ok_or_else(|| StrategicError::at(RETAIN_KEYS, "must be a list of field names"))?;
    let stray = patch
        .iter()
        .find(|(field, value)| !value.is_null() && !field.starts_with('$') && !names.contains(field.as_str()));
    if let Some((field, _)) = stray {
        return Err(StrategicError::at(RETAIN_KEYS, format!("does not name {field:?}, which the patch sets")));
    }
    live.retain(|field, _| names.contains(field.as_str()));
    Ok(())
}

fn delete_from_lists(live: &mut Object, patch: &mut Object) -> Result<(), StrategicError> {
    for (directive, field, doomed) in take_parallel(patch, DELETE_FROM)? {
        if doomed.iter().any(|value| value.is_object() || value.is_array()) {
            return Err(StrategicError::at(&directive, "must be a list of scalars"));
        }
        if let Some(Value::Array(live)) = live.get_mut(&field) {
            let doomed: HashSet<Value> = doomed.into_iter().collect();
            live.retain(|value| !doomed.contains(value));
        }
    }
    Ok(())
}

/// Carries out `$setElementOrder/<list>` together with the patch of that list, which is taken out of `patch`.
fn order_lists(live: &mut Object, patch: &mut Object, shape: &Shape) -> Result<(), StrategicError> {
    for (directive, field, order) in take_parallel(patch, ELEMENT_ORDER)? {
        let list = MergedList::of(&field, shape.rule(&field)).ok_or_else(|| {
            StrategicError::at(&directive, "orders a list that is not merged but replaced as a whole")
        })?;
        let given = match patch.remove(&field) {
            None => Vec::new(),
            Some(Value::Array(elements)) => elements,
            Some(_) => return Err(StrategicError::at(&field, "must be a list, since its order is set")),
        };
        let current = match live.get_mut(&field) {
            Some(Value::Array(elements)) => std::mem::take(elements),
            _ if given.is_empty() => continue,
            _ => Vec::new(),
        };
        let merged = list.merge(current, given, Some(order))?;
        live.insert(field, Value::Array(merged));
    }
    Ok(())
}

/// Takes the fields out of `patch` that begin with `prefix`: their names, the names of their lists, their elements.
fn take_parallel(patch: &mut Object, prefix: &str) -> Result<Vec<(String, String, Vec<Value>)>, StrategicError> {
    let directives: Vec<String> = patch.keys().filter(|name| name.starts_with(prefix)).cloned().collect();
    directives
        .into_iter()
        .map(|directive| match patch.remove(&directive) {
            Some(Value::Array(elements)) => {
                let field = directive[prefix.len()..].to_owned();
                Ok((directive, field, elements))
            }
            _ => Err(StrategicError::at(&directive, "must be a list")),
        })
        .collect()
}

// === what was not there before ===

/// What a patch makes of a field that was not there: its value without nulls and directives.
///
/// `None` for `null` and for an object that says it is to be deleted.
fn fresh(value: Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::Object(fields) if fields.get(PATCH).is_some_and(|directive| directive == "delete") => None,
        Value::Object(fields) => Some(Value::Object(fresh_fields(fields))),
        Value::Array(elements) => Some(Value::Array(fresh_elements(elements))),
        scalar => Some(scalar),
    }
}

fn fresh_fields(fields: Object) -> Object {
    fields
        .into_iter()
        .filter(|(field, _)| !is_directive(field))
        .filter_map(|(field, value)| Some((field, fresh(value)?)))
        .collect()
}

/// Elements without those that only carry a directive.
pub(super) fn fresh_elements(elements: Vec<Value>) -> Vec<Value> {
    elements.into_iter().filter(|element| element.get(PATCH).is_none()).filter_map(fresh).collect()
}

fn is_directive(field: &str) -> bool {
    field == PATCH || field == RETAIN_KEYS || field.starts_with(ELEMENT_ORDER) || field.starts_with(DELETE_FROM)
}
