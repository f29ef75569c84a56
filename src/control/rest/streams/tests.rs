//! Streams over a connection in memory: a real HTTP server, the clients' protocols, and a node played by the test.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, SinkExt, StreamExt};
use http::Request as HttpRequest;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;
use crate::control::rbac::{MASTERS, User};
use crate::control::rest::tests::Harness;
use crate::control::streams::{NodeStream, NodeStreams, Piece, TunnelDown, TunnelStream};
use crate::model::{Measure, TerminalSize, Usage};
use crate::spdy::{Connection, Headers, Reset, Stream};
use crate::testing::wait::eventually;

/// Longer than anything here takes; reached only by a test that fails.
const SOON: Duration = Duration::from_secs(20);

/// What a node was asked for, with the means to answer.
struct Asked {
    kind: TunnelKind,
    input_rx: mpsc::Receiver<TunnelDown>,
    output_tx: mpsc::Sender<Result<Piece, StreamError>>,
}

/// A node that gives whatever is asked for, but port 1.
struct Node {
    asked_tx: mpsc::UnboundedSender<Asked>,
}

impl NodeStreams for Node {
    fn open<'a>(
        &'a self,
        node: &'a NodeName,
        pod: &'a PodKey,
        kind: TunnelKind,
    ) -> BoxFuture<'a, Result<NodeStream, StreamError>> {
        assert_eq!((node.as_str(), pod.name.as_str()), ("one", "p"));
        let refused = match &kind {
            TunnelKind::PortForward(1) => Some((500, "failed to connect to localhost:1")),
            TunnelKind::Exec(exec) if exec.container == "gone" => Some((404, "the pod is not on this node any more")),
            _ => None,
        };
        let (input, input_rx) = mpsc::channel(4);
        let (output_tx, output_rx) = mpsc::channel(4);
        self.asked_tx.send(Asked { kind, input_rx, output_tx }).unwrap();
        async move {
            match refused {
                Some((code, message)) => Err(StreamError::Refused { code, message: message.to_owned() }),
                None => Ok(NodeStream { input, output: ReceiverStream::new(output_rx).boxed() }),
            }
        }
        .boxed()
    }

    fn measure<'a>(&'a self, node: &'a NodeName, _: Measure) -> BoxFuture<'a, Result<Usage, StreamError>> {
        async { Err(StreamError::NotConnected(node.clone())) }.boxed()
    }
}

impl Asked {
    async fn input(&mut self) -> Option<TunnelDown> {
        soon(self.input_rx.recv()).await
    }

    async fn says(&self, stream: TunnelStream, text: &'static str) {
        self.output_tx.send(Ok(Piece::Data(stream, Bytes::from_static(text.as_bytes())))).await.unwrap();
    }

    async fn ends(self, end: Result<i32, StreamError>) {
        self.output_tx.send(end.map(Piece::End)).await.unwrap();
    }

    /// The user has left: nobody listens to the node any more.
    async fn hears_of_the_users_leaving(mut self) {
        soon(self.output_tx.closed()).await;
        while self.input().await.is_some() {}
    }
}

struct Api {
    harness: Harness,
    asked_rx: mpsc::UnboundedReceiver<Asked>,
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(SOON, future).await.expect("it happens soon")
}

