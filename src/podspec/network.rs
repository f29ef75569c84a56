//! Ports, host name and resolver.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as k8s;

use super::{ContainerPort, Dns, HostAlias, HostFacts, Pod, PortMapping, Protocol};
use crate::api::field::{FieldError, Path};
use crate::model::PodKey;

/// The longest host name a pod is given.
const HOSTNAME_MAX: usize = 63;
/// The longest name the kernel takes, for a host name with its domain.
const KERNEL_NAME_MAX: usize = 64;

/// What a resolver reads: more would be ignored by it.
///
/// Source: kubernetes v1.36 `pkg/apis/core/validation/validation.go`, `MaxDNSNameservers` and following.
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_CHARS_MAX: usize = 2048;
/// Some resolvers end the program that asks when a search domain is longer.
const SEARCH_MAX: usize = 253;

/// All a pod hears of the resolver's options when it asks the cluster's DNS.
const CLUSTER_OPTION: &str = "ndots:5";

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

/// The pod's host name and its domain: the pod's name or the one it asks for, cut to what a host name may be. Both empty with
/// the host's network; the domain also without `subdomain`.
///
/// Source: kubernetes v1.36 `pkg/kubelet/kubelet_pods.go`, `GeneratePodHostNameAndDomain`.
pub(super) fn names(spec: &k8s::PodSpec, key: &PodKey, cluster_domain: &str) -> (String, String) {
    let given = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
    if spec.host_network == Some(true) {
        return (String::new(), String::new());
    }
    if let Some(name) = given(&spec.hostname_override) {
        return (name, String::new());
    }
    let name = given(&spec.hostname).unwrap_or_else(|| key.name.clone());
    let cut = name[..name.floor_char_boundary(HOSTNAME_MAX)].trim_end_matches(['-', '.']);
    let domain = given(&spec.subdomain).map(|subdomain| format!("{subdomain}.{}.svc.{cluster_domain}", key.namespace));
    (cut.to_owned(), domain.unwrap_or_default())
}

/// What the kernel of the sandbox is told: the host name, with its domain where the pod wants it so.
///
/// # Errors
/// In upstream's words, when both together are too long.
///
/// Source: kubernetes v1.36 `pkg/kubelet/util/util.go`, `GetNodenameForKernel`.
pub fn kernel_hostname(pod: &Pod) -> Result<String, String> {
    if pod.domain.is_empty() || !pod.hostname_as_fqdn {
        return Ok(pod.hostname.clone());
    }
    let fqdn = format!("{}.{}", pod.hostname, pod.domain);
    if fqdn.len() <= KERNEL_NAME_MAX {
        return Ok(fqdn);
    }
    Err(format!(
        "failed to construct FQDN from pod hostname and cluster domain, FQDN {fqdn} is too long ({KERNEL_NAME_MAX} \
         characters is the max, {} characters requested)",
        fqdn.len()
    ))
}

/// The lines of `/etc/hosts` the pod brings itself.
pub(super) fn host_aliases(spec: &k8s::PodSpec) -> Vec<HostAlias> {
    let alias = |alias: &k8s::HostAlias| HostAlias {
        ip: alias.ip.clone(),
        hostnames: alias.hostnames.clone().unwrap_or_default(),
    };
    spec.host_aliases.iter().flatten().map(alias).collect()
}

/// The pod's resolver, and what had to be left out of it, in upstream's words.
///
/// Where the node knows no cluster DNS, a pod that asks for it has the host's resolver. Upstream warns of that with every pod
/// (`MissingClusterDNS`); we do not, since a fleet without cluster DNS is nothing out of the ordinary here.
///
/// Source: kubernetes v1.36 `pkg/kubelet/network/dns/dns.go`, `GetPodDNS`.
pub(super) fn dns(spec: &k8s::PodSpec, namespace: &str, host: &HostFacts) -> (Dns, Vec<String>) {
    let asks_cluster = match spec.dns_policy.as_deref() {
        Some("ClusterFirstWithHostNet") => true,
        Some("Default" | "None") => false,
        _ => spec.host_network != Some(true),
    };
    let mut dns = if spec.dns_policy.as_deref() == Some("None") {
        Dns::default()
    } else if asks_cluster && !host.cluster_dns.is_empty() {
        Dns {
            servers: host.cluster_dns.iter().map(ToString::to_string).collect(),
            searches: cluster_searches(&host.resolver.searches, namespace, &host.cluster_domain),
            options: vec![CLUSTER_OPTION.to_owned()],
        }
    } else {
        host.resolver.clone()
    };
    if let Some(config) = &spec.dns_config {
        append(&mut dns, config);
    }
    let omitted = bound(&mut dns);
    (dns, omitted)
}

fn cluster_searches(host: &[String], namespace: &str, domain: &str) -> Vec<String> {
    if domain.is_empty() {
        return host.to_vec();
    }
    let cluster = [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
    let mut searches = cluster.to_vec();
    searches.extend_from_slice(host);
    without_repeats(searches)
}

/// Adds what the pod says itself; of options it says the last word.
fn append(dns: &mut Dns, config: &k8s::PodDNSConfig) {
    dns.servers.extend(config.nameservers.iter().flatten().cloned());
    dns.searches.extend(config.searches.iter().flatten().cloned());
    dns.servers = without_repeats(std::mem::take(&mut dns.servers));
    dns.searches = without_repeats(std::mem::take(&mut dns.searches));
    for option in config.options.iter().flatten() {
        let name = option.name.as_deref().unwrap_or_default();
        let value = option.value.as_deref().filter(|value| !value.is_empty());
        let text = value.map_or_else(|| name.to_owned(), |value| format!("{name}:{value}"));
        match dns.options.iter_mut().find(|known| known.split(':').next() == Some(name)) {
            Some(known) => *known = text,
            None => dns.options.push(text),
        }
    }
}

fn without_repeats(mut list: Vec<String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    list.retain(|item| seen.insert(item.clone()));
    list
}

/// Cuts a configuration to what a resolver reads; says what is left where something was cut.
fn bound(dns: &mut Dns) -> Vec<String> {
    let mut omitted = Vec::new();
    if dns.servers.len() > NAMESERVERS_MAX {
        dns.servers.truncate(NAMESERVERS_MAX);
        omitted.push(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
            dns.servers.join(" ")
        ));
    }
    let before = dns.searches.len();
    dns.searches.truncate(SEARCHES_MAX);
    dns.searches.retain(|search| search.len() <= SEARCH_MAX);
    while dns.searches.join(" ").len() > SEARCH_CHARS_MAX {
        dns.searches.pop();
    }
    if dns.searches.len() < before {
        omitted.push(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            dns.searches.join(" ")
        ));
    }
    omitted
}
