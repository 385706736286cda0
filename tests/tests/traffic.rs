//! Not one request is dropped: a service of ten nginx replicas under load while everything that is planned happens to it.
//!
//! The load asks the published port of every node, with a connection per request and with kept connections, asks for a page that
//! takes a while, and asks by name from inside a container. A kept connection may be closed by its server between two requests,
//! which clients answer by asking again (see `load`); those are printed, and are no failures.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use gantry_tests::{Cluster, Container, Lab, Shape, Stream, Tally, machine_ms, under_load, until, web_rootfs};

const SHAPE: Shape = Shape {
    servers: 3,
    agents: 3,
    lease_s: 5,
};

const REPLICAS: usize = 10;

/// Requests of the least busy stream in the shortest event; fewer would prove nothing.
const REQUESTS_MIN: u64 = 3;

/// The page `/slow` takes about half a second: long enough that some are under way whenever a replica stops. SIGTERM makes nginx
/// cut what is under way, which is what most programs do that know nothing of signals.
const MANIFEST: &str = r#"
name: shop
services:
  web:
    image: web:v1
    command: ["/usr/sbin/nginx", "-c", "/etc/nginx.conf"]
    configs: [{ source: site, target: /etc/nginx.conf }]
    environment: { VERSION: "${VERSION}" }
    ports: ["8080:80"]
    stop_grace_period: 2s
    healthcheck:
      { test: ["CMD", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1/"], interval: 5s, start_period: 20s, start_interval: 100ms }
    deploy:
      replicas: ${REPLICAS}
      update_config: { parallelism: 5, order: "${ORDER}", monitor: 300ms, delay: 0s }
      rollback_config: { parallelism: 5, order: "${ORDER}", monitor: 300ms, delay: 0s }
  client:
    image: web:v1
    command: ["sleep", "100000"]
    stop_grace_period: 0s
    deploy: { mode: global }
configs:
  site:
    content: |
      # ${SITE}
      daemon off;
      user root;
      worker_processes 1;
      error_log stderr;
      pid /tmp/nginx.pid;
      events {}
      http {
        access_log off;
        server {
          listen 80;
          root /www;
          location = /slow { limit_rate 128k; }
        }
      }
"#;

/// What the manifest is filled in with.
#[derive(Debug, Clone, Copy)]
struct Wanted<'a> {
    version: &'a str,
    site: &'a str,
    order: &'a str,
    replicas: usize,
}

struct Site {
    cluster: Cluster,
    program: PathBuf,
    manifest: String,
}

impl Site {
    fn start(wanted: Wanted<'_>) -> Self {
        let cluster = Cluster::start(SHAPE);
        let program = PathBuf::from(env!("CARGO_BIN_EXE_load"));
        let tar = web_rootfs(cluster.folder(), &program);
        let _ = cluster
            .gantry(&["image", "import", &tar.to_string_lossy(), "web:v1"])
            .ok();
        let manifest = cluster.manifest("compose.yaml", MANIFEST);
        let site = Self {
            cluster,
            program,
            manifest,
        };
        site.apply(wanted);
        site
    }

    /// The replicas of a service that are wanted.
    fn ids(&self, service: &str) -> BTreeSet<String> {
        let replicas = self.cluster.replicas(service).unwrap_or_default();
        let id = |replica: serde_json::Value| Some(replica["id"].as_str()?.to_string());
        replicas.into_iter().filter_map(id).collect()
    }

    /// Others serve in place of these.
    fn settled_without(&self, lost: &BTreeSet<String>) {
        until("others serve in place of what was lost", || {
            let ready = self.cluster.until_ready("web", REPLICAS);
            let stays = ready
                .iter()
                .find(|replica| lost.contains(replica["id"].as_str().unwrap_or_default()));
            stays.map_or(Ok(()), |replica| Err(replica["id"].to_string()))
        });
    }

    /// The containers that ask from inside, one on each node.
    fn clients(&self) -> Vec<Container> {
        let clients = self.cluster.until_ready("client", SHAPE.agents);
        let everywhere = self.cluster.containers_everywhere();
        let is_client = |one: &Container| clients.iter().any(|client| client["id"] == *one.replica);
        let clients: Vec<_> = everywhere.into_iter().filter(is_client).collect();
        assert_eq!(clients.len(), SHAPE.agents);
        clients
    }

    fn gantry(&self, arguments: &[&str]) -> String {
        self.cluster.gantry(arguments).ok()
    }

    fn send(&self, wanted: Wanted<'_>) {
        let replicas = wanted.replicas.to_string();
        let variables = [
            ("VERSION", wanted.version),
            ("SITE", wanted.site),
            ("ORDER", wanted.order),
            ("REPLICAS", &replicas),
        ];
        let _ = self
            .cluster
            .gantry_with(&variables, &["apply", "-f", &self.manifest])
            .ok();
    }

    fn apply(&self, wanted: Wanted<'_>) {
        self.send(wanted);
        self.settled(wanted.replicas);
    }

    /// No rollout is under way, and so many replicas serve.
    fn settled(&self, replicas: usize) {
        self.cluster.until_settled("web", replicas);
    }

    fn streams<'a>(&self, hosts: &[String], clients: &'a [Container]) -> Vec<Stream<'a>> {
        let stream = |name: String, target: String, path, keep, connections| Stream {
            name,
            host: "h1",
            inside: None,
            target,
            path,
            keep,
            connections,
        };
        let mesh = |host: &String| format!("{}:8080", Lab::address(host));
        let fresh = hosts
            .iter()
            .map(|host| stream(format!("{host} fresh"), mesh(host), "/", false, 2));
        let kept = hosts
            .iter()
            .map(|host| stream(format!("{host} kept"), mesh(host), "/", true, 2));
        let slow = hosts
            .iter()
            .map(|host| stream(format!("{host} slow"), mesh(host), "/slow", false, 2));
        let inside = clients.iter().map(|client| Stream {
            host: &client.host,
            inside: Some(client),
            ..stream(format!("{} inside", client.host), "web:80".into(), "/", false, 1)
        });
        fresh.chain(kept).chain(slow).chain(inside).collect()
    }

    /// Lets `event` happen under load, and returns how many requests failed.
    fn under_load(&self, what: &str, event: impl FnOnce()) -> u64 {
        self.under_load_without("", what, event)
    }

    /// The same, with nobody asking from inside on the node `without`.
    fn under_load_without(&self, without: &str, what: &str, event: impl FnOnce()) -> u64 {
        let inside = |client: &Container| client.host != without;
        let tallies = self.tallies(what, |_| true, inside, event);
        assert_busy(what, &tallies, |_| true);
        tallies.iter().map(|tally| tally.failed).sum()
    }

    /// Lets `event` happen while `nodes` are asked from outside and the services from inside `clients`.
    fn tallies(
        &self,
        what: &str,
        nodes: impl Fn(&str) -> bool,
        clients: impl Fn(&Container) -> bool,
        event: impl FnOnce(),
    ) -> Vec<Tally> {
        let program: &Path = &self.program;
        let mut inside = self.clients();
        inside.retain(clients);
        let mut hosts = self.cluster.agents();
        hosts.retain(|host| nodes(host));
        let streams = self.streams(&hosts, &inside);
        under_load(&self.cluster, program, &streams, ("traffic", what), event)
    }
}

