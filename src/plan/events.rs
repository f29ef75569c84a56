//! What users are told about a step of a pod, in Kubernetes' words.
//!
//! Pure: a step, and how it ended, to the events `kubectl describe pod` shows.
//!
//! Source: kubernetes v1.36 `pkg/kubelet/events/event.go`, `pkg/kubelet/kuberuntime/kuberuntime_container.go`,
//! `pkg/kubelet/images/image_manager.go`.

use std::time::Duration;

use crate::api::quantity::Quantity;
use crate::model::{Finished, NodeName, PodKey};
use crate::plan::images::used_percent;
use crate::plan::memory::{Outcome, REFUSED};
use crate::plan::pressure::Reading;
use crate::plan::{Step, StopReason, Waiting, go_duration};
use crate::podspec::{Container, ImageUse, Pod, Role};

/// One event about a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodEvent {
    /// `Warning`, otherwise `Normal`.
    pub warning: bool,
    /// One word in CamelCase.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
    /// The container it is about, as `fieldPath` names it; empty for the pod as a whole.
    pub field_path: String,
}

impl PodEvent {
    /// About the object as a whole.
    fn of_pod(warning: bool, reason: &'static str, message: String) -> Self {
        Self { warning, reason, message, field_path: String::new() }
    }

    pub(super) fn of_container(container: &Container, warning: bool, reason: &'static str, message: String) -> Self {
        let list = match container.role {
            Role::Init | Role::Sidecar => "initContainers",
            Role::Regular => "containers",
            Role::Ephemeral => "ephemeralContainers",
        };
        Self { warning, reason, message, field_path: format!("spec.{list}{{{}}}", container.name) }
    }

    /// About an image: that of a volume is the pod's.
    fn of_image(pod: &Pod, image: ImageUse, warning: bool, reason: &'static str, message: String) -> Self {
        match image.volume {
            Some(_) => Self::of_pod(warning, reason, message),
            None => Self::of_container(&pod.containers[image.container], warning, reason, message),
        }
    }
}

/// What is told before images are pulled for a pod some of whose pull secrets are not there.
pub fn no_pull_secrets(names: &[String]) -> PodEvent {
    let message = format!(
        "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
        names.join(", ")
    );
    PodEvent::of_pod(true, "FailedToRetrieveImagePullSecret", message)
}

/// What is told of a pod of which so many processes live that the runtime has no record of.
pub fn lost_by_runtime(processes: usize) -> PodEvent {
    let message = format!(
        "The container runtime has no record of {processes} processes of this pod; they end when its containers can be made anew"
    );
    PodEvent::of_pod(true, "LostByRuntime", message)
}

/// What is told when a step begins.
pub fn begun(pod: &Pod, step: &Step) -> Option<PodEvent> {
    match step {
        Step::CreateSandbox { attempt: 1.. } => {
            let message = "Pod sandbox changed, it will be killed and re-created.".to_owned();
            Some(PodEvent::of_pod(false, "SandboxChanged", message))
        }
        Step::PullImage { image } => {
            let message = format!("Pulling image \"{}\"", pod.image(*image).written);
            Some(PodEvent::of_image(pod, *image, false, "Pulling", message))
        }
        Step::PreStop { container, why, .. } => Some(killing(&pod.containers[*container], *why)),
        Step::StopContainer { name, why, announced: false, .. } => {
            // What is not the pod's is left of something else, and nobody looks at it here.
            let container = pod.containers.iter().find(|container| container.name == *name)?;
            Some(killing(container, *why))
        }
        _ => None,
    }
}

fn killing(container: &Container, why: StopReason) -> PodEvent {
    PodEvent::of_container(container, false, "Killing", why.message(container))
}

/// What is told of a pod that ran into its deadline.
pub fn deadline_exceeded(finished: &Finished) -> PodEvent {
    PodEvent::of_pod(false, "DeadlineExceeded", finished.message.clone().unwrap_or_default())
}

/// What is told of a pod that its node sends away.
pub fn evicted(message: String) -> PodEvent {
    PodEvent::of_pod(true, "Evicted", message)
}

/// What is told of a pod that makes way for another.
pub fn preempted(message: String) -> PodEvent {
    PodEvent::of_pod(true, "Preempting", message)
}

