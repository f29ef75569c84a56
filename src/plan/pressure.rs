//! Whether the node runs out of something, and which pod has to go for it.
//!
//! Pure. [`Pressure`] remembers what was met when; thresholds are hard ones, which need no patience. A condition holds on for
//! five minutes after it was last met, so that it does not come and go with every eviction.
//!
//! Source: kubernetes v1.36 `pkg/kubelet/eviction/helpers.go` and `eviction_manager.go`; defaults in
//! `pkg/kubelet/eviction/defaults_linux.go`. We differ on purpose: `allocatableMemory.available` is not looked at, since the
//! cgroup of all pods has no limit of its own here.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::str::FromStr;
use std::time::Duration;

use crate::api::quantity::Quantity;
use crate::model::Moment;
use crate::plan::storage::{PodUsage, Usage};
use crate::podspec::{ContainerBudget, Pod, QosClass};

/// How long a condition holds on (`evictionPressureTransitionPeriod`).
const TRANSITION: Duration = Duration::from_secs(300);

/// What the node can run out of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// `memory.available`.
    Memory,
    /// `nodefs.available`: the disk of pods' volumes and logs.
    NodeFs,
    /// `nodefs.inodesFree`.
    NodeFsInodes,
    /// `imagefs.available`: the disk of images and of what containers change of them.
    ImageFs,
    /// `imagefs.inodesFree`.
    ImageFsInodes,
    /// `pid.available`: numbers for processes and their threads.
    Pids,
}

/// A condition of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// `MemoryPressure`.
    Memory,
    /// `DiskPressure`.
    Disk,
    /// `PIDPressure`.
    Pid,
}

/// What there is of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// What is left.
    pub available: u64,
    /// All of it; 0 where it has no bound.
    pub capacity: u64,
}

/// What was read; a signal that is not there could not be read.
pub type Readings = BTreeMap<Signal, Reading>;

/// The node's conditions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Conditions {
    /// `MemoryPressure`.
    pub memory: bool,
    /// `DiskPressure`.
    pub disk: bool,
    /// `PIDPressure`.
    pub pid: bool,
}

/// How much has to be left of what (`evictionHard`). What is not in it may run out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thresholds(BTreeMap<Signal, Amount>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Amount {
    /// Bytes, or pieces.
    Fixed(u64),
    /// Thousandths of a hundredth of the capacity.
    Share(u64),
}

/// A threshold that means nothing here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadThreshold {
    /// It is not `signal<amount`.
    #[error("{0:?} is not a threshold; write signal<amount, such as memory.available<100Mi or nodefs.available<10%")]
    Form(String),
    /// There is no such signal.
    #[error(
        "{0:?} is no signal; there are memory.available, pid.available, and available and inodesFree of nodefs and imagefs"
    )]
    Signal(String),
    /// The amount is neither a quantity nor a percentage.
    #[error("{0:?} is no amount; write a quantity such as 100Mi or a percentage up to 100%")]
    Amount(String),
}

/// What was met when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pressure {
    thresholds: Thresholds,
    last_met: BTreeMap<Condition, Moment>,
}

impl Signal {
    /// What it stands for.
    pub fn condition(self) -> Condition {
        match self {
            Self::Memory => Condition::Memory,
            Self::Pids => Condition::Pid,
            Self::NodeFs | Self::NodeFsInodes | Self::ImageFs | Self::ImageFsInodes => Condition::Disk,
        }
    }

    /// As messages name it.
    pub fn resource(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::NodeFs | Self::ImageFs => "ephemeral-storage",
            Self::NodeFsInodes | Self::ImageFsInodes => "inodes",
            Self::Pids => "pids",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        match name {
            "memory.available" => Some(Self::Memory),
            "nodefs.available" => Some(Self::NodeFs),
            "nodefs.inodesFree" => Some(Self::NodeFsInodes),
            "imagefs.available" => Some(Self::ImageFs),
            "imagefs.inodesFree" => Some(Self::ImageFsInodes),
            "pid.available" => Some(Self::Pids),
            _ => None,
        }
    }
}

