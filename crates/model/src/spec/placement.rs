//! Where replicas may and should run.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Name;

/// Placement rules of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// All must hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<Constraint>,
    /// Spread evenly, the first preference before the second.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub preferences: Vec<Preference>,
    /// At most so many replicas of the service on one node; 0 is unlimited.
    #[serde(default)]
    pub max_replicas_per_node: u32,
    /// How nodes are filled; the cluster's way when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// Wishes about nodes, each with its weight.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub affinities: Vec<Affinity>,
    /// Rules and wishes about other services of the namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub neighbours: Vec<Neighbour>,
    /// Taints of nodes that do not keep it away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// When room is short, higher goes first and may displace lower.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: i32,
    /// What the node of a slot's named volumes means for its next replica.
    #[serde(default, skip_serializing_if = "VolumeRule::is_default")]
    pub volumes: VolumeRule,
    /// So many of its replicas, and no more, may be away at a time for the cluster's own reasons.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<Amount>,
}

/// A number of replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Amount {
    /// So many.
    Count(u32),
    /// So many of a hundred, rounded down.
    Percent(u32),
}

impl Amount {
    /// How many that is of `replicas`.
    #[must_use]
    pub const fn of(self, replicas: u32) -> u32 {
        match self {
            Self::Count(count) => count,
            Self::Percent(percent) => (replicas as u64 * percent as u64 / 100) as u32,
        }
    }
}

impl FromStr for Amount {
    type Err = PlacementError;

    fn from_str(text: &str) -> Result<Self, PlacementError> {
        let number = |digits: &str| digits.parse().map_err(|_| PlacementError::Amount(text.to_string()));
        match text.strip_suffix('%') {
            Some(percent) => match number(percent)? {
                percent @ 0..=100 => Ok(Self::Percent(percent)),
                _ => Err(PlacementError::Amount(text.to_string())),
            },
            None => number(text).map(Self::Count),
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(value: &i32) -> bool {
    *value == 0
}

/// Spread preferences of one service at most: region, zone, rack and node are four.
pub const PREFERENCES_MAX: usize = 4;

/// Highest priority, and the lowest with a minus.
pub const PRIORITY_MAX: i32 = 1000;

/// Largest weight of a wish, and the smallest with a minus, as in Nomad (`affinity`).
pub const WEIGHT_MAX: i32 = 100;

/// A soft rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preference {
    /// Evenly over the values of a node attribute; nodes without it form a group of their own.
    Spread(ConstraintKey),
    /// The same, and never further apart than so many replicas, even if that leaves some pending.
    Even {
        /// The attribute.
        by: ConstraintKey,
        /// Largest difference between two groups that have an eligible node; at least 1.
        max_skew: u32,
    },
}

impl Preference {
    /// The attribute whose values are the groups.
    #[must_use]
    pub const fn key(&self) -> &ConstraintKey {
        match self {
            Self::Spread(key) | Self::Even { by: key, .. } => key,
        }
    }

    /// The largest difference between two groups, when there is one.
    #[must_use]
    pub const fn max_skew(&self) -> Option<u32> {
        match self {
            Self::Spread(_) => None,
            Self::Even { max_skew, .. } => Some(*max_skew),
        }
    }
}

/// How nodes are filled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// The fullest node that still fits, so that others stay free for what is large. No more than a tenth of a service goes to
    /// one node while there is another.
    #[default]
    Binpack,
    /// The emptiest node, and replicas of the service as far apart as there are nodes.
    Spread,
}

impl fmt::Display for Strategy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Binpack => "binpack",
            Self::Spread => "spread",
        })
    }
}

impl FromStr for Strategy {
    type Err = PlacementError;

    fn from_str(text: &str) -> Result<Self, PlacementError> {
        match text {
            "binpack" => Ok(Self::Binpack),
            "spread" => Ok(Self::Spread),
            _ => Err(PlacementError::Strategy(text.to_string())),
        }
    }
}

/// A wish about nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affinity {
    /// The nodes meant.
    pub constraint: Constraint,
    /// How much they are preferred, −100 to 100; below zero they are avoided.
    pub weight: i32,
}

/// A rule or wish about the company of another service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// The other service, by its name in the same namespace.
    pub service: Name,
    /// How large the neighbourhood is: nodes with the same value of this attribute; the node alone when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<ConstraintKey>,
    /// What is wanted.
    pub rule: NeighbourRule,
}

/// What is wanted of a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NeighbourRule {
    /// There has to be one.
    With,
    /// There must be none.
    Apart,
    /// The neighbourhood is preferred by so much, −100 to 100; below zero it is avoided.
    Weight(i32),
}

