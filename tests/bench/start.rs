//! What the agent adds to starting a pod: from the manifest in its folder to the container's start, beside the bare CRI calls for
//! the same pod, in turn, on the same containerd. Prints Markdown; asserts nothing. `make bench-start`, with `RUNS=50` for more.
//!
//! Both times end with the start that the runtime itself notes. The agent's state lies on a tmpfs, since the disk's flush is
//! a matter of the disk; what is left is inotify, reading the manifest, judging, the ledger, and what a kubelet's pod has besides:
//! volumes, cgroups, `/etc/hosts`, the image's presence.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{
    ContainerConfig, ContainerFilter, ContainerMetadata, ContainerState, ContainerStatusRequest,
    CreateContainerRequest, ImageSpec, LinuxPodSandboxConfig, ListContainersRequest, PodSandboxConfig,
    PodSandboxMetadata, PullImageRequest, RemovePodSandboxRequest, RunPodSandboxRequest, StartContainerRequest,
};
use tonic::transport::{Channel, Endpoint};

#[path = "../containerd/harness.rs"]
#[expect(dead_code, reason = "the tests on real containerd need more of it")]
mod harness;

use harness::{Node, PATIENCE};

const IMAGE: &str = "docker.io/library/busybox:1.35";
const CONTAINER: &str = "main";
/// How often it is looked whether the agent's container runs. The time measured is the runtime's own.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

type Error = Box<dyn std::error::Error>;

#[expect(clippy::print_stdout, reason = "a benchmark's result is what it prints")]
fn main() -> Result<(), Error> {
    let runs: usize = std::env::var("RUNS").ok().map_or(Ok(20), |runs| runs.parse())?;
    let mut node = Node::up("bench-start");
    let manifests = node.path("manifests");
    fs::create_dir(&manifests)?;
    node.garrison_alone(&manifests);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut bare, mut agent) = runtime.block_on(measure(&node, &manifests, runs))?;
    println!("| manifest or first call → container started, {runs} runs in turn | p50 | p99 |\n|---|---|---|");
    println!("| bare CRI calls | {} | {} |", at(&mut bare, 50), at(&mut bare, 99));
    println!("| the agent | {} | {} |", at(&mut agent, 50), at(&mut agent, 99));
    let mut added: Vec<f64> = agent.iter().zip(&bare).map(|(agent, bare)| agent - bare).collect();
    println!("| the agent adds (budget ≤ 10 ms, ≤ 30 ms) | {} | {} |", at(&mut added, 50), at(&mut added, 99));
    Ok(())
}

/// A percentile in milliseconds. Both series are sorted by it, so that their difference is one of equals.
fn at(series: &mut [f64], percent: usize) -> String {
    series.sort_by(f64::total_cmp);
    let index = (series.len() * percent).div_ceil(100).saturating_sub(1);
    format!("{:.1} ms", series.get(index).copied().unwrap_or_default())
}

/// Milliseconds of each run: bare, agent.
async fn measure(node: &Node, manifests: &Path, runs: usize) -> Result<(Vec<f64>, Vec<f64>), Error> {
    let cri = Cri::connect(&node.path("containerd.sock")).await?;
    let image = cri.pull().await?;
    let (mut bare, mut agent) = (Vec::new(), Vec::new());
    // The first of each warms up what is made once.
    for run in 0..=runs {
        let (name, logs) = (format!("bare-{run}"), node.path(&format!("logs/{run}")));
        fs::create_dir_all(logs.join(CONTAINER))?;
        let time = cri.start_bare(&name, &logs, &image).await?;
        bare.extend((run > 0).then_some(time));
        let time = cri.start_by_agent(&format!("agent-{run}"), manifests).await?;
        agent.extend((run > 0).then_some(time));
    }
    Ok((bare, agent))
}

/// A bare client: the calls and nothing else.
struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

impl Cri {
    async fn connect(socket: &Path) -> Result<Self, Error> {
        let channel = Endpoint::from_shared(format!("unix://{}", socket.display()))?.connect().await?;
        Ok(Self { runtime: RuntimeServiceClient::new(channel.clone()), images: ImageServiceClient::new(channel) })
    }

