//! Patches as clients send them, what they make of an object, and properties over random ones.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::control::kinds::{CONFIG_MAP, DAEMON_SET, NODE, POD, SERVICE_ACCOUNT};
use crate::error::Chain;

fn strategic(kind: &Kind, current: &Value, patch: &Value) -> Result<Value, String> {
    apply_patch(kind, current, patch.to_string().as_bytes(), PatchType::Strategic)
        .map_err(|error| Chain(&error).to_string())
}

fn fluentd() -> Value {
    json!({
        "metadata": {"name": "fluentd", "annotations": {"a": "1"}, "finalizers": ["x/1", "x/2"]},
        "spec": {
            "selector": {"matchLabels": {"app": "fluentd"}},
            "template": {
                "metadata": {"labels": {"app": "fluentd"}},
                "spec": {
                    "containers": [
                        {"name": "fluentd", "image": "fluentd:1", "args": ["-v"],
                         "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                         "ports": [{"containerPort": 80, "protocol": "TCP"}],
                         "volumeMounts": [{"name": "log", "mountPath": "/log"}, {"name": "lib", "mountPath": "/lib"}]},
                        {"name": "sidecar", "image": "sidecar:1"},
                    ],
                    "tolerations": [{"key": "a", "operator": "Exists"}],
                    "volumes": [
                        {"name": "log", "hostPath": {"path": "/var/log", "type": ""}},
                        {"name": "lib", "hostPath": {"path": "/var/lib", "type": ""}},
                    ],
                },
            },
        },
    })
}

/// `fluentd()` with the value at a JSON pointer replaced, or removed for `null`.
fn fluentd_with(changes: &[(&str, Value)]) -> Value {
    let mut object = fluentd();
    for (pointer, value) in changes {
        let (parent, last) = pointer.rsplit_once('/').unwrap();
        let parent = object.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        match value {
            Value::Null => parent.remove(last),
            value => parent.insert(last.to_owned(), value.clone()),
        };
    }
    object
}

const POD_SPEC: &str = "/spec/template/spec";

fn in_pod_spec(fields: &Value) -> Value {
    json!({"spec": {"template": {"spec": fields}}})
}

