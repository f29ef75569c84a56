//! Sessions behind the real link: real TLS on a loopback port, a store in memory, and a node played by the test.

use std::net::Ipv4Addr;
use std::time::Duration;

use futures_util::StreamExt;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::*;
use crate::api::bundle::Bundle;
use crate::control::collector;
use crate::control::kinds::{DAEMON_SET, Kind, NODE, POD, SERVICE_ACCOUNT};
use crate::control::objects::{Deleted, WriteOptions};
use crate::control::registry::Part;
use crate::control::removal::DeleteOptions;
use crate::control::streams::{
    LogOptions, NodeStream, NodeStreams, Piece, StreamError, TunnelDown, TunnelKind, TunnelStream,
};
use crate::link::client::{self, ClientError, ClientSettings, Incoming, Joining, LinkHandle};
use crate::link::tls::{self, Credentials};
use crate::link::{
    Ack, Answer, Ask, Down, HeldDaemonSet, HeldPod, HoldReason, Manifest, NeededBlob, Needs, NodeReport, OpenTunnel,
    Outcome, PodAction, PodReport, Reason, SILENCE, Standing, TunnelUp, Up, Verdict, listen, server,
};
use crate::model::{FleetId, Incumbent, Load, Loads, Measure, NodeName, PodKey, Position, Uid, Usage};
use crate::store::{Memory, Store};

mod admission;
mod holds;
mod objects;
mod pods;
mod recovery;
mod succession;
mod tokens;

/// Longer than anything here takes; reached only by a test that fails.
const SOON: Duration = Duration::from_secs(20);

pub(super) fn hello() -> Hello {
    Hello {
        protocol: 1,
        agent_version: "0".into(),
        features: vec![],
        boot_id: "boot".into(),
        machine_id: "machine".into(),
        fleet: "fleet".into(),
        position: Position::default(),
        session: 1,
        nonce: "nonce".into(),
        daemonsets: vec![],
        pods: vec![],
        permits: vec![],
    }
}

/// A control that runs.
struct Harness {
    dir: TempDir,
    objects: Objects,
    sessions: Sessions,
    control: String,
    /// What updates is told.
    told_rx: mpsc::Receiver<FromNode>,
    grants_tx: mpsc::Sender<Grant>,
}

/// A host that has joined.
struct Host {
    credentials: Credentials,
    fleet: FleetId,
    name: NodeName,
    uid: Uid,
}

/// A node with a session.
struct Node {
    link: LinkHandle,
    hello: Hello,
}

impl Harness {
    async fn new() -> Self {
        Self::in_dir(tempfile::tempdir().unwrap()).await
    }

    /// With the authority in a directory, and nothing in its store.
    async fn in_dir(dir: TempDir) -> Self {
        Self::over(dir, Memory::new()).await
    }

    async fn over(dir: TempDir, store: Arc<dyn Store>) -> Self {
        let objects = Objects::open(store).await.unwrap();
        let authority = Arc::new(Authority::open(dir.path()).unwrap());
        let tls = tls::server_config(&authority, &["127.0.0.1".to_owned()]).unwrap();
        let (updates_tx, told_rx) = mpsc::channel(64);
        let (grants_tx, grants_rx) = mpsc::channel(4);
        let bearer = Arc::new(Bearer::open(dir.path(), objects.clone()).unwrap());
        let sessions = Sessions::start(objects.clone(), authority, bearer, updates_tx, grants_rx).await.unwrap();
        tokio::spawn(collector::run(objects.clone()));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let control = listener.local_addr().unwrap().to_string();
        let router = server::routes(Arc::new(sessions.clone()));
        tokio::spawn(listen::serve(listener, tls, router, std::future::pending()));
        Self { dir, objects, sessions, control, told_rx, grants_tx }
    }

    async fn token(&self, uses: Option<u32>) -> JoinToken {
        let allowance = Allowance { valid_for: SignedDuration::from_hours(1), uses, node_name: None, labels: None };
        self.sessions.make_token(allowance).await.unwrap()
    }

    async fn join(&self, name: &str) -> Host {
        let token = self.token(Some(1)).await;
        let joined = client::enroll(&self.control, &token, joining(name, "machine")).await.unwrap();
        Host { credentials: joined.credentials, fleet: joined.fleet, name: joined.node_name, uid: joined.node_uid }
    }

    fn settings(&self, host: &Host) -> ClientSettings {
        ClientSettings {
            control: self.control.clone(),
            state_dir: self.dir.path().to_owned(),
            seal_key: None,
            credentials: host.credentials.clone(),
            machine_id: "machine".into(),
            last_seen: None,
        }
    }

    async fn connect(&self, host: &Host, hello: Hello) -> (Node, Reception) {
        let hello = Hello { fleet: host.fleet.clone(), ..hello };
        let mut node = Node { link: client::spawn(self.settings(host)), hello };
        let reception = node.welcomed().await;
        (node, reception)
    }

