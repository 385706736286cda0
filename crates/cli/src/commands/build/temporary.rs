//! A folder that goes away with its value.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use gantry_env::{Env, System};
use gantry_model::Problem;

use crate::failure::file_problem;

/// See the module.
#[derive(Debug)]
pub struct Temporary(PathBuf);

impl Temporary {
    /// A new folder that only its owner may look into.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn new() -> Result<Self, Problem> {
        let path = std::env::temp_dir().join(format!("gantry-build-{:016x}", System.random_u64()));
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|error| file_problem("be made", &path, &error))?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // What cannot be removed is left to whoever cleans the temporary folder.
        let _ = fs::remove_dir_all(&self.0);
    }
}
