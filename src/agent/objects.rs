//! ConfigMaps and Secrets on this node: what is asked for, what comes of it, and how long it is kept.
//!
//! Control's answers, blobs and the folder of manifests come in; [`Contents`] change, and what pods may see of them is given
//! out ([`Book::published`]). No input or output happens here: the roster passes messages in, writes the contents to disk, and
//! publishes only what is there.
//!
//! What a pod uses is never taken from under it: an object that is gone, or that this node may not have any more, is kept as it
//! was for the pods that had it, until they are gone. Others are told why they get none.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use k8s_openapi::api::core::v1::EphemeralContainer;

use super::blobs::Blobs;
use super::desired::Desired;
use super::manifest::WrittenObject;
use crate::api::bundle::Bundle;
use crate::host::ledger::{Contents, DaemonSetRecord, ObjectRecord, PodRecord, WithheldRecord, blob_hash};
use crate::link::{BlobChunk, Entry, Kind, NeededBlob, ObjectAnswer, ObjectRef};
use crate::model::{BlobHash, ObjectKey, Source, Uid};
use crate::podspec::objects::{Held, Object, ObjectId, Objects, Withheld};
use crate::podspec::{ObjectKind, Reference, references};

/// What is being taken over, and what was understood of it.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// Objects that control says this node may have, as long as their contents are on the way.
    awaited: BTreeMap<ObjectId, Entry>,
    blobs: Blobs,
    /// The content of every object the ledger holds, decoded once.
    decoded: HashMap<BlobHash, Arc<Object>>,
}

impl Book {
    /// Puts in an object that was on disk already.
    pub(super) fn loaded(&mut self, record: &ObjectRecord, content: &[u8]) -> Result<(), String> {
        let object = decode(record.kind, content)?;
        self.decoded.insert(record.blob.clone(), object);
        Ok(())
    }

    /// Forgets what only the session that has ended can complete. What arrived of blobs stays.
    pub(super) fn session_ended(&mut self) {
        self.awaited.clear();
    }

    /// The blobs that are missing, from where to go on.
    pub(super) fn needs(&self) -> Vec<NeededBlob> {
        let hashes: BTreeSet<_> = self.awaited.values().map(|entry| &entry.hash).collect();
        let missing = hashes.into_iter().filter(|hash| !self.has(hash));
        missing.map(|hash| self.blobs.needed(hash)).collect()
    }

    fn has(&self, hash: &BlobHash) -> bool {
        self.decoded.contains_key(hash) || self.blobs.has(hash)
    }

    /// Takes a stretch of a blob that is being taken over.
    pub(super) fn chunk(&mut self, chunk: BlobChunk) {
        let is_awaited = self.awaited.values().any(|entry| entry.hash == chunk.hash);
        if is_awaited && !self.has(&chunk.hash) {
            self.blobs.chunk(chunk);
        }
    }

    /// Takes control's answers. What it has to give is taken over as its content arrives ([`Book::take`]).
    pub(super) fn answers(
        &mut self,
        contents: &mut Contents,
        desired: &Desired,
        answers: Vec<(ObjectRef, ObjectAnswer)>,
    ) {
        self.awaited.clear();
        for (reference, answer) in answers {
            let Some(id) = linked(&reference) else { continue };
            match answer {
                ObjectAnswer::Present(entry) => drop(self.awaited.insert(id, entry)),
                ObjectAnswer::Absent => withhold(contents, desired, &id, Withheld::Absent),
                ObjectAnswer::Refused(why) => withhold(contents, desired, &id, Withheld::Refused(why.message)),
            }
        }
        let awaited: BTreeSet<_> = self.awaited.values().map(|entry| &entry.hash).collect();
        self.blobs.retain(|hash| awaited.contains(hash));
    }

    /// Takes over every object whose content is here.
    pub(super) fn take(&mut self, contents: &mut Contents, desired: &Desired, new_blobs: &mut Vec<Bytes>) {
        let (here, awaited) =
            std::mem::take(&mut self.awaited).into_iter().partition(|(_, entry)| self.has(&entry.hash));
        self.awaited = awaited;
        let here: BTreeMap<ObjectId, Entry> = here;
        for (id, entry) in here {
            match self.understand(id.kind, &entry.hash, new_blobs) {
                Ok(()) => put(contents, &id, &entry.uid, &entry.hash),
                Err(why) => withhold(contents, desired, &id, Withheld::Refused(why)),
            }
        }
    }

