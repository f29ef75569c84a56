//! What comes from elsewhere, byte for byte: for each kind of input, what must hold whatever the bytes are.
//!
//! Nothing may panic, and what is understood must be the same again once it is written and read. `tests/fuzz` searches for
//! bytes for which that is not so; `cargo test` tries the seeds, whole and damaged.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use clap::Parser;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Uri};
use jiff::Timestamp;
use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::pods;
use crate::agent::manifest;
use crate::api::bundle::Bundle;
use crate::api::document::parse_json;
use crate::api::field::{FieldError, Invalid};
use crate::api::quantity::Quantity;
use crate::api::selector::{FieldSelector, Selector};
use crate::cli::{Cli, Command};
use crate::config::{self, HostLabels};
use crate::control::bearer::claims::Claims;
use crate::control::kinds::{self, KINDS, Kind};
use crate::control::objects::{
    AdmittedRecord, EraRecord, FleetRecord, MemberRecord, PermitRecord, PodIntent, PostedPod, Tombstone,
};
use crate::control::ownership::{self, Write};
use crate::control::registry::{self, Part};
use crate::control::rest::body::{self, Received};
use crate::control::rest::filter::Filter;
use crate::control::rest::patch::{Asked, PatchType, apply_patch};
use crate::control::rest::protobuf;
use crate::control::rest::query::{FieldValidation, Query};
use crate::control::rest::streams::protocol::{SPDY_COMMANDS, Sizes, WEBSOCKET_COMMANDS, WEBSOCKET_FORWARDS};
use crate::control::rest::table;
use crate::control::rest::target::Target as PathTarget;
use crate::control::tokens::TokenRecord;
use crate::control::user_tokens::{self, UserTokenRecord};
use crate::cri::{self, NewContainer};
use crate::devices::{self, pb as pb_devices};
use crate::eligibility::{self, NodeFacts};
use crate::error::Chain;
use crate::host::{self, ledger, logs, resolv};
use crate::kube::Kubeconfig;
use crate::link::tls::{CertificateRequest, NodeKey};
use crate::link::{self, from_proto, pb, to_proto};
use crate::model::{Moment, ObservedPod, ObservedSandbox, Taint};
use crate::plan::memory::PodMemory;
use crate::plan::{self, Wanted};
use crate::podspec::bind::{self, Given};
use crate::podspec::objects::{Object, Objects};
use crate::podspec::{self, Granted, ImageUser, Keyring, Pod, VolumeSource, env};
use crate::seal::{KEY_BYTES, Key};
use crate::spdy::frame::{Decoder, Encoder, Frame};

/// One kind of input.
pub struct Target {
    /// As `tests/fuzz` knows it.
    pub name: &'static str,
    /// Panics where something does not hold of these bytes.
    pub check: fn(&[u8]),
    /// What to begin with: inputs as they come.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Every kind of input.
pub const TARGETS: &[Target] = &[
    Target { name: "manifest", check: manifests, seeds: corpus },
    Target { name: "bundle", check: bundles, seeds: bundle_seeds },
    Target { name: "object", check: objects, seeds: object_seeds },
    Target { name: "protobuf", check: protobufs, seeds: protobuf_seeds },
    Target { name: "patch", check: patches, seeds: patch_seeds },
    Target { name: "request", check: requests, seeds: request_seeds },
    Target { name: "value", check: values, seeds: value_seeds },
    Target { name: "file", check: files, seeds: file_seeds },
    Target { name: "credentials", check: credentials, seeds: credentials_seeds },
    Target { name: "certificate", check: certificate_requests, seeds: certificate_request_seeds },
    Target { name: "record", check: records, seeds: record_seeds },
    Target { name: "link", check: link_messages, seeds: link_seeds },
    Target { name: "spdy", check: spdy_frames, seeds: spdy_seeds },
    Target { name: "channel", check: channels, seeds: channel_seeds },
    Target { name: "runtime", check: runtime_messages, seeds: Vec::new },
    Target { name: "log", check: log_files, seeds: log_seeds },
];

/// The files of a folder below `tests/data` with this extension.
fn data(folder: &str, extension: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(folder);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|found| found == extension));
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn texts<const N: usize>(texts: [&str; N]) -> Vec<Vec<u8>> {
    texts.map(|text| text.as_bytes().to_vec()).into()
}

