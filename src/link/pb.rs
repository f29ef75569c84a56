//! The messages and clients generated from `proto/garrison/fleet/v1/fleet.proto`.
#![allow(missing_docs, clippy::all, unused_qualifications, reason = "generated; the proto file has the documentation")]

tonic::include_proto!("garrison.fleet.v1");
