//! `gantry.v1.Cluster`: one method per call, each a translation and nothing more.

use std::sync::Arc;

use gantry_api::v1::cluster_server::Cluster;
use gantry_api::v1::{
    ApplyReply, ApplyRequest, ChangeServerRequest, Chunk, ClusterStatusReply, CreateRegistryTokenRequest,
    CreateTokenReply, CreateTokenRequest, DeleteRequest, Document, Documents, Empty, ExecInput, ExecOutput,
    ExplainReply, ExplainRequest, ExportImageRequest, ImportImageChunk, ImportImageReply, LogRecord, LogsRequest,
    PlanReply, PlanRequest, ReadRequest, RemoveImageReply, RemoveImageRequest, RemoveNodeRequest, RevokeTokensReply,
    RevokeTokensRequest, RollbackServiceRequest, ScaleServiceRequest, ServiceReply, ServiceRequest, SteerCronRequest,
    SteerRolloutRequest, UpdateNodeRequest, UpdateServiceRequest, WatchReply, WatchRequest,
};
use gantry_model::object::Role;
use gantry_model::spec::{Application, UpdateConfig};
use gantry_model::{Class, Name, NodeId, Problem};
use gantry_rpc::require;
use gantry_rpc::status::from_problem;
use gantry_state::State;
use tonic::{Request, Response, Status, Streaming};

use super::proxy::Answers;
use super::{explain, find, members, nodes, plan, proxy, read, removal, steer, tokens, watch, wire};
use crate::context::Context;
use crate::registry::own_name;
use gantry_leader::admission::{self, Decision, ServiceEdit};

/// Who may use the API: people, and servers on behalf of people.
const CALLERS: &[Role] = &[Role::Admin, Role::Server];

/// The API as served by one server.
#[derive(Clone)]
pub struct ClusterService {
    context: Arc<Context>,
}

type Answer<T> = Result<Response<T>, Status>;

impl ClusterService {
    /// Serves from the given context.
    #[must_use]
    pub const fn new(context: Arc<Context>) -> Self {
        Self { context }
    }

    /// What is to be applied; an image of the cluster's own registry is one of the cluster.
    fn application(&self, request: &ApplyRequest) -> Result<Application, Problem> {
        let mut application = application(request)?;
        for service in application.services.values_mut() {
            if let Some(meant) = own_name(&self.context, &service.container.image) {
                service.container.image = meant;
            }
        }
        Ok(application)
    }

    /// What a plan asks about: an application, more of it, fewer nodes.
    fn outlook(&self, state: &State, request: PlanRequest) -> Result<PlanReply, Problem> {
        let env = self.context.env.as_ref();
        let without = request.without_nodes.iter().map(|name| find::node(state, name));
        let without: Vec<NodeId> = without.map(|node| Ok(node?.id)).collect::<Result<_, Problem>>()?;
        let mut outlook = plan::Outlook::of(state, env.now());
        if request.application.is_some() {
            let request_to_apply = ApplyRequest {
                application: request.application,
                keep_missing: request.keep_missing,
            };
            let application = self.application(&request_to_apply)?;
            let decision = admission::apply(state, env, &application, request.keep_missing)?;
            outlook.decide(env, &decision, &application.namespace);
            if request.room {
                outlook.look_for_room(&application.namespace);
            }
        }
        if !without.is_empty() {
            outlook.look_without(&without);
        }
        Ok(outlook.reply())
    }

    /// Decides about one service, commits, and answers with the service as it is then.
    async fn change_service<F>(&self, namespace: &str, name: &str, mut decide: F) -> Answer<ServiceReply>
    where
        F: FnMut(&State, &gantry_model::object::Service) -> Result<Decision, Problem>,
    {
        let committed = self
            .context
            .commit(|state| {
                let service = find::service(state, namespace, name)?;
                if service.deleting {
                    return Err(Problem::new(Class::Conflict, service.object(), "is being deleted"));
                }
                decide(state, service)
            })
            .await;
        committed.map_err(to_status)?;
        self.current(namespace, name).await
    }

