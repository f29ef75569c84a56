//! Rollouts over a store in memory: nodes, pods and sessions played by the test.

use std::sync::Arc;

use serde_json::json;
use tokio::time::timeout;

use super::*;
use crate::control::kinds::{EVENT, NAMESPACE};
use crate::control::objects::WriteOptions;
use crate::control::registry::Part;
use crate::control::removal::{DeleteOptions, Propagation};
use crate::sim::fuse::Fuse;
use crate::store::Memory;
use crate::testing::wait::{LIMIT, eventually};

struct Harness {
    store: Arc<Fuse>,
    objects: Objects,
    set: Uid,
    told_tx: mpsc::Sender<FromNode>,
    questions_tx: mpsc::Sender<Question>,
    grants_rx: mpsc::Receiver<Grant>,
}

impl Harness {
    /// Nodes by name, each with an available pod of the DaemonSet's first revision, and in step.
    async fn new(nodes: &[&str]) -> Self {
        let store = Fuse::new(Memory::new());
        let objects = Objects::open(store.clone()).await.unwrap();
        let create = async |kind, object| objects.create(kind, "n", object, WriteOptions::default()).await.unwrap();
        create(&NAMESPACE, json!({"metadata": {"name": "n"}})).await;
        for node in nodes {
            create(&NODE, json!({"metadata": {"name": node}})).await;
        }
        let template =
            json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
        let spec = json!({"selector": {"matchLabels": {"a": "b"}}, "template": template});
        let set = create(&DAEMON_SET, json!({"metadata": {"name": "web"}, "spec": spec})).await;
        let set = Uid::from(meta::uid(&set));
        let (told_tx, told_rx) = mpsc::channel(16);
        let (questions_tx, questions_rx) = mpsc::channel(1);
        let (grants_tx, grants_rx) = mpsc::channel(16);
        tokio::spawn(run(objects.clone(), told_rx, questions_rx, grants_tx));
        let harness = Self { store, objects, set, told_tx, questions_tx, grants_rx };
        let first = harness.rollout().await.revision;
        for node in nodes {
            harness.pod(node, &first, true).await;
            harness.opens(node, &[]).await;
        }
        // A revision that comes while no node is in session is complete: all were lost before it.
        let is_heard = async || (harness.told_tx.capacity() == harness.told_tx.max_capacity()).then_some(());
        eventually("all that nodes said to be heard", is_heard).await;
        harness.until(|rollout| rollout.phase == "Complete").await;
        harness
    }

    async fn node(&self, name: &str) -> Uid {
        meta::uid(&self.objects.get(&NODE, "", name).await.unwrap()).into()
    }

    /// A node reports its one pod.
    async fn pod(&self, node: &str, revision: &RevisionHash, ready: bool) {
        let owner = json!([{
            "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "web", "uid": self.set.as_str(), "controller": true,
        }]);
        let labels = json!({"controller-revision-hash": revision.as_str()});
        let state = if ready { json!({"running": {}}) } else { json!({"terminated": {"exitCode": 3}}) };
        let pod = json!({
            "metadata": {
                "name": format!("web-{node}"), "uid": format!("web-{node}"), "labels": labels, "ownerReferences": owner,
            },
            "spec": {"nodeName": node, "containers": []},
            "status": {
                "phase": "Running",
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
                "containerStatuses": [{"name": "c", "ready": ready, "state": state}],
            },
        });
        self.objects.report(&POD, "n", &format!("web-{node}"), |_| Some(pod.clone())).await.unwrap();
    }

    async fn opens(&self, node: &str, taken: &[PermitNumber]) {
        let node = self.node(node).await;
        self.told_tx.send(FromNode::Opened { node, session: 1, taken: taken.to_vec() }).await.unwrap();
    }

    async fn closes(&self, node: &str) {
        let node = self.node(node).await;
        self.told_tx.send(FromNode::Closed { node, session: 1 }).await.unwrap();
    }

    /// A node asks for a revision in the place of its pod, which is available.
    async fn asks(&self, node: &str, revision: &RevisionHash) {
        self.says_it_asks(node, revision, Incumbent::Available).await;
    }

    async fn asks_for_its_first(&self, node: &str, revision: &RevisionHash) {
        self.says_it_asks(node, revision, Incumbent::None).await;
    }

