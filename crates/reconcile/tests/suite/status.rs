//! Progress and explanations.

use gantry_model::phase::{Exit, Observed, Phase};
use gantry_reconcile::{Target, converged, explain};
use gantry_state::Op;

use crate::world::World;
use crate::world::people::replicated;

#[test]
fn a_service_is_done_when_every_slot_serves_the_present_revision() {
    let (mut world, _) = World::with_nodes(2);
    let id = world.apply_spec("web", replicated(3));
    let progress = converged(&world.state, id);
    assert!(
        !progress.done && progress.wanted == 3 && progress.ready == 0,
        "{progress:?}"
    );
    world.rounds(6);
    let progress = converged(&world.state, id);
    assert!(
        progress.done && !progress.failed && progress.updated == 3,
        "{progress:?}"
    );
    assert_eq!(progress.message, "3 of 3 ready");
    world.delete_service(id);
    assert!(!converged(&world.state, id).done);
    world.rounds(6);
    assert!(converged(&world.state, id).done);
}

#[test]
fn a_replica_that_fits_nowhere_says_what_it_needs_and_what_there_is() {
    let (mut world, _) = World::with_nodes(2);
    let mut spec = replicated(1);
    spec.resources.memory_reservation = gantry_model::ByteSize::mib(8192);
    let id = world.apply_spec("big", spec);
    world.rounds(2);
    let answer = explain(&world.state, Target::Service(id)).expect("it exists");
    let text = answer.reasons.join("\n");
    assert!(
        text.contains("2 nodes lack memory (closest: ") && text.contains(" lacks 4 GiB of 8 GiB)"),
        "{text}"
    );
    let remedy = &answer.remedy;
    assert!(
        remedy.starts_with("lower the reservation to 4 GiB, free 4 GiB on "),
        "{remedy}"
    );
    assert_eq!(
        converged(&world.state, id).message,
        format!("0 of 1 ready; {}", answer.reasons[0])
    );
    let replica = explain(&world.state, Target::Replica(answer.replicas[0])).expect("it exists");
    assert!(
        replica.reasons.iter().any(|one| one.ends_with("(alpha, beta)")),
        "{:?}",
        replica.reasons
    );
}

#[test]
fn a_replica_killed_for_lack_of_memory_says_so() {
    let (mut world, _) = World::with_nodes(1);
    let id = world.apply_spec("web", replicated(1));
    world.rounds(6);
    let replica = world.endpoints(id)[0].clone();
    let exit = Exit {
        code: 137,
        oom_killed: true,
        at: world.now,
    };
    let observed = Observed {
        phase: Phase::Failed,
        sequence: replica.observed.sequence + 1,
        ready: false,
        message: "gave up after 3 restarts".to_string(),
        last_exit: Some(exit),
        restarts: 3,
        ..replica.observed.clone()
    };
    world.write(vec![Op::Observe {
        replica: replica.id,
        observed,
    }]);
    world.rounds(3);
    let answer = explain(&world.state, Target::Replica(replica.id)).expect("it exists");
    assert_eq!(answer.summary, "failed on node alpha");
    assert_eq!(answer.reasons[0], "gave up after 3 restarts");
    assert_eq!(
        answer.reasons[1],
        "killed for lack of memory (exit status 137), restarted 3 time(s)"
    );
    assert_eq!(answer.remedy, "raise the memory limit");
    let progress = converged(&world.state, id);
    assert!(
        progress.failed && progress.message.contains("gave up after 3 restarts"),
        "{progress:?}"
    );
    assert_eq!(
        world.state.replicas_of(id).count(),
        1,
        "its policy gave up, so it is not replaced"
    );
}

#[test]
fn what_does_not_exist_has_no_explanation() {
    let (world, _) = World::with_nodes(1);
    assert_eq!(
        explain(&world.state, Target::Service(gantry_model::ServiceId(99))),
        None
    );
    assert!(converged(&world.state, gantry_model::ServiceId(99)).done);
}
