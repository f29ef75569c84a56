//! Eviction: sends pods away that wrote more than they may, and, when the node runs out of something, the one that has to go
//! first.
//!
//! One task looks every ten seconds, and at once when the kernel says that memory is short. On a host where all is well that
//! costs a read of `/proc/meminfo` and a look at two filesystems, and nothing at all where nothing has a bound. It publishes
//! the node's conditions; whom to send away is decided by `plan::storage` and `plan::pressure`, and done by the roster, whose
//! record says that a pod has failed. Before a pod goes for want of disk, images go that nothing needs.
//!
//! Source: kubernetes v1.36 `pkg/kubelet/eviction/eviction_manager.go`, `synchronize`. We differ on purpose: the next pod goes
//! with the next look, not at once when the last one has gone.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::Shared;
use super::blocking::blocking;
use super::reclaim::{Extent, Reclaimer};
use super::roster::Input;
use super::storage::{Meter, containers, files, is_split, processes};
use crate::config::AgentSettings;
use crate::error::Chain;
use crate::host::pressure::{self, Memory, MemoryAlarm, Tasks};
use crate::host::usage;
use crate::model::{Moment, Uid};
use crate::plan::pressure::{Candidate, Conditions, Pressure, Reading, Readings, Signal, victim};
use crate::plan::storage::PodUsage;
use crate::podspec::Pod;

/// The pause between two looks (`monitoringInterval`).
const INTERVAL: Duration = Duration::from_secs(10);
/// For so long pods that were sent away are waited for before another one goes for the node's sake (`podCleanupTimeout`).
const REST: Duration = Duration::from_secs(30);

/// A pod that has to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Eviction {
    pub(super) pod: Uid,
    /// In the kubelet's words.
    pub(super) message: String,
    /// What the node is short of; none if the pod itself did wrong.
    pub(super) shortage: Option<&'static str>,
}

/// Runs until the roster is gone. `pods_rx` has the pods that hold something of the node.
pub(super) async fn run(
    shared: Arc<Shared>,
    mut pods_rx: watch::Receiver<Vec<Arc<Pod>>>,
    conditions_tx: watch::Sender<Conditions>,
    inputs_tx: mpsc::Sender<Input>,
) {
    let mut alarm = shared.settings.eviction_hard.bound(&[Signal::Memory]).then(MemoryAlarm::set).and_then(|set| {
        set.inspect_err(|error| tracing::debug!(error = %Chain(error), "no alarm tells when memory is short")).ok()
    });
    let mut evictor = Evictor::new(shared);
    let mut by_time = true;
    loop {
        let pods = pods_rx.borrow_and_update().clone();
        let has_bounds = evictor.has_bounds(&pods);
        if has_bounds {
            let (conditions, evictions) = evictor.look(&pods, by_time, &inputs_tx).await;
            conditions_tx.send_if_modified(|known| std::mem::replace(known, conditions) != conditions);
            for eviction in evictions {
                if inputs_tx.send(Input::Evict(eviction)).await.is_err() {
                    return;
                }
            }
        }
        // Every arm is cancel-safe: all only wait.
        by_time = tokio::select! {
            () = tokio::time::sleep(INTERVAL), if has_bounds => true,
            Ok(()) = pods_rx.changed(), if !has_bounds => true,
            () = goes_off(&mut alarm) => false,
            () = inputs_tx.closed() => return,
        };
    }
}

/// Waits for the kernel's alarm; for ever where there is none. Cancel-safe.
async fn goes_off(alarm: &mut Option<MemoryAlarm>) {
    if let Some(set) = alarm {
        let Err(error) = set.goes_off().await else { return };
        tracing::debug!(%error, "the alarm tells no more when memory is short");
        *alarm = None;
    }
    std::future::pending::<()>().await;
}

pub(super) struct Evictor {
    shared: Arc<Shared>,
    /// Where images are, once the runtime has said so.
    images: Option<PathBuf>,
    meter: Meter,
    pressure: Pressure,
    reclaimer: Reclaimer,
    /// Pods that were sent away and are still there.
    leaving: BTreeSet<Uid>,
    /// Until then they are waited for.
    rests_until: Moment,
}

