//! Init containers, sidecars, hooks, probes and ends of pods, from what control says to the calls of the runtime.

use super::*;
use crate::agent::worker::{self, Assignment, Charge, FromPod};
use crate::host::ledger::RevisionRecord;
use crate::link::{CommandId, PodAction, PodCommand};
use crate::model::Finished;
use crate::podspec::{Pod, Role};
use crate::testing::pods;
use crate::testing::wait::until;

/// A container of a template with fields laid over it.
fn container(name: &str, fields: &Value) -> Value {
    laid_over(json!({ "name": name, "image": reference("one"), "imagePullPolicy": "IfNotPresent" }), fields)
}

fn plain(name: &str) -> Value {
    container(name, &json!({}))
}

fn sidecar(name: &str) -> Value {
    container(name, &json!({ "restartPolicy": "Always" }))
}

/// A probe by a command whose first finding counts.
fn probe(command: &str) -> Value {
    json!({
        "exec": { "command": [command] }, "periodSeconds": 10, "timeoutSeconds": 1, "successThreshold": 1,
        "failureThreshold": 1,
    })
}

/// A host whose `web` has this spec, before anything is known of its pod.
async fn given(spec: &Value) -> (Host, Agent) {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[set_with("web", "one", spec)]).await;
    (host, agent)
}

impl Host {
    /// Waits until a container of the only pod of `web` runs.
    async fn begins(&self, name: &str) -> Uid {
        eventually(&format!("{name} to run"), async || {
            let [pod] = <[Seen; 1]>::try_from(self.pods().await.remove("web")?).ok()?;
            let runs = |phase: &ContainerPhase| matches!(phase, ContainerPhase::Running { .. });
            pod.observed.containers.iter().any(|one| one.name == name && runs(&one.phase)).then_some(pod.uid)
        })
        .await
    }

    /// What the runtime was asked to do so far: `start main`, `exec greet`, `stop main`, and `sandbox` for a new one.
    fn deeds(&self) -> Vec<String> {
        let deed = |call: crate::testing::fake_cri::Call| {
            let whose = || call.request["container_id"].as_str().unwrap().rsplit_once('-').unwrap().0.to_owned();
            match call.method {
                "RunPodSandbox" => Some("sandbox".to_owned()),
                "StartContainer" => Some(format!("start {}", whose())),
                "ExecSync" => Some(format!("exec {}", call.request["cmd"][0].as_str().unwrap())),
                "StopContainer" => Some(format!("stop {}", whose())),
                _ => None,
            }
        };
        self.cri.calls().into_iter().filter_map(deed).collect()
    }

    /// Waits until so much was done, and nothing else until then.
    async fn did(&self, deeds: &[&str]) {
        eventually(&format!("{deeds:?}, not {:?}", self.deeds()), async || {
            (self.deeds().len() >= deeds.len()).then_some(())
        })
        .await;
        assert_eq!(self.deeds(), deeds);
    }
}

