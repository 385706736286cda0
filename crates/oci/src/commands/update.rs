//! `update`: changes the limits of a container while it runs.

use std::io::Read;
use std::path::Path;

use crate::args::UpdateArgs;
use crate::spec::{BlockIo, Cpu, Memory, Pids, Resources};
use crate::store::{Container, Status};
use crate::{OciError, limits};

/// Sets what is named; the rest stays.
pub(super) fn update(container: &Container, args: &UpdateArgs) -> Result<(), OciError> {
    if container.status() == Status::Stopped {
        return Err(OciError::NotRunning);
    }
    let resources = match &args.resources {
        Some(path) => read(path)?,
        None => of_options(args)?,
    };
    Ok(container.group.update(&limits::of_update(&resources)?)?)
}

fn read(path: &Path) -> Result<Resources, OciError> {
    let failed = |source| OciError::io("read", path, source);
    let mut text = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().read_to_end(&mut text).map_err(failed)?;
    } else {
        text = std::fs::read(path).map_err(failed)?;
    }
    serde_json::from_slice(&text).map_err(|source| OciError::Document {
        path: path.to_path_buf(),
        source,
    })
}

fn of_options(args: &UpdateArgs) -> Result<Resources, OciError> {
    let bytes = |text: &Option<String>| text.as_deref().map(bytes).transpose();
    Ok(Resources {
        cpu: Some(Cpu {
            shares: args.cpu_share,
            quota: args.cpu_quota,
            burst: args.cpu_burst,
            period: args.cpu_period,
            realtime_runtime: args.cpu_rt_runtime,
            realtime_period: args.cpu_rt_period,
            cpus: args.cpuset_cpus.clone(),
            mems: args.cpuset_mems.clone(),
            idle: args.cpu_idle,
        }),
        memory: Some(Memory {
            limit: bytes(&args.memory)?,
            reservation: bytes(&args.memory_reservation)?,
            swap: bytes(&args.memory_swap)?,
            ..Memory::default()
        }),
        pids: Some(Pids { limit: args.pids_limit }),
        block_io: Some(BlockIo {
            weight: args.blkio_weight,
            ..BlockIo::default()
        }),
        ..Resources::default()
    })
}

/// A number with a unit of 1024, as runc takes it.
fn bytes(text: &str) -> Result<i64, OciError> {
    let lower = text.to_ascii_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let (number, unit) = match lower.char_indices().last() {
        Some((at, 'k')) => (&lower[..at], 1 << 10),
        Some((at, 'm')) => (&lower[..at], 1 << 20),
        Some((at, 'g')) => (&lower[..at], 1 << 30),
        Some((at, 't')) => (&lower[..at], 1 << 40),
        _ => (lower, 1),
    };
    let wrong = || OciError::Usage(format!("'{text}' is not a number of bytes, such as 64m"));
    number
        .parse::<i64>()
        .ok()
        .and_then(|number| number.checked_mul(unit))
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units_of_1024() {
        let expected = [
            ("1024", 1024),
            ("64m", 64 << 20),
            ("1G", 1 << 30),
            ("2kb", 2048),
            ("-1", -1),
        ];
        for (text, number) in expected {
            assert_eq!(bytes(text).ok(), Some(number), "{text}");
        }
        for text in ["", "m", "1x", "1.5g", "99999999999999g"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }
}
