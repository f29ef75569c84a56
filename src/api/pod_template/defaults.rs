//! Defaults of pod templates and of pods.
//!
//! Source: kubernetes v1.36, `pkg/apis/core/v1/defaults.go`. What Go cannot tell from absence (`false`, `0`, `""` and
//! empty lists in fields that are no pointers) is left out, so that writing it or not gives the same template.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, EnvVar, EphemeralContainer, HTTPGetAction, LifecycleHandler, ObjectFieldSelector, PodSpec,
    PodTemplateSpec, Probe, ResourceRequirements, Volume, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as QuantityText;

use crate::api::quantity::Quantity;

/// `defaultMode` of files in volumes: 0644.
const FILE_MODE: i32 = 0o644;
const GRACE_PERIOD_SECS: i64 = 30;
const TOKEN_EXPIRATION_SECS: i64 = 3600;

/// Completes a template. Doing it twice changes nothing.
pub fn default_template(template: &mut PodTemplateSpec) {
    if let Some(metadata) = &mut template.metadata {
        unset_zero(&mut metadata.labels);
        unset_zero(&mut metadata.annotations);
        unset_zero(&mut metadata.name);
        unset_zero(&mut metadata.namespace);
    }
    default_spec(template.spec.get_or_insert_default());
}

/// Completes a pod's spec as far as a template's is.
pub fn default_spec(spec: &mut PodSpec) {
    unset_zeroes(spec);
    set(&mut spec.dns_policy, "ClusterFirst");
    set(&mut spec.restart_policy, "Always");
    set(&mut spec.scheduler_name, "default-scheduler");
    spec.security_context.get_or_insert_default();
    spec.termination_grace_period_seconds.get_or_insert(GRACE_PERIOD_SECS);
    // The old name of the field, still shown beside the new one.
    if spec.service_account_name.is_none() {
        spec.service_account_name = spec.service_account.clone();
    }
    spec.service_account = spec.service_account_name.clone();
    spec.volumes.iter_mut().flatten().for_each(default_volume);
    spec.containers.iter_mut().for_each(default_container);
    spec.init_containers.iter_mut().flatten().for_each(default_container);
    spec.ephemeral_containers.iter_mut().flatten().for_each(default_ephemeral);
    spec.resources.iter_mut().for_each(round_quantities);
    spec.overhead.iter_mut().for_each(round_up);
}

fn unset_zeroes(spec: &mut PodSpec) {
    for flag in [&mut spec.host_network, &mut spec.host_pid, &mut spec.host_ipc] {
        unset_zero(flag);
    }
    for text in [
        &mut spec.dns_policy,
        &mut spec.hostname,
        &mut spec.node_name,
        &mut spec.priority_class_name,
        &mut spec.restart_policy,
        &mut spec.scheduler_name,
        &mut spec.service_account,
        &mut spec.service_account_name,
        &mut spec.subdomain,
    ] {
        unset_zero(text);
    }
    unset_zero(&mut spec.node_selector);
}

/// `Some` of a zero value is what Go would leave out.
fn unset_zero<T: Default + PartialEq>(field: &mut Option<T>) {
    if field.as_ref().is_some_and(|value| *value == T::default()) {
        *field = None;
    }
}

fn set(field: &mut Option<String>, default: &str) {
    unset_zero(field);
    field.get_or_insert_with(|| default.to_owned());
}

fn set_number(field: &mut Option<i32>, default: i32) {
    unset_zero(field);
    field.get_or_insert(default);
}

// === volumes ===

