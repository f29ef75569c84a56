use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::memory::Outcome;
use super::*;
use crate::podspec::tests::resolved;

mod endings;
pub(super) mod lives;
mod simulation;

/// A pod, what the runtime has of it and what its worker remembers.
pub(super) struct Case {
    pub(super) pod: Pod,
    pub(super) wanted: Wanted,
    pub(super) observed: ObservedPod,
    pub(super) memory: PodMemory,
    pub(super) healths: Healths,
    pub(super) now: Moment,
}

pub(super) const WEB: usize = 0;

/// A pod of one container, with these fields laid over it, of which nothing was begun.
pub(super) fn fresh(pod: &Value, container: &Value) -> Case {
    let pod = resolved(pod, container);
    let memory = PodMemory::new(&[0]);
    let (observed, healths) = (ObservedPod::default(), Healths::new());
    Case { pod, wanted: Wanted::Run, observed, memory, healths, now: at(1000) }
}

/// The same with its volumes in place.
fn prepared(container: &Value) -> Case {
    let mut case = fresh(&json!({}), container);
    case.done(&Step::PrepareVolumes, &Outcome::Done);
    case
}

/// The same with its sandbox up.
fn with_sandbox(container: &Value) -> Case {
    let mut case = prepared(container);
    case.observed.sandboxes.push(sandbox("s0", 0, true));
    case
}

/// The good base: all runs as it should.
pub(super) fn running() -> Case {
    let mut case = with_sandbox(&json!({}));
    let container = case.container("c0", "s0", 0, running_phase());
    case.observed.containers.push(container);
    case
}

pub(super) fn at(second: u64) -> Moment {
    Moment(Duration::from_secs(second))
}

pub(super) fn sandbox(id: &str, attempt: u32, ready: bool) -> ObservedSandbox {
    let ips: Vec<IpAddr> = if ready { vec!["10.4.0.2".parse().unwrap()] } else { vec![] };
    ObservedSandbox { id: id.into(), attempt, ready, ips, created_at: Timestamp::UNIX_EPOCH }
}

pub(super) fn running_phase() -> ContainerPhase {
    ContainerPhase::Running { started_at: Timestamp::UNIX_EPOCH }
}

fn exited() -> ContainerPhase {
    exited_with(1)
}

pub(super) fn exited_with(exit_code: i32) -> ContainerPhase {
    ContainerPhase::Exited {
        started_at: Timestamp::UNIX_EPOCH,
        finished_at: Timestamp::UNIX_EPOCH,
        exit_code,
        reason: if exit_code == 0 { "Completed" } else { "Error" }.to_owned(),
        message: String::new(),
    }
}

impl Case {
    pub(super) fn container(&self, id: &str, sandbox: &str, attempt: u32, phase: ContainerPhase) -> ObservedContainer {
        ObservedContainer {
            id: id.into(),
            sandbox: sandbox.into(),
            name: "web".to_owned(),
            attempt,
            phase,
            image: "nginx:1".to_owned(),
            image_ref: "sha256:1".to_owned(),
            spec_hash: self.pod.containers[WEB].spec_hash.clone(),
            user: None,
        }
    }

    /// Notes a step as begun and ended.
    fn done(&mut self, step: &Step, outcome: &Outcome) {
        self.memory.begin(step);
        self.memory.end(step, outcome, self.now);
    }

    fn has_image(&mut self) {
        self.done(&inspect(), &Outcome::Image("sha256:1".to_owned()));
    }

    fn plan(&mut self) -> Plan {
        self.memory.observe(&self.pod, &self.observed, self.now);
        plan(&self.pod, self.wanted, &self.observed, &self.memory, &self.healths, self.now)
    }

    /// What the plan says of the container, if anything.
    fn waiting(&mut self) -> Option<(&'static str, String)> {
        self.plan().waiting[WEB].take().map(|waiting| (waiting.reason, waiting.message))
    }
}

/// One row: the good base, changed, leads to these steps.
fn check(what: &str, change: impl FnOnce(&mut Case), steps: &[Step]) {
    let mut case = running();
    change(&mut case);
    let plan = case.plan();
    assert_eq!(plan.steps, steps, "{what}");
}