const WEBSOCKET: [(&str, &str); 3] =
    [("upgrade", "websocket"), ("sec-websocket-version", "13"), ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")];

impl Api {
    /// With a pod `p` on the node `one` that has these containers.
    async fn new(containers: &[&str]) -> Self {
        let (asked_tx, asked_rx) = mpsc::unbounded_channel();
        let harness = Harness::with(Arc::new(Node { asked_tx })).await;
        let containers: Vec<_> = containers.iter().map(|name| json!({"name": name, "image": "i"})).collect();
        let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "one", "containers": containers}});
        harness.objects.report(&POD, "default", "p", |_| Some(pod.clone())).await.unwrap();
        Self { harness, asked_rx }
    }

    async fn asked(&mut self) -> Asked {
        soon(self.asked_rx.recv()).await.unwrap()
    }

    /// Asks for a part of the pod with these headers; gives the answer.
    async fn ask(&self, method: &str, part: &str, headers: &[(&str, &str)]) -> http::Response<hyper::body::Incoming> {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let user = User { name: "admin".to_owned(), groups: vec![MASTERS.to_owned()], ..User::default() };
        let service = TowerToHyperService::new(self.harness.router.clone().layer(Extension(user)));
        let server = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), service);
        tokio::spawn(server.with_upgrades());
        let (mut sender, connection) = http1::handshake(TokioIo::new(near)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        let path = format!("/api/v1/namespaces/default/pods/p/{part}");
        let mut request = HttpRequest::builder().method(method).uri(path).header("host", "control");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        soon(sender.send_request(request.body(Empty::<Bytes>::new()).unwrap())).await.unwrap()
    }

    /// Status and message of a request that is refused.
    async fn refusal(&self, method: &str, part: &str, headers: &[(&str, &str)]) -> (u16, String) {
        let response = self.ask(method, part, headers).await;
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let status: Value = serde_json::from_slice(&body).unwrap();
        let code = u16::try_from(status["code"].as_u64().unwrap()).unwrap();
        (code, status["message"].as_str().unwrap().to_owned())
    }

    async fn upgraded(&self, method: &str, part: &str, headers: &[(&str, &str)]) -> Io {
        let headers = [&[("connection", "Upgrade")], headers].concat();
        let response = self.ask(method, part, &headers).await;
        assert_eq!(response.status(), 101);
        TokioIo::new(soon(hyper::upgrade::on(response)).await.unwrap())
    }

    async fn websocket(&self, part: &str, protocol: &str) -> WebSocketStream<Io> {
        let headers = [&WEBSOCKET[..], &[("sec-websocket-protocol", protocol)]].concat();
        WebSocketStream::from_raw_socket(self.upgraded("GET", part, &headers).await, Role::Client, None).await
    }

    async fn spdy(&self, part: &str, protocol: &str, streams: &[&[(&str, &str)]]) -> (Connection, Vec<Stream>) {
        let headers = [("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", protocol)];
        Connection::open(self.upgraded("POST", part, &headers).await, streams.iter().map(|pairs| own(pairs)).collect())
    }
}

fn own(pairs: &[(&str, &str)]) -> Headers {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// All that comes on a stream until it ends.
async fn all(stream: &mut Stream) -> Result<String, Reset> {
    let mut bytes = Vec::new();
    while let Some(piece) = soon(stream.reader.recv()).await {
        bytes.extend(piece?);
    }
    Ok(String::from_utf8(bytes).unwrap())
}

/// The next message that says something.
async fn message(socket: &mut WebSocketStream<Io>) -> Vec<u8> {
    loop {
        match soon(socket.next()).await.unwrap().unwrap() {
            Message::Pong(_) => {}
            Message::Binary(bytes) => return bytes.to_vec(),
            Message::Text(text) => return text.as_bytes().to_vec(),
            other => panic!("{other:?}"),
        }
    }
}

fn input(text: &'static str) -> Option<TunnelDown> {
    Some(TunnelDown::Data(Bytes::from_static(text.as_bytes())))
}

const SIZE: TerminalSize = TerminalSize { width: 80, height: 24 };

#[tokio::test]
async fn a_command_is_held_over_a_websocket() {
    let mut api = Api::new(&["main"]).await;
    let part = "exec?command=sh&command=-c&command=x+y&stdin=true&stdout=true&stderr=true&container=main";
    let mut socket = api.websocket(part, "v5.channel.k8s.io").await;
    let mut node = api.asked().await;
    let stdio = Stdio { stdin: true, stdout: true, stderr: true, tty: false };
    let command = ["sh", "-c", "x y"].map(str::to_owned).to_vec();
    assert_eq!(node.kind, TunnelKind::Exec(ExecOptions { container: "main".into(), command, stdio }));
    assert_eq!(message(&mut socket).await, b"\x01");

    socket.send(Message::binary(&b"\x00typed"[..])).await.unwrap();
    socket.send(Message::binary(&b"\x04{\"Width\":80,\"Height\":24}\n"[..])).await.unwrap();
    socket.send(Message::binary(&b"\xff\x00"[..])).await.unwrap();
    assert_eq!(node.input().await, input("typed"));
    assert_eq!(node.input().await, Some(TunnelDown::Resize(SIZE)));
    assert_eq!(node.input().await, Some(TunnelDown::Close));

    // The other way goes on.
    node.says(TunnelStream::Output, "out").await;
    node.says(TunnelStream::Error, "err").await;
    assert_eq!(message(&mut socket).await, b"\x01out");
    assert_eq!(message(&mut socket).await, b"\x02err");
    node.ends(Ok(3)).await;
    let last = message(&mut socket).await;
    assert_eq!(last[0], 3);
    let status: Value = serde_json::from_slice(&last[1..]).unwrap();
    assert_eq!(status["details"]["causes"], json!([{"reason": "ExitCode", "message": "3"}]));
    let Some(Ok(Message::Close(Some(close)))) = soon(socket.next()).await else { panic!("a close was expected") };
    assert_eq!(u16::from(close.code), 1000);
    assert!(soon(socket.next()).await.is_none());
}

#[tokio::test]
async fn a_terminal_is_held_over_spdy() {
    let mut api = Api::new(&["main"]).await;
    let kinds = ["error", "stdin", "stdout", "resize"].map(|kind| [("streamtype", kind)]);
    let streams = kinds.each_ref().map(|headers| &headers[..]);
    let part = "attach?stdin=true&stdout=true&stderr=true&tty=true";
    let (client, mut streams) = api.spdy(part, "v4.channel.k8s.io", &streams).await;
    let mut node = api.asked().await;
    let stdio = Stdio { stdin: true, stdout: true, stderr: false, tty: true };
    assert_eq!(node.kind, TunnelKind::Attach(AttachOptions { container: "main".into(), stdio }));

    let (resize, mut stdout, stdin, mut error) =
        (streams.pop().unwrap(), streams.pop().unwrap(), streams.pop().unwrap(), streams.pop().unwrap());
    resize.writer.send(Bytes::from_static(b"{\"Width\":80,\"Height\":24}\n")).await.unwrap();
    assert_eq!(node.input().await, Some(TunnelDown::Resize(SIZE)));
    stdin.writer.send(Bytes::from_static(b"typed")).await.unwrap();
    assert_eq!(node.input().await, input("typed"));
    stdin.writer.finish().await;
    assert_eq!(node.input().await, Some(TunnelDown::Close));
    node.says(TunnelStream::Output, "out").await;
    node.ends(Ok(0)).await;
    assert_eq!(all(&mut stdout).await, Ok("out".to_owned()));
    let status: Value = serde_json::from_str(&all(&mut error).await.unwrap()).unwrap();
    assert_eq!(status, json!({"metadata": {}, "status": "Success"}));
    drop(client);
}

#[tokio::test]
async fn a_log_is_held_until_it_is_read() {
    let mut api = Api::new(&["main"]).await;
    let mut body = api.ask("GET", "log?follow=true", &[]).await.into_body();
    let mut node = api.asked().await;
    assert!(node.input_rx.try_recv().is_err_and(|error| error == mpsc::error::TryRecvError::Empty));
    node.says(TunnelStream::Main, "one\n").await;
    let frame = soon(body.frame()).await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "one\n");
    drop(body);
    node.hears_of_the_users_leaving().await;
}

