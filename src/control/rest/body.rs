//! Bodies of requests: read within a limit, decoded as the kind their path names.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::authentication::v1::{SelfSubjectReview, TokenReview};
use k8s_openapi::api::authorization::v1::{
    LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview,
};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Event, Namespace, Node, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::errors::ApiError;
use super::protobuf;
use super::query::FieldValidation;
use crate::api::document::{Written, parse_json, parse_yaml};
use crate::api::strict::{self, DecodeError, Decoded};
use crate::control::kinds::Kind;
use crate::error::Chain;

/// No object may be larger; as upstream.
pub const MAX_BYTES: usize = 3 << 20;
/// How long a body may take to arrive.
const ARRIVES_WITHIN: Duration = Duration::from_secs(60);

/// What bodies may be.
const ACCEPTED: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// An object out of a body, and what the client is to be warned of.
#[derive(Debug, PartialEq)]
pub struct Received {
    /// Known fields only.
    pub object: Value,
    /// One text for each field left out.
    pub warnings: Vec<String>,
}

/// Reads a body.
///
/// # Errors
/// [`ApiError::TooLarge`], and [`ApiError::BadRequest`] if the client broke off or is too slow.
pub async fn read(body: Body) -> Result<Bytes, ApiError> {
    let arrived = tokio::time::timeout(ARRIVES_WITHIN, Limited::new(body, MAX_BYTES).collect()).await;
    let Ok(arrived) = arrived else {
        return Err(ApiError::BadRequest("the body did not arrive in time".to_owned()));
    };
    match arrived {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::TooLarge(MAX_BYTES)),
        Err(error) => Err(ApiError::BadRequest(format!("the body cannot be read: {error}"))),
    }
}

/// What garrison's own commands send to paths that Kubernetes does not have: JSON, and no object.
///
/// # Errors
/// Those of [`read`], and [`ApiError::BadRequest`] for anything else.
pub async fn own<T: DeserializeOwned>(body: Body) -> Result<T, ApiError> {
    serde_json::from_slice(&read(body).await?).map_err(|error| ApiError::BadRequest(error.to_string()))
}

/// An object of `kind` as it was sent. A body without content type is JSON, as some clients send it.
///
/// # Errors
/// [`ApiError::UnsupportedMediaType`], [`ApiError::Undecodable`], and [`ApiError::BadRequest`] for what is no object or
/// one of another kind.
pub fn object(
    kind: &'static Kind,
    headers: &HeaderMap,
    body: &[u8],
    validation: FieldValidation,
) -> Result<Received, ApiError> {
    let written = parse(headers, body)?;
    let said = |field| written.text(field).filter(|text| !text.is_empty());
    let (api_version, name) = (said("apiVersion"), said("kind"));
    if let Some(other) = name.filter(|name| *name != kind.kind) {
        return Err(ApiError::BadRequest(format!("{other} cannot be handled as a {}", kind.kind)));
    }
    let expected = kind.api_version();
    if let Some(other) = api_version.filter(|version| *version != expected) {
        return Err(ApiError::BadRequest(format!(
            "the API version in the data ({other}) does not match the expected API version ({expected})"
        )));
    }
    decode(kind, &written, validation)
}

/// What a subresource takes: an object that is not of the kind its path names. Unknown fields are left out.
///
/// # Errors
/// [`ApiError::UnsupportedMediaType`], and [`ApiError::BadRequest`] for anything else.
pub fn typed<T: k8s_openapi::Resource + DeserializeOwned>(headers: &HeaderMap, body: &[u8]) -> Result<T, ApiError> {
    let written = parse(headers, body)?;
    let said = |field| written.text(field).filter(|text| !text.is_empty());
    if let Some(other) = said("kind").filter(|kind| *kind != T::KIND) {
        return Err(ApiError::BadRequest(format!("{other} cannot be handled as a {}", T::KIND)));
    }
    let decoded = strict::decode::<T>(&written).map_err(|error| {
        let (kind, version) = (T::KIND, T::VERSION);
        let why = Chain(&error);
        ApiError::BadRequest(format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}"))
    })?;
    Ok(decoded.value)
}

/// An object of `kind` that a patch made.
///
/// # Errors
/// [`ApiError::Undecodable`].
pub fn patched(kind: &'static Kind, object: &Value, validation: FieldValidation) -> Result<Received, ApiError> {
    let written = parse_json(object.to_string().as_bytes()).map_err(|error| malformed(&error))?;
    decode(kind, &written, validation)
}

/// What server-side apply was sent, YAML or JSON: what was written, in canonical form, and nothing that was not.
///
/// # Errors
/// [`ApiError::Undecodable`], and [`ApiError::BadRequest`] for what is no object of the kind.
pub fn applied(kind: &'static Kind, body: &[u8], validation: FieldValidation) -> Result<Received, ApiError> {
    // Any JSON is YAML, but for some escapes in strings.
    let written = if body.trim_ascii_start().starts_with(b"{") { json(body)? } else { yaml(body)? };
    let (api_version, name) = (written.text("apiVersion"), written.text("kind"));
    if (api_version, name) != (Some(&kind.api_version()), Some(kind.kind)) {
        let said = |text: Option<&str>| text.unwrap_or_default().to_owned();
        let message = format!("invalid object type: {}, Kind={}", said(api_version), said(name));
        return Err(ApiError::BadRequest(message));
    }
    if written.get("metadata").and_then(|metadata| metadata.get("managedFields")).is_some_and(|f| *f != Written::Null) {
        return Err(ApiError::BadRequest("metadata.managedFields must be nil".to_owned()));
    }
    let Received { object, warnings } = decode(kind, &written, validation)?;
    Ok(Received { object: only_written(object, &written), warnings })
}

