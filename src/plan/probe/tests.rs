use proptest::prelude::*;

use super::*;
use crate::podspec::Handler;
use crate::testing::pods;

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn at(seconds: u64) -> Moment {
    Moment(secs(seconds))
}

/// Every 10 s, no delay; one success and three failures make a finding.
fn probe() -> Probe {
    Probe {
        handler: Handler::Exec(vec![]),
        initial_delay: Duration::ZERO,
        period: secs(10),
        timeout: secs(1),
        success_threshold: 1,
        failure_threshold: 3,
        grace_period: None,
    }
}

/// Those of a container that has all three.
fn all() -> Probes {
    Probes { startup: Some(probe()), liveness: Some(probe()), readiness: Some(probe()) }
}

fn without_startup() -> Probes {
    Probes { startup: None, ..all() }
}

/// What is due, by kind.
fn due(probing: &Probing) -> [Option<u64>; 3] {
    Kind::ALL.map(|kind| probing.due(kind).map(|due| due.0.as_secs()))
}

fn findings(probing: &Probing) -> [Finding; 3] {
    let Health { startup, liveness, readiness } = probing.health();
    [startup, liveness, readiness]
}

fn passed() -> Attempt {
    Attempt::Success
}

fn failed() -> Attempt {
    Attempt::Failure("no".to_owned())
}

/// Makes the attempt that is due, which ends at once.
fn attempt(probing: &mut Probing, probes: &Probes, kind: Kind, attempt: &Attempt) -> u64 {
    let now = probing.due(kind).expect("it is due");
    probing.ask(probes, kind, now);
    assert_eq!(probing.due(kind), None, "only one at a time");
    probing.hear(probes, kind, attempt, now);
    now.0.as_secs()
}

use Finding::{Failure, Success, Unknown};

#[test]
fn a_new_instance_is_asked_as_soon_as_its_delay_is_over() {
    let delayed = Probe { initial_delay: secs(25), ..probe() };
    let rows = [
        (Probes::default(), [None, None, None], [Success, Success, Success]),
        (all(), [Some(1000), None, None], [Unknown, Success, Failure]),
        (without_startup(), [None, Some(1010), Some(1000)], [Success, Success, Failure]),
        (
            Probes { startup: None, liveness: Some(delayed.clone()), readiness: Some(delayed.clone()) },
            [None, Some(1025), Some(1025)],
            [Success, Success, Failure],
        ),
        (Probes { startup: Some(delayed), ..all() }, [Some(1025), None, None], [Unknown, Success, Failure]),
    ];
    for (probes, expected, health) in rows {
        let probing = Probing::begin(&probes, Duration::ZERO, at(1000), 0);
        assert_eq!((due(&probing), findings(&probing)), (expected, health), "{probes:?}");
    }
    // What has passed of the delay when the agent learns of the instance counts.
    let delayed = Probes { readiness: Some(Probe { initial_delay: secs(25), ..probe() }), ..Probes::default() };
    assert_eq!(due(&Probing::begin(&delayed, secs(5), at(1000), 0)), [None, None, Some(1020)]);
}

#[test]
fn the_others_wait_for_startup() {
    let mut probing = Probing::begin(&all(), Duration::ZERO, at(0), 0);
    assert_eq!(attempt(&mut probing, &all(), Kind::Startup, &failed()), 0);
    assert_eq!(attempt(&mut probing, &all(), Kind::Startup, &passed()), 10);
    assert_eq!((due(&probing), findings(&probing)), ([None, Some(20), Some(10)], [Success, Success, Failure]));
    assert_eq!(attempt(&mut probing, &all(), Kind::Readiness, &passed()), 10);
    assert!(probing.health().is_ready());
}

#[test]
fn a_container_has_all_its_periods_to_start() {
    let mut probing = Probing::begin(&all(), Duration::ZERO, at(0), 0);
    for tried in [0, 10, 20] {
        assert_eq!(attempt(&mut probing, &all(), Kind::Startup, &failed()), tried);
        assert_eq!(findings(&probing), [Unknown, Success, Failure]);
    }
    assert_eq!(attempt(&mut probing, &all(), Kind::Startup, &failed()), 30);
    assert_eq!((due(&probing), findings(&probing)), ([None; 3], [Failure, Success, Failure]));
}

