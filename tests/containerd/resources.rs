//! What a pod may take of its node: in its cgroups, seen from inside and from the node, and through the API.

use crate::harness::{Node, shell_daemonset};

/// A DaemonSet of one busybox container that shows its own cgroup; `pod` are further lines of its pod's spec, `container` of
/// its container.
fn manifest(name: &str, container: &str, pod: &str) -> String {
    let look = "cd /sys/fs/cgroup; for f in cpu/cpu.shares cpu/cpu.cfs_quota_us memory/memory.limit_in_bytes cpu.max \
                memory.max memory.oom.group; do if [ -e $f ]; then echo $f=$(cat $f); fi; done; \
                echo oom=$(cat /proc/self/oom_score_adj); echo end";
    shell_daemonset(name, look, container, pod)
}

/// A class of the default runtime that takes `overhead` beside the containers of each pod.
fn class(name: &str, overhead: &str) -> String {
    format!(
        "apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {{name: {name}}}
handler: runc
overhead: {{podFixed: {overhead}}}
---
"
    )
}

/// What the node has in a file of the pod's own cgroup, in the version it has.
fn pod_cgroup(node: &Node, name: &str, class: &str, [v1, v2]: [&str; 2]) -> String {
    let uid = node.kubectl(&["get", "pods", "-l", &format!("app={name}"), "-o", "jsonpath={.items[0].metadata.uid}"]);
    let pod = format!("kubepods/{class}pod{uid}");
    let (controller, file) = v1.split_once('/').expect("a controller and its file");
    let paths = [format!("/sys/fs/cgroup/{controller}/{pod}/{file}"), format!("/sys/fs/cgroup/{pod}/{v2}")];
    let found = paths.iter().find_map(|path| node.read(path));
    found.unwrap_or_else(|| panic!("none of {paths:?} is there")).trim().to_owned()
}

#[test]
fn limits_hold_for_containers_and_for_the_pod_as_a_whole() {
    let mut node = Node::up("resources");
    node.garrison_up();
    let resources = |resources: &str| format!("          resources: {resources}\n");
    let manifests = [
        class("taxed", "{cpu: 100m, memory: 8Mi}"),
        manifest("bare", "", ""),
        manifest("some", &resources("{requests: {cpu: 250m, memory: 64Mi}, limits: {memory: 128Mi}}"), ""),
        manifest("fixed", &resources("{limits: {cpu: 500m, memory: 64Mi}}"), "      runtimeClassName: taxed\n"),
        manifest("whole", "", "      resources: {requests: {cpu: 100m}, limits: {cpu: 200m, memory: 96Mi}}\n"),
    ];
    node.apply(&manifests.concat());
    let said = |name: &str| node.sees(&["logs", &format!("daemonset/{name}")], &["end"]);
    let is_v2 = said("bare").contains("memory.max=");
    for (name, qos, v1, v2, oom) in [
        (
            "bare",
            "BestEffort",
            vec!["cpu.shares=2", "cpu.cfs_quota_us=-1"],
            vec!["cpu.max=max", "memory.max=max"],
            "oom=1000",
        ),
        (
            "some",
            "Burstable",
            vec!["cpu.shares=256", "cpu.cfs_quota_us=-1", "memory.limit_in_bytes=134217728"],
            vec!["cpu.max=max", "memory.max=134217728", "memory.oom.group=1"],
            "oom=9",
        ),
        (
            "fixed",
            "Guaranteed",
            vec!["cpu.shares=512", "cpu.cfs_quota_us=50000", "memory.limit_in_bytes=67108864"],
            vec!["cpu.max=50000 100000", "memory.max=67108864"],
            "oom=",
        ),
        (
            "whole",
            "Burstable",
            vec!["cpu.shares=204", "cpu.cfs_quota_us=20000", "memory.limit_in_bytes=100663296"],
            vec!["cpu.max=20000 100000", "memory.max=100663296"],
            "oom=9",
        ),
    ] {
        let seen = said(name);
        for line in if is_v2 { v2 } else { v1 }.into_iter().chain([oom]) {
            assert!(seen.contains(line), "{name}: {line:?} is not in:\n{seen}");
        }
        let class = ["get", "pods", "-l", &format!("app={name}"), "-o", "jsonpath={.items[0].status.qosClass}"];
        assert_eq!(node.kubectl(&class), qos, "{name}");
    }

    // The pod's own cgroup has the overhead, too; without a limit for all it has none.
    let memory = ["memory/memory.limit_in_bytes", "memory.max"];
    assert_eq!(pod_cgroup(&node, "fixed", "", memory), (72 << 20).to_string());
    assert_eq!(pod_cgroup(&node, "some", "burstable/", memory), (128 << 20).to_string());
    assert_eq!(pod_cgroup(&node, "whole", "burstable/", memory), (96 << 20).to_string());
    let quota = pod_cgroup(&node, "fixed", "", ["cpu/cpu.cfs_quota_us", "cpu.max"]);
    assert_eq!(quota.split(' ').next(), Some("60000"));
    let shares = pod_cgroup(&node, "bare", "besteffort/", ["cpu/cpu.shares", "cpu.weight"]);
    assert_eq!(shares, if is_v2 { "1" } else { "2" });
}

