use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::link::{BLOB_BYTES_MAX, Kind};
use crate::model::ObjectKey;

/// A DaemonSet; equal arguments give equal bytes.
fn bundle(name: &str, image: &str, spec: &Value) -> Bundle {
    let mut whole = json!({ "containers": [{ "name": "main", "image": image, "imagePullPolicy": "Always" }] });
    for (field, value) in spec.as_object().unwrap() {
        whole[field] = value.clone();
    }
    serde_json::from_value(json!({
        "format": 1, "uid": name, "namespace": "default", "name": name, "generation": 1, "revision": image,
        "templateGeneration": 1, "template": { "spec": whole }, "minReadySeconds": 0,
        "updateStrategy": "rollingUpdate", "priority": 0,
    }))
    .unwrap()
}

fn content(name: &str, image: &str) -> Bytes {
    bundle(name, image, &json!({})).encode().into()
}

fn manifest(seq: u64, contents: &[(&str, &Bytes)]) -> Manifest {
    let entry = |(uid, content): &(&str, &Bytes)| Entry {
        uid: (*uid).into(),
        kind: Kind::DaemonSet,
        seq,
        hash: blob_hash(content),
        written: None,
    };
    Manifest { position: Position { era: 1, seq }, entries: contents.iter().map(entry).collect(), gradual: [].into() }
}

fn chunk(content: &Bytes, range: std::ops::Range<usize>) -> BlobChunk {
    let total = content.len() as u64;
    BlobChunk { hash: blob_hash(content), offset: range.start as u64, total, data: content.slice(range) }
}

/// What takes over, and what it writes.
#[derive(Default)]
struct Node {
    desired: Desired,
    contents: Contents,
    new_blobs: Vec<Bytes>,
}

impl Node {
    fn take(&mut self) -> Taken {
        self.desired.take(&mut self.contents, &mut self.new_blobs, true)
    }

    fn needs(&self) -> Vec<NeededBlob> {
        self.desired.needs(&self.contents)
    }

    /// Is given a manifest with all its blobs.
    fn takes(&mut self, seq: u64, contents: &[(&str, &Bytes)]) -> Taken {
        self.desired.manifest(manifest(seq, contents));
        for (_, content) in contents {
            self.desired.chunk(chunk(content, 0..content.len()));
        }
        self.take()
    }

    /// The image of each DaemonSet's newest revision.
    fn images(&self) -> BTreeMap<&str, &str> {
        self.contents.daemonsets.iter().map(|(uid, set)| (uid.as_str(), set.newest.hash.as_str())).collect()
    }

    fn folder(&mut self, folder: &Folder) -> Result<(), String> {
        let mut minted = self.contents.daemonsets.len();
        let mut mint = || {
            minted += 1;
            Uid(format!("file-{minted}"))
        };
        self.desired.folder(&mut self.contents, folder, &mut self.new_blobs, &mut mint)
    }
}

// === manifests and blobs ===

#[test]
fn a_manifest_is_taken_over_entry_by_entry_and_acknowledged_as_a_whole() {
    let (web, log) = (content("web", "one"), content("log", "one"));
    let mut node = Node::default();
    node.desired.manifest(manifest(5, &[("web", &web), ("log", &log)]));
    assert_eq!(node.take(), Taken::default());
    node.desired.chunk(chunk(&web, 0..web.len()));
    assert_eq!(node.take(), Taken { changed: true, whole: None });
    assert_eq!((node.images(), node.contents.position.seq), (BTreeMap::from([("web", "one")]), 0));
    node.desired.chunk(chunk(&log, 0..10));
    assert_eq!(node.take(), Taken::default(), "a piece of a blob is nothing to write");
    node.desired.chunk(chunk(&log, 10..log.len()));
    let position = Position { era: 1, seq: 5 };
    assert_eq!(node.take(), Taken { changed: true, whole: Some(position) });
    assert_eq!((node.new_blobs.len(), node.contents.position), (2, position));
    node.desired.manifest(manifest(5, &[("web", &web), ("log", &log)]));
    assert_eq!(node.take(), Taken { changed: false, whole: Some(position) }, "said again, it is acknowledged again");
}

