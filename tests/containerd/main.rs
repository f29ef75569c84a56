//! Garrison on the real thing: containerd, runc, CNI, an image registry and kubectl, in a network namespace per node.
//!
//! Needs root and what `tests/env/packages.sh` installs; `make test` sees to both. Every test has a node or three of its own and
//! leaves nothing behind, also when it fails.

mod alone;
mod commands;
mod configuration;
mod corpus;
mod daemonsets;
mod devices;
mod disks;
mod eviction;
mod faults;
mod fleet;
mod harness;
mod images;
mod leaks;
mod lifecycle;
mod nodes;
mod orphans;
mod pods;
mod probes;
mod processes;
mod recovered;
mod resources;
mod restarts;
mod restored;
mod runtime;
mod security;
mod streams;
mod trouble;