/// Every refusal says of which field it is.
fn told(errors: &[FieldError]) {
    for error in errors {
        assert!(!error.field.to_string().is_empty(), "{error} names no field");
    }
}

/// The same value once it is written as JSON and read.
fn reads_back<T: Serialize + DeserializeOwned>(value: &T) {
    let written = serde_json::to_value(value).expect("it has string keys only");
    let again: T = serde_json::from_value(written.clone()).expect("what was written is read");
    assert_eq!(serde_json::to_value(&again).unwrap(), written);
}

// === what is to run ===

fn corpus() -> Vec<Vec<u8>> {
    data("corpus", "yaml")
}

fn manifests(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match manifest::read(text) {
        Ok(manifests) => {
            for bundle in &manifests.sets {
                if let Err(refused) = runs(bundle) {
                    panic!("it was admitted, and yet {refused}");
                }
            }
            for object in &manifests.objects {
                Object::decode(object.kind, &object.json).expect("what was admitted is read");
            }
        }
        Err(error) => {
            if let manifest::ManifestError::Invalid { source, .. } = &error {
                told(&source.0);
            }
            assert!(!Chain(&error).to_string().is_empty());
        }
    }
}

fn bundle_seeds() -> Vec<Vec<u8>> {
    let texts = corpus().into_iter().map(|text| String::from_utf8(text).unwrap());
    let sets = texts.flat_map(|text| manifest::read(&text).map(|manifests| manifests.sets).unwrap_or_default());
    sets.map(|bundle| bundle.encode()).collect()
}

/// A node takes what control sends, and refuses what it cannot realize; nothing says that it was validated.
fn bundles(bytes: &[u8]) {
    let Ok(bundle) = Bundle::decode(bytes) else { return };
    if let Err(refused) = runs(&bundle) {
        told(&refused.0);
    }
}

/// All that a node does with a bundle, up to the first requests to the runtime.
fn runs(bundle: &Bundle) -> Result<(), Invalid> {
    assert_eq!(Bundle::decode(&bundle.encode()).expect("what was written is read"), *bundle);
    let (host, key) = (pods::host(), pods::key());
    let node = NodeFacts { name: &host.node_name, labels: &BTreeMap::new(), taints: &[] };
    let _ = eligibility::judge(&node, &bundle.template);
    let pod = podspec::resolve(bundle, &key, &host, &[])?;
    cri::to_proto::sandbox_config(&pod, 0, None);
    let none = Objects::default();
    let sandbox = ObservedSandbox { id: "s".into(), attempt: 0, ready: true, ips: Vec::new(), created_at: at() };
    let _ = bind::check(&pod, &none);
    for volume in &pod.volumes {
        if let VolumeSource::Files { sources, .. } = &volume.source {
            let _ = bind::payload(&pod, sources, &none);
        }
    }
    for container in &pod.containers {
        let given = Given {
            objects: &none,
            pod_ips: &host.ips,
            files: &BTreeMap::new(),
            images: &BTreeMap::new(),
            can_be_recursive: true,
            granted: &Granted::default(),
        };
        let bound = bind::bind(&pod, container, &given).unwrap_or_default();
        cri::to_proto::container_config(&NewContainer {
            pod: &pod,
            container,
            attempt: 0,
            sandbox: &sandbox,
            bound: &bound,
            image_ref: "",
            image_user: &ImageUser::Uid(0),
            users: None,
            target: None,
        });
    }
    plans(&pod);
    Ok(())
}

/// A pod of which there is nothing yet, with each thing that may be wanted of it.
fn plans(pod: &Pod) {
    let nothing = ObservedPod::default();
    let mut memory = PodMemory::new(&vec![0; pod.containers.len()]);
    let now = Moment(std::time::Duration::from_secs(1));
    memory.observe(pod, &nothing, now);
    for wanted in [Wanted::Run, Wanted::Finish { deadline: now }, Wanted::Stop { deadline: now }] {
        let plan = plan::plan(pod, wanted, &nothing, &memory, &BTreeMap::new(), now);
        assert_eq!(plan.waiting.len(), pod.containers.len());
    }
}