#[test]
fn what_users_wrote_is_kept_for_control_by_revision() {
    let (one, two) = (content("web", "one"), content("web", "two"));
    let (wrote_one, wrote_two, relabelled) =
        (Bytes::from_static(b"one"), Bytes::from_static(b"two"), Bytes::from_static(b"two, relabelled"));
    let mut node = Node::default();
    let mut takes = |seq, content: &Bytes, wrote: &Bytes| {
        let mut manifest = manifest(seq, &[("web", content)]);
        manifest.entries[0].written = Some(blob_hash(wrote));
        node.desired.manifest(manifest);
        node.desired.chunk(chunk(content, 0..content.len()));
        assert_eq!(node.take().whole, None, "what users wrote is not here yet");
        assert_eq!(node.needs(), [NeededBlob { hash: blob_hash(wrote), offset: 0 }]);
        node.desired.chunk(chunk(wrote, 0..wrote.len()));
        assert_eq!(node.take().whole.map(|position| position.seq), Some(seq));
        assert_eq!((node.needs(), node.new_blobs.last()), (vec![], Some(wrote)));
        let set = node.contents.daemonsets.get_mut(&Uid::from("web")).unwrap();
        set.permitted.get_or_insert(set.newest.clone());
        set.written.clone()
    };
    takes(1, &one, &wrote_one);
    takes(2, &two, &wrote_two);
    let kept = takes(3, &two, &relabelled);
    assert_eq!(kept, [("one".into(), blob_hash(&wrote_one)), ("two".into(), blob_hash(&relabelled))].into());
    // A revision that no pod can be of any more goes with the next.
    let set = node.contents.daemonsets.get_mut(&Uid::from("web")).unwrap();
    set.permitted = None;
    let mut manifest = manifest(4, &[("web", &two)]);
    manifest.entries[0].written = Some(blob_hash(&wrote_two));
    node.desired.manifest(manifest);
    node.desired.chunk(chunk(&wrote_two, 0..wrote_two.len()));
    assert!(node.take().changed);
    assert_eq!(node.contents.daemonsets[&Uid::from("web")].written.len(), 1);
}

#[test]
fn a_blob_goes_on_in_the_next_session_where_it_broke_off() {
    let web = content("web", "one");
    let mut node = Node::default();
    node.desired.manifest(manifest(1, &[("web", &web)]));
    node.desired.chunk(chunk(&web, 0..100));
    node.desired.session_ended();
    assert_eq!(node.needs(), []);
    node.desired.chunk(chunk(&web, 100..web.len()));
    node.desired.manifest(manifest(1, &[("web", &web)]));
    assert_eq!(node.needs(), [NeededBlob { hash: blob_hash(&web), offset: 100 }]);
    // Control's pieces begin where it cut them.
    node.desired.chunk(chunk(&web, 64..web.len()));
    assert_eq!(node.take().whole.map(|position| position.seq), Some(1));
}

#[test]
fn only_what_the_manifest_names_is_kept() {
    let (web, log) = (content("web", "one"), content("log", "one"));
    let mut node = Node::default();
    node.desired.manifest(manifest(1, &[("web", &web), ("log", &log)]));
    node.desired.chunk(chunk(&web, 0..100));
    node.desired.chunk(chunk(&log, 0..log.len()));
    node.desired.manifest(manifest(2, &[]));
    node.desired.chunk(chunk(&web, 0..web.len()));
    assert!(node.desired.blobs.is_empty());

    let oversized = BlobChunk { total: BLOB_BYTES_MAX + 1, ..chunk(&web, 0..100) };
    let lost = BlobChunk { total: 0, ..chunk(&web, 0..0) };
    node.desired.manifest(manifest(3, &[("web", &web)]));
    node.desired.chunk(oversized);
    node.desired.chunk(lost);
    assert!(node.desired.blobs.is_empty());
}

