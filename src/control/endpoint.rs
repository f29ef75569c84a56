//! The control endpoint as a whole: opens the store, builds the tasks around it, serves, stops them in order.
//!
//! ```text
//! HTTPS, one port ─▶ rest ────────▶ objects ─▶ store
//!                │    └─ Question ──▶ updates
//!                └─▶ link::server ─▶ sessions ─▶ objects
//!                                     │  ▲
//!                             FromNode▼  │Grant
//!                                    updates ──▶ objects
//! ```

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::bearer::Bearer;
use super::objects::{ObjectError, Objects};
use super::rbac::Policy;
use super::rest::audit::AuditLog;
use super::rest::observe::Observer;
use super::rest::{self, Api};
use super::sessions::Sessions;
use super::tokens::Allowance;
use super::updates::Question;
use super::{belongings, collector, rbac, signer, updates};
use crate::config::ControlSettings;
use crate::error::Chain;
use crate::link::listen;
use crate::link::server;
use crate::link::tls::{self, Authority, TlsError};
use crate::link::{JoinToken, POD_API};
use crate::store::embedded::OpenError;
use crate::store::{Embedded, Revision, Store, StoreError};

/// How much history the store keeps for watches that resume.
const HISTORY_KEPT: Duration = Duration::from_secs(300);
/// How many messages wait between sessions and updates.
const QUEUE: usize = 1024;
/// How many users wait to be told of a rollout; others wait for them.
const QUESTIONS: usize = 16;

