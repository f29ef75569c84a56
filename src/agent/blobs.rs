//! Blobs on their way from control: pieces that become whole, and wait to be taken over.

use std::collections::HashMap;

use bytes::Bytes;

use crate::host::ledger::blob_hash;
use crate::link::{BLOB_BYTES_MAX, BlobChunk, NeededBlob};
use crate::model::BlobHash;

/// What has arrived of blobs.
#[derive(Debug, Default)]
pub(super) struct Blobs {
    /// The beginnings of blobs.
    arriving: HashMap<BlobHash, Vec<u8>>,
    /// Blobs that came and are not on disk yet.
    arrived: HashMap<BlobHash, Bytes>,
}

impl Blobs {
    /// Whether a blob is here as a whole.
    pub(super) fn has(&self, hash: &BlobHash) -> bool {
        self.arrived.contains_key(hash)
    }

    /// What to ask for, to have a blob as a whole.
    pub(super) fn needed(&self, hash: &BlobHash) -> NeededBlob {
        let offset = self.arriving.get(hash).map_or(0, |begun| begun.len() as u64);
        NeededBlob { hash: hash.clone(), offset }
    }

    /// Takes a stretch of a blob that is asked for. What does not continue what is here, or does not come to its hash, is
    /// dropped and asked for anew.
    pub(super) fn chunk(&mut self, chunk: BlobChunk) {
        if chunk.total == 0 || chunk.total > BLOB_BYTES_MAX || self.has(&chunk.hash) {
            return;
        }
        let begun = self.arriving.entry(chunk.hash.clone()).or_default();
        let Some(overlap) = (begun.len() as u64).checked_sub(chunk.offset) else { return };
        let fresh = usize::try_from(overlap).ok().and_then(|overlap| chunk.data.get(overlap..));
        begun.extend_from_slice(fresh.unwrap_or_default());
        if begun.len() as u64 >= chunk.total {
            let content = self.arriving.remove(&chunk.hash).map(Bytes::from).unwrap_or_default();
            if blob_hash(&content) == chunk.hash {
                self.arrived.insert(chunk.hash, content);
            }
        }
    }

    /// Puts in what is here already.
    pub(super) fn put(&mut self, hash: BlobHash, content: Bytes) {
        self.arrived.insert(hash, content);
    }

    /// Hands a whole blob out.
    pub(super) fn take(&mut self, hash: &BlobHash) -> Option<Bytes> {
        self.arrived.remove(hash)
    }

    /// Whether nothing is here, not even a beginning.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.arriving.is_empty() && self.arrived.is_empty()
    }

    /// Forgets what is not asked for any more.
    pub(super) fn retain(&mut self, is_asked: impl Fn(&BlobHash) -> bool) {
        self.arriving.retain(|hash, _| is_asked(hash));
        self.arrived.retain(|hash, _| is_asked(hash));
    }
}
