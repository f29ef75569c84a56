//! The records of users' bearer tokens.

use super::records::{parse, record};
use super::{ObjectError, Objects, keys};
use crate::control::user_tokens::UserTokenRecord;
use crate::store::Write;

impl Objects {
    /// A user's token by its id.
    ///
    /// # Errors
    /// [`ObjectError::Store`] and [`ObjectError::Corrupt`].
    pub async fn user_token(&self, id: &str) -> Result<Option<UserTokenRecord>, ObjectError> {
        let entry = self.inner.store.get(&keys::user_token(id)).await.map_err(ObjectError::Store)?;
        entry.map(|entry| parse(&entry.key, &entry.value)).transpose()
    }

    /// Keeps a user's new token.
    ///
    /// # Errors
    /// [`ObjectError::Store`].
    pub async fn put_user_token(&self, id: &str, token: &UserTokenRecord) -> Result<(), ObjectError> {
        let write = record(keys::user_token(id), token);
        self.inner.store.commit(Vec::new(), vec![write]).await.map(drop).map_err(ObjectError::Store)
    }

    /// Every user's token, by id.
    ///
    /// # Errors
    /// [`ObjectError::Store`] and [`ObjectError::Corrupt`].
    pub async fn user_tokens(&self) -> Result<Vec<(String, UserTokenRecord)>, ObjectError> {
        let range = self.inner.store.range(keys::USER_TOKENS, None, 0, None).await.map_err(ObjectError::Store)?;
        let read = |entry: &crate::store::Entry| {
            let id = entry.key.trim_start_matches(keys::USER_TOKENS).to_owned();
            Ok((id, parse(&entry.key, &entry.value)?))
        };
        range.entries.iter().map(read).collect()
    }

    /// Forgets a user's token: it is good for nothing from now on. False if there is none.
    ///
    /// # Errors
    /// [`ObjectError::Store`] and [`ObjectError::Corrupt`].
    pub async fn forget_user_token(&self, id: &str) -> Result<bool, ObjectError> {
        let found = self.user_token(id).await?.is_some();
        let write = Write::Delete { key: keys::user_token(id) };
        self.inner.store.commit(Vec::new(), vec![write]).await.map_err(ObjectError::Store)?;
        Ok(found)
    }
}
