//! A control whose store was lost, and nodes that hold what it was.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::from_slice;

use super::*;
use crate::control::holds::Fleet;
use crate::control::kinds::{CONFIG_MAP, CONTROLLER_REVISION, SECRET};
use crate::control::recovery::{Choice, Outcome, Recovery, RecoveryError};
use crate::link::{self, BlobChunk, HeldObject, HeldPosted, HeldRevision, Holdings, RECOUNT, TakenPermit};
use crate::model::{BlobHash, ObjectKey, PermitNumber};

/// What a node was told before the store was lost, as its ledger has it.
struct Ledger {
    hello: Hello,
    holdings: Holdings,
    blobs: BTreeMap<BlobHash, Bytes>,
}

impl Ledger {
    /// Takes everything over that control tells.
    async fn of(harness: &Harness, host: &Host, objects: &[(&str, link::Kind)]) -> Self {
        let (mut node, manifest) = harness.in_step(host, hello()).await;
        let object =
            |(name, kind): &(&str, link::Kind)| link::ObjectRef { kind: *kind, key: ObjectKey::new("default", *name) };
        let objects: Vec<_> = objects.iter().map(object).collect();
        node.say(Up::Needs(Needs { blobs: vec![], objects: objects.clone() })).await;
        // Nothing is said to a node that needs nothing and has no pod of its own.
        let assigned = if objects.is_empty() {
            link::Assigned { position: manifest.position, pods: vec![], objects: vec![] }
        } else {
            let whole = |down| match down {
                Down::Assigned(assigned) if assigned.objects.len() == objects.len() => Some(assigned),
                _ => None,
            };
            node.pick(whole).await
        };
        let present = |(object, answer): (link::ObjectRef, link::ObjectAnswer)| match answer {
            link::ObjectAnswer::Present(entry) => HeldObject { object, uid: entry.uid, blob: entry.hash },
            other => panic!("{other:?}"),
        };
        let mut holdings = Holdings {
            labels: [("site".to_owned(), "north".to_owned())].into(),
            objects: assigned.objects.into_iter().map(present).collect(),
            pods: (assigned.pods.into_iter()).map(|pod| HeldPosted { uid: pod.uid, bundle: pod.hash }).collect(),
            ..Holdings::default()
        };
        let mut wanted: Vec<_> = holdings.objects.iter().map(|held| held.blob.clone()).collect();
        wanted.extend(holdings.pods.iter().map(|held| held.bundle.clone()));
        wanted.extend(manifest.entries.iter().flat_map(|entry| [entry.hash.clone(), entry.written.clone().unwrap()]));
        let needed = |hash: &BlobHash| NeededBlob { hash: hash.clone(), offset: 0 };
        node.say(Up::Needs(Needs { blobs: wanted.iter().map(needed).collect(), objects })).await;
        let mut blobs = BTreeMap::new();
        while blobs.len() < wanted.len() {
            let chunk = node.pick(|down| if let Down::Blob(chunk) = down { Some(chunk) } else { None }).await;
            blobs.insert(chunk.hash, chunk.data);
        }
        for entry in manifest.entries {
            let bundle = Bundle::decode(&blobs[&entry.hash]).unwrap();
            holdings.revisions.push(HeldRevision {
                daemonset: entry.uid,
                revision: bundle.revision,
                bundle: entry.hash,
                written: entry.written,
                newest: true,
            });
        }
        let held = |held: &HeldRevision| HeldDaemonSet {
            uid: held.daemonset.clone(),
            seq: manifest.position.seq,
            key: None,
            revision: None,
        };
        let hello = Hello {
            features: vec![RECOUNT.to_owned()],
            fleet: host.fleet.clone(),
            position: manifest.position,
            session: 7,
            daemonsets: holdings.revisions.iter().map(held).collect(),
            ..hello()
        };
        Self { hello, holdings, blobs }
    }

    /// Tells a control that asks.
    async fn tells(&self, harness: &Harness, host: &Host) -> Node {
        let (mut node, reception) = harness.connect(host, self.hello.clone()).await;
        assert!(matches!(reception, Reception::Hold { reason: HoldReason::Recovery, .. }), "{reception:?}");
        node.pick(|down| (down == Down::Recount).then_some(())).await;
        node.say(Up::Holdings(Box::new(self.holdings.clone()))).await;
        node
    }

    /// Gives the blobs that are asked for until `until` is so.
    async fn gives(&self, node: &mut Node, until: impl Fn() -> bool) {
        while !until() {
            let Ok(down) = timeout(Duration::from_millis(20), node.down()).await else { continue };
            let Down::Recall(hash) = down else { continue };
            let data = self.blobs[&hash].clone();
            node.say(Up::Blob(BlobChunk { hash, offset: 0, total: data.len() as u64, data })).await;
        }
    }
}

impl Harness {
    /// The same control, its store lost.
    async fn without_store(self) -> Self {
        Self::in_dir(self.dir).await
    }

    async fn recovery(&self, choice: Choice) -> Recovery {
        self.sessions.recovery(choice).await.unwrap()
    }

