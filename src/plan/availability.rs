//! Since when a pod has been ready, on the clock that only moves forward.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as k8s;

use crate::model::Moment;

/// A pod's uninterrupted readiness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadySince {
    /// When this process first saw it ready.
    seen: Moment,
    /// How long it had been ready then, by the wall clock.
    before: Duration,
}

impl ReadySince {
    /// Follows a pod from one status to the next; none while it is not ready.
    ///
    /// The wall clock counts only at the first look: for a pod that an agent finds running when it starts. From then on a
    /// changed clock neither makes the pod available nor takes that away.
    ///
    /// Source: kubernetes v1.36 `pkg/api/v1/pod/util.go`, `IsPodAvailable`, which reckons by the wall clock throughout.
    pub fn track(before: Option<Self>, status: &k8s::PodStatus, wall: Timestamp, now: Moment) -> Option<Self> {
        let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready")?;
        if ready.status != "True" {
            return None;
        }
        let since = ready.last_transition_time.as_ref().map_or(wall, |since| since.0);
        // The transition has lost its fraction of a second; it must not count as waited for.
        let elapsed = Duration::try_from(wall.duration_since(since)).unwrap_or_default();
        Some(before.unwrap_or(Self { seen: now, before: elapsed.saturating_sub(Duration::from_secs(1)) }))
    }

    /// The moment from which the pod counts as available (`minReadySeconds`). Without a minimum that is at once.
    pub fn available_at(self, min_ready: Duration) -> Moment {
        self.seen + min_ready.saturating_sub(self.before)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn status(ready: &str, since: i64) -> k8s::PodStatus {
        let condition = k8s::PodCondition {
            type_: "Ready".to_owned(),
            status: ready.to_owned(),
            last_transition_time: Some(Time(wall(since))),
            ..Default::default()
        };
        k8s::PodStatus { conditions: Some(vec![condition]), ..Default::default() }
    }

    fn wall(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn moment(second: u64) -> Moment {
        Moment(Duration::from_secs(second))
    }

    #[test]
    fn a_pod_is_available_when_it_has_been_ready_long_enough() {
        let min_ready = Duration::from_secs(10);
        let ready = ReadySince::track(None, &status("True", 1000), wall(1000), moment(5)).unwrap();
        assert_eq!(ready.available_at(Duration::ZERO), moment(5));
        assert_eq!(ready.available_at(min_ready), moment(15));

        let later = ReadySince::track(Some(ready), &status("True", 1000), wall(9000), moment(6));
        assert_eq!(later, Some(ready), "a clock that was set does not count");
        assert_eq!(ReadySince::track(Some(ready), &status("False", 1006), wall(1006), moment(6)), None);
        assert_eq!(ReadySince::track(None, &k8s::PodStatus::default(), wall(1006), moment(6)), None);
    }

    #[test]
    fn a_restarted_agent_counts_what_the_pod_has_behind_it() {
        let min_ready = Duration::from_secs(10);
        let found = |wall_second| {
            let ready = ReadySince::track(None, &status("True", 1000), wall(wall_second), moment(0)).unwrap();
            ready.available_at(min_ready)
        };
        assert_eq!(found(1005), moment(6));
        assert_eq!(found(2000), moment(0));
        assert_eq!(found(900), moment(10), "a transition in the future is none");
    }
}
