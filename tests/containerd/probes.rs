//! Probes and hooks of every kind, asked of real containers.

use std::fs;

use crate::harness::Node;

/// What a gRPC server says whose health is fine, whatever it is asked: settings and their acknowledgement, headers, the
/// message `SERVING`, trailers with status 0.
const GRPC_SERVING: &str = r"\000\000\000\004\000\000\000\000\000\000\000\000\004\001\000\000\000\000\000\000\023\001\004\000\000\000\001\210\137\020application/grpc\000\000\007\000\000\000\000\000\001\000\000\000\000\002\010\001\000\000\017\001\005\000\000\000\001\000\013grpc-status\0010";

/// One container for each kind of handler. What they serve lies in a folder of the test's.
fn manifest(folder: &str) -> String {
    let container = |name: &str, command: &str, rest: &str| {
        format!(
            "        - name: {name}
          image: busybox:1.35
          command: [sh, -c, {command:?}]
          volumeMounts: [{{name: www, mountPath: /www}}]
{rest}"
        )
    };
    let often = "periodSeconds: 1, failureThreshold: 2";
    let web = format!(
        "          ports: [{{name: http, containerPort: 8080}}]
          startupProbe: {{exec: {{command: [test, -e, $(PLACE)/started]}}, periodSeconds: 1, failureThreshold: 60}}
          readinessProbe: {{httpGet: {{path: /ready, port: http}}, {often}}}
          livenessProbe: {{httpGet: {{path: /alive, port: http}}, {often}}}
          env: [{{name: PLACE, value: /www}}]
          lifecycle:
            postStart: {{exec: {{command: [touch, /www/post-start]}}}}
            preStop: {{httpGet: {{path: /alive, port: http}}}}
"
    );
    let tcp = format!("          readinessProbe: {{tcpSocket: {{port: 8081}}, {often}}}\n");
    let grpc = format!("          readinessProbe: {{grpc: {{port: 8082}}, timeoutSeconds: 5, {often}}}\n");
    let command = format!(
        "          readinessProbe: {{exec: {{command: [test, -e, /www/well]}}, {often}}}
          lifecycle: {{preStop: {{exec: {{command: [touch, /www/pre-stop]}}}}}}
"
    );
    let containers = [
        container("web", "exec httpd -f -p 8080 -h /www", &web),
        container("tcp", "exec nc -ll -p 8081 -e true", &tcp),
        container("grpc", "exec nc -ll -p 8082 -e sh /www/grpc.sh", &grpc),
        container("exec", "exec sleep 1000", &command),
    ];
    format!(
        "apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: probed}}
spec:
  selector: {{matchLabels: {{app: probed}}}}
  template:
    metadata: {{labels: {{app: probed}}}}
    spec:
      terminationGracePeriodSeconds: 3
      volumes: [{{name: www, hostPath: {{path: {folder}, type: Directory}}}}]
      containers:
{}",
        containers.concat()
    )
}

#[test]
fn a_pod_is_as_ready_and_as_alive_as_its_probes_find_it() {
    let mut node = Node::up("probes");
    node.write("www/grpc.sh", &format!("sleep 0.2\nprintf '{GRPC_SERVING}'\nsleep 1\n"));
    let www = |name: &str| node.path("www").join(name);
    let (ready, well, alive) = (www("ready"), www("well"), www("alive"));
    let (started, hooked, stopped) = (www("started"), www("post-start"), www("pre-stop"));
    fs::write(&alive, "").expect("the folder is the test's own");
    node.garrison_up();
    node.apply(&manifest(node.path("www").to_str().expect("test paths are UTF-8")));

    // TCP and gRPC answer; the others wait for what the test has not written yet.
    let pods = ["get", "pods", "-l", "app=probed", "--no-headers"];
    node.sees(&pods, &["2/4", "Running", " 0 "]);
    assert!(hooked.exists(), "the hook ran before the container counted as started");
    let state = "jsonpath={.items[0].status.containerStatuses[?(@.name==\"web\")].started}";
    assert_eq!(node.kubectl(&["get", "pods", "-o", state]), "false");
    fs::write(&started, "").expect("the folder is the test's own");
    let events = ["get", "events", "--field-selector=reason=Unhealthy"];
    node.sees(&events, &["Readiness probe failed: HTTP probe failed with statuscode: 404", "Startup probe failed:"]);
    for (file, shown) in [(&ready, "3/4"), (&well, "4/4")] {
        fs::write(file, "").expect("the folder is the test's own");
        node.sees(&pods, &[shown, " 0 "]);
    }
    node.kubectl(&["rollout", "status", "daemonset/probed", "--timeout=90s"]);
    fs::remove_file(&well).expect("it was written");
    node.sees(&pods, &["3/4", " 0 "]);
    fs::write(&well, "").expect("the folder is the test's own");
    node.sees(&pods, &["4/4", " 0 "]);

    // Not alive any more: the container is started again, the others are not.
    fs::remove_file(&alive).expect("it was written");
    node.sees(&pods, &["1 ("]);
    fs::write(&alive, "").expect("the folder is the test's own");
    node.sees(&["get", "events"], &["Container web failed liveness probe, will be restarted"]);
    node.sees(&pods, &["4/4", "1 ("]);

    // An agent that begins again takes what runs for what it was.
    let tasks = node.tasks();
    node.kill_garrison();
    node.garrison_up();
    node.sees(&pods, &["4/4", "1 ("]);
    assert_eq!(node.tasks(), tasks);

    node.kubectl(&["delete", "daemonset", "probed"]);
    node.sees(&pods, &["No resources found"]);
    assert!(stopped.exists(), "the hook ran before the stop");
}
