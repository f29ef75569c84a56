//! What control is told of this node: the hello, pod reports.

use bytes::Bytes;

use super::Roster;
use crate::agent::objects;
use crate::agent::worker::PodView;
use crate::host::ledger::{DaemonSetRecord, NodeIntent, ObjectRecord, PodRecord};
use crate::link::{
    BLOB_BYTES_MAX, BlobChunk, HeldDaemonSet, HeldObject, HeldPod, HeldPosted, HeldRevision, Hello, Holdings, PROTOCOL,
    PodEnding, PodReport, RECOUNT, TakenPermit, Up, pieces,
};
use crate::model::{BlobHash, Source, Uid};

/// How many pods are reported in one message.
const REPORTS_PER_MESSAGE: usize = 32;

impl Roster {
    /// Who calls and what the ledger holds.
    pub(super) fn hello(&self) -> Hello {
        let linked = || self.contents.daemonsets.iter().filter(|(_, set)| set.source == Source::Link);
        let permit = |(uid, set): (&Uid, &DaemonSetRecord)| {
            // A node that went back has not given its permit back: its slot stays used.
            let is_left = set.rejected.contains(&set.newest.hash);
            let revision = if is_left { &set.newest } else { set.permitted.as_ref()? };
            Some(TakenPermit { number: set.taken?, daemonset: uid.clone(), revision: revision.hash.clone() })
        };
        let held = |(uid, set): (&Uid, &DaemonSetRecord)| HeldDaemonSet {
            uid: uid.clone(),
            seq: set.seq,
            key: Some(set.key.clone()),
            revision: Some(set.newest.hash.clone()),
        };
        Hello {
            protocol: PROTOCOL,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            features: vec![RECOUNT.to_owned()],
            boot_id: self.shared.facts.boot_id.clone(),
            machine_id: self.shared.facts.machine_id.clone(),
            fleet: self.identity.fleet.clone(),
            position: self.contents.position,
            session: self.contents.session,
            nonce: self.contents.session_nonce.clone(),
            daemonsets: linked().map(held).collect(),
            pods: self.linked_pods().map(|record| self.held(record)).collect(),
            permits: linked().filter_map(permit).collect(),
        }
    }

    /// Everything the ledger holds, for a control that has lost its store.
    pub(super) fn holdings(&self) -> Holdings {
        let NodeIntent { labels, taints, unschedulable } = self.contents.node.clone();
        let linked = self.contents.daemonsets.iter().filter(|(_, set)| set.source == Source::Link && !set.deleted);
        let objects = self.contents.objects.iter();
        let objects = objects.filter(|record| record.source == Source::Link && record.kept_for.is_empty());
        let object = |record: &ObjectRecord| HeldObject {
            object: objects::reference(&record.id()),
            uid: record.uid.clone(),
            blob: record.blob.clone(),
        };
        let is_single = |pod: &&PodRecord| {
            let bundle = self.desired.bundle(&pod.revision.bundle);
            pod.ending.is_none() && bundle.is_some_and(|bundle| bundle.posted.is_some())
        };
        let posted = self.contents.pods.values().filter(is_single);
        let posted = posted.map(|pod| HeldPosted { uid: pod.key.uid.clone(), bundle: pod.revision.bundle.clone() });
        Holdings {
            labels,
            taints,
            unschedulable,
            revisions: linked.flat_map(|(uid, set)| revisions(uid, set)).collect(),
            objects: objects.map(object).collect(),
            pods: posted.collect(),
            refused: self.desired.refused().map(|(uid, _)| uid.clone()).collect(),
        }
    }

    /// A blob that [`Roster::holdings`] named, in pieces; one without data if it is lost.
    pub(super) fn recall(&self, hash: &BlobHash) -> Vec<BlobChunk> {
        let content = self.ledger.as_ref().filter(|_| self.holds(hash)).and_then(|ledger| ledger.blob(hash).ok());
        let content = Bytes::from(content.unwrap_or_default());
        let total = content.len() as u64;
        if total == 0 || total > BLOB_BYTES_MAX {
            return vec![BlobChunk { hash: hash.clone(), offset: 0, total: 0, data: Bytes::new() }];
        }
        let mut offset = 0;
        let chunk = |data: Bytes| {
            let chunk = BlobChunk { hash: hash.clone(), offset, total, data };
            offset += chunk.data.len() as u64;
            chunk
        };
        pieces(content).map(chunk).collect()
    }

    fn holds(&self, hash: &BlobHash) -> bool {
        let Holdings { revisions, objects, pods, .. } = self.holdings();
        let of_sets = |held: &HeldRevision| held.bundle == *hash || held.written.as_ref() == Some(hash);
        revisions.iter().any(of_sets)
            || objects.iter().any(|held| held.blob == *hash)
            || pods.iter().any(|held| held.bundle == *hash)
    }

    fn linked_pods(&self) -> impl Iterator<Item = &PodRecord> {
        self.contents.pods.values().filter(|record| self.is_linked(record))
    }

    /// Whether control has to do with a pod: those of files are this host's own.
    fn is_linked(&self, record: &PodRecord) -> bool {
        let set = record.daemonset.as_ref().and_then(|uid| self.contents.daemonsets.get(uid));
        set.is_none_or(|set| set.source == Source::Link)
    }

    fn held(&self, record: &PodRecord) -> HeldPod {
        let report = pod_report(record, self.views.get(&record.key.uid));
        HeldPod { uid: record.key.uid.clone(), digest: report.digest() }
    }

    /// Queues the reports that changed, while there is room.
    pub(super) fn report(&mut self) {
        loop {
            let pods = self.session.take_unreported(REPORTS_PER_MESSAGE, |pod| !self.unseen.contains(pod));
            if pods.is_empty() {
                return;
            }
            let records = pods.iter().filter_map(|uid| self.contents.pods.get(uid));
            let records = records.filter(|record| self.is_linked(record));
            let reports: Vec<_> = records.map(|record| pod_report(record, self.views.get(&record.key.uid))).collect();
            if !reports.is_empty() {
                self.session.say(Up::Pods(reports));
            }
        }
    }
}

/// The revisions of a DaemonSet, each once.
fn revisions(uid: &Uid, set: &DaemonSetRecord) -> Vec<HeldRevision> {
    let mut held: Vec<HeldRevision> = Vec::new();
    for revision in set.revisions() {
        if held.iter().all(|one| one.revision != revision.hash) {
            held.push(HeldRevision {
                daemonset: uid.clone(),
                revision: revision.hash.clone(),
                bundle: revision.bundle.clone(),
                written: set.written.get(&revision.hash).cloned(),
                newest: held.is_empty(),
            });
        }
    }
    held
}

/// What the node owns of one pod.
pub(super) fn pod_report(record: &PodRecord, view: Option<&PodView>) -> PodReport {
    let status = view.map(|view| serde_json::to_vec(&view.status).expect("a status is JSON: its map keys are strings"));
    let ending = record.ending.as_ref();
    PodReport {
        key: record.key.clone(),
        daemonset: record.daemonset.clone(),
        revision: record.revision.hash.clone(),
        created_at: record.created_at,
        available: view.is_some_and(|view| view.available),
        ending: ending.map(|ending| PodEnding { since: ending.since, grace_period_secs: ending.grace_period_secs }),
        gone: false,
        status: status.map_or_else(|| Bytes::from_static(b"{}"), Bytes::from),
    }
}
