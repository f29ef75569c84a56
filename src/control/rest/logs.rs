//! `pods/log`: a container's log from its node, passed on as it comes.
//!
//! Source: kubernetes v1.36, `pkg/registry/core/pod/rest/log.go`, `pkg/registry/core/pod/strategy.go` (`LogLocation`),
//! `pkg/apis/core/validation/validation.go` (`ValidatePodLogOptions`).

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, future};
use http::header::{CONTENT_TYPE, HeaderValue};
use jiff::Timestamp;

use super::Api;
use super::errors::ApiError;
use super::query::Query;
use super::resources::Request;
use super::streams::{Subject, container};
use crate::api::field::{FieldError, Path};
use crate::control::streams::{LogOptions, NodeStream, Piece, TunnelKind};

/// Answers with a container's log.
pub async fn serve(api: &Api, request: &Request) -> Result<Response, ApiError> {
    let subject = Subject::of(api, request).await?;
    let asked = options(&request.query, &subject.key.name)?;
    let options = LogOptions { container: container(&subject.pod, &asked.container)?, ..asked };
    // A pod that no node has yet has said nothing.
    let body = match &subject.node {
        None => Body::empty(),
        Some(node) => {
            let NodeStream { input, output } = api.streams.open(node, &subject.key, TunnelKind::Logs(options)).await?;
            let chunks = output.filter_map(move |piece| {
                // Nothing is sent, but without it the node would let go.
                let _held = &input;
                future::ready(match piece {
                    Ok(Piece::Data(_, data)) => Some(Ok(data)),
                    Ok(Piece::End(_)) => None,
                    Err(error) => Some(Err(error)),
                })
            });
            Body::from_stream(chunks)
        }
    };
    let mut response = body.into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}

/// What is asked for. `pod` names the pod in errors.
fn options(query: &Query, pod: &str) -> Result<LogOptions, ApiError> {
    let mut errors = Vec::new();
    let mut at_least = |name, least: i64, detail| -> Result<Option<u64>, ApiError> {
        let given = query.integer(name)?;
        if let Some(value) = given.filter(|value| *value < least) {
            errors.push(FieldError::invalid(&Path::new(name), value, detail));
        }
        Ok(given.and_then(|value| u64::try_from(value).ok()))
    };
    let tail_lines = at_least("tailLines", 0, "must be greater than or equal to 0")?;
    let limit_bytes = at_least("limitBytes", 1, "must be greater than 0")?;
    let since_secs = at_least("sinceSeconds", 1, "must be greater than 0")?;
    let since_time = query.get("sinceTime").filter(|text| !text.is_empty());
    let since_time: Option<Timestamp> =
        since_time.map(str::parse).transpose().map_err(|error| ApiError::BadRequest(format!("sinceTime: {error}")))?;
    if since_secs.is_some() && since_time.is_some() {
        let detail = "at most one of `sinceTime` or `sinceSeconds` may be specified";
        errors.push(FieldError::forbidden(&Path::default(), detail));
    }
    // Upstream's feature gate PodLogsQuerySplitStreams is off.
    if query.get("stream").is_some_and(|stream| stream != "All") {
        errors.push(FieldError::forbidden(&Path::new("stream"), "may not be specified"));
    }
    if !errors.is_empty() {
        return Err(ApiError::InvalidLogOptions { pod: pod.to_owned(), errors });
    }
    Ok(LogOptions {
        container: query.get("container").unwrap_or_default().to_owned(),
        follow: query.flag("follow"),
        previous: query.flag("previous"),
        timestamps: query.flag("timestamps"),
        since_secs,
        since_time,
        tail_lines,
        limit_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<LogOptions, String> {
        let query = Query::parse(&format!("/x?{query}").parse().unwrap()).unwrap();
        options(&query, "p").map_err(|error| error.to_string())
    }

    #[test]
    fn options_are_taken_or_refused_by_name() {
        let all =
            "container=c&follow=true&previous=1&timestamps=true&tailLines=0&limitBytes=9&sinceSeconds=60&stream=All";
        let expected = LogOptions {
            container: "c".to_owned(),
            follow: true,
            previous: true,
            timestamps: true,
            since_secs: Some(60),
            since_time: None,
            tail_lines: Some(0),
            limit_bytes: Some(9),
        };
        assert_eq!(read(all), Ok(expected));
        let since = read("sinceTime=2026-01-31T12:00:00Z&follow=false").unwrap();
        assert_eq!((since.since_time, since.follow), (Some("2026-01-31T12:00:00Z".parse().unwrap()), false));
        let invalid = |text: &str| Err(format!("PodLogOptions \"p\" is invalid: {text}"));
        for (query, expected) in [
            ("tailLines=-1", invalid("tailLines: Invalid value: -1: must be greater than or equal to 0")),
            ("limitBytes=0", invalid("limitBytes: Invalid value: 0: must be greater than 0")),
            ("sinceSeconds=0", invalid("sinceSeconds: Invalid value: 0: must be greater than 0")),
            ("stream=Stderr", invalid("stream: Forbidden: may not be specified")),
            (
                "sinceSeconds=5&sinceTime=2026-01-31T12:00:00Z",
                invalid(": Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified"),
            ),
            ("tailLines=x", Err("strconv.ParseInt: parsing \"x\": invalid syntax".to_owned())),
        ] {
            assert_eq!(read(query), expected, "{query}");
        }
        assert!(read("sinceTime=yesterday").is_err());
    }
}
