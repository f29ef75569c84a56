//! Probes and lifecycle hooks.
//!
//! Source: kubernetes v1.36 `pkg/probe/util.go` (`ResolveContainerPort`), `pkg/probe/http/request.go` (`formatURL`),
//! `pkg/kubelet/container/helpers.go` (`ExpandContainerCommandOnlyStatic`), `pkg/apis/core/v1/defaults.go`.

use std::fmt::Write as _;
use std::time::Duration;

use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Handler, Hooks, HttpGet, Probe, Probes, env};

/// The probes of one container.
pub(super) fn probes(container: &k8s::Container) -> Probes {
    let resolved = |written: &Option<k8s::Probe>| written.as_ref().and_then(|written| probe(written, container));
    Probes {
        startup: resolved(&container.startup_probe),
        liveness: resolved(&container.liveness_probe),
        readiness: resolved(&container.readiness_probe),
    }
}

/// What is done right after the start of a container and before its stop.
pub(super) fn hooks(container: &k8s::Container) -> Hooks {
    let Some(k8s::Lifecycle { post_start, pre_stop, stop_signal }) = &container.lifecycle else {
        return Hooks::default();
    };
    let resolved =
        |written: &Option<k8s::LifecycleHandler>| written.as_ref().and_then(|written| hook(written, container));
    Hooks { post_start: resolved(post_start), pre_stop: resolved(pre_stop), stop_signal: stop_signal.clone() }
}

/// None without a handler, which a validated template does not have.
fn probe(written: &k8s::Probe, container: &k8s::Container) -> Option<Probe> {
    let handler = if let Some(exec) = &written.exec {
        Handler::Exec(expanded(exec, container))
    } else if let Some(get) = &written.http_get {
        Handler::Http(http_get(get, container))
    } else if let Some(socket) = &written.tcp_socket {
        tcp(socket, container)
    } else {
        let grpc = written.grpc.as_ref()?;
        Handler::Grpc { port: u16::try_from(grpc.port).ok()?, service: grpc.service.clone().unwrap_or_default() }
    };
    // Zero is as good as not given, as the API's defaults have it.
    let number = |number: Option<i32>, default| {
        number.and_then(|number| u32::try_from(number).ok()).filter(|number| *number > 0).unwrap_or(default)
    };
    let seconds = |field, default| Duration::from_secs(number(field, default).into());
    let grace_period = written.termination_grace_period_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    Some(Probe {
        handler,
        initial_delay: seconds(written.initial_delay_seconds, 0),
        period: seconds(written.period_seconds, 10),
        timeout: seconds(written.timeout_seconds, 1),
        success_threshold: number(written.success_threshold, 1),
        failure_threshold: number(written.failure_threshold, 3),
        grace_period: grace_period.map(Duration::from_secs),
    })
}

/// Nothing is expanded in the command of a hook.
fn hook(written: &k8s::LifecycleHandler, container: &k8s::Container) -> Option<Handler> {
    if let Some(exec) = &written.exec {
        Some(Handler::Exec(exec.command.clone().unwrap_or_default()))
    } else if let Some(get) = &written.http_get {
        Some(Handler::Http(http_get(get, container)))
    } else if let Some(socket) = &written.tcp_socket {
        Some(tcp(socket, container))
    } else {
        let seconds = u64::try_from(written.sleep.as_ref()?.seconds).ok()?;
        Some(Handler::Sleep(Duration::from_secs(seconds)))
    }
}

/// The command with literal variables in place of `$(NAME)`. One whose value comes from elsewhere is empty here, as
/// upstream has it.
fn expanded(exec: &k8s::ExecAction, container: &k8s::Container) -> Vec<String> {
    // Of a name that is given twice the later value counts.
    let literal = |name: &str| {
        let variable = container.env.iter().flatten().rev().find(|variable| variable.name == name)?;
        Some(variable.value.as_deref().unwrap_or_default())
    };
    exec.command.iter().flatten().map(|word| env::expand(word, literal)).collect()
}

fn http_get(written: &k8s::HTTPGetAction, container: &k8s::Container) -> HttpGet {
    let headers = written.http_headers.iter().flatten();
    HttpGet {
        https: written.scheme.as_deref() == Some("HTTPS"),
        host: host(written.host.as_ref()),
        port: port(&written.port, container),
        path: target(written.path.as_deref().unwrap_or_default()),
        headers: headers.map(|header| (header.name.clone(), header.value.clone())).collect(),
    }
}

fn tcp(written: &k8s::TCPSocketAction, container: &k8s::Container) -> Handler {
    Handler::Tcp { host: host(written.host.as_ref()), port: port(&written.port, container) }
}

fn host(written: Option<&String>) -> Option<String> {
    written.filter(|host| !host.is_empty()).cloned()
}

/// A port by its number, by its name among the container's ports, or by a number written as text.
fn port(written: &IntOrString, container: &k8s::Container) -> Result<u16, String> {
    let number = match written {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_ref() == Some(text));
            let number = named.map(|port| port.container_port).or_else(|| text.parse().ok());
            number.ok_or_else(|| format!("port {text} not found"))?
        }
    };
    let valid = u16::try_from(number).ok().filter(|number| *number > 0);
    valid.ok_or_else(|| format!("invalid port number: {number}"))
}

