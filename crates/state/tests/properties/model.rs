//! What the state should answer, found the slow and obvious way.

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_model::object::ImageRecord;
use gantry_model::spec::DataKind;
use gantry_model::{Digest, Name, NodeId, ServiceId};
use gantry_state::{Key, Object, State, Table};
use proptest::prelude::*;

use crate::generate::{IDS, NAMES, content};

const TABLES: [Table; 10] = [
    Table::Cluster,
    Table::Node,
    Table::Service,
    Table::Revision,
    Table::Replica,
    Table::Data,
    Table::Image,
    Table::Tag,
    Table::Token,
    Table::Registry,
];

/// Everything in a state that is saved.
pub fn bytes(state: &State) -> Vec<u8> {
    rmp_serde::to_vec_named(state).expect("a state can be encoded")
}

pub fn objects(state: &State) -> BTreeMap<Key, Arc<Object>> {
    let stored = TABLES.into_iter().flat_map(|table| state.table(table));
    stored
        .map(|stored| (stored.object.key(), stored.object.clone()))
        .collect()
}

/// Two states that nobody could tell apart.
pub fn same(left: &State, right: &State) -> Result<(), TestCaseError> {
    prop_assert_eq!(left.revision(), right.revision());
    prop_assert_eq!(left.fingerprint(), right.fingerprint());
    prop_assert_eq!(bytes(left), bytes(right));
    prop_assert_eq!(objects(left), objects(right));
    prop_assert!(left.events().eq(right.events()));
    agree_with_naive_lookups(left)?;
    agree_with_naive_lookups(right)
}

pub fn agree_with_naive_lookups(state: &State) -> Result<(), TestCaseError> {
    for table in TABLES {
        for stored in state.table(table) {
            prop_assert_eq!(stored.object.key().table(), table);
            prop_assert_eq!(state.modified(&stored.object.key()), stored.modified);
        }
    }
    for number in 0..IDS {
        let of_service: Vec<_> = state
            .replicas()
            .filter(|replica| replica.service == ServiceId(number))
            .collect();
        prop_assert_eq!(state.replicas_of(ServiceId(number)).collect::<Vec<_>>(), of_service);
        let on_node: Vec<_> = state
            .replicas()
            .filter(|replica| replica.node == Some(NodeId(number)))
            .collect();
        prop_assert_eq!(state.replicas_on(NodeId(number)).collect::<Vec<_>>(), on_node);
        let revisions: Vec<_> = state
            .revisions()
            .filter(|revision| revision.service == ServiceId(number))
            .collect();
        prop_assert_eq!(state.revisions_of(ServiceId(number)).collect::<Vec<_>>(), revisions);
        by_content(state, content(number))?;
    }
    for name in NAMES {
        prop_assert_eq!(state.node_named(name), state.nodes().find(|node| node.name == name));
        by_namespace(state, &Name::new(name).expect("it is a name"))?;
    }
    Ok(())
}

fn by_content(state: &State, digest: Digest) -> Result<(), TestCaseError> {
    let images = |names: &dyn Fn(&ImageRecord) -> bool| state.images().filter(|image| names(image)).collect::<Vec<_>>();
    let with_blob = images(&|image| image.manifest.blobs.iter().any(|blob| blob.digest == digest));
    prop_assert_eq!(state.images_with_blob(digest).collect::<Vec<_>>(), with_blob);
    let listing = images(&|image| image.manifest.manifests.contains(&digest));
    prop_assert_eq!(state.indexes_with(digest).collect::<Vec<_>>(), listing);
    let referring = images(&|image| image.manifest.subject == Some(digest));
    prop_assert_eq!(state.referrers_of(digest).collect::<Vec<_>>(), referring);
    let tags: Vec<_> = state.tags().filter(|tag| tag.reference.starts_with("image:")).collect();
    prop_assert_eq!(state.tags_of("image").collect::<Vec<_>>(), tags);
    prop_assert_eq!(state.tags_of("imag").count(), 0);
    Ok(())
}

fn by_namespace(state: &State, namespace: &Name) -> Result<(), TestCaseError> {
    let mut services: Vec<_> = state
        .services()
        .filter(|service| service.namespace == *namespace)
        .collect();
    services.sort_by_key(|service| (service.name.clone(), service.id));
    prop_assert_eq!(state.services_in(namespace).collect::<Vec<_>>(), services.clone());
    for name in NAMES {
        let name = Name::new(name).expect("it is a name");
        let named = services.iter().copied().find(|service| service.name == name);
        prop_assert_eq!(state.service_named(namespace, &name), named);
        for kind in [DataKind::Config, DataKind::Secret] {
            let same_name = |data: &&gantry_model::object::DataRecord| {
                data.kind == kind && data.namespace == *namespace && data.name == name
            };
            let newest = state
                .all_data()
                .filter(same_name)
                .max_by_key(|data| (data.version, data.id));
            prop_assert_eq!(state.data_named(kind, namespace, &name), newest);
        }
    }
    Ok(())
}
