//! Pods of several containers: each container's state, and what they add up to.

use super::*;
use crate::model::ObservedUser;
use crate::plan::probe::Finding;
use crate::plan::tests::lives::{pod_of, probe};
use crate::podspec::{ExitCodes, Probes, RestartAction, RestartPolicy, RestartRule};

/// A pod of these containers; nothing of it ends or has ended.
fn of(states: &[&str]) -> Row {
    let mut row = base();
    row.case = pod_of(states);
    row.waiting = vec![None; states.len()];
    row
}

/// The same with a policy for its init and regular containers.
fn under(policy: RestartPolicy, states: &[&str]) -> Row {
    let mut row = of(states);
    for container in row.case.pod.containers.iter_mut().filter(|one| matches!(one.role, Role::Init | Role::Regular)) {
        container.restart_policy = policy;
    }
    row
}

impl Row {
    fn phase(&self) -> String {
        self.status().phase.unwrap()
    }

    /// The container as `state lastState restarts`, then whether it is started and ready.
    fn container(&self, name: &str) -> String {
        let status = self.status();
        let lists = [status.init_container_statuses, status.container_statuses, status.ephemeral_container_statuses];
        let found = lists.into_iter().flatten().flatten().find(|status| status.name == name).unwrap();
        let started = match found.started {
            Some(true) => " started",
            Some(false) => "",
            None => " -",
        };
        let ready = if found.ready { " ready" } else { "" };
        format!("{} {} {}{started}{ready}", word(found.state), word(found.last_state), found.restart_count)
    }

    /// `True`, or `False` with reason and message.
    fn condition(&self, type_: &str) -> String {
        let found = self.status().conditions.unwrap().into_iter().find(|one| one.type_ == type_).unwrap();
        let words = [Some(found.status), found.reason, found.message];
        words.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }
}

fn word(state: Option<k8s::ContainerState>) -> String {
    match state.unwrap_or_default() {
        k8s::ContainerState { running: Some(_), .. } => "running".to_owned(),
        k8s::ContainerState { waiting: Some(waiting), .. } => waiting.reason.unwrap_or_default(),
        k8s::ContainerState { terminated: Some(end), .. } => {
            format!("{}({})", end.reason.unwrap_or_default(), end.exit_code)
        }
        _ => "-".to_owned(),
    }
}

#[test]
fn every_mixture_of_containers_has_its_phase() {
    use RestartPolicy::{Always, Never, OnFailure};
    let rows: [(RestartPolicy, &[&str], &str); 24] = [
        (Always, &["first -", "web -"], "Pending"),
        (Always, &["first runs", "web -"], "Pending"),
        (Always, &["first 1", "web -"], "Pending"),
        (Always, &["first done", "web -"], "Pending"),
        (Always, &["first done", "web runs"], "Running"),
        (Always, &["first done", "proxy runs", "web -"], "Pending"),
        (Always, &["first done", "proxy 1", "web runs"], "Running"),
        (Always, &["web runs", "aux -"], "Pending"),
        (Always, &["web runs", "aux 1"], "Running"),
        (Always, &["web 1", "aux 1"], "Running"),
        (Always, &["web done"], "Running"),
        (OnFailure, &["web done", "aux 1"], "Running"),
        (OnFailure, &["web done", "aux done"], "Succeeded"),
        (Never, &["web done", "aux runs"], "Running"),
        (Never, &["web done", "aux done"], "Succeeded"),
        (Never, &["web done", "aux 1"], "Failed"),
        (Never, &["first 1", "web -"], "Failed"),
        (Never, &["first oom", "web -"], "Failed"),
        // Not before the last of it has ended.
        (Never, &["proxy runs", "web 1"], "Running"),
        (Never, &["proxy runs", "second 1", "web -"], "Pending"),
        (Never, &["web done", "debug runs"], "Running"),
        (Never, &["proxy 1", "web done"], "Succeeded"),
        (Never, &["web done", "debug 1"], "Succeeded"),
        (Never, &["web -", "debug done"], "Pending"),
    ];
    for (policy, states, phase) in rows {
        assert_eq!(under(policy, states).phase(), phase, "{policy:?} {states:?}");
    }
    let mut row = under(Never, &["web 1"]);
    row.case.observed.containers[0].spec_hash.clear();
    assert_eq!(row.phase(), "Running", "one whose definition was changed");
    let mut row = of(&["proxy runs", "web runs"]);
    row.case.of("proxy").probes.startup = probe(None);
    assert_eq!(row.phase(), "Running", "a sidecar that was restarted");
    row.case.look(&["proxy runs", "web made"]);
    assert_eq!(row.phase(), "Pending", "one that has yet to start");
}

