//! RDMA resources, by device; the file is the same in both versions.

use std::collections::BTreeMap;
use std::path::Path;

use crate::CgroupError;
use crate::error::{Setting, write_where_known};

/// Most resources of one RDMA device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RdmaLimit {
    /// Handles.
    pub handles: Option<u32>,
    /// Objects.
    pub objects: Option<u32>,
}

pub(crate) fn apply(group: &Path, limits: &BTreeMap<String, RdmaLimit>) -> Result<(), CgroupError> {
    for (device, limit) in limits {
        let fields = [("hca_handle", limit.handles), ("hca_object", limit.objects)];
        let fields: String = fields
            .into_iter()
            .filter_map(|(name, value)| value.map(|value| format!(" {name}={value}")))
            .collect();
        let value = format!("{device}{fields}");
        let setting = Setting {
            controller: "rdma",
            value: &value,
            reason: "this kernel does not limit RDMA",
            remedy: "leave it out",
        };
        write_where_known(&group.join("rdma.max"), &setting)?;
    }
    Ok(())
}
