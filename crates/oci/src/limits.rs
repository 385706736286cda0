//! `linux.resources` as limits of a control group.

use std::collections::BTreeMap;

use gantry_cgroup::{
    Access, Ceiling, CpuLimits, CpusetLimits, Device, DeviceKind, DevicePolicy, DeviceRule, IoLimits, Limits,
    MemoryLimits, NetworkLimits, RdmaLimit, Swap,
};

use crate::OciError;
use crate::spec::{BlockIo, Cpu, DeviceRuleSpec, Memory, Resources, ThrottleDevice};

/// Limits of a new container.
pub fn of_container(resources: Option<&Resources>) -> Result<Limits, OciError> {
    let none = Resources::default();
    let resources = resources.unwrap_or(&none);
    Ok(Limits {
        devices: Some(devices(&resources.devices)?),
        ..of_update(resources)?
    })
}

/// Limits to be changed; those that are not named stay.
pub fn of_update(resources: &Resources) -> Result<Limits, OciError> {
    let cpu = resources.cpu.clone().unwrap_or_default();
    Ok(Limits {
        cpuset: CpusetLimits {
            cpus: cpu.cpus.clone(),
            mems: cpu.mems.clone(),
        },
        cpu: processor_time(&cpu)?,
        memory: resources.memory.as_ref().map(memory).unwrap_or_default(),
        // 0 is how older callers say "unlimited".
        pids: resources
            .pids
            .as_ref()
            .and_then(|pids| pids.limit)
            .map(|limit| match limit {
                0 => Ceiling::Unlimited,
                limit => Ceiling::from_signed(limit),
            }),
        io: resources.block_io.as_ref().map(io).transpose()?.unwrap_or_default(),
        hugetlb: resources
            .hugepage_limits
            .iter()
            .map(|limit| (limit.page_size.clone(), limit.limit))
            .collect(),
        rdma: resources
            .rdma
            .iter()
            .map(|(device, limit)| (device.clone(), rdma(limit)))
            .collect(),
        network: network(resources),
        devices: None,
        unified: resources.unified.clone(),
    })
}

fn rdma(limit: &crate::spec::Rdma) -> RdmaLimit {
    RdmaLimit {
        handles: limit.hca_handles,
        objects: limit.hca_objects,
    }
}

fn network(resources: &Resources) -> NetworkLimits {
    let Some(marks) = &resources.network else {
        return NetworkLimits::default();
    };
    NetworkLimits {
        class_id: marks.class_id,
        priorities: marks
            .priorities
            .iter()
            .map(|priority| (priority.name.clone(), priority.priority))
            .collect(),
    }
}

/// 0 is how Go programs leave a number out.
fn given<T: Copy + Default + PartialEq>(number: Option<T>) -> Option<T> {
    number.filter(|number| *number != T::default())
}

fn processor_time(cpu: &Cpu) -> Result<CpuLimits, OciError> {
    let idle = match cpu.idle {
        None => None,
        Some(0) => Some(false),
        Some(1) => Some(true),
        Some(other) => {
            let reason = format!("it is 0 or 1, not {other}");
            return Err(OciError::invalid("linux.resources.cpu.idle", reason));
        }
    };
    Ok(CpuLimits {
        shares: given(cpu.shares),
        quota_us: given(cpu.quota).map(Ceiling::from_signed),
        period_us: given(cpu.period),
        burst_us: cpu.burst,
        idle,
        realtime_runtime_us: given(cpu.realtime_runtime),
        realtime_period_us: given(cpu.realtime_period),
    })
}

fn memory(memory: &Memory) -> MemoryLimits {
    let ceiling = |bytes: Option<i64>| given(bytes).map(Ceiling::from_signed);
    MemoryLimits {
        limit: ceiling(memory.limit),
        reservation: ceiling(memory.reservation),
        swap: ceiling(memory.swap).map(Swap::Total),
        high: None,
        // Only ever said when it matters: `oom_kill_disable: false` and no swappiness is what every kernel does.
        swappiness: memory.swappiness,
        oom_kill_disable: memory.disable_oom_killer.filter(|disable| *disable),
        oom_group: None,
        kernel_tcp: ceiling(memory.kernel_tcp),
        check_before_update: memory.check_before_update.unwrap_or(false),
    }
}

fn io(io: &BlockIo) -> Result<IoLimits, OciError> {
    let has_leaf_weight = given(io.leaf_weight).is_some()
        || io
            .weight_device
            .iter()
            .any(|device| given(device.leaf_weight).is_some());
    if has_leaf_weight {
        return Err(OciError::Unsupported {
            property: "linux.resources.blockIO.leafWeight",
            reason: "it was for the CFQ scheduler, which kernels no longer have; use weight",
        });
    }
    let rates = |devices: &[ThrottleDevice]| -> BTreeMap<Device, u64> {
        let number = |device: &ThrottleDevice| Device {
            major: device.major,
            minor: device.minor,
        };
        devices.iter().map(|device| (number(device), device.rate)).collect()
    };
    let weights = io.weight_device.iter().filter_map(|device| {
        let number = Device {
            major: device.major,
            minor: device.minor,
        };
        device.weight.map(|weight| (number, weight))
    });
    Ok(IoLimits {
        weight: io.weight,
        device_weights: weights.collect(),
        read_bps: rates(&io.throttle_read_bps_device),
        write_bps: rates(&io.throttle_write_bps_device),
        read_iops: rates(&io.throttle_read_iops_device),
        write_iops: rates(&io.throttle_write_iops_device),
    })
}

