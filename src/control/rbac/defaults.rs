//! The roles and bindings every fleet begins with, and what is missing of them.
//!
//! Pure. At each start what is missing is added to what there is; what an administrator added stays, and what carries
//! `rbac.authorization.kubernetes.io/autoupdate: "false"` is left alone. The roles name what is served here.
//!
//! Source: kubernetes v1.36, `plugin/pkg/auth/authorizer/rbac/bootstrappolicy/policy.go` and
//! `pkg/registry/rbac/reconciliation`; metrics-server, `manifests/base/rbac.yaml`; documentation page "Using RBAC Authorization", default roles.

use std::collections::BTreeMap;

use k8s_openapi::api::rbac::v1::{AggregationRule, ClusterRole, ClusterRoleBinding, PolicyRule, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::{AUTHENTICATED, MASTERS, UNAUTHENTICATED, rules};
use crate::api::certificates::CLIENT_SIGNER;
use crate::api::rbac::GROUP;
use crate::api::selector::Selector;

const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const BOOTSTRAPPING: (&str, &str) = ("kubernetes.io/bootstrapping", "rbac-defaults");
const TO_ADMIN: &str = "rbac.authorization.k8s.io/aggregate-to-admin";
const TO_EDIT: &str = "rbac.authorization.k8s.io/aggregate-to-edit";
const TO_VIEW: &str = "rbac.authorization.k8s.io/aggregate-to-view";

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];
const READ_WRITE: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

const HEALTH: &[&str] = &["/healthz", "/livez", "/readyz", "/version", "/version/"];

/// The ClusterRoles.
pub fn cluster_roles() -> Vec<ClusterRole> {
    let view = [
        rule(
            "",
            &[
                "bindings",
                "configmaps",
                "endpoints",
                "events",
                "namespaces",
                "namespaces/status",
                "pods",
                "pods/log",
                "pods/status",
                "serviceaccounts",
                "services",
                "services/status",
            ],
            READ,
        ),
        rule("apps", &["controllerrevisions", "daemonsets", "daemonsets/rollout", "daemonsets/status"], READ),
        rule("discovery.k8s.io", &["endpointslices"], READ),
        rule("events.k8s.io", &["events"], READ),
        rule("networking.k8s.io", &["networkpolicies"], READ),
        rule("policy", &["poddisruptionbudgets", "poddisruptionbudgets/status"], READ),
    ];
    let edit = [
        rule("", &["pods/attach", "pods/exec", "pods/portforward", "secrets"], READ),
        rule("", &["serviceaccounts"], &["impersonate"]),
        rule(
            "",
            &[
                "configmaps",
                "events",
                "pods",
                "pods/attach",
                "pods/exec",
                "pods/portforward",
                "secrets",
                "serviceaccounts",
                "services",
            ],
            WRITE,
        ),
        rule("", &["pods/eviction", "serviceaccounts/token"], &["create"]),
        rule("apps", &["daemonsets"], WRITE),
        rule("coordination.k8s.io", &["leases"], READ_WRITE),
        rule("events.k8s.io", &["events"], WRITE),
        rule("networking.k8s.io", &["networkpolicies"], WRITE),
        rule("policy", &["poddisruptionbudgets"], WRITE),
    ];
    let admin = [
        rule("authorization.k8s.io", &["localsubjectaccessreviews"], &["create"]),
        rule(GROUP, &["rolebindings", "roles"], READ_WRITE),
    ];
    let discovery = [HEALTH, &["/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*"]].concat();
    let monitoring = ["/healthz", "/healthz/*", "/livez", "/livez/*", "/metrics", "/readyz", "/readyz/*"];
    vec![
        role("cluster-admin", &[], [rule("*", &["*"], &["*"]), path_rule(&["*"], "*")]),
        aggregated("admin", &[], TO_ADMIN),
        aggregated("edit", &[TO_ADMIN], TO_EDIT),
        aggregated("view", &[TO_EDIT], TO_VIEW),
        role("system:aggregate-to-admin", &[TO_ADMIN], admin),
        role("system:aggregate-to-edit", &[TO_EDIT], edit),
        role("system:aggregate-to-view", &[TO_VIEW], view),
        role(
            "system:aggregated-metrics-reader",
            &[TO_ADMIN, TO_EDIT, TO_VIEW],
            [rule("metrics.k8s.io", &["nodes", "pods"], READ)],
        ),
        role(
            "system:auth-delegator",
            &[],
            [
                rule("authentication.k8s.io", &["tokenreviews"], &["create"]),
                rule("authorization.k8s.io", &["subjectaccessreviews"], &["create"]),
            ],
        ),
        role(
            "system:basic-user",
            &[],
            [
                rule("authorization.k8s.io", &["selfsubjectaccessreviews", "selfsubjectrulesreviews"], &["create"]),
                rule("authentication.k8s.io", &["selfsubjectreviews"], &["create"]),
            ],
        ),
        role(
            "system:certificates.k8s.io:kube-apiserver-client-approver",
            &[],
            [PolicyRule {
                resource_names: Some(owned(&[CLIENT_SIGNER])),
                ..rule("certificates.k8s.io", &["signers"], &["approve"])
            }],
        ),
        role("system:discovery", &[], [path_rule(&discovery, "get")]),
        role("system:monitoring", &[], [path_rule(&monitoring, "get")]),
        role("system:public-info-viewer", &[], [path_rule(HEALTH, "get")]),
    ]
}

