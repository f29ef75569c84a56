//! Whether a pod has written more than it may.
//!
//! Pure: what it has written was measured, what it may write was resolved.
//!
//! Source: kubernetes v1.36 `pkg/kubelet/eviction/eviction_manager.go`, `localStorageEviction`.

use std::collections::BTreeMap;

use crate::podspec::Pod;

/// What is taken of a disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Holes take nothing, and a file with several names counts once.
    pub bytes: u64,
    /// Files, directories and links.
    pub inodes: u64,
}

/// What a pod takes of its node, as far as it was measured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodUsage {
    /// By name, those of its `emptyDir` volumes that are on disk.
    pub volumes: BTreeMap<String, Usage>,
    /// By name.
    pub containers: BTreeMap<String, ContainerUsage>,
    /// What it has on disk beside these.
    pub rest: Usage,
    /// How many processes it has.
    pub processes: u64,
}

/// What one container takes, its earlier instances' logs included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ContainerUsage {
    /// What cannot be taken back without writing it elsewhere first (`workingSetBytes`).
    pub memory_bytes: u64,
    /// Its logs.
    pub logs: Usage,
    /// What it changed of its image's files.
    pub rootfs: Usage,
}

impl std::ops::Add for Usage {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { bytes: self.bytes.saturating_add(other.bytes), inodes: self.inodes.saturating_add(other.inodes) }
    }
}

impl std::iter::Sum for Usage {
    fn sum<I: Iterator<Item = Self>>(usages: I) -> Self {
        usages.fold(Self::default(), |sum, usage| sum + usage)
    }
}

impl PodUsage {
    /// The same with what the runtime tells of the containers: all but their logs.
    #[must_use]
    pub fn with_containers(mut self, told: BTreeMap<String, ContainerUsage>) -> Self {
        for (name, told) in told {
            let known = self.containers.entry(name).or_default();
            *known = ContainerUsage { logs: known.logs, ..told };
        }
        self
    }

    /// All of its containers' memory.
    pub fn memory_bytes(&self) -> u64 {
        self.containers.values().fold(0, |sum, container| sum.saturating_add(container.memory_bytes))
    }

    /// What its containers changed of their images' files.
    pub fn rootfs(&self) -> Usage {
        self.containers.values().map(|container| container.rootfs).sum()
    }

    /// All else that it has on disk.
    pub fn own_files(&self) -> Usage {
        let logs = self.containers.values().map(|container| container.logs);
        logs.chain(self.volumes.values().copied()).chain([self.rest]).sum()
    }
}

/// Why a pod has to go that has written more than it may, in the kubelet's words; none if it has not.
///
/// `split` is set where images and what containers change of them have a disk of their own: there they do not count
/// against a container's limit.
pub fn exceeded(pod: &Pod, usage: &PodUsage, split: bool) -> Option<String> {
    let taken = |volume: &String| usage.volumes.get(volume).map_or(0, |taken| taken.bytes);
    if let Some((volume, limit)) = pod.budget.volumes.iter().find(|(volume, limit)| taken(volume) > limit.bytes) {
        return Some(format!("Usage of EmptyDir volume \"{volume}\" exceeds the limit \"{}\". ", limit.shown));
    }
    let all = (usage.own_files() + usage.rootfs()).bytes;
    if let Some(limit) = pod.budget.storage_limit.as_ref().filter(|limit| all > limit.bytes) {
        return Some(format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {}. ",
            limit.shown
        ));
    }
    let mut containers = pod.budget.containers.iter();
    containers.find_map(|container| {
        let ContainerUsage { logs, rootfs, .. } = usage.containers.get(&container.name)?;
        let taken = if split { logs.bytes } else { (*logs + *rootfs).bytes };
        let limit = container.storage_limit.as_ref().filter(|limit| taken > limit.bytes)?;
        let name = &container.name;
        Some(format!("Container {name} exceeded its local ephemeral storage limit \"{}\". ", limit.shown))
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::podspec::{Budget, ContainerBudget, Limit};
    use crate::testing::pods;

    fn limit(bytes: u64) -> Limit {
        Limit { bytes, shown: bytes.to_string() }
    }

    /// A pod of two containers limited to 100 bytes each, with a volume limited to 50.
    fn pod() -> Pod {
        let container = |name: &str| ContainerBudget {
            name: name.to_owned(),
            storage_limit: Some(limit(100)),
            ..ContainerBudget::default()
        };
        let budget = Budget {
            volumes: vec![("cache".to_owned(), limit(50))],
            storage_limit: Some(limit(200)),
            containers: vec![container("a"), container("b")],
        };
        Pod { budget, ..pods::pod("web", Path::new("/")) }
    }

    fn bytes(bytes: u64) -> Usage {
        Usage { bytes, inodes: 1 }
    }

    #[test]
    fn the_first_limit_that_is_exceeded_is_named() {
        let usage = |volume, [logs, rootfs]: [u64; 2], rest| PodUsage {
            volumes: [("cache".to_owned(), bytes(volume)), ("other".to_owned(), bytes(60))].into(),
            containers: [(
                "b".to_owned(),
                ContainerUsage { memory_bytes: 0, logs: bytes(logs), rootfs: bytes(rootfs) },
            )]
            .into(),
            rest: bytes(rest),
            processes: 0,
        };
        let volume = "Usage of EmptyDir volume \"cache\" exceeds the limit \"50\". ";
        let whole = "Pod ephemeral local storage usage exceeds the total limit of containers 200. ";
        let container = "Container b exceeded its local ephemeral storage limit \"100\". ";
        for (measured, split, expected) in [
            (usage(50, [40, 40], 10), false, None),
            (usage(51, [900, 0], 0), false, Some(volume)),
            (usage(50, [40, 40], 11), false, Some(whole)),
            (usage(0, [1, 100], 0), false, Some(container)),
            (usage(0, [1, 100], 0), true, None),
            (usage(0, [101, 0], 0), true, Some(container)),
            (PodUsage::default(), false, None),
        ] {
            assert_eq!(exceeded(&pod(), &measured, split).as_deref(), expected, "{measured:?}");
        }
        let unlimited = pods::pod("web", Path::new("/"));
        assert_eq!(exceeded(&unlimited, &usage(900, [900, 900], 900), false), None);
    }
}
