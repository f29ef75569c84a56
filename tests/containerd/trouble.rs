//! Wrong input and trouble: a clear reason, other pods untouched.

use crate::harness::{Node, daemonset};

/// A DaemonSet of one busybox container, with these further lines in its pod spec and its container.
fn manifest(name: &str, image: &str, container: &str, pod: &str) -> String {
    let spec = format!(
        "      terminationGracePeriodSeconds: 1
{pod}      containers:
        - name: main
          image: {image}
          command: [sleep, '1000']
{container}"
    );
    daemonset(name, &spec)
}

#[test]
fn bad_manifests_are_refused_by_field_path() {
    let mut node = Node::up("refused");
    node.garrison_up();
    let refused = |content: String, parts: &[&str]| {
        let file = node.write("bad.yaml", &content);
        let said = node.kubectl_refused(&["apply", "-f", &file]);
        for part in parts {
            assert!(said.contains(part), "{part:?} is not in:\n{said}");
        }
    };
    let good = manifest("bad", "busybox:1.35", "", "");
    refused(
        good.replace("app: bad}}\n  template", "app: other}}\n  template"),
        &["spec.template.metadata.labels", "`selector` does not match template `labels`"],
    );
    refused(
        manifest("bad", "busybox:1.35", "", "      restartPolicy: Never\n"),
        &["spec.template.spec.restartPolicy: Unsupported value: \"Never\""],
    );
    refused(
        manifest("bad", "busybox:1.35", "          imaeg: x\n", ""),
        &["unknown field \"spec.template.spec.containers[0].imaeg\""],
    );
    refused(good.replace("spec:\n  selector", "spec:\n  minReadySeconds: soon\n  selector"), &["minReadySeconds"]);
    refused(
        good.replace(
            "spec:\n  selector",
            "spec:\n  updateStrategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 0}}\n  selector",
        ),
        &["cannot be 0 when maxSurge is 0"],
    );
    assert!(node.kubectl(&["get", "daemonsets"]).contains("No resources found"));
}

#[test]
fn a_pod_that_cannot_start_says_why_and_others_run() {
    let mut node = Node::up("trouble");
    node.garrison_up();
    let volume =
        |kind: &str| format!("      volumes: [{{name: v, hostPath: {{path: /etc/hostname, type: {kind}}}}}]\n");
    let mount = "          volumeMounts: [{name: v, mountPath: /v}]\n";
    let port = "          ports: [{containerPort: 80, hostPort: 8099}]\n";
    let manifests = [
        manifest("absent", "nowhere/absent:1", "", ""),
        manifest("wrong", "busybox:1.35", mount, &volume("Directory")),
        manifest("greedy", "busybox:1.35", "          resources: {requests: {cpu: '5000'}}\n", ""),
        manifest("first", "busybox:1.35", port, ""),
    ];
    node.apply(&manifests.concat());
    node.kubectl(&["rollout", "status", "daemonset/first", "--timeout=90s"]);
    node.apply(&manifest("second", "busybox:1.35", port, ""));

    node.sees(&["get", "pods", "-l", "app=absent"], &["0/1", "ImagePullBackOff"]);
    node.sees(&["describe", "pods", "-l", "app=absent"], &["Failed to pull image", "Pulling image"]);
    node.sees(
        &["describe", "pods", "-l", "app=wrong"],
        &["FailedMount", "hostPath type check failed: /etc/hostname is not a directory"],
    );
    node.sees(&["get", "pods", "-l", "app=greedy"], &["0/1", "OutOfcpu"]);
    node.sees(&["describe", "pods", "-l", "app=greedy"], &["Pending", "OutOfcpu", "requested: 5000000"]);
    node.sees(&["get", "pods", "-l", "app=second"], &["0/1", "NodePorts"]);
    node.sees(&["describe", "pods", "-l", "app=second"], &["8099/TCP is held by default/first-"]);

    // The port is free as soon as its holder is gone.
    node.kubectl(&["delete", "daemonset", "first"]);
    node.kubectl(&["rollout", "status", "daemonset/second", "--timeout=90s"]);
}
