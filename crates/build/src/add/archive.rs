//! Archives of `ADD`: tar, plain or compressed by gzip, bzip2, xz or zstd, told by content as Docker does.
//!
//! **Invariant:** members are placed below the destination by descriptor; links on the way are followed inside the image's
//! root only, and names that lead upwards are refused.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use tar::{Archive, Entry, EntryType};

use crate::cancel::Cancel;
use crate::copy::{Meta, Owner, Spot, ensure_folder};
use crate::error::{BuildError, Result};
use crate::overlay::View;

/// The first block of a tar.
const BLOCK: usize = 512;
/// Memory that unpacking xz may take: enough for its largest preset.
const XZ_MEMORY_KIB_MAX: u32 = 1 << 20;

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Bzip2,
    Xz,
    Zstd,
}

impl Compression {
    fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, 8, ..] => Self::Gzip,
            [b'B', b'Z', b'h', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    fn reader<'r>(self, file: impl Read + 'r) -> io::Result<Box<dyn Read + 'r>> {
        let file = BufReader::with_capacity(128 << 10, file);
        Ok(match self {
            Self::None => Box::new(file),
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
            Self::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(file)),
            Self::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(file, true, XZ_MEMORY_KIB_MAX)),
            Self::Zstd => Box::new(zstd::Decoder::with_buffer(file)?),
        })
    }
}

/// Whether the file is an archive that `ADD` unpacks; it stands at its beginning again afterwards.
pub(crate) fn is_archive(file: &mut File) -> io::Result<bool> {
    let mut start = Vec::new();
    file.by_ref().take(6).read_to_end(&mut start)?;
    file.rewind()?;
    let mut block = Vec::new();
    let compression = Compression::of(&start);
    // What cannot be decompressed is no archive, and is copied as it is.
    let read = compression
        .reader(&mut *file)
        .and_then(|reader| reader.take(BLOCK as u64).read_to_end(&mut block));
    file.seek(SeekFrom::Start(0))?;
    Ok(read.is_ok() && is_tar_header(&block))
}

fn is_tar_header(block: &[u8]) -> bool {
    let Ok(bytes) = <&[u8; BLOCK]>::try_from(block) else {
        return false;
    };
    let header = tar::Header::from_byte_slice(bytes);
    let sum: u32 = bytes[..148]
        .iter()
        .chain(&bytes[156..])
        .map(|byte| u32::from(*byte))
        .sum();
    bytes[0] != 0 && header.cksum().is_ok_and(|found| found == sum + 8 * u32::from(b' '))
}

/// Unpacks into a folder, which is made. Owners are those of the archive unless one is given.
pub(crate) fn unpack(
    root: &View,
    mut file: File,
    name: &str,
    destination: &str,
    owner: Option<Owner>,
    cancel: &Cancel,
) -> Result<()> {
    let failed = |source| BuildError::Archive {
        name: name.to_string(),
        source,
    };
    let mut start = Vec::new();
    file.by_ref().take(6).read_to_end(&mut start).map_err(failed)?;
    file.rewind().map_err(failed)?;
    let reader = Compression::of(&start).reader(&file).map_err(failed)?;
    let mut unpacking = Unpacking {
        root,
        base: PathBuf::from(destination),
        owner,
        name,
        recent: None,
        folders: HashMap::new(),
    };
    unpacking.folder(Path::new(""))?;
    let mut archive = Archive::new(reader);
    for entry in archive.entries().map_err(failed)? {
        cancel.check()?;
        unpacking.place(entry.map_err(failed)?)?;
    }
    unpacking.finish()
}

struct Unpacking<'a> {
    root: &'a View,
    base: PathBuf,
    owner: Option<Owner>,
    name: &'a str,
    recent: Option<(PathBuf, Rc<OwnedFd>)>,
    /// What folders get once nothing more is put into them.
    folders: HashMap<PathBuf, Meta>,
}

