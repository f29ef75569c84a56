//! Requests for certificates as people and tools send them: PKCS #10 in PEM.

use rcgen::SubjectPublicKeyInfo;
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::{self, PemObject};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::error::X509Error;
use x509_parser::prelude::FromDer;
use x509_parser::x509::AttributeTypeAndValue;

/// What somebody asks a certificate for, signed by the key that it is to be for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRequest {
    /// The subject's common name; empty if it has none.
    pub name: String,
    /// The subject's organizations.
    pub groups: Vec<String>,
    /// `SubjectPublicKeyInfo` in DER.
    key: Vec<u8>,
}

/// Why a request cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The text around it.
    #[error("it has to be PEM with a block CERTIFICATE REQUEST")]
    Pem(#[source] pem::Error),
    /// What is in it.
    #[error("it is no PKCS #10 request")]
    Encoding(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Its subject.
    #[error("its subject has a name that is not text, or several common names")]
    Subject,
    /// Its signature, or a key of a kind that is not known here: RSA, ECDSA on P-256 or P-384 and Ed25519 are.
    #[error("it is not signed by its key")]
    Signature(#[source] X509Error),
}

impl CertificateRequest {
    /// Reads the first of a text and checks its signature. What else than a key and a subject it asks for is not looked at.
    ///
    /// # Errors
    /// [`RequestError`].
    pub fn of_pem(text: &[u8]) -> Result<Self, RequestError> {
        Self::of_der(&CertificateSigningRequestDer::from_pem_slice(text).map_err(RequestError::Pem)?)
    }

    /// The same of what is in the text.
    pub(crate) fn of_der(der: &[u8]) -> Result<Self, RequestError> {
        let encoding = |error: x509_parser::nom::Err<X509Error>| RequestError::Encoding(error.to_string().into());
        let (rest, request) = X509CertificationRequest::from_der(der).map_err(encoding)?;
        if !rest.is_empty() {
            return Err(RequestError::Encoding("something follows it".into()));
        }
        request.verify_signature().map_err(RequestError::Signature)?;
        let subject = &request.certification_request_info.subject;
        let mut names = texts(subject.iter_common_name())?;
        let name = names.pop().unwrap_or_default();
        if !names.is_empty() {
            return Err(RequestError::Subject);
        }
        let groups = texts(subject.iter_organization())?;
        Ok(Self { name, groups, key: request.certification_request_info.subject_pki.raw.to_vec() })
    }

    /// The key that has signed it.
    pub(super) fn key(&self) -> Result<SubjectPublicKeyInfo, rcgen::Error> {
        SubjectPublicKeyInfo::from_der(&self.key)
    }
}

fn texts<'a>(values: impl Iterator<Item = &'a AttributeTypeAndValue<'a>>) -> Result<Vec<String>, RequestError> {
    values.map(|value| value.as_str().map(str::to_owned).map_err(|_| RequestError::Subject)).collect()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair, PublicKeyData};

    use super::super::subject::tests::request_of;
    use super::*;

    fn request(key: &KeyPair, params: &CertificateParams) -> Vec<u8> {
        params.serialize_request(key).unwrap().der().to_vec()
    }

    #[test]
    fn a_request_says_who_asks_with_every_kind_of_key() {
        for kind in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
            let key = KeyPair::generate_for(kind).unwrap();
            let groups = ["dev", "ops"].map(str::to_owned);
            let found = CertificateRequest::of_der(&request_of(
                &request(&key, &CertificateParams::default()),
                "ann",
                &groups,
                &key,
            ))
            .unwrap();
            assert_eq!((found.name.as_str(), &*found.groups), ("ann", &groups[..]));
            assert_eq!(found.key().unwrap().subject_public_key_info(), key.subject_public_key_info());
        }
        let key = KeyPair::generate().unwrap();
        let of_nobody = request_of(&request(&key, &CertificateParams::default()), "", &[], &key);
        let of_nobody = CertificateRequest::of_der(&of_nobody).unwrap();
        assert_eq!((of_nobody.name.as_str(), of_nobody.groups), ("", vec![]));
    }

    #[test]
    fn what_is_no_request_is_refused_with_the_reason() {
        let key = KeyPair::generate().unwrap();
        let good = request(&key, &CertificateParams::default());
        let mut forged = good.clone();
        *forged.last_mut().unwrap() ^= 1;
        let mut in_utf_16 = CertificateParams::default();
        let masters = DnValue::BmpString("system:masters".try_into().unwrap());
        in_utf_16.distinguished_name.push(DnType::OrganizationName, masters);
        let told = |der: &[u8]| CertificateRequest::of_der(der).unwrap_err().to_string();
        assert_eq!(told(&forged), "it is not signed by its key");
        assert_eq!(
            told(&request(&key, &in_utf_16)),
            "its subject has a name that is not text, or several common names"
        );
        assert_eq!(told(&good[..good.len() - 1]), "it is no PKCS #10 request");
        assert_eq!(told(&[&*good, &[0]].concat()), "it is no PKCS #10 request");
        let text = |label| super::super::pem(label, &good);
        assert!(CertificateRequest::of_pem(text("CERTIFICATE REQUEST").as_bytes()).is_ok());
        assert!(matches!(CertificateRequest::of_pem(text("CERTIFICATE").as_bytes()), Err(RequestError::Pem(_))));
    }
}