impl Default for Thresholds {
    fn default() -> Self {
        let percent = |percent: u64| Amount::Share(percent * 1000);
        Self(BTreeMap::from([
            (Signal::Memory, Amount::Fixed(100 << 20)),
            (Signal::NodeFs, percent(10)),
            (Signal::NodeFsInodes, percent(5)),
            (Signal::ImageFs, percent(15)),
            (Signal::ImageFsInodes, percent(5)),
        ]))
    }
}

impl Thresholds {
    /// From signals and amounts as the kubelet's configuration has them. They take the place of all defaults.
    ///
    /// # Errors
    /// [`BadThreshold`] for the first that means nothing here.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, BadThreshold> {
        let threshold = |(signal, amount): (&str, &str)| {
            let signal = Signal::parse(signal.trim()).ok_or_else(|| BadThreshold::Signal(signal.to_owned()))?;
            let bad = || BadThreshold::Amount(amount.to_owned());
            let percent = amount.trim().strip_suffix('%');
            let number: Quantity = percent.unwrap_or(amount.trim()).parse().map_err(|_| bad())?;
            let value = if percent.is_some() { number.milli_value() } else { number.value() };
            let value = u64::try_from(value).map_err(|_| bad())?;
            match percent {
                None => Ok((signal, Amount::Fixed(value))),
                Some(_) if value <= 100_000 => Ok((signal, Amount::Share(value))),
                Some(_) => Err(bad()),
            }
        };
        pairs.into_iter().map(threshold).collect::<Result<_, _>>().map(Self)
    }

    /// Whether nothing has a bound.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether any of these has a bound, so that it has to be looked at.
    pub fn bound(&self, signals: &[Signal]) -> bool {
        signals.iter().any(|signal| self.0.contains_key(signal))
    }

    /// Less than this is too little, of so much; 0 where nothing is.
    pub fn of(&self, signal: Signal, capacity: u64) -> u64 {
        match self.0.get(&signal) {
            None => 0,
            Some(Amount::Fixed(amount)) => *amount,
            Some(Amount::Share(share)) => {
                u64::try_from(u128::from(capacity) * u128::from(*share) / 100_000).unwrap_or(u64::MAX)
            }
        }
    }

    fn is_met(&self, signal: Signal, reading: Reading) -> bool {
        reading.capacity > 0 && reading.available < self.of(signal, reading.capacity)
    }
}

impl FromStr for Thresholds {
    type Err = BadThreshold;

    /// As `--eviction-hard` takes them: `memory.available<100Mi,nodefs.available<10%`; none at all for an empty text.
    fn from_str(text: &str) -> Result<Self, BadThreshold> {
        let written = text.split(',').filter(|text| !text.trim().is_empty());
        let pairs = written.map(|text| text.split_once('<').ok_or_else(|| BadThreshold::Form(text.to_owned())));
        Self::from_pairs(pairs.collect::<Result<Vec<_>, _>>()?)
    }
}

impl Pressure {
    /// Nothing was met yet.
    pub fn new(thresholds: Thresholds) -> Self {
        Self { thresholds, last_met: BTreeMap::new() }
    }

    /// Takes in what was read. Answers with what the node runs out of, the most urgent first.
    pub fn observe(&mut self, readings: &Readings, now: Moment) -> Vec<Signal> {
        let met = readings.iter().filter(|(signal, reading)| self.thresholds.is_met(**signal, **reading));
        let met: Vec<_> = met.map(|(signal, _)| *signal).collect();
        self.last_met.extend(met.iter().map(|signal| (signal.condition(), now)));
        met
    }

    /// The conditions now.
    pub fn conditions(&self, now: Moment) -> Conditions {
        let holds = |condition| self.last_met.get(&condition).is_some_and(|met| now.since(*met) < TRANSITION);
        Conditions { memory: holds(Condition::Memory), disk: holds(Condition::Disk), pid: holds(Condition::Pid) }
    }

