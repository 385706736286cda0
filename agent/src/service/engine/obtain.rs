//! The image of a container that is about to be made, by its pull policy.

use gantry_api::v1::{AttachOutput, PullImageRequest, TransferProgress, attach_output};
use gantry_model::container::{PullPolicy, RunSpec};
use gantry_model::{Class, ImageReference, Problem};
use gantry_rpc::status::to_problem;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tonic::Status;

use super::super::NodeService;
use crate::drivers::ReadyImage;

/// Who hears of a pull.
pub(super) type Hears = mpsc::Sender<Result<AttachOutput, Status>>;

/// Gets the image: from the store, from nodes of the cluster, or from its registry.
pub(super) async fn image(
    service: &NodeService,
    spec: &RunSpec,
    auth_json: &[u8],
    hears: Option<&Hears>,
) -> Result<ReadyImage, Problem> {
    let reference = &spec.container.image;
    let is_here = match &spec.container.image_digest {
        // A digest is found in the cluster.
        Some(_) => true,
        None => is_here(service, reference)?,
    };
    match spec.pull {
        PullPolicy::Always => pull(service, spec, auth_json, hears).await?,
        PullPolicy::Missing if !is_here => {
            if !of_cluster(service, spec).await {
                pull(service, spec, auth_json, hears).await?;
            }
        }
        PullPolicy::Never | PullPolicy::Build if !is_here && !of_cluster(service, spec).await => {
            let reason = "is not in the cluster, and is not to be pulled";
            return Err(Problem::new(Class::NotFound, format!("image {reference}"), reason)
                .remedy(format!("get it with `gantry image pull {reference}`, or build it")));
        }
        PullPolicy::Missing | PullPolicy::Never | PullPolicy::Build => {}
    }
    let ready = service.shared.drivers.images.ensure(&spec.container).await;
    ready.map_err(|failure| Problem::new(Class::Unavailable, String::new(), failure.reason))
}

/// Whether other nodes gave it. Which of its platforms the cluster has is not known, so a wish for one goes to the registry.
async fn of_cluster(service: &NodeService, spec: &RunSpec) -> bool {
    match spec.container.image.parse::<ImageReference>() {
        Ok(reference) if spec.platform.is_none() => service.images.of_cluster(&reference).await.is_some(),
        Ok(_) | Err(_) => false,
    }
}

fn is_here(service: &NodeService, reference: &str) -> Result<bool, Problem> {
    let parsed: Result<ImageReference, _> = reference.parse();
    let parsed = parsed.map_err(|error| Problem::new(Class::Invalid, "image reference", format!("{error}")))?;
    Ok(service.images.store().resolve(&parsed).is_some())
}

async fn pull(service: &NodeService, spec: &RunSpec, auth_json: &[u8], hears: Option<&Hears>) -> Result<(), Problem> {
    let request = PullImageRequest {
        reference: spec.container.image.clone(),
        platform: spec.platform.clone().unwrap_or_default(),
        registry_auth_json: auth_json.to_vec().into(),
        ..PullImageRequest::default()
    };
    let mut steps = super::images::pull(service, request)?;
    while let Some(step) = steps.next().await {
        let step: TransferProgress =
            step.map_err(|status| to_problem(&status, &format!("image {}", spec.container.image)))?;
        if let (Some(hears), None) = (hears, &step.result) {
            let output = AttachOutput {
                output: Some(attach_output::Output::Progress(step)),
            };
            // Who hangs up in the middle leaves the image behind all the same.
            drop(hears.send(Ok(output)).await);
        }
    }
    Ok(())
}
