//! Sees every change in the machines and says what should not have been: the invariants of design.md §9.
//!
//! It is told what users asked for and which faults there were, before they take effect, and works out for itself what may
//! happen. Of agents and control it believes nothing; it looks at what is on a node's disk only to learn under which permit a pod
//! was replaced.

mod singles;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use jiff::Timestamp;
use tokio::time::Instant;

use self::singles::{Single, Tenure};
use crate::cri::labels;
use crate::host::ledger::{Contents, Ending, Ledger};
use crate::link::{Hello, Permit, SILENCE};
use crate::model::{PermitNumber, RevisionHash, Uid};
use crate::seal::Key;
use crate::testing::fake_cri::Sandbox;

/// The label by which DaemonSets select pods.
pub(super) const LABEL: &str = "app";

/// A value and every one before, with the time since when it was so.
#[derive(Debug)]
pub(super) struct Past<T>(Vec<(Instant, T)>);

impl<T> Past<T> {
    fn new(value: T) -> Self {
        Self(vec![(Instant::now(), value)])
    }

    fn becomes(&mut self, value: T) {
        self.0.push((Instant::now(), value));
    }

    fn now(&self) -> &T {
        &self.0.last().expect("it has a first value").1
    }

    /// What it was at some time since then.
    fn since(&self, then: Instant) -> impl Iterator<Item = &T> {
        self.between(then, Instant::now())
    }

    /// What it was at some time between the two.
    fn between(&self, then: Instant, until: Instant) -> impl Iterator<Item = &T> {
        let first = self.0.iter().rposition(|(at, _)| *at <= then).unwrap_or(0);
        let (before, later) = self.0[first..].split_at(1);
        before.iter().chain(later.iter().take_while(move |(at, _)| *at <= until)).map(|(_, value)| value)
    }
}

/// What users said of a DaemonSet.
#[derive(Debug)]
pub(super) struct SetSeen {
    pub(super) name: String,
    /// The label by which it selects pods.
    label: String,
    /// The zone its pods are for; none for all.
    zone: Past<Option<String>>,
    pub(super) image: String,
    budget: Past<usize>,
    surges: bool,
    deleted: Option<Deletion>,
    /// The machines that are on their way to a revision and were taken down for it.
    moving: BTreeMap<(RevisionHash, usize), Instant>,
}

/// How a DaemonSet was deleted.
#[derive(Debug)]
struct Deletion {
    at: Instant,
    /// The pods that it had in the API.
    had: BTreeSet<Uid>,
    /// They stay.
    orphaning: bool,
}

/// What is known of a machine.
#[derive(Debug)]
pub(super) struct MachineSeen {
    pub(super) name: String,
    dir: PathBuf,
    key: Option<Key>,
    /// Its clock.
    wall: fn() -> Timestamp,
    zone: Past<Option<String>>,
    /// The user's taint keeps everything off.
    cleared: Past<bool>,
    removed: bool,
    /// It has what was on its disk some time ago.
    pub(super) rolled_back: bool,
    pub(super) pods: BTreeMap<Uid, PodSeen>,
    /// When each pod that there ever was began to run for the first time.
    begun: BTreeMap<Uid, Instant>,
    /// Pods that were stopped once, not by a fault. An older disk brings them back.
    ended: BTreeSet<Uid>,
    /// What stops just now, stops because of a fault.
    pub(super) is_struck: bool,
    permits: BTreeMap<PermitNumber, PermitSeen>,
    /// What a DaemonSet's pod was replaced by last, and under which permit.
    replaced: BTreeMap<Uid, (RevisionHash, PermitNumber)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PodSeen {
    /// The DaemonSet its sandbox was made for, if it was for one.
    pub(super) set: Uid,
    /// The label its sandbox was made with.
    label: String,
    pub(super) revision: RevisionHash,
    pub(super) ready: bool,
    /// The image of the container that runs.
    pub(super) image: Option<String>,
    /// When a container was first seen to run.
    since: Option<Instant>,
}

#[derive(Debug)]
struct PermitSeen {
    set: Uid,
    revision: RevisionHash,
    /// Its session is over and it was not taken.
    void: bool,
}

#[derive(Debug, Default)]
pub(super) struct Witness {
    pub(super) sets: BTreeMap<Uid, SetSeen>,
    pub(super) machines: Vec<MachineSeen>,
    deleted_pods: BTreeSet<Uid>,
    /// Pods whose deletion control has acknowledged, with their machine; whether they have gone there.
    ending: BTreeMap<Uid, (usize, bool)>,
    /// Pods that a DaemonSet has let go, or adopted.
    singles: BTreeMap<Uid, Single>,
    /// The highest resourceVersion an answer had.
    last_version: u64,
    violations: Vec<String>,
}

/// A new DaemonSet.
pub(super) struct SetMade<'a> {
    pub(super) name: &'a str,
    pub(super) label: &'a str,
    pub(super) image: &'a str,
    pub(super) zone: Option<String>,
    pub(super) budget: usize,
    pub(super) surges: bool,
    /// There is no DaemonSet on its way out that has pods with this label.
    pub(super) is_settled: bool,
}

