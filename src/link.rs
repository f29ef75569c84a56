//! The link between agent and control: what they say to each other, and how it gets there.
//!
//! [`Up`] and [`Down`] are the whole vocabulary, in plain types; protocol-buffer messages (`pb`) are named nowhere
//! outside this module. `to_proto` writes them, `from_proto` checks what arrives and turns it into these types.
//! [`client`] is the agent's end; [`server`] is control's, behind the same door ([`listen`]) as its REST API; [`tls`]
//! has the certificates both show.
//!
//! ```text
//! agent ── Up ──▶ client ──▶ to_proto ──gRPC over mutual TLS──▶ from_proto ──▶ server ── Up ──▶ control
//!       ◀─ Down ─        ◀── from_proto ◀─────────────────────  Frame (encoded once)   ◀── Down ─
//! ```
//!
//! The rules of the protocol stand in `proto/garrison/fleet/v1/fleet.proto`. Nothing here decides what should run; the
//! link does not know what is in a blob, and no log or exec byte ever travels in a session, nor on its connection.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use bytes::Bytes;

use crate::model::ObjectKey;

pub mod client;
mod down;
mod frame;
pub(crate) mod from_proto;
pub(crate) mod heard;
mod joining;
pub mod listen;
pub(crate) mod pb;
pub mod server;
pub mod tls;
pub(crate) mod to_proto;
mod token;
mod up;

pub use down::*;
pub use frame::Frame;
pub use from_proto::Malformed;
pub use joining::{EnrollRequest, Enrolled, RenewRequest, Renewed};
pub use token::{BadToken, JoinToken};
pub use up::*;

/// Where pods of every node reach the API: an address of the node (RFC 3927: it means the host it is used on), at which the
/// agent hands connections on. Part of what is frozen in running containers.
pub const POD_API: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(169, 254, 71, 1), 17443);

/// The newest version of the protocol that this build speaks.
pub const PROTOCOL: u32 = 1;
/// A feature of agents: they answer [`Down::Recount`] and [`Down::Recall`].
pub const RECOUNT: &str = "recount";
/// What an agent's message takes at most, encoded.
pub const MAX_UP_BYTES: usize = 512 * 1024;
/// What a message from control takes at most, encoded.
pub const MAX_DOWN_BYTES: usize = 4 * 1024 * 1024;
/// What a blob takes at most: no bundle, ConfigMap or Secret is larger.
pub const BLOB_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// What one chunk of a blob, and one piece of a tunnel's data, carries at most.
pub const CHUNK_BYTES: usize = 64 * 1024;

/// How many tunnels a node has open at most.
pub const TUNNELS_MAX: usize = 128;
/// What may be under way in one tunnel, each way, while nobody takes it.
const TUNNEL_WINDOW_BYTES: u32 = 256 * 1024;
/// The same for all of [`TUNNELS_MAX`]: one that is not read must not hold up the others.
const TUNNELS_WINDOW_BYTES: u32 = 128 * TUNNEL_WINDOW_BYTES;

/// How often an agent sends a keep-alive, and control answers it.
pub const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// A connection on which nothing arrived for so long is dead. Every byte counts: a keep-alive may queue behind a blob
/// on a slow line. Together with [`KEEP_ALIVE`] it leaves 20 s to answer, as upstream's 50 s node monitor grace period.
pub const SILENCE: Duration = Duration::from_secs(50);

/// Cuts data for a tunnel into pieces of [`CHUNK_BYTES`] at most; none if there is none.
pub fn pieces(mut data: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || (!data.is_empty()).then(|| data.split_to(data.len().min(CHUNK_BYTES))))
}

/// Numbers what control asks an agent to do; unique within the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(pub u64);

/// One reason, for programs and for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// One word in CamelCase.
    pub reason: String,
    /// A sentence.
    pub message: String,
    /// Path of the field it is about; may be empty.
    pub field: String,
}

/// Names a ConfigMap or a Secret.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    /// Which of the two.
    pub kind: Kind,
    /// Namespace and name.
    pub key: ObjectKey,
}

/// The kinds whose content travels to nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The bundle of one revision.
    DaemonSet,
    /// A pod posted with a node name.
    Pod,
    /// Configuration.
    ConfigMap,
    /// Configuration that must not be seen.
    Secret,
}

#[cfg(test)]
mod tests;
