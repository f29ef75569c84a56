//! The columns and cells of the kinds that charts bring, of CertificateSigningRequests and of Leases.
//!
//! Source: kubernetes v1.36, `pkg/printers/internalversion/printers.go`, the functions `print<Kind>`.

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Deserialize;
use serde_json::Value;

use super::age::human_duration;
use super::kinds::{age, labels, name};
use super::{Column, Layout, integer, list, or, or_none, text};
use crate::api::certificates::{APPROVED, DENIED, FAILED};
use crate::api::selector::Selector;

/// So many addresses are shown of Endpoints.
const MAX_ADDRESSES: usize = 3;

pub(super) static SERVICE: Layout = Layout {
    columns: &[
        Column::name(),
        Column::text("Type", "How it is meant to be reached."),
        Column::text("Cluster-IP", "Its own address."),
        Column::text("External-IP", "Addresses from outside."),
        Column::text("Port(s)", "Its ports."),
        Column::age(),
        Column::text("Selector", "Labels of its pods.").wide(),
    ],
    cells: |object, now| {
        let ports: Vec<String> = list(object, "/spec/ports").iter().map(port).collect();
        vec![
            name(object),
            text(object, "/spec/type").into(),
            or_none(text(object, "/spec/clusterIP")).into(),
            or_none(text(object, "/spec/externalName")).into(),
            or_none(&ports.join(",")).into(),
            age(object, now),
            or_none(&labels(object, "/spec/selector").join(",")).into(),
        ]
    },
};

fn port(port: &Value) -> String {
    let (number, protocol) = (integer(port, "/port"), text(port, "/protocol"));
    match integer(port, "/nodePort") {
        0 => format!("{number}/{protocol}"),
        on_nodes => format!("{number}:{on_nodes}/{protocol}"),
    }
}

pub(super) static ENDPOINTS: Layout = Layout {
    columns: &[Column::name(), Column::text("Endpoints", "Addresses and ports."), Column::age()],
    cells: |object, now| {
        let mut endpoints = Vec::new();
        for subset in list(object, "/subsets") {
            for address in list(subset, "/addresses") {
                let ports = list(subset, "/ports").iter();
                endpoints.extend(ports.map(|port| format!("{}:{}", text(address, "/ip"), integer(port, "/port"))));
            }
        }
        vec![name(object), or_none(&shortened(&endpoints)).into(), age(object, now)]
    },
};

pub(super) static ENDPOINT_SLICE: Layout = Layout {
    columns: &[
        Column::name(),
        Column::text("AddressType", "What its addresses are."),
        Column::text("Ports", "Ports of all addresses."),
        Column::text("Endpoints", "Addresses."),
        Column::age(),
    ],
    cells: |object, now| {
        let ports: Vec<String> = list(object, "/ports").iter().map(|port| integer(port, "/port").to_string()).collect();
        let addresses = list(object, "/endpoints").iter().flat_map(|endpoint| list(endpoint, "/addresses"));
        let addresses: Vec<String> = addresses.filter_map(Value::as_str).map(str::to_owned).collect();
        vec![
            name(object),
            text(object, "/addressType").into(),
            or(&shortened(&ports), "<unset>").into(),
            or(&shortened(&addresses), "<unset>").into(),
            age(object, now),
        ]
    },
};

fn shortened(items: &[String]) -> String {
    match items.get(..MAX_ADDRESSES) {
        Some(first) if items.len() > MAX_ADDRESSES => {
            format!("{} + {} more...", first.join(","), items.len() - MAX_ADDRESSES)
        }
        _ => items.join(","),
    }
}

pub(super) static NETWORK_POLICY: Layout = Layout {
    columns: &[Column::name(), Column::text("Pod-Selector", "The pods it is about."), Column::age()],
    cells: |object, now| {
        let selector = LabelSelector::deserialize(&object["spec"]["podSelector"]).unwrap_or_default();
        let selector = Selector::from_object(&selector).map_or("<error>".to_owned(), |selector| selector.to_string());
        vec![name(object), or_none(&selector).into(), age(object, now)]
    },
};

pub(super) static CERTIFICATE_SIGNING_REQUEST: Layout = Layout {
    columns: &[
        Column::name(),
        Column::age(),
        Column::text("SignerName", "Who is to sign it."),
        Column::text("Requestor", "Who asked."),
        Column::text("RequestedDuration", "How long it is to be good."),
        Column::text("Condition", "What became of it."),
    ],
    cells: |object, now| {
        let wanted = match integer(object, "/spec/expirationSeconds") {
            0 => String::new(),
            seconds => human_duration(SignedDuration::from_secs(seconds)),
        };
        let is =
            |kind: &str| list(object, "/status/conditions").iter().any(|condition| text(condition, "/type") == kind);
        let mut became = vec![[DENIED, APPROVED].into_iter().find(|kind| is(kind)).unwrap_or("Pending")];
        became.extend(Some(FAILED).filter(|kind| is(kind)));
        became.extend(Some("Issued").filter(|_| !text(object, "/status/certificate").is_empty()));
        vec![
            name(object),
            age(object, now),
            text(object, "/spec/signerName").into(),
            text(object, "/spec/username").into(),
            or_none(&wanted).into(),
            became.join(",").into(),
        ]
    },
};

pub(super) static POD_DISRUPTION_BUDGET: Layout = Layout {
    columns: &[
        Column::name(),
        Column::text("Min Available", "Pods that must be available."),
        Column::text("Max Unavailable", "Pods that may be unavailable."),
        Column::new("Allowed Disruptions", "integer", "Pods that may be taken down now."),
        Column::age(),
    ],
    cells: |object, now| {
        let bound = |field: &str| match object["spec"].get(field) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            _ => "N/A".to_owned(),
        };
        vec![
            name(object),
            bound("minAvailable").into(),
            bound("maxUnavailable").into(),
            integer(object, "/status/disruptionsAllowed").into(),
            age(object, now),
        ]
    },
};

pub(super) static LEASE: Layout = Layout {
    columns: &[Column::name(), Column::text("Holder", "Who holds it."), Column::age()],
    cells: |object, now| vec![name(object), text(object, "/spec/holderIdentity").into(), age(object, now)],
};
