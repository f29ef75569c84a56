//! Ending every pod of this host's agent and forgetting the node: `garrison purge`, the one thing here that stops pods
//! because somebody at the host says so.
//!
//! It is an agent that was told that all its DaemonSets are deleted, and that hears of nothing else: pods end as they
//! always do, with their hooks and grace periods. Only then what the agent keeps on disk goes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::roster::{Input, Roster};
use super::{AgentError, CNI_CONF_DIR, INPUTS, Shared, ledger_key, node, observer, share};
use crate::api::bundle::Bundle;
use crate::config::AgentSettings;
use crate::cri::labels::Owner;
use crate::cri::{CriError, Runtime};
use crate::host::ledger::{Contents, Ending, Identity, Ledger, Opened};
use crate::host::{FileError, cni, devices, facts, lock, loopback, remove};
use crate::link::POD_API;
use crate::model::PodKey;
use crate::plan::pressure::Conditions;

/// How long pods may take to end beyond the longest of their grace periods.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often it is looked whether they have.
const INTERVAL: Duration = Duration::from_millis(200);
/// What an agent keeps below its state directory.
const KEPT: [&str; 5] = ["ledger", "node.pem", "agent.sock", "agent.lock", devices::FILE];
/// The grace period of a pod whose DaemonSet is gone, as `terminationGracePeriodSeconds` has it by default.
const GRACE_PERIOD_SECS: u32 = 30;

/// Why not everything is gone.
#[derive(Debug, thiserror::Error)]
pub enum PurgeError {
    /// Before anything was ended.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// Nobody said that pods may be ended.
    #[error("this would end {} and forget this node; say --yes to do it", names(.0))]
    Unconfirmed(Vec<PodKey>),
    /// Pods can only be ended by the runtime that runs them.
    #[error("the pods cannot be ended without their container runtime")]
    Runtime(#[source] CriError),
    /// Some pods are still there.
    #[error("{} did not end; nothing was forgotten, so this can be tried again", names(.0))]
    Left(Vec<PodKey>),
    /// The pods are gone, not all files.
    #[error("the pods are gone, but not everything of this agent on disk")]
    Files(#[source] FileError),
}

fn names(pods: &[PodKey]) -> String {
    match pods {
        [] => "no pod".to_owned(),
        [pod] => format!("pod {pod}"),
        pods => format!("pods {}", pods.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    }
}

/// Ends all pods in the ledger, then removes ledger, credentials and the network the agent installed. Gives the pods.
///
/// What a control endpoint keeps in the same directory stays.
///
/// # Errors
/// [`PurgeError`]; it can be called again after any.
pub async fn purge(settings: AgentSettings, confirmed: bool) -> Result<Vec<PodKey>, PurgeError> {
    let state_dir = settings.state_dir.clone();
    let lock = lock::take(&state_dir).map_err(AgentError::Host)?;
    let _lock = lock.ok_or_else(|| AgentError::Busy(state_dir.clone()))?;
    let opened = Ledger::open(&state_dir, ledger_key()?).map_err(AgentError::Ledger)?;
    let pods: Vec<_> = opened.contents.pods.values().map(|record| record.key.clone()).collect();
    if !confirmed {
        return Err(PurgeError::Unconfirmed(pods));
    }
    let mut conf_dir = settings.cni_conf_dir.clone();
    if let Some(identity) = opened.contents.identity.clone().filter(|_| !pods.is_empty()) {
        let runtime = Runtime::connect(&settings.runtime_endpoint).map_err(PurgeError::Runtime)?;
        let told = runtime.settings().await.map_err(PurgeError::Runtime)?;
        let facts = facts::collect(&settings.root_dir).map_err(AgentError::Host)?;
        let shared = Arc::new(share(settings, facts, &identity, (runtime, &told), None)?);
        end_pods(shared, identity, opened).await?;
        conf_dir = conf_dir.or(told.cni_conf_dir);
    }
    forget(&state_dir, &conf_dir.unwrap_or_else(|| CNI_CONF_DIR.into())).map_err(PurgeError::Files)?;
    if let Err(error) = loopback::remove(*POD_API.ip()) {
        tracing::warn!(%error, address = %POD_API.ip(), "the address at which pods reached the API stays until the next boot");
    }
    Ok(pods)
}

/// Runs an agent's tasks until they have no pod any more.
pub(super) async fn end_pods(shared: Arc<Shared>, identity: Identity, opened: Opened) -> Result<(), PurgeError> {
    let Opened { ledger, mut contents, .. } = opened;
    let patience = longest_grace_period(&ledger, &contents) + PATIENCE;
    delete_all(&mut contents, shared.clock.wall());
    let (inputs_tx, inputs_rx) = mpsc::channel(INPUTS);
    let (status_tx, status_rx) = watch::channel(Err("not asked yet".to_owned()));
    let owner = Owner { fleet: identity.fleet.clone(), node: identity.uid.clone() };
    let mut tasks = JoinSet::new();
    tasks.spawn(observer::run(shared.clone(), owner, inputs_tx.clone(), status_tx));
    let (_conditions_tx, conditions_rx) = watch::channel(Conditions::default());
    tasks.spawn(node::run(shared.clone(), status_rx, conditions_rx, inputs_tx.clone()));
    tasks.spawn(Roster::new(shared, identity, (ledger, contents), None, inputs_tx.clone()).run(inputs_rx));
    let gone = all_gone(&inputs_tx, patience).await;
    tasks.shutdown().await;
    gone.map_err(PurgeError::Left)
}

/// As if each DaemonSet had been deleted `now`. Pods that have none any more end by themselves.
fn delete_all(contents: &mut Contents, now: Timestamp) {
    contents.daemonsets.values_mut().for_each(|set| set.deleted = true);
    for record in contents.pods.values_mut().filter(|record| record.daemonset.is_none()) {
        record.ending.get_or_insert(Ending { since: now, grace_period_secs: GRACE_PERIOD_SECS });
    }
}

/// Of all revisions that pods may be of, and the default of those that cannot be read.
fn longest_grace_period(ledger: &Ledger, contents: &Contents) -> Duration {
    let bundles = contents.bundles().into_iter().filter_map(|hash| Bundle::decode(&ledger.blob(&hash).ok()?).ok());
    let seconds = bundles.filter_map(|bundle| bundle.template.spec?.termination_grace_period_seconds);
    let longest = seconds.filter_map(|seconds| u64::try_from(seconds).ok()).max().unwrap_or_default();
    Duration::from_secs(longest.max(GRACE_PERIOD_SECS.into()))
}

/// Waits until the roster has no pod any more; those it still has are the error.
async fn all_gone(inputs_tx: &mpsc::Sender<Input>, patience: Duration) -> Result<(), Vec<PodKey>> {
    let deadline = Instant::now() + patience;
    loop {
        let (status_tx, status_rx) = oneshot::channel();
        inputs_tx.send(Input::Status(status_tx)).await.expect("the roster runs as long as its sender is held");
        let status = status_rx.await.expect("the roster answers everything it takes");
        if status.pods.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let key =
                |line: super::status::PodLine| PodKey { namespace: line.namespace, name: line.name, uid: "".into() };
            return Err(status.pods.into_iter().map(key).collect());
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

fn forget(state_dir: &Path, conf_dir: &Path) -> Result<(), FileError> {
    for name in KEPT {
        remove(&state_dir.join(name))?;
    }
    cni::uninstall(conf_dir)
}
