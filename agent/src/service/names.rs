//! What images are called here, settled with the cluster: with each session, and some time after images came or went while there are
//! names that the cluster has not acknowledged.
//!
//! Not yet: a name alone, of an image that is here, does not wake this; when it cannot be told at once, it waits for one of the two.
//!
//! **Invariant:** a name goes only because the cluster said that it has it no more.

use gantry_api::v1::RemoveImageRequest;
use gantry_model::{Class, Problem};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{NodeService, images};
use crate::drivers::blocking;
use crate::limits::{NAMES_AFTER, NAMES_AGAIN_AFTER};

/// Does it until shutdown; `sessions` changes with each session.
pub(crate) async fn settle(service: &NodeService, mut sessions: watch::Receiver<u64>, shutdown: &CancellationToken) {
    let mut inventory = service.images.inventory();
    let mut again = NAMES_AFTER;
    loop {
        let clock = &service.shared.clock;
        let has_made = service.images.has_unsettled();
        let at = has_made.then(|| clock.now().after(again));
        let next = tokio::select! {
            () = shutdown.cancelled() => return,
            opened = sessions.changed() => match opened {
                Ok(()) => NAMES_AFTER,
                Err(_) => return,
            },
            changed = inventory.changed() => match changed {
                // Names that came are mostly told by whoever brought them.
                Ok(()) => {
                    again = NAMES_AFTER;
                    continue;
                }
                Err(_) => return,
            },
            () = clock.sleep_until(at) => NAMES_AGAIN_AFTER,
        };
        let settled = shutdown.run_until_cancelled(settle_once(service)).await;
        again = match settled {
            Some(Ok(())) => next,
            Some(Err(problem)) => {
                tracing::debug!(%problem, "names of images could not be settled");
                NAMES_AFTER
            }
            None => return,
        };
    }
}

/// Tells the cluster of names that it does not know, and forgets those that it does not have any more.
async fn settle_once(service: &NodeService) -> Result<(), Problem> {
    let images = service.images.clone();
    let request = blocking(move || images.unsettled()).await;
    if request.known.is_empty() && request.made.is_empty() {
        return Ok(());
    }
    for image in service.images.settle(&request).await? {
        tracing::info!(image, "the cluster does not call an image so any more");
        let asked = RemoveImageRequest {
            image: image.clone(),
            force: false,
        };
        match images::remove(service, asked).await {
            Ok(_) => {}
            Err(problem) if problem.class == Class::NotFound => {}
            // The next session says it again.
            Err(problem) => tracing::warn!(%problem, image, "a name that the cluster does not have stays here"),
        }
    }
    Ok(())
}
