//! Tokens of ServiceAccounts: signed for whoever may have one, verified when one is shown.
//!
//! A token is bound to what it was made for: it ends with its time, with its account, and with the pod, Secret or node it
//! names. Nothing is remembered of the tokens that were made.
//!
//! [`claims`] says what is in a token and how long that holds, [`key`] signs; both are pure but for the key's file.
//!
//! Source: kubernetes v1.36, `pkg/registry/core/serviceaccount/storage/token.go`, `pkg/serviceaccount/claims.go`.

pub mod claims;
pub mod key;

use std::collections::BTreeMap;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use uuid::Uuid;

use self::claims::{BadToken, Claims, ISSUER, Ref, Subject};
use self::key::SigningKey;
use super::kinds::{Kind, NODE, POD, SECRET, SERVICE_ACCOUNT};
use super::meta;
use super::objects::{ObjectError, Objects};
use crate::link::Token;
use crate::link::tls::TlsError;

/// How long after the end of a pod, Secret or account its tokens are still good: it may have work to finish.
const AFTER_DELETION: SignedDuration = SignedDuration::from_secs(60);

/// Signs and verifies.
pub struct Bearer {
    key: SigningKey,
    objects: Objects,
}

/// What a token is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Of the account.
    pub namespace: String,
    /// Name of the account.
    pub account: String,
    /// Whom it is meant for; empty means the API itself.
    pub audiences: Vec<String>,
    /// How long it is to be good.
    pub valid_for: SignedDuration,
    /// What it ends with, beside its account.
    pub bound: Option<Bound>,
}

/// `boundObjectRef`: what a token ends with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// `Pod`, `Secret` or `Node`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its uid; empty for whatever has the name now.
    pub uid: String,
}

/// Why a token is not made.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The account, or what it is to be bound to, is not there; or the store failed.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// It cannot be bound to such a thing.
    #[error("cannot bind token to object of type {0}")]
    Kind(String),
    /// The pod runs as somebody else.
    #[error("cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name.")]
    OtherAccount {
        /// That the token is asked for.
        account: String,
    },
}

/// Whose token was shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// `system:serviceaccount:<namespace>:<name>`.
    pub user: String,
    /// The account's uid.
    pub uid: String,
    /// Without `system:authenticated`.
    pub groups: Vec<String>,
    /// What else is known of the bearer, as upstream's authenticator tells it.
    pub extra: BTreeMap<String, Vec<String>>,
    /// Those that were asked for and that the token is meant for.
    pub audiences: Vec<String>,
}

