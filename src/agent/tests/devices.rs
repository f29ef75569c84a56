//! Device plugins and what containers get of them, over real sockets and so in real time.

use prost::Message;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use super::*;
use crate::agent::devices::{self, Devices};
use crate::devices::pb::RegisterRequest;
use crate::devices::pb::pod_resources as pb;
use crate::devices::pb::pod_resources::pod_resources_lister_client::PodResourcesListerClient;
use crate::host::devices::{PLUGINS, POD_RESOURCES, SOCKET};
use crate::plan::memory::Outcome;
use crate::podspec::{Container, DeviceNode, Granted};
use crate::testing::fake_plugin::{FakePlugin, Skills};

const THING: &str = "example.com/thing";

/// A host on which device plugins can register.
fn host() -> Host {
    Host { takes_plugins: true, ..Host::new() }
}

/// A DaemonSet whose container asks for so many things.
fn asking(name: &str, amount: u32) -> Bundle {
    let resources = json!({ "limits": { THING: amount.to_string() } });
    let container = json!({ "name": "main", "image": reference("one"), "resources": resources });
    set_with(
        name,
        "one",
        &json!({ "containers": [laid_over(container, &json!({ "imagePullPolicy": "IfNotPresent" }))] }),
    )
}

/// A plugin on the host with these devices, known to the agent.
async fn plugin(host: &Host, skills: Skills, devices: &[(&str, bool)]) -> FakePlugin {
    let folder = host.dir.path().join("root").join(PLUGINS);
    eventually("the agent's socket", async || folder.join(SOCKET).exists().then_some(())).await;
    let plugin = FakePlugin::serve(&folder, "thing.sock", skills, devices);
    plugin.answer(granted("thing"));
    plugin.register(THING).await.unwrap();
    plugin
}

fn granted(name: &str) -> Granted {
    Granted {
        env: [("THING".to_owned(), name.to_owned())].into(),
        nodes: vec![DeviceNode { container_path: "/dev/thing".to_owned(), ..DeviceNode::default() }],
        ..Granted::default()
    }
}

