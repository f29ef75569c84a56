//! Plans for pods of any shape, carried out on a model of a runtime, with failures, crashes and restarts of the agent in
//! between.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1 as k8s;
use proptest::prelude::*;

use super::*;
use crate::model::Finished;
use crate::plan::probe::{Finding, Health};
use crate::plan::status::{Situation, status};
use crate::podspec::{ExitCodes, Handler, Probe, Probes, RestartAction, RestartRule};
use crate::testing::pods;

/// With this exit code some containers begin everything again.
const RESTART_ALL: i32 = 42;

/// What can happen between two plans.
#[derive(Debug, Clone)]
enum Event {
    /// The step at this place of the plan (modulo its length) is begun, if there is one.
    Begin(usize),
    /// The step at this place among those under way ends, well or not.
    End(usize, bool),
    /// A live container ends by itself with a code, or is lost track of.
    Exit(usize, i32),
    Lose(usize),
    /// A probe of a live container finds something out.
    Probe(usize, bool, bool),
    /// The newest sandbox dies; its containers live on until they are stopped.
    SandboxDies,
    /// The runtime forgets everything, as after a reboot; so does the agent.
    Reboot,
    /// What was under way takes effect or not; nobody remembers.
    AgentRestarts(bool),
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let code = prop::sample::select(vec![0, 0, 1, RESTART_ALL]);
    prop_oneof![
        10 => any::<usize>().prop_map(Event::Begin),
        10 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(index, well)| Event::End(index, well)),
        3 => (any::<usize>(), code).prop_map(|(index, code)| Event::Exit(index, code)),
        1 => any::<usize>().prop_map(Event::Lose),
        2 => (any::<usize>(), any::<bool>(), prop::bool::weighted(0.7)).prop_map(|(i, live, well)| Event::Probe(i, live, well)),
        1 => Just(Event::SandboxDies),
        1 => Just(Event::Reboot),
        1 => any::<bool>().prop_map(Event::AgentRestarts),
        3 => (0_u64..400).prop_map(Event::Wait),
    ]
}

fn policy() -> impl Strategy<Value = RestartPolicy> {
    prop::sample::select(vec![
        RestartPolicy::Always,
        RestartPolicy::Always,
        RestartPolicy::OnFailure,
        RestartPolicy::Never,
    ])
}

/// A container of this role, with hooks, a startup probe and a rule or without.
fn container(role: Role) -> impl Strategy<Value = Container> {
    (policy(), any::<[bool; 3]>(), prop::bool::weighted(0.2)).prop_map(
        move |(policy, [greets, parts, probed], resets)| {
            let lasts = matches!(role, Role::Sidecar | Role::Regular);
            let hook = |has: bool| (has && lasts).then_some(Handler::Sleep(Duration::ZERO));
            let probe = Probe {
                handler: Handler::Sleep(Duration::ZERO),
                initial_delay: Duration::ZERO,
                period: Duration::from_secs(1),
                timeout: Duration::from_secs(1),
                success_threshold: 1,
                failure_threshold: 1,
                grace_period: None,
            };
            let mut container = pods::container("", "image:1", &[]);
            container.role = role;
            container.restart_policy = match role {
                Role::Sidecar => RestartPolicy::Always,
                Role::Ephemeral => RestartPolicy::Never,
                Role::Init | Role::Regular => policy,
            };
            (container.hooks.post_start, container.hooks.pre_stop) = (hook(greets), hook(parts));
            container.probes = Probes { startup: (probed && lasts).then_some(probe), ..Probes::default() };
            if resets && role != Role::Ephemeral {
                let (action, exit_codes) = (RestartAction::RestartAllContainers, ExitCodes::In(vec![RESTART_ALL]));
                container.restart_rules = vec![RestartRule { action, exit_codes }];
            }
            container
        },
    )
}

/// Any pod that the API takes.
fn pod() -> impl Strategy<Value = Pod> {
    let init = prop_oneof![container(Role::Init).boxed(), container(Role::Sidecar).boxed()];
    let init = prop::collection::vec(init, 0..4);
    let regular = prop::collection::vec(container(Role::Regular), 1..4);
    let added = prop::collection::vec(container(Role::Ephemeral), 0..2);
    (init, regular, added).prop_map(|(init, regular, added)| {
        let mut pod = fresh(&json!({}), &json!({})).pod;
        pod.containers = init.into_iter().chain(regular).chain(added).collect();
        for (index, container) in pod.containers.iter_mut().enumerate() {
            container.name = format!("c{index}");
        }
        pod
    })
}

