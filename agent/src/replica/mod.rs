//! One replica: its worker, and what is prepared for it.

pub(crate) mod files;
mod prepare;
pub(crate) mod template;
mod traffic;
mod worker;

pub(crate) use worker::{Command, Ended, Worker, probe_command};
