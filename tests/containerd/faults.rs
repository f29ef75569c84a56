//! Whatever dies while people work on it, daemons run on and nothing that was acknowledged is lost.
//!
//! Agent, control and containerd are processes of their own here and are killed in turn, for as long as
//! `GARRISON_SOAK_SECS` says (`make soak` for ten minutes), while kubectl changes one thing after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use crate::harness::{Node, Task};
use crate::leaks::Traces;
use crate::processes::{control_and_agent, sleeper, soak};

/// DaemonSets that nobody changes: their containers have to be the same at the end.
const STEADY: [&str; 3] = ["steady-0", "steady-1", "steady-2"];

/// What users asked for, by what it is about.
#[derive(Debug, Default)]
struct Asked(BTreeMap<&'static str, Values>);

/// The values that may be found of one thing: the one acknowledged last, and those asked for since of which nobody knows
/// whether they were taken. `None` stands for its absence.
#[derive(Debug, Default)]
struct Values(BTreeSet<Option<String>>);

impl Asked {
    fn note(&mut self, what: &'static str, value: Option<String>, acknowledged: bool) {
        let Values(values) = self.0.entry(what).or_insert_with(|| Values([None].into()));
        if acknowledged {
            values.clear();
        }
        values.insert(value);
    }
}

/// Users at work, until told to stop.
struct Users<'a> {
    node: &'a Node,
    asked: Mutex<Asked>,
    /// ConfigMaps that were acknowledged, each made once.
    kept: Mutex<Vec<String>>,
    attempts: AtomicUsize,
    acknowledged: AtomicUsize,
    stop: AtomicBool,
}

impl<'a> Users<'a> {
    fn new(node: &'a Node) -> Self {
        let (attempts, acknowledged) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (asked, kept) = (Mutex::default(), Mutex::default());
        Self { node, asked, kept, attempts, acknowledged, stop: AtomicBool::new(false) }
    }

