//! `pods/exec`, `pods/attach` and `pods/portforward`: HTTP/1.1 requests that become something else.
//!
//! A client says in its [`handshake`] what it would like to speak: WebSocket, or SPDY/3.1 (`kubectl` before 1.30, and
//! newer ones after a WebSocket that failed). The node is asked first, so that whatever is in the way is answered as a
//! `Status`; then 101, and a task of its own carries the rest.
//!
//! ```text
//!            exec, attach                                port-forward
//!  WebSocket ─▶ websocket ┐                     WebSocket ─▶ frames of SPDY inside ┐
//!                         ├─▶ relay ─▶ node                                        ├─▶ forward ─▶ node, for each connection
//!  SPDY ──────▶ spdy ─────┘                     SPDY ──────────────────────────────┘
//!                                               WebSocket ─▶ ports (without kubectl) ─▶ node, for each port
//! ```
//!
//! - [`protocol`] knows the versions, `status` the last message of each.
//! - Each keeps a place within the limits for as long as it goes on.
//! - A client that does not read holds up its node, one that has gone is noticed within half a minute, even while what
//!   it sends waits for a process that does not read.
//!
//! Source: kubernetes v1.36, `pkg/registry/core/pod/strategy.go`, `pkg/registry/core/pod/rest/subresources.go`;
//! `k8s.io/kubelet/pkg/cri/streaming`.

mod forward;
mod handshake;
mod ports;
pub(crate) mod protocol;
mod relay;
mod spdy;
mod status;
#[cfg(test)]
mod tests;
mod websocket;

use std::time::Duration;

use axum::response::Response;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde_json::Value;

use self::forward::Forwards;
use self::handshake::{Handshake, required};
use self::protocol::{Protocol, SPDY_COMMANDS, SPDY_FORWARDS, WEBSOCKET_COMMANDS, WEBSOCKET_FORWARDS};
use super::Api;
use super::errors::ApiError;
use super::limits::StreamPlace;
use super::query::Query;
use super::resources::Request;
use crate::control::kinds::{EXEC, POD, PORT_FORWARD};
use crate::control::meta;
use crate::control::streams::{AttachOptions, ExecOptions, StreamError, TunnelKind};
use crate::model::{NodeName, PodKey, Stdio};

/// A stream on which nothing was sent for so long is ended (the kubelet's `streamingConnectionIdleTimeout`).
const IDLE: Duration = Duration::from_secs(4 * 60 * 60);
/// How long a client may take to open the streams it has asked for, or to close what has ended.
const CLIENT_WITHIN: Duration = Duration::from_secs(30);

/// What a client speaks from here on.
type Io = TokioIo<Upgraded>;

/// The pod that a stream is about.
pub(super) struct Subject {
    /// The object.
    pub(super) pod: Value,
    /// Its names and uid.
    pub(super) key: PodKey,
    /// Where it is; none before it was given a node.
    pub(super) node: Option<NodeName>,
}

impl Subject {
    /// The pod that a request names.
    ///
    /// # Errors
    /// As reading an object.
    pub(super) async fn of(api: &Api, request: &Request) -> Result<Self, ApiError> {
        let (namespace, name) = (request.target.namespace(), request.target.name.as_deref().unwrap_or_default());
        let pod = api.objects.get(&POD, namespace, name).await?;
        let key = PodKey { namespace: namespace.to_owned(), name: name.to_owned(), uid: meta::uid(&pod).into() };
        let node = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()).map(NodeName::from);
        Ok(Self { pod, key, node })
    }

    /// Where it is.
    fn node(&self) -> Result<&NodeName, ApiError> {
        let nowhere = || ApiError::BadRequest(format!("pod {} does not have a host assigned", self.key.name));
        self.node.as_ref().ok_or_else(nowhere)
    }
}

/// Answers a request for a stream.
///
/// # Errors
/// Whatever keeps the stream from being, before the connection is another.
pub(super) async fn serve(api: &Api, mut request: Request) -> Result<Response, ApiError> {
    let handshake = Handshake::of(&request.parts)?;
    let on_upgrade = request.parts.extensions.remove().ok_or_else(required)?;
    let place = api.observer.stream(request.user())?;
    let subject = Subject::of(api, &request).await?;
    match request.target.subresource.map(|part| part.name) {
        Some(PORT_FORWARD) => port_forward(api, &request.query, subject, &handshake, (on_upgrade, place)).await,
        part => {
            let kind = command(&request.query, &subject.pod, part == Some(EXEC))?;
            remote_command(api, subject, kind, &handshake, (on_upgrade, place)).await
        }
    }
}

