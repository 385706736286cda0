//! Writing tars that are the same byte for byte whenever the same files go in.
//!
//! The format is ustar; what does not fit its fields (long or non-ASCII names, large numbers, extended attributes, holes) goes
//! to pax records in order of their keys, as Go's writer has it, so that Docker and containerd read all of it.

use std::io::{self, Write};

use tar::{EntryType, Header};

use super::{Kind, Segment};
use crate::limits::TAR_BLOCK_BYTES;

/// The largest number in the seven octal digits of an owner.
const OWNER_MAX: u32 = 0o7_777_777;
/// The largest number in the eleven octal digits of a size or time.
const SIZE_MAX: u64 = 0o77_777_777_777;
const NAME_BYTES_MAX: usize = 100;
const PREFIX_BYTES_MAX: usize = 155;

/// What the header of a member says.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    /// Without a leading slash; a folder's ends in one.
    pub(crate) path: &'a [u8],
    pub(crate) kind: Kind,
    pub(crate) link: &'a [u8],
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Whole seconds, as Docker writes them.
    pub(crate) mtime: i64,
    /// Bytes of the file, holes included.
    pub(crate) size: u64,
    pub(crate) xattrs: &'a [(Vec<u8>, Vec<u8>)],
    /// Where its data are, when it has holes.
    pub(crate) segments: Option<&'a [Segment]>,
}

/// Writes one tar.
pub(crate) struct TarWriter<W> {
    sink: W,
    /// Data of the current member still to come.
    body: u64,
    padding: usize,
}

impl<W: Write> TarWriter<W> {
    pub(crate) const fn new(sink: W) -> Self {
        Self {
            sink,
            body: 0,
            padding: 0,
        }
    }

    /// Begins a member; exactly its data must follow with [`TarWriter::data`].
    pub(crate) fn begin(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        self.check_complete()?;
        let map = entry.segments.map(sparse_map);
        let data: u64 = match entry.segments {
            Some(segments) => segments.iter().map(|segment| segment.length).sum(),
            None => entry.size,
        };
        let stored = data + map.as_ref().map_or(0, |map| map.len() as u64);
        let records = records(entry, stored);
        if !records.is_empty() {
            self.extension(entry, &records)?;
        }
        let mut header = ustar(entry);
        header.set_size(stored.min(SIZE_MAX));
        header.set_cksum();
        self.sink.write_all(header.as_bytes())?;
        self.body = stored;
        self.padding = padding(stored);
        match map {
            Some(map) => self.data(&map),
            None => self.end_of_body(),
        }
    }

    /// Data of the member begun last.
    pub(crate) fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.body = self
            .body
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| io::Error::other("a file grew while it was read"))?;
        self.sink.write_all(bytes)?;
        self.end_of_body()
    }

    /// Writes the end mark and returns the sink.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.check_complete()?;
        self.sink.write_all(&[0; 2 * TAR_BLOCK_BYTES])?;
        Ok(self.sink)
    }

    fn end_of_body(&mut self) -> io::Result<()> {
        if self.body == 0 && self.padding > 0 {
            self.sink.write_all(&[0; TAR_BLOCK_BYTES][..self.padding])?;
            self.padding = 0;
        }
        Ok(())
    }

    fn check_complete(&self) -> io::Result<()> {
        if self.body == 0 {
            return Ok(());
        }
        Err(io::Error::other("a file shrank while it was read"))
    }

    fn extension(&mut self, entry: &Entry<'_>, records: &[u8]) -> io::Result<()> {
        let base = entry.path.split(|byte| *byte == b'/').rfind(|part| !part.is_empty());
        let mut name = b"PaxHeaders.0/".to_vec();
        name.extend(base.unwrap_or_default().iter().filter(|byte| byte.is_ascii()));
        name.truncate(NAME_BYTES_MAX);
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(&name);
        header.set_entry_type(EntryType::XHeader);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(records.len() as u64);
        header.set_cksum();
        self.sink.write_all(header.as_bytes())?;
        self.sink.write_all(records)?;
        self.sink
            .write_all(&[0; TAR_BLOCK_BYTES][..padding(records.len() as u64)])
    }
}

