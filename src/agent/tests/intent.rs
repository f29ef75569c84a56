//! What control says, and what comes of it.

use super::*;
use crate::link::{CommandId, HoldReason, Outcome, PodAction, PodCommand, RECOUNT, Standing, Verdict};

impl Agent {
    async fn verdict(&mut self, set: &str, standing: Standing) -> Verdict {
        self.hears(&format!("{set} to be judged {standing:?}"), |up| {
            let Up::Verdicts(verdicts) = up else { return None };
            verdicts.iter().find(|one| one.daemonset == uid(set) && one.standing == standing).cloned()
        })
        .await
    }

    /// Waits until control is not dialled any more.
    async fn lets_go_of_link(&mut self) {
        let end = async { while self.up_rx.recv().await.is_some() {} };
        tokio::time::timeout(LIMIT, end).await.expect("the link is let go");
    }

    async fn delete_pod(&self, pod: &Uid) -> CommandId {
        let action = PodAction::Delete { grace_period_secs: 1, permit: None };
        let id = CommandId(9);
        self.down(Down::Pod { id, command: PodCommand { uid: pod.clone(), needs_seq: 0, action } }).await;
        id
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_on_disk_before_its_sandbox_is_made() {
    let host = Host::new();
    let mut agent = host.start();
    host.cri.hold("RunPodSandbox");
    agent.connect().await;
    agent.apply(1, &[set("web", "one")]).await;
    host.asked_for("RunPodSandbox").await;
    let on_disk = host.ledger();
    let record = on_disk.pods.values().next().expect("a pod in the ledger");
    assert_eq!((on_disk.pods.len(), &record.daemonset, on_disk.position), (1, &Some(uid("web")), position(1)));

    host.cri.release("RunPodSandbox");
    let pod = host.runs("web", "one").await;
    assert_eq!(pod.uid, record.key.uid);
    assert_eq!(agent.verdict("web", Standing::Runs).await.reasons, []);
    let report = agent.reports("a pod that is available", "web", |report, _| report.available).await;
    assert_eq!((report.key, report.revision.as_str()), (record.key.clone(), "one"));
}

#[tokio::test(start_paused = true)]
async fn a_pod_comes_and_leaves_with_the_nodes_label() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[set_with("gpu", "one", &json!({ "nodeSelector": { "gpu": "true" } }))]).await;
    let verdict = agent.verdict("gpu", Standing::Leaves).await;
    assert!(verdict.reasons[0].message.contains("gpu=true"), "{verdict:?}");
    agent.settle().await;
    assert_eq!((host.pods().await.len(), host.ledger().pods.len()), (0, 0));

    agent.node(&[("gpu", "true")], &[]).await;
    agent.verdict("gpu", Standing::Runs).await;
    let pod = host.runs("gpu", "one").await;
    agent.node(&[], &[]).await;
    agent.verdict("gpu", Standing::Leaves).await;
    host.lacks("gpu").await;
    let report = agent.reports("the pod's last report", "gpu", |report, _| report.gone).await;
    assert_eq!(report.key.uid, pod.uid);
    assert!(report.ending.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_taint_drives_out_whom_it_is_meant_for() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    let tolerant = json!({ "tolerations": [{ "operator": "Exists" }] });
    agent.apply(1, &[set("web", "one"), set_with("log", "one", &tolerant)]).await;
    let (_, log) = (host.runs("web", "one").await, host.runs("log", "one").await);
    agent.node(&[], &["dedicated=db:NoSchedule"]).await;
    agent.verdict("web", Standing::Stays).await;
    host.runs("web", "one").await;
    agent.node(&[], &["dedicated=db:NoExecute"]).await;
    host.lacks("web").await;
    assert_eq!(host.runs("log", "one").await, log);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_ends_the_pod_and_nothing_of_it_stays() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[set("web", "one")]).await;
    let pod = host.runs("web", "one").await;
    agent.answer(2, "web", Answer::Deleted { seq: 2, kept: vec![] }).await;
    let gone = agent.reports("the pod's last report", "web", |report, _| report.gone).await;
    assert_eq!(gone.key.uid, pod.uid);
    host.lacks("web").await;
    assert_eq!(host.ledger().daemonsets.len(), 0);
    assert_eq!(host.left_behind(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_slow_manifest_does_not_bring_back_what_was_deleted_meanwhile() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[set("web", "one")]).await;
    host.runs("web", "one").await;
    let log = set("log", "one");
    agent.down(manifest(2, &[set("web", "one"), log.clone()])).await;
    agent.answer(3, "web", Answer::Deleted { seq: 3, kept: vec![] }).await;
    host.lacks("web").await;
    agent.down(chunk(&content(&log), 0..)).await;
    host.runs("log", "one").await;
    host.lacks("web").await;
    assert_eq!(host.ledger().position, position(2));
}

#[tokio::test(start_paused = true)]
async fn a_new_label_is_judged_with_the_daemonset_that_came_with_it_not_with_the_one_before() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    let selected = |image, color: &str| set_with("web", image, &json!({ "nodeSelector": { "color": color } }));
    agent.node(&[("color", "red")], &[]).await;
    agent.apply(1, &[selected("one", "red")]).await;
    let pod = host.runs("web", "one").await;
    agent.disconnect().await;

