//! Tables as kubectl reads them: cells kind by kind, every branch of a pod's status, and what goes around the cells.

use super::*;
use crate::control::kinds::{
    CONFIG_MAP, CONTROLLER_REVISION, DAEMON_SET, EVENT, KINDS, NAMESPACE, NODE, POD, SECRET, SERVICE_ACCOUNT,
};

fn now() -> Timestamp {
    "2026-01-10T00:00:00Z".parse().unwrap()
}

/// `base` with the fields of `changes` set in it, objects field by field.
fn with(base: Value, changes: &Value) -> Value {
    let mut object = base;
    json_patch::merge(&mut object, changes);
    object
}

fn object(changes: &Value) -> Value {
    with(json!({"metadata": {"name": "x", "namespace": "n", "creationTimestamp": "2026-01-09T22:00:00Z"}}), changes)
}

#[test]
fn every_kind_has_a_cell_for_each_column_of_any_object() {
    let empty = json!({});
    for kind in KINDS {
        assert_eq!(row(kind, &empty, now()).len(), columns(kind).len(), "{}", kind.kind);
    }
}

#[test]
fn cells_are_kubernetes_own() {
    let template = json!({"metadata": {}, "spec": {
        "nodeSelector": {"gpu": "true", "disk": "ssd"},
        "containers": [{"name": "a", "image": "a:1"}, {"name": "b", "image": "b:1"}],
        "initContainers": [{"name": "i", "image": "i:1"}],
    }});
    let owner = |api_version: &str, controller: bool| {
        json!({"metadata": {"ownerReferences": [
            {"apiVersion": api_version, "kind": "DaemonSet", "name": "fluentd", "controller": controller}]}})
    };
    let rows = [
        (&CONFIG_MAP, json!({"data": {"a": "1"}, "binaryData": {"b": "", "c": ""}}), json!(["x", 3, "120m"])),
        (&CONFIG_MAP, json!({}), json!(["x", 0, "120m"])),
        (&SECRET, json!({"type": "Opaque", "data": {"a": ""}}), json!(["x", "Opaque", 1, "120m"])),
        (&SERVICE_ACCOUNT, json!({}), json!(["x", "120m"])),
        (&SERVICE_ACCOUNT, json!({"metadata": {"creationTimestamp": null}}), json!(["x", "<unknown>"])),
        (&NAMESPACE, json!({"status": {"phase": "Active"}}), json!(["x", "Active", "120m"])),
        (
            &CONTROLLER_REVISION,
            with(owner("apps/v1", true), &json!({"revision": 3})),
            json!(["x", "daemonset.apps/fluentd", 3, "120m"]),
        ),
        (&CONTROLLER_REVISION, owner("v1", true), json!(["x", "daemonset/fluentd", 0, "120m"])),
        (&CONTROLLER_REVISION, owner("apps/v1", false), json!(["x", "<none>", 0, "120m"])),
        (
            &DAEMON_SET,
            json!({
               "spec": {
                   "template": template,
                   "selector": {"matchLabels": {"b": "1"}, "matchExpressions": [
                       {"key": "d", "operator": "DoesNotExist"}, {"key": "a", "operator": "In", "values": ["y", "x"]},
                       {"key": "c", "operator": "Exists"}, {"key": "e", "operator": "NotIn", "values": ["z"]}]},
               },
               "status": {"desiredNumberScheduled": 5, "currentNumberScheduled": 4, "numberReady": 3,
                          "updatedNumberScheduled": 2, "numberAvailable": 1},
            }),
            json!([
                "x",
                5,
                4,
                3,
                2,
                1,
                "disk=ssd,gpu=true",
                "120m",
                "a,b",
                "a:1,b:1",
                "a in (x,y),b=1,c,!d,e notin (z)"
            ]),
        ),
        (
            &DAEMON_SET,
            json!({"spec": {"selector": {"matchExpressions": [{"key": "a", "operator": "Gt"}]}}}),
            json!(["x", 0, 0, 0, 0, 0, "<none>", "120m", "", "", "<error>"]),
        ),
        (
            &NODE,
            json!({
               "metadata": {"labels": {"node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/": "",
                                       "node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "edge"}},
               "spec": {"unschedulable": true},
               "status": {
                   "conditions": [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": "True"}],
                   "addresses": [{"type": "Hostname", "address": "h"}, {"type": "InternalIP", "address": "10.0.0.1"},
                                 {"type": "InternalIP", "address": "10.0.0.2"}],
                   "nodeInfo": {"kubeletVersion": "v1.36.0", "osImage": "Debian", "kernelVersion": "6.1",
                                "architecture": "amd64", "containerRuntimeVersion": "containerd://2.0"},
               },
            }),
            json!([
                "x",
                "Ready,SchedulingDisabled",
                "control-plane,edge,worker",
                "120m",
                "v1.36.0",
                "10.0.0.1",
                "<none>",
                "Debian",
                "6.1 (amd64)",
                "containerd://2.0"
            ]),
        ),
        (
            &NODE,
            json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}),
            json!(["x", "NotReady", "<none>", "120m", "", "<none>", "<none>", "<unknown>", "<unknown>", "<unknown>"]),
        ),
        (
            &NODE,
            json!({}),
            json!(["x", "Unknown", "<none>", "120m", "", "<none>", "<none>", "<unknown>", "<unknown>", "<unknown>"]),
        ),
        (
            &EVENT,
            json!({
               "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "spec.containers{c}"},
               "type": "Warning", "reason": "BackOff", "message": " waits\n", "count": 7,
               "source": {"component": "kubelet", "host": "node-a"}, "reportingComponent": "other",
               "firstTimestamp": "2026-01-09T23:00:00Z", "lastTimestamp": "2026-01-09T23:59:00Z",
            }),
            json!([
                "60s",
                "Warning",
                "BackOff",
                "pod/p",
                "spec.containers{c}",
                "kubelet, node-a",
                "waits",
                "60m",
                7,
                "x"
            ]),
        ),
        (
            &EVENT,
            json!({
               "involvedObject": {"kind": "Node"}, "type": "Normal", "source": {},
               "firstTimestamp": null, "lastTimestamp": null,
               "eventTime": "2026-01-09T23:59:00.500000Z", "reportingComponent": "garrison", "reportingInstance": "",
            }),
            json!(["59s", "Normal", "", "node", "", "garrison", "", "59s", 1, "x"]),
        ),
        (
            &EVENT,
            json!({
               "series": {"count": 4, "lastObservedTime": "2026-01-09T23:59:30.000000Z"}, "count": 9,
               "eventTime": "2026-01-09T23:59:00.000000Z", "lastTimestamp": "2026-01-09T23:00:00Z",
            }),
            json!(["30s", "", "", "", "", "", "", "60s", 4, "x"]),
        ),
        (&Kind { kind: "Widget", ..NODE }, json!({}), json!(["x", "2026-01-09T22:00:00Z"])),
    ];
    for (kind, changes, cells) in rows {
        assert_eq!(Value::Array(row(kind, &object(&changes), now())), cells, "{} {changes}", kind.kind);
    }
}

/// A container status; `state` is its `state` field.
fn status(name: &str, state: &Value) -> Value {
    json!({"name": name, "ready": state.get("running").is_some(), "restartCount": 0, "state": state})
}

fn running() -> Value {
    json!({"running": {}})
}

fn waiting(reason: &str) -> Value {
    json!({"waiting": {"reason": reason}})
}

fn ended(reason: &str, exit_code: i64, signal: i64) -> Value {
    json!({"terminated": {"reason": reason, "exitCode": exit_code, "signal": signal}})
}

/// A running pod of containers a and b, init container i, sidecar s and init container j.
fn pod(changes: &Value) -> Value {
    let base = json!({
        "metadata": {"name": "p", "creationTimestamp": "2026-01-09T22:00:00Z"},
        "spec": {
            "nodeName": "node-a",
            "containers": [{"name": "a"}, {"name": "b"}],
            "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}, {"name": "j"}],
        },
        "status": {"phase": "Running"},
    });
    with(base, changes)
}

#[test]
fn the_status_of_a_pod_follows_its_containers() {
    let ok = || ended("Completed", 0, 0);
    let sidecar =
        |ready: bool| json!({"name": "s", "ready": ready, "started": true, "restartCount": 0, "state": running()});
    let condition = |condition_type: &str| json!([{"type": condition_type, "status": "True"}]);
    // what the pod has, READY, STATUS
    let rows = [
        ("only a phase", json!({"status": {"phase": "Pending"}}), "0/3", "Pending"),
        ("a reason", json!({"status": {"phase": "Failed", "reason": "Evicted"}}), "0/3", "Evicted"),
        (
            "a gate before scheduling",
            json!({"status": {"phase": "Pending", "conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}}),
            "0/3",
            "SchedulingGated",
        ),
        (
            "the first init container not started",
            json!({"status": {"phase": "Pending", "initContainerStatuses": [
            status("i", &waiting("PodInitializing")), status("s", &waiting("PodInitializing"))]}}),
            "0/3",
            "Init:0/3",
        ),
        (
            "an init container running",
            json!({"status": {"initContainerStatuses": [status("i", &running())]}}),
            "0/3",
            "Init:0/3",
        ),
        (
            "an init container without an image",
            json!({"status": {"initContainerStatuses": [status("i", &waiting("ErrImagePull"))]}}),
            "0/3",
            "Init:ErrImagePull",
        ),
        (
            "an init container that failed",
            json!({"status": {"initContainerStatuses": [status("i", &ended("Error", 1, 0))]}}),
            "0/3",
            "Init:Error",
        ),
        (
            "an init container killed",
            json!({"status": {"initContainerStatuses": [status("i", &ended("", 137, 9))]}}),
            "0/3",
            "Init:Signal:9",
        ),
        (
            "an init container that failed without a reason",
            json!({"status": {"initContainerStatuses": [status("i", &ended("", 2, 0))]}}),
            "0/3",
            "Init:ExitCode:2",
        ),
        (
            "a sidecar starting",
            json!({"status": {"initContainerStatuses": [status("i", &ok()), status("s", &running())]}}),
            "0/3",
            "Init:1/3",
        ),
        (
            "a sidecar ready, the next init container running",
            json!({"status": {"initContainerStatuses": [status("i", &ok()), sidecar(true), status("j", &running())]}}),
            "1/3",
            "Init:2/3",
        ),
        (
            "an init container run again in an initialized pod",
            json!({"status": {"conditions": condition("Initialized"),
                           "initContainerStatuses": [status("i", &running())],
                           "containerStatuses": [status("a", &running()), status("b", &running())]}}),
            "2/3",
            "Init:0/3",
        ),
        (
            "an init container run again while a container backs off",
            json!({"status": {"conditions": condition("Initialized"),
                           "initContainerStatuses": [status("i", &running())],
                           "containerStatuses": [status("a", &waiting("CrashLoopBackOff"))]}}),
            "0/3",
            "CrashLoopBackOff",
        ),
        (
            "all running, the sidecar not ready",
            json!({"status": {"initContainerStatuses": [status("i", &ok()), sidecar(false), status("j", &ok())],
                           "containerStatuses": [status("a", &running()), status("b", &running())]}}),
            "2/3",
            "Running",
        ),
        (
            "all running and ready",
            json!({"status": {"initContainerStatuses": [status("i", &ok()), sidecar(true), status("j", &ok())],
                           "containerStatuses": [status("a", &running()), status("b", &running())]}}),
            "3/3",
            "Running",
        ),
        (
            "containers being made",
            json!({"status": {"phase": "Pending", "containerStatuses": [status("a", &waiting("ContainerCreating"))]}}),
            "0/3",
            "ContainerCreating",
        ),
        (
            "two waiting: the first one says why",
            json!({"status": {"containerStatuses": [
                status("a", &waiting("ErrImagePull")), status("b", &waiting("CrashLoopBackOff"))]}}),
            "0/3",
            "ErrImagePull",
        ),
        (
            "one waiting without a reason",
            json!({"status": {"containerStatuses": [status("a", &waiting(""))]}}),
            "0/3",
            "Running",
        ),
        ("one killed", json!({"status": {"containerStatuses": [status("a", &ended("", 137, 9))]}}), "0/3", "Signal:9"),
        ("one failed", json!({"status": {"containerStatuses": [status("a", &ended("", 3, 0))]}}), "0/3", "ExitCode:3"),
        (
            "one done, one ready, pod ready",
            json!({"status": {"conditions": condition("Ready"),
                              "containerStatuses": [status("a", &ok()), status("b", &running())]}}),
            "1/3",
            "Running",
        ),
        (
            "one done, one ready, pod not ready",
            json!({"status": {"containerStatuses": [status("a", &ok()), status("b", &running())]}}),
            "1/3",
            "NotReady",
        ),
        (
            "one done, one failed",
            json!({"status": {"containerStatuses": [status("a", &ok()), status("b", &ended("Error", 1, 0))]}}),
            "0/3",
            "Error",
        ),
        (
            "all done",
            json!({"status": {"phase": "Succeeded", "containerStatuses": [status("a", &ok()), status("b", &ok())]}}),
            "0/3",
            "Completed",
        ),
        ("deleted", json!({"metadata": {"deletionTimestamp": "2026-01-09T23:00:00Z"}}), "0/3", "Terminating"),
        (
            "deleted after it failed",
            json!({"metadata": {"deletionTimestamp": "2026-01-09T23:00:00Z"}, "status": {"phase": "Failed"}}),
            "0/3",
            "Failed",
        ),
        (
            "deleted with its node lost",
            json!({"metadata": {"deletionTimestamp": "2026-01-09T23:00:00Z"}, "status": {"reason": "NodeLost"}}),
            "0/3",
            "Unknown",
        ),
    ];
    for (name, changes, ready, status) in rows {
        let cells = row(&POD, &pod(&changes), now());
        assert_eq!((&cells[1], &cells[2]), (&json!(ready), &json!(status)), "{name}");
    }
}

#[test]
fn restarts_of_a_pod_count_init_containers_only_until_they_are_done() {
    let restarted = |name: &str, count: u32, finished_at: &str, state: &Value| {
        with(
            status(name, state),
            &json!({"restartCount": count, "started": true, "ready": true,
                                          "lastState": {"terminated": {"finishedAt": finished_at}}}),
        )
    };
    let rows = [
        (json!([]), json!([status("a", &running())]), "0"),
        (json!([]), json!([with(status("a", &running()), &json!({"restartCount": 2}))]), "2"),
        (json!([]), json!([restarted("a", 0, "2026-01-09T23:00:00Z", &running())]), "0"),
        (
            json!([]),
            json!([
                restarted("a", 1, "2026-01-09T23:58:30Z", &running()),
                restarted("b", 2, "2026-01-09T23:00:00Z", &running())
            ]),
            "3 (90s ago)",
        ),
        (
            json!([restarted("i", 4, "2026-01-09T23:50:00Z", &running())]),
            json!([restarted("a", 1, "2026-01-09T23:59:00Z", &running())]),
            "4 (10m ago)",
        ),
        (
            json!([
                restarted("i", 4, "2026-01-09T23:59:59Z", &ended("", 0, 0)),
                restarted("s", 2, "2026-01-09T23:59:00Z", &running())
            ]),
            json!([restarted("a", 1, "2026-01-09T23:00:00Z", &running())]),
            "3 (60s ago)",
        ),
    ];
    for (init, containers, expected) in rows {
        let changes = json!({"status": {"initContainerStatuses": init, "containerStatuses": containers}});
        assert_eq!(row(&POD, &pod(&changes), now())[3], expected, "{changes}");
    }
}

#[test]
fn the_wide_cells_of_a_pod_are_none_until_known() {
    let wide = |changes: &Value| row(&POD, &pod(changes), now())[4..].to_vec();
    assert_eq!(wide(&json!({"spec": {"nodeName": null}})), ["120m", "<none>", "<none>", "<none>", "<none>"]);
    let known = json!({
        "spec": {"readinessGates": [{"conditionType": "one"}, {"conditionType": "two"}, {"conditionType": "three"}]},
        "status": {"podIP": "10.0.0.9", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
                   "nominatedNodeName": "node-b",
                   "conditions": [{"type": "one", "status": "True"}, {"type": "two", "status": "False"}]},
    });
    assert_eq!(wide(&known), ["120m", "10.0.0.1", "node-a", "node-b", "1/3"]);
}

#[test]
fn a_table_carries_the_list_and_as_much_of_each_object_as_was_asked_for() {
    let list_meta = json!({"resourceVersion": "7", "continue": "t"});
    let pods = [pod(&json!({})), pod(&json!({"status": {"phase": "Failed"}}))];
    let made = |include, with_columns| table(&POD, &pods, &list_meta, include, with_columns, now());

    let full = made(IncludeObject::Metadata, true);
    assert_eq!(
        (&full["kind"], &full["apiVersion"], &full["metadata"]),
        (&json!("Table"), &json!("meta.k8s.io/v1"), &list_meta)
    );
    assert_eq!(
        full["columnDefinitions"][0],
        json!({"name": "Name", "type": "string", "format": "name", "priority": 0,
               "description": "Name of the object, unique within its namespace."})
    );
    let headings: Vec<String> =
        columns(&POD).iter().map(|column| format!("{}{}", column.name, "*".repeat(column.priority.into()))).collect();
    assert_eq!(
        headings.join(", "),
        "Name, Ready, Status, Restarts, Age, IP*, Node*, Nominated Node*, Readiness Gates*"
    );
    assert_eq!(
        full["rows"][1]["object"],
        json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": pods[1]["metadata"]})
    );
    assert_eq!(full["rows"][0].get("conditions"), None);
    assert_eq!(full["rows"][1]["conditions"][0]["reason"], "Failed");

    assert_eq!(made(IncludeObject::None, false)["rows"][0]["object"], Value::Null);
    assert_eq!(made(IncludeObject::None, false)["columnDefinitions"], json!([]));
    let object = &made(IncludeObject::Object, false)["rows"][0]["object"];
    assert_eq!(*object, with(pods[0].clone(), &json!({"kind": "Pod", "apiVersion": "v1"})));
    assert_eq!(table(&POD, [], &json!({}), IncludeObject::None, false, now())["rows"], json!([]));
}

#[test]
fn include_object_is_one_of_three_words() {
    let read = |text: &str| text.parse::<IncludeObject>().map_err(|error| error.to_string());
    assert_eq!(read("None"), Ok(IncludeObject::None));
    assert_eq!(read("Object"), Ok(IncludeObject::Object));
    assert_eq!((read("Metadata"), read("")), (Ok(IncludeObject::Metadata), Ok(IncludeObject::Metadata)));
    assert_eq!(read("all"), Err(r#"unrecognized includeObject value: "all""#.to_owned()));
}
