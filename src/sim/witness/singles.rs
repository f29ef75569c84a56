//! Whose the pods are, by what users said: DaemonSets let pods go and adopt them, and none of them stops for it.
//!
//! A pod belongs to the DaemonSet that selects its label; the schedule has no two of these at once. What control and nodes make of
//! that comes later, so a pod's time with a DaemonSet ends when it is on its node's disk that it is let go.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::{PodSeen, SetSeen, Witness, ending, on_disk};
use crate::link::{Answer, Answers};
use crate::model::Uid;

/// How long it may take to end a pod that was on its way out when it was let go.
pub(super) const LATE: Duration = Duration::from_secs(600);

/// A pod that a DaemonSet has let go, or adopted.
#[derive(Debug)]
pub(super) struct Single {
    machine: usize,
    label: String,
    /// One after the other; the last one's DaemonSet may have the pod still.
    tenures: Vec<Tenure>,
    /// Its node was ending it already when it heard that it was let go.
    going: bool,
    /// When a DaemonSet adopted it last, by its node's clock.
    adopted_at: Option<Timestamp>,
    /// A fault ended it while it was nobody's: it has to run again.
    due: bool,
}

/// A time in which a DaemonSet had a pod.
#[derive(Debug, Clone)]
pub(super) struct Tenure {
    pub(super) set: Uid,
    /// None as long as the node does not know that it is over.
    pub(super) until: Option<Instant>,
    /// The pod was adopted before its node could make another.
    is_first: bool,
}

impl Tenure {
    fn of(set: &Uid) -> Self {
        Self { set: set.clone(), until: None, is_first: false }
    }
}

impl Single {
    fn new(machine: usize, label: &str, set: &Uid) -> Self {
        Self {
            machine,
            label: label.to_owned(),
            tenures: vec![Tenure::of(set)],
            going: false,
            adopted_at: None,
            due: false,
        }
    }

    /// The tenure in which the pod is not the first of its DaemonSet on its node.
    fn is_second_of(&self, set: &Uid) -> bool {
        self.tenures[1..].iter().any(|tenure| tenure.set == *set && !tenure.is_first)
    }
}

impl SetSeen {
    /// Whether a pod that it had goes with it.
    pub(super) fn takes_along(&self, pod: &Uid, tenure: &Tenure) -> bool {
        self.deleted.as_ref().is_some_and(|deletion| {
            let is_its = tenure.until.is_none_or(|until| until > deletion.at);
            let is_in_api = deletion.had.contains(pod);
            if deletion.orphaning { is_its && !is_in_api } else { is_its || is_in_api }
        })
    }

    /// Whether control deleted a pod with it.
    fn deletes(&self, pod: &Uid) -> bool {
        self.deleted.as_ref().is_some_and(|deletion| !deletion.orphaning && deletion.had.contains(pod))
    }
}

// === what users ask for ===

impl Witness {
    /// A DaemonSet is deleted without its pods, these with their machines.
    pub(super) fn leaves(&mut self, set: &Uid, had: &BTreeMap<Uid, usize>) {
        let label = &self.sets[set].label;
        for (pod, machine) in had {
            self.singles.entry(pod.clone()).or_insert_with(|| Single::new(*machine, label, set));
        }
    }

    /// A pod that a DaemonSet has, or had, gets another label.
    pub(in crate::sim) fn labelled(&mut self, pod: &Uid, machine: usize, set: &Uid, label: &str) {
        let owner = self.present().find(|(_, set)| set.label == label).map(|(uid, _)| Tenure::of(uid));
        let single = self.singles.entry(pod.clone()).or_insert_with(|| Single::new(machine, label, set));
        label.clone_into(&mut single.label);
        single.due &= owner.is_none();
        single.tenures.extend(owner);
    }

