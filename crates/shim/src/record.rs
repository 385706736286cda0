//! The records in the bundle: who runs, and how it ended. Written whole or not at all.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::failure::During;

/// Socket of the shim, in the bundle.
pub const SOCKET_FILE: &str = "shim.sock";
/// [`StateRecord`], in the bundle.
pub const STATE_FILE: &str = "state.json";
/// [`ExitRecord`], in the bundle.
pub const EXIT_FILE: &str = "exit.json";
/// Socket of a container that is held and has no shim, in the bundle: it starts when told so over a connection.
pub const START_SOCKET_FILE: &str = "start.sock";
/// What the shim itself has to say, in the bundle.
pub const SHIM_LOG_FILE: &str = "shim.log";

/// Who runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateRecord {
    /// The container's first process.
    pub pid: i32,
    /// The shim; 0 when there is none.
    pub shim_pid: i32,
    /// When it executed its program or, held, when it was set up: milliseconds since the Unix epoch.
    pub started_at_ms: u64,
    /// When its process was made, in clock ticks since boot: tells it from a later one with the same id.
    pub born_ticks: u64,
    /// It waits to be started.
    pub is_held: bool,
}

/// When a process was made, in clock ticks since boot; none when there is no such process, or only what is left of it for its
/// parent.
#[must_use]
pub fn born_ticks(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Name in parentheses, which may hold anything; then state as field 3 and start as field 22 (`proc_pid_stat(5)`).
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let is_dead = matches!(fields.next()?, "Z" | "X" | "x");
    if is_dead { None } else { fields.nth(18)?.parse().ok() }
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// Exit status, or 128 plus the signal's number.
    pub code: i32,
    /// The kernel killed a process of it for lack of memory.
    pub oom_killed: bool,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
}

/// Replaces a file durably: whoever reads it sees the old content or the new, also after a power cut.
pub(crate) fn write_durably(folder: &Path, name: &str, record: &impl Serialize) -> Result<(), Failure> {
    let path = folder.join(name);
    let shown = path.display();
    let fresh = folder.join(format!("{name}.new"));
    let text = serde_json::to_vec(record).map_err(|error| Failure::found("encode", &shown, error))?;
    let mut file = File::create(&fresh).during("create", fresh.display())?;
    file.write_all(&text).during("write", fresh.display())?;
    file.sync_all().during("sync", fresh.display())?;
    fs::rename(&fresh, &path).during("rename", &shown)?;
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .during("sync", folder.display())
}

/// Replaces a file that is only of use while the machine stays up.
pub(crate) fn write(folder: &Path, name: &str, record: &impl Serialize) -> Result<(), Failure> {
    let path = folder.join(name);
    let fresh = folder.join(format!("{name}.new"));
    let text = serde_json::to_vec(record).map_err(|error| Failure::found("encode", path.display(), error))?;
    fs::write(&fresh, text).during("write", fresh.display())?;
    fs::rename(&fresh, &path).during("rename", path.display())
}

/// Seconds and nanoseconds since the Unix epoch. The shim stamps what it records by itself: it is a program of its own, never
/// part of a simulation, and `gantry-env` would cost it a tenth of its size.
pub(crate) fn wall_clock() -> (i64, u32) {
    let now = clock_gettime(ClockId::CLOCK_REALTIME).unwrap_or(nix::sys::time::TimeSpec::new(0, 0));
    (now.tv_sec(), u32::try_from(now.tv_nsec()).unwrap_or(0))
}

/// Milliseconds since the Unix epoch.
pub(crate) fn wall_clock_ms() -> u64 {
    let (seconds, nanoseconds) = wall_clock();
    u64::try_from(seconds).unwrap_or(0) * 1000 + u64::from(nanoseconds / 1_000_000)
}
