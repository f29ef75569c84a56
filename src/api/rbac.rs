//! Roles and their bindings: defaults and rules.
//!
//! Source: kubernetes v1.36, `pkg/apis/rbac/validation/validation.go` and `pkg/apis/rbac/v1/defaults.go`.

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::field::{FieldError, Path};
use super::metadata::{self, Scope, invalid_each, json, validate_label_selector};
use super::names;

/// The API group of roles, and of users and groups as subjects.
pub const GROUP: &str = "rbac.authorization.k8s.io";

// === roles ===

/// Everything wrong with a new Role.
pub fn validate_role(role: &Role) -> Vec<FieldError> {
    let mut errors = Vec::new();
    metadata::validate(&role.metadata, Scope::Namespaced, names::path_segment, &mut errors);
    validate_rules(role.rules.as_deref(), Scope::Namespaced, &mut errors);
    errors
}

/// Everything wrong with a change of a Role.
pub fn validate_role_update(new: &Role, old: &Role) -> Vec<FieldError> {
    let mut errors = Vec::new();
    metadata::validate_update(&new.metadata, &old.metadata, &mut errors);
    validate_rules(new.rules.as_deref(), Scope::Namespaced, &mut errors);
    errors
}

/// Everything wrong with a new ClusterRole.
pub fn validate_cluster_role(role: &ClusterRole) -> Vec<FieldError> {
    let mut errors = Vec::new();
    metadata::validate(&role.metadata, Scope::Cluster, names::path_segment, &mut errors);
    validate_cluster_rules(role, &mut errors);
    errors
}

/// Everything wrong with a change of a ClusterRole.
pub fn validate_cluster_role_update(new: &ClusterRole, old: &ClusterRole) -> Vec<FieldError> {
    let mut errors = Vec::new();
    metadata::validate_update(&new.metadata, &old.metadata, &mut errors);
    validate_cluster_rules(new, &mut errors);
    errors
}

fn validate_cluster_rules(role: &ClusterRole, errors: &mut Vec<FieldError>) {
    validate_rules(role.rules.as_deref(), Scope::Cluster, errors);
    let Some(aggregation) = &role.aggregation_rule else { return };
    let path = Path::new("aggregationRule.clusterRoleSelectors");
    let selectors = aggregation.cluster_role_selectors.as_deref().unwrap_or_default();
    if selectors.is_empty() {
        let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
        errors.push(FieldError::required(&path, detail));
    }
    for (index, selector) in selectors.iter().enumerate() {
        validate_label_selector(selector, &path.index(index), errors);
    }
}

fn validate_rules(rules: Option<&[PolicyRule]>, scope: Scope, errors: &mut Vec<FieldError>) {
    for (index, rule) in rules.into_iter().flatten().enumerate() {
        validate_rule(rule, scope, &Path::new("rules").index(index), errors);
    }
}

fn validate_rule(rule: &PolicyRule, scope: Scope, path: &Path, errors: &mut Vec<FieldError>) {
    let count = |list: &Option<Vec<String>>| list.as_ref().map_or(0, Vec::len);
    if rule.verbs.is_empty() {
        errors.push(FieldError::required(&path.child("verbs"), "verbs must contain at least one value"));
    }
    if count(&rule.non_resource_urls) > 0 {
        let mut refuse = |detail: &str| {
            let field = path.child("nonResourceURLs");
            errors.push(FieldError::invalid(&field, json(&rule.non_resource_urls), detail));
        };
        if scope == Scope::Namespaced {
            refuse("namespaced rules cannot apply to non-resource URLs");
        }
        if count(&rule.api_groups) + count(&rule.resources) + count(&rule.resource_names) > 0 {
            refuse("rules cannot apply to both regular resources and non-resource URLs");
        }
        return;
    }
    if count(&rule.api_groups) == 0 {
        let detail = "resource rules must supply at least one api group";
        errors.push(FieldError::required(&path.child("apiGroups"), detail));
    }
    if count(&rule.resources) == 0 {
        let detail = "resource rules must supply at least one resource";
        errors.push(FieldError::required(&path.child("resources"), detail));
    }
}

// === bindings ===

/// What both kinds of binding consist of.
struct Binding<'a> {
    metadata: &'a ObjectMeta,
    role_ref: &'a RoleRef,
    subjects: &'a [Subject],
    scope: Scope,
}

