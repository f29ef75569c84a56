//! A simulated fleet: the real control and the agents of many nodes in one thread, on tokio's paused clock.
//!
//! ```text
//! seed ─▶ chance ─▶ schedule (pure) ─▶ steps ─▶ world: users, machines, lines, control
//!                                                │
//!            agent ◀── wire ──▶ sessions ◀── control ── store in memory
//!              │ CRI
//!         fake runtime ──every change──▶ witness (the invariants)
//! ```
//!
//! - `seeded` makes a thread repeatable: randomness and the wall clock come from the seed and from tokio's clock.
//! - `schedule` draws what happens next, `world` does it; `wire` stands in for the link between an agent and control.
//! - `witness` knows what users asked for and which faults there were, sees every change in the machines, and says what should not
//!   have been. It asks neither agent nor control but for what is on a node's disk.
//!
//! It lives in the crate because it is made of its private parts, and only in tests: nothing here reaches the program. `make
//! sim SEED=…` replays one seed, with all that control and the agents log if `GARRISON_SIM_LOG=garrison=debug` is set, and `make
//! soak-sim` looks for one that fails. Each seed has a process of its own: tokio draws the order in which it looks at the arms
//! of a `select!` from a count of all runtimes before, too.

mod chance;
pub(crate) mod fuse;
mod schedule;
pub(crate) mod seeded;
mod tests;
mod wire;
mod witness;
mod world;
