//! DaemonSets: defaults and rules.
//!
//! Source: kubernetes v1.36, `pkg/apis/apps/v1/defaults.go` and `pkg/apis/apps/validation/validation.go`.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{
    DaemonSet, DaemonSetSpec, DaemonSetStatus, DaemonSetUpdateStrategy, RollingUpdateDaemonSet,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;

use super::field::{FieldError, Path};
use super::metadata::{self, Scope, immutable, nonnegative, validate_label_selector};
use super::selector::Selector;
use super::{names, pod_template};

/// The annotation that carries a DaemonSet's template generation; `apps/v1` has no field for it.
pub const TEMPLATE_GENERATION_ANNOTATION: &str = "deprecated.daemonset.template.generation";

const ROLLING_UPDATE: &str = "RollingUpdate";
const ON_DELETE: &str = "OnDelete";
const HISTORY_LIMIT: i32 = 10;

/// Completes a DaemonSet. Doing it twice changes nothing.
pub fn default(daemonset: &mut DaemonSet) {
    let spec = daemonset.spec.get_or_insert_default();
    pod_template::default_template(&mut spec.template);
    let strategy = spec.update_strategy.get_or_insert_default();
    let kind = strategy.type_.take().filter(|kind| !kind.is_empty()).unwrap_or_else(|| ROLLING_UPDATE.to_owned());
    if kind == ROLLING_UPDATE {
        let update = strategy.rolling_update.get_or_insert_default();
        update.max_unavailable.get_or_insert(IntOrString::Int(1));
        update.max_surge.get_or_insert(IntOrString::Int(0));
    }
    strategy.type_ = Some(kind);
    spec.revision_history_limit.get_or_insert(HISTORY_LIMIT);
    if spec.min_ready_seconds == Some(0) {
        spec.min_ready_seconds = None;
    }
}

/// Everything wrong with a defaulted DaemonSet; empty when it is valid.
///
/// A missing selector is reported as an empty one: upstream says that it does not match the template's labels.
pub fn validate(daemonset: &DaemonSet) -> Vec<FieldError> {
    let mut errors = Vec::new();
    metadata::validate(&daemonset.metadata, Scope::Namespaced, names::dns_subdomain, &mut errors);
    let nothing = DaemonSetSpec::default();
    validate_spec(daemonset.spec.as_ref().unwrap_or(&nothing), &Path::new("spec"), &mut errors);
    if template_generation(daemonset).is_some_and(|generation| generation < 0) {
        nonnegative(&Path::new("spec.templateGeneration"), -1, &mut errors);
    }
    errors
}

/// Everything wrong with a change of a valid `old` to a defaulted `new`.
pub fn validate_update(new: &DaemonSet, old: &DaemonSet) -> Vec<FieldError> {
    let mut errors = validate(new);
    metadata::validate_update(&new.metadata, &old.metadata, &mut errors);
    if let (Some(new), Some(old)) = (&new.spec, &old.spec) {
        immutable(&Path::new("spec.selector"), &new.selector, &old.selector, &mut errors);
    }
    errors
}

/// Everything wrong with a change of `status`.
pub fn validate_status_update(new: &DaemonSet, old: &DaemonSet) -> Vec<FieldError> {
    let mut errors = Vec::new();
    metadata::validate_update(&new.metadata, &old.metadata, &mut errors);
    let (path, nothing) = (Path::new("status"), DaemonSetStatus::default());
    let status = new.status.as_ref().unwrap_or(&nothing);
    for (name, count) in [
        ("currentNumberScheduled", status.current_number_scheduled),
        ("numberMisscheduled", status.number_misscheduled),
        ("desiredNumberScheduled", status.desired_number_scheduled),
        ("numberReady", status.number_ready),
        ("updatedNumberScheduled", status.updated_number_scheduled.unwrap_or(0)),
        ("numberAvailable", status.number_available.unwrap_or(0)),
        ("numberUnavailable", status.number_unavailable.unwrap_or(0)),
    ] {
        nonnegative(&path.child(name), count.into(), &mut errors);
    }
    nonnegative(&path.child("observedGeneration"), status.observed_generation.unwrap_or(0), &mut errors);
    let collisions_path = path.child("collisionCount");
    let collisions = status.collision_count.unwrap_or(0);
    nonnegative(&collisions_path, collisions.into(), &mut errors);
    if collisions < old.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0) {
        errors.push(FieldError::invalid(&collisions_path, collisions, "cannot be decremented"));
    }
    errors
}

