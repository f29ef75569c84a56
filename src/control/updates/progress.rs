//! One DaemonSet's rollout, from what is known of nodes: their objects, their permits, their sessions.
//!
//! Pure. It joins what the other parts of `updates` hold into what [`crate::rollout`] decides by, and says the outcome in the
//! forms that the API has for it.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::{Deserialize, Serialize};

use super::told::{Said, Told};
use super::view::{Node, Set, View};
use super::{Permits, status};
use crate::api::daemonset::leading_number;
use crate::eligibility::{BadSelector, Reason, Verdict};
use crate::model::{Incumbent, NodeName, RevisionHash, Uid};
use crate::rollout::causes::{self, Cause, Known, Phase};
use crate::rollout::{self, Budget, Share, Usage};

/// The condition of a DaemonSet that says how its rollout is. Upstream writes no conditions.
const PROGRESSING: &str = "Progressing";
/// Taints for conditions of a node that say nothing of what its user wants.
const CONDITION_TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

/// How long first pods elsewhere wait for one that is not available yet: it may never be, or only together with others.
pub(super) const PATIENCE: SignedDuration = SignedDuration::from_secs(30);

/// How long a node that took a revision may be without an available pod before that counts as a failure. The default of a
/// Deployment's `progressDeadlineSeconds`.
const DEADLINE: SignedDuration = SignedDuration::from_secs(600);
/// What is said of a node that is beyond it.
const LATE: &str = "the pod has not become ready for ten minutes";

/// One node as the rollout of a DaemonSet sees it.
pub(super) struct Seat<'a> {
    pub(super) node: &'a Node,
    pub(super) counts: rollout::Node,
    verdict: Result<Verdict, BadSelector>,
    newest: &'a RevisionHash,
    said: Option<&'a Said>,
    taken: bool,
    /// When it is beyond its deadline, if nothing changes.
    pub(super) late_at: Option<Timestamp>,
    trouble: Option<&'a str>,
    waits_for_user: bool,
}

/// How far the newest revision of a DaemonSet has come, node by node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// The newest revision.
    pub revision: RevisionHash,
    /// `RollingOut`, `Stalled` or `Complete`.
    pub phase: String,
    /// The same in one line, with what stops it.
    pub message: String,
    /// Nodes that may be without an available pod at once, or with two while it surges.
    pub budget: usize,
    /// Nodes of the budget that are used now.
    pub used: usize,
    /// The nodes by their causes; they add up to the number of nodes.
    pub causes: BTreeMap<String, usize>,
    /// Every node: those that keep others waiting first, then by name.
    pub nodes: Vec<Row>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// `metadata.name` of the Node.
    pub node: NodeName,
    /// Where it is.
    pub cause: String,
    /// Why, for people; may be empty.
    pub message: String,
}

/// What a rollout has come to, and how it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) phase: Phase,
    pub(super) message: String,
}

/// Every node, in the order of their names.
pub(super) fn survey<'a>(
    view: &'a View,
    uid: &Uid,
    set: &'a Set,
    told: &'a Told,
    permits: &Permits,
    now: Timestamp,
) -> Vec<Seat<'a>> {
    let min_ready = set.min_ready();
    let on_delete = is_on_delete(set);
    let seat = |node: &'a Node| {
        let said = told.of(&node.uid, uid);
        let permit = permits.get(&(uid.clone(), node.uid.clone())).filter(|permit| permit.revision == set.revision);
        let pods = || view.pods(uid, node.name.as_str()).iter().filter(|pod| !pod.over);
        let pod = pods().next();
        let verdict = set.judge(node);
        let newest = pod.is_some_and(|pod| pod.revision == set.revision);
        let asks = said.and_then(|said| said.asks_for(&set.revision));
        // A pod may be there that control has not heard of, or takes for nobody's by now.
        let has_one = pod.is_some() || asks.is_some_and(|incumbent| incumbent != Incumbent::None);
        let new_pods = || pods().filter(|pod| pod.revision == set.revision);
        let granted_at = permit.and_then(|permit| told.granted_at(permit.number));
        let taken = permit.is_some_and(|permit| told.has_taken(permit.number));
        // Without a new pod it is the one before that does not end, or the new one cannot be made.
        let waits_since = new_pods().next().map_or(granted_at.filter(|_| taken), |pod| pod.unready_since);
        let late_at = waits_since.and_then(|since| since.checked_add(DEADLINE).ok());
        let late = late_at.filter(|late| *late <= now).map(|_| LATE);
        let trouble = new_pods().find_map(|pod| pod.trouble.as_deref()).or(late);
        Seat {
            node,
            counts: rollout::Node {
                connected: told.is_connected(&node.uid),
                desired: verdict.as_ref().is_ok_and(|verdict| verdict.runs),
                permitted: permit.is_some(),
                asks,
                vacant: !has_one,
                stuck: trouble.is_some() || granted_at.is_none_or(|at| now.duration_since(at) >= PATIENCE),
                newest,
                available: pod.and_then(|pod| status::available_at(pod, min_ready)).is_some_and(|at| at <= now),
            },
            verdict,
            newest: &set.revision,
            said,
            taken,
            late_at,
            trouble,
            waits_for_user: on_delete && pod.is_some() && !newest,
        }
    };
    view.nodes().map(seat).collect()
}

