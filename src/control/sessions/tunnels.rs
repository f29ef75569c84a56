//! Streams that users wait for: asked for in a session, delivered through a tunnel the node opens.
//!
//! ```text
//! ask ──OpenTunnel──▶ node ──Tunnel──▶ opened ──first piece──▶ the user's ──End, or the user leaves──▶ closed
//!  └── not in time, refused: given up
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt, stream};
use tokio::sync::mpsc;

use super::{Sessions, Shared, waited_for};
use crate::control::streams::{NodeStream, NodeStreams, Piece, StreamError};
use crate::link::server::{Denied, TunnelEnds};
use crate::link::{
    CommandId, Down, OpenTunnel, TUNNELS_MAX, TunnelDown, TunnelFailure, TunnelKind, TunnelStream, TunnelUp,
};
use crate::model::{Measure, NodeName, PodKey, Uid, Usage};

/// How long a node may take to open a tunnel it was asked for.
const OPEN_WITHIN: Duration = Duration::from_secs(10);
/// How long a user waits for the first piece before the answer begins without one.
const FIRST_WITHIN: Duration = Duration::from_secs(30);
/// Pieces on their way between a node and a user; who sends more has to wait.
const PIECES: usize = 4;
/// What the link answers when a tunnel breaks off.
const BAD_GATEWAY: u16 = 502;

/// The tunnels that nodes were asked for.
#[derive(Debug, Default)]
pub(super) struct Tunnels {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Those that were not opened yet.
    asked: HashMap<CommandId, Asked>,
    /// How many each node has, opened or not.
    count: HashMap<Uid, usize>,
}

#[derive(Debug)]
struct Asked {
    node: Uid,
    /// The link's ends of it.
    ends: TunnelEnds,
}

/// The user's ends of a tunnel.
struct UserEnds {
    id: CommandId,
    up_rx: mpsc::Receiver<TunnelUp>,
    down_tx: mpsc::Sender<TunnelDown>,
}

impl Tunnels {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a tunnel that `node` may open; none if it has too many.
    fn ask(&self, node: &Uid) -> Option<UserEnds> {
        let mut inner = self.lock();
        let count = inner.count.entry(node.clone()).or_default();
        if *count >= TUNNELS_MAX {
            return None;
        }
        *count += 1;
        let (up_tx, up_rx) = mpsc::channel(PIECES);
        let (down_tx, down_rx) = mpsc::channel(PIECES);
        let id = waited_for();
        inner.asked.insert(id, Asked { node: node.clone(), ends: TunnelEnds { up_tx, down_rx } });
        Some(UserEnds { id, up_rx, down_tx })
    }

    fn is_opened(&self, id: CommandId) -> bool {
        !self.lock().asked.contains_key(&id)
    }

    /// Nobody waits for a tunnel any more. Says whether it was opened.
    fn close(&self, node: &Uid, id: CommandId) -> bool {
        let mut inner = self.lock();
        if let Some(count) = inner.count.get_mut(node) {
            *count -= 1;
            if *count == 0 {
                inner.count.remove(node);
            }
        }
        inner.asked.remove(&id).is_none()
    }

    /// A node opens a tunnel.
    ///
    /// # Errors
    /// [`Denied::Invalid`] if this node was not asked for it.
    pub(super) fn open(&self, node: &Uid, id: CommandId) -> Result<TunnelEnds, Denied> {
        let asked = &mut self.lock().asked;
        match asked.remove(&id) {
            Some(tunnel) if tunnel.node == *node => Ok(tunnel.ends),
            other => {
                asked.extend(other.map(|other| (id, other)));
                Err(Denied::Invalid("nobody waits for this tunnel any more".to_owned()))
            }
        }
    }

    /// A node will not open a tunnel.
    pub(super) fn refused(&self, node: &Uid, id: CommandId, why: String) {
        let asked = &mut self.lock().asked;
        if asked.get(&id).is_some_and(|tunnel| tunnel.node == *node)
            && let Some(tunnel) = asked.remove(&id)
        {
            drop(tunnel.ends.up_tx.try_send(TunnelUp::End(Err(TunnelFailure { code: 501, message: why }))));
        }
    }
}

