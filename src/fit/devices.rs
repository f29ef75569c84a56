//! Which devices a container gets: what there is of a resource, who has which, and which of the others to take.
//!
//! Source: kubernetes v1.36 `pkg/kubelet/cm/devicemanager/manager.go` (`Allocate`, `devicesToAllocate`). We differ on purpose:
//! devices are chosen when a container is made, not when its pod is admitted, so what an init container leaves to a later one is
//! left to it only while it is healthy.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::model::Uid;
use crate::podspec::{Container, Granted, Pod, Role};

/// The devices of one resource by their ids.
pub type Stock = BTreeMap<String, Device>;

/// One device as its plugin tells of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// It can be given out.
    pub healthy: bool,
    /// The NUMA nodes that it is close to; empty if it is as close to all. They play no part in the choice.
    pub numa_nodes: Vec<i64>,
}

/// Devices of one resource that are close to the same NUMA nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// `vendor.example/thing`.
    pub resource: String,
    /// As [`Device::numa_nodes`].
    pub numa_nodes: Vec<i64>,
    /// Their ids.
    pub devices: Vec<String>,
}

/// Sorts devices of a resource by where they are, as far as that is known.
pub fn grouped<'a>(resource: &str, ids: impl Iterator<Item = &'a String>, stock: Option<&Stock>) -> Vec<Group> {
    let mut groups: BTreeMap<Vec<i64>, Vec<String>> = BTreeMap::new();
    for id in ids {
        let device = stock.and_then(|stock| stock.get(id));
        let numa_nodes = device.map(|device| device.numa_nodes.clone()).unwrap_or_default();
        groups.entry(numa_nodes).or_default().push(id.clone());
    }
    let group = |(numa_nodes, devices)| Group { resource: resource.to_owned(), numa_nodes, devices };
    groups.into_iter().map(group).collect()
}

/// The devices of one resource that a container has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Holding {
    /// Whose pod's.
    pub pod: Uid,
    /// The container's name.
    pub container: String,
    /// `vendor.example/thing`.
    pub resource: String,
    /// Their ids.
    pub devices: BTreeSet<String>,
    /// What came with them; none while the plugin is being asked for it.
    pub granted: Option<Granted>,
    /// The plugin wants to hear of each start of the container.
    pub pre_start: bool,
}

impl Holding {
    /// Whether it is this container's of this resource.
    pub fn is_of(&self, pod: &Pod, container: &Container, resource: &str) -> bool {
        self.pod == pod.key.uid && self.container == container.name && self.resource == resource
    }
}

/// What a container may get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// These in any case: its pod has them already.
    pub must: BTreeSet<String>,
    /// Some of these beside.
    pub free: BTreeSet<String>,
    /// So many in all.
    pub size: usize,
}

/// Says what a container may get that is to have `amount` devices of a resource. `stock` is what there is of it, none if no
/// plugin has registered it; `holdings` is what all containers of the node have.
///
/// # Errors
/// What is lacking, in upstream's words.
pub fn choice(
    (pod, container): (&Pod, &Container),
    (resource, amount): (&str, u64),
    stock: Option<&Stock>,
    holdings: &[Holding],
) -> Result<Choice, String> {
    let stock = stock.ok_or_else(|| format!("cannot allocate unregistered device {resource}"))?;
    let healthy: BTreeSet<_> = stock.iter().filter(|(_, device)| device.healthy).map(|(id, _)| id.clone()).collect();
    if healthy.is_empty() {
        return Err(format!("no healthy devices present; cannot allocate unhealthy devices {resource}"));
    }
    let others: Vec<_> =
        holdings.iter().filter(|held| held.resource == resource && !held.is_of(pod, container, resource)).collect();
    let role = |held: &Holding| pod.containers.iter().find(|one| one.name == held.container).map(|one| one.role);
    let of_pod = |by_init: bool| {
        let held =
            others.iter().filter(move |held| held.pod == pod.key.uid && (role(held) == Some(Role::Init)) == by_init);
        held.flat_map(|held| held.devices.iter().cloned()).collect::<BTreeSet<_>>()
    };
    // What has run to its end leaves its devices to those after it, of which the others stay.
    let (left, kept) = (of_pod(true), of_pod(false));
    let size = usize::try_from(amount).unwrap_or(usize::MAX);
    let must: BTreeSet<_> =
        left.into_iter().filter(|id| healthy.contains(id) && !kept.contains(id)).take(size).collect();
    let in_use: BTreeSet<_> = others.iter().flat_map(|held| &held.devices).collect();
    let free: BTreeSet<_> = healthy.into_iter().filter(|id| !in_use.contains(id)).collect();
    let (lacking, available) = (size - must.len(), free.len());
    if available < lacking {
        return Err(format!(
            "requested number of devices unavailable for {resource}. Requested: {lacking}, Available: {available}"
        ));
    }
    Ok(Choice { must, free, size })
}

impl Choice {
    /// Whether there is anything to choose.
    pub fn is_open(&self) -> bool {
        self.must.len() < self.size
    }

