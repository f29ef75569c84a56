//! Tokens of hosts that join and of users: made, listed and forgotten. Only their hashes are kept.

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::records::{parse, record};
use super::{ObjectError, Objects, keys};
use crate::control::tokens::{self, Allowance, TokenRecord};
use crate::control::user_tokens::{self, UserTokenRecord};
use crate::link::JoinToken;
use crate::link::tls::KeyPin;
use crate::store::{Entry, Write};

impl Objects {
    /// Makes a join token that names this authority, and keeps its record.
    ///
    /// # Errors
    /// [`ObjectError::Store`].
    pub async fn make_token(&self, authority: KeyPin, allowance: Allowance) -> Result<JoinToken, ObjectError> {
        let (token, kept) = tokens::mint(authority, random(), allowance, Timestamp::now());
        self.write_token(record(keys::token(&token.id), &kept)).await?;
        Ok(token)
    }

    /// Makes a token for a user of these groups, and keeps its record. Gives the whole of it.
    ///
    /// # Errors
    /// [`ObjectError::Store`].
    pub async fn make_user_token(
        &self,
        user: &str,
        groups: &[String],
        expires_at: Timestamp,
    ) -> Result<String, ObjectError> {
        let (token, id, kept) = user_tokens::mint(user, groups, expires_at, random());
        self.write_token(record(keys::user_token(&id), &kept)).await?;
        Ok(token)
    }

    /// A user's token by its id.
    ///
    /// # Errors
    /// [`ObjectError::Store`] and [`ObjectError::Corrupt`].
    pub async fn user_token(&self, id: &str) -> Result<Option<UserTokenRecord>, ObjectError> {
        let entry = self.inner.store.get(&keys::user_token(id)).await.map_err(ObjectError::Store)?;
        entry.map(|entry| parse(&entry.key, &entry.value)).transpose()
    }

    /// Every user's token, by id.
    ///
    /// # Errors
    /// [`ObjectError::Store`] and [`ObjectError::Corrupt`].
    pub async fn user_tokens(&self) -> Result<Vec<(String, UserTokenRecord)>, ObjectError> {
        self.records_below(keys::USER_TOKENS).await
    }

    /// Every join token, by id.
    ///
    /// # Errors
    /// [`ObjectError::Store`] and [`ObjectError::Corrupt`].
    pub async fn tokens(&self) -> Result<Vec<(String, TokenRecord)>, ObjectError> {
        self.records_below(keys::TOKENS).await
    }

    /// Forgets a user's token: it is good for nothing from now on. False if there is none.
    ///
    /// # Errors
    /// [`ObjectError::Store`].
    pub async fn forget_user_token(&self, id: &str) -> Result<bool, ObjectError> {
        self.forget(keys::user_token(id)).await
    }

    /// Forgets a join token: nobody joins with it from now on. False if there is none.
    ///
    /// # Errors
    /// [`ObjectError::Store`].
    pub async fn forget_token(&self, id: &str) -> Result<bool, ObjectError> {
        self.forget(keys::token(id)).await
    }

    async fn records_below<T: DeserializeOwned>(&self, prefix: &str) -> Result<Vec<(String, T)>, ObjectError> {
        let range = self.inner.store.range(prefix, None, 0, None).await.map_err(ObjectError::Store)?;
        let read =
            |entry: &Entry| Ok((entry.key.trim_start_matches(prefix).to_owned(), parse(&entry.key, &entry.value)?));
        range.entries.iter().map(read).collect()
    }

    async fn write_token(&self, write: Write) -> Result<(), ObjectError> {
        self.write(Vec::new(), vec![write]).await.map(drop)
    }

    async fn forget(&self, key: String) -> Result<bool, ObjectError> {
        let found = self.inner.store.get(&key).await.map_err(ObjectError::Store)?.is_some();
        self.write_token(Write::Delete { key }).await?;
        Ok(found)
    }
}

/// As many random bytes as the longest token needs.
fn random() -> [u8; 48] {
    let mut random = [0; 48];
    for part in random.chunks_mut(16) {
        part.copy_from_slice(Uuid::new_v4().as_bytes());
    }
    random
}
