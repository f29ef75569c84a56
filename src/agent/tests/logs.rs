//! Logs that get too large.

use std::fs::{self, File};
use std::path::PathBuf;

use super::*;

impl Host {
    /// The files of the log of a pod's only container.
    fn logs(&self, pod: &Uid) -> (PathBuf, Vec<String>) {
        let key = &self.ledger().pods[pod].key;
        let dir = self.dir.path().join(format!("logs/pods/default_{}_{}/main", key.name, key.uid));
        fs::create_dir_all(&dir).unwrap();
        let mut names: Vec<_> =
            fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        (dir, names)
    }

    fn reopened(&self) -> usize {
        self.cri.calls().iter().filter(|call| call.method == "ReopenContainerLog").count()
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_too_large_is_moved_aside_and_opened_again() {
    let host = Host::new();
    let mut agent = host.start();
    agent.connect().await;
    agent.apply(1, &[set("web", "one")]).await;
    let pod = host.runs("web", "one").await;
    let (dir, _) = host.logs(&pod.uid);
    let grow = || File::create(dir.join("0.log")).unwrap().set_len(10 * 1024 * 1024).unwrap();

    // A runtime that does not open another goes on with the old one.
    host.cri.fail_next("ReopenContainerLog", tonic::Code::Unknown, "not now");
    grow();
    let before = host.reopened();
    eventually("the first try", async || (host.reopened() > before).then_some(())).await;
    agent.settle().await;
    assert_eq!(host.logs(&pod.uid).1, ["0.log"]);

    eventually("the second try", async || (host.logs(&pod.uid).1.iter().all(|name| name != "0.log")).then_some(()))
        .await;
    let (_, names) = host.logs(&pod.uid);
    assert!(matches!(names.as_slice(), [aside] if aside.starts_with("0.log.2")), "{names:?}");
    // The fake opens no files, so it is asked again; one that is small is left alone.
    File::create(dir.join("0.log")).unwrap();
    agent.settle().await;
    let before = host.reopened();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(host.reopened(), before);
}
