//! Device plugins of this node: what they have, and which container holds what of it.
//!
//! [`Devices`] is a cheap handle on all of it. Its task takes plugins in and follows their lists; steps ask it for what a container
//! gets. Whatever there is of a resource is published with the host's facts, and so reaches the Node and the judging of what fits;
//! workers hear of every change, so that who waits for a device tries at once. Without a plugin nothing here ever wakes.
//!
//! ```text
//! plugin ─▶ register ─▶ follow: lists ─▶ stock ─▶ HostFacts ─▶ Node, fit
//!                                        │ stream ends: all unhealthy ─▶ five minutes ─▶ dropped
//! create container ─▶ grant: choose (pure), reserve ─▶ Allocate ─▶ holdings (file)
//! ```
//!
//! Who holds what outlives the agent: a container that is made again gets the devices of the one before, whether its plugin is there or
//! not. A pod gives back what it holds when it has come to its end.
//!
//! Source: kubernetes v1.36 `pkg/kubelet/cm/devicemanager/manager.go`. We differ on purpose: devices are chosen when the container is
//! made. What upstream would fail a pod for, its container waits for here ([`Outcome::Refused`]).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot, watch};

use super::blocking::blocking;
use super::change_host;
use crate::config::AgentSettings;
use crate::devices::pod_resources::{self, Inventory, PodDevices};
use crate::devices::{self, Plugin, PluginError, Registration, Registry};
use crate::error::Chain;
use crate::fit::devices::{Choice, Group, Holding, Stock, choice, grouped};
use crate::host::devices::{HoldingsFile, PLUGINS, POD_RESOURCES, listen};
use crate::model::{PodKey, Uid};
use crate::plan::memory::Outcome;
use crate::podspec::{Container, Granted, HostFacts, Pod, Role};

/// How long the devices of a plugin that is gone are still counted (`endpointStopGracePeriod`).
const GRACE: Duration = Duration::from_secs(300);
/// How many resources plugins may register.
const RESOURCES_MAX: usize = 64;

/// A cheap handle; all handles share one state.
#[derive(Clone)]
pub(super) struct Devices(Arc<Inner>);

struct Inner {
    /// Below it plugins have their sockets.
    root_dir: PathBuf,
    file: HoldingsFile,
    /// Held while the file is written: what is newer comes last.
    writing: tokio::sync::Mutex<()>,
    /// Where it is published what there is.
    host: watch::Sender<Arc<HostFacts>>,
    /// Something that a container may have waited for.
    changed: watch::Sender<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By resource.
    registered: BTreeMap<String, Registered>,
    holdings: Vec<Holding>,
    /// How many plugins have registered.
    count: u64,
}

/// The plugin that registered a resource last.
struct Registered {
    /// Tells it from those before and after it.
    number: u64,
    plugin: Plugin,
    stock: Stock,
    /// Dropped when another takes its place.
    _replaced_tx: oneshot::Sender<()>,
}

/// A plugin to be followed.
struct Newcomer {
    resource: String,
    number: u64,
    plugin: Plugin,
    replaced_rx: oneshot::Receiver<()>,
}

impl Devices {
    /// Knows who held what when an earlier agent of this boot ended. `host` is where it is published what there is.
    pub(super) fn new(settings: &AgentSettings, boot_id: &str, host: watch::Sender<Arc<HostFacts>>) -> Self {
        let file = HoldingsFile::new(&settings.state_dir, boot_id);
        let holdings = file.read().unwrap_or_else(|error| {
            tracing::error!(error = %Chain(&error), "it is not known which containers hold which devices; some may be given out twice");
            Vec::new()
        });
        Self(Arc::new(Inner {
            root_dir: settings.root_dir.clone(),
            file,
            writing: tokio::sync::Mutex::default(),
            host,
            changed: watch::Sender::default(),
            state: Mutex::new(State { holdings, ..State::default() }),
        }))
    }

    /// Tells whenever a container that waits for devices may get them.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// Forgets what pods hold that are not there any more.
    pub(super) fn retain(&self, is_there: impl Fn(&Uid) -> bool) {
        self.state().holdings.retain(|held| is_there(&held.pod));
    }

