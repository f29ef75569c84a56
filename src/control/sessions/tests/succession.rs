//! One session of a node after another, and what was under way in the one before.

use super::*;
use crate::control::nodes;
use crate::link::Digest;
use crate::sim::fuse::Fuse;

impl Host {
    fn identity(&self) -> NodeIdentity {
        self.credentials.identity().unwrap().node().unwrap()
    }
}

impl Harness {
    /// Begins a session without a link between. Of what control says no more goes out than is taken.
    async fn session(&self, host: &Host, hello: Hello) -> SessionEnds {
        let hello = Hello { fleet: host.fleet.clone(), ..hello };
        let Ok(ends) = self.sessions.connected(host.identity(), hello).await else { panic!("it is a node") };
        ends
    }
}

fn held(report: &PodReport) -> HeldPod {
    HeldPod { uid: report.key.uid.clone(), digest: report.digest() }
}

fn said(phase: &'static str, report: &PodReport) -> Up {
    Up::Pods(vec![PodReport { status: json!({"phase": phase}).to_string().into(), ..report.clone() }])
}

fn is(phase: &'static str) -> impl Fn(Option<&Value>) -> bool {
    move |pod| pod.is_some_and(|pod| pod["status"]["phase"] == phase)
}

#[tokio::test]
async fn what_comes_of_a_session_after_the_next_has_begun_is_old_news() {
    let harness = Harness::new().await;
    let host = harness.join("edge-1").await;
    let (node, _, report) = running(&harness, &host).await;
    drop(node);
    harness.disconnected(&host).await;

    // With more to tell than goes out, it does not hear that another one has begun.
    let pods = vec![HeldPod { digest: Digest([0; 32]), ..held(&report) }];
    let first = harness.session(&host, Hello { session: 2, pods: pods.clone(), ..hello() }).await;
    let second = harness.session(&host, Hello { session: 3, pods, ..hello() }).await;
    second.up_tx.send(said("Failed", &report)).await.unwrap();
    harness.until(&POD, &report.key.name, is("Failed")).await;
    first.up_tx.send(said("Pending", &report)).await.unwrap();
    timeout(SOON, first.up_tx.closed()).await.expect("nobody listens any more");
    let pod = harness.objects.get(&POD, "default", &report.key.name).await.unwrap();
    assert_eq!(pod["status"]["phase"], "Failed");

    // A pod that is gone by the next one's hello is not made again.
    let _third = harness.session(&host, Hello { session: 4, ..hello() }).await;
    harness.until(&POD, &report.key.name, |pod| pod.is_none()).await;
    second.up_tx.send(said("Running", &report)).await.unwrap();
    timeout(SOON, second.up_tx.closed()).await.expect("nobody listens any more");
    assert!(harness.objects.get(&POD, "default", &report.key.name).await.is_err());
}

#[tokio::test]
async fn a_report_that_was_being_written_when_its_session_ended_is_asked_for_again() {
    let fuse = Fuse::new(Memory::new());
    let harness = Harness::over(tempfile::tempdir().unwrap(), fuse.clone()).await;
    let host = harness.join("edge-1").await;
    let (node, _, report) = running(&harness, &host).await;
    let answer = fuse.hold_next_answer();
    node.say(said("Failed", &report)).await;
    harness.until(&POD, &report.key.name, is("Failed")).await;
    drop(node);

    // By now it is again as it was.
    let (mut node, _) = harness.connect(&host, Hello { session: 2, pods: vec![held(&report)], ..hello() }).await;
    let wanted = node.pick(|down| match down {
        Down::Wanted(wanted) => Some(wanted),
        Down::Manifest(_) => Some(vec![]),
        _ => None,
    });
    assert_eq!(wanted.await, std::slice::from_ref(&report.key.uid));
    drop(answer);
}

#[tokio::test]
async fn a_pod_that_is_told_of_while_the_hello_is_looked_through_is_there() {
    let fuse = Fuse::new(Memory::new());
    let harness = Harness::over(tempfile::tempdir().unwrap(), fuse.clone()).await;
    let host = harness.join("edge-1").await;
    let (node, _, report) = running(&harness, &host).await;
    node.say(Up::Pods(vec![PodReport { gone: true, ..report.clone() }])).await;
    harness.until(&POD, &report.key.name, |pod| pod.is_none()).await;
    drop(node);
    harness.disconnected(&host).await;

    // What it holds and control does not know is written on the Node first.
    let unknown =
        HeldDaemonSet { uid: "99999999-0000-4000-8000-000000000000".into(), seq: 1, key: None, revision: None };
    let mut ends = harness.session(&host, Hello { session: 2, daemonsets: vec![unknown], ..hello() }).await;
    let answer = fuse.hold_next_answer();
    let is_written = |node: &Value| node["status"]["conditions"].to_string().contains(nodes::UNKNOWN);
    harness.until(&NODE, "edge-1", |node| node.is_some_and(is_written)).await;
    ends.up_tx.send(Up::Pods(vec![report.clone()])).await.unwrap();
    harness.until(&POD, &report.key.name, |pod| pod.is_some()).await;
    drop(answer);
    while !matches!(ends.down_rx.recv().await.unwrap().down(), Down::Manifest(_)) {}
    assert!(harness.objects.get(&POD, "default", &report.key.name).await.is_ok());
}
