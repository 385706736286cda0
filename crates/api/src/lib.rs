//! The wire form: code generated from `proto/`, and the documents that travel in it.
//!
//! **Invariant:** the only crate that knows protobuf. A document is the JSON form of a model type; its kind says which.
//! Deliberately not here: connections, certificates and the mapping of problems to status codes (`rpc`).

mod document;
pub mod kind;

pub use document::{decode, encode, parse_id};

/// The messages, clients and servers of `gantry.v1`.
pub mod v1 {
    #![allow(
        missing_docs,
        unused_qualifications,
        clippy::all,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        reason = "generated; the comments of the proto files are its documentation"
    )]
    tonic::include_proto!("gantry.v1");
}
