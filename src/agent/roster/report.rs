//! What control is told of this node: the hello, pod reports.

use bytes::Bytes;

use super::Roster;
use crate::agent::worker::PodView;
use crate::host::ledger::{DaemonSetRecord, PodRecord};
use crate::link::{HeldDaemonSet, HeldPod, Hello, PROTOCOL, PodEnding, PodReport, TakenPermit, Up};
use crate::model::{Source, Uid};

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
            features: Vec::new(),
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
            let pods = self.session.take_unreported(REPORTS_PER_MESSAGE);
            if pods.is_empty() {
                return;
            }
            let records =
                pods.iter().filter(|uid| !self.unseen.contains(uid)).filter_map(|uid| self.contents.pods.get(uid));
            let records = records.filter(|record| self.is_linked(record));
            let reports: Vec<_> = records.map(|record| pod_report(record, self.views.get(&record.key.uid))).collect();
            if !reports.is_empty() {
                self.session.say(Up::Pods(reports));
            }
        }
    }
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
