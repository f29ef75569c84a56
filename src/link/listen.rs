//! Control's door: takes TLS connections and serves one router on them, HTTP/1.1 or HTTP/2 as the client prefers.
//!
//! Each request carries a [`Connection`] as an extension: who is at the other end. Whether somebody may do what they
//! ask is decided behind the door.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use jiff::Timestamp;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use super::heard::{Heard, Noted};
use super::tls::Identity;
use super::{TUNNEL_WINDOW_BYTES, TUNNELS_WINDOW_BYTES};

/// What a TLS handshake may take.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(15);
/// How many handshakes go on at once. They are what a reconnecting fleet costs most; the rest waits in the backlog.
const HANDSHAKES_AT_ONCE: usize = 256;
/// What the headers of an HTTP/1.1 request may take.
const HEADERS_WITHIN: Duration = Duration::from_secs(30);
/// How long requests get to end when the door closes; watches and sessions never end by themselves.
const DRAIN_WITHIN: Duration = Duration::from_secs(2);
/// Pause after a failure to accept, such as too many open files, which would otherwise come at once again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// HTTP/1.1: what the head of a request may have.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// HTTP/2: what is buffered for one stream to send.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// Who is at the other end of the connection a request came on.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Their address.
    pub remote: SocketAddr,
    /// What their certificate says; none if they showed none. It may have expired.
    pub shown: Option<Arc<Identity>>,
    pub(super) heard: Heard,
    closing: Arc<Notify>,
}

impl Connection {
    /// What their certificate says, if it holds now.
    pub fn identity(&self) -> Option<&Identity> {
        self.shown.as_deref().filter(|identity| !identity.is_expired(Timestamp::now()))
    }

    /// Cuts the connection off, with all its streams.
    pub fn close(&self) {
        self.closing.notify_one();
    }
}

/// Serves until `stop`, then lets requests end for a moment.
pub async fn serve(listener: TcpListener, tls: Arc<ServerConfig>, router: Router, stop: impl Future<Output = ()>) {
    let acceptor = TlsAcceptor::from(tls);
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_AT_ONCE));
    let graceful = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        // Both waits may be dropped without loss: a permit goes back, a connection stays in the backlog.
        let accepted = tokio::select! {
            () = &mut stop => break,
            accepted = accept(&listener, &handshakes) => accepted,
        };
        let (stream, remote, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (acceptor, router, watcher) = (acceptor.clone(), router.clone(), graceful.watcher());
        tokio::spawn(async move {
            let handshake = tokio::time::timeout(HANDSHAKE_WITHIN, handshake(stream, remote, &acceptor)).await;
            drop(permit);
            match handshake.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok((stream, connection)) => {
                    acknowledge(&stream.get_ref().0.io, remote);
                    serve_connection(stream, connection, router, Some(watcher)).await;
                }
                Err(error) => tracing::debug!(%remote, %error, "a TLS handshake failed"),
            }
        });
    }
    if tokio::time::timeout(DRAIN_WITHIN, graceful.shutdown()).await.is_err() {
        tracing::debug!("requests were still going on when the door closed");
    }
}

async fn accept(
    listener: &TcpListener,
    handshakes: &Arc<Semaphore>,
) -> io::Result<(tokio::net::TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let permit = handshakes.clone().acquire_owned().await.expect("the semaphore is never closed");
    let (stream, remote) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, remote, permit))
}

/// Has the client hear at once that its half of the handshake has come. Nothing else answers it, and a client that gathers what it
/// sends (Nagle) would keep its first request until the kernel has it acknowledged by itself, 40 ms later.
fn acknowledge(stream: &tokio::net::TcpStream, remote: SocketAddr) {
    if let Err(error) = stream.set_quickack(true) {
        tracing::debug!(%remote, %error, "the first request may come late");
    }
}

/// Shakes hands and reads the certificate that was shown.
pub(super) async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    io: S,
    remote: SocketAddr,
    acceptor: &TlsAcceptor,
) -> io::Result<(tokio_rustls::server::TlsStream<Noted<S>>, Connection)> {
    let heard = Heard::now();
    let stream = acceptor.accept(Noted { io, heard: heard.clone() }).await?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let shown = certificate.map(|der| Identity::of(der)).transpose().map_err(io::Error::other)?.map(Arc::new);
    Ok((stream, Connection { remote, shown, heard, closing: Arc::default() }))
}

/// Serves one connection to its end.
pub(super) async fn serve_connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    connection: Connection,
    router: Router,
    watcher: Option<Watcher>,
) {
    let Connection { remote, closing, .. } = connection.clone();
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(connection.clone());
        let router = router.clone();
        async move { Ok::<_, Infallible>(router.oneshot(request).await.unwrap_or_else(|never| match never {})) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS_WITHIN).max_buf_size(MAX_HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(TUNNEL_WINDOW_BYTES)
        .initial_connection_window_size(TUNNELS_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES);
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
    let serving = async {
        match watcher {
            Some(watcher) => watcher.watch(serving).await,
            None => serving.await,
        }
    };
    tokio::select! {
        result = serving => {
            if let Err(error) = result {
                tracing::debug!(%remote, %error, "a connection broke");
            }
        }
        () = closing.notified() => {}
    }
}
