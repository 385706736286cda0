//! The session with a pretended server, over real connections.

use gantry_api::v1::agent_message::Message;
use gantry_model::ReplicaId;
use gantry_model::assignment::{Item, ItemKey};
use gantry_model::phase::{Desired, Phase};

use super::harness::{Place, item, wanted};
use crate::testing::server::Cluster;
use crate::testing::{node, until};

fn first(items: Vec<Item>) -> Vec<Item> {
    std::iter::once(Item::Node(node())).chain(items).collect()
}

#[tokio::test]
async fn a_session_says_hello_and_keeps_its_heart_beating() {
    let cluster = Cluster::new();
    let server = cluster.server().await;
    server.state().first = first(vec![]);
    let place = Place::new();
    let agent = place.start_in(&cluster, vec![server.address.to_string()]);
    until("the first set is acknowledged", || server.is_acknowledged()).await;
    until("three heartbeats", || {
        let beats = |(_, message): &&(u32, Message)| matches!(message, Message::Heartbeat(_));
        server.state().heard.iter().filter(beats).count() >= 3
    })
    .await;
    {
        let state = server.state();
        assert!(
            matches!(&state.heard[0].1, Message::Hello(hello) if hello.name == "alpha"),
            "hello comes first"
        );
        let has_inventory = state.heard.iter().any(
            |(_, message)| matches!(message, Message::Inventory(inventory) if inventory.images[0].digest == "sha256:0"),
        );
        assert!(has_inventory);
    }
    agent.stop().await;
}

#[tokio::test]
async fn replicas_are_reported_and_a_burst_shares_messages() {
    let cluster = Cluster::new();
    let server = cluster.server().await;
    server.state().first = first((1..=50).map(item).collect());
    let place = Place::new();
    let agent = place.start_in(&cluster, vec![server.address.to_string()]);
    until("all run", || {
        (1..=50).all(|id| {
            let observed = server.observed(ReplicaId(id));
            observed.is_some_and(|observed| observed.phase == Phase::Running && observed.ready)
        })
    })
    .await;
    let messages = {
        let state = server.state();
        state
            .heard
            .iter()
            .filter(|(_, message)| matches!(message, Message::Statuses(_)))
            .count()
    };
    assert!(
        messages < 150,
        "50 replicas of at least 3 phases took {messages} messages"
    );
    agent.stop().await;
}

#[tokio::test]
async fn increments_are_acknowledged_and_a_gap_is_noticed() {
    let cluster = Cluster::new();
    let server = cluster.server().await;
    server.state().first = first(vec![item(1)]);
    let place = Place::new();
    let agent = place.start_in(&cluster, vec![server.address.to_string()]);
    until("the first set is acknowledged", || server.is_acknowledged()).await;
    server.send(vec![item(2)], vec![], 0);
    until("the increment is acknowledged", || server.is_acknowledged()).await;
    server.send(vec![], vec![ItemKey::Replica(ReplicaId(1))], 1);
    until("a complete set is asked for", || {
        let asks = |(_, message): &(u32, Message)| matches!(message, Message::Applied(applied) if applied.resync);
        server.state().heard.iter().any(asks)
    })
    .await;
    until("the gap changed nothing: the first replica runs", || {
        place.machine.container(1).is_some()
    })
    .await;
    server.send_complete(first(vec![item(1), item(2)]));
    until("the complete set is acknowledged", || server.is_acknowledged()).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_lost_session_is_taken_up_again_and_everything_is_told_again() {
    let cluster = Cluster::new();
    let server = cluster.server().await;
    server.state().first = first(vec![item(1)]);
    let place = Place::new();
    let agent = place.start_in(&cluster, vec![server.address.to_string()]);
    until("it runs", || {
        server
            .observed(ReplicaId(1))
            .is_some_and(|observed| observed.phase == Phase::Running)
    })
    .await;
    server.state().heard.clear();
    server.hang_up();
    until("a second session", || server.state().sessions == 2).await;
    until("it is told again", || {
        server.observed(ReplicaId(1)).is_some_and(|observed| observed.ready)
    })
    .await;
    until("the set of the new session is acknowledged", || {
        server.is_acknowledged()
    })
    .await;
    assert_eq!(place.machine.state().launches, 1, "the container noticed nothing");
    server.send(vec![wanted(1, Desired::Remove)], vec![], 0);
    until("the removal is told", || server.is_removed(ReplicaId(1))).await;
    agent.stop().await;
}

#[tokio::test]
async fn the_leader_that_a_server_names_is_followed() {
    let cluster = Cluster::new();
    let (follower, leader) = (cluster.server().await, cluster.server().await);
    follower.state().leader = Some(leader.address.to_string());
    leader.state().first = first(vec![item(1)]);
    let place = Place::new();
    let agent = place.start_in(&cluster, vec![follower.address.to_string()]);
    until("a session with the leader", || leader.state().sessions == 1).await;
    until("its set is acknowledged", || leader.is_acknowledged()).await;
    assert_eq!(follower.state().sessions, 0);
    agent.stop().await;
}

#[tokio::test]
async fn a_server_of_another_cluster_is_not_believed() {
    let (cluster, stranger) = (Cluster::new(), Cluster::new());
    let (impostor, server) = (stranger.server().await, cluster.server().await);
    impostor.state().first = first(vec![item(1)]);
    server.state().first = first(vec![]);
    let place = Place::new();
    let servers = vec![impostor.address.to_string(), server.address.to_string()];
    let agent = place.start_in(&cluster, servers);
    until("a session with the right one", || server.state().sessions == 1).await;
    assert_eq!(impostor.state().sessions, 0);
    agent.stop().await;
}
