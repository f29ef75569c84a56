mod access;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tower::ServiceExt;

use super::{Api, openapi, router, routes};
use crate::control::bearer::Bearer;
use crate::control::holds::{ConfirmError, EndError, Fleet, Holds};
use crate::control::kinds::{KINDS, POD};
use crate::control::objects::Objects;
use crate::control::rbac::{MASTERS, Policy, User, keeper};
use crate::control::recovery::{Choice, Recovery, RecoveryError};
use crate::control::streams::{NodeStream, NodeStreams, Piece, StreamError, TunnelKind, TunnelStream};
use crate::control::updates::Question;
use crate::link::tls::KeyPin;
use crate::model::{Measure, NodeName, PodKey, Uid, Usage};
use crate::store::{Memory, Store};

mod accounts;
mod certificates;
mod classes;
mod holds;
mod pods;
mod rollout;
mod usage;
mod watches;

const DAEMON_SETS: &str = "/apis/apps/v1/namespaces/kube-system/daemonsets";
const FLUENTD: &str = "/apis/apps/v1/namespaces/kube-system/daemonsets/fluentd";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
const MERGE_PATCH: &str = "application/merge-patch+json";

/// The API over an empty store, asked in memory by an administrator.
pub(super) struct Harness {
    store: Arc<Memory>,
    pub(super) objects: Objects,
    bearer: Arc<Bearer>,
    pub(super) router: Router,
    policy_rx: watch::Receiver<Arc<Policy>>,
    /// Nobody answers before a test takes it.
    questions_rx: Option<mpsc::Receiver<Question>>,
    keeper: JoinHandle<()>,
    /// Who asks.
    user: User,
}

impl Drop for Harness {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

fn api(
    objects: &Objects,
    streams: Arc<dyn NodeStreams>,
    policy_rx: &watch::Receiver<Arc<Policy>>,
    bearer: &Arc<Bearer>,
    questions_tx: mpsc::Sender<Question>,
) -> Api {
    Api {
        objects: objects.clone(),
        streams,
        fleet: Arc::new(EchoNode),
        authority: KeyPin([7; 32]),
        observer: Arc::default(),
        policy_rx: policy_rx.clone(),
        bearer: bearer.clone(),
        questions_tx,
    }
}

fn master() -> User {
    User { name: "admin".to_owned(), groups: vec![MASTERS.to_owned()], ..User::default() }
}

/// A node that answers with what it was asked for.
struct EchoNode;

impl NodeStreams for EchoNode {
    fn open<'a>(
        &'a self,
        node: &'a NodeName,
        pod: &'a PodKey,
        kind: TunnelKind,
    ) -> BoxFuture<'a, Result<NodeStream, StreamError>> {
        let TunnelKind::Logs(options) = kind else { panic!("only logs are asked for here") };
        let line = format!("{node} {pod} {} {:?}\n", options.container, options.tail_lines);
        let pieces = [Ok(Piece::Data(TunnelStream::Main, line.into())), Ok(Piece::End(0))];
        let output = futures_util::stream::iter(pieces).boxed();
        async { Ok(NodeStream { input: mpsc::channel(1).0, output }) }.boxed()
    }

    fn measure<'a>(&'a self, node: &'a NodeName, _: Measure) -> BoxFuture<'a, Result<Usage, StreamError>> {
        panic!("{node} is not measured here");
    }
}

fn recovery(number: u64, vouch_for_labels: bool) -> Recovery {
    Recovery { number, nodes: vec![], objects: vec![], labels: vec![], vouch_for_labels, missing: vec![] }
}

impl Fleet for EchoNode {
    fn holds(&self) -> Holds {
        Holds { era: 9, seq: 12, nodes: vec![], differences: vec![], unknown: vec![] }
    }

    fn recovery(&self, choice: Choice) -> BoxFuture<'_, Result<Recovery, RecoveryError>> {
        async move { Ok(recovery(3, choice.vouch_for_labels)) }.boxed()
    }

    fn recover(&self, number: u64) -> BoxFuture<'_, Result<Recovery, RecoveryError>> {
        let recovered =
            if number == 3 { Ok(recovery(3, false)) } else { Err(RecoveryError::NotShown { asked: number }) };
        async { recovered }.boxed()
    }

    fn confirm(&self, era: u64) -> BoxFuture<'_, Result<(), ConfirmError>> {
        let confirmed = if era == 9 { Ok(()) } else { Err(ConfirmError::OtherEra { asked: era, here: 9 }) };
        async { confirmed }.boxed()
    }

    fn end(&self, daemonset: Uid) -> BoxFuture<'_, Result<(), EndError>> {
        let ended = if daemonset.as_str() == "old" { Ok(()) } else { Err(EndError::NotUnknown(daemonset)) };
        async { ended }.boxed()
    }
}

