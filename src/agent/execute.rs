//! Carrying out one step of a pod's plan. Dull on purpose: what to do was decided, what came of it is handed back.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::agent::blocking::blocking;
use crate::agent::credentials::credentials;
use crate::agent::images::Pulled;
use crate::agent::{Shared, configure, hooks, strays};
use crate::cri::{CriError, NewContainer};
use crate::error::Chain;
use crate::host::dirs;
use crate::model::{ContainerId, ContainerPhase, ObservedContainer, ObservedPod, ObservedSandbox, SandboxId};
use crate::plan::memory::Outcome;
use crate::plan::{Step, grace_left};
use crate::podspec::{Container, Handler, IdRange, ImageUser, Pod, PullPolicy, kernel_hostname, verify_non_root};

/// Carries out `step`. `observed` is what the step was planned on.
pub(super) async fn execute(shared: &Shared, pod: &Arc<Pod>, step: &Step, observed: &ObservedPod) -> Outcome {
    let runtime = &shared.runtime;
    match step {
        Step::PrepareVolumes => prepare_volumes(shared, pod).await,
        Step::CreateSandbox { attempt } => create_sandbox(shared, pod, *attempt).await,
        Step::StopSandbox { id } => done(runtime.stop_sandbox(id).await),
        Step::RemoveSandbox { id } => done(runtime.remove_sandbox(id).await),
        Step::InspectImage { image } => match pod.image(*image).reference {
            Err(error) => Outcome::Failed(error.to_owned()),
            Ok(reference) => match shared.images.inspect(reference).await {
                Ok(Some(id)) => Outcome::Image(id),
                Ok(None) => Outcome::NoImage,
                Err(error) => failed(&error),
            },
        },
        Step::PullImage { image } => match pod.image(*image).reference {
            Err(error) => Outcome::Failed(error.to_owned()),
            Ok(reference) => pull(shared, pod, reference).await,
        },
        Step::CreateContainer { container, attempt, sandbox, image_ref, volume_images } => {
            create(shared, pod, (*container, *attempt), (observed, sandbox), (image_ref, volume_images)).await
        }
        Step::StartContainer { container, id } => {
            let outcome = done(runtime.start_container(id).await);
            if outcome == Outcome::Done {
                link_log(pod, *container, id, observed).await;
            }
            outcome
        }
        Step::PostStart { container, id } => {
            let handler = pod.containers[*container].hooks.post_start.as_ref();
            hook(shared, pod, id, handler, observed).await
        }
        Step::PreStop { container, id, deadline, .. } => {
            let handler = pod.containers[*container].hooks.pre_stop.as_ref();
            tokio::select! {
                outcome = hook(shared, pod, id, handler, observed) => outcome,
                () = shared.clock.sleep_until(Some(*deadline)) => Outcome::Failed("it took the whole grace period".to_owned()),
            }
        }
        Step::StopContainer { id, deadline, .. } => {
            done(runtime.stop_container(id, grace_left(*deadline, shared.clock.now())).await)
        }
        Step::RemoveContainer { id } => {
            let outcome = done(runtime.remove_container(id).await);
            if outcome == Outcome::Done {
                remove_log(pod, id, observed).await;
            }
            outcome
        }
        Step::Release => release(shared, pod, observed).await,
        Step::CleanUp => clean_up(shared, pod, observed).await,
    }
}

fn done(result: Result<(), CriError>) -> Outcome {
    result.map_or_else(|error| failed(&error), |()| Outcome::Done)
}

fn failed(error: &CriError) -> Outcome {
    Outcome::Failed(Chain(error).to_string())
}

/// The pod's addresses in a sandbox.
pub(super) fn pod_ips(shared: &Shared, pod: &Pod, sandbox: &ObservedSandbox) -> Vec<IpAddr> {
    if pod.namespaces.host_network { shared.host().ips.clone() } else { sandbox.ips.clone() }
}

