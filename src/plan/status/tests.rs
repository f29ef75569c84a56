use serde_json::{Value, json};

use super::*;
use crate::model::{ObservedContainer, ObservedSandbox};
use crate::plan::tests::{Case, WEB, running, sandbox};

mod lives;

/// 2026-01-01T00:00:00Z; the rows count seconds from here.
const DAY: i64 = 1_767_225_600;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(DAY + second).unwrap()
}

fn text(second: i64) -> String {
    at(second).to_string()
}

/// A pod made at 0, its sandbox at 1, its container started at 2, looked at at 9.
struct Row {
    case: Case,
    waiting: Vec<Option<Waiting>>,
    rejection: Option<Rejection>,
    ending: bool,
    finished: Option<Finished>,
    previous: Option<k8s::PodStatus>,
    now: i64,
}

fn base() -> Row {
    let mut case = running();
    case.observed.sandboxes[0] = ObservedSandbox { created_at: at(1), ..sandbox("s0", 0, true) };
    case.observed.containers[WEB].phase = ContainerPhase::Running { started_at: at(2) };
    Row { case, waiting: vec![None], rejection: None, ending: false, finished: None, previous: None, now: 9 }
}

impl Row {
    fn status(&self) -> k8s::PodStatus {
        let situation = Situation {
            pod: &self.case.pod,
            observed: &self.case.observed,
            waiting: &self.waiting,
            healths: &self.case.healths,
            rejection: self.rejection.as_ref(),
            ending: self.ending,
            finished: self.finished.as_ref(),
            host_ips: &["192.0.2.1".parse().unwrap()],
            runtime_name: "containerd",
            created_at: at(0),
            now: at(self.now),
        };
        status(&situation, self.previous.as_ref())
    }

    /// Takes the status so far as the previous one and looks again later.
    fn look_again(&mut self, now: i64) {
        self.previous = Some(self.status());
        self.now = now;
    }

    fn ends(&mut self, exit_code: i32, finished_at: i64) {
        self.case.observed.containers[WEB].phase = ContainerPhase::Exited {
            started_at: at(2),
            finished_at: at(finished_at),
            exit_code,
            reason: if exit_code == 0 { "Completed" } else { "Error" }.to_owned(),
            message: String::new(),
        };
    }

    fn waits(&mut self, reason: &'static str) {
        self.waiting = vec![Some(Waiting { reason, message: "why".to_owned() })];
    }

    /// Phase, and the container as `state lastState restarts`, each state by its word or reason.
    fn summary(&self) -> (String, String) {
        let status = self.status();
        let word = |state: Option<k8s::ContainerState>| match state.unwrap_or_default() {
            k8s::ContainerState { running: Some(_), .. } => "running".to_owned(),
            k8s::ContainerState { waiting: Some(waiting), .. } => waiting.reason.unwrap_or_default(),
            k8s::ContainerState { terminated: Some(terminated), .. } => {
                format!("{}({})", terminated.reason.unwrap_or_default(), terminated.exit_code)
            }
            _ => "-".to_owned(),
        };
        let mut containers = status.container_statuses.unwrap_or_default();
        let web = containers.remove(WEB);
        let ready = if web.ready { "ready" } else { "unready" };
        let web = format!("{} {} {} {ready}", word(web.state), word(web.last_state), web.restart_count);
        (status.phase.unwrap_or_default(), web)
    }
}

fn condition(type_: &str, since: i64) -> Value {
    json!({ "type": type_, "status": "True", "lastTransitionTime": text(since) })
}

