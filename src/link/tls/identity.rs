//! Who a certificate says somebody is, and what a node keeps to show it.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiff::Timestamp;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{TlsError, files, pem};
use crate::model::{NodeName, Uid};
use crate::seal::Key;

/// What the name in a node's certificate begins with; the name of its Node follows.
pub const NODE_USER_PREFIX: &str = "system:node:";
/// The group in a node's certificate.
pub const NODES: &str = "system:nodes";

/// SHA-256 of a public key (its `SubjectPublicKeyInfo` in DER), as kubeadm's `--discovery-token-ca-cert-hash`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyPin(pub [u8; 32]);

/// Who shows a certificate. Whoever reads this knows that the fleet's authority signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The subject's common name: a user to the API.
    pub name: String,
    /// The subject's organizations: groups to the API.
    pub groups: Vec<String>,
    /// Of a node: the uid of its Node.
    pub node_uid: Option<Uid>,
    /// The certificate does not hold after this.
    pub not_after: Timestamp,
    /// The certificate's key.
    pub key: KeyPin,
}

/// A node, by its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeIdentity {
    /// `metadata.name` of its Node.
    pub name: NodeName,
    /// `metadata.uid` of its Node.
    pub uid: Uid,
    /// The key that must be the one pinned to the Node.
    pub key: KeyPin,
}

/// A node's private key. Clones share it.
#[derive(Clone)]
pub struct NodeKey(Arc<KeyPair>);

/// What a sealed file begins with.
const SEALED: &str = "sealed by garrison: ";
/// What it is sealed for.
const PLACE: &str = "node.pem";

/// What a node shows and what it trusts: `<state-dir>/node.pem`, one file, so that the parts always fit together. Where the host has
/// a key for what it keeps, that file is sealed, in base64.
#[derive(Clone)]
pub struct Credentials {
    /// The node's own key.
    pub key: NodeKey,
    /// Its certificate.
    pub certificate: CertificateDer<'static>,
    /// The authorities that count in its fleet; the first signs.
    pub ca_bundle: Vec<CertificateDer<'static>>,
}

// === impl KeyPin ===

impl KeyPin {
    /// The pin of a `SubjectPublicKeyInfo` in DER.
    pub(super) fn of(public_key_info: &[u8]) -> Self {
        Self(Sha256::digest(public_key_info).into())
    }
}

impl fmt::Display for KeyPin {
    /// Lower-case hex.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The text is no SHA-256 in hex.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not the 64 hex digits of a SHA-256")]
pub struct BadPin;

impl FromStr for KeyPin {
    type Err = BadPin;

    fn from_str(text: &str) -> Result<Self, BadPin> {
        let mut pin = [0; 32];
        if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(BadPin);
        }
        for (byte, pair) in pin.iter_mut().zip(text.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| BadPin)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| BadPin)?;
        }
        Ok(Self(pin))
    }
}

// === impl Identity ===

impl Identity {
    /// Reads a certificate. Checks nothing: the handshake did.
    ///
    /// # Errors
    /// [`TlsError::Unusable`] if it is no certificate, or dated outside of time.
    pub fn of(certificate: &[u8]) -> Result<Self, TlsError> {
        let unusable =
            |source: Box<dyn std::error::Error + Send + Sync>| TlsError::Unusable { what: "certificate", source };
        let (_, certificate) = X509Certificate::from_der(certificate).map_err(|error| unusable(error.into()))?;
        let subject = certificate.subject();
        let not_after = Timestamp::from_second(certificate.validity().not_after.timestamp());
        Ok(Self {
            name: subject.iter_common_name().find_map(|name| name.as_str().ok()).unwrap_or_default().to_owned(),
            groups: subject.iter_organization().filter_map(|name| name.as_str().ok()).map(str::to_owned).collect(),
            node_uid: node_uid(&certificate),
            not_after: not_after.map_err(|error| unusable(error.into()))?,
            key: KeyPin::of(certificate.public_key().raw),
        })
    }

