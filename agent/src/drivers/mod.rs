//! What a replica's worker needs of its machine, behind traits, so that workers are tested without one.
//!
//! Every operation may be repeated: a worker that was interrupted, or an agent that was started anew, asks again, and what is
//! there already is kept.

pub(crate) mod cdi;
pub(crate) mod containers;
pub(crate) mod images;
pub(crate) mod local_network;
pub(crate) mod service_network;
mod user_ids;
pub(crate) mod volumes;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;
use gantry_image::ImageConfig;
use gantry_lifecycle::{Attempt, Failure, Found};
use gantry_model::net::Ipv4Net;
use gantry_model::phase::Exit;
use gantry_model::spec::{ContainerSpec, Mount, Propagation, Resources};
use gantry_model::{ByteSize, Digest, DurationMs, Name, Problem, ReplicaId, Timestamp};
use gantry_netplan::Plan;
use gantry_network::{Connections, Disturbance, LocalAttachment, LocalPort};
use gantry_runtime::LaunchOptions;

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
    /// Digest of its manifest.
    pub digest: Digest,
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
    /// The replica, or the container that is run by hand.
    pub id: ReplicaId,
    /// Its name for people.
    pub name: String,
    /// Its container with templates expanded.
    pub container: ContainerSpec,
    /// What it may use.
    pub resources: Resources,
    /// Its image.
    pub image: ReadyImage,
    /// Host name inside.
    pub hostname: String,
    /// Where its network is.
    pub network: LaunchNetwork,
    /// Mounts.
    pub mounts: Vec<ReadyMount>,
    /// Name resolution, configs and secrets.
    pub files: Vec<PlacedFile>,
    /// What only some containers need.
    pub options: LaunchOptions,
}

/// Where the network of a container is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LaunchNetwork {
    /// A namespace with nothing but a loopback.
    Empty,
    /// The namespace behind this file.
    Path(PathBuf),
    /// The node's.
    Host,
}

/// A container that could not be started; nothing of it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchFailure {
    /// In words for the user.
    pub reason: String,
    /// Whether trying again here may help.
    pub retryable: bool,
    /// What a shell would report: 127 for a program that is not there, 126 for one that cannot be run, else 125.
    pub exit_code: i32,
}

impl From<LaunchFailure> for Failure {
    fn from(failure: LaunchFailure) -> Self {
        Self {
            reason: failure.reason,
            retryable: failure.retryable,
        }
    }
}

/// Whose volumes are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeOwner {
    /// The replica, or the container that is run by hand.
    pub id: ReplicaId,
    /// Namespace of its named volumes; none where names mean themselves.
    pub namespace: Option<Name>,
}

/// A container that was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Running {
    /// Its first process.
    pub pid: u32,
    /// When.
    pub started_at: Timestamp,
}

/// The streams of a container that somebody watches.
#[derive(Debug)]
pub struct Attached {
    /// Writes to its standard input or terminal; none when it has neither.
    pub stdin: Option<OwnedFd>,
    /// What it prints from now on.
    pub output: AttachedOutput,
}

/// What a container prints.
#[derive(Debug)]
pub enum AttachedOutput {
    /// Through a terminal.
    Terminal(OwnedFd),
    /// Apart.
    Pipes {
        /// Standard output.
        stdout: OwnedFd,
        /// Standard error.
        stderr: OwnedFd,
    },
}

