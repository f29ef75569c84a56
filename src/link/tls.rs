//! Mutual TLS between agents, people and control: what each side shows, and what it accepts.
//!
//! One [`Authority`] signs for a fleet. Control's certificate is made at each start and lives in memory; people get a
//! client certificate in a kubeconfig ([`write_kubeconfig`]); a node gets one for a key it keeps ([`Credentials`]).
//!
//! - Control accepts a client certificate whose only fault is that it has expired, since a node that was off for long
//!   must still be able to renew. [`Identity::is_expired`] says so, and everything but Renew refuses it.
//! - An agent's clock is never before its own build or the last time its ledger has seen, so that a board without a
//!   clock can check control's certificate. For the same reason what the agent checks is valid from [`EPOCH`] on.
//! - An agent that joins knows of its authority only the pin in the join token.
//!
//! Keys are ECDSA P-256, by ring. Private keys never leave the files named here, mode 0600.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    SignatureScheme,
};

mod authority;
mod files;
mod identity;
mod kubeconfig;
mod request;
mod subject;

pub use authority::{Authority, EPOCH, RENEW_BEFORE, make_key};
pub use files::{read_private, write_private};
pub use identity::{BadPin, Credentials, Identity, KeyPin, NODES, NodeIdentity, NodeKey, names_node};
pub use kubeconfig::{ADMINISTRATOR_KUBECONFIG, Credential, kubeconfig, write_kubeconfig};
pub use request::{CertificateRequest, RequestError};

/// When this binary was built, in seconds since the Unix epoch.
const BUILD_UNIX_SECS: &str = env!("GARRISON_BUILD_UNIX_SECS");

