//! Probes: what they have found out about a container instance, and when each asks next.
//!
//! Pure. The prober keeps a [`Probing`] for each running instance, asks when one of its probes is due, and hands in what
//! came of it; what enough attempts in a row agree on is published as a [`Health`].
//!
//! ```text
//!            ┌─ failure ─▶ rests, the container is restarted
//! startup ───┤
//!            └─ success ─▶ rests;  liveness ─ failure ─▶ rests, the container is restarted
//!                                  readiness ─ either way ─▶ goes on, also while the pod ends
//! ```
//!
//! Timing differs from upstream on purpose, within what upstream's may come to. There a probe's first attempt comes with a
//! tick that has nothing to do with the container's start, up to a period late. Here
//! - startup and readiness are asked as soon as `initialDelaySeconds` has passed: a pod is ready the sooner for it;
//! - a failure of startup within the first period does not count: a container has `failureThreshold × periodSeconds`;
//! - liveness is asked for the first time after `initialDelaySeconds` or one period, whichever is longer.
//!
//! Source: kubernetes v1.36 `pkg/kubelet/prober/worker.go`, `prober.go` and `prober_manager.go`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::{ContainerId, Moment};
use crate::plan::events::PodEvent;
use crate::podspec::{Container, Probe, Probes};

/// An instance that was started so long before the agent was its predecessor's (`startedAtGracePeriod` of upstream).
const ADOPTED_MIN: Duration = Duration::from_secs(10);

/// One of a container's probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `startupProbe`.
    Startup,
    /// `livenessProbe`.
    Liveness,
    /// `readinessProbe`.
    Readiness,
}

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

/// What one attempt came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// All is well.
    Success,
    /// All is well, and there is something to be said about it.
    Warning(String),
    /// It is not; what the container answered.
    Failure(String),
    /// Asking failed, which says nothing about the container.
    Unknown(String),
}

/// The probes of one running instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probing {
    health: Health,
    /// By kind.
    tracks: [Track; 3],
    /// Before this a failure of startup does not count.
    startup_counts_from: Moment,
}

/// How far one probe has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Track {
    /// When the initial delay is over.
    earliest: Moment,
    /// When the next attempt begins; none while the probe rests.
    due: Option<Moment>,
    /// An attempt is under way.
    asking: bool,
    /// The last attempt succeeded.
    succeeded: bool,
    /// So many attempts in a row came to the same.
    run: u32,
}

impl Kind {
    /// In the order in which they begin.
    pub const ALL: [Self; 3] = [Self::Startup, Self::Liveness, Self::Readiness];

    /// That probe, if the container has it.
    pub fn of(self, probes: &Probes) -> Option<&Probe> {
        match self {
            Self::Startup => probes.startup.as_ref(),
            Self::Liveness => probes.liveness.as_ref(),
            Self::Readiness => probes.readiness.as_ref(),
        }
    }

    /// As events name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

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

    /// Of an instance that ran before the agent did, since `age`: as well as can be.
    ///
    /// Upstream asks its API server what was known of it; an agent may have nobody to ask. An instance that is still within
    /// what its startup probe allows may not have started yet, and finds out anew: liveness must not end it for that.
    fn adopted(probes: &Probes, age: Duration) -> Self {
        let allows = |startup: &Probe| startup.initial_delay + startup.period * startup.failure_threshold;
        if probes.startup.as_ref().is_some_and(|startup| age < allows(startup)) {
            return Self::initial(probes);
        }
        Self { startup: Finding::Success, liveness: Finding::Success, readiness: Finding::Success }
    }

    /// `started` of the container's status, if it runs.
    pub fn is_started(self) -> bool {
        self.startup == Finding::Success
    }

    /// `ready` of the container's status, if it runs.
    pub fn is_ready(self) -> bool {
        self.is_started() && self.readiness == Finding::Success
    }

    fn finding(&mut self, kind: Kind) -> &mut Finding {
        match kind {
            Kind::Startup => &mut self.startup,
            Kind::Liveness => &mut self.liveness,
            Kind::Readiness => &mut self.readiness,
        }
    }
}

impl Probing {
    /// Begins with an instance that has been running for `age`.
    ///
    /// `random`, drawn evenly from all its values, spreads the first attempts at what an earlier agent left running over a
    /// period: there all instances are found at once.
    pub fn begin(probes: &Probes, age: Duration, now: Moment, random: u32) -> Self {
        let is_adopted = age > now.0 + ADOPTED_MIN;
        let health = if is_adopted { Health::adopted(probes, age) } else { Health::initial(probes) };
        let earliest = |kind: Kind| kind.of(probes).map_or(now, |probe| now + probe.initial_delay.saturating_sub(age));
        let first_period = probes.startup.as_ref().map_or(Duration::ZERO, |probe| probe.period.saturating_sub(age));
        let mut probing = Self {
            health,
            tracks: Kind::ALL.map(|kind| Track { earliest: earliest(kind), ..Track::default() }),
            startup_counts_from: now + first_period,
        };
        if is_adopted && health.is_started() {
            let share = f64::from(random) / f64::from(u32::MAX);
            probing.start(probes, Kind::Liveness, now, |period| period.mul_f64(share));
            probing.start(probes, Kind::Readiness, now, |period| period.mul_f64(share));
        } else {
            probing.go_on(probes, now);
        }
        probing
    }

