use std::path::Path;

use super::*;
use crate::plan::storage::ContainerUsage;
use crate::podspec::Budget;
use crate::testing::pods;

const GIB: u64 = 1 << 30;

fn at(seconds: u64) -> Moment {
    Moment(Duration::from_secs(seconds))
}

fn reading(available: u64, capacity: u64) -> Reading {
    Reading { available, capacity }
}

/// A node with enough of everything, but for the change.
fn readings(change: &[(Signal, Reading)]) -> Readings {
    let whole = reading(100, 100);
    let others = [Signal::NodeFs, Signal::NodeFsInodes, Signal::ImageFs, Signal::ImageFsInodes, Signal::Pids];
    let mut readings: Readings = others.map(|signal| (signal, whole)).into();
    readings.insert(Signal::Memory, reading(GIB, GIB));
    readings.extend(change.iter().copied());
    readings
}

#[test]
fn each_signal_has_its_threshold() {
    for (signal, enough, too_little) in [
        (Signal::Memory, reading(100 << 20, GIB), reading((100 << 20) - 1, GIB)),
        (Signal::NodeFs, reading(10, 100), reading(9, 100)),
        (Signal::NodeFsInodes, reading(5, 100), reading(4, 100)),
        (Signal::ImageFs, reading(15, 100), reading(14, 100)),
        (Signal::ImageFsInodes, reading(5, 100), reading(4, 100)),
    ] {
        let observe = |reading| Pressure::new(Thresholds::default()).observe(&readings(&[(signal, reading)]), at(1));
        assert_eq!(observe(enough), []);
        assert_eq!(observe(too_little), [signal]);
    }
    // A filesystem without a bound on its files is never short of them.
    assert_eq!(
        Pressure::new(Thresholds::default()).observe(&readings(&[(Signal::NodeFsInodes, reading(0, 0))]), at(1)),
        []
    );
    // Processes have no bound unless one is set.
    let none_left = readings(&[(Signal::Pids, reading(0, 100))]);
    assert_eq!(Pressure::new(Thresholds::default()).observe(&none_left, at(1)), []);
    assert_eq!(Pressure::new("pid.available<10%".parse().unwrap()).observe(&none_left, at(1)), [Signal::Pids]);
    let both = readings(&[(Signal::ImageFs, reading(0, 100)), (Signal::Memory, reading(0, GIB))]);
    assert_eq!(Pressure::new(Thresholds::default()).observe(&both, at(1)), [Signal::Memory, Signal::ImageFs]);
}

#[test]
fn thresholds_are_written_as_for_a_kubelet_and_take_the_place_of_all_defaults() {
    let parsed = |text: &str| text.parse::<Thresholds>();
    let whole =
        "memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%, imagefs.inodesFree<5%";
    assert_eq!(parsed(whole), Ok(Thresholds::default()));
    let some = parsed("nodefs.available<7.5%,memory.available<1Gi,imagefs.inodesFree<1k,pid.available<20").unwrap();
    let all =
        [Signal::Memory, Signal::NodeFs, Signal::NodeFsInodes, Signal::ImageFs, Signal::ImageFsInodes, Signal::Pids];
    assert_eq!(all.map(|signal| some.of(signal, 2000)), [GIB, 150, 0, 0, 1000, 20]);
    assert_eq!(all.map(|signal| some.bound(&[signal])), [true, true, false, false, true, true]);
    let none = parsed("").unwrap();
    assert!(none.is_empty() && !none.bound(&all));
    assert_eq!(all.map(|signal| none.of(signal, 2000)), [0; 6]);
    for (text, error) in [
        ("memory.available", BadThreshold::Form("memory.available".to_owned())),
        ("cpu.available<10%", BadThreshold::Signal("cpu.available".to_owned())),
        ("nodefs.available<101%", BadThreshold::Amount("101%".to_owned())),
        ("nodefs.available<-1", BadThreshold::Amount("-1".to_owned())),
        ("nodefs.available<much", BadThreshold::Amount("much".to_owned())),
    ] {
        assert_eq!(parsed(text), Err(error));
    }
}

