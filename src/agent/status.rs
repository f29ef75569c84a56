//! How this host's agent is, for people at the host: told by the agent that runs, or read from its ledger.
//!
//! The roster gives its own [`Status`]; the task here hands it to whoever connects to the agent's socket. An agent that does
//! not run has no link, no hold and no view of its pods: the ledger tells only what ought to be.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use super::roster::Input;
use super::{AgentError, ledger_key};
use crate::host::ledger::{Contents, DaemonSetRecord, Identity, Ledger, PodRecord};
use crate::host::{FileError, socket};
use crate::model::{Position, Source};

mod render;

pub use render::render;

/// How long the roster may take, and whoever asked to take the answer in.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// The pause after a connection could not be taken, as when no file descriptors are left.
const ACCEPT_RETRY: Duration = Duration::from_secs(1);

/// How an agent is. Its JSON is what scripts read: fields are added, never changed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// The version that runs; none if none does.
    pub version: Option<String>,
    /// Name of the Node; empty before this host is one.
    pub node: String,
    /// Its uid.
    pub node_uid: String,
    /// The fleet.
    pub fleet: String,
    /// Why the node is not ready; none if it is, or nobody knows.
    pub not_ready: Option<String>,
    /// The control endpoint; none for an agent that works alone, and if nobody knows.
    pub control: Option<String>,
    /// Whether it is in session with control.
    pub in_session: bool,
    /// Why it is not, in the link's last words.
    pub link_lost: Option<String>,
    /// Why nothing new is taken from control; none if there is no hold on this node.
    pub hold: Option<String>,
    /// How far the fleet's intent has been taken over.
    pub position: Position,
    /// The newest changes cannot be written to disk, and are not acted upon.
    pub ledger_refuses: bool,
    /// By namespace and name.
    pub daemonsets: Vec<DaemonSetLine>,
    /// By namespace and name.
    pub pods: Vec<PodLine>,
}

/// A DaemonSet this node was told of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DaemonSetLine {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// Where it was learnt from.
    pub source: Source,
    /// The newest revision.
    pub newest: String,
    /// The one its pods here are made from; none before the first.
    #[serde(default)]
    pub permitted: Option<String>,
    /// This node went back from the newest revision by itself.
    #[serde(default)]
    pub rejected: bool,
    /// Control has no record of it, so what is here stays.
    #[serde(default)]
    pub unknown_to_control: bool,
}

/// A pod of this node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodLine {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// The revision it is made from.
    pub revision: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// It is to end.
    pub ending: bool,
    /// What the agent sees of it; none if no agent runs or it has not looked yet.
    #[serde(default)]
    pub seen: Option<SeenPod>,
}

/// What an agent sees of a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SeenPod {
    /// Its phase, or what its first container that does not run waits for.
    pub status: String,
    /// More on that, in words; empty if there is nothing to say.
    pub message: String,
    /// How many containers are ready.
    pub ready: usize,
    /// Of how many.
    pub containers: usize,
    /// How often its containers were started again, all together.
    pub restarts: i32,
}

impl Status {
    /// What the ledger alone tells; `identity` is who the node is, if it is one.
    pub(super) fn of(identity: Option<&Identity>, contents: &Contents) -> Self {
        let sets = contents.daemonsets.values().filter(|set| !set.deleted);
        let mut daemonsets: Vec<_> = sets.map(daemonset_line).collect();
        daemonsets.sort();
        let mut pods: Vec<_> = contents.pods.values().map(pod_line).collect();
        pods.sort();
        Self {
            node: identity.map(|identity| identity.name.to_string()).unwrap_or_default(),
            node_uid: identity.map(|identity| identity.uid.to_string()).unwrap_or_default(),
            fleet: identity.map(|identity| identity.fleet.to_string()).unwrap_or_default(),
            position: contents.position,
            daemonsets,
            pods,
            ..Self::default()
        }
    }
}

fn daemonset_line(set: &DaemonSetRecord) -> DaemonSetLine {
    DaemonSetLine {
        namespace: set.key.namespace.clone(),
        name: set.key.name.clone(),
        source: set.source,
        newest: set.newest.hash.to_string(),
        permitted: set.permitted.as_ref().map(|permitted| permitted.hash.to_string()),
        rejected: set.rejected.contains(&set.newest.hash),
        unknown_to_control: false,
    }
}

fn pod_line(record: &PodRecord) -> PodLine {
    PodLine {
        namespace: record.key.namespace.clone(),
        name: record.key.name.clone(),
        revision: record.revision.hash.to_string(),
        created_at: record.created_at,
        ending: record.ending.is_some(),
        seen: None,
    }
}

/// Why the status is not known.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// No agent has run here.
    #[error("{0} holds no ledger: no agent has run with this state directory, or you may not look into it")]
    NoAgent(std::path::PathBuf),
    /// An agent that holds its socket open and does not answer.
    #[error("the agent does not answer; systemctl restart garrison-agent stops no pod")]
    Silent(#[source] FileError),
    /// An answer this version cannot read.
    #[error("the agent's answer is not understood; it may be of a newer version than this command")]
    Answer(#[source] serde_json::Error),
    /// The ledger.
    #[error(transparent)]
    Agent(#[from] AgentError),
}

/// Asks the agent of `state_dir`, or reads its ledger if it does not run.
///
/// # Errors
/// [`StatusError`].
pub fn status(state_dir: &Path) -> Result<Status, StatusError> {
    if let Some(answer) = socket::ask(state_dir).map_err(StatusError::Silent)? {
        return serde_json::from_slice(&answer).map_err(StatusError::Answer);
    }
    if !state_dir.join("ledger").is_dir() {
        return Err(StatusError::NoAgent(state_dir.to_owned()));
    }
    let contents = Ledger::open(state_dir, ledger_key()?).map_err(AgentError::Ledger)?.contents;
    Ok(Status::of(contents.identity.as_ref(), &contents))
}

/// Answers everybody who connects, one after the other, until the roster is gone.
pub(super) async fn serve(listener: UnixListener, inputs_tx: mpsc::Sender<Input>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let answered = tokio::time::timeout(ANSWER_LIMIT, answer(stream, &inputs_tx)).await;
                if answered.is_err() {
                    tracing::debug!("somebody asked for the agent's status and did not take it");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the agent's status cannot be asked for");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn answer(mut stream: UnixStream, inputs_tx: &mpsc::Sender<Input>) {
    let (status_tx, status_rx) = oneshot::channel();
    if inputs_tx.send(Input::Status(status_tx)).await.is_err() {
        return;
    }
    let Ok(status) = status_rx.await else { return };
    let text = serde_json::to_vec(&status).expect("a status is JSON: it has string keys only");
    // Whoever asked may have gone; that is their affair.
    drop(stream.write_all(&text).await);
}
