//! Signs the CertificateSigningRequests that were approved, of the signer `kubernetes.io/kube-apiserver-client`: certificates by
//! which people and tools are known to the API.
//!
//! One task. It sleeps until a request changes, then looks at all of them: they are few, and old ones are cleared away by the
//! [`collector`](super::collector). What is to become of one is decided by the pure `judge`. A certificate is for the name and
//! the groups of the request's subject and for the request's key; what else the request wants in it is left out.
//!
//! Requests for other signers are left to those. Kubelets' signers are nobody here: a host becomes a node by a join token alone,
//! and no certificate that is issued here makes anybody a node or a member of `system:masters`.
//!
//! Source: kubernetes v1.36, `pkg/controller/certificates/signer/signer.go`; documentation page "Certificates and Certificate
//! Signing Requests". Differences: other names in the request, and its usages within what is allowed, change nothing.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use serde::Deserialize;
use serde_json::{Value, json};

use super::kinds::CERTIFICATE_SIGNING_REQUEST;
use super::meta;
use super::objects::{ListOptions, ObjectError, Objects, WriteOptions};
use super::rbac::MASTERS;
use super::registry::Part;
use crate::api::certificates::{APPROVED, CLIENT_SIGNER, DENIED, FAILED, certificate, condition};
use crate::error::Chain;
use crate::link::tls::{Authority, CertificateRequest, NODES, names_node};

/// When to look again after something failed.
const RETRY: Duration = Duration::from_secs(10);
/// How long a certificate holds, unless less is asked for. As upstream.
const LONGEST: SignedDuration = SignedDuration::from_hours(365 * 24);
/// How long it holds at least. As upstream.
const SHORTEST: SignedDuration = SignedDuration::from_mins(10);

/// What a client's certificate has to be for.
const CLIENT_AUTH: &str = "client auth";
/// What it may be for beside that.
const USAGES: [&str; 2] = ["digital signature", "key encipherment"];

/// Runs until dropped.
pub async fn run(objects: Objects, authority: Arc<Authority>) {
    loop {
        let mut changes = objects.watch(&CERTIFICATE_SIGNING_REQUEST, None, objects.revision());
        if let Err(error) = pass(&objects, &authority).await {
            tracing::warn!(error = %Chain(&error), "approved certificate requests are not signed, it is tried again");
            tokio::time::sleep(RETRY).await;
            continue;
        }
        // An expired watch is a cause, too: changes may have been missed.
        while changes.next().await.is_ok_and(|events| events.is_empty()) {}
    }
}

