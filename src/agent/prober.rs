//! The prober: asks the containers of this host how they are, as their pods' probes say.
//!
//! One task makes the attempts of all pods, with one timer: on a host without probes it never wakes. What is asked when, and
//! what the answers come to, is decided by `plan::probe`; what is known stands on a board that the task shares with the
//! pods' workers, so that a worker finds the health of a new instance at once and never waits.
//!
//! ```text
//! worker ── update ──▶ board ◀── due, answers ──▶ task ──▶ host::check, CRI ExecSync
//!    ▲                   │                          │
//!    └───── healths ─────┘                          └──▶ events, to the roster
//! ```
//!
//! It must not decide about containers: a failure is published, and the plan draws the conclusion.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use jiff::Timestamp;
use tokio::sync::{Notify, mpsc, watch};
use uuid::Uuid;

use super::Shared;
use super::clock::Clock;
use super::roster::Input;
use crate::cri::Runtime;
use crate::error::Chain;
use crate::host::check;
use crate::model::{ContainerId, Moment};
use crate::plan::probe::{self, Attempt, EventQuota, Healths, Kind, Probing};
use crate::podspec::{Handler, Pod, Probe, Probes};

/// How many attempts are under way at the same time; others wait for one to end.
const ATTEMPTS_MAX: usize = 64;
/// How often an attempt that could not be made is made in all (`maxProbeRetries`).
const TRIES: usize = 3;

/// An instance that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Running {
    /// Position in `Pod::containers`.
    pub(super) container: usize,
    /// The instance.
    pub(super) id: ContainerId,
    /// When it was started.
    pub(super) started_at: Timestamp,
}

/// A cheap handle; all handles share one board.
#[derive(Debug, Clone)]
pub(super) struct Prober {
    clock: Clock,
    board: Arc<Mutex<Board>>,
    /// Something may be due sooner than it was.
    news: Arc<Notify>,
}

/// The probes of one pod. Dropping it ends them.
#[derive(Debug)]
pub(super) struct PodProbes {
    prober: Prober,
    /// On the board; a pod without probes is not on it.
    id: u64,
    healths_tx: watch::Sender<Arc<Healths>>,
}

#[derive(Debug, Default)]
struct Board {
    pods: HashMap<u64, Watched>,
    next_id: u64,
    /// When attempts may be due: pod, container and kind. What does not hold any more is passed over when its time comes.
    agenda: BTreeSet<(Moment, u64, usize, Kind)>,
}

/// A pod with probes.
#[derive(Debug)]
struct Watched {
    pod: Arc<Pod>,
    inputs_tx: mpsc::Sender<Input>,
    healths_tx: watch::Sender<Arc<Healths>>,
    ips: Vec<IpAddr>,
    /// What runs, by position in `Pod::containers`.
    instances: BTreeMap<usize, Instance>,
    events: EventQuota,
}

#[derive(Debug)]
struct Instance {
    id: ContainerId,
    probing: Probing,
}

/// One attempt to be made.
struct Job {
    watched: u64,
    pod: Arc<Pod>,
    container: usize,
    id: ContainerId,
    kind: Kind,
    ip: Option<IpAddr>,
}

/// Makes the attempts of all pods, until its runtime ends.
pub(super) async fn run(shared: Arc<Shared>) {
    let prober = &shared.prober;
    let mut attempts = FuturesUnordered::new();
    loop {
        for job in prober.take_due(ATTEMPTS_MAX - attempts.len()) {
            attempts.push(make(&shared.runtime, job));
        }
        let wake_at = if attempts.len() < ATTEMPTS_MAX { prober.next_due() } else { None };
        // Every arm is cancel-safe: an attempt lives on in `attempts`, the others only wait.
        tokio::select! {
            Some((job, attempt)) = attempts.next() => prober.take_in(&shared, &job, &attempt),
            () = prober.news.notified() => {}
            () = shared.clock.sleep_until(wake_at) => {}
        }
    }
}

