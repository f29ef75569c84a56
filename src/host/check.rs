//! Asking a container from outside: the clients of probes and hooks, in the host's network.
//!
//! A check is made once and comes to an [`Attempt`]: what the other side did is its success or failure, trouble on the way
//! included, in the words of the kubelet's own clients, which operators know and search for. Commands are run through the
//! runtime, not here.
//!
//! Sockets are closed without `SO_LINGER`, which the kubelet sets: it would make a close wait, on a thread that others need.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nix::errno::Errno;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout_at};

use crate::plan::probe::Attempt;

mod grpc;
mod http;
mod tls;

pub use grpc::grpc;
pub use http::{HttpError, Reply, get, http};

/// The version of Kubernetes that the clients name in `User-Agent`.
const VERSION: &str = "1.36";
/// How much of what the other side says is kept.
pub const OUTPUT_BYTES_MAX: usize = 10 * 1024;

/// Opens a connection and closes it.
///
/// Source: kubernetes v1.36 `pkg/probe/tcp/tcp.go`.
pub async fn tcp(host: &str, port: u16, timeout: Duration) -> Attempt {
    match within(Some(Instant::now() + timeout), connect(host, port)).await {
        Some(Ok(_)) => Attempt::Success,
        Some(Err(words)) => Attempt::Failure(words),
        None => Attempt::Failure(format!("dial tcp {}: i/o timeout", address(host, port))),
    }
}

/// A connection, or Go's words for why there is none.
async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let addresses: Vec<SocketAddr> = match host.parse::<IpAddr>() {
        Ok(ip) => vec![SocketAddr::new(ip, port)],
        Err(_) => match lookup_host((host, port)).await {
            Ok(found) => found.collect(),
            Err(_) => return Err(format!("dial tcp: lookup {host}: no such host")),
        },
    };
    let connected = TcpStream::connect(addresses.as_slice()).await;
    connected.map_err(|error| format!("dial tcp {}: connect: {}", address(host, port), words(&error)))
}

/// None when the time is over first. Without a deadline it never is.
async fn within<T>(deadline: Option<Instant>, work: impl Future<Output = T>) -> Option<T> {
    match deadline {
        Some(deadline) => timeout_at(deadline, work).await.ok(),
        None => Some(work.await),
    }
}

/// `host:port`, with brackets around a host with colons.
fn address(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The system's words as Go has them: no capital, no number.
fn words(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |code| Errno::from_raw(code).desc().to_lowercase())
}

#[cfg(test)]
mod tests;
