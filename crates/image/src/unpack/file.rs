//! One member becomes one file, with its owner, mode, attributes and time.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{FileType, Gid, Mode, Uid, XattrFlags};
use rustix::io::Errno;

use super::root::{Place, timestamps};
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

/// The mode bits a file may have, set-user-id and the sticky bit included.
const MODE_MASK: u32 = 0o7777;

/// Creates what the member describes, which is no regular file, at a place where nothing is.
pub(super) fn create_special(member: &Member, place: &Place) -> Result<(), Failure> {
    match member.kind {
        Kind::Symlink => place.make_symlink(&member.link)?,
        Kind::CharDevice { major, minor } => place.make_node(FileType::CharacterDevice, major, minor)?,
        Kind::BlockDevice { major, minor } => place.make_node(FileType::BlockDevice, major, minor)?,
        Kind::Fifo => place.make_node(FileType::Fifo, 0, 0)?,
        // The caller's: a folder may exist already, a hard link has its target's metadata, a file has data.
        Kind::Directory | Kind::HardLink | Kind::File => return Ok(()),
    }
    set_metadata(member, place)
}

/// Owner first (changing it clears set-user-id and capabilities), then mode, attributes, and the time last.
pub(super) fn set_metadata(member: &Member, place: &Place) -> Result<(), Failure> {
    place.set_owner(member.uid, member.gid)?;
    if member.kind != Kind::Symlink {
        place.set_mode(member.mode & MODE_MASK)?;
    }
    for (name, value) in member.xattrs.iter().filter(|(name, _)| is_wanted_xattr(name)) {
        match place.set_xattr(name, value) {
            Err(error) if error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => unsupported(member),
            result => result?,
        }
    }
    Ok(place.set_time(member.mtime)?)
}

/// `trusted.overlay.*` would let an image steer overlayfs (redirect a folder to another one); labels of the machine it was
/// built on mean nothing here.
pub(crate) fn is_wanted_xattr(name: &[u8]) -> bool {
    name == b"security.capability" || name.starts_with(b"user.") && !name.starts_with(b"user.overlay.")
}

/// Fills the new file and gives it its metadata, through its descriptor: that spares the kernel to find it again each time.
pub(super) fn write_file<R: Read>(
    member: &Member,
    mut file: File,
    tar: &mut TarReader<R>,
    buffer: &mut [u8],
) -> Result<(), Failure> {
    write_data(member, &mut file, tar, buffer)?;
    rustix::fs::fchown(&file, Some(Uid::from_raw(member.uid)), Some(Gid::from_raw(member.gid)))
        .map_err(io::Error::from)?;
    let mode = Mode::from_raw_mode(member.mode & MODE_MASK);
    rustix::fs::fchmod(&file, mode).map_err(io::Error::from)?;
    for (name, value) in member.xattrs.iter().filter(|(name, _)| is_wanted_xattr(name)) {
        match rustix::fs::fsetxattr(&file, OsStr::from_bytes(name), value, XattrFlags::empty()) {
            Err(Errno::OPNOTSUPP) => unsupported(member),
            result => result.map_err(io::Error::from)?,
        }
    }
    Ok(rustix::fs::futimens(&file, &timestamps(member.mtime)).map_err(io::Error::from)?)
}

/// As Docker: an image must run on file systems that lack the attribute.
fn unsupported(member: &Member) {
    tracing::debug!(member = %member.name(), "extended attribute not supported here");
}

fn write_data<R: Read>(
    member: &Member,
    file: &mut File,
    tar: &mut TarReader<R>,
    buffer: &mut [u8],
) -> Result<(), Failure> {
    let Some(segments) = &member.sparse else {
        loop {
            match tar.read_body(buffer)? {
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
