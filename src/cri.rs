//! The container runtime, spoken to by CRI v1 over its unix socket.
//!
//! A [`Runtime`] is a cheap handle; all handles share one connection, which is made at the first call and again after
//! it broke. Calls take and give this crate's own types. CRI's messages are named in here and nowhere else: `to_proto`
//! says what a pod becomes, `from_proto` what the runtime's answers mean, both without side effects. `events` tells which
//! pods changed, `labels` is how they are found again.
//!
//! Nothing here decides or retries: every call is made once, under a deadline, and its error says whether another try
//! makes sense. Stopping and removing what is already gone succeeds.

pub(crate) mod ends;
mod error;
pub(crate) mod events;
pub(crate) mod from_proto;
mod images;
mod info;
pub mod labels;
mod stats;
mod streaming;
pub(crate) mod to_proto;

use std::collections::HashMap;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use k8s_cri::v1;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use tonic::transport::{Channel, Endpoint};

use ends::Ends;
pub use error::CriError;
pub use events::RuntimeEvent;
pub use images::{Image, ImageFs};
pub use info::{HandlerFeatures, RuntimeCondition, RuntimeFeatures, RuntimeSettings, RuntimeStatus, RuntimeVersion};
use labels::{Owner, PodLabels};
pub use stats::Instance;
pub use streaming::{Process, ProcessError, ProcessOutput, StreamingError};

use crate::model::{ContainerId, ObservedPod, ObservedSandbox, SandboxId, Uid};
use crate::podspec::bind::Bound;
use crate::podspec::{Container, IdRange, ImageUser, Pod};

/// How long a call may take (the kubelet's `runtimeRequestTimeout`).
const DEADLINE: Duration = Duration::from_secs(120);
/// How long it may take to say how it is: asked now and then, to notice one that hangs.
const STATUS_DEADLINE: Duration = Duration::from_secs(30);
/// How long making or stopping a sandbox may take: CNI plugins are among what it waits for.
const SANDBOX_DEADLINE: Duration = Duration::from_secs(240);
/// gRPC's own limit of 4 MiB is too small for a list of many containers.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// containerd's namespace of everything made through CRI.
const CRI_NAMESPACE: &str = "k8s.io";
/// How many statuses are asked for at the same time.
const STATUS_CALLS_MAX: usize = 8;

/// A handle on the container runtime.
#[derive(Debug, Clone)]
pub struct Runtime {
    endpoint: Arc<str>,
    channel: Channel,
    ends: Arc<Ends>,
}

/// A pod found in the runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedPod {
    /// What its labels say.
    pub labels: PodLabels,
    /// What the runtime has for it.
    pub pod: ObservedPod,
}

/// One instance of a container, about to be made.
#[derive(Debug, Clone, Copy)]
pub struct NewContainer<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// One of the pod's containers.
    pub container: &'a Container,
    /// Its restart count: names the instance, its log file and its termination log.
    pub attempt: u32,
    /// The sandbox it goes into.
    pub sandbox: &'a ObservedSandbox,
    /// Its command, environment and mounts. Parts of volumes are bound to their targets already.
    pub bound: &'a Bound,
    /// The image's id, from [`Runtime::pull_image`] or [`Runtime::image_status`].
    pub image_ref: &'a str,
    /// Who the image runs as, from [`Runtime::image_status`]: where the pod leaves it open, CRI is told.
    pub image_user: &'a ImageUser,
    /// The host's users of a pod that has its own, as its sandbox was made with them.
    pub users: Option<IdRange>,
    /// The container of the pod whose processes it is to see ([`Container::target`]).
    pub target: Option<&'a ContainerId>,
}

/// What a command run in a container left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// 0 is success.
    pub exit_code: i32,
    /// Standard output, as bytes.
    pub stdout: Vec<u8>,
    /// Standard error, as bytes.
    pub stderr: Vec<u8>,
}

impl Runtime {
    /// A handle on the runtime at `endpoint`, `unix:///path/to.sock`. Does not connect yet.
    ///
    /// # Errors
    /// [`CriError::BadEndpoint`] for anything but an absolute path of a unix socket.
    pub fn connect(endpoint: &str) -> Result<Self, CriError> {
        let bad = || CriError::BadEndpoint { endpoint: endpoint.to_owned() };
        let path = endpoint.strip_prefix("unix://").ok_or_else(bad)?;
        if !Path::new(path).is_absolute() {
            return Err(bad());
        }
        let channel = Endpoint::from_shared(endpoint.to_owned()).map_err(|_| bad())?.connect_lazy();
        Ok(Self::over(endpoint, channel))
    }

    /// A handle that speaks over `channel`; `endpoint` only names it in errors.
    pub fn over(endpoint: &str, channel: Channel) -> Self {
        Self { endpoint: endpoint.into(), channel, ends: Arc::default() }
    }

