//! Preparing a newer revision: its images are pulled while the old pod still runs, so that what cannot work takes no slot.

use crate::agent::Shared;
use crate::api::bundle::Bundle;
use crate::error::Chain;
use crate::link::Reason;
use crate::podspec::PullPolicy;

/// Pulls what the revision's containers need. Whether its pod fits is the roster's to say.
///
/// # Errors
/// The first reason why it would not work here, as control and the user get it.
pub(super) async fn prepare(shared: &Shared, bundle: &Bundle) -> Result<(), Reason> {
    let pod = shared.sample(bundle).map_err(|message| reason("Unrealizable", message))?;
    for container in &pod.containers {
        let reference = container.image_reference.as_ref();
        let reference = reference.map_err(|error| reason("InvalidImageName", error.clone()))?;
        if container.pull_policy != PullPolicy::Always {
            let present = shared.images.inspect(reference).await;
            let present = present.map_err(|error| reason("ImageInspectError", Chain(&error).to_string()))?;
            match (present, container.pull_policy) {
                (Some(_), _) => continue,
                (None, PullPolicy::Never) => {
                    let message =
                        format!("Container image \"{}\" is not present with pull policy of Never", container.image);
                    return Err(reason("ErrImageNeverPull", message));
                }
                (None, _) => {}
            }
        }
        let failed = |error| reason("ErrImagePull", format!("Failed to pull image \"{}\": {error}", container.image));
        shared.images.pull(reference, Vec::new()).await.map_err(failed)?;
    }
    Ok(())
}

fn reason(reason: &str, message: String) -> Reason {
    Reason { reason: reason.to_owned(), message, field: String::new() }
}
