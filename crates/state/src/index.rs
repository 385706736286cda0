//! Secondary indexes, kept in step with the tables by `apply`, rebuilt when a snapshot is loaded.

use gantry_model::object::{ImageRecord, Service};
use gantry_model::spec::DataKind;
use gantry_model::{DataId, Digest, Name, NodeId, QualifiedName, ReplicaId, ServiceId};
use imbl::OrdSet;

use crate::Object;

type DataName = (DataKind, Name, Name);

/// Where to find objects other than by key.
///
/// **Invariant:** it holds what the tables hold and nothing of how they came to. Hence sets: were two objects to share a name,
/// deleting one must not hide the other.
#[derive(Debug, Clone, Default)]
pub(crate) struct Indexes {
    service_by_name: OrdSet<(QualifiedName, ServiceId)>,
    node_by_name: OrdSet<(String, NodeId)>,
    replicas_by_service: OrdSet<(ServiceId, ReplicaId)>,
    replicas_by_node: OrdSet<(NodeId, ReplicaId)>,
    data_by_name: OrdSet<(DataName, u32, DataId)>,
    /// Which manifests name a digest.
    named_by: OrdSet<(Digest, Naming, Digest)>,
}

/// How a manifest names a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Naming {
    /// As its configuration or a layer.
    Blob,
    /// As a manifest that it lists.
    Child,
    /// As what it says something about.
    Subject,
}

impl Indexes {
    /// Takes an object in.
    pub(crate) fn insert(&mut self, object: &Object) {
        match object {
            Object::Service(service) => {
                self.service_by_name.insert((name_of(service), service.id));
            }
            Object::Node(node) => {
                self.node_by_name.insert((node.name.clone(), node.id));
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
            Object::Image(image) => {
                for entry in namings(image) {
                    self.named_by.insert(entry);
                }
            }
            Object::Cluster(_) | Object::Revision(_) | Object::Tag(_) | Object::Token(_) | Object::Registry(_) => {}
        }
    }

    /// Takes an object out, exactly as it was put in.
    pub(crate) fn remove(&mut self, object: &Object) {
        match object {
            Object::Service(service) => {
                self.service_by_name.remove(&(name_of(service), service.id));
            }
            Object::Node(node) => {
                self.node_by_name.remove(&(node.name.clone(), node.id));
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
            Object::Image(image) => {
                for entry in namings(image) {
                    self.named_by.remove(&entry);
                }
            }
            Object::Cluster(_) | Object::Revision(_) | Object::Tag(_) | Object::Token(_) | Object::Registry(_) => {}
        }
    }

    /// Manifests that name a digest so.
    pub(crate) fn naming(&self, digest: Digest, how: Naming) -> impl Iterator<Item = Digest> + '_ {
        let (least, greatest) = (Digest::from_bytes([0; 32]), Digest::from_bytes([u8::MAX; 32]));
        let range = (digest, how, least)..=(digest, how, greatest);
        self.named_by.range(range).map(|(_, _, manifest)| *manifest)
    }

    pub(crate) fn service_named(&self, name: &QualifiedName) -> Option<ServiceId> {
        let range = (name.clone(), ServiceId(0))..=(name.clone(), ServiceId(u64::MAX));
        self.service_by_name.range(range).next().map(|(_, id)| *id)
    }

    pub(crate) fn node_named(&self, name: &str) -> Option<NodeId> {
        let range = (name.to_string(), NodeId(0))..=(name.to_string(), NodeId(u64::MAX));
        self.node_by_name.range(range).next().map(|(_, id)| *id)
    }

    pub(crate) fn services_in<'a>(&'a self, namespace: &'a Name) -> impl Iterator<Item = ServiceId> + 'a {
        let first = QualifiedName {
            namespace: namespace.clone(),
            name: Name::new("0").expect("a digit is a name, and none sorts before it"),
        };
        self.service_by_name
            .range((first, ServiceId(0))..)
            .take_while(move |(name, _)| name.namespace == *namespace)
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

/// Every digest that the manifest of an image names.
fn namings(image: &ImageRecord) -> impl Iterator<Item = (Digest, Naming, Digest)> {
    let manifest = &image.manifest;
    let blobs = manifest.blobs.iter().map(|blob| (blob.digest, Naming::Blob));
    let children = manifest.manifests.iter().map(|child| (*child, Naming::Child));
    let subject = manifest.subject.map(|subject| (subject, Naming::Subject));
    let named = blobs.chain(children).chain(subject);
    let own: Option<Digest> = image.digest.parse().ok();
    own.into_iter()
        .flat_map(move |own| named.clone().map(move |(digest, how)| (digest, how, own)))
}

fn name_of(service: &Service) -> QualifiedName {
    QualifiedName {
        namespace: service.namespace.clone(),
        name: service.name.clone(),
    }
}
