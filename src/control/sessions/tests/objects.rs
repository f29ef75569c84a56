//! ConfigMaps and Secrets on their way to nodes.

use super::*;
use crate::control::kinds::{CONFIG_MAP, SECRET};
use crate::link::{Assigned, Entry, Kind as LinkKind, ObjectAnswer, ObjectRef};
use crate::model::ObjectKey;

fn secret(name: &str) -> ObjectRef {
    ObjectRef { kind: LinkKind::Secret, key: ObjectKey::new("default", name) }
}

fn config_map(name: &str) -> ObjectRef {
    ObjectRef { kind: LinkKind::ConfigMap, key: ObjectKey::new("default", name) }
}

impl Harness {
    /// A DaemonSet for nodes with these labels, with a volume of a ConfigMap and one of a Secret.
    async fn apply_with(&self, name: &str, node_selector: Value, [config_map, secret]: [&str; 2]) {
        let object = json!({
            "metadata": {"name": name},
            "spec": {
                "selector": {"matchLabels": {"app": name}},
                "template": {
                    "metadata": {"labels": {"app": name}},
                    "spec": {
                        "nodeSelector": node_selector,
                        "containers": [{"name": "main", "image": "registry.example/web:1"}],
                        "volumes": [
                            {"name": "settings", "configMap": {"name": config_map}},
                            {"name": "keys", "secret": {"secretName": secret}},
                        ],
                    },
                },
            },
        });
        let set = self.objects.create(&DAEMON_SET, "default", object, WriteOptions::default()).await.unwrap();
        let uid = Uid::from(meta(&set, "uid"));
        self.sessions.shared.desired_rx.clone().wait_for(|desired| desired.newest(&uid).is_some()).await.unwrap();
    }

    async fn put(&self, kind: &'static Kind, name: &str, data: &Value) {
        let object = json!({"metadata": {"name": name}, "data": data});
        match self.objects.create(kind, "default", object.clone(), WriteOptions::default()).await {
            Err(ObjectError::AlreadyExists { .. }) => {
                let change = |current: &Value| {
                    let mut object = current.clone();
                    object["data"] = data.clone();
                    Ok::<_, ObjectError>(object)
                };
                let options = WriteOptions::default();
                self.objects.update(kind, "default", name, Part::Main, options, change).await.unwrap();
            }
            created => drop(created.unwrap()),
        }
    }

    async fn label(&self, node: &str, key: &str, value: &str) {
        let change = |current: &Value| {
            let mut object = current.clone();
            object["metadata"]["labels"][key] = value.into();
            Ok::<_, ObjectError>(object)
        };
        self.objects.update(&NODE, "", node, Part::Main, WriteOptions::default(), change).await.unwrap();
    }
}

impl Node {
    async fn needs(&self, objects: &[ObjectRef]) {
        self.say(Up::Needs(Needs { blobs: vec![], objects: objects.to_vec() })).await;
    }

    async fn assigned(&mut self) -> Assigned {
        self.pick(|down| if let Down::Assigned(assigned) = down { Some(assigned) } else { None }).await
    }

    /// The content of an object the node was just told of.
    async fn content(&mut self, entry: &Entry, objects: &[ObjectRef]) -> Value {
        let blobs = vec![NeededBlob { hash: entry.hash.clone(), offset: 0 }];
        self.say(Up::Needs(Needs { blobs, objects: objects.to_vec() })).await;
        let chunk = self.pick(|down| if let Down::Blob(chunk) = down { Some(chunk) } else { None }).await;
        assert_eq!((&chunk.hash, chunk.total), (&entry.hash, chunk.data.len() as u64));
        serde_json::from_slice(&chunk.data).unwrap()
    }
}

fn present(answer: &(ObjectRef, ObjectAnswer)) -> &Entry {
    let (_, ObjectAnswer::Present(entry)) = answer else { panic!("{answer:?}") };
    entry
}

