//! What every node is to be told: the manifest, its blobs, the deletions. Encoded once, shared by all sessions.
//!
//! One task reads the store again whenever the fleet's position moves and publishes a [`Desired`]; sessions compare it
//! with what they have told their node. Building one is pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{EphemeralContainer, PodSpec};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::admission::{self, Admitted};
use super::claims;
use super::user_pods::UserPods;
use crate::api::bundle::Bundle;
use crate::control::kinds::{DAEMON_SET, NODE, POD};
use crate::control::meta;
use crate::control::objects::{ListOptions, ObjectError, Objects, PodIntent, Tombstone};
use crate::control::removal::{FOREGROUND, is_orphaning};
use crate::error::Chain;
use crate::link::{Answer, Answers, BlobChunk, CHUNK_BYTES, Down, Entry, Frame, Kind, Manifest, ObjectRef};
use crate::model::{BlobHash, NodeName, ObjectKey, Position, RevisionHash, Uid};
use crate::podspec::{ObjectKind, Reference, references};

/// How many revisions of a DaemonSet are at hand to render pods from, the newest included. Older ones are read from the
/// DaemonSet's history.
const REVISIONS_AT_HAND: usize = 4;
/// The pause before the store is read again after it failed.
const RETRY: Duration = Duration::from_secs(1);

/// Intent as of one position.
#[derive(Debug)]
pub(super) struct Desired {
    /// Everything up to here is in this value; something later may be, too.
    pub(super) position: Position,
    /// Changes with `manifest` and with nothing else.
    pub(super) content: u64,
    /// Every DaemonSet that is not deleted.
    pub(super) manifest: Frame,
    /// The answer to every DaemonSet that was deleted and that some node may not know of, for nodes that keep no pod of them.
    pub(super) deleted: Frame,
    /// The `seq` of the last of these deletions.
    pub(super) last_deletion: u64,
    /// The bundles at hand of each DaemonSet in the manifest, newest first.
    bundles: HashMap<Uid, Vec<Arc<Bundle>>>,
    blobs: HashMap<BlobHash, Arc<Blob>>,
    entries: Vec<Entry>,
    /// The DaemonSets whose newest revision names an object.
    referrers: HashMap<ObjectRef, Vec<Uid>>,
    /// Why the newest revision of a DaemonSet is told to nobody.
    pub(super) refused: HashMap<Uid, String>,
    /// What users say of single pods.
    pub(super) pods: UserPods,
    pub(super) tombstones: HashMap<Uid, Tombstone>,
    /// Pods that are to end, by their node.
    pub(super) ending: HashMap<NodeName, Vec<Tombstone>>,
}

/// One blob as the frames it travels in.
#[derive(Debug)]
pub(super) struct Blob {
    chunks: Vec<Frame>,
}

impl Blob {
    pub(super) fn new(hash: &BlobHash, content: &Bytes) -> Self {
        let total = content.len() as u64;
        let chunk = |offset: usize| {
            let data = content.slice(offset..content.len().min(offset + CHUNK_BYTES));
            Frame::new(Down::Blob(BlobChunk { hash: hash.clone(), offset: offset as u64, total, data }))
        };
        Self { chunks: (0..content.len()).step_by(CHUNK_BYTES).map(chunk).collect() }
    }

    /// The frames that hold what lies behind `offset`.
    pub(super) fn from(&self, offset: u64) -> impl Iterator<Item = Frame> + '_ {
        let first = usize::try_from(offset / CHUNK_BYTES as u64).unwrap_or(usize::MAX);
        self.chunks.iter().skip(first).cloned()
    }
}

/// What was read of the store.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) position: Position,
    pub(super) admitted: Admitted,
    /// What users say of single pods, with the pods.
    pub(super) pods: Vec<(PodIntent, Value)>,
    pub(super) tombstones: Vec<Tombstone>,
    /// The DaemonSets as users wrote them, by uid: what nodes keep for a control that has lost them.
    pub(super) written: HashMap<Uid, Bytes>,
    /// DaemonSets that begin on one node after the other.
    pub(super) gradual: BTreeSet<Uid>,
    /// DaemonSets whose pods are being let go.
    pub(super) orphaning: BTreeSet<Uid>,
}

