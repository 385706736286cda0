//! What the kernel is told about connections that outlive their replica: a table of its own, which depends on the pools alone and
//! so stays while endpoints come and go.
//!
//! The kernel keeps a connection's translation for a while after its end, and sends a new connection from the same port of the
//! same client where the old one went: to a replica that is gone by then. After an orderly end it looks anew, but not
//! - after a reset by the server, for `nf_conntrack_tcp_timeout_close`, which is 10 s: that time becomes 0 for ours;
//! - while it waits for the end of a connection whose server vanished in between, up to 120 s: whatever a client still sends
//!   there is answered by a reset, which ends the connection on the way back.
//!
//! **Invariant:** connections that this node does not translate keep the machine's settings.

use crate::Plan;

/// The whole table, replacing whatever a table of that name holds.
#[must_use]
pub fn render_flows(plan: &Plan, table: &str) -> String {
    let (replicas, subnet, marker) = (plan.replica_pool, plan.gateway.subnet, flows_marker(plan));
    // To the routes the node itself is as little a way out as a replica that is gone.
    let gateway = plan.gateway.address;
    format!(
        "add table ip {table}\n\
         delete table ip {table}\n\
         add table ip {table}\n\
         add chain ip {table} {marker}\n\
         add ct timeout ip {table} brief {{ protocol tcp; l3proto ip; policy = {{ close : 0 }}; }}\n\
         add chain ip {table} post {{ type filter hook postrouting priority 90; policy accept; }}\n\
         add rule ip {table} post ct state new ct status dnat meta l4proto tcp ip daddr {replicas} ct timeout set \"brief\"\n\
         add chain ip {table} strays {{ type filter hook prerouting priority -90; policy accept; }}\n\
         add rule ip {table} strays ip daddr {subnet} ip daddr != {gateway} tcp flags & (syn | rst) == 0 fib daddr oif missing reject with tcp reset\n"
    )
}

/// An empty chain whose presence says that the table is as this plan wants it.
#[must_use]
pub fn flows_marker(plan: &Plan) -> String {
    let words = format!("v2_{}_{}", plan.replica_pool, plan.gateway.subnet);
    words.replace(['.', '/'], "_")
}
