//! Wrong input and trouble: a clear reason, other pods untouched.

use crate::harness::{Node, daemonset};
use crate::processes::Process;

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

/// A process that the kernel names as it names a kubelet, until this goes.
struct Kubelet<'a> {
    node: &'a Node,
    pid: u32,
}

impl<'a> Kubelet<'a> {
    fn start(node: &'a Node) -> Self {
        // The first thing a kubelet does for device plugins is to make their folder empty.
        let script = "cp \"$(readlink -f /bin/sh)\" /run/kubelet
            setsid /run/kubelet -c 'rm -f /var/lib/kubelet/device-plugins/*; while sleep 1000; do :; done' </dev/null >/dev/null 2>&1 & echo $!";
        let pid = node.shell(script).trim().parse().expect("a shell tells a pid");
        let kubelet = Self { node, pid };
        node.eventually("the kernel names it so", |_| {
            kubelet.name().filter(|name| name == "kubelet").ok_or("".to_owned())
        });
        kubelet
    }

    fn name(&self) -> Option<String> {
        self.node.read(&format!("/proc/{}/comm", self.pid)).map(|name| name.trim().to_owned())
    }
}

impl Drop for Kubelet<'_> {
    fn drop(&mut self) {
        self.node.kill(self.pid);
        self.node.eventually("it has ended", |_| self.name().map_or(Ok(()), Err));
    }
}

#[test]
fn beside_a_kubelet_no_agent_starts_and_one_that_runs_ends_and_leaves_its_pods() {
    let node = Node::up("kubelet");
    node.write("manifests/first.yaml", &manifest("first", "busybox:1.35", "", ""));
    let mut agent = Process::alone(&node);
    let refused = |agent: &mut Process, kubelet: &Kubelet<'_>| {
        let said = agent.fails(&node);
        let expected = format!("kubelet (pid {}) runs here and manages pods in the same places: stop it", kubelet.pid);
        assert!(said.contains(&expected), "{said}");
    };
    let runs = |pods: usize| {
        // Each has a sandbox, too.
        node.eventually("its pods run", |node| {
            let tasks = node.tasks();
            if tasks.len() == 2 * pods { Ok(tasks) } else { Err(format!("{tasks:?}")) }
        })
    };

    let kubelet = Kubelet::start(&node);
    agent.start(&node);
    refused(&mut agent, &kubelet);
    assert_eq!(node.tasks(), []);
    drop(kubelet);
    agent.start(&node);
    let before = runs(1);

    let kubelet = Kubelet::start(&node);
    refused(&mut agent, &kubelet);
    node.write("manifests/second.yaml", &manifest("second", "busybox:1.35", "", ""));
    drop(kubelet);
    agent.start(&node);
    let both = runs(2);
    assert!(before.iter().all(|task| both.contains(task)), "{before:?} {both:?}");
}
