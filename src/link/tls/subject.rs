//! Who a certificate is for, with any number of groups: rcgen writes one value of each type into a name, and no more.
//!
//! What rcgen has made is therefore taken apart, given another subject, and signed again. Everything else is as rcgen made it.

use rcgen::SigningKey;
use x509_parser::asn1_rs::{Any, BitString, FromDer, Sequence, Set, ToDer, Utf8String};
use x509_parser::oid_registry::{OID_X509_COMMON_NAME, OID_X509_ORGANIZATION_NAME};

/// Where the subject stands in a `TBSCertificate`: behind version, serial number, algorithm, issuer and validity.
const IN_CERTIFICATE: usize = 5;

const DER: &str = "rcgen writes DER";
const FITS: &str = "memory takes what is written into it";

/// A certificate, in DER, with a subject of these organizations, in this order, and this common name.
///
/// # Errors
/// What the signer says.
///
/// Source: RFC 5280, 4.1.
pub(super) fn with_subject(
    certificate: &[u8],
    name: &str,
    groups: &[String],
    signer: &impl SigningKey,
) -> Result<Vec<u8>, rcgen::Error> {
    replaced(certificate, IN_CERTIFICATE, &subject(name, groups), signer)
}

/// What was signed, with another value in one place.
fn replaced(signed: &[u8], place: usize, value: &[u8], signer: &impl SigningKey) -> Result<Vec<u8>, rcgen::Error> {
    let [content, algorithm, _] = elements(signed)[..] else { panic!("{DER}") };
    let mut fields = elements(content);
    fields[place] = value;
    let content = sequence(&fields);
    let signature = signer.sign(&content)?;
    Ok(sequence(&[&content, algorithm, &BitString::new(0, &signature).to_der_vec().expect(FITS)]))
}

/// A `Name`: of each part one value of one type.
fn subject(name: &str, groups: &[String]) -> Vec<u8> {
    let groups = groups.iter().map(|group| (OID_X509_ORGANIZATION_NAME, group.as_str()));
    let parts = groups.chain([(OID_X509_COMMON_NAME, name)]).map(|(kind, value)| {
        let value = Utf8String::new(value).to_der_vec().expect(FITS);
        let part = sequence(&[&kind.to_der_vec().expect(FITS), &value]);
        Set::new(part.into()).to_der_vec().expect(FITS)
    });
    Sequence::new(parts.collect::<Vec<_>>().concat().into()).to_der_vec().expect(FITS)
}

fn sequence(elements: &[&[u8]]) -> Vec<u8> {
    Sequence::new(elements.concat().into()).to_der_vec().expect(FITS)
}

/// The elements of a SEQUENCE, each with its head.
fn elements(sequence: &[u8]) -> Vec<&[u8]> {
    let (_, Any { data: mut rest, .. }) = Any::from_der(sequence).expect(DER);
    let mut elements = Vec::new();
    while !rest.is_empty() {
        let (behind, _) = Any::from_der(rest).expect(DER);
        let (element, others) = rest.split_at(rest.len() - behind.len());
        elements.push(element);
        rest = others;
    }
    elements
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A request in DER, made by rcgen, for somebody else.
    pub fn request_of(request: &[u8], name: &str, groups: &[String], signer: &impl SigningKey) -> Vec<u8> {
        // Behind the version.
        replaced(request, 1, &subject(name, groups), signer).unwrap()
    }
}
