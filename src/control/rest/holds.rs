//! `/fleet/holds`: the nodes that have taken over more than control knows, what they run that it has no record of, and what a
//! person decides about that.
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
use crate::control::holds::{ConfirmError, EndError};
use crate::model::Uid;

/// Where it is.
pub const PATH: &str = "/fleet/holds";

/// What a person decides.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Decision {
    /// Control's word counts: the era that was looked at, [`Holds::era`](crate::control::holds::Holds::era).
    Era(u64),
    /// What nodes run of a DaemonSet ends, whose uid is among [`Holds::unknown`](crate::control::holds::Holds::unknown).
    End(Uid),
}

/// Routes to it.
pub fn routes() -> Router<Arc<Api>> {
    Router::new().route(PATH, get(show).post(decide))
}

async fn show(State(api): State<Arc<Api>>) -> Response {
    let holds = serde_json::to_value(api.fleet.holds()).expect("holds have string keys only");
    answer(StatusCode::OK, &holds, &[])
}

/// Answers with who held before.
async fn decide(State(api): State<Arc<Api>>, body: Body) -> Response {
    match decided(&api, body).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn decided(api: &Api, body: Body) -> Result<Response, ApiError> {
    let decision: Decision = body::own(body).await?;
    let held = serde_json::to_value(api.fleet.holds()).expect("holds have string keys only");
    match decision {
        Decision::Era(era) => api.fleet.confirm(era).await?,
        Decision::End(daemonset) => api.fleet.end(daemonset).await?,
    }
    Ok(answer(StatusCode::OK, &held, &[]))
}

impl From<ConfirmError> for ApiError {
    fn from(error: ConfirmError) -> Self {
        match error {
            ConfirmError::Objects(error) => error.into(),
            ConfirmError::OtherEra { .. } | ConfirmError::Changed => Self::BadRequest(error.to_string()),
        }
    }
}

impl From<EndError> for ApiError {
    fn from(error: EndError) -> Self {
        match error {
            EndError::Objects(error) => error.into(),
            EndError::NotUnknown(_) => Self::BadRequest(error.to_string()),
        }
    }
}
