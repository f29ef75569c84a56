//! The daemons of `tests/data/corpus` on a real node. `tests/env/images.sh` serves a stand-in under the name of each image: it
//! waits. What only the real program could answer is left out here: its command, its probes, its hooks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::harness::Node;

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/corpus");
/// So many at a time ask for no more than a small machine has.
const AT_ONCE: usize = 8;
/// What of a node is its own; elsewhere it sees the machine's files, and nothing is made there.
const OWN: [&str; 3] = ["/etc", "/run", "/var"];
/// A profile that one of them expects on the host.
const SECCOMP: &str = "/var/lib/kubelet/seccomp/system-probe";

/// A manifest as it stands, and what it needs to be there.
struct Daemon {
    set: Value,
    /// Kind and name of each object, with the keys that somebody wants.
    objects: BTreeMap<(&'static str, String), BTreeSet<String>>,
}

impl Daemon {
    fn read(file: &Path) -> Self {
        let text = fs::read_to_string(file).expect("the corpus can be read");
        // Modes are written as kubectl reads them.
        let options = serde_saphyr::options! { legacy_octal_numbers: true };
        let set: Value = serde_saphyr::from_str_with_options(&text, options).expect("it is YAML");
        let mut daemon = Self { set, objects: BTreeMap::new() };
        daemon.find_objects();
        daemon.stand_in();
        daemon
    }

    fn at(&self, pointer: &str) -> &str {
        self.set.pointer(pointer).and_then(Value::as_str).unwrap_or("default")
    }

    fn namespace(&self) -> &str {
        self.at("/metadata/namespace")
    }

    fn name(&self) -> &str {
        self.at("/metadata/name")
    }

    fn want(&mut self, kind: &'static str, source: &Value, name: &str, keys: impl IntoIterator<Item = String>) {
        let Some(name) = source[name].as_str().filter(|_| source["optional"] != json!(true)) else { return };
        let items = source["items"].as_array().into_iter().flatten().chain([source]);
        let named = items.filter_map(|item| item["key"].as_str().map(str::to_owned));
        self.objects.entry((kind, name.to_owned())).or_default().extend(named.chain(keys));
    }

    fn find_objects(&mut self) {
        let spec = self.set["spec"]["template"]["spec"].clone();
        let containers: Vec<_> = containers(&spec).cloned().collect();
        for volume in spec["volumes"].as_array().into_iter().flatten() {
            let mounts =
                containers.iter().flat_map(|container| container["volumeMounts"].as_array().into_iter().flatten());
            let of_it = mounts.filter(|mount| mount["name"] == volume["name"]);
            let parts: Vec<_> = of_it.filter_map(|mount| mount["subPath"].as_str().map(str::to_owned)).collect();
            let sources = volume["projected"]["sources"].as_array().into_iter().flatten();
            for source in sources.chain([volume]) {
                self.want("ConfigMap", &source["configMap"], "name", parts.clone());
                self.want("Secret", &source["secret"], "secretName", parts.clone());
                self.want("Secret", &source["secret"], "name", parts.clone());
            }
        }
        for container in &containers {
            for variable in container["env"].as_array().into_iter().flatten() {
                self.want("ConfigMap", &variable["valueFrom"]["configMapKeyRef"], "name", []);
                self.want("Secret", &variable["valueFrom"]["secretKeyRef"], "name", []);
            }
            for from in container["envFrom"].as_array().into_iter().flatten() {
                self.want("ConfigMap", &from["configMapRef"], "name", []);
            }
        }
    }

    /// Leaves out what only the real programs could answer, and what this machine cannot give.
    fn stand_in(&mut self) {
        let spec = self.set["spec"]["template"]["spec"].as_object_mut().expect("a pod's spec");
        // Whoever has no use for a token needs none.
        spec.insert("automountServiceAccountToken".to_owned(), json!(false));
        for volume in spec.get_mut("volumes").and_then(Value::as_array_mut).into_iter().flatten() {
            let Some(path) = volume["hostPath"]["path"].as_str().map(str::to_owned) else { continue };
            if !Path::new(&path).exists() && !OWN.iter().any(|own| path.starts_with(own)) {
                volume["hostPath"]["path"] = json!(format!("/var/host{path}"));
            }
        }
        for (list, ends) in [("initContainers", true), ("containers", false)] {
            for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                let container = container.as_object_mut().expect("a container");
                for field in ["args", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] {
                    container.remove(field);
                }
                container.insert("command".to_owned(), json!([if ends { "/bin/true" } else { "/stand-in" }]));
                allow_for_this_machine(container);
            }
        }
    }

