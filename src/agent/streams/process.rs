//! A process in a container: what it writes to its user, what the user types to it.

use std::convert::Infallible;

use tokio::sync::mpsc;

use super::{failed, send};
use crate::cri::{Process, ProcessOutput};
use crate::link::{TunnelDown, TunnelFailure, TunnelStream, TunnelUp};

/// Carries a process's streams until it has ended; gives its exit code.
///
/// # Errors
/// The runtime's words, if there is none.
pub(super) async fn carry(
    process: Process,
    up_tx: &mpsc::Sender<TunnelUp>,
    down_rx: &mut mpsc::Receiver<TunnelDown>,
) -> Result<i32, TunnelFailure> {
    let Process { mut stdin, stdout, stderr, resize, end } = process;
    let output = async {
        tokio::join!(pass_on(stdout, TunnelStream::Output, up_tx), pass_on(stderr, TunnelStream::Error, up_tx),);
        end.wait().await.map_err(failed)
    };
    // A process need not read what it is sent, nor live as long: what fails here shows in the end of its output.
    let input = async {
        while let Some(down) = down_rx.recv().await {
            match down {
                TunnelDown::Data(data) => {
                    if let Some(stdin) = &stdin {
                        let _ = stdin.send(data).await;
                    }
                }
                TunnelDown::Resize(size) => {
                    if let Some(resize) = &resize {
                        let _ = resize.to(size).await;
                    }
                }
                TunnelDown::Close => {
                    if let Some(stdin) = stdin.take() {
                        stdin.finish().await;
                    }
                }
            }
        }
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        end = output => end,
        never = input => match never {},
    }
}

async fn pass_on(output: Option<ProcessOutput>, stream: TunnelStream, up_tx: &mpsc::Sender<TunnelUp>) {
    let Some(mut output) = output else { return };
    // The runtime may cut its streams off as soon as all was written.
    while let Some(Ok(data)) = output.recv().await {
        send(up_tx, stream, data).await;
    }
}