async fn hook(
    shared: &Shared,
    pod: &Pod,
    id: &ContainerId,
    handler: Option<&Handler>,
    observed: &ObservedPod,
) -> Outcome {
    let Some(handler) = handler else { return Outcome::Done };
    let pod_ips = observed.sandboxes.first().map(|sandbox| pod_ips(shared, pod, sandbox)).unwrap_or_default();
    hooks::run(shared, pod, id, handler, &pod_ips).await.map_or_else(Outcome::Failed, |()| Outcome::Done)
}

async fn prepare_volumes(shared: &Shared, pod: &Arc<Pod>) -> Outcome {
    let objects = shared.objects.borrow().clone();
    on_host(pod, move |pod| {
        dirs::make_pod(pod).map_err(|error| Chain(&error).to_string())?;
        configure::set_up_volumes(pod, &objects)
    })
    .await
}

/// Makes the pod's cgroup, and its directories.
async fn make_place(shared: &Shared, pod: &Arc<Pod>) -> Outcome {
    shared.slices.make_pod(pod).await;
    let cgroups = shared.cgroups.clone();
    on_host(pod, move |pod| {
        dirs::make_pod(pod).map_err(|error| Chain(&error).to_string())?;
        cgroups.make_pod(pod).map_err(|error| format!("unable to ensure pod container exists: {}", Chain(&error)))
    })
    .await
}

async fn pull(shared: &Shared, pod: &Pod, reference: &str) -> Outcome {
    let pulled = match credentials(shared, pod, reference).await {
        Ok(credentials) => shared.images.pull(reference, credentials).await,
        Err(why) => Err(why),
    };
    match pulled {
        Ok(Pulled { id, size_bytes, took }) => Outcome::Pulled { id, size_bytes, took },
        Err(error) => Outcome::Failed(error),
    }
}

async fn create_sandbox(shared: &Shared, pod: &Arc<Pod>, attempt: u32) -> Outcome {
    if let Err(why) = kernel_hostname(pod) {
        return Outcome::Failed(why);
    }
    if pod.namespaces.own_users {
        // Asked each time: the runtime may have been upgraded, and one that does not know of users would ignore them.
        match shared.runtime.status().await {
            Err(error) => return failed(&error),
            Ok(status) if !status.features.handler(&pod.runtime_handler).user_namespaces => {
                return Outcome::Failed(no_users(&pod.runtime_handler));
            }
            Ok(_) => {}
        }
    }
    match make_place(shared, pod).await {
        Outcome::Done => {}
        failed => return failed,
    }
    match users(shared, pod).await {
        Err(why) => Outcome::Failed(why),
        Ok(users) => done(shared.runtime.run_sandbox(pod, attempt, users).await.map(drop)),
    }
}

/// Source: kubernetes v1.36 `pkg/kubelet/userns/userns_manager.go`, `GetOrCreateUserNamespaceMappings`.
fn no_users(handler: &str) -> String {
    let who = if handler.is_empty() { "runtime".to_owned() } else { format!("RuntimeClass handler \"{handler}\"") };
    format!("can't set `spec.hostUsers: false`, {who} does not support user namespaces")
}

/// The host's users of a pod that has its own. Its directory has to be there.
async fn users(shared: &Shared, pod: &Arc<Pod>) -> Result<Option<IdRange>, String> {
    if !pod.namespaces.own_users {
        return Ok(None);
    }
    let (users, pod) = (shared.users.clone(), pod.clone());
    let given = blocking(move || users.of(&pod)).await;
    given.map(Some).map_err(|error| Chain(&error).to_string())
}

