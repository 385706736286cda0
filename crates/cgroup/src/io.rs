//! Disk input and output: weights, rates per device, and what went through. Version 1 calls the controller blkio.

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::CgroupError;
use crate::error::{Setting, read_if_there, write, write_where_known};
use crate::group::At;

/// What Docker and version 1 take as a weight.
const WEIGHT_MIN: u16 = 10;
const WEIGHT_MAX: u16 = 1000;

/// A block device, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Device {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl Device {
    /// The block device behind a node such as `/dev/sda`.
    ///
    /// # Errors
    /// When there is no such node, or it is not a block device.
    pub fn of(path: &Path) -> Result<Self, CgroupError> {
        let failed = |source| CgroupError::DeviceNode {
            path: path.to_path_buf(),
            source,
        };
        let metadata = std::fs::metadata(path).map_err(failed)?;
        if !metadata.file_type().is_block_device() {
            let kind = std::io::ErrorKind::InvalidInput;
            return Err(failed(std::io::Error::new(kind, "not a block device")));
        }
        Ok(Self {
            major: nix::sys::stat::major(metadata.rdev()) as u32,
            minor: nix::sys::stat::minor(metadata.rdev()) as u32,
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once(':')?;
        Some(Self {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        })
    }
}

impl fmt::Display for Device {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.major, self.minor)
    }
}

/// How much disk input and output; rates are per second, and 0 takes one away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IoLimits {
    /// 10 to 1000: weight among its siblings.
    pub weight: Option<u16>,
    /// Weight on one device.
    pub device_weights: BTreeMap<Device, u16>,
    /// Most bytes read.
    pub read_bps: BTreeMap<Device, u64>,
    /// Most bytes written.
    pub write_bps: BTreeMap<Device, u64>,
    /// Most reads.
    pub read_iops: BTreeMap<Device, u64>,
    /// Most writes.
    pub write_iops: BTreeMap<Device, u64>,
}

/// The weight of version 2 (1 to 10,000) for one of version 1, as runc has it.
fn weight_v2(weight: u16) -> u64 {
    1 + (u64::from(weight) - u64::from(WEIGHT_MIN)) * 9_999 / u64::from(WEIGHT_MAX - WEIGHT_MIN)
}

pub(crate) fn apply(at: &At, limits: &IoLimits) -> Result<(), CgroupError> {
    for weight in limits.weight.iter().chain(limits.device_weights.values()) {
        if *weight != 0 && !(WEIGHT_MIN..=WEIGHT_MAX).contains(weight) {
            return Err(CgroupError::Invalid {
                controller: "io",
                setting: "weight",
                value: weight.to_string(),
                reason: format!("it is {WEIGHT_MIN} to {WEIGHT_MAX}"),
            });
        }
    }
    set_weights(at, limits)?;
    match at {
        At::V2(group) => set_rates_v2(group, limits),
        At::V1(group) => set_rates_v1(group, limits),
    }
}

/// Who weighs input and output: the scheduler bfq where the kernel has it, otherwise the controller itself.
struct Weigher {
    file: &'static str,
    device_file: &'static str,
    /// Devices stand in the same file, and the scale is that of version 2.
    is_controller: bool,
}

impl Weigher {
    fn of(at: &At) -> Self {
        match at {
            At::V2(group) if group.join("io.bfq.weight").exists() => Self {
                file: "io.bfq.weight",
                device_file: "io.bfq.weight",
                is_controller: false,
            },
            At::V2(_) => Self {
                file: "io.weight",
                device_file: "io.weight",
                is_controller: true,
            },
            At::V1(group) if group.join("blkio.bfq.weight").exists() => Self {
                file: "blkio.bfq.weight",
                device_file: "blkio.bfq.weight_device",
                is_controller: false,
            },
            At::V1(_) => Self {
                file: "blkio.weight",
                device_file: "blkio.weight_device",
                is_controller: false,
            },
        }
    }
}

fn set_weights(at: &At, limits: &IoLimits) -> Result<(), CgroupError> {
    let weigher = Weigher::of(at);
    let scaled = |weight: u16| {
        if weigher.is_controller {
            weight_v2(weight)
        } else {
            u64::from(weight)
        }
    };
    let set = |file: &str, value: &str| {
        let setting = Setting {
            controller: "io",
            value,
            reason: "this kernel weighs no input and output of groups (neither bfq nor iocost)",
            remedy: "limit rates instead, or leave it out",
        };
        write_where_known(&at.path().join(file), &setting)
    };
    // 0 is how Docker and the OCI spec leave it out.
    if let Some(weight) = limits.weight.filter(|weight| *weight != 0) {
        set(weigher.file, &scaled(weight).to_string())?;
    }
    for (device, weight) in limits.device_weights.iter().filter(|(_, weight)| **weight != 0) {
        set(weigher.device_file, &format!("{device} {}", scaled(*weight)))?;
    }
    Ok(())
}