fn is_on_delete(set: &Set) -> bool {
    let strategy = set.object.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    strategy.is_some_and(|strategy| strategy.type_.as_deref() == Some("OnDelete"))
}

impl Seat<'_> {
    /// Whether the user wants the DaemonSet here, whatever the node's conditions are.
    pub(super) fn belongs(&self) -> bool {
        let by_condition =
            |reason: &Reason| matches!(reason, Reason::Taint(taint) if CONDITION_TAINTS.contains(&taint.key.as_str()));
        self.verdict.as_ref().is_ok_and(|verdict| verdict.reasons.iter().all(by_condition))
    }

    /// Whether it asks for its first pod.
    pub(super) fn waits_to_begin(&self) -> bool {
        self.counts.vacant && self.counts.asks.is_some() && !self.counts.permitted
    }

    fn known<'a>(&'a self, against: &'a str) -> Known<'a> {
        let unable = self.said.and_then(|said| said.unable.as_ref());
        Known {
            node: self.counts,
            belongs: self.belongs(),
            against,
            held: self.node.held.as_deref(),
            taken: self.taken,
            rejected: self.said.is_some_and(|said| said.rejected.contains(self.newest)),
            unable: unable.filter(|(revision, _)| revision == self.newest).map(|(_, why)| why.as_str()),
            trouble: self.trouble,
            waits_for_user: self.waits_for_user,
        }
    }

    fn cause(&self) -> Cause {
        Cause::of(&self.known(""))
    }

    fn explain(&self) -> String {
        let against = match &self.verdict {
            Ok(verdict) => verdict.reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
            Err(error) => error.to_string(),
        };
        self.cause().explain(&self.known(&against))
    }
}

/// A permit that is to be written down.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Granted {
    /// `metadata.uid` of the Node.
    pub(super) node: Uid,
    /// It holds only where no pod that is available would make way.
    pub(super) if_unavailable: bool,
}

