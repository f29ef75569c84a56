//! Pods that make way for others, and come back.

use super::*;

/// A DaemonSet whose pod wants the one port that there is.
pub(super) fn ranked(name: &str, priority: i32) -> Bundle {
    with_host_port(Bundle { priority, ..set(name, "one") })
}

fn status(report: &PodReport) -> Value {
    serde_json::from_slice(&report.status).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_pod_makes_way_for_one_of_a_higher_priority_and_is_back_when_there_is_room() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[ranked("low", 0)]).await;
    let low = host.runs("low", "one").await;

    agent.apply(2, &[ranked("low", 0), ranked("high", 1000)]).await;
    let high = host.runs("high", "one").await;
    let report = agent.reports("the end", "low", |_, status| status["phase"] == "Failed").await;
    let failed = status(&report);
    let message = format!("Preempted by pod {} on node node-1", high.uid);
    assert_eq!(
        (report.key.uid, &failed["reason"], &failed["message"]),
        (low.uid, &json!("Preempting"), &json!(message))
    );
    let conditions = failed["conditions"].as_array().unwrap();
    let target = conditions.iter().find(|condition| condition["type"] == "DisruptionTarget").unwrap();
    assert_eq!((&target["status"], &target["message"]), (&json!("True"), &json!(message)));
    let stops = host.cri.calls().into_iter().filter(|call| call.method == "StopContainer");
    assert_eq!(
        stops.map(|call| call.request["timeout"].clone()).collect::<Vec<_>>(),
        [json!(5)],
        "its own grace period"
    );
    agent
        .hears("the event", |up| {
            let Up::Events(events) = up else { return None };
            events.iter().any(|event| event.reason == "Preempting" && event.message == message).then_some(())
        })
        .await;

    // Another waits in its place, and neither moves again.
    agent.reports("that it waits", "low", |_, status| status["reason"] == "NodePorts").await;
    let on_disk = host.ledger().pods;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(host.ledger().pods, on_disk);
    assert_eq!(host.runs("high", "one").await, high);

    agent.answer(3, "high", Answer::Deleted { seq: 3, kept: vec![] }).await;
    host.lacks("high").await;
    host.runs("low", "one").await;
}

#[tokio::test(start_paused = true)]
async fn whoever_matters_more_is_first_where_others_leave() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    let polite = set_with("polite", "one", &json!({ "preemptionPolicy": "Never" }));
    let polite = with_host_port(Bundle { priority: 1000, ..polite });
    let sets = |image: &str| {
        let web = with_host_port(Bundle { priority: 500, ..set("web", image) });
        [ranked("low", 0), ranked("mid", 10), polite.clone(), web]
    };
    agent.apply(1, &sets("one")[3..]).await;
    let web = host.runs("web", "one").await;
    agent.apply(2, &sets("one")).await;
    agent.settle().await;
    assert_eq!(host.runs("web", "one").await, web, "who preempts nobody waits");

    let starts = || host.cri.calls().iter().filter(|call| call.method == "StartContainer").count();
    let mut started = 1;
    for (seq, (leaves, next)) in (3..).zip([("web", "polite"), ("polite", "mid"), ("mid", "low")]) {
        agent.answer(seq, leaves, Answer::Deleted { seq, kept: vec![] }).await;
        host.runs(next, "one").await;
        started += 1;
        assert_eq!(starts(), started, "nobody else was let in");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_waits_does_not_slip_in_before_its_better_while_that_is_replaced() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    let sets = |image: &str| [ranked("low", 0), with_host_port(Bundle { priority: 500, ..set("web", image) })];
    agent.apply(1, &sets("one")).await;
    host.runs("web", "one").await;
    agent.settle().await;
    let before = host.ledger().pods.len();
    agent.apply(2, &sets("two")).await;
    assert_eq!(agent.asks("two").await, Ok(()));
    agent.permit(7, "two", false).await;
    host.runs("web", "two").await;
    agent.settle().await;
    assert_eq!(host.ledger().pods.len(), before);
    assert!(!host.pods().await.contains_key("low"));
}