impl<'a> From<&'a RoleBinding> for Binding<'a> {
    fn from(RoleBinding { metadata, role_ref, subjects }: &'a RoleBinding) -> Self {
        Self { metadata, role_ref, subjects: subjects.as_deref().unwrap_or_default(), scope: Scope::Namespaced }
    }
}

impl<'a> From<&'a ClusterRoleBinding> for Binding<'a> {
    fn from(ClusterRoleBinding { metadata, role_ref, subjects }: &'a ClusterRoleBinding) -> Self {
        Self { metadata, role_ref, subjects: subjects.as_deref().unwrap_or_default(), scope: Scope::Cluster }
    }
}

/// Completes a RoleBinding: the groups of what it refers to.
pub fn default_role_binding(binding: &mut RoleBinding) {
    default_groups(&mut binding.role_ref, binding.subjects.as_deref_mut());
}

/// Completes a ClusterRoleBinding: the groups of what it refers to.
pub fn default_cluster_role_binding(binding: &mut ClusterRoleBinding) {
    default_groups(&mut binding.role_ref, binding.subjects.as_deref_mut());
}

fn default_groups(role_ref: &mut RoleRef, subjects: Option<&mut [Subject]>) {
    let is_unset = |group: &Option<String>| group.as_ref().is_none_or(String::is_empty);
    if is_unset(&role_ref.api_group) {
        role_ref.api_group = Some(GROUP.to_owned());
    }
    for subject in subjects.into_iter().flatten() {
        if is_unset(&subject.api_group) && matches!(subject.kind.as_str(), "User" | "Group") {
            subject.api_group = Some(GROUP.to_owned());
        }
    }
}

/// Everything wrong with a new RoleBinding.
pub fn validate_role_binding(binding: &RoleBinding) -> Vec<FieldError> {
    validate_binding(&binding.into())
}

/// Everything wrong with a change of a RoleBinding.
pub fn validate_role_binding_update(new: &RoleBinding, old: &RoleBinding) -> Vec<FieldError> {
    validate_binding_update(&new.into(), &old.into())
}

/// Everything wrong with a new ClusterRoleBinding.
pub fn validate_cluster_role_binding(binding: &ClusterRoleBinding) -> Vec<FieldError> {
    validate_binding(&binding.into())
}

/// Everything wrong with a change of a ClusterRoleBinding.
pub fn validate_cluster_role_binding_update(new: &ClusterRoleBinding, old: &ClusterRoleBinding) -> Vec<FieldError> {
    validate_binding_update(&new.into(), &old.into())
}

fn validate_binding(binding: &Binding<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    metadata::validate(binding.metadata, binding.scope, names::path_segment, &mut errors);
    validate_references(binding, &mut errors);
    errors
}

fn validate_binding_update(new: &Binding<'_>, old: &Binding<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    metadata::validate_update(new.metadata, old.metadata, &mut errors);
    validate_references(new, &mut errors);
    if new.role_ref != old.role_ref {
        errors.push(FieldError::invalid(&Path::new("roleRef"), json(new.role_ref), "cannot change roleRef"));
    }
    errors
}

fn validate_references(binding: &Binding<'_>, errors: &mut Vec<FieldError>) {
    let (path, role_ref) = (Path::new("roleRef"), binding.role_ref);
    check_group(role_ref.api_group.as_deref(), GROUP, &path, errors);
    let kinds: &[&str] = match binding.scope {
        Scope::Namespaced => &["Role", "ClusterRole"],
        Scope::Cluster => &["ClusterRole"],
    };
    if !kinds.contains(&role_ref.kind.as_str()) {
        errors.push(FieldError::not_supported(&path.child("kind"), role_ref.kind.as_str(), kinds));
    }
    if role_ref.name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    } else {
        invalid_each(&path.child("name"), &role_ref.name, names::path_segment(&role_ref.name), errors);
    }
    for (index, subject) in binding.subjects.iter().enumerate() {
        validate_subject(subject, binding.scope, &Path::new("subjects").index(index), errors);
    }
}

