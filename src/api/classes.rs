//! PriorityClass and RuntimeClass: defaults and rules. What a class means for a pod says [`admission`](super::admission).
//!
//! Source: kubernetes v1.36, `pkg/apis/scheduling/v1/{defaults,helpers}.go`, `pkg/apis/scheduling/validation/validation.go`,
//! `pkg/apis/node/validation/validation.go`.

use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::field::{FieldError, Path};
use super::metadata::{self, Scope, immutable, invalid_each, validate_labels};
use super::names;
use super::pod_template::resources::validate_overhead;
use super::pod_template::scheduling::validate_tolerations;

/// The preemption policy of a class that names none.
pub(super) const PREEMPT: &str = "PreemptLowerPriority";
const PREEMPTION_POLICIES: [&str; 2] = [PREEMPT, "Never"];

/// Names that begin so are the system's own.
const SYSTEM_PREFIX: &str = "system-";
const USERS_HIGHEST_PRIORITY: i32 = 1_000_000_000;

/// The classes every Kubernetes has: name, value, description.
const SYSTEM_CLASSES: [(&str, i32, &str); 2] = [
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
];

/// The classes every Kubernetes has, as objects to begin with.
pub fn system_priority_classes() -> impl Iterator<Item = PriorityClass> {
    SYSTEM_CLASSES.into_iter().map(|(name, value, description)| PriorityClass {
        description: Some(description.to_owned()),
        global_default: None,
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        preemption_policy: Some(PREEMPT.to_owned()),
        value: Some(value),
    })
}

// === PriorityClass ===

/// Completes a PriorityClass.
pub fn default_priority_class(class: &mut PriorityClass) {
    class.preemption_policy.get_or_insert_with(|| PREEMPT.to_owned());
    class.global_default = class.global_default.filter(|is_default| *is_default);
    class.value.get_or_insert(0);
}

/// Everything wrong with a new PriorityClass.
pub fn validate_priority_class(class: &PriorityClass) -> Vec<FieldError> {
    let mut errors = Vec::new();
    metadata::validate(&class.metadata, Scope::Cluster, names::dns_subdomain, &mut errors);
    let name = class.metadata.name.as_deref().unwrap_or_default();
    if name.starts_with(SYSTEM_PREFIX) {
        if let Err(why) = known_system_class(name, class) {
            let detail = format!(
                "priority class names with '{SYSTEM_PREFIX}' prefix are reserved for system use only. error: {why}"
            );
            errors.push(FieldError::forbidden(&Path::new("metadata.name"), detail));
        }
    } else if class.value.is_some_and(|value| value > USERS_HIGHEST_PRIORITY) {
        let detail = format!("maximum allowed value of a user defined priority is {USERS_HIGHEST_PRIORITY}");
        errors.push(FieldError::forbidden(&Path::new("value"), detail));
    }
    let policy = class.preemption_policy.as_deref().unwrap_or_default();
    let path = Path::new("preemptionPolicy");
    if policy.is_empty() {
        errors.push(FieldError::required(&path, ""));
    } else if !PREEMPTION_POLICIES.contains(&policy) {
        errors.push(FieldError::not_supported(&path, policy, &PREEMPTION_POLICIES));
    }
    errors
}

fn known_system_class(name: &str, class: &PriorityClass) -> Result<(), String> {
    let Some((_, value, _)) = SYSTEM_CLASSES.iter().find(|(known, ..)| *known == name) else {
        return Err(format!("{name} is not a known system priority class"));
    };
    if class.value != Some(*value) {
        return Err(format!("value of {name} PriorityClass must be {value}"));
    }
    if class.global_default == Some(true) {
        return Err(format!("globalDefault of {name} PriorityClass must be false"));
    }
    Ok(())
}

/// Everything wrong with a change of a PriorityClass.
pub fn validate_priority_class_update(new: &PriorityClass, old: &PriorityClass) -> Vec<FieldError> {
    let mut errors = Vec::new();
    metadata::validate_update(&new.metadata, &old.metadata, &mut errors);
    if new.value != old.value {
        errors.push(FieldError::forbidden(&Path::new("value"), "may not be changed in an update."));
    }
    let path = Path::new("preemptionPolicy");
    immutable(&path, &new.preemption_policy, &old.preemption_policy, &mut errors);
    errors
}

// === RuntimeClass ===

