//! Requests and limits: what the node reserves, what the kernel is told, and the pod's quality of service.
//!
//! Source: kubernetes v1.36 `pkg/kubelet/kuberuntime/kuberuntime_container_linux.go`, `pkg/kubelet/cm/helpers_linux.go`,
//! `pkg/kubelet/qos/policy.go`, `pkg/apis/core/v1/helper/qos/qos.go`.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Written;

use super::{CgroupDriver, CgroupLimits, HostFacts, LinuxResources, QosClass, Role};
use crate::api::field::{FieldError, Path};
use crate::api::pod_template::is_extended;
use crate::api::quantity::Quantity;
use crate::model::Uid;

pub(super) const CPU: &str = "cpu";
pub(super) const MEMORY: &str = "memory";
const HUGEPAGES_PREFIX: &str = "hugepages-";

const CPU_SHARES_MIN: u64 = 2;
const CPU_SHARES_MAX: u64 = 262_144;
const CPU_PERIOD_MICROS: u64 = 100_000;
/// The kernel takes no smaller quota.
const CPU_QUOTA_MICROS_MIN: u64 = 1000;

/// The class whose pods are killed last when memory runs out.
const NODE_CRITICAL: &str = "system-node-critical";
const OOM_SCORE_CRITICAL: i64 = -997;
const OOM_SCORE_BEST_EFFORT: i64 = 1000;
/// A Burstable container stays between a Guaranteed one and a BestEffort one.
const OOM_SCORE_BURSTABLE: std::ops::RangeInclusive<i64> = 3..=999;

/// Amounts by resource name: cpu in millicores, others in their base unit.
type List = BTreeMap<String, u64>;

/// What one container, or a pod as a whole, asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Amounts {
    pub(super) requests: List,
    pub(super) limits: List,
}

impl Amounts {
    /// Reads `resources` of a container or a pod, as written.
    fn read(resources: Option<&k8s::ResourceRequirements>, at: &Path) -> Result<Self, FieldError> {
        let at = at.child("resources");
        let limits = resources.and_then(|resources| resources.limits.as_ref());
        let requests = resources.and_then(|resources| resources.requests.as_ref());
        Ok(Self { requests: list(requests, &at.child("requests"))?, limits: list(limits, &at.child("limits"))? })
    }

    /// A resource that is limited and not requested is requested up to its limit, as the API server writes it into every
    /// pod.
    fn completed(mut self) -> Self {
        for (name, limit) in &self.limits {
            self.requests.entry(name.clone()).or_insert(*limit);
        }
        self
    }

    pub(super) fn request(&self, name: &str) -> u64 {
        self.requests.get(name).copied().unwrap_or(0)
    }

    pub(super) fn limit(&self, name: &str) -> u64 {
        self.limits.get(name).copied().unwrap_or(0)
    }
}

fn list(written: Option<&BTreeMap<String, Written>>, at: &Path) -> Result<List, FieldError> {
    let amount = |(name, text): (&String, &Written)| Ok((name.clone(), amount(name, text, at)?));
    written.into_iter().flatten().map(amount).collect()
}

fn amount(name: &str, Written(text): &Written, at: &Path) -> Result<u64, FieldError> {
    let at = at.key(name);
    let quantity: Quantity =
        text.parse().map_err(|error| FieldError::invalid(&at, text.as_str(), format!("{error}")))?;
    let amount = if name == CPU { quantity.milli_value() } else { quantity.value() };
    u64::try_from(amount).map_err(|_| FieldError::invalid(&at, text.as_str(), "must be greater than or equal to 0"))
}

/// What a pod asks for: each of its containers, the pod as a whole, and what the runtime takes beside them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Demand {
    /// In the order of the template; `true` for a sidecar.
    init: Vec<(Amounts, bool)>,
    regular: Vec<Amounts>,
    /// `spec.resources`; empty without.
    pod: Amounts,
    overhead: List,
    node_critical: bool,
}

impl Demand {
    /// Reads them from a pod's spec and completes what the API server would complete in a pod.
    pub(super) fn read(spec: &k8s::PodSpec, at: &Path) -> Result<Self, FieldError> {
        let each = |list: &[k8s::Container], field| {
            let amounts = |(index, container): (usize, &k8s::Container)| {
                Amounts::read(container.resources.as_ref(), &at.child(field).index(index)).map(Amounts::completed)
            };
            list.iter().enumerate().map(amounts).collect::<Result<Vec<_>, FieldError>>()
        };
        let init = spec.init_containers.as_deref().unwrap_or_default();
        let is_sidecar = init.iter().map(|container| container.restart_policy.as_deref() == Some("Always"));
        let mut demand = Self {
            init: each(init, "initContainers")?.into_iter().zip(is_sidecar).collect(),
            regular: each(&spec.containers, "containers")?,
            pod: Amounts::read(spec.resources.as_ref(), at)?,
            overhead: list(spec.overhead.as_ref(), &at.child("overhead"))?,
            node_critical: spec.priority_class_name.as_deref() == Some(NODE_CRITICAL),
        };
        demand.complete_pod();
        Ok(demand)
    }

