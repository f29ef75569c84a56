//! Single pods: posted to a node, with a token of their account, debugged, changed and evicted.

use crate::harness::Node;

const STAYS: &str = "apiVersion: apps/v1
kind: DaemonSet
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
        - name: main
          image: busybox:1.35
          command: [sleep, '1000']
          volumeMounts: [{name: self, mountPath: /self}]
      volumes:
        - name: self
          downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}
";

/// A pod for this node whose container runs `script`; `container` are further lines of it.
fn pod(name: &str, node: &str, script: &str, container: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{run: {name}}}}}
spec:
  nodeName: {node}
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers:
    - name: main
      image: busybox:1.35
      command: [sh, -c, '{script}']
{container}---
"
    )
}

#[test]
fn a_posted_pod_runs_once_and_is_deleted() {
    let mut node = Node::up("posted");
    node.garrison_up();
    let container = "      env: [{name: PASSWORD, valueFrom: {secretKeyRef: {name: app, key: password}}}]\n";
    node.apply(&pod("probe", "gt-posted", "echo got $PASSWORD; exit 0", container));
    // It waits for what it names, as any other.
    node.sees(&["get", "pod", "probe", "--no-headers"], &["0/1", "CreateContainerConfigError"]);
    node.kubectl(&["create", "secret", "generic", "app", "--from-literal=password=hunter2"]);
    node.sees(&["get", "pod", "probe", "--no-headers"], &["0/1", "Completed"]);
    assert_eq!(node.kubectl(&["logs", "probe"]), "got hunter2\n");
    let phase = ["get", "pod", "probe", "-o", "jsonpath={.status.phase} {.status.qosClass}"];
    assert_eq!(node.kubectl(&phase), "Succeeded BestEffort");

    // It does not come back with another agent, and goes when it is deleted.
    node.kill_garrison();
    node.garrison_up();
    node.is_ready();
    assert_eq!(node.kubectl(&["logs", "probe"]), "got hunter2\n");
    node.kubectl(&["delete", "pod", "probe", "--timeout=60s"]);
    node.eventually("nothing of it is left", |node| {
        if node.tasks().is_empty() { Ok(()) } else { Err(format!("{:?}", node.tasks())) }
    });

    let homeless = node.write("homeless.yaml", &pod("homeless", "''", "true", ""));
    let said = node.kubectl_refused(&["create", "-f", &homeless]);
    assert!(said.contains("there is no scheduler: spec.nodeName must say which node is to run it"), "{said}");
    let overrides = r#"{"spec":{"nodeName":"gt-posted"}}"#;
    node.kubectl(&[
        "run",
        "once",
        "--image=busybox:1.35",
        "--restart=Never",
        "--overrides",
        overrides,
        "--",
        "sh",
        "-c",
        "exit 3",
    ]);
    node.sees(&["get", "pod", "once", "--no-headers"], &["0/1", "Error"]);
}

