//! Taking inputs in: what each does to the contents, the session and the workers. Nothing is written or sent here.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::EphemeralContainer;

use super::judge::grace_period_secs;
use super::{Input, Roster};
use crate::agent::desired::Folder;
use crate::agent::eviction::Eviction;
use crate::agent::posted::Refusal;
use crate::agent::worker::{FromPod, PodView};
use crate::agent::{measure, objects, streams};
use crate::cri::labels::Owner;
use crate::error::Chain;
use crate::host::ledger::{AmendedMetadata, DaemonSetRecord, Ending, NodeIntent, PodRecord};
use crate::link::{
    Ack, Amendment, Ask, CommandId, Down, Entry, Needs, OpenTunnel, Outcome, PodAction, PodCommand, PodReport, Reason,
    Reception, Up, Welcome,
};
use crate::model::{Finished, Incumbent, Measure, ObjectKey, RevisionHash, SandboxId, Source, Uid, Usage};
use crate::plan::events::{self, PodEvent};
use crate::plan::finish;
use crate::podspec::Pod;

/// How long after a preparation failed the next one begins.
const PREPARE_RETRY: Duration = Duration::from_secs(60);
/// How long the containers of a pod get that is evicted (`immediateEvictionGracePeriodSeconds`).
const SENT_AWAY_GRACE: Duration = Duration::from_secs(1);

impl Roster {
    pub(super) fn take(&mut self, input: Input) {
        match input {
            Input::Folder(folder) => self.take_folder(folder),
            Input::Down(down) => self.take_down(*down),
            Input::Hello(hello_tx) => {
                self.contents.session += 1;
                self.contents.session_nonce = uuid::Uuid::new_v4().simple().to_string();
                self.dirty = true;
                self.hello_tx = Some(hello_tx);
            }
            Input::Disconnected(lost) => {
                self.link_lost = Some(lost.why);
                self.cut_off_since.get_or_insert(self.shared.clock.now());
                self.session.closed();
                self.desired.session_ended();
                self.posted.session_ended();
                self.objects.session_ended();
                self.tokens.session_ended();
                if self.removed && lost.refused {
                    self.part();
                }
            }
            Input::Pod(FromPod::Status(uid, view)) => {
                self.session.pod_changed(&uid);
                self.unseen.remove(&uid);
                self.note_end(&uid, &view);
                self.note_available(&uid, &view);
                self.views.insert(uid, *view);
            }
            Input::Pod(FromPod::Gone(uid)) => self.pod_is_gone(&uid),
            Input::Listed { found, over } => {
                if self.found.is_none() {
                    let unknown = found.iter().filter(|uid| !self.contents.pods.contains_key(*uid));
                    for uid in unknown.filter(|uid| !over.contains_key(*uid)) {
                        tracing::warn!(%uid, "a pod of this node is not in its ledger; it is left alone");
                    }
                    self.restaff = true;
                    self.found = Some(found);
                }
                self.restaff |= !Arc::ptr_eq(&self.host, &self.shared.host());
                self.clear_away(over);
            }
            Input::Prepared { daemonset, revision, outcome } => self.prepared(daemonset, revision, outcome),
            Input::Node(node) => {
                self.session.say(Up::Node(node.report.clone()));
                // Pods may have waited for what the runtime can do now, or for what the node was short of, or has more of.
                self.restaff |= !Arc::ptr_eq(&self.host, &self.shared.host());
                self.restaff |= self
                    .node
                    .as_ref()
                    .is_none_or(|known| known.features != node.features || known.pressure != node.pressure);
                self.node = Some(node);
            }
            Input::Evict(eviction) => self.evict(eviction),
            // Whoever asked may have gone.
            Input::NeededImages(needed_tx) => drop(needed_tx.send(self.needed_images())),
            Input::Measured(what, measured) => self.measured(what, &measured),
            Input::Event(event) => self.session.event(event),
            Input::ClockSet => {
                let clock = self.shared.clock;
                self.tokens.clock_set(&self.contents, clock.now(), clock.wall());
            }
            Input::Status(status_tx) => drop(status_tx.send(self.status())),
        }
    }