/// The path as it goes over the wire: with a leading `/`, without a fragment, and with what may not stand there escaped.
fn target(path: &str) -> String {
    let path = path.split('#').next().unwrap_or_default();
    let mut target = if path.starts_with('/') { String::new() } else { "/".to_owned() };
    for byte in path.bytes() {
        if byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte) {
            target.push(char::from(byte));
        } else {
            write!(target, "%{byte:02X}").expect("writing to a string");
        }
    }
    target
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn container(fields: &Value) -> k8s::Container {
        let mut container = json!({ "name": "web", "ports": [{ "name": "admin", "containerPort": 8081 }, { "containerPort": 1 }],
            "env": [{ "name": "A", "value": "old" }, { "name": "A", "value": "$(B)" },
                    { "name": "F", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }] });
        container.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        serde_json::from_value(container).unwrap()
    }

    fn handler(action: &Value) -> Handler {
        probes(&container(&json!({ "readinessProbe": action }))).readiness.unwrap().handler
    }

    fn path(path: &str) -> String {
        match handler(&json!({ "httpGet": { "path": path, "port": 80 } })) {
            Handler::Http(get) => get.path,
            other => panic!("not a request: {other:?}"),
        }
    }

    #[test]
    fn a_probe_is_resolved_to_the_last_field() {
        let written = json!({ "httpGet": { "path": "/ok", "port": "admin", "scheme": "HTTPS", "host": "localhost",
                "httpHeaders": [{ "name": "X", "value": "1" }, { "name": "X", "value": "2" }] },
            "initialDelaySeconds": 1, "periodSeconds": 2, "timeoutSeconds": 3, "successThreshold": 1,
            "failureThreshold": 5, "terminationGracePeriodSeconds": 6 });
        let resolved = Probe {
            handler: Handler::Http(HttpGet {
                https: true,
                host: Some("localhost".to_owned()),
                port: Ok(8081),
                path: "/ok".to_owned(),
                headers: ["1", "2"].map(|value| ("X".to_owned(), value.to_owned())).into(),
            }),
            initial_delay: Duration::from_secs(1),
            period: Duration::from_secs(2),
            timeout: Duration::from_secs(3),
            success_threshold: 1,
            failure_threshold: 5,
            grace_period: Some(Duration::from_secs(6)),
        };
        let all = json!({ "startupProbe": written, "livenessProbe": written, "readinessProbe": written });
        let one = || Some(resolved.clone());
        let expected = Probes { startup: one(), liveness: one(), readiness: one() };
        assert_eq!(probes(&container(&all)), expected);
        assert_eq!(probes(&container(&json!({}))), Probes::default());
    }

    #[test]
    fn each_handler_and_each_way_to_name_a_port() {
        let tcp = |port| Handler::Tcp { host: None, port };
        let failed = |error: &str| Err(error.to_owned());
        for (written, expected) in [
            (json!({ "tcpSocket": { "port": 80 } }), tcp(Ok(80))),
            (json!({ "tcpSocket": { "port": "admin", "host": "" } }), tcp(Ok(8081))),
            (json!({ "tcpSocket": { "port": "8080" } }), tcp(Ok(8080))),
            (json!({ "tcpSocket": { "port": "web" } }), tcp(failed("port web not found"))),
            (json!({ "tcpSocket": { "port": "70000" } }), tcp(failed("invalid port number: 70000"))),
            (json!({ "tcpSocket": { "port": 0 } }), tcp(failed("invalid port number: 0"))),
            (json!({ "grpc": { "port": 9 } }), Handler::Grpc { port: 9, service: String::new() }),
            (json!({ "grpc": { "port": 9, "service": "s" } }), Handler::Grpc { port: 9, service: "s".to_owned() }),
            (
                json!({ "exec": { "command": ["$(A)", "$$(A)", "$(F)", "$(none)"] } }),
                Handler::Exec(["$(B)", "$(A)", "", "$(none)"].map(str::to_owned).into()),
            ),
        ] {
            assert_eq!(handler(&written), expected, "{written}");
        }
    }

    #[test]
    fn a_path_is_made_fit_for_a_request() {
        for (written, sent) in [
            ("/healthz?full=1", "/healthz?full=1"),
            ("healthz", "/healthz"),
            ("", "/"),
            ("?full", "/?full"),
            ("/a b#part", "/a%20b"),
            ("/é%20", "/%C3%A9%20"),
        ] {
            assert_eq!(path(written), sent);
        }
    }

    #[test]
    fn hooks_are_taken_as_they_are_written() {
        let lifecycle = json!({ "lifecycle": { "stopSignal": "SIGUSR1", "preStop": { "sleep": { "seconds": 3 } },
            "postStart": { "exec": { "command": ["$(A)"] } } } });
        let expected = Hooks {
            post_start: Some(Handler::Exec(vec!["$(A)".to_owned()])),
            pre_stop: Some(Handler::Sleep(Duration::from_secs(3))),
            stop_signal: Some("SIGUSR1".to_owned()),
        };
        assert_eq!(hooks(&container(&lifecycle)), expected);
        let old = json!({ "lifecycle": { "preStop": { "tcpSocket": { "port": 1 } } } });
        let tcp = Some(Handler::Tcp { host: None, port: Ok(1) });
        assert_eq!(hooks(&container(&old)), Hooks { pre_stop: tcp, ..Hooks::default() });
    }
}
