//! Decoding into Kubernetes' types, with the fields nobody knows and the fields given twice reported by path.
//!
//! The types themselves say what they know: k8s-openapi and serde's derive hand the names of a struct and of its fields
//! to the deserializer, so no schema is needed. What is missing in the input takes its zero value, as in Go; what must
//! be there is for validation to say.
//!
//! Source: kubernetes v1.36, `sigs.k8s.io/json` and `k8s.io/apimachinery/pkg/runtime/serializer/json`.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;

use k8s_openapi::serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, Visitor,
};
use serde_json::Number;

use super::document::Written;
use super::field::Path;
use super::quantity::Quantity;

/// So many findings are reported, as upstream does; what is beyond them is not counted.
const MAX_FINDINGS: usize = 100;

/// A field that is not as the type says, yet can be left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The type has no such field; it was left out.
    Unknown(Path),
    /// The field came before; the last one counts.
    Duplicate(Path),
}

impl fmt::Display for Finding {
    /// The text of a `Warning` header: `unknown field "spec.x"`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(path) => write!(f, "unknown field \"{path}\""),
            Self::Duplicate(path) => write!(f, "duplicate field \"{path}\""),
        }
    }
}

/// A decoded value and what was noticed on the way, in the order written.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded<T> {
    /// The value, without what the type does not know.
    pub value: T,
    /// Empty when the input was wholly understood.
    pub findings: Vec<Finding>,
}

impl<T> Decoded<T> {
    /// The value, if nothing was noticed.
    ///
    /// # Errors
    /// [`DecodeError::Strict`] with every finding.
    pub fn strict(self) -> Result<T, DecodeError> {
        if self.findings.is_empty() { Ok(self.value) } else { Err(DecodeError::Strict(self.findings)) }
    }
}

/// The input is not a value of the type.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// A value of another type than the field's.
    #[error("json: cannot unmarshal {found} into Go {place} of type {expected}")]
    Type {
        /// `string`, `number`, `number 1.5`, `bool`, `array`, `object`.
        found: String,
        /// As Go says it, list positions left out: `struct field DaemonSetSpec.spec.minReadySeconds`, or `value`.
        place: String,
        /// `int32`, `string`, `v1.PodSpec`; `array` and `map` without what is in them, which Go would name.
        expected: String,
        /// Where, list positions included.
        field: Path,
    },
    /// A value of the right type that does not parse: a quantity, a time, base64.
    #[error("{field}: {message}")]
    Value {
        /// What is wrong with it.
        message: String,
        /// Where.
        field: Path,
    },
    /// Unknown or repeated fields, where none are allowed.
    #[error("strict decoding error: {}", join(.0))]
    Strict(Vec<Finding>),
}

fn join(findings: &[Finding]) -> String {
    findings.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Decodes a value into a k8s-openapi type, or any type with serde's derive.
///
/// `null` is as if not written. Quantities come out in canonical form.
///
/// # Errors
/// [`DecodeError::Type`] or [`DecodeError::Value`] for the first value that is not of its field's type. Unknown and
/// repeated fields are no error here; see [`Decoded::strict`].
pub fn decode<T: DeserializeOwned>(written: &Written) -> Result<Decoded<T>, DecodeError> {
    let findings = RefCell::new(Vec::new());
    let reader = Reader { written, place: Place::Root, within: None, findings: &findings };
    let value = T::deserialize(reader).map_err(|fault| fault.at(&Place::Root, None))?;
    Ok(Decoded { value, findings: findings.into_inner() })
}

/// Where the reader is, as a list from the leaf up.
#[derive(Clone, Copy)]
enum Place<'p> {
    Root,
    Field(&'p Place<'p>, &'p str),
    Item(&'p Place<'p>, usize),
}

impl Place<'_> {
    fn path(&self) -> Path {
        match self {
            Self::Root => Path::default(),
            Self::Field(parent, name) => parent.path().child(name),
            Self::Item(parent, index) => parent.path().index(*index),
        }
    }

    /// The names of the fields only, as Go's decoder tracks them.
    fn go_path(&self) -> String {
        match self {
            Self::Root => String::new(),
            Self::Field(parent, name) => format!("{}.{name}", parent.go_path()),
            Self::Item(parent, _) => parent.go_path(),
        }
    }
}

