//! Streams that users wait for: asked for in a session, delivered through a tunnel the node opens.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use uuid::Uuid;

use super::Sessions;
use crate::control::streams::{ByteStream, LogOptions, NodeStreams, StreamError};
use crate::link::server::{Denied, TunnelSender};
use crate::link::{self, CommandId, Down, OpenTunnel, TunnelFailure};
use crate::model::{NodeName, PodKey, Uid};

/// How long a node may take to open a tunnel it was asked for.
const OPEN_WITHIN: Duration = Duration::from_secs(10);
/// How long a user waits for the first byte before the answer begins without one: a failure would be here by then.
const FIRST_WITHIN: Duration = Duration::from_secs(1);
/// Pieces on their way from a node to a user; the node waits when there are more.
const PIECES: usize = 4;

/// The tunnels that nodes were asked for and have not opened.
#[derive(Debug, Default)]
pub(super) struct Tunnels {
    asked: Mutex<HashMap<CommandId, Asked>>,
}

#[derive(Debug)]
struct Asked {
    node: Uid,
    sender: TunnelSender,
}

type Receiver = mpsc::Receiver<Result<Bytes, TunnelFailure>>;

impl Tunnels {
    fn lock(&self) -> MutexGuard<'_, HashMap<CommandId, Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a tunnel that `node` may open.
    fn ask(&self, node: &Uid) -> (CommandId, Receiver) {
        let (sender, receiver) = mpsc::channel(PIECES);
        // Other commands are numbered by intent; those numbers never get so high.
        let id = CommandId(Uuid::new_v4().as_u64_pair().0 | 1 << 63);
        self.lock().insert(id, Asked { node: node.clone(), sender });
        (id, receiver)
    }

    /// Nobody waits for it any more. Says whether it was still to be opened.
    fn give_up(&self, id: CommandId) -> bool {
        self.lock().remove(&id).is_some()
    }

    /// A node opens a tunnel.
    ///
    /// # Errors
    /// [`Denied::Invalid`] if this node was not asked for it.
    pub(super) fn open(&self, node: &Uid, id: CommandId) -> Result<TunnelSender, Denied> {
        let mut asked = self.lock();
        match asked.remove(&id) {
            Some(tunnel) if tunnel.node == *node => Ok(tunnel.sender),
            other => {
                asked.extend(other.map(|other| (id, other)));
                Err(Denied::Invalid("nobody waits for this tunnel any more".to_owned()))
            }
        }
    }

    /// A node will not open a tunnel.
    pub(super) fn refused(&self, node: &Uid, id: CommandId, why: String) {
        let mut asked = self.lock();
        if asked.get(&id).is_some_and(|tunnel| tunnel.node == *node)
            && let Some(tunnel) = asked.remove(&id)
        {
            drop(tunnel.sender.try_send(Err(TunnelFailure { code: 501, message: why })));
        }
    }
}

impl NodeStreams for Sessions {
    fn logs<'a>(
        &'a self,
        node: &'a NodeName,
        pod: &'a PodKey,
        options: LogOptions,
    ) -> BoxFuture<'a, Result<ByteStream, StreamError>> {
        async move {
            let shared = &self.shared;
            let not_connected = || StreamError::NotConnected(node.clone());
            let uid = shared.roster.uid_of(node).ok_or_else(not_connected)?;
            let (id, receiver) = shared.tunnels.ask(&uid);
            let tunnel = OpenTunnel { pod: pod.uid.clone(), logs: log_options(options) };
            if !shared.roster.say(&uid, Down::OpenTunnel { id, tunnel }) {
                shared.tunnels.give_up(id);
                return Err(not_connected());
            }
            delivered(&shared.tunnels, id, receiver, node.clone()).await
        }
        .boxed()
    }
}

fn log_options(options: LogOptions) -> link::LogOptions {
    link::LogOptions {
        container: options.container,
        follow: options.follow,
        previous: options.previous,
        timestamps: options.timestamps,
        since_secs: None,
        since_time: options.since,
        tail_lines: options.tail_lines,
        limit_bytes: options.limit_bytes,
    }
}

