//! Single pods: those that users post, and what they change of others.

use super::*;
use crate::link::{Amendment, Assigned, Entry, Kind as LinkKind, ObjectAnswer, ObjectRef};
use crate::model::ObjectKey;

impl Harness {
    async fn post(&self, name: &str, node: &str) -> Value {
        let object = json!({
            "metadata": {"name": name, "labels": {"run": name}},
            "spec": {
                "nodeName": node, "restartPolicy": "Never", "automountServiceAccountToken": false,
                "containers": [{"name": "main", "image": "registry.example/probe:1"}],
                "volumes": [{"name": "keys", "secret": {"secretName": "keys"}}],
            },
        });
        self.objects.create(&POD, "default", object, WriteOptions::default()).await.unwrap()
    }

    async fn change_pod(&self, name: &str, part: Part, change: impl Fn(&mut Value) + Send + Sync) {
        let change = |current: &Value| {
            let mut pod = current.clone();
            change(&mut pod);
            Ok::<_, ObjectError>(pod)
        };
        self.objects.update(&POD, "default", name, part, WriteOptions::default(), change).await.unwrap();
    }
}

impl Node {
    async fn assigned_pods(&mut self) -> Vec<Entry> {
        self.pick(|down| if let Down::Assigned(Assigned { pods, .. }) = down { Some(pods) } else { None }).await
    }

    async fn posted(&mut self, entry: &Entry) -> Bundle {
        let blobs = vec![NeededBlob { hash: entry.hash.clone(), offset: 0 }];
        self.say(Up::Needs(Needs { blobs, objects: vec![] })).await;
        let chunk = self.pick(|down| if let Down::Blob(chunk) = down { Some(chunk) } else { None }).await;
        assert_eq!((&chunk.hash, chunk.total), (&entry.hash, chunk.data.len() as u64));
        Bundle::decode(&chunk.data).unwrap()
    }

    async fn amended(&mut self, uid: &Uid) -> Amendment {
        self.pick(|down| match down {
            Down::Pod { command, .. } if command.uid == *uid => match command.action {
                PodAction::Amend(amendment) => Some(amendment),
                other => panic!("{other:?}"),
            },
            _ => None,
        })
        .await
    }
}

/// The report of a posted pod.
fn report(pod: &Value, phase: &str) -> PodReport {
    PodReport {
        key: PodKey { namespace: "default".into(), name: meta(pod, "name").into(), uid: meta(pod, "uid").into() },
        daemonset: None,
        revision: "posted".into(),
        created_at: meta(pod, "creationTimestamp").parse().unwrap(),
        available: false,
        ending: None,
        gone: false,
        status: json!({"phase": phase}).to_string().into(),
    }
}

