//! The way from a bundle to a [`Pod`], part by part.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1 as k8s;

use super::downward::Sources;
use super::lifecycle::{self, Listed};
use super::objects::{references, service_account, token_specs};
use super::resources::{self, Demand};
use super::volumes::{self, Surroundings};
use super::{
    Container, HostFacts, Namespaces, Origin, PidNamespace, Pod, PortMapping, Requests, Role, TerminationMessagePolicy,
    budget, env, hash, image, network, probes, security, unsupported, unsupported_ephemeral,
};
use crate::api::bundle::Bundle;
use crate::api::field::{FieldError, Invalid, Path};
use crate::api::revision::REVISION_LABEL;
use crate::eligibility::tolerates_memory_pressure;
use crate::model::PodKey;

const GENERATION_LABEL: &str = "pod-template-generation";

/// Makes the pod that `bundle` stands for on this host.
///
/// `key` is the identity the node minted for it, `ephemeral` what was added to it since (`kubectl debug`), oldest first:
/// those containers come last, so the positions of all others stay. Everything is expected as the API stores it: defaulted
/// and valid.
///
/// # Errors
/// Every field this version cannot realize ([`unsupported()`]); if there is none, the first field whose value makes no
/// sense, which a validated template does not have. Paths begin at `spec` or `metadata` of the template.
///
/// Source: kubernetes v1.36 `pkg/controller/daemon/util/daemonset_util.go` (`CreatePodTemplate`), then as each part says.
pub fn resolve(
    bundle: &Bundle,
    key: &PodKey,
    host: &HostFacts,
    ephemeral: &[k8s::EphemeralContainer],
) -> Result<Pod, Invalid> {
    let mut refused = unsupported(&bundle.template, &Path::default());
    let at = Path::new("spec").child("ephemeralContainers");
    for (index, container) in ephemeral.iter().enumerate() {
        refused.extend(unsupported_ephemeral(container, &at.index(index)));
    }
    Invalid::check(refused)?;
    pod(bundle, key, host, ephemeral).map_err(|error| Invalid(vec![error]))
}

fn pod(
    bundle: &Bundle,
    key: &PodKey,
    host: &HostFacts,
    ephemeral: &[k8s::EphemeralContainer],
) -> Result<Pod, FieldError> {
    let at = Path::new("spec");
    let spec = &bundle.template.spec.clone().ok_or_else(|| FieldError::required(&at, ""))?;
    let metadata = bundle.template.metadata.clone().unwrap_or_default();
    let mut labels = metadata.labels.unwrap_or_default();
    if bundle.posted.is_none() {
        labels.insert(REVISION_LABEL.to_owned(), bundle.revision.0.clone());
        labels.insert(GENERATION_LABEL.to_owned(), bundle.template_generation.to_string());
    }
    let annotations = metadata.annotations.unwrap_or_default();

    let listed = lifecycle::containers(spec, ephemeral);
    let demand = Demand::read(spec, &at)?;
    let (qos, cgroup) = (demand.qos(), demand.cgroup(host));
    let dir = host.root_dir.join("pods").join(key.uid.as_str());
    let service_account = service_account(spec);
    let amounts: Vec<_> = listed.iter().map(|one| (one.name(), demand.of(one.role, one.index))).collect();
    let sources = Sources {
        key,
        service_account,
        containers: amounts.iter().map(|(name, amounts)| (*name, amounts)).collect(),
        host,
    };
    let (fs_group, fs_user) = (security::fs_group(spec), security::fs_user(spec));
    let around = Surroundings { dir: &dir, demand: &demand, sources: &sources, fs_group, fs_user };
    let volumes = (spec.volumes.iter().flatten().enumerate())
        .map(|(index, volume)| volumes::volume(volume, &around, &at.child("volumes").index(index)))
        .collect::<Result<_, _>>()?;

    let (hostname, domain) = network::names(spec, key, &host.cluster_domain);
    let (dns, dns_omitted) = network::dns(spec, &key.namespace, host);
    let mut pod = Pod {
        key: key.clone(),
        origin: Origin {
            fleet: host.fleet.clone(),
            node: host.node_uid.clone(),
            daemonset: bundle.daemonset().cloned(),
            revision: bundle.revision.clone(),
        },
        labels,
        annotations,
        namespaces: namespaces(spec),
        hostname,
        domain,
        hostname_as_fqdn: spec.set_hostname_as_fqdn == Some(true),
        dns,
        dns_omitted,
        ports: Vec::new(),
        cgroup_parent: resources::cgroup_parent(&host.cgroup_root, &key.uid, qos, host.cgroup_driver),
        qos,
        resources: demand.sandbox(host),
        overhead: demand.overhead(host),
        cgroup,
        requests: Requests { resources: demand.requests(), host_ports: Vec::new() },
        budget: budget::budget(spec, &at)?,
        priority: bundle.priority,
        preempts: spec.preemption_policy.as_deref() != Some("Never"),
        tolerates_memory_pressure: bundle.posted.is_none() || tolerates_memory_pressure(spec),
        security: security::pod(spec),
        grace_period: grace_period(spec),
        restart_policy: lifecycle::pod_restart_policy(spec, &at)?,
        active_deadline: lifecycle::active_deadline(spec, &at)?,
        readiness_gates: lifecycle::readiness_gates(spec),
        service_account: service_account.to_owned(),
        pull_secrets: pull_secrets(spec),
        references: references(spec, ephemeral),
        tokens: token_specs(spec),
        fs_group,
        service_env: host.api.as_ref().map(env::of_api).unwrap_or_default(),
        runtime_handler: bundle.runtime_handler.clone().unwrap_or_default(),
        host_aliases: network::host_aliases(spec),
        sysctls: security::sysctls(spec),
        log_dir: host.log_root.join(format!("{}_{}_{}", key.namespace, key.name, key.uid)),
        dir,
        volumes,
        containers: Vec::new(),
    };
    containers(&mut pod, (spec, &listed), &demand, &sources)?;
    pod.security.privileged = pod.containers.iter().any(|container| container.security.privileged);
    pod.ports = mappings(&pod, |role| role == Role::Regular).collect();
    // A sidecar holds its host ports without their being mapped.
    let held = mappings(&pod, |role| matches!(role, Role::Regular | Role::Sidecar));
    pod.requests.host_ports = held.filter(|port| port.host_port > 0).collect();
    Ok(pod)
}