/// What is told of a pod that does not tolerate its node's taints, or not any longer.
///
/// Source: kubernetes v1.36 `pkg/controller/tainteviction/taint_eviction.go`, `emitPodDeletionEvent`.
pub fn tainted_out(pod: &PodKey) -> PodEvent {
    PodEvent::of_pod(false, "TaintManagerEviction", format!("Marking for deletion Pod {pod}"))
}

/// What is told on a node that is short of something, and sends a pod away for it.
///
/// Source: kubernetes v1.36 `pkg/kubelet/eviction/eviction_manager.go`, `synchronize`.
pub fn short_of(resource: &str) -> PodEvent {
    PodEvent::of_pod(true, "EvictionThresholdMet", format!("Attempting to reclaim {resource}"))
}

/// What is told on a node whose disk of images stays too full.
///
/// Source: kubernetes v1.36 `pkg/kubelet/images/image_gc_manager.go`, `GarbageCollect`.
pub fn disk_stays_full(disk: Reading, freed: u64, left: u64) -> PodEvent {
    let [freed, left] = [freed, left].map(|bytes| Quantity::from_bytes(i64::try_from(bytes).unwrap_or(i64::MAX)));
    let message = format!(
        "The disk of images is {}% full; removing unused images freed {freed}, and {left} more should be free. Images that revisions of \
         this node need stay; look for what else fills the disk",
        used_percent(disk)
    );
    PodEvent::of_pod(true, "FreeDiskSpaceFailed", message)
}

/// What is told on a node whose ledger cannot be written, and when it can again.
pub fn ledger_unwritable(why: Option<&str>) -> PodEvent {
    match why {
        Some(why) => PodEvent::of_pod(true, "LedgerUnwritable", format!("No pod is made or ended: {why}")),
        None => PodEvent::of_pod(false, "LedgerWritable", "The ledger can be written again".to_owned()),
    }
}

/// What is told on a DaemonSet whose pod has come to its end on a node and makes way for another.
///
/// Source: kubernetes v1.36 `pkg/controller/daemon/daemon_controller.go`, `podsShouldBeOnNode`.
pub fn daemon_replaced(pod: &PodKey, node: &NodeName, succeeded: bool) -> PodEvent {
    if succeeded {
        let message = format!("Found succeeded daemon pod {pod} on node {node}, will try to delete it");
        return PodEvent::of_pod(false, "SucceededDaemonPod", message);
    }
    let message = format!("Found failed daemon pod {pod} on node {node}, will try to kill it");
    PodEvent::of_pod(true, "FailedDaemonPod", message)
}

/// What is told when a step has ended after `took`.
pub fn ended(pod: &Pod, step: &Step, outcome: &Outcome, took: Duration) -> Vec<PodEvent> {
    match (step, outcome) {
        (Step::PrepareVolumes, Outcome::Failed(error)) => vec![PodEvent::of_pod(true, "FailedMount", error.clone())],
        (Step::CreateSandbox { .. }, outcome) => {
            let omitted = pod.dns_omitted.iter().cloned();
            let mut events: Vec<_> =
                omitted.map(|message| PodEvent::of_pod(true, "DNSConfigForming", message)).collect();
            if let Outcome::Failed(error) = outcome {
                let message = format!("Failed to create pod sandbox: {error}");
                events.push(PodEvent::of_pod(true, "FailedCreatePodSandBox", message));
            }
            events
        }
        (
            Step::StopSandbox { .. } | Step::RemoveSandbox { .. } | Step::StopContainer { .. },
            Outcome::Failed(error),
        ) => {
            vec![PodEvent::of_pod(true, "FailedKillPod", format!("error killing pod: {error}"))]
        }
        (Step::InspectImage { image }, outcome) => inspected(pod, *image, outcome),
        (Step::PullImage { image }, outcome) => pulled(pod, *image, outcome, took),
        (Step::CreateContainer { container, .. }, outcome) => {
            made(pod, *container, outcome, "Created", "Container created")
        }
        (Step::StartContainer { container, .. }, outcome) => {
            made(pod, *container, outcome, "Started", "Container started")
        }
        // What a hook had to say may be a secret; it is in the agent's log.
        (Step::PostStart { container, .. }, Outcome::Failed(_)) => {
            let message = "PostStartHook failed".to_owned();
            vec![PodEvent::of_container(&pod.containers[*container], true, "FailedPostStartHook", message)]
        }
        (Step::PreStop { container, .. }, Outcome::Failed(_)) => {
            let message = "PreStopHook failed".to_owned();
            vec![PodEvent::of_container(&pod.containers[*container], true, "FailedPreStopHook", message)]
        }
        _ => Vec::new(),
    }
}

