//! The command line of runc: the same names, so that callers written for it need not know the difference.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::log::LogFormat;

/// Where containers are kept when `--root` does not say.
const ROOT: &str = "/run/gantry/oci";

/// Create and run containers by the OCI runtime specification, with the command line of runc.
#[derive(Debug, Parser)]
#[command(
    name = "gantry oci",
    bin_name = "gantry oci",
    disable_version_flag = true,
    max_term_width = 100
)]
pub struct Cli {
    /// Folder that keeps what is known of containers
    #[arg(long, value_name = "DIR", default_value = ROOT)]
    pub root: PathBuf,
    /// File that gets errors
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Form of that file
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Accepted and without effect
    #[arg(long)]
    pub debug: bool,
    /// Refused: control groups are made directly; configure the engine's cgroup driver as cgroupfs
    #[arg(long)]
    pub systemd_cgroup: bool,
    /// Accepted when `false` or `auto`: containers are made as root
    #[arg(long, value_name = "MODE")]
    pub rootless: Option<String>,
    /// Accepted and without effect: there are no checkpoints
    #[arg(long, value_name = "PATH", hide = true)]
    pub criu: Option<PathBuf>,
    /// Show the version, and that of the specification
    #[arg(short, long)]
    pub version: bool,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Set up a container, which then waits to be started
    Create(CreateArgs),
    /// Let a container that was created execute its program
    Start(IdArgs),
    /// Create and start a container, and wait for its end
    Run(RunArgs),
    /// Show what a container is doing
    State(IdArgs),
    /// Send a signal to a container's first process
    Kill(KillArgs),
    /// Remove a container that has ended
    Delete(DeleteArgs),
    /// List containers
    List(ListArgs),
    /// List the processes of a container
    Ps(PsArgs),
    /// Run a further process in a container
    Exec(Box<ExecArgs>),
    /// Stop all processes of a container for a while
    Pause(IdArgs),
    /// Let them go on
    Resume(IdArgs),
    /// Change the limits of a container
    Update(Box<UpdateArgs>),
    /// Show what a container uses, and when memory runs out
    Events(EventsArgs),
    /// Write a config.json to start from
    Spec(SpecArgs),
    /// Show what this runtime can do
    Features,
    /// Refused: there are no checkpoints
    #[command(hide = true)]
    Checkpoint(AnyArgs),
    /// Refused: there are no checkpoints
    #[command(hide = true)]
    Restore(AnyArgs),
}

/// Whatever comes.
#[derive(Debug, Args)]
pub struct AnyArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub rest: Vec<String>,
}

#[derive(Debug, Args)]
pub struct IdArgs {
    /// The container
    pub id: String,
}

#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Folder with config.json
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub bundle: PathBuf,
    /// Unix socket that gets the terminal
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// File that gets the process id
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Refused: the root is always pivoted to, also on a memory disk
    #[arg(long)]
    pub no_pivot: bool,
    /// Accepted and without effect: containers have the session keyring of their caller
    #[arg(long)]
    pub no_new_keyring: bool,
    /// Descriptors from 3 on that the process inherits
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    pub preserve_fds: u32,
    /// The container
    pub id: String,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub create: CreateArgs,
    /// Do not wait for its end
    #[arg(short, long)]
    pub detach: bool,
    /// Do not remove it when it has ended
    #[arg(long)]
    pub keep: bool,
    /// Accepted and without effect: orphans go to the nearest subreaper
    #[arg(long)]
    pub no_subreaper: bool,
}

#[derive(Debug, Args)]
pub struct KillArgs {
    /// Signal all of its processes
    #[arg(short, long)]
    pub all: bool,
    /// The container
    pub id: String,
    /// Name or number
    #[arg(default_value = "SIGTERM")]
    pub signal: String,
}

#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// Kill it first; no error when there is none
    #[arg(short, long)]
    pub force: bool,
    /// The container
    pub id: String,
}

/// Form of a list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum ListFormat {
    /// For people.
    #[default]
    Table,
    /// One document.
    Json,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Form of the list
    #[arg(short, long, value_enum, default_value_t)]
    pub format: ListFormat,
    /// Ids only
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Args)]
pub struct PsArgs {
    /// Form of the list
    #[arg(short, long, value_enum, default_value_t)]
    pub format: ListFormat,
    /// The container
    pub id: String,
    /// Options for ps(1) [default: -ef]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "PS OPTIONS")]
    pub options: Vec<String>,
}

