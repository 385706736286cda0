//! Makes the kernel of a node hold a plan, and gives replicas their network namespaces.
//!
//! **Invariant:** what was applied last is remembered only after it all succeeded; after a failure, or in a new agent, the next
//! application starts from what the kernel holds and replaces the rules as a whole, without a gap.
//! Deliberately not here: when to apply (the agent), and what (the plan).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use gantry_model::ReplicaId;
use gantry_model::net::Ipv4Net;
use gantry_netplan::{Change, Gateway, Plan, Warning, diff, render_commands, render_nft};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Notify, RwLock};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::endpoint::{self, Endpoint};
use crate::links::{Link, Links};
use crate::node::{self, Names};
use crate::routes::{SERVICE_PROTOCOL, Target};
use crate::watch::{Disturbance, Watch};
use crate::{Connections, NetworkError, conntrack, firewall, flows, namespace, nft, sockets};

/// A plan that names a replica follows within milliseconds the set that names it; without a server it may never.
const PLANNED_SECONDS_MAX: Duration = Duration::from_secs(1);

/// An endpoint that still answers does so sooner; a client that hears nothing asks again after as long (RFC 6298, 2.1).
const ANSWER_SECONDS_MAX: Duration = Duration::from_secs(1);

/// What a data path calls its things; two on one machine need different ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The link that holds the gateway's address, at most 15 characters.
    pub link: String,
    /// The nftables table.
    pub table: String,
    /// Folder of the replicas' network namespaces; made when missing, on a file system that does not outlive the machine's run.
    pub run_dir: PathBuf,
    /// Link that leads to the other nodes, for its MTU; found from routes when absent.
    pub underlay: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            link: "gantry0".to_string(),
            table: "gantry".to_string(),
            run_dir: PathBuf::from("/run/gantry/netns"),
            underlay: None,
        }
    }
}

/// How an application went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Whether anything had to change.
    pub changed: bool,
    /// Nodes whose address is on no link of ours: their replicas are unreachable from here. Tried again at each application.
    pub unreachable: BTreeMap<Ipv4Net, IpAddr>,
    /// Chain of a foreign firewall in which our packets had to be accepted.
    pub foreign_firewall: Option<&'static str>,
    /// What the plan itself could not give.
    pub warnings: Vec<Warning>,
}

/// The network of one node. All methods may be called at once; applications follow each other.
pub struct NodeDatapath {
    names: Names,
    links: Links,
    applied: Mutex<Option<Applied>>,
    /// What replicas need to know, from the last application.
    base: ArcSwapOption<Base>,
    watch: Watch,
    /// Entries of connections to be deleted a moment later.
    forgetting: StdMutex<JoinSet<()>>,
    /// Addresses that the rules send connections to now.
    endpoints: Arc<ArcSwap<BTreeSet<Ipv4Addr>>>,
    /// Tells of each plan applied.
    news: Notify,
    /// Held to write while replicas' links are looked at as a whole: none is half made then.
    replicas: RwLock<()>,
}

struct Applied {
    plan: Plan,
    report: Report,
}

/// What the links of replicas depend on.
struct Base {
    gateway: Gateway,
    mtu: u32,
}

impl NodeDatapath {
    /// Opens the data path of the network namespace that the calling thread is in. Changes nothing yet.
    ///
    /// # Errors
    /// When a configured name is impossible or there is no netlink socket. Must run inside a tokio runtime.
    pub fn new(config: Config) -> Result<Self, NetworkError> {
        let names = Names::new(config)?;
        Ok(Self {
            links: Links::open(&Handle::current())?,
            applied: Mutex::new(None),
            base: ArcSwapOption::empty(),
            forgetting: StdMutex::default(),
            endpoints: Arc::default(),
            watch: Watch::start(
                vec![names.table.clone(), flows::table(&names.table)],
                SERVICE_PROTOCOL.into(),
            )?,
            news: Notify::new(),
            replicas: RwLock::new(()),
            names,
        })
    }

    /// Makes the kernel hold the plan. Only what differs from the plan applied before is touched.
    ///
    /// # Errors
    /// When the kernel refuses something; applying again then starts afresh. A node that cannot be reached is no error.
    pub async fn apply(&self, plan: &Plan) -> Result<Report, NetworkError> {
        let mut applied = self.applied.lock().await;
        let report = match applied.take() {
            None => self.apply_all(plan).await?,
            Some(before) => self.apply_change(&before, plan).await?,
        };
        self.endpoints.store(Arc::new(plan.endpoints()));
        *applied = Some(Applied {
            plan: plan.clone(),
            report: report.clone(),
        });
        self.news.notify_waiters();
        Ok(report)
    }

