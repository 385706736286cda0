//! `gantry.v1.Engine`: containers by hand, and images of this node.

mod attach;
mod changes;
mod commit;
mod containers;
mod files;
pub(super) mod images;
mod obtain;
mod stats;

use gantry_api::v1::engine_server::Engine;
use gantry_api::v1::{
    AttachInput, AttachOutput, BuildInput, BuildOutput, Chunk, CommitContainerRequest, ContainerRequest,
    CopyFromRequest, CopyToInput, CreateContainerRequest, Document, Documents, Empty, ImageRequest, ImportImageReply,
    KillContainerRequest, ListContainersRequest, PruneContainersReply, PruneContainersRequest, PruneImagesReply,
    PruneImagesRequest, PullImageRequest, PushImageRequest, RemoveContainerRequest, RenameContainerRequest,
    StatsContainersRequest, StopContainerRequest, TagImageRequest, TopContainerReply, TransferProgress,
    UpdateContainerRequest, VerifyImagesRequest, WaitContainerReply, WaitContainerRequest,
};
use gantry_model::Problem;
use gantry_model::object::Role;
use gantry_rpc::status::from_problem;
use tonic::{Request, Response, Status, Streaming};

use super::{Answers, NodeService, allow};

/// Servers speak for people, who were checked there.
fn check<T>(request: Request<T>) -> Result<T, Status> {
    allow(&request, &[Role::Server])?;
    Ok(request.into_inner())
}

fn answer<T>(result: Result<T, Problem>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|problem| from_problem(&problem))
}

#[tonic::async_trait]
impl Engine for NodeService {
    type StatsContainersStream = Answers<Documents>;
    type CopyFromStream = Answers<Chunk>;
    type ExportContainerStream = Answers<Chunk>;
    type AttachStream = Answers<AttachOutput>;
    type PullImageStream = Answers<TransferProgress>;
    type PushImageStream = Answers<TransferProgress>;
    type BuildStream = Answers<BuildOutput>;

    async fn create_container(&self, request: Request<CreateContainerRequest>) -> Result<Response<Document>, Status> {
        answer(containers::create(self, check(request)?).await)
    }

    async fn start_container(&self, request: Request<ContainerRequest>) -> Result<Response<Document>, Status> {
        answer(containers::start(self, &check(request)?.container).await)
    }

    async fn stop_container(&self, request: Request<StopContainerRequest>) -> Result<Response<Document>, Status> {
        answer(containers::stop(self, &check(request)?, false).await)
    }

    async fn restart_container(&self, request: Request<StopContainerRequest>) -> Result<Response<Document>, Status> {
        answer(containers::stop(self, &check(request)?, true).await)
    }

    async fn kill_container(&self, request: Request<KillContainerRequest>) -> Result<Response<Document>, Status> {
        answer(containers::kill(self, &check(request)?).await)
    }

    async fn pause_container(&self, request: Request<ContainerRequest>) -> Result<Response<Document>, Status> {
        answer(containers::freeze(self, &check(request)?.container, true).await)
    }

    async fn unpause_container(&self, request: Request<ContainerRequest>) -> Result<Response<Document>, Status> {
        answer(containers::freeze(self, &check(request)?.container, false).await)
    }

    async fn wait_container(
        &self,
        request: Request<WaitContainerRequest>,
    ) -> Result<Response<WaitContainerReply>, Status> {
        answer(containers::wait(self, &check(request)?).await)
    }

    async fn remove_container(&self, request: Request<RemoveContainerRequest>) -> Result<Response<Empty>, Status> {
        let request = check(request)?;
        let removed = self
            .engine
            .remove(&request.container, request.force, request.volumes)
            .await;
        answer(removed.map(|()| Empty {}))
    }

    async fn rename_container(&self, request: Request<RenameContainerRequest>) -> Result<Response<Document>, Status> {
        answer(containers::rename(self, &check(request)?).await)
    }

    async fn update_container(&self, request: Request<UpdateContainerRequest>) -> Result<Response<Document>, Status> {
        answer(containers::update(self, &check(request)?).await)
    }

    async fn list_containers(&self, request: Request<ListContainersRequest>) -> Result<Response<Documents>, Status> {
        answer(containers::list(self, &check(request)?))
    }