// === the API ===

fn at() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

fn example(kind: &str) -> Value {
    json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "a", "namespace": "default"}})
}

fn object_seeds() -> Vec<Vec<u8>> {
    let mut seeds = data("rest", "json");
    seeds.extend(corpus());
    seeds.extend(KINDS.iter().map(|kind| {
        let mut object = example(kind.kind);
        object["apiVersion"] = kind.api_version().into();
        object.to_string().into_bytes()
    }));
    seeds
}

/// A kind of which users write objects.
fn written_kind(api_version: &str, kind: &str) -> Option<&'static Kind> {
    kinds::by_name(api_version, kind).filter(|kind| kind.verbs.contains(&"create"))
}

/// The kind is the one the body names, else a DaemonSet.
fn objects(bytes: &[u8]) {
    let is_json = bytes.trim_ascii_start().starts_with(b"{");
    let media_type = if is_json { "application/json" } else { "application/yaml" };
    let named = parse_json(bytes).ok().and_then(|written| {
        written_kind(written.text("apiVersion").unwrap_or_default(), written.text("kind").unwrap_or_default())
    });
    arrives(named.unwrap_or(&kinds::DAEMON_SET), media_type, bytes);
    if !is_json {
        arrives(&kinds::POD, media_type, bytes);
    }
}

fn protobuf_seeds() -> Vec<Vec<u8>> {
    let envelope = |api_version: &str, kind: &str, raw: &[u8]| {
        let field = |number: u8, content: &[u8]| {
            let length = u8::try_from(content.len()).expect("a short one");
            [&[number << 3 | 2, length], content].concat()
        };
        let kind = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        [b"k8s\0".to_vec(), field(1, &kind), field(2, raw)].concat()
    };
    // Metadata with a name and a namespace, then what each kind has as its second field.
    let metadata = b"\x0a\x0c\x0a\x01a\x1a\x07default";
    KINDS.iter().map(|kind| envelope(&kind.api_version(), kind.kind, metadata)).collect()
}

fn protobufs(bytes: &[u8]) {
    let Ok(written) = protobuf::decode(bytes) else { return };
    let (version, kind) = (written.text("apiVersion").unwrap_or_default(), written.text("kind").unwrap_or_default());
    // Options of requests come in this form, too, and are no kind of the API.
    if let Some(kind) = written_kind(version, kind) {
        arrives(kind, protobuf::MEDIA_TYPE, bytes);
    }
    let _ = body::delete_options(&headers(protobuf::MEDIA_TYPE), bytes);
}

fn headers(media_type: &'static str) -> HeaderMap {
    [(CONTENT_TYPE, HeaderValue::from_static(media_type))].into_iter().collect()
}

/// A body of a request to create an object.
fn arrives(kind: &'static Kind, media_type: &'static str, bytes: &[u8]) {
    let strict = body::object(kind, &headers(media_type), bytes, FieldValidation::Strict);
    let lenient = body::object(kind, &headers(media_type), bytes, FieldValidation::Warn);
    match lenient {
        Ok(received) => {
            assert_eq!(strict.is_ok(), received.warnings.is_empty());
            is_created(kind, received);
        }
        Err(error) => {
            assert!(strict.is_err(), "lenient, it is refused: {error}");
            error.status();
        }
    }
}

fn is_created(kind: &'static Kind, received: Received) {
    let mut object = received.object;
    let again = body::patched(kind, &object, FieldValidation::Strict).expect("what was written is read");
    assert_eq!(again.object, object, "what was written is read as it was");
    if !kind.is_kept() {
        return;
    }
    let _ = registry::refuse_create(kind, &object);
    registry::stamp(kind, "default", &mut object, "0b6f1a3c-8e1d-4f4e-9d5a-2f6f1f0f7a11", at());
    registry::prepare_create(kind, &mut object);
    let errors = registry::validate_create(kind, &object);
    told(&errors);
    let write = Write { kind, part: Part::Main, manager: "fuzz", now: at() };
    ownership::note_update(&write, None, &mut object);
    assert_eq!(table::row(kind, &object, at()).len(), table::columns(kind).len());
    if errors.is_empty() {
        let mut same = object.clone();
        registry::prepare_update(kind, Part::Main, &mut same, &object, at());
        ownership::note_update(&write, Some(&object), &mut same);
        assert_eq!(same, object, "writing it again changes nothing");
        assert_eq!(registry::validate_update(kind, Part::Main, &same, &object), [], "it may be written again");
    }
}

