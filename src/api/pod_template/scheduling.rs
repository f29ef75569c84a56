//! Rules for what says where a pod may run: tolerations, affinities, spread.
//!
//! Pod affinities, spread constraints and scheduling gates have no effect for DaemonSets, neither upstream nor here;
//! they are checked so that the same manifest is refused by both.

use k8s_openapi::api::core::v1::{
    Affinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, PodSchedulingGate, Toleration,
    TopologySpreadConstraint, WeightedPodAffinityTerm,
};

use super::text;
use crate::api::field::{FieldError, Path};
use crate::api::metadata::{invalid_each, validate_label_selector};
use crate::api::names;

pub(crate) const TAINT_EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub(crate) fn validate_tolerations(tolerations: &[Toleration], path: &Path, errors: &mut Vec<FieldError>) {
    for (index, toleration) in tolerations.iter().enumerate() {
        let path = path.index(index);
        let [key, operator, value, effect] =
            [&toleration.key, &toleration.operator, &toleration.value, &toleration.effect]
                .map(|field| text(field.as_ref()));
        let operator_path = path.child("operator");
        if !key.is_empty() {
            invalid_each(&path.child("key"), key, names::qualified_name(key), errors);
        } else if operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(FieldError::invalid(&operator_path, operator, detail));
        }
        if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(&path.child("effect"), effect, detail));
        }
        match operator {
            "" | "Equal" => {
                let messages = names::label_value(value);
                if !messages.is_empty() {
                    errors.push(FieldError::invalid(&operator_path, value, messages.join(";")));
                }
            }
            "Exists" if value.is_empty() => {}
            "Exists" => {
                let detail = "value must be empty when `operator` is 'Exists'";
                errors.push(FieldError::invalid(&operator_path, value, detail));
            }
            other => errors.push(FieldError::not_supported(&operator_path, other, &["Equal", "Exists"])),
        }
        if !effect.is_empty() && !TAINT_EFFECTS.contains(&effect) {
            errors.push(FieldError::not_supported(&path.child("effect"), effect, &TAINT_EFFECTS));
        }
    }
}

pub(super) fn validate_affinity(affinity: &Affinity, path: &Path, errors: &mut Vec<FieldError>) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    if let Some(node) = &affinity.node_affinity {
        let path = path.child("nodeAffinity");
        if let Some(selector) = &node.required_during_scheduling_ignored_during_execution {
            validate_node_selector(selector, &path.child(REQUIRED), errors);
        }
        let preferred = node.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        for (index, term) in preferred.enumerate() {
            let path = path.child(PREFERRED).index(index);
            validate_weight(term.weight, &path, errors);
            validate_term(&term.preference, Values::Any, &path.child("preference"), errors);
        }
    }
    let mut terms =
        |name: &str, required: Option<&Vec<PodAffinityTerm>>, preferred: Option<&Vec<WeightedPodAffinityTerm>>| {
            for (index, term) in required.into_iter().flatten().enumerate() {
                validate_pod_term(term, &path.child(name).child(REQUIRED).index(index), errors);
            }
            for (index, term) in preferred.into_iter().flatten().enumerate() {
                let path = path.child(name).child(PREFERRED).index(index);
                validate_weight(term.weight, &path, errors);
                validate_pod_term(&term.pod_affinity_term, &path.child("podAffinityTerm"), errors);
            }
        };
    if let Some(pod) = &affinity.pod_affinity {
        let required = pod.required_during_scheduling_ignored_during_execution.as_ref();
        terms("podAffinity", required, pod.preferred_during_scheduling_ignored_during_execution.as_ref());
    }
    if let Some(pod) = &affinity.pod_anti_affinity {
        let required = pod.required_during_scheduling_ignored_during_execution.as_ref();
        terms("podAntiAffinity", required, pod.preferred_during_scheduling_ignored_during_execution.as_ref());
    }
}

fn validate_weight(weight: i32, path: &Path, errors: &mut Vec<FieldError>) {
    if !(1..=100).contains(&weight) {
        errors.push(FieldError::invalid(&path.child("weight"), weight, "must be in the range 1-100"));
    }
}

// === node affinity ===

/// Whether the values of a requirement must be values a label can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Values {
    Labels,
    Any,
}

fn validate_node_selector(selector: &NodeSelector, path: &Path, errors: &mut Vec<FieldError>) {
    let path = path.child("nodeSelectorTerms");
    if selector.node_selector_terms.is_empty() {
        errors.push(FieldError::required(&path, "must have at least one node selector term"));
    }
    for (index, term) in selector.node_selector_terms.iter().enumerate() {
        validate_term(term, Values::Labels, &path.index(index), errors);
    }
}

