//! What control says in a session.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use jiff::Timestamp;

use super::{CommandId, Kind, ObjectRef, Reason};
use crate::model::{BlobHash, FleetId, Measure, PermitNumber, Position, RevisionHash, Stdio, Taint, TerminalSize, Uid};

/// What control says in a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Down {
    /// The first message of every session.
    Welcome(Welcome),
    /// Every DaemonSet of the fleet.
    Manifest(Manifest),
    /// What is meant for this node alone.
    Assigned(Assigned),
    /// About DaemonSets and posted pods the node holds.
    Answers(Answers),
    /// A stretch of a blob.
    Blob(BlobChunk),
    /// What the user says about the Node.
    Node(NodeChange),
    /// A permit, or the end of one.
    Permit(Permit),
    /// Something to do with one pod.
    Pod {
        /// To acknowledge.
        id: CommandId,
        /// What to do.
        command: PodCommand,
    },
    /// Call back with a stream.
    OpenTunnel {
        /// To name in the tunnel's first message.
        id: CommandId,
        /// What the stream is to carry.
        tunnel: OpenTunnel,
    },
    /// Let go of a tunnel: its user is gone.
    CloseTunnel(CommandId),
    /// Say how much is taken now.
    Measure {
        /// To name in the answer.
        id: CommandId,
        /// By what.
        what: Measure,
    },
    /// The Node was removed through the API.
    Removed {
        /// To acknowledge.
        id: CommandId,
        /// The intent that removed it.
        position: Position,
    },
    /// Pods whose report control does not have.
    Wanted(Vec<Uid>),
    /// Control has lost its store: what does the ledger hold? Only for agents with the feature [`RECOUNT`](super::RECOUNT).
    Recount,
    /// What is in this blob, which [`Holdings`](super::Holdings) named?
    Recall(BlobHash),
    /// Answers a [`TokenRequest`](super::TokenRequest).
    Token {
        /// As in the request.
        id: u64,
        /// The token, or why the node does not get one.
        outcome: Result<Token, Reason>,
    },
    /// A sign of life. The link sends and answers it by itself.
    KeepAlive,
}

/// How control receives a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The version spoken in this session.
    pub protocol: u32,
    /// The fleet.
    pub fleet: FleetId,
    /// The era control writes now.
    pub era: u64,
    /// Every authority that signs for this fleet, in DER.
    pub ca_bundle: Vec<Bytes>,
    /// `metadata.uid` of the Node.
    pub node_uid: Uid,
    /// Whether the node may go on.
    pub reception: Reception,
    /// How often each side sends a keep-alive, in seconds.
    pub keep_alive_secs: u32,
    /// A connection on which nothing arrived for so many seconds is dead.
    pub silence_secs: u32,
}

/// Whether a node may go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reception {
    /// In step.
    Accepted,
    /// A rolled-back disk: adopt what runs, ask for nothing. Control soon receives the node anew. Says why.
    AdoptOnly(String),
    /// Go on with what runs, take nothing new.
    Hold {
        /// The case.
        reason: HoldReason,
        /// What is the matter and what to do, for people.
        message: String,
    },
}

/// Why control makes a node hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldReason {
    /// The ledger belongs to another fleet.
    OtherFleet,
    /// The ledger is further than control can account for.
    Ahead,
    /// Two hosts use this identity.
    Clone,
    /// The credentials were made for another machine.
    OtherMachine,
    /// Control has no record of the node and is about to recover what it lost.
    Recovery,
    /// A case that this build has no name for; the message says what it is.
    Other,
}

/// The desired state every node shares. Absence deletes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The intent it is true at.
    pub position: Position,
    /// All DaemonSets, in no order.
    pub entries: Vec<Entry>,
    /// Those whose first pod on a node waits for a permit.
    pub gradual: BTreeSet<Uid>,
}

/// One object and the name of its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `metadata.uid`.
    pub uid: Uid,
    /// What it is.
    pub kind: Kind,
    /// The intent that brought this content.
    pub seq: u64,
    /// The blob with the content.
    pub hash: BlobHash,
    /// Of a DaemonSet: the blob with what users wrote, which nodes keep for a control that has lost it.
    pub written: Option<BlobHash>,
}

/// The desired state of one node alone, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    /// The intent it is true at.
    pub position: Position,
    /// Pods posted with this node's name, or let go by their DaemonSet.
    pub pods: Vec<Entry>,
    /// One for each reference of the last [`Needs`](super::Needs).
    pub objects: Vec<(ObjectRef, ObjectAnswer)>,
}

/// What a node gets for a reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectAnswer {
    /// It may have it.
    Present(Entry),
    /// There is no such object.
    Absent,
    /// It may not have it, and why.
    Refused(Reason),
}

/// About uids the node holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answers {
    /// The intent they are true at.
    pub position: Position,
    /// One for each uid.
    pub answers: Vec<(Uid, Answer)>,
}

/// What control knows of a uid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It exists.
    Present,
    /// The user deleted it.
    Deleted {
        /// The intent that did.
        seq: u64,
        /// Pods of this node that are not its any more, and stay (`--cascade=orphan`). Its others end.
        kept: Vec<Uid>,
    },
    /// There is no record of it: hold what there is.
    Unknown,
}