    // Both changed meanwhile. The link breaks before the node has heard all of it, and the agent is restarted.
    let changed = selected("one", "blue");
    agent.connect().await;
    agent.node(&[("color", "blue")], &[]).await;
    agent.down(manifest(3, std::slice::from_ref(&changed))).await;
    agent.settle().await;
    agent.disconnect().await;
    agent.stop().await;
    let mut agent = host.start();
    agent.settle().await;
    assert_eq!(host.runs("web", "one").await, pod);

    agent.connect().await;
    agent.node(&[("color", "blue")], &[]).await;
    agent.apply(3, &[changed]).await;
    agent.settle().await;
    assert_eq!(host.runs("web", "one").await, pod);
    agent.node(&[], &[]).await;
    host.lacks("web").await;
}

#[tokio::test(start_paused = true)]
async fn neither_absence_nor_an_unknown_uid_takes_anything_away() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    let selected = |image| set_with("web", image, &json!({ "nodeSelector": { "web": "true" } }));
    agent.node(&[("web", "true")], &[]).await;
    agent.apply(1, &[selected("one")]).await;
    let pod = host.runs("web", "one").await;

    agent.apply(2, &[]).await;
    agent.answer(2, "web", Answer::Unknown).await;
    agent.apply(3, &[selected("two")]).await;
    agent.node(&[], &[]).await;
    agent.settle().await;
    assert_eq!(host.runs("web", "one").await, pod);
    assert!(!agent.heard.iter().any(|up| matches!(up, Up::Ask(_))), "{:?}", agent.heard);

    // Somebody found the record again.
    agent.answer(4, "web", Answer::Present).await;
    host.lacks("web").await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_ended_while_control_does_not_know_its_daemonset_is_made_again() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[set("web", "one")]).await;
    let pod = host.runs("web", "one").await;
    host.cri.hold("StopContainer");
    agent.delete_pod(&pod.uid).await;
    agent.answer(2, "web", Answer::Unknown).await;
    host.cri.release("StopContainer");
    agent.reports("the pod's last report", "web", |report, _| report.gone).await;
    assert_ne!(host.runs("web", "one").await.uid, pod.uid);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_that_control_has_forgotten_is_seen_through() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[set("web", "one")]).await;
    host.runs("web", "one").await;
    host.cri.hold("StopContainer");
    agent.answer(2, "web", Answer::Deleted { seq: 2, kept: vec![] }).await;
    agent.disconnect().await;
    let hello = agent.connect().await;
    assert_eq!(hello.daemonsets.len(), 1);
    agent.answer(3, "web", Answer::Unknown).await;
    host.cri.release("StopContainer");
    host.lacks("web").await;
    agent.settle().await;
    assert_eq!(host.ledger().daemonsets.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_node_on_hold_keeps_running_what_it_has_and_takes_nothing() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    let selected = |image| set_with("web", image, &json!({ "nodeSelector": { "web": "true" } }));
    agent.node(&[("web", "true")], &[]).await;
    agent.apply(1, &[selected("one")]).await;
    let pod = host.runs("web", "one").await;
    let before = host.ledger();

    agent.disconnect().await;
    let message = "restored from an older copy".to_owned();
    agent.connect_as(Reception::Hold { reason: HoldReason::Ahead, message }).await;
    agent.node(&[], &[]).await;
    agent.down(manifest(2, &[selected("two"), set("log", "one")])).await;
    let answers = vec![(uid("web"), Answer::Deleted { seq: 2, kept: vec![] })];
    agent.down(Down::Answers(Answers { position: position(2), answers })).await;
    agent.delete_pod(&pod.uid).await;
    agent.down(Down::Removed { id: CommandId(3), position: position(3) }).await;
    agent.settle().await;
    assert_eq!(host.runs("web", "one").await, pod);
    assert!(!agent.heard.iter().any(|up| matches!(up, Up::Ack(_) | Up::Ask(_) | Up::Needs(_))), "{:?}", agent.heard);
    let after = host.ledger();
    assert_eq!((&after.daemonsets, &after.pods, &after.node), (&before.daemonsets, &before.pods, &before.node));

    // Restarts and reports go on.
    host.cri.end_container(&pod.uid, "main", 1);
    let restarts =
        |count: i64| move |_: &PodReport, status: &Value| status["containerStatuses"][0]["restartCount"] == count;
    agent.reports("the restarted container", "web", restarts(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_control_that_lost_its_store_is_told_what_the_ledger_holds() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    agent.node(&[("site", "north")], &[]).await;
    agent.apply(1, &[set("web", "one"), set("gone", "one")]).await;
    host.runs("web", "one").await;
    agent.apply(2, &[set("web", "two"), set("gone", "one")]).await;
    agent.answer(3, "gone", Answer::Deleted { seq: 3, kept: vec![] }).await;

    agent.disconnect().await;
    let reception = Reception::Hold { reason: HoldReason::Recovery, message: "lost".to_owned() };
    let hello = agent.connect_as(reception).await;
    assert_eq!(hello.features, [RECOUNT]);
    agent.down(Down::Recount).await;
    let holdings =
        agent.hears("holdings", |up| if let Up::Holdings(held) = up { Some(held.clone()) } else { None }).await;
    assert_eq!(holdings.labels["site"], "north");
    let held: Vec<_> = (holdings.revisions.iter())
        .map(|held| (held.daemonset.as_str(), held.revision.as_str(), held.newest, held.bundle.clone()))
        .collect();
    let hashes = (hash(&set("web", "two")), hash(&set("web", "one")));
    assert_eq!(held, [("web", "two", true, hashes.0.clone()), ("web", "one", false, hashes.1)]);
    let mut recall = async |hash: BlobHash| {
        agent.down(Down::Recall(hash)).await;
        agent.hears("a blob", |up| if let Up::Blob(chunk) = up { Some(chunk.clone()) } else { None }).await
    };
    assert_eq!(recall(hashes.0).await.data, content(&set("web", "two")));
    // What was not named is not given.
    assert_eq!(recall(hash(&set("gone", "one"))).await.total, 0);
}

#[tokio::test(start_paused = true)]
async fn an_older_disk_catches_up_but_asks_for_no_permit() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[set("web", "one"), set("log", "one")]).await;
    let (web, _) = (host.runs("web", "one").await, host.runs("log", "one").await);
    agent.disconnect().await;
    agent.connect_as(Reception::AdoptOnly("the disk is older".to_owned())).await;
    agent.apply(2, &[set("web", "two")]).await;
    agent.answer(2, "log", Answer::Deleted { seq: 2, kept: vec![] }).await;
    host.lacks("log").await;
    agent.permit(7, "two", false).await;
    agent.settle().await;
    assert_eq!(host.runs("web", "one").await, web);
    assert!(!agent.heard.iter().any(|up| matches!(up, Up::Ask(_))), "{:?}", agent.heard);

    agent.disconnect().await;
    agent.connect().await;
    assert_eq!(agent.asks("two").await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_pod_deleted_by_itself_is_replaced() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[set("web", "one")]).await;
    let pod = host.runs("web", "one").await;
    let id = agent.delete_pod(&pod.uid).await;
    let done = Up::Ack(Ack::Command { id, outcome: Outcome::Done });
    agent.hears("the command to be acknowledged", |up| (*up == done).then_some(())).await;
    agent.reports("the pod's last report", "web", |report, _| report.gone && report.key.uid == pod.uid).await;
    assert_ne!(host.runs("web", "one").await.uid, pod.uid);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_removed_ends_all_it_has_from_control() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[set("web", "one"), set("log", "one")]).await;
    let (_, orphan) = (host.runs("web", "one").await, host.runs("log", "one").await);
    agent.answer(2, "log", Answer::Deleted { seq: 2, kept: vec![orphan.uid.clone()] }).await;
    agent.settle().await;
    assert_eq!(host.runs("log", "one").await, orphan);
    let credentials = host.dir.path().join("node.pem");
    std::fs::write(&credentials, "").unwrap();
    let id = CommandId(3);
    agent.down(Down::Removed { id, position: position(3) }).await;
    let done = Up::Ack(Ack::Command { id, outcome: Outcome::Done });
    agent.hears("the removal to be acknowledged", |up| (*up == done).then_some(())).await;
    host.lacks("web").await;
    host.lacks("log").await;
    agent.settle().await;
    let ledger = host.ledger();
    assert_eq!((ledger.daemonsets.len(), ledger.pods.len(), credentials.exists()), (0, 0, false));
    // As long as control may not have heard of it, it is dialled; not once it refuses.
    agent.loses_link(false).await;
    agent.settle().await;
    assert!(!agent.up_rx.is_closed());
    agent.loses_link(true).await;
    agent.lets_go_of_link().await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_killed_while_its_node_is_removed_sees_it_through_when_it_is_back() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[set("web", "one")]).await;
    host.runs("web", "one").await;
    let credentials = host.dir.path().join("node.pem");
    std::fs::write(&credentials, "").unwrap();
    host.cri.hold("StopContainer");
    let id = CommandId(3);
    agent.down(Down::Removed { id, position: position(3) }).await;
    let done = Up::Ack(Ack::Command { id, outcome: Outcome::Done });
    agent.hears("the removal to be acknowledged", |up| (*up == done).then_some(())).await;
    host.asked_for("StopContainer").await;
    agent.stop().await;
    assert!(credentials.exists(), "the last pod is still there");

    host.cri.release("StopContainer");
    let mut agent = host.start();
    agent.loses_link(true).await;
    host.lacks("web").await;
    agent.settle().await;
    assert!(!credentials.exists());
    agent.lets_go_of_link().await;
    assert!(!host.ledger().removed);
}

