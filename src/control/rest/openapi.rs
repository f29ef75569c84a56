//! OpenAPI v3: what the API's paths take and what its objects consist of.
//!
//! One document for each group and version, and an index with the hash of each, so that a client keeps a document until
//! its hash changes. `kubectl` reads three things in them: that PATCH takes `fieldValidation` (so the server validates and
//! the client need not), the schemas of kinds for `explain`, and the merge keys of lists for computing patches.
//!
//! Of OpenAPI v2 there is an empty document only, for old clients: `kubectl` 1.20 sends nothing when it cannot get one, and
//! leaves the validation of kinds that are not in it to the server. Its `explain` finds nothing there.
//!
//! Source: kubernetes v1.36, `/openapi/v3`; KEP-2896; `k8s.io/kube-openapi/pkg/handler3`.

mod paths;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::authentication::v1::{SelfSubjectReview, TokenReview};
use k8s_openapi::api::authorization::v1::{
    LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview,
};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Event, Namespace, Node, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use serde_json::{Map, Value, json};

use super::document::Document;
use crate::api::metrics::{NodeMetrics, PodMetrics};
use crate::api::schema::Components;
use crate::control::kinds::{KINDS, Kind};
use crate::control::shape::{Keyed, Rule, Shape, shape_of};

const JSON: &str = "application/json";
/// Marks the schema of a kind, with its group, version and name.
const KIND_EXTENSION: &str = "x-kubernetes-group-version-kind";

/// `Cache-Control` of a document asked for by its hash: under that address it never changes.
pub const FOREVER: &str = "public, max-age=31536000, immutable";

/// An OpenAPI v2 document in protobuf: `swagger` (field 1) is `2.0`, `info` (field 2) has `title` and `version`.
///
/// Source: gnostic, `openapiv2/OpenAPIv2.proto`.
const EMPTY_V2: &[u8] = b"\x0a\x032.0\x12\x13\x0a\x0aKubernetes\x12\x05v1.36";

/// The documents of OpenAPI.
#[derive(Debug)]
pub struct OpenApi {
    /// `/openapi/v3`.
    pub index: Document,
    v2: Document,
    documents: BTreeMap<String, Document>,
}

/// The documents of this server. Half a megabyte, made when first asked for.
pub static OPENAPI: LazyLock<OpenApi> = LazyLock::new(|| OpenApi::of(KINDS));

impl OpenApi {
    fn of(kinds: &[&'static Kind]) -> Self {
        let mut by_version: BTreeMap<String, Vec<&Kind>> = BTreeMap::new();
        for kind in kinds {
            by_version.entry(paths::root(kind)).or_default().push(kind);
        }
        let documents: BTreeMap<String, Document> = by_version
            .into_iter()
            .map(|(root, kinds)| (root.trim_start_matches('/').to_owned(), Document::json(&content(&kinds), JSON)))
            .collect();
        let index: Map<String, Value> = documents
            .iter()
            .map(|(path, document)| {
                let url = format!("/openapi/v3/{path}?hash={}", document.hash);
                (path.clone(), json!({"serverRelativeURL": url}))
            })
            .collect();
        Self {
            index: Document::json(&json!({"paths": index}), JSON),
            // Clients ask for `...v2@v1.0+protobuf`, but cannot parse the `@` in an answer.
            v2: Document::new(EMPTY_V2, "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"),
            documents,
        }
    }

    /// `/openapi/v2` for a client with this `Accept` header; `None` (406) if it does not take protobuf.
    pub fn v2_accepted_by(&self, accept: &str) -> Option<&Document> {
        accept.contains("application/com.github.proto-openapi.spec.v2").then_some(&self.v2)
    }

    /// The document of a group and version, by what follows `/openapi/v3/` in its path: `api/v1`, `apis/apps/v1`.
    pub fn document(&self, path: &str) -> Option<&Document> {
        self.documents.get(path)
    }
}

/// The document of the kinds of one group and version.
fn content(kinds: &[&Kind]) -> Value {
    let components = kinds.iter().fold(Components::default(), |components, kind| add_kind(components, kind));
    let mut schemas = components.object::<Status>().into_schemas();
    for kind in kinds {
        add_merge_rules(&mut schemas, shape_of(kind));
    }
    make_metadata_optional(&mut schemas);
    let names = names_of_kinds(&schemas);
    let paths: Map<String, Value> = kinds.iter().flat_map(|kind| paths::of_kind(kind, &names)).collect();
    let mut content =
        json!({"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.36"}, "components": {}});
    // Moved in: the macro would copy what it is given.
    content["paths"] = Value::Object(paths);
    content["components"]["schemas"] = Value::Object(schemas);
    content
}

