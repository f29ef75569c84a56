//! The pod's status as the API shows it, from what the runtime has and what the plan waits for.
//!
//! Pure. The same situation gives the same status, also after the agent was restarted: times come from the runtime where it
//! has them. `previous` keeps what the runtime forgets.
//!
//! It names Kubernetes' types, as nothing else behind `podspec` does: its answer is the API's.
//!
//! Source: kubernetes v1.36 `pkg/kubelet/kubelet_pods.go` (`generateAPIPodStatus`, `convertToAPIContainerStatuses`,
//! `getPhase`), `pkg/kubelet/status/generate.go`.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Waiting, is_live, run};
use crate::fit::Rejection;
use crate::model::{ContainerPhase, ObservedContainer, ObservedPod};
use crate::podspec::{Container, Pod, RecursiveReadOnly};

/// All messages of ended containers of a pod together have no more bytes than this.
const TERMINATION_MESSAGES_BYTES_MAX: usize = 12 * 1024;

/// As of a process killed by SIGKILL: nobody saw how it ended.
const LOST_EXIT_CODE: i32 = 137;

/// Everything a status is made from.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// What the runtime has of it.
    pub observed: &'a ObservedPod,
    /// `Plan::waiting` of the plan made from `observed`.
    pub waiting: &'a [Option<Waiting>],
    /// Why it is not begun; none once it was admitted.
    pub rejection: Option<&'a Rejection>,
    /// It is to end.
    pub ending: bool,
    /// The node's addresses, the first one first; at most one of each family.
    pub host_ips: &'a [IpAddr],
    /// What container ids begin with: `containerd`.
    pub runtime_name: &'a str,
    /// When the pod was made.
    pub created_at: Timestamp,
    /// The wall clock.
    pub now: Timestamp,
}

/// The pod's status. `previous` is the answer before this one, if there was one in this process.
///
/// Times have whole seconds. `containerStatuses` are sorted by name; a pod that was not admitted has none, so that its
/// `reason` shows. `observedGeneration` is left to whoever knows the object's generation.
pub fn status(situation: &Situation<'_>, previous: Option<&k8s::PodStatus>) -> k8s::PodStatus {
    let statuses = container_statuses(situation, previous);
    let phase = phase(situation, &statuses);
    let sandbox = run::usable_sandbox(situation.pod, situation.observed);
    let host_network = situation.pod.namespaces.host_network;
    let pod_ips = match sandbox {
        _ if host_network => addresses(situation.host_ips),
        Some(sandbox) => addresses(&sandbox.ips),
        // They stay when the sandbox is gone, until there is another.
        None => previous.and_then(|previous| previous.pod_ips.clone()).unwrap_or_default(),
    };
    let sandbox_ready_at = sandbox.map(|sandbox| sandbox.created_at);
    k8s::PodStatus {
        conditions: Some(conditions(situation, phase, &statuses, sandbox_ready_at, previous)),
        container_statuses: (!statuses.is_empty()).then_some(statuses),
        host_ip: situation.host_ips.first().map(ToString::to_string),
        host_ips: Some(situation.host_ips.iter().map(|ip| k8s::HostIP { ip: ip.to_string() }).collect()),
        message: situation.rejection.map(|rejection| format!("Pod was rejected: {}", rejection.message)),
        phase: Some(phase.to_owned()),
        pod_ip: pod_ips.first().map(|ip| ip.ip.clone()),
        pod_ips: (!pod_ips.is_empty()).then_some(pod_ips),
        qos_class: Some(situation.pod.qos.as_str().to_owned()),
        reason: situation.rejection.map(|rejection| rejection.reason.clone()),
        start_time: Some(time(situation.created_at)),
        ..k8s::PodStatus::default()
    }
}

/// The first address of each family.
fn addresses(ips: &[IpAddr]) -> Vec<k8s::PodIP> {
    let is_first =
        |(index, ip): &(usize, &IpAddr)| !ips[..*index].iter().any(|before| before.is_ipv4() == ip.is_ipv4());
    ips.iter().enumerate().filter(is_first).map(|(_, ip)| k8s::PodIP { ip: ip.to_string() }).collect()
}