/// Objects that patches are for.
fn live() -> Vec<(&'static Kind, Value)> {
    let container = json!({"name": "a", "image": "a", "ports": [{"containerPort": 1, "protocol": "TCP"}],
        "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
        "volumeMounts": [{"name": "v", "mountPath": "/v"}]});
    let spec =
        json!({"containers": [container], "volumes": [{"name": "v", "emptyDir": {}}], "tolerations": [{"key": "a"}]});
    let template = json!({"metadata": {"labels": {"app": "a"}}, "spec": spec});
    let mut set = example("DaemonSet");
    set["apiVersion"] = "apps/v1".into();
    set["spec"] = json!({"selector": {"matchLabels": {"app": "a"}}, "template": template});
    let mut map = example("ConfigMap");
    map["data"] = json!({"a": "1", "b": "2"});
    let mut account = example("ServiceAccount");
    account["secrets"] = json!([{"name": "a"}, {"name": "b"}]);
    vec![(&kinds::DAEMON_SET, set), (&kinds::CONFIG_MAP, map), (&kinds::SERVICE_ACCOUNT, account)]
}

/// The first byte says which object and which form of patch, the rest is the patch.
fn patch_seeds() -> Vec<Vec<u8>> {
    let operations = json!([{"op": "test", "path": "/metadata/name", "value": "a"},
        {"op": "add", "path": "/spec/template/spec/containers/-", "value": {"name": "b"}},
        {"op": "copy", "from": "/metadata", "path": "/spec/template/metadata"},
        {"op": "move", "from": "/spec/template", "path": "/spec/x"}, {"op": "remove", "path": "/spec/selector"}]);
    let merge = json!({"data": {"a": null, "c": "3"}, "metadata": {"labels": {"x": "y"}}});
    let strategic = json!({"spec": {"template": {"spec": {"$setElementOrder/containers": [{"name": "a"}, {"name": "b"}],
        "containers": [{"name": "a", "env": [{"name": "A", "$patch": "delete"}]}, {"name": "b"}],
        "$deleteFromPrimitiveList/finalizers": ["x"], "volumes": [{"$patch": "replace"}],
        "strategy": {"$retainKeys": ["type"], "type": "x"}}}}});
    let forms = [operations, merge, strategic];
    let live = live();
    let mut seeds = Vec::new();
    for (index, (_, object)) in live.iter().enumerate() {
        for (form, patch) in forms.iter().chain([object]).enumerate() {
            let first = u8::try_from(form * live.len() + index).expect("a few");
            seeds.push([&[first], patch.to_string().as_bytes()].concat());
        }
    }
    seeds
}

fn patches(bytes: &[u8]) {
    let Some((first, patch)) = bytes.split_first() else { return };
    let mut live = live();
    let (form, index) = (usize::from(*first) / live.len(), usize::from(*first) % live.len());
    let (kind, object) = live.swap_remove(index);
    let form = [PatchType::Json, PatchType::Merge, PatchType::Strategic].get(form);
    let Some(form) = form else { return is_applied(kind, &object, patch) };
    let Ok(patched) = apply_patch(kind, &object, patch, *form) else { return };
    assert!(patched.is_object());
    if *form == PatchType::Merge {
        assert_eq!(apply_patch(kind, &patched, patch, *form).expect("it applied before"), patched);
    }
    if let Ok(received) = body::patched(kind, &patched, FieldValidation::Ignore) {
        is_created(kind, received);
    }
}

/// Who applies a configuration twice changes nothing the second time, and owns no less.
fn is_applied(kind: &'static Kind, live: &Value, bytes: &[u8]) {
    let Ok(received) = body::applied(kind, bytes, FieldValidation::Ignore) else { return };
    let write = Write { kind, part: Part::Main, manager: "fuzz", now: at() };
    for live in [None, Some(live)] {
        let Ok(once) = ownership::apply(&write, live, &received.object, true) else { continue };
        let twice = ownership::apply(&write, Some(&once), &received.object, false).expect("it owns what it applied");
        assert_eq!(twice, once);
    }
}

