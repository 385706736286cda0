//! Marks on what a group sends: a class for traffic control, a priority per interface. Version 1 only; in version 2 a BPF
//! program or a firewall rule matches the group's path instead.

use std::collections::BTreeMap;

use crate::error::write;
use crate::layout::{Controller, Layout, Place};
use crate::{CgroupError, Group};

/// How packets are marked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkLimits {
    /// Class of traffic control, `0xAAAABBBB` for AAAA:BBBB.
    pub class_id: Option<u32>,
    /// Priority by interface.
    pub priorities: BTreeMap<String, u32>,
}

pub(crate) fn apply(layout: &Layout, group: &Group, limits: &NetworkLimits) -> Result<(), CgroupError> {
    if let Some(class) = limits.class_id.filter(|class| *class != 0) {
        let folder = folder(layout, group, Controller::NetClass, "net_cls.classid", &class)?;
        write(&folder.join("net_cls.classid"), &class.to_string())?;
    }
    for (interface, priority) in &limits.priorities {
        let value = format!("{interface} {priority}");
        let folder = folder(layout, group, Controller::NetPriority, "net_prio.ifpriomap", &value)?;
        write(&folder.join("net_prio.ifpriomap"), &value)?;
    }
    Ok(())
}

fn folder(
    layout: &Layout,
    group: &Group,
    controller: Controller,
    setting: &str,
    value: &dyn ToString,
) -> Result<std::path::PathBuf, CgroupError> {
    match layout.place(controller) {
        Ok(Place::V1(mount)) => Ok(mount.join(group.path())),
        Ok(Place::V2(_)) | Err(_) => Err(CgroupError::Unsupported {
            controller: controller.name(),
            setting: setting.to_string(),
            value: value.to_string(),
            reason: "it is a controller of cgroup version 1, which this machine does not have mounted",
            remedy: "mark the traffic by a firewall rule that matches the group, or leave it out",
        }),
    }
}