fn validate_term(term: &NodeSelectorTerm, values: Values, path: &Path, errors: &mut Vec<FieldError>) {
    for (index, requirement) in term.match_expressions.iter().flatten().enumerate() {
        validate_expression(requirement, values, &path.child("matchExpressions").index(index), errors);
    }
    for (index, requirement) in term.match_fields.iter().flatten().enumerate() {
        validate_field(requirement, &path.child("matchFields").index(index), errors);
    }
}

fn validate_expression(requirement: &NodeSelectorRequirement, kind: Values, path: &Path, errors: &mut Vec<FieldError>) {
    let values = requirement.values.as_deref().unwrap_or_default();
    let values_path = path.child("values");
    match (requirement.operator.as_str(), values) {
        ("In" | "NotIn", []) => {
            let detail = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.push(FieldError::required(&values_path, detail));
        }
        ("In" | "NotIn", _) | ("Exists" | "DoesNotExist", []) | ("Gt" | "Lt", [_]) => {}
        ("Exists" | "DoesNotExist", _) => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(FieldError::forbidden(&values_path, detail));
        }
        ("Gt" | "Lt", _) => {
            let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            errors.push(FieldError::required(&values_path, detail));
        }
        (other, _) => errors.push(FieldError::invalid(&path.child("operator"), other, "not a valid selector operator")),
    }
    invalid_each(&path.child("key"), &requirement.key, names::qualified_name(&requirement.key), errors);
    if kind == Values::Labels {
        for (index, value) in values.iter().enumerate() {
            invalid_each(&values_path.index(index), value, names::label_value(value), errors);
        }
    }
}

fn validate_field(requirement: &NodeSelectorRequirement, path: &Path, errors: &mut Vec<FieldError>) {
    let values = requirement.values.as_deref().unwrap_or_default();
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.len() == 1 => {}
        "In" | "NotIn" => {
            let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errors.push(FieldError::required(&path.child("values"), detail));
        }
        other => errors.push(FieldError::invalid(&path.child("operator"), other, "not a valid selector operator")),
    }
    if requirement.key != "metadata.name" {
        let detail = "not a valid field selector key";
        errors.push(FieldError::invalid(&path.child("key"), requirement.key.as_str(), detail));
        return;
    }
    for (index, value) in values.iter().enumerate() {
        invalid_each(&path.child("values").index(index), value, names::dns_subdomain(value), errors);
    }
}

// === what plays no part for DaemonSets ===

fn validate_pod_term(term: &PodAffinityTerm, path: &Path, errors: &mut Vec<FieldError>) {
    for (name, selector) in [("labelSelector", &term.label_selector), ("namespaceSelector", &term.namespace_selector)] {
        if let Some(selector) = selector {
            validate_label_selector(selector, &path.child(name), errors);
        }
    }
    for name in term.namespaces.iter().flatten() {
        invalid_each(&path.child("namespace"), name, names::dns_label(name), errors);
    }
    let key_path = path.child("topologyKey");
    if term.topology_key.is_empty() {
        errors.push(FieldError::required(&key_path, "can not be empty"));
    }
    invalid_each(&key_path, &term.topology_key, names::qualified_name(&term.topology_key), errors);
}

pub(super) fn validate_spread(constraints: &[TopologySpreadConstraint], path: &Path, errors: &mut Vec<FieldError>) {
    const ACTIONS: [&str; 2] = ["DoNotSchedule", "ScheduleAnyway"];
    for (index, constraint) in constraints.iter().enumerate() {
        let path = path.index(index);
        if constraint.max_skew <= 0 {
            errors.push(FieldError::invalid(&path.child("maxSkew"), constraint.max_skew, "must be greater than zero"));
        }
        if constraint.topology_key.is_empty() {
            errors.push(FieldError::required(&path.child("topologyKey"), "can not be empty"));
        }
        let action = constraint.when_unsatisfiable.as_str();
        if !ACTIONS.contains(&action) {
            errors.push(FieldError::not_supported(&path.child("whenUnsatisfiable"), action, &ACTIONS));
        }
        let same = |other: &TopologySpreadConstraint| {
            other.topology_key == constraint.topology_key && other.when_unsatisfiable == action
        };
        if constraints[index + 1..].iter().any(same) {
            let pair = format!("{{{}, {action}}}", constraint.topology_key);
            errors.push(FieldError::duplicate(&path.child("{topologyKey, whenUnsatisfiable}"), pair));
        }
        if let Some(selector) = &constraint.label_selector {
            validate_label_selector(selector, &path.child("labelSelector"), errors);
        }
    }
}

pub(super) fn validate_gates(gates: &[PodSchedulingGate], path: &Path, errors: &mut Vec<FieldError>) {
    for (index, gate) in gates.iter().enumerate() {
        let path = path.index(index);
        invalid_each(&path, &gate.name, names::qualified_name(&gate.name), errors);
        if gates[..index].iter().any(|earlier| earlier.name == gate.name) {
            errors.push(FieldError::duplicate(&path, gate.name.as_str()));
        }
    }
}