#[test]
fn strategic_patches_of_kubectl_do_what_was_meant() {
    let container = |n: usize| fluentd().pointer(&format!("{POD_SPEC}/containers/{n}")).unwrap().clone();
    let with = |n: usize, field: &str, value: Value| {
        let mut container = container(n);
        container[field] = value;
        container
    };
    let containers = format!("{POD_SPEC}/containers");
    let rows = [
        (
            "apply with another image",
            in_pod_spec(&json!({
                "$setElementOrder/containers": [{"name": "fluentd"}, {"name": "sidecar"}],
                "containers": [{"name": "fluentd", "image": "fluentd:2"}],
            })),
            fluentd_with(&[(&containers, json!([with(0, "image", json!("fluentd:2")), container(1)]))]),
        ),
        (
            "apply without a volume",
            in_pod_spec(&json!({
                "$setElementOrder/containers": [{"name": "fluentd"}, {"name": "sidecar"}],
                "containers": [{
                    "$setElementOrder/volumeMounts": [{"mountPath": "/log"}],
                    "name": "fluentd",
                    "volumeMounts": [{"$patch": "delete", "mountPath": "/lib"}],
                }],
                "$setElementOrder/volumes": [{"name": "log"}],
                "volumes": [{"$patch": "delete", "name": "lib"}],
            })),
            fluentd_with(&[
                (
                    &containers,
                    json!([with(0, "volumeMounts", json!([{"name": "log", "mountPath": "/log"}])), container(1),]),
                ),
                (
                    &format!("{POD_SPEC}/volumes"),
                    json!([{"name": "log", "hostPath": {"path": "/var/log", "type": ""}}]),
                ),
            ]),
        ),
        (
            "apply with the containers in another order",
            in_pod_spec(&json!({"$setElementOrder/containers": [{"name": "sidecar"}, {"name": "fluentd"}]})),
            fluentd_with(&[(&containers, json!([container(1), container(0)]))]),
        ),
        (
            "apply with another source for a volume",
            in_pod_spec(&json!({
                "$setElementOrder/volumes": [{"name": "log"}, {"name": "lib"}],
                "volumes": [{"$retainKeys": ["emptyDir", "name"], "name": "log", "hostPath": null, "emptyDir": {}}],
            })),
            fluentd_with(&[(
                &format!("{POD_SPEC}/volumes"),
                json!([
                    {"name": "log", "emptyDir": {}},
                    {"name": "lib", "hostPath": {"path": "/var/lib", "type": ""}},
                ]),
            )]),
        ),
        (
            "rollout undo",
            json!({"spec": {"template": {
                "$patch": "replace",
                "metadata": {"creationTimestamp": null, "labels": {"app": "fluentd"}},
                "spec": {"containers": [{"name": "fluentd", "image": "fluentd:0"}]},
            }}}),
            fluentd_with(&[(
                "/spec/template",
                json!({
                    "metadata": {"labels": {"app": "fluentd"}},
                    "spec": {"containers": [{"name": "fluentd", "image": "fluentd:0"}]},
                }),
            )]),
        ),
        (
            "rollout restart",
            json!({"spec": {"template": {"metadata": {"annotations": {
                "kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"}}}}}),
            fluentd_with(&[(
                "/spec/template/metadata/annotations",
                json!({
                "kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"}),
            )]),
        ),
        (
            "set image of two containers",
            in_pod_spec(&json!({
                "$setElementOrder/containers": [{"name": "fluentd"}, {"name": "sidecar"}],
                "containers": [{"name": "fluentd", "image": "f"}, {"name": "sidecar", "image": "s"}],
            })),
            fluentd_with(&[(&containers, json!([with(0, "image", json!("f")), with(1, "image", json!("s"))]))]),
        ),
        (
            "edit: one variable more, in front; one toleration more",
            in_pod_spec(&json!({
                "containers": [{
                    "name": "fluentd",
                    "$setElementOrder/env": [{"name": "C"}, {"name": "A"}, {"name": "B"}],
                    "env": [{"name": "C", "value": "3"}],
                }],
                "tolerations": [{"key": "a", "operator": "Exists"}, {"key": "b", "value": null}],
            })),
            fluentd_with(&[
                (
                    &containers,
                    json!([
                        with(
                            0,
                            "env",
                            json!([
                        {"name": "C", "value": "3"}, {"name": "A", "value": "1"}, {"name": "B", "value": "2"}])
                        ),
                        container(1),
                    ]),
                ),
                (&format!("{POD_SPEC}/tolerations"), json!([{"key": "a", "operator": "Exists"}, {"key": "b"}])),
            ]),
        ),
        (
            "patch that removes fields, and one that is not there",
            json!({"metadata": {"annotations": null, "labels": null},
                   "spec": {"template": {"spec": {"tolerations": null}}}}),
            fluentd_with(&[("/metadata/annotations", Value::Null), (&format!("{POD_SPEC}/tolerations"), Value::Null)]),
        ),
        (
            "finalizers: one more, one less",
            json!({"metadata": {
                "$deleteFromPrimitiveList/finalizers": ["x/1"],
                "$setElementOrder/finalizers": ["x/3", "x/2"],
                "finalizers": ["x/3"],
            }}),
            fluentd_with(&[("/metadata/finalizers", json!(["x/3", "x/2"]))]),
        ),
        (
            "a list by key that was not there keeps what repeats, for validation to name",
            in_pod_spec(&json!({"containers": [{"name": "sidecar", "ports": [
                {"containerPort": 53, "protocol": "UDP"}, {"containerPort": 53, "protocol": "TCP", "name": null}]}]})),
            fluentd_with(&[(
                &containers,
                json!([
                    container(0),
                    with(
                        1,
                        "ports",
                        json!([
                {"containerPort": 53, "protocol": "UDP"}, {"containerPort": 53, "protocol": "TCP"}])
                    )
                ]),
            )]),
        ),
        (
            "a list by key replaced by an element that says so",
            in_pod_spec(&json!({"containers": [{"$patch": "replace"}, {"name": "other", "image": "o"}]})),
            fluentd_with(&[(&containers, json!([{"name": "other", "image": "o"}]))]),
        ),
        (
            "an object emptied, one added by replacement, one deleted that is not there, one merged in so many words",
            json!({
                "metadata": {"annotations": {"$patch": "delete"}, "labels": {"$patch": "replace", "l": "1"}},
                "spec": {"$patch": "merge", "minReadySeconds": 5, "updateStrategy": {"$patch": "delete"}},
            }),
            fluentd_with(&[
                ("/metadata/annotations", json!({})),
                ("/metadata/labels", json!({"l": "1"})),
                ("/spec/minReadySeconds", json!(5)),
            ]),
        ),
    ];
    for (name, patch, expected) in rows {
        assert_eq!(strategic(&DAEMON_SET, &fluentd(), &patch), Ok(expected), "{name}");
    }
}

