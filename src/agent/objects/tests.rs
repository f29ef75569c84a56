use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::api::bundle::Bundle;
use crate::host::ledger::{DaemonSetRecord, RevisionRecord};
use crate::link::Reason;
use crate::model::PodKey;
use crate::podspec::objects::Found;
use crate::testing::pods;

/// What takes over, and what it writes.
#[derive(Default)]
struct Node {
    book: Book,
    desired: Desired,
    contents: Contents,
    new_blobs: Vec<Bytes>,
}

/// The content of a ConfigMap as control sends it.
fn content(level: &str) -> Bytes {
    json!({ "metadata": { "name": "app" }, "data": { "level": level } }).to_string().into()
}

fn app() -> ObjectRef {
    ObjectRef { kind: Kind::ConfigMap, key: ObjectKey::new("default", "app") }
}

fn present(content: &Bytes) -> ObjectAnswer {
    ObjectAnswer::Present(Entry {
        uid: "app-uid".into(),
        kind: Kind::ConfigMap,
        seq: 1,
        hash: blob_hash(content),
        written: None,
    })
}

fn refused(message: &str) -> ObjectAnswer {
    ObjectAnswer::Refused(Reason { reason: "NotEntitled".into(), message: message.into(), field: String::new() })
}

fn chunk(content: &Bytes, from: usize) -> BlobChunk {
    let data = content.slice(from..);
    BlobChunk { hash: blob_hash(content), offset: from as u64, total: content.len() as u64, data }
}

impl Node {
    /// Holds a DaemonSet whose pods have this spec.
    fn holds(&mut self, name: &str, source: Source, spec: &Value) {
        let bundle: Bundle = serde_json::from_value(json!({
            "format": 1, "uid": name, "namespace": "default", "name": name, "generation": 1, "revision": "one",
            "templateGeneration": 1, "template": { "spec": spec }, "minReadySeconds": 0,
            "updateStrategy": "rollingUpdate", "priority": 0,
        }))
        .unwrap();
        let content = bundle.encode();
        let newest = RevisionRecord { hash: "one".into(), bundle: blob_hash(&content) };
        self.desired.loaded(newest.bundle.clone(), &content).unwrap();
        let record = DaemonSetRecord {
            key: bundle.key(),
            source,
            seq: 1,
            newest,
            permitted: None,
            taken: None,
            before: None,
            rejected: [].into(),
            written: [].into(),
            deleted: false,
        };
        self.contents.daemonsets.insert(name.into(), record);
    }

    /// Has a pod of that DaemonSet, its uid being the same.
    fn runs(&mut self, set: &str) {
        let record = PodRecord {
            key: PodKey { namespace: "default".into(), name: set.into(), uid: format!("uid-{set}").into() },
            daemonset: Some(set.into()),
            revision: self.contents.daemonsets[&Uid::from(set)].newest.clone(),
            created_at: Timestamp::UNIX_EPOCH,
            ending: None,
            finished: None,
            amended: None,
            ephemeral_containers: vec![],
        };
        self.contents.pods.insert(record.key.uid.clone(), record);
    }

    fn answers(&mut self, answer: ObjectAnswer) {
        self.book.answers(&mut self.contents, &self.desired, vec![(app(), answer)]);
        self.take();
    }

    fn take(&mut self) {
        self.book.take(&mut self.contents, &self.desired, &mut self.new_blobs);
    }

    /// Is given an object with its content.
    fn gets(&mut self, content: &Bytes) {
        self.answers(present(content));
        self.book.chunk(chunk(content, 0));
        self.take();
    }

    /// What the pod of a DaemonSet sees of ConfigMap `app`.
    fn sees(&self, set: &str) -> String {
        let mut pod = pods::pod(set, std::path::Path::new("/"));
        pod.origin.daemonset = Some(set.into());
        match self.book.published(&self.contents).find(&pod, &Reference::config_map("app")) {
            Found::Present(object) => String::from_utf8(object.data["level"].clone()).unwrap(),
            Found::Absent => "absent".to_owned(),
            Found::Refused(why) => format!("refused: {why}"),
            Found::Unheard => "unheard".to_owned(),
        }
    }

