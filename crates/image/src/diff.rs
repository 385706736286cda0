//! A folder that overlayfs uses as a layer becomes that layer's tar.
//!
//! **Invariant:** the same files make the same bytes: entries come in order of their names, with whole seconds and without what
//! is overlayfs' own; whether a file is written with holes depends on its content, not on how its file system stores it.
//! **Invariant:** nothing outside the folder is read: every path is opened by the kernel below it, links never followed.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, XattrFlags, lgetxattr,
    llistxattr, lremovexattr, lsetxattr, openat, openat2, statat, unlinkat, utimensat,
};
use rustix::io::Errno;

use crate::error::{ImageError, Result};
use crate::layer_record::Extent;
use crate::limits::{PATH_BYTES_MAX, SPARSE_SEGMENTS_MAX};
use crate::tarball::{Entry, Kind, Segment, TarWriter};
use crate::unpack::{WHITEOUT_OPAQUE, WHITEOUT_PREFIX, XATTR_OPAQUE, is_wanted_xattr};

const XATTR_OVERLAY_USER: &[u8] = b"user.overlay.";
const COPY_BUFFER_BYTES: usize = 256 << 10;
/// Files below this size are written as they are; finding holes costs a second reading.
const SPARSE_FILE_BYTES_MIN: u64 = 4 << 20;
/// Holes are looked for in aligned blocks of this size.
const HOLE_BYTES: u64 = 1 << 20;
/// The mode and owner that `/` has unless the layer says otherwise.
const ROOT_MODE: u32 = 0o755;

/// What may be done to the folder on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Care {
    /// It has just been written by a container: overlayfs' book-keeping and sockets go, and times later than the epoch
    /// (in seconds) become it.
    TakeOver { epoch: Option<i64> },
    /// It is a layer of the store.
    LeaveAlone,
}

/// Writes the tar of the layer in `folder` and returns the sink and what the folder holds.
pub(crate) fn write_layer<W: Write>(folder: &Path, care: Care, sink: W) -> Result<(W, Extent)> {
    let mut walk = Walk::new(folder, care, sink)?;
    walk.root_folder()?;
    while let Some(path) = walk.pending.pop() {
        walk.visit(&path)?;
    }
    let sink = walk.tar.finish().map_err(ImageError::io("write the tar of", folder))?;
    Ok((sink, walk.extent))
}

/// Writes the given entries as one tar: each path from the folder that it is found in.
pub(crate) fn write_entries<'a, W: Write>(
    folders: &[PathBuf],
    entries: impl Iterator<Item = (&'a [u8], usize)>,
    sink: W,
) -> Result<W> {
    let Some(first) = folders.first() else {
        return TarWriter::new(sink).finish().map_err(|error| ImageError::Sink {
            what: "the tar".to_string(),
            source: error,
        });
    };
    let mut walk = Walk::new(first, Care::LeaveAlone, sink)?;
    walk.alone = true;
    let roots: Vec<Rc<OwnedFd>> = folders.iter().map(|folder| open_root(folder)).collect::<Result<_>>()?;
    for (path, number) in entries {
        if !Rc::ptr_eq(&walk.root, &roots[number]) {
            walk.root = Rc::clone(&roots[number]);
            walk.folder.clone_from(&folders[number]);
            walk.recent = None;
        }
        walk.visit(path)?;
    }
    walk.tar.finish().map_err(ImageError::io("write the tar of", first))
}

fn open_root(folder: &Path) -> Result<Rc<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = openat(CWD, folder, flags, Mode::empty());
    root.map(Rc::new)
        .map_err(|error| ImageError::io("open", folder)(error.into()))
}

struct Walk<W> {
    root: Rc<OwnedFd>,
    folder: PathBuf,
    /// The last parent used.
    recent: Option<(Vec<u8>, Rc<OwnedFd>)>,
    /// Paths still to come, the next one last.
    pending: Vec<Vec<u8>>,
    /// First path of every file with several names, by device and inode.
    linked: HashMap<(u64, u64), Vec<u8>>,
    care: Care,
    extent: Extent,
    tar: TarWriter<W>,
    buffer: Vec<u8>,
    /// Folders come without what is in them.
    alone: bool,
}

