//! Which namespaces are new, joined, or the node's.

use std::collections::BTreeMap;

use gantry_runtime::plan::{IdRange, IdRanges, NamespacePlan, NamespacesPlan, TimeOffset, UserNamespacePlan};

use crate::OciError;
use crate::spec::{IdMapping, Linux, Namespace, NamespaceKind};

pub(super) fn plan(linux: &Linux) -> Result<NamespacesPlan, OciError> {
    let asked = unique(&linux.namespaces)?;
    let of = |kind| match asked.get(&kind) {
        None => NamespacePlan::Host,
        Some(namespace) => match given_path(namespace) {
            None => NamespacePlan::New,
            Some(path) => NamespacePlan::Path(path.clone()),
        },
    };
    match asked.get(&NamespaceKind::Mount) {
        Some(namespace) if given_path(namespace).is_none() => {}
        Some(_) => {
            return Err(OciError::Unsupported {
                property: "linux.namespaces: a mount namespace with a path",
                reason: "a container's mounts are always its own; leave the path out",
            });
        }
        None => {
            return Err(OciError::Unsupported {
                property: "linux.namespaces without a mount namespace",
                reason: "its mounts would be the node's; add {\"type\": \"mount\"}",
            });
        }
    }
    let maps_ids = !linux.uid_mappings.is_empty() || !linux.gid_mappings.is_empty();
    if maps_ids && !asked.contains_key(&NamespaceKind::User) {
        let reason = "ids are only mapped in a user namespace: add {\"type\": \"user\"} to linux.namespaces";
        return Err(OciError::invalid("linux.uidMappings and gidMappings", reason));
    }
    if !linux.time_offsets.is_empty() && of(NamespaceKind::Time) != NamespacePlan::New {
        let reason = "clocks only differ in a new time namespace: add {\"type\": \"time\"} to linux.namespaces";
        return Err(OciError::invalid("linux.timeOffsets", reason));
    }
    Ok(NamespacesPlan {
        pid: of(NamespaceKind::Pid),
        network: of(NamespaceKind::Network),
        ipc: of(NamespaceKind::Ipc),
        uts: of(NamespaceKind::Uts),
        cgroup: of(NamespaceKind::Cgroup),
        time: of(NamespaceKind::Time),
        time_offsets: linux
            .time_offsets
            .iter()
            .map(|(clock, offset)| time_offset(clock, offset))
            .collect(),
        user: user(asked.get(&NamespaceKind::User).copied(), linux)?,
    })
}

fn given_path(namespace: &Namespace) -> Option<&std::path::PathBuf> {
    namespace.path.as_ref().filter(|path| !path.as_os_str().is_empty())
}

fn unique(namespaces: &[Namespace]) -> Result<BTreeMap<NamespaceKind, &Namespace>, OciError> {
    let mut found = BTreeMap::new();
    for namespace in namespaces {
        if found.insert(namespace.kind, namespace).is_some() {
            let reason = format!("{:?} is there twice", namespace.kind);
            return Err(OciError::invalid("linux.namespaces", reason));
        }
    }
    Ok(found)
}

fn time_offset(clock: &str, offset: &crate::spec::TimeOffset) -> TimeOffset {
    TimeOffset {
        clock: clock.to_string(),
        seconds: offset.secs,
        nanoseconds: offset.nanosecs,
    }
}

fn user(namespace: Option<&Namespace>, linux: &Linux) -> Result<UserNamespacePlan, OciError> {
    let Some(namespace) = namespace else {
        return Ok(UserNamespacePlan::Host);
    };
    match given_path(namespace) {
        None => {
            let ranges = id_ranges(&linux.uid_mappings, &linux.gid_mappings);
            if ranges.uids.is_empty() || ranges.gids.is_empty() {
                let reason = "a new user namespace needs linux.uidMappings and linux.gidMappings";
                return Err(OciError::invalid("linux.namespaces", reason));
            }
            Ok(UserNamespacePlan::New(ranges))
        }
        Some(path) => Ok(UserNamespacePlan::Path {
            path: path.clone(),
            ranges: id_ranges(&linux.uid_mappings, &linux.gid_mappings),
        }),
    }
}

/// Ranges as the shim takes them.
pub(super) fn id_ranges(uids: &[IdMapping], gids: &[IdMapping]) -> IdRanges {
    let ranges = |mappings: &[IdMapping]| {
        let range = |mapping: &IdMapping| IdRange {
            inside: mapping.container_id,
            outside: mapping.host_id,
            count: mapping.size,
        };
        mappings.iter().map(range).collect()
    };
    IdRanges {
        uids: ranges(uids),
        gids: ranges(gids),
    }
}