/// A time as the API has it: whole seconds.
fn time(timestamp: Timestamp) -> Time {
    Time(Timestamp::from_second(timestamp.as_second()).unwrap_or(timestamp))
}

// === containers ===

fn container_statuses(situation: &Situation<'_>, previous: Option<&k8s::PodStatus>) -> Vec<k8s::ContainerStatus> {
    if situation.rejection.is_some() {
        return Vec::new();
    }
    let before = |name: &str| previous?.container_statuses.iter().flatten().find(|status| status.name == name);
    let status = |(index, container): (usize, &Container)| {
        let waiting = situation.waiting.get(index).and_then(Option::as_ref);
        container_status(situation, container, waiting, before(&container.name))
    };
    let mut statuses: Vec<_> = situation.pod.containers.iter().enumerate().map(status).collect();
    statuses.sort_by(|a, b| a.name.cmp(&b.name));
    statuses
}

fn container_status(
    situation: &Situation<'_>,
    container: &Container,
    waiting: Option<&Waiting>,
    before: Option<&k8s::ContainerStatus>,
) -> k8s::ContainerStatus {
    let mut instances = situation.observed.containers.iter().filter(|instance| instance.name == container.name);
    let (newest, second) = (instances.next(), instances.next());
    let mut state = match newest {
        Some(newest) => state(situation, newest, before),
        None => lost_state(before),
    };
    let mut last_state = second.and_then(|second| terminated(situation, second)).or_else(|| last_state(newest, before));
    if newest.is_none() && before.is_some_and(|before| is_running(before.state.as_ref())) {
        last_state = Some(lost());
    }
    if let Some(waiting) = waiting.filter(|_| state.running.is_none()) {
        if state.terminated.is_some() {
            last_state = Some(state);
        }
        state = waiting_state(waiting.reason, &waiting.message);
    }
    let running = state.running.is_some();
    k8s::ContainerStatus {
        container_id: newest.map(|newest| container_id(situation, newest)),
        image: newest.map_or_else(|| container.image.clone(), |newest| newest.image.clone()),
        image_id: newest.map(|newest| newest.image_ref.clone()).unwrap_or_default(),
        last_state: Some(last_state.unwrap_or_default()),
        name: container.name.clone(),
        // Without probes a container is ready as long as it runs.
        ready: running,
        restart_count: restart_count(newest, before),
        started: Some(running),
        state: Some(state),
        volume_mounts: volume_mounts(container),
        ..k8s::ContainerStatus::default()
    }
}

/// The state of an instance the runtime has.
fn state(
    situation: &Situation<'_>,
    instance: &ObservedContainer,
    before: Option<&k8s::ContainerStatus>,
) -> k8s::ContainerState {
    match &instance.phase {
        ContainerPhase::Running { started_at } => {
            let running = k8s::ContainerStateRunning { started_at: Some(time(*started_at)) };
            k8s::ContainerState { running: Some(running), ..Default::default() }
        }
        ContainerPhase::Unknown if before.is_some_and(|before| is_running(before.state.as_ref())) => lost(),
        ContainerPhase::Created | ContainerPhase::Unknown => waiting_state("ContainerCreating", ""),
        ContainerPhase::Exited { .. } => terminated(situation, instance).unwrap_or_default(),
    }
}

/// The state of a container of which the runtime has no instance (any more).
fn lost_state(before: Option<&k8s::ContainerStatus>) -> k8s::ContainerState {
    let ended = before.and_then(|before| before.state.clone()).filter(|state| state.terminated.is_some());
    ended.unwrap_or_else(|| waiting_state("ContainerCreating", ""))
}

/// What `lastState` was, unless it told of the newest instance itself.
fn last_state(
    newest: Option<&ObservedContainer>,
    before: Option<&k8s::ContainerStatus>,
) -> Option<k8s::ContainerState> {
    let last_state = before?.last_state.clone()?;
    let id = last_state.terminated.as_ref()?.container_id.as_deref().unwrap_or_default();
    let is_newest = newest.is_some_and(|newest| id.ends_with(newest.id.as_str()));
    (!is_newest).then_some(last_state)
}

