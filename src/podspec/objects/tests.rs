use std::path::Path;

use serde_json::json;

use super::*;
use crate::testing::pods;

#[test]
fn every_place_that_names_an_object_is_found() {
    let env = |name: &str| {
        json!({
            "env": [
                { "name": "A", "valueFrom": { "configMapKeyRef": { "name": format!("{name}-key"), "key": "k" } } },
                { "name": "B", "valueFrom": { "secretKeyRef": { "name": format!("{name}-key"), "key": "k" } } },
                { "name": "C", "value": "c" },
            ],
            "envFrom": [
                { "configMapRef": { "name": format!("{name}-from") } },
                { "prefix": "P", "secretRef": { "name": format!("{name}-from"), "optional": true } },
            ],
        })
    };
    let container = |name: &str| {
        let mut container = env(name);
        container["name"] = json!(name);
        container
    };
    let spec = json!({
        "initContainers": [container("init")],
        "containers": [container("main")],
        "imagePullSecrets": [{ "name": "registry" }, { "name": "" }],
        "volumes": [
            { "name": "a", "configMap": { "name": "volume" } },
            { "name": "b", "secret": { "secretName": "volume" } },
            { "name": "c", "projected": { "sources": [
                { "configMap": { "name": "projected" } },
                { "secret": { "name": "projected" } },
                { "serviceAccountToken": { "path": "token", "audience": "vault", "expirationSeconds": 600 } },
                { "serviceAccountToken": { "path": "default" } },
            ] } },
            { "name": "d", "emptyDir": {} },
        ],
    });
    let spec: k8s::PodSpec = serde_json::from_value(spec).unwrap();
    let ephemeral: [k8s::EphemeralContainer; 1] = [serde_json::from_value(container("debug")).unwrap()];
    let names = |kind| -> Vec<String> {
        references(&spec, &ephemeral).into_iter().filter(|one| one.kind == kind).map(|one| one.name).collect()
    };
    let both = ["debug-from", "debug-key", "init-from", "init-key", "main-from", "main-key", "projected"];
    assert_eq!(names(ObjectKind::ConfigMap), [&both[..], &["volume"]].concat());
    assert_eq!(names(ObjectKind::Secret), [&both[..], &["registry", "volume"]].concat());
    let token = |audience: &str, expiration_secs| TokenSpec { audience: audience.to_owned(), expiration_secs };
    assert_eq!(token_specs(&spec), [token("", 3600), token("vault", 600)].into());
}

#[test]
fn an_object_is_read_as_the_api_stores_it_and_shows_no_values() {
    let config = json!({ "data": { "a": "text" }, "binaryData": { "b": "AAE=" } });
    let config = Object::decode(ObjectKind::ConfigMap, config.to_string().as_bytes()).unwrap();
    assert_eq!(config.data["a"], b"text");
    assert_eq!(config.binary_data["b"], [0, 1]);

    let secret = json!({ "type": "kubernetes.io/tls", "data": { "tls.key": "aHVudGVyMg==" } });
    let secret = Object::decode(ObjectKind::Secret, secret.to_string().as_bytes()).unwrap();
    assert_eq!((secret.type_.as_str(), secret.data["tls.key"].as_slice()), ("kubernetes.io/tls", &b"hunter2"[..]));
    assert_eq!(format!("{secret:?}"), "Object { type_: \"kubernetes.io/tls\", keys: [\"tls.key\"], .. }");
    Object::decode(ObjectKind::Secret, b"{\"data\":{\"a\":1}}").unwrap_err();
}

/// An object with this text under the key `k`.
fn object(text: &str) -> Arc<Object> {
    Arc::new(Object { data: [("k".to_owned(), text.as_bytes().to_vec())].into(), ..Object::default() })
}

fn id(source: Source, name: &str) -> ObjectId {
    ObjectId { source, kind: ObjectKind::ConfigMap, key: ObjectKey::new("default", name) }
}

#[test]
fn a_pod_finds_what_its_source_has_and_keeps_what_it_had() {
    let (linked, mut local) = (pods::pod("linked", Path::new("/")), pods::pod("local", Path::new("/")));
    local.origin.daemonset = Some("of-a-file".into());
    let (ours, folders) = (object("control's"), object("the folder's"));
    let held = |object: &Arc<Object>, kept_for: &[&str]| Held {
        object: object.clone(),
        kept_for: kept_for.iter().map(|uid| (*uid).into()).collect(),
    };
    let mut objects = Objects { local: ["of-a-file".into()].into(), ..Objects::default() };
    let app = Reference::config_map("app");
    assert_eq!((objects.find(&linked, &app), objects.find(&local, &app)), (Found::Unheard, Found::Absent));

    objects.held.insert(id(Source::Link, "app"), held(&ours, &[]));
    objects.held.insert(id(Source::Files, "app"), held(&folders, &[]));
    assert_eq!(objects.find(&linked, &app), Found::Present(&ours));
    assert_eq!(objects.find(&local, &app), Found::Present(&folders));
    assert_eq!(objects.secret(&linked, "app"), Found::Unheard, "kinds have their names to themselves");

    // Withdrawn: whoever had it keeps it, others are told.
    objects.held.insert(id(Source::Link, "app"), held(&ours, &["uid-linked"]));
    objects.withheld.insert(id(Source::Link, "app"), Withheld::Refused("not for this node".to_owned()));
    assert_eq!(objects.find(&linked, &app), Found::Present(&ours));
    let other = pods::pod("other", Path::new("/"));
    assert_eq!(objects.find(&other, &app), Found::Refused("not for this node"));
    objects.withheld.insert(id(Source::Link, "app"), Withheld::Absent);
    assert_eq!(objects.find(&other, &app), Found::Absent);
}

#[test]
fn a_pod_is_concerned_by_a_change_of_what_it_asks_for() {
    let mut pod = pods::pod("web", Path::new("/"));
    let wanted = TokenSpec { audience: String::new(), expiration_secs: 3600 };
    pod.references = [Reference::config_map("app")].into();
    pod.tokens = [wanted.clone()].into();
    let before = Objects::default();
    assert!(!before.is_heard(&pod) && !before.is_complete(&pod));

    let mut after = before.clone();
    after.held.insert(id(Source::Link, "other"), Held { object: object("x"), kept_for: [].into() });
    after.tokens.insert(("uid-other".into(), wanted.clone()), Ok(TokenText("t".to_owned())));
    assert!(!after.differs(&before, &pod), "others' objects and tokens");

    let mut with_token = before.clone();
    with_token.tokens.insert(("uid-web".into(), wanted.clone()), Ok(TokenText("t".to_owned())));
    assert!(with_token.differs(&before, &pod));
    assert!(!format!("{with_token:?}").contains("\"t\""));

    let mut with_object = before.clone();
    with_object.held.insert(id(Source::Link, "app"), Held { object: object("one"), kept_for: [].into() });
    assert!(with_object.differs(&before, &pod) && with_object.is_heard(&pod) && !with_object.is_complete(&pod));
    with_token.held.clone_from(&with_object.held);
    assert!(with_token.is_complete(&pod));
    let mut again = before.clone();
    again.held.insert(id(Source::Link, "app"), Held { object: object("one"), kept_for: [].into() });
    assert!(!again.differs(&with_object, &pod), "the same content in another place");
}
