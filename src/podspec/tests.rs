use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::api::bundle::Bundle;
use crate::api::field::Invalid;
use crate::model::PodKey;
use crate::testing::pods::{host, key};

/// Lays `change` over `base`: objects field by field, all else as a whole.
fn overlay(base: &mut Value, change: &Value) {
    match (base, change) {
        (Value::Object(base), Value::Object(change)) => {
            for (field, value) in change {
                overlay(base.entry(field.clone()).or_insert(Value::Null), value);
            }
        }
        (base, change) => *base = change.clone(),
    }
}

/// The base template: one container and nothing else. `pod` is laid over its spec, `container` over its container.
fn bundle(pod: &Value, container: &Value) -> Bundle {
    let mut web = json!({ "name": "web", "image": "nginx:1", "imagePullPolicy": "IfNotPresent",
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File" });
    overlay(&mut web, container);
    let mut spec = json!({ "containers": [web] });
    overlay(&mut spec, pod);
    let metadata = json!({ "labels": { "app": "web" }, "annotations": { "note": "n" } });
    serde_json::from_value(json!({
        "format": 1, "uid": "set-uid", "namespace": "default", "name": "web", "generation": 3, "revision": "rev",
        "templateGeneration": 2, "template": { "metadata": metadata, "spec": spec }, "minReadySeconds": 0,
        "updateStrategy": "rollingUpdate", "priority": 0,
    }))
    .unwrap()
}

/// The base pod, with `pod` laid over its spec and `container` over its only container.
pub(crate) fn resolved(pod: &Value, container: &Value) -> Pod {
    resolve(&bundle(pod, container), &key(), &host(), &[]).unwrap()
}

fn masked_paths() -> Vec<String> {
    let proc = ["asound", "acpi", "interrupts", "kcore", "keys", "latency_stats", "timer_list", "timer_stats"];
    let proc = proc.into_iter().chain(["sched_debug", "scsi"]).map(|name| format!("/proc/{name}"));
    let sys = ["firmware", "devices/virtual/powercap"].map(|name| format!("/sys/{name}"));
    proc.chain(sys).chain(host().masked_paths).collect()
}

/// What the base template resolves to.
fn base() -> Pod {
    let labels = [("app", "web"), ("controller-revision-hash", "rev"), ("pod-template-generation", "2")];
    let text = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    let unified: BTreeMap<_, _> = [("memory.oom.group", "1")].map(text).into();
    let weights = LinuxResources { cpu_shares: 2, cpu_period: 100_000, unified, ..LinuxResources::default() };
    Pod {
        key: key(),
        origin: Origin {
            fleet: "fleet".into(),
            node: "node-uid".into(),
            daemonset: Some("set-uid".into()),
            revision: "rev".into(),
        },
        labels: labels.map(text).into(),
        annotations: [("note", "n")].map(text).into(),
        namespaces: Namespaces::default(),
        hostname: "web-bcdfghjklm".to_owned(),
        domain: String::new(),
        hostname_as_fqdn: false,
        dns: host().resolver,
        dns_omitted: vec![],
        ports: vec![],
        cgroup_parent: "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod0_1.slice".to_owned(),
        qos: QosClass::BestEffort,
        resources: weights.clone(),
        overhead: LinuxResources::default(),
        cgroup: CgroupLimits { cpu_shares: 2, ..CgroupLimits::default() },
        requests: Requests::default(),
        budget: Budget {
            containers: vec![ContainerBudget { name: "web".to_owned(), ..ContainerBudget::default() }],
            ..Budget::default()
        },
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
        dir: "/var/lib/kubelet/pods/0-1".into(),
        log_dir: "/var/log/pods/default_web-bcdfghjklm_0-1".into(),
        volumes: vec![],
        containers: vec![Container {
            name: "web".to_owned(),
            role: Role::Regular,
            target: None,
            restart_policy: RestartPolicy::Always,
            restart_rules: vec![],
            image: "nginx:1".to_owned(),
            image_reference: Ok("nginx:1".to_owned()),
            pull_policy: PullPolicy::IfNotPresent,
            command: vec![],
            args: vec![],
            working_dir: String::new(),
            env_from: vec![],
            env: vec![],
            mounts: vec![Mount {
                host_path: Some("/var/lib/kubelet/pods/0-1/etc-hosts".into()),
                sub_path: None,
                container_path: "/etc/hosts".to_owned(),
                read_only: false,
                recursive_read_only: RecursiveReadOnly::Disabled,
                propagation: Propagation::Private,
                selinux_relabel: true,
                volume: None,
            }],
            ports: vec![],
            resources: LinuxResources {
                oom_score_adj: 1000,
                unified: [("memory.oom.group", "1"), ("memory.swap.max", "0")].map(text).into(),
                ..weights
            },
            devices: [].into(),
            security: Security {
                privileged: false,
                add_capabilities: vec![],
                drop_capabilities: vec![],
                run_as_user: None,
                run_as_group: None,
                run_as_non_root: false,
                supplemental_groups: vec![],
                read_only_root_filesystem: false,
                no_new_privs: false,
                seccomp: Profile::Unconfined,
                apparmor: None,
                selinux: None,
                masked_paths: masked_paths(),
                readonly_paths: ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
                    .map(str::to_owned)
                    .into(),
            },
            termination_message_path: "/dev/termination-log".to_owned(),
            termination_message_policy: TerminationMessagePolicy::File,
            probes: Probes::default(),
            hooks: Hooks::default(),
            stdin: false,
            stdin_once: false,
            tty: false,
            spec_hash: hash::spec_hash("web", "nginx:1"),
        }],
    }
}

/// One row: what is laid over the template, and how the pod differs from the base for it.
fn check(pod: &Value, container: &Value, change: impl FnOnce(&mut Pod)) {
    let mut expected = base();
    change(&mut expected);
    assert_eq!(resolved(pod, container), expected, "pod {pod}, container {container}");
}

fn none() -> Value {
    json!({})
}

#[test]
fn a_plain_pod_is_resolved_to_the_last_field() {
    check(&none(), &none(), |_| {});
}

#[test]
fn pod_wide_settings_reach_the_sandbox() {
    check(&json!({ "hostPID": true, "hostIPC": true, "shareProcessNamespace": true }), &none(), |pod| {
        pod.namespaces = Namespaces { host_ipc: true, pid: PidNamespace::Host, ..Namespaces::default() };
    });
    check(&json!({ "shareProcessNamespace": true }), &none(), |pod| pod.namespaces.pid = PidNamespace::Pod);
    check(&json!({ "hostname": "other" }), &none(), |pod| pod.hostname = "other".to_owned());
    check(&json!({ "terminationGracePeriodSeconds": 0 }), &none(), |pod| pod.grace_period = Duration::ZERO);
    check(&json!({ "terminationGracePeriodSeconds": -5 }), &none(), |pod| pod.grace_period = Duration::from_secs(1));
    let context = json!({ "runAsUser": 1, "runAsGroup": 2, "supplementalGroups": [3],
        "seccompProfile": { "type": "RuntimeDefault" } });
    check(&json!({ "securityContext": context }), &none(), |pod| {
        let (user, group, groups) = (Some(1), Some(2), vec![3]);
        let own = &mut pod.containers[0].security;
        (own.run_as_user, own.run_as_group, own.supplemental_groups) = (user, group, groups.clone());
        own.seccomp = Profile::RuntimeDefault;
        pod.security = PodSecurity {
            run_as_user: user,
            run_as_group: group,
            supplemental_groups: groups,
            ..PodSecurity::default()
        };
    });
}

#[test]
fn a_container_has_its_own_settings_before_those_of_its_pod() {
    let base = json!({ "securityContext": { "runAsUser": 1, "runAsNonRoot": true,
        "seccompProfile": { "type": "RuntimeDefault" } } });
    let own = json!({ "securityContext": { "runAsUser": 7, "privileged": true, "readOnlyRootFilesystem": true,
        "allowPrivilegeEscalation": false, "capabilities": { "add": ["SYS_TIME"], "drop": ["ALL"] },
        "seccompProfile": { "type": "Unconfined" } } });
    check(&base, &own, |pod| {
        pod.security = PodSecurity { privileged: true, run_as_user: Some(1), ..PodSecurity::default() };
        let own = &mut pod.containers[0].security;
        (own.privileged, own.read_only_root_filesystem, own.no_new_privs) = (true, true, true);
        own.add_capabilities = vec!["SYS_TIME".to_owned()];
        own.drop_capabilities = vec!["ALL".to_owned()];
        (own.run_as_user, own.run_as_non_root) = (Some(7), true);
    });
    check(&none(), &json!({ "workingDir": "/srv", "tty": true, "imagePullPolicy": "Always" }), |pod| {
        let web = &mut pod.containers[0];
        (web.working_dir, web.tty, web.pull_policy) = ("/srv".to_owned(), true, PullPolicy::Always);
    });
    check(&none(), &json!({ "terminationMessagePolicy": "FallbackToLogsOnError" }), |pod| {
        pod.containers[0].termination_message_policy = TerminationMessagePolicy::FallbackToLogsOnError;
    });
}

#[test]
fn an_image_without_a_version_is_asked_for_as_latest_and_a_bad_one_is_kept_for_the_status() {
    check(&none(), &json!({ "image": "nginx" }), |pod| {
        let web = &mut pod.containers[0];
        (web.image, web.image_reference) = ("nginx".to_owned(), Ok("nginx:latest".to_owned()));
        web.spec_hash = hash::spec_hash("web", "nginx");
    });
    check(&none(), &json!({ "image": "a b" }), |pod| {
        let web = &mut pod.containers[0];
        web.image = "a b".to_owned();
        web.image_reference = Err("couldn't parse image name \"a b\": invalid reference format".to_owned());
        web.spec_hash = hash::spec_hash("web", "a b");
    });
}

fn port(name: &str, protocol: Protocol, container_port: u16, host_port: u16, host_ip: &str) -> ContainerPort {
    let mapping = PortMapping { protocol, container_port, host_port, host_ip: host_ip.parse().ok() };
    ContainerPort { name: name.to_owned(), mapping }
}

#[test]
fn ports_are_mapped_once_and_host_ports_are_asked_of_the_node() {
    let ports = json!([
        { "containerPort": 80 },
        { "containerPort": 80, "protocol": "TCP" },
        { "containerPort": 53, "hostPort": 5353, "protocol": "UDP", "hostIP": "10.0.0.1", "name": "dns" },
        { "containerPort": 54, "name": "dns" },
    ]);
    check(&none(), &json!({ "ports": ports }), |pod| {
        let [first, again, dns, other] = [
            port("", Protocol::Tcp, 80, 0, ""),
            port("", Protocol::Tcp, 80, 0, ""),
            port("dns", Protocol::Udp, 53, 5353, "10.0.0.1"),
            port("dns", Protocol::Tcp, 54, 0, ""),
        ];
        pod.ports = vec![first.mapping.clone(), dns.mapping.clone()];
        pod.requests.host_ports = vec![dns.mapping.clone()];
        pod.containers[0].ports = vec![first, again, dns, other];
    });
}

#[test]
fn with_the_hosts_network_ports_are_the_hosts() {
    let container = json!({ "ports": [{ "containerPort": 9100 }] });
    check(&json!({ "hostNetwork": true }), &container, |pod| {
        pod.namespaces.host_network = true;
        pod.hostname = String::new();
        let port = port("", Protocol::Tcp, 9100, 9100, "");
        pod.ports = vec![port.mapping.clone()];
        pod.requests.host_ports = vec![port.mapping.clone()];
        pod.containers[0].ports = vec![port];
    });
}

fn variable(name: &str, source: EnvSource) -> EnvVar {
    EnvVar { name: name.to_owned(), source }
}

#[test]
fn variables_keep_what_is_known_only_later_open() {
    let field = |path: &str| json!({ "fieldRef": { "fieldPath": path } });
    let env = json!([
        { "name": "TEXT", "value": "$(A) $$" },
        { "name": "EMPTY", "value": "" },
        { "name": "NAME", "valueFrom": field("metadata.name") },
        { "name": "LABEL", "valueFrom": field("metadata.labels['app']") },
        { "name": "NOTE", "valueFrom": field("metadata.annotations['x']") },
        { "name": "NODE", "valueFrom": field("spec.nodeName") },
        { "name": "ACCOUNT", "valueFrom": field("spec.serviceAccountName") },
        { "name": "HOST", "valueFrom": field("status.hostIP") },
        { "name": "HOSTS", "valueFrom": field("status.hostIPs") },
        { "name": "IP", "valueFrom": field("status.podIP") },
        { "name": "IPS", "valueFrom": field("status.podIPs") },
        { "name": "CONFIG", "valueFrom": { "configMapKeyRef": { "name": "app", "key": "k", "optional": true } } },
        { "name": "SECRET", "valueFrom": { "secretKeyRef": { "name": "app", "key": "k" } } },
        { "name": "FILE", "valueFrom": { "fileKeyRef": { "volumeName": "v", "path": "a.env", "key": "K" } } },
    ]);
    let from = json!([
        { "prefix": "P_", "configMapRef": { "name": "all" } },
        { "secretRef": { "name": "all", "optional": true } },
    ]);
    let volumes = json!([{ "name": "v", "emptyDir": {} }]);
    let pod = resolved(&json!({ "volumes": volumes }), &json!({ "env": env, "envFrom": from, "command": ["$(A)"] }));
    let web = &pod.containers[0];
    let fixed = |text: &str| EnvSource::Field(Field::Fixed(text.to_owned()));
    let key = |object: Reference, optional| EnvSource::Key { object, key: "k".to_owned(), optional };
    let file = EnvFile { volume: "v".to_owned(), path: "a.env".to_owned() };
    assert_eq!(web.command, ["$(A)"]);
    assert_eq!(
        web.env,
        [
            variable("TEXT", EnvSource::Text("$(A) $$".to_owned())),
            variable("EMPTY", EnvSource::Text(String::new())),
            variable("NAME", fixed("web-bcdfghjklm")),
            variable("LABEL", EnvSource::Field(Field::Label("app".to_owned()))),
            variable("NOTE", EnvSource::Field(Field::Annotation("x".to_owned()))),
            variable("NODE", fixed("node-1")),
            variable("ACCOUNT", fixed("default")),
            variable("HOST", fixed("192.0.2.1")),
            variable("HOSTS", fixed("192.0.2.1,2001:db8::1")),
            variable("IP", EnvSource::Field(Field::PodIp)),
            variable("IPS", EnvSource::Field(Field::PodIps)),
            variable("CONFIG", key(Reference::config_map("app"), true)),
            variable("SECRET", key(Reference::secret("app"), false)),
            variable("FILE", EnvSource::FileKey { file, key: "K".to_owned(), optional: false }),
        ]
    );
    let from = |prefix: &str, object, optional| EnvFrom { prefix: prefix.to_owned(), object, optional };
    assert_eq!(
        web.env_from,
        [from("P_", Reference::config_map("all"), false), from("", Reference::secret("all"), true)]
    );
    let references = [Reference::config_map("all"), Reference::config_map("app")];
    assert_eq!(
        pod.references,
        references.into_iter().chain([Reference::secret("all"), Reference::secret("app")]).collect()
    );
}

#[test]
fn the_account_is_the_one_that_is_named() {
    let account = |spec: Value| resolved(&spec, &none()).service_account;
    let token = json!(false);
    for (spec, expected) in [
        (json!({}), "default"),
        (json!({ "serviceAccountName": "" }), "default"),
        (json!({ "serviceAccountName": "reader", "automountServiceAccountToken": token }), "reader"),
        (json!({ "serviceAccount": "old", "automountServiceAccountToken": token }), "old"),
    ] {
        assert_eq!(account(spec.clone()), expected, "{spec}");
    }
}

#[test]
fn a_pod_is_told_where_the_api_is_if_it_can_be_reached() {
    let api = Some(ApiAddress { host: "10.0.0.9".to_owned(), port: 6443 });
    let pod = resolve(&bundle(&none(), &none()), &key(), &HostFacts { api, ..host() }, &[]).unwrap();
    assert_eq!(pod.service_env[0], ("KUBERNETES_SERVICE_HOST".to_owned(), "10.0.0.9".to_owned()));
}

#[test]
fn resource_fields_are_divided_and_rounded_up() {
    let rows = [
        ("limits.cpu", "", "1"),
        ("limits.cpu", "1m", "250"),
        ("requests.cpu", "1m", "100"),
        ("limits.memory", "", "104857600"),
        ("limits.memory", "1Gi", "1"),
        ("requests.memory", "1Mi", "100"),
        ("requests.ephemeral-storage", "", "0"),
        ("limits.ephemeral-storage", "", "0"),
        ("limits.hugepages-2Mi", "", "0"),
    ];
    let resources = json!({ "limits": { "cpu": "250m", "memory": "100Mi" }, "requests": { "cpu": "100m" } });
    for (resource, divisor, expected) in rows {
        let field = json!({ "resource": resource, "divisor": divisor });
        let env = json!([{ "name": "X", "valueFrom": { "resourceFieldRef": field } }]);
        let pod = resolved(&none(), &json!({ "env": env, "resources": resources }));
        let expected = EnvSource::Field(Field::Fixed(expected.to_owned()));
        assert_eq!(pod.containers[0].env, [variable("X", expected)], "{resource} / {divisor}");
    }
    let env =
        json!([{ "name": "X", "valueFrom": { "resourceFieldRef": { "resource": "limits.cpu", "divisor": "1m" } } }]);
    let pod = resolved(&none(), &json!({ "env": env }));
    let all = EnvSource::Field(Field::Fixed("3900".to_owned()));
    assert_eq!(pod.containers[0].env, [variable("X", all)], "without a limit it is what the node has");
}

#[test]
fn what_the_runtime_takes_counts_beside_the_containers() {
    let overhead = json!({ "runtimeClassName": "kata", "overhead": { "cpu": "250m", "memory": "1Mi" } });
    check(&overhead, &json!({ "resources": { "requests": { "cpu": "1" } } }), |pod| {
        pod.qos = QosClass::Burstable;
        pod.cgroup_parent = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0_1.slice".to_owned();
        pod.requests.resources = [("cpu".to_owned(), 1250), ("memory".to_owned(), 1 << 20)].into();
        pod.containers[0].resources.oom_score_adj = 999;
        (pod.resources.cpu_shares, pod.containers[0].resources.cpu_shares) = (1024, 1024);
        pod.overhead = LinuxResources {
            cpu_shares: 256,
            cpu_quota: 25_000,
            cpu_period: 100_000,
            memory_limit_bytes: 1 << 20,
            unified: [("memory.oom.group".to_owned(), "1".to_owned())].into(),
            ..LinuxResources::default()
        };
        pod.cgroup.cpu_shares = 1280;
    });
}

#[test]
fn resources_become_weights_limits_and_the_pods_class() {
    let amounts =
        |requests: &[(&str, u64)]| requests.iter().map(|(name, amount)| ((*name).to_owned(), *amount)).collect();
    let example = json!({ "limits": { "memory": "200Mi" }, "requests": { "cpu": "100m", "memory": "200Mi" } });
    check(&none(), &json!({ "resources": example }), |pod| {
        pod.qos = QosClass::Burstable;
        pod.cgroup_parent = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0_1.slice".to_owned();
        pod.requests.resources = amounts(&[("cpu", 100), ("memory", 200 << 20)]);
        pod.containers[0].resources.oom_score_adj = 976;
        pod.budget.containers[0].memory_request_bytes = 200 << 20;
        for resources in [&mut pod.resources, &mut pod.containers[0].resources] {
            (resources.cpu_shares, resources.memory_limit_bytes) = (102, 200 << 20);
        }
        (pod.cgroup.cpu_shares, pod.cgroup.memory_bytes) = (102, Some(200 << 20));
    });
    check(&none(), &json!({ "resources": { "limits": { "cpu": "5m", "memory": "1Gi" } } }), |pod| {
        pod.qos = QosClass::Guaranteed;
        pod.cgroup_parent = "/kubepods.slice/kubepods-pod0_1.slice".to_owned();
        pod.requests.resources = amounts(&[("cpu", 5), ("memory", 1 << 30)]);
        pod.budget.containers[0].memory_request_bytes = 1 << 30;
        pod.containers[0].resources.oom_score_adj = -997;
        for resources in [&mut pod.resources, &mut pod.containers[0].resources] {
            (resources.cpu_shares, resources.cpu_quota, resources.memory_limit_bytes) = (5, 1000, 1 << 30);
        }
        pod.cgroup = CgroupLimits {
            cpu_shares: 5,
            cpu_quota: Some((1000, 100_000)),
            memory_bytes: Some(1 << 30),
            hugepage_bytes: vec![],
        };
    });
    check(&none(), &json!({ "resources": { "requests": { "example.com/dev": "1", "cpu": "0" } } }), |pod| {
        pod.requests.resources = amounts(&[("example.com/dev", 1)]);
    });
    check(&json!({ "priorityClassName": "system-node-critical", "preemptionPolicy": "Never" }), &none(), |pod| {
        pod.containers[0].resources.oom_score_adj = -997;
        pod.preempts = false;
    });
    let huge = json!({ "resources": { "requests": { "memory": "100Gi" } } });
    assert_eq!(resolved(&none(), &huge).containers[0].resources.oom_score_adj, 3);
}

#[test]
fn what_the_host_is_like_shows_in_cgroups_and_limits() {
    let resolve_on = |change: fn(&mut HostFacts), resources: Value| {
        let mut host = host();
        change(&mut host);
        resolve(&bundle(&none(), &json!({ "resources": resources })), &key(), &host, &[]).unwrap()
    };
    let cgroupfs = |host: &mut HostFacts| host.cgroup_driver = CgroupDriver::Cgroupfs;
    let memory = json!({ "limits": { "memory": "1Mi" } });
    assert_eq!(resolve_on(cgroupfs, json!({})).cgroup_parent, "/kubepods/besteffort/pod0-1");
    let below = |host: &mut HostFacts| {
        host.cgroup_driver = CgroupDriver::Cgroupfs;
        host.cgroup_root = "/lab/n1/".to_owned();
    };
    assert_eq!(resolve_on(below, json!({})).cgroup_parent, "/lab/n1/kubepods/besteffort/pod0-1");
    assert_eq!(resolve_on(cgroupfs, memory.clone()).cgroup_parent, "/kubepods/burstable/pod0-1");
    assert_eq!(resolve_on(cgroupfs, json!({ "limits": { "cpu": 1, "memory": 1 } })).cgroup_parent, "/kubepods/pod0-1");

    let v1 = resolve_on(|host| host.cgroup_v2 = false, memory);
    let resources = &v1.containers[0].resources;
    assert_eq!((resources.memory_swap_limit_bytes, resources.unified.len()), (1 << 20, 0));

    let pages = |host: &mut HostFacts| host.hugepage_sizes = vec![64 << 10, 2 << 20, 1 << 30];
    let huge = resolve_on(pages, json!({ "limits": { "hugepages-2Mi": "4Mi", "cpu": 1 } }));
    let expected = [("64KB", 0), ("2MB", 4 << 20), ("1GB", 0)].map(|(name, bytes)| (name.to_owned(), bytes));
    assert_eq!(huge.containers[0].resources.hugepage_limits, expected);
}

fn mount(host_path: &str, container_path: &str, volume: &str) -> Mount {
    Mount {
        host_path: Some(host_path.into()),
        sub_path: None,
        container_path: container_path.to_owned(),
        read_only: false,
        recursive_read_only: RecursiveReadOnly::Disabled,
        propagation: Propagation::Private,
        selinux_relabel: false,
        volume: Some(volume.to_owned()),
    }
}

/// Below the pod's directory.
const VOLUMES: &str = "/var/lib/kubelet/pods/0-1/volumes";

#[test]
fn volumes_become_paths_and_mounts() {
    let volumes = json!([
        { "name": "log", "hostPath": { "path": "/var/log", "type": "" } },
        { "name": "sock", "hostPath": { "path": "/run/s", "type": "Socket" } },
        { "name": "scratch", "emptyDir": {} },
        { "name": "ram", "emptyDir": { "medium": "Memory", "sizeLimit": "1Mi" } },
    ]);
    let mounts = json!([
        { "name": "log", "mountPath": "/var/log", "readOnly": true, "mountPropagation": "HostToContainer" },
        { "name": "scratch", "mountPath": "a" },
        { "name": "scratch", "mountPath": "/b" },
        { "name": "log", "mountPath": "/etc/hosts" },
    ]);
    check(&json!({ "volumes": volumes }), &json!({ "volumeMounts": mounts }), |pod| {
        let own = format!("{VOLUMES}/kubernetes.io~empty-dir");
        let volume = |name: &str, source| Volume { name: name.to_owned(), source };
        pod.volumes = vec![
            volume("log", VolumeSource::HostPath { path: "/var/log".into(), kind: HostPathKind::Unchecked }),
            volume("sock", VolumeSource::HostPath { path: "/run/s".into(), kind: HostPathKind::Socket }),
            volume("scratch", VolumeSource::EmptyDir { path: format!("{own}/scratch").into() }),
            volume("ram", VolumeSource::Memory { path: format!("{own}/ram").into(), size_bytes: 1 << 20 }),
        ];
        let log = Mount {
            read_only: true,
            propagation: Propagation::HostToContainer,
            ..mount("/var/log", "/var/log", "log")
        };
        let first = Mount { selinux_relabel: true, ..mount(&format!("{own}/scratch"), "/a", "scratch") };
        let second = mount(&format!("{own}/scratch"), "/b", "scratch");
        pod.containers[0].mounts = vec![log, first, second, mount("/var/log", "/etc/hosts", "log")];
    });
}

#[test]
fn parts_of_volumes_have_a_place_of_their_own_and_files_are_not_written_to() {
    let volumes = json!([{ "name": "log", "hostPath": { "path": "/var/log" } }, { "name": "scratch", "emptyDir": {} }]);
    let mounts = json!([
        { "name": "log", "mountPath": "/a", "subPath": "pods", "readOnly": true },
        { "name": "scratch", "mountPath": "/b", "subPath": "" },
        { "name": "scratch", "mountPath": "/c", "subPathExpr": "$(NAME)/x" },
    ]);
    let pod = resolved(&json!({ "volumes": volumes }), &json!({ "volumeMounts": mounts }));
    let part = |target: &str, text| {
        Some(SubPath { text, target: format!("/var/lib/kubelet/pods/0-1/volume-subpaths/{target}").into() })
    };
    let own = format!("{VOLUMES}/kubernetes.io~empty-dir/scratch");
    assert_eq!(
        pod.containers[0].mounts[..3],
        [
            Mount {
                sub_path: part("log/web/0", SubPathText::Plain("pods".to_owned())),
                read_only: true,
                ..mount("/var/log", "/a", "log")
            },
            Mount { selinux_relabel: true, ..mount(&own, "/b", "scratch") },
            Mount {
                sub_path: part("scratch/web/2", SubPathText::Expression("$(NAME)/x".to_owned())),
                ..mount(&own, "/c", "scratch")
            },
        ]
    );
}

#[test]
fn what_is_mounted_within_a_volume_needs_a_place_there() {
    let volumes = json!([{ "name": "conf", "configMap": { "name": "c" } }, { "name": "x", "emptyDir": {} }]);
    let mount = |volume: &str, path: &str| json!({ "name": volume, "mountPath": path });
    let within = ["/etc/nfd", "/etc/nfd/features.d/", "/etc/nfd//a/./b", "/etc/nfdx", "/etc/nfd/../c", "/etc"];
    let mounts: Vec<_> = within.iter().skip(1).map(|path| mount("x", path)).chain([mount("conf", within[0])]).collect();
    let pod = resolved(&json!({ "volumes": volumes }), &json!({ "volumeMounts": mounts }));
    assert_eq!(pod.nested_mounts("conf"), ["a/b", "features.d"].map(PathBuf::from).into());
    assert!(pod.nested_mounts("none").is_empty());
}

/// The only volume of a pod with these fields and its container's.
fn volume(pod: &Value, container: &Value, volume: &Value) -> VolumeSource {
    let mut pod = pod.clone();
    pod["volumes"] = json!([volume]);
    resolved(&pod, container).volumes.remove(0).source
}

#[test]
fn volumes_of_files_say_what_each_file_is_made_of() {
    let made = |written: Value| volume(&none(), &none(), &written);
    let files = |kind: &str, memory_bytes, sources| {
        let path = format!("{VOLUMES}/kubernetes.io~{kind}/v").into();
        VolumeSource::Files { path, memory_bytes, sources }
    };
    let object = |object, items: &[(&str, &str, Option<u32>)], mode, optional| {
        let item = |(key, path, mode): &(&str, &str, Option<u32>)| Item {
            key: (*key).to_owned(),
            path: (*path).to_owned(),
            mode: *mode,
        };
        FileSource::Object { object, items: items.iter().map(item).collect(), mode, optional }
    };
    let field = |path: &str, field, mode| FileSource::Field { path: path.to_owned(), field, mode };
    let memory = Some(7 << 30);
    let config = json!({ "name": "v", "configMap": { "name": "app", "defaultMode": 0o400, "optional": true,
        "items": [{ "key": "a", "path": "b/c", "mode": 0o444 }, { "key": "d", "path": "d" }] } });
    let items = [("a", "b/c", Some(0o444)), ("d", "d", None)];
    let source = object(Reference::config_map("app"), &items, 0o400, true);
    assert_eq!(made(config), files("configmap", None, vec![source]));

    let secret = json!({ "name": "v", "secret": { "secretName": "app" } });
    let source = object(Reference::secret("app"), &[], 0o644, false);
    assert_eq!(made(secret), files("secret", memory, vec![source]));

    let items = json!([
        { "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } },
        { "path": "note", "mode": 0o400, "fieldRef": { "fieldPath": "metadata.annotations['note']" } },
        { "path": "cpu", "resourceFieldRef": { "containerName": "web", "resource": "limits.cpu", "divisor": "1m" } },
    ]);
    let fields = vec![
        field("labels", Field::Labels, 0o600),
        field("note", Field::Annotation("note".to_owned()), 0o400),
        field("cpu", Field::Fixed("3900".to_owned()), 0o600),
    ];
    let downward = json!({ "name": "v", "downwardAPI": { "defaultMode": 0o600, "items": items } });
    assert_eq!(made(downward), files("downward-api", memory, fields.clone()));

    let projected = json!({ "name": "v", "projected": { "defaultMode": 0o600, "sources": [
        { "configMap": { "name": "app" } },
        { "secret": { "name": "app", "optional": true } },
        { "downwardAPI": { "items": items } },
        { "serviceAccountToken": { "path": "token", "audience": "vault", "expirationSeconds": 600 } },
    ] } });
    let spec = objects::TokenSpec { audience: "vault".to_owned(), expiration_secs: 600 };
    let mut sources = vec![
        object(Reference::config_map("app"), &[], 0o600, false),
        object(Reference::secret("app"), &[], 0o600, true),
    ];
    sources.extend(fields);
    sources.push(FileSource::Token { path: "token".to_owned(), spec, mode: 0o600, owner: None });
    assert_eq!(made(projected), files("projected", memory, sources));
}

#[test]
fn a_token_is_its_users_alone_where_there_is_a_user_or_a_group() {
    let token = |pod: Value, container: Value| {
        let source = json!({ "serviceAccountToken": { "path": "token" } });
        match volume(&pod, &container, &json!({ "name": "v", "projected": { "sources": [source] } })) {
            VolumeSource::Files { sources, .. } => match &sources[0] {
                FileSource::Token { mode, owner, .. } => (*mode, *owner),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    };
    let user = |user: i64| json!({ "securityContext": { "runAsUser": user } });
    assert_eq!(token(none(), none()), (0o644, None));
    assert_eq!(token(json!({ "securityContext": { "fsGroup": 7 } }), none()), (0o600, None));
    assert_eq!(token(user(5), none()), (0o600, Some(5)));
    assert_eq!(token(user(5), user(6)), (0o600, Some(6)), "the container's own");
    assert_eq!(token(none(), user(6)), (0o600, Some(6)));
}

#[test]
fn huge_pages_have_the_size_that_is_named_or_the_only_one_asked_for() {
    let size = |medium: &str, limits: Value| {
        let written = json!({ "name": "v", "emptyDir": { "medium": medium } });
        match volume(&none(), &json!({ "resources": { "limits": limits } }), &written) {
            VolumeSource::HugePages { page_size, .. } => page_size,
            other => panic!("{other:?}"),
        }
    };
    let both = json!({ "hugepages-2Mi": "4Mi", "hugepages-1Gi": "1Gi", "cpu": 1 });
    assert_eq!(size("HugePages", json!({ "hugepages-2Mi": "4Mi", "cpu": 1 })), Ok(2 << 20));
    assert_eq!(size("HugePages-1Gi", both.clone()), Ok(1 << 30));
    let several = "medium: HugePages can't be used if container requests multiple huge page sizes";
    assert_eq!(size("HugePages", both), Err(several.to_owned()));
    for medium in ["HugePages", "HugePages-2Mi"] {
        let none =
            format!("medium {medium}: hugePages storage requested, but there is no resource request for huge pages");
        assert_eq!(size(medium, json!({ "cpu": 1 })), Err(none));
    }
}

#[test]
fn the_group_of_its_volumes_is_a_group_of_every_process() {
    let context = json!({ "securityContext": { "fsGroup": 7, "supplementalGroups": [3] } });
    let pod = resolved(&context, &none());
    assert_eq!((pod.fs_group, pod.security.supplemental_groups), (Some(7), vec![7, 3]));
    assert_eq!(pod.containers[0].security.supplemental_groups, [7, 3]);
}

#[test]
fn a_volume_in_memory_is_as_large_as_the_smallest_bound() {
    let size = |empty_dir: Value, limits: Value| {
        let pod = json!({ "volumes": [{ "name": "ram", "emptyDir": empty_dir }] });
        match &resolved(&pod, &json!({ "resources": { "limits": limits } })).volumes[0].source {
            VolumeSource::Memory { size_bytes, .. } => *size_bytes,
            other => panic!("{other:?}"),
        }
    };
    let memory = || json!({ "medium": "Memory" });
    assert_eq!(size(memory(), none()), 7 << 30);
    assert_eq!(size(memory(), json!({ "memory": "1Gi" })), 1 << 30);
    assert_eq!(size(json!({ "medium": "Memory", "sizeLimit": "1Mi" }), json!({ "memory": "1Gi" })), 1 << 20);
    assert_eq!(size(json!({ "medium": "Memory", "sizeLimit": "0" }), none()), 7 << 30);
}

#[test]
fn a_resolver_gets_no_more_than_it_reads() {
    let mut host = host();
    let many = |count: usize| (0..count).map(|number| format!("{number:0>100}")).collect::<Vec<_>>();
    host.resolver = Dns { servers: many(4), searches: many(40), options: vec!["ndots:2".to_owned()] };
    host.resolver.searches.insert(1, "x".repeat(254));
    let pod = resolve(&bundle(&none(), &none()), &key(), &host, &[]).unwrap();
    assert_eq!((pod.dns.servers.len(), pod.dns.searches.len(), pod.dns.options.len()), (3, 20, 1));
    let [servers, searches] = &pod.dns_omitted[..] else { panic!("{:?}", pod.dns_omitted) };
    let applied = format!("the applied nameserver line is: {}", pod.dns.servers.join(" "));
    assert_eq!(*servers, format!("Nameserver limits were exceeded, some nameservers have been omitted, {applied}"));
    assert!(
        searches.starts_with("Search Line limits were exceeded, some search paths have been omitted, "),
        "{searches}"
    );
}

#[test]
fn a_host_name_with_its_domain_may_be_too_long_for_the_kernel() {
    let named = |hostname: &str| {
        let pod = json!({ "hostname": hostname, "subdomain": "s", "setHostnameAsFQDN": true });
        kernel_hostname(&resolved(&pod, &none()))
    };
    let domain = ".s.default.svc.cluster.local";
    let longest = "h".repeat(64 - domain.len());
    assert_eq!(named(&longest), Ok(format!("{longest}{domain}")));
    let message = format!(
        "failed to construct FQDN from pod hostname and cluster domain, FQDN h{longest}{domain} is too long (64 characters is \
         the max, 65 characters requested)"
    );
    assert_eq!(named(&format!("h{longest}")), Err(message));
}

#[test]
fn a_container_that_must_not_run_as_root_is_checked_against_its_image() {
    let verify = |context: Value, user| {
        let pod = resolved(&json!({ "securityContext": context }), &none());
        verify_non_root(&pod, &pod.containers[0], &user).map_err(|error| {
            let (why, whose) = error.split_once(" (pod").unwrap();
            assert_eq!(whose, ": \"web-bcdfghjklm_default(0-1)\", container: web)");
            why.to_owned()
        })
    };
    let non_root = || json!({ "runAsNonRoot": true });
    let named = || ImageUser::Name("web".to_owned());
    assert_eq!(verify(json!({}), ImageUser::Uid(0)), Ok(()));
    assert_eq!(verify(non_root(), ImageUser::Uid(7)), Ok(()));
    assert_eq!(verify(json!({ "runAsNonRoot": true, "runAsUser": 7 }), named()), Ok(()));
    for (context, user, why) in [
        (
            json!({ "runAsNonRoot": true, "runAsUser": 0 }),
            ImageUser::Uid(7),
            "container's runAsUser breaks non-root policy",
        ),
        (non_root(), ImageUser::Uid(0), "container has runAsNonRoot and image will run as root"),
        (
            non_root(),
            named(),
            "container has runAsNonRoot and image has non-numeric user (web), cannot verify user is non-root",
        ),
    ] {
        assert_eq!(verify(context, user), Err(why.to_owned()));
    }
}

#[test]
fn a_long_name_is_cut_to_a_host_name() {
    let key = PodKey { name: format!("{}-.{}", "a".repeat(61), "b".repeat(11)), ..key() };
    let pod = resolve(&bundle(&none(), &none()), &key, &host(), &[]).unwrap();
    assert_eq!(pod.hostname, "a".repeat(61));
}

#[test]
fn etc_hosts_names_the_pod_or_is_the_hosts() {
    let ips = ["10.4.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
    let own = hosts::content(&base(), &ips, "unused");
    assert!(own.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"), "{own}");
    assert!(own.ends_with("ip6-allrouters\n10.4.0.2\tweb-bcdfghjklm\nfd00::2\tweb-bcdfghjklm\n"), "{own}");
    let aliases = json!([{ "ip": "192.0.2.7", "hostnames": ["a", "b"] }, { "ip": "192.0.2.8" }]);
    let named = resolved(&json!({ "hostname": "h", "subdomain": "s", "hostAliases": aliases }), &none());
    let named = hosts::content(&named, &ips[..1], "unused");
    let lines =
        "10.4.0.2\th.s.default.svc.cluster.local\th\n\n# Entries added by HostAliases.\n192.0.2.7\ta\tb\n192.0.2.8\t\n";
    assert!(named.ends_with(lines), "{named}");
    let host_network = resolved(&json!({ "hostNetwork": true }), &none());
    assert_eq!(
        hosts::content(&host_network, &ips, "1.2.3.4 a\n"),
        "# Kubernetes-managed hosts file (host network).\n1.2.3.4 a\n"
    );
}

/// A container as stored, with `fields` laid over it.
fn stored(name: &str, fields: &Value) -> Value {
    let mut container = json!({ "name": name, "image": "i:1", "imagePullPolicy": "IfNotPresent" });
    overlay(&mut container, fields);
    container
}

#[test]
fn containers_come_in_the_order_of_their_lives_each_with_its_policy() {
    let init = json!([
        stored("first", &none()),
        stored("proxy", &json!({ "restartPolicy": "Always" })),
        stored("once", &json!({ "restartPolicy": "Never" })),
    ]);
    let rule = |action: &str, operator: &str| json!({ "action": action, "exitCodes": { "operator": operator, "values": [3] } });
    let rules = json!([rule("Restart", "In"), rule("RestartAllContainers", "NotIn")]);
    let ephemeral = |fields: &Value| serde_json::from_value(stored("debug", fields)).unwrap();
    let bundle = bundle(
        &json!({ "restartPolicy": "OnFailure", "initContainers": init }),
        &json!({ "restartPolicyRules": rules }),
    );
    let added = [ephemeral(&json!({ "targetContainerName": "web", "stdin": true, "stdinOnce": true }))];
    let pod = resolve(&bundle, &key(), &host(), &added).unwrap();

    assert_eq!(pod.restart_policy, RestartPolicy::OnFailure);
    let lives = pod.containers.iter().map(|one| (one.name.as_str(), one.role, one.restart_policy)).collect::<Vec<_>>();
    let expected = [
        ("first", Role::Init, RestartPolicy::OnFailure),
        ("proxy", Role::Sidecar, RestartPolicy::Always),
        ("once", Role::Init, RestartPolicy::Never),
        ("web", Role::Regular, RestartPolicy::OnFailure),
        ("debug", Role::Ephemeral, RestartPolicy::Never),
    ];
    assert_eq!(lives, expected);
    let [restart, all] = [ExitCodes::In(vec![3]), ExitCodes::NotIn(vec![3])];
    let rules = [(RestartAction::Restart, restart), (RestartAction::RestartAllContainers, all)];
    assert_eq!(pod.containers[3].restart_rules, rules.map(|(action, exit_codes)| RestartRule { action, exit_codes }));
    let debug = &pod.containers[4];
    assert_eq!((debug.target.as_deref(), debug.stdin, debug.stdin_once), (Some("web"), true, true));
}

#[test]
fn a_deadline_and_gates_are_the_pods() {
    let gates = json!([{ "conditionType": "example.com/registered" }]);
    check(&json!({ "activeDeadlineSeconds": 60, "readinessGates": gates }), &none(), |pod| {
        pod.active_deadline = Some(Duration::from_secs(60));
        pod.readiness_gates = vec!["example.com/registered".to_owned()];
    });
}

#[test]
fn values_that_make_no_sense_are_named_by_their_field() {
    let rows = [
        (none(), json!({ "imagePullPolicy": "Often" }), "spec.containers[0].imagePullPolicy"),
        (none(), json!({ "ports": [{ "containerPort": 70000 }] }), "spec.containers[0].ports[0].containerPort"),
        (none(), json!({ "ports": [{ "containerPort": 1, "hostIP": "x" }] }), "spec.containers[0].ports[0].hostIP"),
        (none(), json!({ "ports": [{ "containerPort": 1, "protocol": "X" }] }), "spec.containers[0].ports[0].protocol"),
        (none(), json!({ "resources": { "limits": { "cpu": "much" } } }), "spec.containers[0].resources.limits[cpu]"),
        (
            none(),
            json!({ "volumeMounts": [{ "name": "x", "mountPath": "/" }] }),
            "spec.containers[0].volumeMounts[0].name",
        ),
        (
            none(),
            json!({ "env": [{ "name": "A", "valueFrom": { "fieldRef": { "fieldPath": "spec.x" } } }] }),
            "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath",
        ),
        (
            json!({ "volumes": [{ "name": "v", "hostPath": { "path": "/", "type": "Any" } }] }),
            none(),
            "spec.volumes[0].hostPath.type",
        ),
    ];
    for (pod, container, field) in rows {
        let Invalid(errors) = resolve(&bundle(&pod, &container), &key(), &host(), &[]).unwrap_err();
        assert_eq!(errors.iter().map(|error| error.field.as_str()).collect::<Vec<_>>(), [field]);
    }
}