    /// Makes sure that the content of a blob that is here is understood, and will be on disk.
    fn understand(&mut self, kind: ObjectKind, hash: &BlobHash, new_blobs: &mut Vec<Bytes>) -> Result<(), String> {
        if self.decoded.contains_key(hash) {
            return Ok(());
        }
        let content = self.blobs.take(hash).unwrap_or_default();
        self.decoded.insert(hash.clone(), decode(kind, &content)?);
        new_blobs.push(content);
        Ok(())
    }

    /// Takes over what the folder of manifests holds. `whole` says that what is not in it is gone.
    pub(super) fn folder(
        &mut self,
        contents: &mut Contents,
        desired: &Desired,
        (objects, whole): (&[WrittenObject], bool),
        new_blobs: &mut Vec<Bytes>,
    ) {
        let mut there = BTreeSet::new();
        for WrittenObject { kind, key, json } in objects {
            let id = ObjectId { source: Source::Files, kind: *kind, key: key.clone() };
            let hash = blob_hash(json);
            self.blobs.put(hash.clone(), json.clone());
            match self.understand(*kind, &hash, new_blobs) {
                // A file gives no uid.
                Ok(()) => put(contents, &id, &Uid(String::new()), &hash),
                Err(error) => tracing::error!(%key, error, "an object of the folder of manifests cannot be used"),
            }
            self.blobs.take(&hash);
            there.insert(id);
        }
        let held = contents.objects.iter().map(ObjectRecord::id);
        let gone: Vec<_> = held.filter(|id| whole && id.source == Source::Files && !there.contains(id)).collect();
        for id in gone {
            keep_for_users(contents, desired, &id);
        }
    }

    /// Drops what no pod keeps any more and what nobody needs. `needed` is what [`needed`] says. True if something was.
    pub(super) fn tidy(&mut self, contents: &mut Contents, desired: &Desired, needed: &BTreeSet<ObjectId>) -> bool {
        let (objects, withheld) = (contents.objects.len(), contents.withheld.len());
        // A pod whose revision was lost may use anything.
        let all_known = contents.pods.values().all(|pod| desired.bundle(&pod.revision.bundle).is_some());
        let pods = &contents.pods;
        contents.objects.retain_mut(|record| {
            let was_kept = !record.kept_for.is_empty();
            record.kept_for.retain(|pod| pods.contains_key(pod));
            let is_used = record.source == Source::Files || !all_known || needed.contains(&record.id());
            if was_kept { !record.kept_for.is_empty() } else { is_used }
        });
        contents.withheld.retain(|record| needed.contains(&record.id()));
        let named: BTreeSet<_> = contents.objects.iter().map(|record| &record.blob).collect();
        self.decoded.retain(|hash, _| named.contains(hash));
        (objects, withheld) != (contents.objects.len(), contents.withheld.len())
    }

    /// What pods may see of the ledger's objects. One whose content was lost on disk is as if it had not been heard of.
    pub(super) fn published(&self, contents: &Contents) -> Objects {
        let held = contents.objects.iter().filter_map(|record| {
            let object = self.decoded.get(&record.blob)?.clone();
            Some((record.id(), Held { object, kept_for: record.kept_for.clone() }))
        });
        let withheld = contents.withheld.iter().map(|record| (record.id(), record.why.clone()));
        let local = contents.daemonsets.iter().filter(|(_, set)| set.source == Source::Files);
        Objects {
            held: held.collect(),
            withheld: withheld.collect(),
            local: local.map(|(uid, _)| uid.clone()).collect(),
            tokens: BTreeMap::new(),
        }
    }
}