impl Unpacking<'_> {
    fn failed(&self, source: io::Error) -> BuildError {
        BuildError::Archive {
            name: self.name.to_string(),
            source,
        }
    }

    fn refused(&self, reason: String) -> BuildError {
        self.failed(io::Error::new(io::ErrorKind::InvalidData, reason))
    }

    fn inside(&self, path: &Path) -> Result<PathBuf> {
        let mut inside = PathBuf::new();
        for part in path.components() {
            match part {
                Component::Normal(name) => inside.push(name),
                Component::CurDir | Component::RootDir => {}
                Component::ParentDir | Component::Prefix(_) => {
                    return Err(self.refused(format!("member {path:?} leads out of the archive")));
                }
            }
        }
        Ok(inside)
    }

    fn folder(&mut self, inside: &Path) -> Result<Rc<OwnedFd>> {
        if let Some((path, folder)) = &self.recent
            && path == inside
        {
            return Ok(Rc::clone(folder));
        }
        let folder = Rc::new(ensure_folder(self.root, &self.base.join(inside), self.owner)?);
        self.recent = Some((inside.to_path_buf(), Rc::clone(&folder)));
        Ok(folder)
    }

    fn place(&mut self, mut entry: Entry<'_, Box<dyn Read + '_>>) -> Result<()> {
        let path = entry.path().map_err(|error| self.failed(error))?.into_owned();
        let inside = self.inside(&path)?;
        let meta = self.meta(&mut entry)?;
        let Some(name) = inside.file_name() else {
            // The archive's own root: the destination keeps its mode and owner.
            return Ok(());
        };
        let spot = Spot {
            folder: self.folder(inside.parent().unwrap_or(Path::new("")))?,
            name: name.to_os_string(),
            path: self.base.join(&inside),
        };
        let link = |unpacking: &Self, entry: &Entry<'_, Box<dyn Read + '_>>| {
            let name = entry.link_name().map_err(|error| unpacking.failed(error))?;
            name.map(|name| name.into_owned())
                .ok_or_else(|| unpacking.refused(format!("member {path:?} is a link to nothing")))
        };
        match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => spot.write_file(&mut entry, &meta),
            EntryType::Directory => {
                spot.make_folder()?;
                self.folders.insert(inside, meta);
                Ok(())
            }
            EntryType::Symlink => spot.make_link(&link(self, &entry)?, &meta),
            EntryType::Link => {
                let first = self.base.join(self.inside(&link(self, &entry)?)?);
                spot.link_to(self.root, &first)
            }
            EntryType::Char => self.special(&spot, &entry, nix::libc::S_IFCHR, &meta),
            EntryType::Block => self.special(&spot, &entry, nix::libc::S_IFBLK, &meta),
            EntryType::Fifo => spot.make_special(nix::libc::S_IFIFO, 0, &meta),
            // Global headers and what nobody knows.
            _ => Ok(()),
        }
    }

    fn special(&self, spot: &Spot, entry: &Entry<'_, Box<dyn Read + '_>>, format: u32, meta: &Meta) -> Result<()> {
        let number =
            |found: io::Result<Option<u32>>| found.map(Option::unwrap_or_default).map_err(|error| self.failed(error));
        let (major, minor) = (
            number(entry.header().device_major())?,
            number(entry.header().device_minor())?,
        );
        spot.make_special(
            format,
            nix::sys::stat::makedev(u64::from(major), u64::from(minor)),
            meta,
        )
    }

    fn meta(&self, entry: &mut Entry<'_, Box<dyn Read + '_>>) -> Result<Meta> {
        let header = entry.header();
        let number = |found: io::Result<u64>| found.map(|id| u32::try_from(id).unwrap_or(0));
        let of_archive = || -> io::Result<Owner> {
            Ok(Owner {
                uid: number(header.uid())?,
                gid: number(header.gid())?,
            })
        };
        let owner = match self.owner {
            Some(owner) => owner,
            None => of_archive().map_err(|error| self.failed(error))?,
        };
        let mode = header.mode().map_err(|error| self.failed(error))? & 0o7777;
        let mtime = header.mtime().map_err(|error| self.failed(error))?;
        Ok(Meta {
            uid: owner.uid,
            gid: owner.gid,
            mode,
            mtime: (i64::try_from(mtime).unwrap_or(0), 0),
            attributes: self.attributes(entry)?,
        })
    }

    fn attributes(&self, entry: &mut Entry<'_, Box<dyn Read + '_>>) -> Result<Vec<(OsString, Vec<u8>)>> {
        let Some(extensions) = entry.pax_extensions().map_err(|error| self.failed(error))? else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        for extension in extensions {
            let extension = extension.map_err(|error| self.failed(error))?;
            if let Some(name) = extension.key_bytes().strip_prefix(b"SCHILY.xattr.") {
                found.push((OsStr::from_bytes(name).to_os_string(), extension.value_bytes().to_vec()));
            }
        }
        Ok(found)
    }

    fn finish(mut self) -> Result<()> {
        self.recent = None;
        for (inside, meta) in std::mem::take(&mut self.folders) {
            let folder = self.folder(&inside)?;
            meta.apply_to_folder(&folder, &self.base.join(&inside))?;
        }
        Ok(())
    }
}