#[tokio::test(start_paused = true)]
async fn init_containers_run_one_by_one_and_sidecars_outlive_what_they_serve() {
    let (host, mut agent) = given(&json!({
        "initContainers": [plain("setup"), sidecar("proxy"), plain("late"), sidecar("mesh")],
        "containers": [plain("main"), plain("aux")],
    }))
    .await;
    let uid = host.begins("setup").await;
    agent.settle().await;
    let mut deeds = vec!["sandbox", "start setup"];
    host.did(&deeds).await;
    host.cri.end_container(&uid, "setup", 0);
    host.begins("late").await;
    agent.settle().await;
    deeds.extend(["start proxy", "start late"]);
    host.did(&deeds).await;
    let told = |_: &PodReport, status: &Value| {
        let mut states = ["terminated", "running", "running", "waiting"].into_iter().enumerate();
        let is_state = |(index, state)| status["initContainerStatuses"][index]["state"].get(state).is_some();
        states.all(is_state)
            && status["phase"] == "Pending"
            && status["containerStatuses"][0]["state"]["waiting"]["reason"] == "PodInitializing"
    };
    agent.reports("a pod that is being initialized", "web", told).await;

    host.cri.end_container(&uid, "late", 0);
    host.begins("aux").await;
    agent.reports("a ready pod", "web", |_, status| status["containerStatuses"][1]["ready"] == true).await;
    deeds.extend(["start mesh", "start main", "start aux"]);
    host.did(&deeds).await;
    agent.answer(2, "web", Answer::Deleted { seq: 2, kept: vec![] }).await;
    host.lacks("web").await;
    let mut ended = host.deeds().split_off(deeds.len());
    // Containers end together, sidecars one after the other.
    ended[..2].sort();
    assert_eq!(ended, ["stop aux", "stop main", "stop mesh", "stop proxy"]);
    assert_eq!(host.left_behind(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn an_init_container_is_run_until_it_succeeds_and_again_in_a_new_sandbox() {
    let (host, mut agent) = given(&json!({ "initContainers": [plain("setup")] })).await;
    for exit_code in [1, 0] {
        let uid = host.begins("setup").await;
        host.cri.end_container(&uid, "setup", exit_code);
    }
    let uid = host.begins("main").await;
    host.cri.end_sandbox(&uid);
    host.begins("setup").await;
    agent.settle().await;
    let mut deeds = vec!["sandbox", "start setup", "start setup", "start main", "sandbox", "start setup"];
    host.did(&deeds).await;
    agent.event("SandboxChanged").await;
    host.cri.end_container(&uid, "setup", 0);
    host.begins("main").await;
    deeds.push("start main");
    host.did(&deeds).await;
    let told = |_: &PodReport, status: &Value| {
        (&status["initContainerStatuses"][0]["restartCount"], &status["containerStatuses"][0]["restartCount"])
            == (&json!(2), &json!(1))
    };
    agent.reports("all restarts", "web", told).await;
}

#[tokio::test(start_paused = true)]
async fn hooks_hold_up_what_follows_and_end_with_the_grace_period() {
    let hooks = json!({
        "postStart": { "exec": { "command": ["greet"] } }, "preStop": { "exec": { "command": ["take-leave"] } },
    });
    let containers = [container("main", &json!({ "lifecycle": hooks })), plain("aux")];
    let host = Host::new();
    host.cri.hold("ExecSync");
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[set_with("web", "one", &json!({ "containers": containers }))]).await;
    let mut deeds = vec!["sandbox", "start main", "exec greet"];
    host.did(&deeds).await;
    agent.settle().await;
    host.did(&deeds).await;
    host.cri.release("ExecSync");
    host.begins("aux").await;
    deeds.push("start aux");
    host.did(&deeds).await;

    host.cri.hold("ExecSync");
    agent.answer(2, "web", Answer::Deleted { seq: 2, kept: vec![] }).await;
    eventually("both to be told", async || (host.deeds().len() == 6).then_some(())).await;
    agent.settle().await;
    let mut told = host.deeds().split_off(deeds.len());
    told.sort();
    assert_eq!(told, ["exec take-leave", "stop aux"]);
    // The hook does not come to an end; the container is left two seconds when the pod's five are over.
    host.lacks("web").await;
    assert_eq!(host.deeds().split_off(6), ["stop main"]);
    let calls = host.cri.calls();
    let timeouts: Vec<_> =
        calls.iter().filter(|call| call.method == "StopContainer").map(|call| &call.request["timeout"]).collect();
    assert_eq!(timeouts, [&json!(5), &json!(2)]);
    agent.event("FailedPreStopHook").await;
}

#[tokio::test(start_paused = true)]
async fn a_container_that_cannot_be_greeted_is_stopped_and_tried_again() {
    let greet = json!({ "lifecycle": { "postStart": { "exec": { "command": ["greet"] } } } });
    let host = Host::new();
    host.cri.answer_exec(3, "no");
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[set_with("web", "one", &json!({ "containers": [container("main", &greet)] }))]).await;
    host.did(&["sandbox", "start main", "exec greet", "stop main"]).await;
    assert_eq!(agent.event("FailedPostStartHook").await, "PostStartHook failed");
    assert_eq!(agent.event("Killing").await, "FailedPostStartHook");
    let status = agent.waits("web", "PostStartHookError").await;
    let message = status["containerStatuses"][0]["state"]["waiting"]["message"].as_str().unwrap();
    assert!(message.contains("exited with 3"), "{message}");
    host.cri.answer_exec(0, "");
    agent.reports("a ready pod", "web", |_, status| status["containerStatuses"][0]["ready"] == true).await;
}

#[tokio::test(start_paused = true)]
async fn probes_restart_what_fails_and_hold_back_what_waits_for_a_sidecar() {
    let proxy = container("proxy", &json!({ "restartPolicy": "Always", "startupProbe": probe("started") }));
    let main = container("main", &json!({ "livenessProbe": probe("alive"), "readinessProbe": probe("ready") }));
    let host = Host::new();
    host.cri.hold("ExecSync");
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[set_with("web", "one", &json!({ "initContainers": [proxy], "containers": [main] }))]).await;
    host.did(&["sandbox", "start proxy", "exec started"]).await;
    agent.settle().await;
    assert_eq!(host.deeds().len(), 3);
    host.cri.release("ExecSync");
    host.begins("main").await;
    agent.reports("a ready pod", "web", |_, status| status["containerStatuses"][0]["ready"] == true).await;

    host.cri.answer_exec(1, "");
    let told = |_: &PodReport, status: &Value| {
        status["containerStatuses"][0]["restartCount"] == 1 && status["containerStatuses"][0]["ready"] == false
    };
    agent.reports("a restart", "web", told).await;
    host.begins("main").await;
    let why = agent.hears("an event Killing", |up| {
        let Up::Events(events) = up else { return None };
        events.iter().find(|event| event.reason == "Killing").map(|event| event.message.clone())
    });
    assert_eq!(why.await, "Container main failed liveness probe, will be restarted");
    let restarts: Vec<_> = host.deeds().into_iter().filter(|deed| !deed.starts_with("exec")).collect();
    assert_eq!(restarts, ["sandbox", "start proxy", "start main", "stop main", "start main"]);
}

