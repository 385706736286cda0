//! A connection that becomes something else, such as WebSocket: from then on bytes go both ways, unread.

use std::rc::Rc;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use crate::connection::Client;
use crate::upstream::Lease;

/// Joins both ends once both have switched. The lease makes the replica count as busy meanwhile.
pub(crate) fn join(client: Rc<Client>, from_client: OnUpgrade, from_replica: OnUpgrade, lease: Lease) {
    tokio::task::spawn_local(async move {
        let joined = async {
            let (one, other) = tokio::try_join!(from_client, from_replica).map_err(std::io::Error::other)?;
            client.slot.upgraded();
            tokio::io::copy_bidirectional(&mut TokioIo::new(one), &mut TokioIo::new(other)).await
        };
        if let Err(error) = joined.await {
            tracing::debug!(%error, "an upgraded connection ended");
        }
        drop(lease);
    });
}
