//! Virtual addresses and published ports of services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use gantry_model::net::Ipv4Net;
use gantry_model::object::{Service, ServiceNetwork};
use gantry_model::spec::{EndpointMode, PORT_AUTO_MAX, PORT_AUTO_MIN, PortMode, PortSpec, Protocol, ServiceSpec};
use gantry_model::{Class, Name, Problem, ServiceId};
use gantry_state::State;

type PortKey = (Protocol, u16, Option<IpAddr>);

/// What is taken on the cluster's networks, by services stored and services being decided on.
pub struct Addresses {
    pool: Option<Ipv4Net>,
    vips: BTreeSet<Ipv4Addr>,
    ports: BTreeMap<PortKey, (ServiceId, String)>,
}

impl Addresses {
    /// What the stored services have taken.
    pub fn of(state: &State) -> Self {
        let mut taken = Self {
            pool: state.cluster().map(|cluster| cluster.config.service_pool),
            vips: BTreeSet::new(),
            ports: BTreeMap::new(),
        };
        for service in state.services() {
            taken
                .vips
                .extend(service.networks.values().filter_map(|network| network.vip));
            for port in &service.ports {
                if let Some(key) = mesh_key(port) {
                    taken.ports.insert(key, (service.id, service.object()));
                }
            }
        }
        taken
    }

    /// Numbers the ports of a service: those published without a number keep the one they have, or get a free one.
    ///
    /// # Errors
    /// When a port is taken by another service, or the automatic range is used up.
    pub fn ports(&mut self, object: &str, id: ServiceId, ports: &[PortSpec]) -> Result<Vec<PortSpec>, Problem> {
        let mut own: Vec<PortKey> = self
            .ports
            .iter()
            .filter(|(_, owner)| owner.0 == id)
            .map(|(key, _)| *key)
            .collect();
        self.ports.retain(|_, owner| owner.0 != id);
        let mut numbered = Vec::with_capacity(ports.len());
        for port in ports {
            let mut port = port.clone();
            if port.published.is_none() {
                port.published = Some(self.automatic(object, &port, &mut own)?);
            }
            if let Some(key) = mesh_key(&port) {
                self.take(object, id, key)?;
            }
            numbered.push(port);
        }
        Ok(numbered)
    }

    fn automatic(&self, object: &str, port: &PortSpec, own: &mut Vec<PortKey>) -> Result<u16, Problem> {
        let usable = |number: u16| self.conflict(&(port.protocol, number, port.host_ip)).is_none();
        let in_range = |number: &u16| (PORT_AUTO_MIN..=PORT_AUTO_MAX).contains(number);
        let kept = own
            .iter()
            .position(|(protocol, number, _)| *protocol == port.protocol && in_range(number) && usable(*number));
        if let Some(position) = kept {
            return Ok(own.remove(position).1);
        }
        (PORT_AUTO_MIN..=PORT_AUTO_MAX)
            .find(|number| usable(*number))
            .ok_or_else(|| {
                let reason = format!("no port from {PORT_AUTO_MIN} to {PORT_AUTO_MAX} is free for {port}");
                Problem::new(Class::Exhausted, object, reason).remedy("publish it on a number of your choice")
            })
    }

    fn conflict(&self, key: &PortKey) -> Option<&(ServiceId, String)> {
        let (protocol, number, address) = *key;
        let range = (protocol, number, None)..=(protocol, number, Some(IpAddr::from([u16::MAX; 8])));
        let overlaps = |other: &Option<IpAddr>| other.is_none() || address.is_none() || *other == address;
        self.ports
            .range(range)
            .find(|((_, _, other), _)| overlaps(other))
            .map(|(_, owner)| owner)
    }

    fn take(&mut self, object: &str, id: ServiceId, key: PortKey) -> Result<(), Problem> {
        if let Some((_, owner)) = self.conflict(&key) {
            let reason = format!("port {}/{} is published by {owner} already", key.1, key.0);
            return Err(
                Problem::new(Class::Conflict, object, reason).remedy("publish another port, or delete that service")
            );
        }
        self.ports.insert(key, (id, object.to_string()));
        Ok(())
    }

