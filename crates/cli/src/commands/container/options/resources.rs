//! Limits.

use std::collections::BTreeMap;

use clap::Args;
use gantry_model::spec::{BlockIo, ContainerSpec, MEMORY_LIMIT_MIN, Resources, SwapLimit, Ulimit};
use gantry_model::{ByteSize, MilliCpu, Problem};

use super::{pairs, wrong};

/// The period that `--cpu-quota` counts in when `--cpu-period` says nothing, in microseconds (kernel default).
const CPU_PERIOD_DEFAULT_US: u64 = 100_000;

// What it may use.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Resources")]
pub struct ResourceOptions {
    /// Processors it may use, such as 1.5
    #[arg(long, value_name = "COUNT")]
    cpus: Option<String>,
    /// Weight of its processor time [default: 1024]
    #[arg(short, long, value_name = "WEIGHT")]
    cpu_shares: Option<u64>,
    /// Microseconds in which --cpu-quota counts
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<u64>,
    /// Microseconds of processor time per period
    #[arg(long, value_name = "MICROSECONDS", conflicts_with = "cpus")]
    cpu_quota: Option<i64>,
    /// Microseconds of real-time scheduling per period (cgroup v1)
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_rt_runtime: Option<i64>,
    /// Period of real-time scheduling in microseconds (cgroup v1)
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_rt_period: Option<u64>,
    /// Processors it may run on, such as 0-3,7
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes it may use
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Most memory, such as 512m
    #[arg(short, long, value_name = "BYTES")]
    memory: Option<String>,
    /// Memory it is left with when memory is short
    #[arg(long, value_name = "BYTES")]
    memory_reservation: Option<String>,
    /// Memory and swap together; -1 for unlimited swap
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// 0 to 100: how readily its memory is swapped out (cgroup v1)
    #[arg(long, value_name = "PERCENT", allow_hyphen_values = true)]
    memory_swappiness: Option<i64>,
    /// Wait for memory instead of being killed (cgroup v1)
    #[arg(long)]
    oom_kill_disable: bool,
    /// -1000 to 1000: how likely the kernel chooses it as a victim
    #[arg(long, value_name = "SCORE", allow_hyphen_values = true)]
    oom_score_adj: Option<i32>,
    /// Most processes and threads; -1 for unlimited
    #[arg(long, value_name = "COUNT", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// Size of /dev/shm [default: 64m]
    #[arg(long, value_name = "BYTES")]
    shm_size: Option<String>,
    /// Limit of its process, such as nofile=1024:4096
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    ulimit: Vec<String>,
    /// Kernel parameter of its own namespaces
    #[arg(long, value_name = "KEY=VALUE")]
    sysctl: Vec<String>,
    /// 10 to 1000: weight of its disk access
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<u16>,
    /// Weight of its access to one device
    #[arg(long, value_name = "DEVICE:WEIGHT")]
    blkio_weight_device: Vec<String>,
    /// Most bytes read per second
    #[arg(long, value_name = "DEVICE:BYTES")]
    device_read_bps: Vec<String>,
    /// Most bytes written per second
    #[arg(long, value_name = "DEVICE:BYTES")]
    device_write_bps: Vec<String>,
    /// Most reads per second
    #[arg(long, value_name = "DEVICE:COUNT")]
    device_read_iops: Vec<String>,
    /// Most writes per second
    #[arg(long, value_name = "DEVICE:COUNT")]
    device_write_iops: Vec<String>,
}

impl ResourceOptions {
    pub(super) fn apply(&self, container: &mut ContainerSpec) -> Result<Resources, Problem> {
        container.shm_size = bytes("--shm-size", self.shm_size.as_deref())?;
        container.oom_score_adj = self.oom_score_adj.map(oom_score).transpose()?;
        container.ulimits = self.ulimit.iter().map(|text| ulimit(text)).collect::<Result<_, _>>()?;
        container.sysctls = pairs("--sysctl", &self.sysctl)?;
        self.limits()
    }

