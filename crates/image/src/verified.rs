//! Content that leaves the store, checked on its way out.

use std::fs::File;
use std::io::{self, Read};

use gantry_model::Digest;
use sha2::{Digest as _, Sha256};

use crate::error::{ImageError, Result};
use crate::store::Store;

const SKIP_BUFFER_BYTES: usize = 128 << 10;

/// Reads a blob and hashes it on the way.
///
/// **Invariant:** the end is only reported when the content had its digest: the read that would give the last bytes fails
/// otherwise, so whoever passes on what is read never passes on a whole wrong blob.
#[derive(Debug)]
pub struct VerifiedReader {
    file: File,
    digest: Digest,
    size: u64,
    rest: u64,
    hasher: Sha256,
}

impl VerifiedReader {
    /// Bytes of the blob.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Reads past the bytes before `offset`, which count for the digest all the same.
    fn skip(&mut self, offset: u64) -> io::Result<()> {
        let mut buffer = vec![0; SKIP_BUFFER_BYTES];
        let mut rest = offset;
        while rest > 0 {
            let step = rest.min(buffer.len() as u64) as usize;
            match self.read(&mut buffer[..step])? {
                0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the blob is shorter")),
                count => rest -= count as u64,
            }
        }
        Ok(())
    }

    fn check(&self) -> io::Result<()> {
        let found = Digest::from_bytes(self.hasher.clone().finalize().into());
        if found == self.digest {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "blob {} is damaged on disk: its content has the digest {found}",
                self.digest
            ),
        ))
    }
}

impl Read for VerifiedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let step = self.rest.min(buffer.len() as u64) as usize;
        let count = self.file.read(&mut buffer[..step])?;
        if count == 0 {
            let text = format!("blob {} is damaged on disk: it has become shorter", self.digest);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        self.hasher.update(&buffer[..count]);
        self.rest -= count as u64;
        if self.rest == 0
            && let Err(error) = self.check()
        {
            // Asking again must not look like the end.
            self.rest = 1;
            return Err(error);
        }
        Ok(count)
    }
}

impl Store {
    /// A blob for somebody else, from byte `offset` on; the whole of it is verified. See [`VerifiedReader`].
    ///
    /// # Errors
    /// When it is not here, or is shorter than `offset`.
    pub fn read_blob(&self, digest: Digest, offset: u64) -> Result<VerifiedReader> {
        let file = self.blobs.open_blob(digest)?;
        let path = self.blobs.path(digest);
        let size = file.metadata().map_err(ImageError::io("read", &path))?.len();
        if offset > size {
            return Err(ImageError::WrongOffset {
                digest,
                expected: size,
                offset,
            });
        }
        let mut reader = VerifiedReader {
            file,
            digest,
            size,
            rest: size,
            hasher: Sha256::new(),
        };
        if size == 0 {
            reader.check().map_err(ImageError::io("read", &path))?;
        }
        reader.skip(offset).map_err(ImageError::io("read", &path))?;
        Ok(reader)
    }

    /// Bytes of a blob; none when it is not here.
    #[must_use]
    pub fn blob_size(&self, digest: Digest) -> Option<u64> {
        self.blobs.size(digest)
    }
}