/// A pod on a runtime that does what it is told, and refuses what CRI refuses.
struct World {
    case: Case,
    under_way: Vec<Step>,
    /// Numbers ids.
    made: usize,
    /// Attempts ever used, by container: none is used twice.
    attempts: BTreeSet<(usize, u32)>,
    /// Init containers that have done their work, and sidecars that were started, since everything began.
    passed: BTreeSet<(SandboxId, usize)>,
    has_image: Vec<bool>,
    on_disk: bool,
    finished: Option<Finished>,
    status: Option<k8s::PodStatus>,
}

impl World {
    fn new(pod: Pod) -> Self {
        let mut case = fresh(&json!({}), &json!({}));
        let count = pod.containers.len();
        case.memory = PodMemory::new(&vec![0; count]);
        case.pod = pod;
        Self {
            case,
            under_way: Vec::new(),
            made: 0,
            attempts: BTreeSet::new(),
            passed: BTreeSet::new(),
            has_image: vec![false; count],
            on_disk: false,
            finished: None,
            status: None,
        }
    }

    fn happen(&mut self, event: &Event) {
        match event {
            Event::Begin(index) => {
                let steps = self.plan().steps;
                if !steps.is_empty() {
                    self.begin(steps[index % steps.len()].clone());
                }
            }
            Event::End(index, well) if !self.under_way.is_empty() => {
                let step = self.under_way.remove(index % self.under_way.len());
                self.end(&step, *well);
            }
            Event::Exit(index, code) => self.change_live(*index, &exited_with(*code)),
            Event::Lose(index) => self.change_live(*index, &ContainerPhase::Unknown),
            Event::Probe(index, liveness, well) => self.probe(*index, *liveness, *well),
            Event::SandboxDies => {
                if let Some(newest) = self.case.observed.sandboxes.first_mut() {
                    *newest = sandbox(newest.id.as_str(), newest.attempt, false);
                }
            }
            Event::Reboot => {
                self.case.observed = ObservedPod::default();
                self.restart_agent();
            }
            Event::AgentRestarts(with_effect) => {
                for step in std::mem::take(&mut self.under_way).iter().filter(|_| *with_effect) {
                    self.carry_out(step);
                }
                self.restart_agent();
            }
            Event::Wait(seconds) => self.case.now = self.case.now + Duration::from_secs(*seconds),
            Event::End(..) => {}
        }
        self.check();
    }

    fn plan(&mut self) -> Plan {
        if self.finished.is_some() && self.case.wanted == Wanted::Run {
            self.case.wanted = Wanted::Finish { deadline: self.case.now + Duration::from_secs(30) };
        }
        self.case.plan()
    }

    fn begin(&mut self, step: Step) {
        assert!(!self.under_way.contains(&step), "{step:?} is under way already");
        self.case.memory.begin(&step);
        self.under_way.push(step);
    }

    fn end(&mut self, step: &Step, well: bool) {
        let outcome = if well { self.carry_out(step) } else { Outcome::Failed("by chance".to_owned()) };
        self.case.memory.end(step, &outcome, self.case.now);
    }

    fn restart_agent(&mut self) {
        self.under_way.clear();
        self.status = None;
        let first = |container: usize| {
            let used = self.attempts.iter().filter(|(of, _)| *of == container);
            used.map(|(_, attempt)| attempt + 1).max().unwrap_or(0)
        };
        let first: Vec<_> = (0..self.case.pod.containers.len()).map(first).collect();
        self.case.memory = PodMemory::new(&first);
    }

    fn live(&self) -> Vec<ContainerId> {
        let live = self.case.observed.containers.iter().filter(|instance| is_live(instance));
        live.map(|instance| instance.id.clone()).collect()
    }

    fn change_live(&mut self, index: usize, phase: &ContainerPhase) {
        let live = self.live();
        if !live.is_empty() {
            self.change(&live[index % live.len()], phase);
        }
    }

    fn change(&mut self, id: &ContainerId, phase: &ContainerPhase) {
        let containers = &mut self.case.observed.containers;
        let Some(instance) = containers.iter_mut().find(|instance| instance.id == *id) else { return };
        if *phase == ContainerPhase::Unknown && instance.phase == ContainerPhase::Created {
            return;
        }
        instance.phase = phase.clone();
        let index = self.case.pod.containers.iter().position(|one| one.name == instance.name).unwrap();
        if matches!(phase, ContainerPhase::Exited { exit_code: 0, .. })
            && self.case.pod.containers[index].role == Role::Init
        {
            self.passed.insert((instance.sandbox.clone(), index));
        }
    }