#[test]
fn a_condition_holds_on_for_five_minutes() {
    let mut pressure = Pressure::new("memory.available<100Mi,imagefs.inodesFree<5%,pid.available<5".parse().unwrap());
    let conditions = |memory, disk| Conditions { memory, disk, pid: false };
    assert_eq!(pressure.conditions(at(1000)), conditions(false, false));
    pressure.observe(&readings(&[(Signal::ImageFsInodes, reading(0, 100))]), at(1000));
    pressure.observe(&readings(&[(Signal::Memory, reading(0, GIB))]), at(1010));
    assert_eq!(pressure.conditions(at(1299)), conditions(true, true));
    assert_eq!(pressure.conditions(at(1300)), conditions(true, false));
    pressure.observe(&readings(&[(Signal::Pids, reading(4, 100))]), at(1305));
    assert_eq!(pressure.conditions(at(1309)), Conditions { memory: true, disk: false, pid: true });
    pressure.observe(&readings(&[]), at(1309));
    assert_eq!(pressure.conditions(at(1310)), Conditions { memory: false, disk: false, pid: true });
    assert_eq!(pressure.conditions(at(1605)), Conditions::default());
}

#[test]
fn a_node_that_runs_short_takes_on_only_who_minds_it_least() {
    let ordinary = pods::pod("web", Path::new("/"));
    let critical = Pod { priority: 2_000_001_000, ..ordinary.clone() };
    let conditions = |memory, disk| Conditions { memory, disk, pid: false };
    let all = Conditions { memory: true, disk: true, pid: true };
    assert_eq!(conditions(true, false).admit(&ordinary), Ok(()));
    assert_eq!(all.admit(&critical), Ok(()));
    let refused = |names: &str| Err(format!("The node had condition: [{names}]. "));
    let uninvited = Pod { tolerates_memory_pressure: false, ..ordinary.clone() };
    assert_eq!(conditions(true, false).admit(&uninvited), refused("MemoryPressure"));
    assert_eq!(conditions(true, false).admit(&Pod { qos: QosClass::Burstable, ..uninvited.clone() }), Ok(()));
    assert_eq!(conditions(true, false).admit(&Pod { priority: critical.priority, ..uninvited.clone() }), Ok(()));
    assert_eq!(conditions(false, false).admit(&uninvited), Ok(()));
    assert_eq!(conditions(false, true).admit(&ordinary), refused("DiskPressure"));
    assert_eq!(conditions(true, true).admit(&ordinary), refused("MemoryPressure DiskPressure"));
    assert_eq!(Conditions { pid: true, ..Conditions::default() }.admit(&ordinary), refused("PIDPressure"));
}

/// A pod that asked for some memory and disk.
fn pod(name: &str, priority: i32, requested: u64) -> Pod {
    let mut pod = pods::pod(name, Path::new("/"));
    pod.priority = priority;
    let requests = ["memory", "ephemeral-storage"].map(|resource| (resource.to_owned(), requested));
    pod.requests.resources = requests.into();
    let container = ContainerBudget {
        name: "main".to_owned(),
        memory_request_bytes: requested,
        storage_request_bytes: requested,
        storage_limit: None,
    };
    pod.budget = Budget { containers: vec![container], ..Budget::default() };
    pod
}

/// One that takes this of memory, of its image's disk, and of its own files' disk.
fn usage(memory_bytes: u64, rootfs: u64, volume: u64) -> PodUsage {
    let bytes = |bytes| Usage { bytes, inodes: bytes / 10 };
    let container = ContainerUsage { memory_bytes, logs: Usage::default(), rootfs: bytes(rootfs) };
    PodUsage {
        volumes: [("v".to_owned(), bytes(volume))].into(),
        containers: [("main".to_owned(), container)].into(),
        rest: Usage::default(),
        processes: 0,
    }
}

