//! What a DaemonSet's life takes over the API, beside bare CRI calls for the same pods, in turn, on the same containerd: from POST to
//! the pod's Ready in a watch that is open already, many at once, from a container's end to its next one, and from DELETE until the
//! watch shows the pod gone. Prints Markdown; asserts nothing. `make bench-life`, with `RUNS=20 PODS=30` for other numbers.
//!
//! When the agent begins a restart is not seen from outside. It is reckoned: when the runtime notes that the next container is made,
//! less what the runtime takes to make one when a bare client calls.

use std::collections::HashSet;
use std::time::Instant;

use futures_util::future::try_join_all;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use nix::sched::{CloneFlags, setns};

#[path = "../containerd/harness.rs"]
#[expect(dead_code, reason = "the tests on real containerd need more of it")]
mod harness;

#[expect(dead_code, reason = "other benchmarks need more of it")]
mod cri;

use cri::{Cri, Error, at, manifest};
use harness::Node;

/// How many pods the bare client makes at once, in turn; the best counts.
const CONCURRENCIES: [usize; 4] = [2, 4, 8, 16];

/// Milliseconds of each run: the agent's, the bare client's.
#[derive(Default)]
struct Times {
    ready: [Vec<f64>; 2],
    gone: [Vec<f64>; 2],
    /// From a container's end until the next one is made, as the agent has it.
    again: Vec<f64>,
    /// What the runtime takes to show an end, and to make a container.
    shown: Vec<f64>,
    made: Vec<f64>,
    many: Vec<f64>,
    /// By how many were made at once.
    many_bare: [Vec<f64>; CONCURRENCIES.len()],
}

#[expect(clippy::print_stdout, reason = "a benchmark's result is what it prints")]
fn main() -> Result<(), Error> {
    let number = |name, default| std::env::var(name).ok().map_or(Ok(default), |number| number.parse());
    let (runs, pods): (usize, usize) = (number("RUNS", 10)?, number("PODS", 30)?);
    let mut node = Node::up("bench-life");
    node.garrison_up();
    let Times { mut ready, mut gone, mut again, mut shown, mut made, mut many, many_bare } =
        std::thread::scope(|scope| {
            // A thread of its own has a network of its own.
            let measuring = scope.spawn(|| -> Result<Times, String> {
                setns(node.network(), CloneFlags::CLONE_NEWNET).map_err(|error| error.to_string())?;
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let runtime = runtime.map_err(|error| error.to_string())?;
                runtime.block_on(measure(&node, runs, pods)).map_err(|error| error.to_string())
            });
            measuring.join().expect("it does not panic")
        })?;
    println!("| | the agent | bare CRI calls | ratio (budget) |\n|---|---|---|---|");
    let row = |what: &str, agent: &mut [f64], bare: f64| {
        let agent = at(agent, 50);
        println!("| {what} | {agent:.0} ms | {bare:.0} ms | {:.2} (1.15) |", agent / bare);
    };
    let [agent, bare] = &mut ready;
    row(&format!("POST → Ready in a watch, p50 of {runs}"), agent, at(bare, 50));
    let bare = many_bare.map(|mut times| at(&mut times, 50)).into_iter().zip(CONCURRENCIES);
    let (bare, concurrency) = bare.min_by(|a, b| a.0.total_cmp(&b.0)).expect("there are several");
    row(&format!("{pods} at once → the last Ready; bare with {concurrency} at once"), &mut many, bare);
    let [agent, bare] = &mut gone;
    row("DELETE → gone in a watch, p50", agent, at(bare, 50));
    let (again, shown, made) = (at(&mut again, 50), at(&mut shown, 50), at(&mut made, 50));
    println!(
        "\nFrom a container's end until the agent begins the next one: {:.1} ms p50 (budget 20). {again:.1} ms until that is made, of \
         which the runtime takes {made:.1} ms to make it; it shows an end after {shown:.1} ms.",
        again - made
    );
    Ok(())
}