const fn padding(size: u64) -> usize {
    let block = TAR_BLOCK_BYTES as u64;
    ((block - size % block) % block) as usize
}

fn ustar(entry: &Entry<'_>) -> Header {
    let mut header = Header::new_ustar();
    let sparse_name = entry.segments.map(|_| b"GNUSparseFile.0/file".as_slice());
    let path = sparse_name.unwrap_or(entry.path);
    match split(path) {
        Some((prefix, name)) => {
            header.as_old_mut().name[..name.len()].copy_from_slice(name);
            if let Some(ustar) = header.as_ustar_mut() {
                ustar.prefix[..prefix.len()].copy_from_slice(prefix);
            }
        }
        None => {
            let name = &path[..path.len().min(NAME_BYTES_MAX)];
            header.as_old_mut().name[..name.len()].copy_from_slice(name);
        }
    }
    let link = &entry.link[..entry.link.len().min(NAME_BYTES_MAX)];
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
    header.set_mode(entry.mode & 0o7777);
    header.set_uid(entry.uid.min(OWNER_MAX).into());
    header.set_gid(entry.gid.min(OWNER_MAX).into());
    header.set_mtime(u64::try_from(entry.mtime).unwrap_or(0).min(SIZE_MAX));
    header.set_entry_type(match entry.kind {
        Kind::File => EntryType::Regular,
        Kind::Directory => EntryType::Directory,
        Kind::Symlink => EntryType::Symlink,
        Kind::HardLink => EntryType::Link,
        Kind::CharDevice { .. } => EntryType::Char,
        Kind::BlockDevice { .. } => EntryType::Block,
        Kind::Fifo => EntryType::Fifo,
    });
    if let Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } = entry.kind
        && let Some(ustar) = header.as_ustar_mut()
    {
        // Twelve and twenty bits (the kernel's dev_t) always fit seven octal digits.
        ustar.set_device_major(major);
        ustar.set_device_minor(minor);
    }
    header
}

/// The path in the two fields that ustar has for it; none when it does not fit.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if !path.is_ascii() {
        return None;
    }
    if path.len() <= NAME_BYTES_MAX {
        return Some((b"", path));
    }
    let slashes = (0..path.len() - 1).filter(|position| path[*position] == b'/');
    slashes
        .map(|slash| (&path[..slash], &path[slash + 1..]))
        .find(|(prefix, name)| !prefix.is_empty() && prefix.len() <= PREFIX_BYTES_MAX && name.len() <= NAME_BYTES_MAX)
}

/// The pax records that the entry needs, in order of their keys.
fn records(entry: &Entry<'_>, stored: u64) -> Vec<u8> {
    let mut records: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut add = |key: &str, value: Vec<u8>| records.push((key.as_bytes().to_vec(), value));
    let decimal = |value: u64| value.to_string().into_bytes();
    if entry.segments.is_some() {
        add("GNU.sparse.major", decimal(1));
        add("GNU.sparse.minor", decimal(0));
        add("GNU.sparse.name", entry.path.to_vec());
        add("GNU.sparse.realsize", decimal(entry.size));
    } else if split(entry.path).is_none() {
        add("path", entry.path.to_vec());
    }
    if entry.link.len() > NAME_BYTES_MAX || !entry.link.is_ascii() {
        add("linkpath", entry.link.to_vec());
    }
    if entry.uid > OWNER_MAX {
        add("uid", decimal(entry.uid.into()));
    }
    if entry.gid > OWNER_MAX {
        add("gid", decimal(entry.gid.into()));
    }
    if stored > SIZE_MAX {
        add("size", decimal(stored));
    }
    if u64::try_from(entry.mtime).is_ok_and(|mtime| mtime <= SIZE_MAX) {
    } else {
        add("mtime", entry.mtime.to_string().into_bytes());
    }
    for (name, value) in entry.xattrs {
        records.push(([b"SCHILY.xattr.", name.as_slice()].concat(), value.clone()));
    }
    records.sort();
    let mut text = Vec::new();
    for (key, value) in records {
        record(&mut text, &key, &value);
    }
    text
}

