use std::collections::BTreeMap;

use futures_util::future::join_all;

use super::*;
use crate::control::kinds::{CONFIG_MAP, DAEMON_SET, EVENT, NODE, POD, SERVICE_ACCOUNT};
use crate::control::meta;
use crate::control::registry::Part;
use crate::control::removal::DeleteOptions;
use crate::model::Uid;
use crate::store::{Memory, Persistence, Write};

fn config_map(name: &str, bytes: usize) -> Value {
    json!({"metadata": {"name": name}, "data": {"a": "x".repeat(bytes)}})
}

async fn create(objects: &Objects, kind: &'static Kind, object: Value) -> Result<Value, ObjectError> {
    objects.create(kind, "default", object, WriteOptions::default()).await
}

#[tokio::test]
async fn writers_that_race_all_get_their_turn() {
    let objects = Objects::open(Memory::new()).await.unwrap();
    let mut position = objects.position();
    let begun = position.borrow().seq;
    let count = 50;
    let created = join_all((0..count).map(|i| create(&objects, &CONFIG_MAP, config_map(&format!("map-{i}"), 1)))).await;
    assert!(created.iter().all(Result::is_ok));
    position.wait_for(|position| position.seq == begun + count).await.unwrap();
    let change = async |i: u64| {
        let change = |current: &Value| {
            let mut object = current.clone();
            object["data"][i.to_string()] = "".into();
            Ok::<_, ObjectError>(object)
        };
        objects.update(&CONFIG_MAP, "default", "map-0", Part::Main, WriteOptions::default(), change).await
    };
    assert!(join_all((0..count).map(change)).await.iter().all(Result::is_ok));
    let map = objects.get(&CONFIG_MAP, "default", "map-0").await.unwrap();
    assert_eq!(map["data"].as_object().unwrap().len() as u64, count + 1);
}

#[tokio::test]
async fn a_store_opened_again_is_as_it_was() {
    let store = Memory::new();
    let first = Objects::open(store.clone()).await.unwrap();
    create(&first, &CONFIG_MAP, config_map("a", 1)).await.unwrap();
    let revision = store.revision();
    drop(first);
    let again = Objects::open(store.clone()).await.unwrap();
    assert_eq!((store.revision(), again.position().borrow().seq), (revision, 1));
    let accounts = again.list(&SERVICE_ACCOUNT, ListOptions::default()).await.unwrap();
    assert_eq!(accounts.items.len(), registry::BUILT_IN_NAMESPACES.len());
}

#[tokio::test]
async fn a_name_is_generated_for_an_object_that_gives_its_beginning() {
    let objects = Objects::open(Memory::new()).await.unwrap();
    let object = json!({"metadata": {"generateName": "map-"}});
    let names = join_all((0..20).map(|_| create(&objects, &CONFIG_MAP, object.clone()))).await;
    for name in names.iter().map(|created| meta::name(created.as_ref().unwrap())) {
        assert!(name.starts_with("map-") && name.len() == 9, "{name}");
    }
    assert!(matches!(create(&objects, &CONFIG_MAP, json!({})).await, Err(ObjectError::Invalid { .. })));
}

