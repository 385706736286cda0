//! What becomes of a build that is done: an image with its names, or an archive that is sent back.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::Path;

use gantry_dockerfile::Platform;
use gantry_image::{ConfigDocument, Format, HistoryEntry, ImageDraft, ImageInfo, IndexDraft, Selector};
use gantry_model::build::{BuildOutputKind, BuildResult};
use gantry_model::{Digest, ImageReference, Timestamp};

use crate::base::document_of;
use crate::build::{Built, Finished};
use crate::client::Client;
use crate::error::{BuildError, Result};
use crate::exchange::{Exports, annotations};
use crate::tree::{NodeKind, RootTree, Tree};
use crate::work::Work;

/// Bytes of an archive in one message.
const CHUNK_BYTES: usize = 256 << 10;

/// Writes the image, or the index of those of several platforms, and sends what is asked for.
pub(crate) fn finish(built: &[Built<'_>], exports: &Exports) -> Result<BuildResult> {
    let Some(first) = built.first() else {
        return Err(BuildError::refused("nothing was built", ""));
    };
    let work = &first.work;
    work.cancel.check()?;
    let step = work.announce("exporting", None);
    work.started(step);
    let outcome = export(built, first, exports);
    match &outcome {
        Ok(_) => work.done(step, false),
        Err(error) => work.failed(step, error),
    }
    let mut result = outcome?;
    for built in built {
        let stages: Vec<&Finished> = built.stages.values().collect();
        result
            .caches
            .extend(exports.write(&built.work, &stages, &built.finished)?);
    }
    result.caches.dedup();
    Ok(result)
}

fn export(built: &[Built<'_>], first: &Built<'_>, exports: &Exports) -> Result<BuildResult> {
    let work = &first.work;
    let references = references(work)?;
    let is_kept = work.request.output == BuildOutputKind::Image;
    if work.request.output == BuildOutputKind::Tar {
        send_tree(work, &first.finished)?;
    }
    if matches!(work.request.output, BuildOutputKind::Tar | BuildOutputKind::Discard) {
        return Ok(BuildResult {
            digest: String::new(),
            config_digest: String::new(),
            references: Vec::new(),
            size_bytes: 0,
            caches: Vec::new(),
        });
    }
    let names = || {
        if is_kept {
            references.iter().cloned().collect()
        } else {
            Vec::new()
        }
    };
    let store = &work.builder.config.store;
    let mut images = Vec::new();
    for built in built {
        let own = if built.work.request.spec.platforms.len() > 1 {
            Vec::new()
        } else {
            names()
        };
        images.push(image(built, exports.inline, own)?);
    }
    let size = images.iter().map(|image| image.size.0).sum();
    let info = &images[0];
    let digest = if images.len() > 1 {
        let index = IndexDraft {
            images: images.iter().map(|image| image.digest).collect(),
            references: names(),
            ..IndexDraft::default()
        };
        store.write_index(work.lease, &index)?
    } else {
        info.digest
    };
    if !is_kept {
        send_archive(work, digest, &references)?;
    }
    Ok(BuildResult {
        digest: digest.to_string(),
        config_digest: info.config_digest.to_string(),
        references: references.iter().map(ToString::to_string).collect(),
        size_bytes: size,
        caches: Vec::new(),
    })
}

fn image(built: &Built<'_>, with_cache: bool, references: Vec<ImageReference>) -> Result<ImageInfo> {
    let (work, finished) = (&built.work, &built.finished);
    let now = work.epoch().unwrap_or_else(|| work.builder.config.env.now());
    let draft = ImageDraft {
        config: document_of(&built.config, &finished.base, dated(finished.history.clone(), now)),
        top: finished.top.0,
        references,
        annotations: if with_cache {
            annotations(&finished.made)
        } else {
            BTreeMap::new()
        },
        ..ImageDraft::default()
    };
    Ok(work.builder.config.store.write_image(work.lease, &draft)?)
}

fn references(work: &Work<'_>) -> Result<BTreeSet<ImageReference>> {
    let names = work.request.tags.iter().chain(&work.request.spec.tags);
    let parsed = names.map(|name| {
        let parsed = name.parse::<ImageReference>();
        parsed.map_err(|error| BuildError::refused(error.to_string(), "write -t NAME[:TAG]"))
    });
    parsed.collect()
}

/// As BuildKit does it: an entry without a layer has the time of the layer before it, or else of the one after it.
fn dated(mut history: Vec<HistoryEntry>, now: Timestamp) -> Vec<HistoryEntry> {
    let first = history.iter().find_map(|entry| entry.created.clone());
    let mut last = first.or_else(|| rfc3339(now));
    for entry in &mut history {
        match &entry.created {
            Some(created) => last = Some(created.clone()),
            None => entry.created.clone_from(&last),
        }
    }
    history
}

/// A time as images have it.
pub(crate) fn rfc3339(time: Timestamp) -> Option<String> {
    let mut document = ConfigDocument::default();
    document.set_created(time);
    document.created
}

/// A document that only says what it is for.
pub(crate) fn platform_document(platform: &Platform) -> ConfigDocument {
    ConfigDocument {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: Some(platform.variant.clone()).filter(|variant| !variant.is_empty()),
        ..ConfigDocument::default()
    }
}

/// Passes on what is written in messages.
struct Sink<'a> {
    client: &'a dyn Client,
    buffer: Vec<u8>,
}

impl Sink<'_> {
    fn pass_on(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK_BYTES));
        let sent = self.client.output(full);
        sent.map_err(|problem| io::Error::new(io::ErrorKind::BrokenPipe, problem.to_string()))
    }
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK_BYTES {
            self.pass_on()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pass_on()
    }
}

