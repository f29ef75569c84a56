//! Requests and limits: what the node reserves, what the kernel is told, and the pod's quality of service.
//!
//! Source: kubernetes v1.36 `pkg/kubelet/kuberuntime/kuberuntime_container_linux.go`, `pkg/kubelet/cm/helpers_linux.go`,
//! `pkg/kubelet/qos/policy.go`, `pkg/apis/core/v1/helper/qos/qos.go`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Written;

use super::{CgroupDriver, HostFacts, LinuxResources, QosClass};
use crate::api::field::{FieldError, Path};
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

/// What one container, or all of a pod together, asks for: by resource name, cpu in millicores, others in their base unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Amounts {
    pub(super) requests: BTreeMap<String, u64>,
    pub(super) limits: BTreeMap<String, u64>,
}

impl Amounts {
    /// Reads `resources` of a container. A resource that is limited and not requested is requested up to its limit, as the
    /// API server writes it into every pod.
    pub(super) fn read(resources: Option<&k8s::ResourceRequirements>, at: &Path) -> Result<Self, FieldError> {
        let at = at.child("resources");
        let limits = list(resources.and_then(|resources| resources.limits.as_ref()), &at.child("limits"))?;
        let requested = list(resources.and_then(|resources| resources.requests.as_ref()), &at.child("requests"))?;
        let mut requests = limits.clone();
        requests.extend(requested);
        Ok(Self { requests, limits })
    }

    /// Reads `overhead` of a pod: what the runtime takes is requested, and limited, as it is.
    pub(super) fn overhead(overhead: Option<&BTreeMap<String, Written>>, at: &Path) -> Result<Self, FieldError> {
        let requests = list(overhead, &at.child("overhead"))?;
        Ok(Self { limits: requests.clone(), requests })
    }

    /// All containers of a pod together.
    pub(super) fn sum(containers: &[Self]) -> Self {
        let mut sum = Self::default();
        for container in containers {
            for (into, from) in [(&mut sum.requests, &container.requests), (&mut sum.limits, &container.limits)] {
                for (name, amount) in from {
                    let total = into.entry(name.clone()).or_default();
                    *total = total.saturating_add(*amount);
                }
            }
        }
        sum
    }

    pub(super) fn request(&self, name: &str) -> u64 {
        self.requests.get(name).copied().unwrap_or(0)
    }

    pub(super) fn limit(&self, name: &str) -> u64 {
        self.limits.get(name).copied().unwrap_or(0)
    }
}

fn list(list: Option<&BTreeMap<String, Written>>, at: &Path) -> Result<BTreeMap<String, u64>, FieldError> {
    let amount = |(name, text): (&String, &Written)| Ok((name.clone(), amount(name, text, at)?));
    list.into_iter().flatten().map(amount).collect()
}

fn amount(name: &str, Written(text): &Written, at: &Path) -> Result<u64, FieldError> {
    let at = at.key(name);
    let quantity: Quantity =
        text.parse().map_err(|error| FieldError::invalid(&at, text.as_str(), format!("{error}")))?;
    let amount = if name == CPU { quantity.milli_value() } else { quantity.value() };
    u64::try_from(amount).map_err(|_| FieldError::invalid(&at, text.as_str(), "must be greater than or equal to 0"))
}

/// The pod's quality of service. Only cpu and memory count, and zero as if it were not there.
pub(super) fn qos(containers: &[Amounts]) -> QosClass {
    let names = [CPU, MEMORY];
    let is_bare = |amounts: &Amounts| names.iter().all(|name| amounts.request(name) == 0 && amounts.limit(name) == 0);
    let is_fixed = |amounts: &Amounts| {
        names.iter().all(|name| amounts.limit(name) > 0 && amounts.request(name) == amounts.limit(name))
    };
    if containers.iter().all(is_bare) {
        QosClass::BestEffort
    } else if containers.iter().all(is_fixed) {
        QosClass::Guaranteed
    } else {
        QosClass::Burstable
    }
}