fn request_seeds() -> Vec<Vec<u8>> {
    texts([
        "/api/v1/namespaces/default/pods?labelSelector=app%3Da%2Cb+in+(c%2Cd)&fieldSelector=spec.nodeName%3Da&limit=5",
        "/apis/apps/v1/namespaces/default/daemonsets/a/status?dryRun=All&fieldManager=a&force=true&fieldValidation=Strict",
        "/api/v1/nodes?watch=1&resourceVersion=5&resourceVersionMatch=NotOlderThan&timeoutSeconds=5&continue=abc",
        "/api/v1/namespaces/a/configmaps/b?propagationPolicy=Orphan&gracePeriodSeconds=0",
        "/api/v1/namespaces/a/pods/b/log?container=c&tailLines=5&sinceTime=2026-01-01T00%3A00%3A00Z",
    ])
}

fn requests(bytes: &[u8]) {
    let Ok(uri) = Uri::try_from(bytes) else { return };
    let target = PathTarget::parse(uri.path());
    let Ok(query) = Query::parse(&uri) else { return };
    let (headers, kind) = (HeaderMap::new(), target.ok().flatten().map_or(&kinds::POD, |target| target.kind));
    let _ = (query.list_at(), query.apply_options(&headers), query.field_manager(&headers, "PatchOptions"));
    let _ = (query.delete_options(Default::default()), query.field_validation("PatchOptions"), query.refuse_force());
    if let Ok(filter) = Filter::parse(kind, &query) {
        let _ = filter.matches(&example(kind.kind));
    }
    for media_type in query.all("contentType") {
        let _ = Asked::from_content_type(media_type);
    }
}

// === values ===

fn value_seeds() -> Vec<Vec<u8>> {
    texts([
        "100m",
        "1.5Gi",
        "-2e3",
        "app in (a, b),!c,d!=e,f notin (g),h",
        "metadata.name=a\\,b,spec.nodeName!=c",
        "a=b:NoSchedule",
        "$(A) $$(B) $(C",
        "A='1'\n# comment\n B = '2\n3'\n",
        "abc123.ssssssssssssssssssssssssssssssss.0000000000000000000000000000000000000000000000000000000000000000",
        "registry.example.org:5000/a/b:v1@sha256:0000000000000000000000000000000000000000000000000000000000000000",
    ])
}

fn values(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(quantity) = text.parse::<Quantity>() {
        let printed = quantity.to_string();
        let again: Quantity = printed.parse().expect("what was printed is read");
        assert_eq!((again, again.to_string()), (quantity, printed));
        let _ = (quantity.value(), quantity.milli_value(), quantity + quantity, quantity.rounded_to_milli());
    }
    if let Ok(selector) = Selector::parse(text) {
        assert_eq!(Selector::parse(&selector.to_string()), Ok(selector.clone()), "{selector}");
        let _ = selector.matches(&BTreeMap::from([("a".to_owned(), "b".to_owned())]));
    }
    if let Ok(selector) = FieldSelector::parse(text) {
        let _ = selector.matches(|field| Some(field.to_owned()));
    }
    if let Ok(taint) = text.parse::<Taint>() {
        assert_eq!(taint.to_string().parse(), Ok(taint));
    }
    let _ = env::expand(text, |name| (!name.is_empty()).then_some("$(B)"));
    let _ = env::file_value(text, "A");
    if let Ok(token) = text.parse::<link::JoinToken>() {
        assert_eq!(token.to_string().parse(), Ok(token));
    }
    let _ = (link::JoinToken::parse_credential(text), user_tokens::parse(text));
    Keyring::default().lookup(text);
}

// === files of a host ===