async fn measure(node: &Node, runs: usize, pods: usize) -> Result<Times, Error> {
    let kubeconfig = Kubeconfig::read_from(node.path("state/admin.kubeconfig"))?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let api = Client { sets: Api::default_namespaced(kube::Client::try_from(config)?) };
    let cri = Cri::connect(&node.path("containerd.sock")).await?;
    let image = cri.pull().await?;
    let mut times = Times::default();
    // The first of each warms up what is made once.
    for run in 0..=runs {
        let name = format!("one-{run}");
        let ready = api.start(&[&name]).await?;
        // Before the next restart it would be backed off.
        let again = cri.again(&name, |container| kill(node, container)).await?;
        let gone = api.end(&[&name]).await?;

        let begun = Instant::now();
        let pod = cri.start(&format!("bare-{run}"), &node.path(&format!("logs/{run}")), &image).await?;
        let bare = millis(begun);
        let (pod, [shown, made]) = cri.restart(pod, |container| kill(node, container)).await?;
        let begun = Instant::now();
        cri.stop_and_remove(pod).await?;
        if run > 0 {
            times.ready[0].push(ready);
            times.ready[1].push(bare);
            times.gone[0].push(gone);
            times.gone[1].push(millis(begun));
            times.again.push(again);
            times.shown.push(shown);
            times.made.push(made);
        }
    }
    let names: Vec<_> = (0..pods).map(|pod| format!("many-{pod}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    for round in 0..3 {
        times.many.push(api.start(&names).await?);
        api.end(&names).await?;
        for (concurrency, bare) in CONCURRENCIES.into_iter().zip(&mut times.many_bare) {
            let begun = Instant::now();
            let made = stream::iter(0..pods).map(|pod| {
                let (name, cri, image) = (format!("bare-{round}-{concurrency}-{pod}"), &cri, &image);
                async move { cri.start(&name, &node.path("logs").join(&name), image).await }
            });
            let made: Vec<_> = made.buffer_unordered(concurrency).try_collect().await?;
            bare.push(millis(begun));
            for pod in made {
                cri.remove(pod).await?;
            }
        }
    }
    Ok(times)
}

type Events = BoxStream<'static, kube::Result<WatchEvent<Pod>>>;

/// A client of the API.
struct Client {
    sets: Api<DaemonSet>,
}

impl Client {
    /// Posts DaemonSets at once; milliseconds until the last of their pods is ready.
    async fn start(&self, names: &[&str]) -> Result<f64, Error> {
        let sets: Result<Vec<_>, _> =
            names.iter().map(|name| serde_saphyr::from_str(manifest(name).trim_end_matches("---\n"))).collect();
        let (sets, events) = (sets?, self.watch().await?);
        let begun = Instant::now();
        try_join_all(sets.iter().map(async |set| self.sets.create(&PostParams::default(), set).await)).await?;
        let is_ready = |pod: &Pod| {
            let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
            conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
        };
        until(events, names, |event| match event {
            WatchEvent::Added(pod) | WatchEvent::Modified(pod) if is_ready(&pod) => Some(pod),
            _ => None,
        })
        .await?;
        Ok(millis(begun))
    }

    /// Deletes DaemonSets at once; milliseconds until the last of their pods is gone.
    async fn end(&self, names: &[&str]) -> Result<f64, Error> {
        let events = self.watch().await?;
        let begun = Instant::now();
        try_join_all(names.iter().map(async |name| self.sets.delete(name, &DeleteParams::default()).await)).await?;
        until(events, names, |event| if let WatchEvent::Deleted(pod) = event { Some(pod) } else { None }).await?;
        Ok(millis(begun))
    }

    /// What comes to pods, from how they are now.
    async fn watch(&self) -> Result<Events, Error> {
        let pods: Api<Pod> = Api::default_namespaced(self.sets.clone().into_client());
        Ok(pods.watch(&WatchParams::default(), "0").await?.boxed())
    }
}

/// Follows events until `arrived` has answered with a pod of each DaemonSet.
async fn until(
    mut events: Events,
    names: &[&str],
    arrived: impl Fn(WatchEvent<Pod>) -> Option<Pod>,
) -> Result<(), Error> {
    let mut left: HashSet<_> = names.iter().copied().collect();
    while let Some(event) = events.try_next().await? {
        let labels = arrived(event).and_then(|pod| pod.metadata.labels).unwrap_or_default();
        left.remove(labels.get("app").map_or("", String::as_str));
        if left.is_empty() {
            return Ok(());
        }
    }
    Err("the watch ended".into())
}

/// Kills the first process of a container.
fn kill(node: &Node, container: &str) {
    let task = node.tasks().into_iter().find(|task| task.container == container).expect("it runs");
    node.kill(task.pid);
}

fn millis(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1000.0
}