/// `LENGTH KEY=VALUE\n`, where the length counts its own digits.
fn record(text: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    text.extend_from_slice(format!("{length} ").as_bytes());
    text.extend_from_slice(key);
    text.push(b'=');
    text.extend_from_slice(value);
    text.push(b'\n');
}

/// The map at the beginning of a sparse member (GNU's pax format 1.0), up to a whole block.
fn sparse_map(segments: &[Segment]) -> Vec<u8> {
    let mut map = format!("{}\n", segments.len()).into_bytes();
    for segment in segments {
        map.extend_from_slice(format!("{}\n{}\n", segment.offset, segment.length).as_bytes());
    }
    map.resize(map.len() + padding(map.len() as u64), 0);
    map
}

#[cfg(test)]
mod tests {
    use super::super::TarReader;
    use super::*;
    use crate::limits::Limits;
    use proptest::prelude::*;

    fn written(entry: &Entry<'_>, data: &[u8]) -> Vec<u8> {
        let mut tar = TarWriter::new(Vec::new());
        tar.begin(entry).expect("memory");
        tar.data(data).expect("memory");
        tar.finish().expect("memory")
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            path in "[a-zé/]{1,300}", link in "[a-zé/]{0,300}", mode in 0u32..0o10000, uid in 0..u32::MAX, gid in 0..u32::MAX,
            mtime in any::<i64>(), data in prop::collection::vec(any::<u8>(), 0..2000),
            xattr in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let xattrs = [(b"user.x".to_vec(), xattr)];
            let entry = Entry {
                path: path.as_bytes(), kind: Kind::File, link: link.as_bytes(), mode, uid, gid, mtime,
                size: data.len() as u64, xattrs: &xattrs, segments: None,
            };
            let tar = written(&entry, &data);
            prop_assert_eq!(tar.len() % TAR_BLOCK_BYTES, 0);
            let mut reader = TarReader::new(tar.as_slice(), Limits::LAYER);
            let member = reader.next_member().expect("well formed").expect("a member");
            prop_assert_eq!((member.path.as_slice(), member.link.as_slice()), (path.as_bytes(), link.as_bytes()));
            prop_assert_eq!((member.mode, member.uid, member.gid, member.mtime), (mode, uid, gid, (mtime, 0)));
            prop_assert_eq!(&member.xattrs[..], &xattrs[..]);
            let mut body = vec![0; data.len() + 1];
            let mut filled = 0;
            loop {
                match reader.read_body(&mut body[filled..]).expect("well formed") {
                    0 => break,
                    count => filled += count,
                }
            }
            prop_assert_eq!(&body[..filled], &data[..]);
            prop_assert!(reader.next_member().expect("well formed").is_none() && reader.is_complete());
        }
    }

    #[test]
    fn holes_are_not_stored() {
        let segments = [
            Segment {
                offset: 1 << 20,
                length: 3,
            },
            Segment {
                offset: 3 << 20,
                length: 0,
            },
        ];
        let entry = Entry {
            path: b"s",
            kind: Kind::File,
            link: b"",
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: 0,
            size: 3 << 20,
            xattrs: &[],
            segments: Some(&segments),
        };
        let tar = written(&entry, b"abc");
        assert!(tar.len() < 8 << 10, "{} bytes", tar.len());
        let mut reader = TarReader::new(tar.as_slice(), Limits::LAYER);
        let member = reader.next_member().expect("well formed").expect("a member");
        assert_eq!((member.path.as_slice(), member.size), (b"s".as_slice(), 3 << 20));
        assert_eq!(member.sparse.as_deref(), Some(segments.as_slice()));
    }

    #[test]
    fn a_file_that_changes_meanwhile_is_told() {
        let entry = Entry {
            path: b"s",
            kind: Kind::File,
            link: b"",
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: 0,
            size: 3,
            xattrs: &[],
            segments: None,
        };
        let mut tar = TarWriter::new(Vec::new());
        tar.begin(&entry).expect("memory");
        assert!(tar.data(b"abcd").is_err());
        let mut tar = TarWriter::new(Vec::new());
        tar.begin(&entry).expect("memory");
        assert!(tar.finish().is_err());
    }
}