/// Takes out of a decoded value what its type added to what was written.
fn only_written(value: Value, written: &Written) -> Value {
    match (value, written) {
        (Value::Object(fields), Written::Map(_)) => {
            let kept = |(name, value): (String, Value)| {
                let written = written.get(&name).filter(|written| **written != Written::Null)?;
                Some((name, only_written(value, written)))
            };
            Value::Object(fields.into_iter().filter_map(kept).collect())
        }
        (Value::Array(items), Written::List(written)) if items.len() == written.len() => {
            items.into_iter().zip(written).map(|(item, written)| only_written(item, written)).collect()
        }
        (value, _) => value,
    }
}

/// The options in a DELETE's body; none in an empty one.
///
/// # Errors
/// [`ApiError::UnsupportedMediaType`] and [`ApiError::BadRequest`].
pub fn delete_options(headers: &HeaderMap, body: &[u8]) -> Result<DeleteOptions, ApiError> {
    if body.is_empty() {
        return Ok(DeleteOptions::default());
    }
    let decoded = strict::decode(&parse(headers, body)?).and_then(Decoded::strict);
    decoded.map_err(|error| ApiError::BadRequest(format!("DeleteOptions: {error}")))
}

fn parse(headers: &HeaderMap, body: &[u8]) -> Result<Written, ApiError> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("application/json");
    match content_type.split(';').next().unwrap_or_default().trim() {
        "application/json" => json(body),
        "application/yaml" => yaml(body),
        protobuf::MEDIA_TYPE => protobuf::decode(body).map_err(|error| malformed(&error)),
        _ => Err(ApiError::UnsupportedMediaType(ACCEPTED)),
    }
}

fn json(body: &[u8]) -> Result<Written, ApiError> {
    parse_json(body).map_err(|error| malformed(&error))
}

fn yaml(body: &[u8]) -> Result<Written, ApiError> {
    let text = std::str::from_utf8(body).map_err(|error| ApiError::BadRequest(error.to_string()))?;
    let mut documents = parse_yaml(text).map_err(|error| malformed(&error))?;
    match (documents.pop(), documents.is_empty()) {
        (Some(document), true) => Ok(document.body),
        _ => Err(ApiError::BadRequest("the body must be one YAML document".to_owned())),
    }
}

fn malformed(error: &dyn std::error::Error) -> ApiError {
    ApiError::BadRequest(format!("the object provided is unrecognized: {}", Chain(error)))
}

fn decode(kind: &'static Kind, written: &Written, validation: FieldValidation) -> Result<Received, ApiError> {
    let undecodable = |source| ApiError::Undecodable { kind, source };
    let decoded = as_kind(kind, written).map_err(undecodable)?;
    let warnings = match validation {
        FieldValidation::Ignore => Vec::new(),
        FieldValidation::Warn => decoded.findings.iter().map(ToString::to_string).collect(),
        FieldValidation::Strict if decoded.findings.is_empty() => Vec::new(),
        FieldValidation::Strict => return Err(undecodable(DecodeError::Strict(decoded.findings))),
    };
    Ok(Received { object: decoded.value, warnings })
}

fn as_kind(kind: &Kind, written: &Written) -> Result<Decoded<Value>, DecodeError> {
    match kind.kind {
        "CertificateSigningRequest" => through::<CertificateSigningRequest>(written),
        "ClusterRole" => through::<ClusterRole>(written),
        "ClusterRoleBinding" => through::<ClusterRoleBinding>(written),
        "ConfigMap" => through::<ConfigMap>(written),
        "ControllerRevision" => through::<ControllerRevision>(written),
        "DaemonSet" => through::<DaemonSet>(written),
        "EndpointSlice" => through::<EndpointSlice>(written),
        "Endpoints" => through::<Endpoints>(written),
        "Event" if kind.group == "events.k8s.io" => through::<events::v1::Event>(written),
        "Event" => through::<Event>(written),
        "Lease" => through::<Lease>(written),
        "LocalSubjectAccessReview" => through::<LocalSubjectAccessReview>(written),
        "Namespace" => through::<Namespace>(written),
        "NetworkPolicy" => through::<NetworkPolicy>(written),
        "Node" => through::<Node>(written),
        "Pod" => through::<Pod>(written),
        "PodDisruptionBudget" => through::<PodDisruptionBudget>(written),
        "PriorityClass" => through::<PriorityClass>(written),
        "Role" => through::<Role>(written),
        "RoleBinding" => through::<RoleBinding>(written),
        "RuntimeClass" => through::<RuntimeClass>(written),
        "Secret" => through::<Secret>(written),
        "SelfSubjectAccessReview" => through::<SelfSubjectAccessReview>(written),
        "SelfSubjectReview" => through::<SelfSubjectReview>(written),
        "SelfSubjectRulesReview" => through::<SelfSubjectRulesReview>(written),
        "Service" => through::<Service>(written),
        "ServiceAccount" => through::<ServiceAccount>(written),
        "SubjectAccessReview" => through::<SubjectAccessReview>(written),
        "TokenReview" => through::<TokenReview>(written),
        other => unreachable!("{other} is served and has a type"),
    }
}

/// Decodes into the type and back, which leaves out what the type does not know and writes values in one way.
fn through<T: Serialize + DeserializeOwned>(written: &Written) -> Result<Decoded<Value>, DecodeError> {
    let Decoded { value, findings } = strict::decode::<T>(written)?;
    let value = serde_json::to_value(value).expect("Kubernetes' types have string keys only");
    Ok(Decoded { value, findings })
}
