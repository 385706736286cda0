//! Which devices a group's processes may use: rules in version 1, a BPF program made from the same rules in version 2.

mod policy;
mod program;

use std::fmt;
use std::path::Path;

use gantry_sys::bpf::{attach_device_program, load_device_program};

pub use policy::{DevicePolicy, Hole};

use crate::CgroupError;
use crate::error::{read, write, write_lines};
use crate::group::At;

/// Kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeviceKind {
    /// Both kinds.
    Any,
    /// Block devices.
    Block,
    /// Character devices.
    Character,
}

/// What may be done with a device: bits of `linux/bpf.h`, `BPF_DEVCG_ACC_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Access(u32);

impl Access {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Making a node of it.
    pub const MAKE: Self = Self(1);
    /// Reading it.
    pub const READ: Self = Self(2);
    /// Writing it.
    pub const WRITE: Self = Self(4);
    /// All of it: making, reading and writing.
    pub const ALL: Self = Self(7);

    /// From letters in any order: `r` read, `w` write, `m` make; none when there is another letter.
    #[must_use]
    pub fn parse(letters: &str) -> Option<Self> {
        letters.chars().try_fold(Self::NONE, |access, letter| {
            Some(access.with(match letter {
                'r' => Self::READ,
                'w' => Self::WRITE,
                'm' => Self::MAKE,
                _ => return None,
            }))
        })
    }

    /// What either allows.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What `other` does not allow.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether anything is allowed by both.
    #[must_use]
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) const fn bits(self) -> u32 {
        self.0
    }

    fn letters(self) -> String {
        [(Self::READ, 'r'), (Self::WRITE, 'w'), (Self::MAKE, 'm')]
            .into_iter()
            .filter_map(|(access, letter)| self.meets(access).then_some(letter))
            .collect()
    }
}

/// Devices, and what may or may not be done with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceRule {
    /// Which kind.
    pub kind: DeviceKind,
    /// Major number; all when absent.
    pub major: Option<u32>,
    /// Minor number; all when absent.
    pub minor: Option<u32>,
    /// What.
    pub access: Access,
}

impl DeviceRule {
    /// All access to everything, as a privileged container has.
    pub const EVERYTHING: Self = Self {
        kind: DeviceKind::Any,
        major: None,
        minor: None,
        access: Access::ALL,
    };

    /// From what [`fmt::Display`] writes, which is how the kernel and Docker write a rule: `c 1:3 rwm`, `b *:* m`, `a`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split_whitespace();
        let kind = match fields.next()? {
            "a" => DeviceKind::Any,
            "b" => DeviceKind::Block,
            "c" => DeviceKind::Character,
            _ => return None,
        };
        let Some(numbers) = fields.next() else {
            return (kind == DeviceKind::Any).then_some(Self::EVERYTHING);
        };
        let number = |text: &str| match text {
            "*" => Some(None),
            number => number.parse().ok().map(Some),
        };
        let (major, minor) = numbers.split_once(':')?;
        let rule = Self {
            kind,
            major: number(major)?,
            minor: number(minor)?,
            access: Access::parse(fields.next()?)?,
        };
        fields.next().is_none().then_some(rule)
    }
}

impl fmt::Display for DeviceRule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            DeviceKind::Any => 'a',
            DeviceKind::Block => 'b',
            DeviceKind::Character => 'c',
        };
        let number = |number: Option<u32>| number.map_or_else(|| "*".to_string(), |number| number.to_string());
        let (major, minor) = (number(self.major), number(self.minor));
        write!(formatter, "{kind} {major}:{minor} {}", self.access.letters())
    }
}

pub(crate) fn apply(at: &At, policy: &DevicePolicy) -> Result<(), CgroupError> {
    match at {
        At::V2(group) => apply_v2(group, policy),
        At::V1(group) => apply_v1(group, policy),
    }
}

/// Only what differs is written: a running process never finds a device of its own forbidden for a moment, and a group with
/// groups below it, which cannot change its default, can still change the rest.
fn apply_v1(group: &Path, policy: &DevicePolicy) -> Result<(), CgroupError> {
    let listed = read(&group.join("devices.list"))?;
    let current = DevicePolicy::from_list(listed.lines().filter_map(DeviceRule::parse));
    let (to_default, to_exception) = if policy.allows_by_default() {
        ("devices.allow", "devices.deny")
    } else {
        ("devices.deny", "devices.allow")
    };
    let mut kept = Vec::new();
    // A group that allows by default does not list what it forbids, so its exceptions are written afresh.
    if policy.allows_by_default() || current.allows_by_default() {
        write(&group.join(to_default), "a")?;
    } else {
        let (same, other): (Vec<DeviceRule>, Vec<DeviceRule>) = current
            .exceptions()
            .partition(|rule| policy.exceptions().any(|wanted| wanted == *rule));
        write_each(&group.join(to_default), other)?;
        kept = same;
    }
    let missing = policy.exceptions().filter(|rule| !kept.contains(rule));
    write_each(&group.join(to_exception), missing)
}

/// The kernel takes one rule per write.
fn write_each(path: &Path, rules: impl IntoIterator<Item = DeviceRule>) -> Result<(), CgroupError> {
    let texts: Vec<String> = rules.into_iter().map(|rule| rule.to_string()).collect();
    write_lines(path, &texts)
}

fn apply_v2(group: &Path, policy: &DevicePolicy) -> Result<(), CgroupError> {
    let failed = |source: std::io::Error| CgroupError::DeviceProgram {
        path: group.to_path_buf(),
        source,
    };
    let folder = std::fs::File::open(group).map_err(failed)?;
    let program = load_device_program(&program::compile(policy)).map_err(|errno| failed(errno.into()))?;
    attach_device_program(&folder, &program).map_err(|errno| failed(errno.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_read_and_write_as_the_kernel_has_them() {
        for text in ["c *:* m", "c 1:3 rwm", "b 8:* rw", "a *:* rwm"] {
            let rule = DeviceRule::parse(text).expect("parses");
            assert_eq!(rule.to_string(), text);
        }
        assert_eq!(DeviceRule::parse("a"), Some(DeviceRule::EVERYTHING));
        assert_eq!(
            DeviceRule::parse("c 10:200 mr").map(|rule| rule.to_string()),
            Some("c 10:200 rm".to_string())
        );
        for text in ["", "c", "d 1:3 r", "c 1 r", "c 1:3 x", "c 1:3 r more", "c -1:3 r"] {
            assert_eq!(DeviceRule::parse(text), None, "{text}");
        }
    }
}
