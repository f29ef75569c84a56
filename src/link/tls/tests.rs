use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use jiff::SignedDuration;
use tempfile::TempDir;

use super::*;
use crate::model::{NodeName, Uid};
use crate::seal::Key;

const UID: &str = "0b6f1a3c-8e1d-4f4e-9d5a-2f6f1f0f7a11";

fn temp_dir() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn node_certificate(authority: &Authority, key: &NodeKey) -> (CertificateDer<'static>, KeyPin) {
    let (name, uid) = (NodeName::from("edge-1"), Uid::from(UID));
    authority.issue_node(&key.request().unwrap(), &name, &uid, Timestamp::now()).unwrap()
}

#[test]
fn an_authority_is_made_once_and_kept_to_its_owner() {
    let dir = temp_dir();
    let made = Authority::open(dir.path()).unwrap();
    let found = Authority::open(dir.path()).unwrap();
    assert_eq!(made.certificate(), found.certificate());
    assert_eq!(mode(&dir.path().join("pki/ca.key")), 0o600);
    assert_eq!(mode(&dir.path().join("pki/ca.crt")), 0o600);
    assert_eq!(mode(&dir.path().join("pki")), 0o700);
}

#[test]
fn a_damaged_authority_is_named_and_never_replaced() {
    let dir = temp_dir();
    let other = temp_dir();
    Authority::open(dir.path()).unwrap();
    Authority::open(other.path()).unwrap();
    let key = dir.path().join("pki/ca.key");
    let refused = |expected: &str| {
        let error = Authority::open(dir.path()).err().unwrap().to_string();
        assert!(error.contains("pki/ca.key") && error.contains(expected), "{error}");
    };
    fs::write(&key, "garbage").unwrap();
    refused("a private key");
    fs::copy(other.path().join("pki/ca.key"), &key).unwrap();
    refused("the key of the certificate beside it");
    fs::remove_file(&key).unwrap();
    refused("the authority's private key");
}

#[test]
fn a_nodes_certificate_says_what_control_decided_not_what_was_asked_for() {
    let dir = temp_dir();
    let authority = Authority::open(dir.path()).unwrap();
    let key = NodeKey::generate().unwrap();
    let (certificate, pin) = node_certificate(&authority, &key);
    let identity = Identity::of(&certificate).unwrap();
    assert_eq!(identity.name, "system:node:edge-1");
    assert_eq!(identity.groups, ["system:nodes"]);
    assert_eq!(identity.node(), Some(NodeIdentity { name: "edge-1".into(), uid: UID.into(), key: pin }));
    assert!(!identity.is_expired(Timestamp::now()));
    assert!(identity.is_expired(identity.not_after + Duration::from_secs(1)));

    let mut forged = key.request().unwrap().to_vec();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let refused = authority.issue_node(&forged, &"edge-1".into(), &UID.into(), Timestamp::now());
    assert!(matches!(refused, Err(TlsError::Unusable { what: "certificate request", .. })));
}

#[test]
fn a_users_certificate_names_every_group_in_order() {
    let dir = temp_dir();
    let authority = Authority::open(dir.path()).unwrap();
    let checks = WebPkiClientVerifier::builder_with_provider(roots(authority.all()).unwrap(), provider());
    let checks = checks.build().unwrap();
    let groups = ["ops", "größer", &"x".repeat(300)].map(str::to_owned);
    for groups in [&groups[..0], &groups[..1], &groups] {
        let (certificate, _) =
            authority.issue_user("ann", groups, SignedDuration::from_hours(1), Timestamp::now()).unwrap();
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        let identity = Identity::of(&certificate).unwrap();
        assert_eq!((identity.name.as_str(), &*identity.groups), ("ann", groups));
        checks.verify_client_cert(&certificate, &[], UnixTime::now()).unwrap();
    }
}

#[test]
fn a_certificate_counts_wherever_controls_clock_was_set_since_and_a_strangers_never() {
    let (dir, strangers) = (temp_dir(), temp_dir());
    let [authority, stranger] = [&dir, &strangers].map(|dir| Authority::open(dir.path()).unwrap());
    let checks = WebPkiClientVerifier::builder_with_provider(roots(authority.all()).unwrap(), provider());
    let checks = AtAnyTime(checks.build().unwrap());
    let key = NodeKey::generate().unwrap();
    let [ours, theirs] =
        [&authority, &stranger].map(|authority| CertificateDer::from(node_certificate(authority, &key).0.to_vec()));
    for now in [0, 1_000_000, 10_000_000_000] {
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
        checks.verify_client_cert(&ours, &[], now).unwrap();
        checks.verify_client_cert(&theirs, &[], now).unwrap_err();
    }
}

