//! What a host says to get a certificate, and to get another.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::model::{FleetId, NodeName, Taint, Uid};

/// What a host without a certificate sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrollRequest {
    /// The newest protocol the agent speaks.
    pub protocol: u32,
    /// `id.secret` of a join token.
    pub token: String,
    /// PKCS #10 in DER; only its public key is used.
    pub certificate_request: Bytes,
    /// The name the Node shall have.
    pub node_name: NodeName,
    /// Labels the host gives itself.
    pub labels: BTreeMap<String, String>,
    /// Taints the Node shall be registered with.
    pub taints: Vec<Taint>,
    /// `/etc/machine-id`.
    pub machine_id: String,
}

/// What it gets for that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolled {
    /// The node's certificate in DER.
    pub certificate: Bytes,
    /// Every authority that signs for this fleet, in DER.
    pub ca_bundle: Vec<Bytes>,
    /// The fleet.
    pub fleet: FleetId,
    /// The Node's name as registered.
    pub node_name: NodeName,
    /// `metadata.uid` of the Node.
    pub node_uid: Uid,
}

/// What a node sends for a new certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenewRequest {
    /// The newest protocol the agent speaks.
    pub protocol: u32,
    /// PKCS #10 in DER, by the key pinned to the Node.
    pub certificate_request: Bytes,
    /// `/etc/machine-id`.
    pub machine_id: String,
}

/// What it gets for that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewed {
    /// The node's new certificate in DER.
    pub certificate: Bytes,
    /// Every authority that signs for this fleet, in DER.
    pub ca_bundle: Vec<Bytes>,
}