    /// Whether the certificate has ceased to hold.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        now > self.not_after
    }

    /// The node it is about; none for people.
    pub fn node(&self) -> Option<NodeIdentity> {
        let name = self.name.strip_prefix(NODE_USER_PREFIX)?;
        let uid = self.node_uid.clone()?;
        self.groups.iter().any(|group| group == NODES).then(|| NodeIdentity { name: name.into(), uid, key: self.key })
    }
}

fn node_uid(certificate: &X509Certificate<'_>) -> Option<Uid> {
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix("urn:uuid:").map(Uid::from),
        _ => None,
    })
}

/// A user of this name and in these groups would be taken for a node somewhere.
pub fn names_node(name: &str, groups: &[String]) -> bool {
    name.starts_with(NODE_USER_PREFIX) || groups.iter().any(|group| group == NODES)
}

// === impl NodeKey ===

impl NodeKey {
    /// A new key, in memory.
    ///
    /// # Errors
    /// [`TlsError::Make`] if the system gives no randomness.
    pub fn generate() -> Result<Self, TlsError> {
        KeyPair::generate().map(|key| Self(Arc::new(key))).map_err(|source| TlsError::Make { what: "key", source })
    }

    /// A certificate request by this key, in DER. Control decides what stands in the certificate.
    ///
    /// # Errors
    /// [`TlsError::Make`] if it cannot be signed.
    pub fn request(&self) -> Result<Bytes, TlsError> {
        let request = CertificateParams::default().serialize_request(&*self.0);
        let request = request.map_err(|source| TlsError::Make { what: "certificate request", source })?;
        Ok(Bytes::copy_from_slice(request.der()))
    }

    pub(super) fn der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.0.serialize_der().into())
    }
}

// === impl Credentials ===

impl Credentials {
    const WAY_OUT: &str = "or remove the file and enrol the node again with a join token";

    /// What an enrolment or a renewal brought for a key, in DER.
    pub fn new(key: NodeKey, certificate: &Bytes, ca_bundle: &[Bytes]) -> Self {
        Self { key, certificate: der(certificate), ca_bundle: ca_bundle.iter().map(der).collect() }
    }

    /// Takes over a renewed certificate for the same key, and the authorities that came with it.
    ///
    /// # Errors
    /// [`TlsError::Unusable`] if it is no certificate; nothing is changed then.
    pub fn replace(&mut self, certificate: &Bytes, ca_bundle: &[Bytes]) -> Result<(), TlsError> {
        Identity::of(certificate)?;
        self.certificate = der(certificate);
        self.trust(ca_bundle);
        Ok(())
    }

    /// Takes over the authorities that control names. Says whether they are others than before.
    pub fn trust(&mut self, ca_bundle: &[Bytes]) -> bool {
        let named: Vec<_> = ca_bundle.iter().map(der).collect();
        let other = named != self.ca_bundle;
        self.ca_bundle = named;
        other
    }

    /// The certificate's identity.
    ///
    /// # Errors
    /// [`TlsError::Unusable`] if control sent something else.
    pub fn identity(&self) -> Result<Identity, TlsError> {
        Identity::of(&self.certificate)
    }

    /// Until when the last of the authorities holds: after that nobody can be told to be control.
    ///
    /// # Errors
    /// [`TlsError::Unusable`] if one of them is no certificate.
    pub fn trusted_until(&self) -> Result<Timestamp, TlsError> {
        let ends = self.ca_bundle.iter().map(|authority| Ok(Identity::of(authority)?.not_after));
        ends.reduce(|latest, end| Ok(latest?.max(end?))).unwrap_or(Ok(Timestamp::MIN))
    }

