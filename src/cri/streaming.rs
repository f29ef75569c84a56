//! Processes in containers whose input and output somebody holds: CRI's `Exec` and `Attach`.
//!
//! Both answer with a URL at the runtime's streaming server, which listens on loopback and takes SPDY/3.1 or WebSocket.
//! SPDY it is: the WebSocket protocols that containerd 1.6 and 1.7 have cannot end standard input, and `v4` of the stream
//! protocol, which tells the exit code, is the same in all of them.
//!
//! CRI's `PortForward` is not used, though it would be the same code: on containerd's side a connection ends a second
//! after either direction did, so that who sends all before it reads gets half an answer. What is asked here instead is
//! which network namespace a sandbox has; `host::netns` connects in there, as containerd does itself.
//!
//! Source: containerd `pkg/cri/streaming` (1.6, 1.7), k8s.io/kubelet `pkg/cri/streaming` (2.x);
//! containerd `pkg/cri/server/sandbox_portforward_linux.go`.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, UPGRADE};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use k8s_cri::v1;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::{CriError, DEADLINE, Runtime};
use crate::model::{ContainerId, SandboxId, Stdio, TerminalSize};
use crate::spdy::{Connection, Headers, Reset, Stream, Writer};

/// The version of the protocol over the streams: the last message on the error stream is a `Status`.
const PROTOCOL: &str = "v4.channel.k8s.io";
/// What a process's end, or a refusal, may be told in.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// How long the runtime may take to tell of a process's end, after its output has ended.
const STATUS_WITHIN: Duration = Duration::from_secs(30);

/// A process's output.
pub type ProcessOutput = mpsc::Receiver<Result<Bytes, Reset>>;

/// A process that is held. Dropping it lets go: the process's input ends, and what it writes goes nowhere.
#[derive(Debug)]
pub struct Process {
    /// Standard input, if it was asked for.
    pub stdin: Option<Writer>,
    /// Standard output, or all of a terminal's, if it was asked for.
    pub stdout: Option<ProcessOutput>,
    /// Standard error, if it was asked for.
    pub stderr: Option<ProcessOutput>,
    /// Takes sizes of its terminal, if it has one.
    pub resize: Option<Resize>,
    /// How it ends.
    pub end: End,
}

/// Takes sizes of a terminal.
#[derive(Debug)]
pub struct Resize(Writer);

/// How a process ends.
#[derive(Debug)]
pub struct End {
    status: ProcessOutput,
    _connection: Connection,
}

/// Why a process ended otherwise than with an exit code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProcessError {
    /// The runtime's words.
    #[error("{0}")]
    Failed(String),
    /// It was not told.
    #[error("the container runtime closed the stream without a word")]
    Lost,
}

