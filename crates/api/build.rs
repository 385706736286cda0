//! Compiles `proto/` without `protoc`: protox parses, tonic-prost-build generates.

use std::error::Error;
use std::path::Path;

const FILES: [&str; 7] = ["common", "cluster", "engine", "enrollment", "node", "raft", "session"];

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../proto")
        .canonicalize()?;
    let files = FILES.map(|name| root.join(format!("gantry/v1/{name}.proto")));
    println!("cargo::rerun-if-changed={}", root.display());
    let descriptors = protox::compile(files, [&root])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
