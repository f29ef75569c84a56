//! The client against the fake runtime: what goes wrong on the way.

use std::path::Path;

use super::*;
use crate::error::Chain;
use crate::testing::fake_cri::FakeCri;
use crate::testing::pods::pod;

#[test]
fn only_an_absolute_path_of_a_unix_socket_is_an_endpoint() {
    for endpoint in ["", "/run/containerd/containerd.sock", "unix://run/x.sock", "tcp://127.0.0.1:1", "unix://"] {
        let error = Runtime::connect(endpoint).unwrap_err();
        assert!(matches!(error, CriError::BadEndpoint { .. }), "{endpoint}: {error:?}");
    }
}

#[tokio::test]
async fn a_missing_socket_is_named_with_what_to_do() {
    let temp = tempfile::tempdir().unwrap();
    let endpoint = format!("unix://{}/containerd.sock", temp.path().display());
    let error = Runtime::connect(&endpoint).unwrap().version().await.unwrap_err();
    assert!(error.is_retryable());
    let text = Chain(&error).to_string();
    assert_eq!(
        text,
        format!(
            "no container runtime listens at {endpoint}; start containerd, or name its socket with \
             --container-runtime-endpoint: No such file or directory (os error 2)"
        )
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_not_answered_ends_at_its_deadline() {
    let fake = FakeCri::new();
    fake.hold("StopContainer");
    let before = tokio::time::Instant::now();
    let error = fake.runtime().stop_container(&"c".into(), Duration::from_secs(30)).await.unwrap_err();
    assert_eq!(before.elapsed().as_secs(), (DEADLINE + Duration::from_secs(30)).as_secs());
    assert!(error.is_timeout() && error.is_retryable(), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_broken_connection_is_an_error_once_and_then_made_again() {
    let fake = FakeCri::new();
    let runtime = fake.runtime();
    runtime.version().await.unwrap();
    fake.hold("Status");
    let waiting = tokio::spawn({
        let runtime = runtime.clone();
        async move { runtime.status().await }
    });
    crate::testing::wait::eventually("the call to arrive", async || fake.calls().get(1).map(drop)).await;

    fake.go_away();
    let error = waiting.await.unwrap().unwrap_err();
    assert!(matches!(error, CriError::Interrupted { call: "Status", .. }) && error.is_retryable(), "{error:?}");
    let error = runtime.version().await.unwrap_err();
    assert!(matches!(error, CriError::Unreachable { .. }) && error.is_retryable(), "{error:?}");

    fake.come_back();
    runtime.version().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_refusal_reads_as_the_runtimes_own_words() {
    let fake = FakeCri::new();
    let words = "rpc error: code = Unknown desc = failed to setup network for sandbox: no IP addresses available";
    fake.fail_next("RunPodSandbox", tonic::Code::Unknown, words);
    let error = fake.runtime().run_sandbox(&pod("web", Path::new("/nowhere")), 0, None).await.unwrap_err();
    assert_eq!(Chain(&error).to_string(), "failed to setup network for sandbox: no IP addresses available");
}

#[tokio::test(start_paused = true)]
async fn a_runtime_without_cri_v1_is_told_from_one_that_is_away() {
    let fake = FakeCri::new();
    fake.fail_next("Version", tonic::Code::Unimplemented, "unknown service runtime.v1.RuntimeService");
    let error = fake.runtime().version().await.unwrap_err();
    assert!(matches!(error, CriError::NoCriV1 { .. }) && !error.is_retryable(), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn what_vanishes_while_it_is_looked_at_is_left_out() {
    let fake = FakeCri::new();
    let runtime = fake.runtime();
    let pod = pod("web", Path::new("/nowhere"));
    runtime.run_sandbox(&pod, 0, None).await.unwrap();
    fake.fail_next("PodSandboxStatus", tonic::Code::NotFound, "gone");
    assert_eq!(runtime.observe(&pod.key.uid).await.unwrap(), ObservedPod::default());
    fake.fail_next("PodSandboxStatus", tonic::Code::Unknown, "ill");
    runtime.observe(&pod.key.uid).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn after_a_lost_connection_the_listener_is_told_to_compare_everything() {
    let fake = FakeCri::new();
    let runtime = fake.runtime();
    let mut events = runtime.events();
    assert_eq!(events.recv().await, Some(RuntimeEvent::Missed));
    fake.go_away();
    assert_eq!(events.recv().await, Some(RuntimeEvent::Missed), "the runtime is gone");
    let pod = pod("web", Path::new("/nowhere"));
    fake.come_back();
    assert_eq!(events.recv().await, Some(RuntimeEvent::Missed), "it is back");
    runtime.run_sandbox(&pod, 0, None).await.unwrap();
    assert_eq!(events.recv().await, Some(RuntimeEvent::Changed(pod.key.uid)));
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_was_away_for_long_and_now_loads_is_asked_again_soon() {
    let fake = FakeCri::new();
    let mut events = fake.runtime().events();
    assert_eq!(events.recv().await, Some(RuntimeEvent::Missed));
    fake.go_away();
    assert_eq!(events.recv().await, Some(RuntimeEvent::Missed), "the runtime is gone");
    tokio::time::sleep(RETRY_AFTER).await;
    for _ in 0..5 {
        fake.fail_next("Version", tonic::Code::Unknown, "server is not initialized yet");
    }
    fake.come_back();
    let answered = async || fake.calls().iter().filter(|call| call.method == "Version").nth(2).map(drop);
    crate::testing::wait::eventually("it answers that it still loads", answered).await;
    let begun = tokio::time::Instant::now();
    assert_eq!(events.recv().await, Some(RuntimeEvent::Missed), "it is back");
    assert!(begun.elapsed() < Duration::from_millis(200), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn nobody_follows_events_once_nobody_listens() {
    let fake = FakeCri::new();
    let mut events = fake.runtime().events();
    assert_eq!(events.recv().await, Some(RuntimeEvent::Missed));
    drop(events);
    fake.go_away();
    fake.come_back();
    tokio::time::sleep(RETRY_AFTER).await;
    let subscriptions = fake.calls().iter().filter(|call| call.method == "GetContainerEvents").count();
    assert_eq!(subscriptions, 1);
}

/// On the paused clock: longer than any pause between two subscriptions.
const RETRY_AFTER: Duration = Duration::from_secs(60);
