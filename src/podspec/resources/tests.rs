use serde_json::{Value, json};

use super::*;
use crate::testing::pods::host;

fn demand(spec: &Value) -> Demand {
    Demand::read(&serde_json::from_value(spec.clone()).unwrap(), &Path::new("spec")).unwrap()
}

/// A container that asks for so much of `cpu` (millicores) and `memory` (bytes), and is limited to the same if it is.
fn asks(cpu: u64, memory: u64, limited: bool) -> Value {
    let amounts = json!({ "cpu": format!("{cpu}m"), "memory": memory.to_string() });
    let limits = if limited { amounts.clone() } else { json!({}) };
    json!({ "name": "x", "resources": { "requests": amounts, "limits": limits } })
}

fn sidecar(mut container: Value) -> Value {
    container["restartPolicy"] = json!("Always");
    container
}

#[test]
fn a_pod_asks_for_what_it_needs_at_the_worst_moment() {
    let rows = [
        // Init containers run one after the other, and before the regular ones.
        (
            json!({ "initContainers": [asks(500, 10, false), asks(100, 70, false)],
            "containers": [asks(200, 20, false), asks(100, 30, false)] }),
            (500, 70),
        ),
        // A sidecar runs beside those after it, not beside those before it.
        (
            json!({ "initContainers": [asks(300, 1, false), sidecar(asks(50, 5, false)), asks(280, 1, false)],
            "containers": [asks(200, 20, false)] }),
            (330, 25),
        ),
        (
            json!({ "initContainers": [sidecar(asks(50, 5, false)), sidecar(asks(60, 6, false))],
            "containers": [asks(200, 20, false)] }),
            (310, 31),
        ),
        // What the pod as a whole says goes before the sum, and overhead comes on top.
        (
            json!({ "resources": { "requests": { "cpu": "1" } }, "overhead": { "cpu": "10m", "memory": "3" },
            "containers": [asks(200, 20, false)] }),
            (1010, 23),
        ),
        (
            json!({ "resources": { "limits": { "cpu": "2", "memory": "90" } }, "containers": [asks(200, 20, false)] }),
            (200, 20),
        ),
        (
            json!({ "resources": { "limits": { "cpu": "2", "memory": "90" } }, "containers": [{ "name": "x" }] }),
            (2000, 90),
        ),
    ];
    for (spec, (cpu, memory)) in rows {
        let requests = demand(&spec).requests();
        assert_eq!((requests[CPU], requests[MEMORY]), (cpu, memory), "{spec}");
    }
}

#[test]
fn every_container_counts_for_the_class_but_only_the_pods_own_where_it_has_some() {
    let fixed = asks(100, 10, true);
    let rows = [
        (json!({ "containers": [{ "name": "x" }] }), QosClass::BestEffort),
        (json!({ "containers": [asks(0, 0, true)] }), QosClass::BestEffort),
        (json!({ "containers": [fixed] }), QosClass::Guaranteed),
        (json!({ "initContainers": [fixed], "containers": [fixed] }), QosClass::Guaranteed),
        (json!({ "initContainers": [{ "name": "i" }], "containers": [fixed] }), QosClass::Burstable),
        (json!({ "initContainers": [fixed], "containers": [{ "name": "x" }] }), QosClass::Burstable),
        (json!({ "containers": [asks(100, 10, false)] }), QosClass::Burstable),
        (
            json!({ "resources": { "limits": { "cpu": "1", "memory": "1Gi" } }, "containers": [{ "name": "x" }] }),
            QosClass::Guaranteed,
        ),
        (json!({ "resources": { "requests": { "cpu": "1" } }, "containers": [fixed] }), QosClass::Burstable),
    ];
    for (spec, qos) in rows {
        assert_eq!(demand(&spec).qos(), qos, "{spec}");
    }
}

