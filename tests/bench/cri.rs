//! A bare CRI client: the calls for one pod and nothing else, and when containers started by the runtime's own account.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{
    ContainerConfig, ContainerFilter, ContainerMetadata, ContainerState, ContainerStatusRequest,
    CreateContainerRequest, ImageSpec, ListContainersRequest, PodSandboxConfig, PodSandboxMetadata, PullImageRequest,
    RemovePodSandboxRequest, RunPodSandboxRequest, StartContainerRequest, StopContainerRequest, StopPodSandboxRequest,
    VersionRequest,
};
use serde_json::Value;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::harness::{PATIENCE, daemonset};

const IMAGE: &str = "docker.io/library/busybox:1.35";
const CONTAINER: &str = "main";
/// Stays, and ends when it is told to.
const COMMAND: [&str; 3] = ["sh", "-c", "trap 'exit 0' TERM; sleep 2147483647 & wait"];
/// What the agent asks of CRI for such a pod.
const REQUESTS: &str = include_str!("../data/cri/defaults.json");
/// How often it is looked whether the runtime answers.
const READY_INTERVAL: Duration = Duration::from_millis(10);
/// How often it is looked whether something is so. The times measured are the runtime's own, and who looks takes processors
/// from what is measured.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

pub type Error = Box<dyn std::error::Error>;

/// The client.
#[derive(Clone)]
pub struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

/// A pod made by the bare calls.
pub struct Bare {
    sandbox: String,
    container: String,
    /// What its container was made by.
    request: CreateContainerRequest,
    pub started: Timestamp,
}

/// The DaemonSet whose pods are what the bare calls make.
pub fn manifest(name: &str) -> String {
    let pod = format!(
        "      containers:
        - {{name: {CONTAINER}, image: '{IMAGE}', command: {COMMAND:?}}}
"
    );
    daemonset(name, &pod)
}

impl Cri {
    pub async fn connect(socket: &Path) -> Result<Self, Error> {
        let channel = Endpoint::from_shared(format!("unix://{}", socket.display()))?.connect().await?;
        Ok(Self { runtime: RuntimeServiceClient::new(channel.clone()), images: ImageServiceClient::new(channel) })
    }

    /// Connects as soon as the runtime answers; when that was.
    pub async fn until_ready(socket: &Path) -> Result<(Self, Timestamp), Error> {
        until("containerd answers", READY_INTERVAL, async || {
            let Ok(cri) = Self::connect(socket).await else { return Ok(None) };
            let answers = cri.runtime.clone().version(VersionRequest::default()).await.is_ok();
            Ok(answers.then(|| (cri, Timestamp::now())))
        })
        .await
    }

    /// Pulls the image of all pods; its reference.
    pub async fn pull(&self) -> Result<String, Error> {
        let image = ImageSpec { image: IMAGE.to_owned(), ..Default::default() };
        let request = PullImageRequest { image: Some(image), ..Default::default() };
        Ok(self.images.clone().pull_image(request).await?.into_inner().image_ref)
    }

