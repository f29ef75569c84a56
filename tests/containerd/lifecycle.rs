//! The life of pods: seen from outside through kubectl, and from inside through a diary that containers keep on the host.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::harness::Node;

const CONDITIONS: &str = "jsonpath={.items[0].status.conditions}";

/// The folder on the host that every container here has at `/diary`.
struct Diary(PathBuf);

impl Diary {
    fn on(node: &Node) -> Self {
        let path = node.path("diary");
        fs::create_dir_all(&path).expect("the node's folder is writable");
        Self(path)
    }

    /// Writes a file that containers wait for.
    fn put(&self, name: &str) {
        fs::write(self.0.join(name), "").expect("the node's folder is writable");
    }

    fn entries(&self) -> Vec<String> {
        let log = fs::read_to_string(self.0.join("log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    /// Waits for an entry; answers with all until then.
    fn says(&self, node: &Node, entry: &str) -> Vec<String> {
        node.eventually(&format!("the diary says {entry}"), |_| {
            let entries = self.entries();
            if entries.iter().any(|other| other == entry) { Ok(entries) } else { Err(format!("{entries:?}")) }
        })
    }

    fn begin_anew(&self) {
        fs::remove_file(self.0.join("log")).expect("it was kept");
    }
}

/// A container that runs a script, with further fields.
fn container(name: &str, script: &str, fields: Value) -> Value {
    let mut container = json!({
        "name": name, "image": "busybox:1.35", "command": ["sh", "-c", script],
        "volumeMounts": [{ "name": "diary", "mountPath": "/diary" }],
    });
    let Value::Object(fields) = fields else { panic!("fields are an object") };
    container.as_object_mut().expect("it is one").extend(fields);
    container
}

/// One that stays until it is told to end, and notes both.
fn lasting(name: &str, fields: Value) -> Value {
    let noting = |what: &str| format!("echo {name}{what} >>/diary/log");
    let script = format!("trap '{}; exit 0' TERM; {}; while :; do sleep 0.1; done", noting("-ends"), noting(""));
    container(name, &script, fields)
}

fn command(script: &str) -> Value {
    json!({ "exec": { "command": ["sh", "-c", script] } })
}

/// Looks for a file every second; `threshold` failures in a row count.
fn probe(file: &str, threshold: u32) -> Value {
    let mut probe = command(&format!("cat /diary/{file}"));
    (probe["periodSeconds"], probe["failureThreshold"]) = (json!(1), json!(threshold));
    probe
}

fn apply(node: &Node, name: &str, init_containers: &[Value], containers: &[Value]) {
    let labels = json!({ "app": name });
    let diary = json!({ "name": "diary", "hostPath": { "path": node.path("diary") } });
    let manifest = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": { "name": name },
        "spec": { "selector": { "matchLabels": labels }, "template": { "metadata": { "labels": labels }, "spec": {
            "terminationGracePeriodSeconds": 15, "volumes": [diary],
            "initContainers": init_containers, "containers": containers,
        } } },
    });
    node.apply(&manifest.to_string());
}

/// The place of each entry, in this order.
fn places<const N: usize>(entries: &[String], wanted: [&str; N]) -> [usize; N] {
    wanted
        .map(|entry| entries.iter().position(|other| other == entry).unwrap_or_else(|| panic!("{entry}: {entries:?}")))
}

#[test]
fn a_pod_lives_from_its_first_init_container_to_its_last_sidecar() {
    let mut node = Node::up("life");
    let diary = Diary::on(&node);
    node.garrison_up();
    let waiting = "echo setup >>/diary/log; until [ -e /diary/go ]; do sleep 0.1; done; echo setup-ends >>/diary/log";
    let proxy = json!({ "restartPolicy": "Always", "startupProbe": probe("proxy-started", 60) });
    let hooks = json!({
        "postStart": command("sleep 1; echo main-greeted >>/diary/log"),
        "preStop": command("echo main-takes-leave >>/diary/log; sleep 2"),
    });
    let main = json!({ "lifecycle": hooks, "readinessProbe": probe("ready", 1) });
    let alive =
        json!({ "livenessProbe": probe("alive", 1), "lifecycle": { "postStart": command("touch /diary/alive") } });
    apply(
        &node,
        "life",
        &[container("setup", waiting, json!({})), lasting("proxy", proxy)],
        &[lasting("main", main), lasting("aux", alive)],
    );

    let pods = ["get", "pods", "--no-headers"];
    diary.says(&node, "setup");
    node.sees(&pods, &["0/3", "Init:0/2"]);
    diary.put("go");
    diary.says(&node, "proxy");
    node.sees(&pods, &["0/3", "Init:1/2"]);
    diary.put("proxy-started");
    let begun = diary.says(&node, "aux");
    assert_eq!(begun, ["setup", "setup-ends", "proxy", "main", "main-greeted", "aux"]);
    node.sees(&pods, &["2/3", "Running"]);
    node.sees(&["describe", "pods"], &["Readiness probe failed: cat: can't open '/diary/ready'"]);
    node.sees(&["get", "pods", "-o", CONDITIONS], &["ContainersNotReady"]);
    diary.put("ready");
    node.sees(&pods, &["3/3", "Running"]);
    let init = "jsonpath={.items[0].status.initContainerStatuses[*].state}";
    node.sees(&["get", "pods", "-o", init], &["\"reason\":\"Completed\"", "\"running\""]);

    // Nothing is begun again when garrison is.
    let tasks = node.tasks();
    node.kill_garrison();
    node.garrison_up();
    node.sees(&pods, &["3/3", "Running", " 0 "]);
    assert_eq!((node.tasks(), diary.entries()), (tasks, begun));

    fs::remove_file(diary.0.join("alive")).expect("it was made by the hook");
    node.sees(&["get", "events"], &["Killing", "Container aux failed liveness probe, will be restarted"]);
    node.sees(&pods, &["3/3", "Running", "1 ("]);
    diary.begin_anew();

    node.kubectl(&["delete", "daemonset", "life"]);
    let ended = diary.says(&node, "proxy-ends");
    let [leave, aux, main, proxy] = places(&ended, ["main-takes-leave", "aux-ends", "main-ends", "proxy-ends"]);
    assert!(leave < main && aux < main && main < proxy, "{ended:?}");
    node.sees(&pods, &["No resources found"]);
    node.sees(&["get", "events"], &["Stopping container main", "Stopping container proxy"]);
}

#[test]
fn what_fails_is_tried_again_ever_later_and_in_a_new_sandbox_from_its_beginning() {
    let mut node = Node::up("failing");
    let diary = Diary::on(&node);
    node.garrison_up();
    let failing = || container("main", "exit 3", json!({}));
    let greeted = json!({ "lifecycle": { "postStart": command("echo no; exit 4") } });
    apply(&node, "crash", &[], &[failing()]);
    apply(&node, "init", &[container("setup", "exit 5", json!({}))], &[failing()]);
    apply(&node, "hook", &[], &[lasting("main", greeted)]);
    node.sees(&["get", "pods", "-l", "app=crash", "--no-headers"], &["0/1", "CrashLoopBackOff", " 2 ("]);
    node.sees(
        &["describe", "pods", "-l", "app=crash"],
        &["Exit Code:    3", "Back-off restarting failed container main in pod crash-"],
    );
    node.sees(&["get", "pods", "-l", "app=init", "--no-headers"], &["0/1", "Init:CrashLoopBackOff"]);
    node.sees(&["describe", "pods", "-l", "app=init"], &["Exit Code:    5", "PodInitializing"]);
    node.sees(&["get", "pods", "-l", "app=init", "-o", CONDITIONS], &["ContainersNotInitialized"]);
    node.sees(&["describe", "pods", "-l", "app=hook"], &["FailedPostStartHook", "PostStartHook failed"]);
    for name in ["crash", "init", "hook"] {
        node.kubectl(&["delete", "daemonset", name]);
    }
    node.sees(&["get", "pods"], &["No resources found"]);

    apply(&node, "again", &[container("setup", "echo setup >>/diary/log", json!({}))], &[lasting("main", json!({}))]);
    diary.says(&node, "main");
    node.sees(&["get", "pods", "--no-headers"], &["1/1", "Running", " 0 "]);
    diary.begin_anew();
    let tasks = node.tasks();
    let is_sandbox = |pid: u32| node.read(&format!("/proc/{pid}/cmdline")).is_some_and(|line| line.contains("pause"));
    let sandbox = tasks.iter().find(|task| is_sandbox(task.pid)).expect("the pod has a sandbox");
    node.kill(sandbox.pid);
    assert_eq!(diary.says(&node, "main"), ["main-ends", "setup", "main"]);
    node.sees(&["get", "pods", "--no-headers"], &["1/1", "Running", "1 ("]);
    node.sees(&["get", "events"], &["SandboxChanged"]);
}

#[test]
fn a_daemonsets_pod_that_comes_to_its_end_makes_way_for_another() {
    let mut node = Node::up("finished");
    let diary = Diary::on(&node);
    node.garrison_up();
    let once = |script: &str| container("main", script, json!({ "restartPolicy": "Never" }));
    apply(&node, "good", &[], &[once("[ -e /diary/good ] && exec sleep 1000; touch /diary/good; sleep 2")]);
    node.kubectl(&["rollout", "status", "daemonset/good", "--timeout=90s"]);
    let name = ["get", "pods", "-l", "app=good", "-o", "jsonpath={.items[*].metadata.name}"];
    let first = node.kubectl(&name);
    node.sees(
        &["get", "events"],
        &["SucceededDaemonPod", &format!("Found succeeded daemon pod default/{}", first.trim())],
    );
    node.kubectl(&["rollout", "status", "daemonset/good", "--timeout=90s"]);
    assert_ne!(node.kubectl(&name), first);

    apply(&node, "bad", &[], &[once("echo bad >>/diary/log; exit 1")]);
    node.eventually("the pod is replaced twice", |_| {
        let entries = diary.entries();
        if entries.len() >= 3 { Ok(()) } else { Err(format!("{entries:?}")) }
    });
    node.sees(&["get", "events"], &["FailedDaemonPod", "will try to kill it"]);
}