#[tokio::test(start_paused = true)]
async fn a_revision_this_agent_cannot_realize_is_refused_in_words() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[set("web", "one")]).await;
    let pod = host.runs("web", "one").await;
    let unknown = json!({ "resourceClaims": [{ "name": "c" }] });
    agent.apply(2, &[set_with("web", "two", &unknown), set_with("log", "two", &unknown)]).await;
    for set in ["web", "log"] {
        let verdict = agent.verdict(set, Standing::Refused).await;
        assert_eq!((verdict.seq, verdict.reasons[0].field.as_str()), (2, "spec.resourceClaims"), "{set}");
    }
    assert_eq!(host.runs("web", "one").await, pod);

    agent.apply(3, &[set("log", "one"), set("web", "one")]).await;
    host.runs("log", "one").await;
    agent.verdict("web", Standing::Runs).await;
    assert_eq!(host.runs("web", "one").await, pod);
}

#[tokio::test(start_paused = true)]
async fn a_revision_lost_on_disk_is_asked_for_again() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    let web = set("web", "one");
    agent.apply(1, std::slice::from_ref(&web)).await;
    let pod = host.runs("web", "one").await;
    // Both copies of the ledger name it.
    agent.apply(2, std::slice::from_ref(&web)).await;
    agent.stop().await;
    std::fs::remove_file(host.dir.path().join("ledger/blobs").join(hash(&web).as_str())).unwrap();

    let mut agent = host.start();
    agent.connect().await;
    agent.verdict("web", Standing::Stays).await;
    agent.apply(2, &[web]).await;
    agent.verdict("web", Standing::Runs).await;
    host.cri.end_container(&pod.uid, "main", 1);
    let again = host.runs("web", "one").await;
    assert_eq!(again.uid, pod.uid);
}