/// What is told when the reason for which a container waits has changed.
pub fn waits(pod: &Pod, container: usize, waiting: Option<&Waiting>) -> Vec<PodEvent> {
    let (Some(container), Some(Waiting { reason, message })) = (pod.containers.get(container), waiting) else {
        return Vec::new();
    };
    let event = |warning, reason, message| PodEvent::of_container(container, warning, reason, message);
    match *reason {
        "CrashLoopBackOff" => {
            let pod = format!("{}_{}({})", pod.key.name, pod.key.namespace, pod.key.uid);
            let message = format!("Back-off restarting failed container {} in pod {pod}", container.name);
            vec![event(true, "BackOff", message)]
        }
        "ImagePullBackOff" => {
            // Behind the image's name it goes on with why.
            let image = message.split_once(": ").map_or(message.as_str(), |(image, _)| image);
            vec![event(false, "BackOff", image.to_owned()), event(true, "Failed", "Error: ImagePullBackOff".to_owned())]
        }
        "ErrImageNeverPull" => vec![event(true, "ErrImageNeverPull", message.clone())],
        _ => Vec::new(),
    }
}

fn inspected(pod: &Pod, image: ImageUse, outcome: &Outcome) -> Vec<PodEvent> {
    let written = pod.image(image).written;
    let event = |warning, reason, message| vec![PodEvent::of_image(pod, image, warning, reason, message)];
    match outcome {
        Outcome::Image(_) => {
            let message =
                format!("Container image \"{written}\" already present on machine and can be accessed by the pod");
            event(false, "Pulled", message)
        }
        Outcome::Failed(error) => {
            event(true, "InspectFailed", format!("Failed to inspect image \"{written}\": {error}"))
        }
        _ => Vec::new(),
    }
}

fn pulled(pod: &Pod, image: ImageUse, outcome: &Outcome, took: Duration) -> Vec<PodEvent> {
    let written = pod.image(image).written;
    let event = |warning, reason, message| PodEvent::of_image(pod, image, warning, reason, message);
    match outcome {
        Outcome::Failed(error) => {
            let (container, why) = (&pod.containers[image.container], "Error: ErrImagePull".to_owned());
            vec![
                event(true, "Failed", format!("Failed to pull image \"{written}\": {error}")),
                PodEvent::of_container(container, true, "Failed", why),
            ]
        }
        Outcome::Pulled { size_bytes, took: pulling, .. } => {
            let (pulling, took) = (go_duration(*pulling), go_duration(took));
            let message = format!(
                "Successfully pulled image \"{written}\" in {pulling} ({took} including waiting). Image size: \
                 {size_bytes} bytes."
            );
            vec![event(false, "Pulled", message)]
        }
        _ => Vec::new(),
    }
}

