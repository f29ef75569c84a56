//! The agent's tasks over a runtime in memory, with control's end of the link in the test's hands.
//!
//! A [`Host`] is what outlives an agent: disk and runtime. An [`Agent`] is one life of it; it ends with tokio's runtime.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::roster::{Input, LinkEnd, Roster};
use super::*;
use crate::host::ledger::{Contents, blob_hash};
use crate::link::client::{Lost, Opening, Tunnels, Wish};
use crate::link::{
    Ack, Answer, Answers, BlobChunk, Down, Entry, Hello, Kind, Manifest, NodeChange, PodReport, Reception, Up, Welcome,
};
use crate::model::{BlobHash, ContainerId, ContainerPhase, ObservedPod, Position, Taint};
use crate::plan::images::ImageLimits;
use crate::plan::pressure::Thresholds;
use crate::testing::fake_cri::FakeCri;
use crate::testing::life::Life;
use crate::testing::pods;
use crate::testing::wait::{LIMIT, eventually};

mod clocks;
mod configuration;
mod crash;
mod devices;
mod disk;
mod eviction;
mod hooks;
mod identity;
mod intent;
mod lives;
mod logs;
mod measure;
mod orphans;
mod posted;
mod preemption;
mod probes;
mod purge;
mod status;
mod streams;
mod trouble;
mod updates;

/// What control has no reason to change in these tests.
const FLEET: &str = "fleet";
const NODE: &str = "node-uid";

/// A machine: what an agent finds when it starts.
pub(crate) struct Host {
    pub(crate) dir: TempDir,
    pub(crate) cri: FakeCri,
    pub(crate) identity: Identity,
    /// What its ledger is sealed with, if it is.
    pub(crate) key: Option<Key>,
    pub(crate) machine_id: String,
    pub(crate) boot_id: String,
    /// What an agent takes the runtime's to be before that has said so. The fake has systemd make pods' cgroups: tests make none,
    /// need not be root, and reach no systemd.
    cgroup_driver: CgroupDriver,
    /// Device plugins can register, and it is told who has what: over real sockets, which have nothing to do with a paused clock.
    takes_plugins: bool,
    /// The present agent's.
    pub(crate) life: Arc<Life>,
    /// Its clock.
    pub(crate) wall: fn() -> Timestamp,
}

/// An agent that runs, and control's end of its link.
pub(crate) struct Agent {
    inputs_tx: mpsc::Sender<Input>,
    up_rx: mpsc::Receiver<Up>,
    /// What is wished of the link's tunnels.
    wishes_rx: mpsc::Receiver<Wish>,
    /// What the host is short of.
    conditions_tx: watch::Sender<Conditions>,
    /// What was said and not asked for yet.
    heard: VecDeque<Up>,
    tasks: JoinSet<()>,
}

/// A pod as the runtime has it.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    revision: String,
    uid: Uid,
    observed: ObservedPod,
}

impl Host {
    /// One with nothing on it, its images in reach.
    fn new() -> Self {
        let identity = Identity { fleet: FLEET.into(), name: "node-1".into(), uid: NODE.into() };
        let host = Self::of(identity, tempfile::tempdir().unwrap());
        for image in ["one", "two"] {
            host.cri.serve_image(&reference(image));
        }
        host
    }

    /// One that is this node, with nothing on it; its disk is `dir`.
    pub(crate) fn of(identity: Identity, dir: TempDir) -> Self {
        let (machine_id, boot_id) = ("machine".to_owned(), "boot".to_owned());
        let (cri, cgroup_driver) = (FakeCri::new(), CgroupDriver::Systemd);
        let runtime = cri.clone();
        // What its workers are about comes to nothing, too.
        let life = Life::new(move || runtime.freeze_after(0));
        let (key, takes_plugins) = (None, false);
        Self { dir, cri, identity, key, machine_id, boot_id, cgroup_driver, takes_plugins, life, wall: Timestamp::now }
    }

    /// Starts an agent as [`super::run`] does, but for the link.
    pub(crate) fn start(&self) -> Agent {
        let Opened { ledger, contents, .. } = Ledger::open(self.dir.path(), self.key.clone()).unwrap();
        let shared = Arc::new(self.shared());
        let identity = self.identity.clone();
        let owner = self.owner();
        let (inputs_tx, inputs_rx) = mpsc::channel(INPUTS);
        let (up_tx, up_rx) = mpsc::channel(8);
        let (status_tx, status_rx) = watch::channel(Err("not asked yet".to_owned()));
        let life = &self.life;
        life.renew();
        let mut tasks = JoinSet::new();
        tasks.spawn(life.of(observer::run(shared.clone(), owner, inputs_tx.clone(), status_tx)));
        let (conditions_tx, conditions_rx) = watch::channel(Conditions::default());
        tasks.spawn(life.of(node::run(shared.clone(), status_rx, conditions_rx, inputs_tx.clone())));
        tasks.spawn(life.of(prober::run(shared.clone())));
        tasks.spawn(life.of(rotation::run(shared.clone())));
        if self.takes_plugins {
            tasks.spawn(life.of(super::devices::run(shared.devices.clone())));
        }
        let (tunnels, wishes_rx) = Tunnels::new();
        let link = LinkEnd { up_tx, tunnels };
        let devices = shared.devices.clone();
        let roster = Roster::new(shared, identity, (ledger, contents), Some(link), inputs_tx.clone());
        if self.takes_plugins {
            tasks.spawn(life.of(super::devices::tell(devices, roster.admitted())));
        }
        tasks.spawn(life.of(roster.run(inputs_rx)));
        Agent { inputs_tx, up_rx, wishes_rx, conditions_tx, heard: VecDeque::new(), tasks }
    }

