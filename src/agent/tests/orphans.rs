//! Pods that a DaemonSet lets go, and those that another adopts: whoever has them, they run on.

use super::*;
use crate::api::bundle::{POSTED_REVISION, Posted};
use crate::link::{Outcome, PodAction};

/// A host whose `log` runs in revision one.
async fn running() -> (Host, Agent, Seen) {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[set("log", "one")]).await;
    let pod = host.runs("log", "one").await;
    (host, agent, pod)
}

/// The pod as control tells of it once it stands by itself, or once a DaemonSet has adopted it.
fn single(host: &Host, pod: &Seen, daemonset: Option<&str>) -> Bundle {
    let record = host.ledger().pods.remove(&pod.uid).unwrap();
    let daemonset = daemonset.map(uid);
    let revision = daemonset.as_ref().map_or(POSTED_REVISION, |_| "one").into();
    let posted = Posted { created_at: record.created_at, ephemeral_containers: vec![], daemonset };
    Bundle { uid: pod.uid.clone(), name: record.key.name, revision, posted: Some(posted), ..set("log", "one") }
}

/// The same for nodes that there are none of.
fn nowhere(mut set: Bundle) -> Bundle {
    set.template.spec.as_mut().unwrap().node_selector = Some([("zone".to_owned(), "none".to_owned())].into());
    set
}

/// Whose a pod is, by the ledger.
fn owner(host: &Host, pod: &Seen) -> Option<Uid> {
    host.ledger().pods[&pod.uid].daemonset.clone()
}

fn orphaned(pod: &Seen) -> Answer {
    Answer::Deleted { seq: 2, kept: vec![pod.uid.clone()] }
}

/// Another agent takes the place of one that is killed.
async fn another(host: &Host, agent: Agent) -> Agent {
    agent.stop().await;
    let mut agent = host.start();
    agent.connect().await;
    agent.settle().await;
    agent
}

