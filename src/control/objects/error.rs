//! Why an object was not read or written.

use crate::api::field::{FieldError, aggregate};
use crate::control::kinds::Kind;
use crate::store::{Revision, StoreError};

/// Why an object was not read or written. The text is the `message` of the `Status` users see, in Kubernetes' words.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// No such object.
    #[error("{} \"{name}\" not found", kind.resource())]
    NotFound {
        /// Of this kind.
        kind: &'static Kind,
        /// With this name.
        name: String,
    },
    /// The name to create is taken.
    #[error("{} \"{name}\" already exists", kind.resource())]
    AlreadyExists {
        /// Of this kind.
        kind: &'static Kind,
        /// With this name.
        name: String,
    },
    /// The object is not any more what the caller took it for.
    #[error("Operation cannot be fulfilled on {} \"{name}\": {reason}", kind.resource())]
    Conflict {
        /// Of this kind.
        kind: &'static Kind,
        /// With this name.
        name: String,
        /// What does not hold.
        reason: String,
    },
    /// A precondition of a deletion does not hold.
    #[error("Operation cannot be fulfilled on {} \"{name}\": {reason}", kind.qualified())]
    Precondition {
        /// Of this kind.
        kind: &'static Kind,
        /// With this name.
        name: String,
        /// What does not hold.
        reason: String,
    },
    /// The object breaks rules of its kind.
    #[error("{} \"{name}\" is invalid: {}", kind.qualified(), aggregate(errors))]
    Invalid {
        /// Of this kind.
        kind: &'static Kind,
        /// With this name.
        name: String,
        /// At least one, in the order of the rules.
        errors: Vec<FieldError>,
    },
    /// The object may not be written in this way, by anybody.
    #[error("{} \"{name}\" is forbidden: {reason}", kind.resource())]
    Forbidden {
        /// Of this kind.
        kind: &'static Kind,
        /// With this name.
        name: String,
        /// Why.
        reason: String,
    },
    /// Content cannot be created in a namespace on its way out.
    #[error(
        "{} \"{name}\" is forbidden: unable to create new content in namespace {namespace} because it is being terminated",
        kind.resource()
    )]
    NamespaceTerminating {
        /// Of this kind.
        kind: &'static Kind,
        /// With this name.
        name: String,
        /// In this namespace.
        namespace: String,
    },
    /// The request makes no sense.
    #[error("{0}")]
    BadRequest(String),
    /// What a list asks for is not kept any more; it has to start again.
    #[error("{0}")]
    Expired(String),
    /// A list asks for a revision that did not come in time.
    #[error("Too large resource version: {asked}, current: {current}")]
    Future {
        /// What was asked.
        asked: Revision,
        /// What there is.
        current: Revision,
    },
    /// The object was deleted by force and what is written now is a node's old news.
    #[error("{} \"{name}\" was deleted", kind.resource())]
    Deleted {
        /// Of this kind.
        kind: &'static Kind,
        /// With this name.
        name: String,
    },
    /// What a node says in a session is not written once it has begun another.
    #[error("the node has begun another session")]
    Superseded,
    /// The store failed or holds something unreadable.
    #[error("the store failed")]
    Store(#[source] StoreError),
    /// A record in the store is not what this version writes.
    #[error("the store's record {key} cannot be read")]
    Corrupt {
        /// The record's key.
        key: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}
