//! Which pods of one DaemonSet this node has to have: what to create, end, prepare and ask for.
//!
//! Pure. It knows verdicts, pods and permits, not how they came about; `plan` says how one pod gets there. The node's
//! roster calls it after every change and carries the moves out.
//!
//! ```text
//! no pod ──Create──▶ pod of the permitted revision ──newest differs──▶ Prepare ──▶ Ask ──granted──▶ Take ──▶ End ──▶ no pod
//! ```
//!
//! Source: kubernetes v1.36 `pkg/controller/daemon/daemon_controller.go` (`podsShouldBeOnNode`) and `update.go`
//! (`rollingUpdate`). We differ on purpose: the node creates and ends its pods itself, and replaces a running one only
//! under a permit (design.md §6); an old pod that is not available waits for its permit too.

use crate::model::{PermitNumber, RevisionHash, Source, Uid};

/// Whether the node is a place for the DaemonSet's pod: the two answers of `eligibility` as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The pod belongs here; without one, one is made.
    Runs,
    /// A pod that is here stays; none is made.
    Stays,
    /// A pod that is here leaves.
    Leaves,
    /// A newer instruction took the DaemonSet away.
    Deleted,
}

/// One DaemonSet as this node knows it.
#[derive(Debug, Clone, Copy)]
pub struct Set<'a> {
    /// Where it was learnt from; a file needs no permit from anybody.
    pub source: Source,
    /// What the verdict came to.
    pub standing: Standing,
    /// The user's newest revision.
    pub newest: &'a RevisionHash,
    /// The revision this node's pods are made from now; none until the first was made.
    pub permitted: Option<&'a RevisionHash>,
    /// `updateStrategy.type: OnDelete`.
    pub on_delete: bool,
    /// How far this node has prepared `newest`.
    pub prepared: Prepared,
    /// The grant for `newest` of the session that is open now.
    pub granted: Option<PermitNumber>,
}

/// How far a node has come with a revision it does not run yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prepared {
    /// Nothing was done.
    No,
    /// Under way, or tried without success; `Prepare` is not due.
    NotYet,
    /// Images are here and the pod fits.
    Yes,
    /// As `Yes`, and control was asked in this session.
    Asked,
}

/// One pod of the DaemonSet on this node. Pods that are wholly gone are not listed.
#[derive(Debug, Clone, Copy)]
pub struct Pod<'a> {
    /// Its identity.
    pub uid: &'a Uid,
    /// What it was made from.
    pub revision: &'a RevisionHash,
    /// It is on its way out.
    pub ending: bool,
}

/// One thing to do. Moves of one answer do not depend on each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Move {
    /// Make a pod of this revision.
    Create(RevisionHash),
    /// End this pod, with its grace period.
    End(Uid, Why),
    /// Pull the images of the newest revision and see whether its pod fits.
    Prepare,
    /// Ask control for a permit to run the newest revision.
    Ask,
    /// From now on `newest` is the permitted revision; on disk before anything is stopped.
    Take(Option<PermitNumber>),
    /// Nothing of the DaemonSet is left here.
    Forget,
}

/// Why a pod ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Its DaemonSet was deleted.
    Deleted,
    /// The node is no place for it any more.
    Ineligible,
    /// Another revision takes its place.
    Replaced,
    /// The DaemonSet has another, older pod here.
    Surplus,
}

/// Says what to do about one DaemonSet. `pods` are oldest first; no moves means that all is as it should be.
pub fn place(set: &Set<'_>, pods: &[Pod<'_>]) -> Vec<Move> {
    let live = pods.iter().filter(|pod| !pod.ending);
    match set.standing {
        Standing::Deleted if pods.is_empty() => vec![Move::Forget],
        Standing::Deleted => live.map(|pod| Move::End(pod.uid.clone(), Why::Deleted)).collect(),
        Standing::Leaves => live.map(|pod| Move::End(pod.uid.clone(), Why::Ineligible)).collect(),
        Standing::Runs if pods.is_empty() => vec![create(set)],
        Standing::Runs | Standing::Stays => keep(set, &live.collect::<Vec<_>>()),
    }
}

/// A pod made anew takes the permitted revision; under OnDelete, and where nobody grants, the newest.
fn create(set: &Set<'_>) -> Move {
    let newest = set.on_delete || set.source == Source::Files;
    Move::Create(if newest { set.newest } else { set.permitted.unwrap_or(set.newest) }.clone())
}