/// The memory all containers together may take; none if one of them has no limit.
pub(super) fn memory_bound(containers: &[Amounts]) -> Option<u64> {
    containers.iter().map(|amounts| Some(amounts.limit(MEMORY)).filter(|limit| *limit > 0)).sum()
}

/// Cpu and memory as the kernel takes them; all else at its default.
fn weights(amounts: &Amounts) -> LinuxResources {
    let cpu_limit = amounts.limit(CPU);
    let quota = (cpu_limit.saturating_mul(CPU_PERIOD_MICROS) / 1000).max(CPU_QUOTA_MICROS_MIN);
    LinuxResources {
        cpu_shares: signed((amounts.request(CPU).saturating_mul(1024) / 1000).clamp(CPU_SHARES_MIN, CPU_SHARES_MAX)),
        cpu_quota: if cpu_limit == 0 { 0 } else { signed(quota) },
        cpu_period: signed(CPU_PERIOD_MICROS),
        memory_limit_bytes: signed(amounts.limit(MEMORY)),
        ..LinuxResources::default()
    }
}

fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

/// The sandbox's resources: those of all containers together.
pub(super) fn sandbox(containers: &[Amounts]) -> LinuxResources {
    weights(&Amounts::sum(containers))
}

/// What the pod asks of its node.
pub(super) fn requests(containers: &[Amounts], overhead: &Amounts) -> BTreeMap<String, u64> {
    Amounts::sum(&[Amounts::sum(containers), overhead.clone()]).requests
}

/// What the runtime takes beside the containers; nothing at all without an overhead.
pub(super) fn overhead(overhead: &Amounts) -> LinuxResources {
    if overhead.requests.is_empty() { LinuxResources::default() } else { weights(overhead) }
}

/// One container's resources.
pub(super) fn container(amounts: &Amounts, spec: &k8s::PodSpec, qos: QosClass, host: &HostFacts) -> LinuxResources {
    let weights = weights(amounts);
    let mut unified = BTreeMap::new();
    if host.cgroup_v2 {
        // Out of memory ends the whole container, not one process of it.
        unified.insert("memory.oom.group".to_owned(), "1".to_owned());
    }
    // No container swaps, as with the kubelet's `NoSwap`.
    if host.cgroup_v2 && host.swap_limits {
        unified.insert("memory.swap.max".to_owned(), "0".to_owned());
    }
    let swap_v1 = !host.cgroup_v2 && host.swap_limits;
    LinuxResources {
        memory_swap_limit_bytes: if swap_v1 { weights.memory_limit_bytes } else { 0 },
        oom_score_adj: oom_score_adj(amounts, spec, qos, host.memory_capacity_bytes),
        hugepage_limits: hugepage_limits(amounts, &host.hugepage_sizes),
        unified,
        ..weights
    }
}

fn oom_score_adj(amounts: &Amounts, spec: &k8s::PodSpec, qos: QosClass, memory_capacity_bytes: u64) -> i64 {
    if qos == QosClass::Guaranteed || spec.priority_class_name.as_deref() == Some(NODE_CRITICAL) {
        return OOM_SCORE_CRITICAL;
    }
    if qos == QosClass::BestEffort {
        return OOM_SCORE_BEST_EFFORT;
    }
    let thousandths = amounts.request(MEMORY).saturating_mul(1000) / memory_capacity_bytes.max(1);
    (1000 - signed(thousandths)).clamp(*OOM_SCORE_BURSTABLE.start(), *OOM_SCORE_BURSTABLE.end())
}

/// One entry per page size of the host, so that a container without a limit gets none.
fn hugepage_limits(amounts: &Amounts, sizes: &[u64]) -> Vec<(String, u64)> {
    let limit = |size: u64| {
        let named = amounts.limits.iter().find(|(name, _)| hugepage_size(name) == Some(size));
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
