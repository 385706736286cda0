//! Who leads: failover, handing over, and the promise of `is_leader`.

use std::time::Duration;

use gantry_env::{Env, System};
use gantry_model::ServerId;
use gantry_raft::Replicated;
use gantry_state::{Outcome, Precondition, Refusal};

use crate::harness::{Cluster, eventually, put, put_all};

#[tokio::test(flavor = "multi_thread")]
async fn another_server_leads_after_the_loss_of_the_leader() {
    let cluster = Cluster::of(3, |_| ()).await;
    let old = cluster.leader().await;
    put_all(&cluster.server(old), 1..=20).await;
    let lost_at = System.monotonic();
    cluster.net.part(&[old], &cluster.others(old));
    let new = cluster.leader_among(&cluster.others(old)).await;
    let took = System.monotonic().0 - lost_at.0;
    println!("another leader after {took} ms");
    let state = cluster.server(new).state();
    assert!((1..=20).all(|number| state.tag(&crate::harness::tag(number)).is_some()));
    put_all(&cluster.server(new), 21..=30).await;
    cluster.net.heal();
    cluster.converged().await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_cut_off_says_so_before_another_may_lead() {
    let cluster = Cluster::of(3, |_| ()).await;
    let old = cluster.leader().await;
    let others = cluster.others(old);
    let mut told = cluster.server(old).leadership();
    cluster.net.part(&[old], &others);
    let deposed = async {
        told.wait_for(|leadership| !leadership.is_leader)
            .await
            .map(|seen| seen.clone())
    };
    let leads = |id| cluster.server(id).leadership().borrow().is_leader;
    let seen = tokio::time::timeout(Duration::from_secs(20), deposed)
        .await
        .expect("it is told")
        .unwrap();
    assert!(!others.iter().any(|other| leads(*other)), "two leaders at once");
    assert_eq!(seen.leader, None);
    cluster.leader_among(&others).await;
    cluster.net.heal();
    cluster.converged().await;
    cluster.stop_all().await;
}

/// On a busy machine a successor may not have been heard of for a moment: asking again is harmless.
async fn hand_over(server: &Replicated, to: Option<ServerId>) {
    let asking = || async { server.transfer_leader(to).await.ok() };
    eventually("a successor", asking).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_moves_to_whom_it_is_given_and_writes_go_on() {
    let cluster = Cluster::of(3, |_| ()).await;
    let old = cluster.leader().await;
    let heir = cluster.others(old)[1];
    let follower = cluster.server(cluster.others(old)[0]);
    let writer = tokio::spawn({
        let follower = follower.clone();
        async move { put_all(&follower, 1..=300).await }
    });
    let term = |id| cluster.server(id).leadership().borrow().term;
    // Asked of a server that does not lead.
    let before = term(old);
    hand_over(&follower, Some(heir)).await;
    assert_eq!(cluster.leader_after(before).await, heir);
    let before = term(heir);
    hand_over(&follower, None).await;
    assert_ne!(cluster.leader_after(before).await, heir);
    writer.await.unwrap();
    assert_eq!(cluster.converged().await.tags().count(), 300);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_write_of_a_deposed_leader_is_refused_by_its_term() {
    let cluster = Cluster::of(3, |_| ()).await;
    let old = cluster.leader().await;
    let term = cluster.server(old).leadership().borrow().term;
    hand_over(&cluster.server(old), None).await;
    let new = cluster.leader_after(term).await;
    let now = cluster.server(new).leadership().borrow().term;
    let late = put(1).requiring(Precondition::Term(term));
    let outcome = cluster.server(old).propose(late).await.unwrap().outcome;
    assert_eq!(
        outcome,
        Outcome::Refused(Refusal::Term {
            wanted: term,
            actual: now
        })
    );
    let timely = put(1).requiring(Precondition::Term(now));
    assert!(matches!(
        cluster.server(old).propose(timely).await.unwrap().outcome,
        Outcome::Committed { .. }
    ));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_hands_over_at_once() {
    let cluster = Cluster::of(3, |_| ()).await;
    let old = cluster.leader().await;
    let others = cluster.others(old);
    let mut term = cluster.server(others[0]).leadership();
    let before = term.borrow_and_update().term;
    let stopped_at = System.monotonic();
    let (new, ()) = tokio::join!(
        eventually("successor", || async {
            others
                .iter()
                .copied()
                .find(|id| cluster.server(*id).leadership().borrow().is_leader)
        }),
        async { cluster.server(old).shutdown().await }
    );
    let took = System.monotonic().0 - stopped_at.0;
    println!("another server leads after {took} ms");
    assert!(cluster.server(new).leadership().borrow().term > before);
}