fn sink<'a>(work: &'a Work<'_>) -> Sink<'a> {
    Sink {
        client: &*work.client,
        buffer: Vec::with_capacity(CHUNK_BYTES),
    }
}

/// The names are only in the archive, so the image has them for a moment.
fn send_archive(work: &Work<'_>, digest: Digest, references: &BTreeSet<ImageReference>) -> Result<()> {
    let format = match work.request.output {
        BuildOutputKind::Docker => Format::DockerArchive,
        _ => Format::Oci,
    };
    let store = &work.builder.config.store;
    let mut named = Vec::new();
    for reference in references {
        let before = store.target(reference);
        store.tag(reference, digest)?;
        named.push((reference, before));
    }
    let selectors: Vec<Selector> = match named.is_empty() {
        true => vec![Selector::Digest(digest)],
        false => references.iter().cloned().map(Selector::Reference).collect(),
    };
    let mut sink = sink(work);
    let saved = store.save(&selectors, &mut sink, format);
    for (reference, before) in named {
        match before {
            Some(before) => store.tag(reference, before)?,
            None => drop(store.remove(&Selector::Reference(reference.clone()), &BTreeSet::from([digest]))?),
        }
    }
    saved?;
    sink.flush().map_err(BuildError::io("send", "the archive"))
}

/// The files of the last stage as a tar.
fn send_tree(work: &Work<'_>, finished: &Finished) -> Result<()> {
    let workspace = work.builder.config.store.workspace();
    let view = work.view(&work.folders(finished.top.0, &workspace)?, &workspace)?;
    let tree = RootTree::new(view, "the result".to_string());
    let mut archive = tar::Builder::new(sink(work));
    append(&tree, Path::new(""), &mut archive)?;
    let mut sink = archive.into_inner().map_err(BuildError::io("send", "the files"))?;
    sink.flush().map_err(BuildError::io("send", "the files"))
}

fn append(tree: &RootTree, folder: &Path, archive: &mut tar::Builder<Sink<'_>>) -> Result<()> {
    for name in tree.names(folder)? {
        let path = folder.join(name);
        let Some(node) = tree.node(&path)? else { continue };
        let mut header = tar::Header::new_gnu();
        header.set_mode(node.mode);
        header.set_uid(node.uid.into());
        header.set_gid(node.gid.into());
        header.set_mtime(u64::try_from(node.mtime.0).unwrap_or(0));
        header.set_size(0);
        let failed = |error| BuildError::io("send", &path)(error);
        match &node.kind {
            NodeKind::Folder => {
                header.set_entry_type(tar::EntryType::Directory);
                archive
                    .append_data(&mut header, path.join(""), io::empty())
                    .map_err(failed)?;
                append(tree, &path, archive)?;
            }
            NodeKind::File { size, .. } => {
                header.set_entry_type(tar::EntryType::Regular);
                header.set_size(*size);
                archive
                    .append_data(&mut header, &path, tree.open(&path)?)
                    .map_err(failed)?;
            }
            NodeKind::Link(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                archive.append_link(&mut header, &path, target).map_err(failed)?;
            }
            NodeKind::Special { format, device } => {
                header.set_entry_type(special(*format));
                let (major, minor) = (nix::sys::stat::major(*device), nix::sys::stat::minor(*device));
                let number = |number: u64| u32::try_from(number).unwrap_or(0);
                header
                    .set_device_major(number(major))
                    .and_then(|()| header.set_device_minor(number(minor)))
                    .map_err(failed)?;
                archive.append_data(&mut header, &path, io::empty()).map_err(failed)?;
            }
            NodeKind::Socket => {}
        }
    }
    Ok(())
}

const fn special(format: u32) -> tar::EntryType {
    match format {
        nix::libc::S_IFCHR => tar::EntryType::Char,
        nix::libc::S_IFBLK => tar::EntryType::Block,
        _ => tar::EntryType::Fifo,
    }
}
