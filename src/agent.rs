//! The node's agent: decides which DaemonSet pods belong on this host and realizes them through its container runtime.
//!
//! ```text
//! files ───┐                       ┌─▶ workers (one a pod) ─▶ plan ─▶ execute ─▶ CRI, host
//! link ────┼─▶ roster ─▶ ledger    │        │ status, events
//! node ────┤     ▲  └──────────────┘        │
//! observer ┘     └──────────────────────────┘
//! ```
//!
//! - `roster` owns what this node has to have, and the ledger; everything else sends it inputs.
//! - `worker` owns one pod; `execute` carries out its steps, `configure` those about volumes; `images` shares pulls;
//!   `prepare` readies newer revisions.
//! - `prober` asks containers how they are, `hooks` does what they want done after their start and before their stop.
//! - `eviction` sends pods away that take too much, `storage` measures what they take; `measure` tells users when they ask.
//!   `reclaim` removes images before pods have to go.
//! - `kubelet` notices one that comes to run on the host, and ends the agent.
//! - `devices` takes device plugins in and knows which container holds what they have.
//! - `strays` ends what the runtime has lost, when others can take its place.
//! - `observer` follows the runtime, `node` reports the host, `files` reads the folder of manifests.
//! - `streams` carries logs, processes and connections to users, `relay` connections of pods to the API; `rotation` keeps logs from filling the disk.
//!
//! Stopping the agent stops no pod: the next one finds them in the ledger and in the runtime, and goes on.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::api::bundle::Bundle;
use crate::config::AgentSettings;
use crate::cri::labels::Owner;
use crate::cri::{CriError, Runtime, RuntimeSettings};
use crate::error::Chain;
use crate::host::cgroups::Cgroups;
use crate::host::facts::Facts;
use crate::host::ledger::key::{self, KeyError};
use crate::host::ledger::{AmendedMetadata, Identity, Ledger, LedgerError, Opened, PodRecord};
use crate::host::slices::Slices;
use crate::host::userns::Users;
use crate::host::{FileError, cni, facts, lock, resolv, service, socket};
use crate::link::client::{self, ClientError, ClientSettings, Incoming, LinkHandle};
use crate::link::tls::{Credentials, TlsError};
use crate::link::{BadToken, EventReport, POD_API};
use crate::model::{ObjectKey, PodKey, Uid};
use crate::plan::events::PodEvent;
use crate::plan::pressure::Conditions;
use crate::podspec::objects::Objects;
use crate::podspec::{self, ApiAddress, CgroupDriver, HostFacts, Pod};
use crate::seal::Key;

mod blobs;
mod blocking;
mod check;
mod clock;
mod configure;
mod credentials;
mod desired;
mod devices;
mod eviction;
mod execute;
mod explain;
mod files;
mod hints;
mod hooks;
mod images;
mod join;
mod kubelet;
pub(crate) mod manifest;
mod measure;
mod node;
mod objects;
mod observer;
mod posted;
mod prepare;
mod prober;
mod purge;
mod reclaim;
mod relay;
mod roster;
mod rotation;
mod session;
mod status;
mod storage;
mod strays;
mod streams;
mod tokens;
mod watchdog;
mod words;
mod worker;

pub use check::{Finding, Grade, check};
pub use explain::{ExplainError, explain};
pub use join::{enrol, enrolled};
pub use manifest::ManifestError;
pub use purge::{PurgeError, purge};
pub use status::{Status, StatusError, render, status};

use clock::Clock;
use devices::Devices;
use hints::Hints;
use images::Images;
use join::Joined;
use prober::Prober;
use roster::{Input, LinkEnd, Roster};
use rotation::Rotation;

