//! `Store::verify`: everything on disk is read and compared with what it should be.
//!
//! Repair never invents anything: what is damaged is dropped, so that it is fetched, unpacked or built again.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};

use gantry_model::{Digest, ImageReference};
use serde::{Deserialize, Serialize};

use crate::error::{ImageError, Result};
use crate::hashing::HashingReader;
use crate::layer_record::measure;
use crate::lease::Node;
use crate::store::Store;

/// What is wrong with the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "finding", rename_all = "snake_case")]
pub enum Finding {
    /// A blob's content is not what its digest says.
    DamagedBlob {
        /// The blob.
        digest: Digest,
        /// The digest of what is there.
        found: Digest,
    },
    /// An image lacks blobs.
    IncompleteImage {
        /// The image.
        digest: Digest,
        /// The blobs.
        missing: Vec<Digest>,
        /// What it is called.
        references: Vec<ImageReference>,
    },
    /// A blob of an image has another size than its manifest says, or its documents contradict each other.
    InconsistentImage {
        /// The image.
        digest: Digest,
        /// In which way.
        reason: String,
    },
    /// An unpacked layer does not hold what its record says.
    DamagedLayer {
        /// Its chain id.
        chain: Digest,
        /// In which way.
        reason: String,
    },
    /// A name that leads to no image.
    DanglingName {
        /// The name.
        reference: ImageReference,
    },
}

impl Finding {
    /// The next thing to do.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::DamagedBlob { .. } => "repair drops it; pull, load or build the images that need it again",
            Self::IncompleteImage { .. } | Self::InconsistentImage { .. } => {
                "repair drops the image; pull, load or build it again"
            }
            Self::DamagedLayer { .. } => "repair drops it; it is unpacked again when it is needed",
            Self::DanglingName { .. } => "repair drops the name; tag the image again",
        }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::DamagedBlob { digest, found } => {
                write!(formatter, "blob {digest}: its content has the digest {found}")
            }
            Self::IncompleteImage { digest, missing, .. } => {
                write!(formatter, "image {digest}: {} of its blobs are not here", missing.len())
            }
            Self::InconsistentImage { digest, reason } => write!(formatter, "image {digest}: {reason}"),
            Self::DamagedLayer { chain, reason } => write!(formatter, "layer {chain}: {reason}"),
            Self::DanglingName { reference } => {
                write!(
                    formatter,
                    "name {}: leads to no image of the store",
                    reference.familiar()
                )
            }
        }
    }
}

