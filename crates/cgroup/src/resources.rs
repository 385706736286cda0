//! The limits that a spec's resources mean.

use std::collections::BTreeMap;
use std::path::Path;

use gantry_model::ByteSize;
use gantry_model::spec::{Resources, SwapLimit};

use crate::cpu::CpuLimits;
use crate::{Ceiling, CgroupError, CpusetLimits, Device, IoLimits, Limits, MemoryLimits, Swap};

impl Limits {
    /// What a container of these resources may use on this node; which devices is not among them.
    ///
    /// # Errors
    /// When a device to be limited does not exist on this node.
    pub fn of(resources: &Resources) -> Result<Self, CgroupError> {
        Ok(Self {
            cpu: cpu(resources),
            cpuset: CpusetLimits {
                cpus: resources.cpuset_cpus.clone(),
                mems: resources.cpuset_mems.clone(),
            },
            memory: memory(resources),
            pids: resources.pids_limit.map(|limit| Ceiling::At(u64::from(limit))),
            io: io(resources)?,
            hugetlb: resources
                .hugetlb_limits
                .iter()
                .map(|(size, limit)| (size.clone(), limit.0))
                .collect(),
            ..Self::default()
        })
    }
}

fn cpu(resources: &Resources) -> CpuLimits {
    let quota = match (resources.cpu_limit, resources.cpu_period_us) {
        (Some(limit), Some(period)) => CpuLimits::at_most_per(limit, period),
        (Some(limit), None) => CpuLimits::at_most(limit),
        (None, period_us) => CpuLimits {
            period_us,
            ..CpuLimits::default()
        },
    };
    CpuLimits {
        shares: resources.cpu_shares,
        realtime_runtime_us: resources.cpu_rt_runtime_us,
        realtime_period_us: resources.cpu_rt_period_us,
        ..quota
    }
}

fn memory(resources: &Resources) -> MemoryLimits {
    let swap = match (resources.memory_swap_limit, resources.memory_limit) {
        (Some(SwapLimit::Total(total)), _) => Some(Swap::Total(Ceiling::At(total.0))),
        (Some(SwapLimit::Unlimited), _) => Some(Swap::Total(Ceiling::Unlimited)),
        (None, Some(_)) => Some(Swap::AsMuchAgain),
        (None, None) => None,
    };
    let reservation = Some(resources.memory_reservation).filter(|reservation| *reservation != ByteSize::ZERO);
    MemoryLimits {
        limit: resources.memory_limit.map(|limit| Ceiling::At(limit.0)),
        reservation: reservation.map(|reservation| Ceiling::At(reservation.0)),
        swap,
        swappiness: resources.memory_swappiness.map(u64::from),
        oom_kill_disable: resources.oom_kill_disable.then_some(true),
        ..MemoryLimits::default()
    }
}

fn io(resources: &Resources) -> Result<IoLimits, CgroupError> {
    fn by_device<T: Copy>(limits: &BTreeMap<String, T>) -> Result<BTreeMap<Device, T>, CgroupError> {
        let number = |(path, limit): (&String, &T)| Ok((Device::of(Path::new(path))?, *limit));
        limits.iter().map(number).collect()
    }
    let asked = &resources.block_io;
    Ok(IoLimits {
        weight: asked.weight,
        device_weights: by_device(&asked.device_weight)?,
        read_bps: by_device(&asked.device_read_bps)?,
        write_bps: by_device(&asked.device_write_bps)?,
        read_iops: by_device(&asked.device_read_iops)?,
        write_iops: by_device(&asked.device_write_iops)?,
    })
}
