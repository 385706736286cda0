//! The shim's program, embedded and installed where containers are started.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::LaunchError;

const SHIM: &[u8] = include_bytes!(env!("GANTRY_SHIM_PROGRAM"));

/// Bytes of the digest in the program's name: 8 tell any two builds apart.
const DIGEST_LENGTH: usize = 8;

/// Writes the shim into `folder` as `shim-<digest>`, unless it is there already. Another build has another name, so shims that
/// run are never touched by an upgrade.
///
/// # Errors
/// When the folder or the file cannot be written.
pub fn install_shim(folder: &Path) -> Result<PathBuf, LaunchError> {
    let digest = Sha256::digest(SHIM);
    let hex: String = digest
        .iter()
        .take(DIGEST_LENGTH)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let program = folder.join(format!("shim-{hex}"));
    write_program(folder, &program).map_err(|source| LaunchError::Io {
        act: "install shim",
        path: program.clone(),
        source,
    })?;
    Ok(program)
}

fn write_program(folder: &Path, program: &Path) -> io::Result<()> {
    let is_installed = fs::metadata(program).is_ok_and(|found| found.len() == SHIM.len() as u64);
    if is_installed {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    let fresh = program.with_extension(format!("new-{}", std::process::id()));
    let mut file = File::create(&fresh)?;
    file.write_all(SHIM)?;
    file.set_permissions(Permissions::from_mode(0o755))?;
    file.sync_all()?;
    drop(file);
    fs::rename(&fresh, program)
}
