//! Hosts in namespaces.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A set of hosts `h1`, `h2`… at `10.77.0.1`, `10.77.0.2`… on a network of their own.
#[derive(Debug)]
pub struct Lab {
    name: String,
}

/// What a command said.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Exit status; −1 if it was killed.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// A process on a host, by its id as this machine sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process(pub u32);

impl Answer {
    /// What a process left that has ended.
    #[must_use]
    pub fn of(output: &Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The standard output of a command that must have succeeded.
    ///
    /// # Panics
    /// When it failed.
    #[must_use]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "the command failed:\n{}{}", self.out, self.err);
        self.out
    }

    /// Standard error of a command that must have failed with `code`.
    ///
    /// # Panics
    /// When it ended otherwise.
    #[must_use]
    pub fn refused(self, code: i32) -> String {
        assert_eq!(
            self.code, code,
            "the command should fail with {code}:\n{}{}",
            self.out, self.err
        );
        self.err
    }
}

/// Where this checkout is, not where the test was built: checkouts may share a target folder.
fn script() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
    Path::new(&package).join("../deploy/lab")
}

impl Lab {
    /// Starts `count` hosts.
    ///
    /// # Panics
    /// When namespaces cannot be made: the tests need root.
    #[must_use]
    pub fn up(count: usize) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let lab = Self {
            name: format!("t{}x{number}", std::process::id()),
        };
        let _ = lab.run(&["up", &count.to_string()]).ok();
        lab
    }

    /// Its name, part of the names of everything it makes.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where a host keeps what survives its processes, as this machine sees it.
    #[must_use]
    pub fn folder(&self, host: &str) -> PathBuf {
        Path::new("/run/gantry-lab").join(&self.name).join(host)
    }

    /// The address of a host.
    #[must_use]
    pub fn address(host: &str) -> String {
        format!("10.77.0.{}", host.trim_start_matches('h'))
    }

    fn run(&self, arguments: &[&str]) -> Answer {
        let output = Command::new(script())
            .arg(&self.name)
            .args(arguments)
            .stdin(Stdio::null())
            .output();
        Answer::of(&output.expect("deploy/lab can be run"))
    }

    /// Runs a command on a host.
    #[must_use]
    pub fn exec(&self, host: &str, command: &[&str]) -> Answer {
        self.run(&[&["exec", host], command].concat())
    }

    /// A command on a host, to be configured further.
    #[must_use]
    pub fn command(&self, host: &str) -> Command {
        let mut command = Command::new(script());
        command.args([&self.name, "exec", host]);
        command
    }

    /// Starts a process on a host; its output goes to `LOG` in the host's folder.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn spawn(&self, host: &str, log: &str, command: &[&str]) -> Process {
        let log = self.folder(host).join(log);
        let log = log.to_string_lossy();
        let pid = self.run(&[&["spawn", host, &log], command].concat()).ok();
        Process(pid.trim().parse().expect("deploy/lab prints a process id"))
    }

    /// Takes a host off the network.
    pub fn cut(&self, host: &str) {
        let _ = self.run(&["cut", host]).ok();
    }

    /// Puts it back.
    pub fn heal(&self, host: &str) {
        let _ = self.run(&["heal", host]).ok();
    }

    /// Separates the hosts (`h1,h2`) from the rest.
    pub fn part(&self, hosts: &str) {
        let _ = self.run(&["part", hosts]).ok();
    }

    /// Ends the separation.
    pub fn unpart(&self) {
        let _ = self.run(&["unpart"]).ok();
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
        let down = self.run(&["down"]);
        if down.code != 0 {
            eprintln!("the lab {} is not quite gone: {}", self.name, down.err);
        }
    }
}

impl Lab {
    /// The end of every log, for a test that failed.
    fn show_logs(&self) {
        let Ok(hosts) = std::fs::read_dir(Path::new("/run/gantry-lab").join(&self.name)) else {
            return;
        };
        for host in hosts.flatten() {
            let Ok(files) = std::fs::read_dir(host.path()) else {
                continue;
            };
            let logs = files
                .flatten()
                .filter(|file| file.path().extension().is_some_and(|extension| extension == "log"));
            for log in logs {
                let text = std::fs::read_to_string(log.path()).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let tail = &lines[lines.len().saturating_sub(40)..];
                eprintln!("--- {} ---\n{}", log.path().display(), tail.join("\n"));
            }
        }
    }
}

impl Process {
    /// Whether it still runs.
    #[must_use]
    pub fn is_alive(self) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap_or_default();
        let state = status
            .rsplit(')')
            .next()
            .and_then(|rest| rest.split_whitespace().next());
        state.is_some_and(|state| state != "Z" && state != "X")
    }

    /// Sends a signal by name, such as `KILL`.
    pub fn signal(self, signal: &str) {
        let _ = Command::new("kill")
            .args([&format!("-{signal}"), &self.0.to_string()])
            .stderr(Stdio::null())
            .status();
    }

    /// Kills it as a power cut would, and waits until it is gone.
    pub fn kill(self) {
        self.signal("KILL");
        crate::until("a killed process is gone", || {
            if self.is_alive() {
                Err(format!("{self:?}"))
            } else {
                Ok(())
            }
        });
    }
}
