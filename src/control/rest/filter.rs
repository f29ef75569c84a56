//! Which objects a list, watch or deletion of many is about: label and field selectors. Pure.

use std::collections::BTreeMap;

use serde_json::Value;

use super::errors::ApiError;
use super::query::Query;
use crate::api::selector::{BadSelector, FieldSelector, Selector};
use crate::control::kinds::{EVENT, Kind, NAMESPACE, NODE, POD, SECRET};
use crate::control::meta;

/// Both selectors of a request.
#[derive(Debug, Clone)]
pub struct Filter {
    kind: &'static Kind,
    labels: Selector,
    fields: FieldSelector,
}

impl Filter {
    /// From `labelSelector` and `fieldSelector`.
    ///
    /// # Errors
    /// [`ApiError::Selector`] for text that is no selector and for fields the kind cannot be selected by.
    pub fn parse(kind: &'static Kind, query: &Query) -> Result<Self, ApiError> {
        let labels = Selector::parse(query.get("labelSelector").unwrap_or_default())?;
        let fields = FieldSelector::parse(query.get("fieldSelector").unwrap_or_default())?;
        if let Some(term) = fields.0.iter().find(|term| field(kind, &Value::Null, &term.key).is_none()) {
            return Err(BadSelector::UnknownField(term.key.clone()).into());
        }
        Ok(Self { kind, labels, fields })
    }

    /// It selects every object.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.0.is_empty()
    }

    /// The object is selected.
    pub fn matches(&self, object: &Value) -> bool {
        let selected = self.fields.matches(|key| field(self.kind, object, key));
        selected.is_ok_and(|selected| selected) && (self.labels.is_empty() || self.labels.matches(&labels(object)))
    }
}

fn labels(object: &Value) -> BTreeMap<String, String> {
    let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
    labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

/// The value of a field objects of this kind can be selected by; empty if this one lacks it, none for other fields.
///
/// Source: kubernetes v1.36, `pkg/apis/core/v1/conversion.go` and the `SelectableFields` of `pkg/registry/core`.
fn field(kind: &Kind, object: &Value, key: &str) -> Option<String> {
    const POD_FIELDS: &[&str] = &[
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ];
    // The names that events have in `events.k8s.io`.
    let key = match key.strip_prefix("regarding.") {
        Some(field) if *kind == EVENT => &format!("involvedObject.{field}"),
        None if *kind == EVENT && key == "reportingController" => "reportingComponent",
        _ => key,
    };
    const EVENT_FIELDS: &[&str] = &[
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "type",
    ];
    let text = |path: &str| at(object, path).as_str().unwrap_or_default().to_owned();
    let flag = |path: &str| (at(object, path) == &Value::Bool(true)).to_string();
    match key {
        "metadata.name" => Some(meta::name(object).to_owned()),
        "metadata.namespace" if kind.namespaced => Some(meta::namespace(object).to_owned()),
        "spec.host" if *kind == POD => Some(text("spec.nodeName")),
        "spec.hostNetwork" if *kind == POD => Some(flag(key)),
        "spec.unschedulable" if *kind == NODE => Some(flag(key)),
        "source" if *kind == EVENT => Some(text("source.component")),
        "status.phase" if *kind == NAMESPACE => Some(text(key)),
        "type" if *kind == SECRET => Some(text(key)),
        _ if *kind == POD && POD_FIELDS.contains(&key) => Some(text(key)),
        _ if *kind == EVENT && EVENT_FIELDS.contains(&key) => Some(text(key)),
        _ => None,
    }
}

fn at<'a>(object: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(object, |value, field| &value[field])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::control::kinds::DAEMON_SET;

    #[test]
    fn selectors_pick_by_labels_and_by_the_fields_of_the_kind() {
        let pod = json!({
            "metadata": {"name": "a", "namespace": "n", "labels": {"app": "x"}},
            "spec": {"nodeName": "one"}, "status": {"phase": "Running"},
        });
        let matches = |kind, query: &str| {
            let query = Query::parse(&format!("/x?{query}").parse().unwrap()).unwrap();
            Filter::parse(kind, &query).map(|filter| filter.matches(&pod)).map_err(|error| error.to_string())
        };
        let cases = [
            ("", true),
            ("labelSelector=app%3Dx", true),
            ("labelSelector=app%21%3Dx", false),
            ("fieldSelector=spec.nodeName%3Done%2Cstatus.phase%21%3DFailed", true),
            ("fieldSelector=metadata.namespace%3D", false),
            ("fieldSelector=spec.hostNetwork%3Dfalse", true),
        ];
        for (query, expected) in cases {
            assert_eq!(matches(&POD, query), Ok(expected), "{query}");
        }
        assert_eq!(
            matches(&DAEMON_SET, "fieldSelector=spec.nodeName%3Done"),
            Err("field label not supported: spec.nodeName".to_owned())
        );
    }
}
