//! Judging every DaemonSet and placing its pods: the decide layer is asked, its moves change the contents.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Toleration;

use super::intake::end;
use super::{Input, Preparation, Roster};
use crate::agent::prepare::prepare;
use crate::agent::worker::WorkerHandle;
use crate::api::admission::tolerate_for_a_while;
use crate::api::bundle::{Bundle, UpdateStrategy};
use crate::eligibility::{self, NodeFacts, daemon_tolerations, stays_for};
use crate::fit::{self, Room};
use crate::host::ledger::{DaemonSetRecord, PodRecord};
use crate::link::{self, Ack, Ask, Permit, Reason, Up, Verdict};
use crate::model::{Incumbent, Moment, ObjectKey, PodKey, Source, Taint, TaintEffect, Uid};
use crate::placement::{self, Failures, Finish, Move, Prepared, Set, Standing, Why, place};
use crate::plan::events;

/// Taints that stand for conditions. The node judges by its own conditions, not by what control made of its reports.
const CONDITION_TAINTS: [&str; 6] = [
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
    "node.kubernetes.io/memory-pressure",
    "node.kubernetes.io/disk-pressure",
    "node.kubernetes.io/pid-pressure",
    "node.kubernetes.io/network-unavailable",
];
/// How long a node is cut off, and its new pod not available, before it goes back to the revision before. As long as a Deployment
/// has for its progress by default.
const FALLBACK_AFTER: Duration = Duration::from_secs(600);
/// What upstream's generated names are made of: no vowels, no look-alikes.
const NAME_LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
/// Random characters at the end of a pod's name.
const NAME_RANDOM: usize = 10;
/// A pod's name is a host's name in places, 63 characters at most.
const NAME_MAX: usize = 63;

impl Roster {
    /// Asks for every DaemonSet what is to be done, and puts it into the contents.
    pub(super) fn judge_and_place(&mut self) {
        self.give_up_outdated();
        self.say_refused();
        let taints = self.taints();
        let files: HashSet<ObjectKey> = self
            .contents
            .daemonsets
            .values()
            .filter(|set| set.source == Source::Files && !set.deleted)
            .map(|set| set.key.clone())
            .collect();
        let uids: Vec<_> = self.contents.daemonsets.keys().cloned().collect();
        self.drive_out(&taints);
        self.staying.clear();
        for uid in uids {
            let set = &self.contents.daemonsets[&uid];
            let shadowed = set.source == Source::Link && files.contains(&set.key);
            let (standing, reasons) = self.judge(set, &taints, shadowed);
            self.say_verdict(&uid, standing, reasons);
            if matches!(standing, Standing::Runs | Standing::Stays) {
                self.staying.insert(uid.clone());
            }
            if self.is_held(&uid, standing) || self.is_unsettled(&uid) {
                continue;
            }
            // Taking a permit, or leaving a revision, makes a pod's end the next move, so it is asked twice.
            while self.place(&uid, standing) {}
        }
    }

    /// Ends pods that came under a taint which they do not tolerate, or not for so long. A DaemonSet's pod that does not tolerate it
    /// at all leaves with its verdict; after its time it makes way for another, as upstream's does.
    fn drive_out(&mut self, taints: &[Taint]) {
        if taints.iter().all(|taint| taint.effect != TaintEffect::NoExecute) {
            self.tainted.clear();
            return;
        }
        let now = self.shared.clock.now();
        let (mut tainted, mut due) = (HashMap::new(), Vec::new());
        for (uid, record) in self.contents.pods.iter().filter(|(_, record)| record.ending.is_none()) {
            let Some(bundle) = self.desired.bundle(&record.revision.bundle) else { continue };
            let is_held = record.daemonset.as_ref().is_some_and(|set| self.desired.is_unknown(set));
            let Some(limit) = stays_for(taints, &tolerations(bundle)).filter(|_| !is_held) else { continue };
            let since = self.tainted.get(uid).map_or(now, |(since, _)| *since);
            if since + limit > now {
                tainted.insert(uid.clone(), (since, since + limit));
            } else if record.daemonset.is_none() || !limit.is_zero() {
                due.push((record.key.clone(), grace_period_secs(Some(bundle))));
            }
        }
        self.tainted = tainted;
        for (key, grace_period_secs) in due {
            tracing::info!(pod = %key, "pod does not tolerate a taint of its node, or not any longer");
            let object = ObjectKey::new(&key.namespace, &key.name);
            self.session.event(self.shared.event_report("Pod", &object, &key.uid, events::tainted_out(&key)));
            self.end_pod(&key.uid, grace_period_secs);
            self.dirty = true;
        }
    }

