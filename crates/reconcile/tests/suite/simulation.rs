//! Faults, then peace, then every service must be what its spec says.
//!
//! `GANTRY_SIMULATIONS` sets how many seeds are run, `GANTRY_SIMULATION_SEED` runs one again.

use gantry_model::object::{Availability, NodeStatus, RolloutState};
use gantry_model::phase::{Desired, Phase};
use gantry_model::{DurationMs, ServiceId};
use gantry_reconcile::converged;

use crate::world::World;
use crate::world::agents::Shape;
use crate::world::people::random_spec;

fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("GANTRY_SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("GANTRY_SIMULATIONS").unwrap_or(300),
    }
}

#[test]
fn after_faults_every_service_converges() {
    for seed in seeds() {
        let failed = std::panic::catch_unwind(|| run(seed)).is_err();
        assert!(!failed, "replay with GANTRY_SIMULATION_SEED={seed}");
    }
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    for name in ["alpha", "beta", "gamma"] {
        world.join(name, &Shape::default());
    }
    world.chaos = true;
    for _ in 0..80 {
        disturb(&mut world);
    }
    heal(&mut world);
    settle(&mut world);
    for service in world.service_ids() {
        assert_converged(&mut world, service);
    }
}

fn disturb(world: &mut World) {
    let services = world.service_ids();
    let nodes = world.node_ids();
    let service = world.dice.pick(&services);
    let node = world.dice.pick(&nodes);
    match (world.dice.below(16), service, node) {
        (0, _, _) => {
            let name = ["web", "db", "job"][world.dice.below(3) as usize];
            let spec = random_spec(&mut world.dice);
            let id = world.apply_spec(name, spec);
            if let Some(service) = world.state.service(id)
                && world.dice.one_in(3)
            {
                let revision = service.revision;
                world.broken.insert((id, revision));
            }
        }
        (1, Some(service), _) => {
            let count = world.dice.below(6) as u32;
            world.scale(service, count);
        }
        (2, Some(service), _) if world.dice.one_in(2) => world.roll_back(service),
        (3, Some(service), _) if world.dice.one_in(6) => world.delete_service(service),
        (4, _, Some(node)) => {
            let status = [NodeStatus::Down, NodeStatus::Ready][world.dice.below(2) as usize];
            world.edit_node(node, |node| node.status = status);
        }
        (5, _, Some(node)) => {
            let choices = [Availability::Active, Availability::Pause, Availability::Drain];
            let availability = choices[world.dice.below(3) as usize];
            world.edit_node(node, |node| node.availability = availability);
        }
        (6, _, Some(node)) => {
            let zone = ["a", "b"][world.dice.below(2) as usize];
            world.edit_node(node, |node| {
                node.labels.insert("zone".to_string(), zone.to_string());
            });
        }
        (7, _, Some(node)) if world.dice.one_in(8) => {
            world.remove_node(node);
            let name = format!("n{}", world.fresh_id());
            world.join(&name, &Shape::default());
        }
        (8, _, _) => world.fail_over(),
        (9, _, _) => world.acknowledge_all(),
        (10, _, _) => {
            let by = world.dice.below(20_000);
            world.advance(DurationMs(by));
        }
        (11 | 12, Some(service), _) => {
            world.control(service);
        }
        _ => world.agents_step(),
    }
    if world.dice.one_in(2)
        && let Some(service) = service
    {
        world.control(service);
    }
}

/// All nodes well, nobody interferes; paused rollouts and broken revisions get a spec that works.
fn heal(world: &mut World) {
    world.chaos = false;
    for node in world.node_ids() {
        world.edit_node(node, |node| {
            node.status = NodeStatus::Ready;
            node.availability = Availability::Active;
        });
    }
    for service in world.service_ids() {
        let stored = world.state.service(service).expect("just listed").clone();
        if stored.deleting {
            continue;
        }
        let mut spec = (*stored.spec).clone();
        spec.placement = Default::default();
        spec.ports.clear();
        spec.depends_on.clear();
        spec.job = Default::default();
        spec.restart_generation += 1;
        world.apply_spec(stored.name.as_str(), spec);
    }
}

fn settle(world: &mut World) {
    for _ in 0..400 {
        world.control_until_quiet();
        world.agents_step();
        world.acknowledge_all();
        world.advance(DurationMs::secs(2));
    }
    world.control_until_quiet();
}

fn assert_converged(world: &mut World, id: ServiceId) {
    let service = world.state.service(id).expect("just listed").clone();
    let progress = converged(&world.state, id);
    let context = || format!("{progress:?} {:#?}", world.describe());
    assert!(progress.done && !progress.failed, "{}", context());
    let rollout = service.rollout.as_ref().map(|rollout| rollout.state);
    assert_eq!(rollout, Some(RolloutState::Completed), "{}", context());
    let wanted: u32 = progress.wanted;
    let run: Vec<_> = world
        .state
        .replicas_of(id)
        .filter(|one| one.desired == Desired::Run)
        .collect();
    let fills = |phase: Phase| {
        phase
            == if service.spec.mode.is_job() {
                Phase::Completed
            } else {
                Phase::Running
            }
    };
    let filling = run
        .iter()
        .filter(|one| fills(one.observed.phase) && one.revision == service.revision);
    assert_eq!(filling.count(), wanted as usize, "{}", context());
    let holding = world.state.replicas_of(id).filter(|one| one.holds_resources()).count();
    let expected = if service.spec.mode.is_job() { 0 } else { wanted as usize };
    assert_eq!(holding, expected, "{}", context());
    let plan = world.plan(id);
    assert!(plan.is_empty() && plan.wake_at.is_none(), "{plan:?}");
}