impl Evictor {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let pressure = Pressure::new(shared.settings.eviction_hard.clone());
        let (meter, reclaimer) = (Meter::default(), Reclaimer::default());
        Self {
            shared,
            images: None,
            meter,
            pressure,
            reclaimer,
            leaving: BTreeSet::new(),
            rests_until: Moment::default(),
        }
    }

    /// Whether there is anything to look at.
    fn has_bounds(&self, pods: &[Arc<Pod>]) -> bool {
        let settings = &self.shared.settings;
        !settings.eviction_hard.is_empty()
            || settings.image_limits.bound()
            || pods.iter().any(|pod| pod.budget.bounds_storage())
    }

    /// The node's conditions, and the pods that have to go. Between two looks of the timer pods are not measured for their
    /// own limits' sake.
    async fn look(
        &mut self,
        pods: &[Arc<Pod>],
        by_time: bool,
        inputs_tx: &mpsc::Sender<Input>,
    ) -> (Conditions, Vec<Eviction>) {
        self.find_images().await;
        let staying = self.staying(pods);
        let excess = if by_time { self.find_excess(&staying).await } else { Vec::new() };
        let readings = self.read().await;
        let (mut conditions, mut short_of) = self.take_in(&readings);
        if self.reclaim(&readings, short_of, inputs_tx).await {
            let readings = self.read().await;
            (conditions, short_of) = self.take_in(&readings);
        }
        let evictions = match short_of {
            // Who takes more than his own limits goes before others suffer for it.
            Some((signal, reading)) if excess.is_empty() => {
                self.relieve(signal, reading, &staying).await.into_iter().collect()
            }
            _ => excess,
        };
        (conditions, evictions)
    }

    /// Those of these pods that were not sent away.
    pub(super) fn staying(&mut self, pods: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
        self.leaving.retain(|uid| pods.iter().any(|pod| pod.key.uid == *uid));
        pods.iter().filter(|pod| !self.leaving.contains(&pod.key.uid)).cloned().collect()
    }

    /// Asks the runtime where images are, until it answers: that does not change while it runs.
    async fn find_images(&mut self) {
        if self.images.is_none() {
            let disks = self.shared.runtime.image_fs_info().await.unwrap_or_default();
            self.images =
                disks.into_iter().map(|disk| disk.mountpoint).find(|path| !path.is_empty()).map(PathBuf::from);
        }
    }

    /// Has images removed that nothing needs, if the disk they lie on is too full. True if some were.
    async fn reclaim(
        &mut self,
        readings: &Readings,
        short_of: Option<(Signal, Reading)>,
        inputs_tx: &mpsc::Sender<Input>,
    ) -> bool {
        let (shared, Some(images)) = (&self.shared, &self.images) else { return false };
        let helps = |signal| match signal {
            Signal::ImageFs | Signal::ImageFsInodes => true,
            Signal::NodeFs | Signal::NodeFsInodes => !is_split(&shared.settings.root_dir, Some(images)),
            Signal::Memory | Signal::Pids => false,
        };
        let is_full = |disk: &Reading| shared.settings.image_limits.is_exceeded(*disk);
        let extent = if short_of.is_some_and(|(signal, _)| helps(signal)) {
            Extent::All
        } else if readings.get(&Signal::ImageFs).is_some_and(is_full) {
            Extent::ToLimit
        } else {
            return false;
        };
        self.reclaimer.reclaim(shared, images, extent, inputs_tx).await
    }

    /// The pods that wrote more than they may.
    pub(super) async fn find_excess(&mut self, pods: &[Arc<Pod>]) -> Vec<Eviction> {
        let found = self.meter.find_excess(&self.shared, pods, self.images.as_deref()).await;
        found.into_iter().map(|(pod, message)| self.send_away(Eviction { pod, message, shortage: None })).collect()
    }

    async fn read(&self) -> Readings {
        let (settings, images) = (self.shared.settings.clone(), self.images.clone());
        blocking(move || read(&settings, images.as_deref())).await
    }

    /// The node's conditions, and what it is short of so that a pod has to go.
    pub(super) fn take_in(&mut self, readings: &Readings) -> (Conditions, Option<(Signal, Reading)>) {
        let now = self.shared.clock.now();
        let met = self.pressure.observe(readings, now);
        let rests = !self.leaving.is_empty() && now < self.rests_until;
        let urgent = met.first().filter(|_| !rests);
        let short_of = urgent.and_then(|signal| Some((*signal, *readings.get(signal)?)));
        (self.pressure.conditions(now), short_of)
    }

    /// The pod that has to go first.
    pub(super) async fn relieve(&mut self, signal: Signal, reading: Reading, pods: &[Arc<Pod>]) -> Option<Eviction> {
        let mut usages = Vec::new();
        for pod in pods {
            usages.push(self.usage(signal, pod).await);
        }
        let pairs = pods.iter().zip(&usages);
        let candidates: Vec<_> = pairs.map(|(pod, usage)| Candidate { pod, usage: usage.as_ref() }).collect();
        let split = is_split(&self.shared.settings.root_dir, self.images.as_deref());
        let Some(victim) = victim(signal, &candidates, split) else {
            tracing::warn!(?signal, "the node runs short, and no pod of it can be sent away");
            return None;
        };
        tracing::warn!(?signal, pod = %victim.pod.key, "the node runs short; a pod has to go");
        let message = self.pressure.message(signal, reading, victim);
        let pod = victim.pod.key.uid.clone();
        Some(self.send_away(Eviction { pod, message, shortage: Some(signal.resource()) }))
    }

    fn send_away(&mut self, eviction: Eviction) -> Eviction {
        self.leaving.insert(eviction.pod.clone());
        self.rests_until = self.shared.clock.now() + REST;
        eviction
    }

    /// What a pod takes of what is short; none if that cannot be told.
    async fn usage(&self, signal: Signal, pod: &Arc<Pod>) -> Option<PodUsage> {
        if signal == Signal::Pids {
            return Some(PodUsage { processes: processes(&self.shared, pod).await?, ..PodUsage::default() });
        }
        let files = if signal == Signal::Memory { PodUsage::default() } else { files(pod).await };
        Some(files.with_containers(containers(&self.shared, pod).await?))
    }
}

