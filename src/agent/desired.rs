//! What this node is told, taken over into the ledger's contents.
//!
//! Manifests, blobs, answers and files come in; [`Contents`] change. No input or output happens here: the roster passes the
//! messages in, writes the contents to disk afterwards, and sends what is asked for.
//!
//! A manifest is taken over entry by entry, as its blobs arrive, so a slow link makes progress. Nothing is ever taken
//! away because it is not mentioned: control's answers name what was deleted, and a file has to be missing from the very
//! folder that held it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;

use super::blobs::Blobs;
use super::manifest::WrittenObject;
use crate::api::bundle::Bundle;
use crate::api::field::Path;
use crate::error::Chain;
use crate::host::ledger::{Contents, DaemonSetRecord, FolderId, RevisionRecord, blob_hash};
use crate::link::{Answer, BlobChunk, Entry, Manifest, NeededBlob, Reason};
use crate::model::{BlobHash, Position, RevisionHash, Source, Uid};
use crate::podspec::unsupported;

/// What is being taken over, and what was understood of it.
#[derive(Debug, Default)]
pub(super) struct Desired {
    manifest: Option<Manifest>,
    blobs: Blobs,
    /// Every bundle the contents name, decoded once.
    bundles: HashMap<BlobHash, Arc<Bundle>>,
    /// Revisions this agent cannot realize, by DaemonSet; the pod it has stays.
    refused: HashMap<Uid, Refused>,
    /// DaemonSets control has no record of: nothing about them changes.
    unknown: HashSet<Uid>,
    /// DaemonSets whose first pod waits for a permit in this session.
    gradual: BTreeSet<Uid>,
}

/// A revision that was refused.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Refused {
    pub(super) seq: u64,
    hash: BlobHash,
    pub(super) revision: RevisionHash,
    pub(super) reasons: Vec<Reason>,
}

/// What came of taking over what is here.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Taken {
    /// The contents changed, or a blob they name is to be written again.
    pub(super) changed: bool,
    /// Where the manifest leads, once it is taken over wholly.
    pub(super) whole: Option<Position>,
}

/// What the folder of manifests holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Folder {
    pub(super) id: FolderId,
    /// One for each DaemonSet; the uid is not set, a file has none.
    pub(super) sets: Vec<Bundle>,
    /// ConfigMaps and Secrets for those.
    pub(super) objects: Vec<WrittenObject>,
    /// Files that could not be read as manifests; while there are any, nothing is taken away.
    pub(super) troubles: Vec<String>,
}

impl Desired {
    /// A bundle that the contents name; none if its blob was lost.
    pub(super) fn bundle(&self, hash: &BlobHash) -> Option<&Arc<Bundle>> {
        self.bundles.get(hash)
    }

    /// Whether the newest revision of a DaemonSet is not taken over.
    pub(super) fn is_refused(&self, daemonset: &Uid) -> bool {
        self.refused.contains_key(daemonset)
    }

    /// Every revision that is not taken over, by DaemonSet; also of DaemonSets this node does not hold.
    pub(super) fn refused(&self) -> impl Iterator<Item = (&Uid, &Refused)> {
        self.refused.iter()
    }

    /// Whether control has no record of a DaemonSet this node holds.
    pub(super) fn is_unknown(&self, daemonset: &Uid) -> bool {
        self.unknown.contains(daemonset)
    }

    /// Puts in a bundle that was on disk already.
    pub(super) fn loaded(&mut self, hash: BlobHash, content: &[u8]) -> Result<(), Vec<Reason>> {
        let bundle = decode(content)?;
        self.bundles.insert(hash, Arc::new(bundle));
        Ok(())
    }

    /// Begins to take a manifest over; an older one that is not wholly taken over is dropped.
    pub(super) fn manifest(&mut self, manifest: Manifest) {
        let hashes: HashSet<_> = manifest.entries.iter().flat_map(blobs).collect();
        self.blobs.retain(|hash| hashes.contains(hash));
        let uids: HashSet<_> = manifest.entries.iter().map(|entry| &entry.uid).collect();
        self.refused.retain(|uid, _| uids.contains(uid));
        self.gradual.clone_from(&manifest.gradual);
        self.manifest = Some(manifest);
    }

