//! Pulling images: a few at a time, each one once however many pods wait for it, and no longer than one of them does.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::cri::{CriError, Runtime};
use crate::error::Chain;
use crate::podspec::Credentials;

/// How many pulls run at the same time. The kubelet's default is one; a slow registry must not hold up the others.
const PULLS_MAX: usize = 3;

/// What a pull came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pulled {
    /// What containers are created from.
    pub(super) id: String,
    /// Compressed, in bytes.
    pub(super) size_bytes: u64,
    /// How long the pull took from its turn on.
    pub(super) took: Duration,
}

/// A pull, as a future: what it came to, or the runtime's words.
type Pull = BoxFuture<'static, Result<Pulled, String>>;

/// What is pulled: the reference, and what is shown to the registry for it.
type Subject = (String, Vec<Credentials>);

/// A cheap handle; all handles share the pulls under way.
#[derive(Clone)]
pub(super) struct Images {
    runtime: Runtime,
    slots: Arc<Semaphore>,
    /// Nobody gets an image on another's word: those who show something else pull for themselves. Held by those who wait:
    /// when the last of them goes, the pull is given up and its slot is free.
    under_way: Arc<Mutex<HashMap<Subject, WeakShared<Pull>>>>,
}

impl Images {
    pub(super) fn new(runtime: Runtime) -> Self {
        Self { runtime, slots: Arc::new(Semaphore::new(PULLS_MAX)), under_way: Arc::default() }
    }

    /// The id of the image if it is on this host.
    pub(super) async fn inspect(&self, reference: &str) -> Result<Option<String>, CriError> {
        Ok(self.runtime.image_status(reference).await?.map(|image| image.id))
    }

    /// Pulls an image, or waits for the pull of it that is under way. `credentials` are shown to the registry one after the
    /// other until one is taken; without any the image is pulled as anybody may.
    ///
    /// # Errors
    /// What the runtime said, on one line; with several credentials, to each of them.
    pub(super) async fn pull(&self, reference: &str, credentials: Vec<Credentials>) -> Result<Pulled, String> {
        self.join((reference.to_owned(), credentials)).await
    }

    /// The pull that is under way, or a new one.
    fn join(&self, what: Subject) -> Shared<Pull> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.retain(|_, pull| pull.upgrade().is_some_and(|pull| pull.peek().is_none()));
        if let Some(pull) = under_way.get(&what).and_then(WeakShared::upgrade) {
            return pull;
        }
        let pull = self.clone().begin(what.clone()).boxed().shared();
        under_way.extend(pull.downgrade().map(|weak| (what, weak)));
        pull
    }

    async fn begin(self, (reference, credentials): Subject) -> Result<Pulled, String> {
        let _slot = self.slots.acquire().await.expect("the semaphore is never closed");
        let begun = Instant::now();
        let mut tries: Vec<_> = credentials.iter().map(Some).collect();
        if tries.is_empty() {
            tries.push(None);
        }
        let mut refusals = Vec::new();
        for credentials in tries {
            match self.pull_whole(&reference, credentials).await {
                Ok(id) => {
                    let took = begun.elapsed();
                    // Its size is only told to users; a runtime that does not answer now has pulled it all the same.
                    let size_bytes =
                        self.runtime.image_status(&id).await.ok().flatten().map_or(0, |image| image.size_bytes);
                    return Ok(Pulled { id, size_bytes, took });
                }
                Err(error) => refusals.push(Chain(&error).to_string()),
            }
        }
        Err(all_of(refusals))
    }

    /// Pulls; where that fails for what is damaged here, once more without it.
    async fn pull_whole(&self, reference: &str, credentials: Option<&Credentials>) -> Result<String, CriError> {
        match self.runtime.pull_image(reference, credentials).await {
            Err(error) if error.is_damaged_image() => {
                tracing::warn!(reference, error = %Chain(&error), "the image is damaged here; it is pulled anew");
                self.runtime.discard_image(reference).await?;
                self.runtime.pull_image(reference, credentials).await
            }
            result => result,
        }
    }
}