/// Runs containers; one at a time for each replica.
pub trait Runtime: Send + Sync + 'static {
    /// Starts the container; done when its program runs.
    fn launch(&self, launch: Arc<Launch>, attempt: Attempt) -> BoxFuture<'_, Result<Running, LaunchFailure>>;

    /// Lets a container that was launched held execute its program.
    fn proceed(&self, replica: ReplicaId) -> BoxFuture<'_, Result<Timestamp, LaunchFailure>>;

    /// Copies of what it prints from now on, and a way to its standard input if it has one.
    fn attach(&self, replica: ReplicaId, stdin: bool) -> BoxFuture<'_, Result<Attached, Problem>>;

    /// Ends its standard input once nobody holds it any more.
    fn close_stdin(&self, replica: ReplicaId) -> BoxFuture<'_, Result<(), Problem>>;

    /// Sets the size of its terminal.
    fn resize(&self, replica: ReplicaId, rows: u16, columns: u16) -> BoxFuture<'_, Result<(), Problem>>;

    /// Freezes or thaws it.
    fn freeze(&self, replica: ReplicaId, frozen: bool) -> BoxFuture<'_, Result<(), Problem>>;

    /// Changes its limits while it runs.
    fn limit(&self, replica: ReplicaId, resources: Resources) -> BoxFuture<'_, Result<(), Problem>>;

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

    /// Waits until somebody else may have changed it.
    fn disturbed(&self) -> BoxFuture<'_, Disturbance>;

    /// Brings back what differs from the plan.
    fn repair(&self, plan: Arc<Plan>, disturbance: Disturbance) -> BoxFuture<'_, Result<(), Problem>>;

    /// Takes over what a former agent left, with a plan that may be older than that: where packets go stays as it is.
    fn resume(&self, plan: Arc<Plan>) -> BoxFuture<'_, Result<(), Problem>>;

    /// The connections that clients have with a replica; none where its network is not its own.
    fn connections(&self, replica: ReplicaId) -> BoxFuture<'_, Result<Option<Connections>, Problem>>;

    /// The TCP ports on which a replica accepts connections; none where its network is not its own.
    fn listening(&self, replica: ReplicaId) -> BoxFuture<'_, Result<Option<BTreeSet<u16>>, Problem>>;

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
        owner: &'a VolumeOwner,
        mounts: &'a [Mount],
        image: &'a ImageConfig,
    ) -> BoxFuture<'a, Result<Vec<ReadyMount>, Failure>>;

    /// Removes the replica's anonymous volumes.
    fn remove(&self, replica: ReplicaId) -> BoxFuture<'_, Result<(), Problem>>;

    /// Makes them named ones, which outlive it.
    fn keep(&self, replica: ReplicaId) -> BoxFuture<'_, Result<(), Problem>>;
}

/// The network of containers run by hand. `avoid` are pools that its own must not overlap.
pub trait Bridge: Send + Sync + 'static {
    /// Takes over a container of a former agent, before anything else is done.
    fn adopt(&self, container: ReplicaId, address: Ipv4Addr, ports: Vec<LocalPort>);

    /// Makes what all containers share, unless it is there.
    fn ready(&self, avoid: Vec<Ipv4Net>) -> BoxFuture<'_, Result<(), Problem>>;

    /// Makes it anew, whatever others did to it.
    fn heal(&self) -> BoxFuture<'_, Result<(), Problem>>;

    /// Gives a container a namespace and an address.
    fn attach(&self, container: ReplicaId, avoid: Vec<Ipv4Net>) -> BoxFuture<'_, Result<LocalAttachment, Problem>>;

    /// Runs a name server at the gateway, for nodes whose own are reached by the node alone.
    fn serve_names(&self, avoid: Vec<Ipv4Net>) -> BoxFuture<'_, Result<(), Problem>>;

    /// Takes them back. None there is fine.
    fn detach(&self, container: ReplicaId) -> BoxFuture<'_, Result<(), Problem>>;

    /// Makes ports of the node lead to containers.
    fn publish(&self, ports: Vec<LocalPort>, avoid: Vec<Ipv4Net>) -> BoxFuture<'_, Result<(), Problem>>;

    /// Takes ports back.
    fn withdraw(&self, ports: Vec<LocalPort>) -> BoxFuture<'_, Result<(), Problem>>;

    /// Containers that have a namespace.
    fn attached(&self) -> BoxFuture<'_, Result<Vec<ReplicaId>, Problem>>;
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
