use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::model::Source;
use crate::podspec::objects::{Held, ObjectId, TokenSpec, TokenText, Withheld};
use crate::podspec::tests::resolved;

/// ConfigMap `app` {k: config, "n.s": dotted, bin: 0xff (binary)} and Secret `app` {k: secret, bad: 0xff}.
fn objects() -> Objects {
    let pairs =
        |pairs: &[(&str, &[u8])]| pairs.iter().map(|(key, value)| ((*key).to_owned(), value.to_vec())).collect();
    let config = Object {
        data: pairs(&[("k", b"config"), ("n.s", b"dotted")]),
        binary_data: pairs(&[("bin", b"\xff")]),
        ..Object::default()
    };
    let secret = Object { data: pairs(&[("k", b"secret"), ("bad", b"\xff")]), ..Object::default() };
    let mut objects = Objects::default();
    for (kind, object) in [(ObjectKind::ConfigMap, config), (ObjectKind::Secret, secret)] {
        let held = Held { object: Arc::new(object), kept_for: [].into() };
        objects.held.insert(id(kind, "app"), held);
        objects.withheld.insert(id(kind, "absent"), Withheld::Absent);
        objects.withheld.insert(id(kind, "refused"), Withheld::Refused("not eligible".to_owned()));
    }
    objects
}

fn id(kind: ObjectKind, name: &str) -> ObjectId {
    ObjectId { source: Source::Link, kind, key: ObjectKey::new("default", name) }
}

