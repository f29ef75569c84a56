//! The agent's end of the link: dials control, again and again, and keeps the node's certificate fresh.
//!
//! [`spawn`] gives a [`LinkHandle`]. What the agent sends goes in on `up_tx`; what happens comes out on `incoming_rx`,
//! in order:
//!
//! ```text
//! Dialling ─▶ Down(Welcome) ─▶ Down(…)* ─▶ Lost ─▶ Dialling ─▶ …
//!          └────────────────────────────────▲  (control could not be reached)
//! ```
//!
//! A permit or a command belongs to the session it came in, so the agent drops what it was granted when it reads
//! `Lost`. What it sends between `Lost` and the next welcome is discarded: the hello tells everything again.
//!
//! The link renews the node's certificate and takes over the authorities that control names, and keeps both in the
//! state directory. It does not write the ledger: the agent raises the session number before it answers `Dialling`.
//!
//! Tunnels have a connection of their own, dialled when control asks for one and closed when none was open for a while:
//! however much goes through them, no report waits for it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls::ClientConfig;
use tokio::sync::{mpsc, oneshot, watch};
use tonic::transport::Channel;
use uuid::Uuid;

use super::heard::Heard;
use super::tls::{self, Credentials, TlsError};
use super::*;
use crate::backoff::{self, Limits};
use crate::error::Chain;
use crate::seal::Key;

pub(super) mod dial;
mod enroll;
mod session;
mod tunnels;

pub use enroll::{Enrollment, Joining, enroll};
#[cfg(test)]
pub(crate) use tunnels::{Opening, Wish};
pub use tunnels::{TooMany, TunnelEnds, Tunnels};

/// The pause after the first lost connection, doubled for each that follows, with full jitter.
pub(crate) const RECONNECT: Limits = Limits { first: Duration::from_secs(1), max: Duration::from_secs(60) };
/// How many messages wait in each direction between agent and link.
const QUEUE: usize = 256;

/// What the link needs to know.
pub struct ClientSettings {
    /// `host:port` of control.
    pub control: String,
    /// Where the credentials are kept.
    pub state_dir: PathBuf,
    /// What they are sealed with there, if anything.
    pub seal_key: Option<Key>,
    /// Those of this node.
    pub credentials: Credentials,
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// The newest time the ledger has seen.
    pub last_seen: Option<Timestamp>,
}

/// What the agent hears of its link.
#[derive(Debug)]
pub enum Incoming {
    /// Control is about to be dialled: raise the session number, then say what the ledger holds.
    Dialling(oneshot::Sender<Hello>),
    /// Control says something. The first is the welcome.
    Down(Down),
    /// The session is over, or did not come about.
    Lost(Lost),
}

/// Why there is no session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// For people.
    pub why: String,
    /// Control says no, and would say so again.
    pub refused: bool,
}

/// How the link stands, for `status` and conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    /// There is no session.
    Disconnected {
        /// Why, for people; empty before the first dial.
        why: String,
        /// When control is dialled again.
        next_try_at: Timestamp,
    },
    /// A session is open.
    Connected {
        /// Since the welcome.
        since: Timestamp,
        /// How control received the node.
        reception: Reception,
    },
}

/// The agent's end. The link ends when this is dropped.
#[derive(Debug)]
pub struct LinkHandle {
    /// What the agent says. Hello and keep-alive are the link's own business.
    pub up_tx: mpsc::Sender<Up>,
    /// What happens, in order.
    pub incoming_rx: mpsc::Receiver<Incoming>,
    /// How the link stands; the latest only.
    pub state_rx: watch::Receiver<LinkState>,
    /// For streams that control asks for.
    pub tunnels: Tunnels,
}

/// How control is reached by a node it has welcomed.
#[derive(Debug, Clone)]
struct Way {
    /// `host:port`.
    control: String,
    config: Arc<ClientConfig>,
}

/// Why control was not reached or did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The name does not resolve, or nobody answers.
    #[error("cannot reach control at {control}")]
    Reach {
        /// `host:port`.
        control: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Somebody answers, but not as the fleet's control, or it does not accept this node.
    #[error("control at {control} did not pass the TLS handshake")]
    Handshake {
        /// `host:port`.
        control: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// By this host's clock, control's certificate does not hold.
    #[error(
        "control at {control} shows a certificate that does not hold at {now}, the time of this host; set its clock, or, if that \
         is right, control's, and start control anew"
    )]
    Clock {
        /// `host:port`.
        control: String,
        /// What this host takes the time to be.
        now: Timestamp,
        /// The certificate's times.
        #[source]
        source: std::io::Error,
    },
    /// `--control` is not usable.
    #[error("{control:?} is no address of control; write host:port")]
    Address {
        /// As given.
        control: String,
    },
    /// Keys or certificates.
    #[error("the node's credentials cannot be used")]
    Tls(#[from] TlsError),
    /// Control says no.
    #[error("control refused {call}: {message}")]
    Refused {
        /// `to enrol the node` and the like.
        call: &'static str,
        /// Control's words.
        message: String,
        /// The same would be refused again.
        permanent: bool,
    },
    /// The connection broke.
    #[error("the connection to control broke")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What control says makes no sense to this version.
    #[error("control does not speak this protocol")]
    Protocol(#[from] Malformed),
    /// Nothing came in for too long.
    #[error("nothing was heard of control for {} seconds", limit.as_secs())]
    Silent {
        /// How long.
        limit: Duration,
    },
    /// Control ended the session.
    #[error("control ended the session")]
    Ended,
    /// The agent is stopping.
    #[error("the agent is stopping")]
    Stopping,
}

impl ClientError {
    /// Trying again would not help.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Refused { permanent: true, .. } | Self::Address { .. })
    }

    /// What a handshake that failed comes to.
    fn of_handshake(control: &str, source: std::io::Error) -> Self {
        use rustls::CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
        let control = control.to_owned();
        let now = match source.get_ref().and_then(|error| error.downcast_ref()) {
            Some(rustls::Error::InvalidCertificate(ExpiredContext { time, .. } | NotValidYetContext { time, .. })) => {
                i64::try_from(time.as_secs()).ok().and_then(|time| Timestamp::from_second(time).ok())
            }
            Some(rustls::Error::InvalidCertificate(Expired | NotValidYet)) => Some(Timestamp::now()),
            _ => None,
        };
        match now {
            Some(now) => Self::Clock { control, now, source },
            None => Self::Handshake { control, source },
        }
    }

    /// What a call's status comes to.
    fn of(call: &'static str, status: tonic::Status) -> Self {
        use tonic::Code;
        let permanent = matches!(
            status.code(),
            Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument | Code::Unimplemented
        );
        // Only codes that control itself gives; the others are the library's, for a connection that is no more.
        if permanent || status.code() == Code::Unavailable && std::error::Error::source(&status).is_none() {
            return Self::Refused { call, message: status.message().to_owned(), permanent };
        }
        Self::Broken(status.into())
    }
}

