//! An ingress on the loopback, replicas that can be scripted, and clients that write every byte themselves.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gantry_env::System;
use gantry_ingress::{Certificates, Config, Ingress, Limits, Report, Table};
use gantry_model::assignment::{Endpoint, ServiceIngress, ServiceItem};
use gantry_model::object::Slot;
use gantry_model::spec::IngressRule;
use gantry_model::{NodeId, ReplicaId, ServiceId};
use tokio::runtime::Runtime;

/// Nothing here takes so long unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What a replica saw and how many connections it has.
#[derive(Default)]
pub struct Seen {
    pub requests: Mutex<Vec<String>>,
    pub open: AtomicUsize,
    /// Requests that it has yet to break off.
    pub breaks: AtomicUsize,
}

/// A replica: `127.0.0.N` at the port that all share.
pub struct Replica {
    pub seen: Arc<Seen>,
}

impl Replica {
    pub fn count(&self) -> usize {
        self.seen.requests.lock().expect("no test panics with it").len()
    }

    pub fn heads(&self) -> Vec<String> {
        self.seen.requests.lock().expect("no test panics with it").clone()
    }
}

pub fn address(id: u64) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, u8::try_from(id).expect("few replicas"))
}

/// Replicas 1 to `count`, all at one port.
pub fn replicas(count: u64) -> (u16, Vec<Replica>) {
    loop {
        let first = TcpListener::bind((address(1), 0)).expect("the loopback has ports");
        let port = first.local_addr().expect("bound").port();
        let others: io::Result<Vec<_>> = (2..=count).map(|id| TcpListener::bind((address(id), port))).collect();
        // Somebody else may have the port there.
        let Ok(others) = others else { continue };
        let listeners = std::iter::once(first).chain(others);
        let replicas = (1..).zip(listeners).map(|(id, listener)| {
            let seen = Arc::new(Seen::default());
            let own = Arc::clone(&seen);
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let Ok(stream) = stream else { return };
                    let seen = Arc::clone(&own);
                    std::thread::spawn(move || {
                        seen.open.fetch_add(1, Ordering::SeqCst);
                        // It ends with its client.
                        let _ = talk(id, stream, &seen);
                        seen.open.fetch_sub(1, Ordering::SeqCst);
                    });
                }
            });
            Replica { seen }
        });
        return (port, replicas.collect());
    }
}

fn talk(id: u64, stream: TcpStream, seen: &Seen) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let Some(head) = read_head(&mut reader)? else {
            return Ok(());
        };
        let body = read_body(&mut reader, &head)?;
        let path = head.split(' ').nth(1).unwrap_or_default().to_string();
        seen.requests
            .lock()
            .expect("no test panics with it")
            .push(format!("{head}{}", String::from_utf8_lossy(&body)));
        let wants_break = seen.breaks.load(Ordering::SeqCst) > 0;
        if wants_break {
            seen.breaks.fetch_sub(1, Ordering::SeqCst);
            return Ok(());
        }
        match path.split_once('?').map_or(path.as_str(), |(path, _)| path) {
            "/slow" => std::thread::sleep(Duration::from_millis(700)),
            "/never" => std::thread::sleep(PATIENCE),
            "/switch" => {
                writer.write_all(
                    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
                )?;
                let mut buffer = [0; 64];
                loop {
                    let count = reader.read(&mut buffer)?;
                    if count == 0 {
                        return Ok(());
                    }
                    writer.write_all(buffer.get(..count).unwrap_or_default())?;
                }
            }
            _ => {}
        }
        let text = format!("replica {id}");
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nkeep-alive: timeout=5\r\nx-from: {id}\r\n\r\n{text}",
            text.len()
        );
        let without_body = answer.len() - text.len();
        let sent = if head.starts_with("HEAD ") {
            answer.get(..without_body)
        } else {
            Some(answer.as_str())
        };
        writer.write_all(sent.unwrap_or_default().as_bytes())?;
        if path == "/close" {
            return Ok(());
        }
    }
}

/// Up to and with the empty line; none at the end.
pub fn read_head(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut head = String::new();
    loop {
        let before = head.len();
        if reader.read_line(&mut head)? == 0 {
            return Ok(None);
        }
        if head.len() - before <= 2 {
            return Ok(Some(head));
        }
    }
}

pub fn header(head: &str, name: &str) -> Option<String> {
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    let mut found = lines.filter(|(key, _)| key.eq_ignore_ascii_case(name));
    found.next().map(|(_, value)| value.to_string())
}