/// Everything to ask control for: what pods of this node use, and what those of `sets`, the DaemonSets that are to have one
/// here, would use.
pub(super) fn needed(contents: &Contents, desired: &Desired, sets: &BTreeSet<Uid>) -> BTreeSet<ObjectId> {
    let sets = sets.iter().filter_map(|uid| contents.daemonsets.get(uid)).filter(|set| set.source == Source::Link);
    let of_sets = sets.flat_map(DaemonSetRecord::revisions).map(|revision| (&revision.bundle, &[][..]));
    let of_pods = contents.pods.values().filter(|pod| source(contents, pod) == Source::Link);
    let of_pods = of_pods.map(|pod| (&pod.revision.bundle, &pod.ephemeral_containers[..]));
    let mut needed = BTreeSet::new();
    for (hash, ephemeral) in of_sets.chain(of_pods) {
        let Some(bundle) = desired.bundle(hash) else { continue };
        let id = |reference: Reference| ObjectId {
            source: Source::Link,
            kind: reference.kind,
            key: ObjectKey::new(&bundle.namespace, reference.name),
        };
        needed.extend(named(bundle, ephemeral).into_iter().map(id));
    }
    needed
}

/// What a pod of this revision names, with these containers added to it.
fn named(bundle: &Bundle, ephemeral: &[EphemeralContainer]) -> BTreeSet<Reference> {
    bundle.template.spec.as_ref().map(|spec| references(spec, ephemeral)).unwrap_or_default()
}

/// As control is asked for it.
pub(super) fn reference(id: &ObjectId) -> ObjectRef {
    let kind = match id.kind {
        ObjectKind::ConfigMap => Kind::ConfigMap,
        ObjectKind::Secret => Kind::Secret,
    };
    ObjectRef { kind, key: id.key.clone() }
}

fn linked(reference: &ObjectRef) -> Option<ObjectId> {
    let kind = match reference.kind {
        Kind::ConfigMap => ObjectKind::ConfigMap,
        Kind::Secret => ObjectKind::Secret,
        // Nobody asked for those.
        Kind::DaemonSet | Kind::Pod => return None,
    };
    Some(ObjectId { source: Source::Link, kind, key: reference.key.clone() })
}

/// The error quotes no value.
fn decode(kind: ObjectKind, content: &[u8]) -> Result<Arc<Object>, String> {
    let decoded = Object::decode(kind, content).map(Arc::new);
    decoded.map_err(|error| format!("its content is no {kind} this agent can read (line {})", error.line()))
}

/// Where a pod's configuration comes from: what has no DaemonSet has control.
fn source(contents: &Contents, pod: &PodRecord) -> Source {
    let set = pod.daemonset.as_ref().and_then(|uid| contents.daemonsets.get(uid));
    set.map_or(Source::Link, |set| set.source)
}

/// Writes an object into the contents, in force for all.
fn put(contents: &mut Contents, id: &ObjectId, uid: &Uid, blob: &BlobHash) {
    contents.withheld.retain(|record| record.id() != *id);
    let record = ObjectRecord {
        source: id.source,
        kind: id.kind,
        key: id.key.clone(),
        uid: uid.clone(),
        blob: blob.clone(),
        kept_for: BTreeSet::new(),
    };
    match contents.objects.iter_mut().find(|known| known.id() == *id) {
        Some(known) => *known = record,
        None => contents.objects.push(record),
    }
}

/// Takes an object away from all but the pods that use it.
fn withhold(contents: &mut Contents, desired: &Desired, id: &ObjectId, why: Withheld) {
    keep_for_users(contents, desired, id);
    match contents.withheld.iter_mut().find(|known| known.id() == *id) {
        Some(known) => known.why = why,
        None => contents.withheld.push(WithheldRecord { kind: id.kind, key: id.key.clone(), why }),
    }
}

fn keep_for_users(contents: &mut Contents, desired: &Desired, id: &ObjectId) {
    let is_user = |pod: &&PodRecord| {
        let bundle = desired.bundle(&pod.revision.bundle);
        // A pod whose revision was lost may use anything.
        let uses = bundle.is_none_or(|bundle| {
            let references = named(bundle, &pod.ephemeral_containers);
            references.iter().any(|reference| (reference.kind, &reference.name) == (id.kind, &id.key.name))
        });
        source(contents, pod) == id.source && pod.key.namespace == id.key.namespace && uses
    };
    let users: BTreeSet<_> = contents.pods.values().filter(is_user).map(|pod| pod.key.uid.clone()).collect();
    contents.objects.retain_mut(|record| {
        if record.id() == *id && record.kept_for.is_empty() {
            record.kept_for.clone_from(&users);
            return !users.is_empty();
        }
        true
    });
}

#[cfg(test)]
mod tests;