impl Harness {
    async fn new() -> Self {
        Self::with(Arc::new(EchoNode)).await
    }

    pub(super) async fn with(streams: Arc<dyn NodeStreams>) -> Self {
        let store = Memory::new();
        let objects = Objects::open(store.clone()).await.unwrap();
        let (policy_rx, keeper) = keeper::start(objects.clone()).await.unwrap();
        let keeper = tokio::spawn(keeper);
        let dir = tempfile::tempdir().unwrap();
        let bearer = Arc::new(Bearer::open(dir.path(), objects.clone()).unwrap());
        let (questions_tx, questions_rx) = mpsc::channel(1);
        let router = routes(Arc::new(api(&objects, streams, &policy_rx, &bearer, questions_tx)));
        Self { store, objects, bearer, router, policy_rx, questions_rx: Some(questions_rx), keeper, user: master() }
    }

    /// A GET by whoever these headers say.
    async fn by_credentials(&self, headers: &[(&str, &str)], path: &str) -> (u16, Value) {
        let api = api(&self.objects, Arc::new(EchoNode), &self.policy_rx, &self.bearer, mpsc::channel(1).0);
        let mut request = Request::builder().uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = router(api).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &Value) -> http::Response<Body> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request = request.extension(self.user.clone());
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        self.router.clone().oneshot(request.body(body).unwrap()).await.unwrap()
    }

    async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Value) -> (u16, Value) {
        let response = self.send(method, path, headers, &body).await;
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&body).unwrap_or(Value::String(String::from_utf8_lossy(&body).into_owned())))
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.ask(Method::GET, path, &[], Value::Null).await
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.ask(Method::POST, path, &[], body).await
    }

    async fn patch(&self, path: &str, patch: Value) -> (u16, Value) {
        self.ask(Method::PATCH, path, &[(CONTENT_TYPE.as_str(), MERGE_PATCH)], patch).await
    }

    async fn delete(&self, path: &str, options: Value) -> (u16, Value) {
        self.ask(Method::DELETE, path, &[], options).await
    }

    async fn names(&self, path: &str) -> Vec<String> {
        names(&self.get(path).await.1)
    }

    /// A pod as a session would report it.
    async fn report_pod(&self, name: &str, node: &str) -> Value {
        let pod = json!({
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"nodeName": node, "containers": [{"name": "main", "image": "i"}]},
            "status": {"phase": "Running"},
        });
        self.objects.report(&POD, "default", name, |_| Some(pod.clone())).await.unwrap().unwrap()
    }

    async fn watch(&self, path: &str) -> Events {
        let response = self.send(Method::GET, path, &[], &Value::Null).await;
        assert_eq!(response.status(), StatusCode::OK);
        Events { body: response.into_body(), text: String::new() }
    }
}

/// The events of a watch.
struct Events {
    body: Body,
    text: String,
}

impl Events {
    /// The next event, or nothing when the watch has ended.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((line, rest)) = self.text.split_once('\n') {
                let event = serde_json::from_str(line).unwrap();
                self.text = rest.to_owned();
                return Some(event);
            }
            let frame = self.body.frame().await?.unwrap().into_data().unwrap();
            self.text += std::str::from_utf8(&frame).unwrap();
        }
    }

    /// Type and name of the next event.
    async fn summary(&mut self) -> (String, String) {
        let event = self.next().await.expect("the watch goes on");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&event["type"]), text(&event["object"]["metadata"]["name"]))
    }
}

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().unwrap();
    items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

fn fluentd() -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "fluentd", "namespace": "kube-system", "labels": {"k8s-app": "fluentd-logging"}},
        "spec": {
            "selector": {"matchLabels": {"app": "fluentd"}},
            "template": {
                "metadata": {"labels": {"app": "fluentd"}},
                "spec": {"containers": [{"name": "fluentd", "image": "fluentd:v1.16"}]},
            },
        },
    })
}

fn config_map(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"a": "1"}})
}

/// Compares with `tests/data/rest/<name>.json`, in which what differs from run to run is replaced.
fn check(name: &str, mut answer: Value) {
    blank(&mut answer);
    let path = format!("{}/tests/data/rest/{name}.json", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        std::fs::write(&path, serde_json::to_string_pretty(&answer).unwrap() + "\n").unwrap();
    }
    let expected: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(answer, expected, "differs from {path}; run with UPDATE_EXPECTED=1 and look at the change");
}

