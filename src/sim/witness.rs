//! Sees every change in the machines and says what should not have been: the invariants of design.md §9.
//!
//! It is told what users asked for and which faults there were, before they take effect, and works out for itself what may
//! happen. Of agents and control it believes nothing; it looks at what is on a node's disk only to learn under which permit a pod
//! was replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use tokio::time::Instant;

use crate::cri::labels;
use crate::host::ledger::{Contents, Ledger};
use crate::link::{Hello, Permit, SILENCE};
use crate::model::{PermitNumber, RevisionHash, Uid};
use crate::testing::fake_cri::Sandbox;

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
        let first = self.0.iter().rposition(|(at, _)| *at <= then).unwrap_or(0);
        self.0[first..].iter().map(|(_, value)| value)
    }
}

/// What users said of a DaemonSet.
#[derive(Debug)]
pub(super) struct SetSeen {
    pub(super) name: String,
    /// The zone its pods are for; none for all.
    zone: Past<Option<String>>,
    pub(super) image: String,
    budget: Past<usize>,
    surges: bool,
    deleted: bool,
    /// The machines that are on their way to a revision and were taken down for it.
    moving: BTreeMap<(RevisionHash, usize), Instant>,
}

/// What is known of a machine.
#[derive(Debug)]
pub(super) struct MachineSeen {
    pub(super) name: String,
    dir: PathBuf,
    zone: Past<Option<String>>,
    /// The user's taint keeps everything off.
    cleared: Past<bool>,
    removed: bool,
    /// It has what was on its disk some time ago.
    pub(super) rolled_back: bool,
    pub(super) pods: BTreeMap<Uid, PodSeen>,
    /// What stops just now, stops because of a fault.
    pub(super) is_struck: bool,
    permits: BTreeMap<PermitNumber, PermitSeen>,
    /// What a DaemonSet's pod was replaced by last, and under which permit.
    replaced: BTreeMap<Uid, (RevisionHash, PermitNumber)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PodSeen {
    pub(super) set: Uid,
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
    /// The highest resourceVersion an answer had.
    last_version: u64,
    violations: Vec<String>,
}

// === what users ask for ===

impl Witness {
    pub(super) fn set_made(
        &mut self,
        uid: Uid,
        name: &str,
        image: &str,
        zone: Option<String>,
        budget: usize,
        surges: bool,
    ) {
        let seen = SetSeen {
            name: name.to_owned(),
            zone: Past::new(zone),
            image: image.to_owned(),
            budget: Past::new(budget),
            surges,
            deleted: false,
            moving: BTreeMap::new(),
        };
        self.sets.insert(uid, seen);
    }

    pub(super) fn set_changed(&mut self, uid: &Uid, image: &str, zone: Option<String>, budget: usize) {
        let set = self.sets.get_mut(uid).expect("it was made");
        image.clone_into(&mut set.image);
        set.zone.becomes(zone);
        set.budget.becomes(budget);
    }

    pub(super) fn set_deleted(&mut self, uid: &Uid) {
        self.sets.get_mut(uid).expect("it was made").deleted = true;
    }

    pub(super) fn pod_deleted(&mut self, uid: Uid) {
        self.deleted_pods.insert(uid);
    }

