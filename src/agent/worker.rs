//! One pod's task: observe, plan, carry steps out, and again, until the pod is gone.
//!
//! The worker owns everything there is to know about one pod while the agent lives. What is wanted comes in over a `watch`
//! from the roster, hints that the runtime has news over a `Notify` from the observer, what probes find over another `watch`;
//! status and events go out to the roster. It waits for one of them, for a step to end, or for the moment its plan names. It
//! decides nothing: `plan` does.
//!
//! ```text
//! Wait ─▶ Run ─▶ finished: all containers are final, it ran for too long, or it was sent away ─▶ Stop ─▶ gone
//! ```

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodStatus;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;

use super::Shared;
use super::blocking::blocking;
use super::execute::{execute, pod_ips};
use super::prober::{PodProbes, Running};
use super::roster::Input;
use super::strays;
use super::words::{self, Words};
use crate::cri::CriError;
use crate::error::Chain;
use crate::fit::Rejection;
use crate::host::ledger::{Ending, PodRecord};
use crate::host::logs;
use crate::model::{ContainerPhase, Finished, Moment, ObservedPod, Uid};
use crate::plan::availability::ReadySince;
use crate::plan::events::{self, PodEvent};
use crate::plan::memory::{Outcome, PodMemory};
use crate::plan::probe::Healths;
use crate::plan::status::{Situation, status};
use crate::plan::{Plan, Step, Wanted, finish, plan};
use crate::podspec::objects::Objects;
use crate::podspec::{Pod, pull_secrets};

/// How soon the runtime is looked at again after it did not answer, should the observer's hint get lost.
const OBSERVE_RETRY: Duration = Duration::from_secs(10);
/// What container ids in the API begin with.
const RUNTIME_NAME: &str = "containerd";

/// What the roster wants of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Assignment {
    /// It does not fit on the node now; nothing is done for it.
    Wait(Rejection),
    /// Let it live, to the end if it comes to one.
    Run,
    /// It has come to its end, and what still runs of it gets so long.
    Finish(Finished, Duration),
    /// End it.
    Stop(Ending),
}

/// A pod and what is wanted of it.
#[derive(Debug, Clone)]
struct Order {
    /// Containers may have been added since the last one.
    pod: Arc<Pod>,
    min_ready: Duration,
    assignment: Assignment,
}

/// A pod as it is now.
pub(super) struct Charge {
    pub(super) pod: Arc<Pod>,
    /// What it was made from.
    pub(super) record: PodRecord,
    /// How long it has to be ready to count as available.
    pub(super) min_ready: Duration,
}

/// The roster's end of a worker. Dropping it stops the task and leaves the pod as it is.
#[derive(Debug)]
pub(super) struct WorkerHandle {
    pub(super) pod: Arc<Pod>,
    /// What `pod` was made from.
    pub(super) record: PodRecord,
    order: watch::Sender<Order>,
    /// What the worker saw last.
    pub(super) observed: watch::Receiver<ObservedPod>,
    task: JoinHandle<()>,
}

impl WorkerHandle {
    /// Whether it may hold resources of the node.
    pub(super) fn was_admitted(&self) -> bool {
        !matches!(self.order.borrow().assignment, Assignment::Wait(_))
    }

    /// Tells the worker what is wanted now, and of what pod.
    pub(super) fn assign(&mut self, charge: Charge, assignment: Assignment) {
        let Charge { pod, record, min_ready } = charge;
        self.pod = pod.clone();
        self.record = record;
        self.order.send_if_modified(|order| {
            let is_same = order.assignment == assignment && order.min_ready == min_ready;
            let changes = !is_same || !Arc::ptr_eq(&order.pod, &pod);
            *order = Order { pod, min_ready, assignment };
            changes
        });
    }
}

impl Drop for WorkerHandle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a pod looks like from outside.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PodView {
    /// `status` of the Pod.
    pub(super) status: PodStatus,
    /// Ready for at least `minReadySeconds`.
    pub(super) available: bool,
    /// It has come to its end by itself, and stays so.
    pub(super) finished: Option<Finished>,
}

/// What a worker tells the roster.
#[derive(Debug)]
pub(super) enum FromPod {
    /// The pod's state changed.
    Status(Uid, Box<PodView>),
    /// Nothing is left of the pod, neither in the runtime nor on disk.
    Gone(Uid),
}