pub fn read_body(reader: &mut impl BufRead, head: &str) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if header(head, "transfer-encoding").is_some() {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let size = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk)?;
            if size == 0 {
                return Ok(body);
            }
            body.extend_from_slice(chunk.get(..size).unwrap_or_default());
        }
    }
    let length = header(head, "content-length")
        .and_then(|length| length.parse().ok())
        .unwrap_or(0);
    body.resize(length, 0);
    reader.read_exact(&mut body)?;
    Ok(body)
}

/// The ingress under test.
pub struct Rig {
    pub runtime: Runtime,
    pub ingress: Ingress,
}

impl Rig {
    pub fn new(change: impl FnOnce(&mut Config)) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut config = Config {
            http: Some(any),
            https: Some(any),
            workers: 2,
            limits: Limits::default(),
            ..Config::default()
        };
        change(&mut config);
        Self {
            runtime: Runtime::new().expect("a runtime"),
            ingress: Ingress::new(config, Arc::new(System)).expect("an ingress"),
        }
    }

    pub fn apply(&self, services: &[ServiceItem]) {
        self.apply_with(services, Certificates::default());
    }

    pub fn apply_with(&self, services: &[ServiceItem], certificates: Certificates) {
        let applied = self.ingress.apply(Table::of(services), certificates);
        self.runtime.block_on(applied).expect("the workers are there");
    }

    pub fn report(&self) -> Report {
        self.ingress.report()
    }

    pub fn http(&self) -> SocketAddr {
        self.report().http.expect("it listens").parse().expect("an address")
    }

    pub fn https(&self) -> SocketAddr {
        self.report().https.expect("it listens").parse().expect("an address")
    }

    pub fn client(&self) -> Client {
        Client::connect(self.http())
    }

    /// One request on a connection of its own.
    pub fn get(&self, host: &str, path: &str) -> (u16, String) {
        let answer = self
            .client()
            .ask(&format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n"));
        let answer = answer.expect("an answer");
        (answer.status, answer.body)
    }
}

/// A service with these rules and replicas.
pub fn service(rules: Vec<IngressRule>, replicas: &[u64]) -> ServiceItem {
    let endpoint = |id: &u64| Endpoint {
        replica: ReplicaId(*id),
        node: NodeId(1),
        address: address(*id),
        slot: Slot::Index(1),
    };
    let mut service: ServiceItem = serde_json::from_value(serde_json::json!({
        "id": ServiceId(1), "namespace": "shop", "name": "web", "endpoint_mode": "vip",
    }))
    .expect("a service");
    service.endpoints = replicas.iter().map(endpoint).collect();
    service.ingress = Some(ServiceIngress { rules, split: None });
    service
}

pub fn rule(host: &str, path: &str, port: u16) -> IngressRule {
    let (host, path) = (host.parse().expect("a host"), path.parse().expect("a path"));
    IngressRule::new(host, path, Some(port))
}

/// A client's connection.
pub struct Client {
    pub reader: BufReader<TcpStream>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the ingress listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("an option");
        Self {
            reader: BufReader::new(stream),
        }
    }

    pub fn send(&mut self, bytes: &str) {
        // A server that has refused may have closed already.
        let _ = self.reader.get_mut().write_all(bytes.as_bytes());
    }

    /// Sends and reads the answer; none when the connection ends instead.
    pub fn ask(&mut self, request: &str) -> Option<Answer> {
        self.send(request);
        self.answer(request.starts_with("HEAD"))
    }

    pub fn answer(&mut self, is_head: bool) -> Option<Answer> {
        let head = match read_head(&mut self.reader) {
            Ok(head) => head?,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                panic!("no answer in time")
            }
            Err(_) => return None,
        };
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .expect("a status");
        let body = if is_head || status == 101 {
            Vec::new()
        } else {
            read_body(&mut self.reader, &head).ok()?
        };
        Some(Answer {
            status,
            head,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }

    /// Whether the server ends the connection without another byte.
    pub fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        match self.reader.read(&mut byte) {
            Ok(count) => count == 0,
            Err(error) => !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
        }
    }
}

/// Waits until a condition holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let pause = Duration::from_millis(5);
    for _ in 0..PATIENCE.as_millis() / pause.as_millis() {
        if holds() {
            return;
        }
        std::thread::sleep(pause);
    }
    panic!("{what}: not in time");
}