#[tokio::test]
async fn old_clients_are_told_of_failures_in_words() {
    let mut api = Api::new(&["main"]).await;
    let part = "exec?command=ls&stdout=true";
    let failure = || Err(StreamError::Refused { code: 500, message: "no such file".to_owned() });
    let (_client, mut streams) =
        api.spdy(part, "v2.channel.k8s.io", &[&[("streamtype", "error")], &[("streamtype", "stdout")]]).await;
    api.asked().await.ends(failure()).await;
    assert_eq!(all(&mut streams[0]).await, Ok("no such file".to_owned()));
    assert_eq!(all(&mut streams[1]).await, Ok(String::new()));

    let mut socket = api.websocket(part, "base64.channel.k8s.io").await;
    assert_eq!(message(&mut socket).await, b"1");
    api.asked().await.ends(failure()).await;
    assert_eq!(message(&mut socket).await, b"3bm8gc3VjaCBmaWxl");
}

#[tokio::test]
async fn a_node_lets_go_when_its_user_leaves() {
    let mut api = Api::new(&["main"]).await;
    let socket = api.websocket("exec?command=sleep&stdin=true&stdout=true", "v4.channel.k8s.io").await;
    let node = api.asked().await;
    drop(socket);
    node.hears_of_the_users_leaving().await;

    let streams: [&[_]; 3] = [&[("streamtype", "error")], &[("streamtype", "stdin")], &[("streamtype", "stdout")]];
    let part = "exec?command=sleep&stdin=true&stdout=true";
    let (client, opened) = api.spdy(part, "v4.channel.k8s.io", &streams).await;
    let node = api.asked().await;
    drop((client, opened));
    node.hears_of_the_users_leaving().await;

    // One that never opens what it asked for.
    let (client, _opened) = api.spdy(part, "v4.channel.k8s.io", &streams[..1]).await;
    let node = api.asked().await;
    drop(client);
    node.hears_of_the_users_leaving().await;

    let (client, opened) =
        api.spdy("portforward", "portforward.k8s.io", &[&pair("error", "80"), &pair("data", "80")]).await;
    let node = api.asked().await;
    drop((client, opened));
    node.hears_of_the_users_leaving().await;
}

