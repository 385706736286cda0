//! How many replicas a service has, by what they use and by the clock.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::CronSchedule;
use crate::{ByteSize, MilliCpu};

/// Bounds and targets of a service that the cluster scales.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Autoscale {
    /// Never fewer replicas.
    pub min: u32,
    /// Never more; not below `min`.
    pub max: u32,
    /// Processor time that a replica should use on average.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<ScaleTarget<MilliCpu>>,
    /// Memory that a replica should use on average.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<ScaleTarget<ByteSize>>,
    /// Other bounds from a time on; the one whose time came last holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schedule: Vec<ScheduledBounds>,
}

/// What a replica should use on average.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaleTarget<T> {
    /// In percent of what it reserves; at least 1.
    Percent(u32),
    /// So much.
    Each(T),
}

/// Bounds from a time on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduledBounds {
    /// When they begin to hold.
    pub from: CronSchedule,
    /// Name of the time zone in the tz database.
    pub time_zone: String,
    /// Never fewer replicas.
    pub min: u32,
    /// Never more.
    pub max: u32,
}

/// What one replica uses, as its agent measured it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Processor time, on average since the last look.
    pub cpu: MilliCpu,
    /// Working set.
    pub memory: ByteSize,
}

impl Autoscale {
    /// Whether agents have to measure its replicas.
    #[must_use]
    pub const fn is_measured(&self) -> bool {
        self.cpu.is_some() || self.memory.is_some()
    }
}

impl<T: fmt::Display> fmt::Display for ScaleTarget<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(percent) => write!(formatter, "{percent} % of its reservation"),
            Self::Each(amount) => amount.fmt(formatter),
        }
    }
}

impl<T: FromStr> FromStr for ScaleTarget<T> {
    type Err = String;

    /// `70%`, or an amount.
    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("'{text}' is neither a share such as 70% nor an amount");
        match text.strip_suffix('%') {
            Some(percent) => match percent.trim().parse() {
                Ok(percent) if percent > 0 => Ok(Self::Percent(percent)),
                Ok(_) | Err(_) => Err(refused()),
            },
            None => text.parse().map(Self::Each).map_err(|_| refused()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_share_or_an_amount() {
        let cpu = |text: &str| text.parse::<ScaleTarget<MilliCpu>>();
        assert_eq!(cpu("70%"), Ok(ScaleTarget::Percent(70)));
        assert_eq!(cpu("150 %"), Ok(ScaleTarget::Percent(150)));
        assert_eq!(cpu("0.5"), Ok(ScaleTarget::Each(MilliCpu(500))));
        for text in ["0%", "-5%", "%", "much", ""] {
            assert!(cpu(text).is_err(), "{text}");
        }
        let memory = "300m".parse::<ScaleTarget<ByteSize>>();
        assert_eq!(memory, Ok(ScaleTarget::Each(ByteSize::mib(300))));
    }
}
