//! The node's ledger: what this node must bring back by itself, on disk, before anybody can be asked.
//!
//! It owns `<state-dir>/ledger`: two slots (`manifest.a`, `manifest.b`) and a folder of immutable blobs. [`Contents`] come
//! in whole and are written whole, by turns to the slot that is older, so the previous good copy always stays:
//!
//! ```text
//! slot  = magic "GARRLDGR" | format u32 | oldest reader u32 | generation u64 | length u64 | SHA-256 | JSON | padding
//! blobs/<SHA-256 of the content>
//!
//! with a key:
//! slot  = the same, with the byte 1 and sealed JSON in the place of JSON
//! blobs/<HMAC of the SHA-256 of the content> holds sealed content
//! ```
//!
//! - The slots are allocated ahead, so a full disk cannot keep a deletion out.
//! - A commit flushes its new blobs and its slot at the same time: a starting container waits for one flush. A cut in
//!   between leaves a slot that names a blob which is not whole; the reader then takes the other slot, and nothing is
//!   lost, since that commit was never acknowledged.
//! - A reader ignores fields it does not know and refuses a ledger whose `oldest reader` is newer than itself. A format
//!   that N-1 cannot read raises `oldest reader` one version after the reading code. A sealed one does so at once: only a host
//!   that was given a key has it.
//! - With a key everything is sealed, slots and blobs: what a bundle says of a pod's environment is as much of a secret as a
//!   Secret is. Names of blobs are keyed, since the hash of a content that can be guessed tells whether it was. What remains
//!   to be seen is how many blobs there are, how large, and when each was written. A slot is bound to its generation and a blob
//!   to its hash; whoever can write to the disk can put an older ledger there, which control notices as a disk that was rolled
//!   back, or one in clear.
//! - A ledger that was written before there was a key is read as it is. The first commit seals what it writes, then the rest,
//!   and then removes what lies there in clear; a slot is wiped, and that flushed, before it is written. A cut in
//!   between leaves a ledger that opens with the key, and is gone on with. There is no way back: a sealed ledger does not open
//!   without its key, and is left as it is.
//!
//! It does not decide what belongs in a ledger, and never starts afresh over a damaged one.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::EphemeralContainer;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::Chain;
use crate::model::{
    BlobHash, Finished, FleetId, NodeName, ObjectKey, PermitNumber, PodKey, Position, RevisionHash, Source, Taint, Uid,
};
use crate::podspec::ObjectKind;
use crate::podspec::objects::{ObjectId, TokenSpec, Withheld};
use crate::seal::Key;

pub mod key;

/// The newest format this version reads; packages go by it (`packaging/build.sh`).
const FORMAT: u32 = 2;
/// Format and oldest reader of what this version writes in clear.
const IN_CLEAR: [u32; 2] = [1, 1];
/// The same of what it seals.
const SEALED: [u32; 2] = [FORMAT, 2];
/// What is sealed in a slot begins with this, which JSON never does.
const SEALED_MARK: u8 = 1;
const MAGIC: &[u8; 8] = b"GARRLDGR";
/// Magic, format, oldest reader, generation, length and checksum.
const HEADER_BYTES: usize = 8 + 4 + 4 + 8 + 8 + 32;
/// What a slot takes on disk from the start; it doubles whenever the contents fill more than half.
const SLOT_BYTES: u64 = 256 * 1024;
/// No ledger grows beyond this; a slot that says otherwise is damaged.
const SLOT_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Everything a node remembers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Contents {
    /// Who this node is, once it is enrolled or runs without control.
    pub identity: Option<Identity>,
    /// The Node's user-owned fields as the API last told them.
    pub node: NodeIntent,
    /// `node` is newer than the DaemonSets: those that go with it are still on their way. Until they are here, nothing is
    /// known to be in the wrong place.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub node_ahead: bool,
    /// How far the fleet's intent has been taken over.
    pub position: Position,
    /// Counts the sessions this disk has begun; fsynced before dialling (design.md §5, clones and old disks).
    pub session: u64,
    /// Chosen anew with each `session`, hex.
    pub session_nonce: String,
    /// The newest wall-clock time ever seen here; the TLS clock never goes back before it.
    pub last_seen: Option<Timestamp>,
    /// The DaemonSets this node was told of, by uid.
    pub daemonsets: BTreeMap<Uid, DaemonSetRecord>,
    /// The pods that exist on this node, by uid. Written before the sandbox is made.
    pub pods: BTreeMap<Uid, PodRecord>,
    /// ConfigMaps and Secrets that the revisions above use, and those of the folder of manifests.
    pub objects: Vec<ObjectRecord>,
    /// Those among them that there are not, or not for this node.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub withheld: Vec<WithheldRecord>,
    /// Tokens of the pods above.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<TokenRecord>,
    /// The Node was removed through the API; the credentials go with the last pod.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub removed: bool,
    /// The folder of manifests that was read last: another one in its place may be a mount that is late.
    pub folder: Option<FolderId>,
}

