use serde_json::{Value, json};

use super::volumes::NO_SOURCE;
use super::*;

/// The errors of a template with these fields, below `spec.template`.
fn refused(metadata: &Value, spec: &Value) -> Vec<String> {
    let template = serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).unwrap();
    let at = Path::new("spec").child("template");
    unsupported(&template, &at).iter().map(ToString::to_string).collect()
}

fn refused_in_pod(fields: &Value) -> Vec<String> {
    let mut spec = json!({ "containers": [{ "name": "a" }] });
    spec.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    refused(&Value::Null, &spec)
}

fn refused_in_container(fields: &Value) -> Vec<String> {
    let mut container = json!({ "name": "a" });
    container.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    refused_in_pod(&json!({ "containers": [container] }))
}

/// One of `volumeDevices`.
fn device() -> Value {
    json!({ "name": "d", "devicePath": "/d" })
}

#[test]
fn the_examples_and_all_that_is_realized_pass() {
    for example in ["fluentd.yaml", "gpu-monitor.yaml", "node-exporter.yaml"] {
        let path = format!("{}/examples/{example}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap();
        let daemonset: k8s_openapi::api::apps::v1::DaemonSet = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(unsupported(&daemonset.spec.unwrap().template, &Path::default()), []);
    }
    let pod = json!({
        "hostNetwork": true, "hostPID": true, "hostIPC": true, "shareProcessNamespace": false, "hostUsers": false,
        "resources": {}, "nodeName": "n", "nodeSelector": { "a": "b" }, "os": { "name": "linux" },
        "schedulerName": "default-scheduler",
        "enableServiceLinks": true, "serviceAccountName": "x", "serviceAccount": "x",
        "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 5,
        "tolerations": [{ "operator": "Exists" }], "imagePullSecrets": [{ "name": "s" }],
        "topologySpreadConstraints":
            [{ "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway" }],
        "volumes": [{ "name": "h", "hostPath": { "path": "/x", "type": "Socket" } }, { "name": "e", "emptyDir": {} },
            { "name": "m", "emptyDir": { "medium": "Memory", "sizeLimit": "1Mi" } },
            { "name": "p", "emptyDir": { "medium": "HugePages" } }, { "name": "q", "emptyDir": { "medium": "HugePages-2Mi" } },
            { "name": "c", "configMap": { "name": "c" } }, { "name": "s", "secret": { "secretName": "s" } },
            { "name": "i", "image": { "reference": "a", "pullPolicy": "Never" } }, { "name": "d", "downwardAPI": {} }, { "name": "o", "projected": { "sources": [{ "secret": { "name": "s" } },
                { "serviceAccountToken": { "path": "t" } }] } }],
    });
    assert_eq!(refused_in_pod(&pod), Vec::<String>::new());
    let admitted = json!({
        "serviceAccountName": "x", "serviceAccount": "x", "automountServiceAccountToken": true,
        "priorityClassName": "gold", "priority": 5, "preemptionPolicy": "Never", "runtimeClassName": "kata",
        "overhead": { "cpu": 1 },
    });
    let names = json!({
        "hostname": "h", "subdomain": "s", "setHostnameAsFQDN": true, "hostnameOverride": "o", "dnsPolicy": "None",
        "dnsConfig": {}, "hostAliases": [{ "ip": "192.0.2.1" }],
    });
    let security = json!({ "runAsNonRoot": true, "supplementalGroupsPolicy": "Strict", "seLinuxOptions": {},
        "seLinuxChangePolicy": "Recursive", "sysctls": [{ "name": "a", "value": "b" }],
        "fsGroup": 0, "fsGroupChangePolicy": "OnRootMismatch", "appArmorProfile": { "type": "RuntimeDefault" },
        "seccompProfile": { "type": "Localhost", "localhostProfile": "a" } });
    let life = json!({
        "restartPolicy": "OnFailure", "activeDeadlineSeconds": 60, "readinessGates": [{ "conditionType": "a/b" }],
        "initContainers": [{ "name": "i" }, { "name": "s", "restartPolicy": "Always" }],
    });
    for fields in [admitted, names, life, json!({ "securityContext": security })] {
        assert_eq!(refused_in_pod(&fields), Vec::<String>::new());
    }
    let container = json!({
        "command": ["a"], "args": ["b"], "workingDir": "/", "tty": true, "stdin": true, "stdinOnce": true,
        "env": [{ "name": "A", "value": "b" },
            { "name": "B", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
            { "name": "C", "valueFrom": { "resourceFieldRef": { "resource": "limits.cpu" } } },
            { "name": "D", "valueFrom": { "configMapKeyRef": { "name": "c", "key": "k" } } },
            { "name": "E", "valueFrom": { "secretKeyRef": { "name": "c", "key": "k" } } },
            { "name": "F", "valueFrom": { "fileKeyRef": { "volumeName": "e", "path": "p", "key": "k" } } }],
        "envFrom": [{ "configMapRef": { "name": "c" } }, { "secretRef": { "name": "c" } }],
        "ports": [{ "containerPort": 1, "hostPort": 1 }],
        "resizePolicy": [{ "resourceName": "cpu", "restartPolicy": "NotRequired" }],
        "resources": { "limits": { "cpu": 1, "hugepages-2Mi": "2Mi", "ephemeral-storage": "1Gi" } },
        "securityContext": { "privileged": true, "capabilities": { "add": ["ALL"] }, "procMount": "Unmasked",
            "allowPrivilegeEscalation": true, "seLinuxOptions": { "level": "s0" },
            "appArmorProfile": { "type": "Unconfined" }, "readOnlyRootFilesystem": true, "runAsNonRoot": false },
        "volumeMounts": [{ "name": "h", "mountPath": "/", "mountPropagation": "Bidirectional", "subPath": "a",
            "recursiveReadOnly": "Enabled" }, { "name": "h", "mountPath": "/b", "subPathExpr": "$(A)" }],
    });
    assert_eq!(refused_in_container(&container), Vec::<String>::new());
    let life = json!({
        "restartPolicy": "Never",
        "restartPolicyRules": [{ "action": "Restart", "exitCodes": { "operator": "In", "values": [1] } }],
        "livenessProbe": { "exec": { "command": ["a"] } }, "readinessProbe": {}, "startupProbe": {},
        "lifecycle": { "postStart": { "exec": { "command": ["a"] } }, "preStop": {} },
    });
    assert_eq!(refused_in_container(&life), Vec::<String>::new());
}

#[test]
fn what_a_pod_may_not_have_yet_is_named_with_its_reason() {
    let not_yet = "Forbidden: not supported yet";
    let forbidden = |detail: &str| format!("Forbidden: {detail}");
    let affinity = |kind: &str| {
        let required = json!([{ "topologyKey": "a" }]);
        json!({ "affinity": { kind: { "requiredDuringSchedulingIgnoredDuringExecution": required } } })
    };
    let volume = format!("Forbidden: {NO_SOURCE}");
    let projected = |source: Value| json!({ "volumes": [{ "name": "v", "projected": { "sources": [source] } }] });
    let rows = [
        (
            affinity("podAntiAffinity"),
            "affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution",
            forbidden(NO_SCHEDULER),
        ),
        (
            affinity("podAffinity"),
            "affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution",
            forbidden(NO_SCHEDULER),
        ),
        (
            json!({ "initContainers": [{ "name": "i" }, { "name": "j", "volumeDevices": [device()] }] }),
            "initContainers[1].volumeDevices",
            not_yet.to_owned(),
        ),
        (
            json!({ "os": { "name": "windows" } }),
            "os.name",
            "Unsupported value: \"windows\": supported values: \"linux\"".to_owned(),
        ),
        (
            json!({ "topologySpreadConstraints":
                [{ "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule" }] }),
            "topologySpreadConstraints[0].whenUnsatisfiable",
            forbidden(NO_SCHEDULER),
        ),
        (
            json!({ "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": "c" } }] }),
            "volumes[0].persistentVolumeClaim",
            volume,
        ),
        (
            json!({
                "volumes": [{ "name": "v", "image": { "reference": "a" } }],
                "initContainers": [{ "name": "i", "volumeMounts":
                    [{ "name": "v", "mountPath": "/a" }, { "name": "v", "mountPath": "/b", "subPath": "c" }] }],
            }),
            "initContainers[0].volumeMounts[1].subPath",
            forbidden("not supported yet for an image; mount all of it"),
        ),
        (
            projected(json!({ "clusterTrustBundle": { "path": "p", "name": "b" } })),
            "volumes[0].projected.sources[0].clusterTrustBundle",
            forbidden("there is no such kind of object here"),
        ),
        (
            json!({ "volumes": [{ "name": "v", "emptyDir": { "medium": "HugePages-much" } }] }),
            "volumes[0].emptyDir.medium",
            "Unsupported value: \"HugePages-much\": supported values: \"HugePages\", \"HugePages-<size>\", \"Memory\""
                .to_owned(),
        ),
        (
            json!({ "volumes": [{ "name": "v", "emptyDir": { "medium": "HugePages", "sizeLimit": "1" } }] }),
            "volumes[0].emptyDir.sizeLimit",
            forbidden("not supported for huge pages"),
        ),
        (
            json!({ "volumes": [{ "name": "v", "hostPath": { "path": "a" } }] }),
            "volumes[0].hostPath.path",
            forbidden("must be an absolute path"),
        ),
    ];
    for (fields, field, body) in rows {
        assert_eq!(refused_in_pod(&fields), [format!("spec.template.spec.{field}: {body}")]);
    }
    assert_eq!(
        refused(&json!({ "finalizers": ["a/b"] }), &json!({ "containers": [] })),
        ["spec.template.metadata.finalizers: Forbidden: not supported yet"]
    );
}

