//! The records of permits: which node may move which DaemonSet to which revision (design: permits).
//!
//! A record is written before a node hears of its permit, and kept until a newer one takes its place, the node says that it
//! did not take it, or node or DaemonSet are gone. Whether its slot is free again follows from the node's reports.

use serde::{Deserialize, Serialize};

use super::records::{parse, record};
use super::{ObjectError, Objects, keys};
use crate::model::{PermitNumber, RevisionHash, Uid};
use crate::store::{Condition, Entry, StoreError, Write};

/// One permit as the store keeps it. Part of the store's format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PermitRecord {
    /// Unique in the fleet for ever.
    pub number: PermitNumber,
    /// `metadata.uid` of the DaemonSet.
    pub daemonset: Uid,
    /// `metadata.uid` of the Node.
    pub node: Uid,
    /// The revision the node may move to.
    pub revision: RevisionHash,
}

impl Objects {
    /// Every permit there is a record of.
    ///
    /// # Errors
    /// [`ObjectError::Store`] and [`ObjectError::Corrupt`].
    pub async fn permits(&self) -> Result<Vec<PermitRecord>, ObjectError> {
        let range = self.inner.store.range(keys::PERMITS, None, 0, None).await.map_err(ObjectError::Store)?;
        range.entries.iter().map(|entry| parse(&entry.key, &entry.value)).collect()
    }

    /// Writes permits with the fleet's next numbers, one for each of `nodes`, in place of those that they had for the
    /// DaemonSet; all in one commit.
    ///
    /// # Errors
    /// [`ObjectError::Store`]; also when somebody else granted at the same time, then nothing was written.
    pub async fn grant(
        &self,
        daemonset: &Uid,
        nodes: &[Uid],
        revision: &RevisionHash,
    ) -> Result<Vec<PermitRecord>, ObjectError> {
        let last = self.inner.store.get(keys::LAST_PERMIT).await.map_err(ObjectError::Store)?;
        let used = match &last {
            Some(entry) => parse::<PermitNumber>(&entry.key, &entry.value)?.0,
            None => 0,
        };
        let permit = |(number, node): (u64, &Uid)| PermitRecord {
            number: PermitNumber(number),
            daemonset: daemonset.clone(),
            node: node.clone(),
            revision: revision.clone(),
        };
        let permits: Vec<_> = (used + 1..).zip(nodes).map(permit).collect();
        let Some(highest) = permits.last().map(|permit| permit.number) else { return Ok(permits) };
        let of_node = |permit: &PermitRecord| record(keys::permit(daemonset.as_str(), permit.node.as_str()), permit);
        let number = std::iter::once(record(keys::LAST_PERMIT.to_owned(), &highest));
        let writes = number.chain(permits.iter().map(of_node)).collect();
        self.write(vec![condition(last.as_ref())], writes).await?;
        Ok(permits)
    }

    /// Takes permits back: they were not taken, or what they were for is gone. One that was replaced meanwhile stays.
    ///
    /// # Errors
    /// [`ObjectError::Store`] and [`ObjectError::Corrupt`].
    pub async fn drop_permits(&self, permits: &[PermitRecord]) -> Result<(), ObjectError> {
        for permit in permits {
            let key = keys::permit(permit.daemonset.as_str(), permit.node.as_str());
            let Some(entry) = self.inner.store.get(&key).await.map_err(ObjectError::Store)? else { continue };
            if parse::<PermitRecord>(&entry.key, &entry.value)? != *permit {
                continue;
            }
            let condition = Condition::ModifiedAt { key: key.clone(), revision: entry.modified };
            match self.write(vec![condition], vec![Write::Delete { key }]).await {
                Ok(_) | Err(ObjectError::Store(StoreError::Conflict { .. })) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Numbers are given out by one writer at a time.
fn condition(last: Option<&Entry>) -> Condition {
    match last {
        Some(entry) => Condition::ModifiedAt { key: entry.key.clone(), revision: entry.modified },
        None => Condition::Absent { key: keys::LAST_PERMIT.to_owned() },
    }
}