fn waiting_state(reason: &str, message: &str) -> k8s::ContainerState {
    let message = (!message.is_empty()).then(|| message.to_owned());
    let waiting = k8s::ContainerStateWaiting { reason: Some(reason.to_owned()), message };
    k8s::ContainerState { waiting: Some(waiting), ..Default::default() }
}

/// The state of an instance that has ended; none for others.
fn terminated(situation: &Situation<'_>, instance: &ObservedContainer) -> Option<k8s::ContainerState> {
    let ContainerPhase::Exited { started_at, finished_at, exit_code, reason, message } = &instance.phase else {
        return None;
    };
    let share = TERMINATION_MESSAGES_BYTES_MAX / situation.pod.containers.len().max(1);
    let terminated = k8s::ContainerStateTerminated {
        container_id: Some(container_id(situation, instance)),
        exit_code: *exit_code,
        finished_at: Some(time(*finished_at)),
        message: (!message.is_empty()).then(|| message[..message.floor_char_boundary(share)].to_owned()),
        reason: Some(reason.clone()),
        signal: None,
        started_at: Some(time(*started_at)),
    };
    Some(k8s::ContainerState { terminated: Some(terminated), ..Default::default() })
}

/// The state of an instance that ran and of whose end nobody knows.
fn lost() -> k8s::ContainerState {
    let terminated = k8s::ContainerStateTerminated {
        exit_code: LOST_EXIT_CODE,
        reason: Some("ContainerStatusUnknown".to_owned()),
        message: Some("The container could not be located when the pod was terminated".to_owned()),
        ..Default::default()
    };
    k8s::ContainerState { terminated: Some(terminated), ..Default::default() }
}

fn is_running(state: Option<&k8s::ContainerState>) -> bool {
    state.is_some_and(|state| state.running.is_some())
}

fn container_id(situation: &Situation<'_>, instance: &ObservedContainer) -> String {
    format!("{}://{}", situation.runtime_name, instance.id)
}

/// Never less than it was.
fn restart_count(newest: Option<&ObservedContainer>, before: Option<&k8s::ContainerStatus>) -> i32 {
    let observed = newest.map_or(0, |newest| i32::try_from(newest.attempt).unwrap_or(i32::MAX));
    observed.max(before.map_or(0, |before| before.restart_count))
}

fn volume_mounts(container: &Container) -> Option<Vec<k8s::VolumeMountStatus>> {
    let mounts = container.mounts.iter().filter_map(|mount| {
        Some(k8s::VolumeMountStatus {
            mount_path: mount.container_path.clone(),
            name: mount.volume.clone()?,
            read_only: mount.read_only.then_some(true),
            recursive_read_only: mount.read_only.then(|| recursive_read_only(mount.recursive_read_only).to_owned()),
            volume_status: None,
        })
    });
    let mounts: Vec<_> = mounts.collect();
    (!mounts.is_empty()).then_some(mounts)
}

/// `IfPossible` is shown as what is sure.
fn recursive_read_only(mode: RecursiveReadOnly) -> &'static str {
    if mode == RecursiveReadOnly::Enabled { "Enabled" } else { "Disabled" }
}

// === phase and conditions ===

