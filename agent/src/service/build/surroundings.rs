//! What the node gives to builds: base images, and the network of `RUN`. Called from threads of the executor.

use std::net::IpAddr;
use std::sync::Arc;

use gantry_api::v1::{PullImageRequest, TransferProgress};
use gantry_build::{Attached, BaseImages, Networks, WantedCache, WantedImage};
use gantry_env::{FreshIds, System};
use gantry_image::Platform;
use gantry_model::spec::ContainerSpec;
use gantry_model::{Class, Digest, Problem, ReplicaId};
use gantry_network::LocalAttachment;
use gantry_rpc::status::to_problem;
use tokio::runtime::Handle;
use tokio_stream::StreamExt;

use super::super::registry::Registries;
use crate::drivers::Images;
use crate::drivers::images::NodeImages;
use crate::engine::{Engine, resolver};

/// Base images: of the store, of other nodes of the cluster, or from their registry.
pub(super) struct Bases {
    images: NodeImages,
    registries: Registries,
    runtime: Handle,
}

impl Bases {
    pub(super) fn new(images: NodeImages, registries: Registries) -> Self {
        Self {
            images,
            registries,
            runtime: Handle::current(),
        }
    }

    fn here(&self, wanted: &WantedImage<'_>) -> Option<Digest> {
        let store = self.images.store();
        let target = store.target(wanted.reference)?;
        store.for_platform(target, &Platform::parse(&wanted.platform.to_string()))
    }

    /// Nodes of the cluster, by digest, or by what the reference means there; a base that is to be fresh is its registry's.
    async fn of_cluster(&self, wanted: &WantedImage<'_>) -> Option<Digest> {
        let Some(digest) = wanted.reference.digest() else {
            if wanted.fresh {
                return None;
            }
            self.images.of_cluster(wanted.reference).await?;
            return self.here(wanted);
        };
        let container = ContainerSpec {
            image: wanted.reference.to_string(),
            image_digest: Some(digest.to_string()),
            ..ContainerSpec::default()
        };
        // The registry is asked when no node has it.
        self.images.ensure(&container).await.ok().map(|ready| ready.digest)
    }

    async fn pull(&self, wanted: &WantedImage<'_>, progress: &dyn Fn(&str, u64, u64)) -> Result<Digest, Problem> {
        let object = format!("image {}", wanted.reference.familiar());
        let auth = serde_json::to_vec(wanted.auth)
            .map_err(|_| Problem::new(Class::Internal, "registry credentials", "cannot be passed on"))?;
        let mut steps = self.registries.pull(PullImageRequest {
            reference: wanted.reference.to_string(),
            platform: wanted.platform.to_string(),
            registry_auth_json: auth.into(),
            ..PullImageRequest::default()
        })?;
        let mut pulled = None;
        while let Some(step) = steps.next().await {
            let step: TransferProgress = step.map_err(|status| to_problem(&status, &object))?;
            match step.result {
                Some(result) => pulled = result.images.first().and_then(|image| image.digest.parse().ok()),
                None => progress(&step.what, step.current, step.total),
            }
        }
        pulled.ok_or_else(|| Problem::new(Class::Internal, object, "the transfer ended without a result"))
    }
}

impl Bases {
    /// Every image of a cache, from its registry.
    async fn pull_cache(&self, wanted: &WantedCache<'_>) -> Result<Vec<Digest>, Problem> {
        let object = format!("image {}", wanted.reference.familiar());
        let auth = serde_json::to_vec(wanted.auth)
            .map_err(|_| Problem::new(Class::Internal, "registry credentials", "cannot be passed on"))?;
        let mut steps = self.registries.pull(PullImageRequest {
            reference: wanted.reference.to_string(),
            platform: "all".to_string(),
            registry_auth_json: auth.into(),
            ..PullImageRequest::default()
        })?;
        while let Some(step) = steps.next().await {
            let step: TransferProgress = step.map_err(|status| to_problem(&status, &object))?;
            if step.result.is_some() {
                let store = self.images.store();
                let target = store.target(wanted.reference);
                return Ok(target.map(|target| store.images_below(target)).unwrap_or_default());
            }
        }
        Err(Problem::new(
            Class::Internal,
            object,
            "the transfer ended without a result",
        ))
    }
}

impl BaseImages for Bases {
    fn cache(&self, wanted: &WantedCache<'_>) -> Result<Vec<Digest>, Problem> {
        self.runtime.block_on(self.pull_cache(wanted))
    }

    fn ensure(&self, wanted: &WantedImage<'_>, progress: &dyn Fn(&str, u64, u64)) -> Result<Digest, Problem> {
        if let Some(digest) = self.here(wanted).filter(|_| !wanted.fresh) {
            return Ok(digest);
        }
        self.runtime.block_on(async {
            match self.of_cluster(wanted).await {
                Some(digest) => Ok(digest),
                None => self.pull(wanted, progress).await,
            }
        })
    }
}

/// The network of containers run by hand.
pub(super) struct LocalNetworks {
    engine: Engine,
    runtime: Handle,
}

impl LocalNetworks {
    pub(super) fn new(engine: &Engine) -> Self {
        Self {
            engine: engine.clone(),
            runtime: Handle::current(),
        }
    }
}

/// A namespace of that network, given back when dropped.
struct Namespace {
    id: ReplicaId,
    attachment: LocalAttachment,
    engine: Engine,
    runtime: Handle,
}

impl std::fmt::Debug for Namespace {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Namespace({})", self.attachment.address)
    }
}

impl Networks for LocalNetworks {
    fn attach(&self, _id: &str) -> Result<Box<dyn Attached>, Problem> {
        let (id, parts) = (System.replica_id(), Arc::clone(self.engine.parts()));
        let attachment = self.runtime.block_on(async {
            let avoid = parts.cluster_pools();
            let attached = parts.bridge.attach(id, avoid.clone()).await?;
            if resolver::needs_forwarder(&node_resolver())
                && let Err(problem) = parts.bridge.serve_names(avoid).await
            {
                tracing::warn!(%problem, "builds have no name server");
            }
            Ok::<_, Problem>(attached)
        })?;
        Ok(Box::new(Namespace {
            id,
            attachment,
            engine: self.engine.clone(),
            runtime: self.runtime.clone(),
        }))
    }
}

impl Attached for Namespace {
    fn network(&self) -> gantry_runtime::Network {
        gantry_runtime::Network::Path(self.attachment.namespace.clone())
    }

    fn addresses(&self) -> Vec<IpAddr> {
        vec![IpAddr::V4(self.attachment.address)]
    }

    fn resolv_conf(&self) -> Vec<u8> {
        let gateway = Some(IpAddr::V4(self.attachment.gateway));
        resolver::resolv_conf(&node_resolver(), &ContainerSpec::default(), gateway).into_bytes()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let detached = self.runtime.block_on(self.engine.parts().bridge.detach(self.id));
        if let Err(problem) = detached {
            tracing::warn!(%problem, "the network of a build step stays until the agent starts again");
        }
    }
}

fn node_resolver() -> String {
    // A node without the file has no name servers either.
    std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default()
}
