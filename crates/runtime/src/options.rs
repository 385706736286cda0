//! Mount options as `mount(8)`, Docker and the OCI runtime specification write them.

use gantry_shim::plan::{AttributePlan, IdmapPlan, PropagationPlan, SharingPlan};
use gantry_sys::mount::attribute::{
    ATIME, NO_ATIME, NO_DEV, NO_DIR_ATIME, NO_EXEC, NO_SUID, NO_SYMLINK_FOLLOW, READ_ONLY, STRICT_ATIME,
};

/// What a list of options asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// Attributes of the mount itself.
    pub attributes: AttributePlan,
    /// Attributes of the mount and of those below it (`rro`, `rnosuid`…).
    pub recursive_attributes: AttributePlan,
    /// How later mounts are shared.
    pub propagation: Option<PropagationPlan>,
    /// A bind (`bind`, `rbind`): none, itself, or also what is mounted below.
    pub bind: Option<BindDepth>,
    /// A memory file system that is first filled with what the image has at the target (`tmpcopyup`).
    pub copy_up: bool,
    /// Ids are mapped (`idmap`, `ridmap`); the ranges come from elsewhere.
    pub idmap: Option<IdmapPlan>,
    /// Everything else, for the file system itself.
    pub data: Vec<(String, Option<String>)>,
}

/// What a bind binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BindDepth {
    /// The mount itself.
    Single,
    /// Also what is mounted below.
    Recursive,
}

/// Name, bits to clear, bits to set.
const ATTRIBUTES: &[(&str, u64, u64)] = &[
    ("ro", 0, READ_ONLY),
    ("rw", READ_ONLY, 0),
    ("nosuid", 0, NO_SUID),
    ("suid", NO_SUID, 0),
    ("nodev", 0, NO_DEV),
    ("dev", NO_DEV, 0),
    ("noexec", 0, NO_EXEC),
    ("exec", NO_EXEC, 0),
    ("noatime", ATIME, NO_ATIME),
    ("atime", NO_ATIME, 0),
    ("relatime", ATIME, 0),
    ("norelatime", 0, 0),
    ("strictatime", ATIME, STRICT_ATIME),
    ("nostrictatime", STRICT_ATIME, 0),
    ("nodiratime", 0, NO_DIR_ATIME),
    ("diratime", NO_DIR_ATIME, 0),
    ("nosymfollow", 0, NO_SYMLINK_FOLLOW),
    ("symfollow", NO_SYMLINK_FOLLOW, 0),
];

const SHARING: &[(&str, SharingPlan)] = &[
    ("private", SharingPlan::Private),
    ("slave", SharingPlan::Slave),
    ("shared", SharingPlan::Shared),
    ("unbindable", SharingPlan::Unbindable),
];

impl MountOptions {
    /// Reads a list. What is not known here is left to the file system, which refuses what it does not know either.
    #[must_use]
    pub fn parse<'a>(options: impl IntoIterator<Item = &'a str>) -> Self {
        let mut parsed = Self::default();
        for option in options {
            parsed.add(option);
        }
        parsed
    }

    fn add(&mut self, option: &str) {
        let sharing = |name: &str| {
            SHARING
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, sharing)| *sharing)
        };
        let recursive = option.strip_prefix('r');
        match option {
            // Not options of the kernel's: what mount(8) does with its table.
            "" | "defaults" | "nofail" | "auto" | "noauto" | "user" | "nouser" => {}
            "bind" => self.bind = Some(BindDepth::Single),
            "rbind" => self.bind = Some(BindDepth::Recursive),
            "tmpcopyup" => self.copy_up = true,
            "idmap" | "ridmap" => {
                self.idmap = Some(IdmapPlan {
                    ranges: None,
                    recursive: option == "ridmap",
                });
            }
            _ => {
                if let Some((_, clear, set)) = attribute(option) {
                    apply(&mut self.attributes, clear, set);
                } else if let Some((_, clear, set)) = recursive.and_then(attribute) {
                    apply(&mut self.recursive_attributes, clear, set);
                } else if let Some(sharing) = sharing(option) {
                    self.propagation = Some(PropagationPlan {
                        sharing,
                        recursive: false,
                    });
                } else if let Some(sharing) = recursive.and_then(sharing) {
                    self.propagation = Some(PropagationPlan {
                        sharing,
                        recursive: true,
                    });
                } else {
                    let (key, value) = match option.split_once('=') {
                        Some((key, value)) => (key, Some(value.to_string())),
                        None => (option, None),
                    };
                    self.data.push((key.to_string(), value));
                }
            }
        }
    }
}

fn attribute(name: &str) -> Option<(&'static str, u64, u64)> {
    ATTRIBUTES.iter().find(|(known, ..)| *known == name).copied()
}

/// The later option wins.
fn apply(plan: &mut AttributePlan, clear: u64, set: u64) {
    plan.set = plan.set & !clear | set;
    plan.clear = plan.clear & !set | clear;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_attributes_sharing_and_data() {
        let parsed = MountOptions::parse(["rbind", "ro", "rro", "nosuid", "suid", "rslave", "size=64k", "noswap"]);
        assert_eq!(parsed.bind, Some(BindDepth::Recursive));
        assert_eq!((parsed.attributes.set, parsed.attributes.clear), (READ_ONLY, NO_SUID));
        assert_eq!(parsed.recursive_attributes, AttributePlan::setting(READ_ONLY));
        let slave = PropagationPlan {
            sharing: SharingPlan::Slave,
            recursive: true,
        };
        assert_eq!(parsed.propagation, Some(slave));
        let data = [
            ("size".to_string(), Some("64k".to_string())),
            ("noswap".to_string(), None),
        ];
        assert_eq!(parsed.data, data);
    }

    #[test]
    fn the_later_option_wins() {
        let parsed = MountOptions::parse(["noatime", "strictatime", "ro", "rw"]);
        assert_eq!(parsed.attributes.set, STRICT_ATIME);
        assert_eq!(parsed.attributes.clear & READ_ONLY, READ_ONLY);
        let relatime = MountOptions::parse(["noatime", "relatime"]);
        assert_eq!((relatime.attributes.set, relatime.attributes.clear), (0, ATIME));
        assert_eq!(
            MountOptions::parse(["ridmap"]).idmap.map(|idmap| idmap.recursive),
            Some(true)
        );
    }
}
