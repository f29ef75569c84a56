//! Streams that control asked for, over the session's connection.

use futures_util::{Stream, StreamExt, stream};

use super::*;
use crate::link::pb::fleet_client::FleetClient;

impl Tunnels {
    /// Sends `body` through the tunnel that command `id` asked for. Ends when all is sent, or nobody wants more; `body`
    /// is dropped then. Its first error ends the tunnel with that failure.
    ///
    /// A body whose data may be long in coming begins with an empty piece: it tells who waits that there is no failure.
    ///
    /// # Errors
    /// [`ClientError::Ended`] if there is no session, otherwise what became of the call.
    pub async fn send<B>(&self, id: CommandId, body: B) -> Result<(), ClientError>
    where
        B: Stream<Item = Result<Bytes, TunnelFailure>> + Send + 'static,
    {
        let channel = self.channel_rx.borrow().clone().ok_or(ClientError::Ended)?;
        let refused = |status| ClientError::of("to take a stream", status);
        // Dropped with this call: the connection stops asking for more.
        let (_wanted_tx, wanted_rx) = oneshot::channel::<()>();
        let up = messages(id, body).map(to_proto::tunnel_up).take_until(wanted_rx);
        let mut down = FleetClient::new(channel).tunnel(up).await.map_err(refused)?.into_inner();
        while down.message().await.map_err(refused)?.is_some() {}
        Ok(())
    }
}

/// Hello, data in pieces of [`CHUNK_BYTES`] at most, end.
fn messages<B>(id: CommandId, body: B) -> impl Stream<Item = TunnelUp> + Send + 'static
where
    B: Stream<Item = Result<Bytes, TunnelFailure>> + Send + 'static,
{
    // `None` is the end that follows a body without an error.
    let items = body.map(Some).chain(stream::once(std::future::ready(None)));
    let rest = items.scan(false, |ended, item| {
        let messages = match item {
            _ if *ended => None,
            Some(Ok(data)) => Some(pieces(data).map(TunnelUp::Data).collect()),
            Some(Err(failure)) => {
                *ended = true;
                Some(vec![TunnelUp::End(Err(failure))])
            }
            None => Some(vec![TunnelUp::End(Ok(()))]),
        };
        std::future::ready(messages.map(stream::iter))
    });
    stream::once(std::future::ready(TunnelUp::Hello(id))).chain(rest.flatten())
}

/// At least one, if only an empty one.
fn pieces(mut data: Bytes) -> impl Iterator<Item = Bytes> {
    let first = data.split_to(data.len().min(CHUNK_BYTES));
    let rest = std::iter::from_fn(move || (!data.is_empty()).then(|| data.split_to(data.len().min(CHUNK_BYTES))));
    std::iter::once(first).chain(rest)
}