    fn shared(&self) -> Shared {
        let path = |name: &str| self.dir.path().join(name);
        let settings = AgentSettings {
            state_dir: self.dir.path().to_owned(),
            runtime_endpoint: "unix:///fake/cri.sock".to_owned(),
            node_name: self.identity.name.clone(),
            name_is_chosen: false,
            node_labels: BTreeMap::new(),
            register_with_taints: Vec::new(),
            node_ip: Some("192.0.2.1".parse().unwrap()),
            manifests: None,
            root_dir: path("root"),
            pod_logs_dir: path("logs/pods"),
            cgroup_root: "/".to_owned(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            allowed_unsafe_sysctls: Vec::new(),
            eviction_hard: Thresholds::default(),
            image_limits: ImageLimits::default(),
            cni_conf_dir: None,
            install_cni: false,
            control: Some("control:6443".to_owned()),
            token: None,
        };
        let facts = Facts {
            hostname: self.identity.name.to_string(),
            machine_id: self.machine_id.clone(),
            system_uuid: self.machine_id.clone(),
            boot_id: self.boot_id.clone(),
            kernel_version: "6.1".to_owned(),
            os_image: "Linux".to_owned(),
            architecture: "amd64",
            addresses: Vec::new(),
            capacity: BTreeMap::new(),
            swap_bytes: 0,
            hugepage_sizes: Vec::new(),
            apparmor: false,
            thermal_throttles: Vec::new(),
        };
        let mut host = pods::host();
        host.cgroup_driver = self.cgroup_driver;
        (host.fleet, host.node_uid) = (self.identity.fleet.clone(), self.identity.uid.clone());
        host.node_name = self.identity.name.clone();
        host.allocatable.insert("pods".to_owned(), 110);
        (host.root_dir, host.log_root) = (settings.root_dir.clone(), settings.pod_logs_dir.clone());
        let runtime = self.cri.runtime();
        let cgroups = Cgroups::detect().unwrap();
        let (clock, host) = (Clock::new(self.wall), watch::Sender::new(Arc::new(host)));
        Shared {
            devices: Devices::new(&settings, &facts.boot_id, host.clone()),
            images: Images::new(runtime.clone()),
            prober: Prober::new(clock),
            hints: Hints::default(),
            rotation: Rotation::default(),
            users: Arc::new(Users::new(&settings.root_dir)),
            clock,
            objects: watch::channel(Arc::default()).0,
            bringing_up: Arc::default(),
            unwritable: watch::Sender::default(),
            lost: watch::Sender::default(),
            settings,
            facts,
            host,
            slices: Slices::at("nowhere:", cgroups.is_v2()),
            cgroups,
            runtime,
        }
    }

    fn owner(&self) -> Owner {
        Owner { fleet: self.identity.fleet.clone(), node: self.identity.uid.clone() }
    }

    /// What is on disk.
    pub(crate) fn ledger(&self) -> Contents {
        Ledger::open(self.dir.path(), self.key.clone()).unwrap().contents
    }

    /// The pods in the runtime, by name of their DaemonSets or, of posted ones, of their own.
    async fn pods(&self) -> BTreeMap<String, Vec<Seen>> {
        let mut pods: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (uid, owned) in self.cri.runtime().list(&self.owner()).await.unwrap() {
            let labels = owned.labels;
            let name = labels.origin.daemonset.map_or(labels.key.name, |set| set.0);
            let revision = labels.origin.revision.0;
            pods.entry(name).or_default().push(Seen { revision, uid, observed: owned.pod });
        }
        pods
    }

    /// Waits until exactly one pod of a DaemonSet is there, of this revision, and runs.
    async fn runs(&self, set: &str, revision: &str) -> Seen {
        eventually(&format!("{set} to run in revision {revision}"), async || {
            let [pod] = <[Seen; 1]>::try_from(self.pods().await.remove(set)?).ok()?;
            (pod.revision == revision && pod.running().is_some()).then_some(pod)
        })
        .await
    }

    /// Waits until nothing is left of a DaemonSet's pods, neither in the runtime nor on disk.
    async fn lacks(&self, set: &str) {
        eventually(&format!("nothing to be left of {set}"), async || {
            let pods = self.ledger().pods;
            let on_disk = pods.values().any(|pod| pod.daemonset == Some(uid(set)) || pod.key.name == set);
            (!on_disk && !self.pods().await.contains_key(set)).then_some(())
        })
        .await;
    }

    /// Waits for a call to the runtime.
    async fn asked_for(&self, method: &str) {
        let called = async || self.cri.calls().iter().any(|call| call.method == method).then_some(());
        eventually(&format!("a call of {method}"), called).await;
    }

    /// Directories of pods and their logs that are still there.
    fn left_behind(&self) -> Vec<String> {
        let entries = |dir: &str| std::fs::read_dir(self.dir.path().join(dir)).into_iter().flatten().flatten();
        let all = ["root/pods", "logs/pods", "logs/containers"].into_iter().flat_map(entries);
        all.map(|entry| entry.path().display().to_string()).collect()
    }
}

impl Seen {
    /// The container that runs.
    fn running(&self) -> Option<ContainerId> {
        let running = |phase: &ContainerPhase| matches!(phase, ContainerPhase::Running { .. });
        self.observed.containers.iter().find(|one| running(&one.phase)).map(|one| one.id.clone())
    }
}

impl Agent {
    /// Puts a link in the test's place: gives what the agent says and takes what its link tells. The agent ends with the tasks.
    pub(crate) fn link(self) -> (mpsc::Receiver<Up>, mpsc::Sender<Incoming>, JoinSet<()>) {
        let Self { inputs_tx, up_rx, conditions_tx, mut tasks, .. } = self;
        let (incoming_tx, incoming_rx) = mpsc::channel(INPUTS);
        tasks.spawn(async move {
            hear(incoming_rx, inputs_tx).await;
            drop(conditions_tx);
        });
        (up_rx, incoming_tx, tasks)
    }

