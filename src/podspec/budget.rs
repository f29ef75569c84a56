//! What a pod asked for, and may take, of what its node can run out of: memory and disk.
//!
//! The kernel bounds memory; nothing but the agent bounds what a pod writes.
//!
//! Source: kubernetes v1.36 `pkg/kubelet/eviction/eviction_manager.go` (`localStorageEviction`),
//! `staging/src/k8s.io/component-helpers/resource/helpers.go` (`AggregateContainerLimits`).

use k8s_openapi::api::core::v1 as k8s;

use crate::api::field::{FieldError, Path};
use crate::api::quantity::Quantity;

const MEMORY: &str = "memory";
const STORAGE: &str = "ephemeral-storage";

/// What a pod asked for and may take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Budget {
    /// `emptyDir.sizeLimit` by name of volume, for those on disk.
    pub volumes: Vec<(String, Limit)>,
    /// What the pod as a whole may write, if any of its containers has a limit.
    pub storage_limit: Option<Limit>,
    /// Its containers, ephemeral ones left out.
    pub containers: Vec<ContainerBudget>,
}

/// The same of one container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerBudget {
    /// Its name.
    pub name: String,
    /// `requests.memory`; 0 without.
    pub memory_request_bytes: u64,
    /// `requests["ephemeral-storage"]`; 0 without.
    pub storage_request_bytes: u64,
    /// `limits["ephemeral-storage"]`: what it may log, and write to its own file system. Init containers have none of their
    /// own.
    pub storage_limit: Option<Limit>,
}

/// An amount that must not be exceeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// In bytes.
    pub bytes: u64,
    /// In the form in which Kubernetes shows it.
    pub shown: String,
}

impl Budget {
    /// Whether anything of what the pod writes is bounded.
    pub fn bounds_storage(&self) -> bool {
        !self.volumes.is_empty() || self.storage_limit.is_some()
    }
}

impl From<Quantity> for Limit {
    fn from(quantity: Quantity) -> Self {
        Self { bytes: bytes(quantity), shown: quantity.to_string() }
    }
}

/// Reads them from a pod's spec.
pub(super) fn budget(spec: &k8s::PodSpec, at: &Path) -> Result<Budget, FieldError> {
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let init = read(init, &at.child("initContainers"))?;
    let regular = read(&spec.containers, &at.child("containers"))?;
    let storage_limit = storage_limit(&init, &regular);
    let without_limit = init.into_iter().map(|one| ContainerBudget { storage_limit: None, ..one.budget });
    Ok(Budget {
        volumes: volume_limits(spec, at)?,
        storage_limit,
        containers: without_limit.chain(regular.into_iter().map(|one| one.budget)).collect(),
    })
}

struct Read {
    budget: ContainerBudget,
    limit: Option<Quantity>,
    is_sidecar: bool,
}

fn read(containers: &[k8s::Container], at: &Path) -> Result<Vec<Read>, FieldError> {
    let read = |(index, container): (usize, &k8s::Container)| {
        let at = at.index(index).child("resources");
        let amount = |list: &str, name: &str| {
            let resources = container.resources.as_ref();
            let amounts =
                resources.and_then(|all| if list == "limits" { all.limits.as_ref() } else { all.requests.as_ref() });
            let written = amounts.and_then(|amounts| amounts.get(name));
            written.map(|written| quantity(&written.0, &at.child(list).key(name))).transpose()
        };
        // What is limited and not requested is requested up to its limit.
        let request = |name: &str| Ok(amount("requests", name)?.map_or(amount("limits", name)?, Some).map_or(0, bytes));
        let limit = amount("limits", STORAGE)?.filter(|limit| bytes(*limit) > 0);
        let budget = ContainerBudget {
            name: container.name.clone(),
            memory_request_bytes: request(MEMORY)?,
            storage_request_bytes: request(STORAGE)?,
            storage_limit: limit.map(Limit::from),
        };
        Ok(Read { budget, limit, is_sidecar: container.restart_policy.as_deref() == Some("Always") })
    };
    containers.iter().enumerate().map(read).collect()
}

/// What runs side by side is added up, of what runs one after the other the most counts. Containers without a limit add
/// nothing.
fn storage_limit(init: &[Read], regular: &[Read]) -> Option<Limit> {
    let add = |sum: Option<Quantity>, limit: Option<Quantity>| match (sum, limit) {
        (Some(sum), Some(limit)) => Some(sum + limit),
        (sum, limit) => sum.or(limit),
    };
    let (mut sidecars, mut peak) = (None, None);
    for one in init {
        let beside = add(sidecars, one.limit);
        peak = peak.max(beside);
        if one.is_sidecar {
            sidecars = beside;
        }
    }
    let running = regular.iter().fold(sidecars, |sum, one| add(sum, one.limit));
    running.max(peak).map(Limit::from)
}

