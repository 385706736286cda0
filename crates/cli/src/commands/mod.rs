//! One module per family of commands.

pub mod agent;
pub mod apply;
pub mod build;
pub mod check;
pub mod cluster;
pub mod container;
pub mod cron;
mod daemon;
pub mod dev;
mod drain;
pub mod events;
pub mod exec;
pub mod explain;
mod follow;
pub mod image;
pub mod ingress;
pub mod login;
pub mod logs;
mod manifest;
pub mod namespace;
pub mod node;
pub mod oci;
pub mod plan;
pub mod ps;
pub mod registry;
mod rollout;
pub mod server;
pub mod service;
mod standing;
mod token;
mod upload;

pub use daemon::RUN_FOLDER;