    /// The service as it is now.
    async fn current(&self, namespace: &str, name: &str) -> Answer<ServiceReply> {
        let state = self
            .context
            .raft
            .linearizable()
            .await
            .map_err(|error| to_status(error.into()))?;
        let service = find::service(&state, namespace, name).map_err(to_status)?;
        let document = gantry_api::encode("service", service);
        Ok(Response::new(ServiceReply {
            service: Some(document),
            warnings: Vec::new(),
        }))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err takes")]
fn to_status(problem: Problem) -> Status {
    from_problem(&problem)
}

fn application(request: &ApplyRequest) -> Result<Application, Problem> {
    let document = request
        .application
        .as_ref()
        .ok_or_else(|| Problem::new(Class::Invalid, "application", "is missing from the request"))?;
    gantry_api::decode(document, "application")
}

fn names(texts: &[String]) -> Result<Vec<Name>, Problem> {
    texts.iter().map(|text| find::name(text, "service")).collect()
}

fn edit(request: &UpdateServiceRequest) -> Result<ServiceEdit, Problem> {
    let constraints = |texts: &[String]| {
        let parse = |text: &String| {
            text.parse()
                .map_err(|error| Problem::new(Class::Invalid, format!("constraint {text}"), format!("{error}")))
        };
        texts.iter().map(parse).collect::<Result<Vec<_>, Problem>>()
    };
    let update: Option<UpdateConfig> = request
        .update_config
        .as_ref()
        .map(|document| gantry_api::decode(document, "update_config"))
        .transpose()?;
    Ok(ServiceEdit {
        image: request.image.clone(),
        environment: request.environment.clone(),
        update,
        constraints_add: constraints(&request.constraints_add)?,
        constraints_remove: constraints(&request.constraints_remove)?,
        restart: false,
    })
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    type WatchStream = Answers<WatchReply>;
    type LogsStream = Answers<LogRecord>;
    type ExecStream = Answers<ExecOutput>;
    type ExportImageStream = Answers<Chunk>;

    async fn read(&self, request: Request<ReadRequest>) -> Answer<Documents> {
        require(&request, CALLERS)?;
        let request = request.into_inner();
        let state = if request.stale {
            self.context.raft.state()
        } else {
            self.context
                .raft
                .linearizable()
                .await
                .map_err(|error| to_status(error.into()))?
        };
        let filter = read::Filter {
            kind: &request.kind,
            namespace: &request.namespace,
            name: &request.name,
        };
        let items = read::documents(&state, &filter).map_err(to_status)?;
        Ok(Response::new(Documents {
            items,
            revision: state.revision(),
        }))
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Answer<Self::WatchStream> {
        require(&request, CALLERS)?;
        watch::watch(&self.context, request.into_inner())
            .map(Response::new)
            .map_err(to_status)
    }

    async fn apply(&self, request: Request<ApplyRequest>) -> Answer<ApplyReply> {
        require(&request, CALLERS)?;
        let request = request.into_inner();
        let application = self.application(&request).map_err(to_status)?;
        let env = self.context.env.as_ref();
        let committed = self
            .context
            .commit(|state| admission::apply(state, env, &application, request.keep_missing))
            .await
            .map_err(to_status)?;
        let changes = wire::changes(&committed.decision.changes);
        Ok(Response::new(ApplyReply {
            changes,
            revision: committed.revision,
        }))
    }

    async fn plan(&self, request: Request<PlanRequest>) -> Answer<PlanReply> {
        require(&request, CALLERS)?;
        let request = request.into_inner();
        let state = self
            .context
            .raft
            .linearizable()
            .await
            .map_err(|error| to_status(error.into()))?;
        self.outlook(&state, request).map(Response::new).map_err(to_status)
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Answer<ApplyReply> {
        require(&request, CALLERS)?;
        let request = request.into_inner();
        let namespace = find::name(&request.namespace, "namespace").map_err(to_status)?;
        let names = names(&request.services).map_err(to_status)?;
        let env = self.context.env.as_ref();
        let committed = self
            .context
            .commit(|state| admission::delete(state, env, &namespace, &names))
            .await
            .map_err(to_status)?;
        let changes = wire::changes(&committed.decision.changes);
        Ok(Response::new(ApplyReply {
            changes,
            revision: committed.revision,
        }))
    }

    async fn scale_service(&self, request: Request<ScaleServiceRequest>) -> Answer<ServiceReply> {
        require(&request, CALLERS)?;
        let request = request.into_inner();
        let env = self.context.env.clone();
        self.change_service(&request.namespace, &request.service, |state, service| {
            admission::scale(state, env.as_ref(), service, request.replicas)
        })
        .await
    }

    async fn update_service(&self, request: Request<UpdateServiceRequest>) -> Answer<ServiceReply> {
        require(&request, CALLERS)?;
        let request = request.into_inner();
        let mut edit = edit(&request).map_err(to_status)?;
        if let Some(image) = &mut edit.image
            && let Some(meant) = own_name(&self.context, image)
        {
            *image = meant;
        }
        let env = self.context.env.clone();
        self.change_service(&request.namespace, &request.service, |state, service| {
            admission::edit_service(state, env.as_ref(), service, &edit)
        })
        .await
    }

    async fn rollback_service(&self, request: Request<RollbackServiceRequest>) -> Answer<ServiceReply> {
        require(&request, CALLERS)?;
        let request = request.into_inner();
        let env = self.context.env.clone();
        self.change_service(&request.namespace, &request.service, |state, service| {
            admission::rollback(state, env.as_ref(), service, request.to_revision)
        })
        .await
    }

    async fn restart_service(&self, request: Request<ServiceRequest>) -> Answer<ServiceReply> {
        require(&request, CALLERS)?;
        let request = request.into_inner();
        let env = self.context.env.clone();
        let edit = ServiceEdit {
            restart: true,
            ..ServiceEdit::default()
        };
        self.change_service(&request.namespace, &request.service, |state, service| {
            admission::edit_service(state, env.as_ref(), service, &edit)
        })
        .await
    }

    async fn steer_rollout(&self, request: Request<SteerRolloutRequest>) -> Answer<ServiceReply> {
        require(&request, CALLERS)?;
        let request = request.into_inner();
        let steer = steer::of_rollout(request.action()).map_err(to_status)?;
        let env = self.context.env.clone();
        self.change_service(&request.namespace, &request.service, |state, service| {
            admission::steer(state, env.as_ref(), service, steer)
        })
        .await
    }

    async fn steer_cron(&self, request: Request<SteerCronRequest>) -> Answer<ServiceReply> {
        require(&request, CALLERS)?;
        let request = request.into_inner();
        let steer = steer::of_cron(request.action()).map_err(to_status)?;
        let env = self.context.env.clone();
        let mut run = None;
        let reply = self
            .change_service(&request.namespace, &request.service, |state, service| {
                let (decision, name) = admission::steer_cron(state, env.as_ref(), service, steer)?;
                run = name;
                Ok(decision)
            })
            .await?;
        match run {
            Some(name) => self.current(&request.namespace, name.as_str()).await,
            None => Ok(reply),
        }
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Answer<ExplainReply> {
        require(&request, CALLERS)?;
        explain::explain(&self.context, &request.into_inner())
            .await
            .map(Response::new)
            .map_err(to_status)
    }

    async fn update_node(&self, request: Request<UpdateNodeRequest>) -> Answer<Document> {
        require(&request, CALLERS)?;
        let node = nodes::update(&self.context, &request.into_inner())
            .await
            .map_err(to_status)?;
        Ok(Response::new(gantry_api::encode("node", &node)))
    }

    async fn remove_node(&self, request: Request<RemoveNodeRequest>) -> Answer<Empty> {
        require(&request, CALLERS)?;
        nodes::remove(&self.context, &request.into_inner())
            .await
            .map_err(to_status)?;
        Ok(Response::new(Empty {}))
    }

    async fn cluster_status(&self, request: Request<Empty>) -> Answer<ClusterStatusReply> {
        // A server asks on behalf of a person, and is answered without asking further.
        let caller = require(&request, CALLERS)?;
        if caller.role == Role::Admin {
            return members::status_by_leader(&self.context)
                .await
                .map(Response::new)
                .map_err(to_status);
        }
        members::status(&self.context)
            .await
            .map(Response::new)
            .map_err(to_status)
    }

    async fn change_server(&self, request: Request<ChangeServerRequest>) -> Answer<ClusterStatusReply> {
        require(&request, CALLERS)?;
        members::change(&self.context, &request.into_inner())
            .await
            .map(Response::new)
            .map_err(to_status)
    }

    async fn create_token(&self, request: Request<CreateTokenRequest>) -> Answer<CreateTokenReply> {
        require(&request, CALLERS)?;
        tokens::create(&self.context, &request.into_inner())
            .await
            .map(Response::new)
            .map_err(to_status)
    }

    async fn revoke_tokens(&self, request: Request<RevokeTokensRequest>) -> Answer<RevokeTokensReply> {
        require(&request, CALLERS)?;
        let revoked = tokens::revoke(&self.context, &request.into_inner())
            .await
            .map_err(to_status)?;
        Ok(Response::new(RevokeTokensReply { revoked }))
    }

    async fn create_registry_token(&self, request: Request<CreateRegistryTokenRequest>) -> Answer<CreateTokenReply> {
        require(&request, CALLERS)?;
        tokens::create_for_registry(&self.context, &request.into_inner())
            .await
            .map(Response::new)
            .map_err(to_status)
    }

    async fn revoke_registry_token(&self, request: Request<RevokeTokensRequest>) -> Answer<RevokeTokensReply> {
        require(&request, CALLERS)?;
        let revoked = tokens::revoke_of_registry(&self.context, &request.into_inner().id)
            .await
            .map_err(to_status)?;
        Ok(Response::new(RevokeTokensReply { revoked }))
    }

    async fn logs(&self, request: Request<LogsRequest>) -> Answer<Self::LogsStream> {
        require(&request, CALLERS)?;
        proxy::logs(&self.context, request.into_inner())
            .await
            .map(Response::new)
            .map_err(to_status)
    }

    async fn exec(&self, request: Request<Streaming<ExecInput>>) -> Answer<Self::ExecStream> {
        require(&request, CALLERS)?;
        proxy::exec(&self.context, request.into_inner())
            .await
            .map(Response::new)
            .map_err(to_status)
    }

    async fn import_image(&self, request: Request<Streaming<ImportImageChunk>>) -> Answer<ImportImageReply> {
        require(&request, CALLERS)?;
        proxy::import_image(&self.context, request.into_inner())
            .await
            .map(Response::new)
            .map_err(to_status)
    }

    async fn export_image(&self, request: Request<ExportImageRequest>) -> Answer<Self::ExportImageStream> {
        require(&request, CALLERS)?;
        proxy::export_image(&self.context, request.into_inner())
            .await
            .map(Response::new)
            .map_err(to_status)
    }

    async fn remove_image(&self, request: Request<RemoveImageRequest>) -> Answer<RemoveImageReply> {
        require(&request, CALLERS)?;
        removal::remove_image(&self.context, request.into_inner())
            .await
            .map(Response::new)
            .map_err(to_status)
    }
}