#[test]
fn liveness_rests_after_a_failure_and_readiness_goes_on() {
    let probes = without_startup();
    let mut probing = Probing::begin(&probes, Duration::ZERO, at(0), 0);
    for (answer, finding) in [(failed(), Success), (passed(), Success), (failed(), Success), (failed(), Success)] {
        attempt(&mut probing, &probes, Kind::Liveness, &answer);
        assert_eq!(probing.health().liveness, finding);
    }
    attempt(&mut probing, &probes, Kind::Liveness, &failed());
    assert_eq!(probing.health().liveness, Failure);
    assert_eq!(due(&probing), [None, None, Some(0)]);
    assert_eq!(attempt(&mut probing, &probes, Kind::Readiness, &passed()), 0);
    assert_eq!(attempt(&mut probing, &probes, Kind::Readiness, &failed()), 10);
    assert_eq!(probing.health().readiness, Success);
    attempt(&mut probing, &probes, Kind::Readiness, &failed());
    attempt(&mut probing, &probes, Kind::Readiness, &failed());
    assert_eq!(probing.health().readiness, Failure);
}

#[test]
fn an_attempt_that_could_not_be_made_counts_neither_way() {
    let probes = without_startup();
    let mut probing = Probing::begin(&probes, Duration::ZERO, at(0), 0);
    for answer in [failed(), failed(), Attempt::Unknown("no runtime".to_owned())] {
        attempt(&mut probing, &probes, Kind::Liveness, &answer);
    }
    assert_eq!(probing.health().liveness, Success);
    attempt(&mut probing, &probes, Kind::Liveness, &failed());
    assert_eq!(probing.health().liveness, Failure);
}

#[test]
fn while_the_pod_ends_only_readiness_is_asked() {
    for probes in [all(), without_startup()] {
        let mut probing = Probing::begin(&probes, Duration::ZERO, at(0), 0);
        let kind = if probes.startup.is_some() { Kind::Startup } else { Kind::Liveness };
        let begun = probing.due(kind).unwrap();
        probing.ask(&probes, kind, begun);
        probing.end(&probes, at(12));
        probing.hear(&probes, kind, &failed(), at(13));
        probing.end(&probes, at(14));
        let readiness = probing.due(Kind::Readiness).map(|due| due.0.as_secs());
        assert_eq!(due(&probing), [None, None, readiness]);
        assert_eq!(findings(&probing), [Success, Success, Failure]);
        attempt(&mut probing, &probes, Kind::Readiness, &passed());
        assert!(probing.health().is_ready());
    }
}

#[test]
fn what_an_earlier_agent_left_running_is_as_well_as_it_can_be() {
    let half = u32::MAX / 2 + 1;
    let age = secs(3600);
    let probing = Probing::begin(&all(), age, at(3), half);
    assert_eq!(findings(&probing), [Success; 3]);
    assert_eq!(due(&probing), [None, Some(8), Some(8)]);
    // It may not have started yet: liveness has to wait for it, as before.
    let probing = Probing::begin(&all(), secs(29), at(3), half);
    assert_eq!((findings(&probing), due(&probing)), ([Unknown, Success, Failure], [Some(3), None, None]));
    // This one was started just before the agent, or by the agent itself.
    for (age, now) in [(secs(12), at(3)), (secs(3600), at(3600))] {
        let probing = Probing::begin(&without_startup(), age, now, half);
        assert_eq!(findings(&probing), [Success, Success, Failure], "{age:?}");
    }
}

#[test]
fn attempts_are_told_in_kubernetes_words() {
    let container = pods::container("main", "web:1", &[]);
    let told = |kind, attempt: Attempt| {
        event(&container, kind, &attempt)
            .map(|event| format!("{} {} {}", event.reason, event.message, event.field_path))
    };
    let text = || "x".to_owned();
    for (kind, attempt, expected) in [
        (Kind::Liveness, Attempt::Success, None),
        (Kind::Liveness, Attempt::Failure(text()), Some("Unhealthy Liveness probe failed: x spec.containers{main}")),
        (
            Kind::Startup,
            Attempt::Unknown(text()),
            Some("Unhealthy Startup probe errored and resulted in unknown state: x spec.containers{main}"),
        ),
        (
            Kind::Readiness,
            Attempt::Warning(text()),
            Some("ProbeWarning Readiness probe warning: x spec.containers{main}"),
        ),
    ] {
        assert_eq!(told(kind, attempt).as_deref(), expected);
    }
}

