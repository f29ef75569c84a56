//! Pods that come and go leave nothing behind, on the node and in the processes.

use std::time::{Duration, Instant};

use crate::harness::Node;
use crate::processes::{Process, control_and_agent, path, sleeper, soak};

/// How many DaemonSets there are, whose pods come and go.
const SETS: usize = 10;

/// What control's history takes at most: 32 MiB of former values, and what comes with them.
const HISTORY_KIB_MAX: usize = 48 << 10;

/// What pods leave on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traces {
    /// Running containers, sandboxes included.
    pub tasks: usize,
    /// Folders below the kubelet's `pods`.
    pub pods: usize,
    /// Folders of logs.
    logs: usize,
    /// Network namespaces.
    pub namespaces: usize,
    /// Addresses that CNI's host-local has given out.
    pub addresses: usize,
    /// Mounts of pods, their namespaces and containerd.
    mounts: usize,
    cgroups: usize,
}

impl Traces {
    /// What there is now.
    pub fn of(node: &Node) -> Self {
        let count = |script: &str| -> usize {
            let output = node.inside("sh").args(["-c", script]).output().expect("sh can be run");
            String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number")
        };
        // Of the machine's other mounts a copy was made, and what is removed on the machine goes from that, too.
        let own = path(node, "");
        let own = own.trim_end_matches('/');
        Self {
            tasks: node.tasks().len(),
            pods: count("ls /var/lib/kubelet/pods 2>/dev/null | wc -l"),
            logs: count("ls /var/log/pods 2>/dev/null | wc -l"),
            namespaces: count("ls /run/netns 2>/dev/null | wc -l"),
            addresses: count(&format!("ls {} 2>/dev/null | grep -c '^10' || true", path(node, "ipam/pods"))),
            mounts: count(&format!("grep -cE ' ({own}|/run/netns|/var/lib/kubelet)/' /proc/self/mountinfo || true")),
            cgroups: count("find /sys/fs/cgroup -type d -path '*kubepods*' | wc -l"),
        }
    }

    /// The open files of a process, by its pid inside the node.
    pub fn descriptors(node: &Node, pid: u32) -> usize {
        let script = format!("ls /proc/{pid}/fd | wc -l");
        let output = node.inside("sh").args(["-c", &script]).output().expect("sh can be run");
        String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number")
    }

    /// The memory of a process that is in use and its own, in KiB.
    fn memory(node: &Node, pid: u32) -> usize {
        let rollup = node.read(&format!("/proc/{pid}/smaps_rollup")).expect("the process runs");
        let line = rollup.lines().find(|line| line.starts_with("Private_Dirty:")).expect("a line of each rollup");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number of KiB")
    }
}

#[test]
fn pods_that_come_and_go_leave_nothing_behind() {
    let node = Node::up("leaks");
    let (control, agent) = control_and_agent(&node);
    let manifests: Vec<_> = (0..SETS).map(|set| sleeper(&format!("set-{set}"), "same")).collect();
    let settled = |fresh: Option<Traces>| {
        node.eventually("each DaemonSet has one pod and nothing is left of others", |node| {
            let pods = node.kubectl(&["get", "pods", "--no-headers"]);
            let running = pods.lines().filter(|line| line.contains("1/1") && line.contains("Running")).count();
            let traces = Traces::of(node);
            let is_settled = (running, pods.lines().count(), traces.tasks) == (SETS, SETS, 2 * SETS);
            let is_clean = fresh.is_none_or(|fresh| fresh == traces);
            if is_settled && is_clean { Ok(traces) } else { Err(format!("{traces:?}, not {fresh:?}\n{pods}")) }
        })
    };
    node.apply(&manifests.concat());
    // What the first pods take is what the last ones may take.
    let fresh = settled(None);
    let mut cycles = 0;
    let mut cycle = |duration: Duration| {
        let until = Instant::now() + duration;
        while Instant::now() < until {
            node.kubectl(&["delete", "pods", "--all"]);
            settled(None);
            cycles += SETS;
        }
        settled(Some(fresh));
        let measured = |process: &Process| {
            let pid = process.pid(&node);
            (Traces::descriptors(&node, pid), Traces::memory(&node, pid))
        };
        (measured(&agent), measured(&control), cycles)
    };
    // What a process needs for its work it has by then.
    let warm = cycle(soak() / 4);
    let end = cycle(soak() / 2);
    let pods = end.2 - warm.2;
    // Room for how the allocator happens to fill its pages, and for what each pod leaves: in the agent next to nothing, in control a
    // dozen versions of it and its events, up to what its history may hold.
    let room = [4096 + pods * 16, 4096 + (pods * 64).min(HISTORY_KIB_MAX)];
    for ((name, before, after), room) in [("agent", warm.0, end.0), ("control", warm.1, end.1)].into_iter().zip(room) {
        assert!(after.0 <= before.0 + 4, "{name} had {} files open, and has {}", before.0, after.0);
        let grown = after.1.saturating_sub(before.1);
        assert!(grown <= room, "{name} grew by {grown} KiB over {pods} pods");
    }
    let (agent, control) = ((warm.0, end.0), (warm.1, end.1));
    println!("(files, KiB) over {} pods: agent {agent:?}, control {control:?}", end.2);
}
