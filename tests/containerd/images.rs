//! Images: of a registry that wants to know who asks, and those that nothing needs any more.

use std::fs;
use std::process::{Child, Command, Stdio};

use crate::harness::{Node, daemonset, shell_daemonset};

/// `user` with the password `secret`, as htpasswd(1) writes it.
const HTPASSWD: &str = "user:$2b$05$fKG3jAzR5tlOplHDlGIkYu8wYko4EQ.W4kEXVLOTHnPHMPDcJ28lm\n";
/// The same in base 64, as docker's configuration has it.
const AUTH: &str = "dXNlcjpzZWNyZXQ=";
const REGISTRY: &str = "127.0.0.1:5001";

/// A registry beside the node's own, with its images behind a password.
struct Registry(Child);

impl Registry {
    fn start(node: &Node) -> Self {
        let users = node.write("users", HTPASSWD);
        let target = std::env::var("CARGO_TARGET_DIR");
        let images = target.unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/target").to_owned()) + "/images";
        let config = node.write(
            "private.yml",
            &format!(
                "version: 0.1
log: {{level: warn, accesslog: {{disabled: true}}}}
storage:
  filesystem: {{rootdirectory: {images}/registry}}
  maintenance: {{uploadpurging: {{enabled: false}}, readonly: {{enabled: true}}}}
http: {{addr: '{REGISTRY}', secret: unused}}
auth: {{htpasswd: {{realm: private, path: {users}}}}}
"
            ),
        );
        // All other registries' names lead to the node's own registry.
        let hosts = format!("server = \"http://{REGISTRY}\"\n");
        node.write(&format!("registries/{REGISTRY}/hosts.toml"), &hosts);
        let log = fs::File::create(node.path("private.log")).expect("the node's folder is writable");
        let mut command = node.inside(&format!("{images}/bin/docker-registry"));
        command.args(["serve", &config]).stdin(Stdio::null()).stderr(log);
        let registry = Self(command.spawn().expect("tests/env/images.sh brings a registry"));
        node.eventually("the registry answers", |node| node.fetch(&format!("http://{REGISTRY}/v2/")));
        registry
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // What started it; the registry itself ends with the node.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A DaemonSet of an image of the private registry, with these pull secrets.
fn manifest(name: &str, secrets: &str) -> String {
    let spec = format!(
        "      terminationGracePeriodSeconds: 0
      imagePullSecrets: {secrets}
      containers:
        - name: main
          image: {REGISTRY}/library/busybox:1.35
          imagePullPolicy: Always
          command: [sleep, '1000']
"
    );
    daemonset(name, &spec)
}

#[test]
fn pull_secrets_open_a_private_registry_and_without_them_it_stays_closed() {
    let mut node = Node::up("private");
    let _registry = Registry::start(&node);
    node.garrison_up();
    let auths = |auth: &str| format!("{{\"auths\": {{\"http://{REGISTRY}/v1/\": {{\"auth\": \"{auth}\"}}}}}}");
    let secret = |name: &str, auth: &str| {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\ntype: kubernetes.io/dockerconfigjson\n\
             stringData: {{.dockerconfigjson: '{}'}}\n---\n",
            auths(auth)
        )
    };
    let all = [
        secret("right", AUTH),
        secret("wrong", "dXNlcjp3cm9uZw=="),
        manifest("open", "[{name: wrong}, {name: right}]"),
        manifest("closed", "[{name: wrong}, {name: gone}]"),
    ];
    node.apply(&all.concat());
    node.kubectl(&["rollout", "status", "daemonset/open", "--timeout=90s"]);
    let image = format!("{REGISTRY}/library/busybox:1.35");
    let pulled = node.sees(
        &["describe", "pods", "-l", "app=open"],
        &[&format!("Successfully pulled image \"{image}\" in "), " including waiting). Image size: "],
    );
    assert!(!pulled.contains("FailedToRetrieveImagePullSecret"), "{pulled}");
    node.sees(&["get", "pods", "-l", "app=closed"], &["0/1", "ImagePullBackOff"]);
    node.sees(
        &["describe", "pods", "-l", "app=closed"],
        &[
            "FailedToRetrieveImagePullSecret",
            "Unable to retrieve some image pull secrets (gone); attempting to pull the image may not succeed.",
            "401 Unauthorized",
        ],
    );

    // What the node has itself is shown for every pod.
    node.write_inside("/var/lib/kubelet/config.json", &auths(AUTH));
    node.kubectl(&["rollout", "status", "daemonset/closed", "--timeout=90s"]);
    let log = fs::read_to_string(node.path("garrison.log")).expect("garrison's log");
    for hidden in [AUTH, "secret\""] {
        assert!(!log.contains(hidden), "{hidden} is in:\n{log}");
    }
}

/// The names of the images that containerd has.
fn image_names(node: &Node) -> String {
    let socket = node.path("containerd.sock");
    let output = Command::new("ctr").arg("-a").arg(socket).args(["-n", "k8s.io", "images", "list", "-q"]).output();
    String::from_utf8(output.expect("ctr is installed").stdout).expect("names are UTF-8")
}

#[test]
fn a_full_disk_costs_images_that_nothing_needs_and_none_that_a_revision_would_need_without_a_registry() {
    let mut node = Node::up("imagegc");
    node.garrison_up();
    let runs = |node: &Node, name| node.sees(&["get", "pods", "-l", &format!("app={name}")], &["1/1", "Running"]);
    node.kubectl(&["label", "node", "--all", "here=yes"]);
    node.apply(&shell_daemonset("needed", "true", "", "      nodeSelector: {here: 'yes'}\n"));
    let spec = "      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: prom/node-exporter}]
";
    node.apply(&daemonset("idle", spec));
    runs(&node, "needed");
    runs(&node, "idle");
    node.kubectl(&["delete", "daemonset", "idle"]);
    node.kubectl(&["label", "node", "--all", "here-"]);
    node.eventually("no container is left", |node| match node.tasks() {
        tasks if tasks.is_empty() => Ok(()),
        tasks => Err(format!("{tasks:?}")),
    });

    // Every disk is fuller than that. The registry is gone with all else.
    node.cut_power();
    node.start_containerd();
    node.garrison_up_with(&["--image-gc-high-threshold", "1", "--image-gc-low-threshold", "0"]);
    let left = node.eventually("the idle image is removed", |node| match image_names(node) {
        names if names.contains("node-exporter") => Err(names),
        names => Ok(names),
    });
    assert!(left.contains("library/busybox:1.35") && left.contains("pause"), "{left}");
    node.sees(&["describe", "node"], &["FreeDiskSpaceFailed"]);
    node.kubectl(&["label", "node", "--all", "here=yes"]);
    runs(&node, "needed");
}