fn default_volume(volume: &mut Volume) {
    if *volume == (Volume { name: volume.name.clone(), ..Volume::default() }) {
        volume.empty_dir = Some(Default::default());
    }
    if let Some(empty_dir) = &mut volume.empty_dir {
        unset_zero(&mut empty_dir.medium);
    }
    if let Some(host_path) = &mut volume.host_path {
        host_path.type_.get_or_insert_default();
    }
    if let Some(secret) = &mut volume.secret {
        secret.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(config_map) = &mut volume.config_map {
        config_map.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(downward) = &mut volume.downward_api {
        downward.default_mode.get_or_insert(FILE_MODE);
        downward.items.iter_mut().flatten().filter_map(|file| file.field_ref.as_mut()).for_each(default_field_ref);
    }
    if let Some(projected) = &mut volume.projected {
        projected.default_mode.get_or_insert(FILE_MODE);
        projected.sources.iter_mut().flatten().for_each(default_projection);
    }
    if let Some(image) = &mut volume.image {
        set(&mut image.pull_policy, pull_policy(image.reference.as_deref().unwrap_or_default()));
    }
}

fn default_projection(source: &mut VolumeProjection) {
    if let Some(token) = &mut source.service_account_token {
        token.expiration_seconds.get_or_insert(TOKEN_EXPIRATION_SECS);
    }
    if let Some(downward) = &mut source.downward_api {
        downward.items.iter_mut().flatten().filter_map(|file| file.field_ref.as_mut()).for_each(default_field_ref);
    }
}

fn default_field_ref(field_ref: &mut ObjectFieldSelector) {
    set(&mut field_ref.api_version, "v1");
}

// === containers ===

fn default_ephemeral(container: &mut EphemeralContainer) {
    for flag in [&mut container.stdin, &mut container.stdin_once, &mut container.tty] {
        unset_zero(flag);
    }
    unset_zero(&mut container.working_dir);
    unset_zero(&mut container.target_container_name);
    let policy = pull_policy(container.image.as_deref().unwrap_or_default());
    set(&mut container.image_pull_policy, policy);
    set(&mut container.termination_message_path, "/dev/termination-log");
    set(&mut container.termination_message_policy, "File");
    container.env.iter_mut().flatten().for_each(default_env);
    if container.resources.as_ref().is_some_and(|resources| *resources == ResourceRequirements::default()) {
        container.resources = None;
    }
}

fn default_container(container: &mut Container) {
    for flag in [&mut container.stdin, &mut container.stdin_once, &mut container.tty] {
        unset_zero(flag);
    }
    unset_zero(&mut container.working_dir);
    let policy = pull_policy(container.image.as_deref().unwrap_or_default());
    set(&mut container.image_pull_policy, policy);
    set(&mut container.termination_message_path, "/dev/termination-log");
    set(&mut container.termination_message_policy, "File");
    for port in container.ports.iter_mut().flatten() {
        set(&mut port.protocol, "TCP");
        unset_zero(&mut port.host_port);
        unset_zero(&mut port.host_ip);
        unset_zero(&mut port.name);
    }
    for mount in container.volume_mounts.iter_mut().flatten() {
        unset_zero(&mut mount.read_only);
        unset_zero(&mut mount.sub_path);
        unset_zero(&mut mount.sub_path_expr);
    }
    container.env.iter_mut().flatten().for_each(default_env);
    for source in container.env_from.iter_mut().flatten() {
        unset_zero(&mut source.prefix);
    }
    let probes = [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe];
    probes.into_iter().flatten().for_each(default_probe);
    if let Some(lifecycle) = &mut container.lifecycle {
        [&mut lifecycle.post_start, &mut lifecycle.pre_stop].into_iter().flatten().for_each(default_handler);
    }
    container.resources.iter_mut().for_each(round_quantities);
}

/// `Always` for the tag `latest`, given or implied, else `IfNotPresent`.
fn pull_policy(image: &str) -> &'static str {
    let name = image.rsplit('/').next().unwrap_or_default();
    let tag = match name.split_once('@') {
        Some((name, _)) => name.split_once(':').map_or("", |(_, tag)| tag),
        None => name.split_once(':').map_or("latest", |(_, tag)| tag),
    };
    if tag == "latest" { "Always" } else { "IfNotPresent" }
}

fn default_env(env: &mut EnvVar) {
    unset_zero(&mut env.value);
    let Some(source) = &mut env.value_from else { return };
    source.field_ref.iter_mut().for_each(default_field_ref);
    if let Some(file) = &mut source.file_key_ref {
        file.optional.get_or_insert(false);
    }
}

fn default_probe(probe: &mut Probe) {
    unset_zero(&mut probe.initial_delay_seconds);
    set_number(&mut probe.timeout_seconds, 1);
    set_number(&mut probe.period_seconds, 10);
    set_number(&mut probe.success_threshold, 1);
    set_number(&mut probe.failure_threshold, 3);
    probe.http_get.iter_mut().for_each(default_http_get);
    if let Some(grpc) = &mut probe.grpc {
        grpc.service.get_or_insert_default();
    }
}

fn default_handler(handler: &mut LifecycleHandler) {
    handler.http_get.iter_mut().for_each(default_http_get);
}

fn default_http_get(http_get: &mut HTTPGetAction) {
    set(&mut http_get.path, "/");
    set(&mut http_get.scheme, "HTTP");
    unset_zero(&mut http_get.host);
}

// === quantities ===

fn round_quantities(resources: &mut ResourceRequirements) {
    unset_zero(&mut resources.limits);
    unset_zero(&mut resources.requests);
    [&mut resources.limits, &mut resources.requests].into_iter().flatten().for_each(round_up);
}

/// Canonical, and nothing finer than thousandths. What is no quantity stays for validation to report.
fn round_up(quantities: &mut BTreeMap<String, QuantityText>) {
    for text in quantities.values_mut() {
        if let Ok(quantity) = text.0.parse::<Quantity>() {
            text.0 = quantity.rounded_to_milli().to_string();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pull_policy_follows_the_tag() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1", "IfNotPresent"),
            ("registry:5000/nginx", "Always"),
            ("registry:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:0", "IfNotPresent"),
            ("nginx:latest@sha256:0", "Always"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }
}
