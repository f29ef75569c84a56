//! Who holds because control does not know what they have taken over, and what they hold otherwise than control; what
//! nodes in step run that control has no record of.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::desired::Desired;
use super::reports::write_conditions;
use super::{Sessions, Shared};
use crate::control::holds::{
    ConfirmError, Difference, DifferenceKind, EndError, Fleet, HeldNode, Holds, UnknownDaemonSet,
};
use crate::control::nodes;
use crate::control::objects::ObjectError;
use crate::control::recovery::{Choice, Recovery, RecoveryError};
use crate::link::{Answer, HeldDaemonSet, Hello};
use crate::model::{NodeName, ObjectKey, Position, Uid};

/// What a node has taken over beyond what control knows.
#[derive(Debug)]
pub(super) struct Ahead {
    pub(super) position: Position,
    pub(super) daemonsets: Vec<HeldDaemonSet>,
    /// Those of them that were deleted, as all nodes had confirmed.
    pub(super) buried: HashSet<Uid>,
}

impl Fleet for Sessions {
    fn holds(&self) -> Holds {
        let (here, ahead) = (*self.shared.objects.position().borrow(), self.shared.roster.all_ahead());
        let node = |(name, ahead): &(NodeName, Arc<Ahead>)| {
            let Position { era, seq } = ahead.position;
            HeldNode { name: name.clone(), era, seq }
        };
        let differences = differences(&self.shared.desired(), &ahead);
        let unknown = by_daemonset(&self.shared.roster.all_unknown());
        Holds { era: here.era, seq: here.seq, nodes: ahead.iter().map(node).collect(), differences, unknown }
    }

    fn recovery(&self, choice: Choice) -> BoxFuture<'_, Result<Recovery, RecoveryError>> {
        self.shared.show_recovery(choice).boxed()
    }

    fn recover(&self, number: u64) -> BoxFuture<'_, Result<Recovery, RecoveryError>> {
        self.shared.recover(number).boxed()
    }

    fn confirm(&self, era: u64) -> BoxFuture<'_, Result<(), ConfirmError>> {
        async move {
            let shared = &self.shared;
            let here = shared.objects.position().borrow().era;
            if era != here {
                return Err(ConfirmError::OtherEra { asked: era, here });
            }
            let ahead: Vec<_> = shared.roster.all_ahead().iter().map(|(_, ahead)| ahead.position).collect();
            if !shared.objects.succeed(&ahead).await? {
                return Err(ConfirmError::Changed);
            }
            tracing::warn!(era, nodes = ahead.len(), "a person confirmed this era as the successor of all before it");
            shared.roster.receive_ahead_anew();
            Ok(())
        }
        .boxed()
    }

    fn end(&self, daemonset: Uid) -> BoxFuture<'_, Result<(), EndError>> {
        async move {
            let Shared { objects, roster, .. } = &*self.shared;
            let is_it = |held: &HeldDaemonSet| held.uid == daemonset;
            let holding = roster.all_unknown();
            let Some(held) = holding.iter().flat_map(|(.., unknown)| unknown).find(|held| is_it(held)) else {
                return Err(EndError::NotUnknown(daemonset));
            };
            objects.delete_unknown(&name(held), &daemonset).await?;
            tracing::warn!(%daemonset, name = %name(held), "a person ended what control has no record of");
            for (node, name, mut unknown) in holding {
                unknown.retain(|held| !is_it(held));
                let conditions = [(nodes::UNKNOWN, explain(&unknown))];
                write_conditions(objects, &node, &name, &conditions).await?;
                roster.holds_unknown(&node, unknown);
            }
            Ok(())
        }
        .boxed()
    }
}

impl Shared {
    /// What control knows of each DaemonSet that a node holds.
    pub(super) async fn answers(
        &self,
        node: &NodeName,
        hello: &Hello,
        desired: &Desired,
    ) -> Result<Vec<(Uid, Answer)>, ObjectError> {
        let mut answers = Vec::new();
        for HeldDaemonSet { uid, .. } in &hello.daemonsets {
            let answer = match desired.answer(uid, node) {
                Answer::Unknown => {
                    let deletion = self.objects.buried(uid).await?;
                    deletion.map_or(Answer::Unknown, |deletion| desired.deletion(&deletion, node))
                }
                known => known,
            };
            answers.push((uid.clone(), answer));
        }
        Ok(answers)
    }

