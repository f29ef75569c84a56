//! What a pod's processes may do: the pod's settings as the base, a container's own above them.
//!
//! Source: kubernetes v1.36 `pkg/securitycontext/util.go`, `DetermineEffectiveSecurityContext`, and
//! `pkg/kubelet/kuberuntime/security_context.go`.

use k8s_openapi::api::core::v1 as k8s;

use super::{PodSecurity, Seccomp, Security};

/// Who the sandbox's process is.
pub(super) fn pod(spec: &k8s::PodSpec) -> PodSecurity {
    let base = spec.security_context.as_ref();
    let is_privileged = |container: &k8s::Container| {
        container.security_context.as_ref().and_then(|context| context.privileged) == Some(true)
    };
    PodSecurity {
        privileged: spec.containers.iter().any(is_privileged),
        run_as_user: base.and_then(|base| base.run_as_user),
        run_as_group: base.and_then(|base| base.run_as_group),
        supplemental_groups: supplemental_groups(spec),
    }
}

/// The group of its volumes first.
fn supplemental_groups(spec: &k8s::PodSpec) -> Vec<i64> {
    let groups = spec.security_context.as_ref().and_then(|base| base.supplemental_groups.clone());
    fs_group(spec).into_iter().chain(groups.unwrap_or_default()).collect()
}

/// `fsGroup`.
pub(super) fn fs_group(spec: &k8s::PodSpec) -> Option<i64> {
    spec.security_context.as_ref()?.fs_group
}

/// The user of all containers, if every one names one and it is the same.
///
/// Source: kubernetes v1.36 `pkg/volume/util/util.go`, `FsUserFrom`.
pub(super) fn fs_user(spec: &k8s::PodSpec) -> Option<i64> {
    let base = spec.security_context.as_ref().and_then(|base| base.run_as_user);
    let own = |container: &k8s::Container| container.security_context.as_ref().and_then(|own| own.run_as_user);
    let mut users = spec.init_containers.iter().flatten().chain(&spec.containers).map(|one| own(one).or(base));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then_some(first)
}

/// What one container may do.
pub(super) fn container(spec: &k8s::PodSpec, container: &k8s::Container) -> Security {
    let base = spec.security_context.clone().unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let capabilities = own.capabilities.unwrap_or_default();
    Security {
        privileged: own.privileged.unwrap_or(false),
        add_capabilities: capabilities.add.unwrap_or_default(),
        drop_capabilities: capabilities.drop.unwrap_or_default(),
        run_as_user: own.run_as_user.or(base.run_as_user),
        run_as_group: own.run_as_group.or(base.run_as_group),
        supplemental_groups: supplemental_groups(spec),
        read_only_root_filesystem: own.read_only_root_filesystem.unwrap_or(false),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        seccomp: seccomp(own.seccomp_profile.or(base.seccomp_profile).as_ref()),
    }
}

/// Without a profile there is no filter, as in a kubelet without `seccompDefault`. Profiles of the host are refused
/// before this is asked ([`super::unsupported()`]).
fn seccomp(profile: Option<&k8s::SeccompProfile>) -> Seccomp {
    match profile {
        Some(profile) if profile.type_ == "RuntimeDefault" => Seccomp::RuntimeDefault,
        _ => Seccomp::Unconfined,
    }
}
