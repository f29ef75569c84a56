//! The pod's status as the API shows it, from what the runtime has, what probes have found and what the plan waits for.
//!
//! Pure. The same situation gives the same status, also after the agent was restarted: times come from the runtime where it
//! has them. `previous` keeps what the runtime forgets.
//!
//! It names Kubernetes' types, as nothing else behind `podspec` does: its answer is the API's. `containers` has the statuses
//! of containers, `phase` and `conditions` what they add up to.
//!
//! Source: kubernetes v1.36 `pkg/kubelet/kubelet_pods.go` (`generateAPIPodStatus`, `convertToAPIContainerStatuses`,
//! `getPhase`), `pkg/kubelet/status/generate.go`, `status_manager.go` (`TerminatePod`).

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::probe::Healths;
use super::{Waiting, instances, is_live, policy, run};
use crate::fit::Rejection;
use crate::model::{ContainerPhase, Finished, ObservedPod};
use crate::podspec::{Container, Pod, Role};

mod conditions;
mod containers;
mod phase;

/// Everything a status is made from.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// What the runtime has of it.
    pub observed: &'a ObservedPod,
    /// `Plan::waiting` of the plan made from `observed`.
    pub waiting: &'a [Option<Waiting>],
    /// What probes have found.
    pub healths: &'a Healths,
    /// Why it is not begun; none once it was admitted.
    pub rejection: Option<&'a Rejection>,
    /// It is to end.
    pub ending: bool,
    /// It has come to its end by itself, or is to as soon as its containers have ended.
    pub finished: Option<&'a Finished>,
    /// The node's addresses, the first one first; at most one of each family.
    pub host_ips: &'a [IpAddr],
    /// What container ids begin with: `containerd`.
    pub runtime_name: &'a str,
    /// When the pod was made.
    pub created_at: Timestamp,
    /// The wall clock.
    pub now: Timestamp,
}

impl Situation<'_> {
    /// Whether some container has processes, or may have.
    fn lives(&self) -> bool {
        self.observed.containers.iter().any(is_live)
    }
}

/// The pod's status. `previous` is the answer before this one, if there was one in this process.
///
/// Times have whole seconds. `containerStatuses` are sorted by name, `initContainerStatuses` as in the spec; a pod that was
/// not admitted has none, so that its `reason` shows. A final phase comes only once no container lives.
/// `observedGeneration` is left to whoever knows the object's generation.
pub fn status(situation: &Situation<'_>, previous: Option<&k8s::PodStatus>) -> k8s::PodStatus {
    let statuses = containers::statuses(situation, previous);
    let phase = phase::phase(situation, &statuses);
    let sandbox = run::usable_sandbox(situation.pod, situation.observed);
    let host_network = situation.pod.namespaces.host_network;
    let pod_ips = match sandbox {
        _ if host_network => addresses(situation.host_ips, situation.host_ips),
        Some(sandbox) => addresses(&sandbox.ips, situation.host_ips),
        // They stay when the sandbox is gone, until there is another.
        None => previous.and_then(|previous| previous.pod_ips.clone()).unwrap_or_default(),
    };
    let finished = situation.finished.filter(|finished| finished.phase() == phase);
    let rejected = situation.rejection.map(|rejection| format!("Pod was rejected: {}", rejection.message));
    let reason = situation.rejection.map(|rejection| rejection.reason.clone());
    let list = |roles: &[Role]| {
        let all = situation.pod.containers.iter().zip(&statuses);
        let some: Vec<_> = all.filter(|(container, _)| roles.contains(&container.role)).collect();
        some.into_iter().map(|(_, status)| status.clone()).collect::<Vec<_>>()
    };
    let sandbox_ready_at = sandbox.map(|sandbox| sandbox.created_at);
    k8s::PodStatus {
        conditions: Some(conditions::conditions(situation, phase, &statuses, sandbox_ready_at, previous)),
        container_statuses: sorted(list(&[Role::Regular])),
        ephemeral_container_statuses: sorted(list(&[Role::Ephemeral])),
        init_container_statuses: unless_empty(list(&[Role::Init, Role::Sidecar])),
        host_ip: situation.host_ips.first().map(ToString::to_string),
        host_ips: Some(situation.host_ips.iter().map(|ip| k8s::HostIP { ip: ip.to_string() }).collect()),
        message: rejected.or_else(|| finished.and_then(|finished| finished.message.clone())),
        phase: Some(phase.to_owned()),
        pod_ip: pod_ips.first().map(|ip| ip.ip.clone()),
        pod_ips: (!pod_ips.is_empty()).then_some(pod_ips),
        qos_class: Some(situation.pod.qos.as_str().to_owned()),
        reason: reason.or_else(|| finished.and_then(|finished| finished.reason.clone())),
        start_time: Some(time(situation.created_at)),
        ..k8s::PodStatus::default()
    }
}

