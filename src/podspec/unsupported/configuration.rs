//! Configuration: environment, mounts, and what volumes take from objects. All of it is realized.
//!
//! The structs are taken apart all the same, so that a field a newer Kubernetes adds is decided here.

use k8s_openapi::api::core::v1 as k8s;

pub(super) fn env(variable: &k8s::EnvVar) {
    let k8s::EnvVar { name: _, value: _, value_from } = variable;
    if let Some(k8s::EnvVarSource { config_map_key_ref, field_ref, file_key_ref, resource_field_ref, secret_key_ref }) =
        value_from
    {
        if let Some(k8s::ConfigMapKeySelector { key: _, name: _, optional: _ }) = config_map_key_ref {}
        if let Some(k8s::SecretKeySelector { key: _, name: _, optional: _ }) = secret_key_ref {}
        if let Some(k8s::FileKeySelector { key: _, optional: _, path: _, volume_name: _ }) = file_key_ref {}
        field_ref.iter().for_each(field);
        resource_field_ref.iter().for_each(resource);
    }
}

pub(super) fn env_from(source: &k8s::EnvFromSource) {
    let k8s::EnvFromSource { config_map_ref, prefix: _, secret_ref } = source;
    if let Some(k8s::ConfigMapEnvSource { name: _, optional: _ }) = config_map_ref {}
    if let Some(k8s::SecretEnvSource { name: _, optional: _ }) = secret_ref {}
}

fn field(reference: &k8s::ObjectFieldSelector) {
    let k8s::ObjectFieldSelector { api_version: _, field_path: _ } = reference;
}

fn resource(reference: &k8s::ResourceFieldSelector) {
    let k8s::ResourceFieldSelector { container_name: _, divisor: _, resource: _ } = reference;
}

pub(super) fn items(items: Option<&Vec<k8s::KeyToPath>>) {
    for k8s::KeyToPath { key: _, mode: _, path: _ } in items.into_iter().flatten() {}
}

pub(super) fn fields(items: Option<&Vec<k8s::DownwardAPIVolumeFile>>) {
    for k8s::DownwardAPIVolumeFile { field_ref, mode: _, path: _, resource_field_ref } in items.into_iter().flatten() {
        field_ref.iter().for_each(field);
        resource_field_ref.iter().for_each(resource);
    }
}

pub(super) fn mount(mount: &k8s::VolumeMount) {
    let k8s::VolumeMount {
        mount_path: _,
        mount_propagation: _,
        name: _,
        read_only: _,
        recursive_read_only: _,
        sub_path: _,
        sub_path_expr: _,
    } = mount;
}