    async fn object(&self, kind: &'static Kind, name: &str) -> Value {
        let mut object = self.objects.get(kind, if kind.namespaced { "default" } else { "" }, name).await.unwrap();
        meta_mut(&mut object).remove("resourceVersion");
        object
    }

    /// How many nodes have told everything.
    fn told_all(&self) -> usize {
        self.sessions.shared.recoveries.told()
    }
}

fn meta_mut(object: &mut Value) -> &mut serde_json::Map<String, Value> {
    crate::control::meta::metadata_mut(object)
}

fn outcome<'a>(recovery: &'a Recovery, kind: &str, name: &str) -> &'a Outcome {
    let found = recovery.objects.iter().find(|found| found.kind == kind && found.key.name == name);
    &found.unwrap_or_else(|| panic!("{kind} {name} in {recovery:#?}")).outcome
}

/// A control with a DaemonSet that uses both kinds of configuration, and a posted pod.
async fn fleet() -> (Harness, Host) {
    let harness = Harness::new().await;
    let host = harness.join("edge-1").await;
    let create = async |kind, object| {
        harness.objects.create(kind, "default", object, WriteOptions::default()).await.unwrap();
    };
    create(&CONFIG_MAP, json!({"metadata": {"name": "settings"}, "data": {"a": "1"}})).await;
    create(&CONFIG_MAP, json!({"metadata": {"name": "other"}, "data": {"a": "1"}})).await;
    create(&SECRET, json!({"metadata": {"name": "keys"}, "stringData": {"password": "hunter2"}})).await;
    let container = json!({
        "name": "main", "image": "registry.example/web:1",
        "envFrom": [{"configMapRef": {"name": "settings"}}, {"secretRef": {"name": "keys"}}],
    });
    let set = json!({
        "metadata": {"name": "web", "labels": {"team": "one"}, "annotations": {"note": "kept"}},
        "spec": {
            "selector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "www"]}]},
            "updateStrategy": {"rollingUpdate": {"maxUnavailable": "30%"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [container], "serviceAccountName": "web", "automountServiceAccountToken": false},
            },
        },
    });
    create(&SERVICE_ACCOUNT, json!({"metadata": {"name": "web"}})).await;
    create(&DAEMON_SET, set).await;
    let pod = json!({
        "metadata": {"name": "probe", "labels": {"a": "b"}},
        "spec": {
            "nodeName": "edge-1", "automountServiceAccountToken": false,
            "containers": [{"name": "main", "image": "registry.example/web:1"}],
        },
    });
    create(&POD, pod).await;
    (harness, host)
}

#[tokio::test]
async fn a_lost_store_is_rebuilt_from_what_a_node_holds_and_the_node_finds_everything_known() {
    let (harness, host) = fleet().await;
    let configuration = [("settings", link::Kind::ConfigMap), ("keys", link::Kind::Secret)];
    let mut ledger = Ledger::of(&harness, &host, &configuration).await;
    let set = ledger.holdings.revisions[0].clone();
    let permit =
        TakenPermit { number: PermitNumber(41), daemonset: set.daemonset.clone(), revision: set.revision.clone() };
    ledger.hello.permits.push(permit);
    let before = [(&DAEMON_SET, "web"), (&POD, "probe"), (&SECRET, "keys"), (&CONFIG_MAP, "settings")];
    let mut lost = Vec::new();
    for (kind, name) in before {
        lost.push(harness.object(kind, name).await);
    }

    // Nobody asks before a person has opened it.
    let harness = harness.without_store().await;
    let mut refused = client::spawn(harness.settings(&host));
    let why = loop {
        match timeout(SOON, refused.incoming_rx.recv()).await.unwrap().unwrap() {
            Incoming::Dialling(hello_tx) => drop(hello_tx.send(ledger.hello.clone())),
            Incoming::Lost(lost) => break lost.why,
            Incoming::Down(down) => panic!("{down:?}"),
        }
    };
    assert!(why.contains("garrison control recover"), "{why}");
    drop(refused);

    assert_eq!(harness.recovery(Choice::default()).await.nodes, []);
    let mut node = ledger.tells(&harness, &host).await;
    ledger.gives(&mut node, || harness.told_all() == 1).await;
    let shown = harness.recovery(Choice { vouch_for_labels: true, ..Choice::default() }).await;
    for (kind, name) in [("DaemonSet", "web"), ("Pod", "probe"), ("Secret", "keys"), ("ConfigMap", "settings")] {
        assert_eq!(*outcome(&shown, kind, name), Outcome::Rebuilt, "{kind} {name}");
    }
    assert_eq!(shown.missing, ["ServiceAccount default/web"]);
    assert_eq!(shown.labels, [("site=north".to_owned(), 1)]);
    assert!(!serde_json::to_string(&shown).unwrap().contains("aHVudGVyMg"), "Secrets are not shown");
    assert!(harness.objects.get(&DAEMON_SET, "default", "web").await.is_err(), "nothing is written before");

    let other = harness.sessions.recover(shown.number + 1).await;
    assert!(matches!(other, Err(RecoveryError::NotShown { .. })), "{other:?}");
    harness.sessions.recover(shown.number).await.unwrap();
    // Users' words are as they were. What only says when and by whom is lost where nodes have not got it.
    for ((kind, name), lost) in before.into_iter().zip(lost) {
        let object = harness.object(kind, name).await;
        for field in ["spec", "data", "type"] {
            assert_eq!(object[field], lost[field], "{kind:?} {name}: {field}");
        }
        for field in ["uid", "generation", "labels", "annotations"] {
            assert_eq!(object["metadata"][field], lost["metadata"][field], "{kind:?} {name}: metadata.{field}");
        }
        if *kind == DAEMON_SET {
            assert_eq!(object["metadata"], lost["metadata"]);
        }
    }
    let record = harness.object(&CONTROLLER_REVISION, &format!("web-{}", set.revision.as_str())).await;
    assert_eq!(record["revision"], 1);
    assert_eq!(harness.object(&NODE, "edge-1").await["metadata"]["labels"]["site"], "north");
    let permits = harness.objects.permits().await.unwrap();
    assert_eq!((permits.len(), permits[0].number, &permits[0].node), (1, PermitNumber(41), &host.uid));

    // The node is taken on, and what it holds is the very content that it is told now.
    node.lost().await;
    node.hello.session += 1;
    assert_eq!(node.welcomed().await, Reception::Accepted);
    let answers = node.pick(|down| if let Down::Answers(answers) = down { Some(answers) } else { None }).await;
    assert_eq!(answers.answers, [(set.daemonset.clone(), Answer::Present)]);
    let manifest = node.manifest().await;
    assert_eq!((&manifest.entries[0].hash, manifest.entries.len()), (&set.bundle, 1));
    assert_eq!(manifest.entries[0].written, set.written);
    assert!(manifest.position.seq > ledger.hello.position.seq);
    let pods = node.pick(|down| if let Down::Assigned(assigned) = down { Some(assigned.pods) } else { None }).await;
    assert_eq!((pods.len(), &pods[0].hash), (1, &ledger.holdings.pods[0].bundle));
}

