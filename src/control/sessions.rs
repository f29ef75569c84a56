//! Sessions: the agents that are connected, what they are told, and what becomes of what they say.
//!
//! [`Sessions`] stands between the link and everything else in control. Towards the link it is a [`Control`]; towards
//! REST it is the way to the nodes ([`NodeStreams`](super::streams::NodeStreams), [`Fleet`](super::holds::Fleet)); towards [`updates`](super::updates)
//! it says who is in step and passes permits on.
//!
//! ```text
//!  store ──position moves──▶ desired ──watch──▶ session ──Frame──▶ link ──▶ node
//!                                                  ▲ orders
//!  Nodes ──watch──▶ life ──▶ roster ───────────────┘   session ◀──Up── link ◀── node
//!                    │ silence                            │
//!                    └──▶ Node, Pod, Event objects ◀──────┘ reports, acks ──▶ updates
//! ```
//!
//! - `admit` decides how a node is received, `desired` what all nodes are told, `user_pods` what one node is told of single
//!   pods, `claims` which DaemonSet has them, `entitled` which objects a node may have, [`nodes`](super::nodes) and `pods` what
//!   reports make of objects; all pure. `admission`, `session`, `assigned`, `shelf`, `tokens`, `reports`, `recovery`, `life`, `joining`,
//!   `tunnels` and `measures` carry it out.
//! - Nothing is ended for want of a word: a node is told of deletions by records, and a pod leaves the API on its
//!   node's word, by force, or with its Node.

mod admission;
mod admit;
mod assigned;
mod claims;
mod desired;
mod entitled;
mod holds;
mod joining;
mod life;
mod measures;
mod pods;
mod recovery;
mod reports;
mod roster;
mod session;
mod shelf;
mod tokens;
mod tunnels;
mod user_pods;

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use uuid::Uuid;

use self::admit::Known;
use self::desired::Desired;
use self::holds::Ahead;
use self::measures::Measures;
use self::recovery::Recoveries;
use self::roster::{Roster, Unheard};
use self::session::{Ends, Session};
use self::shelf::Shelf;
use self::tunnels::Tunnels;
use super::bearer::Bearer;
use super::objects::{Member, ObjectError, Objects};
use super::streams::StreamError;
use super::tokens::Allowance;
use super::updates::{FromNode, Grant};
use crate::link::server::{Control, Denied, SessionEnds, TunnelEnds};
use crate::link::tls::{Authority, NodeIdentity};
use crate::link::{
    CommandId, Down, EnrollRequest, Enrolled, Hello, HoldReason, JoinToken, Reception, RenewRequest, Renewed,
};
use crate::model::{NodeName, Uid};

/// Messages of one node that wait to be written into objects; the node waits when there are more.
const UP_QUEUE: usize = 16;
/// Frames of one session on their way to the connection.
const DOWN_QUEUE: usize = 4;

/// A handle to all sessions. Clones share everything; the tasks behind it end with the last one.
#[derive(Clone)]
pub struct Sessions {
    shared: Arc<Shared>,
    _tasks: Arc<JoinSet<()>>,
}

/// What sessions and the tasks around them work with.
struct Shared {
    objects: Objects,
    authority: Arc<Authority>,
    bearer: Arc<Bearer>,
    roster: Roster,
    tunnels: Tunnels,
    measures: Measures,
    shelf: Shelf,
    recoveries: Recoveries,
    desired_rx: watch::Receiver<Arc<Desired>>,
    updates_tx: mpsc::Sender<FromNode>,
}

impl Sessions {
    /// Reads what there is and begins to look after nodes. `updates_tx` and `grants_rx` are the far ends of
    /// [`updates::run`](super::updates::run).
    ///
    /// # Errors
    /// [`ObjectError::Store`] and [`ObjectError::Corrupt`].
    pub async fn start(
        objects: Objects,
        authority: Arc<Authority>,
        bearer: Arc<Bearer>,
        updates_tx: mpsc::Sender<FromNode>,
        grants_rx: mpsc::Receiver<Grant>,
    ) -> Result<Self, ObjectError> {
        // Subscribed before reading: a move in between is followed up.
        let position_rx = objects.position();
        let desired = Desired::build(desired::read(&objects, None).await?, None);
        let (desired_tx, desired_rx) = watch::channel(Arc::new(desired));
        let (roster, tunnels, measures) = (Roster::default(), Tunnels::default(), Measures::default());
        let shelf = Shelf::default();
        let recoveries = Recoveries::default();
        let shared =
            Shared { objects, authority, bearer, roster, tunnels, measures, shelf, recoveries, desired_rx, updates_tx };
        let watcher = shared.load().await?;
        let shared = Arc::new(shared);
        let mut tasks = JoinSet::new();
        tasks.spawn(desired::follow(shared.objects.clone(), position_rx, desired_tx));
        tasks.spawn(shared.clone().follow_nodes(watcher));
        tasks.spawn(shared.clone().monitor());
        tasks.spawn(shared.clone().pass_on(grants_rx));
        Ok(Self { shared, _tasks: Arc::new(tasks) })
    }

