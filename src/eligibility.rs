//! Whether a DaemonSet's pod belongs on a node: runs, stays or leaves, and why.
//!
//! Pure: a node's name, labels and taints and a pod template in, a [`Verdict`] out. The agent asks it about its own node,
//! control about any node; both get the same answer. A pod that belongs needs no allocation.
//!
//! It does not ask whether the pod fits (that is `fit`), nor what the node's conditions are: the caller turns those it
//! judges by into taints first.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec};

use crate::model::{NodeName, Taint, TaintEffect};

pub use self::selector::{BadSelector, Mismatch, Requirement};
pub use self::taints::{daemon_tolerations, stays_for, tolerates_memory_pressure};

mod selector;
mod taints;

/// What a verdict depends on.
#[derive(Debug, Clone, Copy)]
pub struct NodeFacts<'a> {
    /// `metadata.name` of the Node.
    pub name: &'a NodeName,
    /// `metadata.labels` of the Node.
    pub labels: &'a BTreeMap<String, String>,
    /// `spec.taints` of the Node, in any order.
    pub taints: &'a [Taint],
}

/// Whether the pod belongs on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// A pod is made where there is none.
    pub runs: bool,
    /// A pod that is there is kept. Always true if `runs` is.
    pub stays: bool,
    /// Everything that is against the pod, in the order of the checks; empty if and only if `runs`.
    pub reasons: Vec<Reason>,
}

/// One thing that is against the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// `spec.nodeName` names another node.
    OtherNode {
        /// The name in the template.
        wanted: String,
    },
    /// `spec.nodeSelector` asks for a label the node does not have.
    NodeSelector {
        /// The label's key.
        key: String,
        /// The value it must have.
        wanted: String,
        /// The value it has on the node.
        found: Option<String>,
    },
    /// No term of the required node affinity matches.
    NodeAffinity {
        /// For each term in order, the first requirement the node does not meet; none for a term without requirements,
        /// which matches nothing.
        terms: Vec<Option<Mismatch>>,
    },
    /// The pod does not tolerate a taint of effect `NoSchedule` or `NoExecute`.
    Taint(Taint),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherNode { wanted } => write!(f, "spec.nodeName names another node, {wanted:?}"),
            Self::NodeSelector { key, wanted, found: None } => {
                write!(f, "spec.nodeSelector wants label {key}={wanted}, the node has no label {key}")
            }
            Self::NodeSelector { key, wanted, found: Some(found) } => {
                write!(f, "spec.nodeSelector wants label {key}={wanted}, the node has {key}={found}")
            }
            Self::NodeAffinity { terms } => {
                f.write_str("no term of the required node affinity matches")?;
                for (index, mismatch) in terms.iter().enumerate() {
                    let separator = if index == 0 { ": " } else { "; " };
                    match mismatch {
                        Some(mismatch) => write!(f, "{separator}term {index} wants {mismatch}")?,
                        None => write!(f, "{separator}term {index} is empty and matches no node")?,
                    }
                }
                Ok(())
            }
            Self::Taint(taint) => write!(f, "the node has taint {taint}, which the pod does not tolerate"),
        }
    }
}

/// Says whether this DaemonSet's pod runs on the node, stays there, or leaves it, and why.
///
/// `template` is the pod template as stored; the tolerations every daemon pod has are added here.
/// [`Verdict::reasons`] name everything that is against the pod, not only the first.
///
/// # Errors
/// [`BadSelector`] with the field's path, whatever the node's labels are. Upstream ignores a term it cannot parse; we do
/// not.
///
/// Source: kubernetes v1.36 `pkg/controller/daemon/daemon_controller.go`, `NodeShouldRunDaemonPod`.
pub fn judge(node: &NodeFacts<'_>, template: &PodTemplateSpec) -> Result<Verdict, BadSelector> {
    let Some(spec) = &template.spec else { return Ok(verdict(Vec::new())) };
    let mut reasons = Vec::new();
    if let Some(wanted) = other_node(node, spec) {
        reasons.push(Reason::OtherNode { wanted: wanted.to_owned() });
    }
    selector::check(node, spec, &mut reasons)?;
    reasons.extend(taints::untolerated(node.taints, spec).cloned().map(Reason::Taint));
    Ok(verdict(reasons))
}

/// The two answers that follow from what is against the pod: only a `NoSchedule` taint lets a pod stay.
fn verdict(reasons: Vec<Reason>) -> Verdict {
    let lets_stay = |reason: &Reason| matches!(reason, Reason::Taint(taint) if taint.effect != TaintEffect::NoExecute);
    Verdict { runs: reasons.is_empty(), stays: reasons.iter().all(lets_stay), reasons }
}

/// The node the template names, if it is not this one.
fn other_node<'a>(node: &NodeFacts<'_>, spec: &'a PodSpec) -> Option<&'a str> {
    spec.node_name.as_deref().filter(|name| !name.is_empty() && *name != node.name.as_str())
}

#[cfg(test)]
mod tests;