fn file_seeds() -> Vec<Vec<u8>> {
    texts([
        "nameserver 192.0.2.53\nsearch a. b\noptions ndots:5 timeout:1\n",
        "# comment\nexample.com/gpu=a100\ndedicated=storage:NoExecute\n",
        "nodeName: a\nnodeLabels: {a: b}\nevictionHard: {memory.available: 100Mi}\n",
        "current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {server: \
         \"https://a\", certificate-authority-data: YQ==}}]\nusers: [{name: u, user: {token: t}}]\n",
        r#"{"format": 1, "bootId": "boot", "holdings": [{"pod": "u", "container": "c", "resource": "r", "devices": ["a"],
            "granted": {"env": {"A": "a"}}, "preStart": true}]}"#,
    ])
}

fn files(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let dns = resolv::parse(&text);
    assert!(dns.searches.iter().all(|domain| !domain.is_empty()));
    let _ = HostLabels::default().add(Path::new("labels"), &text);
    if let Ok(file) = config::parse_file(Path::new("agent.yaml"), &text) {
        let state_dir = config::state_dir(None, &file);
        let Command::Agent(flags) = Cli::parse_from(["garrison", "agent"]).command else { unreachable!("as typed") };
        let _ = config::agent(flags.flags.node, state_dir, None, None, file, "host");
    }
    if let Ok(holdings) = host::devices::parse(bytes, "boot", Path::new("devices.json")) {
        reads_back(&holdings);
    }
    if let Ok(config) = Kubeconfig::parse(bytes, Path::new("/nowhere/kubeconfig")) {
        assert!(config.identity.is_some() || config.token.is_some());
    }
}

fn credentials_seeds() -> Vec<Vec<u8>> {
    texts([
        r#"{"auths": {"https://registry.example.org/v2/": {"auth": "YTpi"}, "*.example.org:5000/a": {"username": "a",
            "password": "b", "identitytoken": "c"}, "[a-z]?\\x.io": {"registrytoken": "d"}}}"#,
        r#"{"https://index.docker.io/v1/": {"auth": "YTpi"}}"#,
    ])
}

fn credentials(bytes: &[u8]) {
    let mut keyring = Keyring::default();
    let docker = |name: &str| BTreeMap::from([(name.to_owned(), bytes.to_vec())]);
    let _ = keyring.add_config_json(bytes);
    let _ = keyring.add_secret("kubernetes.io/dockercfg", &docker(".dockercfg"));
    for image in ["a", "registry.example.org/a/b:v1", "x.example.org:5000/a/b@sha256:00", "ax.io/y"] {
        keyring.lookup(image);
    }
}

fn certificate_request_seeds() -> Vec<Vec<u8>> {
    vec![NodeKey::generate().and_then(|key| key.request()).unwrap().to_vec()]
}

fn certificate_requests(bytes: &[u8]) {
    for read in [CertificateRequest::of_der(bytes), CertificateRequest::of_pem(bytes)] {
        let told = read.err().map(|error| Chain(&error).to_string());
        assert!(told.is_none_or(|told| !told.is_empty()));
    }
}

// === what was written before ===

fn record_seeds() -> Vec<Vec<u8>> {
    let mut seeds = data("ledger", "json");
    seeds.extend(texts([
        r#"{"kind": "Pod", "namespace": "a", "name": "b", "uid": "c", "seq": 1, "node": "n", "gracePeriodSeconds": 30}"#,
        r#"{"secretHash": "a", "expiresAt": "2026-01-01T00:00:00Z", "usesLeft": 1, "nodeName": "a", "labels": {"a": "b"}}"#,
        r#"{"aud": ["a"], "exp": 2, "iat": 1, "iss": "i", "jti": "j", "sub": "s", "nbf": 1, "kubernetes.io":
            {"namespace": "n", "serviceaccount": {"name": "a", "uid": "u"}, "pod": {"name": "p", "uid": "u"}}}"#,
    ]));
    seeds
}

