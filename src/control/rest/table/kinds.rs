//! The columns and cells of every kind but pods.
//!
//! Source: kubernetes v1.36, `pkg/printers/internalversion/printers.go`, the functions `print<Kind>`.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Deserialize;
use serde_json::Value;

use crate::api::selector::Selector;

use super::age::since;
use super::{Column, Layout, condition, fields, flag, integer, list, or, or_none, text};

/// A kind without a layout of its own.
pub(super) static OTHER: Layout = Layout {
    columns: &[Column::name(), Column::new("Created At", "date", "When the object was created.")],
    cells: |object, _| vec![name(object), text(object, "/metadata/creationTimestamp").into()],
};

pub(super) static ROLE: Layout = Layout {
    columns: &[Column::name(), Column::new("Created At", "date", "When the object was created.")],
    cells: |object, _| vec![name(object), text(object, "/metadata/creationTimestamp").into()],
};

pub(super) static BINDING: Layout = Layout {
    columns: &[
        Column::name(),
        Column::text("Role", "The role that is given."),
        Column::age(),
        Column::text("Users", "Who gets it.").wide(),
        Column::text("Groups", "Whose members get it.").wide(),
        Column::text("ServiceAccounts", "Which service accounts get it.").wide(),
    ],
    cells: |object, now| {
        let role = format!("{}/{}", text(object, "/roleRef/kind"), text(object, "/roleRef/name"));
        let subjects = |kind: &str, cell: fn(&Value) -> String| {
            let subjects = list(object, "/subjects").iter().filter(|subject| text(subject, "/kind") == kind);
            subjects.map(cell).collect::<Vec<_>>().join(", ")
        };
        let named = |subject: &Value| text(subject, "/name").to_owned();
        vec![
            name(object),
            role.into(),
            age(object, now),
            subjects("User", named).into(),
            subjects("Group", named).into(),
            subjects("ServiceAccount", |subject| format!("{}/{}", text(subject, "/namespace"), text(subject, "/name")))
                .into(),
        ]
    },
};

pub(super) static CONFIG_MAP: Layout = Layout {
    columns: &[Column::name(), Column::text("Data", "Number of entries."), Column::age()],
    cells: |object, now| {
        let entries = fields(object, "/data").count() + fields(object, "/binaryData").count();
        vec![name(object), entries.into(), age(object, now)]
    },
};

pub(super) static SECRET: Layout = Layout {
    columns: &[
        Column::name(),
        Column::text("Type", "What the secret is for."),
        Column::text("Data", "Number of entries."),
        Column::age(),
    ],
    cells: |object, now| {
        vec![name(object), text(object, "/type").into(), fields(object, "/data").count().into(), age(object, now)]
    },
};

pub(super) static SERVICE_ACCOUNT: Layout =
    Layout { columns: &[Column::name(), Column::age()], cells: |object, now| vec![name(object), age(object, now)] };

pub(super) static PRIORITY_CLASS: Layout = Layout {
    columns: &[
        Column::name(),
        Column::new("Value", "integer", "The priority of pods of this class."),
        Column::new("Global-Default", "boolean", "Whether pods that name no class are of this one."),
        Column::age(),
        Column::text("PreemptionPolicy", "Whether its pods may take the place of others."),
    ],
    cells: |object, now| {
        vec![
            name(object),
            integer(object, "/value").into(),
            flag(object, "/globalDefault").into(),
            age(object, now),
            text(object, "/preemptionPolicy").into(),
        ]
    },
};

pub(super) static RUNTIME_CLASS: Layout = Layout {
    columns: &[Column::name(), Column::text("Handler", "What the container runtime calls it."), Column::age()],
    cells: |object, now| vec![name(object), text(object, "/handler").into(), age(object, now)],
};

pub(super) static NAMESPACE: Layout = Layout {
    columns: &[Column::name(), Column::text("Status", "Active or Terminating."), Column::age()],
    cells: |object, now| vec![name(object), text(object, "/status/phase").into(), age(object, now)],
};