    /// Ends preparing what is not the newest revision any more.
    fn give_up_outdated(&mut self) {
        let newest = |uid: &Uid| self.contents.daemonsets.get(uid).map(|set| &set.newest.hash);
        self.preparations.retain(|uid, preparation| newest(uid) == Some(&preparation.revision));
    }

    /// The user's taints and those of this node's own conditions. That control does not hear of it is none of them.
    ///
    /// Source: kubernetes v1.36 `pkg/controller/nodelifecycle/node_lifecycle_controller.go`.
    fn taints(&self) -> Vec<Taint> {
        let users = self.contents.node.taints.iter().filter(|taint| !CONDITION_TAINTS.contains(&taint.key.as_str()));
        let node = self.node.as_ref();
        let pressure = node.map(|node| node.pressure).unwrap_or_default();
        let [not_ready, _, memory, disk, pid, _] = CONDITION_TAINTS;
        let conditions = [
            (not_ready, TaintEffect::NoSchedule, !node.is_some_and(|node| node.ready)),
            // Nobody goes before it is known.
            (not_ready, TaintEffect::NoExecute, node.is_some_and(|node| !node.ready)),
            (memory, TaintEffect::NoSchedule, pressure.memory),
            (disk, TaintEffect::NoSchedule, pressure.disk),
            (pid, TaintEffect::NoSchedule, pressure.pid),
        ];
        let own = conditions.into_iter().filter(|(_, _, holds)| *holds).map(|(key, effect, _)| Taint {
            key: key.to_owned(),
            value: String::new(),
            effect,
        });
        users.cloned().chain(own).collect()
    }

    fn judge(&self, set: &DaemonSetRecord, taints: &[Taint], shadowed: bool) -> (Standing, Vec<Reason>) {
        if set.deleted {
            return (Standing::Deleted, Vec::new());
        }
        if shadowed {
            let message = "a manifest on this host has the same namespace and name".to_owned();
            return (Standing::Leaves, vec![reason("ShadowedByManifest", message)]);
        }
        let Some(bundle) = self.desired.bundle(&set.newest.bundle) else {
            let message =
                "the revision in this node's ledger is damaged; waiting for control to send it again".to_owned();
            return (Standing::Stays, vec![reason("RevisionLost", message)]);
        };
        let node = NodeFacts { name: &self.identity.name, labels: &self.contents.node.labels, taints };
        match eligibility::judge(&node, &bundle.template) {
            Err(error) => (Standing::Stays, vec![reason("BadSelector", error.to_string())]),
            Ok(verdict) => {
                let standing = match (verdict.runs, verdict.stays) {
                    (true, _) => Standing::Runs,
                    (false, true) => Standing::Stays,
                    // Neither of the two may be as the user has it: this one would end what the next keeps.
                    (false, false) if self.contents.node_ahead && set.source == Source::Link => Standing::Stays,
                    (false, false) => Standing::Leaves,
                };
                (standing, verdict.reasons.iter().map(|against| reason("NotEligible", against.to_string())).collect())
            }
        }
    }

    fn say_verdict(&mut self, uid: &Uid, standing: Standing, reasons: Vec<Reason>) {
        let standing = match standing {
            _ if self.desired.is_refused(uid) => return,
            Standing::Deleted => return,
            Standing::Runs => link::Standing::Runs,
            Standing::Stays => link::Standing::Stays,
            Standing::Leaves => link::Standing::Leaves,
        };
        let set = &self.contents.daemonsets[uid];
        self.session.verdict(Verdict {
            daemonset: uid.clone(),
            seq: set.seq,
            revision: set.newest.hash.clone(),
            standing,
            reasons,
            rejected: set.rejected.iter().cloned().collect(),
        });
    }