/// Tells one folder from another at the same path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FolderId {
    /// `st_dev` of stat(2).
    pub device: u64,
    /// `st_ino` of stat(2).
    pub inode: u64,
}

/// Who the node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// The fleet it belongs to; its own where there is no control.
    pub fleet: FleetId,
    /// Fixed at enrolment.
    pub name: NodeName,
    /// `metadata.uid` of its Node.
    pub uid: Uid,
}

/// What people say about the node through the API.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeIntent {
    /// All labels of the Node.
    pub labels: BTreeMap<String, String>,
    /// All taints of the Node, those derived from conditions included.
    pub taints: Vec<Taint>,
    /// `kubectl cordon`.
    pub unschedulable: bool,
}

/// One DaemonSet, with every revision this node may need of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DaemonSetRecord {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Where it was learnt from.
    pub source: Source,
    /// The intent's sequence number that brought `newest`.
    pub seq: u64,
    /// The newest revision the user wrote.
    pub newest: RevisionRecord,
    /// The one this node's pods are made from now; none until the first pod was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permitted: Option<RevisionRecord>,
    /// The permit under which it moved there; none for a first placement and for files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken: Option<PermitNumber>,
    /// The revision before `permitted`, as long as that was never available here since it was taken: what a node that is cut off
    /// goes back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<RevisionRecord>,
    /// Revisions that failed here and were left again by local fallback, until a user writes something newer.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub rejected: BTreeSet<RevisionHash>,
    /// By revision: the DaemonSet as users wrote it, kept for a control that has lost it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub written: BTreeMap<RevisionHash, BlobHash>,
    /// A newer instruction took it away; the record goes with its last pod.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
}

impl DaemonSetRecord {
    /// Every revision this node may make a pod of.
    pub fn revisions(&self) -> impl Iterator<Item = &RevisionRecord> {
        [Some(&self.newest), self.permitted.as_ref(), self.before.as_ref()].into_iter().flatten()
    }
}

/// One revision and the blob that holds its admitted bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevisionRecord {
    /// The value of `controller-revision-hash`.
    pub hash: RevisionHash,
    /// The bundle: `api::bundle::Bundle` as JSON.
    pub bundle: BlobHash,
}

/// One pod: a first-class record, kept until the pod is wholly gone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRecord {
    /// Names and uid, minted here.
    pub key: PodKey,
    /// The DaemonSet it belongs to; none for a pod posted with a node name, or let go by its DaemonSet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daemonset: Option<Uid>,
    /// What it is made from.
    pub revision: RevisionRecord,
    /// When the record was made: the pod's `creationTimestamp`.
    pub created_at: Timestamp,
    /// The pod is on its way out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Ending>,
    /// The pod has come to its end by itself, and stays so also when the runtime has forgotten it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<Finished>,
    /// Its labels and annotations, if users changed those it was made with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amended: Option<AmendedMetadata>,
    /// Containers that were added to the pod since (`kubectl debug`), oldest first; none is ever taken away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ephemeral_containers: Vec<EphemeralContainer>,
}

/// What users may change of a pod's metadata, whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AmendedMetadata {
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
}

/// Why and how a pod ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ending {
    /// When the end was decided: the pod's `deletionTimestamp` less the grace period.
    pub since: Timestamp,
    /// How long its containers get after the stop signal, in seconds.
    pub grace_period_secs: u32,
}

/// One ConfigMap or Secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRecord {
    /// Where it was learnt from.
    #[serde(default = "from_control")]
    pub source: Source,
    /// Which of the two.
    pub kind: ObjectKind,
    /// Namespace and name.
    pub key: ObjectKey,
    /// `metadata.uid`; empty for one of a file.
    pub uid: Uid,
    /// The object as JSON.
    pub blob: BlobHash,
    /// It was withdrawn, and these pods keep it as it was. Empty while it is in force.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub kept_for: BTreeSet<Uid>,
}