    /// Opens a session in which all is well.
    async fn connect(&mut self) -> Hello {
        self.connect_as(Reception::Accepted).await
    }

    async fn connect_as(&mut self, reception: Reception) -> Hello {
        let hello = self.hello().await;
        self.welcome(reception).await;
        hello
    }

    /// The link is about to dial.
    async fn hello(&mut self) -> Hello {
        let (hello_tx, hello_rx) = oneshot::channel();
        self.input(Input::Hello(hello_tx)).await;
        tokio::time::timeout(LIMIT, hello_rx).await.expect("a hello in time").unwrap()
    }

    async fn welcome(&mut self, reception: Reception) {
        self.down(Down::Welcome(Welcome {
            protocol: 1,
            fleet: FLEET.into(),
            era: 1,
            ca_bundle: Vec::new(),
            node_uid: NODE.into(),
            reception,
            keep_alive_secs: 30,
            silence_secs: 50,
        }))
        .await;
    }

    async fn disconnect(&mut self) {
        self.loses_link(false).await;
        self.settle().await;
        // As the link does.
        self.heard.clear();
        while self.up_rx.try_recv().is_ok() {}
    }

    /// Its link has no session; `refused` if control does not want to have one.
    async fn loses_link(&self, refused: bool) {
        self.input(Input::Disconnected(Lost { why: "cut".to_owned(), refused })).await;
    }

    /// Ends the agent while nothing is under way.
    async fn stop(mut self) {
        self.settle().await;
        self.tasks.shutdown().await;
    }

    async fn input(&self, input: Input) {
        self.inputs_tx.send(input).await.unwrap();
    }

    async fn down(&self, down: Down) {
        self.input(Input::Down(Box::new(down))).await;
    }

    /// Says what DaemonSets there are and gives what the agent needs, until it has taken that over.
    async fn apply(&mut self, seq: u64, sets: &[Bundle]) {
        self.takes(manifest(seq, sets), seq, sets).await;
    }

    /// The same with a manifest of the test's own.
    async fn takes(&mut self, manifest: Down, seq: u64, sets: &[Bundle]) {
        self.down(manifest).await;
        loop {
            let up = self.next("an acknowledgement of the manifest").await;
            match &up {
                Up::Ack(Ack::Position(taken)) if *taken == position(seq) => return,
                Up::Needs(needs) => {
                    for needed in &needs.blobs {
                        let content = sets.iter().map(content).find(|content| blob_hash(content) == needed.hash);
                        self.down(chunk(&content.unwrap(), needed.offset..)).await;
                    }
                    // What it needs of objects is somebody else's to give.
                    if !needs.objects.is_empty() {
                        self.heard.push_back(up);
                    }
                }
                _ => self.heard.push_back(up),
            }
        }
    }

