//! Manifest in, requests out.
//!
//! `tests/data/cri/defaults.yaml` becomes `defaults.json`, in full. Every file of `tests/data/cri/cases` shows one feature: what
//! is laid over that pod, and behind `---` how the requests differ for it. To add a case, write the first half and run with
//! [`UPDATE`]; then read what was written.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::apps::v1::DaemonSet;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::*;
use crate::api::bundle::Bundle;
use crate::api::{daemonset, document, strict};
use crate::model::{ObjectKey, ObservedSandbox, PodKey, Source};
use crate::podspec::bind::{Given, bind};
use crate::podspec::objects::{Held, Object, ObjectId, Objects};
use crate::podspec::{CgroupDriver, Granted, HostFacts, IdRange, ImageUser, Reference, references, resolve};

mod corpus;

/// Set to write the expected requests anew instead of comparing; the difference is then read in `git diff`.
const UPDATE: &str = "UPDATE_EXPECTED";
/// Between what goes in and what comes out.
const SEPARATOR: &str = "---\n";

/// What a pod's requests depend on beside its manifest.
struct Surroundings {
    host: HostFacts,
    image_user: ImageUser,
    pod_ips: Vec<std::net::IpAddr>,
    granted: Granted,
}

impl Surroundings {
    fn new() -> Self {
        let host = HostFacts {
            fleet: "fleet-1".into(),
            node_name: "node-1".into(),
            node_uid: "node-uid-1".into(),
            ips: vec!["192.0.2.1".parse().unwrap()],
            resolver: Dns {
                servers: vec!["192.0.2.53".to_owned()],
                searches: vec!["example.com".to_owned()],
                options: vec!["rotate".to_owned()],
            },
            cluster_dns: vec![],
            cluster_domain: "cluster.local".to_owned(),
            cgroup_driver: CgroupDriver::Cgroupfs,
            cgroup_root: "/".to_owned(),
            cgroup_v2: false,
            swap_limits: false,
            hugepage_sizes: vec![2 << 20, 1 << 30],
            masked_paths: vec!["/sys/devices/system/cpu/cpu0/thermal_throttle".to_owned()],
            memory_capacity_bytes: 8 << 30,
            allocatable: [("cpu".to_owned(), 4000), ("memory".to_owned(), 7 << 30)].into(),
            devices: BTreeMap::new(),
            root_dir: "/var/lib/kubelet".into(),
            log_root: "/var/log/pods".into(),
            api: None,
        };
        let pod_ips = vec!["10.88.0.7".parse().unwrap()];
        Self { host, image_user: ImageUser::Uid(0), pod_ips, granted: Granted::default() }
    }