#[test]
fn what_a_container_may_not_have_yet_is_named_with_its_reason() {
    let rows = [
        (json!({ "lifecycle": { "stopSignal": "SIGINT" } }), "lifecycle.stopSignal", "Forbidden: not supported yet"),
        (json!({ "volumeDevices": [device()] }), "volumeDevices", "Forbidden: not supported yet"),
        (
            json!({ "securityContext": { "windowsOptions": {} } }),
            "securityContext.windowsOptions",
            "Forbidden: only Linux is supported",
        ),
    ];
    for (fields, field, body) in rows {
        assert_eq!(refused_in_container(&fields), [format!("spec.template.spec.containers[0].{field}: {body}")]);
    }
}

#[test]
fn everything_refused_is_listed_at_once() {
    let spec = json!({ "containers": [{ "name": "a", "volumeDevices": [device()], "tty": true }], "resourceClaims": [{ "name": "c" }] });
    assert_eq!(refused(&Value::Null, &spec).len(), 2);
}

#[test]
fn a_container_added_to_a_running_pod_is_looked_at_like_any_other() {
    let ephemeral = |fields: Value| {
        let container = serde_json::from_value(fields).unwrap();
        let at = Path::new("spec").child("ephemeralContainers").index(0);
        unsupported_ephemeral(&container, &at).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(ephemeral(json!({ "name": "e", "stdin": true, "targetContainerName": "a" })), Vec::<String>::new());
    assert_eq!(
        ephemeral(json!({ "name": "e", "volumeDevices": [device()] })),
        ["spec.ephemeralContainers[0].volumeDevices: Forbidden: not supported yet"]
    );
    let env = json!([{ "name": "A", "valueFrom": { "secretKeyRef": { "name": "s", "key": "k" } } }]);
    let fields = json!({ "name": "e", "env": env, "envFrom": [{ "configMapRef": { "name": "c" } }] });
    assert_eq!(ephemeral(fields), Vec::<String>::new());
}
