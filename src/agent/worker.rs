//! One pod's task: observe, plan, carry steps out, and again, until the pod is gone.
//!
//! The worker owns everything there is to know about one pod while the agent lives. What is wanted comes in over a `watch`
//! from the roster, hints that the runtime has news over a `Notify`; status and events go out to the roster. It waits for
//! one of them, for a step to end, or for the moment its plan names. It decides nothing: `plan` does.

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
use super::execute::execute;
use super::roster::Input;
use super::words::{self, Words};
use crate::error::Chain;
use crate::fit::Rejection;
use crate::host::ledger::Ending;
use crate::host::logs;
use crate::model::{Moment, ObservedPod, Uid};
use crate::plan::availability::ReadySince;
use crate::plan::events::{self, PodEvent};
use crate::plan::memory::{Outcome, PodMemory};
use crate::plan::status::{Situation, status};
use crate::plan::{Plan, Step, Wanted, plan};
use crate::podspec::Pod;

/// How soon the runtime is looked at again after it did not answer, should the observer's hint get lost.
const OBSERVE_RETRY: Duration = Duration::from_secs(10);
/// What container ids in the API begin with.
const RUNTIME_NAME: &str = "containerd";

/// What the roster wants of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Assignment {
    /// It does not fit on the node now; nothing is done for it.
    Wait(Rejection),
    /// Run it.
    Run,
    /// End it.
    Stop(Ending),
}

/// The roster's end of a worker. Dropping it stops the task and leaves the pod as it is.
#[derive(Debug)]
pub(super) struct WorkerHandle {
    pub(super) pod: Arc<Pod>,
    pub(super) assignment: watch::Sender<Assignment>,
    /// Something about the pod changed in the runtime.
    pub(super) hint: Arc<Notify>,
    /// What the worker saw last.
    pub(super) observed: watch::Receiver<ObservedPod>,
    task: JoinHandle<()>,
}

