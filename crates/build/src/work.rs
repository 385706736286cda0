//! One build in progress: what its steps share.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gantry_dockerfile::{Graph, Key, Platform, Source, StageId};
use gantry_image::{Lease, Node, Workspace};
use gantry_model::build::{BuildEvent, BuildRequest};
use gantry_model::{Bytes64, Digest, ImageReference};

use crate::add::download::Download;
use crate::base::BaseImage;
use crate::builder::Builder;
use crate::cancel::Cancel;
use crate::client::Client;
use crate::copy::{Copier, Placement};
use crate::error::{BuildError, Result};
use crate::exchange::Imported;
use crate::overlay::{Layers, View};
use crate::tree::{ContextTree, Picked, RootTree, Tree, resolve};

/// Waiting for another stage looks for a cancelled build so often.
const WAIT: Duration = Duration::from_millis(100);

/// The tree of a stage or image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Top(pub(crate) Option<Digest>);

impl Top {
    /// What goes into keys of steps on this tree.
    pub(crate) fn key(self) -> Key {
        self.0.map_or_else(Key::scratch, Key::image)
    }
}

/// What builds for several platforms share.
pub(crate) struct Shared {
    pub(crate) lease: Lease,
    pub(crate) imported: Imported,
    pub(crate) steps: Numbers,
}

/// Numbers of steps, from 0.
#[derive(Debug, Default)]
pub(crate) struct Numbers(AtomicU32);

/// See the module.
pub(crate) struct Work<'a> {
    pub(crate) builder: &'a Builder,
    pub(crate) request: &'a BuildRequest,
    pub(crate) client: Arc<dyn Client>,
    pub(crate) cancel: &'a Cancel,
    pub(crate) lease: &'a Lease,
    pub(crate) graph: Graph,
    /// What other machines know of steps.
    pub(crate) imported: &'a Imported,
    id: u64,
    steps: &'a Numbers,
    paths: AtomicU32,
    contexts: Mutex<BTreeMap<String, Arc<ContextTree>>>,
    /// By name and platform.
    pub(crate) images: Mutex<BTreeMap<(ImageReference, Platform), Arc<BaseImage>>>,
    /// By address.
    pub(crate) downloads: Mutex<BTreeMap<String, Arc<Download>>>,
    finished: Mutex<BTreeMap<StageId, Top>>,
    changed: Condvar,
    /// Step that shows the transfer of the context; the first who asks for it takes it.
    pub(crate) context_step: Mutex<Option<u32>>,
}

impl<'a> Work<'a> {
    pub(crate) fn new(
        builder: &'a Builder,
        request: &'a BuildRequest,
        client: Arc<dyn Client>,
        cancel: &'a Cancel,
        graph: Graph,
        shared: &'a Shared,
    ) -> Self {
        Self {
            builder,
            request,
            client,
            cancel,
            lease: &shared.lease,
            graph,
            imported: &shared.imported,
            id: builder.config.env.random_u64(),
            steps: &shared.steps,
            paths: AtomicU32::new(0),
            contexts: Mutex::default(),
            images: Mutex::default(),
            downloads: Mutex::default(),
            finished: Mutex::default(),
            changed: Condvar::new(),
            context_step: Mutex::default(),
        }
    }

    // Events

    /// Announces a step.
    pub(crate) fn announce(&self, title: &str, line: Option<u32>) -> u32 {
        let id = self.steps.0.fetch_add(1, Ordering::Relaxed);
        let title = match title.strip_prefix('[').filter(|title| !title.starts_with("internal")) {
            Some(title) if self.request.spec.platforms.len() > 1 => format!("[{} {title}", self.graph.platform),
            _ => title.to_string(),
        };
        self.client.event(BuildEvent::Step { id, title, line });
        id
    }

    pub(crate) fn started(&self, id: u32) {
        let at = self.builder.config.env.now();
        self.client.event(BuildEvent::Started { id, at });
    }

    pub(crate) fn done(&self, id: u32, cached: bool) {
        let at = self.builder.config.env.now();
        self.client.event(BuildEvent::Done { id, at, cached });
    }

