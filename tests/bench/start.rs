//! What the agent adds to starting a pod: from the manifest in its folder to the container's start, beside the bare CRI calls for
//! the same pod (the requests that the agent would make), in turn, on the same containerd. Prints Markdown; asserts nothing. `make bench-start`, with `RUNS=50` for more.
//!
//! Both times end with the start that the runtime itself notes. The agent's state lies on a tmpfs, since the disk's flush is
//! a matter of the disk; what is left is inotify, reading the manifest, judging, the ledger, and what is done between the calls:
//! volumes, cgroups, `/etc/hosts`, the image's presence, looking at what came of each.

use std::fs;
use std::path::Path;

use jiff::Timestamp;

#[path = "../containerd/harness.rs"]
#[expect(dead_code, reason = "the tests on real containerd need more of it")]
mod harness;

#[expect(dead_code, reason = "other benchmarks need more of it")]
mod cri;

use cri::{Cri, Error, at, manifest, millis};
use harness::Node;

#[expect(clippy::print_stdout, reason = "a benchmark's result is what it prints")]
fn main() -> Result<(), Error> {
    let runs: usize = std::env::var("RUNS").ok().map_or(Ok(20), |runs| runs.parse())?;
    let mut node = Node::up("bench-start");
    let manifests = node.path("manifests");
    fs::create_dir(&manifests)?;
    let mount = "mkdir -p \"$1\" && mount -t tmpfs -o mode=700 tmpfs \"$1\"";
    let mounted = node.inside("sh").args(["-c", mount, "sh"]).arg(node.path("state")).status()?;
    assert!(mounted.success(), "a tmpfs can be mounted in a node");
    node.garrison_alone(&manifests);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut bare, mut agent) = runtime.block_on(measure(&node, &manifests, runs))?;
    println!("| manifest or first call → container started, {runs} runs in turn | p50 | p99 |\n|---|---|---|");
    row("bare CRI calls", &mut bare);
    row("the agent", &mut agent);
    // Both series are sorted by now, so that their difference is one of equals.
    let mut added: Vec<f64> = agent.iter().zip(&bare).map(|(agent, bare)| agent - bare).collect();
    row("the agent adds (budget ≤ 10 ms, ≤ 30 ms)", &mut added);
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a benchmark's result is what it prints")]
fn row(what: &str, series: &mut [f64]) {
    println!("| {what} | {:.1} ms | {:.1} ms |", at(series, 50), at(series, 99));
}

/// Milliseconds of each run: bare, agent.
async fn measure(node: &Node, manifests: &Path, runs: usize) -> Result<(Vec<f64>, Vec<f64>), Error> {
    let cri = Cri::connect(&node.path("containerd.sock")).await?;
    let image = cri.pull().await?;
    let (mut bare, mut agent) = (Vec::new(), Vec::new());
    // The first of each warms up what is made once.
    for run in 0..=runs {
        let begun = Timestamp::now();
        let pod = cri.start(&format!("bare-{run}"), &node.path(&format!("logs/{run}")), &image).await?;
        bare.extend((run > 0).then_some(millis(begun, pod.started)));
        cri.remove(pod).await?;
        let time = start_by_agent(&cri, &format!("agent-{run}"), manifests).await?;
        agent.extend((run > 0).then_some(time));
    }
    Ok((bare, agent))
}

async fn start_by_agent(cri: &Cri, name: &str, manifests: &Path) -> Result<f64, Error> {
    let file = manifests.join(format!("{name}.yaml"));
    // Renamed into place, so that it is whole when it is seen.
    let draft = manifests.with_file_name("draft");
    fs::write(&draft, manifest(name))?;
    let begun = Timestamp::now();
    fs::rename(&draft, &file)?;
    let started = cri.until_started(name, 1, begun).await?;
    fs::remove_file(&file)?;
    cri.until_gone(name).await?;
    Ok(millis(begun, started))
}