    /// Says which revisions this agent cannot realize.
    fn say_refused(&mut self) {
        for (uid, refused) in self.desired.refused() {
            let rejected = self.contents.daemonsets.get(uid).map(|set| set.rejected.iter().cloned().collect());
            self.session.verdict(Verdict {
                daemonset: uid.clone(),
                seq: refused.seq,
                revision: refused.revision.clone(),
                standing: link::Standing::Refused,
                reasons: refused.reasons.clone(),
                rejected: rejected.unwrap_or_default(),
            });
        }
    }

    /// Whether nothing is decided about a DaemonSet because control has no record of it: what is here stays. A pod that was
    /// lost is made again, and a deletion from before is seen through.
    fn is_held(&self, uid: &Uid, standing: Standing) -> bool {
        let has_pod = || self.contents.pods.values().any(|pod| pod.daemonset.as_ref() == Some(uid));
        self.desired.is_unknown(uid)
            && match standing {
                Standing::Deleted => false,
                Standing::Runs => has_pod(),
                Standing::Stays | Standing::Leaves => true,
            }
    }

    /// Whether nothing is decided about a DaemonSet before this node has what control says of a pod that it had last: it may have
    /// let that one go, and ends none that is not its.
    fn is_unsettled(&self, uid: &Uid) -> bool {
        let is_its = |pod: &PodRecord| pod.daemonset.as_ref() == Some(uid) && self.posted.is_awaited(&pod.key.uid);
        self.posted.is_waiting() && self.contents.pods.values().any(is_its)
    }

    /// Makes the moves of one DaemonSet; true if there are more to ask for.
    fn place(&mut self, uid: &Uid, standing: Standing) -> bool {
        let Some(set) = self.contents.daemonsets.get(uid) else { return false };
        let mut records: Vec<_> =
            self.contents.pods.values().filter(|pod| pod.daemonset.as_ref() == Some(uid)).collect();
        records.sort_by_key(|pod| pod.created_at);
        let pods: Vec<_> = records
            .iter()
            .map(|pod| placement::Pod {
                uid: &pod.key.uid,
                revision: &pod.revision.hash,
                available: self.views.get(&pod.key.uid).is_some_and(|view| view.available),
                ending: pod.ending.is_some(),
                finished: pod.finished.as_ref().map(|finished| {
                    let rests = !finished.succeeded && self.rests_until(uid).is_some();
                    if rests { Finish::Rests } else { Finish::Replaced }
                }),
            })
            .collect();
        let newest = &set.newest.hash;
        let now = self.shared.clock.now();
        let incumbent = placement::incumbent(&pods);
        let holds = |permit: &Permit| !permit.if_unavailable || incumbent != Incumbent::Available;
        if self.session.granted(uid, newest).is_some_and(|permit| !holds(permit)) {
            self.session.decline(uid);
        }
        let moves = place(
            &Set {
                source: set.source,
                standing,
                newest,
                permitted: set.permitted.as_ref().map(|permitted| &permitted.hash),
                before: set.before.as_ref().map(|before| &before.hash),
                rejected: &set.rejected,
                cut_off: self.goes_back_at(set).is_some_and(|due| due <= now),
                strategy: self.strategy(set),
                prepared: self.how_far(uid, set, incumbent),
                granted: self.session.granted(uid, newest).map(|permit| permit.number),
                gradual: self.session.takes_permits() && self.desired.is_gradual(uid),
            },
            &pods,
        );
        let mut again = false;
        for one in moves {
            again |= matches!(one, Move::Take(_) | Move::GoBack);
            self.make(uid, one, incumbent);
        }
        again
    }

    /// A revision that was lost is replaced by nothing, so its strategy does not matter.
    fn strategy(&self, set: &DaemonSetRecord) -> UpdateStrategy {
        let newest = self.desired.bundle(&set.newest.bundle);
        newest.map_or(UpdateStrategy::RollingUpdate, |bundle| bundle.update_strategy)
    }

    fn how_far(&self, uid: &Uid, set: &DaemonSetRecord, incumbent: Incumbent) -> Prepared {
        let now = self.shared.clock.now();
        let asked = self.session.asked(uid, &set.newest.hash, incumbent);
        match self.preparations.get(uid) {
            // A first pod is asked for without preparing it.
            None if asked => Prepared::Asked,
            None => Prepared::No,
            Some(Preparation { outcome: Some(Ok(())), .. }) if asked => Prepared::Asked,
            Some(Preparation { outcome: Some(Ok(())), .. }) => Prepared::Yes,
            Some(Preparation { retry_at: Some(due), .. }) if *due <= now => Prepared::No,
            Some(_) => Prepared::NotYet,
        }
    }

