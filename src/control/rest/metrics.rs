//! What control counts of its requests, for `/metrics`. Names and labels are the API server's where it has them.
//!
//! Source: kubernetes v1.36, `k8s.io/apiserver/pkg/endpoints/metrics/metrics.go`.

use std::sync::atomic::AtomicI64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::control::rbac::{About, Attributes, Resource};

/// What `/metrics` answers with.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds of durations, in seconds. Some of upstream's: what takes longer than a minute is a watch.
const BUCKETS: [f64; 12] = [0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 1.0, 2.0, 5.0, 15.0, 60.0];

/// Everything that is counted. Clones share it.
#[derive(Debug, Clone)]
pub struct Metrics {
    requests: Family<Answered, Counter>,
    durations: Family<Asked, Histogram, fn() -> Histogram>,
    /// Requests that are being answered, by whether they change something.
    pub in_flight: Family<InFlight, Gauge>,
    /// Watches and the like.
    pub long_running: Gauge<i64, AtomicI64>,
    /// Requests that were sent away because there were too many.
    pub rejected: Family<InFlight, Counter>,
    audited: Counter,
}

/// What a request asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    verb: String,
    group: String,
    resource: String,
    subresource: String,
    scope: &'static str,
}

/// What a request asked for and how it was answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    #[prometheus(flatten)]
    asked: Asked,
    code: u16,
}

/// Whether a request may change something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct InFlight {
    /// `mutating` or `readOnly`.
    pub request_kind: &'static str,
}

impl InFlight {
    /// Requests that change something.
    pub const MUTATING: Self = Self { request_kind: "mutating" };
    /// Requests that do not.
    pub const READ_ONLY: Self = Self { request_kind: "readOnly" };
}

impl Default for Metrics {
    /// Nothing counted yet.
    fn default() -> Self {
        Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            in_flight: Family::default(),
            long_running: Gauge::default(),
            rejected: Family::default(),
            audited: Counter::default(),
        }
    }
}

impl Metrics {
    /// Counts an answer. `attributes` are none for a request that nobody looked at.
    pub fn answered(&self, attributes: Option<&Attributes>, code: u16, took: Duration) {
        let answered = Answered { asked: asked(attributes), code };
        self.requests.get_or_create(&answered).inc();
        // How long a watch took says nothing.
        if answered.asked.verb != "WATCH" {
            self.durations.get_or_create(&answered.asked).observe(took.as_secs_f64());
        }
    }

    /// Counts a line of the audit log.
    pub fn audited(&self) {
        self.audited.inc();
    }

    /// All of it, as OpenMetrics text.
    pub fn render(&self) -> String {
        let mut registry = Registry::default();
        registry.register(
            "apiserver_request",
            "Requests by what they asked for and their answer",
            self.requests.clone(),
        );
        registry.register(
            "apiserver_request_duration_seconds",
            "How long requests took, watches left out",
            self.durations.clone(),
        );
        registry.register("apiserver_current_inflight_requests", "Requests being answered", self.in_flight.clone());
        registry.register("apiserver_longrunning_requests", "Watches and streams going on", self.long_running.clone());
        registry.register(
            "apiserver_request_terminations",
            "Requests sent away because there were too many",
            self.rejected.clone(),
        );
        registry.register("apiserver_audit_event", "Lines of the audit log", self.audited.clone());
        let mut text = String::new();
        encode(&mut text, &registry).expect("writing to a string");
        text
    }
}

