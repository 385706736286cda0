//! Sets of assignments and what becomes of them, on a pretended machine.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use gantry_model::ReplicaId;
use gantry_model::assignment::{Item, ItemKey, ReplicaItem};
use gantry_model::phase::{Desired, Phase};
use gantry_model::spec::{HealthCheck, HealthTest, PortMode, PortSpec, Protocol, RestartPolicy};
use gantry_model::{DurationMs, Timestamp};
use gantry_network::Connections;

use super::harness::{Place, item, wanted};
use crate::board::Told;
use crate::testing::{replica, until};
use gantry_lifecycle::Update;

#[tokio::test]
async fn a_replica_runs_and_its_set_is_acknowledged() {
    let place = Place::new();
    let mut agent = place.start();
    agent.begin().await;
    agent.complete(vec![item(1)]).await;
    agent.until_phase(1, Phase::Running).await;
    agent.until_acknowledged().await;
    let observed = agent.observed(1);
    assert!(observed.ready && observed.pid == Some(1001), "{observed:?}");
    assert!(place.machine.state().attached.contains(&ReplicaId(1)));
    agent.stop().await;
    assert!(
        place
            .machine
            .container(1)
            .is_some_and(|container| container.exit.is_none())
    );
}

#[tokio::test]
async fn an_increment_that_does_not_chain_asks_for_a_complete_set() {
    let place = Place::new();
    let mut agent = place.start();
    agent.begin().await;
    agent.complete(vec![item(1)]).await;
    let lost = Update {
        applies_to: 7,
        results_in: 8,
        put: vec![item(2)],
        remove: vec![ItemKey::Replica(ReplicaId(1))],
    };
    agent.update(lost).await;
    until("a complete set is asked for", || agent.acks.borrow().resyncs == 1).await;
    agent.until_phase(1, Phase::Running).await;
    assert!(place.machine.container(2).is_none());
    agent.complete(vec![item(1), item(2)]).await;
    agent.until_phase(2, Phase::Running).await;
    agent.stop().await;
}

#[tokio::test]
async fn an_acknowledgement_waits_for_the_data_path_and_sets_coalesce() {
    let place = Place::new();
    let mut agent = place.start();
    agent.begin().await;
    agent.complete(vec![]).await;
    agent.until_acknowledged().await;
    let applications = place.machine.state().plans.len();
    let permits = place.machine.gate.available_permits();
    place.machine.gate.forget_permits(permits);
    for slot in 1..=20 {
        agent.increment(vec![item(slot)], vec![]).await;
    }
    agent.until_phase(20, Phase::Running).await;
    assert!(
        agent.acknowledged() < agent.number,
        "the data path has not been applied"
    );
    place.machine.gate.add_permits(permits);
    agent.until_acknowledged().await;
    let made = place.machine.state().plans.len() - applications;
    assert!((1..=3).contains(&made), "20 sets took {made} applications");
    agent.stop().await;
}

#[tokio::test]
async fn a_stop_is_obeyed_and_a_removal_leaves_nothing() {
    let place = Place::new();
    let mut agent = place.start();
    agent.begin().await;
    agent.complete(vec![item(1)]).await;
    agent.until_phase(1, Phase::Running).await;
    agent.increment(vec![wanted(1, Desired::Stop)], vec![]).await;
    agent.until_phase(1, Phase::Stopped).await;
    assert!(
        !place.machine.state().attached.contains(&ReplicaId(1)),
        "released before it was reported"
    );
    let folder = agent.shared.disk.replica(ReplicaId(1));
    assert!(folder.exists(), "its record stays");
    agent.increment(vec![wanted(1, Desired::Remove)], vec![]).await;
    until("its folder is gone", || !folder.exists()).await;
    until("the removal is told", || {
        agent.shared.board.tell_all();
        agent.shared.board.take(10).contains(&Told::Removed(ReplicaId(1)))
    })
    .await;
    assert!(place.machine.state().volumes_removed.contains(&ReplicaId(1)));
    agent.increment(vec![], vec![ItemKey::Replica(ReplicaId(1))]).await;
    agent.until_acknowledged().await;
    agent.shared.board.tell_all();
    assert_eq!(agent.shared.board.take(10), [], "the leader knows");
    agent.stop().await;
}

