//! Files into a container and out of it, as tar streams. Every look-up stays inside the container's root, whatever symbolic
//! links it holds and however it changes meanwhile.
//!
//! A container that runs is reached through its first process, with everything mounted in it. One that does not is put together
//! in a mount namespace that only the copying thread has, and that goes with it.
//!
//! Owners in the streams are those inside. Deliberately not here: extended attributes.

mod pack;
mod unpack;
mod view;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use crate::{Handle, HandleError};

/// What kept files from being copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The container refused.
    #[error(transparent)]
    Handle(#[from] HandleError),
    /// There is no such path.
    #[error("the container has no {path}")]
    NotFound {
        /// Inside the container.
        path: PathBuf,
    },
    /// Something else than a folder is there.
    #[error("{path} is not a folder in the container")]
    NotAFolder {
        /// Inside the container.
        path: PathBuf,
    },
    /// An entry of the stream leads elsewhere.
    #[error("the archive's entry {entry} leads out of the folder it is unpacked into")]
    Escapes {
        /// As it stands in the stream.
        entry: PathBuf,
    },
    /// A system call failed.
    #[error("cannot {act} {path} in the container: {source}")]
    Io {
        /// What was being done.
        act: &'static str,
        /// Inside the container, or in the stream.
        path: PathBuf,
        /// The kernel's answer, or what is wrong with the stream.
        source: std::io::Error,
    },
}

impl CopyError {
    fn io(act: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { act, path, source }
    }

    fn kernel(act: &'static str, path: &Path, errno: gantry_sys::Errno) -> Self {
        match errno {
            gantry_sys::Errno::ENOENT => Self::NotFound {
                path: path.to_path_buf(),
            },
            errno => Self::Io {
                act,
                path: path.to_path_buf(),
                source: errno.into(),
            },
        }
    }
}

/// What is at a path of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Last part of the path.
    pub name: String,
    /// Length in bytes.
    pub size: u64,
    /// Type and mode bits, as in `stat(2)`.
    pub mode: u32,
    /// Seconds since the Unix epoch.
    pub modified_s: i64,
    /// Where a symbolic link leads.
    pub link: Option<PathBuf>,
}

/// How a stream is unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CopyIn {
    /// Everything belongs to this user and group inside; otherwise to those in the stream.
    pub owner: Option<(u32, u32)>,
    /// A folder may be replaced by a file, and a file by a folder.
    pub replaces_kinds: bool,
}

impl Handle {
    /// What is at a path, which is absolute inside the container. A symbolic link at its end is not followed.
    ///
    /// # Errors
    /// [`CopyError::NotFound`] when there is nothing.
    pub fn stat_path(&self, path: &Path) -> Result<Found, CopyError> {
        self.in_root(|view| pack::examine(view, path))
    }

    /// Writes a path and everything below it as a tar stream, whose entries begin with the path's last part. A symbolic link at
    /// its end is not followed. Blocks until everything is written.
    ///
    /// # Errors
    /// When there is nothing at the path, or something could not be read or written.
    pub fn copy_out(&self, path: &Path, stream: impl Write + Send) -> Result<(), CopyError> {
        self.in_root(|view| pack::pack(view, path, stream))
    }

    /// Unpacks a tar stream into a folder of the container, which must exist. Blocks until the stream has ended.
    ///
    /// # Errors
    /// When the folder is none, the stream cannot be read, an entry leads out of the folder, or something could not be written;
    /// what was unpacked before stays.
    pub fn copy_in(&self, folder: &Path, stream: impl Read + Send, how: CopyIn) -> Result<(), CopyError> {
        self.in_root(|view| unpack::unpack(view, folder, stream, how))
    }
}
