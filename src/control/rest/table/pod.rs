//! The cells of a pod, most of all its STATUS: one word for what phase, conditions and containers say together.
//!
//! Source: kubernetes v1.36, `pkg/printers/internalversion/printers.go`, `printPod`.

use jiff::Timestamp;
use serde_json::Value;

use super::age::{human_duration, since};
use super::{Column, Layout, condition, flag, integer, list, or, or_none, text};

pub(super) static POD: Layout = Layout {
    columns: &[
        Column::name(),
        Column::text("Ready", "Containers that are ready, of all."),
        Column::text("Status", "What the pod and its containers are doing."),
        Column::text("Restarts", "How often containers were restarted, and when last."),
        Column::age(),
        Column::text("IP", "The pod's first address; the node's own with host network.").wide(),
        Column::text("Node", "The node the pod is on.").wide(),
        Column::text("Nominated Node", "The node that makes room for the pod.").wide(),
        Column::text("Readiness Gates", "Readiness gates that are open, of all.").wide(),
    ],
    cells,
};

fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let summary = summarize(pod);
    let sidecars = list(pod, "/spec/initContainers").iter().filter(|container| is_sidecar(container)).count();
    let total = list(pod, "/spec/containers").len() + sidecars;
    vec![
        text(pod, "/metadata/name").into(),
        format!("{}/{total}", summary.ready).into(),
        summary.reason.into(),
        summary.restarts.cell(now).into(),
        since(pod, "/metadata/creationTimestamp", now).into(),
        or_none(text(pod, "/status/podIPs/0/ip")).into(),
        or_none(text(pod, "/spec/nodeName")).into(),
        or_none(text(pod, "/status/nominatedNodeName")).into(),
        readiness_gates(pod).into(),
    ]
}

/// What a pod and its containers add up to.
struct Summary {
    reason: String,
    ready: usize,
    restarts: Restarts,
}

fn summarize(pod: &Value) -> Summary {
    let init = InitSummary::of(pod);
    let mut summary = Summary { reason: pod_reason(pod).to_owned(), ready: init.ready, restarts: init.restarts };
    let initializing = init.unfinished.is_some();
    if let Some(unfinished) = init.unfinished {
        summary.reason = unfinished;
    }
    if !initializing || is_true(pod, "Initialized") {
        // What init containers took to end is of no more interest; sidecars go on.
        summary.restarts = init.sidecar_restarts;
        summary.add_containers(pod);
    }
    if !text(pod, "/metadata/deletionTimestamp").is_empty() {
        if text(pod, "/status/reason") == "NodeLost" {
            summary.reason = "Unknown".to_owned();
        } else if !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed") {
            summary.reason = "Terminating".to_owned();
        }
    }
    summary
}

/// What the pod says of itself, without its containers.
fn pod_reason(pod: &Value) -> &str {
    if condition(pod, "PodScheduled").is_some_and(|condition| condition["reason"] == "SchedulingGated") {
        return "SchedulingGated";
    }
    or(text(pod, "/status/reason"), text(pod, "/status/phase"))
}

impl Summary {
    /// Adds the app containers. The first one that has something to say gives the reason.
    fn add_containers(&mut self, pod: &Value) {
        let mut running = false;
        let mut failure = None;
        for status in list(pod, "/status/containerStatuses").iter().rev() {
            self.restarts.add(status);
            let waiting = text(status, "/state/waiting/reason");
            if !waiting.is_empty() {
                self.reason = waiting.to_owned();
            } else if let Some(terminated) = terminated(status) {
                self.reason = end(terminated);
                if integer(terminated, "/exitCode") != 0 {
                    failure = Some(self.reason.clone());
                }
            } else if flag(status, "/ready") && status.pointer("/state/running").is_some() {
                running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" {
            if running && is_true(pod, "Ready") {
                self.reason = "Running".to_owned();
            } else if let Some(failure) = failure {
                self.reason = failure;
            } else if running {
                self.reason = "NotReady".to_owned();
            }
        }
    }
}

/// What the init containers of a pod add up to, sidecars among them.
#[derive(Default)]
struct InitSummary {
    /// Sidecars that are ready.
    ready: usize,
    restarts: Restarts,
    sidecar_restarts: Restarts,
    /// STATUS by the first init container that the pod still waits for; those after it do not count.
    unfinished: Option<String>,
}

impl InitSummary {
    fn of(pod: &Value) -> Self {
        let containers = list(pod, "/spec/initContainers");
        let mut summary = Self::default();
        for (index, status) in list(pod, "/status/initContainerStatuses").iter().enumerate() {
            let sidecar =
                containers.iter().any(|container| container["name"] == status["name"] && is_sidecar(container));
            summary.restarts.add(status);
            if sidecar {
                summary.sidecar_restarts.add(status);
            }
            if terminated(status).is_some_and(|terminated| integer(terminated, "/exitCode") == 0) {
                continue;
            }
            if sidecar && flag(status, "/started") {
                summary.ready += usize::from(flag(status, "/ready"));
                continue;
            }
            let waiting = text(status, "/state/waiting/reason");
            summary.unfinished = Some(if let Some(terminated) = terminated(status) {
                format!("Init:{}", end(terminated))
            } else if !matches!(waiting, "" | "PodInitializing") {
                format!("Init:{waiting}")
            } else {
                format!("Init:{index}/{}", containers.len())
            });
            break;
        }
        summary
    }
}

/// Restarts of several containers.
#[derive(Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, status: &Value) {
        self.count += integer(status, "/restartCount");
        // A timestamp that is missing or unreadable is no later than any other.
        self.last = self.last.max(text(status, "/lastState/terminated/finishedAt").parse().ok());
    }

    fn cell(&self, now: Timestamp) -> String {
        match self.last {
            Some(last) if self.count != 0 => {
                format!("{} ({} ago)", self.count, human_duration(now.duration_since(last)))
            }
            _ => self.count.to_string(),
        }
    }
}

fn readiness_gates(pod: &Value) -> String {
    let gates = list(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let open = gates.iter().filter(|gate| is_true(pod, text(gate, "/conditionType"))).count();
    format!("{open}/{}", gates.len())
}

fn is_true(pod: &Value, condition_type: &str) -> bool {
    condition(pod, condition_type).is_some_and(|condition| condition["status"] == "True")
}

/// An init container that is never to end.
fn is_sidecar(container: &Value) -> bool {
    text(container, "/restartPolicy") == "Always"
}

fn terminated(status: &Value) -> Option<&Value> {
    status.pointer("/state/terminated").filter(|terminated| terminated.is_object())
}

/// How a container ended, as its runtime says it or by signal or exit code.
fn end(terminated: &Value) -> String {
    match (text(terminated, "/reason"), integer(terminated, "/signal")) {
        ("", 0) => format!("ExitCode:{}", integer(terminated, "/exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}