/// `status.phase` of a pod all of whose containers are always restarted.
fn phase(situation: &Situation<'_>, statuses: &[k8s::ContainerStatus]) -> &'static str {
    let has_ended =
        |state: &Option<k8s::ContainerState>| state.as_ref().is_some_and(|state| state.terminated.is_some());
    let finished = situation.ending && !situation.observed.containers.iter().any(is_live);
    if finished {
        let succeeded = |status: &k8s::ContainerStatus| {
            let terminated = status.state.as_ref().and_then(|state| state.terminated.as_ref());
            terminated.is_some_and(|terminated| terminated.exit_code == 0)
        };
        return if !statuses.is_empty() && statuses.iter().all(succeeded) { "Succeeded" } else { "Failed" };
    }
    // A container that ran before and will run again does not make the pod Pending.
    let was_begun = |status: &k8s::ContainerStatus| {
        is_running(status.state.as_ref()) || has_ended(&status.state) || has_ended(&status.last_state)
    };
    if !statuses.is_empty() && statuses.iter().all(was_begun) { "Running" } else { "Pending" }
}

/// What is so, and since when.
struct Fact {
    type_: &'static str,
    /// When it became true; none if it is not.
    since: Option<Timestamp>,
    reason: Option<&'static str>,
    message: Option<String>,
}

fn conditions(
    situation: &Situation<'_>,
    phase: &str,
    statuses: &[k8s::ContainerStatus],
    sandbox_ready_at: Option<Timestamp>,
    previous: Option<&k8s::PodStatus>,
) -> Vec<k8s::PodCondition> {
    let (reason, message) = unready(situation, phase, statuses);
    let ready_at = reason.is_none().then(|| all_running_since(statuses)).flatten();
    let plain = |type_, since| Fact { type_, since, reason: None, message: None };
    let ready = |type_| Fact { type_, since: ready_at, reason, message: message.clone() };
    let completed = (phase == "Succeeded").then_some("PodCompleted");
    let facts = [
        plain("PodReadyToStartContainers", sandbox_ready_at),
        Fact { reason: completed, ..plain("Initialized", Some(situation.created_at)) },
        ready("Ready"),
        ready("ContainersReady"),
        plain("PodScheduled", Some(situation.created_at)),
    ];
    let before = |type_: &str| previous?.conditions.iter().flatten().find(|condition| condition.type_ == type_);
    facts.into_iter().map(|fact| condition(before(fact.type_), fact, situation.now)).collect()
}

/// The transition's time stays while the status does.
fn condition(before: Option<&k8s::PodCondition>, fact: Fact, now: Timestamp) -> k8s::PodCondition {
    let status = if fact.since.is_some() { "True" } else { "False" };
    let unchanged = before.filter(|before| before.status == status);
    let since = unchanged.and_then(|before| before.last_transition_time.clone());
    k8s::PodCondition {
        last_transition_time: Some(since.unwrap_or_else(|| time(fact.since.unwrap_or(now)))),
        message: fact.message,
        reason: fact.reason.map(str::to_owned),
        status: status.to_owned(),
        type_: fact.type_.to_owned(),
        ..k8s::PodCondition::default()
    }
}

/// Reason and message of a pod that is not ready; none if it is.
fn unready(
    situation: &Situation<'_>,
    phase: &str,
    statuses: &[k8s::ContainerStatus],
) -> (Option<&'static str>, Option<String>) {
    match phase {
        "Succeeded" => return (Some("PodCompleted"), None),
        "Failed" => return (Some("PodFailed"), None),
        _ => {}
    }
    let status = |container: &&Container| statuses.iter().find(|status| status.name == container.name);
    let containers = || situation.pod.containers.iter();
    let unknown = containers().filter(|container| status(container).is_none());
    let unready = containers().filter(|container| status(container).is_some_and(|status| !status.ready));
    let parts = [words("unknown", unknown), words("unready", unready)];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    if parts.is_empty() { (None, None) } else { (Some("ContainersNotReady"), Some(parts.join(", "))) }
}

fn words<'a>(kind: &str, containers: impl Iterator<Item = &'a Container>) -> Option<String> {
    let names: Vec<_> = containers.map(|container| container.name.as_str()).collect();
    (!names.is_empty()).then(|| format!("containers with {kind} status: [{}]", names.join(" ")))
}

/// When the last of the running containers was started.
fn all_running_since(statuses: &[k8s::ContainerStatus]) -> Option<Timestamp> {
    let started_at = |status: &k8s::ContainerStatus| {
        status.state.as_ref()?.running.as_ref()?.started_at.as_ref().map(|Time(started_at)| *started_at)
    };
    statuses.iter().filter_map(started_at).max()
}

#[cfg(test)]
mod tests;
