//! Ending everything because somebody at the host says so.

use super::*;
use crate::agent::purge::end_pods;

#[tokio::test(start_paused = true)]
async fn a_purge_ends_every_pod_as_a_deletion_would() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[set("web", "one"), set("log", "two")]).await;
    host.runs("web", "one").await;
    host.runs("log", "two").await;
    agent.stop().await;
    host.cri.take_changes();

    let identity = Identity { fleet: FLEET.into(), name: "node-1".into(), uid: NODE.into() };
    end_pods(Arc::new(host.shared()), identity, Ledger::open(host.dir.path(), None).unwrap()).await.unwrap();
    assert_eq!(host.pods().await, BTreeMap::new());
    assert_eq!(host.left_behind(), Vec::<String>::new());
    assert!(host.cri.take_changes().contains(&"StopContainer"), "they were stopped, not killed");
}
