//! A control that has lost its store, rebuilt from what nodes hold.
//!
//! A person opens the recovery: nodes that control has no record of, but whose certificate its authority has signed, are
//! received on hold from then on and asked what their ledgers hold. The person looks at what that comes to, and confirms it by
//! its number; only then is anything written. Nothing that runs stops at any time.
//!
//! Owned here: what there is to see, and how it is printed (pure). The way to it is [`Fleet`](super::holds::Fleet).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::objects::ObjectError;
use crate::model::{NodeName, ObjectKey};

/// What a person decides before it is confirmed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Choice {
    /// Nodes whose word does not count, and which stay strangers.
    pub without: BTreeSet<NodeName>,
    /// DaemonSets to rebuild that would be left out because they seem to be deleted.
    pub include: BTreeSet<ObjectKey>,
    /// The labels that nodes say they have are vouched for: they may buy ConfigMaps and Secrets.
    pub vouch_for_labels: bool,
}

/// What recovering would come to, as far as nodes have told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recovery {
    /// To confirm just this.
    pub number: u64,
    /// The nodes that control has no record of, by name.
    pub nodes: Vec<Stranger>,
    /// What they hold, by kind, namespace and name.
    pub objects: Vec<Found>,
    /// The labels they say they have, and how many of them say so.
    pub labels: Vec<(String, usize)>,
    /// Whether those are vouched for.
    pub vouch_for_labels: bool,
    /// What is named by what would be rebuilt, and is neither here nor held by any node.
    pub missing: Vec<String>,
}

/// A node that control has no record of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stranger {
    /// As its certificate says.
    pub name: NodeName,
    /// The era of what it has taken over.
    pub era: u64,
    /// How far it has come in that era.
    pub seq: u64,
    /// Why it would not be taken on; none if it would.
    pub left_out: Option<String>,
}

/// An object that nodes hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Found {
    /// `DaemonSet`, `ConfigMap`, `Secret` or `Pod`.
    pub kind: String,
    /// Namespace and name.
    pub key: ObjectKey,
    /// Of a DaemonSet: `metadata.generation` of the newest.
    pub generation: Option<i64>,
    /// How many nodes hold the newest.
    pub nodes: usize,
    /// How many hold something older, or something else.
    pub others: usize,
    /// What becomes of it.
    pub outcome: Outcome,
}

/// What becomes of an object that nodes hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// It is written again, with its uid.
    Rebuilt,
    /// Control has it, and it stays as it is.
    Here,
    /// It is not rebuilt: why.
    LeftOut(String),
}

/// Why nothing was recovered.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// Something else was shown last, or nothing since control began.
    #[error("what was shown last is not number {asked}; look at it again")]
    NotShown {
        /// As asked for.
        asked: u64,
    },
    /// The store. What was written until then stays; recovering again goes on from there.
    #[error(transparent)]
    Objects(#[from] ObjectError),
}

/// What nobody holds for control, whatever nodes there are.
const LOST: &str = "\
No host holds these: RBAC, ServiceAccounts, classes, ConfigMaps and Secrets that no DaemonSet or posted pod uses, labels and
annotations of ConfigMaps and Secrets, annotations of Nodes, what users changed of single pods of DaemonSets, leases, events,
join tokens and user tokens. Apply your manifests again afterwards, and make new tokens.
";

/// What recovering would come to, in lines for people.
pub fn render(recovery: &Recovery) -> String {
    let Recovery { number, nodes, objects, labels, vouch_for_labels, missing } = recovery;
    let left_out = nodes.iter().filter(|node| node.left_out.is_some());
    let ready = nodes.len() - left_out.clone().count();
    let mut text = format!(
        "{ready} hosts that control has no record of have told what they hold{}\n",
        if ready == 0 { "; they dial within minutes, look again" } else { "" }
    );
    let width = left_out.clone().map(|node| node.name.as_str().len()).max().unwrap_or(0);
    for Stranger { name, left_out, .. } in left_out {
        let why = left_out.as_deref().unwrap_or_default();
        text.push_str(&format!("  {:width$}  is not taken on: {why}\n", name.as_str()));
    }
    if ready == 0 {
        return text;
    }
    text.push('\n');
    text.push_str(&table(objects));
    if !labels.is_empty() {
        let each = labels.iter().map(|(label, nodes)| format!("{label} ({nodes})"));
        text.push_str(&format!("\nThe hosts say they have these labels: {}\n", each.collect::<Vec<_>>().join(", ")));
        text.push_str(if *vouch_for_labels {
            "They are vouched for: a host that should not have one gets what it buys. Look at each, and at how many have it.\n"
        } else {
            "They buy no ConfigMap, Secret or token until they are vouched for: look at them, and give --vouch-for-labels.\n"
        });
    }
    text.push_str(&format!("\n{LOST}"));
    if !missing.is_empty() {
        text.push_str(&format!("Named by what is rebuilt, and to be applied again: {}.\n", missing.join(", ")));
    }
    text.push_str(&format!("\nTo write this: garrison control recover --confirm {number}\n"));
    text
}