/// After what is not planned, new connections succeed from so long after it was noticed. On a machine with cores to spare it takes
/// a tenth of that; what is asserted has room for one that has none.
const NOTICED_MS_MAX: u64 = 2_000;

const FIRST: Wanted<'_> = Wanted {
    version: "1",
    site: "first",
    order: "start-first",
    replicas: REPLICAS,
};

#[test]
fn no_request_is_dropped_by_anything_that_is_planned() {
    let mut wanted = FIRST;
    let site = Site::start(wanted);
    let mut failed = 0;
    for (version, order) in [
        ("2", "start-first"),
        ("3", "start-first"),
        ("4", "stop-first"),
        ("5", "stop-first"),
    ] {
        wanted = Wanted {
            version,
            order,
            ..wanted
        };
        failed += site.under_load(&format!("rolling update, {order}"), || site.apply(wanted));
    }
    failed += site.under_load("scale to 2 and back", || {
        site.apply(Wanted { replicas: 2, ..wanted });
        site.apply(wanted);
    });
    failed += site.under_load("config rotation", || {
        wanted.site = "second";
        site.apply(wanted);
    });
    failed += site.under_load("rollback", || {
        let _ = site.gantry(&["service", "rollback", "web"]);
        site.settled(REPLICAS);
    });
    for host in site.cluster.agents() {
        failed += site.under_load_without(&host, &format!("drain of {host}"), || {
            let _ = site.gantry(&["node", "drain", &host]);
            until("the node is empty", || {
                let servers = site.cluster.containers(&host);
                if servers.is_empty() {
                    Ok(())
                } else {
                    Err(format!("{servers:?}"))
                }
            });
            site.settled(REPLICAS);
            let _ = site.gantry(&["node", "activate", &host]);
        });
    }
    assert_eq!(failed, 0, "see above");
}

