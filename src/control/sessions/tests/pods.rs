//! Single pods: those that users post, and what they change of others.

use super::*;
use crate::control::removal::Propagation;
use crate::link::{Amendment, Assigned, Entry, Kind as LinkKind, ObjectAnswer, ObjectRef, PodEnding};
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

    /// Deletes a DaemonSet and leaves its pods, and waits until it is gone.
    async fn orphan(&self, name: &str) {
        let options = DeleteOptions { propagation: Propagation::Orphan, ..DeleteOptions::default() };
        self.objects.delete(&DAEMON_SET, "default", name, &options).await.unwrap();
        self.until(&DAEMON_SET, name, |set| set.is_none()).await;
    }

    /// A DaemonSet that selects the pods of `web`.
    async fn apply_for_web(&self, name: &str) -> Uid {
        let labels = json!({"app": "web"});
        let container = json!({"name": "main", "image": "registry.example/web:2"});
        let template = json!({"metadata": {"labels": labels}, "spec": {"containers": [container]}});
        let object =
            json!({"metadata": {"name": name}, "spec": {"selector": {"matchLabels": labels}, "template": template}});
        let made = self.objects.create(&DAEMON_SET, "default", object, WriteOptions::default()).await.unwrap();
        meta(&made, "uid").into()
    }

    /// Waits until a pod is controlled by a DaemonSet, or by nobody.
    async fn owned(&self, pod: &str, owner: Option<&Uid>) {
        let is_so = |pod: Option<&Value>| {
            let owners = pod.map(|pod| crate::control::meta::owner_uids(pod).map(Uid::from).collect::<Vec<_>>());
            owners.is_some_and(|owners| owners.iter().collect::<Vec<_>>() == owner.into_iter().collect::<Vec<_>>())
        };
        self.until(&POD, pod, is_so).await;
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

    /// The pods that stay of a DaemonSet that was deleted.
    async fn kept(&mut self, daemonset: &Uid) -> Vec<Uid> {
        self.pick(|down| {
            let Down::Answers(answers) = down else { return None };
            answers.answers.into_iter().find_map(|(uid, answer)| match answer {
                Answer::Deleted { kept, .. } if uid == *daemonset => Some(kept),
                _ => None,
            })
        })
        .await
    }

    /// What the next message about single pods says of the only one.
    async fn single(&mut self) -> Bundle {
        let pods = self.assigned_pods().await;
        assert_eq!(pods.len(), 1);
        self.posted(&pods[0]).await
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
    drop(node);

    // Its node's disk is put back to before.
    let held = vec![HeldPod { uid: pods[0].uid.clone(), digest: report(&pod, "Running").digest() }];
    let (mut node, _) = harness.connect(&host, Hello { session: 2, pods: held, ..hello() }).await;
    assert_eq!(
        node.pick(|down| if let Down::Pod { command, .. } = down { Some(command) } else { None }).await,
        command
    );
}

#[tokio::test]
async fn a_pod_waits_for_its_node_whatever_that_held_before() {
    let harness = Harness::new().await;
    let host = harness.join("edge-1").await;
    let pod = harness.post("probe", "edge-1").await;
    harness.sessions.shared.load().await.unwrap();
    let mut desired_rx = harness.sessions.shared.desired_rx.clone();
    let uid = Uid::from(meta(&pod, "uid"));
    desired_rx.wait_for(|desired| desired.pods.is_owed(&"edge-1".into(), &uid)).await.unwrap();
    let (mut node, _) = harness.connect(&host, hello()).await;
    assert_eq!(node.assigned_pods().await[0].uid, uid);
    assert!(harness.objects.get(&POD, "default", "probe").await.is_ok());
}

/// The pods that a node is told of when it asks for something else.
async fn told_beside(node: &mut Node, name: &str) -> Vec<Uid> {
    let object = ObjectRef { kind: LinkKind::ConfigMap, key: ObjectKey::new("default", name) };
    node.say(Up::Needs(Needs { blobs: vec![], objects: vec![object.clone()] })).await;
    node.pick(|down| match down {
        Down::Assigned(Assigned { pods, objects, .. }) if objects.iter().any(|(told, _)| *told == object) => {
            Some(pods.into_iter().map(|entry| entry.uid).collect())
        }
        _ => None,
    })
    .await
}

#[tokio::test]
async fn a_pod_that_its_node_has_ended_is_not_told_again_whatever_keeps_it_in_the_api() {
    let harness = Harness::new().await;
    let host = harness.join("edge-1").await;
    let (mut node, _) = harness.in_step(&host, hello()).await;
    let pod = harness.post("probe", "edge-1").await;
    let uid = Uid::from(meta(&pod, "uid"));
    assert_eq!(node.assigned_pods().await[0].uid, uid);
    harness.change_pod("probe", Part::Main, |pod| pod["metadata"]["finalizers"] = json!(["example.com/keep"])).await;
    // As for a taint; its last report is lost with the connection.
    let ending = Some(PodEnding { since: Timestamp::now(), grace_period_secs: 30 });
    node.say(Up::Pods(vec![PodReport { ending, ..report(&pod, "Running") }])).await;
    let grace = |seconds: i64| {
        move |pod: Option<&Value>| pod.is_some_and(|pod| pod["metadata"]["deletionGracePeriodSeconds"] == seconds)
    };
    harness.until(&POD, "probe", grace(30)).await;
    drop(node);

    let (mut node, _) = harness.connect(&host, Hello { session: 2, ..hello() }).await;
    harness.until(&POD, "probe", grace(0)).await;
    assert_eq!(told_beside(&mut node, "first").await, []);
    drop(node);
    // Also where control has begun anew, and after whatever users do.
    harness.sessions.shared.load().await.unwrap();
    let (mut node, _) = harness.connect(&host, Hello { session: 3, ..hello() }).await;
    let other = harness.post("other", "edge-1").await;
    assert_eq!(
        node.assigned_pods().await.iter().map(|pod| pod.uid.as_str()).collect::<Vec<_>>(),
        [meta(&other, "uid")]
    );
    harness.change_pod("probe", Part::Main, |pod| pod["metadata"]["finalizers"] = json!([])).await;
    harness.until(&POD, "probe", |pod| pod.is_none()).await;
}

#[tokio::test]
async fn a_pod_that_its_node_has_ended_ends_again_on_a_disk_that_is_put_back() {
    let harness = Harness::new().await;
    let host = harness.join("edge-1").await;
    let (mut node, _) = harness.in_step(&host, hello()).await;
    let pod = harness.post("probe", "edge-1").await;
    let uid = node.assigned_pods().await[0].uid.clone();
    node.say(Up::Pods(vec![report(&pod, "Running")])).await;
    node.say(Up::Pods(vec![PodReport { gone: true, ..report(&pod, "Running") }])).await;
    harness.until(&POD, "probe", |pod| pod.is_none()).await;
    drop(node);
    let pods = vec![HeldPod { uid: uid.clone(), digest: report(&pod, "Running").digest() }];
    let (mut node, _) = harness.connect(&host, Hello { session: 2, pods, ..hello() }).await;
    let command = node.pick(|down| if let Down::Pod { command, .. } = down { Some(command) } else { None }).await;
    assert!(command.uid == uid && matches!(command.action, PodAction::Delete { .. }), "{command:?}");
}

#[tokio::test]
async fn a_deletion_is_carried_out_once_whatever_keeps_its_pod_in_the_api() {
    let harness = Harness::new().await;
    let host = harness.join("edge-1").await;
    let (mut node, _) = harness.in_step(&host, hello()).await;
    let pod = harness.post("probe", "edge-1").await;
    let uid = Uid::from(meta(&pod, "uid"));
    assert_eq!(node.assigned_pods().await[0].uid, uid);
    node.say(Up::Pods(vec![report(&pod, "Running")])).await;
    harness.until(&POD, "probe", |pod| pod.is_some_and(|pod| pod["status"]["phase"] == "Running")).await;
    harness.change_pod("probe", Part::Main, |pod| pod["metadata"]["finalizers"] = json!(["example.com/keep"])).await;
    harness.delete(&POD, "default", "probe").await;
    let command = |down| if let Down::Pod { command, .. } = down { Some(command) } else { None };
    assert_eq!(node.pick(command).await.uid, uid);
    // Its last report comes twice.
    let gone = PodReport { gone: true, ..report(&pod, "Succeeded") };
    node.say(Up::Pods(vec![gone.clone(), gone])).await;
    let is_over = |pod: Option<&Value>| pod.is_some_and(|pod| pod["metadata"]["deletionGracePeriodSeconds"] == 0);
    harness.until(&POD, "probe", is_over).await;
    let other = harness.post("other", "edge-1").await;
    let told = async |node: &mut Node| {
        loop {
            let pods: Vec<_> = node.assigned_pods().await.into_iter().map(|pod| pod.uid).collect();
            assert!(!pods.contains(&uid), "it is told again");
            if pods == [Uid::from(meta(&other, "uid"))] {
                return;
            }
        }
    };
    told(&mut node).await;
    drop(node);
    let (mut node, _) = harness.connect(&host, Hello { session: 2, ..hello() }).await;
    told(&mut node).await;
    assert_eq!(harness.objects.tombstones().await.unwrap().0, []);
}

#[tokio::test]
async fn a_pod_that_was_posted_and_deleted_while_its_node_was_away_is_gone_when_that_is_back() {
    let harness = Harness::new().await;
    let host = harness.join("edge-1").await;
    let pod = harness.post("probe", "edge-1").await;
    harness.delete(&POD, "default", "probe").await;
    let mut desired_rx = harness.sessions.shared.desired_rx.clone();
    let uid = Uid::from(meta(&pod, "uid"));
    desired_rx.wait_for(|desired| desired.tombstones.contains_key(&uid)).await.unwrap();
    let (_node, _) = harness.connect(&host, hello()).await;
    harness.until(&POD, "probe", |pod| pod.is_none()).await;
    assert_eq!(harness.objects.tombstones().await.unwrap().0, []);
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

#[tokio::test]
async fn an_orphaned_pod_is_its_nodes_own_wherever_the_node_was() {
    let harness = Harness::new().await;
    let (host, other) = (harness.join("edge-1").await, harness.join("edge-2").await);
    let (mut node, set, pod) = running(&harness, &host).await;
    let (mut other, _) = harness.in_step(&other, hello()).await;
    harness.orphan("web").await;
    // What control did not know of ends; on the other node it is all there may be.
    assert_eq!((node.kept(&set).await, other.kept(&set).await), (vec![pod.key.uid.clone()], vec![]));
    let bundle = node.single().await;
    assert_eq!((bundle.daemonset(), bundle.name.as_str()), (None, pod.key.name.as_str()));
    assert_eq!(bundle.template.metadata.unwrap().labels.unwrap()["controller-revision-hash"], pod.revision.0);
    harness.owned(&pod.key.name, None).await;
    drop(node);

    let daemonsets = vec![HeldDaemonSet { uid: set.clone(), seq: 1, key: None, revision: None }];
    let held = vec![HeldPod { uid: pod.key.uid.clone(), digest: pod.digest() }];
    let hello = Hello { session: 2, daemonsets, pods: held, ..hello() };
    let (mut node, _) = harness.connect(&host, hello).await;
    assert_eq!(node.kept(&set).await, std::slice::from_ref(&pod.key.uid));
    assert_eq!(node.assigned_pods().await[0].uid, pod.key.uid);
    // It ends as one that was posted.
    harness.delete(&POD, "default", &pod.key.name).await;
    let command = node.pick(|down| if let Down::Pod { command, .. } = down { Some(command) } else { None }).await;
    assert!(command.uid == pod.key.uid && matches!(command.action, PodAction::Delete { .. }), "{command:?}");
}

#[tokio::test]
async fn a_daemonset_adopts_what_it_selects_and_lets_go_what_it_does_not() {
    let harness = Harness::new().await;
    let host = harness.join("edge-1").await;
    let (mut node, _, pod) = running(&harness, &host).await;
    harness.orphan("web").await;
    assert_eq!(node.single().await.daemonset(), None);

    let next = harness.apply_for_web("next").await;
    // A node that hears of the one has yet to fetch it when it hears of the other.
    let manifest = node.manifest().await;
    assert_eq!(manifest.entries.iter().map(|entry| &entry.uid).collect::<Vec<_>>(), [&next]);
    let bundle = node.single().await;
    assert_eq!((bundle.daemonset(), &bundle.revision), (Some(&next), &pod.revision));
    harness.owned(&pod.key.name, Some(&next)).await;

    let label = async |value: &str| {
        harness.change_pod(&pod.key.name, Part::Main, |pod| pod["metadata"]["labels"]["app"] = value.into()).await;
    };
    label("other").await;
    assert_eq!(node.single().await.daemonset(), None);
    harness.owned(&pod.key.name, None).await;
    label("web").await;
    assert_eq!(node.single().await.daemonset(), Some(&next));

    // It ends with the DaemonSet, also where the node has not taken that on.
    harness.delete(&DAEMON_SET, "default", "next").await;
    let command = node.pick(|down| if let Down::Pod { command, .. } = down { Some(command) } else { None }).await;
    assert!(command.uid == pod.key.uid && matches!(command.action, PodAction::Delete { .. }), "{command:?}");
    node.say(Up::Pods(vec![PodReport { gone: true, ..pod.clone() }])).await;
    harness.until(&POD, &pod.key.name, |pod| pod.is_none()).await;
    assert_eq!(harness.objects.pod_intents().await.unwrap(), []);
}

#[tokio::test]
async fn a_pod_of_a_daemonset_that_its_node_replaced_unseen_does_not_come_back() {
    let harness = Harness::new().await;
    let host = harness.join("edge-1").await;
    let (mut node, _, pod) = running(&harness, &host).await;
    harness.orphan("web").await;
    node.single().await;
    drop(node);
    // One of its own has a right to be there, one of a DaemonSet gives way to what is.
    let (mut node, _) = harness.connect(&host, Hello { session: 2, ..hello() }).await;
    assert_eq!(node.assigned_pods().await[0].uid, pod.key.uid);
    drop(node);
    let next = harness.apply_for_web("next").await;
    harness.owned(&pod.key.name, Some(&next)).await;
    let (mut node, _) = harness.connect(&host, Hello { session: 3, ..hello() }).await;
    harness.until(&POD, &pod.key.name, |pod| pod.is_none()).await;
    harness.post("probe", "edge-1").await;
    let names = node.assigned_pods().await.iter().map(|entry| entry.uid.clone()).collect::<Vec<_>>();
    assert!(!names.contains(&pod.key.uid), "{names:?}");
}

#[tokio::test]
async fn a_pod_that_has_no_place_on_its_node_buys_nothing_when_it_is_let_go() {
    let harness = Harness::new().await;
    let host = harness.join("edge-1").await;
    let (mut node, _, pod) = running(&harness, &host).await;
    let elsewhere = |set: &Value| {
        let mut set = set.clone();
        // A label that the host gave itself.
        set["spec"]["template"]["spec"]["nodeSelector"] = json!({"site": "north"});
        Ok::<_, ObjectError>(set)
    };
    harness
        .objects
        .update(&DAEMON_SET, "default", "web", Part::Main, WriteOptions::default(), elsewhere)
        .await
        .unwrap();
    harness.orphan("web").await;
    assert_eq!(node.single().await.name, pod.key.name);
    let uid = &pod.key.uid;
    let pods = &harness.sessions.shared.desired().pods;
    assert_eq!((pods.is_owed(&host.name, uid), pods.is_entitled(&host.name, uid)), (true, false));
}
