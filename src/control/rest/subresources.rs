//! What is asked of one object beside reading and writing it: POST to a subresource.

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestStatus};
use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, Time};

use super::errors::{self, ApiError};
use super::resources::{Request, answer};
use super::{Api, body};
use crate::api::field::{FieldError, Path};
use crate::control::bearer::claims::ISSUER;
use crate::control::bearer::{Bound, Wanted};
use crate::control::kinds::{BINDING, BINDING_KIND, EVICTION, POD, TOKEN, TOKEN_REQUEST};
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
        Some(EVICTION) => evict(api, request, body::typed(&request.parts.headers, &sent)?).await,
        Some(BINDING) => bind(api, request).await,
        _ => Err(ApiError::MethodNotAllowed),
    }
}

/// `kubectl drain`: the pod ends as if it was deleted. There are no PodDisruptionBudgets that could stand against it.
///
/// Source: kubernetes v1.36, `pkg/registry/core/pod/storage/eviction.go`.
async fn evict(api: &Api, request: &Request, eviction: Eviction) -> Result<Response, ApiError> {
    let said = eviction.metadata.name.as_deref().unwrap_or_default();
    if !said.is_empty() && said != request.name() {
        return Err(ApiError::BadRequest("name in URL does not match name in Eviction object".to_owned()));
    }
    let options = request.query.delete_options(eviction.delete_options.unwrap_or_default())?;
    api.objects.delete(&POD, request.target.namespace(), request.name(), &options).await?;
    let done = Status { status: Some("Success".to_owned()), code: Some(201), ..Status::default() };
    Ok(errors::status_response(&done))
}

/// Every pod is bound from the start.
async fn bind(api: &Api, request: &Request) -> Result<Response, ApiError> {
    let pod = api.objects.get(&POD, request.target.namespace(), request.name()).await?;
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    let name = request.name().to_owned();
    let reason = format!("pod {name} is already assigned to node {node:?}");
    Err(ObjectError::Conflict { kind: &BINDING_KIND, name, reason }.into())
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
