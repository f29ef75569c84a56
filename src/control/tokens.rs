//! Join tokens: what they allow, and how long.
//!
//! Pure. The store keeps only a hash of the secret, so that a copy of it lets nobody join.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::control::nodes::HOST_LABELS;
use crate::link::tls::KeyPin;
use crate::link::{EnrollRequest, JoinToken};
use crate::model::NodeName;

/// What a token's text is made of.
const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// What a token allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowance {
    /// From now on.
    pub valid_for: SignedDuration,
    /// How many hosts may join with it; none is any number.
    pub uses: Option<u32>,
    /// The only name a host may have; none is any.
    pub node_name: Option<NodeName>,
    /// The only labels a host may give itself, beside those that follow from the machine; none is any.
    pub labels: Option<BTreeMap<String, String>>,
}

/// A token as the store keeps it. Part of the store's format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenRecord {
    /// SHA-256 of the secret, hex.
    pub secret_hash: String,
    /// Not good after this.
    pub expires_at: Timestamp,
    /// As [`Allowance::uses`], less those that joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses_left: Option<u32>,
    /// As [`Allowance::node_name`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<NodeName>,
    /// As [`Allowance::labels`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
}

/// Why a token does not let a host join; for the person at the host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefusal {
    /// No such token, or another secret: which of both is not said.
    #[error("the join token is not known; ask for a new one")]
    Unknown,
    /// Its time is over.
    #[error("the join token has expired; ask for a new one")]
    Expired,
    /// It is for another node.
    #[error("the join token is for node {allowed}, not for {asked}")]
    NodeName {
        /// By the token.
        allowed: NodeName,
        /// By the host.
        asked: NodeName,
    },
    /// It does not vouch for a label.
    #[error("the join token does not allow the label {key}={value}")]
    Label {
        /// Its key.
        key: String,
        /// Its value.
        value: String,
    },
}

/// A new token and the record to keep of it. `random` are fresh random bytes.
pub fn mint(authority: KeyPin, random: [u8; 48], allowance: Allowance, now: Timestamp) -> (JoinToken, TokenRecord) {
    let text = letters(&random);
    let (id, rest) = text.split_at(JoinToken::ID_CHARS);
    let token = JoinToken { id: id.to_owned(), secret: rest[..JoinToken::SECRET_CHARS].to_owned(), authority };
    let record = TokenRecord {
        secret_hash: hash(&token.secret),
        expires_at: now.saturating_add(allowance.valid_for).unwrap_or(Timestamp::MAX),
        uses_left: allowance.uses,
        node_name: allowance.node_name,
        labels: allowance.labels,
    };
    (token, record)
}

/// Whether a host may join with this token and `secret`; gives what is left of the token, or nothing if it is used up.
///
/// # Errors
/// [`TokenRefusal`], in the order secret, time, name, labels: who does not know the secret learns nothing.
pub fn admit(
    token: &TokenRecord,
    secret: &str,
    request: &EnrollRequest,
    now: Timestamp,
) -> Result<Option<TokenRecord>, TokenRefusal> {
    // Hashes are compared, so the time this takes tells nothing about the secret.
    if hash(secret) != token.secret_hash {
        return Err(TokenRefusal::Unknown);
    }
    if now > token.expires_at {
        return Err(TokenRefusal::Expired);
    }
    if let Some(allowed) = token.node_name.as_ref().filter(|name| **name != request.node_name) {
        return Err(TokenRefusal::NodeName { allowed: allowed.clone(), asked: request.node_name.clone() });
    }
    if let Some(allowed) = &token.labels {
        let of_host = |key: &str| HOST_LABELS.contains(&key);
        let foreign = request.labels.iter().find(|(key, value)| !of_host(key) && allowed.get(*key) != Some(*value));
        if let Some((key, value)) = foreign {
            return Err(TokenRefusal::Label { key: key.clone(), value: value.clone() });
        }
    }
    Ok(match token.uses_left {
        Some(0 | 1) => None,
        Some(left) => Some(TokenRecord { uses_left: Some(left - 1), ..token.clone() }),
        None => Some(token.clone()),
    })
}

