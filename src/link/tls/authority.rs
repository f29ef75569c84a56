//! The fleet's certificate authority: made once, kept in `<state-dir>/pki`, signs for control, people and nodes.
//!
//! It can be rotated. The new one signs everything from then on; the one before has signed the new one's key before it was
//! dropped, so that nodes which know only the former still accept control, hear of the new one in the welcome, and renew.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};
use uuid::Uuid;

use super::identity::{NODE_USER_PREFIX, NODES};
use super::subject::with_subject;
use super::{CertificateRequest, Identity, KeyPin, TlsError, files, pem};
use crate::model::{NodeName, Uid};

/// From when on certificates hold that agents check: before any build of this program, since the build is the least
/// that an agent without a clock knows of the time.
pub const EPOCH: (i32, u8, u8) = (2025, 1, 1);

const CA_DAYS: i64 = 10 * 365;
/// How long a node's certificate holds.
const NODE_DAYS: i64 = 90;
/// How long before its end a node renews its certificate: when a third of its time is left.
pub const RENEW_BEFORE: SignedDuration = SignedDuration::from_hours(24 * NODE_DAYS / 3);
/// How far the clock of whoever checks a client certificate may be behind.
const SKEW: SignedDuration = SignedDuration::from_mins(10);

const WAY_OUT: &str = "or remove the folder pki to begin with a new authority: every node then has to enrol again";

/// The authority, ready to sign.
pub struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    not_after: Timestamp,
    previous: Option<Previous>,
}

/// The authority before this one, as long as a rotation is not finished.
struct Previous {
    certificate: CertificateDer<'static>,
    /// The present authority's key, signed by the one before: who trusts only that one accepts the present one.
    cross: CertificateDer<'static>,
}

/// The files of an authority, below the state directory.
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    /// While a rotation is being written: the certificate that is to be.
    next: PathBuf,
    previous: PathBuf,
    cross: PathBuf,
}

impl Files {
    fn of(state_dir: &Path) -> Self {
        let file = |name: &str| state_dir.join("pki").join(name);
        Self {
            certificate: file("ca.crt"),
            key: file("ca.key"),
            next: file("next.crt"),
            previous: file("previous.crt"),
            cross: file("cross.crt"),
        }
    }

    /// Brings a rotation that broke off to an end: it counts if its key is in place.
    fn settle(&self) -> Result<(), TlsError> {
        let (Some(next), Some(key)) = (files::read_private(&self.next)?, files::read_private(&self.key)?) else {
            return Ok(());
        };
        let is_in_place = match (certificate_of(&next), KeyPair::from_pem(&key)) {
            (Ok(next), Ok(key)) => {
                let pin = KeyPin::of(&key.subject_public_key_info());
                Identity::of(&next).is_ok_and(|identity| identity.key == pin)
            }
            _ => false,
        };
        if is_in_place {
            files::write_private(&self.certificate, &next)?;
        } else {
            files::remove_private(&self.previous)?;
            files::remove_private(&self.cross)?;
        }
        files::remove_private(&self.next)
    }

    fn previous(&self) -> Result<Option<Previous>, TlsError> {
        let read = |path: &Path| {
            let Some(pem) = files::read_private(path)? else { return Ok(None) };
            certificate_of(&pem).map(Some).map_err(|_| damaged(path, "a certificate"))
        };
        match (read(&self.previous)?, read(&self.cross)?) {
            (Some(certificate), Some(cross)) => Ok(Some(Previous { certificate, cross })),
            (None, None) => Ok(None),
            (None, Some(_)) => Err(damaged(&self.previous, "the certificate of the authority before")),
            (Some(_), None) => Err(damaged(&self.cross, "the certificate that the authority before has signed")),
        }
    }
}

impl Authority {
    /// The authority of the fleet whose control has this state directory: `pki/ca.crt` and `pki/ca.key`, and beside them, while
    /// a rotation is not finished, `pki/previous.crt` and `pki/cross.crt`. Makes it if neither of the first two is there.
    ///
    /// # Errors
    /// [`TlsError::Damaged`] if one is missing or unreadable; they are never replaced.
    pub fn open(state_dir: &Path) -> Result<Self, TlsError> {
        let all = Files::of(state_dir);
        all.settle()?;
        let Files { certificate, key, .. } = &all;
        let (certificate_pem, key_pem) = match (files::read_private(certificate)?, files::read_private(key)?) {
            (Some(certificate_pem), Some(key_pem)) => (certificate_pem, key_pem),
            // The certificate is written last: a key alone has signed nothing yet.
            (None, _) => {
                let (certificate_pem, key_pem) = make(Timestamp::now())?;
                files::write_private(key, &key_pem)?;
                files::write_private(certificate, &certificate_pem)?;
                (certificate_pem, key_pem)
            }
            (Some(_), None) => return Err(damaged(key, "the authority's private key")),
        };
        let certificate_der = certificate_of(&certificate_pem).map_err(|_| damaged(certificate, "a certificate"))?;
        let signer = KeyPair::from_pem(&key_pem).map_err(|_| damaged(key, "a private key"))?;
        let pin = KeyPin::of(&signer.subject_public_key_info());
        if Identity::of(&certificate_der).is_ok_and(|identity| identity.key != pin) {
            return Err(damaged(key, "the key of the certificate beside it"));
        }
        let previous = all.previous()?;
        Self::new(certificate_der, signer, previous).map_err(|_| damaged(certificate, "an authority's certificate"))
    }