    async fn says_it_asks(&self, node: &str, revision: &RevisionHash, incumbent: Incumbent) {
        let (node, daemonset) = (self.node(node).await, self.set.clone());
        let asks = FromNode::Asked { node, daemonset, revision: revision.clone(), incumbent };
        self.told_tx.send(asks).await.unwrap();
    }

    /// The user changes the image; gives the new revision.
    async fn changes(&self, image: &str) -> RevisionHash {
        let before = self.rollout().await.revision;
        let change = |set: &Value| {
            let mut set = set.clone();
            set["spec"]["template"]["spec"]["containers"][0]["image"] = image.into();
            Ok::<_, ObjectError>(set)
        };
        self.objects.update(&DAEMON_SET, "n", "web", Part::Main, WriteOptions::default(), change).await.unwrap();
        self.until(|rollout| rollout.revision != before).await.revision
    }

    async fn granted(&mut self) -> Grant {
        timeout(LIMIT, self.grants_rx.recv()).await.expect("a permit is granted").unwrap()
    }

    async fn rollout(&self) -> Rollout {
        self.until(|_| true).await
    }

    async fn until(&self, is: impl Fn(&Rollout) -> bool) -> Rollout {
        eventually("the rollout to be so", async || {
            let (answer_tx, answer_rx) = oneshot::channel();
            self.questions_tx.send(Question { daemonset: self.set.clone(), answer_tx }).await.unwrap();
            answer_rx.await.unwrap().filter(&is)
        })
        .await
    }

    /// Waits until a node has this cause.
    async fn cause(&self, node: &str, cause: &str) -> Rollout {
        self.until(|rollout| rollout.nodes.iter().any(|row| row.node.as_str() == node && row.cause == cause)).await
    }

    /// Waits until the DaemonSet's condition has this reason; gives its status and message.
    async fn condition(&self, reason: &str) -> (String, String) {
        eventually(reason, async || {
            let set = self.objects.get(&DAEMON_SET, "n", "web").await.unwrap();
            let condition = &set["status"]["conditions"][0];
            let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
            (condition["reason"] == reason).then(|| (text("status"), text("message")))
        })
        .await
    }

    async fn events(&self) -> Vec<String> {
        let events = self.objects.list(&EVENT, ListOptions::default()).await.unwrap().items;
        let mut reasons: Vec<_> = events.iter().map(|event| event["reason"].as_str().unwrap().to_owned()).collect();
        reasons.sort();
        reasons
    }
}