fn validate_spec(spec: &DaemonSetSpec, path: &Path, errors: &mut Vec<FieldError>) {
    let selector_path = path.child("selector");
    validate_label_selector(&spec.selector, &selector_path, errors);
    let template_path = path.child("template");
    let labels = spec.template.metadata.as_ref().and_then(|metadata| metadata.labels.clone()).unwrap_or_default();
    if let Ok(selector) = Selector::from_object(&spec.selector) {
        if !selector.matches(&labels) {
            let detail = "`selector` does not match template `labels`";
            errors.push(FieldError::invalid(&template_path.child("metadata.labels"), json!(labels), detail));
        }
        if selector.is_empty() {
            let detail = "empty selector is invalid for daemonset";
            errors.push(FieldError::invalid(&selector_path, json!(spec.selector), detail));
        }
    }
    pod_template::validate(&spec.template, &template_path, errors);
    let pod = spec.template.spec.as_ref();
    let restart_policy = pod.and_then(|pod| pod.restart_policy.as_deref()).unwrap_or_default();
    if restart_policy != "Always" {
        let path = template_path.child("spec.restartPolicy");
        errors.push(FieldError::not_supported(&path, restart_policy, &["Always"]));
    }
    if pod.is_some_and(|pod| pod.active_deadline_seconds.is_some()) {
        let path = template_path.child("spec.activeDeadlineSeconds");
        errors.push(FieldError::forbidden(&path, "activeDeadlineSeconds in DaemonSet is not Supported"));
    }
    nonnegative(&path.child("minReadySeconds"), spec.min_ready_seconds.unwrap_or(0).into(), errors);
    let nothing = DaemonSetUpdateStrategy::default();
    let strategy = spec.update_strategy.as_ref().unwrap_or(&nothing);
    validate_strategy(strategy, &path.child("updateStrategy"), errors);
    nonnegative(&path.child("revisionHistoryLimit"), spec.revision_history_limit.unwrap_or(0).into(), errors);
}

fn validate_strategy(strategy: &DaemonSetUpdateStrategy, path: &Path, errors: &mut Vec<FieldError>) {
    match strategy.type_.as_deref().unwrap_or_default() {
        ON_DELETE => {}
        ROLLING_UPDATE => match &strategy.rolling_update {
            Some(update) => validate_rolling_update(update, &path.child("rollingUpdate"), errors),
            None => errors.push(FieldError::required(&path.child("rollingUpdate"), "")),
        },
        // Upstream prints its internal type here, whose fields begin with a capital.
        other => {
            let value = json!({"Type": other, "RollingUpdate": strategy.rolling_update});
            errors.push(FieldError::not_supported(path, value, &[ROLLING_UPDATE, ON_DELETE]));
        }
    }
}

fn validate_rolling_update(update: &RollingUpdateDaemonSet, path: &Path, errors: &mut Vec<FieldError>) {
    let none = IntOrString::Int(0);
    let unavailable = update.max_unavailable.as_ref().unwrap_or(&none);
    let surge = update.max_surge.as_ref().unwrap_or(&none);
    let (unavailable_path, surge_path) = (path.child("maxUnavailable"), path.child("maxSurge"));
    validate_count(unavailable, &unavailable_path, errors);
    validate_count(surge, &surge_path, errors);
    validate_share(unavailable, &unavailable_path, errors);
    validate_share(surge, &surge_path, errors);
    match (leading_number(unavailable), leading_number(surge)) {
        (0, 0) => errors.push(FieldError::required(&unavailable_path, "cannot be 0 when maxSurge is 0")),
        (0, _) | (_, 0) => {}
        _ => {
            let detail = "may not be set when maxUnavailable is non-zero";
            errors.push(FieldError::invalid(&surge_path, json!(surge), detail));
        }
    }
}

/// A number that is not negative, or a percentage.
fn validate_count(value: &IntOrString, path: &Path, errors: &mut Vec<FieldError>) {
    match value {
        IntOrString::Int(number) => nonnegative(path, (*number).into(), errors),
        IntOrString::String(text) => metadata::invalid_each(path, text, names::percent(text), errors),
    }
}

/// If it is a percentage, not more than all.
fn validate_share(value: &IntOrString, path: &Path, errors: &mut Vec<FieldError>) {
    if let IntOrString::String(text) = value
        && leading_number(value) > 100
    {
        errors.push(FieldError::invalid(path, text.as_str(), "must not be greater than 100%"));
    }
}

/// The number, or the number of a percentage, cut to what fits; 0 for other text.
pub fn leading_number(value: &IntOrString) -> i32 {
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) if names::percent(text).is_empty() => {
            text.trim_end_matches('%').parse().unwrap_or(i32::MAX)
        }
        IntOrString::String(_) => 0,
    }
}

