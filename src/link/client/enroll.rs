//! How a node gets its certificate, and another before that one ends.

use std::collections::BTreeMap;

use super::*;
use crate::link::pb::enrollment_client::EnrollmentClient;
use crate::link::tls::{self, NodeKey};
use crate::model::{FleetId, NodeName, Taint, Uid};

/// What a host says of itself when it joins.
#[derive(Debug, Clone)]
pub struct Joining {
    /// The name its Node shall have.
    pub node_name: NodeName,
    /// Labels for its Node.
    pub labels: BTreeMap<String, String>,
    /// Taints for its Node.
    pub taints: Vec<Taint>,
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// The newest time it has seen, if it has a ledger.
    pub last_seen: Option<Timestamp>,
}

/// What joining brought.
pub struct Enrollment {
    /// To be saved before anything else.
    pub credentials: Credentials,
    /// The fleet the node belongs to now.
    pub fleet: FleetId,
    /// The name of its Node.
    pub node_name: NodeName,
    /// The uid of its Node.
    pub node_uid: Uid,
}

/// Joins the fleet of the control at `host:port` with a token. Control is recognized by the pin in the token before it
/// gets to see the secret.
///
/// # Errors
/// [`ClientError::is_permanent`] tells whether to ask for another token.
pub async fn enroll(control: &str, token: &JoinToken, joining: Joining) -> Result<Enrollment, ClientError> {
    let config = tls::joining_config(token.authority, joining.last_seen)?;
    let connection = dial::dial_with(control, config).await?;
    let key = NodeKey::generate()?;
    let request = EnrollRequest {
        protocol: PROTOCOL,
        token: token.credential(),
        certificate_request: key.request()?,
        node_name: joining.node_name,
        labels: joining.labels,
        taints: joining.taints,
        machine_id: joining.machine_id,
    };
    let response = EnrollmentClient::new(connection.channel).enroll(to_proto::enroll_request(request)).await;
    let response = response.map_err(|status| ClientError::of("to enrol the node", status))?;
    let enrolled = from_proto::enrolled(response.into_inner())?;
    let credentials = Credentials::new(key, &enrolled.certificate, &enrolled.ca_bundle);
    credentials.identity()?;
    Ok(Enrollment { credentials, fleet: enrolled.fleet, node_name: enrolled.node_name, node_uid: enrolled.node_uid })
}

/// Whether a third or less of the certificate's time is left, or another authority signs by now.
pub(super) fn renewal_is_due(credentials: &Credentials) -> Result<bool, TlsError> {
    let runs_out = credentials.identity()?.is_expired(Timestamp::now() + tls::RENEW_BEFORE);
    Ok(runs_out || !credentials.is_of_signing_authority())
}

/// Gets and keeps a new certificate for the same key.
pub(super) async fn renew(settings: &mut ClientSettings, channel: &Channel) -> Result<(), ClientError> {
    let request = RenewRequest {
        protocol: PROTOCOL,
        certificate_request: settings.credentials.key.request()?,
        machine_id: settings.machine_id.clone(),
    };
    let response = EnrollmentClient::new(channel.clone()).renew(to_proto::renew_request(request)).await;
    let response = response.map_err(|status| ClientError::of("to renew the node's certificate", status))?;
    let renewed = from_proto::renewed(response.into_inner())?;
    settings.credentials.replace(&renewed.certificate, &renewed.ca_bundle)?;
    keep(settings).await?;
    tracing::info!("the node's certificate was renewed");
    Ok(())
}

/// Writes the credentials to disk.
pub(super) async fn keep(settings: &ClientSettings) -> Result<(), ClientError> {
    let (credentials, key) = (settings.credentials.clone(), settings.seal_key.clone());
    let state_dir = settings.state_dir.clone();
    let saving = tokio::task::spawn_blocking(move || credentials.save(&state_dir, key.as_ref()));
    Ok(saving.await.map_err(|error| ClientError::Broken(error.into()))??)
}