#[tokio::test]
async fn an_object_that_a_pod_names_comes_and_follows_its_changes() {
    let harness = Harness::new().await;
    let host = harness.join("edge-1").await;
    harness.apply_with("web", json!({}), ["settings", "keys"]).await;
    let (mut node, _) = harness.in_step(&host, hello()).await;
    let needed = [config_map("settings"), secret("keys")];
    node.needs(&needed).await;
    let absent = needed.clone().map(|object| (object, ObjectAnswer::Absent));
    assert_eq!(node.assigned().await.objects, absent);

    harness.put(&SECRET, "keys", &json!({"key": "c2VjcmV0"})).await;
    let assigned = node.assigned().await;
    assert_eq!(assigned.objects[0], absent[0]);
    let first = present(&assigned.objects[1]).clone();
    let object = node.content(&first, &needed).await;
    assert_eq!((&object["kind"], &object["data"]), (&json!("Secret"), &json!({"key": "c2VjcmV0"})));

    // Neither another object nor a label is told; what follows is the next change that concerns the node.
    harness.put(&SECRET, "others", &json!({"key": "b3RoZXI="})).await;
    let annotate = |current: &Value| {
        let mut object = current.clone();
        object["metadata"]["annotations"] = json!({"a": "b"});
        Ok::<_, ObjectError>(object)
    };
    harness.objects.update(&SECRET, "default", "keys", Part::Main, WriteOptions::default(), annotate).await.unwrap();
    harness.put(&CONFIG_MAP, "settings", &json!({"a": "1"})).await;
    let assigned = node.assigned().await;
    let settings = present(&assigned.objects[0]).clone();
    assert_eq!(*present(&assigned.objects[1]), first);

    harness.put(&CONFIG_MAP, "settings", &json!({"a": "2"})).await;
    let changed = present(&node.assigned().await.objects[0]).clone();
    assert!(changed.uid == settings.uid && changed.hash != settings.hash && changed.seq > settings.seq);
    harness.delete(&CONFIG_MAP, "default", "settings").await;
    assert_eq!(node.assigned().await.objects[0], absent[0]);
}

#[tokio::test]
async fn a_node_gets_no_object_that_only_its_own_words_would_buy() {
    let harness = Harness::new().await;
    // It joins with the label site=north, which its token does not bound.
    let host = harness.join("edge-1").await;
    harness.apply_with("north", json!({"site": "north"}), ["settings", "keys"]).await;
    harness.apply_with("other", json!({"rack": "9"}), ["others", "others"]).await;
    harness.put(&SECRET, "keys", &json!({})).await;
    harness.put(&SECRET, "others", &json!({})).await;
    harness.put(&SECRET, "unrelated", &json!({})).await;
    let (mut node, _) = harness.in_step(&host, hello()).await;
    node.needs(&["keys", "others", "unrelated"].map(secret)).await;
    let refused = |answer: &(ObjectRef, ObjectAnswer)| match &answer.1 {
        ObjectAnswer::Refused(why) => why.message.clone(),
        other => panic!("{other:?}"),
    };
    let assigned = node.assigned().await;
    let whys: Vec<_> = assigned.objects.iter().map(refused).collect();
    assert!(whys[0].contains("daemonset default/north") && whys[0].contains("kubectl label node"), "{whys:?}");
    assert!(whys[1].contains("the node has no label rack"), "{whys:?}");
    assert_eq!(whys[2], "no relationship found between node 'edge-1' and this object");

    // A pod that it reports of such a DaemonSet is its own word, too.
    let desired = harness.sessions.shared.desired();
    let set = desired.naming(&secret("others"), &[]).next().unwrap().clone();
    let report = pod_report(&set.uid, &set);
    node.say(Up::Pods(vec![report.clone()])).await;
    harness.until(&POD, &report.key.name, |pod| pod.is_some()).await;
    harness.label("edge-1", "unrelated", "1").await;
    node.needs(&["others"].map(secret)).await;
    assert!(refused(&node.assigned().await.objects[0]).contains("the node has no label rack"));

    // A user's label buys it, at once.
    harness.label("edge-1", "rack", "9").await;
    present(&node.assigned().await.objects[0]);
}

#[tokio::test]
async fn a_pod_of_an_older_revision_has_what_it_names() {
    let harness = Harness::new().await;
    let host = harness.join("edge-1").await;
    harness.apply_with("web", json!({}), ["settings", "old"]).await;
    harness.put(&SECRET, "old", &json!({})).await;
    let (mut node, manifest) = harness.in_step(&host, hello()).await;
    let bundle = fetched(&mut node, &manifest).await;
    let report = pod_report(&bundle.uid, &bundle);
    node.say(Up::Pods(vec![report.clone()])).await;
    harness.until(&POD, &report.key.name, |pod| pod.is_some()).await;
    let change = |current: &Value| {
        let mut object = current.clone();
        object["spec"]["template"]["spec"]["volumes"][1]["secret"]["secretName"] = "new".into();
        Ok::<_, ObjectError>(object)
    };
    harness.objects.update(&DAEMON_SET, "default", "web", Part::Main, WriteOptions::default(), change).await.unwrap();
    node.manifest().await;
    node.needs(&["old", "new"].map(secret)).await;
    let assigned = node.assigned().await;
    present(&assigned.objects[0]);
    assert_eq!(assigned.objects[1].1, ObjectAnswer::Absent);
}