    /// Makes and starts the pod's sandbox, its network included. Its log directory has to exist. `users` are the host's users
    /// of a pod that has its own.
    ///
    /// # Errors
    /// As every call: [`CriError`]; what CNI plugins had to say is in the text.
    pub async fn run_sandbox(&self, pod: &Pod, attempt: u32, users: Option<IdRange>) -> Result<SandboxId, CriError> {
        let config = Some(to_proto::sandbox_config(pod, attempt, users));
        let request = v1::RunPodSandboxRequest { config, runtime_handler: pod.runtime_handler.clone() };
        let reply = self.call("RunPodSandbox", SANDBOX_DEADLINE, self.pods().run_pod_sandbox(request)).await?;
        Ok(SandboxId(reply.pod_sandbox_id))
    }

    /// Stops all processes of a sandbox and takes its network down. Containers still running are killed.
    ///
    /// # Errors
    /// As every call: [`CriError`]. A sandbox that does not exist is stopped.
    pub async fn stop_sandbox(&self, id: &SandboxId) -> Result<(), CriError> {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: id.0.clone() };
        let reply = self.call("StopPodSandbox", SANDBOX_DEADLINE, self.pods().stop_pod_sandbox(request)).await;
        unless_gone(reply)
    }

    /// Removes a sandbox and all its containers, killing what still runs.
    ///
    /// # Errors
    /// As every call: [`CriError`]. A sandbox that does not exist is removed.
    pub async fn remove_sandbox(&self, id: &SandboxId) -> Result<(), CriError> {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id.0.clone() };
        unless_gone(self.call("RemovePodSandbox", DEADLINE, self.pods().remove_pod_sandbox(request)).await)
    }

    /// Makes a container, without starting it. The host's side of its mounts and its log directory have to exist.
    ///
    /// # Errors
    /// As every call: [`CriError`].
    pub async fn create_container(&self, new: NewContainer<'_>) -> Result<ContainerId, CriError> {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: new.sandbox.id.0.clone(),
            config: Some(to_proto::container_config(&new)),
            sandbox_config: Some(to_proto::sandbox_config(new.pod, new.sandbox.attempt, new.users)),
        };
        let reply = self.call("CreateContainer", DEADLINE, self.pods().create_container(request)).await?;
        Ok(ContainerId(reply.container_id))
    }

    /// Starts a created container.
    ///
    /// # Errors
    /// As every call: [`CriError`]; a command that cannot be executed is one, in runc's words.
    pub async fn start_container(&self, id: &ContainerId) -> Result<(), CriError> {
        let request = v1::StartContainerRequest { container_id: id.0.clone() };
        self.call("StartContainer", DEADLINE, self.pods().start_container(request)).await.map(drop)
    }

    /// Sends the stop signal, waits up to `grace` (whole seconds, rounded up), kills, and returns when it has ended.
    ///
    /// # Errors
    /// As every call: [`CriError`]. A container that does not exist is stopped.
    pub async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<(), CriError> {
        let request = v1::StopContainerRequest { container_id: id.0.clone(), timeout: whole_seconds(grace) };
        let deadline = DEADLINE.saturating_add(grace);
        unless_gone(self.call("StopContainer", deadline, self.pods().stop_container(request)).await)
    }

    /// Removes a container, killing it if it runs. Its log stays.
    ///
    /// # Errors
    /// As every call: [`CriError`]. A container that does not exist is removed.
    pub async fn remove_container(&self, id: &ContainerId) -> Result<(), CriError> {
        let request = v1::RemoveContainerRequest { container_id: id.0.clone() };
        unless_gone(self.call("RemoveContainer", DEADLINE, self.pods().remove_container(request)).await)
    }

    /// Runs `command` in a running container and waits for its end; after `timeout` (whole seconds, rounded up; zero for
    /// none) the runtime kills it.
    ///
    /// # Errors
    /// As every call: [`CriError`]; [`CriError::is_timeout`] for a command that took too long. A command that fails is no
    /// error.
    pub async fn exec_sync(
        &self,
        id: &ContainerId,
        command: &[String],
        timeout: Duration,
    ) -> Result<ExecOutput, CriError> {
        let deadline = if timeout.is_zero() { Duration::MAX } else { DEADLINE.saturating_add(timeout) };
        let request =
            v1::ExecSyncRequest { container_id: id.0.clone(), cmd: command.to_vec(), timeout: whole_seconds(timeout) };
        let reply = self.call("ExecSync", deadline, self.pods().exec_sync(request)).await?;
        Ok(ExecOutput { exit_code: reply.exit_code, stdout: reply.stdout, stderr: reply.stderr })
    }

    /// Makes the runtime write to a new log file at the old path, after a rotation has moved the old one away.
    ///
    /// # Errors
    /// As every call: [`CriError`]; the container has to be running.
    pub async fn reopen_container_log(&self, id: &ContainerId) -> Result<(), CriError> {
        let request = v1::ReopenContainerLogRequest { container_id: id.0.clone() };
        self.call("ReopenContainerLog", DEADLINE, self.pods().reopen_container_log(request)).await.map(drop)
    }

    /// Every pod of `owner`, by uid, with all its sandboxes and containers.
    ///
    /// # Errors
    /// As every call: [`CriError`]. What vanishes while it is being looked at is left out.
    pub async fn list(&self, owner: &Owner) -> Result<HashMap<Uid, OwnedPod>, CriError> {
        self.inspect(owner.selector()).await
    }

    /// What the runtime has for one pod; empty if nothing.
    ///
    /// # Errors
    /// As [`Runtime::list`].
    pub async fn observe(&self, pod: &Uid) -> Result<ObservedPod, CriError> {
        let selector = HashMap::from([(labels::POD_UID.to_owned(), pod.0.clone())]);
        Ok(self.inspect(selector).await?.remove(pod).map(|owned| owned.pod).unwrap_or_default())
    }

    /// Lists by labels, then asks for the status of each: only the status has addresses and exit codes.
    async fn inspect(&self, selector: HashMap<String, String>) -> Result<HashMap<Uid, OwnedPod>, CriError> {
        let sandboxes = v1::ListPodSandboxRequest {
            filter: Some(v1::PodSandboxFilter { label_selector: selector.clone(), ..Default::default() }),
        };
        let containers = v1::ListContainersRequest {
            filter: Some(v1::ContainerFilter { label_selector: selector, ..Default::default() }),
        };
        let (mut pods, mut same) = (self.pods(), self.pods());
        let (sandboxes, containers) = tokio::try_join!(
            self.call("ListPodSandbox", DEADLINE, pods.list_pod_sandbox(sandboxes)),
            self.call("ListContainers", DEADLINE, same.list_containers(containers)),
        )?;
        let (sandboxes, containers) = (sandboxes.items, containers.containers);
        let sandbox_of = containers.iter().map(|found| (found.id.clone(), found.pod_sandbox_id.clone())).collect();
        let sandboxes = sandboxes.into_iter().map(|found| self.sandbox_status(found.id));
        let containers = containers.into_iter().map(|found| self.container_status(found.id));
        let (sandboxes, containers) = tokio::try_join!(all_found(sandboxes), all_found(containers))?;
        Ok(from_proto::group(sandboxes, containers, &sandbox_of))
    }

    /// `None` if there is no such sandbox.
    async fn sandbox_status(&self, id: String) -> Result<Option<v1::PodSandboxStatus>, CriError> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id, verbose: false };
        let reply = self.call("PodSandboxStatus", DEADLINE, self.pods().pod_sandbox_status(request)).await;
        found(reply.map(|reply| reply.status))
    }

    /// `None` if there is no such container.
    async fn container_status(&self, id: String) -> Result<Option<v1::ContainerStatus>, CriError> {
        let shown = self.shown_container(id.clone()).await?;
        Ok(self.ends.over(&id, shown))
    }

    /// The same by CRI alone.
    async fn shown_container(&self, id: String) -> Result<Option<v1::ContainerStatus>, CriError> {
        let request = v1::ContainerStatusRequest { container_id: id, verbose: false };
        let reply = self.call("ContainerStatus", DEADLINE, self.pods().container_status(request)).await;
        found(reply.map(|reply| reply.status))
    }

    fn pods(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Waits for `reply` under a deadline. Giving up resets the stream, by which the runtime learns of it.
    async fn call<T>(
        &self,
        call: &'static str,
        deadline: Duration,
        reply: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, CriError> {
        let reply = match tokio::time::timeout(deadline, reply).await {
            Ok(reply) => reply.map_err(|status| CriError::from_status(call, &self.endpoint, &status)),
            Err(_) => Err(CriError::TimedOut { call, deadline }),
        };
        tracing::debug!(call, error = reply.as_ref().err().map(tracing::field::display), "runtime called");
        reply.map(tonic::Response::into_inner)
    }
}

/// Runs the status calls a few at a time and keeps what exists.
async fn all_found<T>(
    calls: impl Iterator<Item = impl Future<Output = Result<Option<T>, CriError>>>,
) -> Result<Vec<T>, CriError> {
    stream::iter(calls).buffer_unordered(STATUS_CALLS_MAX).try_filter_map(async |status| Ok(status)).try_collect().await
}

fn found<T>(reply: Result<Option<T>, CriError>) -> Result<Option<T>, CriError> {
    match reply {
        Err(error) if error.is_not_found() => Ok(None),
        reply => reply,
    }
}

fn unless_gone<T>(reply: Result<T, CriError>) -> Result<(), CriError> {
    match reply {
        Err(error) if error.is_not_found() => Ok(()),
        reply => reply.map(drop),
    }
}

/// CRI counts in whole seconds; rounding down would turn half a second into none.
fn whole_seconds(duration: Duration) -> i64 {
    let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
