//! The schemas of Kubernetes' types, as OpenAPI 3.0 wants them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use k8s_openapi::schemars::JsonSchema;
use k8s_openapi::schemars::generate::{SchemaGenerator, SchemaSettings};
use k8s_openapi::{ListableResource, Resource};
use serde_json::{Map, Value, json};

/// Collects schemas: those of the kinds added, of their lists, and of every type below them.
pub struct Components {
    generator: SchemaGenerator,
    kinds: Vec<(String, Value)>,
}

impl Default for Components {
    fn default() -> Self {
        Self { generator: SchemaSettings::openapi3().into_generator(), kinds: Vec::new() }
    }
}

impl Components {
    /// Adds a kind and its list.
    #[must_use]
    pub fn kind<T: JsonSchema + ListableResource>(self) -> Self {
        let mut added = self.object::<T>();
        let list = list_schema::<T>(&mut added.generator);
        let name = format!("{}List", T::schema_name());
        added.generator.definitions_mut().insert(name.clone(), list);
        added.kinds.push((name, json!({"group": T::GROUP, "version": T::VERSION, "kind": T::LIST_KIND})));
        added
    }

    /// Adds a kind that has no list, such as `Status`.
    #[must_use]
    pub fn object<T: JsonSchema + Resource>(mut self) -> Self {
        self.generator.subschema_for::<T>();
        let kind = json!({"group": T::GROUP, "version": T::VERSION, "kind": T::KIND});
        self.kinds.push((T::schema_name().into_owned(), kind));
        self
    }

    /// The schemas for `components.schemas`, by name: `io.k8s.api.apps.v1.DaemonSet`.
    ///
    /// References to other types are under `allOf`, beside the field's own description. Kinds carry
    /// `x-kubernetes-group-version-kind`, by which `kubectl explain` finds them.
    pub fn into_schemas(mut self) -> Map<String, Value> {
        let mut schemas = self.generator.take_definitions(true);
        for (name, kind) in self.kinds {
            if let Some(Value::Object(schema)) = schemas.get_mut(&name) {
                schema.insert("x-kubernetes-group-version-kind".to_owned(), json!([kind]));
            }
        }
        schemas
    }
}

/// k8s-openapi has one generic list and no schema for it.
fn list_schema<T: JsonSchema + ListableResource>(generator: &mut SchemaGenerator) -> Value {
    let text = json!({"type": "string"});
    json!({
        "description": format!("{} is a list of {}.", T::LIST_KIND, T::KIND),
        "type": "object",
        "properties": {
            "apiVersion": text,
            "kind": text,
            "metadata": generator.subschema_for::<ListMeta>(),
            "items": {"type": "array", "items": generator.subschema_for::<T>()},
        },
        "required": ["items"],
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::DaemonSet;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;

    use super::*;

    #[test]
    fn a_kind_brings_every_type_below_it() {
        let schemas = Components::default().kind::<DaemonSet>().object::<Status>().into_schemas();
        let daemonset = &schemas["io.k8s.api.apps.v1.DaemonSet"];
        assert_eq!(
            daemonset["x-kubernetes-group-version-kind"],
            json!([{"group": "apps", "version": "v1", "kind": "DaemonSet"}])
        );
        let spec = &daemonset["properties"]["spec"];
        assert_eq!(spec["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.apps.v1.DaemonSetSpec");
        assert!(spec["description"].is_string());
        for name in ["io.k8s.api.apps.v1.DaemonSetList", "io.k8s.apimachinery.pkg.apis.meta.v1.Status"] {
            assert!(schemas[name]["x-kubernetes-group-version-kind"].is_array(), "{name}");
        }
        for (name, schema) in &schemas {
            check_references(schema, &schemas, name);
        }
    }

    fn check_references(value: &Value, schemas: &Map<String, Value>, name: &str) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(reference)) = fields.get("$ref") {
                    let target = reference.strip_prefix("#/components/schemas/").expect("a local reference");
                    assert!(schemas.contains_key(target), "{name} refers to {target}");
                }
                fields.values().for_each(|value| check_references(value, schemas, name));
            }
            Value::Array(items) => items.iter().for_each(|value| check_references(value, schemas, name)),
            _ => {}
        }
    }
}