#[test]
fn credentials_are_found_as_they_were_saved() {
    let dir = temp_dir();
    assert!(Credentials::load(dir.path(), None).unwrap().is_none());
    let authority = Authority::open(dir.path()).unwrap();
    let key = NodeKey::generate().unwrap();
    let (certificate, pin) = node_certificate(&authority, &key);
    let (certificate, bundle) = (certificate.to_vec().into(), [authority.certificate().to_vec().into()]);
    let saved = Credentials::new(key, &certificate, &bundle);
    let file = dir.path().join("node.pem");
    let seal_key = Key::new(&[7; 32]);
    for key in [None, Some(&seal_key)] {
        saved.save(dir.path(), key).unwrap();
        let found = Credentials::load(dir.path(), key).unwrap().unwrap();
        assert_eq!((&found.certificate, &found.ca_bundle), (&saved.certificate, &saved.ca_bundle));
        assert_eq!(found.identity().unwrap().key, pin);
        assert_eq!(mode(&file), 0o600);
        client_config(&found, None).unwrap();
    }

    fs::write(&file, "garbage").unwrap();
    let error = Credentials::load(dir.path(), None).err().unwrap().to_string();
    assert!(error.contains("node.pem") && error.contains("join token"), "{error}");

    // From before there was a key.
    saved.save(dir.path(), None).unwrap();
    assert!(fs::read_to_string(&file).unwrap().contains("PRIVATE KEY"));
    Credentials::seal(dir.path(), &seal_key).unwrap();
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("sealed by garrison: ") && text.lines().count() == 1, "{text}");
    Credentials::seal(dir.path(), &seal_key).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), text, "it is sealed once");
    assert_eq!(Credentials::load(dir.path(), Some(&seal_key)).unwrap().unwrap().certificate, saved.certificate);
    for key in [None, Some(&Key::new(&[8; 32]))] {
        let error = Credentials::load(dir.path(), key).err().unwrap();
        assert!(matches!(&error, TlsError::Sealed { path } if *path == file), "{error}");
    }
}

#[test]
fn the_kubeconfig_holds_all_that_kubectl_needs() {
    let dir = temp_dir();
    let authority = Authority::open(dir.path()).unwrap();
    let path = write_kubeconfig(&authority, dir.path(), "https://127.0.0.1:6443").unwrap();
    assert_eq!(mode(&path), 0o600);
    let config: serde_json::Value = serde_saphyr::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(config["clusters"][0]["cluster"]["server"], "https://127.0.0.1:6443");
    assert_eq!(config["current-context"], config["contexts"][0]["name"]);
    let user = &config["users"][0]["user"];
    let decoded = STANDARD.decode(user["client-certificate-data"].as_str().unwrap()).unwrap();
    let identity = Identity::of(&CertificateDer::from_pem_slice(&decoded).unwrap()).unwrap();
    assert_eq!((identity.name.as_str(), identity.groups), ("garrison-admin", vec!["system:masters".to_owned()]));
    assert_eq!(identity.node_uid, None);
    let key = STANDARD.decode(user["client-key-data"].as_str().unwrap()).unwrap();
    assert!(PrivateKeyDer::from_pem_slice(&key).is_ok());
}

#[test]
fn an_agent_without_a_clock_is_never_before_its_build_or_its_ledger() {
    let build = BUILD_UNIX_SECS.parse().unwrap();
    let far = Timestamp::from_second(32_503_680_000).unwrap();
    assert!(Clock::at_least(None).floor >= UnixTime::since_unix_epoch(Duration::from_secs(build)));
    let at_least = Clock::at_least(Some(far)).current_time().unwrap();
    assert_eq!(at_least.as_secs(), 32_503_680_000);
    // What such an agent has to accept was valid before the program was built.
    let dir = temp_dir();
    let authority = Authority::open(dir.path()).unwrap();
    let (chain, _) = authority.issue_server(&["localhost".to_owned()]).unwrap();
    for certificate in chain {
        let (_, certificate) = x509_parser::parse_x509_certificate(&certificate).unwrap();
        assert!(certificate.validity().not_before.timestamp().unsigned_abs() < build);
    }
}

#[test]
fn a_pin_reads_back_as_it_was_written() {
    let pin = KeyPin([0xa5; 32]);
    assert_eq!(pin.to_string().parse(), Ok(pin));
    for bad in ["", "a5", &"g".repeat(64), &"é".repeat(32)] {
        assert_eq!(bad.parse::<KeyPin>(), Err(BadPin));
    }
}

#[test]
fn an_authority_is_rotated_once_at_a_time_and_a_cut_leaves_the_one_or_the_other() {
    let dir = temp_dir();
    let old = Authority::open(dir.path()).unwrap();
    let pki = |name: &str| dir.path().join("pki").join(name);
    assert!(!Authority::finish_rotation(dir.path()).unwrap());
    // Cut before the key was in place: as if nothing had been.
    for name in ["next.crt", "previous.crt"] {
        fs::copy(pki("ca.crt"), pki(name)).unwrap();
    }
    let other = temp_dir();
    Authority::open(other.path()).unwrap();
    fs::copy(other.path().join("pki/ca.crt"), pki("next.crt")).unwrap();
    let same = Authority::open(dir.path()).unwrap();
    assert_eq!((same.bundle(), pki("previous.crt").exists()), (old.bundle(), false));

    Authority::rotate(dir.path()).unwrap();
    let new = Authority::open(dir.path()).unwrap();
    assert_ne!(new.pin(), old.pin());
    assert_eq!(new.bundle(), [new.certificate(), old.certificate()].map(|one| bytes::Bytes::from(one.to_vec())));
    assert!(matches!(Authority::rotate(dir.path()), Err(TlsError::Rotating)));
    // Cut after it, before the certificate was.
    fs::rename(pki("ca.crt"), pki("next.crt")).unwrap();
    fs::copy(pki("previous.crt"), pki("ca.crt")).unwrap();
    assert_eq!(Authority::open(dir.path()).unwrap().bundle(), new.bundle());
    assert!(Authority::finish_rotation(dir.path()).unwrap());
    let finished = Authority::open(dir.path()).unwrap();
    assert_eq!((finished.pin(), finished.bundle().len()), (new.pin(), 1));
    Authority::rotate(dir.path()).unwrap();
}
