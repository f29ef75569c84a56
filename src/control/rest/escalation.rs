//! Nobody gives what they do not have: roles and bindings are written only by who holds all that they grant.
//!
//! Whoever may `escalate` roles or `bind` a role is trusted with that. Pure.
//!
//! Source: kubernetes v1.36, `pkg/registry/rbac/*/policybased/storage.go` and `pkg/registry/rbac/validation/rule.go`.

use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::control::kinds::{CLUSTER_ROLE, CLUSTER_ROLE_BINDING, Kind, ROLE, ROLE_BINDING};
use crate::control::meta;
use crate::control::objects::ObjectError;
use crate::control::rbac::{Attributes, Policy, Resource, User, rules};

/// Whether a user may write `object` where there was `before`. Other kinds than those of roles always may be.
///
/// # Errors
/// [`ObjectError::Forbidden`] with what is missing; [`ObjectError::NotFound`] for a binding to no role.
pub fn check(
    policy: &Policy,
    user: &User,
    kind: &'static Kind,
    namespace: &str,
    before: Option<&Value>,
    object: &Value,
) -> Result<(), ObjectError> {
    let is_role = *kind == ROLE || *kind == CLUSTER_ROLE;
    let is_binding = *kind == ROLE_BINDING || *kind == CLUSTER_ROLE_BINDING;
    let granting: &[&str] = if is_role { &["rules", "aggregationRule"] } else { &["roleRef", "subjects"] };
    let same = before.is_some_and(|before| granting.iter().all(|field| before[*field] == object[*field]));
    if !(is_role || is_binding) || user.is_master() || same {
        return Ok(());
    }
    let may = |verb: &str, resource: &str, namespace: &str, name: &str| {
        let resource = Resource {
            group: kind.group.to_owned(),
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..Resource::default()
        };
        policy.allow(user, &Attributes::on(verb, resource)).is_some()
    };
    let name = meta::name(object);
    let granted: Vec<PolicyRule> = if is_role {
        if may("escalate", kind.plural, namespace, name) {
            return Ok(());
        }
        // A role that is filled from others could become anything.
        if object["aggregationRule"].is_null() { typed(&object["rules"]) } else { everything() }
    } else {
        let role: RoleRef = typed(&object["roleRef"]);
        let of = if role.kind == ROLE.kind { &ROLE } else { &CLUSTER_ROLE };
        if may("bind", of.plural, namespace, &role.name) {
            return Ok(());
        }
        let rules = policy.rules_of(&role, namespace);
        rules.ok_or_else(|| ObjectError::NotFound { kind: of, name: role.name.clone() })?.to_vec()
    };
    let missing = rules::uncovered(&policy.rules_for(user, namespace), &granted);
    if missing.is_empty() {
        return Ok(());
    }
    let missing: Vec<String> = missing.iter().map(rules::compact).collect();
    let groups: Vec<String> = user.groups.iter().map(|group| format!("{group:?}")).collect();
    let reason = format!(
        "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        groups.join(" "),
        missing.join("\n")
    );
    Err(ObjectError::Forbidden { kind, name: name.to_owned(), reason })
}

fn everything() -> Vec<PolicyRule> {
    typed(&json!([
        {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
        {"nonResourceURLs": ["*"], "verbs": ["*"]},
    ]))
}

/// What is no such thing grants nothing; validation will tell.
fn typed<T: DeserializeOwned + Default>(value: &Value) -> T {
    T::deserialize(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        let objects = |value: Value| typed(&value);
        Policy::of(
            Vec::new(),
            typed(&json!([
                {"metadata": {"name": "reader"}, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]},
                {"metadata": {"name": "root"}, "rules": everything()},
                {"metadata": {"name": "binder"}, "rules": [
                    {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "verbs": ["bind"],
                     "resourceNames": ["root"]}]},
            ])),
            objects(json!([{
                "metadata": {"name": "a", "namespace": "n"}, "roleRef": {"kind": "ClusterRole", "name": "reader"},
                "subjects": [{"kind": "User", "name": "ann"}],
            }, {
                "metadata": {"name": "b", "namespace": "n"}, "roleRef": {"kind": "ClusterRole", "name": "binder"},
                "subjects": [{"kind": "User", "name": "bob"}],
            }])),
            Vec::new(),
        )
    }

    fn ask(
        user: &str,
        kind: &'static Kind,
        namespace: &str,
        before: Option<&Value>,
        object: &Value,
    ) -> Result<(), String> {
        let user = User { name: user.into(), groups: vec!["g".into()], ..User::default() };
        check(&policy(), &user, kind, namespace, before, object).map_err(|error| error.to_string())
    }

    #[test]
    fn a_role_grants_what_its_writer_has() {
        let role = |verbs: Value| json!({"metadata": {"name": "r"}, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": verbs}]});
        assert_eq!(ask("ann", &ROLE, "n", None, &role(json!(["get"]))), Ok(()));
        assert_eq!(
            ask("ann", &ROLE, "n", None, &role(json!(["get", "delete"]))),
            Err("roles.rbac.authorization.k8s.io \"r\" is forbidden: user \"ann\" (groups=[\"g\"]) is attempting to grant \
                 RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}"
                .to_owned())
        );
        assert!(ask("ann", &ROLE, "m", None, &role(json!(["get"]))).is_err(), "not there");
        let (before, mut labelled) = (role(json!(["delete"])), role(json!(["delete"])));
        labelled["metadata"]["labels"] = json!({"a": "b"});
        assert_eq!(ask("ann", &ROLE, "n", Some(&before), &labelled), Ok(()), "grants nothing new");
        let filled = json!({"metadata": {"name": "r"}, "aggregationRule": {"clusterRoleSelectors": [{}]}});
        assert!(ask("ann", &CLUSTER_ROLE, "", None, &filled).is_err());
    }

    #[test]
    fn a_binding_gives_what_its_writer_has_or_may_bind() {
        let binding = |role: &str| {
            json!({
                "metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": role},
                "subjects": [{"kind": "User", "name": "eve"}],
            })
        };
        assert_eq!(ask("ann", &ROLE_BINDING, "n", None, &binding("reader")), Ok(()));
        assert!(ask("ann", &ROLE_BINDING, "n", None, &binding("root")).is_err());
        assert_eq!(ask("bob", &ROLE_BINDING, "n", None, &binding("root")), Ok(()));
        assert!(ask("bob", &CLUSTER_ROLE_BINDING, "", None, &binding("root")).is_err(), "in n only");
        assert_eq!(
            ask("ann", &ROLE_BINDING, "n", None, &binding("gone")),
            Err("clusterroles.rbac.authorization.k8s.io \"gone\" not found".to_owned())
        );
    }
}
