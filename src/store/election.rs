//! Choosing one leader among several processes: a key that exists while its leader's lease lasts.
//!
//! Works on any [`Store`], with nothing but its contract. Being leader is not a fact one can act on, only a condition
//! one can commit under: whatever a leader writes in its name carries [`Leadership::condition`], so that a leader
//! that lost its lease without noticing changes nothing any more.

use bytes::Bytes;
use futures_util::StreamExt;

use super::{Change, Condition, LeaseId, Persistence, Revision, Store, StoreError, Write};

/// Says that its holder was elected, and how to prove that it still is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leadership {
    key: String,
    elected: Revision,
}

/// The key that holds who leads `name`: its value is the leader's `candidate`.
pub fn key(name: &str) -> String {
    format!("elections/{name}/leader")
}

/// Waits until this process leads `name`, under `lease`. `candidate` says to others who leads, in whatever form.
///
/// Leadership ends when the lease does or by [`Leadership::resign`]; watch [`key`] to notice. Candidates are not
/// served in the order they came. Campaigning again under the same lease waits for oneself.
///
/// # Errors
/// [`StoreError::LeaseEnded`], noticed when it would be this process's turn; [`StoreError::Closed`],
/// [`StoreError::Backend`].
pub async fn campaign(
    store: &dyn Store,
    name: &str,
    candidate: Bytes,
    lease: LeaseId,
) -> Result<Leadership, StoreError> {
    let key = key(name);
    loop {
        let absent = Condition::Absent { key: key.clone() };
        let persistence = Persistence::Leased(lease);
        let put = Write::Put { key: key.clone(), value: candidate.clone(), persistence };
        match store.commit(vec![absent], vec![put]).await {
            Ok(elected) => return Ok(Leadership { key, elected }),
            Err(StoreError::Conflict { .. }) => until_free(store, &key).await?,
            Err(error) => return Err(error),
        }
    }
}

/// Waits until there may be no leader.
async fn until_free(store: &dyn Store, key: &str) -> Result<(), StoreError> {
    let now = store.range(key, None, 1, None).await?;
    if now.entries.is_empty() {
        return Ok(());
    }
    let mut changes = match store.watch(key, now.revision).await {
        Err(StoreError::Compacted { .. }) => return Ok(()),
        watch => watch?,
    };
    loop {
        match changes.next().await {
            Some(Ok(Change::Put { .. } | Change::Progress { .. })) => {}
            Some(Ok(Change::Delete { .. }) | Err(StoreError::Lagged)) | None => return Ok(()),
            Some(Err(error)) => return Err(error),
        }
    }
}

impl Leadership {
    /// Holds as long as nobody else can have been elected since.
    pub fn condition(&self) -> Condition {
        Condition::ModifiedAt { key: self.key.clone(), revision: self.elected }
    }

    /// Makes room for another leader at once; nothing happens if leadership is lost already.
    ///
    /// # Errors
    /// [`StoreError::Closed`], [`StoreError::Backend`].
    pub async fn resign(self, store: &dyn Store) -> Result<(), StoreError> {
        match store.commit(vec![self.condition()], vec![Write::Delete { key: self.key }]).await {
            Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
