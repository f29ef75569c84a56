//! The agent is killed at each of its calls to the runtime, and another one goes on.

use std::cell::Cell;

use super::preemption::ranked;
use super::*;

/// One life of an agent. Afterwards all of it is gone, its threads too.
fn life<T>(body: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(body)
}

/// How an agent begins.
struct Beginning {
    /// The containers that ran before it started.
    running: BTreeMap<String, ContainerId>,
    hello: Hello,
}

/// Plays `script` with one agent after another, killing the first when it makes its call number `calls` + 1 that would
/// change something. Answers whether it came to that.
fn killed_after(calls: usize, host: &Host, script: &impl AsyncFn(&mut Agent, Beginning)) -> bool {
    host.cri.freeze_after(calls);
    let mut was_killed = false;
    loop {
        let ended = life(async {
            let running = running(host).await;
            let mut agent = host.start();
            let play = async {
                let hello = agent.connect().await;
                script(&mut agent, Beginning { running, hello }).await;
            };
            let frozen = async {
                while !host.cri.is_frozen() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::select! {
                biased;
                () = frozen => false,
                () = play => true,
            }
        });
        host.cri.thaw();
        if ended {
            return was_killed;
        }
        assert!(!std::mem::replace(&mut was_killed, true), "it is frozen once");
    }
}

/// The containers that run, by DaemonSet; never two of one.
async fn running(host: &Host) -> BTreeMap<String, ContainerId> {
    let one = |(set, pods): (String, Vec<Seen>)| {
        let running: Vec<_> = pods.iter().filter_map(Seen::running).collect();
        assert!(running.len() <= 1, "{set}: {pods:?}");
        running.into_iter().next().map(|id| (set, id))
    };
    host.pods().await.into_iter().filter_map(one).collect()
}

/// Each DaemonSet has one pod of its revision with one sandbox, and nothing was begun twice.
async fn assert_whole(host: &Host, sets: &[(&str, &str)]) {
    let mut pods = host.pods().await;
    for (set, revision) in sets {
        let pods = pods.remove(*set).unwrap_or_default();
        let [pod] = &pods[..] else { panic!("{set}: {pods:?}") };
        assert_eq!((pod.revision.as_str(), pod.observed.sandboxes.len()), (*revision, 1), "{set}");
        assert_eq!((pod.observed.containers.len(), pod.observed.containers[0].attempt), (1, 0), "{set}");
    }
    assert_eq!(pods, BTreeMap::new());
}

#[test]
fn killed_anywhere_between_nothing_and_deletion_it_ends_with_what_was_asked_for() {
    for calls in 0.. {
        let host = Host::new();
        let deleted = Cell::new(false);
        let was_killed = killed_after(calls, &host, &async |agent, Beginning { running: before, .. }| {
            if !deleted.get() {
                agent.apply(1, &[set("web", "one"), set("log", "two")]).await;
                host.runs("web", "one").await;
                host.runs("log", "two").await;
                agent.settle().await;
                assert_whole(&host, &[("web", "one"), ("log", "two")]).await;
                let after = running(&host).await;
                assert!(before.iter().all(|ran| after.iter().any(|runs| runs == ran)), "restarted after {calls} calls");
                deleted.set(true);
            }
            for set in ["web", "log"] {
                agent.answer(2, set, Answer::Deleted { seq: 2, kept: vec![] }).await;
            }
            host.lacks("web").await;
            host.lacks("log").await;
        });
        assert_eq!((host.left_behind(), host.ledger().daemonsets.len()), (vec![], 0), "killed after {calls} calls");
        if !was_killed {
            // Both pods: image, sandbox, container, start; container, sandbox stopped, sandbox removed.
            assert_eq!(calls, 14);
            return;
        }
    }
}

#[test]
fn killed_anywhere_in_an_update_it_stops_the_old_pod_only_under_a_taken_permit() {
    for calls in 0.. {
        let host = Host::new();
        let old = life(async {
            let mut agent = host.start();
            agent.connect().await;
            agent.apply(1, &[set("web", "one")]).await;
            host.runs("web", "one").await;
            agent.stop().await;
            running(&host).await
        });
        let was_killed = killed_after(calls, &host, &async |agent, Beginning { running, hello }| {
            assert!(running == old || hello.permits.len() == 1, "stopped without a permit after {calls} calls");
            agent.apply(2, &[set("web", "two")]).await;
            if hello.permits.is_empty() {
                agent.asks("two").await.unwrap();
                agent.permit(7, "two", false).await;
            }
            host.runs("web", "two").await;
            agent.settle().await;
            assert_whole(&host, &[("web", "two")]).await;
        });
        if !was_killed {
            // The image; container, sandbox stopped, sandbox removed; sandbox, container, start.
            assert_eq!(calls, 7);
            return;
        }
    }
}

#[test]
fn killed_anywhere_while_a_pod_makes_way_the_same_one_makes_way_in_its_time() {
    for calls in 0.. {
        let host = Host::new();
        life(async {
            let mut agent = host.start();
            agent.connect().await;
            agent.apply(1, &[ranked("low", 0), set("beside", "one")]).await;
            host.runs("low", "one").await;
            host.runs("beside", "one").await;
            agent.stop().await;
        });
        let before = life(running(&host));
        let was_killed = killed_after(calls, &host, &async |agent, _| {
            agent.apply(2, &[ranked("low", 0), set("beside", "one"), ranked("high", 1000)]).await;
            host.runs("high", "one").await;
            agent.settle().await;
        });
        let stops = host.cri.calls().into_iter().filter(|call| call.method == "StopContainer");
        assert!(
            stops.map(|call| call.request["timeout"].clone()).all(|grace| grace == json!(5)),
            "after {calls} calls"
        );
        let after = life(running(&host));
        assert_eq!(after.keys().collect::<Vec<_>>(), ["beside", "high"], "killed after {calls} calls");
        assert_eq!(after["beside"], before["beside"], "killed after {calls} calls");
        // One waits in its place, and what had to go is gone.
        let low: Vec<_> = host.ledger().pods.into_values().filter(|pod| pod.daemonset == Some(uid("low"))).collect();
        assert!(matches!(&low[..], [pod] if pod.finished.is_none() && pod.ending.is_none()), "{calls}: {low:?}");
        if !was_killed {
            // Container, sandbox stopped, sandbox removed; sandbox, container, start.
            assert_eq!(calls, 6);
            return;
        }
    }
}
