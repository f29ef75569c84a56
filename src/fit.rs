//! Whether a pod fits on the node beside the pods already admitted (resources, number of pods, host ports), who makes way
//! for one that does not, and whether the node can do what the pod asks for at all.
//!
//! Pure. The roster asks before it makes a pod and, when it does not fit, makes none: the [`Rejection`] is shown as the
//! pod's status and asked for again when a pod has gone or the node has changed.
//!
//! Source: kubernetes v1.36 `pkg/kubelet/lifecycle/predicate.go` and
//! `pkg/scheduler/framework/plugins/{noderesources,nodeports}`. We differ on purpose: upstream's kubelet ignores requests for
//! extended resources the node does not have, because its scheduler placed the pod. Here nothing else would refuse it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use crate::model::PodKey;
use crate::podspec::{Pod, PortMapping, Profile, Requests};

pub use self::preemption::{Holder, Room, room};

pub mod devices;
mod preemption;
pub mod sysctls;

/// The resource whose amount is the number of pods.
const PODS: &str = "pods";

/// These are looked at first, the others after them by name.
const FIRST: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// A pod that has its place.
#[derive(Debug, Clone, Copy)]
struct Admitted<'a> {
    /// Named when it holds a host port somebody else wants.
    key: &'a PodKey,
    /// What it takes.
    requests: &'a Requests,
}

/// Why a pod does not fit: `reason` and `message` of its status and event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// `OutOf<resource>`, `NodePorts`, `SysctlForbidden` …
    pub reason: String,
    /// In upstream's words; host ports also name who has them.
    pub message: String,
}

/// Says whether a pod fits beside `admitted`, which holds neither itself nor pods that are wholly gone.
///
/// `allocatable` is the Node's `status.allocatable` by resource name: cpu in millicores, others in their base unit, `pods`
/// among them. A resource that is not in it is not there.
///
/// # Errors
/// The first thing that is short: pods, cpu, memory, ephemeral-storage, other resources by name, host ports.
fn admit(requests: &Requests, admitted: &[Admitted<'_>], allocatable: &BTreeMap<String, u64>) -> Result<(), Rejection> {
    let capacity = |name: &str| allocatable.get(name).copied().unwrap_or(0);
    let used = |name: &str| sum(admitted.iter().filter_map(|pod| pod.requests.resources.get(name)));
    enough(PODS, 1, u64::try_from(admitted.len()).unwrap_or(u64::MAX), capacity(PODS))?;
    let others = requests.resources.keys().map(String::as_str).filter(|name| !FIRST.contains(name));
    for name in FIRST.into_iter().chain(others) {
        if let Some(requested) = requests.resources.get(name) {
            enough(name, *requested, used(name), capacity(name))?;
        }
    }
    for port in &requests.host_ports {
        let holds = |pod: &&Admitted<'_>| pod.requests.host_ports.iter().any(|held| conflict(port, held));
        if let Some(holder) = admitted.iter().find(holds) {
            return Err(port_taken(port, holder.key));
        }
    }
    Ok(())
}

/// What a node can do for its pods beyond giving them room.
#[derive(Debug, Clone, Copy)]
pub struct Abilities<'a> {
    /// Names of kernel settings that pods may change beside the safe ones; a trailing `*` stands for all that begin so.
    pub allowed_unsafe_sysctls: &'a [String],
    /// Major and minor version.
    pub kernel: (u32, u32),
    /// The kernel has AppArmor and it is switched on.
    pub apparmor: bool,
    /// The runtime can leave out the groups that images give their users.
    pub supplemental_groups_policy: bool,
}