    /// Whether the first of the authorities, which is the one that signs now, has signed the certificate.
    pub fn is_of_signing_authority(&self) -> bool {
        let issuer = X509Certificate::from_der(&self.certificate);
        let signing = self.ca_bundle.first().map(|authority| X509Certificate::from_der(authority));
        match (issuer, signing) {
            (Ok((_, certificate)), Some(Ok((_, authority)))) => {
                certificate.issuer().as_raw() == authority.subject().as_raw()
            }
            // What cannot be read is not renewed over and over for that.
            _ => true,
        }
    }

    /// Reads what [`Credentials::save`] wrote, sealed or from before there was a key; none if the node is not enrolled.
    ///
    /// # Errors
    /// [`TlsError::Damaged`] if the file is not whole, [`TlsError::Sealed`] if it takes another key.
    pub fn load(state_dir: &Path, key: Option<&Key>) -> Result<Option<Self>, TlsError> {
        let path = state_dir.join("node.pem");
        let Some(mut content) = files::read_private(&path)? else { return Ok(None) };
        let damaged = |what| TlsError::Damaged { path: path.clone(), what, way_out: Self::WAY_OUT };
        if let Some(sealed) = content.strip_prefix(SEALED) {
            let sealed = STANDARD.decode(sealed.trim_end()).map_err(|_| damaged("what was sealed"))?;
            let opened = key.and_then(|key| key.open(PLACE, sealed));
            let opened = opened.ok_or_else(|| TlsError::Sealed { path: path.clone() })?;
            content = String::from_utf8(opened).map_err(|_| damaged("text"))?;
        }
        let key = PrivateKeyDer::from_pem_slice(content.as_bytes()).map_err(|_| damaged("a private key"))?;
        let key = KeyPair::try_from(&key).map_err(|_| damaged("a private key"))?;
        let certificates = CertificateDer::pem_slice_iter(content.as_bytes()).collect::<Result<Vec<_>, _>>();
        let mut certificates = certificates.map_err(|_| damaged("certificates"))?.into_iter();
        let certificate = certificates.next().ok_or_else(|| damaged("a certificate"))?;
        let ca_bundle: Vec<_> = certificates.collect();
        if ca_bundle.is_empty() {
            return Err(damaged("the fleet's authority"));
        }
        Ok(Some(Self { key: NodeKey(Arc::new(key)), certificate, ca_bundle }))
    }

    /// Keeps them, in place of earlier ones; sealed if there is a key.
    ///
    /// # Errors
    /// [`TlsError::File`].
    pub fn save(&self, state_dir: &Path, key: Option<&Key>) -> Result<(), TlsError> {
        let certificates = std::iter::once(&self.certificate).chain(&self.ca_bundle);
        let text = certificates.fold(self.key.0.serialize_pem(), |text, der| text + &pem("CERTIFICATE", der));
        let content = match key {
            Some(key) => sealed(&text, key),
            None => text,
        };
        files::write_private(&state_dir.join("node.pem"), &content)
    }

    /// Seals what was kept before there was a key.
    ///
    /// # Errors
    /// [`TlsError::File`]; then the file is as it was.
    pub fn seal(state_dir: &Path, key: &Key) -> Result<(), TlsError> {
        let path = state_dir.join("node.pem");
        match files::read_private(&path)?.filter(|content| !content.starts_with(SEALED)) {
            Some(content) => files::write_private(&path, &sealed(&content, key)),
            None => Ok(()),
        }
    }

    /// Removes what [`Credentials::save`] wrote, if it is there.
    ///
    /// # Errors
    /// [`TlsError::File`].
    pub fn remove(state_dir: &Path) -> Result<(), TlsError> {
        files::remove_private(&state_dir.join("node.pem"))
    }
}

fn sealed(content: &str, key: &Key) -> String {
    format!("{SEALED}{}\n", STANDARD.encode(key.seal(PLACE, content.as_bytes())))
}

fn der(bytes: &Bytes) -> CertificateDer<'static> {
    CertificateDer::from(bytes.to_vec())
}