    fn make(&mut self, uid: &Uid, one: Move, incumbent: Incumbent) {
        let Some(set) = self.contents.daemonsets.get_mut(uid) else { return };
        match one {
            Move::Create(revision) => {
                let revision = match &set.permitted {
                    Some(permitted) if permitted.hash == revision => permitted.clone(),
                    _ => {
                        // The permit was for another revision.
                        (set.taken, set.before) = (None, None);
                        set.newest.clone()
                    }
                };
                set.permitted = Some(revision.clone());
                let key = PodKey {
                    namespace: set.key.namespace.clone(),
                    name: pod_name(&set.key.name, uuid::Uuid::new_v4().as_u128()),
                    uid: Uid(uuid::Uuid::new_v4().to_string()),
                };
                let record = PodRecord {
                    key: key.clone(),
                    daemonset: Some(uid.clone()),
                    revision,
                    created_at: self.shared.clock.wall(),
                    ending: None,
                    finished: None,
                    amended: None,
                    ephemeral_containers: Vec::new(),
                };
                self.session.pod_changed(&key.uid);
                self.contents.pods.insert(key.uid, record);
                self.dirty = true;
            }
            Move::End(pod, why) => {
                if let Some(record) = self.contents.pods.get_mut(&pod) {
                    tracing::info!(pod = %record.key, ?why, "pod ends");
                    let since = self.shared.clock.wall();
                    end(record, since, grace_period_secs(self.desired.bundle(&record.revision.bundle)));
                    self.session.pod_changed(&pod);
                    self.dirty = true;
                }
                if why == Why::Finished {
                    self.replaces(uid, &pod);
                }
            }
            Move::Prepare => self.begin_to_prepare(uid),
            Move::Ask => {
                let (daemonset, revision) = (uid.clone(), set.newest.hash.clone());
                self.session.ask(Ask { daemonset, revision, prepared: Ok(()), incumbent });
            }
            Move::Take(number) => {
                // A revision that never worked here is nothing to go back to.
                let before = set.before.take().or_else(|| set.permitted.clone());
                set.before = before.filter(|before| number.is_some() && before.hash != set.newest.hash);
                set.permitted = Some(set.newest.clone());
                set.taken = number;
                self.after_commit.extend(number.map(|number| Up::Ack(Ack::Taken(number))));
                self.dirty = true;
            }
            Move::GoBack => {
                let left = std::mem::replace(&mut set.permitted, set.before.take());
                if let Some(left) = left {
                    tracing::warn!(daemonset = %set.key, revision = %left.hash, "the revision was never available here, and control \
                         cannot be asked: this node goes back to the one before");
                    set.taken = set.taken.filter(|_| left.hash == set.newest.hash);
                    set.rejected.insert(left.hash);
                }
                self.dirty = true;
            }
            Move::Forget => {
                self.contents.daemonsets.remove(uid);
                self.preparations.remove(uid);
                self.failures.remove(uid);
                self.dirty = true;
            }
        }
    }

    /// When this node goes back from the permitted revision if it is still cut off, and the revision was not available by then.
    pub(super) fn goes_back_at(&self, set: &DaemonSetRecord) -> Option<Moment> {
        set.before.as_ref()?;
        let bundle = self.desired.bundle(&set.permitted.as_ref()?.bundle).filter(|bundle| !bundle.no_fallback)?;
        Some(self.cut_off_since? + FALLBACK_AFTER + bundle.min_ready())
    }

    /// Until when a pod of the DaemonSet that failed stays; none if it makes way at once.
    pub(super) fn rests_until(&self, uid: &Uid) -> Option<Moment> {
        let newest = &self.contents.daemonsets.get(uid)?.newest.hash;
        self.failures.get(uid)?.due(newest, self.shared.clock.now())
    }

    /// Counts a failure, and says on the DaemonSet that its pod came to its end.
    fn replaces(&mut self, uid: &Uid, pod: &Uid) {
        let (Some(set), Some(record)) = (self.contents.daemonsets.get(uid), self.contents.pods.get(pod)) else {
            return;
        };
        let succeeded = record.finished.as_ref().is_some_and(|finished| finished.succeeded);
        if !succeeded {
            let failures = Failures::after(self.failures.get(uid), &set.newest.hash, self.shared.clock.now());
            self.failures.insert(uid.clone(), failures);
        }
        let event = events::daemon_replaced(&record.key, &self.identity.name, succeeded);
        self.session.event(self.shared.event_report("DaemonSet", &set.key, uid, event));
    }

