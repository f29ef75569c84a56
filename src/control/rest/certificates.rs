//! Who may ask for certificates, for whom, and who may say that they are to be signed. Pure.
//!
//! Beside the right to write a part of a request, `/approval` takes the verb `approve` and `/status` the verb `sign` on the
//! resource `signers` of the request's signer: `example.com/name`, or `example.com/*` for all of that domain.
//!
//! Source: kubernetes v1.36, `plugin/pkg/admission/certificates/{approval,signing,subjectrestriction}` and
//! `pkg/registry/certificates/certificates/strategy.go`, `PrepareForCreate`.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::control::kinds::CERTIFICATE_SIGNING_REQUEST;
use crate::control::meta;
use crate::control::objects::ObjectError;
use crate::control::rbac::{Attributes, Policy, Resource, User};
use crate::control::registry::Part;
use crate::control::signer;

/// Writes into a new request who asked for it, in the place of what its body says of that.
pub fn name_asker(user: &User, object: &mut Value) {
    let User { name, uid, groups, extra } = user;
    let asker = json!({"username": name, "uid": uid, "groups": groups, "extra": extra});
    let spec = meta::map_mut(object, "spec");
    for field in ["username", "uid", "groups", "extra"] {
        spec.remove(field);
        if asker[field] != "" && asker[field] != json!({}) {
            meta::copy_field(spec, &asker, field);
        }
    }
}

/// Whether a user may write a part of a request where there was `before`, or nothing.
///
/// # Errors
/// [`ObjectError::Forbidden`]. What cannot be read is left to validation.
pub fn check(
    policy: &Policy,
    user: &User,
    part: Part,
    before: Option<&Value>,
    object: &Value,
) -> Result<(), ObjectError> {
    let refusal = match (part, before) {
        (_, None) => CertificateSigningRequest::deserialize(object).ok().and_then(|new| signer::reserved(&new)),
        (Part::Approval, Some(before)) => not_trusted(policy, user, "approve", before),
        (Part::Status, Some(before)) if differs(before, object) => not_trusted(policy, user, "sign", before),
        _ => None,
    };
    let (kind, name) = (&CERTIFICATE_SIGNING_REQUEST, meta::name(before.unwrap_or(object)).to_owned());
    refusal.map_or(Ok(()), |reason| Err(ObjectError::Forbidden { kind, name, reason }))
}

/// Something of what a signer says changes.
fn differs(before: &Value, object: &Value) -> bool {
    ["certificate", "conditions"].iter().any(|field| before["status"][*field] != object["status"][*field])
}

fn not_trusted(policy: &Policy, user: &User, verb: &str, request: &Value) -> Option<String> {
    let name = request["spec"]["signerName"].as_str().unwrap_or_default();
    let domain = name.split('/').next().unwrap_or_default();
    let may = |name: &str| {
        let group = CERTIFICATE_SIGNING_REQUEST.group.to_owned();
        let resource = Resource { group, resource: "signers".into(), name: name.to_owned(), ..Resource::default() };
        policy.allow(user, &Attributes::on(verb, resource)).is_some()
    };
    let trusted = may(name) || may(&format!("{domain}/*"));
    (!trusted).then(|| format!("user not permitted to {verb} requests with signerName {name:?}"))
}
