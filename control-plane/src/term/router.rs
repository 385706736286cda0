//! Follows the state for all sessions of a term: each change is looked at once, however many nodes there are.

use std::sync::Arc;

use gantry_raft::{ChangeFeed, FeedError, Update};

use super::shared::TermHandle;
use crate::context::Context;

/// Routes changes until the term, or the server, ends. The feed begins where the handle did.
pub async fn route(context: Arc<Context>, term: Arc<TermHandle>, mut feed: ChangeFeed) {
    loop {
        let update = tokio::select! {
            () = term.ended.cancelled() => return,
            update = feed.next() => update,
        };
        match update {
            Ok(Update::Changes { state, changes }) => term.changed(state, &changes),
            Ok(Update::Reset { state }) => term.start_over(state),
            Err(FeedError::Lagged) => {
                let (state, fresh) = context.raft.watch_from();
                feed = fresh;
                term.start_over(state);
            }
            Err(FeedError::Closed) => return,
        }
    }
}