// === what users ask for ===

impl Witness {
    pub(super) fn set_made(&mut self, uid: &Uid, made: SetMade<'_>) {
        let SetMade { name, label, image, zone, budget, surges, is_settled } = made;
        let seen = SetSeen {
            name: name.to_owned(),
            label: label.to_owned(),
            zone: Past::new(zone),
            image: image.to_owned(),
            budget: Past::new(budget),
            surges,
            deleted: None,
            moving: BTreeMap::new(),
        };
        self.sets.insert(uid.clone(), seen);
        self.adopts(uid, is_settled);
    }

    pub(super) fn set_changed(&mut self, uid: &Uid, image: &str, zone: Option<String>, budget: usize) {
        let set = self.sets.get_mut(uid).expect("it was made");
        image.clone_into(&mut set.image);
        set.zone.becomes(zone);
        set.budget.becomes(budget);
    }

    /// `had` are its pods in the API; they stay if it is `orphaning` them.
    pub(super) fn set_deleted(&mut self, uid: &Uid, had: &BTreeMap<Uid, usize>, orphaning: bool) {
        if orphaning {
            self.leaves(uid, had);
        }
        let deletion = Deletion { at: Instant::now(), had: had.keys().cloned().collect(), orphaning };
        self.sets.get_mut(uid).expect("it was made").deleted = Some(deletion);
    }

    pub(super) fn pod_deleted(&mut self, uid: Uid) {
        self.deleted_pods.insert(uid);
    }

    /// Control has answered to the deletion of a pod.
    pub(super) fn pod_deletion_answered(&mut self, uid: Uid, machine: usize, is_done: bool) {
        if is_done {
            self.ending.insert(uid, (machine, false));
        }
    }

    pub(super) fn machine_joined(
        &mut self,
        name: &str,
        dir: PathBuf,
        key: Option<Key>,
        zone: Option<String>,
        wall: fn() -> Timestamp,
    ) {
        self.machines.push(MachineSeen {
            name: name.to_owned(),
            dir,
            key,
            wall,
            zone: Past::new(zone),
            cleared: Past::new(false),
            removed: false,
            rolled_back: false,
            pods: BTreeMap::new(),
            begun: BTreeMap::new(),
            ended: BTreeSet::new(),
            is_struck: false,
            permits: BTreeMap::new(),
            replaced: BTreeMap::new(),
        });
    }

    pub(super) fn zone_changed(&mut self, machine: usize, zone: Option<String>) {
        self.machines[machine].zone.becomes(zone);
    }

    pub(super) fn cleared(&mut self, machine: usize, cleared: bool) {
        self.machines[machine].cleared.becomes(cleared);
        self.clears(machine);
    }

    pub(super) fn is_cleared(&self, machine: usize) -> bool {
        *self.machines[machine].cleared.now()
    }

    /// A write was acknowledged.
    pub(super) fn answered(&mut self, what: &str, version: u64) {
        if version <= self.last_version {
            let last = self.last_version;
            self.violation(format!("{what} got resourceVersion {version}, {last} was given out before"));
        }
        self.last_version = self.last_version.max(version);
    }

    /// Whether a DaemonSet's pod belongs on a machine, by what users said last.
    pub(super) fn belongs(&self, set: &SetSeen, machine: usize) -> bool {
        let seen = &self.machines[machine];
        set.deleted.is_none() && !seen.removed && !seen.cleared.now() && fits(set.zone.now(), seen.zone.now())
    }

    /// The DaemonSets there are.
    pub(super) fn present(&self) -> impl Iterator<Item = (&Uid, &SetSeen)> {
        self.sets.iter().filter(|(_, set)| set.deleted.is_none())
    }

