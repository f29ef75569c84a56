//! Pods that users posted to this node, and what they change of others.

use super::*;
use crate::link::{Amendment, Assigned, CommandId, Outcome, PodAction, PodCommand};

/// A pod of one container of an image that runs to its end once.
fn posted(name: &str, image: &str) -> Bundle {
    let container = json!({
        "name": "main", "image": reference(image), "imagePullPolicy": "IfNotPresent",
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
    });
    let pod = json!({
        "metadata": { "name": name, "namespace": "default", "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z" },
        "spec": {
            "nodeName": "node-1", "restartPolicy": "Never", "containers": [container],
            "terminationGracePeriodSeconds": 5,
        },
    });
    Bundle::from_pod(serde_json::from_value(pod).unwrap(), None)
}

fn tolerating(mut pod: Bundle, toleration: &Value) -> Bundle {
    pod.template.spec.as_mut().unwrap().tolerations = serde_json::from_value(json!([toleration])).unwrap();
    pod
}

impl Agent {
    /// Says which pods were posted, and sends them as they are asked for.
    pub(super) async fn assign(&mut self, pods: &[Bundle]) {
        self.speaks_of(pods).await;
        for pod in pods {
            self.hears("the pod to be asked for", |up| match up {
                Up::Needs(needs) => needs.blobs.iter().any(|blob| blob.hash == hash(pod)).then_some(()),
                _ => None,
            })
            .await;
            self.down(chunk(&content(pod), 0..)).await;
        }
    }

    pub(super) async fn speaks_of(&self, pods: &[Bundle]) {
        let entry =
            |pod: &Bundle| Entry { uid: pod.uid.clone(), kind: Kind::Pod, seq: 1, hash: hash(pod), written: None };
        let pods = pods.iter().map(entry).collect();
        self.down(Down::Assigned(Assigned { position: position(1), pods, objects: vec![] })).await;
    }

    pub(super) async fn command(&mut self, pod: &Uid, action: PodAction) -> Outcome {
        let id = CommandId(9);
        self.down(Down::Pod { id, command: PodCommand { uid: pod.clone(), needs_seq: 0, action } }).await;
        self.hears("an acknowledgement of the command", |up| match up {
            Up::Ack(Ack::Command { id: done, outcome }) if *done == id => Some(outcome.clone()),
            _ => None,
        })
        .await
    }

    async fn reports_posted(&mut self, what: &str, wanted: impl Fn(&PodReport, &Value) -> bool) -> PodReport {
        self.hears(what, |up| {
            let Up::Pods(reports) = up else { return None };
            let mut posted = reports.iter().filter(|report| report.daemonset.is_none());
            posted.find(|report| wanted(report, &serde_json::from_slice(&report.status).unwrap())).cloned()
        })
        .await
    }
}

#[tokio::test(start_paused = true)]
async fn a_posted_pod_runs_to_its_end_and_stays_until_it_is_deleted() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    agent.assign(&[posted("probe", "one")]).await;
    let pod = host.runs("probe", "posted").await;
    let record = host.ledger().pods.remove(&pod.uid).expect("it is in the ledger");
    assert_eq!((record.daemonset, record.created_at.to_string()), (None, "2026-01-01T00:00:00Z".to_owned()));
    agent.reports_posted("that it runs", |_, status| status["phase"] == "Running").await;

    // Nothing needs control: another agent goes on with it, and it ends.
    agent.stop().await;
    let mut agent = host.start();
    agent.settle().await;
    assert_eq!(host.runs("probe", "posted").await, pod);
    host.cri.end_container(&pod.uid, "main", 0);
    agent.connect().await;
    agent.reports_posted("that it succeeded", |_, status| status["phase"] == "Succeeded").await;
    agent.settle().await;
    let starts = || host.cri.calls().iter().filter(|call| call.method == "StartContainer").count();
    assert_eq!(starts(), 1, "it is not started again");

    let delete = PodAction::Delete { grace_period_secs: 1, permit: None };
    assert_eq!(agent.command(&pod.uid, delete).await, Outcome::Done);
    agent.reports_posted("its last report", |report, _| report.gone).await;
    host.lacks("probe").await;
    assert_eq!((host.ledger().pods.len(), host.left_behind()), (0, vec![]));
}