/// Binds the container of a pod with these fields.
fn bound_in(pod: &Value, container: &Value) -> Result<Bound, ConfigError> {
    let pod = resolved(pod, container);
    let env_file = |path: &str| EnvFile { volume: "v".to_owned(), path: path.to_owned() };
    let files = BTreeMap::from([
        (env_file("a.env"), Some("K='from a file'\nE=''\n".to_owned())),
        (env_file("bad.env"), Some("K=unquoted".to_owned())),
        (env_file("missing.env"), None),
    ]);
    let given = Given {
        objects: &objects(),
        pod_ips: &["10.4.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
        files: &files,
        images: &[("image".to_owned(), "sha256:feed".to_owned())].into(),
        can_be_recursive: false,
        granted: &Granted::default(),
    };
    bind(&pod, &pod.containers[0], &given)
}

fn bound(container: &Value) -> Result<Bound, ConfigError> {
    bound_in(&json!({ "volumes": [{ "name": "v", "emptyDir": {} }] }), container)
}

/// The environment of a container with these variables, as `NAME=value`.
fn env(env: &Value, env_from: &Value) -> Result<Vec<String>, String> {
    let bound = bound(&json!({ "env": env, "envFrom": env_from })).map_err(|error| error.to_string())?;
    Ok(bound.env.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
}

fn key_ref(kind: &str, name: &str, key: &str, optional: bool) -> Value {
    json!({ kind: { "name": name, "key": key, "optional": optional } })
}

#[test]
fn variables_are_put_together_in_their_order() {
    let from = |source: Value| json!([source]);
    let rows = [
        // Text: earlier variables, not later ones; itself only as it was before.
        (
            json!([{ "name": "A", "value": "a" }, { "name": "B", "value": "$(A)$(C)$$(A)$(A" }, { "name": "C", "value": "" }]),
            json!([]),
            vec!["A=a", "B=a$(C)$(A)$(A", "C="],
        ),
        (
            json!([{ "name": "A", "value": "1" }, { "name": "B", "value": "$(A)" }, { "name": "A", "value": "$(A)2" }]),
            json!([]),
            vec!["A=12", "B=1"],
        ),
        // envFrom first, later sources over earlier ones, and text may refer to it.
        (
            json!([{ "name": "X", "value": "$(k) $(P_k) $(bin)" }]),
            json!([{ "configMapRef": { "name": "app" } }, { "prefix": "P_", "configMapRef": { "name": "app" } }]),
            vec!["k=config", "n.s=dotted", "P_k=config", "P_n.s=dotted", "X=config config $(bin)"],
        ),
        (
            json!([{ "name": "k", "value": "own" }]),
            from(json!({ "configMapRef": { "name": "app" } })),
            vec!["k=own", "n.s=dotted"],
        ),
        // Keys.
        (
            json!([
                { "name": "A", "valueFrom": key_ref("configMapKeyRef", "app", "k", false) },
                { "name": "B", "valueFrom": key_ref("secretKeyRef", "app", "k", false) },
                { "name": "C", "value": "$(A)/$(B)" },
            ]),
            json!([]),
            vec!["A=config", "B=secret", "C=config/secret"],
        ),
        // What is optional and not there is absent, not empty; what was set before stays.
        (
            json!([
                { "name": "A", "valueFrom": key_ref("configMapKeyRef", "absent", "k", true) },
                { "name": "B", "valueFrom": key_ref("secretKeyRef", "app", "absent", true) },
                { "name": "k", "valueFrom": key_ref("configMapKeyRef", "app", "absent", true) },
                { "name": "D", "value": "$(A)" },
            ]),
            json!([{ "configMapRef": { "name": "app" } }, { "secretRef": { "name": "absent", "optional": true } }]),
            vec!["k=config", "n.s=dotted", "D=$(A)"],
        ),
        // Fields of the pod.
        (
            json!([
                { "name": "IP", "valueFrom": { "fieldRef": { "fieldPath": "status.podIP" } } },
                { "name": "IPS", "valueFrom": { "fieldRef": { "fieldPath": "status.podIPs" } } },
                { "name": "URL", "value": "http://$(IP):80" },
                { "name": "LABEL", "valueFrom": { "fieldRef": { "fieldPath": "metadata.labels['app']" } } },
                { "name": "NONE", "valueFrom": { "fieldRef": { "fieldPath": "metadata.annotations['x']" } } },
                { "name": "CPU", "valueFrom": { "resourceFieldRef": { "resource": "limits.cpu" } } },
            ]),
            json!([]),
            vec!["IP=10.4.0.2", "IPS=10.4.0.2,fd00::2", "URL=http://10.4.0.2:80", "LABEL=web", "NONE=", "CPU=4"],
        ),
        // Files.
        (
            json!([
                { "name": "A", "valueFrom": { "fileKeyRef": { "volumeName": "v", "path": "a.env", "key": "K" } } },
                { "name": "E", "valueFrom": { "fileKeyRef": { "volumeName": "v", "path": "a.env", "key": "E" } } },
                { "name": "B", "valueFrom": { "fileKeyRef": { "volumeName": "v", "path": "a.env", "key": "X", "optional": true } } },
                { "name": "C", "valueFrom": { "fileKeyRef": { "volumeName": "v", "path": "missing.env", "key": "K", "optional": true } } },
            ]),
            json!([]),
            vec!["A=from a file", "E="],
        ),
    ];
    for (written, from, expected) in rows {
        assert_eq!(env(&written, &from).unwrap(), expected, "{written} {from}");
    }
}

#[test]
fn what_is_missing_is_said_in_kubernetes_words() {
    let variable = |source: Value| (json!([{ "name": "A", "valueFrom": source }]), json!([]));
    let from = |source: Value| (json!([]), json!([source]));
    let file = |path: &str, key: &str| json!({ "fileKeyRef": { "volumeName": "v", "path": path, "key": key } });
    for ((written, from), expected) in [
        (from(json!({ "configMapRef": { "name": "absent" } })), "configmap \"absent\" not found"),
        (from(json!({ "secretRef": { "name": "absent" } })), "secret \"absent\" not found"),
        (variable(key_ref("configMapKeyRef", "absent", "k", false)), "configmap \"absent\" not found"),
        (variable(key_ref("configMapKeyRef", "app", "x", false)), "couldn't find key x in ConfigMap default/app"),
        (variable(key_ref("configMapKeyRef", "app", "bin", false)), "couldn't find key bin in ConfigMap default/app"),
        (variable(key_ref("secretKeyRef", "app", "x", false)), "couldn't find key x in Secret default/app"),
        (
            variable(key_ref("secretKeyRef", "refused", "k", true)),
            "Secret default/refused is withheld from this node: not eligible",
        ),
        (
            variable(key_ref("secretKeyRef", "unheard", "k", true)),
            "Secret default/unheard has not arrived on this node yet",
        ),
        (
            variable(key_ref("secretKeyRef", "app", "bad", false)),
            "the value of key bad in Secret default/app is not UTF-8 text, which a variable has to be",
        ),
        (
            from(json!({ "secretRef": { "name": "app" } })),
            "the value of key bad in Secret default/app is not UTF-8 text, which a variable has to be",
        ),
        (variable(file("a.env", "X")), "environment variable key \"X\" not found in file a.env in volume v"),
        (
            variable(file("missing.env", "K")),
            "environment variable key \"K\" not found in file missing.env in volume v",
        ),
        (variable(file("bad.env", "K")), "couldn't parse env file bad.env in volume v: line 1 is not NAME='value'"),
    ] {
        assert_eq!(env(&written, &from).unwrap_err(), expected, "{written} {from}");
    }
}

#[test]
fn commands_and_arguments_may_refer_to_every_variable() {
    let env = json!([
        { "name": "A", "value": "$(B)" },
        { "name": "B", "valueFrom": key_ref("configMapKeyRef", "app", "k", false) },
    ]);
    let made = bound(&json!({ "env": env, "command": ["$(A)", "$(B)"], "args": ["$(X)", "--b=$(B)$"] })).unwrap();
    assert_eq!(
        (made.command.join(" "), made.args.join(" ")),
        ("$(B) config".to_owned(), "$(X) --b=config$".to_owned())
    );
}

#[test]
fn the_api_is_found_unless_the_container_says_where() {
    let mut pod =
        resolved(&json!({}), &json!({ "env": [{ "name": "B", "value": "own" }, { "name": "C", "value": "$(A)" }] }));
    pod.service_env = [("A", "1"), ("B", "2")].map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let given = Given {
        objects: &Objects::default(),
        pod_ips: &[],
        files: &BTreeMap::new(),
        images: &BTreeMap::new(),
        can_be_recursive: false,
        granted: &Granted::default(),
    };
    let made = bind(&pod, &pod.containers[0], &given).unwrap();
    let shown: Vec<_> = made.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(shown, ["B=own", "C=1", "A=1"]);
    assert!(!format!("{made:?}").contains("own"), "no values in logs: {made:?}");
}

#[test]
fn what_comes_with_devices_goes_before_the_containers_own_and_its_variables_after_them() {
    let container = json!({
        "command": ["run", "$(DEVICES)"], "env": [{ "name": "MODE", "value": "own" }, { "name": "X", "value": "$(DEVICES)" }],
        "volumeMounts": [{ "name": "v", "mountPath": "/v" }],
    });
    let pod = resolved(&json!({ "volumes": [{ "name": "v", "emptyDir": {} }] }), &container);
    let granted: Granted = serde_json::from_value(json!({
        "env": { "DEVICES": "0", "MODE": "theirs" },
        "mounts": [{ "containerPath": "/lib/vendor", "hostPath": "/opt/vendor", "readOnly": true }],
    }))
    .unwrap();
    let given = Given {
        objects: &Objects::default(),
        pod_ips: &[],
        files: &BTreeMap::new(),
        images: &BTreeMap::new(),
        can_be_recursive: false,
        granted: &granted,
    };
    let made = bind(&pod, &pod.containers[0], &given).unwrap();
    let shown: Vec<_> = made.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    // As upstream, the command sees them and other variables do not.
    assert_eq!(
        (&*made.command, &*shown),
        (&["run".to_owned(), "0".to_owned()][..], &["DEVICES=0", "MODE=own", "X=$(DEVICES)"].map(str::to_owned)[..])
    );
    let mounts: Vec<_> = made.mounts.iter().map(|mount| (&*mount.container_path, mount.read_only)).collect();
    assert_eq!(mounts[..2], [("/lib/vendor", true), ("/v", false)]);
}

#[test]
fn parts_of_volumes_are_named_below_their_volume() {
    let volumes = json!({ "volumes": [{ "name": "v", "emptyDir": {} }] });
    let root = PathBuf::from("/var/lib/kubelet/pods/0-1/volumes/kubernetes.io~empty-dir/v");
    let part = |path: &str| Content::Part {
        volume: "v".to_owned(),
        root: root.clone(),
        path: path.into(),
        target: "/var/lib/kubelet/pods/0-1/volume-subpaths/v/web/0".into(),
    };
    let env = json!([{ "name": "N", "value": "one" }, { "name": "EMPTY", "value": "" }, { "name": "UP", "value": "../x" }, { "name": "ABS", "value": "/x" }]);
    for (field, written, expected) in [
        ("subPath", "a/b", Ok(part("a/b"))),
        ("subPath", "./a//b/", Ok(part("a/b"))),
        ("subPath", ".", Ok(Content::Path(root.clone()))),
        ("subPath", "$(N)", Ok(part("$(N)"))),
        ("subPathExpr", "logs/$(N)", Ok(part("logs/one"))),
        ("subPathExpr", "$$(N)", Ok(part("$(N)"))),
        ("subPathExpr", "$(Z)/$(EMPTY)/$(N)/$(B)", Err("missing value for B, EMPTY, Z")),
        ("subPathExpr", "$(UP)", Err("unable to provision SubPath `../x`: must not contain '..'")),
        ("subPathExpr", "$(ABS)", Err("unable to provision SubPath `/x`: must not be an absolute path")),
    ] {
        let container = json!({ "env": env, "volumeMounts": [{ "name": "v", "mountPath": "/v", field: written }] });
        let made = bound_in(&volumes, &container).map(|bound| bound.mounts[0].content.clone());
        assert_eq!(made.map_err(|error| error.to_string()), expected.map_err(str::to_owned), "{field}: {written}");
    }
}

#[test]
fn a_mount_is_recursively_read_only_where_the_runtime_can() {
    use RecursiveReadOnly::{Disabled, Enabled, IfPossible};
    let mount = json!({ "name": "v", "mountPath": "/v", "readOnly": true });
    let pod = json!({ "volumes": [{ "name": "v", "emptyDir": {} }] });
    let mut pod = resolved(&pod, &json!({ "volumeMounts": [mount] }));
    let mut mode = |mode, can_be_recursive| {
        pod.containers[0].mounts[0].recursive_read_only = mode;
        let given = Given {
            objects: &Objects::default(),
            pod_ips: &[],
            files: &BTreeMap::new(),
            images: &BTreeMap::new(),
            can_be_recursive,
            granted: &Granted::default(),
        };
        let made = bind(&pod, &pod.containers[0], &given);
        made.map(|bound| bound.mounts[0].recursive_read_only).map_err(|error| error.to_string())
    };
    assert_eq!((mode(Disabled, true), mode(IfPossible, false)), (Ok(false), Ok(false)));
    assert_eq!((mode(IfPossible, true), mode(Enabled, true)), (Ok(true), Ok(true)));
    let refused = "failed to resolve recursive read-only mode: volume \"v\" requested recursive read-only mode, but it is not supported by the runtime";
    assert_eq!(mode(Enabled, false), Err(refused.to_owned()));
}

/// The files of a volume, as `path mode content`.
fn shown(volume: &Value) -> Result<Vec<String>, String> {
    let mut volume = volume.clone();
    volume["name"] = json!("v");
    let pod = resolved(&json!({ "volumes": [volume] }), &json!({}));
    let mut objects = objects();
    let spec = TokenSpec { audience: String::new(), expiration_secs: 3600 };
    objects.tokens.insert((pod.key.uid.clone(), spec), Ok(TokenText("jwt".to_owned())));
    let failed = TokenSpec { audience: "vault".to_owned(), expiration_secs: 3600 };
    objects.tokens.insert((pod.key.uid.clone(), failed), Err("no such account".to_owned()));
    let VolumeSource::Files { sources, .. } = &pod.volumes[0].source else { panic!("{:?}", pod.volumes) };
    let payload = payload(&pod, sources, &objects).map_err(|error| error.to_string())?;
    let line = |(path, file): (&String, &File)| {
        format!("{path} {:o} {}", file.mode, String::from_utf8_lossy(&file.content).replace('\n', "|"))
    };
    Ok(payload.iter().map(line).collect())
}

#[test]
fn volumes_of_files_hold_what_their_sources_say() {
    let item = |key: &str, path: &str| json!({ "key": key, "path": path });
    let token = |audience: &str| json!({ "serviceAccountToken": { "path": "token", "audience": audience } });
    let projected = |sources: Value| json!({ "projected": { "sources": sources, "defaultMode": 0o440 } });
    for (volume, expected) in [
        (json!({ "configMap": { "name": "app" } }), Ok(vec!["bin 644 \u{fffd}", "k 644 config", "n.s 644 dotted"])),
        (
            json!({ "configMap": { "name": "app", "items": [item("k", "a/./b"), { "key": "bin", "path": "c", "mode": 0o400 }] } }),
            Ok(vec!["a/b 644 config", "c 400 \u{fffd}"]),
        ),
        (
            json!({ "secret": { "secretName": "app", "defaultMode": 0o400, "items": [item("k", "k")] } }),
            Ok(vec!["k 400 secret"]),
        ),
        (json!({ "configMap": { "name": "absent", "optional": true } }), Ok(vec![])),
        (
            json!({ "configMap": { "name": "app", "optional": true, "items": [item("x", "x"), item("k", "k")] } }),
            Ok(vec!["k 644 config"]),
        ),
        (
            json!({ "downwardAPI": { "items": [
                { "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } },
                { "path": "note", "fieldRef": { "fieldPath": "metadata.annotations" } },
            ] } }),
            Ok(vec![
                "labels 644 app=\"web\"|controller-revision-hash=\"rev\"|pod-template-generation=\"2\"",
                "note 644 note=\"n\"",
            ]),
        ),
        (
            projected(json!([
                { "configMap": { "name": "app", "items": [item("k", "one"), item("k", "two")] } },
                { "secret": { "name": "app", "items": [item("k", "two")] } },
                token(""),
            ])),
            Ok(vec!["one 440 config", "token 440 jwt", "two 440 secret"]),
        ),
        (json!({ "configMap": { "name": "absent" } }), Err("configmap \"absent\" not found")),
        (
            json!({ "configMap": { "name": "app", "items": [item("x", "x")] } }),
            Err("configmap references non-existent config key: x"),
        ),
        (
            json!({ "secret": { "secretName": "app", "items": [item("x", "x")] } }),
            Err("references non-existent secret key: x"),
        ),
        (
            projected(json!([{ "configMap": { "name": "absent" } }, { "secret": { "name": "absent" } }])),
            Err("[configmap \"absent\" not found, secret \"absent\" not found]"),
        ),
        (projected(json!([token("vault")])), Err("failed to fetch token: no such account")),
        (projected(json!([token("other")])), Err("failed to fetch token: control has not answered yet")),
    ] {
        let expected = expected.map(|lines: Vec<&str>| lines.into_iter().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(shown(&volume), expected.map_err(str::to_owned), "{volume}");
    }
}

#[test]
fn no_file_is_outside_its_volume_or_too_deep() {
    let at = |path: &str| shown(&json!({ "configMap": { "name": "app", "items": [{ "key": "k", "path": path }] } }));
    let long = ["a".repeat(255), "b".repeat(255)].join("/");
    assert_eq!(at(&long).unwrap().len(), 1);
    for (path, expected) in [
        ("/a", "invalid path: must not be an absolute path: /a"),
        ("a/../b", "invalid path: must not contain '..': a/../b"),
        ("..a", "invalid path: must not start with '..': ..a"),
        ("./..data/a", "invalid path: must not start with '..': ./..data/a"),
        ("./", "invalid path: must not be empty: \"./\""),
        (&"a".repeat(256), "invalid path: filenames must be less than or equal to 255 characters"),
        (&"a/".repeat(2049), "invalid path: must be less than or equal to 4096 characters"),
    ] {
        assert_eq!(at(path).unwrap_err(), expected, "{path}");
    }
    assert_eq!(at("a/..b").unwrap().len(), 1);
}

#[test]
fn a_pod_that_is_not_there_yet_is_checked_by_what_it_asks_for() {
    let checked = |pod: Value, container: Value| {
        check(&resolved(&pod, &container), &objects()).map_err(|error| error.to_string())
    };
    let from =
        |name: &str, optional: bool| json!({ "envFrom": [{ "configMapRef": { "name": name, "optional": optional } }] });
    let volume = |source: Value| json!({ "volumes": [{ "name": "v", "projected": { "sources": [source] } }] });
    assert_eq!(checked(json!({}), from("app", false)), Ok(()));
    assert_eq!(checked(json!({}), from("absent", true)), Ok(()));
    assert_eq!(checked(json!({}), from("absent", false)), Err("configmap \"absent\" not found".to_owned()));
    let key = json!({ "env": [{ "name": "A", "valueFrom": key_ref("secretKeyRef", "app", "x", false) }] });
    assert_eq!(checked(json!({}), key), Err("couldn't find key x in Secret default/app".to_owned()));
    let secret = json!({ "secret": { "name": "absent" } });
    assert_eq!(checked(volume(secret), json!({})), Err("secret \"absent\" not found".to_owned()));
    // Tokens are made for a pod that is there.
    assert_eq!(checked(volume(json!({ "serviceAccountToken": { "path": "token" } })), json!({})), Ok(()));
}
