//! The nodes that hold because they have taken over what control does not know, and the way out for all of them at once.
//!
//! A restored back-up is such a case: control begins a new era, and every node that had come further holds. A person looks
//! at the differences and confirms the present era as the successor of those before it, once for the fleet; from then on
//! control's word counts for these nodes, too. Nothing of this is decided by itself.
//!
//! Owned here: what there is to see, how it is printed (pure), and the way to it, [`Fleet`], which sessions implement, so
//! that `rest` does not know of them.

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::objects::ObjectError;
use super::recovery::{Choice, Recovery, RecoveryError};
use crate::model::{NodeName, ObjectKey, RevisionHash};

/// Who holds, and what confirming would come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Holds {
    /// The present era: what is to be confirmed.
    pub era: u64,
    /// Where the fleet's intent stands.
    pub seq: u64,
    /// The nodes that are connected and hold, by name.
    pub nodes: Vec<HeldNode>,
    /// What they hold otherwise than control, by DaemonSet.
    pub differences: Vec<Difference>,
}

/// A node that holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldNode {
    /// Its name.
    pub name: NodeName,
    /// The era of what it has taken over.
    pub era: u64,
    /// How far it has come in that era.
    pub seq: u64,
}

/// One DaemonSet that nodes hold otherwise than control.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// Namespace and name; for one that only an old agent holds, its uid.
    pub daemonset: ObjectKey,
    /// How.
    pub kind: DifferenceKind,
    /// On these nodes.
    pub nodes: Vec<NodeName>,
}

/// How a DaemonSet differs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum DifferenceKind {
    /// Control has no record of it.
    Unknown,
    /// It was deleted here.
    Deleted,
    /// The nodes hold another newest revision.
    Revision {
        /// The nodes'.
        held: RevisionHash,
        /// Control's.
        here: RevisionHash,
    },
    /// The nodes do not hold it.
    OnlyHere,
}

/// Why an era was not confirmed.
#[derive(Debug, thiserror::Error)]
pub enum ConfirmError {
    /// Something else was looked at.
    #[error("the present era is {here}, not {asked}; look at the differences again")]
    OtherEra {
        /// As asked for.
        asked: u64,
        /// The present one.
        here: u64,
    },
    /// Somebody else changed the fleet's record at the same time.
    #[error("the fleet's record was changed meanwhile; look at the differences again")]
    Changed,
    /// The store.
    #[error(transparent)]
    Objects(#[from] ObjectError),
}

/// The way to the fleet's nodes.
pub trait Fleet: Send + Sync + 'static {
    /// Who holds now.
    fn holds(&self) -> Holds;

    /// Opens the recovery if it is not open, and shows what it would come to.
    fn recovery(&self, choice: Choice) -> BoxFuture<'_, Result<Recovery, RecoveryError>>;

    /// Writes what was shown under this number, takes the nodes on that told it, and closes the recovery.
    fn recover(&self, number: u64) -> BoxFuture<'_, Result<Recovery, RecoveryError>>;

    /// Makes `era`, the present one, the successor of all others, and has those who hold received anew.
    fn confirm(&self, era: u64) -> BoxFuture<'_, Result<(), ConfirmError>>;
}

/// Who holds and what confirming comes to, in lines for people.
pub fn render(holds: &Holds) -> String {
    let Holds { era, seq, nodes, differences } = holds;
    let here = format!("control stands at era {era}, seq {seq}\n");
    if nodes.is_empty() {
        return here + "no node that is connected has taken over more than control knows\n";
    }
    let mut text = format!("{here}\nThese nodes have taken over what control does not know, and hold:\n");
    let width = nodes.iter().map(|node| node.name.as_str().len()).max().unwrap_or(0);
    for HeldNode { name, era, seq } in nodes {
        text.push_str(&format!("  {:width$}  era {era}, seq {seq}\n", name.as_str()));
    }
    text.push_str("\nIf control's word is to count for them:\n");
    if differences.is_empty() {
        text.push_str("  no DaemonSet differs\n");
    }
    for Difference { daemonset, kind, nodes } in differences {
        let count = format!("{} node{}", nodes.len(), if nodes.len() == 1 { "" } else { "s" });
        text.push_str(&format!("  {daemonset} on {count}: {}\n", consequence(kind)));
    }
    text.push_str(&format!(
        "ConfigMaps, Secrets, labels and taints become control's without being compared.\n\n\
         To confirm it for these nodes and for those that are away: garrison control holds --confirm {era}\n"
    ));
    text
}

fn consequence(kind: &DifferenceKind) -> String {
    match kind {
        DifferenceKind::Unknown => "control has no record of it; its pods stay as they are".to_owned(),
        DifferenceKind::Deleted => "it was deleted here; its pods end".to_owned(),
        DifferenceKind::Revision { held, here } => {
            format!("revision {held} is replaced by {here}, as its update strategy says")
        }
        DifferenceKind::OnlyHere => "only control has it; it begins where it belongs".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_who_holds_is_named_and_what_becomes_of_each_daemonset() {
        let node = |name: &str, seq| HeldNode { name: name.into(), era: 7, seq };
        let difference = |name: &str, kind, nodes: &[&str]| Difference {
            daemonset: ObjectKey::new("default", name),
            kind,
            nodes: nodes.iter().map(|name| (*name).into()).collect(),
        };
        let revision = DifferenceKind::Revision { held: "new".into(), here: "old".into() };
        let holds = Holds {
            era: 9,
            seq: 12,
            nodes: vec![node("edge-1", 15), node("edge-10", 14)],
            differences: vec![
                difference("added", DifferenceKind::Unknown, &["edge-1"]),
                difference("dropped", DifferenceKind::OnlyHere, &["edge-1", "edge-10"]),
                difference("gone", DifferenceKind::Deleted, &["edge-10"]),
                difference("web", revision, &["edge-1", "edge-10"]),
            ],
        };
        let expected = "\
control stands at era 9, seq 12

These nodes have taken over what control does not know, and hold:
  edge-1   era 7, seq 15
  edge-10  era 7, seq 14

If control's word is to count for them:
  default/added on 1 node: control has no record of it; its pods stay as they are
  default/dropped on 2 nodes: only control has it; it begins where it belongs
  default/gone on 1 node: it was deleted here; its pods end
  default/web on 2 nodes: revision new is replaced by old, as its update strategy says
ConfigMaps, Secrets, labels and taints become control's without being compared.

To confirm it for these nodes and for those that are away: garrison control holds --confirm 9
";
        assert_eq!(render(&holds), expected);
        assert_eq!(serde_json::from_value::<Holds>(serde_json::to_value(&holds).unwrap()).unwrap(), holds);
        let none = render(&Holds { nodes: vec![], differences: vec![], ..holds });
        assert!(none.ends_with("no node that is connected has taken over more than control knows\n"), "{none}");
    }
}