    /// Removes from the runtime what is left of pods that are not in the ledger, such as those of a disk that was newer. A pod's
    /// record is on disk before its sandbox is made and until that is gone, so nobody else looks after these.
    fn clear_away(&self, over: HashMap<Uid, Vec<SandboxId>>) {
        for (uid, sandboxes) in over.into_iter().filter(|(uid, _)| !self.contents.pods.contains_key(uid)) {
            tracing::info!(%uid, "what is left of a pod that is not in this node's ledger is removed");
            let runtime = self.shared.runtime.clone();
            tokio::spawn(async move {
                for sandbox in sandboxes {
                    // Stopping gives its network back, also after a reboot.
                    let removed = match runtime.stop_sandbox(&sandbox).await {
                        Ok(()) => runtime.remove_sandbox(&sandbox).await,
                        failed => failed,
                    };
                    if let Err(error) = removed {
                        tracing::warn!(%uid, error = %Chain(&error), "it is tried again when the runtime is next looked at");
                    }
                }
            });
        }
    }

    fn take_folder(&mut self, folder: Result<Folder, String>) {
        let taken = folder.and_then(|folder| {
            self.dirty = true;
            let mut mint = || Uid(uuid::Uuid::new_v4().to_string());
            let taken = self.desired.folder(&mut self.contents, &folder, &mut self.new_blobs, &mut mint);
            let objects = (&folder.objects[..], taken.is_ok());
            self.objects.folder(&mut self.contents, &self.desired, objects, &mut self.new_blobs);
            taken
        });
        if let Err(error) = taken {
            tracing::warn!(error, "the manifests hold: nothing is taken away until they can be read");
        }
    }

    fn take_down(&mut self, down: Down) {
        if is_intent(&down) && !self.session.takes_intent() {
            return;
        }
        match down {
            Down::Welcome(welcome) => self.welcome(welcome),
            Down::Manifest(manifest) => {
                self.session.manifest_came();
                self.desired.manifest(manifest);
                self.take_over();
                self.say_needs();
            }
            Down::Blob(chunk) => {
                self.desired.chunk(chunk.clone());
                self.posted.chunk(chunk.clone());
                self.objects.chunk(chunk);
                self.take_over_posted();
                self.take_over();
                self.take_over_objects(|_| {});
            }
            Down::Assigned(assigned) => {
                let is_there = |pod: &Entry| !self.session.is_gone(&pod.uid);
                self.posted.assigned(assigned.pods.into_iter().filter(is_there).collect());
                self.take_over_posted();
                self.take_over();
                self.take_over_objects(|roster| {
                    roster.objects.answers(&mut roster.contents, &roster.desired, assigned.objects);
                });
                if !self.objects.needs().is_empty() || !self.posted.needs(&self.desired).is_empty() {
                    self.say_needs();
                }
            }
            Down::Token { id, outcome } => {
                let (now, wall) = (self.shared.clock.now(), self.shared.clock.wall());
                let (contents, new_blobs) = (&mut self.contents, &mut self.new_blobs);
                self.dirty |= self.tokens.answer((id, outcome), contents, new_blobs, now, wall);
                self.unpublished = true;
            }
            Down::Answers(answers) => {
                self.desired.answers(&mut self.contents, answers.answers);
                self.dirty = true;
                self.after_commit.push(Up::Ack(Ack::Position(answers.position)));
            }
            Down::Node(change) => {
                let (labels, taints, unschedulable) = (change.labels, change.taints, change.unschedulable);
                let intent = NodeIntent { labels, taints, unschedulable };
                let changes = self.contents.node != intent;
                self.dirty |= changes;
                self.contents.node_ahead |= changes && !self.session.is_in_step();
                self.contents.node = intent;
            }
            Down::Permit(permit) => self.session.permit(permit),
            Down::Pod { id, command } => self.command(id, &command),
            Down::OpenTunnel { id, tunnel } => self.open_tunnel(id, &tunnel),
            Down::CloseTunnel(id) => {
                if let Some(tunnels) = &self.tunnels {
                    tunnels.close(id);
                }
            }
            Down::Measure { id, what } => self.measure(id, what),
            Down::Removed { id, .. } => self.removed(id),
            Down::Recount => self.session.say(Up::Holdings(Box::new(self.holdings()))),
            Down::Recall(hash) => self.recall(&hash).into_iter().for_each(|chunk| self.session.say(Up::Blob(chunk))),
            Down::Wanted(pods) => pods.iter().for_each(|pod| self.session.pod_changed(pod)),
            Down::KeepAlive => {}
        }
    }

