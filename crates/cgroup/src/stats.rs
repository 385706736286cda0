//! What a group uses, all controllers together.

use std::collections::BTreeMap;

use crate::group::At;
use crate::{
    CgroupError, Controller, CpuStats, Device, Group, HugePageStats, IoDeviceStats, MemoryStats, PidsStats, Pressure,
    cpu, hugetlb, io, memory, pids, pressure,
};

/// What a group uses.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    /// Processor time.
    pub cpu: CpuStats,
    /// Memory.
    pub memory: MemoryStats,
    /// Processes and threads.
    pub pids: PidsStats,
    /// Disk input and output, by device; empty where nothing counts it.
    pub io: BTreeMap<Device, IoDeviceStats>,
    /// Huge pages by size; empty where nothing counts them.
    pub hugetlb: BTreeMap<String, HugePageStats>,
    /// Time lost for want of processors; none where the kernel does not count pressure.
    pub cpu_pressure: Option<Pressure>,
    /// Time lost for want of memory.
    pub memory_pressure: Option<Pressure>,
    /// Time lost waiting for disks.
    pub io_pressure: Option<Pressure>,
}

pub(crate) fn of(group: &Group) -> Result<Stats, CgroupError> {
    let cpu = group.folder(Controller::Cpu)?;
    // What is optional is read where it is.
    let optional = |controller| group.folder(controller).ok().filter(|at: &At| at.path().exists());
    let pressure = |resource: &str| match group.unified_folder() {
        Some(folder) => pressure::stats(&folder.join(format!("{resource}.pressure"))),
        None => Ok(None),
    };
    Ok(Stats {
        cpu: cpu::stats(&cpu, &group.folder(Controller::CpuAccount)?)?,
        memory: memory::stats(&group.folder(Controller::Memory)?)?,
        pids: pids::stats(group.folder(Controller::Pids)?.path())?,
        io: optional(Controller::Io)
            .map(|at| io::stats(&at))
            .transpose()?
            .unwrap_or_default(),
        hugetlb: optional(Controller::HugeTlb)
            .map(|at| hugetlb::stats(&at))
            .transpose()?
            .unwrap_or_default(),
        cpu_pressure: pressure("cpu")?,
        memory_pressure: pressure("memory")?,
        io_pressure: pressure("io")?,
    })
}