    /// Whether control lets this DaemonSet begin on one node after the other.
    pub(super) fn is_gradual(&self, daemonset: &Uid) -> bool {
        self.gradual.contains(daemonset)
    }

    /// Forgets what only the session that has ended can complete. What arrived of blobs stays.
    pub(super) fn session_ended(&mut self) {
        self.manifest = None;
        self.gradual.clear();
    }

    /// The blobs that are missing, from where to go on.
    pub(super) fn needs(&self, contents: &Contents) -> Vec<NeededBlob> {
        let taken = |entry: &&Entry| self.refused.get(&entry.uid).is_none_or(|refused| refused.hash != entry.hash);
        let written = self
            .entries()
            .filter(taken)
            .filter(|entry| !is_kept(contents, entry))
            .filter_map(|entry| entry.written.as_ref());
        let named = self.entries().map(|entry| &entry.hash).chain(written);
        let missing: BTreeSet<_> = named.filter(|hash| !self.has(hash)).collect();
        missing.into_iter().map(|hash| self.blobs.needed(hash)).collect()
    }

    /// What is being taken over.
    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.manifest.iter().flat_map(|manifest| &manifest.entries)
    }

    fn has(&self, hash: &BlobHash) -> bool {
        self.bundles.contains_key(hash)
            || self.blobs.has(hash)
            || self.refused.values().any(|refused| refused.hash == *hash)
    }

    /// Takes a stretch of a blob that is being taken over.
    pub(super) fn chunk(&mut self, chunk: BlobChunk) {
        let is_named = self.entries().flat_map(blobs).any(|hash| *hash == chunk.hash);
        if is_named && !self.has(&chunk.hash) {
            self.blobs.chunk(chunk);
        }
    }

    /// Takes over every entry whose blob is here; of DaemonSets that the contents do not have, only if `takes_new` says so.
    pub(super) fn take(&mut self, contents: &mut Contents, new_blobs: &mut Vec<Bytes>, takes_new: bool) -> Taken {
        let Some(manifest) = self.manifest.take() else { return Taken::default() };
        let (mut whole, blobs_before) = (true, new_blobs.len());
        let mut changed = false;
        for entry in &manifest.entries {
            let Entry { uid, seq, hash, .. } = entry;
            if self.refused.get(uid).is_some_and(|refused| refused.hash == *hash) {
                continue;
            }
            if !takes_new && !contents.daemonsets.contains_key(uid) {
                whole = false;
                continue;
            }
            // Also what is held already is looked at: its blob may have been lost on disk.
            match self.understand(hash, new_blobs) {
                None => whole = false,
                Some(Ok(bundle)) => {
                    self.refused.remove(uid);
                    let known = contents.daemonsets.get(uid).map(|set| set.newest.bundle.clone());
                    if known.as_ref() != Some(hash) {
                        if known.is_some_and(|known| self.is_rewritten(&known, &bundle)) {
                            forgive(contents, uid);
                        }
                        adopt(contents, uid, Source::Link, *seq, hash, &bundle);
                        changed = true;
                    }
                    whole &= self.keep_written(contents, entry, new_blobs);
                }
                Some(Err((revision, reasons))) => {
                    let refused = Refused { seq: *seq, hash: hash.clone(), revision, reasons };
                    self.refused.insert(uid.clone(), refused);
                }
            }
        }
        let whole = whole.then_some(manifest.position);
        match whole {
            Some(position) => changed |= std::mem::replace(&mut contents.position, position) != position,
            None => self.manifest = Some(manifest),
        }
        Taken { changed: changed || new_blobs.len() > blobs_before, whole }
    }

    /// The bundle of a blob that is here, or the revision it holds and why it is refused; `None` if it is not here.
    fn understand(&mut self, hash: &BlobHash, new_blobs: &mut Vec<Bytes>) -> Option<Result<Arc<Bundle>, Refusal>> {
        if let Some(bundle) = self.bundles.get(hash) {
            return Some(Ok(bundle.clone()));
        }
        let content = self.blobs.take(hash)?;
        Some(match self.loaded(hash.clone(), &content) {
            Ok(()) => {
                new_blobs.push(content);
                Ok(self.bundles[hash].clone())
            }
            Err(reasons) => Err((revision(&content), reasons)),
        })
    }

    /// Keeps what users wrote of the revision that was taken over, for control; false if that is yet to come.
    fn keep_written(&mut self, contents: &mut Contents, entry: &Entry, new_blobs: &mut Vec<Bytes>) -> bool {
        if is_kept(contents, entry) {
            return true;
        }
        let (Some(hash), Some(set)) = (&entry.written, contents.daemonsets.get_mut(&entry.uid)) else { return true };
        let Some(content) = self.blobs.take(hash) else { return false };
        let revisions: BTreeSet<_> = set.revisions().map(|revision| revision.hash.clone()).collect();
        set.written.retain(|revision, _| revisions.contains(revision));
        set.written.insert(set.newest.hash.clone(), hash.clone());
        new_blobs.push(content);
        true
    }

    /// Whether a user has written the template since, also if it is the same again.
    fn is_rewritten(&self, known: &BlobHash, bundle: &Bundle) -> bool {
        self.bundle(known).is_none_or(|known| known.template_generation != bundle.template_generation)
    }

    /// Takes control's answers about DaemonSets this node holds.
    pub(super) fn answers(&mut self, contents: &mut Contents, answers: Vec<(Uid, Answer)>) {
        for (uid, answer) in answers {
            match answer {
                Answer::Present => {
                    self.unknown.remove(&uid);
                }
                Answer::Unknown => {
                    self.unknown.insert(uid);
                }
                Answer::Deleted { kept, .. } => {
                    self.unknown.remove(&uid);
                    self.refused.remove(&uid);
                    // A manifest from before the deletion must not bring it back.
                    if let Some(manifest) = &mut self.manifest {
                        manifest.entries.retain(|entry| entry.uid != uid);
                    }
                    let its = contents.pods.values_mut().filter(|pod| pod.daemonset.as_ref() == Some(&uid));
                    its.filter(|pod| kept.contains(&pod.key.uid)).for_each(|pod| pod.daemonset = None);
                    if let Some(set) = contents.daemonsets.get_mut(&uid) {
                        set.deleted = true;
                    }
                }
            }
        }
    }

    /// Takes over what the folder of manifests holds. `mint` makes uids.
    ///
    /// A folder without any manifest in the place of another takes nothing away: it may be a mount that is late.
    pub(super) fn folder(
        &mut self,
        contents: &mut Contents,
        folder: &Folder,
        new_blobs: &mut Vec<Bytes>,
        mint: &mut dyn FnMut() -> Uid,
    ) -> Result<(), String> {
        let replaced = contents.folder.is_some_and(|known| known != folder.id);
        if replaced && folder.sets.is_empty() && folder.objects.is_empty() {
            return Err(
                "the folder of manifests is another one than before and empty; nothing is taken away".to_owned()
            );
        }
        contents.folder = Some(folder.id);
        let known: BTreeMap<_, _> = contents
            .daemonsets
            .iter()
            .filter(|(_, set)| set.source == Source::Files && !set.deleted)
            .map(|(uid, set)| (set.key.clone(), uid.clone()))
            .collect();
        let mut troubles = folder.troubles.clone();
        for set in &folder.sets {
            let uid = known.get(&set.key()).cloned().unwrap_or_else(&mut *mint);
            let content = Bytes::from(Bundle { uid: uid.clone(), ..set.clone() }.encode());
            let hash = blob_hash(&content);
            self.blobs.put(hash.clone(), content);
            match self.understand(&hash, new_blobs) {
                Some(Ok(bundle)) => adopt(contents, &uid, Source::Files, 0, &hash, &bundle),
                Some(Err((_, reasons))) => troubles.extend(reasons.into_iter().map(|reason| reason.message)),
                None => {}
            }
            self.blobs.take(&hash);
        }
        if troubles.is_empty() {
            let there: HashSet<_> = folder.sets.iter().map(Bundle::key).collect();
            let gone = known.iter().filter(|(key, _)| !there.contains(key)).map(|(_, uid)| uid);
            for uid in gone {
                if let Some(set) = contents.daemonsets.get_mut(uid) {
                    set.deleted = true;
                }
            }
            return Ok(());
        }
        Err(troubles.join("; "))
    }

    /// Drops bundles that nothing names any more.
    pub(super) fn forget(&mut self, contents: &Contents) {
        let named = contents.bundles();
        self.bundles.retain(|hash, _| named.contains(hash));
    }
}