    /// Puts another authority in the place of the one in this state directory, which counts from then on only for those who
    /// trust it already, until [`Authority::finish_rotation`]. Control takes it up at its next start.
    ///
    /// # Errors
    /// [`TlsError::Rotating`] if the last rotation is not finished; else as [`Authority::open`], and [`TlsError::Make`].
    pub fn rotate(state_dir: &Path) -> Result<(), TlsError> {
        let before = Self::open(state_dir)?;
        if before.previous.is_some() {
            return Err(TlsError::Rotating);
        }
        let all = Files::of(state_dir);
        let key = KeyPair::generate().map_err(make_error("key"))?;
        let certificate = ca_params(&key, Timestamp::now()).self_signed(&key).map_err(make_error("certificate"))?;
        let mut params = ca_params(&key, Timestamp::now());
        set_not_after(&mut params, before.not_after);
        let cross = params.signed_by(&key, &before.issuer).map_err(make_error("certificate"))?;
        files::write_private(&all.previous, &before.certificate_pem())?;
        files::write_private(&all.cross, &cross.pem())?;
        files::write_private(&all.next, &certificate.pem())?;
        // From here on it counts.
        files::write_private(&all.key, &key.serialize_pem())?;
        all.settle()
    }

    /// Drops the authority before this one: whoever has not heard of this one by now has to join again. False if there is
    /// none.
    ///
    /// # Errors
    /// As [`Authority::open`].
    pub fn finish_rotation(state_dir: &Path) -> Result<bool, TlsError> {
        let is_rotating = Self::open(state_dir)?.previous.is_some();
        let all = Files::of(state_dir);
        files::remove_private(&all.cross)?;
        files::remove_private(&all.previous)?;
        Ok(is_rotating)
    }

    fn new(
        certificate: CertificateDer<'static>,
        signer: KeyPair,
        previous: Option<Previous>,
    ) -> Result<Self, TlsError> {
        let not_after = Identity::of(&certificate)?.not_after;
        let issuer = Issuer::from_ca_cert_der(&certificate, signer)
            .map_err(|error| TlsError::Unusable { what: "certificate", source: error.into() })?;
        Ok(Self { certificate, issuer, not_after, previous })
    }

    /// Every authority whose signature counts: the one that signs, then the one before it.
    pub fn all(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        std::iter::once(&self.certificate).chain(self.previous.as_ref().map(|previous| &previous.certificate))
    }

    /// [`Authority::all`] as nodes are told, in DER.
    pub fn bundle(&self) -> Vec<Bytes> {
        self.all().map(|certificate| certificate.to_vec().into()).collect()
    }

    /// [`Authority::all`] as PEM.
    pub fn bundle_pem(&self) -> String {
        self.all().map(|certificate| pem("CERTIFICATE", certificate)).collect()
    }

    /// Its own certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Its own certificate, PEM.
    pub fn certificate_pem(&self) -> String {
        pem("CERTIFICATE", &self.certificate)
    }

    /// What a join token pins.
    pub fn pin(&self) -> KeyPin {
        KeyPin::of(&self.issuer.key().subject_public_key_info())
    }

