//! Everything a container needs before it can start, step by step. Each step keeps what is there already.

use std::sync::Arc;

use gantry_lifecycle::Failure;
use gantry_model::assignment::{NodeItem, ReplicaItem};
use gantry_model::spec::ContainerSpec;
use gantry_runtime::LaunchOptions;

use super::files::{self, DataError, Place};
use super::template::Values;
use crate::drivers::{Launch, LaunchNetwork, PlacedFile, VolumeOwner};
use crate::facts::architecture;
use crate::shared::Shared;

/// Makes a replica's image, volumes, files and network ready.
pub(crate) async fn prepare(shared: &Shared, item: Arc<ReplicaItem>) -> Result<Launch, Failure> {
    let node = node(shared)?;
    let container = expand(&item, &node)?;
    let image = shared.drivers.images.ensure(&container).await?;
    let owner = VolumeOwner {
        id: item.id,
        namespace: Some(item.namespace.clone()),
    };
    let mounts = shared
        .drivers
        .volumes
        .ensure(&owner, &container.mounts, &image.config)
        .await?;
    let network = attach(shared, &item).await?;
    let hostname = container.hostname.clone().unwrap_or_else(|| item.id.to_string());
    let files = files(shared, &item, &container, &node, &hostname)?;
    Ok(Launch {
        id: item.id,
        name: item.name(),
        resources: item.spec.resources.clone(),
        container,
        image,
        hostname,
        network,
        mounts,
        files,
        options: LaunchOptions::default(),
    })
}

fn node(shared: &Shared) -> Result<NodeItem, Failure> {
    let node = shared.surroundings.load().node.clone();
    node.ok_or_else(|| Failure {
        reason: "the node has not been told its network yet".to_string(),
        retryable: true,
    })
}

fn expand(item: &ReplicaItem, node: &NodeItem) -> Result<ContainerSpec, Failure> {
    let values = Values {
        item,
        node,
        architecture: architecture(),
    };
    values.expand_container(&item.spec.container).map_err(|error| Failure {
        reason: error.to_string(),
        retryable: false,
    })
}

/// A replica without networks (`network_mode: none`) gets none of ours.
async fn attach(shared: &Shared, item: &ReplicaItem) -> Result<LaunchNetwork, Failure> {
    if item.spec.networks.is_empty() {
        return Ok(LaunchNetwork::Empty);
    }
    let attached = shared.drivers.network.attach(item.id, item.address).await;
    attached.map(LaunchNetwork::Path).map_err(|problem| Failure {
        reason: format!("its network: {problem}"),
        retryable: true,
    })
}

fn files(
    shared: &Shared,
    item: &ReplicaItem,
    container: &ContainerSpec,
    node: &NodeItem,
    hostname: &str,
) -> Result<Vec<PlacedFile>, Failure> {
    let place = Place {
        hostname,
        address: (!item.spec.networks.is_empty()).then_some(item.address),
        gateway: node.subnet.address(1).unwrap_or_else(|| node.subnet.base()),
    };
    let mut files = files::resolution(container, place);
    let data = files::data(container, &shared.surroundings.load().data).map_err(|error| Failure {
        reason: error.to_string(),
        retryable: matches!(error, DataError::NotHere { .. }),
    })?;
    files.extend(data);
    Ok(files)
}
