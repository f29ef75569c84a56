//! Streams that users ask for through control: logs, processes in containers, connections to pods.
//!
//! Each has a tunnel and a task of its own; nothing is kept here. What is asked for is looked up in what the pod's worker
//! sees before the task begins, so that it is about the instance of that moment.
//!
//! ```text
//! tunnel ──TunnelDown──▶ stdin, terminal ──▶ process       tunnel ──▶ socket in the pod's network ──▶ who listens
//!        ◀──TunnelUp──── stdout, stderr, exit code                ◀──
//!        ◀──TunnelUp──── a log's file
//! ```
//!
//! The task ends with what it carries, or when the user leaves: then it lets go at once, and a process finds the end of
//! its input. A user who reads slowly holds up who writes, and nobody else.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::Shared;
use super::worker::{PodView, WorkerHandle};
use crate::error::Chain;
use crate::host::logs::LogOptions;
use crate::host::netns;
use crate::link::client::{TooMany, TunnelEnds, Tunnels};
use crate::link::{CommandId, OpenTunnel, TunnelDown, TunnelFailure, TunnelKind, TunnelStream, TunnelUp, pieces};
use crate::model::{ContainerId, ContainerPhase, ObservedPod, SandboxId, Stdio};
use crate::podspec::Pod;

mod connection;
mod logs;
mod process;

/// What a failure may say to a user; runtimes can be wordy.
const MESSAGE_BYTES_MAX: usize = 8 * 1024;

/// A pod of this node.
#[derive(Clone, Copy)]
pub(super) struct Found<'a> {
    pub(super) worker: &'a WorkerHandle,
    /// None before the worker's first look.
    pub(super) view: Option<&'a PodView>,
}

/// What is to be carried.
enum Work {
    /// A log's file, whole or for as long as its writer runs.
    Logs { path: PathBuf, options: LogOptions, writer: Option<logs::Writer> },
    /// A new process.
    Exec { container: ContainerId, command: Vec<String>, stdio: Stdio },
    /// The process a container is.
    Attach { container: ContainerId, stdio: Stdio },
    /// A connection. No sandbox stands for the host's network.
    Connect { sandbox: Option<SandboxId>, port: u16 },
}

/// Opens the tunnel and carries what was asked for, in a task of its own. `found` is the pod, if it is on this node.
///
/// # Errors
/// [`TooMany`].
pub(super) fn open(
    shared: &Arc<Shared>,
    tunnels: &Tunnels,
    id: CommandId,
    asked: &OpenTunnel,
    found: Option<Found<'_>>,
) -> Result<(), TooMany> {
    let TunnelEnds { up_tx, mut down_rx } = tunnels.open(id)?;
    let work = match found {
        Some(found) => find(found, &asked.kind, shared.clock.wall()),
        None => Err(failure(404, "the pod is not on this node any more")),
    };
    let shared = shared.clone();
    tokio::spawn(async move {
        let carried = async { carry(&shared, work?, &up_tx, &mut down_rx).await };
        // Either may be dropped at any point: without a user nobody needs the rest.
        let end = tokio::select! {
            end = carried => end,
            () = up_tx.closed() => return,
        };
        let _ = up_tx.send(TunnelUp::End(end)).await;
    });
    Ok(())
}

/// Looks up what a stream is about.
fn find(Found { worker, view }: Found<'_>, kind: &TunnelKind, now: Timestamp) -> Result<Work, TunnelFailure> {
    let observed = worker.observed.borrow().clone();
    match kind {
        TunnelKind::Logs(asked) => logs::find(worker, view, &observed, asked, now),
        TunnelKind::Exec(asked) => Ok(Work::Exec {
            container: running(&observed, &asked.container)?,
            command: asked.command.clone(),
            stdio: Stdio { stderr: asked.stdio.stderr && !asked.stdio.tty, ..asked.stdio },
        }),
        TunnelKind::Attach(asked) => {
            let container = running(&observed, &asked.container)?;
            // Whether there is a terminal was decided when the container was made.
            let tty = worker.pod.containers.iter().any(|one| one.name == asked.container && one.tty);
            let stdio = Stdio { tty, stderr: asked.stdio.stderr && !tty, ..asked.stdio };
            Ok(Work::Attach { container, stdio })
        }
        TunnelKind::PortForward(port) => Ok(Work::Connect { sandbox: network(&worker.pod, &observed)?, port: *port }),
    }
}

/// The instance of a container that runs.
///
/// Source: kubernetes v1.36 `pkg/kubelet/kubelet_pods.go`, `findContainer`, `GetExec`, `GetAttach`.
fn running(observed: &ObservedPod, name: &str) -> Result<ContainerId, TunnelFailure> {
    let runs = |phase: &ContainerPhase| matches!(phase, ContainerPhase::Running { .. });
    let mut instances = observed.containers.iter().filter(|instance| instance.name == name);
    let instance = instances.find(|instance| runs(&instance.phase));
    instance.map(|instance| instance.id.clone()).ok_or_else(|| failure(500, &format!("container not found ({name:?})")))
}

/// The sandbox whose network a pod has; none if it has the host's.
fn network(pod: &Pod, observed: &ObservedPod) -> Result<Option<SandboxId>, TunnelFailure> {
    let ready = observed.sandboxes.iter().find(|sandbox| sandbox.ready);
    let ready = ready.ok_or_else(|| failure(500, &format!("pod {:?} has no sandbox that runs", pod.key.name)))?;
    Ok((!pod.namespaces.host_network).then(|| ready.id.clone()))
}

/// Carries one stream to its end.
async fn carry(
    shared: &Shared,
    work: Work,
    up_tx: &mpsc::Sender<TunnelUp>,
    down_rx: &mut mpsc::Receiver<TunnelDown>,
) -> Result<i32, TunnelFailure> {
    let runtime = &shared.runtime;
    match work {
        Work::Logs { path, options, writer } => {
            begin(up_tx).await;
            logs::carry(path, &options, writer, up_tx).await
        }
        Work::Exec { container, command, stdio } => {
            let process = runtime.exec(&container, &command, stdio).await.map_err(failed)?;
            begin(up_tx).await;
            process::carry(process, up_tx, down_rx).await
        }
        Work::Attach { container, stdio } => {
            let process = runtime.attach(&container, stdio).await.map_err(failed)?;
            begin(up_tx).await;
            process::carry(process, up_tx, down_rx).await
        }
        Work::Connect { sandbox, port } => {
            let namespace = match &sandbox {
                Some(sandbox) => runtime.network_namespace(sandbox).await.map_err(failed)?,
                None => None,
            };
            let stream = netns::connect(namespace, port).await.map_err(failed)?;
            begin(up_tx).await;
            connection::carry(stream, up_tx, down_rx).await
        }
    }
}

/// Tells who waits that there is no failure.
async fn begin(up_tx: &mpsc::Sender<TunnelUp>) {
    let _ = up_tx.send(TunnelUp::Data(TunnelStream::Main, Bytes::new())).await;
}

/// Sends bytes. Without a user the task ends anyway.
async fn send(up_tx: &mpsc::Sender<TunnelUp>, stream: TunnelStream, data: Bytes) {
    for piece in pieces(data) {
        let _ = up_tx.send(TunnelUp::Data(stream, piece)).await;
    }
}

fn failed(error: impl std::error::Error + 'static) -> TunnelFailure {
    failure(500, &Chain(&error).to_string())
}

fn failure(code: u16, message: &str) -> TunnelFailure {
    let end = message.floor_char_boundary(MESSAGE_BYTES_MAX);
    TunnelFailure { code, message: message[..end].to_owned() }
}
