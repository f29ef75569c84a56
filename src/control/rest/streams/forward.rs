//! `portforward` as `kubectl` does it: SPDY/3.1, on the connection itself or inside a WebSocket.
//!
//! For each connection to its local port the client opens two streams with the same `requestid`: `data`, and `error` for
//! what the node has to complain of. Each becomes a connection on the node, on its own from there on.
//!
//! Source: kubernetes v1.36, `k8s.io/kubelet/pkg/cri/streaming/portforward/httpstream.go`,
//! `k8s.io/apimachinery/pkg/util/portforward/constants.go`; KEP-4006.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::BytesMut;
use futures_util::{SinkExt, StreamExt, future};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use super::websocket::{self, content, goes_on};
use super::{IDLE, Io};
use crate::control::streams::{NodeStream, NodeStreams, Piece, StreamError, TunnelDown, TunnelKind};
use crate::link::heard::Heard;
use crate::link::pieces;
use crate::model::{NodeName, PodKey};
use crate::spdy::{Connection, Stream};

/// How many streams may wait for their other half.
const HALVES_MAX: usize = 64;
/// What may wait between a WebSocket and the frames inside it.
const PIPE_BYTES: usize = 64 * 1024;

/// What connections to a pod are opened with.
#[derive(Clone)]
pub(super) struct Forwards {
    pub(super) streams: Arc<dyn NodeStreams>,
    pub(super) node: NodeName,
    pub(super) pod: PodKey,
}

impl Forwards {
    /// Opens a connection to a port of the pod.
    pub(super) async fn open(&self, port: u16) -> Result<NodeStream, StreamError> {
        self.streams.open(&self.node, &self.pod, TunnelKind::PortForward(port)).await
    }

    /// What the client is told of a connection that failed.
    pub(super) fn complaint(&self, port: u16, error: &StreamError) -> String {
        let PodKey { name, uid, .. } = &self.pod;
        format!("error forwarding port {port} to pod {name}, uid {uid}: {error}")
    }
}

/// A client's two streams for one connection.
#[derive(Debug)]
struct Pair {
    port: u16,
    data: Stream,
    error: Stream,
}

/// Streams that wait for their other half.
#[derive(Debug, Default)]
struct Halves(HashMap<String, Stream>);

impl Halves {
    /// Takes a stream; gives the pair it completes. One that makes no sense is given back.
    fn add(&mut self, stream: Stream) -> Result<Option<Pair>, Stream> {
        let port = stream.header("port").and_then(|port| port.parse().ok()).filter(|port| *port > 0);
        let is_error = match stream.header("streamtype") {
            Some("error") => true,
            Some("data") => false,
            _ => return Err(stream),
        };
        // The oldest clients give no id, and open the two one after the other, `error` first.
        let first = if is_error { stream.id } else { stream.id.saturating_sub(2) };
        let id = stream.header("requestid").map_or_else(|| first.to_string(), str::to_owned);
        let Some(port) = port else { return Err(stream) };
        match self.0.remove(&id) {
            Some(other) if (other.header("streamtype") == Some("error")) == is_error => {
                self.0.insert(id, other);
                Err(stream)
            }
            Some(error) if !is_error => Ok(Some(Pair { port, data: stream, error })),
            Some(data) => Ok(Some(Pair { port, data, error: stream })),
            None if self.0.len() >= HALVES_MAX => Err(stream),
            None => {
                self.0.insert(id, stream);
                Ok(None)
            }
        }
    }
}

/// Carries connections until the client leaves.
pub(super) async fn serve(io: impl AsyncRead + AsyncWrite + Send + 'static, forwards: Forwards) {
    let mut connection = Connection::serve(io);
    let (mut halves, mut open, heard) = (Halves::default(), JoinSet::new(), Heard::now());
    loop {
        // Every arm only waits, or takes one whole item.
        let stream = tokio::select! {
            stream = connection.accept() => stream,
            Some(_) = open.join_next() => continue,
            () = heard.silent_for(IDLE) => break,
        };
        let Some(stream) = stream else { return };
        match halves.add(stream) {
            Ok(Some(pair)) => drop(open.spawn(forward(pair, forwards.clone(), heard.clone()))),
            Ok(None) => {}
            Err(stream) => stream.writer.reset().await,
        }
    }
    connection.close().await;
}