    fn tidy(&mut self, sets: &[&str]) -> bool {
        let needed = needed(&self.contents, &self.desired, &sets.iter().map(|set| (*set).into()).collect());
        self.book.tidy(&mut self.contents, &self.desired, &needed)
    }
}

/// A pod that uses ConfigMap `app`.
fn user() -> Value {
    json!({ "containers": [{ "name": "main", "envFrom": [{ "configMapRef": { "name": "app" } }] }] })
}

/// A node with two DaemonSets of control that use it; the first has a pod.
fn node() -> Node {
    let mut node = Node::default();
    node.holds("web", Source::Link, &user());
    node.holds("log", Source::Link, &user());
    node.runs("web");
    node
}

#[test]
fn what_a_container_names_that_was_added_is_asked_for_and_kept_with_its_pod() {
    let mut node = Node::default();
    node.holds("web", Source::Link, &json!({ "containers": [] }));
    node.runs("web");
    let asks = |node: &Node| {
        let needed = needed(&node.contents, &node.desired, &["web".into()].into());
        needed.iter().map(reference).collect::<Vec<_>>()
    };
    assert_eq!(asks(&node), []);
    let debug = json!({ "name": "look", "envFrom": [{ "configMapRef": { "name": "app" } }] });
    let record = node.contents.pods.values_mut().next().unwrap();
    record.ephemeral_containers = vec![serde_json::from_value(debug).unwrap()];
    assert_eq!(asks(&node), [app()]);
    node.gets(&content("debug"));
    node.answers(ObjectAnswer::Absent);
    node.tidy(&["web"]);
    assert_eq!(node.sees("web"), "debug", "it is gone, and the pod has it");
}

#[test]
fn an_object_is_there_once_its_content_is() {
    let (mut node, debug) = (node(), content("debug"));
    assert_eq!(node.sees("web"), "unheard");
    node.answers(present(&debug));
    assert_eq!((node.sees("web"), node.book.needs().len()), ("unheard".to_owned(), 1));
    node.book.chunk(BlobChunk { data: debug.slice(..7), ..chunk(&debug, 0) });
    assert_eq!(node.book.needs(), [NeededBlob { hash: blob_hash(&debug), offset: 7 }]);
    // Another session goes on where this one ended.
    node.book.session_ended();
    assert_eq!(node.book.needs(), []);
    node.answers(present(&debug));
    node.book.chunk(chunk(&debug, 7));
    node.take();
    assert_eq!((node.sees("web"), node.new_blobs.as_slice()), ("debug".to_owned(), &[debug.clone()][..]));
    assert_eq!(node.contents.objects[0].uid, "app-uid".into());

    node.answers(present(&debug));
    assert_eq!((node.book.needs(), node.new_blobs.len()), (vec![], 1), "what is here is not asked for again");
    node.gets(&content("info"));
    assert_eq!((node.sees("web"), node.contents.objects.len()), ("info".to_owned(), 1));
}

#[test]
fn what_is_withdrawn_stays_with_the_pods_that_had_it() {
    let mut node = node();
    node.gets(&content("debug"));
    node.answers(ObjectAnswer::Absent);
    assert_eq!((node.sees("web"), node.sees("log")), ("debug".to_owned(), "absent".to_owned()));
    // A pod that comes later did not have it, and another word changes nothing for the one that did.
    node.runs("log");
    node.answers(refused("the label is not vouched for"));
    assert_eq!(node.sees("web"), "debug");
    assert_eq!(node.sees("log"), "refused: the label is not vouched for");
    assert!(!node.tidy(&["web", "log"]));

    node.contents.pods.remove(&Uid::from("uid-web"));
    assert!(node.tidy(&["web", "log"]));
    assert_eq!(
        (node.sees("web"), node.contents.objects.len()),
        ("refused: the label is not vouched for".to_owned(), 0)
    );
    node.gets(&content("again"));
    assert_eq!((node.sees("log"), node.contents.withheld.len()), ("again".to_owned(), 0));
}

