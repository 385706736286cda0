//! Changes as they happen: first the present state, then every change, without a gap.

use std::sync::Arc;

use gantry_api::v1::{WatchReply, WatchRequest};
use gantry_model::{Class, Problem};
use gantry_raft::{ChangeFeed, FeedError, Update};
use gantry_rpc::status::from_problem;
use gantry_state::{Change, State, Table};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::proxy::Answers;
use super::read;
use crate::context::Context;

/// Replies waiting for one watcher; a slower one holds back its own feed only.
const REPLIES_MAX: usize = 256;

type Sender = mpsc::Sender<Result<WatchReply, Status>>;

struct Watch {
    kinds: Vec<(String, Table)>,
    namespace: String,
    replies: Sender,
}

/// Starts a watch.
///
/// # Errors
/// A kind that cannot be watched.
pub fn watch(context: &Arc<Context>, request: WatchRequest) -> Result<Answers<WatchReply>, Problem> {
    let kinds = request
        .kinds
        .iter()
        .map(|kind| watched(kind))
        .collect::<Result<Vec<_>, Problem>>()?;
    let (replies, receiver) = mpsc::channel(REPLIES_MAX);
    let watch = Watch {
        kinds,
        namespace: request.namespace,
        replies,
    };
    let context = context.clone();
    tokio::spawn(async move { watch.run(&context, request.only_changes).await });
    Ok(Box::pin(ReceiverStream::new(receiver)))
}

fn watched(kind: &str) -> Result<(String, Table), Problem> {
    let events = (kind == "event").then_some(Table::Cluster);
    let table = read::table(kind).or(events);
    table.map(|table| (kind.to_string(), table)).ok_or_else(|| {
        Problem::new(Class::Invalid, format!("kind {kind}"), "cannot be watched")
            .remedy("use node, service, replica, revision, image, tag or event")
    })
}

impl Watch {
    /// Ends when the watcher is gone, or with the server.
    async fn run(self, context: &Context, only_changes: bool) {
        let (state, mut feed) = context.raft.watch_from();
        let present = if only_changes {
            Ok(())
        } else {
            self.present(&state).await
        };
        if present.is_err() || self.synced(&state).await.is_err() {
            return;
        }
        let mut events_seen = last_event(&state);
        loop {
            let update = tokio::select! {
                () = self.replies.closed() => return,
                update = feed.next() => update,
            };
            let sent = match update {
                Ok(Update::Changes { state, changes }) => self.tell(&state, &changes, &mut events_seen).await,
                Ok(Update::Reset { state }) => self.start_over(&state).await,
                Err(FeedError::Lagged) => {
                    let (state, fresh): (State, ChangeFeed) = context.raft.watch_from();
                    feed = fresh;
                    self.start_over(&state).await
                }
                Err(FeedError::Closed) => {
                    let problem = Problem::new(Class::Unavailable, "watch", "this server stops");
                    let _ = self.replies.send(Err(from_problem(&problem))).await;
                    return;
                }
            };
            if sent.is_err() {
                return;
            }
        }
    }

    async fn start_over(&self, state: &State) -> Result<(), ()> {
        self.present(state).await?;
        self.synced(state).await
    }

    async fn present(&self, state: &State) -> Result<(), ()> {
        for (kind, _) in &self.kinds {
            let filter = read::Filter {
                kind,
                namespace: &self.namespace,
                name: "",
            };
            for document in read::documents(state, &filter).unwrap_or_default() {
                let reply = WatchReply {
                    document: Some(document),
                    revision: state.revision(),
                    ..WatchReply::default()
                };
                self.send(reply).await?;
            }
        }
        Ok(())
    }

    async fn synced(&self, state: &State) -> Result<(), ()> {
        self.send(WatchReply {
            synced: true,
            revision: state.revision(),
            ..WatchReply::default()
        })
        .await
    }

    async fn tell(&self, state: &State, changes: &[Change], events_seen: &mut u64) -> Result<(), ()> {
        for change in changes {
            if !self
                .kinds
                .iter()
                .any(|(kind, table)| kind != "event" && *table == change.key.table())
            {
                continue;
            }
            let deleted = change.after.is_none();
            let Some(object) = change.after.as_ref().or(change.before.as_ref()) else {
                continue;
            };
            let Some(document) = read::document_of(object, &self.namespace) else {
                continue;
            };
            self.send(WatchReply {
                document: Some(document),
                deleted,
                revision: change.revision,
                synced: false,
            })
            .await?;
        }
        if self.kinds.iter().any(|(kind, _)| kind == "event") {
            let new: Vec<_> = state
                .events()
                .rev()
                .take_while(|event| event.sequence > *events_seen)
                .collect();
            for event in new.into_iter().rev() {
                let document = gantry_api::encode("event", event.as_ref());
                let reply = WatchReply {
                    document: Some(document),
                    revision: state.revision(),
                    ..WatchReply::default()
                };
                self.send(reply).await?;
            }
            *events_seen = last_event(state);
        }
        Ok(())
    }

    async fn send(&self, reply: WatchReply) -> Result<(), ()> {
        self.replies.send(Ok(reply)).await.map_err(|_| ())
    }
}

fn last_event(state: &State) -> u64 {
    state.events().next_back().map_or(0, |event| event.sequence)
}
