//! Pods of several containers, from their first init container on.
//!
//! A container is written `name state`, a step in as few words; instances are named after their container and attempt.

use super::*;
use crate::plan::probe::{Finding, Health};
use crate::podspec::{Handler, Probe, Probes};
use crate::testing::pods;

/// The containers of all these pods: one of each role, and two regular ones.
const ROLES: [(&str, Role); 6] = [
    ("first", Role::Init),
    ("proxy", Role::Sidecar),
    ("second", Role::Init),
    ("web", Role::Regular),
    ("aux", Role::Regular),
    ("debug", Role::Ephemeral),
];

/// A pod whose containers are those named in `states`, each as it is said there; its images are at hand.
pub(in crate::plan) fn pod_of(states: &[&str]) -> Case {
    let mut case = fresh(&json!({}), &json!({}));
    case.pod.containers = states.iter().map(|state| container(state.split_once(' ').unwrap().0)).collect();
    case.memory = PodMemory::new(&vec![0; states.len()]);
    case.done(&Step::PrepareVolumes, &Outcome::Done);
    case.observed.sandboxes.push(sandbox("s0", 0, true));
    case.look(states);
    case.has_images();
    case
}

fn container(name: &str) -> Container {
    let (_, role) = ROLES.into_iter().find(|(known, _)| *known == name).unwrap();
    let restart_policy = match role {
        Role::Sidecar | Role::Regular => RestartPolicy::Always,
        Role::Init => RestartPolicy::OnFailure,
        Role::Ephemeral => RestartPolicy::Never,
    };
    Container { role, restart_policy, ..pods::container(name, "image:1", &[]) }
}

/// What a word says of an instance; none for `-`.
fn phase(word: &str) -> Option<ContainerPhase> {
    Some(match word {
        "-" => return None,
        "made" => ContainerPhase::Created,
        "runs" => running_phase(),
        "lost" => ContainerPhase::Unknown,
        "done" => exited_with(0),
        "oom" => match exited_with(0) {
            ContainerPhase::Exited { started_at, finished_at, exit_code, message, .. } => {
                ContainerPhase::Exited { started_at, finished_at, exit_code, message, reason: "OOMKilled".to_owned() }
            }
            other => other,
        },
        code => exited_with(code.parse().unwrap()),
    })
}

impl Case {
    /// The runtime has these instances, the first of their containers, in the newest sandbox.
    pub(in crate::plan) fn look(&mut self, states: &[&str]) {
        let sandbox = self.observed.sandboxes[0].id.clone();
        self.observed.containers = states
            .iter()
            .filter_map(|state| {
                let (name, word) = state.split_once(' ').unwrap();
                let made = self.container(&format!("{name}-0"), sandbox.as_str(), 0, phase(word)?);
                Some(ObservedContainer { name: name.to_owned(), spec_hash: "hash-1".to_owned(), ..made })
            })
            .collect();
    }

    pub(super) fn index(&self, name: &str) -> usize {
        self.pod.containers.iter().position(|container| container.name == name).unwrap()
    }

    pub(in crate::plan) fn of(&mut self, name: &str) -> &mut Container {
        let index = self.index(name);
        &mut self.pod.containers[index]
    }

    /// Every image is there, as if it had just been looked for.
    pub(super) fn has_images(&mut self) {
        for container in 0..self.pod.containers.len() {
            let image = ImageUse { container, volume: None };
            self.done(&Step::InspectImage { image }, &Outcome::Image("image".to_owned()));
        }
    }

    /// The steps of the plan, in words.
    pub(super) fn steps(&mut self) -> Vec<String> {
        let plan = self.plan();
        plan.steps.iter().map(|step| self.words(step)).collect()
    }

    pub(super) fn words(&self, step: &Step) -> String {
        let name = |index: &usize| &self.pod.containers[*index].name;
        let ends = |deadline: &Moment, why: &StopReason| format!("by {} {why:?}", deadline.0.as_secs());
        match step {
            Step::PrepareVolumes => "volumes".to_owned(),
            Step::CreateSandbox { attempt } => format!("sandbox {attempt}"),
            Step::StopSandbox { id } => format!("stop {id}"),
            Step::RemoveSandbox { id } => format!("remove {id}"),
            Step::InspectImage { image } => format!("look for {}", name(&image.container)),
            Step::PullImage { image } => format!("pull {}", name(&image.container)),
            Step::CreateContainer { container, attempt, .. } => format!("make {}-{attempt}", name(container)),
            Step::StartContainer { id, .. } => format!("start {id}"),
            Step::PostStart { id, .. } => format!("greet {id}"),
            Step::PreStop { id, deadline, why, .. } => format!("part from {id} {}", ends(deadline, why)),
            Step::StopContainer { id, deadline, why, .. } => format!("stop {id} {}", ends(deadline, why)),
            Step::RemoveContainer { id } => format!("remove {id}"),
            Step::Release => "release".to_owned(),
            Step::CleanUp => "clean up".to_owned(),
        }
    }