/// The image that the container runs from.
const OWN: ImageUse = ImageUse { container: WEB, volume: None };

fn create(attempt: u32, sandbox: &str) -> Step {
    let (sandbox, image_ref) = (sandbox.into(), "sha256:1".to_owned());
    Step::CreateContainer { container: WEB, attempt, sandbox, image_ref, volume_images: BTreeMap::new() }
}

fn stop(id: &str, deadline: Moment, why: StopReason) -> Step {
    Step::StopContainer { name: "web".to_owned(), id: id.into(), deadline, why, announced: false }
}

fn inspect() -> Step {
    Step::InspectImage { image: OWN }
}

fn pull() -> Step {
    Step::PullImage { image: OWN }
}

fn pulled() -> Outcome {
    Outcome::Pulled { id: "sha256:1".to_owned(), size_bytes: 1, took: Duration::ZERO }
}

fn stop_sandbox(id: &str) -> Step {
    Step::StopSandbox { id: id.into() }
}

fn remove_sandbox(id: &str) -> Step {
    Step::RemoveSandbox { id: id.into() }
}

fn remove(id: &str) -> Step {
    Step::RemoveContainer { id: ContainerId::from(id) }
}

/// The base's grace period is 30 s.
const FULL_GRACE: u64 = 1030;

#[test]
fn a_pod_comes_up_step_by_step() {
    let mut case = fresh(&json!({}), &json!({}));
    assert_eq!(case.plan().steps, [Step::PrepareVolumes, Step::CreateSandbox { attempt: 0 }, inspect()]);
    case.memory.begin(&Step::PrepareVolumes);
    case.observed.sandboxes.push(sandbox("s0", 0, true));
    case.done(&Step::CreateSandbox { attempt: 0 }, &Outcome::Done);
    case.done(&inspect(), &Outcome::NoImage);
    assert_eq!(case.plan().steps, [pull()]);
    case.memory.begin(&pull());
    assert_eq!(case.plan().steps, [], "what is under way is not begun again");
    case.memory.end(&pull(), &pulled(), case.now);
    assert_eq!(case.plan().steps, [], "all volumes come before any container");
    case.memory.end(&Step::PrepareVolumes, &Outcome::Done, case.now);
    assert_eq!(case.plan().steps, [create(0, "s0")]);
    let created = case.container("c0", "s0", 0, ContainerPhase::Created);
    case.observed.containers.push(created);
    case.done(&create(0, "s0"), &Outcome::Done);
    let start = Step::StartContainer { container: WEB, id: "c0".into() };
    assert_eq!(case.plan().steps, std::slice::from_ref(&start));
    case.observed.containers[0].phase = running_phase();
    case.done(&start, &Outcome::Done);
    assert_eq!(case.plan(), Plan { waiting: vec![None], ..Plan::default() });
}

#[test]
fn what_control_has_not_answered_is_waited_for_but_not_for_ever() {
    let mut case = fresh(&json!({}), &json!({}));
    case.memory.hear(false, case.now);
    case.done(&inspect(), &Outcome::NoImage);
    assert_eq!(case.plan().steps, [Step::CreateSandbox { attempt: 0 }], "which needs nothing of it");
    case.observed.sandboxes.push(sandbox("s0", 0, true));
    assert_eq!((case.plan().steps, case.plan().wake_at), (vec![], Some(at(1030))));
    case.now = at(1010);
    case.memory.hear(false, case.now);
    assert_eq!(case.plan().wake_at, Some(at(1030)), "the wait does not begin anew");
    let mut answered = with_sandbox(&json!({}));
    answered.memory = case.memory.clone();
    answered.memory.hear(true, answered.now);
    assert_eq!(answered.plan().steps, [Step::PrepareVolumes, pull()]);
    case.now = at(1030);
    assert_eq!(case.plan().steps, [Step::PrepareVolumes, pull()], "each says by itself what it lacks");

    check("what runs stays, and what ends may", |case| case.memory.hear(false, case.now), &[]);
    check(
        "a container that would be made anew waits",
        |case| {
            case.memory.hear(false, case.now);
            case.observed.containers[0].phase = exited();
            case.has_image();
        },
        &[],
    );
}