    /// The limits alone, as `gantry update` changes them.
    ///
    /// # Errors
    /// Names the option whose value is wrong.
    pub fn limits(&self) -> Result<Resources, Problem> {
        let memory_limit = bytes("--memory", self.memory.as_deref())?;
        if let Some(limit) = memory_limit.filter(|limit| *limit < MEMORY_LIMIT_MIN) {
            let text = self.memory.as_deref().unwrap_or_default();
            let reason = format!("{} bytes are less than the minimum of 6 MiB", limit.0);
            return Err(wrong("--memory", text, reason, "give it at least 6m"));
        }
        Ok(Resources {
            cpu_limit: self.cpu_limit()?,
            memory_limit,
            memory_reservation: bytes("--memory-reservation", self.memory_reservation.as_deref())?.unwrap_or_default(),
            memory_swap_limit: self.swap(memory_limit)?,
            memory_swappiness: self.swappiness()?,
            oom_kill_disable: self.oom_kill_disable,
            pids_limit: self.pids()?,
            cpu_shares: self.cpu_shares,
            cpuset_cpus: self.cpuset_cpus.clone(),
            cpuset_mems: self.cpuset_mems.clone(),
            cpu_period_us: self.cpu_period,
            cpu_rt_runtime_us: self.cpu_rt_runtime,
            cpu_rt_period_us: self.cpu_rt_period,
            block_io: self.block_io()?,
            ..Resources::default()
        })
    }

    fn cpu_limit(&self) -> Result<Option<MilliCpu>, Problem> {
        if let Some(text) = &self.cpus {
            let limit: MilliCpu = text
                .parse()
                .map_err(|error| wrong("--cpus", text, error, "write a number of processors, such as 0.5"))?;
            // Docker's 0 is no limit.
            return Ok(Some(limit).filter(|limit| limit.0 > 0));
        }
        let Some(quota) = self.cpu_quota.filter(|quota| *quota > 0) else {
            return Ok(None);
        };
        let period = self.cpu_period.unwrap_or(CPU_PERIOD_DEFAULT_US).max(1);
        let milli = u64::try_from(quota).unwrap_or_default().saturating_mul(1000) / period;
        Ok(Some(MilliCpu(milli.max(1))))
    }

    fn swap(&self, memory: Option<ByteSize>) -> Result<Option<SwapLimit>, Problem> {
        let Some(text) = self.memory_swap.as_deref() else {
            return Ok(None);
        };
        if text == "-1" {
            return Ok(Some(SwapLimit::Unlimited));
        }
        let total = bytes("--memory-swap", Some(text))?.filter(|total| total.0 > 0);
        match (total, memory) {
            (None, _) => Ok(None),
            (Some(_), None) => Err(wrong(
                "--memory-swap",
                text,
                "limits nothing without --memory",
                "give --memory too",
            )),
            (Some(total), Some(memory)) if total < memory => {
                let reason = "is below --memory: it counts memory and swap together";
                Err(wrong(
                    "--memory-swap",
                    text,
                    reason,
                    "make it at least as large as --memory, or -1 for unlimited",
                ))
            }
            (Some(total), Some(_)) => Ok(Some(SwapLimit::Total(total))),
        }
    }

    fn swappiness(&self) -> Result<Option<u8>, Problem> {
        match self.memory_swappiness {
            None | Some(-1) => Ok(None),
            Some(percent) => match u8::try_from(percent) {
                Ok(percent @ 0..=100) => Ok(Some(percent)),
                _ => Err(wrong(
                    "--memory-swappiness",
                    &percent.to_string(),
                    "is not within 0 to 100",
                    "write a percentage",
                )),
            },
        }
    }

    fn pids(&self) -> Result<Option<u32>, Problem> {
        match self.pids_limit {
            None | Some(-1 | 0) => Ok(None),
            Some(count) => u32::try_from(count).map(Some).map_err(|_| {
                wrong(
                    "--pids-limit",
                    &count.to_string(),
                    "is no count of processes",
                    "write a count, or -1 for no limit",
                )
            }),
        }
    }