#[test]
fn the_same_revision_in_another_bundle_replaces_no_pod() {
    let old = bundle("web", "one", &json!({}));
    let new = Bundle { min_ready_seconds: 9, ..old.clone() };
    let (old, new) = (Bytes::from(old.encode()), Bytes::from(new.encode()));
    let mut node = Node::default();
    node.takes(1, &[("web", &old)]);
    let set = node.contents.daemonsets.get_mut(&Uid::from("web")).unwrap();
    set.permitted = Some(set.newest.clone());
    node.takes(2, &[("web", &new)]);
    let set = &node.contents.daemonsets[&Uid::from("web")];
    assert_eq!((set.permitted.as_ref(), &set.newest.bundle), (Some(&set.newest), &blob_hash(&new)));
}

#[test]
fn a_refused_revision_leaves_what_is_held_and_is_not_asked_for_again() {
    let (good, other) = (content("web", "one"), content("web", "two"));
    let unknown: Bytes = bundle("web", "new", &json!({ "resourceClaims": [{ "name": "c" }] })).encode().into();
    let mut later: Value = serde_json::from_slice(&content("log", "new")).unwrap();
    later["teleport"] = json!(true);
    let later = Bytes::from(later.to_string());
    let mut node = Node::default();
    node.takes(1, &[("web", &good)]);
    let taken = node.takes(2, &[("web", &unknown), ("log", &later)]);
    assert_eq!(taken.whole.map(|position| position.seq), Some(2));
    assert_eq!(node.images(), BTreeMap::from([("web", "one")]));
    let refused: BTreeMap<_, _> = node.desired.refused().collect();
    let said: Vec<_> = refused.iter().map(|(uid, refused)| (uid.as_str(), refused.revision.as_str())).collect();
    assert_eq!(said, [("log", "new"), ("web", "new")]);
    assert_eq!(refused[&Uid::from("web")].reasons[0].field, "spec.resourceClaims");
    assert!(refused[&Uid::from("log")].reasons[0].message.contains("teleport"));

    node.desired.manifest(manifest(3, &[("web", &unknown), ("log", &later)]));
    assert_eq!(node.needs(), []);
    node.takes(4, &[("web", &other)]);
    assert_eq!((node.desired.refused().count(), node.images()), (0, BTreeMap::from([("web", "two")])));
}

#[test]
fn control_answers_for_what_the_node_holds() {
    let (web, log) = (content("web", "one"), content("log", "one"));
    let mut node = Node::default();
    node.takes(1, &[("web", &web), ("log", &log)]);
    node.takes(2, &[]);
    assert_eq!(node.images().len(), 2, "absence deletes nothing");
    let (uid, deleted) = (Uid::from("web"), Answer::Deleted { seq: 3, kept: vec![] });
    let mut is = |answer| {
        node.desired.answers(&mut node.contents, vec![(uid.clone(), answer)]);
        (node.desired.is_unknown(&uid), node.contents.daemonsets[&uid].deleted)
    };
    assert_eq!(is(Answer::Unknown), (true, false));
    assert_eq!(is(Answer::Present), (false, false));
    assert_eq!(is(deleted), (false, true));
    assert!(!node.contents.daemonsets[&Uid::from("log")].deleted);
}

#[test]
fn orphaned_pods_stay_without_their_daemonset() {
    let web = content("web", "one");
    let mut node = Node::default();
    node.takes(1, &[("web", &web)]);
    let record = crate::host::ledger::PodRecord {
        key: crate::model::PodKey { namespace: "default".into(), name: "web-1".into(), uid: "pod".into() },
        daemonset: Some("web".into()),
        revision: node.contents.daemonsets[&Uid::from("web")].newest.clone(),
        created_at: jiff::Timestamp::UNIX_EPOCH,
        ending: None,
        finished: None,
        amended: None,
        ephemeral_containers: vec![],
    };
    node.contents.pods.insert("pod".into(), record);
    node.desired
        .answers(&mut node.contents, vec![("web".into(), Answer::Deleted { seq: 2, kept: vec!["pod".into()] })]);
    let pod = &node.contents.pods[&Uid::from("pod")];
    assert_eq!((&pod.daemonset, &pod.ending), (&None, &None));
}

