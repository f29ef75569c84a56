//! Rules for security contexts of pods and containers. Windows' options are not looked at: no agent runs there.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    AppArmorProfile, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext, Sysctl,
};

use super::{choice, volumes};
use crate::api::field::{FieldError, Path};
use crate::api::metadata::json;
use crate::api::names::{is_framed, is_lower_alphanumeric, range_message};

/// The largest user or group id.
const MAX_ID: i64 = i32::MAX as i64;
const MAX_SYSCTL_BYTES: usize = 253;
/// `PATH_MAX` without the terminating zero.
const MAX_PROFILE_BYTES: usize = 4095;
const PROFILE_TYPES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];

pub(super) fn validate_pod(context: &PodSecurityContext, spec: &PodSpec, path: &Path, errors: &mut Vec<FieldError>) {
    validate_id(context.fs_group, &path.child("fsGroup"), errors);
    validate_id(context.run_as_user, &path.child("runAsUser"), errors);
    validate_id(context.run_as_group, &path.child("runAsGroup"), errors);
    for (index, group) in context.supplemental_groups.iter().flatten().enumerate() {
        validate_id(Some(*group), &path.child("supplementalGroups").index(index), errors);
    }
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(FieldError::invalid(&path.child("shareProcessNamespace"), true, detail));
    }
    validate_sysctls(context.sysctls.as_deref().unwrap_or_default(), spec, &path.child("sysctls"), errors);
    for (name, value, supported) in [
        ("fsGroupChangePolicy", &context.fs_group_change_policy, ["Always", "OnRootMismatch"]),
        ("supplementalGroupsPolicy", &context.supplemental_groups_policy, ["Merge", "Strict"]),
        ("seLinuxChangePolicy", &context.se_linux_change_policy, ["MountOption", "Recursive"]),
    ] {
        if let Some(value) = value.as_deref().filter(|value| !supported.contains(value)) {
            errors.push(FieldError::not_supported(&path.child(name), value, &supported));
        }
    }
    validate_profiles(context.seccomp_profile.as_ref(), context.app_armor_profile.as_ref(), path, errors);
}

pub(super) fn validate_container(context: &SecurityContext, spec: &PodSpec, path: &Path, errors: &mut Vec<FieldError>) {
    validate_id(context.run_as_user, &path.child("runAsUser"), errors);
    validate_id(context.run_as_group, &path.child("runAsGroup"), errors);
    if let Some(mount) = context.proc_mount.as_deref() {
        let path = path.child("procMount");
        choice(mount, &["Default", "Unmasked"], &path, errors);
        if mount == "Unmasked" && spec.host_users != Some(false) {
            errors.push(FieldError::invalid(&path, mount, "`hostUsers` must be false to use `Unmasked`"));
        }
    }
    validate_profiles(context.seccomp_profile.as_ref(), context.app_armor_profile.as_ref(), path, errors);
    if context.allow_privilege_escalation == Some(false) {
        if context.privileged == Some(true) {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(FieldError::invalid(path, json(context), detail));
        }
        let added = context.capabilities.as_ref().and_then(|capabilities| capabilities.add.as_ref());
        if added.into_iter().flatten().any(|capability| capability == "CAP_SYS_ADMIN") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(FieldError::invalid(path, json(context), detail));
        }
    }
}

/// Pods with users of their own may not share other namespaces of the host.
pub(super) fn validate_host_users(spec: &PodSpec, path: &Path, errors: &mut Vec<FieldError>) {
    if spec.host_users != Some(false) {
        return;
    }
    // Two of the names are not quite those of the fields; they are upstream's.
    for (name, shared) in [("hostNetwork", spec.host_network), ("HostPID", spec.host_pid), ("HostIPC", spec.host_ipc)] {
        if shared == Some(true) {
            errors.push(FieldError::forbidden(&path.child(name), "when `pod.Spec.HostUsers` is false"));
        }
    }
    for (index, container) in spec.containers.iter().enumerate() {
        if container.volume_devices.as_ref().is_some_and(|devices| !devices.is_empty()) {
            let path = path.child("containers").index(index).child("volumeDevices");
            errors.push(FieldError::forbidden(&path, "when `pod.Spec.HostUsers` is false"));
        }
    }
}

fn validate_id(id: Option<i64>, path: &Path, errors: &mut Vec<FieldError>) {
    if let Some(id) = id.filter(|id| !(0..=MAX_ID).contains(id)) {
        errors.push(FieldError::invalid(path, id, range_message(0, MAX_ID)));
    }
}