    /// Changes one thing, by the word cases have for it.
    fn change(&mut self, word: &str) {
        match word {
            "cgroup-v2" => self.host.cgroup_v2 = true,
            "systemd" => self.host.cgroup_driver = CgroupDriver::Systemd,
            "swap" => self.host.swap_limits = true,
            "cluster-dns" => self.host.cluster_dns = vec!["10.96.0.10".parse().unwrap()],
            "dual-stack" => self.pod_ips.push("fd00::7".parse().unwrap()),
            "image-user-1000" => self.image_user = ImageUser::Uid(1000),
            "image-user-web" => self.image_user = ImageUser::Name("web".to_owned()),
            other => panic!("no case may say {other:?}"),
        }
    }
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// A DaemonSet as control would have admitted it.
fn admitted(manifest: &Value) -> Bundle {
    let written = document::parse_json(manifest.to_string().as_bytes()).unwrap();
    let mut set: DaemonSet = strict::decode(&written).unwrap().strict().unwrap();
    daemonset::default(&mut set);
    assert_eq!(daemonset::validate(&set), []);
    set.metadata.uid = Some("daemonset-uid-1".to_owned());
    Bundle::from_daemonset(&set, "5d9f7".into())
}

/// Every object that the pod asks for, with every key that some variable of it asks for.
fn objects(bundle: &Bundle) -> Objects {
    let spec = bundle.template.spec.as_ref().unwrap();
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let sources =
        containers.flat_map(|container| container.env.iter().flatten()).filter_map(|var| var.value_from.as_ref());
    let keys: Vec<_> = sources
        .flat_map(|source| {
            let config = source.config_map_key_ref.as_ref().map(|key| &key.key);
            config.into_iter().chain(source.secret_key_ref.as_ref().map(|key| &key.key))
        })
        .collect();
    let held = |reference: Reference| {
        let Reference { kind, name } = reference;
        let text = |key: &&String| ((*key).clone(), format!("{key} of {kind} {name}").into_bytes());
        let object = Object { data: keys.iter().map(text).collect(), ..Object::default() };
        let id = ObjectId { source: Source::Link, kind, key: ObjectKey::new(&bundle.namespace, &name) };
        (id, Held { object: Arc::new(object), kept_for: [].into() })
    };
    Objects { held: references(spec, &[]).into_iter().map(held).collect(), ..Objects::default() }
}

/// What a node asks of its runtime for a DaemonSet's pod: to make the sandbox for the second time, and each of its
/// containers, by name, for the third.
fn requests(bundle: &Bundle, around: &Surroundings) -> Value {
    let Bundle { namespace, name, .. } = bundle.clone();
    let key = PodKey { namespace, name: format!("{name}-bcdfghjklm"), uid: "pod-uid-1".into() };
    let pod = resolve(bundle, &key, &around.host, &[]).unwrap();
    let sandbox = ObservedSandbox {
        id: "sandbox-1".into(),
        attempt: 1,
        ready: true,
        ips: around.pod_ips.clone(),
        created_at: jiff::Timestamp::UNIX_EPOCH,
    };
    let users = pod.namespaces.own_users.then_some(IdRange { first_host_id: 131_072, length: 65_536 });
    let pod_ips = if pod.namespaces.host_network { &around.host.ips } else { &sandbox.ips };
    let (objects, none) = (objects(bundle), BTreeMap::default());
    let images = pod.volumes.iter().map(|volume| (volume.name.clone(), format!("sha256:{}", volume.name))).collect();
    let (files, granted) = (&none, &around.granted);
    let given = Given { objects: &objects, pod_ips, files, images: &images, can_be_recursive: true, granted };
    let request = |container: &Container| {
        let bound = bind(&pod, container, &given).unwrap();
        let new = NewContainer {
            pod: &pod,
            container,
            attempt: 2,
            sandbox: &sandbox,
            bound: &bound,
            image_ref: "sha256:feed",
            image_user: &around.image_user,
            users,
            target: None,
        };
        (container.name.clone(), serde_json::to_value(container_config(&new)).unwrap())
    };
    let containers: Map<_, _> = pod.containers.iter().map(request).collect();
    json!({ "sandbox": sandbox_config(&pod, sandbox.attempt, users), "containers": containers })
}

/// The requests of the pod of defaults.
fn defaults() -> (Value, Value) {
    let manifest: Value = serde_saphyr::from_str(&fs::read_to_string(data("cri/defaults.yaml")).unwrap()).unwrap();
    (requests(&admitted(&manifest), &Surroundings::new()), manifest)
}

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

/// How a pod's requests differ from those of the pod of defaults; each of its containers from that pod's only one.
fn differences(base: &Value, made: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    difference(&base["sandbox"], &made["sandbox"], "sandbox", &mut lines);
    for (name, container) in made["containers"].as_object().unwrap() {
        difference(&base["containers"]["main"], container, name, &mut lines);
    }
    lines
}

/// How `made` differs from `base`, a line for each field: its path and its value, `null` for one that is gone.
fn difference(base: &Value, made: &Value, at: &str, lines: &mut Vec<String>) {
    match (base, made) {
        (Value::Object(base), Value::Object(made)) => {
            let fields: BTreeMap<_, _> = base.iter().chain(made).map(|(field, _)| (field, ())).collect();
            for field in fields.into_keys() {
                let none = &Value::Null;
                let (base, made) = (base.get(field).unwrap_or(none), made.get(field).unwrap_or(none));
                difference(base, made, &format!("{at}.{field}"), lines);
            }
        }
        (Value::Array(base), Value::Array(made)) if base.len() == made.len() => {
            for (index, (base, made)) in base.iter().zip(made).enumerate() {
                difference(base, made, &format!("{at}[{index}]"), lines);
            }
        }
        (Value::Array(_), Value::Array(made)) if !made.is_empty() => {
            lines.push(format!("{at}:"));
            lines.extend(made.iter().map(|item| format!("  - {item}")));
        }
        (base, made) if base != made => lines.push(format!("{at}: {made}")),
        _ => {}
    }
}

/// Compares what was made with what stands in a file; writes it instead if that is asked for.
fn compare(file: &Path, before: &str, made: &str) {
    if std::env::var_os(UPDATE).is_some() {
        fs::write(file, format!("{before}{made}")).unwrap();
    }
    let text = fs::read_to_string(file).unwrap_or_default();
    let expected = text.strip_prefix(before).unwrap_or_default();
    assert_eq!(made, expected, "{}: if this is right, write it with {UPDATE}=1 cargo test", file.display());
}

/// The files of a folder, sorted.
fn files(folder: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(data(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

#[test]
fn a_pod_of_defaults_asks_for_what_the_kubelet_would() {
    compare(&data("cri/defaults.json"), "", &format!("{:#}\n", defaults().0));
}

/// The first half of a case.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Case {
    /// What is special about host and image ([`Surroundings::change`]).
    with: Vec<String>,
    /// What comes with each container's devices.
    granted: Granted,
    /// Laid over the template's metadata.
    metadata: Value,
    /// Laid over the pod's spec.
    pod: Value,
    /// Laid over its only container.
    container: Value,
}

#[test]
fn each_feature_changes_the_requests_as_it_would_the_kubelets() {
    let (base, manifest) = defaults();
    for file in files("cri/cases") {
        let text = fs::read_to_string(&file).unwrap();
        let written = text.split_once(SEPARATOR).map_or(text.as_str(), |(written, _)| written);
        let case: Case = serde_saphyr::from_str(written).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let mut around = Surroundings::new();
        case.with.iter().for_each(|word| around.change(word));
        around.granted = case.granted;
        let mut manifest = manifest.clone();
        let template = &mut manifest["spec"]["template"];
        for (place, change) in
            [("/metadata", case.metadata), ("/spec/containers/0", case.container), ("/spec", case.pod)]
        {
            if !change.is_null() {
                overlay(template.pointer_mut(place).unwrap(), &change);
            }
        }
        let lines = differences(&base, &requests(&admitted(&manifest), &around));
        assert!(!lines.is_empty(), "{}: the requests are those of the pod of defaults", file.display());
        compare(&file, &format!("{written}{SEPARATOR}"), &format!("{}\n", lines.join("\n")));
    }
}

#[test]
fn a_target_shows_its_processes_where_containers_have_their_own() {
    let target = ContainerId::from("c1");
    let pid = |pid| {
        let options = container_namespaces(Namespaces { pid, ..Namespaces::default() }, None, Some(&target));
        (options.pid(), options.target_id)
    };
    assert_eq!(pid(PidNamespace::Container), (v1::NamespaceMode::Target, "c1".to_owned()));
    assert_eq!(pid(PidNamespace::Pod), (v1::NamespaceMode::Pod, String::new()));
    assert_eq!(pid(PidNamespace::Host), (v1::NamespaceMode::Node, String::new()));
}
