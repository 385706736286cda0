//! Tests of the whole way from texts to an application, in one binary.

mod cases;
mod common;
mod errors;
mod files;
mod ingress;
mod keys;
mod limits;
mod networks;
mod never_panics;
mod project;
mod workloads;