// === profiles ===

fn validate_profiles(
    seccomp: Option<&SeccompProfile>,
    app_armor: Option<&AppArmorProfile>,
    path: &Path,
    errors: &mut Vec<FieldError>,
) {
    if let Some(profile) = seccomp {
        validate_seccomp(profile, &path.child("seccompProfile"), errors);
    }
    if let Some(profile) = app_armor {
        validate_app_armor(profile, &path.child("appArmorProfile"), errors);
    }
}

fn validate_type(kind: &str, what: &str, path: &Path, errors: &mut Vec<FieldError>) {
    if kind.is_empty() {
        errors.push(FieldError::required(path, format!("type is required when {what} is set")));
    } else if !PROFILE_TYPES.contains(&kind) {
        errors.push(FieldError::not_supported(path, kind, &PROFILE_TYPES));
    }
}

fn validate_seccomp(profile: &SeccompProfile, path: &Path, errors: &mut Vec<FieldError>) {
    validate_type(&profile.type_, "seccompProfile", &path.child("type"), errors);
    let local_path = path.child("localhostProfile");
    match (profile.type_.as_str(), &profile.localhost_profile) {
        ("Localhost", None) => {
            errors.push(FieldError::required(&local_path, "must be set when seccomp type is Localhost"));
        }
        ("Localhost", Some(file)) => volumes::descending_path(file, &local_path, errors),
        (_, Some(_)) => {
            let detail = "can only be set when seccomp type is Localhost";
            errors.push(FieldError::invalid(&local_path, json(profile), detail));
        }
        (_, None) => {}
    }
}

fn validate_app_armor(profile: &AppArmorProfile, path: &Path, errors: &mut Vec<FieldError>) {
    validate_type(&profile.type_, "appArmorProfile", &path.child("type"), errors);
    let local_path = path.child("localhostProfile");
    match (profile.type_.as_str(), profile.localhost_profile.as_deref()) {
        ("Localhost", None | Some("")) => {
            errors.push(FieldError::required(&local_path, "must be set when AppArmor type is Localhost"));
        }
        ("Localhost", Some(name)) => {
            if name.trim() != name {
                errors.push(FieldError::invalid(&local_path, name, "must not be padded with whitespace"));
            }
            if name.len() > MAX_PROFILE_BYTES {
                errors.push(FieldError::too_long(&local_path, MAX_PROFILE_BYTES));
            }
        }
        ("RuntimeDefault" | "Unconfined", Some(name)) => {
            let detail = "can only be set when AppArmor type is Localhost";
            errors.push(FieldError::invalid(&local_path, name, detail));
        }
        _ => {}
    }
}

// === sysctls ===

fn validate_sysctls(sysctls: &[Sysctl], spec: &PodSpec, path: &Path, errors: &mut Vec<FieldError>) {
    let mut seen = BTreeSet::new();
    for (index, sysctl) in sysctls.iter().enumerate() {
        let path = path.index(index).child("name");
        let name = sysctl.name.as_str();
        if name.is_empty() {
            errors.push(FieldError::required(&path, ""));
        } else if !is_sysctl_name(name) {
            let segment = "[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
            let detail = format!(
                "must have at most {MAX_SYSCTL_BYTES} characters and match regex ^({segment}[\\./])*{segment}$"
            );
            errors.push(FieldError::invalid(&path, name, detail));
        } else if seen.contains(name) {
            errors.push(FieldError::duplicate(&path, name));
        }
        let dotted = name.replace('/', ".");
        if spec.host_network == Some(true) && dotted.starts_with("net.") {
            errors.push(FieldError::invalid(&path, name, "may not be specified when 'hostNetwork' is true"));
        }
        let ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|prefix| dotted.starts_with(prefix));
        if spec.host_ipc == Some(true) && (ipc || dotted == "kernel.sem") {
            errors.push(FieldError::invalid(&path, name, "may not be specified when 'hostIPC' is true"));
        }
        seen.insert(name);
    }
}

fn is_sysctl_name(name: &str) -> bool {
    let inner = |byte| is_lower_alphanumeric(byte) || matches!(byte, b'-' | b'_');
    name.len() <= MAX_SYSCTL_BYTES && name.split(['.', '/']).all(|part| is_framed(part, is_lower_alphanumeric, inner))
}
