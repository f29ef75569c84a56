//! Where everything lives in the store. Part of the store's format: version 1, frozen.
//!
//! | key | value |
//! |---|---|
//! | `/v1/{group}/{plural}/{namespace}/{name}` | a namespaced object; the core group is written `core` |
//! | `/v1/{group}/{plural}/{name}` | a cluster-scoped object |
//! | `/v1/_meta/position` | [`Position`](crate::model::Position): how far user intent has moved |
//! | `/v1/_meta/fleet` | [`FleetRecord`](super::FleetRecord): the fleet's id and eras |
//! | `/v1/_meta/members/{Node uid}` | [`MemberRecord`](super::MemberRecord): a node's credentials and last session |
//! | `/v1/_meta/tokens/{id}` | [`TokenRecord`](crate::control::tokens::TokenRecord): a join token |
//! | `/v1/_meta/user-tokens/{id}` | [`UserTokenRecord`](crate::control::user_tokens::UserTokenRecord): a user's bearer token |
//! | `/v1/_meta/permits/{DaemonSet uid}/{Node uid}` | [`PermitRecord`](super::PermitRecord) |
//! | `/v1/_meta/permit` | [`PermitNumber`](crate::model::PermitNumber): the last one given out |
//! | `/v1/_meta/admitted/{DaemonSet uid}/{revision}` | [`AdmittedRecord`](super::AdmittedRecord) |
//! | `/v1/_meta/pods/{Pod uid}` | [`PodIntent`](super::PodIntent): what there is to tell of a pod |
//! | `/v1/_meta/tombstones/{uid}` | [`Tombstone`](super::Tombstone): a deletion nodes have not all acknowledged |
//! | `/v1/_meta/buried/{uid}` | [`Tombstone`](super::Tombstone): the deletion of a DaemonSet that all nodes have |
//! | `/v1/_meta/buried-pods/{uid}` | [`Tombstone`](super::Tombstone): the deletion of a pod that its node has carried out |
//!
//! An object's value is its JSON with `apiVersion` and `kind` but without `metadata.resourceVersion`: that is the
//! revision of the entry. Names contain no `/`, so keys sort by namespace and name, as lists must be.

use crate::control::kinds::Kind;

/// Above every key of this format.
pub const ROOT: &str = "/v1/";
/// The record of the fleet's position.
pub const POSITION: &str = "/v1/_meta/position";
/// The record of the fleet.
pub const FLEET: &str = "/v1/_meta/fleet";
/// The last permit's number.
pub const LAST_PERMIT: &str = "/v1/_meta/permit";
/// Above every node's record.
pub const MEMBERS: &str = "/v1/_meta/members/";
/// Above every join token.
pub const TOKENS: &str = "/v1/_meta/tokens/";
/// Above every user's token.
pub const USER_TOKENS: &str = "/v1/_meta/user-tokens/";
/// Above every permit.
pub const PERMITS: &str = "/v1/_meta/permits/";
/// Above every admitted revision.
pub const ADMITTED: &str = "/v1/_meta/admitted/";
/// Above everything there is to tell of pods.
pub const PODS: &str = "/v1/_meta/pods/";
/// Above every tombstone.
pub const TOMBSTONES: &str = "/v1/_meta/tombstones/";
/// Above every deletion that all nodes have confirmed.
pub const BURIED: &str = "/v1/_meta/buried/";
/// Above every deletion of a pod that its node has carried out.
pub const BURIED_PODS: &str = "/v1/_meta/buried-pods/";

/// Above all objects of a kind, or of a kind in one namespace.
pub fn prefix(kind: &Kind, namespace: Option<&str>) -> String {
    let group = if kind.group.is_empty() { "core" } else { kind.group };
    match namespace {
        Some(namespace) => format!("{ROOT}{group}/{}/{namespace}/", kind.plural),
        None => format!("{ROOT}{group}/{}/", kind.plural),
    }
}

/// One object's key. `namespace` is ignored for cluster-scoped kinds.
pub fn object(kind: &Kind, namespace: &str, name: &str) -> String {
    prefix(kind, kind.namespaced.then_some(namespace)) + name
}

/// The key of a node's record.
pub fn member(uid: &str) -> String {
    format!("{MEMBERS}{uid}")
}

/// The key of a join token.
pub fn token(id: &str) -> String {
    format!("{TOKENS}{id}")
}

/// The key of a user's token.
pub fn user_token(id: &str) -> String {
    format!("{USER_TOKENS}{id}")
}

/// One permit's key.
pub fn permit(daemonset: &str, node: &str) -> String {
    format!("{PERMITS}{daemonset}/{node}")
}

/// One admitted revision's key.
pub fn admitted(daemonset: &str, revision: &str) -> String {
    format!("{ADMITTED}{daemonset}/{revision}")
}

/// The key of what there is to tell of one pod.
pub fn pod(uid: &str) -> String {
    format!("{PODS}{uid}")
}

/// One tombstone's key.
pub fn tombstone(uid: &str) -> String {
    format!("{TOMBSTONES}{uid}")
}

/// The key of a deletion that all nodes have confirmed.
pub fn buried(uid: &str) -> String {
    format!("{BURIED}{uid}")
}

/// The key of a deletion of a pod that its node has carried out.
pub fn buried_pod(uid: &str) -> String {
    format!("{BURIED_PODS}{uid}")
}
