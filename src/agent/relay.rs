//! An address of the node at which its pods reach the API: connections are handed on to control as they are.
//!
//! It is the same on every node and never changes, so pods keep what they were told at their start when control moves, and
//! reach a control that listens on the host's loopback only. The client speaks TLS with control itself and shows its own
//! token; control's certificate is good for the address.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::host::loopback;
use crate::link::POD_API;
use crate::podspec::ApiAddress;

/// How many connections there are at the same time; others wait.
const CONNECTIONS_MAX: usize = 1024;
/// How long control may take to accept one.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause after a failure to accept, as when there are too many files open.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Makes the address and listens there.
///
/// # Errors
/// Why that is not possible.
pub(super) async fn listen() -> io::Result<TcpListener> {
    loopback::add(*POD_API.ip())?;
    TcpListener::bind(POD_API).await
}

/// What pods are told.
pub(super) fn address() -> ApiAddress {
    ApiAddress { host: POD_API.ip().to_string(), port: POD_API.port() }
}

/// Hands connections on to `control`, a host and a port, until its runtime ends.
pub(super) async fn run(listener: TcpListener, control: String) {
    let (slots, control) = (Arc::new(Semaphore::new(CONNECTIONS_MAX)), Arc::new(control));
    loop {
        let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
        let connection = match listener.accept().await {
            Ok((connection, _)) => connection,
            Err(error) => {
                tracing::debug!(%error, "a pod's connection to the API cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let control = control.clone();
        tokio::spawn(async move {
            if let Err(error) = hand_on(connection, &control).await {
                tracing::debug!(%error, "a pod's connection to the API has ended");
            }
            drop(slot);
        });
    }
}

async fn hand_on(mut connection: TcpStream, control: &str) -> io::Result<()> {
    let mut onward = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(control)).await??;
    copy_bidirectional(&mut connection, &mut onward).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_connection_is_handed_on_with_both_its_ends() {
        let control = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (at, onward) = (relay.local_addr().unwrap(), control.local_addr().unwrap().to_string());
        let relaying = tokio::spawn(run(relay, onward));
        let mut pod = TcpStream::connect(at).await.unwrap();
        let (mut there, _) = control.accept().await.unwrap();
        pod.write_all(b"question").await.unwrap();
        pod.shutdown().await.unwrap();
        let mut question = String::new();
        there.read_to_string(&mut question).await.unwrap();
        there.write_all(b"answer").await.unwrap();
        drop(there);
        let mut answer = String::new();
        pod.read_to_string(&mut answer).await.unwrap();
        assert_eq!((question.as_str(), answer.as_str()), ("question", "answer"));

        drop(control);
        let mut pod = TcpStream::connect(at).await.unwrap();
        assert_eq!(pod.read_to_string(&mut String::new()).await.unwrap_or(0), 0, "without control it ends");
        relaying.abort();
    }
}
