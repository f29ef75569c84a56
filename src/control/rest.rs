//! Kubernetes' REST API over HTTPS.
//!
//! Who sends a request and whether they may is said by [`auth`]. Its path is read by [`target`], its parameters by
//! [`query`], its body by [`body`], in protobuf by [`protobuf`]; [`resources`], [`apply`], [`watch`], [`logs`], [`rollout`],
//! [`usage`] and [`streams`] do what it asks through [`Objects`] and nodes, [`reviews`] answers questions, [`escalation`] keeps users
//! from granting what they do not have and [`certificates`] from having signed what they may not; [`represent`] gives the answer its form and [`errors`] its `Status` if it fails. All
//! of these but the handlers are pure. [`fixed`] answers the paths that are the same for every client: version, [`discovery`],
//! [`openapi`].
//!
//! Around all of them [`observe`] gives each request an id and a place within the [`limits`], and counts ([`metrics`]), logs
//! and audits ([`audit`]) its answer. [`health`] says whether control is well.

pub mod apply;
pub mod audit;
pub mod auth;
pub mod body;
pub mod certificates;
pub mod compress;
pub mod discovery;
pub mod document;
pub mod errors;
pub mod escalation;
pub mod events;
pub mod filter;
pub mod fixed;
pub mod health;
pub mod holds;
pub mod limits;
pub mod logs;
pub mod metrics;
pub mod observe;
pub mod openapi;
pub mod openid;
pub mod patch;
pub mod protobuf;
pub mod query;
pub mod recovery;
pub mod represent;
pub mod resources;
pub mod reviews;
pub mod rollout;
pub mod streams;
pub mod subresources;
pub mod table;
pub mod target;
#[cfg(test)]
mod tests;
pub mod tokens;
pub mod usage;
pub mod watch;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use tokio::sync::{mpsc, watch as watch_channel};

use self::errors::ApiError;
use self::observe::{Observer, Seen};
use self::query::Query;
use self::target::Target;
use super::bearer::Bearer;
use super::holds::Fleet;
use super::objects::Objects;
use super::rbac::{Attributes, Policy, User};
use super::streams::NodeStreams;
use super::updates::Question;
use crate::link::listen::Connection;
use crate::link::tls::KeyPin;

/// What handlers work with.
pub struct Api {
    /// All API objects.
    pub objects: Objects,
    /// The way to the nodes.
    pub streams: Arc<dyn NodeStreams>,
    /// The nodes that hold, and the way out.
    pub fleet: Arc<dyn Fleet>,
    /// The fleet's authority, which join tokens name.
    pub authority: KeyPin,
    /// Counts, logs and audits requests.
    pub observer: Arc<Observer>,
    /// Who may do what, now.
    pub policy_rx: watch_channel::Receiver<Arc<Policy>>,
    /// Tokens of ServiceAccounts.
    pub bearer: Arc<Bearer>,
    /// How rollouts are.
    pub questions_tx: mpsc::Sender<Question>,
}

impl Api {
    /// Who may do what.
    pub fn policy(&self) -> Arc<Policy> {
        self.policy_rx.borrow().clone()
    }
}

/// The API on connections of [`link::listen`](crate::link::listen), which say who asks.
pub fn router(api: Api) -> Router {
    let api = Arc::new(api);
    let observed = from_fn_with_state(api.observer.clone(), observe::observe);
    routes(api.clone()).layer(from_fn_with_state(api, authenticate)).layer(observed)
}

/// The API for requests that carry their [`User`] as an extension; without one they are anonymous.
fn routes(api: Arc<Api>) -> Router {
    let guard = from_fn_with_state(api.clone(), guard);
    Router::new()
        .merge(fixed::routes())
        .merge(health::routes())
        .merge(holds::routes())
        .merge(recovery::routes())
        .merge(openid::routes())
        .merge(tokens::routes())
        .route("/metrics", get(render_metrics))
        .fallback(resource)
        .layer(from_fn(compress::compress))
        .layer(guard)
        .with_state(api)
}

async fn authenticate(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    let connection = request.extensions().get::<Connection>();
    match auth::authenticate(&api, connection, request.headers()).await {
        Ok(user) => {
            request.extensions_mut().insert(user);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

/// Lets through what may pass, as who it is to be taken for. Paths of objects are also judged here, before anything of
/// them is read.
async fn guard(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    let (mut seen, judged) = match look(&request) {
        Ok((seen, needs)) => {
            let judged = judge(&api.policy(), &seen, &needs);
            (Some(seen), judged)
        }
        Err(error) => (None, Err(error)),
    };
    let mut response = match (judged, &seen) {
        (Ok(()), Some(Seen { user, acted_as, .. })) => {
            request.extensions_mut().insert(acted_as.as_ref().unwrap_or(user).clone());
            next.run(request).await
        }
        (judged, _) => judged.err().unwrap_or(ApiError::Unauthorized).into_response(),
    };
    if let Some(seen) = seen.take() {
        response.extensions_mut().insert(seen);
    }
    response
}

/// Who asks for what, and what they must be allowed to do to ask as somebody else.
fn look(request: &Request) -> Result<(Seen, Vec<Attributes>), ApiError> {
    let user = request.extensions().get::<User>().cloned().unwrap_or_else(User::anonymous);
    let asked = auth::impersonation::asked(request.headers())?;
    let (acted_as, needs) = asked.map_or((None, Vec::new()), |asked| (Some(asked.user), asked.needs));
    let path = request.uri().path();
    let target = Target::parse(path).ok().flatten();
    let query = Query::parse(request.uri())?;
    let attributes = auth::attributes::of(request.method(), path, &query, target.as_ref());
    Ok((Seen { user, acted_as, attributes }, needs))
}

fn judge(policy: &Policy, seen: &Seen, needs: &[Attributes]) -> Result<(), ApiError> {
    for need in needs {
        auth::authorize(policy, &seen.user, need)?;
    }
    auth::authorize(policy, seen.acted_as.as_ref().unwrap_or(&seen.user), &seen.attributes)
}

async fn render_metrics(State(api): State<Arc<Api>>) -> Response {
    let mut response = api.observer.metrics.render().into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(metrics::CONTENT_TYPE));
    response
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
