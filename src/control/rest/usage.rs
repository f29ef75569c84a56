//! `metrics.k8s.io`: how much nodes and pods take. `kubectl top` prints it.
//!
//! Nothing of it is kept, and no node tells it unasked: who asks waits until the nodes concerned have measured themselves,
//! all at the same time, which takes a second. A node that does not answer is left out of a list, and a warning says so.
//!
//! Source: metrics-server, `pkg/api/node.go` and `pkg/api/pod.go`. We differ on purpose: the window is the second that was
//! measured, not the time between two rounds, and limits of lists are not heeded.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use axum::response::Response;
use futures_util::{StreamExt, stream};
use http::StatusCode;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Api;
use super::errors::ApiError;
use super::filter::Filter;
use super::resources::{Request, answer, read_list};
use crate::api::metrics::{ContainerMetrics, NodeMetrics, PodMetrics, resources, window};
use crate::control::kinds::{Kind, NODE, NODE_METRICS, POD, POD_METRICS};
use crate::control::meta;
use crate::control::objects::{List, ObjectError};
use crate::control::streams::StreamError;
use crate::model::{ContainerLoad, Loads, Measure, NodeName, Usage};

/// How many nodes are asked at the same time.
const AT_ONCE: usize = 1000;
/// How long a list may take, as other requests may upstream; nodes that are not asked by then are left out.
const WITHIN: Duration = Duration::from_secs(60);
/// So many nodes that are left out are named, each with the reason.
const NAMED: usize = 5;

/// Answers with how much one node or pod takes.
///
/// # Errors
/// As reading the node or pod; what keeps its node from answering.
pub async fn get(api: &Api, request: &Request) -> Result<Response, ApiError> {
    let (kind, form) = (request.target.kind, request.form()?);
    let measured = of(kind);
    let object = api.objects.get(measured, request.target.namespace(), request.name()).await?;
    let found = match node_of(measured, &object) {
        Some(node) => {
            let usage = api.streams.measure(&node, what(kind)).await?;
            metrics(kind, &object, &usage)
        }
        None => None,
    };
    let not_found = || ObjectError::NotFound { kind, name: request.name().to_owned() };
    let found = found.ok_or_else(not_found)?;
    Ok(answer(StatusCode::OK, &form.object(kind, found, Timestamp::now()), &[]))
}

/// Answers with how much all nodes or pods take that the selectors pick.
///
/// # Errors
/// As reading a list of nodes or pods.
pub async fn list(api: &Api, request: &Request) -> Result<Response, ApiError> {
    let (kind, form) = (request.target.kind, request.form()?);
    let filter = Filter::parse(kind, &request.query)?;
    let list = read_list(api, of(kind), request, &filter, request.query.list_at()?, 0).await?;
    let mut on_nodes: BTreeMap<NodeName, Vec<&Value>> = BTreeMap::new();
    for object in &list.items {
        if let Some(node) = node_of(of(kind), object) {
            on_nodes.entry(node).or_default().push(object);
        }
    }
    let mut usages = measured(api, on_nodes.keys(), what(kind)).await;
    let (mut items, mut missing) = (Vec::new(), Vec::new());
    for (node, objects) in &on_nodes {
        match usages.remove(node).unwrap_or_else(|| Err(StreamError::Late(node.clone()))) {
            Ok(usage) => items.extend(objects.iter().filter_map(|object| metrics(kind, object, &usage))),
            Err(why) => missing.push(why),
        }
    }
    items.sort_by(|one, other| key(one).cmp(&key(other)));
    let list = List { items, revision: list.revision, next: None };
    Ok(answer(StatusCode::OK, &form.list(kind, list, Timestamp::now()), &warnings(&missing)))
}

/// What each of these nodes answers, as far as it does in time.
async fn measured(
    api: &Api,
    nodes: impl Iterator<Item = &NodeName>,
    what: Measure,
) -> HashMap<NodeName, Result<Usage, StreamError>> {
    let ask = async |node: &NodeName| (node.clone(), api.streams.measure(node, what).await);
    let answers = stream::iter(nodes).map(ask).buffer_unordered(AT_ONCE);
    answers.take_until(tokio::time::sleep(WITHIN)).collect().await
}

fn key(object: &Value) -> (&str, &str) {
    (meta::namespace(object), meta::name(object))
}

/// Whose metrics they are.
fn of(kind: &Kind) -> &'static Kind {
    if *kind == NODE_METRICS { &NODE } else { &POD }
}

fn what(kind: &Kind) -> Measure {
    if *kind == NODE_METRICS { Measure::Node } else { Measure::Containers }
}

/// The node to ask; none for a pod that does not run.
fn node_of(measured: &Kind, object: &Value) -> Option<NodeName> {
    if *measured == NODE {
        return Some(meta::name(object).into());
    }
    let runs = object["status"]["phase"] == "Running";
    object["spec"]["nodeName"].as_str().filter(|_| runs).map(NodeName::from)
}

/// What its node said of a node or pod; none if it has nothing of it.
fn metrics(kind: &Kind, object: &Value, usage: &Usage) -> Option<Value> {
    let (timestamp, window) = (Time(usage.at), window(usage.window));
    let metadata = metadata(object);
    match &usage.loads {
        Loads::Node(load) if *kind == NODE_METRICS => {
            Some(typed(kind, &NodeMetrics { metadata, timestamp, window, usage: resources(load) }))
        }
        Loads::Containers(loads) if *kind == POD_METRICS => {
            let own = loads.iter().filter(|load| load.pod.as_str() == meta::uid(object));
            let container =
                |ContainerLoad { name, load, .. }: &_| ContainerMetrics { name: name.clone(), usage: resources(load) };
            let mut containers: Vec<_> = own.map(container).collect();
            containers.sort_by(|one, other| one.name.cmp(&other.name));
            let some = !containers.is_empty();
            some.then(|| typed(kind, &PodMetrics { metadata, timestamp, window, containers }))
        }
        Loads::Node(_) | Loads::Containers(_) => None,
    }
}

fn metadata(object: &Value) -> ObjectMeta {
    ObjectMeta {
        name: Some(meta::name(object).to_owned()),
        namespace: Some(meta::namespace(object).to_owned()).filter(|namespace| !namespace.is_empty()),
        labels: BTreeMap::deserialize(&object["metadata"]["labels"]).ok(),
        creation_timestamp: Some(Time(Timestamp::now())),
        ..ObjectMeta::default()
    }
}

fn typed(kind: &Kind, metrics: &impl Serialize) -> Value {
    let mut object = serde_json::to_value(metrics).expect("metrics are plain data");
    object["kind"] = kind.kind.into();
    object["apiVersion"] = kind.api_version().into();
    object
}

/// A warning for each node that is missing; for all but the first few together.
fn warnings(missing: &[StreamError]) -> Vec<String> {
    let named = missing.iter().take(NAMED).map(|why| format!("metrics are incomplete: {why}"));
    let others = missing.len().saturating_sub(NAMED);
    let others = (others > 0).then(|| format!("metrics are incomplete: {others} more nodes did not answer"));
    named.chain(others).collect()
}
