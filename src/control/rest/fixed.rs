//! The paths whose answers do not depend on any object: version, discovery, OpenAPI.

use axum::Router;
use axum::extract::{Path, RawQuery};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH, VARY};
use http::{HeaderMap, StatusCode};
use serde_json::json;

use super::discovery::DISCOVERY;
use super::document::Document;
use super::errors::ApiError;
use super::openapi::{FOREVER, OPENAPI};
use super::resources::answer;

/// The Kubernetes version whose API is served. Clients parse it strictly.
pub const KUBERNETES_VERSION: &str = "v1.36.0";

/// The only form of OpenAPI v2 that there is.
const OPENAPI_V2: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
/// Documents are the same until the server is: clients may keep them and ask whether they still hold.
const REVALIDATE: &str = "public";

/// Routes to all of them. Some clients end what has something below it with a slash.
pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let with_or_without_slash = [
        ("/version", get(version)),
        ("/api", get(core)),
        ("/api/{version}", get(core_version)),
        ("/apis", get(groups)),
        ("/apis/{group}", get(group)),
        ("/apis/{group}/{version}", get(group_version)),
    ];
    let both = |router: Router<S>, (path, answer): (&str, MethodRouter<S>)| {
        router.route(path, answer.clone()).route(&format!("{path}/"), answer)
    };
    with_or_without_slash
        .into_iter()
        .fold(Router::new(), both)
        .route("/openapi/v2", get(openapi_v2))
        .route("/openapi/v3", get(openapi_index))
        .route("/openapi/v3/{*path}", get(openapi))
}

async fn core(headers: HeaderMap) -> Response {
    document(Some(DISCOVERY.core.accepted_by(text(&headers, ACCEPT))), &headers, REVALIDATE)
}

async fn core_version(Path(version): Path<String>, headers: HeaderMap) -> Response {
    document(DISCOVERY.resources(&version), &headers, REVALIDATE)
}

async fn groups(headers: HeaderMap) -> Response {
    document(Some(DISCOVERY.groups.accepted_by(text(&headers, ACCEPT))), &headers, REVALIDATE)
}

async fn group(Path(group): Path<String>, headers: HeaderMap) -> Response {
    document(DISCOVERY.group(&group), &headers, REVALIDATE)
}

async fn group_version(Path((group, version)): Path<(String, String)>, headers: HeaderMap) -> Response {
    document(DISCOVERY.resources(&format!("{group}/{version}")), &headers, REVALIDATE)
}

async fn openapi_v2(headers: HeaderMap) -> Response {
    match OPENAPI.v2_accepted_by(text(&headers, ACCEPT)) {
        Some(v2) => document(Some(v2), &headers, REVALIDATE),
        None => ApiError::NotAcceptable(OPENAPI_V2).into_response(),
    }
}

async fn openapi_index(headers: HeaderMap) -> Response {
    document(Some(&OPENAPI.index), &headers, REVALIDATE)
}

/// The index names each document with its hash; under that name it never changes.
async fn openapi(Path(path): Path<String>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    let found = OPENAPI.document(&path);
    let by_hash = found.is_some_and(|found| query.is_some_and(|query| query.contains(&found.hash)));
    document(found, &headers, if by_hash { FOREVER } else { REVALIDATE })
}

/// `kubectl version` and tools that choose their behaviour by it.
async fn version() -> Response {
    let version = json!({
        "major": "1",
        "minor": "36",
        "gitVersion": KUBERNETES_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, go_arch()),
    });
    answer(StatusCode::OK, &version, &[])
}

/// This machine's architecture as Go names it.
fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// A document, or that the client has it already, or that there is none.
fn document(document: Option<&Document>, headers: &HeaderMap, cache_control: &'static str) -> Response {
    let Some(document) = document else { return ApiError::NoResource.into_response() };
    let mut response = if document.is_known_to(text(headers, IF_NONE_MATCH)) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        document.body.clone().into_response()
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(document.content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(cache_control));
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    if let Ok(etag) = HeaderValue::from_str(&document.etag()) {
        headers.insert(ETAG, etag);
    }
    response
}
