//! Hosts and paths of the HTTP ingress: each belongs to one service of the cluster.

use std::collections::{BTreeMap, BTreeSet};

use gantry_model::spec::{HostPattern, IngressRule, PathPattern};
use gantry_model::{Class, Problem, ServiceId};
use gantry_state::State;

/// What is taken by services stored and services being decided on.
pub struct Taken(BTreeMap<(HostPattern, PathPattern), (ServiceId, String)>);

impl Taken {
    /// What the stored services have taken; one that is being deleted gives way.
    pub fn of(state: &State) -> Self {
        let services = state.services().filter(|service| !service.deleting);
        let rules = services.flat_map(|service| service.spec.ingress.iter().map(move |rule| (service, rule)));
        Self(
            rules
                .map(|(service, rule)| ((rule.host.clone(), rule.path.clone()), (service.id, service.object())))
                .collect(),
        )
    }

    /// Gives up what services have that are about to be decided on anew, or to go: one may get what another one had.
    pub fn release(&mut self, services: impl Iterator<Item = ServiceId>) {
        let services: BTreeSet<ServiceId> = services.collect();
        self.0.retain(|_, owner| !services.contains(&owner.0));
    }

    /// Takes what the rules of a service name, in place of what it had.
    ///
    /// # Errors
    /// When another service has the same host and path.
    pub fn take(&mut self, object: &str, id: ServiceId, rules: &[IngressRule]) -> Result<(), Problem> {
        self.0.retain(|_, owner| owner.0 != id);
        for rule in rules {
            let key = (rule.host.clone(), rule.path.clone());
            if let Some((_, owner)) = self.0.get(&key) {
                let reason = if owner == object {
                    format!("has two ingress rules for {rule}")
                } else {
                    format!("requests for {rule} go to {owner} already")
                };
                let remedy = "give it another host or path, or remove the rule of that service";
                return Err(Problem::new(Class::Conflict, object, reason).remedy(remedy));
            }
            self.0.insert(key, (id, object.to_string()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(host: &str, path: &str) -> IngressRule {
        let (host, path) = (host.parse().expect("a host"), path.parse().expect("a path"));
        IngressRule::new(host, path, Some(80))
    }

    #[test]
    fn a_host_and_path_belong_to_one_service() {
        let mut taken = Taken(BTreeMap::new());
        let (web, api) = ("service shop/web", "service shop/api");
        assert_eq!(taken.take(web, ServiceId(1), &[rule("a", "/"), rule("b", "/")]), Ok(()));
        assert_eq!(taken.take(api, ServiceId(2), &[rule("a", "/api")]), Ok(()));
        let refused = taken
            .take(api, ServiceId(2), &[rule("A", "/")])
            .expect_err("web has it");
        assert!(refused.reason.contains(web) && refused.object == api, "{refused}");
        assert_eq!(
            taken.take(web, ServiceId(1), &[rule("b", "/")]),
            Ok(()),
            "its own stays its own"
        );
        assert_eq!(taken.take(api, ServiceId(2), &[rule("a", "/")]), Ok(()), "given up");
        let twice = taken.take(web, ServiceId(1), &[rule("c", "/"), rule("c", "/")]);
        assert!(twice.is_err_and(|problem| problem.reason.contains("two")));
    }
}
