//! The Node as its agent reports it: facts of the host, conditions from the runtime's status.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures, NodeRuntimeHandler, NodeRuntimeHandlerFeatures,
    NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tokio::sync::{mpsc, watch};

use super::Shared;
use super::roster::{Input, NodeState};
use crate::cri::{HandlerFeatures, RuntimeCondition, RuntimeFeatures, RuntimeStatus, RuntimeVersion};
use crate::host::facts::Facts;
use crate::link::NodeReport;
use crate::model::{NodeName, Uid};
use crate::plan::pressure::Conditions;
use crate::podspec::HostFacts;

/// How often an unchanged status is reported, as the kubelet's `nodeStatusReportFrequency`.
const REPORT_INTERVAL: Duration = Duration::from_secs(300);
/// The condition of a node whose ledger cannot be written. It is there only as long as that is so.
const LEDGER_UNWRITABLE: &str = "LedgerUnwritable";
/// The condition of a node whose runtime has lost pods that still run. It is there only as long as that is so.
const LOST_BY_RUNTIME: &str = "LostByRuntime";
/// The version of Kubernetes whose behaviour the agent follows, with our own.
const KUBELET_VERSION: &str = concat!("v1.36.0-garrison.", env!("CARGO_PKG_VERSION"));

/// Runs until the roster is gone: reports the node once the runtime was asked how it is, after each change of that, of the host,
/// and of what the node is short of, and now and then.
pub(super) async fn run(
    shared: Arc<Shared>,
    mut status_rx: watch::Receiver<Result<RuntimeStatus, String>>,
    mut conditions_rx: watch::Receiver<Conditions>,
    inputs_tx: mpsc::Sender<Input>,
) {
    let mut version = None;
    let mut unwritable_rx = shared.unwritable.subscribe();
    let mut lost_rx = shared.lost.subscribe();
    let mut known: Vec<NodeCondition> = Vec::new();
    let mut host_rx = shared.host.subscribe();
    if status_rx.changed().await.is_err() {
        return;
    }
    loop {
        let status = status_rx.borrow_and_update().clone();
        if status.is_ok() {
            // Asked each time: the runtime may have been upgraded.
            version = shared.runtime.version().await.ok().or(version);
        }
        let features = status.as_ref().map(|status| status.features.clone()).unwrap_or_default();
        let pressure = *conditions_rx.borrow_and_update();
        let host = host_rx.borrow_and_update().clone();
        let alarms = alarms(unwritable_rx.borrow_and_update().as_deref(), &lost_rx.borrow_and_update());
        let (ready, conditions) = conditions(&status, pressure, alarms, &known, shared.clock.wall());
        let report = NodeReport {
            labels: labels(&host.node_name, &shared.facts),
            status: serde_json::to_vec(&node_status(
                &shared.facts,
                &host,
                version.as_ref(),
                conditions.clone(),
                &features,
            ))
            .expect("a status is JSON: its map keys are strings")
            .into(),
        };
        known = conditions;
        if inputs_tx.send(Input::Node(NodeState { report, ready, features, pressure })).await.is_err() {
            return;
        }
        // Every arm only waits.
        tokio::select! {
            changed = status_rx.changed() => if changed.is_err() { return },
            changed = conditions_rx.changed() => if changed.is_err() { return },
            Ok(()) = host_rx.changed() => {}
            changed = unwritable_rx.changed() => if changed.is_err() { return },
            changed = lost_rx.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(REPORT_INTERVAL) => {}
        }
    }
}