async fn pass(objects: &Objects, authority: &Authority) -> Result<(), ObjectError> {
    for request in objects.list(&CERTIFICATE_SIGNING_REQUEST, ListOptions::default()).await?.items {
        if judge(&request).is_none() {
            continue;
        }
        let change = |current: &Value| Ok::<_, ObjectError>(settled(current, authority, Timestamp::now()));
        let (name, options) = (meta::name(&request), WriteOptions::default());
        match objects.update(&CERTIFICATE_SIGNING_REQUEST, "", name, Part::Status, options, change).await {
            Ok(done) => {
                let failed = done["status"]["certificate"].is_null();
                let asker = done["spec"]["username"].as_str();
                tracing::info!(name, asker, failed, "an approved certificate request is settled");
            }
            Err(ObjectError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The request with what becomes of it; as it is, if nothing does.
fn settled(request: &Value, authority: &Authority, now: Timestamp) -> Value {
    let mut settled = request.clone();
    let issued = match judge(request) {
        None => return settled,
        Some(Err(refusal)) => Err(refusal),
        Some(Ok(Wanted { request, valid_for })) => {
            authority.issue_client(&request, valid_for, now).map_err(|error| Chain(&error).to_string())
        }
    };
    let status = meta::map_mut(&mut settled, "status");
    match issued {
        Ok(pem) => {
            status.insert("certificate".into(), STANDARD.encode(pem).into());
        }
        Err(message) => {
            let failed =
                json!({"type": FAILED, "status": "True", "reason": "SignerValidationFailure", "message": message});
            let conditions = status.entry("conditions").or_insert_with(|| json!([]));
            conditions.as_array_mut().expect("objects are of their type").push(failed);
        }
    }
    settled
}

/// What is to be signed.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    request: CertificateRequest,
    valid_for: SignedDuration,
}

/// What this signer makes of a request: a certificate, or the reason why there will be none. Nothing if it is not for this
/// signer, not approved, or settled.
///
/// Whoever asked has to stand in it: one that does not is of a version that did not look at who writes a condition.
fn judge(request: &Value) -> Option<Result<Wanted, String>> {
    let request = CertificateSigningRequest::deserialize(request).ok()?;
    let spec = &request.spec;
    let is_asked =
        spec.signer_name == CLIENT_SIGNER && spec.username.is_some() && condition(&request, APPROVED).is_some();
    let is_settled = [DENIED, FAILED].iter().any(|kind| condition(&request, kind).is_some());
    if !is_asked || is_settled || certificate(&request).is_some() {
        return None;
    }
    Some(wanted(&request))
}

fn wanted(request: &CertificateSigningRequest) -> Result<Wanted, String> {
    let usages = request.spec.usages.as_deref().unwrap_or_default();
    if let Some(other) = usages.iter().find(|usage| *usage != CLIENT_AUTH && !USAGES.contains(&usage.as_str())) {
        return Err(format!("invalid usage for client certificate: {other}"));
    }
    if !usages.iter().any(|usage| usage == CLIENT_AUTH) {
        return Err(format!("missing required usage for client certificate: {CLIENT_AUTH}"));
    }
    if let Some(refusal) = reserved(request) {
        return Err(refusal);
    }
    let asked = CertificateRequest::of_pem(&request.spec.request.0).map_err(|error| Chain(&error).to_string())?;
    if asked.name.is_empty() {
        return Err("the request's subject has no common name: the certificate would be nobody's".to_owned());
    }
    let secs = request.spec.expiration_seconds.map(|secs| SignedDuration::from_secs(secs.into()));
    Ok(Wanted { request: asked, valid_for: secs.unwrap_or(LONGEST).clamp(SHORTEST, LONGEST) })
}

/// Why nobody is given a certificate of this signer for whom a request names, whoever approves of it: members of
/// `system:masters` are named by `garrison kubeconfig` alone, nodes are made by join tokens. Nothing for all others.
///
/// Source: kubernetes v1.36, `plugin/pkg/admission/certificates/subjectrestriction/admission.go`; nodes are ours.
pub fn reserved(request: &CertificateSigningRequest) -> Option<String> {
    let spec = &request.spec;
    let asked = CertificateRequest::of_pem(&spec.request.0).ok().filter(|_| spec.signer_name == CLIENT_SIGNER)?;
    let refusal = |what: &str| Some(format!("use of {CLIENT_SIGNER} signer with {what} is not allowed"));
    match asked.groups.iter().find(|group| [MASTERS, NODES].contains(&group.as_str())) {
        Some(group) => refusal(&format!("{group} group")),
        None if names_node(&asked.name, &asked.groups) => refusal("the name of a node"),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;
    use crate::link::tls::Identity;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    const HOUR: SignedDuration = SignedDuration::from_hours(1);

    /// A request of somebody in a group, for this signer, approved.
    fn approved(name: &str, group: &str) -> Value {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, group);
        let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": "a"},
            "spec": {
                "request": STANDARD.encode(pem), "signerName": CLIENT_SIGNER, "usages": [CLIENT_AUTH, "digital signature"],
                "username": "bob",
            },
            "status": {"conditions": [{"type": APPROVED, "status": "True"}]},
        })
    }

    fn with(request: &Value, change: &Value) -> Value {
        let mut changed = request.clone();
        json_patch::merge(&mut changed, change);
        changed
    }

    #[test]
    fn only_what_was_approved_and_is_for_this_signer_is_settled_and_once() {
        let request = approved("ann", "dev");
        assert!(matches!(judge(&request), Some(Ok(_))));
        let condition = |kind: &str| json!({"type": kind, "status": "True"});
        for (case, change) in [
            ("not approved", json!({"status": null})),
            ("denied", json!({"status": {"conditions": [condition(DENIED)]}})),
            ("failed", json!({"status": {"conditions": [condition(APPROVED), condition(FAILED)]}})),
            ("issued", json!({"status": {"certificate": "QQ=="}})),
            ("for a kubelet", json!({"spec": {"signerName": "kubernetes.io/kube-apiserver-client-kubelet"}})),
            ("for somebody else", json!({"spec": {"signerName": "example.com/a"}})),
            ("of nobody", json!({"spec": {"username": null}})),
        ] {
            assert_eq!(judge(&with(&request, &change)), None, "{case}");
        }
    }

    #[test]
    fn what_may_not_be_signed_is_refused_for_its_reason() {
        let refusal = |request: &Value| judge(request).unwrap().unwrap_err();
        let usages = |usages: &[&str]| with(&approved("ann", "dev"), &json!({"spec": {"usages": usages}}));
        assert_eq!(
            refusal(&usages(&[CLIENT_AUTH, "server auth"])),
            "invalid usage for client certificate: server auth"
        );
        assert_eq!(
            refusal(&usages(&["digital signature"])),
            "missing required usage for client certificate: client auth"
        );
        for (name, group, what) in [
            ("ann", MASTERS, "system:masters group"),
            ("ann", NODES, "system:nodes group"),
            ("system:node:edge-1", "dev", "the name of a node"),
        ] {
            let expected = format!("use of kubernetes.io/kube-apiserver-client signer with {what} is not allowed");
            assert_eq!(refusal(&approved(name, group)), expected);
        }
        assert!(refusal(&approved("", "dev")).contains("no common name"));
        let garbage = with(&approved("ann", "dev"), &json!({"spec": {"request": "QQ=="}}));
        assert!(refusal(&garbage).starts_with("it has to be PEM"));
    }

    #[test]
    fn a_certificate_holds_as_long_as_is_asked_for_within_bounds() {
        for (asked, expected) in [(None, LONGEST), (Some(3600), HOUR), (Some(1), SHORTEST), (Some(i32::MAX), LONGEST)] {
            let request = with(&approved("ann", "dev"), &json!({"spec": {"expirationSeconds": asked}}));
            assert_eq!(judge(&request).unwrap().unwrap().valid_for, expected, "{asked:?}");
        }
    }

    #[test]
    fn what_is_settled_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path()).unwrap();
        let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap();
        let request = with(&approved("ann", "dev"), &json!({"spec": {"expirationSeconds": 3600}}));
        let signed = settled(&request, &authority, now);
        let pem = STANDARD.decode(signed["status"]["certificate"].as_str().unwrap()).unwrap();
        let identity = Identity::of(&CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
        assert_eq!((identity.name.as_str(), &*identity.groups), ("ann", &["dev".to_owned()][..]));
        assert_eq!((identity.not_after, identity.node_uid), (now + HOUR, None));
        assert_eq!(settled(&signed, &authority, now), signed);

        let failed = settled(&approved("ann", MASTERS), &authority, now);
        let condition = &failed["status"]["conditions"][1];
        assert_eq!((&condition["type"], &condition["reason"]), (&FAILED.into(), &"SignerValidationFailure".into()));
        assert_eq!((failed["status"].get("certificate"), settled(&failed, &authority, now)), (None, failed.clone()));
    }
}
