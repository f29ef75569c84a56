//! Replacing a running pod: prepare, ask, be granted, take.

use super::*;
use crate::api::bundle::UpdateStrategy;
use crate::link::{Ask, Permit, Reason};
use crate::model::{Incumbent, PermitNumber, RevisionHash};

impl Agent {
    /// What came of preparing a revision of `web`.
    pub(super) async fn asks(&mut self, revision: &str) -> Result<(), Reason> {
        let revision = RevisionHash::from(revision);
        self.hears(&format!("what came of preparing {revision}"), |up| match up {
            Up::Ask(Ask { revision: asked, prepared, .. }) if *asked == revision => Some(prepared.clone()),
            _ => None,
        })
        .await
    }

    pub(super) async fn permit(&self, number: u64, revision: &str, void: bool) {
        self.permitted(number, revision, void, false).await;
    }

    async fn permitted(&self, number: u64, revision: &str, void: bool, if_unavailable: bool) {
        let (number, daemonset, revision) = (PermitNumber(number), uid("web"), revision.into());
        self.down(Down::Permit(Permit { number, daemonset, revision, void, if_unavailable })).await;
    }
}

/// A host whose `web` runs in revision one.
async fn running() -> (Host, Agent, Seen) {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[set("web", "one")]).await;
    let pod = host.runs("web", "one").await;
    host.cri.take_changes();
    (host, agent, pod)
}