/// The labels every kubelet gives its node.
pub(super) fn labels(name: &NodeName, facts: &Facts) -> BTreeMap<String, String> {
    let (os, arch) = ("linux", facts.architecture);
    let labels = [
        ("kubernetes.io/hostname", name.as_str()),
        ("kubernetes.io/os", os),
        ("kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", os),
        ("beta.kubernetes.io/arch", arch),
    ];
    labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

/// A condition: its type, whether it holds, its reason and its message. Alarms are there only as long as they hold.
type Alarm = (&'static str, bool, &'static str, String);

/// What there is to be alarmed about. `unwritable` is why the ledger cannot be written, `lost` the pods the runtime has lost.
fn alarms(unwritable: Option<&str>, lost: &BTreeMap<Uid, String>) -> Vec<Alarm> {
    let mut alarms: Vec<_> = unwritable.map(unwritable_alarm).into_iter().collect();
    if !lost.is_empty() {
        let pods = lost.values().map(String::as_str).collect::<Vec<_>>().join(", ");
        let message = format!(
            "the container runtime has no record of containers that run, of {pods}; they end when others can take their place"
        );
        alarms.push((LOST_BY_RUNTIME, true, "ProcessesFound", message));
    }
    alarms
}

fn unwritable_alarm(why: &str) -> Alarm {
    let message = format!("no pod is made or ended until the ledger can be written: {why}");
    (LEDGER_UNWRITABLE, true, "WriteFailed", message)
}

/// The same report, with the condition of a ledger that cannot be written `now`; none if it has that.
pub(super) fn with_unwritable(report: &NodeReport, why: &str, now: Timestamp) -> Option<NodeReport> {
    let mut status: NodeStatus = serde_json::from_slice(&report.status).ok()?;
    let conditions = status.conditions.get_or_insert_default();
    if conditions.iter().any(|condition| condition.type_ == LEDGER_UNWRITABLE) {
        return None;
    }
    conditions.push(condition(unwritable_alarm(why), &[], now));
    let status = serde_json::to_vec(&status).expect("a status is JSON: its map keys are strings").into();
    Some(NodeReport { labels: report.labels.clone(), status })
}

/// The node's conditions, and whether it is ready. A condition that did not change keeps its transition time.
///
/// Source: kubernetes v1.36 `pkg/kubelet/nodestatus/setters.go`.
fn conditions(
    status: &Result<RuntimeStatus, String>,
    pressure: Conditions,
    alarms: Vec<Alarm>,
    known: &[NodeCondition],
    now: Timestamp,
) -> (bool, Vec<NodeCondition>) {
    let trouble = match status {
        Err(error) => Some(format!("container runtime is down: {error}")),
        Ok(status) if !status.runtime_ready.ready => {
            Some(format!("container runtime is not ready: {}", words("RuntimeReady", &status.runtime_ready)))
        }
        Ok(status) if !status.network_ready.ready => {
            Some(format!("container runtime network not ready: {}", words("NetworkReady", &status.network_ready)))
        }
        Ok(_) => None,
    };
    let ready = trouble.is_none();
    let either = |(type_, holds): (&'static str, bool), yes: (&'static str, &str), no: (&'static str, &str)| {
        let (reason, message) = if holds { yes } else { no };
        (type_, holds, reason, message.to_owned())
    };
    let pressures = [
        either(
            ("MemoryPressure", pressure.memory),
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        either(
            ("DiskPressure", pressure.disk),
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        either(
            ("PIDPressure", pressure.pid),
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
    ];
    let readiness = match trouble {
        None => ("Ready", true, "KubeletReady", "kubelet is posting ready status".to_owned()),
        Some(trouble) => ("Ready", false, "KubeletNotReady", trouble),
    };
    let rows = pressures.into_iter().chain(alarms).chain([readiness]);
    (ready, rows.map(|row| condition(row, known, now)).collect())
}

/// A row as the API has it, changed when `known` had it otherwise.
fn condition((type_, holds, reason, message): Alarm, known: &[NodeCondition], now: Timestamp) -> NodeCondition {
    let status = if holds { "True" } else { "False" };
    let same = known.iter().find(|known| known.type_ == type_ && known.status == status);
    NodeCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_heartbeat_time: Some(Time(whole_seconds(now))),
        last_transition_time: same
            .and_then(|known| known.last_transition_time.clone())
            .or_else(|| Some(Time(whole_seconds(now)))),
    }
}

/// As the kubelet writes a runtime condition.
fn words(name: &str, condition: &RuntimeCondition) -> String {
    format!("{name}=false reason:{} message:{}", condition.reason, condition.message)
}

fn node_status(
    facts: &Facts,
    host: &HostFacts,
    version: Option<&RuntimeVersion>,
    conditions: Vec<NodeCondition>,
    features: &RuntimeFeatures,
) -> NodeStatus {
    let handler = |(name, features): (&String, &HandlerFeatures)| NodeRuntimeHandler {
        name: Some(name.clone()),
        features: Some(NodeRuntimeHandlerFeatures {
            recursive_read_only_mounts: Some(features.recursive_read_only_mounts),
            user_namespaces: Some(features.user_namespaces),
        }),
    };
    let handlers: Vec<_> = features.handlers.iter().map(handler).collect();
    let address = |type_: &str, address: String| NodeAddress { type_: type_.to_owned(), address };
    let ips = host.ips.iter().map(|ip| address("InternalIP", ip.to_string()));
    NodeStatus {
        addresses: Some(ips.chain([address("Hostname", facts.hostname.clone())]).collect()),
        capacity: Some(quantities(&facts.capacity.clone().into_iter().chain(host.devices.clone()).collect())),
        allocatable: Some(quantities(&host.allocatable)),
        conditions: Some(conditions),
        daemon_endpoints: Some(NodeDaemonEndpoints::default()),
        features: Some(NodeFeatures { supplemental_groups_policy: Some(features.supplemental_groups_policy) }),
        node_info: Some(NodeSystemInfo {
            machine_id: facts.machine_id.clone(),
            system_uuid: facts.system_uuid.clone(),
            boot_id: facts.boot_id.clone(),
            kernel_version: facts.kernel_version.clone(),
            os_image: facts.os_image.clone(),
            container_runtime_version: version.map(|v| format!("{}://{}", v.name, v.version)).unwrap_or_default(),
            kubelet_version: KUBELET_VERSION.to_owned(),
            operating_system: "linux".to_owned(),
            architecture: facts.architecture.to_owned(),
            ..NodeSystemInfo::default()
        }),
        runtime_handlers: (!handlers.is_empty()).then_some(handlers),
        ..NodeStatus::default()
    }
}

/// Amounts as the API writes them: whole processors, memory in Ki, others plain.
fn quantities(amounts: &BTreeMap<String, u64>) -> BTreeMap<String, Quantity> {
    let text = |name: &str, amount: u64| match name {
        "cpu" if amount.is_multiple_of(1000) => (amount / 1000).to_string(),
        "cpu" => format!("{amount}m"),
        "memory" => format!("{}Ki", amount / 1024),
        _ => amount.to_string(),
    };
    amounts.iter().map(|(name, amount)| (name.clone(), Quantity(text(name, *amount)))).collect()
}

/// Times in a status have whole seconds.
fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(network_ready: bool) -> Result<RuntimeStatus, String> {
        let ready = RuntimeCondition { ready: true, ..RuntimeCondition::default() };
        let not = RuntimeCondition {
            ready: false,
            reason: "NetworkPluginNotReady".into(),
            message: "cni plugin not initialized".into(),
        };
        let network_ready = if network_ready { ready.clone() } else { not };
        Ok(RuntimeStatus { runtime_ready: ready, network_ready, features: RuntimeFeatures::default() })
    }

    fn ready_of(conditions: &[NodeCondition]) -> (&str, &str, &str, Timestamp) {
        let ready = conditions.last().unwrap();
        let text = |field: &Option<String>| -> &'static str { field.clone().unwrap().leak() };
        let since = ready.last_transition_time.as_ref().unwrap().0;
        (if ready.status == "True" { "True" } else { "False" }, text(&ready.reason), text(&ready.message), since)
    }

    #[test]
    fn the_node_is_as_ready_as_its_runtime() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let (ready, first) = conditions(&status(true), Conditions::default(), Vec::new(), &[], at(1));
        assert!(ready);
        assert_eq!(ready_of(&first), ("True", "KubeletReady", "kubelet is posting ready status", at(1)));

        let (ready, second) = conditions(&Err("no such file".into()), Conditions::default(), Vec::new(), &first, at(2));
        assert!(!ready);
        let down = "container runtime is down: no such file";
        assert_eq!(ready_of(&second), ("False", "KubeletNotReady", down, at(2)));

        let (_, third) = conditions(&status(false), Conditions::default(), Vec::new(), &second, at(3));
        let network = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:cni plugin not initialized";
        assert_eq!(ready_of(&third), ("False", "KubeletNotReady", network, at(2)));
        assert_eq!(third[0].last_transition_time.as_ref().unwrap().0, at(1));
    }

    #[test]
    fn pressure_is_told_in_the_kubelets_words() {
        let told = |pressure| {
            let (_, conditions) = conditions(&status(true), pressure, Vec::new(), &[], Timestamp::UNIX_EPOCH);
            let words = |one: &NodeCondition| format!("{}={} {}", one.type_, one.status, one.reason.as_ref().unwrap());
            conditions.iter().take(3).map(words).collect::<Vec<_>>()
        };
        let well = [
            "MemoryPressure=False KubeletHasSufficientMemory",
            "DiskPressure=False KubeletHasNoDiskPressure",
            "PIDPressure=False KubeletHasSufficientPID",
        ];
        let short = [
            "MemoryPressure=True KubeletHasInsufficientMemory",
            "DiskPressure=True KubeletHasDiskPressure",
            "PIDPressure=True KubeletHasInsufficientPID",
        ];
        assert_eq!(told(Conditions::default()), well);
        assert_eq!(told(Conditions { memory: true, disk: true, pid: true }), short);
    }
}
