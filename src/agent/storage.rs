//! Measuring what pods take, and finding those that wrote more than they may.
//!
//! Looking through a tree of files costs what the tree holds, so it is done no more often than it has to: only for pods with
//! a limit, not while nothing on their disks changes, and so seldom that it takes a small share of the time.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use super::Shared;
use super::blocking::blocking;
use crate::error::Chain;
use crate::host::usage::{self, Space};
use crate::model::{Moment, Uid};
use crate::plan::storage::{ContainerUsage, PodUsage, Usage, exceeded};
use crate::podspec::{Pod, VolumeSource};

/// Pods are not measured again before so many times as long as it took: however much there is to look at, that is less than
/// half a percent of the time.
const REST: u32 = 200;

/// Remembers what was measured when.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// What there was on the disks a pod writes to, when it was measured last.
    spaces: HashMap<Uid, Vec<Space>>,
    /// No pod is measured before.
    rests_until: Moment,
}

impl Meter {
    /// Those of these pods that have written more than they may, each with the message that says so. `images` is where images
    /// are, if that is known.
    pub(super) async fn find_excess(
        &mut self,
        shared: &Shared,
        pods: &[Arc<Pod>],
        images: Option<&Path>,
    ) -> Vec<(Uid, String)> {
        let begun = shared.clock.now();
        if begun < self.rests_until {
            return Vec::new();
        }
        self.spaces.retain(|uid, _| pods.iter().any(|pod| pod.key.uid == *uid));
        let mut found = Vec::new();
        for pod in pods.iter().filter(|pod| pod.budget.bounds_storage()) {
            let spaces = spaces(pod, images);
            if self.spaces.get(&pod.key.uid) != Some(&spaces) {
                let usage = measured(shared, pod).await;
                let message = exceeded(pod, &usage, is_split(&shared.settings.root_dir, images));
                found.extend(message.map(|message| (pod.key.uid.clone(), message)));
                self.spaces.insert(pod.key.uid.clone(), spaces);
            }
        }
        let ended = shared.clock.now();
        self.rests_until = ended + ended.since(begun) * REST;
        found
    }
}

/// What a pod has of what its limits are about.
async fn measured(shared: &Shared, pod: &Arc<Pod>) -> PodUsage {
    let files = files(pod).await;
    // Volumes have nothing to do with the runtime.
    let containers = if pod.budget.storage_limit.is_some() { containers(shared, pod).await } else { None };
    files.with_containers(containers.unwrap_or_default())
}

/// What there is on the disks a pod writes to: its volumes', its logs' and its containers' own.
fn spaces(pod: &Pod, images: Option<&Path>) -> Vec<Space> {
    let all = [Some(pod.dir.as_path()), Some(pod.log_dir.as_path()), images];
    all.into_iter().flatten().filter_map(|path| usage::space(path).ok()).collect()
}

/// Whether images, and what containers change of them, have a disk of their own.
pub(super) fn is_split(root_dir: &Path, images: Option<&Path>) -> bool {
    let device = |path: &Path| usage::space(path).ok().map(|space| space.device);
    images.and_then(device).is_some_and(|images| device(root_dir).is_some_and(|pods| pods != images))
}

/// What a pod's containers take, as the runtime tells it; none if it does not.
pub(super) async fn containers(shared: &Shared, pod: &Pod) -> Option<BTreeMap<String, ContainerUsage>> {
    let told = shared.runtime.container_usage(&pod.key.uid).await;
    told.inspect_err(|error| {
        tracing::debug!(pod = %pod.key, error = %Chain(error), "what the pod's containers take is not known");
    })
    .ok()
}

/// What a pod has on disk beside what its containers changed of their images. What cannot be looked at takes nothing.
pub(super) async fn files(pod: &Arc<Pod>) -> PodUsage {
    let pod = pod.clone();
    blocking(move || {
        let taken = |path: &Path| {
            usage::of_tree(path).unwrap_or_else(|error| {
                tracing::debug!(pod = %pod.key, error = %Chain(&error), "what the pod has on disk is not known");
                Usage::default()
            })
        };
        let volumes = pod.volumes.iter().filter_map(|volume| match &volume.source {
            VolumeSource::EmptyDir { path, .. } => Some((volume.name.clone(), taken(path))),
            _ => None,
        });
        let containers = pod.containers.iter().map(|container| {
            let logs = taken(&pod.log_dir.join(&container.name));
            (container.name.clone(), ContainerUsage { logs, ..ContainerUsage::default() })
        });
        PodUsage {
            volumes: volumes.collect(),
            containers: containers.collect(),
            rest: taken(&pod.etc_hosts()),
            ..PodUsage::default()
        }
    })
    .await
}

/// How many processes a pod has; none if that cannot be told.
pub(super) async fn processes(shared: &Shared, pod: &Arc<Pod>) -> Option<u64> {
    let (cgroups, pod) = (shared.cgroups.clone(), pod.clone());
    blocking(move || {
        let found = cgroups.processes(&pod).inspect_err(|error| {
            tracing::debug!(pod = %pod.key, error = %Chain(error), "the pod's processes are not known");
        });
        found.ok().map(|pids| u64::try_from(pids.len()).unwrap_or(u64::MAX))
    })
    .await
}
