//! What the agent says of itself at its host.

use super::*;
use crate::agent::status::Status;
use crate::link::HoldReason;

async fn status(agent: &Agent) -> Status {
    let (status_tx, status_rx) = oneshot::channel();
    agent.input(Input::Status(status_tx)).await;
    tokio::time::timeout(LIMIT, status_rx).await.expect("a status in time").unwrap()
}

#[tokio::test(start_paused = true)]
async fn link_holds_and_pods_show() {
    let host = Host::new();
    let mut agent = host.start();
    assert!(!status(&agent).await.in_session);
    agent.connect().await;
    let setup = json!({ "name": "setup", "image": reference("two"), "imagePullPolicy": "IfNotPresent" });
    let slow = set_with("slow", "one", &json!({ "initContainers": [setup] }));
    agent.apply(1, &[set("web", "one"), set("lost", "three"), slow]).await;
    let pod = host.runs("web", "one").await;
    agent.settle().await;

    let now = status(&agent).await;
    assert_eq!((now.node.as_str(), now.fleet.as_str(), now.position), ("node-1", FLEET, position(1)));
    assert_eq!((now.in_session, &now.link_lost, &now.hold), (true, &None, &None));
    let [lost, slow, web] = now.pods.as_slice() else { panic!("{:?}", now.pods) };
    let seen = web.seen.as_ref().unwrap();
    assert_eq!((seen.status.as_str(), seen.ready, seen.containers, seen.restarts), ("Running", 1, 1, 0));
    assert_eq!(slow.seen.as_ref().unwrap().status, "Init:0/1");
    let seen = lost.seen.as_ref().unwrap();
    assert!(
        ["ErrImagePull", "ImagePullBackOff"].contains(&seen.status.as_str()) && !seen.message.is_empty(),
        "{seen:?}"
    );

    agent.disconnect().await;
    let cut = status(&agent).await;
    assert_eq!((cut.in_session, cut.link_lost.as_deref()), (false, Some("cut")));
    let why = "two hosts use this identity".to_owned();
    agent.connect_as(Reception::Hold { reason: HoldReason::Clone, message: why.clone() }).await;
    agent.settle().await;
    let held = status(&agent).await;
    assert_eq!((held.in_session, held.link_lost, held.hold), (true, None, Some(why)));

    agent.stop().await;
    let offline = Status::of(None, &host.ledger());
    assert_eq!((offline.version, offline.pods.len()), (None, 3));
    assert!(offline.pods.iter().all(|line| line.seen.is_none()) && offline.pods[2].name.starts_with("web-"));
    assert_eq!(host.runs("web", "one").await, pod);
}

#[tokio::test(start_paused = true)]
async fn a_daemonset_unknown_to_control_shows_as_held() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[set("web", "one")]).await;
    agent.answer(1, "web", Answer::Unknown).await;
    let held: Vec<_> = status(&agent).await.daemonsets.into_iter().map(|line| line.unknown_to_control).collect();
    assert_eq!(held, [true]);
}
