//! Single pods of this node, taken over into the ledger's contents: those posted with its name, and those that their DaemonSet
//! has let go.
//!
//! Control says which there are; their bundles come in pieces, and each pod is taken on once its bundle is here. One that
//! changed is taken over again: also whose it is stands in its bundle. No input or output happens here. Nothing is taken away
//! because it is not mentioned: a pod ends by a command, or with the DaemonSet that has adopted it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;

use super::blobs::Blobs;
use super::desired::Desired;
use crate::api::bundle::{Bundle, Posted};
use crate::host::ledger::{Contents, PodRecord, RevisionRecord};
use crate::link::{BlobChunk, Entry, NeededBlob, Reason};
use crate::model::{BlobHash, ObjectKey, PodKey, Uid};

/// What is being taken over.
#[derive(Debug, Default)]
pub(super) struct PostedPods {
    /// Pods that control speaks of, until they are taken over.
    awaited: BTreeMap<Uid, Entry>,
    blobs: Blobs,
    /// What this agent cannot realize, and was said to be so.
    refused: HashMap<Uid, BlobHash>,
}

/// A pod that this agent cannot realize.
#[derive(Debug, PartialEq)]
pub(super) struct Refusal {
    pub(super) key: ObjectKey,
    pub(super) uid: Uid,
    pub(super) reasons: Vec<Reason>,
}

impl PostedPods {
    /// Takes in which pods there are.
    pub(super) fn assigned(&mut self, entries: Vec<Entry>) {
        let hashes: BTreeSet<_> = entries.iter().map(|entry| &entry.hash).collect();
        self.blobs.retain(|hash| hashes.contains(hash));
        let uids: BTreeSet<_> = entries.iter().map(|entry| &entry.uid).collect();
        self.refused.retain(|uid, _| uids.contains(uid));
        self.awaited = entries.into_iter().map(|entry| (entry.uid.clone(), entry)).collect();
    }

    /// Whether some of what control speaks of is still on its way. A DaemonSet that is new may have adopted one of these.
    pub(super) fn is_waiting(&self) -> bool {
        !self.awaited.is_empty()
    }

    /// Whether what control says of this pod is still on its way. It may not be its DaemonSet's any more.
    pub(super) fn is_awaited(&self, uid: &Uid) -> bool {
        self.awaited.contains_key(uid)
    }

    /// Forgets a pod that is to end, or has gone: what arrives of it must not bring it back.
    pub(super) fn forget(&mut self, uid: &Uid) {
        self.awaited.remove(uid);
    }

    /// Forgets what only the session that has ended can complete. What arrived of blobs stays.
    pub(super) fn session_ended(&mut self) {
        self.awaited.clear();
    }

    /// The blobs that are missing, from where to go on.
    pub(super) fn needs(&self, desired: &Desired) -> Vec<NeededBlob> {
        let missing = |entry: &&Entry| !self.is_refused(entry) && !self.is_here(desired, &entry.hash);
        let hashes: BTreeSet<_> = self.awaited.values().filter(missing).map(|entry| &entry.hash).collect();
        hashes.into_iter().map(|hash| self.blobs.needed(hash)).collect()
    }

    fn is_here(&self, desired: &Desired, hash: &BlobHash) -> bool {
        desired.bundle(hash).is_some() || self.blobs.has(hash)
    }

    fn is_refused(&self, entry: &Entry) -> bool {
        self.refused.get(&entry.uid) == Some(&entry.hash)
    }

    /// Takes a stretch of a blob that is being taken over.
    pub(super) fn chunk(&mut self, chunk: BlobChunk) {
        if self.awaited.values().any(|entry| entry.hash == chunk.hash) {
            self.blobs.chunk(chunk);
        }
    }

    /// Takes over every pod whose bundle is here; gives those that this agent cannot realize. The pods that changed are
    /// added to `changed`.
    pub(super) fn take(
        &mut self,
        contents: &mut Contents,
        desired: &mut Desired,
        new_blobs: &mut Vec<Bytes>,
        changed: &mut Vec<Uid>,
    ) -> Vec<Refusal> {
        let here: Vec<_> = self.awaited.values().filter(|entry| self.is_here(desired, &entry.hash)).cloned().collect();
        let mut refusals = Vec::new();
        for Entry { uid, hash, .. } in here {
            self.awaited.remove(&uid);
            if let Err(refusal) = self.understand(&uid, &hash, desired, new_blobs) {
                self.refused.insert(uid, hash);
                refusals.push(refusal);
                continue;
            }
            let taken = desired.bundle(&hash).and_then(|bundle| Some((bundle, bundle.posted.as_ref()?)));
            let Some((bundle, posted)) = taken else { continue };
            if adopt(contents, &uid, &hash, bundle, posted) {
                changed.push(uid);
            }
        }
        refusals
    }

    /// Makes sure that a bundle that is here is decoded, and will be on disk.
    fn understand(
        &mut self,
        uid: &Uid,
        hash: &BlobHash,
        desired: &mut Desired,
        new_blobs: &mut Vec<Bytes>,
    ) -> Result<(), Refusal> {
        if desired.bundle(hash).is_some() {
            return Ok(());
        }
        let content = self.blobs.take(hash).unwrap_or_default();
        match desired.loaded(hash.clone(), &content) {
            Ok(()) => {
                new_blobs.push(content);
                Ok(())
            }
            Err(reasons) => Err(Refusal { key: key(&content), uid: uid.clone(), reasons }),
        }
    }
}