#[test]
fn a_running_pod_is_shown_whole() {
    let mut row = base();
    row.case.pod.containers[WEB].mounts[0].volume = Some("log".to_owned());
    row.case.pod.containers[WEB].mounts[0].read_only = true;
    let mount = json!({ "name": "log", "mountPath": "/etc/hosts", "readOnly": true, "recursiveReadOnly": "Disabled" });
    assert_eq!(
        serde_json::to_value(row.status()).unwrap(),
        json!({
            "phase": "Running",
            "qosClass": "BestEffort",
            "hostIP": "192.0.2.1",
            "hostIPs": [{ "ip": "192.0.2.1" }],
            "podIP": "10.4.0.2",
            "podIPs": [{ "ip": "10.4.0.2" }],
            "startTime": text(0),
            "conditions": [
                condition("PodReadyToStartContainers", 1),
                condition("Initialized", 0),
                condition("Ready", 2),
                condition("ContainersReady", 2),
                condition("PodScheduled", 0),
            ],
            "containerStatuses": [{
                "name": "web",
                "image": "nginx:1",
                "imageID": "sha256:1",
                "containerID": "containerd://c0",
                "restartCount": 0,
                "started": true,
                "ready": true,
                "state": { "running": { "startedAt": text(2) } },
                "lastState": {},
                "volumeMounts": [mount],
            }],
        })
    );
}

#[test]
fn a_restarted_agent_shows_the_same() {
    let mut row = base();
    let first = row.status();
    row.look_again(100);
    assert_eq!(row.status(), first);
    row.previous = None;
    assert_eq!(row.status(), first);
}

#[test]
fn each_state_of_a_container_has_its_phase() {
    let check = |change: fn(&mut Row), phase: &str, web: &str| {
        let mut row = base();
        change(&mut row);
        assert_eq!(row.summary(), (phase.to_owned(), web.to_owned()));
    };
    check(|_| {}, "Running", "running - 0 ready");
    check(|row| row.case.observed.containers.clear(), "Pending", "ContainerCreating - 0 unready");
    check(
        |row| {
            row.case.observed.containers.clear();
            row.waits("ImagePullBackOff");
        },
        "Pending",
        "ImagePullBackOff - 0 unready",
    );
    check(
        |row| row.case.observed.containers[WEB].phase = ContainerPhase::Created,
        "Pending",
        "ContainerCreating - 0 unready",
    );
    check(|row| row.ends(0, 5), "Running", "Completed(0) - 0 unready");
    check(
        |row| {
            row.ends(1, 5);
            row.waits("CrashLoopBackOff");
        },
        "Running",
        "CrashLoopBackOff Error(1) 0 unready",
    );
    check(
        |row| {
            row.ends(1, 5);
            let again = row.case.container("c1", "s0", 1, ContainerPhase::Running { started_at: at(6) });
            row.case.observed.containers.insert(0, again);
        },
        "Running",
        "running Error(1) 1 ready",
    );
    check(
        |row| row.case.observed.containers[WEB].phase = ContainerPhase::Unknown,
        "Pending",
        "ContainerCreating - 0 unready",
    );
}

#[test]
fn what_the_runtime_forgets_is_kept() {
    let mut row = base();
    row.look_again(10);
    row.case.observed.containers.clear();
    assert_eq!(
        row.summary(),
        ("Running".to_owned(), "ContainerCreating ContainerStatusUnknown(137) 1 unready".to_owned()),
        "a container that ran and is not there any more"
    );

    let mut row = base();
    row.ends(1, 5);
    row.look_again(10);
    row.case.observed.containers.clear();
    assert_eq!(row.summary().1, "Error(1) - 0 unready", "one that had ended");

    let mut row = base();
    row.look_again(10);
    row.case.observed.containers[WEB].phase = ContainerPhase::Unknown;
    assert_eq!(row.summary().1, "ContainerStatusUnknown(137) - 0 unready", "one the runtime lost track of");

    let mut row = base();
    row.ends(1, 5);
    row.waits("CrashLoopBackOff");
    row.look_again(10);
    row.waiting = vec![None];
    assert_eq!(row.summary().1, "Error(1) - 0 unready", "the newest instance is not its own past");
    row.case.observed.containers[WEB] =
        row.case.container("c1", "s0", 1, ContainerPhase::Running { started_at: at(11) });
    assert_eq!(row.summary().1, "running Error(1) 1 ready", "the one before it was removed");
}

