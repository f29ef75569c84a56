//! The text a person carries from control to a host that is to join.

use std::fmt;
use std::str::FromStr;

use super::tls::KeyPin;

/// A join token: `<id>.<secret>.<pin>`. The id names it, the secret proves that its holder may join, and the pin lets
/// the host recognize control before it trusts it with the secret.
///
/// Source: kubeadm's bootstrap token (`[a-z0-9]{6}.[a-z0-9]{16}`) and its `--discovery-token-ca-cert-hash`, in one
/// text.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// 6 characters; may be seen by anybody.
    pub id: String,
    /// 32 characters.
    pub secret: String,
    /// The fleet's authority.
    pub authority: KeyPin,
}

/// The text is no join token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a join token; copy it whole, it has three parts joined by dots")]
pub struct BadToken;

impl JoinToken {
    /// Characters of an id.
    pub const ID_CHARS: usize = 6;
    /// Characters of a secret.
    pub const SECRET_CHARS: usize = 32;

    /// What goes over the wire: without the pin.
    pub fn credential(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }

    /// The id and secret of a credential, or nothing if it is not of that form.
    pub fn parse_credential(text: &str) -> Option<(&str, &str)> {
        let (id, secret) = text.split_once('.')?;
        let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let sizes = id.len() == Self::ID_CHARS && secret.len() == Self::SECRET_CHARS;
        (sizes && plain(id) && plain(secret)).then_some((id, secret))
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.id, self.secret, self.authority)
    }
}

impl fmt::Debug for JoinToken {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("id", &self.id).field("authority", &self.authority).finish_non_exhaustive()
    }
}

impl FromStr for JoinToken {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        let (credential, pin) = text.trim().rsplit_once('.').ok_or(BadToken)?;
        let (id, secret) = Self::parse_credential(credential).ok_or(BadToken)?;
        let authority = pin.parse().map_err(|_| BadToken)?;
        Ok(Self { id: id.to_owned(), secret: secret.to_owned(), authority })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_as_it_was_written_and_hides_its_secret() {
        let token = JoinToken { id: "abc123".into(), secret: "s".repeat(32), authority: KeyPin([7; 32]) };
        assert_eq!(token.to_string().parse(), Ok(token.clone()));
        assert!(!format!("{token:?}").contains("ssss"));
        let text = token.to_string();
        for bad in ["", "abc123", &text[1..], &text[..text.len() - 1], &text.replace("abc", "AB/")] {
            assert_eq!(bad.parse::<JoinToken>(), Err(BadToken), "{bad}");
        }
    }
}
