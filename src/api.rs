//! Kubernetes objects as users write them: decoding, defaults, rules, selectors, quantities.
//!
//! What comes in is bytes or k8s-openapi values; what goes out is k8s-openapi values, made complete and checked, or
//! errors in Kubernetes' own form: the field's path, what is wrong with it, in the words `kubectl` users know. Control
//! uses it for the REST API and the agent for `--manifests`, so both refuse the same things in the same words.
//!
//! Pure: nothing here reads a file, the clock or the network, and nothing here decides where a pod runs. Looking up
//! what a reference names (a PriorityClass, a ConfigMap) is the caller's.

pub mod admission;
pub mod bundle;
pub mod certificates;
pub mod charts;
pub mod classes;
pub mod core;
pub mod daemonset;
pub mod document;
pub mod field;
pub mod metadata;
pub mod metrics;
pub mod names;
pub mod node;
pub mod pod;
pub mod pod_template;
pub mod quantity;
pub mod rbac;
pub mod revision;
pub mod schema;
pub mod selector;
pub mod strict;