    /// What on a machine is not as users want it by now.
    pub(super) fn unlike(&self, machine: usize) -> Option<String> {
        let seen = &self.machines[machine];
        let owned: Vec<_> = seen.pods.iter().map(|(pod, found)| (self.owner(pod, found), pod, found)).collect();
        let is_stray = |pod: &Uid, found: &PodSeen| found.image.is_none() || !self.may_stand_alone(pod, found);
        if let Some((_, pod, stray)) = owned.iter().find(|(owner, pod, found)| owner.is_none() && is_stray(pod, found))
        {
            return Some(format!("{} has {pod}, which is nobody's, or does not run: {stray:?}", seen.name));
        }
        if let Some(pod) = self.missing(machine) {
            let record = on_disk(seen).pods.remove(pod);
            return Some(format!("{pod}, which is nobody's, does not run again on {}; on disk: {record:?}", seen.name));
        }
        self.present().find_map(|(uid, set)| {
            let here: Vec<_> =
                owned.iter().filter(|(owner, ..)| *owner == Some(uid)).map(|(_, _, found)| *found).collect();
            let belongs = self.belongs(set, machine);
            let runs = |pod: &PodSeen| pod.image.as_deref().is_some_and(|image| image.ends_with(&set.image));
            let right = match &here[..] {
                [] => !belongs,
                [pod] => belongs && runs(pod),
                _ => false,
            };
            let (name, image) = (&set.name, &set.image);
            (!right).then(|| format!("{name} ({image}, belongs: {belongs}) on {}: {here:?}", seen.name))
        })
    }

    pub(super) fn pods(&self, machine: usize) -> &BTreeMap<Uid, PodSeen> {
        &self.machines[machine].pods
    }
}

// === what is seen ===

impl Witness {
    /// What went wrong so far.
    pub(super) fn violations(&self) -> &[String] {
        &self.violations
    }

    pub(super) fn violation(&mut self, what: String) {
        self.violations.push(what);
    }

    /// A permit has reached a machine.
    pub(super) fn permit(&mut self, machine: usize, permit: &Permit) {
        let Permit { number, daemonset, revision, void, .. } = permit.clone();
        let permits = &mut self.machines[machine].permits;
        if void {
            // It may have been taken already.
            return;
        }
        permits.insert(number, PermitSeen { set: daemonset, revision, void: false });
    }

    /// A machine begins a session: what it has not taken by now is void.
    pub(super) fn hello(&mut self, machine: usize, hello: &Hello) {
        let seen = &mut self.machines[machine];
        let taken: BTreeSet<_> = hello.permits.iter().map(|taken| taken.number).collect();
        let mut found = Vec::new();
        for number in &taken {
            if seen.permits.get(number).is_none_or(|permit| permit.void) {
                found.push(format!(
                    "{} says that it took permit {}, which was void or never given to it",
                    seen.name, number.0
                ));
            }
        }
        // One that was overtaken by a newer one of the same DaemonSet is not named.
        for (number, permit) in &mut seen.permits {
            permit.void |= !taken.contains(number);
        }
        if !seen.rolled_back {
            self.violations.extend(found);
        }
    }

    /// Everything that is in a machine's runtime, after a change.
    pub(super) fn changed(&mut self, machine: usize, sandboxes: &[Sandbox]) {
        let before = std::mem::take(&mut self.machines[machine].pods);
        let mut after: BTreeMap<Uid, PodSeen> = BTreeMap::new();
        for sandbox in sandboxes {
            let label = |name: &str| sandbox.labels.get(name).cloned().unwrap_or_default();
            let uid = Uid(label(labels::POD_UID));
            let image = sandbox.running.first().map(|(_, image)| image.clone());
            let known = before.get(&uid).and_then(|pod| pod.since);
            let since = known.or_else(|| image.as_ref().map(|_| Instant::now()));
            if let Some(twice) = after.get_mut(&uid) {
                // A new sandbox of the same pod beside the remains of the last.
                if twice.image.is_some() && image.is_some() {
                    self.violations.push(format!("pod {uid} runs twice on {}", self.machines[machine].name));
                }
                twice.ready |= sandbox.ready;
                twice.image = twice.image.take().or(image);
                twice.since = twice.since.or(since);
                continue;
            }
            let (set, revision) = (Uid(label(labels::DAEMONSET_UID)), RevisionHash(label(labels::REVISION)));
            after.insert(uid, PodSeen { set, label: label(LABEL), revision, ready: sandbox.ready, image, since });
        }
        let seen = &mut self.machines[machine];
        for (uid, since) in after.iter().filter_map(|(uid, pod)| Some((uid, pod.since?))) {
            seen.begun.entry(uid.clone()).or_insert(since);
        }
        seen.pods = after;
        self.check_number(machine);
        self.check_ended(machine);
        self.note_arrivals(machine, &before);
        for (uid, pod) in &before {
            let runs = self.machines[machine].pods.get(uid).is_some_and(|pod| pod.image.is_some());
            if pod.image.is_some() && !runs {
                self.stopped(machine, uid, pod);
            }
        }
    }

