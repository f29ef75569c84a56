//! What the fake runtime holds, and CRI's rules on it. Pure but for the second in which it was made: from there on time is a
//! count of changes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use k8s_cri::v1;
use tonic::Status;

use super::Sandbox;

/// What a process killed by SIGKILL ends with.
const KILLED: i32 = 137;

#[derive(Debug)]
pub(super) struct Model {
    pub(super) network_ready: bool,
    /// References that can be pulled.
    pub(super) registry: BTreeSet<String>,
    /// Exit codes of containers that end as soon as they start, by name.
    pub(super) short_lived: HashMap<String, i32>,
    images: BTreeMap<String, v1::Image>,
    sandboxes: BTreeMap<String, v1::PodSandboxStatus>,
    containers: BTreeMap<String, Container>,
    /// Counts changes: gives ids, addresses and times.
    changes: u32,
    /// Counts looks at what containers take: each is a second later.
    looks: u64,
    /// When it was made: what it starts is as old as the test.
    made_at_second: i64,
}

#[derive(Debug)]
struct Container {
    sandbox: String,
    status: v1::ContainerStatus,
    /// Bytes of memory and of disk that it takes.
    takes: (u64, u64),
    /// What it takes of processors, in thousand millionths.
    nano_cores: u64,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            network_ready: true,
            registry: BTreeSet::new(),
            short_lived: HashMap::new(),
            images: BTreeMap::new(),
            sandboxes: BTreeMap::new(),
            containers: BTreeMap::new(),
            changes: 0,
            looks: 0,
            made_at_second: Timestamp::now().as_second(),
        }
    }
}

impl Model {
    // === images ===

    pub(super) fn add_image(&mut self, reference: &str) -> String {
        let id = format!("sha256:{reference}");
        let repo_tags = vec![reference.to_owned()];
        let image = v1::Image { id: id.clone(), repo_tags, size: 1, ..v1::Image::default() };
        self.images.insert(id.clone(), image);
        id
    }

    pub(super) fn images(&self) -> Vec<v1::Image> {
        self.images.values().cloned().collect()
    }

    /// By id or by reference.
    pub(super) fn image(&self, name: &str) -> Option<v1::Image> {
        self.images.values().find(|image| image.id == name || image.repo_tags.iter().any(|tag| tag == name)).cloned()
    }

    pub(super) fn pull(&mut self, reference: &str) -> Result<String, Status> {
        if self.registry.contains(reference) {
            Ok(self.add_image(reference))
        } else {
            let words = format!("failed to pull and unpack image \"{reference}\": {reference}: not found");
            Err(Status::not_found(format!("rpc error: code = NotFound desc = {words}")))
        }
    }

    pub(super) fn remove_image(&mut self, name: &str) {
        let found = self.image(name).map(|image| image.id);
        self.images.retain(|_, image| Some(&image.id) != found.as_ref());
    }

    // === sandboxes ===

    pub(super) fn run_sandbox(&mut self, config: v1::PodSandboxConfig) -> Result<String, Status> {
        let metadata = config.metadata.unwrap_or_default();
        if self.sandboxes.values().any(|sandbox| sandbox.metadata.as_ref() == Some(&metadata)) {
            return Err(Status::unknown(format!("failed to reserve sandbox name {:?}", metadata.name)));
        }
        let namespaces = config.linux.and_then(|linux| linux.security_context?.namespace_options).unwrap_or_default();
        let own_network = namespaces.network() != v1::NamespaceMode::Node;
        let created_at = self.tick();
        let id = format!("sandbox-{}", self.changes);
        let ip =
            if own_network { format!("10.88.{}.{}", self.changes / 250, self.changes % 250) } else { String::new() };
        let status = v1::PodSandboxStatus {
            id: id.clone(),
            metadata: Some(metadata),
            state: v1::PodSandboxState::SandboxReady.into(),
            created_at,
            network: Some(v1::PodSandboxNetworkStatus { ip, additional_ips: vec![] }),
            labels: config.labels,
            annotations: config.annotations,
            ..v1::PodSandboxStatus::default()
        };
        self.sandboxes.insert(id.clone(), status);
        Ok(id)
    }

    /// Every sandbox with the containers that run in it.
    pub(super) fn seen(&self) -> Vec<Sandbox> {
        let running = |sandbox: &str| {
            let inside = self.containers.values().filter(|container| container.sandbox == sandbox);
            let running = inside.filter(|one| one.status.state() == v1::ContainerState::ContainerRunning);
            running.map(|one| (one.status.id.as_str().into(), one.status.image_ref.clone())).collect()
        };
        let seen = |(id, sandbox): (&String, &v1::PodSandboxStatus)| Sandbox {
            labels: sandbox.labels.clone(),
            ready: sandbox.state() == v1::PodSandboxState::SandboxReady,
            running: running(id),
        };
        self.sandboxes.iter().map(seen).collect()
    }

