//! The messages, clients and servers generated from `proto/deviceplugin/v1beta1/deviceplugin.proto` and
//! `proto/podresources/v1/podresources.proto`.
#![allow(missing_docs, clippy::all, unused_qualifications, reason = "generated; the proto file has the documentation")]

tonic::include_proto!("v1beta1");

pub mod pod_resources {
    tonic::include_proto!("v1");
}
