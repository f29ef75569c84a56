//! Tokens for the pods of a node.

use jiff::Timestamp;

use super::*;
use crate::link::{Token, TokenRequest};

impl Harness {
    /// A DaemonSet for nodes with these labels, whose pod asks for a token for `vault`; and the report of a pod of it.
    async fn with_token(&self, name: &str, node_selector: Value) -> PodReport {
        let token = json!({"serviceAccountToken": {"audience": "vault", "path": "token"}});
        let object = json!({
            "metadata": {"name": name},
            "spec": {
                "selector": {"matchLabels": {"app": name}},
                "template": {
                    "metadata": {"labels": {"app": name}},
                    "spec": {
                        "nodeSelector": node_selector, "serviceAccountName": "default",
                        "containers": [{"name": "main", "image": "registry.example/web:1"}],
                        "volumes": [{"name": "token", "projected": {"sources": [token]}}],
                    },
                },
            },
        });
        let set = self.objects.create(&DAEMON_SET, "default", object, WriteOptions::default()).await.unwrap();
        let uid = Uid::from(meta(&set, "uid"));
        let mut desired_rx = self.sessions.shared.desired_rx.clone();
        let desired = desired_rx.wait_for(|desired| desired.newest(&uid).is_some()).await.unwrap().clone();
        pod_report(&uid, desired.newest(&uid).unwrap())
    }
}

impl Node {
    async fn asks_for(&mut self, request: TokenRequest) -> Result<Token, String> {
        let id = request.id;
        self.say(Up::TokenRequest(request)).await;
        let (answered, outcome) =
            self.pick(|down| if let Down::Token { id, outcome } = down { Some((id, outcome)) } else { None }).await;
        assert_eq!(answered, id);
        outcome.map_err(|why| why.message)
    }
}

fn request(report: &PodReport) -> TokenRequest {
    TokenRequest {
        id: 7,
        namespace: "default".into(),
        service_account: "default".into(),
        pod: report.key.clone(),
        daemonset: report.daemonset.clone(),
        audiences: vec!["vault".into()],
        expiration_secs: 3607,
    }
}

#[tokio::test]
async fn a_node_gets_the_tokens_its_pods_ask_for_and_no_others() {
    let harness = Harness::new().await;
    let host = harness.join("edge-1").await;
    let report = harness.with_token("web", json!({})).await;
    let (mut node, _) = harness.in_step(&host, hello()).await;
    let before = node.asks_for(request(&report)).await;
    assert_eq!(before, Err("pods \"web-abcdefghij\" not found on node edge-1".to_owned()));

    node.say(Up::Pods(vec![report.clone()])).await;
    let token = node.asks_for(request(&report)).await.unwrap();
    let bearer = &harness.sessions.shared.bearer;
    let verified = bearer.verify(&token.text, &["vault".into()], Timestamp::now()).await.unwrap();
    assert_eq!(verified.extra["authentication.kubernetes.io/pod-uid"], [report.key.uid.as_str()]);
    assert_eq!(verified.extra["authentication.kubernetes.io/node-name"], ["edge-1"]);

    let other = TokenRequest { audiences: vec!["bank".into()], ..request(&report) };
    assert!(node.asks_for(other).await.unwrap_err().contains("audience \"bank\" not found in pod spec volume"));
    let other = TokenRequest { service_account: "admin".into(), ..request(&report) };
    assert!(node.asks_for(other).await.unwrap_err().contains("serviceaccounts \"admin\" not found"));
    let intruder = harness.join("edge-2").await;
    let (mut intruder, _) = harness.in_step(&intruder, hello()).await;
    assert!(intruder.asks_for(request(&report)).await.unwrap_err().contains("not found on node edge-2"));
}

#[tokio::test]
async fn a_pod_that_only_its_node_says_belongs_there_gets_no_token() {
    let harness = Harness::new().await;
    // It joins with the label site=north, which its token does not bound.
    let host = harness.join("edge-1").await;
    let report = harness.with_token("web", json!({"site": "north"})).await;
    let (mut node, _) = harness.in_step(&host, hello()).await;
    node.say(Up::Pods(vec![report.clone()])).await;
    assert!(node.asks_for(request(&report)).await.unwrap_err().contains("no relationship found"));
}