    /// Says of a DaemonSet that it was deleted, or whatever control knows of it.
    async fn answer(&mut self, seq: u64, set: &str, answer: Answer) {
        self.down(Down::Answers(Answers { position: position(seq), answers: vec![(uid(set), answer)] })).await;
        self.hears("an acknowledgement of the answers", |up| {
            (*up == Up::Ack(Ack::Position(position(seq)))).then_some(())
        })
        .await;
    }

    async fn node(&self, labels: &[(&str, &str)], taints: &[&str]) {
        let text = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let labels = labels.iter().map(text).collect();
        let taints = taints.iter().map(|taint| taint.parse::<Taint>().unwrap()).collect();
        self.down(Down::Node(NodeChange { position: position(1), labels, taints, unschedulable: false })).await;
    }

    /// Waits for a message, and takes it; others wait to be asked for.
    async fn hears<T>(&mut self, what: &str, mut wanted: impl FnMut(&Up) -> Option<T>) -> T {
        for index in 0..self.heard.len() {
            if let Some(found) = wanted(&self.heard[index]) {
                self.heard.remove(index);
                return found;
            }
        }
        loop {
            let up = self.next(what).await;
            if let Some(found) = wanted(&up) {
                return found;
            }
            self.heard.push_back(up);
        }
    }

    /// Waits for a report of a DaemonSet's pod that is as wanted.
    async fn reports(&mut self, what: &str, set: &str, wanted: impl Fn(&PodReport, &Value) -> bool) -> PodReport {
        self.hears(what, |up| {
            let Up::Pods(reports) = up else { return None };
            let mut of_set = reports.iter().filter(|report| report.daemonset == Some(uid(set)));
            of_set.find(|report| wanted(report, &serde_json::from_slice(&report.status).unwrap())).cloned()
        })
        .await
    }

    async fn next(&mut self, what: &str) -> Up {
        let next = tokio::time::timeout(LIMIT, self.up_rx.recv()).await;
        let next = next.unwrap_or_else(|_| panic!("gave up waiting for {what}; heard {:#?}", self.heard));
        next.expect("the roster runs")
    }

    /// Lets everything happen that does not wait for time: the paused clock moves only when nothing else does.
    async fn settle(&mut self) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        while let Ok(up) = self.up_rx.try_recv() {
            self.heard.push_back(up);
        }
    }
}

/// The DaemonSet of this name with one container of an image, which names the revision.
fn set(name: &str, image: &str) -> Bundle {
    set_with(name, image, &json!({}))
}

/// The same with fields laid over its pods' spec.
fn set_with(name: &str, image: &str, spec: &Value) -> Bundle {
    let container = json!({ "name": "main", "image": reference(image), "imagePullPolicy": "IfNotPresent" });
    let whole = laid_over(json!({ "containers": [container], "terminationGracePeriodSeconds": 5 }), spec);
    serde_json::from_value(json!({
        "format": 1, "uid": name, "namespace": "default", "name": name, "generation": 1, "revision": image,
        "templateGeneration": 1, "template": { "metadata": { "labels": { "app": name } }, "spec": whole },
        "minReadySeconds": 0, "updateStrategy": "rollingUpdate", "priority": 0,
    }))
    .unwrap()
}

fn laid_over(mut whole: Value, fields: &Value) -> Value {
    for (field, value) in fields.as_object().unwrap() {
        whole[field] = value.clone();
    }
    whole
}

/// The same with port 8080 of the host.
fn with_host_port(mut set: Bundle) -> Bundle {
    let ports = json!([{ "containerPort": 80, "hostPort": 8080, "protocol": "TCP" }]);
    set.template.spec.as_mut().unwrap().containers[0].ports = serde_json::from_value(ports).unwrap();
    set
}

fn reference(image: &str) -> String {
    format!("registry.example/{image}:1")
}

fn uid(set: &str) -> Uid {
    set.into()
}

fn position(seq: u64) -> Position {
    Position { era: 1, seq }
}

fn content(set: &Bundle) -> Bytes {
    set.encode().into()
}

fn hash(set: &Bundle) -> BlobHash {
    blob_hash(&content(set))
}

fn manifest(seq: u64, sets: &[Bundle]) -> Down {
    let entry =
        |set: &Bundle| Entry { uid: set.uid.clone(), kind: Kind::DaemonSet, seq, hash: hash(set), written: None };
    let entries = sets.iter().map(entry).collect();
    Down::Manifest(Manifest { position: position(seq), entries, gradual: [].into() })
}

/// What of a blob lies in a range of its bytes.
fn chunk(content: &Bytes, range: std::ops::RangeFrom<u64>) -> Down {
    let data = content.slice(usize::try_from(range.start).unwrap()..);
    Down::Blob(BlobChunk { hash: blob_hash(content), offset: range.start, total: content.len() as u64, data })
}
