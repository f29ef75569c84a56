//! Rules for containers and init containers.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, ContainerPort, EphemeralContainer};

use super::{Owner, Spec, choice, env, probes, resources, security, text, volumes};
use crate::api::field::{FieldError, Path};
use crate::api::metadata::invalid_each;
use crate::api::names;

const RESTART_POLICIES: [&str; 3] = ["Always", "Never", "OnFailure"];
const MAX_RESTART_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;

pub(super) fn validate(spec: &Spec<'_>, path: &Path, errors: &mut Vec<FieldError>) {
    let containers = &spec.spec.containers;
    if containers.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let mut names = BTreeSet::new();
    for (index, container) in containers.iter().enumerate() {
        let path = path.index(index);
        validate_common(container, spec, &path, errors);
        if !names.insert(container.name.as_str()) {
            errors.push(FieldError::duplicate(&path.child("name"), container.name.as_str()));
        }
        probes::validate(container, spec, &path, errors);
        validate_restart_policy(container, &path, errors);
    }
    validate_host_ports(containers, path, errors);
}

pub(super) fn validate_init(spec: &Spec<'_>, path: &Path, errors: &mut Vec<FieldError>) {
    let mut names: BTreeSet<&str> = spec.spec.containers.iter().map(|container| container.name.as_str()).collect();
    for (index, container) in spec.spec.init_containers.iter().flatten().enumerate() {
        let item = path.index(index);
        validate_common(container, spec, &item, errors);
        validate_restart_policy(container, &item, errors);
        if !container.name.is_empty() && !names.insert(&container.name) {
            errors.push(FieldError::duplicate(&item.child("name"), container.name.as_str()));
        }
        // Init containers run one after the other, so each is checked alone, and reported as if it were the first.
        validate_host_ports(std::slice::from_ref(container), path, errors);
        if container.restart_policy.as_deref() == Some("Always") {
            probes::validate(container, spec, &item, errors);
        } else {
            forbid_long_running_fields(container, &item, errors);
        }
    }
}

pub(super) fn validate_ephemeral(spec: &Spec<'_>, path: &Path, errors: &mut Vec<FieldError>) {
    let others = spec.spec.containers.iter().chain(spec.spec.init_containers.iter().flatten());
    let others: BTreeSet<&str> = others.map(|container| container.name.as_str()).collect();
    let mut names = others.clone();
    for (index, ephemeral) in spec.spec.ephemeral_containers.iter().flatten().enumerate() {
        let path = path.index(index);
        let container = as_container(ephemeral);
        validate_common(&container, spec, &path, errors);
        if !names.insert(&ephemeral.name) {
            errors.push(FieldError::duplicate(&path.child("name"), ephemeral.name.as_str()));
        }
        let target = text(ephemeral.target_container_name.as_ref());
        if !target.is_empty() && !others.contains(target) {
            errors.push(FieldError::not_found(&path.child("targetContainerName"), target));
        }
        forbid_daemon_fields(&container, &path, errors);
    }
}

/// The two types have the same fields but for the target.
fn as_container(ephemeral: &EphemeralContainer) -> Container {
    let container = serde_json::to_value(ephemeral).and_then(serde_json::from_value);
    container.expect("whatever an ephemeral container has, a container has, too")
}

/// An ephemeral container is for looking: it claims nothing, and nothing depends on it.
fn forbid_daemon_fields(container: &Container, path: &Path, errors: &mut Vec<FieldError>) {
    const DETAIL: &str = "cannot be set for an Ephemeral Container";
    for (name, given) in [
        ("ports", container.ports.as_ref().is_some_and(|ports| !ports.is_empty())),
        ("resources", container.resources.as_ref().is_some_and(|resources| *resources != Default::default())),
        ("lifecycle", container.lifecycle.is_some()),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
        ("resizePolicy", container.resize_policy.as_ref().is_some_and(|policies| !policies.is_empty())),
        ("restartPolicy", container.restart_policy.is_some()),
        ("restartPolicyRules", container.restart_policy_rules.as_ref().is_some_and(|rules| !rules.is_empty())),
    ] {
        if given {
            errors.push(FieldError::forbidden(&path.child(name), DETAIL));
        }
    }
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let path = path.child("volumeMounts").index(index);
        for (name, value) in [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)] {
            if value.as_ref().is_some_and(|value| !value.is_empty()) {
                errors.push(FieldError::forbidden(&path.child(name), DETAIL));
            }
        }
    }
}

fn forbid_long_running_fields(container: &Container, path: &Path, errors: &mut Vec<FieldError>) {
    for (name, given) in [
        ("lifecycle", container.lifecycle.is_some()),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
    ] {
        if given {
            let detail = "may not be set for init containers without restartPolicy=Always";
            errors.push(FieldError::forbidden(&path.child(name), detail));
        }
    }
}

