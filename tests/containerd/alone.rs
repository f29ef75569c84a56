//! The agent without a control endpoint: a folder of manifests says what runs.

use std::fs;

use crate::harness::{Node, daemonset};

fn manifest(name: &str, seconds: u32) -> String {
    let spec = format!(
        "      terminationGracePeriodSeconds: 1
      containers:
        - name: main
          image: busybox:1.35
          command: [sleep, '{seconds}']
"
    );
    daemonset(name, &spec)
}

/// Waits until exactly these commands run in containers.
fn runs(node: &Node, commands: &[&str]) {
    node.eventually(&format!("the containers run {commands:?}"), |node| {
        let mut found: Vec<_> = node
            .tasks()
            .iter()
            .filter_map(|task| node.read(&format!("/proc/{}/cmdline", task.pid)))
            .map(|line| line.trim_end_matches('\0').replace('\0', " "))
            .filter(|line| line.starts_with("sleep"))
            .collect();
        found.sort();
        if found == commands { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

#[test]
fn files_added_changed_and_removed_take_effect() {
    let mut node = Node::up("files");
    node.write("manifests/one.yaml", &manifest("one", 1001));
    node.garrison_alone(&node.path("manifests"));
    runs(&node, &["sleep 1001"]);
    node.write("manifests/two.yaml", &manifest("two", 2001));
    runs(&node, &["sleep 1001", "sleep 2001"]);
    node.write("manifests/one.yaml", &manifest("one", 1002));
    runs(&node, &["sleep 1002", "sleep 2001"]);

    // A file that cannot be read as a manifest takes nothing away, and neither does a folder that is gone.
    let before = node.tasks();
    node.write("manifests/one.yaml", "kind: [");
    node.write("manifests/three.yaml", &manifest("three", 3001));
    runs(&node, &["sleep 1002", "sleep 2001", "sleep 3001"]);
    fs::rename(node.path("manifests"), node.path("away")).unwrap();
    node.kill_garrison();
    node.garrison_alone(&node.path("manifests"));
    fs::rename(node.path("away"), node.path("manifests")).unwrap();
    runs(&node, &["sleep 1002", "sleep 2001", "sleep 3001"]);
    let after = node.tasks();
    assert!(before.iter().all(|task| after.contains(task)), "nothing was restarted: {before:?} {after:?}");

    node.write("manifests/one.yaml", &manifest("one", 1002));
    fs::remove_file(node.path("manifests/two.yaml")).unwrap();
    runs(&node, &["sleep 1002", "sleep 3001"]);
}

#[test]
fn after_a_power_cut_every_daemon_is_back_without_network() {
    let mut node = Node::up("power");
    for number in [1001, 2001, 3001] {
        node.write(&format!("manifests/{number}.yaml"), &manifest(&format!("daemon-{number}"), number));
    }
    let commands = ["sleep 1001", "sleep 2001", "sleep 3001"];
    node.garrison_alone(&node.path("manifests"));
    runs(&node, &commands);
    let pods = |node: &Node| {
        let output = node.inside("ls").arg("/var/lib/kubelet/pods").output().expect("ls can be run");
        String::from_utf8(output.stdout).expect("uids are text")
    };
    let before = pods(&node);

    node.cut_power();
    assert_eq!(node.tasks(), [], "nothing runs");
    assert!(node.fetch("http://127.0.0.1:5000/v2/").is_err(), "the registry is gone as well");
    // The agent is there before its runtime is.
    node.garrison_alone(&node.path("manifests"));
    node.start_containerd();
    runs(&node, &commands);
    assert_eq!(pods(&node), before, "they are the same pods");
}