    /// A node in step, behind everything it is told at first.
    async fn in_step(&self, host: &Host, hello: Hello) -> (Node, Manifest) {
        let (mut node, reception) = self.connect(host, hello).await;
        assert_eq!(reception, Reception::Accepted);
        let manifest = node.manifest().await;
        (node, manifest)
    }

    /// Waits until the host has no session any more.
    async fn disconnected(&self, host: &Host) {
        let gone = async {
            while self.sessions.shared.roster.other(&host.uid).is_some() {
                tokio::task::yield_now().await;
            }
        };
        timeout(SOON, gone).await.unwrap();
    }

    async fn apply(&self, name: &str) -> Uid {
        let object = json!({
            "metadata": {"name": name},
            "spec": {
                "selector": {"matchLabels": {"app": name}},
                "template": {
                    "metadata": {"labels": {"app": name}},
                    "spec": {"containers": [{"name": "main", "image": "registry.example/web:1"}]},
                },
            },
        });
        let made = self.objects.create(&DAEMON_SET, "default", object, WriteOptions::default()).await.unwrap();
        meta(&made, "uid").into()
    }

    async fn delete(&self, kind: &'static Kind, namespace: &str, name: &str) -> Deleted {
        self.objects.delete(kind, namespace, name, &DeleteOptions::default()).await.unwrap()
    }

    /// Waits until an object is as it should be; gives it.
    async fn until(&self, kind: &'static Kind, name: &str, is_so: impl Fn(Option<&Value>) -> bool) -> Option<Value> {
        let namespace = if kind.namespaced { "default" } else { "" };
        let mut watcher = self.objects.watch(kind, None, self.objects.revision());
        let waiting = async {
            loop {
                let object = self.objects.get(kind, namespace, name).await.ok();
                if is_so(object.as_ref()) {
                    return object;
                }
                // The window of changes is long enough for every test here.
                watcher.next().await.unwrap();
            }
        };
        timeout(SOON, waiting).await.unwrap_or_else(|_| panic!("{} {name} does not become so", kind.kind))
    }

    async fn told(&mut self) -> FromNode {
        timeout(SOON, self.told_rx.recv()).await.expect("updates is told soon").unwrap()
    }
}

impl Node {
    async fn next(&mut self) -> Incoming {
        timeout(SOON, self.link.incoming_rx.recv()).await.expect("the link says something soon").unwrap()
    }

    /// Answers dials until control says welcome.
    async fn welcomed(&mut self) -> Reception {
        loop {
            match self.next().await {
                Incoming::Dialling(hello_tx) => drop(hello_tx.send(self.hello.clone())),
                Incoming::Down(Down::Welcome(welcome)) => return welcome.reception,
                Incoming::Down(down) => panic!("{down:?} before the welcome"),
                Incoming::Lost(_) => self.hello.session += 1,
            }
        }
    }

    async fn down(&mut self) -> Down {
        match self.next().await {
            Incoming::Down(down) => down,
            other => panic!("{other:?} instead of a message"),
        }
    }

    /// The next message for which `pick` gives something; others are passed over.
    async fn pick<T>(&mut self, pick: impl Fn(Down) -> Option<T>) -> T {
        loop {
            if let Some(picked) = pick(self.down().await) {
                return picked;
            }
        }
    }

    async fn manifest(&mut self) -> Manifest {
        self.pick(|down| if let Down::Manifest(manifest) = down { Some(manifest) } else { None }).await
    }

    async fn lost(&mut self) -> String {
        loop {
            if let Incoming::Lost(lost) = self.next().await {
                return lost.why;
            }
        }
    }

    async fn say(&self, up: Up) {
        self.link.up_tx.send(up).await.unwrap();
    }
}

fn meta<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

fn joining(name: &str, machine_id: &str) -> Joining {
    Joining {
        node_name: name.into(),
        labels: [("site".to_owned(), "north".to_owned())].into(),
        taints: vec![],
        machine_id: machine_id.into(),
        last_seen: None,
    }
}