/// What is asked of a container, and by which streams.
fn command(query: &Query, pod: &Value, exec: bool) -> Result<TunnelKind, ApiError> {
    let container = container(pod, query.get("container").unwrap_or_default())?;
    let tty = query.flag("tty");
    let stdio =
        Stdio { stdin: query.flag("stdin"), stdout: query.flag("stdout"), stderr: query.flag("stderr") && !tty, tty };
    if !stdio.stdin && !stdio.stdout && !stdio.stderr {
        return Err(ApiError::BadRequest("you must specify at least 1 of stdin, stdout, stderr".to_owned()));
    }
    if !exec {
        return Ok(TunnelKind::Attach(AttachOptions { container, stdio }));
    }
    let command: Vec<String> = query.all("command").map(str::to_owned).collect();
    if command.is_empty() || command.iter().any(|argument| argument.contains('\0')) {
        return Err(ApiError::BadRequest("you must specify a command for the container".to_owned()));
    }
    Ok(TunnelKind::Exec(ExecOptions { container, command, stdio }))
}

/// The container that is meant: the one asked for, or the only one there is.
///
/// # Errors
/// [`ApiError::BadRequest`] if there is no such container, or several.
///
/// Source: kubernetes v1.36 `pkg/registry/core/pod/strategy.go`, `validateContainer`.
pub(super) fn container(pod: &Value, asked: &str) -> Result<String, ApiError> {
    let names = |field: &str| {
        let containers = pod["spec"][field].as_array().into_iter().flatten();
        containers.filter_map(|container| container["name"].as_str()).map(str::to_owned).collect::<Vec<_>>()
    };
    let regular = names("containers");
    if let ([only], "") = (regular.as_slice(), asked) {
        return Ok(only.clone());
    }
    let all = [names("initContainers"), regular, names("ephemeralContainers")].concat();
    let pod = meta::name(pod);
    if asked.is_empty() {
        let all = all.join(" ");
        let message = format!("a container name must be specified for pod {pod}, choose one of: [{all}]");
        return Err(ApiError::BadRequest(message));
    }
    if all.iter().any(|name| name == asked) {
        return Ok(asked.to_owned());
    }
    Err(ApiError::BadRequest(format!("container {asked} is not valid for pod {pod}")))
}

async fn remote_command(
    api: &Api,
    subject: Subject,
    kind: TunnelKind,
    handshake: &Handshake,
    (on_upgrade, place): (OnUpgrade, StreamPlace),
) -> Result<Response, ApiError> {
    let known = if handshake.is_websocket() { WEBSOCKET_COMMANDS } else { SPDY_COMMANDS };
    let protocol = handshake.choose(known)?;
    let stdio = match &kind {
        TunnelKind::Exec(ExecOptions { stdio, .. }) | TunnelKind::Attach(AttachOptions { stdio, .. }) => *stdio,
        TunnelKind::Logs(_) | TunnelKind::PortForward(_) => Stdio::default(),
    };
    let stream = api.streams.open(subject.node()?, &subject.key, kind).await?;
    let response = handshake.response(protocol);
    let websocket = handshake.is_websocket();
    tokio::spawn(async move {
        let _place = place;
        let Some(io) = upgraded(on_upgrade).await else { return };
        if websocket {
            websocket::serve(io, protocol, stdio, stream).await;
        } else {
            spdy::serve(io, protocol, stdio, stream).await;
        }
    });
    Ok(response)
}

async fn port_forward(
    api: &Api,
    query: &Query,
    subject: Subject,
    handshake: &Handshake,
    (on_upgrade, place): (OnUpgrade, StreamPlace),
) -> Result<Response, ApiError> {
    let known = if handshake.is_websocket() { WEBSOCKET_FORWARDS } else { SPDY_FORWARDS };
    let protocol = handshake.choose(known)?;
    let forwards = Forwards { streams: api.streams.clone(), node: subject.node()?.clone(), pod: subject.key };
    let ports = if handshake.is_websocket() && !protocol.tunnels { ports::asked(query)? } else { Vec::new() };
    let response = handshake.response(protocol);
    let websocket = handshake.is_websocket();
    tokio::spawn(async move {
        let _place = place;
        let Some(io) = upgraded(on_upgrade).await else { return };
        match (websocket, protocol.tunnels) {
            (false, _) => forward::serve(io, forwards).await,
            (true, true) => forward::serve_inside(io, forwards).await,
            (true, false) => ports::serve(io, protocol, forwards, &ports).await,
        }
    });
    Ok(response)
}

/// The connection, once the client has its 101. One that broke before is no matter.
async fn upgraded(on_upgrade: OnUpgrade) -> Option<Io> {
    on_upgrade.await.ok().map(TokioIo::new)
}

impl From<StreamError> for ApiError {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Refused { code, message } => Self::Node { code, message },
            StreamError::Busy(_) => Self::TooMany(error.to_string()),
            StreamError::NotConnected(_) | StreamError::Late(_) | StreamError::Broken(_) => {
                Self::Unavailable(error.to_string())
            }
        }
    }
}
