//! One session with control, from the hello to its end.

use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::dial::Dialled;
use super::*;
use crate::link::from_proto::Refused;
use crate::link::pb::fleet_client::FleetClient;

/// How long control may take for its welcome. Generous: a whole fleet may be reconnecting.
const WELCOME_WITHIN: Duration = Duration::from_secs(60);
/// Messages on their way to the connection.
const WIRE_QUEUE: usize = 16;
/// How long after a failed renewal the next is tried.
const RENEW_AGAIN: Duration = Duration::from_secs(60 * 60);

/// An open session.
pub(super) struct Session {
    pub channel: Channel,
    pub welcome: Welcome,
    heard: Heard,
    wire_tx: mpsc::Sender<pb::SessionUp>,
    down: Streaming<pb::SessionDown>,
}

impl Session {
    /// Says hello and waits for the welcome.
    pub(super) async fn open(connection: Dialled, hello: Hello) -> Result<Self, ClientError> {
        let Dialled { channel, heard } = connection;
        let refused = |status| ClientError::of("to open a session", status);
        let (wire_tx, wire_rx) = mpsc::channel(WIRE_QUEUE);
        let hello = to_proto::up(Up::Hello(Box::new(hello)));
        wire_tx.send(hello).await.map_err(|_| ClientError::Ended)?;
        let opening = async {
            let mut client = FleetClient::new(channel.clone()).max_decoding_message_size(MAX_DOWN_BYTES);
            let mut down = client.session(ReceiverStream::new(wire_rx)).await.map_err(refused)?.into_inner();
            let first = down.message().await.map_err(refused)?.ok_or(ClientError::Ended)?;
            Ok((first, down))
        };
        let silent = ClientError::Silent { limit: WELCOME_WITHIN };
        let (first, down) = tokio::time::timeout(WELCOME_WITHIN, opening).await.unwrap_or(Err(silent))?;
        let not_a_welcome = || ClientError::Protocol(Malformed { field: "welcome", problem: "is missing" });
        match from_proto::down(first) {
            Ok(Some(Down::Welcome(welcome))) if welcome.protocol <= PROTOCOL => {
                Ok(Self { channel, welcome, heard, wire_tx, down })
            }
            Err(Refused::Malformed(malformed)) => Err(malformed.into()),
            _ => Err(not_a_welcome()),
        }
    }

    /// Carries messages both ways until the session ends, and says why it did.
    pub(super) async fn run(
        self,
        settings: &mut ClientSettings,
        up_rx: &mut mpsc::Receiver<Up>,
        (incoming_tx, way_tx): (&mpsc::Sender<Incoming>, &watch::Sender<Option<Way>>),
    ) -> ClientError {
        let Self { channel, welcome, heard, wire_tx, down } = self;
        let keep_alive = Duration::from_secs(welcome.keep_alive_secs.into());
        let limit = Duration::from_secs(welcome.silence_secs.into());
        if let Err(error) = trust(settings, &welcome).await {
            return error;
        }
        if incoming_tx.send(Incoming::Down(Down::Welcome(welcome))).await.is_err() {
            return ClientError::Stopping;
        }
        // Each side runs on its own, so that neither waits for a slow other; the first to end ends all.
        tokio::select! {
            error = send(up_rx, &wire_tx, keep_alive) => error,
            error = receive(down, incoming_tx, &wire_tx) => error,
            error = stay_renewed(settings, &channel, way_tx) => error,
            () = heard.silent_for(limit) => ClientError::Silent { limit },
        }
    }
}

/// The agent's messages; a keep-alive when it has nothing to say.
async fn send(up_rx: &mut mpsc::Receiver<Up>, wire_tx: &mpsc::Sender<pb::SessionUp>, every: Duration) -> ClientError {
    let mut ticks = tokio::time::interval_at(Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Both receive without loss when dropped.
        let up = tokio::select! {
            up = up_rx.recv() => match up {
                Some(up) => up,
                None => return ClientError::Stopping,
            },
            _ = ticks.tick() => Up::KeepAlive,
        };
        if wire_tx.send(to_proto::up(up)).await.is_err() {
            return ClientError::Ended;
        }
    }
}

/// Control's messages. Commands that this version does not understand are answered here.
async fn receive(
    mut down: Streaming<pb::SessionDown>,
    incoming_tx: &mpsc::Sender<Incoming>,
    wire_tx: &mpsc::Sender<pb::SessionUp>,
) -> ClientError {
    loop {
        let message = match down.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return ClientError::Ended,
            Err(status) => return ClientError::of("to go on with the session", status),
        };
        match from_proto::down(message) {
            Ok(None | Some(Down::KeepAlive)) => {}
            Ok(Some(down)) => {
                if incoming_tx.send(Incoming::Down(down)).await.is_err() {
                    return ClientError::Stopping;
                }
            }
            Err(Refused::Unsupported { id, why }) => {
                tracing::warn!(command = id.0, %why, "control asks for something this agent cannot do");
                let ack = Ack::Command { id, outcome: Outcome::Unsupported(why.to_string()) };
                if wire_tx.send(to_proto::up(Up::Ack(ack))).await.is_err() {
                    return ClientError::Ended;
                }
            }
            Err(Refused::Malformed(malformed)) => return malformed.into(),
        }
    }
}

/// Takes over the authorities that control names.
async fn trust(settings: &mut ClientSettings, welcome: &Welcome) -> Result<(), ClientError> {
    // A fleet that is not the node's own does not get to say whom the node trusts.
    if matches!(welcome.reception, Reception::Hold { .. }) || !settings.credentials.trust(&welcome.ca_bundle) {
        return Ok(());
    }
    enroll::keep(settings).await?;
    tracing::info!(authorities = welcome.ca_bundle.len(), "control names other authorities");
    Ok(())
}

/// Renews the certificate in time; it is shown at the next dial.
async fn stay_renewed(
    settings: &mut ClientSettings,
    channel: &Channel,
    way_tx: &watch::Sender<Option<Way>>,
) -> ClientError {
    loop {
        match enroll::renewal_is_due(&settings.credentials) {
            Ok(false) => {}
            Ok(true) => {
                let renewed = enroll::renew(settings, channel).await;
                if let Err(error) = renewed.and_then(|()| lead(way_tx, settings)) {
                    tracing::warn!(error = %Chain(&error), "the node's certificate was not renewed");
                }
            }
            Err(error) => return error.into(),
        }
        tokio::time::sleep(RENEW_AGAIN).await;
    }
}