fn ready_node() -> NodeReport {
    let conditions = json!([{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ready"}]);
    NodeReport { labels: Default::default(), status: json!({"conditions": conditions}).to_string().into() }
}

fn pod_report(daemonset: &Uid, bundle: &Bundle) -> PodReport {
    PodReport {
        key: PodKey {
            namespace: "default".into(),
            name: "web-abcdefghij".into(),
            uid: "12345678-0000-4000-8000-000000000000".into(),
        },
        daemonset: Some(daemonset.clone()),
        revision: bundle.revision.clone(),
        created_at: "2026-01-01T00:00:00Z".parse().unwrap(),
        available: true,
        ending: None,
        gone: false,
        status: json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}).to_string().into(),
    }
}

/// A DaemonSet whose pod runs on a node in step, and that pod's report.
async fn running(harness: &Harness, host: &Host) -> (Node, Uid, PodReport) {
    let daemonset = harness.apply("web").await;
    harness.sessions.shared.desired_rx.clone().wait_for(|desired| desired.newest(&daemonset).is_some()).await.unwrap();
    let (mut node, manifest) = harness.in_step(host, hello()).await;
    let bundle = fetched(&mut node, &manifest).await;
    let report = pod_report(&daemonset, &bundle);
    node.say(Up::Pods(vec![report.clone()])).await;
    harness.until(&POD, &report.key.name, |pod| pod.is_some()).await;
    (node, daemonset, report)
}

/// The only bundle of a manifest, asked for and received.
async fn fetched(node: &mut Node, manifest: &Manifest) -> Bundle {
    let hash = manifest.entries[0].hash.clone();
    let blobs = vec![NeededBlob { hash, offset: 0 }];
    node.say(Up::Needs(Needs { blobs, objects: vec![] })).await;
    let chunk = node.pick(|down| if let Down::Blob(chunk) = down { Some(chunk) } else { None }).await;
    assert_eq!((chunk.offset, chunk.total), (0, chunk.data.len() as u64));
    Bundle::decode(&chunk.data).unwrap()
}

// === joining ===

#[tokio::test]
async fn a_host_joins_once_with_a_token_for_one() {
    let harness = Harness::new().await;
    let token = harness.token(Some(1)).await;
    let join = |name: &'static str, machine| client::enroll(&harness.control, &token, joining(name, machine));
    let joined = join("edge-1", "machine").await.unwrap();
    let node = harness.objects.get(&NODE, "", "edge-1").await.unwrap();
    assert_eq!((meta(&node, "uid"), &node["metadata"]["labels"]["site"]), (joined.node_uid.as_str(), &json!("north")));
    assert_eq!(node["spec"]["taints"][0]["key"], "node.kubernetes.io/not-ready");
    let refused = join("edge-2", "machine").await.err().unwrap();
    assert!(refused.is_permanent() && refused.to_string().contains("not known"), "{refused}");
}

#[tokio::test]
async fn a_name_is_taken_unless_the_answer_to_this_very_machine_was_lost() {
    let harness = Harness::new().await;
    let first = harness.join("edge-1").await;
    let token = harness.token(None).await;
    let join = |machine| client::enroll(&harness.control, &token, joining("edge-1", machine));
    let refused = join("other-machine").await.err().unwrap();
    assert!(refused.is_permanent() && refused.to_string().contains("kubectl delete node edge-1"), "{refused}");
    assert!(refused.to_string().contains("machine, this host is other-machine"), "both are named: {refused}");

    // The same machine, before its first session: the same Node, for another key.
    let again = join("machine").await.unwrap();
    assert_eq!(again.node_uid, first.uid);
    let mut old = Node { link: client::spawn(harness.settings(&first)), hello: hello() };
    let Incoming::Dialling(hello_tx) = old.next().await else { panic!() };
    hello_tx.send(hello()).unwrap();
    assert!(old.lost().await.contains("enrol its host with a join token"));

    let host = Host { credentials: again.credentials, ..first };
    harness.in_step(&host, hello()).await;
    assert!(matches!(join("machine").await, Err(ClientError::Refused { permanent: true, .. })));
}

#[tokio::test]
async fn a_host_that_was_installed_anew_gets_its_node_back_with_a_token_for_it_alone() {
    let harness = Harness::new().await;
    let host = harness.join("edge-1").await;
    let (old, _, report) = running(&harness, &host).await;
    let bound = |name: &str, uses| Allowance {
        valid_for: SignedDuration::from_hours(1),
        uses,
        node_name: Some(name.into()),
        labels: None,
    };
    let token = harness.sessions.make_token(bound("edge-1", Some(1))).await.unwrap();
    let control = &harness.control;
    let join =
        |token: JoinToken| async move { client::enroll(control, &token, joining("edge-1", "new-machine")).await };
    let refused = join(token.clone()).await.err().unwrap();
    assert!(refused.is_permanent() && refused.to_string().contains("that host is connected"), "{refused}");
    drop(old);
    harness.disconnected(&host).await;
    let many = harness.sessions.make_token(bound("edge-1", None)).await.unwrap();
    let refused = join(many).await.err().unwrap();
    assert!(refused.to_string().contains("garrison token create --node-name edge-1 --uses 1"), "{refused}");

    let again = join(token.clone()).await.unwrap();
    assert_eq!(again.node_uid, host.uid, "the Node with its labels and taints stays");
    assert!(join(token).await.is_err(), "once");
    let mut stranger = Node { link: client::spawn(harness.settings(&host)), hello: hello() };
    let Incoming::Dialling(hello_tx) = stranger.next().await else { panic!() };
    hello_tx.send(hello()).unwrap();
    assert!(
        stranger.lost().await.contains("enrol its host with a join token"),
        "what the old disk says counts no more"
    );

    // It has nothing, so the pods of before are gone.
    let fresh = Hello { machine_id: "new-machine".into(), fleet: again.fleet, ..hello() };
    let host = Host { credentials: again.credentials, ..host };
    let settings = ClientSettings { machine_id: "new-machine".into(), ..harness.settings(&host) };
    let mut node = Node { link: client::spawn(settings), hello: fresh };
    assert_eq!(node.welcomed().await, Reception::Accepted);
    harness.until(&POD, &report.key.name, |pod| pod.is_none()).await;
    assert_eq!(node.manifest().await.entries.len(), 1, "it is told what to run");
}

// === being told ===

#[tokio::test]
async fn a_daemonset_reaches_the_node_and_its_pod_the_api() {
    let harness = Harness::new().await;
    let host = harness.join("edge-1").await;
    let (mut node, manifest) = harness.in_step(&host, hello()).await;
    assert_eq!(manifest.entries, []);
    let daemonset = harness.apply("web").await;
    let manifest = node.manifest().await;
    assert_eq!(manifest.entries[0].uid, daemonset);
    let bundle = fetched(&mut node, &manifest).await;
    assert_eq!((&bundle.uid, bundle.name.as_str()), (&daemonset, "web"));

    node.say(Up::Node(ready_node())).await;
    let ready = harness.until(&NODE, "edge-1", |node| node.is_some_and(|node| node["spec"]["taints"].is_null())).await;
    assert_eq!(ready.unwrap()["status"]["conditions"][0]["status"], "True");

    let report = pod_report(&daemonset, &bundle);
    node.say(Up::Pods(vec![report.clone()])).await;
    let pod = harness.until(&POD, &report.key.name, |pod| pod.is_some()).await.unwrap();
    assert_eq!((meta(&pod, "uid"), meta(&pod, "creationTimestamp")), (report.key.uid.as_str(), "2026-01-01T00:00:00Z"));
    assert_eq!((&pod["spec"]["nodeName"], &pod["status"]["phase"]), (&json!("edge-1"), &json!("Running")));

    node.say(Up::Pods(vec![PodReport { gone: true, ..report.clone() }])).await;
    harness.until(&POD, &report.key.name, |pod| pod.is_none()).await;
}

#[tokio::test]
async fn a_node_hears_what_became_of_what_it_holds() {
    let harness = Harness::new().await;
    let host = harness.join("edge-1").await;
    let (present, deleted) = (harness.apply("present").await, harness.apply("deleted").await);
    harness.delete(&DAEMON_SET, "default", "deleted").await;
    let desired_rx = &harness.sessions.shared.desired_rx;
    desired_rx.clone().wait_for(|desired| desired.last_deletion > 0).await.unwrap();
    let unknown = Uid::from("99999999-0000-4000-8000-000000000000");
    let held =
        [&present, &deleted, &unknown].map(|uid| HeldDaemonSet { uid: uid.clone(), seq: 1, key: None, revision: None });
    let (mut node, _) = harness.connect(&host, Hello { daemonsets: held.to_vec(), ..hello() }).await;
    let Down::Answers(answers) = node.down().await else { panic!() };
    let seq = desired_rx.borrow().last_deletion;
    assert_eq!(
        answers.answers,
        [(present, Answer::Present), (deleted, Answer::Deleted { seq, kept: vec![] }), (unknown, Answer::Unknown)]
    );
}

#[tokio::test]
async fn a_deletion_is_told_at_once_and_forgotten_when_every_node_has_confirmed_it() {
    let harness = Harness::new().await;
    let host = harness.join("edge-1").await;
    let daemonset = harness.apply("web").await;
    let (mut node, _) = harness.in_step(&host, hello()).await;
    harness.delete(&DAEMON_SET, "default", "web").await;
    let answers = node.pick(|down| if let Down::Answers(answers) = down { Some(answers) } else { None }).await;
    let (uid, Answer::Deleted { .. }) = &answers.answers[0] else { panic!("{answers:?}") };
    assert_eq!(*uid, daemonset);
    let shared = &harness.sessions.shared;
    shared.drop_confirmed_deletions().await.unwrap();
    assert_eq!(harness.objects.tombstones().await.unwrap().0.len(), 1);
    node.say(Up::Ack(Ack::Position(answers.position))).await;
    // Behind the ack: what it confirms has been taken when this shows.
    node.say(Up::Node(ready_node())).await;
    harness.until(&NODE, "edge-1", |node| node.is_some_and(|node| node["spec"]["taints"].is_null())).await;
    shared.drop_confirmed_deletions().await.unwrap();
    assert_eq!(harness.objects.tombstones().await.unwrap().0, []);

    // Its disk is put back to before.
    let held = HeldDaemonSet { uid: daemonset.clone(), seq: 1, key: None, revision: None };
    let (mut node, _) = harness.connect(&host, Hello { session: 2, daemonsets: vec![held], ..hello() }).await;
    let answers = node.pick(|down| if let Down::Answers(answers) = down { Some(answers) } else { None }).await;
    assert!(matches!(&answers.answers[..], [(uid, Answer::Deleted { .. })] if *uid == daemonset), "{answers:?}");
}

#[tokio::test]
async fn labels_that_a_user_sets_reach_the_node() {
    let harness = Harness::new().await;
    let host = harness.join("edge-1").await;
    let (mut node, _) = harness.in_step(&host, hello()).await;
    let label = |node: &Value| {
        let mut node = node.clone();
        node["metadata"]["labels"]["gpu"] = json!("true");
        Ok::<_, ObjectError>(node)
    };
    harness.objects.update(&NODE, "", "edge-1", Part::Main, WriteOptions::default(), label).await.unwrap();
    let change = node.pick(|down| if let Down::Node(change) = down { Some(change) } else { None }).await;
    assert_eq!(change.labels["gpu"], "true");
    assert_eq!(change.taints, []);
}

#[tokio::test]
async fn a_pods_deletion_is_repeated_until_the_pod_is_gone() {
    let harness = Harness::new().await;
    let host = harness.join("edge-1").await;
    let (mut node, _, report) = running(&harness, &host).await;
    assert!(matches!(harness.delete(&POD, "default", &report.key.name).await, Deleted::Marked(_)));
    let is_delete = |down: Down| match down {
        Down::Pod { id, command } => Some((id, command)),
        _ => None,
    };
    let (id, command) = node.pick(is_delete).await;
    assert_eq!(command.uid, report.key.uid);
    assert!(matches!(command.action, PodAction::Delete { grace_period_secs: 30, .. }), "{command:?}");
    node.say(Up::Ack(Ack::Command { id, outcome: Outcome::Done })).await;
    drop(node);

    let held = vec![HeldPod { uid: report.key.uid.clone(), digest: report.digest() }];
    let (mut node, _) = harness.connect(&host, Hello { session: 2, pods: held, ..hello() }).await;
    assert_eq!(node.pick(is_delete).await, (id, command));
    node.say(Up::Pods(vec![PodReport { gone: true, ..report.clone() }])).await;
    harness.until(&POD, &report.key.name, |pod| pod.is_none()).await;
    assert_eq!(harness.objects.tombstones().await.unwrap().0, []);
}

#[tokio::test]
async fn a_pod_deleted_by_force_does_not_come_back() {
    let harness = Harness::new().await;
    let host = harness.join("edge-1").await;
    let (mut node, _, report) = running(&harness, &host).await;
    let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
    harness.objects.delete(&POD, "default", &report.key.name, &now).await.unwrap();
    let command = node.pick(|down| if let Down::Pod { command, .. } = down { Some(command) } else { None }).await;
    assert!(matches!(command.action, PodAction::Delete { grace_period_secs: 0, .. }));
    node.say(Up::Pods(vec![report.clone()])).await;
    node.say(Up::Pods(vec![PodReport { gone: true, ..report.clone() }])).await;
    // Its deletion is forgotten with its last report, and it was never seen in between.
    timeout(SOON, async {
        while !harness.objects.tombstones().await.unwrap().0.is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert!(harness.objects.get(&POD, "default", &report.key.name).await.is_err());
}

#[tokio::test]
async fn after_a_reconnect_only_what_changed_is_wanted_and_what_is_not_held_is_gone() {
    let harness = Harness::new().await;
    let host = harness.join("edge-1").await;
    let (node, _, report) = running(&harness, &host).await;
    drop(node);
    let held = |digest| vec![HeldPod { uid: report.key.uid.clone(), digest }];
    let (mut node, _) = harness.connect(&host, Hello { session: 2, pods: held(report.digest()), ..hello() }).await;
    while !matches!(node.down().await, Down::Manifest(_)) {}
    drop(node);
    let changed = PodReport { available: false, ..report.clone() };
    let (mut node, _) = harness.connect(&host, Hello { session: 3, pods: held(changed.digest()), ..hello() }).await;
    let wanted = node.pick(|down| if let Down::Wanted(pods) = down { Some(pods) } else { None }).await;
    assert_eq!(wanted, std::slice::from_ref(&report.key.uid));
    drop(node);
    harness.connect(&host, Hello { session: 4, ..hello() }).await;
    harness.until(&POD, &report.key.name, |pod| pod.is_none()).await;
}

// === permits ===

#[tokio::test]
async fn asks_and_permits_pass_between_a_node_in_step_and_updates() {
    let mut harness = Harness::new().await;
    let host = harness.join("edge-1").await;
    let (mut node, _) = harness.in_step(&host, hello()).await;
    let FromNode::Opened { node: opened, session, .. } = harness.told().await else { panic!("it is in step") };
    assert_eq!(opened, host.uid);
    let daemonset = Uid::from("22222222-0000-4000-8000-000000000000");
    let ask =
        Ask { daemonset: daemonset.clone(), revision: "abc".into(), prepared: Ok(()), incumbent: Incumbent::Available };
    node.say(Up::Ask(ask)).await;
    assert!(matches!(harness.told().await, FromNode::Asked { revision, .. } if revision == "abc".into()));
    let (number, revision) = (crate::model::PermitNumber(7), "abc".into());
    let permit = crate::link::Permit { number, daemonset, revision, void: false, if_unavailable: false };
    let grant = |session, number| Grant {
        node: host.uid.clone(),
        session,
        permit: crate::link::Permit { number: crate::model::PermitNumber(number), ..permit.clone() },
    };
    // One for a session before would be void.
    harness.grants_tx.send(grant(session - 1, 6)).await.unwrap();
    harness.grants_tx.send(grant(session, 7)).await.unwrap();
    assert_eq!(node.pick(|down| if let Down::Permit(permit) = down { Some(permit) } else { None }).await, permit);
    node.say(Up::Ack(Ack::Taken(permit.number))).await;
    assert!(matches!(harness.told().await, FromNode::Took { permit: taken } if taken == permit.number));

    // What is against a revision is told, too.
    let daemonset = || permit.daemonset.clone();
    let reason = Reason { reason: "ErrImagePull".into(), message: "no such image".into(), field: String::new() };
    let ask = Ask {
        daemonset: daemonset(),
        revision: "def".into(),
        prepared: Err(reason.clone()),
        incumbent: Incumbent::None,
    };
    node.say(Up::Ask(ask)).await;
    let told = harness.told().await;
    assert!(matches!(&told, FromNode::Unable { reason: why, .. } if *why == reason), "{told:?}");
    let verdict = Verdict {
        daemonset: daemonset(),
        seq: 1,
        revision: "def".into(),
        standing: Standing::Runs,
        reasons: vec![],
        rejected: vec!["def".into()],
    };
    node.say(Up::Verdicts(vec![verdict])).await;
    let told = harness.told().await;
    assert!(matches!(&told, FromNode::Rejected { revisions, .. } if revisions[..] == ["def".into()]), "{told:?}");
    drop(node);
    assert!(matches!(harness.told().await, FromNode::Closed { node, .. } if node == host.uid));
}

// === holding ===

#[tokio::test]
async fn a_node_that_holds_is_told_nothing_and_the_api_says_why() {
    let mut harness = Harness::new().await;
    let host = harness.join("edge-1").await;
    harness.apply("web").await;
    let ahead = Hello { position: Position { era: 1, seq: 1000 }, ..hello() };
    let (mut node, reception) = harness.connect(&host, ahead).await;
    assert!(matches!(reception, Reception::Hold { reason: HoldReason::Ahead, .. }), "{reception:?}");
    let held = harness.until(&NODE, "edge-1", |node| condition(node, "Held").is_some()).await;
    assert_eq!(condition(held.as_ref(), "Held").unwrap()["reason"], "Ahead");
    // Its reports go on.
    node.say(Up::Node(ready_node())).await;
    harness.until(&NODE, "edge-1", |node| condition(node, "Ready").is_some()).await;
    assert!(node.link.incoming_rx.try_recv().is_err(), "no manifest");
    assert!(harness.told_rx.try_recv().is_err(), "no permits");
    drop(node);
    harness.in_step(&host, Hello { session: 2, ..hello() }).await;
    harness.until(&NODE, "edge-1", |node| condition(node, "Held").is_none()).await;
}

fn condition<'a>(node: Option<&'a Value>, kind: &str) -> Option<&'a Value> {
    node?["status"]["conditions"].as_array()?.iter().find(|one| one["type"] == kind)
}

#[tokio::test]
async fn two_hosts_with_one_identity_are_both_held() {
    let harness = Harness::new().await;
    let host = harness.join("edge-1").await;
    let (mut original, _) = harness.in_step(&host, Hello { session: 5, nonce: "original".into(), ..hello() }).await;
    let is_clone = |reception: &Reception| matches!(reception, Reception::Hold { reason: HoldReason::Clone, .. });
    let (copy, reception) = harness.connect(&host, Hello { session: 5, nonce: "copy".into(), ..hello() }).await;
    assert!(is_clone(&reception), "{reception:?}");
    original.lost().await;
    original.hello.session += 1;
    let reception = original.welcomed().await;
    assert!(is_clone(&reception), "{reception:?}");
    harness.until(&NODE, "edge-1", |node| condition(node, "Held").is_some()).await;
    drop(copy);
}

// === leaving ===

#[tokio::test]
async fn a_removed_node_is_told_so_and_is_a_stranger_afterwards() {
    let harness = Harness::new().await;
    let host = harness.join("edge-1").await;
    let (mut node, _, report) = running(&harness, &host).await;
    harness.delete(&NODE, "", "edge-1").await;
    let id = node.pick(|down| if let Down::Removed { id, .. } = down { Some(id) } else { None }).await;
    harness.until(&POD, &report.key.name, |pod| pod.is_none()).await;
    node.say(Up::Pods(vec![report.clone()])).await;
    node.say(Up::Ack(Ack::Command { id, outcome: Outcome::Done })).await;
    node.lost().await;
    node.hello.session += 1;
    let why = loop {
        match node.next().await {
            Incoming::Dialling(hello_tx) => drop(hello_tx.send(node.hello.clone())),
            Incoming::Lost(lost) => break lost.why,
            Incoming::Down(down) => panic!("{down:?}"),
        }
    };
    assert!(why.contains("enrol its host with a join token"), "{why}");
    assert!(harness.objects.get(&POD, "default", &report.key.name).await.is_err(), "its pods stay away");
    assert_eq!(harness.objects.tombstones().await.unwrap().0, []);
}

#[tokio::test]
async fn a_node_that_was_away_when_it_was_removed_is_told_when_it_comes_back() {
    let harness = Harness::new().await;
    let host = harness.join("edge-1").await;
    harness.in_step(&host, hello()).await;
    harness.delete(&NODE, "", "edge-1").await;
    harness.sessions.shared.desired_rx.clone().wait_for(|desired| desired.removal(&host.uid).is_some()).await.unwrap();
    let (mut node, _) = harness.connect(&host, Hello { session: 2, ..hello() }).await;
    let Down::Removed { id, .. } = node.down().await else { panic!() };
    node.say(Up::Ack(Ack::Command { id, outcome: Outcome::Done })).await;
    node.lost().await;
    assert!(harness.objects.member(&host.uid).await.unwrap().is_none());
}

#[tokio::test]
async fn a_silent_node_is_not_ready_until_it_reports_again() {
    let harness = Harness::new().await;
    let host = harness.join("edge-1").await;
    let (node, _, report) = running(&harness, &host).await;
    node.say(Up::Node(ready_node())).await;
    harness.until(&NODE, "edge-1", |node| condition(node, "Ready").is_some()).await;
    drop(node);
    harness.disconnected(&host).await;
    let shared = harness.sessions.shared.clone();
    tokio::time::pause();
    tokio::time::advance(SILENCE).await;
    tokio::time::resume();
    shared.mark_lost_nodes().await.unwrap();
    let lost = harness.objects.get(&NODE, "", "edge-1").await.unwrap();
    let ready = condition(Some(&lost), "Ready").unwrap();
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("Unknown"), &json!("NodeStatusUnknown")));
    let pod = harness.objects.get(&POD, "default", &report.key.name).await.unwrap();
    assert_eq!(pod["status"]["conditions"][0]["status"], "False");

    // What control wrote itself is not what the node last reported, so the report is wanted again.
    let held = vec![HeldPod { uid: report.key.uid.clone(), digest: report.digest() }];
    let (mut node, _) = harness.connect(&host, Hello { session: 2, pods: held, ..hello() }).await;
    node.pick(|down| if let Down::Wanted(pods) = down { Some(pods) } else { None }).await;
    node.say(Up::Node(ready_node())).await;
    harness.until(&NODE, "edge-1", |node| node.is_some_and(|node| node["spec"]["taints"].is_null())).await;
}