#[tokio::test(start_paused = true)]
async fn what_changes_between_hello_and_welcome_is_told() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[set("web", "one"), set("log", "one")]).await;
    let (web, _) = (host.runs("web", "one").await, host.runs("log", "one").await);
    host.cri.hold("RemovePodSandbox");
    agent.answer(2, "log", Answer::Deleted { seq: 2, kept: vec![] }).await;
    host.asked_for("RemovePodSandbox").await;

    agent.disconnect().await;
    let hello = agent.hello().await;
    assert_eq!(hello.pods.len(), 2);
    host.cri.release("RemovePodSandbox");
    host.cri.end_container(&web.uid, "main", 1);
    host.lacks("log").await;
    agent.settle().await;
    assert_eq!(agent.heard, [], "nothing is said before the welcome");
    agent.welcome(Reception::Accepted).await;
    agent.reports("the pod that went", "log", |report, _| report.gone).await;
    let restarted = |_: &PodReport, status: &Value| status["containerStatuses"][0]["restartCount"] == 1;
    agent.reports("the container that was restarted", "web", restarted).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_not_looked_at_yet_is_not_reported() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[set("web", "one")]).await;
    let pod = host.runs("web", "one").await;
    agent.stop().await;

    host.cri.go_away();
    let mut agent = host.start();
    let hello = agent.connect().await;
    assert_eq!(hello.pods.len(), 1);
    agent.down(Down::Wanted(vec![pod.uid.clone()])).await;
    agent.settle().await;
    assert!(!agent.heard.iter().any(|up| matches!(up, Up::Pods(_))), "{:?}", agent.heard);
    host.cri.come_back();
    let report = agent.reports("the pod", "web", |_, _| true).await;
    assert!(report.available, "{report:?}");
}