    fn welcome(&mut self, welcome: Welcome) {
        match &welcome.reception {
            Reception::Accepted => tracing::info!(fleet = %welcome.fleet, "control welcomes this node"),
            Reception::AdoptOnly(why) => tracing::warn!(why, "nothing is updated until this node is in step again"),
            Reception::Hold { message, .. } => {
                tracing::warn!(why = message, "on hold: what runs goes on, nothing new is taken");
            }
        }
        (self.link_lost, self.cut_off_since) = (None, None);
        self.session.opened(welcome.reception);
        if let Some(node) = &self.node {
            self.session.say(Up::Node(node.report.clone()));
        }
    }

    /// Takes over what has arrived of the manifest. A DaemonSet that is new waits for what this node is told of single pods: if one
    /// of them is its by now, it must not have another.
    fn take_over(&mut self) {
        let takes_new = !self.posted.is_waiting();
        let taken = self.desired.take(&mut self.contents, &mut self.new_blobs, takes_new);
        self.dirty |= taken.changed;
        if let Some(position) = taken.whole {
            self.session.came_into_step();
            self.dirty |= std::mem::take(&mut self.contents.node_ahead);
            self.after_commit.push(Up::Ack(Ack::Position(position)));
        }
    }

    /// Takes over the posted pods whose bundle is here.
    fn take_over_posted(&mut self) {
        let (mut changed, blobs) = (Vec::new(), self.new_blobs.len());
        let refusals = self.posted.take(&mut self.contents, &mut self.desired, &mut self.new_blobs, &mut changed);
        self.dirty |= !changed.is_empty() || self.new_blobs.len() > blobs;
        changed.iter().for_each(|uid| self.session.pod_changed(uid));
        for Refusal { key, uid, reasons } in refusals {
            let message = super::join(&reasons);
            tracing::warn!(pod = %key, message, "a posted pod cannot be realized");
            let event = PodEvent { warning: true, reason: "Refused", message, field_path: String::new() };
            self.session.event(self.shared.event_report("Pod", &key, &uid, event));
        }
    }

    /// Takes in what was said of objects, and takes over those whose content is here.
    fn take_over_objects(&mut self, take_in: impl FnOnce(&mut Self)) {
        let before = (self.contents.objects.clone(), self.contents.withheld.clone(), self.new_blobs.len());
        take_in(self);
        self.objects.take(&mut self.contents, &self.desired, &mut self.new_blobs);
        let (objects, withheld, blobs) = before;
        self.dirty |= objects != self.contents.objects || withheld != self.contents.withheld;
        self.dirty |= self.new_blobs.len() > blobs;
    }

    /// Asks for all that is missing.
    pub(super) fn say_needs(&mut self) {
        let blobs = self
            .desired
            .needs(&self.contents)
            .into_iter()
            .chain(self.posted.needs(&self.desired))
            .chain(self.objects.needs());
        let blobs: Vec<_> = blobs.collect();
        let objects = objects::needed(&self.contents, &self.desired, &self.staying);
        let objects: BTreeSet<_> = objects.iter().map(objects::reference).collect();
        if !blobs.is_empty() || !self.session.has_asked_for(&objects) {
            self.session.needs(Needs { blobs, objects: objects.into_iter().collect() });
        }
    }

    /// A command about one pod. It is acknowledged once it is on disk; the pod's last report says when it is gone.
    fn command(&mut self, id: CommandId, command: &PodCommand) {
        let outcome = match &command.action {
            PodAction::Delete { grace_period_secs, .. } => self.end_pod(&command.uid, *grace_period_secs),
            PodAction::Fail { .. } => self.end_pod(&command.uid, 0),
            PodAction::Amend(amendment) => self.amend_pod(&command.uid, amendment),
        };
        self.dirty = true;
        self.after_commit.push(Up::Ack(Ack::Command { id, outcome }));
    }

    pub(super) fn end_pod(&mut self, uid: &Uid, grace_period_secs: u32) -> Outcome {
        self.posted.forget(uid);
        if let Some(record) = self.contents.pods.get_mut(uid) {
            end(record, self.shared.clock.wall(), grace_period_secs);
            self.session.pod_changed(uid);
        } else {
            // It is gone already; its last report may have been lost with the session before.
            tracing::debug!(pod = %uid, "told to end a pod that is not here");
        }
        Outcome::Done
    }