#[tokio::test]
async fn a_stubborn_container_is_killed_after_its_grace() {
    let place = Place::new();
    place.machine.state().is_stubborn = true;
    let mut agent = place.start();
    agent.begin().await;
    let mut stubborn = replica(1);
    let container = &mut Arc::make_mut(&mut stubborn.spec).container;
    container.stop_grace_period = Some(DurationMs(50));
    container.stop_signal = Some("SIGINT".into());
    agent.complete(vec![Item::Replica(stubborn.clone())]).await;
    agent.until_phase(1, Phase::Running).await;
    stubborn.desired = Desired::Stop;
    agent.increment(vec![Item::Replica(stubborn)], vec![]).await;
    agent.until_phase(1, Phase::Stopped).await;
    let last_exit = agent.observed(1).last_exit.expect("it ended");
    assert_eq!(last_exit.code, 137);
    agent.stop().await;
}

#[tokio::test]
async fn a_new_agent_adopts_what_runs_without_touching_it() {
    let place = Place::new();
    let mut agent = place.start();
    agent.begin().await;
    agent.complete(vec![item(1), item(2)]).await;
    agent.until_phase(1, Phase::Running).await;
    agent.until_phase(2, Phase::Running).await;
    let sequence = agent.observed(1).sequence;
    agent.stop().await;
    let plans = place.machine.state().plans.len();

    // No server answers: there is no session.
    let agent = place.start();
    agent.until_phase(1, Phase::Running).await;
    until("its network is applied from the disk", || {
        place.machine.state().plans.len() > plans
    })
    .await;
    assert_eq!(place.machine.state().launches, 2, "nothing was started");
    let observed = agent.observed(1);
    assert!(observed.ready && observed.pid == place.machine.container(1).map(|container| container.pid));
    assert!(observed.sequence >= sequence);

    // And it goes on: what ends is started again, still without a server.
    place.machine.exit(1, 1);
    until("it is started again", || place.machine.state().launches == 3).await;
    until("the restart is counted", || agent.observed(1).restarts == 1).await;
    agent.stop().await;
}

fn published(slot: u32) -> ReplicaItem {
    let mut item = replica(slot);
    Arc::make_mut(&mut item.spec).ports = vec![PortSpec {
        target: 80,
        published: Some(8080),
        protocol: Protocol::Tcp,
        mode: PortMode::Ingress,
        host_ip: None,
        name: None,
    }];
    item
}

fn told(item: &ReplicaItem, desired: Desired) -> Item {
    Item::Replica(ReplicaItem {
        desired,
        ..item.clone()
    })
}

