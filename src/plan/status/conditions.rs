//! `status.conditions`: what is so, since when, and why not.

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Situation, ended, has_begun, time, with_statuses};
use crate::plan::{finish, reset};
use crate::podspec::{Container, RestartAction, Role};

/// What is so, and since when.
struct Fact {
    type_: &'static str,
    holds: bool,
    /// When it became true, as far as the runtime tells.
    since: Option<Timestamp>,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Fact {
    fn plain(type_: &'static str, since: Option<Timestamp>) -> Self {
        Self { type_, holds: since.is_some(), since, reason: None, message: None }
    }

    fn against(type_: &'static str, reason: &'static str, message: Option<String>) -> Self {
        Self { type_, holds: false, since: None, reason: Some(reason), message }
    }
}

/// All conditions that are the node's to tell, in upstream's order.
pub(super) fn conditions(
    situation: &Situation<'_>,
    phase: &str,
    statuses: &[k8s::ContainerStatus],
    sandbox_ready_at: Option<Timestamp>,
    previous: Option<&k8s::PodStatus>,
) -> Vec<k8s::PodCondition> {
    let containers_ready = containers_ready(situation, phase, statuses);
    let facts = [
        Fact::plain("PodReadyToStartContainers", sandbox_ready_at),
        initialized(situation, phase, statuses),
        ready(situation, &containers_ready),
        containers_ready,
        Fact::plain("PodScheduled", Some(situation.created_at)),
    ];
    let before = |type_: &str| previous?.conditions.iter().flatten().find(|condition| condition.type_ == type_);
    let facts = facts.into_iter().chain(disrupted(situation)).chain(restarting_all(situation, phase));
    facts.map(|fact| condition(before(fact.type_), fact, situation.now)).collect()
}

/// The transition's time stays while the status does.
fn condition(before: Option<&k8s::PodCondition>, fact: Fact, now: Timestamp) -> k8s::PodCondition {
    let status = if fact.holds { "True" } else { "False" };
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

fn initialized(situation: &Situation<'_>, phase: &str, statuses: &[k8s::ContainerStatus]) -> Fact {
    let is_init = |container: &Container| matches!(container.role, Role::Init | Role::Sidecar);
    let init = || with_statuses(situation.pod, statuses).filter(|(container, _)| is_init(container));
    let is_complete = |container: &Container, status: &k8s::ContainerStatus| match container.role {
        Role::Sidecar => status.started == Some(true),
        _ => status.ready,
    };
    let incomplete = init().filter(|(container, status)| status.is_some_and(|status| !is_complete(container, status)));
    let against = parts(init(), ("incomplete", incomplete));
    let since = init().filter_map(|(_, status)| begun_or_ended_at(status?)).max().unwrap_or(situation.created_at);
    let holds = Fact::plain("Initialized", Some(since));
    if phase == "Succeeded" {
        return Fact { reason: Some("PodCompleted"), ..holds };
    }
    match against {
        // Sidecars that are restarted take nothing back.
        Some(_) if super::has_initialized(situation) => holds,
        Some(message) => Fact::against("Initialized", "ContainersNotInitialized", Some(message)),
        None => holds,
    }
}

fn containers_ready(situation: &Situation<'_>, phase: &str, statuses: &[k8s::ContainerStatus]) -> Fact {
    const TYPE: &str = "ContainersReady";
    let counts = |container: &Container| matches!(container.role, Role::Sidecar | Role::Regular);
    let all = || with_statuses(situation.pod, statuses).filter(|(container, _)| counts(container));
    let unready = all().filter(|(_, status)| status.is_some_and(|status| !status.ready));
    match (phase, parts(all(), ("unready", unready))) {
        ("Succeeded", _) => Fact::against(TYPE, "PodCompleted", None),
        ("Failed", _) => Fact::against(TYPE, "PodFailed", None),
        (_, Some(message)) => Fact::against(TYPE, "ContainersNotReady", Some(message)),
        // Without probes that is when the last one was started.
        (_, None) => Fact::plain(TYPE, all().filter_map(|(_, status)| begun_or_ended_at(status?)).max()),
    }
}

/// Ready are the containers, and what else the pod asks for: conditions that somebody else sets through the API. They are
/// not known here, so a pod that asks for one is not ready.
fn ready(situation: &Situation<'_>, containers_ready: &Fact) -> Fact {
    let Fact { holds, since, reason, ref message, .. } = *containers_ready;
    let gates = &situation.pod.readiness_gates;
    if holds && !gates.is_empty() {
        let missing = |gate| format!("corresponding condition of pod readiness gate \"{gate}\" does not exist.");
        let missing: Vec<_> = gates.iter().map(missing).collect();
        return Fact::against("Ready", "ReadinessGatesNotReady", Some(missing.join(", ")));
    }
    Fact { type_: "Ready", holds, since, reason, message: message.clone() }
}

/// Only of pods that had to go for their node's sake.
fn disrupted(situation: &Situation<'_>) -> Option<Fact> {
    let finished = situation.finished.filter(|finished| finished.disrupted)?;
    let holds = Fact::plain(finish::DISRUPTED, Some(situation.now));
    Some(Fact { reason: Some("TerminationByKubelet"), message: finished.message.clone(), ..holds })
}

/// Only of pods that may begin again as a whole.
fn restarting_all(situation: &Situation<'_>, phase: &str) -> Option<Fact> {
    const TYPE: &str = "AllContainersRestarting";
    let rules = situation.pod.containers.iter().flat_map(|container| &container.restart_rules);
    let may = rules.into_iter().any(|rule| rule.action == RestartAction::RestartAllContainers);
    may.then(|| match phase {
        "Succeeded" => Fact::against(TYPE, "PodCompleted", None),
        "Failed" => Fact::against(TYPE, "PodFailed", None),
        _ if reset::sources(situation.pod, situation.observed).is_empty() => Fact::plain(TYPE, None),
        _ => Fact {
            reason: Some("RestartAllContainersStarted"),
            message: Some("container exited with restart policy rule".to_owned()),
            ..Fact::plain(TYPE, Some(situation.now))
        },
    })
}

/// When it was started, or has ended if it has.
fn begun_or_ended_at(status: &k8s::ContainerStatus) -> Option<Timestamp> {
    let state = status.state.as_ref()?;
    let running = state.running.as_ref().and_then(|running| running.started_at.as_ref());
    let ended = ended(Some(state)).filter(|_| has_begun(status)).and_then(|ended| ended.finished_at.as_ref());
    running.or(ended).map(|Time(at)| *at)
}

/// One item of [`with_statuses`].
type Item<'a> = (&'a Container, Option<&'a k8s::ContainerStatus>);

/// What is against a condition: the containers without a status, then those of a kind. None if there are neither.
fn parts<'a>(
    all: impl Iterator<Item = Item<'a>>,
    (kind, some): (&str, impl Iterator<Item = Item<'a>>),
) -> Option<String> {
    let unknown = all.filter(|(_, status)| status.is_none());
    let parts = [words("unknown", unknown), words(kind, some)];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn words<'a>(kind: &str, containers: impl Iterator<Item = Item<'a>>) -> Option<String> {
    let names: Vec<_> = containers.map(|(container, _)| container.name.as_str()).collect();
    (!names.is_empty()).then(|| format!("containers with {kind} status: [{}]", names.join(" ")))
}