/// What is left of what has a bound. What cannot be read is left out.
fn read(settings: &AgentSettings, images: Option<&Path>) -> Readings {
    let AgentSettings { root_dir, eviction_hard: thresholds, image_limits, .. } = settings;
    let mut readings = Readings::new();
    let mut put = |signal, available, capacity| {
        readings.insert(signal, Reading { available, capacity });
    };
    if thresholds.bound(&[Signal::Memory]) {
        match pressure::memory() {
            Ok(Memory { total_bytes, available_bytes }) => put(Signal::Memory, available_bytes, total_bytes),
            Err(error) => tracing::debug!(error = %Chain(&error), "what is left of memory is not known"),
        }
    }
    if thresholds.bound(&[Signal::Pids]) {
        match pressure::tasks() {
            Ok(Tasks { max, count }) => put(Signal::Pids, max.saturating_sub(count), max),
            Err(error) => tracing::debug!(error = %Chain(&error), "how many processes there are is not known"),
        }
    }
    let disks =
        [(Some(&**root_dir), Signal::NodeFs, Signal::NodeFsInodes), (images, Signal::ImageFs, Signal::ImageFsInodes)];
    for (path, bytes, inodes) in disks {
        let has_bound = thresholds.bound(&[bytes, inodes]) || bytes == Signal::ImageFs && image_limits.bound();
        let Some(path) = path.filter(|_| has_bound) else { continue };
        match usage::space(path) {
            Ok(space) => {
                put(bytes, space.available_bytes, space.capacity_bytes);
                put(inodes, space.inodes_free, space.inodes);
            }
            Err(error) => tracing::debug!(error = %Chain(&error), "what is left of a disk is not known"),
        }
    }
    readings
}
