//! What happens next: steps drawn from chance. Pure.

use std::time::Duration;

use super::chance::Chance;
use super::fuse::End;

/// Something that users, machines or lines do. Machines go by their number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// `kubectl create`.
    CreateSet(String, Template),
    /// `kubectl apply`.
    UpdateSet(String, Template),
    DeleteSet(String),
    /// `kubectl delete --cascade=orphan`.
    OrphanSet(String),
    /// A label; none takes it away.
    SetZone(usize, Option<&'static str>),
    /// A taint that lets nothing stay.
    Clear(usize, bool),
    /// The pod of this DaemonSet on a machine, if there is one in the API.
    DeletePod(usize, String),
    /// That pod is labelled so that its DaemonSet lets it go.
    ReleasePod(usize, String),
    /// A pod that was released from this DaemonSet on a machine, if there is one, is labelled as before.
    ReadoptPod(usize, String),
    /// A pod on a machine that no DaemonSet has, if there is one in the API.
    DeleteSingle(usize),
    /// A finalizer keeps such a pod in the API, whatever its node does.
    KeepSingle(usize),
    /// Finalizers are taken from all pods.
    LetGo,
    /// The agent dies at whatever it is about.
    KillAgent(usize),
    /// The agent dies at its so-many-th call from now that would change something in its runtime.
    KillAgentAt(usize, usize),
    /// The agent dies at its so-many-th poll from now, wherever its tasks are.
    KillAgentAtPoll(usize, usize),
    StartAgent(usize),
    /// The machine loses its power, and stays off.
    SwitchOff(usize),
    /// The same, and when it is on again, its disk is as it was at some time before.
    SwitchOffAndRollBack(usize),
    /// Keeps a copy of a machine's disk.
    CopyDisk(usize),
    /// Nothing gets through, and nobody is told.
    CutLine(usize),
    MendLine(usize),
    /// The same for all machines whose number leaves this rest by two.
    CutLines(usize),
    MendLines(usize),
    /// The connection is reset.
    BreakLine(usize),
    /// What messages take from now on, in milliseconds at most.
    SlowLine(usize, u64),
    /// A container ends by itself.
    EndContainer(usize, String),
    /// The runtime is gone; what it runs goes on.
    StopRuntime(usize),
    StartRuntime(usize),
    /// Calls of this method do not return.
    HangRuntime(usize, &'static str),
    ReleaseRuntime(usize, &'static str),
    /// The next calls of this method fail.
    FailRuntime(usize, &'static str, usize),
    /// So many calls from then on that would write to a machine's ledger, or flush it, fail after so many that do not.
    FailDisk(usize, usize, usize),
    KillControl,
    /// Control dies at a commit from now on.
    KillControlAt(End),
    StartControl,
    /// Control's disk is full for so many writes.
    FailStore(usize),
    /// All clocks are set.
    JumpClock(i64),
    /// Control's is, and no other.
    JumpControl(i64),
    /// A machine's clock is so many seconds apart from control's.
    SetApart(usize, i64),
}

/// What a simulated user says of a DaemonSet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template {
    /// Its pods have it, and it selects them by it. Also the name of the image.
    pub(super) label: String,
    /// Counts the images; every one is another revision.
    pub(super) version: u64,
    /// It cannot be pulled.
    pub(super) missing: bool,
    pub(super) zone: Option<&'static str>,
    pub(super) budget: Budget,
    /// `minReadySeconds`.
    pub(super) min_ready: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Budget {
    Nodes(usize),
    Percent(usize),
    Surge(usize),
}

impl Budget {
    /// One with which a large fleet is done in time.
    pub(super) fn at_least(self, least: usize) -> Self {
        match self {
            Self::Nodes(nodes) => Self::Nodes(nodes.max(least)),
            Self::Surge(nodes) => Self::Surge(nodes.max(least)),
            Self::Percent(percent) => Self::Percent(percent),
        }
    }
}

/// What there is, as far as it decides what can happen.
#[derive(Debug)]
pub(super) struct Outline {
    pub(super) machines: Vec<MachineOutline>,
    pub(super) sets: Vec<(String, Template)>,
    /// DaemonSets that are gone without their pods, which no other selects.
    pub(super) orphaned: Vec<Template>,
    pub(super) control: bool,
    /// Images made so far.
    pub(super) versions: u64,
}

#[derive(Debug)]
pub(super) struct MachineOutline {
    pub(super) runs: bool,
    pub(super) line_open: bool,
    pub(super) runtime: bool,
    pub(super) hangs: Option<&'static str>,
    pub(super) has_copy: bool,
    pub(super) cleared: bool,
}

/// How many DaemonSets there are.
const SETS_MIN: usize = 2;
const SETS_MAX: usize = 4;
/// Where machines are, and what some DaemonSets are for.
pub(super) const ZONES: [&str; 2] = ["a", "b"];
/// What clocks are set by while they go, in seconds.
const JUMPS: [i64; 4] = [-3600, -5, 5, 3600];
/// How far machines' clocks are apart from control's: minutes, hours, a day; one has none that goes on without power.
const APART: [i64; 7] = [-300, 300, -7200, 7200, -86_400, 86_400, -1_767_139_200];
/// Calls that may fail or hang.
const METHODS: [&str; 6] =
    ["PullImage", "RunPodSandbox", "CreateContainer", "StartContainer", "StopContainer", "StopPodSandbox"];

/// Draws what happens next.
pub(super) fn next(chance: &mut Chance, outline: &Outline) -> Step {
    if outline.sets.len() < SETS_MIN && outline.control {
        return create(chance, outline);
    }
    if !outline.control {
        return if chance.one_in(3) { Step::StartControl } else { fault(chance, outline) };
    }
    match chance.below(24) {
        0 if outline.sets.len() < SETS_MAX => create(chance, outline),
        0..=5 => update(chance, outline),
        6 if chance.one_in(3) => Step::DeleteSet(chance.pick(&outline.sets).0.clone()),
        6..=7 => Step::SetZone(machine(chance, outline), Some(*chance.pick(&ZONES)).filter(|_| !chance.one_in(5))),
        8 => {
            let machine = machine(chance, outline);
            Step::Clear(machine, !outline.machines[machine].cleared)
        }
        9 => Step::DeletePod(machine(chance, outline), chance.pick(&outline.sets).0.clone()),
        10 if chance.one_in(3) => Step::KillControl,
        10 => Step::KillControlAt(End { after: chance.below(30), done: chance.one_in(2) }),
        11 if chance.one_in(2) => Step::FailStore(1 + chance.below(3)),
        11 if chance.one_in(2) => Step::JumpClock(*chance.pick(&JUMPS)),
        11 if chance.one_in(3) => Step::JumpControl(*chance.pick(&JUMPS)),
        11 => Step::SetApart(machine(chance, outline), apart(chance)),
        12 if chance.one_in(2) => Step::OrphanSet(chance.pick(&outline.sets).0.clone()),
        12 | 13 => Step::ReleasePod(machine(chance, outline), chance.pick(&outline.sets).0.clone()),
        14 => Step::ReadoptPod(machine(chance, outline), chance.pick(&outline.sets).0.clone()),
        15 if chance.one_in(3) => Step::KeepSingle(machine(chance, outline)),
        15 if chance.one_in(6) => Step::LetGo,
        15 => Step::DeleteSingle(machine(chance, outline)),
        _ => fault(chance, outline),
    }
}

/// How many seconds a machine's clock is apart from control's: mostly none.
pub(super) fn apart(chance: &mut Chance) -> i64 {
    if chance.one_in(2) { 0 } else { *chance.pick(&APART) }
}

/// How long it is until the next step: now and then in the middle of things, now and then when all has settled.
pub(super) fn pause(chance: &mut Chance) -> Duration {
    match chance.below(10) {
        0..=4 => chance.millis(0..400),
        5..=7 => chance.millis(400..20_000),
        _ => chance.millis(20_000..200_000),
    }
}

/// A new DaemonSet. Now and then it is for pods that another has left, and then it may be the same but for its name.
fn create(chance: &mut Chance, outline: &Outline) -> Step {
    let name = format!("set-{}", outline.versions);
    let mut template = template(chance, outline, &name);
    if !outline.orphaned.is_empty() && chance.one_in(2) {
        let before = chance.pick(&outline.orphaned).clone();
        template = if chance.one_in(2) { before } else { Template { label: before.label, ..template } };
    } else {
        template.zone = zone(chance);
    }
    Step::CreateSet(name, Template { budget: budget(chance), ..template })
}

fn update(chance: &mut Chance, outline: &Outline) -> Step {
    let (name, before) = chance.pick(&outline.sets).clone();
    let zone = if chance.one_in(6) { zone(chance) } else { before.zone };
    // Whether it surges stays: two pods beside each other would not be what the user of then asked for.
    let budget = match before.budget {
        Budget::Surge(_) => Budget::Surge(1 + chance.below(2)),
        _ if chance.one_in(4) => spread(chance),
        before => before,
    };
    let template = if chance.one_in(6) { before } else { template(chance, outline, &before.label) };
    Step::UpdateSet(name, Template { zone, budget, ..template })
}

fn template(chance: &mut Chance, outline: &Outline, label: &str) -> Template {
    Template {
        label: label.to_owned(),
        version: outline.versions,
        missing: chance.one_in(8),
        zone: None,
        budget: Budget::Nodes(1),
        min_ready: if chance.one_in(4) { 10 } else { 0 },
    }
}

fn budget(chance: &mut Chance) -> Budget {
    if chance.one_in(4) { Budget::Surge(1 + chance.below(2)) } else { spread(chance) }
}

fn spread(chance: &mut Chance) -> Budget {
    if chance.one_in(3) { Budget::Percent(10 + chance.below(50)) } else { Budget::Nodes(1 + chance.below(2)) }
}

fn zone(chance: &mut Chance) -> Option<&'static str> {
    if chance.one_in(3) { Some(*chance.pick(&ZONES)) } else { None }
}

fn machine(chance: &mut Chance, outline: &Outline) -> usize {
    chance.below(outline.machines.len())
}

fn fault(chance: &mut Chance, outline: &Outline) -> Step {
    let machine = machine(chance, outline);
    let seen = &outline.machines[machine];
    let method = *chance.pick(&METHODS);
    // What is broken is mended sooner than the next thing breaks.
    if !seen.runs && chance.one_in(2) {
        return Step::StartAgent(machine);
    }
    if !seen.line_open && chance.one_in(2) {
        return Step::MendLine(machine);
    }
    if !seen.runtime && chance.one_in(2) {
        return Step::StartRuntime(machine);
    }
    if let Some(method) = seen.hangs.filter(|_| chance.one_in(2)) {
        return Step::ReleaseRuntime(machine, method);
    }
    match chance.below(18) {
        0 | 1 if seen.runs => Step::KillAgent(machine),
        2 | 3 if seen.runs => Step::KillAgentAt(machine, chance.below(8)),
        4 if seen.runs => Step::SwitchOff(machine),
        5 if seen.runs && seen.has_copy => Step::SwitchOffAndRollBack(machine),
        5 => Step::CopyDisk(machine),
        6 | 7 if seen.line_open => Step::CutLine(machine),
        8 => Step::SlowLine(machine, *chance.pick(&[10, 10, 500, 3000])),
        9 => Step::EndContainer(machine, chance.pick(&outline.sets).0.clone()),
        10 if seen.runtime => Step::StopRuntime(machine),
        11 if seen.hangs.is_none() => Step::HangRuntime(machine, method),
        12 => Step::FailRuntime(machine, method, 1 + chance.below(3)),
        13 | 14 if seen.runs => Step::KillAgentAtPoll(machine, chance.below(300)),
        15 => Step::FailDisk(machine, chance.below(3), 1 + chance.below(4)),
        16 if chance.one_in(2) => Step::CutLines(machine % 2),
        16 => Step::MendLines(machine % 2),
        _ => Step::BreakLine(machine),
    }
}