#[test]
fn no_request_is_dropped_by_agents_and_leaders_that_end() {
    let mut wanted = FIRST;
    let site = Site::start(wanted);
    let cluster = &site.cluster;
    let mut failed = 0;
    for signal in ["TERM", "KILL"] {
        wanted.version = signal;
        failed += site.under_load(&format!("agents end by SIG{signal} during an update"), || {
            site.send(wanted);
            for host in cluster.agents() {
                let agent = cluster.process("agent", &host);
                agent.signal(signal);
                until("the agent has ended", || {
                    if agent.is_alive() { Err(host.clone()) } else { Ok(()) }
                });
                cluster.start_agent(&host);
            }
            site.settled(REPLICAS);
        });
    }
    failed += site.under_load("the leader is killed during an update", || {
        wanted.version = "by another leader";
        site.send(wanted);
        let leader = cluster.leader();
        cluster.process("server", &leader).kill();
        site.settled(REPLICAS);
        cluster.start_server(&leader);
    });
    assert_eq!(failed, 0, "see above");
}

#[test]
fn what_is_not_planned_costs_only_the_connections_that_were_on_it() {
    let site = Site::start(FIRST);
    let cluster = &site.cluster;
    let web: BTreeSet<String> = site.ids("web");
    let everywhere = cluster.containers_everywhere();
    let victim = everywhere.iter().find(|one| web.contains(&one.replica));
    let victim = victim.expect("a replica of the service runs").clone();
    let mut killed_at = 0;
    let tallies = site.tallies(
        "a replica is killed",
        |_| true,
        |_| true,
        || {
            let _ = cluster
                .lab
                .exec(&victim.host, &["kill", "-KILL", &victim.pid.to_string()])
                .ok();
            // An agent hears of the end of a container at once.
            killed_at = machine_ms();
            until("its container is started anew", || {
                match cluster.containers(&victim.host).get(&victim.replica) {
                    Some(pid) if *pid != victim.pid => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            });
            site.settled(REPLICAS);
        },
    );
    assert_over(&tallies, killed_at);

    let host = cluster.agents().pop().expect("there are agents");
    let on_it: BTreeSet<String> = cluster.containers(&host).into_keys().collect();
    let mut noticed_at = 0;
    let reachable = |name: &str| name != host;
    let tallies = site.tallies(
        "a node is cut off",
        reachable,
        |client| reachable(&client.host),
        || {
            cluster.lab.cut(&host);
            until("the loss of the node is noticed", || {
                let node = cluster.json(&["node", "inspect", &host])?;
                if node["status"] == "down" {
                    Ok(())
                } else {
                    Err(node["status"].to_string())
                }
            });
            noticed_at = machine_ms();
            site.settled_without(&on_it);
        },
    );
    assert_over(&tallies, noticed_at);
    cluster.lab.heal(&host);
}

/// Whether the requests of a stream take long: one that hangs on a lost node may last for the whole event.
fn is_slow(name: &str) -> bool {
    name.ends_with(" slow")
}

/// There was a load that something could have happened to.
fn assert_busy(what: &str, tallies: &[Tally], counts: impl Fn(&str) -> bool) {
    for tally in tallies.iter().filter(|tally| counts(&tally.name)) {
        assert!(tally.requests >= REQUESTS_MIN, "{what}: hardly any load: {tally:?}");
    }
}

/// Nothing failed that began late after it was noticed.
fn assert_over(tallies: &[Tally], noticed_at_ms: u64) {
    assert_busy("what is not planned", tallies, |name| !is_slow(name));
    let last = tallies
        .iter()
        .map(|tally| tally.last_failed_at_ms)
        .max()
        .unwrap_or_default();
    let after = last.saturating_sub(noticed_at_ms);
    println!("FIGURE traffic: the last request that failed began {after} ms after it was noticed");
    assert!(after <= NOTICED_MS_MAX, "{tallies:?}");
}
