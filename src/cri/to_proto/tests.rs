use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::api::bundle::Bundle;
use crate::api::{daemonset, document, strict};
use crate::cri::ImageUser;
use crate::model::{ObjectKey, ObservedSandbox, PodKey, Source};
use crate::podspec::bind::{Given, bind};
use crate::podspec::objects::{Held, Object, ObjectId, Objects};
use crate::podspec::{CgroupDriver, HostFacts, ObjectKind, resolve};

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
        api: None,
    }
}

/// A ConfigMap and a Secret `settings` of namespace `default` with the key `level`.
fn objects() -> Objects {
    let object =
        |text: &str| Object { data: [("level".to_owned(), text.as_bytes().to_vec())].into(), ..Object::default() };
    let id = |kind| ObjectId { source: Source::Link, kind, key: ObjectKey::new("default", "settings") };
    let held = |text: &str| Held { object: Arc::new(object(text)), kept_for: [].into() };
    let held =
        [(id(ObjectKind::ConfigMap), held("from the ConfigMap")), (id(ObjectKind::Secret), held("from the Secret"))];
    Objects { held: held.into(), ..Objects::default() }
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
    resolve(&Bundle::from_daemonset(&set, "5d9f7".into()), &key, &host()).unwrap()
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
    let (objects, none) = (objects(), Default::default());
    let images = pod.volumes.iter().map(|volume| (volume.name.clone(), format!("sha256:{}", volume.name))).collect();
    let given =
        Given { objects: &objects, pod_ips: &sandbox.ips, files: &none, images: &images, can_be_recursive: true };
    let request = |container| {
        let bound = bind(&pod, container, &given).unwrap();
        let new = NewContainer {
            pod: &pod,
            container,
            attempt: 2,
            sandbox: &sandbox,
            bound: &bound,
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
fn configuration_is_in_a_container_as_the_kubelet_would_put_it() {
    check("configured");
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