/// Several refusals in one text, each once.
///
/// Source: kubernetes v1.36 `k8s.io/apimachinery/pkg/util/errors`, `Aggregate`.
fn all_of(mut refusals: Vec<String>) -> String {
    let mut seen = HashSet::new();
    refusals.retain(|refusal| seen.insert(refusal.clone()));
    if refusals.len() == 1 { refusals.remove(0) } else { format!("[{}]", refusals.join(", ")) }
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
                    async move { images.pull("web", vec![]).await }
                })
            })
            .collect();
        asked(&fake, 1).await;
        fake.release("PullImage");
        for waiting in waiting {
            assert_eq!(waiting.await.unwrap().unwrap().id, "sha256:web");
        }
        asked(&fake, 1).await;
        images.pull("web", vec![]).await.unwrap();
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
                    async move { images.pull(&format!("stuck-{n}"), vec![]).await }
                })
            })
            .collect();
        asked(&fake, PULLS_MAX).await;
        stuck.iter().for_each(tokio::task::JoinHandle::abort);
        fake.release("PullImage");
        let pulled = tokio::time::timeout(LIMIT, images.pull("web", vec![])).await.expect("a slot is free");
        assert_eq!(pulled.unwrap().id, "sha256:web");
    }

    fn user(name: &str) -> Credentials {
        Credentials { username: name.to_owned(), password: "secret".to_owned(), ..Credentials::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn credentials_are_tried_in_turn_and_all_refusals_are_told() {
        let fake = FakeCri::new();
        fake.serve_image("web");
        let images = Images::new(fake.runtime());
        fake.fail_next("PullImage", tonic::Code::Unknown, "401 Unauthorized");
        images.pull("web", vec![user("a"), user("b"), user("c")]).await.unwrap();
        let shown: Vec<_> = (fake.calls().iter().filter(|call| call.method == "PullImage"))
            .map(|call| call.request["auth"]["username"].as_str().unwrap_or_default().to_owned())
            .collect();
        assert_eq!(shown, ["a", "b"], "the first that is taken is enough");

        for message in ["401 Unauthorized", "403 Forbidden", "401 Unauthorized"] {
            fake.fail_next("PullImage", tonic::Code::Unknown, message);
        }
        let refused = images.pull("web", vec![user("a"), user("b"), user("c")]).await;
        assert_eq!(refused, Err("[401 Unauthorized, 403 Forbidden]".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_damaged_is_discarded_and_pulled_anew_once() {
        let fake = FakeCri::new();
        fake.serve_image("web");
        let images = Images::new(fake.runtime());
        let damage = "failed to pull and unpack image \"web\": unmarshal image config: unexpected end of JSON input";
        fake.fail_next("PullImage", tonic::Code::Unknown, damage);
        assert_eq!(images.pull("web", vec![]).await.unwrap().id, "sha256:web");
        let calls: Vec<_> = fake.calls().iter().map(|call| call.method).collect();
        assert_eq!(calls[..3], ["PullImage", "RemoveImage", "PullImage"]);

        for _ in 0..2 {
            fake.fail_next("PullImage", tonic::Code::Unknown, damage);
        }
        assert_eq!(images.pull("web", vec![]).await, Err(damage.to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pull_with_other_credentials_is_another_pull() {
        let fake = FakeCri::new();
        fake.serve_image("web");
        let images = Images::new(fake.runtime());
        fake.hold("PullImage");
        let credentials = [vec![], vec![user("a")], vec![user("a")], vec![user("b")]];
        let waiting: Vec<_> = credentials
            .map(|credentials| {
                let images = images.clone();
                tokio::spawn(async move { images.pull("web", credentials).await })
            })
            .into();
        asked(&fake, 3).await;
        fake.release("PullImage");
        for waiting in waiting {
            waiting.await.unwrap().unwrap();
        }
        asked(&fake, 3).await;
    }
}
