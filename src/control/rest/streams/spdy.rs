//! `exec` and `attach` over SPDY: a stream for each of a process's streams.
//!
//! Source: kubernetes v1.36, `k8s.io/kubelet/pkg/cri/streaming/remotecommand/httpstream.go`.

use bytes::Bytes;
use futures_util::{Stream, StreamExt, future, sink, stream};
use tokio_stream::wrappers::ReceiverStream;

use super::protocol::{FromClient, Sizes};
use super::relay::{ToClient, relay};
use super::{CLIENT_WITHIN, Io, Protocol, status};
use crate::control::streams::NodeStream;
use crate::model::Stdio;
use crate::spdy::{self, Connection, Reset};

/// The streams that a client has opened.
#[derive(Default)]
struct Streams {
    error: Option<spdy::Stream>,
    stdin: Option<spdy::Stream>,
    stdout: Option<spdy::Stream>,
    stderr: Option<spdy::Stream>,
    resize: Option<spdy::Stream>,
}

/// Carries a process's streams to its end, or until the client leaves.
pub(super) async fn serve(io: Io, protocol: &'static Protocol, stdio: Stdio, node: NodeStream) {
    let mut connection = Connection::serve(io);
    let opened = tokio::time::timeout(CLIENT_WITHIN, Streams::opened(&mut connection, protocol, stdio)).await;
    let Ok(Some(Streams { error, stdin, stdout, stderr, resize })) = opened else {
        tracing::debug!("a client did not open the streams it had asked for");
        return;
    };
    let stdin = stdin.map(input);
    let resize = resize.map(sizes);
    let said = stream::select(stream::iter(stdin).flatten(), stream::iter(resize).flatten());
    // The end of the input is not that of the client.
    let said = said.chain(stream::pending()).take_until(connection.ended());
    let writers = [stdout, stderr, error].map(|stream| stream.map(|stream| stream.writer));
    let told = sink::unfold(writers, |writers, told| tell(protocol, writers, told));
    relay(said, told, node).await;
    connection.close().await;
}

impl Streams {
    /// Waits for all streams that were asked for; none if the connection ends before.
    async fn opened(connection: &mut Connection, protocol: &Protocol, stdio: Stdio) -> Option<Self> {
        let mut streams = Self::default();
        while !streams.are_complete(protocol, stdio) {
            let stream = connection.accept().await?;
            let place = match stream.header("streamtype") {
                Some("error") => &mut streams.error,
                Some("stdin") => &mut streams.stdin,
                Some("stdout") => &mut streams.stdout,
                Some("stderr") => &mut streams.stderr,
                Some("resize") => &mut streams.resize,
                _ => {
                    stream.writer.reset().await;
                    continue;
                }
            };
            *place = Some(stream);
        }
        Some(streams)
    }

    fn are_complete(&self, protocol: &Protocol, stdio: Stdio) -> bool {
        [
            (true, &self.error),
            (stdio.stdin, &self.stdin),
            (stdio.stdout, &self.stdout),
            (stdio.stderr, &self.stderr),
            (stdio.tty && protocol.resizes, &self.resize),
        ]
        .iter()
        .all(|(wanted, stream)| !wanted || stream.is_some())
    }
}

/// The input, and its end.
fn input(stream: spdy::Stream) -> impl Stream<Item = FromClient> + Unpin {
    let data = ReceiverStream::new(stream.reader).map(|piece| piece.map_or(FromClient::InputEnd, FromClient::Input));
    data.chain(stream::iter([FromClient::InputEnd]))
}

fn sizes(stream: spdy::Stream) -> impl Stream<Item = FromClient> + Unpin {
    let mut sizes = Sizes::default();
    ReceiverStream::new(stream.reader).filter_map(move |piece| {
        let size = piece.ok().and_then(|bytes| sizes.push(&bytes));
        future::ready(size.map(FromClient::Resize))
    })
}

/// A process's output and error, and the stream that tells how it ended.
type Writers = [Option<spdy::Writer>; 3];

async fn tell(protocol: &Protocol, writers: Writers, told: ToClient) -> Result<Writers, Reset> {
    let [stdout, stderr, error] = writers;
    match told {
        ToClient::Output(data) => send(stdout.as_ref(), data).await?,
        ToClient::Error(data) => send(stderr.as_ref(), data).await?,
        // The connection sees to that by itself.
        ToClient::Alive => {}
        ToClient::End(end) => {
            let last = status::last_message(protocol, &end).unwrap_or_default();
            send(error.as_ref(), last.into()).await?;
            for writer in [stdout, stderr, error].into_iter().flatten() {
                writer.finish().await;
            }
            return Ok([None, None, None]);
        }
    }
    Ok([stdout, stderr, error])
}

/// What the client did not ask for, nobody needs.
async fn send(writer: Option<&spdy::Writer>, data: Bytes) -> Result<(), Reset> {
    match writer {
        Some(writer) => writer.send(data).await,
        None => Ok(()),
    }
}
