//! Content that arrives in pieces and tells its digest last, as registries receive it.
//!
//! An upload is a file (`uploads/ID`) that survives a restart; its hash is carried along in memory and computed anew after one.
//! **Invariant:** an upload takes a piece only where its last one ended.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gantry_model::{ByteSize, Digest, DurationMs};
use sha2::{Digest as _, Sha256};

use crate::blobs::check_digest;
use crate::error::{ImageError, Result};
use crate::import::read_source;
use crate::lease::{Lease, Node};
use crate::store::Store;

const BUFFER_BYTES: usize = 128 << 10;

/// Names an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UploadId(u64);

impl fmt::Display for UploadId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

impl FromStr for UploadId {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self> {
        let is_id = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let id = u64::from_str_radix(text, 16).ok().filter(|_| is_id);
        id.map(Self).ok_or_else(|| unknown(text))
    }
}

/// The open end of an upload.
#[derive(Debug)]
struct Upload {
    file: File,
    hasher: Sha256,
    size: u64,
}

/// Uploads that this process has touched.
#[derive(Debug, Default)]
pub(crate) struct Uploads(Mutex<BTreeMap<UploadId, Arc<Mutex<Upload>>>>);

impl Uploads {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<UploadId, Arc<Mutex<Upload>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unknown(id: impl ToString) -> ImageError {
    ImageError::NotFound {
        what: "upload",
        name: id.to_string(),
    }
}

impl Store {
    /// Begins an upload.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn begin_upload(&self) -> Result<UploadId> {
        let id = UploadId(self.env.random_u64());
        let path = self.upload_path(id);
        let mut options = OpenOptions::new();
        let file = options.read(true).append(true).create_new(true).open(&path);
        let upload = Upload {
            file: file.map_err(ImageError::io("create", &path))?,
            hasher: Sha256::new(),
            size: 0,
        };
        self.uploads.lock().insert(id, Arc::new(Mutex::new(upload)));
        Ok(id)
    }

    /// Bytes that have come.
    ///
    /// # Errors
    /// When there is no such upload.
    pub fn upload_len(&self, id: UploadId) -> Result<u64> {
        let upload = self.upload(id)?;
        let upload = upload.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(upload.size)
    }

    /// Takes the piece that begins at byte `offset` and returns how many bytes there are then. What came stays when the source
    /// fails.
    ///
    /// # Errors
    /// When there is no such upload, when it does not continue at `offset`, when the source fails or the disk refuses.
    pub fn append_upload(&self, id: UploadId, offset: u64, mut source: impl Read) -> Result<u64> {
        let upload = self.upload(id)?;
        let mut upload = upload.lock().unwrap_or_else(PoisonError::into_inner);
        if offset != upload.size {
            return Err(ImageError::WrongUploadOffset {
                upload: id.to_string(),
                expected: upload.size,
                offset,
            });
        }
        let what = format!("upload {id}");
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let count = read_source(&mut source, &mut buffer, &what)?;
            if count == 0 {
                return Ok(upload.size);
            }
            let written = upload.file.write_all(&buffer[..count]);
            if let Err(error) = written {
                // A part may have been written; length and hash must say the same.
                let size = upload.size;
                let _ = upload.file.set_len(size);
                return Err(ImageError::io("write", self.upload_path(id))(error));
            }
            upload.hasher.update(&buffer[..count]);
            upload.size += count as u64;
        }
    }

    /// Ends an upload: what came becomes the blob `digest`, which the lease keeps. Returns its bytes. With another digest the
    /// upload is gone.
    ///
    /// # Errors
    /// When there is no such upload, when its content has another digest, or when the disk refuses.
    pub fn finish_upload(&self, lease: &Lease, id: UploadId, digest: Digest) -> Result<u64> {
        let upload = self.upload(id)?;
        let upload = upload.lock().unwrap_or_else(PoisonError::into_inner);
        let found = Digest::from_bytes(upload.hasher.clone().finalize().into());
        if let Err(error) = check_digest(&format!("upload {id}"), digest, found) {
            self.cancel_upload(id)?;
            return Err(error);
        }
        lease.keep(Node::Blob(digest))?;
        let _guard = self.busy.lock(digest);
        if self.blobs.size(digest).is_some() {
            self.cancel_upload(id)?;
        } else {
            self.blobs.publish_file(&self.upload_path(id), digest)?;
            self.uploads.lock().remove(&id);
        }
        Ok(upload.size)
    }

    /// Drops an upload.
    ///
    /// # Errors
    /// When there is none, or when the disk refuses.
    pub fn cancel_upload(&self, id: UploadId) -> Result<()> {
        self.uploads.lock().remove(&id);
        let path = self.upload_path(id);
        fs::remove_file(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => unknown(id),
            _ => ImageError::io("remove", &path)(error),
        })
    }

    /// Drops uploads to which nothing has come for this long; returns their bytes.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn expire_uploads(&self, idle: DurationMs) -> Result<ByteSize> {
        let dir = self.dir.join("uploads");
        let now = self.env.now();
        let mut freed = 0;
        for entry in fs::read_dir(&dir).map_err(ImageError::io("list", &dir))? {
            let entry = entry.map_err(ImageError::io("list", &dir))?;
            let id = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<UploadId>().ok());
            let Some((id, metadata)) = id.zip(entry.metadata().ok()) else {
                continue;
            };
            let since = metadata
                .modified()
                .ok()
                .and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
            let at = since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
            if at.saturating_add(idle.0) <= now.0 {
                self.cancel_upload(id)?;
                freed += metadata.len();
            }
        }
        Ok(ByteSize(freed))
    }

    fn upload_path(&self, id: UploadId) -> PathBuf {
        self.dir.join("uploads").join(id.to_string())
    }

    fn upload(&self, id: UploadId) -> Result<Arc<Mutex<Upload>>> {
        let mut uploads = self.uploads.lock();
        if let Some(upload) = uploads.get(&id) {
            return Ok(Arc::clone(upload));
        }
        let path = self.upload_path(id);
        let file = OpenOptions::new().read(true).append(true).open(&path);
        let file = file.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => unknown(id),
            _ => ImageError::io("open", &path)(error),
        })?;
        let mut hasher = Sha256::new();
        let mut reader = BufReader::with_capacity(BUFFER_BYTES, &file);
        let size = io::copy(&mut reader, &mut hasher).map_err(ImageError::io("read", &path))?;
        let upload = Arc::new(Mutex::new(Upload { file, hasher, size }));
        uploads.insert(id, Arc::clone(&upload));
        Ok(upload)
    }
}