    /// The names and virtual addresses of a service on its networks; addresses it has stay.
    ///
    /// # Errors
    /// When the pool of virtual addresses is used up.
    pub fn attach(
        &mut self,
        object: &str,
        name: &Name,
        spec: &ServiceSpec,
        existing: Option<&Service>,
    ) -> Result<BTreeMap<String, ServiceNetwork>, Problem> {
        let mut networks = BTreeMap::new();
        for attachment in spec.networks.values() {
            let mut names = vec![name.to_string()];
            names.extend(attachment.aliases.iter().cloned());
            names.dedup();
            let kept = existing
                .and_then(|service| service.networks.get(&attachment.network))
                .and_then(|one| one.vip);
            let vip = match spec.endpoint_mode {
                EndpointMode::Dnsrr => None,
                EndpointMode::Vip => Some(match kept {
                    Some(vip) => vip,
                    None => self.free_vip(object)?,
                }),
            };
            let network = ServiceNetwork {
                vip,
                names,
                internal: attachment.internal,
                policy: attachment.policy.clone(),
            };
            networks.insert(attachment.network.clone(), network);
        }
        Ok(networks)
    }

    /// The address after the highest one taken, or the lowest free one: an address just released is not given out at once, so
    /// that a client's stale DNS answer does not reach a stranger.
    fn free_vip(&mut self, object: &str) -> Result<Ipv4Addr, Problem> {
        let pool = self
            .pool
            .ok_or_else(|| Problem::new(Class::Internal, "cluster", "has no record of its settings"))?;
        let usable = |address: &Ipv4Addr| pool.contains(*address) && *address != pool.base();
        let after_highest = match self.vips.last() {
            Some(highest) => Ipv4Addr::from(u32::from(*highest).wrapping_add(1)),
            None => Ipv4Addr::from(u32::from(pool.base()) + 1),
        };
        let vip = Some(after_highest)
            .filter(usable)
            .or_else(|| {
                (1..pool.size())
                    .filter_map(|index| pool.address(index))
                    .find(|one| !self.vips.contains(one))
            })
            .ok_or_else(|| {
                Problem::new(
                    Class::Exhausted,
                    object,
                    format!("no virtual address is left in {pool}"),
                )
                .remedy("use `endpoint_mode: dnsrr`, or delete services that are not needed")
            })?;
        self.vips.insert(vip);
        Ok(vip)
    }
}

/// The key under which a port of the mesh is taken cluster-wide; host ports are the scheduler's business.
fn mesh_key(port: &PortSpec) -> Option<PortKey> {
    match (port.mode, port.published) {
        (PortMode::Ingress, Some(published)) => Some((port.protocol, published, port.host_ip)),
        (PortMode::Ingress | PortMode::Host, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty() -> Addresses {
        let pool = "10.96.0.0/30".parse().expect("a valid network");
        Addresses {
            pool: Some(pool),
            vips: BTreeSet::new(),
            ports: BTreeMap::new(),
        }
    }

    fn port(published: Option<u16>, host_ip: Option<&str>) -> PortSpec {
        PortSpec {
            target: 80,
            published,
            protocol: Protocol::Tcp,
            mode: PortMode::Ingress,
            host_ip: host_ip.map(|text| text.parse().expect("a valid address")),
            name: None,
        }
    }

    #[test]
    fn a_port_is_taken_once_per_address() {
        let mut taken = empty();
        assert!(
            taken
                .ports("a", ServiceId(1), &[port(Some(80), Some("10.0.0.1"))])
                .is_ok()
        );
        assert!(
            taken
                .ports("b", ServiceId(2), &[port(Some(80), Some("10.0.0.2"))])
                .is_ok()
        );
        let refused = taken
            .ports("c", ServiceId(3), &[port(Some(80), None)])
            .expect_err("overlaps both");
        assert!(refused.reason.contains("published by a"), "{refused}");
        assert!(
            taken
                .ports("a", ServiceId(1), &[port(Some(80), Some("10.0.0.1"))])
                .is_ok(),
            "its own stays its own"
        );
    }

    #[test]
    fn automatic_ports_are_kept_and_distinct() {
        let mut taken = empty();
        let first = taken
            .ports("a", ServiceId(1), &[port(None, None), port(None, None)])
            .expect("free ports");
        assert_eq!(
            first.iter().map(|port| port.published).collect::<Vec<_>>(),
            [Some(30_000), Some(30_001)]
        );
        let again = taken
            .ports("a", ServiceId(1), &[port(None, None), port(None, None)])
            .expect("free ports");
        assert_eq!(first, again);
    }

    #[test]
    fn a_used_up_pool_says_so() {
        let mut taken = empty();
        let given: Vec<_> = (0..3).map(|_| taken.free_vip("s").map(|vip| vip.octets()[3])).collect();
        assert_eq!(given, [Ok(1), Ok(2), Ok(3)]);
        let refused = taken.free_vip("s").expect_err("the pool holds three");
        assert_eq!(refused.class, Class::Exhausted);
        taken.vips.remove(&Ipv4Addr::new(10, 96, 0, 2));
        assert_eq!(taken.free_vip("s"), Ok(Ipv4Addr::new(10, 96, 0, 2)));
    }
}
