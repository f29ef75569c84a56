//! What a pod's processes may do: the pod's settings as the base, a container's own above them.
//!
//! Source: kubernetes v1.36 `pkg/securitycontext/util.go`, `DetermineEffectiveSecurityContext`, and
//! `pkg/kubelet/kuberuntime/security_context.go`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as k8s;

use super::{Container, HostFacts, ImageUser, Pod, PodSecurity, Profile, Security, SelinuxOptions};
use crate::api::field::{FieldError, Path};

/// What the default `procMount` hides from a container, beside what is the host's own ([`HostFacts::masked_paths`]).
const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// What the default `procMount` shows, but not for writing.
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Before there was a field for it, a container's AppArmor profile was this annotation with the container's name behind.
const APPARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Below the kubelet's root, where profiles of `type: Localhost` are looked for.
const SECCOMP_DIR: &str = "seccomp";

/// Who the sandbox's process is. Whether some container is privileged is seen once they are resolved.
pub(super) fn pod(spec: &k8s::PodSpec) -> PodSecurity {
    let base = spec.security_context.clone().unwrap_or_default();
    PodSecurity {
        privileged: false,
        run_as_user: base.run_as_user,
        run_as_group: base.run_as_group,
        supplemental_groups: supplemental_groups(spec),
        strict_groups: base.supplemental_groups_policy.as_deref() == Some("Strict"),
        selinux: base.se_linux_options.as_ref().map(selinux),
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

/// What the container of this name may do, by its own settings and its pod's. `annotations` are the pod's.
///
/// # Errors
/// A profile of the host without a name, which a valid template does not have.
pub(super) fn container(
    spec: &k8s::PodSpec,
    (name, own): (&str, Option<&k8s::SecurityContext>),
    annotations: &BTreeMap<String, String>,
    host: &HostFacts,
    at: &Path,
) -> Result<Security, FieldError> {
    let base = spec.security_context.clone().unwrap_or_default();
    let own = own.cloned().unwrap_or_default();
    let capabilities = own.capabilities.unwrap_or_default();
    let unmasked = own.proc_mount.as_deref() == Some("Unmasked");
    let owned = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>();
    let masked = || owned(&MASKED_PATHS).into_iter().chain(host.masked_paths.iter().cloned()).collect();
    let annotated =
        || annotations.get(&format!("{APPARMOR_ANNOTATION}{name}")).and_then(|text| annotated_apparmor(text));
    let apparmor = match own.app_armor_profile {
        Some(profile) => Some(apparmor(&profile)),
        None => annotated().or_else(|| base.app_armor_profile.as_ref().map(apparmor)),
    };
    Ok(Security {
        privileged: own.privileged.unwrap_or(false),
        add_capabilities: capabilities.add.unwrap_or_default(),
        drop_capabilities: capabilities.drop.unwrap_or_default(),
        run_as_user: own.run_as_user.or(base.run_as_user),
        run_as_group: own.run_as_group.or(base.run_as_group),
        run_as_non_root: own.run_as_non_root.or(base.run_as_non_root).unwrap_or(false),
        supplemental_groups: supplemental_groups(spec),
        read_only_root_filesystem: own.read_only_root_filesystem.unwrap_or(false),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        seccomp: seccomp(own.seccomp_profile.or(base.seccomp_profile).as_ref(), host, at)?,
        apparmor,
        selinux: own.se_linux_options.or(base.se_linux_options).as_ref().map(selinux),
        masked_paths: if unmasked { Vec::new() } else { masked() },
        readonly_paths: if unmasked { Vec::new() } else { owned(&READONLY_PATHS) },
    })
}

/// Without a profile there is no filter, as in a kubelet without `seccompDefault`.
fn seccomp(profile: Option<&k8s::SeccompProfile>, host: &HostFacts, at: &Path) -> Result<Profile, FieldError> {
    let Some(profile) = profile else { return Ok(Profile::Unconfined) };
    match profile.type_.as_str() {
        "RuntimeDefault" => Ok(Profile::RuntimeDefault),
        "Localhost" => {
            let file = profile.localhost_profile.as_deref().filter(|file| !file.is_empty());
            let at = at.child("securityContext").child("seccompProfile").child("localhostProfile");
            let file = file.ok_or_else(|| FieldError::required(&at, "must be set when seccomp type is Localhost"))?;
            Ok(Profile::Localhost(host.root_dir.join(SECCOMP_DIR).join(file).to_string_lossy().into_owned()))
        }
        _ => Ok(Profile::Unconfined),
    }
}

fn apparmor(profile: &k8s::AppArmorProfile) -> Profile {
    match profile.type_.as_str() {
        "RuntimeDefault" => Profile::RuntimeDefault,
        "Localhost" => Profile::Localhost(profile.localhost_profile.clone().unwrap_or_default()),
        _ => Profile::Unconfined,
    }
}

/// The value of the annotation; none if it means nothing.
fn annotated_apparmor(text: &str) -> Option<Profile> {
    match text {
        "runtime/default" => Some(Profile::RuntimeDefault),
        "unconfined" => Some(Profile::Unconfined),
        text => text.strip_prefix("localhost/").map(|name| Profile::Localhost(name.to_owned())),
    }
}

fn selinux(options: &k8s::SELinuxOptions) -> SelinuxOptions {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    SelinuxOptions {
        user: text(&options.user),
        role: text(&options.role),
        type_: text(&options.type_),
        level: text(&options.level),
    }
}

/// The pod's kernel settings, named with dots between their parts.
///
/// Source: kubernetes v1.36 `k8s.io/component-helpers/node/util/sysctl`, `NormalizeName`.
pub(super) fn sysctls(spec: &k8s::PodSpec) -> BTreeMap<String, String> {
    let written = spec.security_context.iter().flat_map(|base| base.sysctls.iter().flatten());
    written.map(|sysctl| (dotted(&sysctl.name), sysctl.value.clone())).collect()
}

/// Written with slashes first, slashes and dots change their meaning.
fn dotted(name: &str) -> String {
    if !name.find(['.', '/']).is_some_and(|first| name[first..].starts_with('/')) {
        return name.to_owned();
    }
    let turned = |letter| match letter {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    name.chars().map(turned).collect()
}

/// Whether a container that must not run as root does not. `image_user` is whom its image names.
///
/// # Errors
/// In upstream's words, for the container's status and event.
///
/// Source: kubernetes v1.36 `pkg/kubelet/kuberuntime/security_context_others.go`, `verifyRunAsNonRoot`.
pub fn verify_non_root(pod: &Pod, container: &Container, image_user: &ImageUser) -> Result<(), String> {
    let security = &container.security;
    let why = match (security.run_as_user, image_user) {
        _ if !security.run_as_non_root => return Ok(()),
        (Some(0), _) => "container's runAsUser breaks non-root policy".to_owned(),
        (None, ImageUser::Uid(0)) => "container has runAsNonRoot and image will run as root".to_owned(),
        (None, ImageUser::Name(name)) => format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root"
        ),
        (Some(_), _) | (None, ImageUser::Uid(_)) => return Ok(()),
    };
    let key = &pod.key;
    Err(format!("{why} (pod: \"{}_{}({})\", container: {})", key.name, key.namespace, key.uid, container.name))
}