    /// Begins the only step of the plan.
    pub(super) fn begin(&mut self) -> Step {
        let [step] = <[Step; 1]>::try_from(self.plan().steps).unwrap();
        self.memory.begin(&step);
        step
    }

    pub(super) fn end(&mut self, step: &Step, outcome: &Outcome) {
        self.memory.end(step, outcome, self.now);
    }

    /// Probes have found this out about the first instance of a container.
    pub(in crate::plan) fn found(&mut self, name: &str, change: impl FnOnce(&mut Health)) {
        let index = self.index(name);
        let mut health = Health::initial(&self.pod.containers[index].probes);
        change(&mut health);
        self.healths.insert(format!("{name}-0").as_str().into(), health);
    }
}

/// A probe of which only the grace period matters here.
pub(in crate::plan) fn probe(grace_period: Option<u64>) -> Option<Probe> {
    let second = Duration::from_secs(1);
    Some(Probe {
        handler: Handler::Sleep(second),
        initial_delay: second,
        period: second,
        timeout: second,
        success_threshold: 1,
        failure_threshold: 1,
        grace_period: grace_period.map(Duration::from_secs),
    })
}

const NONE: [&str; 0] = [];

#[test]
fn init_containers_run_one_after_the_other_and_sidecars_stay() {
    let rows: [([&str; 4], &[&str]); 18] = [
        (["first -", "proxy -", "second -", "web -"], &["make first-0"]),
        (["first made", "proxy -", "second -", "web -"], &["start first-0"]),
        (["first runs", "proxy -", "second -", "web -"], &[]),
        (["first lost", "proxy -", "second -", "web -"], &["stop first-0 by 1030 Unknown"]),
        (["first 1", "proxy -", "second -", "web -"], &["make first-1"]),
        (["first oom", "proxy -", "second -", "web -"], &["make first-1"]),
        (["first done", "proxy -", "second -", "web -"], &["make proxy-0"]),
        (["first done", "proxy made", "second -", "web -"], &["start proxy-0"]),
        (["first done", "proxy runs", "second -", "web -"], &["make second-0"]),
        (["first done", "proxy done", "second -", "web -"], &["make proxy-1"]),
        // A sidecar that was passed is kept running, and holds nothing up.
        (["first done", "proxy 1", "second runs", "web -"], &["make proxy-1"]),
        (["first done", "proxy lost", "second runs", "web -"], &["stop proxy-0 by 1030 Unknown"]),
        (["first done", "proxy 1", "second done", "web -"], &["make proxy-1", "make web-0"]),
        (["first done", "proxy runs", "second done", "web -"], &["make web-0"]),
        (["first done", "proxy runs", "second done", "web runs"], &[]),
        (["first done", "proxy 1", "second done", "web runs"], &["make proxy-1"]),
        // What was removed since it was done is not missed, nor is what failed in the end.
        (["first -", "proxy -", "second done", "web -"], &["make proxy-0", "make web-0"]),
        (["first -", "proxy runs", "second 1", "web 1"], &["make web-1"]),
    ];
    for (states, steps) in rows {
        assert_eq!(pod_of(&states).steps(), steps, "{states:?}");
    }
}

#[test]
fn what_follows_a_sidecar_waits_until_it_has_started() {
    let steps = |startup: Finding, liveness: Finding, second: &str| {
        let second = format!("second {second}");
        let mut case = pod_of(&["first done", "proxy runs", &second, "web -"]);
        case.of("proxy").probes = Probes { startup: probe(Some(5)), liveness: probe(None), readiness: probe(None) };
        case.found("proxy", |health| (health.startup, health.liveness) = (startup, liveness));
        case.steps()
    };
    use Finding::{Failure, Success, Unknown};
    assert_eq!(steps(Unknown, Success, "-"), NONE);
    assert_eq!(steps(Success, Success, "-"), ["make second-0"], "whether it is ready does not matter");
    assert_eq!(steps(Failure, Success, "-"), ["stop proxy-0 by 1005 Startup"]);
    assert_eq!(steps(Unknown, Success, "done"), ["make web-0"], "after a restart it holds up nothing");
    assert_eq!(steps(Success, Failure, "done"), ["stop proxy-0 by 1030 Liveness", "make web-0"]);
}