#[tokio::test]
async fn a_posted_pod_goes_to_its_node_and_lives_as_long_as_users_want() {
    let harness = Harness::new().await;
    let (host, other) = (harness.join("edge-1").await, harness.join("edge-2").await);
    let (mut node, _) = harness.in_step(&host, hello()).await;
    let (mut other, _) = harness.in_step(&other, hello()).await;
    let pod = harness.post("probe", "edge-1").await;
    let pods = node.assigned_pods().await;
    assert_eq!((pods.len(), pods[0].uid.as_str(), pods[0].kind), (1, meta(&pod, "uid"), LinkKind::Pod));
    let bundle = node.posted(&pods[0]).await;
    assert_eq!((bundle.key().to_string(), bundle.revision.as_str()), ("default/probe".to_owned(), "posted"));
    assert_eq!(bundle.posted.unwrap().created_at.to_string(), meta(&pod, "creationTimestamp"));

    // It may have what its pods name; nobody else may, and nobody else gets the pod.
    let keys = ObjectRef { kind: LinkKind::Secret, key: ObjectKey::new("default", "keys") };
    let ask = |hash| Needs { blobs: vec![NeededBlob { hash, offset: 0 }], objects: vec![keys.clone()] };
    node.say(Up::Needs(Needs { blobs: vec![], objects: vec![keys.clone()] })).await;
    let objects = |down| if let Down::Assigned(assigned) = down { Some(assigned.objects) } else { None };
    assert_eq!(node.pick(objects).await, [(keys.clone(), ObjectAnswer::Absent)]);
    other.say(Up::Needs(ask(pods[0].hash.clone()))).await;
    assert!(matches!(other.pick(objects).await[0].1, ObjectAnswer::Refused(_)));
    let chunk = other.pick(|down| if let Down::Blob(chunk) = down { Some(chunk) } else { None }).await;
    assert_eq!(chunk.total, 0);

    node.say(Up::Pods(vec![report(&pod, "Succeeded")])).await;
    let is_over = |pod: Option<&Value>| pod.is_some_and(|pod| pod["status"]["phase"] == "Succeeded");
    harness.until(&POD, "probe", is_over).await;

    // A change is told as a whole; then it ends.
    harness.change_pod("probe", Part::Main, |pod| pod["metadata"]["labels"]["a"] = "b".into()).await;
    let changed = node.assigned_pods().await;
    assert!(changed[0].uid == pods[0].uid && changed[0].hash != pods[0].hash);
    let bundle = node.posted(&changed[0]).await;
    assert_eq!(bundle.template.metadata.unwrap().labels.unwrap()["a"], "b");
    harness.delete(&POD, "default", "probe").await;
    let command = node.pick(|down| if let Down::Pod { command, .. } = down { Some(command) } else { None }).await;
    assert!(command.uid == pods[0].uid && matches!(command.action, PodAction::Delete { .. }), "{command:?}");
    assert_eq!(node.assigned_pods().await, []);
    node.say(Up::Pods(vec![PodReport { gone: true, ..report(&pod, "Succeeded") }])).await;
    timeout(SOON, async {
        while !harness.objects.tombstones().await.unwrap().0.is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert_eq!(harness.objects.pod_intents().await.unwrap(), []);
}

#[tokio::test]
async fn a_pod_waits_for_its_node_whatever_that_held_before() {
    let harness = Harness::new().await;
    let host = harness.join("edge-1").await;
    let pod = harness.post("probe", "edge-1").await;
    harness.sessions.shared.load().await.unwrap();
    let mut desired_rx = harness.sessions.shared.desired_rx.clone();
    let uid = Uid::from(meta(&pod, "uid"));
    desired_rx.wait_for(|desired| desired.pods.is_posted(&"edge-1".into(), &uid)).await.unwrap();
    let (mut node, _) = harness.connect(&host, hello()).await;
    assert_eq!(node.assigned_pods().await[0].uid, uid);
    assert!(harness.objects.get(&POD, "default", "probe").await.is_ok());
}

#[tokio::test]
async fn what_users_change_of_a_daemon_sets_pod_reaches_its_node_in_each_session() {
    let harness = Harness::new().await;
    let host = harness.join("edge-1").await;
    let (mut node, _, pod) = running(&harness, &host).await;
    harness.change_pod(&pod.key.name, Part::Main, |pod| pod["metadata"]["annotations"] = json!({"a": "b"})).await;
    let amendment = node.amended(&pod.key.uid).await;
    assert_eq!((&amendment.annotations["a"], &amendment.labels["app"]), (&"b".to_owned(), &"web".to_owned()));
    assert_eq!(amendment.ephemeral_containers.len(), 0);

    let debug = json!([{"name": "debug", "image": "registry.example/tools:1", "targetContainerName": "main"}]);
    let add = |pod: &mut Value| pod["spec"]["ephemeralContainers"] = debug.clone();
    harness.change_pod(&pod.key.name, Part::EphemeralContainers, add).await;
    let amendment = node.amended(&pod.key.uid).await;
    let added: Value = serde_json::from_slice(&amendment.ephemeral_containers[0]).unwrap();
    assert_eq!((&added["name"], &added["terminationMessagePolicy"]), (&json!("debug"), &json!("File")));
    drop(node);

    let held = vec![HeldPod { uid: pod.key.uid.clone(), digest: pod.digest() }];
    let (mut node, _) = harness.connect(&host, Hello { session: 2, pods: held, ..hello() }).await;
    assert_eq!(node.amended(&pod.key.uid).await, amendment);
    node.say(Up::Pods(vec![PodReport { gone: true, ..pod.clone() }])).await;
    harness.until(&POD, &pod.key.name, |pod| pod.is_none()).await;
    assert_eq!(harness.objects.pod_intents().await.unwrap(), []);
}
