//! Lists, in pages that belong together.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::records::render;
use super::{ObjectError, keys};
use crate::control::kinds::Kind;
use crate::store::{Revision, Store, StoreError};

/// How many entries are read at a time while objects are picked by a selector.
const CHUNK: usize = 500;

/// What to list.
#[derive(Clone, Copy)]
pub struct ListOptions<'a> {
    /// Only this namespace.
    pub namespace: Option<&'a str>,
    /// Only objects for which this holds.
    pub matches: &'a (dyn Fn(&Value) -> bool + Send + Sync),
    /// At most so many; 0 is all.
    pub limit: usize,
    /// [`List::next`] of the page before. It fixes the revision.
    pub next: Option<&'a str>,
    /// As of exactly this revision.
    pub at: Option<Revision>,
    /// As of this revision or a later one.
    pub not_before: Revision,
}

/// Objects as of one revision.
#[derive(Debug, Clone, PartialEq)]
pub struct List {
    /// Ordered by namespace and name.
    pub items: Vec<Value>,
    /// What all pages are true at, and where a watch goes on from.
    pub revision: Revision,
    /// Asks for the next page; none if this was the last.
    pub next: Option<String>,
}

/// Where a list goes on: opaque to clients.
#[derive(Serialize, Deserialize)]
struct Token {
    revision: u64,
    after: String,
}

impl Default for ListOptions<'_> {
    /// Everything, now.
    fn default() -> Self {
        Self { namespace: None, matches: &|_| true, limit: 0, next: None, at: None, not_before: Revision(0) }
    }
}

/// Reads one page.
pub async fn list(store: &dyn Store, kind: &Kind, options: ListOptions<'_>) -> Result<List, ObjectError> {
    let prefix = keys::prefix(kind, options.namespace.filter(|_| kind.namespaced));
    let token = options.next.map(|token| decode(token, &prefix)).transpose()?;
    let (mut at, mut after) = match token {
        Some(token) => (Some(Revision(token.revision)), Some(token.after)),
        None => (options.at, None),
    };
    let mut items = Vec::new();
    loop {
        let wanted = if options.limit == 0 { 0 } else { CHUNK.max(options.limit) };
        let range =
            store.range(&prefix, after.as_deref(), wanted, at).await.map_err(|error| too_old(error, &options))?;
        at = Some(range.revision);
        for entry in &range.entries {
            if options.limit != 0 && items.len() == options.limit {
                // `after` is the last object of this page: there is at least this entry, though it may not match.
                let token = Token { revision: range.revision.0, after: after.unwrap_or_default() };
                return Ok(List { items, revision: range.revision, next: Some(encode(&token)) });
            }
            let object = render(entry)?;
            if (options.matches)(&object) {
                items.push(object);
            }
            after = Some(entry.key.clone());
        }
        if !range.more {
            return Ok(List { items, revision: range.revision, next: None });
        }
    }
}

fn encode(token: &Token) -> String {
    BASE64.encode(serde_json::to_vec(token).expect("a number and a string are JSON"))
}

fn decode(token: &str, prefix: &str) -> Result<Token, ObjectError> {
    let bytes = BASE64.decode(token).ok();
    let token = bytes.and_then(|bytes| serde_json::from_slice::<Token>(&bytes).ok());
    token
        .filter(|token| token.after.starts_with(prefix))
        .ok_or_else(|| ObjectError::BadRequest("continue key is not valid".to_owned()))
}

fn too_old(error: StoreError, options: &ListOptions<'_>) -> ObjectError {
    match error {
        StoreError::Compacted { .. } if options.next.is_some() => ObjectError::Expired(
            "The provided continue parameter is too old to display a consistent list result. You must start a new list \
             without the continue parameter."
                .to_owned(),
        ),
        StoreError::Compacted { .. } => {
            ObjectError::Expired("The resourceVersion for the provided list is too old.".to_owned())
        }
        StoreError::Future { asked, last: current } => ObjectError::Future { asked, current },
        error => ObjectError::Store(error),
    }
}
