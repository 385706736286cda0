//! Gantry's container runtime: from a spec to a running process, and back to its exit status.
//!
//! [`prepare`] turns a [`LaunchInput`] into a [`LaunchPlan`] and makes what the plan names (folders, control group); [`launch`]
//! hands the plan to a shim, which starts the container and stays beside it; a [`Handle`] speaks with that shim, also after the
//! agent was restarted. Every function blocks for milliseconds at most, unless it says otherwise: call them from a thread for
//! blocking work. To wait for many containers, watch [`Handle::exit_fd`] of each.
//!
//! **Invariant:** a container does not depend on the process that launched it.
//! **Invariant:** nothing inside an image or volume is resolved outside the container's root.
//! Deliberately not here: pulling and unpacking images, making volumes and networks, restart policies, health.

mod archive;
mod capability;
mod changes;
mod devices;
mod embed;
mod error;
mod exec;
mod handle;
mod input;
mod launch;
mod live;
pub mod logs;
mod mounts;
mod namespaces;
mod options;
mod paths;
mod prepare;
mod process;
mod seccomp;
mod signal;
mod sysctl;
mod unattended;

pub use archive::{CopyError, CopyIn, Found};
pub use capability::bit as capability_bit;
pub use changes::{ChangeKind, FileChange};
pub use embed::install_shim;
pub use error::{HandleError, LaunchError};
pub use exec::{ExecSession, ExecSpec, ExecStreams};
pub use gantry_shim::Failure;
pub use gantry_shim::plan::{self, LaunchPlan};
pub use handle::{Handle, State};
pub use input::{
    DataFile, HostFile, ImageDefaults, LaunchInput, LaunchOptions, LogSettings, Network, Peers, ResolvedMount,
    ResolvedMountKind, UserIds,
};
pub use launch::{Launched, PassedFds, exec_unattended, launch, launch_with, run_hooks};
pub use live::Attached;
pub use options::{BindDepth, MountOptions};
pub use paths::{cgroup_mounts, default_device_rules, default_devices};
pub use prepare::{lay_out, prepare};
pub use seccomp::seccomp_plan;
pub use signal::{number as signal_number, stop_signal};
pub use unattended::{Progress, Unattended};