impl Desired {
    /// Works out what to tell from what was read. `before` keeps what has not changed.
    pub(super) fn build(read: Read, before: Option<&Self>) -> Self {
        let Read { position, admitted, pods, written, tombstones, gradual, orphaning } = read;
        let Admitted { bundles: newest, refused } = admitted;
        let tombstones: HashMap<_, _> = tombstones.into_iter().map(|one| (one.uid.clone(), one)).collect();
        let mut entries = Vec::new();
        let (mut bundles, mut blobs) = (HashMap::new(), HashMap::new());
        let mut referrers: HashMap<_, Vec<_>> = HashMap::new();
        let mut shelve = |content: &Bytes| {
            let hash = hash(content);
            let blob = before.and_then(|before| before.blobs.get(&hash)).cloned();
            blobs.insert(hash.clone(), blob.unwrap_or_else(|| Arc::new(Blob::new(&hash, content))));
            hash
        };
        for bundle in newest {
            // It was deleted while intent was read.
            if tombstones.contains_key(&bundle.uid) {
                continue;
            }
            let known = before.and_then(|before| before.entry(&bundle.uid));
            let hash = shelve(&Bytes::from(bundle.encode()));
            let seq = known.filter(|known| known.hash == hash).map_or(position.seq, |known| known.seq);
            // What was refused is not what the bundle was made of.
            let written = written.get(&bundle.uid).filter(|_| !refused.contains_key(&bundle.uid)).map(&mut shelve);
            entries.push(Entry { uid: bundle.uid.clone(), kind: Kind::DaemonSet, seq, hash, written });
            for object in named(&bundle.namespace, bundle.template.spec.as_ref(), &[]) {
                referrers.entry(object).or_default().push(bundle.uid.clone());
            }
            let older = before.and_then(|before| before.bundles.get(&bundle.uid));
            bundles.insert(bundle.uid.clone(), at_hand(bundle, older));
        }
        let pods = UserPods::of(pods, &tombstones, &orphaning, before.map(|before| &before.pods), position.seq);
        entries.sort_by(|a, b| a.uid.cmp(&b.uid));
        let same = before.filter(|before| before.entries == entries);
        let deletions: BTreeMap<_, _> =
            tombstones.values().filter(|one| one.kind == DAEMON_SET.kind).map(|one| (&one.uid, one.seq)).collect();
        Self {
            position,
            content: same.map_or(position.seq, |same| same.content),
            manifest: same.map_or_else(
                || Frame::new(Down::Manifest(Manifest { position, entries: entries.clone(), gradual })),
                |same| same.manifest.clone(),
            ),
            deleted: Frame::new(Down::Answers(Answers {
                position,
                answers: deletions
                    .iter()
                    .map(|(uid, seq)| ((*uid).clone(), Answer::Deleted { seq: *seq, kept: vec![] }))
                    .collect(),
            })),
            last_deletion: deletions.values().copied().max().unwrap_or(0),
            ending: ending(&tombstones),
            bundles,
            blobs,
            entries,
            referrers,
            refused,
            pods,
            tombstones,
        }
    }

    /// What a node is answered about a DaemonSet.
    pub(super) fn answer(&self, uid: &Uid, node: &NodeName) -> Answer {
        match (self.tombstones.get(uid), self.entry(uid)) {
            (Some(tombstone), _) => self.deletion(tombstone, node),
            (None, Some(_)) => Answer::Present,
            (None, None) => Answer::Unknown,
        }
    }

    /// The answer about a DaemonSet that was deleted: which pods of the node stay all the same.
    pub(super) fn deletion(&self, deletion: &Tombstone, node: &NodeName) -> Answer {
        Answer::Deleted { seq: deletion.seq, kept: self.pods.kept(node, &deletion.uid).cloned().collect() }
    }

    /// What a node is told of deletions: the same as all others, unless it has pods that stay.
    pub(super) fn deletions(&self, node: &NodeName) -> Frame {
        let sets = || self.tombstones.values().filter(|one| one.kind == DAEMON_SET.kind).map(|one| &one.uid);
        if sets().all(|uid| self.pods.kept(node, uid).next().is_none()) {
            return self.deleted.clone();
        }
        let answers = sets().map(|uid| (uid.clone(), self.answer(uid, node))).collect();
        Frame::new(Down::Answers(Answers { position: self.position, answers }))
    }

    /// A blob that the manifest names.
    pub(super) fn blob(&self, hash: &BlobHash) -> Option<&Arc<Blob>> {
        self.blobs.get(hash)
    }

    /// A revision of a DaemonSet, if it is at hand.
    pub(super) fn bundle(&self, uid: &Uid, revision: &RevisionHash) -> Option<&Arc<Bundle>> {
        self.bundles.get(uid)?.iter().find(|bundle| bundle.revision == *revision)
    }

    /// The newest revision of a DaemonSet.
    pub(super) fn newest(&self, uid: &Uid) -> Option<&Arc<Bundle>> {
        self.bundles.get(uid)?.first()
    }

