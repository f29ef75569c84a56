//! What the runtime says, in this crate's words. Pure.

use std::cmp::Reverse;
use std::collections::HashMap;

use jiff::Timestamp;
use k8s_cri::v1;

use super::OwnedPod;
use super::labels::{self, PodLabels};
use crate::model::{ContainerPhase, ObservedContainer, ObservedPod, ObservedSandbox, ObservedUser, Uid};

/// Puts statuses together by pod uid, newest attempt first. What carries no pod's labels is left out.
pub(crate) fn group(
    sandboxes: Vec<v1::PodSandboxStatus>,
    containers: Vec<v1::ContainerStatus>,
    sandbox_of: &HashMap<String, String>,
) -> HashMap<Uid, OwnedPod> {
    let mut pods: HashMap<Uid, OwnedPod> = HashMap::new();
    for status in sandboxes {
        if let Some(pod) = entry(&mut pods, &status.labels) {
            pod.sandboxes.push(sandbox(status));
        }
    }
    for status in containers {
        if let Some(pod) = entry(&mut pods, &status.labels) {
            let sandbox = sandbox_of.get(&status.id).cloned().unwrap_or_default();
            pod.containers.push(container(status, sandbox));
        }
    }
    for OwnedPod { pod, .. } in pods.values_mut() {
        pod.sandboxes.sort_by_key(|sandbox| Reverse((sandbox.attempt, sandbox.created_at)));
        pod.containers.sort_by(|a, b| a.name.cmp(&b.name).then(b.attempt.cmp(&a.attempt)));
    }
    pods
}

fn entry<'a>(pods: &'a mut HashMap<Uid, OwnedPod>, labels: &HashMap<String, String>) -> Option<&'a mut ObservedPod> {
    let labels = PodLabels::from_map(labels)?;
    let owned = pods.entry(labels.key.uid.clone()).or_insert_with(|| OwnedPod { labels, pod: ObservedPod::default() });
    Some(&mut owned.pod)
}

fn sandbox(status: v1::PodSandboxStatus) -> ObservedSandbox {
    let ready = status.state() == v1::PodSandboxState::SandboxReady;
    // As the kubelet: the first address, then the others; what cannot be parsed is no address.
    let network = status.network.unwrap_or_default();
    let others = network.additional_ips.into_iter().map(|other| other.ip);
    ObservedSandbox {
        id: status.id.into(),
        attempt: status.metadata.unwrap_or_default().attempt,
        ready,
        ips: std::iter::once(network.ip).chain(others).filter_map(|ip| ip.parse().ok()).collect(),
        created_at: timestamp(status.created_at),
    }
}

fn container(status: v1::ContainerStatus, sandbox: String) -> ObservedContainer {
    let phase = match status.state() {
        v1::ContainerState::ContainerCreated => ContainerPhase::Created,
        v1::ContainerState::ContainerRunning => ContainerPhase::Running { started_at: timestamp(status.started_at) },
        v1::ContainerState::ContainerExited => ContainerPhase::Exited {
            started_at: timestamp(status.started_at),
            finished_at: timestamp(status.finished_at),
            exit_code: status.exit_code,
            reason: status.reason,
            message: status.message,
        },
        v1::ContainerState::ContainerUnknown => ContainerPhase::Unknown,
    };
    let metadata = status.metadata.unwrap_or_default();
    ObservedContainer {
        id: status.id.into(),
        sandbox: sandbox.into(),
        name: metadata.name,
        attempt: metadata.attempt,
        phase,
        image: status.image.unwrap_or_default().image,
        image_ref: status.image_ref,
        spec_hash: status.annotations.get(labels::CONTAINER_HASH).cloned().unwrap_or_default(),
        user: status.user.and_then(|user| user.linux).map(user),
    }
}

fn user(user: v1::LinuxContainerUser) -> ObservedUser {
    ObservedUser { uid: user.uid, gid: user.gid, supplemental_groups: user.supplemental_groups }
}

