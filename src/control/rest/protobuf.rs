//! Bodies in Kubernetes' protobuf form: read into what the same object would be as JSON.
//!
//! Typed clients (`kubectl create KIND`, leader election, event recorders) send nothing else and do not fall back. Only
//! bodies are read; answers are JSON, which all of them take. Pure.
//!
//! Beside what the fields are, a message does not say which of them were written: Go sends a string or a number that is
//! not behind a pointer also when it is empty, so a zero there is as if nothing was said. A field that
//! [`messages`] does not know is no error but an unknown field of the object, for strict decoding to tell.
//!
//! The tables are ours: generated types alone would not do, as there is no way from their fields to JSON names but a
//! list of all of them, and they are half a megabyte of code.
//!
//! Source: kubernetes v1.36, `k8s.io/apimachinery/pkg/runtime/serializer/protobuf/protobuf.go` (the envelope) and the
//! `generated.proto` of each group.

mod messages;
#[cfg(test)]
mod tests;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use prost::bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use serde_json::{Map, Value};

use self::messages::{Content, Field, Message, message_of};
use crate::api::document::Written;
use crate::control::meta;

/// `Content-Type` of such a body.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// What every body begins with.
const MAGIC: &[u8] = b"k8s\0";

/// The body is not an object in protobuf form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// It is something else.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    Prefix,
    /// It does not say what it is.
    #[error("Object 'Kind' is missing in the protobuf message")]
    Untyped,
    /// It is of a kind that is not served.
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    UnknownKind {
        /// `kind`.
        kind: String,
        /// `apiVersion`.
        api_version: String,
    },
    /// The object within is in yet another form.
    #[error("a protobuf message that holds {0:?} is not read")]
    Content(String),
    /// The bytes are no message, or not that of the kind.
    #[error("proto: {field}: {problem}")]
    Malformed {
        /// Name of the field, or of the message while no field is known.
        field: &'static str,
        /// What is wrong there.
        problem: &'static str,
    },
}

/// The object in a body, with its `apiVersion` and `kind`.
///
/// # Errors
/// [`ProtobufError`].
pub fn decode(body: &[u8]) -> Result<Written, ProtobufError> {
    let envelope = Envelope::read(body.strip_prefix(MAGIC).ok_or(ProtobufError::Prefix)?)?;
    if !matches!(envelope.content_type, "" | MEDIA_TYPE) || !envelope.content_encoding.is_empty() {
        return Err(ProtobufError::Content(format!("{} {}", envelope.content_type, envelope.content_encoding)));
    }
    let (api_version, kind) = (envelope.api_version, envelope.kind);
    if kind.is_empty() {
        return Err(ProtobufError::Untyped);
    }
    let message = message_of(api_version, kind)
        .ok_or_else(|| ProtobufError::UnknownKind { kind: kind.to_owned(), api_version: api_version.to_owned() })?;
    let mut object = Map::new();
    read_message(message, envelope.raw, &mut object)?;
    object.insert("apiVersion".to_owned(), api_version.into());
    object.insert("kind".to_owned(), kind.into());
    Ok(Value::Object(object).into())
}

/// `runtime.Unknown`: what stands around every object.
#[derive(Default)]
struct Envelope<'a> {
    api_version: &'a str,
    kind: &'a str,
    raw: &'a [u8],
    content_encoding: &'a str,
    content_type: &'a str,
}

impl<'a> Envelope<'a> {
    fn read(body: &'a [u8]) -> Result<Self, ProtobufError> {
        let mut envelope = Self::default();
        for entry in Entries::of("envelope", body) {
            match entry? {
                (1, Raw::Bytes(types)) => {
                    for entry in Entries::of("typeMeta", types) {
                        match entry? {
                            (1, Raw::Bytes(text)) => envelope.api_version = utf8("apiVersion", text)?,
                            (2, Raw::Bytes(text)) => envelope.kind = utf8("kind", text)?,
                            _ => {}
                        }
                    }
                }
                (2, Raw::Bytes(raw)) => envelope.raw = raw,
                (3, Raw::Bytes(text)) => envelope.content_encoding = utf8("contentEncoding", text)?,
                (4, Raw::Bytes(text)) => envelope.content_type = utf8("contentType", text)?,
                _ => {}
            }
        }
        Ok(envelope)
    }
}

