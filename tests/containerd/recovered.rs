//! Control's store is lost, and made anew from what its nodes hold.

use std::process::Command;

use crate::harness::{Node, daemonset};
use crate::processes::control_and_agent;

/// A DaemonSet whose revision is told apart by `value`, with configuration of both kinds.
fn manifest(value: &str) -> String {
    let spec = format!(
        "      terminationGracePeriodSeconds: 0
      containers:
        - name: main
          image: busybox:1.35
          command: [sleep, '100000']
          env: [{{name: VALUE, value: '{value}'}}]
          envFrom: [{{configMapRef: {{name: settings}}}}, {{secretRef: {{name: keys}}}}]
"
    );
    daemonset("web", &spec)
}

fn recover(node: &Node, args: &[&str]) -> String {
    let mut command = node.inside(env!("CARGO_BIN_EXE_garrison"));
    command.args(["control", "recover", "--kubeconfig"]).arg(node.path("state/admin.kubeconfig")).args(args);
    let output = command.output().expect("the binary under test starts");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What people see of the DaemonSet, without what counts time or versions.
fn seen(node: &Node) -> String {
    let spec = "{.metadata.uid} {.metadata.generation} {.metadata.annotations} {.spec}";
    let status = "{.status.desiredNumberScheduled} {.status.numberAvailable} {.status.updatedNumberScheduled}";
    node.kubectl(&["get", "daemonset", "web", "-o", &format!("jsonpath={spec} {status}")])
}

#[test]
fn a_store_that_is_lost_is_rebuilt_from_what_nodes_hold_and_no_container_ends() {
    let node = Node::up("recovered");
    let (mut control, _agent) = control_and_agent(&node);
    node.kubectl(&["create", "configmap", "settings", "--from-literal=level=debug"]);
    node.kubectl(&["create", "secret", "generic", "keys", "--from-literal=password=hunter2"]);
    node.apply(&manifest("one"));
    node.kubectl(&["rollout", "status", "daemonset/web", "--timeout=90s"]);
    node.apply(&manifest("two"));
    node.kubectl(&["rollout", "status", "daemonset/web", "--timeout=90s"]);
    let (tasks, before) = (node.tasks(), seen(&node));

    control.kill(&node);
    for lost in ["store", "admin.kubeconfig", "join.token"] {
        let removed = Command::new("rm").arg("-r").arg(node.path("state").join(lost)).status();
        assert!(removed.expect("rm can be run").success(), "{lost}");
    }
    control.start(&node);
    node.sees(&["get", "namespaces"], &["default"]);
    assert!(!node.kubectl(&["get", "daemonsets"]).contains("web"), "the store is lost");
    let shown = node.eventually("the node has told", |node| {
        let shown = recover(node, &[]);
        if shown.contains("--confirm") && !shown.contains("yet to tell") { Ok(shown) } else { Err(shown) }
    });
    for found in ["DaemonSet  default/web", "ConfigMap  default/settings", "Secret     default/keys"] {
        assert!(shown.contains(found), "{shown}");
    }
    assert!(!shown.contains("hunter2") && !shown.contains("left out"), "{shown}");
    assert_eq!(node.tasks(), tasks);

    let number = shown.trim_end().rsplit(' ').next().expect("the last word of all is the number");
    assert!(recover(&node, &["--confirm", number]).contains("3 objects and 1 nodes are here again"));
    node.is_ready();
    node.eventually("the DaemonSet is as before", |node| {
        let after = seen(node);
        if after == before { Ok(()) } else { Err(format!("{after}\nbefore: {before}")) }
    });
    assert_eq!(node.kubectl(&["get", "secret", "keys", "-o", "jsonpath={.data.password}"]), "aHVudGVyMg==");
    assert_eq!(node.tasks(), tasks, "no container ended");

    node.apply(&manifest("three"));
    node.kubectl(&["rollout", "status", "daemonset/web", "--timeout=90s"]);
    assert_ne!(node.tasks(), tasks, "a rollout works again");
}