    /// Makes the kernel hold the plan without trusting that it still holds the one applied before: for healing what others
    /// removed. The rules are replaced as a whole, without a gap.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub async fn reapply(&self, plan: &Plan) -> Result<Report, NetworkError> {
        self.applied.lock().await.take();
        self.apply(plan).await
    }

    /// Takes over what a former agent left. The plan may be older than what that one applied last, so packet rules that are there
    /// stay as they are until the next [`apply`](Self::apply), which replaces them; where there are none the plan is applied.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub async fn resume(&self, plan: &Plan) -> Result<Report, NetworkError> {
        {
            let applied = self.applied.lock().await;
            if applied.is_none() && nft::has_table(&self.names.table).await? {
                self.ready_links(plan).await?;
                return Ok(Report::default());
            }
        }
        self.apply(plan).await
    }

    /// Waits until somebody else may have changed what was applied.
    pub async fn disturbed(&self) -> Disturbance {
        self.watch.disturbed().await
    }

    /// Brings back what differs from the plan. Rules are replaced as a whole, without a gap; of links, addresses and routes only
    /// what is missing or wrong is touched.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub async fn repair(&self, plan: &Plan, disturbance: Disturbance) -> Result<Report, NetworkError> {
        if disturbance.links {
            let _applied = self.applied.lock().await;
            self.repair_links(plan).await?;
        }
        if disturbance.rules {
            tracing::warn!(
                table = self.names.table,
                "somebody changed the packet rules: replacing the table"
            );
            self.ready_flows(plan, true).await?;
            return self.reapply(plan).await;
        }
        self.apply(plan).await
    }

    async fn repair_links(&self, plan: &Plan) -> Result<(), NetworkError> {
        let _whole = self.replicas.write().await;
        self.ready_links(plan).await?;
        let present = self.links.own_routes().await?;
        for (subnet, via) in &plan.routes {
            if present.get(subnet) != Some(&Target::Via(*via))
                && self.links.set_route(*subnet, Target::Via(*via)).await?
            {
                tracing::warn!(%subnet, "the route to a node was gone or wrong");
            }
        }
        let Some(base) = self.base.load_full() else {
            return Ok(());
        };
        for replica in self.names.replicas()? {
            let Some(address) = plan.replicas.get(&replica) else {
                continue;
            };
            let link = self.links.find(&Names::replica_link(replica)).await?;
            let route = present.get(&Ipv4Net::new(*address, 32));
            let leads =
                |link: &Link| link.is_up() && matches!(route, Some(Target::Link(index, _)) if *index == link.index);
            if !link.as_ref().is_some_and(leads) && namespace::exists(&self.names.namespace(replica)) {
                tracing::warn!(%replica, "its link or route was gone or down");
                self.attach_at(&base, replica, *address).await?;
            }
        }
        Ok(())
    }

    async fn apply_all(&self, plan: &Plan) -> Result<Report, NetworkError> {
        let comment = &self.names.table;
        let foreign_firewall = firewall::accept_pool(plan.replica_pool, comment).await?;
        if let Some(chain) = foreign_firewall {
            tracing::info!(
                chain,
                "the machine's firewall drops forwarded packets: accepting those of replicas there"
            );
        }
        self.ready_links(plan).await?;
        self.remove_strange_routes(plan).await?;
        let unreachable = self.set_routes(plan, &plan.routes).await?;
        self.ready_flows(plan, false).await?;
        self.replace_rules(plan).await?;
        let (pool, kept) = (plan.replica_pool, plan.endpoints());
        conntrack::forget_udp(move |address| pool.contains(address) && !kept.contains(&address)).await?;
        Ok(Report {
            changed: true,
            unreachable,
            foreign_firewall,
            warnings: plan.warnings.clone(),
        })
    }

    async fn apply_change(&self, before: &Applied, plan: &Plan) -> Result<Report, NetworkError> {
        let change = diff(&before.plan, plan);
        if change.links {
            self.ready_links(plan).await?;
            self.remove_strange_routes(plan).await?;
            self.ready_flows(plan, false).await?;
        }
        for subnet in &change.routes_gone {
            self.links.delete_route(*subnet).await?;
        }
        let mut wanted = change.routes_set.clone();
        let missing = before.report.unreachable.keys();
        wanted.extend(missing.filter_map(|subnet| Some((*subnet, *plan.routes.get(subnet)?))));
        let unreachable = self.set_routes(plan, &wanted).await?;
        self.commit_rules(&change, plan).await?;
        if !change.endpoints_gone.is_empty() {
            let gone = change.endpoints_gone.clone();
            conntrack::forget_udp(move |address| gone.contains(&address)).await?;
            self.forget_unanswered_later(change.endpoints_gone.clone());
        }
        Ok(Report {
            changed: !change.is_empty(),
            unreachable,
            foreign_firewall: before.report.foreign_firewall,
            warnings: plan.warnings.clone(),
        })
    }

    /// Clients whose connection nobody answered are sent to somebody else when they ask again, unless the address answers again
    /// by then.
    fn forget_unanswered_later(&self, gone: BTreeSet<Ipv4Addr>) {
        let mut forgetting = self.forgetting.lock().unwrap_or_else(PoisonError::into_inner);
        while forgetting.try_join_next().is_some() {}
        let endpoints = Arc::clone(&self.endpoints);
        forgetting.spawn(async move {
            tokio::time::sleep(ANSWER_SECONDS_MAX).await;
            let serving = endpoints.load_full();
            let is_gone = move |address| gone.contains(&address) && !serving.contains(&address);
            if let Err(error) = conntrack::forget_unanswered(is_gone).await {
                tracing::warn!(%error, "connections that nobody answered are not sent elsewhere");
            }
        });
    }

    async fn commit_rules(&self, change: &Change, plan: &Plan) -> Result<(), NetworkError> {
        let table = &self.names.table;
        if change.commands.is_empty() {
            return Ok(());
        }
        match self.commit(&render_commands(&change.commands, table)).await {
            // Somebody changed the table since: only the whole of it is sure to fit.
            Err(NetworkError::Rules { message, .. }) => {
                tracing::warn!(
                    table,
                    message,
                    "packet rules are not as they were left: replacing the table"
                );
                self.replace_rules(plan).await
            }
            result => result,
        }
    }

    async fn commit(&self, text: &str) -> Result<(), NetworkError> {
        self.watch.own(nft::commit(&self.names.table, text)).await
    }

    async fn replace_rules(&self, plan: &Plan) -> Result<(), NetworkError> {
        let replacement = nft::replace(&self.names.table, |table| render_nft(plan, table));
        self.watch.own(replacement).await
    }

    async fn ready_flows(&self, plan: &Plan, is_doubtful: bool) -> Result<(), NetworkError> {
        let table = flows::table(&self.names.table);
        self.watch.own(flows::ready(&table, plan, is_doubtful)).await
    }

    async fn ready_links(&self, plan: &Plan) -> Result<(), NetworkError> {
        let mtu = node::ready(&self.links, &self.names, plan).await?;
        let gateway = plan.gateway;
        self.base.store(Some(Arc::new(Base { gateway, mtu })));
        Ok(())
    }

    async fn remove_strange_routes(&self, plan: &Plan) -> Result<(), NetworkError> {
        let own = plan.gateway.subnet;
        for subnet in self.links.own_routes().await?.into_keys() {
            // Routes to replicas of this node go with their links.
            let is_replica = subnet.prefix() == 32 && own.contains(subnet.base());
            if !plan.routes.contains_key(&subnet) && ![own, plan.service_pool].contains(&subnet) && !is_replica {
                self.links.delete_route(subnet).await?;
            }
        }
        Ok(())
    }

    /// Sets routes; those whose next hop is out of reach.
    async fn set_routes(
        &self,
        plan: &Plan,
        wanted: &BTreeMap<Ipv4Net, IpAddr>,
    ) -> Result<BTreeMap<Ipv4Net, IpAddr>, NetworkError> {
        let mut unreachable = BTreeMap::new();
        for (subnet, via) in wanted {
            if !self.links.set_route(*subnet, Target::Via(*via)).await? {
                unreachable.insert(*subnet, *via);
            }
        }
        if plan.loopback_ports && !wanted.is_empty() {
            node::allow_loopback_sources(&self.links, &self.names, plan).await?;
        }
        Ok(unreachable)
    }

    /// Gives the replica a network namespace with its address, and returns the namespace's file. A replica that has one keeps
    /// it: whatever is missing in it is added. Waits a moment for a plan that names the replica, so that its first packet passes.
    ///
    /// # Errors
    /// Before the first [`apply`](Self::apply), or when the kernel refuses something; attaching again goes on where it stopped.
    pub async fn attach(&self, replica: ReplicaId, address: Ipv4Addr) -> Result<PathBuf, NetworkError> {
        let base = self.base.load_full().ok_or(NetworkError::NotApplied)?;
        if timeout(PLANNED_SECONDS_MAX, self.planned(replica, address))
            .await
            .is_err()
        {
            tracing::warn!(%replica, "its network begins before the rules that let it reach others");
        }
        let _one_of_many = self.replicas.read().await;
        self.attach_at(&base, replica, address).await
    }

    /// Waits until the rules know the replica: before, its packets are dropped.
    async fn planned(&self, replica: ReplicaId, address: Ipv4Addr) {
        loop {
            let mut news = std::pin::pin!(self.news.notified());
            news.as_mut().enable();
            let applied = self.applied.lock().await;
            let known = applied.as_ref().and_then(|applied| applied.plan.replicas.get(&replica));
            if known == Some(&address) {
                return;
            }
            drop(applied);
            news.await;
        }
    }

    async fn attach_at(&self, base: &Base, replica: ReplicaId, address: Ipv4Addr) -> Result<PathBuf, NetworkError> {
        let path = self.names.namespace(replica);
        let endpoint = Endpoint {
            name: &Names::replica_link(replica),
            address,
            gateway: base.gateway,
            mtu: base.mtu,
        };
        endpoint::attach(&self.links, &path, &endpoint).await?;
        Ok(path)
    }

    /// Lets the replica's namespace go; its links vanish with it once its last process has ended. None there is fine.
    ///
    /// # Errors
    /// When it cannot be unmounted.
    pub async fn detach(&self, replica: ReplicaId) -> Result<(), NetworkError> {
        let _one_of_many = self.replicas.read().await;
        // The link is not deleted by name: that takes the kernel 30 ms, while the namespace's end costs nobody anything.
        let path = self.names.namespace(replica);
        let released = tokio::task::spawn_blocking(move || namespace::release(&path)).await;
        released.unwrap_or(Ok(()))
    }

    /// The connections that clients have with the replica; none when it has no namespace of its own here.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub async fn connections(&self, replica: ReplicaId) -> Result<Option<Connections>, NetworkError> {
        sockets::connections(&self.names.namespace(replica)).await
    }

    /// The TCP ports on which the replica accepts connections from others; none when it has no namespace of its own here.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub async fn listening(&self, replica: ReplicaId) -> Result<Option<BTreeSet<u16>>, NetworkError> {
        sockets::listening(&self.names.namespace(replica)).await
    }

    /// Replicas that have a namespace here, wanted or left over.
    ///
    /// # Errors
    /// When the run folder cannot be read.
    pub fn list(&self) -> Result<Vec<ReplicaId>, NetworkError> {
        self.names.replicas()
    }

    /// Removes everything this data path ever made: rules, routes, links, namespaces, settings (except that the node keeps
    /// forwarding packets, on which others may have come to rely).
    ///
    /// # Errors
    /// When something cannot be removed; what follows it stays too.
    pub async fn teardown(&self) -> Result<(), NetworkError> {
        let mut applied = self.applied.lock().await;
        *applied = None;
        self.base.store(None);
        self.watch.own(nft::delete_table(&self.names.table)).await?;
        let flows = flows::table(&self.names.table);
        self.watch.own(nft::delete_table(&flows)).await?;
        firewall::forget_pool(&self.names.table).await?;
        for subnet in self.links.own_routes().await?.into_keys() {
            self.links.delete_route(subnet).await?;
        }
        for replica in self.names.replicas()? {
            self.detach(replica).await?;
            self.links.delete(&Names::replica_link(replica)).await?;
        }
        self.links.delete(&self.names.link).await?;
        node::restore(&self.names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compiles only while callers may run every operation on any thread of a runtime.
    #[expect(dead_code, reason = "the compiler is the test")]
    fn operations_may_move_between_threads(datapath: Arc<NodeDatapath>, plan: Plan) {
        fn check(_: impl Send) {}
        check(datapath.apply(&plan));
        check(datapath.reapply(&plan));
        check(datapath.attach(ReplicaId(1), Ipv4Addr::LOCALHOST));
        check(datapath.detach(ReplicaId(1)));
        check(datapath.disturbed());
        check(datapath.repair(&plan, Disturbance::default()));
        check(datapath.teardown());
        check(Arc::clone(&datapath));
    }
}