// === messages ===

/// Adds the fields of a message to `object`. How deep messages nest is bounded by their tables, which have no cycle.
fn read_message(message: &Message, bytes: &[u8], object: &mut Map<String, Value>) -> Result<(), ProtobufError> {
    for entry in Entries::of("message", bytes) {
        let (number, raw) = entry?;
        match message.fields.iter().find(|field| field.number == number) {
            Some(field) => read_field(field, raw, object)?,
            // New clients send what they have not set as well.
            None if raw.is_zero() => {}
            None => {
                object.insert(format!("protobuf field {number}"), Value::Bool(true));
            }
        }
    }
    Ok(())
}

fn read_field(field: &Field, raw: Raw<'_>, object: &mut Map<String, Value>) -> Result<(), ProtobufError> {
    match &field.content {
        Content::Message(message) if field.name == "_" => read_message(message, raw.bytes(field.name)?, object)?,
        Content::List(item) => {
            let slot = object.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
            let items = slot.as_array_mut().expect("lists only are put under the name of a list");
            match (item, raw) {
                // Numbers may come one by one or all in one.
                (Content::Int, Raw::Bytes(mut packed)) => {
                    while packed.has_remaining() {
                        items.push(read_value(field.name, item, Raw::Varint(varint(field.name, &mut packed)?))?);
                    }
                }
                (item, raw) => items.push(read_value(field.name, item, raw)?),
            }
        }
        Content::Map(item) => {
            let (key, value) = read_entry(field.name, item, raw.bytes(field.name)?)?;
            let slot = object.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
            slot.as_object_mut().expect("maps only are put under the name of a map").insert(key, value);
        }
        content => {
            let value = read_value(field.name, content, raw)?;
            if field.pointer || !is_zero(&value) {
                object.insert(field.name.to_owned(), value);
            }
        }
    }
    Ok(())
}

fn read_value(name: &'static str, content: &Content, raw: Raw<'_>) -> Result<Value, ProtobufError> {
    Ok(match content {
        Content::Text => utf8(name, raw.bytes(name)?)?.into(),
        Content::Int => raw.int(name)?.into(),
        Content::Bool => (raw.int(name)? != 0).into(),
        Content::Bytes => BASE64.encode(raw.bytes(name)?).into(),
        Content::Json => json(name, raw.bytes(name)?)?,
        Content::Quantity => single(name, raw.bytes(name)?)?.into(),
        Content::Time | Content::MicroTime => time(name, content, raw.bytes(name)?)?,
        Content::IntOrString => int_or_string(name, raw.bytes(name)?)?,
        Content::Strings => strings(name, raw.bytes(name)?)?,
        Content::Message(message) => {
            let mut object = Map::new();
            read_message(message, raw.bytes(name)?, &mut object)?;
            Value::Object(object)
        }
        Content::List(_) | Content::Map(_) => return Err(malformed(name, "a list in a list")),
    })
}

/// An entry of a map; what is not said is empty.
fn read_entry(name: &'static str, item: &Content, bytes: &[u8]) -> Result<(String, Value), ProtobufError> {
    let (mut key, mut value) = (String::new(), None);
    for entry in Entries::of(name, bytes) {
        match entry? {
            (1, raw) => key = utf8(name, raw.bytes(name)?)?.to_owned(),
            (2, raw) => value = Some(read_value(name, item, raw)?),
            _ => {}
        }
    }
    let value = value.map_or_else(|| read_value(name, item, Raw::Bytes(b"")), Ok)?;
    Ok((key, value))
}

/// As if nothing was said, for a field that is no pointer.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(true) | Value::Array(_) => false,
    }
}

// === messages that JSON has another form of ===

fn json(name: &'static str, bytes: &[u8]) -> Result<Value, ProtobufError> {
    let text = single(name, bytes)?;
    if text.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(text).map_err(|_| malformed(name, "holds something that is not JSON"))
}

/// The only field of a message of one string.
fn single<'a>(name: &'static str, bytes: &'a [u8]) -> Result<&'a str, ProtobufError> {
    let mut text = "";
    for entry in Entries::of(name, bytes) {
        if let (1, raw) = entry? {
            text = utf8(name, raw.bytes(name)?)?;
        }
    }
    Ok(text)
}

