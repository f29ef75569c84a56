//! `metrics.k8s.io`: what nodes answer, put together.

use std::collections::HashMap;
use std::time::Duration;

use http::header::WARNING;
use jiff::Timestamp;

use super::*;
use crate::control::kinds::NODE;
use crate::model::{ContainerLoad, Load, Loads, Measure, Uid, Usage};

const NODES: &str = "/apis/metrics.k8s.io/v1beta1/nodes";
const PODS: &str = "/apis/metrics.k8s.io/v1beta1/pods";

/// Nodes that answer, by what their containers take; no others do.
struct Meters(HashMap<&'static str, Vec<ContainerLoad>>);

impl NodeStreams for Meters {
    fn open<'a>(
        &'a self,
        node: &'a NodeName,
        _: &'a PodKey,
        _: TunnelKind,
    ) -> BoxFuture<'a, Result<NodeStream, StreamError>> {
        panic!("{node} is only measured here");
    }

    fn measure<'a>(&'a self, node: &'a NodeName, what: Measure) -> BoxFuture<'a, Result<Usage, StreamError>> {
        let containers = self.0.get(node.as_str()).ok_or_else(|| StreamError::NotConnected(node.clone()));
        let usage = containers.map(|containers| Usage {
            at: Timestamp::from_second(1_800_000_000).unwrap(),
            window: Duration::from_millis(1002),
            loads: match what {
                Measure::Node => Loads::Node(load(1_500_000_000, 1 << 30)),
                Measure::Containers => Loads::Containers(containers.clone()),
            },
        });
        async { usage }.boxed()
    }
}

fn load(cpu_nano_cores: u64, memory_bytes: u64) -> Load {
    Load { cpu_nano_cores, memory_bytes }
}

fn container(pod: &str, name: &str, cpu_nano_cores: u64, memory_bytes: u64) -> ContainerLoad {
    ContainerLoad { pod: Uid::from(pod), name: name.to_owned(), load: load(cpu_nano_cores, memory_bytes) }
}

/// The nodes `one` and `two`, of which `one` answers, and pods on both.
async fn fleet() -> Harness {
    let loads = vec![
        container("uid-a", "side", 20_000_000, 2 << 20),
        container("uid-a", "main", 5_000_000, 1 << 20),
        // Of another node's pod: not for this node to say.
        container("uid-b", "main", 7, 7),
    ];
    let api = Harness::with(Arc::new(Meters(HashMap::from([("one", loads)])))).await;
    for (name, zone) in [("one", "x"), ("two", "y")] {
        let node = json!({"metadata": {"name": name, "labels": {"zone": zone}}});
        api.objects.report(&NODE, "", name, |_| Some(node.clone())).await.unwrap();
    }
    for (name, node, phase) in [("a", "one", "Running"), ("b", "two", "Running"), ("c", "one", "Pending")] {
        let pod = json!({
            "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "labels": {"app": name}},
            "spec": {"nodeName": node},
            "status": {"phase": phase},
        });
        api.objects.report(&POD, "default", name, |_| Some(pod.clone())).await.unwrap();
    }
    api
}

/// What is listed, with the warnings, without what differs from one run to the next.
async fn listed(api: &Harness, path: &str) -> (Value, Vec<String>) {
    let response = api.send(Method::GET, path, &[], &Value::Null).await;
    assert_eq!(response.status(), StatusCode::OK);
    let warnings = response.headers().get_all(WARNING).iter().map(|text| text.to_str().unwrap().to_owned()).collect();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let mut list: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(list["apiVersion"], "metrics.k8s.io/v1beta1");
    for item in list["items"].as_array_mut().unwrap() {
        item["metadata"].as_object_mut().unwrap().remove("creationTimestamp").unwrap();
    }
    (list["items"].take(), warnings)
}

fn node_one() -> Value {
    json!({
        "metadata": {"name": "one", "labels": {"zone": "x"}},
        "timestamp": "2027-01-15T08:00:00Z",
        "window": "1.002s",
        "usage": {"cpu": "1500m", "memory": "1Gi"},
    })
}

#[tokio::test]
async fn nodes_and_pods_are_measured_when_somebody_asks_and_who_does_not_answer_is_named() {
    let api = fleet().await;
    let not_connected = vec!["299 - \"metrics are incomplete: node two is not connected\"".to_owned()];
    assert_eq!(listed(&api, NODES).await, (json!([node_one()]), not_connected.clone()));
    assert_eq!(listed(&api, &format!("{NODES}?labelSelector=zone%3Dx")).await, (json!([node_one()]), vec![]));

    let pod = json!({
        "metadata": {"name": "a", "namespace": "default", "labels": {"app": "a"}},
        "timestamp": "2027-01-15T08:00:00Z",
        "window": "1.002s",
        "containers": [
            {"name": "main", "usage": {"cpu": "5m", "memory": "1Mi"}},
            {"name": "side", "usage": {"cpu": "20m", "memory": "2Mi"}},
        ],
    });
    assert_eq!(listed(&api, PODS).await, (json!([pod]), not_connected));
    let in_namespace = "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods?labelSelector=app+in+(a,c)";
    assert_eq!(listed(&api, in_namespace).await, (json!([pod]), vec![]));
    let elsewhere = "/apis/metrics.k8s.io/v1beta1/namespaces/kube-system/pods";
    assert_eq!(listed(&api, elsewhere).await, (json!([]), vec![]));
}

#[tokio::test]
async fn one_that_cannot_be_measured_is_an_error_in_kubernetes_words() {
    let api = fleet().await;
    let (code, mut node) = api.get(&format!("{NODES}/one")).await;
    node["metadata"].as_object_mut().unwrap().remove("creationTimestamp").unwrap();
    let mut expected = node_one();
    (expected["kind"], expected["apiVersion"]) = (json!("NodeMetrics"), json!("metrics.k8s.io/v1beta1"));
    assert_eq!((code, node), (200, expected));

    let pod = |name: &str| format!("/apis/metrics.k8s.io/v1beta1/namespaces/default/pods/{name}");
    for (path, expected, reason, message) in [
        (format!("{NODES}/two"), 503, "ServiceUnavailable", "node two is not connected"),
        (format!("{NODES}/none"), 404, "NotFound", "nodes \"none\" not found"),
        (pod("b"), 503, "ServiceUnavailable", "node two is not connected"),
        (pod("c"), 404, "NotFound", "pods.metrics.k8s.io \"c\" not found"),
        (pod("none"), 404, "NotFound", "pods \"none\" not found"),
    ] {
        let (code, status) = api.get(&path).await;
        assert_eq!((code, &status["reason"], &status["message"]), (expected, &json!(reason), &json!(message)));
    }
    let (code, status) = api.post(NODES, json!({})).await;
    assert_eq!((code, &status["reason"]), (405, &json!("MethodNotAllowed")));
    assert_eq!(api.get(&format!("{NODES}?watch=true")).await.0, 405);
    assert_eq!(api.get(&format!("{NODES}?fieldSelector=spec.unschedulable%3Dtrue")).await.0, 400);
}

#[tokio::test]
async fn pods_are_shown_as_the_sum_of_their_containers() {
    let api = fleet().await;
    let (_, table) = api.ask(Method::GET, PODS, &[("accept", TABLE)], Value::Null).await;
    assert_eq!(table["rows"][0]["cells"], json!(["a", "25m", "3Mi", "1.002s"]));
}
