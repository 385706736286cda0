//! `events`: what a container uses, and when memory runs out. One document per line, in the words of runc.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::AsFd;
use std::time::Duration;

use gantry_cgroup::{Device, IoDeviceStats, Pressure, Stall, Stats};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};

use crate::OciError;
use crate::args::EventsArgs;
use crate::store::{Container, Status};

/// Nanoseconds, in which runc counts, in a microsecond.
const NS_PER_US: u64 = 1_000;

/// Once with `--stats`, otherwise at every interval until the container ends.
pub(super) fn events(container: &Container, args: &EventsArgs) -> Result<(), OciError> {
    if matches!(container.status(), Status::Stopped | Status::Creating) {
        return Err(OciError::NotRunning);
    }
    let print_stats = || -> Result<(), OciError> {
        print(container, "stats", &figures(&container.group.stats()?));
        Ok(())
    };
    if args.stats {
        return print_stats();
    }
    let interval = interval(&args.interval)?;
    let mut watch = container.group.watch_oom()?;
    let Some(pid) = container.pid() else {
        return Err(OciError::NotRunning);
    };
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap_or(0));
    let process = gantry_sys::process::pidfd_open(pid).map_err(|_| OciError::NotRunning)?;
    loop {
        let (out_of_memory, has_ended) = {
            let mut polled = [
                PollFd::new(watch.fd(), PollFlags::POLLIN),
                PollFd::new(process.as_fd(), PollFlags::POLLIN),
            ];
            let timeout = PollTimeout::try_from(interval).unwrap_or(PollTimeout::MAX);
            poll(&mut polled, timeout).map_err(OciError::call("wait for events"))?;
            (polled[0].any() == Some(true), polled[1].any() == Some(true))
        };
        if out_of_memory {
            for _ in 0..watch.take().unwrap_or(0) {
                print(container, "oom", &Value::Null);
            }
        }
        if has_ended {
            return Ok(());
        }
        if !out_of_memory {
            print_stats()?;
        }
    }
}

fn print(container: &Container, kind: &str, data: &Value) {
    let mut event = json!({"type": kind, "id": container.record.id});
    if !data.is_null() {
        event["data"] = data.clone();
    }
    println!("{event}");
    let _ = std::io::stdout().flush();
}

fn interval(text: &str) -> Result<Duration, OciError> {
    let wrong = || {
        OciError::Usage(format!(
            "interval '{text}' is not a time such as 5s or 500ms, above zero"
        ))
    };
    let digits = text.len() - text.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
    let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
    let found = match &text[digits..] {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.saturating_mul(60)),
        _ => return Err(wrong()),
    };
    if found.is_zero() { Err(wrong()) } else { Ok(found) }
}

fn figures(stats: &Stats) -> Value {
    let (cpu, memory) = (&stats.cpu, &stats.memory);
    let unlimited = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
    let swap_usage = memory.swap.map_or(0, |swap| swap.0);
    json!({
        "cpu": {
            "usage": {
                "total": cpu.total_us.saturating_mul(NS_PER_US),
                "percpu": cpu.per_processor_ns,
                "kernel": cpu.system_us.saturating_mul(NS_PER_US),
                "user": cpu.user_us.saturating_mul(NS_PER_US),
            },
            "throttling": {
                "periods": cpu.periods,
                "throttledPeriods": cpu.throttled_periods,
                "throttledTime": cpu.throttled_us.saturating_mul(NS_PER_US),
            },
            "psi": stats.cpu_pressure.as_ref().map(pressure),
        },
        "memory": {
            "cache": memory.cache.0,
            "usage": {
                "limit": unlimited(memory.limit.map(|limit| limit.0)),
                "usage": memory.usage.0,
                "max": memory.peak.map_or(0, |peak| peak.0),
                "failcnt": memory.limit_hits,
            },
            "swap": {
                "limit": unlimited(memory.swap_limit.map(|limit| limit.0)),
                "usage": swap_usage,
                "failcnt": 0,
            },
            "kernel": {"limit": 0, "usage": memory.kernel.0, "failcnt": 0},
            "kernelTCP": {"limit": 0, "failcnt": 0},
            "raw": memory.details,
            "psi": stats.memory_pressure.as_ref().map(pressure),
        },
        "pids": {"current": stats.pids.current, "limit": stats.pids.limit.unwrap_or(0)},
        "blkio": disks(&stats.io, stats.io_pressure.as_ref()),
        "hugetlb": stats
            .hugetlb
            .iter()
            .map(|(size, pages)| {
                let figures = json!({"usage": pages.usage, "max": pages.peak.unwrap_or(0), "failcnt": pages.limit_hits});
                (size.clone(), figures)
            })
            .collect::<serde_json::Map<_, _>>(),
        "intel_rdt": {},
        "network_interfaces": null,
    })
}

fn disks(io: &BTreeMap<Device, IoDeviceStats>, stall: Option<&Pressure>) -> Value {
    let entries = |read: fn(&IoDeviceStats) -> u64, write: fn(&IoDeviceStats) -> u64| -> Vec<Value> {
        let entry = |device: &Device, op: &str, value: u64| json!({"major": device.major, "minor": device.minor, "op": op, "value": value});
        io.iter()
            .flat_map(|(device, stats)| [entry(device, "Read", read(stats)), entry(device, "Write", write(stats))])
            .collect()
    };
    json!({
        "ioServiceBytesRecursive": entries(|stats| stats.read_bytes, |stats| stats.write_bytes),
        "ioServicedRecursive": entries(|stats| stats.reads, |stats| stats.writes),
        "psi": stall.map(pressure),
    })
}

fn pressure(pressure: &Pressure) -> Value {
    let stall = |stall: &Stall| {
        json!({
            "avg10": stall.percent_10s,
            "avg60": stall.percent_60s,
            "avg300": stall.percent_300s,
            "total": stall.total_us,
        })
    };
    json!({"some": stall(&pressure.some), "full": stall(&pressure.full)})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_units() {
        assert_eq!(interval("5s").ok(), Some(Duration::from_secs(5)));
        assert_eq!(interval("250ms").ok(), Some(Duration::from_millis(250)));
        for text in ["", "5", "0s", "s", "-1s", "5h"] {
            assert!(interval(text).is_err(), "{text}");
        }
    }

    #[test]
    fn figures_are_in_the_words_of_runc() {
        let mut stats = Stats::default();
        stats.cpu.total_us = 7;
        stats.io.insert(
            Device { major: 8, minor: 0 },
            IoDeviceStats {
                read_bytes: 4096,
                ..IoDeviceStats::default()
            },
        );
        let figures = figures(&stats);
        assert_eq!(figures["cpu"]["usage"]["total"], 7000);
        assert_eq!(figures["memory"]["usage"]["limit"], u64::MAX);
        let read = &figures["blkio"]["ioServiceBytesRecursive"][0];
        assert_eq!((&read["op"], &read["value"]), (&json!("Read"), &json!(4096)));
    }
}