#[test]
fn the_pods_cgroup_is_limited_where_all_are_or_the_pod_is() {
    let mut half = asks(100, 10, true);
    half["resources"]["limits"] = json!({ "memory": "10" });
    let limits = |spec: Value| {
        let CgroupLimits { cpu_shares, cpu_quota, memory_bytes, .. } = demand(&spec).cgroup(&host());
        (cpu_shares, cpu_quota.map(|(quota, _)| quota), memory_bytes)
    };
    let fixed = asks(500, 10, true);
    assert_eq!(limits(json!({ "containers": [{ "name": "x" }] })), (2, None, None));
    assert_eq!(limits(json!({ "containers": [fixed, fixed] })), (1024, Some(100_000), Some(20)));
    assert_eq!(limits(json!({ "containers": [fixed, half] })), (614, None, Some(20)));
    assert_eq!(limits(json!({ "initContainers": [{ "name": "i" }], "containers": [fixed] })), (512, None, None));
    let overhead = json!({ "overhead": { "cpu": "500m", "memory": "7" }, "containers": [fixed] });
    assert_eq!(limits(overhead), (1024, Some(100_000), Some(17)));
    let pod = json!({ "resources": { "limits": { "cpu": "1" } }, "containers": [fixed, half] });
    assert_eq!(limits(pod), (614, Some(100_000), Some(20)));

    let mut host = host();
    host.hugepage_sizes = vec![2 << 20, 1 << 30];
    let huge = json!({ "name": "x", "resources": { "limits": { "cpu": "1", "hugepages-2Mi": "4Mi" } } });
    let huge = demand(&json!({ "containers": [huge, huge] })).cgroup(&host).hugepage_bytes;
    assert_eq!(huge, [("2MB".to_owned(), 8 << 20), ("1GB".to_owned(), 0)]);
}

#[test]
fn who_is_killed_first_depends_on_what_was_asked_for() {
    let capacity = 1000;
    let score = |spec: Value, role, index| {
        let demand = demand(&spec);
        demand.oom_score_adj(&demand.of(role, index), role, capacity)
    };
    let [small, large] = [100, 300].map(|memory| asks(10, memory, false));
    let both = json!({ "initContainers": [sidecar(asks(10, 50, false)), sidecar(asks(10, 200, false)), asks(10, 50, false)],
        "containers": [small, large] });
    let scores = [
        score(both.clone(), Role::Sidecar, 0),
        score(both.clone(), Role::Sidecar, 1),
        score(both.clone(), Role::Init, 2),
        score(both.clone(), Role::Regular, 0),
        score(both, Role::Regular, 1),
    ];
    assert_eq!(scores, [900, 800, 950, 900, 700], "a sidecar is not killed before the least of the regular ones");

    let shared = json!({ "resources": { "requests": { "memory": "600" } }, "containers": [small, large] });
    assert_eq!(score(shared.clone(), Role::Regular, 0), 800, "what the pod asks for beyond is shared out");
    assert_eq!(score(shared, Role::Ephemeral, 0), 900);
    assert_eq!(score(json!({ "containers": [asks(0, 0, false)] }), Role::Regular, 0), 1000);
    assert_eq!(score(json!({ "containers": [asks(1, 1, true)] }), Role::Regular, 0), -997);
    let critical = json!({ "priorityClassName": "system-node-critical", "containers": [{ "name": "x" }] });
    assert_eq!(score(critical, Role::Regular, 0), -997);
    assert_eq!(score(json!({ "containers": [asks(1, 990_000, false)] }), Role::Regular, 0), 3);
    assert_eq!(score(json!({ "containers": [asks(1, 0, false)] }), Role::Regular, 0), 999);
}

#[test]
fn a_container_without_limits_is_held_to_its_pods() {
    let spec = json!({ "resources": { "limits": { "cpu": "2", "memory": "1Gi" } },
        "containers": [{ "name": "bare" }, asks(500, 100, true)] });
    let demand = demand(&spec);
    let resources = |index| {
        let amounts = demand.of(Role::Regular, index);
        let made = demand.container(&amounts, Role::Regular, &host());
        (made.cpu_shares, made.cpu_quota, made.memory_limit_bytes)
    };
    assert_eq!(resources(0), (2048, 200_000, 1 << 30));
    assert_eq!(resources(1), (512, 50_000, 100));
}
