//! The status of each container: `state` from its newest instance, `lastState` from the one before it.

use k8s_openapi::api::core::v1 as k8s;

use super::{Situation, ended, has_begun, has_failed, has_initialized, is_running, time};
use crate::model::{ContainerPhase, ObservedContainer, ObservedUser};
use crate::plan::probe::Health;
use crate::plan::{Waiting, instances, is_live, policy, reset};
use crate::podspec::{Container, RecursiveReadOnly, Role};

/// All messages of ended containers of a pod together have no more bytes than this.
const TERMINATION_MESSAGES_BYTES_MAX: usize = 12 * 1024;

/// The reason of an end that nobody saw.
const LOST: &str = "ContainerStatusUnknown";
const LOST_MESSAGE: &str = "The container could not be located when the pod was terminated";

/// The reason of a container that was taken away to begin again with all others.
pub(super) const RESTARTING_ALL: &str = "RestartingAllContainers";
const RESTARTING_ALL_MESSAGE: &str = "The container is removed because RestartAllContainers in place";

const REMOVED_MESSAGE: &str = "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally";

/// By position in `Pod::containers`; empty for a pod that was not admitted.
pub(super) fn statuses(situation: &Situation<'_>, previous: Option<&k8s::PodStatus>) -> Vec<k8s::ContainerStatus> {
    if situation.rejection.is_some() {
        return Vec::new();
    }
    let before = |container: &Container| {
        let list = previous.and_then(|previous| match container.role {
            Role::Init | Role::Sidecar => previous.init_container_statuses.as_ref(),
            Role::Regular => previous.container_statuses.as_ref(),
            Role::Ephemeral => previous.ephemeral_container_statuses.as_ref(),
        });
        list.into_iter().flatten().find(|status| status.name == container.name)
    };
    let look = Look {
        situation,
        initialized: has_initialized(situation),
        restarting_all: !reset::sources(situation.pod, situation.observed).is_empty(),
    };
    let status = |(index, container): (usize, &Container)| {
        let waiting = situation.waiting.get(index).and_then(Option::as_ref);
        look.status(container, waiting, before(container))
    };
    let mut statuses: Vec<_> = situation.pod.containers.iter().enumerate().map(status).collect();
    if (situation.ending || situation.finished.is_some()) && !situation.lives() {
        write_off(situation, &mut statuses);
    }
    statuses
}

/// Of a pod that has ended, nothing is said to wait that once ran: it has ended, too, and nobody saw how.
fn write_off(situation: &Situation<'_>, statuses: &mut [k8s::ContainerStatus]) {
    let containers = &situation.pod.containers;
    let is_init = |index: usize| matches!(containers[index].role, Role::Init | Role::Sidecar);
    let is_regular = |index: usize| containers[index].role == Role::Regular;
    let initialized = (0..statuses.len()).any(|index| is_regular(index) && has_begun(&statuses[index]));
    let last_init = (0..statuses.len()).rev().find(|index| is_init(*index) && has_begun(&statuses[*index]));
    for (index, status) in statuses.iter_mut().enumerate() {
        let is_missed =
            is_regular(index) && initialized || last_init.is_some_and(|last| is_init(index) && index <= last);
        if is_missed && ended(status.state.as_ref()).is_none() {
            status.state = Some(terminated(LOST, LOST_MESSAGE));
        }
    }
}

/// What all statuses of one look are made from.
struct Look<'a> {
    situation: &'a Situation<'a>,
    /// A regular container was started in the newest sandbox.
    initialized: bool,
    /// All containers are being taken away, to begin again.
    restarting_all: bool,
}