fn validate_common(container: &Container, spec: &Spec<'_>, path: &Path, errors: &mut Vec<FieldError>) {
    let name_path = path.child("name");
    if container.name.is_empty() {
        errors.push(FieldError::required(&name_path, ""));
    } else {
        invalid_each(&name_path, &container.name, names::dns_label(&container.name), errors);
    }
    let image = text(container.image.as_ref());
    if image.is_empty() {
        errors.push(FieldError::required(&path.child("image"), ""));
    }
    if spec.owner == Owner::Pod && image.trim() != image {
        let detail = "must not have leading or trailing whitespace";
        errors.push(FieldError::invalid(&path.child("image"), image, detail));
    }
    let message_policy = text(container.termination_message_policy.as_ref());
    choice(message_policy, &["File", "FallbackToLogsOnError"], &path.child("terminationMessagePolicy"), errors);
    validate_ports(container.ports.as_deref().unwrap_or_default(), &path.child("ports"), spec.owner, errors);
    let variables = container.env.as_deref().unwrap_or_default();
    env::validate(variables, &spec.volumes, &path.child("env"), errors);
    env::validate_from(container.env_from.as_deref().unwrap_or_default(), &path.child("envFrom"), errors);
    volumes::validate_mounts(container, &spec.volumes, &path.child("volumeMounts"), errors);
    volumes::validate_devices(container, &spec.volumes, &path.child("volumeDevices"), errors);
    let pull_policy = text(container.image_pull_policy.as_ref());
    choice(pull_policy, &["Always", "IfNotPresent", "Never"], &path.child("imagePullPolicy"), errors);
    if let Some(requirements) = &container.resources {
        resources::validate_container(requirements, spec, &path.child("resources"), errors);
    }
    resources::validate_resize_policy(container, spec.spec, &path.child("resizePolicy"), errors);
    if let Some(context) = &container.security_context {
        security::validate_container(context, spec.spec, &path.child("securityContext"), errors);
    }
}

/// Source: KEP-5307, container restart rules.
fn validate_restart_policy(container: &Container, path: &Path, errors: &mut Vec<FieldError>) {
    let rules = container.restart_policy_rules.as_deref().unwrap_or_default();
    let Some(policy) = container.restart_policy.as_deref() else {
        if !rules.is_empty() {
            let detail = "must specify restartPolicy when restart rules are used";
            errors.push(FieldError::required(&path.child("restartPolicy"), detail));
        }
        return;
    };
    if !RESTART_POLICIES.contains(&policy) {
        errors.push(FieldError::not_supported(&path.child("restartPolicy"), policy, &RESTART_POLICIES));
    }
    let rules_path = path.child("restartPolicyRules");
    if rules.len() > MAX_RESTART_RULES {
        errors.push(FieldError::too_many(&rules_path, rules.len(), MAX_RESTART_RULES));
    }
    for (index, rule) in rules.iter().enumerate() {
        let path = rules_path.index(index);
        choice(&rule.action, &["Restart", "RestartAllContainers"], &path.child("action"), errors);
        let codes_path = path.child("exitCodes");
        let Some(codes) = &rule.exit_codes else {
            errors.push(FieldError::required(&codes_path, "must be specified"));
            continue;
        };
        choice(&codes.operator, &["In", "NotIn"], &codes_path.child("operator"), errors);
        let values = codes.values.as_deref().unwrap_or_default();
        if values.len() > MAX_EXIT_CODES {
            errors.push(FieldError::too_many(&codes_path.child("values"), values.len(), MAX_EXIT_CODES));
        }
        for (index, value) in values.iter().enumerate() {
            if !(0..=255).contains(value) {
                let path = codes_path.child("values").index(index);
                errors.push(FieldError::invalid(&path, *value, names::range_message(0, 255)));
            }
        }
    }
}

// === ports ===

fn validate_ports(ports: &[ContainerPort], path: &Path, owner: Owner, errors: &mut Vec<FieldError>) {
    const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
    let mut port_names = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = text(port.name.as_ref());
        if !name.is_empty() {
            let messages = names::port_name(name);
            let valid = messages.is_empty();
            invalid_each(&path.child("name"), name, messages, errors);
            if valid && !port_names.insert(name) {
                errors.push(FieldError::duplicate(&path.child("name"), name));
            }
        }
        if port.container_port == 0 {
            errors.push(FieldError::required(&path.child("containerPort"), ""));
        } else {
            validate_number(port.container_port, &path.child("containerPort"), errors);
        }
        if let Some(number) = port.host_port.filter(|number| *number != 0) {
            validate_number(number, &path.child("hostPort"), errors);
        }
        choice(text(port.protocol.as_ref()), &PROTOCOLS, &path.child("protocol"), errors);
        let host_ip = text(port.host_ip.as_ref());
        if owner == Owner::Pod && !host_ip.is_empty() {
            invalid_each(&path.child("hostIP"), host_ip, names::ip_address(host_ip), errors);
        }
    }
}

fn validate_number(number: i32, path: &Path, errors: &mut Vec<FieldError>) {
    let messages = names::port_number(number);
    errors.extend(messages.into_iter().map(|message| FieldError::invalid(path, number, message)));
}

/// No two of the containers may take the same port of the host.
fn validate_host_ports(containers: &[Container], path: &Path, errors: &mut Vec<FieldError>) {
    let mut taken = BTreeSet::new();
    for (index, container) in containers.iter().enumerate() {
        for (port_index, port) in container.ports.iter().flatten().enumerate() {
            let Some(number) = port.host_port.filter(|number| *number != 0) else { continue };
            let key = format!("{}/{}/{number}", text(port.protocol.as_ref()), text(port.host_ip.as_ref()));
            if !taken.insert(key.clone()) {
                let path = path.index(index).child("ports").index(port_index).child("hostPort");
                errors.push(FieldError::duplicate(&path, key));
            }
        }
    }
}

/// With the host's network, a port is the same inside and outside. A template may leave it to the pod's defaults.
pub(super) fn validate_host_network_ports(spec: &Spec<'_>, path: &Path, errors: &mut Vec<FieldError>) {
    if spec.spec.host_network != Some(true) {
        return;
    }
    for (index, container) in spec.spec.containers.iter().enumerate() {
        for (port_index, port) in container.ports.iter().flatten().enumerate() {
            let host_port = port.host_port.unwrap_or(0);
            if host_port != port.container_port && (spec.owner == Owner::Pod || host_port != 0) {
                let path = path.index(index).child("ports").index(port_index).child("hostPort");
                let detail = "must match `containerPort` when `hostNetwork` is true";
                errors.push(FieldError::invalid(&path, host_port, detail));
            }
        }
    }
}
