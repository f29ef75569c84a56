//! From messages to the link's types. Pure, and the one place where what arrives is checked.
//!
//! Sizes of whole messages are bounded before they get here (`MAX_UP_BYTES`, `MAX_DOWN_BYTES`).

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;

use super::*;
use crate::model::{BlobHash, Position, RevisionHash, Taint, TaintEffect, Uid};

mod down;
mod joining;
mod up;

pub(crate) use down::{down, tunnel_down};
pub(crate) use joining::{enroll_request, enrolled, renew_request, renewed};
pub(crate) use up::{tunnel_up, up};

/// A name of an object, as the API allows it (RFC 1123 subdomain).
const NAME_BYTES: usize = 253;
/// Ids, versions, feature names, single words.
const WORD_BYTES: usize = 256;
/// Sentences for people.
const MESSAGE_BYTES: usize = 32 * 1024;
/// An X.509 certificate or PKCS #10 request.
const CERTIFICATE_BYTES: usize = 16 * 1024;

/// What arrived is not a message of this protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct Malformed {
    /// Path within the message, in the proto file's names.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// Why a message from control has no [`Down`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// A command this build does not understand; the link answers so by itself.
    #[error("the command is not understood")]
    Unsupported {
        /// To answer.
        id: CommandId,
        #[source]
        why: Malformed,
    },
    /// The other side does not speak this protocol.
    #[error("the message cannot be read")]
    Malformed(#[from] Malformed),
}

type Checked<T> = Result<T, Malformed>;

/// A reference; none if its kind is of a newer version.
fn known_ref(object: pb::ObjectRef) -> Option<Checked<ObjectRef>> {
    let kind = kind(object.kind)?;
    let key = || {
        let namespace = name(object.namespace, "ref.namespace")?;
        Ok(ObjectKey { namespace, name: name(object.name, "ref.name")? })
    };
    Some(key().map(|key| ObjectRef { kind, key }))
}

fn kind(kind: i32) -> Option<Kind> {
    match pb::Kind::try_from(kind) {
        Ok(pb::Kind::DaemonSet) => Some(Kind::DaemonSet),
        Ok(pb::Kind::Pod) => Some(Kind::Pod),
        Ok(pb::Kind::ConfigMap) => Some(Kind::ConfigMap),
        Ok(pb::Kind::Secret) => Some(Kind::Secret),
        Ok(pb::Kind::Unspecified) | Err(_) => None,
    }
}

fn reason(reason: pb::Reason) -> Checked<Reason> {
    Ok(Reason {
        reason: word(reason.reason, "reason.reason")?,
        message: sentence(reason.message, "reason.message")?,
        field: sentence(reason.field, "reason.field")?,
    })
}

fn taint(taint: pb::Taint) -> Checked<Taint> {
    let effect = match pb::TaintEffect::try_from(taint.effect) {
        Ok(pb::TaintEffect::NoSchedule) => TaintEffect::NoSchedule,
        Ok(pb::TaintEffect::PreferNoSchedule) => TaintEffect::PreferNoSchedule,
        Ok(pb::TaintEffect::NoExecute) => TaintEffect::NoExecute,
        Ok(pb::TaintEffect::Unspecified) | Err(_) => return Err(malformed("taints.effect", "is unknown")),
    };
    if taint.key.is_empty() {
        return Err(malformed("taints.key", "is empty"));
    }
    Ok(Taint { key: sentence(taint.key, "taints.key")?, value: word(taint.value, "taints.value")?, effect })
}

fn blob(chunk: pb::BlobChunk) -> Checked<BlobChunk> {
    let end = chunk.offset.checked_add(chunk.data.len() as u64);
    if chunk.data.len() > CHUNK_BYTES || end.is_none_or(|end| end > chunk.total) {
        return Err(malformed("blob.data", "does not fit the blob"));
    }
    let hash = hash(&chunk.hash, "blob.hash")?;
    Ok(BlobChunk { hash, offset: chunk.offset, total: chunk.total, data: chunk.data })
}

