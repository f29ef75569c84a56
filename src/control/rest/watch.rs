//! Watches over HTTP: one JSON event per line until the client leaves or the time is up.
//!
//! Each has a task of its own, which holds what the client has not taken yet: a batch of changes at most. A client that takes
//! nothing for a minute is cut off; changes that were meanwhile forgotten would be lost to it anyway, so it lists again.
//!
//! ```text
//! Watcher ──Event──▶ Session (select, encode) ──Bytes──▶ body ──▶ client
//! ```
//!
//! Without selectors and Tables a watch sends what a [`Watcher`] has encoded for all, as it is. Selectors turn a change
//! into what it means for them: an object that begins to match is added, one that ends to match is deleted.
//!
//! Source: kubernetes v1.36, `k8s.io/apiserver/pkg/endpoints/handlers/watch.go`, `pkg/storage/cacher/cacher.go`;
//! KEP-3157.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::StreamExt;
use http::Version;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use uuid::Uuid;

use super::Api;
use super::errors::ApiError;
use super::filter::Filter;
use super::query::{ListAt, Query};
use super::represent::Form;
use super::resources::{Request, read_list};
use crate::api::field::{FieldError, Path};
use crate::control::kinds::Kind;
use crate::control::objects::{Event, Expired, Watcher};
use crate::link::listen::Connection;
use crate::store::Revision;

/// How often a quiet watch says how far it has come.
const BOOKMARK_PERIOD: Duration = Duration::from_secs(60);
/// A last bookmark so long before the end spares the client a list.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);
/// A watch that names no time ends after this long, and up to twice as long, so that not all end together.
const MIN_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// Pieces of the answer on their way to the connection.
const PIECES: usize = 16;
/// A client that takes nothing for so long is cut off.
const STALLED: Duration = Duration::from_secs(60);
/// On the bookmark after the objects that were there from the start.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// What a watch begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begin {
    /// Changes after a revision.
    After(Revision),
    /// All objects as added, then changes.
    Everything {
        /// Not as of an earlier revision.
        not_before: Revision,
        /// With a bookmark between the two.
        marked: bool,
    },
}

/// One watch.
struct Session {
    kind: &'static Kind,
    form: Form,
    filter: Filter,
    watcher: Watcher,
    /// Encoded and not yet sent.
    ready: VecDeque<Bytes>,
    /// Nothing was sent yet.
    first: bool,
    /// When to send the next bookmark; none if the client wants none.
    bookmark_at: Option<Instant>,
    end_at: Instant,
    ended: bool,
}

/// Answers with a watch.
pub async fn serve(api: &Api, request: &Request) -> Result<Response, ApiError> {
    let kind = request.target.kind;
    let form = request.form()?;
    let filter = Filter::parse(kind.kept(), &request.query)?;
    let begin = begin(&request.query)?;
    let end_at = Instant::now() + lasts(&request.query)?;
    let bookmarks = request.query.flag("allowWatchBookmarks");
    let namespace = request.target.namespace.as_deref();
    let (list, after) = match begin {
        Begin::After(revision) => (None, revision),
        Begin::Everything { not_before, .. } => {
            let list = read_list(api, kind.kept(), request, &filter, ListAt::NotBefore(not_before), 0).await?;
            let revision = list.revision;
            (Some(list), revision)
        }
    };
    let mut session = Session {
        kind,
        form,
        filter,
        watcher: api.objects.watch(kind.kept(), namespace, after),
        ready: VecDeque::new(),
        first: true,
        bookmark_at: bookmarks.then(|| (Instant::now() + BOOKMARK_PERIOD).min(end_at - LAST_BOOKMARK)),
        end_at,
        ended: false,
    };
    for object in list.into_iter().flat_map(|list| list.items) {
        session.send("ADDED", object);
    }
    if matches!(begin, Begin::Everything { marked: true, .. }) {
        session.send_bookmark(after, true);
    }
    let (pieces_tx, pieces_rx) = mpsc::channel(PIECES);
    let connection = request.parts.extensions.get::<Connection>().filter(|_| request.parts.version < Version::HTTP_2);
    tokio::spawn(session.run(pieces_tx, connection.cloned()));
    let mut response = Body::from_stream(ReceiverStream::new(pieces_rx).map(Ok::<_, Infallible>)).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    Ok(response)
}

/// What the parameters ask a watch to begin with.
fn begin(query: &Query) -> Result<Begin, ApiError> {
    let version = query.resource_version()?.unwrap_or_default();
    let matched = query.get("resourceVersionMatch").unwrap_or_default();
    let bookmarks = query.flag("allowWatchBookmarks");
    if query.flag("sendInitialEvents") {
        if matched != "NotOlderThan" {
            let field = Path::new("resourceVersionMatch");
            let detail = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            let errors = vec![FieldError::forbidden(&field, detail)];
            return Err(ApiError::InvalidOptions { options: "ListOptions", errors });
        }
        return Ok(Begin::Everything { not_before: version, marked: bookmarks });
    }
    Ok(match version {
        Revision(0) => {
            let marked = bookmarks && query.get("resourceVersion") == Some("0");
            Begin::Everything { not_before: version, marked }
        }
        version => Begin::After(version),
    })
}

