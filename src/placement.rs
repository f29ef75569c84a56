//! Which pods of one DaemonSet this node has to have: what to create, end, prepare and ask for.
//!
//! Pure. It knows verdicts, pods and permits, not how they came about; `plan` says how one pod gets there. The node's
//! roster calls it after every change and carries the moves out.
//!
//! A DaemonSet that control lets begin on one node after the other asks for its first pod, too: Ask ──granted──▶ Take ──▶ Create.
//!
//! ```text
//! no pod ──Create──▶ pod of the permitted revision ──newest differs──▶ Prepare ──▶ Ask ──granted──▶ Take ──▶ End ──▶ no pod
//!                                                                                                  └─ surge: Create, and End
//!                                                                                                     once it is available
//! ```
//!
//! A node that control cannot reach helps itself once: a revision that was never available here since it was taken is left again
//! for the one before, and not tried again before a user has written something newer (design.md §8, local fallback).
//!
//! Source: kubernetes v1.36 `pkg/controller/daemon/daemon_controller.go` (`podsShouldBeOnNode`) and `update.go`
//! (`rollingUpdate`). We differ on purpose: the node creates and ends its pods itself, and replaces a running one only
//! under a permit (design.md §6); an old pod that is not available waits for its permit too.

use std::collections::BTreeSet;

use crate::api::bundle::UpdateStrategy;
use crate::model::{Incumbent, PermitNumber, RevisionHash, Source, Uid};

mod failures;

pub use failures::Failures;

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
    /// The revision before `permitted`, as long as that was never available here since it was taken.
    pub before: Option<&'a RevisionHash>,
    /// Revisions that this node went back from.
    pub rejected: &'a BTreeSet<RevisionHash>,
    /// Control could not be reached for longer than a pod may take to become available.
    pub cut_off: bool,
    /// How a running pod is replaced.
    pub strategy: UpdateStrategy,
    /// How far this node has prepared `newest`.
    pub prepared: Prepared,
    /// The grant for `newest` of the session that is open now, if it holds with the pods that are here.
    pub granted: Option<PermitNumber>,
    /// Control is there to be asked and lets the DaemonSet begin on one node after the other: the first pod needs a permit.
    pub gradual: bool,
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
    /// Ready for at least `minReadySeconds`.
    pub available: bool,
    /// It is on its way out.
    pub ending: bool,
    /// It has come to its end by itself; none while it lives.
    pub finished: Option<Finish>,
}

/// What is to become of a pod that has come to its end by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// Another takes its place.
    Replaced,
    /// It failed, as others did shortly before: it stays for a while ([`Failures`]).
    Rests,
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
    /// The revision before is the permitted one again, and the one that was is rejected.
    GoBack,
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
    /// It has come to its end by itself.
    Finished,
}

/// Says what to do about one DaemonSet. `pods` are oldest first; no moves means that all is as it should be.
pub fn place(set: &Set<'_>, pods: &[Pod<'_>]) -> Vec<Move> {
    let live = pods.iter().filter(|pod| !pod.ending);
    match set.standing {
        Standing::Deleted if pods.is_empty() => vec![Move::Forget],
        Standing::Deleted => live.map(|pod| Move::End(pod.uid.clone(), Why::Deleted)).collect(),
        Standing::Leaves => live.map(|pod| Move::End(pod.uid.clone(), Why::Ineligible)).collect(),
        Standing::Runs if is_to_go_back(set, pods) => vec![Move::GoBack],
        Standing::Runs if pods.is_empty() && set.gradual && set.permitted.is_none() => begin(set).into_iter().collect(),
        Standing::Runs if pods.is_empty() => vec![create(set)],
        Standing::Runs | Standing::Stays => {
            let replaced = live.filter(|pod| pod.finished == Some(Finish::Replaced));
            replaced.map(|pod| end(pod, Why::Finished)).chain(keep(set, pods)).collect()
        }
    }
}