    async fn pull(&self) -> Result<String, Error> {
        let image = ImageSpec { image: IMAGE.to_owned(), ..Default::default() };
        let request = PullImageRequest { image: Some(image), ..Default::default() };
        Ok(self.images.clone().pull_image(request).await?.into_inner().image_ref)
    }

    async fn start_bare(&self, name: &str, logs: &Path, image: &str) -> Result<f64, Error> {
        let mut runtime = self.runtime.clone();
        let begun = Timestamp::now();
        let sandbox = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: name.to_owned(),
                namespace: "bench".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: logs.display().to_string(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: format!("/kubepods/besteffort/pod{name}"),
                ..Default::default()
            }),
            ..Default::default()
        };
        let request = RunPodSandboxRequest { config: Some(sandbox.clone()), runtime_handler: String::new() };
        let pod_sandbox_id = runtime.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: CONTAINER.to_owned(), attempt: 0 }),
            image: Some(ImageSpec { image: image.to_owned(), ..Default::default() }),
            command: ["sleep", "2147483647"].map(str::to_owned).into(),
            log_path: format!("{CONTAINER}/0.log"),
            ..Default::default()
        };
        let request = CreateContainerRequest {
            pod_sandbox_id: pod_sandbox_id.clone(),
            config: Some(config),
            sandbox_config: Some(sandbox),
        };
        let container_id = runtime.create_container(request).await?.into_inner().container_id;
        runtime.start_container(StartContainerRequest { container_id: container_id.clone() }).await?;
        let started = self.started_at(container_id).await?.ok_or("the bare container does not run")?;
        runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id }).await?;
        Ok(millis(begun, started))
    }

    async fn start_by_agent(&self, name: &str, manifests: &Path) -> Result<f64, Error> {
        let manifest = format!(
            "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: {name}}}\nspec:\n  selector: {{matchLabels: {{app: {name}}}}}\n  \
             template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec:\n      terminationGracePeriodSeconds: 0\n      containers:\n      - {{name: {CONTAINER}, image: \
             \"{IMAGE}\", command: [sleep, \"2147483647\"]}}\n"
        );
        let file = manifests.join(format!("{name}.yaml"));
        // Renamed into place, so that it is whole when it is seen.
        let draft = manifests.with_file_name("draft");
        fs::write(&draft, manifest)?;
        let begun = Timestamp::now();
        fs::rename(&draft, &file)?;
        let started = self.until_started(name).await?;
        fs::remove_file(&file)?;
        self.until_gone(name).await?;
        Ok(millis(begun, started))
    }

    /// The containers of the agent's pod.
    async fn containers(&self, app: &str) -> Result<Vec<String>, Error> {
        let label_selector = HashMap::from([("io.kubernetes.container.name".to_owned(), CONTAINER.to_owned())]);
        let filter = Some(ContainerFilter { label_selector, ..Default::default() });
        let found = self.runtime.clone().list_containers(ListContainersRequest { filter }).await?.into_inner();
        let of_app = |name: Option<&String>| name.is_some_and(|name| name.starts_with(&format!("{app}-")));
        let containers = found.containers.into_iter();
        Ok(containers
            .filter(|container| of_app(container.labels.get("io.kubernetes.pod.name")))
            .map(|container| container.id)
            .collect())
    }

    /// Waits until the container of the agent's pod runs; answers when it started.
    async fn until_started(&self, app: &str) -> Result<Timestamp, Error> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            for id in self.containers(app).await? {
                if let Some(at) = self.started_at(id).await? {
                    return Ok(at);
                }
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Err(format!("{app} did not start").into())
    }

    async fn until_gone(&self, app: &str) -> Result<(), Error> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if self.containers(app).await?.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Err(format!("{app} did not end").into())
    }

    /// When a container started; nothing while it has not.
    async fn started_at(&self, container_id: String) -> Result<Option<Timestamp>, Error> {
        let request = ContainerStatusRequest { container_id, verbose: false };
        let status = self.runtime.clone().container_status(request).await?.into_inner().status.unwrap_or_default();
        let runs = status.state() == ContainerState::ContainerRunning;
        Ok(if runs { Some(Timestamp::from_nanosecond(status.started_at.into())?) } else { None })
    }
}

fn millis(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64() * 1000.0
}