/// A time that is not set is an empty message.
fn time(name: &'static str, content: &Content, bytes: &[u8]) -> Result<Value, ProtobufError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanos) = (0, 0);
    for entry in Entries::of(name, bytes) {
        match entry? {
            (1, raw) => seconds = raw.int(name)?,
            (2, raw) => nanos = raw.int(name)?,
            _ => {}
        }
    }
    let nanos = i32::try_from(nanos).map_err(|_| malformed(name, "is no time"))?;
    let at = Timestamp::new(seconds, nanos).map_err(|_| malformed(name, "is no time"))?;
    Ok(match content {
        Content::MicroTime => at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string(),
        _ => meta::time(at),
    }
    .into())
}

fn int_or_string(name: &'static str, bytes: &[u8]) -> Result<Value, ProtobufError> {
    let (mut is_text, mut number, mut text) = (false, 0, "");
    for entry in Entries::of(name, bytes) {
        match entry? {
            (1, raw) => is_text = raw.int(name)? == 1,
            (2, raw) => number = raw.int(name)?,
            (3, raw) => text = utf8(name, raw.bytes(name)?)?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

fn strings(name: &'static str, bytes: &[u8]) -> Result<Value, ProtobufError> {
    let mut items = Vec::new();
    for entry in Entries::of(name, bytes) {
        if let (1, raw) = entry? {
            items.push(utf8(name, raw.bytes(name)?)?.into());
        }
    }
    Ok(Value::Array(items))
}

// === the wire ===

/// What stands behind one key.
#[derive(Clone, Copy)]
enum Raw<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// Of a wire type that no known field has.
    Other,
}

impl<'a> Raw<'a> {
    fn bytes(self, name: &'static str) -> Result<&'a [u8], ProtobufError> {
        if let Self::Bytes(bytes) = self { Ok(bytes) } else { Err(malformed(name, "wrong wire type")) }
    }

    /// Negative numbers travel as their two's complement.
    fn int(self, name: &'static str) -> Result<i64, ProtobufError> {
        match self {
            Self::Varint(value) => Ok(value.cast_signed()),
            // The value of a map's entry that does not say any.
            Self::Bytes(b"") => Ok(0),
            _ => Err(malformed(name, "wrong wire type")),
        }
    }

    fn is_zero(self) -> bool {
        matches!(self, Self::Varint(0) | Self::Bytes(b""))
    }
}

/// The fields of a message, in the order they came.
struct Entries<'a> {
    name: &'static str,
    rest: &'a [u8],
}

impl<'a> Entries<'a> {
    fn of(name: &'static str, bytes: &'a [u8]) -> Self {
        Self { name, rest: bytes }
    }

    fn read(&mut self) -> Result<(u32, Raw<'a>), ProtobufError> {
        let (number, wire_type) = decode_key(&mut self.rest).map_err(|_| malformed(self.name, "illegal tag"))?;
        let raw = match wire_type {
            WireType::Varint => Raw::Varint(varint(self.name, &mut self.rest)?),
            WireType::LengthDelimited => {
                let length = varint(self.name, &mut self.rest)?;
                let cut = usize::try_from(length).ok().and_then(|length| self.rest.split_at_checked(length));
                let (bytes, rest) = cut.ok_or_else(|| malformed(self.name, "unexpected end of the data"))?;
                self.rest = rest;
                Raw::Bytes(bytes)
            }
            other => {
                skip_field(other, number, &mut self.rest, DecodeContext::default())
                    .map_err(|_| malformed(self.name, "unexpected end of the data"))?;
                Raw::Other
            }
        };
        Ok((number, raw))
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<(u32, Raw<'a>), ProtobufError>;

    fn next(&mut self) -> Option<Self::Item> {
        (!self.rest.is_empty()).then(|| self.read().inspect_err(|_| self.rest = b""))
    }
}

fn varint(name: &'static str, bytes: &mut &[u8]) -> Result<u64, ProtobufError> {
    decode_varint(bytes).map_err(|_| malformed(name, "not a number"))
}

fn utf8<'a>(name: &'static str, bytes: &'a [u8]) -> Result<&'a str, ProtobufError> {
    std::str::from_utf8(bytes).map_err(|_| malformed(name, "not UTF-8"))
}

fn malformed(field: &'static str, problem: &'static str) -> ProtobufError {
    ProtobufError::Malformed { field, problem }
}
