//! How fast replicas are placed, and how well they are packed.
//!
//! `cargo run --release -p gantry-scheduler --example scale [speed [NODES [SERVICES [REPLICAS]]] | quality]`
//!
//! `speed` fills a cluster with services that have constraints and a spread, batch by batch, and prints placements per second
//! for each twentieth of them: the last should be as fast as the first. `quality` packs published mixes of sizes and compares
//! the nodes used with first-fit-decreasing and with a lower bound that nobody can beat.

mod cluster;
mod mixes;
mod quality;

use gantry_env::{Env, System};
use gantry_model::Timestamp;
use gantry_scheduler::{Fleet, Request};

use cluster::Dice;

const NOW: Timestamp = Timestamp(1_000_000);

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number =
        |index: usize, otherwise: u64| words.get(index).and_then(|text| text.parse().ok()).unwrap_or(otherwise);
    match words.first().map(String::as_str) {
        Some("quality") => quality::run(),
        Some("one") => one_more(number(1, 10_000), number(2, 1_000), number(3, 1_000_000)),
        Some(_) | None => {
            speed(number(1, 10_000), number(2, 2_000), number(3, 2_000_000));
        }
    }
}

/// Fills a cluster; returns it with a request of each service.
fn speed(nodes: u64, services: u64, replicas: u64) -> (Fleet, Vec<Request>) {
    let clock = System;
    let mut dice = Dice(1);
    let mut fleet = cluster::fleet(nodes, &mut dice);
    let specs: Vec<_> = (0..services)
        .map(|index| mixes::service(index, nodes, replicas, services, &mut dice))
        .collect();
    let (mut placed, mut refused, mut spent_ms) = (0u64, 0u64, 0u64);
    let (mut part_placed, mut part_ms, mut parts) = (0u64, 0u64, Vec::new());
    for (index, spec) in (0..).zip(&specs) {
        let requests: Vec<Request> = cluster::requests(index, spec, replicas / services);
        let started = clock.monotonic();
        let decisions = fleet.place(&requests, NOW);
        let took = clock.monotonic().0 - started.0;
        let good = decisions.iter().filter(|one| one.result.is_ok()).count() as u64;
        if let Some(Err(why)) = decisions.last().map(|one| &one.result).filter(|_| refused == 0) {
            println!("first refusal, after {placed}: {}", why.summary);
        }
        refused += decisions.len() as u64 - good;
        placed += good;
        spent_ms += took;
        part_placed += good;
        part_ms += took;
        if (index + 1_u64).is_multiple_of((services / 20).max(1)) {
            parts.push(part_placed * 1000 / part_ms.max(1));
            (part_placed, part_ms) = (0, 0);
        }
    }
    println!(
        "{nodes} nodes, {services} services: {placed} placed, {refused} refused, in {spent_ms} ms: {}/s",
        placed * 1000 / spent_ms.max(1)
    );
    println!("per twentieth: {parts:?}");
    let again = (0..).zip(&specs);
    let more = again
        .map(|(index, spec)| cluster::request(index, 1 << 40 | index, spec))
        .collect();
    (fleet, more)
}

/// One more replica in a full cluster, service after service.
fn one_more(nodes: u64, services: u64, replicas: u64) {
    let (mut fleet, more) = speed(nodes, services, replicas);
    let clock = System;
    let started = clock.monotonic();
    for request in &more {
        let decisions = fleet.place(std::slice::from_ref(request), NOW);
        fleet.undo(&decisions);
    }
    let took = clock.monotonic().0 - started.0;
    println!("one more replica: {} us", took * 1000 / services);
}