/// What would make way for the newest revision.
pub fn incumbent(pods: &[Pod<'_>]) -> Incumbent {
    if pods.is_empty() {
        Incumbent::None
    } else if pods.iter().any(|pod| pod.available && !pod.ending) {
        Incumbent::Available
    } else {
        Incumbent::Unavailable
    }
}

/// Asks for a first pod. There is nothing to stop, so nothing is prepared: what fails then holds the permit.
fn begin(set: &Set<'_>) -> Option<Move> {
    match (set.granted, set.prepared) {
        (Some(number), _) => Some(Move::Take(Some(number))),
        (None, Prepared::Asked) => None,
        (None, _) => Some(Move::Ask),
    }
}

/// Whether the permitted revision had its time, did not become available, and there is another and nobody to ask.
fn is_to_go_back(set: &Set<'_>, pods: &[Pod<'_>]) -> bool {
    let mut of_permitted = pods.iter().filter(|pod| !pod.ending && set.permitted == Some(pod.revision)).peekable();
    set.cut_off && set.before.is_some() && of_permitted.peek().is_some() && of_permitted.all(|pod| !pod.available)
}

/// A pod made anew takes the permitted revision; under OnDelete, and where nobody grants, the newest, unless that failed here.
fn create(set: &Set<'_>) -> Move {
    let newest = set.strategy == UpdateStrategy::OnDelete || set.source == Source::Files;
    Move::Create(
        if newest && !set.rejected.contains(set.newest) { set.newest } else { set.permitted.unwrap_or(set.newest) }
            .clone(),
    )
}

/// Keeps one pod, at the newest revision this node may run; two while one takes the other's place by surge.
fn keep(set: &Set<'_>, pods: &[Pod<'_>]) -> Vec<Move> {
    let live = || pods.iter().filter(|pod| !pod.ending && pod.finished.is_none());
    let is_current = |pod: &&Pod<'_>| set.permitted == Some(pod.revision);
    let current = best(live().filter(is_current));
    let other = best(live().filter(|pod| !is_current(pod)));
    let is_surplus = |pod: &&Pod<'_>| ![current, other].into_iter().flatten().any(|kept| kept.uid == pod.uid);
    let mut moves: Vec<_> = live().filter(is_surplus).map(|pod| end(pod, Why::Surplus)).collect();
    match (other, current) {
        (Some(other), Some(current)) => moves.extend(settle(set, other, current).or_else(|| approach(set))),
        (Some(kept), None) | (None, Some(kept)) => moves.extend(renew(set, kept, pods.len())),
        (None, None) => {}
    }
    moves
}

/// Of pods of the same standing, oldest first: one that is available, or else the oldest.
fn best<'a, 'b>(mut pods: impl Iterator<Item = &'a Pod<'b>> + Clone) -> Option<&'a Pod<'b>> {
    pods.clone().find(|pod| pod.available).or_else(|| pods.next())
}

/// One pod of the permitted revision beside one of another: which goes, if one has to.
///
/// Source: as the module's, `podsShouldBeOnNode`. Upstream ends an old pod that is not ready at once; here it stays until the
/// new one is available, since after a start of the agent nobody knows yet how it is.
fn settle(set: &Set<'_>, other: &Pod<'_>, current: &Pod<'_>) -> Option<Move> {
    if current.available {
        Some(end(other, Why::Replaced))
    } else if set.strategy == UpdateStrategy::RollingUpdateWithSurge {
        None
    } else {
        // The strategy was changed while the two stood beside each other.
        Some(end(current, Why::Surplus))
    }
}

/// Moves the one pod that is kept towards the newest revision. `pods` counts the ones that are ending, too.
fn renew(set: &Set<'_>, kept: &Pod<'_>, pods: usize) -> Option<Move> {
    if set.rejected.contains(kept.revision) && set.permitted != Some(kept.revision) {
        return (set.standing == Standing::Runs).then(|| end(kept, Why::Replaced));
    }
    if kept.revision == set.newest {
        // It runs already, and nothing is stopped for it: what failed since is not where the next pod begins.
        return (set.permitted != Some(set.newest)).then_some(Move::Take(None));
    }
    if set.strategy == UpdateStrategy::OnDelete {
        return None;
    }
    if set.permitted == Some(set.newest) {
        return match set.strategy {
            UpdateStrategy::RollingUpdateWithSurge if set.standing != Standing::Runs || pods > 1 => None,
            UpdateStrategy::RollingUpdateWithSurge => Some(Move::Create(set.newest.clone())),
            _ => Some(end(kept, Why::Replaced)),
        };
    }
    approach(set)
}

