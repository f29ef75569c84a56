//! Saying for each DaemonSet whether its pod runs on this host, with every reason. Needs nobody: the ledger knows.

use std::fmt::Write as _;
use std::path::Path;

use super::manifest::{self, ManifestError};
use super::{AgentError, ledger_key};
use crate::api::bundle::Bundle;
use crate::eligibility::{self, NodeFacts};
use crate::host::ledger::{Contents, Ledger};

/// Why nothing can be explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The ledger.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The manifest.
    #[error("the manifest cannot be used")]
    Manifest(#[source] ManifestError),
    /// No agent has run here yet.
    #[error("{0} holds no ledger of a node: no agent has run with this --state-dir")]
    NoNode(std::path::PathBuf),
}

/// Judges the DaemonSets of `manifest`, or, without one, those in the ledger below `state_dir`. One paragraph each.
///
/// # Errors
/// [`ExplainError`].
pub fn explain(state_dir: &Path, manifest: Option<&str>) -> Result<String, ExplainError> {
    if !state_dir.join("ledger").is_dir() {
        return Err(ExplainError::NoNode(state_dir.to_owned()));
    }
    let opened = Ledger::open(state_dir, ledger_key()?).map_err(AgentError::Ledger)?;
    let Some(identity) = opened.contents.identity.clone() else {
        return Err(ExplainError::NoNode(state_dir.to_owned()));
    };
    let bundles = match manifest {
        Some(text) => manifest::read(text).map_err(ExplainError::Manifest)?.sets,
        None => known(&opened.ledger, &opened.contents),
    };
    let node = &opened.contents.node;
    let facts = NodeFacts { name: &identity.name, labels: &node.labels, taints: &node.taints };
    Ok(bundles.iter().map(|bundle| paragraph(&facts, bundle)).collect())
}

/// The newest revision of each DaemonSet in the ledger. One whose blob is lost has nothing to judge.
fn known(ledger: &Ledger, contents: &Contents) -> Vec<Bundle> {
    let sets = contents.daemonsets.values().filter(|set| !set.deleted);
    let mut bundles: Vec<_> =
        sets.filter_map(|set| Bundle::decode(&ledger.blob(&set.newest.bundle).ok()?).ok()).collect();
    bundles.sort_by_key(Bundle::key);
    bundles
}

fn paragraph(node: &NodeFacts<'_>, bundle: &Bundle) -> String {
    let key = bundle.key();
    let (answer, reasons) = match eligibility::judge(node, &bundle.template) {
        Err(error) => ("cannot be judged", vec![error.to_string()]),
        Ok(verdict) => {
            let answer = match (verdict.runs, verdict.stays) {
                (true, _) => "runs here",
                (false, true) => "is not started here; a pod that is here stays",
                (false, false) => "does not run here",
            };
            (answer, verdict.reasons.iter().map(ToString::to_string).collect())
        }
    };
    let mut text = format!("daemonset {key} {answer}\n");
    for reason in reasons {
        writeln!(text, "  - {reason}").expect("writing to a string");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::ledger::Identity;

    #[test]
    fn every_reason_is_said_and_a_host_without_a_node_is_told_so() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(explain(dir.path(), None), Err(ExplainError::NoNode(_))));

        let mut opened = Ledger::open(dir.path(), None).unwrap();
        opened.contents.identity = Some(Identity { fleet: "f".into(), name: "n1".into(), uid: "u".into() });
        opened.contents.node.taints = vec!["dedicated=db:NoSchedule".parse().unwrap()];
        opened.ledger.commit(&opened.contents.snapshot(), &[]).unwrap();
        let manifest = include_str!("../../examples/gpu-monitor.yaml");
        assert_eq!(
            explain(dir.path(), Some(manifest)).unwrap(),
            "daemonset default/gpu-monitor does not run here
  - spec.nodeSelector wants label gpu=true, the node has no label gpu
  - the node has taint dedicated=db:NoSchedule, which the pod does not tolerate
"
        );
    }
}
