//! The servers of the cluster, and changes among them.

use std::time::Duration;

use gantry_api::v1::change_server_request::Action;
use gantry_api::v1::cluster_client::ClusterClient;
use gantry_api::v1::{ChangeServerRequest, ClusterStatusReply, Empty, ServerStatus};
use gantry_model::object::NodeStatus;
use gantry_model::spec::Mode;
use gantry_model::{Class, Problem, ServerId};
use gantry_raft::{Member, Voting};
use gantry_rpc::{Remote, WithLimits};

use crate::context::Context;

/// Voters that a cluster is given automatically: more make every write wait for more disks and save nothing.
const VOTERS_AUTOMATIC_MAX: usize = 5;

/// How long a server waits for what the leader knows before it answers with what it knows itself.
const LEADER_PATIENCE: Duration = Duration::from_secs(1);

/// The cluster at a glance, as the leader sees it, who alone knows which servers answer; as this server sees it when there is
/// no leader to ask.
///
/// # Errors
/// When this server takes no part in the cluster any more.
pub async fn status_by_leader(context: &Context) -> Result<ClusterStatusReply, Problem> {
    let leader = context.raft.leadership().borrow().leader.clone();
    if let Some(leader) = leader.filter(|leader| leader.id != context.server) {
        let channel = context.channels.channel(&leader.address, Remote::Server(leader.id));
        let mut client = ClusterClient::new(channel).with_limits();
        let asked = client.cluster_status(Empty {});
        if let Ok(Ok(reply)) = tokio::time::timeout(LEADER_PATIENCE, asked).await {
            return Ok(reply.into_inner());
        }
    }
    status(context).await
}

/// The cluster at a glance, as this server sees it. Answers without a leader too, and soon: a server that was just removed has
/// none and never will.
///
/// # Errors
/// None today.
pub async fn status(context: &Context) -> Result<ClusterStatusReply, Problem> {
    let state = match tokio::time::timeout(LEADER_PATIENCE, context.raft.linearizable()).await {
        Ok(Ok(state)) => state,
        Ok(Err(_)) | Err(_) => context.raft.state(),
    };
    let members = context.raft.members();
    let leadership = context.raft.leadership().borrow().clone();
    let leader = leadership.leader.map(|leader| leader.id);
    let nodes = |status| u32::try_from(state.nodes().filter(|node| node.status == status).count()).unwrap_or(u32::MAX);
    let server = |member: &Member| ServerStatus {
        id: member.id.to_string(),
        address: member.address.clone(),
        voter: member.voting == Voting::Voter,
        leader: Some(member.id) == leader,
        matched: member.matched.unwrap_or_default(),
        reachable: member.reachable.unwrap_or(true),
    };
    let running = state.replicas().filter(|replica| replica.is_endpoint()).count();
    let wanted: u32 = state
        .services()
        .map(|service| match service.spec.mode {
            Mode::Replicated { replicas } => replicas,
            Mode::ReplicatedJob { completions, .. } => completions,
            Mode::Global | Mode::GlobalJob => nodes(NodeStatus::Ready),
        })
        .sum();
    Ok(ClusterStatusReply {
        name: state.cluster().map(|cluster| cluster.name.clone()).unwrap_or_default(),
        leader: leader.map(|id| id.to_string()).unwrap_or_default(),
        term: leadership.term,
        servers: members.servers.iter().map(server).collect(),
        applied: state.revision(),
        nodes_ready: nodes(NodeStatus::Ready),
        nodes_down: nodes(NodeStatus::Down),
        services: u32::try_from(state.services().count()).unwrap_or(u32::MAX),
        replicas_running: u32::try_from(running).unwrap_or(u32::MAX),
        replicas_wanted: wanted,
    })
}

/// Promotes, demotes, removes, adds a server, or hands leadership on; answers with the servers as they are then.
///
/// # Errors
/// An unknown server, or a change that the others do not agree to.
pub async fn change(context: &Context, request: &ChangeServerRequest) -> Result<ClusterStatusReply, Problem> {
    let raft = &context.raft;
    match request.action() {
        Action::Unspecified => {
            return Err(Problem::new(
                Class::Invalid,
                format!("server {}", request.server),
                "no action is given",
            ));
        }
        Action::Promote => raft.promote(find(context, &request.server).await?).await?,
        Action::Demote => raft.demote(find(context, &request.server).await?).await?,
        Action::Remove => raft.remove(find(context, &request.server).await?).await?,
        Action::TransferLeader if request.server.is_empty() => raft.transfer_leader(None).await?,
        Action::TransferLeader => {
            raft.transfer_leader(Some(find(context, &request.server).await?))
                .await?
        }
        Action::Add => add(context, request).await?,
    }
    status(context).await
}

/// As a learner first, which costs the majority nothing while it catches up, then as a voter.
async fn add(context: &Context, request: &ChangeServerRequest) -> Result<(), Problem> {
    let id: ServerId = gantry_api::parse_id("server", &request.server)?;
    context.raft.add_server(id, request.address.clone()).await?;
    let voters = context.raft.members().voters().count();
    if voters < VOTERS_AUTOMATIC_MAX {
        context.raft.promote(id).await?;
    }
    Ok(())
}

/// A server by id, the beginning of its id, or its address. One that this server does not know may have been added a moment ago.
async fn find(context: &Context, name: &str) -> Result<ServerId, Problem> {
    match look_up(context, name) {
        Err(problem) if problem.class == Class::NotFound => {
            context.raft.linearizable().await?;
            look_up(context, name)
        }
        found => found,
    }
}

fn look_up(context: &Context, name: &str) -> Result<ServerId, Problem> {
    let members = context.raft.members();
    let fits = |member: &&Member| {
        let id = member.id.to_string();
        id == name || member.address == name || (name.len() >= 3 && id.starts_with(name))
    };
    let found: Vec<ServerId> = members.servers.iter().filter(fits).map(|member| member.id).collect();
    match found.as_slice() {
        [one] => Ok(*one),
        [] => Err(Problem::new(
            Class::NotFound,
            format!("server {name}"),
            "is not a member of the cluster",
        )
        .remedy("`gantry cluster status` lists the members")),
        _ => Err(Problem::new(
            Class::Invalid,
            format!("server {name}"),
            "fits several servers",
        )),
    }
}