#[tokio::test(start_paused = true)]
async fn a_container_may_have_its_whole_pod_begin_anew() {
    let rule = json!({ "action": "RestartAllContainers", "exitCodes": { "operator": "In", "values": [42] } });
    let main = container("main", &json!({ "restartPolicy": "Never", "restartPolicyRules": [rule] }));
    let host = Host::new();
    host.cri.end_at_start("setup", 0);
    let mut agent = host.start();
    agent.connect().await;
    let spec = json!({ "initContainers": [plain("setup")], "containers": [main, plain("aux")] });
    agent.apply(1, &[set_with("web", "one", &spec)]).await;
    let uid = host.begins("aux").await;
    host.cri.end_container(&uid, "main", 42);
    agent
        .reports("that all is restarted", "web", |_, status| {
            let mut conditions = status["conditions"].as_array().into_iter().flatten();
            conditions.any(|one| one["type"] == "AllContainersRestarting" && one["status"] == "True")
        })
        .await;
    let once = ["start setup", "start main", "start aux"];
    let deeds = [&["sandbox"], &once[..], &["stop aux"], &once].concat();
    host.did(&deeds).await;
}

#[tokio::test(start_paused = true)]
async fn a_daemonsets_pod_that_came_to_its_end_is_replaced_later_each_time_it_failed() {
    let (host, mut agent) = given(&json!({ "restartPolicy": "Never" })).await;
    let first = host.runs("web", "one").await;
    host.cri.end_container(&first.uid, "main", 0);
    let finished = |reason: &'static str| move |_: &PodReport, status: &Value| status["phase"] == reason;
    agent.reports("a pod that succeeded", "web", finished("Succeeded")).await;
    let message = agent.event("SucceededDaemonPod").await;
    assert!(message.ends_with("on node node-1, will try to delete it"), "{message}");
    let mut last = host.runs("web", "one").await;
    assert_ne!(last.uid, first.uid);

    let mut rests = Vec::new();
    for _ in 0..3 {
        host.cri.end_container(&last.uid, "main", 1);
        agent.reports("a pod that failed", "web", finished("Failed")).await;
        let failed_at = tokio::time::Instant::now();
        let next = eventually("another pod", async || {
            let [pod] = <[Seen; 1]>::try_from(host.pods().await.remove("web")?).ok()?;
            (pod.uid != last.uid && pod.running().is_some()).then_some(pod)
        });
        last = next.await;
        rests.push(failed_at.elapsed().as_secs());
    }
    assert_eq!(rests, [0, 1, 2]);
    agent.event("FailedDaemonPod").await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_runs_for_too_long_fails_and_another_takes_its_place() {
    let (host, mut agent) = given(&json!({ "activeDeadlineSeconds": 20 })).await;
    let first = host.runs("web", "one").await;
    let told = |_: &PodReport, status: &Value| {
        status["phase"] == "Failed"
            && status["reason"] == "DeadlineExceeded"
            && status["message"] == "Pod was active on the node longer than the specified deadline"
    };
    agent.reports("a pod past its deadline", "web", told).await;
    agent.event("DeadlineExceeded").await;
    let next = eventually("another pod", async || {
        let pods = host.pods().await.remove("web")?;
        pods.into_iter().find(|pod| pod.uid != first.uid && pod.running().is_some())
    });
    next.await;
}

/// A host on which a pod of no DaemonSet runs.
async fn with_bare_pod() -> (Host, Uid) {
    let (host, agent) = given(&json!({ "restartPolicy": "Never" })).await;
    let pod = host.runs("web", "one").await;
    agent.stop().await;
    let Opened { mut ledger, mut contents, .. } = Ledger::open(host.dir.path(), None).unwrap();
    contents.daemonsets.clear();
    contents.pods.get_mut(&pod.uid).unwrap().daemonset = None;
    ledger.commit(&contents.snapshot(), &[]).unwrap();
    (host, pod.uid)
}

impl Agent {
    async fn finishes(&mut self, pod: &Uid, phase: &str) {
        self.hears(&format!("the pod to have {phase}"), |up| {
            let Up::Pods(reports) = up else { return None };
            let report = reports.iter().find(|report| report.key.uid == *pod && !report.gone)?;
            let status: Value = serde_json::from_slice(&report.status).unwrap();
            (status["phase"] == phase).then_some(())
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_of_no_daemonset_stays_as_it_ended_until_it_is_deleted() {
    let (host, uid) = with_bare_pod().await;
    let mut agent = host.start();
    agent.connect().await;
    host.cri.end_container(&uid, "main", 0);
    agent.finishes(&uid, "Succeeded").await;
    agent.settle().await;
    let succeeded = Finished { succeeded: true, reason: None, message: None, disrupted: false };
    assert_eq!(host.ledger().pods[&uid].finished, Some(succeeded));
    agent.stop().await;

    // Even when the runtime has forgotten it.
    host.cri.runtime().remove_sandbox(&host.pods().await["web"][0].observed.sandboxes[0].id).await.unwrap();
    let before = host.deeds();
    let mut agent = host.start();
    agent.connect().await;
    agent.finishes(&uid, "Succeeded").await;
    agent.settle().await;
    assert_eq!(host.deeds(), before);
    let action = PodAction::Delete { grace_period_secs: 0, permit: None };
    agent.down(Down::Pod { id: CommandId(1), command: PodCommand { uid: uid.clone(), needs_seq: 0, action } }).await;
    eventually("the pod to be gone", async || host.ledger().pods.is_empty().then_some(())).await;
    assert_eq!(host.left_behind(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_container_added_to_a_running_pod_sees_its_target_and_is_started_once() {
    let host = Host::new();
    host.cri.add_image("image");
    let shared = Arc::new(host.shared());
    let (inputs_tx, mut inputs_rx) = mpsc::channel(INPUTS);
    let mut pod = pods::pod("web", host.dir.path());
    pod.containers.push(pods::container("main", "image", &[]));
    let record = PodRecord {
        key: pod.key.clone(),
        daemonset: None,
        revision: RevisionRecord { hash: pod.origin.revision.clone(), bundle: blob_hash(b"") },
        created_at: Timestamp::now(),
        ending: None,
        finished: None,
        amended: None,
        ephemeral_containers: vec![],
    };
    let charge = |pod: &Pod| Charge { pod: Arc::new(pod.clone()), record: record.clone(), min_ready: Duration::ZERO };
    let mut worker = worker::spawn(shared.clone(), charge(&pod), Assignment::Run, inputs_tx);
    let running = |count: usize| {
        move |observed: &ObservedPod| {
            let runs = |phase: &ContainerPhase| matches!(phase, ContainerPhase::Running { .. });
            observed.containers.iter().filter(|one| runs(&one.phase)).count() == count
        }
    };
    let observed = until(&mut worker.observed, "main to run", running(1)).await;
    let main = observed.containers[0].id.clone();

    let mut debug = pods::container("debug", "image", &[]);
    (debug.role, debug.target) = (Role::Ephemeral, Some("main".to_owned()));
    pod.containers.push(debug);
    worker.assign(charge(&pod), Assignment::Run);
    until(&mut worker.observed, "the other to run beside it", running(2)).await;
    let calls = host.cri.calls();
    let made: Vec<_> = calls.iter().filter(|call| call.method == "CreateContainer").collect();
    let namespaces = &made[1].request["config"]["linux"]["security_context"]["namespace_options"];
    let target = k8s_cri::v1::NamespaceMode::Target as i32;
    assert_eq!((&namespaces["pid"], &namespaces["target_id"]), (&json!(target), &json!(main.as_str())));

    host.cri.end_container(&worker.pod.key.uid, "debug", 1);
    shared.hints.changed(&worker.pod.key.uid);
    until(&mut worker.observed, "its end", running(1)).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(host.deeds(), ["sandbox", "start main", "start debug"]);
    let statuses = std::iter::from_fn(|| inputs_rx.try_recv().ok()).filter_map(|input| match input {
        Input::Pod(FromPod::Status(_, view)) => Some(view.status),
        _ => None,
    });
    let last = serde_json::to_value(statuses.last().unwrap()).unwrap();
    assert_eq!(last["ephemeralContainerStatuses"][0]["state"]["terminated"]["exitCode"], 1);
    assert_eq!((&last["phase"], &last["containerStatuses"][0]["ready"]), (&json!("Running"), &json!(true)));
}