    /// A chain and a new key for control, good for all of `names`. The chain has the authorities in it, so that who joins
    /// can find the pinned key, and a way from the one before to this one.
    pub(super) fn issue_server(
        &self,
        names: &[String],
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let mut params = CertificateParams::new(names).map_err(make_error("certificate"))?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "garrison-control");
        params.serial_number = Some(serial_number());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let (year, month, day) = EPOCH;
        params.not_before = rcgen::date_time_ymd(year, month, day);
        set_not_after(&mut params, self.not_after);
        let key = KeyPair::generate().map_err(make_error("key"))?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(make_error("certificate"))?;
        let mut chain = vec![certificate.into(), self.certificate.clone()];
        if let Some(Previous { certificate, cross }) = &self.previous {
            chain.extend([cross.clone(), certificate.clone()]);
        }
        Ok((chain, key.into()))
    }

    /// A certificate and its key, both PEM, for a person or a tool.
    pub(super) fn issue_user(
        &self,
        name: &str,
        groups: &[String],
        valid_for: SignedDuration,
        now: Timestamp,
    ) -> Result<(String, String), TlsError> {
        let key = KeyPair::generate().map_err(make_error("key"))?;
        let certificate = self.client(name, groups, &key, valid_for, now)?;
        Ok((pem("CERTIFICATE", &certificate), key.serialize_pem()))
    }

    /// A client certificate, DER.
    fn client(
        &self,
        name: &str,
        groups: &[String],
        key: &impl PublicKeyData,
        valid_for: SignedDuration,
        now: Timestamp,
    ) -> Result<Vec<u8>, TlsError> {
        let mut params = client_params(now, valid_for);
        if now.saturating_add(valid_for).unwrap_or(Timestamp::MAX) > self.not_after {
            set_not_after(&mut params, self.not_after);
        }
        let made = params.signed_by(key, &self.issuer);
        let named = made.and_then(|made| with_subject(made.der(), name, groups, self.issuer.key()));
        named.map_err(make_error("certificate"))
    }

    /// A certificate, PEM, for whom a request names, with its key, from ten minutes ago until `valid_for` from now or the
    /// authority's own end: to be shown to control, and for nothing else.
    ///
    /// # Errors
    /// [`TlsError::Unusable`] if there is no such key, [`TlsError::Make`].
    pub fn issue_client(
        &self,
        request: &CertificateRequest,
        valid_for: SignedDuration,
        now: Timestamp,
    ) -> Result<String, TlsError> {
        let unusable = |error: rcgen::Error| TlsError::Unusable { what: "certificate request", source: error.into() };
        let key = request.key().map_err(unusable)?;
        let CertificateRequest { name, groups, .. } = request;
        Ok(pem("CERTIFICATE", &self.client(name, groups, &key, valid_for, now)?))
    }

    /// A certificate for the key of a node's request, with the name and uid its Node has. What else the request says is
    /// not looked at. Gives the pin of the key with it.
    ///
    /// # Errors
    /// [`TlsError::Unusable`] if the request is none, or not signed by its key.
    ///
    /// Source: the subject is that of a kubelet's client certificate, Kubernetes "Certificate Signing Requests",
    /// signer `kubernetes.io/kube-apiserver-client-kubelet`.
    pub fn issue_node(
        &self,
        request: &[u8],
        name: &NodeName,
        uid: &Uid,
        now: Timestamp,
    ) -> Result<(CertificateDer<'static>, KeyPin), TlsError> {
        let unusable = |error: rcgen::Error| TlsError::Unusable { what: "certificate request", source: error.into() };
        let request = CertificateSigningRequestDer::from(request);
        let key = CertificateSigningRequestParams::from_der(&request).map_err(unusable)?.public_key;
        let mut params = client_params(now, SignedDuration::from_hours(24 * NODE_DAYS));
        params.distinguished_name.push(DnType::OrganizationName, NODES);
        params.distinguished_name.push(DnType::CommonName, format!("{NODE_USER_PREFIX}{name}"));
        let uri = format!("urn:uuid:{uid}").try_into().map_err(unusable)?;
        params.subject_alt_names.push(SanType::URI(uri));
        let certificate: Certificate = params.signed_by(&key, &self.issuer).map_err(make_error("certificate"))?;
        Ok((certificate.into(), KeyPin::of(&key.subject_public_key_info())))
    }
}

/// A new authority's certificate and key, as PEM.
fn make(now: Timestamp) -> Result<(String, String), TlsError> {
    let key = KeyPair::generate().map_err(make_error("key"))?;
    let certificate = ca_params(&key, now).self_signed(&key).map_err(make_error("certificate"))?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn ca_params(key: &KeyPair, now: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    // The key is in the name: two authorities of one fleet are never taken for each other.
    let name = format!("garrison-ca-{}", &KeyPin::of(&key.subject_public_key_info()).to_string()[..12]);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(serial_number());
    // Of others it signs only for the one after it.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let (year, month, day) = EPOCH;
    params.not_before = rcgen::date_time_ymd(year, month, day);
    set_not_after(&mut params, now + SignedDuration::from_hours(24 * CA_DAYS));
    params
}

fn certificate_of(pem: &str) -> Result<CertificateDer<'static>, rustls::pki_types::pem::Error> {
    CertificateDer::from_pem_slice(pem.as_bytes())
}

/// A new private key, PEM.
///
/// # Errors
/// [`TlsError::Make`].
pub fn make_key() -> Result<String, TlsError> {
    Ok(KeyPair::generate().map_err(make_error("key"))?.serialize_pem())
}

/// Of nobody yet.
fn client_params(now: Timestamp, valid_for: SignedDuration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(serial_number());
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + since_epoch(now - SKEW);
    set_not_after(&mut params, now.saturating_add(valid_for).unwrap_or(Timestamp::MAX));
    params
}

/// Random, since a renewed certificate has the key of the one before.
fn serial_number() -> SerialNumber {
    SerialNumber::from_slice(Uuid::new_v4().as_bytes())
}

fn set_not_after(params: &mut CertificateParams, at: Timestamp) {
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since_epoch(at);
}

fn since_epoch(at: Timestamp) -> Duration {
    Duration::from_secs(u64::try_from(at.as_second()).unwrap_or_default())
}

fn damaged(path: &Path, what: &'static str) -> TlsError {
    TlsError::Damaged { path: path.to_owned(), what, way_out: WAY_OUT }
}

fn make_error(what: &'static str) -> impl FnOnce(rcgen::Error) -> TlsError {
    move |source| TlsError::Make { what, source }
}
