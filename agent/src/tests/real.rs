//! The whole agent with real containers and a real network, as root, in a network and mount namespace of the test's own.
//!
//! Only the server pretends. Every test makes and removes its own control groups and folders.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use gantry_api::v1::import_image_start::Format;
use gantry_api::v1::node_agent_client::NodeAgentClient;
use gantry_api::v1::{
    ExecInput, ExecStart, ImportImageChunk, ImportImageStart, LogsRequest, RemoveImageRequest, TerminalSize,
    exec_input, exec_output, import_image_chunk,
};
use gantry_model::assignment::{Item, NodeItem, PeerItem, ReplicaItem, ServiceItem};
use gantry_model::net::Ipv4Net;
use gantry_model::object::{DataRecord, Role, ServiceNetwork};
use gantry_model::phase::{Desired, Health, Observed, Phase};
use gantry_model::spec::{ContainerSpec, DataKind, DataMount, HealthCheck, HealthTest, Mount, MountKind};
use gantry_model::{Bytes64, DataId, DurationMs, NodeId, ReplicaId, ServerId, ServiceId, Timestamp};
use gantry_rpc::{Channels, Credentials, Remote, WithLimits};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::testing::server::{Cluster, Server};
use crate::testing::{DEADLINE, node, replica, until, until_or_timeout};
use crate::{AgentConfig, Join};

/// Runs a test on threads of its own, whose network and mounts are nobody else's.
pub(super) fn apart<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let work = move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("root may do this");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("mounts become private");
        command("ip", &["link", "set", "lo", "up"]);
        // Threads of this runtime are children of this one, in the same namespaces.
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).enable_all().build().expect("a runtime");
        runtime.block_on(test());
    };
    let thread = std::thread::Builder::new().spawn(work).expect("a thread");
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn command(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status();
    let status = status.unwrap_or_else(|error| panic!("{program} must be installed: {error}"));
    assert!(status.success(), "{program} {arguments:?}");
}

/// A machine with an agent.
pub(super) struct Host {
    pub(super) folder: TempDir,
    cluster: Arc<Cluster>,
    pub(super) server: Server,
    pub(super) cgroup_parent: String,
    number: u16,
}

pub(super) struct Running {
    task: JoinHandle<Result<(), gantry_model::Problem>>,
    shutdown: CancellationToken,
}

impl Host {
    pub(super) async fn new(name: &str) -> Self {
        Self::in_cluster(Arc::new(Cluster::new()), name, 1).await
    }

    /// A machine that becomes node `number`. Several share the test's network namespace.
    async fn in_cluster(cluster: Arc<Cluster>, name: &str, number: u16) -> Self {
        let server = cluster.server().await;
        let host = Self {
            folder: tempfile::tempdir().expect("a folder"),
            cluster,
            server,
            cgroup_parent: format!("gantry-agent-test-{name}-{number}-{}", std::process::id()),
            number,
        };
        host.server.state().first = vec![host.node()];
        host
    }