    /// Why a pod had to go, in the kubelet's words.
    pub fn message(&self, signal: Signal, reading: Reading, candidate: Candidate<'_>) -> String {
        let resource = signal.resource();
        let threshold = shown(self.thresholds.of(signal, reading.capacity));
        let mut message = format!(
            "The node was low on resource: {resource}. Threshold quantity: {threshold}, available: {}. ",
            shown(reading.available)
        );
        for container in &candidate.pod.budget.containers {
            let Some((taken, requested)) = of_container(signal, container, candidate.usage) else { continue };
            if taken > requested {
                let (name, taken, requested) = (&container.name, shown(taken), shown(requested));
                write!(
                    message,
                    "Container {name} was using {taken}, request is {requested}, has larger consumption of {resource}. "
                )
                .expect("writing to a string");
            }
        }
        message
    }
}

impl Conditions {
    /// Whether a pod may begin. A node short of memory takes on who asked for some, or tolerates that; one short of anything else
    /// is no place for anybody new, unless it is critical.
    ///
    /// # Errors
    /// The kubelet's words.
    pub fn admit(self, pod: &Pod) -> Result<(), String> {
        let takes_memory = pod.qos == QosClass::BestEffort && !pod.tolerates_memory_pressure;
        let is_against = self.disk || self.pid || self.memory && takes_memory;
        if !is_against || pod.is_critical() {
            return Ok(());
        }
        let all = [(self.memory, "MemoryPressure"), (self.disk, "DiskPressure"), (self.pid, "PIDPressure")];
        let all: Vec<_> = all.into_iter().filter(|(holds, _)| *holds).map(|(_, name)| name).collect();
        Err(format!("The node had condition: [{}]. ", all.join(" ")))
    }
}

/// A pod that may have to go, and what it takes; none where that could not be measured.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// What it takes.
    pub usage: Option<&'a PodUsage>,
}

/// Who has to go first when the node runs out of `signal`; none if only critical pods are left.
///
/// Those who take more than they asked for go before those who do not, lesser ones before greater ones, then those who take
/// most beyond what they asked for. Nobody can ask for processes, so having some is taking too much of nobody. `split` is
/// set where images have a disk of their own.
pub fn victim<'a>(signal: Signal, candidates: &[Candidate<'a>], split: bool) -> Option<Candidate<'a>> {
    let evictable = candidates.iter().filter(|candidate| !candidate.pod.is_critical());
    let rank = |candidate: &&Candidate<'a>| {
        let requested = requested(signal, candidate.pod);
        let taken = candidate.usage.map(|usage| taken(signal, usage, split));
        let exceeds = signal != Signal::Pids && taken.is_none_or(|taken| taken > requested);
        let beyond = taken.map_or(i128::MAX, |taken| i128::from(taken) - i128::from(requested));
        (Reverse(exceeds), candidate.pod.priority, Reverse(beyond))
    };
    evictable.min_by_key(rank).copied()
}

/// What a pod asked for of it.
fn requested(signal: Signal, pod: &Pod) -> u64 {
    pod.requests.resources.get(signal.resource()).copied().unwrap_or(0)
}

/// What a pod takes of it.
fn taken(signal: Signal, usage: &PodUsage, split: bool) -> u64 {
    let of_disk = |on_images: bool| match (split, on_images) {
        (false, _) => usage.own_files() + usage.rootfs(),
        (true, true) => usage.rootfs(),
        (true, false) => usage.own_files(),
    };
    match signal {
        Signal::Memory => usage.memory_bytes(),
        Signal::NodeFs => of_disk(false).bytes,
        Signal::NodeFsInodes => of_disk(false).inodes,
        Signal::ImageFs => of_disk(true).bytes,
        Signal::ImageFsInodes => of_disk(true).inodes,
        Signal::Pids => usage.processes,
    }
}

/// What one container takes and asked for.
fn of_container(signal: Signal, container: &ContainerBudget, usage: Option<&PodUsage>) -> Option<(u64, u64)> {
    let usage = usage?.containers.get(&container.name)?;
    let Usage { bytes, .. } = usage.logs + usage.rootfs;
    match signal.resource() {
        "memory" => Some((usage.memory_bytes, container.memory_request_bytes)),
        "ephemeral-storage" => Some((bytes, container.storage_request_bytes)),
        _ => None,
    }
}

fn shown(amount: u64) -> String {
    Quantity::from_bytes(i64::try_from(amount).unwrap_or(i64::MAX)).to_string()
}

#[cfg(test)]
mod tests;
