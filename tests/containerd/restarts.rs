//! Nothing stops a daemon: garrison and containerd die and come back, the containers stay.

use crate::harness::Node;

const EXPORTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/node-exporter.yaml");

#[test]
fn a_killed_garrison_finds_its_pods_again_and_restarts_none() {
    let mut node = Node::up("killed");
    node.garrison_up();
    node.kubectl(&["apply", "-f", EXPORTER]);
    node.kubectl(&["rollout", "status", "daemonset/node-exporter", "--timeout=90s"]);
    let (pods, tasks) = (node.kubectl(&["get", "pods", "-o", "name"]), node.tasks());
    assert_eq!(tasks.len(), 2, "one sandbox and one container: {tasks:?}");

    for _ in 0..3 {
        node.kill_garrison();
        assert_eq!(node.tasks(), tasks, "the pod runs on without garrison");
        node.garrison_up();
        node.kubectl(&["rollout", "status", "daemonset/node-exporter", "--timeout=90s"]);
        assert_eq!(node.kubectl(&["get", "pods", "-o", "name"]), pods);
        node.sees(&["get", "pods"], &["1/1", "Running", " 0 "]);
        assert_eq!(node.tasks(), tasks);
    }
}

#[test]
fn a_dead_containerd_makes_the_node_not_ready_and_costs_no_pod() {
    let mut node = Node::up("runtime");
    node.garrison_up();
    node.kubectl(&["apply", "-f", EXPORTER]);
    node.kubectl(&["rollout", "status", "daemonset/node-exporter", "--timeout=90s"]);
    let pods = node.kubectl(&["get", "pods", "-o", "name"]);
    let tasks = node.tasks();

    node.kill_containerd();
    node.sees(&["get", "nodes"], &["NotReady"]);
    node.sees(&["describe", "node"], &["container runtime is down"]);
    node.start_containerd();
    node.is_ready();
    assert_eq!(node.tasks(), tasks);
    assert_eq!(node.kubectl(&["get", "pods", "-o", "name"]), pods);
}

#[test]
fn a_container_that_ends_is_started_again() {
    let mut node = Node::up("crash");
    node.garrison_up();
    node.kubectl(&["apply", "-f", EXPORTER]);
    node.kubectl(&["rollout", "status", "daemonset/node-exporter", "--timeout=90s"]);
    let before = node.tasks();
    let pod = node.kubectl(&["get", "pods", "-o", "jsonpath={.items[0].status.containerStatuses[0].containerID}"]);
    let id = pod.trim().trim_start_matches("containerd://").to_owned();
    let task = before.iter().find(|task| task.container == id).expect("the container's task");
    node.kill(task.pid);
    node.sees(&["get", "pods", "--no-headers"], &["1/1", "Running", "1 ("]);
    let last = "jsonpath={.items[0].status.containerStatuses[0].lastState.terminated.exitCode}";
    assert_eq!(node.kubectl(&["get", "pods", "-o", last]).trim(), "137");
}