    fn probe(&mut self, index: usize, liveness: bool, well: bool) {
        let live = self.live();
        if live.is_empty() {
            return;
        }
        let id = live[index % live.len()].clone();
        let instance = self.case.observed.containers.iter().find(|instance| instance.id == id).unwrap();
        let container = self.case.pod.containers.iter().position(|one| one.name == instance.name).unwrap();
        let probes = &self.case.pod.containers[container].probes;
        let health = self.case.healths.entry(id).or_insert_with(|| Health::initial(probes));
        let finding = if well { Finding::Success } else { Finding::Failure };
        if probes.startup.is_none() {
            return;
        }
        if liveness && health.is_started() {
            health.liveness = finding;
        } else if health.startup == Finding::Unknown {
            health.startup = finding;
        }
    }

    /// What CRI would do.
    fn carry_out(&mut self, step: &Step) -> Outcome {
        let observed = &mut self.case.observed;
        match step {
            Step::PrepareVolumes => self.on_disk = true,
            Step::CreateSandbox { attempt } => {
                assert!(
                    observed.sandboxes.iter().all(|other| other.attempt < *attempt),
                    "sandbox {attempt} made twice"
                );
                self.made += 1;
                self.on_disk = true;
                observed.sandboxes.insert(0, sandbox(&format!("s{}", self.made), *attempt, true));
            }
            Step::StopSandbox { id } => {
                for old in observed.sandboxes.iter_mut().filter(|old| old.id == *id) {
                    *old = sandbox(id.as_str(), old.attempt, false);
                }
                let inside = observed.containers.iter().filter(|instance| instance.sandbox == *id && is_live(instance));
                for id in inside.map(|instance| instance.id.clone()).collect::<Vec<_>>() {
                    self.change(&id, &exited_with(137));
                }
            }
            Step::RemoveSandbox { id } => {
                observed.sandboxes.retain(|old| old.id != *id);
                observed.containers.retain(|instance| instance.sandbox != *id);
            }
            Step::InspectImage { image } if !self.has_image[image.container] => return Outcome::NoImage,
            Step::InspectImage { .. } => return Outcome::Image("sha256:1".to_owned()),
            Step::PullImage { image } => {
                self.has_image[image.container] = true;
                return Outcome::Pulled { id: "sha256:1".to_owned(), size_bytes: 1, took: Duration::ZERO };
            }
            Step::CreateContainer { container, attempt, sandbox, .. } => {
                return self.create(*container, *attempt, sandbox);
            }
            Step::StartContainer { container, id } => return self.start(*container, id),
            Step::PostStart { .. } | Step::PreStop { .. } => {}
            Step::StopContainer { id, .. } => {
                if self.live().contains(id) {
                    self.change(id, &exited_with(137));
                }
            }
            Step::RemoveContainer { id } => self.remove(id),
            Step::Release => {}
            Step::CleanUp => self.on_disk = false,
        }
        Outcome::Done
    }

    fn create(&mut self, container: usize, attempt: u32, sandbox: &SandboxId) -> Outcome {
        if !self.case.observed.sandboxes.iter().any(|other| other.id == *sandbox && other.ready) {
            return Outcome::Failed("sandbox is not ready".to_owned());
        }
        assert!(self.attempts.insert((container, attempt)), "attempt {attempt} of {container} used twice");
        self.check_turn(container, sandbox);
        self.made += 1;
        let id = format!("i{}", self.made);
        let made = self.case.container(&id, sandbox.as_str(), attempt, ContainerPhase::Created);
        let name = self.case.pod.containers[container].name.clone();
        let containers = &mut self.case.observed.containers;
        containers.push(ObservedContainer { name, spec_hash: "hash-1".to_owned(), ..made });
        containers.sort_by(|a, b| a.name.cmp(&b.name).then(b.attempt.cmp(&a.attempt)));
        Outcome::Done
    }

    /// Nothing is made before all init containers before it have done their work, and all sidecars were started.
    fn check_turn(&self, container: usize, sandbox: &SandboxId) {
        if self.case.pod.containers[container].role != Role::Ephemeral {
            for before in 0..container {
                let role = self.case.pod.containers[before].role;
                let waits = matches!(role, Role::Init | Role::Sidecar);
                assert!(!waits || self.passed.contains(&(sandbox.clone(), before)), "{container} before {before}");
            }
        }
    }