/// Does what is needed to be permitted the newest revision, if it is not yet.
fn approach(set: &Set<'_>) -> Option<Move> {
    if set.permitted == Some(set.newest) || set.rejected.contains(set.newest) {
        return None;
    }
    match set.prepared {
        Prepared::No => Some(Move::Prepare),
        Prepared::NotYet => None,
        Prepared::Yes if set.source == Source::Files => Some(Move::Take(None)),
        Prepared::Yes => Some(Move::Ask),
        Prepared::Asked => set.granted.map(|number| Move::Take(Some(number))),
    }
}

fn end(pod: &Pod<'_>, why: Why) -> Move {
    Move::End(pod.uid.clone(), why)
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    /// Uid, revision, whether it is ending; a uid in capitals is of a pod that is not available.
    type Row = (&'static str, &'static str, bool);

    /// One row: the base set and `pods`, changed by `change`.
    fn moves(pods: &[Row], change: impl FnOnce(&mut Set<'_>)) -> Vec<Move> {
        let (old, new, none) = (RevisionHash::from("old"), RevisionHash::from("new"), BTreeSet::new());
        let mut set = Set {
            source: Source::Link,
            standing: Standing::Runs,
            newest: &new,
            permitted: Some(&old),
            before: None,
            rejected: &none,
            cut_off: false,
            strategy: UpdateStrategy::RollingUpdate,
            prepared: Prepared::No,
            granted: None,
            gradual: false,
        };
        change(&mut set);
        let pods: Vec<_> = pods
            .iter()
            .map(|(uid, revision, ending)| (Uid::from(*uid), RevisionHash::from(*revision), *ending))
            .collect();
        let available = |uid: &Uid| uid.as_str().chars().all(char::is_lowercase);
        let views: Vec<_> = pods
            .iter()
            .map(|(uid, revision, ending)| {
                // By its name a pod of the rows has come to its end.
                let finished = match uid.as_str() {
                    "done" => Some(Finish::Replaced),
                    "rests" => Some(Finish::Rests),
                    _ => None,
                };
                Pod { uid, revision, available: finished.is_none() && available(uid), ending: *ending, finished }
            })
            .collect();
        place(&set, &views)
    }

    fn end(uid: &str, why: Why) -> Move {
        Move::End(uid.into(), why)
    }

    static OLDER: LazyLock<RevisionHash> = LazyLock::new(|| "old".into());
    static MID: LazyLock<RevisionHash> = LazyLock::new(|| "mid".into());
    static REJECTED: LazyLock<BTreeSet<RevisionHash>> = LazyLock::new(|| ["new".into()].into());
    const OLD: Row = ("a", "old", false);
    const NEW: Row = ("b", "new", false);
    const ENDING: Row = ("c", "old", true);

    #[test]
    fn a_pod_is_made_where_there_is_none_and_only_then() {
        assert_eq!(moves(&[], |_| {}), [Move::Create("old".into())]);
        assert_eq!(moves(&[], |set| set.permitted = None), [Move::Create("new".into())]);
        assert_eq!(moves(&[], |set| set.strategy = UpdateStrategy::OnDelete), [Move::Create("new".into())]);
        assert_eq!(moves(&[], |set| set.source = Source::Files), [Move::Create("new".into())]);
        assert_eq!(moves(&[], |set| set.standing = Standing::Stays), []);
        assert_eq!(moves(&[], |set| set.standing = Standing::Leaves), []);
        assert_eq!(moves(&[ENDING], |_| {}), [], "the predecessor has to be wholly gone");
    }

    #[test]
    fn a_first_pod_waits_for_its_permit_where_control_says_so() {
        let first = |prepared, granted| {
            moves(&[], |set| {
                (set.gradual, set.permitted) = (true, None);
                (set.prepared, set.granted) = (prepared, granted);
            })
        };
        assert_eq!(first(Prepared::No, None), [Move::Ask]);
        assert_eq!(first(Prepared::Asked, None), []);
        assert_eq!(first(Prepared::Asked, Some(PermitNumber(7))), [Move::Take(Some(PermitNumber(7)))]);
        // A pod that was there before needs none.
        assert_eq!(moves(&[], |set| set.gradual = true), [Move::Create("old".into())]);
    }

    #[test]
    fn a_pod_leaves_with_its_place_or_its_daemonset() {
        assert_eq!(moves(&[NEW, ENDING], |set| set.standing = Standing::Leaves), [end("b", Why::Ineligible)]);
        assert_eq!(moves(&[NEW, ENDING], |set| set.standing = Standing::Deleted), [end("b", Why::Deleted)]);
        assert_eq!(moves(&[ENDING], |set| set.standing = Standing::Deleted), []);
        assert_eq!(moves(&[], |set| set.standing = Standing::Deleted), [Move::Forget]);
        let stays = |set: &mut Set<'_>| (set.standing, set.permitted) = (Standing::Stays, Some(set.newest));
        assert_eq!(moves(&[NEW], stays), []);
    }

    #[test]
    fn of_two_pods_the_older_stays() {
        let pods = [NEW, ("d", "new", false)];
        assert_eq!(moves(&pods, |set| set.permitted = Some(set.newest)), [end("d", Why::Surplus)]);
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
    fn what_would_make_way_is_available_or_not_or_there_is_none() {
        let (uid, revision) = (Uid::from("a"), RevisionHash::from("old"));
        let pod = |available, ending| Pod { uid: &uid, revision: &revision, available, ending, finished: None };
        assert_eq!(incumbent(&[]), Incumbent::None);
        assert_eq!(incumbent(&[pod(false, false)]), Incumbent::Unavailable);
        assert_eq!(incumbent(&[pod(true, true)]), Incumbent::Unavailable);
        assert_eq!(incumbent(&[pod(false, false), pod(true, false)]), Incumbent::Available);
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
        assert_eq!(moves(&[OLD], |set| set.strategy = UpdateStrategy::OnDelete), []);
    }

    #[test]
    fn a_surge_puts_the_new_pod_beside_the_old_one_until_it_is_available() {
        let surging = |pods: &[Row], standing| {
            moves(pods, |set| {
                set.strategy = UpdateStrategy::RollingUpdateWithSurge;
                set.permitted = Some(set.newest);
                set.standing = standing;
            })
        };
        let surge = |pods: &[Row]| surging(pods, Standing::Runs);
        assert_eq!(surge(&[OLD]), [Move::Create("new".into())]);
        assert_eq!(surging(&[OLD], Standing::Stays), []);
        assert_eq!(surge(&[ENDING, OLD]), [], "two pods at most");
        assert_eq!(surge(&[OLD, ("B", "new", false)]), []);
        assert_eq!(surge(&[OLD, NEW]), [end("a", Why::Replaced)]);
        assert_eq!(surge(&[("A", "old", false), ("B", "new", false)]), []);
        assert_eq!(surge(&[NEW]), []);
        // A revision that never became available is overtaken: of the two before it, the one that works stays.
        assert_eq!(surge(&[OLD, ("M", "mid", false)]), [end("M", Why::Surplus)]);
    }

    #[test]
    fn a_surge_that_never_ends_is_overtaken() {
        let pods = [OLD, ("M", "mid", false)];
        let step = |prepared, granted| {
            moves(&pods, |set| {
                set.strategy = UpdateStrategy::RollingUpdateWithSurge;
                (set.permitted, set.prepared, set.granted) = (Some(&*MID), prepared, granted);
            })
        };
        assert_eq!(step(Prepared::No, None), [Move::Prepare]);
        assert_eq!(step(Prepared::Yes, None), [Move::Ask]);
        assert_eq!(step(Prepared::Asked, Some(PermitNumber(7))), [Move::Take(Some(PermitNumber(7)))]);
    }

    #[test]
    fn a_node_that_is_cut_off_goes_back_from_what_never_worked_there() {
        const FAILS: Row = ("B", "new", false);
        let taken = |pods: &[Row], change: fn(&mut Set<'_>)| {
            moves(pods, |set| {
                (set.permitted, set.before, set.cut_off) = (Some(set.newest), Some(&*OLDER), true);
                change(set);
            })
        };
        assert_eq!(taken(&[FAILS], |_| {}), [Move::GoBack]);
        assert_eq!(taken(&[("rests", "new", false)], |_| {}), [Move::GoBack]);
        assert_eq!(taken(&[OLD, FAILS], |set| set.strategy = UpdateStrategy::RollingUpdateWithSurge), [Move::GoBack]);
        assert_eq!(taken(&[NEW], |_| {}), [], "it is available");
        assert_eq!(taken(&[FAILS], |set| set.cut_off = false), [], "control is there to be asked");
        assert_eq!(taken(&[FAILS], |set| set.before = None), [], "it was available once, or is the first");
        assert_eq!(taken(&[FAILS], |set| set.standing = Standing::Stays), [], "no pod would be made");
        assert_eq!(taken(&[ENDING], |_| {}), [], "the pod before has yet to end");
        let back = |pods: &[Row], change: fn(&mut Set<'_>)| {
            moves(pods, |set| {
                (set.rejected, set.prepared, set.granted) = (&*REJECTED, Prepared::Asked, Some(PermitNumber(7)));
                change(set);
            })
        };
        assert_eq!(back(&[FAILS], |_| {}), [end("B", Why::Replaced)]);
        assert_eq!(back(&[FAILS], |set| set.standing = Standing::Stays), []);
        assert_eq!(
            back(&[OLD, FAILS], |set| set.strategy = UpdateStrategy::RollingUpdateWithSurge),
            [end("B", Why::Replaced)]
        );
        assert_eq!(back(&[], |set| set.strategy = UpdateStrategy::OnDelete), [Move::Create("old".into())]);
        assert_eq!(back(&[OLD], |_| {}), [], "it is not tried again");
    }

    #[test]
    fn a_user_who_goes_back_to_what_runs_needs_no_permit() {
        let undone = |pods: &[Row]| {
            moves(pods, |set| {
                (set.newest, set.permitted) = (&*OLDER, Some(&*MID));
                set.strategy = UpdateStrategy::RollingUpdateWithSurge;
            })
        };
        assert_eq!(undone(&[OLD]), [Move::Take(None)], "the pod that failed is gone");
        assert_eq!(undone(&[OLD, ("rests", "mid", false)]), [Move::Take(None)]);
        assert_eq!(undone(&[OLD, ("M", "mid", false)]), [Move::Prepare], "the pod that failed is the permitted one");
    }

    #[test]
    fn a_strategy_changed_in_mid_surge_leaves_the_pod_that_works() {
        let without_surge = |pods: &[Row]| moves(pods, |set| set.permitted = Some(set.newest));
        assert_eq!(without_surge(&[OLD, NEW]), [end("a", Why::Replaced)]);
        assert_eq!(without_surge(&[OLD, ("B", "new", false)]), [end("B", Why::Surplus)]);
    }

    #[test]
    fn a_pod_that_has_come_to_its_end_makes_way_for_another() {
        const DONE: Row = ("done", "old", false);
        const RESTS: Row = ("rests", "old", false);
        assert_eq!(moves(&[DONE], |_| {}), [end("done", Why::Finished)]);
        assert_eq!(moves(&[DONE], |set| set.standing = Standing::Stays), [end("done", Why::Finished)]);
        assert_eq!(moves(&[("done", "old", true)], |_| {}), [], "it has to be wholly gone");
        assert_eq!(moves(&[RESTS], |_| {}), []);
        assert_eq!(moves(&[RESTS], |set| set.standing = Standing::Leaves), [end("rests", Why::Ineligible)]);
        assert_eq!(moves(&[RESTS], |set| set.standing = Standing::Deleted), [end("rests", Why::Deleted)]);
        // It is neither kept nor updated.
        assert_eq!(moves(&[RESTS, NEW], |set| set.permitted = Some(set.newest)), []);
        let surge = |set: &mut Set<'_>| {
            set.strategy = UpdateStrategy::RollingUpdateWithSurge;
            set.permitted = Some(set.newest);
        };
        assert_eq!(moves(&[OLD, ("rests", "new", false)], surge), [], "two pods at most");
    }
}
