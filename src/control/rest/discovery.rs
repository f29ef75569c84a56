//! Discovery: which groups, versions and resources the API serves.
//!
//! Built from [`KINDS`]. Newer clients take everything in two aggregated documents, older ones one document for each
//! group and version. The aggregated form must carry its own content type: under `application/json` clients take it for
//! the old form and find nothing.
//!
//! Source: kubernetes v1.36, `k8s.io/api/apidiscovery/v2`; KEP-3352.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::document::Document;
use crate::control::kinds::{KINDS, Kind};

const JSON: &str = "application/json";
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// All documents of discovery.
#[derive(Debug)]
pub struct Discovery {
    /// `/api`.
    pub core: Forms,
    /// `/apis`.
    pub groups: Forms,
    /// `/apis/{group}`.
    group: BTreeMap<&'static str, Document>,
    /// `/api/v1` under `v1`, `/apis/{group}/{version}` under `{group}/{version}`.
    resources: BTreeMap<String, Document>,
}

/// One path in both forms.
#[derive(Debug)]
pub struct Forms {
    aggregated: Document,
    legacy: Document,
}

/// The documents of this server. Some ten kilobytes, made when first asked for.
pub static DISCOVERY: LazyLock<Discovery> = LazyLock::new(|| Discovery::of(KINDS));

impl Forms {
    /// The form that an `Accept` header prefers. Answers differ by it, so they must say `Vary: Accept`.
    ///
    /// Media ranges are taken in the order written, as the API server does. `v2beta1` is not served.
    pub fn accepted_by(&self, accept: &str) -> &Document {
        let first_known = accept.split(',').find_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default();
            let parameters: Vec<&str> = parts.filter(|parameter| !parameter.starts_with("q=")).collect();
            let plain = !parameters.iter().any(|parameter| parameter.starts_with("as="));
            let v2 = ["g=apidiscovery.k8s.io", "v=v2", "as=APIGroupDiscoveryList"];
            match media_type {
                JSON if v2.iter().all(|wanted| parameters.contains(wanted)) => Some(&self.aggregated),
                JSON | "application/*" | "*/*" if plain => Some(&self.legacy),
                _ => None,
            }
        });
        first_known.unwrap_or(&self.legacy)
    }
}

impl Discovery {
    fn of(kinds: &[&'static Kind]) -> Self {
        let (core, named): (Vec<_>, Vec<_>) = groups(kinds).into_iter().partition(|group| group.name.is_empty());
        let mut resources = BTreeMap::new();
        for group in core.iter().chain(&named) {
            for (_, kinds) in &group.versions {
                resources.insert(kinds[0].api_version(), Document::json(&resource_list(kinds), JSON));
            }
        }
        let versions: Vec<&str> = core.iter().flat_map(|group| &group.versions).map(|(version, _)| *version).collect();
        let legacy_core = json!({"kind": "APIVersions", "versions": versions, "serverAddressByClientCIDRs": []});
        let legacy_groups = json!({
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": named.iter().map(api_group).collect::<Value>(),
        });
        Self {
            core: Forms { aggregated: aggregated(&core), legacy: Document::json(&legacy_core, JSON) },
            groups: Forms { aggregated: aggregated(&named), legacy: Document::json(&legacy_groups, JSON) },
            group: named.iter().map(|group| (group.name, group_document(group))).collect(),
            resources,
        }
    }

    /// `/apis/{group}`, if there is such a group.
    pub fn group(&self, name: &str) -> Option<&Document> {
        self.group.get(name)
    }

    /// The resources of an `apiVersion`: `v1` is `/api/v1`, `apps/v1` is `/apis/apps/v1`.
    pub fn resources(&self, api_version: &str) -> Option<&Document> {
        self.resources.get(api_version)
    }
}

/// The kinds of one group by version, the preferred version first.
struct Group {
    name: &'static str,
    versions: Vec<(&'static str, Vec<&'static Kind>)>,
}

/// Groups, and versions within a group, in the order in which they first come.
fn groups(kinds: &[&'static Kind]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for kind in kinds {
        let place = groups.iter().position(|group| group.name == kind.group).unwrap_or_else(|| {
            groups.push(Group { name: kind.group, versions: Vec::new() });
            groups.len() - 1
        });
        let versions = &mut groups[place].versions;
        match versions.iter_mut().find(|(version, _)| *version == kind.version) {
            Some((_, kinds)) => kinds.push(kind),
            None => versions.push((kind.version, vec![kind])),
        }
    }
    groups
}

// === the aggregated form ===

fn aggregated(groups: &[Group]) -> Document {
    let items: Value = groups
        .iter()
        .map(|group| {
            let versions = group.versions.iter().map(|(version, kinds)| {
                let resources: Value = kinds.iter().map(|kind| aggregated_resource(kind)).collect();
                json!({"version": version, "resources": resources, "freshness": "Current"})
            });
            let metadata = if group.name.is_empty() { json!({}) } else { json!({"name": group.name}) };
            json!({"metadata": metadata, "versions": versions.collect::<Value>()})
        })
        .collect();
    let list = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    });
    Document::json(&list, AGGREGATED)
}