    pub(super) fn machine_joined(&mut self, name: &str, dir: PathBuf, zone: Option<String>) {
        self.machines.push(MachineSeen {
            name: name.to_owned(),
            dir,
            zone: Past::new(zone),
            cleared: Past::new(false),
            removed: false,
            rolled_back: false,
            pods: BTreeMap::new(),
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
        !set.deleted && !seen.removed && !seen.cleared.now() && fits(set.zone.now(), seen.zone.now())
    }

    /// The DaemonSets there are.
    pub(super) fn present(&self) -> impl Iterator<Item = (&Uid, &SetSeen)> {
        self.sets.iter().filter(|(_, set)| !set.deleted)
    }

    /// What on a machine is not as users want it by now.
    pub(super) fn unlike(&self, machine: usize) -> Option<String> {
        let seen = &self.machines[machine];
        let is_stray = |pod: &&PodSeen| self.sets.get(&pod.set).is_none_or(|set| set.deleted);
        if let Some(stray) = seen.pods.values().find(is_stray) {
            return Some(format!("{} has a pod of a DaemonSet that is gone: {stray:?}", seen.name));
        }
        self.present().find_map(|(uid, set)| {
            let here: Vec<_> = seen.pods.values().filter(|pod| pod.set == *uid).collect();
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
        let Permit { number, daemonset, revision, void } = permit.clone();
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
            after.insert(uid, PodSeen { set, revision, ready: sandbox.ready, image, since });
        }
        self.machines[machine].pods = after;
        self.check_number(machine);
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
        seen.pods.values().filter(|pod| pod.ready).for_each(|pod| *numbers.entry(&pod.set).or_default() += 1);
        for (set, number) in numbers {
            let surges = self.sets.get(set).is_some_and(|set| set.surges);
            if number > 1 + usize::from(surges) {
                let name = self.sets.get(set).map(|set| set.name.as_str()).unwrap_or_default();
                self.violations.push(format!("{number} pods of {name} on {}: {:?}", seen.name, seen.pods));
                return;
            }
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
        let seen = &self.machines[machine];
        let Some(set) = self.sets.get(&pod.set) else {
            self.violations.push(format!("a pod of an unknown DaemonSet {} stopped on {}", pod.set, seen.name));
            return;
        };
        // What was so when the pod began holds until the node has heard otherwise.
        let since = pod.since.expect("it ran");
        let unfit = || {
            let zones: Vec<_> = seen.zone.since(since).collect();
            seen.cleared.since(since).any(|cleared| *cleared)
                || set.zone.since(since).any(|wanted| zones.iter().any(|zone| !fits(wanted, zone)))
        };
        if seen.is_struck || set.deleted || seen.removed || self.deleted_pods.contains(uid) || unfit() {
            return;
        }
        self.replaced(machine, uid, pod);
    }

    /// No instruction but a newer revision can have ended this pod: then it was under a permit and within the budget.
    fn replaced(&mut self, machine: usize, uid: &Uid, pod: &PodSeen) {
        let set = &self.sets[&pod.set];
        // Where its pods do not belong any more, none is missing.
        let left: Vec<_> = set.moving.keys().filter(|(_, machine)| !self.belongs(set, *machine)).cloned().collect();
        let seen = &mut self.machines[machine];
        let set = self.sets.get_mut(&pod.set).expect("it was looked up");
        set.moving.retain(|moving, _| !left.contains(moving));
        let contents = on_disk(&seen.dir);
        let record = contents.daemonsets.get(&pod.set);
        // It went back by itself, from what it had a permit for.
        if record.is_some_and(|record| record.rejected.contains(&pod.revision)) {
            return;
        }
        let what = format!("the pod {uid} of {} ({}) on {}", set.name, pod.revision, seen.name);
        let taken = record.and_then(|record| Some((record.taken?, record.permitted.as_ref()?.hash.clone())));
        let Some((number, revision)) = taken.filter(|(_, revision)| *revision != pod.revision) else {
            let record = contents.pods.get(uid);
            self.violations.push(format!(
                "{what} was stopped, and nobody had said so; on disk: {record:?}, {:?}",
                contents.daemonsets
            ));
            return;
        };
        match seen.permits.get(&number) {
            None => {
                self.violations.push(format!("{what} was replaced under permit {}, which it was not given", number.0));
            }
            Some(permit) if (&permit.set, &permit.revision) != (&pod.set, &revision) => {
                self.violations.push(format!("{what} was replaced under permit {}, which is for {permit:?}", number.0));
            }
            Some(_) => {}
        }
        let before = seen.replaced.insert(pod.set.clone(), (revision.clone(), number));
        if before.as_ref().is_some_and(|(last, under)| *last == revision && *under != number) && !seen.rolled_back {
            self.violations.push(format!("{what} was replaced by {revision} a second time: {before:?}"));
        }
        if seen.pods.values().any(|other| other.set == pod.set && other.image.is_some()) {
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

fn on_disk(dir: &std::path::Path) -> Contents {
    Ledger::open(dir).unwrap().contents
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use bytes::Bytes;

    use super::*;
    use crate::host::ledger::{DaemonSetRecord, Opened, RevisionRecord, blob_hash};
    use crate::model::{ObjectKey, Source};

    /// A machine of zone `a` and a DaemonSet for it.
    fn witness(dir: &std::path::Path, surges: bool) -> Witness {
        let mut witness = Witness::default();
        witness.machine_joined("node-0", dir.to_owned(), Some("a".into()));
        witness.set_made("set".into(), "web", "web:1", Some("a".into()), 1, surges);
        witness
    }

    fn pod(uid: &str, revision: &str, runs: bool) -> Sandbox {
        let labels = [(labels::POD_UID, uid), (labels::DAEMONSET_UID, "set"), (labels::REVISION, revision)];
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
        let Opened { mut ledger, mut contents, .. } = Ledger::open(dir).unwrap();
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

    fn permit(number: u64, revision: &str) -> Permit {
        Permit { number: PermitNumber(number), daemonset: "set".into(), revision: revision.into(), void: false }
    }

    #[test]
    fn a_stop_has_to_have_a_cause() {
        assert!(stops(|_| {})[0].contains("nobody had said so"));
        assert_eq!(stops(|witness| witness.set_deleted(&"set".into())), [""; 0]);
        assert_eq!(stops(|witness| witness.pod_deleted("a".into())), [""; 0]);
        assert_eq!(stops(|witness| witness.zone_changed(0, None)), [""; 0]);
        assert_eq!(stops(|witness| witness.cleared(0, true)), [""; 0]);
        assert_eq!(stops(|witness| witness.machines[0].is_struck = true), [""; 0]);
        assert_eq!(stops(|witness| witness.set_changed(&"set".into(), "web:2", Some("b".into()), 1)), [""; 0]);
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
        witness.machine_joined("node-1", dirs[1].path().to_owned(), Some("a".into()));
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
}
