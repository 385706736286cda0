//! Secondary indexes, kept in step with the tables by `apply`, rebuilt when a snapshot is loaded.

use gantry_model::spec::DataKind;
use gantry_model::{DataId, Name, NodeId, QualifiedName, ReplicaId, ServiceId};
use imbl::{OrdMap, OrdSet};

use crate::Object;

type DataName = (DataKind, Name, Name);

/// Where to find objects other than by key.
#[derive(Debug, Clone, Default)]
pub(crate) struct Indexes {
    pub(crate) service_by_name: OrdMap<QualifiedName, ServiceId>,
    pub(crate) node_by_name: OrdMap<String, NodeId>,
    replicas_by_service: OrdSet<(ServiceId, ReplicaId)>,
    replicas_by_node: OrdSet<(NodeId, ReplicaId)>,
    data_by_name: OrdSet<(DataName, u32, DataId)>,
}

impl Indexes {
    /// Takes an object in.
    pub(crate) fn insert(&mut self, object: &Object) {
        match object {
            Object::Service(service) => {
                self.service_by_name.insert(
                    QualifiedName {
                        namespace: service.namespace.clone(),
                        name: service.name.clone(),
                    },
                    service.id,
                );
            }
            Object::Node(node) => {
                self.node_by_name.insert(node.name.clone(), node.id);
            }
            Object::Replica(replica) => {
                self.replicas_by_service.insert((replica.service, replica.id));
                if let Some(node) = replica.node {
                    self.replicas_by_node.insert((node, replica.id));
                }
            }
            Object::Data(data) => {
                let name = (data.kind, data.namespace.clone(), data.name.clone());
                self.data_by_name.insert((name, data.version, data.id));
            }
            Object::Cluster(_) | Object::Revision(_) | Object::Image(_) | Object::Tag(_) | Object::Token(_) => {}
        }
    }

    /// Takes an object out, exactly as it was put in.
    pub(crate) fn remove(&mut self, object: &Object) {
        match object {
            Object::Service(service) => {
                self.service_by_name.remove(&QualifiedName {
                    namespace: service.namespace.clone(),
                    name: service.name.clone(),
                });
            }
            Object::Node(node) => {
                self.node_by_name.remove(&node.name);
            }
            Object::Replica(replica) => {
                self.replicas_by_service.remove(&(replica.service, replica.id));
                if let Some(node) = replica.node {
                    self.replicas_by_node.remove(&(node, replica.id));
                }
            }
            Object::Data(data) => {
                let name = (data.kind, data.namespace.clone(), data.name.clone());
                self.data_by_name.remove(&(name, data.version, data.id));
            }
            Object::Cluster(_) | Object::Revision(_) | Object::Image(_) | Object::Tag(_) | Object::Token(_) => {}
        }
    }

    pub(crate) fn services_in<'a>(&'a self, namespace: &'a Name) -> impl Iterator<Item = ServiceId> + 'a {
        let from = self
            .service_by_name
            .iter()
            .skip_while(move |(key, _)| key.namespace < *namespace);
        from.take_while(move |(key, _)| key.namespace == *namespace)
            .map(|(_, id)| *id)
    }

    pub(crate) fn replicas_of(&self, service: ServiceId) -> impl Iterator<Item = ReplicaId> + '_ {
        let range = (service, ReplicaId(0))..=(service, ReplicaId(u64::MAX));
        self.replicas_by_service.range(range).map(|(_, replica)| *replica)
    }

    pub(crate) fn replicas_on(&self, node: NodeId) -> impl Iterator<Item = ReplicaId> + '_ {
        let range = (node, ReplicaId(0))..=(node, ReplicaId(u64::MAX));
        self.replicas_by_node.range(range).map(|(_, replica)| *replica)
    }

    pub(crate) fn newest_data(&self, kind: DataKind, namespace: &Name, name: &Name) -> Option<DataId> {
        let key = (kind, namespace.clone(), name.clone());
        let range = (key.clone(), 0, DataId(0))..=(key, u32::MAX, DataId(u64::MAX));
        self.data_by_name.range(range).next_back().map(|(_, _, id)| *id)
    }
}