    /// At most one pod per DaemonSet and node; two only while surging.
    fn check_number(&mut self, machine: usize) {
        let seen = &self.machines[machine];
        let mut numbers: BTreeMap<&Uid, usize> = BTreeMap::new();
        let ready = seen.pods.iter().filter(|(_, pod)| pod.ready);
        ready.filter_map(|(uid, pod)| self.only_owner(uid, pod)).for_each(|set| *numbers.entry(set).or_default() += 1);
        let too_many = numbers.into_iter().find_map(|(uid, number)| {
            let set = &self.sets[uid];
            (number > 1 + usize::from(set.surges))
                .then(|| format!("{number} pods of {} on {}: {:?}", set.name, seen.name, seen.pods))
        });
        self.violations.extend(too_many);
    }

    /// Looks on disks which pods that were deleted have gone.
    pub(super) fn look_at_ended(&mut self) {
        for (pod, (machine, has_gone)) in self.ending.iter_mut().filter(|(_, (_, has_gone))| !has_gone) {
            let seen = &self.machines[*machine];
            *has_gone = !seen.pods.contains_key(pod) && !on_disk(seen).pods.contains_key(pod);
        }
    }

    /// What was deleted and has gone does not come back.
    fn check_ended(&mut self, machine: usize) {
        let seen = &self.machines[machine];
        let is_back = |(pod, (_, has_gone)): &(&Uid, &(usize, bool))| *has_gone && seen.pods.contains_key(*pod);
        if let Some((pod, _)) = self.ending.iter().find(is_back).filter(|_| !seen.rolled_back) {
            let what = format!("the pod {pod} was deleted, had gone from {}, and is there again", seen.name);
            self.violations.push(what);
        }
    }

    /// A machine that runs the revision it was taken down for is on its way no longer.
    fn note_arrivals(&mut self, machine: usize, before: &BTreeMap<Uid, PodSeen>) {
        let pods = &self.machines[machine].pods;
        let started = pods
            .iter()
            .filter(|(uid, pod)| pod.image.is_some() && before.get(*uid).is_none_or(|before| before.image.is_none()));
        for (_, pod) in started {
            if let Some(set) = self.sets.get_mut(&pod.set) {
                set.moving.remove(&(pod.revision.clone(), machine));
            }
        }
    }

    /// A container that ran does not any more: who said so?
    fn stopped(&mut self, machine: usize, uid: &Uid, pod: &PodSeen) {
        if self.machines[machine].is_struck {
            self.struck(machine, uid, pod);
            return;
        }
        let is_first_end = self.machines[machine].ended.insert(uid.clone());
        let seen = &self.machines[machine];
        // With an older disk it is back from its end.
        if seen.rolled_back && !is_first_end {
            return;
        }
        // What was so when the pod began holds until the node has heard otherwise.
        let since = if seen.rolled_back { seen.begun[uid] } else { pod.since.expect("it ran") };
        let is_left =
            seen.removed || self.deleted_pods.contains(uid) || seen.cleared.since(since).any(|cleared| *cleared);
        let unfit = |set: &SetSeen, tenure: &Tenure| {
            let until = tenure.until.unwrap_or_else(Instant::now);
            let zones: Vec<_> = seen.zone.between(since, until).collect();
            set.zone.between(since, until).any(|wanted| zones.iter().any(|zone| !fits(wanted, zone)))
        };
        let tenures = self.tenures(uid, pod);
        let ends = |tenure: &Tenure| {
            self.sets.get(&tenure.set).is_some_and(|set| set.takes_along(uid, tenure) || unfit(set, tenure))
        };
        if is_left || self.was_going(uid) || tenures.iter().any(ends) || self.is_surplus(machine, uid, pod) {
            return;
        }
        self.replaced(machine, (uid, pod), &tenures);
    }

