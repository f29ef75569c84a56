//! Deletions that nodes have carried out, remembered for a node whose disk is put back to before: of DaemonSets, when every node
//! has confirmed them, and of single pods, also of those that their nodes have ended by themselves.
//!
//! Without a record such a node would keep what it runs: a stop needs one.

use super::records::{Intent, Tombstone, parse, record};
use super::{ATTEMPTS, ObjectError, Objects, contended, keys};
use crate::control::kinds::{DAEMON_SET, POD};
use crate::model::{ObjectKey, Uid};
use crate::store::{Entry, Range, Write};

/// How many are kept, of DaemonSets and of pods, the latest: some hundred bytes each. A disk older than so many deletions is a case
/// for a person.
const KEPT: usize = 4096;

impl Objects {
    /// Every node has confirmed these deletions of DaemonSets: nobody has to be told any more, but by asking. Those that are buried
    /// already stay so.
    ///
    /// # Errors
    /// [`ObjectError::Store`] and [`ObjectError::Corrupt`].
    pub async fn bury(&self, confirmed: &[&Tombstone]) -> Result<(), ObjectError> {
        self.bury_keeping(confirmed, KEPT).await
    }

    async fn bury_keeping(&self, confirmed: &[&Tombstone], kept: usize) -> Result<(), ObjectError> {
        let mut unburied = Vec::new();
        for deletion in confirmed {
            if self.tombstone(&deletion.uid).await?.is_some() {
                unburied.push(deletion);
            }
        }
        if unburied.is_empty() {
            return Ok(());
        }
        let mut writes = self.outdated(keys::BURIED, unburied.len(), kept).await?;
        for deletion in unburied {
            writes.push(Write::Delete { key: keys::tombstone(deletion.uid.as_str()) });
            writes.push(record(keys::buried(deletion.uid.as_str()), deletion));
        }
        self.write(Vec::new(), writes).await.map(drop)
    }

    /// The writes that drop a tombstone which was acted on, if there is one. A pod's is remembered.
    ///
    /// # Errors
    /// [`ObjectError::Store`] and [`ObjectError::Corrupt`].
    pub(super) async fn without_tombstone(&self, uid: &Uid) -> Result<Vec<Write>, ObjectError> {
        let Some(deletion) = self.tombstone(uid).await? else { return Ok(Vec::new()) };
        let mut writes = vec![Write::Delete { key: keys::tombstone(uid.as_str()) }];
        if deletion.kind == POD.kind {
            writes.extend(self.remembering(&deletion).await?);
        }
        Ok(writes)
    }

    /// The writes that remember the end of a pod.
    ///
    /// # Errors
    /// [`ObjectError::Store`] and [`ObjectError::Corrupt`].
    pub(super) async fn remembering(&self, end: &Tombstone) -> Result<Vec<Write>, ObjectError> {
        let mut writes = self.outdated(keys::BURIED_PODS, 1, KEPT).await?;
        writes.push(record(keys::buried_pod(end.uid.as_str()), end));
        Ok(writes)
    }

    async fn tombstone(&self, uid: &Uid) -> Result<Option<Tombstone>, ObjectError> {
        self.deletion(keys::tombstone(uid.as_str())).await
    }

    async fn deletion(&self, key: String) -> Result<Option<Tombstone>, ObjectError> {
        let entry = self.inner.store.get(&key).await.map_err(ObjectError::Store)?;
        entry.map(|entry| parse(&entry.key, &entry.value)).transpose()
    }

    /// What makes room below `prefix` for `added` records: those written first go. An entry is written once.
    async fn outdated(&self, prefix: &str, added: usize, kept: usize) -> Result<Vec<Write>, ObjectError> {
        let Range { mut entries, .. } =
            self.inner.store.range(prefix, None, 0, None).await.map_err(ObjectError::Store)?;
        entries.sort_by_key(|entry| entry.modified);
        let surplus = (entries.len() + added).saturating_sub(kept);
        Ok(entries.into_iter().take(surplus).map(|Entry { key, .. }| Write::Delete { key }).collect())
    }

    /// The deletion of a DaemonSet that every node there was had confirmed, if it is remembered.
    ///
    /// # Errors
    /// [`ObjectError::Store`] and [`ObjectError::Corrupt`].
    pub async fn buried(&self, uid: &Uid) -> Result<Option<Tombstone>, ObjectError> {
        self.deletion(keys::buried(uid.as_str())).await
    }

    /// The deletion of a pod that its node had carried out, if it is remembered.
    ///
    /// # Errors
    /// [`ObjectError::Store`] and [`ObjectError::Corrupt`].
    pub async fn buried_pod(&self, uid: &Uid) -> Result<Option<Tombstone>, ObjectError> {
        self.deletion(keys::buried_pod(uid.as_str())).await
    }

    /// Puts the deletion of a DaemonSet on record that is not in the API: a person says that what nodes hold of it is to
    /// end.
    ///
    /// # Errors
    /// [`ObjectError::Store`] and [`ObjectError::Corrupt`].
    pub async fn delete_unknown(&self, key: &ObjectKey, uid: &Uid) -> Result<(), ObjectError> {
        let deletion = Tombstone {
            kind: DAEMON_SET.kind.to_owned(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            uid: uid.clone(),
            seq: 0,
            node: None,
            grace_period_seconds: None,
        };
        for _ in 0..ATTEMPTS {
            if self.commit(Vec::new(), Vec::new(), Intent::Deletes(deletion.clone())).await?.is_some() {
                return Ok(());
            }
        }
        Err(contended(&DAEMON_SET, &key.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Memory;

    #[tokio::test]
    async fn the_latest_deletions_are_remembered_when_nobody_has_to_be_told_any_more() {
        let objects = Objects::open(Memory::new()).await.unwrap();
        for uid in ["a", "b", "c"] {
            objects.delete_unknown(&ObjectKey::new("default", uid), &uid.into()).await.unwrap();
            let (tombstones, _) = objects.tombstones().await.unwrap();
            assert_eq!(objects.buried(&uid.into()).await.unwrap(), None);
            objects.bury_keeping(&[&tombstones[0]], 2).await.unwrap();
            assert_eq!(objects.buried(&uid.into()).await.unwrap().as_ref(), tombstones.first());
            assert_eq!(objects.tombstones().await.unwrap().0, []);
        }
        let names = async |uid: &str| objects.buried(&uid.into()).await.unwrap().map(|one| one.name);
        assert_eq!([names("a").await, names("b").await], [None, Some("b".to_owned())]);
    }
}
