//! CertificateSigningRequests: who may be asked for what, and what a request may become.
//!
//! What is asked for (PKCS #10) and what was issued is not read here; see [`registry`](crate::control::registry).
//!
//! Source: kubernetes v1.36, `pkg/apis/certificates/validation/validation.go`, and `ValidateSignerName` of
//! `pkg/apis/certificates/validation/names.go`.

use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};

use super::field::{FieldError, Path};
use super::metadata::{self, Scope, invalid_each};
use super::names;

/// The signer of certificates by which people and tools are known to the API.
pub const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";
/// Whose signer nobody knows; not to be asked for.
const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";

/// The condition of a request that is to be signed.
pub const APPROVED: &str = "Approved";
/// The condition of a request that is not to be signed.
pub const DENIED: &str = "Denied";
/// The condition of a request that its signer refused.
pub const FAILED: &str = "Failed";
/// What is so never ceases to be so.
const LASTING: [&str; 3] = [APPROVED, DENIED, FAILED];

/// What may be asked for at least.
const MIN_SECS: i32 = 600;

/// Sorted.
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// Everything wrong with a new CertificateSigningRequest, but for what `spec.request` holds.
pub fn validate(request: &CertificateSigningRequest) -> Vec<FieldError> {
    let mut errors = Vec::new();
    metadata::validate(&request.metadata, Scope::Cluster, names::path_segment, &mut errors);
    let (path, spec) = (Path::new("spec"), &request.spec);
    validate_usages(spec.usages.as_deref().unwrap_or_default(), &path.child("usages"), &mut errors);
    validate_signer_name(&spec.signer_name, &path.child("signerName"), &mut errors);
    if let Some(seconds) = spec.expiration_seconds.filter(|seconds| *seconds < MIN_SECS) {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(FieldError::invalid(&path.child("expirationSeconds"), seconds, detail));
    }
    errors
}

fn validate_usages(usages: &[String], path: &Path, errors: &mut Vec<FieldError>) {
    if usages.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
    for (index, usage) in usages.iter().enumerate() {
        let path = path.index(index);
        if !USAGES.contains(&usage.as_str()) {
            errors.push(FieldError::not_supported(&path, usage.as_str(), &USAGES));
        }
        if usages[..index].contains(usage) {
            errors.push(FieldError::duplicate(&path, usage.as_str()));
        }
    }
}

fn validate_signer_name(name: &str, path: &Path, errors: &mut Vec<FieldError>) {
    if name == LEGACY_SIGNER {
        errors.push(FieldError::invalid(path, name, "the legacy signerName is not allowed via this API version"));
        return;
    }
    if name.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let [domain, rest] = name.split('/').collect::<Vec<_>>()[..] else {
        let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errors.push(FieldError::invalid(path, name, detail));
        return;
    };
    let labels: Vec<&str> = domain.split('.').collect();
    for label in &labels {
        let wrong = names::dns_label(label).into_iter().map(|wrong| format!("validating label {label:?}: {wrong}"));
        invalid_each(path, domain, wrong.collect(), errors);
    }
    if labels.len() < 2 {
        let detail = "should be a domain with at least two segments separated by dots";
        errors.push(FieldError::invalid(path, domain, detail));
    }
    for label in rest.split('.') {
        let wrong = names::dns_subdomain(label).into_iter().map(|wrong| format!("validating label {label:?}: {wrong}"));
        invalid_each(path, rest, wrong.collect(), errors);
    }
}

/// Everything wrong with a change of whether a request is to be signed.
pub fn validate_approval_update(new: &CertificateSigningRequest, old: &CertificateSigningRequest) -> Vec<FieldError> {
    let mut errors = Vec::new();
    metadata::validate_update(&new.metadata, &old.metadata, &mut errors);
    let (path, conditions) = (Path::new("status.conditions"), conditions(new));
    for (index, condition) in conditions.iter().enumerate() {
        validate_condition(condition, &conditions[..index], &path.index(index), &mut errors);
    }
    for kind in LASTING {
        if condition(old, kind).is_some() && condition(new, kind).is_none() {
            errors.push(FieldError::forbidden(&path, format!("updates may not remove a condition of type {kind:?}")));
        }
    }
    errors
}

