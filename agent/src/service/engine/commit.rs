//! A container's changes as a new image.
//!
//! What it wrote is copied first, frozen meanwhile unless asked not to, so that the image is of one moment and the container keeps
//! its files.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use gantry_api::v1::{CommitContainerRequest, ImportImageReply};
use gantry_image::{ConfigDocument, HistoryEntry, ImageDraft, ImageInfo, Store, UpperLayer};
use gantry_model::container::ContainerStatus;
use gantry_model::{Class, Digest, DurationMs, ImageReference, Problem, Timestamp};

use super::super::NodeService;
use super::changes;
use crate::drivers::images::wire_info;
use crate::drivers::{Runtime, blocking};
use crate::engine::record::Record;

/// An image must be written within so long; until then nothing of it is collected.
const LEASE: DurationMs = DurationMs::secs(3600);

/// What the image is made of.
struct Commit {
    record: Arc<Record>,
    upper: PathBuf,
    reference: Option<ImageReference>,
    request: CommitContainerRequest,
    now: Timestamp,
}

pub(super) async fn commit(
    service: &NodeService,
    request: CommitContainerRequest,
) -> Result<ImportImageReply, Problem> {
    let (id, entry) = service.engine.find(&request.container)?;
    let record = Arc::clone(&entry.view.borrow().record);
    let reference = match request.reference.as_str() {
        "" => None,
        text => Some(
            text.parse()
                .map_err(|error| Problem::new(Class::Invalid, "image reference", format!("{error}")))?,
        ),
    };
    let freezes = request.pause && record.life.state.status == ContainerStatus::Running;
    if freezes {
        service.by_hand.freeze(id, true).await?;
    }
    let commit = Commit {
        upper: service.engine.parts().store.container(id).join("bundle/upper"),
        record,
        reference,
        request,
        now: service.shared.clock.now(),
    };
    let store = Arc::clone(service.images.store());
    let written = blocking(move || commit.write(&store)).await;
    if freezes {
        service.by_hand.freeze(id, false).await?;
    }
    let info = written?;
    service.images.refresh();
    service.images.record(vec![wire_info(&info)], Vec::new()).await;
    Ok(ImportImageReply {
        images: vec![wire_info(&info)],
        node: service.node.clone(),
    })
}

impl Commit {
    fn write(&self, store: &Store) -> Result<ImageInfo, Problem> {
        let base: Digest = self.record.image_digest.parse().map_err(|error| {
            Problem::new(
                Class::Internal,
                self.record.object(),
                format!("its image is not known: {error}"),
            )
        })?;
        let mut config = store.config_document(base)?;
        let lease = store.lease(LEASE)?;
        let workspace = store.workspace();
        let upper = workspace.folder("upper")?;
        if self.upper.is_dir() {
            copy(&self.upper, &upper)?;
        }
        // The image's own layers must be laid out to stand below a new one.
        store.unpack(base)?;
        let layer = UpperLayer {
            upper: &upper,
            parent: store.top_layer(base)?,
            epoch: None,
        };
        let layer = store.commit_layer(&lease, &layer)?;
        self.configure(&mut config)?;
        let draft = ImageDraft {
            config,
            top: Some(layer.chain),
            references: self.reference.iter().cloned().collect(),
            ..ImageDraft::default()
        };
        Ok(store.write_image(&lease, &draft)?)
    }

    fn configure(&self, config: &mut ConfigDocument) -> Result<(), Problem> {
        let created = jiff::Timestamp::from_millisecond(i64::try_from(self.now.0).unwrap_or(0)).unwrap_or_default();
        config.created = Some(created.to_string());
        if !self.request.author.is_empty() {
            config.author = Some(self.request.author.clone());
        }
        config.history.push(HistoryEntry {
            created: Some(created.to_string()),
            created_by: self.record.command.join(" "),
            author: self.request.author.clone(),
            comment: self.request.message.clone(),
            empty_layer: false,
        });
        changes::container(&mut config.config, &self.record.spec.container);
        for change in &self.request.changes {
            changes::apply(&mut config.config, change)?;
        }
        Ok(())
    }
}

/// Everything, links, owners, devices and extended attributes included: they are what overlayfs says with.
fn copy(from: &Path, to: &Path) -> Result<(), Problem> {
    let failed = |reason: String| Problem::new(Class::Internal, "commit", reason);
    let output = Command::new("cp")
        .args(["-a", "--reflink=auto", "--"])
        .arg(from.join("."))
        .arg(to)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(format!("cannot run cp: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    Err(failed(format!("cannot copy {}: {}", from.display(), message.trim())))
}