/// What agents and control agree on first; kubectl may choose either.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// What went wrong with keys and certificates.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read or written.
    #[error("cannot {action} {path}")]
    File {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path} does not hold {what}; restore it from a back-up, {way_out}")]
    Damaged {
        /// The file.
        path: std::path::PathBuf,
        /// What was looked for.
        what: &'static str,
        /// What to do without a back-up, and what that costs.
        way_out: &'static str,
    },
    /// A file is sealed, and this is not the key.
    #[error(
        "{path} is sealed, and not with the key there is; put this host's /etc/credstore.encrypted/garrison.ledger back as it was"
    )]
    Sealed {
        /// The file.
        path: std::path::PathBuf,
    },
    /// The authority was rotated, and that is not finished.
    #[error("the last rotation is not finished; finish it first, once every host has renewed its certificate")]
    Rotating,
    /// A certificate or request from the other side cannot be used.
    #[error("the {what} cannot be used")]
    Unusable {
        /// `certificate`, `certificate request`.
        what: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A key or certificate could not be made.
    #[error("cannot make a {what}")]
    Make {
        /// `key`, `certificate`.
        what: &'static str,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// A configuration was refused by the TLS library.
    #[error("cannot set up TLS")]
    Config(#[source] Box<dyn std::error::Error + Send + Sync>),
}

// === control's side ===

/// What control serves with: its own certificate for `names` (host names and addresses), client certificates welcome
/// but not demanded.
///
/// # Errors
/// [`TlsError::Make`] if a name cannot stand in a certificate.
pub fn server_config(authority: &Authority, names: &[String]) -> Result<Arc<ServerConfig>, TlsError> {
    let (chain, key) = authority.issue_server(names)?;
    let checks = WebPkiClientVerifier::builder_with_provider(roots(authority.all())?, provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| TlsError::Config(error.into()))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Config(error.into()))?
        .with_client_cert_verifier(Arc::new(AtAnyTime(checks)))
        .with_single_cert(chain, key)
        .map_err(|error| TlsError::Config(error.into()))?;
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).into();
    // A resumed session would carry an identity that was checked long ago, and tickets cost memory for each agent.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Looks at a certificate as `WebPkiClientVerifier` would in its last second. Whether it has expired is asked with each request
/// ([`Identity::is_expired`]); its beginning is what control's clock showed when it was signed, which may have been set back since.
#[derive(Debug)]
struct AtAnyTime(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for AtAnyTime {
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let identity =
            Identity::of(end_entity).map_err(|_| rustls::Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let last_second = identity.not_after.as_second().try_into().unwrap_or_default();
        let then = UnixTime::since_unix_epoch(Duration::from_secs(last_second));
        self.0.verify_client_cert(end_entity, intermediates, then)
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

// === the agent's side ===

/// What an enrolled agent dials with. `last_seen` is the newest time its ledger has seen; one after the end of its authorities was
/// a clock that went wrong, and counts for nothing, or the host could never be mended by setting it right.
///
/// # Errors
/// [`TlsError::Config`] if the credentials do not fit together, [`TlsError::Unusable`] if an authority is no certificate.
pub fn client_config(credentials: &Credentials, last_seen: Option<Timestamp>) -> Result<ClientConfig, TlsError> {
    let trusted_until = credentials.trusted_until()?;
    let last_seen = last_seen.filter(|seen| *seen <= trusted_until);
    let builder = ClientConfig::builder_with_details(provider(), Arc::new(Clock::at_least(last_seen)))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| TlsError::Config(error.into()))?
        .with_root_certificates(roots(&credentials.ca_bundle)?);
    let mut config = builder
        .with_client_auth_cert(vec![credentials.certificate.clone()], credentials.key.der())
        .map_err(|error| TlsError::Config(error.into()))?;
    config.alpn_protocols = vec![ALPN[0].to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// What a user asks with, as a kubeconfig has it: authorities as PEM, and certificate and key as PEM if those say who it is.
///
/// # Errors
/// [`TlsError::Unusable`] and [`TlsError::Config`].
pub fn user_config(authorities: &[u8], identity: Option<&(Vec<u8>, Vec<u8>)>) -> Result<ClientConfig, TlsError> {
    let unusable = |what| move |error: rustls::pki_types::pem::Error| TlsError::Unusable { what, source: error.into() };
    let certificates = |pem| CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let authorities = certificates(authorities).map_err(unusable("certificate"))?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Config(error.into()))?
        .with_root_certificates(roots(&authorities)?);
    let Some((certificate, key)) = identity else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates(certificate).map_err(unusable("certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(unusable("key"))?;
    builder.with_client_auth_cert(chain, key).map_err(|error| TlsError::Config(error.into()))
}

/// What an agent joins with: no certificate of its own, and an authority known only by its pin.
///
/// # Errors
/// None are known; what the TLS library says, if it should refuse its own defaults.
pub fn joining_config(authority: KeyPin, last_seen: Option<Timestamp>) -> Result<ClientConfig, TlsError> {
    let mut config = ClientConfig::builder_with_details(provider(), Arc::new(Clock::at_least(last_seen)))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| TlsError::Config(error.into()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned(authority)))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN[0].to_vec()];
    Ok(config)
}

/// When this program was made, in seconds since 1970.
pub fn build_unix_secs() -> u64 {
    BUILD_UNIX_SECS.parse().expect("the build script writes a number")
}

/// Never before the build, nor before what the ledger has seen.
#[derive(Debug)]
struct Clock {
    floor: UnixTime,
}

impl Clock {
    fn at_least(last_seen: Option<Timestamp>) -> Self {
        let build = build_unix_secs();
        let seen = last_seen.and_then(|at| u64::try_from(at.as_second()).ok()).unwrap_or_default();
        Self { floor: UnixTime::since_unix_epoch(Duration::from_secs(seen.max(build))) }
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Some(UnixTime::since_unix_epoch(now).max(self.floor))
    }
}

/// Accepts a server whose chain ends in the authority with this key.
#[derive(Debug)]
struct Pinned(KeyPin);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = |candidate: &&CertificateDer<'_>| Identity::of(candidate).is_ok_and(|it| it.key == self.0);
        let authority = intermediates.iter().find(pinned);
        let authority = authority.ok_or(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let checks = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        checks.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn roots<'a>(
    authorities: impl IntoIterator<Item = &'a CertificateDer<'static>>,
) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone()).map_err(|error| TlsError::Config(error.into()))?;
    }
    Ok(Arc::new(roots))
}

/// Whether this is PEM of certificates and of nothing else, one at least.
pub fn are_certificates(text: &[u8]) -> bool {
    let blocks = <(SectionKind, Vec<u8>)>::pem_slice_iter(text).collect::<Result<Vec<_>, _>>().unwrap_or_default();
    let is_one = |(kind, der): &(_, Vec<u8>)| *kind == SectionKind::Certificate && Identity::of(der).is_ok();
    !blocks.is_empty() && blocks.iter().all(is_one)
}

/// RFC 7468 text.
fn pem(label: &str, der: &[u8]) -> String {
    let lines: String = (der.chunks(48)).map(|line| STANDARD.encode(line) + "\n").collect();
    format!("-----BEGIN {label}-----\n{lines}-----END {label}-----\n")
}

#[cfg(test)]
mod tests;