    /// Makes a join token and keeps its record.
    ///
    /// # Errors
    /// [`ObjectError::Store`].
    pub async fn make_token(&self, allowance: Allowance) -> Result<JoinToken, ObjectError> {
        self.shared.objects.make_token(self.shared.authority.pin(), allowance).await
    }
}

/// A command that somebody waits for. Others are numbered by intent; those numbers never get so high.
fn waited_for() -> CommandId {
    CommandId(Uuid::new_v4().as_u64_pair().0 | 1 << 63)
}

impl Shared {
    fn desired(&self) -> Arc<Desired> {
        self.desired_rx.borrow().clone()
    }

    /// Says something to a node while somebody waits for what comes of it.
    fn offer(&self, name: &NodeName, node: &Uid, down: Down) -> Result<(), StreamError> {
        self.roster.offer(node, down).map_err(|why| match why {
            Unheard::NotConnected => StreamError::NotConnected(name.clone()),
            Unheard::Busy => StreamError::Busy(name.clone()),
        })
    }

    /// Tells updates of a node. It is gone only while control stops.
    async fn tell_updates(&self, told: FromNode) {
        let _ = self.updates_tx.send(told).await;
    }

    /// Receives a node and begins its session.
    async fn connected(self: Arc<Self>, node: NodeIdentity, hello: Hello) -> Result<SessionEnds, Denied> {
        if let Some(ends) = self.stranger(&node, &hello).await? {
            return Ok(ends);
        }
        let (reception, member) = self.received(&node, &hello).await?;
        match &reception {
            Reception::Accepted => tracing::info!(node = %node.name, session = hello.session, "a node is in step"),
            other => {
                tracing::warn!(node = %node.name, session = hello.session, reception = ?other, "a node is not in step");
            }
        }
        let is_ahead = matches!(reception, Reception::Hold { reason: HoldReason::Ahead, .. });
        let buried = if is_ahead { self.buried(&hello).await? } else { HashSet::new() };
        let (serial, orders_rx) = self.roster.enter(&node.uid, &node.name, session::footing(&reception));
        if is_ahead {
            let ahead = Ahead { position: hello.position, daemonsets: hello.daemonsets.clone(), buried };
            self.roster.ahead(&node.uid, serial, ahead);
        }
        let (up_tx, up_rx) = mpsc::channel(UP_QUEUE);
        let (down_tx, down_rx) = mpsc::channel(DOWN_QUEUE);
        let objects = self.objects.within(&member);
        let session = Session { shared: self, objects, serial, node: node.uid, name: node.name, reception };
        tokio::spawn(session.run(hello, Ends { orders_rx, up_rx, down_tx }));
        Ok(SessionEnds { up_tx, down_rx })
    }

    /// How a node is received, written down before it hears of it, and its record from then on.
    async fn received(&self, node: &NodeIdentity, hello: &Hello) -> Result<(Reception, Member), Denied> {
        loop {
            let member = self.known(node).await?;
            let known = Known {
                fleet: &self.objects.fleet(),
                position: *self.objects.position().borrow(),
                member: &member.record,
                other: self.roster.other(&node.uid),
            };
            let reception = admit::receive(&known, hello);
            let Some(noted) = admit::note(&member.record, hello, &reception) else { return Ok((reception, member)) };
            // Each failure means that another session of this node was noted: the next look sees that one.
            if let Some(member) = self.objects.note_session(&member, noted).await? {
                return Ok((reception, member));
            }
        }
    }
}

impl Control for Sessions {
    fn enroll(&self, request: EnrollRequest) -> BoxFuture<'_, Result<Enrolled, Denied>> {
        self.shared.enroll(request).boxed()
    }

    fn renew(&self, node: NodeIdentity, request: RenewRequest) -> BoxFuture<'_, Result<Renewed, Denied>> {
        async move { self.shared.renew(&node, &request).await }.boxed()
    }

    fn connected(&self, node: NodeIdentity, hello: Hello) -> BoxFuture<'_, Result<SessionEnds, Denied>> {
        self.shared.clone().connected(node, hello).boxed()
    }

    fn tunnel(&self, node: NodeIdentity, id: CommandId) -> BoxFuture<'_, Result<TunnelEnds, Denied>> {
        async move { self.shared.tunnels.open(&node.uid, id) }.boxed()
    }
}

#[cfg(test)]
mod tests;