impl Prober {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, board: Arc::default(), news: Arc::default() }
    }

    /// Takes on a pod. `inputs_tx` is for what users are told.
    pub(super) fn watch_pod(&self, pod: Arc<Pod>, inputs_tx: mpsc::Sender<Input>) -> PodProbes {
        let healths_tx = watch::Sender::new(Arc::default());
        let mut board = self.board();
        board.next_id += 1;
        let id = board.next_id;
        if pod.containers.iter().any(|container| container.probes != Probes::default()) {
            let (events, healths_tx) = (EventQuota::new(self.clock.now()), healths_tx.clone());
            let (ips, instances) = (Vec::new(), BTreeMap::new());
            board.pods.insert(id, Watched { pod, inputs_tx, healths_tx, ips, instances, events });
        }
        PodProbes { prober: self.clone(), id, healths_tx }
    }

    fn next_due(&self) -> Option<Moment> {
        self.board().agenda.first().map(|(due, ..)| *due)
    }

    /// The attempts that begin now, at most `room` of them.
    fn take_due(&self, room: usize) -> Vec<Job> {
        let now = self.clock.now();
        let mut board = self.board();
        let Board { pods, agenda, .. } = &mut *board;
        let mut jobs = Vec::new();
        while jobs.len() < room
            && agenda.first().is_some_and(|(due, ..)| *due <= now)
            && let Some((due, watched, container, kind)) = agenda.pop_first()
        {
            let pod = pods.get_mut(&watched);
            jobs.extend(pod.and_then(|pod| pod.begin(watched, (due, container, kind), now)));
        }
        jobs
    }

    /// Publishes what an attempt came to and tells of it, if there is still somebody who asked.
    fn take_in(&self, shared: &Shared, job: &Job, attempt: &Attempt) {
        let now = self.clock.now();
        let mut board = self.board();
        let Board { pods, agenda, .. } = &mut *board;
        let Some(watched) = pods.get_mut(&job.watched) else { return };
        let container = &job.pod.containers[job.container];
        let Some(instance) = watched.instances.get_mut(&job.container).filter(|known| known.id == job.id) else {
            return;
        };
        instance.probing.hear(&container.probes, job.kind, attempt, now);
        agenda.extend(watched.due().map(|(due, container, kind)| (due, job.watched, container, kind)));
        watched.publish();
        let (pod, id, kind) = (&job.pod.key, &job.id, job.kind);
        tracing::debug!(%pod, container = container.name, %id, ?kind, ?attempt, "probed");
        let event = probe::event(container, job.kind, attempt).filter(|_| watched.events.take(now));
        if let Some(event) = event {
            // A roster with no room has more important things to hear.
            drop(watched.inputs_tx.try_send(Input::Event(shared.pod_event(&job.pod, event))));
        }
    }

    /// No code panics while it holds the board, and what is on it is whole at any time.
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PodProbes {
    /// Says what runs now and at which addresses, and whether the pod ends. What was not running before has its initial
    /// health when this returns; what does not run any more has none.
    pub(super) fn update(&self, running: Vec<Running>, ips: Vec<IpAddr>, ending: bool) {
        let (now, wall) = (self.prober.clock.now(), self.prober.clock.wall());
        let mut board = self.prober.board();
        let Board { pods, agenda, .. } = &mut *board;
        let Some(watched) = pods.get_mut(&self.id) else { return };
        watched.ips = ips;
        watched.instances.retain(|container, instance| {
            running.iter().any(|running| running.container == *container && running.id == instance.id)
        });
        for running in running {
            watched.meet(running, now, wall);
        }
        if ending {
            watched.end(now);
        }
        watched.publish();
        let soonest = agenda.first().copied();
        agenda.extend(watched.due().map(|(due, container, kind)| (due, self.id, container, kind)));
        if agenda.first() != soonest.as_ref() {
            self.prober.news.notify_one();
        }
    }

    /// What was found of the instances that run and have probes.
    pub(super) fn healths(&self) -> watch::Receiver<Arc<Healths>> {
        self.healths_tx.subscribe()
    }
}

impl Drop for PodProbes {
    fn drop(&mut self) {
        self.prober.board().pods.remove(&self.id);
    }
}

