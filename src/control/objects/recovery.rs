//! Writing again what a lost store had: objects as they were, with their uids, and the records beside them.
//!
//! Nothing that is here is written over, so that doing it again goes on where it broke off. Each write moves the fleet's
//! position like a user's.

use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use super::records::{Intent, put, record};
use super::{ATTEMPTS, AdmittedRecord, MemberRecord, ObjectError, Objects, PermitRecord, PodIntent, contended, keys};
use crate::control::kinds::{CONTROLLER_REVISION, DAEMON_SET, Kind, NODE, POD};
use crate::control::meta;
use crate::control::registry::{self, Part};
use crate::store::{Condition, Write};

impl Objects {
    /// Whether any node is on record.
    ///
    /// # Errors
    /// [`ObjectError::Store`].
    pub async fn has_members(&self) -> Result<bool, ObjectError> {
        let range = self.inner.store.range(keys::MEMBERS, None, 1, None).await.map_err(ObjectError::Store)?;
        Ok(!range.entries.is_empty())
    }

    /// Writes an object again, complete as it is.
    ///
    /// # Errors
    /// [`ObjectError::Store`] and [`ObjectError::Corrupt`].
    pub async fn recover(&self, kind: &'static Kind, object: &Value) -> Result<(), ObjectError> {
        self.put_anew(kind, object, Vec::new(), || Intent::of(kind)).await
    }

    /// Writes a DaemonSet again, together with the record of its newest revision and what that was admitted as: nobody sees
    /// one without the others, and makes them anew.
    ///
    /// # Errors
    /// [`ObjectError::Store`] and [`ObjectError::Corrupt`].
    pub async fn recover_daemon_set(
        &self,
        set: &Value,
        (revision, admitted): &(Value, AdmittedRecord),
    ) -> Result<(), ObjectError> {
        let (namespace, mut revision) = (meta::namespace(set), revision.clone());
        registry::stamp(&CONTROLLER_REVISION, namespace, &mut revision, &Uuid::new_v4().to_string(), Timestamp::now());
        let key = keys::object(&CONTROLLER_REVISION, namespace, meta::name(&revision));
        let with = vec![
            put(&CONTROLLER_REVISION, Part::Main, &key, &revision),
            record(keys::admitted(admitted.daemonset.as_str(), admitted.revision.as_str()), admitted),
        ];
        self.put_anew(&DAEMON_SET, set, with, || Intent::of(&DAEMON_SET)).await
    }

    /// Writes a posted pod again, with the record that its node has to hear of it.
    ///
    /// # Errors
    /// [`ObjectError::Store`] and [`ObjectError::Corrupt`].
    pub async fn recover_pod(&self, intent: &PodIntent, pod: &Value) -> Result<(), ObjectError> {
        self.put_anew(&POD, pod, Vec::new(), || Intent::Tells(intent.clone())).await
    }

    /// Takes a node on again: its record, and its Node if that is not here. Its credentials are good from then on.
    ///
    /// # Errors
    /// [`ObjectError::Store`] and [`ObjectError::Corrupt`].
    pub async fn recover_node(&self, member: &MemberRecord, node: &Value) -> Result<(), ObjectError> {
        self.put_anew(&NODE, node, Vec::new(), || Intent::of(&NODE)).await?;
        let key = keys::member(member.uid.as_str());
        self.commit_if(vec![Condition::Absent { key: key.clone() }], vec![record(key, member)]).await.map(drop)
    }

    /// Writes the record of a permit again that a node has taken.
    ///
    /// # Errors
    /// [`ObjectError::Store`].
    pub async fn recover_permit(&self, permit: &PermitRecord) -> Result<(), ObjectError> {
        let key = keys::permit(permit.daemonset.as_str(), permit.node.as_str());
        self.commit_if(vec![Condition::Absent { key: key.clone() }], vec![record(key, permit)]).await.map(drop)
    }

    /// Puts an object, and what goes with it, unless there is one of this name.
    async fn put_anew(
        &self,
        kind: &'static Kind,
        object: &Value,
        with: Vec<Write>,
        intent: impl Fn() -> Intent,
    ) -> Result<(), ObjectError> {
        let key = keys::object(kind, meta::namespace(object), meta::name(object));
        for _ in 0..ATTEMPTS {
            if self.inner.store.get(&key).await.map_err(ObjectError::Store)?.is_some() {
                return Ok(());
            }
            let mut writes = vec![put(kind, Part::Main, &key, object)];
            writes.extend(with.iter().cloned());
            let condition = Condition::Absent { key: key.clone() };
            if self.commit(vec![condition], writes, intent()).await?.is_some() {
                return Ok(());
            }
        }
        Err(contended(kind, meta::name(object)))
    }
}
