//! What a runtime has to do for this crate to work with it: the same cases for the fake and for the real one.
//!
//! Each case makes what it needs under names of its own, and removes it again. Cases panic where a runtime differs.

use std::path::PathBuf;
use std::time::Duration;

use super::pods::{container, pod};
use super::wait::{LIMIT, eventually};
use crate::cri::labels::Owner;
use crate::cri::{NewContainer, Runtime, RuntimeEvent};
use crate::host::dirs;
use crate::model::{ContainerId, ContainerPhase, ObservedPod};
use crate::podspec::bind::Bound;
use crate::podspec::{ImageUser, Pod};

/// A runtime under test.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The runtime, ready, its network too.
    pub runtime: Runtime,
    /// A directory it can read and write, for pods' files and logs.
    pub dir: PathBuf,
    /// An image it can pull, with a shell and `sleep`.
    pub image: String,
}

/// Runs every case, one after the other.
pub async fn run_all(subject: &Subject) {
    it_says_what_it_is(subject).await;
    an_image_is_there_once_it_was_pulled(subject).await;
    a_pod_goes_from_nothing_to_running_and_back(subject).await;
    what_is_gone_can_be_stopped_and_removed(subject).await;
    a_second_sandbox_is_listed_before_the_first(subject).await;
    only_the_owners_pods_are_listed(subject).await;
    an_event_comes_when_the_change_is_to_be_seen(subject).await;
}

/// It gives its name, is ready, and tells its cgroup driver.
pub async fn it_says_what_it_is(subject: &Subject) {
    let version = subject.runtime.version().await.unwrap();
    assert!(!version.name.is_empty() && !version.version.is_empty(), "{version:?}");
    let status = subject.runtime.status().await.unwrap();
    assert!(status.runtime_ready.ready && status.network_ready.ready, "{status:?}");
    let settings = subject.runtime.settings().await.unwrap();
    assert!(settings.cgroup_driver.is_some(), "{settings:?}");
}

/// Unknown images are told apart from errors, and a pull that fails says why.
pub async fn an_image_is_there_once_it_was_pulled(subject: &Subject) {
    let runtime = &subject.runtime;
    let missing = "127.0.0.1:5000/nobody/has:this";
    assert_eq!(runtime.image_status(missing).await.unwrap(), None);
    let error = runtime.pull_image(missing, None).await.unwrap_err();
    assert!(error.to_string().contains("nobody/has:this"), "{error}");
    assert!(!error.to_string().starts_with("rpc error"), "{error}");

    let image_ref = runtime.pull_image(&subject.image, None).await.unwrap();
    let by_name = runtime.image_status(&subject.image).await.unwrap().expect("the image just pulled");
    let by_ref = runtime.image_status(&image_ref).await.unwrap();
    assert_eq!(by_ref, Some(by_name));
    runtime.image_fs_info().await.unwrap();
}

/// Each call shows in what is observed next.
pub async fn a_pod_goes_from_nothing_to_running_and_back(subject: &Subject) {
    let runtime = &subject.runtime;
    let pod = &subject.pod("whole-life");
    assert_eq!(subject.observe(pod).await, ObservedPod::default());

    let sandbox = runtime.run_sandbox(pod, 0, None).await.unwrap();
    let observed = subject.observe(pod).await;
    assert_eq!((&observed.sandboxes[0].id, observed.sandboxes[0].ready), (&sandbox, true));
    assert_eq!(observed.sandboxes[0].ips.len(), 1, "{observed:?}");

    let id = subject.create(pod, 3).await;
    let created = subject.observe(pod).await.containers.remove(0);
    assert_eq!((&created.id, &created.sandbox, &created.phase), (&id, &sandbox, &ContainerPhase::Created));
    assert_eq!((created.name.as_str(), created.attempt, created.spec_hash.as_str()), ("main", 3, "hash-1"));
    assert!(!created.image_ref.is_empty());

    runtime.start_container(&id).await.unwrap();
    let phase = subject.phase(pod).await;
    assert!(matches!(phase, ContainerPhase::Running { .. }), "{phase:?}");
    let output = runtime.exec_sync(&id, &["true".to_owned()], Duration::from_secs(5)).await.unwrap();
    assert_eq!(output.exit_code, 0);
    let usage = runtime.container_usage(&pod.key.uid).await.unwrap();
    assert_eq!(usage.into_keys().collect::<Vec<_>>(), ["main"]);

    runtime.stop_container(&id, Duration::from_secs(1)).await.unwrap();
    let phase = subject.phase(pod).await;
    let ContainerPhase::Exited { started_at, finished_at, exit_code, reason, .. } = phase else {
        panic!("{phase:?}");
    };
    assert!(started_at < finished_at && exit_code != 0 && reason == "Error", "{exit_code} {reason}");

    runtime.stop_sandbox(&sandbox).await.unwrap();
    assert!(!subject.observe(pod).await.sandboxes[0].ready);
    runtime.remove_container(&id).await.unwrap();
    assert_eq!(subject.observe(pod).await.containers, []);
    runtime.remove_sandbox(&sandbox).await.unwrap();
    assert_eq!(subject.observe(pod).await, ObservedPod::default());
    dirs::remove_pod(pod).unwrap();
}

/// A step may be repeated after a crash; one that finds nothing to do succeeds, one that cannot work says "not found".
pub async fn what_is_gone_can_be_stopped_and_removed(subject: &Subject) {
    let runtime = &subject.runtime;
    runtime.stop_container(&"none".into(), Duration::from_secs(1)).await.unwrap();
    runtime.remove_container(&"none".into()).await.unwrap();
    runtime.stop_sandbox(&"none".into()).await.unwrap();
    runtime.remove_sandbox(&"none".into()).await.unwrap();
    let error = runtime.start_container(&"none".into()).await.unwrap_err();
    assert!(error.is_not_found() && !error.is_retryable(), "{error:?}");
}