    /// The DaemonSets that there are, with their newest revision.
    pub(super) fn sets(&self) -> impl Iterator<Item = (&Uid, &Arc<Bundle>)> {
        self.bundles.iter().filter_map(|(uid, bundles)| Some((uid, bundles.first()?)))
    }

    /// The newest revisions of the DaemonSets that name an object, and of those among `uids` that exist.
    pub(super) fn naming<'a>(&'a self, object: &ObjectRef, uids: &'a [Uid]) -> impl Iterator<Item = &'a Bundle> {
        let referrers = self.referrers.get(object).map_or(&[][..], Vec::as_slice);
        let others = uids.iter().filter(|uid| !referrers.contains(uid));
        referrers.iter().chain(others).filter_map(|uid| self.newest(uid)).map(Arc::as_ref)
    }

    /// The removal of a Node, if it was removed.
    pub(super) fn removal(&self, node: &Uid) -> Option<&Tombstone> {
        self.tombstones.get(node).filter(|one| one.kind == NODE.kind)
    }

    fn entry(&self, uid: &Uid) -> Option<&Entry> {
        self.entries.binary_search_by(|entry| entry.uid.cmp(uid)).ok().map(|index| &self.entries[index])
    }
}

/// The newest bundle before those that were at hand, without an earlier one of the same revision.
fn at_hand(newest: Bundle, older: Option<&Vec<Arc<Bundle>>>) -> Vec<Arc<Bundle>> {
    let revision = newest.revision.clone();
    let older = older.into_iter().flatten().filter(|bundle| bundle.revision != revision).cloned();
    std::iter::once(Arc::new(newest)).chain(older).take(REVISIONS_AT_HAND).collect()
}

fn ending(tombstones: &HashMap<Uid, Tombstone>) -> HashMap<NodeName, Vec<Tombstone>> {
    let mut by_node: HashMap<_, Vec<_>> = HashMap::new();
    for one in tombstones.values().filter(|one| one.kind == POD.kind) {
        if let Some(node) = &one.node {
            by_node.entry(NodeName::from(node.as_str())).or_default().push(one.clone());
        }
    }
    by_node
}

/// The objects that a pod of this spec names, with these containers added to it.
pub(super) fn named(namespace: &str, spec: Option<&PodSpec>, ephemeral: &[EphemeralContainer]) -> Vec<ObjectRef> {
    let kind = |reference: &Reference| match reference.kind {
        ObjectKind::ConfigMap => Kind::ConfigMap,
        ObjectKind::Secret => Kind::Secret,
    };
    references(spec.unwrap_or(&PodSpec::default()), ephemeral)
        .into_iter()
        .map(|reference| ObjectRef { kind: kind(&reference), key: ObjectKey::new(namespace, reference.name) })
        .collect()
}

