//! What the runtime has lost of a pod, and what becomes of it: a runtime whose records are gone knows no container, and those it had
//! run on.
//!
//! They serve until others can take their place: a sandbox is made and images are pulled beside them. Before the first container is
//! made they end, as the runtime would have ended them, and their network is given back. The Node says so as long as there are any.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::Shared;
use super::blocking::blocking;
use crate::error::Chain;
use crate::host::{FileError, cni, strays};
use crate::model::{Moment, ObservedPod};
use crate::podspec::Pod;

/// How often it is looked whether they have ended.
const POLL: Duration = Duration::from_millis(100);
/// How long the kernel may take to end what was killed.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// Looks for processes that the runtime has lost of the pod, and has the Node say so; the number of them.
pub(super) async fn look(shared: &Shared, pod: &Arc<Pod>, observed: &ObservedPod) -> usize {
    // What cannot be read is told when a container is about to be made.
    let lost = lost(shared, pod, observed).await.map_or(0, |(lost, _)| lost.len());
    note(shared, pod, lost > 0);
    lost
}

/// Ends what the runtime has lost of the pod, within its grace period, and gives its network back.
///
/// # Errors
/// What is in the way, on one line: nothing may be made beside processes that stay.
pub(super) async fn end(shared: &Shared, pod: &Arc<Pod>, observed: &ObservedPod) -> Result<(), String> {
    let (lost, known) = lost(shared, pod, observed).await?;
    if lost.is_empty() {
        note(shared, pod, false);
        return Ok(());
    }
    tracing::warn!(pod = %pod.key, processes = ?lost, "ending what the runtime has no record of");
    let shims = strays::shims(&lost);
    let grace = shared.clock.now() + pod.grace_period;
    signal(&strays::first(&lost), Signal::SIGTERM)?;
    if !have_ended(shared, pod, &known, &lost, grace).await {
        signal(&lost, Signal::SIGKILL)?;
        if !have_ended(shared, pod, &known, &lost, shared.clock.now() + KILL_TIMEOUT).await {
            return Err(format!("processes that the container runtime has no record of cannot be ended: {lost:?}"));
        }
    }
    signal(&shims, Signal::SIGKILL)?;
    for failure in release_network(shared, pod, &known).await {
        tracing::warn!(pod = %pod.key, failure, "what the runtime has lost of a network stays");
    }
    note(shared, pod, false);
    Ok(())
}

/// The processes that the runtime has lost, and the ids that it knows. Before they count, it is asked once more: others may have been
/// made since `observed`.
async fn lost(
    shared: &Shared,
    pod: &Arc<Pod>,
    observed: &ObservedPod,
) -> Result<(BTreeSet<i32>, BTreeSet<String>), String> {
    let known = ids(observed);
    let found = find(shared, pod, &known).await.map_err(|error| Chain(&error).to_string())?;
    if found.is_empty() {
        return Ok((found, known));
    }
    let observed = shared.runtime.observe(&pod.key.uid).await.map_err(|error| Chain(&error).to_string())?;
    let known = ids(&observed);
    let still = find(shared, pod, &known).await.map_err(|error| Chain(&error).to_string())?;
    Ok((&found & &still, known))
}

async fn find(shared: &Shared, pod: &Arc<Pod>, known: &BTreeSet<String>) -> Result<BTreeSet<i32>, FileError> {
    let (cgroups, pod, known) = (shared.cgroups.clone(), pod.clone(), known.clone());
    blocking(move || strays::find(&cgroups, &pod, &known)).await
}

/// Of sandboxes and containers: each has a cgroup.
fn ids(observed: &ObservedPod) -> BTreeSet<String> {
    let sandboxes = observed.sandboxes.iter().map(|sandbox| sandbox.id.0.clone());
    sandboxes.chain(observed.containers.iter().map(|container| container.id.0.clone())).collect()
}

fn signal(pids: &BTreeSet<i32>, signal: Signal) -> Result<(), String> {
    strays::signal(pids, signal).map_err(|errno| format!("cannot end what the container runtime has lost: {errno}"))
}

/// Waits until none of them is left; false if some are at `deadline`.
async fn have_ended(
    shared: &Shared,
    pod: &Arc<Pod>,
    known: &BTreeSet<String>,
    lost: &BTreeSet<i32>,
    deadline: Moment,
) -> bool {
    loop {
        if find(shared, pod, known).await.is_ok_and(|left| left.is_disjoint(lost)) {
            return true;
        }
        if shared.clock.now() >= deadline {
            return false;
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn release_network(shared: &Shared, pod: &Pod, known: &BTreeSet<String>) -> Vec<String> {
    let told = shared.runtime.settings().await.ok();
    let bin_dir = super::cni_bin_dir(told.and_then(|settings| settings.cni_bin_dir));
    cni::release::release(Path::new(cni::release::RECORDS), &bin_dir, &pod.key.uid, known).await
}

/// Has the Node say that there are lost processes of the pod, or that there are none any more.
fn note(shared: &Shared, pod: &Pod, lost: bool) {
    shared.lost.send_if_modified(|known| match lost {
        true => known.insert(pod.key.uid.clone(), pod.key.to_string()).is_none(),
        false => known.remove(&pod.key.uid).is_some(),
    });
}