/// Starts the task of one pod.
pub(super) fn spawn(
    shared: Arc<Shared>,
    charge: Charge,
    assignment: Assignment,
    inputs_tx: mpsc::Sender<Input>,
) -> WorkerHandle {
    let Charge { pod, record, min_ready } = charge;
    let (created_at, finished) = (record.created_at, record.finished.clone());
    let (order_tx, order_rx) = watch::channel(Order { pod: pod.clone(), min_ready, assignment });
    let (observed_tx, observed_rx) = watch::channel(ObservedPod::default());
    let objects = shared.objects.subscribe();
    let seen = objects.borrow().clone();
    let devices = shared.devices.changes();
    let hint = shared.hints.of(&pod.key.uid);
    let probes = shared.prober.watch_pod(pod.clone(), inputs_tx.clone());
    shared.rotation.keep(pod.clone(), observed_rx.clone());
    let active_until = finish::active_until(&pod, created_at, shared.clock.wall(), shared.clock.now());
    let worker = Worker {
        memory: PodMemory::new(&[]),
        objects,
        seen,
        devices,
        shared,
        pod: pod.clone(),
        created_at,
        order: order_rx,
        hint,
        inputs_tx,
        observed: observed_tx,
        healths: probes.healths(),
        probes,
        stop_by: None,
        active_until,
        finished,
        finish_by: None,
        current: false,
        words: Words::new(),
        waiting: Vec::new(),
        view: None,
        ready: None,
    };
    WorkerHandle { pod, record, order: order_tx, observed: observed_rx, task: tokio::spawn(worker.run()) }
}

/// A step that has ended, the pod it was carried out for, what came of it, and how long it took.
type Ended = (Step, Arc<Pod>, Outcome, Duration);

struct Worker {
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    created_at: Timestamp,
    order: watch::Receiver<Order>,
    /// ConfigMaps, Secrets and tokens.
    objects: watch::Receiver<Arc<Objects>>,
    /// What of them was seen last.
    seen: Arc<Objects>,
    /// Tells when there may be devices that it waits for.
    devices: watch::Receiver<()>,
    hint: Arc<Notify>,
    inputs_tx: mpsc::Sender<Input>,
    memory: PodMemory,
    observed: watch::Sender<ObservedPod>,
    probes: PodProbes,
    healths: watch::Receiver<Arc<Healths>>,
    /// When its last container is killed at the latest, reckoned once for each ending it is told of.
    stop_by: Option<(Ending, Moment)>,
    /// When it has run for too long.
    active_until: Option<Moment>,
    /// It has come to its end by itself, or is to.
    finished: Option<Finished>,
    /// The same as `stop_by` for such an end.
    finish_by: Option<Moment>,
    /// The last look showed what there is.
    current: bool,
    words: Words,
    /// Why containers wait, as far as users were told.
    waiting: Vec<Option<&'static str>>,
    /// What the roster was told last.
    view: Option<PodView>,
    ready: Option<ReadySince>,
}

impl Worker {
    async fn run(mut self) {
        let mut steps: FuturesUnordered<BoxFuture<'static, Ended>> = FuturesUnordered::new();
        let (next_attempts, observed) =
            tokio::join!(self.next_attempts(), self.shared.runtime.observe(&self.pod.key.uid));
        self.memory.extend(&next_attempts);
        self.take_in(observed).await;
        if self.current {
            self.look_for_strays().await;
        }
        loop {
            self.check_deadline().await;
            let plan = self.plan();
            if plan.gone {
                self.tell(Input::Pod(FromPod::Gone(self.pod.key.uid.clone()))).await;
                return;
            }
            let wake_at = self.report(&plan).await.into_iter().chain(plan.wake_at).min();
            for step in plan.steps {
                self.begin(&step).await;
                steps.push(Box::pin(carry_out(
                    self.shared.clone(),
                    self.pod.clone(),
                    step,
                    self.observed.borrow().clone(),
                )));
            }
            // Every arm is cancel-safe: a step's future lives on in `steps`, the others only wait.
            tokio::select! {
                Some(ended) = steps.next() => self.end(ended).await,
                changed = self.order.changed() => match changed {
                    Ok(()) => self.take_order().await,
                    Err(_) => return,
                },
                Ok(()) = self.healths.changed() => {}
                Ok(()) = self.objects.changed() => self.look_at_objects(),
                Ok(()) = self.devices.changed() => self.memory.devices_changed(),
                () = self.hint.notified() => self.observe().await,
                () = self.shared.clock.sleep_until(wake_at) => if !self.current { self.observe().await },
            }
        }
    }

    /// Lets restart counts go on where those of an earlier process ended.
    async fn next_attempts(&self) -> Vec<u32> {
        let pod = self.pod.clone();
        blocking(move || logs::next_attempts(&pod)).await
    }

    /// Takes on what is wanted now; the pod may have got more containers or other images.
    async fn take_order(&mut self) {
        let pod = self.order.borrow_and_update().pod.clone();
        if !Arc::ptr_eq(&self.pod, &pod) {
            let before = std::mem::replace(&mut self.pod, pod);
            let (now, wall) = (self.shared.clock.now(), self.shared.clock.wall());
            self.active_until = finish::active_until(&self.pod, self.created_at, wall, now);
            let next_attempts = self.next_attempts().await;
            self.memory.pod_changed((&before, &self.pod), &next_attempts);
        }
        self.tell_prober();
    }

