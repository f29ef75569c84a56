//! How much nodes take: asked in their sessions, while somebody waits.
//!
//! The answer is small, so it needs no tunnel, and a whole fleet can be asked without a connection more.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Sessions, Shared, waited_for};
use crate::control::streams::StreamError;
use crate::link::{CommandId, Down};
use crate::model::{Measure, NodeName, Uid, Usage};

/// How long a node may take, which measures for about a second. Somebody sits and waits, so it is less than metrics-server, which
/// answers from what it has, gives a kubelet (10 s).
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Who waits for what nodes take.
#[derive(Debug, Default)]
pub(super) struct Measures {
    asked: Mutex<HashMap<CommandId, Asked>>,
}

#[derive(Debug)]
pub(super) struct Asked {
    node: Uid,
    answer_tx: oneshot::Sender<Result<Usage, String>>,
}

impl Measures {
    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<CommandId, Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node answers, or says why it does not. Whoever asked may have gone.
    pub(super) fn answered(&self, node: &Uid, id: CommandId, answer: Result<Usage, String>) {
        let mut asked = self.lock();
        if asked.get(&id).is_some_and(|asked| asked.node == *node)
            && let Some(asked) = asked.remove(&id)
        {
            drop(asked.answer_tx.send(answer));
        }
    }

    /// A session with a node has ended: nobody waits any longer for what was asked in it.
    pub(super) fn broke(&self, node: &Uid) {
        self.lock().retain(|_, asked| asked.node != *node);
    }
}

/// A question that is open; closed when this is dropped.
struct Open<'a> {
    shared: &'a Shared,
    id: CommandId,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.shared.measures.lock().remove(&self.id);
    }
}

impl Sessions {
    /// Asks a node how much is taken of it.
    ///
    /// # Errors
    /// [`StreamError`].
    pub(super) async fn measured(&self, node: &NodeName, what: Measure) -> Result<Usage, StreamError> {
        let shared = &*self.shared;
        let uid = shared.roster.uid_of(node).ok_or_else(|| StreamError::NotConnected(node.clone()))?;
        let (answer_tx, answer_rx) = oneshot::channel();
        let open = Open { shared, id: waited_for() };
        shared.measures.lock().insert(open.id, Asked { node: uid.clone(), answer_tx });
        shared.offer(node, &uid, Down::Measure { id: open.id, what })?;
        match timeout(ANSWER_WITHIN, answer_rx).await {
            Ok(Ok(Ok(usage))) => Ok(usage),
            Ok(Ok(Err(message))) => Err(StreamError::Refused { code: 500, message }),
            Ok(Err(_)) => Err(StreamError::Broken(node.clone())),
            Err(_) => Err(StreamError::Late(node.clone())),
        }
    }
}
