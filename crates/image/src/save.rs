//! `Store::save`: images as one archive that other tools read.
//!
//! **Invariant:** the same images make the same bytes: members are in order of name, without times or owners.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};

use gantry_model::{Digest, ImageReference};
use serde::Serialize;
use serde_json::Value;

use crate::blobs::Staged;
use crate::compress::{Compression, decompress};
use crate::document::{Descriptor, Index, MANIFEST_OCI, Manifest, to_json};
use crate::error::{ImageError, Result};
use crate::hashing::digest_of;
use crate::load::{ANNOTATION_NAME, ANNOTATION_REF};
use crate::manifests::ManifestInfo;
use crate::store::{Selector, Store, select};

const WHAT: &str = "the image archive";

/// The form of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// What `docker save` writes since Docker 25: an OCI layout with a `manifest.json`, which any `docker load` reads. Layers
    /// that are compressed by zstd, which Docker reads since 23 only, are in it as they are without.
    DockerArchive,
    /// An OCI image layout alone.
    Oci,
}

/// An image or index and the names it goes out with.
struct Outgoing {
    target: Descriptor,
    references: Vec<ImageReference>,
    /// What Docker, which knows no indexes in archives, gets of it.
    image: Option<Manifest>,
}

/// A file below `blobs/`.
enum Member {
    /// Of the store.
    Blob,
    /// Written for this archive.
    Document(Vec<u8>),
    /// A layer without its compression.
    Plain(Staged),
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

impl Store {
    /// Writes the images as one tar. One selected by reference goes out with that name, one selected by digest with none.
    ///
    /// # Errors
    /// When an image is not here, or `sink` fails.
    pub fn save(&self, images: &[Selector], sink: impl Write, format: Format) -> Result<()> {
        let mut images = self.outgoing(images)?;
        let mut members = BTreeMap::new();
        for image in &mut images {
            if format == Format::DockerArchive && self.make_plain(image, &mut members)? {
                continue;
            }
            let mut blobs = BTreeSet::new();
            self.add_blobs(image.target.digest, &mut blobs);
            members.extend(blobs.into_iter().map(|digest| (digest, Member::Blob)));
        }
        let mut archive = Archive {
            tar: tar::Builder::new(sink),
        };
        archive.folder("blobs/")?;
        archive.folder("blobs/sha256/")?;
        for (digest, member) in members {
            let path = blob_path(digest);
            match member {
                Member::Blob => {
                    let blob = self.read_blob(digest, 0)?;
                    archive.file(&path, blob.size(), blob)?;
                }
                Member::Document(bytes) => archive.document(&path, &bytes)?,
                Member::Plain(staged) => archive.file(&path, staged.size, staged.open()?)?,
            }
        }
        archive.document("index.json", &to_json(&index(&images)))?;
        if format == Format::DockerArchive {
            archive.document("manifest.json", &to_json(&docker_manifest(&images)))?;
        }
        archive.document("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        archive.finish()
    }

    fn outgoing(&self, selectors: &[Selector]) -> Result<Vec<Outgoing>> {
        let mut names: BTreeMap<Digest, BTreeSet<ImageReference>> = BTreeMap::new();
        {
            let state = self.state();
            for selector in selectors {
                let names = names.entry(select(&state.catalog, selector)?).or_default();
                if let Selector::Reference(reference) = selector
                    && reference.tag().is_some()
                {
                    names.insert(reference.clone().without_digest());
                }
            }
        }
        let outgoing = names.into_iter().map(|(target, references)| {
            let bytes = self.blobs.read_document(target)?;
            let image = self.state().catalog.image_of(target);
            Ok(Outgoing {
                target: Descriptor::new(ManifestInfo::parse(&bytes)?.media_type, target, bytes.len() as u64),
                references: references.into_iter().collect(),
                image: match image {
                    Some(image) => Some(Manifest::parse(image, &self.blobs.read_document(image)?)?),
                    None => None,
                },
            })
        });
        outgoing.collect()
    }

    /// Replaces an image with layers that older Dockers cannot read by the same image without their compression; false when it
    /// has none. Its configuration, and so what Docker calls its id, stays the same.
    fn make_plain(&self, outgoing: &mut Outgoing, members: &mut BTreeMap<Digest, Member>) -> Result<bool> {
        let Some(manifest) = &outgoing.image else {
            return Ok(false);
        };
        let found = manifest.layers.iter().map(|layer| self.blobs.compression(layer.digest));
        let found = found.collect::<Result<Vec<_>>>()?;
        if !found.contains(&Compression::Zstd) {
            return Ok(false);
        }
        let mut plain = manifest.clone();
        for (layer, compression) in plain.layers.iter_mut().zip(found) {
            if compression != Compression::Zstd {
                members.insert(layer.digest, Member::Blob);
                continue;
            }
            let staged = self.decompressed(layer.digest)?;
            *layer = Descriptor::new(Compression::None.layer_media_type(), staged.digest, staged.size);
            members.insert(staged.digest, Member::Plain(staged));
        }
        members.insert(plain.config.digest, Member::Blob);
        let bytes = to_json(&plain);
        let digest = digest_of(&bytes);
        outgoing.target = Descriptor::new(outgoing_type(&plain), digest, bytes.len() as u64);
        outgoing.image = Some(plain);
        members.insert(digest, Member::Document(bytes));
        Ok(true)
    }

    /// The blob without its compression, on disk; its own digest is checked on the way.
    fn decompressed(&self, digest: Digest) -> Result<Staged> {
        let failed = |source| ImageError::Source {
            what: format!("blob {digest}"),
            source,
        };
        let (_, mut plain) = decompress(self.read_blob(digest, 0)?).map_err(failed)?;
        self.blobs.stage(|buffer| {
            loop {
                match plain.read(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    read => return read.map_err(failed),
                }
            }
        })
    }

    /// All blobs of the target, and of what it lists and is here.
    fn add_blobs(&self, target: Digest, blobs: &mut BTreeSet<Digest>) {
        let state = self.state();
        let mut pending = vec![target];
        while let Some(digest) = pending.pop() {
            if let Some(entry) = state.catalog.images.get(&digest) {
                blobs.extend(entry.blobs(digest));
            }
            if let Some(index) = state.catalog.indexes.get(&digest)
                && blobs.insert(digest)
            {
                pending.extend(&index.manifests);
            }
        }
    }
}

fn outgoing_type(manifest: &Manifest) -> &str {
    match manifest.media_type.as_str() {
        "" => MANIFEST_OCI,
        media_type => media_type,
    }
}

fn blob_path(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// One descriptor per name, as Docker and containerd have it.
fn index(images: &[Outgoing]) -> Index {
    let mut manifests = Vec::new();
    for image in images {
        let plain = &image.target;
        if image.references.is_empty() {
            manifests.push(plain.clone());
        }
        for reference in &image.references {
            let mut named = plain.clone();
            let mut annotate =
                |key: &str, value: String| named.annotations.insert(key.to_string(), Value::String(value));
            annotate(ANNOTATION_NAME, reference.to_string());
            annotate(ANNOTATION_REF, reference.tag().unwrap_or_default().to_string());
            manifests.push(named);
        }
    }
    Index::new(manifests)
}

fn docker_manifest(images: &[Outgoing]) -> Vec<DockerImage> {
    let image = |outgoing: &Outgoing| {
        let manifest = outgoing.image.as_ref()?;
        Some(DockerImage {
            config: blob_path(manifest.config.digest),
            repo_tags: outgoing.references.iter().map(ImageReference::familiar).collect(),
            layers: manifest.layers.iter().map(|layer| blob_path(layer.digest)).collect(),
        })
    };
    images.iter().filter_map(image).collect()
}

struct Archive<W: Write> {
    tar: tar::Builder<W>,
}

impl<W: Write> Archive<W> {
    fn document(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        self.file(path, bytes.len() as u64, bytes)
    }

    fn file(&mut self, path: &str, size: u64, data: impl Read) -> Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_size(size);
        header.set_mode(0o644);
        self.append(header, path, data.take(size))
    }

    fn folder(&mut self, path: &str) -> Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        header.set_mode(0o755);
        self.append(header, path, io::empty())
    }

    fn append(&mut self, mut header: tar::Header, path: &str, data: impl Read) -> Result<()> {
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        self.tar.append_data(&mut header, path, data).map_err(sink_error)
    }

    fn finish(self) -> Result<()> {
        self.tar
            .into_inner()
            .and_then(|mut sink| sink.flush())
            .map_err(sink_error)
    }
}

fn sink_error(source: io::Error) -> ImageError {
    ImageError::Sink {
        what: WHAT.to_string(),
        source,
    }
}
