//! Why something is not running, or why it runs there.

use gantry_api::v1::{ExplainReply, ExplainRequest};
use gantry_model::{Class, Problem};
use gantry_reconcile::Target;

use super::find;
use crate::context::Context;

/// Explains a service, or the current replica of a slot, or a replica by id.
///
/// # Errors
/// When nothing fits the name.
pub async fn explain(context: &Context, request: &ExplainRequest) -> Result<ExplainReply, Problem> {
    let state = context.raft.linearizable().await?;
    let target = match find::service(&state, &request.namespace, &request.object) {
        Ok(service) => Target::Service(service.id),
        Err(no_service) => {
            let replicas = find::replicas(&state, &request.namespace, &request.object)?;
            Target::Replica(find::current(&replicas).ok_or(no_service)?.id)
        }
    };
    let answer = gantry_reconcile::explain(&state, target)
        .ok_or_else(|| Problem::new(Class::NotFound, request.object.clone(), "does not exist any more"))?;
    let replicas = answer.replicas.iter().filter_map(|id| state.replica(*id));
    Ok(ExplainReply {
        object: answer.object,
        summary: answer.summary,
        reasons: answer.reasons,
        remedy: answer.remedy,
        replicas: replicas.map(|replica| gantry_api::encode("replica", replica)).collect(),
    })
}
