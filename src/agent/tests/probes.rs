//! The prober over a runtime in memory: commands are what can be asked there. The other handlers are `host::check`'s tests.

use super::*;
use crate::agent::prober::{PodProbes, Running};
use crate::cri::NewContainer;
use crate::link::EventReport;
use crate::plan::probe::{Finding, Health, Healths};
use crate::podspec::bind::Bound;
use crate::podspec::{Handler, ImageUser, Probe, Probes};
use crate::testing::pods;
use crate::testing::wait::until;

/// A host with a prober and the inputs it sends, no roster.
struct Bench {
    host: Host,
    shared: Arc<Shared>,
    inputs_tx: mpsc::Sender<Input>,
    inputs_rx: mpsc::Receiver<Input>,
    _task: JoinSet<()>,
}

/// A pod whose only container runs, and its probes.
struct Probed {
    pod: Arc<Pod>,
    probes: PodProbes,
    id: ContainerId,
    healths: watch::Receiver<Arc<Healths>>,
}

/// Every 10 s; one success and three failures make a finding.
fn probe(command: &str) -> Option<Probe> {
    Some(Probe {
        handler: Handler::Exec(vec![command.to_owned()]),
        initial_delay: Duration::ZERO,
        period: Duration::from_secs(10),
        timeout: Duration::from_secs(1),
        success_threshold: 1,
        failure_threshold: 3,
        grace_period: None,
    })
}

impl Host {
    /// Starts an instance of the pod's only container; the first one has the sandbox made, too.
    pub(super) async fn instance(&self, pod: &Pod, attempt: u32) -> ContainerId {
        let runtime = self.cri.runtime();
        self.cri.add_image("image");
        if attempt == 0 {
            runtime.run_sandbox(pod, 0, None).await.unwrap();
        }
        let sandbox = &runtime.observe(&pod.key.uid).await.unwrap().sandboxes[0];
        let container = &pod.containers[0];
        let (bound, image_user) = (&Bound::default(), &ImageUser::Uid(0));
        let image_ref = "sha256:image";
        let new =
            NewContainer { pod, container, attempt, sandbox, bound, image_ref, image_user, users: None, target: None };
        let id = runtime.create_container(new).await.unwrap();
        runtime.start_container(&id).await.unwrap();
        id
    }
}

impl Bench {
    fn new() -> Self {
        let host = Host::new();
        let shared = Arc::new(host.shared());
        let (inputs_tx, inputs_rx) = mpsc::channel(INPUTS);
        let mut task = JoinSet::new();
        task.spawn(prober::run(shared.clone()));
        Self { host, shared, inputs_tx, inputs_rx, _task: task }
    }

    /// Runs a pod with these probes, said to have been started then.
    async fn pod(&self, name: &str, probes: Probes, started_at: Timestamp) -> Probed {
        let mut pod = pods::pod(name, self.host.dir.path());
        let mut container = pods::container("main", "image", &[]);
        container.probes = probes;
        pod.containers.push(container);
        let id = self.host.instance(&pod, 0).await;
        let pod = Arc::new(pod);
        let probes = self.shared.prober.watch_pod(pod.clone(), self.inputs_tx.clone());
        let probed = Probed { pod, healths: probes.healths(), probes, id };
        probed.update(started_at, false);
        probed
    }

    /// The commands that were run until now: instance and first word.
    fn asked(&self) -> Vec<(String, String)> {
        let calls = self.host.cri.calls();
        let execs = calls.iter().filter(|call| call.method == "ExecSync");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        execs.map(|call| (text(&call.request["container_id"]), text(&call.request["cmd"][0]))).collect()
    }

    fn events(&mut self) -> Vec<EventReport> {
        let inputs = std::iter::from_fn(|| self.inputs_rx.try_recv().ok());
        inputs.filter_map(|input| if let Input::Event(event) = input { Some(event) } else { None }).collect()
    }

    fn messages(&mut self) -> Vec<String> {
        self.events().into_iter().map(|event| event.message).collect()
    }
}

impl Probed {
    fn update(&self, started_at: Timestamp, ending: bool) {
        let running = vec![Running { container: 0, id: self.id.clone(), started_at }];
        self.probes.update(running, vec![], ending);
    }

    fn health(&self) -> Option<Health> {
        self.healths.borrow().get(&self.id).copied()
    }

    async fn becomes(&mut self, what: &str, wanted: impl Fn(Health) -> bool) {
        let id = self.id.clone();
        until(&mut self.healths, what, |healths| healths.get(&id).copied().is_some_and(&wanted)).await;
    }
}

