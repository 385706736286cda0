//! The crate graph follows the layers of ARCHITECTURE.md: pure crates stay pure, and nothing looks upwards.

use std::fs;
use std::path::Path;

/// What a pure crate must never depend on: they decide, they do not act.
const FORBIDDEN_IN_PURE: &[&str] = &[
    "tokio",
    "tonic",
    "prost",
    "rocksdb",
    "openraft",
    "hyper",
    "nix",
    "libc",
    "tracing",
    "getrandom",
];

/// Package, layer. A crate may depend on crates of its own layer or below.
const LAYERS: &[(&str, &str, u8)] = &[
    ("crates/model", "gantry-model", 0),
    ("crates/env", "gantry-env", 0),
    ("crates/manifest", "gantry-manifest", 1),
    ("crates/dockerfile", "gantry-dockerfile", 1),
    ("crates/state", "gantry-state", 1),
    ("crates/scheduler", "gantry-scheduler", 1),
    ("crates/reconcile", "gantry-reconcile", 1),
    ("crates/leader", "gantry-leader", 1),
    ("crates/lifecycle", "gantry-lifecycle", 1),
    ("crates/netplan", "gantry-netplan", 1),
    ("crates/api", "gantry-api", 2),
    ("crates/pki", "gantry-pki", 2),
    ("crates/rpc", "gantry-rpc", 2),
    ("crates/raft", "gantry-raft", 2),
    ("crates/sys", "gantry-sys", 3),
    ("crates/cgroup", "gantry-cgroup", 3),
    ("crates/runtime", "gantry-runtime", 3),
    ("crates/shim", "gantry-shim", 3),
    ("crates/oci", "gantry-oci", 3),
    ("crates/image", "gantry-image", 3),
    ("crates/distribution", "gantry-distribution", 3),
    ("crates/registry", "gantry-registry", 2),
    ("crates/build", "gantry-build", 3),
    ("crates/network", "gantry-network", 3),
    ("crates/ingress", "gantry-ingress", 3),
    ("agent", "gantry-agent", 4),
    ("control-plane", "gantry-control-plane", 4),
    ("crates/cli", "gantry-cli", 5),
    ("crates/sim", "gantry-sim", 2),
    ("tests", "gantry-tests", 6),
    ("tests/fleet", "gantry-fleet", 6),
];

/// Findings as `crate: what is wrong`.
pub fn check(root: &Path) -> Result<Vec<String>, String> {
    let mut findings = Vec::new();
    for (folder, package, layer) in LAYERS {
        let path = root.join(folder).join("Cargo.toml");
        let text = fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        for dependency in dependencies(&text) {
            findings.extend(check_edge(package, *layer, &dependency));
        }
        if *layer <= 1 {
            let uses_lints = text.contains("workspace = true");
            if !uses_lints {
                findings.push(format!("{package}: must inherit the workspace's lints"));
            }
        }
    }
    Ok(findings)
}

fn check_edge(package: &str, layer: u8, dependency: &str) -> Option<String> {
    let is_door_to_the_system = package == "gantry-env";
    if layer <= 1 && !is_door_to_the_system && FORBIDDEN_IN_PURE.contains(&dependency) {
        return Some(format!("{package}: is pure and must not depend on {dependency}"));
    }
    let (_, _, below) = LAYERS.iter().find(|(_, name, _)| *name == dependency)?;
    let apart = ["gantry-agent", "gantry-control-plane"];
    if apart.contains(&package) && apart.contains(&dependency) {
        return Some(format!("{package}: meets {dependency} only in proto/"));
    }
    (*below > layer).then(|| format!("{package} (layer {layer}): must not depend on {dependency} (layer {below})"))
}

/// Names under `[dependencies]`; development and build dependencies are free.
fn dependencies(manifest: &str) -> Vec<String> {
    let mut inside = false;
    let mut names = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line == "[dependencies]";
        } else if inside {
            let name = line.split(['=', '.', ' ']).next().unwrap_or_default();
            if !name.is_empty() && !name.starts_with('#') {
                names.push(name.to_string());
            }
        }
    }
    names
}
