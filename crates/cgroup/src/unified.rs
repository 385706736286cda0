//! Files of version 2 by their own names, for whatever the other limits have no word for.

use std::collections::BTreeMap;
use std::path::Path;

use crate::CgroupError;
use crate::error::{Setting, write_where_known};

/// Which controllers the files need: what stands before the first dot, without the core's.
pub(crate) fn controllers(files: &BTreeMap<String, String>) -> impl Iterator<Item = &str> {
    let prefixes = files.keys().filter_map(|name| name.split_once('.'));
    prefixes
        .map(|(controller, _)| controller)
        .filter(|controller| *controller != "cgroup")
}

pub(crate) fn apply(group: &Path, files: &BTreeMap<String, String>) -> Result<(), CgroupError> {
    for (name, value) in files {
        if name.contains('/') || !name.contains('.') {
            return Err(CgroupError::Invalid {
                controller: "unified",
                setting: "file",
                value: name.clone(),
                reason: "it must be the name of a file of the group, such as memory.high".to_string(),
            });
        }
        let setting = Setting {
            controller: "unified",
            value,
            reason: "the group has no such file: the kernel does not know it, or its controller is not in version 2 here",
            remedy: "cgroup.controllers of the group lists the controllers it has",
        };
        // A file that takes one entry per write gets its lines one by one.
        for line in value.lines() {
            write_where_known(&group.join(name), &Setting { value: line, ..setting })?;
        }
    }
    Ok(())
}
