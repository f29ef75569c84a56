//! A node whose wall clock is set, by an hour or to another age, while control's goes on.

use super::*;
use crate::sim::seeded;

const HOUR: i64 = 3600;
const YEAR: i64 = 365 * 24 * HOUR;

/// Plays it on a thread of its own, whose wall clock may be set.
fn on_a_clock_of_its_own<F: Future<Output = ()>>(play: impl FnOnce() -> F + Send + 'static) {
    let played = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            seeded::start_clock();
            play().await;
        });
    });
    played.join().unwrap();
}

/// What containers were given to end, in seconds.
fn graces(host: &Host) -> Vec<i64> {
    let calls = host.cri.calls();
    let stops = calls.iter().filter(|call| call.method == "StopContainer");
    stops.map(|call| call.request["timeout"].as_i64().unwrap()).collect()
}

/// A pod lives through its node's clock being set by so much, and ends through its being set back.
async fn a_pod_lives_and_ends(by_secs: i64) {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[set("web", "one")]).await;
    let before = host.runs("web", "one").await;

    seeded::jump(by_secs);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(host.runs("web", "one").await, before);
    agent.stop().await;
    let mut agent = host.start();
    agent.connect().await;
    assert_eq!(host.runs("web", "one").await, before, "nor does the next agent touch it");
    let ended = host.cri.end_container(&before.uid, "main", 1);
    let again = host.runs("web", "one").await;
    assert_eq!((&again.observed.sandboxes, again.running() == Some(ended)), (&before.observed.sandboxes, false));

    host.cri.hold("StopContainer");
    agent.answer(2, "web", Answer::Deleted { seq: 2, kept: vec![] }).await;
    host.asked_for("StopContainer").await;
    agent.stop().await;
    let whole = graces(&host);
    drop(host.cri.take_changes());
    seeded::jump(-by_secs);
    let mut agent = host.start();
    agent.connect().await;
    host.asked_for("StopContainer").await;
    let left = graces(&host);
    assert!(left.iter().all(|left| (2..=whole[0]).contains(left)), "of {whole:?} {left:?} are left");
    host.cri.release("StopContainer");
    host.lacks("web").await;
}

#[test]
fn wherever_its_nodes_clock_is_set_a_pod_lives_on_and_ends_in_its_time() {
    let age = i64::try_from(seeded::BEGINNING.as_secs()).unwrap();
    for by_secs in [-HOUR, HOUR, YEAR, -age] {
        on_a_clock_of_its_own(move || a_pod_lives_and_ends(by_secs));
    }
}