async fn create(
    shared: &Shared,
    pod: &Arc<Pod>,
    (container, attempt): (usize, u32),
    (observed, sandbox): (&ObservedPod, &SandboxId),
    (image_ref, volume_images): (&str, &BTreeMap<String, String>),
) -> Outcome {
    let Some(sandbox) = observed.sandboxes.iter().find(|other| other.id == *sandbox) else {
        return Outcome::Failed("the pod's sandbox is gone".to_owned());
    };
    if let Err(why) = strays::end(shared, pod, observed).await {
        return Outcome::Failed(why);
    }
    let target = match target(&pod.containers[container], observed) {
        Ok(target) => target,
        Err(error) => return Outcome::Failed(error),
    };
    let pod_ips = pod_ips(shared, pod, sandbox);
    let bound = async {
        let granted = shared.devices.grant(pod, &pod.containers[container]).await?;
        make_container(pod, container, attempt, &pod_ips).await?;
        configure::bind_container(shared, pod, container, &pod_ips, volume_images, granted).await
    };
    // Plugins, the disk and the runtime have nothing to do with each other.
    let (bound, image) = tokio::join!(bound, shared.runtime.image_status(image_ref));
    let bound = match bound {
        Ok(bound) => bound,
        Err(outcome) => return outcome,
    };
    let container = &pod.containers[container];
    let image_user = match image {
        Err(error) => return failed(&error),
        // Of an image that has gone since, creating will complain.
        Ok(image) => image.map_or(ImageUser::Uid(0), |image| image.user),
    };
    if let Err(why) = verify_non_root(pod, container, &image_user) {
        return Outcome::Misconfigured(why);
    }
    let users = match users(shared, pod).await {
        Err(why) => return Outcome::Failed(why),
        Ok(users) => users,
    };
    let image_user = &image_user;
    let new = NewContainer { pod, container, attempt, sandbox, bound: &bound, image_ref, image_user, users, target };
    match shared.runtime.create_container(new).await {
        Err(error) if error.is_damaged_image() && container.pull_policy != PullPolicy::Never => {
            Outcome::Failed(discard(shared, container, image_ref, observed, &error).await)
        }
        result => done(result.map(drop)),
    }
}

/// Forgets the image of a container that cannot be made from what there is of it: the next attempt pulls it anew. Instances of
/// the same container that have ended hold parts of it, and go; as long as others do, it stays. Answers with why there is no container.
async fn discard(
    shared: &Shared,
    container: &Container,
    image_ref: &str,
    observed: &ObservedPod,
    damage: &CriError,
) -> String {
    let damage = Chain(damage).to_string();
    let discarded = async {
        for instance in observed.containers.iter().filter(|instance| instance.name == container.name) {
            shared.runtime.remove_container(&instance.id).await?;
        }
        if shared.runtime.images_in_use().await?.contains(image_ref) {
            return Ok(false);
        }
        let reference = container.image_reference.as_deref().unwrap_or(image_ref);
        shared.runtime.discard_image(reference).await.map(|()| true)
    };
    let what_next = match discarded.await {
        Ok(true) => "the image is damaged here and pulled anew".to_owned(),
        Ok(false) => "the image is damaged here, and cannot be pulled anew while other containers use it".to_owned(),
        Err(error) => format!("the image is damaged here, and cannot be removed: {}", Chain(&error)),
    };
    format!("{damage}; {what_next}")
}

/// What one instance of a container needs on disk.
async fn make_container(pod: &Arc<Pod>, container: usize, attempt: u32, pod_ips: &[IpAddr]) -> Result<(), Outcome> {
    let pod_ips = pod_ips.to_vec();
    let made = on_host(pod, move |pod| {
        dirs::write_etc_hosts(pod, &pod_ips).map_err(|error| Chain(&error).to_string())?;
        dirs::make_container(pod, &pod.containers[container], attempt).map_err(|error| Chain(&error).to_string())
    })
    .await;
    if made == Outcome::Done { Ok(()) } else { Err(made) }
}

