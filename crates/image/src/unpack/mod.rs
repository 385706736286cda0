//! A layer's tar becomes a folder that overlayfs can use as a lower layer.
//!
//! **Invariant:** nothing is ever created, changed or removed outside the target folder, whatever the tar says: every path is
//! resolved by the kernel with the target as its root ([`root::Root`]), and last components are never followed.
//! Whiteouts become overlayfs' own: a character device 0/0, and `trusted.overlay.opaque` on the folder.
//! Deliberately not here: which layers, where to, and when they become visible ([`crate::Store::unpack`]).

mod file;
mod root;

use std::io::Read;
use std::path::Path;

use gantry_model::Digest;
use rustix::fs::FileType;

use crate::error::{ImageError, Result};
use crate::hashing::HashingReader;
use crate::layer_record::{Extent, measure};
use crate::limits::Limits;
use crate::tarball::{Kind, Member, TarError, TarReader};
use file::Failure;
pub(crate) use file::is_wanted_xattr;
use root::{Place, Root};
pub(crate) use root::{XATTR_OPAQUE, clean};

/// The prefix of a file that hides one of a lower layer (OCI image specification, "Whiteouts").
pub(crate) const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// Hides all of the folder's content in lower layers.
pub(crate) const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";
/// Other files of AUFS' own book-keeping, which old archives hold.
const WHITEOUT_META_PREFIX: &[u8] = b".wh..wh.";

/// Copies through this much at a time.
const COPY_BUFFER_BYTES: usize = 128 << 10;

/// Unpacks the layer into the existing empty folder `target`; returns the digest of the tar and what the folder holds.
/// `plain` is decompressed already.
pub(crate) fn unpack_layer(plain: impl Read, target: &Path, what: &str, limits: Limits) -> Result<(Digest, Extent)> {
    let archive = |source| ImageError::Archive {
        what: what.to_string(),
        source,
    };
    let mut hashing = HashingReader::new(plain);
    let mut tar = TarReader::new(&mut hashing, limits);
    let root = Root::open(target).map_err(ImageError::io("open", target))?;
    let mut unpacking = Unpacking {
        root,
        folders: Vec::new(),
        extent: Extent::default(),
        recount: false,
        buffer: vec![0; COPY_BUFFER_BYTES],
    };
    while let Some(member) = tar.next_member().map_err(archive)? {
        unpacking.apply(&member, &mut tar).map_err(|failure| match failure {
            Failure::Tar(source) => archive(source),
            Failure::System(source) => ImageError::Member {
                what: what.to_string(),
                member: member.name(),
                source,
            },
        })?;
    }
    tar.drain().map_err(archive)?;
    unpacking.restore_folder_times();
    let extent = unpacking.extent(target).map_err(ImageError::io("read", target))?;
    Ok((hashing.digest(), extent))
}

struct Unpacking {
    root: Root,
    /// Folders and their times: set at the end, since every entry made in a folder changes it.
    folders: Vec<(Vec<u8>, (i64, u32))>,
    extent: Extent,
    /// A member replaced another one, so the extent is no longer known from counting.
    recount: bool,
    buffer: Vec<u8>,
}