pub(super) static CONTROLLER_REVISION: Layout = Layout {
    columns: &[
        Column::name(),
        Column::text("Controller", "The object that the revision belongs to."),
        Column::text("Revision", "Its number in the history."),
        Column::age(),
    ],
    cells: |object, now| {
        vec![name(object), controller(object).into(), integer(object, "/revision").into(), age(object, now)]
    },
};

pub(super) static DAEMON_SET: Layout = Layout {
    columns: &[
        Column::name(),
        Column::new("Desired", "integer", "Nodes that should run a pod."),
        Column::new("Current", "integer", "Nodes that should run a pod and have one."),
        Column::new("Ready", "integer", "Nodes whose pod is ready."),
        Column::new("Up-to-date", "integer", "Nodes whose pod is of the current template."),
        Column::new("Available", "integer", "Nodes whose pod has been ready for minReadySeconds."),
        Column::text("Node Selector", "Labels a node must have."),
        Column::age(),
        Column::text("Containers", "Names of the containers.").wide(),
        Column::text("Images", "Images of the containers.").wide(),
        Column::text("Selector", "Selector of the pods.").wide(),
    ],
    cells: |object, now| {
        let status = |field: &str| Value::from(integer(object, &format!("/status/{field}")));
        vec![
            name(object),
            status("desiredNumberScheduled"),
            status("currentNumberScheduled"),
            status("numberReady"),
            status("updatedNumberScheduled"),
            status("numberAvailable"),
            or_none(&labels(object, "/spec/template/spec/nodeSelector").join(",")).into(),
            age(object, now),
            of_containers(object, "/name").into(),
            of_containers(object, "/image").into(),
            selector(object).into(),
        ]
    },
};

pub(super) static NODE: Layout = Layout {
    columns: &[
        Column::name(),
        Column::text("Status", "Whether the node is ready, and takes new pods."),
        Column::text("Roles", "Roles by the node's labels."),
        Column::age(),
        Column::text("Version", "Version of the node's agent."),
        Column::text("Internal-IP", "The node's first internal address.").wide(),
        Column::text("External-IP", "The node's first external address.").wide(),
        Column::text("OS-Image", "Operating system.").wide(),
        Column::text("Kernel-Version", "Kernel version and architecture.").wide(),
        Column::text("Container-Runtime", "Name and version of the container runtime.").wide(),
    ],
    cells: |object, now| {
        let info = |field: &str| or(text(object, &format!("/status/nodeInfo/{field}")), "<unknown>");
        let kernel = match text(object, "/status/nodeInfo/architecture") {
            "" => info("kernelVersion").to_owned(),
            architecture => format!("{} ({architecture})", info("kernelVersion")),
        };
        vec![
            name(object),
            node_status(object).into(),
            node_roles(object).into(),
            age(object, now),
            text(object, "/status/nodeInfo/kubeletVersion").into(),
            address(object, "InternalIP").into(),
            address(object, "ExternalIP").into(),
            info("osImage").into(),
            kernel.into(),
            info("containerRuntimeVersion").into(),
        ]
    },
};

pub(super) static EVENT: Layout = Layout {
    columns: &[
        Column::text("Last Seen", "Time since it last happened."),
        Column::text("Type", "Normal or Warning."),
        Column::text("Reason", "What happened, in one word."),
        Column::text("Object", "What it happened to."),
        Column::text("Subobject", "The part of the object it happened to.").wide(),
        Column::text("Source", "Who says so.").wide(),
        Column::text("Message", "What happened, in words."),
        Column::text("First Seen", "Time since it first happened.").wide(),
        Column::text("Count", "How often it happened.").wide(),
        Column { priority: 1, ..Column::name() },
    ],
    cells: event,
};

