//! Watching the runtime: which pods changed, which are there at all, and whether it is well.
//!
//! It follows the runtime's events and passes on hints. Whenever events may have been missed, and now and then as a safety
//! net, it asks what the runtime and the host are like now, and lists everything of ours. No state is kept and nothing is
//! decided; an unreachable runtime is waited for.

use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::agent::Shared;
use crate::agent::roster::Input;
use crate::cri::labels::Owner;
use crate::cri::{RuntimeEvent, RuntimeStatus};
use crate::error::Chain;
use crate::model::{ContainerPhase, ObservedPod};

/// The safety net: how long a change may stay unseen if its event was lost.
const LIST_INTERVAL: Duration = Duration::from_secs(300);
/// After a gap in the events everything is compared a second time: containerd 1.6 tells of an exit some 70 ms before its CRI
/// shows it, so one that was told of in the gap may have been hidden from the first comparison.
const SECOND_LOOK: Duration = Duration::from_secs(2);
/// How often the runtime is asked how it is, since one that hangs tells nobody.
const ASK_INTERVAL: Duration = Duration::from_secs(30);
/// How often a runtime that is not ready is asked again: it tells nobody when its network comes.
const UNREADY_INTERVAL: Duration = Duration::from_secs(2);

/// Runs until the roster is gone. `status_tx` tells how the runtime is: its status, or why there is none.
pub(super) async fn run(
    shared: std::sync::Arc<Shared>,
    owner: Owner,
    inputs_tx: mpsc::Sender<Input>,
    status_tx: watch::Sender<Result<RuntimeStatus, String>>,
) {
    let mut events = shared.runtime.events();
    let mut list_at = shared.clock.now();
    let mut ask_at = list_at + ASK_INTERVAL;
    loop {
        // Every arm is cancel-safe: `recv` takes one whole item, the others only wait.
        let (event, interval) = tokio::select! {
            event = events.recv() => (event, SECOND_LOOK),
            () = shared.clock.sleep_until(Some(list_at)) => (Some(RuntimeEvent::Missed), LIST_INTERVAL),
            () = shared.clock.sleep_until(Some(ask_at)) => {
                // Whatever has changed, everything is looked at.
                let changed = ask(&shared, &status_tx).await;
                ask_at = shared.clock.now() + ASK_INTERVAL;
                if changed {
                    list_at = shared.clock.now();
                }
                continue;
            }
        };
        let sent = match event {
            None => return,
            Some(RuntimeEvent::Changed(uid)) => {
                shared.hints.changed(&uid);
                Ok(())
            }
            // What is gone without a name was removed by its own worker, or the list shows it.
            Some(RuntimeEvent::Gone(_)) => Ok(()),
            Some(RuntimeEvent::Missed) => {
                let looked = look(&shared, &owner, &inputs_tx, &status_tx).await;
                let ready = status_tx.borrow().as_ref().is_ok_and(RuntimeStatus::is_ready);
                let interval = if ready { interval } else { UNREADY_INTERVAL };
                list_at = shared.clock.now() + interval;
                ask_at = shared.clock.now() + ASK_INTERVAL;
                looked
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Looks at everything at once.
async fn look(
    shared: &Shared,
    owner: &Owner,
    inputs_tx: &mpsc::Sender<Input>,
    status_tx: &watch::Sender<Result<RuntimeStatus, String>>,
) -> Result<(), mpsc::error::SendError<Input>> {
    ask(shared, status_tx).await;
    if status_tx.borrow().is_err() {
        return Ok(());
    }
    // Before anything is made of what is listed.
    shared.look_at_host().await;
    match shared.runtime.list(owner).await {
        Ok(pods) => {
            let over = pods.iter().filter(|(_, owned)| is_over(&owned.pod));
            let sandboxes = |pod: &ObservedPod| pod.sandboxes.iter().map(|sandbox| sandbox.id.clone()).collect();
            let over = over.map(|(uid, owned)| (uid.clone(), sandboxes(&owned.pod))).collect();
            shared.hints.all_changed();
            inputs_tx.send(Input::Listed { found: pods.into_keys().collect(), over }).await
        }
        Err(error) => {
            tracing::warn!(error = %Chain(&error), "cannot list the runtime's pods");
            Ok(())
        }
    }
}

/// Asks the runtime how it is; whether that has changed.
async fn ask(shared: &Shared, status_tx: &watch::Sender<Result<RuntimeStatus, String>>) -> bool {
    let status = shared.runtime.status().await.map_err(|error| Chain(&error).to_string());
    status_tx.send_if_modified(|known| {
        let changes = *known != status;
        *known = status;
        changes
    })
}

/// Nothing of the pod lives, and nothing can.
fn is_over(pod: &ObservedPod) -> bool {
    let ended = |phase: &ContainerPhase| matches!(phase, ContainerPhase::Created | ContainerPhase::Exited { .. });
    !pod.sandboxes.iter().any(|sandbox| sandbox.ready) && pod.containers.iter().all(|container| ended(&container.phase))
}
