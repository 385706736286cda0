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

use crate::compress::decompress;
use crate::error::{ImageError, Result};
use crate::hashing::HashingReader;
use crate::limits::Limits;
use crate::tarball::{Kind, Member, TarError, TarReader};
use file::Failure;
pub(crate) use root::clean;
use root::{Place, Root};

/// The prefix of a file that hides one of a lower layer (OCI image specification, "Whiteouts").
const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// Hides all of the folder's content in lower layers.
const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";
/// Other files of AUFS' own book-keeping, which old archives hold.
const WHITEOUT_META_PREFIX: &[u8] = b".wh..wh.";

/// Unpacks the layer into the existing empty folder `target` and returns the digest of the decompressed tar.
pub(crate) fn unpack_layer(source: impl Read, target: &Path, what: &str, limits: Limits) -> Result<Digest> {
    let archive = |source| ImageError::Archive {
        what: what.to_string(),
        source,
    };
    let (_, plain) = decompress(source).map_err(|error| archive(TarError::Read(error)))?;
    let mut hashing = HashingReader::new(plain);
    let mut tar = TarReader::new(&mut hashing, limits);
    let root = Root::open(target).map_err(ImageError::io("open", target))?;
    let mut unpacking = Unpacking {
        root,
        folders: Vec::new(),
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
    Ok(hashing.digest())
}

struct Unpacking {
    root: Root,
    /// Folders and their times: set at the end, since every entry made in a folder changes it.
    folders: Vec<(Vec<u8>, (i64, u32))>,
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
                self.root.clear(&place)?;
                file::create(member, &place, tar)?;
            }
        }
        Ok(())
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
                self.root.clear(place)?;
                place.make_folder()?;
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
        self.root.clear(place)?;
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
            None => Ok(place.make_whiteout()?),
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