    fn node(&self) -> Item {
        let number = u8::try_from(self.number).expect("small");
        Item::Node(NodeItem {
            id: NodeId(u64::from(self.number)),
            subnet: Ipv4Net::new(Ipv4Addr::new(10, 128, number - 1, 0), 24),
            ..node()
        })
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 7600 + self.number))
    }

    pub(super) fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(super) fn start(&self) -> Running {
        let name = if self.number == 1 { "alpha" } else { "beta" };
        let config = AgentConfig {
            data_dir: self.data_dir(),
            run_dir: self.folder.path().join("run"),
            listen: self.address(),
            join: Some(Join {
                servers: vec![self.server.address.to_string()],
                token: self.cluster.token(),
            }),
            name: Some(name.into()),
            bridge: format!("gantry{}", self.number),
            cgroup_parent: self.cgroup_parent.clone(),
            ..AgentConfig::default()
        };
        let shutdown = CancellationToken::new();
        let run = crate::run(config, shutdown.clone());
        let task = tokio::spawn(async move {
            let ended = run.await;
            if let Err(problem) = &ended {
                // Printed at once: what waits for this agent would only say that nothing happened.
                eprintln!("agent: {problem}");
            }
            ended
        });
        Running { task, shutdown }
    }

    /// What a server holds towards the agent.
    pub(super) fn client(&self) -> NodeAgentClient<Channel> {
        let identity = self.cluster.identity(Role::Server, &ServerId(1).to_string());
        let channels = Channels::new(Credentials::new(identity).expect("usable"));
        let remote = Remote::Agent(NodeId(u64::from(self.number)));
        NodeAgentClient::new(channels.channel(&self.address().to_string(), remote)).with_limits()
    }

    fn observed(&self, id: u64) -> Observed {
        self.server.observed(ReplicaId(id)).unwrap_or_default()
    }

    async fn until_phase(&self, id: u64, phase: Phase) -> Observed {
        let waiting = until_or_timeout(|| self.observed(id).phase == phase);
        assert!(waiting.await, "replica {id} is never {phase}: {:?}", self.observed(id));
        self.observed(id)
    }

    /// Imports an image; its digest.
    pub(super) async fn with_image(&self) -> (NodeAgentClient<Channel>, String) {
        until("a session", || self.server.state().sessions > 0).await;
        let mut client = self.client();
        let reply = client
            .import_image(tokio_stream::iter(import()))
            .await
            .expect("imported")
            .into_inner();
        assert_eq!(reply.images[0].references, ["docker.io/library/busybox:test"]);
        (client, reply.images[0].digest.clone())
    }
}

impl Running {
    pub(super) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.expect("it does not crash").expect("it ends well");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .args(["-R", "-l"])
            .arg(self.folder.path())
            .stderr(Stdio::null())
            .status();
        let groups = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        for hierarchy in groups
            .map(|entry| entry.path())
            .chain([PathBuf::from("/sys/fs/cgroup")])
        {
            remove_groups(&hierarchy.join(&self.cgroup_parent));
        }
    }
}