#[test]
fn what_runs_as_it_should_is_left_alone() {
    check("base", |_| {}, &[]);
    check(
        "a pod with the host's network has no address of its own",
        |case| {
            case.pod.namespaces.host_network = true;
            case.observed.sandboxes[0].ips.clear();
        },
        &[],
    );
    check(
        "after a restart of the agent only the volumes are looked at",
        |case| {
            case.memory = PodMemory::new(&[1]);
        },
        &[Step::PrepareVolumes],
    );
}

#[test]
fn a_sandbox_that_cannot_be_used_is_replaced_after_all_in_it_has_ended() {
    let broken = |case: &mut Case| case.observed.sandboxes[0] = sandbox("s0", 0, false);
    let ended = |case: &mut Case| case.observed.containers[0].phase = exited();
    let stopped = |case: &mut Case| case.done(&stop_sandbox("s0"), &Outcome::Done);
    check("with a live container", broken, &[stop("c0", at(FULL_GRACE), StopReason::Ending), inspect()]);
    check(
        "while it is stopped",
        |case| {
            broken(case);
            case.memory.begin(&stop("c0", at(1010), StopReason::Ending));
        },
        &[inspect()],
    );
    let tried = |case: &mut Case| case.done(&Step::CreateSandbox { attempt: 0 }, &Outcome::Done);
    check(
        "found dead, as after a reboot",
        |case| {
            broken(case);
            ended(case);
        },
        &[Step::CreateSandbox { attempt: 1 }, inspect()],
    );
    check(
        "not stopped itself",
        |case| {
            tried(case);
            broken(case);
            ended(case);
        },
        &[stop_sandbox("s0"), inspect()],
    );
    check(
        "found without an address",
        |case| {
            case.observed.sandboxes[0].ips.clear();
            ended(case);
        },
        &[stop_sandbox("s0"), inspect()],
    );
    check(
        "wholly stopped",
        |case| {
            tried(case);
            broken(case);
            ended(case);
            stopped(case);
            case.now = at(1001);
        },
        &[Step::CreateSandbox { attempt: 1 }, inspect()],
    );
    check(
        "while a container is still being made",
        |case| {
            broken(case);
            ended(case);
            case.memory.begin(&create(1, "s0"));
        },
        &[inspect()],
    );
    check(
        "ready, but without an address",
        |case| {
            case.observed.sandboxes[0].ips.clear();
            ended(case);
            stopped(case);
        },
        &[Step::CreateSandbox { attempt: 1 }, inspect()],
    );
    check(
        "volumes cannot be put in place",
        |case| {
            case.memory = PodMemory::new(&[0]);
            case.done(&Step::PrepareVolumes, &Outcome::Failed("no".to_owned()));
            case.observed = ObservedPod::default();
        },
        &[Step::CreateSandbox { attempt: 0 }, inspect()],
    );
}

#[test]
fn a_container_is_decided_by_its_newest_instance() {
    let phase = |phase| move |case: &mut Case| case.observed.containers[0].phase = phase;
    check(
        "ended",
        |case| {
            phase(exited())(case);
            case.has_image();
        },
        &[create(1, "s0")],
    );
    check("ended, image not looked for yet", phase(exited()), &[inspect()]);
    check("unknown", phase(ContainerPhase::Unknown), &[stop("c0", at(FULL_GRACE), StopReason::Unknown)]);
    check(
        "made, not started",
        phase(ContainerPhase::Created),
        &[Step::StartContainer { container: WEB, id: "c0".into() }],
    );
    check(
        "defined otherwise",
        |case| case.observed.containers[0].spec_hash.clear(),
        &[stop("c0", at(FULL_GRACE), StopReason::DefinitionChanged)],
    );
    check(
        "made of another definition",
        |case| {
            phase(ContainerPhase::Created)(case);
            case.observed.containers[0].spec_hash.clear();
            case.has_image();
        },
        &[create(1, "s0")],
    );
    check(
        "lost by the runtime, known from its log",
        |case| {
            case.observed.containers.clear();
            case.memory = PodMemory::new(&[7]);
            case.done(&Step::PrepareVolumes, &Outcome::Done);
            case.has_image();
        },
        &[create(7, "s0")],
    );
}

