//! Resolved pods to start from; a test changes what it is about.

use std::path::Path;
use std::time::Duration;

use crate::model::PodKey;
use crate::podspec::{
    Container, Dns, LinuxResources, Namespaces, Origin, Pod, PodSecurity, PullPolicy, QosClass, Requests, Seccomp,
    Security, TerminationMessagePolicy,
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
        dns: Dns::default(),
        ports: vec![],
        cgroup_parent: format!("/kubepods/besteffort/pod{uid}"),
        qos: QosClass::BestEffort,
        resources: LinuxResources { cpu_shares: 2, ..LinuxResources::default() },
        requests: Requests::default(),
        security: PodSecurity::default(),
        grace_period: Duration::from_secs(30),
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
        image: image.to_owned(),
        image_reference: Ok(image.to_owned()),
        pull_policy: PullPolicy::IfNotPresent,
        command: command.iter().map(|word| (*word).into()).collect(),
        args: vec![],
        working_dir: String::new(),
        env: vec![],
        mounts: vec![],
        ports: vec![],
        resources: LinuxResources { cpu_shares: 2, oom_score_adj: 1000, ..LinuxResources::default() },
        security: Security {
            privileged: false,
            add_capabilities: vec![],
            drop_capabilities: vec![],
            run_as_user: None,
            run_as_group: None,
            supplemental_groups: vec![],
            read_only_root_filesystem: false,
            no_new_privs: false,
            seccomp: Seccomp::Unconfined,
        },
        termination_message_path: "/dev/termination-log".to_owned(),
        termination_message_policy: TerminationMessagePolicy::File,
        tty: false,
        spec_hash: "hash-1".to_owned(),
    }
}