impl Look<'_> {
    fn status(
        &self,
        container: &Container,
        waiting: Option<&Waiting>,
        before: Option<&k8s::ContainerStatus>,
    ) -> k8s::ContainerStatus {
        let (newest, second) = self.newest_two(container);
        let mut state = match newest {
            Some(newest) => self.state(newest, before),
            None => self.missing(container, before),
        };
        let second = second.and_then(|second| self.terminated(second));
        let mut last_state = second.or_else(|| last_state(&state, newest, before));
        let mut restart_count = restart_count(newest, before);
        if let Some(before) = before.filter(|_| newest.is_none()) {
            let waits = before.state.as_ref().is_none_or(|state| state.waiting.is_some());
            let counts = container.role != Role::Ephemeral;
            if self.restarting_all && counts && !waits {
                state = waiting_state(RESTARTING_ALL, RESTARTING_ALL_MESSAGE);
                last_state = Some(terminated(RESTARTING_ALL, RESTARTING_ALL_MESSAGE));
                restart_count += 1;
            } else if is_running(before.state.as_ref()) {
                last_state = Some(terminated(LOST, LOST_MESSAGE));
                restart_count += i32::from(counts && !self.situation.ending);
            }
        }
        if let Some(waiting) = waiting.filter(|_| state.running.is_none()) {
            if state.terminated.is_some() {
                last_state = Some(state);
            }
            state = waiting_state(waiting.reason, &waiting.message);
        }
        let (started, ready) = self.health(container, newest, &state);
        k8s::ContainerStatus {
            container_id: newest.map(|newest| self.container_id(newest)),
            image: newest.map_or_else(|| container.image.clone(), |newest| newest.image.clone()),
            image_id: newest.map(|newest| newest.image_ref.clone()).unwrap_or_default(),
            last_state: Some(last_state.unwrap_or_default()),
            name: container.name.clone(),
            ready,
            restart_count,
            started,
            state: Some(state),
            user: newest.and_then(|newest| newest.user.as_ref()).map(user),
            volume_mounts: volume_mounts(container),
            ..k8s::ContainerStatus::default()
        }
    }

    /// The two newest instances. In a new sandbox init containers begin again: those of an older one are past.
    fn newest_two<'b>(
        &'b self,
        container: &'b Container,
    ) -> (Option<&'b ObservedContainer>, Option<&'b ObservedContainer>) {
        let observed = self.situation.observed;
        let mut instances = instances(observed, container);
        let (newest, second) = (instances.next(), instances.next());
        let begins_again = matches!(container.role, Role::Init | Role::Sidecar);
        let is_past = |newest: &ObservedContainer| {
            let is_elsewhere = observed.sandboxes.first().is_some_and(|sandbox| sandbox.id != newest.sandbox);
            begins_again && is_elsewhere && !is_live(newest)
        };
        if newest.is_some_and(is_past) { (None, newest) } else { (newest, second) }
    }

    /// The state of an instance the runtime has.
    fn state(&self, instance: &ObservedContainer, before: Option<&k8s::ContainerStatus>) -> k8s::ContainerState {
        let was_alive = before.is_some_and(|before| {
            let was_lost = ended(before.state.as_ref()).is_some_and(|ended| ended.reason.as_deref() == Some(LOST));
            is_running(before.state.as_ref()) || was_lost
        });
        match &instance.phase {
            ContainerPhase::Running { started_at } => {
                let running = k8s::ContainerStateRunning { started_at: Some(time(*started_at)) };
                k8s::ContainerState { running: Some(running), ..Default::default() }
            }
            ContainerPhase::Unknown if was_alive => {
                let mut lost = terminated(LOST, LOST_MESSAGE);
                lost.terminated.iter_mut().for_each(|lost| lost.container_id = Some(self.container_id(instance)));
                lost
            }
            ContainerPhase::Created | ContainerPhase::Unknown => waiting_state(self.beginning(), ""),
            ContainerPhase::Exited { .. } => self.terminated(instance).unwrap_or_default(),
        }
    }

    /// The state of a container of which the runtime has no instance (any more).
    fn missing(&self, container: &Container, before: Option<&k8s::ContainerStatus>) -> k8s::ContainerState {
        let before = before.and_then(|before| before.state.clone());
        if self.restarting_all
            && let Some(state) = before.clone().filter(|state| state.waiting.is_some())
        {
            return state;
        }
        if container.role == Role::Init && self.initialized {
            let completed = k8s::ContainerStateTerminated {
                reason: Some("Completed".to_owned()),
                message: Some(REMOVED_MESSAGE.to_owned()),
                ..Default::default()
            };
            return k8s::ContainerState { terminated: Some(completed), ..Default::default() };
        }
        before
            .filter(|state| state.terminated.is_some() && !self.begins_again(container))
            .unwrap_or_else(|| waiting_state(self.beginning(), ""))
    }

    /// Whether a container that is not there is to run once more, in a sandbox it has not been in.
    fn begins_again(&self, container: &Container) -> bool {
        matches!(container.role, Role::Init | Role::Sidecar)
            && self.situation.observed.sandboxes.first().is_some_and(|sandbox| sandbox.ready)
    }

    /// Why a container waits that was not begun.
    fn beginning(&self) -> &'static str {
        let is_init = |container: &Container| matches!(container.role, Role::Init | Role::Sidecar);
        if self.situation.pod.containers.iter().any(is_init) { "PodInitializing" } else { "ContainerCreating" }
    }

    /// The state of an instance that has ended; none for others.
    fn terminated(&self, instance: &ObservedContainer) -> Option<k8s::ContainerState> {
        let ContainerPhase::Exited { started_at, finished_at, exit_code, reason, message } = &instance.phase else {
            return None;
        };
        let share = TERMINATION_MESSAGES_BYTES_MAX / self.situation.pod.containers.len().max(1);
        let terminated = k8s::ContainerStateTerminated {
            container_id: Some(self.container_id(instance)),
            exit_code: *exit_code,
            finished_at: Some(time(*finished_at)),
            message: (!message.is_empty()).then(|| message[..message.floor_char_boundary(share)].to_owned()),
            reason: Some(if reason.is_empty() { usual_reason(*exit_code) } else { reason }.to_owned()),
            signal: None,
            started_at: Some(time(*started_at)),
        };
        Some(k8s::ContainerState { terminated: Some(terminated), ..Default::default() })
    }

    /// `started` and `ready`. An init container is ready when it has done its work; one that was added to the running pod
    /// never is.
    fn health(
        &self,
        container: &Container,
        newest: Option<&ObservedContainer>,
        state: &k8s::ContainerState,
    ) -> (Option<bool>, bool) {
        let running = state.running.is_some();
        let found = newest.and_then(|newest| self.situation.healths.get(&newest.id)).copied();
        let health = found.unwrap_or_else(|| Health::initial(&container.probes));
        match container.role {
            Role::Sidecar | Role::Regular => (Some(running && health.is_started()), running && health.is_ready()),
            Role::Init => (Some(running), ended(Some(state)).is_some_and(|end| !has_failed(end))),
            Role::Ephemeral => (None, false),
        }
    }

    fn container_id(&self, instance: &ObservedContainer) -> String {
        format!("{}://{}", self.situation.runtime_name, instance.id)
    }
}