#[tokio::test(start_paused = true)]
async fn an_orphan_runs_on_as_a_pod_of_its_own_until_it_is_deleted() {
    let (host, mut agent, pod) = running().await;
    agent.answer(2, "log", orphaned(&pod)).await;
    let mut agent = another(&host, agent).await;
    assert_eq!((owner(&host, &pod), host.ledger().daemonsets.len()), (None, 0));
    assert_eq!(host.runs("log", "one").await, pod);
    let own = single(&host, &pod, None);
    agent.assign(std::slice::from_ref(&own)).await;
    let agent = another(&host, agent).await;
    assert_eq!(host.ledger().pods[&pod.uid].revision.bundle, hash(&own));
    assert_eq!(host.runs("log", "one").await, pod);

    // A reboot without network leaves the ledger only.
    agent.stop().await;
    let host = Host { cri: FakeCri::new(), boot_id: "boot-2".to_owned(), ..host };
    host.cri.serve_image(&reference("one"));
    let mut agent = host.start();
    let again = host.runs(&own.name, POSTED_REVISION).await;
    assert_eq!(again.uid, pod.uid);
    agent.connect().await;
    let delete = PodAction::Delete { grace_period_secs: 1, permit: None };
    assert_eq!(agent.command(&pod.uid, delete).await, Outcome::Done);
    host.lacks(&own.name).await;
    assert_eq!((host.ledger().pods.len(), host.left_behind()), (0, vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_control_did_not_know_ends_with_its_daemonset() {
    let (host, mut agent, _) = running().await;
    agent.answer(2, "log", Answer::Deleted { seq: 2, kept: vec!["another".into()] }).await;
    host.lacks("log").await;
}

#[tokio::test(start_paused = true)]
async fn a_daemonset_that_is_new_waits_for_the_pod_it_has_adopted() {
    let (host, mut agent, pod) = running().await;
    agent.answer(2, "log", orphaned(&pod)).await;
    // It has the template that the pod was made from.
    let (adopted, web) = (single(&host, &pod, Some("web")), Bundle { revision: "one".into(), ..set("web", "one") });
    agent.down(manifest(3, std::slice::from_ref(&web))).await;
    agent.speaks_of(std::slice::from_ref(&adopted)).await;
    agent.down(chunk(&content(&web), 0..)).await;
    let mut agent = another(&host, agent).await;
    assert_eq!((host.pods().await.len(), host.ledger().daemonsets.len()), (1, 0), "it may have a pod here");

    agent.down(manifest(3, std::slice::from_ref(&web))).await;
    agent.speaks_of(std::slice::from_ref(&adopted)).await;
    agent.down(chunk(&content(&web), 0..)).await;
    agent.down(chunk(&content(&adopted), 0..)).await;
    agent.settle().await;
    let mut agent = another(&host, agent).await;
    let ledger = host.ledger();
    assert_eq!((owner(&host, &pod), ledger.pods.len()), (Some(uid("web")), 1));
    assert_eq!(ledger.daemonsets[&uid("web")].permitted, Some(ledger.daemonsets[&uid("web")].newest.clone()));
    assert_eq!(host.runs("log", "one").await, pod);

    // It is replaced as any other: under a permit.
    agent.apply(4, &[set("web", "two")]).await;
    agent.asks("two").await.unwrap();
    agent.settle().await;
    assert_eq!(host.runs("log", "one").await, pod);
    agent.permit(7, "two", false).await;
    host.runs("web", "two").await;
    host.lacks("log").await;
    assert_eq!(host.ledger().pods.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_adopted_pod_of_another_revision_waits_for_a_permit() {
    let (host, mut agent, pod) = running().await;
    agent.answer(2, "log", orphaned(&pod)).await;
    agent.assign(&[single(&host, &pod, Some("web"))]).await;
    agent.apply(3, &[set("web", "two")]).await;
    agent.asks("two").await.unwrap();
    agent.settle().await;
    assert_eq!((host.runs("log", "one").await, host.ledger().pods.len()), (pod, 1));
    agent.permit(7, "two", false).await;
    host.runs("web", "two").await;
    host.lacks("log").await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_let_go_runs_beside_the_one_in_its_place() {
    let (host, mut agent, pod) = running().await;
    agent.assign(&[single(&host, &pod, None)]).await;
    eventually("another pod in its place", async || {
        let pods = host.pods().await.remove("log")?;
        (pods.len() == 2 && pods.iter().all(|pod| pod.running().is_some())).then_some(())
    })
    .await;
    let pods = host.pods().await.remove("log").unwrap();
    assert!(pods.contains(&pod) && owner(&host, &pod).is_none());

    // Selected again, it is the DaemonSet's older pod, and the one that stays.
    agent.assign(&[single(&host, &pod, Some("log"))]).await;
    assert_eq!(host.runs("log", "one").await, pod);
    assert_eq!(owner(&host, &pod), Some(uid("log")));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_was_let_go_is_neither_replaced_nor_driven_out_before_its_node_has_heard_of_that() {
    let (host, mut agent, pod) = running().await;
    let own = single(&host, &pod, None);
    agent.speaks_of(std::slice::from_ref(&own)).await;
    for (seq, log) in [(3, set("log", "two")), (4, nowhere(set("log", "two")))] {
        agent.down(manifest(seq, std::slice::from_ref(&log))).await;
        agent.down(chunk(&content(&log), 0..)).await;
        agent.permit(7, "two", false).await;
        agent.settle().await;
        assert_eq!(host.runs("log", "one").await, pod);
    }
    agent.down(chunk(&content(&own), 0..)).await;
    agent.settle().await;
    assert_eq!(host.runs("log", "one").await, pod);
    assert_eq!(owner(&host, &pod), None);
}

/// Control lets a pod go that its node is ending: it takes the pod out of the API when it hears that it is gone.
#[tokio::test(start_paused = true)]
async fn a_pod_that_is_gone_does_not_come_back_by_what_control_said_before_it_heard() {
    let (host, mut agent, pod) = running().await;
    let own = single(&host, &pod, None);
    host.cri.hold("StopContainer");
    agent.answer(2, "log", Answer::Deleted { seq: 2, kept: vec![] }).await;
    host.asked_for("StopContainer").await;
    agent.speaks_of(std::slice::from_ref(&own)).await;
    host.cri.release("StopContainer");
    agent.reports("its last report", "log", |report, _| report.gone).await;
    agent.down(chunk(&content(&own), 0..)).await;
    agent.settle().await;
    assert_eq!(host.ledger().pods.len(), 0, "said before it was gone");
    agent.speaks_of(std::slice::from_ref(&own)).await;
    agent.down(chunk(&content(&own), 0..)).await;
    agent.settle().await;
    assert_eq!(host.ledger().pods.len(), 0, "said before control heard that it was gone");

    // Its last report was lost with the session: control has it still, and says so.
    agent.disconnect().await;
    agent.connect().await;
    agent.assign(std::slice::from_ref(&own)).await;
    assert_eq!(host.runs(&own.name, POSTED_REVISION).await.uid, pod.uid);
}

#[tokio::test(start_paused = true)]
async fn an_adopted_pod_has_to_be_ready_for_as_long_as_its_daemonset_says() {
    let (host, mut agent, pod) = running().await;
    agent.answer(2, "log", orphaned(&pod)).await;
    agent.assign(&[single(&host, &pod, Some("web"))]).await;
    let web = |seconds| Bundle { revision: "one".into(), min_ready_seconds: seconds, ..set("web", "one") };
    agent.apply(3, &[web(3600)]).await;
    agent.reports("it to be too young", "web", |report, _| !report.available).await;
    // The user thinks again.
    agent.apply(4, &[web(1)]).await;
    agent.reports("it to be available", "web", |report, _| report.available).await;
    assert_eq!(host.runs("log", "one").await, pod);
}
