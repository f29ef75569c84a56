//! What REST needs of a node while a client waits: bulk data such as logs.
//!
//! Owned here so that `rest` does not know how nodes are reached; sessions implement it.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use jiff::Timestamp;

use crate::model::{NodeName, PodKey};

/// Bytes as they come. Ends at the end of the data; an error is the last item.
pub type ByteStream = BoxStream<'static, Result<Bytes, StreamError>>;

/// Which lines of a container's log are wanted (`PodLogOptions`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// `spec.containers[].name`.
    pub container: String,
    /// Go on with new lines until the container ends.
    pub follow: bool,
    /// The instance before the present one.
    pub previous: bool,
    /// Only so many lines from the end.
    pub tail_lines: Option<u64>,
    /// Only lines from then on.
    pub since: Option<Timestamp>,
    /// Begin each line with its time and a space.
    pub timestamps: bool,
    /// End after so many bytes.
    pub limit_bytes: Option<u64>,
}

/// Why a node gave no data, or no more.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StreamError {
    /// The node has no session.
    #[error("node {0} is not connected")]
    NotConnected(NodeName),
    /// The node cannot give what was asked, in words for the user: no such container, nothing to read yet.
    #[error("{0}")]
    Refused(String),
    /// The connection to the node broke.
    #[error("the connection to node {0} broke")]
    Broken(NodeName),
}

/// The way to the nodes.
pub trait NodeStreams: Send + Sync + 'static {
    /// Opens the log of a pod's container on its node.
    fn logs<'a>(
        &'a self,
        node: &'a NodeName,
        pod: &'a PodKey,
        options: LogOptions,
    ) -> BoxFuture<'a, Result<ByteStream, StreamError>>;
}
