//! `RUN`: a command in a container of its own, on the layers so far and a writable one that becomes the next.
//!
//! **Invariant:** what the node adds to the container (host files, mounts and the points they are mounted on, secrets, sockets)
//! never becomes part of the layer.
//! **Invariant:** when a command ends, or the build does, no process of it is left.

mod mounts;
mod output;
mod stubs;

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use gantry_dockerfile::{Network, Run, Security};
use gantry_image::Workspace;
use gantry_model::spec::{ContainerSpec, Resources};
use gantry_model::{ByteSize, Digest};
use gantry_runtime::{
    Handle, HostFile, ImageDefaults, LaunchInput, LaunchOptions, LaunchPlan, LogSettings, launch, prepare,
};

use crate::client::Attached;
use crate::error::{BuildError, Result};
use crate::work::Work;

pub(crate) use mounts::CacheFolders;
use mounts::Prepared;
use output::Follower;

/// What commands see as their machine's name, as with BuildKit.
const HOSTNAME: &str = "buildkitsandbox";
/// Output of one command that is kept on disk while it runs; it is passed on at once.
const LOG_BYTES_MAX: ByteSize = ByteSize::mib(1 << 10);

/// Runs the command on the layers of `top` and returns the folder with what it changed, in the workspace.
pub(crate) fn run(
    work: &Work<'_>,
    step: u32,
    run: &Run,
    top: Option<Digest>,
    workspace: &Workspace,
) -> Result<PathBuf> {
    let lower = work.folders(top, workspace)?;
    let mut prepared = Prepared::new(work, run, workspace)?;
    let (attached, host_network) = network(work, run.network, step)?;
    let container = container(work, run);
    let image = image(run, &prepared);
    let bundle = workspace.path()?.join("bundle");
    let log = workspace.path()?.join("log");
    let input = LaunchInput {
        id: work.container_id(step),
        bundle: bundle.clone(),
        layers: lower.clone(),
        container: &container,
        image: &image,
        resources: &Resources::default(),
        hostname: HOSTNAME.to_string(),
        network: attached.as_deref().map_or(host_network, Attached::network),
        mounts: std::mem::take(&mut prepared.mounts),
        host_files: host_files(work, attached.as_deref())?,
        data_files: Vec::new(),
        cgroup_parent: work.builder.config.cgroup_parent.clone(),
        log: LogSettings {
            path: log.clone(),
            size_max: LOG_BYTES_MAX,
            files_max: 1,
        },
        options: LaunchOptions::default(),
    };
    work.cancel.check()?;
    let plan = prepare(&input, &work.builder.config.layout)?;
    let targets: Vec<PathBuf> = plan
        .mounts
        .iter()
        .map(|mount| mount.target.clone())
        .chain(prepared.script_points())
        .collect();
    let stubs = stubs::Stubs::before(&work.view(&lower, workspace)?, &targets)?;
    let upper = workspace.path()?.join("layer");
    let ended = attend(work, step, run, &plan, (&log, &upper));
    drop(prepared);
    drop(attached);
    ended?;
    stubs.remove_from(&upper)?;
    Ok(upper)
}

fn network(
    work: &Work<'_>,
    wanted: Network,
    step: u32,
) -> Result<(Option<Box<dyn Attached>>, gantry_runtime::Network)> {
    let default = match work.request.spec.network.as_deref() {
        Some("host") => Network::Host,
        Some("none") => Network::None,
        None | Some("default" | "") => Network::Default,
        Some(other) => {
            return Err(BuildError::refused(
                format!("a build has no network {other:?}"),
                "use default, host or none",
            ));
        }
    };
    let wanted = if wanted == Network::Default { default } else { wanted };
    Ok(match wanted {
        Network::Default => (
            Some(work.builder.config.networks.attach(&work.container_id(step))?),
            gantry_runtime::Network::Empty,
        ),
        Network::None => (None, gantry_runtime::Network::Empty),
        Network::Host => (None, gantry_runtime::Network::Host),
    })
}

fn host_files(work: &Work<'_>, attached: Option<&dyn Attached>) -> Result<Vec<HostFile>> {
    let mut extra = Vec::new();
    for (name, address) in &work.request.spec.extra_hosts {
        let address: IpAddr = address.parse().map_err(|_| {
            BuildError::refused(
                format!("{address:?} for the host name {name:?} is no address"),
                "write --add-host NAME:ADDRESS",
            )
        })?;
        extra.push((name.clone(), address));
    }
    let addresses = attached.map(Attached::addresses).unwrap_or_default();
    let resolv_conf = match attached {
        Some(attached) => attached.resolv_conf(),
        None => work.builder.config.networks.resolv_conf(),
    };
    Ok(vec![
        HostFile::hosts(HOSTNAME, &addresses, &extra),
        HostFile {
            target: PathBuf::from("/etc/resolv.conf"),
            content: resolv_conf,
        },
    ])
}

fn container(work: &Work<'_>, run: &Run) -> ContainerSpec {
    ContainerSpec {
        privileged: run.security == Security::Insecure,
        shm_size: work.request.spec.shm_size,
        ulimits: work.request.spec.ulimits.clone(),
        ..ContainerSpec::default()
    }
}

fn image(run: &Run, prepared: &Prepared<'_>) -> ImageDefaults {
    let pairs = run.env.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let proxies = run.proxy.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let env = pairs.chain(proxies).map(|(name, value)| format!("{name}={value}"));
    ImageDefaults {
        cmd: run.args.clone(),
        env: env.chain(prepared.variables.iter().cloned()).collect(),
        user: run.user.clone(),
        working_dir: run.working_dir.clone(),
        ..ImageDefaults::default()
    }
}

/// Starts the container, passes its output on, and waits for its end.
fn attend(work: &Work<'_>, step: u32, run: &Run, plan: &LaunchPlan, (log, upper): (&Path, &Path)) -> Result<()> {
    let started = launch(&work.builder.config.shim, plan);
    let handle = Handle::open(&plan.bundle, &work.builder.config.layout)?;
    let ended = match started {
        Ok(_) => Follower::new(log).and_then(|mut follower| {
            follower.follow(&handle, work.cancel, &|stream, text| work.log(step, stream, text))
        }),
        Err(error) => Err(error.into()),
    };
    // Nothing may still write to what is taken out of the bundle, which then goes.
    handle.kill_all()?;
    let written = plan.bundle.join("upper");
    let taken = fs::rename(&written, upper).map_err(BuildError::io("take over", &written));
    handle.delete()?;
    let exit = ended?;
    taken?;
    if exit.code == 0 {
        return Ok(());
    }
    Err(BuildError::Command {
        command: shown(run),
        code: exit.code,
        oom_killed: exit.oom_killed,
    })
}

fn shown(run: &Run) -> String {
    run.args.join(" ")
}