#[test]
fn a_pod_knows_who_it_is_for_the_api() {
    let mut node = Node::up("account");
    node.garrison_up();
    node.kubectl(&["create", "serviceaccount", "reader"]);
    node.kubectl(&["create", "rolebinding", "reader", "--clusterrole=view", "--serviceaccount=default:reader"]);
    let text = pod("probe", "gt-account", "sleep 1000", "  serviceAccountName: reader\n");
    node.apply(&text);
    node.sees(&["get", "pod", "probe", "--no-headers"], &["1/1", "Running"]);
    let (pid, dir, token) = node.eventually("the pod has a token", |node| {
        let token = |pid| {
            let dir = format!("/proc/{pid}/root/var/run/secrets/kubernetes.io/serviceaccount");
            node.read(&format!("{dir}/token")).map(|token| (pid, dir, token))
        };
        node.tasks().iter().find_map(|task| token(task.pid)).ok_or_else(|| "not yet".to_owned())
    });
    assert_eq!(node.read(&format!("{dir}/namespace")).as_deref(), Some("default"));
    let told =
        node.kubectl(&["exec", "probe", "--", "sh", "-c", "echo $KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT"]);
    let (ca, bearer) = (format!("{dir}/ca.crt"), format!("Authorization: Bearer {token}"));
    let asked = |path: &str| {
        let url = format!("https://{}/api/v1/namespaces/default/{path}", told.trim());
        // From the pod's own network.
        let mut curl = node.inside("nsenter");
        curl.args(["--net", "--target", &pid.to_string(), "curl"]);
        let output = curl.args(["-sS", "--max-time", "5", "--cacert", &ca, "-H", &bearer, &url]).output();
        String::from_utf8(output.expect("curl is installed").stdout).expect("JSON is UTF-8")
    };
    let answer = asked("pods/probe");
    assert!(answer.contains("\"kind\":\"Pod\"") && answer.contains("\"serviceAccountName\":\"reader\""), "{answer}");
    let refused = "User \\\"system:serviceaccount:default:reader\\\" cannot list resource \\\"secrets\\\"";
    let answer = asked("secrets");
    assert!(answer.contains(refused), "{answer}");
    // The token is bound to the pod.
    node.kubectl(&["delete", "pod", "probe", "--timeout=60s"]);
    let review = format!(
        "{{\"apiVersion\":\"authentication.k8s.io/v1\",\"kind\":\"TokenReview\",\"spec\":{{\"token\":\"{token}\"}}}}"
    );
    let review = node.write("review.json", &review);
    let reviewed = node.kubectl(&["create", "-f", &review, "-o", "jsonpath={.status}"]);
    assert!(reviewed.contains("error") && !reviewed.contains("reader"), "{reviewed}");
}

#[test]
fn a_pod_is_looked_into_changed_and_evicted() {
    let mut node = Node::up("debug");
    node.garrison_up();
    node.apply(STAYS);
    node.kubectl(&["rollout", "status", "daemonset/web", "--timeout=90s"]);
    let name = node.kubectl(&["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].metadata.name}"]);
    let tasks = node.tasks();

    node.kubectl(&["label", "pod", &name, "color=blue"]);
    node.eventually("the pod reads its new label", |node| {
        let web = tasks.iter().find_map(|task| node.read(&format!("/proc/{}/root/self/labels", task.pid)));
        web.filter(|labels| labels.contains("color=\"blue\"")).ok_or_else(|| "not yet".to_owned())
    });
    node.kubectl(&[
        "debug",
        &name,
        "--image=busybox:1.35",
        "--container=look",
        "--target=main",
        "--profile=general",
        "--",
        "sh",
        "-c",
        "echo looked at $(tr \"\\0\" \" \" </proc/1/cmdline)",
    ]);
    node.sees(&["logs", &name, "-c", "look"], &["looked at sleep 1000"]);
    assert!(tasks.iter().all(|task| node.tasks().contains(task)), "nothing was restarted");

    // The host itself is looked into by a pod that is posted to it.
    let said = node.kubectl(&[
        "debug",
        "node/gt-debug",
        "--image=busybox:1.35",
        "--profile=general",
        "--",
        "ls",
        "-d",
        "/host/etc",
    ]);
    assert!(said.contains("node-debugger-gt-debug-"), "{said}");
    let debugger = node.eventually("the debugging pod has ended", |node| {
        let pods = node.kubectl(&["get", "pods", "--no-headers"]);
        let line = pods.lines().find(|line| line.starts_with("node-debugger-") && line.contains("Completed"));
        line.and_then(|line| line.split_whitespace().next()).map(str::to_owned).ok_or(pods)
    });
    assert_eq!(node.kubectl(&["logs", &debugger]), "/host/etc\n");

    let eviction = format!(
        "{{\"apiVersion\":\"policy/v1\",\"kind\":\"Eviction\",\"metadata\":{{\"name\":\"{name}\",\"namespace\":\"default\"}}}}"
    );
    let eviction = node.write("eviction.json", &eviction);
    let path = format!("/api/v1/namespaces/default/pods/{name}/eviction");
    node.kubectl(&["create", "--raw", &path, "-f", &eviction]);
    node.eventually("another pod has its place", |node| {
        let pods = node.kubectl(&["get", "pods", "-l", "app=web", "--no-headers"]);
        if pods.contains("Running") && !pods.contains(&name) { Ok(()) } else { Err(pods) }
    });
}