#[test]
fn overhead_and_what_a_pod_asks_for_as_a_whole_count_when_it_is_admitted() {
    let mut node = Node::up("overhead");
    node.garrison_up();
    let manifests = [
        class("taxed", "{cpu: \"4000\"}"),
        manifest("heavy", "", "      runtimeClassName: taxed\n"),
        manifest("large", "", "      resources: {limits: {memory: 4000Gi}}\n"),
    ];
    node.apply(&manifests.concat());
    node.sees(&["describe", "pods", "-l", "app=heavy"], &["OutOfcpu", "requested: 4000000"]);
    node.sees(&["describe", "pods", "-l", "app=large"], &["OutOfmemory", "requested: 4294967296000"]);
}

#[test]
fn kubectl_top_tells_how_much_pods_and_their_node_take() {
    let mut node = Node::up("top");
    node.garrison_up();
    // One that computes, with 16 MiB in hand, and one that waits.
    let burns = "held=$(head -c 16777216 /dev/zero | tr \"\\0\" x); echo end; while :; do :; done";
    node.apply(&[shell_daemonset("burns", burns, "", ""), shell_daemonset("waits", "echo end", "", "")].concat());
    for name in ["burns", "waits"] {
        node.sees(&["logs", &format!("daemonset/{name}")], &["end"]);
    }
    // Amounts end with their unit: `250m`, `17Mi`.
    let amount = |word: &str| word.trim_end_matches(char::is_alphabetic).parse::<u64>().expect("an amount");
    let top = |args: &[&str]| -> Vec<Vec<String>> {
        let said = node.kubectl(&[&["top"], args, &["--no-headers"]].concat());
        said.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
    };

    let pods = top(&["pod", "-A", "--sort-by=cpu"]);
    let [burns, waits] = &pods[..] else { panic!("{pods:?}") };
    assert!(burns[1].starts_with("burns-") && amount(&burns[2]) > 0 && amount(&burns[3]) >= 16, "{pods:?}");
    assert!(waits[1].starts_with("waits-") && amount(&waits[2]) < amount(&burns[2]), "{pods:?}");
    let containers = top(&["pod", "--containers", "-l", "app=burns"]);
    let [container] = &containers[..] else { panic!("{containers:?}") };
    assert!(container[1] == "main" && amount(&container[2]) > 0, "{containers:?}");
    assert_eq!(top(&["pod", &burns[1]]).len(), 1);

    let nodes = top(&["node"]);
    let [whole] = &nodes[..] else { panic!("{nodes:?}") };
    assert!(whole[0] == node.name() && amount(&whole[1]) > 0 && amount(&whole[3]) >= 16, "{nodes:?}");
}