    /// Takes over what users changed of a pod. Its worker gets it once it is on disk.
    fn amend_pod(&mut self, uid: &Uid, amendment: &Amendment) -> Outcome {
        let Some(record) = self.contents.pods.get_mut(uid) else { return Outcome::Done };
        let added = amendment.ephemeral_containers.iter().map(|json| serde_json::from_slice(json)).collect();
        let added: Vec<EphemeralContainer> = match added {
            Ok(added) => added,
            Err(error) => return Outcome::Failed(format!("an ephemeral container cannot be read: {error}")),
        };
        let (labels, annotations) = (amendment.labels.clone(), amendment.annotations.clone());
        record.amended = Some(AmendedMetadata { labels, annotations });
        record.ephemeral_containers = added;
        Outcome::Done
    }

    fn open_tunnel(&mut self, id: CommandId, asked: &OpenTunnel) {
        let Some(tunnels) = &self.tunnels else { return };
        let worker = self.workers.get(&asked.pod);
        let found = worker.map(|worker| streams::Found { worker, view: self.views.get(&asked.pod) });
        if let Err(too_many) = streams::open(&self.shared, tunnels, id, asked, found) {
            self.session.say(Up::Ack(Ack::Command { id, outcome: Outcome::Failed(too_many.to_string()) }));
        }
    }

    /// Says how much is taken, as soon as it is measured.
    fn measure(&mut self, id: CommandId, what: Measure) {
        if self.measures.ask(what, id) {
            let (shared, inputs_tx) = (self.shared.clone(), self.inputs_tx.clone());
            let owner = Owner { fleet: self.identity.fleet.clone(), node: self.identity.uid.clone() };
            tokio::spawn(async move {
                let measured = measure::measure(&shared, &owner, what).await;
                // Without a roster nobody is told.
                let _ = inputs_tx.send(Input::Measured(what, measured)).await;
            });
        }
    }

    fn measured(&mut self, what: Measure, measured: &Result<Usage, String>) {
        for id in self.measures.done(what) {
            self.session.say(match measured.clone() {
                Ok(usage) => Up::Usage { id, usage },
                Err(why) => Up::Ack(Ack::Command { id, outcome: Outcome::Failed(why) }),
            });
        }
    }

    /// The Node was removed: everything learnt from control ends, and then its credentials go. Files stay in force.
    fn removed(&mut self, id: CommandId) {
        tracing::warn!("this node was removed from its fleet; its daemons end");
        let linked = self.contents.daemonsets.values_mut().filter(|set| set.source == Source::Link);
        linked.for_each(|set| set.deleted = true);
        self.posted.session_ended();
        (self.removed, self.contents.removed) = (true, true);
        // Those that are of no DaemonSet here, too.
        let daemonsets = &self.contents.daemonsets;
        let is_single = |record: &&mut PodRecord| {
            record.daemonset.as_ref().is_none_or(|daemonset| !daemonsets.contains_key(daemonset))
        };
        for record in self.contents.pods.values_mut().filter(is_single) {
            let bundle = self.desired.bundle(&record.revision.bundle);
            end(record, self.shared.clock.wall(), grace_period_secs(bundle));
            self.session.pod_changed(&record.key.uid);
        }
        self.dirty = true;
        self.after_commit.push(Up::Ack(Ack::Command { id, outcome: Outcome::Done }));
    }

    /// A pod that has come to its end by itself stays so, whatever becomes of its traces.
    fn note_end(&mut self, uid: &Uid, view: &PodView) {
        let record = self.contents.pods.get_mut(uid).filter(|record| record.finished != view.finished);
        if let (Some(record), Some(finished)) = (record, &view.finished) {
            tracing::info!(pod = %record.key, ?finished, "pod has come to its end");
            record.finished = Some(finished.clone());
            self.dirty = true;
        }
    }

    /// A permitted revision that was available here once is not left again.
    fn note_available(&mut self, uid: &Uid, view: &PodView) {
        let Some(record) = self.contents.pods.get(uid).filter(|_| view.available) else { return };
        let set = record.daemonset.as_ref().and_then(|set| self.contents.daemonsets.get_mut(set));
        let is_permitted =
            |set: &DaemonSetRecord| set.permitted.as_ref().is_some_and(|one| one.hash == record.revision.hash);
        if let Some(set) = set.filter(|set| is_permitted(set)) {
            self.dirty |= set.before.take().is_some();
        }
    }

