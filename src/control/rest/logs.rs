//! `pods/log`: a container's log from its node, passed on as it comes.
//!
//! Source: kubernetes v1.36, `pkg/registry/core/pod/strategy.go`, `LogLocation`.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, HeaderValue};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::Api;
use super::errors::ApiError;
use super::query::Query;
use super::resources::Request;
use crate::control::kinds::POD;
use crate::control::meta;
use crate::control::streams::{LogOptions, StreamError};
use crate::model::{NodeName, PodKey};

/// Answers with a container's log.
pub async fn serve(api: &Api, request: &Request) -> Result<Response, ApiError> {
    let (namespace, name) = (request.target.namespace(), request.target.name.as_deref().unwrap_or_default());
    let pod = api.objects.get(&POD, namespace, name).await?;
    let options = options(&request.query, &pod, Timestamp::now())?;
    let node = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty());
    let node: NodeName = node.ok_or_else(|| ApiError::BadRequest(format!("pod {name} is on no node")))?.into();
    let key = PodKey { namespace: namespace.to_owned(), name: name.to_owned(), uid: meta::uid(&pod).into() };
    let stream = api.streams.logs(&node, &key, options).await?;
    let mut response = Body::from_stream(stream).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}

impl From<StreamError> for ApiError {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Refused(message) => Self::BadRequest(message),
            error => Self::Unavailable(error.to_string()),
        }
    }
}

fn options(query: &Query, pod: &Value, now: Timestamp) -> Result<LogOptions, ApiError> {
    let since = match (query.number("sinceSeconds")?, query.get("sinceTime")) {
        (Some(_), Some(_)) => {
            return Err(ApiError::BadRequest("at most one of sinceTime or sinceSeconds may be specified".to_owned()));
        }
        (Some(seconds), None) => {
            let seconds = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
            Some(now.saturating_sub(seconds).unwrap_or(Timestamp::MIN))
        }
        (None, Some(text)) => Some(text.parse().map_err(|error| ApiError::BadRequest(format!("sinceTime: {error}")))?),
        (None, None) => None,
    };
    Ok(LogOptions {
        container: container(pod, query.get("container").unwrap_or_default())?,
        follow: query.flag("follow"),
        previous: query.flag("previous"),
        tail_lines: query.number("tailLines")?,
        since,
        timestamps: query.flag("timestamps"),
        limit_bytes: query.number("limitBytes")?,
    })
}

/// The container asked for, or the only one there is.
fn container(pod: &Value, asked: &str) -> Result<String, ApiError> {
    let names = |field: &str| {
        let containers = pod["spec"][field].as_array().into_iter().flatten();
        containers.filter_map(|container| container["name"].as_str()).map(str::to_owned).collect::<Vec<_>>()
    };
    let (init, regular) = (names("initContainers"), names("containers"));
    let pod_name = meta::name(pod);
    if asked.is_empty() {
        return match (regular.as_slice(), init.is_empty()) {
            ([only], true) => Ok(only.clone()),
            _ => {
                let all = [init, regular].concat().join(" ");
                let message = format!("a container name must be specified for pod {pod_name}, choose one of: [{all}]");
                Err(ApiError::BadRequest(message))
            }
        };
    }
    if init.iter().chain(&regular).any(|name| name == asked) {
        return Ok(asked.to_owned());
    }
    Err(ApiError::BadRequest(format!("container {asked} is not valid for pod {pod_name}")))
}