/// Paths are not told apart, nor the methods on them: anybody can make up new ones.
fn asked(attributes: Option<&Attributes>) -> Asked {
    let verb = attributes.map(|attributes| attributes.verb.to_ascii_uppercase()).unwrap_or_default();
    let about = attributes.map(|attributes| &attributes.about);
    let Some(About::Resource(Resource { group, resource, subresource, namespace, name })) = about else {
        let (nothing, known) = (String::new, ["", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"]);
        let verb = if known.contains(&verb.as_str()) { verb } else { "other".to_owned() };
        return Asked { verb, group: nothing(), resource: nothing(), subresource: nothing(), scope: "" };
    };
    let scope = match (name.is_empty() && verb != "CREATE", namespace.is_empty()) {
        (false, _) => "resource",
        (true, false) => "namespace",
        (true, true) => "cluster",
    };
    Asked { verb, group: group.clone(), resource: resource.clone(), subresource: subresource.clone(), scope }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_what_they_asked_for() {
        let metrics = Metrics::default();
        let pods = Resource { resource: "pods".into(), namespace: "n".into(), ..Resource::default() };
        let list = Attributes::on("list", pods);
        metrics.answered(Some(&list), 200, Duration::from_millis(30));
        metrics.answered(Some(&list), 200, Duration::from_millis(1));
        metrics.answered(None, 401, Duration::ZERO);
        for verb in ["get", "made-up"] {
            let path = Attributes { verb: verb.to_owned(), about: About::Path("/livez".to_owned()) };
            metrics.answered(Some(&path), 200, Duration::ZERO);
        }
        metrics.in_flight.get_or_create(&InFlight::READ_ONLY).inc();
        let text = metrics.render();
        for line in [
            r#"apiserver_request_total{verb="LIST",group="",resource="pods",subresource="",scope="namespace",code="200"} 2"#,
            r#"apiserver_request_total{verb="",group="",resource="",subresource="",scope="",code="401"} 1"#,
            r#"apiserver_request_total{verb="GET",group="",resource="",subresource="",scope="",code="200"} 1"#,
            r#"apiserver_request_total{verb="other",group="",resource="",subresource="",scope="",code="200"} 1"#,
            r#"apiserver_request_duration_seconds_bucket{le="0.005",verb="LIST",group="",resource="pods",subresource="",scope="namespace"} 1"#,
            r#"apiserver_current_inflight_requests{request_kind="readOnly"} 1"#,
            "# EOF",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
        }
    }

    const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
    /// Where the table is in the page, to its end.
    const BEGIN: &str = "<!-- metrics: made by `UPDATE_DOCS=1 cargo test --lib metrics` -->\n";

    /// A row for each, of what is told when everything has happened once.
    fn rows() -> String {
        let metrics = Metrics::default();
        metrics.answered(None, 200, Duration::ZERO);
        metrics.in_flight.get_or_create(&InFlight::MUTATING).inc();
        metrics.rejected.get_or_create(&InFlight::MUTATING).inc();
        metrics.audited();
        let text = metrics.render();
        let said = |word: &'static str| text.lines().filter_map(move |line| line.strip_prefix(word)?.split_once(' '));
        let row = |(name, meaning): (&str, &str)| {
            let kind = said("# TYPE ").find(|(other, _)| *other == name).expect("each has a type").1;
            let name = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
            let sample = text.lines().find(|line| line.starts_with(&name)).expect("each has happened");
            let labels =
                sample.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or("", |(labels, _)| labels);
            let labels =
                labels.split(',').filter_map(|label| Some(label.split_once('=')?.0)).filter(|name| *name != "le");
            let labels = labels.map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
            format!("| `{name}` | {kind} | {labels} | {meaning} |\n")
        };
        said("# HELP ").map(row).collect()
    }

    #[test]
    fn the_page_is_as_the_metrics_are() {
        let page = std::fs::read_to_string(PAGE).unwrap();
        let (before, _) = page.split_once(BEGIN).expect("the page says where the table begins");
        let wanted =
            format!("{before}{BEGIN}\n| metric | type | labels | what it says |\n|---|---|---|---|\n{}", rows());
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(PAGE, &wanted).unwrap();
        }
        assert!(std::fs::read_to_string(PAGE).unwrap() == wanted, "docs/metrics.md is old; run with UPDATE_DOCS=1");
    }
}
