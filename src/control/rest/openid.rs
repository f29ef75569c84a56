//! How others verify tokens of ServiceAccounts by themselves: OpenID Connect discovery.
//!
//! Source: kubernetes v1.36, `pkg/serviceaccount/openidmetadata.go`, `pkg/routes/openidmetadata.go`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use http::header::{CONTENT_TYPE, HOST, HeaderValue};
use http::{HeaderMap, StatusCode};
use serde_json::json;

use super::Api;
use super::resources::answer;
use crate::control::bearer::claims::ISSUER;

const KEYS: &str = "/openid/v1/jwks";

/// Routes to both documents.
pub fn routes() -> Router<Arc<Api>> {
    Router::new().route("/.well-known/openid-configuration", get(configuration)).route(KEYS, get(keys))
}

/// The keys are where the client found this document: control does not know by which of its names it is reached.
async fn configuration(headers: HeaderMap) -> Response {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    let configuration = json!({
        "issuer": ISSUER,
        "jwks_uri": format!("https://{host}{KEYS}"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    });
    answer(StatusCode::OK, &configuration, &[])
}

async fn keys(State(api): State<Arc<Api>>) -> Response {
    let mut response = answer(StatusCode::OK, &api.bearer.key_set(), &[]);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
    response
}
