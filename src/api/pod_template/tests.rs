//! One change to a good pod, and every error it causes.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::{Value, json};

use super::*;
use crate::api::document::Written;
use crate::api::strict::{Decoded, decode};

/// A pod with one of most things, so that a row can break each of them.
fn base() -> Value {
    json!({
        "metadata": {"labels": {"app": "web"}},
        "spec": {
            "containers": [{
                "name": "web",
                "image": "nginx:1",
                "ports": [{"name": "http", "containerPort": 80, "hostPort": 8080}],
                "env": [{"name": "A", "value": "b"}],
                "volumeMounts": [{"name": "logs", "mountPath": "/var/log"}],
                "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "1", "memory": "1Gi"}},
                "livenessProbe": {"httpGet": {"port": "http"}},
                "securityContext": {"runAsUser": 1},
            }],
            "initContainers": [{"name": "init", "image": "busybox:1"}],
            "volumes": [{"name": "logs", "hostPath": {"path": "/var/log"}}],
            "tolerations": [{"operator": "Exists"}],
        },
    })
}

/// The errors of the base with the field at `pointer` below `spec` set to `value`; paths without `template.spec.`.
fn errors_of(pointer: &str, value: &Value) -> Vec<String> {
    let mut template = base();
    let spec = &mut template["spec"];
    if let Some((list, "-")) = pointer.rsplit_once('/') {
        spec.pointer_mut(list).and_then(Value::as_array_mut).expect("a list").push(value.clone());
    } else {
        let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
        let parent = spec.pointer_mut(parent).and_then(Value::as_object_mut).expect("an object");
        parent.insert(name.to_owned(), value.clone());
    }
    let decoded: Decoded<PodTemplateSpec> = decode(&Written::from(template)).expect("a template");
    let mut template = decoded.strict().expect("known fields");
    default_template(&mut template);
    let mut errors = Vec::new();
    validate(&template, &Path::new("template"), &mut errors);
    errors.iter().map(|error| error.to_string().replacen("template.spec.", "", 1)).collect()
}

/// Each row: where, what, and every error that follows.
fn check(rows: &[(&str, Value, &[&str])]) {
    for (pointer, value, expected) in rows {
        assert_eq!(errors_of(pointer, value), *expected, "{pointer} = {value}");
    }
}

