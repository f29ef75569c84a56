//! Between a client and a process on a node, whatever the client speaks.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::time::MissedTickBehavior;

use super::IDLE;
use super::protocol::FromClient;
use super::status::End;
use crate::control::streams::{NodeStream, Piece, TunnelDown, TunnelStream};
use crate::link::heard::Heard;
use crate::link::pieces;

/// How often a client hears something, were it only to notice that it has gone.
const ALIVE_PERIOD: Duration = Duration::from_secs(30);

/// What a client is told.
#[derive(Debug)]
pub(super) enum ToClient {
    /// The process wrote it to its output.
    Output(Bytes),
    /// The process wrote it to its standard error.
    Error(Bytes),
    /// Nothing was said for a while.
    Alive,
    /// The last: how the process ended.
    End(End),
}

/// Carries what client and node say until the process has ended and the client knows, or the client has gone: `from`
/// ends, or `to` fails.
pub(super) async fn relay(from: impl Stream<Item = FromClient>, to: impl Sink<ToClient>, node: NodeStream) {
    let (mut from, mut to) = (pin!(from), pin!(to));
    let NodeStream { input, mut output } = node;
    let heard = Heard::now();
    let up = async {
        while let Some(said) = from.next().await {
            heard.note();
            // A process that is no more shows in its output.
            match said {
                FromClient::Input(data) => {
                    for piece in pieces(data) {
                        let _ = input.send(TunnelDown::Data(piece)).await;
                    }
                }
                FromClient::InputEnd => drop(input.send(TunnelDown::Close).await),
                FromClient::Resize(size) => drop(input.send(TunnelDown::Resize(size)).await),
            }
        }
    };
    let down = async {
        let mut alive = tokio::time::interval(ALIVE_PERIOD);
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Both only wait: what comes of a node stays in its queue.
            let said = tokio::select! {
                piece = output.next() => match piece {
                    Some(Ok(Piece::Data(TunnelStream::Error, data))) => ToClient::Error(data),
                    Some(Ok(Piece::Data(TunnelStream::Main | TunnelStream::Output, data))) => ToClient::Output(data),
                    Some(Ok(Piece::End(code))) => ToClient::End(Ok(code)),
                    Some(Err(error)) => ToClient::End(Err(error)),
                    None => return,
                },
                _ = alive.tick() => ToClient::Alive,
            };
            if !matches!(said, ToClient::Alive) {
                heard.note();
            }
            let last = matches!(said, ToClient::End(_));
            if to.send(said).await.is_err() || last {
                return;
            }
        }
    };
    // Whichever ends, the others are of no use any more.
    tokio::select! {
        () = up => {}
        () = down => {}
        () = heard.silent_for(IDLE) => tracing::info!("a stream was ended on which nothing was sent for hours"),
    }
}