    /// A pod gives back what it holds.
    pub(super) async fn free(&self, pod: &Pod) {
        let holds = |held: &Holding| held.pod == pod.key.uid;
        if !self.state().holdings.iter().any(holds) {
            return;
        }
        self.state().holdings.retain(|held| !holds(held));
        if let Err(error) = self.save().await {
            tracing::warn!(pod = %pod.key, error, "the devices of a pod that is gone are on record still");
        }
        self.0.changed.send_replace(());
    }

    /// What a container gets with the devices it asks for; nothing for one that asks for none. What it has it keeps.
    ///
    /// # Errors
    /// The outcome of making the container, in upstream's words.
    pub(super) async fn grant(&self, pod: &Pod, container: &Container) -> Result<Granted, Outcome> {
        let mut granted = Granted::default();
        for (resource, amount) in &container.devices {
            let holding = self.allocate(pod, container, (resource, *amount)).await;
            let refused = |why| Outcome::Refused(format!("Allocate failed due to {why}, which is unexpected"));
            let holding = holding.map_err(refused)?;
            if holding.pre_start {
                self.pre_start(&holding).await.map_err(Outcome::Misconfigured)?;
            }
            granted.add(holding.granted.unwrap_or_default());
        }
        Ok(granted)
    }

    /// What a container has of a resource, or has now.
    async fn allocate(&self, pod: &Pod, container: &Container, what: (&str, u64)) -> Result<Holding, String> {
        let (resource, amount) = what;
        let is_whole = |held: &Holding| held.granted.is_some() && held.devices.len() as u64 == amount;
        let held = |held: &&Holding| held.is_of(pod, container, resource) && is_whole(held);
        if let Some(held) = self.state().holdings.iter().find(held) {
            return Ok(held.clone());
        }
        let (choice, plugin) = self.state().choice(pod, container, what)?;
        let preferred = if plugin.prefers && choice.is_open() {
            let preferred = plugin.prefer(&choice).await;
            preferred.map_err(|error| {
                format!("device plugin GetPreferredAllocation rpc failed with err: {}", Chain(&error))
            })?
        } else {
            Vec::new()
        };
        let (reserved, plugin) = self.state().reserve(pod, container, what, &preferred)?;
        let allocated = plugin.allocate(&reserved.devices).await.map_err(|error| Chain(&error).to_string());
        let outcome = match allocated {
            Ok(granted) => {
                let holding = Holding { granted: Some(granted), ..reserved };
                self.state().hold(holding.clone());
                self.save().await.map(|()| holding)
            }
            Err(error) => Err(error),
        };
        if outcome.is_err() {
            self.state().holdings.retain(|held| !held.is_of(pod, container, resource));
        }
        outcome
    }

    async fn pre_start(&self, holding: &Holding) -> Result<(), String> {
        let plugin = self.state().registered.get(&holding.resource).map(|registered| registered.plugin.clone());
        let missing = || format!("endpoint not found in cache for a registered resource: {}", holding.resource);
        let told = plugin.ok_or_else(missing)?.pre_start(&holding.devices).await;
        told.map_err(|error| format!("device plugin PreStartContainer rpc failed with err: {}", Chain(&error)))
    }

    /// Writes down who holds what.
    async fn save(&self) -> Result<(), String> {
        let _turn = self.0.writing.lock().await;
        let settled = self.state().holdings.iter().filter(|held| held.granted.is_some()).cloned().collect();
        let devices = self.clone();
        let written = blocking(move || devices.0.file.write(settled)).await;
        written.map_err(|error| Chain(&error).to_string())
    }