impl Unpacking {
    fn apply<R: Read>(&mut self, member: &Member, tar: &mut TarReader<R>) -> std::result::Result<(), Failure> {
        let parts = root::clean(&member.path).map_err(|reason| unsafe_member(member, reason))?;
        let Some((name, parent)) = parts.split_last() else {
            return self.apply_to_root(member);
        };
        let place = self.root.place(parent, name)?;
        if name.starts_with(WHITEOUT_PREFIX) {
            return self.whiteout(member, &place, name);
        }
        match member.kind {
            Kind::Directory => self.folder(member, &place, &parts)?,
            Kind::HardLink => self.hard_link(member, &place)?,
            Kind::File | Kind::Symlink | Kind::CharDevice { .. } | Kind::BlockDevice { .. } | Kind::Fifo => {
                self.file(member, &place, tar)?;
            }
        }
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        member: &Member,
        place: &Place,
        tar: &mut TarReader<R>,
    ) -> std::result::Result<(), Failure> {
        self.extent.entries += 1;
        if member.kind != Kind::File {
            self.clear(place)?;
            return file::create_special(member, place);
        }
        self.extent.bytes += member.size;
        // Hardly ever is there something already, so that is found out by trying.
        let file = match place.create_file() {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                self.clear(place)?;
                place.create_file()?
            }
            result => result?,
        };
        file::write_file(member, file, tar, &mut self.buffer)
    }

    /// Removes what an earlier member put here.
    fn clear(&mut self, place: &Place) -> std::io::Result<()> {
        self.recount |= self.root.clear(place)?;
        Ok(())
    }

    fn extent(&self, target: &Path) -> std::io::Result<Extent> {
        if self.recount {
            return measure(target);
        }
        Ok(Extent {
            entries: self.extent.entries + self.root.folders_made(),
            ..self.extent
        })
    }

    fn apply_to_root(&mut self, member: &Member) -> std::result::Result<(), Failure> {
        if member.kind != Kind::Directory {
            return Err(unsafe_member(member, "only a folder can be the root"));
        }
        file::set_metadata(member, &self.root.itself()?)?;
        self.folders.push((b".".to_vec(), member.mtime));
        Ok(())
    }

    fn folder(&mut self, member: &Member, place: &Place, parts: &[&[u8]]) -> std::result::Result<(), Failure> {
        match place.file_type()? {
            Some(FileType::Directory) => {}
            existing => {
                let hides = existing == Some(FileType::CharacterDevice) && place.is_whiteout()?;
                self.clear(place)?;
                place.make_folder()?;
                self.extent.entries += 1;
                if hides {
                    // The whiteout of this very layer hid the lower folder; the new one must not show its content again.
                    place.set_opaque()?;
                }
            }
        }
        file::set_metadata(member, place)?;
        self.folders.push((parts.join(&b'/'), member.mtime));
        Ok(())
    }

    fn hard_link(&mut self, member: &Member, place: &Place) -> std::result::Result<(), Failure> {
        let parts = root::clean(&member.link).map_err(|reason| unsafe_member(member, reason))?;
        let (name, parent) = parts
            .split_last()
            .ok_or_else(|| unsafe_member(member, "a hard link to the root"))?;
        let target = self.root.existing_place(parent, name)?;
        match target.file_type()? {
            Some(FileType::Directory) => return Err(unsafe_member(member, "a hard link to a folder")),
            None => return Err(unsafe_member(member, "a hard link to a file that is not in its layer")),
            Some(_) => {}
        }
        if target.is_same_file(place)? {
            return Ok(());
        }
        self.clear(place)?;
        self.extent.entries += 1;
        Ok(place.link_to(&target)?)
    }

    fn whiteout(&mut self, member: &Member, place: &Place, name: &[u8]) -> std::result::Result<(), Failure> {
        if name == WHITEOUT_OPAQUE {
            return Ok(place.parent_set_opaque()?);
        }
        if name.starts_with(WHITEOUT_META_PREFIX) {
            return Ok(());
        }
        let hidden = &name[WHITEOUT_PREFIX.len()..];
        if hidden.is_empty() || hidden == b"." || hidden == b".." {
            return Err(unsafe_member(member, "a whiteout of no file"));
        }
        let place = place.sibling(hidden);
        match place.file_type()? {
            None => {
                self.extent.entries += 1;
                Ok(place.make_whiteout()?)
            }
            // A whiteout speaks of lower layers only; what this layer itself holds stays, and hides what is below.
            Some(FileType::Directory) => Ok(place.set_opaque()?),
            Some(_) => Ok(()),
        }
    }

    /// Times are a courtesy: a folder replaced by a later member has none to restore.
    fn restore_folder_times(&mut self) {
        for (path, mtime) in std::mem::take(&mut self.folders).iter().rev() {
            if let Err(error) = self.root.set_folder_time(path, *mtime) {
                tracing::debug!(path = %String::from_utf8_lossy(path), %error, "folder time not restored");
            }
        }
    }
}

fn unsafe_member(member: &Member, reason: &'static str) -> Failure {
    Failure::Tar(TarError::Unsafe {
        member: member.name(),
        reason,
    })
}
