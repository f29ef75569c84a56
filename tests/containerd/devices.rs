//! Device plugins: one that the test plays in the node's own folder, with a device that every host has.

use garrison::podspec::{DeviceNode, Granted, GrantedMount};
use garrison::testing::fake_plugin::{FakePlugin, Skills};
use tokio::runtime::Runtime;

use crate::harness::{Node, shell_daemonset};

const LIMITS: &str = "          resources: {limits: {example.com/thing: 1}}\n";

/// A plugin with one device, which has registered.
fn plugin(runtime: &Runtime, node: &Node) -> FakePlugin {
    let folder = node.root().join("var/lib/kubelet/device-plugins");
    runtime.block_on(async {
        let plugin = FakePlugin::serve(&folder, "thing.sock", Skills::default(), &[("zero", true)]);
        plugin.answer(Granted {
            env: [("THING".to_owned(), "zero".to_owned())].into(),
            mounts: vec![GrantedMount {
                container_path: "/lib/thing".to_owned(),
                host_path: "/var/lib/thing".to_owned(),
                read_only: true,
            }],
            nodes: vec![DeviceNode {
                container_path: "/dev/thing".to_owned(),
                host_path: "/dev/zero".to_owned(),
                permissions: "rw".to_owned(),
            }],
            ..Granted::default()
        });
        plugin.register("example.com/thing").await.expect("the agent takes it");
        plugin
    })
}

#[test]
fn pods_get_the_devices_of_a_plugin_and_keep_them() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("threads can be made");
    let mut node = Node::up("devices");
    node.garrison_up();
    node.write_inside("/var/lib/thing/name", "a library");
    let look = "head -c 3 /dev/thing | od -An -tx1; echo thing=$THING; cat /lib/thing/name; \
                touch /lib/thing/x || echo read-only; echo end";
    node.apply(&shell_daemonset("thing", look, LIMITS, ""));
    let describe =
        |name: &str, parts: &[&str]| drop(node.sees(&["describe", "pods", "-l", &format!("app={name}")], parts));
    describe("thing", &["OutOfexample.com/thing", "requested: 1, used: 0, capacity: 0"]);

    let first = plugin(&runtime, &node);
    let said = node.sees(&["logs", "daemonset/thing"], &["end"]);
    for line in [" 00 00 00", "thing=zero", "a library", "read-only"] {
        assert!(said.contains(line), "{line:?} is not in:\n{said}");
    }
    let counts = |node: &Node, list: &str, amount: &str| {
        let path = format!("jsonpath={{.items[0].status.{list}}}");
        node.sees(&["get", "nodes", "-o", &path], &[&format!("\"example.com/thing\":\"{amount}\"")]);
    };
    counts(&node, "capacity", "1");
    counts(&node, "allocatable", "1");
    assert!(node.root().join("var/lib/kubelet/pod-resources/kubelet.sock").exists());
    node.apply(&shell_daemonset("other", "echo end", LIMITS, ""));
    describe("other", &["OutOfexample.com/thing", "requested: 1, used: 1, capacity: 1"]);

    // The agent's death is not the pods', and plugins learn of it by their sockets.
    let tasks = node.tasks();
    node.kill_garrison();
    node.garrison_up();
    let socket = node.root().join("var/lib/kubelet/device-plugins/thing.sock");
    node.eventually("the plugin's socket is removed", |_| if socket.exists() { Err(String::new()) } else { Ok(()) });
    drop(first);
    let second = plugin(&runtime, &node);
    counts(&node, "allocatable", "1");
    drop(second);
    counts(&node, "allocatable", "0");
    counts(&node, "capacity", "1");
    assert_eq!(node.tasks(), tasks);

    let _third = plugin(&runtime, &node);
    node.kubectl(&["delete", "daemonset", "thing"]);
    node.sees(&["logs", "daemonset/other"], &["end"]);
}
