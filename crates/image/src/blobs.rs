//! Content by digest, on disk: `blobs/sha256/HEX`, laid out as the OCI image layout has it.
//!
//! **Invariant:** a file under `blobs/` is complete, has the digest of its name, and is on disk for good: content is written
//! elsewhere (`tmp/` or `partial/`), checked, synced, and only then renamed to its place.
//! **Invariant:** what lies in `tmp/` belongs to an operation of this process; it is removed when the store is opened.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use gantry_model::Digest;
use sha2::{Digest as _, Sha256};

use crate::compress::Compression;
use crate::document::Descriptor;
use crate::error::{ImageError, Result};
use crate::hashing::digest_of;
use crate::limits::DOCUMENT_BYTES_MAX;

/// Unpacked layers hold set-user-id programs, which no user of the machine may reach.
const STORE_MODE: u32 = 0o700;
const BLOBS: &str = "blobs/sha256";
const PARTIAL: &str = "partial";
const TMP: &str = "tmp";
const LAYERS: &str = "layers";
const RECORDS: &str = "records";
const UPLOADS: &str = "uploads";
const COPY_BUFFER_BYTES: usize = 128 << 10;

/// The folders of a store.
#[derive(Debug)]
pub(crate) struct Blobs {
    dir: PathBuf,
    next_tmp: AtomicU64,
}

/// A complete file in `tmp/`, removed unless it is published.
#[derive(Debug)]
pub(crate) struct Staged {
    path: PathBuf,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) compression: Compression,
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Published ones are gone from here; a leftover is removed when the store is opened next.
        let _ = fs::remove_file(&self.path);
    }
}

impl Staged {
    /// The whole content, which must be a small document.
    pub(crate) fn read_document(&self, name: &str) -> Result<Vec<u8>> {
        if self.size > DOCUMENT_BYTES_MAX {
            return Err(too_large(name));
        }
        fs::read(&self.path).map_err(ImageError::io("read", &self.path))
    }

    /// The content from its beginning.
    pub(crate) fn open(&self) -> Result<File> {
        File::open(&self.path).map_err(ImageError::io("open", &self.path))
    }
}

/// Content of unknown digest on its way to `tmp/`.
pub(crate) struct StageWriter {
    file: BufWriter<File>,
    hasher: Sha256,
    start: Vec<u8>,
    staged: Staged,
}

impl StageWriter {
    /// Takes all of it.
    pub(crate) fn take(&mut self, data: &[u8]) -> io::Result<()> {
        self.start.extend(data.iter().take(4 - self.start.len()));
        self.hasher.update(data);
        self.staged.size += data.len() as u64;
        self.file.write_all(data)
    }

    /// The complete file.
    pub(crate) fn finish(mut self) -> Result<Staged> {
        self.file.flush().map_err(ImageError::io("write", &self.staged.path))?;
        self.staged.digest = Digest::from_bytes(self.hasher.finalize().into());
        self.staged.compression = Compression::of(&self.start);
        Ok(self.staged)
    }
}

