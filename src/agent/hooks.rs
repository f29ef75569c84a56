//! Lifecycle hooks: what is done in or to a container right after its start and before its stop.
//!
//! A hook runs once, for as long as it takes; whoever runs it bounds it by dropping it. What it answers is not looked at
//! beyond whether there is an answer.
//!
//! Source: kubernetes v1.36 `pkg/kubelet/lifecycle/handlers.go`.

use std::net::IpAddr;
use std::time::Duration;

use super::Shared;
use crate::cri::ExecOutput;
use crate::error::Chain;
use crate::host::check::{self, HttpError};
use crate::model::ContainerId;
use crate::podspec::{Handler, HttpGet, Pod};

/// Runs a hook of the instance `id`. `pod_ips` are the sandbox's addresses, or the host's for a pod with the host's network.
///
/// # Errors
/// The kubelet's words, for the container's status: they may hold what the hook said, so they are for no event.
pub(super) async fn run(
    shared: &Shared,
    pod: &Pod,
    id: &ContainerId,
    handler: &Handler,
    pod_ips: &[IpAddr],
) -> Result<(), String> {
    let whose = || format!("for Container \"{}\" in Pod \"{}\"", container(pod, id, handler), full_name(pod));
    match handler {
        Handler::Exec(command) => exec(shared, id, command).await.map_err(|(error, said)| {
            let command = command.join(" ");
            format!("Exec lifecycle hook ([{command}]) {} failed - error: {error}, message: {said:?}", whose())
        }),
        Handler::Http(get) => http(pod, get, pod_ips.first().copied())
            .await
            .map_err(|error| format!("HTTP lifecycle hook ({}) {} failed - error: {error}", get.path, whose())),
        Handler::Sleep(time) => {
            tokio::time::sleep(*time).await;
            Ok(())
        }
        // The API still takes these, and no kubelet runs them.
        Handler::Tcp { .. } | Handler::Grpc { .. } => Err("Cannot run handler: invalid handler".to_owned()),
    }
}

/// A failure is told in words, with what the command printed.
async fn exec(shared: &Shared, id: &ContainerId, command: &[String]) -> Result<(), (String, String)> {
    let output = shared.runtime.exec_sync(id, command, Duration::ZERO).await;
    let ExecOutput { exit_code, stdout, stderr } =
        output.map_err(|error| (Chain(&error).to_string(), String::new()))?;
    if exit_code == 0 {
        return Ok(());
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(check::OUTPUT_BYTES_MAX)]).into_owned();
    let (command, stdout, stderr) = (command.join(" "), text(&stdout), text(&stderr));
    Err((format!("command '{command}' exited with {exit_code}: {stderr}"), stdout + &stderr))
}

/// Any answer will do. What answers in plain text where TLS is asked for is asked again without, and without what is meant
/// for its eyes only.
async fn http(pod: &Pod, get: &HttpGet, ip: Option<IpAddr>) -> Result<(), HttpError> {
    let Err(error) = check::get(get, ip).await else { return Ok(()) };
    let HttpError::NoTls { url } = &error else { return Err(error) };
    let headers = get.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("authorization"));
    let plain = HttpGet { https: false, headers: headers.cloned().collect(), ..get.clone() };
    check::get(&plain, ip).await.map_err(|_| error.clone())?;
    let message = "request to HTTPS lifecycle hook got HTTP response, retry with HTTP succeeded";
    tracing::warn!(pod = %pod.key, %url, "{message}");
    Ok(())
}

/// The name of the container that has this hook.
fn container<'a>(pod: &'a Pod, id: &'a ContainerId, handler: &Handler) -> &'a str {
    let is_its_own = |hook: &Option<Handler>| hook.as_ref().is_some_and(|hook| std::ptr::eq(hook, handler));
    let mut containers = pod.containers.iter();
    let found = containers.find(|one| is_its_own(&one.hooks.post_start) || is_its_own(&one.hooks.pre_stop));
    found.map_or(id.as_str(), |container| container.name.as_str())
}

/// As the kubelet writes a pod.
fn full_name(pod: &Pod) -> String {
    format!("{}_{}({})", pod.key.name, pod.key.namespace, pod.key.uid)
}
