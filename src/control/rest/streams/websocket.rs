//! `exec` and `attach` over WebSocket: a channel for each of a process's streams.
//!
//! Source: kubernetes v1.36, `k8s.io/kubelet/pkg/cri/streaming/remotecommand/websocket.go`; KEP-4006.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, future, stream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::protocol::{Sizes, channel};
use super::relay::{ToClient, relay};
use super::{CLIENT_WITHIN, Io, Protocol, status};
use crate::control::streams::NodeStream;
use crate::model::Stdio;

/// What one message may come to, as upstream.
const MESSAGE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// What is read, or gathered for a write, at once.
const BUFFER_BYTES: usize = 32 * 1024;

/// A client's end of a WebSocket.
pub(super) type Socket = WebSocketStream<Io>;

/// Speaks WebSocket on a connection that was asked for it.
pub(super) async fn accept(io: Io) -> Socket {
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(BUFFER_BYTES)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

/// The bytes of a message, text or not; none for those that only concern the connection.
pub(super) fn content(message: Message) -> Option<Bytes> {
    match message {
        Message::Binary(bytes) => Some(bytes),
        Message::Text(text) => Some(text.into()),
        Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => None,
    }
}

/// Whether the other side goes on after what came of it.
pub(super) fn goes_on(message: &Result<Message, Error>) -> bool {
    message.as_ref().is_ok_and(|message| !matches!(message, Message::Close(_)))
}

/// Says goodbye, and lets the client say so, too, before the connection is closed.
pub(super) async fn close(mut socket: Socket) {
    let closing = async {
        let _ = socket.close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() })).await;
        while socket.next().await.is_some_and(|message| message.is_ok()) {}
    };
    let _ = tokio::time::timeout(CLIENT_WITHIN, closing).await;
}

/// Carries a process's streams to its end, or until the client leaves.
pub(super) async fn serve(io: Io, protocol: &'static Protocol, stdio: Stdio, node: NodeStream) {
    let mut socket = accept(io).await;
    // An empty message tells that the process is there, before it says anything.
    let first = if stdio.stdout { channel::STDOUT } else { channel::STDERR };
    if socket.send(protocol.message(first, b"")).await.is_err() {
        return;
    }
    let (mut to, from) = socket.split();
    let mut sizes = Sizes::default();
    let mut from = from.take_while(|message| future::ready(goes_on(message)));
    let said = from.by_ref().filter_map(|message| {
        let content = message.ok().and_then(content);
        future::ready(content.and_then(|content| protocol.read(&content, &mut sizes)))
    });
    let told = (&mut to).with_flat_map(|told| stream::iter(message(protocol, told).map(Ok::<_, Error>)));
    relay(said, told, node).await;
    if let Ok(socket) = to.reunite(from.into_inner()) {
        close(socket).await;
    }
}

/// What is sent; nothing where there is nothing to say.
fn message(protocol: &Protocol, told: ToClient) -> Option<Message> {
    match told {
        ToClient::Output(data) => Some(protocol.message(channel::STDOUT, &data)),
        ToClient::Error(data) => Some(protocol.message(channel::STDERR, &data)),
        // `kubectl` gives its pings a minute to be answered, and they wait behind input that a process does not read.
        ToClient::Alive => Some(Message::Pong(Bytes::new())),
        ToClient::End(end) => {
            let last = status::last_message(protocol, &end)?;
            Some(protocol.message(channel::ERROR, last.as_bytes()))
        }
    }
}