    async fn inspect_container(&self, request: Request<ContainerRequest>) -> Result<Response<Document>, Status> {
        answer(containers::inspect(self, &check(request)?.container))
    }

    async fn prune_containers(
        &self,
        request: Request<PruneContainersRequest>,
    ) -> Result<Response<PruneContainersReply>, Status> {
        answer(containers::prune(self, &check(request)?).await)
    }

    async fn top_container(&self, request: Request<ContainerRequest>) -> Result<Response<TopContainerReply>, Status> {
        answer(stats::top(self, &check(request)?.container).await)
    }

    async fn stats_containers(
        &self,
        request: Request<StatsContainersRequest>,
    ) -> Result<Response<Self::StatsContainersStream>, Status> {
        answer(stats::open(self, check(request)?).await)
    }

    async fn diff_container(&self, request: Request<ContainerRequest>) -> Result<Response<Documents>, Status> {
        answer(files::diff(self, &check(request)?.container).await)
    }

    async fn copy_from(&self, request: Request<CopyFromRequest>) -> Result<Response<Self::CopyFromStream>, Status> {
        answer(files::copy_from(self, check(request)?).await)
    }

    async fn copy_to(&self, request: Request<Streaming<CopyToInput>>) -> Result<Response<Empty>, Status> {
        answer(files::copy_to(self, check(request)?).await)
    }

    async fn export_container(
        &self,
        request: Request<ContainerRequest>,
    ) -> Result<Response<Self::ExportContainerStream>, Status> {
        answer(files::export(self, &check(request)?.container).await)
    }

    async fn commit_container(
        &self,
        request: Request<CommitContainerRequest>,
    ) -> Result<Response<ImportImageReply>, Status> {
        answer(commit::commit(self, check(request)?).await)
    }

    async fn attach(&self, request: Request<Streaming<AttachInput>>) -> Result<Response<Self::AttachStream>, Status> {
        answer(attach::open(self, check(request)?).await)
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Result<Response<Self::PullImageStream>, Status> {
        answer(images::pull(self, check(request)?))
    }

    async fn push_image(&self, request: Request<PushImageRequest>) -> Result<Response<Self::PushImageStream>, Status> {
        answer(self.registries.push(check(request)?))
    }

    async fn list_images(&self, request: Request<Empty>) -> Result<Response<Documents>, Status> {
        check(request)?;
        answer(images::list(self).await)
    }

    async fn inspect_image(&self, request: Request<ImageRequest>) -> Result<Response<Document>, Status> {
        answer(images::inspect(self, &check(request)?.image).await)
    }

    async fn image_history(&self, request: Request<ImageRequest>) -> Result<Response<Documents>, Status> {
        answer(images::history(self, &check(request)?.image).await)
    }

    async fn tag_image(&self, request: Request<TagImageRequest>) -> Result<Response<Empty>, Status> {
        answer(images::tag(self, check(request)?).await)
    }

    async fn prune_images(&self, request: Request<PruneImagesRequest>) -> Result<Response<PruneImagesReply>, Status> {
        answer(images::prune(self, check(request)?).await)
    }

    async fn disk_usage(&self, request: Request<Empty>) -> Result<Response<Document>, Status> {
        check(request)?;
        answer(images::disk_usage(self).await)
    }

    async fn ingress_report(&self, request: Request<Empty>) -> Result<Response<Document>, Status> {
        check(request)?;
        let report = self.shared.ingress.report(&self.node);
        Ok(Response::new(gantry_api::encode(
            gantry_api::kind::INGRESS_REPORT,
            &report,
        )))
    }

    async fn verify_images(&self, request: Request<VerifyImagesRequest>) -> Result<Response<Documents>, Status> {
        answer(images::verify(self, check(request)?.repair).await)
    }

    async fn build(&self, request: Request<Streaming<BuildInput>>) -> Result<Response<Self::BuildStream>, Status> {
        answer(super::build::open(self, check(request)?).await)
    }

    async fn prune_build_cache(
        &self,
        request: Request<PruneImagesRequest>,
    ) -> Result<Response<PruneImagesReply>, Status> {
        answer(super::build::prune(self, check(request)?).await)
    }
}