fn from_control() -> Source {
    Source::Link
}

/// An object that control does not give: a pod that can do without it starts without asking again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WithheldRecord {
    /// Which kind.
    pub kind: ObjectKind,
    /// Namespace and name.
    pub key: ObjectKey,
    /// Why not.
    pub why: Withheld,
}

/// The last good token of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenRecord {
    /// The pod it is bound to.
    pub pod: Uid,
    /// What was asked for.
    pub spec: TokenSpec,
    /// Its text.
    pub blob: BlobHash,
    /// When another is asked for.
    pub renew_at: Timestamp,
}

impl ObjectRecord {
    /// What it is named by on this node.
    pub fn id(&self) -> ObjectId {
        ObjectId { source: self.source, kind: self.kind, key: self.key.clone() }
    }
}

impl WithheldRecord {
    /// What it is named by on this node.
    pub fn id(&self) -> ObjectId {
        ObjectId { source: Source::Link, kind: self.kind, key: self.key.clone() }
    }
}

impl TokenRecord {
    /// What it is named by on this node.
    pub fn id(&self) -> (Uid, TokenSpec) {
        (self.pod.clone(), self.spec.clone())
    }
}

/// [`Contents`] as they will be written, so that a thread which may block need not hold the originals.
#[derive(Debug)]
pub struct Snapshot {
    json: Vec<u8>,
    blobs: BTreeSet<BlobHash>,
}

impl Contents {
    /// What [`Ledger::commit`] takes.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            json: serde_json::to_vec(self).expect("the ledger's types have string keys only"),
            blobs: self.blobs().into_iter().cloned().collect(),
        }
    }

    /// The bundles of all revisions named here, each once.
    pub fn bundles(&self) -> BTreeSet<BlobHash> {
        self.revisions().map(|revision| revision.bundle.clone()).collect()
    }

    fn revisions(&self) -> impl Iterator<Item = &RevisionRecord> {
        self.daemonsets.values().flat_map(DaemonSetRecord::revisions).chain(self.pods.values().map(|pod| &pod.revision))
    }

    /// Every blob these contents need.
    fn blobs(&self) -> BTreeSet<&BlobHash> {
        let objects = self.objects.iter().map(|object| &object.blob);
        let tokens = self.tokens.iter().map(|token| &token.blob);
        let written = self.daemonsets.values().flat_map(|set| set.written.values());
        self.revisions().map(|revision| &revision.bundle).chain(objects).chain(tokens).chain(written).collect()
    }
}

/// What opening a ledger found.
#[derive(Debug)]
pub struct Opened {
    /// The handle to write through.
    pub ledger: Ledger,
    /// What the ledger holds; the default if there was none yet.
    pub contents: Contents,
    /// What was not as it should be but could be passed over, in words for the log and the node's condition.
    pub notes: Vec<String>,
}

/// The open ledger. One process at a time: the caller holds the state directory's lock.
#[derive(Debug)]
pub struct Ledger {
    dir: PathBuf,
    slots: [File; 2],
    /// The generation each slot holds; 0 for none.
    generations: [u64; 2],
    /// The blobs each slot needs; what neither needs is removed.
    needed: [BTreeSet<BlobHash>; 2],
    /// What everything is sealed with; none for a ledger in clear.
    key: Option<Key>,
    /// Which slots were written with it.
    sealed: [bool; 2],
    /// There may be something in clear, though there is a key.
    has_clear: bool,
}

