//! Tokens of ServiceAccounts for the pods of a node.
//!
//! A node gets a token for a pod that the API has on it, of the account that pod runs as, for audiences the pod asks for,
//! and bound to the pod; if the pod is of a DaemonSet, only while its place is there by what can be relied upon.
//!
//! Source: kubernetes v1.36, `plugin/pkg/admission/noderestriction/admission.go`, `admitServiceAccount`.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::PodSpec;
use serde::Deserialize;
use serde_json::Value;

use super::entitled::entitled;
use super::reports::found;
use super::session::Session;
use crate::control::bearer::{Bound, IssueError, Wanted};
use crate::control::kinds::POD;
use crate::control::meta;
use crate::control::objects::ObjectError;
use crate::error::Chain;
use crate::link::{Down, HoldReason, Reason, Reception, Token, TokenRequest};
use crate::podspec::objects::token_specs;

/// What upstream's API accepts at least and at most.
const SECS: std::ops::RangeInclusive<u64> = 600..=1 << 32;

impl Session {
    /// The answer to a request for a token.
    pub(super) async fn token(&self, request: TokenRequest) -> Result<Down, ObjectError> {
        let id = request.id;
        let outcome = self.issue(request).await?;
        if let Err(why) = &outcome {
            tracing::warn!(node = %self.name, reason = why.message, "a node gets no token");
        }
        Ok(Down::Token { id, outcome })
    }

    async fn issue(&self, request: TokenRequest) -> Result<Result<Token, Reason>, ObjectError> {
        // Its reports go on in some of these cases, but who it is is in doubt.
        if matches!(self.reception, Reception::Hold { reason, .. } if reason != HoldReason::Ahead) {
            return Ok(Err(reason("Forbidden", "this node is on hold".to_owned())));
        }
        let TokenRequest { namespace, service_account, pod: key, audiences, expiration_secs, .. } = request;
        let pod = found(self.shared.objects.get(&POD, &namespace, &key.name).await)?;
        let own = |pod: &Value| meta::uid(pod) == key.uid.as_str() && pod["spec"]["nodeName"] == self.name.as_str();
        let Some(pod) = pod.filter(own) else {
            return Ok(Err(reason("NotFound", format!("pods {:?} not found on node {}", key.name, self.name))));
        };
        if let Err(why) = self.may_run(&pod).and_then(|()| asks_for(&pod, &audiences)) {
            return Ok(Err(why));
        }
        let wanted = Wanted {
            namespace,
            account: service_account,
            audiences,
            valid_for: SignedDuration::from_secs(expiration_secs.clamp(*SECS.start(), *SECS.end()).cast_signed()),
            bound: Some(Bound { kind: POD.kind.to_owned(), name: key.name, uid: key.uid.0 }),
        };
        match self.shared.bearer.issue(&wanted, Timestamp::now()).await {
            Ok(token) => Ok(Ok(token)),
            Err(IssueError::Object(error @ (ObjectError::Store(_) | ObjectError::Corrupt { .. }))) => Err(error),
            Err(error) => Ok(Err(reason("FailedToken", Chain(&error).to_string()))),
        }
    }

    /// Whether the pod has its place here, as far as that does not depend on the node's own word.
    fn may_run(&self, pod: &Value) -> Result<(), Reason> {
        let desired = self.shared.desired();
        let set = meta::controller(pod);
        let newest = set.iter().filter_map(|uid| desired.newest(uid)).map(AsRef::as_ref);
        let posted = desired.pods.is_entitled(&self.name, &meta::uid(pod).into());
        entitled(&self.name, &self.shared.roster.vouched(&self.node), posted, newest)
    }
}

/// That the pod's volumes ask for tokens for these audiences.
fn asks_for(pod: &Value, audiences: &[String]) -> Result<(), Reason> {
    let spec = PodSpec::deserialize(&pod["spec"]).unwrap_or_default();
    let own: Vec<_> = token_specs(&spec).into_iter().map(|token| token.audience).collect();
    match audiences.iter().find(|audience| !own.contains(audience)) {
        None => Ok(()),
        Some(other) => Err(reason(
            "Forbidden",
            format!("audience {other:?} not found in pod spec volume, pod {:?} does not ask for it", meta::name(pod)),
        )),
    }
}

fn reason(reason: &str, message: String) -> Reason {
    Reason { reason: reason.to_owned(), message, field: String::new() }
}