fn blank(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match key.as_str() {
                    "uid" | "creationTimestamp" | "deletionTimestamp" | "resourceVersion" | "time"
                        if value.is_string() =>
                    {
                        *value = format!("<{key}>").into();
                    }
                    _ => blank(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(blank),
        _ => {}
    }
}

#[tokio::test]
async fn a_daemon_set_is_created_read_listed_and_deleted() {
    let api = Harness::new().await;
    let (code, created) = api.post(DAEMON_SETS, fluentd()).await;
    assert_eq!(code, 201, "{created}");
    assert_eq!(api.get(FLUENTD).await, (200, created.clone()));
    check("daemonset-created", created);
    check("daemonset-list", api.get("/apis/apps/v1/daemonsets").await.1);
    check("daemonset-exists", api.post(DAEMON_SETS, fluentd()).await.1);
    check("daemonset-deleted", api.delete(FLUENTD, json!({"propagationPolicy": "Background"})).await.1);
    check("daemonset-not-found", api.get(FLUENTD).await.1);
    let (tombstones, _) = api.objects.tombstones().await.unwrap();
    assert_eq!(tombstones.iter().map(|tombstone| tombstone.name.as_str()).collect::<Vec<_>>(), ["fluentd"]);
}

#[tokio::test]
async fn discovery_answers_with_and_without_a_last_slash() {
    let api = Harness::new().await;
    for path in ["/version", "/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1"] {
        let (code, answer) = api.get(path).await;
        assert_eq!((code, api.get(&format!("{path}/")).await), (200, (200, answer)), "{path}");
    }
}

#[tokio::test]
async fn a_fleet_begins_with_its_namespaces_and_their_accounts() {
    let api = Harness::new().await;
    let expected = ["default", "kube-node-lease", "kube-public", "kube-system"];
    assert_eq!(api.names("/api/v1/namespaces").await, expected);
    assert_eq!(api.names("/api/v1/serviceaccounts").await, ["default"; 4]);
    check("namespace-kept", api.delete("/api/v1/namespaces/kube-system", json!({})).await.1);
    check("namespace-missing", api.post("/api/v1/namespaces/nope/configmaps", config_map("a")).await.1);
}

#[tokio::test]
async fn every_kind_has_a_type_to_decode_bodies_as() {
    let api = Harness::new().await;
    for kind in KINDS.iter().filter(|kind| kind.verbs.contains(&"create")) {
        let path = match kind.group {
            "" => "/api/v1".to_owned(),
            group => format!("/apis/{group}/{}", kind.version),
        };
        let namespace = if kind.namespaced { "/namespaces/default" } else { "" };
        let path = format!("{path}{namespace}/{}?fieldValidation=Strict", kind.plural);
        let body = json!({"apiVersion": kind.api_version(), "kind": kind.kind, "surplus": 1});
        let (code, status) = api.post(&path, body).await;
        assert_eq!(code, 400, "{status}");
        assert!(status["message"].as_str().unwrap().ends_with(r#"unknown field "surplus""#), "{status}");
    }
}

#[tokio::test]
async fn unknown_fields_are_refused_warned_of_or_ignored() {
    let api = Harness::new().await;
    let mut body = fluentd();
    body["spec"]["bogusField"] = json!(1);
    let post = async |validation: &str| {
        let path = format!("{DAEMON_SETS}?dryRun=All&fieldValidation={validation}");
        let response = api.send(Method::POST, &path, &[], &body).await;
        let warnings: Vec<_> = response.headers().get_all("warning").iter().cloned().collect();
        (response.status().as_u16(), warnings)
    };
    assert_eq!(post("Strict").await.0, 400);
    assert_eq!(post("Warn").await, (201, vec![r#"299 - "unknown field \"spec.bogusField\"""#.parse().unwrap()]));
    assert_eq!(post("Ignore").await, (201, vec![]));
    check("options-invalid", api.post(&format!("{DAEMON_SETS}?fieldValidation=Maybe"), body.clone()).await.1);
}

#[tokio::test]
async fn a_dry_run_answers_as_if_and_stores_nothing() {
    let api = Harness::new().await;
    let before = api.objects.revision();
    let (code, created) = api.post(&format!("{CONFIG_MAPS}?dryRun=All"), config_map("a")).await;
    assert_eq!((code, created["metadata"]["resourceVersion"].is_null()), (201, true));
    assert!(created["metadata"]["uid"].is_string());
    assert_eq!(api.objects.revision(), before);
    api.post(CONFIG_MAPS, config_map("a")).await;
    let before = api.objects.revision();
    api.patch(&format!("{CONFIG_MAPS}/a?dryRun=All"), json!({"data": {"a": "2"}})).await;
    api.delete(&format!("{CONFIG_MAPS}/a"), json!({"dryRun": ["All"]})).await;
    assert_eq!(api.objects.revision(), before);
}

#[tokio::test]
async fn a_stale_update_conflicts_and_one_without_a_version_does_not() {
    let api = Harness::new().await;
    let (_, old) = api.post(CONFIG_MAPS, config_map("a")).await;
    let path = format!("{CONFIG_MAPS}/a");
    let put = async |body: Value| api.ask(Method::PUT, &path, &[], body).await;
    let mut new = old.clone();
    new["data"]["a"] = "2".into();
    assert_eq!(put(new.clone()).await.0, 200);
    let (code, status) = put(new.clone()).await;
    assert_eq!(code, 409);
    check("configmap-conflict", status);
    new["metadata"]["resourceVersion"] = Value::Null;
    assert_eq!(put(new.clone()).await.0, 200);
    new["metadata"]["uid"] = "other".into();
    assert_eq!(put(new.clone()).await.0, 409);
    new["metadata"]["name"] = "b".into();
    assert_eq!(put(new).await.0, 400);
}

#[tokio::test]
async fn a_write_that_changes_nothing_keeps_the_version() {
    let api = Harness::new().await;
    let (_, created) = api.post(DAEMON_SETS, fluentd()).await;
    let before = api.objects.revision();
    assert_eq!(
        api.patch(FLUENTD, json!({"metadata": {"labels": {"k8s-app": "fluentd-logging"}}})).await,
        (200, created.clone())
    );
    assert_eq!(api.ask(Method::PUT, FLUENTD, &[], created.clone()).await, (200, created));
    assert_eq!(api.objects.revision(), before);
}

#[tokio::test]
async fn generations_count_specs_and_the_position_counts_intent() {
    let api = Harness::new().await;
    let seq = || api.objects.position().borrow().seq;
    let settled = async || {
        let mut position = api.objects.position();
        move |seq| async move { position.wait_for(|position| position.seq == seq).await.map(|_| ()).unwrap() }
    };
    let start = seq();
    api.post(DAEMON_SETS, fluentd()).await;
    settled().await(start + 1).await;
    let generation = |object: &Value| {
        let metadata = &object["metadata"];
        (metadata["generation"].clone(), metadata["annotations"]["deprecated.daemonset.template.generation"].clone())
    };
    let (_, labelled) = api.patch(FLUENTD, json!({"metadata": {"labels": {"a": "b"}}})).await;
    assert_eq!(generation(&labelled), (json!(1), json!("1")));
    let (_, slower) = api.patch(FLUENTD, json!({"spec": {"minReadySeconds": 5}})).await;
    assert_eq!(generation(&slower), (json!(2), json!("1")));
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "fluentd", "image": "fluentd:v2"}]}}}});
    let (_, newer) = api.patch(FLUENTD, image).await;
    assert_eq!(generation(&newer), (json!(3), json!("2")));
    settled().await(start + 4).await;
    let status = json!({"spec": {"minReadySeconds": 9}, "status": {"numberReady": 7}});
    let (_, reported) = api.patch(&format!("{FLUENTD}/status"), status).await;
    assert_eq!(generation(&reported), (json!(3), json!("2")));
    assert_eq!((&reported["spec"]["minReadySeconds"], &reported["status"]["numberReady"]), (&json!(5), &json!(7)));
    let (_, ignored) = api.patch(FLUENTD, json!({"status": {"numberReady": 1}})).await;
    assert_eq!(ignored["status"]["numberReady"], 7);
    api.post(CONFIG_MAPS, config_map("a")).await;
    settled().await(start + 5).await;
}