    /// A DaemonSet that is new has the pods that it selects. `is_settled` if control had let all of them go.
    pub(super) fn adopts(&mut self, set: &Uid, is_settled: bool) {
        let label = self.sets[set].label.clone();
        // Also those that control has not heard of.
        for (machine, seen) in self.machines.iter().enumerate() {
            for (pod, found) in seen.pods.iter().filter(|(_, found)| found.label == label) {
                self.singles.entry(pod.clone()).or_insert_with(|| Single::new(machine, &label, &found.set)).due = false;
            }
        }
        let mut here: BTreeMap<usize, usize> = BTreeMap::new();
        for (pod, single) in self.singles.iter().filter(|(_, single)| single.label == label) {
            *here.entry(single.machine).or_default() +=
                usize::from(self.machines[single.machine].pods.contains_key(pod));
        }
        for (pod, single) in self.singles.iter_mut().filter(|(_, single)| single.label == label) {
            let seen = &self.machines[single.machine];
            let since = seen.pods.get(pod).and_then(|found| found.since);
            // One that is on its way out is not adopted.
            single.going |= ending(seen, pod).is_some();
            let stays = !self.deleted_pods.contains(pod)
                && !single.going
                && since.is_some_and(|since| !seen.cleared.since(since).any(|cleared| *cleared));
            // Of two that were left while one surged only one stays.
            single.adopted_at = Some((seen.wall)());
            let is_first = is_settled && stays && !seen.rolled_back && here[&single.machine] == 1;
            single.tenures.push(Tenure { is_first, ..Tenure::of(set) });
        }
    }

    /// No single pod of a machine can stay.
    pub(super) fn clears(&mut self, machine: usize) {
        self.singles.values_mut().filter(|single| single.machine == machine).for_each(|single| single.due = false);
    }
}

// === what is seen ===

impl Witness {
    /// A machine is about to hear which pods of deleted DaemonSets stay.
    pub(in crate::sim) fn answers(&mut self, machine: usize, answers: &Answers) {
        let kept = answers.answers.iter().filter_map(|(_, answer)| match answer {
            Answer::Deleted { kept, .. } => Some(kept),
            _ => None,
        });
        for pod in kept.flatten() {
            if let Some(single) = self.singles.get_mut(pod) {
                single.going |= ending(&self.machines[machine], pod).is_some();
            }
        }
    }

    /// Looks on disks which pods' nodes know by now that DaemonSets do not have them any more.
    pub(in crate::sim) fn look_at_singles(&mut self) {
        let owners: BTreeMap<_, _> = self.present().map(|(uid, set)| (set.label.clone(), uid.clone())).collect();
        for (pod, single) in &mut self.singles {
            let owner = owners.get(&single.label);
            let is_over = |tenure: &&mut Tenure| tenure.until.is_none() && Some(&tenure.set) != owner;
            let mut over = single.tenures.iter_mut().filter(is_over).peekable();
            if over.peek().is_none() {
                continue;
            }
            let record = on_disk(&self.machines[single.machine]).pods.remove(pod);
            let knows = record.as_ref().and_then(|record| record.daemonset.as_ref());
            let known = over.filter(|tenure| Some(&tenure.set) != knows);
            single.going |= record.as_ref().is_none_or(|record| record.ending.is_some()) && knows.is_none();
            known.for_each(|tenure| tenure.until = Some(Instant::now()));
        }
    }

    /// A fault has ended a pod.
    pub(super) fn struck(&mut self, machine: usize, pod: &Uid, found: &PodSeen) {
        let is_nobodys = self.owner(pod, found).is_none() && !self.is_cleared(machine);
        let stays = ending(&self.machines[machine], pod).is_none();
        if let Some(single) = self.singles.get_mut(pod) {
            single.due |= is_nobodys && stays && single.tenures.iter().all(|tenure| tenure.until.is_some());
        }
    }

    /// The DaemonSet that a pod belongs to, by what users said last.
    pub(in crate::sim) fn owner(&self, pod: &Uid, found: &PodSeen) -> Option<&Uid> {
        let label = self.singles.get(pod).map_or(&found.label, |single| &single.label);
        self.present().find(|(_, set)| set.label == *label).map(|(uid, _)| uid)
    }

