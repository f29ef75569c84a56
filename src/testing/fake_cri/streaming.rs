//! The fake's streaming server: real HTTP on a loopback port, with processes that are played by the test.

use std::convert::Infallible;
use std::net::Ipv4Addr;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::spdy::{Connection, Stream};

/// A process that somebody holds, from its own side.
#[derive(Debug)]
pub struct HeldProcess {
    /// What the URL that was given for it ends in: CRI's method.
    pub method: String,
    /// Without it everything is cut off.
    pub connection: Connection,
    streams: Vec<Stream>,
}

impl HeldProcess {
    /// Takes a stream by its type: `stdin`, `stdout`, `stderr`, `resize`, `error`. None if the client has not opened it.
    pub fn take(&mut self, kind: &str) -> Option<Stream> {
        let index = self.streams.iter().position(|stream| stream.header("streamtype") == Some(kind))?;
        Some(self.streams.swap_remove(index))
    }
}

/// Where the server is, and the streams each process is opened with.
#[derive(Debug, Clone)]
pub(super) struct Streaming {
    pub(super) address: String,
}

/// Starts a server. A process is given once the client has opened as many streams as its URL says.
pub(super) async fn serve() -> (Streaming, mpsc::Receiver<HeldProcess>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (held_tx, held_rx) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let held_tx = held_tx.clone();
            let service = service_fn(move |request| {
                let answer = answer(request, held_tx.clone());
                async { Ok::<_, Infallible>(answer) }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades());
        }
    });
    (Streaming { address }, held_rx)
}

fn answer(mut request: Request<Incoming>, held_tx: mpsc::Sender<HeldProcess>) -> Response<Full<Bytes>> {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let version = header("x-stream-protocol-version");
    if header("upgrade").as_deref() != Some("SPDY/3.1") || version.as_deref() != Some("v4.channel.k8s.io") {
        let mut refusal = Response::new(Full::from("unable to upgrade"));
        *refusal.status_mut() = StatusCode::BAD_REQUEST;
        return refusal;
    }
    let path = request.uri().path().to_owned();
    let (method, count) = path.trim_start_matches('/').split_once('/').unwrap();
    let (method, count) = (method.to_owned(), count.parse().unwrap());
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut connection = Connection::serve(TokioIo::new(upgrade.await.unwrap()));
        let mut streams = Vec::new();
        while streams.len() < count
            && let Some(stream) = connection.accept().await
        {
            streams.push(stream);
        }
        let _ = held_tx.send(HeldProcess { method, connection, streams }).await;
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header("connection", "Upgrade")
        .header("upgrade", "SPDY/3.1")
        .header("x-stream-protocol-version", "v4.channel.k8s.io")
        .body(Full::default())
        .unwrap()
}