/// The permits that are granted now. From here on their nodes count as permitted.
pub(super) fn granted(seats: &mut [Seat<'_>], budget: Budget) -> Vec<Granted> {
    let mut wanted: Vec<_> = seats.iter_mut().filter(|seat| seat.belongs()).collect();
    let counts: Vec<_> = wanted.iter().map(|seat| seat.counts).collect();
    let grant = |index: usize| {
        wanted[index].counts.permitted = true;
        Granted { node: wanted[index].node.uid.clone(), if_unavailable: !counts[index].is_up() }
    };
    rollout::grant(budget, &counts).into_iter().map(grant).collect()
}

fn usage(seats: &[Seat<'_>], budget: Budget) -> Usage {
    let counts: Vec<_> = seats.iter().filter(|seat| seat.belongs()).map(|seat| seat.counts).collect();
    Usage::of(budget, &counts)
}

/// The budget the user set: `maxSurge` if it is more than nothing, or else `maxUnavailable`.
pub(super) fn budget(set: &DaemonSet) -> Budget {
    let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    let update = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    match update.and_then(|update| update.max_surge.as_ref()).filter(|surge| leading_number(surge) != 0) {
        Some(surge) => Budget::Surge(share(surge)),
        None => Budget::Unavailable(
            update.and_then(|update| update.max_unavailable.as_ref()).map_or(Share::Nodes(1), share),
        ),
    }
}

/// A value that was validated is a share; anything else counts as the default, one node.
fn share(written: &IntOrString) -> Share {
    match written {
        IntOrString::Int(nodes) => Share::Nodes(u32::try_from(*nodes).unwrap_or(1)),
        IntOrString::String(percent) => percent.trim_end_matches('%').parse().map_or(Share::Nodes(1), Share::Percent),
    }
}

/// What a rollout has come to. `was_complete` says that this revision was complete before.
pub(super) fn progress(set: &Set, seats: &[Seat<'_>], budget: Budget, was_complete: bool) -> Progress {
    let usage = usage(seats, budget);
    let causes: Vec<_> = seats.iter().map(Seat::cause).collect();
    let phase = Phase::of(&causes, &usage, was_complete);
    let why = |index: usize| (seats[index].node.name.0.clone(), seats[index].explain());
    let message = causes::summary(phase, set.revision.as_str(), &causes, &usage, &why);
    Progress { phase, message }
}

/// A rollout as the API shows it.
pub(super) fn rollout(set: &Set, seats: &[Seat<'_>], budget: Budget, was_complete: bool) -> Rollout {
    let usage = usage(seats, budget);
    let Progress { phase, message } = progress(set, seats, budget, was_complete);
    let mut nodes: Vec<_> = seats.iter().map(|seat| (seat.cause(), seat)).collect();
    nodes.sort_by_key(|(cause, _)| *cause);
    let counts = causes::counted(&nodes.iter().map(|(cause, _)| *cause).collect::<Vec<_>>());
    let row = |(cause, seat): (Cause, &Seat<'_>)| Row {
        node: seat.node.name.clone(),
        cause: format!("{cause:?}"),
        message: seat.explain(),
    };
    Rollout {
        revision: set.revision.clone(),
        phase: format!("{phase:?}"),
        message,
        budget: usage.budget,
        used: usage.used(),
        causes: counts.into_iter().map(|(cause, count)| (format!("{cause:?}"), count)).collect(),
        nodes: nodes.into_iter().map(row).collect(),
    }
}

impl Progress {
    /// As a condition of the DaemonSet: `True` while it goes on and once it is complete, as that of a Deployment. It keeps
    /// its time as long as its reason stays what it is.
    pub(super) fn condition(&self, before: &[DaemonSetCondition], now: Timestamp) -> DaemonSetCondition {
        let reason = format!("{:?}", self.phase);
        let same = before.iter().find(|one| one.type_ == PROGRESSING && one.reason.as_ref() == Some(&reason));
        DaemonSetCondition {
            type_: PROGRESSING.to_owned(),
            status: if self.phase == Phase::Stalled { "False" } else { "True" }.to_owned(),
            reason: Some(reason),
            message: Some(self.message.clone()),
            last_transition_time: same.and_then(|one| one.last_transition_time.clone()).or(Some(Time(now))),
        }
    }

    /// As an event of the DaemonSet: whether it is a warning, and its reason; none if nothing changed. `before` is what had
    /// become of the same revision when it was looked at last.
    pub(super) fn event(&self, before: Option<Phase>) -> Option<(bool, &'static str)> {
        match (before, self.phase) {
            (Some(before), phase) if before == phase => None,
            (None, Phase::RollingOut) => Some((false, "RolloutStarted")),
            (Some(_), Phase::RollingOut) => Some((false, "RolloutResumed")),
            (_, Phase::Stalled) => Some((true, "RolloutStalled")),
            (_, Phase::Complete) => Some((false, "RolloutComplete")),
        }
    }
}

/// What the DaemonSet's own condition says of its rollout, if that was written for what it asks for now.
pub(super) fn written(set: &Set) -> Option<Phase> {
    let status = set.object.status.as_ref()?;
    let is_of_now = status.observed_generation == set.object.metadata.generation;
    let condition = status.conditions.iter().flatten().find(|one| one.type_ == PROGRESSING && is_of_now)?;
    [Phase::RollingOut, Phase::Stalled, Phase::Complete]
        .into_iter()
        .find(|phase| condition.reason.as_deref() == Some(&format!("{phase:?}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::control::objects::PermitRecord;
    use crate::control::updates::clock::Now;
    use crate::model::PermitNumber;

    #[test]
    fn a_node_that_takes_too_long_is_unhealthy() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let (set, node) = (Uid::from("set"), Uid::from("a"));
        let mut view = View::default();
        view.put_node(&json!({"metadata": {"name": "a", "uid": "a"}}));
        let object =
            json!({"metadata": {"uid": "set"}, "spec": {"selector": {}, "template": {"spec": {"containers": []}}}});
        view.put_set(serde_json::from_value(object).unwrap(), "new".into());
        let mut told = Told::default();
        told.opened(node.clone(), 1, &[PermitNumber(7)]);
        told.granted(PermitNumber(7), at(0));
        let permit = PermitRecord {
            number: PermitNumber(7),
            daemonset: set.clone(),
            node: node.clone(),
            revision: "new".into(),
        };
        let permits = Permits::from([((set.clone(), node), permit)]);
        let cause = |view: &View, second| {
            let known = view.set(&set).unwrap();
            let seats = survey(view, &set, known, &told, &permits, at(second));
            (seats[0].cause(), seats[0].explain(), seats[0].late_at)
        };
        assert_eq!(cause(&view, 599).0, Cause::Taken);
        assert_eq!(cause(&view, 600), (Cause::Unhealthy, LATE.to_owned(), Some(at(600))), "the new pod is not made");

        let pod = |ready: &str| {
            json!({
                "metadata": {
                    "name": "p", "labels": {"controller-revision-hash": "new"},
                    "ownerReferences": [{"kind": "DaemonSet", "controller": true, "uid": "set"}],
                },
                "spec": {"nodeName": "a"},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
            })
        };
        let now = |second| Now { steady: at(second), wall: at(second) };
        view.put_pod("p", &pod("False"), now(700));
        assert_eq!(cause(&view, 1299), (Cause::Taken, "the new pod is not available yet".to_owned(), Some(at(1300))));
        assert_eq!(cause(&view, 1300).0, Cause::Unhealthy);
        view.put_pod("p", &pod("True"), now(1301));
        assert_eq!(cause(&view, 9999).0, Cause::Available);
    }
}