/// The ports of the containers that play one of these parts.
fn mappings(pod: &Pod, counts: impl Fn(Role) -> bool) -> impl Iterator<Item = PortMapping> {
    let containers = pod.containers.iter().filter(move |container| counts(container.role));
    containers.flat_map(|container| network::mappings(&container.ports))
}

/// Adds the containers to a pod that is whole but for them and their ports.
fn containers(
    pod: &mut Pod,
    (spec, containers): (&k8s::PodSpec, &[Listed]),
    demand: &Demand,
    sources: &Sources<'_>,
) -> Result<(), FieldError> {
    let host = sources.host;
    let mut relabelled = BTreeSet::new();
    let mut resolved = Vec::new();
    for one in containers {
        let Listed { container: written, role, index, target, at } = one;
        let amounts = &demand.of(*role, *index);
        let image = written.image.clone().unwrap_or_default();
        resolved.push(Container {
            name: written.name.clone(),
            role: *role,
            target: target.clone(),
            restart_policy: lifecycle::container_restart_policy(one, pod.restart_policy)?,
            restart_rules: lifecycle::restart_rules(written, at)?,
            image_reference: image::reference(&image),
            pull_policy: image::pull_policy(written.image_pull_policy.as_deref(), &at.child("imagePullPolicy"))?,
            command: written.command.clone().unwrap_or_default(),
            args: written.args.clone().unwrap_or_default(),
            working_dir: written.working_dir.clone().unwrap_or_default(),
            env_from: env::from(written),
            env: env::variables(written, sources, at)?,
            mounts: volumes::mounts(written, pod, &mut relabelled, at)?,
            ports: network::ports(written, pod.namespaces.host_network, at)?,
            resources: demand.container(amounts, *role, host),
            devices: resources::devices(amounts),
            security: security::container(
                spec,
                (&written.name, written.security_context.as_ref()),
                &pod.annotations,
                host,
                at,
            )?,
            termination_message_path: written.termination_message_path.clone().unwrap_or_default(),
            termination_message_policy: termination_message_policy(written),
            probes: probes::probes(written),
            hooks: probes::hooks(written),
            stdin: written.stdin == Some(true),
            stdin_once: written.stdin_once == Some(true),
            tty: written.tty == Some(true),
            spec_hash: hash::spec_hash(&written.name, &image),
            image,
        });
    }
    pod.containers = resolved;
    Ok(())
}

fn namespaces(spec: &k8s::PodSpec) -> Namespaces {
    let pid = if spec.host_pid == Some(true) {
        PidNamespace::Host
    } else if spec.share_process_namespace == Some(true) {
        PidNamespace::Pod
    } else {
        PidNamespace::Container
    };
    Namespaces {
        host_network: spec.host_network == Some(true),
        host_ipc: spec.host_ipc == Some(true),
        pid,
        own_users: spec.host_users == Some(false),
    }
}

/// An entry without a name means nothing, here as upstream.
fn pull_secrets(spec: &k8s::PodSpec) -> Vec<String> {
    let names = spec.image_pull_secrets.iter().flatten().map(|secret| secret.name.clone());
    names.filter(|name| !name.is_empty()).collect()
}

/// A negative period means one second, as upstream's API server has it.
fn grace_period(spec: &k8s::PodSpec) -> Duration {
    const DEFAULT_SECS: i64 = 30;
    let seconds = spec.termination_grace_period_seconds.unwrap_or(DEFAULT_SECS);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(1))
}

fn termination_message_policy(container: &k8s::Container) -> TerminationMessagePolicy {
    match container.termination_message_policy.as_deref() {
        Some("FallbackToLogsOnError") => TerminationMessagePolicy::FallbackToLogsOnError,
        _ => TerminationMessagePolicy::File,
    }
}
