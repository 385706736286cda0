//! Changes arrive in order and without a gap, from any server, whenever one starts to watch.

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_raft::{ChangeFeed, FEED_UPDATES_MAX, FeedError, Replicated, Update};
use gantry_state::{Key, Object, State};

use crate::harness::{Cluster, PATIENCE, id, put, put_all};

/// What a reader knows that only follows the changes.
struct Copy {
    tags: BTreeMap<Key, Arc<Object>>,
    revision: u64,
}

impl Copy {
    fn of(state: &State) -> Self {
        let stored = state.table(gantry_state::Table::Tag);
        Self {
            tags: stored
                .map(|stored| (stored.object.key(), stored.object.clone()))
                .collect(),
            revision: state.revision(),
        }
    }

    fn follow(&mut self, update: Update) {
        match update {
            Update::Reset { state } => *self = Self::of(&state),
            Update::Changes { state, changes } => {
                assert!(state.revision() > self.revision);
                for change in changes.iter() {
                    assert!(change.revision > self.revision || changes.len() > 1);
                    assert_eq!(
                        self.tags.get(&change.key),
                        change.before.as_ref(),
                        "a change before this one is missing"
                    );
                    match &change.after {
                        Some(after) => self.tags.insert(change.key.clone(), after.clone()),
                        None => self.tags.remove(&change.key),
                    };
                }
                self.revision = state.revision();
                assert_eq!(self.tags.len(), state.tags().count());
            }
        }
    }
}

async fn follow_until(state: State, mut feed: ChangeFeed, revision: u64) -> Copy {
    let mut copy = Copy::of(&state);
    let following = async {
        while copy.revision < revision {
            copy.follow(feed.next().await.expect("it keeps up"));
        }
    };
    tokio::time::timeout(PATIENCE, following)
        .await
        .expect("the feed reaches the revision");
    copy
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_start_at_any_time_on_any_server_miss_nothing() {
    let cluster = Cluster::of(3, |_| ()).await;
    let servers = cluster.servers();
    let writers: Vec<_> = (0..8u64)
        .map(|writer| {
            let server = servers[writer as usize % 3].clone();
            tokio::spawn(async move { put_all(&server, (0..40).map(|number| writer % 3 * 1000 + number)).await })
        })
        .collect();
    let mut watches = Vec::new();
    for _ in 0..10 {
        watches.extend(servers.iter().map(Replicated::watch_from));
        tokio::task::yield_now().await;
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let last = cluster.converged().await;
    for (state, feed) in watches {
        let copy = follow_until(state, feed, last.revision()).await;
        assert_eq!(copy.tags, Copy::of(&last).tags);
    }
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_read_is_cut_off_and_nobody_waits_for_it() {
    let cluster = Cluster::of(1, |_| ()).await;
    let server = cluster.server(id(1));
    let (_, mut lazy) = server.watch_from();
    let mut number = 0;
    while number <= FEED_UPDATES_MAX as u64 + 10 {
        server.propose(put(number)).await.unwrap();
        number += 1;
    }
    let ended = loop {
        if let Err(error) = lazy.next().await {
            break error;
        }
    };
    assert_eq!(ended, FeedError::Lagged);
    let (state, mut fresh) = server.watch_from();
    assert_eq!(state.tags().count() as u64, number);
    cluster.stop_all().await;
    assert_eq!(fresh.next().await.unwrap_err(), FeedError::Closed);
}
