//! Pulling images: a few at a time, each one once however many pods wait for it, and no longer than one of them does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::Semaphore;

use crate::cri::{CriError, Runtime};
use crate::error::Chain;

/// How many pulls run at the same time. The kubelet's default is one; a slow registry must not hold up the others.
const PULLS_MAX: usize = 3;

/// A pull, as a future: the image's id, or the runtime's words.
type Pull = BoxFuture<'static, Result<String, String>>;

/// A cheap handle; all handles share the pulls under way.
#[derive(Clone)]
pub(super) struct Images {
    runtime: Runtime,
    slots: Arc<Semaphore>,
    /// By reference. Held by those who wait: when the last of them goes, the pull is given up and its slot is free.
    under_way: Arc<Mutex<HashMap<String, WeakShared<Pull>>>>,
}

impl Images {
    pub(super) fn new(runtime: Runtime) -> Self {
        Self { runtime, slots: Arc::new(Semaphore::new(PULLS_MAX)), under_way: Arc::default() }
    }

    /// The id of the image if it is on this host.
    pub(super) async fn inspect(&self, reference: &str) -> Result<Option<String>, CriError> {
        Ok(self.runtime.image_status(reference).await?.map(|image| image.id))
    }

    /// Pulls an image, or waits for the pull of it that is under way. Answers with its id.
    ///
    /// # Errors
    /// What the runtime said, on one line.
    pub(super) async fn pull(&self, reference: &str) -> Result<String, String> {
        self.join(reference).await
    }

    /// The pull that is under way, or a new one.
    fn join(&self, reference: &str) -> Shared<Pull> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.retain(|_, pull| pull.upgrade().is_some_and(|pull| pull.peek().is_none()));
        if let Some(pull) = under_way.get(reference).and_then(WeakShared::upgrade) {
            return pull;
        }
        let pull = self.clone().begin(reference.to_owned()).boxed().shared();
        under_way.extend(pull.downgrade().map(|weak| (reference.to_owned(), weak)));
        pull
    }

    async fn begin(self, reference: String) -> Result<String, String> {
        let _slot = self.slots.acquire().await.expect("the semaphore is never closed");
        self.runtime.pull_image(&reference, None).await.map_err(|error| Chain(&error).to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::fake_cri::FakeCri;
    use crate::testing::wait::{LIMIT, eventually};

    /// Waits until so many pulls were asked of the runtime.
    async fn asked(fake: &FakeCri, pulls: usize) {
        let called = || fake.calls().iter().filter(|call| call.method == "PullImage").count();
        eventually(&format!("{pulls} pulls"), async || (called() == pulls).then_some(())).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_image_is_pulled_once_for_all_who_wait_and_again_for_who_comes_later() {
        let fake = FakeCri::new();
        fake.serve_image("web");
        let images = Images::new(fake.runtime());
        fake.hold("PullImage");
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                tokio::spawn({
                    let images = images.clone();
                    async move { images.pull("web").await }
                })
            })
            .collect();
        asked(&fake, 1).await;
        fake.release("PullImage");
        for waiting in waiting {
            assert_eq!(waiting.await.unwrap(), Ok("sha256:web".to_owned()));
        }
        asked(&fake, 1).await;
        images.pull("web").await.unwrap();
        asked(&fake, 2).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_pull_that_nobody_waits_for_holds_up_no_other() {
        let fake = FakeCri::new();
        fake.serve_image("web");
        let images = Images::new(fake.runtime());
        fake.hold("PullImage");
        let stuck: Vec<_> = (0..PULLS_MAX)
            .map(|n| {
                tokio::spawn({
                    let images = images.clone();
                    async move { images.pull(&format!("stuck-{n}")).await }
                })
            })
            .collect();
        asked(&fake, PULLS_MAX).await;
        stuck.iter().for_each(tokio::task::JoinHandle::abort);
        fake.release("PullImage");
        let pulled = tokio::time::timeout(LIMIT, images.pull("web")).await.expect("a slot is free");
        assert_eq!(pulled, Ok("sha256:web".to_owned()));
    }
}