    /// A pod has to go: it took too much, or the node is short of something.
    fn evict(&mut self, eviction: Eviction) {
        let Eviction { pod, message, shortage } = eviction;
        let finished = finish::evicted(message.clone(), shortage.is_some());
        let is_sent_away = self.send_away(&pod, (finished, SENT_AWAY_GRACE), events::evicted(message));
        if let Some(resource) = shortage.filter(|_| is_sent_away) {
            let node = ObjectKey::new("", self.identity.name.as_str());
            self.session.event(self.shared.event_report("Node", &node, &self.identity.uid, events::short_of(resource)));
        }
    }

    /// The images of the pods here and of every revision this node may have a pod of.
    fn needed_images(&self) -> BTreeSet<String> {
        let bundles = self.contents.bundles();
        let revisions = bundles.iter().filter_map(|hash| self.shared.sample(self.desired.bundle(hash)?).ok());
        let pods = self.workers.values().map(|worker| worker.pod.clone());
        let mut needed = BTreeSet::new();
        for pod in revisions.map(Arc::new).chain(pods) {
            let uses = (0..pod.containers.len()).flat_map(|container| pod.images(container));
            needed.extend(uses.filter_map(|image| pod.image(image).reference.ok().map(str::to_owned)));
        }
        needed
    }

    /// A pod makes way for another, which may take its whole grace period.
    pub(super) fn preempt(&mut self, pod: &Uid, by: &Pod) {
        let Some(worker) = self.workers.get(pod) else { return };
        let (message, grace) = (finish::preempted_by(by, &self.identity.name), worker.pod.grace_period);
        self.send_away(pod, (finish::preempted(message.clone()), grace), events::preempted(message));
    }

    /// Ends a pod for its node's sake, or its own; false if it has come to its end, or is about to.
    fn send_away(&mut self, uid: &Uid, end: (Finished, Duration), event: PodEvent) -> bool {
        let record = self.contents.pods.get(uid).filter(|_| !self.evicted.contains_key(uid));
        let record = record.filter(|record| record.ending.is_none() && record.finished.is_none());
        let Some(record) = record else { return false };
        tracing::warn!(pod = %record.key, why = event.message, "pod is sent away");
        let pod = ObjectKey::new(&record.key.namespace, &record.key.name);
        self.session.event(self.shared.event_report("Pod", &pod, uid, event));
        self.evicted.insert(uid.clone(), end);
        self.restaff = true;
        true
    }

    /// Nothing is left of a pod: its record goes, and its DaemonSet may have another.
    fn pod_is_gone(&mut self, uid: &Uid) {
        self.workers.remove(uid);
        self.evicted.remove(uid);
        self.saved.remove(uid);
        self.unseen.remove(uid);
        let view = self.views.remove(uid);
        if let Some(record) = self.contents.pods.remove(uid) {
            tracing::info!(pod = %record.key, "pod is gone");
            self.posted.forget(uid);
            self.session.pod_gone(uid);
            let report = PodReport { gone: true, ..super::report::pod_report(&record, view.as_ref()) };
            self.after_commit.push(Up::Pods(vec![report]));
            self.dirty = true;
        }
        self.restaff = true;
    }

    fn prepared(&mut self, daemonset: Uid, revision: RevisionHash, outcome: Result<(), Reason>) {
        let retry_at = self.shared.clock.now() + PREPARE_RETRY;
        let current = self.preparations.get_mut(&daemonset).filter(|current| current.revision == revision);
        // What was overtaken in the meantime matters to nobody.
        let Some(preparation) = current else { return };
        preparation.retry_at = outcome.is_err().then_some(retry_at);
        preparation.outcome = Some(outcome.clone());
        if let Err(reason) = outcome {
            tracing::warn!(%daemonset, %revision, reason = reason.message, "the newer revision would not work here");
            self.session.ask(Ask { daemonset, revision, prepared: Err(reason), incumbent: Incumbent::None });
        }
    }
}

/// Whether a message says what should be true, so that a node on hold must not take it.
fn is_intent(down: &Down) -> bool {
    matches!(
        down,
        Down::Manifest(_)
            | Down::Blob(_)
            | Down::Answers(_)
            | Down::Node(_)
            | Down::Permit(_)
            | Down::Pod { .. }
            | Down::Removed { .. }
            | Down::Assigned(_)
    )
}

/// Marks a pod as ending from `since` on. A shorter grace period than before holds, a longer one does not.
pub(super) fn end(record: &mut PodRecord, since: Timestamp, grace_period_secs: u32) {
    match &mut record.ending {
        Some(ending) => ending.grace_period_secs = ending.grace_period_secs.min(grace_period_secs),
        ending => *ending = Some(Ending { since, grace_period_secs }),
    }
}
