//! Join tokens and users' tokens over HTTP, for `garrison token` and `garrison kubeconfig --token`.
//!
//! Not part of Kubernetes' API: paths of their own, open to whoever may do everything, since a token can be made for anybody.
//! What is sent and answered is [`remote`](crate::control::remote)'s.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{delete, get, post};
use axum::{Extension, Router};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::auth::authorize;
use super::errors::ApiError;
use super::resources::answer;
use super::{Api, body};
use crate::api::names;
use crate::control::rbac::{Attributes, Resource, User};
use crate::control::remote::{
    JOIN_TOKENS, JoinTokenRequest, Minted, Purpose, TOKENS, TokenInfo, TokenList, USER_TOKENS, UserTokenRequest,
};
use crate::control::tokens::{Allowance, TokenRecord};
use crate::control::user_tokens::UserTokenRecord;
use crate::link::tls::names_node;

/// Routes to all of them.
pub fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route(TOKENS, get(list))
        .route(&format!("{TOKENS}/{{id}}"), delete(revoke))
        .route(JOIN_TOKENS, post(make_join_token))
        .route(USER_TOKENS, post(make_user_token))
}

fn allow(api: &Api, user: &User) -> Result<(), ApiError> {
    let all = || "*".to_owned();
    let everything = Resource { group: all(), resource: all(), ..Resource::default() };
    authorize(&api.policy(), user, &Attributes::on("*", everything))
}

async fn list(State(api): State<Arc<Api>>, Extension(user): Extension<User>) -> Result<Response, ApiError> {
    allow(&api, &user)?;
    let mut tokens: Vec<TokenInfo> =
        api.objects.tokens().await?.into_iter().map(|(id, record)| of_join_token(id, record)).collect();
    tokens.extend(api.objects.user_tokens().await?.into_iter().map(|(id, record)| of_user_token(id, record)));
    Ok(answer(StatusCode::OK, &json!(TokenList { tokens }), &[]))
}

fn of_join_token(id: String, record: TokenRecord) -> TokenInfo {
    let TokenRecord { expires_at, uses_left, node_name, labels, .. } = record;
    TokenInfo { id, expires_at, purpose: Purpose::Join { uses_left, node_name, labels } }
}

fn of_user_token(id: String, record: UserTokenRecord) -> TokenInfo {
    let UserTokenRecord { user, groups, expires_at, .. } = record;
    TokenInfo { id, expires_at, purpose: Purpose::User { user, groups } }
}

/// Ids are drawn from so many that one names a join token or a user's, not both.
async fn revoke(
    State(api): State<Arc<Api>>,
    Extension(user): Extension<User>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    allow(&api, &user)?;
    if api.objects.forget_token(&id).await? || api.objects.forget_user_token(&id).await? {
        return Ok(answer(StatusCode::OK, &json!({}), &[]));
    }
    Err(ApiError::NoToken(id))
}

async fn make_join_token(
    State(api): State<Arc<Api>>,
    Extension(user): Extension<User>,
    body: Body,
) -> Result<Response, ApiError> {
    allow(&api, &user)?;
    let JoinTokenRequest { ttl_seconds, uses, node_name, labels } = body::own(body).await?;
    for (key, value) in labels.iter().flatten() {
        if let Some(wrong) = names::qualified_name(key).into_iter().chain(names::label_value(value)).next() {
            return Err(ApiError::BadRequest(format!("label {key}={value}: {wrong}")));
        }
    }
    if let Some(wrong) = node_name.as_ref().and_then(|name| names::dns_subdomain(name.as_str()).into_iter().next()) {
        return Err(ApiError::BadRequest(format!("node name: {wrong}")));
    }
    let allowance = Allowance { valid_for: valid_for(ttl_seconds)?, uses, node_name, labels };
    let token = api.objects.make_token(api.authority, allowance).await?;
    Ok(answer(StatusCode::CREATED, &json!(Minted { token: token.to_string() }), &[]))
}

async fn make_user_token(
    State(api): State<Arc<Api>>,
    Extension(user): Extension<User>,
    body: Body,
) -> Result<Response, ApiError> {
    allow(&api, &user)?;
    let UserTokenRequest { user, groups, ttl_seconds } = body::own(body).await?;
    if user.is_empty() || names_node(&user, &groups) {
        return Err(ApiError::BadRequest("the user must have a name, and cannot be a node".to_owned()));
    }
    let expires_at = Timestamp::now().saturating_add(valid_for(ttl_seconds)?).unwrap_or(Timestamp::MAX);
    let token = api.objects.make_user_token(&user, &groups, expires_at).await?;
    Ok(answer(StatusCode::CREATED, &json!(Minted { token }), &[]))
}

fn valid_for(seconds: i64) -> Result<SignedDuration, ApiError> {
    if seconds <= 0 {
        return Err(ApiError::BadRequest("ttlSeconds must be greater than 0".to_owned()));
    }
    Ok(SignedDuration::from_secs(seconds))
}
