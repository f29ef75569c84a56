//! Becoming a node: taking up the identity in the ledger, joining a fleet with a token, or being a fleet of one.

use std::time::Duration;

use jiff::Timestamp;

use super::{AgentError, ledger_key};
use crate::config::AgentSettings;
use crate::error::Chain;
use crate::host::facts::{self, Facts};
use crate::host::ledger::{Contents, Identity, Ledger, Opened};
use crate::host::{lock, remove, service, socket};
use crate::link::JoinToken;
use crate::link::client::{Joining, enroll};
use crate::link::tls::Credentials;
use crate::model::{FleetId, NodeName, Uid};
use crate::seal::Key;

/// The pause before control is asked again to enrol this host.
const ENROLL_RETRY: Duration = Duration::from_secs(5);

/// Who this node is, and what it shows to control if it has one.
pub(super) struct Joined {
    pub(super) identity: Identity,
    pub(super) credentials: Option<Credentials>,
}

/// Takes up the identity the ledger holds, or gets one. Waits as long as control cannot be reached. A host that was renamed stays
/// the node it is.
///
/// # Errors
/// [`AgentError`] when only a person can help: another name chosen than the ledger's, no token, a token control refuses.
pub(super) async fn join(
    settings: &AgentSettings,
    facts: &Facts,
    contents: &mut Contents,
    key: Option<&Key>,
) -> Result<Joined, AgentError> {
    if let Some(known) = contents.identity.as_ref().filter(|known| is_other(settings, &known.name)) {
        return Err(other_name(settings, &known.name));
    }
    let Some(control) = &settings.control else {
        let new_uid = || uuid::Uuid::new_v4().to_string();
        let alone = || Identity { fleet: FleetId(new_uid()), name: settings.node_name.clone(), uid: Uid(new_uid()) };
        let identity = contents.identity.get_or_insert_with(alone).clone();
        return Ok(Joined { identity, credentials: None });
    };
    let credentials = Credentials::load(&settings.state_dir, key).map_err(AgentError::Credentials)?;
    if let (Some(identity), Some(credentials)) = (&contents.identity, credentials) {
        return Ok(Joined { identity: identity.clone(), credentials: Some(credentials) });
    }
    loop {
        match enrol_once(settings, facts, contents, key, control).await {
            Err(AgentError::Enroll(error)) if !error.is_permanent() => {
                tracing::warn!(error = %Chain(&error), "cannot enrol yet; trying again");
                // This may take for ever, and nothing that waits for the service could hurry it.
                service::ready("waiting for control, to enrol this host");
                tokio::time::sleep(ENROLL_RETRY).await;
            }
            outcome => return outcome,
        }
    }
}

/// Who this host is already as a node of a fleet, by its certificate.
///
/// # Errors
/// [`AgentError::Credentials`], and [`AgentError::OtherName`] if it shall have another name.
pub fn enrolled(settings: &AgentSettings) -> Result<Option<NodeName>, AgentError> {
    let key = ledger_key()?;
    let credentials = Credentials::load(&settings.state_dir, key.as_ref()).map_err(AgentError::Credentials)?;
    let Some(credentials) = credentials else { return Ok(None) };
    // An agent that runs has its ledger for itself. Without one there may be a certificate that was not noted there any more.
    let runs = socket::ask(&settings.state_dir).is_ok_and(|answer| answer.is_some());
    if !runs && Ledger::open(&settings.state_dir, key).map_err(AgentError::Ledger)?.contents.identity.is_none() {
        return Ok(None);
    }
    let node = credentials.identity().map_err(AgentError::Credentials)?.node();
    let name = node.map(|node| node.name);
    name.map(|name| if is_other(settings, &name) { Err(other_name(settings, &name)) } else { Ok(name) }).transpose()
}

/// Makes this host a node of the fleet of `control`, for an agent that is yet to run: enrols it, and keeps what it gets.
///
/// # Errors
/// [`AgentError`], also when control does not answer. What was there before is there as it was then.
pub async fn enrol(settings: &AgentSettings, control: &str) -> Result<NodeName, AgentError> {
    let is_new = !settings.state_dir.exists();
    let enrolled = enrol_and_keep(settings, control).await;
    if enrolled.is_err() && is_new {
        remove(&settings.state_dir).map_err(AgentError::Host)?;
    }
    enrolled
}

async fn enrol_and_keep(settings: &AgentSettings, control: &str) -> Result<NodeName, AgentError> {
    let lock = lock::take(&settings.state_dir).map_err(AgentError::Host)?;
    let _lock = lock.ok_or_else(|| AgentError::Busy(settings.state_dir.clone()))?;
    let key = ledger_key()?;
    let opened = Ledger::open(&settings.state_dir, key.clone()).map_err(AgentError::Ledger)?;
    let Opened { mut ledger, mut contents, .. } = opened;
    let facts = facts::collect(&settings.root_dir).map_err(AgentError::Host)?;
    let Joined { identity, .. } = enrol_once(settings, &facts, &mut contents, key.as_ref(), control).await?;
    if let Err(error) = ledger.commit(&contents.snapshot(), &[]) {
        Credentials::remove(&settings.state_dir).map_err(AgentError::Credentials)?;
        return Err(AgentError::Ledger(error));
    }
    Ok(identity.name)
}

/// Asks control once to take this host. The certificate is on disk afterwards, the identity in `contents`.
async fn enrol_once(
    settings: &AgentSettings,
    facts: &Facts,
    contents: &mut Contents,
    key: Option<&Key>,
    control: &str,
) -> Result<Joined, AgentError> {
    let token: JoinToken = settings.token.as_deref().ok_or(AgentError::NoToken)?.parse().map_err(AgentError::Token)?;
    let labels = super::node::labels(&settings.node_name, facts).into_iter().chain(settings.node_labels.clone());
    let joining = Joining {
        node_name: settings.node_name.clone(),
        labels: labels.collect(),
        taints: settings.register_with_taints.clone(),
        machine_id: facts.machine_id.clone(),
        last_seen: contents.last_seen,
    };
    let enrolled = enroll(control, &token, joining).await.map_err(AgentError::Enroll)?;
    enrolled.credentials.save(&settings.state_dir, key).map_err(AgentError::Credentials)?;
    let identity = Identity { fleet: enrolled.fleet, name: enrolled.node_name, uid: enrolled.node_uid };
    contents.identity = Some(identity.clone());
    contents.removed = false;
    contents.last_seen = contents.last_seen.max(Some(Timestamp::now()));
    tracing::info!(node = %identity.name, fleet = %identity.fleet, "this host is enrolled");
    Ok(Joined { identity, credentials: Some(enrolled.credentials) })
}

/// Whether a person chose another name than the node has. A host that was renamed stays the node it is.
fn is_other(settings: &AgentSettings, known: &NodeName) -> bool {
    settings.name_is_chosen && *known != settings.node_name
}

fn other_name(settings: &AgentSettings, known: &NodeName) -> AgentError {
    AgentError::OtherName {
        dir: settings.state_dir.clone(),
        known: known.to_string(),
        wanted: settings.node_name.to_string(),
    }
}