    /// Makes a pod by the requests that the agent makes for it. `folder` is for its files and logs.
    pub async fn start(&self, name: &str, folder: &Path, image: &str) -> Result<Bare, Error> {
        let (sandbox, config) = configs(name, folder, image)?;
        let mut runtime = self.runtime.clone();
        let request = RunPodSandboxRequest { config: Some(sandbox.clone()), runtime_handler: String::new() };
        let sandbox_id = runtime.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox_id.clone(),
            config: Some(config),
            sandbox_config: Some(sandbox),
        };
        let container_id = runtime.create_container(request.clone()).await?.into_inner().container_id;
        runtime.start_container(StartContainerRequest { container_id: container_id.clone() }).await?;
        let started = self.started_at(container_id.clone()).await?.ok_or("the bare container does not run")?;
        Ok(Bare { sandbox: sandbox_id, container: container_id, request, started })
    }

    /// Ends a pod as the agent does, then removes it.
    pub async fn stop_and_remove(&self, pod: Bare) -> Result<(), Error> {
        let mut runtime = self.runtime.clone();
        runtime.stop_container(StopContainerRequest { container_id: pod.container.clone(), timeout: 30 }).await?;
        runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: pod.sandbox.clone() }).await?;
        self.remove(pod).await
    }

    pub async fn remove(&self, pod: Bare) -> Result<(), Error> {
        let request = RemovePodSandboxRequest { pod_sandbox_id: pod.sandbox };
        self.runtime.clone().remove_pod_sandbox(request).await?;
        Ok(())
    }

    /// When the containers of the agent's pods of DaemonSets with this prefix started that have since then.
    pub async fn started(&self, prefix: &str, since: Timestamp) -> Result<Vec<Timestamp>, Error> {
        let mut started = Vec::new();
        for id in self.containers(prefix).await? {
            started.extend(self.started_at(id).await?.filter(|at| *at >= since));
        }
        Ok(started)
    }

    /// Waits until `count` of them have; when the last did.
    pub async fn until_started(&self, prefix: &str, count: usize, since: Timestamp) -> Result<Timestamp, Error> {
        until("containers have started", LOOK_INTERVAL, async || {
            let started = self.started(prefix, since).await?;
            Ok((started.len() >= count).then(|| started.into_iter().max().unwrap_or(since)))
        })
        .await
    }

    /// Ends the container of the agent's pod of a DaemonSet by `end`. Milliseconds from its end until the next one is made, by the
    /// runtime's own account.
    pub async fn again(&self, name: &str, end: impl FnOnce(&str)) -> Result<f64, Error> {
        let [container_id] = &self.containers(name).await?[..] else {
            return Err("there is to be one container".into());
        };
        end(container_id);
        let (ended, made) = until("the next container is made", LOOK_INTERVAL, async || {
            let mut instances = Vec::new();
            for container_id in self.containers(name).await? {
                let request = ContainerStatusRequest { container_id, verbose: false };
                instances.extend(self.runtime.clone().container_status(request).await?.into_inner().status);
            }
            instances.sort_by_key(|instance| instance.created_at);
            let [first, next] = &instances[..] else { return Ok(None) };
            // The end may show later than the next one.
            Ok((first.finished_at > 0).then_some((first.finished_at, next.created_at)))
        })
        .await?;
        Ok(millis(Timestamp::from_nanosecond(ended.into())?, Timestamp::from_nanosecond(made.into())?))
    }

    /// Ends the container of a bare pod by `end` and makes the next one as soon as the runtime shows the end. Milliseconds from the end
    /// until that, and from the call until the next one is made, by the runtime's own account.
    pub async fn restart(&self, pod: Bare, end: impl FnOnce(&str)) -> Result<(Bare, [f64; 2]), Error> {
        end(&pod.container);
        let (ended, shown) = until("the container's end is shown", READY_INTERVAL / 10, async || {
            let request = ContainerStatusRequest { container_id: pod.container.clone(), verbose: false };
            let status = self.runtime.clone().container_status(request).await?.into_inner().status.unwrap_or_default();
            let is_over = status.state() == ContainerState::ContainerExited;
            Ok(is_over.then(|| (status.finished_at, Timestamp::now())))
        })
        .await?;
        let mut runtime = self.runtime.clone();
        let mut request = pod.request.clone();
        request.config.get_or_insert_default().metadata.get_or_insert_default().attempt += 1;
        let called = Timestamp::now();
        let container_id = runtime.create_container(request).await?.into_inner().container_id;
        let request = ContainerStatusRequest { container_id: container_id.clone(), verbose: false };
        let made = runtime.container_status(request).await?.into_inner().status.unwrap_or_default().created_at;
        runtime.start_container(StartContainerRequest { container_id: container_id.clone() }).await?;
        let (ended, made) = (Timestamp::from_nanosecond(ended.into())?, Timestamp::from_nanosecond(made.into())?);
        Ok((Bare { container: container_id, ..pod }, [millis(ended, shown), millis(called, made)]))
    }

    /// Waits until no container of theirs is left.
    pub async fn until_gone(&self, prefix: &str) -> Result<(), Error> {
        let is_gone = async || Ok(self.containers(prefix).await?.is_empty().then_some(()));
        until("no container is left", LOOK_INTERVAL, is_gone).await
    }

    /// The containers of pods of DaemonSets with this prefix.
    async fn containers(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let label_selector = HashMap::from([("io.kubernetes.container.name".to_owned(), CONTAINER.to_owned())]);
        let filter = Some(ContainerFilter { label_selector, ..Default::default() });
        let found = self.runtime.clone().list_containers(ListContainersRequest { filter }).await?.into_inner();
        let prefix = format!("{prefix}-");
        let is_one = |name: Option<&String>| name.is_some_and(|name| name.starts_with(&prefix));
        let containers = found.containers.into_iter();
        Ok(containers
            .filter(|container| is_one(container.labels.get("io.kubernetes.pod.name")))
            .map(|container| container.id)
            .collect())
    }

    /// When a container started; nothing while it has not.
    async fn started_at(&self, container_id: String) -> Result<Option<Timestamp>, Error> {
        let request = ContainerStatusRequest { container_id, verbose: false };
        let status = match self.runtime.clone().container_status(request).await {
            Ok(answer) => answer.into_inner().status.unwrap_or_default(),
            // It was removed since it was listed.
            Err(error) if error.code() == Code::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let runs = status.state() == ContainerState::ContainerRunning;
        Ok(if runs { Some(Timestamp::from_nanosecond(status.started_at.into())?) } else { None })
    }
}

