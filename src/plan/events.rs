//! What users are told about a step of a pod, in Kubernetes' words.
//!
//! Pure: a step, and how it ended, to the events `kubectl describe pod` shows.
//!
//! Source: kubernetes v1.36 `pkg/kubelet/events/event.go`, `pkg/kubelet/kuberuntime/kuberuntime_container.go`,
//! `pkg/kubelet/images/image_manager.go`.

use std::time::Duration;

use crate::plan::memory::Outcome;
use crate::plan::{Step, go_duration};
use crate::podspec::Pod;

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
    fn of_pod(warning: bool, reason: &'static str, message: String) -> Self {
        Self { warning, reason, message, field_path: String::new() }
    }

    pub(super) fn of_container(name: &str, warning: bool, reason: &'static str, message: String) -> Self {
        Self { warning, reason, message, field_path: format!("spec.containers{{{name}}}") }
    }
}

/// What is told when a step begins.
pub fn begun(pod: &Pod, step: &Step) -> Option<PodEvent> {
    match step {
        Step::CreateSandbox { attempt: 1.. } => {
            let message = "Pod sandbox changed, it will be killed and re-created.".to_owned();
            Some(PodEvent::of_pod(false, "SandboxChanged", message))
        }
        Step::PullImage { container } => {
            let container = &pod.containers[*container];
            let message = format!("Pulling image \"{}\"", container.image);
            Some(PodEvent::of_container(&container.name, false, "Pulling", message))
        }
        Step::StopContainer { name, why, .. } => {
            Some(PodEvent::of_container(name, false, "Killing", why.message(name)))
        }
        _ => None,
    }
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
        (Step::InspectImage { container }, outcome) => inspected(pod, *container, outcome),
        (Step::PullImage { container }, outcome) => pulled(pod, *container, outcome, took),
        (Step::CreateContainer { container, .. }, outcome) => {
            made(pod, *container, outcome, "Created", "Container created")
        }
        (Step::StartContainer { container, .. }, outcome) => {
            made(pod, *container, outcome, "Started", "Container started")
        }
        _ => Vec::new(),
    }
}

/// What is told when the reason for which a container waits has changed to `reason`.
pub fn waits(pod: &Pod, container: usize, reason: Option<&str>) -> Vec<PodEvent> {
    let Some(container) = pod.containers.get(container) else { return Vec::new() };
    let event = |warning, reason, message| PodEvent::of_container(&container.name, warning, reason, message);
    match reason {
        Some("CrashLoopBackOff") => {
            let pod = format!("{}_{}({})", pod.key.name, pod.key.namespace, pod.key.uid);
            let message = format!("Back-off restarting failed container {} in pod {pod}", container.name);
            vec![event(true, "BackOff", message)]
        }
        Some("ImagePullBackOff") => vec![
            event(false, "BackOff", format!("Back-off pulling image \"{}\"", container.image)),
            event(true, "Failed", "Error: ImagePullBackOff".to_owned()),
        ],
        Some("ErrImageNeverPull") => {
            let message = format!("Container image \"{}\" is not present with pull policy of Never", container.image);
            vec![event(true, "ErrImageNeverPull", message)]
        }
        _ => Vec::new(),
    }
}

fn inspected(pod: &Pod, container: usize, outcome: &Outcome) -> Vec<PodEvent> {
    let container = &pod.containers[container];
    let event = |warning, reason, message| vec![PodEvent::of_container(&container.name, warning, reason, message)];
    match outcome {
        Outcome::Image(_) => {
            let message = format!(
                "Container image \"{}\" already present on machine and can be accessed by the pod",
                container.image
            );
            event(false, "Pulled", message)
        }
        Outcome::Failed(error) => {
            event(true, "InspectFailed", format!("Failed to inspect image \"{}\": {error}", container.image))
        }
        _ => Vec::new(),
    }
}

fn pulled(pod: &Pod, container: usize, outcome: &Outcome, took: Duration) -> Vec<PodEvent> {
    let container = &pod.containers[container];
    let event = |warning, reason, message| PodEvent::of_container(&container.name, warning, reason, message);
    match outcome {
        Outcome::Failed(error) => vec![
            event(true, "Failed", format!("Failed to pull image \"{}\": {error}", container.image)),
            event(true, "Failed", "Error: ErrImagePull".to_owned()),
        ],
        Outcome::Pulled { size_bytes, took: pulling, .. } => {
            let message = format!(
                "Successfully pulled image \"{}\" in {} ({} including waiting). Image size: {size_bytes} bytes.",
                container.image,
                go_duration(*pulling),
                go_duration(took)
            );
            vec![event(false, "Pulled", message)]
        }
        _ => Vec::new(),
    }
}

fn made(pod: &Pod, container: usize, outcome: &Outcome, reason: &'static str, message: &str) -> Vec<PodEvent> {
    let name = &pod.containers[container].name;
    vec![match outcome {
        Outcome::Failed(error) | Outcome::Misconfigured(error) => {
            PodEvent::of_container(name, true, "Failed", format!("Error: {error}"))
        }
        _ => PodEvent::of_container(name, false, reason, message.to_owned()),
    }]
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::plan::StopReason;
    use crate::testing::pods;

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
        let create =
            || Step::CreateContainer { container: 0, attempt: 0, sandbox: "s".into(), image_ref: String::new() };
        let cases = [
            (Step::PrepareVolumes, failed(), vec!["Warning FailedMount no "]),
            (
                Step::CreateSandbox { attempt: 0 },
                failed(),
                vec!["Warning FailedCreatePodSandBox Failed to create pod sandbox: no "],
            ),
            (
                Step::InspectImage { container: 0 },
                Outcome::Image("i".to_owned()),
                vec![
                    "Normal Pulled Container image \"web:1\" already present on machine and can be accessed by the pod spec.containers{main}",
                ],
            ),
            (Step::InspectImage { container: 0 }, Outcome::NoImage, vec![]),
            (
                Step::PullImage { container: 0 },
                Outcome::Pulled { id: "i".to_owned(), size_bytes: 2048, took: Duration::from_millis(200) },
                vec![
                    "Normal Pulled Successfully pulled image \"web:1\" in 200ms (1.234s including waiting). Image size: 2048 bytes. spec.containers{main}",
                ],
            ),
            (
                Step::PullImage { container: 0 },
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
    fn what_a_resolver_does_not_take_is_told_with_each_sandbox() {
        let mut pod = pods::pod("web", Path::new("/"));
        pod.dns_omitted = vec!["too many".to_owned()];
        let create = Step::CreateSandbox { attempt: 0 };
        let told = |outcome| shown(&ended(&pod, &create, &outcome, Duration::ZERO));
        let warning = "Warning DNSConfigForming too many ".to_owned();
        assert_eq!(told(Outcome::Done), std::slice::from_ref(&warning));
        assert_eq!(told(Outcome::Failed("no".to_owned())).len(), 2);
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
        assert_eq!(shown(&waits(&pod, 0, Some("CrashLoopBackOff"))), [crash]);
        assert_eq!(shown(&waits(&pod, 0, Some("ImagePullBackOff"))).len(), 2);
        assert_eq!(waits(&pod, 0, None), []);
        assert_eq!(waits(&pod, 7, Some("CrashLoopBackOff")), []);
    }
}