impl NodeStreams for Sessions {
    fn open<'a>(
        &'a self,
        node: &'a NodeName,
        pod: &'a PodKey,
        kind: TunnelKind,
    ) -> BoxFuture<'a, Result<NodeStream, StreamError>> {
        async move {
            let shared = &self.shared;
            let uid = shared.roster.uid_of(node).ok_or_else(|| StreamError::NotConnected(node.clone()))?;
            let ends = shared.tunnels.ask(&uid).ok_or_else(|| StreamError::Busy(node.clone()))?;
            let lease = Lease { shared: shared.clone(), node: uid, id: ends.id, ended: false };
            let tunnel = OpenTunnel { pod: pod.uid.clone(), kind };
            shared.offer(node, &lease.node, Down::OpenTunnel { id: ends.id, tunnel })?;
            let input = ends.down_tx;
            let output = delivered(&shared.tunnels, ends.id, pieces(ends.up_rx, node.clone())).await;
            let output = output.unwrap_or_else(|| Err(StreamError::Broken(node.clone())))?;
            Ok(NodeStream { input, output: held(output, lease) })
        }
        .boxed()
    }

    fn measure<'a>(&'a self, node: &'a NodeName, what: Measure) -> BoxFuture<'a, Result<Usage, StreamError>> {
        self.measured(node, what).boxed()
    }
}

/// One tunnel's place among those of its node. A node whose user leaves before the end is told.
struct Lease {
    shared: Arc<Shared>,
    node: Uid,
    id: CommandId,
    ended: bool,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let opened = self.shared.tunnels.close(&self.node, self.id);
        if opened && !self.ended {
            // A node that cannot be told now finds out by its own end of the tunnel, in most cases.
            let _ = self.shared.roster.offer(&self.node, Down::CloseTunnel(self.id));
        }
    }
}

type Output = BoxStream<'static, Result<Piece, StreamError>>;

/// What comes through a tunnel; whatever its end, there is one.
fn pieces(up_rx: mpsc::Receiver<TunnelUp>, node: NodeName) -> Output {
    let pieces = stream::unfold(Some((up_rx, node)), |open| async {
        let (mut up_rx, node) = open?;
        let piece = match up_rx.recv().await {
            Some(TunnelUp::Data(stream, data)) => Ok(Piece::Data(stream, data)),
            // The link keeps hellos to itself.
            Some(TunnelUp::Hello(_)) => Ok(Piece::Data(TunnelStream::Main, Bytes::new())),
            Some(TunnelUp::End(Ok(code))) => Ok(Piece::End(code)),
            Some(TunnelUp::End(Err(failure))) if failure.code != BAD_GATEWAY => {
                Err(StreamError::Refused { code: failure.code, message: failure.message })
            }
            Some(TunnelUp::End(Err(_))) | None => Err(StreamError::Broken(node.clone())),
        };
        let open = matches!(piece, Ok(Piece::Data(..))).then_some((up_rx, node));
        Some((piece, open))
    });
    pieces.boxed()
}

/// Waits until it is clear that the stream comes, then gives it; none if the node does not call.
async fn delivered(tunnels: &Tunnels, id: CommandId, mut output: Output) -> Option<Result<Output, StreamError>> {
    let mut first = tokio::time::timeout(OPEN_WITHIN, output.next()).await;
    if first.is_err() {
        if !tunnels.is_opened(id) {
            return None;
        }
        first = tokio::time::timeout(FIRST_WITHIN, output.next()).await;
    }
    let first = match first {
        Ok(Some(Err(error))) => return Some(Err(error)),
        Ok(first) => first,
        Err(_) => None,
    };
    // An empty piece has said all it had to say.
    let says_something =
        |piece: &Result<_, _>| std::future::ready(!matches!(piece, Ok(Piece::Data(_, data)) if data.is_empty()));
    Some(Ok(stream::iter(first).chain(output).filter(says_something).boxed()))
}

