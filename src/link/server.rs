//! Control's end of the link: the four calls of the fleet protocol as routes.
//!
//! It proves who calls, checks what arrives, keeps connections alive, and hands everything to a [`Control`]. It knows
//! no node and remembers nothing. The one place where errors become gRPC status codes.
//!
//! ```text
//!              ┌─ read ──▶ from_proto ──▶ up_tx ──▶ control
//! connection ──┤   (KeepAlive is answered here)
//!              └─ write ◀── Frame ◀───── down_rx ◀── control
//! ```

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::routing::post;
use axum::{Extension, Router};
use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::server::Grpc;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::frame::{Frame, SessionCodec};
use super::listen::Connection;
use super::tls::NodeIdentity;
use super::*;
use crate::error::Chain;

/// How long a caller may take to say who it is.
const HELLO_WITHIN: Duration = Duration::from_secs(15);

/// What the link asks of control. Every node named here has shown a certificate of the fleet's authority.
pub trait Control: Send + Sync + 'static {
    /// A host without a certificate shows a join token.
    fn enroll(&self, request: EnrollRequest) -> BoxFuture<'_, Result<Enrolled, Denied>>;

    /// A node wants a new certificate; the one it shows may have expired.
    fn renew(&self, node: NodeIdentity, request: RenewRequest) -> BoxFuture<'_, Result<Renewed, Denied>>;

    /// A node begins a session. Its first frame has to be the welcome.
    fn connected(&self, node: NodeIdentity, hello: Hello) -> BoxFuture<'_, Result<SessionEnds, Denied>>;

    /// A node calls back with a stream it was asked for.
    fn tunnel(&self, node: NodeIdentity, id: CommandId) -> BoxFuture<'_, Result<TunnelEnds, Denied>>;
}

/// A tunnel as the link sees it. It ends when either side drops its ends.
#[derive(Debug)]
pub struct TunnelEnds {
    /// What the agent says after its hello. [`TunnelUp::End`] is the last, also of one that broke off.
    pub up_tx: mpsc::Sender<TunnelUp>,
    /// What it is told.
    pub down_rx: mpsc::Receiver<TunnelDown>,
}

/// A session as the link sees it. It ends when either side drops its end.
#[derive(Debug)]
pub struct SessionEnds {
    /// What the agent says after its hello; keep-alives are answered already. Dropped when the connection is lost.
    pub up_tx: mpsc::Sender<Up>,
    /// What it is told.
    pub down_rx: mpsc::Receiver<Frame>,
}

/// Why control does not do what was asked; the text is for the person at the other end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Token or certificate are no good, or not any more.
    #[error("{0}")]
    Credentials(String),
    /// The credentials are good, but not for this.
    #[error("{0}")]
    Forbidden(String),
    /// It makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Not now; the same may succeed later.
    #[error("{0}")]
    Unavailable(String),
}

impl From<Denied> for Status {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Credentials(message) => Self::unauthenticated(message),
            Denied::Forbidden(message) => Self::permission_denied(message),
            Denied::Invalid(message) => Self::invalid_argument(message),
            Denied::Unavailable(message) => Self::unavailable(message),
        }
    }
}

impl From<Malformed> for Status {
    fn from(malformed: Malformed) -> Self {
        Self::invalid_argument(malformed.to_string())
    }
}

type Shared = Arc<dyn Control>;
type HttpRequest = http::Request<Body>;
type HttpResponse = http::Response<tonic::body::Body>;

/// The routes of the fleet protocol, to be merged into what [`listen::serve`] serves.
pub fn routes(control: Shared) -> Router {
    Router::new()
        .route("/garrison.fleet.v1.Enrollment/Enroll", post(enroll))
        .route("/garrison.fleet.v1.Enrollment/Renew", post(renew))
        .route("/garrison.fleet.v1.Fleet/Session", post(session))
        .route("/garrison.fleet.v1.Fleet/Tunnel", post(tunnel))
        .with_state(control)
}

