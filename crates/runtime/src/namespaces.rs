//! From the spec's modes to the namespaces of the plan.

use std::path::PathBuf;

use gantry_model::spec::{NamespaceMode, UserNamespace};
use gantry_model::{Class, Problem};
use gantry_shim::plan::{IdRanges, NamespacePlan, NamespacesPlan, UserNamespacePlan};

use crate::{LaunchInput, Network};

pub(crate) fn plan(input: &LaunchInput<'_>) -> Result<NamespacesPlan, Problem> {
    let (container, peers) = (input.container, input.options.peers);
    Ok(NamespacesPlan {
        pid: one("pid", &container.pid, peers.pid)?,
        ipc: one("ipc", &container.ipc, peers.ipc)?,
        uts: one("uts", &container.uts, peers.uts)?,
        cgroup: one("cgroup", &container.cgroup, peers.cgroup)?,
        network: match &input.network {
            Network::Path(path) => NamespacePlan::Path(path.clone()),
            Network::Empty => NamespacePlan::New,
            Network::Host => NamespacePlan::Host,
        },
        time: NamespacePlan::Host,
        time_offsets: Vec::new(),
        user: user(input)?,
    })
}

fn one(kind: &str, mode: &NamespaceMode, peer: Option<u32>) -> Result<NamespacePlan, Problem> {
    match mode {
        NamespaceMode::Private | NamespaceMode::Shareable | NamespaceMode::None => Ok(NamespacePlan::New),
        NamespaceMode::Host => Ok(NamespacePlan::Host),
        NamespaceMode::Container(name) => {
            let missing = || {
                let reason = format!("container '{name}', whose {kind} namespace it shares, does not run here");
                Problem::new(Class::Conflict, "", reason).remedy("start it first, on the same node")
            };
            let pid = peer.ok_or_else(missing)?;
            Ok(NamespacePlan::Path(PathBuf::from(format!("/proc/{pid}/ns/{kind}"))))
        }
    }
}

fn user(input: &LaunchInput<'_>) -> Result<UserNamespacePlan, Problem> {
    match (input.container.userns, input.options.user_ids) {
        (UserNamespace::Node, _) => Ok(UserNamespacePlan::Host),
        (UserNamespace::Auto { .. }, _) if input.container.privileged => {
            let reason = "a privileged container cannot have user ids of its own";
            Err(Problem::new(Class::Invalid, "", reason).remedy("leave out `privileged` or `userns`"))
        }
        (UserNamespace::Auto { .. }, None) => {
            let reason = "no range of user ids was set aside for the container";
            Err(Problem::new(Class::Internal, "", reason))
        }
        (UserNamespace::Auto { .. }, Some(ids)) => Ok(UserNamespacePlan::New(IdRanges::of(ids.first, ids.count))),
    }
}