/// What a taint keeps away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaintEffect {
    /// New replicas, if there is another node.
    PreferNoSchedule,
    /// New replicas.
    NoSchedule,
    /// New replicas, and those that run leave.
    NoExecute,
}

/// A mark on a node that keeps replicas away unless they tolerate it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Taint {
    /// Its name, such as `dedicated`.
    pub key: String,
    /// Its value, may be empty.
    pub value: String,
    /// What it keeps away.
    pub effect: TaintEffect,
}

impl fmt::Display for Taint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.value.as_str() {
            "" => formatter.write_str(&self.key),
            value => write!(formatter, "{}={value}", self.key),
        }
    }
}

/// A taint that does not keep a service away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Toleration {
    /// The taint's name; all taints when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The taint's value; any when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The taint's effect; any when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<TaintEffect>,
}

impl Toleration {
    /// Whether the taint is one of those tolerated.
    #[must_use]
    pub fn covers(&self, taint: &Taint) -> bool {
        self.key.as_ref().is_none_or(|key| *key == taint.key)
            && self.value.as_ref().is_none_or(|value| *value == taint.value)
            && self.effect.is_none_or(|effect| effect == taint.effect)
    }
}

/// What the node of a slot's named volumes means for its next replica.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeRule {
    /// That node is preferred.
    #[default]
    Prefer,
    /// That node or none.
    Stay,
    /// Nothing.
    Ignore,
}

impl VolumeRule {
    /// Whether it is the usual one.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What a constraint looks at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConstraintKey {
    /// `node.id`
    NodeId,
    /// `node.hostname`
    Hostname,
    /// `node.ip`, compared with an address or a network.
    Ip,
    /// `node.role`: `manager` on a machine that runs a server, else `worker`.
    Role,
    /// `node.platform.os`
    Os,
    /// `node.platform.arch`
    Arch,
    /// `node.kernel`: the kernel's release.
    Kernel,
    /// `node.labels.KEY`, set by `gantry node update`.
    NodeLabel(String),
    /// `engine.labels.KEY`, set by the agent's own configuration.
    EngineLabel(String),
}

impl fmt::Display for ConstraintKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NodeId => formatter.write_str("node.id"),
            Self::Hostname => formatter.write_str("node.hostname"),
            Self::Ip => formatter.write_str("node.ip"),
            Self::Role => formatter.write_str("node.role"),
            Self::Os => formatter.write_str("node.platform.os"),
            Self::Arch => formatter.write_str("node.platform.arch"),
            Self::Kernel => formatter.write_str("node.kernel"),
            Self::NodeLabel(key) => write!(formatter, "node.labels.{key}"),
            Self::EngineLabel(key) => write!(formatter, "engine.labels.{key}"),
        }
    }
}

/// A text that is not a constraint or a spread descriptor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// The attribute is unknown.
    #[error(
        "'{0}' is not a node attribute: use node.id, node.hostname, node.ip, node.role, node.platform.os, \
         node.platform.arch, node.kernel, node.labels.KEY or engine.labels.KEY"
    )]
    Key(String),
    /// There is no `==` or `!=`.
    #[error("'{0}' is not a constraint: write ATTRIBUTE==VALUE or ATTRIBUTE!=VALUE")]
    Operator(String),
    /// Nothing to compare with, or nothing that can be compared so.
    #[error("constraint '{0}' has no value that can be compared so")]
    Value(String),
    /// Neither a number nor a part of a hundred.
    #[error("'{0}' is not an amount: write a number such as 1, or a percentage such as 25%")]
    Amount(String),
    /// There is no such way of filling nodes.
    #[error("'{0}' is not a strategy: use binpack or spread")]
    Strategy(String),
}

impl FromStr for ConstraintKey {
    type Err = PlacementError;

    fn from_str(text: &str) -> Result<Self, PlacementError> {
        let lower = text.to_ascii_lowercase();
        let label = |prefix: &str| {
            let key = text.get(prefix.len()..).unwrap_or_default();
            (lower.starts_with(prefix) && !key.is_empty()).then(|| key.to_string())
        };
        match lower.as_str() {
            "node.id" => Ok(Self::NodeId),
            "node.hostname" => Ok(Self::Hostname),
            "node.ip" => Ok(Self::Ip),
            "node.role" => Ok(Self::Role),
            "node.platform.os" => Ok(Self::Os),
            "node.platform.arch" => Ok(Self::Arch),
            "node.kernel" => Ok(Self::Kernel),
            _ => label("node.labels.")
                .map(Self::NodeLabel)
                .or_else(|| label("engine.labels.").map(Self::EngineLabel))
                .ok_or_else(|| PlacementError::Key(text.to_string())),
        }
    }
}

