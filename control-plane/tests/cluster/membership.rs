//! Servers join, leave, restart and fail over.

use std::time::Duration;

use gantry_api::v1::ChangeServerRequest;
use gantry_api::v1::change_server_request::Action;
use gantry_api::v1::cluster_client::ClusterClient;
use gantry_rpc::{Repeat, WithLimits};

use crate::servers::Cluster;

/// Well below the time for which a read looks for a leader.
const SOON: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread")]
async fn three_servers_form_a_cluster_and_survive_the_loss_of_their_leader() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let before = cluster.status().await.expect("a status").leader;
    cluster.servers[leader].stop().await;
    let status = cluster
        .until(|status| !status.leader.is_empty() && status.leader != before)
        .await;
    assert_eq!(status.name, "test");
    assert_eq!(status.servers.len(), 3, "a stopped server stays a member");
    cluster.servers[leader].start(None);
    let tokens = cluster.read("token").await.expect("tokens are readable").items.len();
    assert_eq!(tokens, 2, "what was stored at initialisation is there on every leader");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_server_is_no_member_any_more() {
    let cluster = Cluster::start(3).await;
    let gone = cluster.servers[2].address.to_string();
    let request = ChangeServerRequest {
        action: Action::Remove.into(),
        server: gone.clone(),
        address: String::new(),
    };
    // Asked of the very server that goes: it has no leader afterwards, and must not wait for one before it answers.
    cluster.pool.set_addresses(vec![gone.clone()]);
    let removing = cluster.pool.call(Repeat::OnlyUnsent, |channel| {
        let request = request.clone();
        async move { ClusterClient::new(channel).with_limits().change_server(request).await }
    });
    tokio::time::timeout(SOON, removing)
        .await
        .expect("it answers soon")
        .expect("the cluster agrees");
    cluster.pool.set_addresses(
        cluster.servers[..2]
            .iter()
            .map(|server| server.address.to_string())
            .collect(),
    );
    let status = cluster.until(|status| status.servers.len() == 2).await;
    assert!(status.servers.iter().all(|server| server.address != gone));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_server_keeps_its_state_over_a_restart() {
    let mut cluster = Cluster::start(1).await;
    let before = cluster.until(|status| !status.leader.is_empty()).await;
    cluster.servers[0].stop().await;
    cluster.servers[0].start(None);
    let after = cluster.until(|status| !status.leader.is_empty()).await;
    assert_eq!((before.name, before.leader), (after.name, after.leader));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_server_knows_which_of_them_are_there() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let (gone, asked) = match leader {
        0 => (1, 2),
        1 => (0, 2),
        _ => (0, 1),
    };
    let gone_address = cluster.servers[gone].address.to_string();
    cluster.servers[gone].stop().await;
    cluster
        .pool
        .set_addresses(vec![cluster.servers[asked].address.to_string()]);
    cluster
        .until(|status| {
            status
                .servers
                .iter()
                .all(|server| server.reachable == (server.address != gone_address))
        })
        .await;
}
