//! Work that keeps a thread for as long as a disk takes.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Runs `work` on a thread of its own, so that no task waits for a disk but the one that asked.
///
/// A runtime that has one thread only, as in tests and in the simulation of a fleet, does it in place: what comes first does
/// not depend on how two threads race.
///
/// # Panics
/// If `work` does.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
        return work();
    }
    tokio::task::spawn_blocking(work).await.expect("the work does not panic, and nothing cancels it")
}
