//! How hosts become nodes, and how nodes stay known: enrolment, renewal, and who may open a session.

use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use super::Shared;
use crate::api::names;
use crate::control::kinds::NODE;
use crate::control::meta;
use crate::control::nodes;
use crate::control::objects::{Member, MemberRecord, ObjectError};
use crate::control::tokens::{self, TokenRecord, TokenRefusal};
use crate::error::Chain;
use crate::link::server::Denied;
use crate::link::tls::{NodeIdentity, TlsError};
use crate::link::{EnrollRequest, Enrolled, JoinToken, RenewRequest, Renewed};
use crate::model::{NodeName, Uid};

/// How often an enrolment is tried again because somebody else wrote first.
const ATTEMPTS: usize = 10;

impl From<ObjectError> for Denied {
    fn from(error: ObjectError) -> Self {
        tracing::error!(error = %Chain(&error), "a call of a node failed");
        Self::Unavailable("control's store failed; try again later".to_owned())
    }
}

impl From<TlsError> for Denied {
    fn from(error: TlsError) -> Self {
        Self::Invalid(Chain(&error).to_string())
    }
}

impl From<TokenRefusal> for Denied {
    fn from(refusal: TokenRefusal) -> Self {
        match refusal {
            TokenRefusal::Unknown | TokenRefusal::Expired => Self::Credentials(refusal.to_string()),
            TokenRefusal::NodeName { .. } | TokenRefusal::Label { .. } => Self::Forbidden(refusal.to_string()),
        }
    }
}

impl Shared {
    pub(super) async fn enroll(&self, request: EnrollRequest) -> Result<Enrolled, Denied> {
        check_labels(&request)?;
        let (id, secret) = JoinToken::parse_credential(&request.token).ok_or(TokenRefusal::Unknown)?;
        for _ in 0..ATTEMPTS {
            let token = self.objects.token(id).await?.ok_or(TokenRefusal::Unknown)?;
            let now = Timestamp::now();
            let left = tokens::admit(&token.record, secret, &request, now)?;
            let (uid, before) = self.place_for(&request, &token.record).await?;
            let name = &request.node_name;
            let (certificate, key) = self.authority.issue_node(&request.certificate_request, name, &uid, now)?;
            let member = MemberRecord {
                uid: uid.clone(),
                name: name.clone(),
                key: key.to_string(),
                machine_id: request.machine_id.clone(),
                session: 0,
                session_nonce: String::new(),
            };
            let claimed = tokens::claimed(&token.record, &request.labels);
            let node = nodes::registered(name, &uid, &request.labels, &claimed, &request.taints, now);
            if self.objects.join(&token, left.as_ref(), before.as_ref(), &member, &node).await? {
                tracing::info!(node = %name, %uid, "a host has joined");
                self.roster.meet(&uid, name);
                return Ok(Enrolled {
                    certificate: certificate.to_vec().into(),
                    ca_bundle: self.authority.bundle(),
                    fleet: self.objects.fleet().id.clone(),
                    node_name: name.clone(),
                    node_uid: uid,
                });
            }
        }
        Err(Denied::Unavailable("too many hosts join at once; try again".to_owned()))
    }

    /// The uid of the Node a host becomes, and the record of that Node if it has one.
    ///
    /// A Node without a record was made by a user ahead of its host. One with a record is somebody's, unless it is this
    /// very machine's and never had a session: then the answer to its first enrolment was lost. A token made for this one
    /// name gives the Node of a host that is gone to the one that has its place, with the labels and taints it has.
    async fn place_for(&self, request: &EnrollRequest, token: &TokenRecord) -> Result<(Uid, Option<Member>), Denied> {
        let name = &request.node_name;
        let node: Value = match self.objects.get(&NODE, "", name.as_str()).await {
            Ok(node) => node,
            Err(ObjectError::NotFound { .. }) => return Ok((Uid(Uuid::new_v4().to_string()), None)),
            Err(error) => return Err(error.into()),
        };
        let uid = Uid::from(meta::uid(&node));
        let member = self.objects.member(&uid).await?;
        let Some(MemberRecord { session, machine_id: theirs, .. }) = member.as_ref().map(|member| &member.record)
        else {
            return Ok((uid, None));
        };
        let this = &request.machine_id;
        let is_same = *session == 0 && theirs == this;
        let remedy = match (is_same, tokens::is_for(token, name), self.roster.other(&uid)) {
            (true, ..) | (_, true, None) => return Ok((uid, member)),
            (_, true, Some(_)) => "that host is connected: stop its agent first, or".to_owned(),
            (_, false, _) => format!(
                "if it was installed anew, join with a token of garrison token create --node-name {name} --uses 1; \
                 if its host is gone for good, kubectl delete node {name} first; or else"
            ),
        };
        Err(Denied::Forbidden(format!(
            "node {name} exists already: its host has machine id {theirs}, this host is {this}; {remedy} choose another name \
             with --node-name"
        )))
    }

    pub(super) async fn renew(&self, node: &NodeIdentity, request: &RenewRequest) -> Result<Renewed, Denied> {
        let member = self.known(node).await?;
        if member.record.machine_id != request.machine_id {
            return Err(Denied::Forbidden("the node's credentials were made for another machine".to_owned()));
        }
        let (name, uid) = (&member.record.name, &member.record.uid);
        let issued = self.authority.issue_node(&request.certificate_request, name, uid, Timestamp::now())?;
        let (certificate, key) = issued;
        if key != node.key {
            return Err(Denied::Forbidden("a certificate is renewed for the key it was made for".to_owned()));
        }
        Ok(Renewed { certificate: certificate.to_vec().into(), ca_bundle: self.authority.bundle() })
    }

    /// The record of a node that calls. Its certificate is good only as long as the record has the same key.
    pub(super) async fn known(&self, node: &NodeIdentity) -> Result<Member, Denied> {
        let member = self.objects.member(&node.uid).await?;
        let same_key = |member: &Member| member.record.key == node.key.to_string();
        member.filter(same_key).ok_or_else(|| unknown(&node.name))
    }
}

fn unknown(name: &NodeName) -> Denied {
    Denied::Credentials(format!(
        "node {name} does not belong to this fleet, or not any more; enrol its host with a join token, or if control has lost \
         its store: garrison control recover"
    ))
}

/// Names and values as the API allows them.
fn check_labels(request: &EnrollRequest) -> Result<(), Denied> {
    for (key, value) in &request.labels {
        let wrong = names::qualified_name(key).into_iter().chain(names::label_value(value)).next();
        if let Some(wrong) = wrong {
            return Err(Denied::Invalid(format!("label {key}={value}: {wrong}")));
        }
    }
    Ok(())
}