#[test]
fn no_two_instances_of_a_container_live_at_once() {
    let second_sandbox = |case: &mut Case| case.observed.sandboxes.insert(0, sandbox("s1", 1, true));
    check(
        "one lives in an older sandbox",
        |case| {
            second_sandbox(case);
            case.has_image();
        },
        &[stop("c0", at(FULL_GRACE), StopReason::Ending)],
    );
    check(
        "one was made in the newer one",
        |case| {
            second_sandbox(case);
            let made = case.container("c1", "s1", 1, ContainerPhase::Created);
            case.observed.containers.insert(0, made);
        },
        &[stop("c0", at(FULL_GRACE), StopReason::Ending)],
    );
}

#[test]
fn of_what_has_ended_the_last_instance_stays() {
    let older = |case: &mut Case, id: &str, sandbox: &str, attempt, phase| {
        let container = case.container(id, sandbox, attempt, phase);
        case.observed.containers.push(container);
    };
    let old_sandbox = |case: &mut Case| {
        case.observed.sandboxes = vec![sandbox("s1", 1, true), sandbox("s0", 0, false)];
        case.observed.containers[0] = case.container("c2", "s1", 2, running_phase());
    };
    check(
        "of two, the newer",
        |case| {
            case.observed.containers[0] = case.container("c2", "s0", 2, running_phase());
            older(case, "c1", "s0", 1, exited());
            older(case, "c0", "s0", 0, exited());
        },
        &[remove("c0")],
    );
    check(
        "in an old sandbox, which stays with it",
        |case| {
            old_sandbox(case);
            older(case, "c1", "s0", 1, exited());
        },
        &[stop_sandbox("s0")],
    );
    check(
        "while the next is on its way nothing goes",
        |case| {
            old_sandbox(case);
            case.observed.containers[0].phase = ContainerPhase::Created;
            older(case, "c1", "s0", 1, exited());
            older(case, "c0", "s0", 0, exited());
        },
        &[Step::StartContainer { container: WEB, id: "c2".into() }],
    );
    check(
        "nor while it is being started",
        |case| {
            old_sandbox(case);
            older(case, "c0", "s0", 0, exited());
            case.memory.begin(&Step::StartContainer { container: WEB, id: "c2".into() });
        },
        &[],
    );
    check(
        "an old sandbox without any goes",
        |case| {
            old_sandbox(case);
            case.done(&stop_sandbox("s0"), &Outcome::Done);
        },
        &[remove_sandbox("s0")],
    );
    check(
        "an instance that never ran goes with its sandbox",
        |case| {
            old_sandbox(case);
            older(case, "c1", "s0", 1, ContainerPhase::Created);
        },
        &[remove("c1"), stop_sandbox("s0")],
    );
}

#[test]
fn clearing_up_makes_way_for_other_pods_for_a_while() {
    let mut case = running();
    case.observed.sandboxes.push(sandbox("s-1", 0, false));
    let mut plan_at = |second, others| {
        case.now = at(second);
        case.memory.yield_to(others, case.now);
        let plan = case.plan();
        (plan.steps, plan.wake_at)
    };
    let stops = (vec![stop_sandbox("s-1")], None);
    assert_eq!(plan_at(1000, false), stops);
    assert_eq!(plan_at(1000, true), (vec![], Some(at(1001))));
    assert_eq!(plan_at(1009, true), (vec![], Some(at(1010))));
    assert_eq!(plan_at(1010, true), stops, "not for ever");
    assert_eq!(plan_at(1011, false), stops);
    assert_eq!(plan_at(1011, true), (vec![], Some(at(1012))), "the while begins anew");
}

