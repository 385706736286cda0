//! Making, starting, stopping, listing and removing containers.

use gantry_api::kind;
use gantry_api::v1::wait_container_request::Until as WireUntil;
use gantry_api::v1::{
    CreateContainerRequest, Document, Documents, KillContainerRequest, ListContainersRequest, PruneContainersReply,
    PruneContainersRequest, RenameContainerRequest, StopContainerRequest, UpdateContainerRequest, WaitContainerReply,
    WaitContainerRequest,
};
use gantry_model::container::{Container, RunSpec};
use gantry_model::{Class, DurationMs, Problem};
use nix::libc;

use super::super::NodeService;
use super::obtain;
use crate::engine::Until;
use crate::engine::actor::Stop;
use crate::engine::filters::Filters;
use crate::signal;

pub(super) fn document(container: &Container) -> Document {
    gantry_api::encode(kind::CONTAINER, container)
}

/// A spec as it came.
pub(super) fn spec(document: Option<&Document>) -> Result<RunSpec, Problem> {
    let missing = || Problem::new(Class::Invalid, "container", "has no spec");
    gantry_api::decode(document.ok_or_else(missing)?, kind::RUN_SPEC)
}

pub(super) async fn create(service: &NodeService, request: CreateContainerRequest) -> Result<Document, Problem> {
    let spec = spec(request.spec.as_ref())?;
    let image = obtain::image(service, &spec, &request.registry_auth_json, None).await?;
    let (_, entry) = service.engine.create(spec, image).await?;
    Ok(document(&service.engine.shown(&entry)))
}

pub(super) async fn start(service: &NodeService, container: &str) -> Result<Document, Problem> {
    let (id, entry) = service.engine.find(container)?;
    service.engine.start(id, &entry, None).await?;
    Ok(document(&service.engine.shown(&entry)))
}

fn parse_signal(text: &str) -> Result<i32, Problem> {
    signal::number(text).ok_or_else(|| {
        Problem::new(Class::Invalid, format!("signal '{text}'"), "there is no such signal")
            .remedy("write a name such as SIGTERM, or a number")
    })
}

pub(super) async fn stop(
    service: &NodeService,
    request: &StopContainerRequest,
    then_start: bool,
) -> Result<Document, Problem> {
    let signal = match request.signal.as_str() {
        "" => None,
        text => Some(parse_signal(text)?),
    };
    let stop = Stop {
        grace: request.grace_ms.map(DurationMs),
        signal,
    };
    let container = service.engine.stop(&request.container, stop, then_start).await?;
    Ok(document(&container))
}

pub(super) async fn kill(service: &NodeService, request: &KillContainerRequest) -> Result<Document, Problem> {
    let signal = match request.signal.as_str() {
        "" => libc::SIGKILL,
        text => parse_signal(text)?,
    };
    Ok(document(&service.engine.kill(&request.container, signal).await?))
}

pub(super) async fn freeze(service: &NodeService, container: &str, frozen: bool) -> Result<Document, Problem> {
    Ok(document(&service.engine.freeze(container, frozen).await?))
}

pub(super) async fn wait(service: &NodeService, request: &WaitContainerRequest) -> Result<WaitContainerReply, Problem> {
    let until = match request.until() {
        WireUntil::Unspecified | WireUntil::NotRunning => Until::NotRunning,
        WireUntil::NextExit => Until::NextExit,
        WireUntil::Removed => Until::Removed,
        WireUntil::Healthy => Until::Healthy,
    };
    let exit_code = service.engine.wait(&request.container, until).await?;
    Ok(WaitContainerReply { exit_code })
}

pub(super) async fn rename(service: &NodeService, request: &RenameContainerRequest) -> Result<Document, Problem> {
    let container = service.engine.rename(&request.container, &request.name).await?;
    Ok(document(&container))
}

pub(super) async fn update(service: &NodeService, request: &UpdateContainerRequest) -> Result<Document, Problem> {
    let resources = request.resources.as_ref();
    let resources = resources
        .map(|document| gantry_api::decode(document, kind::RESOURCES))
        .transpose()?;
    let restart = request.restart.as_ref();
    let restart = restart
        .map(|document| gantry_api::decode(document, kind::RESTART_POLICY))
        .transpose()?;
    let container = service.engine.update(&request.container, resources, restart).await?;
    Ok(document(&container))
}

pub(super) fn list(service: &NodeService, request: &ListContainersRequest) -> Result<Documents, Problem> {
    let filters = Filters::parse(&request.filters)?;
    let containers = service.engine.list(request.all, &filters);
    Ok(Documents {
        items: containers.iter().map(document).collect(),
        revision: 0,
    })
}

pub(super) fn inspect(service: &NodeService, container: &str) -> Result<Document, Problem> {
    Ok(document(&service.engine.inspect(container)?))
}

pub(super) async fn prune(
    service: &NodeService,
    request: &PruneContainersRequest,
) -> Result<PruneContainersReply, Problem> {
    let filters = Filters::parse(&request.filters)?;
    let before = super::files::written_bytes(service).await;
    let removed = service.engine.prune(&filters).await?;
    let freed = removed.iter().filter_map(|id| before.get(id)).sum();
    Ok(PruneContainersReply {
        removed: removed.iter().map(ToString::to_string).collect(),
        freed_bytes: freed,
    })
}
