//! Which namespaces a container has of its own, and how its user ids map to the node's.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Every kind. The mount namespace is always the container's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespacesPlan {
    /// Processes.
    pub pid: NamespacePlan,
    /// Network; a new one has nothing but a loopback, which is brought up.
    pub network: NamespacePlan,
    /// System V and POSIX memory and queues.
    pub ipc: NamespacePlan,
    /// Host and domain name.
    pub uts: NamespacePlan,
    /// The view of control groups.
    pub cgroup: NamespacePlan,
    /// Monotonic and boot-time clocks.
    pub time: NamespacePlan,
    /// What a new time namespace adds to the clocks.
    pub time_offsets: Vec<TimeOffset>,
    /// User ids and what privileges mean.
    pub user: UserNamespacePlan,
}

/// One namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamespacePlan {
    /// That of the node.
    #[default]
    Host,
    /// One of its own.
    New,
    /// The one behind this file.
    Path(PathBuf),
}

/// An offset of a clock (`time_namespaces(7)`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeOffset {
    /// `monotonic` or `boottime`.
    pub clock: String,
    /// Seconds.
    pub seconds: i64,
    /// Nanoseconds.
    pub nanoseconds: u32,
}

/// The user namespace.
///
/// A new one owns the container's new network, ipc and uts namespaces; the pid and control group namespaces stay the node's,
/// which only shows to a container that may mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserNamespacePlan {
    /// That of the node: root inside is root outside, with the capabilities left to it.
    #[default]
    Host,
    /// One of its own with these ids.
    New(IdRanges),
    /// The one behind this file; the ranges are those that it has.
    Path {
        /// The file.
        path: PathBuf,
        /// Its ids.
        ranges: IdRanges,
    },
}

impl UserNamespacePlan {
    /// The ids of a namespace that is not the node's.
    #[must_use]
    pub fn ranges(&self) -> Option<&IdRanges> {
        match self {
            Self::Host => None,
            Self::New(ranges) | Self::Path { ranges, .. } => Some(ranges),
        }
    }
}

/// How ids inside map to ids of the node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRanges {
    /// User ids.
    pub uids: Vec<IdRange>,
    /// Group ids.
    pub gids: Vec<IdRange>,
}

impl IdRanges {
    /// `count` ids from 0 on, which are those from `first` on of the node, for users and groups alike.
    #[must_use]
    pub fn of(first: u32, count: u32) -> Self {
        let range = IdRange {
            inside: 0,
            outside: first,
            count,
        };
        Self {
            uids: vec![range],
            gids: vec![range],
        }
    }

    /// The node's user id for one inside; none when it has none.
    #[must_use]
    pub fn uid_outside(&self, inside: u32) -> Option<u32> {
        self.uids.iter().find_map(|range| range.outside_of(inside))
    }

    /// The node's group id for one inside; none when it has none.
    #[must_use]
    pub fn gid_outside(&self, inside: u32) -> Option<u32> {
        self.gids.iter().find_map(|range| range.outside_of(inside))
    }

    /// The user id inside for one of the node; none when it has none.
    #[must_use]
    pub fn uid_inside(&self, outside: u32) -> Option<u32> {
        self.uids.iter().find_map(|range| range.inside_of(outside))
    }

    /// The group id inside for one of the node; none when it has none.
    #[must_use]
    pub fn gid_inside(&self, outside: u32) -> Option<u32> {
        self.gids.iter().find_map(|range| range.inside_of(outside))
    }
}

/// Consecutive ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The first inside.
    pub inside: u32,
    /// The first on the node.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

impl IdRange {
    fn outside_of(self, inside: u32) -> Option<u32> {
        let offset = inside.checked_sub(self.inside)?;
        (offset < self.count).then(|| self.outside.checked_add(offset))?
    }

    fn inside_of(self, outside: u32) -> Option<u32> {
        let offset = outside.checked_sub(self.outside)?;
        (offset < self.count).then(|| self.inside.checked_add(offset))?
    }

    /// The line of `/proc/PID/uid_map` (`user_namespaces(7)`).
    pub(crate) fn line(self) -> String {
        format!("{} {} {}\n", self.inside, self.outside, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_map_both_ways_and_not_past_their_range() {
        let ranges = IdRanges::of(100_000, 65_536);
        assert_eq!(ranges.uid_outside(0), Some(100_000));
        assert_eq!(ranges.gid_outside(65_535), Some(165_535));
        assert_eq!(ranges.uid_outside(65_536), None);
        assert_eq!(ranges.uid_inside(100_033), Some(33));
        assert_eq!(ranges.gid_inside(99_999), None);
        assert_eq!(ranges.gid_inside(0), None);
        let odd = IdRange {
            inside: 0,
            outside: u32::MAX,
            count: 2,
        };
        assert_eq!((odd.outside_of(0), odd.outside_of(1)), (Some(u32::MAX), None));
    }
}
