//! The walk over the members of a tar, in one pass, with bounds on everything.

use std::io::{self, Read};

use tar::{EntryType, GnuExtSparseHeader, Header};

use super::TarError;
use super::header::{checksum_holds, number};
use super::pax::{self, Pax};
use super::sparse::{MapParser, Segment, SegmentList};
use crate::limits::{Limits, PATH_BYTES_MAX, TAR_BLOCK_BYTES, TAR_EXTENSION_BYTES_MAX};

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Fifo,
}

/// One member, extension headers applied. Its data are read from the [`TarReader`] until the next member is asked for.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds and nanoseconds since the epoch.
    pub(crate) mtime: (i64, u32),
    /// Bytes of the file; of a sparse one, holes included.
    pub(crate) size: u64,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) sparse: Option<Vec<Segment>>,
}

impl Member {
    /// For messages.
    pub(crate) fn name(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }
}

/// What extension headers said about the member to come.
#[derive(Debug, Default)]
struct Extension {
    pax: Pax,
    long_path: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

/// Reads one tar, already decompressed.
pub(crate) struct TarReader<R> {
    source: R,
    limits: Limits,
    position: u64,
    entries: u64,
    /// Data of the current member not read yet.
    body: u64,
    /// Zeros after them, up to the next block.
    padding: u64,
    ended: bool,
    complete: bool,
}

type Block = [u8; TAR_BLOCK_BYTES];

impl<R: Read> TarReader<R> {
    pub(crate) fn new(source: R, limits: Limits) -> Self {
        Self {
            source,
            limits,
            position: 0,
            entries: 0,
            body: 0,
            padding: 0,
            ended: false,
            complete: false,
        }
    }

    /// The next member, or none at the end.
    pub(crate) fn next_member(&mut self) -> Result<Option<Member>, TarError> {
        let mut extension = Extension::default();
        loop {
            self.skip_body()?;
            let Some(block) = self.next_header()? else {
                return Ok(None);
            };
            let header = Header::from_byte_slice(&block);
            let size = self.field(&header.as_old().size, "size")?;
            match header.entry_type() {
                EntryType::XHeader => {
                    let data = self.extension_body(size)?;
                    extension.pax = pax::parse(&data).map_err(|reason| self.malformed(reason))?;
                }
                // Global records describe the archive (git puts its commit there); layers have no use for them.
                EntryType::XGlobalHeader => drop(self.extension_body(size)?),
                EntryType::GNULongName => extension.long_path = Some(until_zero(&self.extension_body(size)?)),
                EntryType::GNULongLink => extension.long_link = Some(until_zero(&self.extension_body(size)?)),
                _ => return self.member(header, extension, size).map(Some),
            }
        }
    }

    /// Whether the tar ended with its end mark; without one it may have been cut off between two members.
    pub(crate) const fn is_complete(&self) -> bool {
        self.complete
    }

    /// Reads what follows the last member, so that a digest of the whole stream comes out right.
    pub(crate) fn drain(&mut self) -> Result<(), TarError> {
        let mut buffer = vec![0; 64 << 10];
        while self.read_some(&mut buffer)? > 0 {}
        Ok(())
    }

    /// Bytes read so far.
    pub(crate) const fn position(&self) -> u64 {
        self.position
    }

    fn next_header(&mut self) -> Result<Option<Block>, TarError> {
        if self.ended {
            return Ok(None);
        }
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(TarError::TooLarge {
                limit: self.limits.entries,
                unit: "members",
            });
        }
        let mut block = [0; TAR_BLOCK_BYTES];
        match self.fill(&mut block)? {
            0 => {
                self.ended = true;
                return Ok(None);
            }
            TAR_BLOCK_BYTES => {}
            _ => return Err(self.truncated()),
        }
        if block.iter().all(|byte| *byte == 0) {
            self.ended = true;
            self.complete = true;
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block);
        if !checksum_holds(&block, &header.as_old().cksum) {
            return Err(self.malformed("the header's checksum is wrong"));
        }
        Ok(Some(block))
    }

