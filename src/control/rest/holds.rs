//! `/fleet/holds`: the nodes that have taken over more than control knows, and the confirmation that control's word counts.
//!
//! Not of Kubernetes. `garrison control holds` asks; who may is said by rules for the path, as for `/metrics`.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::errors::ApiError;
use super::resources::answer;
use super::{Api, body};
use crate::control::holds::ConfirmError;

/// Where it is.
pub const PATH: &str = "/fleet/holds";

/// The era that was looked at.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confirmation {
    /// [`Holds::era`](crate::control::holds::Holds::era).
    pub era: u64,
}

/// Routes to it.
pub fn routes() -> Router<Arc<Api>> {
    Router::new().route(PATH, get(show).post(confirm))
}

async fn show(State(api): State<Arc<Api>>) -> Response {
    let holds = serde_json::to_value(api.fleet.holds()).expect("holds have string keys only");
    answer(StatusCode::OK, &holds, &[])
}

/// Answers with who held before.
async fn confirm(State(api): State<Arc<Api>>, body: Body) -> Response {
    match confirmed(&api, body).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn confirmed(api: &Api, body: Body) -> Result<Response, ApiError> {
    let confirmation: Confirmation = body::own(body).await?;
    let held = serde_json::to_value(api.fleet.holds()).expect("holds have string keys only");
    match api.fleet.confirm(confirmation.era).await {
        Ok(()) => Ok(answer(StatusCode::OK, &held, &[])),
        Err(ConfirmError::Objects(error)) => Err(error.into()),
        Err(error @ (ConfirmError::OtherEra { .. } | ConfirmError::Changed)) => {
            Err(ApiError::BadRequest(error.to_string()))
        }
    }
}
