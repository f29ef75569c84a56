//! Keeps the logs of running containers from filling the disk.
//!
//! One task looks at them all, one after the other, with one timer; without a pod it never wakes. What a container's log
//! calls for is said by `host::logs`, which also moves files about; the runtime is made to open another.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::Shared;
use super::blocking::blocking;
use crate::cri::CriError;
use crate::error::Chain;
use crate::host::FileError;
use crate::host::logs::{self, Due};
use crate::model::{ContainerId, ContainerPhase, ObservedPod};
use crate::podspec::Pod;

/// How often logs are looked at (the kubelet's `containerLogMonitorInterval`).
const PERIOD: Duration = Duration::from_secs(10);

/// A cheap handle; all handles share the pods.
#[derive(Debug, Clone, Default)]
pub(super) struct Rotation {
    pods: Arc<Mutex<Vec<Kept>>>,
    /// There is a first pod.
    news: Arc<Notify>,
}

/// A pod whose logs are looked after, for as long as its worker lives.
#[derive(Debug)]
struct Kept {
    pod: Arc<Pod>,
    observed: watch::Receiver<ObservedPod>,
}

/// Why a log could not be rotated.
#[derive(Debug, thiserror::Error)]
enum RotationError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the runtime did not open the log again")]
    Reopen(#[from] CriError),
}

impl Rotation {
    /// Looks after the logs of a pod.
    pub(super) fn keep(&self, pod: Arc<Pod>, observed: watch::Receiver<ObservedPod>) {
        self.pods().push(Kept { pod, observed });
        self.news.notify_one();
    }

    fn pods(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The containers that run, with the files they write to. Forgets pods whose worker has ended.
    fn running(&self) -> Vec<(ContainerId, PathBuf)> {
        let mut pods = self.pods();
        // A channel is only known to be closed once its last value was seen.
        pods.retain_mut(|kept| {
            kept.observed.mark_unchanged();
            kept.observed.has_changed().is_ok()
        });
        let running = pods.iter().flat_map(|kept| {
            let observed = kept.observed.borrow();
            let running = observed.containers.iter();
            let running = running.filter(|instance| matches!(instance.phase, ContainerPhase::Running { .. }));
            let file = |name: &str, attempt| kept.pod.log_dir.join(name).join(format!("{attempt}.log"));
            running.map(|instance| (instance.id.clone(), file(&instance.name, instance.attempt))).collect::<Vec<_>>()
        });
        running.collect()
    }
}

/// Looks at logs until its runtime ends.
pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        if shared.rotation.pods().is_empty() {
            shared.rotation.news.notified().await;
        }
        tokio::time::sleep(PERIOD).await;
        for (id, path) in shared.rotation.running() {
            if let Err(error) = look(&shared, &id, path.clone()).await {
                tracing::warn!(path = %path.display(), error = %Chain(&error), "a log cannot be rotated");
            }
        }
    }
}

/// Looks at one log and does what it calls for.
async fn look(shared: &Shared, id: &ContainerId, path: PathBuf) -> Result<(), RotationError> {
    // A look takes no longer than a disk that has it in memory anyway.
    let rotated = match logs::due(&path)? {
        Due::Nothing => return Ok(()),
        Due::Reopen => None,
        Due::Rotate => {
            let now = shared.clock.wall();
            Some(blocking(move || logs::rotate(&path, now)).await?)
        }
    };
    let reopened = shared.runtime.reopen_container_log(id).await;
    match (reopened, rotated) {
        (Err(error), Some(rotated)) => {
            rotated.undo()?;
            Err(error.into())
        }
        // One that has ended in the meantime has no log to open.
        (Err(error), None) => {
            tracing::debug!(container = %id, error = %Chain(&error), "a log was not opened again");
            Ok(())
        }
        (Ok(()), _) => Ok(()),
    }
}
