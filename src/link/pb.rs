//! The messages and clients generated from `proto/garrison/fleet/v1/fleet.proto`.
#![allow(missing_docs, clippy::all, unused_qualifications, reason = "generated; the proto file has the documentation")]

use std::fmt;

tonic::include_proto!("garrison.fleet.v1");

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

impl fmt::Debug for BlobChunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chunk = &mut f.debug_struct("BlobChunk");
        chunk.field("offset", &self.offset).field("total", &self.total).finish_non_exhaustive()
    }
}
