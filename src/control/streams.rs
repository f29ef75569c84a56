//! What REST needs of a node while a client waits: logs, processes in containers, connections to pods, how much is taken.
//!
//! Owned here so that `rest` does not know how nodes are reached; sessions implement it.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use tokio::sync::mpsc;

pub use crate::link::{AttachOptions, ExecOptions, LogOptions, TunnelDown, TunnelKind, TunnelStream};
use crate::model::{Measure, NodeName, PodKey, Usage};

/// A stream to a pod. The node lets go of it when either end is dropped.
pub struct NodeStream {
    /// What the user sends. Logs take nothing.
    pub input: mpsc::Sender<TunnelDown>,
    /// What comes from the node. [`Piece::End`] or an error is the last item.
    pub output: BoxStream<'static, Result<Piece, StreamError>>,
}

/// What comes from a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Some bytes, at least one.
    Data(TunnelStream, Bytes),
    /// That was all. Of a command, its exit code; otherwise 0.
    End(i32),
}

/// Why a node gave nothing, or no more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The node has no session.
    #[error("node {0} is not connected")]
    NotConnected(NodeName),
    /// The node has as many streams open as it may have, or does not keep up.
    #[error("node {0} has too many streams to do")]
    Busy(NodeName),
    /// The node cannot give what was asked, in words for the user: no such container, nothing to read yet.
    #[error("{message}")]
    Refused {
        /// The HTTP status for it.
        code: u16,
        /// The kubelet's words where it has some.
        message: String,
    },
    /// The node did not answer in time.
    #[error("node {0} did not answer in time")]
    Late(NodeName),
    /// The connection to the node broke.
    #[error("the connection to node {0} broke")]
    Broken(NodeName),
}

/// The way to the nodes.
pub trait NodeStreams: Send + Sync + 'static {
    /// Opens a stream to a pod on its node. Once it is given, the node has begun to do what was asked.
    fn open<'a>(
        &'a self,
        node: &'a NodeName,
        pod: &'a PodKey,
        kind: TunnelKind,
    ) -> BoxFuture<'a, Result<NodeStream, StreamError>>;

    /// Has a node measured. Takes about a second.
    fn measure<'a>(&'a self, node: &'a NodeName, what: Measure) -> BoxFuture<'a, Result<Usage, StreamError>>;
}