#[test]
fn a_pod_that_ends_goes_in_order() {
    let mut case = running();
    case.wanted = Wanted::Stop { deadline: at(1030) };
    let stop = stop("c0", at(1030), StopReason::Ending);
    assert_eq!(case.plan().steps, std::slice::from_ref(&stop));
    case.memory.begin(&stop);
    assert_eq!(case.plan().steps, []);
    case.observed.containers[0].phase = exited();
    assert_eq!(case.plan().steps, [], "a step under way may still change what is there");
    case.memory.end(&stop, &Outcome::Done, case.now);
    assert_eq!(case.plan().steps, [stop_sandbox("s0")]);
    case.observed.sandboxes[0].ready = false;
    case.done(&stop_sandbox("s0"), &Outcome::Done);
    assert_eq!(case.plan().steps, [remove_sandbox("s0"), Step::CleanUp]);
    case.memory.begin(&Step::CleanUp);
    case.observed.sandboxes.clear();
    case.done(&remove_sandbox("s0"), &Outcome::Done);
    assert_eq!(case.plan(), Plan { waiting: vec![None], ..Plan::default() }, "what is on disk is still there");
    case.memory.end(&Step::CleanUp, &Outcome::Done, case.now);
    assert_eq!(case.plan().steps, [remove("c0")], "a container the sandbox did not take with it");
    case.observed.containers.clear();
    assert_eq!(case.plan(), Plan { gone: true, waiting: vec![None], ..Plan::default() });
}

#[test]
fn ending_does_not_wait_for_pulls_but_for_all_that_makes_something() {
    let check = |step: Step, steps: &[Step]| {
        let mut case = with_sandbox(&json!({}));
        case.wanted = Wanted::Stop { deadline: case.now };
        case.memory.begin(&step);
        assert_eq!(case.plan().steps, steps, "{step:?}");
    };
    check(pull(), &[stop_sandbox("s0")]);
    check(create(0, "s0"), &[]);
    check(Step::PrepareVolumes, &[]);
}

#[test]
fn a_grace_period_can_be_cut_short_but_not_below_two_seconds() {
    let mut case = running();
    case.memory.begin(&stop("c0", at(1030), StopReason::Ending));
    let mut steps_for = |deadline| {
        case.wanted = Wanted::Stop { deadline };
        case.plan().steps
    };
    assert_eq!(steps_for(at(1030)), []);
    assert_eq!(steps_for(at(1040)), []);
    let sooner = Step::StopContainer {
        name: "web".to_owned(),
        id: "c0".into(),
        deadline: at(1005),
        why: StopReason::Ending,
        announced: true,
    };
    assert_eq!(steps_for(at(1005)), [sooner]);

    assert_eq!(grace_left(at(1030), at(1000)), Duration::from_secs(30));
    assert_eq!(grace_left(at(1001), at(1000)), GRACE_MIN);
    assert_eq!(grace_left(at(900), at(1000)), GRACE_MIN);
}

/// Lets the container end `second`s after it was started; gives back how long it then has to wait for its next start.
fn restart_delay(case: &mut Case, lifetime: u64) -> Duration {
    let attempt = case.observed.containers[0].attempt;
    case.now = case.now + Duration::from_secs(lifetime);
    case.observed.containers[0].phase = exited();
    let ended_at = case.now;
    if let Some(wake_at) = case.plan().wake_at {
        let seconds = wake_at.since(ended_at).as_secs();
        let delay = if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) };
        let message = format!("back-off {delay} restarting failed container=web pod=web-bcdfghjklm_default(0-1)");
        assert_eq!(case.waiting(), Some(("CrashLoopBackOff", message)));
        assert_eq!(case.plan().steps, []);
        case.now = wake_at;
    }
    assert_eq!(case.plan().steps, [inspect()], "the image is looked for before each start");
    case.has_image();
    let step = create(attempt + 1, "s0");
    assert_eq!(case.plan().steps, std::slice::from_ref(&step));
    case.done(&step, &Outcome::Done);
    let next = case.container(&format!("c{}", attempt + 1), "s0", attempt + 1, running_phase());
    case.observed.containers = vec![next];
    assert_eq!(case.plan().steps, []);
    case.now.since(ended_at)
}

#[test]
fn a_container_that_keeps_ending_waits_longer_each_time() {
    let mut case = running();
    let delays: Vec<_> = (0..8).map(|_| restart_delay(&mut case, 1).as_secs()).collect();
    assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
    assert_eq!(restart_delay(&mut case, 600).as_secs(), 300);
    assert_eq!(restart_delay(&mut case, 601).as_secs(), 0, "a long life is forgiven");
    assert_eq!(restart_delay(&mut case, 1).as_secs(), 10);
}