#[test]
fn each_list_has_the_key_of_its_place() {
    let owner = |uid: &str, name: &str| json!({"uid": uid, "name": name});
    let rows = [
        // Taints have no key: cordon and taint send the list whole.
        (
            &NODE,
            json!({"spec": {"taints": [{"key": "a"}]}}),
            json!({"spec": {"taints": [{"key": "b"}]}}),
            json!({"spec": {"taints": [{"key": "b"}]}}),
        ),
        (
            &NODE,
            json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "r"}, {"type": "Other"}]}}),
            json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}}),
            json!({"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "r"}, {"type": "Other"}]}}),
        ),
        (
            &NODE,
            json!({"status": {"addresses": [{"type": "Hostname", "address": "a"}]}}),
            json!({"status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}}),
            json!({"status": {"addresses": [
                {"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": "a"}]}}),
        ),
        (
            &SERVICE_ACCOUNT,
            json!({"secrets": [{"name": "a"}], "imagePullSecrets": [{"name": "a"}]}),
            json!({"secrets": [{"name": "b"}], "imagePullSecrets": [{"name": "b"}]}),
            json!({"secrets": [{"name": "b"}, {"name": "a"}], "imagePullSecrets": [{"name": "b"}]}),
        ),
        (
            &POD,
            json!({"spec": {"imagePullSecrets": [{"name": "a"}], "hostAliases": [{"ip": "1", "hostnames": ["a"]}]}}),
            json!({"spec": {"imagePullSecrets": [{"name": "b"}], "hostAliases": [{"ip": "1", "hostnames": ["b"]}]}}),
            json!({"spec": {"imagePullSecrets": [{"name": "b"}, {"name": "a"}],
                            "hostAliases": [{"ip": "1", "hostnames": ["b"]}]}}),
        ),
        (
            &POD,
            json!({"status": {"podIPs": [{"ip": "1"}], "containerStatuses": [{"name": "a", "ready": true}]}}),
            json!({"status": {"podIPs": [{"ip": "2"}], "containerStatuses": [{"name": "a"}]}}),
            json!({"status": {"podIPs": [{"ip": "2"}, {"ip": "1"}], "containerStatuses": [{"name": "a"}]}}),
        ),
        (
            &POD,
            json!({"spec": {"ephemeralContainers": [{"name": "a", "env": [{"name": "x", "value": "1"}]}]}}),
            json!({"spec": {"ephemeralContainers": [{"name": "a", "env": [{"name": "y", "value": "2"}]}, {"name": "b"}]}}),
            json!({"spec": {"ephemeralContainers": [
            {"name": "a", "env": [{"name": "y", "value": "2"}, {"name": "x", "value": "1"}]}, {"name": "b"}]}}),
        ),
        (
            &CONFIG_MAP,
            json!({"metadata": {"ownerReferences": [owner("1", "a"), owner("2", "b")]}}),
            json!({"metadata": {"ownerReferences": [{"$patch": "delete", "uid": "1"}, {"uid": "2", "name": "c"}]}}),
            json!({"metadata": {"ownerReferences": [owner("2", "c")]}}),
        ),
    ];
    for (kind, current, patch, expected) in rows {
        assert_eq!(strategic(kind, &current, &patch), Ok(expected), "{} {patch}", kind.kind);
    }
}

#[test]
fn live_elements_the_patch_does_not_name_keep_their_places() {
    let list = |names: &str| -> Vec<Value> { names.chars().map(|name| json!({"name": name})).collect() };
    // live, patch, $setElementOrder, result
    let rows = [
        ("abc", "c", None, "abc"),
        ("abc", "ca", None, "bca"),
        ("abc", "xb", None, "xabc"),
        ("abc", "", Some("ba"), "bac"),
        ("abcd", "", Some("db"), "acdb"),
        ("abc", "x", Some("xa"), "xabc"),
        ("", "ab", Some("ab"), "ab"),
        ("ab", "", Some("xb"), "ab"),
    ];
    for (live, patch, order, expected) in rows {
        let current = json!({"spec": {"imagePullSecrets": list(live)}});
        let mut fields = json!({"imagePullSecrets": list(patch)});
        if let Some(order) = order {
            fields["$setElementOrder/imagePullSecrets"] = json!(list(order));
        }
        let patched = strategic(&POD, &current, &json!({"spec": fields}));
        let expected = json!({"spec": {"imagePullSecrets": list(expected)}});
        assert_eq!(patched, Ok(expected), "{live:?} + {patch:?} ordered {order:?}");
    }
}

#[test]
fn a_misused_directive_is_refused_with_its_place() {
    let rows = [
        (json!({"$patch": "overwrite"}), r#"$patch: "overwrite" is not one of replace, delete and merge"#),
        (json!({"spec": {"$retainKeys": "a"}}), "spec.$retainKeys: must be a list of field names"),
        (
            json!({"spec": {"$retainKeys": ["selector"], "template": {}}}),
            r#"spec.$retainKeys: does not name "template", which the patch sets"#,
        ),
        (
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": [{}]}}),
            "metadata.$deleteFromPrimitiveList/finalizers: must be a list of scalars",
        ),
        (
            in_pod_spec(&json!({"$setElementOrder/containers": {}})),
            "spec.template.spec.$setElementOrder/containers: must be a list",
        ),
        (
            in_pod_spec(&json!({"$setElementOrder/tolerations": []})),
            "spec.template.spec.$setElementOrder/tolerations: orders a list that is not merged but replaced as a whole",
        ),
        (
            in_pod_spec(&json!({"$setElementOrder/containers": [{"name": "a"}], "containers": null})),
            "spec.template.spec.containers: must be a list, since its order is set",
        ),
        (
            in_pod_spec(&json!({
                "$setElementOrder/containers": [{"name": "sidecar"}, {"name": "fluentd"}],
                "containers": [{"name": "fluentd"}, {"name": "sidecar"}],
            })),
            "spec.template.spec.containers: does not follow the order that $setElementOrder gives for it",
        ),
        (
            in_pod_spec(&json!({"containers": [{"image": "x"}]})),
            r#"spec.template.spec.containers: has an element without "name", which tells its elements apart"#,
        ),
        (
            in_pod_spec(&json!({"containers": [{"name": "fluentd", "env": [{"$patch": "delete"}]}]})),
            r#"spec.template.spec.containers.env: has an element without "name", which tells its elements apart"#,
        ),
        (
            in_pod_spec(&json!({"containers": [{"name": "fluentd", "$patch": "merge"}]})),
            r#"spec.template.spec.containers: has an element with $patch: "merge"; an element can say delete or replace"#,
        ),
        (json!({"metadata": {"finalizers": [["a"]]}}), "metadata.finalizers: has an element that is not a scalar"),
    ];
    for (patch, expected) in rows {
        let refused = strategic(&DAEMON_SET, &fluentd(), &patch);
        assert_eq!(refused, Err(format!("error applying patch: {expected}")), "{patch}");
    }
}

#[test]
fn the_media_type_says_which_patch_it_is() {
    let read = |header: &str| Asked::from_content_type(header).map_err(|error| error.to_string());
    assert_eq!(read("application/json-patch+json"), Ok(Asked::Patch(PatchType::Json)));
    assert_eq!(read("Application/merge-patch+json; charset=utf-8"), Ok(Asked::Patch(PatchType::Merge)));
    assert_eq!(read("application/strategic-merge-patch+json;charset=utf-8"), Ok(Asked::Patch(PatchType::Strategic)));
    assert_eq!(read("application/apply-patch+yaml"), Ok(Asked::Apply));
    for other in ["application/json", ""] {
        assert_eq!(
            read(other).unwrap_err(),
            "the body of the request was in an unknown format - accepted media types include: \
             application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, \
             application/apply-patch+yaml"
        );
    }
}

#[test]
fn a_json_patch_applies_whole_or_is_refused() {
    let current = json!({"data": {"a": "1"}});
    let apply = |patch: Value| {
        apply_patch(&CONFIG_MAP, &current, patch.to_string().as_bytes(), PatchType::Json)
            .map_err(|error| Chain(&error).to_string())
    };
    let op = |op: &str, path: &str, value: &str| json!({"op": op, "path": path, "value": value});
    let done = apply(json!([op("test", "/data/a", "1"), op("replace", "/data/a", "2"), op("add", "/data/b", "3")]));
    assert_eq!(done, Ok(json!({"data": {"a": "2", "b": "3"}})));
    let nest = json!({"op": "copy", "from": "/data", "path": "/data/c"});
    let nested = apply(Value::Array(vec![nest.clone(); 125])).unwrap();
    assert_eq!(nested.to_string().parse::<Value>().unwrap(), nested, "what is allowed can be read again");
    let rows = [
        (
            json!([op("add", "/data/b", "1"), op("test", "/data/a", "2")]),
            r#"operation 1 of the JSON patch failed at path "/data/a": value did not match"#,
        ),
        (
            json!([{"op": "remove", "path": "/metadata/labels"}]),
            r#"operation 0 of the JSON patch failed at path "/metadata/labels": path is invalid"#,
        ),
        (json!([op("replace", "", "x")]), "the patched object is not a JSON object"),
        (
            Value::Array(vec![op("test", "/data/a", "1"); MAX_OPERATIONS + 1]),
            "the allowed maximum operations in a JSON patch is 10000, got 10001",
        ),
        (
            (0..40).map(|n| json!({"op": "copy", "from": "/data", "path": format!("/data/{n}")})).collect(),
            "the copy operations of the JSON patch add up to more than 3145728 bytes",
        ),
        (Value::Array(vec![nest.clone(); 126]), "operation 125 of the JSON patch nests more than 127 levels"),
    ];
    for (patch, expected) in rows {
        assert_eq!(apply(patch), Err(expected.to_owned()));
    }
}

#[test]
fn a_body_of_another_form_is_undecodable() {
    let rows = [
        (PatchType::Json, "{}"),
        (PatchType::Json, r#"[{"op": "jump", "path": "/a"}]"#),
        (PatchType::Merge, "[]"),
        (PatchType::Merge, "{"),
        (PatchType::Strategic, "1"),
    ];
    for (patch_type, body) in rows {
        let refused = apply_patch(&POD, &json!({}), body.as_bytes(), patch_type);
        assert!(matches!(refused, Err(PatchError::Undecodable(_))), "{patch_type:?} {body}: {refused:?}");
    }
}

/// A merge patch that makes `b` of `a`. Merge patches cannot say `null`, so `b` must not contain it.
fn difference(a: &Value, b: &Value) -> Value {
    let (Value::Object(a), Value::Object(b)) = (a, b) else { return b.clone() };
    let gone = a.keys().filter(|key| !b.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    let changed = b.iter().filter(|(key, value)| a.get(*key) != Some(value));
    let changed = changed.map(|(key, value)| (key.clone(), difference(a.get(key).unwrap_or(&json!({})), value)));
    Value::Object(gone.chain(changed).collect())
}

/// Objects made of few names, so that patches meet what they patch. `directives` adds those of strategic patches.
fn object(directives: bool) -> impl Strategy<Value = Value> {
    let names = if directives {
        prop_oneof![
            3 => prop::sample::select(vec!["metadata", "spec", "containers", "name", "finalizers", "env"]),
            1 => prop::sample::select(vec![
                "$patch", "$retainKeys", "$setElementOrder/containers", "$setElementOrder/finalizers",
                "$deleteFromPrimitiveList/finalizers", "$deleteFromPrimitiveList/containers", "$setElementOrder/",
            ]),
        ]
        .boxed()
    } else {
        prop::sample::select(vec!["metadata", "spec", "containers", "name", "finalizers", "env"]).boxed()
    };
    let words: &[&str] = if directives { &["a", "b", "delete", "replace", "merge"] } else { &["a", "b"] };
    let scalar = prop_oneof![
        prop::sample::select(words.to_vec()).prop_map(Value::from),
        (0..3).prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
    ];
    let scalar = if directives { prop_oneof![4 => scalar, 1 => Just(Value::Null)].boxed() } else { scalar.boxed() };
    let fields = move |inner: BoxedStrategy<Value>| {
        prop::collection::btree_map(names.clone(), inner, 0..4)
            .prop_map(|fields| fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Value>())
    };
    let value = scalar.prop_recursive(5, 40, 4, {
        let fields = fields.clone();
        move |inner| {
            let elements = prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array);
            prop_oneof![2 => fields(inner.boxed()), 1 => elements]
        }
    });
    fields(value.boxed())
}

proptest! {
    #[test]
    fn the_difference_of_two_objects_applied_to_one_gives_the_other(a in object(false), b in object(false)) {
        let patch = difference(&a, &b).to_string();
        prop_assert_eq!(apply_patch(&POD, &a, patch.as_bytes(), PatchType::Merge).unwrap(), b);
    }

    #[test]
    fn a_strategic_patch_never_panics_and_leaves_no_null_of_its_own(live in object(false), patch in object(true)) {
        if let Ok(patched) = apply_patch(&POD, &live, patch.to_string().as_bytes(), PatchType::Strategic) {
            prop_assert!(patched.is_object());
            prop_assert!(!has_null_field(&patched), "{}", patched);
        }
    }

    #[test]
    fn an_empty_patch_changes_nothing(live in object(false)) {
        for patch_type in [PatchType::Merge, PatchType::Strategic] {
            prop_assert_eq!(&apply_patch(&POD, &live, b"{}", patch_type).unwrap(), &live);
        }
        prop_assert_eq!(&apply_patch(&POD, &live, b"[]", PatchType::Json).unwrap(), &live);
    }
}

fn has_null_field(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.values().any(|value| value.is_null() || has_null_field(value)),
        Value::Array(elements) => elements.iter().any(has_null_field),
        _ => false,
    }
}
