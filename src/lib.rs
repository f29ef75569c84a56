//! Garrison stations daemons on every host of a fleet: DaemonSets, without a cluster.
//!
//! One binary, three roles: the [`agent`] of each host, the [`control`] endpoint, and both in one process (`garrison up`).
//! ARCHITECTURE.md says who decides what and what must always hold; this is the map of the code, in reading order.
//!
//! - Nouns: [`model`]. What users write: [`api`].
//! - Decide, values in and values out: [`eligibility`] (does the pod belong here), [`fit`] (is there room), [`podspec`] (a
//!   template becomes a pod of this host), [`placement`] (which pods a node has to have), [`plan`] (the next step of one
//!   pod), [`rollout`] (who may replace a pod now), [`backoff`]. None of these names tokio, a file, a socket or a clock.
//! - Speak, one protocol or facility each: [`cri`] to the runtime, [`devices`] to device plugins, [`host`] to this machine, [`link`]
//!   between agent and control, [`spdy`] where Kubernetes streams, [`store`] to control's disk; [`seal`] is for what nobody else may
//!   read there.
//! - Run, tasks that own state: [`agent`] and [`control`]. They never name each other; they meet in `link` and in the decide
//!   layer.
//! - Around them: [`cli`] and [`config`], [`kube`] for the commands that ask control as a user, [`telemetry`], [`error`];
//!   `testing` has the fakes, and `sim` plays whole fleets.
//!
//! Deliberately absent: a scheduler, a controller manager, a kubelet, and any second client for what kubectl does.

pub mod agent;
pub mod api;
pub mod backoff;
pub mod cli;
pub mod config;
pub mod control;
pub mod cri;
pub mod devices;
pub mod eligibility;
pub mod error;
pub mod fit;
pub mod host;
pub mod kube;
pub mod link;
pub mod model;
pub mod placement;
pub mod plan;
pub mod podspec;
pub mod rollout;
pub mod seal;
#[cfg(test)]
mod sim;
pub mod spdy;
pub mod store;
pub mod telemetry;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