#[test]
fn a_burst_of_events_is_told_and_then_one_every_five_minutes() {
    let mut quota = EventQuota::new(at(0));
    let told = |quota: &mut EventQuota, from: u64, to: u64| (from..to).filter(|second| quota.take(at(*second))).count();
    assert_eq!(told(&mut quota, 0, 100), 25);
    assert_eq!(told(&mut quota, 100, 1000), 3);
    assert_eq!(told(&mut quota, 100_000, 100_100), 25);
}

/// What may happen to an instance between two looks.
#[derive(Debug, Clone)]
enum Happening {
    /// The next attempt of a kind, if one is due, comes to this after so many seconds.
    Attempt(usize, Option<bool>, u64),
    /// The pod begins to end.
    Ends,
}

fn happening() -> impl Strategy<Value = Happening> {
    let answer = prop_oneof![1 => Just(None), 1 => Just(Some(true)), 3 => Just(Some(false))];
    prop_oneof![
        30 => (0_usize..3, answer, 0_u64..15).prop_map(|(kind, answer, took)| Happening::Attempt(kind, answer, took)),
        1 => Just(Happening::Ends),
    ]
}

fn some_probe() -> impl Strategy<Value = Option<Probe>> {
    let numbers = (0_u64..20, 1_u64..12, 1_u32..4, 1_u32..4);
    proptest::option::of(numbers.prop_map(|(delay, period, successes, failures)| Probe {
        initial_delay: secs(delay),
        period: secs(period),
        success_threshold: successes,
        failure_threshold: failures,
        ..probe()
    }))
}

proptest! {
    /// A simpler model: the attempts of each kind since the instance was found, with nothing forgotten.
    #[test]
    fn findings_change_only_on_enough_attempts_in_a_row(
        (startup, liveness, readiness) in (some_probe(), some_probe(), some_probe()),
        (age, start) in (0_u64..100, 0_u64..100),
        random in any::<u32>(),
        happenings in prop::collection::vec(happening(), 0..80),
    ) {
        let probes = Probes { startup, liveness, readiness };
        let mut probing = Probing::begin(&probes, secs(age), at(start), random);
        let mut now = at(start);
        let mut heard: [Vec<bool>; 3] = Default::default();
        let mut ending = false;
        for happening in happenings {
            let before = findings(&probing);
            match happening {
                Happening::Ends => {
                    probing.end(&probes, now);
                    ending = true;
                    prop_assert_eq!(findings(&probing), [Success, Success, before[2]]);
                }
                Happening::Attempt(index, answer, took) => {
                    let kind = Kind::ALL[index];
                    let Some(due) = probing.due(kind) else { continue };
                    let probe = kind.of(&probes).expect("only what is there is due");
                    // Delay and order hold, and nothing that could restart a container is asked once the pod ends.
                    prop_assert!(due.0 + secs(age) >= at(start).0 + probe.initial_delay);
                    prop_assert!(kind == Kind::Startup || probing.health().is_started());
                    prop_assert!(!ending || kind == Kind::Readiness);
                    now = now.max(due);
                    probing.ask(&probes, kind, now);
                    prop_assert_eq!(probing.due(kind), None);
                    let asked = now;
                    now = now + secs(took);
                    let attempt = match answer {
                        None => Attempt::Unknown(String::new()),
                        Some(true) => Attempt::Success,
                        Some(false) => failed(),
                    };
                    probing.hear(&probes, kind, &attempt, now);
                    heard[index].extend(answer);
                    prop_assert!(probing.due(kind).is_none_or(|next| next >= asked + probe.period));

                    let after = findings(&probing);
                    for other in (0..3).filter(|other| *other != index) {
                        prop_assert_eq!(before[other], after[other]);
                    }
                    if before[index] != after[index] {
                        let (value, threshold) = match after[index] {
                            Success => (true, probe.success_threshold),
                            Failure => (false, probe.failure_threshold),
                            Unknown => return Err(TestCaseError::fail("a finding is not taken back")),
                        };
                        let last = heard[index].iter().rev().take_while(|heard| **heard == value).count();
                        prop_assert!(last >= usize::try_from(threshold).unwrap());
                        let rests = kind == Kind::Startup || (kind == Kind::Liveness && !value);
                        prop_assert_eq!(probing.due(kind).is_none(), rests);
                    }
                }
            }
        }
    }
}
