//! Start order.

use gantry_model::Name;
use gantry_model::object::NodeStatus;
use gantry_model::phase::Phase;
use gantry_model::spec::{Dependency, DependencyCondition, Mode, ServiceSpec};
use gantry_reconcile::dependants;

use crate::world::World;
use crate::world::people::{plain, replicated};

fn after(name: &str, condition: DependencyCondition, required: bool) -> ServiceSpec {
    let mut spec = replicated(1);
    let dependency = Dependency {
        condition,
        restart: false,
        required,
    };
    spec.depends_on
        .insert(Name::new(name).expect("a valid name"), dependency);
    spec
}

#[test]
fn replicas_wait_for_what_they_depend_on_and_say_so() {
    for (condition, words) in [
        (DependencyCondition::Started, "waiting for redis to start"),
        (DependencyCondition::Healthy, "waiting for redis to be healthy"),
    ] {
        let (mut world, _) = World::with_nodes(1);
        let redis = world.apply_spec("redis", replicated(1));
        let web = world.apply_spec("web", after("redis", condition, true));
        assert_eq!(dependants(&world.state, redis), [web]);
        world.control_until_quiet();
        let waiting = world.state.replicas_of(web).next().expect("its record is made");
        assert_eq!(waiting.observed.phase, Phase::Pending);
        assert_eq!(
            waiting.explanation.as_ref().map(|why| why.summary.as_str()),
            Some(words)
        );
        world.rounds(12);
        assert_eq!(world.endpoints(web).len(), 1);
    }
}

#[test]
fn a_later_outage_of_the_dependency_does_not_hold_back_replacements() {
    let (mut world, nodes) = World::with_nodes(2);
    let redis = world.apply_spec("redis", replicated(1));
    let web = world.apply_spec("web", after("redis", DependencyCondition::Healthy, true));
    world.rounds(12);
    world.delete_service(redis);
    world.rounds(5);
    let node = world.endpoints(web)[0].node.expect("it is placed");
    world.edit_node(node, |node| node.status = NodeStatus::Down);
    world.rounds(8);
    let live: Vec<_> = world
        .endpoints(web)
        .into_iter()
        .filter(|one| one.node != Some(node))
        .collect();
    assert_eq!(live.len(), nodes.len() - 1);
}

#[test]
fn a_completed_job_opens_the_gate() {
    let (mut world, _) = World::with_nodes(1);
    let migrate = plain(Mode::ReplicatedJob {
        completions: 1,
        parallelism: 1,
    });
    world.apply_spec("migrate", migrate);
    let web = world.apply_spec(
        "web",
        after("migrate", DependencyCondition::CompletedSuccessfully, true),
    );
    world.control_until_quiet();
    assert!(world.state.replicas_of(web).all(|one| one.node.is_none()));
    world.rounds(15);
    assert_eq!(world.endpoints(web).len(), 1);
}

#[test]
fn a_missing_service_matters_only_when_it_is_required() {
    let (mut world, _) = World::with_nodes(1);
    let strict = world.apply_spec("strict", after("ghost", DependencyCondition::Started, true));
    let loose = world.apply_spec("loose", after("ghost", DependencyCondition::Started, false));
    world.rounds(8);
    assert_eq!(world.endpoints(loose).len(), 1);
    let waiting = world.state.replicas_of(strict).next().expect("its record is made");
    let why = waiting.explanation.as_ref().expect("it says why");
    assert!(why.summary.contains("shop/ghost, which does not exist"), "{why}");
}

#[test]
fn waiting_for_the_end_of_a_service_that_never_ends_has_a_remedy() {
    let (mut world, _) = World::with_nodes(1);
    world.apply_spec("init", replicated(1));
    let web = world.apply_spec("web", after("init", DependencyCondition::CompletedSuccessfully, true));
    world.rounds(8);
    let why = world
        .state
        .replicas_of(web)
        .next()
        .and_then(|one| one.explanation.clone())
        .expect("it says why");
    assert!(why.remedy.contains("set restart"), "{why}");
}
