//! `cargo xtask`: the project's tooling, one subcommand per file.
//!
//! Needs nothing but the standard library, so that it builds in a second on a machine where nothing else is built yet.

mod headers;
mod layers;
mod rocksdb;

use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask COMMAND

commands:
  rocksdb   build RocksDB once into the cache and print the environment that makes cargo use it
  tidy      check file headers and the layers of the crate graph";

fn main() -> ExitCode {
    let command = std::env::args().nth(1);
    let outcome = match command.as_deref() {
        Some("rocksdb") => rocksdb::build_cached(),
        Some("tidy") => tidy(),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Runs every check of the tree and reports all findings at once.
fn tidy() -> Result<(), String> {
    let root = workspace_root();
    let mut findings = headers::check(&root)?;
    findings.extend(layers::check(&root)?);
    if findings.is_empty() {
        println!("tidy: nothing to report");
        return Ok(());
    }
    for finding in &findings {
        eprintln!("{finding}");
    }
    Err(format!("{} findings", findings.len()))
}

/// The folder that holds the workspace's `Cargo.toml`: of the checkout that cargo runs this for, which is another than it was
/// built for when checkouts share a target folder.
fn workspace_root() -> std::path::PathBuf {
    let manifest_dir = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let manifest_dir = std::path::Path::new(&manifest_dir);
    manifest_dir.ancestors().nth(2).unwrap_or(manifest_dir).to_path_buf()
}