fn devices(rules: &[DeviceRuleSpec]) -> Result<DevicePolicy, OciError> {
    let mut policy = DevicePolicy::nothing();
    for (index, spec) in rules.iter().enumerate() {
        let property = || format!("linux.resources.devices[{index}]");
        let rule = device_rule(spec).map_err(|reason| OciError::invalid(property(), reason))?;
        let outcome = policy.then(rule, spec.allow);
        policy = outcome.map_err(|hole| OciError::invalid(property(), hole.to_string()))?;
    }
    // Whatever the rules say, as in runc. Where all is allowed there is nothing to add.
    for rule in gantry_runtime::default_device_rules() {
        if !policy.allows_by_default() {
            policy = policy.then(rule, true).expect("allowing adds to the exceptions");
        }
    }
    Ok(policy)
}

fn device_rule(spec: &DeviceRuleSpec) -> Result<DeviceRule, String> {
    let kind = match spec.kind.as_deref().unwrap_or("a") {
        "" | "a" => DeviceKind::Any,
        "b" => DeviceKind::Block,
        "c" | "u" => DeviceKind::Character,
        other => return Err(format!("type is 'a', 'b' or 'c', not '{other}'")),
    };
    let number = |number: Option<i64>| match number {
        None | Some(-1) => Ok(None),
        Some(number) => u32::try_from(number)
            .map(Some)
            .map_err(|_| format!("{number} is not a device number")),
    };
    let letters = spec
        .access
        .as_deref()
        .filter(|letters| !letters.is_empty())
        .unwrap_or("rwm");
    Ok(DeviceRule {
        kind,
        major: number(spec.major)?,
        minor: number(spec.minor)?,
        access: Access::parse(letters).ok_or_else(|| format!("access is made of 'r', 'w' and 'm', not '{letters}'"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(text: &str) -> Resources {
        serde_json::from_str(text).expect("valid")
    }

    #[test]
    fn numbers_keep_the_meaning_of_minus_one_and_of_zero() {
        let limits = of_update(&resources(
            r#"{"cpu":{"shares":0,"quota":-1,"period":50000,"idle":1},"memory":{"limit":1048576,"swap":-1,"disableOOMKiller":false},
                "pids":{"limit":0},"hugepageLimits":[{"pageSize":"2MB","limit":4}],"devices":null}"#,
        ))
        .expect("maps");
        assert_eq!(
            (limits.cpu.shares, limits.cpu.quota_us),
            (None, Some(Ceiling::Unlimited))
        );
        assert_eq!((limits.cpu.period_us, limits.cpu.idle), (Some(50_000), Some(true)));
        assert_eq!(limits.memory.limit, Some(Ceiling::At(1 << 20)));
        assert_eq!(limits.memory.swap, Some(Swap::Total(Ceiling::Unlimited)));
        assert_eq!(limits.memory.oom_kill_disable, None);
        assert_eq!(limits.pids, Some(Ceiling::Unlimited));
        assert_eq!(limits.hugetlb.get("2MB"), Some(&4));
        assert_eq!(limits.devices, None);
    }

    #[test]
    fn dockers_device_rules_close_everything_but_the_defaults() {
        let text = r#"{"devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":10,"minor":200,"access":"rwm"},
            {"allow":false,"type":"c","major":10,"minor":229,"access":"rwm"}]}"#;
        let policy = of_container(Some(&resources(text)))
            .expect("maps")
            .devices
            .expect("a policy");
        assert!(!policy.allows_by_default());
        let shown: Vec<String> = policy.exceptions().map(|rule| rule.to_string()).collect();
        assert!(
            shown.contains(&"c 10:200 rwm".to_string()) && shown.contains(&"c 136:* rwm".to_string()),
            "{shown:?}"
        );
        assert!(!shown.iter().any(|rule| rule.contains("10:229")), "{shown:?}");
        let open = of_container(Some(&resources(r#"{"devices":[{"allow":true}]}"#))).expect("maps");
        assert_eq!(open.devices, Some(DevicePolicy::everything()));
    }

    #[test]
    fn what_makes_no_sense_is_located() {
        let wrong = resources(r#"{"devices":[{"allow":true},{"allow":true,"type":"x"}]}"#);
        let text = of_container(Some(&wrong)).expect_err("no such type").to_string();
        assert!(
            text.contains("linux.resources.devices[1]") && text.contains("'x'"),
            "{text}"
        );
        let leaf = resources(r#"{"blockIO":{"leafWeight":10}}"#);
        assert!(of_update(&leaf).is_err());
    }
}
