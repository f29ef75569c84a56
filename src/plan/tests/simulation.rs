//! Plans carried out on a model of a runtime, with failures, crashes and restarts of the agent in between.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// What can happen between two plans.
#[derive(Debug, Clone)]
enum Event {
    /// The step at this place of the plan (modulo its length) is begun, if there is one.
    Begin(usize),
    /// The step at this place among those under way ends, well or not.
    End(usize, bool),
    /// A live container ends by itself, or one that is made is lost track of.
    Exit(usize),
    Lose(usize),
    /// The newest sandbox dies; its containers live on until they are stopped.
    SandboxDies,
    /// The runtime forgets everything, as after a reboot; so does the agent.
    Reboot,
    /// What was under way takes effect or not; nobody remembers.
    AgentRestarts(bool),
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => any::<usize>().prop_map(Event::Begin),
        8 => (any::<usize>(), prop::bool::weighted(0.8)).prop_map(|(index, well)| Event::End(index, well)),
        2 => any::<usize>().prop_map(Event::Exit),
        1 => any::<usize>().prop_map(Event::Lose),
        1 => Just(Event::SandboxDies),
        1 => Just(Event::Reboot),
        1 => any::<bool>().prop_map(Event::AgentRestarts),
        3 => (0_u64..400).prop_map(Event::Wait),
    ]
}

/// A pod of two containers on a runtime that does what it is told, and refuses what CRI refuses.
struct World {
    case: Case,
    under_way: Vec<Step>,
    /// Numbers ids.
    made: usize,
    /// Attempts ever used, by container: none is used twice.
    attempts: BTreeSet<(usize, u32)>,
    has_image: [bool; 2],
    on_disk: bool,
}

impl World {
    fn new() -> Self {
        let mut case = fresh(&json!({}), &json!({}));
        let mut second = case.pod.containers[0].clone();
        second.name = "aux".to_owned();
        case.pod.containers.push(second);
        case.memory = PodMemory::new(&[0, 0]);
        let attempts = BTreeSet::new();
        Self { case, under_way: Vec::new(), made: 0, attempts, has_image: [false; 2], on_disk: false }
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
            Event::Exit(index) => self.change_live(*index, exited()),
            Event::Lose(index) => self.change_live(*index, ContainerPhase::Unknown),
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
        let first = |container| {
            let used = self.attempts.iter().filter(|(of, _)| *of == container);
            used.map(|(_, attempt)| attempt + 1).max().unwrap_or(0)
        };
        self.case.memory = PodMemory::new(&[first(0), first(1)]);
    }

