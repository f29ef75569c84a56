//! The content of a pod's `/etc/hosts`.
//!
//! Source: kubernetes v1.36 `pkg/kubelet/kubelet_pods.go`, `managedHostsFileContent` and `nodeHostsFileContent`.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::Pod;

const HEADER: &str = "# Kubernetes-managed hosts file.
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
fe00::0\tip6-mcastprefix
fe00::1\tip6-allnodes
fe00::2\tip6-allrouters
";

const HOST_HEADER: &str = "# Kubernetes-managed hosts file (host network).\n";

const ALIASES_HEADER: &str = "\n# Entries added by HostAliases.\n";

/// What stands in `/etc/hosts` of the pod's containers.
///
/// `pod_ips` are the sandbox's addresses; `host_file` is the host's own `/etc/hosts`, which a pod with the host's network
/// sees instead.
pub fn content(pod: &Pod, pod_ips: &[IpAddr], host_file: &str) -> String {
    let mut content = if pod.namespaces.host_network { format!("{HOST_HEADER}{host_file}") } else { HEADER.to_owned() };
    let Pod { hostname, domain, .. } = pod;
    for ip in pod_ips.iter().filter(|_| !pod.namespaces.host_network) {
        let names = if domain.is_empty() { hostname.clone() } else { format!("{hostname}.{domain}\t{hostname}") };
        writeln!(content, "{ip}\t{names}").expect("writing to a string");
    }
    if !pod.host_aliases.is_empty() {
        content.push_str(ALIASES_HEADER);
    }
    for alias in &pod.host_aliases {
        writeln!(content, "{}\t{}", alias.ip, alias.hostnames.join("\t")).expect("writing to a string");
    }
    content
}
