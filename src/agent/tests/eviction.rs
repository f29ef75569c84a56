//! Pods that take more than they may, and nodes that run short.

use std::path::Path;

use super::*;
use crate::agent::eviction::{self, Eviction, Evictor};
use crate::agent::reclaim::{Extent, Reclaimer};
use crate::cri::Image;
use crate::plan::pressure::{Reading, Readings, Signal};
use crate::podspec::{Budget, ContainerBudget, Limit, Volume, VolumeSource};
use crate::testing::pods;

const MIB: u64 = 1 << 20;

/// A pod with one container, limited in what it may write, and a volume.
fn pod(host: &Host, name: &str) -> Pod {
    let mut pod = pods::pod(name, host.dir.path());
    pod.containers.push(pods::container("main", "image", &[]));
    let path = pod.dir.join("volumes/cache");
    std::fs::create_dir_all(&path).unwrap();
    pod.volumes.push(Volume { name: "cache".to_owned(), source: VolumeSource::EmptyDir { path } });
    let limit = |bytes| Limit { bytes, shown: "1Mi".to_owned() };
    pod.budget = Budget {
        volumes: vec![("cache".to_owned(), limit(MIB))],
        storage_limit: None,
        containers: vec![ContainerBudget { name: "main".to_owned(), ..ContainerBudget::default() }],
    };
    pod
}

fn write(path: &Path, bytes: u64) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, vec![1; usize::try_from(bytes).unwrap()]).unwrap();
}

fn excess(pod: &Pod, message: &str) -> Vec<Eviction> {
    vec![Eviction { pod: pod.key.uid.clone(), message: message.to_owned(), shortage: None }]
}

#[tokio::test(start_paused = true)]
async fn a_pod_goes_whose_files_or_containers_outgrow_its_limits() {
    let host = Host::new();
    let mut web = pod(&host, "web");
    let id = host.instance(&web, 0).await;
    // Each look is an agent's first: what was measured a moment ago is not measured again.
    let find = async |pod: &Pod| Evictor::new(Arc::new(host.shared())).find_excess(&[Arc::new(pod.clone())]).await;
    let stats = || host.cri.calls().iter().filter(|call| call.method == "ListContainerStats").count();

    let cache = web.dir.join("volumes/cache/file");
    write(&cache, MIB / 2);
    assert_eq!(find(&web).await, []);
    write(&cache, 2 * MIB);
    assert_eq!(find(&web).await, excess(&web, "Usage of EmptyDir volume \"cache\" exceeds the limit \"1Mi\". "));
    assert_eq!(stats(), 0, "the runtime has nothing to do with volumes");

    web.budget.volumes.clear();
    assert_eq!(find(&web).await, []);
    let limit = || Some(Limit { bytes: 3 * MIB, shown: "3Mi".to_owned() });
    web.budget.storage_limit = limit();
    web.budget.containers[0].storage_limit = limit();
    assert_eq!(find(&web).await, []);
    let whole = "Pod ephemeral local storage usage exceeds the total limit of containers 3Mi. ";
    write(&web.log_dir.join("main/0.log"), MIB + 1);
    assert_eq!(find(&web).await, excess(&web, whole));
    std::fs::remove_file(&cache).unwrap();
    host.cri.take(&id, 0, 2 * MIB);
    assert_eq!(find(&web).await, excess(&web, whole));
    web.budget.storage_limit = Some(Limit { bytes: 9 * MIB, shown: "9Mi".to_owned() });
    let container = "Container main exceeded its local ephemeral storage limit \"3Mi\". ";
    assert_eq!(find(&web).await, excess(&web, container));
}

#[tokio::test(start_paused = true)]
async fn a_node_short_of_memory_sends_away_who_takes_most_and_waits_for_its_end() {
    let host = Host::new();
    let mut pods = Vec::new();
    for (name, priority, memory) in [("small", 0, MIB), ("large", 0, 5 * MIB), ("critical", 2_000_000_000, 9 * MIB)] {
        let pod = Pod { priority, ..pod(&host, name) };
        host.cri.take(&host.instance(&pod, 0).await, memory, 0);
        pods.push(Arc::new(pod));
    }
    let mut evictor = Evictor::new(Arc::new(host.shared()));
    let readings = |available| Readings::from([(Signal::Memory, Reading { available, capacity: 1 << 30 })]);
    let pressure = |memory| Conditions { memory, ..Conditions::default() };
    assert_eq!(evictor.take_in(&readings(200 * MIB)), (pressure(false), None));

    let (conditions, short_of) = evictor.take_in(&readings(50 * MIB));
    assert_eq!(conditions, pressure(true));
    let (signal, reading) = short_of.unwrap();
    let message = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container main was \
                   using 5Mi, request is 0, has larger consumption of memory. ";
    let eviction = evictor.relieve(signal, reading, &pods).await.unwrap();
    let large = pods[1].key.uid.clone();
    assert_eq!(eviction, Eviction { pod: large, message: message.to_owned(), shortage: Some("memory") });

    // One at a time: while it is there, and for half a minute at most, no other has to go.
    let names = |pods: &[Arc<Pod>]| pods.iter().map(|pod| pod.key.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&evictor.staying(&pods)), ["small", "critical"]);
    assert_eq!(evictor.take_in(&readings(50 * MIB)), (pressure(true), None));
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert!(evictor.take_in(&readings(50 * MIB)).1.is_some(), "it is not waited for any longer");
    let staying = evictor.staying(&pods);
    let small = evictor.relieve(signal, reading, &staying).await.unwrap();
    assert_eq!(small.pod, pods[0].key.uid);
    assert_eq!(evictor.take_in(&readings(50 * MIB)), (pressure(true), None));
    let left = evictor.staying(&pods[2..]);
    let (_, short_of) = evictor.take_in(&readings(50 * MIB));
    let (signal, reading) = short_of.unwrap();
    assert_eq!(evictor.relieve(signal, reading, &left).await, None, "only a critical pod is left");
    tokio::time::sleep(Duration::from_secs(301)).await;
    assert_eq!(evictor.take_in(&readings(200 * MIB)), (pressure(false), None));
}

