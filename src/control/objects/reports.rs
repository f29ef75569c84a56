//! Control's own writes: what nodes report and what control works out. No defaults, no rules, no move of the position.

use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use super::records::{Intent, ending, put, tombstone, unchanged, with_revision};
use super::writes::check_same;
use super::{ATTEMPTS, ObjectError, Objects, Tombstone, contended, keys};
use crate::control::kinds::{Kind, POD, STATUS};
use crate::control::meta;
use crate::control::registry::{self, Part};
use crate::control::removal;
use crate::model::Uid;
use crate::store::{Condition, StoreError, Write};

impl Objects {
    /// Writes what control or a node knows: no defaults, no rules, no move of the position.
    ///
    /// `change` gets the current object, or nothing, and gives the new one, again for each try; nothing leaves it as it
    /// is. A new object that comes with a uid is written as it is, others get what the server sets. New pods, and
    /// changes of kinds with a status, are check-pointed; the rest is as persistent as its kind.
    ///
    /// # Errors
    /// [`ObjectError::Conflict`] if the new object is not the one that is there, by its uid;
    /// [`ObjectError::Deleted`] if the new object's uid has a tombstone: a pod deleted by force does not come back.
    pub async fn report(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        change: impl Fn(Option<&Value>) -> Option<Value>,
    ) -> Result<Option<Value>, ObjectError> {
        let key = keys::object(kind, namespace, name);
        for _ in 0..ATTEMPTS {
            let (entry, current) = self.find(&key).await?.unzip();
            let Some(mut object) = change(current.as_ref()) else { return Ok(current) };
            if let Some(current) = &current {
                check_same(kind, &object, current)?;
            }
            let condition = match &entry {
                Some(entry) => Condition::ModifiedAt { key: key.clone(), revision: entry.modified },
                None => {
                    // What a node minted is complete: its uid, and when it was made.
                    if meta::uid(&object).is_empty() {
                        let uid = Uuid::new_v4().to_string();
                        registry::stamp(kind, namespace, &mut object, &uid, Timestamp::now());
                    }
                    Condition::Absent { key: key.clone() }
                }
            };
            if current.as_ref() == Some(&object) {
                return Ok(current);
            }
            let buried = keys::tombstone(meta::uid(&object));
            let mut conditions = vec![condition];
            if entry.is_none() {
                conditions.push(Condition::Absent { key: buried.clone() });
            }
            // A pod is known to its node; anything else that is new is known here only.
            let is_known = entry.is_some() || *kind == POD;
            let part = if is_known && kind.subresource(STATUS).is_some() { Part::Status } else { Part::Main };
            match self.write(conditions, vec![put(kind, part, &key, &object)]).await {
                Ok(revision) => return Ok(Some(with_revision(object, revision))),
                Err(ObjectError::Store(StoreError::Conflict { key })) if key == buried => {
                    return Err(ObjectError::Deleted { kind, name: name.to_owned() });
                }
                Err(ObjectError::Store(StoreError::Conflict { .. })) => {}
                Err(error) => return Err(error),
            }
        }
        Err(contended(kind, name))
    }

    /// Takes an object away because what it stood for is gone: a pod on its node's word, a dependent of a deleted
    /// owner.
    ///
    /// Does nothing if the object is gone already or has another uid. An object with finalizers of users is marked and
    /// stays until they are taken off. A pod's tombstone goes with it.
    ///
    /// # Errors
    /// [`ObjectError::Store`] and [`ObjectError::Corrupt`].
    pub async fn remove(&self, kind: &'static Kind, namespace: &str, name: &str, uid: &Uid) -> Result<(), ObjectError> {
        let key = keys::object(kind, namespace, name);
        for _ in 0..ATTEMPTS {
            let found = self.find(&key).await?.filter(|(_, object)| meta::uid(object) == uid.as_str());
            let Some((entry, current)) = found else {
                return self.acknowledge(uid).await;
            };
            let done = if meta::finalizers(&current).next().is_none() {
                let mut writes = vec![Write::Delete { key: entry.key.clone() }];
                let mut intent = Intent::None;
                if *kind == POD {
                    let deletion = self.without_tombstone(uid).await?;
                    // Its node was told that there is this pod, and is not to be told so again.
                    if self.posted(&current).await?.is_some() {
                        intent = Intent::Moves;
                        if deletion.is_empty() {
                            let seq = self.position().borrow().seq;
                            writes.extend(self.remembering(&Tombstone { seq, ..tombstone(kind, &current, 0) }).await?);
                        }
                    }
                    writes.extend(deletion);
                    writes.push(Write::Delete { key: keys::pod(uid.as_str()) });
                }
                self.commit(vec![unchanged(&entry)], writes, intent).await?
            } else {
                if removal::is_over(&current) {
                    return self.acknowledge(uid).await;
                }
                let marked = removal::mark(current.clone(), 0, Timestamp::now());
                let mut writes = vec![ending(put(kind, Part::Main, &key, &marked))];
                writes.extend(self.without_tombstone(uid).await?);
                self.commit(vec![unchanged(&entry)], writes, Intent::None).await?
            };
            if done.is_some() {
                return Ok(());
            }
        }
        Err(contended(kind, name))
    }

    /// Drops a tombstone: every node it concerns has acted on it.
    ///
    /// # Errors
    /// [`ObjectError::Store`] and [`ObjectError::Corrupt`].
    pub async fn acknowledge(&self, uid: &Uid) -> Result<(), ObjectError> {
        let writes = self.without_tombstone(uid).await?;
        if !writes.is_empty() {
            self.write(Vec::new(), writes).await?;
        }
        Ok(())
    }
}
