//! Events in their two forms: `events.k8s.io/v1` has other names for the fields of the same objects.
//!
//! Kept are events of the core group; who asks for the other group gets them, and gives them, under the other names. Pure.
//!
//! Source: kubernetes v1.36, `pkg/apis/events/v1/conversion.go`.

use serde_json::{Map, Value};

use crate::control::kinds::{EVENT, Kind, NEW_EVENT};

/// Names in the core group and in `events.k8s.io`. All other fields are called alike.
const NAMES: [(&str, &str); 7] = [
    ("count", "deprecatedCount"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("involvedObject", "regarding"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
];

/// An object as it is kept, as whoever asked for `kind` knows it.
pub fn shown(kind: &Kind, object: Value) -> Value {
    if *kind == NEW_EVENT { renamed(object, &NEW_EVENT, |(core, new)| (core, new)) } else { object }
}

/// An object of `kind` as it was sent, as it is kept.
pub fn kept(kind: &Kind, object: Value) -> Value {
    if *kind == NEW_EVENT { renamed(object, &EVENT, |(core, new)| (new, core)) } else { object }
}

fn renamed(
    object: Value,
    kind: &Kind,
    names: fn((&'static str, &'static str)) -> (&'static str, &'static str),
) -> Value {
    let Value::Object(fields) = object else { return object };
    let names: Map<String, Value> =
        NAMES.into_iter().map(names).map(|(from, to)| (from.to_owned(), to.into())).collect();
    let rename = |(name, value): (String, Value)| {
        let name = names.get(&name).and_then(Value::as_str).map_or(name, str::to_owned);
        (name, value)
    };
    let mut renamed: Map<String, Value> = fields.into_iter().map(rename).collect();
    renamed.insert("apiVersion".to_owned(), kind.api_version().into());
    renamed.insert("kind".to_owned(), kind.kind.into());
    Value::Object(renamed)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_the_same_under_both_names() {
        let core = json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "involvedObject": {"kind": "Pod"},
            "message": "m", "reason": "r", "count": 2, "source": {"component": "c"}, "reportingComponent": "c",
            "firstTimestamp": "t", "lastTimestamp": "t", "eventTime": "t", "type": "Normal",
        });
        let new = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"}, "regarding": {"kind": "Pod"},
            "note": "m", "reason": "r", "deprecatedCount": 2, "deprecatedSource": {"component": "c"},
            "reportingController": "c", "deprecatedFirstTimestamp": "t", "deprecatedLastTimestamp": "t",
            "eventTime": "t", "type": "Normal",
        });
        assert_eq!(shown(&NEW_EVENT, core.clone()), new);
        assert_eq!(kept(&NEW_EVENT, new), core);
        assert_eq!(shown(&EVENT, core.clone()), core);
    }
}