/// Why the ledger could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file system refused.
    #[error("cannot {action} {path}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Both copies are damaged.
    #[error(
        "both copies of the node's ledger in {dir} are damaged ({a}; {b}); running pods go on, but this agent does not know \
         them; restore the folder from a back-up, or move it away to let the node enrol anew"
    )]
    Damaged {
        /// The ledger's folder.
        dir: PathBuf,
        /// What is wrong with `manifest.a`.
        a: String,
        /// What is wrong with `manifest.b`.
        b: String,
    },
    /// A newer garrison wrote it in a form this one cannot read.
    #[error(
        "{path} was written by a newer garrison (format {found}, this one reads up to {FORMAT}); install that version again"
    )]
    Newer {
        /// The slot.
        path: PathBuf,
        /// Its oldest reader.
        found: u32,
    },
    /// It is sealed, and this is not the key.
    #[error(
        "the node's ledger in {dir} is sealed, and {why}; put this host's /etc/credstore.encrypted/{} back as it was and restart \
         the agent; running pods go on meanwhile. A key that is lost takes the ledger with it: the host has to enrol anew then",
        key::CREDENTIAL
    )]
    Sealed {
        /// The ledger's folder.
        dir: PathBuf,
        /// Whether there is no key, or another.
        why: &'static str,
    },
    /// A blob is missing or its content does not match its name.
    #[error("{path} is missing or damaged")]
    Blob {
        /// The blob's file.
        path: PathBuf,
    },
    /// More than a ledger may hold.
    #[error("the node's ledger would grow to {bytes} bytes, the bound is {SLOT_BYTES_MAX}")]
    TooLarge {
        /// What the contents would take.
        bytes: u64,
    },
}

impl LedgerError {
    /// Nothing was changed on disk for want of room; the same commit may succeed later.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull)
    }
}

/// The name of a blob with this content.
pub fn blob_hash(content: &[u8]) -> BlobHash {
    BlobHash(hex(&Sha256::digest(content)))
}

/// What the file is called that holds a blob as it is written with this key, or without one.
fn blob_name<'a>(key: Option<&Key>, hash: &'a BlobHash) -> Cow<'a, str> {
    key.map_or(Cow::Borrowed(hash.as_str()), |key| Cow::Owned(hex(&key.name(hash.as_str()))))
}

/// What a sealed blob is bound to.
fn blob_place(hash: &BlobHash) -> String {
    format!("blob {hash}")
}