// === what is not a node's business ===

#[tokio::test]
async fn a_node_changes_nothing_that_is_another_nodes() {
    let harness = Harness::new().await;
    let host = harness.join("edge-1").await;
    let (_node, _, report) = running(&harness, &host).await;
    let other = harness.join("edge-2").await;
    let (intruder, _) = harness.in_step(&other, hello()).await;
    let failed = PodReport { status: json!({"phase": "Failed"}).to_string().into(), ..report.clone() };
    intruder.say(Up::Pods(vec![failed])).await;
    intruder.say(Up::Pods(vec![PodReport { gone: true, ..report.clone() }])).await;
    // Behind them.
    intruder.say(Up::Node(ready_node())).await;
    harness.until(&NODE, "edge-2", |node| condition(node, "Ready").is_some()).await;
    let pod = harness.objects.get(&POD, "default", &report.key.name).await.unwrap();
    assert_eq!((&pod["status"]["phase"], &pod["spec"]["nodeName"]), (&json!("Running"), &json!("edge-1")));
}

#[tokio::test]
async fn streams_come_through_tunnels() {
    let harness = Harness::new().await;
    let host = harness.join("edge-1").await;
    let (mut node, _, report) = running(&harness, &host).await;
    let kind = TunnelKind::Logs(LogOptions { container: "main".into(), tail_lines: Some(2), ..LogOptions::default() });
    let open = |kind: TunnelKind| {
        let (sessions, name, key) = (harness.sessions.clone(), host.name.clone(), report.key.clone());
        tokio::spawn(async move { sessions.open(&name, &key, kind).await })
    };
    let asked = |down| if let Down::OpenTunnel { id, tunnel } = down { Some((id, tunnel)) } else { None };
    let opening = open(kind.clone());
    let (id, tunnel) = node.pick(asked).await;
    assert_eq!(tunnel, OpenTunnel { pod: report.key.uid.clone(), kind: kind.clone() });
    let mut ends = node.link.tunnels.open(id).unwrap();
    for line in ["", "one\n", "two\n"] {
        ends.up_tx.send(TunnelUp::Data(TunnelStream::Main, line.into())).await.unwrap();
    }
    let NodeStream { input, mut output } = timeout(SOON, opening).await.unwrap().unwrap().unwrap();
    for line in ["one\n", "two\n"] {
        assert_eq!(output.next().await, Some(Ok(Piece::Data(TunnelStream::Main, line.into()))));
    }
    input.send(TunnelDown::Close).await.unwrap();
    assert_eq!(timeout(SOON, ends.down_rx.recv()).await.unwrap(), Some(TunnelDown::Close));

    // The user leaves: the node is told, should its end of the tunnel be stuck.
    drop((input, output));
    let closed = node.pick(|down| if let Down::CloseTunnel(id) = down { Some(id) } else { None }).await;
    assert_eq!(closed, id);
    timeout(SOON, ends.up_tx.closed()).await.unwrap();

    // One that has ended needs no such word.
    let opening = open(kind.clone());
    let (id, _) = node.pick(asked).await;
    let ends = node.link.tunnels.open(id).unwrap();
    ends.up_tx.send(TunnelUp::End(Ok(0))).await.unwrap();
    let output = timeout(SOON, opening).await.unwrap().unwrap().unwrap().output;
    assert_eq!(output.collect::<Vec<_>>().await, [Ok(Piece::End(0))]);
    open(kind.clone());
    let next = node.pick(|down| matches!(down, Down::CloseTunnel(_) | Down::OpenTunnel { .. }).then_some(down)).await;
    assert!(matches!(next, Down::OpenTunnel { .. }), "{next:?}");

    let nowhere = harness.sessions.open(&"edge-9".into(), &report.key, kind).await;
    assert!(nowhere.err().unwrap().to_string().contains("not connected"));
}