/// Something that may happen on the way.
#[derive(Debug, Clone)]
enum Event {
    /// Control says what there is: each DaemonSet in this version.
    Manifest([usize; 2]),
    /// A piece of a blob, perhaps damaged.
    Chunk {
        set: usize,
        version: usize,
        range: std::ops::Range<usize>,
        damaged: bool,
    },
    SessionEnded,
}

fn event() -> impl Strategy<Value = Event> {
    let versions = 0..3_usize;
    let chunk = (0..2_usize, versions.clone(), 0..400_usize, 1..400_usize, prop::bool::weighted(0.2));
    prop_oneof![
        1 => [versions.clone(), versions].prop_map(Event::Manifest),
        8 => chunk.prop_map(|(set, version, from, length, damaged)| {
            Event::Chunk { set, version, range: from..from + length, damaged }
        }),
        1 => Just(Event::SessionEnded),
    ]
}

proptest! {
    /// Whatever order, repetition or damage: no bundle is taken that is not the one named, and honest answers to two
    /// rounds of needs complete the manifest.
    #[test]
    fn any_way_of_arriving_leads_to_what_the_manifest_names(events in prop::collection::vec(event(), 0..60)) {
        let names = ["web", "log"];
        let blobs = names.map(|name| ["a", "b", "c"].map(|image| content(name, image)));
        let all: BTreeMap<_, _> = blobs.iter().flatten().map(|blob| (blob_hash(blob), blob.clone())).collect();
        let manifest_of = |seq: usize, versions: [usize; 2]| {
            manifest(seq as u64, &[("web", &blobs[0][versions[0]]), ("log", &blobs[1][versions[1]])])
        };
        let mut node = Node::default();
        for (seq, event) in events.into_iter().enumerate() {
            match event {
                Event::Manifest(versions) => node.desired.manifest(manifest_of(seq, versions)),
                Event::SessionEnded => node.desired.session_ended(),
                Event::Chunk { set, version, range, damaged } => {
                    let blob = &blobs[set][version];
                    let mut chunk = chunk(blob, range.start.min(blob.len())..range.end.min(blob.len()));
                    if damaged {
                        chunk.data = chunk.data.iter().map(|byte| byte ^ 1).collect();
                    }
                    node.desired.chunk(chunk);
                }
            }
            node.take();
            for blob in &node.new_blobs {
                prop_assert!(all.contains_key(&blob_hash(blob)));
            }
            for (uid, set) in &node.contents.daemonsets {
                let decoded = Bundle::decode(&all[&set.newest.bundle]).unwrap();
                prop_assert_eq!((&decoded.uid, &decoded.revision), (uid, &set.newest.hash));
                prop_assert!(node.desired.bundle(&set.newest.bundle).is_some());
            }
        }

        node.desired.manifest(manifest_of(1000, [2, 2]));
        let mut whole = node.take().whole;
        for _round in 0..2 {
            for needed in node.needs() {
                let blob = &all[&needed.hash];
                let offset = usize::try_from(needed.offset).unwrap();
                for begin in (offset..blob.len()).step_by(64) {
                    node.desired.chunk(chunk(blob, begin..blob.len().min(begin + 64)));
                }
            }
            whole = whole.or(node.take().whole);
        }
        prop_assert_eq!(whole, Some(Position { era: 1, seq: 1000 }));
        prop_assert_eq!(node.images(), BTreeMap::from([("web", "c"), ("log", "c")]));
    }
}

// === folders ===

const HERE: FolderId = FolderId { device: 1, inode: 1 };
const ELSEWHERE: FolderId = FolderId { device: 2, inode: 1 };

