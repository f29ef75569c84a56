//! Roles and bindings as of one moment.

use std::collections::BTreeMap;

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject};

use super::{Attributes, SERVICE_ACCOUNT_PREFIX, User, rules};

/// Everything that decides what users may do. Cheap to ask; made anew when anything of it changes.
#[derive(Debug, Default)]
pub struct Policy {
    /// Rules of Roles, by namespace and name.
    roles: BTreeMap<(String, String), Vec<PolicyRule>>,
    /// Rules of ClusterRoles, by name.
    cluster_roles: BTreeMap<String, Vec<PolicyRule>>,
    /// RoleBindings, by namespace.
    bindings: BTreeMap<String, Vec<Binding>>,
    /// ClusterRoleBindings.
    cluster_bindings: Vec<Binding>,
}

/// Who gets which role.
#[derive(Debug)]
struct Binding {
    /// As reasons name it: `ClusterRoleBinding "a"`, `RoleBinding "a/namespace"`.
    described: String,
    /// Where a subject without a namespace is; empty for ClusterRoleBindings.
    namespace: String,
    role: RoleRef,
    subjects: Vec<Subject>,
}

impl Policy {
    /// The policy that these objects make.
    pub fn of(
        roles: Vec<Role>,
        cluster_roles: Vec<ClusterRole>,
        role_bindings: Vec<RoleBinding>,
        cluster_role_bindings: Vec<ClusterRoleBinding>,
    ) -> Self {
        let mut policy = Self::default();
        for Role { metadata, rules } in roles {
            let key = (metadata.namespace.unwrap_or_default(), metadata.name.unwrap_or_default());
            policy.roles.insert(key, rules.unwrap_or_default());
        }
        for ClusterRole { metadata, rules, .. } in cluster_roles {
            policy.cluster_roles.insert(metadata.name.unwrap_or_default(), rules.unwrap_or_default());
        }
        for RoleBinding { metadata, role_ref, subjects } in role_bindings {
            let namespace = metadata.namespace.unwrap_or_default();
            let described = format!("RoleBinding \"{}/{namespace}\"", metadata.name.unwrap_or_default());
            let subjects = subjects.unwrap_or_default();
            let binding = Binding { described, namespace: namespace.clone(), role: role_ref, subjects };
            policy.bindings.entry(namespace).or_default().push(binding);
        }
        for ClusterRoleBinding { metadata, role_ref, subjects } in cluster_role_bindings {
            policy.cluster_bindings.push(Binding {
                described: format!("ClusterRoleBinding {:?}", metadata.name.unwrap_or_default()),
                namespace: String::new(),
                role: role_ref,
                subjects: subjects.unwrap_or_default(),
            });
        }
        policy
    }

    /// Why a request is allowed; nothing if it is not.
    pub fn allow(&self, user: &User, attributes: &Attributes) -> Option<String> {
        if user.is_master() {
            return Some(String::new());
        }
        self.granted(user, attributes.namespace()).find_map(|(binding, subject, granted)| {
            granted.iter().any(|rule| rules::allows(rule, attributes)).then(|| {
                let RoleRef { kind, name, .. } = &binding.role;
                format!("RBAC: allowed by {} of {kind} {name:?} to {}", binding.described, describe(subject, binding))
            })
        })
    }

    /// Every rule that counts for a user in a namespace; empty for what has none.
    pub fn rules_for(&self, user: &User, namespace: &str) -> Vec<PolicyRule> {
        self.granted(user, namespace).flat_map(|(.., rules)| rules.iter().cloned()).collect()
    }

    /// The rules of a role; none if there is no such role.
    pub fn rules_of(&self, role: &RoleRef, namespace: &str) -> Option<&[PolicyRule]> {
        let rules = match role.kind.as_str() {
            "Role" => self.roles.get(&(namespace.to_owned(), role.name.clone())),
            _ => self.cluster_roles.get(&role.name),
        };
        rules.map(Vec::as_slice)
    }

    /// The bindings that are about a user, each with the subject that is and the rules of its role.
    fn granted<'a>(
        &'a self,
        user: &'a User,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a Binding, &'a Subject, &'a [PolicyRule])> {
        let local = self.bindings.get(namespace).into_iter().flatten();
        self.cluster_bindings.iter().chain(local).filter_map(move |binding| {
            let subject = binding.subjects.iter().find(|subject| is_subject(user, subject, &binding.namespace))?;
            Some((binding, subject, self.rules_of(&binding.role, namespace)?))
        })
    }
}