/// Starts the link.
pub fn spawn(settings: ClientSettings) -> LinkHandle {
    let (up_tx, up_rx) = mpsc::channel(QUEUE);
    let (incoming_tx, incoming_rx) = mpsc::channel(QUEUE);
    let never = LinkState::Disconnected { why: String::new(), next_try_at: Timestamp::now() };
    let (state_tx, state_rx) = watch::channel(never);
    let (way_tx, way_rx) = watch::channel(None);
    let link = Link { settings, up_rx, incoming_tx, state_tx, way_tx };
    tokio::spawn(link.run());
    LinkHandle { up_tx, incoming_rx, state_rx, tunnels: tunnels::spawn(way_rx) }
}

/// The task behind a handle.
struct Link {
    settings: ClientSettings,
    up_rx: mpsc::Receiver<Up>,
    incoming_tx: mpsc::Sender<Incoming>,
    state_tx: watch::Sender<LinkState>,
    /// None without a session.
    way_tx: watch::Sender<Option<Way>>,
}

impl Link {
    async fn run(mut self) {
        let mut attempt = 0;
        loop {
            let error = self.once(&mut attempt).await;
            self.way_tx.send_replace(None);
            if matches!(error, ClientError::Stopping) {
                return;
            }
            let (why, refused) = (Chain(&error).to_string(), error.is_permanent());
            let random = u32::from_ne_bytes(*Uuid::new_v4().as_bytes().first_chunk().expect("a UUID has 16 bytes"));
            let pause = backoff::full_jitter(attempt, random, RECONNECT);
            attempt = attempt.saturating_add(1);
            tracing::info!(%why, pause_ms = pause.as_millis(), "no session with control");
            let next_try_at = Timestamp::now() + pause;
            self.state_tx.send_replace(LinkState::Disconnected { why: why.clone(), next_try_at });
            let lost_and_waited = async {
                self.incoming_tx
                    .send(Incoming::Lost(Lost { why, refused }))
                    .await
                    .map_err(|_| ClientError::Stopping)?;
                tokio::time::sleep(pause).await;
                Ok(())
            };
            if discarding(&mut self.up_rx, lost_and_waited).await.is_err() {
                return;
            }
        }
    }

    /// One session, from dialling to its end, and why it ended.
    async fn once(&mut self, attempt: &mut u32) -> ClientError {
        let opening = open(&mut self.settings, &self.incoming_tx);
        let session = match discarding(&mut self.up_rx, opening).await {
            Ok(session) => session,
            Err(error) => return error,
        };
        *attempt = 0;
        let reception = session.welcome.reception.clone();
        tracing::info!(?reception, "a session with control is open");
        self.state_tx.send_replace(LinkState::Connected { since: Timestamp::now(), reception });
        if let Err(error) = lead(&self.way_tx, &self.settings) {
            return error;
        }
        session.run(&mut self.settings, &mut self.up_rx, (&self.incoming_tx, &self.way_tx)).await
    }
}

/// Says how control is reached with the credentials of now.
fn lead(way_tx: &watch::Sender<Option<Way>>, settings: &ClientSettings) -> Result<(), ClientError> {
    let config = Arc::new(tls::client_config(&settings.credentials, settings.last_seen)?);
    way_tx.send_replace(Some(Way { control: settings.control.clone(), config }));
    Ok(())
}

/// Dials, renews the certificate if it is time, asks the agent for its hello and waits for the welcome.
async fn open(
    settings: &mut ClientSettings,
    incoming_tx: &mpsc::Sender<Incoming>,
) -> Result<session::Session, ClientError> {
    let mut connection = dial::dial(settings).await?;
    if enroll::renewal_is_due(&settings.credentials)? {
        enroll::renew(settings, &connection.channel).await?;
        connection = dial::dial(settings).await?;
    }
    let (hello_tx, hello_rx) = oneshot::channel();
    incoming_tx.send(Incoming::Dialling(hello_tx)).await.map_err(|_| ClientError::Stopping)?;
    let hello = hello_rx.await.map_err(|_| ClientError::Stopping)?;
    session::Session::open(connection, hello).await
}

/// Waits for `work` while the agent's messages go nowhere, since there is no session they could belong to.
pub(crate) async fn discarding<T>(
    up_rx: &mut mpsc::Receiver<Up>,
    work: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    let discard = async { while up_rx.recv().await.is_some() {} };
    tokio::select! {
        result = work => result,
        () = discard => Err(ClientError::Stopping),
    }
}