impl Blobs {
    /// Makes the folders and clears `tmp/`. The caller holds the store's lock.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let tmp = dir.join(TMP);
        match fs::remove_dir_all(&tmp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(ImageError::Io {
                    act: "clear",
                    path: tmp,
                    source: error,
                });
            }
            _ => {}
        }
        for name in [BLOBS, PARTIAL, TMP, LAYERS, RECORDS, UPLOADS] {
            make_dir(&dir.join(name))?;
        }
        Ok(Self {
            dir: dir.to_path_buf(),
            next_tmp: AtomicU64::new(0),
        })
    }

    pub(crate) fn path(&self, digest: Digest) -> PathBuf {
        self.dir.join(BLOBS).join(digest.hex())
    }

    pub(crate) fn layers_dir(&self) -> PathBuf {
        self.dir.join(LAYERS)
    }

    pub(crate) fn records_dir(&self) -> PathBuf {
        self.dir.join(RECORDS)
    }

    pub(crate) fn layer_path(&self, chain: Digest) -> PathBuf {
        self.layers_dir().join(chain.hex())
    }

    /// A name in `tmp/` that nothing has.
    pub(crate) fn tmp_path(&self) -> PathBuf {
        let number = self.next_tmp.fetch_add(1, Ordering::Relaxed);
        self.dir.join(TMP).join(number.to_string())
    }

    /// Bytes of the blob, or none when it is not here.
    pub(crate) fn size(&self, digest: Digest) -> Option<u64> {
        fs::metadata(self.path(digest)).ok().map(|metadata| metadata.len())
    }

    pub(crate) fn open_blob(&self, digest: Digest) -> Result<File> {
        let path = self.path(digest);
        File::open(&path).map_err(|source| {
            if source.kind() == io::ErrorKind::NotFound {
                return ImageError::NotFound {
                    what: "blob",
                    name: digest.to_string(),
                };
            }
            ImageError::Io {
                act: "open",
                path,
                source,
            }
        })
    }

    /// A manifest, index or configuration; its digest is checked again, since a decision depends on it.
    pub(crate) fn read_document(&self, digest: Digest) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = self.open_blob(digest)?;
        let read = file.take(DOCUMENT_BYTES_MAX + 1).read_to_end(&mut bytes);
        read.map_err(ImageError::io("read", self.path(digest)))?;
        if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
            return Err(too_large(&digest.to_string()));
        }
        check_digest(&format!("blob {digest}"), digest, digest_of(&bytes))?;
        Ok(bytes)
    }

    /// A file in `tmp/` for content of unknown digest.
    pub(crate) fn stage_writer(&self) -> Result<StageWriter> {
        let path = self.tmp_path();
        let file = File::create_new(&path).map_err(ImageError::io("create", &path))?;
        Ok(StageWriter {
            file: BufWriter::with_capacity(COPY_BUFFER_BYTES, file),
            hasher: Sha256::new(),
            start: Vec::with_capacity(4),
            staged: Staged {
                path,
                digest: digest_of(b""),
                size: 0,
                compression: Compression::None,
            },
        })
    }

    /// Writes content of unknown digest to `tmp/`. `read` fills the buffer and returns how much, 0 at the end.
    pub(crate) fn stage(&self, mut read: impl FnMut(&mut [u8]) -> Result<usize>) -> Result<Staged> {
        let mut writer = self.stage_writer()?;
        let mut buffer = vec![0; COPY_BUFFER_BYTES];
        loop {
            let count = read(&mut buffer)?;
            if count == 0 {
                return writer.finish();
            }
            let written = writer.take(&buffer[..count]);
            written.map_err(ImageError::io("write", &writer.staged.path))?;
        }
    }

    /// How a blob is compressed, by its first bytes.
    pub(crate) fn compression(&self, digest: Digest) -> Result<Compression> {
        let mut start = Vec::with_capacity(4);
        let read = self.open_blob(digest)?.take(4).read_to_end(&mut start);
        read.map_err(ImageError::io("read", self.path(digest)))?;
        Ok(Compression::of(&start))
    }

    /// Makes staged content visible under its digest.
    pub(crate) fn publish(&self, staged: &Staged) -> Result<()> {
        self.publish_file(&staged.path, staged.digest)
    }

    /// Stores a document.
    pub(crate) fn publish_bytes(&self, bytes: &[u8]) -> Result<Digest> {
        let mut source = bytes;
        let staged = self.stage(|buffer| Ok(source.read(buffer).expect("memory can be read")))?;
        self.publish(&staged)?;
        Ok(staged.digest)
    }

    /// Makes a complete and verified file visible as a blob.
    pub(crate) fn publish_file(&self, from: &Path, digest: Digest) -> Result<()> {
        let to = self.path(digest);
        let publish = || {
            File::open(from)?.sync_all()?;
            fs::rename(from, &to)?;
            sync_dir(&self.dir.join(BLOBS))
        };
        publish().map_err(ImageError::io("store", &to))
    }

    /// Removes a blob and returns its size.
    pub(crate) fn remove(&self, digest: Digest) -> Result<u64> {
        let size = self.size(digest).unwrap_or(0);
        let path = self.path(digest);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ImageError::io("remove", &path)(error)),
            _ => Ok(size),
        }
    }

    /// Digests of everything in a folder whose names are digests.
    pub(crate) fn list_blobs(&self) -> Result<Vec<Digest>> {
        list(&self.dir.join(BLOBS))
    }

    pub(crate) fn list_layers(&self) -> Result<Vec<Digest>> {
        list(&self.layers_dir())
    }

    /// Drops what interrupted transfers left; returns bytes.
    pub(crate) fn remove_partials(&self) -> Result<u64> {
        let mut freed = 0;
        for digest in list(&self.dir.join(PARTIAL))? {
            freed += self.partial_len(digest);
            let path = self.partial_path(digest);
            fs::remove_file(&path).map_err(ImageError::io("remove", &path))?;
        }
        Ok(freed)
    }

    /// Bytes that interrupted transfers left.
    pub(crate) fn partials_size(&self) -> Result<u64> {
        let partials = list(&self.dir.join(PARTIAL))?;
        Ok(partials.into_iter().map(|digest| self.partial_len(digest)).sum())
    }

    fn partial_path(&self, digest: Digest) -> PathBuf {
        self.dir.join(PARTIAL).join(digest.hex())
    }

    /// Bytes of an interrupted transfer that need not be sent again.
    pub(crate) fn partial_len(&self, digest: Digest) -> u64 {
        fs::metadata(self.partial_path(digest)).map_or(0, |metadata| metadata.len())
    }

    /// Receives a blob from byte `offset` on, which is where the last transfer ended, or 0 to start anew. What came stays for
    /// the next attempt when the source fails, and is dropped when it turns out to be wrong. `tee` gets every byte of the blob,
    /// those of earlier transfers included.
    pub(crate) fn receive(
        &self,
        blob: &Descriptor,
        offset: u64,
        source: impl Read,
        tee: impl FnMut(&[u8]),
    ) -> Result<()> {
        let path = self.partial_path(blob.digest);
        let outcome = self.receive_into(&path, blob, offset, source, tee);
        if let Err(ImageError::WrongDigest { .. } | ImageError::TooLarge { .. }) = &outcome {
            // Dropping is a courtesy: the next transfer may start at 0 anyway.
            let _ = fs::remove_file(&path);
        }
        outcome
    }

    fn receive_into(
        &self,
        path: &Path,
        blob: &Descriptor,
        offset: u64,
        mut source: impl Read,
        mut tee: impl FnMut(&[u8]),
    ) -> Result<()> {
        let what = format!("blob {}", blob.digest);
        let (mut file, mut hasher) = continue_at(path, blob.digest, offset, &mut tee)?;
        let (limit, unit) = match blob.size {
            Some(size) => (size, "bytes, its announced size"),
            None => (DOCUMENT_BYTES_MAX, "bytes"),
        };
        let mut size = offset;
        let mut buffer = vec![0; COPY_BUFFER_BYTES];
        loop {
            let count = match source.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result.map_err(|source| ImageError::Source {
                    what: what.clone(),
                    source,
                })?,
            };
            if count == 0 {
                break;
            }
            size += count as u64;
            if size > limit {
                return Err(ImageError::TooLarge { what, limit, unit });
            }
            hasher.update(&buffer[..count]);
            file.write_all(&buffer[..count])
                .map_err(ImageError::io("write", path))?;
            tee(&buffer[..count]);
        }
        if let Some(expected) = blob.size.filter(|expected| *expected != size) {
            return Err(ImageError::WrongSize {
                what,
                expected,
                found: size,
            });
        }
        check_digest(&what, blob.digest, Digest::from_bytes(hasher.finalize().into()))?;
        drop(file);
        self.publish_file(path, blob.digest)
    }
}

