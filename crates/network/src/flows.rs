//! The table about connections that outlive their replica; what is in it and why: `gantry_netplan::render_flows`.
//!
//! **Invariant:** a table that is right is left alone. Replacing it would make the kernel forget which connections it had told.

use gantry_netplan::{Plan, flows_marker, render_flows};

use crate::{NetworkError, nft};

/// The name of the table that belongs to the table of rules.
pub(crate) fn table(rules: &str) -> String {
    format!("{rules}_flows")
}

/// Makes the table be there; replaces it in any case when it may have been changed.
pub(crate) async fn ready(table: &str, plan: &Plan, is_doubtful: bool) -> Result<(), NetworkError> {
    if !is_doubtful && nft::has_chain(table, &flows_marker(plan)).await? {
        return Ok(());
    }
    match nft::commit(table, &render_flows(plan, table)).await {
        Err(NetworkError::Rules { message, .. }) => {
            tracing::warn!(
                message,
                "this kernel cannot forget connections early: a client that uses a port again may be sent to a replica that is gone"
            );
            Ok(())
        }
        result => result,
    }
}