#[tokio::test(start_paused = true)]
async fn images_that_nothing_needs_go_when_their_disk_is_full() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[set("web", "one")]).await;
    host.runs("web", "one").await;
    host.instance(&pod(&host, "foreign"), 0).await;
    let pull = async |reference: &str| {
        host.cri.serve_image(reference);
        host.cri.runtime().pull_image(reference, None).await.unwrap();
    };
    let names = async || {
        let images = host.cri.runtime().list_images().await.unwrap();
        images.iter().map(Image::names).collect::<Vec<_>>()
    };
    let before = names().await;
    pull("idle").await;
    let mut shared = host.shared();
    let path = host.dir.path().to_owned();
    let mut reclaimer = Reclaimer::default();
    assert!(!shared.settings.image_limits.is_exceeded(Reading { available: 1, capacity: 2 }));

    // Every disk is fuller than that.
    shared.settings.image_limits = ImageLimits::new(Some(1), Some(0)).unwrap();
    for method in ["Status", "ImageStatus", "ListImages", "ListContainers"] {
        host.cri.fail_next(method, tonic::Code::Unavailable, "busy");
        assert!(!Reclaimer::default().reclaim(&shared, &path, Extent::All, &agent.inputs_tx).await, "{method}");
    }
    assert!(names().await.contains(&"idle".to_owned()), "without knowing what is needed nothing is removed");
    assert!(reclaimer.reclaim(&shared, &path, Extent::ToLimit, &agent.inputs_tx).await);
    assert_eq!(names().await, before, "what containers and revisions need stays");
    let event = agent.hears("the event", |up| {
        let Up::Events(events) = up else { return None };
        events.iter().find(|event| event.reason == "FreeDiskSpaceFailed").cloned()
    });
    let event = event.await;
    assert_eq!(
        (event.kind.as_str(), event.name.as_str(), event.warning),
        ("Node", "node-1", true),
        "{}",
        event.message
    );

    // A while later it looks again; what came since may be about to be used.
    pull("new").await;
    assert!(!reclaimer.reclaim(&shared, &path, Extent::All, &agent.inputs_tx).await, "it rests");
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert!(!reclaimer.reclaim(&shared, &path, Extent::All, &agent.inputs_tx).await, "it is new");
    tokio::time::sleep(Duration::from_secs(121)).await;
    // Where there is room pods do not have to go for, images do not go either.
    shared.settings.image_limits = ImageLimits::new(Some(99), Some(98)).unwrap();
    assert!(!reclaimer.reclaim(&shared, &path, Extent::ToLimit, &agent.inputs_tx).await);
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert!(reclaimer.reclaim(&shared, &path, Extent::All, &agent.inputs_tx).await);
    assert_eq!(names().await, before);
}

#[tokio::test(start_paused = true)]
async fn where_nothing_has_a_bound_nothing_is_looked_at() {
    let host = Host::new();
    let mut shared = host.shared();
    shared.settings.eviction_hard = "".parse().unwrap();
    shared.settings.image_limits = ImageLimits::new(Some(100), None).unwrap();
    let (pods_tx, pods_rx) = watch::channel(Vec::new());
    let (conditions_tx, conditions_rx) = watch::channel(Conditions::default());
    let (inputs_tx, mut inputs_rx) = mpsc::channel(1);
    let mut tasks = JoinSet::new();
    tasks.spawn(eviction::run(Arc::new(shared), pods_rx, conditions_tx, inputs_tx));
    let looked = || host.cri.calls().iter().any(|call| call.method == "ImageFsInfo");
    let free = Pod { budget: Budget::default(), ..pod(&host, "free") };
    pods_tx.send_replace(vec![Arc::new(free.clone())]);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(!looked());

    let web = pod(&host, "web");
    write(&web.dir.join("volumes/cache/file"), 2 * MIB);
    pods_tx.send_replace(vec![Arc::new(free), Arc::new(web.clone())]);
    let Some(Input::Evict(eviction)) = inputs_rx.recv().await else { panic!("nobody has to go") };
    assert_eq!(eviction.pod, web.key.uid);
    assert!(looked());
    assert_eq!(*conditions_rx.borrow(), Conditions::default());
}

