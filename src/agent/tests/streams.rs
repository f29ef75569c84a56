//! What users hold of pods: processes, connections, logs. Over real sockets, so the clock runs.

use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::link::{
    AttachOptions, CommandId, ExecOptions, LogOptions, OpenTunnel, Outcome, TUNNELS_MAX, TunnelDown, TunnelFailure,
    TunnelKind, TunnelStream, TunnelUp,
};
use crate::model::{Stdio, TerminalSize};
use crate::spdy::{Reset, Stream};
use crate::testing::fake_cri::HeldProcess;

const ALL: Stdio = Stdio { stdin: true, stdout: true, stderr: true, tty: false };

/// The far ends of a tunnel.
struct User(Opening);

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.expect("it happens soon")
}

impl Agent {
    async fn open(&mut self, pod: &Uid, kind: TunnelKind) -> User {
        let tunnel = OpenTunnel { pod: pod.clone(), kind };
        self.down(Down::OpenTunnel { id: CommandId(7), tunnel }).await;
        let Some(Wish::Open(opening)) = soon(self.wishes_rx.recv()).await else { panic!("a tunnel was expected") };
        assert_eq!(opening.id, CommandId(7));
        User(opening)
    }

    async fn exec(&mut self, pod: &Uid, stdio: Stdio) -> User {
        let command = vec!["ls".to_owned(), "-l".to_owned()];
        self.open(pod, TunnelKind::Exec(ExecOptions { container: "main".to_owned(), command, stdio })).await
    }
}

impl User {
    async fn hears(&mut self) -> Option<TunnelUp> {
        soon(self.0.up_rx.recv()).await
    }

    async fn hears_that_it_begins(&mut self) {
        assert_eq!(self.hears().await, Some(TunnelUp::Data(TunnelStream::Main, Bytes::new())));
    }

    async fn hears_data(&mut self, stream: TunnelStream, text: &'static str) {
        assert_eq!(self.hears().await, Some(TunnelUp::Data(stream, text.into())));
    }

    async fn hears_of_failure(&mut self, code: u16, message: &str) {
        let failure = TunnelFailure { code, message: message.to_owned() };
        assert_eq!(self.hears().await, Some(TunnelUp::End(Err(failure))));
    }

    async fn says(&self, down: TunnelDown) {
        self.0.down_tx.send(down).await.unwrap();
    }
}

/// An agent with one pod that runs, as control knows.
async fn running(spec: &Value) -> (Host, Agent, Seen) {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[set_with("web", "one", spec)]).await;
    let pod = host.runs("web", "one").await;
    agent
        .reports("the container to run", "web", |_, status| {
            status["containerStatuses"][0]["state"]["running"].is_object()
        })
        .await;
    (host, agent, pod)
}

async fn said(stream: &mut Stream) -> Option<Result<Bytes, Reset>> {
    soon(stream.reader.recv()).await
}

async fn writes(process: &mut HeldProcess, kind: &str, text: &'static str) {
    let stream = process.take(kind).unwrap();
    stream.writer.send(Bytes::from_static(text.as_bytes())).await.unwrap();
    stream.writer.finish().await;
}

#[tokio::test]
async fn a_command_is_run_and_held_to_its_end() {
    let (host, mut agent, pod) = running(&json!({})).await;
    let mut held_rx = host.cri.play_processes().await;
    let mut user = agent.exec(&pod.uid, ALL).await;
    user.hears_that_it_begins().await;
    let mut process = soon(held_rx.recv()).await.unwrap();
    let asked = host.cri.calls().into_iter().rev().find(|call| call.method == "Exec").unwrap().request;
    assert_eq!(asked["container_id"], pod.running().unwrap().as_str());
    assert_eq!(asked["cmd"], json!(["ls", "-l"]));

    let mut stdin = process.take("stdin").unwrap();
    user.says(TunnelDown::Data("typed".into())).await;
    assert_eq!(said(&mut stdin).await, Some(Ok("typed".into())));
    user.says(TunnelDown::Close).await;
    assert_eq!(said(&mut stdin).await, None);
    // What comes after the end is of no consequence.
    user.says(TunnelDown::Data("late".into())).await;

    writes(&mut process, "stdout", "out").await;
    user.hears_data(TunnelStream::Output, "out").await;
    writes(&mut process, "stderr", "err").await;
    user.hears_data(TunnelStream::Error, "err").await;
    writes(
        &mut process,
        "error",
        r#"{"status":"Failure","reason":"NonZeroExitCode",
        "details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#,
    )
    .await;
    assert_eq!(user.hears().await, Some(TunnelUp::End(Ok(3))));
    assert_eq!(user.hears().await, None);
}

