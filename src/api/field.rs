//! Errors about one field of an object, worded as the Kubernetes API words them.

use std::collections::HashSet;
use std::fmt::{self, Write as _};

use serde_json::Value;

/// Where a field is in an object: `spec.template.spec.containers[0].name`.
///
/// The empty path is the object itself; its children have no leading dot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    /// The path that starts at a field of the object.
    pub fn new(field: &str) -> Self {
        Self(field.to_owned())
    }

    /// A field below this one. `name` may itself have dots: `child("metadata.labels")`.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Self::new(name) } else { Self(format!("{}.{name}", self.0)) }
    }

    /// An element of this list.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// An entry of this map.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is wrong with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// It names something that does not exist.
    NotFound,
    /// It must be given.
    Required,
    /// It must be unique and is not.
    Duplicate,
    /// It is malformed or out of range.
    Invalid,
    /// It is not one of the values there are.
    NotSupported,
    /// It may not be given here.
    Forbidden,
    /// It has too many bytes.
    TooLong,
    /// It has too many items.
    TooMany,
}

impl ErrorKind {
    /// `reason` of a cause in a `Status` object.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
        }
    }
}

/// One thing wrong with one field.
///
/// `Display` is Kubernetes' text, `<field>: <body>`; a cause of a `Status` object has the two apart.
///
/// Source: kubernetes v1.36, `k8s.io/apimachinery/pkg/util/validation/field/errors.go`.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{field}: {}", self.body())]
pub struct FieldError {
    /// What is wrong.
    pub kind: ErrorKind,
    /// Where.
    pub field: Path,
    /// The value found, for the kinds that print it.
    pub value: Option<Value>,
    /// More words; may be empty.
    pub detail: String,
}

impl FieldError {
    /// The field names something that does not exist.
    pub fn not_found(field: &Path, value: impl Into<Value>) -> Self {
        Self::new(ErrorKind::NotFound, field, Some(value.into()), "")
    }

    /// The field must be given.
    pub fn required(field: &Path, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Required, field, None, detail)
    }

    /// Another field has the same value.
    pub fn duplicate(field: &Path, value: impl Into<Value>) -> Self {
        Self::new(ErrorKind::Duplicate, field, Some(value.into()), "")
    }

    /// The value is malformed or out of range.
    pub fn invalid(field: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, field, Some(value.into()), detail)
    }

    /// The value is none of `supported`, which are listed in the order given.
    pub fn not_supported(field: &Path, value: impl Into<Value>, supported: &[&str]) -> Self {
        let supported: Vec<String> = supported.iter().map(|text| go_quoted(text)).collect();
        let detail = format!("supported values: {}", supported.join(", "));
        Self::new(ErrorKind::NotSupported, field, Some(value.into()), detail)
    }

    /// The field may not be given here.
    pub fn forbidden(field: &Path, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Forbidden, field, None, detail)
    }

    /// The value has more than `max` bytes.
    pub fn too_long(field: &Path, max: usize) -> Self {
        Self::new(ErrorKind::TooLong, field, None, format!("may not be more than {max} bytes"))
    }

    /// The list has `actual` items and may have `max`.
    pub fn too_many(field: &Path, actual: usize, max: usize) -> Self {
        Self::new(ErrorKind::TooMany, field, Some(actual.into()), format!("must have at most {max} items"))
    }

    fn new(kind: ErrorKind, field: &Path, value: Option<Value>, detail: impl Into<String>) -> Self {
        Self { kind, field: field.clone(), value, detail: detail.into() }
    }

    /// The text without the field: `message` of a cause in a `Status` object.
    pub fn body(&self) -> String {
        let mut body = self.kind.text().to_owned();
        match &self.value {
            Some(Value::String(text)) => body = format!("{body}: {}", go_quoted(text)),
            Some(value) => body = format!("{body}: {value}"),
            None => {}
        }
        if !self.detail.is_empty() {
            body = format!("{body}: {}", self.detail);
        }
        body
    }
}

/// The object breaks one rule or more; nothing of it was taken.
///
/// `Display` is Kubernetes' aggregate: the one text, or `[<first>, <second>]` without repeats.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{}", aggregate(.0))]
pub struct Invalid(pub Vec<FieldError>);

impl Invalid {
    /// `Err` if there is anything in the list.
    ///
    /// # Errors
    /// The list itself, when it is not empty.
    pub fn check(errors: Vec<FieldError>) -> Result<(), Self> {
        if errors.is_empty() { Ok(()) } else { Err(Self(errors)) }
    }
}

/// All errors in one line, in their order, each text once; empty for none.
pub fn aggregate(errors: &[FieldError]) -> String {
    let mut seen = HashSet::new();
    let mut texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    texts.retain(|text| seen.insert(text.clone()));
    match texts.as_slice() {
        [only] => only.clone(),
        [] => String::new(),
        several => format!("[{}]", several.join(", ")),
    }
}

/// A string as Go's `%q` prints it.
pub fn go_quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{b}' => quoted.push_str("\\v"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_ascii_control() => write!(quoted, "\\x{:02x}", u32::from(c)).expect("writing to a string"),
            c if c.is_control() => write!(quoted, "\\u{:04x}", u32::from(c)).expect("writing to a string"),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_kind_has_the_text_kubectl_prints() {
        let path = Path::new("spec").child("containers").index(0).child("env").key("a");
        let cases = [
            (FieldError::not_found(&path, "varlog"), r#"Not found: "varlog""#),
            (FieldError::required(&path, ""), "Required value"),
            (FieldError::required(&path, "say why"), "Required value: say why"),
            (FieldError::duplicate(&path, "TCP//80"), r#"Duplicate value: "TCP//80""#),
            (FieldError::invalid(&path, -1, "must be positive"), "Invalid value: -1: must be positive"),
            (FieldError::invalid(&path, "a\"\n\u{1}\u{7}\u{8}\u{b}\u{c}", ""), r#"Invalid value: "a\"\n\x01\a\b\v\f""#),
            (FieldError::invalid(&path, json!({"b": 1, "a": "x"}), "no"), r#"Invalid value: {"a":"x","b":1}: no"#),
            (
                FieldError::not_supported(&path, "Never", &["Always", "Maybe"]),
                r#"Unsupported value: "Never": supported values: "Always", "Maybe""#,
            ),
            (FieldError::forbidden(&path, "not here"), "Forbidden: not here"),
            (FieldError::too_long(&path, 10), "Too long: may not be more than 10 bytes"),
            (FieldError::too_many(&path, 5, 3), "Too many: 5: must have at most 3 items"),
        ];
        for (error, body) in cases {
            assert_eq!(error.to_string(), format!("spec.containers[0].env[a]: {body}"));
        }
    }

    #[test]
    fn the_aggregate_names_each_text_once() {
        let (a, b) = (FieldError::required(&Path::new("a"), ""), FieldError::required(&Path::new("b"), ""));
        assert_eq!(aggregate(std::slice::from_ref(&a)), "a: Required value");
        assert_eq!(aggregate(&[a.clone(), b, a]), "[a: Required value, b: Required value]");
    }
}
