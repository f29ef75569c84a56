//! Streams that control asked for: a task that carries them over a connection of their own.
//!
//! The connection is dialled for the first tunnel and closed once none has been open for a while. It ends with the
//! session for tunnels to come: those under way go on, since what a user does in one need not end with the session.

use std::collections::HashMap;

use futures_util::{StreamExt, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, JoinSet};
use tokio_stream::wrappers::ReceiverStream;

use super::*;
use crate::link::pb::fleet_client::FleetClient;

/// How long a connection is kept for the next tunnel.
const LINGER: Duration = Duration::from_secs(60);
/// Pieces of one tunnel on their way between agent and connection.
const PIECES: usize = 4;

/// Opens tunnels. Clones share their number.
#[derive(Debug, Clone)]
pub struct Tunnels {
    wishes_tx: mpsc::Sender<Wish>,
    slots: Arc<Semaphore>,
}

/// The agent's ends of a tunnel. It ends when they are dropped; when control lets go of it, or it breaks, their far ends
/// are gone.
#[derive(Debug)]
pub struct TunnelEnds {
    /// What the agent says after its hello. [`TunnelUp::End`] is to be the last.
    pub up_tx: mpsc::Sender<TunnelUp>,
    /// What control says.
    pub down_rx: mpsc::Receiver<TunnelDown>,
}

/// As many tunnels are open as a node may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this node has {TUNNELS_MAX} streams open already")]
pub struct TooMany;

/// What the task behind [`Tunnels`] is to do.
#[derive(Debug)]
pub(crate) enum Wish {
    Open(Opening),
    Close(CommandId),
}

/// A tunnel to open, with the link's ends of it.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) id: CommandId,
    pub(crate) up_rx: mpsc::Receiver<TunnelUp>,
    pub(crate) down_tx: mpsc::Sender<TunnelDown>,
    _slot: OwnedSemaphorePermit,
}

impl Tunnels {
    /// Opens the tunnel that command `id` asked for.
    ///
    /// # Errors
    /// [`TooMany`]. A tunnel that cannot be opened for another reason has ends whose far ends are gone.
    pub fn open(&self, id: CommandId) -> Result<TunnelEnds, TooMany> {
        let slot = self.slots.clone().try_acquire_owned().map_err(|_| TooMany)?;
        let (up_tx, up_rx) = mpsc::channel(PIECES);
        let (down_tx, down_rx) = mpsc::channel(PIECES);
        // The queue has room for as many as there are slots; without its task the far ends are dropped here.
        let _ = self.wishes_tx.try_send(Wish::Open(Opening { id, up_rx, down_tx, _slot: slot }));
        Ok(TunnelEnds { up_tx, down_rx })
    }

    /// Lets go of a tunnel, with whatever is under way in it. One that is closed already is no matter.
    pub fn close(&self, id: CommandId) {
        let _ = self.wishes_tx.try_send(Wish::Close(id));
    }

    /// Tunnels without a link, and what is wished of it.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Wish>) {
        let (wishes_tx, wishes_rx) = mpsc::channel(2 * TUNNELS_MAX);
        (Self { wishes_tx, slots: Arc::new(Semaphore::new(TUNNELS_MAX)) }, wishes_rx)
    }
}

/// Starts the task that carries tunnels the way that `way_rx` says.
pub(super) fn spawn(way_rx: watch::Receiver<Option<Way>>) -> Tunnels {
    let (tunnels, wishes_rx) = Tunnels::new();
    let carrier = Carrier { way_rx, channel: None, carried: JoinSet::new(), handles: HashMap::new() };
    tokio::spawn(carrier.run(wishes_rx));
    tunnels
}

/// The task that carries tunnels.
struct Carrier {
    way_rx: watch::Receiver<Option<Way>>,
    /// While tunnels are open, and a while longer.
    channel: Option<Channel>,
    carried: JoinSet<CommandId>,
    handles: HashMap<CommandId, AbortHandle>,
}

impl Carrier {
    async fn run(mut self, mut wishes_rx: mpsc::Receiver<Wish>) {
        loop {
            let idle = self.handles.is_empty() && self.channel.is_some();
            // Every arm only waits, or takes one whole item.
            let wish = tokio::select! {
                wish = wishes_rx.recv() => wish,
                Some(ended) = self.carried.join_next() => {
                    // One that was let go of has no handle any more.
                    ended.ok().and_then(|id| self.handles.remove(&id));
                    continue;
                }
                // Without its sender the link is gone for good, and so are the agent's handles, soon.
                Ok(()) = self.way_rx.changed() => {
                    self.channel = None;
                    continue;
                }
                () = tokio::time::sleep(LINGER), if idle => {
                    self.channel = None;
                    continue;
                }
            };
            match wish {
                Some(Wish::Open(opening)) => self.open(opening).await,
                Some(Wish::Close(id)) => self.close(id),
                None => return,
            }
        }
    }

    async fn open(&mut self, opening: Opening) {
        if self.channel.is_none() {
            self.channel = dial(&mut self.way_rx).await;
        }
        let Some(channel) = self.channel.clone() else { return };
        let id = opening.id;
        let handle = self.carried.spawn(async move {
            if let Err(error) = carry(channel, opening).await {
                tracing::info!(error = %Chain(&error), "a stream to control broke");
            }
            id
        });
        self.handles.insert(id, handle);
    }

    fn close(&mut self, id: CommandId) {
        if let Some(handle) = self.handles.remove(&id) {
            handle.abort();
        }
    }
}

async fn dial(way_rx: &mut watch::Receiver<Option<Way>>) -> Option<Channel> {
    let way = way_rx.borrow_and_update().clone()?;
    let dialled = dial::dial_for_tunnels(&way).await;
    dialled.inspect_err(|error| tracing::info!(error = %Chain(error), "no connection for a stream")).ok()
}

/// Carries one tunnel to its end: when control ends it, or the connection breaks.
async fn carry(channel: Channel, opening: Opening) -> Result<(), ClientError> {
    let Opening { id, up_rx, down_tx, _slot } = opening;
    let refused = |status| ClientError::of("to take a stream", status);
    // Dropped with this call: the connection stops asking for more.
    let (_wanted_tx, wanted_rx) = oneshot::channel::<()>();
    let hello = stream::once(std::future::ready(TunnelUp::Hello(id)));
    let up = hello.chain(ReceiverStream::new(up_rx)).map(to_proto::tunnel_up).take_until(wanted_rx);
    let mut down = FleetClient::new(channel).tunnel(up).await.map_err(refused)?.into_inner();
    while let Some(message) = down.message().await.map_err(refused)? {
        if let Some(down) = from_proto::tunnel_down(message)? {
            // An agent that has said all it had to say need not listen any more.
            let _ = down_tx.send(down).await;
        }
    }
    Ok(())
}
