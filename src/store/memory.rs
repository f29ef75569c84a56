//! The store without a disk: for tests, and the shortest statement of what a commit does.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::history::History;
use super::local::{Commit, Local, Shared};
use super::{Condition, HistoryId, Revision, StoreError, Write};

/// A store that lives and dies with the process; [`Persistence`](super::Persistence) changes nothing but leases.
pub type Memory = Local<InPlace>;

/// Commits by publishing at once.
pub struct InPlace;

impl Memory {
    /// An empty store. Leases need the surrounding tokio runtime, nothing else does.
    pub fn new() -> Arc<Self> {
        let shared = Shared::new(History::new(Revision(0), []));
        Self::assemble(Arc::new(shared), HistoryId::random(), InPlace)
    }
}

impl Commit for InPlace {
    fn commit<'a>(
        &'a self,
        shared: &'a Shared,
        conditions: Vec<Condition>,
        writes: Vec<Write>,
    ) -> BoxFuture<'a, Result<Revision, StoreError>> {
        Box::pin(async move {
            let staged = shared.write().stage(&conditions, writes)?;
            shared.publish();
            Ok(staged.revision)
        })
    }
}
