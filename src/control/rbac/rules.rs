//! What one rule allows, and whether some rules cover others.
//!
//! Source: kubernetes v1.36, `pkg/apis/rbac/v1/evaluation_helpers.go` and
//! `k8s.io/component-helpers/auth/rbac/validation/policy_comparator.go`.

use k8s_openapi::api::rbac::v1::PolicyRule;

use super::{About, Attributes, Resource};

const ALL: &str = "*";

/// The rule allows a request.
pub fn allows(rule: &PolicyRule, attributes: &Attributes) -> bool {
    has(&rule.verbs, &attributes.verb)
        && match &attributes.about {
            About::Resource(resource) => allows_resource(rule, resource),
            About::Path(path) => list(&rule.non_resource_urls).iter().any(|allowed| covers_path(allowed, path)),
        }
}

fn allows_resource(rule: &PolicyRule, resource: &Resource) -> bool {
    let names = list(&rule.resource_names);
    has(list(&rule.api_groups), &resource.group)
        && list(&rule.resources).iter().any(|allowed| is_resource(allowed, resource))
        && (names.is_empty() || names.contains(&resource.name))
}

fn is_resource(allowed: &str, Resource { resource, subresource, .. }: &Resource) -> bool {
    match allowed.split_once('/') {
        _ if allowed == ALL => true,
        Some((of, part)) => part == subresource && !subresource.is_empty() && (of == ALL || of == resource),
        None => allowed == resource && subresource.is_empty(),
    }
}

/// A path of a rule ends in `*` for all that begin like it.
fn covers_path(allowed: &str, path: &str) -> bool {
    allowed == path || allowed.strip_suffix('*').is_some_and(|start| path.starts_with(start.trim_end_matches('*')))
}

/// Everything that `wanted` allows, `owned` allows: gives what it does not, one thing each; nothing if it does.
pub fn uncovered(owned: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    let parts = wanted.iter().flat_map(break_down);
    parts.filter(|part| !owned.iter().any(|rule| covers(rule, part))).collect()
}

/// A rule as rules about one verb of one thing.
fn break_down(rule: &PolicyRule) -> Vec<PolicyRule> {
    let mut parts = Vec::new();
    let one = |text: &String| Some(vec![text.clone()]);
    for verb in &rule.verbs {
        let verbs = vec![verb.clone()];
        for group in list(&rule.api_groups) {
            for resource in list(&rule.resources) {
                let part = PolicyRule {
                    api_groups: one(group),
                    resources: one(resource),
                    verbs: verbs.clone(),
                    ..PolicyRule::default()
                };
                match list(&rule.resource_names) {
                    [] => parts.push(part),
                    names => {
                        parts.extend(names.iter().map(|name| PolicyRule { resource_names: one(name), ..part.clone() }));
                    }
                }
            }
        }
        let urls = list(&rule.non_resource_urls);
        parts.extend(urls.iter().map(|url| PolicyRule {
            non_resource_urls: one(url),
            verbs: verbs.clone(),
            ..PolicyRule::default()
        }));
    }
    parts
}

/// One rule allows all that a part does.
fn covers(rule: &PolicyRule, part: &PolicyRule) -> bool {
    let all = |of_part: &[String], allowed: &dyn Fn(&String) -> bool| of_part.iter().all(allowed);
    let names = list(&rule.resource_names);
    all(&part.verbs, &|verb| has(&rule.verbs, verb))
        && all(list(&part.api_groups), &|group| has(list(&rule.api_groups), group))
        && all(list(&part.resources), &|resource| covers_resource(list(&rule.resources), resource))
        && all(list(&part.non_resource_urls), &|url| {
            list(&rule.non_resource_urls).iter().any(|own| covers_path(own, url))
        })
        && match list(&part.resource_names) {
            [] => names.is_empty() || !list(&part.non_resource_urls).is_empty(),
            wanted => names.is_empty() || all(wanted, &|name| names.contains(name)),
        }
}

fn covers_resource(owned: &[String], resource: &str) -> bool {
    let every = resource.split_once('/').map(|(_, part)| format!("*/{part}"));
    owned.iter().any(|own| own == ALL || own == resource || every.as_deref() == Some(own))
}

fn has(list: &[String], value: &str) -> bool {
    list.iter().any(|own| own == ALL || own == value)
}

fn list(list: &Option<Vec<String>>) -> &[String] {
    list.as_deref().unwrap_or_default()
}

