//! Gives back disk that images take which nothing here needs. They are asked for only when the disk is full.
//!
//! What is needed is told by three: the roster (every revision the node holds, and its pods), the runtime's containers, of whomever, and
//! the runtime itself, for its sandboxes. When one of them does not answer, nothing is removed.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::Shared;
use super::blocking::blocking;
use super::roster::Input;
use crate::cri::{CriError, Image};
use crate::error::Chain;
use crate::host::usage;
use crate::model::{Moment, ObjectKey};
use crate::plan::events;
use crate::plan::images::Seen;
use crate::plan::pressure::Reading;

/// Between two times at which images are looked through while the disk stays full.
const REST: Duration = Duration::from_secs(60);

/// How much is to be given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// As much as the limits on images ask for.
    ToLimit,
    /// What can be: pods would have to go otherwise.
    All,
}

/// Removes images.
#[derive(Debug, Default)]
pub(super) struct Reclaimer {
    seen: Seen,
    /// Nothing is looked through before.
    rests_until: Moment,
}

impl Reclaimer {
    /// Removes images that nothing needs from the disk that `images` lies on. True if one was removed.
    pub(super) async fn reclaim(
        &mut self,
        shared: &Shared,
        images: &Path,
        extent: Extent,
        inputs_tx: &mpsc::Sender<Input>,
    ) -> bool {
        let now = shared.clock.now();
        if now < self.rests_until {
            return false;
        }
        self.rests_until = now + REST;
        let (needed_tx, needed_rx) = oneshot::channel();
        // Without the roster this task is at its end.
        drop(inputs_tx.send(Input::NeededImages(needed_tx)).await);
        let Ok(references) = needed_rx.await else { return false };
        let (present, needed) = match look(shared, references).await {
            Ok(known) => known,
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "the disk of images is full, and which of them are needed is not known");
                return false;
            }
        };
        let ids = present.iter().map(|image| image.id.clone()).collect();
        let removable = self.seen.removable(&ids, &needed, now);
        let before = disk(images).await;
        let mut has_removed = false;
        for id in removable {
            if extent == Extent::ToLimit && surplus(shared, disk(images).await) == 0 {
                break;
            }
            let names = present.iter().find(|image| image.id == id).map(Image::names).unwrap_or_default();
            match shared.runtime.remove_image(&id).await {
                Ok(()) => {
                    tracing::info!(
                        id,
                        names,
                        "the disk of images is full: an image that nothing here needs is removed"
                    );
                    has_removed = true;
                }
                Err(error) => tracing::warn!(id, names, error = %Chain(&error), "an image cannot be removed"),
            }
        }
        let after = disk(images).await;
        if let (Some(before), Some(after)) = (before, after)
            && extent == Extent::ToLimit
            && shared.settings.image_limits.is_exceeded(after)
        {
            let freed = after.available.saturating_sub(before.available);
            let event = events::disk_stays_full(after, freed, surplus(shared, Some(after)));
            let host = shared.host();
            let event =
                shared.event_report("Node", &ObjectKey::new("", host.node_name.as_str()), &host.node_uid, event);
            drop(inputs_tx.send(Input::Event(event)).await);
        }
        has_removed
    }
}

/// The images there are, and the ids of those that are needed: by these references, by containers, by the runtime itself.
async fn look(shared: &Shared, references: BTreeSet<String>) -> Result<(Vec<Image>, BTreeSet<String>), CriError> {
    let sandbox_image = shared.runtime.settings().await?.sandbox_image;
    let mut needed = BTreeSet::new();
    for reference in references.into_iter().chain(sandbox_image) {
        needed.extend(shared.images.inspect(&reference).await?);
    }
    // Containers are asked for last: one that is made meanwhile is made from an image that a reference names.
    let present = shared.runtime.list_images().await?;
    needed.extend(present.iter().filter(|image| image.is_pinned).map(|image| image.id.clone()));
    needed.extend(shared.runtime.images_in_use().await?);
    Ok((present, needed))
}

/// What the disk has left.
async fn disk(path: &Path) -> Option<Reading> {
    let path = path.to_owned();
    let space = blocking(move || usage::space(&path)).await.ok()?;
    Some(Reading { available: space.available_bytes, capacity: space.capacity_bytes })
}

/// How much has to be freed; nothing where that is not known.
fn surplus(shared: &Shared, disk: Option<Reading>) -> u64 {
    disk.map_or(0, |disk| shared.settings.image_limits.surplus(disk))
}
