//! What replicas use whose services are scaled by it: looked at now and then, told to the leader.
//!
//! Nobody else is measured: figures of all replicas of a large cluster would be most of what its leader hears.

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_model::phase::Phase;
use gantry_model::spec::Usage;
use gantry_model::{ByteSize, DurationMs, MilliCpu, ReplicaId, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::drivers::blocking;
use crate::drivers::containers::Containers;
use crate::limits::USAGE_INTERVAL;
use crate::shared::Shared;

/// Processor time that a container had used, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reading {
    at: Timestamp,
    cpu_us: u64,
    memory: ByteSize,
}

/// Measures until shutdown.
pub(crate) async fn measure(shared: Arc<Shared>, containers: Containers, shutdown: CancellationToken) {
    let mut before: BTreeMap<ReplicaId, Reading> = BTreeMap::new();
    loop {
        let due = shared.clock.now().after(USAGE_INTERVAL);
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = shared.clock.sleep_until(Some(due)) => {}
        }
        let running = |id: &ReplicaId| shared.board.phase(*id) == Some(Phase::Running);
        let measured: Vec<ReplicaId> = shared
            .surroundings
            .load()
            .measured
            .iter()
            .copied()
            .filter(running)
            .collect();
        let readings = match measured.is_empty() {
            true => BTreeMap::new(),
            false => read(&shared, containers.clone(), measured).await,
        };
        let usage: BTreeMap<ReplicaId, Usage> = readings
            .iter()
            .filter_map(|(id, now)| Some((*id, usage(before.get(id)?, now)?)))
            .collect();
        if !usage.is_empty() {
            shared.board.measured(usage);
        }
        before = readings;
    }
}

async fn read(shared: &Arc<Shared>, containers: Containers, ids: Vec<ReplicaId>) -> BTreeMap<ReplicaId, Reading> {
    let shared = Arc::clone(shared);
    let look = move || {
        let reading = |id: ReplicaId| {
            let stats = containers.handle(id).ok()?.stats().ok()?;
            let reading = Reading {
                at: shared.clock.now(),
                cpu_us: stats.cpu.total_us,
                memory: stats.memory.working_set,
            };
            Some((id, reading))
        };
        // One that has just ended has no figures.
        ids.into_iter().filter_map(reading).collect()
    };
    blocking(look).await
}

/// What was used between two readings; none when the container was started anew meanwhile, or no time has passed.
fn usage(before: &Reading, now: &Reading) -> Option<Usage> {
    let used_us = now.cpu_us.checked_sub(before.cpu_us)?;
    let DurationMs(elapsed) = now.at.since(before.at);
    // Microseconds per millisecond are thousandths of a core.
    (elapsed > 0).then(|| Usage {
        cpu: MilliCpu(used_us / elapsed),
        memory: now.memory,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn use_is_what_lies_between_two_readings() {
        let reading = |at, cpu_us| Reading {
            at: Timestamp(at),
            cpu_us,
            memory: ByteSize::mib(12),
        };
        let used = usage(&reading(1_000, 500_000), &reading(6_000, 3_000_000));
        let half_a_core = Usage {
            cpu: MilliCpu(500),
            memory: ByteSize::mib(12),
        };
        assert_eq!(used, Some(half_a_core));
        assert_eq!(
            usage(&reading(1_000, 500_000), &reading(6_000, 400)),
            None,
            "started anew"
        );
        assert_eq!(usage(&reading(1_000, 5), &reading(1_000, 7)), None);
    }
}