#[test]
fn names_images_and_ports() {
    let label = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and \
                 end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
                 '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
    let port = |port: Value| json!([port]);
    check(&[
        ("/containers/0/image", json!("nginx:1"), &[]),
        ("/containers", json!([]), &["containers: Required value"]),
        ("/containers/0/name", json!(""), &["containers[0].name: Required value"]),
        ("/containers/0/name", json!("Web"), &[&format!("containers[0].name: Invalid value: \"Web\": {label}")]),
        ("/containers/-", json!({"name": "web", "image": "a"}), &["containers[1].name: Duplicate value: \"web\""]),
        ("/initContainers/0/name", json!("web"), &["initContainers[0].name: Duplicate value: \"web\""]),
        ("/containers/0/image", json!(""), &["containers[0].image: Required value"]),
        ("/containers/0/image", json!(" nginx"), &[]),
        (
            "/containers/0/imagePullPolicy",
            json!("Sometimes"),
            &[
                "containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \
               \"Never\"",
            ],
        ),
        (
            "/containers/0/terminationMessagePolicy",
            json!("Logs"),
            &["containers[0].terminationMessagePolicy: Unsupported value: \"Logs\": supported values: \"File\", \
               \"FallbackToLogsOnError\""],
        ),
        (
            "/containers/0/ports",
            port(json!({"name": "a--b", "containerPort": 0})),
            &[
                "containers[0].ports[0].name: Invalid value: \"a--b\": must not contain consecutive hyphens",
                "containers[0].ports[0].containerPort: Required value",
            ],
        ),
        (
            "/containers/0/ports",
            port(json!({"containerPort": 65536, "hostPort": -1, "protocol": "ICMP"})),
            &[
                "containers[0].ports[0].containerPort: Invalid value: 65536: must be between 1 and 65535, inclusive",
                "containers[0].ports[0].hostPort: Invalid value: -1: must be between 1 and 65535, inclusive",
                "containers[0].ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            ],
        ),
        (
            "/containers/0/ports/-",
            json!({"name": "http", "containerPort": 81}),
            &["containers[0].ports[1].name: Duplicate value: \"http\""],
        ),
        (
            "/containers/-",
            json!({"name": "b", "image": "b", "ports": [{"containerPort": 1, "hostPort": 8080}]}),
            &["containers[1].ports[0].hostPort: Duplicate value: \"TCP//8080\""],
        ),
        ("/initContainers/0/ports", json!([{"containerPort": 1, "hostPort": 8080}]), &[]),
        (
            "/hostNetwork",
            json!(true),
            &[
                "containers[0].ports[0].hostPort: Invalid value: 8080: must match `containerPort` when `hostNetwork` is true",
            ],
        ),
    ]);
}

#[test]
fn restart_policies_of_containers() {
    check(&[
        ("/containers/0/restartPolicy", json!("Never"), &[]),
        (
            "/containers/0/restartPolicy",
            json!("Maybe"),
            &[
                "containers[0].restartPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"Never\", \"OnFailure\"",
            ],
        ),
        (
            "/containers/0/restartPolicyRules",
            json!([{"action": "Restart"}]),
            &["containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used"],
        ),
        (
            "/initContainers/0/startupProbe",
            json!({"exec": {"command": ["a"]}}),
            &[
                "initContainers[0].startupProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
            ],
        ),
        (
            "/initContainers/-",
            json!({
                "name": "side", "image": "a", "restartPolicy": "Always",
                "restartPolicyRules": [{"action": "Stop", "exitCodes": {"operator": "In", "values": [256]}}],
                "startupProbe": {"exec": {"command": ["a"]}},
            }),
            &[
                "initContainers[1].restartPolicyRules[0].action: Unsupported value: \"Stop\": supported values: \"Restart\", \
                 \"RestartAllContainers\"",
                "initContainers[1].restartPolicyRules[0].exitCodes.values[0]: Invalid value: 256: must be between 0 and 255, \
                 inclusive",
            ],
        ),
    ]);
}

#[test]
fn environment() {
    let from = |source: Value| json!([{"name": "A", "valueFrom": source}]);
    let path = "containers[0].env[0].valueFrom";
    let field = |field: &str| from(json!({"fieldRef": {"fieldPath": field}}));
    check(&[
        ("/containers/0/env", json!([{"name": ""}]), &["containers[0].env[0].name: Required value"]),
        ("/containers/0/env", json!([{"name": "a b.c-d"}]), &[]),
        (
            "/containers/0/env",
            json!([{"name": "a=b"}]),
            &[
                "containers[0].env[0].name: Invalid value: \"a=b\": a valid environment variable name must consist only of \
               printable ASCII characters other than '='",
            ],
        ),
        (
            "/containers/0/env",
            json!([{"name": "A", "value": "b", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]),
            &[&format!("{path}: Invalid value: \"\": may not be specified when `value` is not empty")],
        ),
        (
            "/containers/0/env",
            from(json!({})),
            &[&format!(
                "{path}: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, \
                 `secretKeyRef` or `fileKeyRef`"
            )],
        ),
        (
            "/containers/0/env",
            from(json!({
                "secretKeyRef": {"name": "a", "key": "b"}, "configMapKeyRef": {"name": "a", "key": ""},
            })),
            &[
                &format!("{path}.configMapKeyRef.key: Required value"),
                &format!("{path}: Invalid value: \"\": may not have more than one field specified at a time"),
            ],
        ),
        ("/containers/0/env", field("status.hostIP"), &[]),
        ("/containers/0/env", field("metadata.labels['app.kubernetes.io/name']"), &[]),
        (
            "/containers/0/env",
            field("metadata.labels"),
            &[&format!(
                "{path}.fieldRef.fieldPath: Unsupported value: \"metadata.labels\": supported values: \"metadata.name\", \
                 \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \"spec.serviceAccountName\", \"status.hostIP\", \
                 \"status.hostIPs\", \"status.podIP\", \"status.podIPs\""
            )],
        ),
        (
            "/containers/0/env",
            field("spec.foo"),
            &[&format!(
                "{path}.fieldRef.fieldPath: Invalid value: \"spec.foo\": error converting fieldPath: field label not supported: \
                 spec.foo"
            )],
        ),
        (
            "/containers/0/env",
            from(json!({"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1Ki"}})),
            &[&format!(
                "{path}.resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only divisor's values 1m and 1 are supported \
                 with the cpu resource"
            )],
        ),
        (
            "/containers/0/env",
            from(json!({"resourceFieldRef": {"resource": "requests.memory", "divisor": "1Mi"}})),
            &[],
        ),
        (
            "/containers/0/env",
            from(json!({"fileKeyRef": {"volumeName": "logs", "path": "../a", "key": "K"}})),
            &[
                &format!(
                    "{path}.fileKeyRef.volumeName: Invalid value: \"logs\": referenced volume must be of type emptyDir"
                ),
                &format!("{path}.fileKeyRef.path: Invalid value: \"../a\": must not contain '..'"),
            ],
        ),
        (
            "/containers/0/envFrom",
            json!([{"prefix": "A_"}, {"configMapRef": {"name": "a"}, "secretRef": {"name": ""}}]),
            &[
                "containers[0].envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
                "containers[0].envFrom[1].secretRef.name: Required value",
                "containers[0].envFrom: Invalid value: \"\": may not have more than one field specified at a time",
            ],
        ),
    ]);
}

#[test]
fn volumes_and_mounts() {
    let volume = |source: Value| {
        let mut volume = source;
        volume["name"] = json!("v");
        volume
    };
    let mode = "must be a number between 0 and 0777 (octal), both inclusive";
    check(&[
        ("/volumes/-", volume(json!({})), &[]),
        ("/volumes/-", json!({"name": "logs"}), &["volumes[1].name: Duplicate value: \"logs\""]),
        (
            "/volumes/-",
            volume(
                json!({"hostPath": {"path": "/a/../b"}, "configMap": {"name": "a"}, "emptyDir": {"sizeLimit": "-1"}}),
            ),
            &[
                "volumes[1].emptyDir.sizeLimit: Forbidden: SizeLimit field must be a valid resource quantity",
                "volumes[1].hostPath: Forbidden: may not specify more than 1 volume type",
                "volumes[1].configMap: Forbidden: may not specify more than 1 volume type",
            ],
        ),
        ("/volumes/-", volume(json!({"hostPath": {"path": ""}})), &["volumes[1].hostPath.path: Required value"]),
        (
            "/volumes/-",
            volume(json!({"hostPath": {"path": "/a/../b", "type": "Link"}})),
            &[
                "volumes[1].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
                "volumes[1].hostPath.type: Unsupported value: \"Link\": supported values: \"\", \"BlockDevice\", \"CharDevice\", \
                 \"Directory\", \"DirectoryOrCreate\", \"File\", \"FileOrCreate\", \"Socket\"",
            ],
        ),
        (
            "/volumes/-",
            volume(json!({"secret": {"defaultMode": 512, "items": [{"key": "", "path": "/a"}]}})),
            &[
                "volumes[1].secret.secretName: Required value",
                &format!("volumes[1].secret.defaultMode: Invalid value: 512: {mode}"),
                "volumes[1].secret.items[0].key: Required value",
                "volumes[1].secret.items[0].path: Invalid value: \"/a\": must be a relative path",
            ],
        ),
        (
            "/volumes/-",
            volume(json!({"configMap": {"name": "a", "items": [{"key": "a", "path": "..a", "mode": -1}]}})),
            &[
                "volumes[1].configMap.items[0].path: Invalid value: \"..a\": must not start with '..'",
                &format!("volumes[1].configMap.items[0].mode: Invalid value: -1: {mode}"),
            ],
        ),
        (
            "/volumes/-",
            volume(json!({"downwardAPI": {"items": [
                {"path": "a", "fieldRef": {"fieldPath": "metadata.labels"}}, {"path": "b", "resourceFieldRef": {"resource": "limits.cpu"}},
                {"path": ""},
            ]}})),
            &[
                "volumes[1].downwardAPI.resourceFieldRef.containerName: Required value",
                "volumes[1].downwardAPI.path: Required value",
                "volumes[1].downwardAPI: Required value: one of fieldRef and resourceFieldRef is required",
            ],
        ),
        (
            "/volumes/-",
            volume(json!({"projected": {"sources": [
                {"configMap": {"name": "a", "items": [{"key": "k", "path": "p"}]}, "secret": {"name": "s"}},
                {"downwardAPI": {"items": [{"path": "p", "fieldRef": {"fieldPath": "metadata.name"}}]}},
                {"serviceAccountToken": {"path": "t", "expirationSeconds": 60}},
            ]}})),
            &[
                "volumes[1].projected.sources[0]: Forbidden: may not specify more than 1 volume type per source",
                "volumes[1].projected: Invalid value: \"p\": conflicting duplicate paths",
                "volumes[1].projected.sources[2].serviceAccountToken.expirationSeconds: Invalid value: 60: may not specify a \
                 duration less than 10 minutes",
            ],
        ),
        (
            "/containers/0/volumeMounts",
            json!([{"name": "logs", "mountPath": "/a"}, {"name": "none", "mountPath": "/a"}]),
            &[
                "containers[0].volumeMounts[1].name: Not found: \"none\"",
                "containers[0].volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique",
            ],
        ),
        (
            "/containers/0/volumeMounts",
            json!([{"name": "logs", "mountPath": "", "subPath": "/a", "subPathExpr": "b"}]),
            &[
                "containers[0].volumeMounts[0].mountPath: Required value",
                "containers[0].volumeMounts.subPath: Invalid value: \"/a\": must be a relative path",
                "containers[0].volumeMounts[0].subPathExpr: Invalid value: \"b\": subPathExpr and subPath are mutually exclusive",
            ],
        ),
        (
            "/containers/0/volumeMounts",
            json!([{"name": "logs", "mountPath": "/a", "mountPropagation": "Bidirectional", "recursiveReadOnly": "Enabled"}]),
            &[
                "containers[0].volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available only to \
                 privileged containers",
                "containers[0].volumeMounts.recursiveReadOnly: Forbidden: may only be specified when readOnly is true",
                "containers[0].volumeMounts.recursiveReadOnly: Forbidden: may only be specified when mountPropagation is None or \
                 not specified",
            ],
        ),
        (
            "/containers/0/volumeDevices",
            json!([{"name": "logs", "devicePath": "/dev/a"}]),
            &[
                "containers[0].volumeMounts[0].name: Invalid value: \"logs\": must not already exist in volumeDevices",
                "containers[0].volumeDevices[0].name: Invalid value: \"logs\": can only use volume source type of \
                 PersistentVolumeClaim or Ephemeral for block mode",
                "containers[0].volumeDevices[0].name: Invalid value: \"logs\": must not already exist in volumeMounts",
            ],
        ),
    ]);
}

#[test]
fn probes_and_hooks() {
    let path = "containers[0].livenessProbe";
    check(&[
        ("/containers/0/livenessProbe", json!({}), &[&format!("{path}: Required value: must specify a handler type")]),
        (
            "/containers/0/livenessProbe",
            json!({"exec": {"command": ["a"]}, "tcpSocket": {"port": 1}}),
            &[&format!("{path}.tcpSocket: Forbidden: may not specify more than 1 handler type")],
        ),
        (
            "/containers/0/livenessProbe",
            json!({"exec": {}, "periodSeconds": -1, "successThreshold": 2, "terminationGracePeriodSeconds": 0}),
            &[
                &format!("{path}.exec.command: Required value"),
                &format!("{path}.periodSeconds: Invalid value: -1: must be greater than or equal to 0"),
                &format!("{path}.terminationGracePeriodSeconds: Invalid value: 0: must be greater than 0"),
                &format!("{path}.successThreshold: Invalid value: 2: must be 1"),
            ],
        ),
        (
            "/containers/0/livenessProbe",
            json!({"httpGet": {"port": 0, "scheme": "FTP"}}),
            &[
                &format!("{path}.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive"),
                &format!("{path}.httpGet.scheme: Unsupported value: \"FTP\": supported values: \"HTTP\", \"HTTPS\""),
            ],
        ),
        (
            "/containers/0/livenessProbe",
            json!({"grpc": {"port": 70000}}),
            &[&format!("{path}.grpc.port: Invalid value: 70000: must be between 1 and 65535, inclusive")],
        ),
        (
            "/containers/0/readinessProbe",
            json!({"tcpSocket": {"port": "http"}, "successThreshold": 3, "terminationGracePeriodSeconds": 5}),
            &["containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value: 5: must not be set for \
               readinessProbes"],
        ),
        (
            "/containers/0/lifecycle",
            json!({"preStop": {"sleep": {"seconds": 31}}, "postStart": {}, "stopSignal": "SIGINT"}),
            &[
                "containers[0].lifecycle.postStart: Required value: must specify a handler type",
                "containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than \
                 terminationGracePeriodSeconds (30)",
                "containers[0].lifecycle.stopSignal: Forbidden: may not be set for containers with empty `spec.os.name`",
            ],
        ),
    ]);
}

#[test]
fn resources() {
    let path = "containers[0].resources";
    let limits = |limits: Value| json!({"limits": limits});
    check(&[
        ("/containers/0/resources", limits(json!({"example.com/gpu": "1", "hugepages-2Mi": "4Mi", "cpu": "1"})), &[]),
        (
            "/containers/0/resources",
            limits(json!({"gpu": "1"})),
            &[
                &format!(
                    "{path}.limits[gpu]: Invalid value: \"gpu\": must be a standard resource type or fully qualified"
                ),
                &format!("{path}.limits[gpu]: Invalid value: \"gpu\": must be a standard resource for containers"),
            ],
        ),
        (
            "/containers/0/resources",
            limits(json!({"cpu": "-1", "example.com/gpu": "1500m"})),
            &[
                &format!("{path}.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0"),
                &format!("{path}.limits[example.com/gpu]: Invalid value: \"1500m\": must be an integer"),
            ],
        ),
        (
            "/containers/0/resources",
            json!({"limits": {"memory": "1Gi", "example.com/gpu": 1}, "requests": {"memory": "2048Mi", "example.com/gpu": 2}}),
            &[
                &format!("{path}.requests: Invalid value: \"2\": must be equal to example.com/gpu limit of 1"),
                &format!("{path}.requests: Invalid value: \"2Gi\": must be less than or equal to memory limit of 1Gi"),
            ],
        ),
        (
            "/containers/0/resources",
            json!({"requests": {"hugepages-2Mi": "3Mi"}}),
            &[
                &format!("{path}.limits: Required value: Limit must be set for non overcommitable resources"),
                &format!(
                    "{path}.requests[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer multiple of hugepages-2Mi"
                ),
                &format!("{path}: Forbidden: HugePages require cpu or memory"),
            ],
        ),
        (
            "/containers/0/resources",
            json!({"claims": [{"name": "c"}]}),
            &[&format!(
                "{path}.claims[0]: Not found: \"c\": must be one of the names in pod.spec.resourceClaims which is empty"
            )],
        ),
        (
            "/resources",
            json!({"requests": {"cpu": "50m"}, "limits": {"cpu": "500m", "ephemeral-storage": "1Gi"}}),
            &[
                "resources.limits[ephemeral-storage]: Unsupported value: \"ephemeral-storage\": supported values: \"cpu\", \
                 \"hugepages-\", \"memory\"",
                "resources.requests[cpu]: Invalid value: \"50m\": must be greater than or equal to aggregate container requests of \
                 100m",
                "resources.containers[0][cpu].limits: Invalid value: \"1\": must be less than or equal to pod limits of 500m",
            ],
        ),
        (
            "/containers/0/resizePolicy",
            json!([{"resourceName": "cpu", "restartPolicy": "NotRequired"}, {"resourceName": "cpu", "restartPolicy": "Always"}]),
            &[
                "containers[0].resizePolicy[1]: Duplicate value: \"cpu\"",
                "containers[0].resizePolicy: Unsupported value: \"Always\": supported values: \"NotRequired\", \
                 \"RestartContainer\"",
            ],
        ),
    ]);
}

#[test]
fn security() {
    let ids = "must be between 0 and 2147483647, inclusive";
    check(&[
        ("/securityContext", json!({"runAsNonRoot": true, "runAsUser": 0}), &[]),
        (
            "/securityContext",
            json!({"fsGroup": -1, "supplementalGroups": [2_147_483_648_i64], "fsGroupChangePolicy": "Never"}),
            &[
                &format!("securityContext.fsGroup: Invalid value: -1: {ids}"),
                &format!("securityContext.supplementalGroups[0]: Invalid value: 2147483648: {ids}"),
                "securityContext.fsGroupChangePolicy: Unsupported value: \"Never\": supported values: \"Always\", \
                 \"OnRootMismatch\"",
            ],
        ),
        (
            "/securityContext",
            json!({"sysctls": [{"name": "net.a/b", "value": ""}, {"name": "net.a/b", "value": ""}, {"name": "A", "value": ""}]}),
            &[
                "securityContext.sysctls[1].name: Duplicate value: \"net.a/b\"",
                "securityContext.sysctls[2].name: Invalid value: \"A\": must have at most 253 characters and match regex \
                 ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
            ],
        ),
        (
            "/containers/0/securityContext",
            json!({"privileged": true, "allowPrivilegeEscalation": false, "procMount": "Unmasked"}),
            &[
                "containers[0].securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`",
                "containers[0].securityContext: Invalid value: {\"allowPrivilegeEscalation\":false,\"privileged\":true,\
                 \"procMount\":\"Unmasked\"}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            ],
        ),
        (
            "/containers/0/securityContext",
            json!({"seccompProfile": {"type": "Localhost"}, "appArmorProfile": {"type": "Localhost", "localhostProfile": " a"}}),
            &[
                "containers[0].securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is \
                 Localhost",
                "containers[0].securityContext.appArmorProfile.localhostProfile: Invalid value: \" a\": must not be padded with \
                 whitespace",
            ],
        ),
        (
            "/containers/0/securityContext",
            json!({"seccompProfile": {"type": "Mine"}, "appArmorProfile": {"type": "Unconfined", "localhostProfile": "a"}}),
            &[
                "containers[0].securityContext.seccompProfile.type: Unsupported value: \"Mine\": supported values: \"Localhost\", \
                 \"RuntimeDefault\", \"Unconfined\"",
                "containers[0].securityContext.appArmorProfile.localhostProfile: Invalid value: \"a\": can only be set when AppArmor \
                 type is Localhost",
            ],
        ),
    ]);
    let mut template: PodTemplateSpec = serde_json::from_value(json!({"spec": {
        "containers": [{"name": "a", "image": "a"}],
        "hostUsers": false, "hostPID": true, "hostIPC": true, "hostNetwork": true, "shareProcessNamespace": true,
        "securityContext": {"sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}, {"name": "net/core", "value": "1"}]},
    }}))
    .expect("a template");
    default_template(&mut template);
    let mut errors = Vec::new();
    validate(&template, &Path::default(), &mut errors);
    assert_eq!(
        errors.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "spec.securityContext.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be \
             enabled",
            "spec.securityContext.sysctls[0].name: Invalid value: \"kernel.shm_rmid_forced\": may not be specified when 'hostIPC' \
             is true",
            "spec.securityContext.sysctls[1].name: Invalid value: \"net/core\": may not be specified when 'hostNetwork' is true",
            "spec.hostNetwork: Forbidden: when `pod.Spec.HostUsers` is false",
            "spec.HostPID: Forbidden: when `pod.Spec.HostUsers` is false",
            "spec.HostIPC: Forbidden: when `pod.Spec.HostUsers` is false",
        ]
    );
}

#[test]
fn tolerations_and_affinity() {
    let required = |requirement: Value| json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [requirement]}}});
    let expression = |operator: &str, values: Value| {
        required(json!({"matchExpressions": [{"key": "a", "operator": operator, "values": values}]}))
    };
    let term = "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    check(&[
        ("/tolerations", json!([{"key": "a", "value": "b", "effect": "NoSchedule"}]), &[]),
        (
            "/tolerations",
            json!([{"value": "b"}]),
            &["tolerations[0].operator: Invalid value: \"\": operator must be Exists when `key` is empty, which means \
               \\\"match all values and all keys\\\""
                .replace("\\\"", "\"")
                .as_str()],
        ),
        (
            "/tolerations",
            json!([{"key": "a", "operator": "Exists", "value": "b", "effect": "NoSchedule", "tolerationSeconds": 5}]),
            &[
                "tolerations[0].effect: Invalid value: \"NoSchedule\": effect must be 'NoExecute' when `tolerationSeconds` is set",
                "tolerations[0].operator: Invalid value: \"b\": value must be empty when `operator` is 'Exists'",
            ],
        ),
        (
            "/tolerations",
            json!([{"key": "a", "operator": "Lt", "value": "1", "effect": "Never"}]),
            &[
                "tolerations[0].operator: Unsupported value: \"Lt\": supported values: \"Equal\", \"Exists\"",
                "tolerations[0].effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \
                 \"NoExecute\"",
            ],
        ),
        ("/affinity", expression("In", json!(["b"])), &[]),
        (
            "/affinity",
            expression("In", json!([])),
            &[&format!(
                "{term}[0].matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'"
            )],
        ),
        (
            "/affinity",
            expression("Gt", json!(["1", "2"])),
            &[&format!(
                "{term}[0].matchExpressions[0].values: Required value: must be specified single value when `operator` is 'Lt' or \
                 'Gt'"
            )],
        ),
        (
            "/affinity",
            expression("Like", json!([])),
            &[&format!("{term}[0].matchExpressions[0].operator: Invalid value: \"Like\": not a valid selector operator")],
        ),
        (
            "/affinity",
            required(json!({"matchFields": [{"key": "metadata.uid", "operator": "In", "values": []}]})),
            &[
                &format!(
                    "{term}[0].matchFields[0].values: Required value: must be only one value when `operator` is 'In' or 'NotIn' \
                     for node field selector"
                ),
                &format!(
                    "{term}[0].matchFields[0].key: Invalid value: \"metadata.uid\": not a valid field selector key"
                ),
            ],
        ),
        (
            "/affinity",
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}),
            &[&format!("{term}: Required value: must have at least one node selector term")],
        ),
        (
            "/affinity",
            json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 0, "podAffinityTerm": {"topologyKey": "a"}},
            ]}}),
            &["affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 0: must be in \
               the range 1-100"],
        ),
        (
            "/topologySpreadConstraints",
            json!([{"maxSkew": 0, "topologyKey": "a", "whenUnsatisfiable": "Wait"}]),
            &[
                "topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
                "topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: \"Wait\": supported values: \
                 \"DoNotSchedule\", \"ScheduleAnyway\"",
            ],
        ),
        ("/schedulingGates", json!([{"name": "a"}, {"name": "a"}]), &["schedulingGates[1]: Duplicate value: \"a\""]),
    ]);
}

