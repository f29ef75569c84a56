//! Disks that take nothing any more: what runs goes on, deletions still count, and all heals when the disk does.

use crate::harness::Node;
use crate::processes::{Process, control_and_agent, path, sleeper};

/// Runs a script inside the node with the path of one of its folders as `$1`.
fn on_disk(node: &Node, script: &str, folder: &str) {
    let output = node.inside("sh").args(["-c", script, "sh", &path(node, folder)]).output().expect("sh can be run");
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

const MOUNT_SMALL: &str = "mkdir -p \"$1\" && mount -t tmpfs -o size=8m,mode=700 tmpfs \"$1\"";
const MAKE_EXT4: &str = "truncate -s 16M \"$1.img\" && mkfs.ext4 -q -m0 \"$1.img\" && mkdir -p \"$1\"";
const MOUNT_EXT4: &str = "mount -o loop \"$1.img\" \"$1\"";
/// Takes all that is left, to the last block.
const FILL: &str = "! cat /dev/zero >\"$1/filler\" 2>/dev/null";
const EMPTY: &str = "rm \"$1/filler\"";

const NODE_WITH_A_POD: &str = "apiVersion: v1
kind: Node
metadata: {name: nobody}
---
apiVersion: v1
kind: Pod
metadata: {name: leaving, annotations: {note: NOTE}}
spec: {nodeName: nobody, containers: [{name: main, image: 'busybox:1.35'}]}
";

/// Waits until a DaemonSet has one pod that runs.
fn runs(node: &Node, name: &str) {
    node.sees(&["get", "pods", "-l", &format!("app={name}"), "--no-headers"], &["1/1", "Running"]);
}

/// Has the DaemonSets `steady` and `leaving` run on an agent whose folder lies on a disk that `scripts` make; the agent.
fn two_daemons(node: &Node, scripts: &[&str]) -> Process {
    scripts.iter().for_each(|script| on_disk(node, script, "agent"));
    let (_control, agent) = control_and_agent(node);
    for name in ["steady", "leaving"] {
        node.apply(&sleeper(name, "one"));
        runs(node, name);
    }
    agent
}

fn agent_says(node: &Node, part: &str) {
    node.eventually(&format!("the agent says {part:?}"), |node| {
        let mut status = node.inside(env!("CARGO_BIN_EXE_garrison"));
        let output = status.args(["status", "--state-dir"]).arg(node.path("agent")).output();
        let output = output.expect("the binary under test starts");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if said.contains(part) { Ok(()) } else { Err(said) }
    });
}

#[test]
fn a_full_disk_keeps_no_deletion_out_and_is_got_over_when_there_is_room_again() {
    let node = Node::up("full");
    let mut agent = two_daemons(&node, &[MOUNT_SMALL]);
    let before = node.tasks();

    on_disk(&node, FILL, "agent");
    node.kubectl(&["delete", "daemonset", "leaving"]);
    node.eventually("the deleted DaemonSet's pod is gone", |node| {
        let tasks = node.tasks();
        if tasks.len() == 2 { Ok(()) } else { Err(format!("{tasks:?}")) }
    });
    // Larger than what the deletion makes room for.
    node.apply(&sleeper("coming", &"x".repeat(60_000)));
    agent_says(&node, "its ledger cannot be written");
    node.sees(&["describe", "node"], &["LedgerUnwritable", "No space left on device"]);
    let tasks = node.tasks();
    assert!(tasks.len() == 2 && tasks.iter().all(|task| before.contains(task)), "{before:?} {tasks:?}");
    // A new agent finds what the full disk holds.
    agent.kill(&node);
    agent.start(&node);
    agent_says(&node, ", in session");
    agent_says(&node, "its ledger cannot be written");

    on_disk(&node, EMPTY, "agent");
    runs(&node, "coming");
    node.eventually("the node says so no more", |node| {
        let conditions = node.kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].status.conditions[*].type}"]);
        if conditions.contains("LedgerUnwritable") { Err(conditions) } else { Ok(()) }
    });
    assert!(tasks.iter().all(|task| node.tasks().contains(task)), "the other pod ran through all of it");
}

