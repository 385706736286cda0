//! Servers far behind catch up by a snapshot.

use gantry_raft::Update;

use crate::harness::{Cluster, eventually, id, key, put_all, tag};

fn small(options: &mut gantry_raft::Options) {
    options.snapshot_every = 30;
    options.keep_entries = 5;
}

fn snapshot_files(cluster: &Cluster, number: u64) -> usize {
    std::fs::read_dir(cluster.dir(id(number)).join("snapshots"))
        .unwrap()
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_cut_off_beyond_the_log_catches_up_by_snapshot_and_its_feed_starts_anew() {
    let cluster = Cluster::of(3, small).await;
    let leader = cluster.leader().await;
    let away = cluster.others(leader)[0];
    let (_, mut feed) = cluster.server(away).watch_from();
    cluster.net.part(&[away], &cluster.others(away));
    put_all(&cluster.server(leader), 1..=500).await;
    eventually("a snapshot", || async {
        (snapshot_files(&cluster, leader.0) > 0).then_some(())
    })
    .await;
    cluster.net.heal();
    let state = cluster.converged().await;
    assert_eq!(state.tags().count(), 500);
    let reset = tokio::time::timeout(crate::harness::PATIENCE, async {
        loop {
            match feed.next().await.expect("it keeps up") {
                Update::Reset { state } => return state,
                Update::Changes { .. } => {}
            }
        }
    });
    let reset = reset.await.expect("the log it needs was purged, so it is reset");
    assert!(reset.tag(&tag(1)).is_some());
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_server_starts_from_a_snapshot_and_restarts_from_its_own() {
    let mut cluster = Cluster::of(1, small).await;
    let first = cluster.server(id(1));
    put_all(&first, 1..=300).await;
    cluster.start(id(2)).await;
    first.add_server(id(2), "server-2").await.unwrap();
    first.promote(id(2)).await.unwrap();
    cluster.converged().await;
    cluster.stop(id(2)).await;
    assert_eq!(
        snapshot_files(&cluster, 2),
        1,
        "older ones and half received ones are gone"
    );
    // One of two voters: nothing can be written until it is back.
    let second = cluster.start(id(2)).await;
    assert!(
        second.state().get(&key(300)).is_some(),
        "it has its state before anybody tells it anything"
    );
    put_all(&second, 301..=310).await;
    assert_eq!(cluster.converged().await.tags().count(), 310);
    cluster.stop_all().await;
}
