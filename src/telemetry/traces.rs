//! Traces of requests to the API, sent to a collector over OTLP/gRPC.
//!
//! OpenTelemetry's own variables say where to and how; without an endpoint nothing is sent. Sending has threads of its own, and what
//! a collector does not take in time is dropped: requests never wait for it.
//!
//! Source: OpenTelemetry's "Environment Variable Specification" and "OTLP Exporter Configuration", and its semantic conventions for
//! HTTP servers. We differ on purpose: the port of a local collector is not tried unasked, and only gRPC is spoken, uncompressed.

use std::env;
use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::trace::{SpanKind, Status, TracerProvider};
use opentelemetry::{Key, KeyValue, Value};
use opentelemetry_otlp::{ExporterBuildError, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use tokio::runtime::Runtime;
use tonic::transport::{Certificate, ClientTlsConfig};
use tracing::{Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;

use crate::error::Chain;

/// How long the end of the process may be held up by what is left to deliver.
const FLUSH_WITHIN: Duration = Duration::from_secs(5);

/// Why traces cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// The thread that sends them.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// The authority of the collector's certificate.
    #[error("cannot read {path}, the certificate that OTEL_EXPORTER_OTLP_CERTIFICATE names")]
    Certificate {
        /// As the variable has it.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// What another variable says.
    #[error("the variables OTEL_EXPORTER_OTLP_* are wrong")]
    Settings(#[from] ExporterBuildError),
}

/// What sends traces. Delivers what is left when it is dropped.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
    _runtime: Runtime,
}

impl Traces {
    /// Begins as the environment has it; gives none if that names no collector.
    ///
    /// # Errors
    /// [`TracesError`].
    pub fn begin() -> Result<Option<Self>, TracesError> {
        let has_endpoint = variable("ENDPOINT").is_some();
        let is_off = env::var("OTEL_SDK_DISABLED").is_ok_and(|value| value.eq_ignore_ascii_case("true"))
            || env::var("OTEL_TRACES_EXPORTER").is_ok_and(|exporter| exporter == "none");
        if !has_endpoint || is_off {
            return Ok(None);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("traces")
            .enable_all()
            .build()
            .map_err(TracesError::Thread)?;
        // The exporter's connection belongs to the runtime in which it is built.
        let within = runtime.enter();
        let mut exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic();
        if let Some(path) = variable("CERTIFICATE") {
            let pem = fs::read(&path).map_err(|source| TracesError::Certificate { path, source })?;
            exporter = exporter.with_tls_config(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)));
        }
        let exporter = Exporter { exporter: exporter.build()?, is_failing: AtomicBool::new(false) };
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource()).build();
        drop(within);
        Ok(Some(Self { provider, _runtime: runtime }))
    }

    /// Makes spans of requests, and what is said in them, into what is sent.
    pub fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(&self) -> impl Layer<S> + use<S> {
        let tracer = self.provider.tracer("garrison");
        let layer = tracing_opentelemetry::layer().with_tracer(tracer).with_location(false).with_threads(false);
        layer.with_filter(Targets::new().with_target("garrison", Level::DEBUG))
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        if let Err(error) = self.provider.shutdown_with_timeout(FLUSH_WITHIN) {
            tracing::debug!(error = %Chain(&error), "the last traces are lost");
        }
    }
}

/// What the variable for traces says, or else that for everything that is exported.
fn variable(name: &str) -> Option<String> {
    let names = [format!("OTEL_EXPORTER_OTLP_TRACES_{name}"), format!("OTEL_EXPORTER_OTLP_{name}")];
    names.iter().find_map(|name| env::var(name).ok().filter(|value| !value.is_empty()))
}

/// Who tells: as the environment has it, or garrison.
fn resource() -> Resource {
    let given = Resource::builder().build();
    let is_named =
        given.get(&Key::new("service.name")).is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let named = Resource::builder().with_attribute(version);
    if is_named { named.build() } else { named.with_service_name("garrison").build() }
}

/// Sends spans under the names that tracing's collectors know, and says once when they are not taken.
#[derive(Debug)]
struct Exporter<E> {
    exporter: E,
    is_failing: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Exporter<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let sent = self.exporter.export(batch.into_iter().map(conventional).collect()).await;
        let was_failing = self.is_failing.swap(sent.is_err(), Ordering::Relaxed);
        match &sent {
            Err(error) if !was_failing => {
                tracing::warn!(error = %Chain(error), "traces cannot be delivered and are dropped");
            }
            Ok(()) if was_failing => tracing::info!("traces are delivered again"),
            _ => {}
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// A request's span, which logs print with short names, as OpenTelemetry has that of an HTTP server.
fn conventional(mut span: SpanData) -> SpanData {
    if span.name != "request" {
        return span;
    }
    span.span_kind = SpanKind::Server;
    for KeyValue { key, value, .. } in &mut span.attributes {
        let name = match key.as_str() {
            "id" => "audit.id",
            "method" => {
                span.name = value.as_str().into_owned().into();
                "http.request.method"
            }
            "path" => "url.path",
            "user" => "user.name",
            "code" => {
                if let Value::I64(500..) = value {
                    span.status = Status::error("");
                }
                "http.response.status_code"
            }
            _ => continue,
        };
        *key = Key::new(name);
    }
    span
}