#[test]
fn a_failed_pull_is_told_and_tried_again_later_each_time() {
    let mut case = with_sandbox(&json!({ "imagePullPolicy": "Always" }));
    let mut delays = Vec::new();
    for _ in 0..7 {
        assert_eq!(case.plan().steps, [pull()]);
        case.done(&pull(), &Outcome::Failed("not found".to_owned()));
        let failed_at = case.now;
        assert_eq!(case.waiting(), Some(("ErrImagePull", "not found".to_owned())));
        case.now = case.plan().wake_at.unwrap();
        let message = "Back-off pulling image \"nginx:1\": ErrImagePull: not found".to_owned();
        assert_eq!(case.waiting(), Some(("ImagePullBackOff", message)));
        case.now = case.plan().wake_at.unwrap();
        delays.push(case.now.since(failed_at).as_secs());
    }
    assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
    case.done(&pull(), &pulled());
    assert_eq!(case.plan(), Plan { steps: vec![create(0, "s0")], waiting: vec![None], ..Plan::default() });
}

#[test]
fn an_image_that_is_there_will_do_while_its_registry_does_not_answer() {
    let pull_fails = |error: &str| {
        let mut case = with_sandbox(&json!({ "imagePullPolicy": "Always" }));
        case.done(&pull(), &Outcome::Failed(error.to_owned()));
        case
    };
    let silence = "failed to resolve reference \"docker.io/library/nginx:1\": failed to do request: Head \
                   \"https://registry.example/v2/\": dial tcp: lookup registry.example: no such host";
    let mut case = pull_fails(silence);
    assert_eq!(case.plan().steps, [inspect()]);
    case.has_image();
    assert_eq!(case.plan(), Plan { steps: vec![create(0, "s0")], waiting: vec![None], ..Plan::default() });

    let mut case = pull_fails(silence);
    case.done(&inspect(), &Outcome::NoImage);
    assert_eq!(case.waiting(), Some(("ErrImagePull", silence.to_owned())));
    case.now = at(1010);
    assert_eq!(case.plan().steps, [pull()]);
    case.done(&pull(), &Outcome::Failed(silence.to_owned()));
    assert_eq!(case.plan().steps, [inspect()]);

    // Whoever answers is believed.
    for refusal in
        ["not found", "unexpected status: 401 Unauthorized", "[dial tcp: i/o timeout, insufficient_scope: denied]"]
    {
        assert_eq!(pull_fails(refusal).plan().steps, [], "{refusal}");
    }
}

#[test]
fn before_a_pull_is_repeated_the_image_is_looked_for_again() {
    let mut case = with_sandbox(&json!({}));
    case.done(&inspect(), &Outcome::NoImage);
    case.done(&pull(), &Outcome::Failed("no such host".to_owned()));
    case.now = at(1010);
    assert_eq!(case.plan().steps, [inspect()]);
    case.has_image();
    assert_eq!(case.plan().steps, [create(0, "s0")]);
}

#[test]
fn every_way_of_not_starting_has_its_reason() {
    let failed = || Outcome::Failed("why".to_owned());
    let why = || "why".to_owned();
    let waiting = |container: &Value, change: &dyn Fn(&mut Case)| {
        let mut case = with_sandbox(container);
        change(&mut case);
        let plan = case.plan();
        (plan.steps, plan.waiting[WEB].clone().map(|waiting| (waiting.reason, waiting.message)))
    };
    let none = json!({});
    assert_eq!(waiting(&none, &|_| {}), (vec![inspect()], None));
    assert_eq!(waiting(&json!({ "image": "a b" }), &|_| {}), (
        vec![],
        Some((
            "InvalidImageName",
            "Failed to apply default image tag \"a b\": couldn't parse image name \"a b\": invalid reference format"
                .to_owned()
        ))
    ));
    assert_eq!(waiting(&none, &|case| case.done(&inspect(), &failed())), (vec![], Some(("ImageInspectError", why()))));
    assert_eq!(
        waiting(&json!({ "imagePullPolicy": "Never" }), &|case| case.done(&inspect(), &Outcome::NoImage)),
        (
            vec![],
            Some((
                "ErrImageNeverPull",
                "Container image \"nginx:1\" is not present with pull policy of Never".to_owned()
            ))
        )
    );
    let exact = "SignatureValidationFailed: no key";
    assert_eq!(
        waiting(&none, &|case| case.done(&pull(), &Outcome::Failed(exact.to_owned()))).1,
        Some(("SignatureValidationFailed", exact.to_owned()))
    );
    assert_eq!(
        waiting(&none, &|case| case.done(&create(0, "s0"), &failed())),
        (vec![inspect()], Some(("CreateContainerError", why())))
    );
    assert_eq!(
        waiting(&none, &|case| case.done(&create(0, "s0"), &Outcome::Misconfigured(why()))).1,
        Some(("CreateContainerConfigError", why()))
    );
    assert_eq!(
        waiting(&none, &|case| case.done(&create(0, "s0"), &Outcome::Refused(why()))).1,
        Some(("UnexpectedAdmissionError", why()))
    );
    let start = Step::StartContainer { container: WEB, id: "c0".into() };
    assert_eq!(
        waiting(&none, &|case| {
            let made = case.container("c0", "s0", 0, ContainerPhase::Created);
            case.observed.containers.push(made);
            case.done(&start, &failed());
        }),
        (vec![], Some(("RunContainerError", why())))
    );
}