fn add_kind(components: Components, kind: &Kind) -> Components {
    match kind.kind {
        "CertificateSigningRequest" => components.kind::<CertificateSigningRequest>(),
        "ClusterRole" => components.kind::<ClusterRole>(),
        "ClusterRoleBinding" => components.kind::<ClusterRoleBinding>(),
        "ConfigMap" => components.kind::<ConfigMap>(),
        "ControllerRevision" => components.kind::<ControllerRevision>(),
        "DaemonSet" => components.kind::<DaemonSet>(),
        "EndpointSlice" => components.kind::<EndpointSlice>(),
        "Endpoints" => components.kind::<Endpoints>(),
        "Event" if kind.group == "events.k8s.io" => components.kind::<events::v1::Event>(),
        "Event" => components.kind::<Event>(),
        "Lease" => components.kind::<Lease>(),
        "LocalSubjectAccessReview" => components.object::<LocalSubjectAccessReview>(),
        "Namespace" => components.kind::<Namespace>(),
        "NetworkPolicy" => components.kind::<NetworkPolicy>(),
        "Node" => components.kind::<Node>(),
        "NodeMetrics" => components.kind::<NodeMetrics>(),
        "Pod" => components.kind::<Pod>(),
        "PodMetrics" => components.kind::<PodMetrics>(),
        "PodDisruptionBudget" => components.kind::<PodDisruptionBudget>(),
        "PriorityClass" => components.kind::<PriorityClass>(),
        "Role" => components.kind::<Role>(),
        "RoleBinding" => components.kind::<RoleBinding>(),
        "RuntimeClass" => components.kind::<RuntimeClass>(),
        "Secret" => components.kind::<Secret>(),
        "SelfSubjectAccessReview" => components.object::<SelfSubjectAccessReview>(),
        "SelfSubjectReview" => components.object::<SelfSubjectReview>(),
        "SelfSubjectRulesReview" => components.object::<SelfSubjectRulesReview>(),
        "Service" => components.kind::<Service>(),
        "ServiceAccount" => components.kind::<ServiceAccount>(),
        "SubjectAccessReview" => components.object::<SubjectAccessReview>(),
        "TokenReview" => components.object::<TokenReview>(),
        _ => components,
    }
}

/// Says in the schemas which lists patches and server-side apply merge, by which keys, and which objects are one value.
fn add_merge_rules(schemas: &mut Map<String, Value>, shape: &Shape) {
    for (field, rule) in shape.fields {
        let property = schemas.get_mut(shape.definition).and_then(|schema| schema["properties"].get_mut(*field));
        if let Some(Value::Object(property)) = property {
            property.extend(extensions(rule).into_iter().map(|(name, value)| (name.to_owned(), value)));
        }
        match rule {
            Rule::Object(below) | Rule::Keyed(Keyed { item: below, .. }) => add_merge_rules(schemas, below),
            Rule::Set | Rule::Atomic => {}
        }
    }
}

/// The fields of a property's schema that tell its rule.
fn extensions(rule: &Rule) -> Vec<(&'static str, Value)> {
    const STRATEGY: &str = "x-kubernetes-patch-strategy";
    const LIST_TYPE: &str = "x-kubernetes-list-type";
    match rule {
        Rule::Object(_) => Vec::new(),
        Rule::Atomic => vec![("x-kubernetes-map-type", "atomic".into())],
        Rule::Set => vec![(STRATEGY, "merge".into()), (LIST_TYPE, "set".into())],
        Rule::Keyed(keyed) => {
            let mut extensions = vec![
                (STRATEGY, if keyed.retain_keys { "merge,retainKeys" } else { "merge" }.into()),
                ("x-kubernetes-patch-merge-key", keyed.key.into()),
            ];
            let keys: Vec<&str> = keyed.apply_keys().collect();
            if keys.is_empty() {
                extensions.push((LIST_TYPE, "atomic".into()));
            } else {
                extensions.extend([(LIST_TYPE, "map".into()), ("x-kubernetes-list-map-keys", keys.into())]);
            }
            extensions
        }
    }
}

/// Takes `metadata` off the required fields of kinds: it is k8s-openapi's Rust types that cannot do without.
fn make_metadata_optional(schemas: &mut Map<String, Value>) {
    for schema in schemas.values_mut().filter(|schema| schema.get(KIND_EXTENSION).is_some()) {
        if let Some(required) = schema["required"].as_array_mut() {
            required.retain(|field| field != "metadata");
        }
    }
}