    fn work(&self) {
        for round in 0.. {
            let value = round.to_string();
            let kept = format!("kept-{round}");
            if self.try_kubectl(&["create", "configmap", &kept, "--from-literal=a=b"]) {
                self.kept.lock().expect("users do not panic").push(kept);
            }
            let label = format!("round={value}");
            self.set("label", Some(&value), &["label", "--overwrite", "node", "--all", &label]);
            self.apply("settings", &value, &settings(&value));
            if round % 3 == 0 {
                self.apply("changing", &value, &sleeper("changing", &value));
            }
            if round % 4 == 1 {
                self.apply("passing", "there", &sleeper("passing", "there"));
            } else if round % 4 == 3 {
                self.set("passing", None, &["delete", "daemonset", "passing", "--ignore-not-found", "--wait=false"]);
            }
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    fn apply(&self, what: &'static str, value: &str, manifest: &str) {
        let file = self.node.write(&format!("{what}.yaml"), manifest);
        self.set(what, Some(value), &["apply", "-f", &file]);
    }

    fn set(&self, what: &'static str, value: Option<&str>, args: &[&str]) {
        let acknowledged = self.try_kubectl(args);
        self.asked.lock().expect("users do not panic").note(what, value.map(str::to_owned), acknowledged);
    }

    /// Whether the API acknowledged it.
    fn try_kubectl(&self, args: &[&str]) -> bool {
        let output = self.node.kubectl_command(args).output().expect("kubectl is installed");
        self.attempts.fetch_add(1, Ordering::Relaxed);
        self.acknowledged.fetch_add(usize::from(output.status.success()), Ordering::Relaxed);
        output.status.success()
    }

    /// Waits until this many more attempts were made, or succeeded.
    fn wait_for(&self, counter: &AtomicUsize, more: usize) {
        let enough = counter.load(Ordering::Relaxed) + more;
        self.node.eventually("users go on", |_| {
            let now = counter.load(Ordering::Relaxed);
            if now >= enough { Ok(()) } else { Err(format!("{now} of {enough}")) }
        });
    }
}

/// Has users stop when it goes.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn settings(value: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: settings}}\ndata: {{value: '{value}'}}\n")
}

/// What is found of what users asked for.
fn found(node: &Node, what: &str) -> Option<String> {
    let get = |args: &[&str]| {
        let found = node.kubectl(&[&["get", "--ignore-not-found", "-o"], args].concat());
        Some(found.trim().to_owned()).filter(|found| !found.is_empty())
    };
    match what {
        "label" => get(&["jsonpath={.items[0].metadata.labels.round}", "nodes"]),
        "settings" => get(&["jsonpath={.data.value}", "configmap", "settings"]),
        "changing" => get(&["jsonpath={.spec.template.spec.containers[0].env[0].value}", "daemonset", "changing"]),
        "passing" => get(&["name", "daemonset", "passing"]).map(|_| "there".to_owned()),
        other => panic!("nobody asked for {other}"),
    }
}

/// The containers of the DaemonSets that nobody changes.
fn steady(node: &Node) -> Vec<Task> {
    let selector = format!("app in ({})", STEADY.join(","));
    let ids = node.kubectl(&[
        "get",
        "pods",
        "-l",
        &selector,
        "-o",
        "jsonpath={.items[*].status.containerStatuses[*].containerID}",
    ]);
    let mut tasks = node.tasks();
    tasks.retain(|task| ids.contains(&task.container));
    assert_eq!(tasks.len(), STEADY.len(), "{ids}");
    tasks
}

/// The network namespaces that are there and have no process: a containerd that is killed while it makes a sandbox forgets that one's.
fn without_processes(node: &Node) -> BTreeSet<String> {
    let names = node.shell(
        "used=$(stat -Lc %i /proc/[0-9]*/ns/net 2>/dev/null); cd /run/netns 2>/dev/null || exit 0
         for name in *; do echo \"$used\" | grep -qx \"$(stat -c %i \"$name\")\" || echo \"$name\"; done",
    );
    names.lines().map(str::to_owned).collect()
}

#[test]
fn killed_in_turn_under_continuous_change_nothing_is_lost_and_no_steady_container_restarts() {
    let node = Node::up("faults");
    let (mut control, mut agent) = control_and_agent(&node);
    let manifests: Vec<_> = STEADY.iter().map(|name| sleeper(name, "steady")).collect();
    node.apply(&manifests.concat());
    for name in STEADY {
        node.kubectl(&["rollout", "status", &format!("daemonset/{name}"), "--timeout=90s"]);
    }
    let before = steady(&node);

    let users = Users::new(&node);
    let (mut kills, deadline) = (0, Instant::now() + soak());
    let mut forgotten = BTreeSet::new();
    thread::scope(|scope| {
        scope.spawn(|| users.work());
        // Also if this one fails: it waits for them.
        let _stop = Stop(&users.stop);
        while Instant::now() < deadline {
            match kills % 4 {
                0 => {
                    agent.kill(&node);
                    users.wait_for(&users.acknowledged, 2);
                    agent.start(&node);
                }
                1 => {
                    control.kill(&node);
                    users.wait_for(&users.attempts, 2);
                    control.start(&node);
                }
                2 => {
                    node.kill_containerd();
                    forgotten.extend(without_processes(&node));
                    users.wait_for(&users.attempts, 2);
                    node.start_containerd();
                }
                _ => {
                    agent.kill(&node);
                    control.kill(&node);
                    users.wait_for(&users.attempts, 1);
                    agent.start(&node);
                    control.start(&node);
                }
            }
            kills += 1;
            users.wait_for(&users.acknowledged, 4);
        }
    });

    node.is_ready();
    for (what, Values(values)) in &users.asked.lock().expect("users do not panic").0 {
        let found = found(&node, what);
        assert!(values.contains(&found), "{what} is {found:?}, after {values:?}");
    }
    let maps = node.kubectl(&["get", "configmaps", "-o", "name"]);
    let there: BTreeSet<_> = maps.lines().filter_map(|line| line.strip_prefix("configmap/")).collect();
    let kept = users.kept.lock().expect("users do not panic");
    let lost: Vec<_> = kept.iter().filter(|name| !there.contains(name.as_str())).collect();
    assert!(lost.is_empty(), "acknowledged and gone: {lost:?}");

    // The last word of all reaches the pods, and only what it calls for is replaced.
    node.kubectl(&["delete", "daemonset", "passing", "--ignore-not-found"]);
    node.apply(&sleeper("changing", "last"));
    node.kubectl(&["rollout", "status", "daemonset/changing", "--timeout=90s"]);
    node.apply(&settings("last"));
    for name in STEADY {
        node.sees(&["exec", &format!("daemonset/{name}"), "--", "cat", "/settings/value"], &["last"]);
    }
    assert_eq!(steady(&node), before, "a container was restarted that nobody changed");
    let restarts = ["get", "pods", "-o", "jsonpath={.items[*].status.containerStatuses[*].restartCount}"];
    node.eventually(&format!("four pods are there that never restarted, after {kills} kills"), |node| {
        let restarts = node.try_kubectl(&restarts)?;
        if restarts == "0 0 0 0" { Ok(()) } else { Err(restarts) }
    });
    node.eventually("nothing is left of pods that are gone", |node| {
        let (left, empty) = (Traces::of(node), without_processes(node));
        let is_clean = left.tasks == 8 && left.pods == 4 && left.namespaces == 4 + empty.len();
        if is_clean && empty.is_subset(&forgotten) {
            Ok(())
        } else {
            Err(format!("{left:?}, {empty:?}, {forgotten:?}"))
        }
    });
    for process in [&agent, &control] {
        let open = Traces::descriptors(&node, process.pid(&node));
        assert!(open < 100, "{} has {open} files open", process.role);
    }
    let (attempts, acknowledged) = (users.attempts.into_inner(), users.acknowledged.into_inner());
    println!("{kills} kills, {acknowledged} of {attempts} changes acknowledged, {} ConfigMaps kept", kept.len());
}
