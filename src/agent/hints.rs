//! Hints that the runtime has news of a pod: straight from the observer to the pod's worker, since the roster may wait for a disk.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;

use crate::model::Uid;

/// Who is to be told.
#[derive(Debug, Default)]
pub(super) struct Hints(Mutex<HashMap<Uid, Weak<Notify>>>);

impl Hints {
    /// Where the pod's worker hears of it, for as long as it keeps this.
    pub(super) fn of(&self, pod: &Uid) -> Arc<Notify> {
        let hint = Arc::new(Notify::new());
        let mut listeners = self.listeners();
        listeners.retain(|_, listener| listener.strong_count() > 0);
        listeners.insert(pod.clone(), Arc::downgrade(&hint));
        hint
    }

    /// Something about this pod changed.
    pub(super) fn changed(&self, pod: &Uid) {
        self.listeners().get(pod).and_then(Weak::upgrade).inspect(|hint| hint.notify_one());
    }

    /// Any pod may have changed.
    pub(super) fn all_changed(&self) {
        self.listeners().values().filter_map(Weak::upgrade).for_each(|hint| hint.notify_one());
    }

    fn listeners(&self) -> MutexGuard<'_, HashMap<Uid, Weak<Notify>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
