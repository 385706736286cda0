//! The executor of a node: opened once, used by any number of builds at once.
//!
//! ```text
//! DIR/records/KEY.json   the cache: key of a step → layer of the store
//! DIR/digests/KEY.json   digests of parts of trees
//! DIR/downloads/KEY.json what servers said about files of ADD
//! DIR/contents/HEX       files of contexts
//! DIR/folders/ID-N/      folders of RUN --mount=type=cache
//! DIR/mounts/            points of mounts in progress, cleared at open
//! ```

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gantry_cgroup::Layout;
use gantry_env::Env;
use gantry_image::Store;
use gantry_model::DurationMs;

use crate::cache::{Cache, CacheRecord};
use crate::client::{BaseImages, Networks};
use crate::contents::Contents;
use crate::error::{BuildError, Result};
use crate::overlay;
use crate::permits::Permits;
use crate::run::CacheFolders;

/// Files of contexts take this part of the disk at most: a twentieth. Losing them costs sending them again.
const CONTENTS_SHARE: u64 = 20;

/// What an executor is given.
#[derive(Clone)]
pub struct BuilderConfig {
    /// Its folder, on the disk of the store.
    pub dir: PathBuf,
    /// For what must never be on a disk: secrets, sockets. On a file system in memory.
    pub run_dir: PathBuf,
    /// Where layers and images go.
    pub store: Arc<Store>,
    /// Where base images come from.
    pub images: Arc<dyn BaseImages>,
    /// The network of `RUN`.
    pub networks: Arc<dyn Networks>,
    /// Time and randomness.
    pub env: Arc<dyn Env>,
    /// The node's control groups.
    pub layout: Layout,
    /// Parent of the control groups of commands.
    pub cgroup_parent: String,
    /// The shim's program.
    pub shim: PathBuf,
    /// Steps that work at once; the number of processors when absent.
    pub parallelism: Option<usize>,
}

impl fmt::Debug for BuilderConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("BuilderConfig")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

/// See the module.
#[derive(Debug)]
pub struct Builder {
    pub(crate) config: BuilderConfig,
    pub(crate) cache: Cache,
    pub(crate) contents: Arc<Contents>,
    pub(crate) cache_folders: CacheFolders,
    pub(crate) permits: Permits,
}

/// What the executor keeps on the disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Steps whose layers are kept.
    pub records: Vec<CacheRecord>,
    /// Bytes of files of contexts.
    pub contents: u64,
    /// Bytes of cache folders.
    pub folders: u64,
}

/// What pruning took away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrunedCache {
    /// What it was, for people.
    pub removed: Vec<String>,
    /// Bytes.
    pub freed: u64,
}

impl Builder {
    /// Opens the executor and clears what a crash left behind.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn open(config: BuilderConfig) -> Result<Self> {
        overlay::clear(&config.dir.join("mounts"))?;
        let memory = config.run_dir.join("build");
        clear_memory(&memory)?;
        let builder = Self {
            cache: Cache::open(&config.dir)?,
            contents: Arc::new(Contents::open(&config.dir.join("contents"))?),
            cache_folders: CacheFolders::open(config.dir.join("folders"))?,
            permits: Permits::new(
                config
                    .parallelism
                    .or_else(|| std::thread::available_parallelism().ok().map(Into::into))
                    .unwrap_or(1),
            ),
            config,
        };
        builder.cache.publish_roots(&builder.config.store)?;
        Ok(builder)
    }

    /// Where contents of contexts go.
    #[must_use]
    pub const fn contents(&self) -> &Arc<Contents> {
        &self.contents
    }

    /// What is kept.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn usage(&self) -> Result<Usage> {
        Ok(Usage {
            records: self.cache.list(),
            contents: self.contents.size()?,
            folders: self.cache_folders.size()?,
        })
    }

    /// Forgets what was not used for so long; everything, with the folders of `RUN --mount=type=cache`, when that is nothing.
    /// Layers go when the store collects next.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn prune(&self, unused_for: DurationMs, dry_run: bool) -> Result<PrunedCache> {
        let env = &*self.config.env;
        let pruned = self.cache.prune(unused_for, env, dry_run)?;
        let mut freed = pruned.freed + self.contents.prune(unused_for, env, dry_run)?;
        if unused_for.0 == 0 {
            freed += self.cache_folders.prune(dry_run)?;
        }
        if !dry_run {
            self.cache.publish_roots(&self.config.store)?;
        }
        Ok(PrunedCache {
            removed: pruned.removed,
            freed,
        })
    }

    /// Keeps files of contexts within their limit, a twentieth of the disk. Returns the bytes freed.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn tidy(&self) -> Result<u64> {
        let dir = &self.config.dir;
        let disk = nix::sys::statvfs::statvfs(dir).map_err(BuildError::errno("examine the disk of", dir))?;
        let total = disk.blocks().saturating_mul(disk.fragment_size());
        self.contents.shrink(total / CONTENTS_SHARE, &*self.config.env)
    }

    pub(crate) fn memory_dir(&self) -> PathBuf {
        self.config.run_dir.join("build")
    }
}

fn clear_memory(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(BuildError::io("clear", folder)(error));
        }
        _ => {}
    }
    fs::create_dir_all(folder).map_err(BuildError::io("make folder", folder))?;
    // Secrets lie here.
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(BuildError::io("protect", folder))
}