    /// Completes `spec.resources`: a request that is missing is what the containers request, or the pod's own limit; of huge
    /// pages the limit is the containers'.
    ///
    /// Source: kubernetes v1.36 `pkg/apis/core/v1/defaults.go`, `setDefaultPodRequests` and `setDefaultPodLimits`.
    fn complete_pod(&mut self) {
        if self.pod.limits.is_empty() {
            return;
        }
        for (name, limit) in self.aggregate(|amounts| &amounts.limits) {
            if name.starts_with(HUGEPAGES_PREFIX) {
                self.pod.limits.entry(name).or_insert(limit);
            }
        }
        for (name, request) in self.aggregate(|amounts| &amounts.requests) {
            if name == CPU || name == MEMORY {
                self.pod.requests.entry(name).or_insert(request);
            }
        }
        self.pod = std::mem::take(&mut self.pod).completed();
    }

    /// What all containers ask for at the worst moment of starting or running, in one of their two lists.
    ///
    /// Source: kubernetes v1.36 `k8s.io/component-helpers/resource/helpers.go`, `AggregateContainerRequests`.
    fn aggregate(&self, of: impl Fn(&Amounts) -> &List) -> List {
        let mut running = List::new();
        self.regular.iter().for_each(|amounts| add(&mut running, of(amounts)));
        let (mut sidecars, mut starting) = (List::new(), List::new());
        for (amounts, is_sidecar) in &self.init {
            let mut now = sidecars.clone();
            add(&mut now, of(amounts));
            if *is_sidecar {
                add(&mut running, of(amounts));
                sidecars.clone_from(&now);
            }
            raise(&mut starting, now);
        }
        raise(&mut running, starting);
        running
    }

    /// What the pod asks of its node without overhead: `spec.resources` goes before the sum of the containers.
    fn total(&self) -> Amounts {
        let mut total =
            Amounts { requests: self.aggregate(|own| &own.requests), limits: self.aggregate(|own| &own.limits) };
        total.requests.extend(self.pod.requests.clone());
        total.limits.extend(self.pod.limits.clone());
        total
    }

    /// The same with overhead: what is set aside for the pod, and what its cgroup is told. A resource without a limit gets
    /// none from the overhead.
    fn whole(&self) -> Amounts {
        let mut whole = self.total();
        add(&mut whole.requests, &self.overhead);
        for (name, limit) in &mut whole.limits {
            *limit = limit.saturating_add(self.overhead.get(name).copied().unwrap_or(0));
        }
        whole
    }

    /// What the node sets aside for the pod. Zero is left out: it counts as not asked for.
    pub(super) fn requests(&self) -> List {
        let mut requests = self.whole().requests;
        requests.retain(|_, amount| *amount > 0);
        requests
    }

    /// The pod's quality of service. Only cpu and memory count, and zero as if it were not there. With `spec.resources` the
    /// containers' own play no part.
    ///
    /// Source: kubernetes v1.36 `pkg/apis/core/v1/helper/qos/qos.go`, `ComputePodQOS`.
    pub(super) fn qos(&self) -> QosClass {
        let names = [CPU, MEMORY];
        let is_bare =
            |amounts: &&Amounts| names.iter().all(|name| amounts.request(name) == 0 && amounts.limit(name) == 0);
        let is_fixed = |amounts: &&Amounts| {
            names.iter().all(|name| amounts.limit(name) > 0 && amounts.request(name) == amounts.limit(name))
        };
        let counting: Vec<_> = if self.pod == Amounts::default() {
            self.regular.iter().chain(self.init.iter().map(|(amounts, _)| amounts)).collect()
        } else {
            vec![&self.pod]
        };
        if counting.iter().all(is_bare) {
            QosClass::BestEffort
        } else if counting.iter().all(is_fixed) {
            QosClass::Guaranteed
        } else {
            QosClass::Burstable
        }
    }

