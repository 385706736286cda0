//! The OCI runtime specification 1.2 as a front of Gantry's runtime, with the command line of runc: validation suites written
//! for that can drive it, and so can engines that call an OCI runtime (containerd and Docker, Podman, CRI-O).
//!
//! `config.json` is read ([`spec`]) and mapped onto the same launch plan that the agent uses ([`plan`]); a shim makes the
//! container and leaves it to the caller, as such callers expect. Each command is a process of its own: what is known lies in a
//! folder per container ([`store`]), what runs is asked of the kernel. Deviations are listed in the crate's README.
//!
//! **Invariant:** a property of `config.json` is kept, or refused by name; none is dropped silently.
//! **Invariant:** a process is only ever signalled when it is certain to be the container's.
//! Deliberately not here: any step of making a container (`shim`), and whatever needs a daemon.

mod args;
mod commands;
mod error;
mod foreground;
mod limits;
pub mod log;
mod names;
pub mod plan;
mod relay;
pub mod spec;
pub mod store;

use std::ffi::OsString;

use clap::Parser;

pub use error::OciError;

use crate::args::{Cli, Command};
use crate::log::Log;

/// Version of the specification that this follows.
pub const OCI_VERSION: &str = "1.2.0";

/// Exit status of a command that failed.
const EXIT_FAILED: u8 = 1;

/// Runs one command: `args` are those behind `gantry oci`. Must be called from a process that has no other threads. The exit
/// status: that of the process that `run` or `exec` waited for, 1 when something failed.
pub fn main(args: impl IntoIterator<Item = OsString>) -> u8 {
    let program = std::iter::once(OsString::from("gantry oci"));
    let cli = match Cli::try_parse_from(program.chain(args)) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { EXIT_FAILED } else { 0 };
        }
    };
    let log = Log {
        path: cli.log.clone(),
        format: cli.log_format,
    };
    run(cli).unwrap_or_else(|error| {
        log.error(&error);
        EXIT_FAILED
    })
}

fn run(cli: Cli) -> Result<u8, OciError> {
    if cli.version {
        println!("gantry-oci version {}\nspec: {OCI_VERSION}", env!("CARGO_PKG_VERSION"));
        return Ok(0);
    }
    if cli.systemd_cgroup {
        let text = "--systemd-cgroup is not supported: configure the engine's cgroup driver as cgroupfs \
                    (dockerd --exec-opt native.cgroupdriver=cgroupfs, podman --cgroup-manager=cgroupfs)";
        return Err(OciError::Usage(text.to_string()));
    }
    if cli.rootless.as_deref() == Some("true") {
        return Err(OciError::Usage(
            "--rootless is not supported: containers are made as root".to_string(),
        ));
    }
    let command = cli
        .command
        .ok_or_else(|| OciError::Usage("which command? --help lists them".to_string()))?;
    commands::run(&cli.root, command)
}

impl Command {
    /// Whether it needs no container and no control groups.
    const fn is_offline(&self) -> bool {
        matches!(
            self,
            Self::Spec(_) | Self::Features | Self::Checkpoint(_) | Self::Restore(_)
        )
    }
}
