//! Connections from inside a pod's network namespace, to what listens on its loopback device.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use tokio::sync::oneshot;

/// How long who listens may take to accept.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The namespace cannot be entered, most often because the pod has ended.
    #[error("cannot enter the network namespace {path}")]
    Enter {
        /// Its file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Nobody accepts.
    #[error("failed to connect to localhost:{port}")]
    Connect {
        /// The port.
        port: u16,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Connects to a port of localhost in the network namespace whose file is at `path`, or in this process's own.
///
/// By IPv4, and by IPv6 to who listens there only.
///
/// # Errors
/// [`NetnsError`].
///
/// Source: containerd `pkg/cri/server/sandbox_portforward_linux.go`.
pub async fn connect(path: Option<PathBuf>, port: u16) -> Result<tokio::net::TcpStream, NetnsError> {
    let (connected_tx, connected_rx) = oneshot::channel();
    // A thread of its own, since one that has entered a namespace must do nothing else any more.
    let thread = std::thread::Builder::new().name("netns".to_owned()).spawn(move || {
        let entered = path.as_deref().map_or(Ok(()), enter);
        drop(connected_tx.send(entered.and_then(|()| connect_here(port))));
    });
    thread.map_err(|source| NetnsError::Connect { port, source })?;
    let stream = connected_rx.await.expect("connecting does not panic")?;
    let adopted = stream.set_nonblocking(true).and_then(|()| tokio::net::TcpStream::from_std(stream));
    adopted.map_err(|source| NetnsError::Connect { port, source })
}

fn enter(path: &Path) -> Result<(), NetnsError> {
    let entered = File::open(path).and_then(|file| setns(file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from));
    entered.map_err(|source| NetnsError::Enter { path: path.to_owned(), source })
}

fn connect_here(port: u16) -> Result<TcpStream, NetnsError> {
    let connect = |ip: IpAddr| TcpStream::connect_timeout(&SocketAddr::new(ip, port), CONNECT_WITHIN);
    // What was against IPv4 is what most people want to hear.
    let by_v4 = connect(Ipv4Addr::LOCALHOST.into());
    by_v4.or_else(|source| connect(Ipv6Addr::LOCALHOST.into()).map_err(|_| NetnsError::Connect { port, source }))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn both_address_families_are_tried() {
        for address in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            // A machine without IPv6 has nothing to try.
            let Ok(listener) = TcpListener::bind((address, 0)).await else { continue };
            let port = listener.local_addr().unwrap().port();
            let (mut near, (mut far, _)) =
                tokio::try_join!(async { connect(None, port).await.map_err(io::Error::other) }, listener.accept())
                    .unwrap();
            far.write_all(b"x").await.unwrap();
            assert_eq!(near.read_u8().await.unwrap(), b'x');
        }
    }

    #[tokio::test]
    async fn what_is_in_the_way_is_told() {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap().port();
        let refused = connect(None, port).await.unwrap_err();
        assert!(refused.to_string() == format!("failed to connect to localhost:{port}"), "{refused}");
        let missing = connect(Some("/nowhere/netns".into()), port).await.unwrap_err();
        assert_eq!(missing.to_string(), "cannot enter the network namespace /nowhere/netns");
    }
}
