//! Kubernetes' REST API over HTTPS.
//!
//! A request is authorized by [`auth`], its path read by [`target`], its parameters by [`query`], its body by [`body`];
//! [`resources`], [`apply`], [`watch`] and [`logs`] do what it asks through [`Objects`]; [`represent`] gives the answer its form
//! and [`errors`] its `Status` if it fails. All of these but the handlers are pure. [`fixed`] answers the paths that
//! are the same for every client: health, version, [`discovery`], [`openapi`].

pub mod apply;
pub mod auth;
pub mod body;
pub mod discovery;
pub mod document;
pub mod errors;
pub mod filter;
pub mod fixed;
pub mod logs;
pub mod openapi;
pub mod patch;
pub mod protobuf;
pub mod query;
pub mod represent;
pub mod resources;
pub mod table;
pub mod target;
#[cfg(test)]
mod tests;
pub mod watch;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};

use self::auth::User;
use self::errors::ApiError;
use self::query::Query;
use self::target::Target;
use super::objects::Objects;
use super::streams::NodeStreams;
use crate::link::listen::Connection;

/// What handlers work with.
pub struct Api {
    /// All API objects.
    pub objects: Objects,
    /// The way to the nodes.
    pub streams: Arc<dyn NodeStreams>,
}

/// The API on connections of [`link::listen`](crate::link::listen), which say who asks.
pub fn router(api: Api) -> Router {
    routes(api).layer(from_fn(authenticate))
}

/// The API for requests that carry their [`User`] as an extension; without one they are anonymous.
fn routes(api: Api) -> Router {
    let api = Arc::new(api);
    Router::new().merge(fixed::routes()).fallback(resource).layer(from_fn(guard)).with_state(api)
}

async fn authenticate(mut request: Request, next: Next) -> Response {
    if let Some(user) = request.extensions().get::<Connection>().and_then(User::of) {
        request.extensions_mut().insert(user);
    }
    next.run(request).await
}

/// Lets through what may pass. Paths of objects are also judged here, before anything of them is read.
async fn guard(request: Request, next: Next) -> Response {
    match check(&request) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

fn check(request: &Request) -> Result<(), ApiError> {
    let user = request.extensions().get::<User>();
    let path = request.uri().path();
    let target = Target::parse(path).ok().flatten();
    auth::authorize(user, request.method(), path, request.headers(), target.as_ref())
}

/// Everything that is not one of the fixed paths.
async fn resource(State(api): State<Arc<Api>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    match serve(api, parts, body).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn serve(api: Arc<Api>, parts: http::request::Parts, body: Body) -> Result<Response, ApiError> {
    let Some(target) = Target::parse(parts.uri.path())? else { return Ok(no_page()) };
    let query = Query::parse(&parts.uri)?;
    resources::serve(&api, resources::Request { target, query, parts }, body).await
}

fn no_page() -> Response {
    let mut response = (StatusCode::NOT_FOUND, "404 page not found\n").into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