    fn change_live(&mut self, index: usize, phase: ContainerPhase) {
        let mut live: Vec<_> = self.case.observed.containers.iter_mut().filter(|instance| is_live(instance)).collect();
        let count = live.len();
        if count > 0 {
            live[index % count].phase = phase;
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
                observed.sandboxes.insert(0, sandbox(&format!("s{}", self.made), *attempt, true));
            }
            Step::StopSandbox { id } => {
                for old in observed.sandboxes.iter_mut().filter(|old| old.id == *id) {
                    old.ready = false;
                }
                for instance in observed.containers.iter_mut().filter(|instance| instance.sandbox == *id) {
                    if is_live(instance) {
                        instance.phase = exited();
                    }
                }
            }
            Step::RemoveSandbox { id } => {
                observed.sandboxes.retain(|old| old.id != *id);
                observed.containers.retain(|instance| instance.sandbox != *id);
            }
            Step::InspectImage { container } if !self.has_image[*container] => return Outcome::NoImage,
            Step::InspectImage { .. } => return Outcome::Image("sha256:1".to_owned()),
            Step::PullImage { container } => {
                self.has_image[*container] = true;
                return Outcome::Pulled { id: "sha256:1".to_owned(), size_bytes: 1, took: Duration::ZERO };
            }
            Step::CreateContainer { container, attempt, sandbox, .. } => {
                return self.create(*container, *attempt, sandbox);
            }
            Step::StartContainer { id, .. } => return self.start(id),
            Step::StopContainer { id, .. } => {
                for instance in observed.containers.iter_mut().filter(|instance| instance.id == *id) {
                    instance.phase = exited();
                }
            }
            Step::RemoveContainer { id } => observed.containers.retain(|instance| instance.id != *id),
            Step::CleanUp => self.on_disk = false,
        }
        Outcome::Done
    }

    fn create(&mut self, container: usize, attempt: u32, sandbox: &SandboxId) -> Outcome {
        if !self.case.observed.sandboxes.iter().any(|other| other.id == *sandbox && other.ready) {
            return Outcome::Failed("sandbox is not ready".to_owned());
        }
        assert!(self.attempts.insert((container, attempt)), "attempt {attempt} of {container} used twice");
        self.made += 1;
        let id = format!("c{}", self.made);
        let mut instance = self.case.container(&id, sandbox.as_str(), attempt, ContainerPhase::Created);
        instance.name = self.case.pod.containers[container].name.clone();
        let containers = &mut self.case.observed.containers;
        containers.push(instance);
        containers.sort_by(|a, b| a.name.cmp(&b.name).then(b.attempt.cmp(&a.attempt)));
        Outcome::Done
    }

    fn start(&mut self, id: &ContainerId) -> Outcome {
        let ready: Vec<_> = self.case.observed.sandboxes.iter().filter(|sandbox| sandbox.ready).collect();
        let found = self.case.observed.containers.iter_mut().find(|instance| instance.id == *id);
        match found.filter(|instance| ready.iter().any(|sandbox| sandbox.id == instance.sandbox)) {
            Some(instance) if instance.phase == ContainerPhase::Created => {
                instance.phase = running_phase();
                Outcome::Done
            }
            _ => Outcome::Failed("cannot be started".to_owned()),
        }
    }

    /// What holds at every moment.
    fn check(&self) {
        for container in &self.case.pod.containers {
            let mine = self.case.observed.containers.iter().filter(|instance| instance.name == container.name);
            let live = mine.filter(|instance| is_live(instance)).count();
            assert!(live <= 1, "{live} instances of {} live", container.name);
        }
    }

    /// Carries out all that is planned, without further trouble, until nothing is. Fails if that takes for ever.
    fn settle(&mut self) -> Plan {
        for _ in 0..200 {
            let plan = self.plan();
            for step in plan.steps.iter().cloned() {
                self.begin(step);
            }
            if let Some(step) = self.under_way.pop() {
                self.end(&step, true);
            } else if let Some(wake_at) = plan.wake_at {
                assert!(wake_at > self.case.now, "asked to wake in the past");
                self.case.now = wake_at;
            } else {
                return plan;
            }
            self.check();
        }
        panic!("the plan does not settle: {:?}", self.plan());
    }
}

proptest! {
    /// Whatever happened: left in peace, the pod runs, with one live instance of each container in one sandbox.
    #[test]
    fn a_pod_left_in_peace_runs(events in prop::collection::vec(event(), 0..60)) {
        let mut world = World::new();
        for event in &events {
            world.happen(event);
        }
        let plan = world.settle();
        prop_assert_eq!(plan, Plan { waiting: vec![None, None], ..Plan::default() });
        let live = world.case.observed.containers.iter().filter(|instance| is_live(instance));
        prop_assert_eq!(live.clone().count(), 2);
        let sandbox = &world.case.observed.sandboxes[0];
        prop_assert!(sandbox.ready && live.into_iter().all(|instance| instance.sandbox == sandbox.id));
        prop_assert!(world.case.observed.containers.len() <= 4, "one ended instance of each container at most");
        prop_assert!(world.case.observed.sandboxes.len() <= 3);
    }

    /// Whatever happened before and during it: a pod that ends leaves nothing behind.
    #[test]
    fn a_pod_that_ends_leaves_nothing(
        before in prop::collection::vec(event(), 0..60),
        during in prop::collection::vec(event(), 0..30),
    ) {
        let mut world = World::new();
        for event in &before {
            world.happen(event);
        }
        world.case.wanted = Wanted::Stop { deadline: world.case.now + Duration::from_secs(30) };
        for event in &during {
            world.happen(event);
        }
        let plan = world.settle();
        prop_assert_eq!(plan, Plan { gone: true, waiting: vec![None, None], ..Plan::default() });
        prop_assert_eq!(&world.case.observed, &ObservedPod::default());
        prop_assert!(!world.on_disk);
    }
}