/// The ClusterRoleBindings.
pub fn cluster_role_bindings() -> Vec<ClusterRoleBinding> {
    vec![
        binding("cluster-admin", &[MASTERS]),
        binding("system:basic-user", &[AUTHENTICATED]),
        binding("system:discovery", &[AUTHENTICATED]),
        binding("system:monitoring", &["system:monitoring"]),
        binding("system:public-info-viewer", &[AUTHENTICATED, UNAUTHENTICATED]),
    ]
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> PolicyRule {
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(owned(resources)),
        verbs: owned(verbs),
        ..PolicyRule::default()
    }
}

fn path_rule(paths: &[&str], verb: &str) -> PolicyRule {
    PolicyRule { non_resource_urls: Some(owned(paths)), verbs: owned(&[verb]), ..PolicyRule::default() }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn metadata(name: &str, more_labels: &[&str]) -> ObjectMeta {
    let mut labels = BTreeMap::from([(BOOTSTRAPPING.0.to_owned(), BOOTSTRAPPING.1.to_owned())]);
    labels.extend(more_labels.iter().map(|label| ((*label).to_owned(), "true".to_owned())));
    ObjectMeta {
        name: Some(name.to_owned()),
        labels: Some(labels),
        annotations: Some(BTreeMap::from([(AUTO_UPDATE.to_owned(), "true".to_owned())])),
        ..ObjectMeta::default()
    }
}

fn role<const N: usize>(name: &str, labels: &[&str], rules: [PolicyRule; N]) -> ClusterRole {
    ClusterRole { metadata: metadata(name, labels), rules: Some(rules.into()), aggregation_rule: None }
}

fn aggregated(name: &str, labels: &[&str], of: &str) -> ClusterRole {
    let selector = LabelSelector {
        match_labels: Some(BTreeMap::from([(of.to_owned(), "true".to_owned())])),
        ..LabelSelector::default()
    };
    let aggregation_rule = Some(AggregationRule { cluster_role_selectors: Some(vec![selector]) });
    ClusterRole { metadata: metadata(name, labels), rules: None, aggregation_rule }
}

fn binding(role: &str, groups: &[&str]) -> ClusterRoleBinding {
    let subject = |group: &&str| Subject {
        api_group: Some(GROUP.to_owned()),
        kind: "Group".to_owned(),
        name: (*group).to_owned(),
        namespace: None,
    };
    ClusterRoleBinding {
        metadata: metadata(role, &[]),
        role_ref: RoleRef { api_group: Some(GROUP.to_owned()), kind: "ClusterRole".to_owned(), name: role.to_owned() },
        subjects: Some(groups.iter().map(subject).collect()),
    }
}

// === what is missing ===

/// The role with what it lacks of what it is meant to have; nothing if it lacks nothing or is to be left alone.
pub fn complete_role(current: &ClusterRole, wanted: &ClusterRole) -> Option<ClusterRole> {
    let mut complete = current.clone();
    complete_metadata(&mut complete.metadata, &wanted.metadata);
    let own = current.rules.as_deref().unwrap_or_default();
    let missing = rules::uncovered(own, wanted.rules.as_deref().unwrap_or_default());
    if !missing.is_empty() {
        complete.rules.get_or_insert_default().extend(missing);
    }
    if complete.aggregation_rule.is_none() {
        complete.aggregation_rule.clone_from(&wanted.aggregation_rule);
    }
    (!is_left_alone(&current.metadata) && complete != *current).then_some(complete)
}

/// The binding with the subjects it lacks; nothing if it lacks none or is to be left alone.
pub fn complete_binding(current: &ClusterRoleBinding, wanted: &ClusterRoleBinding) -> Option<ClusterRoleBinding> {
    let mut complete = current.clone();
    complete_metadata(&mut complete.metadata, &wanted.metadata);
    for subject in wanted.subjects.iter().flatten() {
        let subjects = complete.subjects.get_or_insert_default();
        if !subjects.contains(subject) {
            subjects.push(subject.clone());
        }
    }
    (!is_left_alone(&current.metadata) && complete != *current).then_some(complete)
}

fn is_left_alone(metadata: &ObjectMeta) -> bool {
    let setting = metadata.annotations.as_ref().and_then(|annotations| annotations.get(AUTO_UPDATE));
    setting.is_some_and(|setting| setting == "false")
}

fn complete_metadata(current: &mut ObjectMeta, wanted: &ObjectMeta) {
    for (own, meant) in [(&mut current.labels, &wanted.labels), (&mut current.annotations, &wanted.annotations)] {
        for (key, value) in meant.iter().flatten() {
            own.get_or_insert_default().entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
}

/// The rules of an aggregated role: those of all roles its selectors pick, each once; nothing for other roles.
///
/// Source: kubernetes v1.36, `pkg/controller/clusterroleaggregation/clusterroleaggregation_controller.go`.
pub fn aggregate(role: &ClusterRole, all: &[ClusterRole]) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.as_deref().unwrap_or_default();
    let nothing = BTreeMap::new();
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in selectors.iter().filter_map(|selector| Selector::from_object(selector).ok()) {
        let picked = all.iter().filter(|other| {
            other.metadata.name != role.metadata.name
                && selector.matches(other.metadata.labels.as_ref().unwrap_or(&nothing))
        });
        for rule in picked.flat_map(|other| other.rules.iter().flatten()) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    Some(rules)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::rbac::{validate_cluster_role, validate_cluster_role_binding};

    #[test]
    fn what_a_fleet_begins_with_is_valid_and_complete() {
        for role in cluster_roles() {
            assert_eq!(validate_cluster_role(&role), []);
            assert_eq!(complete_role(&role, &role), None);
        }
        for binding in cluster_role_bindings() {
            assert_eq!(validate_cluster_role_binding(&binding), []);
            assert!(cluster_roles().iter().any(|role| role.metadata.name.as_ref() == Some(&binding.role_ref.name)));
            assert_eq!(complete_binding(&binding, &binding), None);
        }
    }

    #[test]
    fn only_what_is_missing_is_added() {
        let wanted = role("a", &[], [rule("", &["pods", "nodes"], READ)]);
        let mut current = role("a", &[], [rule("", &["pods"], READ), rule("x", &["y"], &["get"])]);
        current.metadata.labels = None;
        let complete = complete_role(&current, &wanted).unwrap();
        assert_eq!(complete.metadata, wanted.metadata);
        let added = ["get", "list", "watch"].map(|verb| rule("", &["nodes"], &[verb]));
        assert_eq!(complete.rules.unwrap()[2..], added);
        current.metadata.annotations = Some(BTreeMap::from([(AUTO_UPDATE.to_owned(), "false".to_owned())]));
        assert_eq!(complete_role(&current, &wanted), None);
        let mut fewer = binding("b", &["g"]);
        fewer.subjects.as_mut().unwrap()[0].name = "mine".into();
        let names: Vec<String> = complete_binding(&fewer, &binding("b", &["g"]))
            .unwrap()
            .subjects
            .unwrap()
            .into_iter()
            .map(|subject| subject.name)
            .collect();
        assert_eq!(names, ["mine", "g"]);
    }

    #[test]
    fn edit_has_all_of_view_and_admin_all_of_edit() {
        let mut all = cluster_roles();
        // As the keeper does it: again until nothing changes.
        for _ in 0..3 {
            for index in 0..all.len() {
                if let Some(rules) = aggregate(&all[index], &all) {
                    all[index].rules = Some(rules);
                }
            }
        }
        let rules = |name: &str| {
            let found = all.iter().find(|role| role.metadata.name.as_deref() == Some(name));
            found.and_then(|role| role.rules.clone()).unwrap()
        };
        let (view, edit, admin) = (rules("view"), rules("edit"), rules("admin"));
        assert_eq!(rules::uncovered(&edit, &view), []);
        assert_eq!(rules::uncovered(&admin, &edit), []);
        let secrets = [rule("", &["secrets"], &["get"])];
        assert_eq!(rules::uncovered(&view, &secrets), secrets, "who may only view sees no secrets");
    }
}
