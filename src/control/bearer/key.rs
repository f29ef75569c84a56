//! The key that signs tokens: JSON Web Tokens with ES256 (RFC 7515, RFC 7518).
//!
//! It lives in `<state-dir>/pki/sa.key`, mode 0600, made at control's first start. Whoever has it is every ServiceAccount.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::claims::{BadToken, Claims};
use crate::link::tls::{self, TlsError};

/// No token that is made here is longer, whatever it is for.
const TOKEN_BYTES: usize = 16 * 1024;
/// Bytes of a coordinate of a public key.
const COORDINATE: usize = 32;

/// Signs tokens, and knows its own signature.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    /// Names the key in tokens: the hash of its public half.
    id: String,
}

impl SigningKey {
    /// The key of the fleet whose control has this state directory. Makes it if there is none.
    ///
    /// # Errors
    /// [`TlsError::Damaged`] if the file holds something else; it is never replaced.
    pub fn open(state_dir: &Path) -> Result<Self, TlsError> {
        let path = state_dir.join("pki/sa.key");
        let pem = match tls::read_private(&path)? {
            Some(pem) => pem,
            None => {
                let pem = tls::make_key()?;
                tls::write_private(&path, &pem)?;
                pem
            }
        };
        Self::from_pem(&pem).ok_or_else(|| TlsError::Damaged {
            path,
            what: "a private key",
            way_out: "or remove it: the tokens of all pods end, and those with a new one come as their nodes ask for them",
        })
    }

    fn from_pem(pem: &str) -> Option<Self> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).ok()?;
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der(), &random).ok()?;
        let id = BASE64.encode(Sha256::digest(pair.public_key().as_ref()));
        Some(Self { pair, random, id })
    }

    /// A token with these claims.
    pub fn sign(&self, claims: &Claims) -> String {
        let part = |value: &Value| BASE64.encode(value.to_string());
        let claims = serde_json::to_value(claims).expect("claims are JSON: their keys are strings");
        let signed = format!("{}.{}", part(&json!({"alg": "ES256", "kid": self.id})), part(&claims));
        let signature = self.pair.sign(&self.random, signed.as_bytes()).expect("the system has random numbers");
        format!("{signed}.{}", BASE64.encode(signature))
    }

    /// The claims of a token that this key signed. Whether they hold is not looked at.
    ///
    /// # Errors
    /// [`BadToken::Invalid`].
    pub fn open_token(&self, token: &str) -> Result<Claims, BadToken> {
        let claims = || {
            let (signed, signature) = token.rsplit_once('.').filter(|_| token.len() <= TOKEN_BYTES)?;
            // The header plays no part: there is one key and one algorithm, whatever it says.
            let (_, claims) = signed.split_once('.')?;
            let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref());
            public.verify(signed.as_bytes(), &BASE64.decode(signature).ok()?).ok()?;
            serde_json::from_slice(&BASE64.decode(claims).ok()?).ok()
        };
        claims().ok_or(BadToken::Invalid)
    }

    /// The public half, for others to verify tokens by (RFC 7517).
    pub fn key_set(&self) -> Value {
        // An uncompressed point: one byte, then both coordinates.
        let point = &self.pair.public_key().as_ref()[1..];
        let (x, y) = point.split_at(COORDINATE);
        json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": "ES256",
            "x": BASE64.encode(x), "y": BASE64.encode(y),
        }]})
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use jiff::{SignedDuration, Timestamp};

    use super::*;
    use crate::control::bearer::claims::{Ref, Subject};

    fn claims() -> Claims {
        let serviceaccount = Ref { name: "web".into(), uid: "u".into() };
        let subject = Subject { namespace: "default".into(), node: None, pod: None, secret: None, serviceaccount };
        Claims::new(subject, vec!["a".into()], SignedDuration::from_hours(1), "id".into(), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_key_is_made_once_and_knows_only_its_own_signature() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let token = SigningKey::open(dir.path()).unwrap().sign(&claims());
        let path = dir.path().join("pki/sa.key");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = SigningKey::open(dir.path()).unwrap();
        assert_eq!(again.open_token(&token), Ok(claims()));
        let stranger = SigningKey::open(other.path()).unwrap();
        assert_eq!(stranger.open_token(&token), Err(BadToken::Invalid));
        assert_ne!(again.key_set(), stranger.key_set());

        std::fs::write(&path, "no key").unwrap();
        assert!(matches!(SigningKey::open(dir.path()), Err(TlsError::Damaged { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "no key");
    }

    #[test]
    fn a_token_that_was_touched_is_no_token() {
        let dir = tempfile::tempdir().unwrap();
        let key = SigningKey::open(dir.path()).unwrap();
        let token = key.sign(&claims());
        let parts: Vec<_> = token.split('.').collect();
        let [header, claims, signature] = parts[..] else { panic!("{token}") };
        let none = BASE64.encode(r#"{"alg":"none"}"#);
        let forged = [
            String::new(),
            "...".to_owned(),
            claims.to_owned(),
            format!("{header}.{claims}"),
            format!("{header}.{claims}."),
            format!("{none}.{claims}.{signature}"),
            format!("{header}.{}.{signature}", claims.to_lowercase()),
            format!("{token}A"),
            "x".repeat(1 << 20),
        ];
        for token in forged {
            assert_eq!(key.open_token(&token), Err(BadToken::Invalid), "{token:.60}");
        }
    }
}