/// Taints a Node as control does when it is not heard of.
async fn taint(objects: &Objects, node: &str) {
    let taint = |node: Option<&Value>| {
        let mut node = node?.clone();
        node["spec"]["taints"] = json!([{"key": "node.kubernetes.io/unreachable", "effect": "NoSchedule"}]);
        Some(node)
    };
    objects.report(&NODE, "", node, taint).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_node_lost_after_it_took_the_revision_keeps_its_slot_and_is_named() {
    let mut harness = Harness::new(&["a", "b", "c"]).await;
    harness.closes("c").await;
    let two = harness.changes("i:2").await;
    harness.asks("a", &two).await;
    let permit = harness.granted().await.permit;
    harness.told_tx.send(FromNode::Took { permit: permit.number }).await.unwrap();
    harness.cause("a", "Taken").await;
    harness.asks("b", &two).await;
    harness.cause("b", "Asked").await;

    harness.closes("a").await;
    taint(&harness.objects, "a").await;
    harness.pod("a", &two, false).await;
    let rollout = harness.cause("a", "LostAfter").await;
    let causes = [("Asked", 1), ("LostAfter", 1), ("LostBefore", 1)].map(|(cause, nodes)| (cause.to_owned(), nodes));
    assert_eq!(rollout.causes, causes.into());
    assert_eq!((rollout.phase.as_str(), rollout.budget, rollout.used), ("Stalled", 1, 1), "{rollout:?}");
    let (status, message) = harness.condition("Stalled").await;
    assert_eq!(status, "False");
    assert!(message.contains("a LostAfter: the node is not connected since it took the revision"), "{message}");
    assert!(harness.grants_rx.try_recv().is_err(), "no slot is free before the node says so");

    harness.opens("a", &[permit.number]).await;
    harness.pod("a", &two, true).await;
    assert_eq!(harness.granted().await.node, harness.node("b").await);
    harness.pod("b", &two, true).await;
    let (status, message) = harness.condition("Complete").await;
    assert_eq!(
        (status.as_str(), message.as_str()),
        ("True", format!("revision {two} is on 2 of 3 nodes; 1 that could not be had catch up").as_str(),)
    );
    for reason in ["RolloutStarted", "RolloutStalled", "RolloutResumed", "RolloutComplete"] {
        assert!(harness.events().await.iter().any(|event| event == reason), "{reason}: {:?}", harness.events().await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_revision_that_fails_stops_within_its_budget_and_says_why() {
    let mut harness = Harness::new(&["a", "b"]).await;
    let two = harness.changes("i:2").await;
    harness.asks("a", &two).await;
    harness.asks("b", &two).await;
    let permit = harness.granted().await.permit;
    harness.told_tx.send(FromNode::Took { permit: permit.number }).await.unwrap();
    harness.pod("a", &two, false).await;
    let (_, message) = harness.condition("Stalled").await;
    assert!(message.ends_with("a Unhealthy: container c: exit code 3"), "{message}");
    // The node says so by the way, and it changes nothing.
    let (node, daemonset) = (harness.node("b").await, harness.set.clone());
    let reason = Reason { reason: "ErrImagePull".into(), message: "no such image".into(), field: String::new() };
    let unable = FromNode::Unable { node, daemonset, revision: two.clone(), reason };
    harness.told_tx.send(unable).await.unwrap();
    let rollout = harness.cause("b", "Unable").await;
    assert_eq!(rollout.nodes[1].message, "ErrImagePull: no such image");

    // The user goes back: what is of the older revision is done.
    let one = harness.changes("i:1").await;
    harness.cause("b", "UpToDate").await;
    harness.asks("a", &one).await;
    assert_eq!(harness.granted().await.permit.revision, one);
    harness.pod("a", &one, true).await;
    harness.condition("Complete").await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_went_back_keeps_its_slot_until_a_user_writes_the_revision_anew() {
    let mut harness = Harness::new(&["a", "b"]).await;
    let (one, two) = (harness.rollout().await.revision, harness.changes("i:2").await);
    harness.asks("a", &two).await;
    harness.asks("b", &two).await;
    let permit = harness.granted().await.permit;
    harness.told_tx.send(FromNode::Took { permit: permit.number }).await.unwrap();
    harness.closes("a").await;
    harness.opens("a", &[permit.number]).await;
    let rejects = async |revisions: Vec<RevisionHash>| {
        let (node, daemonset) = (harness.node("a").await, harness.set.clone());
        harness.told_tx.send(FromNode::Rejected { node, daemonset, revisions }).await.unwrap();
    };
    rejects(vec![two.clone()]).await;
    let rollout = harness.cause("a", "Rejected").await;
    assert_eq!((rollout.phase.as_str(), rollout.used), ("Stalled", 1), "{rollout:?}");

    assert_eq!(harness.changes("i:1").await, one);
    assert_eq!(harness.changes("i:2").await, two);
    rejects(vec![]).await;
    harness.asks("a", &two).await;
    let again = harness.granted().await;
    assert_eq!((again.node, &again.permit.revision), (harness.node("a").await, &two));
    assert_ne!(again.permit.number, permit.number);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_has_a_pod_is_granted_within_the_budget_whatever_control_knows_of_that() {
    let mut harness = Harness::new(&["a", "b", "c"]).await;
    let two = harness.changes("i:2").await;
    harness.asks("a", &two).await;
    assert_eq!(harness.granted().await.node, harness.node("a").await);
    harness.pod("a", &two, true).await;
    // The revision works, and somebody else uses the budget.
    harness.asks("b", &two).await;
    assert_eq!(harness.granted().await.node, harness.node("b").await);
    harness.pod("b", &two, false).await;
    harness.asks("c", &two).await;
    // Its pod is let go, of which it has yet to hear.
    let let_go = |pod: Option<&Value>| {
        let mut pod = pod?.clone();
        meta::disown(&mut pod, std::slice::from_ref(&harness.set));
        Some(pod)
    };
    harness.objects.report(&POD, "n", "web-c", let_go).await.unwrap();
    eventually("the pod to be let go", async || {
        let set = harness.objects.get(&DAEMON_SET, "n", "web").await.unwrap();
        (set["status"]["currentNumberScheduled"] == 2).then_some(())
    })
    .await;
    assert!(harness.grants_rx.try_recv().is_err());
    harness.asks_for_its_first("c", &two).await;
    assert_eq!(harness.granted().await.node, harness.node("c").await);
}

#[tokio::test(start_paused = true)]
async fn a_permit_for_a_pod_that_is_not_available_is_free_again_if_it_is_declined() {
    let mut harness = Harness::new(&["a", "b"]).await;
    let one = harness.rollout().await.revision;
    let two = harness.changes("i:2").await;
    harness.pod("a", &one, false).await;
    harness.until(|rollout| rollout.used == 1).await;
    harness.says_it_asks("a", &two, Incumbent::Unavailable).await;
    let Grant { node, permit, .. } = harness.granted().await;
    assert!(permit.if_unavailable);
    harness.told_tx.send(FromNode::Declined { node: node.clone(), permit: permit.number }).await.unwrap();
    harness.cause("a", "Pending").await;
    assert_eq!(harness.objects.permits().await.unwrap(), []);
    // As it has it the pod is available, though control has yet to see that.
    harness.asks("a", &two).await;
    let again = harness.granted().await;
    assert_eq!((again.node, again.permit.if_unavailable), (node, false));
    assert_ne!(again.permit.number, permit.number);
}

#[tokio::test(start_paused = true)]
async fn what_nodes_say_while_the_store_fails_is_not_lost() {
    let mut harness = Harness::new(&["a"]).await;
    let two = harness.changes("i:2").await;
    harness.asks("a", &two).await;
    let void = harness.granted().await.permit;
    harness.closes("a").await;
    harness.cause("a", "LostAfter").await;
    harness.store.fail_next(1);
    harness.opens("a", &[]).await;
    harness.asks("a", &two).await;
    let permit = harness.granted().await.permit;
    assert_ne!(permit.number, void.number);
    let records: Vec<_> = harness.objects.permits().await.unwrap().iter().map(|record| record.number).collect();
    assert_eq!(records, [permit.number]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_granted_while_control_may_be_the_one_that_is_cut_off() {
    let mut harness = Harness::new(&["a"]).await;
    harness.told_tx.send(FromNode::Doubt(true)).await.unwrap();
    let two = harness.changes("i:2").await;
    harness.asks("a", &two).await;
    harness.cause("a", "Asked").await;
    assert!(harness.grants_rx.try_recv().is_err());
    harness.told_tx.send(FromNode::Doubt(false)).await.unwrap();
    assert_eq!(harness.granted().await.node, harness.node("a").await);
}

#[tokio::test(start_paused = true)]
async fn a_permit_goes_with_its_node() {
    let mut harness = Harness::new(&["a", "b"]).await;
    let two = harness.changes("i:2").await;
    harness.asks("a", &two).await;
    harness.asks("b", &two).await;
    assert_eq!(harness.granted().await.node, harness.node("a").await);
    harness.objects.delete(&NODE, "", "a", &DeleteOptions::default()).await.unwrap();
    assert_eq!(harness.granted().await.node, harness.node("b").await);
    let b = harness.node("b").await;
    let permits = harness.objects.permits().await.unwrap();
    assert!(permits.iter().all(|permit| permit.node == b), "{permits:?}");
}

#[tokio::test(start_paused = true)]
async fn first_pods_begin_on_one_node_and_then_on_two() {
    let mut harness = Harness::new(&[]).await;
    let first = harness.rollout().await.revision;
    for node in ["a", "b", "c"] {
        let object = json!({"metadata": {"name": node}});
        harness.objects.create(&NODE, "", object, WriteOptions::default()).await.unwrap();
        harness.opens(node, &[]).await;
        harness.asks_for_its_first(node, &first).await;
    }
    let mut begun = vec![harness.granted().await.node];
    let asked = |rollout: &Rollout| rollout.causes.get("Asked") == Some(&2);
    let rollout = harness.until(asked).await;
    assert!(harness.grants_rx.try_recv().is_err(), "{rollout:?}");
    harness.pod("a", &first, true).await;
    begun.extend([harness.granted().await.node, harness.granted().await.node]);
    assert_eq!(begun, [harness.node("a").await, harness.node("b").await, harness.node("c").await]);
}

#[tokio::test(start_paused = true)]
async fn a_first_pod_that_fails_keeps_nobody_from_beginning() {
    let mut harness = Harness::new(&[]).await;
    let first = harness.rollout().await.revision;
    for node in ["a", "b"] {
        let object = json!({"metadata": {"name": node}});
        harness.objects.create(&NODE, "", object, WriteOptions::default()).await.unwrap();
        harness.opens(node, &[]).await;
        harness.asks_for_its_first(node, &first).await;
    }
    harness.granted().await;
    harness.cause("b", "Asked").await;
    harness.pod("a", &first, false).await;
    assert_eq!(harness.granted().await.node, harness.node("b").await);
}

#[tokio::test(start_paused = true)]
async fn a_history_that_nobody_has_is_adopted_and_one_that_is_let_go_is_left_alone() {
    let harness = Harness::new(&["a"]).await;
    let first = harness.rollout().await.revision;
    let objects = &harness.objects;
    let record = format!("web-{first}");
    let owners = async |name: &str| {
        let record = objects.get(&CONTROLLER_REVISION, "n", name).await.ok()?;
        Some((meta::owner_uids(&record).map(Uid::from).collect::<Vec<_>>(), meta::uid(&record).to_owned()))
    };
    let (_, uid) = owners(&record).await.unwrap();
    let options = DeleteOptions { propagation: Propagation::Orphan, ..DeleteOptions::default() };
    objects.delete(&DAEMON_SET, "n", "web", &options).await.unwrap();
    let mut disowned = objects.get(&CONTROLLER_REVISION, "n", &record).await.unwrap();
    meta::disown(&mut disowned, std::slice::from_ref(&harness.set));
    objects.report(&CONTROLLER_REVISION, "n", &record, |_| Some(disowned.clone())).await.unwrap();
    // Something of it changes while it waits for its pods to be let go.
    harness.pod("a", &first, false).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(owners(&record).await, Some((vec![], uid.clone())));

    let labels = json!({"a": "b"});
    let template = json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
    let set =
        json!({"metadata": {"name": "next"}, "spec": {"selector": {"matchLabels": labels}, "template": template}});
    let next = objects.create(&DAEMON_SET, "n", set, WriteOptions::default()).await.unwrap();
    let adopted = Some((vec![Uid::from(meta::uid(&next))], uid));
    eventually("the record to be adopted", async || (owners(&record).await == adopted).then_some(())).await;
    assert_eq!(owners(&format!("next-{first}")).await, None, "the template has its record");
}

#[tokio::test(start_paused = true)]
async fn a_daemonset_made_again_under_its_name_has_a_history_of_its_own() {
    let harness = Harness::new(&["a"]).await;
    let objects = &harness.objects;
    let record = format!("web-{}", harness.rollout().await.revision);
    let former = objects.get(&CONTROLLER_REVISION, "n", &record).await.unwrap();
    let set = objects.get(&DAEMON_SET, "n", "web").await.unwrap();
    objects.delete(&DAEMON_SET, "n", "web", &DeleteOptions::default()).await.unwrap();
    let again = json!({"metadata": {"name": "web"}, "spec": set["spec"]});
    let again = objects.create(&DAEMON_SET, "n", again, WriteOptions::default()).await.unwrap();
    // The record of the first is there still, as nobody collects here.
    let new = eventually("a record of the second", async || {
        let record = objects.get(&CONTROLLER_REVISION, "n", &record).await.ok()?;
        (meta::controller(&record).as_ref().map(Uid::as_str) == Some(meta::uid(&again))).then_some(record)
    });
    let new = new.await;
    assert!(!meta::uid(&new).is_empty() && meta::uid(&new) != meta::uid(&former), "{new}");
    assert_eq!(meta::namespace(&new), "n");
    assert_ne!(new["metadata"]["creationTimestamp"], Value::Null);
}
