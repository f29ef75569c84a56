//! What a resolved pod becomes in CRI. Pure.
//!
//! Field by field what kubelet 1.36 would send for the same pod, but for the labels of our own ([`super::labels`]).
//! Source: kubernetes v1.36 `pkg/kubelet/kuberuntime/{kuberuntime_sandbox,kuberuntime_container}.go` with their `_linux.go`.

use std::collections::HashMap;
use std::path::Path;

use k8s_cri::v1;

use super::{NewContainer, labels};
use crate::model::ContainerId;
use crate::podspec::bind::{BoundMount, Content};
use crate::podspec::{
    Container, DeviceNode, Dns, IdRange, ImageUser, LinuxResources, Namespaces, PidNamespace, Pod, PortMapping,
    Profile, Propagation, Protocol, Security, SelinuxOptions, kernel_hostname,
};

/// The sandbox of a pod, made for the `attempt`th time. `users` are the host's users of a pod that has its own.
pub(crate) fn sandbox_config(pod: &Pod, attempt: u32, users: Option<IdRange>) -> v1::PodSandboxConfig {
    let mut labels: HashMap<_, _> = pod.labels.clone().into_iter().collect();
    labels.extend(labels::pod_labels(&pod.key, &pod.origin));
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: pod.key.name.clone(),
            uid: pod.key.uid.0.clone(),
            namespace: pod.key.namespace.clone(),
            attempt,
        }),
        // No sandbox is made of a pod without a valid one.
        hostname: kernel_hostname(pod).unwrap_or_default(),
        log_directory: text(&pod.log_dir),
        dns_config: Some(dns_config(&pod.dns)),
        port_mappings: pod.ports.iter().map(port_mapping).collect(),
        labels,
        annotations: pod.annotations.clone().into_iter().collect(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: pod.cgroup_parent.clone(),
            security_context: Some(sandbox_security(pod, users)),
            sysctls: pod.sysctls.clone().into_iter().collect(),
            overhead: Some(resources(&pod.overhead)),
            resources: Some(resources(&pod.resources)),
        }),
        windows: None,
    }
}

/// One instance of a container.
pub(crate) fn container_config(new: &NewContainer<'_>) -> v1::ContainerConfig {
    let NewContainer { pod, container, attempt, bound, image_ref, users, target, .. } = *new;
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
        mounts: mounts(new),
        devices: bound.nodes.iter().map(device).collect(),
        cdi_devices: bound.cdi_devices.iter().map(|name| v1::CdiDevice { name: name.clone() }).collect(),
        labels: container_labels,
        annotations: annotations(new),
        log_path: text(&container.log_path(attempt)),
        stdin: container.stdin,
        stdin_once: container.stdin_once,
        tty: container.tty,
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(resources(&container.resources)),
            security_context: Some(v1::LinuxContainerSecurityContext {
                namespace_options: Some(container_namespaces(pod.namespaces, users, target)),
                ..container_security(pod, &container.security, new.image_user)
            }),
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

fn sandbox_security(pod: &Pod, users: Option<IdRange>) -> v1::LinuxSandboxSecurityContext {
    let security = &pod.security;
    v1::LinuxSandboxSecurityContext {
        namespace_options: Some(namespace_options(pod.namespaces, users)),
        selinux_options: security.selinux.as_ref().map(selinux),
        run_as_user: security.run_as_user.map(int64),
        run_as_group: security.run_as_group.map(int64),
        supplemental_groups: security.supplemental_groups.clone(),
        supplemental_groups_policy: groups_policy(pod),
        privileged: security.privileged,
        // Whatever profile the pod asks for: this one is for the sandbox's own process.
        seccomp: Some(profile(&Profile::RuntimeDefault)),
        ..Default::default()
    }
}

fn groups_policy(pod: &Pod) -> i32 {
    let strict = pod.security.strict_groups;
    if strict { v1::SupplementalGroupsPolicy::Strict } else { v1::SupplementalGroupsPolicy::Merge }.into()
}

/// All but the namespaces. `image_user` is who it runs as where the pod does not say.
#[expect(deprecated, reason = "of AppArmor, containerd 1.6 reads the older field, and the kubelet sends both")]
fn container_security(pod: &Pod, security: &Security, image_user: &ImageUser) -> v1::LinuxContainerSecurityContext {
    let (run_as_user, run_as_username) = match (security.run_as_user, image_user) {
        (Some(uid), _) => (Some(int64(uid)), String::new()),
        (None, ImageUser::Uid(uid)) => (Some(int64(*uid)), String::new()),
        (None, ImageUser::Name(name)) => (None, name.clone()),
    };
    let is_given = !security.add_capabilities.is_empty() || !security.drop_capabilities.is_empty();
    v1::LinuxContainerSecurityContext {
        capabilities: is_given.then(|| v1::Capability {
            add_capabilities: security.add_capabilities.clone(),
            drop_capabilities: security.drop_capabilities.clone(),
            add_ambient_capabilities: vec![],
        }),
        privileged: security.privileged,
        selinux_options: security.selinux.as_ref().map(selinux),
        run_as_user,
        run_as_username,
        run_as_group: security.run_as_group.map(int64),
        readonly_rootfs: security.read_only_root_filesystem,
        supplemental_groups: security.supplemental_groups.clone(),
        supplemental_groups_policy: groups_policy(pod),
        no_new_privs: security.no_new_privs,
        masked_paths: security.masked_paths.clone(),
        readonly_paths: security.readonly_paths.clone(),
        seccomp: Some(profile(&security.seccomp)),
        apparmor: security.apparmor.as_ref().map(profile),
        apparmor_profile: security.apparmor.as_ref().map(apparmor_text).unwrap_or_default(),
        ..Default::default()
    }
}

fn namespace_options(namespaces: Namespaces, users: Option<IdRange>) -> v1::NamespaceOption {
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
        userns_options: Some(v1::UserNamespace {
            mode: of_host(users.is_none()).into(),
            uids: users.map(id_mapping).into_iter().collect(),
            gids: users.map(id_mapping).into_iter().collect(),
        }),
    }
}

