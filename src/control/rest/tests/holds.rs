//! `/fleet/holds` and `/fleet/recovery`, answered by a fleet in era 9 that has shown number 3.

use super::*;

#[tokio::test]
async fn holds_are_shown_and_confirmed_by_era_by_whoever_may() {
    let harness = Harness::new().await;
    let shown = json!({"era": 9, "seq": 12, "nodes": [], "differences": [], "unknown": []});
    assert_eq!(harness.get("/fleet/holds").await, (200, shown.clone()));
    assert_eq!(harness.post("/fleet/holds", json!({"era": 9})).await, (200, shown));
    let (code, status) = harness.post("/fleet/holds", json!({"era": 8})).await;
    assert_eq!((code, &status["message"]), (400, &json!("the present era is 9, not 8; look at the differences again")));
    assert_eq!(harness.post("/fleet/holds", json!({"eras": 9})).await.0, 400);
    let stranger = harness.as_user(User { name: "somebody".to_owned(), ..User::default() });
    assert_eq!(stranger.get("/fleet/holds").await.0, 403);
    assert_eq!(stranger.post("/fleet/holds", json!({"era": 9})).await.0, 403);
}

#[tokio::test]
async fn a_recovery_is_shown_and_confirmed_by_number_by_whoever_may() {
    let harness = Harness::new().await;
    let shown = |vouch: bool| {
        json!({
            "number": 3, "nodes": [], "objects": [], "labels": [], "vouchForLabels": vouch, "missing": [],
        })
    };
    assert_eq!(harness.post("/fleet/recovery", json!({"vouchForLabels": true})).await, (200, shown(true)));
    assert_eq!(harness.post("/fleet/recovery", json!({"with": ["edge-1"]})).await.0, 400);
    assert_eq!(harness.post("/fleet/recovery/confirm", json!({"number": 3})).await, (200, shown(false)));
    let (code, status) = harness.post("/fleet/recovery/confirm", json!({"number": 2})).await;
    assert_eq!((code, &status["message"]), (400, &json!("what was shown last is not number 2; look at it again")));
    let stranger = harness.as_user(User { name: "somebody".to_owned(), ..User::default() });
    assert_eq!(stranger.post("/fleet/recovery", json!({})).await.0, 403);
    assert_eq!(stranger.post("/fleet/recovery/confirm", json!({"number": 3})).await.0, 403);
}
