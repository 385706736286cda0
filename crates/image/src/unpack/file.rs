//! One member becomes one file, with its owner, mode, attributes and time.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use rustix::fs::FileType;
use rustix::io::Errno;

use super::root::Place;
use crate::tarball::{Kind, Member, Segment, TarError, TarReader};

/// Why a member could not be applied.
pub(super) enum Failure {
    /// The tar.
    Tar(TarError),
    /// The kernel.
    System(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl From<TarError> for Failure {
    fn from(error: TarError) -> Self {
        Self::Tar(error)
    }
}

/// Copies through this much at a time.
const COPY_BUFFER_BYTES: usize = 64 << 10;
/// The mode bits a file may have, set-user-id and the sticky bit included.
const MODE_MASK: u32 = 0o7777;

/// Creates what the member describes at a place where nothing is.
pub(super) fn create<R: Read>(member: &Member, place: &Place, tar: &mut TarReader<R>) -> Result<(), Failure> {
    match member.kind {
        Kind::File => write_file(member, &mut place.create_file()?, tar)?,
        Kind::Symlink => place.make_symlink(&member.link)?,
        Kind::CharDevice { major, minor } => place.make_node(FileType::CharacterDevice, major, minor)?,
        Kind::BlockDevice { major, minor } => place.make_node(FileType::BlockDevice, major, minor)?,
        Kind::Fifo => place.make_node(FileType::Fifo, 0, 0)?,
        // The caller's: a folder may exist already, a hard link has its target's metadata.
        Kind::Directory | Kind::HardLink => return Ok(()),
    }
    set_metadata(member, place)
}

/// Owner first (changing it clears set-user-id and capabilities), then mode, attributes, and the time last.
pub(super) fn set_metadata(member: &Member, place: &Place) -> Result<(), Failure> {
    place.set_owner(member.uid, member.gid)?;
    if member.kind != Kind::Symlink {
        place.set_mode(member.mode & MODE_MASK)?;
    }
    for (name, value) in member.xattrs.iter().filter(|(name, _)| is_wanted(name)) {
        match place.set_xattr(name, value) {
            // As Docker: an image must run on file systems that lack the attribute.
            Err(error) if error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => {
                tracing::debug!(member = %member.name(), "extended attribute not supported here");
            }
            result => result?,
        }
    }
    Ok(place.set_time(member.mtime)?)
}

/// `trusted.overlay.*` would let an image steer overlayfs (redirect a folder to another one); labels of the machine it was
/// built on mean nothing here.
fn is_wanted(name: &[u8]) -> bool {
    name == b"security.capability" || name.starts_with(b"user.") && !name.starts_with(b"user.overlay.")
}

fn write_file<R: Read>(member: &Member, file: &mut File, tar: &mut TarReader<R>) -> Result<(), Failure> {
    let mut buffer = vec![0; COPY_BUFFER_BYTES.min(member.size.max(1) as usize)];
    let Some(segments) = &member.sparse else {
        loop {
            match tar.read_body(&mut buffer)? {
                0 => return Ok(()),
                count => file.write_all(&buffer[..count])?,
            }
        }
    };
    for Segment { offset, length } in segments {
        file.seek(SeekFrom::Start(*offset))?;
        let mut rest = *length;
        while rest > 0 {
            let step = rest.min(buffer.len() as u64) as usize;
            let count = tar.read_body(&mut buffer[..step])?;
            if count == 0 {
                return Err(Failure::Tar(TarError::Truncated { bytes: tar.position() }));
            }
            file.write_all(&buffer[..count])?;
            rest -= count as u64;
        }
    }
    Ok(file.set_len(member.size)?)
}