/// Events of the old form have timestamps and a count, those of the new form `eventTime` and a series.
fn event(object: &Value, now: Timestamp) -> Vec<Value> {
    let either = |old, new| if text(object, old).is_empty() { new } else { old };
    let first = either("/firstTimestamp", "/eventTime");
    let has_series = object["series"].is_object();
    let last = if has_series { "/series/lastObservedTime" } else { either("/lastTimestamp", first) };
    let count = if has_series { integer(object, "/series/count") } else { integer(object, "/count").max(1) };
    let component = text(object, either("/source/component", "/reportingComponent"));
    let source = match text(object, either("/source/host", "/reportingInstance")) {
        "" => component.to_owned(),
        instance => format!("{component}, {instance}"),
    };
    let target = match text(object, "/involvedObject/name") {
        "" => text(object, "/involvedObject/kind").to_lowercase(),
        name => format!("{}/{name}", text(object, "/involvedObject/kind").to_lowercase()),
    };
    vec![
        since(object, last, now).into(),
        text(object, "/type").into(),
        text(object, "/reason").into(),
        target.into(),
        text(object, "/involvedObject/fieldPath").into(),
        source.into(),
        text(object, "/message").trim().into(),
        since(object, first, now).into(),
        count.into(),
        name(object),
    ]
}

// === single cells ===

pub(super) fn name(object: &Value) -> Value {
    text(object, "/metadata/name").into()
}

pub(super) fn age(object: &Value, now: Timestamp) -> Value {
    since(object, "/metadata/creationTimestamp", now).into()
}

/// The owner that manages the object, as `kind.group/name`.
fn controller(object: &Value) -> String {
    let owners = list(object, "/metadata/ownerReferences");
    let Some(owner) = owners.iter().find(|owner| flag(owner, "/controller")) else { return "<none>".to_owned() };
    let (kind, name) = (text(owner, "/kind").to_lowercase(), text(owner, "/name"));
    match text(owner, "/apiVersion").split_once('/') {
        Some((group, _)) => format!("{kind}.{group}/{name}"),
        None => format!("{kind}/{name}"),
    }
}

/// One field of each container of the template, joined by commas.
fn of_containers(object: &Value, pointer: &str) -> String {
    let containers = list(object, "/spec/template/spec/containers");
    containers.iter().map(|container| text(container, pointer)).collect::<Vec<_>>().join(",")
}

/// The entries of a map of strings as `key=value`, sorted by key.
pub(super) fn labels(object: &Value, pointer: &str) -> Vec<String> {
    fields(object, pointer).map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect()
}

/// The label selector as text; `<error>` for one that cannot be read.
///
/// Source: kubernetes v1.36, `k8s.io/apimachinery/pkg/apis/meta/v1/helpers.go`, `FormatLabelSelector`.
fn selector(object: &Value) -> String {
    let Ok(selector) = LabelSelector::deserialize(&object["spec"]["selector"]) else { return "<error>".to_owned() };
    match Selector::from_object(&selector) {
        Ok(selector) => or_none(&selector.to_string()).to_owned(),
        Err(_) => "<error>".to_owned(),
    }
}

fn node_status(node: &Value) -> String {
    let ready = match condition(node, "Ready") {
        Some(ready) if ready["status"] == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    if flag(node, "/spec/unschedulable") { format!("{ready},SchedulingDisabled") } else { ready.to_owned() }
}

fn node_roles(node: &Value) -> String {
    let roles: BTreeSet<&str> = fields(node, "/metadata/labels")
        .filter_map(|(label, value)| match label.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if label == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    or_none(&roles.into_iter().collect::<Vec<_>>().join(",")).to_owned()
}

/// The node's first address of a type.
fn address<'a>(node: &'a Value, address_type: &str) -> &'a str {
    let addresses = list(node, "/status/addresses");
    let first = addresses.iter().find(|address| address["type"] == address_type);
    or_none(first.map_or("", |address| text(address, "/address")))
}
