//! Fakes, builders and waiting, for tests of this crate and in `tests/`.
//!
//! Compiled only into tests and with the feature `testing`. Nothing here is reached from the program.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

pub mod contract;
pub mod fake_cri;
pub mod fake_plugin;
pub mod fuzz;
pub mod life;
pub mod pods;
pub mod wait;
