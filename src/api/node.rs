//! Nodes: rules for what users may say of one.
//!
//! Source: kubernetes v1.36, `pkg/apis/core/validation/validation.go`, `ValidateNode` and `ValidateNodeUpdate`.

use k8s_openapi::api::core::v1::{Node, NodeSpec, Taint};

use super::field::{FieldError, Path};
use super::metadata::{self, Scope, invalid_each, json};
use super::names;
use super::pod_template::scheduling::TAINT_EFFECTS;
use super::quantity::Quantity;

/// Everything wrong with a new node.
pub fn validate(node: &Node) -> Vec<FieldError> {
    let mut errors = Vec::new();
    metadata::validate(&node.metadata, Scope::Cluster, names::dns_subdomain, &mut errors);
    validate_parts(node, &mut errors);
    errors
}

/// Everything wrong with a change of a node, its status included.
pub fn validate_update(new: &Node, old: &Node) -> Vec<FieldError> {
    let mut errors = Vec::new();
    metadata::validate_update(&new.metadata, &old.metadata, &mut errors);
    let nothing = NodeSpec::default();
    let (new_spec, old_spec) = (new.spec.as_ref().unwrap_or(&nothing), old.spec.as_ref().unwrap_or(&nothing));
    let path = Path::new("spec");
    if old_spec.pod_cidrs.as_ref().is_some_and(|cidrs| !cidrs.is_empty()) && new_spec.pod_cidrs != old_spec.pod_cidrs {
        let detail = "node updates may not change podCIDR except from \"\" to valid";
        errors.push(FieldError::forbidden(&path.child("podCIDRs"), detail));
    }
    if old_spec.provider_id.as_ref().is_some_and(|id| !id.is_empty()) && new_spec.provider_id != old_spec.provider_id {
        let detail = "node updates may not change providerID except from \"\" to valid";
        errors.push(FieldError::forbidden(&path.child("providerID"), detail));
    }
    validate_parts(new, &mut errors);
    errors
}

fn validate_parts(node: &Node, errors: &mut Vec<FieldError>) {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    // The path is upstream's; the field is `spec.taints`.
    validate_taints(taints, &Path::new("metadata.taints"), errors);
    let Some(status) = &node.status else { return };
    for (name, amounts) in [("capacity", &status.capacity), ("allocatable", &status.allocatable)] {
        for (resource, text) in amounts.iter().flatten() {
            if text.0.parse::<Quantity>().map_or(true, Quantity::is_negative) {
                let path = Path::new("status").child(name).child(resource);
                errors.push(FieldError::invalid(&path, text.0.as_str(), "must be greater than or equal to 0"));
            }
        }
    }
}

fn validate_taints(taints: &[Taint], path: &Path, errors: &mut Vec<FieldError>) {
    for (index, taint) in taints.iter().enumerate() {
        let path = path.index(index);
        invalid_each(&path.child("key"), &taint.key, names::qualified_name(&taint.key), errors);
        let value = taint.value.as_deref().unwrap_or_default();
        let messages = names::label_value(value);
        if !messages.is_empty() {
            errors.push(FieldError::invalid(&path.child("value"), value, messages.join(";")));
        }
        let effect = taint.effect.as_str();
        if effect.is_empty() {
            errors.push(FieldError::required(&path.child("effect"), ""));
        } else if !TAINT_EFFECTS.contains(&effect) {
            errors.push(FieldError::not_supported(&path.child("effect"), effect, &TAINT_EFFECTS));
        }
        if taints[..index].iter().any(|earlier| earlier.key == taint.key && earlier.effect == taint.effect) {
            let mut error = FieldError::duplicate(&path, json(taint));
            error.detail = "taints must be unique by key and effect pair".to_owned();
            errors.push(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(spec: &Value) -> Node {
        serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": spec})).expect("a node")
    }

    #[test]
    fn taints_are_well_formed_and_unique() {
        for (spec, expected) in [
            (json!({"taints": [{"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoExecute"}]}), vec![]),
            (
                json!({"taints": [{"key": "a", "effect": "NoSchedule"}, {"key": "a", "value": "b", "effect": "NoSchedule"}]}),
                vec![
                    "metadata.taints[1]: Duplicate value: {\"effect\":\"NoSchedule\",\"key\":\"a\",\"value\":\"b\"}: taints must \
                     be unique by key and effect pair",
                ],
            ),
            (json!({"taints": [{"key": "a", "effect": ""}]}), vec!["metadata.taints[0].effect: Required value"]),
            (
                json!({"taints": [{"key": "a", "effect": "Never"}]}),
                vec![
                    "metadata.taints[0].effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", \
                     \"PreferNoSchedule\", \"NoExecute\"",
                ],
            ),
        ] {
            let errors: Vec<String> = validate(&node(&spec)).iter().map(ToString::to_string).collect();
            assert_eq!(errors, expected, "{spec}");
        }
    }

    #[test]
    fn what_names_the_machine_stays() {
        let (old, new) = (node(&json!({"providerID": "a", "podCIDRs": ["10.0.0.0/24"]})), node(&json!({})));
        let errors: Vec<String> = validate_update(&new, &old).iter().map(|error| error.field.to_string()).collect();
        assert_eq!(errors, ["spec.podCIDRs", "spec.providerID"]);
    }
}