    /// Ends a pod that has run for too long.
    async fn check_deadline(&mut self) {
        let is_over = self.active_until.is_some_and(|until| until <= self.shared.clock.now());
        if is_over && self.finished.is_none() && self.order.borrow().assignment == Assignment::Run {
            let finished = finish::deadline_exceeded();
            self.tell_event(events::deadline_exceeded(&finished)).await;
            self.finished = Some(finished);
            self.tell_prober();
        }
    }

    /// Lets the prober ask what runs now.
    fn tell_prober(&self) {
        let observed = self.observed.borrow();
        let running = self.pod.containers.iter().enumerate().filter_map(|(container, spec)| {
            let newest = observed.containers.iter().find(|instance| instance.name == spec.name)?;
            let ContainerPhase::Running { started_at } = newest.phase else { return None };
            Some(Running { container, id: newest.id.clone(), started_at })
        });
        let ips = observed.sandboxes.first().map(|sandbox| pod_ips(&self.shared, &self.pod, sandbox));
        let ending =
            !matches!(self.order.borrow().assignment, Assignment::Wait(_) | Assignment::Run) || self.finished.is_some();
        self.probes.update(running.collect(), ips.unwrap_or_default(), ending);
    }

    async fn observe(&mut self) {
        let observed = self.shared.runtime.observe(&self.pod.key.uid).await;
        self.take_in(observed).await;
    }

    /// Takes in what the runtime has. When it cannot be reached nothing is planned until it can: on what is not seen, the same
    /// step might be taken twice. The observer hints when the runtime is back.
    async fn take_in(&mut self, observed: Result<ObservedPod, CriError>) {
        match observed {
            Ok(mut observed) => {
                words::add(&self.pod, &mut observed, &mut self.words).await;
                drop(self.observed.send_replace(observed));
                self.current = true;
                self.tell_prober();
            }
            Err(error) => {
                tracing::debug!(pod = %self.pod.key, error = %Chain(&error), "cannot observe the pod");
                self.current = false;
            }
        }
    }

    /// Tells of what runs of the pod that the runtime has no record of.
    async fn look_for_strays(&self) {
        let observed = self.observed.borrow().clone();
        let found = strays::look(&self.shared, &self.pod, &observed).await;
        if found > 0 {
            self.tell_event(events::lost_by_runtime(found)).await;
        }
    }

    /// Whatever of the pod's own objects changed, its volumes follow.
    fn look_at_objects(&mut self) {
        let objects = self.objects.borrow_and_update().clone();
        if objects.differs(&self.seen, &self.pod) {
            self.memory.configuration_changed();
        }
        self.seen = objects;
    }

    fn plan(&mut self) -> Plan {
        let now = self.shared.clock.now();
        let assignment = self.order.borrow().assignment.clone();
        if !self.current {
            return Plan { wake_at: Some(now + OBSERVE_RETRY), ..Plan::default() };
        }
        let wanted = match assignment {
            Assignment::Wait(_) => return Plan::default(),
            Assignment::Finish(finished, grace) => {
                self.finished.get_or_insert(finished);
                Wanted::Finish { deadline: *self.finish_by.get_or_insert(now + grace) }
            }
            Assignment::Run if self.finished.is_some() => {
                Wanted::Finish { deadline: *self.finish_by.get_or_insert(now + self.pod.grace_period) }
            }
            Assignment::Run => Wanted::Run,
            Assignment::Stop(ending) => Wanted::Stop { deadline: self.stop_by(ending) },
        };
        let observed = self.observed.borrow();
        self.memory.observe(&self.pod, &observed, now);
        self.memory.hear(self.seen.is_complete(&self.pod), now);
        self.memory.yield_to(Arc::strong_count(&self.shared.bringing_up) > 1, now);
        let healths = self.healths.borrow_and_update();
        let mut plan = plan(&self.pod, wanted, &observed, &self.memory, &healths, now);
        if wanted == Wanted::Run {
            plan.wake_at = plan.wake_at.into_iter().chain(self.active_until).min();
        }
        plan
    }

    fn stop_by(&mut self, ending: Ending) -> Moment {
        match &self.stop_by {
            Some((known, deadline)) if *known == ending => *deadline,
            _ => {
                let deadline = self.shared.clock.deadline(&ending);
                self.stop_by = Some((ending, deadline));
                deadline
            }
        }
    }

