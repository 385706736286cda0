//! A transaction is applied at most once, and its proposer knows what it knows.

use gantry_raft::{Method, PROPOSAL_BYTES_MAX, ProposeError};
use gantry_state::{NewEvent, Op, Outcome, Precondition, Refusal, Transaction};

use crate::harness::{Cluster, committed, key, put};

fn record(kind: &str) -> Transaction {
    Transaction::new(
        gantry_model::Timestamp(1),
        vec![Op::Record(NewEvent::new("test", kind, ""))],
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_transaction_whose_answer_is_lost_is_applied_once_and_reported_as_unknown() {
    let cluster = Cluster::of(3, |_| ()).await;
    let follower = cluster.server(cluster.others(cluster.leader().await)[0]);
    cluster.net.lose_answers(Some(Method::Propose));
    for _ in 0..20 {
        assert!(matches!(
            follower.propose(record("once")).await,
            Err(ProposeError::Unknown { .. })
        ));
    }
    cluster.net.lose_answers(None);
    let state = cluster.converged().await;
    assert_eq!(state.events().filter(|event| event.kind == "once").count(), 20);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_or_doubled_while_leaders_come_and_go() {
    let cluster = Cluster::of(3, |_| ()).await;
    let writers: Vec<_> = cluster
        .servers()
        .into_iter()
        .enumerate()
        .map(|(writer, server)| {
            tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                for number in 0..150 {
                    let kind = format!("{writer}/{number}");
                    if server.propose(record(&kind)).await.is_ok() {
                        acknowledged.push(kind);
                    }
                }
                acknowledged
            })
        })
        .collect();
    for _ in 0..3 {
        let leader = cluster.leader().await;
        cluster.net.part(&[leader], &cluster.others(leader));
        cluster.leader_among(&cluster.others(leader)).await;
        cluster.net.heal();
        cluster.converged_leader().await;
    }
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    let state = cluster.converged().await;
    let mut counts = std::collections::BTreeMap::new();
    for event in state.events() {
        *counts.entry(event.kind.clone()).or_insert(0) += 1;
    }
    assert!(counts.values().all(|count| *count == 1), "{counts:?}");
    assert!(acknowledged.iter().all(|kind| counts.contains_key(kind)));
    assert!(
        acknowledged.len() > 300,
        "only {} of 450 were acknowledged",
        acknowledged.len()
    );
    cluster.stop_all().await;
}

impl Cluster {
    /// Waits until every server sees the same leader again.
    async fn converged_leader(&self) {
        crate::harness::eventually("agreement on the leader", || async {
            let leaders: Vec<_> = self
                .servers()
                .iter()
                .map(|server| server.leadership().borrow().leader.clone())
                .collect();
            leaders
                .iter()
                .all(|leader| leader.is_some() && leader == &leaders[0])
                .then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_exclude_each_other_one_is_refused_with_the_reason() {
    let cluster = Cluster::of(3, |_| ()).await;
    let servers = cluster.servers();
    for number in 1..=20 {
        let claim = || put(number).requiring(Precondition::Absent(key(number)));
        let (left, right) = tokio::join!(servers[0].propose(claim()), servers[1].propose(claim()));
        let outcomes = [left.unwrap().outcome, right.unwrap().outcome];
        let refused = Outcome::Refused(Refusal::Exists(key(number)));
        assert_eq!(
            outcomes.iter().filter(|outcome| **outcome == refused).count(),
            1,
            "{outcomes:?}"
        );
    }
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_too_large_for_one_message_is_refused_before_it_is_written() {
    let cluster = Cluster::of(1, |_| ()).await;
    let server = cluster.server(crate::harness::id(1));
    let large = |bytes: usize| {
        let event = NewEvent::new("test", "large", "x".repeat(bytes));
        Transaction::new(gantry_model::Timestamp(1), vec![Op::Record(event)])
    };
    committed(server.propose(large(PROPOSAL_BYTES_MAX - 200)).await);
    assert!(matches!(
        server.propose(large(PROPOSAL_BYTES_MAX)).await,
        Err(ProposeError::TooLarge { .. })
    ));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_server_says_that_it_stopped() {
    let cluster = Cluster::of(1, |_| ()).await;
    let server = cluster.server(crate::harness::id(1));
    let waiting = tokio::spawn({
        let server = server.clone();
        async move { server.stopped().await }
    });
    cluster.stop_all().await;
    assert!(matches!(
        server.propose(put(1)).await,
        Err(ProposeError::Stopped { .. })
    ));
    assert!(server.linearizable().await.is_err());
    assert!(!waiting.await.unwrap().is_empty());
    assert!(!server.leadership().borrow().is_leader);
}
