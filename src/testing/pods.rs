//! Resolved pods to start from; a test changes what it is about.

use std::path::Path;
use std::time::Duration;

use crate::model::PodKey;
use crate::podspec::{
    Budget, CgroupDriver, CgroupLimits, Container, Dns, Hooks, HostFacts, LinuxResources, Namespaces, Origin, Pod,
    PodSecurity, Probes, PullPolicy, QosClass, Requests, RestartPolicy, Role, Security, TerminationMessagePolicy,
};

/// A pod `default/<name>` with uid `uid-<name>` and no container, its files below `dir`.
pub fn pod(name: &str, dir: &Path) -> Pod {
    let uid = format!("uid-{name}");
    Pod {
        key: PodKey { namespace: "default".to_owned(), name: name.to_owned(), uid: uid.as_str().into() },
        origin: Origin {
            fleet: "fleet-1".into(),
            node: "node-1".into(),
            daemonset: Some("daemonset-1".into()),
            revision: "1".into(),
        },
        labels: [("app".to_owned(), name.to_owned())].into(),
        annotations: [].into(),
        namespaces: Namespaces::default(),
        hostname: name.to_owned(),
        domain: String::new(),
        hostname_as_fqdn: false,
        dns: Dns::default(),
        dns_omitted: vec![],
        ports: vec![],
        cgroup_parent: format!("/kubepods/besteffort/pod{uid}"),
        qos: QosClass::BestEffort,
        resources: LinuxResources { cpu_shares: 2, ..LinuxResources::default() },
        overhead: LinuxResources::default(),
        cgroup: CgroupLimits { cpu_shares: 2, ..CgroupLimits::default() },
        requests: Requests::default(),
        budget: Budget::default(),
        priority: 0,
        preempts: true,
        tolerates_memory_pressure: true,
        security: PodSecurity::default(),
        grace_period: Duration::from_secs(30),
        restart_policy: RestartPolicy::Always,
        active_deadline: None,
        readiness_gates: vec![],
        service_account: "default".to_owned(),
        pull_secrets: vec![],
        references: [].into(),
        tokens: [].into(),
        fs_group: None,
        service_env: vec![],
        runtime_handler: String::new(),
        host_aliases: vec![],
        sysctls: [].into(),
        dir: dir.join("pods").join(&uid),
        log_dir: dir.join("logs/pods").join(format!("default_{name}_{uid}")),
        volumes: vec![],
        containers: vec![],
    }
}

/// A container that runs `command` in `image`, and nothing else.
pub fn container(name: &str, image: &str, command: &[&str]) -> Container {
    Container {
        name: name.to_owned(),
        role: Role::Regular,
        target: None,
        restart_policy: RestartPolicy::Always,
        restart_rules: vec![],
        image: image.to_owned(),
        image_reference: Ok(image.to_owned()),
        pull_policy: PullPolicy::IfNotPresent,
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        args: vec![],
        working_dir: String::new(),
        env_from: vec![],
        env: vec![],
        mounts: vec![],
        ports: vec![],
        resources: LinuxResources { cpu_shares: 2, oom_score_adj: 1000, ..LinuxResources::default() },
        devices: [].into(),
        security: Security::default(),
        termination_message_path: "/dev/termination-log".to_owned(),
        termination_message_policy: TerminationMessagePolicy::File,
        probes: Probes::default(),
        hooks: Hooks::default(),
        stdin: false,
        stdin_once: false,
        tty: false,
        spec_hash: "hash-1".to_owned(),
    }
}

/// A host with 4 cores and 8 GiB, as the rows change it.
pub fn host() -> HostFacts {
    HostFacts {
        fleet: "fleet".into(),
        node_name: "node-1".into(),
        node_uid: "node-uid".into(),
        ips: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        resolver: Dns { servers: vec!["192.0.2.53".to_owned()], ..Dns::default() },
        cluster_dns: vec![],
        cluster_domain: "cluster.local".to_owned(),
        cgroup_driver: CgroupDriver::Systemd,
        cgroup_root: "/".to_owned(),
        cgroup_v2: true,
        swap_limits: true,
        hugepage_sizes: vec![],
        masked_paths: vec!["/sys/devices/system/cpu/cpu0/thermal_throttle".to_owned()],
        memory_capacity_bytes: 8 << 30,
        allocatable: [("cpu".to_owned(), 3900), ("memory".to_owned(), 7 << 30)].into(),
        devices: [].into(),
        root_dir: "/var/lib/kubelet".into(),
        log_root: "/var/log/pods".into(),
        api: None,
    }
}

/// The identity of a pod of a DaemonSet `web`.
pub fn key() -> PodKey {
    PodKey { namespace: "default".to_owned(), name: "web-bcdfghjklm".to_owned(), uid: "0-1".into() }
}