#[test]
fn who_takes_more_than_was_asked_for_goes_first() {
    let (modest, greedy, greater) = (pod("modest", -5, 100), pod("greedy", 0, 100), pod("greater", 7, 0));
    let (greediest, critical) = (pod("greediest", 0, 0), pod("critical", 2_000_000_000, 0));
    let within = usage(100, 100, 0);
    let more = usage(150, 150, 0);
    let most = usage(900, 900, 0);
    let first = |signal, candidates: &[(&Pod, Option<&PodUsage>)], split| {
        let candidates: Vec<_> = candidates.iter().map(|(pod, usage)| Candidate { pod, usage: *usage }).collect();
        victim(signal, &candidates, split).map(|victim| victim.pod.key.name.clone())
    };
    let name = |name: &str| Some(name.to_owned());
    for signal in [Signal::Memory, Signal::NodeFs, Signal::ImageFs] {
        let first = |candidates: &[(&Pod, Option<&PodUsage>)]| first(signal, candidates, false);
        assert_eq!(first(&[(&modest, Some(&within)), (&greater, Some(&more))]), name("greater"));
        assert_eq!(first(&[(&greater, Some(&most)), (&greedy, Some(&more))]), name("greedy"));
        assert_eq!(first(&[(&greedy, Some(&more)), (&greediest, Some(&more))]), name("greediest"));
        assert_eq!(first(&[(&greediest, Some(&most)), (&greedy, None)]), name("greedy"), "who knows what it takes");
        assert_eq!(first(&[(&critical, Some(&most)), (&modest, Some(&within))]), name("modest"));
        assert_eq!(first(&[(&critical, Some(&most))]), None);
    }
    // Each disk is cleared of those who fill it.
    let (on_images, on_node) = (usage(0, 200, 0), usage(0, 0, 300));
    let both: [(&Pod, _); 2] = [(&greedy, Some(&on_images)), (&greediest, Some(&on_node))];
    assert_eq!(first(Signal::ImageFs, &both, true), name("greedy"));
    assert_eq!(first(Signal::NodeFs, &both, true), name("greediest"));
    assert_eq!(first(Signal::ImageFsInodes, &both, true), name("greedy"));
    // Processes are nothing to ask for: only priority and number count.
    let having = |processes| PodUsage { processes, ..PodUsage::default() };
    let (few, many) = (having(2), having(900));
    let first = |candidates: &[(&Pod, Option<&PodUsage>)]| first(Signal::Pids, candidates, false);
    assert_eq!(first(&[(&greedy, Some(&few)), (&greediest, Some(&many))]), name("greediest"));
    assert_eq!(first(&[(&greedy, Some(&many)), (&modest, None)]), name("modest"));
    assert_eq!(first(&[(&greater, None), (&greedy, Some(&few))]), name("greedy"));
    assert_eq!(first(&[(&greediest, Some(&many)), (&greedy, None)]), name("greedy"), "who knows what it has");
}

#[test]
fn the_message_names_what_was_short_and_who_took_it() {
    let pod = pod("web", 0, 100);
    let usage = usage(150 << 20, 3 << 10, 0);
    let candidate = Candidate { pod: &pod, usage: Some(&usage) };
    let pressure = Pressure::new(Thresholds::default());
    assert_eq!(
        pressure.message(Signal::Memory, reading(53_928 << 10, GIB), candidate),
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 53928Ki. Container main was using \
         150Mi, request is 100, has larger consumption of memory. "
    );
    assert_eq!(
        pressure.message(Signal::NodeFs, reading(GIB, 20 * GIB), candidate),
        "The node was low on resource: ephemeral-storage. Threshold quantity: 2Gi, available: 1Gi. Container main was \
         using 3Ki, request is 100, has larger consumption of ephemeral-storage. "
    );
    let unknown = Candidate { pod: &pod, usage: None };
    assert_eq!(
        pressure.message(Signal::ImageFsInodes, reading(4, 100), unknown),
        "The node was low on resource: inodes. Threshold quantity: 5, available: 4. "
    );
}