/// The instance whose processes the container is to see.
///
/// Source: kubernetes v1.36 `pkg/kubelet/kuberuntime/kuberuntime_container.go`, `getTargetID`.
fn target<'a>(container: &Container, observed: &'a ObservedPod) -> Result<Option<&'a ContainerId>, String> {
    let Some(name) = &container.target else { return Ok(None) };
    let runs = |instance: &&ObservedContainer| matches!(instance.phase, ContainerPhase::Running { .. });
    let target = observed.containers.iter().filter(runs).find(|instance| instance.name == *name);
    let id = target.map(|target| &target.id);
    id.map(Some).ok_or_else(|| format!("unable to find target container {name}"))
}

/// The link is for log collectors; a container without one runs all the same.
async fn link_log(pod: &Arc<Pod>, container: usize, id: &ContainerId, observed: &ObservedPod) {
    let attempt = observed.containers.iter().find(|instance| instance.id == *id).map_or(0, |instance| instance.attempt);
    let id = id.clone();
    let linked = on_host(pod, move |pod| {
        dirs::link_log(pod, &pod.containers[container], attempt, &id).map_err(|error| Chain(&error).to_string())
    })
    .await;
    if let Outcome::Failed(error) = linked {
        tracing::warn!(pod = %pod.key, error, "the log is not linked for collectors");
    }
}

/// Source: kubernetes v1.36 `pkg/kubelet/kuberuntime/kuberuntime_container.go`, `removeContainerLog`.
async fn remove_log(pod: &Arc<Pod>, id: &ContainerId, observed: &ObservedPod) {
    let Some(instance) = observed.containers.iter().find(|instance| instance.id == *id).cloned() else { return };
    let is_newer = |other: &ObservedContainer| other.name == instance.name && other.attempt > instance.attempt;
    if !observed.containers.iter().any(is_newer) {
        return;
    }
    let removed = on_host(pod, move |pod| {
        let container = pod.containers.iter().find(|container| container.name == instance.name);
        let removed = container.map(|container| dirs::remove_log(pod, container, instance.attempt, &instance.id));
        removed.unwrap_or(Ok(())).map_err(|error| Chain(&error).to_string())
    })
    .await;
    if let Outcome::Failed(error) = removed {
        tracing::warn!(pod = %pod.key, error, "the log of a container that was removed stays");
    }
}

async fn release(shared: &Shared, pod: &Arc<Pod>, observed: &ObservedPod) -> Outcome {
    remove_cgroup(shared, pod, observed, |pod| dirs::remove_volumes(pod).map_err(|leftovers| leftovers.to_string()))
        .await
}

async fn clean_up(shared: &Shared, pod: &Arc<Pod>, observed: &ObservedPod) -> Outcome {
    remove_cgroup(shared, pod, observed, |pod| dirs::remove_pod(pod).map_err(|leftovers| leftovers.to_string())).await
}

/// Removes the pod's cgroup, with what the runtime has lost in it, and what `others` removes then; gives back its devices. A slice is
/// stopped last: systemd would wait for processes.
async fn remove_cgroup(
    shared: &Shared,
    pod: &Arc<Pod>,
    observed: &ObservedPod,
    others: impl FnOnce(&Pod) -> Result<(), String> + Send + 'static,
) -> Outcome {
    if let Err(why) = strays::end(shared, pod, observed).await {
        return Outcome::Failed(why);
    }
    let cgroups = shared.cgroups.clone();
    let outcome = on_host(pod, move |pod| {
        cgroups.remove_pod(pod).map_err(|error| Chain(&error).to_string())?;
        others(pod)
    })
    .await;
    if outcome == Outcome::Done {
        shared.devices.free(pod).await;
        shared.slices.remove_pod(pod).await;
    }
    outcome
}

/// Does work on the host that blocks.
async fn on_host(pod: &Arc<Pod>, work: impl FnOnce(&Pod) -> Result<(), String> + Send + 'static) -> Outcome {
    let pod = pod.clone();
    let result = blocking(move || work(&pod)).await;
    result.map_or_else(Outcome::Failed, |()| Outcome::Done)
}