/// A revision, and why it is refused.
type Refusal = (RevisionHash, Vec<Reason>);

/// The blobs that an entry names.
fn blobs(entry: &Entry) -> impl Iterator<Item = &BlobHash> {
    std::iter::once(&entry.hash).chain(&entry.written)
}

/// Whether what users wrote of an entry is on disk, or there is nothing of the kind.
fn is_kept(contents: &Contents, entry: &Entry) -> bool {
    let set = contents.daemonsets.get(&entry.uid);
    let known = set.and_then(|set| set.written.get(&set.newest.hash));
    entry.written.is_none() || entry.written.as_ref() == known
}

/// Writes a DaemonSet's newest revision into the contents.
fn adopt(contents: &mut Contents, uid: &Uid, source: Source, seq: u64, hash: &BlobHash, bundle: &Bundle) {
    let newest = RevisionRecord { hash: bundle.revision.clone(), bundle: hash.clone() };
    let key = bundle.key();
    contents
        .daemonsets
        .entry(uid.clone())
        .and_modify(|set| {
            // The same revision under another bundle (an update strategy, minReadySeconds) replaces no pod.
            if let Some(permitted) = set.permitted.as_mut().filter(|permitted| permitted.hash == newest.hash) {
                permitted.bundle.clone_from(&newest.bundle);
            }
            set.newest = newest.clone();
            set.seq = seq;
        })
        .or_insert_with(|| DaemonSetRecord {
            key,
            source,
            seq,
            newest,
            permitted: None,
            taken: None,
            before: None,
            rejected: BTreeSet::new(),
            written: BTreeMap::new(),
            deleted: false,
        });
}

/// Lets a node try again what it went back from.
fn forgive(contents: &mut Contents, uid: &Uid) {
    let set = contents.daemonsets.get_mut(uid).filter(|set| !set.rejected.is_empty());
    if let Some(set) = set {
        set.rejected.clear();
        set.taken = None;
    }
}

/// Reads a bundle, and makes sure that this agent can realize all of it.
fn decode(content: &[u8]) -> Result<Bundle, Vec<Reason>> {
    let reason = |message: String, field: String| Reason { reason: "Refused".to_owned(), message, field };
    let bundle = Bundle::decode(content).map_err(|error| vec![reason(Chain(&error).to_string(), String::new())])?;
    let errors = unsupported(&bundle.template, &Path::default());
    if errors.is_empty() {
        return Ok(bundle);
    }
    Err(errors.iter().map(|error| reason(error.to_string(), error.field.to_string())).collect())
}

/// The revision that a bundle names, however little else of it is understood.
fn revision(content: &[u8]) -> RevisionHash {
    #[derive(Deserialize)]
    struct Named {
        revision: RevisionHash,
    }
    serde_json::from_slice::<Named>(content).map_or_else(|_| "unknown".into(), |named| named.revision)
}

#[cfg(test)]
mod tests;
