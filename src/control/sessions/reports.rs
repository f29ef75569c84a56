//! What a node says, written into API objects.
//!
//! A node writes only what concerns itself: its own Node, pods that are its own, events about these. What does not
//! concern it is dropped and logged.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{NodeStatus, PodStatus, PodTemplateSpec};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::admission::as_admitted;
use super::roster::{Footing, KnownPod};
use super::session::{Session, SessionEnd, footing};
use super::{Shared, pods};
use crate::api::bundle::Bundle;
use crate::api::revision::REVISION_LABEL;
use crate::control::events;
use crate::control::kinds::{CONTROLLER_REVISION, NAMESPACE, NODE, POD};
use crate::control::meta;
use crate::control::nodes;
use crate::control::objects::{ObjectError, Objects};
use crate::control::updates::FromNode;
use crate::link::{
    Ack, Ask, CommandId, EventReport, Hello, HoldReason, NodeReport, Outcome, PodReport, Reason, Reception, Standing,
    Up, Verdict,
};
use crate::model::{NodeName, RevisionHash, Uid};

impl Session {
    /// Takes one message.
    pub(super) async fn take(&self, up: Up) -> Result<(), SessionEnd> {
        let reports =
            !matches!(self.reception, Reception::Hold { reason: HoldReason::Clone | HoldReason::OtherFleet, .. });
        match up {
            Up::Ack(ack) => self.acknowledged(ack).await?,
            Up::Hello(_) | Up::KeepAlive | Up::Needs(_) | Up::TokenRequest(_) => {}
            // Nobody asked: this node is on record.
            Up::Holdings(_) | Up::Blob(_) => {}
            Up::Usage { id, usage } => self.shared.measures.answered(&self.node, id, Ok(usage)),
            // Which of two hosts, or whose fleet's pods: nobody can say.
            _ if !reports => {}
            Up::Node(report) => self.node_report(&report).await?,
            Up::Pods(reports) => {
                for report in reports {
                    self.pod_report(&report).await?;
                }
            }
            Up::Events(reports) => {
                for report in &reports {
                    self.event(report).await?;
                }
            }
            Up::Verdicts(verdicts) => {
                for verdict in &verdicts {
                    self.verdict(verdict).await?;
                }
            }
            Up::Ask(ask) => self.ask(ask).await?,
        }
        Ok(())
    }

    async fn node_report(&self, report: &NodeReport) -> Result<(), ObjectError> {
        let Some(status) = checked::<NodeStatus>(&report.status, &self.name, "NodeStatus") else { return Ok(()) };
        let now = Timestamp::now();
        let change = |node: &Value| Some(nodes::reported(node, report, status.clone(), now));
        change_node(&self.objects, &self.node, &self.name, change).await?;
        self.shared.roster.reported(&self.node);
        Ok(())
    }