#[test]
fn names_and_addresses_of_the_pod() {
    let ip = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
    check(&[
        (
            "/restartPolicy",
            json!("Sometimes"),
            &[
                "restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
            ],
        ),
        (
            "/dnsPolicy",
            json!("None"),
            &["dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"],
        ),
        (
            "/dnsPolicy",
            json!("Mine"),
            &[
                "dnsPolicy: Unsupported value: \"Mine\": supported values: \"ClusterFirstWithHostNet\", \"ClusterFirst\", \
               \"Default\", \"None\"",
            ],
        ),
        (
            "/dnsConfig",
            json!({"nameservers": ["1.1.1.1", "a", "1.1.1.2", "1.1.1.3"], "searches": ["_a.b.", ".", "-"], "options": [{}]}),
            &[
                "dnsConfig.nameservers: Invalid value: [\"1.1.1.1\",\"a\",\"1.1.1.2\",\"1.1.1.3\"]: must not have more than 3 \
                 nameservers",
                &format!("dnsConfig.nameservers[1]: Invalid value: \"a\": {ip}"),
                "dnsConfig.searches[2]: Invalid value: \"-\": a lowercase RFC 1123 subdomain must consist of lower case \
                 alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character (e.g. \
                 'example.com', regex used for validation is \
                 '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')",
                "dnsConfig.options[0]: Required value: must not be empty",
            ],
        ),
        (
            "/hostAliases",
            json!([{"ip": "1.2.3", "hostnames": ["a.b"]}]),
            &[&format!("hostAliases[0].ip: Invalid value: \"1.2.3\": {ip}")],
        ),
        ("/subdomain", json!("a.b"), &["subdomain: Invalid value: \"a.b\": must not contain dots"]),
        (
            "/hostnameOverride",
            json!("a".repeat(65)),
            &[&format!("hostnameOverride: Invalid value: \"{}\": must be no more than 64 bytes", "a".repeat(65))],
        ),
        (
            "/activeDeadlineSeconds",
            json!(0),
            &["activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive"],
        ),
        (
            "/preemptionPolicy",
            json!("Always"),
            &["preemptionPolicy: Unsupported value: \"Always\": supported values: \"PreemptLowerPriority\", \"Never\""],
        ),
        (
            "/os",
            json!({"name": "plan9"}),
            &["os: Unsupported value: \"plan9\": supported values: \"linux\", \"windows\""],
        ),
        (
            "/ephemeralContainers",
            json!([{"name": "e"}]),
            &["ephemeralContainers: Forbidden: ephemeral containers not allowed in pod template"],
        ),
        (
            "/resourceClaims",
            json!([{"name": "a"}]),
            &["resourceClaims[0]: Invalid value: {\"name\":\"a\"}: must specify one of: `resourceClaimName`, \
               `resourceClaimTemplateName`"],
        ),
    ]);
}