/// Carries one connection to its end.
async fn forward(pair: Pair, forwards: Forwards, heard: Heard) {
    let Pair { port, mut data, error } = pair;
    let carried = async {
        let node = forwards.open(port).await?;
        carry(&mut data, node, &heard).await
    };
    if let Err(failure) = carried.await {
        let _ = error.writer.send(forwards.complaint(port, &failure).into()).await;
    }
    // In this order: the client looks at errors when the data has ended.
    data.writer.finish().await;
    error.writer.finish().await;
}

/// Carries bytes until the node's side has ended, or the client has cut it off.
async fn carry(data: &mut Stream, node: NodeStream, heard: &Heard) -> Result<(), StreamError> {
    let NodeStream { input, mut output } = node;
    let Stream { reader, writer, .. } = data;
    let up = async {
        while let Some(piece) = reader.recv().await {
            let Ok(bytes) = piece else { return };
            heard.note();
            for piece in pieces(bytes) {
                let _ = input.send(TunnelDown::Data(piece)).await;
            }
        }
        let _ = input.send(TunnelDown::Close).await;
        future::pending::<()>().await;
    };
    let down = async {
        while let Some(piece) = output.next().await {
            heard.note();
            match piece? {
                Piece::Data(_, data) => {
                    if writer.send(data).await.is_err() {
                        break;
                    }
                }
                Piece::End(_) => break,
            }
        }
        Ok(())
    };
    tokio::select! {
        end = down => end,
        () = up => Ok(()),
    }
}

/// The same inside a WebSocket, whose messages are nothing but the next bytes.
pub(super) async fn serve_inside(io: Io, forwards: Forwards) {
    let (mut to, from) = websocket::accept(io).await.split();
    let (near, far) = tokio::io::duplex(PIPE_BYTES);
    let (mut read, mut write) = tokio::io::split(near);
    let inward = async {
        let mut from = std::pin::pin!(from.take_while(|message| future::ready(goes_on(message))));
        while let Some(Ok(message)) = from.next().await {
            if let Some(bytes) = content(message)
                && write.write_all(&bytes).await.is_err()
            {
                return;
            }
        }
    };
    let outward = async {
        let mut buffer = BytesMut::with_capacity(PIPE_BYTES);
        while read.read_buf(&mut buffer).await.is_ok_and(|count| count > 0) {
            if to.send(Message::Binary(buffer.split().freeze())).await.is_err() {
                return;
            }
            buffer.reserve(PIPE_BYTES);
        }
    };
    // The end of any of them is that of the connection.
    tokio::select! {
        () = serve(far, forwards) => {}
        () = inward => {}
        () = outward => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Streams as a client opens them, by their headers.
    async fn opened(headers: &[&[(&str, &str)]]) -> Vec<Stream> {
        let own = |pairs: &&[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let (_client, _opened) = Connection::open(near, headers.iter().map(own).collect());
        let mut server = Connection::serve(far);
        let mut streams = Vec::new();
        for _ in headers {
            streams.push(server.accept().await.unwrap());
        }
        streams
    }

    /// What becomes of each stream: which port a pair is for, whether it waits (0), or is refused.
    async fn added(headers: &[&[(&str, &str)]]) -> Vec<Option<u16>> {
        let mut halves = Halves::default();
        let streams = opened(headers).await.into_iter();
        streams.map(|stream| halves.add(stream).ok().map(|pair| pair.map_or(0, |pair| pair.port))).collect()
    }

    #[tokio::test]
    async fn two_streams_of_one_request_are_a_pair() {
        let [error, data] = ["error", "data"].map(|kind| ("streamtype", kind));
        let [first, second] = ["0", "1"].map(|id| ("requestid", id));
        let port = ("port", "80");
        let interleaved: [&[_]; 4] = [
            &[error, port, first],
            &[error, ("port", "81"), second],
            &[data, port, first],
            &[data, ("port", "81"), second],
        ];
        assert_eq!(added(&interleaved).await, [Some(0), Some(0), Some(80), Some(81)]);
        assert_eq!(added(&[&[data, port, first], &[error, port, first]]).await, [Some(0), Some(80)]);
        // The oldest clients.
        assert_eq!(added(&[&[error, port], &[data, port]]).await, [Some(0), Some(80)]);
        // What makes no sense.
        assert_eq!(
            added(&[&[data, port, first], &[data, port, first], &[error, port, first]]).await,
            [Some(0), None, Some(80)]
        );
        for bad in [&[error, first][..], &[error, ("port", "0")], &[error, ("port", "70000")], &[port, first]] {
            assert_eq!(added(&[bad]).await, [None], "{bad:?}");
        }
    }
}
