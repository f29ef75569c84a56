//! The control endpoint: Kubernetes' REST API for people and tools, gRPC sessions for agents, one store below both.
//!
//! [`objects`] is the only way to the store: REST handlers and control's own loops read and write API objects through
//! it. What a write means for a kind is decided by the pure [`registry`]; which kinds there are says [`kinds`].

pub mod bearer;
pub mod belongings;
pub mod collector;
pub mod endpoint;
mod events;
pub mod holds;
pub mod kinds;
pub mod meta;
mod nodes;
pub mod objects;
pub mod ownership;
pub mod rbac;
pub mod recovery;
pub mod registry;
pub mod remote;
pub mod removal;
pub mod rest;
pub mod sessions;
pub mod shape;
pub mod signer;
pub mod streams;
pub mod tokens;
pub mod updates;
pub mod user_tokens;