fn records(bytes: &[u8]) {
    let key = Key::new(&[7; KEY_BYTES]);
    for key in [None, Some(&key)] {
        let _ = ledger::decode_slot(bytes, key);
        // A checksum cannot be guessed, nor can a seal, so the contents come with theirs as well.
        let slot = ledger::decode_slot(&ledger::encode_slot(1, bytes, key), key);
        if let Ok(ledger::Slot::Good { generation, contents, is_sealed }) = slot {
            assert_eq!((generation, is_sealed), (1, key.is_some()));
            let _ = contents.snapshot();
            reads_back(&contents);
        }
    }
    fn record<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<T> {
        serde_json::from_slice(bytes).ok().inspect(reads_back)
    }
    record::<AdmittedRecord>(bytes);
    record::<EraRecord>(bytes);
    record::<FleetRecord>(bytes);
    record::<MemberRecord>(bytes);
    record::<PermitRecord>(bytes);
    record::<PodIntent>(bytes);
    record::<PostedPod>(bytes);
    record::<Tombstone>(bytes);
    record::<TokenRecord>(bytes);
    record::<UserTokenRecord>(bytes);
    if let Some(claims) = record::<Claims>(bytes) {
        let _ = claims.check(&["a".to_owned()], at());
    }
}

// === between agent and control ===

/// The first byte says which message, the rest is the message.
fn link_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = (0..8).map(|message| vec![message]).collect();
    let welcome = pb::session_down::Body::Welcome(pb::Welcome::default());
    let welcome = pb::SessionDown { body: Some(welcome), ..Default::default() };
    seeds.push([&[1], welcome.encode_to_vec().as_slice()].concat());
    let hello = pb::SessionUp { body: Some(pb::session_up::Body::Hello(pb::Hello::default())) };
    seeds.push([&[0], hello.encode_to_vec().as_slice()].concat());
    seeds
}

fn link_messages(bytes: &[u8]) {
    let Some((which, bytes)) = bytes.split_first() else { return };
    /// What is understood is the same again once it was sent.
    fn same<M: Message + Default, T: Clone + PartialEq + std::fmt::Debug>(
        bytes: &[u8],
        read: impl Fn(M) -> Option<T>,
        write: impl Fn(T) -> M,
    ) {
        let Some(value) = M::decode(bytes).ok().and_then(&read) else { return };
        let sent = write(value.clone()).encode_to_vec();
        assert_eq!(read(M::decode(sent.as_slice()).expect("what was written is read")), Some(value));
    }
    match which {
        0 => same(bytes, |message| from_proto::up(message).ok().flatten(), to_proto::up),
        1 => same(bytes, |message| from_proto::down(message).ok().flatten(), to_proto::down),
        2 => same(bytes, |message| from_proto::tunnel_up(message).ok().flatten(), to_proto::tunnel_up),
        3 => same(bytes, |message| from_proto::tunnel_down(message).ok().flatten(), to_proto::tunnel_down),
        4 => same(bytes, |message| from_proto::enroll_request(message).ok(), to_proto::enroll_request),
        5 => same(bytes, |message| from_proto::enrolled(message).ok(), to_proto::enrolled),
        6 => same(bytes, |message| from_proto::renew_request(message).ok(), to_proto::renew_request),
        _ => same(bytes, |message| from_proto::renewed(message).ok(), to_proto::renewed),
    }
}

// === streams ===

fn spdy_seeds() -> Vec<Vec<u8>> {
    data("spdy", "bin")
}

fn spdy_frames(bytes: &[u8]) {
    let read = |size: usize| {
        let (mut decoder, mut input, mut frames) = (Decoder::default(), BytesMut::new(), Vec::new());
        for chunk in bytes.chunks(size) {
            input.extend_from_slice(chunk);
            loop {
                match decoder.decode(&mut input) {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(error) => return (frames, Some(error)),
                }
            }
        }
        (frames, None)
    };
    let (whole, error) = read(bytes.len().max(1));
    let (pieces, again) = read(7);
    assert_eq!((joined(whole.clone()), error), (joined(pieces), again), "the pieces it comes in make no difference");
    let (mut encoder, mut decoder, mut wire) = (Encoder::default(), Decoder::default(), BytesMut::new());
    for frame in &whole {
        encoder.encode(frame, &mut wire);
    }
    let mut read = Vec::new();
    while let Some(frame) = decoder.decode(&mut wire).expect("what was written is read") {
        read.push(frame);
    }
    assert_eq!(joined(read), joined(whole));
}

