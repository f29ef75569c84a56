//! A container's place in the life of its pod: which list it is from, and what follows its end.
//!
//! Source: kubernetes v1.36 `pkg/api/v1/pod/util.go` (`IsRestartableInitContainer`, `ContainerShouldRestart`).

use std::time::Duration;

use k8s_openapi::api::core::v1 as k8s;

use super::{ExitCodes, RestartAction, RestartPolicy, RestartRule, Role};
use crate::api::field::{FieldError, Path};

/// A container as written, with what the list it is from says of it.
pub(super) struct Listed {
    pub(super) container: k8s::Container,
    pub(super) role: Role,
    /// In its list.
    pub(super) index: usize,
    /// Whose processes it sees.
    pub(super) target: Option<String>,
    pub(super) at: Path,
}

impl Listed {
    pub(super) fn name(&self) -> &str {
        &self.container.name
    }
}

/// All containers of a pod, in the order in which [`super::Pod::containers`] has them.
pub(super) fn containers(spec: &k8s::PodSpec, ephemeral: &[k8s::EphemeralContainer]) -> Vec<Listed> {
    let at = Path::new("spec");
    let init = spec.init_containers.iter().flatten().enumerate().map(|(index, container)| {
        let is_sidecar = container.restart_policy.as_deref() == Some("Always");
        let role = if is_sidecar { Role::Sidecar } else { Role::Init };
        let at = at.child("initContainers").index(index);
        Listed { container: container.clone(), role, index, target: None, at }
    });
    let regular = spec.containers.iter().enumerate().map(|(index, container)| {
        let at = at.child("containers").index(index);
        Listed { container: container.clone(), role: Role::Regular, index, target: None, at }
    });
    let added = ephemeral.iter().enumerate().map(|(index, container)| {
        let (container, target) = ephemeral_container(container.clone());
        let at = at.child("ephemeralContainers").index(index);
        Listed { container, role: Role::Ephemeral, index, target, at }
    });
    init.chain(regular).chain(added).collect()
}

/// An ephemeral container as an ordinary one, and its target; an empty name is none.
pub(super) fn ephemeral_container(container: k8s::EphemeralContainer) -> (k8s::Container, Option<String>) {
    let k8s::EphemeralContainer {
        args,
        command,
        env,
        env_from,
        image,
        image_pull_policy,
        lifecycle,
        liveness_probe,
        name,
        ports,
        readiness_probe,
        resize_policy,
        resources,
        restart_policy,
        restart_policy_rules,
        security_context,
        startup_probe,
        stdin,
        stdin_once,
        target_container_name,
        termination_message_path,
        termination_message_policy,
        tty,
        volume_devices,
        volume_mounts,
        working_dir,
    } = container;
    let container = k8s::Container {
        args,
        command,
        env,
        env_from,
        image,
        image_pull_policy,
        lifecycle,
        liveness_probe,
        name,
        ports,
        readiness_probe,
        resize_policy,
        resources,
        restart_policy,
        restart_policy_rules,
        security_context,
        startup_probe,
        stdin,
        stdin_once,
        termination_message_path,
        termination_message_policy,
        tty,
        volume_devices,
        volume_mounts,
        working_dir,
    };
    (container, target_container_name.filter(|name| !name.is_empty()))
}

/// `restartPolicy` of the pod; without one it is `Always`.
pub(super) fn pod_restart_policy(spec: &k8s::PodSpec, at: &Path) -> Result<RestartPolicy, FieldError> {
    restart_policy(spec.restart_policy.as_deref(), RestartPolicy::Always, at)
}

/// What holds for a container: its own policy, or that of its pod. An ephemeral container never runs twice.
pub(super) fn container_restart_policy(written: &Listed, pod: RestartPolicy) -> Result<RestartPolicy, FieldError> {
    let pod = if written.role == Role::Ephemeral { RestartPolicy::Never } else { pod };
    restart_policy(written.container.restart_policy.as_deref(), pod, &written.at)
}

fn restart_policy(name: Option<&str>, default: RestartPolicy, at: &Path) -> Result<RestartPolicy, FieldError> {
    match name {
        None | Some("") => Ok(default),
        Some("Always") => Ok(RestartPolicy::Always),
        Some("OnFailure") => Ok(RestartPolicy::OnFailure),
        Some("Never") => Ok(RestartPolicy::Never),
        Some(other) => {
            Err(FieldError::not_supported(&at.child("restartPolicy"), other, &["Always", "OnFailure", "Never"]))
        }
    }
}

/// `restartPolicyRules`, in their order.
pub(super) fn restart_rules(container: &k8s::Container, at: &Path) -> Result<Vec<RestartRule>, FieldError> {
    let rule = |(index, rule): (usize, &k8s::ContainerRestartRule)| {
        let at = at.child("restartPolicyRules").index(index);
        let action = match rule.action.as_str() {
            "Restart" => RestartAction::Restart,
            "RestartAllContainers" => RestartAction::RestartAllContainers,
            other => {
                let supported = ["Restart", "RestartAllContainers"];
                return Err(FieldError::not_supported(&at.child("action"), other, &supported));
            }
        };
        let at = at.child("exitCodes");
        let written = rule.exit_codes.as_ref().ok_or_else(|| FieldError::required(&at, "must be specified"))?;
        let codes = written.values.clone().unwrap_or_default();
        let exit_codes = match written.operator.as_str() {
            "In" => ExitCodes::In(codes),
            "NotIn" => ExitCodes::NotIn(codes),
            other => return Err(FieldError::not_supported(&at.child("operator"), other, &["In", "NotIn"])),
        };
        Ok(RestartRule { action, exit_codes })
    };
    container.restart_policy_rules.iter().flatten().enumerate().map(rule).collect()
}

/// `activeDeadlineSeconds`.
pub(super) fn active_deadline(spec: &k8s::PodSpec, at: &Path) -> Result<Option<Duration>, FieldError> {
    let Some(seconds) = spec.active_deadline_seconds else { return Ok(None) };
    let positive = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0);
    let bad = || FieldError::invalid(&at.child("activeDeadlineSeconds"), seconds, "must be greater than 0");
    positive.map(|seconds| Some(Duration::from_secs(seconds))).ok_or_else(bad)
}

/// The condition types of `readinessGates`.
pub(super) fn readiness_gates(spec: &k8s::PodSpec) -> Vec<String> {
    spec.readiness_gates.iter().flatten().map(|gate| gate.condition_type.clone()).collect()
}
