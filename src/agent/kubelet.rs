//! A kubelet on this host, which would fight over the same pods' folders, cgroups and containers.
//!
//! One that starts makes its socket for device plugins anew, in the folder where the agent has its own. Whenever something changes
//! there, the agent looks who runs; nothing here wakes otherwise.

use std::fs::DirBuilder;
use std::future::pending;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use super::AgentError;
use crate::config::{AgentSettings, ROOT_DIR};
use crate::host::devices::PLUGINS;
use crate::host::preflight;
use crate::host::watch::FolderWatch;

/// Finds that there is none, or that it has other places.
///
/// # Errors
/// [`AgentError::Kubelet`].
pub(super) fn refuse(settings: &AgentSettings) -> Result<(), AgentError> {
    if settings.is_apart_from_kubelet() {
        return Ok(());
    }
    let found = preflight::kubelets().into_iter().next();
    found.map_or(Ok(()), |(name, pid)| Err(AgentError::Kubelet { name, pid }))
}

/// Waits until one comes; [`AgentError::Kubelet`]. For ever where it would have other places, which are left alone.
pub(super) async fn comes(settings: &AgentSettings) -> AgentError {
    if settings.is_apart_from_kubelet() {
        return pending().await;
    }
    match watch(settings).await {
        Ok(refused) => refused,
        Err(error) => {
            tracing::warn!(%error, "a kubelet that comes to run here will not be noticed");
            pending().await
        }
    }
}

async fn watch(settings: &AgentSettings) -> io::Result<AgentError> {
    // Nothing tells of a folder that comes where the one above is missing, too.
    DirBuilder::new().recursive(true).mode(0o750).create(ROOT_DIR)?;
    let mut watch = FolderWatch::new(&Path::new(ROOT_DIR).join(PLUGINS))?;
    loop {
        if let Err(refused) = refuse(settings) {
            return Ok(refused);
        }
        watch.changed().await?;
    }
}