/// Everything wrong with what its signer makes of a request, but for what `status.certificate` holds.
pub fn validate_status_update(new: &CertificateSigningRequest, old: &CertificateSigningRequest) -> Vec<FieldError> {
    let mut errors = validate_approval_update(new, old);
    let path = Path::new("status.conditions");
    for kind in [APPROVED, DENIED] {
        let (before, after) = (condition(old, kind), condition(new, kind));
        if before.is_none() && after.is_some() {
            errors.push(FieldError::forbidden(&path, format!("updates may not add a condition of type {kind:?}")));
        } else if after.is_some() && after != before {
            errors.push(FieldError::forbidden(&path, format!("updates may not modify a condition of type {kind:?}")));
        }
    }
    if certificate(old).is_some_and(|before| certificate(new) != Some(before)) {
        let detail = "updates may not modify existing certificate content";
        errors.push(FieldError::forbidden(&Path::new("status.certificate"), detail));
    }
    errors
}

fn validate_condition(
    condition: &CertificateSigningRequestCondition,
    before: &[CertificateSigningRequestCondition],
    path: &Path,
    errors: &mut Vec<FieldError>,
) {
    let (kind, at_kind, at_status) = (condition.type_.as_str(), path.child("type"), path.child("status"));
    if kind.is_empty() {
        errors.push(FieldError::required(&at_kind, ""));
    }
    let allowed: &[&str] = if LASTING.contains(&kind) { &["True"] } else { &["False", "True", "Unknown"] };
    match condition.status.as_str() {
        "" => errors.push(FieldError::required(&at_status, "")),
        status if !allowed.contains(&status) => errors.push(FieldError::not_supported(&at_status, status, allowed)),
        _ => {}
    }
    let opposite = if kind == APPROVED { DENIED } else { APPROVED };
    if [APPROVED, DENIED].contains(&kind) && before.iter().any(|other| other.type_ == opposite) {
        let detail = "Approved and Denied conditions are mutually exclusive";
        errors.push(FieldError::invalid(&at_kind, kind, detail));
    }
    if before.iter().any(|other| other.type_ == kind) {
        errors.push(FieldError::duplicate(&at_kind, kind));
    }
}

/// What is known of a request.
fn conditions(request: &CertificateSigningRequest) -> &[CertificateSigningRequestCondition] {
    request.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default()
}

/// What was issued, PEM; nothing before that.
pub fn certificate(request: &CertificateSigningRequest) -> Option<&[u8]> {
    let certificate = request.status.as_ref()?.certificate.as_ref()?;
    Some(certificate.0.as_slice()).filter(|pem| !pem.is_empty())
}

