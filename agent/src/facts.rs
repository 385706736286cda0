//! What the agent says of its machine.

use std::fs;

use gantry_model::object::NodeFacts;
use gantry_model::{ByteSize, Class, MilliCpu, Problem};

use crate::config::AgentConfig;

/// The processor as image platforms name it.
#[must_use]
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The host's name.
///
/// # Errors
/// When the kernel's is not text.
pub(crate) fn host_name() -> Result<String, Problem> {
    let refused = |reason: String| Problem::new(Class::Internal, "host name", reason);
    let name = nix::unistd::gethostname().map_err(|error| refused(error.to_string()))?;
    let name = name.into_string().map_err(|_| refused("it is not text".to_string()))?;
    Ok(name.trim().to_string())
}

/// Looks at the machine.
///
/// # Errors
/// When it does not say how much memory or which kernel it has.
pub(crate) fn gather(config: &AgentConfig) -> Result<NodeFacts, Problem> {
    let unknown = |what: &str, error: &dyn std::fmt::Display| {
        Problem::new(
            Class::Internal,
            "machine",
            format!("cannot find out its {what}: {error}"),
        )
    };
    let cores = std::thread::available_parallelism().map_err(|error| unknown("processors", &error))?;
    let kernel = nix::sys::utsname::uname().map_err(|error| unknown("kernel", &error))?;
    let memory = fs::read_to_string("/proc/meminfo").map_err(|error| unknown("memory", &error))?;
    let memory = total_memory(&memory).ok_or_else(|| unknown("memory", &"no MemTotal in /proc/meminfo"))?;
    let memory = memory_limit().map_or(memory, |limit| limit.min(memory));
    Ok(NodeFacts {
        os: "linux".to_string(),
        arch: architecture().to_string(),
        kernel: kernel.release().to_string_lossy().into_owned(),
        version: env!("CARGO_PKG_VERSION").to_string(),
        cpu: MilliCpu::cores(cores.get() as u64).saturating_sub(config.reserve_cpu),
        memory: memory.saturating_sub(config.reserve_memory),
        generic: config.generic.clone(),
        labels: config.labels.clone(),
        runs_server: config.runs_server,
    })
}

fn total_memory(meminfo: &str) -> Option<ByteSize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(ByteSize(kib << 10))
}

/// The limit of the machine's own control group, as in a container or virtual machine that only looks whole.
fn memory_limit() -> Option<ByteSize> {
    let files = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ];
    let limits = files
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok());
    limits.map(ByteSize).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_as_the_kernel_prints_it() {
        let text = "MemTotal:       24689764 kB\nMemFree:  1 kB\n";
        assert_eq!(total_memory(text), Some(ByteSize(24_689_764 << 10)));
        assert_eq!(total_memory("MemFree: 1 kB\n"), None);
    }

    #[test]
    fn what_is_set_aside_is_not_offered() {
        let all = gather(&AgentConfig {
            reserve_memory: ByteSize::ZERO,
            ..AgentConfig::default()
        });
        let all = all.expect("a Linux machine");
        let some = gather(&AgentConfig {
            reserve_memory: ByteSize::mib(64),
            reserve_cpu: MilliCpu(100),
            ..AgentConfig::default()
        });
        let some = some.expect("a Linux machine");
        assert_eq!(all.memory - some.memory, ByteSize::mib(64));
        assert_eq!(all.cpu - some.cpu, MilliCpu(100));
    }
}
