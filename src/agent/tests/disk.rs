//! A disk that does not take what is new.

use std::path::PathBuf;

use super::*;

/// Puts a directory in the place of a blob that is to come: it cannot be written, everything else can.
fn obstruct(host: &Host, set: &Bundle) -> PathBuf {
    let path = host.dir.path().join("ledger/blobs").join(hash(set).as_str());
    std::fs::create_dir(&path).unwrap();
    path
}

impl Agent {
    /// What the next report of the node says of its ledger.
    async fn unwritable(&mut self, what: &str) -> Option<String> {
        self.hears(what, |up| {
            let Up::Node(report) = up else { return None };
            let status: Value = serde_json::from_slice(&report.status).unwrap();
            let found = status["conditions"].as_array()?.iter().find(|one| one["type"] == "LedgerUnwritable");
            Some(found.map(|one| one["message"].to_string()))
        })
        .await
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_on_disk_is_neither_done_nor_acknowledged() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[set("web", "one")]).await;
    let pod = host.runs("web", "one").await;
    agent.settle().await;
    agent.heard.clear();
    host.cri.take_changes();

    let log = set("log", "one");
    let obstacle = obstruct(&host, &log);
    agent.down(manifest(2, &[set("web", "one"), log.clone()])).await;
    agent.down(chunk(&content(&log), 0..)).await;
    let answers = vec![(uid("web"), Answer::Deleted { seq: 2, kept: vec![] })];
    agent.down(Down::Answers(Answers { position: position(2), answers })).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    agent.settle().await;
    assert_eq!(host.cri.take_changes(), Vec::<&str>::new());
    assert!(!agent.heard.iter().any(|up| matches!(up, Up::Ack(_))), "{:?}", agent.heard);
    assert!(agent.unwritable("the condition").await.is_some_and(|why| why.contains(hash(&log).as_str())));
    agent.event("LedgerUnwritable").await;
    host.cri.end_container(&pod.uid, "main", 1);
    host.runs("web", "one").await;

    std::fs::remove_dir(obstacle).unwrap();
    host.runs("log", "one").await;
    host.lacks("web").await;
    assert_eq!(agent.unwritable("the condition to go").await, None);
    agent.event("LedgerWritable").await;
    agent.hears("an acknowledgement", |up| (*up == Up::Ack(Ack::Position(position(2)))).then_some(())).await;
}

#[tokio::test(start_paused = true)]
async fn pods_of_the_ledger_are_cared_for_whether_or_not_it_can_be_written() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[set("web", "one")]).await;
    let pod = host.runs("web", "one").await;
    agent.stop().await;

    host.cri.go_away();
    let mut agent = host.start();
    agent.connect().await;
    let log = set("log", "one");
    obstruct(&host, &log);
    agent.down(manifest(2, std::slice::from_ref(&log))).await;
    agent.down(chunk(&content(&log), 0..)).await;
    agent.settle().await;
    let ended = host.cri.end_container(&pod.uid, "main", 1);
    host.cri.come_back();
    let again = host.runs("web", "one").await;
    assert_eq!(again.uid, pod.uid);
    assert_ne!(again.running(), Some(ended));
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_pods_that_an_older_disk_does_not_know_is_removed_and_what_lives_is_not() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    let older = host.dir.path().join("older");
    std::fs::rename(host.dir.path().join("ledger"), &older).unwrap();
    agent.stop().await;

    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[set("web", "one"), set("log", "one")]).await;
    let (web, log) = (host.runs("web", "one").await, host.runs("log", "one").await);
    agent.stop().await;
    let newer = host.dir.path().join("ledger");
    std::fs::remove_dir_all(&newer).unwrap();
    std::fs::rename(&older, &newer).unwrap();
    host.cri.end_sandbox(&web.uid);
    let mut agent = host.start();
    agent.connect().await;
    agent.settle().await;
    let mut pods = host.pods().await;
    assert_eq!(pods.remove("log"), Some(vec![log]));
    assert_eq!(pods, BTreeMap::new(), "nothing is left of {}", web.uid);
}