fn rates<'a>(limits: &'a IoLimits, names: [&'static str; 4]) -> [(&'static str, &'a BTreeMap<Device, u64>); 4] {
    let [read_bps, write_bps, read_iops, write_iops] = names;
    [
        (read_bps, &limits.read_bps),
        (write_bps, &limits.write_bps),
        (read_iops, &limits.read_iops),
        (write_iops, &limits.write_iops),
    ]
}

fn set_rates_v2(group: &Path, limits: &IoLimits) -> Result<(), CgroupError> {
    for (key, devices) in rates(limits, ["rbps", "wbps", "riops", "wiops"]) {
        for (device, rate) in devices {
            let rate = if *rate == 0 {
                "max".to_string()
            } else {
                rate.to_string()
            };
            write(&group.join("io.max"), &format!("{device} {key}={rate}"))?;
        }
    }
    Ok(())
}

fn set_rates_v1(group: &Path, limits: &IoLimits) -> Result<(), CgroupError> {
    let names = ["read_bps", "write_bps", "read_iops", "write_iops"];
    for (name, devices) in rates(limits, names) {
        for (device, rate) in devices {
            let value = format!("{device} {rate}");
            let setting = Setting {
                controller: "blkio",
                value: &value,
                reason: "this kernel does not limit rates (CONFIG_BLK_DEV_THROTTLING)",
                remedy: "leave it out",
            };
            write_where_known(&group.join(format!("blkio.throttle.{name}_device")), &setting)?;
        }
    }
    Ok(())
}

/// What went through one device since the group was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IoDeviceStats {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

pub(crate) fn stats(at: &At) -> Result<BTreeMap<Device, IoDeviceStats>, CgroupError> {
    match at {
        At::V2(group) => Ok(parse_v2(&read_if_there(&group.join("io.stat"))?.unwrap_or_default())),
        At::V1(group) => {
            let text = |file: &str| read_if_there(&group.join(file)).map(Option::unwrap_or_default);
            let bytes = text("blkio.throttle.io_service_bytes_recursive")?;
            let operations = text("blkio.throttle.io_serviced_recursive")?;
            Ok(parse_v1(&bytes, &operations))
        }
    }
}

/// Lines `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`.
fn parse_v2(text: &str) -> BTreeMap<Device, IoDeviceStats> {
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let Some((device, fields)) = line.split_once(' ') else {
            continue;
        };
        let Some(device) = Device::parse(device) else { continue };
        let field = |name: &str| {
            let value = fields
                .split(' ')
                .find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
            value.and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        let stats = IoDeviceStats {
            read_bytes: field("rbytes"),
            write_bytes: field("wbytes"),
            reads: field("rios"),
            writes: field("wios"),
        };
        found.insert(device, stats);
    }
    found
}

/// Lines `8:0 Read 4096`, and a total that has no device.
fn parse_v1(bytes: &str, operations: &str) -> BTreeMap<Device, IoDeviceStats> {
    let mut found: BTreeMap<Device, IoDeviceStats> = BTreeMap::new();
    for (text, is_bytes) in [(bytes, true), (operations, false)] {
        for line in text.lines() {
            let mut fields = line.split(' ');
            let (Some(device), Some(kind), Some(number)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            let Some(device) = Device::parse(device) else { continue };
            let stats = found.entry(device).or_default();
            let number = number.parse().unwrap_or(0);
            match (kind, is_bytes) {
                ("Read", true) => stats.read_bytes = number,
                ("Write", true) => stats.write_bytes = number,
                ("Read", false) => stats.reads = number,
                ("Write", false) => stats.writes = number,
                _ => {}
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_of_version_1_span_those_of_version_2() {
        assert_eq!([10, 100, 500, 1000].map(weight_v2), [1, 910, 4950, 10_000]);
    }

    #[test]
    fn both_versions_report_the_same_figures() {
        let expected = IoDeviceStats {
            read_bytes: 4096,
            write_bytes: 8192,
            reads: 1,
            writes: 2,
        };
        let device = Device { major: 8, minor: 16 };
        let v2 = parse_v2("8:16 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n254:0 \n");
        assert_eq!(v2.get(&device), Some(&expected));
        let v1 = parse_v1(
            "8:16 Read 4096\n8:16 Write 8192\n8:16 Sync 1\n8:16 Total 12288\nTotal 12288\n",
            "8:16 Read 1\n8:16 Write 2\nTotal 3\n",
        );
        assert_eq!(v1, BTreeMap::from([(device, expected)]));
    }
}
