//! What containers use, and which processes are in them.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use gantry_api::kind;
use gantry_api::v1::{Documents, StatsContainersRequest, TopContainerReply, TopProcess};
use gantry_cgroup::Stats;
use gantry_model::container::ContainerStats;
use gantry_model::{Class, Problem, Timestamp};
use gantry_rpc::status::from_problem;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::super::{Answers, NodeService, STREAM_WAITING, Target};
use crate::drivers::blocking;
use crate::drivers::containers::problem;

/// How often a stream says anew.
const INTERVAL: Duration = Duration::from_secs(1);
/// Columns of `top`, those of `ps -ef`.
const TITLES: [&str; 8] = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"];

/// Of the containers asked for, or all that run.
pub(super) async fn open(
    service: &NodeService,
    request: StatsContainersRequest,
) -> Result<Answers<Documents>, Problem> {
    // Whatever was named must be there.
    for name in &request.containers {
        service.target(name).await?;
    }
    let (sender, answers) = mpsc::channel(STREAM_WAITING);
    let service = service.clone();
    tokio::spawn(async move {
        loop {
            let round = round(&service, &request.containers).await;
            let round = round.map_err(|problem| from_problem(&problem));
            if sender.send(round).await.is_err() || !request.stream {
                return;
            }
            tokio::select! {
                () = service.shutdown.cancelled() => return,
                () = sender.closed() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    });
    Ok(ReceiverStream::new(answers))
}

async fn round(service: &NodeService, names: &[String]) -> Result<Documents, Problem> {
    let names: Vec<String> = match names {
        [] => service
            .engine
            .records()
            .iter()
            .filter(|record| record.life.has_process())
            .map(|record| record.id.to_string())
            .collect(),
        names => names.to_vec(),
    };
    let now = service.shared.clock.now();
    let mut items = Vec::new();
    for name in names {
        // One that went since is left out.
        let Ok(target) = service.target(&name).await else {
            continue;
        };
        let stats = blocking(move || stats(&target, now)).await?;
        items.push(gantry_api::encode(kind::CONTAINER_STATS, &stats));
    }
    Ok(Documents { items, revision: 0 })
}

fn stats(target: &Target, now: Timestamp) -> Result<ContainerStats, Problem> {
    let mut stats = ContainerStats {
        id: target.id.to_string(),
        name: target.name.clone(),
        at: now,
        ..ContainerStats::default()
    };
    let Some(pid) = target.pid else { return Ok(stats) };
    let handle = target.containers.handle(target.id)?;
    let used: Stats = match handle.stats() {
        Ok(used) => used,
        // It ended meanwhile.
        Err(_) if !(target.goes_on)() => return Ok(stats),
        Err(error) => return Err(problem(target.id, &error)),
    };
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    stats.cpu_usage_us = used.cpu.total_us;
    stats.cpu_throttled_us = used.cpu.throttled_us;
    stats.cpu_limit_milli = target.resources.cpu_limit.map_or(processors * 1000, |limit| limit.0);
    stats.memory_usage = used.memory.working_set.0;
    stats.memory_limit = used
        .memory
        .limit
        .map_or_else(node_memory, |limit| limit.0.min(node_memory()));
    stats.block_read = used.io.values().map(|device| device.read_bytes).sum();
    stats.block_write = used.io.values().map(|device| device.write_bytes).sum();
    stats.pids = used.pids.current;
    let devices = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    (stats.network_rx, stats.network_tx) = traffic(&devices);
    Ok(stats)
}

fn node_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// Bytes received and sent by all links but the loopback (proc_net_dev(5)).
fn traffic(devices: &str) -> (u64, u64) {
    let mut total = (0, 0);
    for line in devices.lines() {
        let Some((name, counters)) = line.split_once(':') else {
            continue;
        };
        if name.trim() == "lo" {
            continue;
        }
        let counters: Vec<u64> = counters
            .split_whitespace()
            .filter_map(|field| field.parse().ok())
            .collect();
        total.0 += counters.first().copied().unwrap_or(0);
        total.1 += counters.get(8).copied().unwrap_or(0);
    }
    total
}

pub(super) async fn top(service: &NodeService, container: &str) -> Result<TopContainerReply, Problem> {
    let target = service.target(container).await?;
    if target.pid.is_none() {
        return Err(Problem::new(
            Class::Conflict,
            format!("container {}", target.name),
            "does not run",
        ));
    }
    let now = service.shared.clock.now();
    let handle = Arc::new(target);
    let processes = blocking(move || {
        let opened = handle.containers.handle(handle.id)?;
        let mut pids = opened.processes().map_err(|error| problem(handle.id, &error))?;
        pids.sort_unstable();
        Ok::<_, Problem>(pids.into_iter().filter_map(|pid| process(pid, now)).collect())
    });
    Ok(TopContainerReply {
        titles: TITLES.map(ToString::to_string).to_vec(),
        processes: processes.await?,
    })
}

/// One line of `ps -ef`; none for a process that has ended.
fn process(pid: i32, now: Timestamp) -> Option<TopProcess> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    // The name in parentheses may hold anything (proc_pid_stat(5)).
    let (name, rest) = (stat.split_once('(')?.1.rsplit_once(')')?.0, stat.rsplit_once(')')?.1);
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |index: usize| {
        fields
            .get(index)
            .and_then(|field| field.parse::<u64>().ok())
            .unwrap_or(0)
    };
    let ticks = clock_ticks();
    let seconds = (number(11) + number(12)) / ticks;
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let uptime: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    let age = (uptime - number(19) as f64 / ticks as f64).max(0.0);
    let began = now.0 / 1000 - age as u64;
    let uid = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next());
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    let command = match command.trim() {
        "" => format!("[{name}]"),
        command => command.to_string(),
    };
    let fields = vec![
        user_name(uid?),
        pid.to_string(),
        fields.get(1).unwrap_or(&"0").to_string(),
        if age > 0.0 {
            format!("{}", (seconds as f64 * 100.0 / age) as u64)
        } else {
            "0".to_string()
        },
        time_of_day(began),
        terminal(number(4)),
        format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
        command,
    ];
    Some(TopProcess { fields })
}

