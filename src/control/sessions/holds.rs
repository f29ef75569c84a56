//! Who holds because control does not know what they have taken over, and what they hold otherwise than control.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::Sessions;
use super::desired::Desired;
use crate::control::holds::{ConfirmError, Difference, DifferenceKind, Fleet, HeldNode, Holds};
use crate::control::recovery::{Choice, Recovery, RecoveryError};
use crate::link::{Answer, HeldDaemonSet};
use crate::model::{NodeName, ObjectKey, Position};

/// What a node has taken over beyond what control knows.
#[derive(Debug)]
pub(super) struct Ahead {
    pub(super) position: Position,
    pub(super) daemonsets: Vec<HeldDaemonSet>,
}

impl Fleet for Sessions {
    fn holds(&self) -> Holds {
        let (here, ahead) = (*self.shared.objects.position().borrow(), self.shared.roster.all_ahead());
        let node = |(name, ahead): &(NodeName, Arc<Ahead>)| {
            let Position { era, seq } = ahead.position;
            HeldNode { name: name.clone(), era, seq }
        };
        let differences = differences(&self.shared.desired(), &ahead);
        Holds { era: here.era, seq: here.seq, nodes: ahead.iter().map(node).collect(), differences }
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
}

/// What nodes hold otherwise than control, by DaemonSet and kind.
fn differences(desired: &Desired, ahead: &[(NodeName, Arc<Ahead>)]) -> Vec<Difference> {
    let mut found: BTreeMap<(ObjectKey, DifferenceKind), Vec<NodeName>> = BTreeMap::new();
    for (name, ahead) in ahead {
        let held: HashSet<_> = ahead.daemonsets.iter().map(|held| &held.uid).collect();
        let of_node =
            ahead.daemonsets.iter().filter_map(|held| Some((key(desired, held), difference(desired, name, held)?)));
        let only_here = desired.sets().filter(|(uid, _)| !held.contains(uid));
        let only_here = only_here.map(|(_, newest)| (newest.key(), DifferenceKind::OnlyHere));
        for difference in of_node.chain(only_here) {
            found.entry(difference).or_default().push(name.clone());
        }
    }
    found.into_iter().map(|((daemonset, kind), nodes)| Difference { daemonset, kind, nodes }).collect()
}

fn difference(desired: &Desired, node: &NodeName, held: &HeldDaemonSet) -> Option<DifferenceKind> {
    match desired.answer(&held.uid, node) {
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
    known.or_else(|| held.key.clone()).unwrap_or_else(|| ObjectKey::new("", held.uid.as_str()))
}