#[test]
fn containers_are_listed_as_what_they_are() {
    let mut row = of(&["first done", "proxy runs", "second runs", "web -", "aux -", "debug runs"]);
    let names = |list: Option<Vec<k8s::ContainerStatus>>| {
        list.unwrap().into_iter().map(|status| status.name).collect::<Vec<_>>()
    };
    let status = row.status();
    assert_eq!(names(status.init_container_statuses), ["first", "proxy", "second"], "as in the spec");
    assert_eq!(names(status.container_statuses), ["aux", "web"], "by name");
    assert_eq!(names(status.ephemeral_container_statuses), ["debug"]);
    assert_eq!(row.container("first"), "Completed(0) - 0 ready");
    assert_eq!(row.container("proxy"), "running - 0 started ready");
    assert_eq!(row.container("second"), "running - 0 started");
    assert_eq!(row.container("web"), "PodInitializing - 0");
    assert_eq!(row.container("debug"), "running - 0 -");

    // What was removed since has done its work, or web would not run.
    row.case.look(&["proxy runs", "second done", "web runs"]);
    assert_eq!(row.container("first"), "Completed(0) - 0 ready");
    row.case.look(&["proxy runs", "second oom", "web -"]);
    assert_eq!(row.container("second"), "OOMKilled(0) - 0");
}

#[test]
fn probes_decide_about_started_and_ready() {
    let with = |startup, readiness| {
        let mut row = of(&["proxy runs", "web runs"]);
        for name in ["proxy", "web"] {
            row.case.of(name).probes = Probes { startup: probe(None), liveness: probe(None), readiness: probe(None) };
            row.case.found(name, |health| (health.startup, health.readiness) = (startup, readiness));
        }
        assert_eq!(row.container("proxy"), row.container("web"));
        row
    };
    use Finding::{Failure, Success, Unknown};
    assert_eq!(with(Unknown, Success).container("web"), "running - 0");
    let unready = with(Success, Failure);
    assert_eq!(unready.container("web"), "running - 0 started");
    assert_eq!(unready.condition("Ready"), "False ContainersNotReady containers with unready status: [proxy web]");
    assert_eq!(with(Success, Success).container("web"), "running - 0 started ready");
    assert_eq!(with(Success, Success).condition("Ready"), "True");
    let mut row = with(Success, Success);
    row.case.healths.clear();
    assert_eq!(row.container("web"), "running - 0", "nothing was found out yet");
}

#[test]
fn conditions_say_what_is_missing() {
    let initialized = |states: &[&str]| of(states).condition("Initialized");
    assert_eq!(
        initialized(&["first -", "proxy -", "web -"]),
        "False ContainersNotInitialized containers with incomplete status: [first proxy]"
    );
    assert_eq!(
        initialized(&["first done", "proxy made", "web -"]),
        "False ContainersNotInitialized containers with incomplete status: [proxy]"
    );
    assert_eq!(initialized(&["first done", "proxy runs", "web -"]), "True");
    assert_eq!(initialized(&["first done", "proxy 1", "web runs"]), "True", "a sidecar that is restarted");
    assert_eq!(
        of(&["first done", "proxy 1", "web runs"]).condition("Ready"),
        "False ContainersNotReady containers with unready status: [proxy]"
    );
    let failed = under(RestartPolicy::Never, &["first 1", "web -"]);
    assert_eq!(failed.condition("Ready"), "False PodFailed");
    assert_eq!(
        failed.condition("Initialized"),
        "False ContainersNotInitialized containers with incomplete status: [first]"
    );
    let mut row = of(&["first -", "web -"]);
    row.rejection = Some(Rejection { reason: "OutOfcpu".to_owned(), message: "too little".to_owned() });
    assert_eq!(row.condition("Initialized"), "False ContainersNotInitialized containers with unknown status: [first]");
}

