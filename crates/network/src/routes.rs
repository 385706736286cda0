//! Routes to the other nodes' replicas and to the virtual addresses.
//!
//! **Invariant:** our routes carry a protocol number of their own; no other route is changed or removed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use futures::TryStreamExt;
use gantry_model::net::Ipv4Net;
use nix::errno::Errno;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType, RouteVia,
};

use crate::NetworkError;
use crate::error::{Act, errno};
use crate::links::Links;

/// Marks the routes of the service network (`ip route` shows `proto 103`); not taken in iproute2's rt_protos.
pub(crate) const SERVICE_PROTOCOL: RouteProtocol = RouteProtocol::Other(103);
/// Marks those of containers run by hand, so that neither network takes the other's for leftovers.
pub(crate) const LOCAL_PROTOCOL: RouteProtocol = RouteProtocol::Other(104);

/// Where a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// Through another node.
    Via(IpAddr),
    /// Straight out of a link, from this address.
    Link(u32, Ipv4Addr),
    /// Refused: addresses of ours that nobody has.
    Nowhere,
}

impl Links {
    /// Our routes as they are.
    pub(crate) async fn own_routes(&self) -> Result<BTreeMap<Ipv4Net, Target>, NetworkError> {
        let request = RouteMessageBuilder::<Ipv4Addr>::new().protocol(self.protocol).build();
        let routes: Result<Vec<RouteMessage>, _> = self.handle.route().get(request).execute().try_collect().await;
        let routes = routes.act(|| "reading routes".to_string())?;
        let own = |route: &&RouteMessage| {
            route.header.protocol == self.protocol && route.header.table == RouteHeader::RT_TABLE_MAIN
        };
        Ok(routes.iter().filter(own).filter_map(parse).collect())
    }

    /// Adds or replaces one of our routes; false when there is no way to the next hop.
    pub(crate) async fn set_route(&self, subnet: Ipv4Net, target: Target) -> Result<bool, NetworkError> {
        let route = self.build(subnet, target);
        match self.handle.route().add(route).replace().execute().await {
            Err(error) if is_unreachable(&error) => Ok(false),
            result => result.act(|| format!("adding the route to {subnet}")).map(|()| true),
        }
    }

    /// Removes one of our routes, if it is there.
    pub(crate) async fn delete_route(&self, subnet: Ipv4Net) -> Result<(), NetworkError> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(subnet.base(), subnet.prefix())
            .protocol(self.protocol)
            .scope(RouteScope::NoWhere)
            .kind(RouteType::Unspec)
            .build();
        match self.handle.route().del(route).execute().await {
            Err(error) if errno(&error) != Some(Errno::ESRCH) => {
                Err(error).act(|| format!("removing the route to {subnet}"))
            }
            _ => Ok(()),
        }
    }

    /// Index of the link through which the address is reached, if there is a way to it.
    pub(crate) async fn link_towards(&self, address: IpAddr) -> Result<Option<u32>, NetworkError> {
        let request = match address {
            IpAddr::V4(address) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(address, 32)
                .build(),
            IpAddr::V6(address) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
                .destination_prefix(address, 128)
                .build(),
        };
        match self.handle.route().get(request).execute().try_next().await {
            Ok(route) => Ok(route.as_ref().and_then(output_link)),
            Err(error) if is_unreachable(&error) => Ok(None),
            Err(error) => Err(error).act(|| format!("looking for the way to {address}")),
        }
    }

    /// Destinations of all routes that are not ours, default routes left out.
    pub(crate) async fn foreign_routes(&self) -> Result<Vec<Ipv4Net>, NetworkError> {
        let request = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let routes: Result<Vec<RouteMessage>, _> = self.handle.route().get(request).execute().try_collect().await;
        let routes = routes.act(|| "reading routes".to_string())?;
        let is_foreign = |route: &&RouteMessage| {
            route.header.protocol != self.protocol && route.header.destination_prefix_length > 0
        };
        let destination = |route: &RouteMessage| {
            let base = route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(*address),
                _ => None,
            })?;
            Some(Ipv4Net::new(base, route.header.destination_prefix_length))
        };
        Ok(routes.iter().filter(is_foreign).filter_map(destination).collect())
    }

    /// Links of the default routes.
    pub(crate) async fn default_links(&self) -> Result<BTreeSet<u32>, NetworkError> {
        let request = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let routes: Result<Vec<RouteMessage>, _> = self.handle.route().get(request).execute().try_collect().await;
        let routes = routes.act(|| "reading routes".to_string())?;
        let is_default = |route: &&RouteMessage| {
            route.header.destination_prefix_length == 0 && route.header.table == RouteHeader::RT_TABLE_MAIN
        };
        Ok(routes.iter().filter(is_default).filter_map(output_link).collect())
    }

    fn build(&self, subnet: Ipv4Net, target: Target) -> RouteMessage {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(subnet.base(), subnet.prefix())
            .protocol(self.protocol);
        match target {
            Target::Via(IpAddr::V4(via)) => route.gateway(via).build(),
            Target::Via(IpAddr::V6(via)) => route.via(via).build(),
            Target::Link(index, source) => {
                let route = route.output_interface(index).scope(RouteScope::Link);
                route.pref_source(source).build()
            }
            Target::Nowhere => route.kind(RouteType::Unreachable).build(),
        }
    }
}

fn parse(route: &RouteMessage) -> Option<(Ipv4Net, Target)> {
    let (mut base, mut via, mut source) = (Ipv4Addr::UNSPECIFIED, None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => base = *address,
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => via = Some(IpAddr::V4(*address)),
            RouteAttribute::Via(RouteVia::Inet6(address)) => via = Some(IpAddr::V6(*address)),
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => source = Some(*address),
            _ => {}
        }
    }
    let subnet = Ipv4Net::new(base, route.header.destination_prefix_length);
    let target = match via {
        Some(via) => Target::Via(via),
        None if route.header.kind == RouteType::Unreachable => Target::Nowhere,
        None => Target::Link(output_link(route)?, source.unwrap_or(Ipv4Addr::UNSPECIFIED)),
    };
    Some((subnet, target))
}

fn output_link(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

/// The kernel's words for a next hop that is not on a link of ours, or on one that is down.
fn is_unreachable(error: &rtnetlink::Error) -> bool {
    let unreachable = [Errno::ENETUNREACH, Errno::EHOSTUNREACH, Errno::EINVAL, Errno::ENETDOWN];
    errno(error).is_some_and(|errno| unreachable.contains(&errno))
}