    /// What was found until now.
    pub fn health(&self) -> Health {
        self.health
    }

    /// When the next attempt of a probe begins; none while one is under way or the probe rests.
    pub fn due(&self, kind: Kind) -> Option<Moment> {
        let track = &self.tracks[kind as usize];
        track.due.filter(|_| !track.asking)
    }

    /// An attempt begins.
    pub fn ask(&mut self, probes: &Probes, kind: Kind, now: Moment) {
        let track = &mut self.tracks[kind as usize];
        track.asking = true;
        track.due = kind.of(probes).map(|probe| now + probe.period);
    }

    /// An attempt has ended.
    pub fn hear(&mut self, probes: &Probes, kind: Kind, attempt: &Attempt, now: Moment) {
        let (Some(probe), track) = (kind.of(probes), &mut self.tracks[kind as usize]) else { return };
        track.asking = false;
        let succeeded = match attempt {
            // The pod has begun to end meanwhile.
            _ if track.due.is_none() => return,
            Attempt::Unknown(_) => return,
            Attempt::Failure(_) if kind == Kind::Startup && now < self.startup_counts_from => return,
            Attempt::Failure(_) => false,
            Attempt::Success | Attempt::Warning(_) => true,
        };
        track.run = if track.succeeded == succeeded { track.run.saturating_add(1) } else { 1 };
        track.succeeded = succeeded;
        if track.run < if succeeded { probe.success_threshold } else { probe.failure_threshold } {
            return;
        }
        *self.health.finding(kind) = if succeeded { Finding::Success } else { Finding::Failure };
        if kind == Kind::Startup || (kind == Kind::Liveness && !succeeded) {
            track.due = None;
        }
        if kind == Kind::Startup {
            self.go_on(probes, now);
        }
    }

    /// The pod ends: nothing may restart its containers any more, and readiness tells on.
    pub fn end(&mut self, probes: &Probes, now: Moment) {
        let was_started = self.health.is_started();
        self.health = Health { startup: Finding::Success, liveness: Finding::Success, ..self.health };
        self.tracks[Kind::Startup as usize].due = None;
        if !was_started {
            self.go_on(probes, now);
        }
        self.tracks[Kind::Liveness as usize].due = None;
    }

    /// Starts what has its time now.
    fn go_on(&mut self, probes: &Probes, now: Moment) {
        match self.health.startup {
            Finding::Unknown => self.start(probes, Kind::Startup, now, |_| Duration::ZERO),
            Finding::Success => {
                self.start(probes, Kind::Liveness, now, |period| period);
                self.start(probes, Kind::Readiness, now, |_| Duration::ZERO);
            }
            Finding::Failure => {}
        }
    }

    /// Starts a probe, if the container has it; `wait` is the pause before the first attempt, given the period.
    fn start(&mut self, probes: &Probes, kind: Kind, now: Moment, wait: impl Fn(Duration) -> Duration) {
        let track = &mut self.tracks[kind as usize];
        track.due = kind.of(probes).map(|probe| track.earliest.max(now + wait(probe.period)));
    }
}

/// What users are told of an attempt.
pub fn event(container: &Container, kind: Kind, attempt: &Attempt) -> Option<PodEvent> {
    let kind = kind.as_str();
    let (reason, message) = match attempt {
        Attempt::Success => return None,
        Attempt::Warning(words) => ("ProbeWarning", format!("{kind} probe warning: {words}")),
        Attempt::Failure(words) => ("Unhealthy", format!("{kind} probe failed: {words}")),
        Attempt::Unknown(words) => {
            ("Unhealthy", format!("{kind} probe errored and resulted in unknown state: {words}"))
        }
    };
    Some(PodEvent::of_container(container, true, reason, message))
}

/// How many events the probes of one pod may still tell: a burst, and a further one now and then. A pod that fails every
/// second for weeks is not to fill control's store.
///
/// Source: kubernetes v1.36 `staging/src/k8s.io/client-go/tools/record/events_cache.go`, `defaultSpamBurst` and following.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventQuota {
    left: u32,
    since: Moment,
}

impl EventQuota {
    const BURST: u32 = 25;
    const REFILL: Duration = Duration::from_secs(300);

    /// The whole burst.
    pub fn new(now: Moment) -> Self {
        Self { left: Self::BURST, since: now }
    }

    /// Whether one more event may be told; it counts as told then.
    pub fn take(&mut self, now: Moment) -> bool {
        while self.left < Self::BURST && now.since(self.since) >= Self::REFILL {
            (self.left, self.since) = (self.left + 1, self.since + Self::REFILL);
        }
        if self.left == Self::BURST {
            self.since = now;
        }
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}

#[cfg(test)]
mod tests;
