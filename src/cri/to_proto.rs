//! What a resolved pod becomes in CRI. Pure.
//!
//! Field by field what kubelet 1.36 would send for the same pod, but for the labels of our own ([`super::labels`]).
//! Source: kubernetes v1.36 `pkg/kubelet/kuberuntime/{kuberuntime_sandbox,kuberuntime_container}.go` with their `_linux.go`.

use std::collections::HashMap;
use std::path::Path;

use k8s_cri::v1;

use super::{ImageUser, NewContainer, labels};
use crate::podspec::bind::{BoundMount, Content};
use crate::podspec::{
    Container, Dns, LinuxResources, Namespaces, PidNamespace, Pod, PortMapping, Propagation, Protocol, Seccomp,
    Security,
};

/// What the default `procMount` hides from a container.
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

/// The sandbox of a pod, made for the `attempt`th time.
pub(super) fn sandbox_config(pod: &Pod, attempt: u32) -> v1::PodSandboxConfig {
    let mut labels: HashMap<_, _> = pod.labels.clone().into_iter().collect();
    labels.extend(labels::pod_labels(&pod.key, &pod.origin));
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: pod.key.name.clone(),
            uid: pod.key.uid.0.clone(),
            namespace: pod.key.namespace.clone(),
            attempt,
        }),
        hostname: pod.hostname.clone(),
        log_directory: text(&pod.log_dir),
        dns_config: Some(dns_config(&pod.dns)),
        port_mappings: pod.ports.iter().map(port_mapping).collect(),
        labels,
        annotations: pod.annotations.clone().into_iter().collect(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: pod.cgroup_parent.clone(),
            security_context: Some(sandbox_security(pod)),
            sysctls: HashMap::new(),
            overhead: Some(resources(&pod.overhead)),
            resources: Some(resources(&pod.resources)),
        }),
        windows: None,
    }
}

/// One instance of a container. `image_user` stands in for a user the pod leaves open, where CRI wants one.
pub(super) fn container_config(new: &NewContainer<'_>, image_user: Option<&ImageUser>) -> v1::ContainerConfig {
    let NewContainer { pod, container, attempt, bound, image_ref, .. } = *new;
    let env = |(key, value): &(String, String)| v1::KeyValue { key: key.clone(), value: value.clone() };
    let mut container_labels = labels::pod_labels(&pod.key, &pod.origin);
    container_labels.insert(labels::CONTAINER_NAME.to_owned(), container.name.clone());
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: container.name.clone(), attempt }),
        image: Some(v1::ImageSpec {
            image: image_ref.to_owned(),
            user_specified_image: container.image.clone(),
            ..Default::default()
        }),
        command: bound.command.clone(),
        args: bound.args.clone(),
        working_dir: container.working_dir.clone(),
        envs: bound.env.iter().map(env).collect(),
        mounts: bound.mounts.iter().map(mount).chain(termination_log(pod, container, attempt)).collect(),
        labels: container_labels,
        annotations: labels::container_annotations(pod, container, attempt),
        log_path: text(&container.log_path(attempt)),
        tty: container.tty,
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(resources(&container.resources)),
            security_context: Some(container_security(&container.security, pod.namespaces, image_user)),
        }),
        ..Default::default()
    }
}

fn dns_config(dns: &Dns) -> v1::DnsConfig {
    v1::DnsConfig { servers: dns.servers.clone(), searches: dns.searches.clone(), options: dns.options.clone() }
}

fn port_mapping(port: &PortMapping) -> v1::PortMapping {
    let protocol = match port.protocol {
        Protocol::Tcp => v1::Protocol::Tcp,
        Protocol::Udp => v1::Protocol::Udp,
        Protocol::Sctp => v1::Protocol::Sctp,
    };
    v1::PortMapping {
        protocol: protocol.into(),
        container_port: port.container_port.into(),
        host_port: port.host_port.into(),
        host_ip: port.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
    }
}

fn sandbox_security(pod: &Pod) -> v1::LinuxSandboxSecurityContext {
    v1::LinuxSandboxSecurityContext {
        namespace_options: Some(namespace_options(pod.namespaces)),
        run_as_user: pod.security.run_as_user.map(int64),
        run_as_group: pod.security.run_as_group.map(int64),
        supplemental_groups: pod.security.supplemental_groups.clone(),
        privileged: pod.security.privileged,
        // Whatever profile the pod asks for: this one is for the sandbox's own process.
        seccomp: Some(seccomp(Seccomp::RuntimeDefault)),
        ..Default::default()
    }
}