#[test]
fn a_full_disk_of_control_refuses_changes_and_loses_none_that_it_acknowledged() {
    let node = Node::up("fullstore");
    on_disk(&node, MOUNT_SMALL, "state");
    let mut control = Process::control(&node);
    control.start(&node);
    node.sees(&["get", "namespaces"], &["default"]);
    node.kubectl(&["create", "configmap", "kept", "--from-literal=a=b"]);
    node.kubectl(&["create", "configmap", "leaving", "--from-literal=a=b"]);
    node.kubectl(&["create", "namespace", "leaving"]);
    // Nobody is this node: its pod has to be marked, which takes as much again, and waits.
    node.apply(&NODE_WITH_A_POD.replace("NOTE", &"x".repeat(100_000)));

    on_disk(&node, FILL, "state");
    let mut refused = Vec::new();
    // What the store's file has left takes some of the smaller ones, and none in the end.
    for (size, bytes) in [("large", 700_000), ("small", 60_000)] {
        let file = node.write(size, &"x".repeat(bytes));
        let mut names = (0..100).map(|number| format!("{size}-{number}"));
        let said = names.find_map(|name| {
            let said = node.try_kubectl(&["create", "configmap", &name, &format!("--from-file={file}")]).err()?;
            refused.push(name);
            Some(said)
        });
        let said = said.expect("the disk is full");
        assert!(said.contains("No space left on device"), "{said}");
    }
    assert!(node.kubectl(&["get", "configmaps"]).contains("kept"), "reading goes on");
    for what in ["pod/leaving", "namespace/leaving", "configmap/leaving"] {
        node.kubectl(&["delete", what, "--wait=false"]);
    }
    let marked = "jsonpath={.items[*].metadata.deletionGracePeriodSeconds}";
    assert_eq!(node.kubectl(&["get", "pods", "-o", marked]), "30");

    on_disk(&node, EMPTY, "state");
    node.kubectl(&["create", "configmap", "after", "--from-literal=a=b"]);
    let before = node.kubectl(&["get", "configmaps", "-o", "name"]);
    for name in &refused {
        assert!(!before.lines().any(|line| line == format!("configmap/{name}")), "{name} was refused, and is there");
    }
    control.kill(&node);
    control.start(&node);
    node.sees(&["get", "configmaps", "after"], &["after"]);
    assert_eq!(node.kubectl(&["get", "pods", "-o", marked]), "30");
    assert_eq!(node.kubectl(&["get", "configmaps", "-o", "name"]), before);
}

#[test]
fn a_disk_that_turns_read_only_stops_nothing_and_costs_nothing_once_it_is_repaired() {
    let node = Node::up("readonly");
    let mut agent = two_daemons(&node, &[MAKE_EXT4, "mount -o loop,errors=remount-ro \"$1.img\" \"$1\""]);
    let before = node.tasks();

    // What the kernel does by itself when it finds the file system damaged.
    on_disk(&node, "mount -o remount,abort \"$1\"; ! touch \"$1/file\" 2>/dev/null", "agent");
    node.kubectl(&["delete", "daemonset", "leaving"]);
    agent_says(&node, "its ledger cannot be written");
    node.sees(&["describe", "node"], &["LedgerUnwritable", "Read-only file system"]);
    assert_eq!(node.tasks(), before, "what is not on disk is not done");

    agent.kill(&node);
    on_disk(&node, "umount \"$1\" && { e2fsck -p \"$1.img\" >/dev/null || [ $? = 1 ]; }", "agent");
    on_disk(&node, MOUNT_EXT4, "agent");
    agent.start(&node);
    node.eventually("the deleted DaemonSet's pod is gone", |node| {
        let tasks = node.tasks();
        let kept = tasks.iter().all(|task| before.contains(task));
        if tasks.len() == 2 && kept { Ok(()) } else { Err(format!("{tasks:?}")) }
    });
}

/// A file system that takes no write until this goes.
struct Frozen<'a>(&'a Node, &'static str);

impl<'a> Frozen<'a> {
    fn new(node: &'a Node, folder: &'static str) -> Self {
        on_disk(node, "fsfreeze -f \"$1\"", folder);
        Self(node, folder)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        on_disk(self.0, "fsfreeze -u \"$1\"", self.1);
    }
}

#[test]
fn a_disk_that_hangs_holds_up_what_is_new_and_nothing_that_runs() {
    let node = Node::up("frozen");
    two_daemons(&node, &[MAKE_EXT4, MOUNT_EXT4]);
    let ids = "jsonpath={.items[*].status.containerStatuses[*].containerID}";
    let id = node.kubectl(&["get", "pods", "-l", "app=steady", "-o", ids]);
    let before = node.tasks();
    let steady = before.iter().find(|task| id.contains(&task.container)).expect("the container's task");

    let frozen = Frozen::new(&node, "agent");
    node.kubectl(&["delete", "daemonset", "leaving"]);
    node.sees(&["get", "events"], &["LedgerUnwritable", "the disk has not taken it for 10s"]);
    node.sees(
        &["describe", "node"],
        &["LedgerUnwritable", "until the ledger can be written: the disk has not taken it"],
    );
    node.kill(steady.pid);
    node.eventually("the container that has ended was started again", |node| {
        let tasks = node.tasks();
        let others = before.iter().filter(|task| *task != steady).all(|task| tasks.contains(task));
        if tasks.len() == 4 && others { Ok(()) } else { Err(format!("{before:?} {tasks:?}")) }
    });

    drop(frozen);
    node.eventually("the deleted DaemonSet's pod is gone", |node| {
        let tasks = node.tasks();
        if tasks.len() == 2 { Ok(()) } else { Err(format!("{tasks:?}")) }
    });
    node.sees(&["get", "events"], &["LedgerWritable"]);
    node.sees(&["get", "pods", "-l", "app=steady", "--no-headers"], &["1/1", "Running", "1 ("]);
}