/// What was written, in a line for people.
pub fn render_confirmed(recovery: &Recovery) -> String {
    let nodes = recovery.nodes.iter().filter(|node| node.left_out.is_none()).count();
    let rebuilt = recovery.objects.iter().filter(|found| found.outcome == Outcome::Rebuilt).count();
    format!(
        "{rebuilt} objects and {nodes} nodes are here again; recover again for hosts that were away, \
         and apply your manifests for what no host held\n"
    )
}

fn table(objects: &[Found]) -> String {
    let names: Vec<_> = objects.iter().map(|found| found.key.to_string()).collect();
    let width = names.iter().map(String::len).max().unwrap_or(0).max(4);
    let mut text = format!("{:<11}{:width$}  {:>10}  {:>6}  {:>6}\n", "KIND", "NAME", "GENERATION", "HOSTS", "OTHERS");
    for (found, name) in objects.iter().zip(names) {
        let generation = found.generation.map_or("-".to_owned(), |generation| generation.to_string());
        let outcome = match &found.outcome {
            Outcome::Rebuilt => String::new(),
            Outcome::Here => "  is here, and stays".to_owned(),
            Outcome::LeftOut(why) => format!("  left out: {why}"),
        };
        let Found { kind, nodes, others, .. } = found;
        text.push_str(&format!("{kind:<11}{name:width$}  {generation:>10}  {nodes:>6}  {others:>6}{outcome}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_sees_who_tells_what_and_what_becomes_of_it() {
        let stranger = |name: &str, left_out: Option<&str>| {
            let left_out = left_out.map(str::to_owned);
            Stranger { name: name.into(), era: 7, seq: 15, left_out }
        };
        let found = |kind: &str, name: &str, generation, nodes, others, outcome| {
            let (kind, key) = (kind.to_owned(), ObjectKey::new("default", name));
            Found { kind, key, generation, nodes, others, outcome }
        };
        let recovery = Recovery {
            number: 3,
            nodes: vec![stranger("a", None), stranger("b", None), stranger("edge-3", Some("it has yet to tell"))],
            objects: vec![
                found("DaemonSet", "web", Some(4), 1, 1, Outcome::Rebuilt),
                found("DaemonSet", "old", Some(1), 1, 0, Outcome::LeftOut("it may be deleted".to_owned())),
                found("Secret", "keys", None, 2, 0, Outcome::Here),
            ],
            labels: vec![("site=north".to_owned(), 2)],
            vouch_for_labels: false,
            missing: vec!["ServiceAccount default/web".to_owned()],
        };
        let expected = format!(
            "\
2 hosts that control has no record of have told what they hold
  edge-3  is not taken on: it has yet to tell

KIND       NAME          GENERATION   HOSTS  OTHERS
DaemonSet  default/web            4       1       1
DaemonSet  default/old            1       1       0  left out: it may be deleted
Secret     default/keys           -       2       0  is here, and stays

The hosts say they have these labels: site=north (2)
They buy no ConfigMap, Secret or token until they are vouched for: look at them, and give --vouch-for-labels.

{LOST}Named by what is rebuilt, and to be applied again: ServiceAccount default/web.

To write this: garrison control recover --confirm 3
"
        );
        assert_eq!(render(&recovery), expected);
        assert!(render_confirmed(&recovery).starts_with("1 objects and 2 nodes are here again"));
        assert_eq!(serde_json::from_value::<Recovery>(serde_json::to_value(&recovery).unwrap()).unwrap(), recovery);
        let none = render(&Recovery { nodes: vec![], objects: vec![], ..recovery });
        assert!(none.ends_with("they dial within minutes, look again\n"), "{none}");
    }
}