impl Serialize for ConstraintKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ConstraintKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Which side of a bound a value has to be on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// `<`
    Below,
    /// `<=`
    AtMost,
    /// `>=`
    AtLeast,
    /// `>`
    Above,
}

impl Bound {
    const ALL: [(&str, Self); 4] = [
        ("<=", Self::AtMost),
        (">=", Self::AtLeast),
        ("<", Self::Below),
        (">", Self::Above),
    ];

    /// Whether a value that compares so with the bound is on the right side.
    #[must_use]
    pub const fn admits(self, order: Ordering) -> bool {
        match self {
            Self::Below => matches!(order, Ordering::Less),
            Self::AtMost => !matches!(order, Ordering::Greater),
            Self::AtLeast => !matches!(order, Ordering::Less),
            Self::Above => matches!(order, Ordering::Greater),
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Below => "<",
            Self::AtMost => "<=",
            Self::AtLeast => ">=",
            Self::Above => ">",
        }
    }
}

/// How an attribute is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConstraintOp {
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
    /// `in (a, b)`
    In,
    /// `not in (a, b)`
    NotIn,
    /// `exists`
    Exists,
    /// `missing`
    Missing,
    /// `>= 8`, as numbers; what is not a number is never on the right side.
    Number(Bound),
    /// `version >= 5.10`, part by part; what has no version is never on the right side.
    Version(Bound),
}

/// A hard rule such as `node.labels.disk==ssd`; values are compared without regard to case, as in Swarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraint {
    /// The attribute of the node.
    pub key: ConstraintKey,
    /// How it is compared.
    pub op: ConstraintOp,
    /// What it is compared with: one value, several with commas between, or nothing.
    pub value: String,
}

impl Constraint {
    /// The values it is compared with, one by one.
    pub fn values(&self) -> impl Iterator<Item = &str> {
        self.value.split(',').map(str::trim)
    }
}

impl fmt::Display for Constraint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, value, .. } = self;
        match self.op {
            ConstraintOp::Equal => write!(formatter, "{key}=={value}"),
            ConstraintOp::NotEqual => write!(formatter, "{key}!={value}"),
            ConstraintOp::In => write!(formatter, "{key} in ({})", value.replace(',', ", ")),
            ConstraintOp::NotIn => write!(formatter, "{key} not in ({})", value.replace(',', ", ")),
            ConstraintOp::Exists => write!(formatter, "{key} exists"),
            ConstraintOp::Missing => write!(formatter, "{key} missing"),
            ConstraintOp::Number(bound) => write!(formatter, "{key} {} {value}", bound.as_str()),
            ConstraintOp::Version(bound) => write!(formatter, "{key} version {} {value}", bound.as_str()),
        }
    }
}

/// A version as numbers: `5.10.0-30-amd64` is 5, 10, 0, 30; none when it does not start with one.
#[must_use]
pub fn version_parts(text: &str) -> Option<Vec<u64>> {
    let text = text.trim();
    let text = text.strip_prefix(['v', 'V']).unwrap_or(text);
    let mut parts = Vec::new();
    for part in text.split(['.', '-', '+', '_']) {
        let digits = part.bytes().take_while(u8::is_ascii_digit).count();
        match part[..digits].parse() {
            Ok(number) => parts.push(number),
            Err(_) => break,
        }
        if digits < part.len() {
            break;
        }
    }
    // 5.10 and 5.10.0 are one version.
    while parts.len() > 1 && parts.last() == Some(&0) {
        parts.pop();
    }
    (!parts.is_empty()).then_some(parts)
}

impl FromStr for Constraint {
    type Err = PlacementError;

    fn from_str(text: &str) -> Result<Self, PlacementError> {
        let (key, op, value) = split_constraint(text)?;
        let key: ConstraintKey = key.parse()?;
        let wants_value = !matches!(op, ConstraintOp::Exists | ConstraintOp::Missing);
        let readable = match op {
            ConstraintOp::Number(_) => value.parse::<f64>().is_ok_and(f64::is_finite),
            ConstraintOp::Version(_) => version_parts(&value).is_some(),
            ConstraintOp::Equal | ConstraintOp::NotEqual | ConstraintOp::In | ConstraintOp::NotIn => true,
            ConstraintOp::Exists | ConstraintOp::Missing => value.is_empty(),
        };
        if (wants_value && value.is_empty()) || !readable {
            return Err(PlacementError::Value(text.to_string()));
        }
        Ok(Self { key, op, value })
    }
}

