//! Runtimes that go away, images that cannot be pulled, containers that end, pods that do not fit.

use super::*;

impl Agent {
    /// Waits until the node says whether it is ready, and why not.
    async fn node_is(&mut self, ready: &str) -> String {
        self.hears(&format!("the node to be ready: {ready}"), |up| {
            let Up::Node(report) = up else { return None };
            let status: Value = serde_json::from_slice(&report.status).unwrap();
            let condition = status["conditions"].as_array().unwrap().iter().find(|one| one["type"] == "Ready").unwrap();
            (condition["status"] == ready).then(|| condition["message"].as_str().unwrap().to_owned())
        })
        .await
    }

    /// Waits until the container of a DaemonSet's pod waits for this reason; gives the whole status.
    pub(super) async fn waits(&mut self, set: &str, reason: &str) -> Value {
        let of = |status: &Value| status["containerStatuses"][0]["state"]["waiting"]["reason"] == reason;
        let report = self.reports(reason, set, |_, status| of(status)).await;
        serde_json::from_slice(&report.status).unwrap()
    }

    pub(super) async fn event(&mut self, reason: &str) -> String {
        self.hears(&format!("an event {reason}"), |up| {
            let Up::Events(events) = up else { return None };
            events.iter().find(|event| event.reason == reason).map(|event| event.message.clone())
        })
        .await
    }
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_goes_away_leaves_a_node_that_says_so_and_comes_back_in_step() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[set("web", "one"), set("log", "one")]).await;
    let (web, log) = (host.runs("web", "one").await, host.runs("log", "one").await);
    agent.node_is("True").await;

    host.cri.go_away();
    let why = agent.node_is("False").await;
    assert!(why.contains("container runtime is down"), "{why}");
    let ended = host.cri.end_container(&web.uid, "main", 1);
    agent.answer(2, "log", Answer::Deleted { seq: 2, kept: vec![] }).await;
    agent.settle().await;
    assert_eq!(host.ledger().pods.len(), 2);
    agent.heard.clear();

    host.cri.come_back();
    agent.node_is("True").await;
    let again = host.runs("web", "one").await;
    assert_eq!((&again.uid, &again.observed.sandboxes), (&web.uid, &web.observed.sandboxes));
    assert_ne!(again.running(), Some(ended));
    host.lacks("log").await;
    assert_ne!(web.uid, log.uid);
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_hangs_is_noticed_though_nothing_happens() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[set("web", "one")]).await;
    let web = host.runs("web", "one").await;
    agent.node_is("True").await;

    host.cri.hold("Status");
    tokio::time::sleep(Duration::from_secs(40)).await;
    let why = agent.node_is("False").await;
    assert!(why.contains("did not answer Status within 30s"), "{why}");
    host.cri.release("Status");
    agent.node_is("True").await;
    assert_eq!(host.runs("web", "one").await, web);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_begun_on_a_node_whose_network_is_not_ready() {
    let host = Host::new();
    host.cri.set_network_ready(false);
    let mut agent = host.start();
    agent.connect().await;
    let tolerant = json!({ "tolerations": [{ "operator": "Exists" }] });
    agent.apply(1, &[set("web", "one"), set_with("cni", "one", &tolerant)]).await;
    host.runs("cni", "one").await;
    agent.settle().await;
    assert!(!host.pods().await.contains_key("web"));
    host.cri.set_network_ready(true);
    host.runs("web", "one").await;
}

#[tokio::test(start_paused = true)]
async fn an_image_that_is_missing_is_tried_again_after_a_rest() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[set("web", "missing")]).await;
    agent.waits("web", "ErrImagePull").await;
    let status = agent.waits("web", "ImagePullBackOff").await;
    assert_eq!(status["phase"], "Pending");
    assert!(agent.event("Failed").await.contains("registry.example/missing:1"));
    host.cri.serve_image(&reference("missing"));
    host.runs("web", "missing").await;
    let pulls = host.cri.calls().iter().filter(|call| call.method == "PullImage").count();
    assert_eq!(pulls, 2);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_ends_is_restarted_at_once_and_then_after_a_rest() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[set("web", "one")]).await;
    let first = host.runs("web", "one").await;
    host.cri.end_container(&first.uid, "main", 1);
    let second = host.runs("web", "one").await;
    assert_ne!(second.running(), first.running());
    host.cri.end_container(&first.uid, "main", 1);
    let status = agent.waits("web", "CrashLoopBackOff").await;
    assert_eq!(status["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 1);
    let third = host.runs("web", "one").await;
    assert_eq!(third.observed.sandboxes, first.observed.sandboxes);
    agent.event("BackOff").await;
}

#[tokio::test(start_paused = true)]
async fn of_two_pods_that_want_a_port_the_second_waits_for_the_first_to_go() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    let (web, other) = (with_host_port(set("web", "one")), with_host_port(set("other", "one")));
    agent.apply(1, std::slice::from_ref(&web)).await;
    let holder = host.runs("web", "one").await;
    agent.apply(2, &[web, other]).await;
    let report = agent.reports("the pod that does not fit", "other", |_, status| status["reason"] == "NodePorts").await;
    let status: Value = serde_json::from_slice(&report.status).unwrap();
    assert!(status["message"].as_str().unwrap().contains("8080/TCP is held by default/web-"), "{status}");
    agent.settle().await;
    assert!(!host.pods().await.contains_key("other"));

    // Also the next agent finds the port taken, by a pod that was made before.
    agent.stop().await;
    let mut agent = host.start();
    agent.connect().await;
    agent.settle().await;
    assert_eq!(host.runs("web", "one").await, holder);
    agent.answer(3, "web", Answer::Deleted { seq: 3, kept: vec![] }).await;
    host.runs("other", "one").await;
}
