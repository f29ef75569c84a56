//! What people at the host are told of this node.

use k8s_openapi::api::core::v1::{ContainerStatus, NodeStatus, PodStatus};

use super::{NodeState, Roster};
use crate::agent::status::{SeenPod, Status};

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
            line.seen = record.and_then(|record| self.views.get(&record.key.uid)).map(|view| seen(&view.status));
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
fn seen(status: &PodStatus) -> SeenPod {
    let containers = status.container_statuses.as_deref().unwrap_or_default();
    let (reason, message) = containers.iter().find_map(trouble).unwrap_or_else(|| {
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

/// Why a container does not run, with what there is to say of it.
fn trouble(container: &ContainerStatus) -> Option<(String, String)> {
    let state = container.state.as_ref()?;
    let waiting = state.waiting.as_ref().map(|waiting| (&waiting.reason, &waiting.message));
    let (reason, message) =
        waiting.or_else(|| state.terminated.as_ref().map(|ended| (&ended.reason, &ended.message)))?;
    Some((reason.clone()?, message.clone().unwrap_or_default()))
}