impl Agent {
    /// Waits for a report of the Node with so many things, capacity and allocatable; null for none.
    async fn counts(&mut self, things: [Value; 2]) {
        self.hears(&format!("{things:?} things"), |up| {
            let Up::Node(report) = up else { return None };
            let status: Value = serde_json::from_slice(&report.status).unwrap();
            (["capacity", "allocatable"].map(|list| status[list][THING].clone()) == things).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn pods_wait_until_a_plugin_has_what_they_ask_for() {
    let host = host();
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[asking("gpu", 1)]).await;
    let lacks = |used: u32, capacity: u32, requested: u32| {
        format!("Node didn't have enough resource: {THING}, requested: {requested}, used: {used}, capacity: {capacity}")
    };
    let short = |words: String| {
        move |_: &PodReport, status: &Value| {
            status["reason"] == format!("OutOf{THING}") && status["message"].as_str().unwrap().contains(&words)
        }
    };
    agent.reports("that it waits", "gpu", short(lacks(0, 0, 1))).await;

    let plugin = plugin(&host, Skills::default(), &[("a", true), ("b", false)]).await;
    host.runs("gpu", "one").await;
    agent.counts([json!("2"), json!("1")]).await;
    let made = host.cri.calls().into_iter().find(|call| call.method == "CreateContainer").unwrap().request;
    assert_eq!(made["config"]["envs"][0], json!({ "key": "THING", "value": "thing" }));
    assert_eq!(made["config"]["devices"][0]["container_path"], "/dev/thing");

    agent.apply(2, &[asking("gpu", 1), asking("more", 2)]).await;
    agent.reports("that it waits", "more", short(lacks(1, 1, 2))).await;
    plugin.list(&[("a", true), ("b", true), ("c", true)]);
    host.runs("more", "one").await;
    assert_eq!(plugin.calls()[2..], ["Allocate a", "Allocate b,c"]);

    // What a pod has is another's once it is gone.
    agent.apply(3, &[asking("gpu", 1), asking("more", 2), asking("last", 1)]).await;
    agent.reports("that it waits", "last", short(lacks(3, 3, 1))).await;
    agent.answer(4, "gpu", Answer::Deleted { seq: 4, kept: vec![] }).await;
    host.runs("last", "one").await;
    assert_eq!(plugin.calls().last().unwrap(), "Allocate a");
}

#[tokio::test]
async fn what_a_pod_has_outlives_agent_and_plugin() {
    let host = host();
    let mut agent = host.start();
    agent.connect().await;
    let first = plugin(&host, Skills::default(), &[("a", true), ("b", true)]).await;
    agent.apply(1, &[asking("gpu", 1)]).await;
    let pod = host.runs("gpu", "one").await;
    drop(first);
    agent.counts([json!("2"), json!("0")]).await;
    assert_eq!(host.runs("gpu", "one").await, pod);
    agent.stop().await;

    let mut agent = host.start();
    agent.connect().await;
    agent.counts([Value::Null, Value::Null]).await;
    assert_eq!(host.runs("gpu", "one").await, pod);
    host.cri.end_container(&pod.uid, "main", 1);
    let again = eventually("another container", async || {
        let now = host.runs("gpu", "one").await;
        (now.running() != pod.running()).then_some(now)
    })
    .await;
    assert_eq!(again.uid, pod.uid);
    let made: Vec<_> = host.cri.calls().into_iter().filter(|call| call.method == "CreateContainer").collect();
    assert_eq!(made[0].request["config"]["devices"], made[1].request["config"]["devices"]);

    // The plugin's socket was removed, so it registers anew.
    let second = plugin(&host, Skills::default(), &[("a", true), ("b", true)]).await;
    agent.counts([json!("2"), json!("2")]).await;
    agent.apply(2, &[asking("gpu", 1), asking("more", 1)]).await;
    host.runs("more", "one").await;
    assert_eq!(second.calls()[2..], ["Allocate b"]);
}

#[tokio::test]
async fn a_container_waits_for_what_its_plugin_refuses() {
    let host = host();
    let mut agent = host.start();
    agent.connect().await;
    let plugin = plugin(&host, Skills::default(), &[("a", true)]).await;
    plugin.fail_next("Allocate", "it is hot");
    agent.apply(1, &[asking("gpu", 1)]).await;
    let words = "Allocate failed due to rpc error: code = Unknown desc = it is hot, which is unexpected";
    agent
        .reports("why", "gpu", |_, status| {
            let waiting = &status["containerStatuses"][0]["state"]["waiting"];
            (&waiting["reason"], &waiting["message"]) == (&json!("UnexpectedAdmissionError"), &json!(words))
        })
        .await;
    host.runs("gpu", "one").await;
}

#[tokio::test]
async fn who_asks_is_told_which_container_has_which_devices() {
    let host = host();
    let mut agent = host.start();
    agent.connect().await;
    let _plugin = plugin(&host, Skills::default(), &[("a", true), ("b", true), ("c", false)]).await;
    agent.apply(1, &[asking("gpu", 1), set("plain", "one")]).await;
    let (_, uid) = (host.runs("plain", "one").await, host.runs("gpu", "one").await.uid);
    let socket = host.dir.path().join("root").join(POD_RESOURCES).join(SOCKET);
    let channel = tonic::transport::Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap();
    let mut client = PodResourcesListerClient::new(channel.connect().await.unwrap());
    let devices = |ids: &[&str]| pb::ContainerDevices {
        resource_name: THING.to_owned(),
        device_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        topology: None,
    };

    let listed = client.list(pb::ListPodResourcesRequest {}).await.unwrap().into_inner().pod_resources;
    let has = |name: &str| listed.iter().find(|pod| pod.name.starts_with(name)).unwrap().containers[0].clone();
    let main = |devices| pb::ContainerResources { name: "main".to_owned(), devices };
    assert_eq!((has("gpu"), has("plain")), (main(vec![devices(&["a"])]), main(vec![])));
    let name = host.ledger().pods[&uid].key.name.clone();
    let asked = |pod_name: &str| pb::GetPodResourcesRequest {
        pod_name: pod_name.to_owned(),
        pod_namespace: "default".to_owned(),
    };
    let got = client.get(asked(&name)).await.unwrap().into_inner().pod_resources.unwrap();
    assert_eq!((got.name, got.containers), (name, vec![main(vec![devices(&["a"])])]));
    assert_eq!(client.get(asked("other")).await.unwrap_err().message(), "pod other in namespace default not found");
    let all = client.get_allocatable_resources(pb::AllocatableResourcesRequest {}).await.unwrap().into_inner();
    assert_eq!(all.devices, [devices(&["a", "b"])]);
}

/// The devices of an agent of which nothing else runs, and what they publish.
fn alone(host: &Host) -> (Devices, watch::Receiver<Arc<HostFacts>>) {
    let Shared { devices, host, .. } = host.shared();
    tokio::spawn(devices::run(devices.clone()));
    (devices, host.subscribe())
}

/// A pod with one container that asks for so many things.
fn pod(name: &str, amount: u64) -> Pod {
    let mut pod = pods::pod(name, Path::new("/"));
    pod.containers =
        vec![Container { devices: [(THING.to_owned(), amount)].into(), ..pods::container("main", "web", &[]) }];
    pod
}

/// How many things are allocatable; none if the resource is unknown.
async fn counted(host: &mut watch::Receiver<Arc<HostFacts>>, things: Option<u64>) {
    let wanted = |host: &Arc<HostFacts>| host.allocatable.get(THING).copied() == things;
    crate::testing::wait::until(host, &format!("{things:?} things"), wanted).await;
}

#[tokio::test]
async fn a_plugin_says_what_it_prefers_and_hears_of_each_start() {
    let host = host();
    let ((devices, mut facts), one) = (alone(&host), pod("one", 2));
    let skills = Skills { pre_start: true, prefers: true };
    let plugin = plugin(&host, skills, &[("a", true), ("b", true), ("c", true)]).await;
    counted(&mut facts, Some(3)).await;
    let container = &one.containers[0];
    assert_eq!(devices.grant(&one, container).await, Ok(granted("thing")));
    plugin.fail_next("PreStartContainer", "not yet");
    let words = "device plugin PreStartContainer rpc failed with err: rpc error: code = Unknown desc = not yet";
    assert_eq!(devices.grant(&one, container).await, Err(Outcome::Misconfigured(words.to_owned())));
    assert_eq!(
        plugin.calls()[2..],
        ["GetPreferredAllocation a,b,c", "Allocate b,c", "PreStartContainer b,c", "PreStartContainer b,c"]
    );
    let refused = |why: &str| Err(Outcome::Refused(format!("Allocate failed due to {why}, which is unexpected")));
    let words = format!("requested number of devices unavailable for {THING}. Requested: 2, Available: 1");
    let other = pod("other", 2);
    assert_eq!(devices.grant(&other, &other.containers[0]).await, refused(&words));
    plugin.fail_next("Allocate", "no");
    devices.free(&one).await;
    assert_eq!(devices.grant(&other, &other.containers[0]).await, refused("rpc error: code = Unknown desc = no"));
    assert_eq!(devices.grant(&one, container).await, Ok(granted("thing")), "what was refused is free");
}

#[tokio::test]
async fn a_plugin_that_is_gone_is_forgotten_after_five_minutes_unless_it_comes_back() {
    let host = host();
    let (_devices, mut facts) = alone(&host);
    let first = plugin(&host, Skills::default(), &[("a", true)]).await;
    counted(&mut facts, Some(1)).await;
    drop(first);
    counted(&mut facts, Some(0)).await;
    let second = plugin(&host, Skills::default(), &[("a", true), ("b", true)]).await;
    counted(&mut facts, Some(2)).await;
    drop(second);
    counted(&mut facts, Some(0)).await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(280)).await;
    assert_eq!(facts.borrow_and_update().devices, [(THING.to_owned(), 2)].into());
    tokio::time::advance(Duration::from_secs(21)).await;
    counted(&mut facts, None).await;
    assert_eq!(facts.borrow().devices, [].into());
}

#[tokio::test]
async fn a_plugin_that_hangs_holds_up_nobody_for_long() {
    let host = host();
    let ((devices, mut facts), one) = (alone(&host), pod("one", 1));
    let plugin = plugin(&host, Skills::default(), &[("a", true)]).await;
    counted(&mut facts, Some(1)).await;
    plugin.hold("Allocate");
    let granting = tokio::spawn({
        let (devices, one) = (devices.clone(), one.clone());
        async move { devices.grant(&one, &one.containers[0]).await }
    });
    eventually("the plugin to be asked", async || plugin.calls().contains(&"Allocate a".to_owned()).then_some(()))
        .await;
    tokio::time::pause();
    let words = "Allocate failed due to rpc error: code = DeadlineExceeded desc = context deadline exceeded, which is unexpected";
    assert_eq!(granting.await.unwrap(), Err(Outcome::Refused(words.to_owned())));
    tokio::time::resume();
    plugin.release();
    assert_eq!(devices.grant(&one, &one.containers[0]).await, Ok(granted("thing")));
}

/// A frame of HTTP/2 in the first stream that a client opens.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

#[tokio::test]
async fn a_plugin_whose_client_names_the_socket_as_authority_is_taken() {
    let host = host();
    let (_devices, mut facts) = alone(&host);
    let folder = host.dir.path().join("root").join(PLUGINS);
    eventually("the agent's socket", async || folder.join(SOCKET).exists().then_some(())).await;
    let _plugin = FakePlugin::serve(&folder, "thing.sock", Skills::default(), &[("a", true)]);
    let field = |name: u8, value: &str| [&[0x40 | name, u8::try_from(value.len()).unwrap()], value.as_bytes()].concat();
    let headers = [
        vec![0x83, 0x86],
        field(4, "/v1beta1.Registration/Register"),
        // As Go's client sends it that is told to dial a path.
        field(1, "/var/lib/kubelet/device-plugins/kubelet.sock"),
        field(31, "application/grpc"),
    ];
    let request = RegisterRequest {
        version: "v1beta1".to_owned(),
        endpoint: "thing.sock".to_owned(),
        resource_name: THING.to_owned(),
        options: None,
    };
    let request = request.encode_to_vec();
    let message = [&[0, 0, 0, 0, u8::try_from(request.len()).unwrap()], &request[..]].concat();
    let mut stream = UnixStream::connect(folder.join(SOCKET)).await.unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let frames = [preface, frame(4, 0, 0, &[]), frame(1, 0x4, 1, &headers.concat()), frame(0, 0x1, 1, &message)];
    stream.write_all(&frames.concat()).await.unwrap();
    counted(&mut facts, Some(1)).await;
}

#[tokio::test]
async fn registrations_that_make_no_sense_are_refused_in_words() {
    let host = host();
    let (_devices, mut facts) = alone(&host);
    let plugin = plugin(&host, Skills::default(), &[("a", true)]).await;
    counted(&mut facts, Some(1)).await;
    for (version, resource, endpoint, words) in [
        ("v1alpha", THING, "thing.sock", "requested API version \"v1alpha\" is not supported"),
        ("v1beta1", "thing", "thing.sock", "the ResourceName \"thing\" is invalid"),
        ("v1beta1", THING, "../thing.sock", "the endpoint \"../thing.sock\" is invalid"),
        ("v1beta1", THING, "kubelet.sock", "rpc error: code = Unimplemented"),
    ] {
        let refused = plugin.register_as(version, resource, endpoint).await.unwrap_err();
        assert!(refused.starts_with(words), "{refused}");
    }
    tokio::time::pause();
    let refused = plugin.register_as("v1beta1", "example.com/other", "nobody.sock").await.unwrap_err();
    assert!(
        refused.starts_with("cannot connect to the device plugin at ") && refused.contains("nobody.sock"),
        "{refused}"
    );
    assert_eq!(facts.borrow().devices, [(THING.to_owned(), 1)].into(), "what was registered before stays");
}
