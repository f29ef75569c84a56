//! What people at the host are told of this node.

use k8s_openapi::api::core::v1::{ContainerStatus, NodeStatus, PodCondition, PodStatus};

use super::{NodeState, Roster};
use crate::agent::status::{SeenPod, Status};
use crate::podspec::{Pod, Role};

impl Roster {
    /// The node as it is now: what the ledger holds, and what is seen beside it.
    pub(super) fn status(&self) -> Status {
        let mut status = Status {
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            not_ready: self.node.as_ref().map_or_else(|| Some("not known yet".to_owned()), not_ready),
            control: self.shared.settings.control.clone(),
            in_session: self.session.is_open(),
            link_lost: self.link_lost.clone(),
            hold: self.session.hold().map(str::to_owned),
            ledger_refuses: self.commit_retry_at.is_some(),
            ..Status::of(Some(&self.identity), &self.contents)
        };
        for line in &mut status.daemonsets {
            let same = |key: &crate::model::ObjectKey| (&key.namespace, &key.name) == (&line.namespace, &line.name);
            let mut sets =
                self.contents.daemonsets.iter().filter(|(_, set)| same(&set.key) && set.source == line.source);
            line.unknown_to_control = sets.any(|(uid, _)| self.desired.is_unknown(uid));
        }
        for line in &mut status.pods {
            let record = self.contents.pods.values().find(|record| record.key.name == line.name);
            line.seen = record.and_then(|record| {
                let (worker, view) = (self.workers.get(&record.key.uid)?, self.views.get(&record.key.uid)?);
                Some(seen(&worker.pod, &view.status))
            });
        }
        status
    }
}

/// The message of the condition `Ready`, unless that is true.
fn not_ready(node: &NodeState) -> Option<String> {
    if node.ready {
        return None;
    }
    let status: Option<NodeStatus> = serde_json::from_slice(&node.report.status).ok();
    let conditions = status.and_then(|status| status.conditions).unwrap_or_default();
    let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready");
    Some(ready.and_then(|ready| ready.message).unwrap_or_default())
}

/// As `kubectl get pods` shows it: why a container waits or ended says more than the phase.
fn seen(pod: &Pod, status: &PodStatus) -> SeenPod {
    let sidecars = status.init_container_statuses.iter().flatten().filter(|container| is_sidecar(pod, container));
    let containers: Vec<_> = sidecars.chain(status.container_statuses.iter().flatten()).collect();
    let said = initializing(pod, status).or_else(|| status.container_statuses.iter().flatten().find_map(trouble));
    let (reason, message) = said.unwrap_or_else(|| {
        let phase = || status.phase.clone().unwrap_or_default();
        (status.reason.clone().unwrap_or_else(phase), status.message.clone().unwrap_or_default())
    });
    SeenPod {
        status: reason,
        message,
        ready: containers.iter().filter(|container| container.ready).count(),
        containers: containers.len(),
        restarts: containers.iter().map(|container| container.restart_count).sum(),
    }
}

fn is_sidecar(pod: &Pod, container: &ContainerStatus) -> bool {
    pod.containers.iter().any(|spec| spec.role == Role::Sidecar && spec.name == container.name)
}

/// The init container that the pod waits for, if it was not initialized yet.
fn initializing(pod: &Pod, status: &PodStatus) -> Option<(String, String)> {
    let is_initialized = |condition: &PodCondition| condition.type_ == "Initialized" && condition.status == "True";
    if status.conditions.iter().flatten().any(is_initialized) {
        return None;
    }
    let containers = status.init_container_statuses.as_deref().unwrap_or_default();
    let is_done = |container: &ContainerStatus| {
        let ended = container.state.as_ref().and_then(|state| state.terminated.as_ref());
        let has_started = || is_sidecar(pod, container) && container.started == Some(true);
        ended.is_some_and(|ended| ended.exit_code == 0) || has_started()
    };
    let (index, first) = containers.iter().enumerate().find(|(_, container)| !is_done(container))?;
    let trouble = trouble(first).filter(|(reason, _)| reason != "PodInitializing");
    let (what, message) = trouble.unwrap_or_else(|| (format!("{index}/{}", containers.len()), String::new()));
    Some((format!("Init:{what}"), message))
}

/// Why a container does not run, with what there is to say of it.
fn trouble(container: &ContainerStatus) -> Option<(String, String)> {
    let state = container.state.as_ref()?;
    let waiting = state.waiting.as_ref().map(|waiting| (&waiting.reason, &waiting.message));
    let (reason, message) =
        waiting.or_else(|| state.terminated.as_ref().map(|ended| (&ended.reason, &ended.message)))?;
    Some((reason.clone()?, message.clone().unwrap_or_default()))
}