#[tokio::test]
async fn a_node_says_how_much_is_taken_when_it_is_asked() {
    let harness = Harness::new().await;
    let host = harness.join("edge-1").await;
    let name = host.name.clone();
    let measure = |what| {
        let (sessions, name) = (harness.sessions.clone(), name.clone());
        tokio::spawn(async move { sessions.measure(&name, what).await })
    };
    assert_eq!(measure(Measure::Node).await.unwrap(), Err(StreamError::NotConnected(name.clone())));

    let (mut node, _) = harness.in_step(&host, hello()).await;
    let asked = |down| if let Down::Measure { id, what } = down { Some((id, what)) } else { None };
    let load = Load { cpu_nano_cores: 7, memory_bytes: 8 };
    let at = Timestamp::from_second(1_800_000_000).unwrap();
    let usage = Usage { at, window: Duration::from_secs(1), loads: Loads::Node(load) };
    let measured = measure(Measure::Node);
    let (id, what) = node.pick(asked).await;
    assert_eq!(what, Measure::Node);
    // What nobody asked for is of no consequence.
    node.say(Up::Usage { id: CommandId(1), usage: usage.clone() }).await;
    node.say(Up::Usage { id, usage: usage.clone() }).await;
    assert_eq!(timeout(SOON, measured).await.unwrap().unwrap(), Ok(usage));

    // An agent that is older than the question.
    let measured = measure(Measure::Containers);
    let (id, _) = node.pick(asked).await;
    let outcome = Outcome::Unsupported("body is unknown to this agent".to_owned());
    node.say(Up::Ack(Ack::Command { id, outcome })).await;
    let refused = StreamError::Refused { code: 500, message: "body is unknown to this agent".to_owned() };
    assert_eq!(timeout(SOON, measured).await.unwrap().unwrap(), Err(refused));

    // One who asks and leaves is forgotten.
    let measured = measure(Measure::Node);
    node.pick(asked).await;
    measured.abort();
    assert!(measured.await.unwrap_err().is_cancelled());
    assert!(harness.sessions.shared.measures.lock().is_empty());

    // One that breaks meanwhile is not waited for.
    let measured = measure(Measure::Node);
    node.pick(asked).await;
    drop(node);
    assert_eq!(timeout(SOON, measured).await.unwrap().unwrap(), Err(StreamError::Broken(name)));
}