    /// Everything to be applied: the namespace, the account, the objects, the DaemonSet.
    fn documents(&self) -> Vec<Value> {
        let namespace = self.namespace();
        let metadata = |name: &str| json!({ "name": name, "namespace": namespace });
        let account = self.at("/spec/template/spec/serviceAccountName");
        let object = |((kind, name), keys): (&(&str, String), &BTreeSet<String>)| {
            let field = if *kind == "Secret" { "stringData" } else { "data" };
            let keys = keys.iter().map(String::as_str).chain(keys.is_empty().then_some("config"));
            let data: Map<_, _> = keys.map(|key| (key.to_owned(), json!("stand-in"))).collect();
            json!({ "apiVersion": "v1", "kind": kind, "metadata": metadata(name), field: data })
        };
        let mut documents = vec![json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } })];
        documents.push(json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata(account) }));
        documents.extend(self.objects.iter().map(object));
        documents.push(self.set.clone());
        documents
    }

    /// Folders that a hostPath wants to be there.
    fn folders(&self) -> impl Iterator<Item = &str> {
        let volumes = self.set["spec"]["template"]["spec"]["volumes"].as_array().into_iter().flatten();
        let folders = volumes.filter(|volume| volume["hostPath"]["type"] == "Directory");
        folders.filter_map(|volume| volume["hostPath"]["path"].as_str())
    }
}

fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    let lists = ["initContainers", "containers"].into_iter();
    lists.flat_map(|list| spec[list].as_array().into_iter().flatten())
}

/// A capability that root lacks here cannot be given to a container, and nothing can be mounted where sysfs has no folder.
fn allow_for_this_machine(container: &mut Map<String, Value>) {
    const SYS_RESOURCE: u32 = 24;
    if let Some(mounts) = container.get_mut("volumeMounts").and_then(Value::as_array_mut) {
        let path = |mount: &Value| mount["mountPath"].as_str().expect("each mount has a path").to_owned();
        mounts.retain(|mount| !path(mount).starts_with("/sys/") || Path::new(&path(mount)).exists());
    }
    let status = fs::read_to_string("/proc/self/status").expect("this process has a status");
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("it has capabilities");
    let effective = u64::from_str_radix(effective.trim(), 16).expect("a number in hex");
    let added = container.get_mut("securityContext").and_then(|context| context.pointer_mut("/capabilities/add"));
    if let Some(added) = added.and_then(Value::as_array_mut).filter(|_| effective >> SYS_RESOURCE & 1 == 0) {
        added.retain(|name| name != "SYS_RESOURCE");
    }
}

#[test]
fn the_daemons_people_run_start_as_their_projects_document_them() {
    let mut files: Vec<_> = fs::read_dir(CORPUS)
        .expect("the corpus is there")
        .map(|entry| entry.expect("it can be listed").path())
        .filter(|file| file.extension().is_some_and(|end| end == "yaml"))
        .collect();
    files.sort();
    let daemons: Vec<_> = files.iter().map(|file| Daemon::read(file)).collect();
    let mut node = Node::up("corpus");
    node.garrison_up();
    node.write_inside(SECCOMP, "{\"defaultAction\": \"SCMP_ACT_ALLOW\"}");
    for daemons in daemons.chunks(AT_ONCE) {
        let folders = daemons.iter().flat_map(Daemon::folders);
        assert!(node.inside("mkdir").arg("-p").args(folders).arg("/var/host").status().expect("mkdir runs").success());
        let documents: Vec<_> = daemons.iter().flat_map(Daemon::documents).map(|one| one.to_string()).collect();
        node.apply(&documents.join("\n"));
        for daemon in daemons {
            let set = format!("daemonset/{}", daemon.name());
            node.kubectl(&["rollout", "status", &set, "-n", daemon.namespace(), "--timeout=120s"]);
        }
        let restarts = "jsonpath={.items[*].status.containerStatuses[*].restartCount}";
        let restarts = node.kubectl(&["get", "pods", "-A", "-o", restarts]);
        assert!(restarts.split_whitespace().all(|count| count == "0"), "{restarts}");
        for daemon in daemons {
            node.kubectl(&["delete", "daemonset", daemon.name(), "-n", daemon.namespace(), "--wait=false"]);
        }
        node.sees(&["get", "pods", "-A"], &["No resources found"]);
    }
}