/// One entry of the folder.
struct Found {
    parent: Rc<OwnedFd>,
    name: Vec<u8>,
    stat: Stat,
}

impl Found {
    fn name(&self) -> &OsStr {
        OsStr::from_bytes(&self.name)
    }

    /// For calls that have no `at` form; the last component is never followed by them.
    fn proc_path(&self) -> PathBuf {
        Path::new(&format!("/proc/self/fd/{}", self.parent.as_raw_fd())).join(self.name())
    }

    fn attribute(&self, name: &OsStr) -> rustix::io::Result<Vec<u8>> {
        let path = self.proc_path();
        let mut value = vec![0; 256];
        loop {
            match lgetxattr(&path, name, &mut value[..]) {
                Err(Errno::RANGE) => value = vec![0; value.len() * 8],
                Ok(length) => {
                    value.truncate(length);
                    return Ok(value);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn attribute_names(&self) -> rustix::io::Result<Vec<Vec<u8>>> {
        let path = self.proc_path();
        let mut list = vec![0u8; 1024];
        let length = loop {
            match llistxattr(&path, &mut list[..]) {
                Err(Errno::RANGE) => list = vec![0; list.len() * 8],
                // A file system without attributes.
                Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
                result => break result?,
            }
        };
        let names = list[..length].split(|byte| *byte == 0);
        Ok(names.filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
    }

    fn set_time(&self, seconds: i64, nanos: i64) -> rustix::io::Result<()> {
        let time = Timespec {
            tv_sec: seconds,
            tv_nsec: nanos as _,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        utimensat(&self.parent, self.name(), &times, AtFlags::SYMLINK_NOFOLLOW)
    }
}

impl<W: Write> Walk<W> {
    fn new(folder: &Path, care: Care, sink: W) -> Result<Self> {
        Ok(Self {
            root: open_root(folder)?,
            folder: folder.to_path_buf(),
            recent: None,
            pending: Vec::new(),
            linked: HashMap::new(),
            care,
            extent: Extent::default(),
            tar: TarWriter::new(sink),
            buffer: vec![0; COPY_BUFFER_BYTES],
            alone: false,
        })
    }

    fn path(&self, path: &[u8]) -> PathBuf {
        self.folder.join(OsStr::from_bytes(path))
    }

    fn failed(&self, act: &'static str, path: &[u8], error: impl Into<io::Error>) -> ImageError {
        ImageError::io(act, self.path(path))(error.into())
    }

    fn refused(path: &[u8], reason: &'static str) -> ImageError {
        ImageError::Upper {
            path: String::from_utf8_lossy(path).into_owned(),
            reason,
        }
    }

    /// `/` appears only where it differs from what every root is.
    fn root_folder(&mut self) -> Result<()> {
        let stat = statat(&self.root, ".", AtFlags::empty()).map_err(|error| self.failed("read", b"", error))?;
        let found = Found {
            parent: Rc::clone(&self.root),
            name: b".".to_vec(),
            stat,
        };
        let (xattrs, opaque) = self.attributes(b"", &found)?;
        let names = self.list(b"", &found)?;
        self.clamp(b"", &found)?;
        if stat.st_mode & 0o7777 != ROOT_MODE || stat.st_uid != 0 || stat.st_gid != 0 || !xattrs.is_empty() {
            self.begin(b"./", Kind::Directory, b"", &found, &xattrs)?;
        }
        if opaque {
            self.whiteout(WHITEOUT_OPAQUE)?;
        }
        self.pending.extend(names.into_iter().rev());
        Ok(())
    }

    fn visit(&mut self, path: &[u8]) -> Result<()> {
        if path.len() > PATH_BYTES_MAX {
            return Err(Self::refused(path, "its path is longer than any path may be"));
        }
        let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (b"".as_slice(), path),
        };
        if name.starts_with(WHITEOUT_PREFIX) {
            return Err(Self::refused(
                path,
                "names that begin with .wh. mean removal in image layers",
            ));
        }
        let parent = self.parent(parent)?;
        let stat = statat(&parent, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| self.failed("read", path, error))?;
        let found = Found {
            parent,
            name: name.to_vec(),
            stat,
        };
        self.extent.entries += 1;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => return self.directory(path, &found),
            FileType::RegularFile => return self.file(path, &found),
            FileType::CharacterDevice if stat.st_rdev == 0 => {
                let hidden = [&path[..path.len() - name.len()], WHITEOUT_PREFIX, name].concat();
                return self.whiteout(&hidden);
            }
            FileType::Symlink => Kind::Symlink,
            FileType::Fifo => Kind::Fifo,
            FileType::CharacterDevice => Kind::CharDevice {
                major: rustix::fs::major(stat.st_rdev),
                minor: rustix::fs::minor(stat.st_rdev),
            },
            FileType::BlockDevice => Kind::BlockDevice {
                major: rustix::fs::major(stat.st_rdev),
                minor: rustix::fs::minor(stat.st_rdev),
            },
            // A socket means nothing without the process that made it; tars have no place for one.
            FileType::Socket | FileType::Unknown => return Ok(()),
        };
        self.special(path, kind, &found)
    }

    fn directory(&mut self, path: &[u8], found: &Found) -> Result<()> {
        let (xattrs, opaque) = self.attributes(path, found)?;
        let slashed = [path, b"/"].concat();
        if self.alone {
            return self.begin(&slashed, Kind::Directory, b"", found, &xattrs);
        }
        let names = self.list(path, found)?;
        self.clamp(path, found)?;
        self.begin(&slashed, Kind::Directory, b"", found, &xattrs)?;
        if opaque {
            self.whiteout(&[&slashed, WHITEOUT_OPAQUE].concat())?;
        }
        self.pending
            .extend(names.into_iter().rev().map(|name| [&slashed, name.as_slice()].concat()));
        Ok(())
    }

    fn special(&mut self, path: &[u8], kind: Kind, found: &Found) -> Result<()> {
        self.clamp(path, found)?;
        if found.stat.st_nlink > 1 && self.link(path, found)? {
            return Ok(());
        }
        let (xattrs, _) = self.attributes(path, found)?;
        let target = match kind {
            Kind::Symlink => rustix::fs::readlinkat(&found.parent, found.name(), Vec::new())
                .map_err(|error| self.failed("read", path, error))?
                .into_bytes(),
            _ => Vec::new(),
        };
        self.begin(path, kind, &target, found, &xattrs)
    }

    fn file(&mut self, path: &[u8], found: &Found) -> Result<()> {
        self.clamp(path, found)?;
        if found.stat.st_nlink > 1 && self.link(path, found)? {
            return Ok(());
        }
        let (xattrs, _) = self.attributes(path, found)?;
        let size = found.stat.st_size as u64;
        self.extent.bytes += size;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = openat(&found.parent, found.name(), flags, Mode::empty());
        let mut file = File::from(opened.map_err(|error| self.failed("open", path, error))?);
        let segments = data_segments(&file, size).map_err(|error| self.failed("read", path, error))?;
        self.begin_file(path, found, &xattrs, segments.as_deref())?;
        let whole = [Segment {
            offset: 0,
            length: size,
        }];
        for segment in segments.as_deref().unwrap_or(&whole) {
            self.copy(path, &mut file, *segment)?;
        }
        Ok(())
    }

    fn copy(&mut self, path: &[u8], file: &mut File, segment: Segment) -> Result<()> {
        // Looking for holes has moved it.
        file.seek(SeekFrom::Start(segment.offset))
            .map_err(|error| self.failed("read", path, error))?;
        let mut rest = segment.length;
        while rest > 0 {
            let step = rest.min(self.buffer.len() as u64) as usize;
            let count = match file.read(&mut self.buffer[..step]) {
                Ok(0) => return Err(Self::refused(path, "it shrank while it was read")),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.failed("read", path, error)),
            };
            let written = self.tar.data(&self.buffer[..count]);
            written.map_err(|error| self.failed("write the tar of", path, error))?;
            rest -= count as u64;
        }
        Ok(())
    }

    /// Writes a hard link when the file has been seen by another name.
    fn link(&mut self, path: &[u8], found: &Found) -> Result<bool> {
        let id = (found.stat.st_dev, found.stat.st_ino);
        let Some(first) = self.linked.get(&id).cloned() else {
            self.linked.insert(id, path.to_vec());
            return Ok(false);
        };
        self.begin(path, Kind::HardLink, &first, found, &Attributes::new())?;
        Ok(true)
    }

    fn begin(&mut self, path: &[u8], kind: Kind, link: &[u8], found: &Found, xattrs: &Attributes) -> Result<()> {
        let entry = self.entry(path, kind, found, xattrs);
        let written = self.tar.begin(&Entry { link, ..entry });
        written.map_err(|error| self.failed("write the tar of", path, error))
    }

    fn begin_file(
        &mut self,
        path: &[u8],
        found: &Found,
        xattrs: &Attributes,
        segments: Option<&[Segment]>,
    ) -> Result<()> {
        let entry = self.entry(path, Kind::File, found, xattrs);
        let written = self.tar.begin(&Entry {
            size: found.stat.st_size as u64,
            segments,
            ..entry
        });
        written.map_err(|error| self.failed("write the tar of", path, error))
    }

    fn entry<'a>(&self, path: &'a [u8], kind: Kind, found: &Found, xattrs: &'a Attributes) -> Entry<'a> {
        let mtime = found.stat.st_mtime;
        Entry {
            path,
            kind,
            link: b"",
            mode: found.stat.st_mode & 0o7777,
            uid: found.stat.st_uid,
            gid: found.stat.st_gid,
            mtime: self.epoch().map_or(mtime, |epoch| mtime.min(epoch)),
            size: 0,
            xattrs,
            segments: None,
        }
    }

    /// An empty file whose name says what is hidden. Always of the same time: when something was removed is no content.
    fn whiteout(&mut self, path: &[u8]) -> Result<()> {
        let written = self.tar.begin(&Entry {
            path,
            kind: Kind::File,
            link: b"",
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: 0,
            size: 0,
            xattrs: &[],
            segments: None,
        });
        written.map_err(|error| self.failed("write the tar of", path, error))
    }

    const fn epoch(&self) -> Option<i64> {
        match self.care {
            Care::TakeOver { epoch } => epoch,
            Care::LeaveAlone => None,
        }
    }

    /// Gives what is later than the epoch its time, so that the folder and its tar say the same.
    fn clamp(&self, path: &[u8], found: &Found) -> Result<()> {
        match self.epoch() {
            Some(epoch) if found.stat.st_mtime >= epoch => found
                .set_time(epoch, 0)
                .map_err(|error| self.failed("set the time of", path, error)),
            _ => Ok(()),
        }
    }

    /// The attributes that belong to an image, in order, and whether the folder hides what is below.
    fn attributes(&self, path: &[u8], found: &Found) -> Result<(Attributes, bool)> {
        let failed = |error| self.failed("read the attributes of", path, error);
        let mut attributes = Attributes::new();
        let mut opaque = false;
        for name in found.attribute_names().map_err(failed)? {
            if is_wanted_xattr(&name) {
                let value = found.attribute(OsStr::from_bytes(&name)).map_err(failed)?;
                attributes.push((name, value));
            } else if let Some(own) = overlay_name(&name) {
                opaque |= own == b"opaque" && found.attribute(OsStr::from_bytes(&name)).map_err(failed)? == b"y";
                self.take_over(path, found, &name, own)?;
            }
        }
        if opaque && self.care != Care::LeaveAlone {
            lsetxattr(found.proc_path(), XATTR_OPAQUE, b"y", XattrFlags::empty()).map_err(failed)?;
        }
        attributes.sort();
        Ok((attributes, opaque))
    }

    /// Removes what overlayfs notes for itself in an upper folder; a lower one must not have it.
    fn take_over(&self, path: &[u8], found: &Found, name: &[u8], own: &[u8]) -> Result<()> {
        if self.care == Care::LeaveAlone || name == XATTR_OPAQUE.as_bytes() {
            return Ok(());
        }
        if own == b"redirect" || own == b"metacopy" {
            return Err(Self::refused(
                path,
                "the overlay was mounted with redirect_dir or metacopy; mount it with both off",
            ));
        }
        lremovexattr(found.proc_path(), OsStr::from_bytes(name))
            .map_err(|error| self.failed("clean the attributes of", path, error))
    }

    /// Names in a folder, in order; sockets of one taken over are removed.
    fn list(&mut self, path: &[u8], found: &Found) -> Result<Vec<Vec<u8>>> {
        let folder = self.parent(path)?;
        let failed = |error: Errno| self.failed("list", path, error);
        let mut names = Vec::new();
        let mut removed = false;
        for entry in Dir::read_from(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if name.to_bytes() == b"." || name.to_bytes() == b".." {
                continue;
            }
            if entry.file_type() == FileType::Socket && self.care != Care::LeaveAlone {
                unlinkat(&folder, name, AtFlags::empty()).map_err(failed)?;
                removed = true;
                continue;
            }
            names.push(name.to_bytes().to_vec());
        }
        if removed {
            let time = found.set_time(found.stat.st_mtime, found.stat.st_mtime_nsec as i64);
            time.map_err(|error| self.failed("set the time of", path, error))?;
        }
        names.sort_unstable();
        Ok(names)
    }

    /// The open folder at this path.
    fn parent(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>> {
        if path.is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        if let Some((recent, folder)) = &self.recent
            && recent == path
        {
            return Ok(Rc::clone(folder));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let folder = loop {
            // EAGAIN: something was renamed anywhere meanwhile; `..` is never in the path, so it is rare.
            match openat2(&self.root, OsStr::from_bytes(path), flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN) => {}
                result => break Rc::new(result.map_err(|error| self.failed("open", path, error))?),
            }
        };
        self.recent = Some((path.to_vec(), Rc::clone(&folder)));
        Ok(folder)
    }
}

type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

fn overlay_name(name: &[u8]) -> Option<&[u8]> {
    let trusted = name.strip_prefix(b"trusted.overlay.");
    trusted.or_else(|| name.strip_prefix(XATTR_OVERLAY_USER))
}

/// Where the data of a file are, when at least half of it is holes; none to write it as it is.
fn data_segments(file: &File, size: u64) -> io::Result<Option<Vec<Segment>>> {
    if size < SPARSE_FILE_BYTES_MIN {
        return Ok(None);
    }
    let mut block = vec![0; HOLE_BYTES as usize];
    let mut segments: Vec<Segment> = Vec::new();
    let (mut offset, mut data) = (0, 0);
    while offset < size {
        // Only to be quick over holes: what a file system stores as zeros ends in the same segments.
        let next = match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(offset)) {
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL) => offset,
            result => result?,
        };
        offset = next - next % HOLE_BYTES;
        let length = HOLE_BYTES.min(size - offset);
        let block = &mut block[..length as usize];
        file.read_exact_at(block, offset)?;
        if block.iter().any(|byte| *byte != 0) {
            data += length;
            if data > size / 2 {
                return Ok(None);
            }
            match segments.last_mut() {
                Some(last) if last.offset + last.length == offset => last.length += length,
                _ => segments.push(Segment { offset, length }),
            }
        }
        offset += length;
    }
    if segments.len() >= SPARSE_SEGMENTS_MAX {
        return Ok(None);
    }
    // GNU tar marks a hole at the end by an empty segment.
    if segments.last().is_none_or(|last| last.offset + last.length < size) {
        segments.push(Segment {
            offset: size,
            length: 0,
        });
    }
    Ok(Some(segments))
}
