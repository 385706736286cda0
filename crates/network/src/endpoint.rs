//! A network namespace on a link of its own to the node: what replicas and containers run by hand have alike.
//!
//! **Invariant:** attaching may be repeated: what is there is kept, what is missing is added.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use gantry_model::net::Ipv4Net;
use gantry_netplan::Gateway;
use nix::errno::Errno;
use rtnetlink::packet_route::address::AddressFlags;

use crate::error::errno;
use crate::links::{Link, Links, REPLICA_LINK, Veth};
use crate::routes::Target;
use crate::{NetworkError, namespace, node};

/// What a namespace gets.
pub(crate) struct Endpoint<'a> {
    /// Name of the node's end of its link.
    pub(crate) name: &'a str,
    /// Its address.
    pub(crate) address: Ipv4Addr,
    /// The node as it sees it.
    pub(crate) gateway: Gateway,
    pub(crate) mtu: u32,
}

/// Gives the namespace kept at `path`, which is made when missing, its link, address and routes.
pub(crate) async fn attach(links: &Links, path: &Path, endpoint: &Endpoint<'_>) -> Result<(), NetworkError> {
    let (address, gateway) = (endpoint.address, endpoint.gateway);
    let inside = namespace::open_or_create(path).await?;
    let veth = Veth {
        name: endpoint.name,
        namespace: &inside.file,
        gateway: gateway.address,
        address,
        mtu: endpoint.mtu,
    };
    if inside.is_fresh {
        add_fresh(links, &veth).await?;
    } else if links.find(endpoint.name).await?.is_none() {
        links.add_veth(&veth).await?;
    }
    ready_inside(&inside.links, address, gateway).await?;
    // The route comes last: it takes the address from whoever had it before, should a link linger.
    let link = existing(links, endpoint.name).await?;
    node::ready_replica(links, &link, address, gateway.address).await
}

/// The kernel takes its time to end a namespace that was let go; the link that led there lingers under the same name.
async fn add_fresh(links: &Links, veth: &Veth<'_>) -> Result<(), NetworkError> {
    match links.add_veth(veth).await {
        Err(NetworkError::Netlink { source, .. }) if errno(&source) == Some(Errno::EEXIST) => {
            links.delete(veth.name).await?;
            links.add_veth(veth).await
        }
        added => added,
    }
}

async fn ready_inside(inside: &Links, address: Ipv4Addr, gateway: Gateway) -> Result<(), NetworkError> {
    let loopback = existing(inside, "lo").await?;
    inside.set_up(&loopback).await?;
    let link = existing(inside, REPLICA_LINK).await?;
    inside.set_up(&link).await?;
    // No route to the subnet comes with the address, since the link leads to the gateway alone.
    let (prefix, flags) = (gateway.subnet.prefix(), AddressFlags::Noprefixroute);
    inside.ensure_address(&link, address, prefix, flags).await?;
    inside.set_neighbour(&link, gateway.address).await?;
    let next_hop = Ipv4Net::new(gateway.address, 32);
    inside.set_route(next_hop, Target::Link(link.index, address)).await?;
    let everywhere = Ipv4Net::new(Ipv4Addr::UNSPECIFIED, 0);
    inside
        .set_route(everywhere, Target::Via(IpAddr::V4(gateway.address)))
        .await?;
    Ok(())
}

async fn existing(links: &Links, name: &str) -> Result<Link, NetworkError> {
    let missing = || NetworkError::LinkMissing { name: name.to_string() };
    links.find(name).await?.ok_or_else(missing)
}