/// What the runtime says of an end that nothing else is known of.
fn usual_reason(exit_code: i32) -> &'static str {
    if exit_code == 0 { "Completed" } else { "Error" }
}

/// What is known of the instance before the one that `state` is about, from the status before: it may have been the newest
/// then.
fn last_state(
    state: &k8s::ContainerState,
    newest: Option<&ObservedContainer>,
    before: Option<&k8s::ContainerStatus>,
) -> Option<k8s::ContainerState> {
    let is_past = |past: &&k8s::ContainerState| {
        let Some(ended) = &past.terminated else { return false };
        let id = ended.container_id.as_deref().unwrap_or_default();
        *past != state && !newest.is_some_and(|newest| id.ends_with(newest.id.as_str()))
    };
    let before = before?;
    before.state.as_ref().filter(is_past).or(before.last_state.as_ref().filter(is_past)).cloned()
}

fn waiting_state(reason: &str, message: &str) -> k8s::ContainerState {
    let message = (!message.is_empty()).then(|| message.to_owned());
    let waiting = k8s::ContainerStateWaiting { reason: Some(reason.to_owned()), message };
    k8s::ContainerState { waiting: Some(waiting), ..Default::default() }
}

/// The state of an instance of whose end nobody knows.
fn terminated(reason: &str, message: &str) -> k8s::ContainerState {
    let terminated = k8s::ContainerStateTerminated {
        exit_code: policy::KILLED,
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        ..Default::default()
    };
    k8s::ContainerState { terminated: Some(terminated), ..Default::default() }
}

/// Never less than it was.
fn restart_count(newest: Option<&ObservedContainer>, before: Option<&k8s::ContainerStatus>) -> i32 {
    let observed = newest.map_or(0, |newest| i32::try_from(newest.attempt).unwrap_or(i32::MAX));
    observed.max(before.map_or(0, |before| before.restart_count))
}

fn user(user: &ObservedUser) -> k8s::ContainerUser {
    let ObservedUser { uid, gid, supplemental_groups } = user;
    let linux = k8s::LinuxContainerUser {
        uid: *uid,
        gid: *gid,
        supplemental_groups: (!supplemental_groups.is_empty()).then(|| supplemental_groups.clone()),
    };
    k8s::ContainerUser { linux: Some(linux) }
}

fn volume_mounts(container: &Container) -> Option<Vec<k8s::VolumeMountStatus>> {
    let mounts = container.mounts.iter().filter_map(|mount| {
        Some(k8s::VolumeMountStatus {
            mount_path: mount.container_path.clone(),
            name: mount.volume.clone()?,
            read_only: mount.read_only.then_some(true),
            recursive_read_only: mount.read_only.then(|| recursive_read_only(mount.recursive_read_only).to_owned()),
            volume_status: None,
        })
    });
    super::unless_empty(mounts.collect())
}

/// `IfPossible` is shown as what is sure.
fn recursive_read_only(mode: RecursiveReadOnly) -> &'static str {
    if mode == RecursiveReadOnly::Enabled { "Enabled" } else { "Disabled" }
}
