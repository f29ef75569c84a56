//! What befalls containerd itself: its records lost, its images damaged, no answer. Daemons run on, once, and it heals by itself.

use std::fs;

use crate::harness::{Node, daemonset};
use crate::leaks::Traces;

const EXPORTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/node-exporter.yaml");
/// Where the node's registry listens, and where nobody does.
const REGISTRY: u16 = 5000;
const NOBODY: u16 = 1;

/// A DaemonSet whose pod answers at the node's port 8080 with what tells one instance of it from the next.
fn web() -> String {
    let script = "cat /proc/sys/kernel/random/uuid >/tmp/index.html; trap \"exit 0\" TERM; httpd -p 80 -h /tmp; \
                  while :; do sleep 0.2; done";
    let spec = format!(
        "      terminationGracePeriodSeconds: 10
      containers:
        - name: web
          image: busybox:1.35
          command: [sh, -c, '{script}']
          ports: [{{containerPort: 80, hostPort: 8080}}]
"
    );
    daemonset("web", &spec)
}

fn answer(node: &Node) -> Result<String, String> {
    node.fetch("http://10.99.0.1:8080/")
}

/// Waits until another instance answers.
fn another_answers(node: &Node, than: &str) -> String {
    node.eventually("another instance answers", |node| {
        let answer = answer(node)?;
        if answer == than || answer.is_empty() { Err(answer) } else { Ok(answer) }
    })
}

/// How many processes of this name the node has.
fn count(node: &Node, name: &str) -> usize {
    node.shell(&format!("pgrep -c {name} || true")).trim().parse().expect("a number")
}

/// Has images come from a port of the node.
fn pull_from(node: &Node, port: u16) {
    let host = format!("http://127.0.0.1:{port}");
    let hosts = format!("server = \"{host}\"\n[host.\"{host}\"]\n  capabilities = [\"pull\", \"resolve\"]\n");
    node.write("registries/_default/hosts.toml", &hosts);
}

/// The types of the Node's conditions.
fn conditions(node: &Node) -> String {
    node.kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].status.conditions[*].type}"])
}

#[test]
fn a_containerd_that_has_lost_its_records_costs_no_second_instance_and_none_before_there_is_another() {
    let mut node = Node::up("records");
    node.garrison_up();
    node.apply(&web());
    node.kubectl(&["rollout", "status", "daemonset/web", "--timeout=90s"]);
    let first = another_answers(&node, "");

    node.kill_containerd();
    fs::remove_dir_all(node.path("root/io.containerd.metadata.v1.bolt")).expect("containerd's records");
    pull_from(&node, NOBODY);
    node.start_containerd();
    let named = ["LostByRuntime", "no record of containers that run, of default/web-"];
    node.sees(&["describe", "nodes"], &named);
    node.sees(&["describe", "pods"], &["LostByRuntime", "Failed to pull image"]);
    // What it lost serves, also under another agent.
    node.kill_garrison();
    node.garrison_up();
    node.sees(&["describe", "nodes"], &named);
    assert_eq!(answer(&node), Ok(first.clone()));
    assert_eq!(count(&node, "httpd"), 1);

    pull_from(&node, REGISTRY);
    another_answers(&node, &first);
    node.kubectl(&["rollout", "status", "daemonset/web", "--timeout=90s"]);
    node.eventually("nothing is left of what was lost", |node| {
        let (left, processes) = (Traces::of(node), (count(node, "httpd"), count(node, "containerd-shim")));
        let once = (left.tasks, left.namespaces, left.addresses) == (2, 1, 1) && processes == (1, 1);
        if once { Ok(()) } else { Err(format!("{left:?}, instances and shims: {processes:?}")) }
    });
    node.eventually("the Node says so no more", |node| {
        let conditions = conditions(node);
        if conditions.contains("LostByRuntime") { Err(conditions) } else { Ok(()) }
    });
}

