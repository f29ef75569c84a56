//! Errors as HTTP status and Kubernetes `Status` object: the one place where REST gets its codes.
//!
//! Clients branch on `reason` and `code`; people read `message`, so the words are Kubernetes' own.
//!
//! Source: kubernetes v1.36, `k8s.io/apimachinery/pkg/api/errors/errors.go`.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, Status, StatusCause, StatusDetails};

use super::patch::PatchError;
use crate::api::field::{FieldError, aggregate};
use crate::api::selector::BadSelector;
use crate::api::strict::DecodeError;
use crate::control::bearer::IssueError;
use crate::control::kinds::Kind;
use crate::control::objects::{Expired, ObjectError};
use crate::control::ownership::{ApplyError, Conflict};
use crate::control::rbac::Resource;
use crate::error::Chain;

/// How long a client should wait before it asks again.
const RETRY_AFTER_SECS: i32 = 1;

/// Why a request was not answered with what it asked for.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// From the objects themselves.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// No token is made.
    #[error(transparent)]
    Issue(IssueError),
    /// A patch that does not apply.
    #[error(transparent)]
    Patch(#[from] PatchError),
    /// A configuration that is not applied.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// A watch from a revision that is not kept any more.
    #[error(transparent)]
    Expired(#[from] Expired),
    /// A label or field selector that is none.
    #[error(transparent)]
    Selector(#[from] BadSelector),
    /// The body is not an object of the kind.
    #[error("{} in version \"{}\" cannot be handled as a {}", kind.kind, kind.version, kind.kind)]
    Undecodable {
        /// What the path asks for.
        kind: &'static Kind,
        /// What is wrong with the body.
        #[source]
        source: DecodeError,
    },
    /// The request makes no sense.
    #[error("{0}")]
    BadRequest(String),
    /// Query parameters or options that break their rules.
    #[error("{options}.meta.k8s.io \"\" is invalid: {}", aggregate(errors))]
    InvalidOptions {
        /// `CreateOptions`, `ListOptions` …
        options: &'static str,
        /// At least one.
        errors: Vec<FieldError>,
    },
    /// Parameters of a log that break their rules.
    #[error("PodLogOptions \"{pod}\" is invalid: {}", aggregate(errors))]
    InvalidLogOptions {
        /// The pod's name.
        pod: String,
        /// At least one.
        errors: Vec<FieldError>,
    },
    /// None of the protocols that a client offers to stream by is spoken here.
    #[error("{0}")]
    Protocol(String),
    /// A node's own answer.
    #[error("{message}")]
    Node {
        /// Its HTTP status.
        code: u16,
        /// Its words.
        message: String,
    },
    /// The node has too much to do already.
    #[error("{0}")]
    TooMany(String),
    /// No client certificate, or none of this fleet.
    #[error("Unauthorized")]
    Unauthorized,
    /// The user may not do this.
    #[error("{message}")]
    Forbidden {
        /// In Kubernetes' words.
        message: String,
        /// To what; none for a path.
        about: Option<Box<Resource>>,
    },
    /// As many requests as may be are being answered.
    #[error("too many requests, please try again later")]
    TooManyRequests,
    /// No token has this id.
    #[error("there is no token {0}")]
    NoToken(String),
    /// The path is below a known group and names nothing.
    #[error("the server could not find the requested resource")]
    NoResource,
    /// The path does not take this method.
    #[error("the server does not allow this method on the requested resource")]
    MethodNotAllowed,
    /// None of the forms the client accepts is there.
    #[error("only the following media types are accepted: {0}")]
    NotAcceptable(&'static str),
    /// The body is in a form that is not read.
    #[error("the body of the request was in an unknown format - accepted media types include: {0}")]
    UnsupportedMediaType(&'static str),
    /// The body is larger than any object may be.
    #[error("Request entity too large: limit is {0}")]
    TooLarge(usize),
    /// What the request needs of a node cannot be had now.
    #[error("{0}")]
    Unavailable(String),
}

impl ApiError {
    /// The `Status` object of this error.
    pub fn status(&self) -> Status {
        let (code, reason, details) = self.parts();
        let message = match self {
            // A patch that does not apply is answered like that upstream; why goes to the log.
            Self::Patch(_) if code == StatusCode::UNPROCESSABLE_ENTITY => {
                "the server rejected our request due to an error in our request".to_owned()
            }
            error => Chain(error).to_string(),
        };
        Status {
            status: Some("Failure".to_owned()),
            code: Some(i32::from(code.as_u16())),
            reason: Some(reason.to_owned()),
            message: Some(message),
            details,
            metadata: ListMeta::default(),
        }
    }

    fn parts(&self) -> (StatusCode, &'static str, Option<StatusDetails>) {
        let bare = |code, reason| (code, reason, None);
        match self {
            Self::Object(error) => object_parts(error),
            Self::Issue(IssueError::Object(error)) => object_parts(error),
            Self::Issue(IssueError::Kind(_) | IssueError::OtherAccount { .. }) => {
                bare(StatusCode::BAD_REQUEST, "BadRequest")
            }
            Self::Patch(PatchError::MediaType) => bare(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType"),
            Self::Apply(ApplyError::Conflicts(conflicts)) => {
                let causes = Some(conflicts.0.iter().map(field_conflict).collect());
                (StatusCode::CONFLICT, "Conflict", Some(StatusDetails { causes, ..StatusDetails::default() }))
            }
            Self::Patch(PatchError::Undecodable(_) | PatchError::Strategic(_)) => {
                bare(StatusCode::BAD_REQUEST, "BadRequest")
            }
            Self::Patch(PatchError::TooManyOperations(_) | PatchError::TooMuchCopied) | Self::TooLarge(_) => {
                bare(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge")
            }
            Self::Patch(_) => (StatusCode::UNPROCESSABLE_ENTITY, "Invalid", Some(StatusDetails::default())),
            Self::Expired(_) => bare(StatusCode::GONE, "Expired"),
            // Upstream answers 500 for what cannot be typed; it is the configuration that is wrong.
            Self::Selector(_)
            | Self::Undecodable { .. }
            | Self::BadRequest(_)
            | Self::Apply(ApplyError::Untyped { .. }) => bare(StatusCode::BAD_REQUEST, "BadRequest"),
            Self::InvalidOptions { options, errors } => {
                let details = StatusDetails {
                    group: Some("meta.k8s.io".to_owned()),
                    kind: Some((*options).to_owned()),
                    causes: Some(errors.iter().map(cause).collect()),
                    ..StatusDetails::default()
                };
                (StatusCode::UNPROCESSABLE_ENTITY, "Invalid", Some(details))
            }
            Self::InvalidLogOptions { pod, errors } => {
                let details = StatusDetails {
                    name: Some(pod.clone()),
                    kind: Some("PodLogOptions".to_owned()),
                    causes: Some(errors.iter().map(cause).collect()),
                    ..StatusDetails::default()
                };
                (StatusCode::UNPROCESSABLE_ENTITY, "Invalid", Some(details))
            }
            Self::Protocol(_) => bare(StatusCode::FORBIDDEN, "Forbidden"),
            Self::Node { code: 400, .. } => bare(StatusCode::BAD_REQUEST, "BadRequest"),
            Self::Node { code: 404, .. } => bare(StatusCode::NOT_FOUND, "NotFound"),
            Self::Node { .. } => bare(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
            Self::TooMany(_) => bare(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests"),
            Self::Unauthorized => bare(StatusCode::UNAUTHORIZED, "Unauthorized"),
            Self::Forbidden { about, .. } => (StatusCode::FORBIDDEN, "Forbidden", Some(refused(about.as_deref()))),
            Self::TooManyRequests => {
                let retry_after_seconds = Some(RETRY_AFTER_SECS);
                let details = StatusDetails { retry_after_seconds, ..StatusDetails::default() };
                (StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", Some(details))
            }
            Self::NoToken(_) => bare(StatusCode::NOT_FOUND, "NotFound"),
            Self::NoResource => (StatusCode::NOT_FOUND, "NotFound", Some(StatusDetails::default())),
            Self::MethodNotAllowed => {
                (StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", Some(StatusDetails::default()))
            }
            Self::NotAcceptable(_) => bare(StatusCode::NOT_ACCEPTABLE, "NotAcceptable"),
            Self::UnsupportedMediaType(_) => bare(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType"),
            Self::Unavailable(_) => bare(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable"),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.status();
        if let Self::Object(ObjectError::Store(_) | ObjectError::Corrupt { .. }) = self {
            tracing::error!(error = %Chain(&self), "a request failed in the store");
        }
        status_response(&status)
    }
}

/// A `Status` object with its own code.
pub fn status_response(status: &Status) -> Response {
    let code = status.code.and_then(|code| u16::try_from(code).ok()).and_then(|code| StatusCode::from_u16(code).ok());
    let body = serde_json::to_string(status).expect("a status is plain data");
    let mut response = (code.unwrap_or(StatusCode::OK), body).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(seconds) = status.details.as_ref().and_then(|details| details.retry_after_seconds) {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// What a DELETE that took the object away answers.
pub fn deleted(kind: &Kind, name: &str, uid: &str) -> Status {
    Status {
        status: Some("Success".to_owned()),
        details: Some(StatusDetails { uid: Some(uid.to_owned()), ..about(kind.plural, kind, name) }),
        ..Status::default()
    }
}

fn object_parts(error: &ObjectError) -> (StatusCode, &'static str, Option<StatusDetails>) {
    match error {
        ObjectError::NotFound { kind, name } => {
            (StatusCode::NOT_FOUND, "NotFound", Some(about(kind.plural, kind, name)))
        }
        ObjectError::AlreadyExists { kind, name } => {
            (StatusCode::CONFLICT, "AlreadyExists", Some(about(kind.plural, kind, name)))
        }
        ObjectError::Conflict { kind, name, .. } | ObjectError::Deleted { kind, name } => {
            (StatusCode::CONFLICT, "Conflict", Some(about(kind.plural, kind, name)))
        }
        ObjectError::Precondition { kind, name, .. } => {
            (StatusCode::CONFLICT, "Conflict", Some(about(kind.kind, kind, name)))
        }
        ObjectError::Invalid { kind, name, errors } => {
            let causes = Some(errors.iter().map(cause).collect());
            let details = StatusDetails { causes, ..about(kind.kind, kind, name) };
            (StatusCode::UNPROCESSABLE_ENTITY, "Invalid", Some(details))
        }
        ObjectError::Forbidden { kind, name, .. } => {
            (StatusCode::FORBIDDEN, "Forbidden", Some(about(kind.plural, kind, name)))
        }
        ObjectError::NamespaceTerminating { kind, name, namespace } => {
            let cause = StatusCause {
                reason: Some("NamespaceTerminating".to_owned()),
                message: Some(format!("namespace {namespace} is being terminated")),
                field: Some("metadata.namespace".to_owned()),
            };
            let details = StatusDetails { causes: Some(vec![cause]), ..about(kind.plural, kind, name) };
            (StatusCode::FORBIDDEN, "Forbidden", Some(details))
        }
        ObjectError::BadRequest(_) => (StatusCode::BAD_REQUEST, "BadRequest", None),
        ObjectError::Expired(_) => (StatusCode::GONE, "Expired", None),
        ObjectError::Future { .. } => {
            let cause = StatusCause {
                reason: Some("ResourceVersionTooLarge".to_owned()),
                message: Some("Too large resource version".to_owned()),
                field: None,
            };
            let retry_after_seconds = Some(RETRY_AFTER_SECS);
            let details = StatusDetails { causes: Some(vec![cause]), retry_after_seconds, ..StatusDetails::default() };
            (StatusCode::GATEWAY_TIMEOUT, "Timeout", Some(details))
        }
        // Only what nodes say is of a session.
        ObjectError::Superseded | ObjectError::Store(_) | ObjectError::Corrupt { .. } => {
            (StatusCode::INTERNAL_SERVER_ERROR, "InternalError", None)
        }
    }
}

/// `details` about one object. Errors of the store name the resource, errors of validation the kind.
fn about(called: &str, kind: &Kind, name: &str) -> StatusDetails {
    StatusDetails {
        name: Some(name.to_owned()),
        group: (!kind.group.is_empty()).then(|| kind.group.to_owned()),
        kind: Some(called.to_owned()),
        ..StatusDetails::default()
    }
}

fn refused(about: Option<&Resource>) -> StatusDetails {
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    about.map_or_else(StatusDetails::default, |Resource { group, resource, name, .. }| StatusDetails {
        name: some(name),
        group: some(group),
        kind: some(resource),
        ..StatusDetails::default()
    })
}

fn field_conflict(conflict: &Conflict) -> StatusCause {
    StatusCause {
        reason: Some("FieldManagerConflict".to_owned()),
        message: Some(format!("conflict with {}", conflict.manager)),
        field: Some(conflict.field.clone()),
    }
}

fn cause(error: &FieldError) -> StatusCause {
    StatusCause {
        reason: Some(error.kind.reason().to_owned()),
        message: Some(error.body()),
        field: Some(error.field.to_string()),
    }
}
