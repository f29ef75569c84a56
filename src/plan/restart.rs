//! When a container may be started: crash back-off and image.
//!
//! Source: kubernetes v1.36 `pkg/kubelet/kuberuntime/kuberuntime_manager.go` (`doBackOff`) and
//! `pkg/kubelet/images/image_manager.go` (`EnsureImageExists`).

use std::time::Duration;

use super::memory::{CRASH, Image, Subject};
use super::{Draft, Offer, Step, Waiting, go_duration};
use crate::model::Moment;
use crate::podspec::{Container, Pod, PullPolicy};

/// For this long after a failed pull its error is the reason shown; then it is `ImagePullBackOff`. Upstream changes over
/// with the pod's next sync, whenever that comes.
const PULL_ERROR_SHOWN: Duration = Duration::from_secs(5);

/// Whether an instance may be made.
pub(super) enum Start {
    /// It may, from this image.
    Now { image_ref: String },
    /// Its image is being looked for.
    Soon,
    /// Not before a later moment: the draft says why, and when.
    Later,
}

/// Clears the way for a new instance. Its image is looked for only when the crash back-off is over.
pub(super) fn start(draft: &mut Draft<'_>, index: usize) -> Start {
    let (pod, container) = (draft.pod, &draft.pod.containers[index]);
    if let Err(problem) = &container.image_reference {
        draft.plan.waiting[index] = Some(invalid_image(container, problem));
        return Start::Later;
    }
    if let Some((delay, until)) = crash_delay(draft, index) {
        draft.plan.waiting[index] = Some(crash_loop(pod, container, delay));
        draft.wake(until);
        return Start::Later;
    }
    draft.plan.waiting[index] = image_failure(draft, container, index)
        .or_else(|| draft.memory.failure(&Subject::Start(index)).map(|(failure, _)| failure.clone()));
    let step = match (&draft.memory.containers[index].image, container.pull_policy) {
        (Image::Present(id), _) => return Start::Now { image_ref: id.clone() },
        (Image::Unknown, PullPolicy::Always) | (Image::Absent, PullPolicy::Always | PullPolicy::IfNotPresent) => {
            Step::PullImage { container: index }
        }
        // An image that may not be pulled is looked for again: somebody may bring it.
        (Image::Unknown, _) | (Image::Absent, PullPolicy::Never) => Step::InspectImage { container: index },
    };
    match draft.offer(step) {
        Offer::Taken => Start::Soon,
        Offer::Later => Start::Later,
    }
}

/// How long the container rests after its last end, and until when; none if it need not.
fn crash_delay(draft: &Draft<'_>, index: usize) -> Option<(Duration, Moment)> {
    let memory = &draft.memory.containers[index];
    let (crash, (_, ended_at)) = memory.crash.zip(memory.ended.as_ref())?;
    let until = *ended_at + crash.delay;
    (until > draft.now && !crash.is_stale(*ended_at, CRASH)).then_some((crash.delay, until))
}

fn crash_loop(pod: &Pod, container: &Container, delay: Duration) -> Waiting {
    let (key, delay) = (&pod.key, go_duration(delay));
    let message = format!(
        "back-off {delay} restarting failed container={} pod={}_{}({})",
        container.name, key.name, key.namespace, key.uid
    );
    Waiting { reason: "CrashLoopBackOff", message }
}

fn invalid_image(container: &Container, problem: &str) -> Waiting {
    let message = format!("Failed to apply default image tag \"{}\": {problem}", container.image);
    Waiting { reason: "InvalidImageName", message }
}

/// What is to be said of the container's image.
fn image_failure(draft: &mut Draft<'_>, container: &Container, index: usize) -> Option<Waiting> {
    if let Some((failure, at)) = draft.memory.failure(&Subject::PullImage(index)) {
        let shown_until = at + PULL_ERROR_SHOWN;
        if draft.now < shown_until {
            draft.wake(shown_until);
            return Some(failure.clone());
        }
        let Waiting { reason, message } = failure;
        let message = format!("Back-off pulling image \"{}\": {reason}: {message}", container.image);
        return Some(Waiting { reason: "ImagePullBackOff", message });
    }
    if container.pull_policy == PullPolicy::Never && draft.memory.containers[index].image == Image::Absent {
        let message = format!("Container image \"{}\" is not present with pull policy of Never", container.image);
        return Some(Waiting { reason: "ErrImageNeverPull", message });
    }
    draft.memory.failure(&Subject::InspectImage(index)).map(|(failure, _)| failure.clone())
}