    /// Ends all there is.
    pub(super) fn stop_all(&mut self) {
        for sandbox in self.sandboxes.keys().cloned().collect::<Vec<_>>() {
            self.stop_sandbox(&sandbox);
        }
    }

    /// Kills its containers, too. False if there is none.
    pub(super) fn stop_sandbox(&mut self, id: &str) -> bool {
        for container in self.containers_in(id) {
            self.end_container(&container, KILLED);
        }
        let Some(sandbox) = self.sandboxes.get_mut(id) else { return false };
        sandbox.state = v1::PodSandboxState::SandboxNotready.into();
        sandbox.network = None;
        true
    }

    pub(super) fn remove_sandbox(&mut self, id: &str) {
        for container in self.containers_in(id) {
            self.containers.remove(&container);
        }
        self.sandboxes.remove(id);
    }

    pub(super) fn sandbox(&self, id: &str) -> Result<v1::PodSandboxStatus, Status> {
        self.sandboxes.get(id).cloned().ok_or_else(|| missing("sandbox", id))
    }

    pub(super) fn sandboxes(&self, labels: &HashMap<String, String>) -> Vec<v1::PodSandbox> {
        let matching = self.sandboxes.values().filter(|sandbox| has_all(&sandbox.labels, labels)).cloned();
        matching
            .map(|status| v1::PodSandbox {
                id: status.id,
                metadata: status.metadata,
                state: status.state,
                created_at: status.created_at,
                labels: status.labels,
                annotations: status.annotations,
                runtime_handler: status.runtime_handler,
            })
            .collect()
    }

    pub(super) fn ready_sandbox(&self, pod: &str) -> Option<String> {
        let ready = self.sandboxes.values().filter(|sandbox| sandbox.state() == v1::PodSandboxState::SandboxReady);
        ready.filter(|sandbox| is_of(sandbox, pod)).map(|sandbox| sandbox.id.clone()).next()
    }

    // === containers ===

    pub(super) fn create_container(&mut self, request: v1::CreateContainerRequest) -> Result<String, Status> {
        let sandbox = self.sandbox(&request.pod_sandbox_id)?;
        if sandbox.state() != v1::PodSandboxState::SandboxReady {
            return Err(Status::unknown(format!("sandbox {:?} is not running", sandbox.id)));
        }
        let config = request.config.unwrap_or_default();
        let spec = config.image.unwrap_or_default();
        let image = self.image(&spec.image).ok_or_else(|| missing("image", &spec.image))?;
        let taken =
            |container: &Container| container.sandbox == sandbox.id && container.status.metadata == config.metadata;
        if self.containers.values().any(taken) {
            return Err(Status::unknown("failed to reserve container name"));
        }
        let created_at = self.tick();
        // Whose it is shows where a call names it.
        let name = config.metadata.as_ref().map_or("", |metadata| &metadata.name);
        let id = format!("{name}-{}", self.changes);
        let status = v1::ContainerStatus {
            id: id.clone(),
            metadata: config.metadata,
            state: v1::ContainerState::ContainerCreated.into(),
            created_at,
            image: Some(v1::ImageSpec {
                image: image.repo_tags.first().cloned().unwrap_or_default(),
                ..v1::ImageSpec::default()
            }),
            image_ref: image.id,
            labels: config.labels,
            annotations: config.annotations,
            mounts: config.mounts,
            log_path: config.log_path,
            ..v1::ContainerStatus::default()
        };
        self.containers.insert(id.clone(), Container { sandbox: sandbox.id, status, takes: (0, 0), nano_cores: 0 });
        Ok(id)
    }

    pub(super) fn start_container(&mut self, id: &str) -> Result<(), Status> {
        let started_at = self.tick();
        let status = &mut self.containers.get_mut(id).ok_or_else(|| missing("container", id))?.status;
        if status.state() != v1::ContainerState::ContainerCreated {
            return Err(Status::unknown(format!("container {id:?} is not in created state")));
        }
        status.state = v1::ContainerState::ContainerRunning.into();
        status.started_at = started_at;
        Ok(())
    }

    /// Ends one whose process does not last; true if it is one.
    pub(super) fn end_at_start(&mut self, id: &str) -> bool {
        let metadata = self.containers.get(id).and_then(|container| container.status.metadata.as_ref());
        let exit_code = metadata.and_then(|metadata| self.short_lived.get(&metadata.name)).copied();
        exit_code.is_some_and(|exit_code| self.end_container(id, exit_code))
    }

    /// Nothing if it has ended or was never started; false if there is none.
    pub(super) fn end_container(&mut self, id: &str, exit_code: i32) -> bool {
        let finished_at = self.tick();
        let Some(Container { status, .. }) = self.containers.get_mut(id) else { return false };
        if status.state() == v1::ContainerState::ContainerRunning {
            status.state = v1::ContainerState::ContainerExited.into();
            status.finished_at = finished_at;
            status.exit_code = exit_code;
            status.reason = if exit_code == 0 { "Completed" } else { "Error" }.to_owned();
        }
        true
    }

