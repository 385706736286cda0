//! One module per family of commands.

pub mod agent;
pub mod apply;
pub mod check;
pub mod cluster;
mod daemon;
pub mod dev;
pub mod events;
pub mod exec;
pub mod explain;
mod follow;
pub mod image;
pub mod logs;
mod manifest;
pub mod namespace;
pub mod node;
pub mod ps;
pub mod server;
pub mod service;
mod standing;
mod token;
mod upload;
