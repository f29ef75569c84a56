use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::control::kinds::{CONFIG_MAP, DAEMON_SET};

const NOW: &str = "2026-01-01T00:00:00Z";
const LATER: &str = "2026-01-01T00:00:09Z";

fn write<'a>(kind: &'static Kind, manager: &'a str) -> Write<'a> {
    Write { kind, part: Part::Main, manager, now: NOW.parse().unwrap() }
}

fn map(data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "namespace": "n"}, "data": data})
}

fn set(containers: &Value) -> Value {
    let spec = json!({"template": {"spec": {"containers": containers}}});
    json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "d", "namespace": "n"}, "spec": spec})
}

/// What a manager owns, as paths.
fn owned(object: &Value, manager: &str) -> Vec<String> {
    let managed = Managed::of(object).unwrap_or_default();
    let entries = managed.0.iter().filter(|entry| entry.manager.name == manager);
    entries.flat_map(|entry| entry.fields.paths()).collect()
}

fn applied(kind: &'static Kind, manager: &str, live: Option<&Value>, config: &Value) -> Value {
    apply(&write(kind, manager), live, config, false).unwrap()
}

// === what is in the set ===

#[test]
fn fields_are_those_that_kubernetes_writes() {
    let config = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": "d", "namespace": "n", "labels": {"a": "b"}, "finalizers": ["x.y/z"]},
        "spec": {
            "selector": {"matchLabels": {"app": "x"}},
            "template": {"spec": {
                "containers": [{
                    "name": "c", "args": ["1"], "env": [{"name": "E", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}],
                    "ports": [{"containerPort": 80}], "securityContext": {},
                }],
                "imagePullSecrets": [{"name": "s"}],
                "nodeSelector": {"a": "b"},
                "tolerations": [{"operator": "Exists"}],
            }},
        },
    });
    let object = applied(&DAEMON_SET, "m", None, &config);
    let expected = json!([{
        "manager": "m", "operation": "Apply", "apiVersion": "apps/v1", "time": NOW, "fieldsType": "FieldsV1",
        "fieldsV1": {
            "f:metadata": {"f:labels": {"f:a": {}}, "f:finalizers": {"v:\"x.y/z\"": {}}},
            "f:spec": {
                "f:selector": {},
                "f:template": {"f:spec": {
                    "f:containers": {"k:{\"name\":\"c\"}": {
                        ".": {}, "f:name": {}, "f:args": {}, "f:securityContext": {},
                        "f:env": {"k:{\"name\":\"E\"}": {".": {}, "f:name": {}, "f:valueFrom": {"f:fieldRef": {}}}},
                        "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
                    }},
                    "f:imagePullSecrets": {"k:{\"name\":\"s\"}": {}},
                    "f:nodeSelector": {},
                    "f:tolerations": {},
                }},
            },
        },
    }]);
    assert_eq!(object["metadata"]["managedFields"], expected);
    let read = Managed::of(&object).unwrap();
    let mut written = json!({});
    read.put(&mut written);
    assert_eq!(written["metadata"]["managedFields"], expected);
}

#[test]
fn a_set_that_somebody_else_wrote_is_read_in_one_form() {
    let fields =
        json!({"f:a": {"k:{\"port\": 80, \"name\": \"x\"}": {".": {}, "f:b": {}}}, "f:c": {"v:1": {}, "i:0": {}}});
    let paths = FieldSet::from_json(&fields).unwrap().paths();
    assert_eq!(paths, [".a[name=\"x\",port=80].b", ".a[name=\"x\",port=80]", ".c[0]", ".c[=1]"]);
    for bad in [json!([]), json!({"a": {}}), json!({"f:a": 1}), json!({"k:x": {}})] {
        assert_eq!(FieldSet::from_json(&bad), None, "{bad}");
    }
}

// === creating, updating, patching ===

#[test]
fn whoever_changes_a_field_owns_it_from_then_on() {
    let mut object = map(&json!({"a": "1", "b": "1"}));
    note_update(&write(&CONFIG_MAP, "one"), None, &mut object);
    assert_eq!(owned(&object, "one"), [".data.a", ".data.b", ".data"]);
    let mut changed = object.clone();
    changed["data"] = json!({"a": "2", "c": "2"});
    note_update(&write(&CONFIG_MAP, "two"), Some(&object), &mut changed);
    assert_eq!(
        (owned(&changed, "one"), owned(&changed, "two")),
        (vec![".data".into()], vec![".data.a".into(), ".data.c".into()])
    );
    let mut emptied = changed.clone();
    emptied["data"] = Value::Null;
    emptied.as_object_mut().unwrap().remove("data");
    note_update(&write(&CONFIG_MAP, "three"), Some(&changed), &mut emptied);
    assert_eq!(emptied["metadata"].get("managedFields"), None, "nobody owns what is not there");
}

