//! Streams that users ask for through control: the logs of a container, sent through a tunnel of their own.

use std::path::PathBuf;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use futures_util::{Stream, future};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;

use super::worker::WorkerHandle;
use crate::error::Chain;
use crate::host::logs;
use crate::link::client::Tunnels;
use crate::link::{CommandId, OpenTunnel, TunnelFailure};
use crate::model::{ContainerPhase, ObservedContainer, ObservedPod};
use crate::podspec::Pod;

/// What goes through a tunnel.
type Body = stream::BoxStream<'static, Result<Bytes, TunnelFailure>>;

/// Opens the tunnel and sends what was asked for, in a task of its own. `worker` is that of the pod, if there is one.
pub(super) fn open(tunnels: &Tunnels, id: CommandId, asked: &OpenTunnel, worker: Option<&WorkerHandle>) {
    let body = match worker {
        Some(worker) => logs(worker, asked),
        None => Err(failure(404, "the pod is not on this node any more".to_owned())),
    };
    let body: Body = body.unwrap_or_else(|failure| stream::once(future::ready(Err(failure))).boxed());
    let tunnels = tunnels.clone();
    tokio::spawn(async move {
        if let Err(error) = tunnels.send(id, body).await {
            tracing::info!(error = %Chain(&error), "a stream of logs broke");
        }
    });
}

/// The log of one instance of a container.
fn logs(worker: &WorkerHandle, asked: &OpenTunnel) -> Result<Body, TunnelFailure> {
    let observed = worker.observed.borrow().clone();
    let (path, instance) = log_file(&worker.pod, &observed, asked)?;
    let options = logs::LogOptions {
        tail_lines: asked.logs.tail_lines,
        since: since(asked),
        timestamps: asked.logs.timestamps,
        limit_bytes: asked.logs.limit_bytes,
    };
    let ended = asked.logs.follow.then(|| ended(worker.observed.clone(), instance));
    let chunks = logs::stream(path, &options, ended);
    Ok(from_chunks(ReceiverStream::new(chunks)).boxed())
}

fn from_chunks(
    chunks: impl Stream<Item = Result<Bytes, logs::LogError>> + Send + 'static,
) -> impl Stream<Item = Result<Bytes, TunnelFailure>> + Send + 'static {
    chunks.map(|chunk| chunk.map_err(|error| failure(500, Chain(&error).to_string())))
}

/// The file that was asked for, and the instance that writes it.
///
/// Source: kubernetes v1.36 `pkg/kubelet/kubelet_pods.go`, `validateContainerLogStatus`.
fn log_file(
    pod: &Pod,
    observed: &ObservedPod,
    asked: &OpenTunnel,
) -> Result<(PathBuf, ObservedContainer), TunnelFailure> {
    let (name, pod_name) = (&asked.logs.container, &pod.key.name);
    let Some(container) = pod.containers.iter().find(|container| container.name == *name) else {
        return Err(failure(400, format!("container {name} is not valid for pod {pod_name}")));
    };
    let mut instances = observed.containers.iter().filter(|instance| instance.name == *name);
    let instance = if asked.logs.previous { instances.nth(1) } else { instances.next() };
    let Some(instance) = instance else {
        let message = if asked.logs.previous {
            format!("previous terminated container \"{name}\" in pod \"{pod_name}\" not found")
        } else {
            format!("container \"{name}\" in pod \"{pod_name}\" is waiting to start: ContainerCreating")
        };
        return Err(failure(400, message));
    };
    Ok((pod.log_dir.join(container.log_path(instance.attempt)), instance.clone()))
}

fn since(asked: &OpenTunnel) -> Option<Timestamp> {
    let seconds = asked.logs.since_secs.and_then(|seconds| i64::try_from(seconds).ok());
    let ago = seconds.and_then(|seconds| Timestamp::now().checked_sub(SignedDuration::from_secs(seconds)).ok());
    asked.logs.since_time.or(ago)
}

/// Waits until an instance has ended or is gone, or its worker is.
async fn ended(mut observed: watch::Receiver<ObservedPod>, instance: ObservedContainer) {
    let is_over = |observed: &ObservedPod| {
        let now = observed.containers.iter().find(|other| other.id == instance.id);
        !now.is_some_and(|now| matches!(now.phase, ContainerPhase::Running { .. } | ContainerPhase::Created))
    };
    drop(observed.wait_for(is_over).await);
}

fn failure(code: u16, message: String) -> TunnelFailure {
    TunnelFailure { code, message }
}