/// What the agent asks for a pod of nothing but an image and a command, with this pod's names and paths in it; the files are there.
fn configs(name: &str, folder: &Path, image: &str) -> Result<(PodSandboxConfig, ContainerConfig), Error> {
    let mut requests: Value = serde_json::from_str(REQUESTS)?;
    let mut sandbox: PodSandboxConfig = serde_json::from_value(requests["sandbox"].take())?;
    let mut container: ContainerConfig = serde_json::from_value(requests["containers"]["main"].take())?;
    fs::create_dir_all(folder.join(CONTAINER))?;
    let uid = name.to_owned();
    sandbox.metadata = Some(PodSandboxMetadata { name: uid.clone(), uid, namespace: "bench".to_owned(), attempt: 0 });
    name.clone_into(&mut sandbox.hostname);
    sandbox.log_directory = folder.display().to_string();
    sandbox.linux.get_or_insert_default().cgroup_parent = format!("/kubepods/besteffort/pod{name}");
    container.metadata = Some(ContainerMetadata { name: CONTAINER.to_owned(), attempt: 0 });
    container.image = Some(ImageSpec { image: image.to_owned(), ..Default::default() });
    container.command = COMMAND.map(str::to_owned).into();
    container.log_path = format!("{CONTAINER}/0.log");
    for (number, mount) in container.mounts.iter_mut().enumerate() {
        let file = folder.join(number.to_string());
        fs::write(&file, "")?;
        mount.host_path = file.display().to_string();
    }
    // The agent looks for its own pods by labels.
    sandbox.labels.clear();
    container.labels.clear();
    Ok((sandbox, container))
}

/// Looks again and again until there is an answer.
async fn until<T>(
    what: &str,
    interval: Duration,
    look: impl AsyncFn() -> Result<Option<T>, Error>,
) -> Result<T, Error> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(answer) = look().await? {
            return Ok(answer);
        }
        tokio::time::sleep(interval).await;
    }
    Err(format!("waited in vain until {what}").into())
}

pub fn millis(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64() * 1000.0
}

/// A percentile in milliseconds.
pub fn at(series: &mut [f64], percent: usize) -> f64 {
    series.sort_by(f64::total_cmp);
    let index = (series.len() * percent).div_ceil(100).saturating_sub(1);
    series.get(index).copied().unwrap_or_default()
}
