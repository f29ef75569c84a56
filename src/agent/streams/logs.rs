//! The log of one instance of a container.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};
use tokio::sync::{mpsc, watch};

use super::{Work, failed, failure, send};
use crate::agent::worker::{PodView, WorkerHandle};
use crate::host::logs::{self, LogOptions};
use crate::link::{self, TunnelFailure, TunnelStream, TunnelUp};
use crate::model::{ContainerId, ContainerPhase, ObservedContainer, ObservedPod};

/// Who writes a log: its end is the log's.
pub(super) struct Writer {
    observed: watch::Receiver<ObservedPod>,
    container: ContainerId,
}

impl Writer {
    /// Waits until the instance has ended or is gone, or its worker is.
    async fn ended(mut self) {
        let is_over = |observed: &ObservedPod| {
            let now = observed.containers.iter().find(|other| other.id == self.container);
            !now.is_some_and(|now| matches!(now.phase, ContainerPhase::Running { .. } | ContainerPhase::Created))
        };
        drop(self.observed.wait_for(is_over).await);
    }
}

/// The file that was asked for.
pub(super) fn find(
    worker: &WorkerHandle,
    view: Option<&PodView>,
    observed: &ObservedPod,
    asked: &link::LogOptions,
    now: Timestamp,
) -> Result<Work, TunnelFailure> {
    let (name, pod) = (&asked.container, &worker.pod);
    let Some(container) = pod.containers.iter().find(|container| container.name == *name) else {
        let message = format!("container {name:?} not found in pod {:?}", pod.key.name);
        return Err(failure(404, &message));
    };
    let status = view.and_then(|view| status_of(&view.status, name));
    let about = format!("container {name:?} in pod {:?}", pod.key.name);
    let id = instance(status, asked.previous, &about).map_err(|message| failure(400, &message))?;
    let Some(instance) = observed.containers.iter().find(|instance| id.ends_with(instance.id.as_str())) else {
        return Err(failure(400, &format!("unable to retrieve container logs for {id}")));
    };
    Ok(Work::Logs {
        path: pod.log_dir.join(container.log_path(instance.attempt)),
        options: options(asked, now),
        writer: asked.follow.then(|| writer(worker, instance)),
    })
}

fn writer(worker: &WorkerHandle, instance: &ObservedContainer) -> Writer {
    Writer { observed: worker.observed.clone(), container: instance.id.clone() }
}

fn options(asked: &link::LogOptions, now: Timestamp) -> LogOptions {
    let seconds = asked.since_secs.map(|seconds| SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX)));
    let ago = seconds.map(|seconds| now.saturating_sub(seconds).unwrap_or(Timestamp::MIN));
    LogOptions {
        tail_lines: asked.tail_lines,
        since: asked.since_time.or(ago),
        timestamps: asked.timestamps,
        limit_bytes: asked.limit_bytes,
    }
}

fn status_of<'a>(status: &'a PodStatus, name: &str) -> Option<&'a ContainerStatus> {
    let all = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    all.into_iter().flatten().flatten().find(|status| status.name == name)
}

/// The instance whose log is meant, by the id it has in the API (`containerd://…`).
///
/// # Errors
/// What is in the way; `about` names the container.
///
/// Source: kubernetes v1.36 `pkg/kubelet/kubelet_pods.go`, `validateContainerLogStatus`.
fn instance(status: Option<&ContainerStatus>, previous: bool, about: &str) -> Result<String, String> {
    let Some(status) = status else { return Err(format!("{about} is not available")) };
    let now = status.state.clone().unwrap_or_default();
    let before = status.last_state.clone().unwrap_or_default().terminated;
    let id = |text: Option<String>| text.filter(|id| !id.is_empty());
    let last = before.clone().and_then(|before| id(before.container_id));
    if previous {
        return last.ok_or_else(|| format!("previous terminated {about} not found"));
    }
    if now.running.is_some() {
        return id(status.container_id.clone()).ok_or_else(|| format!("{about} is not available"));
    }
    if let Some(terminated) = now.terminated {
        // One that could not be started has no id; the one before it may have had something to say.
        return id(terminated.container_id).or(last).ok_or_else(|| format!("{about} is terminated"));
    }
    if before.is_some() {
        return last.ok_or_else(|| format!("{about} is terminated"));
    }
    Err(match now.waiting.and_then(|waiting| waiting.reason).as_deref() {
        None => format!("{about} is waiting to start - no logs yet"),
        Some("ErrImagePull") => format!("{about} is waiting to start: image can't be pulled"),
        Some("ImagePullBackOff") => format!("{about} is waiting to start: trying and failing to pull image"),
        Some(reason) => format!("{about} is waiting to start: {reason}"),
    })
}

/// Sends what is in the log, and what is added for as long as its writer runs.
///
/// # Errors
/// If the log cannot be read.
pub(super) async fn carry(
    path: std::path::PathBuf,
    options: &LogOptions,
    writer: Option<Writer>,
    up_tx: &mpsc::Sender<TunnelUp>,
) -> Result<i32, TunnelFailure> {
    let mut chunks = logs::stream(path, options, writer.map(Writer::ended));
    while let Some(chunk) = chunks.recv().await {
        send(up_tx, TunnelStream::Main, chunk.map_err(failed)?).await;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_a_container_does_decides_which_log_is_meant() {
        let ended = |id: &str| json!({ "terminated": { "exitCode": 1, "containerID": id } });
        let waits = |reason: &str| json!({ "waiting": { "reason": reason } });
        let running = json!({ "running": {} });
        let cases = [
            // Now, before, the log, the log before.
            (running.clone(), json!({}), Ok("now"), Err("previous terminated C not found")),
            (running, ended("old"), Ok("now"), Ok("old")),
            (ended("now"), ended("old"), Ok("now"), Ok("old")),
            (ended(""), ended("old"), Ok("old"), Ok("old")),
            (ended(""), json!({}), Err("C is terminated"), Err("previous terminated C not found")),
            (waits("CrashLoopBackOff"), ended("old"), Ok("old"), Ok("old")),
            (waits("X"), ended(""), Err("C is terminated"), Err("previous terminated C not found")),
            (waits("X"), json!({}), Err("C is waiting to start: X"), Err("previous terminated C not found")),
            (
                waits("ErrImagePull"),
                json!({}),
                Err("C is waiting to start: image can't be pulled"),
                Err("previous terminated C not found"),
            ),
            (
                waits("ImagePullBackOff"),
                json!({}),
                Err("C is waiting to start: trying and failing to pull image"),
                Err("previous terminated C not found"),
            ),
            (json!({}), json!({}), Err("C is waiting to start - no logs yet"), Err("previous terminated C not found")),
        ];
        for (now, before, current, previous) in cases {
            let status: Value = json!({ "name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                                        "containerID": "now", "state": now, "lastState": before });
            let status: ContainerStatus = serde_json::from_value(status).unwrap();
            let told = |previous| instance(Some(&status), previous, "C");
            let text = |expected: Result<&str, &str>| expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!((told(false), told(true)), (text(current), text(previous)), "{status:?}");
        }
        assert_eq!(instance(None, false, "C"), Err("C is not available".to_owned()));
    }
}