fn aggregated_resource(kind: &Kind) -> Value {
    // Group and version are empty where they are those of the enclosing list.
    let response_kind = json!({"group": "", "version": "", "kind": kind.kind});
    let mut resource = json!({
        "resource": kind.plural,
        "responseKind": response_kind,
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": kind.verbs,
    });
    add_names(&mut resource, kind);
    if !kind.subresources.is_empty() {
        let subresources = kind.subresources.iter().map(|subresource| {
            let foreign = |kind: &Kind| json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
            let response_kind = subresource.takes.map_or_else(|| response_kind.clone(), foreign);
            json!({"subresource": subresource.name, "responseKind": response_kind, "verbs": subresource.verbs})
        });
        resource["subresources"] = subresources.collect();
    }
    resource
}

// === the old form ===

fn api_group(group: &Group) -> Value {
    let version = |version: &str| json!({"groupVersion": format!("{}/{version}", group.name), "version": version});
    let versions: Vec<Value> = group.versions.iter().map(|(name, _)| version(name)).collect();
    json!({"name": group.name, "preferredVersion": versions[0], "versions": versions})
}

fn group_document(group: &Group) -> Document {
    let mut document = api_group(group);
    document["kind"] = "APIGroup".into();
    document["apiVersion"] = "v1".into();
    Document::json(&document, JSON)
}

/// The resources of one group and version, subresources as entries of their own.
fn resource_list(kinds: &[&Kind]) -> Value {
    let mut resources = Vec::new();
    for kind in kinds {
        let mut resource = json!({
            "name": kind.plural,
            "singularName": kind.singular,
            "namespaced": kind.namespaced,
            "kind": kind.kind,
            "verbs": kind.verbs,
        });
        add_names(&mut resource, kind);
        resources.push(resource);
        resources.extend(kind.subresources.iter().map(|subresource| {
            let mut resource = json!({
                "name": format!("{}/{}", kind.plural, subresource.name),
                "singularName": "",
                "namespaced": kind.namespaced,
                "kind": subresource.takes.unwrap_or(kind).kind,
                "verbs": subresource.verbs,
            });
            if let Some(foreign) = subresource.takes {
                resource["group"] = foreign.group.into();
                resource["version"] = foreign.version.into();
            }
            resource
        }));
    }
    json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": kinds[0].api_version(),
        "resources": resources,
    })
}