#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Unix socket that gets the terminal
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// File that gets the process id
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Folder to start in
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<PathBuf>,
    /// Variables
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// Allocate a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// User and group by number
    #[arg(short, long, value_name = "UID[:GID]")]
    pub user: Option<String>,
    /// Supplementary groups
    #[arg(short = 'g', long, value_name = "GID")]
    pub additional_gids: Vec<u32>,
    /// File with the whole process as in config.json
    #[arg(short, long, value_name = "FILE")]
    pub process: Option<PathBuf>,
    /// Do not wait for its end
    #[arg(short, long)]
    pub detach: bool,
    /// Nothing it executes gains privileges
    #[arg(long)]
    pub no_new_privs: bool,
    /// AppArmor profile
    #[arg(long, value_name = "NAME")]
    pub apparmor: Option<String>,
    /// Refused: there are no SELinux labels
    #[arg(long, value_name = "LABEL")]
    pub process_label: Option<String>,
    /// Further capabilities
    #[arg(short, long, value_name = "NAME")]
    pub cap: Vec<String>,
    /// Descriptors from 3 on that the process inherits
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    pub preserve_fds: u32,
    /// Refused: the process is in the container's own group
    #[arg(long, value_name = "PATH")]
    pub cgroup: Vec<String>,
    /// Also in a container that is paused
    #[arg(long)]
    pub ignore_paused: bool,
    /// Accepted and without effect
    #[arg(long)]
    pub no_subreaper: bool,
    /// The container
    pub id: String,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct UpdateArgs {
    /// File with limits as in linux.resources; - for standard input. Other options are not looked at then
    #[arg(short, long, value_name = "FILE")]
    pub resources: Option<PathBuf>,
    /// Weight of disk input and output, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    pub blkio_weight: Option<u16>,
    /// Period of the quota in microseconds
    #[arg(long, value_name = "US")]
    pub cpu_period: Option<u64>,
    /// Microseconds of processor time per period; -1 is unlimited
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    pub cpu_quota: Option<i64>,
    /// Quota that may be saved up, in microseconds
    #[arg(long, value_name = "US")]
    pub cpu_burst: Option<u64>,
    /// Weight of processor time, 2 to 262144
    #[arg(long, value_name = "SHARES")]
    pub cpu_share: Option<u64>,
    /// Period of real-time scheduling in microseconds
    #[arg(long, value_name = "US")]
    pub cpu_rt_period: Option<u64>,
    /// Microseconds of real-time scheduling per period
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    pub cpu_rt_runtime: Option<i64>,
    /// Processors
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    /// 1: run only when nothing else wants to
    #[arg(long, value_name = "0|1")]
    pub cpu_idle: Option<i64>,
    /// Most memory: bytes, or with k, m or g behind; -1 is unlimited
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory: Option<String>,
    /// Memory that is left to it when the machine runs short
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory_reservation: Option<String>,
    /// Memory and swap together
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// Most processes; -1 is unlimited
    #[arg(long, value_name = "COUNT", allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
    /// Accepted and without effect: kernels no longer limit it
    #[arg(long, value_name = "BYTES", hide = true, allow_hyphen_values = true)]
    pub kernel_memory: Option<String>,
    /// Accepted and without effect: kernels no longer limit it
    #[arg(long, value_name = "BYTES", hide = true, allow_hyphen_values = true)]
    pub kernel_memory_tcp: Option<String>,
    /// The container
    pub id: String,
}

#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Seconds between two figures, with s, m or ms behind
    #[arg(long, value_name = "TIME", default_value = "5s")]
    pub interval: String,
    /// Show the figures once
    #[arg(long)]
    pub stats: bool,
    /// The container
    pub id: String,
}

#[derive(Debug, Args)]
pub struct SpecArgs {
    /// Folder to write config.json into
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub bundle: PathBuf,
    /// Refused: containers are made as root
    #[arg(long)]
    pub rootless: bool,
}