/// Opens a partial file at its end, its content hashed and given to `tee`.
fn continue_at(path: &Path, digest: Digest, offset: u64, tee: &mut impl FnMut(&[u8])) -> Result<(File, Sha256)> {
    let error = |error| ImageError::io("open", path)(error);
    let mut options = OpenOptions::new();
    let file = options.read(true).append(true).create(true).open(path).map_err(error)?;
    let mut hasher = Sha256::new();
    if offset == 0 {
        file.set_len(0).map_err(ImageError::io("truncate", path))?;
        return Ok((file, hasher));
    }
    let expected = file.metadata().map_err(ImageError::io("read", path))?.len();
    if offset != expected {
        return Err(ImageError::WrongOffset {
            digest,
            expected,
            offset,
        });
    }
    let mut reader = BufReader::with_capacity(COPY_BUFFER_BYTES, &file);
    loop {
        let bytes = reader.fill_buf().map_err(ImageError::io("read", path))?;
        if bytes.is_empty() {
            return Ok((file, hasher));
        }
        hasher.update(bytes);
        tee(bytes);
        let count = bytes.len();
        reader.consume(count);
    }
}

/// Makes a folder of the store, and those above it.
pub(crate) fn make_dir(path: &Path) -> Result<()> {
    let mut builder = fs::DirBuilder::new();
    let made = builder.recursive(true).mode(STORE_MODE).create(path);
    made.map_err(ImageError::io("create", path))
}

/// Makes an empty folder for a layer, with the mode the root of a container has.
pub(crate) fn make_layer_dir(path: &Path) -> Result<()> {
    let make = || {
        fs::create_dir(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))
    };
    make().map_err(ImageError::io("create", path))
}

pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

pub(crate) fn check_digest(what: &str, expected: Digest, found: Digest) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(ImageError::WrongDigest {
        what: what.to_string(),
        expected,
        found,
    })
}

fn list(path: &Path) -> Result<Vec<Digest>> {
    let mut digests = Vec::new();
    for entry in fs::read_dir(path).map_err(ImageError::io("list", path))? {
        let name = entry.map_err(ImageError::io("list", path))?.file_name();
        digests.extend(name.to_str().and_then(Digest::from_hex));
    }
    digests.sort();
    Ok(digests)
}

fn too_large(name: &str) -> ImageError {
    ImageError::TooLarge {
        what: format!("document {name}"),
        limit: DOCUMENT_BYTES_MAX,
        unit: "bytes",
    }
}