/// Why a token is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It is not good.
    #[error(transparent)]
    Token(#[from] BadToken),
    /// Nobody knows.
    #[error("the token cannot be looked at")]
    Object(#[source] ObjectError),
}

impl Bearer {
    /// With the key in the state directory, made if there is none.
    ///
    /// # Errors
    /// As [`SigningKey::open`].
    pub fn open(state_dir: &Path, objects: Objects) -> Result<Self, TlsError> {
        Ok(Self { key: SigningKey::open(state_dir)?, objects })
    }

    /// Makes a token.
    ///
    /// # Errors
    /// [`IssueError`], in upstream's order: account, then what it is bound to.
    pub async fn issue(&self, wanted: &Wanted, now: Timestamp) -> Result<Token, IssueError> {
        let account = self.objects.get(&SERVICE_ACCOUNT, &wanted.namespace, &wanted.account).await?;
        let mut subject = Subject {
            namespace: wanted.namespace.clone(),
            serviceaccount: reference(&account),
            pod: None,
            secret: None,
            node: None,
        };
        if let Some(bound) = &wanted.bound {
            self.bind(&mut subject, bound).await?;
        }
        let audiences = if wanted.audiences.is_empty() { vec![ISSUER.to_owned()] } else { wanted.audiences.clone() };
        let claims = Claims::new(subject, audiences, wanted.valid_for, Uuid::new_v4().to_string(), now);
        let expires_at = Timestamp::from_second(claims.exp).unwrap_or(Timestamp::MAX);
        Ok(Token { text: self.key.sign(&claims), expires_at })
    }

    async fn bind(&self, subject: &mut Subject, bound: &Bound) -> Result<(), IssueError> {
        match bound.kind.as_str() {
            "Pod" => {
                let pod = self.named(&POD, &subject.namespace, bound).await?;
                if pod["spec"]["serviceAccountName"] != subject.serviceaccount.name.as_str() {
                    return Err(IssueError::OtherAccount { account: subject.serviceaccount.name.clone() });
                }
                subject.pod = Some(reference(&pod));
                if let Some(node) = pod["spec"]["nodeName"].as_str() {
                    // A pod whose Node is gone is about to go, too.
                    subject.node = self.objects.get(&NODE, "", node).await.ok().as_ref().map(reference);
                }
            }
            "Secret" => subject.secret = Some(reference(&self.named(&SECRET, &subject.namespace, bound).await?)),
            "Node" => subject.node = Some(reference(&self.named(&NODE, "", bound).await?)),
            other => return Err(IssueError::Kind(other.to_owned())),
        }
        Ok(())
    }

    async fn named(&self, kind: &'static Kind, namespace: &str, bound: &Bound) -> Result<Value, ObjectError> {
        let object = self.objects.get(kind, namespace, &bound.name).await?;
        let uid = meta::uid(&object);
        if bound.uid.is_empty() || bound.uid == uid {
            return Ok(object);
        }
        let reason = format!(
            "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted \
             and then recreated",
            bound.uid
        );
        Err(ObjectError::Conflict { kind, name: bound.name.clone(), reason })
    }

    /// Says whose token was shown, if it is good for one of `audiences`; none means the API itself.
    ///
    /// # Errors
    /// [`VerifyError::Token`] says why not; [`VerifyError::Object`] if the store failed.
    pub async fn verify(&self, token: &str, audiences: &[String], now: Timestamp) -> Result<Verified, VerifyError> {
        let own = [ISSUER.to_owned()];
        let claims = self.key.open_token(token)?;
        let audiences = claims.check(if audiences.is_empty() { &own } else { audiences }, now)?;
        let Subject { namespace, node, pod, secret, serviceaccount } = &claims.kubernetes;
        self.stands(&SERVICE_ACCOUNT, namespace, serviceaccount, now).await?;
        match (pod, secret, node) {
            (Some(pod), ..) => self.stands(&POD, namespace, pod, now).await?,
            (None, Some(secret), _) => self.stands(&SECRET, namespace, secret, now).await?,
            (None, None, Some(node)) => self.stands(&NODE, "", node, now).await?,
            (None, None, None) => {}
        }
        Ok(Verified {
            user: claims.sub.clone(),
            uid: serviceaccount.uid.clone(),
            groups: claims.kubernetes.groups(),
            extra: extra(&claims),
            audiences,
        })
    }

    /// That an object is still the one it was.
    async fn stands(
        &self,
        kind: &'static Kind,
        namespace: &str,
        object: &Ref,
        now: Timestamp,
    ) -> Result<(), VerifyError> {
        let current = match self.objects.get(kind, namespace, &object.name).await {
            Ok(current) => current,
            Err(ObjectError::NotFound { .. }) => return Err(BadToken::Gone.into()),
            Err(error) => return Err(VerifyError::Object(error)),
        };
        let ends_at: Option<Timestamp> = meta::text(&current, "deletionTimestamp").parse().ok();
        let is_over = ends_at.is_some_and(|at| now > at.saturating_add(AFTER_DELETION).unwrap_or(at));
        if meta::uid(&current) != object.uid || is_over { Err(BadToken::Gone.into()) } else { Ok(()) }
    }

    /// What others need to verify tokens themselves (RFC 7517).
    pub fn key_set(&self) -> Value {
        self.key.key_set()
    }
}

fn reference(object: &Value) -> Ref {
    Ref { name: meta::name(object).to_owned(), uid: meta::uid(object).to_owned() }
}

/// Source: kubernetes v1.36, `k8s.io/apiserver/pkg/authentication/serviceaccount/util.go`, `ServiceAccountInfo.UserInfo`.
fn extra(claims: &Claims) -> BTreeMap<String, Vec<String>> {
    let mut extra = BTreeMap::from([("credential-id", format!("JTI={}", claims.jti))]);
    for (reference, name, uid) in
        [(&claims.kubernetes.pod, "pod-name", "pod-uid"), (&claims.kubernetes.node, "node-name", "node-uid")]
    {
        if let Some(reference) = reference {
            extra.extend([(name, reference.name.clone()), (uid, reference.uid.clone())]);
        }
    }
    extra.into_iter().map(|(key, value)| (format!("authentication.kubernetes.io/{key}"), vec![value])).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::control::objects::WriteOptions;
    use crate::control::removal::DeleteOptions;
    use crate::store::Memory;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    struct Harness {
        objects: Objects,
        bearer: Bearer,
        _dir: tempfile::TempDir,
    }

    impl Harness {
        /// A fleet with an account `web`, and a pod of it on a node.
        async fn new() -> Self {
            let objects = Objects::open(Memory::new()).await.unwrap();
            let dir = tempfile::tempdir().unwrap();
            let bearer = Bearer::open(dir.path(), objects.clone()).unwrap();
            let harness = Self { objects, bearer, _dir: dir };
            harness.make(&SERVICE_ACCOUNT, "web").await;
            harness.make(&NODE, "edge-1").await;
            harness.make(&SECRET, "key").await;
            let pod =
                json!({"metadata": {"name": "web-1"}, "spec": {"nodeName": "edge-1", "serviceAccountName": "web"}});
            harness.objects.report(&POD, "default", "web-1", |_| Some(pod.clone())).await.unwrap();
            harness
        }

        async fn make(&self, kind: &'static Kind, name: &str) -> Value {
            let object = json!({"metadata": {"name": name}});
            self.objects.create(kind, "default", object, WriteOptions::default()).await.unwrap()
        }

        async fn delete(&self, kind: &'static Kind, name: &str) {
            let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
            self.objects.delete(kind, if kind.namespaced { "default" } else { "" }, name, &now).await.unwrap();
        }

        async fn issue(&self, bound: Option<(&str, &str)>) -> Result<String, String> {
            let bound = bound.map(|(kind, name)| Bound { kind: kind.into(), name: name.into(), uid: String::new() });
            let token = self.bearer.issue(&Wanted { bound, ..wanted() }, NOW).await;
            token.map(|token| token.text).map_err(|error| error.to_string())
        }

        async fn verify(&self, token: &str) -> Result<Verified, String> {
            self.bearer.verify(token, &[], NOW).await.map_err(|error| error.to_string())
        }
    }

    fn wanted() -> Wanted {
        let valid_for = SignedDuration::from_hours(1);
        Wanted { namespace: "default".into(), account: "web".into(), valid_for, ..Wanted::default() }
    }

    #[tokio::test]
    async fn a_bearer_is_the_account_in_the_pod_on_the_node() {
        let harness = Harness::new().await;
        let verified = harness.verify(&harness.issue(Some(("Pod", "web-1"))).await.unwrap()).await.unwrap();
        assert_eq!(verified.user, "system:serviceaccount:default:web");
        assert_eq!(verified.groups, ["system:serviceaccounts", "system:serviceaccounts:default"]);
        assert_eq!(verified.audiences, [ISSUER]);
        let extra = |key: &str| verified.extra[&format!("authentication.kubernetes.io/{key}")][0].as_str();
        assert_eq!((extra("pod-name"), extra("node-name")), ("web-1", "edge-1"));
        assert!(extra("credential-id").starts_with("JTI="));
        let other = harness.bearer.verify(&harness.issue(None).await.unwrap(), &["vault".into()], NOW).await;
        assert!(matches!(other, Err(VerifyError::Token(BadToken::Audience { .. }))));
    }

    #[tokio::test]
    async fn a_token_ends_with_what_it_is_bound_to() {
        let gone = Err("service account token has been invalidated".to_owned());
        for (bound, kind, name) in [
            (None, &SERVICE_ACCOUNT, "web"),
            (Some(("Pod", "web-1")), &POD, "web-1"),
            (Some(("Pod", "web-1")), &SERVICE_ACCOUNT, "web"),
            (Some(("Secret", "key")), &SECRET, "key"),
            (Some(("Node", "edge-1")), &NODE, "edge-1"),
        ] {
            let harness = Harness::new().await;
            let token = harness.issue(bound).await.unwrap();
            assert!(harness.verify(&token).await.is_ok());
            harness.delete(kind, name).await;
            assert_eq!(harness.verify(&token).await, gone, "{bound:?} without {name}");
            if *kind != POD {
                harness.make(kind, name).await;
                assert_eq!(harness.verify(&token).await, gone, "{bound:?} with another {name}");
            }
        }
    }

    #[tokio::test]
    async fn a_token_is_made_only_for_what_is_there() {
        let harness = Harness::new().await;
        let issue = async |kind: &str, name: &str| harness.issue(Some((kind, name))).await.unwrap_err();
        assert_eq!(issue("Pod", "none").await, "pods \"none\" not found");
        assert_eq!(issue("ConfigMap", "a").await, "cannot bind token to object of type ConfigMap");
        let unknown = Wanted { account: "none".into(), ..wanted() };
        assert_eq!(
            harness.bearer.issue(&unknown, NOW).await.unwrap_err().to_string(),
            "serviceaccounts \"none\" not found"
        );
        let bound = Some(Bound { kind: "Pod".into(), name: "web-1".into(), uid: String::new() });
        let other = Wanted { account: "default".into(), bound: bound.clone(), ..wanted() };
        assert_eq!(
            harness.bearer.issue(&other, NOW).await.unwrap_err().to_string(),
            "cannot bind token for serviceaccount \"default\" to pod running with different serviceaccount name."
        );
        let stale = bound.map(|bound| Bound { uid: "old".into(), ..bound });
        let refused = harness.bearer.issue(&Wanted { bound: stale, ..wanted() }, NOW).await.unwrap_err();
        assert!(matches!(refused, IssueError::Object(ObjectError::Conflict { .. })), "{refused}");
    }
}
