//! Pods: what they have beyond a template.
//!
//! Source: kubernetes v1.36, `pkg/apis/core/v1/defaults.go` (`SetDefaults_Pod`) and
//! `pkg/apis/core/validation/validation.go` (`ValidatePodCreate`, `ValidatePodUpdate`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as QuantityText;

use super::field::{FieldError, Path};
use super::metadata::{self, Scope};
use super::names;
use super::pod_template::{self, Owner, aggregate_requests};

const FIXED_SPEC: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
    `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
    tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Completes a pod: all of a template's defaults, and those that a template leaves open.
pub fn default(pod: &mut Pod) {
    let spec = pod.spec.get_or_insert_default();
    pod_template::default_spec(spec);
    default_pod_only(spec);
}

/// The defaults that only pods get. Whoever makes a pod of a template applies them, or its quality of service, its
/// requests and its host ports come out wrong. The template's own defaults must have been applied.
pub fn default_pod_only(spec: &mut PodSpec) {
    let host_network = spec.host_network == Some(true);
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        request_limits(container);
        if host_network {
            for port in container.ports.iter_mut().flatten() {
                port.host_port.get_or_insert(port.container_port);
            }
        }
    }
    default_pod_requests(spec);
    spec.enable_service_links.get_or_insert(true);
}

/// What has a limit and no request is requested as far as the limit goes.
fn request_limits(container: &mut Container) {
    let Some(resources) = &mut container.resources else { return };
    for (name, limit) in resources.limits.iter().flatten() {
        resources.requests.get_or_insert_default().entry(name.clone()).or_insert_with(|| limit.clone());
    }
}

/// With limits for the whole pod, what it requests follows from its containers, else from those limits.
fn default_pod_requests(spec: &mut PodSpec) {
    let asked = aggregate_requests(spec);
    let Some(resources) = &mut spec.resources else { return };
    let Some(limits) = resources.limits.as_ref().filter(|limits| !limits.is_empty()) else { return };
    let requests: &mut BTreeMap<String, QuantityText> = resources.requests.get_or_insert_default();
    for name in ["cpu", "memory"] {
        if let Some(asked) = asked.get(name) {
            requests.entry(name.to_owned()).or_insert_with(|| QuantityText(asked.to_string()));
        }
    }
    for (name, limit) in limits {
        requests.entry(name.clone()).or_insert_with(|| limit.clone());
    }
}

/// Everything wrong with a defaulted new pod; empty when it is valid.
pub fn validate(pod: &Pod) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let path = Path::new("spec");
    validate_parts(pod, &path, &mut errors);
    let Some(spec) = &pod.spec else { return errors };
    if spec.ephemeral_containers.as_ref().is_some_and(|containers| !containers.is_empty()) {
        errors.push(FieldError::forbidden(&path.child("ephemeralContainers"), "cannot be set on create"));
    }
    let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
    if gated && spec.node_name.is_some() {
        let detail = "cannot be set until all schedulingGates have been cleared";
        errors.push(FieldError::forbidden(&path.child("nodeName"), detail));
    }
    errors
}

fn validate_parts(pod: &Pod, path: &Path, errors: &mut Vec<FieldError>) {
    metadata::validate(&pod.metadata, Scope::Namespaced, names::dns_subdomain, errors);
    let nothing = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&nothing);
    pod_template::validate_spec(spec, Owner::Pod, path, errors);
    if spec.service_account_name.is_some() {
        return;
    }
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        let sources = volume.projected.as_ref().and_then(|projected| projected.sources.as_ref());
        for (source_index, source) in sources.into_iter().flatten().enumerate() {
            if source.service_account_token.is_some() {
                let path = path.child("volumes").index(index).child("projected.sources").index(source_index);
                let detail = "must not be specified when serviceAccountName is not set";
                errors.push(FieldError::forbidden(&path.child("serviceAccountToken"), detail));
            }
        }
    }
}

/// Everything wrong with containers that are added to a pod while it runs.
///
/// Source: kubernetes v1.36, `ValidatePodEphemeralContainersUpdate`.
pub fn validate_ephemeral_update(new: &Pod, old: &Pod) -> Vec<FieldError> {
    let mut errors = Vec::new();
    metadata::validate_update(&new.metadata, &old.metadata, &mut errors);
    let path = Path::new("spec.ephemeralContainers");
    let nothing = PodSpec::default();
    let (new, old) = (new.spec.as_ref().unwrap_or(&nothing), old.spec.as_ref().unwrap_or(&nothing));
    pod_template::validate_ephemeral(new, &path, &mut errors);
    for old in old.ephemeral_containers.iter().flatten() {
        let verb = match new.ephemeral_containers.iter().flatten().find(|new| new.name == old.name) {
            Some(new) if new == old => continue,
            Some(_) => "changed",
            None => "removed",
        };
        let detail = format!("existing ephemeral containers {:?} may not be {verb}", old.name);
        errors.push(FieldError::forbidden(&path, detail));
    }
    errors
}

/// Everything wrong with a user's change of a pod. Ephemeral containers are not changed this way; status is not looked at.
pub fn validate_update(new: &Pod, old: &Pod) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let path = Path::new("spec");
    metadata::validate_update(&new.metadata, &old.metadata, &mut errors);
    validate_parts(new, &path, &mut errors);
    let (Some(new), Some(old)) = (&new.spec, &old.spec) else { return errors };
    if new.containers.len() != old.containers.len() {
        errors.push(FieldError::forbidden(&path.child("containers"), "pod updates may not add or remove containers"));
        return errors;
    }
    if new.init_containers.as_ref().map(Vec::len) != old.init_containers.as_ref().map(Vec::len) {
        errors
            .push(FieldError::forbidden(&path.child("initContainers"), "pod updates may not add or remove containers"));
        return errors;
    }
    validate_deadline(new.active_deadline_seconds, old.active_deadline_seconds, &path, &mut errors);
    if !only_added(new.tolerations.as_deref(), old.tolerations.as_deref()) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden(&path.child("tolerations"), detail));
    }
    if with_changeable_fields_of(new, old) != *old {
        errors.push(FieldError::forbidden(&path, FIXED_SPEC));
    }
    errors
}

fn validate_deadline(new: Option<i64>, old: Option<i64>, path: &Path, errors: &mut Vec<FieldError>) {
    let path = path.child("activeDeadlineSeconds");
    match (new, old) {
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            errors.push(FieldError::invalid(&path, serde_json::Value::Null, detail));
        }
        (Some(new), Some(old)) if new > old => {
            errors.push(FieldError::invalid(&path, new, "must be less than or equal to previous value"));
        }
        _ => {}
    }
}

fn only_added(new: Option<&[Toleration]>, old: Option<&[Toleration]>) -> bool {
    let timeless = |toleration: &Toleration| Toleration { toleration_seconds: None, ..toleration.clone() };
    let new: Vec<Toleration> = new.unwrap_or_default().iter().map(timeless).collect();
    old.unwrap_or_default().iter().all(|old| new.contains(&timeless(old)))
}

/// `new`, with everything a user may change as it was in `old`.
fn with_changeable_fields_of(new: &PodSpec, old: &PodSpec) -> PodSpec {
    let mut spec = new.clone();
    let containers = spec.containers.iter_mut().zip(&old.containers);
    let init = spec.init_containers.iter_mut().flatten().zip(old.init_containers.iter().flatten());
    for (container, old) in containers.chain(init) {
        container.image.clone_from(&old.image);
    }
    spec.active_deadline_seconds = old.active_deadline_seconds;
    spec.tolerations.clone_from(&old.tolerations);
    let (new_grace, old_grace) = (new.termination_grace_period_seconds, old.termination_grace_period_seconds);
    if new_grace == Some(1) && old_grace.is_some_and(|seconds| seconds < 0) {
        spec.termination_grace_period_seconds = old_grace;
    }
    spec
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: &Value) -> Pod {
        let mut object = json!({
            "metadata": {"name": "a", "namespace": "default"},
            "spec": {"containers": [{"name": "a", "image": "a:1"}]},
        });
        object["spec"].as_object_mut().expect("an object").extend(spec.as_object().expect("an object").clone());
        let mut pod = serde_json::from_value(object).expect("a pod");
        default(&mut pod);
        pod
    }

    fn texts(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_pod_gets_what_its_template_left_open() {
        let container = |limits: Value| {
            json!({
                "name": "a", "image": "a:1", "ports": [{"containerPort": 80}],
                "resources": {"limits": limits, "requests": {"cpu": "100m"}},
            })
        };
        let pod = json!(pod(&json!({
            "hostNetwork": true,
            "containers": [container(json!({"cpu": "1", "memory": "1Gi"}))],
            "initContainers": [container(json!({"memory": "2Gi"}))],
            "resources": {"limits": {"cpu": "2", "memory": "4Gi"}},
        })));
        let spec = &pod["spec"];
        assert_eq!(spec["containers"][0]["resources"]["requests"], json!({"cpu": "100m", "memory": "1Gi"}));
        assert_eq!(spec["containers"][0]["ports"][0]["hostPort"], 80);
        assert_eq!(spec["initContainers"][0]["resources"]["requests"], json!({"cpu": "100m", "memory": "2Gi"}));
        assert_eq!(spec["resources"]["requests"], json!({"cpu": "100m", "memory": "2Gi"}));
        assert_eq!(spec["enableServiceLinks"], true);
    }

    #[test]
    fn some_rules_hold_for_pods_only() {
        for (spec, expected) in [
            (json!({}), vec![]),
            (
                json!({"containers": [{"name": "a", "image": " a"}]}),
                vec!["spec.containers[0].image: Invalid value: \" a\": must not have leading or trailing whitespace"],
            ),
            (
                json!({"volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}),
                vec![
                    "spec.volumes[0].projected.sources[0].serviceAccountToken: Forbidden: must not be specified when \
                     serviceAccountName is not set",
                ],
            ),
            (
                json!({"ephemeralContainers": [{"name": "e"}]}),
                vec!["spec.ephemeralContainers: Forbidden: cannot be set on create"],
            ),
            (
                json!({"nodeName": "n", "schedulingGates": [{"name": "g"}]}),
                vec!["spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared"],
            ),
        ] {
            assert_eq!(texts(&validate(&pod(&spec))), expected, "{spec}");
        }
    }

    #[test]
    fn a_pod_can_change_only_a_little() {
        let old = pod(&json!({"tolerations": [{"key": "a", "operator": "Exists"}], "activeDeadlineSeconds": 60}));
        let toleration = |key: &str| json!({"key": key, "operator": "Exists"});
        for (spec, expected) in [
            (json!({"activeDeadlineSeconds": 30, "tolerations": [toleration("a"), toleration("b")]}), vec![]),
            (
                json!({
                    "activeDeadlineSeconds": 60, "tolerations": [toleration("a")],
                    "containers": [{"name": "a", "image": "a:2", "imagePullPolicy": "IfNotPresent"}],
                }),
                vec![],
            ),
            (
                json!({"activeDeadlineSeconds": 90, "tolerations": [toleration("b")]}),
                vec![
                    "spec.activeDeadlineSeconds: Invalid value: 90: must be less than or equal to previous value",
                    "spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds",
                ],
            ),
            (
                json!({"activeDeadlineSeconds": 60, "tolerations": [toleration("a")], "containers": [
                    {"name": "a", "image": "a:1"}, {"name": "b", "image": "b:1"},
                ]}),
                vec!["spec.containers: Forbidden: pod updates may not add or remove containers"],
            ),
        ] {
            assert_eq!(texts(&validate_update(&pod(&spec), &old)), expected, "{spec}");
        }
        let mut moved = old.clone();
        moved.spec.as_mut().expect("a spec").hostname = Some("other".to_owned());
        let errors = texts(&validate_update(&moved, &old));
        assert!(
            errors.len() == 1 && errors[0].starts_with("spec: Forbidden: pod updates may not change"),
            "{errors:?}"
        );
    }
}