    fn start(&mut self, container: usize, id: &ContainerId) -> Outcome {
        let ready: Vec<_> = self.case.observed.sandboxes.iter().filter(|sandbox| sandbox.ready).collect();
        let found = self.case.observed.containers.iter_mut().find(|instance| instance.id == *id);
        match found.filter(|instance| ready.iter().any(|sandbox| sandbox.id == instance.sandbox)) {
            Some(instance) if instance.phase == ContainerPhase::Created => {
                instance.phase = running_phase();
                if self.case.pod.containers[container].role == Role::Sidecar {
                    self.passed.insert((instance.sandbox.clone(), container));
                }
                Outcome::Done
            }
            _ => Outcome::Failed("cannot be started".to_owned()),
        }
    }

    fn remove(&mut self, id: &ContainerId) {
        let containers = &mut self.case.observed.containers;
        let Some(place) = containers.iter().position(|instance| instance.id == *id) else { return };
        assert!(!is_live(&containers[place]), "{id} is removed alive");
        let removed = containers.remove(place);
        // The last trace of a container is only removed where everything begins again.
        let index = self.case.pod.containers.iter().position(|one| one.name == removed.name).unwrap();
        if !containers.iter().any(|other| other.name == removed.name) {
            self.passed.remove(&(removed.sandbox, index));
        }
    }

    /// What holds at every moment.
    fn check(&mut self) {
        for container in &self.case.pod.containers {
            let live = instances(&self.case.observed, container).filter(|instance| is_live(instance)).count();
            assert!(live <= 1, "{live} instances of {} live", container.name);
        }
        let waiting = self.plan().waiting;
        let situation = Situation {
            pod: &self.case.pod,
            observed: &self.case.observed,
            waiting: &waiting,
            healths: &self.case.healths,
            rejection: None,
            ending: matches!(self.case.wanted, Wanted::Stop { .. }),
            finished: self.finished.as_ref(),
            host_ips: &[],
            runtime_name: "containerd",
            created_at: Timestamp::UNIX_EPOCH,
            now: Timestamp::UNIX_EPOCH,
        };
        let status = status(&situation, self.status.as_ref());
        self.check_status(&status);
        if !situation.ending {
            self.finished = self.finished.take().or_else(|| finish::finished(&status));
        }
        self.status = Some(status);
    }