    fn begin_to_prepare(&mut self, uid: &Uid) {
        let set = &self.contents.daemonsets[uid];
        let Some(bundle) = self.desired.bundle(&set.newest.bundle).cloned() else { return };
        let (daemonset, revision) = (uid.clone(), set.newest.hash.clone());
        let fits = self.would_fit(uid, &bundle);
        let (shared, inputs_tx) = (self.shared.clone(), self.inputs_tx.clone());
        let task = tokio::spawn(async move {
            let revision = bundle.revision.clone();
            let outcome = match fits {
                Ok(()) => prepare(&shared, &bundle).await,
                against => against,
            };
            // A roster that is gone has ended this task already, or is about to.
            drop(inputs_tx.send(Input::Prepared { daemonset, revision, outcome }).await);
        });
        self.preparations.insert(uid.clone(), Preparation { revision, outcome: None, retry_at: None, task });
    }

    /// Whether a revision's pod would find room: beside those that the DaemonSet has here now if it surges, otherwise once
    /// they have made some.
    fn would_fit(&self, uid: &Uid, bundle: &Bundle) -> Result<(), Reason> {
        let pod = self.shared.sample(bundle).map_err(|message| reason("Unrealizable", message))?;
        let surges = bundle.update_strategy == UpdateStrategy::RollingUpdateWithSurge;
        let has_ended = |pod: &Uid| self.contents.pods.get(pod).is_some_and(|record| record.finished.is_some());
        let stays = |worker: &&WorkerHandle| {
            let is_other = surges || worker.pod.origin.daemonset.as_ref() != Some(uid);
            is_other && !has_ended(&worker.pod.key.uid)
        };
        let staying = self.workers.values().filter(|worker| worker.was_admitted()).filter(stays);
        let staying: Vec<_> = staying.map(|worker| worker.pod.clone()).collect();
        let room = || match fit::room(&pod, &self.holders(&staying), &self.host.allocatable) {
            Room::There | Room::Expected(..) => Ok(()),
            Room::Taken(rejection) => Err(rejection),
        };
        fit::supports(&pod, self.abilities())
            .and_then(|()| room())
            .map_err(|rejection| reason(&rejection.reason, rejection.message))
    }
}

/// The tolerations that the pod has, those of every daemon included.
fn tolerations(bundle: &Bundle) -> Vec<Toleration> {
    let mut spec = bundle.template.spec.clone().unwrap_or_default();
    if bundle.posted.is_none() {
        return daemon_tolerations(&spec);
    }
    // An older control may have admitted it without.
    tolerate_for_a_while(&mut spec);
    spec.tolerations.unwrap_or_default()
}

fn reason(reason: &str, message: String) -> Reason {
    Reason { reason: reason.to_owned(), message, field: String::new() }
}

/// `terminationGracePeriodSeconds` of the template, which is defaulted; the same default where the revision was lost.
pub(super) fn grace_period_secs(bundle: Option<&Arc<Bundle>>) -> u32 {
    let spec = bundle.and_then(|bundle| bundle.template.spec.as_ref());
    let seconds = spec.and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
    u32::try_from(seconds).unwrap_or(0)
}

/// The DaemonSet's name, cut where it is too long, `-` and ten characters of `random`.
fn pod_name(daemonset: &str, mut random: u128) -> String {
    let base: String = daemonset.chars().take(NAME_MAX - NAME_RANDOM - 1).collect();
    let mut name = format!("{base}-");
    for _ in 0..NAME_RANDOM {
        let letter = NAME_LETTERS[usize::try_from(random % 27).expect("below 27")];
        name.push(char::from(letter));
        random /= 27;
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_name_is_its_daemonsets_and_ten_characters() {
        assert_eq!(pod_name("fluentd", 0), "fluentd-bbbbbbbbbb");
        assert_eq!(pod_name("fluentd", 28), "fluentd-ccbbbbbbbb");
        assert_eq!(pod_name(&"x".repeat(80), u128::MAX).len(), NAME_MAX);
    }
}
