//! `daemonsets/rollout`: where every node is with a DaemonSet's newest revision, and why.
//!
//! Not of Kubernetes: an object of our own group, made when somebody asks for it, or a Table with a row for each node.
//! `kubectl get --raw` and `garrison rollout` print it.

use std::time::Duration;

use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Api;
use super::errors::ApiError;
use super::represent::Form;
use super::resources::{Request, answer};
use super::table::Column;
use crate::control::kinds::{DAEMON_SET, ROLLOUT_OF};
use crate::control::meta;
use crate::control::updates::{Question, Rollout, Row};
use crate::model::Uid;

/// How long an answer may take: the store may be busy.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

const COLUMNS: [Column; 3] = [
    Column { format: "name", ..Column::text("Node", "Name of the node.") },
    Column::text("Cause", "Where the node is with the newest revision."),
    Column::text("Message", "Why it is there."),
];

/// Answers with the rollout of the DaemonSet that a request names.
///
/// # Errors
/// As reading the DaemonSet; [`ApiError::Unavailable`] if nothing was worked out for it yet.
pub async fn serve(api: &Api, request: &Request) -> Result<Response, ApiError> {
    let form = request.form()?;
    let set = api.objects.get(&DAEMON_SET, request.target.namespace(), request.name()).await?;
    let rollout = ask(api, meta::uid(&set).into()).await.ok_or_else(|| {
        ApiError::Unavailable(format!("the rollout of daemonset {} was not looked at yet; try again", meta::name(&set)))
    })?;
    let shown = match form {
        Form::Object => object(&set, &rollout),
        Form::Metadata => json!({
            "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata(&set),
        }),
        Form::Table(_) => table(&set, &rollout),
    };
    Ok(answer(StatusCode::OK, &shown, &[]))
}

async fn ask(api: &Api, daemonset: Uid) -> Option<Rollout> {
    let (answer_tx, answer_rx) = oneshot::channel();
    let asked = async {
        api.questions_tx.send(Question { daemonset, answer_tx }).await.ok()?;
        answer_rx.await.ok()?
    };
    timeout(ANSWER_TIMEOUT, asked).await.ok()?
}

fn metadata(set: &Value) -> Value {
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp"] {
        metadata[field] = set["metadata"][field].clone();
    }
    metadata
}

fn object(set: &Value, rollout: &Rollout) -> Value {
    json!({
        "kind": ROLLOUT_OF.kind,
        "apiVersion": ROLLOUT_OF.api_version(),
        "metadata": metadata(set),
        "status": rollout,
    })
}

fn table(set: &Value, rollout: &Rollout) -> Value {
    let row = |row: &Row| {
        let metadata = json!({"name": row.node});
        json!({
            "cells": [row.node, row.cause, row.message],
            "object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata},
        })
    };
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": set["metadata"]["resourceVersion"]},
        "columnDefinitions": COLUMNS,
        "rows": rollout.nodes.iter().map(row).collect::<Value>(),
    })
}