async fn enroll(State(control): State<Shared>, request: HttpRequest) -> HttpResponse {
    let handler = service_fn(|request: Request<pb::EnrollRequest>| {
        let control = control.clone();
        async move {
            let request = from_proto::enroll_request(request.into_inner())?;
            Ok(Response::new(to_proto::enrolled(control.enroll(request).await?)))
        }
    });
    Grpc::new(ProstCodec::default()).max_decoding_message_size(MAX_UP_BYTES).unary(handler, request).await
}

async fn renew(
    State(control): State<Shared>,
    Extension(connection): Extension<Connection>,
    request: HttpRequest,
) -> HttpResponse {
    let handler = service_fn(|request: Request<pb::RenewRequest>| {
        let (control, connection) = (control.clone(), connection.clone());
        async move {
            // An expired certificate will do here: the key is what counts.
            let node = connection.shown.as_deref().and_then(tls::Identity::node).ok_or_else(not_a_node)?;
            let request = from_proto::renew_request(request.into_inner())?;
            Ok(Response::new(to_proto::renewed(control.renew(node, request).await?)))
        }
    });
    Grpc::new(ProstCodec::default()).max_decoding_message_size(MAX_UP_BYTES).unary(handler, request).await
}

async fn session(
    State(control): State<Shared>,
    Extension(connection): Extension<Connection>,
    request: HttpRequest,
) -> HttpResponse {
    let handler = service_fn(|request: Request<Streaming<pb::SessionUp>>| {
        open_session(control.clone(), connection.clone(), request.into_inner())
    });
    Grpc::new(SessionCodec).max_decoding_message_size(MAX_UP_BYTES).streaming(handler, request).await
}

async fn tunnel(
    State(control): State<Shared>,
    Extension(connection): Extension<Connection>,
    request: HttpRequest,
) -> HttpResponse {
    let handler = service_fn(|request: Request<Streaming<pb::TunnelUp>>| {
        open_tunnel(control.clone(), connection.clone(), request.into_inner())
    });
    Grpc::new(ProstCodec::default()).max_decoding_message_size(MAX_UP_BYTES).streaming(handler, request).await
}

// === sessions ===

async fn open_session(
    control: Shared,
    connection: Connection,
    mut up: Streaming<pb::SessionUp>,
) -> Result<Response<impl Stream<Item = Result<Frame, Status>>>, Status> {
    let node = node_of(&connection)?;
    let first = first_message(&mut up).await?;
    let Some(Up::Hello(hello)) = from_proto::up(first)? else {
        return Err(Status::invalid_argument("a session begins with a hello"));
    };
    let SessionEnds { up_tx, down_rx } = control.connected(node, *hello).await?;
    // What the link itself says: answers to keep-alive, and why it ends.
    let (own_tx, own_rx) = mpsc::channel(2);
    tokio::spawn(async move {
        let end = tokio::select! {
            end = read_session(&mut up, &up_tx, &own_tx) => end,
            () = up_tx.closed() => return,
            () = connection.heard.silent_for(SILENCE) => {
                // Nobody is there to read an answer, and the system would keep the connection for a long time.
                connection.close();
                return;
            }
        };
        if let Err(status) = end {
            tracing::info!(remote = %connection.remote, reason = status.message(), "a session was ended");
            let _ = own_tx.send(Err(status)).await;
        }
    });
    Ok(Response::new(session_frames(own_rx, down_rx)))
}

/// Hands on what the agent says until it ends the session or says something that makes no sense.
async fn read_session(
    up: &mut Streaming<pb::SessionUp>,
    up_tx: &mpsc::Sender<Up>,
    own_tx: &mpsc::Sender<Result<Frame, Status>>,
) -> Result<(), Status> {
    // An error of the stream itself is a lost connection; there is nobody to tell.
    while let Ok(Some(message)) = up.message().await {
        match from_proto::up(message)? {
            None => {}
            Some(Up::Hello(_)) => return Err(Status::invalid_argument("a session has one hello")),
            // A full queue, either way, is a sign of life by itself.
            Some(Up::KeepAlive) => {
                drop(own_tx.try_send(Ok(Frame::new(Down::KeepAlive))));
                drop(up_tx.try_send(Up::KeepAlive));
            }
            Some(up) => match up_tx.send(up).await {
                Ok(()) => {}
                Err(_) => return Ok(()),
            },
        }
    }
    Ok(())
}

