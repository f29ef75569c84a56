use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;
use crate::api::bundle::Bundle;
use crate::api::{daemonset, document, strict};
use crate::cri::ImageUser;
use crate::model::{ObservedSandbox, PodKey};
use crate::podspec::{CgroupDriver, HostFacts, resolve};

/// Set to write the expected requests anew instead of comparing; the difference is then read in `git diff`.
const UPDATE: &str = "UPDATE_EXPECTED";

fn host() -> HostFacts {
    HostFacts {
        fleet: "fleet-1".into(),
        node_name: "node-1".into(),
        node_uid: "node-uid-1".into(),
        ips: vec!["192.0.2.1".parse().unwrap()],
        resolver: Dns {
            servers: vec!["192.0.2.53".to_owned()],
            searches: vec!["example.com".to_owned()],
            options: vec!["rotate".to_owned()],
        },
        cgroup_driver: CgroupDriver::Cgroupfs,
        cgroup_root: "/".to_owned(),
        cgroup_v2: false,
        swap_limits: false,
        hugepage_sizes: vec![2 << 20, 1 << 30],
        memory_capacity_bytes: 8 << 30,
        allocatable: [("cpu".to_owned(), 4000), ("memory".to_owned(), 7 << 30)].into(),
        root_dir: "/var/lib/kubelet".into(),
        log_root: "/var/log/pods".into(),
    }
}

/// The pod a node makes of a manifest, as control would have admitted it.
fn pod(manifest: &str) -> Pod {
    let documents = document::parse_yaml(manifest).unwrap();
    let mut set = strict::decode(&documents[0].body).unwrap().strict().unwrap();
    daemonset::default(&mut set);
    assert_eq!(daemonset::validate(&set), []);
    set.metadata.uid = Some("daemonset-uid-1".to_owned());
    let (namespace, name) = (set.metadata.namespace.clone().unwrap(), set.metadata.name.clone().unwrap());
    let key = PodKey { namespace, name: format!("{name}-bcdfghjklm"), uid: "pod-uid-1".into() };
    resolve(&Bundle::from_daemonset(&set, "5d9f7".into(), 0), &key, &host()).unwrap()
}

/// Compares what `tests/data/cri/<name>.yaml` becomes with `<name>.json`: the sandbox's configuration, and each
/// container's for its third instance.
fn check(name: &str) {
    let file = |kind: &str| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/cri/{name}.{kind}"));
    let pod = pod(&fs::read_to_string(file("yaml")).unwrap());
    let sandbox = ObservedSandbox {
        id: "sandbox-1".into(),
        attempt: 1,
        ready: true,
        ips: vec!["10.88.0.7".parse().unwrap()],
        created_at: jiff::Timestamp::UNIX_EPOCH,
    };
    let request = |container| {
        let new = NewContainer {
            pod: &pod,
            container,
            attempt: 2,
            sandbox: &sandbox,
            pod_ips: &sandbox.ips,
            image_ref: "sha256:feed",
        };
        serde_json::to_value(container_config(&new, None)).unwrap()
    };
    let containers: Vec<_> = pod.containers.iter().map(request).collect();
    let made = json!({ "sandbox": sandbox_config(&pod, sandbox.attempt), "containers": containers });
    if std::env::var_os(UPDATE).is_some() {
        fs::write(file("json"), format!("{made:#}\n")).unwrap();
    }
    let expected: Value = serde_json::from_slice(&fs::read(file("json")).unwrap()).unwrap();
    assert_eq!(made, expected, "{name}: if the new requests are right, write them with {UPDATE}=1 cargo test");
}

#[test]
fn a_pod_of_defaults_asks_for_what_the_kubelet_would() {
    check("defaults");
}

#[test]
fn a_pod_that_shares_the_hosts_namespaces_says_so() {
    check("host-agent");
}

#[test]
fn what_a_pod_is_allowed_and_limited_to_is_told_in_full() {
    check("service");
}

#[test]
fn a_group_without_a_user_goes_with_the_images_user() {
    let mut security = pod(include_str!("../../../tests/data/cri/defaults.yaml")).containers.remove(0).security;
    security.run_as_group = Some(7);
    let user = |security: &Security, image_user| {
        let made = container_security(security, Namespaces::default(), image_user);
        (made.run_as_user.map(|user| user.value), made.run_as_username, made.run_as_group.map(|group| group.value))
    };
    let named = ImageUser::Name("web".to_owned());
    assert_eq!(user(&security, Some(&ImageUser::Uid(5))), (Some(5), String::new(), Some(7)));
    assert_eq!(user(&security, Some(&named)), (None, "web".to_owned(), Some(7)));
    security.run_as_user = Some(9);
    assert_eq!(user(&security, None), (Some(9), String::new(), Some(7)));
}
