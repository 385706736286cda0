//! Which requests go where, as data: built from what the leader sent, looked up by host and path.
//!
//! **Invariant:** pure; the same services give the same table on every node.

use std::collections::HashMap;
use std::net::SocketAddr;

use gantry_model::ReplicaId;
use gantry_model::assignment::ServiceItem;
use gantry_model::spec::{HostPattern, IngressRule, PathPattern};

/// A rule with the replicas behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// `shop/web`.
    pub service: String,
    /// The rule.
    pub rule: IngressRule,
    /// The replicas that may get requests.
    pub backends: Vec<Backend>,
    /// The share of requests, in percent, of the backends that are of a new revision; none without a canary.
    pub canary_percent: Option<u32>,
}

/// A replica at a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backend {
    /// The replica.
    pub replica: ReplicaId,
    /// Where it listens.
    pub address: SocketAddr,
    /// It runs the revision that is being tried out.
    pub is_canary: bool,
}

/// All routes of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    routes: Vec<Route>,
    /// Routes of each host, best first.
    exact: HashMap<String, Vec<usize>>,
    /// The same by what follows the first label.
    below: HashMap<String, Vec<usize>>,
    any: Vec<usize>,
}

impl Table {
    /// Of what the node knows of services.
    pub fn of<'a>(services: impl IntoIterator<Item = &'a ServiceItem>) -> Self {
        let mut table = Self {
            routes: services.into_iter().flat_map(routes).collect(),
            ..Self::default()
        };
        for (index, route) in table.routes.iter().enumerate() {
            let list = match &route.rule.host {
                HostPattern::Exact(host) => table.exact.entry(host.clone()).or_default(),
                HostPattern::Below(parent) => table.below.entry(parent.clone()).or_default(),
                HostPattern::Any => &mut table.any,
            };
            list.push(index);
        }
        let lists = table.exact.values_mut().chain(table.below.values_mut());
        for list in lists.chain([&mut table.any]) {
            list.sort_by_key(|index| table.routes.get(*index).map(precedence));
        }
        table
    }

    /// All routes.
    #[must_use]
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Whether a route needs HTTPS.
    #[must_use]
    pub fn has_tls(&self) -> bool {
        self.routes.iter().any(|route| route.rule.tls.is_some())
    }

    /// The route for a host in lower case without port, and a path: the most specific host that has one for the path, of its paths
    /// the longest, one that is meant alone before a prefix.
    #[must_use]
    pub fn find(&self, host: &str, path: &str) -> Option<usize> {
        let parent = host.split_once('.').filter(|(label, _)| !label.is_empty());
        let lists = [
            self.exact.get(host),
            parent.and_then(|(_, parent)| self.below.get(parent)),
            Some(&self.any),
        ];
        let mut candidates = lists.into_iter().flatten().flatten().copied();
        candidates.find(|index| {
            let route = self.routes.get(*index);
            route.is_some_and(|route| route.rule.path.matches(path))
        })
    }
}

/// Smaller is better.
fn precedence(route: &Route) -> (bool, std::cmp::Reverse<usize>) {
    match &route.rule.path {
        PathPattern::Exact(path) => (false, std::cmp::Reverse(path.len())),
        PathPattern::Prefix(path) => (true, std::cmp::Reverse(path.len())),
    }
}

fn routes(service: &ServiceItem) -> impl Iterator<Item = Route> + '_ {
    let ingress = service.ingress.as_ref();
    let rules = ingress.into_iter().flat_map(|ingress| &ingress.rules);
    rules.map(move |rule| {
        let split = ingress.and_then(|ingress| ingress.split.as_ref());
        let backends = rule.port.into_iter().flat_map(|port| {
            service.endpoints.iter().map(move |endpoint| Backend {
                replica: endpoint.replica,
                address: SocketAddr::from((endpoint.address, port)),
                is_canary: split.is_some_and(|split| split.replicas.contains(&endpoint.replica)),
            })
        });
        Route {
            service: format!("{}/{}", service.namespace, service.name),
            rule: rule.clone(),
            backends: backends.collect(),
            canary_percent: split.map(|split| split.percent),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_model::assignment::{Endpoint, ServiceIngress, TrafficSplit};
    use gantry_model::object::Slot;
    use gantry_model::{NodeId, ServiceId};

    fn service(id: u64, name: &str, rules: &[(&str, &str)]) -> ServiceItem {
        let rule = |(host, path): &(&str, &str)| {
            let (host, path) = (host.parse().expect("a host"), path.parse().expect("a path"));
            IngressRule::new(host, path, Some(80))
        };
        let endpoint = |replica: u64| Endpoint {
            replica: ReplicaId(replica),
            node: NodeId(1),
            address: [10, 0, 0, u8::try_from(replica).expect("small")].into(),
            slot: Slot::Index(1),
        };
        let mut service: ServiceItem = serde_json::from_value(serde_json::json!({
            "id": ServiceId(id), "namespace": "shop", "name": name, "endpoint_mode": "vip",
        }))
        .expect("a service");
        service.endpoints = vec![endpoint(1), endpoint(2)];
        service.ingress = Some(ServiceIngress {
            rules: rules.iter().map(rule).collect(),
            split: Some(TrafficSplit {
                percent: 10,
                replicas: vec![ReplicaId(2)],
            }),
        });
        service
    }

    #[test]
    fn the_most_specific_rule_wins_whatever_the_order() {
        let mut services = vec![
            service(1, "all", &[("*", "/")]),
            service(2, "below", &[("*.example.com", "/"), ("*.example.com", "/api")]),
            service(
                3,
                "shop",
                &[("shop.example.com", "/api"), ("shop.example.com", "=/api")],
            ),
            service(4, "deep", &[("shop.example.com", "/api/v1")]),
        ];
        for _ in 0..services.len() {
            services.rotate_left(1);
            let table = Table::of(&services);
            let found = |host: &str, path: &str| {
                let route = table.find(host, path).and_then(|index| table.routes().get(index))?;
                Some((route.service.clone(), route.rule.path.to_string()))
            };
            for (host, path, service, rule) in [
                ("shop.example.com", "/api", "shop/shop", "=/api"),
                ("shop.example.com", "/api/x", "shop/shop", "/api"),
                ("shop.example.com", "/api/v1/x", "shop/deep", "/api/v1"),
                ("shop.example.com", "/other", "shop/below", "/"),
                ("a.example.com", "/api", "shop/below", "/api"),
                ("example.com", "/", "shop/all", "/"),
                ("", "/", "shop/all", "/"),
            ] {
                assert_eq!(
                    found(host, path),
                    Some((service.to_string(), rule.to_string())),
                    "{host}{path}"
                );
            }
        }
        assert_eq!(Table::of(&services[..0]).find("a", "/"), None);
    }

    #[test]
    fn backends_are_the_endpoints_at_the_port_of_the_rule() {
        let table = Table::of(&[service(1, "web", &[("*", "/")])]);
        let route = &table.routes()[0];
        let seen: Vec<_> = route
            .backends
            .iter()
            .map(|one| (one.address.to_string(), one.is_canary))
            .collect();
        assert_eq!(
            seen,
            [("10.0.0.1:80".to_string(), false), ("10.0.0.2:80".to_string(), true)]
        );
        assert_eq!(route.canary_percent, Some(10));
    }
}