/// Waits until it is clear that the stream comes, then gives it.
async fn delivered(
    tunnels: &Tunnels,
    id: CommandId,
    mut receiver: Receiver,
    node: NodeName,
) -> Result<ByteStream, StreamError> {
    let mut first = tokio::time::timeout(FIRST_WITHIN, receiver.recv()).await;
    let unopened = || tunnels.lock().contains_key(&id);
    if first.is_err() && unopened() {
        first = tokio::time::timeout(OPEN_WITHIN, receiver.recv()).await;
    }
    let first = match first {
        Ok(Some(Err(failure))) => return Err(StreamError::Refused(failure.message)),
        Ok(first) => first,
        Err(_) if tunnels.give_up(id) => return Err(StreamError::Broken(node)),
        Err(_) => None,
    };
    let rest = ReceiverStream::new(receiver);
    let pieces = stream::iter(first).chain(rest).filter(|piece| {
        let has_bytes = piece.as_ref().map_or(true, |bytes| !bytes.is_empty());
        std::future::ready(has_bytes)
    });
    Ok(pieces.map(move |piece| piece.map_err(|_| StreamError::Broken(node.clone()))).boxed())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> TunnelFailure {
        TunnelFailure { code: 400, message: "no such container".into() }
    }

    async fn collected(stream: ByteStream) -> Vec<Result<Bytes, String>> {
        stream.map(|piece| piece.map_err(|error| error.to_string())).collect().await
    }

    #[tokio::test]
    async fn only_the_node_that_was_asked_opens_a_tunnel_and_only_once() {
        let tunnels = Tunnels::default();
        let (id, _receiver) = tunnels.ask(&"a".into());
        assert!(tunnels.open(&"b".into(), id).is_err());
        assert!(tunnels.open(&"a".into(), id).is_ok());
        assert!(tunnels.open(&"a".into(), id).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_first_decides_whether_there_is_a_stream() {
        let tunnels = Tunnels::default();
        let node = NodeName::from("edge-1");
        let deliver = |id, receiver| delivered(&tunnels, id, receiver, node.clone());

        // Pieces, of which the empty first one only says that there is no failure, and a break.
        let (id, receiver) = tunnels.ask(&"a".into());
        let sender = tunnels.open(&"a".into(), id).unwrap();
        for piece in [Ok(Bytes::new()), Ok(Bytes::from_static(b"line\n")), Err(failure())] {
            sender.send(piece).await.unwrap();
        }
        drop(sender);
        let broken = Err("the connection to node edge-1 broke".to_owned());
        let stream = deliver(id, receiver).await.unwrap();
        assert_eq!(collected(stream).await, [Ok(Bytes::from_static(b"line\n")), broken]);

        // A failure.
        let (id, receiver) = tunnels.ask(&"a".into());
        tunnels.open(&"a".into(), id).unwrap().try_send(Err(failure())).unwrap();
        assert!(matches!(deliver(id, receiver).await, Err(StreamError::Refused(why)) if why == "no such container"));

        // A command the agent does not know.
        let (id, receiver) = tunnels.ask(&"a".into());
        tunnels.refused(&"a".into(), id, "is unknown".to_owned());
        assert!(matches!(deliver(id, receiver).await, Err(StreamError::Refused(why)) if why == "is unknown"));

        // A node that never calls, and one that has nothing to send yet.
        let (id, receiver) = tunnels.ask(&"a".into());
        assert!(matches!(deliver(id, receiver).await, Err(StreamError::Broken(_))));
        let (id, receiver) = tunnels.ask(&"a".into());
        let sender = tunnels.open(&"a".into(), id).unwrap();
        let stream = deliver(id, receiver).await.unwrap();
        sender.send(Ok(Bytes::from_static(b"later"))).await.unwrap();
        drop(sender);
        assert_eq!(collected(stream).await, [Ok(Bytes::from_static(b"later"))]);
    }
}
