//! Pods that outlive their DaemonSet: orphaned, adopted by another, let go by a label.

use crate::harness::{Node, shell_daemonset};

/// A DaemonSet of any name that selects the pods of `web`.
fn for_web(name: &str, script: &str) -> String {
    shell_daemonset("web", script, "", "").replace("metadata: {name: web}", &format!("metadata: {{name: {name}}}"))
}

/// The only pod of `web`, whose it is, and whether it is ready.
fn pod(node: &Node) -> [String; 3] {
    let owner = "{.items[*].metadata.ownerReferences[*].name}";
    let ready = "{.items[*].status.conditions[?(@.type==\"Ready\")].status}";
    let path = format!("jsonpath={{.items[*].metadata.name}}|{owner}|{ready}");
    let shown = node.kubectl(&["get", "pods", "-l", "app=web", "-o", &path]);
    let words: Vec<_> = shown.split('|').map(str::to_owned).collect();
    words.try_into().expect("three parts")
}

fn becomes(node: &Node, what: &str, is_so: impl Fn(&[String; 3]) -> bool) -> [String; 3] {
    node.eventually(what, |node| Some(pod(node)).filter(&is_so).ok_or_else(|| format!("{:?}", pod(node))))
}

fn orphan(node: &Node, name: &str) {
    let said = node.kubectl(&["delete", "daemonset", name, "--cascade=orphan", "--timeout=60s"]);
    assert!(said.starts_with(&format!("daemonset.apps \"{name}\" deleted")), "{said}");
    assert!(node.kubectl_refused(&["get", "daemonset", name]).contains("not found"));
}

#[test]
fn pods_outlive_their_daemonset_and_are_adopted_by_the_next() {
    let mut node = Node::up("orphans");
    node.garrison_up();
    node.apply(&for_web("first", "true"));
    node.kubectl(&["rollout", "status", "daemonset/first", "--timeout=90s"]);
    let [name, ..] = pod(&node);
    let tasks = node.tasks();
    orphan(&node, "first");
    assert_eq!(pod(&node), [name.clone(), String::new(), "True".to_owned()]);
    // It is its node's own now, also for another agent.
    node.kill_garrison();
    node.garrison_up();
    becomes(&node, "the pod is ready", |[found, owner, ready]| *found == name && owner.is_empty() && ready == "True");
    assert_eq!(node.tasks(), tasks);

    // The same template: it has a pod already, and its history.
    node.apply(&for_web("second", "true"));
    let status = ["rollout", "status", "daemonset/second", "--timeout=90s"];
    node.kubectl(&status);
    assert_eq!(pod(&node), [name.clone(), "second".to_owned(), "True".to_owned()]);
    assert_eq!(node.tasks(), tasks);
    let history = node.kubectl(&["get", "controllerrevisions", "--no-headers"]);
    assert!(history.lines().count() == 1 && history.contains("daemonset.apps/second"), "{history}");

    // Another template: it is replaced, as in any rollout.
    orphan(&node, "second");
    assert_eq!(node.tasks(), tasks);
    node.apply(&for_web("third", "echo another"));
    node.kubectl(&["rollout", "status", "daemonset/third", "--timeout=90s"]);
    let [replaced, ..] = becomes(&node, "another pod has its place", |[found, owner, ready]| {
        !found.contains(' ') && *found != name && owner == "third" && ready == "True"
    });
    let revisions = node.kubectl(&["rollout", "history", "daemonset/third"]);
    assert!(revisions.lines().any(|line| line.starts_with("2 ")), "{revisions}");

    // Not selected any more, it runs on beside the one in its place, and ends as any single pod.
    let tasks = node.tasks();
    node.kubectl(&["label", "pod", &replaced, "app=other", "--overwrite"]);
    becomes(&node, "another pod has its place", |[found, owner, ready]| {
        !found.contains(' ') && *found != replaced && owner == "third" && ready == "True"
    });
    let owners = ["get", "pod", &replaced, "-o", "jsonpath={.metadata.ownerReferences}"];
    assert_eq!(node.kubectl(&owners), "");
    assert!(tasks.iter().all(|task| node.tasks().contains(task)), "nothing was restarted");
    node.kubectl(&["delete", "pod", &replaced, "--timeout=60s"]);
    node.eventually("nothing of it is left", |node| {
        let left: Vec<_> = node.tasks().into_iter().filter(|task| tasks.contains(task)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}