/// How many inputs may wait for the roster; senders wait beyond that.
const INPUTS: usize = 256;
/// Where a runtime looks for its CNI configuration that does not say.
const CNI_CONF_DIR: &str = "/etc/cni/net.d";
/// Where most others and Debian put CNI plugins.
const CNI_BIN_DIRS: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The node's ledger.
    #[error("cannot use the node's ledger")]
    Ledger(#[source] LedgerError),
    /// The key of the node's ledger.
    #[error("cannot use the key of the node's ledger")]
    Key(#[source] KeyError),
    /// There may be one agent to a ledger.
    #[error("another agent uses {0}: stop that one first, or use another --state-dir and runtime")]
    Busy(PathBuf),
    /// A kubelet would fight over the same pods' folders, cgroups and containers.
    #[error(
        "{name} (pid {pid}) runs here and manages pods in the same places: stop it, or give this agent its own --root-dir, \
         --cgroup-root and --container-runtime-endpoint"
    )]
    Kubelet {
        /// Its process's name.
        name: String,
        /// Its process.
        pid: u32,
    },
    /// The host does not tell what has to be known of it.
    #[error("cannot learn about this host")]
    Host(#[source] FileError),
    /// The runtime's endpoint cannot be used at all.
    #[error("cannot use the container runtime")]
    Runtime(#[source] CriError),
    /// The bridge network.
    #[error("cannot give the runtime a network")]
    Cni(#[source] cni::CniError),
    /// The node's key or certificate on disk.
    #[error("cannot use the node's credentials")]
    Credentials(#[source] TlsError),
    /// A host that is not enrolled yet, and nothing to enrol it with.
    #[error(
        "this host is not enrolled; make a token on the control host with garrison token create, and give it with --token"
    )]
    NoToken,
    /// The token is none.
    #[error("--token")]
    Token(#[source] BadToken),
    /// Control does not take this host.
    #[error("this host cannot be enrolled")]
    Enroll(#[source] ClientError),
    /// The ledger belongs to another node.
    #[error(
        "the ledger in {dir} is of node {known}, and nodeName is {wanted}: a node's name is fixed once it has one. Set it back to \
         {known}; to make this host another node, garrison purge it, kubectl delete node {known}, and let it join with a new token"
    )]
    OtherName {
        /// The state directory.
        dir: PathBuf,
        /// In the ledger.
        known: String,
        /// As asked.
        wanted: String,
    },
}

/// What every task of the agent shares. Nothing in it changes while the agent lives, but for what is published.
struct Shared {
    settings: AgentSettings,
    facts: Facts,
    /// What pods are resolved by; the observer publishes what changes of it, and of devices their own task.
    host: watch::Sender<Arc<HostFacts>>,
    cgroups: Cgroups,
    slices: Slices,
    runtime: Runtime,
    images: Images,
    devices: Devices,
    prober: Prober,
    hints: Hints,
    rotation: Rotation,
    users: Arc<Users>,
    clock: Clock,
    /// ConfigMaps, Secrets and tokens as the ledger has them; the roster publishes.
    objects: watch::Sender<Arc<Objects>>,
    /// Held once more by each step that is being carried out on the way of a container to run.
    bringing_up: Arc<()>,
    /// Why the ledger cannot be written, as long as it cannot; the roster publishes.
    unwritable: watch::Sender<Option<String>>,
    /// Pods, by name, of which processes live that the runtime has no record of; their workers publish.
    lost: watch::Sender<BTreeMap<Uid, String>>,
}

impl Shared {
    /// What the host is like now.
    fn host(&self) -> Arc<HostFacts> {
        self.host.borrow().clone()
    }

    /// Asks again for what changes under an agent that runs: how the runtime makes cgroups, which nobody knows before it answers,
    /// and the host's addresses, unless one was chosen.
    async fn look_at_host(&self) {
        let driver = self.runtime.settings().await.ok().and_then(|settings| settings.cgroup_driver);
        let addresses = match self.settings.node_ip {
            Some(_) => Vec::new(),
            None => blocking::blocking(facts::addresses).await,
        };
        let changed = change_host(&self.host, |host| {
            host.cgroup_driver = driver.unwrap_or(host.cgroup_driver);
            if !addresses.is_empty() {
                host.ips = addresses;
            }
        });
        if changed {
            let host = self.host();
            tracing::info!(cgroup_driver = ?host.cgroup_driver, addresses = ?host.ips, "the host or its runtime has changed");
        }
    }

    /// The pod of a record. Only a revision this version cannot realize has none.
    fn resolve(&self, record: &PodRecord, bundle: &Bundle) -> Result<Pod, String> {
        let resolved = podspec::resolve(bundle, &record.key, &self.host(), &record.ephemeral_containers);
        let mut pod = resolved.map_err(|invalid| invalid.to_string())?;
        if let Some(AmendedMetadata { labels, annotations }) = record.amended.clone() {
            (pod.labels, pod.annotations) = (labels, annotations);
        }
        Ok(pod)
    }

    /// A pod of the bundle that will never be, to see what it would need.
    fn sample(&self, bundle: &Bundle) -> Result<Pod, String> {
        let key = PodKey { namespace: bundle.namespace.clone(), name: bundle.name.clone(), uid: Uid::from("none") };
        podspec::resolve(bundle, &key, &self.host(), &[]).map_err(|invalid| invalid.to_string())
    }

    fn pod_event(&self, pod: &Pod, event: PodEvent) -> EventReport {
        self.event_report("Pod", &ObjectKey::new(&pod.key.namespace, &pod.key.name), &pod.key.uid, event)
    }

    /// An event that happened just now, about the object of this kind.
    fn event_report(&self, kind: &str, key: &ObjectKey, uid: &Uid, event: PodEvent) -> EventReport {
        let now = self.clock.wall();
        EventReport {
            kind: kind.to_owned(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            uid: uid.clone(),
            field_path: event.field_path,
            warning: event.warning,
            reason: event.reason.to_owned(),
            message: event.message,
            first_at: now,
            last_at: now,
            count: 1,
        }
    }
}

/// Publishes what changes of the host's facts. True if something did.
fn change_host(facts: &watch::Sender<Arc<HostFacts>>, change: impl FnOnce(&mut HostFacts)) -> bool {
    facts.send_if_modified(|known| {
        let mut host = HostFacts::clone(known);
        change(&mut host);
        let changes = host != **known;
        if changes {
            *known = Arc::new(host);
        }
        changes
    })
}

/// Runs the agent until `stop` says so. Its pods run on.
///
/// # Errors
/// [`AgentError`] when it cannot begin, and when a kubelet begins beside it. A runtime that is not there yet is waited for, and so
/// is control.
pub async fn run(settings: AgentSettings, mut stop: watch::Receiver<bool>) -> Result<(), AgentError> {
    let lock = lock::take(&settings.state_dir).map_err(AgentError::Host)?;
    let _lock = lock.ok_or_else(|| AgentError::Busy(settings.state_dir.clone()))?;
    kubelet::refuse(&settings)?;
    let key = ledger_key()?;
    let opened = Ledger::open(&settings.state_dir, key.clone()).map_err(AgentError::Ledger)?;
    let Opened { ledger, mut contents, notes } = opened;
    for note in notes {
        tracing::error!(note, "the ledger was damaged");
    }
    let facts = facts::collect(&settings.root_dir).map_err(AgentError::Host)?;
    if let Some(key) = &key
        && let Err(error) = Credentials::seal(&settings.state_dir, key)
    {
        tracing::warn!(error = %Chain(&error), "the node's private key is still in clear; the next start tries again to seal it");
    }
    let Joined { identity, credentials } = join::join(&settings, &facts, &mut contents, key.as_ref()).await?;
    let runtime = Runtime::connect(&settings.runtime_endpoint).map_err(AgentError::Runtime)?;
    // A runtime that is not there yet tells nothing; the defaults are containerd's own.
    let runtime_settings = runtime.settings().await.unwrap_or_default();
    if settings.install_cni {
        install_network(&settings, &runtime_settings)?;
    }
    let mut tasks = JoinSet::new();
    let api = match settings.control.clone() {
        Some(control) => serve_pods(control, &mut tasks).await,
        None => None,
    };
    let shared = Arc::new(share(settings, facts, &identity, (runtime, &runtime_settings), api)?);
    if shared.settings.control.is_none() {
        contents.node.labels = node::labels(&identity.name, &shared.facts);
        contents.node.labels.extend(shared.settings.node_labels.clone());
        contents.node.taints.clone_from(&shared.settings.register_with_taints);
    }

    let (inputs_tx, inputs_rx) = mpsc::channel(INPUTS);
    let (status_tx, status_rx) = watch::channel(Err("not asked yet".to_owned()));
    let owner = Owner { fleet: identity.fleet.clone(), node: identity.uid.clone() };
    tasks.spawn(observer::run(shared.clone(), owner, inputs_tx.clone(), status_tx));
    let (conditions_tx, conditions_rx) = watch::channel(Conditions::default());
    tasks.spawn(node::run(shared.clone(), status_rx, conditions_rx, inputs_tx.clone()));
    tasks.spawn(prober::run(shared.clone()));
    tasks.spawn(rotation::run(shared.clone()));
    tasks.spawn(devices::run(shared.devices.clone()));
    tasks.spawn(clock::listen(inputs_tx.clone()));
    if let Some(folder) = shared.settings.manifests.clone() {
        let inputs_tx = inputs_tx.clone();
        tasks.spawn(async move {
            if let Err(error) = files::run(folder, inputs_tx).await {
                tracing::error!(%error, "the folder of manifests cannot be watched; raise fs.inotify.max_user_instances");
            }
        });
    }
    match listen(&shared.settings.state_dir) {
        Ok(listener) => drop(tasks.spawn(status::serve(listener, inputs_tx.clone()))),
        Err(error) => tracing::warn!(error = %Chain(&error), "garrison status will know no more than the ledger"),
    }
    let link = match (credentials, shared.settings.control.clone()) {
        (Some(credentials), Some(control)) => {
            let settings = ClientSettings {
                control,
                state_dir: shared.settings.state_dir.clone(),
                seal_key: key,
                credentials,
                machine_id: shared.facts.machine_id.clone(),
                last_seen: contents.last_seen,
            };
            Some(start_link(settings, &inputs_tx, &mut tasks))
        }
        _ => None,
    };
    let roster = Roster::new(shared.clone(), identity, (ledger, contents), link, inputs_tx.clone());
    tasks.spawn(devices::tell(shared.devices.clone(), roster.admitted()));
    tasks.spawn(eviction::run(shared.clone(), roster.admitted(), conditions_tx, inputs_tx));
    service::ready("caring for this host's pods");
    let ended = tokio::select! {
        () = roster.run(inputs_rx) => Ok(()),
        _ = stop.wait_for(|stop| *stop) => Ok(()),
        refused = kubelet::comes(&shared.settings) => Err(refused),
    };
    service::stopping();
    ended
}

/// What everything secret that the agent keeps is sealed with; none where nobody made a key.
fn ledger_key() -> Result<Option<Key>, AgentError> {
    key::find().map_err(AgentError::Key)
}

/// Where people at the host ask how the agent is.
fn listen(state_dir: &Path) -> Result<UnixListener, FileError> {
    let listener = socket::listen(state_dir)?;
    UnixListener::from_std(listener).map_err(|source| FileError {
        action: "listen in",
        path: state_dir.to_owned(),
        source,
    })
}

/// Gives the runtime a bridge network if it has none at all. `runtime` is what it says of itself, if it answers.
fn install_network(settings: &AgentSettings, runtime: &RuntimeSettings) -> Result<(), AgentError> {
    let bin_dir = cni_bin_dir(runtime.cni_bin_dir.clone());
    let conf_dir = settings.cni_conf_dir.clone().or_else(|| runtime.cni_conf_dir.clone());
    let conf_dir = conf_dir.unwrap_or_else(|| CNI_CONF_DIR.into());
    if let Some(file) = cni::install(&conf_dir, &bin_dir).map_err(AgentError::Cni)? {
        tracing::info!(file = %file.display(), "the runtime had no network; it has a bridge now");
    }
    Ok(())
}

/// Where CNI plugins are; `told` is what the runtime says.
fn cni_bin_dir(told: Option<PathBuf>) -> PathBuf {
    let usual = || CNI_BIN_DIRS.iter().map(PathBuf::from).find(|dir| dir.join("bridge").exists());
    told.or_else(usual).unwrap_or_else(|| CNI_BIN_DIRS[0].into())
}

/// Dials control, and passes on to the roster what is heard of it.
fn start_link(settings: ClientSettings, inputs_tx: &mpsc::Sender<Input>, tasks: &mut JoinSet<()>) -> LinkEnd {
    let LinkHandle { up_tx, incoming_rx, tunnels, .. } = client::spawn(settings);
    tasks.spawn(hear(incoming_rx, inputs_tx.clone()));
    LinkEnd { up_tx, tunnels }
}

/// Passes on to the roster what the link tells.
async fn hear(mut incoming_rx: mpsc::Receiver<Incoming>, inputs_tx: mpsc::Sender<Input>) {
    while let Some(incoming) = incoming_rx.recv().await {
        let input = match incoming {
            Incoming::Dialling(hello_tx) => Input::Hello(hello_tx),
            Incoming::Down(down) => Input::Down(Box::new(down)),
            Incoming::Lost(lost) => Input::Disconnected(lost),
        };
        if inputs_tx.send(input).await.is_err() {
            return;
        }
    }
}

/// Has pods reach the API at an address of this node. Where that cannot be had they are told where this agent reaches it.
async fn serve_pods(control: String, tasks: &mut JoinSet<()>) -> Option<ApiAddress> {
    match relay::listen().await {
        Ok(listener) => {
            tasks.spawn(relay::run(listener, control));
            Some(relay::address())
        }
        Err(error) => {
            tracing::warn!(%error, address = %POD_API, "pods do not reach the API at the node's own address");
            api_address(&control)
        }
    }
}

/// Where this agent reaches the API, unless that is the host itself, which pods do not share.
fn api_address(control: &str) -> Option<ApiAddress> {
    let (host, port) = control.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = host.parse::<IpAddr>().map_or(host == "localhost", |ip| ip.is_loopback());
    (!is_loopback).then_some(ApiAddress { host: host.to_owned(), port: port.parse().ok()? })
}

fn share(
    settings: AgentSettings,
    facts: Facts,
    identity: &Identity,
    (runtime, runtime_settings): (Runtime, &RuntimeSettings),
    api: Option<ApiAddress>,
) -> Result<Shared, AgentError> {
    let cgroups = Cgroups::detect().map_err(AgentError::Host)?;
    let host = HostFacts {
        fleet: identity.fleet.clone(),
        node_name: identity.name.clone(),
        node_uid: identity.uid.clone(),
        ips: settings.node_ip.map_or_else(|| facts.addresses.clone(), |ip| vec![ip]),
        resolver: resolv::host().map_err(AgentError::Host)?,
        cluster_dns: settings.cluster_dns.clone(),
        cluster_domain: settings.cluster_domain.clone(),
        cgroup_driver: runtime_settings.cgroup_driver.unwrap_or(CgroupDriver::Cgroupfs),
        cgroup_root: settings.cgroup_root.clone(),
        cgroup_v2: cgroups.is_v2(),
        swap_limits: cgroups.limits_swap(),
        hugepage_sizes: facts.hugepage_sizes.clone(),
        masked_paths: facts.thermal_throttles.clone(),
        memory_capacity_bytes: facts.capacity.get("memory").copied().unwrap_or(0),
        allocatable: facts::allocatable(&facts.capacity, &settings.eviction_hard),
        devices: BTreeMap::new(),
        root_dir: settings.root_dir.clone(),
        log_root: settings.pod_logs_dir.clone(),
        api,
    };
    let (clock, host) = (Clock::new(Timestamp::now), watch::Sender::new(Arc::new(host)));
    Ok(Shared {
        devices: Devices::new(&settings, &facts.boot_id, host.clone()),
        images: Images::new(runtime.clone()),
        hints: Hints::default(),
        prober: Prober::new(clock),
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
        slices: Slices::new(cgroups.is_v2()),
        cgroups,
        runtime,
    })
}

#[cfg(test)]
pub(crate) mod tests;