/// Rules as messages print them.
///
/// Source: kubernetes v1.36, `pkg/apis/rbac/helpers.go`, `CompactString`.
pub fn compact(rule: &PolicyRule) -> String {
    let parts = [
        ("APIGroups", list(&rule.api_groups)),
        ("Resources", list(&rule.resources)),
        ("NonResourceURLs", list(&rule.non_resource_urls)),
        ("ResourceNames", list(&rule.resource_names)),
        ("Verbs", &rule.verbs),
    ];
    let printed = parts.into_iter().filter(|(_, values)| !values.is_empty()).map(|(name, values)| {
        let values: Vec<String> = values.iter().map(|value| format!("{value:?}")).collect();
        format!("{name}:[{}]", values.join(" "))
    });
    format!("{{{}}}", printed.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn rule(rule: Value) -> PolicyRule {
        serde_json::from_value(rule).unwrap()
    }

    fn on(verb: &str, group: &str, resource: &str, name: &str) -> Attributes {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Attributes::on(
            verb,
            Resource {
                group: group.into(),
                resource: resource.into(),
                subresource: subresource.into(),
                name: name.into(),
                ..Resource::default()
            },
        )
    }

    #[test]
    fn a_rule_allows_what_it_names_and_what_its_stars_do() {
        let pods = rule(json!({"apiGroups": [""], "resources": ["pods", "*/log"], "verbs": ["get", "list"]}));
        let named = rule(json!({
            "apiGroups": ["apps"], "resources": ["daemonsets"], "resourceNames": ["a"], "verbs": ["*"],
        }));
        let all = rule(json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}));
        let cases = [
            (&pods, on("get", "", "pods", "x"), true),
            (&pods, on("watch", "", "pods", ""), false),
            (&pods, on("get", "apps", "pods", "x"), false),
            (&pods, on("get", "", "pods/log", "x"), true),
            (&pods, on("get", "", "pods/exec", "x"), false),
            (&pods, on("get", "", "nodes/log", "x"), true),
            (&named, on("delete", "apps", "daemonsets", "a"), true),
            (&named, on("delete", "apps", "daemonsets", "b"), false),
            (&named, on("list", "apps", "daemonsets", ""), false),
            (&named, on("patch", "apps", "daemonsets/status", "a"), false),
            (&all, on("impersonate", "x", "anything/part", "y"), true),
        ];
        for (rule, attributes, expected) in cases {
            assert_eq!(allows(rule, &attributes), expected, "{} {attributes:?}", compact(rule));
        }
        let paths = rule(json!({"nonResourceURLs": ["/healthz", "/api/*"], "verbs": ["get"]}));
        for (path, expected) in [("/healthz", true), ("/healthz/x", false), ("/api/v1", true), ("/api", false)] {
            let attributes = Attributes { verb: "get".into(), about: About::Path(path.into()) };
            assert_eq!(allows(&paths, &attributes), expected, "{path}");
            assert!(!allows(&all, &attributes), "stars of resources are not about paths");
        }
    }

    #[test]
    fn rules_cover_others_one_by_one() {
        let owned = [
            rule(json!({"apiGroups": [""], "resources": ["pods", "*/status"], "verbs": ["get", "list"]})),
            rule(json!({"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"], "verbs": ["*"]})),
            rule(json!({"nonResourceURLs": ["/metrics*"], "verbs": ["get"]})),
        ];
        let left = |wanted: Value| uncovered(&owned, &[rule(wanted)]).iter().map(compact).collect::<Vec<_>>();
        let nothing = Vec::<String>::new();
        assert_eq!(left(json!({"apiGroups": [""], "resources": ["pods", "nodes/status"], "verbs": ["get"]})), nothing);
        assert_eq!(
            left(json!({"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"], "verbs": ["get"]})),
            nothing
        );
        assert_eq!(left(json!({"nonResourceURLs": ["/metrics/x"], "verbs": ["get"]})), nothing);
        assert_eq!(
            left(json!({"apiGroups": [""], "resources": ["pods", "secrets"], "verbs": ["get", "watch"]})),
            [
                r#"{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}"#,
                r#"{APIGroups:[""], Resources:["pods"], Verbs:["watch"]}"#,
                r#"{APIGroups:[""], Resources:["secrets"], Verbs:["watch"]}"#,
            ]
        );
        assert_eq!(
            left(json!({"nonResourceURLs": ["*"], "verbs": ["get"]})),
            [r#"{NonResourceURLs:["*"], Verbs:["get"]}"#]
        );
    }
}