fn pair(kind: &'static str, port: &'static str) -> [(&'static str, &'static str); 3] {
    [("streamtype", kind), ("port", port), ("requestid", "0")]
}

/// One connection that goes well and one that does not, by SPDY's streams.
async fn forwards(api: &mut Api, mut streams: Vec<Stream>) {
    let (mut bad_data, mut bad_error) = (streams.pop().unwrap(), streams.pop().unwrap());
    let (mut data, mut error) = (streams.pop().unwrap(), streams.pop().unwrap());
    let (first, second) = (api.asked().await, api.asked().await);
    let mut node = if first.kind == TunnelKind::PortForward(80) { first } else { second };
    data.writer.send(Bytes::from_static(b"request")).await.unwrap();
    assert_eq!(node.input().await, input("request"));
    data.writer.finish().await;
    assert_eq!(node.input().await, Some(TunnelDown::Close));
    node.says(TunnelStream::Main, "answer").await;
    node.ends(Ok(0)).await;
    assert_eq!(soon(data.reader.recv()).await, Some(Ok(Bytes::from_static(b"answer"))));
    assert_eq!(soon(data.reader.recv()).await, None);
    assert_eq!(all(&mut error).await, Ok(String::new()));

    assert_eq!(all(&mut bad_data).await, Ok(String::new()));
    let complaint = all(&mut bad_error).await.unwrap();
    assert!(complaint.starts_with("error forwarding port 1 to pod p, uid "), "{complaint}");
    assert!(complaint.ends_with(": failed to connect to localhost:1"), "{complaint}");
}

fn two_pairs() -> Vec<Headers> {
    let of = |kind, port, id| own(&[("streamtype", kind), ("port", port), ("requestid", id)]);
    vec![of("error", "80", "0"), of("data", "80", "0"), of("error", "1", "1"), of("data", "1", "1")]
}

#[tokio::test]
async fn ports_are_forwarded_over_spdy() {
    let mut api = Api::new(&["main", "side"]).await;
    let headers = [("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", "portforward.k8s.io")];
    let io = api.upgraded("POST", "portforward", &headers).await;
    let (_client, streams) = Connection::open(io, two_pairs());
    forwards(&mut api, streams).await;
}

#[tokio::test]
async fn ports_are_forwarded_over_spdy_inside_a_websocket() {
    let mut api = Api::new(&["main"]).await;
    let socket = api.websocket("portforward", "SPDY/3.1+portforward.k8s.io").await;
    let (near, far) = tokio::io::duplex(64 * 1024);
    tokio::spawn(pump(socket, near));
    let (_client, streams) = Connection::open(far, two_pairs());
    forwards(&mut api, streams).await;
}

/// A client's side of frames inside a WebSocket, cut into messages at random places.
async fn pump(socket: WebSocketStream<Io>, io: tokio::io::DuplexStream) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (mut read, mut write) = tokio::io::split(io);
    let (mut to, mut from) = socket.split();
    let outward = async {
        let mut buffer = [0; 7];
        while let Ok(count @ 1..) = read.read(&mut buffer).await {
            to.send(Message::binary(buffer[..count].to_vec())).await.unwrap();
        }
    };
    let inward = async {
        while let Some(Ok(message)) = from.next().await {
            write.write_all(&message.into_data()).await.unwrap();
        }
    };
    tokio::join!(outward, inward);
}

#[tokio::test]
async fn a_forwarded_connection_that_is_cut_off_is_let_go_of() {
    let mut api = Api::new(&["main"]).await;
    let (_client, mut streams) =
        api.spdy("portforward", "portforward.k8s.io", &[&pair("error", "80"), &pair("data", "80")]).await;
    let node = api.asked().await;
    streams.pop().unwrap().writer.reset().await;
    node.hears_of_the_users_leaving().await;
}

