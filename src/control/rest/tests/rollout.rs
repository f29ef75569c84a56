//! `daemonsets/rollout`, answered by a test.

use super::*;
use crate::control::updates::{Rollout, Row};

const ROLLOUT: &str = "/apis/apps/v1/namespaces/kube-system/daemonsets/fluentd/rollout";

fn rollout() -> Rollout {
    let row = |node: &str, cause: &str, message: &str| Row {
        node: node.into(),
        cause: cause.to_owned(),
        message: message.to_owned(),
    };
    Rollout {
        revision: "abc".into(),
        phase: "Stalled".to_owned(),
        message: "revision abc is on 1 of 2 nodes".to_owned(),
        budget: 1,
        used: 1,
        causes: [("Unhealthy".to_owned(), 1), ("UpToDate".to_owned(), 1)].into(),
        nodes: vec![row("b", "Unhealthy", "exit code 1"), row("a", "UpToDate", "")],
    }
}

/// A DaemonSet whose rollout is as [`rollout`] says.
async fn harness() -> Harness {
    let mut harness = Harness::new().await;
    let (code, set) = harness.ask(Method::POST, DAEMON_SETS, &[], fluentd()).await;
    assert_eq!(code, 201, "{set}");
    let mut questions_rx = harness.questions_rx.take().unwrap();
    tokio::spawn(async move {
        while let Some(Question { daemonset, answer_tx }) = questions_rx.recv().await {
            assert_eq!(daemonset.as_str(), set["metadata"]["uid"]);
            answer_tx.send(Some(rollout())).unwrap();
        }
    });
    harness
}

#[tokio::test]
async fn a_rollout_is_an_object_or_a_table_with_a_row_for_each_node() {
    let harness = harness().await;
    let (code, object) = harness.ask(Method::GET, ROLLOUT, &[], Value::Null).await;
    assert_eq!((code, &object["kind"], &object["apiVersion"]), (200, &json!("Rollout"), &json!("garrison.dev/v1")));
    assert_eq!(object["metadata"]["name"], "fluentd");
    let expected = json!({
        "revision": "abc", "phase": "Stalled", "message": "revision abc is on 1 of 2 nodes", "budget": 1, "used": 1,
        "causes": {"Unhealthy": 1, "UpToDate": 1},
        "nodes": [
            {"node": "b", "cause": "Unhealthy", "message": "exit code 1"},
            {"node": "a", "cause": "UpToDate", "message": ""},
        ],
    });
    assert_eq!(object["status"], expected);

    let (_, table) = harness.ask(Method::GET, ROLLOUT, &[("accept", TABLE)], Value::Null).await;
    let columns: Vec<_> = table["columnDefinitions"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(columns, ["Node", "Cause", "Message"]);
    let cells: Vec<_> = table["rows"].as_array().unwrap().iter().map(|row| &row["cells"]).collect();
    assert_eq!(cells, [&json!(["b", "Unhealthy", "exit code 1"]), &json!(["a", "UpToDate", ""])]);
}

#[tokio::test]
async fn a_rollout_is_read_only_and_only_of_what_there_is() {
    let harness = harness().await;
    for (method, path, expected) in [
        (Method::PUT, ROLLOUT.to_owned(), 405),
        (Method::GET, ROLLOUT.replace("fluentd", "other"), 404),
        (Method::GET, CONFIG_MAPS.to_owned() + "/a/rollout", 404),
    ] {
        let (code, answer) = harness.ask(method, &path, &[], Value::Null).await;
        assert_eq!(code, expected, "{path}: {answer}");
    }
    // Nobody is there to answer.
    let mut silent = Harness::new().await;
    silent.ask(Method::POST, DAEMON_SETS, &[], fluentd()).await;
    silent.questions_rx = None;
    assert_eq!(silent.ask(Method::GET, ROLLOUT, &[], Value::Null).await.0, 503);
}
