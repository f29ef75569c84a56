//! Every request is seen here first and last: it gets an id and a place, and is counted, logged and audited when it is
//! answered.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{HeaderName, HeaderValue, USER_AGENT};
use http::{Method, Uri};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use jiff::Timestamp;
use tokio::time::Instant;
use tracing::field::Empty;
use tracing::{Instrument, Span};
use uuid::Uuid;

use super::audit::{AuditLog, Record};
use super::errors::ApiError;
use super::limits::{Class, Limits, Place, StreamPlace};
use super::metrics::Metrics;
use super::query::Query;
use crate::control::rbac::{About, Attributes, User};
use crate::link::listen::Connection;

/// Names a request in its answer, in logs and in the audit log.
const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
/// An id that a client gives may be so long.
const MAX_ID_BYTES: usize = 64;

/// What watches over requests.
#[derive(Debug, Clone, Default)]
pub struct Observer {
    /// What is counted.
    pub metrics: Metrics,
    /// What is written down, if anything is.
    pub audit: Option<AuditLog>,
    limits: Limits,
}

/// What the guard learned of a request. It travels back with the answer.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Who asked, by their credentials.
    pub user: User,
    /// Whom they acted as, if not themselves.
    pub acted_as: Option<User>,
    /// What about.
    pub attributes: Attributes,
}

/// The name of an object that was made, which its path did not say. It travels back with the answer, too.
#[derive(Debug, Clone)]
pub struct Made(pub String);

impl Seen {
    fn note_name(&mut self, Made(name): Made) {
        if let About::Resource(resource) = &mut self.attributes.about
            && resource.name.is_empty()
        {
            resource.name = name;
        }
    }
}

impl Observer {
    /// Counts from nothing; writes down what `audit` wants.
    pub fn new(audit: Option<AuditLog>) -> Self {
        Self { audit, ..Self::default() }
    }

    /// A place for a stream that goes on when its request is over.
    ///
    /// # Errors
    /// [`ApiError::TooManyRequests`].
    pub fn stream(&self, user: &User) -> Result<StreamPlace, ApiError> {
        self.limits.take_stream(&user.name, &self.metrics).ok_or(ApiError::TooManyRequests)
    }
}

/// What is known of a request before it is looked at.
struct Arrived {
    id: String,
    method: Method,
    uri: Uri,
    user_agent: String,
    source: Option<IpAddr>,
    received: Timestamp,
    begun: Instant,
}

/// Sees a request through.
pub async fn observe(State(observer): State<Arc<Observer>>, request: Request, next: Next) -> Response {
    let arrived = Arrived::of(&request);
    let span = span(&arrived);
    let query = Query::parse(&arrived.uri).unwrap_or_default();
    let class = Class::of(&arrived.method, arrived.uri.path(), &query);
    let mut response = match observer.limits.take(class, &observer.metrics) {
        Some(place) => {
            let (parts, body) = next.run(request).instrument(span.clone()).await.into_parts();
            // Whatever is streamed keeps its place until the body ends.
            Response::from_parts(parts, Body::new(Held { body, _place: place }))
        }
        None => ApiError::TooManyRequests.into_response(),
    };
    let mut seen = response.extensions_mut().remove::<Seen>();
    if let (Some(seen), Some(made)) = (&mut seen, response.extensions_mut().remove::<Made>()) {
        seen.note_name(made);
    }
    let code = response.status().as_u16();
    observer.note(&span, &arrived, seen.as_ref(), code).await;
    if let Ok(id) = HeaderValue::from_str(&arrived.id) {
        response.headers_mut().insert(AUDIT_ID, id);
    }
    response
}

/// What is said of a request while it is seen to, it is said in here. It is there for warnings, too, so that they have the id.
fn span(arrived: &Arrived) -> Span {
    let Arrived { id, method, uri, .. } = arrived;
    tracing::warn_span!("request", %id, %method, path = uri.path(), code = Empty, user = Empty)
}

impl Arrived {
    fn of(request: &Request) -> Self {
        let user_agent = request.headers().get(USER_AGENT).and_then(|agent| agent.to_str().ok());
        Self {
            id: id_of(request),
            method: request.method().clone(),
            uri: request.uri().clone(),
            user_agent: user_agent.unwrap_or_default().to_owned(),
            source: request.extensions().get::<Connection>().map(|connection| connection.remote.ip()),
            received: Timestamp::now(),
            begun: Instant::now(),
        }
    }
}

impl Observer {
    /// Counts, logs and writes down an answer.
    async fn note(&self, span: &Span, arrived: &Arrived, seen: Option<&Seen>, code: u16) {
        let (attributes, took) = (seen.map(|seen| &seen.attributes), arrived.begun.elapsed());
        self.metrics.answered(attributes, code, took);
        span.record("code", i64::from(code));
        if let Some(seen) = seen {
            span.record("user", &seen.user.name);
        }
        if code >= 500 {
            tracing::warn!(parent: span, ?took, "a request failed");
        } else {
            tracing::debug!(parent: span, ?took, "a request was answered");
        }
        let Some(audit) = self.audit.as_ref().filter(|audit| audit.wants(attributes, code)) else { return };
        let record = Record {
            id: &arrived.id,
            uri: arrived.uri.path_and_query().map_or("", |uri| uri.as_str()),
            user: seen.map(|seen| &seen.user),
            acted_as: seen.and_then(|seen| seen.acted_as.as_ref()),
            attributes,
            source: arrived.source,
            user_agent: &arrived.user_agent,
            code,
            received: arrived.received,
            answered: Timestamp::now(),
        };
        audit.write(&record).await;
        self.metrics.audited();
    }
}

/// The id a client gave, so that its log and ours can be read together; else a new one.
fn id_of(request: &Request) -> String {
    let given = request.headers().get(AUDIT_ID).and_then(|id| id.to_str().ok());
    let given = given.filter(|id| !id.is_empty() && id.len() <= MAX_ID_BYTES);
    given.map_or_else(|| Uuid::new_v4().to_string(), str::to_owned)
}

/// A body that holds its request's place.
struct Held {
    body: Body,
    _place: Place,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
