//! Bearer tokens of people and tools: who they are for, and how long.
//!
//! Pure. The store keeps a hash of the secret only. Unlike a certificate, a token can be revoked.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::rbac::User;
use super::tokens::{hash, letters};

/// What every such token begins with; tokens of service accounts do not.
const PREFIX: &str = "usr.";
const ID_CHARS: usize = 6;

/// A user's token as the store keeps it. Part of the store's format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UserTokenRecord {
    /// SHA-256 of the secret, hex.
    pub secret_hash: String,
    /// Who it makes its bearer.
    pub user: String,
    /// And of which groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Not good after this.
    pub expires_at: Timestamp,
}

/// A new token, its id, and the record to keep of it. `random` are fresh random bytes.
pub fn mint(
    user: &str,
    groups: &[String],
    expires_at: Timestamp,
    random: [u8; 48],
) -> (String, String, UserTokenRecord) {
    let text = letters(&random);
    let (id, secret) = text.split_at(ID_CHARS);
    let record =
        UserTokenRecord { secret_hash: hash(secret), user: user.to_owned(), groups: groups.to_vec(), expires_at };
    (format!("{PREFIX}{id}.{secret}"), id.to_owned(), record)
}

/// Id and secret of a token, or nothing if it is not of that form.
pub fn parse(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.strip_prefix(PREFIX)?.split_once('.')?;
    let is_plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    (id.len() == ID_CHARS && is_plain(id) && is_plain(secret)).then_some((id, secret))
}

impl UserTokenRecord {
    /// Who the bearer is; nobody if the secret is another one or the time is over.
    pub fn admit(self, secret: &str, now: Timestamp) -> Option<User> {
        // Hashes are compared, so the time this takes tells nothing about the secret.
        (hash(secret) == self.secret_hash && now <= self.expires_at).then(|| User {
            name: self.user,
            groups: self.groups,
            ..User::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_its_user_until_its_time_is_over() {
        let (now, later) = (Timestamp::UNIX_EPOCH, Timestamp::from_second(9).unwrap());
        let (token, id, record) = mint("ann", &["dev".to_owned()], now, [37; 48]);
        let (parsed, secret) = parse(&token).unwrap();
        assert_eq!(parsed, id);
        assert!(!serde_json::to_string(&record).unwrap().contains(secret));
        let user = record.clone().admit(secret, now).unwrap();
        assert_eq!((user.name.as_str(), user.groups), ("ann", vec!["dev".to_owned()]));
        assert_eq!(record.clone().admit(secret, later), None);
        assert_eq!(record.admit("other", now), None);
        for other in ["", "eyJh.eyJi.c2ln", "usr.abc.x", "usr.ABCDEF.x"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
