//! Many watches at once; `make bench-watch` has ten times as many.

use crate::harness::Control;
use crate::load::{self, Plan};

fn run<T>(test: impl Future<Output = anyhow::Result<T>>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(test).expect("clients can speak with control")
}

#[test]
fn every_watch_sees_every_change_once_and_in_order_and_no_acknowledged_write_is_lost() {
    let mut control = Control::start();
    let plan = Plan { watches: 200, writers: 4, writes: 50, floods: 4 };
    let figures = run(load::run(&mut control, &plan));
    assert_eq!(figures.acknowledged, 200);
    assert!(figures.refused > 0);
    let [unwatched, idle, _] = figures.memory_kib;
    // A connection with TLS, and a watch.
    assert!(idle.saturating_sub(unwatched) < 200 * 128, "{:?}", figures.memory_kib);
}

#[test]
fn a_watch_that_is_never_read_is_cut_off() {
    let control = Control::start();
    run(load::stall(&control));
}
