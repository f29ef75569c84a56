//! What follows the end of a container, and how pods end: by themselves, or because they have to.

use super::lives::pod_of;
use super::*;
use crate::plan::policy::{Next, next};
use crate::podspec::{ExitCodes, Handler, RestartAction, RestartRule};

const NONE: [&str; 0] = [];

fn rule(action: RestartAction, exit_codes: ExitCodes) -> RestartRule {
    RestartRule { action, exit_codes }
}

/// `web` begins everything again when it exits with 42.
fn resetting(states: &[&str]) -> Case {
    let mut case = pod_of(states);
    let rule = rule(RestartAction::RestartAllContainers, ExitCodes::In(vec![42]));
    case.of("web").restart_rules = vec![rule];
    case
}

#[test]
fn the_first_rule_about_an_exit_code_decides_and_then_the_policy() {
    use RestartPolicy::{Always, Never, OnFailure};
    let check = |policy, rules: &[RestartRule], expected: [Next; 3]| {
        let mut case = pod_of(&["web runs"]);
        let web = case.of("web");
        (web.restart_policy, web.restart_rules) = (policy, rules.to_vec());
        assert_eq!([0, 1, 42].map(|code| next(web, code, "")), expected, "{policy:?} {rules:?}");
    };
    let restart = |codes| rule(RestartAction::Restart, codes);
    let all = |codes| rule(RestartAction::RestartAllContainers, codes);
    let (is_42, is_not_42) = (|| ExitCodes::In(vec![42]), || ExitCodes::NotIn(vec![42]));
    check(Always, &[], [Next::Restart; 3]);
    check(OnFailure, &[], [Next::Final, Next::Restart, Next::Restart]);
    check(Never, &[], [Next::Final; 3]);
    check(Never, &[restart(is_42())], [Next::Final, Next::Final, Next::Restart]);
    check(Never, &[restart(is_not_42())], [Next::Restart, Next::Restart, Next::Final]);
    check(Never, &[restart(is_42()), all(is_42())], [Next::Final, Next::Final, Next::Restart]);
    check(Never, &[all(is_42()), restart(is_not_42())], [Next::Restart, Next::Restart, Next::RestartAllContainers]);
}

#[test]
fn a_pod_is_over_when_all_regular_containers_are_final_or_an_init_container_failed_for_good() {
    let steps = |policy: RestartPolicy, states: &[&str]| {
        let mut case = pod_of(states);
        for container in case.pod.containers.iter_mut().filter(|one| matches!(one.role, Role::Init | Role::Regular)) {
            container.restart_policy = policy;
        }
        case.steps()
    };
    use RestartPolicy::{Never, OnFailure};
    assert_eq!(steps(Never, &["web 1", "aux runs"]), NONE);
    assert_eq!(steps(Never, &["web 1", "aux done"]), ["stop s0"]);
    assert_eq!(steps(OnFailure, &["web done", "aux 1"]), ["make aux-1"]);
    assert_eq!(steps(OnFailure, &["web done", "aux done"]), ["stop s0"]);
    assert_eq!(steps(Never, &["first 1", "proxy -", "web -"]), ["stop s0"]);
    assert_eq!(steps(Never, &["first oom", "proxy -", "web -"]), ["stop s0"]);
    assert_eq!(steps(OnFailure, &["first 1", "proxy -", "web -"]), ["make first-1"]);
    assert_eq!(steps(Never, &["proxy runs", "second 1", "web -"]), ["stop proxy-0 by 1030 Ending"]);
    assert_eq!(
        steps(Never, &["proxy runs", "web done", "debug runs"]),
        ["stop proxy-0 by 1030 Ending", "stop debug-0 by 1030 Ending"]
    );
    assert_eq!(steps(Never, &["proxy done", "web done"]), ["stop s0"], "no sidecar keeps a pod alive");
}

