//! The words of Gantry as types: ids, units, specs, stored objects, states and their transitions.
//!
//! **Invariant:** nothing here does I/O, reads a clock or makes an id; every other crate may depend on this one.
//! **Invariant:** the serde form of these types is the one schema: `-o json`, the stored form and what travels on the wire.
//! A field added later carries `#[serde(default)]`; a field is never given a new meaning.
//! Deliberately not here: YAML (`manifest`), protobuf (`api`), storage (`state`).

pub mod assignment;
pub mod build;
mod bytes64;
pub mod container;
pub mod explain;
mod ids;
mod image_ref;
mod names;
pub mod net;
pub mod object;
pub mod phase;
mod problem;
pub mod spec;
mod units;

pub use bytes64::Bytes64;
pub use ids::{DataId, NodeId, ReplicaId, ServerId, ServiceId, SessionId, TokenId};
pub use image_ref::{Digest, ImageRefError, ImageReference};
pub use names::{NAME_LENGTH_MAX, Name, NameError, QualifiedName};
pub use problem::{Class, Problem};
pub use units::{ByteSize, DurationMs, MilliCpu, Timestamp, UnitError};
