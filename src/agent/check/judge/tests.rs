//! A host on which all is well, and one thing wrong with it at a time.

use std::collections::BTreeSet;
use std::path::Path;

use super::*;
use crate::cri::{RuntimeCondition, RuntimeFeatures};
use crate::host::preflight::{Access, Space};

/// Everything an [`Evidence`] borrows, to be changed by a row.
struct Host {
    settings: AgentSettings,
    signs: Signs,
    runtime: Result<RuntimeFacts, (bool, String)>,
    network: Network,
    enrolment: Enrolment,
    unusable: Option<String>,
    control: Option<Option<String>>,
    pod_api: Option<String>,
    listen: Option<(&'static str, Option<String>)>,
    now: Timestamp,
}

fn host() -> Host {
    let ready = || RuntimeCondition { ready: true, ..RuntimeCondition::default() };
    let mut settings = crate::config::defaults("edge-1");
    settings.control = Some("control:6443".to_owned());
    Host {
        settings,
        signs: Signs {
            user: 0,
            capabilities: u64::MAX,
            kernel: "6.1.0-18-amd64".to_owned(),
            cgroup_v2: true,
            controllers: ["cpu", "memory", "pids"].map(str::to_owned).into(),
            systemd: true,
            root_is_shared: true,
            clock_synchronized: Some(true),
            machine_id: "abc".to_owned(),
            hostname: "edge-1".to_owned(),
            kubelets: Vec::new(),
            state_dir: Some(Access { owner: 0, mode: 0o700 }),
            space: vec![Space { dir: "/var".into(), free_percent: 60, free_mib: 9000 }],
        },
        runtime: Ok(RuntimeFacts {
            version: RuntimeVersion { name: "containerd".to_owned(), version: "1.7.24".to_owned() },
            status: RuntimeStatus {
                runtime_ready: ready(),
                network_ready: ready(),
                features: RuntimeFeatures::default(),
            },
            settings: RuntimeSettings { cgroup_driver: Some(CgroupDriver::Systemd), ..RuntimeSettings::default() },
        }),
        network: Network {
            conf_dir: "/etc/cni/net.d".into(),
            bin_dir: "/usr/lib/cni".into(),
            configuration: Ok(Some("/etc/cni/net.d/10-x.conflist".into())),
            missing_plugins: Vec::new(),
        },
        enrolment: Enrolment {
            agent_runs: false,
            known_name: None,
            ledger_trouble: Vec::new(),
            credentials: Ok(true),
            trusted_until: None,
            token_waits: false,
        },
        unusable: None,
        control: Some(None),
        pod_api: None,
        listen: None,
        now: Timestamp::MAX,
    }
}

fn findings(host: Host) -> Vec<Finding> {
    judge(&Evidence {
        unusable: host.unusable,
        settings: &host.settings,
        signs: &host.signs,
        runtime: host.runtime,
        network: host.network,
        enrolment: host.enrolment,
        control: host.control,
        pod_api: host.pod_api,
        listen: host.listen,
        now: host.now,
    })
}

#[test]
fn a_host_on_which_all_is_well_has_nothing_to_do() {
    let findings = findings(host());
    assert!(findings.iter().all(|finding| finding.grade == Grade::Ok && finding.remedy.is_empty()), "{findings:#?}");
    let topics: BTreeSet<_> = findings.iter().map(|finding| finding.topic).collect();
    assert_eq!(topics.len(), findings.len(), "each topic once");
}

/// One change to a good host: exactly this topic has this grade, and what was found and what to do contain these words.
type Row = (&'static str, Grade, &'static str, &'static str, fn(&mut Host));

#[test]
fn each_trouble_is_found_alone_with_its_remedy() {
    use Grade::{Problem, Warning};
    let rows: [Row; 33] = [
        ("settings", Problem, "unknown field", "correct it", |host| host.unusable = Some("unknown field".into())),
        ("settings", Problem, "neither a control endpoint", "set control:", |host| {
            (host.settings.control, host.control) = (None, None);
        }),
        ("permissions", Problem, "user 1000, not root", "as root", |host| host.signs.user = 1000),
        ("permissions", Problem, "CAP_SYS_ADMIN", "as root", |host| host.signs.capabilities = 0),
        ("permissions", Warning, "CAP_SYS_RESOURCE", "restrict_oom_score_adj", |host| {
            host.signs.capabilities ^= 1 << CAP_SYS_RESOURCE;
        }),
        ("kernel", Problem, "3.10.0-1160.el7 is older", "newer kernel", |host| {
            host.signs.kernel = "3.10.0-1160.el7".into();
        }),
        ("cgroups", Problem, "v2 without memory", "cgroup_enable=memory", |host| {
            host.signs.controllers.remove("memory");
        }),
        ("cgroups", Problem, "v1 without pids", "mount the controllers", |host| {
            host.signs.cgroup_v2 = false;
            host.signs.controllers.remove("pids");
        }),
        ("cgroups", Warning, "two masters", "SystemdCgroup = true", |host| {
            host.runtime.as_mut().unwrap().settings.cgroup_driver = Some(CgroupDriver::Cgroupfs);
        }),
        ("mounts", Warning, "private", "make-rshared", |host| host.signs.root_is_shared = false),
        ("clock", Warning, "before this program was made", "NTP", |host| host.now = Timestamp::UNIX_EPOCH),
        ("clock", Problem, "when the fleet's authority ends", "NTP", |host| {
            host.enrolment.trusted_until = Some(Timestamp::UNIX_EPOCH);
        }),
        ("clock", Warning, "nobody synchronizes", "NTP", |host| host.signs.clock_synchronized = Some(false)),
        ("machine id", Problem, "empty", "systemd-machine-id-setup", |host| host.signs.machine_id.clear()),
        ("name", Problem, "knows it as edge-9", "nodeName: edge-9", |host| {
            host.enrolment.known_name = Some("edge-9".into());
            host.settings.name_is_chosen = true;
        }),
        ("name", Problem, "localhost is what any host", "hostnamectl", |host| {
            host.settings.node_name = "localhost".into();
        }),
        ("state", Warning, "mode 0755", "chmod 0700 /var/lib/garrison", |host| {
            host.signs.state_dir = Some(Access { owner: 0, mode: 0o755 });
        }),
        ("disk", Warning, "3 % free at /var", "make room", |host| host.signs.space[0].free_percent = 3),
        ("kubelet", Problem, "kubelet (pid 7) runs here", "stop it", |host| {
            host.signs.kubelets = vec![("kubelet".into(), 7)];
        }),
        ("kubelet", Warning, "k3s (pid 7) runs here", "host ports", |host| {
            host.signs.kubelets = vec![("k3s".into(), 7)];
            host.settings.root_dir = "/var/lib/garrison/pods".into();
            host.settings.cgroup_root = "/garrison".into();
            host.settings.runtime_endpoint = "unix:///run/other.sock".into();
        }),
        ("runtime", Problem, "no such file", "start containerd", |host| {
            host.runtime = Err((false, "no such file".into()));
        }),
        ("runtime", Problem, "no CRI", "disabled_plugins", |host| host.runtime = Err((true, "no CRI".into()))),
        ("runtime", Problem, "containerd 1.5.9 at unix:", "upgrade", |host| {
            host.runtime.as_mut().unwrap().version.version = "1.5.9".into();
        }),
        ("runtime", Warning, "cri-o", "only containerd", |host| {
            host.runtime.as_mut().unwrap().version.name = "cri-o".into();
        }),
        ("runtime", Problem, "not ready: disk", "journalctl", |host| {
            let message = "disk".into();
            host.runtime.as_mut().unwrap().status.runtime_ready =
                RuntimeCondition { ready: false, reason: String::new(), message };
        }),
        ("network", Problem, "no CNI configuration in /etc/cni/net.d", "installCni: true", |host| {
            host.network.configuration = Ok(None);
        }),
        ("network", Problem, "portmap are missing in /usr/lib/cni", "containernetworking-plugins", |host| {
            host.network.configuration = Ok(None);
            host.network.missing_plugins = vec!["portmap".into()];
        }),
        ("network", Problem, "cni plugin not initialized", "bin_dir", |host| {
            let message = "cni plugin not initialized".into();
            host.runtime.as_mut().unwrap().status.network_ready =
                RuntimeCondition { ready: false, reason: String::new(), message };
        }),
        ("ledger", Problem, "damaged", "Back-up", |host| host.enrolment.ledger_trouble = vec!["damaged".into()]),
        ("enrolment", Problem, "no join token", "/etc/credstore/garrison.token", |host| {
            host.enrolment.credentials = Ok(false);
        }),
        ("control", Warning, "control:6443 cannot be reached: refused", "firewall", |host| {
            host.control = Some(Some("refused".into()));
        }),
        ("port", Warning, "17443 cannot be listened on: in use", "ss -Hltnp sport = :17443", |host| {
            host.pod_api = Some("in use".into());
        }),
        ("listen", Problem, "0.0.0.0:6443 cannot be served on: in use", "ss -Hltnp", |host| {
            host.listen = Some(("0.0.0.0:6443", Some("in use".into())));
        }),
    ];
    for (topic, grade, found, remedy, change) in rows {
        let mut changed = host();
        change(&mut changed);
        let findings = findings(changed);
        let bad: Vec<_> = findings.iter().filter(|finding| finding.grade != Grade::Ok).collect();
        let [bad] = bad.as_slice() else { panic!("{topic} ({found}): {findings:#?}") };
        assert_eq!((bad.topic, bad.grade), (topic, grade));
        assert!(bad.found.contains(found) && bad.remedy.contains(remedy), "{bad:?}");
    }
}

#[test]
fn what_looks_wrong_and_is_not() {
    let quiet: [fn(&mut Host); 6] = [
        // The host was renamed.
        |host| host.enrolment.known_name = Some("edge-9".into()),
        |host| {
            host.network.configuration = Ok(None);
            host.settings.install_cni = true;
        },
        |host| {
            host.enrolment.credentials = Ok(false);
            host.enrolment.token_waits = true;
        },
        |host| host.signs.state_dir = None,
        |host| host.signs.clock_synchronized = None,
        |host| {
            // Alone, with nobody to ask for a certificate.
            (host.settings.control, host.control) = (None, None);
            host.settings.manifests = Some(Path::new("/m").into());
            host.enrolment.credentials = Ok(false);
        },
    ];
    for (index, change) in quiet.into_iter().enumerate() {
        let mut changed = host();
        change(&mut changed);
        let findings = findings(changed);
        assert!(findings.iter().all(|finding| finding.grade == Grade::Ok), "row {index}: {findings:#?}");
    }
}

#[test]
fn versions_are_read_from_what_distributions_make_of_them() {
    for (text, version) in [
        ("1.6.20~ds1", Some((1, 6))),
        ("v2.1.9", Some((2, 1))),
        ("6.1.0-18-amd64", Some((6, 1))),
        ("unknown", None),
        ("7", None),
    ] {
        assert_eq!(leading_version(text), version, "{text}");
    }
}