/// Whether a DaemonSet selects pods with these labels, in its namespace. One that would select all selects none.
pub fn selects(daemonset: &DaemonSet, labels: &BTreeMap<String, String>) -> bool {
    let selector = daemonset.spec.as_ref().and_then(|spec| Selector::from_object(&spec.selector).ok());
    selector.is_some_and(|selector| !selector.is_empty() && selector.matches(labels))
}

/// What the annotation says; `None` without it, or if it is no number.
pub fn template_generation(daemonset: &DaemonSet) -> Option<i64> {
    daemonset.metadata.annotations.as_ref()?.get(TEMPLATE_GENERATION_ANNOTATION)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::DaemonSet;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::api::document::{Written, parse_yaml};
    use crate::api::strict::{Decoded, decode};

    fn base() -> Value {
        json!({
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {
                "selector": {"matchLabels": {"app": "web"}},
                "template": {
                    "metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "web", "image": "nginx:1"}]},
                },
            },
        })
    }

    /// The base with one field changed, by JSON pointer, defaulted.
    fn changed(pointer: &str, value: Value) -> DaemonSet {
        let mut object = base();
        let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
        let parent = object.pointer_mut(parent).expect("the parent").as_object_mut().expect("an object");
        parent.insert(name.to_owned(), value);
        let decoded: Decoded<DaemonSet> = decode(&Written::from(object)).expect("a DaemonSet");
        let mut daemonset = decoded.strict().expect("known fields");
        default(&mut daemonset);
        daemonset
    }

    fn texts(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_examples_are_valid_as_they_are() {
        for text in [
            include_str!("../../examples/fluentd.yaml"),
            include_str!("../../examples/gpu-monitor.yaml"),
            include_str!("../../examples/node-exporter.yaml"),
        ] {
            let documents = parse_yaml(text).expect("yaml");
            let mut daemonset: DaemonSet = decode(&documents[0].body).and_then(Decoded::strict).expect("a DaemonSet");
            daemonset.metadata.namespace.get_or_insert_with(|| "default".to_owned());
            default(&mut daemonset);
            assert_eq!(texts(&validate(&daemonset)), Vec::<String>::new());
        }
    }

    #[test]
    fn a_daemonset_is_completed_as_the_api_server_does() {
        let spec = json!(changed("/spec/minReadySeconds", json!(0)))["spec"].take();
        let expected = json!({
            "revisionHistoryLimit": 10,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "containers": [{
                        "image": "nginx:1",
                        "imagePullPolicy": "IfNotPresent",
                        "name": "web",
                        "terminationMessagePath": "/dev/termination-log",
                        "terminationMessagePolicy": "File",
                    }],
                    "dnsPolicy": "ClusterFirst",
                    "restartPolicy": "Always",
                    "schedulerName": "default-scheduler",
                    "securityContext": {},
                    "terminationGracePeriodSeconds": 30,
                },
            },
            "updateStrategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}, "type": "RollingUpdate"},
        });
        assert_eq!(spec, expected);
        let on_delete = changed("/spec/updateStrategy", json!({"type": "OnDelete"}));
        assert_eq!(json!(on_delete)["spec"]["updateStrategy"], json!({"type": "OnDelete"}));
    }

    #[test]
    fn each_rule_of_a_daemonset_has_its_words() {
        let strategy = |update: Value| json!({"type": "RollingUpdate", "rollingUpdate": update});
        for (pointer, value, expected) in [
            ("/spec/minReadySeconds", json!(1), vec![]),
            (
                "/spec/selector",
                json!({"matchLabels": {"app": "db"}}),
                vec![
                    "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template \
                     `labels`",
                ],
            ),
            (
                "/spec/selector",
                json!({}),
                vec!["spec.selector: Invalid value: {}: empty selector is invalid for daemonset"],
            ),
            (
                "/spec/selector",
                json!({"matchExpressions": [{"key": "app", "operator": "In"}]}),
                vec![
                    "spec.selector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or \
                     'NotIn'",
                    "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template \
                     `labels`",
                ],
            ),
            (
                "/spec/template/spec/restartPolicy",
                json!("Never"),
                vec!["spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""],
            ),
            (
                "/spec/template/spec/activeDeadlineSeconds",
                json!(5),
                vec![
                    "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in DaemonSet is not Supported",
                ],
            ),
            (
                "/spec/minReadySeconds",
                json!(-1),
                vec!["spec.minReadySeconds: Invalid value: -1: must be greater than or equal to 0"],
            ),
            (
                "/spec/revisionHistoryLimit",
                json!(-1),
                vec!["spec.revisionHistoryLimit: Invalid value: -1: must be greater than or equal to 0"],
            ),
            (
                "/spec/updateStrategy",
                json!({"type": "Recreate"}),
                vec![
                    "spec.updateStrategy: Unsupported value: {\"RollingUpdate\":null,\"Type\":\"Recreate\"}: supported values: \
                     \"RollingUpdate\", \"OnDelete\"",
                ],
            ),
            ("/spec/updateStrategy", strategy(json!({"maxUnavailable": "10%"})), vec![]),
            ("/spec/updateStrategy", strategy(json!({"maxUnavailable": 0, "maxSurge": "100%"})), vec![]),
            (
                "/spec/updateStrategy",
                strategy(json!({"maxSurge": 1})),
                vec![
                    "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is \
                     non-zero",
                ],
            ),
            (
                "/spec/updateStrategy",
                strategy(json!({"maxUnavailable": "0%"})),
                vec![
                    "spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0",
                ],
            ),
            (
                "/spec/updateStrategy",
                strategy(json!({"maxUnavailable": -1})),
                vec![
                    "spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: -1: must be greater than or equal to 0",
                ],
            ),
            (
                "/spec/updateStrategy",
                strategy(json!({"maxUnavailable": "101%"})),
                vec![
                    "spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%",
                ],
            ),
            (
                "/spec/updateStrategy",
                strategy(json!({"maxUnavailable": "ten"})),
                vec![
                    "spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: \"ten\": a valid percent string must be a \
                     numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
                    "spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0",
                ],
            ),
        ] {
            assert_eq!(texts(&validate(&changed(pointer, value.clone()))), expected, "{pointer} {value}");
        }
    }

    #[test]
    fn a_selector_never_changes() {
        let old = changed("/spec/minReadySeconds", json!(1));
        assert_eq!(validate_update(&old, &old), []);
        let mut new = changed("/spec/selector", json!({"matchLabels": {"tier": "a"}}));
        let labels = new.spec.as_mut().and_then(|spec| spec.template.metadata.as_mut()).expect("metadata");
        labels.labels.get_or_insert_default().insert("tier".to_owned(), "a".to_owned());
        assert_eq!(
            texts(&validate_update(&new, &old)),
            ["spec.selector: Invalid value: {\"matchLabels\":{\"tier\":\"a\"}}: field is immutable"]
        );
    }

    #[test]
    fn a_status_counts_up_from_zero() {
        let with = |status: Value| changed("/status", status);
        let counters = json!({
            "currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0,
            "collisionCount": 2,
        });
        let (old, mut fewer) = (with(counters.clone()), counters);
        fewer["collisionCount"] = json!(1);
        fewer["numberReady"] = json!(-1);
        assert_eq!(
            texts(&validate_status_update(&with(fewer), &old)),
            [
                "status.numberReady: Invalid value: -1: must be greater than or equal to 0",
                "status.collisionCount: Invalid value: 1: cannot be decremented",
            ]
        );
    }

    proptest! {
        #[test]
        fn completing_twice_changes_nothing(
            image in "[a-z]{1,5}(:[a-z0-9]{1,6})?(@sha256:0)?",
            zero in prop::sample::select(vec![Value::Null, json!(0), json!(1)]),
            flag in any::<Option<bool>>(),
            limit in "[0-9]{1,4}(\\.[0-9]{1,6})?(m|u|n|Ki|Mi|e3)?",
            volume in prop::sample::select(vec![
                json!({}), json!({"hostPath": {"path": "/"}}), json!({"configMap": {"name": "a"}}),
                json!({"projected": {"sources": [{"serviceAccountToken": {"path": "a"}}]}}), json!({"image": {"reference": "a"}}),
            ]),
        ) {
            let mut volume = volume;
            volume["name"] = json!("v");
            let container = json!({
                "name": "a", "image": image, "stdin": flag, "ports": [{"containerPort": 80, "hostPort": zero}],
                "resources": {"limits": {"memory": limit}, "requests": {}},
                "livenessProbe": {"httpGet": {"port": 80}, "periodSeconds": zero},
                "env": [{"name": "a", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            });
            let pod = json!({"containers": [container], "volumes": [volume], "hostNetwork": flag, "nodeSelector": {}});
            let once = changed("/spec/template/spec", pod);
            let mut twice = once.clone();
            default(&mut twice);
            prop_assert_eq!(once, twice);
        }
    }
}
