//! Becoming a node: taking up the identity in the ledger, joining a fleet with a token, or being a fleet of one.

use std::time::Duration;

use jiff::Timestamp;

use super::AgentError;
use crate::config::AgentSettings;
use crate::error::Chain;
use crate::host::facts::Facts;
use crate::host::ledger::{Contents, Identity};
use crate::host::service;
use crate::link::JoinToken;
use crate::link::client::{Joining, enroll};
use crate::link::tls::Credentials;
use crate::model::{FleetId, Uid};

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
) -> Result<Joined, AgentError> {
    let is_other = |known: &&Identity| settings.name_is_chosen && known.name != settings.node_name;
    if let Some(known) = contents.identity.as_ref().filter(is_other) {
        return Err(AgentError::OtherName {
            dir: settings.state_dir.clone(),
            known: known.name.to_string(),
            wanted: settings.node_name.to_string(),
        });
    }
    let Some(control) = &settings.control else {
        let new_uid = || uuid::Uuid::new_v4().to_string();
        let alone = || Identity { fleet: FleetId(new_uid()), name: settings.node_name.clone(), uid: Uid(new_uid()) };
        let identity = contents.identity.get_or_insert_with(alone).clone();
        return Ok(Joined { identity, credentials: None });
    };
    let credentials = Credentials::load(&settings.state_dir).map_err(AgentError::Credentials)?;
    if let (Some(identity), Some(credentials)) = (&contents.identity, credentials) {
        return Ok(Joined { identity: identity.clone(), credentials: Some(credentials) });
    }
    let token: JoinToken = settings.token.as_deref().ok_or(AgentError::NoToken)?.parse().map_err(AgentError::Token)?;
    loop {
        let joining = Joining {
            node_name: settings.node_name.clone(),
            labels: super::node::labels(&settings.node_name, facts)
                .into_iter()
                .chain(settings.node_labels.clone())
                .collect(),
            taints: settings.register_with_taints.clone(),
            machine_id: facts.machine_id.clone(),
            last_seen: contents.last_seen,
        };
        match enroll(control, &token, joining).await {
            Ok(enrolled) => {
                enrolled.credentials.save(&settings.state_dir).map_err(AgentError::Credentials)?;
                let identity = Identity { fleet: enrolled.fleet, name: enrolled.node_name, uid: enrolled.node_uid };
                contents.identity = Some(identity.clone());
                contents.removed = false;
                contents.last_seen = contents.last_seen.max(Some(Timestamp::now()));
                tracing::info!(node = %identity.name, fleet = %identity.fleet, "this host is enrolled");
                return Ok(Joined { identity, credentials: Some(enrolled.credentials) });
            }
            Err(error) if error.is_permanent() => return Err(AgentError::Enroll(error)),
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "cannot enrol yet; trying again");
                // This may take for ever, and nothing that waits for the service could hurry it.
                service::ready("waiting for control, to enrol this host");
                tokio::time::sleep(ENROLL_RETRY).await;
            }
        }
    }
}
