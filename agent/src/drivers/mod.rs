//! What a replica's worker needs of its machine, behind traits, so that workers are tested without one.
//!
//! Every operation may be repeated: a worker that was interrupted, or an agent that was started anew, asks again, and what is
//! there already is kept.

pub(crate) mod containers;
pub(crate) mod images;
pub(crate) mod service_network;
pub(crate) mod volumes;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;
use gantry_image::ImageConfig;
use gantry_lifecycle::{Attempt, Failure, Found};
use gantry_model::assignment::ReplicaItem;
use gantry_model::phase::Exit;
use gantry_model::spec::{ContainerSpec, Mount, Propagation};
use gantry_model::{ByteSize, DurationMs, Problem, ReplicaId};
use gantry_netplan::Plan;

/// All of them.
#[derive(Clone)]
pub struct Drivers {
    /// Containers.
    pub runtime: Arc<dyn Runtime>,
    /// Images.
    pub images: Arc<dyn Images>,
    /// The service network.
    pub network: Arc<dyn Network>,
    /// Volumes.
    pub volumes: Arc<dyn Volumes>,
}

/// An image that is ready to be run.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadyImage {
    /// Its configuration.
    pub config: ImageConfig,
    /// Folders of its layers, topmost first.
    pub layers: Vec<PathBuf>,
}

/// A mount with its source on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadyMount {
    /// Absolute path inside the container.
    pub target: String,
    /// No writes through it.
    pub read_only: bool,
    /// What is mounted.
    pub source: ReadySource,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadySource {
    /// A path of the node.
    Bind {
        /// Absolute.
        path: PathBuf,
        /// How later mounts are shared.
        propagation: Propagation,
    },
    /// A folder that gets what the image has at the target while it is empty, unless told not to.
    Volume {
        /// Absolute.
        path: PathBuf,
        /// It is not filled.
        no_copy: bool,
    },
    /// Memory.
    Tmpfs {
        /// Largest size.
        size: Option<ByteSize>,
        /// Mode bits of its root.
        mode: Option<u32>,
    },
}

/// A file with its content, placed into a container.
#[derive(Clone, PartialEq, Eq)]
pub struct PlacedFile {
    /// Absolute path inside the container.
    pub target: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Mode bits.
    pub mode: u32,
    /// What it is.
    pub kind: FileKind,
    /// What is in it.
    pub content: Vec<u8>,
}

/// What a placed file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// Name resolution: the container may change it, and it may lie on the node's disk.
    Resolution,
    /// A config or secret: held in memory alone.
    Data,
}

impl std::fmt::Debug for PlacedFile {
    /// Without the content: it may be a secret.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "PlacedFile({}, {} bytes)", self.target, self.content.len())
    }
}

/// Everything a container is started from.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The replica; its spec still has templates in it.
    pub item: Arc<ReplicaItem>,
    /// Its container with templates expanded.
    pub container: ContainerSpec,
    /// Its image.
    pub image: ReadyImage,
    /// Host name inside.
    pub hostname: String,
    /// File of its network namespace; none for a network with nothing but a loopback.
    pub network: Option<PathBuf>,
    /// Mounts.
    pub mounts: Vec<ReadyMount>,
    /// Name resolution, configs and secrets.
    pub files: Vec<PlacedFile>,
}

/// A container that was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Running {
    /// Its first process.
    pub pid: u32,
    /// When.
    pub started_at: gantry_model::Timestamp,
}

/// Runs containers; one at a time for each replica.
pub trait Runtime: Send + Sync + 'static {
    /// Starts the container; done when its program runs.
    fn launch(&self, launch: Arc<Launch>, attempt: Attempt) -> BoxFuture<'_, Result<Running, Failure>>;

    /// Looks for the container of that start.
    fn find(&self, replica: ReplicaId, attempt: Attempt) -> BoxFuture<'_, Result<Found, Problem>>;

    /// Waits until the container of that start has ended.
    fn wait(&self, replica: ReplicaId, attempt: Attempt) -> BoxFuture<'_, Result<Exit, Problem>>;

    /// Signals its first process.
    fn signal(&self, replica: ReplicaId, attempt: Attempt, signal: i32) -> BoxFuture<'_, Result<(), Problem>>;

    /// Kills all of its processes.
    fn kill(&self, replica: ReplicaId, attempt: Attempt) -> BoxFuture<'_, Result<(), Problem>>;

    /// Runs a command in it; its exit status and what it printed. A command that takes longer is killed, which is an error.
    fn probe(
        &self,
        replica: ReplicaId,
        attempt: Attempt,
        command: Vec<String>,
        timeout: DurationMs,
    ) -> BoxFuture<'_, Result<(i32, String), Problem>>;

    /// Kills what is left of the replica's containers and gives back everything but its logs.
    fn release(&self, replica: ReplicaId) -> BoxFuture<'_, Result<(), Problem>>;
}

/// Gets images onto the node.
pub trait Images: Send + Sync + 'static {
    /// Makes the image of a container ready: here already, or fetched from another node.
    fn ensure<'a>(&'a self, container: &'a ContainerSpec) -> BoxFuture<'a, Result<ReadyImage, Failure>>;
}

/// The service network.
pub trait Network: Send + Sync + 'static {
    /// Makes the node's network as planned.
    fn apply(&self, plan: Arc<Plan>) -> BoxFuture<'_, Result<(), Problem>>;

    /// The same, trusting nothing that was applied before.
    fn heal(&self, plan: Arc<Plan>) -> BoxFuture<'_, Result<(), Problem>>;

    /// Gives a replica its network namespace.
    fn attach(&self, replica: ReplicaId, address: Ipv4Addr) -> BoxFuture<'_, Result<PathBuf, Problem>>;

    /// Lets it go. None there is fine.
    fn detach(&self, replica: ReplicaId) -> BoxFuture<'_, Result<(), Problem>>;

    /// Replicas that have a namespace.
    fn attached(&self) -> BoxFuture<'_, Result<Vec<ReplicaId>, Problem>>;
}

/// Keeps volumes.
pub trait Volumes: Send + Sync + 'static {
    /// Makes the sources of mounts ready, and an anonymous volume for each of the image's folders that no mount covers.
    fn ensure<'a>(
        &'a self,
        item: &'a ReplicaItem,
        mounts: &'a [Mount],
        image: &'a ImageConfig,
    ) -> BoxFuture<'a, Result<Vec<ReadyMount>, Failure>>;

    /// Removes the replica's anonymous volumes.
    fn remove(&self, replica: ReplicaId) -> BoxFuture<'_, Result<(), Problem>>;
}

/// Runs a blocking operation on a thread for it.
pub(crate) async fn blocking<T: Send + 'static>(operation: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(operation).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that shuts down cancels a blocking task, and then nobody waits for this any more.
            Err(_) => std::future::pending().await,
        },
    }
}