#[test]
fn what_nobody_had_is_not_kept() {
    let mut node = Node::default();
    node.holds("log", Source::Link, &user());
    node.gets(&content("debug"));
    node.answers(ObjectAnswer::Absent);
    assert_eq!((node.sees("log"), node.contents.objects.len()), ("absent".to_owned(), 0));
}

#[test]
fn content_that_cannot_be_read_is_a_reason_and_quotes_nothing() {
    let mut node = node();
    node.gets(&Bytes::from_static(b"{\"data\": \"hunter2\"}"));
    assert_eq!(node.sees("log"), "refused: its content is no ConfigMap this agent can read (line 1)");
    assert_eq!(node.new_blobs, Vec::<Bytes>::new());
}

#[test]
fn what_is_needed_is_what_pods_use_and_would_use() {
    let mut node = node();
    node.holds("own", Source::Files, &user());
    node.runs("own");
    let volume = json!({ "name": "v", "secret": { "secretName": "key" } });
    node.holds("key", Source::Link, &json!({ "containers": [{ "name": "main" }], "volumes": [volume] }));
    let names = |node: &Node, sets: &[&str]| -> Vec<String> {
        let sets = sets.iter().map(|set| (*set).into()).collect();
        let needed = needed(&node.contents, &node.desired, &sets);
        needed.iter().map(|id| format!("{} {}", id.kind, id.key)).collect()
    };
    assert_eq!(names(&node, &[]), ["ConfigMap default/app"], "a pod of control's, not one of a file's");
    assert_eq!(names(&node, &["key", "gone"]), ["ConfigMap default/app", "Secret default/key"]);
    node.contents.pods.clear();
    assert_eq!(names(&node, &["own"]), Vec::<String>::new());

    // What is not needed any more goes, unless it cannot be known who uses it.
    node.gets(&content("debug"));
    node.runs("web");
    let lost = std::mem::take(&mut node.desired);
    assert!(!node.tidy(&[]) && node.contents.objects.len() == 1);
    node.desired = lost;
    node.contents.pods.clear();
    assert!(node.tidy(&[]) && node.contents.objects.is_empty());
}

#[test]
fn a_folders_objects_serve_its_own_daemonsets_and_stay_with_pods_that_had_them() {
    let mut node = node();
    node.holds("own", Source::Files, &user());
    node.runs("own");
    let written = |level: &str| WrittenObject {
        kind: ObjectKind::ConfigMap,
        key: ObjectKey::new("default", "app"),
        json: content(level),
    };
    let folder = |node: &mut Node, objects: &[WrittenObject], whole| {
        node.book.folder(&mut node.contents, &node.desired, (objects, whole), &mut node.new_blobs);
    };
    assert_eq!(node.sees("own"), "absent", "what is not in the folder is not there");
    folder(&mut node, &[written("one")], true);
    assert_eq!((node.sees("own"), node.sees("web")), ("one".to_owned(), "unheard".to_owned()));
    folder(&mut node, &[written("two")], true);
    folder(&mut node, &[], false);
    assert_eq!(
        (node.sees("own"), node.new_blobs.len()),
        ("two".to_owned(), 2),
        "a folder that cannot be read takes nothing away"
    );
    assert!(!node.tidy(&[]));

    folder(&mut node, &[], true);
    assert_eq!(node.sees("own"), "two");
    node.contents.pods.remove(&Uid::from("uid-own"));
    assert!(node.tidy(&[]));
    assert_eq!(node.sees("own"), "absent");
}
