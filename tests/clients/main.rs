//! Real clients against a control endpoint alone: kubectl and helm as they are installed, no node and no containerd.
//!
//! Needs no root. Where a client is not installed its tests say so aloud and check nothing.

mod access;
mod certificates;
mod charts;
mod churn;
mod harness;
mod hostile;
mod informer;
mod kube_rs;
mod kubectl;
#[expect(dead_code, reason = "the benchmark prints more of what comes of it")]
mod load;
mod prometheus;
mod traces;
mod watches;
