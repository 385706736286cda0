//! A minority accepts nothing and serves nothing stale; healed, all agree.

use gantry_raft::{ProposeError, ReadError};

use crate::harness::{Cluster, committed, put, put_all, tag};

#[tokio::test(flavor = "multi_thread")]
async fn a_minority_with_the_old_leader_neither_writes_nor_reads() {
    let cluster = Cluster::of(5, |options| options.deadline_ms = 3000).await;
    let old = cluster.leader().await;
    let others = cluster.others(old);
    let (minority, majority) = ([old, others[0]], &others[1..]);
    put_all(&cluster.server(old), 1..=10).await;
    cluster.net.part(&minority, majority);
    let new = cluster.leader_among(majority).await;
    committed(cluster.server(new).propose(put(1000)).await);
    for id in minority {
        let server = cluster.server(id);
        let (read, written) = tokio::join!(server.linearizable(), server.propose(put(2000 + id.0)));
        assert_eq!(read.unwrap_err(), ReadError::NoLeader { waited_ms: 3000 });
        assert!(matches!(
            written.unwrap_err(),
            ProposeError::NoLeader { .. } | ProposeError::Unknown { .. }
        ));
        assert!(
            server.state().tag(&tag(1000)).is_none(),
            "the state it has is older, and it did not serve it as current"
        );
    }
    for id in majority {
        assert!(
            cluster
                .server(*id)
                .linearizable()
                .await
                .unwrap()
                .tag(&tag(1000))
                .is_some()
        );
    }
    cluster.net.heal();
    for id in cluster.ids() {
        assert!(
            cluster
                .server(id)
                .linearizable()
                .await
                .unwrap()
                .tag(&tag(1000))
                .is_some()
        );
    }
    let state = cluster.converged().await;
    assert!((1..=10).all(|number| state.tag(&tag(number)).is_some()));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_linearizable_read_anywhere_sees_the_write_acknowledged_just_before() {
    let cluster = Cluster::of(3, |_| ()).await;
    let servers = cluster.servers();
    for number in 1..=60 {
        let (writer, reader) = (&servers[number as usize % 3], &servers[(number as usize + 1) % 3]);
        committed(writer.propose(put(number)).await);
        assert!(
            writer.state().tag(&tag(number)).is_some(),
            "a server reads its own write"
        );
        assert!(reader.linearizable().await.unwrap().tag(&tag(number)).is_some());
    }
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_alone_does_not_disturb_the_leader_when_it_returns() {
    let cluster = Cluster::of(3, |_| ()).await;
    let leader = cluster.leader().await;
    let alone = cluster.others(leader)[0];
    let term = cluster.server(leader).leadership().borrow().term;
    cluster.net.part(&[alone], &cluster.others(alone));
    // Long enough for it to stand for election several times: without pre-vote each try would raise its term.
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    cluster.net.heal();
    put_all(&cluster.server(alone), 1..=20).await;
    cluster.converged().await;
    assert_eq!(cluster.server(leader).leadership().borrow().term, term);
    assert_eq!(cluster.leader().await, leader);
    cluster.stop_all().await;
}
