//! What an agent says: in its session, and in a tunnel.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::{BlobChunk, CommandId, ObjectRef, Reason, to_proto};
use crate::model::{
    BlobHash, FleetId, Incumbent, ObjectKey, PermitNumber, PodKey, Position, RevisionHash, Taint, Uid, Usage,
};

/// What an agent says in its session.
#[derive(Debug, Clone, PartialEq)]
pub enum Up {
    /// The first message of every session.
    Hello(Box<Hello>),
    /// The node as its agent sees it.
    Node(NodeReport),
    /// Pods whose report changed or was wanted.
    Pods(Vec<PodReport>),
    /// Verdicts that changed; each replaces the one before of the same DaemonSet.
    Verdicts(Vec<Verdict>),
    /// What the agent lacks, whole.
    Needs(Needs),
    /// What it did with what it was told.
    Ack(Ack),
    /// What happened to objects.
    Events(Vec<EventReport>),
    /// A newer revision was prepared.
    Ask(Ask),
    /// A pod needs a token of its ServiceAccount.
    TokenRequest(TokenRequest),
    /// Everything its ledger holds, as it was asked for.
    Holdings(Box<Holdings>),
    /// A stretch of a blob that it was asked for.
    Blob(BlobChunk),
    /// Answers a [`Down::Measure`](super::Down::Measure).
    Usage {
        /// Of the measure.
        id: CommandId,
        /// What was measured.
        usage: Usage,
    },
    /// A sign of life. The link sends and answers it by itself.
    KeepAlive,
}

/// Who calls and what its ledger holds. Whatever is not named here is void.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The newest protocol the agent speaks.
    pub protocol: u32,
    /// For people.
    pub agent_version: String,
    /// What the agent can do beyond version 1 of the protocol.
    pub features: Vec<String>,
    /// Changes with every boot of the host.
    pub boot_id: String,
    /// `/etc/machine-id`; credentials are tied to it.
    pub machine_id: String,
    /// The fleet the ledger belongs to.
    pub fleet: FleetId,
    /// How far the ledger has taken the fleet's intent over.
    pub position: Position,
    /// Counts the ledger's sessions; on disk before dialling.
    pub session: u64,
    /// Chosen anew with each `session`.
    pub nonce: String,
    /// The DaemonSets the ledger holds. Control answers each.
    pub daemonsets: Vec<HeldDaemonSet>,
    /// All pods of the node, with digests of their reports.
    pub pods: Vec<HeldPod>,
    /// Permits taken and not overtaken by a newer one.
    pub permits: Vec<TakenPermit>,
}

/// A DaemonSet in the ledger of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldDaemonSet {
    /// `metadata.uid`.
    pub uid: Uid,
    /// The intent that brought what is held.
    pub seq: u64,
    /// What to call it if control has no record of it; none from agents that do not say.
    pub key: Option<ObjectKey>,
    /// The newest revision held; none from agents that do not say.
    pub revision: Option<RevisionHash>,
}

/// A pod in the ledger of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldPod {
    /// `metadata.uid`.
    pub uid: Uid,
    /// What [`PodReport::digest`] gives for its report now.
    pub digest: Digest,
}

/// SHA-256 of a report as it goes over the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

/// A permit that was acted upon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenPermit {
    /// The permit.
    pub number: PermitNumber,
    /// The DaemonSet it is for.
    pub daemonset: Uid,
    /// The revision it allowed to move to.
    pub revision: RevisionHash,
}

/// The node as its agent sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeReport {
    /// Labels taken from the host: `kubernetes.io/hostname`, `os`, `arch`.
    pub labels: BTreeMap<String, String>,
    /// core/v1 `NodeStatus` as JSON.
    pub status: Bytes,
}

/// What the node owns of one pod. Never a spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodReport {
    /// Its names and uid.
    pub key: PodKey,
    /// None for a pod posted with a node name.
    pub daemonset: Option<Uid>,
    /// What it was made from.
    pub revision: RevisionHash,
    /// `metadata.creationTimestamp`.
    pub created_at: Timestamp,
    /// Ready for at least `minReadySeconds`, by the node's monotonic clock.
    pub available: bool,
    /// Set once the pod is on its way out.
    pub ending: Option<PodEnding>,
    /// Nothing is left of it: its last report.
    pub gone: bool,
    /// core/v1 `PodStatus` as JSON.
    pub status: Bytes,
}

/// How a pod ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodEnding {
    /// When its end was decided.
    pub since: Timestamp,
    /// What its containers get after the stop signal, in seconds.
    pub grace_period_secs: u32,
}

/// Whether one DaemonSet's pod belongs on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The DaemonSet.
    pub daemonset: Uid,
    /// The intent it was judged by.
    pub seq: u64,
    /// The revision it was judged by.
    pub revision: RevisionHash,
    /// The answer.
    pub standing: Standing,
    /// In the order of the checks; none means nothing was against.
    pub reasons: Vec<Reason>,
    /// Revisions this node left again by local fallback.
    pub rejected: Vec<RevisionHash>,
}

/// What a verdict comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The pod belongs here.
    Runs,
    /// A pod that is here stays; none is made.
    Stays,
    /// A pod that is here leaves.
    Leaves,
    /// The agent cannot realize the revision and keeps what it has.
    Refused,
}