pub(super) fn hash(content: &[u8]) -> BlobHash {
    BlobHash(Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Reads everything that intent is made of, and admits what is new of it. `before` is what was told last.
///
/// The position is read first: what is read after it includes at least everything up to it.
///
/// # Errors
/// [`ObjectError::Store`] and [`ObjectError::Corrupt`].
pub(super) async fn read(objects: &Objects, before: Option<&Desired>) -> Result<Read, ObjectError> {
    let position = *objects.position().borrow();
    let list = objects.list(&DAEMON_SET, ListOptions::default()).await?;
    let written = list.items.iter().map(|set| (meta::uid(set).into(), as_written(set))).collect();
    let orphaning = list.items.iter().filter(|set| is_orphaning(set)).map(|set| meta::uid(set).into()).collect();
    let sets: Vec<_> = list.items.into_iter().filter_map(parsed).collect();
    let mut admitted = admission::admit(objects, &sets, before).await?;
    // Deleted in the foreground: in the API, but no more intent, also when all nodes have confirmed the deletion.
    let ending: HashSet<_> = sets.iter().filter(|set| is_ending(set)).map(uid).collect();
    admitted.bundles.retain(|bundle| !ending.contains(&bundle.uid));
    // Before the pods: those that a deletion leaves are among them.
    let (tombstones, _) = objects.tombstones().await?;
    let pods = claims::settled(objects, &sets).await?;
    let two = ListOptions { limit: 2, ..ListOptions::default() };
    let is_alone = objects.list(&NODE, two).await?.items.len() < 2;
    let gradual = sets.iter().filter(|set| !is_alone && is_unproven(set)).map(uid).collect();
    Ok(Read { position, admitted, pods, written, tombstones, gradual, orphaning })
}

/// A DaemonSet without what control says of it, but for what counts into the names of revisions.
fn as_written(set: &Value) -> Bytes {
    let mut written = set.clone();
    meta::metadata_mut(&mut written).remove("resourceVersion");
    let collisions = &set["status"]["collisionCount"];
    written["status"] = if collisions.is_null() { json!({}) } else { json!({"collisionCount": collisions}) };
    written.to_string().into()
}

fn uid(set: &DaemonSet) -> Uid {
    Uid(set.metadata.uid.clone().unwrap_or_default())
}

/// Whether a DaemonSet is only there until its pods are gone.
fn is_ending(set: &DaemonSet) -> bool {
    let mut finalizers = set.metadata.finalizers.iter().flatten();
    set.metadata.deletion_timestamp.is_some() && finalizers.any(|finalizer| finalizer == FOREGROUND)
}

/// Whether a DaemonSet's pod is available nowhere. Nodes are told so until intent moves again; it does no harm that they
/// ask for longer, as one that is available on many nodes is granted to as many more.
fn is_unproven(set: &DaemonSet) -> bool {
    set.status.as_ref().and_then(|status| status.number_available).unwrap_or(0) == 0
}

/// A DaemonSet that cannot be read is left out of the manifest: absence deletes nothing.
fn parsed(object: Value) -> Option<DaemonSet> {
    DaemonSet::deserialize(object)
        .inspect_err(|error| tracing::error!(%error, "a DaemonSet in the store cannot be read"))
        .ok()
}

/// Keeps `desired_tx` up to date until nobody listens.
pub(super) async fn follow(
    objects: Objects,
    mut position_rx: watch::Receiver<Position>,
    desired_tx: watch::Sender<Arc<Desired>>,
) {
    loop {
        if position_rx.changed().await.is_err() || desired_tx.is_closed() {
            return;
        }
        let before = desired_tx.borrow().clone();
        match read(&objects, Some(&before)).await {
            Ok(read) => {
                desired_tx.send_replace(Arc::new(Desired::build(read, Some(&before))));
            }
            Err(error) => {
                tracing::error!(error = %Chain(&error), "intent cannot be read");
                position_rx.mark_changed();
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::kinds::NAMESPACE;
    use crate::control::objects::WriteOptions;
    use crate::control::removal::{DeleteOptions, Propagation};
    use crate::store::Memory;

    const A: &str = "aaaaaaaa-0000-4000-8000-000000000000";
    const B: &str = "bbbbbbbb-0000-4000-8000-000000000000";

    fn set(uid: &str, image: &str) -> Bundle {
        let set = json!({
            "metadata": {"name": "web", "namespace": "default", "uid": uid, "generation": 1},
            "spec": {"selector": {}, "template": {"spec": {"containers": [{"name": "web", "image": image}]}}},
        });
        Bundle::from_daemonset(&serde_json::from_value(set).unwrap(), image.into())
    }

    fn deletion(kind: &str, uid: &str, seq: u64) -> Tombstone {
        Tombstone {
            kind: kind.into(),
            namespace: "default".into(),
            name: "web".into(),
            uid: uid.into(),
            seq,
            node: (kind == "Pod").then(|| "edge-1".into()),
            grace_period_seconds: Some(3),
        }
    }

    fn build(seq: u64, bundles: Vec<Bundle>, tombstones: Vec<Tombstone>, before: Option<&Desired>) -> Desired {
        let admitted = Admitted { bundles, ..Admitted::default() };
        Desired::build(Read { position: Position { era: 1, seq }, admitted, tombstones, ..Read::default() }, before)
    }

    #[test]
    fn only_content_that_changed_is_told_again() {
        let first = build(3, vec![set(A, "one"), set(B, "one")], vec![], None);
        let other_intent = build(4, vec![set(B, "one"), set(A, "one")], vec![], Some(&first));
        assert_eq!((other_intent.content, &other_intent.manifest), (3, &first.manifest));
        assert_eq!(other_intent.position.seq, 4);
        let changed = build(5, vec![set(A, "two"), set(B, "one")], vec![], Some(&other_intent));
        let seqs: Vec<_> = changed.entries.iter().map(|entry| (entry.uid.as_str(), entry.seq)).collect();
        assert_eq!((changed.content, seqs), (5, vec![(A, 5), (B, 3)]));
        assert!(Arc::ptr_eq(
            changed.blob(&changed.entries[1].hash).unwrap(),
            first.blob(&first.entries[1].hash).unwrap()
        ));
    }

    #[test]
    fn pods_of_an_older_revision_can_still_be_rendered() {
        let uid = Uid::from(A);
        let first = build(1, vec![set(A, "one")], vec![], None);
        let old = first.newest(&uid).unwrap().revision.clone();
        let mut desired = first;
        for (seq, image) in [(2, "two"), (3, "three"), (4, "four")] {
            desired = build(seq, vec![set(A, image)], vec![], Some(&desired));
        }
        assert!(desired.bundle(&uid, &old).is_some());
        let fifth = build(5, vec![set(A, "five")], vec![], Some(&desired));
        assert!(fifth.bundle(&uid, &old).is_none());
        let back = build(6, vec![set(A, "two")], vec![], Some(&fifth));
        assert_eq!(back.bundles[&uid].len(), 4);
    }

    #[test]
    fn a_deletion_is_told_and_a_gap_is_not_taken_for_one() {
        let desired = build(9, vec![set(A, "one"), set(B, "one")], vec![deletion("DaemonSet", B, 7)], None);
        assert_eq!(desired.answer(&A.into(), &"edge-1".into()), Answer::Present);
        // B is still in the API.
        assert_eq!(desired.answer(&B.into(), &"edge-1".into()), Answer::Deleted { seq: 7, kept: vec![] });
        assert_eq!(desired.answer(&"c".into(), &"edge-1".into()), Answer::Unknown);
        assert_eq!((desired.entries.len(), desired.last_deletion), (1, 7));
    }

    #[test]
    fn deletions_of_pods_and_nodes_go_to_whom_they_concern() {
        let desired = build(9, vec![], vec![deletion("Pod", A, 7), deletion("Node", B, 8)], None);
        assert_eq!(desired.ending[&NodeName::from("edge-1")], [deletion("Pod", A, 7)]);
        assert_eq!(desired.removal(&B.into()).map(|one| one.seq), Some(8));
        assert_eq!((desired.removal(&A.into()), desired.last_deletion), (None, 0));
    }

    #[test]
    fn a_blob_goes_on_where_it_was_broken_off() {
        let content = Bytes::from(vec![7; 2 * CHUNK_BYTES + 10]);
        let blob = Blob::new(&hash(&content), &content);
        let chunk = CHUNK_BYTES as u64;
        for (offset, frames) in [(0, 3), (1, 3), (chunk, 2), (2 * chunk + 5, 1), (9 * chunk, 0), (u64::MAX, 0)] {
            assert_eq!(blob.from(offset).count(), frames, "from {offset}");
        }
    }

    #[tokio::test]
    async fn a_daemonset_that_is_available_nowhere_begins_gradually_if_there_are_several_nodes() {
        let objects = Objects::open(Memory::new()).await.unwrap();
        let create = async |kind, object| objects.create(kind, "n", object, WriteOptions::default()).await.unwrap();
        create(&NAMESPACE, json!({"metadata": {"name": "n"}})).await;
        let template =
            json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
        let spec = json!({"selector": {"matchLabels": {"a": "b"}}, "template": template});
        let set = create(&DAEMON_SET, json!({"metadata": {"name": "web"}, "spec": spec})).await;
        let gradual = async || read(&objects, None).await.unwrap().gradual;
        create(&NODE, json!({"metadata": {"name": "one"}})).await;
        assert_eq!(gradual().await, BTreeSet::new(), "a single node begins at once");
        create(&NODE, json!({"metadata": {"name": "two"}})).await;
        assert_eq!(gradual().await, BTreeSet::from([meta::uid(&set).into()]));
        let available = |set: Option<&Value>| {
            let mut set = set?.clone();
            set["status"]["numberAvailable"] = 1.into();
            Some(set)
        };
        objects.report(&DAEMON_SET, "n", "web", available).await.unwrap();
        assert_eq!(gradual().await, BTreeSet::new());
    }

    #[tokio::test]
    async fn what_is_deleted_in_the_foreground_is_no_intent_though_every_node_has_confirmed_it() {
        let objects = Objects::open(Memory::new()).await.unwrap();
        let set = json!({
            "metadata": {"name": "web"},
            "spec": {
                "selector": {"matchLabels": {"a": "b"}},
                "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}},
            },
        });
        objects.create(&DAEMON_SET, "default", set, WriteOptions::default()).await.unwrap();
        let options = DeleteOptions { propagation: Propagation::Foreground, ..DeleteOptions::default() };
        objects.delete(&DAEMON_SET, "default", "web", &options).await.unwrap();
        let (tombstones, _) = objects.tombstones().await.unwrap();
        objects.bury(&tombstones.iter().collect::<Vec<_>>()).await.unwrap();
        assert_eq!(Desired::build(read(&objects, None).await.unwrap(), None).entries, []);
    }
}
