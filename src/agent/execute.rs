//! Carrying out one step of a pod's plan. Dull on purpose: what to do was decided, what came of it is handed back.

use std::net::IpAddr;
use std::sync::Arc;

use crate::agent::images::Pulled;
use crate::agent::{Shared, configure};
use crate::cri::{CriError, NewContainer};
use crate::error::Chain;
use crate::host::dirs;
use crate::model::{ObservedPod, ObservedSandbox, SandboxId};
use crate::plan::memory::Outcome;
use crate::plan::{Step, grace_left};
use crate::podspec::{IdRange, ImageUser, Pod, kernel_hostname, verify_non_root};

/// Carries out `step`. `observed` is what the step was planned on.
pub(super) async fn execute(shared: &Shared, pod: &Arc<Pod>, step: &Step, observed: &ObservedPod) -> Outcome {
    let runtime = &shared.runtime;
    match step {
        Step::PrepareVolumes => prepare_volumes(shared, pod).await,
        Step::CreateSandbox { attempt } => create_sandbox(shared, pod, *attempt).await,
        Step::StopSandbox { id } => done(runtime.stop_sandbox(id).await),
        Step::RemoveSandbox { id } => done(runtime.remove_sandbox(id).await),
        Step::InspectImage { container } => match &pod.containers[*container].image_reference {
            Err(error) => Outcome::Failed(error.clone()),
            Ok(reference) => match shared.images.inspect(reference).await {
                Ok(Some(id)) => Outcome::Image(id),
                Ok(None) => Outcome::NoImage,
                Err(error) => failed(&error),
            },
        },
        Step::PullImage { container } => match &pod.containers[*container].image_reference {
            Err(error) => Outcome::Failed(error.clone()),
            Ok(reference) => match shared.images.pull(reference, Vec::new()).await {
                Ok(Pulled { id, size_bytes, took }) => Outcome::Pulled { id, size_bytes, took },
                Err(error) => Outcome::Failed(error),
            },
        },
        Step::CreateContainer { container, attempt, sandbox, image_ref } => {
            create(shared, pod, (*container, *attempt), sandbox_of(observed, sandbox), image_ref).await
        }
        Step::StartContainer { container, id } => {
            let outcome = done(runtime.start_container(id).await);
            if outcome == Outcome::Done {
                link_log(pod, *container, id, observed).await;
            }
            outcome
        }
        Step::StopContainer { id, deadline, .. } => {
            done(runtime.stop_container(id, grace_left(*deadline, shared.clock.now())).await)
        }
        Step::RemoveContainer { id } => done(runtime.remove_container(id).await),
        Step::CleanUp => clean_up(shared, pod).await,
    }
}

fn done(result: Result<(), CriError>) -> Outcome {
    result.map_or_else(|error| failed(&error), |()| Outcome::Done)
}

fn failed(error: &CriError) -> Outcome {
    Outcome::Failed(Chain(error).to_string())
}

fn sandbox_of<'a>(observed: &'a ObservedPod, id: &SandboxId) -> Option<&'a ObservedSandbox> {
    observed.sandboxes.iter().find(|sandbox| sandbox.id == *id)
}

async fn prepare_volumes(shared: &Shared, pod: &Arc<Pod>) -> Outcome {
    let (cgroups, objects) = (shared.cgroups.clone(), shared.objects.borrow().clone());
    blocking(pod, move |pod| {
        dirs::make_pod(pod).map_err(|error| Chain(&error).to_string())?;
        configure::set_up_volumes(pod, &objects)?;
        cgroups.make_pod(pod).map_err(|error| format!("unable to ensure pod container exists: {}", Chain(&error)))
    })
    .await
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

/// The host's users of a pod that has its own.
async fn users(shared: &Shared, pod: &Arc<Pod>) -> Result<Option<IdRange>, String> {
    if !pod.namespaces.own_users {
        return Ok(None);
    }
    let (users, pod) = (shared.users.clone(), pod.clone());
    let given = tokio::task::spawn_blocking(move || users.of(&pod)).await.expect("the work does not panic");
    given.map(Some).map_err(|error| Chain(&error).to_string())
}

async fn create(
    shared: &Shared,
    pod: &Arc<Pod>,
    (container, attempt): (usize, u32),
    sandbox: Option<&ObservedSandbox>,
    image_ref: &str,
) -> Outcome {
    let Some(sandbox) = sandbox else { return Outcome::Failed("the pod's sandbox is gone".to_owned()) };
    let pod_ips: Vec<IpAddr> = if pod.namespaces.host_network { shared.host.ips.clone() } else { sandbox.ips.clone() };
    let ips = pod_ips.clone();
    let prepared = blocking(pod, move |pod| {
        dirs::write_etc_hosts(pod, &ips).map_err(|error| Chain(&error).to_string())?;
        dirs::make_container(pod, &pod.containers[container], attempt).map_err(|error| Chain(&error).to_string())
    })
    .await;
    if prepared != Outcome::Done {
        return prepared;
    }
    let bound = match configure::bind_container(shared, pod, container, &pod_ips).await {
        Ok(bound) => bound,
        Err(why) => return Outcome::Misconfigured(why),
    };
    let container = &pod.containers[container];
    let image_user = match shared.runtime.image_status(image_ref).await {
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
    let new =
        NewContainer { pod, container, attempt, sandbox, bound: &bound, image_ref, image_user: &image_user, users };
    done(shared.runtime.create_container(new).await.map(drop))
}

/// The link is for log collectors; a container without one runs all the same.
async fn link_log(pod: &Arc<Pod>, container: usize, id: &crate::model::ContainerId, observed: &ObservedPod) {
    let attempt = observed.containers.iter().find(|instance| instance.id == *id).map_or(0, |instance| instance.attempt);
    let id = id.clone();
    let linked = blocking(pod, move |pod| {
        dirs::link_log(pod, &pod.containers[container], attempt, &id).map_err(|error| Chain(&error).to_string())
    })
    .await;
    if let Outcome::Failed(error) = linked {
        tracing::warn!(pod = %pod.key, error, "the log is not linked for collectors");
    }
}

async fn clean_up(shared: &Shared, pod: &Arc<Pod>) -> Outcome {
    let cgroups = shared.cgroups.clone();
    blocking(pod, move |pod| {
        cgroups.remove_pod(pod).map_err(|error| Chain(&error).to_string())?;
        dirs::remove_pod(pod).map_err(|leftovers| leftovers.to_string())
    })
    .await
}

/// Runs work that blocks on a thread of its own.
async fn blocking(pod: &Arc<Pod>, work: impl FnOnce(&Pod) -> Result<(), String> + Send + 'static) -> Outcome {
    let pod = pod.clone();
    let result = tokio::task::spawn_blocking(move || work(&pod)).await.expect("the work does not panic");
    result.map_or_else(Outcome::Failed, |()| Outcome::Done)
}
