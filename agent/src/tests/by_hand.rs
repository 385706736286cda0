//! Containers run by hand on a real machine, over the agent's own socket, as root.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use gantry_api::kind;
use gantry_api::v1::engine_client::EngineClient;
use gantry_api::v1::wait_container_request::Until;
use gantry_api::v1::{
    AttachInput, AttachStart, CommitContainerRequest, ContainerRequest, CopyFromRequest, CopyToInput, CopyToStart,
    CreateContainerRequest, Document, Empty, ListContainersRequest, LogsRequest, RemoveContainerRequest,
    StatsContainersRequest, StopContainerRequest, WaitContainerRequest, attach_input, attach_output, copy_to_input,
};
use gantry_env::{Env, System};
use gantry_model::container::{Container, ContainerStats, ContainerStatus, FileChange, NetworkMode, RunSpec};
use gantry_model::object::LocalImage;
use gantry_model::spec::{PortMode, PortSpec, Protocol};
use gantry_rpc::WithLimits;
use tonic::transport::{Channel, Endpoint};

use super::real::{Host, apart};
use crate::engine::testing::run_spec;
use crate::testing::{DEADLINE, until};

pub(super) fn engine(host: &Host) -> EngineClient<Channel> {
    let socket = host.folder.path().join("run/agent.sock");
    let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display())).expect("a path");
    EngineClient::new(endpoint.connect_lazy()).with_limits()
}

fn spec(name: &str, command: &[&str]) -> RunSpec {
    let mut spec = run_spec(name);
    spec.container.image = "busybox:test".into();
    spec.container.command = Some(command.iter().map(ToString::to_string).collect());
    spec
}

fn encoded(spec: &RunSpec) -> Document {
    gantry_api::encode(kind::RUN_SPEC, spec)
}

fn container(document: &Document) -> Container {
    gantry_api::decode(document, kind::CONTAINER).expect("a container")
}

fn named(name: &str) -> ContainerRequest {
    ContainerRequest {
        container: name.to_string(),
    }
}

/// Makes and starts one.
async fn run(client: &mut EngineClient<Channel>, spec: &RunSpec) -> Container {
    let request = CreateContainerRequest {
        spec: Some(encoded(spec)),
        ..CreateContainerRequest::default()
    };
    let made = container(client.create_container(request).await.expect("made").get_ref());
    let started = client
        .start_container(named(&made.id.to_string()))
        .await
        .expect("started");
    container(started.get_ref())
}

async fn inspect(client: &mut EngineClient<Channel>, name: &str) -> Container {
    container(
        client
            .inspect_container(named(name))
            .await
            .expect("it is there")
            .get_ref(),
    )
}

/// What an attached run printed, and its exit status.
async fn attached(client: &mut EngineClient<Channel>, spec: &RunSpec, stdin: &[u8]) -> (String, String, i32) {
    let start = AttachStart {
        run: Some(encoded(spec)),
        stdin: !stdin.is_empty(),
        stdout: true,
        stderr: true,
        ..AttachStart::default()
    };
    let inputs = [
        attach_input::Input::Start(start),
        attach_input::Input::Stdin(stdin.to_vec().into()),
        attach_input::Input::StdinClosed(true),
    ];
    let inputs = inputs.map(|input| AttachInput { input: Some(input) });
    let mut stream = client
        .attach(tokio_stream::iter(inputs))
        .await
        .expect("it runs")
        .into_inner();
    let (mut out, mut err, mut code) = (Vec::new(), Vec::new(), None);
    while let Some(message) = stream.message().await.expect("readable") {
        match message.output {
            Some(attach_output::Output::Stdout(data)) => out.extend_from_slice(&data),
            Some(attach_output::Output::Stderr(data)) => err.extend_from_slice(&data),
            Some(attach_output::Output::ExitCode(status)) => code = Some(status),
            Some(attach_output::Output::Container(_) | attach_output::Output::Progress(_)) | None => {}
        }
    }
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (text(out), text(err), code.expect("the exit status comes last"))
}

async fn names(client: &mut EngineClient<Channel>) -> Vec<String> {
    let request = ListContainersRequest {
        all: true,
        ..ListContainersRequest::default()
    };
    let listed = client.list_containers(request).await.expect("listed").into_inner();
    listed.items.iter().map(|document| container(document).name).collect()
}

async fn remove(client: &mut EngineClient<Channel>, name: &str) {
    let request = RemoveContainerRequest {
        container: name.to_string(),
        force: true,
        volumes: true,
    };
    client.remove_container(request).await.expect("removed");
}

