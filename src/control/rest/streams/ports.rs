//! `portforward` over WebSocket without SPDY, as clients other than `kubectl` do it: `ports=` names ports, each of which
//! has one connection and two channels. Port number *n* of the list has its data on channel 2*n*, what the node has to
//! complain of on 2*n* + 1; the first message on each is the port, as two bytes, the lower one first.
//!
//! Source: kubernetes v1.36, `k8s.io/kubelet/pkg/cri/streaming/portforward/websocket.go`.

use futures_util::future::join_all;
use futures_util::stream::BoxStream;
use futures_util::{SinkExt, StreamExt, future, stream};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use super::forward::Forwards;
use super::websocket::{self, content, goes_on};
use super::{IDLE, Io, Protocol};
use crate::control::rest::errors::ApiError;
use crate::control::rest::query::Query;
use crate::control::streams::{NodeStream, Piece, StreamError, TunnelDown};
use crate::link::heard::Heard;
use crate::link::pieces;

/// How many ports may be asked for at once.
const PORTS_MAX: usize = 32;

/// The ports that are asked for, as `ports=80&ports=81` or `ports=80,81`.
///
/// # Errors
/// [`ApiError::BadRequest`] if there are none, or what is named is none.
pub(super) fn asked(query: &Query) -> Result<Vec<u16>, ApiError> {
    let parse = |text: &str| match text.parse() {
        Ok(0) => Err(ApiError::BadRequest(format!("port {text:?} must be > 0"))),
        Ok(port) => Ok(port),
        Err(error) => Err(ApiError::BadRequest(format!("unable to parse {text:?} as a port: {error}"))),
    };
    let ports: Vec<u16> = query.all("ports").flat_map(|list| list.split(',')).map(parse).collect::<Result<_, _>>()?;
    match ports.len() {
        0 => Err(ApiError::BadRequest("query parameter \"ports\" is required".to_owned())),
        1..=PORTS_MAX => Ok(ports),
        _ => Err(ApiError::BadRequest(format!("no more than {PORTS_MAX} ports can be forwarded at once"))),
    }
}

/// Carries one connection for each port, until all have ended or the client leaves.
pub(super) async fn serve(io: Io, protocol: &'static Protocol, forwards: Forwards, ports: &[u16]) {
    let (mut to, from) = websocket::accept(io).await.split();
    let mut from = from.take_while(|message| future::ready(goes_on(message)));
    let opened = join_all(ports.iter().map(|port| forwards.open(*port))).await;
    let (inputs, outputs): (Vec<_>, Vec<_>) = opened.into_iter().map(ends).unzip();
    let told = (0..).step_by(2).zip(ports).zip(outputs);
    let told = told.map(|((channel, port), output)| tell(protocol, &forwards, (channel, *port), output));
    let heard = Heard::now();
    let mut told = stream::select_all(told).map(Ok).inspect(|_| heard.note());
    let inward = async {
        while let Some(Ok(message)) = from.next().await {
            heard.note();
            let said = content(message).and_then(|message| protocol.split(&message));
            // Nobody sends on the channels for errors, or on those of no port.
            let Some((channel, data)) = said.filter(|(channel, _)| channel % 2 == 0) else { continue };
            let Some(input) = inputs.get(usize::from(channel / 2)) else { continue };
            for piece in pieces(data) {
                let _ = input.send(TunnelDown::Data(piece)).await;
            }
        }
    };
    tokio::select! {
        _ = to.send_all(&mut told) => {}
        () = inward => {}
        () = heard.silent_for(IDLE) => {}
    }
    drop(told);
    if let Ok(socket) = to.reunite(from.into_inner()) {
        websocket::close(socket).await;
    }
}

type Output = BoxStream<'static, Result<Piece, StreamError>>;

/// Both ways of a connection. One that was not opened takes nothing and says why.
fn ends(opened: Result<NodeStream, StreamError>) -> (mpsc::Sender<TunnelDown>, Output) {
    match opened {
        Ok(NodeStream { input, output }) => (input, output),
        Err(error) => (mpsc::channel(1).0, stream::iter([Err(error)]).boxed()),
    }
}

/// What a client is told of one port.
fn tell<'a>(
    protocol: &'static Protocol,
    forwards: &'a Forwards,
    (channel, port): (u8, u16),
    output: Output,
) -> BoxStream<'a, Message> {
    let first = [channel, channel + 1].map(|channel| protocol.message(channel, &port.to_le_bytes()));
    let rest = output.filter_map(move |piece| {
        future::ready(match piece {
            Ok(Piece::Data(_, data)) => Some(protocol.message(channel, &data)),
            Ok(Piece::End(_)) => None,
            Err(error) => Some(protocol.message(channel + 1, forwards.complaint(port, &error).as_bytes())),
        })
    });
    stream::iter(first).chain(rest).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_named_one_by_one_or_in_a_list() {
        let asked = |text: &str| {
            let query = Query::parse(&format!("/x?{text}").parse().unwrap()).unwrap();
            asked(&query).map_err(|error| error.to_string())
        };
        assert_eq!(asked("ports=80&ports=81,82"), Ok(vec![80, 81, 82]));
        for (text, expected) in [
            ("", "query parameter \"ports\" is required"),
            ("ports=0", "port \"0\" must be > 0"),
            ("ports=http", "unable to parse \"http\" as a port: invalid digit found in string"),
        ] {
            assert_eq!(asked(text), Err(expected.to_owned()));
        }
        assert!(asked(&"ports=1&".repeat(33)).is_err());
    }
}