#[test]
fn a_condition_keeps_its_time_while_it_stays_as_it_is() {
    let mut row = base();
    row.look_again(20);
    row.ends(1, 19);
    let ready = |row: &Row| serde_json::to_value(&row.status().conditions.unwrap()[2]).unwrap();
    let unready = json!({
        "type": "Ready", "status": "False", "lastTransitionTime": text(20), "reason": "ContainersNotReady",
        "message": "containers with unready status: [web]",
    });
    assert_eq!(ready(&row), unready);
    row.look_again(30);
    assert_eq!(ready(&row), unready);
    row.case.observed.containers[WEB] =
        row.case.container("c1", "s0", 1, ContainerPhase::Running { started_at: at(31) });
    assert_eq!(ready(&row), condition("Ready", 31));
}

#[test]
fn addresses_outlive_the_sandbox_and_are_the_hosts_with_its_network() {
    let ips = |row: &Row| row.status().pod_ips.map(|ips| ips.into_iter().map(|ip| ip.ip).collect::<Vec<_>>());
    let mut row = base();
    let more: [IpAddr; 2] = ["10.4.0.3", "fd00::3"].map(|ip| ip.parse().unwrap());
    row.case.observed.sandboxes[0].ips.extend(more);
    // The node's own family comes first, whatever the runtime says first.
    row.case.observed.sandboxes[0].ips.insert(0, "fd00::2".parse().unwrap());
    assert_eq!(ips(&row).unwrap(), ["10.4.0.2", "fd00::2"]);
    row.look_again(10);
    row.case.observed = ObservedPod::default();
    assert_eq!(ips(&row).unwrap(), ["10.4.0.2", "fd00::2"]);
    row.previous = None;
    assert_eq!(ips(&row), None);
    row.case.pod.namespaces.host_network = true;
    assert_eq!(ips(&row).unwrap(), ["192.0.2.1"]);
}

#[test]
fn a_pod_that_was_not_admitted_shows_why_and_nothing_else() {
    let mut row = base();
    row.case.observed = ObservedPod::default();
    row.rejection = Some(Rejection { reason: "OutOfcpu".to_owned(), message: "too little".to_owned() });
    let status = row.status();
    assert_eq!(
        (status.phase.as_deref(), status.reason.as_deref(), status.message.as_deref(), status.container_statuses),
        (Some("Pending"), Some("OutOfcpu"), Some("Pod was rejected: too little"), None)
    );
    let ready = &status.conditions.unwrap()[2];
    assert_eq!(ready.message.as_deref(), Some("containers with unknown status: [web]"));
}

#[test]
fn a_pod_that_ends_is_terminal_when_its_last_container_has_ended() {
    let mut row = base();
    row.ending = true;
    assert_eq!(row.summary().0, "Running");
    row.ends(0, 5);
    assert_eq!(row.summary().0, "Succeeded");
    let reasons: Vec<_> = row.status().conditions.unwrap().into_iter().map(|condition| condition.reason).collect();
    let completed = Some("PodCompleted".to_owned());
    assert_eq!(reasons, [None, completed.clone(), completed.clone(), completed, None]);
    row.ends(143, 5);
    assert_eq!(row.summary().0, "Failed");
    row.look_again(10);
    row.case.observed = ObservedPod::default();
    assert_eq!(row.summary(), ("Failed".to_owned(), "Error(143) - 0 unready".to_owned()));
}

#[test]
fn last_words_are_cut_to_their_share_at_a_letter() {
    let mut row = base();
    row.ends(1, 5);
    if let ContainerPhase::Exited { message, .. } = &mut row.case.observed.containers[WEB].phase {
        *message = format!("a{}", "é".repeat(10_000));
    }
    let state = row.status().container_statuses.unwrap().remove(WEB).state.unwrap();
    let message = state.terminated.unwrap().message.unwrap();
    assert_eq!(message, format!("a{}", "é".repeat(6143)));
}