/// Says whether the node can do what a pod asks for.
///
/// # Errors
/// The first thing that it cannot do, in upstream's words.
///
/// Source: kubernetes v1.36 `pkg/kubelet/sysctl/allowlist.go`, `pkg/kubelet/lifecycle/{predicate,handlers}.go`.
pub fn supports(pod: &Pod, node: Abilities<'_>) -> Result<(), Rejection> {
    let rejection = |reason: &str, message: String| Rejection { reason: reason.to_owned(), message };
    sysctls::check(pod, node.allowed_unsafe_sysctls, node.kernel).map_err(|why| rejection("SysctlForbidden", why))?;
    if pod.security.strict_groups && !node.supplemental_groups_policy {
        let message = "SupplementalGroupsPolicy=Strict is not supported in this node".to_owned();
        return Err(rejection("SupplementalGroupsPolicyNotSupported", message));
    }
    let confined = |profile: &Option<Profile>| !matches!(profile, None | Some(Profile::Unconfined));
    if !node.apparmor && pod.containers.iter().any(|container| confined(&container.security.apparmor)) {
        let message = "Cannot enforce AppArmor: AppArmor is not enabled on the host".to_owned();
        return Err(rejection("AppArmor", message));
    }
    Ok(())
}

fn sum<'a>(amounts: impl Iterator<Item = &'a u64>) -> u64 {
    amounts.fold(0, |sum, amount| sum.saturating_add(*amount))
}

fn enough(name: &str, requested: u64, used: u64, capacity: u64) -> Result<(), Rejection> {
    if requested <= capacity.saturating_sub(used) {
        return Ok(());
    }
    Err(Rejection {
        reason: format!("OutOf{name}"),
        message: format!(
            "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
        ),
    })
}

/// Whether two host ports cannot be held at once. No address and `0.0.0.0` both mean all addresses.
///
/// Source: kubernetes v1.36 `pkg/scheduler/framework/types.go`, `HostPortInfo.CheckConflict`.
fn conflict(a: &PortMapping, b: &PortMapping) -> bool {
    let address = |port: &PortMapping| port.host_ip.unwrap_or(ALL);
    let (a_address, b_address) = (address(a), address(b));
    a.protocol == b.protocol
        && a.host_port == b.host_port
        && (a_address == ALL || b_address == ALL || a_address == b_address)
}

const ALL: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