impl WorkerHandle {
    /// Whether it may hold resources of the node.
    pub(super) fn was_admitted(&self) -> bool {
        !matches!(*self.assignment.borrow(), Assignment::Wait(_))
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
}

/// What a worker tells the roster.
#[derive(Debug)]
pub(super) enum FromPod {
    /// The pod's state changed.
    Status(Uid, Box<PodView>),
    /// Nothing is left of the pod, neither in the runtime nor on disk.
    Gone(Uid),
}

/// Starts the task of one pod. `min_ready` is how long it has to be ready to count as available.
pub(super) fn spawn(
    shared: Arc<Shared>,
    (pod, created_at, min_ready): (Arc<Pod>, Timestamp, Duration),
    assignment: Assignment,
    inputs_tx: mpsc::Sender<Input>,
) -> WorkerHandle {
    let (assignment_tx, assignment_rx) = watch::channel(assignment);
    let (observed_tx, observed_rx) = watch::channel(ObservedPod::default());
    let hint = Arc::new(Notify::new());
    let worker = Worker {
        memory: PodMemory::new(&[]),
        shared,
        pod: pod.clone(),
        created_at,
        min_ready,
        assignment: assignment_rx,
        hint: hint.clone(),
        inputs_tx,
        observed: observed_tx,
        deadline: None,
        current: false,
        words: Words::new(),
        waiting: Vec::new(),
        view: None,
        ready: None,
    };
    WorkerHandle { pod, assignment: assignment_tx, hint, observed: observed_rx, task: tokio::spawn(worker.run()) }
}

/// A step that has ended, what came of it, and how long it took.
type Ended = (Step, Outcome, Duration);

struct Worker {
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    created_at: Timestamp,
    min_ready: Duration,
    assignment: watch::Receiver<Assignment>,
    hint: Arc<Notify>,
    inputs_tx: mpsc::Sender<Input>,
    memory: PodMemory,
    observed: watch::Sender<ObservedPod>,
    /// When its last container is killed at the latest, reckoned once for each ending it is told of.
    deadline: Option<(Ending, Moment)>,
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
        let pod = self.pod.clone();
        let next_attempts = tokio::task::spawn_blocking(move || logs::next_attempts(&pod)).await;
        self.memory = PodMemory::new(&next_attempts.expect("listing logs does not panic"));
        self.observe().await;
        loop {
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
                changed = self.assignment.changed() => if changed.is_err() { return },
                () = self.hint.notified() => self.observe().await,
                () = self.shared.clock.sleep_until(wake_at) => if !self.current { self.observe().await },
            }
        }
    }

    /// Looks at the runtime. When it cannot be reached nothing is planned until it can: on what is not seen, the same step
    /// might be taken twice. The observer hints when the runtime is back.
    async fn observe(&mut self) {
        match self.shared.runtime.observe(&self.pod.key.uid).await {
            Ok(mut observed) => {
                words::add(&self.pod, &mut observed, &mut self.words).await;
                drop(self.observed.send_replace(observed));
                self.current = true;
            }
            Err(error) => {
                tracing::debug!(pod = %self.pod.key, error = %Chain(&error), "cannot observe the pod");
                self.current = false;
            }
        }
    }

    fn plan(&mut self) -> Plan {
        let now = self.shared.clock.now();
        let assignment = self.assignment.borrow_and_update().clone();
        if !self.current {
            return Plan { wake_at: Some(now + OBSERVE_RETRY), ..Plan::default() };
        }
        let wanted = match assignment {
            Assignment::Wait(_) => return Plan::default(),
            Assignment::Run => Wanted::Run,
            Assignment::Stop(ending) => Wanted::Stop { deadline: self.deadline(ending) },
        };
        let observed = self.observed.borrow();
        self.memory.observe(&self.pod, &observed, now);
        plan(&self.pod, wanted, &observed, &self.memory, now)
    }

    fn deadline(&mut self, ending: Ending) -> Moment {
        match &self.deadline {
            Some((known, deadline)) if *known == ending => *deadline,
            _ => {
                let deadline = self.shared.clock.deadline(&ending);
                self.deadline = Some((ending, deadline));
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
    }

    async fn end(&mut self, (step, outcome, took): Ended) {
        match &outcome {
            Outcome::Failed(error) => tracing::warn!(pod = %self.pod.key, ?step, error, "step failed"),
            _ => tracing::debug!(pod = %self.pod.key, ?step, ?outcome, ?took, "step ended"),
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
                for event in events::waits(&self.pod, index, reason) {
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
        let (now, wall) = (self.shared.clock.now(), Timestamp::now());
        let assignment = self.assignment.borrow();
        let situation = Situation {
            pod: &self.pod,
            observed: &self.observed.borrow(),
            waiting: &plan.waiting,
            rejection: match &*assignment {
                Assignment::Wait(rejection) => Some(rejection),
                _ => None,
            },
            ending: matches!(*assignment, Assignment::Stop(_)),
            host_ips: &self.shared.host.ips,
            runtime_name: RUNTIME_NAME,
            created_at: self.created_at,
            now: wall,
        };
        let status = status(&situation, self.view.as_ref().map(|view| &view.status));
        self.ready = ReadySince::track(self.ready, &status, wall, now);
        let available_at = self.ready.map(|ready| ready.available_at(self.min_ready));
        let available = available_at.is_some_and(|at| at <= now);
        (PodView { status, available }, available_at.filter(|at| *at > now))
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
    let begun = shared.clock.now();
    let outcome = execute(&shared, &pod, &step, &observed).await;
    (step, outcome, shared.clock.now().since(begun))
}

/// Whether the runtime looks different after the step.
fn changes_runtime(step: &Step) -> bool {
    !matches!(step, Step::PrepareVolumes | Step::InspectImage { .. } | Step::PullImage { .. } | Step::CleanUp)
}