#[test]
fn a_write_of_nothing_is_none_and_each_half_has_its_own_manager() {
    let mut object = set(&json!([{"name": "c", "image": "i"}]));
    object["status"] = json!({"numberReady": 0});
    note_update(&write(&DAEMON_SET, "one"), None, &mut object);
    assert!(!owned(&object, "one").iter().any(|path| path.starts_with(".status")));
    let later = Write { now: LATER.parse().unwrap(), ..write(&DAEMON_SET, "one") };
    let mut same = object.clone();
    note_update(&later, Some(&object), &mut same);
    assert_eq!(same, object);
    let mut reported = object.clone();
    reported["status"]["numberReady"] = json!(1);
    reported["metadata"]["managedFields"] = json!([]);
    note_update(&Write { part: Part::Status, ..later }, Some(&object), &mut reported);
    let entries = reported["metadata"]["managedFields"].as_array().unwrap();
    let summary: Vec<_> = entries.iter().map(|entry| (entry["subresource"].clone(), entry["time"].clone())).collect();
    assert_eq!(summary, [(Value::Null, json!(NOW)), (json!("status"), json!(LATER))]);
    assert_eq!(entries[1]["fieldsV1"], json!({"f:status": {"f:numberReady": {}}}));
}

#[test]
fn a_request_may_say_itself_who_owns_what() {
    let mut object = map(&json!({"a": "1"}));
    note_update(&write(&CONFIG_MAP, "one"), None, &mut object);
    let ask = |entries: Value| {
        let mut asked = object.clone();
        asked["metadata"]["managedFields"] = entries;
        note_update(&write(&CONFIG_MAP, "two"), Some(&object), &mut asked);
        asked
    };
    let mut other = object["metadata"]["managedFields"].clone();
    other[0]["manager"] = "other".into();
    assert_eq!(owned(&ask(other), "other"), [".data.a", ".data"]);
    for reset in [json!([]), json!([{}])] {
        assert_eq!(ask(reset)["metadata"].get("managedFields"), None);
    }
    for nonsense in [json!([{"operation": "Guess"}]), json!("x"), Value::Null] {
        assert_eq!(ask(nonsense), object);
    }
    let mut untracked = ask(json!([]));
    let before = untracked.clone();
    untracked["data"]["b"] = "2".into();
    note_update(&write(&CONFIG_MAP, "two"), Some(&before), &mut untracked);
    assert_eq!(untracked["metadata"].get("managedFields"), None, "what nobody owned stays so");
}

#[test]
fn old_updaters_become_one() {
    let mut object = map(&json!({}));
    for number in 0..15 {
        let before = (number > 0).then(|| object.clone());
        object["data"][format!("k{number}")] = "x".into();
        note_update(&write(&CONFIG_MAP, &format!("m{number:02}")), before.as_ref(), &mut object);
    }
    let managers = Managed::of(&object).unwrap();
    assert_eq!(managers.0.len(), managers::MAX_UPDATERS);
    assert_eq!(owned(&object, managers::ANCIENT).len(), 7);
    assert_eq!(managers.owned().paths().len(), 16);
}

// === applying ===

#[test]
fn what_is_applied_no_more_goes_unless_somebody_else_has_it() {
    let live = applied(&CONFIG_MAP, "one", None, &map(&json!({"a": "1", "b": "1", "c": "1"})));
    let live = applied(&CONFIG_MAP, "two", Some(&live), &map(&json!({"b": "1"})));
    let mut labelled = live.clone();
    labelled["data"]["d"] = "by nobody in particular".into();
    note_update(&write(&CONFIG_MAP, "three"), Some(&live), &mut labelled);
    let live = applied(&CONFIG_MAP, "one", Some(&labelled), &map(&json!({"a": "1"})));
    assert_eq!(live["data"], json!({"a": "1", "b": "1", "d": "by nobody in particular"}));
    assert_eq!((owned(&live, "one"), owned(&live, "two")), (vec![".data.a".to_owned()], vec![".data.b".to_owned()]));
}

