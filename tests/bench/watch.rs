//! What watches cost control: many of them, writers and a flood of bad requests at once, on a `garrison control` of their own.
//! Prints Markdown; fails if a watch misses a change, sees one twice or in the wrong order, or if an acknowledged write is not
//! there after control was killed. `make bench-watch`, with `WATCHES=2000 WRITES=1000` or others.

use std::time::Duration;

#[path = "../clients/harness.rs"]
#[expect(dead_code, reason = "the tests with clients need more of it")]
mod harness;
#[path = "../clients/load.rs"]
#[expect(dead_code, reason = "the tests with clients need more of it")]
mod load;

use harness::Control;
use load::{Figures, Plan};

#[expect(clippy::print_stdout, reason = "a benchmark's result is what it prints")]
fn main() -> anyhow::Result<()> {
    let number = |name: &str, default| std::env::var(name).ok().map_or(Ok(default), |text| text.parse());
    let (watches, writes) = (number("WATCHES", 2000)?, number("WRITES", 1000)?);
    let plan = Plan { watches, writers: 4, writes: writes / 4, floods: 4 };
    let mut control = Control::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let Figures { acknowledged, refused, writing, behind, latencies, memory_kib } =
        runtime.block_on(load::run(&mut control, &plan))?;
    let at = |percent: usize| latencies[(latencies.len() * percent).div_ceil(100).saturating_sub(1)];
    let millis = |duration: Duration| format!("{:.1} ms", duration.as_secs_f64() * 1000.0);
    let seconds = |duration: Duration| format!("{:.2} s", duration.as_secs_f64());
    let mib = |kib: u64| format!("{:.1} MiB", kib as f64 / 1024.0);
    let [unwatched, idle, loaded] = memory_kib;
    println!("| {watches} watches, each on a connection of its own | |\n|---|---|");
    println!("| writes acknowledged, and there after `kill -9` | {acknowledged} in {} |", seconds(writing));
    println!("| one write, p50, p99 | {}, {} |", millis(at(50)), millis(at(99)));
    println!("| events seen, each once and in order | {} |", watches * acknowledged);
    println!("| the last watch has the last event after | {} |", seconds(behind));
    println!("| bad requests refused meanwhile | {refused} |");
    println!(
        "| control, PSS: without watches, with them, at the end | {}, {}, {} |",
        mib(unwatched),
        mib(idle),
        mib(loaded)
    );
    println!(
        "| one idle watch and its connection | {:.1} KiB |",
        idle.saturating_sub(unwatched) as f64 / watches as f64
    );
    Ok(())
}