fn unless_empty<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

fn sorted(mut statuses: Vec<k8s::ContainerStatus>) -> Option<Vec<k8s::ContainerStatus>> {
    statuses.sort_by(|a, b| a.name.cmp(&b.name));
    unless_empty(statuses)
}

/// The first address of each family, that of the node's own first address before the other.
///
/// Source: kubernetes v1.36 `pkg/kubelet/kubelet_pods.go`, `sortPodIPs`.
fn addresses(ips: &[IpAddr], host_ips: &[IpAddr]) -> Vec<k8s::PodIP> {
    let is_first =
        |(index, ip): &(usize, &IpAddr)| !ips[..*index].iter().any(|before| before.is_ipv4() == ip.is_ipv4());
    let is_other = |ip: &IpAddr| host_ips.first().is_some_and(|first| first.is_ipv4() != ip.is_ipv4());
    let mut firsts: Vec<_> = ips.iter().enumerate().filter(is_first).map(|(_, ip)| ip).collect();
    firsts.sort_by_key(|ip| is_other(ip));
    firsts.into_iter().map(|ip| k8s::PodIP { ip: ip.to_string() }).collect()
}

/// A time as the API has it: whole seconds.
fn time(timestamp: Timestamp) -> Time {
    Time(Timestamp::from_second(timestamp.as_second()).unwrap_or(timestamp))
}

// === what statuses of containers are asked ===

/// The containers of the pod with their statuses; none at all of a pod that was not admitted.
fn with_statuses<'a>(
    pod: &'a Pod,
    statuses: &'a [k8s::ContainerStatus],
) -> impl Iterator<Item = (&'a Container, Option<&'a k8s::ContainerStatus>)> {
    pod.containers.iter().enumerate().map(|(index, container)| (container, statuses.get(index)))
}

fn is_running(state: Option<&k8s::ContainerState>) -> bool {
    state.is_some_and(|state| state.running.is_some())
}

fn ended(state: Option<&k8s::ContainerState>) -> Option<&k8s::ContainerStateTerminated> {
    state.and_then(|state| state.terminated.as_ref())
}

/// How the container ended last, also while it waits for its next start.
fn last_end(status: &k8s::ContainerStatus) -> Option<&k8s::ContainerStateTerminated> {
    let waits = status.state.as_ref().is_some_and(|state| state.waiting.is_some());
    ended(status.state.as_ref()).or_else(|| ended(status.last_state.as_ref()).filter(|_| waits))
}

/// Whether an init container that ended this way has not done its work.
fn has_failed(end: &k8s::ContainerStateTerminated) -> bool {
    policy::has_failed(end.exit_code, end.reason.as_deref().unwrap_or_default())
}

/// Whether it has ever run, as far as is known.
fn has_begun(status: &k8s::ContainerStatus) -> bool {
    is_running(status.state.as_ref()) || ended(status.state.as_ref()).or(ended(status.last_state.as_ref())).is_some()
}

/// Whether a regular container was started in the newest sandbox: then all init containers have done their work there.
fn has_initialized(situation: &Situation<'_>) -> bool {
    let Some(sandbox) = situation.observed.sandboxes.first() else { return false };
    let containers = situation.pod.containers.iter().filter(|container| container.role == Role::Regular);
    let mut newest = containers.filter_map(|container| instances(situation.observed, container).next());
    newest.any(|newest| newest.sandbox == sandbox.id && newest.phase != ContainerPhase::Created)
}

#[cfg(test)]
mod tests;
