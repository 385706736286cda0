//! Runs of scripts: one, many at once, and ever smaller ones of a script that fails.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::check::Violation;
use crate::plant::Plant;
use crate::script::{Script, Step};
use crate::trace::Trace;
use crate::world::World;

/// What became of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The promise that was broken, if any.
    pub violation: Option<Violation>,
    /// The number of everything that happened.
    pub hash: u64,
    /// Entries that were agreed upon.
    pub entries: usize,
    /// How long it took in the simulated cluster.
    pub ended_at: u64,
}

/// Runs a script.
#[must_use]
pub fn run(script: &Script, plant: Option<Plant>, aloud: bool) -> Verdict {
    let mut world = World::new(script.clone(), plant, Trace::new(aloud));
    while world.turn() {}
    let last = world.check.state.fingerprint();
    world.trace.number(last);
    Verdict {
        violation: world.check.violation.clone(),
        hash: world.trace.hash(),
        entries: world.check.committed(),
        ended_at: world.now,
    }
}

/// The same failure with fewer steps, as few as leaving out ever smaller parts leads to; at most so many runs.
#[must_use]
pub fn shrink(script: &Script, plant: Option<Plant>, promise: &str, runs_max: usize) -> Script {
    let fails = |steps: &[Step]| {
        let script = Script {
            seed: script.seed,
            steps: steps.to_vec(),
        };
        run(&script, plant, false)
            .violation
            .is_some_and(|one| one.promise == promise)
    };
    let mut steps = script.steps.clone();
    let (mut part, mut runs) = (steps.len().div_ceil(2), 0);
    while part > 0 && runs < runs_max {
        let mut at = 0;
        while at < steps.len() && runs < runs_max {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + part).min(fewer.len()));
            runs += 1;
            if fails(&fewer) {
                steps = fewer;
            } else {
                at += part;
            }
        }
        part = if part == 1 { 0 } else { part.div_ceil(2) };
    }
    Script {
        seed: script.seed,
        steps,
    }
}

/// Runs the seeds on so many threads; the failures in order of seed.
#[must_use]
pub fn run_all(
    seeds: std::ops::Range<u64>,
    plant: Option<Plant>,
    threads: usize,
    failures_max: usize,
) -> Vec<(u64, Violation)> {
    let (next, failures) = (AtomicU64::new(seeds.start), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let full = failures.lock().map_or(true, |failures| failures.len() >= failures_max);
                    if seed >= seeds.end || full {
                        return;
                    }
                    let verdict = run(&Script::of(seed), plant, false);
                    if let (Some(violation), Ok(mut failures)) = (verdict.violation, failures.lock()) {
                        failures.push((seed, violation));
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().unwrap_or_default();
    failures.sort_by_key(|(seed, _)| *seed);
    failures
}