/// What a sealed slot is bound to.
fn slot_place(generation: u64) -> String {
    format!("slot {generation}")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

// === impl Ledger ===

impl Ledger {
    /// Opens the ledger below `state_dir`, or makes an empty one where there is none. With a key what is written is sealed.
    ///
    /// # Errors
    /// [`LedgerError::Damaged`] when neither copy can be read, [`LedgerError::Newer`] when a newer version wrote it,
    /// [`LedgerError::Sealed`] when it takes another key. All leave the files as they are.
    pub fn open(state_dir: &Path, key: Option<Key>) -> Result<Opened, LedgerError> {
        let dir = state_dir.join("ledger");
        make_dir(&dir)?;
        make_dir(&dir.join("blobs"))?;
        let slots = [open_slot(&dir.join("manifest.a"))?, open_slot(&dir.join("manifest.b"))?];
        let mut ledger = Self {
            dir,
            slots,
            generations: [0, 0],
            needed: [BTreeSet::new(), BTreeSet::new()],
            key,
            sealed: [false, false],
            has_clear: true,
        };
        let found = [ledger.read_slot(0)?, ledger.read_slot(1)?];
        for (index, slot) in found.iter().enumerate() {
            if let Slot::Good { generation, contents, is_sealed } = slot {
                ledger.generations[index] = *generation;
                ledger.needed[index] = contents.blobs().into_iter().cloned().collect();
                ledger.sealed[index] = *is_sealed;
            }
        }
        let (contents, notes) = ledger.choose(found)?;
        let is_sealed = |hash| ledger.read_blob(ledger.key.as_ref(), hash).is_some();
        ledger.has_clear =
            ledger.key.is_some() && !(ledger.sealed == [true, true] && contents.blobs().into_iter().all(is_sealed));
        Ok(Opened { ledger, contents, notes })
    }

    /// Writes `contents` and the blobs that are new with them. When this returns, they survive a power cut.
    ///
    /// Blocks for one flush of the disk. A blob that is already there is not written again.
    ///
    /// # Errors
    /// On any error the previous contents are what the next [`Ledger::open`] finds; where the disk failed at the flush, it may find
    /// these. Whoever opens it writes what was found once more before anything is said or acknowledged.
    pub fn commit(&mut self, contents: &Snapshot, new_blobs: &[Bytes]) -> Result<(), LedgerError> {
        self.write(contents, new_blobs)?;
        if self.has_clear
            && let Err(error) = self.seal_rest(contents)
        {
            tracing::warn!(error = %Chain(&error), "a part of the ledger is still in clear; the next write tries again to seal it");
        }
        self.collect_blobs();
        Ok(())
    }

    /// Writes to the slot that is older.
    fn write(&mut self, contents: &Snapshot, new_blobs: &[Bytes]) -> Result<(), LedgerError> {
        let index = usize::from(self.generations[1] < self.generations[0]);
        let generation = self.generations[0].max(self.generations[1]) + 1;
        let record = encode_slot(generation, &contents.json, self.key.as_ref());
        let path = self.slot_path(index);
        let room = reserve(&self.slots[index], &path, record.len() as u64)?;
        // From here on the slot is not the copy it was, whatever happens.
        self.generations[index] = 0;
        if self.key.is_some() && !self.sealed[index] {
            // What is there in clear may reach further than what is written over it, and a slot that is whole again is taken for sealed.
            let zeros = vec![0; usize::try_from(room).expect("slots are far below 2^32 bytes")];
            self.slots[index].write_all_at(&zeros, 0).map_err(io_error("write", &path))?;
            self.slots[index].sync_data().map_err(io_error("flush", &path))?;
        }
        let blobs = self.write_blobs(new_blobs)?;
        self.slots[index].write_all_at(&record, 0).map_err(io_error("write", &path))?;
        self.flush(index, &blobs)?;
        self.generations[index] = generation;
        self.needed[index].clone_from(&contents.blobs);
        self.sealed[index] = self.key.is_some();
        Ok(())
    }

    /// Seals what lies here in clear: blobs, and the slot that [`Ledger::write`] did not just write. The copies in clear stay until
    /// that is done.
    fn seal_rest(&mut self, contents: &Snapshot) -> Result<(), LedgerError> {
        let in_clear = contents.blobs.iter().filter(|hash| self.read_blob(self.key.as_ref(), hash).is_none());
        let in_clear: Vec<_> = in_clear.filter_map(|hash| self.read_blob(None, hash)).map(Bytes::from).collect();
        self.write(contents, &in_clear)?;
        self.has_clear = false;
        Ok(())
    }

    /// Reads a blob that the contents name.
    ///
    /// # Errors
    /// [`LedgerError::Blob`] when it is missing or damaged.
    pub fn blob(&self, hash: &BlobHash) -> Result<Vec<u8>, LedgerError> {
        let found = self.read_blob(self.key.as_ref(), hash);
        let found = if self.has_clear { found.or_else(|| self.read_blob(None, hash)) } else { found };
        found.ok_or_else(|| LedgerError::Blob { path: self.blob_path(self.key.as_ref(), hash) })
    }

    /// A blob as it was written with this key, or without one; none if it is missing or damaged.
    fn read_blob(&self, key: Option<&Key>, hash: &BlobHash) -> Option<Vec<u8>> {
        let content = fs::read(self.blob_path(key, hash)).ok()?;
        let content = match key {
            Some(key) => key.open(&blob_place(hash), content)?,
            None => content,
        };
        (blob_hash(&content) == *hash).then_some(content)
    }

    fn slot_path(&self, index: usize) -> PathBuf {
        self.dir.join(["manifest.a", "manifest.b"][index])
    }

    fn blob_path(&self, key: Option<&Key>, hash: &BlobHash) -> PathBuf {
        self.dir.join("blobs").join(&*blob_name(key, hash))
    }

    /// Picks the newest slot whose blobs are all whole; failing that, the newest slot, naming what it lacks. One that was passed
    /// over is the next to be written to.
    fn choose(&mut self, found: [Slot; 2]) -> Result<(Contents, Vec<String>), LedgerError> {
        if found.iter().any(|slot| matches!(slot, Slot::Sealed)) {
            let why = match self.key {
                None => "there is no key",
                Some(_) => "not with the key there is",
            };
            return Err(LedgerError::Sealed { dir: self.dir.clone(), why });
        }
        let [a, b] = found;
        let mut notes = Vec::new();
        for (index, slot) in [&a, &b].into_iter().enumerate() {
            if let Slot::Damaged { why } = slot {
                notes.push(format!("{} is damaged ({why}); the other copy is used", self.slot_path(index).display()));
            }
        }
        let (newest, mut good) =
            match (a, b) {
                (Slot::Empty, Slot::Empty) => return Ok((Contents::default(), notes)),
                (Slot::Good { generation: g, contents: c, .. }, Slot::Good { generation: h, contents: d, .. }) => {
                    if g > h { (0, vec![c, d]) } else { (1, vec![d, c]) }
                }
                (Slot::Good { contents, .. }, _) => (0, vec![contents]),
                (_, Slot::Good { contents, .. }) => (1, vec![contents]),
                (a, b) => {
                    return Err(LedgerError::Damaged { dir: self.dir.clone(), a: a.trouble(), b: b.trouble() });
                }
            };
        let lacking = |contents: &Contents| -> Vec<BlobHash> {
            contents.blobs().into_iter().filter(|hash| self.blob(hash).is_err()).cloned().collect()
        };
        let whole = good.iter().position(|contents| lacking(contents).is_empty());
        if whole == Some(1) {
            notes.push(format!("the last write to {} did not end; the one before is used", self.dir.display()));
        }
        let chosen = good.swap_remove(whole.unwrap_or(0));
        for hash in lacking(&chosen) {
            notes.push(format!(
                "{} is missing or damaged; its pods cannot be made anew",
                self.blob_path(self.key.as_ref(), &hash).display()
            ));
        }
        if whole == Some(1) {
            self.generations[newest] = 0;
        }
        Ok((*chosen, notes))
    }

    fn read_slot(&self, index: usize) -> Result<Slot, LedgerError> {
        let path = self.slot_path(index);
        let mut file = &self.slots[index];
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io_error("read", &path))?;
        decode_slot(&bytes, self.key.as_ref()).map_err(|found| LedgerError::Newer { path, found })
    }

    /// Writes blobs that are not there yet; answers with the files to flush.
    fn write_blobs(&self, blobs: &[Bytes]) -> Result<Vec<(PathBuf, File)>, LedgerError> {
        let mut written = Vec::new();
        let key = self.key.as_ref();
        for content in blobs {
            let hash = blob_hash(content);
            if self.read_blob(key, &hash).is_some() {
                continue;
            }
            let sealed = key.map(|key| key.seal(&blob_place(&hash), content));
            let path = self.blob_path(key, &hash);
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            let mut file = options.open(&path).map_err(io_error("create", &path))?;
            file.write_all(sealed.as_deref().unwrap_or(content)).map_err(io_error("write", &path))?;
            written.push((path, file));
        }
        if !written.is_empty() {
            let path = self.dir.join("blobs");
            let dir = File::open(&path).map_err(io_error("open", &path))?;
            written.push((path, dir));
        }
        Ok(written)
    }

    /// Flushes the slot and the new blobs side by side, so that their flushes share the disk's work.
    fn flush(&self, index: usize, blobs: &[(PathBuf, File)]) -> Result<(), LedgerError> {
        let slot_path = self.slot_path(index);
        std::thread::scope(|scope| {
            let flushes: Vec<_> = blobs
                .iter()
                .map(|(path, file)| scope.spawn(move || file.sync_all().map_err(io_error("flush", path))))
                .collect();
            let slot = self.slots[index].sync_data().map_err(io_error("flush", &slot_path));
            for flush in flushes {
                flush.join().expect("flushing a file does not panic")?;
            }
            slot
        })
    }

    /// Removes blobs that neither slot needs. What cannot be removed now is tried again after the next commit.
    fn collect_blobs(&self) {
        let Ok(entries) = fs::read_dir(self.dir.join("blobs")) else { return };
        let keys = [Some(self.key.as_ref()), self.has_clear.then_some(None)];
        let needed = || self.needed.iter().flatten();
        let names: BTreeSet<_> =
            keys.into_iter().flatten().flat_map(|key| needed().map(move |hash| blob_name(key, hash))).collect();
        for entry in entries.flatten() {
            if !names.contains(&*entry.file_name().to_string_lossy()) {
                drop(fs::remove_file(entry.path()));
            }
        }
    }
}

