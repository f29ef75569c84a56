//! gRPC's own health service, without TLS.
//!
//! Source: kubernetes v1.36 `pkg/probe/grpc/grpc.go`; `grpc/health/v1/health.proto` of gRPC.

use std::io;
use std::sync::Mutex;
use std::time::Duration;

use ::http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;

use super::{VERSION, address, connect, within};
use crate::plan::probe::Attempt;

const CHECK: &str = "/grpc.health.v1.Health/Check";
/// The pause after a connection was refused; the first of Go's client.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(enumeration = "ServingStatus", tag = "1")]
    status: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
enum ServingStatus {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    ServiceUnknown = 3,
}

/// Asks the server at `host` and `port` whether `service` is served; an empty one stands for the server as a whole.
pub async fn grpc(host: &str, port: u16, service: &str, timeout: Duration) -> Attempt {
    let deadline = Some(Instant::now() + timeout);
    let connecting = async {
        loop {
            if let Ok(stream) = connect(host, port).await {
                return stream;
            }
            sleep(RETRY).await;
        }
    };
    let Some(stream) = within(deadline, connecting).await else {
        let address = address(host, port);
        return Attempt::Failure(format!(
            "timeout: failed to connect service \"{address}\" within {timeout:?}: context deadline exceeded"
        ));
    };
    match within(deadline, check(stream, service)).await {
        Some(Ok(response)) => judge(response.into_inner().status),
        Some(Err(status)) => Attempt::Failure(words(&status, timeout)),
        None => Attempt::Failure(words(&Status::deadline_exceeded(""), timeout)),
    }
}

async fn check(stream: TcpStream, service: &str) -> Result<Response<HealthCheckResponse>, Status> {
    let mut client = Grpc::new(over(stream).await?);
    client.ready().await.map_err(|error| Status::from_error(error.into()))?;
    let request = Request::new(HealthCheckRequest { service: service.to_owned() });
    client.unary(request, PathAndQuery::from_static(CHECK), ProstCodec::default()).await
}

/// Speaks over this stream and no other.
async fn over(stream: TcpStream) -> Result<Channel, Status> {
    let only = Mutex::new(Some(TokioIo::new(stream)));
    let connector = tower::service_fn(move |_| {
        let taken = only.lock().ok().and_then(|mut only| only.take());
        std::future::ready(taken.ok_or(io::Error::from(io::ErrorKind::NotConnected)))
    });
    let endpoint = Endpoint::from_static("http://probed").user_agent(format!("kube-probe/{VERSION}"));
    let endpoint = endpoint.expect("the name is plain text");
    endpoint.connect_with_connector(connector).await.map_err(|error| Status::from_error(error.into()))
}

fn judge(status: i32) -> Attempt {
    let name = match ServingStatus::try_from(status) {
        Ok(ServingStatus::Serving) => return Attempt::Success,
        Ok(ServingStatus::Unknown) => "UNKNOWN".to_owned(),
        Ok(ServingStatus::NotServing) => "NOT_SERVING".to_owned(),
        Ok(ServingStatus::ServiceUnknown) => "SERVICE_UNKNOWN".to_owned(),
        Err(_) => status.to_string(),
    };
    Attempt::Failure(format!("service unhealthy (responded with \"{name}\")"))
}

fn words(status: &Status, timeout: Duration) -> String {
    let message = status.message();
    match status.code() {
        Code::Unimplemented => {
            format!("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {message}")
        }
        Code::DeadlineExceeded => format!("timeout: health rpc did not complete within {timeout:?}"),
        code => format!("error: health rpc probe failed: rpc error: code = {code:?} desc = {message}"),
    }
}
