//! Builds the RocksDB sources that `librocksdb-sys` ships into a static archive, once for all profiles and checkouts.
//!
//! `librocksdb-sys` compiles 340 translation units for every profile and target folder. Compiled as a few dozen unity units,
//! the same sources take about a third of the processor time, and `ROCKSDB_LIB_DIR` lets every later build reuse the archive.
//! A unity unit that does not compile (two files with the same static name) falls back to its single files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Sources per unity unit: enough to share the headers, few enough to keep both cores busy and the compiler below 2 GiB.
const SOURCES_PER_UNIT: usize = 14;

/// What `librocksdb-sys` 0.19 passes on Linux, without the optional compressors.
const FLAGS: &[&str] = &[
    "-std=c++20",
    "-O2",
    "-fPIC",
    "-w",
    "-include",
    "cstdint",
    "-DNDEBUG=1",
    "-DHAVE_ALIGNED_NEW",
    "-DHAVE_UINT128_EXTENSION",
    "-DOS_LINUX",
    "-DROCKSDB_PLATFORM_POSIX",
    "-DROCKSDB_LIB_IO_POSIX",
    "-DROCKSDB_SCHED_GETCPU_PRESENT",
    "-DROCKSDB_AUXV_GETAUXVAL_PRESENT",
    "-DROCKSDB_FALLOCATE_PRESENT",
    "-DROCKSDB_RANGESYNC_PRESENT",
];

/// Makes sure that the archive is in the cache, then prints the variables that make cargo link it.
///
/// The output is meant for `eval`: `eval "$(cargo xtask rocksdb)"`. Progress goes to standard error.
pub fn build_cached() -> Result<(), String> {
    let sources = locate_sources()?;
    let folder_name = sources.file_name().ok_or("the librocksdb-sys folder has no name")?;
    let destination = cache_dir()?.join("rocksdb").join(folder_name);
    if !destination.join("librocksdb.a").exists() {
        build(&sources, &destination)?;
    }
    println!("export ROCKSDB_LIB_DIR='{}' ROCKSDB_STATIC=1", destination.display());
    Ok(())
}

/// `$GANTRY_CACHE`, or `$HOME/.cache/gantry`.
fn cache_dir() -> Result<PathBuf, String> {
    if let Some(dir) = std::env::var_os("GANTRY_CACHE") {
        return Ok(PathBuf::from(dir));
    }
    let home = std::env::var_os("HOME").ok_or("HOME is not set: set GANTRY_CACHE to a folder")?;
    Ok(PathBuf::from(home).join(".cache/gantry"))
}

/// Asks cargo where the locked version of `librocksdb-sys` is unpacked.
fn locate_sources() -> Result<PathBuf, String> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(super::workspace_root())
        .output()
        .map_err(|error| format!("cannot run cargo metadata: {error}"))?;
    let metadata = String::from_utf8_lossy(&output.stdout);
    metadata
        .split("\"manifest_path\":\"")
        .filter_map(|rest| rest.split('"').next())
        .find(|path| path.contains("/librocksdb-sys-") && path.ends_with("/Cargo.toml"))
        .and_then(|path| Path::new(path).parent())
        .map(Path::to_path_buf)
        .ok_or_else(|| {
            let errors = String::from_utf8_lossy(&output.stderr);
            format!("librocksdb-sys is not among the dependencies: {errors}")
        })
}

fn build(sources: &Path, destination: &Path) -> Result<(), String> {
    let work = destination.with_extension("building");
    fs::create_dir_all(&work).map_err(|error| format!("cannot create {}: {error}", work.display()))?;
    let list = fs::read_to_string(sources.join("rocksdb_lib_sources.txt"))
        .map_err(|error| format!("cannot read RocksDB's list of sources: {error}"))?;
    let files: Vec<PathBuf> = list
        .split_whitespace()
        .filter(|file| *file != "util/build_version.cc")
        .map(|file| sources.join("rocksdb").join(file))
        .chain([sources.join("build_version.cc")])
        .collect();
    let objects = compile_all(sources, &work, &files)?;
    archive(&work, &objects)?;
    fs::create_dir_all(destination).map_err(|error| error.to_string())?;
    fs::rename(work.join("librocksdb.a"), destination.join("librocksdb.a"))
        .map_err(|error| format!("cannot move the archive into place: {error}"))?;
    fs::remove_dir_all(&work).map_err(|error| format!("cannot remove {}: {error}", work.display()))
}

/// Compiles the files in units, one compiler per core, and returns the object files.
fn compile_all(sources: &Path, work: &Path, files: &[PathBuf]) -> Result<Vec<PathBuf>, String> {
    let units: Vec<&[PathBuf]> = files.chunks(SOURCES_PER_UNIT).collect();
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(unit) = units.get(index) else { return };
                    eprintln!("rocksdb: unit {} of {}", index + 1, units.len());
                    let outcome = compile_unit(sources, work, index, unit);
                    if let Ok(mut results) = results.lock() {
                        results.push(outcome);
                    }
                }
            });
        }
    });
    let results = results.into_inner().map_err(|_| "a compiler thread panicked")?;
    let mut objects = Vec::new();
    for outcome in results {
        objects.extend(outcome?);
    }
    Ok(objects)
}

fn compile_unit(sources: &Path, work: &Path, index: usize, unit: &[PathBuf]) -> Result<Vec<PathBuf>, String> {
    let includes: String = unit
        .iter()
        .map(|file| format!("#include \"{}\"\n", file.display()))
        .collect();
    let unity = work.join(format!("unit-{index}.cc"));
    fs::write(&unity, includes).map_err(|error| format!("cannot write {}: {error}", unity.display()))?;
    let object = work.join(format!("unit-{index}.o"));
    if compile(sources, &unity, &object).is_ok() {
        return Ok(vec![object]);
    }
    eprintln!("rocksdb: unit {} clashes, compiling its files one by one", index + 1);
    let mut objects = Vec::new();
    for (position, file) in unit.iter().enumerate() {
        let object = work.join(format!("unit-{index}-{position}.o"));
        compile(sources, file, &object)?;
        objects.push(object);
    }
    Ok(objects)
}

fn compile(sources: &Path, file: &Path, object: &Path) -> Result<(), String> {
    let output = Command::new(std::env::var_os("CXX").unwrap_or_else(|| "c++".into()))
        .args(FLAGS)
        .arg(format!("-I{}", sources.join("rocksdb/include").display()))
        .arg(format!("-I{}", sources.join("rocksdb").display()))
        .arg(format!("-I{}", sources.display()))
        .arg("-c")
        .arg(file)
        .arg("-o")
        .arg(object)
        .output()
        .map_err(|error| format!("cannot run the C++ compiler: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(format!("cannot compile {}:\n{errors}", file.display()))
}

fn archive(work: &Path, objects: &[PathBuf]) -> Result<(), String> {
    let status = Command::new("ar")
        .arg("crs")
        .arg(work.join("librocksdb.a"))
        .args(objects)
        .status()
        .map_err(|error| format!("cannot run ar: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("ar failed: {status}"))
    }
}