/// The store's format: what is written for one of each kind of change, and how much it must survive.
#[tokio::test]
async fn writes_are_as_persistent_as_what_they_are_about() {
    let objects = Objects::open(Memory::new()).await.unwrap();
    let set = json!({"metadata": {"name": "set"}});
    let of = |write| match write {
        Write::Put { persistence, .. } => persistence,
        Write::Delete { .. } => panic!("a put"),
    };
    let persistence = |kind, part| of(records::put(kind, part, "key", &set));
    assert_eq!(persistence(&DAEMON_SET, Part::Main), Persistence::Durable);
    let ending = |kind| of(records::ending(records::put(kind, Part::Main, "key", &set)));
    assert_eq!([ending(&DAEMON_SET), ending(&EVENT)], [Persistence::Ending, Persistence::Volatile]);
    assert_eq!(persistence(&DAEMON_SET, Part::Status), Persistence::Checkpointed);
    assert_eq!(persistence(&EVENT, Part::Main), Persistence::Volatile);

    create(&objects, &NODE, json!({"metadata": {"name": "one"}})).await.unwrap();
    let keys = objects.inner.store.range(keys::ROOT, None, 0, None).await.unwrap();
    let keys: Vec<&str> = keys.entries.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "/v1/_meta/fleet",
            "/v1/_meta/position",
            "/v1/core/namespaces/default",
            "/v1/core/namespaces/kube-node-lease",
            "/v1/core/namespaces/kube-public",
            "/v1/core/namespaces/kube-system",
            "/v1/core/nodes/one",
            "/v1/core/serviceaccounts/default/default",
            "/v1/core/serviceaccounts/kube-node-lease/default",
            "/v1/core/serviceaccounts/kube-public/default",
            "/v1/core/serviceaccounts/kube-system/default",
            "/v1/scheduling.k8s.io/priorityclasses/system-cluster-critical",
            "/v1/scheduling.k8s.io/priorityclasses/system-node-critical",
        ]
    );
}

#[tokio::test]
async fn tombstones_stay_until_they_are_acknowledged() {
    let objects = Objects::open(Memory::new()).await.unwrap();
    let node = create(&objects, &NODE, json!({"metadata": {"name": "one"}})).await.unwrap();
    let pod = json!({"metadata": {"name": "pod", "uid": "pod-uid"}, "spec": {"nodeName": "one"}});
    objects.report(&POD, "default", "pod", |_| Some(pod.clone())).await.unwrap();
    let options = DeleteOptions::default();
    objects.delete(&POD, "default", "pod", &options).await.unwrap();
    objects.delete(&NODE, "", "one", &options).await.unwrap();
    let uids = async || {
        let (tombstones, _) = objects.tombstones().await.unwrap();
        tombstones.into_iter().map(|tombstone| (tombstone.uid, tombstone.seq)).collect::<Vec<_>>()
    };
    let seq = objects.position().borrow().seq;
    let mut expected = vec![(Uid::from(meta::uid(&node)), 3), (Uid::from("pod-uid"), 2)];
    expected.sort();
    assert_eq!((uids().await, seq <= 3), (expected, true));
    objects.acknowledge(&meta::uid(&node).into()).await.unwrap();
    objects.remove(&POD, "default", "pod", &"pod-uid".into()).await.unwrap();
    objects.remove(&POD, "default", "pod", &"pod-uid".into()).await.unwrap();
    assert_eq!(uids().await, []);
}

#[tokio::test]
async fn nothing_that_is_reported_takes_the_place_of_another_object() {
    let objects = Objects::open(Memory::new()).await.unwrap();
    let there = create(&objects, &CONFIG_MAP, config_map("a", 1)).await.unwrap();
    for other in [config_map("a", 2), json!({"metadata": {"name": "a", "uid": "another"}})] {
        let refused = objects.report(&CONFIG_MAP, "default", "a", |_| Some(other.clone())).await;
        assert!(matches!(refused, Err(ObjectError::Conflict { .. })), "{refused:?}");
    }
    assert_eq!(objects.get(&CONFIG_MAP, "default", "a").await.unwrap(), there);
}

#[tokio::test]
async fn a_session_writes_nothing_once_another_one_was_noted() {
    let objects = Objects::open(Memory::new()).await.unwrap();
    let uid = Uid::from("node");
    let record = MemberRecord {
        uid: uid.clone(),
        name: "one".into(),
        key: "key".into(),
        machine_id: "machine".into(),
        session: 0,
        session_nonce: String::new(),
    };
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "one", "uid": "node"}});
    objects.recover_node(&record, &node).await.unwrap();
    let begin = async |session| {
        let before = objects.member(&uid).await.unwrap().unwrap();
        let noted = MemberRecord { session, ..before.record.clone() };
        objects.within(&objects.note_session(&before, noted).await.unwrap().unwrap())
    };
    let said = async |objects: &Objects, what: &str| {
        let change = |node: Option<&Value>| {
            let mut node = node?.clone();
            node["status"]["by"] = what.into();
            Some(node)
        };
        objects.report(&NODE, "", "one", change).await.map(drop)
    };
    let first = begin(1).await;
    said(&first, "first").await.unwrap();
    let second = begin(2).await;
    assert!(matches!(said(&first, "old news").await, Err(ObjectError::Superseded)));
    assert!(matches!(first.remove(&NODE, "", "one", &uid).await, Err(ObjectError::Superseded)));
    assert_eq!(objects.get(&NODE, "", "one").await.unwrap()["status"]["by"], "first");
    said(&second, "second").await.unwrap();
    assert_eq!(objects.get(&NODE, "", "one").await.unwrap()["status"]["by"], "second");
}