fn made(pod: &Pod, container: usize, outcome: &Outcome, reason: &'static str, message: &str) -> Vec<PodEvent> {
    let container = &pod.containers[container];
    vec![match outcome.failure() {
        Some(error) if matches!(outcome, Outcome::Refused(_)) => {
            PodEvent::of_container(container, true, REFUSED, error.to_owned())
        }
        Some(error) => PodEvent::of_container(container, true, "Failed", format!("Error: {error}")),
        None => PodEvent::of_container(container, false, reason, message.to_owned()),
    }]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;
    use crate::plan::StopReason;
    use crate::podspec::{Volume, VolumeSource};
    use crate::testing::pods;

    const OWN: ImageUse = ImageUse { container: 0, volume: None };

    /// Type, reason, message and container of each event.
    fn shown(events: &[PodEvent]) -> Vec<String> {
        let kind = |event: &PodEvent| if event.warning { "Warning" } else { "Normal" };
        events
            .iter()
            .map(|event| format!("{} {} {} {}", kind(event), event.reason, event.message, event.field_path))
            .collect()
    }

    #[test]
    fn steps_are_told_in_kubernetes_words() {
        let mut pod = pods::pod("web", Path::new("/"));
        pod.containers = vec![pods::container("main", "web:1", &[])];
        let took = Duration::from_micros(1_234_567);
        let failed = || Outcome::Failed("no".to_owned());
        let create = || Step::CreateContainer {
            container: 0,
            attempt: 0,
            sandbox: "s".into(),
            image_ref: String::new(),
            volume_images: BTreeMap::new(),
        };
        let cases = [
            (Step::PrepareVolumes, failed(), vec!["Warning FailedMount no "]),
            (
                Step::CreateSandbox { attempt: 0 },
                failed(),
                vec!["Warning FailedCreatePodSandBox Failed to create pod sandbox: no "],
            ),
            (
                Step::InspectImage { image: OWN },
                Outcome::Image("i".to_owned()),
                vec![
                    "Normal Pulled Container image \"web:1\" already present on machine and can be accessed by the pod spec.containers{main}",
                ],
            ),
            (Step::InspectImage { image: OWN }, Outcome::NoImage, vec![]),
            (
                Step::PullImage { image: OWN },
                Outcome::Pulled { id: "i".to_owned(), size_bytes: 2048, took: Duration::from_millis(200) },
                vec![
                    "Normal Pulled Successfully pulled image \"web:1\" in 200ms (1.234s including waiting). Image size: 2048 bytes. spec.containers{main}",
                ],
            ),
            (
                Step::PullImage { image: OWN },
                failed(),
                vec![
                    "Warning Failed Failed to pull image \"web:1\": no spec.containers{main}",
                    "Warning Failed Error: ErrImagePull spec.containers{main}",
                ],
            ),
            (create(), Outcome::Done, vec!["Normal Created Container created spec.containers{main}"]),
            (create(), failed(), vec!["Warning Failed Error: no spec.containers{main}"]),
        ];
        for (step, outcome, expected) in cases {
            assert_eq!(shown(&ended(&pod, &step, &outcome, took)), expected, "{step:?}");
        }
    }

    #[test]
    fn what_a_pod_has_to_do_without_is_told() {
        let mut pod = pods::pod("web", Path::new("/"));
        pod.dns_omitted = vec!["too many".to_owned()];
        let create = Step::CreateSandbox { attempt: 0 };
        let told = |outcome| shown(&ended(&pod, &create, &outcome, Duration::ZERO));
        let warning = "Warning DNSConfigForming too many ".to_owned();
        let names = ["a".to_owned(), "b".to_owned()];
        assert_eq!(
            shown(&[no_pull_secrets(&names)]),
            [
                "Warning FailedToRetrieveImagePullSecret Unable to retrieve some image pull secrets (a, b); attempting to pull the image may not succeed. "
            ]
        );
        assert_eq!(told(Outcome::Done), std::slice::from_ref(&warning));
        assert_eq!(told(Outcome::Failed("no".to_owned())).len(), 2);
    }

    #[test]
    fn an_image_in_a_volume_is_the_pods() {
        let mut pod = pods::pod("web", Path::new("/"));
        pod.containers = vec![pods::container("main", "web:1", &[])];
        let (image, pull_policy) = ("models:1".to_owned(), crate::podspec::PullPolicy::Always);
        let source = VolumeSource::Image { image_reference: Ok(image.clone()), image, pull_policy };
        pod.volumes = vec![Volume { name: "models".to_owned(), source }];
        let pull = Step::PullImage { image: ImageUse { container: 0, volume: Some(0) } };
        let mut events: Vec<_> = begun(&pod, &pull).into_iter().collect();
        events.extend(ended(&pod, &pull, &Outcome::Failed("no".to_owned()), Duration::ZERO));
        assert_eq!(
            shown(&events),
            [
                "Normal Pulling Pulling image \"models:1\" ",
                "Warning Failed Failed to pull image \"models:1\": no ",
                "Warning Failed Error: ErrImagePull spec.containers{main}",
            ]
        );
    }

    #[test]
    fn hooks_and_ends_are_told_on_the_list_the_container_is_from() {
        let mut pod = pods::pod("web", Path::new("/"));
        let of = |name: &str, role| Container { role, ..pods::container(name, "web:1", &[]) };
        pod.containers = vec![of("i", Role::Init), of("s", Role::Sidecar), of("e", Role::Ephemeral)];
        let deadline = crate::model::Moment::default();
        let stop = |name: &str, announced| Step::StopContainer {
            name: name.to_owned(),
            id: "c".into(),
            deadline,
            why: StopReason::Liveness,
            announced,
        };
        let part = Step::PreStop { container: 1, id: "c".into(), deadline, why: StopReason::Liveness };
        let begins = [stop("i", false), part.clone(), stop("e", false), stop("s", true), stop("other", false)];
        let begins: Vec<_> = begins.iter().filter_map(|step| begun(&pod, step)).collect();
        assert_eq!(
            shown(&begins),
            [
                "Normal Killing Init container i failed liveness probe spec.initContainers{i}",
                "Normal Killing Init container s failed liveness probe spec.initContainers{s}",
                "Normal Killing Container e failed liveness probe spec.ephemeralContainers{e}",
            ]
        );
        let greet = Step::PostStart { container: 1, id: "c".into() };
        let failed = Outcome::Failed("a secret".to_owned());
        let ends = [(greet.clone(), &failed), (part.clone(), &failed), (greet, &Outcome::Done), (part, &Outcome::Done)];
        let ends: Vec<_> = ends.iter().flat_map(|(step, how)| ended(&pod, step, how, Duration::ZERO)).collect();
        assert_eq!(
            shown(&ends),
            [
                "Warning FailedPostStartHook PostStartHook failed spec.initContainers{s}",
                "Warning FailedPreStopHook PreStopHook failed spec.initContainers{s}",
            ]
        );
        let make = Step::CreateContainer {
            container: 0,
            attempt: 0,
            sandbox: "s".into(),
            image_ref: String::new(),
            volume_images: BTreeMap::new(),
        };
        let misconfigured = Outcome::Misconfigured("configmap \"c\" not found".to_owned());
        assert_eq!(
            shown(&ended(&pod, &make, &misconfigured, Duration::ZERO)),
            ["Warning Failed Error: configmap \"c\" not found spec.initContainers{i}"]
        );
        let refused = Outcome::Refused("Allocate failed due to x, which is unexpected".to_owned());
        assert_eq!(
            shown(&ended(&pod, &make, &refused, Duration::ZERO)),
            ["Warning UnexpectedAdmissionError Allocate failed due to x, which is unexpected spec.initContainers{i}"]
        );
        let replaced = [true, false].map(|succeeded| daemon_replaced(&pod.key, &"n".into(), succeeded));
        assert_eq!(
            shown(&replaced),
            [
                "Normal SucceededDaemonPod Found succeeded daemon pod default/web on node n, will try to delete it ",
                "Warning FailedDaemonPod Found failed daemon pod default/web on node n, will try to kill it ",
            ]
        );
    }

    #[test]
    fn what_begins_and_what_waits_is_told_too() {
        let mut pod = pods::pod("web", Path::new("/"));
        pod.containers = vec![pods::container("main", "web:1", &[])];
        let stop = Step::StopContainer {
            name: "main".to_owned(),
            id: "c".into(),
            deadline: crate::model::Moment::default(),
            why: StopReason::Ending,
            announced: false,
        };
        let begins: Vec<_> =
            begun(&pod, &stop).into_iter().chain(begun(&pod, &Step::CreateSandbox { attempt: 1 })).collect();
        assert_eq!(
            shown(&begins),
            [
                "Normal Killing Stopping container main spec.containers{main}",
                "Normal SandboxChanged Pod sandbox changed, it will be killed and re-created. ",
            ]
        );
        assert_eq!(begun(&pod, &Step::CreateSandbox { attempt: 0 }), None);

        let (key, main) = (&pod.key, "spec.containers{main}");
        let crash = format!(
            "Warning BackOff Back-off restarting failed container main in pod {}_{}({}) {main}",
            key.name, key.namespace, key.uid
        );
        let waiting = |reason, message: &str| Waiting { reason, message: message.to_owned() };
        let crashed = waiting("CrashLoopBackOff", "");
        assert_eq!(shown(&waits(&pod, 0, Some(&crashed))), [crash]);
        let pulled = waiting("ImagePullBackOff", "Back-off pulling image \"a:1\": ErrImagePull: no");
        assert_eq!(
            shown(&waits(&pod, 0, Some(&pulled))),
            [
                format!("Normal BackOff Back-off pulling image \"a:1\" {main}"),
                format!("Warning Failed Error: ImagePullBackOff {main}")
            ]
        );
        assert_eq!(waits(&pod, 0, None), []);
        assert_eq!(waits(&pod, 7, Some(&crashed)), []);
    }
}