    /// No instruction but a newer revision can have ended this pod: then it was under a permit and within the budget.
    fn replaced(&mut self, machine: usize, (uid, pod): (&Uid, &PodSeen), tenures: &[Tenure]) {
        let contents = on_disk(&self.machines[machine]);
        // It went back by itself, from what it had a permit for.
        let records = || tenures.iter().filter_map(|tenure| Some((&tenure.set, contents.daemonsets.get(&tenure.set)?)));
        if records().any(|(_, record)| record.rejected.contains(&pod.revision)) {
            return;
        }
        let of_tenures = tenures.iter().filter_map(|tenure| self.sets.get(&tenure.set));
        let names: Vec<_> = of_tenures.map(|set| set.name.as_str()).collect();
        let name = &self.machines[machine].name;
        let what = format!("the pod {uid} of {} ({}) on {name}", names.join(", then "), pod.revision);
        let taken = records().find_map(|(set, record)| {
            let (number, revision) = (record.taken?, record.permitted.as_ref()?.hash.clone());
            (revision != pod.revision).then(|| (set.clone(), number, revision))
        });
        let Some((owner, number, revision)) = taken else {
            let record = contents.pods.get(uid);
            self.violations.push(format!(
                "{what} was stopped, and nobody had said so; on disk: {record:?}, {:?}",
                contents.daemonsets
            ));
            return;
        };
        // Where its pods do not belong any more, none is missing.
        let set = &self.sets[&owner];
        let left: Vec<_> = set.moving.keys().filter(|(_, machine)| !self.belongs(set, *machine)).cloned().collect();
        let seen = &mut self.machines[machine];
        let set = self.sets.get_mut(&owner).expect("it was looked up");
        set.moving.retain(|moving, _| !left.contains(moving));
        match seen.permits.get(&number) {
            None => {
                self.violations.push(format!("{what} was replaced under permit {}, which it was not given", number.0));
            }
            Some(permit) if (&permit.set, &permit.revision) != (&owner, &revision) => {
                self.violations.push(format!("{what} was replaced under permit {}, which is for {permit:?}", number.0));
            }
            Some(_) => {}
        }
        let before = seen.replaced.insert(owner.clone(), (revision.clone(), number));
        if before.as_ref().is_some_and(|(last, under)| *last == revision && *under != number) && !seen.rolled_back {
            self.violations.push(format!("{what} was replaced by {revision} a second time: {before:?}"));
        }
        if seen.pods.values().any(|other| other.set == owner && other.image.is_some()) {
            // It surged: the other one runs already.
            return;
        }
        let now = Instant::now();
        set.moving.insert((revision.clone(), machine), now);
        let down = set.moving.range((revision.clone(), 0)..=(revision.clone(), usize::MAX)).map(|(_, since)| *since);
        let (count, first) = (down.clone().count(), down.min().unwrap_or(now));
        let budget = set.budget.since(first - SILENCE).max().copied().unwrap_or(0);
        if count > budget {
            let moving = &set.moving;
            self.violations.push(format!(
                "{what} was replaced: {count} nodes are down for {revision}, {budget} may be: {moving:?}"
            ));
        }
    }
}

/// Whether pods for `wanted` belong on a machine in `zone`.
fn fits(wanted: &Option<String>, zone: &Option<String>) -> bool {
    wanted.is_none() || wanted == zone
}

/// When a pod was told to end, by what is on its machine's disk.
fn ending(machine: &MachineSeen, pod: &Uid) -> Option<Ending> {
    on_disk(machine).pods.remove(pod).and_then(|record| record.ending)
}