fn validate_subject(subject: &Subject, scope: Scope, path: &Path, errors: &mut Vec<FieldError>) {
    if subject.name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    }
    match subject.kind.as_str() {
        "ServiceAccount" => {
            if !subject.name.is_empty() {
                invalid_each(&path.child("name"), &subject.name, names::dns_subdomain(&subject.name), errors);
            }
            check_group(subject.api_group.as_deref(), "", path, errors);
            if scope == Scope::Cluster && subject.namespace.as_ref().is_none_or(String::is_empty) {
                errors.push(FieldError::required(&path.child("namespace"), ""));
            }
        }
        "User" | "Group" => check_group(subject.api_group.as_deref(), GROUP, path, errors),
        other => {
            errors.push(FieldError::not_supported(&path.child("kind"), other, &["ServiceAccount", "User", "Group"]));
        }
    }
}

fn check_group(group: Option<&str>, expected: &str, path: &Path, errors: &mut Vec<FieldError>) {
    let group = group.unwrap_or_default();
    if group != expected {
        errors.push(FieldError::not_supported(&path.child("apiGroup"), group, &[expected]));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn texts(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_rule_is_about_resources_or_about_paths() {
        let role = |name: &str, rule: Value| {
            let metadata = json!({"name": name, "namespace": "n"});
            serde_json::from_value::<Role>(json!({"metadata": metadata, "rules": [rule]})).expect("a Role")
        };
        let pods = json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]});
        assert_eq!(validate_role(&role("system:pods", pods.clone())), []);
        for (name, rule, expected) in [
            ("a/b", pods, vec!["metadata.name: Invalid value: \"a/b\": may not contain '/'"]),
            (
                "a",
                json!({"verbs": []}),
                vec![
                    "rules[0].verbs: Required value: verbs must contain at least one value",
                    "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
                    "rules[0].resources: Required value: resource rules must supply at least one resource",
                ],
            ),
            (
                "a",
                json!({"verbs": ["get"], "nonResourceURLs": ["/x"], "resources": ["pods"]}),
                vec![
                    "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
                    "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: rules cannot apply to both regular resources and \
                     non-resource URLs",
                ],
            ),
        ] {
            assert_eq!(texts(&validate_role(&role(name, rule))), expected);
        }
        let aggregated = json!({"metadata": {"name": "a"}, "aggregationRule": {"clusterRoleSelectors": []}});
        assert_eq!(
            texts(&validate_cluster_role(&serde_json::from_value(aggregated).expect("a ClusterRole"))),
            ["aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if \
                 aggregationRule is non-nil"]
        );
    }

    #[test]
    fn a_binding_names_one_role_for_good_and_subjects_that_can_be() {
        let binding = |role: &str, subject: Value| {
            let metadata = json!({"name": "b"});
            let object = json!({"metadata": metadata, "roleRef": {"kind": role, "name": "r"}, "subjects": [subject]});
            let mut binding: ClusterRoleBinding = serde_json::from_value(object).expect("a binding");
            default_cluster_role_binding(&mut binding);
            binding
        };
        let user = json!({"kind": "User", "name": "ann"});
        let good = binding("ClusterRole", user.clone());
        assert_eq!(validate_cluster_role_binding(&good), []);
        assert_eq!(good.subjects.as_ref().expect("one")[0].api_group.as_deref(), Some(GROUP));
        for (role, subject, expected) in [
            ("Role", user, vec!["roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\""]),
            (
                "ClusterRole",
                json!({"kind": "ServiceAccount", "name": "a"}),
                vec!["subjects[0].namespace: Required value"],
            ),
            (
                "ClusterRole",
                json!({"kind": "Robot", "name": ""}),
                vec![
                    "subjects[0].name: Required value",
                    "subjects[0].kind: Unsupported value: \"Robot\": supported values: \"ServiceAccount\", \"User\", \
                     \"Group\"",
                ],
            ),
            (
                "ClusterRole",
                json!({"kind": "Group", "name": "g", "apiGroup": "x"}),
                vec!["subjects[0].apiGroup: Unsupported value: \"x\": supported values: \"rbac.authorization.k8s.io\""],
            ),
        ] {
            assert_eq!(texts(&validate_cluster_role_binding(&binding(role, subject))), expected);
        }
        let mut other = good.clone();
        other.role_ref.name = "s".into();
        let errors = validate_cluster_role_binding_update(&other, &good);
        assert_eq!(errors.iter().map(|error| error.field.as_str()).collect::<Vec<_>>(), ["roleRef"]);
    }
}
