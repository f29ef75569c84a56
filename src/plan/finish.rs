//! How a pod comes to its end without being deleted.
//!
//! Source: kubernetes v1.36 `pkg/kubelet/active_deadline.go`.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodStatus;

use crate::model::{Finished, Moment, NodeName};
use crate::podspec::Pod;

/// The condition of a pod that was ended for its node's sake.
pub(super) const DISRUPTED: &str = "DisruptionTarget";

/// Until when a pod may run (`activeDeadlineSeconds`), on the clock that only moves forward; none without a deadline.
///
/// `wall` and `now` are the same moment on both clocks. What passed while no agent was there counts.
pub fn active_until(pod: &Pod, created_at: Timestamp, wall: Timestamp, now: Moment) -> Option<Moment> {
    let passed = Duration::try_from(wall.duration_since(created_at)).unwrap_or_default();
    pod.active_deadline.map(|deadline| now + deadline.saturating_sub(passed))
}

/// What is said of a pod that ran into its deadline.
pub fn deadline_exceeded() -> Finished {
    Finished {
        succeeded: false,
        reason: Some("DeadlineExceeded".to_owned()),
        message: Some("Pod was active on the node longer than the specified deadline".to_owned()),
        disrupted: false,
    }
}

/// What is said of a pod that its node sends away; `disrupted` if the node is short of something.
///
/// Source: kubernetes v1.36 `pkg/kubelet/eviction/eviction_manager.go`, `evictPod`.
pub fn evicted(message: String, disrupted: bool) -> Finished {
    Finished { succeeded: false, reason: Some("Evicted".to_owned()), message: Some(message), disrupted }
}

/// Why a pod makes way for another: a kubelet's words for a critical one, otherwise the scheduler's.
///
/// Source: as of [`preempted`], and kubernetes v1.36 `pkg/scheduler/framework/preemption/executor.go`.
pub fn preempted_by(pod: &Pod, node: &NodeName) -> String {
    if pod.is_critical() {
        return "Preempted in order to admit critical pod".to_owned();
    }
    format!("Preempted by pod {} on node {node}", pod.key.uid)
}

/// What is said of a pod that makes way for another.
///
/// Source: kubernetes v1.36 `pkg/kubelet/preemption/preemption.go`, `evictPodsToFreeRequests`.
pub fn preempted(message: String) -> Finished {
    Finished { succeeded: false, reason: Some("Preempting".to_owned()), message: Some(message), disrupted: true }
}

/// The end that a status tells of; none while its phase is not final.
pub fn finished(status: &PodStatus) -> Option<Finished> {
    let succeeded = match status.phase.as_deref() {
        Some("Succeeded") => true,
        Some("Failed") => false,
        _ => return None,
    };
    let mut conditions = status.conditions.iter().flatten();
    let disrupted = conditions.any(|condition| condition.type_ == DISRUPTED && condition.status == "True");
    Some(Finished { succeeded, reason: status.reason.clone(), message: status.message.clone(), disrupted })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::testing::pods;

    #[test]
    fn a_deadline_counts_from_the_pods_making_and_never_grows() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let moment = |second| Moment(Duration::from_secs(second));
        let mut pod = pods::pod("job", Path::new("/"));
        assert_eq!(active_until(&pod, at(1000), at(1000), moment(5)), None);
        pod.active_deadline = Some(Duration::from_secs(60));
        let until = |wall| active_until(&pod, at(1000), at(wall), moment(5));
        assert_eq!([until(1000), until(1020), until(2000)], [moment(65), moment(45), moment(5)].map(Some));
        assert_eq!(until(900), Some(moment(65)), "a clock that was set back does not stretch it");
    }
}