    /// The devices to take: those that are preferred before others, in their order.
    pub fn pick(self, preferred: &[String]) -> BTreeSet<String> {
        let Self { must, free, size } = self;
        let mut picked = must;
        let first = preferred.iter().filter(|id| free.contains(*id));
        for id in first.chain(&free) {
            if picked.len() == size {
                break;
            }
            picked.insert(id.clone());
        }
        picked
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::testing::pods;

    const THING: &str = "example.com/thing";

    /// A pod with containers of these roles; each is named like its role, and its devices, ids in one text, are held.
    fn pod(name: &str, held: &[(&str, Role, &str)]) -> (Pod, Vec<Holding>) {
        let mut pod = pods::pod(name, Path::new("/"));
        let mut holdings = Vec::new();
        for (container, role, ids) in held {
            pod.containers.push(Container { role: *role, ..pods::container(container, "web", &[]) });
            if !ids.is_empty() {
                holdings.push(Holding {
                    pod: pod.key.uid.clone(),
                    container: (*container).to_owned(),
                    resource: THING.to_owned(),
                    devices: ids.chars().map(String::from).collect(),
                    granted: None,
                    pre_start: false,
                });
            }
        }
        (pod, holdings)
    }

    /// What the last of these containers gets of devices a to e, of which e is not healthy; another pod has d. `preferred` are
    /// ids in one text.
    fn gets(containers: &[(&str, Role, &str)], amount: u64, preferred: &str) -> Result<String, String> {
        let (asking, mut holdings) = pod("asking", containers);
        holdings.extend(pod("other", &[("main", Role::Regular, "d")]).1);
        let device = |id: char| Device { healthy: id != 'e', ..Device::default() };
        let stock: Stock = "abcde".chars().map(|id| (id.to_string(), device(id))).collect();
        let container = asking.containers.last().unwrap();
        let choice = choice((&asking, container), (THING, amount), Some(&stock), &holdings)?;
        let preferred: Vec<_> = preferred.chars().map(String::from).collect();
        Ok(choice.pick(&preferred).into_iter().collect())
    }

    #[test]
    fn a_container_gets_what_is_healthy_and_free_what_is_preferred_first() {
        let main = [("main", Role::Regular, "")];
        assert_eq!(gets(&main, 1, "").as_deref(), Ok("a"));
        assert_eq!(gets(&main, 2, "cx").as_deref(), Ok("ac"), "what there is not is not preferred");
        assert_eq!(gets(&main, 2, "edcb").as_deref(), Ok("bc"), "nor what is ill, or another's");
        assert_eq!(gets(&main, 3, "c").as_deref(), Ok("abc"));
        let lacking = format!("requested number of devices unavailable for {THING}. Requested: 4, Available: 3");
        assert_eq!(gets(&main, 4, ""), Err(lacking));
        assert_eq!(gets(&[("main", Role::Regular, "b")], 3, "").as_deref(), Ok("abc"), "its own is in nobody's way");
    }

    #[test]
    fn what_init_containers_had_is_used_again_and_what_sidecars_have_is_not() {
        let init = ("init", Role::Init, "bc");
        let main = ("main", Role::Regular, "");
        assert_eq!(gets(&[init, main], 1, "a").as_deref(), Ok("b"), "whatever is preferred");
        assert_eq!(gets(&[init, main], 3, "").as_deref(), Ok("abc"));
        assert_eq!(gets(&[init, ("again", Role::Init, "")], 2, "").as_deref(), Ok("bc"));
        assert_eq!(gets(&[init, ("sidecar", Role::Sidecar, "b"), main], 1, "").as_deref(), Ok("c"));
        assert_eq!(gets(&[init, ("first", Role::Regular, "bc"), main], 1, "").as_deref(), Ok("a"));
        let lacking = format!("requested number of devices unavailable for {THING}. Requested: 2, Available: 1");
        assert_eq!(gets(&[("sidecar", Role::Sidecar, "bc"), main], 2, ""), Err(lacking));
    }

    #[test]
    fn devices_are_told_of_by_their_place() {
        let device = |node| Device { healthy: true, numa_nodes: vec![node] };
        let stock =
            [("a", device(1)), ("b", device(0)), ("c", device(1))].map(|(id, device)| (id.to_owned(), device)).into();
        let ids = ["a", "b", "c", "gone"].map(str::to_owned);
        let group = |numa_nodes: &[i64], ids: &[&str]| Group {
            resource: THING.to_owned(),
            numa_nodes: numa_nodes.to_vec(),
            devices: ids.iter().map(|id| (*id).to_owned()).collect(),
        };
        let expected = [group(&[], &["gone"]), group(&[0], &["b"]), group(&[1], &["a", "c"])];
        assert_eq!(grouped(THING, ids.iter(), Some(&stock)), expected);
    }

    #[test]
    fn a_resource_has_to_be_registered_and_to_have_something_healthy() {
        let (asking, _) = pod("asking", &[("main", Role::Regular, "")]);
        let of = |stock: Option<&Stock>| choice((&asking, &asking.containers[0]), (THING, 1), stock, &[]).unwrap_err();
        assert_eq!(of(None), format!("cannot allocate unregistered device {THING}"));
        let ill = [("a".to_owned(), Device::default())].into();
        let words = format!("no healthy devices present; cannot allocate unhealthy devices {THING}");
        assert_eq!([of(Some(&Stock::new())), of(Some(&ill))], [words.clone(), words]);
    }
}