/// The names of the schemas of kinds, by kind.
fn names_of_kinds(schemas: &Map<String, Value>) -> BTreeMap<String, String> {
    schemas
        .iter()
        .filter_map(|(name, schema)| {
            let kind = schema.get(KIND_EXTENSION)?[0]["kind"].as_str()?;
            Some((kind.to_owned(), name.clone()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::control::kinds::DAEMON_SET;

    fn body(document: &Document) -> Value {
        serde_json::from_slice(&document.body).unwrap()
    }

    fn document(path: &str) -> Value {
        body(OPENAPI.document(path).unwrap())
    }

    #[test]
    fn the_index_names_each_document_with_its_hash() {
        let index = body(&OPENAPI.index);
        let paths = index["paths"].as_object().unwrap();
        let of = |kind: &&Kind| {
            if kind.group.is_empty() { "api/v1".to_owned() } else { format!("apis/{}", kind.api_version()) }
        };
        assert_eq!(paths.keys().cloned().collect::<BTreeSet<_>>(), KINDS.iter().map(of).collect());
        for (path, entry) in paths {
            let hash = &OPENAPI.document(path).unwrap().hash;
            assert_eq!(entry["serverRelativeURL"], format!("/openapi/v3/{path}?hash={hash}"));
        }
        assert!(OPENAPI.document("apis/batch/v1").is_none() && OPENAPI.document("").is_none());
    }

    #[test]
    fn version_2_is_there_for_clients_that_cannot_do_without() {
        let asked = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
        let document = OPENAPI.v2_accepted_by(asked).unwrap();
        assert_eq!(document.content_type, "application/com.github.proto-openapi.spec.v2.v1.0+protobuf");
        assert!(OPENAPI.v2_accepted_by("application/json, */*").is_none());
    }

    #[test]
    fn every_kind_can_be_explained_and_is_validated_by_the_server() {
        for kind in KINDS {
            let root = paths::root(kind);
            let document = document(root.trim_start_matches('/'));
            let gvk = json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
            let schemas = document["components"]["schemas"].as_object().unwrap();
            let schema = schemas.values().find(|schema| schema[KIND_EXTENSION][0] == gvk);
            let schema = schema.unwrap_or_else(|| panic!("{} has no schema", kind.kind));
            assert!(
                schema["properties"]["metadata"].is_object() && schema["required"].get(0) != Some(&json!("metadata"))
            );

            let namespace = if kind.namespaced { "/namespaces/{namespace}" } else { "" };
            let collection = &document["paths"][format!("{root}{namespace}/{}", kind.plural)];
            let object = &document["paths"][format!("{root}{namespace}/{}/{{name}}", kind.plural)];
            let changing = if kind.is_kept() { vec![&object["put"], &object["patch"]] } else { Vec::new() };
            let creating = kind.verbs.contains(&"create").then_some(&collection["post"]);
            for operation in changing.into_iter().chain(creating) {
                assert_eq!(operation["x-kubernetes-group-version-kind"], gvk);
                let parameters = operation["parameters"].as_array().unwrap();
                for name in ["dryRun", "fieldManager", "fieldValidation"] {
                    assert!(parameters.iter().any(|parameter| parameter["name"] == name), "{} {name}", kind.kind);
                }
            }
            let patches = object["patch"]["requestBody"]["content"].as_object().map_or(0, Map::len);
            assert_eq!(patches, if kind.is_kept() { 4 } else { 0 }, "{}", kind.kind);
            for subresource in kind.subresources {
                let path = format!("{root}{namespace}/{}/{{name}}/{}", kind.plural, subresource.name);
                assert!(document["paths"][path].is_object(), "{}/{}", kind.plural, subresource.name);
            }
        }
    }

    #[test]
    fn operations_are_those_that_the_verbs_of_a_kind_grant() {
        let paths = &document("api/v1")["paths"];
        let at = |path: &str| paths[path].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(at("/api/v1/pods"), ["get", "parameters"]);
        assert_eq!(at("/api/v1/namespaces"), ["get", "parameters", "post"], "namespaces have no deletecollection");
        assert_eq!(at("/api/v1/nodes"), ["delete", "get", "parameters", "post"]);
        assert_eq!(at("/api/v1/namespaces/{namespace}/pods/{name}/log"), ["get", "parameters"]);
        assert_eq!(at("/api/v1/nodes/{name}/status"), ["get", "parameters", "patch", "put"]);
        let parameters = &paths["/api/v1/namespaces/{namespace}/pods/{name}"]["parameters"];
        assert_eq!((&parameters[0]["name"], &parameters[1]["name"]), (&json!("namespace"), &json!("name")));
        assert_eq!(
            paths["/api/v1/nodes"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]["$ref"],
            "#/components/schemas/io.k8s.api.core.v1.NodeList"
        );
    }

    #[test]
    fn every_rule_for_merging_lists_is_about_a_field_of_the_schema() {
        for kind in KINDS {
            let root = paths::root(kind);
            check_shape(shape_of(kind), &document(root.trim_start_matches('/'))["components"]["schemas"]);
        }
        let schemas = &document("apis/apps/v1")["components"]["schemas"];
        let volumes = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["volumes"];
        assert_eq!(volumes["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(volumes["x-kubernetes-patch-strategy"], "merge,retainKeys");
        assert!(
            schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["tolerations"]
                .get("x-kubernetes-patch-strategy")
                .is_none()
        );
        assert_eq!(shape_of(&DAEMON_SET).definition, "io.k8s.api.apps.v1.DaemonSet");
    }

    fn check_shape(shape: &Shape, schemas: &Value) {
        for (field, rule) in shape.fields {
            // Kinds without rules of their own share one shape, which has no definition.
            let property = &schemas[shape.definition]["properties"][field];
            for (name, value) in extensions(rule) {
                assert_eq!(property.get(name), Some(&value), "{}.{field}", shape.definition);
            }
            if let Rule::Object(below) | Rule::Keyed(Keyed { item: below, .. }) = rule {
                check_shape(below, schemas);
            }
        }
    }
}
