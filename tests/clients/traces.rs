//! Traces of requests, as a collector receives them, and what it costs if there is none.

use std::collections::BTreeMap;
use std::net;
use std::process::Command;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::harness::Control;
use crate::load::{CONFIG_MAPS, Client, json_of};

const WARNING: &str = "traces cannot be delivered and are dropped";

struct Collector {
    requests_tx: mpsc::UnboundedSender<ExportTraceServiceRequest>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        drop(self.requests_tx.send(request.into_inner()));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn run(test: impl Future<Output = anyhow::Result<()>>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(test).expect("control answers");
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<&str, String> {
    let text = |attribute: &KeyValue| match attribute.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        _ => None,
    };
    attributes.iter().filter_map(|attribute| Some((attribute.key.as_str(), text(attribute)?))).collect()
}

#[test]
fn a_request_is_told_to_the_collector_at_the_latest_when_control_ends() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let (requests_tx, mut requests_rx) = mpsc::unbounded_channel();
        let collector = TraceServiceServer::new(Collector { requests_tx });
        let server = tonic::transport::Server::builder().add_service(collector);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));

        let seldom = ("OTEL_BSP_SCHEDULE_DELAY", "3600000");
        let control = Control::start_in(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint), seldom], &[]);
        let client = Client::of(&control)?;
        let path = format!("{CONFIG_MAPS}/none");
        let answer = client.ask(&mut client.connect().await?, "GET", &path, None).await?;
        let id = answer.headers()["audit-id"].to_str()?.to_owned();
        let log = control.stop();
        assert!(!log.contains(WARNING), "{log}");

        let (mut found, mut named) = (Vec::new(), Vec::new());
        while let Ok(request) = requests_rx.try_recv() {
            for of_resource in request.resource_spans {
                named.push(of_resource.resource.unwrap_or_default());
                found.extend(of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans));
            }
        }
        let service = texts(&named[0].attributes);
        assert_eq!(service["service.name"], "garrison");
        let span = found.iter().find(|span| texts(&span.attributes).get("audit.id") == Some(&id));
        let span = span.unwrap_or_else(|| panic!("{id} is not among {found:?}"));
        let attributes = texts(&span.attributes);
        let said = ["http.request.method", "url.path", "http.response.status_code", "user.name"];
        assert_eq!(said.map(|name| attributes[name].as_str()), ["GET", path.as_str(), "404", "garrison-admin"]);
        assert_eq!((span.name.as_str(), span.kind), ("GET", 2), "a server's");
        assert!(span.end_time_unix_nano > span.start_time_unix_nano, "{span:?}");
        assert!(span.events.iter().any(|event| event.name == "a request was answered"), "{span:?}");
        Ok(())
    });
}

#[test]
fn a_collector_that_does_not_answer_costs_one_warning() {
    // One that takes connections and says nothing, and a port that nobody listens at.
    let silent = net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let silent = (format!("http://{}", silent.local_addr().expect("it is bound")), silent);
    for endpoint in [silent.0.as_str(), "http://127.0.0.1:1"] {
        run(async {
            let control = Control::start_in(
                &[
                    ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
                    ("OTEL_EXPORTER_OTLP_TIMEOUT", "100"),
                    ("OTEL_BSP_SCHEDULE_DELAY", "10"),
                    ("OTEL_BSP_MAX_QUEUE_SIZE", "16"),
                ],
                &[],
            );
            let client = Client::of(&control)?;
            let mut sender = client.connect().await?;
            for _ in 0..200 {
                let (code, list) = json_of(client.ask(&mut sender, "GET", CONFIG_MAPS, None).await?).await?;
                assert_eq!(code, 200, "{list}");
            }
            control.eventually("the warning", |control| {
                if control.log().contains(WARNING) { Ok(()) } else { Err(control.log()) }
            });
            let log = control.stop();
            assert_eq!(log.matches(WARNING).count(), 1, "{endpoint}: {log}");
            Ok(())
        });
    }
}

#[test]
fn what_the_environment_says_wrong_of_traces_is_refused() {
    // Were it not refused, it would be for its folder.
    let mut control = Command::new(env!("CARGO_BIN_EXE_garrison"));
    control.args(["control", "--listen", "127.0.0.1:0", "--state-dir", "/proc/nowhere"]);
    control.env("OTEL_EXPORTER_OTLP_ENDPOINT", "https://127.0.0.1:1");
    control.env("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.crt");
    let output = control.output().expect("the binary under test starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("cannot read /nowhere/ca.crt"), "{said}");
}
