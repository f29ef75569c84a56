//! The agent without a control endpoint: a folder of manifests says what runs.

use std::fs;

use crate::harness::{Node, daemonset};
use crate::processes::{Process, path};

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

/// The uids of the pods that have a folder.
fn pods(node: &Node) -> String {
    node.shell("ls /var/lib/kubelet/pods")
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

#[test]
fn folders_that_have_moved_to_another_file_system_between_two_starts_are_the_same_folders() {
    let mut node = Node::up("moved");
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: word}\nstringData: {word: hidden}\n---\n";
    node.write("manifests/secret.yaml", secret);
    for number in [1001, 2001] {
        let daemon = manifest(&format!("daemon-{number}"), number);
        let volume = "      volumes: [{name: word, secret: {secretName: word}}]\n      containers:\n";
        let daemon = daemon.replace("      containers:\n", volume);
        let mount = "          volumeMounts: [{name: word, mountPath: /word}]\n---\n";
        node.write(&format!("manifests/{number}.yaml"), &daemon.replace("---\n", mount));
    }
    let commands = ["sleep 1001", "sleep 2001"];
    let mut agent = Process::alone(&node);
    agent.start(&node);
    runs(&node, &commands);
    let (before, state) = (pods(&node), path(&node, "agent"));

    // While the host was off; what was mounted is so no more. One is a link now, the other another mount.
    node.cut_power();
    node.shell(&format!(
        "for mount in $(cut -d' ' -f5 /proc/self/mountinfo | grep '^/var/lib/kubelet/' | sort -r); do umount $mount; done
         set -e
         mkdir /run/other && mount -t tmpfs tmpfs /run/other && mv /var/lib/kubelet {state} /run/other/
         ln -s /run/other/kubelet /var/lib/kubelet && mkdir {state} && mount --bind /run/other/agent {state}"
    ));
    let mut agent = Process::alone(&node);
    agent.start(&node);
    node.start_containerd();
    runs(&node, &commands);
    assert_eq!(pods(&node), before, "they are the same pods");

    // While the agent was away, and pods ran.
    let tasks = node.tasks();
    agent.kill(&node);
    node.shell(&format!("umount {state} && cp -a /run/other/agent/. {state}/ && rm -r /run/other/agent"));
    agent.start(&node);
    fs::remove_file(node.path("manifests/2001.yaml")).unwrap();
    runs(&node, &["sleep 1001"]);
    let now = node.tasks();
    assert!(now.iter().all(|task| tasks.contains(task)), "nothing was restarted: {tasks:?} {now:?}");
    fs::remove_file(node.path("manifests/1001.yaml")).unwrap();
    node.eventually("nothing is left of the pods", |node| {
        let mounted = node.shell("grep -c /run/other/kubelet/ /proc/self/mountinfo || true");
        let left = (pods(node), mounted.trim().to_owned(), node.tasks());
        if left == (String::new(), "0".to_owned(), vec![]) { Ok(()) } else { Err(format!("{left:?}")) }
    });
}