/// CRI's nanoseconds since the epoch; 0 stands for "never".
fn timestamp(nanoseconds: i64) -> Timestamp {
    Timestamp::from_nanosecond(nanoseconds.into()).expect("64 bits of nanoseconds lie within the years jiff knows")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PodKey;
    use crate::podspec::Origin;

    fn labelled(uid: &str) -> HashMap<String, String> {
        let key = PodKey { namespace: "default".into(), name: "web".into(), uid: uid.into() };
        let origin =
            Origin { fleet: "fleet".into(), node: "node".into(), daemonset: None, revision: "revision".into() };
        labels::pod_labels(&key, &origin)
    }

    fn sandbox_status(id: &str, uid: &str, attempt: u32, ips: &[&str]) -> v1::PodSandboxStatus {
        let mut ips = ips.iter().map(|ip| (*ip).to_owned());
        v1::PodSandboxStatus {
            id: id.to_owned(),
            metadata: Some(v1::PodSandboxMetadata { attempt, ..Default::default() }),
            labels: labelled(uid),
            created_at: 1_000_000_000,
            network: Some(v1::PodSandboxNetworkStatus {
                ip: ips.next().unwrap_or_default(),
                additional_ips: ips.map(|ip| v1::PodIp { ip }).collect(),
            }),
            ..Default::default()
        }
    }

    fn container_status(id: &str, uid: &str, name: &str, attempt: u32) -> v1::ContainerStatus {
        v1::ContainerStatus {
            id: id.to_owned(),
            metadata: Some(v1::ContainerMetadata { name: name.to_owned(), attempt }),
            labels: labelled(uid),
            ..Default::default()
        }
    }

    #[test]
    fn pods_are_put_together_by_uid_with_the_newest_attempt_first() {
        let sandboxes = vec![
            sandbox_status("s0", "a", 0, &["10.0.0.1"]),
            sandbox_status("s1", "a", 1, &["10.0.0.2", "fd00::2", "nonsense"]),
            v1::PodSandboxStatus { id: "foreign".to_owned(), ..Default::default() },
        ];
        let containers = vec![
            container_status("c0", "a", "web", 0),
            container_status("c1", "a", "web", 2),
            container_status("c2", "a", "log", 1),
            container_status("c3", "b", "web", 0),
        ];
        let sandbox_of = [("c0", "s0"), ("c1", "s1"), ("c2", "s1"), ("c3", "gone")]
            .map(|(container, sandbox)| (container.to_owned(), sandbox.to_owned()))
            .into();

        let pods = group(sandboxes, containers, &sandbox_of);

        let order = |uid: &str| {
            let pod = &pods[&Uid::from(uid)].pod;
            let sandboxes: Vec<_> = pod.sandboxes.iter().map(|sandbox| sandbox.id.as_str()).collect();
            let containers: Vec<_> =
                pod.containers.iter().map(|found| (found.id.as_str(), found.sandbox.as_str())).collect();
            (sandboxes, containers)
        };
        assert_eq!(pods.len(), 2);
        assert_eq!(order("a"), (vec!["s1", "s0"], vec![("c2", "s1"), ("c1", "s1"), ("c0", "s0")]));
        assert_eq!(order("b"), (vec![], vec![("c3", "gone")]));
        let newest = &pods[&Uid::from("a")].pod.sandboxes[0];
        assert_eq!(newest.ips, ["10.0.0.2".parse::<std::net::IpAddr>().unwrap(), "fd00::2".parse().unwrap()]);
        assert_eq!(newest.created_at, Timestamp::from_second(1).unwrap());
    }

    #[test]
    fn every_state_of_a_container_is_told_apart() {
        let status = |state: v1::ContainerState| v1::ContainerStatus {
            state: state.into(),
            started_at: 1_000_000_000,
            finished_at: 2_000_000_000,
            exit_code: 137,
            reason: "OOMKilled".to_owned(),
            ..Default::default()
        };
        let second = |seconds| Timestamp::from_second(seconds).unwrap();
        for (state, expected) in [
            (v1::ContainerState::ContainerCreated, ContainerPhase::Created),
            (v1::ContainerState::ContainerRunning, ContainerPhase::Running { started_at: second(1) }),
            (v1::ContainerState::ContainerUnknown, ContainerPhase::Unknown),
            (
                v1::ContainerState::ContainerExited,
                ContainerPhase::Exited {
                    started_at: second(1),
                    finished_at: second(2),
                    exit_code: 137,
                    reason: "OOMKilled".to_owned(),
                    message: String::new(),
                },
            ),
        ] {
            assert_eq!(container(status(state), String::new()).phase, expected);
        }
    }
}