/// What one slot holds.
#[derive(Debug)]
pub(crate) enum Slot {
    /// Never written.
    Empty,
    Good {
        generation: u64,
        contents: Box<Contents>,
        is_sealed: bool,
    },
    /// Whole, but sealed with another key, or with any where there is none.
    Sealed,
    Damaged {
        why: String,
    },
}

impl Slot {
    fn trouble(&self) -> String {
        match self {
            Self::Empty => "never written".to_owned(),
            Self::Good { generation, .. } => format!("generation {generation}"),
            Self::Sealed => "sealed".to_owned(),
            Self::Damaged { why } => why.clone(),
        }
    }
}

pub(crate) fn encode_slot(generation: u64, json: &[u8], key: Option<&Key>) -> Vec<u8> {
    let sealed = key.map(|key| key.seal(&slot_place(generation), json));
    let (format, mark, payload) = match &sealed {
        Some(sealed) => (SEALED, &[SEALED_MARK][..], &sealed[..]),
        None => (IN_CLEAR, &[][..], json),
    };
    let length = mark.len() + payload.len();
    let mut checked = Vec::with_capacity(HEADER_BYTES + length);
    checked.extend_from_slice(MAGIC);
    checked.extend(format.into_iter().flat_map(u32::to_le_bytes));
    checked.extend_from_slice(&generation.to_le_bytes());
    checked.extend_from_slice(&(length as u64).to_le_bytes());
    let checksum = Sha256::new().chain_update(&checked).chain_update(mark).chain_update(payload).finalize();
    checked.extend_from_slice(&checksum);
    checked.extend_from_slice(mark);
    checked.extend_from_slice(payload);
    checked
}

