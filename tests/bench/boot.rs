//! How long a host takes to have its daemons again: from containerd's first answer after the power was cut to the start of the last
//! pod's container, by the agent from its ledger and by a bare client that makes as many pods with the best of several concurrencies.
//! Offline: the registry has died with the rest. Prints Markdown; asserts nothing. `make bench-boot`, with `RUNS=10 PODS=30` for
//! other numbers.

use std::fs;
use std::path::Path;

use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;

#[path = "../containerd/harness.rs"]
#[expect(dead_code, reason = "the tests on real containerd need more of it")]
mod harness;

#[expect(dead_code, reason = "other benchmarks need more of it")]
mod cri;

use cri::{Cri, Error, at, manifest, millis};
use harness::Node;

/// How many pods the bare client makes at once, in turn; the best counts.
const CONCURRENCIES: [usize; 4] = [2, 4, 8, 16];
const PREFIX: &str = "daemon";

#[expect(clippy::print_stdout, reason = "a benchmark's result is what it prints")]
fn main() -> Result<(), Error> {
    let number = |name, default| std::env::var(name).ok().map_or(Ok(default), |number| number.parse());
    let (runs, pods): (usize, usize) = (number("RUNS", 5)?, number("PODS", 10)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut host = Host::with(pods, &runtime)?;
    let (mut agent, mut bare) = (Vec::new(), [(); CONCURRENCIES.len()].map(|()| Vec::new()));
    for _ in 0..runs {
        agent.push(host.boot_agent(&runtime)?);
        for (concurrency, times) in CONCURRENCIES.iter().zip(&mut bare) {
            times.push(host.boot_bare(&runtime, *concurrency)?);
        }
    }
    println!("| containerd answers → {pods} daemons run, {runs} boots | p50 | worst |\n|---|---|---|");
    let row = |what: &str, times: &mut [f64]| {
        println!("| {what} | {:.0} ms | {:.0} ms |", at(times, 50), at(times, 100));
        at(times, 50)
    };
    let mut best = f64::INFINITY;
    for (concurrency, times) in CONCURRENCIES.iter().zip(&mut bare) {
        best = best.min(row(&format!("bare CRI calls, {concurrency} pods at once"), times));
    }
    let agent = row("the agent", &mut agent);
    println!("\nThe agent takes {:.2} of the best (budget 1.15).", agent / best);
    Ok(())
}

/// A node whose agent has daemons in its ledger.
struct Host {
    node: Node,
    pods: usize,
    image: String,
    boots: usize,
}

impl Host {
    fn with(pods: usize, runtime: &tokio::runtime::Runtime) -> Result<Self, Error> {
        let mut node = Node::up("bench-boot");
        let manifests = node.path("manifests");
        fs::create_dir(&manifests)?;
        for pod in 0..pods {
            let name = format!("{PREFIX}-{pod}");
            fs::write(manifests.join(format!("{name}.yaml")), manifest(&name))?;
        }
        let begun = Timestamp::now();
        node.garrison_alone(&manifests);
        let image = runtime.block_on(async {
            let cri = Cri::connect(&node.path("containerd.sock")).await?;
            cri.until_started(PREFIX, pods, begun).await?;
            cri.pull().await
        })?;
        Ok(Self { node, pods, image, boots: 0 })
    }

    /// Milliseconds until the agent has started all of its pods again.
    fn boot_agent(&mut self, runtime: &tokio::runtime::Runtime) -> Result<f64, Error> {
        self.node.cut_power();
        let manifests = self.node.path("manifests");
        self.node.garrison_alone(&manifests);
        let (pods, node) = (self.pods, &self.node);
        boot(node, runtime, async |cri, ready| cri.until_started(PREFIX, pods, ready).await)
    }

    /// Milliseconds until a bare client has made as many pods.
    fn boot_bare(&mut self, runtime: &tokio::runtime::Runtime, concurrency: usize) -> Result<f64, Error> {
        self.node.cut_power();
        self.boots += 1;
        let (boots, image, logs) = (self.boots, &*self.image, self.node.path("logs"));
        let logs: &Path = &logs;
        boot(&self.node, runtime, async |cri, ready| {
            let pods = stream::iter(0..self.pods).map(|pod| {
                let name = format!("bare-{boots}-{pod}");
                async move { cri.start(&name, &logs.join(&name), image).await }
            });
            let pods: Vec<_> = pods.buffer_unordered(concurrency).try_collect().await?;
            let last = pods.iter().map(|pod| pod.started).max().unwrap_or(ready);
            for pod in pods {
                cri.remove(pod).await?;
            }
            Ok(last)
        })
    }
}

/// Starts containerd; milliseconds from its first answer to the moment that `work` answers with.
fn boot(
    node: &Node,
    runtime: &tokio::runtime::Runtime,
    work: impl AsyncFnOnce(&Cri, Timestamp) -> Result<Timestamp, Error>,
) -> Result<f64, Error> {
    std::thread::scope(|scope| {
        let starter = scope.spawn(|| node.start_containerd());
        let time = runtime.block_on(async {
            let (cri, ready) = Cri::until_ready(&node.path("containerd.sock")).await?;
            Ok(millis(ready, work(&cri, ready).await?))
        });
        drop(starter.join());
        time
    })
}
