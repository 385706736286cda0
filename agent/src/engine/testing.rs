//! For tests: a record that was never started.

use gantry_model::container::RunSpec;
use gantry_model::spec::{ContainerSpec, RestartCondition, RestartPolicy};
use gantry_model::{ReplicaId, Timestamp};

use super::record::Record;

pub(crate) fn run_spec(name: &str) -> RunSpec {
    RunSpec {
        name: Some(name.to_string()),
        container: ContainerSpec {
            image: "busybox".into(),
            command: Some(vec!["true".into()]),
            ..ContainerSpec::default()
        },
        resources: Default::default(),
        restart: RestartPolicy {
            condition: RestartCondition::None,
            ..RestartPolicy::default()
        },
        unless_stopped: false,
        network: Default::default(),
        ports: Vec::new(),
        publish_all: false,
        auto_remove: false,
        pull: Default::default(),
        platform: None,
    }
}

pub(crate) fn record(name: &str) -> Record {
    Record {
        id: ReplicaId(7),
        name: name.to_string(),
        spec: run_spec(name),
        image_digest: format!("sha256:{}", "a".repeat(64)),
        image: Default::default(),
        command: vec!["true".into()],
        created_at: Timestamp(1),
        address: None,
        ports: Vec::new(),
        life: Default::default(),
    }
}
