//! Ports, host name and resolver.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as k8s;

use super::{ContainerPort, Dns, PortMapping, Protocol};
use crate::api::field::{FieldError, Path};

/// Longest name a Linux host may have.
const HOSTNAME_MAX: usize = 63;

/// What a resolver reads: more would be ignored by it.
///
/// Source: kubernetes v1.36 `pkg/apis/core/validation/validation.go`, `MaxDNSNameservers` and following.
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_CHARS_MAX: usize = 2048;

/// The ports of one container. With the host's network a port without a host port is its own host port.
pub(super) fn ports(
    container: &k8s::Container,
    host_network: bool,
    at: &Path,
) -> Result<Vec<ContainerPort>, FieldError> {
    let port = |(index, port): (usize, &k8s::ContainerPort)| {
        let at = at.child("ports").index(index);
        let container_port = number(port.container_port, &at.child("containerPort"))?;
        let host_port = match port.host_port {
            None | Some(0) if host_network => container_port,
            host_port => number(host_port.unwrap_or(0), &at.child("hostPort"))?,
        };
        let protocol = protocol(port.protocol.as_deref(), &at.child("protocol"))?;
        let host_ip = address(port.host_ip.as_deref(), &at.child("hostIP"))?;
        let mapping = PortMapping { protocol, container_port, host_port, host_ip };
        Ok(ContainerPort { name: port.name.clone().unwrap_or_default(), mapping })
    };
    container.ports.iter().flatten().enumerate().map(port).collect()
}

/// The sandbox's port mappings of one container: later ones that repeat a name or a mapping are left out.
///
/// Source: kubernetes v1.36 `pkg/kubelet/container/helpers.go`, `MakePortMappings`.
pub(super) fn mappings(ports: &[ContainerPort]) -> Vec<PortMapping> {
    let same = |a: &ContainerPort, b: &ContainerPort| {
        if a.name.is_empty() && b.name.is_empty() { a.mapping == b.mapping } else { a.name == b.name }
    };
    let is_first = |(index, port): &(usize, &ContainerPort)| !ports[..*index].iter().any(|before| same(before, port));
    ports.iter().enumerate().filter(is_first).map(|(_, port)| port.mapping.clone()).collect()
}

fn number(number: i32, at: &Path) -> Result<u16, FieldError> {
    u16::try_from(number).map_err(|_| FieldError::invalid(at, number, "must be between 1 and 65535, inclusive"))
}

fn protocol(name: Option<&str>, at: &Path) -> Result<Protocol, FieldError> {
    match name {
        None | Some("TCP") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some("SCTP") => Ok(Protocol::Sctp),
        Some(other) => Err(FieldError::not_supported(at, other, &["SCTP", "TCP", "UDP"])),
    }
}

fn address(text: Option<&str>, at: &Path) -> Result<Option<IpAddr>, FieldError> {
    match text {
        None | Some("") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| FieldError::invalid(at, text, "must be a valid IP address")),
    }
}

/// The sandbox's host name: the pod's, cut to what a host name may be; empty with the host's network.
///
/// Source: kubernetes v1.36 `pkg/kubelet/util/util.go`, `GetNodenameForKernel` and `truncatePodHostnameIfNeeded`.
pub(super) fn hostname(spec: &k8s::PodSpec, pod_name: &str) -> String {
    if spec.host_network == Some(true) {
        return String::new();
    }
    let name = spec.hostname.as_deref().filter(|name| !name.is_empty()).unwrap_or(pod_name);
    let cut = &name[..name.floor_char_boundary(HOSTNAME_MAX)];
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// The pod's resolver: the host's, since there is no cluster DNS, cut to what a resolver reads.
///
/// Source: kubernetes v1.36 `pkg/kubelet/network/dns/dns.go`, `GetPodDNS` without cluster DNS.
pub(super) fn dns(host: &Dns) -> Dns {
    let mut chars = 0;
    let fits = |search: &&String| {
        chars += search.len() + usize::from(chars > 0);
        chars <= SEARCH_CHARS_MAX
    };
    Dns {
        servers: host.servers.iter().take(NAMESERVERS_MAX).cloned().collect(),
        searches: host.searches.iter().take(SEARCHES_MAX).take_while(fits).cloned().collect(),
        options: host.options.clone(),
    }
}