#[tokio::test]
async fn a_stop_waits_for_connections_in_use_and_not_for_idle_ones() {
    let place = Place::new();
    let mut agent = place.start();
    agent.begin().await;
    agent.complete(vec![item(1)]).await;
    agent.until_phase(1, Phase::Running).await;
    let clients = |open, idle| Connections { open, idle, sending: 0 };
    place.machine.state().connections.insert(ReplicaId(1), clients(3, 1));
    agent.increment(vec![wanted(1, Desired::Stop)], vec![]).await;
    until("it says what it waits for", || {
        agent.observed(1).message.contains("2 connection(s) in use (1 idle")
    })
    .await;
    let container = place.machine.container(1).expect("it runs");
    assert_eq!(
        container.signals,
        [] as [i32; 0],
        "no signal before its clients are done"
    );

    // A new agent waits as well; the leader's wish reaches it anew.
    agent.stop().await;
    let mut agent = place.start();
    agent.begin().await;
    agent.complete(vec![wanted(1, Desired::Stop)]).await;
    until("it waits again", || agent.observed(1).message.contains("in use")).await;
    place.machine.state().connections.insert(ReplicaId(1), clients(1, 1));
    agent.until_phase(1, Phase::Stopped).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_connection_that_arrives_late_is_waited_for_as_well() {
    let place = Place::new();
    let mut agent = place.start();
    agent.begin().await;
    agent.complete(vec![item(1)]).await;
    agent.until_phase(1, Phase::Running).await;
    let busy = Connections {
        open: 1,
        ..Connections::default()
    };
    {
        let mut machine = place.machine.state();
        machine.listening = Some(BTreeSet::from([80]));
        machine.looks = VecDeque::from([Connections::default()]);
        machine.connections.insert(ReplicaId(1), busy);
    }
    agent.increment(vec![wanted(1, Desired::Stop)], vec![]).await;
    until("it waits", || agent.observed(1).message.contains("in use")).await;
    let container = place.machine.container(1).expect("it runs");
    assert_eq!(container.signals, [] as [i32; 0], "no signal at the first quiet look");
    place
        .machine
        .state()
        .connections
        .insert(ReplicaId(1), Connections::default());
    agent.until_phase(1, Phase::Stopped).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_stop_waits_for_connections_no_longer_than_the_grace_period() {
    let place = Place::new();
    let mut agent = place.start();
    agent.begin().await;
    let mut short = replica(1);
    Arc::make_mut(&mut short.spec).container.stop_grace_period = Some(DurationMs(300));
    agent.complete(vec![Item::Replica(short.clone())]).await;
    agent.until_phase(1, Phase::Running).await;
    let forever = Connections {
        open: 1,
        ..Connections::default()
    };
    place.machine.state().connections.insert(ReplicaId(1), forever);
    agent.increment(vec![told(&short, Desired::Remove)], vec![]).await;
    until("it is removed", || agent.shared.board.phase(ReplicaId(1)).is_none()).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_container_that_ends_while_its_clients_are_waited_for_is_not_started_again() {
    let place = Place::new();
    let mut agent = place.start();
    agent.begin().await;
    agent.complete(vec![item(1)]).await;
    agent.until_phase(1, Phase::Running).await;
    let forever = Connections {
        open: 1,
        ..Connections::default()
    };
    place.machine.state().connections.insert(ReplicaId(1), forever);
    agent.increment(vec![wanted(1, Desired::Stop)], vec![]).await;
    until("it waits", || agent.observed(1).message.contains("in use")).await;
    place.machine.exit(1, 1);
    agent.until_phase(1, Phase::Stopped).await;
    assert_eq!(place.machine.state().launches, 1);
    agent.stop().await;
}

#[tokio::test]
async fn without_a_health_check_a_replica_is_ready_when_it_accepts_connections() {
    let place = Place::new();
    place.machine.state().listening = Some(BTreeSet::new());
    let mut agent = place.start();
    agent.begin().await;
    agent.complete(vec![Item::Replica(published(1))]).await;
    until("it says what it waits for", || {
        agent.shared.board.phase(ReplicaId(1)) == Some(Phase::Running)
            && agent.observed(1).message.contains("on port(s) 80")
    })
    .await;
    let before = agent.observed(1);
    assert!(!before.ready);
    place.machine.state().listening = Some(BTreeSet::from([80]));
    until("it is ready", || agent.observed(1).ready).await;
    assert!(agent.observed(1).sequence > before.sequence);
    agent.stop().await;
}

#[tokio::test]
async fn an_exit_while_no_agent_was_there_is_reported_and_acted_upon() {
    let place = Place::new();
    let mut agent = place.start();
    agent.begin().await;
    let mut once = replica(2);
    Arc::make_mut(&mut once.spec).restart = RestartPolicy {
        condition: gantry_model::spec::RestartCondition::None,
        ..RestartPolicy::default()
    };
    agent.complete(vec![item(1), Item::Replica(once)]).await;
    agent.until_phase(1, Phase::Running).await;
    agent.until_phase(2, Phase::Running).await;
    agent.stop().await;
    place.machine.exit(1, 3);
    place.machine.exit(2, 4);

    let agent = place.start();
    agent.until_phase(2, Phase::Failed).await;
    assert_eq!(agent.observed(2).last_exit.map(|exit| exit.code), Some(4));
    until("the other is started again", || place.machine.state().launches == 3).await;
    assert_eq!(agent.observed(1).last_exit.map(|exit| exit.code), Some(3));
    agent.stop().await;
}

#[tokio::test]
async fn only_a_complete_set_removes_what_it_does_not_name() {
    let place = Place::new();
    let mut agent = place.start();
    agent.begin().await;
    agent.complete(vec![item(1), item(2)]).await;
    agent.until_phase(1, Phase::Running).await;
    agent.until_phase(2, Phase::Running).await;
    agent.stop().await;

    // A leftover of an agent that lost its record, and one that only has a network namespace.
    let leftover = place.data_dir().join("replicas").join(ReplicaId(9).to_string());
    std::fs::create_dir_all(&leftover).expect("made");
    place.machine.state().attached.insert(ReplicaId(8));
    let mut agent = place.start();
    agent.until_phase(1, Phase::Running).await;
    agent.begin().await;
    assert!(
        leftover.exists() && place.machine.container(2).is_some(),
        "a session alone removes nothing"
    );
    agent.complete(vec![item(1)]).await;
    until("what is not named is gone", || place.machine.container(2).is_none()).await;
    until("leftovers are gone", || {
        !leftover.exists() && !place.machine.state().attached.contains(&ReplicaId(8))
    })
    .await;
    assert!(
        place
            .machine
            .container(1)
            .is_some_and(|container| container.exit.is_none())
    );
    agent.stop().await;
}

#[tokio::test]
async fn a_new_session_changes_nothing_for_replicas() {
    let place = Place::new();
    let mut agent = place.start();
    agent.begin().await;
    agent.complete(vec![item(1)]).await;
    agent.until_phase(1, Phase::Running).await;
    agent.begin().await;
    agent.complete(vec![item(1)]).await;
    agent.until_acknowledged().await;
    assert_eq!(place.machine.state().launches, 1);
    assert!(
        place
            .machine
            .container(1)
            .is_some_and(|container| container.signals.is_empty())
    );
    agent.stop().await;
}

#[tokio::test]
async fn an_image_that_comes_late_is_waited_for() {
    let place = Place::new();
    place.machine.state().image_failures = 2;
    let mut agent = place.start();
    agent.begin().await;
    agent.complete(vec![item(1)]).await;
    until("the reason is told", || {
        agent.shared.board.phase(ReplicaId(1)) == Some(Phase::Preparing) && agent.observed(1).message.contains("web:v1")
    })
    .await;
    agent.until_phase(1, Phase::Running).await;
    assert_eq!(agent.observed(1).message, "");
    agent.stop().await;
}

#[tokio::test]
async fn an_unhealthy_container_is_started_again() {
    let place = Place::new();
    let mut agent = place.start();
    agent.begin().await;
    let mut checked = replica(1);
    Arc::make_mut(&mut checked.spec).container.healthcheck = Some(HealthCheck {
        interval: DurationMs(20),
        retries: 2,
        ..HealthCheck::with_defaults(HealthTest::Shell("true".into()))
    });
    agent.complete(vec![Item::Replica(checked)]).await;
    until("it is ready", || {
        agent.shared.board.phase(ReplicaId(1)).is_some() && agent.observed(1).ready
    })
    .await;
    place.machine.state().is_unhealthy = true;
    until("it is started again", || place.machine.state().launches >= 2).await;
    place.machine.state().is_unhealthy = false;
    until("it is ready again", || agent.observed(1).ready).await;
    assert!(agent.observed(1).restarts >= 1);
    assert!(agent.observed(1).ready_since > Some(Timestamp(0)));
    agent.stop().await;
}