    pub(crate) fn failed(&self, id: u32, error: &BuildError) {
        self.client.event(BuildEvent::Failed {
            id,
            at: self.builder.config.env.now(),
            reason: error.to_string(),
            exit_code: error.exit_code(),
        });
    }

    pub(crate) fn log(&self, id: u32, stream: u8, data: Vec<u8>) {
        let data = Bytes64(data);
        self.client.event(BuildEvent::Log { id, stream, data });
    }

    // Names

    pub(crate) fn container_id(&self, step: u32) -> String {
        format!("build-{:016x}-{step}", self.id)
    }

    fn number(&self) -> u32 {
        self.paths.fetch_add(1, Ordering::Relaxed)
    }

    /// A path in memory that nothing else uses.
    pub(crate) fn memory_path(&self, what: &str) -> PathBuf {
        self.builder
            .memory_dir()
            .join(format!("{:016x}-{}-{what}", self.id, self.number()))
    }

    /// A path for a mount that the node sees.
    pub(crate) fn mount_point(&self) -> PathBuf {
        let mounts = self.builder.config.dir.join("mounts");
        mounts.join(format!("{:016x}-{}", self.id, self.number()))
    }

    // Stages

    fn finished(&self) -> MutexGuard<'_, BTreeMap<StageId, Top>> {
        self.finished.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn finish(&self, stage: StageId, top: Top) {
        self.finished().insert(stage, top);
        self.changed.notify_all();
    }