/// What the agent lacks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// Blobs that a manifest names.
    pub blobs: Vec<NeededBlob>,
    /// All ConfigMaps and Secrets that verdicts here call for.
    pub objects: Vec<ObjectRef>,
}

/// A blob, from some byte on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeededBlob {
    /// Its name.
    pub hash: BlobHash,
    /// What lies before is here already.
    pub offset: u64,
}

/// What the agent did with what it was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ack {
    /// A command has come to its end.
    Command {
        /// Which.
        id: CommandId,
        /// How.
        outcome: Outcome,
    },
    /// The ledger holds everything up to here, deletions included.
    Position(Position),
    /// The permit is taken: on disk, about to be acted upon.
    Taken(PermitNumber),
    /// The permit is not taken, and void: the pod that it would have replaced is available.
    Declined(PermitNumber),
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// As asked.
    Done,
    /// This agent cannot do such a thing; why, for people.
    Unsupported(String),
    /// It was tried and is not tried again; why, for people.
    Failed(String),
}

/// Something that happened to an object: core/v1 `Event` as far as the node knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventReport {
    /// Kind of the object: `Pod`, `Node`, `DaemonSet`.
    pub kind: String,
    /// Its namespace; empty for a Node.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: Uid,
    /// Such as `spec.containers{exporter}`; may be empty.
    pub field_path: String,
    /// `Warning`, otherwise `Normal`.
    pub warning: bool,
    /// One word in CamelCase.
    pub reason: String,
    /// A sentence.
    pub message: String,
    /// When it happened first.
    pub first_at: Timestamp,
    /// When it happened last.
    pub last_at: Timestamp,
    /// How often.
    pub count: u32,
}

/// What came of preparing a newer revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// The DaemonSet.
    pub daemonset: Uid,
    /// The revision that was prepared.
    pub revision: RevisionHash,
    /// `Ok` asks for a permit; otherwise why the revision would not work here.
    pub prepared: Result<(), Reason>,
    /// What would make way for it.
    pub incumbent: Incumbent,
}

/// Asks for a token of a pod's ServiceAccount: authentication.k8s.io/v1 `TokenRequest`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRequest {
    /// Chosen by the agent; [`Down::Token`](super::Down::Token) bears it.
    pub id: u64,
    /// Of the ServiceAccount and of the pod.
    pub namespace: String,
    /// Name of the ServiceAccount.
    pub service_account: String,
    /// The pod the token is bound to.
    pub pod: PodKey,
    /// None for a pod posted with a node name.
    pub daemonset: Option<Uid>,
    /// Whom the token is meant for; empty means the API itself.
    pub audiences: Vec<String>,
    /// How long it is wanted for. The answer may give less or more.
    pub expiration_secs: u64,
}

/// Everything a ledger holds of the fleet but what runs, which [`Hello`] names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holdings {
    /// The Node's labels, as the API last told them.
    pub labels: BTreeMap<String, String>,
    /// Its taints, likewise.
    pub taints: Vec<Taint>,
    /// `kubectl cordon`.
    pub unschedulable: bool,
    /// Of DaemonSets that the node has not been told to end.
    pub revisions: Vec<HeldRevision>,
    /// ConfigMaps and Secrets in force.
    pub objects: Vec<HeldObject>,
    /// Pods that were posted and are not to end.
    pub pods: Vec<HeldPosted>,
    /// DaemonSets that exist and that the agent cannot realize.
    pub refused: Vec<Uid>,
}

/// A revision of a DaemonSet in a ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldRevision {
    /// `metadata.uid` of the DaemonSet.
    pub daemonset: Uid,
    /// Names the revision.
    pub revision: RevisionHash,
    /// Its bundle.
    pub bundle: BlobHash,
    /// The DaemonSet as users wrote it; none if the node has not got it.
    pub written: Option<BlobHash>,
    /// The newest that the node knows of.
    pub newest: bool,
}

/// A ConfigMap or Secret in a ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldObject {
    /// Which.
    pub object: ObjectRef,
    /// `metadata.uid`.
    pub uid: Uid,
    /// Its content.
    pub blob: BlobHash,
}

/// A pod in a ledger that was posted with the node's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldPosted {
    /// `metadata.uid`.
    pub uid: Uid,
    /// Its bundle.
    pub bundle: BlobHash,
}

/// Why a tunnel did not carry what was asked for; what the user is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TunnelFailure {
    /// HTTP status of the reply.
    pub code: u16,
    /// In kubelet's words where it has some.
    pub message: String,
}

/// What an agent says in a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TunnelUp {
    /// The first message: the command that asked for the tunnel.
    Hello(CommandId),
    /// At most [`CHUNK_BYTES`](super::CHUNK_BYTES). An empty one only tells who waits that there is no failure.
    Data(TunnelStream, Bytes),
    /// The last message. Everything was sent; for a command its exit code, otherwise 0.
    End(Result<i32, TunnelFailure>),
}

/// What an agent's data in a tunnel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TunnelStream {
    /// Of logs and of a forwarded connection: all there is.
    Main,
    /// A process's standard output.
    Output,
    /// A process's standard error.
    Error,
}

// === impl PodReport ===

impl PodReport {
    /// What a hello says instead of the whole report.
    pub fn digest(&self) -> Digest {
        let message = to_proto::pod_report(self.clone());
        Digest(Sha256::digest(prost::Message::encode_to_vec(&message)).into())
    }
}
