//! The forms of an answer: objects as they are, as rows of a Table, or their metadata only. Pure.
//!
//! A client says in `Accept` what it takes, in its order of preference. Protobuf is never answered with; every client
//! that asks for it takes JSON as well.
//!
//! Source: kubernetes v1.36, `k8s.io/apiserver/pkg/endpoints/handlers/negotiation/negotiate.go` and `response.go`.

use http::HeaderMap;
use http::header::ACCEPT;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::errors::ApiError;
use super::events;
use super::query::Query;
use super::table::{self, IncludeObject};
use crate::control::kinds::Kind;
use crate::control::objects::List;

/// What can be answered with.
const AVAILABLE: &str = "application/json, application/json;as=Table;v=v1;g=meta.k8s.io, \
                         application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io, \
                         application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Objects as they are.
    Object,
    /// Rows as `kubectl get` prints them.
    Table(IncludeObject),
    /// `PartialObjectMetadata`.
    Metadata,
}

impl Form {
    /// The first form in `Accept` that can be given.
    ///
    /// # Errors
    /// [`ApiError::NotAcceptable`] if there is none; [`ApiError::BadRequest`] for a bad `includeObject`.
    pub fn negotiate(headers: &HeaderMap, query: &Query) -> Result<Self, ApiError> {
        let accepted: Vec<&str> = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
        let accepted = accepted.join(",");
        if accepted.trim().is_empty() {
            return Ok(Self::Object);
        }
        match accepted.split(',').find_map(Self::of_media_type).ok_or(ApiError::NotAcceptable(AVAILABLE))? {
            Self::Table(_) => {
                let include = query.get("includeObject").unwrap_or_default().parse();
                include
                    .map(Self::Table)
                    .map_err(|error: table::BadIncludeObject| ApiError::BadRequest(error.to_string()))
            }
            form => Ok(form),
        }
    }

    fn of_media_type(entry: &str) -> Option<Self> {
        let mut parts = entry.split(';').map(str::trim);
        if !matches!(parts.next()?, "application/json" | "application/*" | "*/*") {
            return None;
        }
        let parameters: Vec<(&str, &str)> = parts.filter_map(|parameter| parameter.split_once('=')).collect();
        let get = |name| parameters.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        match (get("as"), get("g"), get("v")) {
            (None, ..) => Some(Self::Object),
            (Some("Table"), Some("meta.k8s.io"), Some("v1")) => Some(Self::Table(IncludeObject::default())),
            (Some("PartialObjectMetadata" | "PartialObjectMetadataList"), Some("meta.k8s.io"), Some("v1")) => {
                Some(Self::Metadata)
            }
            _ => None,
        }
    }

    /// One object.
    pub fn object(self, kind: &Kind, object: Value, now: Timestamp) -> Value {
        match self {
            Self::Object => events::shown(kind, object),
            Self::Metadata => metadata(object),
            Self::Table(include) => one_row(kind, &object, include, true, now),
        }
    }

    /// The object of one event of a watch; only the `first` has a Table's columns.
    pub fn event(self, kind: &Kind, object: Value, first: bool, now: Timestamp) -> Value {
        match self {
            Self::Table(include) => one_row(kind, &object, include, first, now),
            form => form.object(kind, object, now),
        }
    }

    /// A list.
    pub fn list(self, kind: &Kind, list: List, now: Timestamp) -> Value {
        let mut list_meta = json!({"resourceVersion": list.revision.to_string()});
        if let Some(next) = list.next {
            list_meta["continue"] = next.into();
        }
        let (list_kind, api_version, items): (_, _, Vec<Value>) = match self {
            Self::Table(include) => return table::table(kind, &list.items, &list_meta, include, true, now),
            Self::Object => (
                kind.list_kind(),
                kind.api_version(),
                list.items.into_iter().map(|object| untyped(events::shown(kind, object))).collect(),
            ),
            Self::Metadata => (
                "PartialObjectMetadataList".to_owned(),
                "meta.k8s.io/v1".to_owned(),
                list.items.into_iter().map(metadata).collect(),
            ),
        };
        json!({"kind": list_kind, "apiVersion": api_version, "metadata": list_meta, "items": items})
    }
}

fn one_row(kind: &Kind, object: &Value, include: IncludeObject, with_columns: bool, now: Timestamp) -> Value {
    let list_meta = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
    table::table(kind, [object], &list_meta, include, with_columns, now)
}

fn metadata(mut object: Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"].take()})
}

/// The kind of a list says what its items are; they do not say it again.
fn untyped(mut object: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.remove("kind");
        fields.remove("apiVersion");
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_form_that_can_be_given_is_taken() {
        let form = |accept: &'static str| {
            let headers = HeaderMap::from_iter([(ACCEPT, accept.parse().unwrap())]);
            Form::negotiate(&headers, &Query::default()).ok()
        };
        let table = Some(Form::Table(IncludeObject::Metadata));
        let cases = [
            ("", Some(Form::Object)),
            ("application/json, */*", Some(Form::Object)),
            ("application/vnd.kubernetes.protobuf,application/json", Some(Form::Object)),
            ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", table),
            ("application/json;as=Table;v=v1beta1;g=meta.k8s.io, application/json;as=Table;v=v1;g=meta.k8s.io", table),
            ("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1", Some(Form::Metadata)),
            ("application/vnd.kubernetes.protobuf", None),
            ("text/html", None),
        ];
        for (accept, expected) in cases {
            assert_eq!(form(accept), expected, "{accept}");
        }
    }
}
