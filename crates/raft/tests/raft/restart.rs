//! What was acknowledged is there after a restart.

use gantry_raft::{OpenError, Options, Replicated};

use crate::harness::{Cluster, id, put_all};

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_cluster_comes_back_with_its_state_and_its_members() {
    let mut cluster = Cluster::of(3, |_| ()).await;
    put_all(&cluster.server(id(2)), 1..=100).await;
    let before = cluster.converged().await;
    for id in cluster.ids() {
        cluster.stop(id).await;
    }
    for number in 1..=3 {
        cluster.start(id(number)).await;
    }
    cluster.leader().await;
    let after = cluster.converged().await;
    assert_eq!(crate::harness::keys(&after), crate::harness::keys(&before));
    assert!(after.events().eq(before.events()));
    assert_eq!(cluster.server(id(1)).members().voters().count(), 3);
    put_all(&cluster.server(id(3)), 101..=110).await;
    assert_eq!(cluster.converged().await.tags().count(), 110);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_restarted_one_after_the_other_never_stop_the_cluster() {
    let mut cluster = Cluster::of(3, |options| options.snapshot_every = 40).await;
    for round in 0..6u64 {
        let restarted = id(round % 3 + 1);
        cluster.stop(restarted).await;
        let up = cluster.ids()[0];
        put_all(&cluster.server(up), round * 50..(round + 1) * 50).await;
        cluster.start(restarted).await;
        put_all(&cluster.server(restarted), [10_000 + round]).await;
    }
    assert_eq!(cluster.converged().await.tags().count(), 306);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_in_use_or_of_another_server_is_refused() {
    let mut cluster = Cluster::of(1, |_| ()).await;
    let again = |number| {
        let options = Options::new(id(number), "again", cluster.dir(id(1)));
        Replicated::open(options, std::sync::Arc::new(Nowhere))
    };
    let error = again(1).await.err().expect("it is in use");
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    cluster.stop(id(1)).await;
    let error = again(2).await.err().expect("it is another's");
    assert!(matches!(error, OpenError::OtherServer { found, wanted, .. } if found == id(1) && wanted == id(2)));
    cluster.start(id(1)).await;
    cluster.stop_all().await;
}

/// For servers that fail to open.
pub struct Nowhere;

impl gantry_raft::Transport for Nowhere {
    fn call<'a>(
        &'a self,
        _: &'a gantry_raft::Peer,
        _: gantry_raft::Method,
        _: Vec<u8>,
        _: std::time::Duration,
    ) -> futures::future::BoxFuture<'a, Result<Vec<u8>, gantry_raft::TransportError>> {
        Box::pin(async { Err(gantry_raft::TransportError::NotSent("nobody is there".to_string())) })
    }

    fn send_snapshot<'a>(
        &'a self,
        _: &'a gantry_raft::Peer,
        _: tokio::sync::mpsc::Receiver<Vec<u8>>,
    ) -> futures::future::BoxFuture<'a, Result<Vec<u8>, gantry_raft::TransportError>> {
        Box::pin(async { Err(gantry_raft::TransportError::NotSent("nobody is there".to_string())) })
    }
}
