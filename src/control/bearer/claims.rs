//! What a token of a ServiceAccount says, and whether that holds.
//!
//! Pure. Whether the account and what the token is bound to still exist is looked up by the caller.
//!
//! Source: kubernetes v1.36, `pkg/serviceaccount/claims.go`.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// Who signs: what kubeadm clusters call themselves. It is also the audience of tokens for the API itself.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// How far the clock of whoever signed may be off. As upstream's JOSE library.
const LEEWAY: SignedDuration = SignedDuration::from_mins(1);

/// The claims of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Whom it is meant for.
    pub aud: Vec<String>,
    /// Not good after this, in seconds since the Unix epoch.
    pub exp: i64,
    /// When it was made.
    pub iat: i64,
    /// Always [`ISSUER`].
    pub iss: String,
    /// Unique.
    pub jti: String,
    /// Kubernetes' own.
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Subject,
    /// Not good before this.
    pub nbf: i64,
    /// The account as a user of the API.
    pub sub: String,
}

/// Whose token it is, and what it is bound to: with that it ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Of the account and of a pod or Secret.
    pub namespace: String,
    /// The node the pod is on, or what the token is bound to if there is no pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Ref>,
    /// Bound to this pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Ref>,
    /// Bound to this Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Ref>,
    /// The account.
    pub serviceaccount: Ref,
}

/// One object: a later one of the same name is another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ref {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
}

/// Why a token is not good. Says nothing that its bearer does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    /// It is none, or somebody else signed it.
    #[error("invalid bearer token")]
    Invalid,
    /// Its time has not come.
    #[error("service account token is not valid yet")]
    NotYet,
    /// Its time is over.
    #[error("service account token has expired")]
    Expired,
    /// It is meant for others.
    #[error("token audiences {given:?} is invalid for the target audiences {wanted:?}")]
    Audience {
        /// Those of the token.
        given: Vec<String>,
        /// Those of whoever was shown it.
        wanted: Vec<String>,
    },
    /// The account, or what the token is bound to, is gone or another by now.
    #[error("service account token has been invalidated")]
    Gone,
}

impl Claims {
    /// The claims of a new token. `id` is unique.
    pub fn new(
        subject: Subject,
        audiences: Vec<String>,
        valid_for: SignedDuration,
        id: String,
        now: Timestamp,
    ) -> Self {
        let iat = now.as_second();
        Self {
            aud: audiences,
            exp: now.saturating_add(valid_for).unwrap_or(Timestamp::MAX).as_second(),
            iat,
            iss: ISSUER.to_owned(),
            jti: id,
            sub: subject.user(),
            kubernetes: subject,
            nbf: iat,
        }
    }

    /// Whether the token is good now for one of `audiences`; gives those it is good for.
    ///
    /// # Errors
    /// [`BadToken`], but not [`BadToken::Gone`].
    pub fn check(&self, audiences: &[String], now: Timestamp) -> Result<Vec<String>, BadToken> {
        if self.iss != ISSUER || self.sub != self.kubernetes.user() {
            return Err(BadToken::Invalid);
        }
        let (now, leeway) = (now.as_second(), LEEWAY.as_secs());
        if now.saturating_add(leeway) < self.nbf {
            return Err(BadToken::NotYet);
        }
        if now.saturating_sub(leeway) > self.exp {
            return Err(BadToken::Expired);
        }
        let both: Vec<_> = self.aud.iter().filter(|audience| audiences.contains(audience)).cloned().collect();
        if both.is_empty() {
            return Err(BadToken::Audience { given: self.aud.clone(), wanted: audiences.to_vec() });
        }
        Ok(both)
    }
}

impl Subject {
    /// The account as a user of the API.
    pub fn user(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.serviceaccount.name)
    }

    /// The groups it is a member of, beside that of everybody who is known.
    pub fn groups(&self) -> Vec<String> {
        vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{}", self.namespace)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        let of = |name: &str| Ref { name: name.to_owned(), uid: format!("{name}-uid") };
        let subject = Subject {
            namespace: "default".into(),
            node: Some(of("edge-1")),
            pod: Some(of("web-1")),
            secret: None,
            serviceaccount: of("web"),
        };
        let audiences = vec![ISSUER.to_owned(), "vault".to_owned()];
        let now = Timestamp::from_second(1000).unwrap();
        Claims::new(subject, audiences, SignedDuration::from_secs(3600), "id".into(), now)
    }

    #[test]
    fn claims_are_what_other_verifiers_expect() {
        let expected = serde_json::json!({
            "aud": ["https://kubernetes.default.svc.cluster.local", "vault"],
            "exp": 4600, "iat": 1000, "nbf": 1000, "iss": "https://kubernetes.default.svc.cluster.local", "jti": "id",
            "kubernetes.io": {
                "namespace": "default", "node": {"name": "edge-1", "uid": "edge-1-uid"},
                "pod": {"name": "web-1", "uid": "web-1-uid"}, "serviceaccount": {"name": "web", "uid": "web-uid"},
            },
            "sub": "system:serviceaccount:default:web",
        });
        assert_eq!(serde_json::to_value(claims()).unwrap(), expected);
    }

    #[test]
    fn a_token_is_good_for_a_time_and_for_those_it_is_meant_for() {
        let audience = |name: &str| BadToken::Audience { given: claims().aud, wanted: vec![name.to_owned()] };
        let good = |name: &str| Ok(vec![name.to_owned()]);
        let cases = [
            (claims(), ISSUER, 1000, good(ISSUER)),
            (claims(), "vault", 4600 + 60, good("vault")),
            (claims(), "vault", 4600 + 61, Err(BadToken::Expired)),
            (claims(), "vault", 940, good("vault")),
            (claims(), "vault", 939, Err(BadToken::NotYet)),
            (claims(), "other", 1000, Err(audience("other"))),
            (Claims { iss: "https://else".into(), ..claims() }, ISSUER, 1000, Err(BadToken::Invalid)),
            (Claims { sub: "system:admin".into(), ..claims() }, ISSUER, 1000, Err(BadToken::Invalid)),
        ];
        for (claims, wanted, at, expected) in cases {
            let now = Timestamp::from_second(at).unwrap();
            assert_eq!(claims.check(&[wanted.to_owned()], now), expected, "{wanted} at {at}");
        }
    }
}
