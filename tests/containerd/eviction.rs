//! Pods that take more than they may, and a node that runs short.

use std::fs;

use crate::harness::{Node, daemonset};
use crate::processes::sleeper;

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

/// A DaemonSet `greedy` that runs a script with the folder `/cache` of its own when the test says so, beside another, `steady`.
fn greedy_and_steady(node: &Node, script: &str) -> String {
    let script = format!("while [ ! -e /test/go ]; do sleep 0.1; done; {script}");
    let folder = node.path("test");
    fs::create_dir(&folder).expect("the node's folder is writable");
    let spec = format!(
        "      terminationGracePeriodSeconds: 1
      volumes:
        - {{name: test, hostPath: {{path: {}, type: Directory}}}}
        - {{name: cache, emptyDir: {{}}}}
      containers:
        - name: main
          image: busybox:1.35
          command: [sh, -c, {script:?}]
          volumeMounts: [{{name: test, mountPath: /test}}, {{name: cache, mountPath: /cache}}]
",
        folder.display()
    );
    daemonset("greedy", &spec) + &sleeper("steady", "one")
}

/// Has `greedy` take what there is of `resource`, and waits until the node was relieved of it.
fn goes_for_taking_all(node: &mut Node, eviction_hard: &str, greedy: &str, [short, enough]: [&str; 2], resource: &str) {
    let flags = ["--eviction-hard", eviction_hard];
    node.garrison_up_with(&flags);
    node.apply(greedy);
    for set in ["greedy", "steady"] {
        node.kubectl(&["rollout", "status", &format!("daemonset/{set}"), "--timeout=90s"]);
    }
    node.sees(&["describe", "node"], &[enough]);
    let steady = node.kubectl(&["get", "pods", "-l", "app=steady", "-o", "name"]);
    let runs_untouched = ["1/1", "Running", " 0 ", steady.trim().trim_start_matches("pod/")];

    node.write("test/go", "");
    let message = format!("The node was low on resource: {resource}.");
    node.sees(&["get", "events", "--field-selector=reason=Evicted"], &["pod/greedy-", &message]);
    fs::remove_file(node.path("test/go")).expect("it was written");
    node.sees(&["describe", "node"], &[short]);
    // Another has taken its place, and does not begin as long as the node is short.
    let of_greedy = ["get", "pods", "-l", "app=greedy", "-o", "jsonpath={.items[*].status.message}"];
    node.sees(&of_greedy, &["The node had condition: ["]);
    node.sees(&["get", "pods", "-l", "app=steady", "--no-headers"], &runs_untouched);

    // A condition holds on for five minutes; an agent that has just begun knows of no shortage but one that there is.
    node.kill_garrison();
    node.garrison_up_with(&flags);
    node.sees(&["describe", "node"], &[enough]);
    node.sees(&["get", "pods", "-l", "app=greedy", "--no-headers"], &["1/1", "Running"]);
    node.sees(&["get", "pods", "-l", "app=steady", "--no-headers"], &runs_untouched);
    let evicted = node.kubectl(&["get", "events", "--field-selector=reason=Evicted"]);
    assert!(!evicted.contains("steady"), "{evicted}");
}

/// Puts what pods write on a file system of 16 MiB.
fn with_a_small_disk(name: &str, options: &str) -> Node {
    let node = Node::up(name);
    node.shell(&format!(
        "truncate -s 16M /run/small.img && mkfs.ext4 -q -m0 {options} /run/small.img
         mkdir -p /var/lib/kubelet && mount -o loop /run/small.img /var/lib/kubelet"
    ));
    node
}

#[test]
fn a_node_out_of_disk_says_so_and_sends_away_who_has_most_of_it() {
    let mut node = with_a_small_disk("disk", "");
    let greedy = greedy_and_steady(&node, "cat /dev/zero >/cache/all; sleep 1000");
    let conditions = ["KubeletHasDiskPressure", "KubeletHasNoDiskPressure"];
    goes_for_taking_all(&mut node, "nodefs.available<25%", &greedy, conditions, "ephemeral-storage");
}

#[test]
fn a_node_out_of_inodes_says_so_and_sends_away_who_has_most_files() {
    let mut node = with_a_small_disk("inodes", "-N 256");
    let greedy = greedy_and_steady(&node, "i=0; while touch /cache/$i 2>/dev/null; do i=$((i+1)); done; sleep 1000");
    let conditions = ["KubeletHasDiskPressure", "KubeletHasNoDiskPressure"];
    goes_for_taking_all(&mut node, "nodefs.inodesFree<10%", &greedy, conditions, "inodes");
}

/// How many processes the greedy pod starts; half of them are too many, with what else the machine may do meanwhile.
const PROCESSES: u64 = 600;

#[test]
fn a_node_out_of_process_numbers_says_so_and_sends_away_who_has_most_processes() {
    let mut node = Node::up("pids");
    let number = |file: &str, word: usize| -> u64 {
        let text = node.read(file).expect("the kernel tells");
        let word = text.split_whitespace().nth(word).expect("as proc(5) says").rsplit('/').next();
        word.and_then(|word| word.parse().ok()).expect("a number")
    };
    let most = number("/proc/sys/kernel/pid_max", 0).min(number("/proc/sys/kernel/threads-max", 0));
    let left = most - number("/proc/loadavg", 3);
    let script = format!("i=0; while [ $i -lt {PROCESSES} ]; do sleep 1000 & i=$((i+1)); done; wait");
    let greedy = greedy_and_steady(&node, &script);
    let conditions = ["KubeletHasInsufficientPID", "KubeletHasSufficientPID"];
    let eviction_hard = format!("pid.available<{}", left - PROCESSES / 2);
    goes_for_taking_all(&mut node, &eviction_hard, &greedy, conditions, "pids");
}