    /// Listens in a folder of the root directory; none, told in the log, if that cannot be.
    async fn listen_in(&self, folder: &'static str) -> Option<UnixListener> {
        let path = self.0.root_dir.join(folder);
        let listener = blocking(move || listen(&path)).await.map_err(|error| Chain(&error).to_string());
        let listener =
            listener.and_then(|listener| UnixListener::from_std(listener).map_err(|error| error.to_string()));
        listener.inspect_err(|error| tracing::error!(error, "nobody is served in {folder}")).ok()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a plugin in. Of the devices of the one before it those stay known until it has named its own.
    fn take(&self, resource: String, plugin: Plugin) -> Newcomer {
        let (replaced_tx, replaced_rx) = oneshot::channel();
        let mut state = self.state();
        state.count += 1;
        let number = state.count;
        let before = state.registered.remove(&resource);
        let stock = before.map(|before| before.stock).unwrap_or_default();
        let registered = Registered { number, plugin: plugin.clone(), stock, _replaced_tx: replaced_tx };
        state.registered.insert(resource.clone(), registered);
        Newcomer { resource, number, plugin, replaced_rx }
    }

    /// Follows a plugin to its end, and that of its devices. Ends at once when another takes its place.
    async fn follow(self, newcomer: Newcomer) {
        let Newcomer { resource, number, plugin, replaced_rx } = newcomer;
        let following = async {
            let why = self.listen(&resource, number, &plugin).await;
            tracing::warn!(resource, error = %Chain(&why), "the device plugin is gone; its devices are not given out any more");
            self.restock(&resource, number, |stock| stock.values_mut().for_each(|device| device.healthy = false));
            tokio::time::sleep(GRACE).await;
            tracing::warn!(resource, "the device plugin has not come back; its devices are forgotten");
            let mut state = self.state();
            state.registered.retain(|name, registered| *name != resource || registered.number != number);
            self.publish(&state);
        };
        // Both arms only wait, or change what is checked to be this plugin's.
        tokio::select! {
            () = following => {}
            _ = replaced_rx => {}
        }
    }

    /// Takes in what a plugin lists, until it ends; why it did.
    async fn listen(&self, resource: &str, number: u64, plugin: &Plugin) -> PluginError {
        let mut lists = match plugin.list().await {
            Ok(lists) => pin!(lists),
            Err(error) => return error,
        };
        while let Some(list) = lists.next().await {
            match list {
                Ok(list) => self.restock(resource, number, |stock| *stock = list),
                Err(error) => return error,
            }
        }
        PluginError::Ended
    }

    /// Changes what there is of a resource, unless another plugin has it now.
    fn restock(&self, resource: &str, number: u64, change: impl FnOnce(&mut Stock)) {
        let mut state = self.state();
        let registered = state.registered.get_mut(resource).filter(|registered| registered.number == number);
        let Some(registered) = registered else { return };
        let before = registered.stock.clone();
        change(&mut registered.stock);
        if registered.stock != before {
            tracing::info!(resource, devices = registered.stock.len(), healthy = healthy(&registered.stock), "devices");
            self.publish(&state);
        }
    }

    /// Tells of what there is now.
    fn publish(&self, state: &State) {
        let counted = state.registered.iter();
        let counted = counted.map(|(resource, one)| (resource.clone(), (one.stock.len() as u64, healthy(&one.stock))));
        let counted: BTreeMap<_, _> = counted.collect();
        change_host(&self.0.host, |host| host.count_devices(&counted));
        self.0.changed.send_replace(());
    }
}

fn healthy(stock: &Stock) -> u64 {
    stock.values().filter(|device| device.healthy).count() as u64
}

impl State {
    fn choice(&self, pod: &Pod, container: &Container, what: (&str, u64)) -> Result<(Choice, Plugin), String> {
        let registered = self.registered.get(what.0);
        let choice = choice((pod, container), what, registered.map(|one| &one.stock), &self.holdings)?;
        let plugin = registered.map(|registered| registered.plugin.clone());
        Ok((choice, plugin.expect("nothing can be chosen of what is not registered")))
    }

    /// Chooses anew, since others may have come first, and keeps them from what is chosen.
    fn reserve(
        &mut self,
        pod: &Pod,
        container: &Container,
        what: (&str, u64),
        preferred: &[String],
    ) -> Result<(Holding, Plugin), String> {
        let (choice, plugin) = self.choice(pod, container, what)?;
        let holding = Holding {
            pod: pod.key.uid.clone(),
            container: container.name.clone(),
            resource: what.0.to_owned(),
            devices: choice.pick(preferred),
            granted: None,
            pre_start: plugin.pre_start,
        };
        self.hold(holding.clone());
        Ok((holding, plugin))
    }