    pub(super) fn remove_container(&mut self, id: &str) {
        self.containers.remove(id);
    }

    pub(super) fn container(&self, id: &str) -> Result<v1::ContainerStatus, Status> {
        self.containers.get(id).map(|container| container.status.clone()).ok_or_else(|| missing("container", id))
    }

    /// Says what a container takes.
    pub(super) fn take(&mut self, id: &str, memory_bytes: u64, disk_bytes: u64) {
        self.containers.get_mut(id).expect("a container of this id").takes = (memory_bytes, disk_bytes);
    }

    /// Says what a container takes of processors.
    pub(super) fn burn(&mut self, id: &str, nano_cores: u64) {
        self.containers.get_mut(id).expect("a container of this id").nano_cores = nano_cores;
    }

    /// Each look finds what was used in a second more.
    pub(super) fn stats(&mut self, labels: &HashMap<String, String>) -> Vec<v1::ContainerStats> {
        self.looks += 1;
        let (looks, timestamp) = (self.looks, (self.made_at_second + self.looks.cast_signed()) * 1_000_000_000);
        let number = |value| Some(v1::UInt64Value { value });
        let cpu = |nano_cores: u64| v1::CpuUsage {
            timestamp,
            usage_core_nano_seconds: number(nano_cores * looks),
            ..Default::default()
        };
        let stats = |Container { status, takes: (memory, disk), nano_cores, .. }: &Container| v1::ContainerStats {
            attributes: Some(v1::ContainerAttributes {
                id: status.id.clone(),
                metadata: status.metadata.clone(),
                labels: status.labels.clone(),
                ..Default::default()
            }),
            cpu: (status.state() == v1::ContainerState::ContainerRunning).then(|| cpu(*nano_cores)),
            memory: Some(v1::MemoryUsage { working_set_bytes: number(*memory), ..Default::default() }),
            writable_layer: Some(v1::FilesystemUsage { used_bytes: number(*disk), ..Default::default() }),
            ..Default::default()
        };
        let matching = self.containers.values().filter(|container| has_all(&container.status.labels, labels));
        matching.map(stats).collect()
    }

    pub(super) fn containers(&self, labels: &HashMap<String, String>) -> Vec<v1::Container> {
        let matching = self.containers.values().filter(|container| has_all(&container.status.labels, labels));
        matching
            .map(|Container { sandbox, status, .. }| v1::Container {
                id: status.id.clone(),
                pod_sandbox_id: sandbox.clone(),
                metadata: status.metadata.clone(),
                image: status.image.clone(),
                image_ref: status.image_ref.clone(),
                state: status.state,
                created_at: status.created_at,
                labels: status.labels.clone(),
                annotations: status.annotations.clone(),
                image_id: status.image_id.clone(),
            })
            .collect()
    }

    pub(super) fn running_container(&self, pod: &str, name: &str) -> Option<String> {
        let running = self.containers.values().find(|Container { sandbox, status, .. }| {
            status.state() == v1::ContainerState::ContainerRunning
                && status.metadata.as_ref().is_some_and(|metadata| metadata.name == name)
                && self.sandboxes.get(sandbox).is_some_and(|sandbox| is_of(sandbox, pod))
        });
        running.map(|container| container.status.id.clone())
    }

    // === events ===

    /// Tells of a sandbox or container as containerd 1.7 does: without the sandbox once it is removed.
    pub(super) fn event(&self, id: &str, kind: v1::ContainerEventType) -> v1::ContainerEventResponse {
        let sandbox = self.containers.get(id).map_or(id, |container| &container.sandbox);
        v1::ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind.into(),
            pod_sandbox_status: self.sandboxes.get(sandbox).cloned(),
            ..v1::ContainerEventResponse::default()
        }
    }

    fn containers_in(&self, sandbox: &str) -> Vec<String> {
        let inside = self.containers.iter().filter(|(_, container)| container.sandbox == sandbox);
        inside.map(|(id, _)| id.clone()).collect()
    }

    /// The next moment, in nanoseconds since 1970.
    fn tick(&mut self) -> i64 {
        self.changes += 1;
        (self.made_at_second + i64::from(self.changes)) * 1_000_000_000
    }
}

fn is_of(sandbox: &v1::PodSandboxStatus, pod: &str) -> bool {
    sandbox.metadata.as_ref().is_some_and(|metadata| metadata.uid == pod)
}

fn has_all(labels: &HashMap<String, String>, wanted: &HashMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn missing(kind: &str, id: &str) -> Status {
    Status::not_found(format!("an error occurred when try to find {kind} \"{id}\": not found"))
}