/// Everything wrong with a new RuntimeClass.
pub fn validate_runtime_class(class: &RuntimeClass) -> Vec<FieldError> {
    let mut errors = Vec::new();
    metadata::validate(&class.metadata, Scope::Cluster, names::dns_subdomain, &mut errors);
    invalid_each(&Path::new("handler"), &class.handler, names::dns_label(&class.handler), &mut errors);
    if let Some(overhead) = class.overhead.as_ref().and_then(|overhead| overhead.pod_fixed.as_ref()) {
        validate_overhead(overhead, &Path::new("overhead"), &mut errors);
    }
    if let Some(scheduling) = &class.scheduling {
        let path = Path::new("scheduling");
        validate_labels(scheduling.node_selector.as_ref(), &path.child("nodeSelector"), &mut errors);
        let tolerations = scheduling.tolerations.as_deref().unwrap_or_default();
        validate_tolerations(tolerations, &path.child("tolerations"), &mut errors);
    }
    errors
}

/// Everything wrong with a change of a RuntimeClass.
pub fn validate_runtime_class_update(new: &RuntimeClass, old: &RuntimeClass) -> Vec<FieldError> {
    let mut errors = Vec::new();
    metadata::validate_update(&new.metadata, &old.metadata, &mut errors);
    immutable(&Path::new("handler"), &new.handler, &old.handler, &mut errors);
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn priority(fields: &Value) -> PriorityClass {
        let mut object = json!({"metadata": {"name": "gold"}, "value": 5});
        object.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let mut class = serde_json::from_value(object).unwrap();
        default_priority_class(&mut class);
        class
    }

    fn texts(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_rule_of_a_priority_class() {
        let reserved = |why: &str| {
            vec![format!(
                "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: \
                 {why}"
            )]
        };
        let named = |name: &str| json!({"name": name});
        let cases = [
            (json!({"globalDefault": false, "preemptionPolicy": "Never"}), vec![]),
            (json!({"value": -5}), vec![]),
            (
                json!({"value": 1_000_000_001}),
                vec!["value: Forbidden: maximum allowed value of a user defined priority is 1000000000".to_owned()],
            ),
            (
                json!({"preemptionPolicy": "Always"}),
                vec![
                    "preemptionPolicy: Unsupported value: \"Always\": supported values: \"PreemptLowerPriority\", \"Never\""
                        .to_owned(),
                ],
            ),
            (json!({"preemptionPolicy": ""}), vec!["preemptionPolicy: Required value".to_owned()]),
            (
                json!({"metadata": named("system-mine")}),
                reserved("system-mine is not a known system priority class"),
            ),
            (
                json!({"metadata": named("system-node-critical")}),
                reserved("value of system-node-critical PriorityClass must be 2000001000"),
            ),
            (
                json!({"metadata": named("system-node-critical"), "value": 2_000_001_000, "globalDefault": true}),
                reserved("globalDefault of system-node-critical PriorityClass must be false"),
            ),
        ];
        for (fields, expected) in cases {
            assert_eq!(texts(&validate_priority_class(&priority(&fields))), expected, "{fields}");
        }
        for class in system_priority_classes() {
            assert_eq!(validate_priority_class(&class), []);
        }
        assert_eq!(
            texts(&validate_priority_class_update(
                &priority(&json!({"value": 6, "preemptionPolicy": "Never", "globalDefault": true})),
                &priority(&json!({})),
            )),
            [
                "value: Forbidden: may not be changed in an update.",
                "preemptionPolicy: Invalid value: \"Never\": field is immutable",
            ]
        );
    }

    #[test]
    fn each_rule_of_a_runtime_class() {
        let class = |fields: Value| -> RuntimeClass {
            let mut object = json!({"metadata": {"name": "gvisor"}, "handler": "runsc"});
            object.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            serde_json::from_value(object).unwrap()
        };
        let good = class(json!({
            "overhead": {"podFixed": {"memory": "64Mi"}},
            "scheduling": {"nodeSelector": {"runsc": "true"}, "tolerations": [{"operator": "Exists"}]},
        }));
        assert_eq!(validate_runtime_class(&good), []);
        let bad = class(json!({
            "handler": "",
            "overhead": {"podFixed": {"memory": "-1"}},
            "scheduling": {"nodeSelector": {"-": "x"}, "tolerations": [{"operator": "Maybe", "key": "a"}]},
        }));
        let fields: Vec<_> = validate_runtime_class(&bad).iter().map(|error| error.field.to_string()).collect();
        assert_eq!(
            fields,
            ["handler", "overhead.limits[memory]", "scheduling.nodeSelector", "scheduling.tolerations[0].operator",]
        );
        assert_eq!(
            texts(&validate_runtime_class_update(&class(json!({"handler": "kata"})), &good)),
            ["handler: Invalid value: \"kata\": field is immutable"]
        );
    }
}
