//! The OCI runtime specification as a front of Gantry's runtime, with the command line of runc.
mod error;
pub mod spec;
pub use error::OciError;