/// A stretch of one blob. `Debug` leaves the data out, which may be a Secret's.
#[derive(Clone, PartialEq, Eq)]
pub struct BlobChunk {
    /// The blob.
    pub hash: BlobHash,
    /// Where `data` begins.
    pub offset: u64,
    /// Size of the whole blob; 0 if control does not have it any more.
    pub total: u64,
    /// At most [`CHUNK_BYTES`](super::CHUNK_BYTES).
    pub data: Bytes,
}

/// What the user says about the Node, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeChange {
    /// The intent it is true at.
    pub position: Position,
    /// All labels.
    pub labels: BTreeMap<String, String>,
    /// All taints.
    pub taints: Vec<Taint>,
    /// `kubectl cordon`.
    pub unschedulable: bool,
}

/// Lets one node move one DaemonSet to one revision, in this session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permit {
    /// Unique in the fleet for ever.
    pub number: PermitNumber,
    /// The DaemonSet.
    pub daemonset: Uid,
    /// The revision it may move to.
    pub revision: RevisionHash,
    /// It does not hold any more, unless it was taken.
    pub void: bool,
    /// It holds only where no pod that is available would make way.
    pub if_unavailable: bool,
}

/// Something to do with one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodCommand {
    /// The pod.
    pub uid: Uid,
    /// Act once the ledger holds this much intent.
    pub needs_seq: u64,
    /// What to do.
    pub action: PodAction,
}

/// What may be done with a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodAction {
    /// End it.
    Delete {
        /// What its containers get after the stop signal, in seconds.
        grace_period_secs: u32,
        /// The revision the pod in its place may be of.
        permit: Option<Permit>,
    },
    /// Treat it as failed: end it and put another in its place.
    Fail {
        /// One word in CamelCase.
        reason: String,
        /// A sentence.
        message: String,
    },
    /// Users changed something of a DaemonSet's pod.
    Amend(Amendment),
}

/// What users changed of a pod of a DaemonSet, whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Amendment {
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// core/v1 `EphemeralContainer` each, as JSON, oldest first.
    pub ephemeral_containers: Vec<Bytes>,
}

/// A token of a ServiceAccount. `Debug` leaves its text out.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// A JWT. Whoever has it is the ServiceAccount.
    pub text: String,
    /// Not good after this.
    pub expires_at: Timestamp,
}

/// A stream that control asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenTunnel {
    /// The pod it is about.
    pub pod: Uid,
    /// What it is to carry.
    pub kind: TunnelKind,
}

/// What a tunnel is to carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TunnelKind {
    /// What a container wrote.
    Logs(LogOptions),
    /// A new process in a container.
    Exec(ExecOptions),
    /// The process that a container is.
    Attach(AttachOptions),
    /// One connection to this port of the pod.
    PortForward(u16),
}

/// core/v1 `PodLogOptions`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Name of the container.
    pub container: String,
    /// Go on while the container runs.
    pub follow: bool,
    /// The instance before the present one.
    pub previous: bool,
    /// Begin each line with its time.
    pub timestamps: bool,
    /// Only what is not older, in seconds.
    pub since_secs: Option<u64>,
    /// Only what was written from then on.
    pub since_time: Option<Timestamp>,
    /// Only so many lines from the end.
    pub tail_lines: Option<u64>,
    /// Stop after so many bytes.
    pub limit_bytes: Option<u64>,
}

/// core/v1 `PodExecOptions`.
#[derive(Clone, PartialEq, Eq)]
pub struct ExecOptions {
    /// Name of the container.
    pub container: String,
    /// Program and arguments, not run by a shell.
    pub command: Vec<String>,
    /// What of it the user holds.
    pub stdio: Stdio,
}

/// core/v1 `PodAttachOptions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachOptions {
    /// Name of the container.
    pub container: String,
    /// What of it the user holds.
    pub stdio: Stdio,
}

/// What control says in a tunnel.
#[derive(Clone, PartialEq, Eq)]
pub enum TunnelDown {
    /// For the process's standard input, or the forwarded connection. At most [`CHUNK_BYTES`](super::CHUNK_BYTES).
    Data(Bytes),
    /// Nothing more comes for either.
    Close,
    /// The user's terminal has another size.
    Resize(TerminalSize),
}

// === impl BlobChunk ===

impl fmt::Debug for BlobChunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hash, offset, total, data } = self;
        let chunk = &mut f.debug_struct("BlobChunk");
        let chunk = chunk.field("hash", hash).field("offset", offset).field("total", total);
        chunk.field("data_bytes", &data.len()).finish()
    }
}

// === impl Token ===

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

// === impl ExecOptions, TunnelDown ===

/// Arguments may have passwords in them.
impl fmt::Debug for ExecOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { container, command, stdio } = self;
        let program = command.first();
        let options = &mut f.debug_struct("ExecOptions");
        options.field("container", container).field("program", &program).field("stdio", stdio).finish_non_exhaustive()
    }
}

/// What a user types is nobody else's business.
impl fmt::Debug for TunnelDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data(data) => f.debug_tuple("Data").field(&data.len()).finish(),
            Self::Close => f.write_str("Close"),
            Self::Resize(size) => f.debug_tuple("Resize").field(size).finish(),
        }
    }
}