#[tokio::test(start_paused = true)]
async fn another_image_for_a_posted_pod_restarts_its_container() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    agent.assign(&[posted("probe", "one")]).await;
    let before = host.runs("probe", "posted").await;
    agent.assign(&[posted("probe", "two")]).await;
    eventually("the container to be another", async || {
        let [pod] = <[Seen; 1]>::try_from(host.pods().await.remove("probe")?).ok()?;
        (pod.running().is_some_and(|id| Some(id) != before.running()) && pod.uid == before.uid).then_some(())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn another_image_while_the_first_is_pulled_is_the_one_that_runs() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    host.cri.hold("PullImage");
    agent.assign(&[posted("probe", "one")]).await;
    host.asked_for("PullImage").await;
    agent.assign(&[posted("probe", "two")]).await;
    agent.settle().await;
    host.cri.release("PullImage");
    host.runs("probe", "posted").await;
    let created = host.cri.calls().into_iter().filter(|call| call.method == "CreateContainer");
    let images = created.map(|call| call.request["config"]["image"]["image"].clone()).collect::<Vec<_>>();
    assert_eq!(images, [json!(format!("sha256:{}", reference("two")))]);
}

#[tokio::test(start_paused = true)]
async fn what_users_change_of_a_pod_is_on_disk_and_in_force() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    let labels = json!({ "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.labels" }, "path": "labels" });
    let volume = json!({ "name": "self", "downwardAPI": { "items": [labels], "defaultMode": 0o644 } });
    let mut web = set_with("web", "one", &json!({ "volumes": [volume] }));
    let mounts = json!([{ "name": "self", "mountPath": "/self" }]);
    web.template.spec.as_mut().unwrap().containers[0].volume_mounts = serde_json::from_value(mounts).unwrap();
    agent.apply(1, &[web]).await;
    let pod = host.runs("web", "one").await;

    let added = json!({
        "name": "look", "image": reference("two"), "imagePullPolicy": "IfNotPresent",
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
    });
    let labels = BTreeMap::from([("app".to_owned(), "web".to_owned()), ("color".to_owned(), "blue".to_owned())]);
    let ephemeral_containers = vec![Bytes::from(added.to_string())];
    let amendment = Amendment { labels, annotations: BTreeMap::new(), ephemeral_containers };
    assert_eq!(agent.command(&pod.uid, PodAction::Amend(amendment.clone())).await, Outcome::Done);
    let file = host.dir.path().join(format!("root/pods/{}/volumes/kubernetes.io~downward-api/self/labels", pod.uid));
    eventually("the volume to follow", async || {
        let text = std::fs::read_to_string(&file).ok()?;
        text.contains("color=\"blue\"").then_some(())
    })
    .await;
    agent
        .reports("that the added container runs", "web", |_, status| {
            status["ephemeralContainerStatuses"][0]["state"]["running"].is_object()
        })
        .await;
    let now = host.runs("web", "one").await;
    assert_eq!((now.uid, now.observed.containers.len()), (pod.uid.clone(), 2));
    let containers: Vec<_> = now.observed.containers.iter().map(|container| container.id.clone()).collect();

    // Said again in another session, it changes nothing.
    agent.stop().await;
    let mut agent = host.start();
    agent.connect().await;
    assert_eq!(agent.command(&pod.uid, PodAction::Amend(amendment)).await, Outcome::Done);
    agent.settle().await;
    let again = host.runs("web", "one").await;
    assert_eq!(again.observed.containers.iter().map(|container| container.id.clone()).collect::<Vec<_>>(), containers);

    // Its volume is a mount, which would outlive the test.
    agent.answer(2, "web", Answer::Deleted { seq: 2, kept: vec![] }).await;
    agent.reports("the pod's last report", "web", |report, _| report.gone).await;
}