fn lasts(query: &Query) -> Result<Duration, ApiError> {
    Ok(match query.number("timeoutSeconds")? {
        Some(seconds) if seconds > 0 => Duration::from_secs(seconds.min(24 * 3600)),
        _ => MIN_TIMEOUT.mul_f64(1.0 + f64::from(Uuid::new_v4().as_bytes()[0]) / 256.0),
    })
}

impl Session {
    /// The watch, to its end or the client's. `connection` is the client's, if it carries nothing else.
    async fn run(mut self, pieces_tx: mpsc::Sender<Bytes>, connection: Option<Connection>) {
        let telling = async {
            while let Some(piece) = self.next().await {
                if timeout(STALLED, pieces_tx.send(piece)).await.is_err() {
                    tracing::info!(kind = self.kind.kind, "a watch is cut off: its client does not read");
                    return connection.iter().for_each(Connection::close);
                }
            }
        };
        // What is dropped here is told to nobody any more.
        tokio::select! {
            () = telling => {}
            () = pieces_tx.closed() => {}
        }
    }

    /// The next bytes to send; nothing at the end.
    async fn next(&mut self) -> Option<Bytes> {
        while self.ready.is_empty() && !self.ended {
            let bookmark = tokio::time::sleep_until(self.bookmark_at.unwrap_or(self.end_at));
            // Both arms are cancel safe: the watcher moves its cursor only when it gives changes.
            tokio::select! {
                changes = self.watcher.next() => self.take(changes),
                () = bookmark => self.on_time(),
            }
        }
        self.ready.pop_front()
    }

    fn take(&mut self, changes: Result<Vec<Arc<Event>>, Expired>) {
        match changes {
            Ok(events) => events.iter().for_each(|event| self.send_event(event)),
            Err(expired) => {
                let status = serde_json::to_value(ApiError::from(expired).status()).expect("a status is plain data");
                self.push("ERROR", status.to_string().into());
                self.ended = true;
            }
        }
    }

    fn on_time(&mut self) {
        if Instant::now() >= self.end_at {
            self.ended = true;
            return;
        }
        let changes = self.watcher.ready();
        self.take(changes);
        if !self.ended {
            self.send_bookmark(self.watcher.seen(), false);
            let last = self.end_at - LAST_BOOKMARK;
            let next = (Instant::now() + BOOKMARK_PERIOD).min(last);
            self.bookmark_at = Some(if next > Instant::now() { next } else { self.end_at });
        }
    }

    fn send_event(&mut self, event: &Event) {
        let unfiltered = match (event.deleted, &event.previous) {
            (true, _) => "DELETED",
            (false, None) => "ADDED",
            (false, Some(_)) => "MODIFIED",
        };
        if self.filter.is_empty() && self.form == Form::Object && self.kind.kept_as.is_none() {
            return self.push(unfiltered, event.object.clone());
        }
        let Ok(object) = serde_json::from_slice::<Value>(&event.object) else { return };
        let before = event.previous.as_ref().and_then(|json| serde_json::from_slice::<Value>(json).ok());
        let matched = before.is_some_and(|object| self.filter.matches(&object));
        let matches = !event.deleted && self.filter.matches(&object);
        match (matched, matches) {
            (false, false) => {}
            (false, true) => self.send("ADDED", object),
            (true, true) => self.send("MODIFIED", object),
            (true, false) => self.send("DELETED", object),
        }
    }

    fn send_bookmark(&mut self, revision: Revision, initial_events_end: bool) {
        let mut object = json!({
            "kind": self.kind.kind,
            "apiVersion": self.kind.api_version(),
            "metadata": {"resourceVersion": revision.to_string()},
        });
        if initial_events_end {
            object["metadata"]["annotations"] = json!({INITIAL_EVENTS_END: "true"});
        }
        self.send("BOOKMARK", object);
    }

    fn send(&mut self, event_type: &'static str, object: Value) {
        let object = self.form.event(self.kind, object, self.first, Timestamp::now());
        self.push(event_type, object.to_string().into());
    }

    fn push(&mut self, event_type: &'static str, object: Bytes) {
        let head = match event_type {
            "ADDED" => &b"{\"type\":\"ADDED\",\"object\":"[..],
            "MODIFIED" => b"{\"type\":\"MODIFIED\",\"object\":",
            "DELETED" => b"{\"type\":\"DELETED\",\"object\":",
            "BOOKMARK" => b"{\"type\":\"BOOKMARK\",\"object\":",
            _ => b"{\"type\":\"ERROR\",\"object\":",
        };
        self.ready.extend([Bytes::from_static(head), object, Bytes::from_static(b"}\n")]);
        self.first = false;
    }
}