#[tokio::test]
async fn lists_are_paged_at_one_revision_and_picked_by_selectors() {
    let api = Harness::new().await;
    for name in ["a", "b", "c", "d", "e"] {
        let mut map = config_map(name);
        map["metadata"]["labels"] = json!({"vowel": (name == "a" || name == "e").to_string()});
        api.post(CONFIG_MAPS, map).await;
    }
    let (_, first) = api.get(&format!("{CONFIG_MAPS}?limit=2")).await;
    api.delete(&format!("{CONFIG_MAPS}/d"), Value::Null).await;
    let next = first["metadata"]["continue"].as_str().unwrap();
    let (_, second) = api.get(&format!("{CONFIG_MAPS}?limit=2&continue={next}")).await;
    assert_eq!((names(&first), names(&second)), (vec!["a".into(), "b".into()], vec!["c".into(), "d".into()]));
    assert_eq!(first["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"]);
    let next = second["metadata"]["continue"].as_str().unwrap();
    let (_, last) = api.get(&format!("{CONFIG_MAPS}?limit=2&continue={next}")).await;
    assert_eq!((names(&last), last["metadata"]["continue"].is_null()), (vec!["e".to_owned()], true));
    assert_eq!(api.names(&format!("{CONFIG_MAPS}?labelSelector=vowel%3Dtrue")).await, ["a", "e"]);
    let (_, page) = api.get(&format!("{CONFIG_MAPS}?labelSelector=vowel%3Dtrue&limit=1")).await;
    let next = page["metadata"]["continue"].as_str().unwrap();
    let (_, page) = api.get(&format!("{CONFIG_MAPS}?labelSelector=vowel%3Dtrue&limit=1&continue={next}")).await;
    assert_eq!(names(&page), ["e"]);
    assert_eq!(api.names(&format!("{CONFIG_MAPS}?fieldSelector=metadata.name%21%3Da")).await, ["b", "c", "e"]);
    assert_eq!(api.get(&format!("{CONFIG_MAPS}?continue=nonsense")).await.0, 400);
    assert_eq!(api.get(&format!("{CONFIG_MAPS}?fieldSelector=spec.x%3D1")).await.0, 400);
    assert_eq!(api.get(&format!("{CONFIG_MAPS}?labelSelector=a%20b")).await.0, 400);
}

