//! Watches of clients that do not do their part.

use std::time::Duration;

use super::*;

/// A ConfigMap of this many bytes.
fn large(number: usize, bytes: usize) -> Value {
    json!({"metadata": {"name": format!("large-{number}")}, "data": {"a": "x".repeat(bytes)}})
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_not_read_holds_little_and_is_cut_off() {
    const EACH: usize = 10_000;
    let api = Harness::new().await;
    let watch = async || {
        let path = format!("{CONFIG_MAPS}?watch=true&resourceVersion={}&timeoutSeconds=3600", api.objects.revision());
        let response = api.send(Method::GET, &path, &[], &Value::Null).await;
        assert_eq!(response.status(), StatusCode::OK);
        response.into_body()
    };
    let (unread, mut read) = (watch().await, watch().await);
    for number in 0..200 {
        assert_eq!(api.post(CONFIG_MAPS, large(number, EACH)).await.0, 201);
        // Three pieces are one event.
        for _ in 0..3 {
            read.frame().await.unwrap().unwrap();
        }
    }
    tokio::time::sleep(Duration::from_secs(120)).await;
    let held = tokio::time::timeout(Duration::from_secs(1), unread.collect()).await.expect("it has ended").unwrap();
    let held = held.to_bytes().len();
    assert!((EACH..10 * EACH).contains(&held), "{held} bytes of {}", 200 * EACH);

    // The other goes on.
    api.post(CONFIG_MAPS, config_map("last")).await;
    assert!(read.frame().await.unwrap().is_ok());
}