#[tokio::test]
async fn ports_are_forwarded_over_a_websocket_alone() {
    let mut api = Api::new(&["main"]).await;
    let mut socket = api.websocket("portforward?ports=80,1", "v4.channel.k8s.io").await;
    let (mut node, _refused) = (api.asked().await, api.asked().await);
    assert_eq!(node.kind, TunnelKind::PortForward(80));
    let mut messages = Vec::new();
    for _ in 0..5 {
        messages.push(message(&mut socket).await);
    }
    messages.sort();
    assert_eq!(messages[..3], [b"\x00\x50\x00".to_vec(), b"\x01\x50\x00".to_vec(), b"\x02\x01\x00".to_vec()]);
    assert_eq!(messages[3], b"\x03\x01\x00");
    assert!(messages[4].starts_with(b"\x03error forwarding port 1 to pod p"), "{messages:?}");

    socket.send(Message::binary(&b"\x00request"[..])).await.unwrap();
    assert_eq!(node.input().await, input("request"));
    node.says(TunnelStream::Main, "answer").await;
    assert_eq!(message(&mut socket).await, b"\x00answer");
    node.ends(Ok(0)).await;
    assert!(matches!(soon(socket.next()).await, Some(Ok(Message::Close(_)))));
}

#[tokio::test]
async fn what_is_in_the_way_is_a_status_before_the_connection_changes() {
    let mut api = Api::new(&["main", "gone"]).await;
    let websocket =
        |protocol| [&[("connection", "upgrade")][..], &WEBSOCKET, &[("sec-websocket-protocol", protocol)]].concat();
    let v5 = websocket("v5.channel.k8s.io");
    for (part, headers, expected) in [
        ("exec?command=ls&stdout=true", vec![], (400, "Upgrade request required")),
        (
            "exec?command=ls&stdout=true",
            v5.clone(),
            (400, "a container name must be specified for pod p, choose one of: [main gone]"),
        ),
        ("exec?command=ls&stdout=true&container=x", v5.clone(), (400, "container x is not valid for pod p")),
        ("exec?command=ls&container=main", v5.clone(), (400, "you must specify at least 1 of stdin, stdout, stderr")),
        ("exec?stdout=true&container=main", v5.clone(), (400, "you must specify a command for the container")),
        ("exec?command=ls&stdout=true&container=gone", v5.clone(), (404, "the pod is not on this node any more")),
        ("portforward", websocket("v4.channel.k8s.io"), (400, "query parameter \"ports\" is required")),
    ] {
        let (code, message) = api.refusal("GET", part, &headers).await;
        assert_eq!((code, message.as_str()), expected, "{part}");
    }
    let (code, message) = api.refusal("GET", "portforward", &v5).await;
    assert_eq!((code, message.contains("unable to negotiate protocol")), (403, true), "{message}");
    let (code, _) = api.refusal("PUT", "exec", &[]).await;
    assert_eq!(code, 405);
    while let Ok(asked) = api.asked_rx.try_recv() {
        assert!(matches!(asked.kind, TunnelKind::Exec(exec) if exec.container == "gone"));
    }
}

#[test]
fn the_only_container_need_not_be_named() {
    let pod = |spec: Value| json!({"metadata": {"name": "p"}, "spec": spec});
    let named = |name: &str| json!({"name": name});
    let with_others = pod(json!({
        "initContainers": [named("init")], "containers": [named("main")], "ephemeralContainers": [named("debugger")],
    }));
    for name in ["main", "init", "debugger"] {
        assert_eq!(container(&with_others, name).unwrap(), name);
    }
    assert_eq!(container(&with_others, "").unwrap(), "main");
    let two = pod(json!({"initContainers": [named("init")], "containers": [named("a"), named("b")]}));
    let refusal = container(&two, "").unwrap_err().to_string();
    assert_eq!(refusal, "a container name must be specified for pod p, choose one of: [init a b]");
}

#[tokio::test]
async fn a_user_holds_only_so_many_streams_at_once_and_may_have_another_when_one_ends() {
    let mut api = Api::new(&["main"]).await;
    let exec = "exec?command=sh&stdout=true";
    let headers =
        [&WEBSOCKET[..], &[("connection", "Upgrade"), ("sec-websocket-protocol", "v5.channel.k8s.io")]].concat();
    let (mut held, mut refusal) = (Vec::new(), None);
    while refusal.is_none() {
        let response = api.ask("GET", exec, &headers).await;
        if response.status() == 101 {
            held.push((response, api.asked().await));
        } else {
            refusal = Some((response.status().as_u16(), response.headers().get("retry-after").cloned()));
        }
        assert!(held.len() < 1000, "there is a bound");
    }
    assert_eq!(refusal, Some((429, Some("1".parse().unwrap()))));
    let (code, message) = api.refusal("GET", exec, &headers).await;
    assert_eq!((code, message.as_str()), (429, "too many requests, please try again later"));

    let (response, node) = held.pop().unwrap();
    drop(response);
    node.hears_of_the_users_leaving().await;
    eventually("another one", async || (api.ask("GET", exec, &headers).await.status() == 101).then_some(())).await;
}
