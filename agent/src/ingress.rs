//! The node's HTTP ingress, kept in step with the set.
//!
//! **Invariant:** the data path acknowledges a set only after the ingress uses it, so that a replica that is told to stop gets no
//! request from here either.
//! **Invariant:** what is wrong with a certificate or an address is told and logged; it never holds an acknowledgement back.

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gantry_env::System;
use gantry_ingress::{Certificates, Ingress, Report, Table};
use gantry_model::assignment::ServiceItem;
use gantry_model::object::DataRecord;
use gantry_model::spec::{IngressTls, SecretRef};
use gantry_model::{Class, Problem};

use crate::config::AgentConfig;
use crate::shared::Surroundings;

/// See the module.
#[derive(Default)]
pub struct NodeIngress {
    ingress: Option<Ingress>,
    applied: Mutex<Applied>,
}

/// What was applied last, so that sets which change nothing here cost nothing.
#[derive(Default)]
struct Applied {
    services: Vec<ServiceItem>,
    secrets: Vec<DataRecord>,
    problems: Vec<String>,
}

impl NodeIngress {
    /// By the configuration of an agent; one without addresses serves nothing.
    ///
    /// # Errors
    /// When its access log cannot be written.
    pub fn new(config: &AgentConfig) -> Result<Self, Problem> {
        if config.ingress.http.is_none() && config.ingress.https.is_none() {
            return Ok(Self::default());
        }
        let ingress = Ingress::new(config.ingress.clone(), Arc::new(System));
        let ingress =
            ingress.map_err(|error| Problem::new(Class::Unavailable, "ingress of this node", with_source(&error)))?;
        Ok(Self {
            ingress: Some(ingress),
            applied: Mutex::default(),
        })
    }

    /// Whether there is anything for it in the set.
    #[must_use]
    pub fn concerns(&self, surroundings: &Surroundings) -> bool {
        self.ingress.is_some() && surroundings.services.values().any(|service| service.ingress.is_some())
    }

    /// Brings what the set says into effect.
    pub async fn apply(&self, surroundings: &Surroundings) {
        let Some(ingress) = &self.ingress else { return };
        let served = surroundings
            .services
            .values()
            .filter(|service| service.ingress.is_some());
        let services: Vec<ServiceItem> = served.cloned().collect();
        let secrets = secrets(&services, surroundings);
        {
            let applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
            // Where an address could not be listened on, each set is another try.
            if applied.services == services && applied.secrets == secrets && ingress.report().problems.is_empty() {
                return;
            }
        }
        let (certificates, problems) = certificates(&services, &secrets);
        if let Err(error) = ingress.apply(Table::of(&services), certificates).await {
            tracing::error!(%error, "the ingress does not work any more; start the agent anew");
        }
        for problem in &problems {
            tracing::warn!(%problem, "a host has no HTTPS");
        }
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        *applied = Applied {
            services,
            secrets,
            problems,
        };
    }

    /// What it did since the agent started.
    #[must_use]
    pub fn report(&self, node: &str) -> Report {
        let mut report = self.ingress.as_ref().map(Ingress::report).unwrap_or_default();
        report.node = node.to_string();
        let applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        report.problems.extend(applied.problems.iter().cloned());
        report
    }

    /// Ends it: no new clients, and time for requests that are under way.
    pub async fn drain(&self, within: Duration) {
        if let Some(ingress) = &self.ingress {
            ingress.drain(within).await;
        }
    }
}

/// An error with what caused it.
fn with_source(error: &dyn Error) -> String {
    let source = error.source().map(|source| format!(": {source}"));
    format!("{error}{}", source.unwrap_or_default())
}

fn references(services: &[ServiceItem]) -> impl Iterator<Item = &SecretRef> {
    let rules = services.iter().filter_map(|service| service.ingress.as_ref());
    rules.flat_map(|ingress| &ingress.rules).flat_map(|rule| rule.secrets())
}

fn secrets(services: &[ServiceItem], surroundings: &Surroundings) -> Vec<DataRecord> {
    let ids = references(services).filter_map(|secret| secret.id);
    let records = ids.filter_map(|id| surroundings.data.get(&id));
    records.cloned().collect()
}

fn certificates(services: &[ServiceItem], secrets: &[DataRecord]) -> (Certificates, Vec<String>) {
    let (mut certificates, mut problems) = (Certificates::default(), Vec::new());
    let content = |secret: &SecretRef| {
        let record = secrets.iter().find(|record| secret.id == Some(record.id));
        record.map(|record| record.content.0.as_slice())
    };
    for service in services {
        for rule in service.ingress.iter().flat_map(|ingress| &ingress.rules) {
            let Some(IngressTls { secret, key }) = &rule.tls else {
                continue;
            };
            let chain = content(secret);
            let added = match (chain, key.as_ref().map_or(chain, content)) {
                (Some(chain), Some(key)) => certificates
                    .add(&rule.host, chain, key)
                    .map_err(|error| with_source(&error)),
                (_, _) => Err("it is not on this node".to_string()),
            };
            if let Err(reason) = added {
                let (namespace, name) = (&service.namespace, &service.name);
                problems.push(format!(
                    "secret {} of {namespace}/{name} for {}: {reason}",
                    secret.source, rule.host
                ));
            }
        }
    }
    problems.dedup();
    (certificates, problems)
}
