//! Which container has which port of the node. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use gantry_model::assignment::ServiceItem;
use gantry_model::spec::{PortMode, PortSpec, Protocol};
use gantry_model::{Class, Problem, ReplicaId};

/// Ports given to containers that name none: Docker's range, above that of the cluster.
pub(super) const AUTO: std::ops::RangeInclusive<u16> = 32_768..=60_999;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ports {
    taken: BTreeMap<(Protocol, u16), Vec<Holder>>,
    next: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Holder {
    container: ReplicaId,
    name: String,
    host_ip: Option<IpAddr>,
}

/// A port that somebody outside of the containers has.
pub(super) type TakenBy<'a> = dyn Fn(Protocol, u16, Option<IpAddr>) -> Option<String> + 'a;

impl Ports {
    /// Gives the container its ports, all numbered, or none of them.
    pub(super) fn claim(
        &mut self,
        container: ReplicaId,
        name: &str,
        wanted: &[PortSpec],
        elsewhere: &TakenBy<'_>,
    ) -> Result<Vec<PortSpec>, Problem> {
        self.release(container);
        let mut given = Vec::new();
        for port in wanted {
            let numbered = match port.published {
                Some(number) => self.check(port, number, elsewhere).map(|()| number),
                None => self.find(port, elsewhere),
            };
            let number = match numbered {
                Ok(number) => number,
                Err(problem) => {
                    self.release(container);
                    return Err(Problem {
                        object: format!("container {name}"),
                        ..problem
                    });
                }
            };
            self.hold(container, name, port, number);
            given.push(PortSpec {
                published: Some(number),
                mode: PortMode::Host,
                ..port.clone()
            });
        }
        Ok(given)
    }

    /// The container of a former agent has these already.
    pub(super) fn adopt(&mut self, container: ReplicaId, name: &str, ports: &[PortSpec]) {
        for port in ports {
            if let Some(number) = port.published {
                self.hold(container, name, port, number);
            }
        }
    }

    /// Its ports are free again.
    pub(super) fn release(&mut self, container: ReplicaId) {
        self.taken.retain(|_, holders| {
            holders.retain(|holder| holder.container != container);
            !holders.is_empty()
        });
    }

    fn hold(&mut self, container: ReplicaId, name: &str, port: &PortSpec, number: u16) {
        let holder = Holder {
            container,
            name: name.to_string(),
            host_ip: specific(port.host_ip),
        };
        self.taken.entry((port.protocol, number)).or_default().push(holder);
    }

    fn check(&self, port: &PortSpec, number: u16, elsewhere: &TakenBy<'_>) -> Result<(), Problem> {
        let wanted = specific(port.host_ip);
        let holders = self.taken.get(&(port.protocol, number)).into_iter().flatten();
        let clashing = |holder: &&Holder| holder.host_ip.is_none() || wanted.is_none() || holder.host_ip == wanted;
        let owner = match holders.clone().find(clashing) {
            Some(holder) => Some(format!("container {}", holder.name)),
            None => elsewhere(port.protocol, number, wanted),
        };
        match owner {
            None => Ok(()),
            Some(owner) => {
                let reason = format!(
                    "port {number}/{} of this node is already taken by {owner}",
                    port.protocol
                );
                Err(Problem::new(Class::Conflict, "", reason).remedy("publish another port"))
            }
        }
    }

    fn find(&mut self, port: &PortSpec, elsewhere: &TakenBy<'_>) -> Result<u16, Problem> {
        let count = u32::from(AUTO.end() - AUTO.start()) + 1;
        let start = u32::from(self.next.max(*AUTO.start()) - AUTO.start());
        for step in 0..count {
            let offset = (start + step) % count;
            let number = AUTO.start() + u16::try_from(offset).unwrap_or(0);
            if self.check(port, number, elsewhere).is_ok() {
                self.next = number
                    .checked_add(1)
                    .filter(|next| AUTO.contains(next))
                    .unwrap_or(*AUTO.start());
                return Ok(number);
            }
        }
        let reason = format!("no port between {} and {} is free", AUTO.start(), AUTO.end());
        Err(Problem::new(Class::Exhausted, "", reason).remedy("remove containers that publish ports"))
    }
}

/// An unspecified address is every address.
fn specific(host_ip: Option<IpAddr>) -> Option<IpAddr> {
    host_ip.filter(|address| !address.is_unspecified())
}

/// Who of the cluster publishes the port on this node.
pub(super) fn cluster_owner<'a>(
    services: impl Iterator<Item = &'a ServiceItem>,
    protocol: Protocol,
    number: u16,
    host_ip: Option<IpAddr>,
) -> Option<String> {
    for service in services {
        let clashes = |port: &PortSpec| {
            let theirs = specific(port.host_ip);
            let same = (port.protocol, port.published) == (protocol, Some(number));
            same && (theirs.is_none() || host_ip.is_none() || theirs == host_ip)
        };
        if service.ports.iter().any(clashes) {
            return Some(format!("service {}/{}", service.namespace, service.name));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn port(published: Option<u16>, host_ip: Option<[u8; 4]>) -> PortSpec {
        PortSpec {
            target: 80,
            published,
            protocol: Protocol::Tcp,
            mode: PortMode::Ingress,
            host_ip: host_ip.map(|octets| IpAddr::V4(Ipv4Addr::from(octets))),
            name: None,
        }
    }

    const NOBODY: &TakenBy<'static> = &|_, _, _| None;

    #[test]
    fn a_port_has_one_owner_per_address() {
        let mut ports = Ports::default();
        let local = port(Some(80), Some([127, 0, 0, 1]));
        ports
            .claim(ReplicaId(1), "one", std::slice::from_ref(&local), NOBODY)
            .expect("free");
        let other = port(Some(80), Some([10, 0, 0, 1]));
        ports
            .claim(ReplicaId(2), "two", &[other], NOBODY)
            .expect("another address");
        for wanted in [local, port(Some(80), None), port(Some(80), Some([0, 0, 0, 0]))] {
            let refused = ports.claim(ReplicaId(3), "three", &[port(Some(81), None), wanted], NOBODY);
            let problem = refused.expect_err("taken");
            assert!(problem.reason.contains("container "), "{problem}");
        }
        ports
            .claim(ReplicaId(4), "four", &[port(Some(81), None)], NOBODY)
            .expect("given back");
        ports.release(ReplicaId(1));
        ports.release(ReplicaId(2));
        ports
            .claim(ReplicaId(3), "three", &[port(Some(80), None)], NOBODY)
            .expect("free again");
    }

    #[test]
    fn automatic_ports_avoid_those_of_others() {
        let mut ports = Ports::default();
        let taken = |_, number, _| (number < 32_770).then(|| "service shop/web".to_string());
        let wanted = [port(None, None), port(None, None)];
        let given = ports.claim(ReplicaId(1), "one", &wanted, &taken).expect("found");
        let numbers: Vec<_> = given.iter().map(|port| port.published).collect();
        assert_eq!(numbers, [Some(32_770), Some(32_771)]);
        let problem = ports
            .claim(ReplicaId(2), "two", &[port(Some(400), None)], &taken)
            .expect_err("the cluster's");
        assert!(problem.to_string().contains("service shop/web"), "{problem}");
    }
}
