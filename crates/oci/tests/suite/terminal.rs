//! Terminals: given away over a console socket, or passed through.

use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use gantry_sys::socket;
use nix::pty::openpty;
use serde_json::json;

use crate::support::{Lab, PROGRAM};

fn receive(listener: &UnixListener) -> OwnedFd {
    let (connection, _) = listener.accept().expect("a connection");
    let mut name = [0; 256];
    let (_, fds) = socket::receive(&connection, &mut name).expect("a message");
    fds.into_iter().next().expect("a descriptor")
}

/// Everything until the other side is gone, which a terminal says with an error.
fn read_all(master: OwnedFd) -> String {
    let mut file = std::fs::File::from(master);
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(length @ 1..) = file.read(&mut buffer) {
        text.extend(&buffer[..length]);
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn the_console_socket_gets_the_terminal() {
    let Some(lab) = Lab::new() else { return };
    let path = lab.path("console.sock");
    let listener = UnixListener::bind(&path).expect("binds");
    let bundle = lab.bundle(
        "term",
        "tty; stty size; test -t 0 && echo terminal; ls -l /dev/console",
        |config| {
            config["process"]["terminal"] = json!(true);
            config["process"]["consoleSize"] = json!({"height": 33, "width": 99});
        },
    );
    let create = [
        "create".as_ref(),
        "--bundle".as_ref(),
        bundle.as_os_str(),
        "--console-socket".as_ref(),
    ];
    lab.succeed(create.into_iter().chain([path.as_os_str(), "term".as_ref()]));
    let master = receive(&listener);
    lab.succeed(["start", "term"]);
    let text = read_all(master);
    assert!(
        text.contains("/dev/pts/0") && text.contains("33 99") && text.contains("terminal"),
        "{text}"
    );
    assert!(text.contains("/dev/console"), "{text}");
}

#[test]
fn an_exec_has_a_terminal_of_its_own() {
    let Some(lab) = Lab::new() else { return };
    lab.create("main", "sleep 1000", |_| {});
    lab.succeed(["start", "main"]);
    let path = lab.path("console.sock");
    let listener = UnixListener::bind(&path).expect("binds");
    let exec = [
        "exec".as_ref(),
        "--detach".as_ref(),
        "--tty".as_ref(),
        "--console-socket".as_ref(),
        path.as_os_str(),
    ];
    let command = ["main", "sh", "-c", "tty; echo done"].map(str::as_ref);
    lab.succeed(exec.into_iter().chain(command));
    let text = read_all(receive(&listener));
    assert!(text.contains("/dev/pts/0") && text.contains("done"), "{text}");
}

#[test]
fn terminals_and_console_sockets_come_together_or_not_at_all() {
    let Some(lab) = Lab::new() else { return };
    let with = lab.bundle("with", "true", |config| config["process"]["terminal"] = json!(true));
    let said = lab.fail([
        "create".as_ref(),
        "--bundle".as_ref(),
        with.as_os_str(),
        "with".as_ref(),
    ]);
    assert!(said.contains("--console-socket"), "{said}");
    let without = lab.bundle("without", "true", |_| {});
    let create = [
        "create".as_ref(),
        "--bundle".as_ref(),
        without.as_os_str(),
        "--console-socket".as_ref(),
    ];
    let said = lab.fail(create.into_iter().chain(["/x".as_ref(), "without".as_ref()]));
    assert!(said.contains("without a terminal"), "{said}");
}

#[test]
fn run_passes_the_persons_terminal_through() {
    let Some(lab) = Lab::new() else { return };
    let bundle = lab.bundle("person", "stty size; read line; echo \"got $line\"; exit 4", |config| {
        config["process"]["terminal"] = json!(true);
    });
    let pair = openpty(
        Some(&nix::pty::Winsize {
            ws_row: 17,
            ws_col: 71,
            ws_xpixel: 0,
            ws_ypixel: 0,
        }),
        None,
    )
    .expect("a terminal");
    let side = || pair.slave.try_clone().expect("a copy");
    let mut child = lab
        .command([
            "run".as_ref(),
            "--bundle".as_ref(),
            bundle.as_os_str(),
            "person".as_ref(),
        ])
        .stdin(side())
        .stdout(side())
        .stderr(side())
        .spawn()
        .unwrap_or_else(|error| panic!("{PROGRAM}: {error}"));
    drop(pair.slave);
    nix::unistd::write(&pair.master, b"words\n").expect("types");
    assert!(pair.master.as_raw_fd() > 2 && Path::new(PROGRAM).exists());
    let text = read_all(pair.master);
    assert_eq!(child.wait().expect("ends").code(), Some(4), "{text}");
    assert!(text.contains("17 71") && text.contains("got words"), "{text}");
}
