//! Carrying out one step of a pod's plan. Dull on purpose: what to do was decided, what came of it is handed back.

use std::net::IpAddr;
use std::sync::Arc;

use crate::agent::{Shared, configure};
use crate::cri::{CriError, NewContainer};
use crate::error::Chain;
use crate::host::dirs;
use crate::model::{ObservedPod, ObservedSandbox, SandboxId};
use crate::plan::memory::Outcome;
use crate::plan::{Step, grace_left};
use crate::podspec::Pod;

/// Carries out `step`. `observed` is what the step was planned on.
pub(super) async fn execute(shared: &Shared, pod: &Arc<Pod>, step: &Step, observed: &ObservedPod) -> Outcome {
    let runtime = &shared.runtime;
    match step {
        Step::PrepareVolumes => prepare_volumes(shared, pod).await,
        Step::CreateSandbox { attempt } => done(runtime.run_sandbox(pod, *attempt).await.map(drop)),
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
            Ok(reference) => shared.images.pull(reference).await.map_or_else(Outcome::Failed, Outcome::Image),
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
    let new = NewContainer { pod, container, attempt, sandbox, bound: &bound, image_ref };
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