#[test]
fn what_a_pod_that_is_over_holds_is_given_back_and_the_rest_stays() {
    let over = || {
        let mut case = pod_of(&["web done"]);
        case.of("web").restart_policy = RestartPolicy::Never;
        case
    };
    let mut case = over();
    case.observed.sandboxes[0].ready = false;
    case.done(&stop_sandbox("s0"), &Outcome::Done);
    assert_eq!(case.steps(), ["release"]);
    case.done(&Step::Release, &Outcome::Failed("busy".to_owned()));
    case.now = case.plan().wake_at.unwrap();
    assert_eq!(case.steps(), ["release"]);
    case.done(&Step::Release, &Outcome::Done);
    assert_eq!(case.plan(), Plan { waiting: vec![None], ..Plan::default() }, "no new sandbox, and nothing is removed");

    case.memory = PodMemory::new(&[1]);
    assert_eq!(case.steps(), ["stop s0"], "after a restart of the agent nothing is prepared");
    case.wanted = Wanted::Finish { deadline: at(0) };
    case.observed = ObservedPod::default();
    assert_eq!(case.steps(), ["release"], "the runtime has forgotten it");
    case.wanted = Wanted::Stop { deadline: at(0) };
    assert_eq!(case.steps(), ["clean up"]);
    let mut case = over();
    case.wanted = Wanted::Stop { deadline: at(0) };
    case.done(&stop_sandbox("s0"), &Outcome::Done);
    assert_eq!(case.steps(), ["remove s0", "clean up"]);
}

#[test]
fn a_pod_that_is_to_finish_ends_its_containers_and_keeps_what_they_leave() {
    let mut case = pod_of(&["first done", "proxy runs", "web runs"]);
    case.wanted = Wanted::Finish { deadline: at(1030) };
    assert_eq!(case.steps(), ["stop web-0 by 1030 Ending"]);
    case.look(&["first done", "proxy runs", "web 143"]);
    assert_eq!(case.steps(), ["stop proxy-0 by 1030 Ending"]);
    case.look(&["first done", "proxy 143", "web 143"]);
    assert_eq!(case.steps(), ["stop s0"]);
    case.done(&stop_sandbox("s0"), &Outcome::Done);
    assert_eq!(case.steps(), ["release"]);
}

#[test]
fn sidecars_end_last_in_reverse_order_within_the_grace_period() {
    let mut case = pod_of(&["proxy runs", "web runs", "aux runs", "debug runs"]);
    let mut later = case.pod.containers[0].clone();
    later.name = "second".to_owned();
    case.pod.containers.insert(1, later);
    case.memory = PodMemory::new(&[0; 5]);
    case.wanted = Wanted::Stop { deadline: at(1030) };
    let mut check = |now, states: &[&str], steps: &[&str]| {
        case.now = at(now);
        case.look(states);
        assert_eq!(case.steps(), steps, "{states:?}");
        case.plan()
    };
    let regular = ["stop web-0 by 1030 Ending", "stop aux-0 by 1030 Ending", "stop debug-0 by 1030 Ending"];
    let plan = check(1000, &["proxy runs", "second runs", "web runs", "aux runs", "debug runs"], &regular);
    assert_eq!(plan.wake_at, Some(at(1030)));
    check(1005, &["proxy runs", "second runs", "web 143", "aux runs", "debug 143"], &regular[1..2]);
    check(
        1010,
        &["proxy runs", "second runs", "web 143", "aux 143", "debug runs"],
        &["stop second-0 by 1030 Ending", regular[2]],
    );
    check(1015, &["proxy runs", "second 143", "web 143", "aux 143"], &["stop proxy-0 by 1030 Ending"]);
    check(
        1030,
        &["proxy runs", "second runs", "web runs", "aux 143"],
        &["stop proxy-0 by 1030 Ending", "stop second-0 by 1030 Ending", regular[0]],
    );
}