    /// What the pod's own cgroup is told. A limit holds only where the pod or every container has one: another's is not to
    /// bound those without.
    ///
    /// Source: kubernetes v1.36 `pkg/kubelet/cm/helpers_linux.go`, `ResourceConfigForPod`.
    pub(super) fn cgroup(&self, host: &HostFacts) -> CgroupLimits {
        let whole = self.whole();
        let resources = linux(&whole, host);
        let best_effort = self.qos() == QosClass::BestEffort;
        CgroupLimits {
            cpu_shares: if best_effort { signed(CPU_SHARES_MIN) } else { resources.cpu_shares },
            cpu_quota: self.is_limited(CPU).then_some((resources.cpu_quota, resources.cpu_period)),
            memory_bytes: self.is_limited(MEMORY).then_some(resources.memory_limit_bytes),
            hugepage_bytes: hugepage_limits(&whole.requests, &host.hugepage_sizes),
        }
    }

    /// Whether the pod as a whole is limited in a resource.
    fn is_limited(&self, name: &str) -> bool {
        let mut containers = self.regular.iter().chain(self.init.iter().map(|(amounts, _)| amounts));
        self.pod.limit(name) > 0 || containers.all(|amounts| amounts.limit(name) > 0)
    }

    /// The sandbox's resources: those of the pod without overhead.
    pub(super) fn sandbox(&self, host: &HostFacts) -> LinuxResources {
        linux(&self.total(), host)
    }

    /// What the runtime takes beside the containers, both asked for and bounded; nothing at all without.
    pub(super) fn overhead(&self, host: &HostFacts) -> LinuxResources {
        if self.overhead.is_empty() {
            return LinuxResources::default();
        }
        linux(&Amounts { requests: self.overhead.clone(), limits: self.overhead.clone() }, host)
    }

    /// The memory that the pod is limited to, if it is.
    pub(super) fn memory_bound(&self) -> Option<u64> {
        self.is_limited(MEMORY).then(|| self.whole().limit(MEMORY))
    }

    /// The sizes of the huge pages that some container or the pod asks for, in bytes.
    pub(super) fn hugepage_sizes(&self) -> BTreeSet<u64> {
        self.total().requests.keys().filter_map(|name| hugepage_size(name)).collect()
    }

    /// What one container asks for, with the pod's limits where it has none of its own.
    ///
    /// Source: kubernetes v1.36 `pkg/kubelet/kuberuntime/kuberuntime_container_linux.go`, `getCPULimit` and `getMemoryLimit`.
    pub(super) fn of(&self, role: Role, index: usize) -> Amounts {
        let own = match role {
            Role::Regular => self.regular.get(index),
            Role::Init | Role::Sidecar => self.init.get(index).map(|(amounts, _)| amounts),
            // It has no say of its own in what the pod uses.
            Role::Ephemeral => None,
        };
        let mut amounts = own.cloned().unwrap_or_default();
        for (name, limit) in &self.pod.limits {
            amounts.limits.entry(name.clone()).or_insert(*limit);
        }
        amounts
    }

    /// The resources of one container; `amounts` are those of [`Demand::of`].
    pub(super) fn container(&self, amounts: &Amounts, role: Role, host: &HostFacts) -> LinuxResources {
        let resources = linux(amounts, host);
        let mut unified = resources.unified;
        // No container swaps, as with the kubelet's `NoSwap`.
        if host.cgroup_v2 && host.swap_limits {
            unified.insert("memory.swap.max".to_owned(), "0".to_owned());
        }
        let swap_v1 = !host.cgroup_v2 && host.swap_limits;
        LinuxResources {
            memory_swap_limit_bytes: if swap_v1 { resources.memory_limit_bytes } else { 0 },
            oom_score_adj: self.oom_score_adj(amounts, role, host.memory_capacity_bytes),
            hugepage_limits: hugepage_limits(&amounts.limits, &host.hugepage_sizes),
            unified,
            ..resources
        }
    }

    /// Who is killed first. What the pod requests beyond its containers is shared out among them; a sidecar is not killed
    /// before the container that requests least.
    ///
    /// Source: kubernetes v1.36 `pkg/kubelet/qos/policy.go`, `GetContainerOOMScoreAdjust`.
    fn oom_score_adj(&self, amounts: &Amounts, role: Role, memory_capacity_bytes: u64) -> i64 {
        let qos = self.qos();
        if self.node_critical || qos == QosClass::Guaranteed {
            return OOM_SCORE_CRITICAL;
        }
        if qos == QosClass::BestEffort {
            return OOM_SCORE_BEST_EFFORT;
        }
        let containers = u64::try_from(self.regular.len() + self.init.len()).unwrap_or(u64::MAX);
        let asked = self.aggregate(|own| &own.requests).get(MEMORY).copied().unwrap_or(0);
        let share = self.pod.request(MEMORY).saturating_sub(asked) / containers.max(1);
        let least = self.regular.iter().map(|amounts| amounts.request(MEMORY)).min().unwrap_or(0);
        let own = amounts.request(MEMORY);
        let counted = if role == Role::Sidecar { own.max(least) } else { own };
        let thousandths = counted.saturating_add(share).saturating_mul(1000) / memory_capacity_bytes.max(1);
        (1000 - signed(thousandths)).clamp(*OOM_SCORE_BURSTABLE.start(), *OOM_SCORE_BURSTABLE.end())
    }
}