#[tokio::test(start_paused = true)]
async fn a_node_under_pressure_says_so_and_sends_pods_away_until_none_may_go() {
    let host = Host::new();
    let mut shared = host.shared();
    // More than any machine has.
    shared.settings.eviction_hard = "memory.available<1Ei,pid.available<1Ei".parse().unwrap();
    let pods: Vec<_> = ["one", "two"].map(|name| Arc::new(pod(&host, name))).into();
    let (pods_tx, pods_rx) = watch::channel(pods.clone());
    let (conditions_tx, conditions_rx) = watch::channel(Conditions::default());
    let (inputs_tx, mut inputs_rx) = mpsc::channel(1);
    let mut tasks = JoinSet::new();
    let before = tokio::time::Instant::now();
    tasks.spawn(eviction::run(Arc::new(shared), pods_rx, conditions_tx, inputs_tx));
    let mut gone = Vec::new();
    for _ in &pods {
        let Some(Input::Evict(eviction)) = inputs_rx.recv().await else { panic!("nobody has to go") };
        assert_eq!(eviction.shortage, Some("memory"));
        gone.push(eviction.pod);
        pods_tx.send_modify(|pods| pods.retain(|pod| !gone.contains(&pod.key.uid)));
    }
    assert!(before.elapsed() < Duration::from_secs(30), "the next one goes once the last has gone");
    gone.sort();
    assert_eq!(gone, ["uid-one".into(), "uid-two".into()]);
    assert_eq!(*conditions_rx.borrow(), Conditions { memory: true, disk: false, pid: true });
}

#[tokio::test(start_paused = true)]
async fn under_disk_pressure_what_runs_stays_and_only_critical_pods_begin() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[set("old", "one")]).await;
    let old = host.runs("old", "one").await;

    agent.conditions_tx.send_replace(Conditions { disk: true, ..Conditions::default() });
    agent.settle().await;
    let mut critical = set("critical", "one");
    critical.priority = 2_000_001_000;
    agent.apply(2, &[set("old", "one"), set("new", "one"), critical]).await;
    host.runs("critical", "one").await;
    let report = agent.reports("a refusal", "new", |_, status| status["reason"] == "Evicted").await;
    let status: Value = serde_json::from_slice(&report.status).unwrap();
    assert_eq!(status["message"], "Pod was rejected: The node had condition: [DiskPressure]. ");
    assert_eq!(host.pods().await["old"], [old]);

    agent.conditions_tx.send_replace(Conditions::default());
    host.runs("new", "one").await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_sent_away_has_failed_and_another_takes_its_place() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[set("web", "one")]).await;
    let first = host.runs("web", "one").await;
    let message = "The node was low on resource: memory. ".to_owned();
    let eviction = Eviction { pod: first.uid.clone(), message: message.clone(), shortage: Some("memory") };
    agent.input(Input::Evict(eviction.clone())).await;
    agent.input(Input::Evict(eviction)).await;

    let report =
        agent.reports("the end", "web", |report, status| report.key.uid == first.uid && status["phase"] == "Failed");
    let report = report.await;
    let status: Value = serde_json::from_slice(&report.status).unwrap();
    assert_eq!((&status["reason"], &status["message"]), (&json!("Evicted"), &json!(message)));
    let conditions = status["conditions"].as_array().unwrap();
    let target = conditions.iter().find(|condition| condition["type"] == "DisruptionTarget").unwrap();
    assert_eq!((&target["status"], &target["reason"]), (&json!("True"), &json!("TerminationByKubelet")));
    let stops = host.cri.calls().into_iter().filter(|call| call.method == "StopContainer");
    assert_eq!(stops.map(|call| call.request["timeout"].clone()).collect::<Vec<_>>(), [json!(2)]);

    let next = eventually("another pod", async || {
        let pod = host.pods().await.remove("web")?.into_iter().find(|pod| pod.uid != first.uid)?;
        pod.running().map(|_| pod)
    });
    assert_ne!(next.await.uid, first.uid);
    let told = |reason: &'static str| {
        move |up: &Up| {
            let Up::Events(events) = up else { return None };
            events.iter().find(|event| event.reason == reason).map(|event| (event.kind.clone(), event.message.clone()))
        }
    };
    assert_eq!(agent.hears("the event", told("Evicted")).await, ("Pod".to_owned(), message));
    let node = agent.hears("the node's event", told("EvictionThresholdMet")).await;
    assert_eq!(node, ("Node".to_owned(), "Attempting to reclaim memory".to_owned()));
}
