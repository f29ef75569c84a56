//! Control is put back from a back-up that is older than what its nodes have seen.

use std::process::Command;

use crate::harness::{Node, Task};
use crate::processes::{control_and_agent, path, sleeper};

fn copy(node: &Node, from: &str, to: &str) {
    let script = "rm -rf \"$2\" && cp -a \"$1\" \"$2\"";
    let copied = Command::new("sh").args(["-c", script, "sh", &path(node, from), &path(node, to)]).status();
    assert!(copied.expect("sh can be run").success());
}

fn apply(node: &Node, name: &str, value: &str) {
    node.apply(&sleeper(name, value));
    node.kubectl(&["rollout", "status", &format!("daemonset/{name}"), "--timeout=90s"]);
}

/// Waits until containers with exactly these values run; gives them in this order.
fn run(node: &Node, values: &[&str]) -> Vec<Task> {
    node.eventually(&format!("containers with {values:?} run"), |node| {
        let value = |task: Task| {
            let environment = node.read(&format!("/proc/{}/environ", task.pid))?;
            let value = environment.split('\0').find_map(|line| line.strip_prefix("VALUE="))?.to_owned();
            Some((value, task))
        };
        let mut found: Vec<_> = node.tasks().into_iter().filter_map(value).collect();
        found.sort();
        let same = found.iter().map(|(value, _)| value.as_str()).eq(values.iter().copied());
        if same { Ok(found.into_iter().map(|(_, task)| task).collect()) } else { Err(format!("{found:?}")) }
    })
}

fn holds(node: &Node, args: &[&str]) -> String {
    let mut command = node.inside(env!("CARGO_BIN_EXE_garrison"));
    command.args(["control", "holds", "--kubeconfig"]).arg(node.path("state/admin.kubeconfig")).args(args);
    let output = command.output().expect("the binary under test starts");
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn nodes_of_a_control_from_an_older_copy_hold_until_a_person_has_seen_the_differences() {
    let node = Node::up("restored");
    let (mut control, _agent) = control_and_agent(&node);
    apply(&node, "steady", "a");
    apply(&node, "changed", "b-old");
    control.kill(&node);
    copy(&node, "state/store", "backup");
    control.start(&node);
    node.is_ready();
    apply(&node, "changed", "b-new");
    apply(&node, "added", "c");
    let before = run(&node, &["a", "b-new", "c"]);

    control.kill(&node);
    copy(&node, "backup", "state/store");
    control.start(&node);
    node.sees(&["describe", "node"], &["Held", "control was restored from an older copy"]);
    let shown = node.eventually("the differences are shown", |node| {
        let shown = holds(node, &[]);
        if shown.contains("--confirm") { Ok(shown) } else { Err(shown) }
    });
    for part in [
        "default/added on 1 node: control has no record of it; its pods stay as they are",
        "default/changed on 1 node: revision ",
    ] {
        assert!(shown.contains(part), "{shown}");
    }
    assert!(!shown.contains("steady"), "{shown}");
    // What people do meanwhile waits.
    node.kubectl(&["delete", "daemonset", "steady"]);
    assert!(holds(&node, &["--confirm", "1"]).contains("look at the differences again"));
    assert_eq!(run(&node, &["a", "b-new", "c"]), before);

    let era = shown.trim_end().rsplit(' ').next().expect("the last word of all is the era");
    assert!(holds(&node, &["--confirm", era]).contains("1 held nodes are received anew"));
    let after = run(&node, &["b-old", "c"]);
    assert_eq!(after[1], before[2], "nothing stops what control does not know");
    node.eventually("the node does not hold any more", |node| {
        let shown = node.kubectl(&["describe", "node"]);
        if shown.contains("Held") { Err(shown) } else { Ok(()) }
    });
    assert!(holds(&node, &[]).contains("no node that is connected"));
    // Nor does a restart ask again.
    control.kill(&node);
    control.start(&node);
    node.is_ready();
    assert_eq!(run(&node, &["b-old", "c"]), after);
    assert!(!node.kubectl(&["describe", "node"]).contains("Held"));
}