/// Lets so much time pass.
async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn a_container_is_ready_once_its_probe_says_so_and_no_more_after_three_failures() {
    let mut bench = Bench::new();
    let mut web = bench.pod("web", Probes { readiness: probe("ready"), ..Probes::default() }, Timestamp::now()).await;
    assert_eq!(web.health().map(Health::is_ready), Some(false), "known before the first attempt");
    web.becomes("ready", Health::is_ready).await;
    assert_eq!(bench.asked(), [(web.id.to_string(), "ready".to_owned())]);
    assert_eq!(bench.messages(), Vec::<String>::new());

    bench.host.cri.answer_exec(1, "out of order");
    pass(25).await;
    assert!(web.health().unwrap().is_ready(), "two failures are no finding");
    web.becomes("not ready", |health| !health.is_ready()).await;
    assert_eq!(bench.asked().len(), 4);
    let events = bench.events();
    assert_eq!(events.len(), 3);
    let event = &events[0];
    assert_eq!((event.reason.as_str(), event.field_path.as_str()), ("Unhealthy", "spec.containers{main}"));
    assert_eq!((event.message.as_str(), &event.uid), ("Readiness probe failed: out of order", &web.pod.key.uid));

    // While the pod ends it goes on; when the pod's probes are dropped it does not.
    web.update(Timestamp::now(), true);
    bench.host.cri.answer_exec(0, "");
    web.becomes("ready", Health::is_ready).await;
    drop(web.probes);
    let asked = bench.asked().len();
    pass(60).await;
    assert_eq!(bench.asked().len(), asked);
}

#[tokio::test(start_paused = true)]
async fn nothing_else_is_asked_before_startup_and_a_failed_instance_rests() {
    let bench = Bench::new();
    let probes = Probes { startup: probe("startup"), liveness: probe("liveness"), readiness: probe("readiness") };
    bench.host.cri.answer_exec(1, "");
    let mut web = bench.pod("web", probes, Timestamp::now()).await;
    pass(25).await;
    assert!(bench.asked().iter().all(|(_, command)| command == "startup"));
    web.becomes("a failure of startup", |health| health.startup == Finding::Failure).await;
    let asked = bench.asked().len();
    pass(60).await;
    assert_eq!(bench.asked().len(), asked, "it rests until there is another instance");

    bench.host.cri.answer_exec(0, "");
    web.id = bench.host.instance(&web.pod, 1).await;
    web.update(Timestamp::now(), false);
    assert_eq!(web.healths.borrow().len(), 1, "the instance before is forgotten");
    web.becomes("ready", Health::is_ready).await;
    bench.host.cri.answer_exec(1, "");
    pass(25).await;
    assert_eq!(web.health().unwrap().liveness, Finding::Success);
    web.becomes("a failure of liveness", |health| health.liveness == Finding::Failure).await;
    let of_liveness = || bench.asked().iter().filter(|(_, command)| command == "liveness").count();
    assert_eq!(of_liveness(), 3);
    pass(60).await;
    assert_eq!(of_liveness(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_the_runtime_cannot_run_is_tried_three_times_and_says_nothing_of_the_container() {
    let mut bench = Bench::new();
    let mut web = bench.pod("web", Probes { liveness: probe("liveness"), ..Probes::default() }, Timestamp::now()).await;
    for _ in 0..2 {
        bench.host.cri.fail_next("ExecSync", tonic::Code::Unknown, "no shim");
    }
    pass(11).await;
    assert_eq!((bench.asked().len(), bench.messages()), (3, vec![]));

    for _ in 0..9 {
        bench.host.cri.fail_next("ExecSync", tonic::Code::Unknown, "no shim");
    }
    pass(30).await;
    assert_eq!(bench.asked().len(), 12);
    assert_eq!(bench.messages(), ["Liveness probe errored and resulted in unknown state: no shim"; 3]);
    assert_eq!(web.health().unwrap().liveness, Finding::Success);

    for _ in 0..3 {
        bench.host.cri.fail_next("ExecSync", tonic::Code::DeadlineExceeded, "timeout 1s exceeded");
    }
    web.becomes("a failure of liveness", |health| health.liveness == Finding::Failure).await;
    assert_eq!(bench.asked().len(), 15);
    assert_eq!(bench.messages(), ["Liveness probe failed: command \"liveness\" timed out"; 3]);
}

#[tokio::test(start_paused = true)]
async fn an_instance_of_an_earlier_agent_stays_ready_until_it_is_found_not_to_be() {
    let bench = Bench::new();
    bench.host.cri.answer_exec(1, "");
    let probes = Probes { readiness: probe("readiness"), ..Probes::default() };
    let hour_ago = Timestamp::now() - jiff::SignedDuration::from_hours(1);
    let mut web = bench.pod("web", probes, hour_ago).await;
    assert!(web.health().unwrap().is_ready());
    web.becomes("not ready", |health| !health.is_ready()).await;
    assert_eq!(bench.asked().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn attempts_that_hang_hold_up_others_only_in_great_number() {
    let bench = Bench::new();
    bench.host.cri.hold("ExecSync");
    let mut pods = Vec::new();
    for index in 0..70 {
        let probes = Probes { readiness: probe("ready"), ..Probes::default() };
        pods.push(bench.pod(&format!("web-{index}"), probes, Timestamp::now()).await);
    }
    pass(5).await;
    assert_eq!(bench.asked().len(), 64);
    bench.host.cri.release("ExecSync");
    for pod in &mut pods {
        pod.becomes("ready", Health::is_ready).await;
    }
}
