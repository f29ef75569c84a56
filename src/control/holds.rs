//! The nodes that hold because they have taken over what control does not know, and the way out for all of them at once;
//! what nodes run that control has no record of, and how that ends.
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
use crate::model::{NodeName, ObjectKey, RevisionHash, Uid};

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
    /// What nodes that are in step held at their last hello and control has no record of, by name.
    #[serde(default)]
    pub unknown: Vec<UnknownDaemonSet>,
}

/// A DaemonSet that control has no record of: neither that it is there nor that it was deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnknownDaemonSet {
    /// What nodes call it; for one that only an old agent holds, its uid.
    pub daemonset: ObjectKey,
    /// `metadata.uid` of what was once in the API.
    pub uid: Uid,
    /// Who holds it, by name.
    pub nodes: Vec<NodeName>,
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

/// Why nothing was ended.
#[derive(Debug, thiserror::Error)]
pub enum EndError {
    /// Control has a record of it, or no node holds it.
    #[error("no node runs a DaemonSet with uid {0} that control has no record of; see `garrison control holds`")]
    NotUnknown(Uid),
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

    /// Ends everywhere what nodes run of a DaemonSet that control has no record of.
    fn end(&self, daemonset: Uid) -> BoxFuture<'_, Result<(), EndError>>;
}

/// Who holds and what confirming comes to, in lines for people.
pub fn render(holds: &Holds) -> String {
    let Holds { era, seq, nodes, unknown, .. } = holds;
    let mut text = format!("control stands at era {era}, seq {seq}\n");
    if nodes.is_empty() {
        text.push_str("no node that is connected has taken over more than control knows\n");
    } else {
        push_held(&mut text, holds);
    }
    push_unknown(&mut text, unknown);
    text
}

fn push_held(text: &mut String, Holds { era, nodes, differences, .. }: &Holds) {
    text.push_str("\nThese nodes have taken over what control does not know, and hold:\n");
    let width = nodes.iter().map(|node| node.name.as_str().len()).max().unwrap_or(0);
    for HeldNode { name, era, seq } in nodes {
        text.push_str(&format!("  {:width$}  era {era}, seq {seq}\n", name.as_str()));
    }
    text.push_str("\nIf control's word is to count for them:\n");
    if differences.is_empty() {
        text.push_str("  no DaemonSet differs\n");
    }
    for Difference { daemonset, kind, nodes } in differences {
        text.push_str(&format!("  {daemonset} on {}: {}\n", count(nodes), consequence(kind)));
    }
    text.push_str(&format!(
        "ConfigMaps, Secrets, labels and taints become control's without being compared.\n\n\
         To confirm it for these nodes and for those that are away: garrison control holds --confirm {era}\n"
    ));
}

fn push_unknown(text: &mut String, unknown: &[UnknownDaemonSet]) {
    if unknown.is_empty() {
        return;
    }
    text.push_str("\nControl has no record of these DaemonSets; what runs of them stays as it is:\n");
    for UnknownDaemonSet { daemonset, uid, nodes } in unknown {
        text.push_str(&format!("  {daemonset}, uid {uid}, on {}\n", count(nodes)));
    }
    text.push_str("To end one on all nodes: garrison control holds --end UID\n");
}

fn count(nodes: &[NodeName]) -> String {
    format!("{} node{}", nodes.len(), if nodes.len() == 1 { "" } else { "s" })
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
            unknown: vec![UnknownDaemonSet {
                daemonset: ObjectKey::new("default", "old"),
                uid: "u".into(),
                nodes: vec!["edge-2".into()],
            }],
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

Control has no record of these DaemonSets; what runs of them stays as it is:
  default/old, uid u, on 1 node
To end one on all nodes: garrison control holds --end UID
";
        assert_eq!(render(&holds), expected);
        assert_eq!(serde_json::from_value::<Holds>(serde_json::to_value(&holds).unwrap()).unwrap(), holds);
        let none = render(&Holds { nodes: vec![], differences: vec![], unknown: vec![], ..holds });
        assert!(none.ends_with("no node that is connected has taken over more than control knows\n"), "{none}");
    }
}