    /// The status says what runs and nothing else, forgets no restart, and is final only when all is over.
    fn check_status(&self, status: &k8s::PodStatus) {
        let lists = |status: &k8s::PodStatus| {
            let lists =
                [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
            lists.into_iter().flatten().flatten().cloned().collect::<Vec<_>>()
        };
        let statuses = lists(status);
        assert_eq!(statuses.len(), self.case.pod.containers.len());
        let before = self.status.as_ref().map(lists).unwrap_or_default();
        let mut all_ready = true;
        for (index, container) in self.case.pod.containers.iter().enumerate() {
            let said = statuses.iter().find(|status| status.name == container.name).unwrap();
            let newest = instances(&self.case.observed, container).next();
            let runs = newest.filter(|newest| matches!(newest.phase, ContainerPhase::Running { .. }));
            let state = said.state.clone().unwrap();
            assert_eq!(state.running.is_some(), runs.is_some(), "{said:?}");
            let states = [state.running.is_some(), state.waiting.is_some(), state.terminated.is_some()];
            assert_eq!(states.into_iter().filter(|is| *is).count(), 1, "{said:?}");
            let is_ready = runs.is_some_and(|runs| self.case.health_of(index, &runs.id).is_ready());
            if matches!(container.role, Role::Sidecar | Role::Regular) {
                assert_eq!(said.ready, is_ready, "{said:?}");
                all_ready &= is_ready;
            }
            let count = before.iter().find(|status| status.name == container.name).map_or(0, |one| one.restart_count);
            assert!(said.restart_count >= count, "{said:?} after {count}");
        }
        let phase = status.phase.as_deref().unwrap();
        if let Some(finished) = &self.finished {
            assert!(phase == finished.phase() || !self.live().is_empty(), "{phase} after {finished:?}");
        }
        let is_final = matches!(phase, "Succeeded" | "Failed");
        assert!(!is_final || self.live().is_empty(), "{phase} while {:?} live", self.live());
        let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready").unwrap();
        assert_eq!(ready.status == "True", all_ready && !is_final, "{ready:?}");
    }

    /// Carries out all that is planned, without further trouble, until nothing is: init containers do their work, what is
    /// started starts. Fails if that takes for ever, or if a step is taken twice.
    fn settle(&mut self) -> Plan {
        let mut taken = BTreeSet::new();
        for _ in 0..1000 {
            let plan = self.plan();
            for step in plan.steps.iter().cloned() {
                self.begin(step);
            }
            if let Some(step) = self.under_way.pop() {
                let is_image = matches!(step, Step::InspectImage { .. } | Step::PullImage { .. });
                assert!(is_image || taken.insert(format!("{step:?}")), "{step:?} is taken twice");
                self.end(&step, true);
            } else if !self.progress() {
                let Some(wake_at) = plan.wake_at else { return plan };
                assert!(wake_at > self.case.now, "asked to wake in the past");
                self.case.now = wake_at;
            }
            self.check();
        }
        panic!("the plan does not settle: {:?}", self.plan());
    }

    /// Lets containers do what they are for; false if none has anything to do.
    fn progress(&mut self) -> bool {
        for id in self.live() {
            let instance = self.case.observed.containers.iter().find(|instance| instance.id == id).unwrap();
            let index = self.case.pod.containers.iter().position(|one| one.name == instance.name).unwrap();
            if self.case.pod.containers[index].role == Role::Init {
                self.change(&id, &exited_with(0));
                return true;
            }
            let mut health = self.case.health_of(index, &id);
            if health.startup == Finding::Unknown {
                health.startup = Finding::Success;
                self.case.healths.insert(id, health);
                return true;
            }
        }
        false
    }

    /// All there is to see of a pod that was left in peace.
    fn check_settled(&self) {
        let observed = &self.case.observed;
        let is_over = self.finished.is_some();
        let sandbox = observed.sandboxes.first();
        for container in &self.case.pod.containers {
            let newest = instances(observed, container).next();
            let live = newest.filter(|newest| is_live(newest));
            let in_sandbox = live.is_none_or(|live| sandbox.is_some_and(|it| it.ready && it.id == live.sandbox));
            assert!(in_sandbox, "{live:?} lives elsewhere");
            let is_final = newest.is_some_and(|newest| policy::is_final(container, newest));
            let runs = match container.role {
                Role::Init => false,
                Role::Sidecar => !is_over,
                Role::Regular => !is_over && !is_final,
                Role::Ephemeral => live.is_some() && !is_over,
            };
            assert_eq!(live.is_some(), runs, "{}: {newest:?}", container.name);
        }
        assert!(observed.containers.len() <= 2 * self.case.pod.containers.len(), "one ended instance of each at most");
        assert!(observed.sandboxes.len() <= self.case.pod.containers.len() + 1);
    }
}

impl Case {
    fn health_of(&self, index: usize, id: &ContainerId) -> Health {
        let initial = || Health::initial(&self.pod.containers[index].probes);
        self.healths.get(id).copied().unwrap_or_else(initial)
    }
}

proptest! {
    /// Whatever happened: left in peace, the pod runs as it should, or is over, and nothing more is done.
    #[test]
    fn a_pod_left_in_peace_comes_to_rest(pod in pod(), events in prop::collection::vec(event(), 0..80)) {
        let mut world = World::new(pod);
        for event in &events {
            world.happen(event);
        }
        let plan = world.settle();
        let waiting = vec![None; world.case.pod.containers.len()];
        prop_assert_eq!(plan, Plan { waiting, ..Plan::default() });
        world.check_settled();
    }

    /// Whatever happened before and during it: a pod that ends leaves nothing behind.
    #[test]
    fn a_pod_that_ends_leaves_nothing(
        pod in pod(),
        before in prop::collection::vec(event(), 0..80),
        during in prop::collection::vec(event(), 0..30),
    ) {
        let mut world = World::new(pod);
        for event in &before {
            world.happen(event);
        }
        world.case.wanted = Wanted::Stop { deadline: world.case.now + Duration::from_secs(30) };
        for event in &during {
            world.happen(event);
        }
        let plan = world.settle();
        let waiting = vec![None; world.case.pod.containers.len()];
        prop_assert_eq!(plan, Plan { gone: true, waiting, ..Plan::default() });
        prop_assert_eq!(&world.case.observed, &ObservedPod::default());
        prop_assert!(!world.on_disk);
    }
}