/// As after a lost sandbox; removing a sandbox takes its containers along.
pub async fn a_second_sandbox_is_listed_before_the_first(subject: &Subject) {
    let runtime = &subject.runtime;
    let pod = &subject.pod("second-sandbox");
    let first = runtime.run_sandbox(pod, 0, None).await.unwrap();
    subject.create(pod, 0).await;
    runtime.stop_sandbox(&first).await.unwrap();
    let second = runtime.run_sandbox(pod, 1, None).await.unwrap();
    let observed = subject.observe(pod).await;
    let order: Vec<_> = observed.sandboxes.iter().map(|sandbox| (&sandbox.id, sandbox.ready)).collect();
    assert_eq!(order, [(&second, true), (&first, false)]);

    runtime.remove_sandbox(&first).await.unwrap();
    let observed = subject.observe(pod).await;
    assert_eq!((observed.sandboxes.len(), observed.containers.len()), (1, 0));
    subject.remove(pod).await;
}

/// Another fleet's pods are not seen, whatever else they have in common.
pub async fn only_the_owners_pods_are_listed(subject: &Subject) {
    let runtime = &subject.runtime;
    let (ours, mut theirs) = (subject.pod("ours"), subject.pod("theirs"));
    theirs.origin.fleet = "fleet-2".into();
    for pod in [&ours, &theirs] {
        runtime.run_sandbox(pod, 0, None).await.unwrap();
    }
    let owner = Owner { fleet: ours.origin.fleet.clone(), node: ours.origin.node.clone() };
    let listed = runtime.list(&owner).await.unwrap();
    assert_eq!(listed.keys().collect::<Vec<_>>(), [&ours.key.uid]);
    let found = &listed[&ours.key.uid];
    assert_eq!((&found.labels.key, &found.labels.origin), (&ours.key, &ours.origin));
    assert_eq!(found.pod, subject.observe(&ours).await);
    for pod in [&ours, &theirs] {
        subject.remove(pod).await;
    }
}

/// Whoever looks when the hint comes sees what it is about.
pub async fn an_event_comes_when_the_change_is_to_be_seen(subject: &Subject) {
    let runtime = &subject.runtime;
    let pod = &subject.pod("events");
    let mut events = runtime.events();
    assert_eq!(events.recv().await, Some(RuntimeEvent::Missed));
    runtime.run_sandbox(pod, 0, None).await.unwrap();
    let id = subject.create(pod, 0).await;
    runtime.start_container(&id).await.unwrap();

    // Stopping returns when the container has ended; its own process ends it a little earlier.
    let stopping = tokio::spawn({
        let (runtime, id) = (runtime.clone(), id.clone());
        async move { runtime.stop_container(&id, Duration::from_secs(1)).await }
    });
    let told = async {
        while let Some(event) = events.recv().await {
            let about_pod = event == RuntimeEvent::Changed(pod.key.uid.clone());
            if about_pod && matches!(subject.phase(pod).await, ContainerPhase::Exited { .. }) {
                return;
            }
        }
        panic!("the events ended");
    };
    tokio::time::timeout(LIMIT, told).await.expect("a hint that finds the container ended");
    stopping.await.unwrap().unwrap();

    subject.remove(pod).await;
    eventually("an event of what was removed", async || {
        let event = events.recv().await.expect("events go on");
        matches!(event, RuntimeEvent::Gone(_) | RuntimeEvent::Changed(_)).then_some(())
    })
    .await;
}

impl Subject {
    /// A pod with one container `main` that sleeps, its directories made.
    fn pod(&self, name: &str) -> Pod {
        let mut pod = pod(name, &self.dir);
        pod.containers = vec![container("main", &self.image, &["sleep", "3600"])];
        dirs::make_pod(&pod).unwrap();
        pod
    }

    async fn observe(&self, pod: &Pod) -> ObservedPod {
        self.runtime.observe(&pod.key.uid).await.unwrap()
    }

    /// What its newest container does.
    async fn phase(&self, pod: &Pod) -> ContainerPhase {
        self.observe(pod).await.containers.remove(0).phase
    }

    /// Makes the pod's container in its newest sandbox.
    async fn create(&self, pod: &Pod, attempt: u32) -> ContainerId {
        let image_ref = self.runtime.pull_image(&self.image, None).await.unwrap();
        let observed = self.observe(pod).await;
        dirs::make_container(pod, &pod.containers[0], attempt).unwrap();
        let container = &pod.containers[0];
        let bound = Bound { command: container.command.clone(), ..Bound::default() };
        let (sandbox, image_user) = (&observed.sandboxes[0], &ImageUser::Uid(0));
        let new = NewContainer {
            pod,
            container,
            attempt,
            sandbox,
            bound: &bound,
            image_ref: &image_ref,
            image_user,
            users: None,
            target: None,
        };
        self.runtime.create_container(new).await.unwrap()
    }

    /// Removes all the runtime and the disk have of a pod.
    async fn remove(&self, pod: &Pod) {
        for sandbox in self.observe(pod).await.sandboxes {
            self.runtime.stop_sandbox(&sandbox.id).await.unwrap();
            self.runtime.remove_sandbox(&sandbox.id).await.unwrap();
        }
        dirs::remove_pod(pod).unwrap();
    }
}