#[tokio::test]
async fn a_terminal_is_joined_as_the_container_has_it() {
    let container =
        json!({ "name": "main", "image": reference("one"), "imagePullPolicy": "IfNotPresent", "tty": true });
    let spec = json!({ "containers": [container] });
    let (host, mut agent, pod) = running(&spec).await;
    let mut held_rx = host.cri.play_processes().await;
    let kind = TunnelKind::Attach(AttachOptions { container: "main".to_owned(), stdio: ALL });
    let mut user = agent.open(&pod.uid, kind).await;
    user.hears_that_it_begins().await;
    let mut process = soon(held_rx.recv()).await.unwrap();
    assert_eq!(process.method, "Attach");
    assert!(process.take("stderr").is_none());
    let mut resize = process.take("resize").unwrap();
    user.says(TunnelDown::Resize(TerminalSize { width: 80, height: 24 })).await;
    assert_eq!(said(&mut resize).await, Some(Ok(r#"{"Height":24,"Width":80}"#.into())));

    // The user leaves: the process is let go.
    drop(user);
    assert_eq!(said(&mut process.take("stdin").unwrap()).await, Some(Err(Reset)));
}

#[tokio::test]
async fn a_process_that_does_not_read_is_let_go_when_its_user_leaves() {
    let (host, mut agent, pod) = running(&json!({})).await;
    let mut held_rx = host.cri.play_processes().await;
    let mut user = agent.exec(&pod.uid, ALL).await;
    user.hears_that_it_begins().await;
    let mut process = soon(held_rx.recv()).await.unwrap();
    let (stdin, mut stdout) = (process.take("stdin").unwrap(), process.take("stdout").unwrap());
    let piece = TunnelDown::Data(Bytes::from(vec![1; 32 * 1024]));
    let stuck = Duration::from_millis(500);
    while tokio::time::timeout(stuck, user.0.down_tx.send(piece.clone())).await.is_ok() {}
    // What it writes still arrives.
    stdout.writer.send(Bytes::from_static(b"out")).await.unwrap();
    user.hears_data(TunnelStream::Output, "out").await;
    drop((user, stdin));
    assert_eq!(said(&mut stdout).await, Some(Err(Reset)));
}

#[tokio::test]
async fn what_cannot_be_held_is_said_in_the_kubelets_words() {
    let (host, mut agent, pod) = running(&json!({})).await;
    let mut held_rx = host.cri.play_processes().await;
    agent.exec(&"gone".into(), ALL).await.hears_of_failure(404, "the pod is not on this node any more").await;
    let missing = TunnelKind::Attach(AttachOptions { container: "missing".to_owned(), stdio: ALL });
    let mut user = agent.open(&pod.uid, missing).await;
    user.hears_of_failure(500, "container not found (\"missing\")").await;

    host.cri.fail_next("Exec", tonic::Code::Unknown, "the runtime says no");
    agent.exec(&pod.uid, ALL).await.hears_of_failure(500, "the runtime says no").await;

    // A runtime that breaks off.
    let mut user = agent.exec(&pod.uid, ALL).await;
    user.hears_that_it_begins().await;
    drop(soon(held_rx.recv()).await.unwrap());
    user.hears_of_failure(500, "the container runtime closed the stream without a word").await;

    host.cri.hold("CreateContainer");
    host.cri.end_container(&pod.uid, "main", 0);
    agent
        .reports("the container to have ended", "web", |_, status| {
            let status = &status["containerStatuses"][0];
            status["state"]["terminated"].is_object() || status["lastState"]["terminated"].is_object()
        })
        .await;
    let mut user = agent.exec(&pod.uid, ALL).await;
    user.hears_of_failure(500, "container not found (\"main\")").await;
}

#[tokio::test]
async fn a_port_is_reached_in_the_pods_network() {
    let (_host, mut agent, pod) = running(&json!({})).await;
    let mut user = agent.open(&pod.uid, TunnelKind::PortForward(80)).await;
    let Some(TunnelUp::End(Err(failure))) = user.hears().await else { panic!("a failure was expected") };
    assert!(failure.message.starts_with("cannot enter the network namespace /nowhere/"), "{failure}");

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (_host, mut agent, pod) = running(&json!({ "hostNetwork": true })).await;
    let mut user = agent.open(&pod.uid, TunnelKind::PortForward(port)).await;
    user.hears_that_it_begins().await;
    let (mut server, _) = soon(listener.accept()).await.unwrap();
    user.says(TunnelDown::Data("request".into())).await;
    user.says(TunnelDown::Close).await;
    let mut request = String::new();
    soon(server.read_to_string(&mut request)).await.unwrap();
    assert_eq!(request, "request");
    // The end of the request is not that of the answer.
    server.write_all(b"answer").await.unwrap();
    user.hears_data(TunnelStream::Main, "answer").await;
    drop(server);
    assert_eq!(user.hears().await, Some(TunnelUp::End(Ok(0))));

    drop(listener);
    let mut user = agent.open(&pod.uid, TunnelKind::PortForward(port)).await;
    user.hears_of_failure(500, &format!("failed to connect to localhost:{port}: Connection refused (os error 111)"))
        .await;
}

#[tokio::test]
async fn a_log_is_followed_until_its_container_ends() {
    let (host, mut agent, pod) = running(&json!({})).await;
    let key = host.ledger().pods[&pod.uid].key.clone();
    let dir = host.dir.path().join(format!("logs/pods/default_{}_{}/main", key.name, key.uid));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("0.log"), "2026-01-31T12:00:00Z stdout F one\n2026-01-31T12:00:01Z stdout F two\n")
        .unwrap();
    let kind = TunnelKind::Logs(LogOptions {
        container: "main".to_owned(),
        follow: true,
        tail_lines: Some(1),
        ..LogOptions::default()
    });
    let mut user = agent.open(&pod.uid, kind).await;
    user.hears_that_it_begins().await;
    user.hears_data(TunnelStream::Main, "two\n").await;
    host.cri.end_container(&pod.uid, "main", 0);
    assert_eq!(user.hears().await, Some(TunnelUp::End(Ok(0))));

    let missing = LogOptions { container: "side".to_owned(), ..LogOptions::default() };
    let mut user = agent.open(&pod.uid, TunnelKind::Logs(missing)).await;
    user.hears_of_failure(404, &format!("container \"side\" not found in pod {:?}", key.name)).await;
}

#[tokio::test]
async fn a_stream_too_many_is_refused_by_its_command() {
    let (_host, mut agent, pod) = running(&json!({})).await;
    let mut users = Vec::new();
    for _ in 0..TUNNELS_MAX {
        users.push(agent.open(&pod.uid, TunnelKind::PortForward(80)).await);
    }
    let tunnel = OpenTunnel { pod: pod.uid.clone(), kind: TunnelKind::PortForward(80) };
    agent.down(Down::OpenTunnel { id: CommandId(9), tunnel }).await;
    let outcome = agent.hears("the command's outcome", |up| match up {
        Up::Ack(Ack::Command { id: CommandId(9), outcome }) => Some(outcome.clone()),
        _ => None,
    });
    assert_eq!(outcome.await, Outcome::Failed(format!("this node has {TUNNELS_MAX} streams open already")));
    agent.down(Down::CloseTunnel(CommandId(7))).await;
    assert!(matches!(soon(agent.wishes_rx.recv()).await, Some(Wish::Close(CommandId(7)))));
}
