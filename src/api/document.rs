//! JSON and YAML as written: the order of fields and their repeats are kept, nothing is typed yet.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};
use serde_saphyr::{DuplicateKeyPolicy, Spanned};

/// A value as written.
///
/// Its depth is bounded by the parser it came from.
#[derive(Debug, Clone, PartialEq)]
pub enum Written {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// Any number.
    Number(Number),
    /// Any string.
    String(String),
    /// A list.
    List(Vec<Written>),
    /// Fields in the order written; a name may come more than once.
    Map(Vec<(String, Written)>),
}

/// One YAML document of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// The line its content begins at; the first is 1.
    pub line: u64,
    /// What it says.
    pub body: Written,
}

/// The text is not JSON, or not YAML.
#[derive(Debug, thiserror::Error)]
pub enum SyntaxError {
    /// Not JSON.
    #[error("json parse error")]
    Json(#[source] serde_json::Error),
    /// Not YAML.
    #[error("yaml parse error")]
    Yaml(#[source] Box<serde_saphyr::Error>),
}

/// Reads one JSON value.
///
/// # Errors
/// [`SyntaxError::Json`], with line and column.
pub fn parse_json(body: &[u8]) -> Result<Written, SyntaxError> {
    serde_json::from_slice(body).map_err(SyntaxError::Json)
}

/// Reads a YAML file of any number of documents; empty ones are left out.
///
/// Numbers and truth values are those of YAML 1.1, as `kubectl` reads them: `0644` is octal, `yes` is true.
///
/// # Errors
/// [`SyntaxError::Yaml`], with line and column. One broken document refuses the file.
pub fn parse_yaml(text: &str) -> Result<Vec<Document>, SyntaxError> {
    let options = serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    let documents: Vec<Spanned<Written>> =
        serde_saphyr::from_multiple_with_options(text, options).map_err(|error| SyntaxError::Yaml(Box::new(error)))?;
    let documents = documents.into_iter().filter(|document| document.value != Written::Null);
    Ok(documents.map(|spanned| Document { line: spanned.referenced.line(), body: spanned.value }).collect())
}

impl Written {
    /// The text of a field of this map. Of a repeated field the last counts, as in decoding.
    pub fn text(&self, field: &str) -> Option<&str> {
        match self.get(field)? {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// A field of this map. Of a repeated field the last counts, as in decoding.
    pub fn get(&self, field: &str) -> Option<&Self> {
        match self {
            Self::Map(fields) => fields.iter().rev().find(|(name, _)| name == field).map(|(_, value)| value),
            _ => None,
        }
    }
}

impl From<Value> for Written {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(value),
            Value::Number(value) => Self::Number(value),
            Value::String(value) => Self::String(value),
            Value::Array(items) => Self::List(items.into_iter().map(Self::from).collect()),
            Value::Object(fields) => Self::Map(fields.into_iter().map(|(name, value)| (name, value.into())).collect()),
        }
    }
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WrittenVisitor)
    }
}

struct WrittenVisitor;

impl<'de> Visitor<'de> for WrittenVisitor {
    type Value = Written;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Written, E> {
        Ok(Written::Null)
    }

    fn visit_none<E>(self) -> Result<Written, E> {
        Ok(Written::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Written, E> {
        Ok(Written::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Written, E> {
        Ok(Written::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Written, E> {
        Ok(Written::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Written, E> {
        Number::from_f64(value).map(Written::Number).ok_or_else(|| E::custom("a number must be finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Written, E> {
        Ok(Written::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Written, E> {
        Ok(Written::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Written, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Written::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Written, A::Error> {
        let mut fields = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            fields.push(entry);
        }
        Ok(Written::Map(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Chain;

    fn text(text: &str) -> Written {
        Written::String(text.to_owned())
    }

    #[test]
    fn order_and_repeats_are_kept() {
        let json = parse_json(br#"{"b": 1, "a": [null, true], "b": "x"}"#).expect("json");
        let fields = vec![
            ("b".to_owned(), Written::Number(1.into())),
            ("a".to_owned(), Written::List(vec![Written::Null, Written::Bool(true)])),
            ("b".to_owned(), text("x")),
        ];
        assert_eq!(json, Written::Map(fields));
        assert_eq!(json.text("b"), Some("x"));
        let yaml = parse_yaml("b: 1\na: [null, true]\nb: x\n").expect("yaml");
        assert_eq!(yaml, [Document { line: 1, body: json }]);
    }

    #[test]
    fn yaml_is_read_as_kubectl_reads_it() {
        let file = "# only a comment\n---\n---\nmode: 0644\non: yes\nquoted: \"0644\"\nversion: 1.5\n8080: x\n---\n{\"a\": 1}\n";
        let documents = parse_yaml(file).expect("yaml");
        let lines: Vec<u64> = documents.iter().map(|document| document.line).collect();
        assert_eq!(lines, [4, 10]);
        let body = &documents[0].body;
        assert_eq!(body.get("mode"), Some(&Written::Number(420.into())));
        assert_eq!(body.get("quoted"), Some(&text("0644")));
        assert_eq!(body.get("8080"), Some(&text("x")));
    }

    #[test]
    fn a_broken_file_is_refused_with_its_line() {
        let error = parse_yaml("a: 1\n---\nb: [1\n").expect_err("broken");
        assert!(Chain(&error).to_string().contains("line"), "{error:?}");
        assert!(parse_json(b"{").is_err());
    }
}
