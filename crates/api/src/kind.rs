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
/// `object::ManifestFacts`
pub const MANIFEST_FACTS: &str = "manifest_facts";
/// `object::RegistryToken`
pub const REGISTRY_TOKEN: &str = "registry_token";
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

/// `container::RunSpec`
pub const RUN_SPEC: &str = "run_spec";
/// `container::Container`
pub const CONTAINER: &str = "container";
/// `container::ContainerStats`
pub const CONTAINER_STATS: &str = "container_stats";
/// `container::FileChange`
pub const FILE_CHANGE: &str = "file_change";
/// `spec::Resources`
pub const RESOURCES: &str = "resources";
/// `spec::RestartPolicy`
pub const RESTART_POLICY: &str = "restart_policy";
/// `object::LocalImage`
pub const LOCAL_IMAGE: &str = "local_image";
/// What the image store says of one image, as `docker image inspect` gives it.
pub const IMAGE_INSPECT: &str = "image_inspect";
/// One step of an image's history.
pub const IMAGE_HISTORY: &str = "image_history";
/// What takes how much of a node's disk.
pub const DISK_USAGE: &str = "disk_usage";
/// What the HTTP ingress of a node did.
pub const INGRESS_REPORT: &str = "ingress_report";
/// Something that is wrong with a node's image store.
pub const FINDING: &str = "finding";
/// `build::BuildRequest`
pub const BUILD_REQUEST: &str = "build_request";
/// `build::BuildEvent`
pub const BUILD_EVENT: &str = "build_event";
/// `build::BuildResult`
pub const BUILD_RESULT: &str = "build_result";

/// Kinds that `Cluster.Read` and `Cluster.Watch` know.
pub const READABLE: [&str; 11] = [
    NODE, SERVICE, REPLICA, REVISION, NAMESPACE, IMAGE, TAG, CONFIG, SECRET, TOKEN, EVENT,
];
