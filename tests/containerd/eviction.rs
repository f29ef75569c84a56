//! Pods that take more than they may, and a node that runs short.

use std::fs;

use crate::harness::{Node, daemonset};

/// A DaemonSet that writes 5 MiB to a place once the test says so, bounded by lines of its container and its volume.
fn manifest(name: &str, place: &str, container: &str, volume: &str, folder: &str) -> String {
    let script = format!(
        "while [ ! -e /test/go-{name} ]; do sleep 0.1; done; dd if=/dev/zero of={place}/file bs=1M count=5; sleep 1000"
    );
    let spec = format!(
        "      terminationGracePeriodSeconds: 1
      volumes:
        - {{name: test, hostPath: {{path: {folder}, type: Directory}}}}
        - {{name: cache, emptyDir: {{{volume}}}}}
      containers:
        - name: main
          image: busybox:1.35
          command: [sh, -c, {script:?}]
          volumeMounts: [{{name: test, mountPath: /test}}, {{name: cache, mountPath: /cache}}]
          resources: {{{container}}}
"
    );
    daemonset(name, &spec)
}

#[test]
fn a_pod_that_writes_more_than_it_may_is_sent_away_and_replaced() {
    let mut node = Node::up("eviction");
    let folder = node.path("test");
    fs::create_dir(&folder).expect("the node's folder is writable");
    let folder = folder.to_str().expect("test paths are UTF-8").to_owned();
    let manifests = [
        manifest("volume", "/cache", "", "sizeLimit: 1Mi", &folder),
        manifest("layer", "/tmp", "limits: {ephemeral-storage: 2Mi}", "", &folder),
        manifest("free", "/cache", "limits: {ephemeral-storage: 50Mi}", "sizeLimit: 50Mi", &folder),
    ];
    node.garrison_up();
    node.apply(&manifests.concat());
    let name = |node: &Node, set: &str| node.kubectl(&["get", "pods", "-l", &format!("app={set}"), "-o", "name"]);
    for set in ["volume", "layer", "free"] {
        node.kubectl(&["rollout", "status", &format!("daemonset/{set}"), "--timeout=90s"]);
    }
    let free = name(&node, "free");
    for (set, message) in [
        ("volume", "Usage of EmptyDir volume \"cache\" exceeds the limit \"1Mi\"."),
        ("layer", "Pod ephemeral local storage usage exceeds the total limit of containers 2Mi."),
        ("free", ""),
    ] {
        let before = name(&node, set);
        let go = node.path("test").join(format!("go-{set}"));
        fs::write(&go, "").expect("the folder is the test's own");
        if message.is_empty() {
            continue;
        }
        node.sees(&["get", "events", "--field-selector=reason=Evicted"], &[message]);
        fs::remove_file(&go).expect("it was written");
        node.eventually("another pod takes its place", |node| {
            let now = name(node, set);
            if now.lines().count() == 1 && now != before { Ok(()) } else { Err(now) }
        });
        node.sees(&["get", "pods", "-l", &format!("app={set}"), "--no-headers"], &["1/1", "Running"]);
    }
    assert_eq!(name(&node, "free"), free);
}

#[test]
fn a_node_short_of_memory_says_so_and_sends_away_all_but_what_is_critical() {
    let mut node = Node::up("pressure");
    let pod = |name: &str, class: &str| {
        let spec = format!(
            "      terminationGracePeriodSeconds: 1
      priorityClassName: {class}
      containers: [{{name: main, image: 'busybox:1.35', command: [sleep, '1000']}}]
"
        );
        daemonset(name, &spec)
    };
    node.garrison_up_with(&["--eviction-hard", "memory.available<1Pi"]);
    node.apply(&(pod("ordinary", "\"\"") + &pod("critical", "system-node-critical")));
    node.sees(&["describe", "node"], &["KubeletHasInsufficientMemory", "KubeletHasNoDiskPressure"]);
    node.sees(&["get", "events", "--field-selector=reason=Evicted"], &["pod/ordinary-", "was low on resource: memory"]);
    node.sees(&["get", "events", "--field-selector=reason=EvictionThresholdMet"], &["Attempting to reclaim memory"]);
    let evicted = node.kubectl(&["get", "events", "--field-selector=reason=Evicted"]);
    assert!(!evicted.contains("critical"), "{evicted}");
    node.sees(&["get", "pods", "-l", "app=critical", "--no-headers"], &["1/1", "Running", " 0 "]);
}
