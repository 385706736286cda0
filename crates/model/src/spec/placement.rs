//! Where replicas may and should run.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

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
}

/// A soft rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preference {
    /// Evenly over the values of a node attribute; nodes without it form a group of their own.
    Spread(ConstraintKey),
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
         node.platform.arch, node.labels.KEY or engine.labels.KEY"
    )]
    Key(String),
    /// There is no `==` or `!=`.
    #[error("'{0}' is not a constraint: write ATTRIBUTE==VALUE or ATTRIBUTE!=VALUE")]
    Operator(String),
    /// Nothing to compare with.
    #[error("constraint '{0}' has no value")]
    Value(String),
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

/// Equal or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConstraintOp {
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
}

/// A hard rule such as `node.labels.disk==ssd`; values are compared without regard to case, as in Swarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraint {
    /// The attribute of the node.
    pub key: ConstraintKey,
    /// How it is compared.
    pub op: ConstraintOp,
    /// What it is compared with.
    pub value: String,
}

impl fmt::Display for Constraint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let op = match self.op {
            ConstraintOp::Equal => "==",
            ConstraintOp::NotEqual => "!=",
        };
        write!(formatter, "{}{op}{}", self.key, self.value)
    }
}

impl FromStr for Constraint {
    type Err = PlacementError;

    fn from_str(text: &str) -> Result<Self, PlacementError> {
        let split = |op: &str| {
            text.split_once(op)
                .map(|(key, value)| (key.trim().to_string(), value.trim().to_string()))
        };
        let (op, (key, value)) = match (split("=="), split("!=")) {
            (Some(parts), _) => (ConstraintOp::Equal, parts),
            (None, Some(parts)) => (ConstraintOp::NotEqual, parts),
            (None, None) => return Err(PlacementError::Operator(text.to_string())),
        };
        if value.is_empty() {
            return Err(PlacementError::Value(text.to_string()));
        }
        Ok(Self {
            key: key.parse()?,
            op,
            value,
        })
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
        ] {
            assert!(text.parse::<Constraint>().is_err(), "{text}");
        }
    }
}