#[test]
fn lists_are_merged_by_their_keys() {
    let live =
        applied(&DAEMON_SET, "one", None, &set(&json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1"}])));
    let two = set(&json!([{"name": "c", "image": "1"}, {"name": "a", "args": ["x"]}]));
    let live = applied(&DAEMON_SET, "two", Some(&live), &two);
    let containers = |object: &Value| object["spec"]["template"]["spec"]["containers"].clone();
    assert_eq!(
        containers(&live),
        json!([{"name": "c", "image": "1"}, {"name": "a", "image": "1", "args": ["x"]}, {"name": "b", "image": "1"}])
    );
    let live = applied(&DAEMON_SET, "one", Some(&live), &set(&json!([{"name": "b", "image": "2"}])));
    assert_eq!(
        containers(&live),
        json!([{"name": "c", "image": "1"}, {"name": "a", "args": ["x"]}, {"name": "b", "image": "2"}])
    );
}

#[test]
fn what_another_owns_is_a_conflict_unless_forced() {
    let mut live = set(&json!([{"name": "a", "image": "1"}]));
    note_update(&write(&DAEMON_SET, "kubectl-create"), None, &mut live);
    live = applied(&DAEMON_SET, "one", Some(&live), &set(&json!([{"name": "a", "image": "1"}])));
    let config = set(&json!([{"name": "a", "image": "2"}]));
    let refused =
        |manager: &str| apply(&write(&DAEMON_SET, manager), Some(&live), &config, false).unwrap_err().to_string();
    let field = ".spec.template.spec.containers[name=\"a\"].image";
    assert_eq!(
        refused("one"),
        format!("Apply failed with 1 conflict: conflict with \"kubectl-create\" using apps/v1: {field}")
    );
    assert_eq!(
        refused("two"),
        format!(
            "Apply failed with 2 conflicts: conflicts with \"kubectl-create\" using apps/v1:\n- {field}\nconflicts with \
             \"one\":\n- {field}"
        )
    );
    let forced = apply(&write(&DAEMON_SET, "two"), Some(&live), &config, true).unwrap();
    assert_eq!(
        owned(&forced, "two"),
        [field, ".spec.template.spec.containers[name=\"a\"].name", ".spec.template.spec.containers[name=\"a\"]"]
    );
    assert!(!owned(&forced, "one").contains(&field.to_owned()));
}

#[test]
fn elements_that_cannot_be_told_apart_are_refused() {
    let problem =
        |containers: Value| apply(&write(&DAEMON_SET, "m"), None, &set(&containers), true).unwrap_err().to_string();
    let start = "failed to create typed patch object (n/d; apps/v1, Kind=DaemonSet): .spec.template.spec.containers: ";
    assert_eq!(
        problem(json!([{"name": "a"}, {"name": "a"}])),
        format!("{start}duplicate entries for key [name=\"a\"]")
    );
    assert_eq!(
        problem(json!([{"image": "a"}])),
        format!(
            "{start}element 0: associative list with keys has an element that omits key field \"name\" (and doesn't have \
             default value)"
        )
    );
}

#[test]
fn kubectl_takes_over_what_it_applied_on_its_own() {
    let client_side = map(&json!({"a": "1"}));
    let mut live = client_side.clone();
    live["metadata"]["annotations"] = json!({LAST_APPLIED: client_side.to_string()});
    note_update(&write(&CONFIG_MAP, "kubectl-client-side-apply"), None, &mut live);
    let config = map(&json!({"a": "2"}));
    let applied = applied(&CONFIG_MAP, "kubectl", Some(&live), &config);
    assert_eq!(applied["data"]["a"], "2");
    assert_eq!(applied["metadata"]["annotations"][LAST_APPLIED], format!("{config}\n"));
    assert!(apply(&write(&CONFIG_MAP, "other"), Some(&live), &config, false).is_err());
    let mut edited = live.clone();
    edited["data"]["a"] = "edited".into();
    note_update(&write(&CONFIG_MAP, "kubectl-edit"), Some(&live), &mut edited);
    assert!(apply(&write(&CONFIG_MAP, "kubectl"), Some(&edited), &config, false).is_err(), "that was somebody else");
}

#[test]
fn what_was_there_before_the_first_apply_has_an_owner_too() {
    let live = map(&json!({"a": "1", "b": "1"}));
    let refused = apply(&write(&CONFIG_MAP, "one"), Some(&live), &map(&json!({"a": "2"})), false);
    let conflict = Conflict { manager: "\"before-first-apply\" using v1".into(), field: ".data.a".into() };
    assert_eq!(refused, Err(Conflicts(vec![conflict]).into()));
    let live = applied(&CONFIG_MAP, "one", Some(&live), &map(&json!({"a": "1"})));
    assert_eq!(owned(&live, BEFORE_FIRST_APPLY), [".data.a", ".data.b", ".data"]);
}

// === properties ===

/// Image, environment and arguments.
type Container = (Option<&'static str>, BTreeMap<&'static str, &'static str>, Option<Vec<&'static str>>);

/// A DaemonSet with some labels, containers, environment, ports and arguments.
fn any_set() -> impl Strategy<Value = Value> {
    let word = || prop::sample::select(vec!["a", "b", "c"]);
    let words = || prop::collection::btree_map(word(), word(), 0..3);
    let env = prop::collection::btree_map(word(), word(), 0..3);
    let container = (prop::option::of(word()), env, prop::option::of(prop::collection::vec(word(), 0..2)));
    let containers = prop::collection::btree_map(word(), container, 0..3);
    (words(), containers, prop::option::of(words())).prop_map(|(labels, containers, selector)| {
        let container = |(name, (image, env, args)): (&str, Container)| {
            let env: Value = env.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
            let mut container = json!({"name": name, "env": env});
            if let Some(image) = image {
                container["image"] = image.into();
            }
            if let Some(args) = args {
                container["args"] = json!(args);
            }
            container
        };
        let mut set = set(&containers.into_iter().map(container).collect());
        if !labels.is_empty() {
            set["metadata"]["labels"] = json!(labels);
        }
        if let Some(selector) = selector {
            set["spec"]["template"]["spec"]["nodeSelector"] = json!(selector);
        }
        set
    })
}

/// The values of the fields in a set.
fn has_all(object: &Value, config: &Value) -> bool {
    let shape = shape_of(&DAEMON_SET);
    let missing = walk::compare(shape, config, &bare(object));
    missing.removed.is_empty() && missing.modified.difference(&missing.added).is_empty()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn applying_twice_is_applying_once(first in any_set(), config in any_set()) {
        let live = applied(&DAEMON_SET, "one", None, &first);
        let once = apply(&write(&DAEMON_SET, "two"), Some(&live), &config, true).unwrap();
        let later = Write { now: LATER.parse().unwrap(), ..write(&DAEMON_SET, "two") };
        prop_assert_eq!(&apply(&later, Some(&once), &config, false).unwrap(), &once);
        prop_assert!(has_all(&once, &config));
    }

    #[test]
    fn leaving_out_what_only_one_owned_removes_it_and_nothing_else(own in any_set(), others in any_set()) {
        let shape = shape_of(&DAEMON_SET);
        let alone = applied(&DAEMON_SET, "two", None, &others);
        let both = apply(&write(&DAEMON_SET, "one"), Some(&alone), &own, true).unwrap();
        let kept = Managed::of(&both).unwrap().find(&write(&DAEMON_SET, "two").manager(Operation::Apply)).cloned();
        let nothing = set(&json!([]));
        let left = apply(&write(&DAEMON_SET, "one"), Some(&both), &nothing, false).unwrap();
        let fields = walk::fields_of(shape, &bare(&left));
        if let Some(kept) = kept {
            prop_assert_eq!(kept.fields.difference(&fields).paths(), Vec::<String>::new(), "of the other");
        }
        let theirs = Managed::of(&left).map(|managed| managed.owned().named()).unwrap_or_default();
        let mine = walk::fields_of(shape, &own).difference(&unowned()).difference(&theirs);
        prop_assert_eq!(mine.intersection(&fields).paths(), Vec::<String>::new(), "of one's own");
    }

    #[test]
    fn the_managers_of_an_object_own_what_it_has(writes in prop::collection::vec((any::<bool>(), any_set()), 1..4)) {
        let mut live: Option<Value> = None;
        for (number, (is_apply, object)) in writes.into_iter().enumerate() {
            let manager = format!("m{number}");
            let write = write(&DAEMON_SET, &manager);
            if live.as_ref().is_some_and(|live| Managed::of(live).is_none()) {
                // Nothing of it was anybody's; updates leave it so.
                break;
            }
            let next = if is_apply {
                apply(&write, live.as_ref(), &object, true).unwrap()
            } else {
                let mut object = object;
                note_update(&write, live.as_ref(), &mut object);
                object
            };
            let fields = walk::fields_of(shape_of(&DAEMON_SET), &bare(&next)).difference(&unowned());
            let owned = Managed::of(&next).unwrap_or_default().owned();
            prop_assert_eq!(fields.difference(&owned).paths(), Vec::<String>::new());
            live = Some(next);
        }
    }
}