/// Data that follows data of the same stream is one, however it was cut.
fn joined(frames: Vec<Frame>) -> Vec<Frame> {
    let mut joined: Vec<Frame> = Vec::new();
    for frame in frames {
        match (joined.last_mut(), frame) {
            (Some(Frame::Data { id, data, fin }), Frame::Data { id: next, data: more, fin: ends })
                if *id == next && !*fin =>
            {
                *data = Bytes::from([data.as_ref(), more.as_ref()].concat());
                *fin = ends;
            }
            (_, frame) => joined.push(frame),
        }
    }
    joined
}

fn channel_seeds() -> Vec<Vec<u8>> {
    texts(["\u{0}typed", "\u{4}{\"Width\":80,\"Height\":24}\n", "0dHlwZWQ=", "4eyJXaWR0aCI6ODAsIkhlaWdodCI6MjR9"])
}

fn channels(bytes: &[u8]) {
    for protocol in WEBSOCKET_COMMANDS.iter().chain(WEBSOCKET_FORWARDS).chain(SPDY_COMMANDS) {
        let message = Bytes::copy_from_slice(bytes);
        protocol.read(&message, &mut Sizes::default());
        if let Some((channel, content)) = protocol.split(&message).filter(|(channel, _)| *channel < 10) {
            let written = protocol.message(channel, &content).into_data();
            assert_eq!(protocol.split(&written), Some((channel, content)));
        }
    }
    let (mut whole, mut pieces) = (Sizes::default(), Sizes::default());
    let last = bytes.chunks(3).filter_map(|piece| pieces.push(piece)).last();
    if bytes.len() < 256 {
        assert_eq!(whole.push(bytes), last);
    }
}

// === the runtime ===

/// The first byte says which message, the rest is the message.
fn runtime_messages(bytes: &[u8]) {
    let Some((which, bytes)) = bytes.split_first() else { return };
    match which {
        0 => {
            let statuses = k8s_cri::v1::PodSandboxStatus::decode(bytes).into_iter().collect();
            cri::from_proto::group(statuses, Vec::new(), &HashMap::new());
        }
        1 => {
            let statuses = k8s_cri::v1::ContainerStatus::decode(bytes).into_iter().collect();
            cri::from_proto::group(Vec::new(), statuses, &HashMap::new());
        }
        2 => drop(pb_devices::RegisterRequest::decode(bytes).map(devices::registration)),
        3 => drop(pb_devices::ListAndWatchResponse::decode(bytes).map(devices::stock)),
        4 => drop(pb_devices::ContainerAllocateResponse::decode(bytes).map(devices::granted)),
        5 => {
            let once = devices::authority::relabelled(bytes);
            assert_eq!(
                once.as_deref().and_then(devices::authority::relabelled),
                once,
                "it is whole, and says localhost"
            );
        }
        _ => {
            let envelope = containerd_client::types::Envelope::decode(bytes);
            envelope.iter().for_each(|envelope| drop(cri::events::change(envelope)));
        }
    }
}

fn log_seeds() -> Vec<Vec<u8>> {
    texts(["2026-01-31T12:00:00.5Z stdout F one\n2026-01-31T12:00:01Z stdout P two \ngarbage\n\
            2026-01-31T12:00:03+01:00 stderr F three"])
}

fn log_files(bytes: &[u8]) {
    for timestamps in [false, true] {
        let options = logs::LogOptions { timestamps, since: Some(at()), limit_bytes: Some(64), ..Default::default() };
        let shown = |size: usize| {
            let mut filter = logs::Filter::new(&options);
            let mut shown: Vec<u8> = bytes.chunks(size).flat_map(|piece| filter.push(piece)).collect();
            shown.extend(filter.finish());
            shown
        };
        let whole = shown(bytes.len().max(1));
        assert!(whole.len() <= 64);
        assert_eq!(whole, shown(5), "the pieces it is read in make no difference");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole, cut short, and with a byte changed.
    #[test]
    fn every_kind_of_input_stands_its_seeds_and_what_is_near_them() {
        for Target { check, seeds, .. } in TARGETS {
            for seed in seeds().into_iter().chain([Vec::new()]) {
                check(&seed);
                let step = seed.len() / 2 + 1;
                for index in (0..seed.len()).step_by(step) {
                    check(&seed[..index]);
                    let mut damaged = seed.clone();
                    damaged[index] = damaged[index].wrapping_add(1);
                    check(&damaged);
                }
            }
        }
    }
}