/// The condition of a type, if a request has it.
pub fn condition<'a>(
    request: &'a CertificateSigningRequest,
    kind: &str,
) -> Option<&'a CertificateSigningRequestCondition> {
    conditions(request).iter().find(|condition| condition.type_ == kind)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn request(spec: &Value, status: &Value) -> CertificateSigningRequest {
        let object = json!({"metadata": {"name": "node-csr-A_b"}, "spec": spec, "status": status});
        serde_json::from_value(object).unwrap()
    }

    fn texts(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_request_says_to_whom_it_goes_and_what_it_is_for() {
        let check = |spec: Value| texts(&validate(&request(&spec, &json!({}))));
        let usages = json!(["client auth"]);
        let good = json!({"request": "", "signerName": CLIENT_SIGNER, "usages": usages, "expirationSeconds": 600});
        assert_eq!(check(good), [""; 0]);
        assert_eq!(
            check(json!({"request": "", "signerName": "", "expirationSeconds": 599})),
            [
                "spec.usages: Required value",
                "spec.signerName: Required value",
                "spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 600 seconds (10 minutes)",
            ]
        );
        let wrong = check(json!({"request": "", "signerName": "com/a/b", "usages": ["any", "any", "all"]}));
        assert_eq!(wrong[0], "spec.usages[1]: Duplicate value: \"any\"");
        assert!(
            wrong[1].starts_with("spec.usages[2]: Unsupported value: \"all\": supported values: \"any\", "),
            "{wrong:?}"
        );
        assert!(wrong[2].ends_with("of the form 'example.com/signer-name'"), "{wrong:?}");
        for (name, expected) in [
            (LEGACY_SIGNER, "the legacy signerName is not allowed via this API version"),
            ("com/a", "should be a domain with at least two segments separated by dots"),
            ("A.com/a", "validating label \"A\": a lowercase RFC 1123 label must"),
            ("a.com/A", "validating label \"A\": a lowercase RFC 1123 subdomain must"),
        ] {
            let wrong = check(json!({"request": "", "signerName": name, "usages": usages}));
            assert!(wrong.len() == 1 && wrong[0].contains(expected), "{name}: {wrong:?}");
        }
    }

    #[test]
    fn what_was_decided_stays_and_each_part_is_decided_at_its_own_subresource() {
        type Rules = fn(&CertificateSigningRequest, &CertificateSigningRequest) -> Vec<FieldError>;
        const APPROVAL: Rules = validate_approval_update;
        const STATUS: Rules = validate_status_update;
        let of = |kind: &str, message: &str| json!({"type": kind, "status": "True", "message": message});
        let status =
            |conditions: &[&Value], certificate: &str| json!({"conditions": conditions, "certificate": certificate});
        let (approved, denied, failed) = (of(APPROVED, "a"), of(DENIED, "d"), of(FAILED, "f"));
        let not = json!({"type": DENIED, "status": "False"});
        let both = [
            "status.conditions[1].type: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive",
        ];
        let removed = ["status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""];
        let added = ["status.conditions: Forbidden: updates may not add a condition of type \"Approved\""];
        let modified = ["status.conditions: Forbidden: updates may not modify a condition of type \"Approved\""];
        let unset = ["status.conditions[0].status: Unsupported value: \"False\": supported values: \"True\""];
        let twice = ["status.conditions[1].type: Duplicate value: \"Approved\""];
        let reissued = ["status.certificate: Forbidden: updates may not modify existing certificate content"];
        let pending = json!({});
        let is_approved = status(&[&approved], "");
        let cases: [(&str, Rules, Value, Value, &[&str]); 11] = [
            ("approve", APPROVAL, pending.clone(), is_approved.clone(), &[]),
            ("approve what failed", APPROVAL, status(&[&failed], ""), status(&[&failed, &approved], ""), &[]),
            ("deny what is approved", APPROVAL, is_approved.clone(), status(&[&approved, &denied], ""), &both),
            ("take an approval back", APPROVAL, is_approved.clone(), pending.clone(), &removed),
            ("a denial that is none", APPROVAL, pending.clone(), status(&[&not], ""), &unset),
            ("approve twice", APPROVAL, pending.clone(), status(&[&approved, &approved], ""), &twice),
            ("approve as a signer", STATUS, pending, is_approved.clone(), &added),
            (
                "change an approval as a signer",
                STATUS,
                is_approved.clone(),
                status(&[&of(APPROVED, "b")], ""),
                &modified,
            ),
            ("issue", STATUS, json!({"conditions": [approved]}), status(&[&approved], "QQ=="), &[]),
            ("fail", STATUS, is_approved, status(&[&approved, &failed], ""), &[]),
            ("issue again", STATUS, status(&[&approved], "QQ=="), status(&[&approved], "Qg=="), &reissued),
        ];
        let spec = json!({"request": "", "signerName": CLIENT_SIGNER});
        for (case, rules, old, new, expected) in cases {
            assert_eq!(texts(&rules(&request(&spec, &new), &request(&spec, &old))), expected, "{case}");
        }
    }
}