#[test]
fn a_damaged_image_is_pulled_anew_and_costs_the_others_nothing() {
    let mut node = Node::up("damaged");
    node.garrison_up();
    node.apply(&web());
    node.kubectl(&["apply", "-f", EXPORTER]);
    for name in ["web", "node-exporter"] {
        node.kubectl(&["rollout", "status", &format!("daemonset/{name}"), "--timeout=90s"]);
    }
    let id = node.kubectl(&[
        "get",
        "pods",
        "-l",
        "app=web",
        "-o",
        "jsonpath={.items[0].status.containerStatuses[0].containerID}",
    ]);
    let id = id.trim().trim_start_matches("containerd://");
    let (of_web, others): (Vec<_>, Vec<_>) = node.tasks().into_iter().partition(|task| task.container == id);
    let first = another_answers(&node, "");

    // The folder of the layer is gone, and the registry as well: what cannot be had is told, and had when it can be.
    pull_from(&node, NOBODY);
    let layers = "root/io.containerd.snapshotter.v1.overlayfs/snapshots";
    let layers =
        fs::read_dir(node.path(layers)).expect("containerd's layers").map(|entry| entry.expect("a layer").path());
    let layer = layers.into_iter().find(|layer| layer.join("fs/bin/busybox").exists()).expect("busybox's layer");
    fs::remove_dir_all(layer).expect("the layer can be removed");
    node.kill(of_web[0].pid);
    node.sees(
        &["describe", "pods", "-l", "app=web"],
        &["the image is damaged here and pulled anew", "Failed to pull image"],
    );
    pull_from(&node, REGISTRY);
    let second = another_answers(&node, &first);
    let restarts = "jsonpath={.items[0].status.containerStatuses[0].restartCount}";
    node.sees(&["get", "pods", "-l", "app=web", "-o", restarts], &["1"]);

    // The image's configuration is cut short, which a containerd notices that is started.
    let image = node.kubectl(&[
        "get",
        "pods",
        "-l",
        "app=web",
        "-o",
        "jsonpath={.items[0].status.containerStatuses[0].imageID}",
    ]);
    let digest = image.trim().rsplit_once("sha256:").expect("an image is known by a digest").1.to_owned();
    let blobs = "root/io.containerd.content.v1.content/blobs/sha256";
    let manifest = fs::read_to_string(node.path(&format!("{blobs}/{digest}"))).expect("the image's manifest");
    let manifest: serde_json::Value = serde_json::from_str(&manifest).expect("JSON");
    let config = manifest["config"]["digest"].as_str().expect("a digest").trim_start_matches("sha256:");
    node.kill_containerd();
    fs::remove_file(node.path(&format!("{blobs}/{config}"))).expect("the blob can be removed");
    node.write(&format!("{blobs}/{config}"), "{\"architecture\": ");
    node.start_containerd();
    node.is_ready();
    assert_eq!(answer(&node), Ok(second.clone()));
    node.kubectl(&["delete", "pods", "-l", "app=web"]);
    another_answers(&node, &second);
    let tasks = node.tasks();
    let stayed = others.iter().filter(|task| tasks.contains(task)).count();
    assert_eq!(stayed, others.len() - 1, "all but the sandbox of the pod that was deleted: {others:?} {tasks:?}");
}

#[test]
fn a_containerd_that_hangs_makes_the_node_not_ready_and_afterwards_all_is_as_before() {
    let mut node = Node::up("hangs");
    node.garrison_up();
    node.apply(&web());
    node.kubectl(&["rollout", "status", "daemonset/web", "--timeout=90s"]);
    let (tasks, answered) = (node.tasks(), another_answers(&node, ""));

    node.signal_containerd("-STOP");
    node.kubectl(&["apply", "-f", EXPORTER]);
    node.sees(&["get", "nodes"], &["NotReady"]);
    node.sees(&["describe", "nodes"], &["container runtime is down", "did not answer Status within 30s"]);
    assert_eq!(answer(&node), Ok(answered.clone()));

    node.signal_containerd("-CONT");
    node.is_ready();
    node.kubectl(&["rollout", "status", "daemonset/node-exporter", "--timeout=90s"]);
    let now = node.tasks();
    assert!(now.len() == 4 && tasks.iter().all(|task| now.contains(task)), "{tasks:?} {now:?}");
    assert_eq!(answer(&node), Ok(answered));
}
