use proptest::prelude::*;
use prost::encoding::{encode_key, encode_varint};
use serde_json::json;

use super::*;
use crate::api::strict;
use crate::control::kinds::{KINDS, Kind};
use crate::control::rest::openapi::OPENAPI;

/// `kubectl create configmap pb36 --from-literal=a=b`, as recorded.
const CONFIG_MAP: &[u8] =
    b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x1e\x0a\x14\x0a\x04pb36\x12\x00\x1a\x00\x22\x00\x2a\x00\
    \x32\x00\x38\x00\x42\x00\x12\x06\x0a\x01a\x12\x01b\x1a\x00\x22\x00";

// === writing messages ===

fn bytes(number: u32, content: &[u8]) -> Vec<u8> {
    let mut field = Vec::new();
    encode_key(number, WireType::LengthDelimited, &mut field);
    encode_varint(content.len() as u64, &mut field);
    [field, content.to_vec()].concat()
}

fn varint(number: u32, value: u64) -> Vec<u8> {
    let mut field = Vec::new();
    encode_key(number, WireType::Varint, &mut field);
    encode_varint(value, &mut field);
    field
}

fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let types = [bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())].concat();
    [MAGIC.to_vec(), bytes(1, &types), bytes(2, raw)].concat()
}

fn read(api_version: &str, kind: &str, raw: &[u8]) -> Written {
    let mut fields = match decode(&body(api_version, kind, raw)) {
        Ok(Written::Map(fields)) => fields,
        other => panic!("no object: {other:?}"),
    };
    fields.retain(|(name, _)| name != "apiVersion" && name != "kind");
    Written::Map(fields)
}

// === what is read ===

#[test]
fn what_kubectl_sends_is_what_it_would_be_as_json() {
    let expected = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "pb36"}, "data": {"a": "b"},
    });
    assert_eq!(decode(CONFIG_MAP), Ok(expected.into()));
}

#[test]
fn a_zero_is_kept_where_it_says_something() {
    let security = bytes(15, &[varint(4, 0), varint(2, 0)].concat());
    let container = [bytes(1, b"c"), bytes(5, b""), varint(16, 0), security].concat();
    let spec = [bytes(2, &container), varint(4, 0), varint(11, 0), bytes(1, &bytes(2, &bytes(2, b"")))].concat();
    let expected = json!({"spec": {
        "containers": [{"name": "c", "securityContext": {"privileged": false, "runAsUser": 0}}],
        "terminationGracePeriodSeconds": 0,
        "volumes": [{"emptyDir": {}}],
    }});
    assert_eq!(read("v1", "Pod", &[bytes(1, &bytes(8, b"")), bytes(2, &spec)].concat()), expected.into());
}