/// Kills what a failed test left in a control group, and removes it.
fn remove_groups(group: &Path) {
    let Ok(entries) = fs::read_dir(group) else { return };
    for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
        remove_groups(&entry.path());
    }
    let processes = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    for pid in processes.lines().filter_map(|line| line.parse().ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    for _ in 0..100 {
        if fs::remove_dir(group).is_ok() || !group.exists() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// A root filesystem of busybox as the messages of an import.
fn import() -> Vec<ImportImageChunk> {
    let root = tempfile::tempdir().expect("a folder");
    let bin = root.path().join("bin");
    fs::create_dir_all(&bin).expect("made");
    fs::copy("/bin/busybox", bin.join("busybox")).expect("the package busybox-static must be installed");
    for name in [
        "sh", "sleep", "cat", "echo", "touch", "test", "hostname", "nslookup", "env", "httpd", "wget", "id", "rm",
        "true",
    ] {
        std::os::unix::fs::symlink("busybox", bin.join(name)).expect("made");
    }
    for folder in ["etc", "tmp", "run", "data"] {
        fs::create_dir_all(root.path().join(folder)).expect("made");
    }
    fs::write(root.path().join("data/from-image"), "seed").expect("written");
    let tar = Command::new("tar")
        .arg("-C")
        .arg(root.path())
        .args(["-c", "."])
        .output()
        .expect("tar is installed");
    assert!(tar.status.success());
    let start = ImportImageStart {
        format: Format::Rootfs.into(),
        reference: "busybox:test".into(),
        options_json: br#"{"env":["FROM_IMAGE=yes"]}"#.to_vec().into(),
        node: String::new(),
    };
    let start = ImportImageChunk {
        chunk: Some(import_image_chunk::Chunk::Start(start)),
    };
    let data = tar.stdout.chunks(1 << 20).map(|chunk| ImportImageChunk {
        chunk: Some(import_image_chunk::Chunk::Data(chunk.to_vec().into())),
    });
    std::iter::once(start).chain(data).collect()
}

/// A replica that runs a line of shell.
fn shell(slot: u32, line: &str) -> ReplicaItem {
    let mut item = replica(slot);
    let spec = Arc::make_mut(&mut item.spec);
    spec.container = ContainerSpec {
        image: "busybox:test".into(),
        command: Some(vec!["/bin/sh".into(), "-c".into(), line.into()]),
        ..ContainerSpec::default()
    };
    item
}

const SERVE: &str = "trap 'echo bye; exit 0' TERM; echo ready; while true; do sleep 0.05; done";

async fn logs(client: &mut NodeAgentClient<Channel>, id: u64, follow: bool) -> Vec<String> {
    let request = LogsRequest {
        replica: ReplicaId(id).to_string(),
        tail: -1,
        follow,
        ..LogsRequest::default()
    };
    let mut stream = client.logs(request).await.expect("it has a log").into_inner();
    let mut lines = Vec::new();
    while let Some(record) = stream.message().await.expect("readable") {
        assert!(record.at_ns > 0 && record.replica == format!("web.{id}"));
        lines.push(String::from_utf8(record.line.to_vec()).expect("text"));
    }
    lines
}

/// The first line that a replica prints: it runs before it has printed anything.
async fn first_line(client: &mut NodeAgentClient<Channel>, id: u64) -> String {
    let request = LogsRequest {
        replica: ReplicaId(id).to_string(),
        tail: -1,
        follow: true,
        ..LogsRequest::default()
    };
    let mut stream = client.logs(request).await.expect("it has a log").into_inner();
    let record = tokio::time::timeout(DEADLINE, stream.message())
        .await
        .expect("it prints a line")
        .expect("readable")
        .expect("a log that is followed goes on");
    String::from_utf8(record.line.to_vec()).expect("text")
}

/// Runs a command in the replica's container: what it printed, and its exit status.
async fn exec(client: &mut NodeAgentClient<Channel>, id: u64, command: &[&str], stdin: &[u8]) -> (String, i32) {
    let start = ExecStart {
        replica: ReplicaId(id).to_string(),
        command: command.iter().map(ToString::to_string).collect(),
        stdin: true,
        ..ExecStart::default()
    };
    let inputs = [
        exec_input::Input::Start(start),
        exec_input::Input::Stdin(stdin.to_vec().into()),
        exec_input::Input::StdinClosed(true),
    ];
    let inputs = inputs.map(|input| ExecInput { input: Some(input) });
    let mut stream = client
        .exec(tokio_stream::iter(inputs))
        .await
        .expect("it runs")
        .into_inner();
    let (mut printed, mut code) = (Vec::new(), None);
    while let Some(output) = stream.message().await.expect("readable") {
        match output.output {
            Some(exec_output::Output::Stdout(bytes) | exec_output::Output::Stderr(bytes)) => {
                printed.write_all(&bytes).expect("memory");
            }
            Some(exec_output::Output::ExitCode(status)) => code = Some(status),
            None => {}
        }
    }
    let printed = String::from_utf8(printed).expect("text").trim().to_string();
    (printed, code.expect("the exit status comes last"))
}

/// What a command sees of the terminal that it is given.
async fn terminal_size(client: &mut NodeAgentClient<Channel>, id: u64, rows: u32, columns: u32) -> String {
    let start = ExecStart {
        replica: ReplicaId(id).to_string(),
        // Waits for a line, so that the size has been set.
        command: ["sh", "-c", "read line; stty size"].map(Into::into).to_vec(),
        tty: true,
        stdin: true,
        size: Some(TerminalSize { rows, columns }),
        ..ExecStart::default()
    };
    let inputs = [
        exec_input::Input::Start(start),
        exec_input::Input::Stdin(b"go\n".to_vec().into()),
    ];
    let inputs = inputs.map(|input| ExecInput { input: Some(input) });
    let mut stream = client
        .exec(tokio_stream::iter(inputs))
        .await
        .expect("it runs")
        .into_inner();
    let mut printed = Vec::new();
    while let Some(output) = stream.message().await.expect("readable") {
        match output.output {
            Some(exec_output::Output::Stdout(bytes)) => printed.extend_from_slice(&bytes),
            Some(exec_output::Output::ExitCode(code)) => assert_eq!(code, 0),
            Some(exec_output::Output::Stderr(_)) | None => {}
        }
    }
    let printed = String::from_utf8(printed).expect("text");
    printed.lines().last().unwrap_or_default().trim().to_string()
}

fn service(name: &str, vip: Ipv4Addr) -> Item {
    let network = ServiceNetwork {
        vip: Some(vip),
        names: vec![name.to_string()],
        ..ServiceNetwork::default()
    };
    Item::Service(ServiceItem {
        id: ServiceId(1),
        namespace: "shop".parse().expect("a name"),
        name: name.parse().expect("a name"),
        endpoint_mode: Default::default(),
        networks: BTreeMap::from([("shop_default".to_string(), network)]),
        ports: Vec::new(),
        endpoints: Vec::new(),
        members: BTreeMap::new(),
        policy: None,
        ingress: None,
    })
}

fn data(id: u64, kind: DataKind, name: &str, content: &str) -> Item {
    Item::Data(DataRecord {
        id: DataId(id),
        kind,
        namespace: "shop".parse().expect("a name"),
        name: name.parse().expect("a name"),
        version: 1,
        content: Bytes64(content.into()),
        labels: BTreeMap::new(),
        created_at: Timestamp(1),
    })
}

fn data_mount(id: u64, name: &str, target: &str, mode: u32) -> DataMount {
    DataMount {
        source: name.parse().expect("a name"),
        id: Some(DataId(id)),
        target: target.into(),
        uid: 0,
        gid: 0,
        mode,
    }
}

#[test]
fn a_replica_lives_is_adopted_by_the_next_agent_and_leaves_nothing() {
    apart(|| async {
        let host = Host::new("life").await;
        let agent = host.start();
        let (mut client, digest) = host.with_image().await;

        let item = shell(1, SERVE);
        host.server.send(vec![Item::Replica(item.clone())], vec![], 0);
        let observed = host.until_phase(1, Phase::Running).await;
        assert!(observed.ready && observed.pid.is_some(), "{observed:?}");
        until("the set is acknowledged", || host.server.is_acknowledged()).await;
        assert_eq!(first_line(&mut client, 1).await, "ready");
        assert_eq!(logs(&mut client, 1, false).await, ["ready"]);
        assert_eq!(
            exec(&mut client, 1, &["cat"], b"over stdin").await,
            ("over stdin".into(), 0)
        );
        assert_eq!(exec(&mut client, 1, &["sh", "-c", "exit 7"], b"").await.1, 7);

        agent.stop().await;
        let pid = observed.pid.expect("checked above");
        assert!(
            Path::new(&format!("/proc/{pid}")).exists(),
            "the container outlives its agent"
        );
        host.server.state().first.push(Item::Replica(item.clone()));
        host.server.state().heard.clear();
        let agent = host.start();
        let adopted = host.until_phase(1, Phase::Running).await;
        assert_eq!((adopted.pid, adopted.restarts, adopted.ready), (Some(pid), 0, true));
        let mut client = host.client();
        assert_eq!(exec(&mut client, 1, &["echo", "still here"], b"").await.0, "still here");

        let in_use = client.remove_image(RemoveImageRequest {
            image: digest,
            force: true,
        });
        let refused = in_use.await.expect_err("a replica runs it");
        assert!(refused.message().contains("uses it"), "{refused:?}");

        let mut follower = client.clone();
        let followed = tokio::spawn(async move { logs(&mut follower, 1, true).await });
        let stopped = ReplicaItem {
            desired: Desired::Stop,
            ..item.clone()
        };
        host.server.send(vec![Item::Replica(stopped)], vec![], 0);
        let stopped = host.until_phase(1, Phase::Stopped).await;
        assert_eq!(stopped.last_exit.map(|exit| exit.code), Some(0), "{stopped:?}");
        assert_eq!(logs(&mut client, 1, false).await, ["ready", "bye"], "the log stays");
        let followed = tokio::time::timeout(DEADLINE, followed)
            .await
            .expect("it ends with the replica");
        assert_eq!(followed.expect("no crash"), ["ready", "bye"]);
        assert!(
            !host
                .folder
                .path()
                .join("run/netns")
                .join(ReplicaId(1).to_string())
                .exists()
        );

        let removed = ReplicaItem {
            desired: Desired::Remove,
            ..item
        };
        host.server.send(vec![Item::Replica(removed)], vec![], 0);
        until("it is removed", || host.server.is_removed(ReplicaId(1))).await;
        assert!(!host.data_dir().join("replicas").join(ReplicaId(1).to_string()).exists());
        agent.stop().await;
    });
}

#[test]
fn files_environment_names_and_volumes_are_as_asked_for() {
    apart(|| async {
        let host = Host::new("files").await;
        let agent = host.start();
        let (mut client, _) = host.with_image().await;

        let mut item = shell(1, SERVE);
        let container = &mut Arc::make_mut(&mut item.spec).container;
        container.configs = vec![data_mount(1, "conf", "/etc/app.conf", 0o444)];
        container.secrets = vec![data_mount(2, "key", "/run/secrets/key", 0o400)];
        container.hostname = Some("{{.Service.Name}}-{{.Task.Slot}}".into());
        container.environment = BTreeMap::from([("WHERE".into(), Some("{{.Node.Hostname}}".into()))]);
        container.mounts = vec![Mount {
            target: "/data".into(),
            read_only: false,
            kind: MountKind::Volume {
                name: Some("db".parse().expect("a name")),
                node_name: None,
                no_copy: false,
                subpath: None,
            },
        }];
        let items = vec![
            data(1, DataKind::Config, "conf", "colour=blue"),
            data(2, DataKind::Secret, "key", "open sesame"),
            service("web", Ipv4Addr::new(10, 96, 0, 5)),
            Item::Replica(item),
        ];
        host.server.send(items, vec![], 0);
        host.until_phase(1, Phase::Running).await;

        for (command, expected) in [
            (&["cat", "/etc/app.conf"][..], "colour=blue"),
            (&["cat", "/run/secrets/key"], "open sesame"),
            (&["hostname"], "web-1"),
            (&["sh", "-c", "echo $WHERE $FROM_IMAGE"], "alpha yes"),
            (&["cat", "/data/from-image"], "seed"),
            (&["sh", "-c", "echo kept > /data/file && cat /data/file"], "kept"),
            (
                &["cat", "/etc/resolv.conf"],
                "nameserver 10.128.0.1\noptions ndots:0 timeout:3 attempts:4",
            ),
        ] {
            assert_eq!(
                exec(&mut client, 1, command, b"").await,
                (expected.to_string(), 0),
                "{command:?}"
            );
        }
        until("the set is in effect", || host.server.is_acknowledged()).await;
        let (found, _) = exec(&mut client, 1, &["nslookup", "web", "10.128.0.1"], b"").await;
        assert!(found.contains("10.96.0.5"), "{found}");
        assert_eq!(terminal_size(&mut client, 1, 24, 80).await, "24 80");
        let (hosts, _) = exec(&mut client, 1, &["cat", "/etc/hosts"], b"").await;
        assert!(hosts.contains("10.128.0.2\tweb-1"), "{hosts}");
        let volume = host.data_dir().join("volumes/shop_db/_data/file");
        assert_eq!(fs::read_to_string(volume).expect("on the node"), "kept\n");
        let secret_on_disk = Command::new("grep")
            .args(["-rlF", "open sesame"])
            .arg(host.data_dir())
            .output();
        assert!(
            secret_on_disk.expect("grep is installed").stdout.is_empty(),
            "a secret reached the disk"
        );

        host.server.send_complete(vec![host.node()]);
        let folder = host.data_dir().join("replicas").join(ReplicaId(1).to_string());
        until("it is removed", || !folder.exists()).await;
        agent.stop().await;
    });
}

#[test]
fn ends_and_failed_checks_lead_to_restarts_and_impossible_programs_are_rejected() {
    apart(|| async {
        let host = Host::new("restarts").await;
        let agent = host.start();
        let (mut client, _) = host.with_image().await;

        let mut checked = shell(2, SERVE);
        Arc::make_mut(&mut checked.spec).container.healthcheck = Some(HealthCheck {
            interval: DurationMs(100),
            retries: 2,
            ..HealthCheck::with_defaults(HealthTest::Shell("echo sick; ! test -e /dev/shm/sick".into()))
        });
        let mut impossible = shell(3, "");
        Arc::make_mut(&mut impossible.spec).container.command = Some(vec!["/bin/absent".into()]);
        let mut absent = shell(4, "");
        Arc::make_mut(&mut absent.spec).container.image_digest = Some(format!("sha256:{}", "0".repeat(64)));
        let items = [shell(1, SERVE), checked.clone(), impossible, absent];
        host.server
            .send(items.into_iter().map(Item::Replica).collect(), vec![], 0);

        let first = host.until_phase(1, Phase::Running).await;
        let pid = i32::try_from(first.pid.expect("it runs")).expect("a pid");
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it runs");
        until("it is started again", || {
            let now = host.observed(1);
            now.restarts == 1 && now.ready && now.pid.is_some() && now.pid != first.pid
        })
        .await;
        assert_eq!(host.observed(1).last_exit.map(|exit| exit.code), Some(137));

        until("it is healthy", || host.observed(2).health == Health::Healthy).await;
        assert_eq!(exec(&mut client, 2, &["touch", "/dev/shm/sick"], b"").await.1, 0);
        until("it is unhealthy and told why", || {
            host.server.statuses().iter().any(|status| {
                let document = status
                    .observed
                    .as_ref()
                    .map(|document| String::from_utf8_lossy(&document.json));
                document.is_some_and(|text| text.contains("unhealthy") && text.contains("sick"))
            })
        })
        .await;
        until("it is healthy again", || {
            let now = host.observed(2);
            now.restarts >= 1 && now.health == Health::Healthy
        })
        .await;

        let rejected = host.until_phase(3, Phase::Rejected).await;
        assert!(rejected.message.contains("/bin/absent"), "{rejected:?}");
        let rejected = host.until_phase(4, Phase::Rejected).await;
        assert!(rejected.message.contains("no node that is up has it"), "{rejected:?}");

        host.server.send_complete(vec![host.node()]);
        until("all are removed", || {
            fs::read_dir(host.data_dir().join("replicas")).is_ok_and(|mut entries| entries.next().is_none())
        })
        .await;
        agent.stop().await;
    });
}

#[test]
fn an_image_that_this_node_lacks_comes_from_another() {
    apart(|| async {
        let cluster = Arc::new(Cluster::new());
        let giver = Host::in_cluster(Arc::clone(&cluster), "fetch", 1).await;
        let taker = Host::in_cluster(cluster, "fetch", 2).await;
        let (giving, taking) = (giver.start(), taker.start());
        let (_, digest) = giver.with_image().await;

        taker.server.state().holders = vec![giver.address().to_string()];
        let peer = Item::Peer(PeerItem {
            id: NodeId(1),
            name: "alpha".into(),
            subnet: Ipv4Net::new(Ipv4Addr::new(10, 128, 0, 0), 24),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: giver.address().port(),
        });
        let mut item = shell(5, SERVE);
        item.address = Ipv4Addr::new(10, 128, 1, 5);
        let container = &mut Arc::make_mut(&mut item.spec).container;
        container.image_digest = Some(digest.clone());
        until("a session", || taker.server.state().sessions > 0).await;
        taker.server.send(vec![peer, Item::Replica(item)], vec![], 0);
        taker.until_phase(5, Phase::Running).await;
        until("the inventory names it", || {
            taker.server.state().heard.iter().any(|(_, message)| {
                matches!(message, gantry_api::v1::agent_message::Message::Inventory(inventory)
                    if inventory.images.iter().any(|image| image.digest == digest))
            })
        })
        .await;

        taker.server.send_complete(vec![taker.node()]);
        let folder = taker.data_dir().join("replicas").join(ReplicaId(5).to_string());
        until("it is removed", || !folder.exists()).await;
        giving.stop().await;
        taking.stop().await;
    });
}