/// Why the streaming server gave no streams.
#[derive(Debug, thiserror::Error)]
pub enum StreamingError {
    /// The runtime's URL is none that can be used.
    #[error("{url} is no plain HTTP; turn enable_tls_streaming off, the server listens on loopback only")]
    Url {
        /// Without its path, which is a credential.
        url: String,
    },
    /// Nobody answers.
    #[error("cannot reach it")]
    Connect(#[source] std::io::Error),
    /// It does not speak HTTP.
    #[error("the connection broke")]
    Http(#[from] hyper::Error),
    /// It does not want to.
    #[error("it answers {status}: {message}")]
    Refused {
        /// Its answer.
        status: StatusCode,
        /// Its words.
        message: String,
    },
}

impl Runtime {
    /// Runs a command in a running container. One that cannot be started ends as a [`ProcessError`].
    ///
    /// # Errors
    /// As every call: [`CriError`]; [`CriError::Streaming`] for the server behind it.
    pub async fn exec(&self, id: &ContainerId, command: &[String], stdio: Stdio) -> Result<Process, CriError> {
        let Stdio { stdin, stdout, stderr, tty } = stdio;
        let (container_id, cmd) = (id.0.clone(), command.to_vec());
        let request = v1::ExecRequest { container_id, cmd, tty, stdin, stdout, stderr };
        let reply = self.call("Exec", DEADLINE, self.pods().exec(request)).await?;
        process("Exec", &reply.url, stdio).await
    }

    /// Joins the process that a running container is. `tty` has to be as the container was made.
    ///
    /// # Errors
    /// As [`Runtime::exec`].
    pub async fn attach(&self, id: &ContainerId, stdio: Stdio) -> Result<Process, CriError> {
        let Stdio { stdin, stdout, stderr, tty } = stdio;
        let request = v1::AttachRequest { container_id: id.0.clone(), stdin, tty, stdout, stderr };
        let reply = self.call("Attach", DEADLINE, self.pods().attach(request)).await?;
        process("Attach", &reply.url, stdio).await
    }

    /// The network namespace of a sandbox, as a file to enter it by; none if it has the host's.
    ///
    /// # Errors
    /// As every call: [`CriError`]; [`CriError::BadReply`] from a runtime that does not show it.
    pub async fn network_namespace(&self, id: &SandboxId) -> Result<Option<PathBuf>, CriError> {
        const CALL: &str = "PodSandboxStatus";
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.0.clone(), verbose: true };
        let mut reply = self.call(CALL, DEADLINE, self.pods().pod_sandbox_status(request)).await?;
        let shown = reply.info.remove("info").unwrap_or_default();
        let namespace = serde_json::from_str(&shown).ok().and_then(|info| shown_namespace(&info));
        namespace.ok_or(CriError::BadReply { call: CALL, field: "info.runtimeSpec.linux.namespaces" })
    }
}

/// Reads the OCI configuration of a sandbox's own container, as `info.info` of a verbose `PodSandboxStatus` has it.
fn shown_namespace(info: &Value) -> Option<Option<PathBuf>> {
    let namespaces = info["runtimeSpec"]["linux"]["namespaces"].as_array()?;
    let Some(network) = namespaces.iter().find(|namespace| namespace["type"] == "network") else { return Some(None) };
    Some(Some(network["path"].as_str().filter(|path| !path.is_empty())?.into()))
}

/// Opens the streams that were asked for, at the URL the runtime gave for them.
async fn process(call: &'static str, url: &str, stdio: Stdio) -> Result<Process, CriError> {
    let failed = |source| CriError::Streaming { call, source };
    let upgraded = tokio::time::timeout(DEADLINE, upgrade(url)).await;
    let upgraded = upgraded.map_err(|_| CriError::TimedOut { call, deadline: DEADLINE })?.map_err(failed)?;
    let wanted = [
        ("error", true),
        ("stdin", stdio.stdin),
        ("stdout", stdio.stdout),
        ("stderr", stdio.stderr),
        ("resize", stdio.tty),
    ];
    let names: Vec<_> = wanted.iter().filter(|(_, wanted)| *wanted).map(|(name, _)| *name).collect();
    let headers = |name: &&str| -> Headers { vec![("streamtype".to_owned(), (*name).to_owned())] };
    let (connection, streams) = Connection::open(TokioIo::new(upgraded), names.iter().map(headers).collect());
    let mut streams: Vec<_> = names.into_iter().zip(streams).collect();
    let mut take = |name| {
        let index = streams.iter().position(|(known, _)| *known == name)?;
        Some(streams.swap_remove(index).1)
    };
    let reader = |stream: Stream| stream.reader;
    let writer = |stream: Stream| stream.writer;
    let status = take("error").map(reader).expect("it is always opened");
    Ok(Process {
        stdin: take("stdin").map(writer),
        stdout: take("stdout").map(reader),
        stderr: take("stderr").map(reader),
        resize: take("resize").map(|stream| Resize(stream.writer)),
        end: End { status, _connection: connection },
    })
}

/// Makes a connection to the streaming server one of SPDY.
async fn upgrade(url: &str) -> Result<Upgraded, StreamingError> {
    let uri: Uri = url.parse().unwrap_or_default();
    let Some(authority) = uri.authority().filter(|_| uri.scheme_str() == Some("http")) else {
        let scheme = uri.scheme_str().unwrap_or_default();
        return Err(StreamingError::Url { url: format!("{scheme}://{}", uri.host().unwrap_or_default()) });
    };
    let stream = TcpStream::connect((authority.host().trim_matches(['[', ']']), authority.port_u16().unwrap_or(80)));
    let stream = stream.await.map_err(StreamingError::Connect)?;
    stream.set_nodelay(true).map_err(StreamingError::Connect)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the upgrade, or with the sender.
    tokio::spawn(connection.with_upgrades());
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::post(path)
        .header(HOST, authority.as_str())
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "SPDY/3.1")
        .header("X-Stream-Protocol-Version", PROTOCOL)
        .body(Empty::<Bytes>::new())
        .expect("a path that was parsed is one");
    let response = sender.send_request(request).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(hyper::upgrade::on(response).await?);
    }
    let status = response.status();
    let body = Limited::new(response.into_body(), MESSAGE_BYTES_MAX).collect().await;
    let message = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).trim().to_owned()).unwrap_or_default();
    Err(StreamingError::Refused { status, message })
}

