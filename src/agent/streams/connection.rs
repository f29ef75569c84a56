//! A connection into a pod: bytes both ways, each way with an end of its own.

use std::convert::Infallible;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::mpsc;

use super::{failed, send};
use crate::link::{CHUNK_BYTES, TunnelDown, TunnelFailure, TunnelStream, TunnelUp};

/// Carries a connection until the pod's side has closed it.
///
/// # Errors
/// What the system said, if it broke.
pub(super) async fn carry(
    stream: TcpStream,
    up_tx: &mpsc::Sender<TunnelUp>,
    down_rx: &mut mpsc::Receiver<TunnelDown>,
) -> Result<i32, TunnelFailure> {
    let (read, mut write) = stream.into_split();
    // What cannot be written any more shows when reading.
    let input = async {
        while let Some(down) = down_rx.recv().await {
            match down {
                TunnelDown::Data(data) => drop(write.write_all(&data).await),
                TunnelDown::Close => drop(write.shutdown().await),
                TunnelDown::Resize(_) => {}
            }
        }
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        end = pass_on(read, up_tx) => end.map(|()| 0).map_err(failed),
        never = input => match never {},
    }
}

async fn pass_on(mut read: OwnedReadHalf, up_tx: &mpsc::Sender<TunnelUp>) -> std::io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(CHUNK_BYTES / 2);
        if read.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        send(up_tx, TunnelStream::Main, buffer.split().freeze()).await;
    }
}
