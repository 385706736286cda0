//! Checks Compose files: `check FILE…` loads each file on its own and prints what was found.
//!
//! Variables come from the process environment; referenced files are read from the folder of the manifest.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use gantry_manifest::{Files, Options, Source, load, render};

/// The real disk.
struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path) -> Result<Vec<u8>, io::Error> {
        std::fs::read(path)
    }
}

fn main() -> ExitCode {
    let files: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let mut refused = 0;
    for file in &files {
        match check(file) {
            Ok(true) => {}
            Ok(false) => refused += 1,
            Err(error) => {
                eprintln!("cannot read {}: {error}", file.display());
                return ExitCode::from(2);
            }
        }
    }
    println!("{} accepted, {refused} refused", files.len() - refused);
    if refused == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn check(file: &Path) -> io::Result<bool> {
    let mut text = String::new();
    std::fs::File::open(file)?.read_to_string(&mut text)?;
    let source = Source {
        name: file.display().to_string(),
        text,
    };
    let options = Options {
        base_dir: file.canonicalize()?.parent().map(Path::to_path_buf).unwrap_or_default(),
        environment: std::env::vars().collect(),
        ..Options::default()
    };
    let sources = [source];
    let loaded = load(&sources, &options, &Disk);
    let verdict = if loaded.application.is_some() {
        "accepted"
    } else {
        "refused"
    };
    println!("== {verdict}: {}", file.display());
    print!("{}", render(&loaded.diagnostics, &sources, false));
    Ok(loaded.application.is_some())
}
