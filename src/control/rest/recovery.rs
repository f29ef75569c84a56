//! `/fleet/recovery`: what a lost store would be rebuilt to from what nodes hold, and the confirmation that it shall be.
//!
//! Not of Kubernetes. `garrison control recover` asks; who may is said by rules for the path, as for `/fleet/holds`.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::errors::ApiError;
use super::resources::answer;
use super::{Api, body};
use crate::control::recovery::{Choice, Recovery, RecoveryError};

/// Where it is opened and shown.
pub const PATH: &str = "/fleet/recovery";
/// Where it is confirmed.
pub const CONFIRM: &str = "/fleet/recovery/confirm";

/// What was looked at.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confirmation {
    /// [`Recovery::number`].
    pub number: u64,
}

/// Routes to it.
pub fn routes() -> Router<Arc<Api>> {
    Router::new().route(PATH, post(show)).route(CONFIRM, post(confirm))
}

/// A POST: from then on control receives nodes that it has no record of.
async fn show(State(api): State<Arc<Api>>, body: Body) -> Response {
    let shown = async {
        let choice: Choice = body::own(body).await?;
        Ok(api.fleet.recovery(choice).await?)
    };
    answered(shown.await)
}

/// Answers with what was written.
async fn confirm(State(api): State<Arc<Api>>, body: Body) -> Response {
    let confirmed = async {
        let Confirmation { number } = body::own(body).await?;
        Ok(api.fleet.recover(number).await?)
    };
    answered(confirmed.await)
}

fn answered(recovery: Result<Recovery, ApiError>) -> Response {
    match recovery {
        Ok(recovery) => {
            let recovery = serde_json::to_value(recovery).expect("a recovery has string keys only");
            answer(StatusCode::OK, &recovery, &[])
        }
        Err(error) => error.into_response(),
    }
}

impl From<RecoveryError> for ApiError {
    fn from(error: RecoveryError) -> Self {
        match error {
            RecoveryError::Objects(error) => error.into(),
            RecoveryError::NotShown { .. } => Self::BadRequest(error.to_string()),
        }
    }
}