/// What a machine holds that containers could leave behind.
fn traces(host: &Host) -> BTreeSet<String> {
    let mut traces = BTreeSet::new();
    let mut add = |folder: &Path| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        traces.extend(entries.map(|entry| entry.path().display().to_string()));
    };
    add(&host.data_dir().join("containers"));
    add(&host.folder.path().join("run/netns-local"));
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        let group = hierarchy.path().join(&host.cgroup_parent);
        let entries = std::fs::read_dir(&group).into_iter().flatten().flatten();
        let groups = entries.filter(|entry| entry.path().is_dir());
        traces.extend(groups.map(|entry| entry.path().display().to_string()));
    }
    traces
}

#[test]
fn an_attached_run_prints_ends_and_leaves_nothing() {
    apart(|| async {
        let host = Host::new("attach").await;
        let agent = host.start();
        host.with_image().await;
        let mut client = engine(&host);
        let once = |command: &[&str]| RunSpec {
            auto_remove: true,
            ..spec("once", command)
        };
        // The first makes what all share.
        attached(&mut client, &once(&["true"]), b"").await;
        until("nothing is left of the first", || {
            traces(&host).iter().all(|trace| !trace.contains("containers/"))
        })
        .await;
        let before = traces(&host);
        let script = "echo out; echo err >&2; id -u; exit 7";
        let (out, err, code) = attached(&mut client, &once(&["sh", "-c", script]), b"").await;
        assert_eq!((out.as_str(), err.as_str(), code), ("out\n0\n", "err\n", 7));
        let mut fed = once(&["cat"]);
        fed.container.stdin_open = true;
        assert_eq!(
            attached(&mut client, &fed, b"over stdin").await,
            ("over stdin".into(), String::new(), 0)
        );
        let (_, err, code) = attached(&mut client, &once(&["/no/such"]), b"").await;
        assert!(code == 127 && err.contains("/no/such"), "{code} {err}");
        let (_, err, code) = attached(&mut client, &once(&["/data"]), b"").await;
        assert_eq!(code, 126, "{err}");
        let (_, _, code) = attached(&mut client, &once(&["sh", "-c", "sleep 9 & kill -9 $!; wait $!"]), b"").await;
        assert_eq!(code, 137);
        for _ in 0..30 {
            assert_eq!(attached(&mut client, &once(&["true"]), b"").await.2, 0);
        }
        until("nothing is left", || traces(&host) == before).await;
        assert_eq!(names(&mut client).await, [] as [String; 0]);
        agent.stop().await;
    });
}