    /// The DaemonSets that a node holds whose deletion all nodes had confirmed.
    pub(super) async fn buried(&self, hello: &Hello) -> Result<HashSet<Uid>, ObjectError> {
        let mut buried = HashSet::new();
        for HeldDaemonSet { uid, .. } in &hello.daemonsets {
            if self.objects.buried(uid).await?.is_some() {
                buried.insert(uid.clone());
            }
        }
        Ok(buried)
    }
}

/// Says which of a node's DaemonSets control has no record of, and what to do about them, as a condition's reason and words;
/// nothing if there are none.
pub(super) fn explain(unknown: &[HeldDaemonSet]) -> Option<(String, String)> {
    let named: Vec<_> = unknown.iter().map(|held| format!("{} ({})", name(held), held.uid)).collect();
    (!named.is_empty()).then(|| {
        let words = format!(
            "control has no record of {}; what runs of it here stays; to end it: garrison control holds --end UID",
            named.join(", ")
        );
        ("NoRecord".to_owned(), words)
    })
}

/// What nodes run that control has no record of, by name and uid.
fn by_daemonset(holding: &[(Uid, NodeName, Vec<HeldDaemonSet>)]) -> Vec<UnknownDaemonSet> {
    let mut found: BTreeMap<(ObjectKey, &Uid), Vec<NodeName>> = BTreeMap::new();
    for (_, node, unknown) in holding {
        unknown.iter().for_each(|held| found.entry((name(held), &held.uid)).or_default().push(node.clone()));
    }
    let listed = found.into_iter().map(|((daemonset, uid), mut nodes)| {
        nodes.sort();
        UnknownDaemonSet { daemonset, uid: uid.clone(), nodes }
    });
    listed.collect()
}

/// What nodes hold otherwise than control, by DaemonSet and kind.
fn differences(desired: &Desired, ahead: &[(NodeName, Arc<Ahead>)]) -> Vec<Difference> {
    let mut found: BTreeMap<(ObjectKey, DifferenceKind), Vec<NodeName>> = BTreeMap::new();
    for (name, ahead) in ahead {
        let held: HashSet<_> = ahead.daemonsets.iter().map(|held| &held.uid).collect();
        let of_node = ahead
            .daemonsets
            .iter()
            .filter_map(|held| Some((key(desired, held), difference(desired, (name, ahead), held)?)));
        let only_here = desired.sets().filter(|(uid, _)| !held.contains(uid));
        let only_here = only_here.map(|(_, newest)| (newest.key(), DifferenceKind::OnlyHere));
        for difference in of_node.chain(only_here) {
            found.entry(difference).or_default().push(name.clone());
        }
    }
    found.into_iter().map(|((daemonset, kind), nodes)| Difference { daemonset, kind, nodes }).collect()
}

fn difference(desired: &Desired, (node, ahead): (&NodeName, &Ahead), held: &HeldDaemonSet) -> Option<DifferenceKind> {
    match desired.answer(&held.uid, node) {
        Answer::Unknown if ahead.buried.contains(&held.uid) => Some(DifferenceKind::Deleted),
        Answer::Unknown => Some(DifferenceKind::Unknown),
        Answer::Deleted { .. } => Some(DifferenceKind::Deleted),
        Answer::Present => {
            let (here, held) = (&desired.newest(&held.uid)?.revision, held.revision.as_ref()?);
            (here != held).then(|| DifferenceKind::Revision { held: held.clone(), here: here.clone() })
        }
    }
}

fn key(desired: &Desired, held: &HeldDaemonSet) -> ObjectKey {
    let known = desired.newest(&held.uid).map(|newest| newest.key());
    known.unwrap_or_else(|| name(held))
}

/// What a node calls a DaemonSet.
fn name(held: &HeldDaemonSet) -> ObjectKey {
    held.key.clone().unwrap_or_else(|| ObjectKey::new("", held.uid.as_str()))
}