/// The keys of those labels of a host that nobody vouches for: all that do not follow from the machine, if the token does
/// not say which it may give itself.
pub fn claimed<'a>(token: &TokenRecord, labels: &'a BTreeMap<String, String>) -> Vec<&'a String> {
    let is_bounded = token.labels.is_some();
    labels.keys().filter(|key| !is_bounded && !HOST_LABELS.contains(&key.as_str())).collect()
}

/// Whether it was made for the one host that is to be this node: then it may take the place of a host that had the name
/// before and was installed anew.
pub fn is_for(token: &TokenRecord, name: &NodeName) -> bool {
    token.node_name.as_ref() == Some(name) && token.uses_left == Some(1)
}

/// Random bytes as what tokens are made of, a letter each.
pub(super) fn letters(random: &[u8]) -> String {
    random.iter().map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()])).collect()
}

/// What is kept of a secret.
pub(super) fn hash(secret: &str) -> String {
    Sha256::digest(secret.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn request(pairs: &[(&str, &str)]) -> EnrollRequest {
        EnrollRequest {
            protocol: 1,
            token: String::new(),
            certificate_request: b"csr".to_vec().into(),
            node_name: "edge-1".into(),
            labels: labels(pairs),
            taints: vec![],
            machine_id: "m".into(),
        }
    }

    fn allowance() -> Allowance {
        Allowance { valid_for: SignedDuration::from_hours(1), uses: Some(2), node_name: None, labels: None }
    }

    fn minted(allowance: Allowance) -> (JoinToken, TokenRecord) {
        mint(KeyPin([1; 32]), [37; 48], allowance, NOW)
    }

    #[test]
    fn a_minted_token_is_good_as_text_and_its_record_does_not_hold_the_secret() {
        let (token, record) = minted(allowance());
        assert_eq!(token.to_string().parse(), Ok(token.clone()));
        assert!(!serde_json::to_string(&record).unwrap().contains(&token.secret));
    }

    #[test]
    fn a_token_is_used_up() {
        let (token, record) = minted(allowance());
        let left = admit(&record, &token.secret, &request(&[]), NOW).unwrap();
        assert_eq!(left.as_ref().and_then(|left| left.uses_left), Some(1));
        assert_eq!(admit(&left.unwrap(), &token.secret, &request(&[]), NOW), Ok(None));
        let (token, record) = minted(Allowance { uses: None, ..allowance() });
        assert_eq!(admit(&record, &token.secret, &request(&[]), NOW), Ok(Some(record)));
    }

    #[test]
    fn only_a_token_that_bounds_labels_vouches_for_them() {
        let given = labels(&[("kubernetes.io/arch", "arm64"), ("site", "north")]);
        assert_eq!(claimed(&minted(allowance()).1, &given), ["site"]);
        let bounded = Allowance { labels: Some(labels(&[("site", "north")])), ..allowance() };
        assert_eq!(claimed(&minted(bounded).1, &given), [""; 0]);
    }

    #[test]
    fn each_bound_of_a_token() {
        let bound =
            Allowance { node_name: Some("edge-1".into()), labels: Some(labels(&[("site", "north")])), ..allowance() };
        let (token, record) = minted(bound);
        let later = NOW + SignedDuration::from_hours(2);
        let ask = |record: &TokenRecord, secret: &str, pairs: &[(&str, &str)], now| {
            admit(record, secret, &request(pairs), now).map(drop)
        };
        let label = |key: &str, value: &str| TokenRefusal::Label { key: key.into(), value: value.into() };
        assert_eq!(ask(&record, &token.secret, &[("site", "north"), ("kubernetes.io/os", "linux")], NOW), Ok(()));
        assert_eq!(ask(&record, "wrong", &[], NOW), Err(TokenRefusal::Unknown));
        assert_eq!(ask(&record, "wrong", &[], later), Err(TokenRefusal::Unknown));
        assert_eq!(ask(&record, &token.secret, &[], later), Err(TokenRefusal::Expired));
        assert_eq!(ask(&record, &token.secret, &[("site", "south")], NOW), Err(label("site", "south")));
        assert_eq!(ask(&record, &token.secret, &[("role", "db")], NOW), Err(label("role", "db")));
        let other = TokenRecord { node_name: Some("edge-2".into()), ..record };
        let refusal = TokenRefusal::NodeName { allowed: "edge-2".into(), asked: "edge-1".into() };
        assert_eq!(ask(&other, &token.secret, &[], NOW), Err(refusal));
    }
}
