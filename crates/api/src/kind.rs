//! The kinds of documents: which type of the model the JSON is.

/// `object::Node`
pub const NODE: &str = "node";
/// `object::Service`
pub const SERVICE: &str = "service";
/// `object::Replica`
pub const REPLICA: &str = "replica";
/// `object::RevisionRecord`
pub const REVISION: &str = "revision";
/// A namespace: its name and what it holds.
pub const NAMESPACE: &str = "namespace";
/// `object::ImageRecord`
pub const IMAGE: &str = "image";
/// `object::TagRecord`
pub const TAG: &str = "tag";
/// `object::DataRecord` of a config.
pub const CONFIG: &str = "config";
/// `object::DataRecord` of a secret, its content left empty.
pub const SECRET: &str = "secret";
/// `object::TokenRecord`
pub const TOKEN: &str = "token";
/// `explain::Event`
pub const EVENT: &str = "event";
/// `spec::Application`
pub const APPLICATION: &str = "application";
/// `spec::UpdateConfig`
pub const UPDATE_CONFIG: &str = "update_config";
/// `object::NodeFacts`
pub const NODE_FACTS: &str = "node_facts";
/// `phase::Observed`
pub const OBSERVED: &str = "observed";
/// `assignment::Item`
pub const ITEM: &str = "item";
/// `assignment::ItemKey`
pub const ITEM_KEY: &str = "item_key";

/// Kinds that `Cluster.Read` and `Cluster.Watch` know.
pub const READABLE: [&str; 11] = [
    NODE, SERVICE, REPLICA, REVISION, NAMESPACE, IMAGE, TAG, CONFIG, SECRET, TOKEN, EVENT,
];
