//! The main job: DaemonSets applied with kubectl run where they belong.

use crate::harness::Node;

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");

#[test]
fn the_three_examples_run_as_they_stand() {
    let mut node = Node::up("examples");
    node.garrison_up();
    let said = node.kubectl(&[
        "apply",
        "-f",
        &format!("{EXAMPLES}/fluentd.yaml,{EXAMPLES}/gpu-monitor.yaml,{EXAMPLES}/node-exporter.yaml"),
    ]);
    for name in ["fluentd", "gpu-monitor", "node-exporter"] {
        assert!(said.contains(&format!("daemonset.apps/{name} created")), "{said}");
    }
    node.kubectl(&["rollout", "status", "daemonset/node-exporter", "--timeout=90s"]);
    node.kubectl(&["rollout", "status", "daemonset/fluentd", "-n", "kube-system", "--timeout=90s"]);

    // The hostPort serves real metrics, and the log is what the container wrote.
    let metrics = node.eventually("the node exporter answers", |node| node.fetch("http://127.0.0.1:9100/metrics"));
    assert!(metrics.contains("node_cpu_seconds_total"), "{metrics}");
    node.sees(&["logs", "daemonset/node-exporter"], &["9100"]);

    let sets = node.kubectl(&["get", "daemonsets", "-A"]);
    let header: Vec<_> = sets.lines().next().expect("a header").split_whitespace().collect();
    assert_eq!(header.join(" "), "NAMESPACE NAME DESIRED CURRENT READY UP-TO-DATE AVAILABLE NODE SELECTOR AGE",);
    node.sees(&["get", "daemonset", "gpu-monitor", "--no-headers"], &["gpu=true"]);
    assert!(node.kubectl(&["get", "pods", "-l", "app=gpu-monitor"]).contains("No resources found"));

    let pods = node.kubectl(&["get", "pods", "-n", "kube-system", "-l", "app=fluentd", "-o", "wide"]);
    assert!(pods.contains("1/1") && pods.contains("Running") && pods.contains("gt-examples"), "{pods}");
    let described = node.kubectl(&["describe", "daemonset", "fluentd", "-n", "kube-system"]);
    for line in ["Desired Number of Nodes Scheduled: 1", "Pods Status:  1 Running / 0 Waiting / 0 Succeeded / 0 Failed"]
    {
        assert!(described.contains(line), "{described}");
    }

    // The grace period is the container's to use; then the pods are gone, and so is the object.
    node.kubectl(&["delete", "daemonset", "fluentd", "-n", "kube-system"]);
    node.sees(&["get", "pods", "-n", "kube-system"], &["No resources found"]);
    assert!(node.kubectl_refused(&["get", "daemonset", "fluentd", "-n", "kube-system"]).contains("NotFound"));
}

#[test]
fn labels_and_taints_decide_where_a_pod_runs() {
    let mut node = Node::up("labels");
    node.garrison_up();
    node.kubectl(&["apply", "-f", EXAMPLES]);
    node.sees(&["get", "pods", "-A", "--no-headers"], &["node-exporter-", "fluentd-"]);

    node.kubectl(&["label", "node", "gt-labels", "gpu=true"]);
    node.kubectl(&["rollout", "status", "daemonset/gpu-monitor", "--timeout=90s"]);
    node.sees(&["get", "pods", "-l", "app=gpu-monitor"], &["1/1", "Running"]);
    node.kubectl(&["label", "node", "gt-labels", "gpu-"]);
    node.sees(&["get", "pods", "-l", "app=gpu-monitor"], &["No resources found"]);

    // node-exporter tolerates the control plane's taint, fluentd does not.
    node.kubectl(&["taint", "node", "gt-labels", "node-role.kubernetes.io/control-plane:NoSchedule"]);
    node.kubectl(&["delete", "pods", "--all", "-A", "--wait=false"]);
    node.sees(&["get", "pods", "-n", "kube-system"], &["No resources found"]);
    node.sees(&["get", "pods", "-l", "app=node-exporter"], &["1/1", "Running"]);
    node.kubectl(&["taint", "node", "gt-labels", "node-role.kubernetes.io/control-plane:NoSchedule-"]);
    node.sees(&["get", "pods", "-n", "kube-system"], &["1/1", "Running"]);

    node.kubectl(&["taint", "node", "gt-labels", "maintenance=now:NoExecute"]);
    node.sees(&["get", "pods", "-A"], &["No resources found"]);
}

#[test]
fn a_changed_template_replaces_the_pod() {
    let mut node = Node::up("update");
    node.garrison_up();
    node.kubectl(&["apply", "-f", &format!("{EXAMPLES}/node-exporter.yaml")]);
    node.kubectl(&["rollout", "status", "daemonset/node-exporter", "--timeout=90s"]);
    let name = ["get", "pods", "-l", "app=node-exporter", "-o", "name"];
    let before = node.kubectl(&name);
    node.kubectl(&["set", "env", "daemonset/node-exporter", "STAGE=two"]);
    node.kubectl(&["rollout", "status", "daemonset/node-exporter", "--timeout=90s"]);
    let after = node.kubectl(&name);
    assert_eq!((before.lines().count(), after.lines().count()), (1, 1), "{before}{after}");
    assert_ne!(before, after);
    assert_eq!(node.kubectl(&["rollout", "history", "daemonset/node-exporter"]).matches("<none>").count(), 2);
}
