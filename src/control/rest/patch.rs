//! Patching an object: what a PATCH request makes of the live object.
//!
//! In come the live object, the body of the request and its media type; out comes the patched object. Pure: whether
//! the result is valid, may be written and is still current is the caller's to find out, and so are the options of
//! the request (`fieldValidation`, `resourceVersion` in the patch).
//!
//! Server-side apply is not a patch of this kind: what it makes of an object depends on who owns its fields; see
//! [`ownership`](crate::control::ownership).

mod list;
mod strategic;
#[cfg(test)]
mod tests;

use json_patch::{PatchErrorKind, PatchOperation};
use serde_json::Value;

use crate::control::kinds::Kind;
use crate::control::shape::shape_of;

pub use strategic::StrategicError;

/// Operations a JSON patch may have (kubernetes, `maxJSONPatchOperations`).
const MAX_OPERATIONS: usize = 10_000;
/// Bytes of JSON all `copy` operations of a patch may add up to (kubernetes, `JSONPatchMaxCopyBytes`). Without it a
/// short patch that copies a list into itself grows without bound.
const MAX_COPIED_BYTES: usize = 3 * 1024 * 1024;
/// Levels of nesting an operation may lead to: what `serde_json` reads back.
const MAX_DEPTH: usize = 127;

/// What the `Content-Type` of a PATCH may say: the patches in the order of [`PatchType`], then server-side apply.
pub const MEDIA_TYPES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// What a PATCH asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// The body is a patch.
    Patch(PatchType),
    /// The body is a configuration to apply.
    Apply,
}

/// The kinds of patch that can be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchType {
    /// `application/json-patch+json`, RFC 6902.
    Json,
    /// `application/merge-patch+json`, RFC 7396.
    Merge,
    /// `application/strategic-merge-patch+json`.
    Strategic,
}

/// Why a patch was not applied.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// The media type is no patch type. 415.
    #[error(
        "the body of the request was in an unknown format - accepted media types include: {}",
        MEDIA_TYPES.join(", ")
    )]
    MediaType,
    /// The body is no JSON, or not of the form its type asks for. 400.
    #[error("error decoding patch")]
    Undecodable(#[source] serde_json::Error),
    /// A strategic merge patch misuses a directive. 400.
    #[error("error applying patch")]
    Strategic(#[source] StrategicError),
    /// A JSON patch is too long. 413.
    #[error("the allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {0}")]
    TooManyOperations(usize),
    /// A JSON patch copies too much. 413.
    #[error("the copy operations of the JSON patch add up to more than {MAX_COPIED_BYTES} bytes")]
    TooMuchCopied,
    /// An operation of a JSON patch does not apply to the live object: `test` failed or a path is missing. 422.
    #[error("operation {index} of the JSON patch failed at path {path:?}")]
    Inapplicable {
        /// Counted from 0.
        index: usize,
        /// The operation's `path`.
        path: String,
        /// What failed.
        #[source]
        source: PatchErrorKind,
    },
    /// An operation of a JSON patch nests values too deeply to be read again. 422.
    #[error("operation {0} of the JSON patch nests more than {MAX_DEPTH} levels")]
    TooDeep(usize),
    /// A JSON patch put something else in the place of the whole object. 422.
    #[error("the patched object is not a JSON object")]
    NotAnObject,
}

impl Asked {
    /// Reads a `Content-Type` header. Parameters such as `charset` do not matter.
    ///
    /// # Errors
    /// [`PatchError::MediaType`].
    pub fn from_content_type(header: &str) -> Result<Self, PatchError> {
        let media_type = header.split(';').next().unwrap_or_default().trim();
        match MEDIA_TYPES.iter().position(|known| known.eq_ignore_ascii_case(media_type)) {
            Some(0) => Ok(Self::Patch(PatchType::Json)),
            Some(1) => Ok(Self::Patch(PatchType::Merge)),
            Some(2) => Ok(Self::Patch(PatchType::Strategic)),
            Some(_) => Ok(Self::Apply),
            None => Err(PatchError::MediaType),
        }
    }
}

/// The live object `current`, patched.
///
/// `patch` is the body of the request.
///
/// # Errors
/// See [`PatchError`]; each variant names the HTTP status that kubernetes answers with.
///
/// Source: kubernetes v1.36, `k8s.io/apiserver/pkg/endpoints/handlers/patch.go`.
pub fn apply_patch(kind: &Kind, current: &Value, patch: &[u8], patch_type: PatchType) -> Result<Value, PatchError> {
    match patch_type {
        PatchType::Json => apply_operations(current, &decode::<json_patch::Patch>(patch)?.0),
        PatchType::Merge => {
            let patch: strategic::Object = decode(patch)?;
            let mut patched = current.clone();
            json_patch::merge(&mut patched, &Value::Object(patch));
            Ok(patched)
        }
        PatchType::Strategic => {
            let mut patched = current.as_object().cloned().unwrap_or_default();
            strategic::merge(&mut patched, decode(patch)?, shape_of(kind)).map_err(PatchError::Strategic)?;
            Ok(Value::Object(patched))
        }
    }
}

fn decode<T: serde::de::DeserializeOwned>(patch: &[u8]) -> Result<T, PatchError> {
    serde_json::from_slice(patch).map_err(PatchError::Undecodable)
}

/// Applies a JSON patch one operation after the other, so that what it grows to is known before it has grown.
fn apply_operations(current: &Value, operations: &[PatchOperation]) -> Result<Value, PatchError> {
    if operations.len() > MAX_OPERATIONS {
        return Err(PatchError::TooManyOperations(operations.len()));
    }
    let mut patched = current.clone();
    let mut copied_bytes = 0;
    for (index, operation) in operations.iter().enumerate() {
        if let PatchOperation::Copy(copy) = operation {
            copied_bytes += patched.pointer(copy.from.as_str()).map_or(0, |source| source.to_string().len());
            if copied_bytes > MAX_COPIED_BYTES {
                return Err(PatchError::TooMuchCopied);
            }
        }
        if depth_reached(&patched, operation) > MAX_DEPTH {
            return Err(PatchError::TooDeep(index));
        }
        json_patch::patch_unsafe(&mut patched, std::slice::from_ref(operation))
            .map_err(|error| PatchError::Inapplicable { index, path: error.path.to_string(), source: error.kind })?;
    }
    if patched.is_object() { Ok(patched) } else { Err(PatchError::NotAnObject) }
}

/// How deep below the root the innermost value lies that an operation puts into `object`; 0 if it puts none.
fn depth_reached(object: &Value, operation: &PatchOperation) -> usize {
    let (path, value) = match operation {
        PatchOperation::Add(operation) => (&operation.path, Some(&operation.value)),
        PatchOperation::Replace(operation) => (&operation.path, Some(&operation.value)),
        PatchOperation::Copy(operation) => (&operation.path, object.pointer(operation.from.as_str())),
        PatchOperation::Move(operation) => (&operation.path, object.pointer(operation.from.as_str())),
        PatchOperation::Remove(_) | PatchOperation::Test(_) => return 0,
    };
    path.count() + value.map_or(0, depth)
}

/// Levels of objects and lists in a value; 0 for a scalar.
fn depth(value: &Value) -> usize {
    match value {
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        Value::Array(elements) => 1 + elements.iter().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}
