//! One step of a stage: its key, the layer that the cache has for it, or the work that makes it.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gantry_dockerfile::{Add, AddSource, Copy, Input, Key, MakeFolder, Operation, Source, Step};
use gantry_image::{Node, UpperLayer, Workspace};
use gantry_model::{Digest, Timestamp};

use crate::add::{archive, download, git};
use crate::cache::CacheRecord;
use crate::copy::{Copier, Excluded, Owner, Placement, ensure_folder};
use crate::emulation;
use crate::error::{BuildError, Result};
use crate::exchange::Made;
use crate::overlay::{Layers, View};
use crate::run;
use crate::tree::{Picked, RootTree, Tree, digest_picked, digest_subtree, pick, resolve};
use crate::work::{Top, Work};

/// What a step has come to.
#[derive(Debug, Clone)]
pub(crate) struct StepOutcome {
    pub(crate) made: Made,
    pub(crate) cached: bool,
}

impl StepOutcome {
    pub(crate) fn top(&self) -> Top {
        Top(Some(self.made.record.chain))
    }
}

impl Work<'_> {
    /// Makes the layer of a step, or takes it from the cache. `id` is the step as it was announced.
    pub(crate) fn step(&self, id: u32, step: &Step, top: Top) -> Result<StepOutcome> {
        for stage in step.operation.stages() {
            self.wait_for(stage)?;
        }
        self.started(id);
        let workspace = self.builder.config.store.workspace();
        let inputs = step.operation.inputs();
        let digests = inputs
            .iter()
            .map(|input| self.digest_input(input, &workspace))
            .collect::<Result<Vec<_>>>()?;
        let Some(key) = step.operation.key(top.key(), &digests) else {
            return Err(BuildError::refused("a step without a layer was to be made", ""));
        };
        // A linked layer has one key whatever is below it, but it is stored together with what is below.
        let key = top.key().with_layer(key);
        let _making = self.builder.permits.making(key, self.cancel)?;
        if let Some(record) = self.cached(key, top)? {
            let made = Made { key, record };
            return Ok(StepOutcome { made, cached: true });
        }
        let _permit = self.builder.permits.permit(self.cancel)?;
        let upper = self.perform(id, step, top, &workspace)?;
        self.commit(key, step, top, &upper)
    }

    /// The layer that the cache has; `top` is here with all below it.
    fn cached(&self, key: Key, top: Top) -> Result<Option<CacheRecord>> {
        if self.request.spec.no_cache {
            return Ok(None);
        }
        let config = &self.builder.config;
        let Some(record) = self.builder.cache.find(key, &*config.env) else {
            return self.borrowed(key, top);
        };
        // Looked for once the lease holds it: before, the collector might still have been faster.
        self.lease.keep(Node::Layer(record.chain))?;
        if config.store.has_layer_on(record.chain, top.0) {
            return Ok(Some(record));
        }
        self.builder.cache.forget(key);
        self.borrowed(key, top)
    }

    fn commit(&self, key: Key, step: &Step, top: Top, upper: &Path) -> Result<StepOutcome> {
        let config = &self.builder.config;
        let layer = UpperLayer {
            upper,
            parent: top.0,
            epoch: self.epoch(),
        };
        let committed = config.store.commit_layer(self.lease, &layer)?;
        let now = config.env.now();
        let record = CacheRecord {
            chain: committed.chain,
            size: committed.size.0,
            description: step.history.created_by.clone(),
            created_at: self.epoch().map_or(now, |epoch| epoch.min(now)),
            used_at: now,
        };
        self.builder.cache.insert(key, record.clone())?;
        let made = Made { key, record };
        Ok(StepOutcome { made, cached: false })
    }

    /// `SOURCE_DATE_EPOCH`.
    pub(crate) fn epoch(&self) -> Option<Timestamp> {
        let seconds = self.request.source_date_epoch.or(self.graph.source_date_epoch);
        seconds.map(|seconds| Timestamp(seconds.saturating_mul(1000)))
    }

    fn perform(&self, id: u32, step: &Step, top: Top, workspace: &Workspace) -> Result<PathBuf> {
        match &step.operation {
            Operation::Run(command) => {
                self.require_own_platform()?;
                run::run(self, id, command, top.0, workspace)
            }
            Operation::Copy(copy) => self.copy(copy, top, workspace),
            Operation::Add(add) => self.add(id, add, top, workspace),
            Operation::MakeFolder(folder) => self.make_folder(folder, top, workspace),
            Operation::Config => workspace.folder("layer").map_err(Into::into),
        }
    }

    fn require_own_platform(&self) -> Result<()> {
        let own = gantry_image::Platform::of_this_machine();
        let wanted = &self.graph.platform;
        let is_own = wanted.os == own.os && wanted.architecture == own.architecture;
        if is_own || emulation::is_there(&own, wanted) {
            return Ok(());
        }
        Err(BuildError::refused(
            format!("this node runs {own} and cannot RUN commands for {wanted}"),
            "build on a node of that platform with --node, register an emulator on this one (binfmt_misc: package \
             qemu-user-static), or leave RUN to a stage with FROM --platform=$BUILDPLATFORM",
        ))
    }

    // Inputs

    fn digest_input(&self, input: &Input<'_>, workspace: &Workspace) -> Result<Digest> {
        match input {
            Input::Files {
                from,
                pattern,
                exclude,
                parents,
            } => self.remembered(from, &format!("files {parents} {pattern:?} {exclude:?}"), || {
                let tree = self.tree(from, workspace)?;
                digest_picked(&*tree, &pick(&*tree, pattern)?, &Excluded::new(exclude)?, *parents)
            }),
            Input::Tree { from, path } => self.remembered(from, &format!("tree {path:?}"), || {
                let tree = self.tree(from, workspace)?;
                match resolve(&*tree, Path::new(path), true)? {
                    Some(found) => digest_subtree(&*tree, &found),
                    None => Err(BuildError::NotFound {
                        path: (*path).to_string(),
                        place: tree.place(),
                    }),
                }
            }),
            Input::Http { url } => Ok(self.downloaded(url, None)?.digest),
            Input::Git(git) => Ok(Digest::from_bytes(sha256(git::commit_of(git, self.cancel)?.as_bytes()))),
        }
    }

    /// Trees of layers never change, so what was found in them is kept.
    fn remembered(&self, from: &Source, what: &str, find: impl FnOnce() -> Result<Digest>) -> Result<Digest> {
        let Some(top) = self.top_of(from)? else { return find() };
        let key = top.key().with_layer(Key(Digest::from_bytes(sha256(what.as_bytes()))));
        if let Some(digest) = self.builder.cache.digest(key) {
            return Ok(digest);
        }
        let digest = find()?;
        self.builder.cache.insert_digest(key, digest)?;
        Ok(digest)
    }

    // Steps without a container

    /// A tree to write to: the layers so far with a new one on top, or the new one alone.
    fn writable(&self, top: Top, is_alone: bool, workspace: &Workspace) -> Result<(View, PathBuf)> {
        let upper = workspace.folder("layer")?;
        if is_alone {
            return Ok((View::folder(&upper)?, upper));
        }
        let layers = Layers {
            lower: self.folders(top.0, workspace)?,
            writable: Some((upper.clone(), workspace.folder("work")?)),
        };
        Ok((View::open(&layers, &self.point(workspace)?)?, upper))
    }

    fn owner(
        &self,
        chown: Option<&str>,
        top: Top,
        view: &View,
        is_alone: bool,
        workspace: &Workspace,
    ) -> Result<Option<Owner>> {
        let Some(chown) = chown.filter(|chown| !chown.is_empty()) else {
            return Ok(None);
        };
        if is_alone {
            let below = self.view(&self.folders(top.0, workspace)?, workspace)?;
            return Owner::look_up(Some(&below), chown).map(Some);
        }
        Owner::look_up(Some(view), chown).map(Some)
    }

    fn copy(&self, copy: &Copy, top: Top, workspace: &Workspace) -> Result<PathBuf> {
        let tree = if copy.sources.is_empty() {
            None
        } else {
            Some(self.tree(&copy.from, workspace)?)
        };
        let (view, upper) = self.writable(top, copy.link, workspace)?;
        let placement = Placement {
            owner: self.owner(copy.chown.as_deref(), top, &view, copy.link, workspace)?,
            chmod: copy.chmod.clone(),
            excluded: Excluded::new(&copy.exclude)?,
        };
        let mut copier = Copier::new(&view, placement, self.cancel);
        if let Some(tree) = &tree {
            let picked = pick_all(&**tree, copy.sources.iter().map(String::as_str))?;
            self.fetch(&**tree, &paths(&picked))?;
            for place in &picked {
                if copy.parents {
                    copier.copy_with_parents(&**tree, place, &copy.destination)?;
                } else {
                    copier.copy(&**tree, place, &copy.destination)?;
                }
            }
        }
        for file in &copy.files {
            copier.inline(file, &copy.destination, self.now())?;
        }
        Ok(upper)
    }

    fn now(&self) -> (i64, i64) {
        let now = self.epoch().unwrap_or_else(|| self.builder.config.env.now());
        let ms = i64::try_from(now.0).unwrap_or(0);
        (ms / 1000, ms % 1000 * 1_000_000)
    }

    fn add(&self, id: u32, add: &Add, top: Top, workspace: &Workspace) -> Result<PathBuf> {
        let (view, upper) = self.writable(top, add.link, workspace)?;
        let placement = Placement {
            owner: self.owner(add.chown.as_deref(), top, &view, add.link, workspace)?,
            chmod: add.chmod.clone(),
            excluded: Excluded::new(&add.exclude)?,
        };
        let mut copier = Copier::new(&view, placement.clone(), self.cancel);
        for source in &add.sources {
            match source {
                AddSource::Path(pattern) => self.add_path(add, pattern, &mut copier, (&view, &placement))?,
                AddSource::Http {
                    url,
                    file_name,
                    checksum,
                } => {
                    let file = self.downloaded(url, Some((id, *checksum)))?;
                    if add.unpack == Some(true)
                        && archive::is_archive(&mut file.open()?).map_err(BuildError::io("read", url))?
                    {
                        archive::unpack(&view, file.open()?, url, &add.destination, placement.owner, self.cancel)?;
                    } else {
                        let spot = copier.file_spot(&add.destination, OsStr::new(file_name))?;
                        spot.write_file(file.open()?, &placement.meta(&file.node(), Vec::new()))?;
                    }
                }
                AddSource::Git(source) => {
                    let folder = workspace.folder("repository")?;
                    let commit = git::commit_of(source, self.cancel)?;
                    let part = git::check_out(source, &commit, &folder, self.cancel)?;
                    let tree = RootTree::new(View::folder(&folder)?, format!("repository {}", source.remote));
                    let inside = part.strip_prefix(&folder).unwrap_or(Path::new(""));
                    let name = inside.to_string_lossy();
                    for place in pick(&tree, &name)? {
                        copier.copy(&tree, &place, &add.destination)?;
                    }
                }
            }
        }
        for file in &add.files {
            copier.inline(file, &add.destination, self.now())?;
        }
        Ok(upper)
    }

    /// Files of the context; archives among them are unpacked.
    fn add_path(
        &self,
        add: &Add,
        pattern: &str,
        copier: &mut Copier<'_>,
        (view, placement): (&View, &Placement),
    ) -> Result<()> {
        let tree = self.context("")?;
        let picked = pick(&*tree, pattern)?;
        self.fetch(&*tree, &paths(&picked))?;
        for place in &picked {
            let is_folder = tree.node(&place.path)?.is_some_and(|node| node.is_folder());
            if !is_folder && add.unpack != Some(false) {
                let mut file: File = tree.open(&place.path)?;
                if archive::is_archive(&mut file).map_err(BuildError::io("read", &place.path))? {
                    archive::unpack(view, file, pattern, &add.destination, placement.owner, self.cancel)?;
                    continue;
                }
            }
            copier.copy(&*tree, place, &add.destination)?;
        }
        Ok(())
    }

    fn make_folder(&self, folder: &MakeFolder, top: Top, workspace: &Workspace) -> Result<PathBuf> {
        let (view, upper) = self.writable(top, false, workspace)?;
        let owner = match folder.user.as_str() {
            "" => None,
            user => Some(Owner::look_up(Some(&view), user)?),
        };
        ensure_folder(&view, Path::new(&folder.path), owner)?;
        Ok(upper)
    }

    /// A download, at most once in a build.
    fn downloaded(&self, url: &str, wanted: Option<(u32, Option<Digest>)>) -> Result<Arc<download::Download>> {
        use std::sync::PoisonError;
        let mut downloads = self.downloads.lock().unwrap_or_else(PoisonError::into_inner);
        let file = match downloads.get(url) {
            Some(file) => Arc::clone(file),
            None => {
                let file = Arc::new(download::fetch(
                    url,
                    self.request.spec.no_cache,
                    self.builder,
                    self.cancel,
                )?);
                downloads.insert(url.to_string(), Arc::clone(&file));
                file
            }
        };
        match wanted.and_then(|(_, checksum)| checksum) {
            Some(expected) if expected != file.digest => Err(BuildError::WrongDigest {
                what: url.to_string(),
                expected: expected.to_string(),
                found: file.digest,
            }),
            _ => Ok(file),
        }
    }
}

fn paths(picked: &[Picked]) -> Vec<&Path> {
    picked.iter().map(|place| place.path.as_path()).collect()
}

fn pick_all<'s>(tree: &dyn Tree, sources: impl Iterator<Item = &'s str>) -> Result<Vec<Picked>> {
    let mut all = Vec::new();
    for source in sources {
        all.extend(pick(tree, source)?);
    }
    Ok(all)
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::{Digest as _, Sha256};
    Sha256::digest(bytes).into()
}
