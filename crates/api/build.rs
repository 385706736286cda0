//! Compiles `proto/` without `protoc`: protox parses, tonic-prost-build generates.

use std::error::Error;
use std::path::Path;

const FILES: [&str; 7] = ["common", "cluster", "engine", "enrollment", "node", "raft", "session"];

fn main() -> Result<(), Box<dyn Error>> {
    // Asked when it runs, not when it is built: checkouts may share a target folder.
    let package = std::env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo runs build scripts")?;
    let root = Path::new(&package).join("../../proto").canonicalize()?;
    let files = FILES.map(|name| root.join(format!("gantry/v1/{name}.proto")));
    println!("cargo::rerun-if-changed={}", root.display());
    let descriptors = protox::compile(files, [&root])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