#[tokio::test]
async fn what_a_node_further_on_does_not_hold_is_left_out_and_labels_buy_nothing_unless_vouched_for() {
    let (harness, host) = fleet().await;
    let late = harness.join("edge-2").await;
    let behind = Ledger::of(&harness, &host, &[]).await;
    harness.apply("added").await;
    harness.delete(&DAEMON_SET, "default", "web").await;
    let mut desired_rx = harness.sessions.shared.desired_rx.clone();
    desired_rx.wait_for(|desired| desired.last_deletion > 0).await.unwrap();
    let further = Ledger::of(&harness, &late, &[]).await;
    let harness = harness.without_store().await;
    harness.recovery(Choice::default()).await;
    let (mut a, mut b) = (behind.tells(&harness, &host).await, further.tells(&harness, &late).await);
    behind.gives(&mut a, || harness.told_all() >= 1).await;
    further.gives(&mut b, || harness.told_all() == 2).await;

    let shown = harness.recovery(Choice::default()).await;
    let Outcome::LeftOut(why) = outcome(&shown, "DaemonSet", "web") else { panic!("{shown:#?}") };
    assert!(
        why.contains("edge-2, which is further, does not hold it") && why.contains("--include default/web"),
        "{why}"
    );
    assert_eq!(*outcome(&shown, "DaemonSet", "added"), Outcome::Rebuilt);
    let include = [ObjectKey::new("default", "web")].into();
    let shown = harness.recovery(Choice { include, ..Choice::default() }).await;
    assert_eq!(*outcome(&shown, "DaemonSet", "web"), Outcome::Rebuilt);
    let without = [NodeName::from("edge-1")].into();
    let shown = harness.recovery(Choice { without, ..Choice::default() }).await;
    assert!(shown.objects.iter().all(|found| found.key.name != "web"), "{shown:#?}");

    harness.sessions.recover(shown.number).await.unwrap();
    let node = harness.object(&NODE, "edge-2").await;
    assert_eq!(node["metadata"]["annotations"]["node.garrison.io/claimed-labels"], "site=north");
    assert!(harness.objects.get(&NODE, "", "edge-1").await.is_err());
    // A host that comes later is not asked before somebody opens it again, and then brings nothing back by itself.
    a.lost().await;
    harness.recovery(Choice::default()).await;
    let mut a = behind.tells(&harness, &host).await;
    behind.gives(&mut a, || harness.told_all() == 1).await;
    let shown = harness.recovery(Choice::default()).await;
    let Outcome::LeftOut(why) = outcome(&shown, "DaemonSet", "web") else { panic!("{shown:#?}") };
    assert!(why.contains("the fleet goes on without it"), "{why}");
    assert_eq!(from_slice::<Value>(&behind.blobs[&behind.holdings.revisions[0].bundle]).unwrap()["name"], "web");
}
