//! Whether an agent can work on this host, and what to do where it cannot: `garrison check`.
//!
//! This asks host, runtime and control, and changes nothing; `judge` says what the answers mean.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use tokio::net::TcpStream;

use super::{CNI_BIN_DIRS, CNI_CONF_DIR, ledger_key};
use crate::config::AgentSettings;
use crate::cri::{CriError, Runtime};
use crate::error::Chain;
use crate::host::ledger::Ledger;
use crate::host::{FileError, cni, preflight, socket};
use crate::link::POD_API;
use crate::link::tls::Credentials;

mod judge;

use judge::{Enrolment, Evidence, Network, RuntimeFacts, judge};

/// How long the runtime may take; a runtime that takes longer is in trouble.
const RUNTIME_PATIENCE: Duration = Duration::from_secs(10);
/// How long control may take to accept a connection.
const CONTROL_PATIENCE: Duration = Duration::from_secs(5);
/// Where the service's credential with the join token is put, plain or encrypted.
const TOKEN_FILES: [&str; 2] = ["/etc/credstore/garrison.token", "/etc/credstore.encrypted/garrison.token"];

/// How good or bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// As it should be.
    Ok,
    /// Works, but for something that may be missed later.
    Warning,
    /// An agent cannot do its work like this.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at, a word or two.
    pub topic: &'static str,
    /// How it is.
    pub grade: Grade,
    /// What was found.
    pub found: String,
    /// What to do about it; empty where there is nothing to do.
    pub remedy: String,
}

/// Looks at everything an agent with these settings needs; `settings` may be what is wrong with them, and then the rest is
/// looked at with defaults. `listen` is an address a control endpoint shall serve on.
///
/// # Errors
/// [`FileError`] on a machine that tells nothing of itself at all.
pub async fn check(
    settings: Result<AgentSettings, String>,
    defaults: AgentSettings,
    listen: Option<&str>,
) -> Result<Vec<Finding>, FileError> {
    let unusable = settings.as_ref().err().cloned();
    let settings = settings.unwrap_or(defaults);
    let dirs = [settings.state_dir.as_path(), &settings.root_dir, &settings.pod_logs_dir];
    let signs = preflight::look(&settings.state_dir, &dirs)?;
    let runtime = ask_runtime(&settings.runtime_endpoint).await;
    Ok(judge(&Evidence {
        unusable,
        network: network(&settings, runtime.as_ref().ok()),
        enrolment: enrolment(&settings),
        control: match &settings.control {
            Some(control) => Some(dial(control).await),
            None => None,
        },
        // Whoever has the port on any address has it on that of the node, too. An agent that runs has it itself.
        pod_api: preflight::cannot_listen(&format!("0.0.0.0:{}", POD_API.port())).map(|error| error.to_string()),
        listen: listen.map(|address| (address, preflight::cannot_listen(address).map(|error| error.to_string()))),
        runtime: runtime.map_err(|error| (matches!(error, CriError::NoCriV1 { .. }), Chain(&error).to_string())),
        settings: &settings,
        signs: &signs,
        now: Timestamp::now(),
    }))
}

async fn ask_runtime(endpoint: &str) -> Result<RuntimeFacts, CriError> {
    let runtime = Runtime::connect(endpoint)?;
    let ask = async {
        let version = runtime.version().await?;
        Ok(RuntimeFacts { version, status: runtime.status().await?, settings: runtime.settings().await? })
    };
    match tokio::time::timeout(RUNTIME_PATIENCE, ask).await {
        Ok(answer) => answer,
        Err(_) => Err(CriError::TimedOut { call: "Version", deadline: RUNTIME_PATIENCE }),
    }
}

/// What the runtime has for a network, found where it looks, or where most do if it does not say.
fn network(settings: &AgentSettings, runtime: Option<&RuntimeFacts>) -> Network {
    let told = runtime.map(|runtime| &runtime.settings);
    let conf_dir = settings.cni_conf_dir.clone().or_else(|| told?.cni_conf_dir.clone());
    let conf_dir = conf_dir.unwrap_or_else(|| CNI_CONF_DIR.into());
    let usual = CNI_BIN_DIRS.iter().map(Path::new).find(|dir| dir.join("bridge").exists());
    let bin_dir = told.and_then(|told| told.cni_bin_dir.clone()).or_else(|| usual.map(Path::to_owned));
    let bin_dir = bin_dir.unwrap_or_else(|| CNI_BIN_DIRS[0].into());
    Network {
        configuration: cni::present(&conf_dir).map_err(|error| Chain(&error).to_string()),
        missing_plugins: cni::missing(&bin_dir),
        conf_dir,
        bin_dir,
    }
}

/// What this host is, as its agent or its ledger says.
fn enrolment(settings: &AgentSettings) -> Enrolment {
    let dir = &settings.state_dir;
    // A ledger is not read while its agent may be writing it.
    let runs = socket::ask(dir).is_ok_and(|answer| answer.is_some());
    let (key, mut trouble) = match ledger_key() {
        Ok(key) => (key, Vec::new()),
        Err(error) => (None, vec![Chain(&error).to_string()]),
    };
    let credentials = Credentials::load(dir, key.as_ref());
    let mut identity = None;
    if !runs && dir.join("ledger").is_dir() {
        match Ledger::open(dir, key) {
            Ok(opened) => {
                identity = opened.contents.identity;
                trouble.extend(opened.notes);
            }
            Err(error) => trouble.push(Chain(&error).to_string()),
        }
    }
    Enrolment {
        agent_runs: runs,
        known_name: identity.map(|identity| identity.name.to_string()),
        ledger_trouble: trouble,
        trusted_until: credentials.as_ref().ok().and_then(|found| found.as_ref()?.trusted_until().ok()),
        credentials: credentials.map(|found| found.is_some()).map_err(|error| Chain(&error).to_string()),
        token_waits: settings.token.is_some() || TOKEN_FILES.iter().any(|file| Path::new(file).exists()),
    }
}

/// Why control cannot be reached; none if a connection was accepted.
async fn dial(control: &str) -> Option<String> {
    match tokio::time::timeout(CONTROL_PATIENCE, TcpStream::connect(control)).await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("no answer within {CONTROL_PATIENCE:?}")),
    }
}