#[test]
fn gates_that_nobody_opened_keep_a_pod_from_being_ready() {
    let mut row = of(&["web runs"]);
    row.case.pod.readiness_gates = vec!["a/b".to_owned(), "c".to_owned()];
    assert_eq!(row.condition("ContainersReady"), "True");
    assert_eq!(
        row.condition("Ready"),
        "False ReadinessGatesNotReady corresponding condition of pod readiness gate \"a/b\" does not exist., \
         corresponding condition of pod readiness gate \"c\" does not exist."
    );
    row.case.look(&["web 1"]);
    assert_eq!(row.condition("Ready"), "False ContainersNotReady containers with unready status: [web]");
}

#[test]
fn in_a_new_sandbox_init_containers_wait_again_and_keep_their_past() {
    let mut row = of(&["first done", "proxy runs", "web runs"]);
    row.look_again(10);
    row.case.look(&["first done", "proxy 137", "web 137"]);
    row.case.observed.sandboxes[0] = sandbox("s0", 0, false);
    row.look_again(11);
    assert_eq!(row.container("first"), "Completed(0) - 0 ready", "until there is one");
    row.case.observed.sandboxes.insert(0, sandbox("s1", 1, true));
    row.look_again(12);
    assert_eq!(row.container("first"), "PodInitializing Completed(0) 0");
    assert_eq!(row.container("proxy"), "PodInitializing Error(137) 0");
    assert_eq!(row.container("web"), "Error(137) - 0");
    assert_eq!(
        row.condition("Initialized"),
        "False ContainersNotInitialized containers with incomplete status: [first proxy]"
    );
    assert_eq!(row.phase(), "Running");
}

#[test]
fn beginning_everything_again_is_told_and_loses_no_restart() {
    let (action, exit_codes) = (RestartAction::RestartAllContainers, ExitCodes::In(vec![42]));
    let mut row = of(&["first done", "web runs", "aux runs"]);
    assert!(!row.status().conditions.unwrap().iter().any(|one| one.type_ == "AllContainersRestarting"));
    row.case.of("web").restart_rules = vec![RestartRule { action, exit_codes }];
    assert_eq!(row.condition("AllContainersRestarting"), "False");
    row.look_again(10);
    row.case.look(&["first done", "web 42", "aux runs"]);
    assert_eq!(
        row.condition("AllContainersRestarting"),
        "True RestartAllContainersStarted container exited with restart policy rule"
    );
    row.look_again(11);
    row.case.look(&["web 42"]);
    for _ in 0..2 {
        assert_eq!(row.container("first"), "RestartingAllContainers RestartingAllContainers(137) 1");
        assert_eq!(row.container("aux"), "RestartingAllContainers RestartingAllContainers(137) 1");
        assert_eq!((row.container("web"), row.phase()), ("Error(42) - 0".to_owned(), "Running".to_owned()));
        row.look_again(12);
    }
    row.case.look(&[]);
    row.look_again(13);
    assert_eq!(row.condition("AllContainersRestarting"), "False");
    assert_eq!(row.container("web"), "Error(42) - 0");
    row.case.look(&["first runs"]);
    row.case.observed.containers[0].attempt = 1;
    assert_eq!(row.container("first"), "running RestartingAllContainers(137) 1 started");
    row.case.look(&["first done", "web runs", "aux -"]);
    row.case.observed.containers.iter_mut().for_each(|instance| {
        instance.attempt = 1;
        instance.id = format!("{}-1", instance.name).as_str().into();
    });
    assert_eq!(row.container("web"), "running Error(42) 1 started ready");
    assert_eq!(row.phase(), "Running");
}

