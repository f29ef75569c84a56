//! `/fleet/holds`, answered by a fleet in era 9.

use super::*;

#[tokio::test]
async fn holds_are_shown_and_confirmed_by_era_by_whoever_may() {
    let harness = Harness::new().await;
    let shown = json!({"era": 9, "seq": 12, "nodes": [], "differences": []});
    assert_eq!(harness.get("/fleet/holds").await, (200, shown.clone()));
    assert_eq!(harness.post("/fleet/holds", json!({"era": 9})).await, (200, shown));
    let (code, status) = harness.post("/fleet/holds", json!({"era": 8})).await;
    assert_eq!((code, &status["message"]), (400, &json!("the present era is 9, not 8; look at the differences again")));
    assert_eq!(harness.post("/fleet/holds", json!({"eras": 9})).await.0, 400);
    let stranger = harness.as_user(User { name: "somebody".to_owned(), ..User::default() });
    assert_eq!(stranger.get("/fleet/holds").await.0, 403);
    assert_eq!(stranger.post("/fleet/holds", json!({"era": 9})).await.0, 403);
}