fn fetch(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
    stream.write_all(b"GET /page HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

#[test]
fn a_container_serves_a_port_and_the_next_agent_adopts_it() {
    apart(|| async {
        let host = Host::new("adopt").await;
        let agent = host.start();
        host.with_image().await;
        let mut client = engine(&host);
        let script = "echo hello > /tmp/page; echo serving; exec httpd -f -p 80 -h /tmp";
        let mut web = spec("web", &["sh", "-c", script]);
        web.ports.push(PortSpec {
            target: 80,
            published: Some(18_080),
            protocol: Protocol::Tcp,
            mode: PortMode::Host,
            host_ip: None,
            name: None,
        });
        let started = run(&mut client, &web).await;
        assert_eq!(started.state.status, ContainerStatus::Running);
        until("it serves", || fetch(18_080).is_some_and(|text| text.contains("hello"))).await;

        let address = started.address.expect("on the local network");
        let other = RunSpec {
            auto_remove: true,
            ..spec("other", &["wget", "-q", "-O", "-", &format!("http://{address}/page")])
        };
        assert_eq!(
            attached(&mut client, &other, b"").await.0,
            "hello\n",
            "containers reach each other"
        );
        let shared = RunSpec {
            auto_remove: true,
            network: NetworkMode::Container("web".into()),
            ..spec("shared", &["wget", "-q", "-O", "-", "http://127.0.0.1/page"])
        };
        assert_eq!(
            attached(&mut client, &shared, b"").await.0,
            "hello\n",
            "one joins the other's network"
        );
        let clash = RunSpec {
            name: Some("clash".into()),
            ..web.clone()
        };
        let request = CreateContainerRequest {
            spec: Some(encoded(&clash)),
            ..CreateContainerRequest::default()
        };
        client.create_container(request).await.expect("made");
        let refused = client
            .start_container(named("clash"))
            .await
            .expect_err("the port is taken");
        assert!(refused.message().contains("container web"), "{refused:?}");

        agent.stop().await;
        assert!(
            fetch(18_080).is_some_and(|text| text.contains("hello")),
            "it serves without an agent"
        );
        let agent = host.start();
        until("the socket is there", || {
            host.folder.path().join("run/agent.sock").exists()
        })
        .await;
        let mut client = engine(&host);
        let adopted = inspect(&mut client, "web").await;
        assert_eq!(
            (adopted.state.pid, adopted.address),
            (started.state.pid, started.address)
        );
        assert!(
            fetch(18_080).is_some_and(|text| text.contains("hello")),
            "and with the next one"
        );
        let request = StopContainerRequest {
            container: "web".into(),
            grace_ms: Some(0),
            ..StopContainerRequest::default()
        };
        let stopped = container(client.stop_container(request).await.expect("stopped").get_ref());
        assert_eq!(
            (stopped.state.status, stopped.state.exit_code),
            (ContainerStatus::Exited, Some(137))
        );
        assert!(fetch(18_080).is_none(), "the port is closed");
        let again = client.start_container(named("web")).await.expect("started again");
        assert_eq!(container(again.get_ref()).state.status, ContainerStatus::Running);
        until("it serves again, its files kept", || {
            fetch(18_080).is_some_and(|text| text.contains("hello"))
        })
        .await;
        for name in ["web", "clash"] {
            remove(&mut client, name).await;
        }
        agent.stop().await;
    });
}

async fn copied_out(client: &mut EngineClient<Channel>, name: &str, path: &str) -> Vec<u8> {
    let request = CopyFromRequest {
        container: name.to_string(),
        path: path.to_string(),
        follow_link: false,
    };
    let mut stream = client.copy_from(request).await.expect("it is there").into_inner();
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.message().await.expect("readable") {
        bytes.extend_from_slice(&chunk.data);
    }
    bytes
}

async fn copied_in(client: &mut EngineClient<Channel>, name: &str, folder: &str, tar: Vec<u8>) {
    let start = CopyToStart {
        container: name.into(),
        path: folder.into(),
        archive: false,
    };
    let inputs = [
        copy_to_input::Input::Start(start),
        copy_to_input::Input::Data(tar.into()),
    ];
    let inputs = inputs.map(|input| CopyToInput { input: Some(input) });
    client.copy_to(tokio_stream::iter(inputs)).await.expect("copied");
}

async fn changed_paths(client: &mut EngineClient<Channel>, name: &str) -> Vec<String> {
    let changes = client.diff_container(named(name)).await.expect("compared").into_inner();
    let change = |document| gantry_api::decode::<FileChange>(document, kind::FILE_CHANGE).expect("a change");
    changes.items.iter().map(|document| change(document).path).collect()
}

#[test]
fn files_of_a_container_that_was_never_started() {
    apart(|| async {
        let host = Host::new("unstarted").await;
        let agent = host.start();
        host.with_image().await;
        let mut client = engine(&host);
        let request = CreateContainerRequest {
            spec: Some(encoded(&spec("fresh", &["cat", "/tmp/from-image"]))),
            ..CreateContainerRequest::default()
        };
        client.create_container(request).await.expect("made");
        assert_eq!(changed_paths(&mut client, "fresh").await, [""; 0]);
        let tar = copied_out(&mut client, "fresh", "/data/from-image").await;
        copied_in(&mut client, "fresh", "/tmp", tar).await;
        let changed = changed_paths(&mut client, "fresh").await;
        assert!(changed.iter().any(|path| path == "/tmp/from-image"), "{changed:?}");
        let mut whole = client
            .export_container(named("fresh"))
            .await
            .expect("exported")
            .into_inner();
        assert!(whole.message().await.expect("readable").is_some());
        drop(whole);
        client.start_container(named("fresh")).await.expect("started");
        let waiting = WaitContainerRequest {
            container: "fresh".into(),
            until: Until::NotRunning.into(),
        };
        let code = client
            .wait_container(waiting)
            .await
            .expect("it ends")
            .into_inner()
            .exit_code;
        assert_eq!(code, 0, "it has what was copied in before its first start");
        remove(&mut client, "fresh").await;
        agent.stop().await;
    });
}

#[test]
fn files_processes_and_figures_of_a_container_and_an_image_made_of_it() {
    apart(|| async {
        let host = Host::new("look").await;
        let agent = host.start();
        let (mut node, _) = host.with_image().await;
        let mut client = engine(&host);
        let web = spec(
            "web",
            &[
                "sh",
                "-c",
                "echo made > /tmp/made; rm /data/from-image; echo ready; exec sleep 600",
            ],
        );
        let started = run(&mut client, &web).await;
        let request = LogsRequest {
            replica: "web".into(),
            tail: -1,
            follow: true,
            ..LogsRequest::default()
        };
        let mut log = node.logs(request).await.expect("a log").into_inner();
        let first = log.message().await.expect("readable").expect("a line");
        assert_eq!((&first.line[..], first.replica.as_str()), (&b"ready"[..], "web"));

        let tar = copied_out(&mut client, "web", "/tmp/made").await;
        copied_in(&mut client, "web", "/data", tar).await;
        let paths = changed_paths(&mut client, "web").await;
        for path in ["/tmp/made", "/data/from-image", "/data/made"] {
            assert!(paths.iter().any(|changed| changed == path), "{path} in {paths:?}");
        }
        let missing = CopyFromRequest {
            container: "web".into(),
            path: "/nowhere".into(),
            follow_link: false,
        };
        assert_eq!(
            client.copy_from(missing).await.expect_err("missing").code(),
            tonic::Code::NotFound
        );

        // Its process runs the program of the runtime before it becomes the command.
        let listing = async {
            loop {
                let top = client.top_container(named("web")).await.expect("it runs").into_inner();
                if top
                    .processes
                    .iter()
                    .any(|process| process.fields[7].contains("sleep 600"))
                {
                    break;
                }
            }
        };
        tokio::time::timeout(DEADLINE, listing)
            .await
            .expect("the command is listed");
        let request = StatsContainersRequest {
            containers: vec!["web".into()],
            stream: false,
        };
        let mut stats = client.stats_containers(request).await.expect("it runs").into_inner();
        let stats = stats.message().await.expect("readable").expect("one answer");
        let stats: ContainerStats = gantry_api::decode(&stats.items[0], kind::CONTAINER_STATS).expect("stats");
        assert!(
            stats.pids >= 1 && stats.memory_usage > 0 && stats.memory_limit > 0,
            "{stats:?}"
        );

        let frozen = client.pause_container(named("web")).await.expect("frozen");
        assert_eq!(container(frozen.get_ref()).state.status, ContainerStatus::Paused);
        client.unpause_container(named("web")).await.expect("thawed");

        let request = CommitContainerRequest {
            container: "web".into(),
            reference: "web:snapshot".into(),
            changes: vec![r#"CMD ["cat", "/data/made"]"#.into()],
            pause: true,
            ..CommitContainerRequest::default()
        };
        client.commit_container(request).await.expect("committed");
        let mut snapshot = spec("snapshot", &[]);
        snapshot.container.image = "web:snapshot".into();
        snapshot.container.command = None;
        snapshot.auto_remove = true;
        assert_eq!(attached(&mut client, &snapshot, b"").await.0, "made\n");
        let images = client.list_images(Empty {}).await.expect("listed").into_inner();
        let images: Vec<LocalImage> = images
            .items
            .iter()
            .map(|document| gantry_api::decode(document, kind::LOCAL_IMAGE).expect("an image"))
            .collect();
        assert_eq!(images.len(), 2);
        assert!(images.iter().any(|image| image.users == 1), "{images:?}");

        let waiting = WaitContainerRequest {
            container: started.id.to_string(),
            until: Until::NextExit.into(),
        };
        let mut waiter = client.clone();
        let waiting = tokio::spawn(async move { waiter.wait_container(waiting).await });
        remove(&mut client, "web").await;
        let code = waiting
            .await
            .expect("no crash")
            .expect("it ended")
            .into_inner()
            .exit_code;
        assert_eq!(code, 137);
        assert!(log.message().await.expect("readable").is_none(), "the log ends with it");
        agent.stop().await;
    });
}

/// Not a test of a figure: it prints one. Run it with `--ignored --nocapture` in a quiet machine.
#[test]
#[ignore = "measures"]
fn measure_an_attached_run() {
    apart(|| async {
        let host = Host::new("measure").await;
        let agent = host.start();
        host.with_image().await;
        let mut client = engine(&host);
        let mut times = Vec::new();
        for round in 0..60 {
            let once = RunSpec {
                auto_remove: true,
                name: None,
                ..spec("x", &["true"])
            };
            let begun = System.monotonic();
            assert_eq!(attached(&mut client, &once, b"").await.2, 0);
            if round >= 10 {
                times.push((System.monotonic() - begun).0);
            }
        }
        times.sort_unstable();
        println!("attached runs: median {} ms, p90 {} ms", times[25], times[45]);
        agent.stop().await;
    });
}