impl Resize {
    /// Gives the terminal another size.
    ///
    /// # Errors
    /// [`Reset`] if the process is not held any more.
    pub async fn to(&self, TerminalSize { width, height }: TerminalSize) -> Result<(), Reset> {
        self.0.send(json!({ "Width": width, "Height": height }).to_string().into()).await
    }
}

impl End {
    /// The exit code, once all output was read.
    ///
    /// # Errors
    /// [`ProcessError`] if there is none.
    pub async fn wait(mut self) -> Result<i32, ProcessError> {
        let mut told = Vec::new();
        while told.len() < MESSAGE_BYTES_MAX
            && let Ok(Some(Ok(piece))) = tokio::time::timeout(STATUS_WITHIN, self.status.recv()).await
        {
            told.extend(piece);
        }
        read_status(&told)
    }
}

/// Reads the last message on the error stream.
///
/// Source: k8s.io/client-go `tools/remotecommand/v4.go`, `decodeErrorV4`.
fn read_status(told: &[u8]) -> Result<i32, ProcessError> {
    let status: Value = serde_json::from_slice(told).map_err(|_| ProcessError::Lost)?;
    if status["status"] == "Success" {
        return Ok(0);
    }
    let causes = status["details"]["causes"].as_array().into_iter().flatten();
    let mut codes = causes.filter(|cause| cause["reason"] == "ExitCode").filter_map(|cause| cause["message"].as_str());
    match codes.next().and_then(|code| code.parse().ok()).filter(|_| status["reason"] == "NonZeroExitCode") {
        Some(code) => Ok(code),
        None => Err(ProcessError::Failed(status["message"].as_str().unwrap_or_default().to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_process_is_read_from_its_status() {
        let failed = |message: &str| Err(ProcessError::Failed(message.to_owned()));
        let exit = |message: &str| {
            json!({ "status": "Failure", "reason": "NonZeroExitCode", "message": "terminated",
                                           "details": { "causes": [{ "reason": "ExitCode", "message": message }] } })
        };
        for (status, expected) in [
            (json!({ "metadata": {}, "status": "Success" }), Ok(0)),
            (exit("3"), Ok(3)),
            (exit("x"), failed("terminated")),
            (
                json!({ "status": "Failure", "reason": "InternalError", "message": "no such file" }),
                failed("no such file"),
            ),
        ] {
            assert_eq!(read_status(status.to_string().as_bytes()), expected, "{status}");
        }
        assert_eq!(read_status(b""), Err(ProcessError::Lost));
    }

    #[test]
    fn a_sandboxes_network_is_its_own_the_hosts_or_unknown() {
        let info = |namespaces: Value| json!({ "pid": 1, "runtimeSpec": { "linux": { "namespaces": namespaces } } });
        let own = json!([{ "type": "ipc" }, { "type": "network", "path": "/var/run/netns/cni-1" }]);
        for (info, expected) in [
            (info(own), Some(Some("/var/run/netns/cni-1".into()))),
            (info(json!([{ "type": "ipc" }])), Some(None)),
            (info(json!([{ "type": "network" }])), None),
            (json!({ "another": "runtime" }), None),
        ] {
            assert_eq!(shown_namespace(&info), expected, "{info}");
        }
    }
}