/// Keeps the oldest pod, at the newest revision this node may run.
fn keep(set: &Set<'_>, live: &[&Pod<'_>]) -> Vec<Move> {
    let Some((kept, surplus)) = live.split_first() else { return Vec::new() };
    let mut moves: Vec<_> = surplus.iter().map(|pod| Move::End(pod.uid.clone(), Why::Surplus)).collect();
    if kept.revision == set.newest || set.on_delete {
        return moves;
    }
    if set.permitted == Some(set.newest) {
        moves.push(Move::End(kept.uid.clone(), Why::Replaced));
        return moves;
    }
    match set.prepared {
        Prepared::No => moves.push(Move::Prepare),
        Prepared::NotYet => {}
        Prepared::Yes if set.source == Source::Files => moves.push(Move::Take(None)),
        Prepared::Yes => moves.push(Move::Ask),
        Prepared::Asked => moves.extend(set.granted.map(|number| Move::Take(Some(number)))),
    }
    moves
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One row: the base set and a pod of the old revision, changed by `change`.
    fn moves(pods: &[(&str, &str, bool)], change: impl FnOnce(&mut Set<'_>)) -> Vec<Move> {
        let (old, new) = (RevisionHash::from("old"), RevisionHash::from("new"));
        let mut set = Set {
            source: Source::Link,
            standing: Standing::Runs,
            newest: &new,
            permitted: Some(&old),
            on_delete: false,
            prepared: Prepared::No,
            granted: None,
        };
        change(&mut set);
        let pods: Vec<_> = pods
            .iter()
            .map(|(uid, revision, ending)| (Uid::from(*uid), RevisionHash::from(*revision), *ending))
            .collect();
        let views: Vec<_> = pods.iter().map(|(uid, revision, ending)| Pod { uid, revision, ending: *ending }).collect();
        place(&set, &views)
    }

    fn end(uid: &str, why: Why) -> Move {
        Move::End(uid.into(), why)
    }

    const OLD: (&str, &str, bool) = ("a", "old", false);
    const NEW: (&str, &str, bool) = ("b", "new", false);
    const ENDING: (&str, &str, bool) = ("c", "old", true);

    #[test]
    fn a_pod_is_made_where_there_is_none_and_only_then() {
        assert_eq!(moves(&[], |_| {}), [Move::Create("old".into())]);
        assert_eq!(moves(&[], |set| set.permitted = None), [Move::Create("new".into())]);
        assert_eq!(moves(&[], |set| set.on_delete = true), [Move::Create("new".into())]);
        assert_eq!(moves(&[], |set| set.source = Source::Files), [Move::Create("new".into())]);
        assert_eq!(moves(&[], |set| set.standing = Standing::Stays), []);
        assert_eq!(moves(&[], |set| set.standing = Standing::Leaves), []);
        assert_eq!(moves(&[ENDING], |_| {}), [], "the predecessor has to be wholly gone");
    }

    #[test]
    fn a_pod_leaves_with_its_place_or_its_daemonset() {
        assert_eq!(moves(&[NEW, ENDING], |set| set.standing = Standing::Leaves), [end("b", Why::Ineligible)]);
        assert_eq!(moves(&[NEW, ENDING], |set| set.standing = Standing::Deleted), [end("b", Why::Deleted)]);
        assert_eq!(moves(&[ENDING], |set| set.standing = Standing::Deleted), []);
        assert_eq!(moves(&[], |set| set.standing = Standing::Deleted), [Move::Forget]);
        assert_eq!(moves(&[NEW], |set| set.standing = Standing::Stays), []);
    }

    #[test]
    fn of_two_pods_the_older_stays() {
        assert_eq!(moves(&[NEW, ("d", "new", false)], |_| {}), [end("d", Why::Surplus)]);
    }

    #[test]
    fn a_running_pod_is_replaced_only_after_prepare_ask_grant_and_take() {
        let step = |prepared, granted| {
            moves(&[OLD], |set| {
                set.prepared = prepared;
                set.granted = granted;
            })
        };
        let permit = PermitNumber(7);
        assert_eq!(step(Prepared::No, None), [Move::Prepare]);
        assert_eq!(step(Prepared::No, Some(permit)), [Move::Prepare], "a grant does not stand in for preparing");
        assert_eq!(step(Prepared::NotYet, Some(permit)), []);
        assert_eq!(step(Prepared::Yes, None), [Move::Ask]);
        assert_eq!(step(Prepared::Asked, None), []);
        assert_eq!(step(Prepared::Asked, Some(permit)), [Move::Take(Some(permit))]);
        assert_eq!(moves(&[OLD], |set| set.permitted = Some(set.newest)), [end("a", Why::Replaced)]);
    }

    #[test]
    fn a_file_permits_itself_and_on_delete_waits_for_the_user() {
        let files = |prepared| {
            moves(&[OLD], |set| {
                set.source = Source::Files;
                set.prepared = prepared;
            })
        };
        assert_eq!(files(Prepared::No), [Move::Prepare]);
        assert_eq!(files(Prepared::Yes), [Move::Take(None)]);
        assert_eq!(moves(&[OLD], |set| set.on_delete = true), []);
    }
}