#[test]
fn in_a_new_sandbox_everything_begins_again() {
    let mut case = pod_of(&["first done", "proxy 137", "second done", "web 137"]);
    case.observed.sandboxes.insert(0, sandbox("s1", 1, true));
    assert_eq!(case.steps(), ["make first-1"]);

    let mut case = pod_of(&["first done", "proxy runs", "second done", "web runs"]);
    case.observed.sandboxes[0] = sandbox("s0", 0, false);
    assert_eq!(case.steps(), ["stop web-0 by 1030 Ending"], "and before that all end, in their order");
    case.look(&["first done", "proxy runs", "second done", "web 137"]);
    case.now = at(1010);
    assert_eq!(case.steps(), ["stop proxy-0 by 1030 Ending"], "within one grace period");
    case.look(&["first done", "proxy 137", "second done", "web 137"]);
    assert_eq!(case.steps(), ["sandbox 1"]);
}

#[test]
fn a_regular_container_waits_for_those_before_it_to_be_started_or_to_rest() {
    let rows: [([&str; 2], &[&str]); 6] = [
        (["web -", "aux -"], &["make web-0"]),
        (["web made", "aux -"], &["start web-0"]),
        (["web runs", "aux -"], &["make aux-0"]),
        (["web -", "aux 1"], &["make web-0"]),
        (["web 1", "aux runs"], &["make web-1"]),
        (["web 1", "aux 1"], &["make web-1"]),
    ];
    for (states, steps) in rows {
        assert_eq!(pod_of(&states).steps(), steps, "{states:?}");
    }
    let mut case = pod_of(&["web -", "aux -"]);
    let step = case.begin();
    assert_eq!(case.steps(), NONE, "{step:?} is under way");
    case.end(&step, &Outcome::Failed("why".to_owned()));
    case.has_images();
    assert_eq!(case.steps(), ["make aux-0"], "the first rests after its failure");

    let mut case = pod_of(&["web -", "aux -"]);
    case.memory = PodMemory::new(&[0, 0]);
    case.observed.sandboxes.clear();
    let steps = case.steps();
    assert_eq!(steps, ["volumes", "sandbox 0", "look for web", "look for aux"], "images are looked for at once");
    let mut case = pod_of(&["first -", "web -"]);
    case.memory = PodMemory::new(&[0, 0]);
    assert_eq!(case.steps(), ["volumes", "look for first"], "but not before all that may bring them is done");
}

#[test]
fn a_post_start_hook_holds_up_what_follows_and_ends_its_container_if_it_fails() {
    let started = || {
        let mut case = pod_of(&["web made", "aux -"]);
        case.of("web").hooks.post_start = Some(Handler::Exec(vec!["hello".to_owned()]));
        let start = case.begin();
        case.look(&["web runs", "aux -"]);
        case.end(&start, &Outcome::Done);
        assert_eq!(case.steps(), ["greet web-0"]);
        case
    };
    let mut case = started();
    let greet = case.begin();
    assert_eq!(case.steps(), NONE);
    case.end(&greet, &Outcome::Done);
    assert_eq!(case.steps(), ["make aux-0"]);

    let mut case = started();
    let greet = case.begin();
    case.end(&greet, &Outcome::Failed("no".to_owned()));
    assert_eq!(case.steps(), ["stop web-0 by 1030 PostStartHook", "make aux-0"]);
    case.look(&["web 137", "aux runs"]);
    let waiting = case.plan().waiting.remove(0).unwrap();
    assert_eq!((waiting.reason, waiting.message.as_str()), ("PostStartHookError", "no"));
    case.now = at(1001);
    assert_eq!(case.steps(), ["make web-1"]);

    // Whoever has not started it does not greet it.
    let mut case = started();
    case.memory = PodMemory::new(&[1, 0]);
    case.done(&Step::PrepareVolumes, &Outcome::Done);
    case.has_images();
    assert_eq!(case.steps(), ["make aux-0"]);

    // A hook that outlives its container says nothing about the next one.
    let mut case = started();
    let greet = case.begin();
    case.look(&["web 1", "aux -"]);
    assert_eq!(case.steps(), ["make web-1"]);
    case.end(&greet, &Outcome::Failed("gone".to_owned()));
    case.look(&["web runs", "aux -"]);
    assert_eq!(case.steps(), ["make aux-0"]);
}

