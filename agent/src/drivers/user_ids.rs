//! Ranges of the node's user ids for containers that have their own: no two the same, and each the same for as long as its
//! container is there, since files of its writable layer belong to them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use gantry_model::spec::UserNamespace;
use gantry_runtime::UserIds;

/// First id that is given: above those of people and of `/etc/subuid`, below those that systemd gives to machines by default
/// (`UIDRangeMax`, 1,879,048,191) would end.
const FIRST: u32 = 1 << 30;
/// First id that is not given any more.
const END: u32 = 7 << 28;
/// Ids of a range when the spec does not say, as in Docker and podman.
const COUNT_DEFAULT: u32 = 65_536;
/// The file of a container's range.
const FILE: &str = "user-ids";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct UserRanges {
    taken: Mutex<BTreeMap<u32, u32>>,
}

impl UserRanges {
    /// Takes over the ranges of all containers below a folder.
    pub(super) fn adopt(&self, folder: &Path) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if let Some(range) = read(&entry.path()) {
                taken.insert(range.first, range.count);
            }
        }
    }

    /// The range of a container: the one it had before, or a free one.
    pub(super) fn of(&self, userns: UserNamespace, folder: &Path) -> io::Result<Option<UserIds>> {
        let UserNamespace::Auto { size } = userns else {
            return Ok(None);
        };
        let count = size.unwrap_or(COUNT_DEFAULT).max(1);
        if let Some(range) = read(folder).filter(|range| range.count == count) {
            return Ok(Some(range));
        }
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let first = free(&taken, count).ok_or_else(|| io::Error::other("no range of user ids is free"))?;
        fs::create_dir_all(folder)?;
        fs::write(folder.join(FILE), format!("{first} {count}\n"))?;
        taken.insert(first, count);
        Ok(Some(UserIds { first, count }))
    }

    /// The container is gone, with all that belonged to its ids.
    pub(super) fn release(&self, folder: &Path) {
        if let Some(range) = read(folder) {
            self.taken
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&range.first);
        }
    }
}

fn read(folder: &Path) -> Option<UserIds> {
    let text = fs::read_to_string(folder.join(FILE)).ok()?;
    let (first, count) = text.trim().split_once(' ')?;
    Some(UserIds {
        first: first.parse().ok()?,
        count: count.parse().ok()?,
    })
}

/// The first gap that is wide enough.
fn free(taken: &BTreeMap<u32, u32>, count: u32) -> Option<u32> {
    let mut first = FIRST;
    for (start, length) in taken {
        if start.checked_sub(first).is_some_and(|gap| gap >= count) {
            break;
        }
        first = first.max(start.saturating_add(*length));
    }
    (END.checked_sub(first)? >= count).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTO: UserNamespace = UserNamespace::Auto { size: None };

    #[test]
    fn ranges_never_overlap_and_stay_with_their_container() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let ranges = UserRanges::default();
        let of =
            |ranges: &UserRanges, name: &str, userns| ranges.of(userns, &at(name)).expect("made").map(|ids| ids.first);
        assert_eq!(of(&ranges, "none", UserNamespace::Node), None);
        let first = of(&ranges, "a", AUTO);
        assert_eq!(first, Some(FIRST));
        assert_eq!(
            of(&ranges, "b", UserNamespace::Auto { size: Some(10) }),
            Some(FIRST + COUNT_DEFAULT)
        );
        assert_eq!(of(&ranges, "a", AUTO), first, "after a restart in place");

        let next = UserRanges::default();
        next.adopt(folder.path());
        assert_eq!(of(&next, "c", AUTO), Some(FIRST + COUNT_DEFAULT + 10));
        next.release(&at("a"));
        fs::remove_dir_all(at("a")).expect("removed");
        assert_eq!(of(&next, "d", AUTO), Some(FIRST), "the gap is used again");
    }
}
