//! How the program `gantry` is linked, for the sake of every command's start: an executable of 80 MB that is moved to a random
//! address has 70,000 addresses to correct in 270 pages each time, and the C++ library brings 5,000 symbols to look up.
//!
//! It is linked for a fixed address, Go's default for programs on Linux: its heap, its stacks and the C library
//! still lie at random ones. The C++ library becomes a part of it where the static one is installed.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

const CPP_LIBRARY: &str = "libstdc++.a";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if variable("CARGO_CFG_TARGET_OS") != "linux" {
        return;
    }
    println!("cargo::rustc-link-arg-bin=gantry=-no-pie");
    let folder = PathBuf::from(variable("OUT_DIR")).join("static");
    // The linker takes what it finds first in a folder of libraries; this one holds nothing else.
    if link_into(&folder, CPP_LIBRARY) {
        println!("cargo::rustc-link-search=native={}", folder.display());
    }
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"))
}

/// Makes the folder lead to a library of the compiler's; false when it has none.
fn link_into(folder: &Path, library: &str) -> bool {
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let mut ask = Command::new(compiler);
    ask.arg(format!("-print-file-name={library}"));
    let said = ask.output().ok().and_then(|said| String::from_utf8(said.stdout).ok());
    // It repeats the bare name of what it does not have.
    let found = said.map(|text| PathBuf::from(text.trim()));
    let Some(found) = found.filter(|path| path.is_absolute()) else {
        return false;
    };
    let link = folder.join(library);
    // Of an earlier run, perhaps of another compiler; if it is not there, all the better.
    let _ = std::fs::remove_file(&link);
    std::fs::create_dir_all(folder).is_ok() && symlink(&found, &link).is_ok()
}
