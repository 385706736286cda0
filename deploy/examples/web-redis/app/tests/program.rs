//! The program as a whole, against a Redis that answers when the test lets it. Uses loopback addresses of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Nothing here takes as long; what does has failed.
const DEADLINE: Duration = Duration::from_secs(20);

/// A Redis whose every command waits for the test: it comes out of `asked` and is answered by what goes into `answers`.
struct Redis {
    asked: Receiver<String>,
    answers: Sender<&'static str>,
}

impl Redis {
    fn listen(host: &str) -> Self {
        let listener = TcpListener::bind((host, 6379)).expect("a loopback address of its own");
        let (ask, asked) = channel();
        let (answers, next) = channel::<&'static str>();
        let next = std::sync::Arc::new(std::sync::Mutex::new(next));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (ask, next) = (ask.clone(), next.clone());
                std::thread::spawn(move || answer_all(stream, &ask, &next));
            }
        });
        Self { asked, answers }
    }

    fn wait_for(&self, command: &str) {
        let asked = self.asked.recv_timeout(DEADLINE).expect("a command");
        assert_eq!(asked, command);
    }
}

fn answer_all(stream: TcpStream, ask: &Sender<String>, next: &std::sync::Mutex<Receiver<&'static str>>) {
    let mut lines = BufReader::new(stream.try_clone().expect("a second handle")).lines();
    while let Some(Ok(header)) = lines.next() {
        let words: usize = header.trim_start_matches('*').parse().expect("a command");
        let mut words = (0..words).map(|_| lines.nth(1).expect("a word").expect("a word"));
        let command = words.next().expect("a command");
        words.for_each(drop);
        ask.send(command).expect("the test waits");
        let answer = next
            .lock()
            .expect("no panic")
            .recv_timeout(DEADLINE)
            .expect("an answer");
        (&stream).write_all(answer.as_bytes()).expect("the program waits");
    }
}

/// The server, killed when the test ends before it does.
struct Server {
    child: Child,
    log: BufReader<ChildStderr>,
    address: SocketAddr,
}

impl Server {
    fn start(redis: &str, address: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_web-redis"))
            .envs([
                ("REDIS_HOST", redis),
                ("LISTEN", address),
                ("VERSION", "v7"),
                ("REPLICA", "web.1"),
                ("NODE", "alpha"),
            ])
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let log = BufReader::new(child.stderr.take().expect("piped"));
        let mut server = Self {
            child,
            log,
            address: address.parse().expect("an address"),
        };
        server.wait_for_line("listens on");
        server
    }

    fn wait_for_line(&mut self, text: &str) {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert!(
                self.log.read_line(&mut line).expect("its log") > 0,
                "it ended before it said '{text}'"
            );
        }
    }

    fn begin(&self, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).expect("it listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        send(&mut stream, path);
        stream
    }

    fn terminate(&self) {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        kill(Pid::from_raw(pid), Signal::SIGTERM).expect("it runs");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended already unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn send(stream: &mut TcpStream, path: &str) {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").expect("it is open");
}

/// Reads one answer; true when the server announces that it closes the connection.
fn answer(stream: &mut TcpStream) -> (String, String, bool) {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        assert!(
            reader.read_line(&mut line).expect("an answer") > 0,
            "closed without an answer"
        );
        if line == "\r\n" {
            break;
        }
        head.push(line.trim().to_ascii_lowercase());
    }
    let field = |name: &str| head.iter().find_map(|line| line.strip_prefix(name).map(str::trim));
    let mut body = vec![0; field("content-length:").expect("a length").parse().expect("a number")];
    reader.read_exact(&mut body).expect("the body");
    let closes = field("connection:") == Some("close");
    (head[0].clone(), String::from_utf8(body).expect("text"), closes)
}

#[test]
fn the_page_tells_who_answered() {
    let redis = Redis::listen("127.77.0.1");
    let server = Server::start("127.77.0.1", "127.77.0.1:18080");
    let mut visit = server.begin("/");
    redis.wait_for("INCR");
    redis.answers.send(":12\r\n").expect("it asked");
    let (status, body, closes) = answer(&mut visit);
    assert!(status.contains("200") && !closes);
    assert_eq!(
        body,
        "{\"version\":\"v7\",\"replica\":\"web.1\",\"node\":\"alpha\",\"hits\":12}\n"
    );
    send(&mut visit, "/healthz");
    redis.wait_for("PING");
    redis.answers.send("-LOADING\r\n").expect("it asked");
    assert!(
        answer(&mut visit).0.contains("503"),
        "a Redis that is not ready is not well"
    );
    send(&mut visit, "/absent");
    assert!(answer(&mut visit).0.contains("404"));
}

#[test]
fn a_visit_outlasts_a_restart_of_redis() {
    let redis = Redis::listen("127.77.0.2");
    let server = Server::start("127.77.0.2", "127.77.0.2:18080");
    let mut visit = server.begin("/");
    for reply in ["-LOADING Redis is loading the dataset in memory\r\n", ":1\r\n"] {
        redis.wait_for("INCR");
        redis.answers.send(reply).expect("it asked");
    }
    assert!(answer(&mut visit).0.contains("200"));
}

#[test]
fn no_request_is_dropped_by_sigterm() {
    let redis = Redis::listen("127.77.0.3");
    let mut server = Server::start("127.77.0.3", "127.77.0.3:18080");
    let mut kept = server.begin("/absent");
    assert!(!answer(&mut kept).2, "a kept connection");
    let mut in_flight = server.begin("/");
    redis.wait_for("INCR");
    server.terminate();
    server.wait_for_line("draining");
    let mut late = server.begin("/");
    redis.wait_for("INCR");
    for _ in 0..2 {
        redis.answers.send(":1\r\n").expect("it asked");
    }
    for stream in [&mut in_flight, &mut late] {
        let (status, _, closes) = answer(stream);
        assert!(status.contains("200") && closes, "answered, and told to go elsewhere");
    }
    send(&mut kept, "/absent");
    assert!(answer(&mut kept).2, "an idle connection still gets its answer");
    assert!(server.child.wait().expect("it ends").success());
}

#[test]
fn the_load_generator_counts_what_fails() {
    let redis = Redis::listen("127.77.0.4");
    let server = Server::start("127.77.0.4", "127.77.0.4:18080");
    let load = |url: &str, keep_alive: bool| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_web-redis"));
        command.args([
            "load",
            "--url",
            url,
            "--seconds",
            "1",
            "--concurrency",
            "2",
            "--rate",
            "50",
        ]);
        if keep_alive {
            command.arg("--keep-alive");
        }
        let output = command.output().expect("it runs");
        (output.status.success(), String::from_utf8(output.stdout).expect("text"))
    };
    std::thread::spawn(
        move || {
            while redis.asked.recv().is_ok() && redis.answers.send(":1\r\n").is_ok() {}
        },
    );
    for keep_alive in [false, true] {
        let (success, report) = load(&format!("http://{}/", server.address), keep_alive);
        assert!(
            success && report.contains(r#""failures":0"#) && report.contains(r#""versions":{"v7":"#),
            "{report}"
        );
    }
    let (success, report) = load("http://127.77.0.4:18081/", false);
    assert!(
        !success && report.contains("refused") && !report.contains(r#""failures":0"#),
        "{report}"
    );
}
