//! When a container may be started: crash back-off and images.
//!
//! Source: kubernetes v1.36 `pkg/kubelet/kuberuntime/kuberuntime_manager.go` (`doBackOff`) and
//! `pkg/kubelet/images/image_manager.go` (`EnsureImageExists`).

use std::collections::BTreeMap;
use std::time::Duration;

use super::memory::{CRASH, Image, Subject};
use super::{Draft, Offer, Step, Waiting, go_duration};
use crate::model::Moment;
use crate::podspec::{Container, ImageUse, NamedImage, Pod, PullPolicy};

/// For this long after a failed pull its error is the reason shown; then it is `ImagePullBackOff`. Upstream changes over
/// with the pod's next sync, whenever that comes.
const PULL_ERROR_SHOWN: Duration = Duration::from_secs(5);

/// Whether an instance may be made.
pub(super) enum Start {
    /// It may, from this image, with these in its volumes by their names.
    Now { image_ref: String, volume_images: BTreeMap<String, String> },
    /// An image is being looked for.
    Soon,
    /// Not before a later moment: the draft says why, and when.
    Later,
}

/// Clears the way for a new instance. Images are looked for only when the crash back-off is over, one after the other.
pub(super) fn start(draft: &mut Draft<'_>, index: usize) -> Start {
    let (pod, container) = (draft.pod, &draft.pod.containers[index]);
    if let Some(waiting) = pod.images(index).find_map(|image| invalid_image(pod.image(image))) {
        draft.plan.waiting[index] = Some(waiting);
        return Start::Later;
    }
    if let Some((delay, until)) = crash_delay(draft, index) {
        draft.plan.waiting[index] = Some(crash_loop(pod, container, delay));
        draft.wake(until);
        return Start::Later;
    }
    let missing = pod.images(index).find(|image| !matches!(draft.memory.image(*image), Image::Present(_)));
    draft.plan.waiting[index] = missing
        .and_then(|image| image_failure(draft, image))
        .or_else(|| draft.memory.failure(&Subject::Start(index)).map(|(failure, _)| failure.clone()));
    let Some(image) = missing else { return now(draft, index) };
    match draft.offer(search(draft.memory.image(image), image, pod.image(image).pull_policy)) {
        Offer::Taken => Start::Soon,
        Offer::Later => Start::Later,
    }
}

fn now(draft: &Draft<'_>, index: usize) -> Start {
    let (mut image_ref, mut volume_images) = (String::new(), BTreeMap::new());
    for image in draft.pod.images(index) {
        let Image::Present(id) = draft.memory.image(image) else { continue };
        match image.volume {
            None => image_ref.clone_from(id),
            Some(volume) => drop(volume_images.insert(draft.pod.volumes[volume].name.clone(), id.clone())),
        }
    }
    Start::Now { image_ref, volume_images }
}

/// What brings an image that is not known to be there. A registry that does not answer stops no pod whose image is on the
/// host, also where upstream would wait for it (`imagePullPolicy: Always`): a host has to come back without a network.
fn search(known: &Image, image: ImageUse, pull_policy: PullPolicy) -> Step {
    match (known, pull_policy) {
        (Image::Unknown, PullPolicy::Always) | (Image::Absent, PullPolicy::Always | PullPolicy::IfNotPresent) => {
            Step::PullImage { image }
        }
        // An image that may not be pulled is looked for again: somebody may bring it.
        _ => Step::InspectImage { image },
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

fn invalid_image(image: NamedImage<'_>) -> Option<Waiting> {
    let problem = image.reference.err()?;
    let message = format!("Failed to apply default image tag \"{}\": {problem}", image.written);
    Some(Waiting { reason: "InvalidImageName", message })
}

/// What is to be said of an image that is not there.
fn image_failure(draft: &mut Draft<'_>, image: ImageUse) -> Option<Waiting> {
    let NamedImage { written, pull_policy, .. } = draft.pod.image(image);
    if let Some((failure, at)) = draft.memory.failure(&Subject::PullImage(image)) {
        let shown_until = at + PULL_ERROR_SHOWN;
        if draft.now < shown_until {
            draft.wake(shown_until);
            return Some(failure.clone());
        }
        let Waiting { reason, message } = failure;
        let message = format!("Back-off pulling image \"{written}\": {reason}: {message}");
        return Some(Waiting { reason: "ImagePullBackOff", message });
    }
    if pull_policy == PullPolicy::Never && *draft.memory.image(image) == Image::Absent {
        let message = format!("Container image \"{written}\" is not present with pull policy of Never");
        return Some(Waiting { reason: "ErrImageNeverPull", message });
    }
    draft.memory.failure(&Subject::InspectImage(image)).map(|(failure, _)| failure.clone())
}