fn folder(id: FolderId, sets: &[(&str, &str)], troubles: &[&str]) -> Folder {
    let set = |(name, image): &(&str, &str)| Bundle { uid: Uid::from(""), ..bundle(name, image, &json!({})) };
    let troubles = troubles.iter().map(|text| (*text).to_owned()).collect();
    Folder { id, sets: sets.iter().map(set).collect(), objects: vec![], troubles }
}

/// The DaemonSets of files that are to run, by name, with their images.
fn in_force(node: &Node) -> BTreeMap<String, &str> {
    let live = node.contents.daemonsets.values().filter(|set| !set.deleted && set.source == Source::Files);
    live.map(|set| (set.key.name.clone(), set.newest.hash.as_str())).collect()
}

#[test]
fn a_folder_is_followed_file_by_file() {
    let mut node = Node::default();
    let both = [("web", "one"), ("log", "one")];
    node.folder(&folder(HERE, &both, &[])).unwrap();
    let uids: Vec<_> = node.contents.daemonsets.keys().cloned().collect();
    node.folder(&folder(HERE, &[("web", "two"), ("log", "one")], &[])).unwrap();
    assert_eq!(in_force(&node), BTreeMap::from([("web".to_owned(), "two"), ("log".to_owned(), "one")]));
    assert_eq!(node.contents.daemonsets.keys().cloned().collect::<Vec<_>>(), uids, "the same name keeps its uid");
    assert_eq!(node.new_blobs.len(), 3);

    node.folder(&folder(HERE, &[("log", "one")], &[])).unwrap();
    assert_eq!(in_force(&node).len(), 1);
    // While its pods end the name may come back: as another DaemonSet.
    node.folder(&folder(HERE, &both, &[])).unwrap();
    assert_eq!((in_force(&node).len(), node.contents.daemonsets.len()), (2, 3));
    node.folder(&folder(HERE, &[], &[])).unwrap();
    assert_eq!(in_force(&node).len(), 0, "the user emptied the very folder");
}

#[test]
fn another_folder_that_is_empty_is_a_mount_that_is_late() {
    let mut node = Node::default();
    node.folder(&folder(HERE, &[("web", "one")], &[])).unwrap();
    let error = node.folder(&folder(ELSEWHERE, &[], &[])).unwrap_err();
    assert!(error.contains("nothing is taken away"), "{error}");
    node.folder(&folder(ELSEWHERE, &[], &["web.yaml: not YAML"])).unwrap_err();
    assert_eq!((in_force(&node).len(), node.contents.folder), (1, Some(HERE)));
    // The mount has come, with manifests on it.
    node.folder(&folder(ELSEWHERE, &[("log", "one")], &[])).unwrap();
    assert_eq!(in_force(&node), BTreeMap::from([("log".to_owned(), "one")]));
}

#[test]
fn a_bad_file_takes_nothing_away_and_keeps_nothing_back() {
    let mut node = Node::default();
    node.folder(&folder(HERE, &[("web", "one"), ("log", "one")], &[])).unwrap();
    let error = node.folder(&folder(HERE, &[("web", "two"), ("new", "one")], &["log.yaml: not YAML"])).unwrap_err();
    assert_eq!(error, "log.yaml: not YAML");
    let expected = [("web", "two"), ("log", "one"), ("new", "one")].map(|(name, image)| (name.to_owned(), image));
    assert_eq!(in_force(&node), BTreeMap::from(expected));
}

#[test]
fn files_and_control_do_not_touch_each_others_daemonsets() {
    let web = content("web", "linked");
    let mut node = Node::default();
    node.takes(1, &[("web", &web)]);
    node.folder(&folder(HERE, &[("web", "one")], &[])).unwrap();
    node.takes(2, &[]);
    node.folder(&folder(HERE, &[], &[])).unwrap();
    let sets: Vec<_> = node.contents.daemonsets.values().map(|set| (set.source, set.deleted)).collect();
    assert_eq!(sets, [(Source::Files, true), (Source::Link, false)]);
    assert_eq!(node.contents.daemonsets[&Uid::from("web")].key, ObjectKey::new("default", "web"));
}
