//! What is shown to registries for a pod's images: what its pull secrets hold, then what the node has itself.

use crate::agent::Shared;
use crate::agent::blocking::blocking;
use crate::error::Chain;
use crate::host::credentials;
use crate::podspec::{Credentials, Keyring, Pod, pull_secrets};

/// Everything to show for an image, one after the other until one is taken; empty to pull as anybody may.
///
/// # Errors
/// A pull secret of the pod that cannot be read, in words for its events.
pub(super) async fn credentials(shared: &Shared, pod: &Pod, reference: &str) -> Result<Vec<Credentials>, String> {
    let objects = shared.objects.borrow().clone();
    let mut found = pull_secrets(pod, &objects)?.keyring.lookup(reference);
    for credentials in of_node(shared).await.lookup(reference) {
        if !found.contains(&credentials) {
            found.push(credentials);
        }
    }
    Ok(found)
}

/// Trouble with the node's own credentials is the operator's: pods' images are pulled without them.
async fn of_node(shared: &Shared) -> Keyring {
    let root_dir = shared.settings.root_dir.clone();
    blocking(move || credentials::keyring(&root_dir)).await.unwrap_or_else(|error| {
        tracing::warn!(error = %Chain(&error), "images are pulled without the node's own credentials");
        Keyring::default()
    })
}