/// What went wrong; where is filled in by the innermost reader it passes.
#[derive(Debug)]
enum Fault {
    Type { found: String, expected: String },
    Value(String),
    Located(DecodeError),
}

impl Fault {
    fn at(self, place: &Place<'_>, within: Option<&str>) -> DecodeError {
        match self {
            Self::Located(error) => error,
            Self::Value(message) => DecodeError::Value { message, field: place.path() },
            Self::Type { found, expected } => {
                let field = place.path();
                let place = match within {
                    Some(type_name) => format!("struct field {type_name}{}", place.go_path()),
                    None => "value".to_owned(),
                };
                DecodeError::Type { found, place, expected, field }
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Type { found, expected } => write!(f, "found {found}, expected {expected}"),
            Self::Value(message) => f.write_str(message),
            Self::Located(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Value(message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let found = match found {
            Unexpected::Bool(_) => "bool",
            Unexpected::Unsigned(_) | Unexpected::Signed(_) | Unexpected::Float(_) => "number",
            Unexpected::Str(_) => "string",
            Unexpected::Seq => "array",
            Unexpected::Map => "object",
            _ => "value",
        };
        Self::Type { found: found.to_owned(), expected: expected.to_string() }
    }
}

/// A deserializer over a written value that knows where it is.
#[derive(Clone, Copy)]
struct Reader<'de, 'p> {
    written: &'de Written,
    place: Place<'p>,
    /// The innermost struct.
    within: Option<&'static str>,
    findings: &'p RefCell<Vec<Finding>>,
}

impl<'de, 'p> Reader<'de, 'p> {
    fn note(&self, finding: Finding) {
        let mut findings = self.findings.borrow_mut();
        if findings.len() < MAX_FINDINGS {
            findings.push(finding);
        }
    }

    /// The value is not of the type wanted.
    fn mismatch(&self, expected: &str) -> Fault {
        let found = match self.written {
            Written::Null => "null".to_owned(),
            Written::Bool(_) => "bool".to_owned(),
            // Go names the number only where the field takes numbers.
            Written::Number(number) if matches!(expected, "int32" | "int64") => format!("number {number}"),
            Written::Number(_) => "number".to_owned(),
            Written::String(_) => "string".to_owned(),
            Written::List(_) => "array".to_owned(),
            Written::Map(_) => "object".to_owned(),
        };
        self.locate(Fault::Type { found, expected: expected.to_owned() })
    }

    fn locate(&self, fault: Fault) -> Fault {
        Fault::Located(fault.at(&self.place, self.within))
    }

    fn integer(&self, type_name: &str, fits: fn(i64) -> bool) -> Result<i64, Fault> {
        match self.written {
            Written::Null => Ok(0),
            Written::Number(number) => {
                number.as_i64().filter(|value| fits(*value)).ok_or_else(|| self.mismatch(type_name))
            }
            _ => Err(self.mismatch(type_name)),
        }
    }

    fn fields(&self, entries: &'de [(String, Written)], known: Option<&'static [&'static str]>) -> Fields<'de, 'p> {
        Fields { reader: *self, entries: entries.iter(), known, seen: HashSet::new(), value: None }
    }

    fn items(&self, items: &'de [Written]) -> Items<'de, 'p> {
        Items { reader: *self, items: items.iter().enumerate() }
    }
}

impl<'de> Deserializer<'de> for Reader<'de, '_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let value = match self.written {
            Written::Null => visitor.visit_unit(),
            Written::Bool(value) => visitor.visit_bool(*value),
            Written::Number(number) => visit_number(number, visitor),
            Written::String(text) => visitor.visit_borrowed_str(text),
            Written::List(items) => visitor.visit_seq(self.items(items)),
            Written::Map(entries) => visitor.visit_map(self.fields(entries, None)),
        };
        value.map_err(|fault| self.locate(fault))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.written {
            Written::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.written {
            Written::Null => visitor.visit_bool(false),
            Written::Bool(value) => visitor.visit_bool(*value),
            _ => Err(self.mismatch("bool")),
        }
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_i64(self.integer("int32", |value| i32::try_from(value).is_ok())?)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_i64(self.integer("int64", |_| true)?)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.written {
            Written::Null => visitor.visit_f64(0.0),
            Written::Number(number) => visitor.visit_f64(number.as_f64().ok_or_else(|| self.mismatch("float64"))?),
            _ => Err(self.mismatch("float64")),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.written {
            Written::Null => visitor.visit_borrowed_str(""),
            Written::String(text) => visitor.visit_borrowed_str(text).map_err(|fault| self.locate(fault)),
            _ => Err(self.mismatch("string")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.written {
            Written::Null => visitor.visit_seq(self.items(&[])),
            Written::List(items) => visitor.visit_seq(self.items(items)),
            _ => Err(self.mismatch("array")),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.written {
            Written::Null => visitor.visit_map(self.fields(&[], None)),
            Written::Map(entries) => visitor.visit_map(self.fields(entries, None)),
            _ => Err(self.mismatch("map")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let entries: &[_] = match self.written {
            Written::Null => &[],
            Written::Map(entries) => entries,
            _ => return Err(self.mismatch(&format!("v1.{name}"))),
        };
        let reader = Self { within: Some(name), ..self };
        visitor.visit_map(reader.fields(entries, Some(known))).map_err(|fault| reader.locate(fault))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Fault> {
        if name == "Quantity" {
            let text = match self.written {
                Written::String(text) => text.clone(),
                Written::Number(number) => number.to_string(),
                Written::Null => "0".to_owned(),
                _ => return Err(self.mismatch("resource.Quantity")),
            };
            let quantity: Quantity = text.parse().map_err(|error| self.locate(de::Error::custom(error)))?;
            return visitor.visit_newtype_struct(quantity.to_string().into_deserializer());
        }
        visitor.visit_newtype_struct(self).map_err(|fault| self.locate(fault))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.written {
            Written::String(text) => {
                visitor.visit_enum(text.as_str().into_deserializer()).map_err(|fault| self.locate(fault))
            }
            _ => Err(self.mismatch(name)),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    k8s_openapi::serde::forward_to_deserialize_any! {
        i8 i16 i128 u8 u16 u32 u64 u128 f32 char bytes byte_buf unit unit_struct tuple tuple_struct identifier
    }
}

fn visit_number<'de, V: Visitor<'de>>(number: &Number, visitor: V) -> Result<V::Value, Fault> {
    match (number.as_i64(), number.as_u64(), number.as_f64()) {
        (Some(value), ..) => visitor.visit_i64(value),
        (_, Some(value), _) => visitor.visit_u64(value),
        (_, _, Some(value)) => visitor.visit_f64(value),
        _ => Err(de::Error::custom("the number is out of range")),
    }
}

struct Items<'de, 'p> {
    reader: Reader<'de, 'p>,
    items: std::iter::Enumerate<std::slice::Iter<'de, Written>>,
}

impl<'de> SeqAccess<'de> for Items<'de, '_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some((index, written)) = self.items.next() else { return Ok(None) };
        let reader = Reader { written, place: Place::Item(&self.reader.place, index), ..self.reader };
        seed.deserialize(reader).map(Some).map_err(|fault| reader.locate(fault))
    }
}

struct Fields<'de, 'p> {
    reader: Reader<'de, 'p>,
    entries: std::slice::Iter<'de, (String, Written)>,
    /// The fields of a struct; `None` for a map, which takes any.
    known: Option<&'static [&'static str]>,
    seen: HashSet<&'de str>,
    value: Option<&'de (String, Written)>,
}

impl<'de> MapAccess<'de> for Fields<'de, '_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        for entry in self.entries.by_ref() {
            let name = entry.0.as_str();
            let path = || Place::Field(&self.reader.place, name).path();
            if !self.seen.insert(name) {
                self.reader.note(Finding::Duplicate(path()));
            }
            if self.known.is_some_and(|known| !known.contains(&name)) {
                self.reader.note(Finding::Unknown(path()));
                continue;
            }
            self.value = Some(entry);
            return seed.deserialize(name.into_deserializer()).map(Some);
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let (name, written) = self.value.take().expect("a value follows its key");
        let reader = Reader { written, place: Place::Field(&self.reader.place, name), ..self.reader };
        seed.deserialize(reader).map_err(|fault| reader.locate(fault))
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::DaemonSet;
    use k8s_openapi::api::core::v1::{ConfigMap, Container, Secret};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::api::document::parse_json;

    fn error<T: DeserializeOwned + fmt::Debug>(value: Value) -> String {
        decode::<T>(&value.into()).and_then(Decoded::strict).expect_err("refused").to_string()
    }

    #[test]
    fn unknown_and_repeated_fields_are_named_in_the_order_written() {
        let body = br#"{"apiVersion": "apps/v1", "kind": "DaemonSet", "zzz": null,
            "metadata": {"name": "a", "name": "b", "labels": {"x": "1", "x": "2"}},
            "spec": {"template": {"spec": {"containers": [{"name": "a", "imagee": "b"}]}}}}"#;
        let decoded: Decoded<DaemonSet> = decode(&parse_json(body).expect("json")).expect("a DaemonSet");
        assert_eq!(decoded.value.metadata.name.as_deref(), Some("b"));
        assert_eq!(
            decoded.strict().expect_err("findings").to_string(),
            r#"strict decoding error: unknown field "zzz", duplicate field "metadata.name", duplicate field "#
                .to_owned()
                + r#""metadata.labels.x", unknown field "spec.template.spec.containers[0].imagee""#
        );
    }

    #[test]
    fn a_value_of_another_type_is_refused_as_go_refuses_it() {
        let spec = |spec: Value| json!({"spec": spec});
        let cases = [
            (
                spec(json!({"minReadySeconds": "x"})),
                "json: cannot unmarshal string into Go struct field DaemonSetSpec.spec.minReadySeconds of type int32",
            ),
            (
                spec(json!({"minReadySeconds": 5_000_000_000_i64})),
                "json: cannot unmarshal number 5000000000 into Go struct field DaemonSetSpec.spec.minReadySeconds of type int32",
            ),
            (
                spec(json!({"template": {"spec": {"containers": [{"env": [{"name": "a", "value": 1}]}]}}})),
                "json: cannot unmarshal number into Go struct field EnvVar.spec.template.spec.containers.env.value of type string",
            ),
            (
                spec(json!({"template": {"spec": {"hostNetwork": "yes"}}})),
                "json: cannot unmarshal string into Go struct field PodSpec.spec.template.spec.hostNetwork of type bool",
            ),
            (
                spec(json!({"template": []})),
                "json: cannot unmarshal array into Go struct field DaemonSetSpec.spec.template of type v1.PodTemplateSpec",
            ),
            (
                spec(json!({"updateStrategy": {"rollingUpdate": {"maxSurge": true}}})),
                "json: cannot unmarshal bool into Go struct field \
                 RollingUpdateDaemonSet.spec.updateStrategy.rollingUpdate.maxSurge of type IntOrString",
            ),
            (json!([]), "json: cannot unmarshal array into Go value of type v1.DaemonSet"),
        ];
        for (value, message) in cases {
            assert_eq!(error::<DaemonSet>(value), message);
        }
    }

    #[test]
    fn a_value_that_does_not_parse_is_refused_with_its_path() {
        assert_eq!(
            error::<Container>(json!({"resources": {"limits": {"memory": "2 Gi"}}})),
            "resources.limits.memory: quantities must match the regular expression \
             '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
        );
        assert!(error::<Secret>(json!({"data": {"a": "!"}})).starts_with("data.a: "));
        assert!(
            error::<Secret>(json!({"metadata": {"creationTimestamp": "x"}}))
                .starts_with("metadata.creationTimestamp: ")
        );
    }

    #[test]
    fn null_is_as_if_not_written_and_quantities_become_canonical() {
        let value = json!({"metadata": {"creationTimestamp": null, "labels": {"a": null}}, "data": null});
        let decoded: ConfigMap = decode(&value.into()).and_then(Decoded::strict).expect("a ConfigMap");
        assert_eq!(decoded.metadata.labels.expect("labels")["a"], "");
        let value = json!({"name": null, "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}}});
        let decoded: Container = decode(&value.into()).and_then(Decoded::strict).expect("a Container");
        let limits = decoded.resources.and_then(|resources| resources.limits).expect("limits");
        assert_eq!((limits["cpu"].0.as_str(), limits["memory"].0.as_str()), ("500m", "1Gi"));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let names =
            prop::sample::select(vec!["spec", "template", "metadata", "containers", "name", "selector", "data", "x"]);
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[a-z0-9]{0,4}".prop_map(Value::from),
        ];
        leaf.prop_recursive(8, 64, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(names.clone(), inner, 0..6)
                    .prop_map(|map| map.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_json_is_decoded_or_refused(value in any_json()) {
            let written = Written::from(value);
            let _ = decode::<DaemonSet>(&written);
            let _ = decode::<Secret>(&written);
        }
    }
}
