//! Rules for names and addresses: DNS, host aliases, host name.

use k8s_openapi::api::core::v1::{HostAlias, PodDNSConfig, PodSpec};

use super::{choice, text};
use crate::api::field::{FieldError, Path};
use crate::api::metadata::{invalid_each, json};
use crate::api::names;

const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;
/// What `sethostname(2)` takes.
const MAX_HOSTNAME_BYTES: usize = 64;

pub(super) fn validate_dns_policy(spec: &PodSpec, path: &Path, errors: &mut Vec<FieldError>) {
    const POLICIES: [&str; 4] = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    choice(text(spec.dns_policy.as_ref()), &POLICIES, path, errors);
}

pub(super) fn validate_dns_config(spec: &PodSpec, path: &Path, errors: &mut Vec<FieldError>) {
    let own_only = spec.dns_policy.as_deref() == Some("None");
    let Some(config) = &spec.dns_config else {
        if own_only {
            errors.push(FieldError::required(path, "must provide `dnsConfig` when `dnsPolicy` is None"));
        }
        return;
    };
    let servers = config.nameservers.as_deref().unwrap_or_default();
    let servers_path = path.child("nameservers");
    if own_only && servers.is_empty() {
        let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        errors.push(FieldError::required(&servers_path, detail));
        return;
    }
    if servers.len() > MAX_NAMESERVERS {
        let detail = format!("must not have more than {MAX_NAMESERVERS} nameservers");
        errors.push(FieldError::invalid(&servers_path, json(&servers), detail));
    }
    for (index, server) in servers.iter().enumerate() {
        invalid_each(&servers_path.index(index), server, names::ip_address(server), errors);
    }
    validate_searches(config, &path.child("searches"), errors);
    for (index, option) in config.options.iter().flatten().enumerate() {
        if text(option.name.as_ref()).is_empty() {
            errors.push(FieldError::required(&path.child("options").index(index), "must not be empty"));
        }
    }
}

fn validate_searches(config: &PodDNSConfig, path: &Path, errors: &mut Vec<FieldError>) {
    let searches = config.searches.as_deref().unwrap_or_default();
    if searches.len() > MAX_SEARCHES {
        let detail = format!("must not have more than {MAX_SEARCHES} search paths");
        errors.push(FieldError::invalid(path, json(&searches), detail));
    }
    if searches.join(" ").len() > MAX_SEARCH_CHARS {
        let detail =
            format!("must not have more than {MAX_SEARCH_CHARS} characters (including spaces) in the search list");
        errors.push(FieldError::invalid(path, json(&searches), detail));
    }
    for (index, search) in searches.iter().enumerate() {
        let name = search.strip_suffix('.').unwrap_or(search);
        // A lone dot is the root.
        if search != "." {
            invalid_each(&path.index(index), name, names::dns_subdomain_with_underscore(name), errors);
        }
    }
}

pub(super) fn validate_host_aliases(aliases: &[HostAlias], path: &Path, errors: &mut Vec<FieldError>) {
    for (index, alias) in aliases.iter().enumerate() {
        let path = path.index(index);
        invalid_each(&path.child("ip"), &alias.ip, names::ip_address(&alias.ip), errors);
        for (index, name) in alias.hostnames.iter().flatten().enumerate() {
            invalid_each(&path.child("hostnames").index(index), name, names::dns_subdomain(name), errors);
        }
    }
}

pub(super) fn validate_hostname(spec: &PodSpec, path: &Path, errors: &mut Vec<FieldError>) {
    for (field, name) in [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)] {
        let name = text(name.as_ref());
        if !name.is_empty() {
            invalid_each(&path.child(field), name, names::dns_label(name), errors);
        }
    }
    let Some(name) = &spec.hostname_override else { return };
    let path = path.child("hostnameOverride");
    if spec.set_hostname_as_fqdn == Some(true) {
        errors.push(FieldError::forbidden(&path, "may not be specified when `setHostnameAsFQDN` is true"));
    }
    if spec.host_network == Some(true) {
        errors.push(FieldError::forbidden(&path, "may not be specified when `hostNetwork` is true"));
    }
    if name.len() > MAX_HOSTNAME_BYTES {
        errors.push(FieldError::invalid(&path, name.as_str(), names::max_bytes_message(MAX_HOSTNAME_BYTES)));
    }
    invalid_each(&path, name, names::dns_subdomain(name), errors);
}
