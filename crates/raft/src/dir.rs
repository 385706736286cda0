//! The folder of a server and the version of its layout.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::OpenError;

/// Version of the layout; a newer one is refused.
const FORMAT: u32 = 1;

const FORMAT_FILE: &str = "FORMAT";

/// The parts of a server's folder.
#[derive(Debug, Clone)]
pub struct Dir {
    pub log: PathBuf,
    pub snapshots: PathBuf,
}

impl Dir {
    /// Makes the folder if it is new, or checks that this version can read it.
    pub fn open(root: &Path) -> Result<Self, OpenError> {
        let dir = Self {
            log: root.join("log"),
            snapshots: root.join("snapshots"),
        };
        let failed = |source| OpenError::Folder {
            path: root.to_path_buf(),
            source,
        };
        fs::create_dir_all(root).map_err(failed)?;
        let format = root.join(FORMAT_FILE);
        match fs::read_to_string(&format) {
            Ok(text) => check_format(&format, &text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if dir.log.exists() {
                    return Err(OpenError::damaged(&format, "it is missing beside a log"));
                }
                write_durably(&format, format!("{FORMAT}\n").as_bytes()).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
        fs::create_dir_all(&dir.snapshots).map_err(failed)?;
        sync_dir(root).map_err(failed)?;
        Ok(dir)
    }
}

fn check_format(path: &Path, text: &str) -> Result<(), OpenError> {
    let found: u32 = text
        .trim()
        .parse()
        .map_err(|_| OpenError::damaged(path, "it does not hold a version number"))?;
    if found > FORMAT {
        return Err(OpenError::Newer {
            path: path.to_path_buf(),
            found,
            supported: FORMAT,
        });
    }
    Ok(())
}

/// Writes a whole file that is there after a crash, or not at all.
fn write_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Makes names created, renamed or removed in a folder durable.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
