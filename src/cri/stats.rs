//! How much containers take, as the runtime measures it.

use std::collections::{BTreeMap, HashMap};

use k8s_cri::v1;

use super::labels::Owner;
use super::{CriError, DEADLINE, Runtime, labels};
use crate::model::Uid;
use crate::plan::load::Sample;
use crate::plan::storage::{ContainerUsage, Usage};

impl Runtime {
    /// What the containers of a pod take, by name, logs left out: the runtime does not count those. Of a container's
    /// instances the newest counts; one that does not run takes no memory.
    ///
    /// # Errors
    /// As every call: [`CriError`].
    pub async fn container_usage(&self, pod: &Uid) -> Result<BTreeMap<String, ContainerUsage>, CriError> {
        let label_selector = HashMap::from([(labels::POD_UID.to_owned(), pod.0.clone())]);
        let filter = Some(v1::ContainerStatsFilter { label_selector, ..Default::default() });
        let request = v1::ListContainerStatsRequest { filter };
        let reply = self.call("ListContainerStats", DEADLINE, self.pods().list_container_stats(request)).await?;
        Ok(by_name(reply.stats))
    }

    /// What the containers that run in this owner's pods have taken so far.
    ///
    /// # Errors
    /// As every call: [`CriError`].
    pub async fn container_samples(&self, owner: &Owner) -> Result<BTreeMap<Instance, Sample>, CriError> {
        let filter = Some(v1::ContainerStatsFilter { label_selector: owner.selector(), ..Default::default() });
        let request = v1::ListContainerStatsRequest { filter };
        let reply = self.call("ListContainerStats", DEADLINE, self.pods().list_container_stats(request)).await?;
        Ok(reply.stats.into_iter().filter_map(sample).collect())
    }
}

/// One instance of a container, and what it is in its pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instance {
    /// `metadata.uid` of the pod.
    pub pod: Uid,
    /// The container's name.
    pub name: String,
    /// How often it was restarted.
    pub attempt: u32,
}

fn by_name(mut stats: Vec<v1::ContainerStats>) -> BTreeMap<String, ContainerUsage> {
    let metadata =
        |stats: &v1::ContainerStats| stats.attributes.clone().unwrap_or_default().metadata.unwrap_or_default();
    // Of equal names the last one put in stays.
    stats.sort_by_key(|stats| metadata(stats).attempt);
    stats.into_iter().map(|stats| (metadata(&stats).name, usage(&stats))).collect()
}

/// None for a container that does not run: of that the runtime counts nothing.
///
/// CRI's `usage_nano_cores` is not used: over which time runtimes reckon it they do not say.
fn sample(stats: v1::ContainerStats) -> Option<(Instance, Sample)> {
    let v1::ContainerAttributes { metadata, mut labels, .. } = stats.attributes?;
    let v1::ContainerMetadata { name, attempt } = metadata?;
    let cpu = stats.cpu?;
    let sample = Sample {
        at_nanos: cpu.timestamp,
        cpu_nanos: cpu.usage_core_nano_seconds?.value,
        memory_bytes: stats.memory?.working_set_bytes?.value,
    };
    Some((Instance { pod: labels.remove(labels::POD_UID)?.into(), name, attempt }, sample))
}

fn usage(stats: &v1::ContainerStats) -> ContainerUsage {
    let value = |value: Option<&v1::UInt64Value>| value.map_or(0, |value| value.value);
    let layer = stats.writable_layer.as_ref();
    ContainerUsage {
        memory_bytes: value(stats.memory.as_ref().and_then(|memory| memory.working_set_bytes.as_ref())),
        logs: Usage::default(),
        rootfs: Usage {
            bytes: value(layer.and_then(|layer| layer.used_bytes.as_ref())),
            inodes: value(layer.and_then(|layer| layer.inodes_used.as_ref())),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(name: &str, attempt: u32, memory: Option<u64>, layer: Option<[u64; 2]>) -> v1::ContainerStats {
        let number = |value| Some(v1::UInt64Value { value });
        let metadata = Some(v1::ContainerMetadata { name: name.to_owned(), attempt });
        v1::ContainerStats {
            attributes: Some(v1::ContainerAttributes { metadata, ..Default::default() }),
            memory: memory.map(|bytes| v1::MemoryUsage { working_set_bytes: number(bytes), ..Default::default() }),
            writable_layer: layer.map(|[bytes, inodes]| v1::FilesystemUsage {
                used_bytes: number(bytes),
                inodes_used: number(inodes),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn only_what_runs_and_is_a_pods_is_sampled() {
        let number = |value| Some(v1::UInt64Value { value });
        let cpu = |nanos| {
            Some(v1::CpuUsage { timestamp: 5, usage_core_nano_seconds: number(nanos), ..v1::CpuUsage::default() })
        };
        let of_pod = |mut stats: v1::ContainerStats| {
            let attributes = stats.attributes.get_or_insert_default();
            attributes.labels.insert(labels::POD_UID.to_owned(), "pod".to_owned());
            stats
        };
        let runs = of_pod(v1::ContainerStats { cpu: cpu(9), ..stats("web", 2, Some(7), None) });
        let sampled = Sample { at_nanos: 5, cpu_nanos: 9, memory_bytes: 7 };
        assert_eq!(sample(runs), Some((Instance { pod: "pod".into(), name: "web".into(), attempt: 2 }, sampled)));
        assert_eq!(sample(of_pod(stats("web", 1, Some(7), None))), None);
        assert_eq!(sample(v1::ContainerStats { cpu: cpu(9), ..stats("web", 2, Some(7), None) }), None);
    }

    #[test]
    fn the_newest_instance_counts_and_what_is_not_told_is_nothing() {
        let all = vec![
            stats("web", 3, Some(7), Some([10, 2])),
            stats("web", 2, Some(900), None),
            stats("log", 0, None, Some([5, 1])),
        ];
        let usage = |memory_bytes, bytes, inodes| ContainerUsage {
            memory_bytes,
            logs: Usage::default(),
            rootfs: Usage { bytes, inodes },
        };
        let expected = [("log".to_owned(), usage(0, 5, 1)), ("web".to_owned(), usage(7, 10, 2))];
        assert_eq!(by_name(all), expected.into());
    }
}