#[tokio::test]
async fn watchers_share_what_was_encoded_and_are_told_if_they_missed_changes() {
    let store = Memory::new();
    let objects = Objects::open(store.clone()).await.unwrap();
    let begun = objects.revision();
    let watch = || objects.watch(&CONFIG_MAP, Some("default"), begun);
    let (mut first, mut second) = (watch(), watch());
    create(&objects, &CONFIG_MAP, config_map("a", 1)).await.unwrap();
    let (first_events, second_events) = (first.next().await.unwrap(), second.next().await.unwrap());
    assert!(Arc::ptr_eq(&first_events[0], &second_events[0]));
    assert_eq!(first.seen(), objects.revision());
    store.compact(objects.revision()).await.unwrap();
    let expired = watch().next().await.unwrap_err();
    assert_eq!((expired.asked, expired.oldest), (begun, objects.revision()));
}

/// A record that changes its shape is added to these, and the earlier ones stay.
#[tokio::test]
async fn every_record_of_an_earlier_version_is_understood_whole() {
    let text = include_str!("../../../tests/data/store/format-1.json");
    let stored: BTreeMap<String, Value> = serde_json::from_str(text).unwrap();
    let store = Memory::new();
    let writes = stored.iter().map(|(key, value)| records::record(key.clone(), value)).collect();
    store.commit(vec![], writes).await.unwrap();
    let objects = Objects::open(store).await.unwrap();

    let below = |prefix: &str| {
        let found = stored.iter().filter(|(key, _)| key.starts_with(prefix));
        Value::from_iter(found.map(|(_, value)| value.clone()))
    };
    assert_eq!(json!(objects.admitted().await.unwrap()), below(keys::ADMITTED));
    assert_eq!(json!(objects.permits().await.unwrap()), below(keys::PERMITS));
    assert_eq!(json!(objects.tombstones().await.unwrap().0), below(keys::TOMBSTONES));
    let intents = objects.pod_intents().await.unwrap().into_iter().map(|(intent, _)| intent).collect::<Vec<_>>();
    assert_eq!(json!(intents), below(keys::PODS));
    let tokens = objects.tokens().await.unwrap().into_iter().map(|(_, token)| token).collect::<Vec<_>>();
    assert_eq!(json!(tokens), below(keys::TOKENS));
    let tokens = objects.user_tokens().await.unwrap().into_iter().map(|(_, token)| token).collect::<Vec<_>>();
    assert_eq!(json!(tokens), below(keys::USER_TOKENS));
    let node = Uid::from(meta::uid(&objects.get(&NODE, "", "edge-1").await.unwrap()));
    let member = objects.member(&node).await.unwrap().unwrap().record;
    assert_eq!(json!(member), stored[&keys::member(node.as_str())]);
    // Another store has another history: the eras of before stay, and one begins.
    let fleet = objects.fleet();
    assert_eq!(
        (json!(fleet.id), json!(fleet.eras[..2])),
        (stored[keys::FLEET]["id"].clone(), stored[keys::FLEET]["eras"].clone())
    );
    assert_eq!(json!(objects.position().borrow().seq), stored[keys::POSITION]["seq"]);
    let next = objects.grant(&"set".into(), &[node], &"revision".into()).await.unwrap()[0].number.0;
    assert_eq!(json!(next - 1), stored[keys::LAST_PERMIT]);
}