fn volume_limits(spec: &k8s::PodSpec, at: &Path) -> Result<Vec<(String, Limit)>, FieldError> {
    let mut limits = Vec::new();
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        let on_disk =
            volume.empty_dir.as_ref().filter(|empty_dir| empty_dir.medium.as_deref().is_none_or(str::is_empty));
        let Some(written) = on_disk.and_then(|empty_dir| empty_dir.size_limit.as_ref()) else { continue };
        let at = at.child("volumes").index(index).child("emptyDir").child("sizeLimit");
        let limit = Limit::from(quantity(&written.0, &at)?);
        if limit.bytes > 0 {
            limits.push((volume.name.clone(), limit));
        }
    }
    Ok(limits)
}

fn quantity(text: &str, at: &Path) -> Result<Quantity, FieldError> {
    text.parse().map_err(|error| FieldError::invalid(at, text, format!("{error}")))
}

/// Less than nothing is nothing.
fn bytes(quantity: Quantity) -> u64 {
    u64::try_from(quantity.value()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn resolved(spec: &Value) -> Budget {
        budget(&serde_json::from_value(spec.clone()).unwrap(), &Path::new("spec")).unwrap()
    }

    fn limited(name: &str, limit: &str) -> Value {
        json!({ "name": name, "resources": { "limits": { "ephemeral-storage": limit } } })
    }

    fn limit(bytes: u64, shown: &str) -> Option<Limit> {
        Some(Limit { bytes, shown: shown.to_owned() })
    }

    #[test]
    fn requests_and_limits_are_read_of_each_container() {
        let own =
            json!({ "requests": { "memory": "64Mi" }, "limits": { "ephemeral-storage": "1024Mi", "memory": "1Gi" } });
        let spec = json!({ "containers": [{ "name": "a", "resources": own }, { "name": "b" }] });
        let a = ContainerBudget {
            name: "a".to_owned(),
            memory_request_bytes: 64 << 20,
            storage_request_bytes: 1 << 30,
            storage_limit: limit(1 << 30, "1Gi"),
        };
        let b = ContainerBudget { name: "b".to_owned(), ..ContainerBudget::default() };
        let budget = resolved(&spec);
        assert_eq!(budget, Budget { volumes: vec![], storage_limit: limit(1 << 30, "1Gi"), containers: vec![a, b] });
        assert!(budget.bounds_storage());
        assert!(!resolved(&json!({ "containers": [{ "name": "b" }] })).bounds_storage());
    }

    #[test]
    fn the_pod_may_write_what_its_containers_may_at_the_worst_moment() {
        let sidecar = |limit: &str| {
            let mut sidecar = limited("s", limit);
            sidecar["restartPolicy"] = json!("Always");
            sidecar
        };
        for (init, containers, expected) in [
            (json!([]), json!([limited("a", "1Gi"), limited("b", "512Mi"), { "name": "c" }]), limit(3 << 29, "1536Mi")),
            (json!([limited("i", "1Gi"), limited("j", "2Gi")]), json!([limited("a", "1Gi")]), limit(2 << 30, "2Gi")),
            (json!([sidecar("1Gi"), limited("i", "1Gi")]), json!([limited("a", "512Mi")]), limit(2 << 30, "2Gi")),
            (json!([limited("i", "1Gi"), sidecar("1Gi")]), json!([limited("a", "512Mi")]), limit(3 << 29, "1536Mi")),
            (json!([limited("i", "1Gi")]), json!([{ "name": "a" }]), limit(1 << 30, "1Gi")),
            (json!([]), json!([limited("a", "0")]), None),
        ] {
            let spec = json!({ "initContainers": init, "containers": containers });
            assert_eq!(resolved(&spec).storage_limit, expected, "{spec}");
        }
        // A container that ends before the others begin answers for nothing.
        let init = resolved(&json!({ "initContainers": [limited("i", "1Gi")], "containers": [] }));
        assert_eq!(init.containers[0].storage_limit, None);
    }

    #[test]
    fn volumes_on_disk_have_their_own_limits() {
        let volume = |name: &str, empty_dir: Value| json!({ "name": name, "emptyDir": empty_dir });
        let spec = json!({ "containers": [], "volumes": [
            volume("a", json!({ "sizeLimit": "1024" })), volume("b", json!({})), volume("c", json!({ "sizeLimit": "0" })),
            volume("d", json!({ "sizeLimit": "1Mi", "medium": "Memory" })), { "name": "h", "hostPath": { "path": "/" } }] });
        let budget = resolved(&spec);
        assert_eq!(budget.volumes, [("a".to_owned(), limit(1024, "1024").unwrap())]);
        assert!(budget.bounds_storage());
    }
}