fn is_subject(user: &User, subject: &Subject, namespace: &str) -> bool {
    match subject.kind.as_str() {
        "User" => user.name == subject.name,
        "Group" => user.is_in(&subject.name),
        "ServiceAccount" => {
            let given = subject.namespace.as_deref().filter(|namespace| !namespace.is_empty());
            let namespace = given.unwrap_or(namespace);
            let name = user.name.strip_prefix(SERVICE_ACCOUNT_PREFIX).and_then(|name| name.split_once(':'));
            !namespace.is_empty() && name == Some((namespace, &subject.name))
        }
        _ => false,
    }
}

fn describe(subject: &Subject, binding: &Binding) -> String {
    let Subject { kind, name, namespace, .. } = subject;
    if kind != "ServiceAccount" {
        return format!("{kind} {name:?}");
    }
    let namespace = namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or(&binding.namespace);
    format!("{kind} \"{name}/{namespace}\"")
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::super::Resource;
    use super::*;

    fn objects<T: DeserializeOwned>(objects: Value) -> Vec<T> {
        serde_json::from_value(objects).unwrap()
    }

    fn policy() -> Policy {
        let read = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]);
        let write = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["delete"]}]);
        let cluster = |name: &str| json!({"kind": "ClusterRole", "name": name});
        Policy::of(
            objects(json!([{"metadata": {"name": "writer", "namespace": "n"}, "rules": write}])),
            objects(json!([{"metadata": {"name": "reader"}, "rules": read}])),
            objects(json!([
                {"metadata": {"name": "a", "namespace": "n"}, "roleRef": {"kind": "Role", "name": "writer"},
                 "subjects": [{"kind": "ServiceAccount", "name": "bot"}, {"kind": "User", "name": "ann"}]},
                {"metadata": {"name": "b", "namespace": "m"}, "roleRef": cluster("reader"),
                 "subjects": [{"kind": "User", "name": "ann"}]},
                {"metadata": {"name": "c", "namespace": "m"}, "roleRef": cluster("gone"),
                 "subjects": [{"kind": "User", "name": "ann"}]},
            ])),
            objects(json!([{
                "metadata": {"name": "all"}, "roleRef": cluster("reader"),
                "subjects": [{"kind": "Group", "name": "staff"}],
            }])),
        )
    }

    #[test]
    fn bindings_give_their_roles_where_they_are() {
        let policy = policy();
        let user = |name: &str, group: &str| User { name: name.into(), groups: vec![group.into()], ..User::default() };
        let (ann, bob) = (user("ann", AUTH), user("bob", "staff"));
        let (bot, other) = (User::service_account("n", "bot", ""), User::service_account("m", "bot", ""));
        let ask = |user: &User, verb: &str, namespace: &str| {
            let (resource, namespace) = ("pods".to_owned(), namespace.to_owned());
            policy.allow(user, &Attributes::on(verb, Resource { resource, namespace, ..Resource::default() }))
        };
        let by = |text: &str| Some(format!("RBAC: allowed by {text}"));
        assert_eq!(ask(&ann, "delete", "n"), by(r#"RoleBinding "a/n" of Role "writer" to User "ann""#));
        assert_eq!(ask(&ann, "get", "m"), by(r#"RoleBinding "b/m" of ClusterRole "reader" to User "ann""#));
        assert_eq!((ask(&ann, "get", "n"), ask(&ann, "delete", "m"), ask(&ann, "list", "")), (None, None, None));
        assert_eq!(ask(&bob, "list", ""), by(r#"ClusterRoleBinding "all" of ClusterRole "reader" to Group "staff""#));
        assert_eq!(ask(&bot, "delete", "n"), by(r#"RoleBinding "a/n" of Role "writer" to ServiceAccount "bot/n""#));
        assert_eq!((ask(&other, "delete", "n"), ask(&bot, "delete", "m")), (None, None));
        assert_eq!(ask(&user("root", super::super::MASTERS), "anything", "n"), Some(String::new()));
        assert_eq!((policy.rules_for(&ann, "n").len(), policy.rules_for(&ann, "m").len()), (1, 1));
    }

    const AUTH: &str = super::super::AUTHENTICATED;
}