fn port_taken(port: &PortMapping, holder: &PodKey) -> Rejection {
    Rejection {
        reason: "NodePorts".to_owned(),
        message: format!(
            "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports: {}/{} is held by {holder}",
            port.host_port, port.protocol
        ),
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::podspec::Protocol;
    use crate::testing::pods;

    fn amounts(amounts: &[(&str, u64)]) -> BTreeMap<String, u64> {
        amounts.iter().map(|(name, amount)| ((*name).to_owned(), *amount)).collect()
    }

    fn port(protocol: Protocol, host_ip: &str, host_port: u16) -> PortMapping {
        PortMapping { protocol, container_port: 1, host_port, host_ip: host_ip.parse().ok() }
    }

    /// Asks beside one pod that holds 1500m cpu, 1000 bytes, one device and TCP ports 80 (all addresses) and 81 (one).
    fn admit_beside(
        resources: &[(&str, u64)],
        host_ports: &[PortMapping],
        change: impl FnOnce(&mut BTreeMap<String, u64>),
    ) -> Result<(), (String, String)> {
        let mut allocatable =
            amounts(&[("cpu", 2000), ("memory", 1500), ("ephemeral-storage", 10), ("example.com/dev", 1), ("pods", 2)]);
        change(&mut allocatable);
        let key = PodKey { namespace: "default".to_owned(), name: "old-1".to_owned(), uid: "u".into() };
        let held = Requests {
            resources: amounts(&[("cpu", 1500), ("memory", 1000), ("example.com/dev", 1)]),
            host_ports: vec![port(Protocol::Tcp, "", 80), port(Protocol::Tcp, "10.0.0.1", 81)],
        };
        let requests = Requests { resources: amounts(resources), host_ports: host_ports.to_vec() };
        admit(&requests, &[Admitted { key: &key, requests: &held }], &allocatable)
            .map_err(|rejection| (rejection.reason, rejection.message))
    }

    #[test]
    fn what_fits_is_admitted_to_the_last_unit() {
        assert_eq!(admit_beside(&[], &[], |_| {}), Ok(()));
        assert_eq!(admit_beside(&[("cpu", 500), ("memory", 500), ("ephemeral-storage", 10)], &[], |_| {}), Ok(()));
    }

    #[test]
    fn the_first_resource_that_is_short_is_named_with_its_figures() {
        type Row<'a> = (&'a [(&'a str, u64)], &'a str, &'a str);
        let rows: [Row<'_>; 5] = [
            (&[("cpu", 501), ("memory", 501)], "OutOfcpu", "cpu, requested: 501, used: 1500, capacity: 2000"),
            (&[("memory", 501)], "OutOfmemory", "memory, requested: 501, used: 1000, capacity: 1500"),
            (
                &[("ephemeral-storage", 11), ("a.example/x", 1)],
                "OutOfephemeral-storage",
                "ephemeral-storage, requested: 11, used: 0, capacity: 10",
            ),
            (&[("example.com/dev", 1)], "OutOfexample.com/dev", "example.com/dev, requested: 1, used: 1, capacity: 1"),
            (&[("nvidia.com/gpu", 1)], "OutOfnvidia.com/gpu", "nvidia.com/gpu, requested: 1, used: 0, capacity: 0"),
        ];
        for (resources, reason, figures) in rows {
            let message = format!("Node didn't have enough resource: {figures}");
            assert_eq!(admit_beside(resources, &[], |_| {}), Err((reason.to_owned(), message)));
        }
    }

    #[test]
    fn what_the_node_cannot_do_keeps_a_pod_out() {
        let mut pod = pods::pod("web", std::path::Path::new("/"));
        pod.containers = vec![pods::container("main", "web", &[])];
        let nothing = Abilities {
            allowed_unsafe_sysctls: &[],
            kernel: (6, 1),
            apparmor: false,
            supplemental_groups_policy: false,
        };
        let all = Abilities {
            allowed_unsafe_sysctls: &["net.*".to_owned()],
            apparmor: true,
            supplemental_groups_policy: true,
            ..nothing
        };
        let reason = |pod: &Pod| supports(pod, nothing).err().map(|rejection| rejection.reason);
        assert_eq!(reason(&pod), None);
        pod.containers[0].security.apparmor = Some(Profile::Unconfined);
        assert_eq!(reason(&pod), None);
        pod.containers[0].security.apparmor = Some(Profile::RuntimeDefault);
        assert_eq!(reason(&pod).as_deref(), Some("AppArmor"));
        pod.security.strict_groups = true;
        assert_eq!(reason(&pod).as_deref(), Some("SupplementalGroupsPolicyNotSupported"));
        pod.sysctls = [("net.core.somaxconn".to_owned(), "1".to_owned())].into();
        assert_eq!(reason(&pod).as_deref(), Some("SysctlForbidden"));
        assert_eq!(supports(&pod, all), Ok(()));
    }

    #[test]
    fn the_number_of_pods_comes_before_all_else() {
        let full = |allocatable: &mut BTreeMap<String, u64>| allocatable.extend(amounts(&[("pods", 1)]));
        let message = "Node didn't have enough resource: pods, requested: 1, used: 1, capacity: 1";
        let rejected = admit_beside(&[("cpu", 5000)], &[], full);
        assert_eq!(rejected, Err(("OutOfpods".to_owned(), message.to_owned())));
    }

    #[test]
    fn a_host_port_is_taken_per_protocol_and_address() {
        let rows = [
            (port(Protocol::Tcp, "", 80), true),
            (port(Protocol::Tcp, "10.0.0.9", 80), true),
            (port(Protocol::Udp, "", 80), false),
            (port(Protocol::Tcp, "", 82), false),
            (port(Protocol::Tcp, "10.0.0.1", 81), true),
            (port(Protocol::Tcp, "0.0.0.0", 81), true),
            (port(Protocol::Tcp, "10.0.0.2", 81), false),
        ];
        for (wanted, taken) in rows {
            let expected = Err((
                "NodePorts".to_owned(),
                format!(
                    "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports: {}/TCP is held \
                     by default/old-1",
                    wanted.host_port
                ),
            ));
            let answer = admit_beside(&[], std::slice::from_ref(&wanted), |_| {});
            assert_eq!(answer, if taken { expected } else { Ok(()) }, "{wanted:?}");
        }
    }
}