/// Writes a pod into the contents; false if it stands there as it is.
fn adopt(contents: &mut Contents, uid: &Uid, hash: &BlobHash, bundle: &Bundle, posted: &Posted) -> bool {
    let revision = RevisionRecord { hash: bundle.revision.clone(), bundle: hash.clone() };
    let daemonset = posted.daemonset.clone();
    if let Some(record) = contents.pods.get_mut(uid) {
        let changes = record.revision != revision || record.daemonset != daemonset;
        (record.revision, record.daemonset) = (revision, daemonset);
        // The bundle has them all.
        record.amended = None;
        record.ephemeral_containers.clone_from(&posted.ephemeral_containers);
        return changes;
    }
    let record = PodRecord {
        key: PodKey { namespace: bundle.namespace.clone(), name: bundle.name.clone(), uid: uid.clone() },
        daemonset,
        revision,
        created_at: posted.created_at,
        ending: None,
        finished: None,
        amended: None,
        ephemeral_containers: posted.ephemeral_containers.clone(),
    };
    contents.pods.insert(uid.clone(), record);
    true
}

/// The name of a pod, however little else of its bundle is understood.
fn key(content: &[u8]) -> ObjectKey {
    serde_json::from_slice::<ObjectKey>(content).unwrap_or_else(|_| ObjectKey::new("default", "unknown"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::host::ledger::blob_hash;
    use crate::link::Kind;

    fn bundle(image: &str, field: &str) -> Bytes {
        let pod = json!({
            "metadata": {
                "name": "probe", "namespace": "default", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": {"containers": [{"name": "main", "image": image}]},
        });
        let mut bundle = json!(Bundle::from_pod(serde_json::from_value(pod).unwrap(), None));
        bundle["template"]["spec"][field] = json!(true);
        bundle.to_string().into()
    }

    fn entry(content: &Bytes) -> Entry {
        Entry { uid: "u".into(), kind: Kind::Pod, seq: 1, hash: blob_hash(content), written: None }
    }

    fn chunk(content: &Bytes) -> BlobChunk {
        let total = content.len() as u64;
        BlobChunk { hash: blob_hash(content), offset: 0, total, data: content.clone() }
    }

    struct Node {
        pods: PostedPods,
        desired: Desired,
        contents: Contents,
        blobs: Vec<Bytes>,
    }

    impl Node {
        fn new() -> Self {
            let (pods, desired) = (PostedPods::default(), Desired::default());
            Self { pods, desired, contents: Contents::default(), blobs: Vec::new() }
        }

        fn take(&mut self) -> (Vec<Uid>, Vec<Refusal>) {
            let mut changed = Vec::new();
            let refused = self.pods.take(&mut self.contents, &mut self.desired, &mut self.blobs, &mut changed);
            (changed, refused)
        }
    }

    #[test]
    fn a_pod_is_taken_on_when_its_bundle_is_here_and_again_when_it_changed() {
        let mut node = Node::new();
        let (first, second) = (bundle("one", "hostPID"), bundle("two", "hostPID"));
        node.pods.assigned(vec![entry(&first)]);
        assert_eq!(node.pods.needs(&node.desired), [NeededBlob { hash: blob_hash(&first), offset: 0 }]);
        assert_eq!(node.take(), (vec![], vec![]));
        node.pods.chunk(chunk(&second));
        node.pods.chunk(chunk(&first));
        assert_eq!(node.take(), (vec!["u".into()], vec![]));
        let record = &node.contents.pods[&Uid::from("u")];
        assert_eq!((record.key.to_string(), &record.daemonset), ("default/probe".to_owned(), &None));
        assert_eq!(record.created_at.to_string(), "2026-01-01T00:00:00Z");
        assert_eq!((&node.blobs, node.pods.needs(&node.desired)), (&vec![first.clone()], vec![]));

        node.pods.assigned(vec![entry(&first)]);
        assert_eq!(node.take(), (vec![], vec![]), "it stands there already");
        node.pods.assigned(vec![entry(&second)]);
        node.pods.chunk(chunk(&second));
        assert_eq!(node.take().0, ["u".into()]);
        assert_eq!(node.contents.pods[&Uid::from("u")].revision.bundle, blob_hash(&second));
        node.pods.assigned(vec![]);
        assert_eq!(node.take().0, [], "absence takes nothing away");
        assert_eq!(node.contents.pods.len(), 1);
    }

    #[test]
    fn a_pod_that_is_to_end_does_not_come_with_what_was_on_the_way() {
        let mut node = Node::new();
        let content = bundle("one", "hostPID");
        node.pods.assigned(vec![entry(&content)]);
        node.pods.forget(&"u".into());
        node.pods.chunk(chunk(&content));
        assert_eq!(node.take(), (vec![], vec![]));
    }

    #[test]
    fn what_this_agent_does_not_know_is_refused_once() {
        let mut node = Node::new();
        let content = bundle("one", "teleport");
        node.pods.assigned(vec![entry(&content)]);
        node.pods.chunk(chunk(&content));
        let (_, refused) = node.take();
        assert_eq!(refused[0].key, ObjectKey::new("default", "probe"));
        assert!(refused[0].reasons[0].message.contains("template.spec.teleport"), "{refused:?}");
        node.pods.assigned(vec![entry(&content)]);
        assert_eq!((node.pods.needs(&node.desired), node.take()), (vec![], (vec![], vec![])));
    }
}