/// Adds the names and categories a kind has besides its own; both forms spell them alike.
fn add_names(resource: &mut Value, kind: &Kind) {
    if !kind.short_names.is_empty() {
        resource["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        resource["categories"] = json!(kind.categories);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KUBECTL_1_32: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                                application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
    const KUBECTL_1_28: &str =
        "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";

    fn body(document: &Document) -> Value {
        serde_json::from_slice(&document.body).unwrap()
    }

    fn found<'a>(list: &'a Value, field: &str, name: &str) -> &'a Value {
        list.as_array().unwrap().iter().find(|entry| entry[field] == name).unwrap()
    }

    #[test]
    fn new_clients_get_all_groups_in_one_document() {
        let groups = DISCOVERY.groups.accepted_by(KUBECTL_1_32);
        assert_eq!(groups.content_type, "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
        let groups = body(groups);
        assert_eq!(groups["apiVersion"], "apidiscovery.k8s.io/v2");
        assert_eq!(groups["items"][0]["metadata"], json!({"name": "apps"}));
        let version = &groups["items"][0]["versions"][0];
        assert_eq!((&version["version"], &version["freshness"]), (&json!("v1"), &json!("Current")));
        let own = |kind| json!({"group": "", "version": "", "kind": kind});
        assert_eq!(
            *found(&version["resources"], "resource", "daemonsets"),
            json!({
                "resource": "daemonsets", "responseKind": own("DaemonSet"), "scope": "Namespaced",
                "singularResource": "daemonset", "shortNames": ["ds"], "categories": ["all"],
                "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
                "subresources": [
                    {
                        "subresource": "rollout", "verbs": ["get"],
                        "responseKind": {"group": "garrison.dev", "version": "v1", "kind": "Rollout"},
                    },
                    {"subresource": "status", "responseKind": own("DaemonSet"), "verbs": ["get", "patch", "update"]}],
            })
        );

        let core = body(DISCOVERY.core.accepted_by(KUBECTL_1_32));
        assert_eq!(core["items"][0]["metadata"], json!({}), "the core group has no name");
        let resources = &core["items"][0]["versions"][0]["resources"];
        assert_eq!(found(resources, "resource", "nodes")["scope"], "Cluster");
        let secrets = found(resources, "resource", "secrets");
        assert_eq!((secrets.get("shortNames"), secrets.get("subresources")), (None, None));
    }

    #[test]
    fn old_clients_walk_from_group_to_group() {
        for accept in [KUBECTL_1_28, "application/json, */*", "*/*", "", "text/html"] {
            let core = DISCOVERY.core.accepted_by(accept);
            assert_eq!(core.content_type, "application/json", "{accept}");
            assert_eq!(body(core)["versions"], json!(["v1"]));
        }
        let version = json!({"groupVersion": "apps/v1", "version": "v1"});
        let apps = json!({"name": "apps", "preferredVersion": version, "versions": [version]});
        assert_eq!(body(DISCOVERY.groups.accepted_by(KUBECTL_1_28))["groups"][0], apps);
        let group = body(DISCOVERY.group("apps").unwrap());
        assert_eq!(
            (&group["kind"], &group["name"], &group["versions"]),
            (&json!("APIGroup"), &json!("apps"), &json!([version]))
        );

        let list = body(DISCOVERY.resources("v1").unwrap());
        assert_eq!((&list["kind"], &list["groupVersion"]), (&json!("APIResourceList"), &json!("v1")));
        assert_eq!(
            *found(&list["resources"], "name", "pods/log"),
            json!({"name": "pods/log", "singularName": "", "namespaced": true, "kind": "Pod", "verbs": ["get"]})
        );
        assert_eq!(found(&list["resources"], "name", "configmaps")["shortNames"], json!(["cm"]));
        assert_eq!(
            *found(&list["resources"], "name", "serviceaccounts/token"),
            json!({
                "name": "serviceaccounts/token", "singularName": "", "namespaced": true, "kind": "TokenRequest",
                "group": "authentication.k8s.io", "version": "v1", "verbs": ["create"],
            })
        );
        assert_eq!(body(DISCOVERY.resources("apps/v1").unwrap())["groupVersion"], "apps/v1");
    }

    #[test]
    fn what_is_not_served_is_not_found() {
        assert!(DISCOVERY.group("").is_none() && DISCOVERY.group("batch").is_none());
        assert!(DISCOVERY.resources("apps/v1beta1").is_none() && DISCOVERY.resources("apps").is_none());
    }
}