/// How many devices a container gets: its limits of extended resources, which only device plugins have here.
pub(super) fn devices(amounts: &Amounts) -> List {
    let limits = amounts.limits.iter().filter(|(name, limit)| **limit > 0 && is_extended(name));
    limits.map(|(name, limit)| (name.clone(), *limit)).collect()
}

fn add(sums: &mut List, amounts: &List) {
    for (name, amount) in amounts {
        let sum = sums.entry(name.clone()).or_default();
        *sum = sum.saturating_add(*amount);
    }
}

fn raise(amounts: &mut List, others: List) {
    for (name, other) in others {
        let amount = amounts.entry(name).or_insert(other);
        *amount = (*amount).max(other);
    }
}

/// Cpu and memory as the kernel takes them; all else at its default. Without a request the limit makes the weight.
///
/// Source: kubernetes v1.36 `pkg/kubelet/kuberuntime/kuberuntime_container_linux.go`, `calculateLinuxResources`.
fn linux(amounts: &Amounts, host: &HostFacts) -> LinuxResources {
    let cpu_limit = amounts.limit(CPU);
    let cpu_request = amounts.requests.get(CPU).copied().unwrap_or(cpu_limit);
    let quota = (cpu_limit.saturating_mul(CPU_PERIOD_MICROS) / 1000).max(CPU_QUOTA_MICROS_MIN);
    let mut unified = BTreeMap::new();
    if host.cgroup_v2 {
        // Out of memory ends the whole container, not one process of it.
        unified.insert("memory.oom.group".to_owned(), "1".to_owned());
    }
    LinuxResources {
        cpu_shares: signed((cpu_request.saturating_mul(1024) / 1000).clamp(CPU_SHARES_MIN, CPU_SHARES_MAX)),
        cpu_quota: if cpu_limit == 0 { 0 } else { signed(quota) },
        cpu_period: signed(CPU_PERIOD_MICROS),
        memory_limit_bytes: signed(amounts.limit(MEMORY)),
        unified,
        ..LinuxResources::default()
    }
}

fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

/// One entry per page size of the host, so that a container without a limit gets none.
fn hugepage_limits(amounts: &List, sizes: &[u64]) -> Vec<(String, u64)> {
    let limit = |size: u64| {
        let named = amounts.iter().find(|(name, _)| hugepage_size(name) == Some(size));
        (hugepage_name(size), named.map_or(0, |(_, limit)| *limit))
    };
    sizes.iter().map(|size| limit(*size)).collect()
}

/// The page size a resource is named for: `hugepages-2Mi`.
pub(super) fn hugepage_size(resource: &str) -> Option<u64> {
    let size: Quantity = resource.strip_prefix(HUGEPAGES_PREFIX)?.parse().ok()?;
    u64::try_from(size.value()).ok()
}

/// A page size as CRI and cgroups name it: `2MB`, `1GB`.
fn hugepage_name(size: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KB", "MB", "GB", "TB"];
    let power = UNITS.len() - 1;
    let power = (0..power).find(|power| size >> (10 * (power + 1)) == 0).unwrap_or(power);
    format!("{}{}", size >> (10 * power), UNITS[power])
}

/// The pod's cgroup as the runtime is told it. `root` is the cgroup all pods are below, `/` for none; systemd has its
/// own tree, in which it plays no part.
///
/// Source: kubernetes v1.36 `pkg/kubelet/cm/cgroup_manager_linux.go`, `pod_container_manager_linux.go`.
pub(super) fn cgroup_parent(root: &str, uid: &Uid, qos: QosClass, driver: CgroupDriver) -> String {
    let root = root.trim_end_matches('/');
    let class = match qos {
        QosClass::Guaranteed => None,
        QosClass::Burstable => Some("burstable"),
        QosClass::BestEffort => Some("besteffort"),
    };
    match (driver, class) {
        (CgroupDriver::Cgroupfs, None) => format!("{root}/kubepods/pod{uid}"),
        (CgroupDriver::Cgroupfs, Some(class)) => format!("{root}/kubepods/{class}/pod{uid}"),
        (CgroupDriver::Systemd, class) => {
            // In the name of a slice a dash stands between the levels of the tree.
            let pod = uid.as_str().replace('-', "_");
            match class {
                None => format!("/kubepods.slice/kubepods-pod{pod}.slice"),
                Some(class) => {
                    format!("/kubepods.slice/kubepods-{class}.slice/kubepods-{class}-pod{pod}.slice")
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