fn labels(labels: BTreeMap<String, String>) -> Checked<BTreeMap<String, String>> {
    for (key, value) in &labels {
        // A prefix of 253, a slash and a name of 63.
        if key.is_empty() || key.len() > NAME_BYTES + 64 || value.len() > 63 {
            return Err(malformed("labels", "have a key or value that is no label"));
        }
    }
    Ok(labels)
}

// === single values ===

const fn malformed(field: &'static str, problem: &'static str) -> Malformed {
    Malformed { field, problem }
}

fn each<M, T>(messages: Vec<M>, convert: impl FnMut(M) -> Checked<T>) -> Checked<Vec<T>> {
    messages.into_iter().map(convert).collect()
}

fn protocol(version: u32) -> Checked<u32> {
    if version == 0 { Err(malformed("protocol", "is missing")) } else { Ok(version) }
}

fn seconds(seconds: u32, field: &'static str) -> Checked<u32> {
    if seconds == 0 { Err(malformed(field, "is missing")) } else { Ok(seconds) }
}

fn position(position: Option<pb::Position>, field: &'static str) -> Checked<Position> {
    let position = position.ok_or(malformed(field, "is missing"))?;
    Ok(Position { era: position.era, seq: position.seq })
}

/// Names become paths, so only what the API allows in one gets through (RFC 1123 subdomain).
fn name(text: String, field: &'static str) -> Checked<String> {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = text.bytes().next().is_some_and(alphanumeric) && text.bytes().last().is_some_and(alphanumeric);
    let inside = text.bytes().all(|byte| alphanumeric(byte) || byte == b'-' || byte == b'.');
    if ends && inside && text.len() <= NAME_BYTES { Ok(text) } else { Err(malformed(field, "is no name")) }
}

fn uid(text: String, field: &'static str) -> Checked<Uid> {
    let good = text.len() == 36
        && text.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
        });
    if good { Ok(Uid(text)) } else { Err(malformed(field, "is no uid")) }
}

/// A revision is the value of a label and part of an object's name.
fn revision(text: String, field: &'static str) -> Checked<RevisionHash> {
    let good = !text.is_empty() && text.len() <= 63 && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if good { Ok(RevisionHash(text)) } else { Err(malformed(field, "is no revision")) }
}

fn hash(bytes: &Bytes, field: &'static str) -> Checked<BlobHash> {
    if bytes.len() != 32 {
        return Err(malformed(field, "is no SHA-256"));
    }
    Ok(BlobHash(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
}

/// Nothing for no bytes.
fn optional_hash(bytes: &Bytes, field: &'static str) -> Checked<Option<BlobHash>> {
    if bytes.is_empty() { Ok(None) } else { hash(bytes, field).map(Some) }
}

fn word(text: String, field: &'static str) -> Checked<String> {
    if text.len() <= WORD_BYTES { Ok(text) } else { Err(malformed(field, "is too long")) }
}

fn sentence(text: String, field: &'static str) -> Checked<String> {
    if text.len() <= MESSAGE_BYTES { Ok(text) } else { Err(malformed(field, "is too long")) }
}

/// A tunnel's data.
fn piece(data: Bytes, field: &'static str) -> Checked<Bytes> {
    if data.len() <= CHUNK_BYTES { Ok(data) } else { Err(malformed(field, "is too long")) }
}

fn time(micros: i64, field: &'static str) -> Checked<Timestamp> {
    Timestamp::from_microsecond(micros).map_err(|_| malformed(field, "is no time"))
}

fn certificate(der: Bytes, field: &'static str) -> Checked<Bytes> {
    if der.is_empty() || der.len() > CERTIFICATE_BYTES { Err(malformed(field, "has a wrong size")) } else { Ok(der) }
}

fn ca_bundle(bundle: Vec<Bytes>) -> Checked<Vec<Bytes>> {
    if bundle.is_empty() {
        return Err(malformed("ca_bundle", "is empty"));
    }
    each(bundle, |der| certificate(der, "ca_bundle"))
}