#[test]
fn a_probe_that_fails_ends_its_container_within_its_own_grace_period() {
    let mut case = pod_of(&["web runs"]);
    case.of("web").probes = Probes { startup: probe(None), liveness: probe(Some(3)), readiness: probe(None) };
    case.found("web", |health| health.readiness = Finding::Failure);
    assert_eq!(case.steps(), NONE, "one that is not ready stays");
    case.found("web", |health| health.startup = Finding::Failure);
    assert_eq!(case.steps(), ["stop web-0 by 1030 Startup"]);
    case.found("web", |health| health.liveness = Finding::Failure);
    assert_eq!(case.steps(), ["stop web-0 by 1003 Liveness"]);

    // What was begun is seen through, also when the probe thinks better of it; a shorter grace period holds.
    case.of("web").hooks.pre_stop = Some(Handler::Sleep(Duration::from_secs(1)));
    let part = case.begin();
    assert_eq!(case.words(&part), "part from web-0 by 1003 Liveness");
    case.healths.clear();
    case.now = at(1002);
    case.end(&part, &Outcome::Done);
    assert_eq!(case.steps(), ["stop web-0 by 1003 Liveness"]);
    case.wanted = Wanted::Stop { deadline: at(1060) };
    assert_eq!(case.steps(), ["stop web-0 by 1003 Liveness"]);
    case.look(&["web 137"]);
    case.wanted = Wanted::Run;
    assert_eq!(case.steps(), ["make web-1"], "and it runs again, as its policy says");
    case.of("web").restart_policy = RestartPolicy::Never;
    assert_eq!(case.steps(), ["stop s0"], "or does not");
}

#[test]
fn what_is_said_of_a_stop_is_in_kubernetes_words() {
    let message = |name: &str, policy: RestartPolicy, why: StopReason| {
        why.message(&Container { restart_policy: policy, ..container(name) })
    };
    use RestartPolicy::{Always, Never};
    let rows = [
        ("web", Always, StopReason::Liveness, "Container web failed liveness probe, will be restarted"),
        ("web", Never, StopReason::Liveness, "Container web failed liveness probe"),
        ("web", Always, StopReason::Startup, "Container web failed startup probe, will be restarted"),
        ("web", Never, StopReason::DefinitionChanged, "Container web definition changed, will be restarted"),
        ("web", Always, StopReason::PostStartHook, "FailedPostStartHook"),
        ("web", Always, StopReason::Ending, "Stopping container web"),
        ("proxy", Always, StopReason::Liveness, "Init container proxy failed liveness probe"),
        ("proxy", Always, StopReason::Unknown, "Init container is in \"unknown\" state, try killing it before restart"),
    ];
    for (name, policy, why, expected) in rows {
        assert_eq!(message(name, policy, why), expected);
    }
}

#[test]
fn a_container_added_to_the_running_pod_is_started_once() {
    let rows: [([&str; 2], &[&str]); 6] = [
        (["web runs", "debug -"], &["make debug-0"]),
        (["web -", "debug -"], &["make web-0", "make debug-0"]),
        (["web runs", "debug made"], &["start debug-0"]),
        (["web runs", "debug runs"], &[]),
        (["web runs", "debug 1"], &[]),
        (["web runs", "debug lost"], &["stop debug-0 by 1030 Unknown"]),
    ];
    for (states, steps) in rows {
        assert_eq!(pod_of(&states).steps(), steps, "{states:?}");
    }
    let mut case = pod_of(&["web runs", "debug -"]);
    case.memory = PodMemory::new(&[1, 1]);
    case.done(&Step::PrepareVolumes, &Outcome::Done);
    assert_eq!(case.steps(), NONE, "its log tells that it ran, though the runtime has forgotten it");
    let mut case = pod_of(&["web runs"]);
    case.pod.containers.push(container("debug"));
    case.memory.extend(&[1, 0]);
    assert_eq!(case.steps(), ["look for debug"], "it may be added at any time");
}