    fn block_io(&self) -> Result<BlockIo, Problem> {
        if let Some(weight) = self.blkio_weight.filter(|weight| !(10..=1000).contains(weight)) {
            return Err(wrong(
                "--blkio-weight",
                &weight.to_string(),
                "is not within 10 to 1000",
                "write a weight",
            ));
        }
        let rates = |option: &str, texts: &[String]| -> Result<BTreeMap<String, u64>, Problem> {
            texts
                .iter()
                .map(|text| {
                    device(option, text)
                        .and_then(|(path, rest)| Ok((path, bytes(option, Some(rest))?.unwrap_or_default().0)))
                })
                .collect()
        };
        let counts = |option: &str, texts: &[String]| -> Result<BTreeMap<String, u64>, Problem> {
            let count = |text: &String| {
                let (path, rest) = device(option, text)?;
                let parsed = rest
                    .parse()
                    .map_err(|_| wrong(option, text, format!("'{rest}' is no count"), "write DEVICE:COUNT"));
                Ok((path, parsed?))
            };
            texts.iter().map(count).collect()
        };
        let weight = |text: &String| {
            let (path, rest) = device("--blkio-weight-device", text)?;
            let parsed = rest.parse().ok().filter(|weight| (10..=1000).contains(weight));
            let weight = parsed.ok_or_else(|| {
                wrong(
                    "--blkio-weight-device",
                    text,
                    format!("'{rest}' is not within 10 to 1000"),
                    "write DEVICE:WEIGHT",
                )
            })?;
            Ok((path, weight))
        };
        Ok(BlockIo {
            weight: self.blkio_weight,
            device_weight: self
                .blkio_weight_device
                .iter()
                .map(weight)
                .collect::<Result<_, Problem>>()?,
            device_read_bps: rates("--device-read-bps", &self.device_read_bps)?,
            device_write_bps: rates("--device-write-bps", &self.device_write_bps)?,
            device_read_iops: counts("--device-read-iops", &self.device_read_iops)?,
            device_write_iops: counts("--device-write-iops", &self.device_write_iops)?,
        })
    }
}

fn bytes(option: &str, text: Option<&str>) -> Result<Option<ByteSize>, Problem> {
    let read = |text: &str| {
        let parsed = text.parse();
        parsed.map_err(|error| wrong(option, text, error, "write a number with b, k, m or g, such as 64m"))
    };
    text.map(read).transpose()
}

fn device<'a>(option: &str, text: &'a str) -> Result<(String, &'a str), Problem> {
    let split = text.split_once(':').filter(|(path, _)| path.starts_with("/dev/"));
    let (path, rest) = split.ok_or_else(|| {
        wrong(
            option,
            text,
            "does not begin with a device",
            "write /dev/NAME:VALUE, such as /dev/vda:1m",
        )
    })?;
    Ok((path.to_string(), rest))
}

fn oom_score(score: i32) -> Result<i32, Problem> {
    if (-1000..=1000).contains(&score) {
        return Ok(score);
    }
    Err(wrong(
        "--oom-score-adj",
        &score.to_string(),
        "is not within -1000 to 1000",
        "write a score",
    ))
}

fn ulimit(text: &str) -> Result<(String, Ulimit), Problem> {
    let remedy = "write NAME=SOFT or NAME=SOFT:HARD, such as nofile=1024:4096; -1 is unlimited";
    let refused = |reason: String| wrong("--ulimit", text, reason, remedy);
    let (name, limits) = text
        .split_once('=')
        .ok_or_else(|| refused("has no value".to_string()))?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let number = |part: &str| match part {
        "unlimited" => Ok(-1),
        part => part
            .parse::<i64>()
            .ok()
            .filter(|value| *value >= -1)
            .ok_or_else(|| refused(format!("'{part}' is no limit"))),
    };
    let (soft, hard) = (number(soft)?, number(hard)?);
    if hard != -1 && (soft == -1 || soft > hard) {
        return Err(refused("its soft limit is above its hard limit".to_string()));
    }
    Ok((name.to_string(), Ulimit { soft, hard }))
}