#[tokio::test(start_paused = true)]
async fn a_list_of_the_future_times_out() {
    let api = Harness::new().await;
    check("list-future", api.get(&format!("{CONFIG_MAPS}?resourceVersion=1000")).await.1);
}

#[tokio::test(start_paused = true)]
async fn a_watch_tells_changes_after_its_revision_until_its_time_is_up() {
    let api = Harness::new().await;
    let (_, list) = api.get(CONFIG_MAPS).await;
    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    api.post(CONFIG_MAPS, config_map("a")).await;
    let path = format!("{CONFIG_MAPS}?watch=1&resourceVersion={version}&timeoutSeconds=90&allowWatchBookmarks=true");
    let mut events = api.watch(&path).await;
    let added = events.next().await.unwrap();
    assert_eq!(added, json!({"type": "ADDED", "object": api.get(&format!("{CONFIG_MAPS}/a")).await.1}));
    api.patch(&format!("{CONFIG_MAPS}/a"), json!({"data": {"b": "2"}})).await;
    assert_eq!(events.summary().await, ("MODIFIED".into(), "a".into()));
    api.post("/api/v1/namespaces/kube-public/configmaps", config_map("elsewhere")).await;
    api.delete(&format!("{CONFIG_MAPS}/a"), Value::Null).await;
    let deleted = events.next().await.unwrap();
    assert_eq!((&deleted["type"], &deleted["object"]["data"]["b"]), (&json!("DELETED"), &json!("2")));
    assert_eq!(deleted["object"]["metadata"]["resourceVersion"], api.objects.revision().to_string());
    let bookmark = events.next().await.unwrap();
    assert_eq!(
        bookmark,
        json!({"type": "BOOKMARK", "object": {
            "kind": "ConfigMap", "apiVersion": "v1", "metadata": {"resourceVersion": api.objects.revision().to_string()},
        }})
    );
    assert_eq!(events.next().await.unwrap()["type"], "BOOKMARK");
    assert_eq!(events.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_watch_list_marks_the_end_of_what_was_there() {
    let api = Harness::new().await;
    api.post(CONFIG_MAPS, config_map("a")).await;
    let path = format!("{CONFIG_MAPS}?watch=true&sendInitialEvents=true&allowWatchBookmarks=true&timeoutSeconds=5");
    let (code, status) = api.get(&path).await;
    assert_eq!((code, &status["reason"]), (422, &json!("Invalid")));
    let mut events = api.watch(&format!("{path}&resourceVersionMatch=NotOlderThan")).await;
    assert_eq!(events.summary().await, ("ADDED".into(), "a".into()));
    let marked = events.next().await.unwrap();
    assert_eq!(marked["object"]["metadata"]["annotations"], json!({"k8s.io/initial-events-end": "true"}));
    api.post(CONFIG_MAPS, config_map("b")).await;
    assert_eq!(events.summary().await, ("ADDED".into(), "b".into()));
}

#[tokio::test]
async fn selectors_of_a_watch_see_objects_come_and_go() {
    let api = Harness::new().await;
    let mut events = api.watch(&format!("{CONFIG_MAPS}?watch=true&labelSelector=on%3Dyes")).await;
    let path = format!("{CONFIG_MAPS}/a");
    api.post(CONFIG_MAPS, config_map("a")).await;
    api.patch(&path, json!({"metadata": {"labels": {"on": "yes"}}})).await;
    assert_eq!(events.summary().await, ("ADDED".into(), "a".into()));
    api.patch(&path, json!({"data": {"b": "2"}})).await;
    assert_eq!(events.summary().await, ("MODIFIED".into(), "a".into()));
    api.patch(&path, json!({"metadata": {"labels": {"on": null}}})).await;
    assert_eq!(events.summary().await, ("DELETED".into(), "a".into()));
}

#[tokio::test]
async fn a_watch_from_a_forgotten_revision_ends_as_expired() {
    let api = Harness::new().await;
    let (_, list) = api.get(CONFIG_MAPS).await;
    api.post(CONFIG_MAPS, config_map("a")).await;
    api.store.compact(api.objects.revision()).await.unwrap();
    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    let mut events = api.watch(&format!("{CONFIG_MAPS}?watch=true&resourceVersion={version}")).await;
    let error = events.next().await.unwrap();
    assert_eq!((&error["type"], &error["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert_eq!(error["object"]["reason"], "Expired");
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn tables_of_a_watch_have_columns_once() {
    let api = Harness::new().await;
    let response =
        api.send(Method::GET, &format!("{CONFIG_MAPS}?watch=true"), &[(ACCEPT.as_str(), TABLE)], &Value::Null).await;
    let mut events = Events { body: response.into_body(), text: String::new() };
    let mut columns = Vec::new();
    for name in ["a", "b"] {
        api.post(CONFIG_MAPS, config_map(name)).await;
        let event = events.next().await.unwrap();
        assert_eq!(
            (&event["object"]["kind"], &event["object"]["rows"][0]["cells"][0]),
            (&json!("Table"), &json!(name))
        );
        columns.push(event["object"]["columnDefinitions"].as_array().map_or(0, Vec::len));
    }
    assert_eq!((columns[0] > 0, columns[1]), (true, 0));
}

#[tokio::test]
async fn a_pod_on_a_node_is_deleted_through_its_node() {
    let api = Harness::new().await;
    let pod = api.report_pod("p", "one").await;
    let path = "/api/v1/namespaces/default/pods/p";
    let (code, marked) = api.delete(path, json!({"gracePeriodSeconds": 5})).await;
    assert_eq!((code, &marked["metadata"]["deletionGracePeriodSeconds"]), (200, &json!(5)));
    let (_, again) = api.delete(path, json!({"gracePeriodSeconds": 9})).await;
    assert_eq!(again, marked);
    let uid = pod["metadata"]["uid"].as_str().unwrap().into();
    let (tombstones, _) = api.objects.tombstones().await.unwrap();
    assert_eq!((&tombstones[0].uid, tombstones[0].node.as_deref()), (&uid, Some("one")));
    assert_eq!(tombstones[0].grace_period_seconds, Some(5));
    api.objects.remove(&POD, "default", "p", &uid).await.unwrap();
    assert_eq!(api.get(path).await.0, 404);
    assert_eq!(api.objects.tombstones().await.unwrap().0, []);
}

#[tokio::test]
async fn a_pod_deleted_by_force_does_not_come_back_by_a_report() {
    let api = Harness::new().await;
    let pod = api.report_pod("p", "one").await;
    let (code, gone) = api.delete("/api/v1/namespaces/default/pods/p", json!({"gracePeriodSeconds": 0})).await;
    assert_eq!((code, &gone["kind"]), (200, &json!("Pod")));
    let again = api.objects.report(&POD, "default", "p", |_| Some(pod.clone())).await;
    assert!(again.is_err_and(|error| error.to_string() == "pods \"p\" was deleted"));
}

#[tokio::test]
async fn finalizers_keep_an_object_until_the_last_is_taken_off() {
    let api = Harness::new().await;
    let mut map = config_map("a");
    map["metadata"]["finalizers"] = json!(["example.com/hold"]);
    api.post(CONFIG_MAPS, map).await;
    let path = format!("{CONFIG_MAPS}/a");
    let (_, marked) = api.delete(&path, Value::Null).await;
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    let (code, _) =
        api.patch(&path, json!({"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}})).await;
    assert_eq!(code, 422);
    api.patch(&path, json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(api.get(&path).await.0, 404);
}

#[tokio::test]
async fn preconditions_of_a_delete_must_hold() {
    let api = Harness::new().await;
    api.post(CONFIG_MAPS, config_map("a")).await;
    let path = format!("{CONFIG_MAPS}/a");
    let (code, status) = api.delete(&path, json!({"preconditions": {"uid": "other"}})).await;
    let message = status["message"].as_str().unwrap();
    let expected =
        r#"Operation cannot be fulfilled on ConfigMap "a": the UID in the precondition (other) does not match"#;
    assert!(code == 409 && message.starts_with(expected), "{status}");
    assert_eq!(api.delete(&path, json!({"preconditions": {"resourceVersion": "1"}})).await.0, 409);
    assert_eq!(api.delete(&path, Value::Null).await.0, 200);
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let api = Harness::new().await;
    for name in ["a", "b", "c"] {
        api.post(CONFIG_MAPS, config_map(name)).await;
    }
    let (code, deleted) = api.delete(&format!("{CONFIG_MAPS}?fieldSelector=metadata.name%21%3Db"), Value::Null).await;
    assert_eq!((code, names(&deleted)), (200, vec!["a".to_owned(), "c".to_owned()]));
    assert_eq!(api.names(CONFIG_MAPS).await, ["b"]);
}

#[tokio::test]
async fn logs_come_from_the_pods_node() {
    let api = Harness::new().await;
    api.report_pod("p", "one").await;
    let path = "/api/v1/namespaces/default/pods/p/log";
    assert_eq!(api.get(&format!("{path}?tailLines=3")).await, (200, json!("one default/p main Some(3)\n")));
    let (code, status) = api.get(&format!("{path}?container=x")).await;
    assert_eq!((code, &status["message"]), (400, &json!("container x is not valid for pod p")));
}

#[tokio::test]
async fn bodies_in_other_forms_and_unknown_paths_are_refused_as_a_status() {
    let api = Harness::new().await;
    for content_type in ["application/vnd.kubernetes.protobuf", "application/cbor"] {
        let (_, status) =
            api.ask(Method::POST, CONFIG_MAPS, &[(CONTENT_TYPE.as_str(), content_type)], json!("k8s")).await;
        check(&format!("body-{}", content_type.rsplit(['/', '.']).next().unwrap()), status);
    }
    check("scale-not-found", api.get(&format!("{FLUENTD}/scale")).await.1);
    assert_eq!(api.ask(Method::PUT, CONFIG_MAPS, &[], config_map("a")).await.0, 405);
    assert_eq!(api.patch(CONFIG_MAPS, json!({})).await.0, 405);
    assert_eq!(api.get("/nowhere").await, (404, json!("404 page not found\n")));
    let mut large = config_map("large");
    large["data"]["a"] = "x".repeat(4 << 20).into();
    assert_eq!(api.post(CONFIG_MAPS, large).await.0, 413);
    let mut other = config_map("a");
    other["kind"] = "Secret".into();
    assert_eq!(api.post(CONFIG_MAPS, other).await.0, 400);
    let response =
        api.router.clone().oneshot(Request::get("/api/v1/nodes").body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(api.get("/livez").await, (200, json!("ok")));
    assert_eq!(api.get("/version").await.1["gitVersion"], "v1.36.0");
}

#[tokio::test]
async fn documents_are_served_once_to_a_client_that_keeps_them() {
    let api = Harness::new().await;
    let (_, index) = api.get("/openapi/v3").await;
    let by_hash = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    for (path, cached) in [("/apis/apps/v1", "public"), (by_hash, openapi::FOREVER)] {
        let response = api.send(Method::GET, path, &[], &Value::Null).await;
        assert_eq!((response.status(), &response.headers()[CACHE_CONTROL]), (StatusCode::OK, &cached.parse().unwrap()));
        let etag = response.headers()[ETAG].to_str().unwrap().to_owned();
        let again = api.send(Method::GET, path, &[(IF_NONE_MATCH.as_str(), &etag)], &Value::Null).await;
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
    }
    for path in ["/api", "/apis", "/apis/apps", "/api/v1"] {
        assert_eq!(api.get(path).await.0, 200, "{path}");
    }
    assert_eq!(api.get("/apis/batch/v1").await.0, 404);
    assert_eq!(api.get("/openapi/v2").await.0, 406);
}

// === server-side apply ===

/// A configuration applied by a manager.
async fn apply(api: &Harness, path: &str, query: &str, config: &Value) -> (u16, Value) {
    let content_type = [(CONTENT_TYPE.as_str(), "application/apply-patch+yaml")];
    api.ask(Method::PATCH, &format!("{path}?{query}"), &content_type, config.clone()).await
}

#[tokio::test]
async fn what_is_applied_is_created_merged_and_taken_away_again() {
    let api = Harness::new().await;
    let config =
        |data: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data});
    let path = format!("{CONFIG_MAPS}/a");
    let (code, created) = apply(&api, &path, "fieldManager=one", &config(json!({"a": "1", "b": "1"}))).await;
    assert_eq!(code, 201, "{created}");
    check("apply-created", created.clone());
    let again = apply(&api, &path, "fieldManager=one", &config(json!({"a": "1", "b": "1"}))).await;
    assert_eq!(again, (200, created));
    let (code, status) = apply(&api, &path, "fieldManager=two", &config(json!({"a": "2"}))).await;
    assert_eq!(code, 409);
    check("apply-conflict", status);
    let before = api.objects.revision();
    assert_eq!(apply(&api, &path, "fieldManager=two&force=true&dryRun=All", &config(json!({"a": "2"}))).await.0, 200);
    assert_eq!(api.objects.revision(), before);
    let (code, forced) = apply(&api, &path, "fieldManager=two&force=true", &config(json!({"a": "2"}))).await;
    assert_eq!((code, &forced["data"]), (200, &json!({"a": "2", "b": "1"})));
    let (_, left) = apply(&api, &path, "fieldManager=one", &config(json!({"c": "1"}))).await;
    assert_eq!(left["data"], json!({"a": "2", "c": "1"}));
    let (_, patched) = api.patch(&format!("{path}?fieldManager=three"), json!({"data": {"c": null}})).await;
    let managers: Vec<_> =
        patched["metadata"]["managedFields"].as_array().unwrap().iter().map(|entry| entry["manager"].clone()).collect();
    assert_eq!(managers, ["two"], "whoever takes a field away owns nothing");
}

#[tokio::test]
async fn a_daemon_set_is_applied_as_kubectl_does_it() {
    let api = Harness::new().await;
    let mut config = fluentd();
    let (code, _) = apply(&api, FLUENTD, "fieldManager=kubectl&fieldValidation=Strict&force=false", &config).await;
    assert_eq!(code, 201);
    let before = api.objects.revision();
    let (code, same) = apply(&api, FLUENTD, "fieldManager=kubectl&fieldValidation=Strict&force=false", &config).await;
    assert_eq!((code, api.objects.revision()), (200, before), "{same}");
    config["spec"]["template"]["spec"]["containers"][0]["resources"] =
        json!({"limits": {"memory": "1024Mi", "cpu": 0.5}});
    let (_, changed) = apply(&api, FLUENTD, "fieldManager=kubectl", &config).await;
    check("apply-daemonset", changed);
    let (_, same) = apply(&api, FLUENTD, "fieldManager=kubectl", &config).await;
    assert_eq!(same["metadata"]["generation"], 2, "quantities have one form");
    let (code, status) = apply(
        &api,
        &format!("{FLUENTD}/status"),
        "fieldManager=x",
        &json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "status": {"numberReady": 3}}),
    )
    .await;
    assert_eq!((code, &status["status"]["numberReady"]), (200, &json!(3)));
    assert_eq!(status["metadata"]["managedFields"][1]["subresource"], "status");
}

#[tokio::test]
async fn what_cannot_be_applied_is_refused_in_words() {
    let api = Harness::new().await;
    let path = format!("{CONFIG_MAPS}/a");
    let typed = |more: Value| {
        let mut config = json!({"apiVersion": "v1", "kind": "ConfigMap"});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    };
    let cases = [
        ("apply-no-manager", "", typed(json!({}))),
        ("apply-untyped", "fieldManager=m", json!({"data": {}})),
        ("apply-managed-fields", "fieldManager=m", typed(json!({"metadata": {"managedFields": []}}))),
        ("apply-unknown-field", "fieldManager=m&fieldValidation=Strict", typed(json!({"surplus": 1}))),
        ("apply-other-name", "fieldManager=m", typed(json!({"metadata": {"name": "b"}}))),
    ];
    for (name, query, config) in cases {
        check(name, apply(&api, &path, query, &config).await.1);
    }
    let merge = [(CONTENT_TYPE.as_str(), MERGE_PATCH)];
    check("patch-forced", api.ask(Method::PATCH, &format!("{path}?force=true"), &merge, json!({})).await.1);
    let long = format!("{CONFIG_MAPS}?fieldManager={}", "m".repeat(129));
    check("manager-too-long", api.post(&long, config_map("a")).await.1);
}