/// The pod's container mounts an image.
fn with_image_volume(pull_policy: &str) -> (Case, ImageUse) {
    let source = json!({ "reference": "models:1", "pullPolicy": pull_policy });
    let volumes = json!([{ "name": "other", "emptyDir": {} }, { "name": "models", "image": source }]);
    let mounts = json!([{ "name": "models", "mountPath": "/a" }, { "name": "models", "mountPath": "/b" }]);
    let mut case = fresh(&json!({ "volumes": volumes }), &json!({ "volumeMounts": mounts }));
    case.done(&Step::PrepareVolumes, &Outcome::Done);
    case.observed.sandboxes.push(sandbox("s0", 0, true));
    (case, ImageUse { container: WEB, volume: Some(1) })
}

#[test]
fn a_container_starts_when_the_images_it_mounts_are_there_too() {
    let (mut case, image) = with_image_volume("IfNotPresent");
    let (look, pull) = (Step::InspectImage { image }, Step::PullImage { image });
    assert_eq!(case.plan().steps, [inspect()]);
    case.has_image();
    assert_eq!(case.plan().steps, std::slice::from_ref(&look));
    case.done(&look, &Outcome::NoImage);
    assert_eq!(case.plan().steps, std::slice::from_ref(&pull));
    case.done(&pull, &Outcome::Failed("no such host".to_owned()));
    assert_eq!(case.waiting(), Some(("ErrImagePull", "no such host".to_owned())));
    case.now = case.plan().wake_at.unwrap();
    let message = "Back-off pulling image \"models:1\": ErrImagePull: no such host".to_owned();
    assert_eq!(case.waiting(), Some(("ImagePullBackOff", message)));
    case.now = case.plan().wake_at.unwrap();
    assert_eq!(case.plan().steps, std::slice::from_ref(&look));
    case.done(&look, &Outcome::NoImage);
    case.done(&pull, &Outcome::Pulled { id: "sha256:2".to_owned(), size_bytes: 1, took: Duration::ZERO });
    let Step::CreateContainer { container, attempt, sandbox, image_ref, .. } = create(0, "s0") else { unreachable!() };
    let volume_images = BTreeMap::from([("models".to_owned(), "sha256:2".to_owned())]);
    let make = Step::CreateContainer { container, attempt, sandbox, image_ref, volume_images };
    assert_eq!(case.plan().steps, std::slice::from_ref(&make));
    case.done(&make, &Outcome::Failed("gone".to_owned()));
    case.has_image();
    case.now = case.now + Duration::from_secs(60);
    assert_eq!(case.plan().steps, [look], "all images are looked for before each start");

    let (mut case, image) = with_image_volume("Never");
    case.has_image();
    case.done(&Step::InspectImage { image }, &Outcome::NoImage);
    let message = "Container image \"models:1\" is not present with pull policy of Never".to_owned();
    assert_eq!(case.waiting(), Some(("ErrImageNeverPull", message)));
}