    async fn begin(&mut self, step: &Step) {
        tracing::debug!(pod = %self.pod.key, ?step, "step begins");
        self.memory.begin(step);
        if let Some(event) = events::begun(&self.pod, step) {
            self.tell_event(event).await;
        }
        if let Step::CreateSandbox { .. } = step {
            self.look_for_strays().await;
        }
        if let Step::PullImage { .. } = step {
            let objects = self.shared.objects.borrow().clone();
            // A secret that cannot be read fails the pull, which is told then.
            let missing = pull_secrets(&self.pod, &objects).map(|secrets| secrets.missing).unwrap_or_default();
            if !missing.is_empty() {
                self.tell_event(events::no_pull_secrets(&missing)).await;
            }
        }
    }

    async fn end(&mut self, (step, pod, outcome, took): Ended) {
        if step.is_outdated(&pod, &self.pod) {
            tracing::debug!(pod = %self.pod.key, ?step, ?outcome, "the pod names another image now");
            return;
        }
        match outcome.failure() {
            Some(error) => tracing::warn!(pod = %self.pod.key, ?step, error, "step failed"),
            None => tracing::debug!(pod = %self.pod.key, ?step, ?outcome, ?took, "step ended"),
        }
        self.memory.end(&step, &outcome, self.shared.clock.now());
        for event in events::ended(&self.pod, &step, &outcome, took) {
            self.tell_event(event).await;
        }
        if changes_runtime(&step) {
            self.observe().await;
        }
    }

    /// Tells the roster what the pod looks like, if that changed. Answers when it changes by itself.
    async fn report(&mut self, plan: &Plan) -> Option<Moment> {
        if !self.current {
            return None;
        }
        for (index, waiting) in plan.waiting.iter().enumerate() {
            let reason = waiting.as_ref().map(|waiting| waiting.reason);
            if self.waiting.get(index).copied().flatten() != reason {
                for event in events::waits(&self.pod, index, waiting.as_ref()) {
                    self.tell_event(event).await;
                }
            }
        }
        self.waiting = plan.waiting.iter().map(|waiting| waiting.as_ref().map(|waiting| waiting.reason)).collect();
        let (view, available_at) = self.look(plan);
        if self.view.as_ref() != Some(&view) {
            self.tell(Input::Pod(FromPod::Status(self.pod.key.uid.clone(), Box::new(view.clone())))).await;
            self.view = Some(view);
        }
        available_at
    }

    fn look(&mut self, plan: &Plan) -> (PodView, Option<Moment>) {
        let (now, wall) = (self.shared.clock.now(), self.shared.clock.wall());
        let min_ready = self.order.borrow().min_ready;
        let (assignment, host) = (&self.order.borrow().assignment, self.shared.host());
        let situation = Situation {
            pod: &self.pod,
            observed: &self.observed.borrow(),
            waiting: &plan.waiting,
            healths: &self.healths.borrow(),
            rejection: match assignment {
                Assignment::Wait(rejection) => Some(rejection),
                _ => None,
            },
            ending: matches!(assignment, Assignment::Stop(_)),
            finished: self.finished.as_ref(),
            host_ips: &host.ips,
            runtime_name: RUNTIME_NAME,
            created_at: self.created_at,
            now: wall,
        };
        let ending = situation.ending;
        let status = status(&situation, self.view.as_ref().map(|view| &view.status));
        let finished = finish::finished(&status).filter(|_| !ending);
        self.finished = self.finished.take().or_else(|| finished.clone());
        self.ready = ReadySince::track(self.ready, &status, wall, now);
        let available_at = self.ready.map(|ready| ready.available_at(min_ready));
        let available = available_at.is_some_and(|at| at <= now);
        (PodView { status, available, finished }, available_at.filter(|at| *at > now))
    }

    async fn tell_event(&self, event: PodEvent) {
        self.tell(Input::Event(self.shared.pod_event(&self.pod, event))).await;
    }

    /// A roster that is gone has stopped this task already, or is about to.
    async fn tell(&self, input: Input) {
        drop(self.inputs_tx.send(input).await);
    }
}

async fn carry_out(shared: Arc<Shared>, pod: Arc<Pod>, step: Step, observed: ObservedPod) -> Ended {
    let _held = step.brings_up().then(|| shared.bringing_up.clone());
    let begun = shared.clock.now();
    let outcome = execute(&shared, &pod, &step, &observed).await;
    (step, pod, outcome, shared.clock.now().since(begun))
}

/// Whether the runtime looks different after the step.
fn changes_runtime(step: &Step) -> bool {
    let is_image = matches!(step, Step::InspectImage { .. } | Step::PullImage { .. });
    let is_hook = matches!(step, Step::PostStart { .. } | Step::PreStop { .. });
    !is_image && !is_hook && !matches!(step, Step::PrepareVolumes | Step::Release | Step::CleanUp)
}
