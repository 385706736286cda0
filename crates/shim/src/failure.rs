//! What failed on the way to a running process: the act, its object, the kernel's answer.

use std::fmt;
use std::io;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

/// A failed step, as it travels from the container's first process to the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What was being done, such as `exec` or `mount`.
    pub act: String,
    /// To what, such as a path; may be empty.
    pub object: String,
    /// The kernel's error number, 0 when it was not the kernel that refused.
    pub errno: i32,
    /// Why, in words.
    pub reason: String,
}

impl Failure {
    /// A failure of the kernel's.
    pub(crate) fn new(act: &str, object: impl fmt::Display, errno: Errno) -> Self {
        Self {
            act: act.to_string(),
            object: object.to_string(),
            errno: errno as i32,
            reason: describe(errno),
        }
    }

    /// A failure that this program found itself.
    pub(crate) fn found(act: &str, object: impl fmt::Display, reason: impl fmt::Display) -> Self {
        Self {
            act: act.to_string(),
            object: object.to_string(),
            errno: 0,
            reason: reason.to_string(),
        }
    }

    /// What a shell would report: 127 when the program is not there, 126 when it cannot be executed, 125 otherwise.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match (self.act.as_str(), Errno::from_raw(self.errno)) {
            ("exec", Errno::ENOENT) => 127,
            ("exec", _) => 126,
            _ => 125,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.object.is_empty() {
            write!(formatter, "{}: {}", self.act, self.reason)
        } else {
            write!(formatter, "{} {}: {}", self.act, self.object, self.reason)
        }
    }
}

impl std::error::Error for Failure {}

/// The kernel's words in lower case, as messages here are.
fn describe(errno: Errno) -> String {
    let text = errno.desc();
    let mut letters = text.chars();
    match letters.next() {
        Some(first) if !letters.as_str().starts_with(|second: char| second.is_ascii_uppercase()) => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => text.to_string(),
    }
}

/// Says what was being done when a call failed.
pub(crate) trait During<T> {
    /// Names the act and its object.
    fn during(self, act: &str, object: impl fmt::Display) -> Result<T, Failure>;
}

impl<T> During<T> for Result<T, Errno> {
    fn during(self, act: &str, object: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|errno| Failure::new(act, object, errno))
    }
}

impl<T> During<T> for Result<T, io::Error> {
    fn during(self, act: &str, object: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|error| match error.raw_os_error() {
            Some(number) => Failure::new(act, object, Errno::from_raw(number)),
            None => Failure::found(act, object, error),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_read_as_a_shell_would_say() {
        let missing = Failure::new("exec", "/bin/foo", Errno::ENOENT);
        assert_eq!(missing.to_string(), "exec /bin/foo: no such file or directory");
        assert_eq!(missing.exit_code(), 127);
        assert_eq!(Failure::new("exec", "/etc/passwd", Errno::EACCES).exit_code(), 126);
        assert_eq!(Failure::new("mount", "/data", Errno::ENOENT).exit_code(), 125);
    }
}