/// Keeps a tunnel's place for as long as its output is kept.
fn held(output: Output, lease: Lease) -> Output {
    let held = stream::unfold((output, lease), |(mut output, mut lease)| async {
        let piece = output.next().await?;
        lease.ended |= !matches!(piece, Ok(Piece::Data(..)));
        Some((piece, (output, lease)))
    });
    held.boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> TunnelUp {
        TunnelUp::End(Err(TunnelFailure { code: 400, message: "no such container".into() }))
    }

    fn data(text: &'static str) -> TunnelUp {
        TunnelUp::Data(TunnelStream::Main, Bytes::from_static(text.as_bytes()))
    }

    #[tokio::test]
    async fn only_the_node_that_was_asked_opens_a_tunnel_and_only_once() {
        let tunnels = Tunnels::default();
        let ends = tunnels.ask(&"a".into()).unwrap();
        assert!(tunnels.open(&"b".into(), ends.id).is_err());
        assert!(tunnels.open(&"a".into(), ends.id).is_ok());
        assert!(tunnels.open(&"a".into(), ends.id).is_err());
    }

    #[test]
    fn a_node_has_only_so_many_tunnels() {
        let tunnels = Tunnels::default();
        let mut all: Vec<_> = std::iter::from_fn(|| tunnels.ask(&"a".into())).collect();
        assert_eq!(all.len(), TUNNELS_MAX);
        assert!(tunnels.ask(&"b".into()).is_some());
        let last = all.pop().unwrap();
        assert!(!tunnels.close(&"a".into(), last.id), "it was not opened");
        assert!(tunnels.ask(&"a".into()).is_some());
        assert!(tunnels.open(&"a".into(), last.id).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_first_decides_whether_there_is_a_stream() {
        let tunnels = Tunnels::default();
        let node = NodeName::from("edge-1");
        let broken = || StreamError::Broken(node.clone());
        let refused = |code, message: &str| Err(StreamError::Refused { code, message: message.to_owned() });
        let asked = || tunnels.ask(&"a".into()).unwrap();
        let deliver = async |ends: UserEnds| {
            let output = delivered(&tunnels, ends.id, pieces(ends.up_rx, node.clone())).await;
            match output {
                None => Err(None),
                Some(Err(error)) => Err(Some(error)),
                Some(Ok(output)) => Ok(output.collect::<Vec<_>>().await),
            }
        };

        // Pieces, of which the empty first one only says that there is no failure, and how it ends.
        let line = || Ok(Piece::Data(TunnelStream::Main, Bytes::from_static(b"line\n")));
        let lost = TunnelUp::End(Err(TunnelFailure { code: 502, message: "lost".into() }));
        for (end, expected) in [
            (Some(TunnelUp::End(Ok(3))), Ok(Piece::End(3))),
            (Some(failure()), refused(400, "no such container")),
            (Some(lost), Err(broken())),
            (None, Err(broken())),
        ] {
            let ends = asked();
            let TunnelEnds { up_tx, .. } = tunnels.open(&"a".into(), ends.id).unwrap();
            for said in [data(""), data("line\n")].into_iter().chain(end) {
                up_tx.send(said).await.unwrap();
            }
            drop(up_tx);
            assert_eq!(deliver(ends).await, Ok(vec![line(), expected]));
        }

        // A failure, and a command the agent does not know.
        let ends = asked();
        tunnels.open(&"a".into(), ends.id).unwrap().up_tx.try_send(failure()).unwrap();
        assert_eq!(deliver(ends).await, Err(refused(400, "no such container").err()));
        let ends = asked();
        tunnels.refused(&"a".into(), ends.id, "is unknown".to_owned());
        assert_eq!(deliver(ends).await, Err(refused(501, "is unknown").err()));

        // A node that never calls, and one that has nothing to send yet.
        assert_eq!(deliver(asked()).await, Err(None));
        let ends = asked();
        let TunnelEnds { up_tx, .. } = tunnels.open(&"a".into(), ends.id).unwrap();
        let output = delivered(&tunnels, ends.id, pieces(ends.up_rx, node.clone())).await.unwrap().unwrap();
        up_tx.send(data("line\n")).await.unwrap();
        drop(up_tx);
        assert_eq!(output.collect::<Vec<_>>().await, [line(), Err(broken())]);
    }
}
