//! Rules in the order somebody gave them, brought to what a kernel holds: a default and its exceptions.
//!
//! The order matters as in version 1: a rule for everything forgets those before it; any other adds to or takes away from the
//! exceptions. Taking away a part of a wider rule cannot be held by version 1, which ignores it silently; here it is an error
//! in either version, so that nobody believes a device to be shut that is open.

use std::collections::BTreeMap;

use super::{Access, DeviceKind, DeviceRule};

type Key = (DeviceKind, Option<u32>, Option<u32>);

/// A rule that would punch a hole into a wider one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "rule '{rule}' takes away a part of '{wider}', which no kernel can hold: leave out the wider rule, or list what is wanted"
)]
pub struct Hole {
    /// What was to be taken away.
    pub rule: DeviceRule,
    /// From what.
    pub wider: DeviceRule,
}

/// Which devices may be used; by default none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DevicePolicy {
    allows_by_default: bool,
    /// What is not as by default.
    exceptions: BTreeMap<Key, Access>,
}

impl DevicePolicy {
    /// Everything may be used.
    #[must_use]
    pub const fn everything() -> Self {
        Self {
            allows_by_default: true,
            exceptions: BTreeMap::new(),
        }
    }

    /// Nothing may be used.
    #[must_use]
    pub const fn nothing() -> Self {
        Self {
            allows_by_default: false,
            exceptions: BTreeMap::new(),
        }
    }

    /// Nothing but these.
    #[must_use]
    pub fn only(rules: &[DeviceRule]) -> Self {
        Self::from_list(rules.iter().copied())
    }

    /// As version 1 lists a group: what is allowed, one wildcard when that is everything.
    pub(crate) fn from_list(rules: impl Iterator<Item = DeviceRule>) -> Self {
        let mut policy = Self::nothing();
        for rule in rules {
            if rule.kind == DeviceKind::Any {
                policy = Self::everything();
            } else if !policy.allows_by_default {
                policy.add(rule);
            }
        }
        policy
    }

    /// The next rule in order; `allowed` says which way it goes. A rule of [`DeviceKind::Any`] is for everything, whatever
    /// its numbers and access, as in the kernel.
    ///
    /// # Errors
    /// When it takes away a part of a wider rule.
    pub fn then(mut self, rule: DeviceRule, allowed: bool) -> Result<Self, Hole> {
        if rule.kind == DeviceKind::Any {
            return Ok(if allowed { Self::everything() } else { Self::nothing() });
        }
        if allowed == self.allows_by_default {
            self.take_away(rule)?;
        } else {
            self.add(rule);
        }
        Ok(self)
    }

    /// Whether what no exception names may be used.
    #[must_use]
    pub const fn allows_by_default(&self) -> bool {
        self.allows_by_default
    }

    /// Devices that are not as by default.
    pub fn exceptions(&self) -> impl Iterator<Item = DeviceRule> {
        self.exceptions.iter().map(|((kind, major, minor), access)| DeviceRule {
            kind: *kind,
            major: *major,
            minor: *minor,
            access: *access,
        })
    }

    fn add(&mut self, rule: DeviceRule) {
        let access = self
            .exceptions
            .entry((rule.kind, rule.major, rule.minor))
            .or_insert(Access::NONE);
        *access = access.with(rule.access);
    }

    fn take_away(&mut self, rule: DeviceRule) -> Result<(), Hole> {
        let key = (rule.kind, rule.major, rule.minor);
        let wider = [
            (rule.kind, None, rule.minor),
            (rule.kind, rule.major, None),
            (rule.kind, None, None),
        ];
        for (kind, major, minor) in wider.into_iter().filter(|wider| *wider != key) {
            let access = self
                .exceptions
                .get(&(kind, major, minor))
                .copied()
                .unwrap_or(Access::NONE);
            if access.meets(rule.access) {
                let wider = DeviceRule {
                    kind,
                    major,
                    minor,
                    access,
                };
                return Err(Hole { rule, wider });
            }
        }
        if let Some(access) = self.exceptions.get_mut(&key) {
            *access = access.without(rule.access);
            if *access == Access::NONE {
                self.exceptions.remove(&key);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(rules: &[(&str, bool)]) -> Result<DevicePolicy, Hole> {
        rules
            .iter()
            .try_fold(DevicePolicy::everything(), |policy, (text, allowed)| {
                policy.then(DeviceRule::parse(text).expect("rule"), *allowed)
            })
    }

    fn shown(rules: &[(&str, bool)]) -> (bool, Vec<String>) {
        let policy = policy(rules).expect("no hole");
        (
            policy.allows_by_default(),
            policy.exceptions().map(|rule| rule.to_string()).collect(),
        )
    }

    #[test]
    fn a_rule_for_everything_forgets_those_before() {
        assert_eq!(shown(&[("c 1:3 r", false), ("a", false)]), (false, vec![]));
        assert_eq!(
            shown(&[("a", false), ("c 1:3 r", true), ("a *:* rwm", true)]),
            (true, vec![])
        );
    }

    #[test]
    fn access_adds_up_and_is_taken_away() {
        let rules = [("a", false), ("c 1:3 r", true), ("c 1:3 w", true), ("b 8:0 rwm", true)];
        assert_eq!(
            shown(&rules),
            (false, vec!["b 8:0 rwm".to_string(), "c 1:3 rw".to_string()])
        );
        let less = [&rules[..], &[("c 1:3 w", false), ("b 8:0 rwm", false)]].concat();
        assert_eq!(shown(&less), (false, vec!["c 1:3 r".to_string()]));
        assert_eq!(shown(&[("c 1:3 r", false), ("c 1:3 r", true)]), (true, vec![]));
    }

    #[test]
    fn a_hole_in_a_wider_rule_is_refused_only_when_it_would_be_one() {
        let docker = [("a", false), ("c *:* m", true), ("b *:* m", true)];
        let hole = policy(&[&docker[..], &[("c 10:229 rwm", false)]].concat()).expect_err("a hole");
        assert_eq!(hole.wider.to_string(), "c *:* m");
        assert!(policy(&[&docker[..], &[("c 10:229 rw", false)]].concat()).is_ok());
        assert!(policy(&[&docker[..], &[("c *:* m", false)]].concat()).is_ok());
    }
}