#[test]
fn each_form_of_content_is_read() {
    let resources = bytes(1, &[bytes(1, b"cpu"), bytes(2, &bytes(1, b"500m"))].concat());
    let port = [varint(1, 1), bytes(3, b"http")].concat();
    let probe = bytes(1, &bytes(2, &[bytes(1, b"/"), bytes(2, &port)].concat()));
    let container = [bytes(1, b"c"), bytes(8, &resources), bytes(10, &probe), bytes(6, &varint(3, 80))].concat();
    let groups = bytes(14, &[varint(4, 1), bytes(4, &[2, 3])].concat());
    let time = bytes(8, &[varint(1, 60), varint(2, 0)].concat());
    let pod = [bytes(1, &time), bytes(2, &[bytes(2, &container), groups].concat())].concat();
    let expected = json!({
        "metadata": {"creationTimestamp": "1970-01-01T00:01:00Z"},
        "spec": {
            "containers": [{
                "name": "c",
                "livenessProbe": {"httpGet": {"path": "/", "port": "http"}},
                "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": "500m"}},
            }],
            "securityContext": {"supplementalGroups": [1, 2, 3]},
        },
    });
    assert_eq!(read("v1", "Pod", &pod), expected.into());
    let lease = bytes(2, &[bytes(1, b"me"), bytes(3, &[varint(1, 1), varint(2, 100)].concat())].concat());
    assert_eq!(
        read("coordination.k8s.io/v1", "Lease", &lease),
        json!({"spec": {"holderIdentity": "me", "acquireTime": "1970-01-01T00:00:01.000000Z"}}).into()
    );
    let secret = bytes(2, &[bytes(1, b"key"), bytes(2, b"\xff")].concat());
    assert_eq!(read("v1", "Secret", &secret), json!({"data": {"key": "/w=="}}).into());
    let revision = [bytes(2, &bytes(1, br#"{"a":1}"#)), varint(3, 7)].concat();
    assert_eq!(read("apps/v1", "ControllerRevision", &revision), json!({"data": {"a": 1}, "revision": 7}).into());
}

#[test]
fn a_field_nobody_knows_is_told_if_it_says_something() {
    let raw = [bytes(15, b""), bytes(14, b"x")].concat();
    let decoded = strict::decode::<k8s_openapi::api::core::v1::ConfigMap>(&read("v1", "ConfigMap", &raw)).unwrap();
    let findings: Vec<String> = decoded.findings.iter().map(ToString::to_string).collect();
    assert_eq!(findings, [r#"unknown field "protobuf field 14""#]);
}

#[test]
fn what_is_no_message_is_refused() {
    let error = |body: &[u8]| decode(body).unwrap_err().to_string();
    assert_eq!(error(b"{}"), "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]");
    assert_eq!(error(b"k8s\0"), "Object 'Kind' is missing in the protobuf message");
    assert_eq!(error(&body("v1", "Job", b"")), r#"no kind "Job" is registered for version "v1""#);
    assert_eq!(error(&body("v1", "Pod", b"\x0a\x7f")), "proto: message: unexpected end of the data");
    assert_eq!(error(&body("v1", "Pod", &varint(1, 1))), "proto: metadata: wrong wire type");
    assert_eq!(error(&body("v1", "Pod", &bytes(1, &bytes(1, b"\xff")))), "proto: name: not UTF-8");
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(raw in prop::collection::vec(any::<u8>(), 0..120)) {
        let _ = decode(&body("v1", "Pod", &raw));
        let _ = decode(&[MAGIC, &raw].concat());
    }
}

// === the tables against the schemas ===

#[test]
fn the_tables_have_every_field_of_every_kind() {
    for kind in KINDS.iter().copied().filter(|kind| kind.verbs.contains(&"create")) {
        let message = message_of(&kind.api_version(), kind.kind);
        let message = message.unwrap_or_else(|| panic!("{} has no message", kind.kind));
        let document = schemas(kind);
        let gvk = json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
        let schema = document.values().find(|schema| schema["x-kubernetes-group-version-kind"][0] == gvk);
        check_message(kind.kind, message, schema.expect("every kind has a schema"), &document);
    }
}

fn schemas(kind: &Kind) -> Map<String, Value> {
    let path = if kind.group.is_empty() { "api/v1".to_owned() } else { format!("apis/{}", kind.api_version()) };
    let mut document: Value = serde_json::from_slice(&OPENAPI.document(&path).unwrap().body).unwrap();
    match document["components"]["schemas"].take() {
        Value::Object(schemas) => schemas,
        _ => panic!("schemas"),
    }
}

fn check_message(path: &str, message: &Message, schema: &Value, schemas: &Map<String, Value>) {
    // JSON has the fields of embedded messages beside the others.
    let mut fields = Vec::new();
    let mut pending: Vec<&Field> = message.fields.iter().collect();
    while let Some(field) = pending.pop() {
        match &field.content {
            Content::Message(message) if field.name == "_" => pending.extend(message.fields),
            _ => fields.push(field),
        }
    }
    let mut names: Vec<&str> = fields.iter().map(|field| field.name).collect();
    names.sort_unstable();
    let properties = schema["properties"].as_object().unwrap_or_else(|| panic!("{path} has no properties"));
    let only_in_json = ["apiVersion", "kind", "stringData"];
    let mut known: Vec<&str> = properties.keys().map(String::as_str).collect();
    // References to objects have these in both forms.
    known.retain(|name| !only_in_json.contains(name) || names.contains(name));
    known.sort_unstable();
    assert_eq!(names, known, "{path}");
    for field in fields {
        check_content(&format!("{path}.{}", field.name), &field.content, &properties[field.name], schemas);
    }
}

fn check_content(path: &str, content: &Content, schema: &Value, schemas: &Map<String, Value>) {
    let reference = schema["$ref"].as_str().or_else(|| schema["allOf"][0]["$ref"].as_str());
    let name = reference.and_then(|reference| reference.rsplit('/').next());
    let target = name.map_or(schema, |name| &schemas[name]);
    let (json_type, format) = (target["type"].as_str().unwrap_or_default(), target["format"].as_str());
    let name = name.and_then(|name| name.rsplit('.').next()).unwrap_or_default();
    let fits = match content {
        Content::Message(message) => return check_message(path, message, target, schemas),
        Content::List(item) => return check_content(path, item, &target["items"], schemas),
        Content::Map(item) => return check_content(path, item, &target["additionalProperties"], schemas),
        Content::Text => json_type == "string" && format.is_none(),
        Content::Int => json_type == "integer",
        Content::Bool => json_type == "boolean",
        Content::Bytes => format == Some("byte"),
        Content::Json => matches!(name, "RawExtension" | "FieldsV1"),
        Content::Quantity => name == "Quantity",
        Content::Time => name == "Time",
        Content::MicroTime => name == "MicroTime",
        Content::IntOrString => name == "IntOrString",
        Content::Strings => json_type == "array",
    };
    assert!(fits, "{path}: {content:?} for {schema}");
}