/// Key, comparison and value of a written constraint.
fn split_constraint(text: &str) -> Result<(&str, ConstraintOp, String), PlacementError> {
    for (op, word) in [(ConstraintOp::Equal, "=="), (ConstraintOp::NotEqual, "!=")] {
        if let Some((key, value)) = text.split_once(word) {
            return Ok((key.trim(), op, value.trim().to_string()));
        }
    }
    for (word, bound) in Bound::ALL {
        if let Some((key, value)) = text.split_once(word) {
            let value = value.trim().to_string();
            return Ok(match key.trim().strip_suffix("version") {
                Some(rest) if rest.ends_with(' ') => (rest.trim(), ConstraintOp::Version(bound), value),
                Some(_) | None => (key.trim(), ConstraintOp::Number(bound), value),
            });
        }
    }
    let (key, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    let rest = rest.trim();
    let listed = |rest: &str| {
        let inner = rest.trim().strip_prefix('(')?.strip_suffix(')')?;
        let values: Vec<&str> = inner.split(',').map(str::trim).filter(|one| !one.is_empty()).collect();
        Some(values.join(","))
    };
    let in_list = rest.strip_prefix("in").and_then(listed);
    let not_in_list = rest
        .strip_prefix("not")
        .and_then(|rest| rest.trim_start().strip_prefix("in"))
        .and_then(listed);
    match (rest, in_list, not_in_list) {
        ("exists", ..) => Ok((key, ConstraintOp::Exists, String::new())),
        ("missing", ..) => Ok((key, ConstraintOp::Missing, String::new())),
        (_, Some(values), _) => Ok((key, ConstraintOp::In, values)),
        (_, _, Some(values)) => Ok((key, ConstraintOp::NotIn, values)),
        _ => Err(PlacementError::Operator(text.to_string())),
    }
}

impl Serialize for Constraint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Constraint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constraints_read_and_print() {
        for text in [
            "node.role==manager",
            "node.labels.disk!=ssd",
            "engine.labels.a.b==c",
            "node.platform.os==linux",
            "node.labels.disk in (ssd, nvme)",
            "node.labels.disk not in (hdd)",
            "node.labels.gpu exists",
            "engine.labels.old missing",
            "node.labels.cores >= 8",
            "node.labels.cores < 2.5",
            "node.kernel version >= 5.10",
            "node.labels.version > 3",
        ] {
            assert_eq!(text.parse::<Constraint>().map(|c| c.to_string()).as_deref(), Ok(text));
        }
        assert_eq!(
            "node.role == manager".parse::<Constraint>().map(|c| c.value),
            Ok("manager".to_string())
        );
        for text in [
            "node.role",
            "role==x",
            "node.labels.==x",
            "node.id==",
            "node.role=manager",
            "node.labels.a in ()",
            "node.labels.a in b",
            "node.labels.a exists b",
            "node.labels.a >= b",
            "node.kernel version >= new",
        ] {
            assert!(text.parse::<Constraint>().is_err(), "{text}");
        }
    }

    #[test]
    fn versions_are_numbers_in_a_row() {
        for (text, parts) in [
            ("5.10.0-30-amd64", Some(vec![5, 10, 0, 30])),
            ("v1.2.3", Some(vec![1, 2, 3])),
            ("6.1rc2", Some(vec![6, 1])),
            ("5.10", Some(vec![5, 10])),
            ("5.10.0", Some(vec![5, 10])),
            ("0", Some(vec![0])),
            ("new", None),
            ("", None),
        ] {
            assert_eq!(version_parts(text), parts, "{text}");
        }
    }

    #[test]
    fn a_toleration_covers_what_it_names() {
        let taint = Taint {
            key: "dedicated".to_string(),
            value: "gpu".to_string(),
            effect: TaintEffect::NoSchedule,
        };
        let toleration = |key: Option<&str>, value: Option<&str>, effect| Toleration {
            key: key.map(str::to_string),
            value: value.map(str::to_string),
            effect,
        };
        for (toleration, covers) in [
            (toleration(None, None, None), true),
            (toleration(Some("dedicated"), None, None), true),
            (
                toleration(Some("dedicated"), Some("gpu"), Some(TaintEffect::NoSchedule)),
                true,
            ),
            (toleration(Some("other"), None, None), false),
            (toleration(Some("dedicated"), Some("db"), None), false),
            (toleration(None, None, Some(TaintEffect::NoExecute)), false),
        ] {
            assert_eq!(toleration.covers(&taint), covers, "{toleration:?}");
        }
    }
}