fn on_disk(machine: &MachineSeen) -> Contents {
    Ledger::open(&machine.dir, machine.key.clone()).unwrap().contents
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use bytes::Bytes;

    use super::*;
    use crate::host::ledger::{DaemonSetRecord, Opened, PodRecord, RevisionRecord, blob_hash};
    use crate::model::{ObjectKey, PodKey, Source};

    /// A machine of zone `a` and a DaemonSet for it.
    fn witness(dir: &std::path::Path, surges: bool) -> Witness {
        let mut witness = Witness::default();
        witness.machine_joined("node-0", dir.to_owned(), None, Some("a".into()), wall);
        witness.set_made(&"set".into(), made("web", "a", surges));
        witness
    }

    fn wall() -> Timestamp {
        Timestamp::from_second(1_000).unwrap()
    }

    /// A DaemonSet that selects pods labelled `web`.
    fn made<'a>(name: &'a str, zone: &str, surges: bool) -> SetMade<'a> {
        let zone = Some(zone.to_owned());
        SetMade { name, label: "web", image: "web:1", zone, budget: 1, surges, is_settled: true }
    }

    fn pod(uid: &str, revision: &str, runs: bool) -> Sandbox {
        let labels =
            [(labels::POD_UID, uid), (labels::DAEMONSET_UID, "set"), (labels::REVISION, revision), (LABEL, "web")];
        let labels: HashMap<_, _> = labels.map(|(label, value)| (label.to_owned(), value.to_owned())).into();
        let running =
            if runs { vec![(format!("container-{uid}").as_str().into(), "web:1".to_owned())] } else { vec![] };
        Sandbox { labels, ready: true, running }
    }

    /// What is said of a pod that ran and stops.
    fn stops(change: impl FnOnce(&mut Witness)) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let mut witness = witness(dir.path(), false);
        witness.changed(0, &[pod("a", "one", true)]);
        change(&mut witness);
        witness.changed(0, &[pod("a", "one", false)]);
        witness.violations
    }

    /// Writes to disk that the node took this permit to revision two.
    fn take(dir: &std::path::Path, number: u64) {
        let bundle = Bytes::from_static(b"two");
        let revision = || RevisionRecord { hash: "two".into(), bundle: blob_hash(&bundle) };
        let Opened { mut ledger, mut contents, .. } = Ledger::open(dir, None).unwrap();
        let record = DaemonSetRecord {
            key: ObjectKey::new("default", "web"),
            source: Source::Link,
            seq: 2,
            newest: revision(),
            permitted: Some(revision()),
            taken: Some(PermitNumber(number)),
            before: None,
            rejected: BTreeSet::new(),
            written: BTreeMap::new(),
            deleted: false,
        };
        contents.daemonsets.insert("set".into(), record);
        ledger.commit(&contents.snapshot(), std::slice::from_ref(&bundle)).unwrap();
    }

    /// Writes to disk that no DaemonSet has pod `a`.
    fn stand_alone(dir: &std::path::Path, ending: Option<Ending>) {
        let bundle = Bytes::from_static(b"one");
        let Opened { mut ledger, mut contents, .. } = Ledger::open(dir, None).unwrap();
        let record = PodRecord {
            key: PodKey { namespace: "default".into(), name: "web-a".into(), uid: "a".into() },
            daemonset: None,
            revision: RevisionRecord { hash: "one".into(), bundle: blob_hash(&bundle) },
            created_at: Timestamp::UNIX_EPOCH,
            ending,
            finished: None,
            amended: None,
            ephemeral_containers: Vec::new(),
        };
        contents.pods.insert("a".into(), record);
        ledger.commit(&contents.snapshot(), std::slice::from_ref(&bundle)).unwrap();
    }

    fn permit(number: u64, revision: &str) -> Permit {
        let (number, daemonset, revision) = (PermitNumber(number), "set".into(), revision.into());
        Permit { number, daemonset, revision, void: false, if_unavailable: false }
    }

    #[test]
    fn a_stop_has_to_have_a_cause() {
        assert!(stops(|_| {})[0].contains("nobody had said so"));
        assert_eq!(stops(|witness| witness.set_deleted(&"set".into(), &BTreeMap::new(), false)), [""; 0]);
        assert_eq!(stops(|witness| witness.pod_deleted("a".into())), [""; 0]);
        assert_eq!(stops(|witness| witness.zone_changed(0, None)), [""; 0]);
        assert_eq!(stops(|witness| witness.cleared(0, true)), [""; 0]);
        assert_eq!(stops(|witness| witness.machines[0].is_struck = true), [""; 0]);
        assert_eq!(stops(|witness| witness.set_changed(&"set".into(), "web:2", Some("b".into()), 1)), [""; 0]);
    }

    #[test]
    fn what_was_deleted_and_has_gone_stays_away() {
        let dir = tempfile::tempdir().unwrap();
        let mut witness = witness(dir.path(), false);
        let comes = |witness: &mut Witness| {
            witness.changed(0, &[pod("a", "one", true)]);
            std::mem::take(&mut witness.violations)
        };
        assert_eq!(comes(&mut witness), [""; 0]);
        witness.pod_deleted("a".into());
        witness.pod_deletion_answered("a".into(), 0, true);
        witness.changed(0, &[]);
        assert_eq!(comes(&mut witness), [""; 0], "its node may not have heard of it");
        witness.changed(0, &[]);
        witness.look_at_ended();
        assert!(comes(&mut witness)[0].contains("is there again"));
    }

    #[test]
    fn a_pod_that_is_back_with_an_older_disk_may_end_as_it_did_before() {
        // In the second row it lost its power before it heard that it was to end.
        for (is_struck, rolled_back, wrong) in [(false, true, 0), (true, true, 0), (false, false, 1)] {
            let dir = tempfile::tempdir().unwrap();
            let mut witness = witness(dir.path(), false);
            witness.changed(0, &[pod("a", "one", true)]);
            witness.cleared(0, true);
            witness.machines[0].is_struck = is_struck;
            witness.changed(0, &[]);
            witness.machines[0].is_struck = false;
            witness.cleared(0, false);
            witness.machines[0].rolled_back = rolled_back;
            [true, false].into_iter().for_each(|runs| witness.changed(0, &[pod("a", "one", runs)]));
            assert_eq!(witness.violations.len(), wrong, "{:?}", witness.violations);
        }
    }

    #[test]
    fn a_replacement_has_to_be_under_a_permit_for_it() {
        let replaced = |given: Option<Permit>, taken| {
            stops(|witness| {
                given.iter().for_each(|permit| witness.permit(0, permit));
                take(&witness.machines[0].dir.clone(), taken);
            })
        };
        assert_eq!(replaced(Some(permit(7, "two")), 7), [""; 0]);
        assert!(replaced(None, 7)[0].contains("under permit 7, which it was not given"));
        assert!(replaced(Some(permit(7, "three")), 7)[0].contains("under permit 7, which is for"));
    }

    #[test]
    fn no_more_nodes_are_taken_down_than_the_budget_says() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let mut witness = witness(dirs[0].path(), false);
        witness.machine_joined("node-1", dirs[1].path().to_owned(), None, Some("a".into()), wall);
        for (machine, dir) in dirs.iter().enumerate() {
            let (uid, number) = (format!("pod-{machine}"), machine as u64);
            witness.changed(machine, &[pod(&uid, "one", true)]);
            witness.permit(machine, &permit(number, "two"));
            take(dir.path(), number);
            assert_eq!(witness.violations, [""; 0]);
            witness.changed(machine, &[]);
        }
        assert!(witness.violations[0].contains("2 nodes are down for two, 1 may be"), "{:?}", witness.violations);
    }

    #[test]
    fn two_pods_are_one_too_many_unless_they_surge() {
        let dir = tempfile::tempdir().unwrap();
        for (surges, wrong) in [(false, 1), (true, 0)] {
            let mut witness = witness(dir.path(), surges);
            witness.changed(0, &[pod("a", "one", true), pod("b", "two", false)]);
            assert_eq!(witness.violations.len(), wrong);
        }
    }

    #[test]
    fn a_pod_that_was_let_go_runs_on() {
        let had = BTreeMap::from([(Uid::from("a"), 0)]);
        let orphaned = |witness: &mut Witness, had: &BTreeMap<Uid, usize>| {
            witness.set_deleted(&"set".into(), had, true);
        };
        assert!(stops(|witness| orphaned(witness, &had))[0].contains("nobody had said so"));
        assert_eq!(stops(|witness| orphaned(witness, &BTreeMap::new())), [""; 0], "control did not know of it");
        let adopted = |witness: &mut Witness, zone| {
            orphaned(witness, &had);
            witness.set_made(&"next".into(), made("next", zone, false));
        };
        assert!(stops(|witness| adopted(witness, "a"))[0].contains("nobody had said so"));
        assert_eq!(stops(|witness| adopted(witness, "b")), [""; 0]);

        let released = |witness: &mut Witness| {
            witness.labelled(&"a".into(), 0, &"set".into(), "other");
            stand_alone(&witness.machines[0].dir, None);
            witness.look_at_singles();
        };
        let deleted_after = |witness: &mut Witness| {
            released(witness);
            witness.set_deleted(&"set".into(), &BTreeMap::new(), false);
        };
        assert!(stops(deleted_after)[0].contains("nobody had said so"));
        let deleted_before = |witness: &mut Witness| {
            witness.set_deleted(&"set".into(), &had, false);
            released(witness);
        };
        assert_eq!(stops(deleted_before), [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_goes_with_a_daemonset_that_adopted_it_while_its_node_was_away() {
        let had = BTreeMap::from([(Uid::from("a"), 0)]);
        for (adopted, wrong) in [(had.clone(), 0), (BTreeMap::new(), 1)] {
            let dir = tempfile::tempdir().unwrap();
            let mut witness = witness(dir.path(), false);
            witness.changed(0, &[pod("a", "one", true)]);
            witness.set_deleted(&"set".into(), &had, true);
            stand_alone(dir.path(), None);
            witness.set_made(&"next".into(), made("next", "a", false));
            witness.set_deleted(&"next".into(), &adopted, false);
            witness.look_at_singles();
            tokio::time::advance(singles::LATE * 2).await;
            witness.changed(0, &[pod("a", "one", false)]);
            assert_eq!(witness.violations.len(), wrong, "{:?}", witness.violations);
        }
    }

    #[test]
    fn an_adopted_pod_is_the_only_one() {
        let on_its_way = |witness: &mut Witness| {
            let ending = Ending { since: Timestamp::UNIX_EPOCH, grace_period_secs: 5 };
            stand_alone(&witness.machines[0].dir, Some(ending));
        };
        let rolled_back = |witness: &mut Witness| witness.machines[0].rolled_back = true;
        let deleted = |witness: &mut Witness| witness.pod_deleted("a".into());
        let nothing = |_: &mut Witness| {};
        type Change = fn(&mut Witness);
        let rows: [(&str, Change, Change, usize); 4] = [
            ("it is adopted", nothing, nothing, 1),
            ("it was ending before", on_its_way, nothing, 0),
            ("with an older disk it is to its node what it was before", nothing, rolled_back, 0),
            ("its node does not know whose it is by now", nothing, deleted, 0),
        ];
        for (row, before, after, wrong) in rows {
            let dir = tempfile::tempdir().unwrap();
            let mut witness = witness(dir.path(), false);
            witness.changed(0, &[pod("a", "one", true)]);
            before(&mut witness);
            witness.set_deleted(&"set".into(), &BTreeMap::from([(Uid::from("a"), 0)]), true);
            witness.set_made(&"next".into(), made("next", "a", false));
            after(&mut witness);
            let mut second = pod("b", "two", false);
            second.labels.insert(labels::DAEMONSET_UID.to_owned(), "next".to_owned());
            witness.changed(0, &[pod("a", "one", true), second]);
            let found: Vec<_> = witness.violations.iter().filter(|what| what.contains("2 pods of next")).collect();
            assert_eq!((found.len(), witness.violations.len()), (wrong, wrong), "{row}: {:?}", witness.violations);
        }
    }

    #[test]
    fn an_adopted_pod_makes_way_for_one_that_is_labelled_to_be_its_daemonsets_again() {
        for (labelled, wrong) in [(true, 0), (false, 1)] {
            let dir = tempfile::tempdir().unwrap();
            let mut witness = witness(dir.path(), false);
            witness.changed(0, &[pod("a", "one", true)]);
            witness.labelled(&"a".into(), 0, &"set".into(), "other");
            stand_alone(dir.path(), None);
            witness.look_at_singles();
            witness.changed(0, &[pod("a", "one", true), pod("b", "one", true)]);
            witness.set_deleted(&"set".into(), &BTreeMap::from([(Uid::from("b"), 0)]), true);
            witness.set_made(&"next".into(), made("next", "a", false));
            if labelled {
                witness.labelled(&"a".into(), 0, &"next".into(), "web");
            }
            witness.changed(0, &[pod("a", "one", true), pod("b", "one", false)]);
            assert_eq!(witness.violations.len(), wrong, "{:?}", witness.violations);
        }
    }

    #[test]
    fn a_pod_that_was_to_end_before_it_was_adopted_may_end_once_that_is_on_disk() {
        for (since, wrong) in [(999, 0), (1_001, 1)] {
            let dir = tempfile::tempdir().unwrap();
            let mut witness = witness(dir.path(), false);
            witness.changed(0, &[pod("a", "one", true)]);
            witness.set_deleted(&"set".into(), &BTreeMap::from([(Uid::from("a"), 0)]), true);
            witness.set_made(&"next".into(), made("next", "a", false));
            let since = Timestamp::from_second(since).unwrap();
            stand_alone(dir.path(), Some(Ending { since, grace_period_secs: 5 }));
            witness.changed(0, &[pod("a", "one", false)]);
            assert_eq!(witness.violations.len(), wrong, "{:?}", witness.violations);
        }
    }

    #[test]
    fn a_pod_that_was_ending_when_a_fault_ended_it_is_not_missed() {
        for (ending, missed) in
            [(None, true), (Some(Ending { since: Timestamp::UNIX_EPOCH, grace_period_secs: 5 }), false)]
        {
            let dir = tempfile::tempdir().unwrap();
            let mut witness = witness(dir.path(), false);
            witness.changed(0, &[pod("a", "one", true)]);
            witness.set_deleted(&"set".into(), &BTreeMap::from([(Uid::from("a"), 0)]), true);
            stand_alone(dir.path(), None);
            witness.look_at_singles();
            stand_alone(dir.path(), ending);
            witness.machines[0].is_struck = true;
            witness.changed(0, &[]);
            assert_eq!(witness.missing(0).is_some(), missed);
        }
    }
}