    /// The tree of a stage, once it is done.
    pub(crate) fn wait_for(&self, stage: StageId) -> Result<Top> {
        let mut finished = self.finished();
        loop {
            if let Some(top) = finished.get(&stage) {
                return Ok(*top);
            }
            // A stage that fails cancels the build.
            self.cancel.check()?;
            finished = self
                .changed
                .wait_timeout(finished, WAIT)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    // Trees

    /// The layers of a tree as folders; an empty one when it has none.
    pub(crate) fn folders(&self, top: Option<Digest>, workspace: &Workspace) -> Result<Vec<PathBuf>> {
        let Some(top) = top else {
            let empty = workspace.path()?.join("empty");
            if empty.is_dir() {
                return Ok(vec![empty]);
            }
            return Ok(vec![workspace.folder("empty")?]);
        };
        self.lease.keep(Node::Layer(top))?;
        Ok(self.builder.config.store.chain_folders(top)?)
    }

    /// Layers to be read.
    pub(crate) fn view(&self, lower: &[PathBuf], workspace: &Workspace) -> Result<View> {
        let layers = Layers {
            lower: lower.to_vec(),
            writable: None,
        };
        View::open(&layers, &self.point(workspace)?)
    }

    /// A folder to mount views on.
    pub(crate) fn point(&self, workspace: &Workspace) -> Result<PathBuf> {
        Ok(workspace.folder(&format!("point-{}", self.number()))?)
    }

    /// The layers of a source, where it has some: a context has none.
    pub(crate) fn top_of(&self, source: &Source) -> Result<Option<Top>> {
        match source {
            Source::Context => Ok(None),
            Source::Named(name) => match self.named_image(name)? {
                Some(reference) => Ok(Some(self.image(&reference)?.top)),
                None => Ok(None),
            },
            Source::Stage(stage) => self.wait_for(*stage).map(Some),
            Source::Image(reference) => Ok(Some(self.image(reference)?.top)),
            Source::Scratch => Ok(Some(Top(None))),
        }
    }

    /// The image that a named context stands for.
    pub(crate) fn named_image(&self, name: &str) -> Result<Option<ImageReference>> {
        let value = self.request.spec.additional_contexts.get(name);
        let Some(reference) = value.and_then(|value| value.strip_prefix("docker-image://")) else {
            return Ok(None);
        };
        reference.parse().map(Some).map_err(|error| {
            BuildError::refused(
                format!("the context {name:?}: {error}"),
                "write docker-image://REFERENCE",
            )
        })
    }

    /// A source to copy from.
    pub(crate) fn tree(&self, source: &Source, workspace: &Workspace) -> Result<Arc<dyn Tree>> {
        let Some(top) = self.top_of(source)? else {
            let name = match source {
                Source::Named(name) => name.as_str(),
                _ => "",
            };
            return Ok(self.context(name)?);
        };
        let view = self.view(&self.folders(top.0, workspace)?, workspace)?;
        let place = match source {
            Source::Stage(stage) => format!("stage {}", self.graph.stage(*stage).name),
            Source::Image(reference) => format!("image {}", reference.familiar()),
            Source::Named(name) => format!("the build context {name:?}"),
            Source::Context | Source::Scratch => "scratch".to_string(),
        };
        Ok(Arc::new(RootTree::new(view, place)))
    }

    /// A context's list of entries, as soon as it has come.
    pub(crate) fn context(&self, name: &str) -> Result<Arc<ContextTree>> {
        let mut contexts = self.contexts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tree) = contexts.get(name) {
            return Ok(Arc::clone(tree));
        }
        let step = self.context_step.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(step) = step {
            self.started(step);
        }
        let entries = self.client.entries(name)?;
        let tree = Arc::new(ContextTree::new(name, entries, Arc::clone(&self.builder.contents))?);
        if let Some(step) = step {
            self.done(step, false);
        }
        contexts.insert(name.to_string(), Arc::clone(&tree));
        Ok(tree)
    }

    /// Gets the contents below these places from the person's machine.
    pub(crate) fn fetch(&self, tree: &dyn Tree, places: &[&Path]) -> Result<()> {
        let mut wanted = Vec::new();
        for place in places {
            tree.wanted(place, &mut wanted)?;
        }
        let wanted: BTreeSet<Digest> = wanted.into_iter().collect();
        let wanted: Vec<Digest> = wanted.into_iter().collect();
        if wanted.is_empty() {
            Ok(())
        } else {
            Ok(self.client.fetch(&wanted)?)
        }
    }

    /// The part of a source that a mount shows, as folders.
    pub(crate) fn source_folders(&self, source: &Source, path: &str, workspace: &Workspace) -> Result<Vec<PathBuf>> {
        if let Some(top) = self.top_of(source)? {
            return self.folders(top.0, workspace);
        }
        let folder = workspace.folder(&format!("context-{}", self.number()))?;
        let view = View::folder(&folder)?;
        let tree = self.tree(source, workspace)?;
        let found = place_of(&*tree, path)?;
        self.fetch(&*tree, &[&found])?;
        let picked = Picked {
            path: found.clone(),
            name: found.clone(),
            kept_from: 0,
        };
        let mut copier = Copier::new(&view, Placement::default(), self.cancel);
        if found.as_os_str().is_empty() {
            copier.copy(&*tree, &picked, "/")?;
        } else {
            copier.copy_with_parents(&*tree, &picked, "/")?;
        }
        Ok(vec![folder])
    }

    /// Where the path is in the root of a mounted source, without links on the way.
    pub(crate) fn path_in(&self, root: &View, source: &Source, path: &str) -> Result<PathBuf> {
        let tree = RootTree::new(root.clone(), format!("{source:?}"));
        place_of(&tree, path)
    }

    /// Copies the content of a part of a source.
    pub(crate) fn copy_tree(&self, source: &Source, path: &str, to: &View, workspace: &Workspace) -> Result<()> {
        let tree = self.tree(source, workspace)?;
        let found = place_of(&*tree, path)?;
        self.fetch(&*tree, &[&found])?;
        let picked = Picked {
            path: found.clone(),
            name: found,
            kept_from: 0,
        };
        Copier::new(to, Placement::default(), self.cancel).copy(&*tree, &picked, "/")
    }
}

fn place_of(tree: &dyn Tree, path: &str) -> Result<PathBuf> {
    resolve(tree, Path::new(path), true)?.ok_or_else(|| BuildError::NotFound {
        path: path.to_string(),
        place: tree.place(),
    })
}