    /// The devices that a container has.
    fn groups(&self, pod: &Pod, container: &Container) -> Vec<Group> {
        let held = self.holdings.iter().filter(|held| held.is_of(pod, container, &held.resource));
        let stock = |held: &Holding| self.registered.get(&held.resource).map(|registered| &registered.stock);
        held.flat_map(|held| grouped(&held.resource, held.devices.iter(), stock(held))).collect()
    }

    fn hold(&mut self, holding: Holding) {
        let is_same = |held: &Holding| {
            (&held.pod, &held.container, &held.resource) == (&holding.pod, &holding.container, &holding.resource)
        };
        self.holdings.retain(|held| !is_same(held));
        self.holdings.push(holding);
    }
}

/// Takes registrations for the task.
struct Desk {
    devices: Devices,
    newcomers_tx: mpsc::Sender<Newcomer>,
}

impl Registry for Desk {
    fn register(&self, registration: Registration) -> BoxFuture<'_, Result<(), PluginError>> {
        async move {
            let Registration { resource, endpoint } = registration;
            let is_full = || self.devices.state().registered.len() >= RESOURCES_MAX;
            if is_full() && !self.devices.state().registered.contains_key(&resource) {
                return Err(PluginError::TooMany(RESOURCES_MAX));
            }
            let plugin = Plugin::connect(&self.devices.0.root_dir.join(PLUGINS).join(&endpoint)).await?;
            tracing::info!(resource, endpoint, "a device plugin has registered");
            // A task that is gone has taken this one with it.
            drop(self.newcomers_tx.send(self.devices.take(resource, plugin)).await);
            Ok(())
        }
        .boxed()
    }
}

/// Runs for as long as plugins can register.
pub(super) async fn run(devices: Devices) {
    let Some(listener) = devices.listen_in(PLUGINS).await else { return };
    let (newcomers_tx, mut newcomers_rx) = mpsc::channel(1);
    let mut serving = pin!(devices::serve(listener, Desk { devices: devices.clone(), newcomers_tx }));
    let mut followed = FuturesUnordered::new();
    loop {
        // Every arm is cancel-safe: the futures live on outside.
        tokio::select! {
            served = &mut serving => return tracing::error!(?served, "no more device plugins can register"),
            Some(newcomer) = newcomers_rx.recv() => followed.push(devices.clone().follow(newcomer)),
            Some(()) = followed.next() => {}
        }
    }
}

/// Who has what, for those who ask.
struct Records {
    devices: Devices,
    /// The pods that have their place.
    pods_rx: watch::Receiver<Vec<Arc<Pod>>>,
}

impl Inventory for Records {
    fn pods(&self) -> Vec<PodDevices> {
        let (pods, state) = (self.pods_rx.borrow().clone(), self.devices.state());
        let has = |pod: &Arc<Pod>| {
            let stays = pod.containers.iter().filter(|one| matches!(one.role, Role::Sidecar | Role::Regular));
            let containers = stays.map(|container| (container.name.clone(), state.groups(pod, container)));
            let PodKey { namespace, name, .. } = pod.key.clone();
            PodDevices { namespace, name, containers: containers.collect() }
        };
        pods.iter().map(has).collect()
    }

    fn allocatable(&self) -> Vec<Group> {
        let state = self.devices.state();
        let of = |(resource, Registered { stock, .. }): (&String, &Registered)| {
            let healthy = stock.iter().filter(|(_, device)| device.healthy).map(|(id, _)| id);
            grouped(resource, healthy, Some(stock))
        };
        state.registered.iter().flat_map(of).collect()
    }
}

/// Tells who has what, for as long as somebody can ask. `pods_rx` has the pods that have their place.
pub(super) async fn tell(devices: Devices, pods_rx: watch::Receiver<Vec<Arc<Pod>>>) {
    if let Some(listener) = devices.listen_in(POD_RESOURCES).await {
        let served = pod_resources::serve(listener, Records { devices, pods_rx }).await;
        tracing::error!(?served, "nobody can ask any more who has which devices");
    }
}