/// Control's frames and the link's own, until control or the reader ends the session.
fn session_frames(
    own_rx: mpsc::Receiver<Result<Frame, Status>>,
    down_rx: mpsc::Receiver<Frame>,
) -> impl Stream<Item = Result<Frame, Status>> {
    stream::unfold(Some((own_rx, down_rx)), |ends| async {
        let (mut own_rx, mut down_rx) = ends?;
        // Both receive without loss when dropped.
        let frame = tokio::select! {
            frame = own_rx.recv() => frame?,
            frame = down_rx.recv() => Ok(frame?),
        };
        let ends = frame.is_ok().then_some((own_rx, down_rx));
        Some((frame, ends))
    })
}

// === tunnels ===

async fn open_tunnel(
    control: Shared,
    connection: Connection,
    mut up: Streaming<pb::TunnelUp>,
) -> Result<Response<impl Stream<Item = Result<pb::TunnelDown, Status>>>, Status> {
    let node = node_of(&connection)?;
    let first = first_message(&mut up).await?;
    let Some(TunnelUp::Hello(id)) = from_proto::tunnel_up(first)? else {
        return Err(Status::invalid_argument("a tunnel begins with a hello"));
    };
    let TunnelEnds { up_tx, down_rx } = control.tunnel(node, id).await?;
    tokio::spawn(async move {
        tokio::select! {
            () = read_tunnel(&mut up, &up_tx) => {}
            () = up_tx.closed() => {}
            () = connection.heard.silent_for(SILENCE) => {
                connection.close();
                let _ = up_tx.send(TunnelUp::End(Err(lost()))).await;
            }
        }
    });
    Ok(Response::new(ReceiverStream::new(down_rx).map(|down| Ok(to_proto::tunnel_down(down)))))
}

/// Hands on what comes through a tunnel; says so if it breaks off.
async fn read_tunnel(up: &mut Streaming<pb::TunnelUp>, up_tx: &mpsc::Sender<TunnelUp>) {
    loop {
        let said = match up.message().await.map(|message| message.map(from_proto::tunnel_up)) {
            Ok(Some(Ok(Some(TunnelUp::Hello(_)) | None))) => continue,
            Ok(Some(Ok(Some(said)))) => said,
            Ok(Some(Err(malformed))) => {
                TunnelUp::End(Err(TunnelFailure { code: 502, message: Chain(&malformed).to_string() }))
            }
            Ok(None) | Err(_) => TunnelUp::End(Err(lost())),
        };
        let last = matches!(said, TunnelUp::End(_));
        if up_tx.send(said).await.is_err() || last {
            return;
        }
    }
}

fn lost() -> TunnelFailure {
    TunnelFailure { code: 502, message: "the connection to the node was lost".to_owned() }
}

// === who calls ===

async fn first_message<M>(up: &mut Streaming<M>) -> Result<M, Status> {
    match tokio::time::timeout(HELLO_WITHIN, up.message()).await {
        Ok(message) => message?.ok_or_else(|| Status::invalid_argument("a hello was expected")),
        Err(_) => Err(Status::deadline_exceeded("a hello was expected")),
    }
}

/// The node that calls, by a certificate that holds now.
fn node_of(connection: &Connection) -> Result<NodeIdentity, Status> {
    let node = connection.shown.as_deref().and_then(tls::Identity::node).ok_or_else(not_a_node)?;
    if connection.identity().is_none() {
        return Err(Status::unauthenticated("the node's certificate has expired; renew it"));
    }
    Ok(node)
}

fn not_a_node() -> Status {
    Status::unauthenticated("a node's certificate is needed; enrol with a join token")
}