#[tokio::test(start_paused = true)]
async fn nothing_stops_before_the_permit_is_on_disk() {
    let (host, mut agent, old) = running().await;
    agent.apply(2, &[set("web", "two")]).await;
    assert_eq!(agent.asks("two").await, Ok(()));
    agent.settle().await;
    assert_eq!(host.cri.take_changes(), ["PullImage"]);
    assert!(!agent.heard.iter().any(|up| matches!(up, Up::Ask(_))), "it asks once");

    host.cri.hold("StopContainer");
    agent.permit(7, "two", false).await;
    host.asked_for("StopContainer").await;
    let taken = host.ledger().daemonsets[&uid("web")].taken;
    assert_eq!(taken, Some(PermitNumber(7)));
    agent
        .hears("the permit to be acknowledged", |up| (*up == Up::Ack(Ack::Taken(PermitNumber(7)))).then_some(()))
        .await;
    host.cri.release("StopContainer");
    let new = host.runs("web", "two").await;
    assert_ne!(new.uid, old.uid);
    let expected =
        ["StopContainer", "StopPodSandbox", "RemovePodSandbox", "RunPodSandbox", "CreateContainer", "StartContainer"];
    assert_eq!(host.cri.take_changes(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_permit_is_void_with_the_end_of_its_session() {
    let (host, mut agent, old) = running().await;
    host.cri.hold("PullImage");
    agent.apply(2, &[set("web", "two")]).await;
    agent.permit(7, "two", false).await;
    agent.disconnect().await;
    host.cri.release("PullImage");
    agent.settle().await;
    assert_eq!(host.runs("web", "one").await, old);

    let hello = agent.connect().await;
    assert_eq!(hello.permits, []);
    assert_eq!(agent.asks("two").await, Ok(()), "it asks again, though it had prepared before");
    agent.permit(8, "other", false).await;
    agent.permit(9, "two", false).await;
    agent.permit(9, "two", true).await;
    agent.settle().await;
    let mut taken: Vec<_> = agent.heard.iter().filter(|up| matches!(up, Up::Ack(Ack::Taken(_)))).collect();
    // Nine may have been taken before its end was heard of, and then it holds.
    taken.retain(|up| **up != Up::Ack(Ack::Taken(PermitNumber(9))));
    assert_eq!(taken, Vec::<&Up>::new());
    agent.permit(10, "two", false).await;
    host.runs("web", "two").await;
}

#[tokio::test(start_paused = true)]
async fn a_permit_for_a_pod_that_is_not_available_ends_none_that_is() {
    let (host, mut agent, old) = running().await;
    agent.apply(2, &[set("web", "two")]).await;
    assert_eq!(agent.asks("two").await, Ok(()));
    agent.permitted(7, "two", false, true).await;
    let declines = |up: &Up| (*up == Up::Ack(Ack::Declined(PermitNumber(7)))).then_some(());
    agent.hears("the permit to be declined", declines).await;
    let asks = |up: &Up| if let Up::Ask(ask) = up { Some(ask.incumbent) } else { None };
    assert_eq!(agent.hears("it to ask again", asks).await, Incumbent::Available);
    agent.settle().await;
    assert_eq!(host.runs("web", "one").await, old);
    agent.permit(8, "two", false).await;
    host.runs("web", "two").await;
}

#[tokio::test(start_paused = true)]
async fn an_image_that_cannot_be_had_is_told_and_takes_nothing_down() {
    let (host, mut agent, old) = running().await;
    agent.apply(2, &[set("web", "missing")]).await;
    let reason = agent.asks("missing").await.unwrap_err();
    assert_eq!(reason.reason, "ErrImagePull");
    assert!(reason.message.contains("registry.example/missing:1"), "{reason:?}");
    agent.permit(7, "missing", false).await;
    agent.settle().await;
    assert_eq!(host.runs("web", "one").await, old);

    // The user takes it back; the next attempt falls due and finds nothing to prepare.
    agent.apply(3, &[set("web", "one")]).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(host.runs("web", "one").await, old);

    agent.apply(4, &[set("web", "missing")]).await;
    agent.asks("missing").await.unwrap_err();
    host.cri.serve_image(&reference("missing"));
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(agent.asks("missing").await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_revision_that_would_not_fit_is_told_and_takes_nothing_down() {
    let (host, mut agent, old) = running().await;
    let (log, web) = (with_host_port(set("log", "one")), with_host_port(set("web", "two")));
    agent.apply(2, std::slice::from_ref(&log)).await;
    host.runs("log", "one").await;
    agent.apply(3, &[log.clone(), web]).await;
    let reason = agent.asks("two").await.unwrap_err();
    assert_eq!(reason.reason, "NodePorts");
    assert_eq!(host.runs("web", "one").await, old);

    // Its own pod's port is free by then.
    agent.apply(4, &[with_host_port(set("log", "two"))]).await;
    assert_eq!(agent.asks("two").await, Ok(()));
}

/// `web` in a revision whose container ends as soon as it starts.
fn broken(host: &Host) -> Bundle {
    host.cri.end_at_start("broken", 3);
    let container = json!({ "name": "broken", "image": reference("two"), "imagePullPolicy": "IfNotPresent" });
    set_with("web", "two", &json!({ "containers": [container] }))
}

/// A host that has taken a revision that does not work, under permit 7.
async fn broken_by_an_update() -> (Host, Agent) {
    let (host, mut agent, old) = running().await;
    agent.apply(2, &[broken(&host)]).await;
    agent.asks("two").await.unwrap();
    agent.permit(7, "two", false).await;
    eventually("the old pod to be replaced", async || {
        let pods = host.pods().await.remove("web")?;
        pods.iter().all(|pod| pod.uid != old.uid && pod.revision == "two").then_some(())
    })
    .await;
    (host, agent)
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_cut_off_goes_back_from_a_revision_that_never_worked() {
    let (host, mut agent) = broken_by_an_update().await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(host.ledger().daemonsets[&uid("web")].rejected, [].into(), "control was there to be asked");
    agent.disconnect().await;
    tokio::time::sleep(Duration::from_secs(590)).await;
    assert_eq!(host.ledger().daemonsets[&uid("web")].rejected, [].into(), "it has ten minutes");
    host.runs("web", "one").await;
    assert_eq!(host.ledger().daemonsets[&uid("web")].rejected, ["two".into()].into());

    // It says so, keeps its slot, and does not try again by itself.
    let hello = agent.connect().await;
    assert_eq!((hello.permits[0].number, hello.permits[0].revision.as_str()), (PermitNumber(7), "two"));
    let rejected = agent.hears("what it went back from", |up| {
        let Up::Verdicts(verdicts) = up else { return None };
        verdicts.iter().find(|one| !one.rejected.is_empty()).map(|one| one.rejected.clone())
    });
    assert_eq!(rejected.await, ["two".into()]);
    agent.permit(8, "two", false).await;
    agent.settle().await;
    assert!(!agent.heard.iter().any(|up| matches!(up, Up::Ask(_))), "{:?}", agent.heard);
    host.runs("web", "one").await;

    // A user writes the same template anew.
    let again = Bundle { template_generation: 3, ..broken(&host) };
    agent.apply(3, &[again]).await;
    assert_eq!(agent.asks("two").await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_host_does_not_go_back_from_what_worked_once_or_was_told_not_to() {
    let (host, mut agent, _) = running().await;
    agent.apply(2, &[set("web", "two")]).await;
    agent.asks("two").await.unwrap();
    agent.permit(7, "two", false).await;
    let pod = host.runs("web", "two").await;
    agent.reports("a pod that is available", "web", |report, _| report.available).await;
    agent.disconnect().await;
    host.cri.end_at_start("main", 3);
    host.cri.end_container(&pod.uid, "main", 3);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(host.ledger().daemonsets[&uid("web")].rejected, [].into());

    let (host, mut agent) = broken_by_an_update().await;
    agent.apply(3, &[Bundle { no_fallback: true, ..broken(&host) }]).await;
    agent.disconnect().await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(host.ledger().daemonsets[&uid("web")].rejected, [].into());
}

/// The manifest, with first pods that wait for a permit.
fn gradual(seq: u64, sets: &[Bundle]) -> Down {
    let Down::Manifest(manifest) = manifest(seq, sets) else { unreachable!("it is one") };
    Down::Manifest(Manifest { gradual: sets.iter().map(|set| set.uid.clone()).collect(), ..manifest })
}

#[tokio::test(start_paused = true)]
async fn a_first_pod_waits_for_its_permit_while_control_is_there() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    let sets = [set("web", "one"), set("log", "one")];
    agent.takes(gradual(1, &sets), 1, &sets).await;
    assert_eq!(agent.asks("one").await, Ok(()));
    agent.settle().await;
    assert_eq!(host.cri.take_changes(), [""; 0]);
    agent.permit(7, "one", false).await;
    host.runs("web", "one").await;
    assert_eq!(host.ledger().daemonsets[&uid("web")].taken, Some(PermitNumber(7)));
    assert!(!host.pods().await.contains_key("log"), "the permit was not for it");

    agent.disconnect().await;
    host.runs("log", "one").await;
}

/// The same with its pods replaced by surge, and available once they were ready for ten seconds.
fn surging(mut set: Bundle) -> Bundle {
    (set.update_strategy, set.min_ready_seconds) = (UpdateStrategy::RollingUpdateWithSurge, 10);
    set
}

/// Waits until a pod of each revision runs; gives the one of revision two.
async fn both_run(host: &Host, old: &Seen) -> Seen {
    eventually("both pods to run", async || {
        let pods = host.pods().await.remove("web")?;
        let new = pods.iter().find(|pod| pod.revision == "two" && pod.running().is_some())?;
        (pods.len() == 2 && pods.contains(old)).then(|| new.clone())
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn a_surge_ends_the_old_pod_once_the_new_one_is_available() {
    let (host, mut agent, old) = running().await;
    agent.apply(2, &[surging(set("web", "two"))]).await;
    assert_eq!(agent.asks("two").await, Ok(()));
    agent.permit(7, "two", false).await;
    let new = both_run(&host, &old).await;
    agent.settle().await;
    assert_eq!(host.cri.take_changes(), ["PullImage", "RunPodSandbox", "CreateContainer", "StartContainer"]);

    // The next agent knows from its ledger that two are right.
    agent.stop().await;
    let mut agent = host.start();
    assert_eq!(agent.connect().await.permits.len(), 1);
    agent.settle().await;
    assert_eq!(both_run(&host, &old).await, new);

    assert_eq!(host.runs("web", "two").await, new);
    assert_eq!(host.cri.take_changes(), ["StopContainer", "StopPodSandbox", "RemovePodSandbox"]);
}

#[tokio::test(start_paused = true)]
async fn a_surge_that_fails_leaves_the_old_pod_and_is_overtaken() {
    let (host, mut agent, old) = running().await;
    agent.apply(2, &[surging(set("web", "two"))]).await;
    agent.asks("two").await.unwrap();
    host.cri.hold("StartContainer");
    agent.permit(7, "two", false).await;
    host.asked_for("StartContainer").await;
    agent.apply(3, &[surging(set("web", "one"))]).await;
    host.cri.release("StartContainer");
    agent.asks("one").await.unwrap();
    agent.permit(8, "one", false).await;
    assert_eq!(host.runs("web", "one").await, old);
}

#[tokio::test(start_paused = true)]
async fn a_surge_onto_its_own_host_port_is_told_and_takes_no_slot() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[with_host_port(set("web", "one"))]).await;
    let old = host.runs("web", "one").await;
    agent.apply(2, &[surging(with_host_port(set("web", "two")))]).await;
    assert_eq!(agent.asks("two").await.unwrap_err().reason, "NodePorts");
    assert_eq!(host.runs("web", "one").await, old);
}

#[tokio::test(start_paused = true)]
async fn a_revision_that_is_overtaken_while_it_is_prepared_is_given_up() {
    let (host, mut agent, _) = running().await;
    host.cri.serve_image(&reference("three"));
    host.cri.hold("PullImage");
    agent.apply(2, &[set("web", "two")]).await;
    host.asked_for("PullImage").await;
    agent.apply(3, &[set("web", "three")]).await;
    host.cri.release("PullImage");
    assert_eq!(agent.asks("three").await, Ok(()));
    agent.settle().await;
    assert!(!agent.heard.iter().any(|up| matches!(up, Up::Ask(_))), "{:?}", agent.heard);
    agent.permit(7, "three", false).await;
    host.runs("web", "three").await;
}

#[tokio::test(start_paused = true)]
async fn stopping_is_asked_of_the_runtime_once() {
    let (host, mut agent, old) = running().await;
    host.cri.hold("StopContainer");
    agent.answer(2, "web", Answer::Deleted { seq: 2, kept: vec![] }).await;
    host.asked_for("StopContainer").await;
    // Each writes the ledger and tells every worker anew what is wanted of it.
    for seq in 3..6 {
        agent.apply(seq, &[]).await;
        agent.settle().await;
    }
    host.cri.release("StopContainer");
    host.lacks("web").await;
    let changes = host.cri.take_changes();
    assert_eq!(changes, ["StopContainer", "StopPodSandbox", "RemovePodSandbox"], "of {}", old.uid);
}