/// Why the control endpoint cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Keys and certificates.
    #[error("cannot use the fleet's certificates")]
    Tls(#[from] TlsError),
    /// The store's file.
    #[error("cannot open the store")]
    Store(#[from] OpenError),
    /// The last writes.
    #[error("cannot close the store")]
    Close(#[from] StoreError),
    /// What the store holds.
    #[error("cannot read the fleet's objects")]
    Objects(#[from] ObjectError),
    /// The audit log.
    #[error("cannot open the audit log {path}")]
    AuditLog {
        /// As given.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The address.
    #[error(
        "cannot listen on {address}; another control endpoint, or a Kubernetes API server, may be there: use --listen"
    )]
    Listen {
        /// As asked.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// A control endpoint that is ready to serve.
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// `admin.kubeconfig`.
    pub kubeconfig: PathBuf,
    listener: TcpListener,
    authority: Arc<Authority>,
    names: Vec<String>,
    store: Arc<Embedded>,
    objects: Objects,
    policy_rx: watch::Receiver<Arc<Policy>>,
    observer: Arc<Observer>,
    sessions: Sessions,
    bearer: Arc<Bearer>,
    questions_tx: mpsc::Sender<Question>,
    tasks: JoinSet<()>,
}

impl Endpoint {
    /// Opens everything below the state directory, making what is not there yet, and takes the address.
    ///
    /// # Errors
    /// [`ControlError`]. Nothing damaged is ever replaced.
    pub async fn open(settings: &ControlSettings) -> Result<Self, ControlError> {
        let authority = Arc::new(Authority::open(&settings.state_dir)?);
        let audit = open_audit_log(settings)?;
        let observer = Arc::new(Observer::new(audit));
        let store = Embedded::open(&settings.state_dir.join("store")).await?;
        let objects = Objects::open(store.clone()).await?;
        let bearer = Arc::new(Bearer::open(&settings.state_dir, objects.clone())?);
        let listen = |source| ControlError::Listen { address: settings.listen, source };
        let listener = TcpListener::bind(settings.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let names = names(settings, address);
        let server = format!("https://{}", reachable(address));
        let kubeconfig = tls::write_kubeconfig(&authority, &settings.state_dir, &server)?;
        let (to_updates_tx, to_updates_rx) = mpsc::channel(QUEUE);
        let (grants_tx, grants_rx) = mpsc::channel(QUEUE);
        let (questions_tx, questions_rx) = mpsc::channel(QUESTIONS);
        let mut tasks = JoinSet::new();
        tasks.spawn(updates::run(objects.clone(), to_updates_rx, questions_rx, grants_tx));
        tasks.spawn(collector::run(objects.clone()));
        let (policy_rx, keeper) = rbac::keeper::start(objects.clone()).await?;
        tasks.spawn(keeper);
        tasks.spawn(belongings::run(objects.clone(), authority.bundle_pem()));
        tasks.spawn(signer::run(objects.clone(), authority.clone()));
        tasks.spawn(compact(store.clone()));
        let sessions =
            Sessions::start(objects.clone(), authority.clone(), bearer.clone(), to_updates_tx, grants_rx).await?;
        Ok(Self {
            address,
            kubeconfig,
            listener,
            authority,
            names,
            store,
            objects,
            policy_rx,
            observer,
            sessions,
            bearer,
            questions_tx,
            tasks,
        })
    }

    /// Makes a join token and keeps its hash.
    ///
    /// # Errors
    /// [`ControlError::Objects`] if it cannot be kept.
    pub async fn join_token(&self, allowance: Allowance) -> Result<JoinToken, ControlError> {
        Ok(self.sessions.make_token(allowance).await?)
    }

    /// Makes a join token and leaves it in `join.token` of the state directory, for its owner alone. Gives the path.
    ///
    /// # Errors
    /// As [`Endpoint::join_token`], and [`ControlError::Tls`] if the file cannot be written.
    pub async fn write_join_token(&self, allowance: Allowance) -> Result<PathBuf, ControlError> {
        let token = self.join_token(allowance).await?;
        let path = self.kubeconfig.with_file_name("join.token");
        tls::write_private(&path, &format!("{token}\n"))?;
        Ok(path)
    }

    /// Serves until `stop` says so, then closes the store.
    ///
    /// # Errors
    /// [`ControlError::Tls`] if the server's certificate cannot be made, [`ControlError::Close`] if status was not written at the end.
    pub async fn serve(mut self, mut stop: watch::Receiver<bool>) -> Result<(), ControlError> {
        let sessions = Arc::new(self.sessions);
        let api = Api {
            objects: self.objects,
            streams: sessions.clone(),
            fleet: sessions.clone(),
            authority: self.authority.pin(),
            observer: self.observer,
            policy_rx: self.policy_rx,
            bearer: self.bearer,
            questions_tx: self.questions_tx,
        };
        let router = server::routes(sessions).merge(rest::router(api));
        let tls = tls::server_config(&self.authority, &self.names)?;
        let stopped = async move { drop(stop.wait_for(|stop| *stop).await) };
        listen::serve(self.listener, tls, router, stopped).await;
        self.tasks.shutdown().await;
        self.store.close().await?;
        Ok(())
    }
}

fn open_audit_log(settings: &ControlSettings) -> Result<Option<AuditLog>, ControlError> {
    let Some(path) = settings.audit_log.clone() else { return Ok(None) };
    let open = AuditLog::open(path.clone(), settings.audit_verbs.clone());
    open.map(Some).map_err(|source| ControlError::AuditLog { path, source })
}

/// Drops history that no watch will resume from.
async fn compact(store: Arc<Embedded>) {
    let mut old: Revision = store.revision();
    loop {
        tokio::time::sleep(HISTORY_KEPT).await;
        if let Err(error) = store.compact(old).await {
            tracing::warn!(error = %Chain(&error), "old history cannot be dropped");
        }
        old = store.revision();
    }
}

/// The names and addresses for the server's certificate.
fn names(settings: &ControlSettings, address: SocketAddr) -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned(), POD_API.ip().to_string()];
    if !address.ip().is_unspecified() {
        names.push(address.ip().to_string());
    }
    names.extend(nix::unistd::gethostname().ok().map(|name| name.to_string_lossy().into_owned()));
    names.extend(settings.names.iter().cloned());
    names.sort();
    names.dedup();
    names
}

/// An address under which this host reaches itself.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => SocketAddr::from(([127, 0, 0, 1], v4.port())),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], v6.port())),
        address => address,
    }
}
