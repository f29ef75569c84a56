//! Preparing a newer revision: its configuration is looked at and its images are pulled while the old pod still runs, so
//! that what cannot work takes no slot.

use std::sync::Arc;

use crate::agent::Shared;
use crate::agent::credentials::credentials;
use crate::api::bundle::Bundle;
use crate::error::Chain;
use crate::link::Reason;
use crate::plan::memory::ANSWER_TIMEOUT;
use crate::podspec::bind::check;
use crate::podspec::objects::Objects;
use crate::podspec::{NamedImage, Pod, PullPolicy};

/// Makes sure that the revision's configuration is there, and pulls the images its containers need. Whether its pod fits is
/// the roster's to say.
///
/// # Errors
/// The first reason why it would not work here, as control and the user get it.
pub(super) async fn prepare(shared: &Shared, bundle: &Bundle) -> Result<(), Reason> {
    let pod = shared.sample(bundle).map_err(|message| reason("Unrealizable", message))?;
    check(&pod, &*heard(shared, &pod).await)
        .map_err(|error| reason("CreateContainerConfigError", error.to_string()))?;
    for image in (0..pod.containers.len()).flat_map(|container| pod.images(container)) {
        bring(shared, &pod, pod.image(image)).await?;
    }
    Ok(())
}

/// Has an image of the pod on the host, as its policy says.
async fn bring(shared: &Shared, pod: &Pod, image: NamedImage<'_>) -> Result<(), Reason> {
    let NamedImage { written, reference, pull_policy } = image;
    let reference = reference.map_err(|error| reason("InvalidImageName", error.to_owned()))?;
    if pull_policy != PullPolicy::Always {
        let present = shared.images.inspect(reference).await;
        let present = present.map_err(|error| reason("ImageInspectError", Chain(&error).to_string()))?;
        match (present, pull_policy) {
            (Some(_), _) => return Ok(()),
            (None, PullPolicy::Never) => {
                let message = format!("Container image \"{written}\" is not present with pull policy of Never");
                return Err(reason("ErrImageNeverPull", message));
            }
            (None, _) => {}
        }
    }
    let failed = |error| reason("ErrImagePull", format!("Failed to pull image \"{written}\": {error}"));
    let credentials = credentials(shared, pod, reference).await.map_err(failed)?;
    shared.images.pull(reference, credentials).await.map_err(failed)?;
    Ok(())
}

/// The objects there are, once control has answered for all that the pod asks for.
async fn heard(shared: &Shared, pod: &Pod) -> Arc<Objects> {
    let mut objects = shared.objects.subscribe();
    let answered = objects.wait_for(|objects| objects.is_heard(pod));
    // What was not answered in time is told by its name.
    drop(tokio::time::timeout(ANSWER_TIMEOUT, answered).await);
    shared.objects.borrow().clone()
}

fn reason(reason: &str, message: String) -> Reason {
    Reason { reason: reason.to_owned(), message, field: String::new() }
}
