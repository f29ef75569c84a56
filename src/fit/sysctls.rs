//! Which kernel settings a pod may change: those that are its own and harmless to others, and those the operator allows.
//!
//! Source: kubernetes v1.36 `pkg/kubelet/sysctl/{safe_sysctls,allowlist}.go` and
//! `k8s.io/component-helpers/node/util/sysctl/namespace.go`.

use crate::podspec::Pod;

/// Settings that any pod may change, and the first kernel (major, minor) in which each network namespace has its own.
const SAFE: [(&str, (u32, u32)); 12] = [
    ("kernel.shm_rmid_forced", (0, 0)),
    ("net.ipv4.ip_local_port_range", (0, 0)),
    ("net.ipv4.tcp_syncookies", (0, 0)),
    ("net.ipv4.ping_group_range", (0, 0)),
    ("net.ipv4.ip_unprivileged_port_start", (0, 0)),
    ("net.ipv4.ip_local_reserved_ports", (3, 16)),
    ("net.ipv4.tcp_keepalive_time", (4, 5)),
    ("net.ipv4.tcp_keepalive_intvl", (4, 5)),
    ("net.ipv4.tcp_keepalive_probes", (4, 5)),
    ("net.ipv4.tcp_fin_timeout", (4, 6)),
    ("net.ipv4.tcp_rmem", (4, 15)),
    ("net.ipv4.tcp_wmem", (4, 15)),
];

/// What settings of a pod's own namespaces begin with, and of which one.
const NAMESPACED: [(&str, Namespace); 4] = [
    ("kernel.shm", Namespace::Ipc),
    ("kernel.msg", Namespace::Ipc),
    ("fs.mqueue.", Namespace::Ipc),
    ("net.", Namespace::Net),
];

/// The namespace a setting belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    /// Shared with `hostIPC`.
    Ipc,
    /// Shared with `hostNetwork`.
    Net,
}

/// The namespace of a setting, or of all that begin with what stands before a trailing `*`; none for settings of the host.
pub fn namespace(pattern: &str) -> Option<Namespace> {
    let name = pattern.strip_suffix('*').unwrap_or(pattern);
    let known = NAMESPACED.iter().find(|(prefix, _)| name.starts_with(prefix)).map(|(_, namespace)| *namespace);
    known.or((name == "kernel.sem").then_some(Namespace::Ipc))
}

/// Says whether the pod may have all the settings it asks for. `allowed` are names and patterns of the operator, `kernel` the
/// host's version.
///
/// # Errors
/// The first that it may not have, in upstream's words.
pub(super) fn check(pod: &Pod, allowed: &[String], kernel: (u32, u32)) -> Result<(), String> {
    pod.sysctls.keys().try_for_each(|name| {
        let is_safe = SAFE.iter().any(|(safe, since)| name == safe && kernel >= *since);
        let matches = |pattern: &String| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == pattern,
        };
        match namespace(name) {
            Some(Namespace::Ipc) if pod.namespaces.host_ipc => {
                Err(format!("forbidden sysctl: \"{name}\" not allowed with host ipc enabled"))
            }
            Some(Namespace::Net) if pod.namespaces.host_network => {
                Err(format!("forbidden sysctl: \"{name}\" not allowed with host net enabled"))
            }
            Some(_) if is_safe || allowed.iter().any(matches) => Ok(()),
            _ => Err(format!("forbidden sysctl: \"{name}\" not allowlisted")),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::testing::pods;

    #[test]
    fn a_pod_may_change_what_is_safe_or_allowed_and_its_own() {
        let allowed = ["net.core.*".to_owned(), "kernel.msgmax".to_owned()];
        let not_listed = |name: &str| Err(format!("forbidden sysctl: \"{name}\" not allowlisted"));
        let shared =
            |name: &str, what: &str| Err(format!("forbidden sysctl: \"{name}\" not allowed with host {what} enabled"));
        for (name, host, kernel, expected) in [
            ("net.ipv4.tcp_syncookies", false, (3, 10), Ok(())),
            ("net.ipv4.tcp_rmem", false, (4, 15), Ok(())),
            ("net.ipv4.tcp_rmem", false, (4, 14), not_listed("net.ipv4.tcp_rmem")),
            ("net.core.somaxconn", false, (6, 1), Ok(())),
            ("net.ipv4.ip_forward", false, (6, 1), not_listed("net.ipv4.ip_forward")),
            ("kernel.msgmax", false, (6, 1), Ok(())),
            ("kernel.msgmnb", false, (6, 1), not_listed("kernel.msgmnb")),
            ("vm.swappiness", false, (6, 1), not_listed("vm.swappiness")),
            ("net.ipv4.tcp_syncookies", true, (6, 1), shared("net.ipv4.tcp_syncookies", "net")),
            ("kernel.shm_rmid_forced", true, (6, 1), shared("kernel.shm_rmid_forced", "ipc")),
        ] {
            let mut pod = pods::pod("web", Path::new("/"));
            (pod.namespaces.host_network, pod.namespaces.host_ipc) = (host, host);
            pod.sysctls = [(name.to_owned(), "1".to_owned())].into();
            assert_eq!(check(&pod, &allowed, kernel), expected, "{name}");
        }
    }

    #[test]
    fn only_settings_of_a_pods_own_can_be_allowed() {
        assert_eq!(namespace("kernel.sem"), Some(Namespace::Ipc));
        assert_eq!(namespace("net.*"), Some(Namespace::Net));
        assert_eq!((namespace("kernel.*"), namespace("vm.swappiness"), namespace("*")), (None, None, None));
    }
}
