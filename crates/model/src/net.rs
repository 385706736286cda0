//! IPv4 networks as data: parsing, membership, the n-th address, the n-th subnet.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A network such as `10.128.3.0/24`; the host bits are zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ipv4Net {
    base: u32,
    prefix: u8,
}

/// A text that is not a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not an IPv4 network: write address/prefix with zero host bits, such as 10.128.0.0/10")]
pub struct NetError {
    text: String,
}

impl Ipv4Net {
    /// A network from its first address and its prefix length in bits (0 to 32); host bits are cleared.
    #[must_use]
    pub fn new(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        Self {
            base: u32::from(address) & mask(prefix),
            prefix,
        }
    }

    /// The first address.
    #[must_use]
    pub fn base(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base)
    }

    /// The prefix length in bits.
    #[must_use]
    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    /// How many addresses it holds.
    #[must_use]
    pub const fn size(self) -> u64 {
        1 << (32 - self.prefix)
    }

    /// Whether the address lies inside.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix) == self.base
    }

    /// The address at `index` (0 is the network's own), or none past the end.
    #[must_use]
    pub fn address(self, index: u64) -> Option<Ipv4Addr> {
        (index < self.size()).then(|| Ipv4Addr::from(self.base + index as u32))
    }

    /// The subnet number `index` of length `prefix`, or none past the end.
    #[must_use]
    pub fn subnet(self, prefix: u8, index: u64) -> Option<Self> {
        if prefix < self.prefix || prefix > 32 || index >= 1u64 << (prefix - self.prefix) {
            return None;
        }
        let size = 1u64 << (32 - prefix);
        Some(Self {
            base: self.base + (index * size) as u32,
            prefix,
        })
    }
}

fn mask(prefix: u8) -> u32 {
    if prefix == 0 { 0 } else { u32::MAX << (32 - prefix) }
}

impl fmt::Display for Ipv4Net {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.base(), self.prefix)
    }
}

impl fmt::Debug for Ipv4Net {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self}")
    }
}

impl FromStr for Ipv4Net {
    type Err = NetError;

    fn from_str(text: &str) -> Result<Self, NetError> {
        let error = || NetError { text: text.to_string() };
        let (address, prefix) = text.split_once('/').ok_or_else(error)?;
        let address: Ipv4Addr = address.parse().map_err(|_| error())?;
        let prefix: u8 = prefix.parse().map_err(|_| error())?;
        let net = Self::new(address, prefix);
        if prefix <= 32 && net.base() == address {
            Ok(net)
        } else {
            Err(error())
        }
    }
}

impl Serialize for Ipv4Net {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Ipv4Net {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_cut_into_subnets() {
        let pool: Ipv4Net = "10.128.0.0/10".parse().expect("a valid network");
        assert_eq!(
            pool.subnet(24, 1).map(|net| net.to_string()).as_deref(),
            Some("10.128.1.0/24")
        );
        assert_eq!(
            pool.subnet(24, 16_383).map(|net| net.to_string()).as_deref(),
            Some("10.191.255.0/24")
        );
        assert_eq!(pool.subnet(24, 16_384), None);
        assert_eq!(pool.address(5), Some(Ipv4Addr::new(10, 128, 0, 5)));
        assert!(pool.contains(Ipv4Addr::new(10, 191, 1, 1)) && !pool.contains(Ipv4Addr::new(10, 192, 0, 0)));
    }

    #[test]
    fn host_bits_are_refused() {
        for text in ["10.0.0.1/24", "10.0.0.0", "10.0.0.0/33", "x/8"] {
            assert!(text.parse::<Ipv4Net>().is_err(), "{text}");
        }
    }
}