    /// The DaemonSet that must not have another pod beside this one, but to surge.
    pub(super) fn only_owner(&self, pod: &Uid, found: &PodSeen) -> Option<&Uid> {
        let Some(single) = self.singles.get(pod) else {
            return self.sets.get_key_value(&found.set).map(|(uid, _)| uid);
        };
        let seen = &self.machines[single.machine];
        let last = single.tenures.last().filter(|tenure| tenure.is_first && !single.going && !seen.rolled_back)?;
        // One that was adopted and deleted while its node was away goes as what it was to its node.
        let knows = || on_disk(seen).pods.get(pod).is_some_and(|record| record.daemonset.as_ref() == Some(&last.set));
        if self.deleted_pods.contains(pod) && !knows() {
            return None;
        }
        self.owner(pod, found).filter(|owner| **owner == last.set)
    }

    /// The times in which DaemonSets had a pod, but for those that are long over. A node that was away may hear at any time that
    /// its pod went with a DaemonSet that it never heard of.
    pub(super) fn tenures(&self, pod: &Uid, found: &PodSeen) -> Vec<Tenure> {
        let matters = |tenure: &&Tenure| {
            tenure.until.is_none_or(|until| until.elapsed() < LATE)
                || self.sets.get(&tenure.set).is_some_and(|set| set.deletes(pod))
        };
        match self.singles.get(pod) {
            None => vec![Tenure::of(&found.set)],
            Some(single) => single.tenures.iter().filter(matters).cloned().collect(),
        }
    }

    /// Whether a pod was on its way out when it was let go. That may have come to its node's disk only later.
    pub(super) fn was_going(&self, pod: &Uid) -> bool {
        let Some(single) = self.singles.get(pod) else { return false };
        let was_decided =
            |adopted_at| ending(&self.machines[single.machine], pod).is_some_and(|ending| ending.since < adopted_at);
        single.going || single.adopted_at.is_some_and(was_decided)
    }

    /// Whether a pod runs beside another of its DaemonSet, because one of the two was labelled to be its again.
    pub(super) fn is_surplus(&self, machine: usize, pod: &Uid, found: &PodSeen) -> bool {
        let is_one_of_two = |other: &Uid, beside: &PodSeen, set: &Uid| {
            let mut singles = [pod, other].into_iter().filter_map(|uid| self.singles.get(uid));
            singles.any(|single| single.is_second_of(set))
                && self.tenures(other, beside).iter().any(|tenure| tenure.set == *set)
        };
        let mut others =
            self.machines[machine].pods.iter().filter(|(other, beside)| *other != pod && beside.image.is_some());
        let tenures = self.tenures(pod, found);
        others.any(|(other, beside)| tenures.iter().any(|tenure| is_one_of_two(other, beside, &tenure.set)))
    }

    /// Whether a pod that is nobody's may be there.
    pub(super) fn may_stand_alone(&self, pod: &Uid, found: &PodSeen) -> bool {
        let made = Tenure::of(&found.set);
        let last = self.singles.get(pod).and_then(|single| single.tenures.last()).unwrap_or(&made);
        self.sets.get(&last.set).is_none_or(|set| match &set.deleted {
            None => last.until.is_some(),
            // It was labelled apart before, though its node had yet to hear of that.
            Some(_) if self.singles.get(pod).is_some_and(|single| single.label != set.label) => true,
            Some(deletion) => deletion.orphaning || !set.takes_along(pod, last),
        })
    }

    /// A pod that is nobody's and does not run on its machine as it should.
    pub(super) fn missing(&self, machine: usize) -> Option<&Uid> {
        let seen = &self.machines[machine];
        let is_missing = |(pod, single): &(&Uid, &Single)| {
            let is_due = single.due && single.machine == machine && !single.going && !seen.rolled_back;
            // It may have gone with a DaemonSet that adopted it while its node was away.
            let mut sets = single.tenures.iter().filter_map(|tenure| self.sets.get(&tenure.set));
            let is_deleted = self.deleted_pods.contains(*pod) || sets.any(|set| set.deletes(pod));
            is_due && !is_deleted && seen.pods.get(*pod).is_none_or(|found| found.image.is_none())
        };
        self.singles.iter().find(is_missing).map(|(pod, _)| pod)
    }
}