fn clock_ticks() -> u64 {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten();
    ticks
        .and_then(|ticks| u64::try_from(ticks).ok())
        .filter(|ticks| *ticks > 0)
        .unwrap_or(100)
}

fn user_name(uid: &str) -> String {
    let parsed = uid.parse().ok().map(nix::unistd::Uid::from_raw);
    let user = parsed.and_then(|uid| nix::unistd::User::from_uid(uid).ok().flatten());
    user.map_or_else(|| uid.to_string(), |user| user.name)
}

fn time_of_day(seconds: u64) -> String {
    let at = jiff::Timestamp::from_second(i64::try_from(seconds).unwrap_or(0)).unwrap_or_default();
    at.to_zoned(jiff::tz::TimeZone::system()).strftime("%H:%M").to_string()
}

/// `pts/3` for a pseudo terminal, `?` for none.
fn terminal(device: u64) -> String {
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xfff00));
    match major {
        0 => "?".to_string(),
        136..=143 => format!("pts/{}", minor + (major - 136) * 256),
        major => format!("{major}:{minor}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_leaves_the_loopback_out() {
        let text = "Inter-|   Receive\n face |bytes packets\n    lo: 9 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\n  eth0: 100 2 0 0 0 0 0 0 7 1 0 0 0 0 0 0\n";
        assert_eq!(traffic(text), (100, 7));
    }

    #[test]
    fn this_process_is_shown_with_its_command() {
        let pid = i32::try_from(std::process::id()).expect("a pid");
        let shown = process(pid, Timestamp(1_700_000_000_000)).expect("it runs");
        assert_eq!(shown.fields.len(), TITLES.len());
        assert_eq!(shown.fields[1], pid.to_string());
        let program = std::env::args().next().expect("a program has a name");
        assert!(shown.fields[7].starts_with(&program), "{:?}", shown.fields);
        assert_eq!(terminal(0), "?");
        assert_eq!(terminal(0x8803), "pts/3");
    }
}