/// Reads a slot's bytes; `Err` is the oldest reader a newer version asks for.
pub(crate) fn decode_slot(bytes: &[u8], key: Option<&Key>) -> Result<Slot, u32> {
    let damaged = |why: &str| Ok(Slot::Damaged { why: why.to_owned() });
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(Slot::Empty);
    }
    if bytes.len() < HEADER_BYTES || &bytes[..8] != MAGIC {
        return damaged("it does not begin as a ledger does");
    }
    let (prefix, rest) = bytes.split_at(HEADER_BYTES - 32);
    let (checksum, payload) = rest.split_at(32);
    let number = |at: usize| u64::from_le_bytes(prefix[at..at + 8].try_into().expect("eight bytes"));
    let (generation, length) = (number(16), number(24));
    let Some(content) = usize::try_from(length).ok().and_then(|length| payload.get(..length)) else {
        return damaged("it is cut short");
    };
    if Sha256::new().chain_update(prefix).chain_update(content).finalize().as_slice() != checksum {
        return damaged("its checksum does not match");
    }
    let oldest_reader = u32::from_le_bytes(prefix[12..16].try_into().expect("four bytes"));
    if oldest_reader > FORMAT {
        return Err(oldest_reader);
    }
    let opened = match content.split_first() {
        Some((&SEALED_MARK, sealed)) => {
            // It is whole, so it is the key that does not fit.
            let Some(json) = key.and_then(|key| key.open(&slot_place(generation), sealed.to_vec())) else {
                return Ok(Slot::Sealed);
            };
            Some(json)
        }
        _ => None,
    };
    match serde_json::from_slice(opened.as_deref().unwrap_or(content)) {
        Ok(contents) => Ok(Slot::Good { generation, contents, is_sealed: opened.is_some() }),
        Err(error) => damaged(&error.to_string()),
    }
}

fn make_dir(path: &Path) -> Result<(), LedgerError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error("create", path))
}

/// Opens a slot and gives a new one its room on disk.
fn open_slot(path: &Path) -> Result<File, LedgerError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(path).map_err(io_error("open", path))?;
    if file.metadata().map_err(io_error("inspect", path))?.len() == 0 {
        allocate(&file, path, SLOT_BYTES)?;
        let dir = path.parent().expect("a slot lies in the ledger's folder");
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error("flush", dir))?;
    }
    Ok(file)
}

/// Makes sure that `bytes` fit with room to spare, so that growth does not happen when the disk is full.
/// Answers with what the file takes then.
fn reserve(file: &File, path: &Path, bytes: u64) -> Result<u64, LedgerError> {
    if bytes > SLOT_BYTES_MAX {
        return Err(LedgerError::TooLarge { bytes });
    }
    let has = file.metadata().map_err(io_error("inspect", path))?.len();
    if bytes <= has / 2 {
        return Ok(has);
    }
    let wanted = has.max(bytes * 2);
    match allocate(file, path, wanted) {
        // It fits as it is: a full disk must not keep a deletion out.
        Err(error) if error.is_disk_full() && bytes <= has => Ok(has),
        other => other.map(|()| wanted),
    }
}

fn allocate(file: &File, path: &Path, bytes: u64) -> Result<(), LedgerError> {
    let length = i64::try_from(bytes).expect("slots are far below 2^63 bytes");
    nix::fcntl::posix_fallocate(file, 0, length).map_err(|errno| io_error("allocate", path)(errno.into()))
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LedgerError {
    let path = path.to_owned();
    move |source| LedgerError::Io { action, path, source }
}

#[cfg(test)]
mod tests;
