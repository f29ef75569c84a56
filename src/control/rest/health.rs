//! Whether control is well: `/healthz`, `/livez` and `/readyz`, whole or by check.
//!
//! Source: kubernetes v1.36, `k8s.io/apiserver/pkg/server/healthz/healthz.go`.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{StatusCode, Uri};

use super::Api;
use super::errors::ApiError;
use super::query::Query;
use crate::error::Chain;

/// The checks, in the order in which they are told.
const CHECKS: [Check; 2] = [Check::Ping, Check::Store];

/// One thing that may be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    /// The process answers.
    Ping,
    /// What it knows can be read.
    Store,
}

/// Routes to all of them.
pub fn routes() -> Router<Arc<Api>> {
    let all = ["healthz", "livez", "readyz"].map(|name| (name, format!("/{name}"), format!("/{name}/{{check}}")));
    all.into_iter().fold(Router::new(), |router, (name, whole, part)| {
        router
            .route(
                &whole,
                get(move |State(api): State<Arc<Api>>, uri: Uri| async move { answer(&api, name, &uri).await }),
            )
            .route(
                &part,
                get(move |State(api): State<Arc<Api>>, Path(check): Path<String>| async move {
                    answer_part(&api, &check).await
                }),
            )
    })
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Store => "store",
        }
    }

    async fn is_well(self, api: &Api) -> bool {
        match self {
            Self::Ping => true,
            Self::Store => {
                let read = api.objects.check().await;
                if let Err(error) = &read {
                    tracing::warn!(error = %Chain(error), "the store does not answer");
                }
                read.is_ok()
            }
        }
    }
}

async fn answer(api: &Api, name: &str, uri: &Uri) -> Response {
    let query = match Query::parse(uri) {
        Ok(query) => query,
        Err(error) => return error.into_response(),
    };
    let mut report = Vec::new();
    for check in CHECKS {
        let excluded = query.all("exclude").any(|excluded| excluded == check.name());
        report.push((check.name(), if excluded { None } else { Some(check.is_well(api).await) }));
    }
    let well = report.iter().all(|(_, well)| *well != Some(false));
    let text = if well && query.get("verbose").is_none() { "ok".to_owned() } else { verbose(name, &report) };
    plain(if well { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR }, text)
}

async fn answer_part(api: &Api, name: &str) -> Response {
    match CHECKS.into_iter().find(|check| check.name() == name) {
        Some(check) if check.is_well(api).await => plain(StatusCode::OK, "ok".to_owned()),
        Some(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "internal server error: failed".to_owned()),
        None => ApiError::NoResource.into_response(),
    }
}

/// A line for each check; `None` for one that was left out. Why one fails is for the log only.
fn verbose(name: &str, report: &[(&str, Option<bool>)]) -> String {
    let mut text = String::new();
    for (check, well) in report {
        let line = match well {
            Some(true) => format!("[+]{check} ok"),
            Some(false) => format!("[-]{check} failed: reason withheld"),
            None => format!("[+]{check} excluded: ok"),
        };
        writeln!(text, "{line}").expect("writing to a string");
    }
    let end = if report.iter().any(|(_, well)| *well == Some(false)) { "failed" } else { "passed" };
    text + &format!("{name} check {end}\n")
}

fn plain(code: StatusCode, text: String) -> Response {
    let mut response = (code, text).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verbose_answer_has_a_line_for_each_check() {
        assert_eq!(
            verbose("livez", &[("ping", Some(true)), ("store", None)]),
            "[+]ping ok\n[+]store excluded: ok\nlivez check passed\n"
        );
        assert_eq!(
            verbose("readyz", &[("ping", Some(true)), ("store", Some(false))]),
            "[+]ping ok\n[-]store failed: reason withheld\nreadyz check failed\n"
        );
    }
}
