//! What probes have found out about a container instance.

use std::collections::BTreeMap;

use crate::model::ContainerId;
use crate::podspec::Probes;

/// The published result of one probe: what enough attempts in a row agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// Too early to tell.
    Unknown,
    /// All is well.
    Success,
    /// It is not.
    Failure,
}

/// What the probes of one instance have found. A probe that the container does not have has succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// `startupProbe`; unknown at first.
    pub startup: Finding,
    /// `livenessProbe`; a success at first.
    pub liveness: Finding,
    /// `readinessProbe`; a failure at first.
    pub readiness: Finding,
}

/// By instance. One that is not there has [`Health::initial`].
pub type Healths = BTreeMap<ContainerId, Health>;

impl Health {
    /// Before the first attempt.
    pub fn initial(probes: &Probes) -> Self {
        let first = |is_there: bool, finding| if is_there { finding } else { Finding::Success };
        Self {
            startup: first(probes.startup.is_some(), Finding::Unknown),
            liveness: Finding::Success,
            readiness: first(probes.readiness.is_some(), Finding::Failure),
        }
    }

    /// `started` of the container's status, if it runs.
    pub fn is_started(self) -> bool {
        self.startup == Finding::Success
    }

    /// `ready` of the container's status, if it runs.
    pub fn is_ready(self) -> bool {
        self.is_started() && self.readiness == Finding::Success
    }
}
