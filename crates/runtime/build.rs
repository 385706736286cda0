//! Builds the shim as a small static program of its own, to be embedded in this crate.
//!
//! A nested cargo builds package `gantry-shim` with a profile of its own into this crate's output folder: static, so that it
//! runs whatever the node has, and small, since one runs beside every container.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the outer cargo and rustc tell their build scripts, and must not tell the inner ones.
const INHERITED: &[&str] = &[
    "RUSTFLAGS",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "CLIPPY_ARGS",
    "CLIPPY_CONF_DIR",
    "MAKEFLAGS",
    "CARGO_MAKEFLAGS",
    "CARGO_TARGET_DIR",
    "CARGO_BUILD_TARGET",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_BUILD_RUSTFLAGS",
    "NUM_JOBS",
    "DEBUG",
    "OPT_LEVEL",
    "PROFILE",
];

/// The shim's own profile.
const PROFILE: &[(&str, &str)] = &[
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "s"),
    ("CARGO_PROFILE_RELEASE_LTO", "fat"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "0"),
    ("CARGO_PROFILE_RELEASE_STRIP", "symbols"),
];

fn main() {
    // Asked when it runs: a build script of another checkout that shares the target folder is used again here.
    let workspace = PathBuf::from(variable("CARGO_MANIFEST_DIR")).join("../..");
    for source in [
        "crates/shim/src",
        "crates/shim/Cargo.toml",
        "crates/sys/src",
        "crates/sys/Cargo.toml",
    ] {
        println!("cargo::rerun-if-changed={}", workspace.join(source).display());
    }
    println!("cargo::rerun-if-changed=build.rs");
    let target = variable("TARGET");
    let folder = PathBuf::from(variable("OUT_DIR")).join("shim");
    let pinned = build(&workspace, &folder, &target, &["--locked", "--offline"]);
    if !pinned && !build(&workspace, &folder, &target, &[]) {
        panic!("the shim does not build: run `cargo build -p gantry-shim --release` to see why");
    }
    let program = folder.join(&target).join("release/gantry-shim");
    println!("cargo::rustc-env=GANTRY_SHIM_PROGRAM={}", program.display());
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"))
}

fn build(workspace: &Path, folder: &Path, target: &str, options: &[&str]) -> bool {
    let mut cargo = Command::new(variable("CARGO"));
    cargo
        .current_dir(workspace)
        .args([
            "build",
            "--quiet",
            "--release",
            "--package",
            "gantry-shim",
            "--bin",
            "gantry-shim",
        ])
        .args(["--target", target, "--target-dir"])
        .arg(folder)
        .args(options);
    let of_the_outer_build = |name: &str| {
        INHERITED.contains(&name)
            || name.starts_with("CARGO_PKG_")
            || name.starts_with("CARGO_CFG_")
            || name.starts_with("CARGO_FEATURE_")
            || name.starts_with("CARGO_PROFILE_")
            || name.starts_with("CARGO_ENCODED_")
            || name.starts_with("CARGO_MANIFEST_")
            || name.starts_with("DEP_")
    };
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(of_the_outer_build) {
            cargo.env_remove(name);
        }
    }
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static -C relocation-model=static");
    cargo.envs(PROFILE.iter().copied());
    cargo.status().is_ok_and(|status| status.success())
}