impl Watched {
    /// Takes on an instance that was not running before.
    fn meet(&mut self, running: Running, now: Moment, wall: Timestamp) {
        let probes = &self.pod.containers[running.container].probes;
        if *probes == Probes::default() || self.instances.contains_key(&running.container) {
            return;
        }
        // An instance that a clock set back puts into the future has just been started.
        let age = wall.duration_since(running.started_at).try_into().unwrap_or(Duration::ZERO);
        let random = Uuid::new_v4().as_fields().0;
        let instance = Instance { id: running.id, probing: Probing::begin(probes, age, now, random) };
        self.instances.insert(running.container, instance);
    }

    /// The pod ends.
    fn end(&mut self, now: Moment) {
        for (container, instance) in &mut self.instances {
            instance.probing.end(&self.pod.containers[*container].probes, now);
        }
    }

    /// An attempt begins, if it is due as it was when it was put on the agenda.
    fn begin(&mut self, watched: u64, (due, container, kind): (Moment, usize, Kind), now: Moment) -> Option<Job> {
        let instance = self.instances.get_mut(&container)?;
        if instance.probing.due(kind) != Some(due) {
            return None;
        }
        instance.probing.ask(&self.pod.containers[container].probes, kind, now);
        let (pod, id, ip) = (self.pod.clone(), instance.id.clone(), self.ips.first().copied());
        Some(Job { watched, pod, container, id, kind, ip })
    }

    fn due(&self) -> impl Iterator<Item = (Moment, usize, Kind)> {
        let kinds = self.instances.iter().flat_map(|one| Kind::ALL.map(|kind| (one, kind)));
        kinds.filter_map(|((container, instance), kind)| Some((instance.probing.due(kind)?, *container, kind)))
    }

    fn publish(&self) {
        let health = |instance: &Instance| (instance.id.clone(), instance.probing.health());
        let healths: Healths = self.instances.values().map(health).collect();
        self.healths_tx.send_if_modified(|known| {
            let changes = **known != healths;
            if changes {
                *known = Arc::new(healths);
            }
            changes
        });
    }
}

/// Makes an attempt, again if it could not be made.
async fn make(runtime: &Runtime, job: Job) -> (Job, Attempt) {
    let probe = job.kind.of(&job.pod.containers[job.container].probes).expect("only a probe that is there is due");
    let mut attempt = ask(runtime, &job, probe).await;
    for _ in 1..TRIES {
        if !matches!(attempt, Attempt::Unknown(_)) {
            break;
        }
        attempt = ask(runtime, &job, probe).await;
    }
    (job, attempt)
}

async fn ask(runtime: &Runtime, job: &Job, probe: &Probe) -> Attempt {
    let own = || job.ip.map(|ip| ip.to_string()).ok_or_else(|| "the pod has no address".to_owned());
    match &probe.handler {
        Handler::Exec(command) => exec(runtime, &job.id, command, probe.timeout).await,
        Handler::Http(get) => check::http(get, job.ip, probe.timeout).await,
        Handler::Tcp { host, port } => match (host.clone().map_or_else(own, Ok), port.clone()) {
            (Ok(host), Ok(port)) => check::tcp(&host, port, probe.timeout).await,
            (Err(error), _) | (_, Err(error)) => Attempt::Unknown(error),
        },
        Handler::Grpc { port, service } => match own() {
            Ok(host) => check::grpc(&host, *port, service, probe.timeout).await,
            Err(error) => Attempt::Unknown(error),
        },
        Handler::Sleep(_) => Attempt::Unknown("missing probe handler".to_owned()),
    }
}

/// Source: kubernetes v1.36 `pkg/probe/exec/exec.go`, `pkg/kubelet/kuberuntime/kuberuntime_container.go` (`RunInContainer`).
async fn exec(runtime: &Runtime, id: &ContainerId, command: &[String], timeout: Duration) -> Attempt {
    match runtime.exec_sync(id, command, timeout).await {
        Ok(output) if output.exit_code == 0 => Attempt::Success,
        Ok(output) => {
            let mut said = output.stdout;
            said.extend(output.stderr);
            said.truncate(check::OUTPUT_BYTES_MAX);
            Attempt::Failure(String::from_utf8_lossy(&said).into_owned())
        }
        Err(error) if error.is_timeout() => Attempt::Failure(format!("command {:?} timed out", command.join(" "))),
        Err(error) => Attempt::Unknown(Chain(&error).to_string()),
    }
}