    fn member(&mut self, header: &Header, extension: Extension, size: u64) -> Result<Member, TarError> {
        let Extension {
            pax,
            long_path,
            long_link,
        } = extension;
        let sparse_name = pax.sparse.as_ref().and_then(|sparse| sparse.name.clone());
        let path = sparse_name.or(long_path).or(pax.path);
        let path = path.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = long_link.or(pax.link);
        let link = link.unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned());
        self.check_path(&path)?;
        self.check_path(&link)?;
        let kind = self.kind(header, &path)?;
        let has_body = kind == Kind::File;
        // Only files have data; a size given for a link or folder means nothing (as Go's reader, and so Docker, has it).
        let stored = if has_body { pax.size.unwrap_or(size) } else { 0 };
        self.start_body(stored)?;
        let (sparse, size) = self.segments(header, pax.sparse.as_ref(), &path, stored)?;
        let old = header.as_old();
        Ok(Member {
            kind,
            mode: (self.field(&old.mode, "mode")? & 0o7777) as u32,
            uid: self.owner(pax.uid, &old.uid)?,
            gid: self.owner(pax.gid, &old.gid)?,
            mtime: match pax.mtime {
                Some(mtime) => mtime,
                None => (
                    number(&old.mtime).ok_or_else(|| self.malformed("mtime is not a number"))?,
                    0,
                ),
            },
            size,
            xattrs: pax.xattrs,
            sparse,
            path,
            link,
        })
    }

    fn kind(&self, header: &Header, path: &[u8]) -> Result<Kind, TarError> {
        Ok(match header.entry_type() {
            // The oldest format marks a directory by a slash at the end of its name.
            EntryType::Regular if path.ends_with(b"/") && header.as_ustar().is_none() && header.as_gnu().is_none() => {
                Kind::Directory
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File,
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Link => Kind::HardLink,
            EntryType::Fifo => Kind::Fifo,
            EntryType::Char => {
                let (major, minor) = self.device(header)?;
                Kind::CharDevice { major, minor }
            }
            EntryType::Block => {
                let (major, minor) = self.device(header)?;
                Kind::BlockDevice { major, minor }
            }
            _ => {
                return Err(TarError::Unsupported {
                    member: String::from_utf8_lossy(path).into_owned(),
                    reason: "unknown type of member",
                });
            }
        })
    }

    fn device(&self, header: &Header) -> Result<(u32, u32), TarError> {
        let Some(ustar) = header.as_ustar().map(|ustar| (ustar.dev_major, ustar.dev_minor)) else {
            let gnu = header
                .as_gnu()
                .ok_or_else(|| self.malformed("a device in a format without device numbers"))?;
            return self.device_numbers(&gnu.dev_major, &gnu.dev_minor);
        };
        self.device_numbers(&ustar.0, &ustar.1)
    }

    fn device_numbers(&self, major: &[u8], minor: &[u8]) -> Result<(u32, u32), TarError> {
        // The kernel's dev_t has 12 bits for the major and 20 for the minor number.
        let bounded = |field: &[u8], bits: u32| {
            number(field)
                .and_then(|value| u32::try_from(value).ok())
                .filter(|value| value >> bits == 0)
                .ok_or_else(|| self.malformed("device number out of range"))
        };
        Ok((bounded(major, 12)?, bounded(minor, 20)?))
    }

    /// The segments of a sparse file and its real size, or none and the stored size.
    fn segments(
        &mut self,
        header: &Header,
        pax: Option<&pax::PaxSparse>,
        path: &[u8],
        stored: u64,
    ) -> Result<(Option<Vec<Segment>>, u64), TarError> {
        if header.entry_type() == EntryType::GNUSparse {
            return self.gnu_segments(header, stored);
        }
        let Some(pax) = pax else {
            return Ok((None, stored));
        };
        if (pax.major, pax.minor) != (1, 0) {
            return Err(TarError::Unsupported {
                member: String::from_utf8_lossy(path).into_owned(),
                reason: "a sparse file in GNU's pax format 0.x; only 1.0 and the GNU format are supported",
            });
        }
        let real_size = pax
            .real_size
            .ok_or_else(|| self.malformed("a sparse file without its real size"))?;
        let mut map = MapParser::default();
        let mut block = [0; TAR_BLOCK_BYTES];
        loop {
            let Some(rest) = self.body.checked_sub(TAR_BLOCK_BYTES as u64) else {
                return Err(self.malformed("a sparse map longer than its member"));
            };
            self.fill_all(&mut block)?;
            self.body = rest;
            if map.feed(&block).map_err(|reason| self.malformed(reason))? {
                break;
            }
        }
        let segments = map.list.finish(real_size, self.body);
        Ok((Some(segments.map_err(|reason| self.malformed(reason))?), real_size))
    }

    fn gnu_segments(&mut self, header: &Header, stored: u64) -> Result<(Option<Vec<Segment>>, u64), TarError> {
        let gnu = header
            .as_gnu()
            .ok_or_else(|| self.malformed("a sparse file without a GNU header"))?;
        let real_size = self.field(&gnu.realsize, "real size")?;
        let mut list = SegmentList::default();
        list.push_header(gnu).map_err(|reason| self.malformed(reason))?;
        let mut extended = gnu.is_extended();
        while extended {
            let mut block = GnuExtSparseHeader::new();
            self.fill_all(block.as_mut_bytes())?;
            list.push_extension(&block).map_err(|reason| self.malformed(reason))?;
            extended = block.is_extended();
        }
        let segments = list
            .finish(real_size, stored)
            .map_err(|reason| self.malformed(reason))?;
        Ok((Some(segments), real_size))
    }

    fn start_body(&mut self, size: u64) -> Result<(), TarError> {
        let block = TAR_BLOCK_BYTES as u64;
        if size > self.limits.bytes {
            return Err(self.too_many_bytes());
        }
        self.body = size;
        self.padding = (block - size % block) % block;
        Ok(())
    }

    fn extension_body(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > TAR_EXTENSION_BYTES_MAX {
            return Err(self.malformed("an extension header too long to be honest"));
        }
        self.start_body(size)?;
        let mut data = vec![0; size as usize];
        self.fill_all(&mut data)?;
        self.body = 0;
        Ok(data)
    }

    fn skip_body(&mut self) -> Result<(), TarError> {
        let mut rest = self.body + self.padding;
        self.body = 0;
        self.padding = 0;
        let mut buffer = [0; 32 << 10];
        while rest > 0 {
            let step = rest.min(buffer.len() as u64);
            self.fill_all(&mut buffer[..step as usize])?;
            rest -= step;
        }
        Ok(())
    }

    /// Reads data of the current member; 0 at their end.
    pub(crate) fn read_body(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let step = self.body.min(buffer.len() as u64) as usize;
        if step == 0 {
            return Ok(0);
        }
        let count = self.read_some(&mut buffer[..step])?;
        if count == 0 {
            return Err(self.truncated());
        }
        self.body -= count as u64;
        Ok(count)
    }

    fn fill_all(&mut self, buffer: &mut [u8]) -> Result<(), TarError> {
        if self.fill(buffer)? == buffer.len() {
            Ok(())
        } else {
            Err(self.truncated())
        }
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read_some(&mut buffer[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        Ok(filled)
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        loop {
            match self.source.read(buffer) {
                Ok(count) => {
                    self.position += count as u64;
                    if self.position > self.limits.bytes {
                        return Err(self.too_many_bytes());
                    }
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A compressed stream that stops before its own end.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(self.truncated()),
                Err(error) => return Err(TarError::Read(error)),
            }
        }
    }

    fn check_path(&self, path: &[u8]) -> Result<(), TarError> {
        if path.len() > PATH_BYTES_MAX {
            return Err(self.malformed("a path longer than any path"));
        }
        if path.contains(&0) {
            return Err(self.malformed("a path with a zero byte"));
        }
        Ok(())
    }

    fn owner(&self, pax: Option<i64>, field: &[u8]) -> Result<u32, TarError> {
        let id = pax.or_else(|| number(field)).and_then(|id| u32::try_from(id).ok());
        // The last one means "leave as it is" to chown(2).
        id.filter(|id| *id != u32::MAX)
            .ok_or_else(|| self.malformed("owner out of range"))
    }

    fn field(&self, field: &[u8], what: &'static str) -> Result<u64, TarError> {
        let value = number(field).and_then(|value| u64::try_from(value).ok());
        value.ok_or_else(|| {
            self.malformed(match what {
                "size" => "the size is not a number",
                "mode" => "the mode is not a number",
                _ => "a field of the header is not a number",
            })
        })
    }

    const fn malformed(&self, reason: &'static str) -> TarError {
        TarError::Malformed {
            position: self.position,
            reason,
        }
    }

    const fn truncated(&self) -> TarError {
        TarError::Truncated { bytes: self.position }
    }

    const fn too_many_bytes(&self) -> TarError {
        TarError::TooLarge {
            limit: self.limits.bytes,
            unit: "bytes (decompressed)",
        }
    }
}

fn until_zero(bytes: &[u8]) -> Vec<u8> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes[..end].to_vec()
}