    async fn pod_report(&self, report: &PodReport) -> Result<(), ObjectError> {
        let shared = &self.shared;
        let (key, uid) = (&report.key, &report.key.uid);
        if (report.gone || report.ending.is_some()) && shared.desired().pods.is_single(&self.name, uid) {
            shared.roster.leaves(&self.node, uid);
        }
        if report.gone {
            return self.pod_is_gone(uid).await;
        }
        // The Node is gone and its pods with it; the agent is about to hear of it.
        if !shared.roster.knows(&self.node) {
            return Ok(());
        }
        let Some(status) = checked::<PodStatus>(&report.status, &self.name, "PodStatus") else { return Ok(()) };
        // A pod in the API keeps the spec it has; the revision is looked up only for one that is not.
        let known = shared.roster.pod(&self.node, uid);
        let is_known = known.is_some() && found(self.objects.get(&POD, &key.namespace, &key.name).await)?.is_some();
        let bundle = if is_known { None } else { shared.revision(report).await? };
        let own = |pod: &Value| meta::uid(pod) == uid.as_str() && pod["spec"]["nodeName"] == self.name.as_str();
        let change = |current: Option<&Value>| match current {
            Some(pod) => own(pod).then(|| pods::updated(pod, report, status.clone())),
            None => bundle.as_ref().map(|bundle| pods::rendered(report, bundle, &self.name, status.clone())),
        };
        if let Some(known) = &known {
            // What the API says is not known until this is written: the session may end before.
            shared.roster.put_pod(&self.node, uid, KnownPod { digest: None, ..known.clone() });
        }
        match self.objects.report(&POD, &key.namespace, &key.name, change).await {
            Ok(Some(pod)) if own(&pod) => {
                let known = known.unwrap_or_else(|| KnownPod::of(&pod));
                let (digest, daemonset) = (Some(report.digest()), meta::controller(&pod));
                shared.roster.put_pod(&self.node, uid, KnownPod { digest, daemonset, ..known });
            }
            Ok(Some(_)) => tracing::warn!(node = %self.name, pod = %key, "a node reports a pod that is not its own"),
            // It goes the way of all its kind, and is told so once more.
            Ok(None) if shared.desired().tombstones.contains_key(uid) => {}
            Ok(None) => {
                let revision = &report.revision;
                tracing::warn!(node = %self.name, pod = %key, %revision, "nothing is known of a pod's revision");
            }
            // The node is told to end it as long as the deletion is on record.
            Err(ObjectError::Deleted { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn event(&self, report: &EventReport) -> Result<(), ObjectError> {
        if self.concerns_this_node(report).await? {
            events::write(&self.objects, &events::reported(report, &self.name)).await
        } else {
            let (kind, name) = (&report.kind, &report.name);
            tracing::warn!(node = %self.name, kind, name, "a node reports an event that is not its own");
            Ok(())
        }
    }

    async fn concerns_this_node(&self, report: &EventReport) -> Result<bool, ObjectError> {
        let objects = &self.objects;
        Ok(match report.kind.as_str() {
            "Node" => report.name == self.name.as_str() && report.namespace.is_empty(),
            "DaemonSet" => {
                self.shared.desired().newest(&report.uid).is_some_and(|bundle| bundle.key().name == report.name)
            }
            "Pod" => match found(objects.get(&POD, &report.namespace, &report.name).await)? {
                Some(pod) => pod["spec"]["nodeName"] == self.name.as_str(),
                // Its first report is yet to come.
                None => found(objects.get(&NAMESPACE, "", &report.namespace).await)?.is_some(),
            },
            _ => false,
        })
    }

    /// Only what is against a revision has to be said: that a pod does not belong on a node is no trouble.
    async fn verdict(&self, verdict: &Verdict) -> Result<(), ObjectError> {
        if !verdict.rejected.is_empty() {
            let (node, daemonset) = (self.node.clone(), verdict.daemonset.clone());
            let told = FromNode::Rejected { node, daemonset, revisions: verdict.rejected.clone() };
            self.shared.tell_updates(told).await;
        }
        match verdict.reasons.first().filter(|_| verdict.standing == Standing::Refused) {
            Some(reason) => self.unable(&verdict.daemonset, &verdict.revision, reason).await,
            None => Ok(()),
        }
    }

    async fn ask(&self, ask: Ask) -> Result<(), ObjectError> {
        match ask.prepared {
            Err(reason) => self.unable(&ask.daemonset, &ask.revision, &reason).await,
            Ok(()) if footing(&self.reception) == Footing::InStep => {
                let Ask { daemonset, revision, incumbent, .. } = ask;
                let told = FromNode::Asked { node: self.node.clone(), daemonset, revision, incumbent };
                self.shared.tell_updates(told).await;
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// A revision of a DaemonSet does not come about on this node, which is said on the DaemonSet.
    async fn unable(&self, daemonset: &Uid, revision: &RevisionHash, reason: &Reason) -> Result<(), ObjectError> {
        let told = FromNode::Unable {
            node: self.node.clone(),
            daemonset: daemonset.clone(),
            revision: revision.clone(),
            reason: reason.clone(),
        };
        self.shared.tell_updates(told).await;
        let desired = self.shared.desired();
        let Some(bundle) = desired.newest(daemonset) else { return Ok(()) };
        let event = events::daemonset_refused(&bundle.key(), daemonset, &self.name, reason, Timestamp::now());
        events::write(&self.objects, &event).await
    }

    async fn acknowledged(&self, ack: Ack) -> Result<(), SessionEnd> {
        match ack {
            Ack::Position(position) => self.shared.roster.confirmed(&self.node, position),
            Ack::Taken(permit) => {
                tracing::debug!(node = %self.name, permit = permit.0, "a permit was taken");
                self.shared.tell_updates(FromNode::Took { permit }).await;
            }
            Ack::Declined(permit) => {
                tracing::debug!(node = %self.name, permit = permit.0, "a permit was declined");
                self.shared.tell_updates(FromNode::Declined { node: self.node.clone(), permit }).await;
            }
            Ack::Command { id, outcome: Outcome::Done } => {
                if self.shared.desired().removal(&self.node).is_some_and(|removal| CommandId(removal.seq) == id) {
                    self.shared.objects.forget_member(&self.node).await?;
                    self.shared.objects.acknowledge(&self.node).await?;
                    return Err(SessionEnd::Removed);
                }
            }
            Ack::Command { id, outcome: Outcome::Unsupported(why) | Outcome::Failed(why) } => {
                tracing::warn!(node = %self.name, command = id.0, why, "a node did not do what it was told");
                self.shared.tunnels.refused(&self.node, id, why.clone());
                self.shared.measures.answered(&self.node, id, Err(why));
            }
        }
        Ok(())
    }

    /// Removes the pods, of those that were known before, that the node's hello does not name: their last reports were lost with a
    /// connection. So it does with those that are to end and that it never took on, or that are gone but for their deletion's record.
    pub(super) async fn drop_pods_not_held(
        &self,
        hello: &Hello,
        mut known: HashMap<Uid, KnownPod>,
    ) -> Result<(), ObjectError> {
        hello.pods.iter().for_each(|held| drop(known.remove(&held.uid)));
        let desired = self.shared.desired();
        // One that was posted and is not to end was never taken on; one that was let go has a right to be there.
        let leaving = self.leaving(&desired);
        known.retain(|uid, _| leaving.contains(uid) || !desired.pods.is_owed(&self.name, uid));
        for (uid, pod) in known {
            self.objects.remove(&POD, &pod.key.namespace, &pod.key.name, &uid).await?;
            self.shared.roster.remove_pod(&self.node, &uid);
        }
        for deletion in desired.ending.get(&self.name).into_iter().flatten() {
            if hello.pods.iter().all(|held| held.uid != deletion.uid) {
                self.objects.remove(&POD, &deletion.namespace, &deletion.name, &deletion.uid).await?;
            }
        }
        Ok(())
    }

    /// Takes a pod away on its node's word.
    async fn pod_is_gone(&self, pod: &Uid) -> Result<(), ObjectError> {
        let (roster, desired) = (&self.shared.roster, self.shared.desired());
        if let Some(known) = roster.pod(&self.node, pod) {
            self.objects.remove(&POD, &known.key.namespace, &known.key.name, pod).await?;
            roster.remove_pod(&self.node, pod);
        } else if let Some(deletion) = desired.ending.get(&self.name).into_iter().flatten().find(|one| one.uid == *pod)
        {
            self.objects.remove(&POD, &deletion.namespace, &deletion.name, pod).await?;
        }
        Ok(())
    }
}

impl Shared {
    /// The revision a pod was made from: at hand, or from the DaemonSet's history.
    async fn revision(&self, report: &PodReport) -> Result<Option<Arc<Bundle>>, ObjectError> {
        let desired = self.desired();
        let Some(newest) = report.daemonset.as_ref().and_then(|uid| desired.newest(uid)) else { return Ok(None) };
        if newest.namespace != report.key.namespace {
            return Ok(None);
        }
        if let Some(bundle) = desired.bundle(&newest.uid, &report.revision) {
            return Ok(Some(bundle.clone()));
        }
        let name = format!("{}-{}", newest.name, report.revision);
        let record = found(self.objects.get(&CONTROLLER_REVISION, &newest.namespace, &name).await)?;
        let owned = record.filter(|record| meta::owner_uids(record).any(|uid| uid == newest.uid.as_str()));
        let Some(written) = owned.and_then(|record| from_history(&record, newest)) else { return Ok(None) };
        let admitted = self.objects.admitted_revision(&newest.uid, &report.revision).await?;
        Ok(Some(Arc::new(match admitted {
            Some(admitted) => as_admitted(written, admitted),
            None => written,
        })))
    }
}

/// Changes a Node unless it was removed, or another one has its name by now.
pub(super) async fn change_node(
    objects: &Objects,
    uid: &Uid,
    name: &NodeName,
    change: impl Fn(&Value) -> Option<Value>,
) -> Result<(), ObjectError> {
    let of_this = |node: &&Value| meta::uid(node) == uid.as_str();
    objects.report(&NODE, "", name.as_str(), |node| change(node.filter(of_this)?)).await.map(drop)
}

/// Says on the Node what control has to say of it: each condition by reason and words, or not at all.
pub(super) async fn write_conditions(
    objects: &Objects,
    uid: &Uid,
    name: &NodeName,
    conditions: &[(&str, Option<(String, String)>)],
) -> Result<(), ObjectError> {
    let now = Timestamp::now();
    let change = |node: &Value| {
        let with = |node, (kind, said): &(&str, _)| nodes::with_condition(node, kind, Option::as_ref(said), now);
        Some(conditions.iter().fold(node.clone(), with))
    };
    change_node(objects, uid, name, change).await
}

/// A revision as its DaemonSet's history has it. Its template generation is not on record; the record's number, which
/// is the same unless somebody rolled back, stands for it.
fn from_history(record: &Value, newest: &Bundle) -> Option<Bundle> {
    let mut template = record["data"]["spec"]["template"].clone();
    template.as_object_mut()?.remove("$patch");
    let template = PodTemplateSpec::deserialize(template).ok()?;
    let revision = record["metadata"]["labels"][REVISION_LABEL].as_str()?.into();
    let template_generation = record["revision"].as_i64()?;
    Some(Bundle { revision, template, template_generation, ..newest.clone() })
}

/// The JSON of a status, if it is of its Kubernetes type; fields that only the node knows are kept.
fn checked<T: DeserializeOwned>(json: &[u8], node: &NodeName, what: &str) -> Option<Value> {
    let parsed = serde_json::from_slice::<T>(json).and_then(|_| serde_json::from_slice(json));
    parsed.inspect_err(|error| tracing::warn!(%node, %error, "a report holds no {what}")).ok()
}

/// Nothing, where an object is not there.
pub(super) fn found(result: Result<Value, ObjectError>) -> Result<Option<Value>, ObjectError> {
    match result {
        Ok(object) => Ok(Some(object)),
        Err(ObjectError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