#[test]
fn a_pod_that_came_to_its_end_stays_so_and_says_why() {
    let finished = Finished {
        succeeded: false,
        reason: Some("Why".to_owned()),
        message: Some("because".to_owned()),
        disrupted: false,
    };
    let told = |row: &Row| (row.phase(), row.status().reason, row.status().message);
    let mut row = of(&["proxy runs", "web runs", "aux -"]);
    row.finished = Some(finished.clone());
    assert_eq!(told(&row), ("Pending".to_owned(), None, None), "it has yet to end");
    row.case.look(&["proxy 143", "web 143", "aux -"]);
    let final_word = ("Failed".to_owned(), finished.reason.clone(), finished.message.clone());
    assert_eq!(told(&row), final_word);
    assert_eq!(row.container("aux"), "ContainerStatusUnknown(137) - 0", "one that never came to run");
    row.look_again(10);
    row.case.observed = ObservedPod::default();
    assert_eq!(told(&row), final_word);
    assert_eq!(row.container("web"), "Error(143) - 0");
    row.previous = None;
    row.ending = true;
    assert_eq!(told(&row), final_word, "also when nothing is left to tell of it");

    let mut row = under(RestartPolicy::Never, &["web done"]);
    assert_eq!(row.condition("Initialized"), "True PodCompleted");
    row.finished = Some(Finished { succeeded: true, reason: None, message: None, disrupted: false });
    row.case.look(&[]);
    assert_eq!(row.phase(), "Succeeded");
}

#[test]
fn a_pod_deleted_before_it_ran_has_failed_and_sidecars_do_not_count() {
    let ending = |states: &[&str]| {
        let mut row = of(states);
        row.ending = true;
        row
    };
    assert_eq!(ending(&["first -", "web -"]).phase(), "Failed");
    assert_eq!(ending(&["first -", "web -"]).container("web"), "PodInitializing - 0");
    assert_eq!(ending(&["proxy 137", "web done"]).phase(), "Succeeded");
    assert_eq!(ending(&["first 137", "proxy -", "web -"]).container("web"), "PodInitializing - 0");
    assert_eq!(ending(&["proxy -", "second 137", "web -"]).container("proxy"), "ContainerStatusUnknown(137) - 0");
}

#[test]
fn who_a_container_runs_as_is_told_where_the_runtime_tells_it() {
    let mut row = of(&["web runs"]);
    let user = |row: &Row| row.status().container_statuses.unwrap().remove(0).user;
    assert_eq!(user(&row), None);
    row.case.observed.containers[0].user = Some(ObservedUser { uid: 1000, gid: 100, supplemental_groups: vec![4] });
    let linux = k8s::LinuxContainerUser { uid: 1000, gid: 100, supplemental_groups: Some(vec![4]) };
    assert_eq!(user(&row), Some(k8s::ContainerUser { linux: Some(linux) }));
}

#[test]
fn a_restarted_agent_tells_the_same_of_an_initialized_pod() {
    let mut row = of(&["first done", "proxy runs", "web runs"]);
    let since = |instance: &mut ObservedContainer, second| match &mut instance.phase {
        ContainerPhase::Running { started_at } => *started_at = at(second),
        ContainerPhase::Exited { finished_at, .. } => *finished_at = at(second),
        _ => {}
    };
    for (index, instance) in row.case.observed.containers.iter_mut().enumerate() {
        since(instance, 3 + i64::try_from(index).unwrap());
    }
    let first = row.status();
    let initialized = serde_json::to_value(&first.conditions.as_ref().unwrap()[1]).unwrap();
    assert_eq!(initialized, condition("Initialized", 4), "with the last that it waited for");
    row.look_again(100);
    assert_eq!(row.status(), first);
    row.previous = None;
    assert_eq!(row.status(), first);
}