#[tokio::test(start_paused = true)]
async fn a_taint_drives_posted_pods_out_at_once_or_after_the_time_they_tolerate() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    let toleration =
        json!({ "key": "dedicated", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60 });
    let patient = tolerating(posted("patient", "one"), &toleration);
    agent.assign(&[posted("probe", "one")]).await;
    agent.assign(&[patient]).await;
    agent.apply(1, &[set_with("web", "one", &json!({ "tolerations": [toleration] }))]).await;
    let (_, patient, web) =
        (host.runs("probe", "posted").await, host.runs("patient", "posted").await, host.runs("web", "one").await);

    agent.node(&[], &["dedicated=db:NoSchedule"]).await;
    agent.settle().await;
    host.runs("probe", "posted").await;
    agent.node(&[], &["dedicated=db:NoExecute"]).await;
    host.lacks("probe").await;
    agent
        .hears("why it ends", |up| {
            let Up::Events(events) = up else { return None };
            events.iter().any(|event| event.reason == "TaintManagerEviction" && event.name == "probe").then_some(())
        })
        .await;
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert_eq!((host.runs("patient", "posted").await, host.runs("web", "one").await), (patient, web.clone()));
    host.lacks("patient").await;
    // The DaemonSet tolerates the taint: it has another pod in its place.
    eventually("another pod of the DaemonSet", async || {
        let pods = host.pods().await.remove("web")?;
        pods.iter().all(|pod| pod.uid != web.uid && pod.running().is_some()).then_some(())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_not_ready_keeps_its_daemons_and_drives_posted_pods_out_after_a_while() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    let tolerating = |name: &str, seconds: u64| {
        let key = "node.kubernetes.io/not-ready";
        let toleration =
            json!({ "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds });
        tolerating(posted(name, "one"), &toleration)
    };
    for pod in [tolerating("hasty", 0), tolerating("patient", 20), posted("probe", "one")] {
        agent.assign(&[pod]).await;
    }
    agent.apply(1, &[set("web", "one")]).await;
    let hasty = host.runs("hasty", "posted").await;
    let patient = host.runs("patient", "posted").await;
    let others = (host.runs("probe", "posted").await, host.runs("web", "one").await);

    // Before the runtime was asked nothing is known against the node.
    agent.stop().await;
    let mut agent = host.start();
    agent.connect().await;
    agent.settle().await;
    assert_eq!(host.runs("hasty", "posted").await, hasty);

    host.cri.set_network_ready(false);
    host.lacks("hasty").await;
    assert_eq!(host.runs("patient", "posted").await, patient);
    host.lacks("patient").await;
    // One that says nothing of it tolerates it for five minutes.
    assert_eq!((host.runs("probe", "posted").await, host.runs("web", "one").await), others);
}

#[tokio::test(start_paused = true)]
async fn a_node_short_of_memory_refuses_a_posted_pod_that_asked_for_none() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    agent.conditions_tx.send_replace(Conditions { memory: true, ..Conditions::default() });
    agent.settle().await;
    let toleration = json!({ "key": "node.kubernetes.io/memory-pressure", "operator": "Exists" });
    agent.assign(&[posted("probe", "one")]).await;
    agent.assign(&[tolerating(posted("tolerant", "one"), &toleration)]).await;
    agent.apply(1, &[set("web", "one")]).await;
    host.runs("tolerant", "posted").await;
    host.runs("web", "one").await;
    let report = agent.reports_posted("the refusal", |_, status| status["reason"] == "Evicted").await;
    let status: Value = serde_json::from_slice(&report.status).unwrap();
    assert_eq!(report.key.name, "probe");
    assert_eq!(status["message"], "Pod was rejected: The node had condition: [MemoryPressure]. ");
    assert!(!host.pods().await.contains_key("probe"));

    agent.conditions_tx.send_replace(Conditions::default());
    host.runs("probe", "posted").await;
}
