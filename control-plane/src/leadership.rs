//! Starts the leader's work when this server becomes leader, and ends it when it no longer is.

use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::registry::keep_copies;
use crate::term::{TermHandle, lead};

/// The term that this server leads.
struct Leading {
    handle: Arc<TermHandle>,
    controller: JoinHandle<()>,
}

/// Follows leadership until `stop`.
pub async fn follow(context: Arc<Context>, stop: CancellationToken) {
    let mut leadership = context.raft.leadership();
    let mut leading: Option<Leading> = None;
    loop {
        let now = leadership.borrow_and_update().clone();
        let continues = leading.as_ref().is_some_and(|leading| {
            now.is_leader && leading.handle.term == now.term && !leading.controller.is_finished()
        });
        if !continues {
            end(&context, leading.take()).await;
            if now.is_leader {
                leading = Some(begin(&context, now.term));
            }
        }
        let finished = async {
            match leading.as_mut() {
                Some(leading) => {
                    let _ = (&mut leading.controller).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => break,
            changed = leadership.changed() => if changed.is_err() { break },
            () = finished => {
                // The controller saw the end of the term before this watch did, or failed: look again.
                if let Some(ended) = leading.take() {
                    context.term.store(None);
                    ended.handle.ended.cancel();
                }
            }
        }
    }
    end(&context, leading.take()).await;
}

fn begin(context: &Arc<Context>, term: u64) -> Leading {
    let (handle, reports) = TermHandle::new(term);
    let handle = Arc::new(handle);
    context.term.store(Some(handle.clone()));
    let controller = tokio::spawn(lead(context.clone(), handle.clone(), reports));
    tokio::spawn(keep_copies(context.clone(), term, handle.ended.clone()));
    Leading { handle, controller }
}

async fn end(context: &Context, leading: Option<Leading>) {
    let Some(leading) = leading else { return };
    context.term.store(None);
    leading.handle.ended.cancel();
    if let Err(error) = leading.controller.await {
        tracing::error!(%error, "the controller ended badly");
    }
}