#[test]
fn a_pre_stop_hook_comes_first_and_takes_its_time_from_the_grace_period() {
    let hook = || Some(Handler::Exec(vec!["bye".to_owned()]));
    let ending = |deadline| {
        let mut case = pod_of(&["web runs"]);
        case.of("web").hooks.pre_stop = hook();
        case.wanted = Wanted::Stop { deadline: at(deadline) };
        case
    };
    let mut case = ending(1030);
    let part = case.begin();
    assert_eq!(case.words(&part), "part from web-0 by 1030 Ending");
    assert_eq!((case.steps(), case.plan().wake_at), (vec![], Some(at(1030))));
    case.now = at(1012);
    for outcome in [Outcome::Done, Outcome::Failed("no".to_owned())] {
        case.end(&part, &outcome);
        assert_eq!(
            case.plan().steps,
            [Step::StopContainer {
                name: "web".to_owned(),
                id: "web-0".into(),
                deadline: at(1030),
                why: StopReason::Ending,
                announced: true
            }]
        );
    }

    let mut case = ending(1030);
    case.begin();
    case.now = at(1030);
    assert_eq!(case.steps(), ["stop web-0 by 1030 Ending"], "a hook that takes all the time");
    case.look(&["web 137"]);
    assert_eq!(case.steps(), ["stop s0"], "and is not waited for");

    let mut case = ending(1030);
    case.begin();
    case.wanted = Wanted::Stop { deadline: at(1005) };
    assert_eq!((case.steps(), case.plan().wake_at), (vec![], Some(at(1005))), "a shorter grace period");
    case.now = at(1005);
    assert_eq!(case.steps(), ["stop web-0 by 1005 Ending"]);

    assert_eq!(ending(1000).steps(), ["stop web-0 by 1000 Ending"], "no time for it");
    let mut case = ending(1030);
    case.look(&["web lost"]);
    assert_eq!(case.steps(), ["stop web-0 by 1030 Ending"], "nobody to carry it out");

    // A sidecar's hook does not wait for its turn.
    let mut case = pod_of(&["proxy runs", "web runs"]);
    case.of("proxy").hooks.pre_stop = hook();
    case.wanted = Wanted::Stop { deadline: at(1030) };
    assert_eq!(case.steps(), ["part from proxy-0 by 1030 Ending", "stop web-0 by 1030 Ending"]);
    let part = case.plan().steps.remove(0);
    case.done(&part, &Outcome::Done);
    assert_eq!(case.steps(), ["stop web-0 by 1030 Ending"]);
    case.look(&["proxy runs", "web 143"]);
    assert_eq!(case.steps(), ["stop proxy-0 by 1030 Ending"]);
}

#[test]
fn a_rule_begins_everything_again_in_the_same_sandbox() {
    let mut case = resetting(&["first done", "proxy runs", "web 42", "aux runs", "debug runs"]);
    case.of("aux").hooks.pre_stop = Some(Handler::Exec(vec!["bye".to_owned()]));
    assert_eq!(
        case.steps(),
        ["remove first-0", "stop proxy-0 by 1000 RestartAllContainers", "stop aux-0 by 1000 RestartAllContainers"]
    );
    case.look(&["proxy 137", "web 42", "aux 137", "debug runs"]);
    assert_eq!(case.steps(), ["remove proxy-0", "remove aux-0"], "the one that asked goes last");
    case.look(&["web 42", "debug runs"]);
    let aux = case.index("aux");
    let (sandbox, image_ref) = ("s0".into(), String::new());
    let make = Step::CreateContainer { container: aux, attempt: 1, sandbox, image_ref, volume_images: BTreeMap::new() };
    case.memory.begin(&make);
    assert_eq!(case.steps(), NONE, "not while one is still being made");
    case.end(&make, &Outcome::Failed("gone".to_owned()));
    assert_eq!(case.steps(), ["remove web-0"]);
    case.look(&["debug runs"]);
    case.has_images();
    assert_eq!(case.steps(), ["make first-1"]);
}

#[test]
fn a_container_that_begins_everything_again_and_again_rests_like_any_other() {
    let mut case = resetting(&["web 42"]);
    let mut delays = Vec::new();
    for attempt in 0..4 {
        let ended_at = case.now;
        let remove = case.begin();
        assert_eq!(case.words(&remove), format!("remove web-{attempt}"));
        case.observed.containers.clear();
        case.end(&remove, &Outcome::Done);
        case.now = case.plan().wake_at.unwrap_or(case.now);
        delays.push(case.now.since(ended_at).as_secs());
        case.has_images();
        let make = case.begin();
        case.end(&make, &Outcome::Done);
        let id = format!("web-{}", attempt + 1);
        let again = case.container(&id, "s0", attempt + 1, exited_with(42));
        case.observed.containers = vec![ObservedContainer { spec_hash: "hash-1".to_owned(), ..again }];
    }
    assert_eq!(delays, [0, 10, 20, 40]);
}

#[test]
fn only_what_ended_in_this_sandbox_asks_to_begin_again() {
    let mut case = resetting(&["web 42"]);
    case.observed.sandboxes.insert(0, sandbox("s1", 1, true));
    assert_eq!(case.steps(), ["make web-1"]);
    let mut case = resetting(&["web 42"]);
    case.observed.sandboxes[0] = sandbox("s0", 0, false);
    assert_eq!(case.steps(), ["sandbox 1"], "a lost sandbox is replaced anyway");
}
