//! What is asked of one object beside reading and writing it: POST to a subresource.

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::errors::ApiError;
use super::resources::{Request, answer};
use super::{Api, body};
use crate::api::field::{FieldError, Path};
use crate::control::bearer::claims::ISSUER;
use crate::control::bearer::{Bound, Wanted};
use crate::control::kinds::{TOKEN, TOKEN_REQUEST};
use crate::control::objects::ObjectError;

/// How long a token is good if nobody says.
const TOKEN_SECS: i64 = 3600;
const TOKEN_SECS_MIN: i64 = 600;
const TOKEN_SECS_MAX: i64 = 1 << 32;

/// Answers a POST to a subresource.
///
/// # Errors
/// [`ApiError`], as the subresource says.
pub async fn create(api: &Api, request: &Request, sent: Body) -> Result<Response, ApiError> {
    let sent = body::read(sent).await?;
    match request.target.subresource.map(|subresource| subresource.name) {
        Some(TOKEN) => token(api, request, body::typed(&request.parts.headers, &sent)?).await,
        _ => Err(ApiError::MethodNotAllowed),
    }
}

/// `kubectl create token`.
///
/// Source: kubernetes v1.36, `pkg/registry/core/serviceaccount/storage/token.go`,
/// `pkg/apis/authentication/validation/validation.go`.
async fn token(api: &Api, request: &Request, mut wanted: TokenRequest) -> Result<Response, ApiError> {
    let (namespace, account) = (request.target.namespace(), request.name());
    let spec = wanted.spec.get_or_insert_default();
    let secs = *spec.expiration_seconds.get_or_insert(TOKEN_SECS);
    valid_for(secs).map_err(|error| ObjectError::Invalid {
        kind: &TOKEN_REQUEST,
        name: account.to_owned(),
        errors: vec![error],
    })?;
    let audiences = spec.audiences.take().filter(|audiences| !audiences.is_empty());
    let audiences = audiences.unwrap_or_else(|| vec![ISSUER.to_owned()]);
    spec.audiences = Some(audiences.clone());
    let bound = spec.bound_object_ref.clone().map(|bound| Bound {
        kind: bound.kind.unwrap_or_default(),
        name: bound.name.unwrap_or_default(),
        uid: bound.uid.unwrap_or_default(),
    });
    let asked = Wanted {
        namespace: namespace.to_owned(),
        account: account.to_owned(),
        audiences,
        valid_for: SignedDuration::from_secs(secs),
        bound,
    };
    let now = Timestamp::now();
    let token = api.bearer.issue(&asked, now).await.map_err(ApiError::Issue)?;
    wanted.metadata.name = Some(account.to_owned());
    wanted.metadata.namespace = Some(namespace.to_owned());
    wanted.metadata.creation_timestamp = Some(Time(now));
    wanted.status =
        Some(TokenRequestStatus { expiration_timestamp: Some(Time(token.expires_at)), token: Some(token.text) });
    let given = serde_json::to_value(wanted).expect("Kubernetes' types have string keys only");
    Ok(answer(StatusCode::CREATED, &given, &[]))
}

fn valid_for(secs: i64) -> Result<(), FieldError> {
    let field = Path::new("spec.expirationSeconds");
    match secs {
        ..TOKEN_SECS_MIN => Err(FieldError::invalid(&field, secs, "may not specify a duration less than 10 minutes")),
        TOKEN_SECS_MIN..=TOKEN_SECS_MAX => Ok(()),
        _ => Err(FieldError::invalid(&field, secs, "may not specify a duration larger than 2^32 seconds")),
    }
}
