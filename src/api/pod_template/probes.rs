//! Rules for probes and lifecycle hooks.

use k8s_openapi::api::core::v1::{
    Container, ExecAction, GRPCAction, HTTPGetAction, Lifecycle, Probe, SleepAction, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Spec, text};
use crate::api::field::{FieldError, Path};
use crate::api::metadata::{invalid_each, nonnegative};
use crate::api::names;

/// Checks everything about a container that a plain init container may not have.
pub(super) fn validate(container: &Container, spec: &Spec<'_>, path: &Path, errors: &mut Vec<FieldError>) {
    if let Some(lifecycle) = &container.lifecycle {
        validate_lifecycle(lifecycle, spec, &path.child("lifecycle"), errors);
    }
    if let Some(probe) = &container.liveness_probe {
        validate_ending_probe(probe, &path.child("livenessProbe"), errors);
    }
    if let Some(probe) = &container.readiness_probe {
        let path = path.child("readinessProbe");
        validate_probe(probe, &path, errors);
        if let Some(seconds) = probe.termination_grace_period_seconds {
            let path = path.child("terminationGracePeriodSeconds");
            errors.push(FieldError::invalid(&path, seconds, "must not be set for readinessProbes"));
        }
    }
    if let Some(probe) = &container.startup_probe {
        validate_ending_probe(probe, &path.child("startupProbe"), errors);
    }
}

/// A probe whose failure ends the container; one success must be enough for it.
fn validate_ending_probe(probe: &Probe, path: &Path, errors: &mut Vec<FieldError>) {
    validate_probe(probe, path, errors);
    if probe.success_threshold != Some(1) {
        let threshold = probe.success_threshold.unwrap_or(0);
        errors.push(FieldError::invalid(&path.child("successThreshold"), threshold, "must be 1"));
    }
}

fn validate_probe(probe: &Probe, path: &Path, errors: &mut Vec<FieldError>) {
    let actions = [
        probe.exec.as_ref().map(Action::Exec),
        probe.http_get.as_ref().map(Action::HttpGet),
        probe.tcp_socket.as_ref().map(Action::TcpSocket),
        probe.grpc.as_ref().map(Action::Grpc),
    ];
    validate_actions(actions.into_iter().flatten(), path, errors);
    for (name, number) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        nonnegative(&path.child(name), number.unwrap_or(0).into(), errors);
    }
    if let Some(seconds) = probe.termination_grace_period_seconds.filter(|seconds| *seconds <= 0) {
        let path = path.child("terminationGracePeriodSeconds");
        errors.push(FieldError::invalid(&path, seconds, "must be greater than 0"));
    }
}

fn validate_lifecycle(lifecycle: &Lifecycle, spec: &Spec<'_>, path: &Path, errors: &mut Vec<FieldError>) {
    let grace_period_secs = spec.spec.termination_grace_period_seconds.unwrap_or(i64::MAX);
    for (name, handler) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
        let Some(handler) = handler else { continue };
        let actions = [
            handler.exec.as_ref().map(Action::Exec),
            handler.http_get.as_ref().map(Action::HttpGet),
            handler.tcp_socket.as_ref().map(Action::TcpSocket),
            handler.sleep.as_ref().map(|sleep| Action::Sleep { sleep, grace_period_secs }),
        ];
        validate_actions(actions.into_iter().flatten(), &path.child(name), errors);
    }
    if lifecycle.stop_signal.is_some() && spec.spec.os.is_none() {
        let detail = "may not be set for containers with empty `spec.os.name`";
        errors.push(FieldError::forbidden(&path.child("stopSignal"), detail));
    }
}

/// What a probe or a hook does.
enum Action<'a> {
    Exec(&'a ExecAction),
    HttpGet(&'a HTTPGetAction),
    TcpSocket(&'a TCPSocketAction),
    Grpc(&'a GRPCAction),
    Sleep { sleep: &'a SleepAction, grace_period_secs: i64 },
}

/// There must be one action: the first is checked, further ones are forbidden.
fn validate_actions<'a>(actions: impl Iterator<Item = Action<'a>>, path: &Path, errors: &mut Vec<FieldError>) {
    let mut actions = actions.peekable();
    if actions.peek().is_none() {
        errors.push(FieldError::required(path, "must specify a handler type"));
    }
    if let Some(first) = actions.next() {
        first.validate(&path.child(first.field()), errors);
    }
    for further in actions {
        errors.push(FieldError::forbidden(&path.child(further.field()), "may not specify more than 1 handler type"));
    }
}

impl Action<'_> {
    fn field(&self) -> &'static str {
        match self {
            Self::Exec(_) => "exec",
            Self::HttpGet(_) => "httpGet",
            Self::TcpSocket(_) => "tcpSocket",
            Self::Grpc(_) => "grpc",
            Self::Sleep { .. } => "sleep",
        }
    }

    fn validate(&self, path: &Path, errors: &mut Vec<FieldError>) {
        match self {
            Self::Exec(exec) => {
                if exec.command.as_ref().is_none_or(Vec::is_empty) {
                    errors.push(FieldError::required(&path.child("command"), ""));
                }
            }
            Self::HttpGet(http_get) => validate_http_get(http_get, path, errors),
            Self::TcpSocket(tcp_socket) => validate_port(&tcp_socket.port, path, errors),
            Self::Grpc(grpc) => validate_port(&IntOrString::Int(grpc.port), path, errors),
            Self::Sleep { sleep, grace_period_secs } => {
                if !(0..=*grace_period_secs).contains(&sleep.seconds) {
                    let detail = format!(
                        "must be non-negative and less than terminationGracePeriodSeconds ({grace_period_secs})"
                    );
                    errors.push(FieldError::invalid(path, sleep.seconds, detail));
                }
            }
        }
    }
}

fn validate_http_get(http_get: &HTTPGetAction, path: &Path, errors: &mut Vec<FieldError>) {
    const SCHEMES: [&str; 2] = ["HTTP", "HTTPS"];
    if text(http_get.path.as_ref()).is_empty() {
        errors.push(FieldError::required(&path.child("path"), ""));
    }
    validate_port(&http_get.port, path, errors);
    let scheme = text(http_get.scheme.as_ref());
    if !SCHEMES.contains(&scheme) {
        errors.push(FieldError::not_supported(&path.child("scheme"), scheme, &SCHEMES));
    }
    for header in http_get.http_headers.iter().flatten() {
        invalid_each(&path.child("httpHeaders"), &header.name, names::http_header_name(&header.name), errors);
    }
}

fn validate_port(port: &IntOrString, path: &Path, errors: &mut Vec<FieldError>) {
    let path = path.child("port");
    match port {
        IntOrString::Int(number) => {
            let messages = names::port_number(*number);
            errors.extend(messages.into_iter().map(|message| FieldError::invalid(&path, *number, message)));
        }
        IntOrString::String(name) => invalid_each(&path, name, names::port_name(name), errors),
    }
}