fn container_security(
    security: &Security,
    namespaces: Namespaces,
    image_user: Option<&ImageUser>,
) -> v1::LinuxContainerSecurityContext {
    let own = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
    let (image_uid, image_name) = match image_user {
        Some(ImageUser::Uid(uid)) => (Some(*uid), String::new()),
        Some(ImageUser::Name(name)) => (None, name.clone()),
        None => (None, String::new()),
    };
    v1::LinuxContainerSecurityContext {
        capabilities: Some(v1::Capability {
            add_capabilities: security.add_capabilities.clone(),
            drop_capabilities: security.drop_capabilities.clone(),
            add_ambient_capabilities: vec![],
        }),
        privileged: security.privileged,
        namespace_options: Some(namespace_options(namespaces)),
        run_as_user: security.run_as_user.or(image_uid).map(int64),
        run_as_username: image_name,
        run_as_group: security.run_as_group.map(int64),
        readonly_rootfs: security.read_only_root_filesystem,
        supplemental_groups: security.supplemental_groups.clone(),
        no_new_privs: security.no_new_privs,
        masked_paths: own(&MASKED_PATHS),
        readonly_paths: own(&READONLY_PATHS),
        seccomp: Some(seccomp(security.seccomp)),
        ..Default::default()
    }
}

fn namespace_options(namespaces: Namespaces) -> v1::NamespaceOption {
    let of_host = |shared: bool| if shared { v1::NamespaceMode::Node } else { v1::NamespaceMode::Pod };
    let pid = match namespaces.pid {
        PidNamespace::Container => v1::NamespaceMode::Container,
        PidNamespace::Pod => v1::NamespaceMode::Pod,
        PidNamespace::Host => v1::NamespaceMode::Node,
    };
    v1::NamespaceOption {
        network: of_host(namespaces.host_network).into(),
        pid: pid.into(),
        ipc: of_host(namespaces.host_ipc).into(),
        target_id: String::new(),
        userns_options: Some(v1::UserNamespace { mode: v1::NamespaceMode::Node.into(), ..Default::default() }),
    }
}

fn seccomp(profile: Seccomp) -> v1::SecurityProfile {
    let profile_type = match profile {
        Seccomp::RuntimeDefault => v1::security_profile::ProfileType::RuntimeDefault,
        Seccomp::Unconfined => v1::security_profile::ProfileType::Unconfined,
    };
    v1::SecurityProfile { profile_type: profile_type.into(), localhost_ref: String::new() }
}

fn resources(resources: &LinuxResources) -> v1::LinuxContainerResources {
    let hugepages = resources.hugepage_limits.iter();
    v1::LinuxContainerResources {
        cpu_period: resources.cpu_period,
        cpu_quota: resources.cpu_quota,
        cpu_shares: resources.cpu_shares,
        memory_limit_in_bytes: resources.memory_limit_bytes,
        memory_swap_limit_in_bytes: resources.memory_swap_limit_bytes,
        oom_score_adj: resources.oom_score_adj,
        hugepage_limits: hugepages
            .map(|(page_size, limit)| v1::HugepageLimit { page_size: page_size.clone(), limit: *limit })
            .collect(),
        unified: resources.unified.clone().into_iter().collect(),
        ..Default::default()
    }
}

fn mount(mount: &BoundMount) -> v1::Mount {
    let propagation = match mount.propagation {
        Propagation::Private => v1::MountPropagation::PropagationPrivate,
        Propagation::HostToContainer => v1::MountPropagation::PropagationHostToContainer,
        Propagation::Bidirectional => v1::MountPropagation::PropagationBidirectional,
    };
    let (host_path, image) = match &mount.content {
        Content::Path(path) | Content::Part { target: path, .. } => (text(path), None),
        Content::Image { written, id } => {
            let (image, user_specified_image) = (id.clone(), written.clone());
            (String::new(), Some(v1::ImageSpec { image, user_specified_image, ..Default::default() }))
        }
    };
    v1::Mount {
        container_path: mount.container_path.clone(),
        host_path,
        image,
        readonly: mount.read_only,
        recursive_read_only: mount.recursive_read_only,
        selinux_relabel: mount.selinux_relabel,
        propagation: propagation.into(),
        ..Default::default()
    }
}

/// No mount where the container wants no termination message.
fn termination_log(pod: &Pod, container: &Container, attempt: u32) -> Option<v1::Mount> {
    let container_path = container.termination_message_path.clone();
    (!container_path.is_empty()).then(|| v1::Mount {
        container_path,
        host_path: text(&pod.termination_log(container, attempt)),
        selinux_relabel: true,
        ..Default::default()
    })
}

fn int64(value: i64) -> v1::Int64Value {
    v1::Int64Value { value }
}

/// Paths come from Kubernetes objects and settings, which are text.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;