/// Where each container has processes of its own, those of a target may be seen instead.
fn container_namespaces(
    namespaces: Namespaces,
    users: Option<IdRange>,
    target: Option<&ContainerId>,
) -> v1::NamespaceOption {
    let options = namespace_options(namespaces, users);
    match target {
        Some(target) if namespaces.pid == PidNamespace::Container => {
            v1::NamespaceOption { pid: v1::NamespaceMode::Target.into(), target_id: target.0.clone(), ..options }
        }
        _ => options,
    }
}

fn id_mapping(range: IdRange) -> v1::IdMapping {
    v1::IdMapping { host_id: range.first_host_id, container_id: 0, length: range.length }
}

fn profile(profile: &Profile) -> v1::SecurityProfile {
    let (kind, localhost_ref) = match profile {
        Profile::RuntimeDefault => (v1::security_profile::ProfileType::RuntimeDefault, ""),
        Profile::Unconfined => (v1::security_profile::ProfileType::Unconfined, ""),
        Profile::Localhost(name) => (v1::security_profile::ProfileType::Localhost, name.as_str()),
    };
    v1::SecurityProfile { profile_type: kind.into(), localhost_ref: localhost_ref.to_owned() }
}

/// What runtimes read that do not know the newer field.
fn apparmor_text(profile: &Profile) -> String {
    match profile {
        Profile::RuntimeDefault => "runtime/default".to_owned(),
        Profile::Unconfined => "unconfined".to_owned(),
        Profile::Localhost(name) => format!("localhost/{name}"),
    }
}

fn selinux(options: &SelinuxOptions) -> v1::SeLinuxOption {
    let SelinuxOptions { user, role, type_, level } = options.clone();
    v1::SeLinuxOption { user, role, r#type: type_, level }
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

/// Those that came with devices, and the container's own before them.
fn annotations(new: &NewContainer<'_>) -> HashMap<String, String> {
    let own = labels::container_annotations(new.pod, new.container, new.attempt);
    new.bound.annotations.clone().into_iter().chain(own).collect()
}

fn device(node: &DeviceNode) -> v1::Device {
    let DeviceNode { container_path, host_path, permissions } = node.clone();
    v1::Device { container_path, host_path, permissions }
}

/// The container's own mounts, then its termination log. With users of its own each maps their ids.
fn mounts(new: &NewContainer<'_>) -> Vec<v1::Mount> {
    let own = new.bound.mounts.iter().map(mount);
    let mut mounts: Vec<_> = own.chain(termination_log(new.pod, new.container, new.attempt)).collect();
    for mount in &mut mounts {
        mount.uid_mappings = new.users.map(id_mapping).into_iter().collect();
        mount.gid_mappings = new.users.map(id_mapping).into_iter().collect();
    }
    mounts
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