impl Store {
    /// Reads every blob, counts the files of every layer, and compares the catalog with both. With `repair` it drops what is
    /// wrong; layers that images in use may be mounted from stay, and are reported all the same.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn verify(&self, in_use: &BTreeSet<Digest>, repair: bool) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        for digest in self.blobs.list_blobs()? {
            findings.extend(self.check_blob(digest)?);
        }
        for chain in self.blobs.list_layers()? {
            findings.extend(self.check_layer(chain)?);
        }
        if repair {
            self.drop_damaged(&findings, in_use)?;
        }
        let catalog = self.state().catalog.clone();
        for digest in catalog.images.keys().copied() {
            findings.extend(self.check_image(digest)?);
        }
        let dangling = catalog.tags.iter().filter(|(_, target)| !catalog.contains(**target));
        findings.extend(dangling.map(|(reference, _)| Finding::DanglingName {
            reference: reference.clone(),
        }));
        if repair {
            self.drop_from_catalog(&findings)?;
        }
        Ok(findings)
    }

    fn check_blob(&self, digest: Digest) -> Result<Option<Finding>> {
        let path = self.blobs.path(digest);
        let file = match self.blobs.open_blob(digest) {
            // Removed meanwhile.
            Err(ImageError::NotFound { .. }) => return Ok(None),
            result => result?,
        };
        let mut hashing = HashingReader::new(file);
        let mut buffer = vec![0; 1 << 20];
        loop {
            match hashing.read(&mut buffer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ImageError::io("read", &path)(error)),
            }
        }
        let found = hashing.digest();
        Ok((found != digest).then_some(Finding::DamagedBlob { digest, found }))
    }

    fn check_layer(&self, chain: Digest) -> Result<Option<Finding>> {
        let damaged = |reason: String| Ok(Some(Finding::DamagedLayer { chain, reason }));
        let Some(record) = self.blobs.layer_record(chain) else {
            return damaged("it has no record of what it should hold".to_string());
        };
        let path = self.blobs.layer_path(chain);
        let found = match measure(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result.map_err(ImageError::io("read", &path))?,
        };
        if found == record.extent {
            return Ok(None);
        }
        damaged(format!(
            "holds {} entries with {} bytes, {} with {} were recorded",
            found.entries, found.bytes, record.extent.entries, record.extent.bytes
        ))
    }

    fn check_image(&self, digest: Digest) -> Result<Option<Finding>> {
        let Some(entry) = self.state().catalog.images.get(&digest).cloned() else {
            return Ok(None);
        };
        let is_missing = |blob: &Digest| self.blobs.size(*blob).is_none();
        let missing: Vec<_> = entry.blobs(digest).filter(is_missing).collect();
        if !missing.is_empty() {
            let references = self.state().catalog.references(digest);
            return Ok(Some(Finding::IncompleteImage {
                digest,
                missing,
                references,
            }));
        }
        let inconsistent = |error: ImageError| Finding::InconsistentImage {
            digest,
            reason: error.to_string(),
        };
        match self.check_documents(digest, &entry) {
            Ok(()) => Ok(None),
            Err(error @ (ImageError::Io { .. } | ImageError::NotFound { .. })) => Err(error),
            Err(error) => Ok(Some(inconsistent(error))),
        }
    }

    fn check_documents(&self, digest: Digest, entry: &crate::catalog::Entry) -> Result<()> {
        let (manifest, _) = self.manifest(digest)?;
        for blob in manifest.blobs() {
            let found = self.blobs.size(blob.digest).unwrap_or(0);
            if blob.size.is_some_and(|size| size != found) {
                return Err(ImageError::WrongSize {
                    what: format!("blob {}", blob.digest),
                    expected: blob.size.unwrap_or(0),
                    found,
                });
            }
        }
        if entry.artifact.is_none() {
            self.config(digest)?;
        }
        Ok(())
    }

    fn drop_damaged(&self, findings: &[Finding], in_use: &BTreeSet<Digest>) -> Result<()> {
        let mounted: BTreeSet<Node> = {
            let state = self.state();
            let images = in_use.iter().filter_map(|digest| state.catalog.images.get(digest));
            images
                .flat_map(|entry| entry.chain.iter().copied().map(Node::Layer))
                .collect()
        };
        for finding in findings {
            match finding {
                Finding::DamagedBlob { digest, .. } => drop(self.blobs.remove(*digest)?),
                Finding::DamagedLayer { chain, .. } if !mounted.contains(&Node::Layer(*chain)) => {
                    if let Some(tmp) = self.set_layer_aside(*chain)? {
                        fs::remove_dir_all(&tmp).map_err(ImageError::io("remove", &tmp))?;
                    }
                }
                Finding::DamagedLayer { .. }
                | Finding::IncompleteImage { .. }
                | Finding::InconsistentImage { .. }
                | Finding::DanglingName { .. } => {}
            }
        }
        Ok(())
    }

    fn drop_from_catalog(&self, findings: &[Finding]) -> Result<()> {
        self.update(|catalog| {
            for finding in findings {
                match finding {
                    Finding::IncompleteImage { digest, .. } | Finding::InconsistentImage { digest, .. } => {
                        catalog.images.remove(digest);
                    }
                    Finding::DanglingName { reference } => drop(catalog.tags.remove(reference)),
                    Finding::DamagedBlob { .. } | Finding::DamagedLayer { .. } => {}
                }
            }
            // What the dropped ones leave behind must not make the next run complain.
            let empty = |digest: &Digest| catalog.images_below(*digest).is_empty();
            let indexes: Vec<_> = catalog.indexes.keys().copied().filter(empty).collect();
            for index in indexes {
                catalog.indexes.remove(&index);
            }
            let targets: BTreeSet<Digest> = catalog.images.keys().chain(catalog.indexes.keys()).copied().collect();
            catalog.tags.retain(|_, target| targets.contains(target));
            catalog.pinned.retain(|digest| targets.contains(digest));
            Ok(())
        })
    }
}
