//! The records of who may call: the credentials of nodes, and the tokens with which hosts become nodes.
//!
//! They live beside the API objects, not in them: a user who edits a Node cannot make another key good.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::records::{parse, put, record, unchanged};
use super::{ObjectError, Objects, keys};
use crate::control::kinds::NODE;
use crate::control::meta;
use crate::control::registry::Part;
use crate::control::tokens::TokenRecord;
use crate::model::{NodeName, Uid};
use crate::store::{Condition, Entry, Persistence, StoreError, Write};

/// What control knows of a node's credentials and sessions. Part of the store's format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberRecord {
    /// `metadata.uid` of its Node.
    pub uid: Uid,
    /// `metadata.name` of its Node.
    pub name: NodeName,
    /// SHA-256 of its public key, hex: the identity.
    pub key: String,
    /// The machine the credentials were made for.
    pub machine_id: String,
    /// Number of its last session; 0 if there was none yet.
    pub session: u64,
    /// Nonce of its last session.
    pub session_nonce: String,
}

/// A record as it was read, to be replaced only if it is still so.
#[derive(Debug, Clone)]
pub struct Member {
    /// What it says.
    pub record: MemberRecord,
    entry: Entry,
}

/// A token as it was read.
#[derive(Debug, Clone)]
pub struct Token {
    /// What it says.
    pub record: TokenRecord,
    entry: Entry,
}

impl Objects {
    /// The record of a node.
    ///
    /// # Errors
    /// [`ObjectError::Store`] and [`ObjectError::Corrupt`].
    pub async fn member(&self, uid: &Uid) -> Result<Option<Member>, ObjectError> {
        let entry = self.inner.store.get(&keys::member(uid.as_str())).await.map_err(ObjectError::Store)?;
        entry.map(|entry| Ok(Member { record: parse(&entry.key, &entry.value)?, entry })).transpose()
    }

    /// Writes down the node's last session; the record as it is then. Nothing if somebody else wrote it meanwhile.
    ///
    /// Check-pointed, not flushed: a fleet that reconnects would wait for the disk once for each node. A record that is
    /// lost in a crash is an older one, and only makes control notice a copied disk one session later.
    ///
    /// # Errors
    /// [`ObjectError::Store`].
    pub async fn note_session(&self, member: &Member, record: MemberRecord) -> Result<Option<Member>, ObjectError> {
        let value = Bytes::from(serde_json::to_vec(&record).expect("records have string keys only"));
        let key = member.entry.key.clone();
        let write = Write::Put { key, value: value.clone(), persistence: Persistence::Checkpointed };
        match self.write(vec![unchanged(&member.entry)], vec![write]).await {
            Ok(modified) => Ok(Some(Member { record, entry: Entry { value, modified, ..member.entry.clone() } })),
            Err(ObjectError::Store(StoreError::Conflict { .. })) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The same objects in the name of a node's session: nothing is written through it once another one was noted.
    pub fn within(&self, session: &Member) -> Self {
        Self { inner: self.inner.clone(), session: Some(Arc::new(session.entry.clone())) }
    }

    /// Forgets a node: its credentials are worth nothing from now on.
    ///
    /// # Errors
    /// [`ObjectError::Store`].
    pub async fn forget_member(&self, uid: &Uid) -> Result<(), ObjectError> {
        let write = Write::Delete { key: keys::member(uid.as_str()) };
        self.write(Vec::new(), vec![write]).await.map(drop)
    }

    /// A join token by its id.
    ///
    /// # Errors
    /// [`ObjectError::Store`] and [`ObjectError::Corrupt`].
    pub async fn token(&self, id: &str) -> Result<Option<Token>, ObjectError> {
        let entry = self.inner.store.get(&keys::token(id)).await.map_err(ObjectError::Store)?;
        entry.map(|entry| Ok(Token { record: parse(&entry.key, &entry.value)?, entry })).transpose()
    }

    /// Makes a host a node, at once and for good: its record, its Node if it has none yet, and what is left of the
    /// token. `before` is the
    /// record of the same Node, if it has one. False if any of these changed meanwhile.
    ///
    /// # Errors
    /// [`ObjectError::Store`].
    pub async fn join(
        &self,
        token: &Token,
        left: Option<&TokenRecord>,
        before: Option<&Member>,
        member: &MemberRecord,
        node: &Value,
    ) -> Result<bool, ObjectError> {
        let (token_key, member_key) = (token.entry.key.clone(), keys::member(member.uid.as_str()));
        let node_key = keys::object(&NODE, "", meta::name(node));
        let found = self.inner.store.get(&node_key).await.map_err(ObjectError::Store)?;
        let absent = || Condition::Absent { key: member_key.clone() };
        let mut conditions =
            vec![unchanged(&token.entry), before.map_or_else(absent, |before| unchanged(&before.entry))];
        let mut writes = vec![
            record(member_key.clone(), member),
            left.map_or_else(|| Write::Delete { key: token_key.clone() }, |left| record(token_key.clone(), left)),
        ];
        match found {
            // A Node a user made before, or the one of an enrolment whose answer never arrived.
            Some(entry) => {
                let current: Value = parse(&entry.key, &entry.value)?;
                if meta::uid(&current) != member.uid.as_str() {
                    return Ok(false);
                }
                conditions.push(unchanged(&entry));
            }
            None => {
                conditions.push(Condition::Absent { key: node_key.clone() });
                writes.push(put(&NODE, Part::Main, &node_key, node));
            }
        }
        self.commit_if(conditions, writes).await
    }

    pub(super) async fn commit_if(&self, conditions: Vec<Condition>, writes: Vec<Write>) -> Result<bool, ObjectError> {
        match self.write(conditions, writes).await {
            Ok(_) => Ok(true),
            Err(ObjectError::Store(StoreError::Conflict { .. })) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
