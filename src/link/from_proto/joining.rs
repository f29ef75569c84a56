//! Enrolment and renewal.

use super::*;
use crate::model::{FleetId, NodeName};

/// A host's request for a certificate.
pub(crate) fn enroll_request(request: pb::EnrollRequest) -> Checked<EnrollRequest> {
    Ok(EnrollRequest {
        protocol: protocol(request.protocol)?,
        token: word(request.token, "token")?,
        certificate_request: certificate(request.certificate_request, "certificate_request")?,
        node_name: NodeName(name(request.node_name, "node_name")?),
        labels: labels(request.labels)?,
        taints: each(request.taints, taint)?,
        machine_id: word(request.machine_id, "machine_id")?,
    })
}

/// The answer to it.
pub(crate) fn enrolled(response: pb::EnrollResponse) -> Checked<Enrolled> {
    Ok(Enrolled {
        certificate: certificate(response.certificate, "certificate")?,
        ca_bundle: ca_bundle(response.ca_bundle)?,
        fleet: FleetId(word(response.fleet_id, "fleet_id")?),
        node_name: NodeName(name(response.node_name, "node_name")?),
        node_uid: uid(response.node_uid, "node_uid")?,
    })
}

/// A node's request for a new certificate.
pub(crate) fn renew_request(request: pb::RenewRequest) -> Checked<RenewRequest> {
    Ok(RenewRequest {
        protocol: protocol(request.protocol)?,
        certificate_request: certificate(request.certificate_request, "certificate_request")?,
        machine_id: word(request.machine_id, "machine_id")?,
    })
}

/// The answer to it.
pub(crate) fn renewed(response: pb::RenewResponse) -> Checked<Renewed> {
    Ok(Renewed {
        certificate: certificate(response.certificate, "certificate")?,
        ca_bundle: ca_bundle(response.ca_bundle)?,
    })
}