#[test]
fn a_step_that_fails_or_is_undone_is_repeated_with_growing_pauses() {
    let delays = |mut case: Case, step: Step, outcome: Outcome| {
        let pause = |_| {
            assert_eq!(case.plan().steps, std::slice::from_ref(&step));
            case.done(&step, &outcome);
            let ended_at = case.now;
            case.now = case.plan().wake_at.unwrap();
            case.now.since(ended_at).as_millis()
        };
        (0..10).map(pause).collect::<Vec<_>>()
    };
    let pauses = [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 122_000, 122_000];
    let pauses_after_the_first = [1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 122_000, 122_000, 122_000];
    let failed = || Outcome::Failed("why".to_owned());
    let ready = || {
        let mut case = prepared(&json!({}));
        case.has_image();
        case
    };
    assert_eq!(delays(ready(), Step::CreateSandbox { attempt: 0 }, failed()), pauses);
    assert_eq!(delays(ready(), Step::CreateSandbox { attempt: 0 }, Outcome::Done), pauses, "one that is gone at once");
    let stuck = || {
        let mut case = running();
        case.wanted = Wanted::Stop { deadline: at(0) };
        case
    };
    let stop = |announced| Step::StopContainer {
        name: "web".to_owned(),
        id: "c0".into(),
        deadline: at(0),
        why: StopReason::Ending,
        announced,
    };
    for outcome in [failed(), Outcome::Done] {
        let mut case = stuck();
        assert_eq!(case.plan().steps, [stop(false)]);
        case.done(&stop(false), &outcome);
        case.now = case.plan().wake_at.unwrap();
        assert_eq!(delays(case, stop(true), outcome), pauses_after_the_first, "a container that outlives its stop");
    }
}

#[test]
fn changed_configuration_is_seen_to_at_once_and_holds_up_nothing() {
    let mut case = running();
    case.memory.configuration_changed();
    assert_eq!(case.plan().steps, [Step::PrepareVolumes]);
    // One that comes while the volumes are being written is not lost.
    case.memory.begin(&Step::PrepareVolumes);
    assert_eq!(case.plan().steps, []);
    case.memory.configuration_changed();
    case.memory.end(&Step::PrepareVolumes, &Outcome::Done, case.now);
    assert_eq!(case.plan().steps, [Step::PrepareVolumes]);
    // A failure is tried again later, and meanwhile containers are restarted.
    case.done(&Step::PrepareVolumes, &Outcome::Failed("no".to_owned()));
    case.observed.containers[0].phase = exited();
    case.has_image();
    let plan = case.plan();
    assert_eq!((plan.steps, plan.wake_at), (vec![create(1, "s0")], Some(case.now + Duration::from_millis(500))));
    case.done(&Step::PrepareVolumes, &Outcome::Done);
    assert_eq!(case.plan().wake_at, None);
}

#[test]
fn another_image_of_a_pod_is_looked_for_before_it_is_used() {
    let mut case = with_sandbox(&json!({}));
    case.has_image();
    assert_eq!(case.plan().steps, [create(0, "s0")]);
    case.memory.pod_changed((&case.pod, &case.pod), &[0]);
    case.done(&Step::PrepareVolumes, &Outcome::Done);
    assert_eq!(case.plan().steps, [inspect()]);
}

#[test]
fn what_failed_for_want_of_configuration_is_tried_at_once_when_it_changes() {
    let mut case = with_sandbox(&json!({}));
    case.has_image();
    let (no, missing) = (Outcome::Failed("no".to_owned()), Outcome::Misconfigured("missing".to_owned()));
    for (outcome, reason, tried) in [(missing, "CreateContainerConfigError", true), (no, "CreateContainerError", false)]
    {
        case.done(&create(0, "s0"), &outcome);
        case.has_image();
        assert_eq!(case.waiting().map(|(reason, _)| reason), Some(reason));
        assert!(!case.plan().steps.contains(&create(0, "s0")));
        case.memory.configuration_changed();
        assert_eq!(case.plan().steps.contains(&create(0, "s0")), tried, "{reason}");
    }
    let refused = Outcome::Refused("Allocate failed".to_owned());
    case.done(&create(0, "s0"), &refused);
    case.has_image();
    case.memory.configuration_changed();
    assert!(!case.plan().steps.contains(&create(0, "s0")), "devices are no configuration");
    case.memory.devices_changed();
    assert!(case.plan().steps.contains(&create(0, "s0")));
}
