//! Servers come and go while the cluster works.

use gantry_raft::{ChangeError, Voting};

use crate::harness::{Cluster, eventually, id, put_all};

#[tokio::test(flavor = "multi_thread")]
async fn one_server_grows_to_three_and_the_first_leaves_under_load() {
    let mut cluster = Cluster::of(1, |_| ()).await;
    let first = cluster.server(id(1));
    let writer = tokio::spawn({
        let first = first.clone();
        async move { put_all(&first, 1..=400).await }
    });
    for number in [2, 3] {
        cluster.start(id(number)).await;
        // Asked of the newcomer it could not work: it does not know anybody yet.
        first.add_server(id(number), format!("server-{number}")).await.unwrap();
        first.promote(id(number)).await.unwrap();
        first.promote(id(number)).await.unwrap();
    }
    writer.await.unwrap();
    let third = cluster.server(id(3));
    assert_eq!(third.members().voters().count(), 3);
    // The leader itself, asked of another: it hands over first.
    third.remove(id(1)).await.unwrap();
    cluster.stop(id(1)).await;
    let leader = cluster.leader().await;
    assert_ne!(leader, id(1));
    put_all(&third, 401..=420).await;
    assert_eq!(cluster.converged().await.tags().count(), 420);
    assert!(third.members().get(id(1)).is_none());
    third.remove(id(1)).await.unwrap();
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demoted_server_follows_without_a_vote() {
    let cluster = Cluster::of(3, |_| ()).await;
    let leader = cluster.leader().await;
    let asked = cluster.server(cluster.others(leader)[0]);
    asked.demote(leader).await.unwrap();
    assert_ne!(cluster.leader().await, leader);
    put_all(&asked, 1..=10).await;
    cluster.converged().await;
    let member = |server: &gantry_raft::Replicated| server.members().get(leader).map(|member| member.voting);
    assert_eq!(member(&asked), Some(Voting::Learner));
    assert_eq!(
        asked.transfer_leader(Some(leader)).await,
        Err(ChangeError::NotVoter(leader))
    );
    asked.promote(leader).await.unwrap();
    eventually("promotion to be known", || async {
        (member(&asked) == Some(Voting::Voter)).then_some(())
    })
    .await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_refused_with_the_reason() {
    let cluster = Cluster::of(1, |_| ()).await;
    let only = cluster.server(id(1));
    assert_eq!(only.remove(id(1)).await, Err(ChangeError::LastVoter(id(1))));
    assert_eq!(only.demote(id(1)).await, Err(ChangeError::LastVoter(id(1))));
    assert_eq!(only.promote(id(9)).await, Err(ChangeError::NotFound(id(9))));
    assert_eq!(only.transfer_leader(None).await, Err(ChangeError::NoSuccessor));
    assert_eq!(
        only.transfer_leader(Some(id(9))).await,
        Err(ChangeError::NotFound(id(9)))
    );
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_that_is_not_there_is_not_promoted() {
    let cluster = Cluster::of(1, |options| options.change_deadline_ms = 1500).await;
    let only = cluster.server(id(1));
    put_all(&only, 1..=1100).await;
    only.add_server(id(7), "nowhere").await.unwrap();
    assert!(matches!(
        only.promote(id(7)).await,
        Err(ChangeError::Behind { .. } | ChangeError::NoLeader { .. })
    ));
    assert_eq!(only.members().get(id(7)).unwrap().voting, Voting::Learner);
    put_all(&only, 1101..=1110).await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_sees_who_is_away() {
    let cluster = Cluster::of(3, |_| ()).await;
    let leader = cluster.leader().await;
    let away = cluster.others(leader)[0];
    put_all(&cluster.server(leader), 1..=5).await;
    cluster.net.part(&[away], &cluster.others(away));
    put_all(&cluster.server(leader), 6..=10).await;
    eventually("absence to be noticed", || async {
        let members = cluster.server(leader).members();
        let gone = members.get(away)?;
        (gone.reachable == Some(false) && gone.matched < Some(members.last_index)).then_some(())
    })
    .await;
    cluster.net.heal();
    eventually("return to be noticed", || async {
        let members = cluster.server(leader).members();
        let back = members.get(away)?;
        (back.reachable == Some(true) && back.matched == Some(members.last_index)).then_some(())
    })
    .await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_moved_is_reached_at_its_new_address() {
    let cluster = Cluster::of(3, |_| ()).await;
    cluster.server(id(1)).add_server(id(3), "elsewhere").await.unwrap();
    put_all(&cluster.server(id(2)), 1..=5).await;
    cluster.converged().await;
    for server in cluster.servers() {
        assert_eq!(server.members().get(id(3)).unwrap().address, "elsewhere");
    }
    cluster.stop_all().await;
}
